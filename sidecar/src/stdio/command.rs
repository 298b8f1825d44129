//! Commands that the bootstrap file has: what a container would have run itself, had the sidecar not taken its place.
//!
//! Such a command gets the environment that the container has, which was written for it, and starts in its folder. A
//! command of a resource is somebody else's, and gets neither.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use weft_proto::name::{EnvName, EnvValue};
use weft_proto::resource::bounded::{List, Map, Text, TextError};
use weft_proto::resource::kinds::{Location, Sandbox, Sharing, Stdio};

/// What of the sidecar's own environment a command of a resource gets. Whatever else is there may be secret.
const PASSED_ON: [&str; 13] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// What the sidecar's own settings begin with. They hold its file, and its file may hold a token.
const OWN_PREFIX: &[u8] = b"WEFT_";

/// Most arguments of a command.
const ARGS_MAX: usize = 256;

/// A command, as the bootstrap file has it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Command {
    /// The program, found through `PATH` if it has no slash.
    pub command: Text<4096>,
    #[serde(default)]
    pub args: List<Text<8192>, ARGS_MAX>,
    /// Besides the sidecar's own environment, and before it.
    #[serde(default)]
    pub env: Map<EnvName, EnvValue, 128>,
    /// The folder that it starts in: below the sidecar's own, which it is if not given.
    #[serde(default)]
    pub cwd: Option<Text<4096>>,
}

/// What a command finds of the sidecar's environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherited {
    /// What programs need to run at all.
    Little,
    /// Everything but the sidecar's own settings.
    Container,
}

impl Inherited {
    pub(super) fn variables(self) -> Vec<(OsString, OsString)> {
        self.of(std::env::vars_os())
    }

    fn of(self, all: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
        let is_passed_on = |name: &OsStr| match self {
            Self::Little => PASSED_ON.iter().any(|it| name == *it),
            Self::Container => !name.as_bytes().starts_with(OWN_PREFIX),
        };
        all.filter(|(name, _)| is_passed_on(name)).collect()
    }
}

/// Why words are no command.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    #[error("there is no word")]
    None,
    #[error("there are {0} words; at most {max} may follow the first", max = ARGS_MAX)]
    TooMany(usize),
    #[error("word {at}")]
    Word {
        /// Counted from 1.
        at: usize,
        #[source]
        source: TextError,
    },
}

/// Why a command cannot be a server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the bootstrap file has a command for it, and its resource says that it is elsewhere")]
    Elsewhere,
    #[error("the folder {} that its command starts in cannot be told of", .0.display())]
    Folder(PathBuf),
}

impl Command {
    /// The command that these words are, the program first.
    pub fn of_words(words: &[String]) -> Result<Self, WordsError> {
        let (program, args) = words.split_first().ok_or(WordsError::None)?;
        let word = |at| move |source| WordsError::Word { at, source };
        let command = Text::parse(program).map_err(word(1))?;
        let args = (2..).zip(args).map(|(at, arg)| Text::parse(arg).map_err(word(at)));
        let args = List::new(args.collect::<Result<_, _>>()?).ok_or(WordsError::TooMany(words.len()))?;
        Ok(Self { command, args, env: Map::default(), cwd: None })
    }

    /// The command as a server whose resource says this of where it is. How it is shared and what it may do stay what the
    /// resource says. `here` is the sidecar's own folder.
    pub fn instead_of(&self, location: &Location, here: &Path) -> Result<Stdio, Error> {
        let (sharing, sandbox) = match location {
            Location::Stdio(stdio) => (stdio.sharing, stdio.sandbox.clone()),
            Location::Workload(_) => (Sharing::default(), Sandbox::default()),
            Location::Endpoints(_) | Location::External(_) => return Err(Error::Elsewhere),
        };
        let folder = self.cwd.as_ref().map_or_else(|| here.to_owned(), |cwd| here.join(cwd.as_str()));
        let text = folder.to_str().and_then(|folder| Text::parse(folder).ok());
        Ok(Stdio {
            command: self.command.clone(),
            args: self.args.clone(),
            env: self.env.clone(),
            working_directory: Some(text.ok_or(Error::Folder(folder))?),
            sharing,
            sandbox,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: &str = "workload: { labels: { app: files } }";

    fn location(yaml: &str) -> Location {
        let spec = format!("{{ serviceAccount: a, {yaml} }}");
        serde_saphyr::from_str::<weft_proto::resource::kinds::McpServer>(&spec).unwrap().location
    }

    fn command(yaml: &str) -> Command {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn a_command_stands_for_a_workload_and_for_another_command() {
        let command = command("{ command: ./serve, args: [--stdio], env: { A: b }, cwd: app }");
        let stdio = command.instead_of(&location(WORKLOAD), Path::new("/srv")).unwrap();
        assert_eq!((stdio.command.as_str(), stdio.sharing), ("./serve", Sharing::Shared));
        assert_eq!(stdio.working_directory.unwrap().as_str(), "/srv/app");
        let other = "stdio: { command: other, args: [x], env: { C: d }, sharing: per-session }";
        let stdio = command.instead_of(&location(other), Path::new("/srv")).unwrap();
        assert_eq!((stdio.command.as_str(), stdio.sharing), ("./serve", Sharing::PerSession));
        assert_eq!(stdio.args.iter().map(Text::as_str).collect::<Vec<_>>(), ["--stdio"]);
        assert_eq!(stdio.env.len(), 1);
    }

    #[test]
    fn words_are_a_command_as_the_file_would_have_it() {
        let words = |words: &[&str]| {
            Command::of_words(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(words(&["npx", "-y", "$HOME"]).unwrap(), command("{ command: npx, args: [-y, $HOME] }"));
        assert_eq!(words(&[]).unwrap_err(), WordsError::None);
        assert_eq!(words(&["npx", ""]).unwrap_err(), WordsError::Word { at: 2, source: TextError::Empty });
        assert!(words(&["x"; 257]).is_ok());
        assert_eq!(words(&["x"; 258]).unwrap_err(), WordsError::TooMany(258));
    }

    #[test]
    fn a_command_is_no_server_that_is_elsewhere() {
        let elsewhere = location("external: { url: 'https://mcp.example/mcp' }");
        let refused = command("{ command: serve }").instead_of(&elsewhere, Path::new("/"));
        assert!(matches!(refused, Err(Error::Elsewhere)), "{refused:?}");
    }

    #[test]
    fn a_command_starts_where_the_sidecar_does_if_nothing_is_said() {
        let here = |yaml| {
            let stdio = command(yaml).instead_of(&location(WORKLOAD), Path::new("/srv")).unwrap();
            stdio.working_directory.unwrap().to_string()
        };
        assert_eq!(here("{ command: serve }"), "/srv");
        assert_eq!(here("{ command: serve, cwd: /opt }"), "/opt");
    }

    #[test]
    fn a_container_s_environment_passes_but_for_the_sidecar_s_own_settings() {
        let all = ["PATH", "API_KEY", "WEFT_SIDECAR_YAML", "WEFT_POD_IP", "weft"];
        let all = || all.iter().map(|name| (OsString::from(name), OsString::from("x")));
        let names = |it: Inherited| it.of(all()).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(Inherited::Container), ["PATH", "API_KEY", "weft"]);
        assert_eq!(names(Inherited::Little), ["PATH"]);
    }
}
