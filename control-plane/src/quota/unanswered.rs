//! Why nothing is lent.

use super::budgets::Unlent;

/// Why a demand is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// It names no limit, or one of values that are too long.
    Key,
    /// There is no such policy, or it is no matter of the sidecar or of the server that is named.
    Policy,
    /// The policy has no such limit that is shared.
    Limit,
    /// The sidecar named too many keys.
    KeysOfNode,
    /// All sidecars did.
    Keys,
    /// What is spent of budgets is not read yet.
    NotRead,
}

impl Unanswered {
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Policy => "policy",
            Self::Limit => "limit",
            Self::KeysOfNode => "keys_of_node",
            Self::Keys => "keys",
            Self::NotRead => "not_read",
        }
    }
}

impl From<Unlent> for Unanswered {
    fn from(why: Unlent) -> Self {
        match why {
            Unlent::NotRead => Self::NotRead,
            Unlent::KeysOfNode => Self::KeysOfNode,
            Unlent::Keys => Self::Keys,
        }
    }
}
