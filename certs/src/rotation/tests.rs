//! The fake issuer signs with the real one.
#![cfg(feature = "ca")]

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;

use rcgen::PublicKeyData as _;
use tokio::time::Instant;

use super::*;
use crate::bundle::Bundles;
use crate::ca::{self, Limits};
use crate::testing::{Authority, DAY, Mesh, domain, id, issuer, now};

const ID: &str = "spiffe://mesh.test/ns/tools/sa/files";
const HOUR: Duration = Duration::from_secs(3600);

/// What the fake issuer does at one call.
enum Step {
    Refuse(Option<Duration>),
    Hang,
    As(&'static str),
    ForAnotherKey,
    With(Bundle),
    RenewAt(SystemTime),
}

struct Fake {
    mesh: Mesh,
    ca: ca::Issuer,
    clock: Clock,
    steps: Mutex<VecDeque<Step>>,
    calls: Mutex<Vec<(SystemTime, Vec<u8>)>>,
    /// While set every call is refused.
    down: Mutex<bool>,
}

impl Fake {
    fn new(clock: Clock) -> Self {
        let mesh = Mesh::new("mesh.test");
        let ca = issuer(&mesh, Limits::default());
        let (steps, calls, down) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { mesh, ca, clock, steps, calls, down }
    }

    fn then(&self, steps: impl IntoIterator<Item = Step>) {
        self.steps.lock().unwrap().extend(steps);
    }

    fn calls(&self) -> Vec<SystemTime> {
        self.calls.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }

    fn answer(&self, csr: &[u8], step: Option<Step>) -> Result<Grant, Refusal> {
        let sign = |csr: &[u8], name| self.ca.issue(csr, &id(name), &[], DAY, (self.clock)()).unwrap().chain;
        let refuse = |retry_after| Err(Refusal { message: "not now".to_owned(), retry_after });
        let grant = |chain| Grant { chain, bundles: vec![self.mesh.bundle()], renew_at: None };
        if *self.down.lock().unwrap() {
            return refuse(None);
        }
        match step {
            None | Some(Step::Hang) => Ok(grant(sign(csr, ID))),
            Some(Step::Refuse(retry_after)) => refuse(retry_after),
            Some(Step::As(name)) => Ok(grant(sign(csr, name))),
            Some(Step::ForAnotherKey) => Ok(grant(sign(Request::generate().unwrap().der(), ID))),
            Some(Step::With(bundle)) => Ok(Grant { bundles: vec![bundle], ..grant(sign(csr, ID)) }),
            Some(Step::RenewAt(at)) => Ok(Grant { renew_at: Some(at), ..grant(sign(csr, ID)) }),
        }
    }
}

impl Issuer for Fake {
    fn issue(&self, csr: Vec<u8>) -> Pin<Box<dyn Future<Output = Result<Grant, Refusal>> + Send + '_>> {
        Box::pin(async move {
            self.calls.lock().unwrap().push(((self.clock)(), csr.clone()));
            let step = self.steps.lock().unwrap().pop_front();
            if matches!(step, Some(Step::Hang)) {
                std::future::pending::<()>().await;
            }
            self.answer(&csr, step)
        })
    }
}

struct World {
    fake: Arc<Fake>,
    live: LiveIdentity,
    trust: TrustStore,
    handle: Handle,
    clock: Clock,
}

/// The wall clock goes with tokio's, which is paused.
fn begin(steps: impl IntoIterator<Item = Step>) -> World {
    let begun = Instant::now();
    let clock: Clock = Arc::new(move || now() + begun.elapsed());
    let fake = Arc::new(Fake::new(Arc::clone(&clock)));
    fake.then(steps);
    let (live, trust) = (LiveIdentity::empty(), TrustStore::new(Bundles::default()));
    let config = Config::new(Some(id(ID)), Arc::clone(&clock));
    let issuer: Arc<dyn Issuer> = Arc::clone(&fake) as _;
    let handle = start(config, live.clone(), trust.clone(), issuer);
    World { fake, live, trust, handle, clock }
}

impl World {
    async fn until(&self, condition: impl FnMut(&State) -> bool) -> State {
        self.handle.state().wait_for(condition).await.unwrap().clone()
    }

    async fn renewed(&self, times: u64) -> State {
        self.until(|state| state.renewals >= times).await
    }

