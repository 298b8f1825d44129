//! The world of one run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::super::*;
use super::chance::Chance;
use crate::policy::quota::{Bucket, Flow};
use crate::resource::kinds::WhenUnavailable;

const SECOND: u64 = 1_000_000_000;
const TIMING: Timing = Timing { lease_nanos: 10 * SECOND, refresh_nanos: SECOND, drift_per_million: 20_000 };

#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) holders: usize,
    pub(super) capacity: u64,
    pub(super) burst: u64,
    pub(super) window_secs: u64,
    pub(super) slots: bool,
    /// `whenUnavailable: floor` with this; `deny` without.
    pub(super) floor: Option<u32>,
    /// Whether one more holds of the limit that takes no smaller share, wants everything and says that it holds much.
    pub(super) liar: bool,
    pub(super) trouble: Trouble,
    pub(super) seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    Much,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A call comes to a sidecar, and is one of the sequence of this life of it.
    Call(usize),
    /// A call that ran at a sidecar ends.
    Ends {
        at: usize,
        life: u64,
    },
    /// It is time to report; sent by this life of a sidecar.
    Reports {
        at: usize,
        life: u64,
    },
    ToServer {
        from: usize,
        connection: u64,
        session: u64,
        report: Report,
    },
    ToSidecar {
        to: usize,
        connection: u64,
        grant: Grant,
    },
    SidecarRestarts(usize),
    ServerRestarts,
    Breaks(usize),
    Mends(usize),
    LimitChanges,
    Lies,
}

/// By which the server knows the one that lies.
const LIAR: u64 = u64::MAX;
/// When calls come where it has nothing in its way: it has everything by then.
const LIES_ALONE: u64 = 5 * SECOND;

struct Sidecar {
    holder: Holder,
    share: Part,
    bucket: Bucket,
    running: u64,
    /// Its clock: so many millionths fast, from another beginning.
    fast: i64,
    began: u64,
    life: u64,
    session: u64,
    sequence: u64,
    sent: BTreeMap<u64, u64>,
    /// Messages of another are not read any more.
    connection: u64,
    connected: bool,
    per_second: f64,
}

pub(super) struct World {
    setup: Setup,
    chance: Chance,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next: u64,
    sidecars: Vec<Sidecar>,
    server: Allocator,
    epoch: u64,
    terms: Terms,
    /// Limits with when they were lowered.
    past: Vec<(u64, Part)>,
    /// What may pass of a rate at most, as one bucket.
    judge: Bucket,
    judged_by: Flow,
    passed: u64,
    counted_from: u64,
}

impl World {
    pub(super) fn new(setup: Setup, mut chance: Chance) -> Self {
        let terms = terms(&setup, setup.capacity, setup.burst);
        let server = Allocator::new(terms, TIMING, 1, setup.trouble == Trouble::Much, 0);
        let unavailable = unavailable(&setup);
        let mut sidecars = Vec::new();
        for at in 0..setup.holders {
            // A few ask for nearly everything.
            let demand = setup.capacity as f64 / setup.window_secs as f64;
            let part = if at % 4 == 0 { 8.0 } else { 0.2 } / setup.holders as f64;
            sidecars.push(Sidecar {
                holder: Holder::new(terms, unavailable, 0),
                share: Part::NOTHING,
                bucket: Bucket::fresh(),
                running: 0,
                fast: if setup.trouble == Trouble::None { 0 } else { chance.up_to(40_000) as i64 - 20_000 },
                began: chance.up_to(1000 * SECOND),
                life: 0,
                session: at as u64 + 1,
                sequence: 0,
                sent: BTreeMap::new(),
                connection: 0,
                connected: true,
                per_second: (demand * part).max(0.2),
            });
        }
        let mut world = Self {
            setup,
            chance,
            now: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next: 0,
            sidecars,
            server,
            epoch: 1,
            terms,
            past: vec![(0, terms.whole)],
            judge: Bucket::fresh(),
            judged_by: Flow { amount_milli: 0, burst_milli: 0, window_nanos: 1 },
            passed: 0,
            counted_from: 3 * SECOND,
        };
        let alone = setup.liar && setup.trouble == Trouble::None;
        if setup.liar {
            world.after(1, Event::Lies);
        }
        if alone {
            // What it was lent is over by then, and what a span of its time may have added.
            world.counted_from = LIES_ALONE + TIMING.counted_nanos() + TIMING.lease_nanos / 8;
        }
        world.judged_by = world.most();
        for at in 0..setup.holders {
            world.begin(at);
            let gap = world.chance.gap(world.sidecars[at].per_second);
            world.after(if alone { LIES_ALONE + gap } else { gap }, Event::Call(at));
            if setup.trouble == Trouble::Much {
                let (restart, breaks) = (world.soon(), world.soon());
                world.after(restart, Event::SidecarRestarts(at));
                world.after(breaks, Event::Breaks(at));
            }
        }
        if setup.trouble == Trouble::Much {
            let (restart, change) = (world.soon(), world.soon());
            world.after(restart, Event::ServerRestarts);
            world.after(change, Event::LimitChanges);
        }
        world
    }

