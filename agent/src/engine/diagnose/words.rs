//! Words that several texts share: numbers, and what of a pod's proxy was seen.

use std::net::SocketAddr;

use super::Scene;
use crate::model::{Direction, Family};

/// So many of something.
pub(super) fn plural(n: u64, what: &str) -> String {
    if n == 1 {
        format!("1 {what}")
    } else {
        format!("{n} {what}s")
    }
}

/// By direction and family, which connections were captured.
pub(super) fn captured(scene: &Scene<'_>) -> String {
    let mut seen = Vec::new();
    for direction in [Direction::Outbound, Direction::Inbound] {
        for family in [Family::Ipv4, Family::Ipv6] {
            if scene.watch.captured.get(direction, family).is_some() {
                seen.push(format!("{} {}", direction.as_str(), family.as_str()));
            }
        }
    }
    if seen.is_empty() {
        "nothing so far".to_owned()
    } else {
        seen.join(", ")
    }
}

/// Who listens on a port of the pod.
pub(super) fn listeners(scene: &Scene<'_>, port: u16) -> String {
    let Some(ns) = scene.ns else {
        return format!("port {port}: not known");
    };
    let on: Vec<String> = ns
        .on_port(port)
        .iter()
        .map(|(l, h)| {
            let both = if l.dual_stack { ", IPv4 too" } else { "" };
            format!("{} (uid {}{both})", SocketAddr::new(l.addr, port), h.uid)
        })
        .collect();
    if on.is_empty() {
        format!("port {port}: nobody")
    } else {
        format!("port {port}: {}", on.join("; "))
    }
}
