//! What a pod may say about its sidecar: one table of annotations, from which they are read and documented.
//!
//! Not here: whether there is to be a sidecar at all, which labels say (`choose`).

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use weft_proto::name::{Namespace, ObjectName};
use weft_proto::resource::bounded::Text;
use weft_proto::resource::units::Span;

use super::quantity::{self, Quantity};
use super::settings::{
    AccessLog, IMAGE_BYTES_MAX, Image, LOG_LEVEL_BYTES_MAX, LogLevel, PullPolicy, REVISION_BYTES_MAX,
    Resources, Settings,
};

/// What the names of Weft's labels and annotations begin with.
pub const PREFIX: &str = "weft.dev/";
/// Label of a namespace or pod that asks for sidecars, or forbids them.
pub const INJECT: &str = "weft.dev/inject";
/// Label of a namespace or pod that chooses among control planes.
pub const REVISION: &str = "weft.dev/revision";
/// Annotation in which what was put into a pod is recorded.
pub const STATUS: &str = "weft.dev/status";
/// Label of pods that have a sidecar; its value is the revision.
pub const SIDECAR: &str = "weft.dev/sidecar";

/// Servers of one pod.
pub const SERVERS_MAX: usize = 16;
/// Longest annotation that is looked at, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 << 10;
/// Words of a command after the first; the sidecar's own limit.
pub const COMMAND_WORDS_MAX: usize = 256;
/// Longest first word, in bytes.
const COMMAND_BYTES_MAX: usize = 4096;
/// Longest other word, in bytes.
const WORD_BYTES_MAX: usize = 8192;
/// Characters of a value that a message repeats.
const ECHO_CHARS_MAX: usize = 60;

/// What is wrong with an annotation or label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {why}")]
pub struct Mistake {
    pub name: String,
    pub why: String,
}

/// What a pod wants of its sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wishes {
    pub servers: Vec<ObjectName>,
    pub ports: Ports,
    pub stdio: Option<String>,
    pub stdio_command: Option<Vec<String>>,
    pub capture: bool,
    pub rewrite_probes: bool,
    pub native: bool,
    pub image: Image,
    pub image_pull_policy: Option<PullPolicy>,
    pub resources: Resources,
    pub log_level: LogLevel,
    pub access_log: AccessLog,
    pub drain: Span,
}

/// Where the servers of a pod listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    #[default]
    Unsaid,
    /// All of them at one port.
    One(u16),
    Each(BTreeMap<ObjectName, u16>),
}

impl Ports {
    /// Every port, once.
    pub fn all(&self) -> Vec<u16> {
        match self {
            Self::Unsaid => Vec::new(),
            Self::One(port) => vec![*port],
            Self::Each(ports) => {
                let mut all: Vec<_> = ports.values().copied().collect();
                all.sort_unstable();
                all.dedup();
                all
            }
        }
    }

    pub fn of(&self, server: &ObjectName) -> Option<u16> {
        match self {
            Self::Unsaid => None,
            Self::One(port) => Some(*port),
            Self::Each(ports) => ports.get(server).copied(),
        }
    }
}

/// An annotation: what it is called, how it is read, and what the reference says of it.
struct Entry {
    name: &'static str,
    values: &'static str,
    default: &'static str,
    limit: fn() -> String,
    means: &'static str,
    read: fn(&mut Wishes, &str) -> Result<(), String>,
}

fn no_limit() -> String {
    String::new()
}

fn quantity_limit() -> String {
    format!("{} characters", quantity::LEN_BYTES_MAX)
}