    fn soon(&mut self) -> u64 {
        self.chance.up_to(60 * SECOND)
    }

    fn after(&mut self, gap: u64, event: Event) {
        self.next += 1;
        self.queue.push(Reverse((self.now + gap, self.next)));
        self.events.insert(self.next, event);
    }

    pub(super) fn run(mut self) {
        while let Some(Reverse((at, id))) = self.queue.pop() {
            self.now = at;
            if at > self.setup.seconds * SECOND {
                break;
            }
            let event = self.events.remove(&id).unwrap();
            self.happen(event);
            if !matches!(event, Event::Call(_)) {
                self.nothing_is_lent_twice();
            }
        }
        if self.setup.trouble == Trouble::None {
            let secs = (self.setup.seconds * SECOND - self.counted_from) / SECOND;
            let heavy = self.setup.holders.div_ceil(4) as u64;
            // Who lies has a share like those who want most, and no more.
            let shares = if self.setup.liar { heavy + 1 } else { heavy };
            let allowed = self.terms.whole.capacity * secs / self.setup.window_secs * heavy / shares;
            let used = self.passed * 1000 / allowed;
            assert!(used >= 950, "only {used} thousandths of the limit were used");
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Call(at) => self.call(at),
            Event::Ends { at, life } => {
                let sidecar = &mut self.sidecars[at];
                if sidecar.life == life {
                    sidecar.running -= MILLI;
                }
            }
            Event::Reports { at, life } => {
                if self.sidecars[at].life == life {
                    self.report(at);
                    self.after(TIMING.refresh_nanos, Event::Reports { at, life });
                }
            }
            Event::ToServer { from, connection, session, report } => {
                if self.sidecars[from].connection == connection {
                    let now = self.now;
                    let grants = self.server.report(session, report, now);
                    self.send(grants);
                }
            }
            Event::ToSidecar { to, connection, grant } => {
                if self.sidecars[to].connection == connection {
                    self.granted(to, grant);
                }
            }
            Event::SidecarRestarts(at) => {
                let (terms, unavailable, next) = (self.terms, unavailable(&self.setup), self.soon());
                self.epoch += 1;
                let sidecar = &mut self.sidecars[at];
                sidecar.life += 1;
                sidecar.session = self.epoch * 1000 + at as u64;
                sidecar.holder = Holder::new(terms, unavailable, sidecar.began);
                (sidecar.sequence, sidecar.running, sidecar.share) = (0, 0, Part::NOTHING);
                sidecar.bucket = Bucket::fresh();
                sidecar.sent.clear();
                self.reconnect(at);
                self.begin(at);
                self.after(next, Event::SidecarRestarts(at));
            }
            Event::ServerRestarts => {
                self.epoch += 1;
                self.server = Allocator::new(self.terms, TIMING, self.epoch, true, self.now);
                (0..self.sidecars.len()).for_each(|at| self.reconnect(at));
                let next = self.soon() + 20 * SECOND;
                self.after(next, Event::ServerRestarts);
            }
            Event::Breaks(at) => {
                self.sidecars[at].connected = false;
                let gap = self.chance.up_to(30 * SECOND);
                self.after(gap, Event::Mends(at));
            }
            Event::Mends(at) => {
                self.sidecars[at].connected = true;
                self.reconnect(at);
                let gap = self.soon();
                self.after(gap, Event::Breaks(at));
            }
            Event::LimitChanges => self.change(),
            Event::Lies => self.lie(),
        }
    }

    /// What it holds it says to hold by the run of now, or by one of before.
    fn lie(&mut self) {
        let much = self.setup.trouble == Trouble::Much;
        self.after(TIMING.refresh_nanos, Event::Lies);
        if much && self.chance.one_in(100) {
            return;
        }
        let in_use = if much && self.chance.one_in(500) { u64::MAX } else { 0 };
        let report = Report {
            sequence: self.now,
            epoch: if much && self.chance.one_in(100) { 0 } else { self.epoch },
            acknowledged: 0,
            has: Part { capacity: u64::MAX, burst: u64::MAX },
            in_use,
            wants: u64::MAX,
            release: much && self.chance.one_in(20),
        };
        let now = self.now;
        let grants = self.server.report(LIAR, report, now);
        self.send(grants);
    }

