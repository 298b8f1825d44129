//! A fleet on one control plane: connecting, changes that concern all or few, and a restart.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use rustls_pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};

use crate::child::ControlPlane;
use crate::fleet::{Event, RECEIVED, Sidecar};
use crate::operator::Operator;
use crate::table::{Quantiles, Table};
use weft_tests::link;

/// Sidecars in one namespace, and so the reach of a change to one of its policies.
pub(crate) const PER_NAMESPACE: usize = 10;
const ROUNDS_ALL: usize = 10;
const ROUNDS_FEW: usize = 100;
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Fleet {
    size: usize,
    events: mpsc::UnboundedReceiver<Event>,
    address: watch::Sender<SocketAddr>,
}

pub(crate) async fn run(size: usize, table: &mut Table) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let plane = ControlPlane::start(folder.path(), any).await?;
    let roots = weft_certs::pem::certificates(&plane.roots)?;
    let admin = plane.admin.clone().context("the first start shows the admin token")?;
    let mut operator = Operator::connect(plane.operators, &roots, admin.clone()).await?;

    let started = Instant::now();
    operator.apply((0..1000).map(|n| server(&format!("apply-{n}"), "one")).collect()).await?;
    table.row("`apply` of 1,000 resources", format!("{:.0} ms", ms(started.elapsed())), "≤ 1 s");
    operator
        .call(
            http::Method::POST,
            "/v1/delete",
            (0..1000).map(|n| server(&format!("apply-{n}"), "one")).collect(),
        )
        .await?;

    let namespaces = size.div_ceil(PER_NAMESPACE);
    for chunk in (0..namespaces).collect::<Vec<_>>().chunks(1000) {
        operator.apply(chunk.iter().map(|n| server(&format!("ns-{n}"), "files")).collect()).await?;
    }
    let sidecars = certify(&plane, &mut operator, &roots, size, table).await?;

    let before = plane.memory()?;
    let started = Instant::now();
    let mut fleet = launch(sidecars, plane.sidecars);
    fleet.synced(size).await?;
    table.row(
        format!("{size} sidecars connect and sync"),
        format!("{:.1} s", started.elapsed().as_secs_f64()),
        "",
    );
    let after = plane.memory()?;
    let each = after.saturating_sub(before) / size / 1000;
    let (before, after) = (before >> 20, after >> 20);
    table.row("memory per connected sidecar", format!("{each} kB ({before} → {after} MiB)"), "≤ 100 kB");

    changes(&mut fleet, &mut operator, &plane, table).await?;
    restart(&mut fleet, plane, folder.path(), table).await
}

/// Policies that concern all, then policies that concern the sidecars of one namespace.
async fn changes(
    fleet: &mut Fleet,
    operator: &mut Operator,
    plane: &ControlPlane,
    table: &mut Table,
) -> anyhow::Result<()> {
    let (size, cpu) = (fleet.size, plane.cpu()?);
    let mut all = Vec::new();
    let mut slowest = Vec::new();
    for round in 0..ROUNDS_ALL {
        let started = Instant::now();
        operator.apply(policy("weft-system", round)).await?;
        let times = fleet.heard("weft-system/p", size, started).await?;
        slowest.extend(times.iter().max());
        all.extend(times);
    }
    let spent = (plane.cpu()? - cpu) / u32::try_from(ROUNDS_ALL)?;
    table.row(
        format!("a policy that concerns all {size}: from `apply` to each one's acknowledgement"),
        Quantiles::new(all).to_string(),
        "p99 ≤ 2 s",
    );
    table.row("… until the last of them", Quantiles::new(slowest).to_string(), "");
    table.row(
        "… processor time of the control plane for each such change",
        format!("{:.0} ms", ms(spent)),
        "",
    );

    let mut few = Vec::new();
    for round in 0..ROUNDS_FEW {
        let namespace = format!("ns-{}", round * 7 % size.div_ceil(PER_NAMESPACE));
        let started = Instant::now();
        operator.apply(policy(&namespace, round)).await?;
        few.extend(fleet.heard(&format!("{namespace}/p"), PER_NAMESPACE, started).await?);
    }
    table.row(
        format!("a policy that concerns {PER_NAMESPACE} of {size}"),
        Quantiles::new(few).to_string(),
        "p99 ≤ 100 ms",
    );
    Ok(())
}

/// Kills the control plane, starts it again at the same address, and counts what it sends.
async fn restart(
    fleet: &mut Fleet,
    plane: ControlPlane,
    folder: &std::path::Path,
    table: &mut Table,
) -> anyhow::Result<()> {
    let (size, address) = (fleet.size, plane.sidecars);
    RECEIVED.store(0, Ordering::Relaxed);
    plane.kill().await?;
    let started = Instant::now();
    let plane = ControlPlane::start(folder, address).await?;
    table.row(
        "restart of the control plane until ready",
        format!("{:.2} s", started.elapsed().as_secs_f64()),
        "",
    );
    fleet.address.send_replace(plane.sidecars);
    fleet.synced(size).await?;
    let resent = RECEIVED.load(Ordering::Relaxed);
    table.row(
        format!("{size} sidecars back after the restart"),
        format!("{:.1} s, {resent} resources sent again", started.elapsed().as_secs_f64()),
        "0 unchanged resources sent again",
    );
    plane.kill().await
}

