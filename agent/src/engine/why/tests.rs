//! Every kind of answer, each from a hand-made board; the healthy ones say that all is well.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use super::*;
use crate::{
    engine::{Leg, Reason, RulesRead, Stage, Verdict},
    output::fixture::rules::{WHOLE, board, changed_from, edge, finding, torn},
    rules::Outcome,
};

const BYPASSED: Verdict = Verdict::Bypassed {
    reason: Reason::RulesPartial,
};

fn to(remote: &str) -> Ask {
    Ask {
        direction: Direction::Outbound,
        remote: remote.parse().unwrap(),
        port: 0,
        protocol: Protocol::Tcp,
        uid: None,
        gid: None,
    }
}

fn from(peer: &str, port: u16) -> Ask {
    Ask {
        direction: Direction::Inbound,
        remote: SocketAddr::new(peer.parse().unwrap(), 0),
        port,
        ..to("192.0.2.1:1")
    }
}

fn ask(board: &Board, ask: &Ask) -> Why {
    why(board, &board.pods[0], ask)
}

fn assert_said(why: &Why, agreement: Agreement, parts: &[&str]) {
    let sentence = &why.conclusion.sentence;
    assert_eq!(why.conclusion.agreement, agreement, "{sentence}");
    for part in parts {
        assert!(sentence.contains(part), "{part:?} is not in: {sentence}");
    }
}

#[test]
fn captured_as_it_should_be() {
    let mut board = board(WHOLE);
    let unseen = ask(&board, &to("10.9.0.1:80"));
    assert_said(
        &unseen,
        Agreement::Agree,
        &[
            "Spec and rules agree",
            "send it there",
            "no such connection",
        ],
    );
    assert_eq!(unseen.by.unwrap().from, OwnerSource::Assumed);
    board.edges = vec![edge(
        "10.9.0.1:80",
        0,
        Leg::AppToProxy,
        Verdict::Intercepted,
        2,
    )];
    let seen = ask(&board, &to("10.9.0.1:80"));
    assert_said(
        &seen,
        Agreement::Agree,
        &[
            "All three agree",
            "port 15001",
            "all 12 connections seen went through",
        ],
    );
    let by = seen.by.unwrap();
    assert_eq!((by.uid, by.gid, by.from), (1_001, 1_002, OwnerSource::Seen));
    let path = seen.live.path.unwrap();
    assert_eq!(path.redirected_to(), Some(15_001));
    assert_eq!(path.decided_by.unwrap().chain, "MESH_REDIRECT");
    assert!(seen.live.missing.is_empty() && seen.live.before.is_none());
    assert!(seen.wanted.because[0].starts_with("outbound: to *"));
}

#[test]
fn an_excluded_port_is_named_with_its_annotation() {
    let mut board = board(WHOLE);
    let excluded = Verdict::Excluded {
        reason: Reason::Excluded,
    };
    board.edges = vec![edge("10.9.0.1:9000", 0, Leg::DirectOut, excluded, 2)];
    board.findings = vec![finding(
        Code::BypassExcluded,
        Direction::Outbound,
        "10.9.0.1:9000 (12)",
    )];
    let answer = ask(&board, &to("10.9.0.1:9000"));
    assert_said(
        &answer,
        Agreement::Agree,
        &["leaves it alone", "12 connections seen went direct"],
    );
    assert!(answer.wanted.because[0].contains("excludeOutboundPorts"));
    assert_eq!(answer.conclusion.findings.len(), 1);
    // The rules do not know of the exclusion: the spec has no effect.
    board.rules[0].live.as_mut().unwrap().rules =
        crate::output::fixture::rules::ruleset(&WHOLE.replace("--dport 9000", "--dport 9001"));
    assert_said(
        &ask(&board, &to("10.9.0.1:9000")),
        Agreement::Disagree,
        &["leaves it alone", "send it to port 15001"],
    );
}

#[test]
fn the_proxys_user_gets_out_and_an_app_must_not() {
    let mut board = board(WHOLE);
    let proxys = Ask {
        uid: Some(1_337),
        ..to("10.9.0.1:80")
    };
    let answer = ask(&board, &proxys);
    assert_said(&answer, Agreement::Agree, &["leaves it alone", "let it go"]);
    assert!(answer.wanted.because[0].contains("the proxy's own"));
    let mut seen = edge(
        "10.9.0.1:80",
        0,
        Leg::DirectOut,
        Verdict::Bypassed {
            reason: Reason::ProxyUid,
        },
        2,
    );
    seen.key.owner.uid = 1_337;
    board.edges = vec![seen];
    board.findings = vec![
        finding(
            Code::BypassProxyUid,
            Direction::Outbound,
            "10.9.0.1:80 (12)",
        ),
        finding(
            Code::StuckNoListener,
            Direction::Outbound,
            "10.9.0.1:8080 (1)",
        ),
    ];
    for asked in [proxys, to("10.9.0.1:80")] {
        let answer = ask(&board, &asked);
        assert_said(
            &answer,
            Agreement::Disagree,
            &[
                "wants it captured",
                "(nat MESH_OUTPUT rule 2)",
                "12 connections seen went past",
            ],
        );
        let codes: Vec<Code> = answer.conclusion.findings.iter().map(|f| f.code).collect();
        assert_eq!(codes, [Code::BypassProxyUid]);
        assert_eq!(answer.conclusion.other_findings, [Code::StuckNoListener]);
    }
}

