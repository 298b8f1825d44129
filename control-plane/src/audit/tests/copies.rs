//! Trails that were copied cannot be told from those of the leader, whatever happened on the way.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::audit::copy::{Copying, TRAILS_PAGE};

/// A leader's trails, and one that copies them. Neither knows the other's authority.
struct Pair {
    leader: Stage,
    copy: Stage,
    /// Of each trail, where its node is, and what it wrote.
    cursors: Vec<Cursor>,
    written: [Vec<u8>; 3],
    copying: Copying,
    /// Up to which place was copied; none after a cut.
    after: Option<u64>,
}

/// What happens to a leader and to one that copies.
#[derive(Clone, Debug)]
enum Step {
    /// A node delivers so many calls, and closes its segment or does not.
    Ship(usize, usize, bool),
    /// Some of what is lacking is copied.
    Copy,
    Cut,
    /// What was copied leads, and the former leader copies.
    FailOver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize, 0..4_usize, any::<bool>()).prop_map(|(of, calls, closes)| Step::Ship(of, calls, closes)),
        4 => Just(Step::Copy),
        1 => Just(Step::Cut),
        1 => Just(Step::FailOver),
    ]
}

impl Pair {
    fn new(settings: Settings) -> Self {
        let cursors =
            (0..3).map(|number| Cursor::new(format!("research/files-{number}"), Trail::from_random(number)));
        Self {
            leader: Stage::new(Settings::default()),
            copy: Stage::new(settings),
            cursors: cursors.collect(),
            written: Default::default(),
            copying: Copying::default(),
            after: None,
        }
    }

    /// Delivers what a node has.
    fn deliver(&self, of: usize, lines: &[u8]) {
        let cursor = &self.cursors[of];
        take_for_test(&self.leader.trails, (cursor.node(), cursor.trail(), ID), lines, stamp()).unwrap();
    }

    fn ship(&mut self, of: usize, calls: usize, closes: bool) {
        let mut cursor = self.cursors[of].clone();
        let mut lines = Vec::new();
        if !cursor.is_open() {
            lines.extend(cursor.begin_segment(stamp()));
        }
        for number in 0..calls {
            lines.extend(cursor.write(stamp(), call(number)));
        }
        let identity = &self.leader.identity;
        if cursor.certificates() != seals::certificates(identity) {
            lines.extend(cursor.write(stamp(), What::Certificate(seals::certificates(identity))));
        }
        let statement = cursor.statement(stamp(), closes);
        let seal = Seal {
            segment: statement.segment,
            count: statement.count,
            before: statement.before,
            closes,
            signature: seals::sign(identity, &statement).unwrap(),
        };
        lines.extend(cursor.write(statement.at, What::Seal(seal)));
        self.cursors[of] = cursor;
        self.deliver(of, &lines);
        self.written[of].extend(lines);
    }

    /// Finds out where to begin, as one that follows does.
    async fn begin(&self) -> u64 {
        let (leader, copy) = (&self.leader.trails, &self.copy.trails);
        let (far, newest) = leader.far(0).await.unwrap();
        assert!(far.len() < TRAILS_PAGE);
        let names = far.iter().map(|it| (it.node.clone(), it.name.clone())).collect();
        let next = copy.next_of(names).await.unwrap();
        let lacking = far.iter().zip(next).filter(|(it, next)| it.last >= *next);
        let lacking: Vec<_> = lacking.map(|(it, next)| (it.number, next)).collect();
        match leader.first_lacking(lacking).await.unwrap() {
            0 => newest,
            place => place - 1,
        }
    }

    async fn copy(&mut self) {
        let mut after = match self.after {
            Some(after) => after,
            None => self.begin().await,
        };
        loop {
            let found = self.leader.trails.runs(after).await.unwrap();
            let copying = std::mem::take(&mut self.copying);
            self.copying = self.copy.trails.take(copying, found.runs).await.unwrap();
            after = found.place;
            if found.place == found.newest {
                break;
            }
        }
        self.after = Some(after);
    }

    fn cut(&mut self) {
        (self.after, self.copying) = (None, Copying::default());
    }

    /// The copy leads.
    fn fail_over(&mut self) {
        std::mem::swap(&mut self.leader.trails, &mut self.copy.trails);
        self.cut();
    }
}

/// All that is asked of trails, but for the order in which they came.
async fn told(trails: &Trails) -> Vec<(Known, Vec<Vec<u8>>)> {
    let known = trails.known(WantedTrails { limit: 100, ..WantedTrails::default() }).await.unwrap();
    let mut told = Vec::new();
    for known in known {
        let mut segments = Vec::new();
        for segment in &known.segments {
            let (node, trail) = (known.node.clone(), known.trail.clone());
            segments.push(trails.segment(node, trail, segment.number).await.unwrap().unwrap());
        }
        told.push((Known { place: 0, ..known }, segments));
    }
    told.sort_by(|one, other| one.0.node.cmp(&other.0.node));
    told
}

/// What verification finds, with what is here.
fn findings((known, segments): &(Known, Vec<Vec<u8>>)) -> Vec<weft_proto::audit::Finding> {
    let mut check = |_: &_, _: &_, _: &[String]| Ok(());
    let mut review = Review::new(known.anchors.clone(), &mut check);
    for (at, lines) in segments.iter().enumerate() {
        review.segment(lines, at + 1 == segments.len());
    }
    review.finish().findings
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trails_that_were_copied_cannot_be_told_from_the_leaders(steps in vec(step(), 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair::new(Settings::default());
            for step in steps {
                match step {
                    Step::Ship(of, calls, closes) => pair.ship(of, calls, closes),
                    Step::Copy => pair.copy().await,
                    Step::Cut => pair.cut(),
                    Step::FailOver => {
                        pair.copy().await;
                        pair.fail_over();
                    }
                }
            }
            pair.copy().await;
            let copied = told(&pair.copy.trails).await;
            assert_eq!(copied, told(&pair.leader.trails).await);
            assert!(copied.iter().all(|trail| findings(trail).is_empty()));
        });
    }
}

