//! Services without endpoints: what kube-proxy's rules turn away, and what to do about it.
//!
//! Such a rule is the messenger. Whoever is told to look for a network policy loses an hour; what is
//! missing is a pod that is ready. The rules say so themselves, in their comments (iptables, all
//! versions) or by their chains (nftables, Kubernetes 1.31 and later).

use crate::{
    engine::findings::Case,
    model::Time,
    rules::{Backend, Step},
};

/// The fact that says it.
const FACT: &str = "service_endpoints";

/// States that the rule is such a one.
pub(super) fn state(at: Time, case: &mut Case, step: &Step) {
    match said(step) {
        Some(text) => case.state(at, FACT, text),
        None => case.withdraw(at, FACT),
    }
}

/// What there is no endpoint of: a sentence.
pub(super) fn missing(case: &Case) -> Option<&str> {
    case.fact(FACT)
}

/// What the rule says of a Service, as a sentence.
fn said(step: &Step) -> Option<String> {
    if step.backend == Backend::Native {
        let text = match (step.table.as_str(), step.chain.as_str()) {
            ("kube-proxy", "reject-chain") => "its Service has no endpoints",
            ("kube-proxy", "service-endpoints-check" | "nodeport-endpoints-check") => {
                "its Service has no local endpoints"
            }
            _ => return None,
        };
        return Some(text.to_owned());
    }
    if !step.chain.starts_with("KUBE-") {
        return None;
    }
    [" has no endpoints", " has no local endpoints"]
        .into_iter()
        .find_map(|words| {
            let (before, _) = step.text.split_once(words)?;
            let (_, name) = before.rsplit_once('"')?;
            Some(format!("Service {name}{words}"))
        })
}

/// What to do where that is said.
pub(super) fn remedy(said: &str) -> String {
    let look = name(said).map_or_else(
        || "look at its EndpointSlices".to_owned(),
        |(namespace, name)| {
            format!("`kubectl --namespace {namespace} get endpointslices --selector kubernetes.io/service-name={name}` lists what it has")
        },
    );
    let what = if said.contains(" local ") {
        "Its traffic policy is Local and no ready pod of it is on this node: run one here, or set internalTrafficPolicy (externalTrafficPolicy) to Cluster"
    } else {
        "Get a pod behind it ready: if none is listed, its selector fits no pod's labels; if they are not ready, look at their readiness probes"
    };
    format!("{said}: {look}. {what}. The rule is kube-proxy's and goes by itself.")
}

/// Namespace and name, from `Service namespace/name:port has …`.
fn name(said: &str) -> Option<(&str, &str)> {
    let word = said.strip_prefix("Service ")?.split(' ').next()?;
    let (namespace, name) = word.split_once('/')?;
    Some((namespace, name.split(':').next()?))
}

#[cfg(test)]
mod tests {
    use super::{name, said};
    use crate::rules::{Backend, Step, TableFamily};

    fn step(backend: Backend, table: &str, chain: &str, text: &str) -> Step {
        Step {
            backend,
            family: TableFamily::Ipv4,
            table: table.to_owned(),
            chain: chain.to_owned(),
            hook: None,
            kind: None,
            number: Some(1),
            text: text.to_owned(),
        }
    }

    #[test]
    fn rules_of_kube_proxy_say_which_service() {
        let (old, nft) = (Backend::Legacy, Backend::Native);
        for (backend, table, chain, text, says) in [
            (
                old,
                "filter",
                "KUBE-SERVICES",
                r#"-A KUBE-SERVICES -d 10.96.0.80/32 -p tcp -m comment --comment "mesh/server:http has no endpoints" -m tcp --dport 8080 -j REJECT --reject-with icmp-port-unreachable"#,
                Some("Service mesh/server:http has no endpoints"),
            ),
            (
                Backend::Nft,
                "filter",
                "KUBE-EXTERNAL-SERVICES",
                r#"-A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment "shop/web has no local endpoints" -j DROP"#,
                Some("Service shop/web has no local endpoints"),
            ),
            // Somebody else's rule, in words of the same kind.
            (
                old,
                "filter",
                "FORWARD",
                r#"-A FORWARD -m comment --comment "host has no endpoints" -j REJECT"#,
                None,
            ),
            (
                old,
                "filter",
                "KUBE-FIREWALL",
                r#"-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -j DROP"#,
                None,
            ),
            (
                nft,
                "kube-proxy",
                "reject-chain",
                "reject",
                Some("its Service has no endpoints"),
            ),
            (
                nft,
                "kube-proxy",
                "service-endpoints-check",
                "ip daddr . meta l4proto . th dport vmap @no-endpoint-services",
                Some("its Service has no local endpoints"),
            ),
            (nft, "kube-proxy", "cluster-ips-check", "drop", None),
            (nft, "firewall", "reject-chain", "reject", None),
        ] {
            let said = said(&step(backend, table, chain, text));
            assert_eq!(said.as_deref(), says, "{text}");
        }
    }

    #[test]
    fn a_service_is_named_without_its_port() {
        for (said, named) in [
            (
                "Service mesh/server:http has no endpoints",
                Some(("mesh", "server")),
            ),
            (
                "Service shop/web has no local endpoints",
                Some(("shop", "web")),
            ),
            ("its Service has no endpoints", None),
        ] {
            assert_eq!(name(said), named, "{said}");
        }
    }
}
