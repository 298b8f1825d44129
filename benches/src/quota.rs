//! What quotas cost: a call against limits at a sidecar that keeps many counts, and lending to a large mesh.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use futures_util::FutureExt as _;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weft_certs::svid::Serial;
use weft_control_plane::quota::{Lender, Settings};
use weft_proto::compile::{ServerEntry, compile_resources};
use weft_proto::name::{NodeId, ServerName, SpiffeId, TrustDomain};
use weft_proto::pb::weft::quota::v1 as pb;
use weft_proto::policy::quota::Plan;
use weft_proto::resource::kinds::Era;
use weft_proto::resource::{Resource, Spec, parse, parse_one};
use weft_proto::wire::{Meta, Object};
use weft_sidecar::authorize::Decided;
use weft_sidecar::bootstrap::Node;
use weft_sidecar::classify;
use weft_sidecar::identify::{Caller, Proved};
use weft_sidecar::limits::Limits;
use weft_sidecar::metrics::Metrics;
use weft_sidecar::quota::Quotas;
use weft_sidecar::record::Event;
use weft_sidecar::servers::{self, Local, Servers};
use weft_sidecar::session_id::{self, Ring};
use weft_sidecar::state::{Current, Origin};
use weft_sidecar::stdio::launch::Launcher;
use weft_sidecar::trace::Tracer;

use crate::table::Table;

const THREADS: usize = 2;
/// Each has a count of its own for each of four limits.
const CALLERS: usize = 25_000;
const CHECKS: usize = 500_000;
const CALL: &[u8] =
    br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read","arguments":{}}}"#;
const SERVER: &str = "\
apiVersion: weft.dev/v1alpha1
kind: McpServer
metadata: { namespace: ns-0, name: s-0 }
spec: { workload: { labels: { app: a }, port: 1 } }
---
apiVersion: weft.dev/v1alpha1
kind: QuotaPolicy
metadata: { namespace: ns-0, name: q }
spec:
  servers: { names: [s-0] }
  limits:
    - { name: calls, per: [caller], rate: 1000000/h, burst: 1000000 }
    - { name: of-a-tool, per: [caller, tool], rate: 1000000/h, burst: 1000000 }
    - { name: reads, tools: ['read*'], per: [caller, server], rate: 1000000/h, burst: 1000000 }
    - { name: all-month, per: [caller, tenant], budget: 1000000000/month }
";

const SIDECARS: usize = 5_000;
const LEASES: usize = 20;
const ROUND: Duration = Duration::from_secs(1);
const ROUNDS_MEASURED: u32 = 10;
/// Shorter than where nobody is in a hurry: until it is over after a start, nothing new is lent.
const LEASE: Duration = Duration::from_secs(4);

pub(crate) fn lending_to_all(table: &mut Table) -> anyhow::Result<()> {
    lending(table, 50)?;
    lending(table, SIDECARS)
}

/// A sidecar's counts, with a server that four limits select.
struct Bench {
    quotas: Quotas,
    server: Arc<Local>,
    entry: Arc<ServerEntry>,
    limits: Arc<Limits>,
}

impl Bench {
    fn new() -> anyhow::Result<Self> {
        let (limits, metrics) = (Arc::new(Limits::default()), Arc::new(Metrics::new()));
        let resources = parse("bench", SERVER).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
        let domain = TrustDomain::parse("bench.test")?;
        let snapshot = compile_resources(&domain, resources.iter().map(|(resource, _)| (resource, 1)))?;
        let name = ServerName::parse("ns-0/s-0")?;
        let entry = Arc::clone(snapshot.server(&name).context("the server is there")?);
        let node: Node =
            serde_json::from_value(serde_json::json!({ "id": "ns-0/n-0", "servers": ["ns-0/s-0"] }))?;
        let servers = Servers::new(servers::Parts {
            tracer: Tracer::idle(node.id.clone(), &metrics),
            node,
            limits: Arc::clone(&limits),
            metrics: Arc::clone(&metrics),
            launcher: Launcher::default(),
            ring: Ring::own(&session_id::Key::random()),
            drain: CancellationToken::new(),
            told: false,
        });
        let (origin, version, since) = (Origin::File, "".into(), SystemTime::UNIX_EPOCH);
        servers.follow(&Current { snapshot, origin, version, since }, None);
        let server = servers.all().pop().context("the sidecar stands beside the server")?;
        Ok(Self { quotas: Quotas::new(&limits, &metrics, None)?, server, entry, limits })
    }

