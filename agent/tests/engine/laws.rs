//! The laws that hold for any input.
//!
//! Never a panic; every connection counted exactly once; memory bounded; the order of
//! unrelated connections irrelevant; a recording replays to the same board and outputs,
//! in one piece or in two.

use proptest::prelude::*;
use sidestep::{
    engine::{Board, Change, Config, Engine, Input, Output, record},
    model::{Counts, Time},
};

use crate::{any::*, kit::*};

fn small() -> Config {
    Config {
        max_edges: 8,
        max_unbound: 4,
        ..Config::default()
    }
}

fn run(engine: &mut Engine, inputs: &[(Time, Input)]) -> Vec<Output> {
    let mut outputs = Vec::new();
    for (at, input) in inputs {
        engine.input(*at, input.clone());
        outputs.extend(std::iter::from_fn(|| engine.next_output()));
    }
    outputs
}

fn replayed(inputs: &[(Time, Input)]) -> (Board, Vec<Output>) {
    let mut engine = Engine::new(small(), profiles(), START);
    let outputs = run(&mut engine, inputs);
    ((*engine.board()).clone(), outputs)
}

fn sum(counts: &Counts) -> u128 {
    let c = counts;
    [
        c.established,
        c.refused,
        c.timed_out,
        c.unreachable,
        c.failed,
        c.aborted,
        c.no_address,
        c.denied,
    ]
    .iter()
    .map(|n| u128::from(*n))
    .sum()
}

fn fed(inputs: &[(Time, Input)]) -> u128 {
    let of = |(_, input): &(Time, Input)| match input {
        Input::Edges(deltas) => deltas.iter().map(|d| sum(&d.counts)).sum(),
        _ => 0,
    };
    inputs.iter().map(of).sum()
}

fn replaces_a_pod((_, input): &(Time, Input)) -> bool {
    match input {
        Input::Change(Change::PodGone(_)) => true,
        Input::Change(Change::Pod(pod)) => pod.uid == "uid-1b",
        _ => false,
    }
}

/// Everything that is counted, once as legs, once as verdicts.
fn counted(board: &Board) -> (u128, u128) {
    let legs = board
        .connections
        .iter()
        .map(|r| u128::from(r.connections))
        .sum();
    let verdicts = board
        .interception
        .iter()
        .map(|r| u128::from(r.connections))
        .sum();
    (legs, verdicts)
}

proptest! {
    #[test]
    fn every_connection_is_counted_once(inputs in any_inputs()) {
        // Pods that are gone take their rows with them: keep all of them.
        let config = Config { keep_resolved_s: u32::MAX, ..small() };
        let mut engine = Engine::new(config, profiles(), START);
        run(&mut engine, &inputs);
        let last = inputs.iter().map(|(at, _)| *at).max().unwrap();
        engine.input(last.plus_secs(10), Input::Tick);
        prop_assert_eq!(engine.waiting(), 0);
        let board = engine.board();
        let (legs, verdicts) = counted(&board);
        let unattributed: u128 = board.unattributed.iter().map(|l| u128::from(l.count)).sum();
        prop_assert_eq!(legs, verdicts);
        prop_assert_eq!(u128::from(engine.accounted()), fed(&inputs));
        let shown = legs + unattributed + u128::from(board.host_connections);
        // A pod made again under its name hides the rows of the one before.
        if inputs.iter().any(replaces_a_pod) {
            prop_assert!(shown <= fed(&inputs));
        } else {
            prop_assert_eq!(shown, fed(&inputs));
        }
    }

    #[test]
    fn memory_is_bounded(inputs in any_inputs()) {
        let (board, outputs) = replayed(&inputs);
        prop_assert!(board.edges.len() <= 8);
        prop_assert!(board.findings.len() <= 13 * board.pods.len().max(3) + 13);
        prop_assert!(outputs.len() <= 40 * 40);
        for finding in &board.findings {
            prop_assert!(finding.evidence.len() <= 64);
        }
    }

    #[test]
    fn replay_in_pieces_is_replay(inputs in any_inputs(), cut in any::<prop::sample::Index>()) {
        let whole = replayed(&inputs);
        let (a, b) = inputs.split_at(cut.index(inputs.len()));
        let mut engine = Engine::new(small(), profiles(), START);
        let mut outputs = run(&mut engine, a);
        // Looking must not change anything.
        let _ = engine.board();
        let _ = engine.next_deadline();
        outputs.extend(run(&mut engine, b));
        let pieces = ((*engine.board()).clone(), outputs);
        prop_assert_eq!(pieces, whole);
    }

    #[test]
    fn recordings_round_trip(inputs in any_inputs()) {
        let header = record::Header::new(small(), START);
        let mut text = record::write_header(&header).unwrap();
        for (at, input) in &inputs {
            text += &record::write_input(*at, input).unwrap();
        }
        let (read, entries) = record::read(&text).unwrap();
        prop_assert_eq!(read, header);
        let back: Vec<_> = entries.into_iter().map(|e| (e.at, e.input)).collect();
        prop_assert_eq!(back, inputs);
    }

    #[test]
    fn order_inside_a_drain_does_not_matter(deltas in prop::collection::vec(any_delta(), 0..8), seed in any::<u64>()) {
        // Unrelated connections: every edge once, and room for all of them.
        let mut seen = std::collections::BTreeSet::new();
        let deltas: Vec<_> = deltas.into_iter().filter(|d| seen.insert(d.key)).collect();
        let mut shuffled = deltas.clone();
        let mut state = seed | 1;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(i, usize::try_from(state >> 33).unwrap() % (i + 1));
        }
        let boards = [deltas, shuffled].map(|deltas| {
            let mut node = Node::running();
            node.edges(deltas);
            node.pass(4.0);
            let mut board = (*node.engine.board()).clone();
            // Most recent first: the one order that is the drain's own.
            board.edges.sort_by_key(|e| e.key);
            (board, node.open())
        });
        prop_assert_eq!(&boards[0], &boards[1]);
    }
}
