//! Which instance of a server the next request goes to. Time and randomness are arguments; what changes between
//! requests is in the [`Load`] of each instance, which outlives a change of the set of instances.
//!
//! Not here: connections, and what counts as a failure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;
use weft_proto::resource::kinds::{self, OutlierEjection};

mod load;

pub use load::{InFlight, Load};

/// How often an instance that may not be chosen is drawn before the choice is made by looking at all of them.
const DRAWS_MAX: usize = 8;

/// Of two instances with the same load, the one that was this much slower is avoided.
const MUCH_SLOWER: f64 = 2.0;

/// One in so many of those choices does not look at the latency, so that a slow instance can show that it is better.
const LATENCY_IGNORED_ONE_IN: u32 = 8;

/// What an instance that has not answered yet is taken to need, in seconds.
const LATENCY_UNKNOWN: f64 = 0.03;

/// Where instances are judged by how long they take, one that fails is as bad as one that takes this long.
const FAILED_AS: Duration = Duration::from_secs(1);

/// What a new instance gets of its share at least.
const WARMTH_MIN: f64 = 0.1;

/// When an instance is left out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row.
    pub failures: u32,
    /// A healthy time of this length makes up for one ejection.
    pub interval: Duration,
    /// How long the first ejection lasts; the next ones last that much longer each.
    pub time: Duration,
    /// Most instances ejected at once, in percent.
    pub percent_max: u32,
}

/// No ejection lasts longer, unless the first is to.
const EJECTION_TIME_MAX: Duration = Duration::from_secs(300);

impl Default for Ejection {
    fn default() -> Self {
        Self {
            failures: 5,
            interval: Duration::from_secs(10),
            time: Duration::from_secs(30),
            percent_max: 50,
        }
    }
}

impl From<Option<&OutlierEjection>> for Ejection {
    fn from(given: Option<&OutlierEjection>) -> Self {
        let default = Self::default();
        let Some(given) = given else { return default };
        let OutlierEjection { consecutive_failures, interval, ejection_time, ejected_percent_max } = given;
        Self {
            failures: consecutive_failures.map_or(default.failures, |count| count.get()),
            interval: interval.map_or(default.interval, |span| span.duration()),
            time: ejection_time.map_or(default.time, |span| span.duration()),
            percent_max: ejected_percent_max.map_or(default.percent_max, |count| count.get()),
        }
    }
}

/// One instance, as far as choosing goes.
#[derive(Clone, Debug)]
pub struct Member {
    pub load: Arc<Load>,
    /// Share of the requests, against the others.
    pub weight: u32,
    /// Hash of what names the instance; the same in every sidecar.
    pub hash: u64,
    /// Whether it stands in the caller's own zone and is preferred for that.
    pub local: bool,
}

/// Instances of one server.
#[derive(Debug)]
pub struct Balancer {
    policy: kinds::Balancer,
    ejection: Ejection,
    members: Vec<Member>,
    everyone: Group,
    local: Option<Group>,
    /// For how long a new instance gets less than its share.
    slow_start: Option<Duration>,
    turn: AtomicU64,
    /// Held while it is decided whether one more may be ejected.
    judging: Mutex<()>,
}

/// Some of the members, to be drawn from by weight.
#[derive(Debug)]
struct Group {
    /// Positions among the members.
    members: Vec<usize>,
    /// The weights of the members up to and including each.
    sums: Vec<u64>,
    /// Steps through all weights without visiting neighbours one after the other.
    stride: u64,
}

impl Group {
    fn new(members: &[Member], belongs: impl Fn(&Member) -> bool) -> Option<Self> {
        let positions: Vec<usize> = (0..members.len()).filter(|at| belongs(&members[*at])).collect();
        let mut sum = 0;
        let add = |at: &usize| {
            sum += u64::from(members[*at].weight.max(1));
            sum
        };
        let sums: Vec<u64> = positions.iter().map(add).collect();
        let total = *sums.last()?;
        Some(Self { members: positions, stride: stride(total), sums })
    }

    fn total(&self) -> u64 {
        self.sums.last().copied().unwrap_or(1)
    }

    /// The member at a place among all weights.
    fn at(&self, place: u64) -> usize {
        self.members[self.sums.partition_point(|sum| *sum <= place % self.total())]
    }
}

