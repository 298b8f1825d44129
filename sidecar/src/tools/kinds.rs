//! Which lists of a server are meant, and which of them it says changed.

use tokio::sync::broadcast;
use weft_proto::mcp::lists::Listed;
use weft_proto::mcp::{self, Bounds, Message, method};

use crate::exchange::Aside;
use crate::reads::Reads;

/// Some of the lists that a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    pub(super) const NONE: Self = Self(0);
    pub(super) const TOOLS: Self = Self::of(Listed::Tool);
    const PROMPTS: Self = Self::of(Listed::Prompt);
    const RESOURCES: Self = Self::of(Listed::Resource).and(Self::of(Listed::ResourceTemplate));
    pub(super) const ALL: Self = Self::TOOLS.and(Self::PROMPTS).and(Self::RESOURCES);

    pub(super) const fn of(listed: Listed) -> Self {
        Self(1 << listed as u8)
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn has(self, listed: Listed) -> bool {
        self.0 & Self::of(listed).0 != 0
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Waits until the server says that lists changed, and returns which. One that says nothing more never does.
pub(super) async fn changed(
    asides: &mut Option<broadcast::Receiver<Aside>>,
    bounds: Bounds,
    reads: &Reads,
) -> Kinds {
    loop {
        let Some(receiver) = asides else { return std::future::pending().await };
        match receiver.recv().await {
            Ok(Aside::Note(note)) => {
                reads.hear(&note);
                if let Some(kinds) = told(&note, bounds) {
                    return kinds;
                }
            }
            Ok(Aside::Request(_)) => {}
            // It may have been among what was missed.
            Err(broadcast::error::RecvError::Lagged(_)) => {
                reads.changed(None);
                return Kinds::ALL;
            }
            Err(broadcast::error::RecvError::Closed) => {
                *asides = None;
                return std::future::pending().await;
            }
        }
    }
}

fn told(note: &[u8], bounds: Bounds) -> Option<Kinds> {
    let Ok(mcp::Body::One(Message::Notification(note))) = mcp::parse(note, bounds) else { return None };
    match &*note.method {
        method::TOOLS_LIST_CHANGED => Some(Kinds::TOOLS),
        method::PROMPTS_LIST_CHANGED => Some(Kinds::PROMPTS),
        // There is no other word for templates.
        method::RESOURCES_LIST_CHANGED => Some(Kinds::RESOURCES),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_says_which_lists_changed() {
        let (sender, receiver) = broadcast::channel(4);
        let (mut asides, bounds) = (Some(receiver), Bounds { depth_max: 8, batch_max: 1 });
        let reads = crate::reads::tests::reads(&crate::limits::Limits::default());
        let note = |what: &str| {
            let note = format!(r#"{{"jsonrpc":"2.0","method":"notifications/{what}"}}"#);
            _ = sender.send(Aside::Note(note.into()));
        };
        for (what, expected) in [
            ("tools/list_changed", [true, false, false, false]),
            ("prompts/list_changed", [false, true, false, false]),
            ("resources/list_changed", [false, false, true, true]),
        ] {
            note("message");
            note(what);
            let kinds = changed(&mut asides, bounds, &reads).await;
            assert_eq!(Listed::ALL.map(|listed| kinds.has(listed)), expected, "{what}");
        }
        for _ in 0..6 {
            note("message");
        }
        assert_eq!(
            changed(&mut asides, bounds, &reads).await,
            Kinds::ALL,
            "what was missed may have said anything"
        );
    }
}
