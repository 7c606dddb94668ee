//! What comes after `-j` and `-g`.
//!
//! A name that is none of iptables' own targets is a chain; whether there is such a chain is known when the table is
//! complete. A target that may change the fate of a packet in a way that is not modelled is unknown, never "nothing".

use super::super::ruleset::{Action, MarkOf, SetMark, Target};
use super::numbers;
use crate::model::Family;

/// The options of a target, with their values.
#[derive(Default)]
pub(super) struct Options<'a>(Vec<(&'a str, Vec<&'a str>)>);

impl<'a> Options<'a> {
    pub(super) fn add(&mut self, name: &'a str, values: &[&'a str]) {
        self.0.push((name, values.to_vec()));
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(option, _)| *option == name)
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        let mut options = self.0.iter();
        let (_, values) = options.find(|(option, _)| *option == name)?;
        values.first().copied()
    }
}

/// The actions of a target.
pub(super) fn read(name: &str, goto: bool, options: &Options<'_>, family: Family) -> Vec<Action> {
    let target = || Target {
        chain: name.to_owned(),
        index: None,
    };
    if goto {
        return vec![Action::Goto(target())];
    }
    let known = match name {
        "ACCEPT" => Some(Action::Accept),
        "DROP" => Some(Action::Drop),
        "REJECT" => Some(Action::Reject),
        "RETURN" => Some(Action::Return),
        "REDIRECT" => redirect(options),
        "DNAT" => dnat(options, family),
        "SNAT" | "MASQUERADE" => Some(Action::SourceNat),
        "TPROXY" => return tproxy(options).unwrap_or_else(|| unknown(name)),
        "MARK" => mark(options).map(Action::SetMark),
        "CONNMARK" => connection_mark(options).map(Action::SetMark),
        "NOTRACK" => Some(Action::Notrack),
        "CT" if options.has("--notrack") => Some(Action::Notrack),
        "SET" if !options.has("--map-set") => Some(Action::Nothing),
        "QUEUE" | "NFQUEUE" | "NETMAP" | "SYNPROXY" | "CLUSTERIP" | "HMARK" | "SET" | "DNPT"
        | "SNPT" => None,
        _ if is_harmless(name) => Some(Action::Nothing),
        _ => Some(Action::Jump(target())),
    };
    known.map_or_else(|| unknown(name), |action| vec![action])
}

fn unknown(name: &str) -> Vec<Action> {
    vec![Action::Unknown(format!(
        "what `-j {name}` does here is not understood"
    ))]
}

/// Targets that let the packet go on to the next rule as it was, as far as its way is concerned.
fn is_harmless(name: &str) -> bool {
    matches!(
        name,
        "LOG"
            | "NFLOG"
            | "ULOG"
            | "TRACE"
            | "AUDIT"
            | "CT"
            | "TCPMSS"
            | "TCPOPTSTRIP"
            | "CLASSIFY"
            | "DSCP"
            | "TOS"
            | "TTL"
            | "HL"
            | "ECN"
            | "CHECKSUM"
            | "SECMARK"
            | "CONNSECMARK"
            | "IDLETIMER"
            | "RATEEST"
            | "LED"
            | "TEE"
    )
}

fn redirect(options: &Options<'_>) -> Option<Action> {
    let ports = options
        .get("--to-ports")
        .or_else(|| options.get("--to-port"));
    Some(Action::Redirect {
        ports: match ports {
            Some(text) => Some(numbers::target_ports(text)?),
            None => None,
        },
    })
}

fn dnat(options: &Options<'_>, family: Family) -> Option<Action> {
    let text = options
        .get("--to-destination")
        .or_else(|| options.get("--to"))?;
    let (addresses, ports) = numbers::destination(text, family)?;
    Some(Action::Dnat { addresses, ports })
}

fn tproxy(options: &Options<'_>) -> Option<Vec<Action>> {
    let port = numbers::number(options.get("--on-port").unwrap_or("0"))?;
    let address = match options.get("--on-ip") {
        Some(text) => Some(text.parse().ok()?),
        None => None,
    };
    let (value, mask) = numbers::masked(options.get("--tproxy-mark").unwrap_or("0/0"))?;
    Some(vec![
        Action::SetMark(set(MarkOf::Packet, value, mask)),
        Action::Tproxy {
            address: address.filter(|address| !numbers::is_any(*address)),
            port: u16::try_from(port).ok()?,
            ends: true,
        },
    ])
}

/// `(old & ~mask) ^ value`
const fn set(on: MarkOf, value: u32, mask: u32) -> SetMark {
    SetMark {
        on,
        keep: !mask,
        from: None,
        xor: value,
    }
}

/// What the targets MARK and CONNMARK have in common.
fn set_by_value(on: MarkOf, options: &Options<'_>) -> Option<SetMark> {
    let whole = |name| options.get(name).map(numbers::number);
    if let Some(text) = options.get("--set-xmark") {
        let (value, mask) = numbers::masked(text)?;
        return Some(set(on, value, mask));
    }
    if let Some(text) = options.get("--set-mark") {
        let (value, mask) = numbers::masked(text)?;
        return Some(set(on, value, mask | value));
    }
    if let Some(value) = whole("--and-mark") {
        return Some(set(on, 0, !value?));
    }
    if let Some(value) = whole("--or-mark") {
        return value.map(|value| set(on, value, value));
    }
    whole("--xor-mark")?.map(|value| set(on, value, 0))
}

fn mark(options: &Options<'_>) -> Option<SetMark> {
    set_by_value(MarkOf::Packet, options)
}

fn connection_mark(options: &Options<'_>) -> Option<SetMark> {
    let (save, restore) = (options.has("--save-mark"), options.has("--restore-mark"));
    if !save && !restore {
        return set_by_value(MarkOf::Connection, options);
    }
    let both = options.get("--mask").unwrap_or("0xffffffff");
    let packet = numbers::number(options.get("--nfmask").unwrap_or(both))?;
    let connection = numbers::number(options.get("--ctmask").unwrap_or(both))?;
    Some(if save {
        SetMark {
            on: MarkOf::Connection,
            keep: !connection,
            from: Some((MarkOf::Packet, packet)),
            xor: 0,
        }
    } else {
        SetMark {
            on: MarkOf::Packet,
            keep: !packet,
            from: Some((MarkOf::Connection, connection)),
            xor: 0,
        }
    })
}