    /// Takes for a call of each of these callers, so many times in all.
    fn check(&self, callers: &[Caller], times: usize) -> anyhow::Result<()> {
        let call = classify::again(CALL, Era::Modern, &self.limits)
            .map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
        let mut event = event();
        // By steps that have no factor in common with the number of callers, so that no two in a row are neighbours.
        for caller in (0..times).map(|n| &callers[n.wrapping_mul(7919) % callers.len()]) {
            let taken = self.quotas.take(&self.server, &self.entry, caller, &call, &mut event).now_or_never();
            let held = taken.context("nobody waits")?.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
            let _ = std::hint::black_box(held.keep());
        }
        Ok(())
    }
}

fn event() -> Event {
    Event {
        at: SystemTime::UNIX_EPOCH,
        listener: "inbound",
        caller: "".into(),
        server: "".into(),
        http_method: http::Method::POST,
        method: 0,
        target: None,
        rpc_id: None,
        era: "",
        status: 0,
        reason: "",
        detail: None,
        decided: Decided::default(),
        limit: None,
        shadow_limit: None,
        tools: None,
        request_bytes: 0,
        response_bytes: 0,
        duration: Duration::ZERO,
        listens: false,
    }
}

fn caller(n: usize) -> anyhow::Result<Caller> {
    let id = format!("spiffe://bench.test/ns/agents/sa/caller-{n}");
    let workload = SpiffeId::parse(&id)?.workload().context("a workload")?;
    Ok(Caller::Workload(Box::new(Proved::new(workload, Serial::parse("1f")?))))
}

pub(crate) fn checking(table: &mut Table) -> anyhow::Result<()> {
    // Servers are made within one, though nothing is asked of them here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let bench = Bench::new()?;
    let callers = (0..CALLERS).map(caller).collect::<anyhow::Result<Vec<_>>>()?;
    bench.check(&callers, CALLERS)?;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| scope.spawn(|| bench.check(&callers, CHECKS)));
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread ended in a panic")))
        })
    })?;
    let each = started.elapsed().as_secs_f64() * 1e9 / CHECKS as f64;
    drop(entered);
    let row = format!("a call against 4 limits with {} live counts, each of two threads", 4 * CALLERS);
    table.row(row, format!("{each:.0} ns"), "≤ 500 ns");
    Ok(())
}

/// A sidecar of which the lender hears.
struct Borrower {
    holder: u64,
    session: u64,
    /// Policies of the limits that it holds, and the last grant of each.
    held: Vec<(Arc<pb::LimitKey>, pb::Lease)>,
    pushed: mpsc::Receiver<pb::LeaseGrant>,
    sequence: u64,
    epoch: u64,
}

impl Borrower {
    /// Reports all that it holds, and takes what it is lent.
    fn renew(&mut self, lender: &Lender, policies: &HashMap<String, Arc<Resource>>) {
        self.sequence += 1;
        let demands = (0..).zip(&self.held).map(|(handle, (key, lease))| pb::LeaseDemand {
            handle,
            key: Some(pb::LimitKey::clone(key)),
            has_milli: lease.capacity_milli,
            has_burst_milli: lease.burst_milli,
            // What is wanted goes up and down a little, as it does where people work.
            wants_milli: 2_000 + 100 * ((self.session + self.sequence) % 8),
            allowed_total: self.sequence,
            cost_milli_total: self.sequence * 1000,
            epoch: self.epoch,
            number: lease.number,
            ..pb::LeaseDemand::default()
        });
        let (session, sequence, demands) = (self.session, self.sequence, demands.collect());
        let report = pb::LeaseReport { session, sequence, demands, node: String::new() };
        let answer = lender.report(self.holder, &report, |name, _| policies.get(name).cloned());
        self.epoch = answer.epoch;
        let mut grants = vec![answer];
        while let Ok(grant) = self.pushed.try_recv() {
            grants.push(grant);
        }
        for lease in grants.into_iter().flat_map(|grant| grant.leases) {
            let held = usize::try_from(lease.handle).ok().and_then(|handle| self.held.get_mut(handle));
            if let Some((_, held)) = held.filter(|(_, held)| held.number < lease.number) {
                *held = lease;
            }
        }
    }
}

