//! The connection to one child: the [`Mux`], with queues around it. It outlives the processes that come and go at its
//! other end.
//!
//! One task writes, one reads; neither waits for the other, so that a child that does only one of the two blocks nobody.
//! Whoever calls waits for room in the queue, for a while; whoever does not take what was said to them loses the call.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, broadcast, mpsc};
use tokio::time::timeout;
use weft_proto::mcp::{self, Body, Bounds, Message, Request};
use weft_proto::resource::kinds::Era;

use super::lines::{Line, Splitter};
use super::mux::{self, Asked, Audience, Counts, Effect, Mux};
use crate::exchange::{Aside, Ask, Asker, Reply, Said};
use crate::limits::Limits;
use crate::refusal::Refusal;

/// Bytes that count as one message in the queue; larger messages count as several.
const UNIT_BYTES: usize = 16 << 10;
/// Bytes that are written at once, unless one message is larger.
const BATCH_BYTES: usize = 256 << 10;
const READ_BYTES: usize = 64 << 10;
/// Messages outside of calls that may wait for one asker.
const ASIDES_MAX: usize = 64;

type Answers = mpsc::Sender<Result<Said, Refusal>>;
/// Ends when nobody waits for a call any more, with the call; or with an error once the call is over.
type Abandoned = Abortable<BoxFuture<'static, u64>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Wire {
    inner: Mutex<Inner>,
    /// Room in the queue, in units.
    room: Semaphore,
    room_max: u32,
    room_timeout: Duration,
    /// There is something to write, or a call to watch.
    wake: Notify,
    /// The last call that was under way is over.
    quiet: Notify,
    bounds: Bounds,
    line_bytes_max: usize,
    said_max: usize,
}

struct Inner {
    mux: Mux,
    calls: HashMap<u64, Waiting>,
    outgoing: VecDeque<Outgoing>,
    /// Calls that nobody watches yet.
    unwatched: Vec<Abandoned>,
    asides: HashMap<Asker, broadcast::Sender<Aside>>,
    effects: Vec<Effect>,
    /// What the process at the other end speaks that was shaken hands with; none while there is none.
    open: Option<Era>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("mux", &self.mux).field("open", &self.open).finish_non_exhaustive()
    }
}

/// Who waits for a call.
#[derive(Debug)]
struct Waiting {
    answers: Answers,
    watch: AbortHandle,
}

#[derive(Debug)]
struct Outgoing {
    line: Bytes,
    units: u32,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The child reads no more.
    Writing,
    /// The child says no more.
    Reading,
}

impl Wire {
    pub(super) fn new(limits: &Limits) -> Self {
        let room_max = u32::try_from(limits.child_queue_max).unwrap_or(u32::MAX).max(1);
        let inner = Inner {
            mux: Mux::new(limits.child_in_flight_max),
            calls: HashMap::new(),
            outgoing: VecDeque::new(),
            unwatched: Vec::new(),
            asides: HashMap::new(),
            effects: Vec::new(),
            open: None,
        };
        Self {
            inner: Mutex::new(inner),
            room: Semaphore::new(room_max.try_into().unwrap_or(Semaphore::MAX_PERMITS)),
            room_max,
            room_timeout: *limits.child_queue_timeout,
            wake: Notify::new(),
            quiet: Notify::new(),
            bounds: Bounds { depth_max: limits.depth_max, batch_max: limits.batch_max },
            line_bytes_max: limits.line_bytes_max,
            said_max: limits.stream_queue_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.lock().calls.len()
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().mux.counts()
    }

    /// Whether anyone waits for anything.
    pub(super) fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.calls.is_empty() && inner.asides.values().all(|asides| asides.receiver_count() == 0)
    }

