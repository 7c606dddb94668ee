//! The built program as a script meets it: exit codes, streams, closed pipes.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use std::process::{Command, Output, Stdio};

fn sidestep(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestep"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    sidestep(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_lists_the_exit_codes() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    assert!(help.contains(" 7  no agent answers"), "{help}");
}

#[test]
fn mistakes_on_the_command_line_end_with_2() {
    for args in [
        &["explain", "nonsense"][..],
        &["agent", "--listen", "x"],
        &["frobnicate"],
        &[],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            output.stdout.is_empty(),
            "errors belong to stderr: {args:?}"
        );
    }
}

#[test]
fn no_agent_ends_with_7_and_says_what_to_do() {
    // Port 1 on loopback: nobody listens on tcpmux.
    let output = run(&["findings", "--json", "--agent", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(7));
    assert!(output.stdout.is_empty());
    let message = text(&output.stderr);
    assert!(
        message.contains("where:") && message.contains("what to do:"),
        "{message}"
    );
}

#[test]
fn options_come_from_the_environment_too() {
    let mut command = sidestep(&["pods"]);
    let output = command
        .env("SIDESTEP_AGENT", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert!(text(&output.stderr).contains("http://127.0.0.1:1/v1/pods"));
}

#[test]
fn explain_prints_the_page() {
    let output = run(&["explain", "bypass-proxy-uid"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with("# bypass-proxy-uid"));
}

#[test]
fn completions_know_the_subcommands_and_codes() {
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&run(&["completions", shell]).stdout);
        assert!(
            script.contains("findings") && script.contains("bypass-no-rules"),
            "{shell}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = sidestep(&["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}
