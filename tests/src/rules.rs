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
    /// The program that takes the text, with its arguments.
    pub(crate) fn program(&self) -> &'static [&'static str] {
        match (self.backend, self.family) {
            (Backend::Native, _) => &["nft", "-f", "-"],
            (Backend::Ipset, _) => &["ipset", "restore"],
            (Backend::Route, Family::Ipv4) => &["ip", "-4", "-batch", "-"],
            (Backend::Route, Family::Ipv6) => &["ip", "-6", "-batch", "-"],
            (Backend::Legacy, Family::Ipv4) => &["iptables-legacy-restore", "--noflush"],
            (Backend::Legacy, Family::Ipv6) => &["ip6tables-legacy-restore", "--noflush"],
            (Backend::Nft, Family::Ipv4) => &["iptables-nft-restore", "--noflush"],
            (Backend::Nft, Family::Ipv6) => &["ip6tables-nft-restore", "--noflush"],
        }
    }
}

/// What takes all connections of a pod out of every back end's and family's table nat again.
pub(crate) fn emptied(native: bool) -> Vec<(&'static [&'static str], &'static str)> {
    const NAT: &str = "*nat\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n";
    // A table that is not there cannot be deleted; before it is made, nothing is said of it.
    const TABLE: &str = "add table inet istio-proxy-nat\ndelete table inet istio-proxy-nat\n";
    let mut all: Vec<(&'static [&'static str], &'static str)> = vec![
        (&["iptables-legacy-restore"], NAT),
        (&["ip6tables-legacy-restore"], NAT),
        (&["iptables-nft-restore"], NAT),
        (&["ip6tables-nft-restore"], NAT),
    ];
    if native {
        all.push((&["nft", "-f", "-"], TABLE));
    }
    all
}

/// What to install when the pod starts.
pub(crate) fn of_pod(scenario: &Scenario, pod: &Pod, families: &[Family]) -> Result<Vec<Install>> {
    let whole = |backend| Rules {
        set: None,
        text: None,
        backend,
        families: None,
        without: Vec::new(),
        plus: Vec::new(),
    };
    let specs = match (&pod.rules, pod.mesh) {
        (Some(rules), _) => rules.clone(),
        (None, Some(_)) if pod.is_transparent() => vec![whole(None), whole(Some(Backend::Route))],
        (None, Some(_)) => vec![whole(None)],
        (None, None) => Vec::new(),
    };
    let mut all = Vec::new();
    for rules in &specs {
        all.extend(one(scenario, pod, families, rules)?);
    }
    Ok(all)
}

/// What one entry of the node's `rules` installs.
pub(crate) fn on_node(scenario: &Scenario, rules: &Rules) -> Result<Vec<Install>> {
    let backend = rules.backend.unwrap_or(scenario.backend);
    let text = rules
        .text
        .as_ref()
        .context("rules of the node need a `text`")?;
    let own = [scenario.family];
    let families = families_of(rules, backend, &own);
    let install = |family: &Family| {
        Ok(Install {
            backend,
            family: *family,
            text: edit(text, rules)?,
        })
    };
    families.iter().map(install).collect()
}

/// What one entry of `rules` installs.
pub(crate) fn one(
    scenario: &Scenario,
    pod: &Pod,
    families: &[Family],
    rules: &Rules,
) -> Result<Vec<Install>> {
    let mut all = Vec::new();
    let backend = rules.backend.unwrap_or(scenario.backend);
    for &family in families_of(rules, backend, families) {
        let base = match (&rules.text, &rules.set, pod.mesh) {
            (Some(text), _, _) => text.clone(),
            (None, Some(set), _) => builtin(set, backend, family)?.to_owned(),
            (None, None, Some(mesh)) => builtin(mesh.set(pod), backend, family)?.to_owned(),
            (None, None, None) => bail!("pod `{}`: rules need a `set` or a `text`", pod.name),
        };
        all.push(Install {
            backend,
            family,
            text: edit(&base, rules)?,
        });
    }
    Ok(all)
}

/// The families that get a text of their own; `own` where the entry names none.
fn families_of<'a>(rules: &'a Rules, backend: Backend, own: &'a [Family]) -> &'a [Family] {
    let families = rules.families.as_deref().unwrap_or(own);
    if backend.is_for_both() {
        families.get(..1).unwrap_or_default()
    } else {
        families
    }
}

impl Backend {
    /// One text is for both families.
    fn is_for_both(self) -> bool {
        matches!(self, Self::Native | Self::Ipset)
    }
}

impl Mesh {
    fn set(self, pod: &Pod) -> &'static str {
        match self {
            Self::Istio if pod.is_transparent() => "istio-tproxy",
            Self::Istio => "istio",
            Self::Linkerd => "linkerd",
            Self::Consul => "consul",
            Self::Kuma => "kuma",
            Self::Ambient => "ambient",
        }
    }
}

fn builtin(set: &str, backend: Backend, family: Family) -> Result<&'static str> {
    if backend == Backend::Native {
        return template::native(set).with_context(|| {
            format!("there is no rule set `{set}` of nft's own: use istio, istio-tproxy or ambient, or give the `text`")
        });
    }
    ensure!(backend != Backend::Ipset, "sets of ipset need a `text`");
    if backend == Backend::Route {
        return template::routes(set, family).with_context(|| {
            format!("the rule set `{set}` has no routes: use istio-tproxy, or give the `text`")
        });
    }
    template::rules(set, family).with_context(|| {
        format!("there is no rule set `{set}`: use istio, istio-tproxy, linkerd, consul, kuma or ambient, or give the `text`")
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
        let at = lines.iter().position(|line| line.trim() == anchor.trim());
        // nft's scripts have no end.
        let end = plus.before.is_none().then_some(lines.len());
        let Some(at) = at.or(end) else {
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
