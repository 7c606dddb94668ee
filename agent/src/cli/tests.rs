//! What people see: exact tables, messages and exit codes.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use clap::{CommandFactory, Parser};
use proptest::prelude::*;

use super::{
    Cli, Exit, findings, pods,
    report::{self, Detail},
    text::Style,
};
use crate::{
    engine::{Board, Evidence, Severity},
    output::{
        api::{self, FindingFilter, FindingsPage, PodFilter},
        fixture::{self, golden},
    },
};

const fn width(columns: u16) -> Style {
    Style {
        width: Some(columns),
        colour: false,
    }
}

fn page() -> FindingsPage {
    api::findings(&fixture::board(), &FindingFilter::default())
}

#[test]
fn the_report_at_three_in_the_morning() {
    for columns in [100, 160] {
        let text = report::findings(&page(), width(columns), Detail::Full, false);
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(
            longest <= usize::from(columns),
            "{longest} > {columns}\n{text}"
        );
        golden(&format!("cli/golden/findings-{columns}.txt"), &text);
    }
}

#[test]
fn the_report_in_brief_and_wide() {
    let brief = report::findings(&page(), width(100), Detail::Brief, false);
    golden("cli/golden/findings-brief.txt", &brief);
    let style = Style {
        width: None,
        colour: false,
    };
    golden(
        "cli/golden/findings-wide.txt",
        &report::findings(&page(), style, Detail::Full, false),
    );
}

#[test]
fn a_narrow_terminal_still_gets_everything() {
    let text = report::findings(&page(), width(40), Detail::Full, false);
    assert!(text.contains("bypass-proxy-uid"), "{text}");
}

proptest! {
    /// Whatever pods and processes are called, and however narrow the window.
    #[test]
    fn no_name_and_no_width_breaks_the_report(
        name in "\\PC{0,80}", text in "(?s).{0,200}", columns in 0..200_u16, wide: bool, colour: bool,
    ) {
        let mut page = page();
        for finding in &mut page.findings {
            finding.pod = Some(fixture::key(&name, &name));
            finding.summary.clone_from(&text);
            finding.evidence.push(Evidence { what: name.clone(), value: text.clone() });
        }
        let style = Style { width: (!wide).then_some(columns), colour };
        for detail in [Detail::Full, Detail::Brief] {
            let report = report::findings(&page, style, detail, false);
            prop_assert!(report.contains("SEVERITY"));
            let escapes = report.contains('\u{1b}');
            prop_assert!(colour || !escapes);
        }
    }
}

#[test]
fn colour_adds_nothing_but_colour() {
    let style = Style {
        width: Some(100),
        colour: true,
    };
    let coloured = report::findings(&page(), style, Detail::Full, false);
    assert!(coloured.contains('\u{1b}'));
    let plain = report::findings(&page(), width(100), Detail::Full, false);
    assert!(!plain.contains('\u{1b}'));
}

#[test]
fn no_findings_says_what_was_checked() {
    let mut board = fixture::board();
    board.findings.clear();
    let page = api::findings(&board, &FindingFilter::default());
    let text = report::findings(&page, width(100), Detail::Full, false);
    golden("cli/golden/findings-none.txt", &text);
    let empty = api::findings(&Board::default(), &FindingFilter::default());
    let text = report::findings(&empty, width(100), Detail::Full, true);
    assert!(
        text.contains("match the filter") && text.contains("--pods DIR"),
        "{text}"
    );
}

#[test]
fn the_pods() {
    let page = api::pods(&fixture::board(), &PodFilter::default());
    for columns in [100, 160] {
        golden(
            &format!("cli/golden/pods-{columns}.txt"),
            &pods::report(&page, width(columns)),
        );
    }
    let none = api::pods(&Board::default(), &PodFilter::default());
    assert!(pods::report(&none, width(100)).contains("--pods DIR"));
}

#[test]
fn fail_on_counts_open_findings_at_or_above() {
    let findings = page().findings;
    assert_eq!(findings::verdict(&findings, None), Exit::Ok);
    assert_eq!(
        findings::verdict(&findings, Some(Severity::Critical)),
        Exit::Findings
    );
    let info: Vec<_> = findings
        .into_iter()
        .filter(|f| f.severity == Severity::Info)
        .collect();
    assert_eq!(findings::verdict(&info, Some(Severity::Warning)), Exit::Ok);
    assert_eq!(
        findings::verdict(&info, Some(Severity::Info)),
        Exit::Findings
    );
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn an_unknown_code_names_the_nearest() {
    let error = Cli::try_parse_from(["sidestep", "explain", "bypas-no-rule"]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("a similar value exists: 'bypass-no-rules'"),
        "{text}"
    );
    assert!(text.contains("stuck-no-listener"), "all are listed: {text}");
    assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()));
}

