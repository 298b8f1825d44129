//! Which control plane to speak with, whom to believe, and what to prove oneself with.
//!
//! They come from `operator.json` in the home of a mesh, and each can be replaced by a flag or the environment. A token
//! from the file goes only to a server that the file's own CA vouches for.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::client::{Endpoint, Trusted};
use crate::failure::Failure;

/// The file in a home that `weft up` writes.
pub(crate) const OPERATOR_FILE: &str = "operator.json";
/// The home of a mesh in a working folder.
pub(crate) const LOCAL_HOME: &str = ".weft";
const FILE_BYTES_MAX: u64 = 1 << 20;
const START_ONE: &str = "start a mesh with `weft up`, say where the files of a running one are with --home or \
    WEFT_HOME, or give --server, --ca-file and WEFT_TOKEN";

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.trim().to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// `operator.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OperatorFile {
    pub(crate) server: String,
    /// Relative to the folder of this file.
    pub(crate) ca_file: PathBuf,
    pub(crate) token: Secret,
}

impl OperatorFile {
    /// Writes it into a home, readable by its owner only.
    pub(crate) fn write(&self, home: &Path) -> io::Result<()> {
        use std::io::Write;
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let (fresh, place) = (home.join(".operator.json.new"), home.join(OPERATOR_FILE));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = options.open(&fresh)?;
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &place)
    }
}

/// What flags and environment say; the rest comes from the home.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) home: PathBuf,
    pub(crate) server: Option<Endpoint>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) token: Option<Secret>,
}

/// Everything that a request needs.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) endpoint: Endpoint,
    pub(crate) trusted: Trusted,
    pub(crate) token: Secret,
}

impl Given {
    pub(crate) fn operator_file(&self) -> PathBuf {
        self.home.join(OPERATOR_FILE)
    }

    pub(crate) fn load(&self) -> Result<Credentials, Failure> {
        if let (Some(endpoint), Some(ca_file), Some(token)) = (&self.server, &self.ca_file, &self.token) {
            let trusted = read_ca(ca_file)?;
            return Ok(Credentials { endpoint: endpoint.clone(), trusted, token: token.clone() });
        }
        if self.ca_file.is_some() && self.token.is_none() {
            return Err(Failure::usage("--ca-file needs a token of its own")
                .because(
                    "the token in operator.json is only for the server that the CA beside it vouches for",
                )
                .then("give the token in WEFT_TOKEN"));
        }
        let path = self.operator_file();
        let file = read_operator_file(&path)?;
        let endpoint = match &self.server {
            Some(endpoint) => endpoint.clone(),
            None => file.server.parse().map_err(|why: String| {
                let name = path.display();
                Failure::failed(format!("the server in {name} cannot be used: {:?}", file.server))
                    .because(why)
            })?,
        };
        let beside = || path.with_file_name(&file.ca_file);
        let trusted = read_ca(&self.ca_file.clone().unwrap_or_else(beside))?;
        Ok(Credentials { endpoint, trusted, token: self.token.clone().unwrap_or(file.token) })
    }
}

/// The home that is meant: the one given, else the nearest `.weft` of `start` and the folders above it, else the one of
/// the user's data.
pub(crate) fn find_home(given: Option<&Path>, start: &Path, user_data: &Path) -> PathBuf {
    match given.filter(|given| !given.as_os_str().is_empty()) {
        Some(given) => given.to_owned(),
        None => {
            let local = start.ancestors().map(|folder| folder.join(LOCAL_HOME)).find(|home| home.is_dir());
            local.unwrap_or_else(|| user_data.to_owned())
        }
    }
}

/// `$XDG_DATA_HOME/weft`, or what stands for it.
pub(crate) fn user_data() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    // Without a home there is no folder that is the user's own, other than the one they are in.
    data.map_or_else(|| PathBuf::from(LOCAL_HOME), |data| data.join("weft"))
}

/// Reads the file, if nobody but its owner could.
pub(crate) fn read_operator_file(path: &Path) -> Result<OperatorFile, Failure> {
    let name = path.display();
    let file = fs::File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::failed(format!("no control plane is known: there is no {name}")).then(START_ONE)
        }
        _ => Failure::failed(format!("{name} cannot be read")).because(error),
    })?;
    check_private(path, &file)?;
    let text =
        read_text(file).map_err(|error| Failure::failed(format!("{name} cannot be read")).because(error))?;
    // The reader's own message could repeat the token.
    serde_json::from_str(&text).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Failure::failed(format!("{name} is not what `weft up` writes"))
            .because(format!("it should hold the texts server, caFile and token; reading stopped at {place}"))
            .then("restore the file, or start the mesh once more with `weft up`")
    })
}

#[cfg(unix)]
fn check_private(path: &Path, file: &fs::File) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    let name = path.display();
    let metadata =
        file.metadata().map_err(|error| Failure::failed(format!("{name} cannot be read")).because(error))?;
    let mode = metadata.permissions().mode() & 0o777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(Failure::refused(format!("{name} is open to other users, so it is not used"))
            .because(format!("its mode is {mode:03o}, and it holds a token that whoever reads it can use"))
            .then(format!(
                "chmod 600 {name} — and if others could have read it, revoke the token and make another"
            ))),
    }
}

#[cfg(not(unix))]
fn check_private(_: &Path, _: &fs::File) -> Result<(), Failure> {
    Ok(())
}

fn read_ca(path: &Path) -> Result<Trusted, Failure> {
    let failure = |why: String| {
        Failure::failed(format!("the CA file {} cannot be used", path.display())).because(why).then(
            "it must hold the root certificate of the mesh in PEM: `ca.pem` in the home of the control plane",
        )
    };
    let text = fs::File::open(path).and_then(read_text).map_err(|error| failure(error.to_string()))?;
    Trusted::read(text.as_bytes()).map_err(failure)
}

fn read_text(file: fs::File) -> io::Result<String> {
    let mut text = String::new();
    let mut file = file.take(FILE_BYTES_MAX + 1);
    file.read_to_string(&mut text)?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(io::Error::other(format!("it is longer than {FILE_BYTES_MAX} bytes"))),
        false => Ok(text),
    }
}

#[cfg(test)]
#[path = "tests/credentials.rs"]
mod tests;
