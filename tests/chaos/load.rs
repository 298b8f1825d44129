//! Calls that go on while something happens, and what became of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::agent;
use crate::pair::{self, Answer};

/// Callers that call one after the other until they are told to stop.
pub(crate) struct Load {
    stop: CancellationToken,
    callers: tokio::task::JoinSet<()>,
    outcomes: Outcomes,
}

/// How often each outcome came: the status and the word, or why there was no answer.
type Outcomes = Arc<Mutex<BTreeMap<String, usize>>>;

impl Load {
    /// So many callers at an outbound listener.
    pub(crate) fn start(outbound: SocketAddr, callers: usize) -> Self {
        let mut load = Self {
            stop: CancellationToken::new(),
            callers: tokio::task::JoinSet::new(),
            outcomes: Arc::default(),
        };
        for _ in 0..callers {
            let (stop, outcomes) = (load.stop.clone(), Arc::clone(&load.outcomes));
            load.callers.spawn(async move {
                while !stop.is_cancelled() {
                    let outcome = call(outbound).await;
                    *outcomes.lock().unwrap().entry(outcome).or_default() += 1;
                }
            });
        }
        load
    }

    /// How many calls had an answer, whichever.
    pub(crate) fn answered(&self) -> usize {
        self.outcomes.lock().unwrap().values().sum()
    }

    /// Ends, and tells how often each outcome came.
    pub(crate) async fn end(mut self) -> BTreeMap<String, usize> {
        self.stop.cancel();
        while let Some(caller) = self.callers.join_next().await {
            caller.unwrap();
        }
        self.outcomes.lock().unwrap().clone()
    }

    /// Ends, and expects that no call has failed.
    pub(crate) async fn end_without_failure(self) -> usize {
        let outcomes = self.end().await;
        assert_eq!(outcomes.keys().collect::<Vec<_>>(), ["200 "], "{outcomes:?}");
        outcomes["200 "]
    }
}

async fn call(outbound: SocketAddr) -> String {
    let request = pair::modern("tools/call", "echo", json!({ "name": "echo", "arguments": { "x": 1 } }));
    match agent::send(outbound, request).await {
        Ok(response) => {
            let answer = Answer::read(response).await;
            format!("{} {}", answer.status, answer.reason())
        }
        Err(error) => format!("{error:#}"),
    }
}