#[tokio::test]
async fn one_that_comes_anew_gets_what_was_anchored_of_segments_that_are_cleared_away() {
    let mut pair = Pair::new(Settings::default());
    for _ in 0..4 {
        pair.ship(0, 3, true);
    }
    let few = Settings { lines_bytes_max: 1, ..Settings::default() };
    clear::retain(&mut pair.leader.trails.0.connection.lock().unwrap(), few, stamp()).unwrap();
    pair.copy().await;
    let copied = told(&pair.copy.trails).await;
    assert_eq!((copied[0].0.segments.len(), copied[0].0.anchors.len()), (1, 4));
    assert_eq!(copied, told(&pair.leader.trails).await);
    assert_eq!(findings(&copied[0]), []);
    // With the same settings, the same is cleared away there as well.
    pair.ship(0, 3, true);
    pair.copy().await;
    for stage in [&pair.leader, &pair.copy] {
        clear::retain(&mut stage.trails.0.connection.lock().unwrap(), few, stamp()).unwrap();
    }
    assert_eq!(told(&pair.copy.trails).await, told(&pair.leader.trails).await);
}

#[tokio::test]
async fn one_that_was_away_while_segments_were_cleared_away_goes_on_with_what_is_left() {
    let mut pair = Pair::new(Settings::default());
    pair.ship(0, 3, false);
    pair.copy().await;
    pair.cut();
    for closes in [true, true, true] {
        pair.ship(0, 3, closes);
    }
    let few = Settings { lines_bytes_max: 1, ..Settings::default() };
    clear::retain(&mut pair.leader.trails.0.connection.lock().unwrap(), few, stamp()).unwrap();
    pair.copy().await;
    clear::retain(&mut pair.copy.trails.0.connection.lock().unwrap(), few, stamp()).unwrap();
    let copied = told(&pair.copy.trails).await;
    assert_eq!(copied, told(&pair.leader.trails).await);
    assert_eq!(findings(&copied[0]), []);
}

#[tokio::test]
async fn what_nobody_copied_is_delivered_again_to_the_next_leader() {
    let mut pair = Pair::new(Settings::default());
    pair.ship(0, 2, true);
    pair.ship(1, 2, false);
    pair.copy().await;
    pair.ship(0, 2, false);
    pair.ship(2, 1, true);
    pair.fail_over();
    // Nodes have everything that they ever wrote.
    (0..3).for_each(|of| pair.deliver(of, &pair.written[of]));
    pair.ship(1, 2, true);
    pair.copy().await;
    let [leads, follows] = [told(&pair.leader.trails).await, told(&pair.copy.trails).await];
    assert_eq!(leads.len(), 3);
    for (one, other) in leads.iter().zip(&follows) {
        assert_eq!((&one.0.segments, &one.1), (&other.0.segments, &other.1));
        assert!(findings(one).is_empty() && findings(other).is_empty());
    }
}

#[tokio::test]
async fn a_trail_that_is_another_one_here_is_left_out_and_the_rest_is_copied() {
    let mut pair = Pair::new(Settings::default());
    let before = pair.cursors[0].clone();
    pair.ship(0, 2, true);
    pair.copy().await;
    let copied = told(&pair.copy.trails).await;
    // The node tells the next leader another story under the same name.
    pair.leader = Stage::new(Settings::default());
    pair.cut();
    pair.cursors[0] = before;
    pair.ship(0, 3, true);
    pair.ship(0, 3, true);
    pair.ship(1, 1, true);
    pair.copy().await;
    let now = told(&pair.copy.trails).await;
    assert_eq!(now[0], copied[0], "nothing of it is changed");
    assert_eq!(now[1].0.node, "research/files-1");
}

#[tokio::test]
async fn each_control_plane_keeps_its_own_trail_to_itself() {
    let mut pair = Pair::new(Settings::default());
    let trail = Trail::from_random(9);
    let mut cursor = Cursor::new(own::NODE, trail.clone());
    let lines = cursor.begin_segment(stamp());
    take_for_test(&pair.leader.trails, (own::NODE, &trail, ID), &lines, stamp()).unwrap();
    pair.ship(1, 1, true);
    pair.copy().await;
    let nodes: Vec<_> = told(&pair.copy.trails).await.into_iter().map(|(known, _)| known.node).collect();
    assert_eq!(nodes, ["research/files-1"]);
}

#[tokio::test]
async fn no_more_is_read_at_once_than_may_be() {
    let mut pair = Pair::new(Settings::default());
    for _ in 0..2 {
        pair.ship(0, copy::LINES_MAX, true);
    }
    let (mut after, mut answers) = (0, 0);
    loop {
        let found = pair.leader.trails.runs(after).await.unwrap();
        let bytes: usize = found.runs.iter().map(|run| run.lines.len()).sum();
        assert!(bytes < copy::LINES_BYTES_MAX + (1 << 20), "{bytes}");
        (after, answers) = (found.place, answers + 1);
        if found.place == found.newest {
            break;
        }
    }
    assert!(answers >= 3, "{answers}");
    pair.copy().await;
    assert_eq!(told(&pair.copy.trails).await, told(&pair.leader.trails).await);
}