/// Gets every sidecar its certificate, over a few shared connections.
pub(crate) async fn certify(
    plane: &ControlPlane,
    operator: &mut Operator,
    roots: &[CertificateDer<'static>],
    size: usize,
    table: &mut Table,
) -> anyhow::Result<Vec<Sidecar>> {
    let mut tokens = Vec::new();
    for namespace in 0..size.div_ceil(PER_NAMESPACE) {
        tokens.push(operator.token(&format!("ns-{namespace}"), "files", PER_NAMESPACE).await?);
    }
    let mut channels = Vec::new();
    for _ in 0..8 {
        channels.push(link::connect(plane.sidecars, link::bootstrap(&roots[0])).await?);
    }
    let (started, cpu) = (Instant::now(), plane.cpu()?);
    let work = (0..size).map(|n| {
        let (channel, token) = (channels[n % channels.len()].clone(), tokens[n / PER_NAMESPACE].clone());
        async move {
            let config = link::Workload::join(channel, &token).await?.config();
            let namespace = format!("ns-{}", n / PER_NAMESPACE);
            anyhow::Ok(Sidecar {
                namespace,
                app: "files".to_owned(),
                instance: n,
                config,
                held: HashMap::new(),
                stalls: false,
            })
        }
    });
    let mut sidecars = Vec::with_capacity(size);
    let mut work = futures_util::stream::iter(work).buffer_unordered(64);
    while let Some(sidecar) = work.next().await {
        sidecars.push(sidecar?);
    }
    let (took, spent) = (started.elapsed(), plane.cpu()? - cpu);
    let rate = |over: Duration| size as f64 / over.as_secs_f64();
    table.row(
        "join token → certificate over gRPC, durable redemption included",
        format!(
            "{:.0}/s wall clock, {:.0} per second of the control plane's processor time",
            rate(took),
            rate(spent)
        ),
        "",
    );
    Ok(sidecars)
}

pub(crate) fn launch(sidecars: Vec<Sidecar>, address: SocketAddr) -> Fleet {
    let (sender, events) = mpsc::unbounded_channel();
    let (address, _) = watch::channel(address);
    let size = sidecars.len();
    let gate = Arc::new(tokio::sync::Semaphore::new(256));
    for mut sidecar in sidecars {
        let (sender, mut address, gate) = (sender.clone(), address.subscribe(), Arc::clone(&gate));
        tokio::spawn(async move {
            loop {
                let at = *address.borrow_and_update();
                // So many connect at once; more would only drown each other on this machine.
                let Ok(turn) = Arc::clone(&gate).acquire_owned().await else { return };
                let _ = sidecar.run(at, sender.clone(), turn).await;
                if address.changed().await.is_err() {
                    return;
                }
            }
        });
    }
    Fleet { size, events, address }
}

impl Fleet {
    pub(crate) async fn synced(&mut self, expected: usize) -> anyhow::Result<()> {
        let mut count = 0;
        while count < expected {
            let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
            let event = event.with_context(|| format!("only {count} of {expected} synced"))?;
            match event.context("the fleet is gone")? {
                Event::Synced => count += 1,
                Event::Policy { .. } | Event::Lost => {}
            }
        }
        Ok(())
    }

    pub(crate) async fn heard(
        &mut self,
        policy: &str,
        expected: usize,
        started: Instant,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(expected);
        while times.len() < expected {
            let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
            let event =
                event.with_context(|| format!("only {} of {expected} heard of {policy}", times.len()))?;
            match event.context("the fleet is gone")? {
                Event::Policy { name, at } if name == policy => times.push(at - started),
                Event::Policy { .. } | Event::Synced => {}
                Event::Lost => anyhow::bail!("a sidecar lost its stream"),
            }
        }
        Ok(times)
    }
}

pub(crate) fn server(namespace: &str, name: &str) -> String {
    format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: {namespace}, name: {name} }}\n\
         spec: {{ workload: {{ labels: {{ app: {name} }} }} }}\n"
    )
}

pub(crate) fn policy(namespace: &str, round: usize) -> String {
    let mut text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{ namespace: {namespace}, name: p }}\n\
         spec:\n  rules:\n"
    );
    for rule in 0..4 {
        let _ = writeln!(
            text,
            "  - {{ action: allow, from: [{{ namespaces: [agents-{rule}] }}], to: [{{ tools: ['read_{round}_*'] }}] }}"
        );
    }
    text
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
