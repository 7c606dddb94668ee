//! What the injectors of meshes without a long history here write into a pod: Consul, Kuma, ambient.
//!
//! Containers, annotations and labels as their webhooks write them, because that is where the agent reads the intent.
//! The settings a scenario gives as annotations reach the places where a webhook would put them, too.

use serde_json::{Value, json};

use crate::spec::{Family, Pod};

/// Labels, annotations, init containers, sidecar.
pub(crate) type Injected = (Value, Value, Value, Option<Value>);

/// The webhook with the CNI plugin: the rules' whole configuration is an annotation.
pub(crate) fn consul(pod: &Pod) -> Injected {
    let listed = |key: &str| -> Vec<&str> {
        let key = format!("consul.hashicorp.com/transparent-proxy-{key}");
        let text = pod.annotations.get(&key).map_or("", String::as_str);
        text.split(',').filter(|item| !item.is_empty()).collect()
    };
    let uids = [vec!["5996"], listed("exclude-uids")].concat();
    let rules = json!({"ConsulDNSIP": "", "ConsulDNSPort": 0, "ProxyUserID": "5995",
        "ProxyInboundPort": 20000, "ProxyOutboundPort": 15001,
        "ExcludeInboundPorts": listed("exclude-inbound-ports"),
        "ExcludeOutboundPorts": listed("exclude-outbound-ports"),
        "ExcludeOutboundCIDRs": listed("exclude-outbound-cidrs"),
        "ExcludeUIDs": uids, "NetNS": "", "IptablesProvider": null});
    let init = json!([{"name": "consul-connect-inject-init", "image": "hashicorp/consul-k8s-control-plane:2.0.3",
        "securityContext": {"runAsUser": 5996, "runAsGroup": 5996}}]);
    let proxy = json!({"name": "consul-dataplane", "image": "hashicorp/consul-dataplane:2.0.0",
        "securityContext": {"runAsUser": 5995, "runAsGroup": 5995}});
    let labels = json!({"consul.hashicorp.com/connect-inject-status": "injected",
        "consul.hashicorp.com/connect-inject-managed-by": "consul-k8s-endpoints-controller"});
    let annotations = json!({"consul.hashicorp.com/connect-inject": "true",
        "consul.hashicorp.com/connect-inject-status": "injected",
        "consul.hashicorp.com/transparent-proxy-status": "complete",
        "consul.hashicorp.com/dual-stack": "true",
        "consul.hashicorp.com/redirect-traffic-config": rules.to_string()});
    (labels, annotations, init, Some(proxy))
}

/// The injector with an init container and a native sidecar.
pub(crate) fn kuma(_pod: &Pod) -> Injected {
    let init = json!([
        {"name": "kuma-init", "image": "kumahq/kuma-init:2.14.3",
         "command": ["/usr/bin/kumactl", "install", "transparent-proxy"],
         "args": ["--config-file=/tmp/transparent-proxy/base/config.yaml"],
         "securityContext": {"runAsUser": 0, "runAsGroup": 0}},
        {"name": "kuma-sidecar", "image": "kumahq/kuma-dp:2.14.3", "restartPolicy": "Always",
         "args": ["run", "--log-level=info"],
         "securityContext": {"runAsUser": 5678, "runAsGroup": 5678}},
    ]);
    let labels = json!({"kuma.io/mesh": "default", "kuma.io/sidecar-injection": "enabled"});
    let annotations = json!({"kuma.io/sidecar-injected": "true", "kuma.io/sidecar-uid": "5678",
        "kuma.io/transparent-proxying": "enabled",
        "kuma.io/transparent-proxying-inbound-port": "15006",
        "kuma.io/transparent-proxying-outbound-port": "15001",
        "kuma.io/transparent-proxying-ip-family-mode": "dualstack",
        "kuma.io/envoy-admin-port": "9901"});
    (labels, annotations, init, None)
}

/// Nothing but the marks of the CNI agent.
pub(crate) fn ambient() -> Injected {
    let labels = json!({"istio.io/dataplane-mode": "ambient"});
    let annotations = json!({"ambient.istio.io/redirection": "enabled"});
    (labels, annotations, json!([]), None)
}

/// The rule set of that name in nft's own words, for both families.
pub(crate) fn native(set: &str) -> Option<&'static str> {
    Some(match set {
        "istio" => include_str!("../rules/istio-native.nft"),
        "istio-tproxy" => include_str!("../rules/istio-tproxy-native.nft"),
        "ambient" => include_str!("../rules/ambient-native.nft"),
        "consul" => include_str!("../rules/consul-native.nft"),
        _ => return None,
    })
}

/// The routes that the rule set of that name needs, for this family.
pub(crate) fn routes(set: &str, family: Family) -> Option<&'static str> {
    Some(match (set, family) {
        ("istio-tproxy", Family::Ipv4) => include_str!("../rules/istio-tproxy-ipv4.routes"),
        ("istio-tproxy", Family::Ipv6) => include_str!("../rules/istio-tproxy-ipv6.routes"),
        _ => return None,
    })
}

/// The rule set of that name, for this family.
pub(crate) fn rules(set: &str, family: Family) -> Option<&'static str> {
    Some(match (set, family) {
        ("istio", Family::Ipv4) => include_str!("../rules/istio-ipv4.rules"),
        ("istio", Family::Ipv6) => include_str!("../rules/istio-ipv6.rules"),
        ("istio-tproxy", Family::Ipv4) => include_str!("../rules/istio-tproxy-ipv4.rules"),
        ("istio-tproxy", Family::Ipv6) => include_str!("../rules/istio-tproxy-ipv6.rules"),
        ("linkerd", Family::Ipv4) => include_str!("../rules/linkerd-ipv4.rules"),
        ("linkerd", Family::Ipv6) => include_str!("../rules/linkerd-ipv6.rules"),
        ("consul", Family::Ipv4) => include_str!("../rules/consul-ipv4.rules"),
        ("consul", Family::Ipv6) => include_str!("../rules/consul-ipv6.rules"),
        ("kuma", Family::Ipv4) => include_str!("../rules/kuma-ipv4.rules"),
        ("kuma", Family::Ipv6) => include_str!("../rules/kuma-ipv6.rules"),
        ("ambient", Family::Ipv4) => include_str!("../rules/ambient-ipv4.rules"),
        ("ambient", Family::Ipv6) => include_str!("../rules/ambient-ipv6.rules"),
        _ => return None,
    })
}