    /// Messages of the connection before are read no more.
    fn reconnect(&mut self, at: usize) {
        self.sidecars[at].connection += 1;
    }

    fn begin(&mut self, at: usize) {
        let life = self.sidecars[at].life;
        let gap = self.chance.up_to(TIMING.refresh_nanos);
        self.after(gap, Event::Reports { at, life });
        let clock = self.clock(at);
        let sidecar = &mut self.sidecars[at];
        sidecar.holder = Holder::new(self.terms, unavailable(&self.setup), clock);
        sidecar.share = sidecar.holder.share(clock).part;
        // What a sidecar lets pass without a lease may pass at once.
        sidecar.bucket = Bucket::fresh();
    }

    fn change(&mut self) {
        let capacity = 1 + self.chance.up_to(self.setup.capacity * 2);
        let burst = 1 + self.chance.up_to(capacity);
        self.terms = terms(&self.setup, capacity, burst);
        self.past.push((self.now, self.terms.whole));
        self.judge_anew();
        let (terms, now) = (self.terms, self.now);
        let grants = self.server.change(terms, now);
        self.send(grants);
        for at in 0..self.sidecars.len() {
            // Each hears of the policy some time; what it holds does not depend on it.
            let clock = self.clock(at);
            self.settle(at, clock, 0, None);
            self.sidecars[at].holder.change(terms, unavailable(&self.setup));
            self.settle(at, clock, 0, None);
        }
        let next = self.soon();
        self.after(next, Event::LimitChanges);
    }

    /// What the clock of a sidecar says.
    fn clock(&self, at: usize) -> u64 {
        let sidecar = &self.sidecars[at];
        let fast = i128::from(self.now) * i128::from(sidecar.fast) / 1_000_000;
        sidecar.began + u64::try_from(i128::from(self.now) + fast).unwrap()
    }

    fn flow(&self, part: Part) -> Flow {
        Flow {
            amount_milli: part.capacity,
            burst_milli: part.burst,
            window_nanos: self.setup.window_secs * SECOND,
        }
    }

    /// Goes over to what a sidecar may use now.
    fn settle(&mut self, at: usize, clock: u64, tokens: u64, before: Option<Part>) {
        let share = self.sidecars[at].holder.share(clock);
        let before = before.unwrap_or(self.sidecars[at].share);
        if share.part != before || tokens > 0 {
            let (old, new) = (self.flow(before), self.flow(share.part));
            let since = share.since.unwrap_or(clock);
            self.sidecars[at].bucket.resize(old, new, tokens, since.min(clock));
            self.sidecars[at].share = share.part;
        }
    }

    fn call(&mut self, at: usize) {
        let gap = self.chance.gap(self.sidecars[at].per_second);
        self.after(gap, Event::Call(at));
        let clock = self.clock(at);
        self.settle(at, clock, 0, None);
        let flow = self.flow(self.sidecars[at].share);
        let slots = self.setup.slots;
        let sidecar = &mut self.sidecars[at];
        let passes = if slots {
            sidecar.holder.note_at_once(sidecar.running + MILLI);
            sidecar.running + MILLI <= sidecar.share.capacity
        } else {
            sidecar.holder.note(MILLI);
            sidecar.bucket.room(flow, MILLI, clock).is_ok()
        };
        let (is_new, life) = (sidecar.holder.is_new(), sidecar.life);
        if passes && slots {
            sidecar.running += MILLI;
            let lasts = self.chance.gap(1.0);
            self.after(lasts, Event::Ends { at, life });
        } else if passes {
            sidecar.bucket.take(flow, MILLI, clock);
            self.judge_one();
        }
        if is_new {
            self.report(at);
        }
    }

    fn judge_anew(&mut self) {
        let most = self.most();
        if most != self.judged_by {
            self.judge.resize(self.judged_by, most, 0, self.now);
            self.judged_by = most;
        }
    }

    /// One more passes: as of one bucket?
    fn judge_one(&mut self) {
        self.judge_anew();
        let room = self.judge.room(self.judged_by, MILLI, self.now);
        assert!(room.is_ok(), "at {} ns more pass than of one bucket with {:?}", self.now, self.judged_by);
        self.judge.take(self.judged_by, MILLI, self.now);
        if self.now >= self.counted_from {
            self.passed += MILLI;
        }
    }

