//! How a pod's packets pass the node: asked of the kernel, on both sides of the pod's interface.
//!
//! Two visits of a millisecond: in the pod, which interface leads to the address and where its
//! other end is; there, by which interfaces rules see the packets, and where the kernel's own
//! routing would send them. Only asked where a pod's connections are not answered. What is not
//! certain is left out: nothing may be blamed on a namespace that the packets do not pass.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use super::{
    enter,
    rtnl::{Route, Rtnl},
};
use crate::model::{Leaves, NetnsId, PacketEnds, Passage, Through};

/// Kinds of interfaces whose other end is in another namespace, and whose packets come in there.
const PAIRS: [&str; 2] = ["veth", "netkit"];

/// The other end of a pod's interface.
struct End {
    node: NetnsId,
    index: u32,
    gateway: Option<IpAddr>,
}

/// Answers a question. `places` are all namespaces, the likeliest other end first.
pub(super) fn of(asked: PacketEnds, places: &[(NetnsId, PathBuf)]) -> Passage {
    let through = || {
        let pod = places.iter().find(|(netns, _)| *netns == asked.netns)?;
        let end = visit(pod, || other_end(asked, places))?;
        let node = places.iter().find(|(netns, _)| *netns == end.node)?;
        visit(node, || through(asked, &end))
    };
    Passage {
        netns: asked.netns,
        to: asked.to,
        through: through(),
    }
}

fn visit<T: Send>(
    place: &(NetnsId, PathBuf),
    look: impl Fn() -> io::Result<Option<T>> + Sync,
) -> Option<T> {
    let (_, found) = enter::visit(std::slice::from_ref(place), |_| look()).pop()?;
    found
        .inspect_err(|error| tracing::debug!(%error, "the way of packets is not known"))
        .ok()
        .flatten()
}

/// In the pod: where the interface ends by which the packets leave.
fn other_end(asked: PacketEnds, places: &[(NetnsId, PathBuf)]) -> io::Result<Option<End>> {
    let rtnl = Rtnl::open()?;
    let Route::Out { index, gateway } = rtnl.route(asked.from, asked.to, None)? else {
        return Ok(None);
    };
    let link = rtnl.link(index)?;
    let paired = link.kind.is_some_and(|kind| PAIRS.contains(&kind.as_str()));
    let Some((index, number)) = link.peer.filter(|_| paired) else {
        return Ok(None);
    };
    for (netns, path) in places.iter().filter(|(netns, _)| *netns != asked.netns) {
        // It may be gone by now.
        let Ok(file) = File::open(path) else { continue };
        let same = |meta: fs::Metadata| meta.ino() == u64::from(netns.0);
        if file.metadata().is_ok_and(same) && rtnl.number_of(&file)? == Some(number) {
            let node = *netns;
            return Ok(Some(End {
                node,
                index,
                gateway,
            }));
        }
    }
    Ok(None)
}

/// On the node: by which interfaces its rules see the packets.
fn through(asked: PacketEnds, end: &End) -> io::Result<Option<Through>> {
    let rtnl = Rtnl::open()?;
    let (mut index, mut link) = (end.index, rtnl.link(end.index)?);
    if let Some(master) = link.master {
        (index, link) = (master, rtnl.link(master)?);
        if link.kind.as_deref() != Some("bridge") {
            return Ok(None);
        }
        let routed = match end.gateway {
            Some(gateway) => rtnl.route(asked.from, gateway, None).ok() == Some(Route::Here),
            None => rtnl.route(asked.from, asked.to, Some(index)).ok() == Some(Route::Here),
        };
        if !routed {
            // From port to port, and rules for IP see it only where they are asked to.
            return Ok(bridged_is_seen(asked.to).then(|| Through {
                node: end.node,
                came_in: link.name.clone(),
                leaves: Leaves::By(link.name),
            }));
        }
    }
    let leaves = match rtnl.route(asked.from, asked.to, Some(index)) {
        Ok(Route::Here) => Leaves::Here,
        Ok(Route::Out { index, .. }) => Leaves::By(rtnl.link(index)?.name),
        Ok(Route::Nowhere) | Err(_) => Leaves::NotKnown,
    };
    Ok(Some(Through {
        node: end.node,
        came_in: link.name,
        leaves,
    }))
}

/// Whether rules for IP see what a bridge passes on (module `br_netfilter`).
fn bridged_is_seen(to: IpAddr) -> bool {
    let file = match to {
        IpAddr::V4(_) => "/proc/sys/net/bridge/bridge-nf-call-iptables",
        IpAddr::V6(_) => "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
    };
    fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
}