#[test]
fn a_missing_jump_shows_what_nothing_leads_to() {
    let mut board = board(&torn());
    board.edges = vec![edge("10.9.0.1:80", 0, Leg::DirectOut, BYPASSED, 2)];
    board.findings = vec![finding(
        Code::BypassRulesPartial,
        Direction::Outbound,
        "10.9.0.7:80 (12)",
    )];
    let answer = ask(&board, &to("10.9.0.1:80"));
    assert_said(
        &answer,
        Agreement::Disagree,
        &["let it go past the proxy", "went past the proxy"],
    );
    let missing = answer.live.missing.join("\n");
    assert!(
        missing.contains("nothing leads to chain MESH_OUTPUT"),
        "{missing}"
    );
    assert!(
        missing.contains("never comes to iptables-nft ipv4 nat MESH_REDIRECT rule 1"),
        "{missing}"
    );
    assert_eq!(answer.conclusion.findings[0].code, Code::BypassRulesPartial);
}

#[test]
fn no_rules_at_all() {
    let answer = ask(&board("*nat\nCOMMIT\n"), &to("10.9.0.1:80"));
    assert_said(
        &answer,
        Agreement::Disagree,
        &["let it go past the proxy", "no such connection"],
    );
    let missing = answer.live.missing.join("\n");
    assert!(
        missing.contains("no rule redirects outbound traffic of IPv4 to port 15001"),
        "{missing}"
    );
    assert!(missing.contains("none, in any backend"), "{missing}");
    assert!(answer.conclusion.findings.is_empty());
}

#[test]
fn ipv6_without_rules() {
    let mapped = ask(&board(WHOLE), &to("[::ffff:10.9.0.1]:80"));
    assert_said(&mapped, Agreement::Agree, &["send it there"]);
    let answer = ask(&board(WHOLE), &to("[fd00::9]:80"));
    assert_said(&answer, Agreement::Disagree, &["let it go past the proxy"]);
    let missing = answer.live.missing.join("\n");
    assert!(missing.contains("traffic of IPv6"), "{missing}");
    assert!(
        missing.contains("what is there: iptables-nft ipv4 nat"),
        "{missing}"
    );
}

#[test]
fn removed_rules_are_told_with_their_time() {
    let mut board = board(&torn());
    changed_from(&mut board, WHOLE);
    board.edges = vec![
        edge("10.9.0.1:80", 0, Leg::DirectOut, BYPASSED, 2),
        edge("10.9.0.1:80", 0, Leg::AppToProxy, Verdict::Intercepted, 59),
    ];
    let answer = ask(&board, &to("10.9.0.1:80"));
    // What was intercepted met the earlier rules.
    assert_said(
        &answer,
        Agreement::Disagree,
        &["all 12 connections seen went past"],
    );
    let before = answer.live.before.unwrap();
    assert_eq!(before.path.redirected_to(), Some(15_001));
    assert_eq!(before.until, crate::output::fixture::ago(60));
    assert_eq!(answer.observed.len(), 2);
}

#[test]
fn mended_rules_are_not_blamed_for_what_went_before() {
    let mut board = board(WHOLE);
    changed_from(&mut board, &torn());
    board.edges = vec![edge("10.9.0.1:80", 0, Leg::DirectOut, BYPASSED, 59)];
    let answer = ask(&board, &to("10.9.0.1:80"));
    assert_said(&answer, Agreement::Agree, &["no such connection"]);
}