    /// Sends a request of an asker's.
    pub(super) async fn call(&self, ask: &Ask) -> Result<Reply, Refusal> {
        let Ask { asker, message } = ask;
        let Body::One(Message::Request(request)) = self.read(message)? else {
            return Err(Refusal::Invalid("this is no request".to_owned()));
        };
        let room = self.room(message.len()).await?;
        let (answers, reply) = mpsc::channel(self.said_max + 1);
        let mut inner = self.lock();
        inner.check_speaks(&request)?;
        match inner.mux.ask(asker, message, &request)? {
            Asked::Answered(response) => {
                let _ = answers.try_send(Ok(Said::Response(response)));
            }
            Asked::Forward { call, line } => {
                inner.wait(call, answers);
                inner.queue(line, room);
                self.wake.notify_one();
            }
        }
        Ok(Reply(reply))
    }

    /// Sends a request of our own, whether or not hands were shaken.
    pub(super) fn own(&self, method: &str, params: &str) -> Reply {
        let (answers, reply) = mpsc::channel(2);
        let mut inner = self.lock();
        let (call, line) = inner.mux.own(method, params);
        inner.wait(call, answers);
        inner.queue_anyway(line);
        self.wake.notify_one();
        Reply(reply)
    }

    /// Sends a notification of our own.
    pub(super) fn tell(&self, method: &str) {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\"}}\n");
        self.lock().queue_anyway(line.into());
        self.wake.notify_one();
    }

    /// Sends a notification of an asker's.
    pub(super) async fn notify(&self, asker: &Asker, message: &Bytes) -> Result<(), Refusal> {
        let Body::One(Message::Notification(note)) = self.read(message)? else {
            return Err(Refusal::Invalid("this is no notification".to_owned()));
        };
        let room = self.room(message.len()).await?;
        let mut inner = self.lock();
        inner.check_open()?;
        if let Some(line) = inner.mux.notify(asker, message, &note) {
            inner.queue(line, room);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Sends an asker's answer to a request of the server's.
    pub(super) async fn answer(&self, asker: &Asker, message: &Bytes) -> Result<(), Refusal> {
        let Body::One(Message::Response(response)) = self.read(message)? else {
            return Err(Refusal::Invalid("this is no answer".to_owned()));
        };
        let room = self.room(message.len()).await?;
        let mut inner = self.lock();
        inner.check_open()?;
        let line = inner.mux.answer(asker, message, &response)?;
        inner.queue(line, room);
        self.wake.notify_one();
        Ok(())
    }

    pub(super) fn asides(&self, asker: &Asker) -> broadcast::Receiver<Aside> {
        let mut inner = self.lock();
        inner.asides.retain(|_, asides| asides.receiver_count() > 0);
        let asides = inner.asides.entry(asker.clone()).or_insert_with(|| broadcast::Sender::new(ASIDES_MAX));
        asides.subscribe()
    }

    /// Tells everyone that a list changed, if that is what a notification says.
    pub(super) fn list_changed(&self, note: Bytes) {
        let changed = matches!(
            mcp::parse(&note, Bounds { depth_max: usize::MAX, batch_max: 1 }),
            Ok(Body::One(Message::Notification(it))) if it.method.ends_with("/list_changed")
        );
        if changed {
            self.lock().aside(&Audience::Everyone, &Aside::Note(note));
        }
    }

    pub(super) fn end(&self, asker: &Asker) {
        let mut inner = self.lock();
        inner.asides.remove(asker);
        for line in inner.mux.end(asker) {
            inner.queue_anyway(line);
        }
        self.wake.notify_one();
    }

    /// Hands were shaken: calls may come.
    pub(super) fn open(&self, era: Era) {
        let mut inner = self.lock();
        inner.open = Some(era);
        for line in inner.mux.resume() {
            inner.queue_anyway(line);
        }
        self.wake.notify_one();
    }

    /// No more calls; those under way go on.
    pub(super) fn close(&self) {
        self.lock().open = None;
    }

    /// Returns once nothing is under way.
    pub(super) async fn drained(&self) {
        while self.in_flight() > 0 {
            self.quiet.notified().await;
        }
    }

    /// The process is gone. Everyone who waits is told why.
    pub(super) fn lost(&self, refusal: &Refusal) {
        let mut inner = self.lock();
        inner.open = None;
        inner.unwatched.clear();
        for call in inner.mux.lost() {
            inner.finish(call, Err(refusal.clone()));
        }
        let units: u32 = inner.outgoing.drain(..).map(|it| it.units).sum();
        self.give_back(units);
    }

    fn read<'a>(&self, message: &'a Bytes) -> Result<Body<'a>, Refusal> {
        mcp::parse(message, self.bounds).map_err(|error| Refusal::Invalid(error.to_string()))
    }

    /// Room for a message, once there is.
    async fn room(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Refusal> {
        let units = u32::try_from(bytes / UNIT_BYTES + 1).unwrap_or(u32::MAX).min(self.room_max);
        if let Ok(room) = self.room.try_acquire_many(units) {
            return Ok(room);
        }
        let full = || Refusal::ChildBusy("its queue is full".to_owned());
        let room = timeout(self.room_timeout, self.room.acquire_many(units)).await;
        room.map_err(|_| full())?.map_err(|_| full())
    }

    fn give_back(&self, units: u32) {
        self.room.add_permits(usize::try_from(units).unwrap_or_default());
    }

    /// Writes what is queued until the child takes no more, and watches whether calls are still waited for.
    pub(super) async fn write(&self, mut to: impl AsyncWrite + Unpin) -> End {
        let mut watched: FuturesUnordered<Abandoned> = FuturesUnordered::new();
        let mut batch = Vec::new();
        loop {
            let units = self.next_batch(&mut batch, &mut watched);
            if batch.is_empty() {
                tokio::select! {
                    () = self.wake.notified() => {}
                    Some(abandoned) = watched.next() => self.abandon(abandoned.ok()),
                }
                continue;
            }
            {
                let mut writing = std::pin::pin!(to.write_all(&batch));
                let written = loop {
                    tokio::select! {
                        written = writing.as_mut() => break written,
                        Some(abandoned) = watched.next() => self.abandon(abandoned.ok()),
                    }
                };
                self.give_back(units);
                if written.is_err() {
                    return End::Writing;
                }
            }
            batch.clear();
            batch.shrink_to(BATCH_BYTES);
        }
    }

    /// Takes what fits into one write. Returns how many units of the queue it was.
    fn next_batch(&self, batch: &mut Vec<u8>, watched: &mut FuturesUnordered<Abandoned>) -> u32 {
        let mut inner = self.lock();
        watched.extend(inner.unwatched.drain(..));
        let mut units = 0;
        while let Some(next) = inner.outgoing.front() {
            if !batch.is_empty() && batch.len() + next.line.len() > BATCH_BYTES {
                break;
            }
            batch.extend_from_slice(&next.line);
            units += next.units;
            inner.outgoing.pop_front();
        }
        units
    }

    fn abandon(&self, call: Option<u64>) {
        let Some(call) = call else { return };
        let mut inner = self.lock();
        inner.drop_call(call);
        self.tell_quiet(&inner);
    }

    /// Reads until the child says no more.
    pub(super) async fn hear(&self, mut from: impl AsyncRead + Unpin) -> End {
        let mut splitter = Splitter::new(self.line_bytes_max);
        loop {
            splitter.buffer().reserve(READ_BYTES);
            let read = from.read_buf(splitter.buffer()).await;
            while let Some(line) = splitter.next_line() {
                self.hear_line(&line);
            }
            if !matches!(read, Ok(1..)) {
                break;
            }
        }
        if let Some(line) = splitter.finish() {
            self.hear_line(&line);
        }
        End::Reading
    }

    fn hear_line(&self, line: &Line) {
        let Line::Whole(line) = line else {
            return self.lock().mux.hear_too_long();
        };
        for heard in mux::read(line, self.bounds) {
            let mut inner = self.lock();
            let mut effects = std::mem::take(&mut inner.effects);
            inner.mux.hear(heard, &mut effects);
            for effect in effects.drain(..) {
                self.carry_out(&mut inner, effect);
            }
            inner.effects = effects;
            self.tell_quiet(&inner);
        }
    }

    fn tell_quiet(&self, inner: &Inner) {
        if inner.open.is_none() && inner.calls.is_empty() {
            self.quiet.notify_one();
        }
    }

    fn carry_out(&self, inner: &mut Inner, effect: Effect) {
        match effect {
            Effect::Say(call, said) => {
                inner.say(call, said);
                // A call that was dropped for who fell behind leaves a cancellation.
                if !inner.outgoing.is_empty() {
                    self.wake.notify_one();
                }
            }
            Effect::Refuse(call, refusal) => inner.finish(call, Err(refusal)),
            // Whoever asks without reading the answers must not fill the memory with them.
            Effect::Write(line) => {
                if let Ok(room) = self.room.try_acquire() {
                    inner.queue(line, room);
                    self.wake.notify_one();
                }
            }
            Effect::Aside(audience, aside) => inner.aside(&audience, &aside),
        }
    }
}