/// Every sidecar renews all its leases once a second; each limit is shared by so many of them.
fn lending(table: &mut Table, sharers: usize) -> anyhow::Result<()> {
    let lender = Lender::new(
        Settings { lease: LEASE, ..Settings::default() },
        Arc::new(weft_control_plane::metrics::Metrics::new()),
    );
    let policies = (0..SIDECARS / sharers * LEASES).map(policy).collect::<anyhow::Result<HashMap<_, _>>>()?;
    let keys = policies.iter().map(|(name, policy)| Ok((name.clone(), Arc::new(key(name, policy)?))));
    let keys = keys.collect::<anyhow::Result<HashMap<_, _>>>()?;
    let mut borrowers = Vec::new();
    for n in 0..SIDECARS {
        let identity = SpiffeId::parse(&format!("spiffe://bench.test/ns/ns-0/sa/s-{n}"))?;
        let session = n as u64;
        let node = NodeId::parse(&format!("ns-0/s-{n}"))?;
        let opened = lender.open(&identity, &node, session);
        let (holder, pushed) = opened.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        let names = (0..LEASES).map(|lease| name_of(n / sharers * LEASES + lease));
        let held = names.map(|name| (Arc::clone(&keys[&name]), pb::Lease::default())).collect();
        borrowers.push(Borrower { holder, session, held, pushed, sequence: 0, epoch: 0 });
    }
    // Until leases of before would be over, and a little more until all are lent.
    for _ in 0..LEASE.as_secs() + 3 {
        let took = each_renews(&lender, &policies, &mut borrowers);
        std::thread::sleep(ROUND.saturating_sub(took));
    }
    let (began, used) = (Instant::now(), processor_time()?);
    let taken: Vec<Duration> = (0..ROUNDS_MEASURED)
        .map(|round| {
            let took = each_renews(&lender, &policies, &mut borrowers);
            let next = began + ROUND * (round + 1);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            took
        })
        .collect();
    let (wall, used) = (began.elapsed(), processor_time()?.saturating_sub(used));
    let share = used.as_secs_f64() / wall.as_secs_f64() / THREADS as f64 * 100.0;
    let longest = taken.iter().max().copied().unwrap_or_default();
    let lent = borrowers.iter().flat_map(|it| &it.held).filter(|(_, lease)| lease.capacity_milli > 0).count();
    anyhow::ensure!(lent == SIDECARS * LEASES, "only {lent} leases are lent");
    table.row(
        format!(
            "lending without sockets: {SIDECARS} sidecars renew {LEASES} leases each a second, \
             {sharers} share each limit, two threads call the lender"
        ),
        format!(
            "{share:.1} % of two cores; the reports of a second take up to {:.0} ms",
            longest.as_secs_f64() * 1e3
        ),
        "≤ 50 %",
    );
    Ok(())
}

fn each_renews(
    lender: &Lender,
    policies: &HashMap<String, Arc<Resource>>,
    borrowers: &mut [Borrower],
) -> Duration {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for half in borrowers.chunks_mut(SIDECARS.div_ceil(THREADS)) {
            scope.spawn(move || half.iter_mut().for_each(|borrower| borrower.renew(lender, policies)));
        }
    });
    started.elapsed()
}

fn name_of(n: usize) -> String {
    format!("ns-0/q-{n}")
}

/// Enough for every sidecar at once.
fn policy(n: usize) -> anyhow::Result<(String, Arc<Resource>)> {
    let yaml = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: QuotaPolicy\nmetadata: {{ namespace: ns-0, name: q-{n} }}\n\
         spec: {{ limits: [{{ name: all, rate: 20000/s, burst: 20000, scope: mesh }}] }}\n"
    );
    let resource = parse_one("bench", &yaml).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    Ok((name_of(n), Arc::new(resource)))
}

fn key(name: &str, policy: &Resource) -> anyhow::Result<pb::LimitKey> {
    let Spec::QuotaPolicy(spec) = &policy.spec else { anyhow::bail!("{name} is no quota policy") };
    let object = Object { meta: Meta::new(&policy.metadata, 0), spec: spec.clone() };
    let plan = Plan::new(&[Arc::new(object)]);
    let limit = plan.limits().first().context("it has a limit")?;
    Ok(pb::LimitKey { policy: name.to_owned(), limit: limit.identity.to_string(), parts: Vec::new() })
}

/// Of all threads of this process.
fn processor_time() -> anyhow::Result<Duration> {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}
