//! The exact pages of `sidestep why` and `sidestep rules`, and the commands against a real server.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use clap::Parser;
use proptest::prelude::*;

use super::answer::report;
use crate::{
    cli::{Cli, Exit, live_rules, text::Style},
    engine::{Board, Code, Leg, Reason, RulesRead, Verdict},
    model::Direction,
    output::{
        api::pod::{self, WhyPage, WhyQuery},
        fixture::{
            self, golden,
            rules::{WHOLE, board, changed_from, edge, finding, torn},
        },
    },
};

const WIDE: Style = Style {
    width: Some(120),
    colour: false,
};

fn page(board: &Board, query: &WhyQuery) -> WhyPage {
    pod::why(board, &board.pods[0], &query.ask().unwrap())
}

fn to(text: &str) -> WhyQuery {
    WhyQuery {
        to: Some(text.to_owned()),
        ..WhyQuery::default()
    }
}

/// A node on which somebody removed the jump a minute ago.
fn removed() -> Board {
    let mut board = board(&torn());
    changed_from(&mut board, WHOLE);
    let bypassed = Verdict::Bypassed {
        reason: Reason::RulesRemoved,
    };
    board.edges = vec![
        edge("10.9.0.1:80", 0, Leg::DirectOut, bypassed, 2),
        edge("10.9.0.1:80", 0, Leg::AppToProxy, Verdict::Intercepted, 62),
    ];
    board.findings = vec![
        finding(
            Code::BypassRulesRemoved,
            Direction::Outbound,
            "10.9.0.1:80 (12)",
        ),
        finding(
            Code::BypassInboundDirect,
            Direction::Inbound,
            "10.0.0.5:80 (1)",
        ),
    ];
    board
}

#[test]
fn the_answers_at_three_in_the_morning() {
    let healthy = board(WHOLE);
    let mut unread = board("*nat\nCOMMIT\n");
    unread.rules[0].sources[0].1 = RulesRead::NoTool;
    let inbound = WhyQuery {
        from: Some("10.9.0.7".to_owned()),
        port: Some(8080),
        ..WhyQuery::default()
    };
    let cases = [
        ("healthy", page(&healthy, &to("10.9.0.1:80"))),
        ("excluded", page(&healthy, &to("10.9.0.1:9000"))),
        ("inbound", page(&healthy, &inbound)),
        ("ipv6", page(&healthy, &to("[fd00::9]:80"))),
        ("removed", page(&removed(), &to("10.9.0.1:80"))),
        ("unread", page(&unread, &to("10.9.0.1:80"))),
    ];
    for (name, page) in cases {
        golden(&format!("cli/golden/why-{name}.txt"), &report(&page, WIDE));
    }
}

#[test]
fn the_rules() {
    for (name, board) in [("whole", board(WHOLE)), ("removed", removed())] {
        let page = pod::rules(&board, &board.pods[0]);
        golden(
            &format!("cli/golden/rules-{name}.txt"),
            &live_rules::report(&page, WIDE),
        );
    }
    let board = board(WHOLE);
    let unread = pod::rules(&board, &board.pods[1]);
    assert!(live_rules::report(&unread, WIDE).contains("Not read"));
}

#[test]
fn colour_adds_nothing_but_colour() {
    let style = Style {
        colour: true,
        ..WIDE
    };
    let page = page(&removed(), &to("10.9.0.1:80"));
    assert!(report(&page, style).contains('\u{1b}'));
    assert!(!report(&page, WIDE).contains('\u{1b}'));
}

proptest! {
    /// Whatever processes, chains and rules are called, and however narrow the window.
    #[test]
    fn no_name_and_no_width_breaks_the_pages(text in "(?s).{0,80}", columns in 0..200_u16) {
        let mut board = removed();
        board.edges[0].process = Some(text.clone());
        let mut page = page(&board, &to("10.9.0.1:80"));
        page.why.live.missing.push(text.clone());
        let style = Style { width: Some(columns), colour: false };
        let escapes = report(&page, style).contains('\u{1b}');
        prop_assert!(!escapes);
        let mut rules = pod::rules(&board, &board.pods[0]);
        rules.rules.tables[0].chains[0].name.clone_from(&text);
        rules.rules.tables[0].chains[0].rules.clear();
        rules.rules.tables[0].chains[4].rules[0].text = text;
        let escapes = live_rules::report(&rules, style).contains('\u{1b}');
        prop_assert!(!escapes);
    }
}

fn run(args: &[&str]) -> anyhow::Result<Exit> {
    let all = std::iter::once("sidestep").chain(args.iter().copied());
    crate::cli::run(Cli::try_parse_from(all).unwrap(), |_| Ok(()))
}

#[test]
fn a_real_server_answers_both_commands() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime
        .block_on(crate::output::http::bind(([127, 0, 0, 1], 0).into()))
        .unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(crate::output::http::serve(
        listener,
        fixture::view(removed()),
        crate::output::http::Protection::default(),
        std::future::pending(),
    ));
    let fine: [&[&str]; 5] = [
        &["why", "cart-1", "--to", "10.9.0.1:80"],
        &[
            "why",
            "shop/cart-1",
            "--to",
            "[fd00::1]:80",
            "--uid",
            "1",
            "--gid",
            "2",
            "--json",
        ],
        &[
            "why", "cart", "--from", "10.9.0.7", "--port", "80", "--wide",
        ],
        &["rules", "shop/cart-1"],
        &["rules", "cart", "--json"],
    ];
    for args in fine {
        let args = [args, &["--agent", &url]].concat();
        assert_eq!(run(&args).unwrap(), Exit::Ok, "{args:?}");
    }
    let wrong: [(&[&str], &str); 3] = [
        (&["rules", "shop/none"], "no pod shop/none"),
        (&["rules", "none"], "it knows shop/cart-1"),
        (
            &["why", "cart", "--to", "example.org:80"],
            "--to example.org:80",
        ),
    ];
    for (args, words) in wrong {
        let args = [args, &["--agent", &url]].concat();
        let error = run(&args).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage, "{args:?}");
        let text = crate::cli::exit::message(&error);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn half_a_question_is_refused() {
    let wrong: [(&[&str], &str); 6] = [
        (&["why", "cart"], "--to"),
        (&["why", "cart", "--from", "10.0.0.1"], "--port"),
        (
            &["why", "cart", "--to", "10.0.0.1:1", "--port", "1"],
            "--from",
        ),
        (
            &[
                "why",
                "cart",
                "--to",
                "10.0.0.1:1",
                "--from",
                "10.0.0.1",
                "--port",
                "1",
            ],
            "cannot be used",
        ),
        (
            &[
                "why", "cart", "--from", "10.0.0.1", "--port", "1", "--uid", "1",
            ],
            "cannot be used",
        ),
        (&["rules"], "<POD>"),
    ];
    for (args, words) in wrong {
        let all = std::iter::once("sidestep").chain(args.iter().copied());
        let error = Cli::try_parse_from(all).unwrap_err().to_string();
        assert!(error.contains(words), "{args:?}: {error}");
    }
}
