//! What is asked of manifests and profiles whatever their text is: by the fuzzer, and with its corpus by every test run.
//!
//! An input is bytes. Whatever they are, nothing panics, and what is wrong is told in words of a bounded length.

use std::{net::IpAddr, sync::LazyLock};

use sidestep::{
    cluster::Manifests,
    mesh::{Profile, Profiles},
    model::{Family, Listener, Pod},
};

/// The built-in profiles, read once.
static BUILT_IN: LazyLock<Profiles> = LazyLock::new(|| Profiles::embedded().unwrap());
/// Pods that profiles are tried on: one of each way to be in a mesh, or not.
static PODS: LazyLock<Vec<Pod>> = LazyLock::new(|| {
    let texts = [
        include_str!("no-mesh.yaml"),
        include_str!("kuma-annotations.yaml"),
        include_str!("ambient.yaml"),
        include_str!("istio-bad-values.yaml"),
        include_str!("linkerd-init.yaml"),
    ];
    let read = |text: &&str| Manifests::parse("golden", text).pods;
    texts.iter().flat_map(read).collect()
});

/// All of it is YAML: pods, namespaces, lists of them.
pub fn manifest(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = Manifests::parse("fuzzed.yaml", &text).keep_variables(&BUILT_IN.variables());
    for problem in &read.problems {
        assert!(!problem.to_string().is_empty());
    }
    for pod in read.pods.iter().take(16) {
        ask(&BUILT_IN, pod);
    }
}

/// All of it is TOML: one profile.
pub fn profile(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Err(error) = Profile::parse("fuzzed.toml", &text) {
        assert!(!error.to_string().is_empty());
        return;
    }
    let files = vec![("fuzzed.toml".to_owned(), text.into_owned())];
    let Ok(profiles) = Profiles::with_dir(files) else {
        return;
    };
    for pod in PODS.iter() {
        ask(&profiles, pod);
    }
}

/// Everything that is done with a pod and profiles.
fn ask(profiles: &Profiles, pod: &Pod) {
    let standing = profiles.standing(pod);
    assert_eq!(standing, profiles.standing(pod));
    let listener = |addr: &str, port| Listener {
        addr: addr.parse().unwrap(),
        port,
        dual_stack: false,
    };
    let listeners = [
        (listener("0.0.0.0", 15001), 1337),
        (listener("::", 4143), 2102),
    ];
    let Some(intent) = profiles.intent(pod, &listeners) else {
        return;
    };
    assert_eq!(Some(&intent), profiles.intent(pod, &listeners).as_ref());
    let peer: IpAddr = "10.7.0.7".parse().unwrap();
    for to in ["10.9.0.9:80", "127.0.0.1:53", "[fd99::9]:443", "0.0.0.0:0"] {
        let to = to.parse().unwrap();
        let _ = intent.outbound(to, &pod.ips);
        let _ = intent.outbound_by(1337, to, &pod.ips);
    }
    for port in [0, 80, 8080, 15001, u16::MAX] {
        let _ = intent.inbound(peer, port, &pod.ips);
    }
    let _ = (intent.covers(Family::Ipv6), intent.empty_inbound_list());
}
