//! Stuck and failing: connections that entered the path and did not come out.
//!
//! A refusal by a peer is everyday life; the same by the pod's own proxy, or of the proxy by
//! its own app, is not. Each rule says which of the two it is before it files anything.

use std::net::SocketAddr;

use super::{Judged, Scene, sample};
use crate::{
    engine::{
        Code, Leg, Stage, Verdict,
        directory::PodId,
        edges::Comm,
        evidence::Sample,
        findings::{Case, Findings, Render},
        queue::Progress,
        sockets::{Listens, Namespace, answers},
        throttle::Cpu,
        verdict::Path,
        watch::Refuser,
    },
    mesh::Intent,
    model::{Arrival, Direction, Family, Outcome, Time},
};

/// Refusals in a row before an upstream counts as refusing, and the time they must span.
const UPSTREAM_REFUSALS: u64 = 3;
const UPSTREAM_SPAN_US: u64 = 1_000_000;

/// The connection entered the path and made no progress.
pub(super) fn stuck(j: &Judged<'_>, scene: &Scene<'_>, findings: &mut Findings) {
    let to_proxy = matches!(
        j.verdict,
        Verdict::Stuck {
            stage: Stage::HandshakeToProxy
        }
    );
    if !to_proxy || j.outcome != Outcome::Refused {
        return;
    }
    let port = match j.key.arrival {
        Arrival::Port(port) | Arrival::Decided(port) => port,
        Arrival::Nowhere | Arrival::Loopback | Arrival::Unknown => scene.intent.outbound_port,
    };
    let case = findings.note(j.at, Some(j.pod), super::status::nobody(j.at, scene.entry));
    case.add(&sample(j));
    add_port(case, port);
    if matches!(j.key.arrival, Arrival::Decided(_)) {
        case.witnesses.insert("NAT decided to redirect");
    }
    if recently_deserted(scene.ns, port, j.view.family, j.at) {
        case.witnesses
            .insert("the namespace itself answered with a reset");
    }
    socket_witness(case, scene.ns, port, j.view.family);
}

/// Ports of one case: the two capture ports, and a few wrong ones.
const MAX_PORTS: usize = 8;

fn add_port(case: &mut Case, port: u16) {
    if case.ports.len() < MAX_PORTS {
        case.ports.insert(port);
    }
}

fn socket_witness(case: &mut Case, ns: Option<&Namespace>, port: u16, family: Family) {
    if ns.is_some_and(|ns| ns.listens(port, family) == Listens::No) {
        case.witnesses
            .insert("no listening socket on the capture port");
    }
}

/// A reset from the namespace is remembered this long for connections that are counted later.
const DESERTED_US: u64 = 5_000_000;

fn recently_deserted(ns: Option<&Namespace>, port: u16, family: Family, at: Time) -> bool {
    ns.and_then(|ns| ns.deserted(port, family))
        .is_some_and(|seen| at.micros_since(seen) <= DESERTED_US)
}

/// Whether a refused connection that should have been captured was refused by the pod's own
/// namespace: a reset of it was seen, or (where neither NAT nor resets are seen) the capture
/// port is known to be deserted and nothing speaks for missing rules.
pub(in crate::engine) fn refused_capture(
    scene: &Scene<'_>,
    family: Family,
    at: Time,
    sees_resets: bool,
) -> bool {
    let port = scene.intent.outbound_port;
    if recently_deserted(scene.ns, port, family, at) {
        return true;
    }
    let blind = !scene.sees_nat && !sees_resets;
    let silent = |f| {
        scene
            .ns
            .is_some_and(|ns| ns.listens(port, f) == Listens::No)
    };
    // A proxy of the other family only proves nothing: this family may have no rules, and the
    // peer may have refused. Unless this family was captured before.
    let captured = |f| scene.watch.captured.get(Direction::Outbound, f).is_some();
    let deserted =
        silent(family) && (captured(family) || silent(Family::Ipv4) && silent(Family::Ipv6));
    blind && deserted && !scene.watch.leaks(Direction::Outbound)
}

/// A proxy that was never ready is starting for so long; later it is broken.
pub(super) const COMES_UP_US: u64 = 60_000_000;

/// A signal told that a SYN met no listener on a capture port; counted connections follow.
pub(in crate::engine) fn signalled_refusal(
    at: Time,
    (pod, code): (PodId, Code),
    ns: Option<&Namespace>,
    port: u16,
    sample: &Sample,
    findings: &mut Findings,
) {
    let case = findings.note(at, Some(pod), code);
    case.add(sample);
    add_port(case, port);
    case.witnesses
        .insert("the namespace itself answered with a reset");
    socket_witness(case, ns, port, sample.family);
}

