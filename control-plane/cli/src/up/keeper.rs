//! Keeps one sidecar running: starts it, starts it again when that failed or when it was told to quit, and ends it when
//! it is not wanted any more.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use weft_sidecar::app::Running;

use super::board::{Beside, Board, Standing, Up};
use super::sidecar::{Mesh, Recipe};
use crate::failure::Failure;

/// After the first failed start; each further one doubles it.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often a server that listens beside its sidecar is asked what it speaks, until it says so.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long a server that was taken away is waited with, so that the agents' sidecars forget it first: who calls in
/// between would be told that it does not answer, rather than that there is none.
const WITHDRAWAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a sidecar ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its server was taken away.
    Withdrawn,
    /// It is to be another: it is started again as that.
    Changed,
    /// Everything ends.
    Quit,
}

/// One sidecar and what it is kept with.
pub(crate) struct Keeper {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) recipe: Recipe,
    pub(crate) board: Arc<Board>,
    pub(crate) beside: Beside,
    pub(crate) end: watch::Receiver<Option<End>>,
}

impl Keeper {
    /// Keeps it until its end, from the start if it does not run yet.
    pub(crate) async fn keep(mut self, mut running: Option<Running>) {
        let mut pause = PAUSE_MIN;
        while self.end.borrow().is_none() {
            let started = match running.take() {
                Some(running) => Ok(running),
                None => self.mesh.start(&self.recipe).await,
            };
            match started {
                Ok(running) => {
                    pause = PAUSE_MIN;
                    self.attend(running).await;
                }
                Err(failure) => {
                    self.failed(&failure, pause);
                    tokio::select! {
                        _ = self.end.wait_for(Option::is_some) => {}
                        () = sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
            self.post(Standing::Starting);
        }
        if self.ends() != End::Quit {
            // It will not come back, so no status and no exchange of roots waits for it.
            self.mesh.hub.forget(&self.recipe.node);
        }
    }

    /// From its start to its end.
    async fn attend(&self, running: Running) {
        self.post(Standing::Running(Arc::new(Up::from(&running))));
        let mut end = self.end.clone();
        tokio::select! {
            _ = end.wait_for(Option::is_some) => {}
            () = running.asked_to_quit() => {
                tracing::info!(node = %self.recipe.node, "the sidecar was told to quit, and is started again");
            }
            () = ask(&running) => {}
        }
        if self.ends() == End::Withdrawn {
            self.withdrawn().await;
        }
        self.post(Standing::Stopping);
        running.stop().await;
    }

    /// Waits until no agent's sidecar leads there any more.
    async fn withdrawn(&self) {
        let Beside::Server(server) = &self.beside else { return };
        let forgotten = self.board.agents().into_iter().map(async |agent| {
            let mut configuration = agent.live.watch();
            let _ = configuration.wait_for(|current| current.snapshot.server(server).is_none()).await;
        });
        let _ = timeout(WITHDRAWAL_TIMEOUT, join_all(forgotten)).await;
    }

    /// Why it ends, if it does; nobody is there to say so only when everything ends.
    fn ends(&self) -> End {
        self.end.borrow().unwrap_or(End::Quit)
    }

    fn failed(&self, failure: &Failure, pause: Duration) {
        let why = match failure {
            Failure::Told(told) => {
                let because = told.why.iter().map(|why| format!(": {why}"));
                std::iter::once(told.what.clone()).chain(because).collect()
            }
            Failure::ReaderGone => String::new(),
        };
        tracing::error!(node = %self.recipe.node, why, again_secs = pause.as_secs(), "a sidecar does not start");
        self.post(Standing::Failed(why));
    }

    fn post(&self, standing: Standing) {
        self.board.set(&self.beside, standing);
    }
}

/// Has servers asked what they speak before anybody calls them. Never ends.
async fn ask(running: &Running) {
    loop {
        running.servers.all().iter().for_each(|local| local.backend.introduce());
        sleep(ASK_EVERY).await;
    }
}
