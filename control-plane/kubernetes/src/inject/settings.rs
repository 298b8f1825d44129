//! How sidecars are put into the pods of one cluster: what is the same for all of them.
//!
//! Read from YAML for the webhook, made from flags by `weft inject`. What a single pod may say is in `annotations`.

use std::fmt;

use serde::Deserialize;
use weft_proto::name::{HostPort, Namespace, TrustDomain};
use weft_proto::resource::units::Span;

use super::quantity::Quantity;

/// Largest text of settings, in bytes.
pub const TEXT_BYTES_MAX: usize = 64 << 10;
/// Longest reference to an image, in bytes.
pub const IMAGE_BYTES_MAX: usize = 512;
/// Longest revision, in bytes: the value of a label.
pub const REVISION_BYTES_MAX: usize = 63;
/// The revision of pods and control planes that name none.
pub const REVISION_DEFAULT: &str = "default";
/// The first minor version of Kubernetes 1 in which native sidecars are there without being switched on.
pub const NATIVE_SINCE_MINOR: u32 = 29;

/// What is the same for all pods of a cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    pub trust_domain: TrustDomain,
    /// The control plane's door for sidecars.
    pub control_plane: HostPort,
    pub image: Image,
    pub image_pull_policy: Option<PullPolicy>,
    /// The control plane's own namespace, in which nothing is ever injected.
    pub namespace: Namespace,
    pub revision: Revision,
    /// Whether the cluster has native sidecars.
    pub native: bool,
    pub ip_family: IpFamily,
    pub resources: Resources,
    /// Longest that a sidecar drains; never longer than the pod's grace period allows.
    pub drain: Span,
    /// Size of the folder in which a sidecar keeps its configuration and its audit trail.
    pub state_size: Quantity,
    pub log_level: LogLevel,
    pub access_log: AccessLog,
    /// What becomes of a pod that asks for a sidecar and makes a mistake in it.
    pub on_mistake: OnMistake,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the settings are {0} bytes long; at most {TEXT_BYTES_MAX} are read")]
    TooLong(usize),
    #[error("the settings cannot be read: {0}")]
    Read(String),
    #[error("{field}: {why}")]
    Field { field: &'static str, why: String },
}

impl Settings {
    /// What a cluster begins with.
    pub fn new(trust_domain: TrustDomain, control_plane: HostPort, image: Image) -> Self {
        Self {
            trust_domain,
            control_plane,
            image,
            image_pull_policy: None,
            namespace: Namespace::parse("weft-system").expect("the name is good"),
            revision: Revision(REVISION_DEFAULT.to_owned()),
            native: true,
            ip_family: IpFamily::Ipv4,
            resources: Resources::default(),
            drain: Span::from_secs(20),
            state_size: Quantity::parse("512Mi").expect("the amount is good"),
            log_level: LogLevel("info".to_owned()),
            access_log: AccessLog::Stdout,
            on_mistake: OnMistake::Refuse,
        }
    }

    /// Reads settings as YAML.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TooLong(text.len()));
        }
        let raw: Raw = serde_saphyr::from_str(text).map_err(|error| Error::Read(error.to_string()))?;
        raw.typed()
    }

    /// Whether a cluster of this version has native sidecars: `major` and `minor` as the API server tells them, such as
    /// `1` and `29+`.
    pub fn has_native(major: &str, minor: &str) -> bool {
        let number = |text: &str| {
            let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            text[..digits].parse::<u32>().unwrap_or(0)
        };
        (number(major), number(minor)) >= (1, NATIVE_SINCE_MINOR)
    }
}

/// What the sidecar is given and may use. Without requests a pod would be scheduled as if the sidecar were free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    pub cpu_request: Quantity,
    pub memory_request: Quantity,
    pub cpu_limit: Option<Quantity>,
    pub memory_limit: Option<Quantity>,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu_request: Quantity::parse("50m").expect("the amount is good"),
            memory_request: Quantity::parse("64Mi").expect("the amount is good"),
            cpu_limit: None,
            memory_limit: None,
        }
    }
}

impl Resources {
    /// A request above its limit, if there is one: Kubernetes refuses such a pod.
    pub fn contradiction(&self) -> Option<String> {
        let above = |what: &str, request: &Quantity, limit: Option<&Quantity>| {
            let limit = limit.filter(|limit| limit.millis() < request.millis())?;
            Some(format!("the sidecar's request for {what}, {request}, is more than its limit, {limit}"))
        };
        above("processors", &self.cpu_request, self.cpu_limit.as_ref())
            .or_else(|| above("memory", &self.memory_request, self.memory_limit.as_ref()))
    }
}