/// The rules give what comes in to a port where nobody listens, as it is: it is dropped.
pub(in crate::engine) fn given_to_nobody(
    at: Time,
    (pod, code): (PodId, Code),
    ns: Option<&Namespace>,
    (port, rule): (u16, &str),
    sample: &Sample,
    findings: &mut Findings,
) {
    let case = findings.note(at, Some(pod), code);
    case.add(sample);
    add_port(case, port);
    case.state(at, "rule", rule.to_owned());
    case.witnesses.insert("SYNs to the pod are not answered");
    socket_witness(case, ns, port, sample.family);
}

/// The connection failed; if it is the proxy's and refused, somebody refuses the proxy.
pub(super) fn failed(j: &Judged<'_>, scene: &Scene<'_>, findings: &mut Findings) {
    let Some(run) = j.refusals else { return };
    match j.leg {
        Leg::ProxyToApp => app_refused(j, scene, findings),
        Leg::ProxyToUpstream
            if run.count >= UPSTREAM_REFUSALS
                && run.last.micros_since(run.first) >= UPSTREAM_SPAN_US =>
        {
            let code = scene.upstream(j.key.remote, Code::StuckUpstreamRefused);
            let case = findings.note(j.at, Some(j.pod), code);
            case.add(&sample(j));
            case.witnesses.insert("refused by a reset");
            let text = format!(
                "{} in a row to {}, none accepted between",
                run.count, j.key.remote
            );
            case.state(j.at, "refused", text);
        }
        _ => {}
    }
}

fn app_refused(j: &Judged<'_>, scene: &Scene<'_>, findings: &mut Findings) {
    let case = findings.note(j.at, Some(j.pod), Code::StuckAppRefused);
    case.add(&sample(j));
    case.witnesses.insert("refused by a reset");
    match elsewhere(scene.ns, j.key.remote) {
        Some(others) if others.is_empty() => {
            case.withdraw(j.at, "listens_elsewhere");
            case.state(
                j.at,
                "listens",
                format!("nobody on port {}", j.key.remote.port()),
            );
        }
        Some(others) => {
            case.witnesses.insert("listening sockets of the namespace");
            case.withdraw(j.at, "listens");
            case.state(j.at, "listens_elsewhere", others);
        }
        None => {}
    }
}

/// Who listens on the port of `to`, but not for its address; `None` if sockets are not known
/// or somebody does answer for it.
fn elsewhere(ns: Option<&Namespace>, to: SocketAddr) -> Option<String> {
    let ns = ns?;
    let on_port = ns.on_port(to.port());
    let answered = on_port.iter().any(|(l, _)| answers(l, to.ip()));
    if answered || ns.listens(to.port(), Family::of(to.ip())) == Listens::Unknown {
        return None;
    }
    let show = |(l, h): &(crate::model::Listener, crate::engine::sockets::Holder)| {
        let who = if h.comm.is_empty() {
            String::new()
        } else {
            format!(" ({})", h.comm)
        };
        format!("{}{who}", SocketAddr::new(l.addr, l.port))
    };
    Some(on_port.iter().map(show).collect::<Vec<_>>().join(", "))
}

/// Captured and answered: somebody listens on the capture port for this family.
pub(super) fn intercepted(j: &Judged<'_>, findings: &mut Findings, render: Render<'_>) {
    if j.view.path != Path::Capture && j.key.direction == Direction::Outbound {
        return;
    }
    let same = |c: &Case| *c.about.get(j.key.direction, j.view.family);
    for code in [
        Code::StuckNoListener,
        Code::BypassAmbientLost,
        Code::SidecarNotReady,
        Code::StuckStartupGap,
    ] {
        if findings.get(j.pod, code).is_some_and(same) {
            findings.resolve(j.at, Some(j.pod), code, render);
        }
    }
}

/// Something of the proxy's came through: if nobody refuses it any more, the case is over.
pub(super) fn succeeded(
    j: &Judged<'_>,
    scene: &Scene<'_>,
    findings: &mut Findings,
    render: Render<'_>,
) {
    let (who, code) = match j.leg {
        Leg::ProxyToApp => (Refuser::App, Code::StuckAppRefused),
        Leg::ProxyToUpstream => (Refuser::Upstream, Code::StuckUpstreamRefused),
        _ => return,
    };
    super::control::reached(j, scene, findings, render);
    if !scene.watch.refuses(who) {
        findings.resolve(j.at, Some(j.pod), code, render);
    }
}

