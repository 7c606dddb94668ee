//! Golden pods: manifests as the meshes' injectors write them, and what must be captured
//! in each. Data only: `NAME.yaml` is the manifest, `NAME.toml` what is expected. A new
//! mesh adds files, no code.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is the test's failure"
)]

mod corpus;
#[expect(unreachable_pub, reason = "the fuzzer's crate has them too")]
#[path = "golden_pods/inputs.rs"]
mod inputs;

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

use serde::Deserialize;
use sidestep::{
    cluster::Manifests,
    mesh::{DnsCapture, Exemption, Expectation, Intent, IntentSource, Profiles},
    model::{Listener, Pod},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// Name of the profile; absent if the pod is in no mesh.
    profile: Option<String>,
    /// `addr:port` of the pod's listening sockets, and the uid that owns each.
    #[serde(default)]
    listeners: BTreeMap<String, u32>,
    proxy_uid: Option<u32>,
    proxy_gid: Option<u32>,
    #[serde(default)]
    inbound_keeps_destination: bool,
    #[serde(default)]
    node_proxy: bool,
    /// `PORT PROTOCOLS RESOLVERS: source` of captured name resolution.
    dns: Option<String>,
    /// Family → `rules` or `none`, and what says so.
    #[serde(default)]
    families: BTreeMap<String, String>,
    /// `CONTAINER FIELD ID` of containers with an id of the proxy's.
    #[serde(default)]
    shared_ids: Vec<String>,
    /// What captures no inbound port at all.
    empty_inbound_list: Option<String>,
    /// `PROFILE: sign` of meshes asked for in vain.
    #[serde(default)]
    asked: Vec<String>,
    /// Marks of several meshes at once.
    #[serde(default)]
    marks: Vec<String>,
    /// Signs of meshes on a pod of the node's network.
    #[serde(default)]
    on_host: Vec<String>,
    /// `UID -> destination` → what must happen.
    #[serde(default)]
    outbound_by: BTreeMap<String, String>,
    /// Destination → what must happen.
    #[serde(default)]
    outbound: BTreeMap<String, String>,
    /// `peer -> port` → what must happen.
    #[serde(default)]
    inbound: BTreeMap<String, String>,
    /// A piece of each problem.
    #[serde(default)]
    problems: Vec<String>,
    /// Pieces that the description for people must have.
    #[serde(default)]
    describe: Vec<String>,
}

/// As short as it is unmistakable: `15001`, `local`, `mesh port`, `off: …`, `listed: …`.
fn shown(expectation: Expectation) -> String {
    match expectation {
        Expectation::Captured { port } => port.to_string(),
        Expectation::Exempt { by } => match by {
            Exemption::Local => "local".to_owned(),
            Exemption::MeshPort => "mesh port".to_owned(),
            Exemption::DirectionOff { source } => format!("off: {source}"),
            Exemption::Listed { source } => format!("listed: {source}"),
        },
    }
}

fn check_intent(name: &str, expected: &Expected, pod: &Pod, intent: &Intent) {
    assert_eq!(intent.proxy_uid, expected.proxy_uid, "{name}: uid");
    assert_eq!(intent.proxy_gid, expected.proxy_gid, "{name}: gid");
    let keeps = intent.inbound_keeps_destination;
    assert_eq!(keeps, expected.inbound_keeps_destination, "{name}");
    for (to, what) in &expected.outbound {
        let found = shown(intent.outbound(to.parse().unwrap(), &pod.ips));
        assert_eq!(&found, what, "{name}: outbound to {to}");
    }
    for (way, what) in &expected.outbound_by {
        let (uid, to) = way.split_once(" -> ").unwrap();
        let to = to.parse().unwrap();
        let found = shown(intent.outbound_by(uid.parse().unwrap(), to, &pod.ips));
        assert_eq!(&found, what, "{name}: outbound by {way}");
    }
    for (way, what) in &expected.inbound {
        let (from, port) = way.split_once(" -> ").unwrap();
        let from: IpAddr = from.parse().unwrap();
        let found = shown(intent.inbound(from, port.parse().unwrap(), &pod.ips));
        assert_eq!(&found, what, "{name}: inbound {way}");
    }
    assert_eq!(
        intent.problems.len(),
        expected.problems.len(),
        "{name}: {:?}",
        intent.problems
    );
    for (problem, piece) in intent.problems.iter().zip(&expected.problems) {
        assert!(problem.contains(piece), "{name}: {piece} not in {problem}");
    }
    let described = intent.describe.join("\n");
    for piece in &expected.describe {
        assert!(
            described.contains(piece),
            "{name}: {piece} not in {described}"
        );
    }
}

