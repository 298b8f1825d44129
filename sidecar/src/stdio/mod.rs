//! Servers that are commands: children of the sidecar, spoken to over their standard streams.
//!
//! A [`StdioPeer`] starts the command through the [`launch`]er, which sees to it that nothing outlives the sidecar, and
//! shares it among everyone who calls, by the [`mux`]; or starts it once for each session. Not here: who may call, and
//! what the messages mean.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep};
use weft_proto::name::ServerName;
use weft_proto::resource::kinds::{Era, Sharing, Stdio};

use crate::exchange::{Aside, Ask, Asker, BoxFuture, Introduction, Peer, Reply};
use crate::limits::Limits;
use crate::refusal::Refusal;

pub mod check;
mod child;
pub mod command;
mod handshake;
pub mod launch;
pub mod lines;
pub mod mux;
mod stderr;
mod wire;

pub use child::Phase;
use child::{Child, Recipe};
use command::Inherited;
use launch::Launcher;
pub use stderr::SAID_BY_SERVERS;

/// Patience with children whose peer was dropped without being stopped, and with those of sessions that are over.
const DROPPED_GRACE: Duration = Duration::from_secs(3);

/// A server that is a command.
#[derive(Debug)]
pub struct StdioPeer {
    recipe: Arc<Recipe>,
    /// Shared by everyone; or, with a child for each session, the one that introduces the server and is then given to
    /// the first session.
    first: Arc<Child>,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    children: HashMap<Asker, Owned>,
    first_is_taken: bool,
    is_stopped: bool,
    /// Of children that are no more.
    restarts_before: u64,
}

/// A child that one session has.
#[derive(Debug)]
struct Owned {
    child: Arc<Child>,
    used: Instant,
}

/// What a server is doing, over all its children.
#[derive(Clone, Debug)]
pub struct State {
    /// Of the child that everyone shares, or that introduced the server.
    pub phase: Phase,
    /// Children that run or are about to.
    pub children: usize,
    pub restarts: u64,
    /// Process ids of the launchers.
    pub pids: Vec<u32>,
    pub in_flight: usize,
    /// Lines that were no messages.
    pub garbage_lines: u64,
    /// Messages for calls that were over, or never were.
    pub strays: u64,
    /// Messages of which it could not be told whom they were for.
    pub unplaced: u64,
    /// Lines of standard error that were not logged.
    pub stderr_suppressed: u64,
}

impl StdioPeer {
    /// Starts the command. It is up to the caller to [`stop`](Self::stop) it; who does not leaves it less time.
    pub fn start(stdio: &Stdio, name: ServerName, limits: &Limits, launcher: Launcher) -> Arc<Self> {
        Self::start_with(stdio, Inherited::Little, name, limits, launcher)
    }

    /// The same, with what the command finds of the sidecar's environment.
    pub fn start_with(
        stdio: &Stdio,
        inherited: Inherited,
        name: ServerName,
        limits: &Limits,
        launcher: Launcher,
    ) -> Arc<Self> {
        let (stdio, limits) = (stdio.clone(), limits.clone());
        let recipe = Arc::new(Recipe { stdio, inherited, name, limits, launcher });
        let first = Child::start(Arc::clone(&recipe));
        let peer = Arc::new(Self { recipe, first, sessions: Mutex::default() });
        if peer.is_per_session() {
            tokio::spawn(stop_idle(Arc::downgrade(&peer), *peer.recipe.limits.session_idle_timeout));
        }
        peer
    }

