//! What the kubelet says of a container, beside what the kernel saw.

use sidestep::{
    engine::{Change, Code},
    model::{Arrival, ContainerStatus, Ended, Pod},
};

use crate::kit::*;

/// The meshed pod with this status of its proxy.
fn with_status(status: ContainerStatus) -> Change {
    let mut pod: Pod = meshed();
    for container in &mut pod.containers {
        if container.name == "istio-proxy" {
            container.status = Some(Box::new(status.clone()));
        }
    }
    Change::Pod(Box::new(pod))
}

fn killed() -> ContainerStatus {
    ContainerStatus {
        ready: false,
        restarts: 1,
        before: Some(Ended {
            exit_code: 137,
            reason: "OOMKilled".to_owned(),
        }),
        ..ContainerStatus::default()
    }
}

#[test]
fn a_status_that_comes_later_names_the_root() {
    let mut node = Node::running();
    node.listeners(&["0.0.0.0:15006", "0.0.0.0:8080"]);
    let to = out(APP, 1000, "10.9.0.1:80", Arrival::Decided(OUT));
    node.edge(to, refused(4));
    node.pass(2.0);
    assert_eq!(node.open(), [Code::StuckNoListener]);
    node.change(with_status(killed()));
    assert_eq!(node.open(), [Code::SidecarNotReady]);
    let finding = node.only(Code::SidecarNotReady);
    assert_eq!(finding.connections, 4);
    assert!(facts(&finding).contains("exit code 137 (OOMKilled)"));
    assert!(
        finding.remedy.contains("memory limit"),
        "{}",
        finding.remedy
    );
    let ready = ContainerStatus {
        ready: true,
        ..killed()
    };
    node.change(with_status(ready));
    assert_eq!(node.open(), []);
}

#[test]
fn a_status_alone_says_nothing() {
    let mut node = Node::running();
    node.change(with_status(killed()));
    node.edge(
        out(APP, 1000, "10.9.0.1:80", Arrival::Port(OUT)),
        established(5),
    );
    node.pass(10.0);
    assert_eq!(node.open(), []);
}
