//! One attempt at one instance, and, where that is wanted, a second one at another while the first is under way.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use tokio::time::{Instant, sleep_until, timeout_at};
use weft_proto::resource::units::Delay;

use super::checks::Checks;
use super::servers::{Instance, Reach};
use super::{Affinity, Outbound};
use crate::headers::REASON;
use crate::refusal::Refusal;
use crate::upstream::{Outgoing, SendError, Unsent, UpstreamBody};

/// What a peer says where it tells a failure as the response to a call of the legacy era.
const FAILURES: [&str; 6] =
    ["upstream_broke", "upstream_unreachable", "timed_out", "no_instance", "child_exited", "child_busy"];

/// What a peer says where nothing was sent to the server behind it: it does not reach that, or does not know yet what is
/// allowed.
const NEVER_ARRIVED: [&str; 2] = ["upstream_unreachable", "not_ready"];

/// An instance's answer, and its place among the instances.
pub(super) type Served = (usize, Response<UpstreamBody>);

/// How long there may be no answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    pub(super) until: Instant,
    pub(super) after: Duration,
}

impl Time {
    pub(super) fn beginning(after: Duration) -> Self {
        Self { until: Instant::now() + after, after }
    }

    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.until
    }
}

/// A failed attempt.
pub(super) struct Failure {
    pub(super) refusal: Refusal,
    /// The request, if it never left.
    pub(super) request: Option<Outgoing>,
    /// The instance was taken out of the configuration.
    pub(super) retired: bool,
    /// The instance had no part in it.
    ours: bool,
}

/// What is known of a request besides itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trying<'a> {
    pub(super) affinity: Affinity<'a>,
    pub(super) time: Time,
    /// When another instance is asked as well.
    pub(super) hedge_after: Option<Delay>,
    /// The tool that is called.
    pub(super) tool: Option<&'a str>,
}

impl Outbound {
    /// Asks one instance, and another one as well if the first has not answered in time, is not bound to, and the budget
    /// for that has something left. The answer that comes first is taken, if it is one; the other request is dropped, by
    /// which its instance learns that nobody waits any more.
    pub(super) async fn try_one(
        &self,
        reach: &Reach,
        (at, tried): (usize, &[usize]),
        request: Outgoing,
        trying: Trying<'_>,
    ) -> Result<Served, Failure> {
        match trying.hedge_after.filter(|_| !trying.affinity.is_bound()) {
            None => self.attempt(reach, at, request, trying.time).await.map(|response| (at, response)),
            // In a box: it is rare, and every request would carry the room for two.
            Some(delay) => Box::pin(self.try_by(delay, reach, (at, tried), request, trying)).await,
        }
    }

    async fn try_by(
        &self,
        delay: Delay,
        reach: &Reach,
        (at, tried): (usize, &[usize]),
        request: Outgoing,
        Trying { time, tool, .. }: Trying<'_>,
    ) -> Result<Served, Failure> {
        let tool = match (delay, tool) {
            (Delay::Given(after), _) => {
                return self.try_two(reach, (at, tried), request, (time, after.duration())).await;
            }
            (Delay::P95, tool) => tool.unwrap_or_default(),
        };
        let (began, delay) = (Instant::now(), reach.pace.delay(tool));
        let served = match delay {
            None => self.attempt(reach, at, request, time).await.map(|response| (at, response)),
            Some(after) => self.try_two(reach, (at, tried), request, (time, after)).await,
        };
        match &served {
            Ok((_, response)) if is_failure(response) => {}
            Ok((by, _)) if *by == at => reach.pace.answered(tool, began.elapsed()),
            Ok(_) => reach.pace.answered(tool, delay.unwrap_or_default()),
            Err(_) => {}
        }
        served
    }

    async fn try_two(
        &self,
        reach: &Reach,
        (at, tried): (usize, &[usize]),
        request: Outgoing,
        (time, after): (Time, Duration),
    ) -> Result<Served, Failure> {
        reach.hedges.call(super::HEDGES_PERCENT);
        let (spare, began) = (Arc::clone(&request), Instant::now());
        let mut first = pin!(self.attempt(reach, at, request, time));
        tokio::select! {
            biased;
            outcome = &mut first => return outcome.map(|response| (at, response)),
            () = sleep_until(began + after) => {}
        }
        let tried: Vec<_> = tried.iter().copied().chain([at]).collect();
        let other = reach.choose(Affinity::Any, &tried).ok().flatten();
        let Some(other) = other.filter(|other| reach.is_fit(*other)) else {
            return first.await.map(|response| (at, response));
        };
        if !reach.hedges.retry() {
            self.hedged(reach, "no_budget");
            return first.await.map(|response| (at, response));
        }
        let second = pin!(self.attempt(reach, other, spare, time));
        let (second_won, outcome) = sooner(first, second).await;

        if second_won {
            // It would have looked fast, for it never answered.
            let now = Instant::now();
            reach.instances[at].load.took(now - began, now.into_std());
        }
        self.hedged(reach, if second_won { "won" } else { "lost" });
        outcome.map(|response| (if second_won { other } else { at }, response))
    }

