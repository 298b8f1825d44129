//! Asks a child how it is: by a ping in the legacy era, by discovery in the modern one. Of several children, the first.
//!
//! A child that does not answer is not asked again: it is the same question whose answer is waited for, so that nothing
//! piles up in front of a child that is stuck.

use std::sync::Arc;

use weft_proto::mcp::Bounds;

use super::StdioPeer;
use crate::backend::way::check::judged;
use crate::exchange::{BoxFuture, Reply, Said};
use crate::health::check::Probe;

/// See the module.
#[derive(Debug)]
pub struct StdioProbe {
    peer: Arc<StdioPeer>,
    bounds: Bounds,
    /// The question that was not answered yet.
    asked: Option<Reply>,
}

impl StdioProbe {
    pub fn new(peer: Arc<StdioPeer>) -> Self {
        let limits = &peer.recipe.limits;
        let bounds = Bounds { depth_max: limits.depth_max, batch_max: limits.batch_max };
        Self { peer, bounds, asked: None }
    }

    async fn answer(&mut self) -> Option<Result<(), String>> {
        if self.asked.is_none() {
            // One that is about to start, or to be started again, is known to be so without asking.
            self.asked = Some(self.peer.first.ask_how_it_is()?);
        }
        let reply = self.asked.as_mut()?;
        let answer = loop {
            match reply.0.recv().await {
                Some(Ok(Said::Note(_) | Said::Request(_) | Said::Sign)) => {}
                Some(Ok(Said::Response(response))) => break judged(&response, self.bounds),
                Some(Err(refusal)) => break Err(refusal.detail()),
                None => break Err("it was not answered".to_owned()),
            }
        };
        self.asked = None;
        Some(answer)
    }
}

impl Probe for StdioProbe {
    fn ask(&mut self) -> BoxFuture<'_, Option<Result<(), String>>> {
        Box::pin(self.answer())
    }
}