/// A reference to an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image(String);

impl Image {
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        match starts && text.len() <= IMAGE_BYTES_MAX && text.chars().all(allowed) {
            true => Ok(Self(text.to_owned())),
            false => Err("is no image such as registry.example/weft-sidecar:1.0".to_owned()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

/// Which control plane injects: the value of the label `weft.dev/revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let ends = end(text.chars().next()) && end(text.chars().next_back());
        match ends && text.len() <= REVISION_BYTES_MAX && text.chars().all(allowed) {
            true => Ok(Self(text.to_owned())),
            false => Err("is no revision such as default, canary or 1-2".to_owned()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Revision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

/// What a sidecar logs: a level, also per module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

/// Longest description of what is logged, in bytes.
pub const LOG_LEVEL_BYTES_MAX: usize = 256;

impl LogLevel {
    pub fn parse(text: &str) -> Result<Self, String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let module = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
        };
        let part = |part: &str| match part.split_once('=') {
            Some((name, level)) => module(name) && LEVELS.contains(&level),
            None => LEVELS.contains(&part),
        };
        match text.len() <= LOG_LEVEL_BYTES_MAX && text.split(',').all(part) {
            true => Ok(Self(text.to_owned())),
            false => {
                Err("is no level such as error, warn, info, debug, trace or info,weft_sidecar=debug"
                    .to_owned())
            }
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

/// A choice of few words.
macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $variant_doc:literal])* $variant:ident = $word:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $variant_doc])* $variant,)+ }

        impl $name {
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            pub fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("is none of {}", Self::WORDS.join(", "))),
                }
            }

            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::parse(text)
            }
        }
    };
}

words! {
    /// When a node fetches the image.
    PullPolicy { Always = "Always", IfNotPresent = "IfNotPresent", Never = "Never", }
}
words! {
    /// The addresses of pods. A sidecar of a cluster with both listens on both, and is reached by the pod's first.
    IpFamily { Ipv4 = "ipv4", Ipv6 = "ipv6", Dual = "dual", }
}
words! {
    /// Where the access log goes.
    AccessLog { Stdout = "stdout", Off = "off", }
}
words! {
    /// What becomes of a pod that asks for a sidecar and makes a mistake in it.
    OnMistake {
        /// It is not created, and whoever creates it is told why.
        Refuse = "refuse",
        /// It is created without a sidecar, with a warning.
        Skip = "skip",
    }
}

/// The form in which settings are written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    trust_domain: String,
    control_plane: String,
    image: String,
    #[serde(default)]
    image_pull_policy: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    revision: Option<String>,
    #[serde(default)]
    native_sidecars: Option<bool>,
    #[serde(default)]
    ip_family: Option<String>,
    #[serde(default)]
    resources: RawResources,
    #[serde(default)]
    drain_timeout: Option<String>,
    #[serde(default)]
    state_size: Option<String>,
    #[serde(default)]
    log_level: Option<String>,
    #[serde(default)]
    access_log: Option<String>,
    #[serde(default)]
    on_mistake: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawResources {
    #[serde(default)]
    cpu_request: Option<String>,
    #[serde(default)]
    memory_request: Option<String>,
    #[serde(default)]
    cpu_limit: Option<String>,
    #[serde(default)]
    memory_limit: Option<String>,
}

/// Reads a field that is there, by the parser of what it is to be.
fn field<T, E: fmt::Display>(
    field: &'static str,
    text: Option<&str>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Error> {
    text.map(|text| parse(text).map_err(|why| Error::Field { field, why: format!("{text:?}: {why}") }))
        .transpose()
}

/// Puts what was given in the place of what holds without.
fn set<T>(place: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *place = given;
    }
}