    fn hedged(&self, reach: &Reach, outcome: &'static str) {
        self.config.counts.hedge(&reach.server, outcome);
    }

    async fn attempt(
        &self,
        reach: &Reach,
        at: usize,
        request: Outgoing,
        Time { until, after }: Time,
    ) -> Result<Response<UpstreamBody>, Failure> {
        let instance = &reach.instances[at];
        let in_flight = instance.load.begin();
        instance.checks.iter().for_each(Checks::used);
        let began = Instant::now();
        let try_until = reach.try_timeout.map_or(until, |each| until.min(began + each));
        let sent = timeout_at(try_until, instance.pool.send(request)).await;
        let now = Instant::now();
        let judge = |failed: bool| match failed {
            true => self.failed(reach, instance, now),
            false => instance.load.answered(now - began, now.into_std()),
        };
        match sent {
            Ok(Ok(response)) => {
                judge(is_failure(&response));
                Ok(response.map(|body| body.hold(in_flight)))
            }
            Ok(Err(error)) => {
                let failure = Failure::from(error);
                if !failure.ours {
                    judge(true);
                }
                Err(failure)
            }
            Err(_) => {
                judge(true);
                let after = if try_until == until { after } else { try_until - began };
                Err(Failure::of(Refusal::TimedOut { after }))
            }
        }
    }

    /// Judged by the instances as they are now, which may be others than when the request began.
    fn failed(&self, reach: &Reach, instance: &Instance, now: Instant) {
        let servers = self.servers.load();
        let Some(current) = servers.reach(&reach.server) else { return };
        if current.balancer.failed(&instance.load, now.into_std()) {
            tracing::warn!(server = %reach.server, address = %instance.address, "instance left out for a while");
        }
    }
}

type Outcome = Result<Response<UpstreamBody>, Failure>;

/// The sooner of two answers, and whether it is the second. A failure does not win as long as the other may still come to
/// something; of two, the first is told.
async fn sooner(
    mut first: Pin<&mut impl Future<Output = Outcome>>,
    mut second: Pin<&mut impl Future<Output = Outcome>>,
) -> (bool, Outcome) {
    let is_good = |outcome: &Outcome| outcome.as_ref().is_ok_and(|response| !is_failure(response));
    tokio::select! {
        biased;
        outcome = &mut first => {
            if is_good(&outcome) {
                return (false, outcome);
            }
            let other = second.await;
            if is_good(&other) { (true, other) } else { (false, unsent_no_more(outcome)) }
        }
        outcome = &mut second => {
            if is_good(&outcome) {
                return (true, outcome);
            }
            (false, first.await.map_err(left))
        }
    }
}

/// That one request never left says nothing of the other.
fn unsent_no_more(outcome: Outcome) -> Outcome {
    outcome.map_err(left)
}

fn left(failure: Failure) -> Failure {
    Failure { request: None, ..failure }
}

/// Whether a peer says that the server behind it does not work.
pub(super) fn is_failure<B>(response: &Response<B>) -> bool {
    let broken = [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    let reason = || response.headers().get(REASON).and_then(|reason| reason.to_str().ok());
    broken.contains(&response.status()) || reason().is_some_and(|reason| FAILURES.contains(&reason))
}

/// Whether a peer says so. Even what must not be done twice may then be asked of another.
pub(super) fn never_arrived<B>(response: &Response<B>) -> bool {
    let reason = response.headers().get(REASON).and_then(|reason| reason.to_str().ok());
    reason.is_some_and(|reason| NEVER_ARRIVED.contains(&reason))
}

/// What is told of it where no instance is left in the end.
pub(super) fn not_arrived() -> Refusal {
    Refusal::UpstreamUnreachable("no sidecar beside it sent it on".to_owned())
}

impl Reach {
    /// The instance that a request goes to that came to nothing at those that were tried; none if it goes nowhere else.
    pub(super) fn another(&self, trying: &Trying<'_>, tried: &[usize]) -> Option<usize> {
        let is_free = !trying.affinity.is_bound() && !trying.time.is_over();
        let other = is_free.then(|| self.choose(trying.affinity, tried).ok().flatten()).flatten();
        other.filter(|_| self.budget.retry())
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let failure = Self::of(error.refusal());
        match error {
            SendError::NeverSent { request, why } => Self {
                retired: matches!(why, Unsent::Retired),
                ours: matches!(why, Unsent::Retired | Unsent::Full { .. }),
                request: Some(request),
                ..failure
            },
            SendError::MaybeSent(_) => failure,
        }
    }
}

impl Failure {
    /// Of a request that the instance may have seen.
    const fn of(refusal: Refusal) -> Self {
        Self { refusal, request: None, retired: false, ours: false }
    }
}
