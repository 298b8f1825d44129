//! Why a pod gets no sidecar. Every reason has a word, for metrics and events, and a sentence, for people.

use super::annotations::Mistake;

/// How much a reason matters to whoever creates the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Nobody asked for a sidecar here, or it is there.
    Quiet,
    /// A sidecar was asked for and this pod cannot have one.
    Told,
    /// A sidecar was asked for in a way that cannot be followed.
    Mistake,
}

/// Why a pod gets no sidecar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    #[error("neither the pod nor its namespace asks for a sidecar: no label weft.dev/inject")]
    NotAsked,
    #[error("the label weft.dev/inject says disabled")]
    Disabled,
    #[error("it belongs to the revision {found}, not to {own}")]
    OtherRevision { found: String, own: String },
    #[error(
        "nothing is injected in {0}, the control plane's own namespace: it could not start without itself"
    )]
    OwnNamespace(String),
    #[error("nothing is injected in {0}, a namespace of Kubernetes itself")]
    SystemNamespace(String),
    #[error("it has its sidecar already")]
    AlreadyInjected,
    #[error("it uses the network of its node (hostNetwork), where sidecars would meet each other's ports")]
    HostNetwork,
    #[error("it is a pod for Windows")]
    Windows,
    #[error("it is the mirror of a static pod, whose containers a node reads from a file")]
    MirrorPod,
    #[error("it has no service account, with which a sidecar proves who it is")]
    NoServiceAccount,
    #[error("it has a container called {0} of its own")]
    NameTaken(String),
    #[error("its container {container} runs as user {uid}, which is the sidecar's")]
    UserTaken { container: String, uid: i64 },
    #[error("its container {container} has port {port}, which is the sidecar's")]
    PortTaken { container: String, port: i64 },
    #[error("port {0} of its server is UDP, which MCP is not spoken over")]
    Udp(u16),
    #[error("it is to end by itself, and beside a sidecar that is no native one it never would")]
    NeverEnds,
    #[error("what the sidecar has to know of it takes {bytes} bytes; at most {max} fit")]
    TooLarge { bytes: usize, max: usize },
    #[error("{}", listed(.0))]
    Mistakes(Vec<Mistake>),
    #[error("the name {name:?} of {what} is the sidecar's")]
    Clash { what: &'static str, name: String },
    #[error("{0}")]
    Malformed(&'static str),
}

fn listed(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Skip {
    /// Every word, for metrics that are to be there from the beginning.
    pub const WORDS: [&'static str; 19] = [
        "not-asked",
        "disabled",
        "other-revision",
        "own-namespace",
        "system-namespace",
        "already-injected",
        "host-network",
        "windows",
        "mirror-pod",
        "no-service-account",
        "name-taken",
        "user-taken",
        "port-taken",
        "udp",
        "never-ends",
        "too-large",
        "mistake",
        "clash",
        "malformed",
    ];

    /// One of each, in the order of the words, as the reference shows them.
    pub fn examples() -> [Self; 19] {
        let port = |why: &str| Mistake { name: "weft.dev/port".to_owned(), why: why.to_owned() };
        [
            Self::NotAsked,
            Self::Disabled,
            Self::OtherRevision { found: "canary".to_owned(), own: "default".to_owned() },
            Self::OwnNamespace("weft-system".to_owned()),
            Self::SystemNamespace("kube-system".to_owned()),
            Self::AlreadyInjected,
            Self::HostNetwork,
            Self::Windows,
            Self::MirrorPod,
            Self::NoServiceAccount,
            Self::NameTaken("weft-sidecar".to_owned()),
            Self::UserTaken { container: "server".to_owned(), uid: 7443 },
            Self::PortTaken { container: "server".to_owned(), port: 7443 },
            Self::Udp(53),
            Self::NeverEnds,
            Self::TooLarge { bytes: 100_000, max: 98_304 },
            Self::Mistakes(vec![port("\"http\" holds no port between 1 and 65535")]),
            Self::Clash { what: "a volume", name: "weft-state".to_owned() },
            Self::Malformed("its containers are no list of objects"),
        ]
    }

    /// The reason as a label.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NotAsked => "not-asked",
            Self::Disabled => "disabled",
            Self::OtherRevision { .. } => "other-revision",
            Self::OwnNamespace(_) => "own-namespace",
            Self::SystemNamespace(_) => "system-namespace",
            Self::AlreadyInjected => "already-injected",
            Self::HostNetwork => "host-network",
            Self::Windows => "windows",
            Self::MirrorPod => "mirror-pod",
            Self::NoServiceAccount => "no-service-account",
            Self::NameTaken(_) => "name-taken",
            Self::UserTaken { .. } => "user-taken",
            Self::PortTaken { .. } => "port-taken",
            Self::Udp(_) => "udp",
            Self::NeverEnds => "never-ends",
            Self::TooLarge { .. } => "too-large",
            Self::Mistakes(_) => "mistake",
            Self::Clash { .. } => "clash",
            Self::Malformed(_) => "malformed",
        }
    }

    pub const fn weight(&self) -> Weight {
        match self {
            Self::NotAsked
            | Self::Disabled
            | Self::OtherRevision { .. }
            | Self::OwnNamespace(_)
            | Self::SystemNamespace(_)
            | Self::AlreadyInjected => Weight::Quiet,
            Self::HostNetwork
            | Self::Windows
            | Self::MirrorPod
            | Self::NoServiceAccount
            | Self::NameTaken(_)
            | Self::UserTaken { .. }
            | Self::PortTaken { .. }
            | Self::Udp(_)
            | Self::NeverEnds
            | Self::TooLarge { .. } => Weight::Told,
            Self::Mistakes(_) | Self::Clash { .. } | Self::Malformed(_) => Weight::Mistake,
        }
    }
}