#[test]
fn bad_values_are_refused_where_they_stand() {
    let cases: [(&[&str], &str); 6] = [
        (&["agent", "--listen", "9964"], "--listen"),
        (&["agent", "--for", "0"], "--for"),
        (&["agent", "--log-format", "xml"], "json"),
        (&["findings", "--agent", "https://x"], "plain http"),
        (&["findings", "--agent", "x"], "http://127.0.0.1:9964"),
        (&["findings", "--fail-on", "fatal"], "critical"),
    ];
    for (args, hint) in cases {
        let all = std::iter::once("sidestep").chain(args.iter().copied());
        let error = Cli::try_parse_from(all).unwrap_err().to_string();
        assert!(error.contains(hint), "{args:?}: {error}");
    }
}

fn run(args: &[&str]) -> anyhow::Result<Exit> {
    let all = std::iter::once("sidestep").chain(args.iter().copied());
    super::run(Cli::try_parse_from(all).unwrap(), |_| Ok(()))
}

#[test]
fn no_agent_is_a_plain_message() {
    // Port 1 on loopback: nobody listens on tcpmux.
    for command in ["findings", "pods"] {
        let error = run(&[command, "--agent", "http://127.0.0.1:1"]).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unreachable);
        let text = super::exit::message(&error);
        assert!(text.contains("no agent is running there"), "{text}");
        assert!(text.contains("sidestep agent"), "{text}");
    }
}

/// Answers one request with `answer` as it is.
fn one_answer(answer: &'static str) -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _read = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
    });
    url
}

#[test]
fn a_stranger_on_the_port_is_told_apart() {
    let strangers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
    ];
    for answer in strangers {
        let error = run(&["findings", "--agent", &one_answer(answer)]).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unreachable);
        assert!(super::exit::message(&error).contains("something answers there"));
    }
    let error = run(&["pods", "--agent", &one_answer("SSH-2.0-x\r\n")]).unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Unreachable);
}

#[test]
fn a_real_server_answers_the_command_line() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime
        .block_on(crate::output::http::bind(([127, 0, 0, 1], 0).into()))
        .unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let view = fixture::view(fixture::board());
    runtime.spawn(crate::output::http::serve(
        listener,
        view,
        crate::output::http::Protection::default(),
        std::future::pending(),
    ));
    let exits = [
        (
            vec!["findings", "--json", "--fail-on", "critical"],
            Exit::Findings,
        ),
        (
            vec!["findings", "--brief", "--namespace", "shop", "--all"],
            Exit::Ok,
        ),
        (
            vec![
                "findings",
                "--code",
                "bypass-excluded",
                "--fail-on",
                "warning",
            ],
            Exit::Ok,
        ),
        (
            vec!["pods", "--code", "bypass-proxy-uid", "--wide"],
            Exit::Ok,
        ),
    ];
    for (mut args, exit) in exits {
        args.extend(["--agent", &url]);
        assert_eq!(run(&args).unwrap(), exit, "{args:?}");
    }
}

#[test]
fn the_docs_list_the_agents_options() {
    let docs = include_str!("../../../docs/install.md");
    let command = Cli::command();
    let agent = command.find_subcommand("agent").unwrap();
    let visible = agent.get_arguments().filter(|arg| !arg.is_hide_set());
    let rows: Vec<&str> = docs
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .collect();
    let mut options = 0;
    for (long, variable) in visible.filter_map(|arg| Some((arg.get_long()?, arg.get_env()?))) {
        let variable = format!("| `{}` |", variable.to_string_lossy());
        let named = |row: &&str| {
            let rest = row.strip_prefix(&format!("| `--{long}"));
            rest.is_some_and(|rest| rest.starts_with([' ', '`'])) && row.contains(&variable)
        };
        assert!(
            rows.iter().any(named),
            "docs/install.md lacks --{long} {variable}"
        );
        options += 1;
    }
    assert_eq!(
        rows.len(),
        options,
        "docs/install.md has options that are no more"
    );
}
