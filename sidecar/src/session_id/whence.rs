//! Which instance a call waits at, told in what its caller gives back when it goes on, so that every sidecar on the way
//! can lead it there. It is a hint and no proof: whoever is led elsewhere finds nothing that waits.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use weft_proto::name::NodeId;

const LEN: usize = 9;
const CHARS: usize = LEN / 3 * 4;

/// What states of ours begin with; no server's own does, unless it wants to be taken for one of us.
const BEGINNING: &str = "weft1.";

/// An instance, by a digest of the name of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Whence([u8; LEN]);

impl Whence {
    pub fn of(node: &NodeId) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"weft where a call waits\0");
        context.update(node.as_str().as_bytes());
        Self(*context.finish().as_ref().first_chunk().expect("a digest is longer"))
    }

    /// A state that says where it is from.
    pub fn state(self, rest: &str) -> String {
        format!("{BEGINNING}{self}.{rest}")
    }

    /// What a state says, if it is one of a sidecar's.
    pub fn read(state: &str) -> Option<(Self, &str)> {
        let (whence, rest) = state.strip_prefix(BEGINNING)?.split_once('.')?;
        let mut bytes = [0; LEN];
        if whence.len() != CHARS {
            return None;
        }
        let len = URL_SAFE_NO_PAD.decode_slice(whence, &mut bytes).ok()?;
        (len == LEN).then_some((Self(bytes), rest))
    }

    /// The same of a `requestState` as it stands in a request: JSON, and of whatever kind.
    pub fn read_json(state: &str) -> Option<Self> {
        let text: std::borrow::Cow<'_, str> = serde_json::from_str(state).ok()?;
        Self::read(&text).map(|(whence, _)| whence)
    }
}

impl fmt::Display for Whence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    #[test]
    fn a_state_says_where_it_is_from() {
        let here = Whence::of(&node("research/a"));
        let state = here.state("what.ever");
        assert_eq!(Whence::read(&state), Some((here, "what.ever")));
        assert_eq!(Whence::read_json(&format!("\"{state}\"")), Some(here));
        assert_ne!(here, Whence::of(&node("research/b")));
    }

    #[test]
    fn states_of_servers_are_theirs() {
        for state in ["", "weft1.", "weft1.short.x", "weft2.AAAAAAAAAAAA.x", "weft1.AAAAAAAAAAA!.x", "s"] {
            assert_eq!(Whence::read(state), None, "{state}");
        }
        for state in ["5", "{}", "\"s\"", "\"weft1.AAAAAAAAAAAA", "null"] {
            assert_eq!(Whence::read_json(state), None, "{state}");
        }
        assert!(Whence::read_json(r#""\u0077eft1.AAAAAAAAAAAA.x""#).is_some());
    }
}
