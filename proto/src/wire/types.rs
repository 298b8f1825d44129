//! The xDS resource types and the order in which a client must hear of them.

use std::fmt;

const PREFIX: &str = "type.googleapis.com/weft.config.v1.";

/// A type of xDS resource. The order of the variants is the order of delivery: whatever guards or is pointed at comes
/// before what it guards or what points at it, so that a server is never served without its policies and no route
/// leads to a server that is not there yet. Removals go the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    Mesh,
    TrustBundle,
    AccessPolicy,
    QuotaPolicy,
    ToolPolicy,
    Authentication,
    Telemetry,
    Server,
    Endpoints,
    Route,
    Offer,
    VirtualServer,
}

impl ResourceType {
    /// Every type, in order of delivery.
    pub const ALL: [Self; 12] = [
        Self::Mesh,
        Self::TrustBundle,
        Self::AccessPolicy,
        Self::QuotaPolicy,
        Self::ToolPolicy,
        Self::Authentication,
        Self::Telemetry,
        Self::Server,
        Self::Endpoints,
        Self::Route,
        Self::Offer,
        Self::VirtualServer,
    ];

    /// Its place in `ALL`.
    pub const fn index(self) -> usize {
        self as usize
    }

    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Mesh => "type.googleapis.com/weft.config.v1.Mesh",
            Self::TrustBundle => "type.googleapis.com/weft.config.v1.TrustBundle",
            Self::AccessPolicy => "type.googleapis.com/weft.config.v1.AccessPolicy",
            Self::QuotaPolicy => "type.googleapis.com/weft.config.v1.QuotaPolicy",
            Self::ToolPolicy => "type.googleapis.com/weft.config.v1.ToolPolicy",
            Self::Authentication => "type.googleapis.com/weft.config.v1.Authentication",
            Self::Telemetry => "type.googleapis.com/weft.config.v1.Telemetry",
            Self::Server => "type.googleapis.com/weft.config.v1.Server",
            Self::Endpoints => "type.googleapis.com/weft.config.v1.Endpoints",
            Self::Route => "type.googleapis.com/weft.config.v1.Route",
            Self::Offer => "type.googleapis.com/weft.config.v1.Offer",
            Self::VirtualServer => "type.googleapis.com/weft.config.v1.VirtualServer",
        }
    }

    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.type_url() == type_url)
    }

    /// The message's name, as people and metrics say it.
    pub fn name(self) -> &'static str {
        &self.type_url()[PREFIX.len()..]
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_url_and_listed_at_its_place() {
        for (at, ty) in ResourceType::ALL.into_iter().enumerate() {
            assert_eq!(ResourceType::from_type_url(ty.type_url()), Some(ty));
            assert_eq!(ty.index(), at);
            assert!(ty.type_url().starts_with(PREFIX), "{ty}");
        }
        assert_eq!(ResourceType::from_type_url("type.googleapis.com/weft.config.v1.Meta"), None);
    }
}
