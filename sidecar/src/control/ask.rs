//! Answers the control plane's questions about this sidecar, on a stream beside that of discovery and over the same
//! connection: what it holds, what it logs, and which calls end, for as long as somebody wants to know.
//!
//! Questions are answered side by side, none waits for another, and all end with the stream. Not here: who may ask.
//! Whoever holds the control plane's certificate is believed to have seen to that.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};
use weft_proto::name::NodeId;
use weft_proto::pb::weft::ask::v1 as pb;
use weft_proto::pb::weft::ask::v1::answer::Says;
use weft_proto::pb::weft::ask::v1::ask_client::AskClient;
use weft_proto::pb::weft::ask::v1::question::Asks;

use super::connect::Channel;
use super::session::Holding;
use crate::admin::Shown;
use crate::logging::{Logging, Now};
use crate::onlook::{Onlooker, Onlookers, Tally, Tap};

/// Questions that are answered at once.
pub const QUESTIONS_MAX: usize = 32;
/// Largest question, in bytes.
const QUESTION_BYTES_MAX: usize = 64 << 10;
/// Answers that wait for the connection to take them.
const OUTGOING_MAX: usize = 8;
/// Time in which the connection takes an answer.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Time until the stream is open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Time until the stream is opened again, at least and at most.
const AGAIN_SECS: std::ops::Range<f64> = 0.5..2.0;
/// Resources in one answer.
const RESOURCES_PER_ANSWER_MAX: usize = 200;
/// Bytes of one piece of the configuration as text, and of all pieces.
const PIECE_BYTES_MAX: usize = 64 << 10;
const SNAPSHOT_BYTES_MAX: usize = 8 << 20;
/// Largest account of how the sidecar stands, in bytes.
const STANDING_BYTES_MAX: usize = 128 << 10;
/// Calls in one answer.
const CALLS_PER_ANSWER_MAX: usize = 64;
/// Rows in one answer.
const ROWS_PER_ANSWER_MAX: usize = 40;
/// Longest that calls are counted for one answer.
const TALLY_MAX: Duration = Duration::from_secs(300);

/// What is asked about.
#[derive(Clone)]
pub struct About {
    /// Set as soon as the sidecar runs.
    pub shown: Arc<OnceLock<Arc<dyn Shown>>>,
    pub logging: Logging,
    pub onlookers: Onlookers,
}

impl std::fmt::Debug for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("About").finish_non_exhaustive()
    }
}

/// Where the link is asked what it holds.
pub(super) type Look = oneshot::Sender<Vec<Holding>>;

/// Who answers.
#[derive(Debug)]
pub(super) struct Answerer {
    pub(super) node: NodeId,
    pub(super) about: About,
    pub(super) looks: mpsc::Sender<Look>,
}

impl Answerer {
    /// Goes on until it is dropped, or the control plane turns out to ask nothing.
    pub(super) async fn run(self, channel: Channel) {
        loop {
            let Err(status) = self.stream(channel.clone()).await else { return };
            match status.code() {
                Code::Unimplemented => {
                    tracing::info!("the control plane asks sidecars nothing");
                    return;
                }
                code => tracing::debug!(error = status.message(), ?code, "stream of questions ended"),
            }
            let again = rand::rng().random_range(AGAIN_SECS);
            sleep(Duration::from_secs_f64(again)).await;
        }
    }

    async fn stream(&self, channel: Channel) -> Result<(), Status> {
        let (answers, outgoing) = mpsc::channel(OUTGOING_MAX);
        let first = pb::Answer { node: self.node.as_str().to_owned(), ..pb::Answer::default() };
        answers.send(first).await.map_err(|_| Status::unavailable("the stream has ended"))?;
        let mut client = AskClient::new(channel).max_decoding_message_size(QUESTION_BYTES_MAX);
        let opening = timeout(OPEN_TIMEOUT, client.listen(ReceiverStream::new(outgoing))).await;
        let late = || Err(Status::unavailable("the control plane does not open the stream"));
        let mut questions = opening.unwrap_or_else(|_| late())?.into_inner();
        // All of them end with this.
        let mut answering: HashMap<u64, AbortOnDropHandle<()>> = HashMap::new();
        loop {
            let question = questions.message().await?;
            let question =
                question.ok_or_else(|| Status::unavailable("the control plane ended the stream"))?;
            answering.retain(|_, task| !task.is_finished());
            if matches!(question.asks, Some(Asks::Stop(_))) {
                answering.remove(&question.id);
                continue;
            }
            let reply = Reply { id: question.id, to: answers.clone() };
            let is_full = answering.len() >= QUESTIONS_MAX;
            let work = Answering { about: self.about.clone(), looks: self.looks.clone(), reply };
            let task = tokio::spawn(work.run(question.asks, is_full));
            answering.insert(question.id, AbortOnDropHandle::new(task));
        }
    }
}