    /// What the child is doing that everyone shares, or that introduced the server.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.first.phase()
    }

    pub fn state(&self) -> State {
        let children = self.children();
        let counts = || children.iter().map(|child| child.wire.counts());
        State {
            phase: self.first.phase().borrow().clone(),
            children: children.iter().filter(|child| !child.is_stopped()).count(),
            restarts: self.sessions().restarts_before + children.iter().map(|it| it.restarts()).sum::<u64>(),
            pids: children.iter().filter_map(|child| child.pid()).collect(),
            in_flight: children.iter().map(|child| child.wire.in_flight()).sum(),
            garbage_lines: counts().map(|it| it.garbage).sum(),
            strays: counts().map(|it| it.strays).sum(),
            unplaced: counts().map(|it| it.unplaced).sum(),
            stderr_suppressed: children.iter().map(|child| child.stderr_suppressed()).sum(),
        }
    }

    /// Lets what is under way finish, then ends every child; within about `grace`.
    pub async fn stop(&self, grace: Duration) {
        self.sessions().is_stopped = true;
        let children = self.children();
        children.iter().for_each(|child| child.begin_stop(grace));
        for child in children {
            child.stopped().await;
        }
    }

    /// Whether each session has a child of its own.
    pub fn is_per_session(&self) -> bool {
        self.recipe.stdio.sharing == Sharing::PerSession
    }

    /// Asks the child that introduced the server for a page of a list.
    pub(crate) async fn ask_for(&self, method: &str, cursor: Option<&str>) -> Result<Reply, Refusal> {
        let introduction = self.first.ready().await?;
        let params = match introduction.era {
            Era::Modern => handshake::listing(cursor),
            Era::Legacy => {
                cursor.map_or_else(|| "{}".to_owned(), |it| serde_json::json!({ "cursor": it }).to_string())
            }
        };
        Ok(self.first.wire.own(method, &params))
    }

    /// What that child says to everyone.
    pub(crate) fn asides_of_first(&self) -> broadcast::Receiver<Aside> {
        self.first.wire.asides(&Asker::nobody())
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every child, each once.
    fn children(&self) -> Vec<Arc<Child>> {
        let sessions = self.sessions();
        let owned = sessions.children.values().map(|owned| &owned.child);
        let others = owned.filter(|child| !Arc::ptr_eq(child, &self.first));
        std::iter::once(&self.first).chain(others).cloned().collect()
    }

    /// The child that an asker speaks with; started if there is none yet.
    fn child_of(&self, asker: &Asker) -> Result<Arc<Child>, Refusal> {
        if !self.is_per_session() {
            return Ok(Arc::clone(&self.first));
        }
        let mut sessions = self.sessions();
        if sessions.is_stopped {
            return Err(Refusal::Draining);
        }
        if let Some(owned) = sessions.children.get_mut(asker) {
            owned.used = Instant::now();
            return Ok(Arc::clone(&owned.child));
        }
        if sessions.children.len() >= self.recipe.limits.children_max {
            return Err(Refusal::TooManySessions);
        }
        let child = match std::mem::replace(&mut sessions.first_is_taken, true) {
            false => Arc::clone(&self.first),
            true => Child::start(Arc::clone(&self.recipe)),
        };
        let owned = Owned { child: Arc::clone(&child), used: Instant::now() };
        sessions.children.insert(asker.clone(), owned);
        Ok(child)
    }

    /// The child that an asker speaks with, if there is one.
    fn existing_child_of(&self, asker: &Asker) -> Result<Arc<Child>, Refusal> {
        if !self.is_per_session() {
            return Ok(Arc::clone(&self.first));
        }
        let sessions = self.sessions();
        let owned = sessions.children.get(asker).ok_or(Refusal::SessionUnknown)?;
        Ok(Arc::clone(&owned.child))
    }

    /// Stops the children of sessions that are over.
    fn stop_sessions(&self, is_over: impl Fn(&Asker, &Owned) -> bool) {
        let mut sessions = self.sessions();
        let over: Vec<Owned> =
            sessions.children.extract_if(|asker, owned| is_over(asker, owned)).map(|(_, it)| it).collect();
        for owned in over {
            // The first one's are counted with it, as long as there is a server.
            if !Arc::ptr_eq(&owned.child, &self.first) {
                sessions.restarts_before += owned.child.restarts();
            }
            owned.child.begin_stop(DROPPED_GRACE);
        }
    }
}

/// Stops children that nobody uses, as long as there is a peer.
async fn stop_idle(peer: Weak<StdioPeer>, idle_timeout: Duration) {
    loop {
        sleep(idle_timeout / 4).await;
        let Some(peer) = peer.upgrade() else { return };
        peer.stop_sessions(|_, owned| owned.used.elapsed() >= idle_timeout && owned.child.wire.is_idle());
    }
}

impl Drop for StdioPeer {
    fn drop(&mut self) {
        self.children().iter().for_each(|child| child.begin_stop(DROPPED_GRACE));
    }
}

impl Peer for StdioPeer {
    fn introduction(&self) -> BoxFuture<'_, Result<Arc<Introduction>, Refusal>> {
        Box::pin(self.first.introduction())
    }

    fn call(&self, ask: Ask) -> BoxFuture<'_, Result<Reply, Refusal>> {
        Box::pin(async move {
            let child = self.child_of(&ask.asker)?;
            child.ready().await?;
            child.wire.call(&ask).await
        })
    }

    fn notify(&self, asker: &Asker, message: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        let asker = asker.clone();
        Box::pin(async move {
            let child = self.child_of(&asker)?;
            child.ready().await?;
            child.wire.notify(&asker, &message).await
        })
    }

    fn answer(&self, asker: &Asker, message: Bytes) -> BoxFuture<'_, Result<(), Refusal>> {
        let asker = asker.clone();
        Box::pin(async move { self.existing_child_of(&asker)?.wire.answer(&asker, &message).await })
    }

    fn asides(&self, asker: &Asker) -> broadcast::Receiver<Aside> {
        match self.child_of(asker) {
            Ok(child) => child.wire.asides(asker),
            // One that is closed: nothing will come.
            Err(_) => broadcast::channel(1).1,
        }
    }

    fn end(&self, asker: &Asker) {
        if self.is_per_session() {
            self.stop_sessions(|it, _| it == asker);
        } else {
            self.first.wire.end(asker);
        }
    }
}