impl Inner {
    fn check_open(&self) -> Result<Era, Refusal> {
        self.open.ok_or_else(|| Refusal::ChildBusy("it is about to restart".to_owned()))
    }

    /// A request is in the era of the process that introduced itself last. The next one may speak the other: it might have
    /// been replaced, or ended over the first question.
    fn check_speaks(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let is_modern = request.params.meta.protocol_version.is_some();
        match (self.check_open()?, is_modern) {
            (Era::Modern, true) | (Era::Legacy, false) => Ok(()),
            _ => {
                Err(Refusal::ChildBusy("it was started again, and speaks another era than before".to_owned()))
            }
        }
    }

    fn queue(&mut self, line: Bytes, room: SemaphorePermit<'_>) {
        let units = u32::try_from(room.num_permits()).unwrap_or_default();
        room.forget();
        self.outgoing.push_back(Outgoing { line, units });
    }

    /// For what is small and comes at most once for each thing that had to wait for room.
    fn queue_anyway(&mut self, line: Bytes) {
        self.outgoing.push_back(Outgoing { line, units: 0 });
    }

    fn wait(&mut self, call: u64, answers: Answers) {
        let (watch, registration) = AbortHandle::new_pair();
        let watched = answers.clone();
        let abandoned = async move {
            watched.closed().await;
            call
        };
        self.unwatched.push(Abortable::new(abandoned.boxed(), registration));
        self.calls.insert(call, Waiting { answers, watch });
    }

