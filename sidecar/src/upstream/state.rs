//! What a pool holds, who waits for it, and who gets what next. One lock, held for moments and never while anything is
//! awaited or dropped that could want it again.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::HeaderValue;
use http::uri::{Authority, Scheme};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::Unsent;
use super::connect::{Connector, Error, Stream};
use super::destination::Destination;
use super::lease::{Alone, Lease, Multiplexed, Usage};
use super::pool::{Settings, Stats};

/// Requests that wait for the very connection that is being made, whatever `pending_max` says.
const WAITING_FOR_HANDSHAKE_MAX: usize = 1024;

/// Bytes in flight towards us, on one stream and on all streams of an HTTP/2 connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: u32 = 64 << 10;

/// An HTTP/2 connection with open streams is asked this often whether it lives, and given this long to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Shared {
    connector: Connector,
    settings: Settings,
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    pub(super) host: HeaderValue,
    me: Weak<Self>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// HTTP/1.1 connections that wait for a request; the last used is used first, so that surplus ones grow old.
    idle: Vec<Alone>,
    multiplexed: Vec<Arc<Multiplexed>>,
    /// Connections that exist or are being made.
    open: usize,
    /// Connections that are being made.
    dialing: usize,
    /// What the last connection spoke.
    http2: Option<bool>,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    /// Whether the task that closes what is idle for too long is running.
    swept: bool,
    retired: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("open", &self.open).finish_non_exhaustive()
    }
}

/// What a request gets when it is its turn.
enum Turn {
    Lease(Lease),
    Dial(Dial),
    Refused(Unsent),
}

