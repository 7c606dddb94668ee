//! `sidestep why`: one connection of a pod, explained: what is wanted, what the live rules do, what was seen.
//!
//! The answer stands in the first lines; the facts follow in the order in which a person doubts them. Everything is the
//! agent's answer in words: nothing is concluded here.

mod answer;

use clap::{ArgGroup, Args};

pub(super) use self::answer::{Reading, reading, report};
use super::{
    Exit, Fault,
    client::AgentUrl,
    findings::json,
    pod_name::PodName,
    text::{self, Style},
};
use crate::{
    output::api::pod::{self, WhyPage, WhyQuery},
    rules::Protocol,
};

/// Options of `sidestep why`.
#[derive(Debug, Args)]
#[command(
    override_usage = "sidestep why <POD> --to <ADDRESS:PORT> [--uid <UID>] [--gid <GID>] [--udp]\n       sidestep why <POD> --from <ADDRESS> --port <PORT> [--udp]",
    group = ArgGroup::new("form").args(["json", "wide"]),
    after_help = "Examples:\n  sidestep why shop/cart-1 --to 10.96.0.20:8080\n  sidestep why cart-1 --to [fd00::20]:443 --uid 1337 --gid 1337\n  sidestep why cart-1 --from 10.0.0.7 --port 9090"
)]
pub struct Options {
    #[command(flatten)]
    pod: PodName,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    agent: AgentUrl,
    /// The agent's answer as JSON, for machines.
    #[arg(long)]
    json: bool,
    /// Do not wrap lines to the terminal's width.
    #[arg(long, short)]
    wide: bool,
}

/// One connection, as a person names it.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("connection").args(["to", "from"]).required(true))]
pub(super) struct Asked {
    /// A connection that the pod makes: its destination.
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: Option<String>,
    /// A connection that the pod gets: its peer.
    #[arg(long, value_name = "ADDRESS", requires = "port")]
    from: Option<String>,
    /// The pod's port it comes in at.
    #[arg(long, requires = "from", conflicts_with = "to", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// User of the socket; without it that of the latest such connection, or one that is not the proxy's.
    #[arg(long, conflicts_with = "from")]
    uid: Option<u32>,
    /// Group of the socket, likewise.
    #[arg(long, conflicts_with = "from")]
    gid: Option<u32>,
    /// Ask about UDP (rules only: Sidestep watches TCP).
    #[arg(long)]
    udp: bool,
}

impl Asked {
    /// What to ask the agent.
    ///
    /// # Errors
    /// It names no connection. The agent would refuse it too, but need not be there for that.
    pub(super) fn query(&self) -> Result<WhyQuery, Fault> {
        let query = WhyQuery {
            to: self.to.clone(),
            from: self.from.clone(),
            port: self.port,
            uid: self.uid,
            gid: self.gid,
            protocol: self.udp.then_some(Protocol::Udp),
        };
        query.ask().map_err(|(what, to_do)| {
            let place = match (&self.to, &self.from) {
                (Some(to), _) => format!("--to {to}"),
                (None, from) => format!("--from {}", from.as_deref().unwrap_or_default()),
            };
            Fault::new(Exit::Usage, what, place, to_do)
        })?;
        Ok(query)
    }
}

pub(super) fn run(options: &Options) -> anyhow::Result<Exit> {
    let query = options.asked.query()?;
    let key = options.pod.resolve(&options.agent)?;
    let page: WhyPage = options
        .agent
        .get(&pod::path(&key, "/why"), &pairs(&query))?;
    if options.json {
        text::print(&json(&page)?)?;
    } else {
        text::print(&report(&page, Style::of_stdout(options.wide)))?;
    }
    Ok(Exit::Ok)
}

/// The query's parameters.
pub(super) fn pairs(query: &WhyQuery) -> Vec<(&'static str, String)> {
    let numbers = [("uid", query.uid), ("gid", query.gid)];
    let mut pairs: Vec<(&'static str, String)> = Vec::new();
    pairs.extend(query.to.clone().map(|to| ("to", to)));
    pairs.extend(query.from.clone().map(|from| ("from", from)));
    pairs.extend(query.port.map(|port| ("port", port.to_string())));
    for (name, value) in numbers {
        pairs.extend(value.map(|value| (name, value.to_string())));
    }
    pairs.extend(
        query
            .protocol
            .map(|protocol| ("protocol", protocol.as_str().to_owned())),
    );
    pairs
}

#[cfg(test)]
mod tests;