    fn say(&mut self, call: u64, said: Said) {
        if matches!(said, Said::Response(_)) {
            return self.finish(call, Ok(said));
        }
        let Some(waiting) = self.calls.get(&call) else { return };
        // The last place is the response's.
        if waiting.answers.capacity() > 1 {
            let _ = waiting.answers.try_send(Ok(said));
            return;
        }
        let behind = Refusal::UpstreamBroke("the caller does not take what the server says".to_owned());
        self.finish(call, Err(behind));
        self.drop_call(call);
    }

    /// The last that is said in a call.
    fn finish(&mut self, call: u64, last: Result<Said, Refusal>) {
        if let Some(Waiting { answers, watch }) = self.calls.remove(&call) {
            let _ = answers.try_send(last);
            watch.abort();
        }
    }

    fn drop_call(&mut self, call: u64) {
        self.calls.remove(&call);
        for line in self.mux.cancel(call) {
            self.queue_anyway(line);
        }
    }

    fn aside(&self, audience: &Audience, aside: &Aside) {
        let send = |asides: &broadcast::Sender<Aside>| {
            let _ = asides.send(aside.clone());
        };
        match audience {
            Audience::Everyone => self.asides.values().for_each(send),
            Audience::OneCaller => {
                let mut listening = self.asides.iter().filter(|(_, asides)| asides.receiver_count() > 0);
                let caller = listening.next().map(|(asker, _)| &asker.caller);
                if caller.is_some_and(|caller| listening.all(|(asker, _)| asker.caller == *caller)) {
                    self.asides.values().for_each(send);
                }
            }
            Audience::Askers(askers) => {
                askers.iter().filter_map(|asker| self.asides.get(asker)).for_each(send)
            }
        }
    }
}