    async fn failed(&self, times: u32) -> State {
        self.until(|state| state.attempts >= times).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_certificate_comes_at_once_with_its_trust() {
    let world = begin([]);
    let state = world.renewed(1).await;
    let leaf = world.live.leaf().unwrap();
    assert_eq!(leaf.spiffe_id.as_str(), ID);
    assert_eq!((state.serial, state.not_after), (Some(leaf.serial), Some(leaf.not_after)));
    assert_eq!(world.fake.calls(), [now()]);
    assert!(world.trust.load().get(&domain("mesh.test")).is_some());
}

#[tokio::test(start_paused = true)]
async fn certificates_are_renewed_around_half_their_life_with_a_new_key() {
    let world = begin([]);
    world.renewed(4).await;
    let calls = world.fake.calls();
    for pair in calls.windows(2) {
        let waited = pair[1].duration_since(pair[0]).unwrap();
        assert!(waited >= DAY.mul_f64(0.449) && waited <= DAY.mul_f64(0.551), "{waited:?}");
    }
    let requests = world.fake.calls.lock().unwrap();
    let public = |csr: &[u8]| ca::request::check(csr).unwrap().0.subject_public_key_info();
    let distinct: BTreeSet<_> = requests.iter().map(|(_, csr)| public(csr)).collect();
    assert_eq!(distinct.len(), requests.len());
}

#[tokio::test(start_paused = true)]
async fn the_issuer_may_say_when_to_come_back_within_the_certificate_s_life() {
    let world = begin([Step::RenewAt(now() + HOUR), Step::RenewAt(now() + 30 * DAY)]);
    world.renewed(3).await;
    let calls = world.fake.calls();
    let waited = calls[1].duration_since(now()).unwrap();
    assert!(waited >= HOUR && waited < HOUR + Duration::from_secs(1), "{waited:?}");
    assert!(calls[2] < now() + DAY, "advice beyond the end was followed");
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_valid_certificate_and_recovers() {
    let world = begin([]);
    let first = world.renewed(1).await;
    *world.fake.down.lock().unwrap() = true;
    let failing = world.failed(5).await;
    assert_eq!(world.live.leaf().map(|leaf| leaf.serial), first.serial);
    assert!(matches!(failing.last_error, Some(Error::Issuer(_))));
    *world.fake.down.lock().unwrap() = false;
    let recovered = world.renewed(2).await;
    assert_eq!((recovered.attempts, recovered.last_error), (0, None));
    assert_ne!(world.live.leaf().map(|leaf| leaf.serial), first.serial);
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_given_up_and_the_attempts_go_on() {
    let world = begin([]);
    world.renewed(1).await;
    *world.fake.down.lock().unwrap() = true;
    let end = world.live.leaf().unwrap().not_after;
    let mut leaves = world.live.watch();
    leaves.wait_for(Option::is_none).await.unwrap();
    let given_up = (world.clock)().duration_since(end).unwrap();
    assert!(given_up < Duration::from_secs(1), "{given_up:?} after its end");
    let calls = world.fake.calls().len();
    assert!(calls > 100, "{calls} attempts before the end");
    *world.fake.down.lock().unwrap() = false;
    world.renewed(2).await;
    assert!(world.live.leaf().unwrap().not_after > end);
}

#[tokio::test(start_paused = true)]
async fn attempts_spread_out_up_to_the_cap() {
    let world = begin([]);
    *world.fake.down.lock().unwrap() = true;
    world.failed(40).await;
    let calls = world.fake.calls();
    let waits: Vec<_> = calls.windows(2).map(|pair| pair[1].duration_since(pair[0]).unwrap()).collect();
    assert!(waits[0] <= Duration::from_millis(502), "{:?}", waits[0]);
    assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(150_002)));
    assert!(waits[12..].iter().any(|wait| *wait > Duration::from_secs(30)));
}

#[tokio::test(start_paused = true)]
async fn the_issuer_s_wish_to_be_left_alone_is_honoured_within_reason() {
    let world = begin([Step::Refuse(Some(Duration::from_secs(600))), Step::Refuse(Some(1000 * DAY))]);
    world.renewed(1).await;
    let calls = world.fake.calls();
    let waited = calls[1].duration_since(calls[0]).unwrap();
    assert!(waited >= Duration::from_secs(600) && waited < Duration::from_secs(602), "{waited:?}");
    let waited = calls[2].duration_since(calls[1]).unwrap();
    assert!(waited >= RETRY_AFTER_MAX && waited < RETRY_AFTER_MAX + Duration::from_secs(2), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_never_answers_counts_as_a_failure() {
    let world = begin([Step::Hang]);
    let state = world.failed(1).await;
    assert_eq!(state.last_error, Some(Error::Timeout { after: Duration::from_secs(30) }));
    world.renewed(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_somebody_else_is_refused() {
    let other = "spiffe://mesh.test/ns/tools/sa/other";
    let world = begin([Step::As(other)]);
    let state = world.failed(1).await;
    assert_eq!(state.last_error, Some(Error::WrongIdentity { found: id(other), expected: id(ID) }));
    assert_eq!(world.live.leaf(), None);
    assert!(world.trust.load().is_empty(), "trust was taken on with a refused certificate");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_another_key_is_refused() {
    let world = begin([Step::ForAnotherKey]);
    let state = world.failed(1).await;
    assert_eq!(state.last_error, Some(Error::Identity(tls::Error::KeyMismatch)));
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_the_bundle_does_not_vouch_for_is_refused() {
    let stranger = Authority::root("stranger").der;
    let bundle = Bundle::new(domain("mesh.test"), vec![stranger], 1, BTreeSet::new()).unwrap();
    let world = begin([Step::With(bundle)]);
    let state = world.failed(1).await;
    assert_eq!(state.last_error, Some(Error::Chain(verifier::Error::UnknownRoot)));
    assert_eq!(world.live.leaf(), None);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_refreshes_the_bundle_and_passes_over_an_older_one() {
    let world = begin([]);
    world.renewed(1).await;
    let roots = vec![world.fake.mesh.root.der.clone(), Authority::root("next").der];
    let newer = Bundle::new(domain("mesh.test"), roots, 5, BTreeSet::new()).unwrap();
    world.fake.then([Step::With(newer.clone())]);
    world.renewed(2).await;
    assert_eq!(**world.trust.load().get(&domain("mesh.test")).unwrap(), newer);
    // The next answer carries the first bundle again.
    world.renewed(3).await;
    assert_eq!(**world.trust.load().get(&domain("mesh.test")).unwrap(), newer);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_asked_for_comes_within_the_spread() {
    let world = begin([]);
    world.renewed(1).await;
    world.handle.renew_now();
    world.renewed(2).await;
    assert!((world.clock)() <= now() + Duration::from_secs(31));
}

#[tokio::test(start_paused = true)]
async fn without_a_given_identity_the_first_one_is_kept() {
    let begun = Instant::now();
    let clock: Clock = Arc::new(move || now() + begun.elapsed());
    let fake = Arc::new(Fake::new(Arc::clone(&clock)));
    let config = Config::new(None, clock);
    let (live, trust) = (LiveIdentity::empty(), TrustStore::new(Bundles::default()));
    let issuer: Arc<dyn Issuer> = Arc::clone(&fake) as _;
    let handle = start(config, live.clone(), trust, issuer);
    let mut state = handle.state();
    state.wait_for(|state| state.renewals == 1).await.unwrap();
    fake.then([Step::As("spiffe://mesh.test/ns/tools/sa/other")]);
    let failed = state.wait_for(|state| state.attempts == 1).await.unwrap().clone();
    assert!(matches!(failed.last_error, Some(Error::WrongIdentity { .. })));
    assert_eq!(live.leaf().unwrap().spiffe_id.as_str(), ID);
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_is_there_at_the_start_is_renewed_when_due() {
    let begun = Instant::now();
    let clock: Clock = Arc::new(move || now() + begun.elapsed());
    let fake = Arc::new(Fake::new(Arc::clone(&clock)));
    let live = LiveIdentity::new(fake.mesh.identity(ID));
    let issuer: Arc<dyn Issuer> = Arc::clone(&fake) as _;
    let handle = start(Config::new(None, clock), live, fake.mesh.trust(), issuer);
    let mut state = handle.state();
    state.wait_for(|state| state.renewals == 1).await.unwrap();
    let waited = fake.calls()[0].duration_since(now()).unwrap();
    assert!(waited > DAY.mul_f64(0.44) && waited < DAY.mul_f64(0.56), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_ends_the_renewal_and_keeps_the_identity() {
    let world = begin([]);
    world.renewed(1).await;
    let World { fake, live, handle, .. } = world;
    drop(handle);
    tokio::time::sleep(3 * DAY).await;
    assert_eq!(fake.calls().len(), 1);
    assert!(live.leaf().is_some());
}
