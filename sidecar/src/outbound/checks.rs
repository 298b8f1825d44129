//! Checks of the way to an instance, for as long as it is used: whether the sidecar there answers a question that costs
//! nothing, and the server behind it. What the instance tells the control plane of its server says nothing of the way there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use rand::Rng as _;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use weft_proto::resource::kinds::HealthCheck;

use super::attempt::is_failure;
use super::balance::Load;
use crate::exchange::http::{Target, discovery};
use crate::health::Health;
use crate::health::check::{interval_of, timeout_of};
use crate::health::score::Score;
use crate::upstream::{Pool, SendError};

/// Rounds without a request after which an instance is not checked any more, until the next one.
const UNUSED_ROUNDS_MAX: u32 = 6;

/// The checks of one instance. They end with this.
#[derive(Debug)]
pub(super) struct Checks {
    about: Arc<About>,
    stop: CancellationToken,
    _stop: DropGuard,
}

#[derive(Debug)]
struct About {
    check: HealthCheck,
    pool: Pool,
    load: Arc<Load>,
    path: String,
    is_used: AtomicBool,
    is_running: AtomicBool,
}

impl Checks {
    pub(super) fn new(check: HealthCheck, pool: Pool, load: Arc<Load>, path: String) -> Self {
        let (is_used, is_running) = (AtomicBool::new(false), AtomicBool::new(false));
        let stop = CancellationToken::new();
        let about = Arc::new(About { check, pool, load, path, is_used, is_running });
        Self { about, _stop: stop.clone().drop_guard(), stop }
    }

    /// A request goes to the instance.
    pub(super) fn used(&self) {
        if !self.about.is_used.load(Ordering::Relaxed) {
            self.about.is_used.store(true, Ordering::Relaxed);
        }
        if !self.about.is_running.load(Ordering::Relaxed)
            && !self.about.is_running.swap(true, Ordering::AcqRel)
        {
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(run(Arc::clone(&self.about))));
        }
    }
}

async fn run(about: Arc<About>) {
    let mut score = Score::new(&about.check, Health::Serving);
    let mut unused = 0;
    loop {
        // A tenth more or less, so that the checks of many sidecars do not fall together.
        let pause = interval_of(&about.check).mul_f64(rand::rng().random_range(0.9..=1.1));
        sleep(pause).await;
        let is_used = about.is_used.swap(false, Ordering::Relaxed);
        // Whoever is left out is not used, and must be found to be well again.
        unused = if is_used || about.load.is_unwell() { 0 } else { unused + 1 };
        if unused >= UNUSED_ROUNDS_MAX {
            about.is_running.store(false, Ordering::Release);
            return;
        }
        match ask(&about, timeout_of(&about.check)).await {
            Some(true) => score.note(Ok(())),
            Some(false) => score.note(Err("no good answer".into())),
            None => return,
        }
        about.load.be_unwell(matches!(score.health(), Health::Degraded(_)));
    }
}

/// Whether the instance answers, and does not say that what is behind it does not. None if it is none any more.
async fn ask(about: &About, within: Duration) -> Option<bool> {
    let host = HeaderValue::from_static("instance");
    let target = Target { path: about.path.clone(), host, headers: HeaderMap::new() };
    let mut request = discovery(&target).ok()?;
    // The pool names whoever it connects to.
    request.headers_mut().remove(http::header::HOST);
    match timeout(within, about.pool.send(Arc::new(request))).await {
        Ok(Ok(response)) => Some(!is_failure(&response)),
        Ok(Err(SendError::NeverSent { why: crate::upstream::Unsent::Retired, .. })) => None,
        Ok(Err(_)) | Err(_) => Some(false),
    }
}