const ENTRIES: &[Entry] = &[
    Entry {
        name: "servers",
        values: "names of `McpServer`s of the pod's namespace, with commas between",
        default: "those whose `workload.labels` the pod carries",
        limit: || format!("{SERVERS_MAX} names"),
        means: "The servers that the pod is an instance of.",
        read: servers,
    },
    Entry {
        name: "port",
        values: "a port, or `<server>=<port>` with commas between",
        default: "what the `McpServer` says in `workload.port`",
        limit: || "1 to 65535, none of the sidecar's own".to_owned(),
        means: "Where the servers of `weft.dev/servers` listen: at `127.0.0.1` or `::1`, whichever answers. With \
                `weft.dev/capture` also the ports that are reached through the sidecar alone.",
        read: ports,
    },
    Entry {
        name: "stdio",
        values: "the name of a container",
        default: "",
        limit: no_limit,
        means: "The container's command speaks MCP over stdin and stdout. The sidecar is copied into it and becomes the \
                parent of the command; there is no container of its own. `weft.dev/servers` names the one server that \
                the command is. A reference to a variable of the container, `$(NAME)`, and `$$` for a dollar, are what \
                they are in every command of a container.",
        read: |wishes, text| {
            wishes.stdio = Some(container(text)?);
            Ok(())
        },
    },
    Entry {
        name: "stdio-command",
        values: "a JSON array of words, such as `[\"npx\", \"-y\", \"some-server\"]`",
        default: "the container's `command` and `args`",
        limit: || format!("{COMMAND_WORDS_MAX} words after the first, none of them empty"),
        means: "The command with its arguments, where the pod leaves it to the image, which is not known here.",
        read: |wishes, text| {
            wishes.stdio_command = Some(words(text)?);
            Ok(())
        },
    },
    Entry {
        name: "capture",
        values: "`enabled`, `disabled`",
        default: "`disabled`",
        limit: no_limit,
        means: "Whether the ports of `weft.dev/port` lead to the sidecar, whoever connects to them from outside of the \
                pod. Needs an init container with the capability `NET_ADMIN`, which the Pod Security Standards \
                `baseline` and `restricted` forbid; a server that listens on loopback alone needs no capture.",
        read: |wishes, text| switch(text).map(|on| wishes.capture = on),
    },
    Entry {
        name: "rewrite-probes",
        values: "`enabled`, `disabled`",
        default: "`enabled`",
        limit: no_limit,
        means: "Whether the HTTP, TCP and gRPC probes of the other containers are made by the sidecar, at the address \
                where they are answered. Must be enabled where ports are captured.",
        read: |wishes, text| switch(text).map(|on| wishes.rewrite_probes = on),
    },
    Entry {
        name: "native",
        values: "`enabled`, `disabled`",
        default: "`enabled` where the cluster has native sidecars: Kubernetes 1.29 and later",
        limit: no_limit,
        means: "Whether the sidecar is a native one, which starts before the other containers, also the init containers, \
                and ends after them. If not, it is the first of the containers; told to end when they are, it takes no \
                calls for them any more, and those that they make until for 5 s they have had no connection to it; and \
                pods that are to end by themselves get none.",
        read: |wishes, text| switch(text).map(|on| wishes.native = on),
    },
    Entry {
        name: "image",
        values: "a reference to an image",
        default: "the control plane's setting `image`",
        limit: || format!("{IMAGE_BYTES_MAX} characters"),
        means: "The sidecar's image.",
        read: |wishes, text| Image::parse(text).map(|image| wishes.image = image),
    },
    Entry {
        name: "image-pull-policy",
        values: "`Always`, `IfNotPresent`, `Never`",
        default: "the control plane's setting `imagePullPolicy`, or what Kubernetes takes",
        limit: no_limit,
        means: "When a node fetches the sidecar's image.",
        read: |wishes, text| PullPolicy::parse(text).map(|policy| wishes.image_pull_policy = Some(policy)),
    },
    Entry {
        name: "cpu-request",
        values: "an amount such as `50m` or `0.5`",
        default: "the control plane's setting `resources.cpuRequest`: 50m if not given",
        limit: quantity_limit,
        means: "Processors that the sidecar asks for.",
        read: |wishes, text| amount(text).map(|it| wishes.resources.cpu_request = it),
    },
    Entry {
        name: "memory-request",
        values: "an amount such as `64Mi`",
        default: "the control plane's setting `resources.memoryRequest`: 64Mi if not given",
        limit: quantity_limit,
        means: "Memory that the sidecar asks for.",
        read: |wishes, text| amount(text).map(|it| wishes.resources.memory_request = it),
    },
    Entry {
        name: "cpu-limit",
        values: "an amount such as `2`",
        default: "the control plane's setting `resources.cpuLimit`: none if not given",
        limit: quantity_limit,
        means: "Processors that the sidecar may use. It starts as many threads for traffic.",
        read: |wishes, text| amount(text).map(|it| wishes.resources.cpu_limit = Some(it)),
    },
    Entry {
        name: "memory-limit",
        values: "an amount such as `256Mi`",
        default: "the control plane's setting `resources.memoryLimit`: none if not given",
        limit: quantity_limit,
        means: "Memory that the sidecar may use.",
        read: |wishes, text| amount(text).map(|it| wishes.resources.memory_limit = Some(it)),
    },
    Entry {
        name: "log-level",
        values: "`off`, `error`, `warn`, `info`, `debug`, `trace`, also per module: `info,weft_sidecar::control=debug`",
        default: "the control plane's setting `logLevel`: `info` if not given",
        limit: || format!("{LOG_LEVEL_BYTES_MAX} characters"),
        means: "What the sidecar logs.",
        read: |wishes, text| LogLevel::parse(text).map(|level| wishes.log_level = level),
    },
    Entry {
        name: "access-log",
        values: "`stdout`, `off`",
        default: "the control plane's setting `accessLog`: `stdout` if not given",
        limit: no_limit,
        means: "Where the access log goes.",
        read: |wishes, text| AccessLog::parse(text).map(|log| wishes.access_log = log),
    },
    Entry {
        name: "drain",
        values: "a duration such as `20s`",
        default: "the control plane's setting `drainTimeout`: 20s if not given",
        limit: || "the pod's `terminationGracePeriodSeconds` less 10 s, and at least 1 s".to_owned(),
        means: "Longest that a sidecar which is to end waits for what is in flight.",
        read: |wishes, text| {
            let span = Span::parse(text).map_err(|error| error.to_string())?;
            wishes.drain = span;
            Ok(())
        },
    },
];

