//! The rules of a pod: the meshes' own, complete or with one line wrong.
//!
//! The sets are the texts that the meshes hand to iptables-restore, in their order (docs/scenarios.md says from which
//! version). A scenario takes a line out or puts one in, and each such line must be found: a set that changed would
//! otherwise quietly turn a broken pod into a healthy one.
//!
//! It must never touch a namespace itself: it makes texts, [`crate::world`] installs them.

use anyhow::{Context as _, Result, bail, ensure};

use crate::spec::{Backend, Family, Mesh, Pod, Rules, Scenario};
use crate::template;

/// A text for one `iptables-restore --noflush`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Install {
    /// Front end.
    pub(crate) backend: Backend,
    /// Family.
    pub(crate) family: Family,
    /// What goes to its standard input.
    pub(crate) text: String,
}

impl Install {
    /// The program that takes the text.
    pub(crate) fn program(&self) -> &'static str {
        restore(self.backend, self.family)
    }
}

/// The `…tables-…-restore` of a back end and family.
pub(crate) fn restore(backend: Backend, family: Family) -> &'static str {
    match (backend, family) {
        (Backend::Legacy, Family::Ipv4) => "iptables-legacy-restore",
        (Backend::Legacy, Family::Ipv6) => "ip6tables-legacy-restore",
        (Backend::Nft, Family::Ipv4) => "iptables-nft-restore",
        (Backend::Nft, Family::Ipv6) => "ip6tables-nft-restore",
    }
}

/// What to install when the pod starts.
pub(crate) fn of_pod(scenario: &Scenario, pod: &Pod, families: &[Family]) -> Result<Vec<Install>> {
    let whole = Rules {
        set: None,
        text: None,
        backend: None,
        families: None,
        without: Vec::new(),
        plus: Vec::new(),
    };
    let specs = match (&pod.rules, pod.mesh) {
        (Some(rules), _) => rules.clone(),
        (None, Some(_)) => vec![whole],
        (None, None) => Vec::new(),
    };
    let mut all = Vec::new();
    for rules in &specs {
        all.extend(one(scenario, pod, families, rules)?);
    }
    Ok(all)
}

/// What one entry of `rules` installs.
pub(crate) fn one(
    scenario: &Scenario,
    pod: &Pod,
    families: &[Family],
    rules: &Rules,
) -> Result<Vec<Install>> {
    let mut all = Vec::new();
    for &family in rules.families.as_deref().unwrap_or(families) {
        let base = match (&rules.text, &rules.set, pod.mesh) {
            (Some(text), _, _) => text.clone(),
            (None, Some(set), _) => builtin(set, family)?.to_owned(),
            (None, None, Some(mesh)) => builtin(mesh.set(), family)?.to_owned(),
            (None, None, None) => bail!("pod `{}`: rules need a `set` or a `text`", pod.name),
        };
        all.push(Install {
            backend: rules.backend.unwrap_or(scenario.backend),
            family,
            text: edit(&base, rules)?,
        });
    }
    Ok(all)
}

impl Mesh {
    fn set(self) -> &'static str {
        match self {
            Self::Istio => "istio",
            Self::Linkerd => "linkerd",
            Self::Consul => "consul",
            Self::Kuma => "kuma",
            Self::Ambient => "ambient",
        }
    }
}

fn builtin(set: &str, family: Family) -> Result<&'static str> {
    template::rules(set, family).with_context(|| {
        format!("there is no rule set `{set}`: use istio, linkerd, consul, kuma or ambient, or give the `text`")
    })
}

fn edit(text: &str, rules: &Rules) -> Result<String> {
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for gone in &rules.without {
        let before = lines.len();
        lines.retain(|line| line.trim() != gone.trim());
        ensure!(
            lines.len() < before,
            "`without`: the set has no line `{gone}`"
        );
    }
    for plus in &rules.plus {
        let anchor = plus.before.as_deref().unwrap_or("COMMIT");
        let Some(at) = lines.iter().position(|line| line.trim() == anchor.trim()) else {
            bail!(
                "`plus`: the set has no line `{anchor}` to put `{}` before",
                plus.line
            );
        };
        lines.insert(at, &plus.line);
    }
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;
    use crate::spec::pod::Plus;

    fn rules(without: &[&str], plus: Vec<Plus>) -> Rules {
        Rules {
            set: None,
            text: None,
            backend: None,
            families: None,
            without: without.iter().map(ToString::to_string).collect(),
            plus,
        }
    }

    #[test]
    fn a_line_goes_and_a_line_comes() {
        let text = "*nat\n-A OUTPUT -j X\nCOMMIT\n";
        let plus = Plus {
            line: "-A OUTPUT -j Y".to_owned(),
            before: None,
        };
        let edited = edit(text, &rules(&["-A OUTPUT -j X"], vec![plus])).unwrap();
        assert_eq!(edited, "*nat\n-A OUTPUT -j Y\nCOMMIT\n");
    }

    #[test]
    fn a_line_that_is_not_there_is_an_error() {
        let error = edit("*nat\nCOMMIT\n", &rules(&["-A OUTPUT -j X"], Vec::new())).unwrap_err();
        assert!(error.to_string().contains("no line `-A OUTPUT -j X`"));
    }
}
