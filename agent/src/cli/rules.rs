//! Options of `sidestep agent` about reading netfilter rules.
//!
//! The programs are found by themselves where they have their usual names; a path is for an
//! image or a host that keeps them elsewhere. They are always the agent's own, never a pod's.

use std::path::PathBuf;

use clap::{Args, value_parser};
use serde::Serialize;

use crate::engine::RulesSource;

/// Programs that print rules, and how often they are asked.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Reading rules")]
pub struct RulesOptions {
    /// Program that prints iptables-legacy rules, IPv4; found by its name if not given.
    #[arg(long, env = "SIDESTEP_IPTABLES_LEGACY_SAVE", value_name = "PATH")]
    pub iptables_legacy_save: Option<PathBuf>,

    /// Program that prints iptables-legacy rules, IPv6.
    #[arg(long, env = "SIDESTEP_IP6TABLES_LEGACY_SAVE", value_name = "PATH")]
    pub ip6tables_legacy_save: Option<PathBuf>,

    /// Program that prints iptables-nft rules, IPv4.
    #[arg(long, env = "SIDESTEP_IPTABLES_NFT_SAVE", value_name = "PATH")]
    pub iptables_nft_save: Option<PathBuf>,

    /// Program that prints iptables-nft rules, IPv6.
    #[arg(long, env = "SIDESTEP_IP6TABLES_NFT_SAVE", value_name = "PATH")]
    pub ip6tables_nft_save: Option<PathBuf>,

    /// Program that prints nftables rules.
    #[arg(long, env = "SIDESTEP_NFT", value_name = "PATH")]
    pub nft: Option<PathBuf>,

    /// Program that prints sets of ipset, where rules name some.
    #[arg(long, env = "SIDESTEP_IPSET", value_name = "PATH")]
    pub ipset: Option<PathBuf>,

    /// Seconds between two readings of a pod's rules that nothing asked for.
    ///
    /// Where the kernel does not tell of changes they are looked at every 5 seconds. Either grows
    /// on nodes with many pods, so that it takes at most a hundredth of a processor.
    #[arg(
        long, env = "SIDESTEP_RULES_EVERY", value_name = "SECS", default_value_t = 60,
        value_parser = value_parser!(u32).range(1..=86_400)
    )]
    pub rules_every: u32,
}

impl RulesOptions {
    /// The programs given.
    #[must_use]
    pub fn programs(&self) -> Vec<(RulesSource, PathBuf)> {
        let given = [
            &self.iptables_legacy_save,
            &self.ip6tables_legacy_save,
            &self.iptables_nft_save,
            &self.ip6tables_nft_save,
            &self.nft,
            &self.ipset,
        ];
        let all = RulesSource::ALL.into_iter().zip(given);
        all.filter_map(|(source, path)| Some((source, path.clone()?)))
            .collect()
    }
}