impl Wishes {
    /// What holds for pods that say nothing.
    fn without_words(settings: &Settings) -> Self {
        Self {
            servers: Vec::new(),
            ports: Ports::Unsaid,
            stdio: None,
            stdio_command: None,
            capture: false,
            rewrite_probes: true,
            native: settings.native,
            image: settings.image.clone(),
            image_pull_policy: settings.image_pull_policy,
            resources: settings.resources.clone(),
            log_level: settings.log_level.clone(),
            access_log: settings.access_log,
            drain: settings.drain,
        }
    }

    /// Reads the annotations of a pod. Every mistake is told, not only the first; the second part of what is answered
    /// are warnings.
    pub fn read<'a>(
        annotations: impl Iterator<Item = (&'a str, &'a str)>,
        settings: &Settings,
    ) -> Result<(Self, Vec<String>), Vec<Mistake>> {
        let (mut wishes, mut mistakes, mut warnings) =
            (Self::without_words(settings), Vec::new(), Vec::new());
        for (full, text) in annotations {
            let Some(name) = full.strip_prefix(PREFIX).filter(|_| full != STATUS) else { continue };
            let wrong = |why: String| Mistake { name: format!("{PREFIX}{}", clip(name)), why };
            let Some(entry) = ENTRIES.iter().find(|entry| entry.name == name) else {
                warnings.push(unknown(name));
                continue;
            };
            if text.len() > VALUE_BYTES_MAX {
                let why = format!("is {} bytes long; at most {VALUE_BYTES_MAX} are read", text.len());
                mistakes.push(wrong(why));
            } else if let Err(why) = (entry.read)(&mut wishes, text) {
                mistakes.push(wrong(format!("{:?} {why}", clip(text))));
            }
        }
        mistakes.extend(wishes.contradictions());
        match mistakes.is_empty() {
            true => Ok((wishes, warnings)),
            false => Err(mistakes),
        }
    }

    /// Annotations that do not go together.
    fn contradictions(&self) -> Vec<Mistake> {
        let mistake =
            |name: &str, why: &str| Mistake { name: format!("{PREFIX}{name}"), why: why.to_owned() };
        let mut found = Vec::new();
        let mut unless = |holds: bool, name: &str, why: &str| {
            if !holds {
                found.push(mistake(name, why));
            }
        };
        let has_ports = self.ports != Ports::Unsaid;
        let is_stdio = self.stdio.is_some();
        unless(
            !has_ports || self.capture || !self.servers.is_empty(),
            "port",
            "whose port it is must be said too: name the servers in weft.dev/servers, or give workload.port in the McpServer",
        );
        if let Ports::Each(ports) = &self.ports {
            unless(
                ports.keys().all(|name| self.servers.contains(name)),
                "port",
                "names a server that weft.dev/servers does not name",
            );
        }
        unless(!self.capture || has_ports, "capture", "which ports are captured must be said: weft.dev/port");
        unless(
            !self.capture || self.rewrite_probes,
            "rewrite-probes",
            "probes of a captured port reach the sidecar alone; they must be rewritten",
        );
        unless(!is_stdio || !has_ports, "port", "a command that speaks over stdin and stdout has no port");
        unless(
            !is_stdio || self.servers.len() == 1,
            "stdio",
            "weft.dev/servers must name the one server that the command is",
        );
        unless(
            self.stdio_command.is_none() || is_stdio,
            "stdio-command",
            "whose command it is must be said: weft.dev/stdio",
        );
        if let Some(why) = self.resources.contradiction() {
            found.push(Mistake { name: "resources".to_owned(), why });
        }
        found
    }
}

fn unknown(name: &str) -> String {
    let known: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
    format!("annotation {PREFIX}{} is unknown; there are {}", clip(name), known.join(", "))
}