#[test]
fn rules_that_could_not_be_read_are_not_absent() {
    let mut board = board("*nat\nCOMMIT\n");
    board.rules[0].sources[0].1 = RulesRead::NoTool;
    let answer = ask(&board, &to("10.9.0.1:80"));
    assert_said(
        &answer,
        Agreement::Unclear,
        &["as far as they could be read"],
    );
    assert_eq!(answer.live.known, Known::Partly);
    assert!(answer.live.unread[0].contains("iptables-legacy-save"));
    // Those of the other family do not matter.
    assert_eq!(ask(&board, &to("[fd00::9]:80")).live.known, Known::Fully);
    board.rules.clear();
    board.edges = vec![edge(
        "10.9.0.1:80",
        0,
        Leg::AppToProxy,
        Verdict::Intercepted,
        2,
    )];
    let answer = ask(&board, &to("10.9.0.1:80"));
    assert_said(
        &answer,
        Agreement::Unclear,
        &["rules are not known", "went through"],
    );
    board.edges = vec![edge("10.9.0.1:80", 0, Leg::DirectOut, BYPASSED, 2)];
    assert_said(
        &ask(&board, &to("10.9.0.1:80")),
        Agreement::Disagree,
        &["went past"],
    );
}

#[test]
fn a_pod_in_no_mesh() {
    let board = board(WHOLE);
    let answer = why(&board, &board.pods[1], &to("10.9.0.1:80"));
    assert_said(&answer, Agreement::Unclear, &["in no mesh", "not known"]);
    assert!(answer.live.unread[0].contains("network namespace is not known"));
}

#[test]
fn inbound_captured_and_not() {
    let mut board = board(WHOLE);
    board.edges = vec![edge(
        "10.9.0.7:0",
        15_006,
        Leg::PeerToProxy,
        Verdict::Intercepted,
        2,
    )];
    assert_said(
        &ask(&board, &from("10.9.0.7", 8_080)),
        Agreement::Agree,
        &["port 15006", "All three"],
    );
    // Which port was asked for is not seen: nothing is said about one that is left alone.
    let health = ask(&board, &from("10.9.0.7", 15_020));
    assert_said(
        &health,
        Agreement::Agree,
        &["leaves it alone", "no such connection"],
    );
    let missing = WHOLE.replace("-A PREROUTING -p tcp -j MESH_INBOUND\n", "");
    board.rules[0].live.as_mut().unwrap().rules = crate::output::fixture::rules::ruleset(&missing);
    board.edges = vec![edge("10.9.0.7:0", 8_080, Leg::DirectIn, BYPASSED, 2)];
    let answer = ask(&board, &from("10.9.0.7", 8_080));
    assert_said(&answer, Agreement::Disagree, &["went past the proxy"]);
    assert!(answer.by.is_none());
    assert!(answer.live.missing[0].contains("MESH_INBOUND"));
}

#[test]
fn stuck_is_not_the_rules_fault() {
    let mut board = board(WHOLE);
    let stuck = Verdict::Stuck {
        stage: Stage::HandshakeToProxy,
    };
    board.edges = vec![edge("10.9.0.1:80", 0, Leg::AppToProxy, stuck, 2)];
    board.findings = vec![finding(
        Code::StuckNoListener,
        Direction::Outbound,
        "10.9.0.1:80 (12)",
    )];
    let answer = ask(&board, &to("10.9.0.1:80"));
    assert_said(
        &answer,
        Agreement::Disagree,
        &["The rules are right, and it does not work"],
    );
    assert_eq!(answer.conclusion.findings.len(), 1);
}

#[test]
fn the_rest_of_the_way_is_told() {
    let mut board = board(WHOLE);
    let mut onward = edge("10.0.0.5:8080", 0, Leg::ProxyToApp, Verdict::Failed, 2);
    onward.key.owner.uid = 1_337;
    board.edges = vec![
        edge(
            "10.9.0.7:0",
            15_006,
            Leg::PeerToProxy,
            Verdict::Intercepted,
            2,
        ),
        onward,
    ];
    board.findings = vec![finding(
        Code::StuckAppRefused,
        Direction::Outbound,
        "10.0.0.5:8080 (3)",
    )];
    let answer = ask(&board, &from("10.9.0.7", 8_080));
    assert_said(
        &answer,
        Agreement::Agree,
        &["12 connections of the proxy's own got no further"],
    );
    assert_eq!(answer.conclusion.findings[0].code, Code::StuckAppRefused);
    // Port 80 is not port 8080.
    let other = ask(&board, &from("10.9.0.7", 80));
    assert!(other.conclusion.findings.is_empty());
    assert_eq!(other.conclusion.other_findings, [Code::StuckAppRefused]);
}

#[test]
fn udp_is_asked_of_the_rules_only() {
    let udp = Ask {
        protocol: Protocol::Udp,
        ..to("10.9.0.1:443")
    };
    let answer = ask(&board(WHOLE), &udp);
    assert_said(
        &answer,
        Agreement::Agree,
        &["leaves it alone", "UDP is not watched"],
    );
    assert_eq!(answer.live.path.unwrap().outcome, Outcome::Direct);
}
