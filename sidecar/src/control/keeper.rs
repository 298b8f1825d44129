//! Writes what is to be stored, one after the other and not too often. Trouble with the disk is told and stops nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::identity::told;
use super::store::{self, Stored};
use super::{Problem, State};

/// Goes on until nothing more can come; what waits by then is still written.
pub(super) async fn run(
    folder: PathBuf,
    mut stored: mpsc::Receiver<Stored>,
    states: Arc<watch::Sender<State>>,
    every: Duration,
    cancel: CancellationToken,
) {
    while let Some(stored) = stored.recv().await {
        let (folder, at) = (folder.clone(), stored.at);
        let saved = tokio::task::spawn_blocking(move || store::save(&folder, &stored)).await;
        let error = match saved {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(told(&error)),
            Err(error) => Some(error.to_string()),
        };
        show(&states, at, error);
        tokio::select! {
            () = cancel.cancelled() => {}
            () = sleep(every) => {}
        }
    }
}

fn show(states: &watch::Sender<State>, at: SystemTime, error: Option<String>) {
    states.send_modify(|state| {
        let Some(error) = error else {
            state.store.stored_at = Some(at);
            state.store.error = None;
            return;
        };
        // A full disk is told once, not at each change.
        if state.store.error.as_ref().is_none_or(|known| known.message != error) {
            tracing::warn!(error, "configuration not stored; a restart would need the control plane");
        }
        state.store.failures += 1;
        state.store.error = Some(Problem::now(error));
    });
}
