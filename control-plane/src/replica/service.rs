//! One that follows, as the leader serves it: what it lacks first, then whatever is written.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use weft_proto::name::SpiffeId;
use weft_proto::pb::weft::replica::v1::replica_server::Replica;
use weft_proto::pb::weft::replica::v1::told::Says;
use weft_proto::pb::weft::replica::v1::{
    self as pb, BeginAnew, Lines, LinesAsked, LinesFound, LinesLacking, Progress, Told, TrailsAsked, UpToDate,
};

use super::standbys::{Place, Standby, Standbys};
use super::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, LIFE_EVERY, NAME_BYTES_MAX, OUTGOING_MAX, SEND_TIMEOUT, SILENCE_MAX,
};
use super::{trails, wire};
use crate::audit::Trails;
use crate::peer::Peer;
use crate::store::embedded::{EmbeddedStore, Mark};
use crate::store::replicated::{Beside, Course, Piece, Position};
use crate::store::{self, Event, Key, Page, Prefix, Revision, Store as _, Watch};

/// The service that lets others follow.
#[derive(Clone, Debug)]
pub struct Replication {
    pub store: Arc<EmbeddedStore>,
    pub standbys: Arc<Standbys>,
    pub trails: Trails,
    /// The control plane's own identity: nobody else may follow.
    pub own: SpiffeId,
    pub shutdown: CancellationToken,
}

impl Replication {
    /// Those that follow, by name.
    pub fn followers(&self) -> Vec<Standby> {
        self.standbys.told(self.store.mark())
    }

    /// Nobody but the control plane itself may follow.
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let peer = Peer::of(request)?;
        if peer.leaf.as_ref().is_none_or(|leaf| leaf.spiffe_id != self.own) {
            return Err(Status::permission_denied("only a control plane of this mesh may follow"));
        }
        Ok(())
    }

    async fn run(self, mut progress: Streaming<Progress>, sender: mpsc::Sender<Result<Told, Status>>) {
        let stopped = self.shutdown.clone();
        let served = tokio::select! {
            served = self.serve(&mut progress, &sender) => served,
            () = stopped.cancelled() => Err(Status::unavailable("this control plane stops")),
        };
        if let Err(status) = served {
            tracing::info!(error = status.message(), "a control plane that stands by follows no more");
            let _ = timeout(SEND_TIMEOUT, sender.send(Err(status))).await;
        }
    }

    async fn serve(
        &self,
        progress: &mut Streaming<Progress>,
        sender: &mpsc::Sender<Result<Told, Status>>,
    ) -> Result<(), Status> {
        let hello = next(progress)
            .await?
            .hello
            .ok_or_else(|| Status::invalid_argument("it does not say who it is"))?;
        if hello.replica.is_empty() || hello.replica.len() > NAME_BYTES_MAX {
            return Err(Status::invalid_argument("its name is none, or too long"));
        }
        let place = self.standbys.begin(&hello.replica);
        let place = place.ok_or_else(|| Status::resource_exhausted("as many follow as may"))?;
        // Heard from now on, so that nothing is missed between what is read and what is written meanwhile.
        let beside = self.store.beside();
        let heard_from = self.store.mark().number;
        let position = self.store.position().await.map_err(failed)?;
        let copy = wire::read_position(hello.position.unwrap_or_default());
        let mut session =
            Session { store: &self.store, sender, told: Mark::default(), oldest: None, audited: 0 };
        let course = position.course_of(&copy);
        tracing::info!(
            replica = hello.replica,
            ?course,
            revision = copy.head.revision.0,
            "a control plane follows"
        );
        let Some(watch) = session.begin(course, position, copy).await? else { return Ok(()) };
        // What is read above has it.
        session.told.number = heard_from;
        Box::pin(session.go_on(watch, beside, progress, &place)).await
    }
}

