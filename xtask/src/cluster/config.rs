//! The configuration files of the cluster's daemons.
//!
//! Small where smallness costs nothing, and lenient where this machine is not a node: no swap check, no image collection,
//! no out-of-memory scores that take a privilege.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::place::{CGROUP, NODE, NODE_ADDRESS, PODS, Place, REGISTRY};
use crate::setup::CLUSTER_PLUGIN_DIR;

/// The image of the container that holds a pod's namespaces.
pub(crate) const PAUSE: &str = "sidestep.local/pause:1";

/// Writes all of them; `tools` is where the programs from packages are.
pub(crate) fn write(place: &Place, tools: &Path) -> Result<()> {
    let dir = place.dir.display();
    file(place, "kubeconfig", &kubeconfig(place, "admin"))?;
    file(place, "node.kubeconfig", &kubeconfig(place, "node"))?;
    file(place, "containerd.toml", &containerd(place, tools))?;
    file(
        place,
        "cni/10-sidestep.conflist",
        &format!(
            r#"{{"cniVersion":"0.4.0","name":"sidestep","plugins":[
 {{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,"hairpinMode":true,
  "ipam":{{"type":"host-local","dataDir":"{dir}/cni-data","ranges":[[{{"subnet":"{}"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}},
 {{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}
"#,
            PODS.replace("/16", "/23")
        ),
    )?;
    file(place, "kubelet.yaml", &kubelet(place))?;
    file(
        place,
        "audit.yaml",
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
         - {level: Metadata, userGroups: [\"system:serviceaccounts:sidestep\"]}\n- {level: None}\n",
    )?;
    file(
        place,
        "kube-proxy.yaml",
        &format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\nclusterCIDR: {PODS}\n\
             hostnameOverride: {NODE}\noomScoreAdj: 0\nclientConnection: {{kubeconfig: {dir}/kubeconfig}}\n\
             conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}\n\
             healthzBindAddress: 127.0.0.1:10256\nmetricsBindAddress: 127.0.0.1:10249\n"
        ),
    )
}

fn file(place: &Place, name: &str, text: &str) -> Result<()> {
    let path = place.join(name);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    // They name keys, and helm complains of a readable one.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn kubeconfig(place: &Place, user: &str) -> String {
    let (server, pki) = (Place::api(), place.join("pki"));
    let pki = pki.display();
    format!(
        "apiVersion: v1\nkind: Config\n\
         clusters: [{{name: sidestep, cluster: {{server: \"{server}\", certificate-authority: {pki}/ca.crt}}}}]\n\
         users: [{{name: {user}, user: {{client-certificate: {pki}/{user}.crt, client-key: {pki}/{user}.key}}}}]\n\
         contexts: [{{name: sidestep, context: {{cluster: sidestep, user: {user}}}}}]\ncurrent-context: sidestep\n"
    )
}

fn containerd(place: &Place, tools: &Path) -> String {
    let (dir, socket) = (place.dir.display(), place.containerd());
    let (socket, plugins) = (socket.display(), tools.join(CLUSTER_PLUGIN_DIR));
    let (plugins, runc) = (plugins.display(), tools.join("usr/sbin/runc"));
    let runc = runc.display();
    format!(
        r#"version = 2
root = "{dir}/containerd"
state = "{dir}/run/containerd"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Lower scores than ours take a privilege that a container of a build system does not have.
  restrict_oom_score_adj = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{dir}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry.mirrors."{REGISTRY}"]
    endpoint = ["http://{REGISTRY}"]
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        Root = "{dir}/run/runc"
"#
    )
}

fn kubelet(place: &Place) -> String {
    let dir = place.dir.display();
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {NODE_ADDRESS}
port: 10250
healthzBindAddress: 127.0.0.1
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: false}}, x509: {{clientCAFile: {dir}/pki/ca.crt}}}}
authorization: {{mode: AlwaysAllow}}
tlsCertFile: {dir}/pki/node.crt
tlsPrivateKeyFile: {dir}/pki/node.key
cgroupDriver: cgroupfs
cgroupRoot: /{CGROUP}
failSwapOn: false
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: \"\"
oomScoreAdj: 0
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}
imageGCHighThresholdPercent: 99
imageGCLowThresholdPercent: 98
nodeStatusUpdateFrequency: 1s
kubeAPIQPS: 200
kubeAPIBurst: 400
eventRecordQPS: 0
registryPullQPS: 0
maxPods: 300
staticPodPath: \"\"
volumePluginDir: {dir}/kubelet/plugins-exec
"
    )
}