/// A number without common divisor, near the golden section: its multiples are spread evenly.
fn stride(total: u64) -> u64 {
    let golden = ((total as f64) * 0.618_033_988_75) as u64;
    let coprime = |candidate: &u64| gcd(*candidate, total) == 1;
    (golden.max(1)..=total.max(1)).find(coprime).unwrap_or(1)
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Balancer {
    pub fn new(policy: kinds::Balancer, ejection: Ejection, members: Vec<Member>, now: Instant) -> Self {
        let everyone = Group::new(&members, |_| true);
        let nobody = || Group { members: Vec::new(), sums: Vec::new(), stride: 1 };
        let local = Group::new(&members, |member| member.local);
        // Where all are local, there is nothing to prefer.
        let local = local.filter(|group| group.members.len() < members.len());
        let balancer = Self {
            policy,
            ejection,
            everyone: everyone.unwrap_or_else(nobody),
            local,
            slow_start: None,
            members,
            turn: AtomicU64::new(0),
            judging: Mutex::new(()),
        };
        balancer.readmit_surplus(now);
        balancer
    }

    /// Lets new instances come to their share by and by.
    #[must_use]
    pub fn starting_slowly(mut self, within: Option<Duration>) -> Self {
        self.slow_start = within.filter(|within| !within.is_zero());
        self
    }

    /// Chooses an instance that was not `tried` for this request; its position. Ejected ones are chosen only when all
    /// others were tried. A `key` leads to the same instance as long as that is there and healthy.
    pub fn pick(
        &self,
        key: Option<u64>,
        tried: &[usize],
        now: Instant,
        random: &mut impl Rng,
    ) -> Option<usize> {
        let counts = self.checks_count(now);
        let fit = |at: usize| !tried.contains(&at) && self.is_in(&self.members[at].load, counts, now);
        let untried = |at: usize| !tried.contains(&at);
        let local = self.local.as_ref().and_then(|group| self.choose(group, key, &fit, now, random));
        local
            .or_else(|| self.choose(&self.everyone, key, &fit, now, random))
            .or_else(|| self.choose(&self.everyone, key, &untried, now, random))
    }

    fn choose(
        &self,
        group: &Group,
        key: Option<u64>,
        fit: &impl Fn(usize) -> bool,
        now: Instant,
        random: &mut impl Rng,
    ) -> Option<usize> {
        if group.members.is_empty() {
            return None;
        }
        if let Some(key) = key {
            return self.by_key(group, key, fit);
        }
        let mut drawn = |fit: &dyn Fn(usize) -> bool| self.draw(group, fit, now, || random.random());
        match self.policy {
            kinds::Balancer::LeastRequest => {
                let one = drawn(fit)?;
                let other = drawn(&|at| at != one && fit(at));
                Some(other.map_or(one, |other| self.better(one, other, now, random)))
            }
            kinds::Balancer::PeakEwma => {
                let one = drawn(fit)?;
                let other = drawn(&|at| at != one && fit(at));
                Some(other.map_or(one, |other| self.sooner(one, other, now)))
            }
            kinds::Balancer::RoundRobin => {
                let next = || self.turn.fetch_add(1, Ordering::Relaxed).wrapping_mul(group.stride);
                self.draw(group, fit, now, next)
            }
            // Without a key, there is nothing that should lead to the same instance again.
            kinds::Balancer::Random | kinds::Balancer::ConsistentHash => drawn(fit),
        }
    }

    /// Rendezvous: every instance has its own mark for a key, the highest wins. An instance that leaves takes only its
    /// own keys along, and needs no ring to be rebuilt.
    fn by_key(&self, group: &Group, key: u64, fit: &impl Fn(usize) -> bool) -> Option<usize> {
        let mark = |at: usize| {
            let member = &self.members[at];
            -f64::from(member.weight.max(1)) / uniform(member.hash ^ mix(key)).ln()
        };
        let marked = group.members.iter().filter(|at| fit(**at)).map(|at| (mark(*at), *at));
        marked.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, at)| at)
    }

    /// Draws until one fits; in the end looks for one, from where the last draw was. One that is new is passed over more
    /// often the newer it is.
    fn draw(
        &self,
        group: &Group,
        fit: &dyn Fn(usize) -> bool,
        now: Instant,
        mut next: impl FnMut() -> u64,
    ) -> Option<usize> {
        let mut passed_over = None;
        for _ in 0..DRAWS_MAX {
            let place = next();
            let at = group.at(place);
            if fit(at) {
                if self.is_warm(at, place, now) {
                    return Some(at);
                }
                passed_over.get_or_insert(at);
            }
        }
        if passed_over.is_some() {
            // All that were drawn are new: the first was drawn by weight.
            return passed_over;
        }
        let start = (next() % group.members.len() as u64) as usize;
        let (before, after) = group.members.split_at(start);
        after.iter().chain(before).copied().find(|at| fit(*at))
    }

    /// Whether an instance that was drawn is to have the request. What was drawn says nothing of the number that is made
    /// of it.
    fn is_warm(&self, at: usize, drawn: u64, now: Instant) -> bool {
        let Some(within) = self.slow_start else { return true };
        let warmth = self.members[at].load.age(now).as_secs_f64() / within.as_secs_f64();
        warmth >= 1.0 || uniform(drawn) < warmth.max(WARMTH_MIN)
    }

    /// The one that promises the earlier answer.
    fn sooner(&self, one: usize, other: usize, now: Instant) -> usize {
        let cost = |at: usize| {
            let Member { load, weight, .. } = &self.members[at];
            let latency = if load.is_known() { load.latency(now) } else { LATENCY_UNKNOWN };
            // Weights were respected by whoever drew; here they say how much load is how much.
            latency * (1.0 + f64::from(load.in_flight()) / f64::from((*weight).max(1)))
        };
        if cost(other) < cost(one) { other } else { one }
    }

    /// The less loaded by its weight. Between equals the one that was drawn first, which respects the weights, unless
    /// it was much slower lately.
    fn better(&self, one: usize, other: usize, now: Instant, random: &mut impl Rng) -> usize {
        let (first, second) = (&self.members[one], &self.members[other]);
        let share = |mine: &Member, theirs: &Member| {
            u64::from(mine.load.in_flight()) * u64::from(theirs.weight.max(1))
        };
        match share(first, second).cmp(&share(second, first)) {
            std::cmp::Ordering::Less => one,
            std::cmp::Ordering::Greater => other,
            std::cmp::Ordering::Equal => {
                let slower = first.load.latency(now) > MUCH_SLOWER * second.load.latency(now);
                match slower && second.load.is_known() && !random.random_ratio(1, LATENCY_IGNORED_ONE_IN) {
                    true => other,
                    false => one,
                }
            }
        }
    }

    /// A request to this instance came to nothing. Says whether the instance is ejected for that.
    pub fn failed(&self, load: &Arc<Load>, now: Instant) -> bool {
        if self.policy == kinds::Balancer::PeakEwma {
            load.took(FAILED_AS, now);
        }
        if load.one_more_failure() < self.ejection.failures {
            return false;
        }
        let _judging = self.judging.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.members.iter().any(|member| Arc::ptr_eq(&member.load, load));
        let room = self.ejected(now) < self.ejected_max();
        let eject = known && room && !load.is_ejected(now);
        if eject {
            load.eject(now, self.ejection.time, self.ejection.interval);
        }
        eject
    }

    /// Whether what checks say leaves anybody out: not where it would leave out more than may be, for then it is rather the
    /// checks that do not work, or whatever lies between.
    fn checks_count(&self, now: Instant) -> bool {
        let mut unwell = self.members.iter().filter(|member| member.load.is_unwell()).peekable();
        unwell.peek().is_some() && {
            let out = |member: &&Member| member.load.is_unwell() || member.load.is_ejected(now);
            self.members.iter().filter(out).count() <= self.ejected_max()
        }
    }

    fn is_in(&self, load: &Load, checks_count: bool, now: Instant) -> bool {
        !(load.is_ejected(now) || checks_count && load.is_unwell())
    }

    /// Whether an instance is not left out.
    pub fn is_fit(&self, at: usize, now: Instant) -> bool {
        let counts = self.checks_count(now);
        self.members.get(at).is_some_and(|member| self.is_in(&member.load, counts, now))
    }

    /// Whether there is an instance that is not left out, of those that checks found well.
    pub fn is_available(&self, now: Instant) -> bool {
        self.members.iter().any(|member| !member.load.is_ejected(now) && !member.load.is_unwell())
    }

    /// Instances that are left out.
    pub fn ejected(&self, now: Instant) -> usize {
        self.members.iter().filter(|member| member.load.is_ejected(now)).count()
    }

    fn ejected_max(&self) -> usize {
        self.members.len() * self.ejection.percent_max.min(100) as usize / 100
    }

    /// Where the healthy ones have left, those that are ejected may be too many: the ones that would come back first
    /// come back now.
    fn readmit_surplus(&self, now: Instant) {
        let mut ejected: Vec<_> = self.members.iter().filter(|member| member.load.is_ejected(now)).collect();
        let surplus = ejected.len().saturating_sub(self.ejected_max());
        ejected.sort_by_key(|member| member.load.ejected_until());
        ejected.into_iter().take(surplus).for_each(|member| member.load.readmit());
    }
}

/// A number from zero to one.
fn uniform(bits: u64) -> f64 {
    ((mix(bits) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// A hash that is the same in every process.
pub fn stable_hash(text: &str) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    mix(text.bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME)))
}

/// The finisher of SplitMix64: every bit of the input reaches every bit of the output.
const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
