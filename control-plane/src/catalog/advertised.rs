//! What one sidecar read of a server's tools, as approvals see it, and the definitions that were seen lately.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use weft_proto::mcp::lists::Listed;
use weft_proto::name::{Digest, ToolName};
use weft_proto::offer::{Offer, Offered};
use weft_proto::policy::tools::Definition;

/// Bytes of definitions of all servers beside one sidecar; beyond, only digests are kept.
const SIDECAR_BYTES_MAX: usize = 16 << 20;
/// Bytes of definitions that are remembered, whether or not they are still advertised.
const SEEN_BYTES_MAX: usize = 64 << 20;

/// What one server advertises, by the word of one sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    pub at: SystemTime,
    pub tools: BTreeMap<ToolName, Tool>,
}

/// A tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// By which it is approved.
    pub digest: Digest,
    /// None where there was no room for it.
    pub definition: Option<Arc<str>>,
}

impl Advertised {
    /// The tools of an offer. One whose name no policy could have is left out: it cannot be approved.
    pub(super) fn of(offer: &Offer, at: SystemTime, seen: &Seen) -> Self {
        let tools = offer.of(Listed::Tool).iter().filter_map(|item| Self::tool(item));
        let tools = tools.inspect(|(_, tool)| {
            if let Some(definition) = &tool.definition {
                seen.keep(&tool.digest, definition);
            }
        });
        Self { at, tools: tools.collect() }
    }

    /// A tool as approvals see it.
    pub(crate) fn tool(offered: &Offered) -> Option<(ToolName, Tool)> {
        let name = ToolName::parse(&offered.name).ok()?;
        let digest = Definition::read(&offered.definition).ok()?.digest();
        Some((name, Tool { digest, definition: Some(Arc::clone(&offered.definition)) }))
    }

    fn bytes(&self) -> usize {
        self.tools.values().filter_map(|tool| tool.definition.as_deref()).map(str::len).sum()
    }

    /// The same beside what other servers of the sidecar advertise: without definitions, if there is no room for them.
    pub(crate) fn beside<'a>(self: Arc<Self>, others: impl Iterator<Item = &'a Arc<Self>>) -> Arc<Self> {
        let others: usize = others.map(|it| it.bytes()).sum();
        if others + self.bytes() <= SIDECAR_BYTES_MAX {
            return self;
        }
        let bare = |tool: &Tool| Tool { digest: tool.digest.clone(), definition: None };
        let tools = self.tools.iter().map(|(name, tool)| (name.clone(), bare(tool)));
        Arc::new(Self { at: self.at, tools: tools.collect() })
    }
}

/// Definitions that were advertised lately, by what they are approved as. The oldest go first.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    by_digest: HashMap<Digest, Arc<str>>,
    order: VecDeque<Digest>,
    bytes: usize,
}

impl Seen {
    pub fn find(&self, digest: &Digest) -> Option<Arc<str>> {
        self.lock().by_digest.get(digest).cloned()
    }

    fn keep(&self, digest: &Digest, definition: &Arc<str>) {
        let mut seen = self.lock();
        if seen.by_digest.contains_key(digest) {
            return;
        }
        seen.bytes += definition.len();
        seen.by_digest.insert(digest.clone(), Arc::clone(definition));
        seen.order.push_back(digest.clone());
        while seen.bytes > SEEN_BYTES_MAX {
            let Some(oldest) = seen.order.pop_front() else { break };
            seen.bytes -= seen.by_digest.remove(&oldest).map_or(0, |it| it.len());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_that_are_remembered_are_bounded() {
        let seen = Seen::default();
        let digest = |n: u8| Digest::parse(&format!("sha256:{}", format!("{n:02x}").repeat(32))).unwrap();
        let large: Arc<str> = "x".repeat(SEEN_BYTES_MAX / 2).into();
        for n in 0..3 {
            seen.keep(&digest(n), &large);
        }
        assert_eq!([0, 1, 2].map(|n| seen.find(&digest(n)).is_some()), [false, true, true]);
    }
}