/// Whoever waits in the first sample came half an interval before it, on average.
const SAMPLING_US: u64 = 500_000;

/// A queue sample of a pod's namespace.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Queues<'a> {
    /// Port, progress, length and maximum of the capture listeners.
    pub(in crate::engine) progress: &'a [(u16, Progress, u32, u32)],
    /// So long nothing must have been accepted.
    pub(in crate::engine) after_us: u64,
    /// Whether the proxy is let run.
    pub(in crate::engine) cpu: Cpu,
}

/// A queue sample of a pod's namespace came in.
pub(in crate::engine) fn queue(
    at: Time,
    pod: PodId,
    scene: &Scene<'_>,
    queues: &Queues<'_>,
    findings: &mut Findings,
    render: Render<'_>,
) {
    let code = queues.cpu.code(Code::StuckNotAccepting);
    let progress = queues.progress;
    let mut standing = false;
    for (port, progress, length, max) in progress {
        if *length > 0 && queues.cpu.lasts() {
            let case = findings.note(at, Some(pod), Code::SidecarThrottled);
            queue_fact(case, scene.intent, *port, (*length, *max));
        }
        let Progress::Standing { since, established } = *progress else {
            continue;
        };
        standing = true;
        if at.micros_since(since).saturating_add(SAMPLING_US) < queues.after_us {
            continue;
        }
        let case = findings.note(at, Some(pod), code);
        case.connections = case.connections.max(u64::from(*length));
        case.first = case.first.min(since);
        let stood = at.micros_since(since);
        queue_facts(case, scene.intent, *port, (*length, *max), stood);
        case.witnesses.insert("the accept queue does not shrink");
        if established > 0 {
            case.witnesses
                .insert("connections were established and not accepted");
        }
        if length > max {
            case.witnesses.insert("the accept queue overflows");
        }
        if scene.watch.hanging > 0 {
            case.witnesses.insert("handshakes to the proxy hang");
            case.state(at, "hanging_handshakes", scene.watch.hanging.to_string());
        }
    }
    if standing {
        // Whoever accepts nothing overflows: one cause, one finding.
        let root = Code::StuckNotAccepting;
        if findings.get(pod, root).is_some_and(Case::is_current) {
            findings.absorb(at, pod, root, Code::StuckAcceptQueue, render);
        }
    } else {
        findings.resolve(at, Some(pod), Code::StuckNotAccepting, render);
        overflowing(at, pod, scene, queues, findings, render);
    }
    super::throttle::settle(at, pod, queues.cpu, findings, render);
}

/// Capture listeners that accept, but not as fast as connections come.
fn overflowing(
    at: Time,
    pod: PodId,
    scene: &Scene<'_>,
    queues: &Queues<'_>,
    findings: &mut Findings,
    render: Render<'_>,
) {
    let mut any = false;
    let code = queues.cpu.code(Code::StuckAcceptQueue);
    for (port, _, length, max) in queues.progress {
        let Some((since, lost)) = scene.ns.and_then(|ns| ns.overflows(at, *port)) else {
            continue;
        };
        any = true;
        let case = findings.note(at, Some(pod), code);
        case.first = case.first.min(since);
        case.connections = case.connections.max(lost);
        add_port(case, *port);
        queue_fact(case, scene.intent, *port, (*length, *max));
        case.witnesses.insert("the accept queue is at its maximum");
        case.witnesses
            .insert("the kernel counted connections that found it full");
    }
    if !any {
        findings.resolve(at, Some(pod), Code::StuckAcceptQueue, render);
    }
}

fn queue_fact(case: &mut Case, intent: &Intent, port: u16, (length, max): (u32, u32)) {
    let what = ["queue_inbound", "queue_outbound"];
    case.state(
        case.last,
        what[usize::from(port == intent.outbound_port)],
        format!("port {port}: {length} waiting, maximum {max}"),
    );
}

fn queue_facts(case: &mut Case, intent: &Intent, port: u16, (length, max): (u32, u32), us: u64) {
    queue_fact(case, intent, port, (length, max));
    let stands = ["stands_inbound", "stands_outbound"];
    case.state(
        case.last,
        stands[usize::from(port == intent.outbound_port)],
        format!("nothing accepted for {} s", us / 1_000_000),
    );
}

/// Builds a sample for a signal, which has no counts.
pub(in crate::engine) fn signal_sample(
    direction: Direction,
    destination: SocketAddr,
    process: Option<Comm>,
    n: u64,
) -> Sample {
    Sample {
        direction,
        family: Family::of(destination.ip()),
        destination,
        process,
        ids: None,
        container: None,
        n,
    }
}