impl Shared {
    pub(super) fn new(destination: Destination, settings: Settings) -> Arc<Self> {
        let authority = destination.authority();
        let host = HeaderValue::from_str(authority.as_str());
        Arc::new_cyclic(|me| Self {
            scheme: destination.scheme(),
            host: host.unwrap_or(HeaderValue::from_static("localhost")),
            authority,
            connector: Connector::new(destination),
            settings,
            me: me.clone(),
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strong(&self) -> Arc<Self> {
        self.me.upgrade().expect("whoever calls holds a strong one")
    }

    /// The right to send one request: on a connection that is there, on a new one, or after waiting for either.
    pub(super) async fn lease(&self) -> Result<Lease, Unsent> {
        let (turn, spent) = {
            let mut state = self.lock();
            let mut spent = Vec::new();
            let turn = match self.next(&mut state, &mut spent) {
                Some(turn) => Ok(turn),
                None => Err(self.queue(&mut state)?),
            };
            (turn, spent)
        };
        drop(spent);
        let turn = match turn {
            Ok(turn) => turn,
            Err(waiting) => waiting.await.map_err(|_| Unsent::Retired)?,
        };
        match turn {
            Turn::Lease(lease) => Ok(lease),
            Turn::Dial(dial) => Box::pin(dial.run()).await,
            Turn::Refused(why) => Err(why),
        }
    }

    fn queue(&self, state: &mut State) -> Result<oneshot::Receiver<Turn>, Unsent> {
        let max = match state.open < self.settings.connections_max {
            true => WAITING_FOR_HANDSHAKE_MAX.max(self.settings.pending_max),
            false => self.settings.pending_max,
        };
        if state.waiting.len() >= max {
            state.waiting.retain(|waiting| !waiting.is_closed());
        }
        if state.waiting.len() >= max {
            return Err(Unsent::Full { waiting: state.waiting.len() });
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push_back(sender);
        Ok(receiver)
    }

    /// What the next request gets now; none if it must wait. Connections that are of no use any more are put into
    /// `spent`, to be dropped without the lock.
    fn next(&self, state: &mut State, spent: &mut Vec<Alone>) -> Option<Turn> {
        if state.retired {
            return Some(Turn::Refused(Unsent::Retired));
        }
        let now = Instant::now();
        while let Some(connection) = state.idle.pop() {
            if self.is_spent(&connection, now) {
                spent.push(connection);
            } else {
                return Some(Turn::Lease(Lease::alone(self.strong(), connection)));
            }
        }
        if let Some(connection) = self.with_room(state, now) {
            connection.streams.fetch_add(1, Ordering::Relaxed);
            connection.requests.fetch_add(1, Ordering::Relaxed);
            return Some(Turn::Lease(Lease::stream(self.strong(), connection)));
        }
        // One handshake may be enough for many requests; only HTTP/1.1 needs one for each.
        let may_dial = state.dialing == 0 || state.http2 == Some(false);
        (may_dial && state.open < self.settings.connections_max).then(|| {
            state.open += 1;
            state.dialing += 1;
            Turn::Dial(Dial { shared: self.strong(), place: Some(Place(self.me.clone())), done: false })
        })
    }

    fn is_spent(&self, connection: &Alone, now: Instant) -> bool {
        let Usage { retire_at, idle_since, requests } = connection.usage;
        let idle_for = now.saturating_duration_since(idle_since);
        connection.sender.is_closed()
            || now >= retire_at
            || idle_for >= self.settings.idle_timeout
            || requests >= self.settings.requests_max
    }

    fn with_room(&self, state: &mut State, now: Instant) -> Option<Arc<Multiplexed>> {
        if state.multiplexed.is_empty() {
            return None;
        }
        state.multiplexed.retain(|connection| connection.is_usable(now, self.settings.requests_max));
        let room = |connection: &&Arc<Multiplexed>| {
            let peer_max = connection.peer_max.load(Ordering::Relaxed);
            connection.streams.load(Ordering::Relaxed)
                < self.settings.streams_per_connection_max.min(peer_max)
        };
        state.multiplexed.iter().find(room).cloned()
    }

    /// Gives those who wait what there is to have.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let mut spent = Vec::new();
        let mut returned = None;
        while let Some(waiting) = state.waiting.pop_front() {
            if waiting.is_closed() {
                continue;
            }
            let Some(turn) = self.next(&mut state, &mut spent) else {
                state.waiting.push_front(waiting);
                break;
            };
            if let Err(turn) = waiting.send(turn) {
                // It gave up this very moment. What it was given comes back here when it is dropped.
                returned = Some(turn);
                break;
            }
        }
        drop(state);
        drop((spent, returned));
    }

    pub(super) fn put_back(&self, mut connection: Alone) {
        let mut state = self.lock();
        connection.usage.idle_since = Instant::now();
        if state.retired {
            drop(state);
            drop(connection);
            return;
        }
        state.idle.push(connection);
        self.sweep(&mut state);
        if !state.waiting.is_empty() {
            self.settle(state);
        }
    }

    pub(super) fn end_stream(&self, connection: &Multiplexed) {
        let state = self.lock();
        connection.streams.fetch_sub(1, Ordering::Relaxed);
        if !state.waiting.is_empty() {
            self.settle(state);
        }
    }

    pub(super) fn retire(&self) {
        let mut state = self.lock();
        state.retired = true;
        let idle = std::mem::take(&mut state.idle);
        let multiplexed = std::mem::take(&mut state.multiplexed);
        self.settle(state);
        drop((idle, multiplexed));
    }

    pub(super) fn stats(&self) -> Stats {
        let state = self.lock();
        let pending = state.waiting.iter().filter(|waiting| !waiting.is_closed()).count();
        Stats { open: state.open, idle: state.idle.len(), pending }
    }

    /// Sees to it that connections that nobody uses are closed. The task ends when there are none.
    fn sweep(&self, state: &mut State) {
        // Whatever is given back after the runtime has ended goes with the pool.
        let (false, Ok(runtime)) = (state.swept, Handle::try_current()) else { return };
        state.swept = true;
        let (me, every) = (self.me.clone(), self.settings.idle_timeout / 2);
        runtime.spawn(async move {
            loop {
                sleep(every.max(Duration::from_millis(1))).await;
                let Some(shared) = me.upgrade() else { break };
                if !shared.sweep_once() {
                    break;
                }
            }
        });
    }

    /// Whether anything is left that may be swept later.
    fn sweep_once(&self) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let State { idle, multiplexed, .. } = &mut *state;
        let spent: Vec<_> = idle.extract_if(.., |connection| self.is_spent(connection, now)).collect();
        let unused = multiplexed.extract_if(.., |connection| {
            let busy = connection.streams.load(Ordering::Relaxed) > 0;
            let asked = connection.requests.load(Ordering::Relaxed);
            let quiet = !busy && connection.swept_at.swap(asked, Ordering::Relaxed) == asked;
            quiet || !connection.is_usable(now, self.settings.requests_max)
        });
        let unused: Vec<_> = unused.collect();
        state.swept = !(state.idle.is_empty() && state.multiplexed.is_empty());
        let again = state.swept;
        drop(state);
        drop((spent, unused));
        again
    }
}

/// A connection that exists or is being made.
#[derive(Debug)]
pub(super) struct Place(Weak<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            let mut state = shared.lock();
            state.open -= 1;
            shared.settle(state);
        }
    }
}

