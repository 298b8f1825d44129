//! A large mesh that changes all the time, with a sidecar that stops listening: whether news are late, and whether the
//! control plane grows.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::time::{MissedTickBehavior, interval};

use crate::child::ControlPlane;
use crate::operator::Operator;
use crate::scenario::{self, PER_NAMESPACE, policy, server};
use crate::table::{Quantiles, Table};

/// Sidecars that hear of changes.
const SIDECARS: usize = 50;
/// Resources of one `apply` while the mesh is built.
const CHUNK: usize = 1000;
/// Changes are applied so many at once, so often: 1,000 a second.
const BATCH: usize = 100;
const EVERY: Duration = Duration::from_millis(100);
/// Memory is taken for the first time after this share of the run: caches have filled by then.
const SETTLED_AFTER: f64 = 0.2;

pub(crate) async fn run(resources: usize, length: Duration, table: &mut Table) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let plane = ControlPlane::start(folder.path(), SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let roots = weft_certs::pem::certificates(&plane.roots)?;
    let admin = plane.admin.clone().context("the first start shows the admin token")?;
    let mut operator = Operator::connect(plane.operators, &roots, admin).await?;

    // Half of them servers, half policies of their namespaces.
    let (started, namespaces) = (Instant::now(), resources / 2);
    for first in (0..namespaces).step_by(CHUNK / 2) {
        let range = first..namespaces.min(first + CHUNK / 2);
        operator.apply(range.map(|n| both(n, 0)).collect()).await?;
    }
    table.row(
        format!("{resources} resources applied, {CHUNK} at a time"),
        format!("{:.0} s", started.elapsed().as_secs_f64()),
        "",
    );
    let mut sidecars = scenario::certify(&plane, &mut operator, &roots, SIDECARS, table).await?;
    // One of them reads nothing more once it has everything.
    let deaf = sidecars.last_mut().context("there are sidecars")?;
    deaf.stalls = true;
    let (deaf, listening) = (deaf.namespace.clone(), SIDECARS - 1);
    let mut fleet = scenario::launch(sidecars, plane.sidecars);
    fleet.synced(SIDECARS).await?;

    let (mut settled, mut heard, mut applies) = (0, Vec::new(), Vec::new());
    let (began, cpu) = (Instant::now(), plane.cpu()?);
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = 0;
    while began.elapsed() < length {
        ticks.tick().await;
        round += 1;
        if settled == 0 && began.elapsed() > length.mul_f64(SETTLED_AFTER) {
            settled = plane.memory()?;
        }
        // One of the changes concerns sidecars of ours, by turns; the others are about the rest of the mesh.
        let ours = round % (SIDECARS / PER_NAMESPACE);
        let others = (1..BATCH).map(|n| (SIDECARS + round * BATCH + n) % namespaces);
        let changed = std::iter::once(ours).chain(others.filter(|n| *n >= SIDECARS));
        let text = changed.fold(String::new(), |mut text, n| {
            let _ = write!(text, "---\n{}", policy(&format!("ns-{n}"), round));
            text
        });
        let started = Instant::now();
        operator.apply(text).await?;
        applies.push(started.elapsed());
        let name = format!("ns-{ours}");
        let expected = PER_NAMESPACE - usize::from(name == deaf);
        heard.extend(fleet.heard(&format!("{name}/p"), expected, started).await?);
    }
    let (took, changes) = (began.elapsed(), round * BATCH);
    let (ended, spent) = (plane.memory()?, plane.cpu()? - cpu);
    let rate = changes as f64 / took.as_secs_f64();
    let of = format!("{resources} resources, {listening} sidecars and one that reads nothing");
    table.row(
        format!("changes of a mesh of {of}"),
        format!(
            "{rate:.0}/s for {:.0} s, {:.0} % of a core",
            took.as_secs_f64(),
            spent.as_secs_f64() / took.as_secs_f64() * 100.0
        ),
        "1,000/s",
    );
    table.row("… from `apply` of 100 to the acknowledgement", Quantiles::new(heard).to_string(), "");
    table.row("… the `apply` of 100", Quantiles::new(applies).to_string(), "");
    table.row(
        "… memory after a fifth of the time, and at its end",
        format!("{} → {} MiB", settled >> 20, ended >> 20),
        "flat",
    );
    plane.kill().await
}

fn both(n: usize, round: usize) -> String {
    let namespace = format!("ns-{n}");
    format!("{}---\n{}", server(&namespace, "files"), policy(&namespace, round))
}