    /// The most that may be in use: what limits were until a lease ago, as long as somebody may not have heard.
    fn whole(&self) -> Part {
        let mut most = self.terms.whole;
        let mut until = self.now;
        for (since, whole) in self.past.iter().rev() {
            // It held until the next was said, and may be used for two leases more: by a lease, and by one that an
            // answer which was under way made longer.
            if until + 2 * TIMING.counted_nanos() >= self.now {
                most = most.most(*whole);
            }
            until = *since;
        }
        most
    }

    /// What may pass at most: the limit, faster by what clocks differ, with the floors of all.
    fn most(&self) -> Flow {
        let whole = self.whole();
        let fast =
            whole.capacity as u128 * (1_000_000 + u128::from(TIMING.drift_per_million)) / 1_000_000 + 1;
        let floors = self.setup.floor.map_or(0, |floor| u64::from(floor) * MILLI * self.setup.holders as u64);
        // A sidecar that begins anew may let its floor pass anew.
        let begins = if self.setup.floor.is_some() { 4 } else { 0 };
        let each = begins * floors.max(self.setup.holders as u64 * MILLI);
        self.flow(Part { capacity: fast as u64 + 2 * floors, burst: whole.burst + each })
    }

    fn report(&mut self, at: usize) {
        let clock = self.clock(at);
        let sidecar = &mut self.sidecars[at];
        sidecar.sequence += 1;
        let report = sidecar.holder.report(sidecar.sequence, sidecar.running, TIMING, clock);
        sidecar.sent.insert(sidecar.sequence, clock);
        let (connection, session) = (sidecar.connection, sidecar.session);
        self.settle(at, clock, 0, None);
        let connected = self.sidecars[at].connected;
        self.deliver(connected, |_| Event::ToServer { from: at, connection, session, report });
    }

    fn send(&mut self, grants: Vec<(u64, Grant)>) {
        for (session, grant) in grants {
            let Some(to) = self.sidecars.iter().position(|it| it.session == session) else { continue };
            let (connection, connected) = (self.sidecars[to].connection, self.sidecars[to].connected);
            self.deliver(connected, |_| Event::ToSidecar { to, connection, grant });
        }
    }

    /// Late, lost or more than once.
    fn deliver(&mut self, connected: bool, event: impl Fn(&Self) -> Event) {
        let much = self.setup.trouble == Trouble::Much;
        let lost = !connected || (much && self.chance.one_in(50));
        let times = if lost { 0 } else { 1 + u64::from(much && self.chance.one_in(100)) };
        for _ in 0..times {
            let slow = if much && self.chance.one_in(20) { 15 * SECOND } else { SECOND / 50 };
            let gap = 1 + self.chance.up_to(slow);
            let event = event(self);
            self.after(gap, event);
        }
    }

    fn granted(&mut self, at: usize, grant: Grant) {
        let clock = self.clock(at);
        self.settle(at, clock, 0, None);
        let sidecar = &mut self.sidecars[at];
        let asked = grant.answers.and_then(|sequence| sidecar.sent.get(&sequence).copied());
        if grant.answers.is_some() && asked.is_none() {
            return;
        }
        let Some(less) = sidecar.holder.grant(grant, asked, TIMING, clock) else { return };
        let fallback = sidecar.holder.share(clock).fallback;
        let tokens = if fallback || self.setup.slots { 0 } else { grant.tokens };
        self.settle(at, clock, tokens, None);
        if less {
            self.report(at);
        }
    }

    /// What sidecars may use by their leases is never more than there is.
    fn nothing_is_lent_twice(&self) {
        let mut sum = Part::NOTHING;
        for at in 0..self.sidecars.len() {
            let share = self.sidecars[at].holder.share(self.clock(at));
            if !share.fallback {
                sum = sum.and(share.part);
            }
        }
        let whole = self.whole();
        let fits = sum.capacity <= whole.capacity && sum.burst <= whole.burst;
        assert!(fits, "at {} ns {sum:?} is held of {whole:?}", self.now);
    }
}

fn terms(setup: &Setup, capacity: u64, burst: u64) -> Terms {
    match setup.slots {
        true => Terms::slots(u32::try_from(capacity).unwrap()),
        false => Terms::rate(capacity * MILLI, burst * MILLI, setup.window_secs * SECOND),
    }
}

fn unavailable(setup: &Setup) -> WhenUnavailable {
    match setup.floor {
        None => WhenUnavailable::Deny,
        Some(floor) => WhenUnavailable::Floor(serde_json::from_value(floor.into()).ok()),
    }
}