/// The making of a connection. Dropped before it is made, it lets others try.
struct Dial {
    shared: Arc<Shared>,
    place: Option<Place>,
    done: bool,
}

impl Dial {
    async fn run(mut self) -> Result<Lease, Unsent> {
        let after = self.shared.settings.connect_timeout;
        let made = match timeout(after, self.connect()).await {
            Ok(made) => made,
            Err(_) => Err(Error::Timeout { after }),
        };
        match made {
            Ok(lease) => Ok(lease),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn connect(&mut self) -> Result<Lease, Error> {
        let io = self.shared.connector.connect().await?;
        let http2 = io.is_http2() || self.shared.settings.http2_prior_knowledge;
        let place = self.place.take().expect("a connection is made once");
        let stream = TokioIo::new(Stream { io, _place: place });
        match http2 {
            true => self.multiplexed(stream).await,
            false => self.alone(stream).await,
        }
    }

    async fn alone(&mut self, stream: TokioIo<Stream>) -> Result<Lease, Error> {
        let (sender, connection) = http1::Builder::new().handshake(stream).await.map_err(Error::Http)?;
        // How it ends, the request that it serves is told.
        let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        let usage = Usage { retire_at: self.retire_at(), idle_since: Instant::now(), requests: 0 };
        self.succeeded(false, None);
        Ok(Lease::alone(Arc::clone(&self.shared), Alone { sender, task, usage }))
    }

    async fn multiplexed(&mut self, stream: TokioIo<Stream>) -> Result<Lease, Error> {
        let ours = self.shared.settings.streams_per_connection_max;
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_max_send_streams(ours)
            .max_header_list_size(HEAD_BYTES_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN)
            .handshake(stream)
            .await
            .map_err(Error::Http)?;
        let peer_max = Arc::new(AtomicUsize::new(ours));
        let told = Arc::clone(&peer_max);
        tokio::spawn(std::future::poll_fn(move |context| {
            let polled = std::pin::Pin::new(&mut connection).poll(context);
            told.store(connection.current_max_send_streams(), Ordering::Relaxed);
            polled.map(drop)
        }));
        let connection = Arc::new(Multiplexed {
            sender,
            retire_at: self.retire_at(),
            peer_max,
            streams: AtomicUsize::new(1),
            requests: AtomicUsize::new(1),
            swept_at: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
        });
        self.succeeded(true, Some(Arc::clone(&connection)));
        Ok(Lease::stream(Arc::clone(&self.shared), connection))
    }

    fn retire_at(&self) -> Instant {
        let age = self.shared.settings.age_max;
        Instant::now() + age.mul_f64(rand::rng().random_range(0.9..1.1))
    }

    fn succeeded(&mut self, http2: bool, connection: Option<Arc<Multiplexed>>) {
        self.done = true;
        let mut state = self.shared.lock();
        state.dialing -= 1;
        state.http2 = Some(http2);
        if let Some(connection) = connection.filter(|_| !state.retired) {
            state.multiplexed.push(connection);
            self.shared.sweep(&mut state);
        }
        self.shared.settle(state);
    }

    /// Where nothing else is open, those who wait would wait in vain, one attempt after the other.
    fn failed(&mut self, error: Error) -> Unsent {
        self.done = true;
        let why = Unsent::Connect(Arc::new(error));
        let mut state = self.shared.lock();
        state.dialing -= 1;
        let own = usize::from(self.place.is_some());
        let alone = state.open <= own;
        let waiting = if alone { std::mem::take(&mut state.waiting) } else { VecDeque::new() };
        drop(state);
        for waiting in waiting {
            // Whoever is gone needs no answer.
            drop(waiting.send(Turn::Refused(why.clone())));
        }
        self.place = None;
        self.shared.settle(self.shared.lock());
        why
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.shared.lock();
            state.dialing -= 1;
            self.shared.settle(state);
        }
    }
}
