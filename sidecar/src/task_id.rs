//! Ids of tasks as callers are given them, where more than one server or more than one caller comes together: the
//! server's own, sealed for one caller. Nobody else can use one, and what else must be known of the task goes with it, so
//! that no table is kept.
//!
//! Sealed twice an id is two texts; whoever asks by one is answered by that one. Not here: whether the task still exists,
//! which only its server knows.

use std::sync::Arc;

use weft_proto::mcp::{Raw, Request, Target, method};

use crate::refusal::Refusal;
use crate::session_id::Ring;

/// The extension by which the modern era has tasks.
pub const EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// The member of `_meta` in which callers declare extensions.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// Longest text that is sealed: the id of the server's own, and what goes with it.
const TEXT_BYTES_MAX: usize = 2048;

/// Longest id that is opened. Ours are shorter.
const ID_BYTES_MAX: usize = 4096;

/// Tells these ids from those of sessions, which are sealed with the same keys.
const ABOUT: &str = "task";

/// Seals and opens the ids of one place.
#[derive(Clone, Debug)]
pub struct TaskIds {
    ring: Ring,
    scope: Arc<str>,
}

impl TaskIds {
    /// Ids of another scope are none here.
    pub const fn new(ring: Ring, scope: Arc<str>) -> Self {
        Self { ring, scope }
    }

    /// An id for this caller alone.
    pub fn seal(&self, caller: &str, text: &str) -> Result<String, Refusal> {
        let broke = |how: &str| Refusal::UpstreamBroke(format!("the id of the task is {how}"));
        if text.len() > TEXT_BYTES_MAX {
            return Err(broke("too long"));
        }
        self.ring.seal(text.as_bytes(), &[ABOUT, &self.scope, caller]).ok_or_else(|| broke("not sealed"))
    }

    /// What was sealed for this caller. Of an id of somebody else's and of one that is none it is said alike that there is
    /// no such task.
    pub fn open(&self, caller: &str, id: &str) -> Result<String, Refusal> {
        let opened = (id.len() <= ID_BYTES_MAX).then(|| self.ring.open(id, &[ABOUT, &self.scope, caller]));
        opened.flatten().and_then(|text| String::from_utf8(text).ok()).ok_or(Refusal::TaskUnknown)
    }
}

/// Whether whoever makes a request of the modern era declares that it knows tasks.
pub fn is_declared(request: &Request<'_>) -> bool {
    let extensions = request.params.meta.client_capabilities.and_then(|it| it.member("extensions"));
    extensions.and_then(|it| it.member(EXTENSION)).is_some_and(|it| it.get() != "null")
}

/// Whether a request of the modern era may begin a task, or is about one.
pub fn is_concerned(request: &Request<'_>) -> bool {
    match request.target() {
        Some(Target::Task(_)) => true,
        _ => request.method == method::TOOLS_CALL && is_declared(request),
    }
}

/// The id of the task that a result begins, as it stands there.
pub fn begun_by(result: Raw<'_>) -> Option<Raw<'_>> {
    let kind = result.member("resultType").and_then(Raw::text)?;
    result.member("taskId").filter(|_| kind == "task")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session_id::Key;

    #[test]
    fn an_id_opens_for_the_caller_that_it_was_sealed_for_and_in_its_place_alone() {
        let ring = Ring::own(&Key::random());
        let here = TaskIds::new(ring.clone(), "here".into());
        let id = here.seal("ann", "7 über").unwrap();
        assert_eq!(here.open("ann", &id).as_deref(), Ok("7 über"));
        assert_eq!(here.open("bob", &id), Err(Refusal::TaskUnknown));
        assert_eq!(TaskIds::new(ring.clone(), "there".into()).open("ann", &id), Err(Refusal::TaskUnknown));
        // The id of a session is no id of a task, whoever it is for.
        let session = ring.seal(b"7", &["ann", "here"]).unwrap();
        assert_eq!(here.open("ann", &session), Err(Refusal::TaskUnknown));
        for none in ["", "7", "7 über", &id[1..], &"A".repeat(ID_BYTES_MAX + 1)] {
            assert_eq!(here.open("ann", none), Err(Refusal::TaskUnknown), "{none}");
        }
    }

    #[test]
    fn an_id_that_is_too_long_is_not_sealed_and_the_longest_opens() {
        let ids = TaskIds::new(Ring::own(&Key::random()), "".into());
        let longest = "x".repeat(TEXT_BYTES_MAX);
        assert_eq!(ids.open("a", &ids.seal("a", &longest).unwrap()), Ok(longest.clone()));
        assert!(matches!(ids.seal("a", &(longest + "x")), Err(Refusal::UpstreamBroke(_))));
    }
}
