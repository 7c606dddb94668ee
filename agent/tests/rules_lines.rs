//! Lines that are really written: by meshes, kube-proxy, network plugins, container engines and firewalls. Each is read
//! without a problem, and what stays unknown in it is exactly what nobody outside the kernel can know.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use sidestep::{
    model::Family,
    rules::{Action, Backend, Ruleset, Statement, Test, parse_save},
};

/// Everything that a rule set does not understand or cannot know.
fn unknown(rules: &Ruleset) -> Vec<String> {
    fn of(test: &Test, found: &mut Vec<String>) {
        match test {
            Test::Unknown(what) => found.push(what.clone()),
            Test::Rows(rows) => rows.iter().flatten().for_each(|test| of(test, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    let chains = rules.tables.iter().flat_map(|table| &table.chains);
    for statement in chains
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.statements)
    {
        match statement {
            Statement::When(condition) => of(&condition.test, &mut found),
            Statement::Do(Action::Unknown(what)) => found.push(what.clone()),
            Statement::Do(_) => {}
        }
    }
    found
}

/// `LINE # what stays unknown`, one per line; `*` begins a family.
fn check(text: &str) {
    let mut family = Family::Ipv4;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(version) = line.strip_prefix("*") {
            family = if version == "6" {
                Family::Ipv6
            } else {
                Family::Ipv4
            };
            continue;
        }
        let (rule, expected) = line.split_once(" # ").unwrap_or((line, ""));
        let mut rules = Ruleset::default();
        parse_save(
            &format!("*mangle\n{rule}\nCOMMIT\n"),
            Backend::Legacy,
            family,
            &mut rules,
        );
        assert_eq!(rules.problems, [], "{rule}");
        let found = unknown(&rules);
        let read = rules.tables[0].chains.iter().map(|chain| chain.rules.len());
        assert_eq!(read.sum::<usize>(), 1, "{rule}");
        match expected {
            "" => assert!(found.is_empty(), "{rule}: {found:?}"),
            part => {
                assert_eq!(found.len(), part.split(" & ").count(), "{rule}: {found:?}");
                for (part, found) in part.split(" & ").zip(&found) {
                    assert!(found.contains(part), "{rule}: {found}");
                }
            }
        }
    }
}

#[test]
fn meshes() {
    check(include_str!("rules_lines/meshes.txt"));
}

#[test]
fn kube_proxy() {
    check(include_str!("rules_lines/kube-proxy.txt"));
}

#[test]
fn network_plugins() {
    check(include_str!("rules_lines/network-plugins.txt"));
}

#[test]
fn engines_and_firewalls() {
    check(include_str!("rules_lines/engines-and-firewalls.txt"));
}

#[test]
fn what_is_not_known_is_never_taken_for_always() {
    let mut rules = Ruleset::default();
    let text = "*filter\n-A INPUT -m nobody-knows --what ever -j DROP\nCOMMIT\n";
    parse_save(text, Backend::Nft, Family::Ipv4, &mut rules);
    assert_eq!(
        unknown(&rules).first().unwrap(),
        "`-m nobody-knows` depends on more than the connection"
    );
}