/// One question that is being answered.
struct Answering {
    about: About,
    looks: mpsc::Sender<Look>,
    reply: Reply,
}

/// Why a question is not answered any further.
enum End {
    Failed(String),
    /// Nobody takes answers any more.
    Gone,
}

impl From<crate::onlook::Error> for End {
    fn from(error: crate::onlook::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Answering {
    async fn run(self, asks: Option<Asks>, is_full: bool) {
        let answered = match asks {
            _ if is_full => {
                Err(End::Failed(format!("it answers {QUESTIONS_MAX} questions at once, and no more")))
            }
            Some(Asks::HoldsWhat(what)) => self.holds(&what).await,
            Some(Asks::LogsWhat(what)) => self.logs(what).await,
            Some(Asks::LogLinesWhat(_)) => self.log_lines().await,
            Some(Asks::Tap(tap)) => self.tap(tap).await,
            Some(Asks::Tally(tally)) => self.tally(&tally).await,
            Some(Asks::Stop(_)) | None => {
                let version = env!("CARGO_PKG_VERSION");
                Err(End::Failed(format!("this sidecar, of version {version}, does not know the question")))
            }
        };
        if let Err(End::Failed(why)) = answered {
            self.reply.fail(why).await;
        }
    }

    async fn holds(&self, what: &pb::HoldsWhat) -> Result<(), End> {
        let shown = self.about.shown.get().map(Arc::clone);
        let shown = shown.ok_or_else(|| End::Failed("the sidecar is starting".to_owned()))?;
        // It may be long to write.
        let dumped = tokio::task::spawn_blocking(move || shown.config_dump()).await;
        let mut dump = dumped.map_err(|error| End::Failed(error.to_string()))?;
        let snapshot = dump.as_object_mut().and_then(|dump| dump.remove("snapshot"));
        let (look, holdings) = oneshot::channel();
        self.looks.send(look).await.map_err(|_| End::Gone)?;
        let holdings = holdings.await.map_err(|_| End::Gone)?;
        let standing = match dump.to_string() {
            standing if standing.len() <= STANDING_BYTES_MAX => standing,
            _ => serde_json::json!({ "leftOut": "it is longer than is told" }).to_string(),
        };
        self.reply.say(Says::Holds(pb::Holds { standing, ..pb::Holds::default() })).await?;
        let mut holdings = holdings.into_iter().map(held);
        loop {
            let resources: Vec<_> = holdings.by_ref().take(RESOURCES_PER_ANSWER_MAX).collect();
            if resources.is_empty() {
                break;
            }
            self.reply.say(Says::Holds(pb::Holds { resources, ..pb::Holds::default() })).await?;
        }
        if what.snapshot {
            let text = snapshot.as_ref().and_then(|text| text.as_str()).unwrap_or_default();
            for piece in pieces(text) {
                let snapshot = piece.to_owned();
                self.reply.say(Says::Holds(pb::Holds { snapshot, ..pb::Holds::default() })).await?;
            }
        }
        self.reply.say_last(Says::Holds(pb::Holds::default())).await
    }

    async fn logs(&self, what: pb::LogsWhat) -> Result<(), End> {
        let logging = &self.about.logging;
        let now = match (what.filter, what.for_secs) {
            (None, _) => Ok(logging.now()),
            (Some(filter), 0) => logging.set(&filter),
            (Some(filter), secs) => logging.set_for(&filter, Duration::from_secs(secs.into())),
        };
        let Now { filter, before, returns } = now.map_err(|error| End::Failed(error.to_string()))?;
        if before.is_some() {
            tracing::info!(
                filter = &*filter,
                before = before.as_deref(),
                "what is logged was set by an operator"
            );
        }
        let (usual, left) =
            returns.map_or((String::new(), 0), |(usual, left)| (usual.to_string(), left.as_secs()));
        let logs = pb::Logs {
            filter: filter.to_string(),
            before: before.as_deref().unwrap_or_default().to_owned(),
            usual,
            returns_in_secs: left.try_into().unwrap_or(u32::MAX),
        };
        self.reply.say_last(Says::Logs(logs)).await
    }

    async fn log_lines(&self) -> Result<(), End> {
        let lines = self.about.logging.recent().lines();
        self.reply.say_last(Says::LogLines(pb::LogLines { lines })).await
    }

    async fn tap(&self, wanted: pb::Tap) -> Result<(), End> {
        let (tap, mut calls) = Tap::new(wanted)?;
        let _looking = self.look(Arc::<Tap>::clone(&tap))?;
        // That it has begun.
        self.reply.say(Says::Tapped(pb::Tapped::default())).await?;
        loop {
            let mut batch = Vec::with_capacity(CALLS_PER_ANSWER_MAX);
            calls.recv_many(&mut batch, CALLS_PER_ANSWER_MAX).await;
            let tapped = pb::Tapped { calls: batch, lost: tap.take_lost() };
            self.reply.say(Says::Tapped(tapped)).await?;
        }
    }

    async fn tally(&self, wanted: &pb::Tally) -> Result<(), End> {
        let tally = Tally::new(wanted)?;
        let looking = self.look(Arc::<Tally>::clone(&tally))?;
        let began = Instant::now();
        sleep(Duration::from_millis(wanted.millis.into()).min(TALLY_MAX)).await;
        drop(looking);
        let micros = began.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
        let (mut rows, crowded) = tally.take();
        while rows.len() > ROWS_PER_ANSWER_MAX {
            let rest = rows.split_off(ROWS_PER_ANSWER_MAX);
            self.reply.say(Says::Tallied(pb::Tallied { micros, rows, crowded: 0 })).await?;
            rows = rest;
        }
        self.reply.say_last(Says::Tallied(pb::Tallied { micros, rows, crowded })).await
    }

    fn look(&self, who: Arc<dyn Onlooker>) -> Result<crate::onlook::Looking, End> {
        let full = || End::Failed("as many look on at this sidecar as may at once".to_owned());
        self.about.onlookers.add(who).ok_or_else(full)
    }
}

/// Where the answers to one question go.
struct Reply {
    id: u64,
    to: mpsc::Sender<pb::Answer>,
}

impl Reply {
    async fn say(&self, says: Says) -> Result<(), End> {
        self.send(pb::Answer { says: Some(says), ..pb::Answer::default() }).await
    }

    async fn say_last(&self, says: Says) -> Result<(), End> {
        self.send(pb::Answer { says: Some(says), last: true, ..pb::Answer::default() }).await
    }

    async fn fail(&self, failure: String) {
        // Whoever is gone needs no reason.
        let _ = self.send(pb::Answer { failure, last: true, ..pb::Answer::default() }).await;
    }

    async fn send(&self, answer: pb::Answer) -> Result<(), End> {
        let answer = pb::Answer { id: self.id, ..answer };
        match timeout(SEND_TIMEOUT, self.to.send(answer)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }
}

fn held(it: Holding) -> pb::Held {
    pb::Held {
        type_url: it.ty.type_url().to_owned(),
        name: it.name.to_string(),
        version: it.version.map(|version| version.to_string()).unwrap_or_default(),
        digest: it.digest.map(|digest| digest.to_vec()).unwrap_or_default(),
        held_back: it.held_back,
        unreadable: it.digest.is_none(),
    }
}

/// A text in pieces, as much of it as is told.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = &text[..text.floor_char_boundary(SNAPSHOT_BYTES_MAX)];
    std::iter::from_fn(move || {
        let (piece, left) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES_MAX));
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_told_in_pieces_that_add_up_to_it_as_far_as_it_is_told() {
        let check = |text: &str, count: usize| {
            let told: Vec<_> = pieces(text).collect();
            assert_eq!(told.len(), count);
            assert!(told.iter().all(|piece| piece.len() <= PIECE_BYTES_MAX));
            let whole = told.concat();
            assert!(text.starts_with(&whole) && text.len().min(SNAPSHOT_BYTES_MAX) - whole.len() < 4);
        };
        check("", 0);
        check("short", 1);
        check(&"é".repeat(PIECE_BYTES_MAX), 2);
        check(&"€".repeat(SNAPSHOT_BYTES_MAX), 129);
    }
}
