//! Many sidecars beside one server, each in a process of its own, and callers who ask for much more than a limit of all
//! of them allows, nearly all of it at one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::pair::{self, Caller, modern};
use crate::plane::Plane;
use crate::process::Process;
use crate::upstream::Upstream;

/// What callers ask of each sidecar in a second, on so many connections: nearly all at the first.
const HOT: (usize, u32) = (8, 200);
const COLD: (usize, u32) = (1, 1);

pub(crate) struct Fleet {
    pub(crate) upstream: Upstream,
    sidecars: Vec<Process>,
    callers: JoinSet<()>,
    stop: CancellationToken,
    made: Arc<Mutex<Vec<Made>>>,
    pub(crate) began: Instant,
}

/// A call that had an answer. Whatever decided it did so between the two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub(crate) number: u64,
    pub(crate) asked: Duration,
    pub(crate) answered: Duration,
    pub(crate) passed: bool,
}

impl Fleet {
    /// Starts so many sidecars, and calls that go on until the end.
    pub(crate) async fn start(plane: &Plane, folder: &Path, sidecars: usize) -> Self {
        let upstream = Upstream::echo().await;
        plane.apply(&pair::server(upstream.address, "")).await;
        let token = plane.token("research", "files", sidecars).await;
        let starting = (0..sidecars).map(|n| sidecar(plane, folder, &token, n));
        let sidecars = join_all(starting).await;
        let mut fleet = Self {
            upstream,
            sidecars,
            callers: JoinSet::new(),
            stop: CancellationToken::new(),
            made: Arc::default(),
            began: Instant::now(),
        };
        let workload = plane.workload("agents", "one").await;
        let mut number = 0;
        for (n, sidecar) in fleet.sidecars.iter().enumerate() {
            let (connections, per_sec) = if n == 0 { HOT } else { COLD };
            for _ in 0..connections {
                let caller = Caller::connect(sidecar.inbound(), workload.clone()).await;
                let every = Duration::from_secs(1) * u32::try_from(connections).unwrap() / per_sec;
                let (stop, made) = (fleet.stop.clone(), Arc::clone(&fleet.made));
                fleet.callers.spawn(calls(caller, number, every, fleet.began, stop, made));
                number += 1 << 32;
            }
        }
        fleet
    }

    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Lets the calls go on for a while, and tells when it began and ended.
    pub(crate) async fn go_on(&self, time: Duration) -> (Duration, Duration) {
        let from = self.now();
        let mut looks = interval(Duration::from_millis(20));
        while self.now() < from + time {
            looks.tick().await;
        }
        (from, self.now())
    }

    pub(crate) fn made(&self) -> Vec<Made> {
        self.made.lock().unwrap().clone()
    }

    /// How many calls passed, and how many were made, that were asked and answered within a span.
    pub(crate) fn within(&self, (from, to): (Duration, Duration)) -> (usize, usize) {
        let within = |call: &&Made| call.asked >= from && call.answered <= to;
        let made = self.made.lock().unwrap();
        let all = made.iter().filter(within);
        (all.clone().filter(|call| call.passed).count(), all.count())
    }

    /// Ends the calls: all that were made.
    pub(crate) async fn end(&mut self) -> Vec<Made> {
        self.stop.cancel();
        while let Some(caller) = self.callers.join_next().await {
            caller.unwrap();
        }
        self.made()
    }

    /// How often the server saw each call.
    pub(crate) fn seen(&self) -> BTreeMap<u64, usize> {
        let mut seen = BTreeMap::new();
        for it in self.upstream.seen() {
            if it.method_name() == "tools/call" {
                let number = it.json()["params"]["arguments"]["n"].as_u64().unwrap();
                *seen.entry(number).or_default() += 1;
            }
        }
        seen
    }
}

async fn sidecar(plane: &Plane, folder: &Path, token: &str, n: usize) -> Process {
    let folder = folder.join(format!("sidecar-{n}"));
    std::fs::create_dir(&folder).unwrap();
    let (any, nobody) = ("127.0.0.1:0", Value::Null);
    let file = json!({
        "node": { "id": format!("research/files-{n}"), "labels": { "app": "files" } },
        "source": { "controlPlane": {
            "address": plane.sidecars.to_string(), "proof": { "joinToken": token },
        } },
        "listen": { "inbound": any, "outbound": nobody, "health": any, "admin": any },
        "stateDir": folder.join("state"),
    });
    Process::start(&folder, &file).await
}

/// Calls again and again, and once more for each that was late.
async fn calls(
    mut caller: Caller,
    first: u64,
    every: Duration,
    began: Instant,
    stop: CancellationToken,
    made: Arc<Mutex<Vec<Made>>>,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in first.. {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let call = modern("tools/call", "echo", json!({ "name": "echo", "arguments": { "n": number } }));
        let asked = began.elapsed();
        let answer = pair::Answer::read(caller.send(call).await).await;
        let passed = match (answer.status, answer.reason()) {
            (200, _) => true,
            (429, "limited") => false,
            _ => panic!("{answer:?}"),
        };
        made.lock().unwrap().push(Made { number, asked, answered: began.elapsed(), passed });
    }
}