pub(super) fn clip(text: &str) -> String {
    match text.char_indices().nth(ECHO_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

fn servers(wishes: &mut Wishes, text: &str) -> Result<(), String> {
    let mut servers = Vec::new();
    for part in parts(text) {
        let name = ObjectName::parse(part).map_err(|error| format!("holds no name of a server: {error}"))?;
        if servers.contains(&name) {
            return Err(format!("names {name} twice"));
        }
        servers.push(name);
    }
    if servers.len() > SERVERS_MAX {
        return Err(format!("names {} servers; a pod has at most {SERVERS_MAX}", servers.len()));
    }
    wishes.servers = servers;
    Ok(())
}

fn ports(wishes: &mut Wishes, text: &str) -> Result<(), String> {
    if !text.contains('=') {
        wishes.ports = Ports::One(port(text.trim())?);
        return Ok(());
    }
    let mut ports = BTreeMap::new();
    for part in parts(text) {
        let (server, number) = part.split_once('=').ok_or("has a part without <server>=<port>")?;
        let server =
            ObjectName::parse(server).map_err(|error| format!("holds no name of a server: {error}"))?;
        if ports.insert(server, port(number)?).is_some() {
            return Err("gives a server two ports".to_owned());
        }
    }
    wishes.ports = Ports::Each(ports);
    Ok(())
}

fn port(text: &str) -> Result<u16, String> {
    // What Rust takes for a number, such as "+80", is not always what Kubernetes takes for one.
    let digits = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port @ 1..) if digits => match super::OWN_PORTS.contains(&port) {
            true => Err(format!("holds {port}, a port of the sidecar itself")),
            false => Ok(port),
        },
        _ => Err("holds no port between 1 and 65535".to_owned()),
    }
}

/// The names of containers are labels of DNS, as those of namespaces.
fn container(text: &str) -> Result<String, String> {
    Namespace::parse(text).map(|_| text.to_owned()).map_err(|_| "is no name of a container".to_owned())
}

fn words(text: &str) -> Result<Vec<String>, String> {
    let words: Vec<String> =
        serde_json::from_str(text).map_err(|error| format!("is no JSON array of words: {error}"))?;
    sound(&words).map(|()| words)
}

/// Whether words are a command that a sidecar starts.
pub(super) fn sound(words: &[impl AsRef<str>]) -> Result<(), String> {
    let (first, rest) = words.split_first().ok_or("has no word")?;
    if rest.len() > COMMAND_WORDS_MAX {
        return Err(format!("has {} words; at most {COMMAND_WORDS_MAX} may follow the first", words.len()));
    }
    Text::<COMMAND_BYTES_MAX>::parse(first.as_ref())
        .map_err(|error| format!("has a first word that no sidecar takes: {error}"))?;
    for word in rest {
        Text::<WORD_BYTES_MAX>::parse(word.as_ref())
            .map_err(|error| format!("has a word that no sidecar takes: {error}"))?;
    }
    Ok(())
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        _ => Err("is neither enabled nor disabled".to_owned()),
    }
}

fn amount(text: &str) -> Result<Quantity, String> {
    Quantity::parse(text).map_err(|error| error.to_string())
}

/// The tables of the reference: labels and annotations.
pub fn reference() -> Tables {
    Tables
}

/// Tables in Markdown.
#[derive(Clone, Copy, Debug)]
pub struct Tables;

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for entry in ENTRIES {
            let Entry { name, values, default, limit, means, .. } = entry;
            let limit = limit();
            writeln!(text, "| `{PREFIX}{name}` | {means} | {values} | {default} | {limit} |")?;
        }
        writeln!(
            f,
            "## Labels\n\n\
             | label | of | values | means |\n|---|---|---|---|\n\
             | `{INJECT}` | a namespace or a pod; the pod's counts | `enabled`, `disabled` | Whether pods get sidecars. |\n\
             | `{REVISION}` | a namespace or a pod; the pod's counts | a revision, at most {REVISION_BYTES_MAX} characters | \
             Which of several control planes injects; asks for a sidecar by itself. `default` if not given. |\n\
             | `{SIDECAR}` | a pod that has a sidecar | its revision | Set by Weft, for selectors. |\n\n\
             ## Annotations\n\n\
             Of a pod, or of the template of a workload. A value of more than {VALUE_BYTES_MAX} bytes is a mistake. An \
             annotation that begins with `{PREFIX}` and is none of these is told as a warning.\n\n\
             | annotation | means | values | if not given | limit |\n|---|---|---|---|---|\n{text}\
             | `{STATUS}` | What was put into the pod, by which it can be taken out again. Set by Weft. | JSON | | |"
        )
    }
}
