//! Readings over simulated time: what is read when, and what it costs.
#![expect(clippy::expect_used, reason = "a panic is the test's failure")]

use super::*;

const EVERY: Every = Every {
    told: Duration::from_secs(60),
    untold: Duration::from_secs(5),
};
const COST: Duration = Duration::from_millis(3);

fn done(cost: Duration) -> Done {
    Done {
        cost,
        full: true,
        known: None,
    }
}

struct Node {
    plan: Plan,
    start: Instant,
    now: Instant,
    spent: Duration,
    read: Vec<(NetnsId, u128, Why)>,
}

impl Node {
    fn new(count: u32, told: bool) -> Self {
        let start = Instant::now();
        let mut plan = Plan::new(EVERY, start);
        plan.told(told);
        let there = (1..=count).map(|id| (NetnsId(id), PathBuf::new()));
        assert!(plan.places(there.collect(), start));
        Self {
            plan,
            start,
            now: start,
            spent: Duration::ZERO,
            read: Vec::new(),
        }
    }

    fn run(&mut self, time: Duration, cost: Duration) {
        let end = self.now + time;
        while let Some(wakes) = self.plan.wakes() {
            if wakes.max(self.now) > end {
                break;
            }
            self.now = wakes.max(self.now);
            let next = self.plan.begin(self.now);
            let next = next.expect("woken for nothing");
            let at = (self.now - self.start).as_millis();
            self.read.push((next.netns, at, next.why));
            self.now += cost;
            self.spent += cost;
            self.plan.done(next.netns, self.now, done(cost));
        }
        self.now = end.max(self.now);
    }
}

#[test]
fn the_first_reading_of_many_takes_its_share_and_leaves_nobody_out() {
    let mut node = Node::new(250, true);
    node.run(Duration::from_secs(4), COST);
    let all: std::collections::BTreeSet<_> = node.read.iter().map(|r| r.0).collect();
    assert_eq!((all.len(), node.read.len()), (250, 250));
    let last = node.read.last().map_or(0, |r| r.1);
    assert!((3_500..4_000).contains(&last), "{last}");
}

#[test]
fn regular_readings_cost_a_hundredth() {
    for told in [true, false] {
        let mut node = Node::new(250, told);
        node.run(Duration::from_secs(60), COST);
        node.spent = Duration::ZERO;
        node.run(Duration::from_secs(600), COST);
        assert!(
            node.spent <= Duration::from_millis(6_100),
            "{:?}",
            node.spent
        );
        assert!(
            node.spent >= Duration::from_millis(3_500),
            "{:?}",
            node.spent
        );
    }
}

#[test]
fn a_burst_of_changes_is_one_reading_and_a_flood_one_a_second() {
    let mut node = Node::new(1, true);
    node.run(Duration::from_secs(5), COST);
    node.read.clear();
    for _ in 0..4 {
        assert!(node.plan.changed(NetnsId(1), node.now));
        node.run(Duration::from_millis(50), COST);
    }
    node.run(Duration::from_secs(1), COST);
    assert_eq!(node.read, [(NetnsId(1), 5_350, Why::Changed)]);
    node.read.clear();
    for _ in 0..1_000 {
        node.plan.changed(NetnsId(1), node.now);
        node.run(Duration::from_millis(10), COST);
    }
    assert!((9..=11).contains(&node.read.len()), "{:?}", node.read);
    assert!(!node.plan.changed(NetnsId(9), node.now));
}

#[test]
fn a_change_during_a_reading_is_read_again() {
    let mut node = Node::new(1, true);
    assert!(node.plan.begin(node.now).is_some());
    node.plan.changed(NetnsId(1), node.now + COST / 2);
    node.now += COST;
    node.plan.done(NetnsId(1), node.now, done(COST));
    node.run(Duration::from_secs(1), COST);
    assert_eq!(node.read.len(), 1);
    assert_eq!(node.read[0].2, Why::Changed);
}

#[test]
fn who_asks_is_answered_at_once_and_then_not_too_often() {
    let mut node = Node::new(1, true);
    node.run(Duration::from_secs(5), COST);
    node.read.clear();
    for _ in 0..100 {
        node.plan.asked(NetnsId(1), node.now);
        node.run(Duration::from_millis(100), COST);
    }
    assert!((5..=6).contains(&node.read.len()), "{:?}", node.read);
    assert_eq!(node.read[0], (NetnsId(1), 5_000, Why::Asked));
}

#[test]
fn news_come_first_and_nobody_starves() {
    let mut node = Node::new(200, true);
    node.run(Duration::from_secs(50), COST);
    node.read.clear();
    let dear = Duration::from_millis(100);
    for round in 0..600 {
        for id in 1..=10 {
            node.plan.changed(NetnsId(id), node.now);
        }
        node.run(dear, dear);
        if round == 200 {
            let first = node.read.iter().filter(|r| r.0.0 <= 10).count();
            assert!(first > 20, "{first}");
        }
    }
    let others = node.read.iter().filter(|r| r.0.0 > 10).count();
    assert!(others > 20, "{others}");
}

#[test]
fn without_a_signal_the_young_are_looked_at_often() {
    let mut node = Node::new(1, false);
    node.run(Duration::from_secs(30), COST);
    assert!((22..=30).contains(&node.read.len()), "{}", node.read.len());
    node.read.clear();
    node.run(Duration::from_secs(60), COST);
    assert!((9..=12).contains(&node.read.len()), "{}", node.read.len());
}

#[test]
fn a_node_full_of_young_ones_is_still_cheap() {
    let mut node = Node::new(100, false);
    node.run(Duration::from_secs(30), COST);
    let first = COST * 100;
    let share = Duration::from_millis(1_500);
    assert!(node.spent <= first + share, "{:?}", node.spent);
    assert!(node.spent >= share / 2, "{:?}", node.spent);
}

#[test]
fn what_is_gone_is_forgotten_and_room_is_bounded() {
    let mut node = Node::new(1, true);
    node.run(Duration::from_secs(1), COST);
    assert!(!node.plan.places(vec![], node.now));
    assert_eq!(node.plan.wakes(), None);
    let many = (0..5_000).map(|id| (NetnsId(id), PathBuf::new()));
    assert!(node.plan.places(many.collect(), node.now));
    assert_eq!(node.plan.places.len(), MAX_NAMESPACES);
    assert_eq!(node.plan.refused(), 904);
}

#[test]
fn the_nodes_own_namespace_is_read_when_somebody_asks_and_not_else() {
    const HOST: NetnsId = NetnsId(9);
    let mut node = Node::new(3, false);
    node.plan.node(Some(HOST));
    let there = (1..=3).chain([9]).map(|id| (NetnsId(id), PathBuf::new()));
    assert!(
        !node.plan.places(there.collect(), node.now),
        "nothing to hurry for"
    );
    node.plan.changed(HOST, node.now);
    node.run(Duration::from_secs(600), COST);
    assert!(node.read.iter().all(|(netns, ..)| *netns != HOST));
    assert!(node.plan.asked(HOST, node.now));
    node.run(Duration::from_secs(600), COST * 50);
    let own: Vec<_> = node
        .read
        .iter()
        .filter(|(netns, ..)| *netns == HOST)
        .collect();
    assert_eq!(own.len(), 1, "{own:?}");
    assert_eq!(own[0].2, Why::Asked);
}