fn check_details(name: &str, expected: &Expected, intent: &Intent) {
    assert_eq!(intent.node_proxy, expected.node_proxy, "{name}");
    let dns = intent.dns.as_ref().map(|dns| {
        let DnsCapture {
            port,
            protocols,
            resolvers,
            source,
        } = dns;
        format!("{port} {protocols:?} {resolvers:?}: {source}")
    });
    assert_eq!(dns, expected.dns, "{name}: dns");
    let families = intent.families.iter().map(|rules| {
        let installed = if rules.installed { "rules" } else { "none" };
        let family = format!("{:?}", rules.family).to_lowercase();
        (family, format!("{installed}: {}", rules.source))
    });
    assert_eq!(
        families.collect::<BTreeMap<_, _>>(),
        expected.families,
        "{name}: families"
    );
    let shared = intent
        .shared_ids
        .iter()
        .map(|s| format!("{} {} {}", s.container, s.field, s.id));
    assert_eq!(
        shared.collect::<Vec<_>>(),
        expected.shared_ids,
        "{name}: shared ids"
    );
    let empty = intent.empty_inbound_list().map(str::to_owned);
    assert_eq!(empty, expected.empty_inbound_list, "{name}: inbound list");
}

fn check_standing(name: &str, expected: &Expected, profiles: &Profiles, pod: &Pod) {
    let standing = profiles.standing(pod);
    let asked = standing
        .asked
        .iter()
        .map(|a| format!("{}: {}", a.profile, a.sign));
    assert_eq!(asked.collect::<Vec<_>>(), expected.asked, "{name}: asked");
    assert_eq!(standing.marks, expected.marks, "{name}: marks");
    assert_eq!(standing.on_host, expected.on_host, "{name}: on host");
}

fn check(path: &Path, profiles: &Profiles) {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let parsed = Manifests::parse(name, &fs::read_to_string(path).unwrap());
    assert_eq!(parsed.problems, vec![], "{name}");
    let namespaces = parsed.namespaces.clone();
    let [pod] = &parsed.keep_variables(&profiles.variables()).pods[..] else {
        panic!("{name}: one pod in each file");
    };
    let mut pod = pod.clone();
    pod.namespace_labels = namespaces
        .get(&pod.key.namespace)
        .cloned()
        .unwrap_or_default();
    let pod = &pod;
    let expected = fs::read_to_string(path.with_extension("toml")).unwrap();
    let expected: Expected = toml::from_str(&expected).unwrap_or_else(|e| panic!("{name}: {e}"));
    let listeners = expected.listeners.iter().map(|(addr, uid)| {
        let addr: std::net::SocketAddr = addr.parse().unwrap();
        let listener = Listener {
            addr: addr.ip(),
            port: addr.port(),
            dual_stack: false,
        };
        (listener, *uid)
    });
    let intent = profiles.intent(pod, &listeners.collect::<Vec<_>>());
    let profile = intent.as_ref().map(|intent| intent.profile.clone());
    assert_eq!(profile, expected.profile, "{name}");
    if let Some(intent) = intent {
        let source = match expected.listeners.is_empty() {
            true => IntentSource::Manifest,
            false => IntentSource::Listeners,
        };
        assert_eq!(intent.source, source, "{name}");
        check_intent(name, &expected, pod, &intent);
        check_details(name, &expected, &intent);
    }
    check_standing(name, &expected, profiles, pod);
}

#[test]
fn every_golden_pod_has_the_intent_expected() {
    let profiles = Profiles::embedded().unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_pods");
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            check(&path, &profiles);
            count += 1;
        }
    }
    assert!(count >= 50, "only {count} golden pods found");
}

/// Inputs that the fuzzer found to reach something new, and those that broke something once.
#[test]
fn what_was_fuzzed_once_stays_mended() {
    corpus::each("manifest", inputs::manifest);
    corpus::each("profile", inputs::profile);
}
