//! Where the kernel would send packets with a mark: asked in the namespace they are sent from.
//!
//! The kernel's own answer counts, whatever rules and tables it comes from. Only where they would leave
//! it is asked as well whether any routing rule is about the mark, so that a person knows what is missing.

use std::{io, net::IpAddr, path::PathBuf};

use super::{
    enter,
    rtnl::{Route, Rtnl},
};
use crate::model::{MarkedEnds, MarkedWay, NetnsId};

/// Answers a question; `None` if the namespace is gone or does not say.
pub(super) fn of(asked: MarkedEnds, places: &[(NetnsId, PathBuf)]) -> Option<MarkedWay> {
    let place = places.iter().find(|(netns, _)| *netns == asked.netns)?;
    let found = enter::visit(std::slice::from_ref(place), |_| look(asked)).pop();
    let (_, found) = found?;
    found
        .inspect_err(|error| tracing::debug!(%error, "the way of marked packets is not known"))
        .ok()
}

fn look(asked: MarkedEnds) -> io::Result<MarkedWay> {
    let rtnl = Rtnl::open()?;
    let mut way = MarkedWay {
        netns: asked.netns,
        mark: asked.mark,
        leaves: None,
        table: None,
    };
    way.leaves = match rtnl.marked(asked.from, asked.to, asked.mark)? {
        Route::Here => return Ok(way),
        Route::Out { index, .. } => Some(rtnl.link(index)?.name),
        Route::Nowhere => Some(String::new()),
    };
    way.table = rtnl.table_for(asked.mark, matches!(asked.to, IpAddr::V6(_)))?;
    Ok(way)
}