impl Raw {
    fn typed(self) -> Result<Settings, Error> {
        let missing = |field| Error::Field { field, why: "is needed".to_owned() };
        let trust_domain = field("trustDomain", Some(&self.trust_domain), TrustDomain::parse)?;
        let control_plane = field("controlPlane", Some(&self.control_plane), HostPort::parse)?;
        let image = field("image", Some(&self.image), Image::parse)?;
        let mut settings = Settings::new(
            trust_domain.ok_or_else(|| missing("trustDomain"))?,
            control_plane.ok_or_else(|| missing("controlPlane"))?,
            image.ok_or_else(|| missing("image"))?,
        );
        settings.image_pull_policy =
            field("imagePullPolicy", self.image_pull_policy.as_deref(), PullPolicy::parse)?;
        set(&mut settings.namespace, field("namespace", self.namespace.as_deref(), Namespace::parse)?);
        set(&mut settings.revision, field("revision", self.revision.as_deref(), Revision::parse)?);
        set(&mut settings.native, self.native_sidecars);
        set(&mut settings.ip_family, field("ipFamily", self.ip_family.as_deref(), IpFamily::parse)?);
        settings.resources = self.resources.typed()?;
        set(&mut settings.drain, field("drainTimeout", self.drain_timeout.as_deref(), Span::parse)?);
        set(&mut settings.state_size, field("stateSize", self.state_size.as_deref(), Quantity::parse)?);
        set(&mut settings.log_level, field("logLevel", self.log_level.as_deref(), LogLevel::parse)?);
        set(&mut settings.access_log, field("accessLog", self.access_log.as_deref(), AccessLog::parse)?);
        set(&mut settings.on_mistake, field("onMistake", self.on_mistake.as_deref(), OnMistake::parse)?);
        Ok(settings)
    }
}

impl RawResources {
    fn typed(self) -> Result<Resources, Error> {
        let mut resources = Resources::default();
        let quantity = |name, text: &Option<String>| field(name, text.as_deref(), Quantity::parse);
        set(&mut resources.cpu_request, quantity("resources.cpuRequest", &self.cpu_request)?);
        set(&mut resources.memory_request, quantity("resources.memoryRequest", &self.memory_request)?);
        resources.cpu_limit = quantity("resources.cpuLimit", &self.cpu_limit)?;
        resources.memory_limit = quantity("resources.memoryLimit", &self.memory_limit)?;
        match resources.contradiction() {
            Some(why) => Err(Error::Field { field: "resources", why }),
            None => Ok(resources),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "trustDomain: corp.example\ncontrolPlane: weft-control-plane.weft-system.svc:7500\n\
                         image: registry.example/weft-sidecar:1.0\n";

    #[test]
    fn three_settings_are_enough() {
        let settings = Settings::parse(LEAST).unwrap();
        assert_eq!(settings.namespace.as_str(), "weft-system");
        assert_eq!(settings.revision.as_str(), "default");
        assert_eq!(settings.on_mistake, OnMistake::Refuse);
        assert!(settings.native);
    }

    #[test]
    fn every_setting_can_be_given() {
        let settings = Settings::parse(&format!(
            "{LEAST}imagePullPolicy: Never\nnamespace: mesh\nrevision: canary\nnativeSidecars: false\nipFamily: dual\n\
             resources: {{cpuRequest: 10m, memoryRequest: 32Mi, cpuLimit: '2', memoryLimit: 1Gi}}\ndrainTimeout: 5s\n\
             stateSize: 1Gi\nlogLevel: debug\naccessLog: 'off'\nonMistake: skip\n"
        ))
        .unwrap();
        assert_eq!(settings.image_pull_policy, Some(PullPolicy::Never));
        assert_eq!((settings.native, settings.ip_family), (false, IpFamily::Dual));
        assert_eq!(settings.resources.cpu_limit.map(|it| it.ceil()), Some(2));
        assert_eq!((settings.drain.as_millis(), settings.access_log), (5000, AccessLog::Off));
        assert_eq!(settings.on_mistake, OnMistake::Skip);
    }

    #[test]
    fn a_mistake_names_its_field() {
        let wrong = |more: &str| Settings::parse(&format!("{LEAST}{more}")).unwrap_err().to_string();
        for (more, expected) in [
            ("revision: a/b", "revision: \"a/b\": is no revision"),
            (
                "imagePullPolicy: Sometimes",
                "imagePullPolicy: \"Sometimes\": is none of Always, IfNotPresent, Never",
            ),
            ("logLevel: loud", "logLevel: \"loud\": is no level"),
            ("resources: {cpuLimit: 1m}", "resources: the sidecar's request for processors, 50m, is more"),
            ("stateSize: much", "stateSize: \"much\": is no amount"),
            ("drainTimeout: soon", "drainTimeout: \"soon\": "),
            ("colour: blue", "the settings cannot be read: "),
        ] {
            let told = wrong(more);
            assert!(told.starts_with(expected), "{told}");
        }
        assert!(matches!(Settings::parse(&" ".repeat(TEXT_BYTES_MAX + 1)), Err(Error::TooLong(_))));
    }

    #[test]
    fn native_sidecars_are_there_since_one_version() {
        for (major, minor, native) in
            [("1", "28", false), ("1", "29", true), ("1", "29+", true), ("2", "0", true), ("", "x", false)]
        {
            assert_eq!(Settings::has_native(major, minor), native, "{major}.{minor}");
        }
    }
}
