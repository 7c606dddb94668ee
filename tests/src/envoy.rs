//! The real Envoy as a sidecar: two original-destination listeners, like the mesh's control plane would configure.
//!
//! Outbound (15001) and inbound (15006) each pass a connection on to where it wanted to go; the inbound side dials from
//! 127.0.0.6 (or ::6), by which the rules know it. One that may not dial has nowhere to go for what is outside. Health (15021) and metrics (15090) answer on their own ports.
//!
//! It must never need a network: everything is static.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::place::Place;
use crate::process;
use crate::spec::{Family, Proxy};
use crate::world::{Standing, World};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// Ports that listen when Envoy is ready.
pub(crate) fn ports(proxy: &Proxy) -> Vec<u16> {
    let outbound = proxy.outbound.0.then_some(15001);
    let inbound = proxy.inbound.0.then_some(15006);
    [Some(15000), outbound, inbound, Some(15021)]
        .into_iter()
        .flatten()
        .collect()
}

/// The command that runs Envoy in its place, with a configuration made for the pod.
pub(crate) fn command(
    world: &World,
    pod: &Standing,
    program: &Path,
    place: &Place,
) -> Result<Command> {
    let path = world.dir.join(format!("{}-envoy.json", pod.spec.name));
    fs::write(&path, serde_json::to_string_pretty(&config(pod))?)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = process::actor(place);
    command.arg("exec").arg(program).arg("-c").arg(&path);
    command.args([
        "--concurrency",
        "1",
        "--log-level",
        "warn",
        "--disable-hot-restart",
    ]);
    Ok(command)
}

fn config(pod: &Standing) -> Value {
    let ipv6 = pod.families.contains(&Family::Ipv6);
    let ipv4 = pod.families.contains(&Family::Ipv4);
    let proxy = &pod.spec.proxy;
    let outside = match proxy.dial.0 {
        true => "PassthroughCluster",
        false => "BlackHoleCluster",
    };
    let mut listeners = vec![health()];
    for (wanted, name, port, cluster) in [
        (proxy.outbound.0, "virtualOutbound", 15001, outside),
        (
            proxy.inbound.0,
            "virtualInbound",
            15006,
            "InboundPassthroughCluster",
        ),
    ] {
        if wanted && ipv4 {
            listeners.push(capture(name, "0.0.0.0", port, &format!("{cluster}Ipv4")));
        }
        if wanted && ipv6 {
            listeners.push(capture(
                &format!("{name}6"),
                "::",
                port,
                &format!("{cluster}Ipv6"),
            ));
        }
    }
    json!({
        "admin": {"address": address("127.0.0.1", 15000)},
        "static_resources": {
            "listeners": listeners,
            "clusters": [
                passthrough("PassthroughClusterIpv4", None), passthrough("PassthroughClusterIpv6", None),
                passthrough("InboundPassthroughClusterIpv4", Some("127.0.0.6")),
                passthrough("InboundPassthroughClusterIpv6", Some("::6")),
                nowhere("BlackHoleClusterIpv4"), nowhere("BlackHoleClusterIpv6"),
            ],
        },
    })
}

fn address(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

fn capture(name: &str, ip: &str, port: u16, cluster: &str) -> Value {
    json!({
        "name": name,
        "address": address(ip, port),
        "use_original_dst": true,
        "listener_filters": [{
            "name": "envoy.filters.listener.original_dst",
            "typed_config": {"@type": format!("{TYPES}.filters.listener.original_dst.v3.OriginalDst")},
        }],
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": name, "cluster": cluster,
            },
        }]}],
    })
}

fn health() -> Value {
    json!({
        "name": "health",
        "address": address("0.0.0.0", 15021),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": "health",
                "http_filters": [{"name": "envoy.filters.http.router",
                    "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")}}],
                "route_config": {"virtual_hosts": [{"name": "health", "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]},
            },
        }]}],
    })
}

fn passthrough(name: &str, source: Option<&str>) -> Value {
    let mut cluster = json!({
        "name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "5s",
    });
    if let Some(ip) = source {
        cluster["upstream_bind_config"] =
            json!({"source_address": {"address": ip, "port_value": 0}});
    }
    cluster
}

/// A cluster without endpoints: what is meant for a destination that the registry does not have.
fn nowhere(name: &str) -> Value {
    json!({"name": name, "type": "STATIC", "connect_timeout": "5s"})
}
