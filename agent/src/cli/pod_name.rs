//! A pod as people name it: `namespace/name`, or as much of the name as leaves no doubt.
//!
//! Never guesses between two: whoever is asked about the wrong pod at night is not helped.

use clap::Args;

use super::{Exit, Fault, client::AgentUrl};
use crate::{
    model::PodKey,
    output::api::{PodsPage, pod::NO_NAMESPACE},
};

/// Pods that are listed where the name is not clear.
const CANDIDATES: usize = 10;

/// Which pod.
#[derive(Clone, Debug, Args)]
pub(super) struct PodName {
    /// The pod: `namespace/name`, its name, or the beginning of its name if no other pod's begins so.
    #[arg(value_name = "POD")]
    pod: String,
}

impl PodName {
    /// The one pod that is meant.
    ///
    /// # Errors
    /// The agent cannot be asked, or none or several pods are meant.
    pub(super) fn resolve(&self, agent: &AgentUrl) -> Result<PodKey, Fault> {
        if let Some((namespace, name)) = self.pod.split_once('/') {
            let namespace = match namespace {
                NO_NAMESPACE => "",
                given => given,
            };
            return Ok(PodKey {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            });
        }
        let page: PodsPage = agent.get("/v1/pods", &[("limit", "1000000".to_owned())])?;
        let all: Vec<PodKey> = page.pods.into_iter().map(|row| row.pod).collect();
        pick(&self.pod, &all)
    }
}

/// The pod that is meant among `all`.
pub(super) fn pick(asked: &str, all: &[PodKey]) -> Result<PodKey, Fault> {
    let like = |is: &dyn Fn(&str) -> bool| -> Vec<&PodKey> {
        all.iter().filter(|key| is(&key.name)).collect()
    };
    let exact = like(&|name| name == asked);
    let found = match exact.is_empty() {
        true => like(&|name| name.starts_with(asked)),
        false => exact,
    };
    match found[..] {
        [one] => Ok(one.clone()),
        [] => Err(unknown(asked, like(&|name| name.contains(asked)), all)),
        _ => Err(Fault::new(
            Exit::Usage,
            format!("{asked:?} may be any of {} pods", found.len()),
            list(&found),
            "name one of them as namespace/name",
        )),
    }
}

fn unknown(asked: &str, near: Vec<&PodKey>, all: &[PodKey]) -> Fault {
    let near = match near.is_empty() {
        true => all.iter().collect(),
        false => near,
    };
    let place = match near.is_empty() {
        true => "the agent knows no pod yet".to_owned(),
        false => format!("it knows {}", list(&near)),
    };
    Fault::new(
        Exit::Usage,
        format!("the agent knows no pod {asked:?}"),
        place,
        "write namespace/name as `sidestep pods` shows it; a pod of another node is known to that node's agent (--agent URL)",
    )
}

fn list(keys: &[&PodKey]) -> String {
    let shown = keys.iter().take(CANDIDATES).map(ToString::to_string);
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if keys.len() > CANDIDATES {
        text.push_str(&format!(" and {} more", keys.len() - CANDIDATES));
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_clear_is_taken() {
        let key = |text: &str| {
            let (namespace, name) = text.split_once('/').unwrap();
            PodKey {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }
        };
        let all = ["a/cart-1", "a/cart-10", "b/cart-10", "b/web-x", "/batch"].map(key);
        for (asked, meant) in [
            ("cart-1", "a/cart-1"),
            ("we", "b/web-x"),
            ("batch", "batch"),
        ] {
            assert_eq!(pick(asked, &all).unwrap().to_string(), meant);
        }
        let text = pick("cart-10", &all).unwrap_err().to_string();
        assert!(text.contains("any of 2 pods"), "{text}");
        assert!(text.contains("a/cart-10, b/cart-10"), "{text}");
        let text = pick("art", &all).unwrap_err().to_string();
        assert!(text.contains("it knows a/cart-1, a/cart-10"), "{text}");
        let text = pick("zzz", &all).unwrap_err().to_string();
        assert!(text.contains("b/web-x"), "{text}");
        assert!(
            pick("x", &[])
                .unwrap_err()
                .to_string()
                .contains("no pod yet")
        );
    }
}