async fn next(progress: &mut Streaming<Progress>) -> Result<Progress, Status> {
    match timeout(SILENCE_MAX, progress.next()).await {
        Ok(Some(progress)) => progress,
        Ok(None) => Err(Status::cancelled("it ended the stream")),
        Err(_) => Err(Status::deadline_exceeded("nothing was heard of it in time")),
    }
}

fn failed(error: store::Error) -> Status {
    match error {
        store::Error::Compacted { .. } => Status::aborted("compaction overtook it"),
        error => Status::unavailable(format!("the store cannot be read: {error}")),
    }
}

/// What was told to one that follows.
struct Session<'a> {
    store: &'a EmbeddedStore,
    sender: &'a mpsc::Sender<Result<Told, Status>>,
    told: Mark,
    /// The oldest revision that is left, where that is to be told once so much was told.
    oldest: Option<Revision>,
    /// The last audit record that was told.
    audited: u64,
}

impl Session<'_> {
    /// Tells all that there is but the revisions that follow. None where nothing is left to be told.
    async fn begin(
        &mut self,
        course: Course,
        position: Position,
        copy: Position,
    ) -> Result<Option<Watch>, Status> {
        let from = match course {
            Course::BeginAnew => {
                self.say(Some(Says::BeginAnew(BeginAnew {}))).await?;
                return Ok(None);
            }
            Course::GoOn => copy.head.revision,
            Course::Whole => self.base(position.head.oldest.previous()).await?,
        };
        let watch = self.store.watch(Prefix::all(), from).await.map_err(failed)?;
        (self.told.revision, self.audited) = (from, copy.audited);
        self.oldest = Some(position.head.oldest);
        self.tell(Piece::Epochs(position.epochs)).await?;
        let running = self.store.leases().await.map_err(failed)?;
        self.tell(Piece::AllLeases { running, last: position.leased }).await?;
        self.all_counts().await?;
        self.audit().await?;
        Ok(Some(watch))
    }

    async fn base(&self, at: Revision) -> Result<Revision, Status> {
        let mut page = Page { limit: 100, ..Page::default() };
        loop {
            let listing = self.store.list(&Prefix::all(), Some(at), page.clone()).await.map_err(failed)?;
            self.tell(Piece::Base(listing.entries)).await?;
            match listing.next {
                Some(after) => page.after = Some(after),
                None => return Ok(at),
            }
        }
    }

    async fn all_counts(&self) -> Result<(), Status> {
        let mut after: Option<Key> = None;
        loop {
            let counts = self.store.counts(after.clone()).await.map_err(failed)?;
            let up_to = counts.last().map(|count| count.name.clone());
            self.tell(Piece::AllCounts { after, up_to: up_to.clone(), counts }).await?;
            if up_to.is_none() {
                return Ok(());
            }
            after = up_to;
        }
    }

    async fn audit(&mut self) -> Result<(), Status> {
        loop {
            let entries = self.store.audited_after(self.audited).await.map_err(failed)?;
            let Some(last) = entries.last() else { return Ok(()) };
            self.audited = last.sequence;
            self.tell(Piece::Audit(entries)).await?;
        }
    }

    /// Tells whatever is written, until the end.
    async fn go_on(
        &mut self,
        mut watch: Watch,
        mut beside: broadcast::Receiver<Arc<Beside>>,
        progress: &mut Streaming<Progress>,
        place: &Place,
    ) -> Result<(), Status> {
        let goal = self.store.mark().revision;
        let mut complete = false;
        let mut life = interval(LIFE_EVERY);
        life.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            if !complete && self.told.revision >= goal {
                complete = true;
                self.say(Some(Says::UpToDate(UpToDate {}))).await?;
            }
            let took = tokio::select! {
                event = watch.next() => {
                    let event = event.ok_or_else(|| failed(store::Error::Closed))?.map_err(failed)?;
                    self.events(event, &mut watch).await?;
                    continue;
                }
                written = beside.recv() => {
                    let written = written.map_err(|_| Status::aborted("it is too slow, and begins again"))?;
                    self.beside(&written).await?;
                    continue;
                }
                word = progress.next() => {
                    let word = word.ok_or_else(|| Status::cancelled("it ended the stream"))??;
                    heard = Instant::now();
                    Some(Mark { revision: Revision(word.revision), number: word.number })
                }
                _ = life.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(Status::deadline_exceeded("nothing was heard of it in time"));
                    }
                    self.say(None).await?;
                    None
                }
            };
            if !place.took(took, self.store.mark()) {
                return Err(Status::aborted("another connection of the same replica took over"));
            }
        }
    }

    /// Tells a revision, and those that are there already with it.
    async fn events(&mut self, first: Event, watch: &mut Watch) -> Result<(), Status> {
        let (mut bytes, mut events) = (first.bytes(), vec![first]);
        while events.len() < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
            // A large one goes by itself, so that a message stays within what one revision may have.
            let Some(Some(event)) = watch.next().now_or_never() else { break };
            let event = event.map_err(failed)?;
            if bytes + event.bytes() > BATCH_BYTES_MAX {
                self.told(std::mem::take(&mut events)).await?;
                bytes = 0;
            }
            bytes += event.bytes();
            events.push(event);
        }
        self.told(events).await
    }

    async fn told(&mut self, events: Vec<Event>) -> Result<(), Status> {
        self.told.revision = events.last().map_or(self.told.revision, |event| event.revision);
        self.tell(Piece::Events(events)).await?;
        self.forget().await
    }

    async fn beside(&mut self, written: &Beside) -> Result<(), Status> {
        let Beside { number, counts, began, ended, oldest, audited } = written;
        if *number <= self.told.number {
            return Ok(());
        }
        if !counts.is_empty() {
            self.tell(Piece::Counts(counts.clone())).await?;
        }
        if !(began.is_empty() && ended.is_empty()) {
            self.tell(Piece::Leases { began: began.clone(), ended: ended.clone() }).await?;
        }
        if *audited {
            self.audit().await?;
        }
        self.oldest = oldest.or(self.oldest);
        self.forget().await?;
        // Only now it has all of it.
        self.told.number = *number;
        self.say(None).await
    }

    /// Says what is forgotten, once the copy has what is left.
    async fn forget(&mut self) -> Result<(), Status> {
        match self.oldest.filter(|oldest| *oldest <= self.told.revision) {
            Some(oldest) => {
                self.oldest = None;
                self.tell(Piece::Oldest(oldest)).await
            }
            None => Ok(()),
        }
    }

    async fn tell(&self, piece: Piece) -> Result<(), Status> {
        self.say(Some(wire::says(piece))).await
    }

    async fn say(&self, says: Option<Says>) -> Result<(), Status> {
        let told = Told { number: self.told.number, head: self.store.mark().revision.0, says };
        match timeout(SEND_TIMEOUT, self.sender.send(Ok(told))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("it is gone")),
            Err(_) => Err(Status::deadline_exceeded("a message was not taken in time")),
        }
    }
}

#[tonic::async_trait]
impl Replica for Replication {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<Told, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<Progress>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        self.check(&request)?;
        let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
        tokio::spawn(Box::pin(self.clone().run(request.into_inner(), sender)));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list_trails(&self, request: Request<TrailsAsked>) -> Result<Response<pb::Trails>, Status> {
        self.check(&request)?;
        trails::list(&self.trails, request.into_inner().after).await.map(Response::new)
    }

    async fn find_lines(&self, request: Request<LinesLacking>) -> Result<Response<LinesFound>, Status> {
        self.check(&request)?;
        trails::find(&self.trails, request.into_inner()).await.map(Response::new)
    }

    async fn read_lines(&self, request: Request<LinesAsked>) -> Result<Response<Lines>, Status> {
        self.check(&request)?;
        trails::lines(&self.trails, request.into_inner().after).await.map(Response::new)
    }
}
