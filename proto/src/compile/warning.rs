//! What somebody probably did not mean. Warnings stop nothing.

use std::fmt;

use crate::name::{ServerName, TrustDomain};
use crate::wire::ResourceType;

/// Something odd about one object, as far as its holder knows the mesh: a sidecar is told of a part of it only, and
/// warns of more than the control plane does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    pub ty: ResourceType,
    pub object: ServerName,
    pub concern: Concern,
}

/// What is odd.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// A policy that speaks about no server.
    SelectsNothing,
    /// Another object of its kind settles what it would have.
    OverriddenBy(ServerName),
    /// An alias that another server has, as its name or by an older claim.
    AliasTaken { alias: ServerName, by: ServerName },
    /// A server that is not known here.
    UnknownServer(ServerName),
    /// A server of another tenant, which is left out.
    OutOfScope(ServerName),
    /// A trust domain whose roots are not known here.
    UnknownTrustDomain(TrustDomain),
}

impl Warning {
    pub(super) fn of(ty: ResourceType, object: &ServerName, concern: Concern) -> Self {
        Self { ty, object: object.clone(), concern }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.ty, self.object, self.concern)
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SelectsNothing => f.write_str("selects nothing"),
            Self::OverriddenBy(other) => write!(f, "has no effect, because {other} comes first"),
            Self::AliasTaken { alias, by } => write!(f, "cannot be called {alias}, which is {by}"),
            Self::UnknownServer(server) => write!(f, "names the server {server}, which is not known"),
            Self::OutOfScope(server) => {
                write!(
                    f,
                    "names the server {server}, which is of another namespace, and is not followed there"
                )
            }
            Self::UnknownTrustDomain(domain) => {
                write!(f, "trusts the domain {domain}, whose roots are not known")
            }
        }
    }
}
