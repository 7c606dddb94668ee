//! The deep probe: what the kernel drops of a few addresses, attached while somebody watches.
//!
//! It would run for every packet that any namespace drops, so it is not attached in the steady
//! state. Whether it works here is found out at start by attaching it for a moment. Reasons
//! are numbers whose meaning differs between kernels: their names come from the running one's
//! types, read when the first is needed. Where there are no reasons the function says it, and its name
//! is in the kernel's list of symbols. Both are long: a thread of its own reads them, and what was dropped
//! waits for its names. Where CPU is short that takes seconds, in which nothing else may be late.
//!
//! Its link is a descriptor of this process: when the agent ends, however it does, it is detached.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader},
    mem,
    net::IpAddr,
    thread::{self, JoinHandle},
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{RawTracePoint, raw_trace_point::RawTracePointLinkId},
};
use sidestep_abi::{self as abi, DropKey};
use tracing::debug;

use super::{
    ProbeError,
    btf::Types,
    decode,
    load::{chain, raw_tracepoint},
};
use crate::model::{LostPackets, NetnsId, Part, SignalCoverage};

const TARGET: &str = "kfree_skb";
/// Variants, best first: with the kernel's reason, and without.
const PROGRAMS: [&str; 2] = ["drops_reason_raw_tp", "drops_raw_tp"];
/// Where the kernel describes them, and how their names begin.
const REASONS: &str = "skb_drop_reason";
const PREFIX: &str = "SKB_DROP_REASON_";
/// Functions whose names are remembered.
const MAX_FUNCTIONS: usize = 256;
/// Size of a key.
const KEY: usize = size_of::<DropKey>();

/// The probe, attached or not.
pub(super) struct Drops {
    program: Result<&'static str, String>,
    link: Option<RawTracePointLinkId>,
    watched: BTreeSet<IpAddr>,
    reasons: Option<BTreeMap<u32, String>>,
    functions: BTreeMap<u64, Option<String>>,
    reading: Option<JoinHandle<Names>>,
    /// What waits for its names.
    unnamed: Vec<(DropKey, u64)>,
}

/// What a thread reads: reasons, if they were asked for, and functions.
struct Names {
    reasons: Option<BTreeMap<u32, String>>,
    functions: BTreeMap<u64, Option<String>>,
}

impl Drops {
    /// Finds out which variant works here; leaves nothing attached.
    pub(super) fn new(ebpf: &mut Ebpf) -> Self {
        let mut reasons = Vec::new();
        let program = PROGRAMS.into_iter().find(|name| {
            let tried = load_program(ebpf, name)
                .and_then(|program| program.attach(TARGET).map_err(|e| chain(&e)).map(drop));
            // The link it returned is kept by the program until it is detached.
            let detached = detach_all(ebpf, name, tried.is_err());
            let result = tried.and(detached);
            reasons.extend(result.as_ref().err().cloned());
            result.is_ok()
        });
        Self {
            program: program.ok_or_else(|| reasons.join("; ")),
            link: None,
            watched: BTreeSet::new(),
            reasons: None,
            functions: BTreeMap::new(),
            reading: None,
            unnamed: Vec::new(),
        }
    }

    /// Watches these addresses and no others; attached only while there are any.
    pub(super) fn watch(&mut self, ebpf: &mut Ebpf, addresses: &BTreeSet<IpAddr>) {
        let Ok(name) = self.program else { return };
        if *addresses == self.watched {
            return;
        }
        if let Err(reason) = self.set(ebpf, addresses) {
            debug!(reason, "addresses cannot be watched for drops");
        }
        if addresses.is_empty() {
            if let (Some(link), Ok(program)) = (self.link.take(), raw_tracepoint(ebpf, name)) {
                // Failing means that it is detached already.
                let _ = program.detach(link);
            }
        } else if self.link.is_none() {
            let attached = raw_tracepoint(ebpf, name)
                .and_then(|program| program.attach(TARGET).map_err(|error| chain(&error)));
            match attached {
                Ok(link) => self.link = Some(link),
                Err(reason) => debug!(reason, "drops cannot be watched"),
            }
        }
    }

    fn set(&mut self, ebpf: &mut Ebpf, addresses: &BTreeSet<IpAddr>) -> Result<(), String> {
        let map = ebpf.map_mut("WATCHED").ok_or("no map WATCHED")?;
        let mut map: HashMap<&mut MapData, [u32; 4], u32> =
            map.try_into().map_err(|e| chain(&e))?;
        for gone in self.watched.difference(addresses) {
            // Not there is what is wanted.
            let _ = map.remove(&words(*gone));
        }
        self.watched = addresses.clone();
        for address in addresses {
            map.insert(words(*address), 1, 0).map_err(|e| chain(&e))?;
        }
        Ok(())
    }

    /// What was dropped since the last call.
    ///
    /// # Errors
    /// [`ProbeError`] if the map cannot be read.
    pub(super) fn take(&mut self, ebpf: &mut Ebpf) -> Result<Vec<LostPackets>, ProbeError> {
        if self.link.is_none() && self.watched.is_empty() && self.unnamed.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |reason: String| ProbeError::Object { reason };
        let map = ebpf.map_mut("DROPS");
        let map = map.ok_or_else(|| failed("no map DROPS".to_owned()))?;
        let mut map: HashMap<&mut MapData, [u8; KEY], u64> =
            map.try_into().map_err(|e| failed(chain(&e)))?;
        let keys: Vec<[u8; KEY]> = map.keys().filter_map(Result::ok).collect();
        let mut found = mem::take(&mut self.unnamed);
        for bytes in keys {
            let count = map.get(&bytes, 0).unwrap_or_default();
            // Counted between the two calls: at most a packet or two.
            let _ = map.remove(&bytes);
            if let Ok(key) = DropKey::from_bytes(&bytes) {
                found.push((key, count));
            }
        }
        if !self.are_named(&found) {
            self.unnamed = found;
            return Ok(Vec::new());
        }
        Ok(found.iter().map(|(key, n)| self.decode(key, *n)).collect())
    }

    /// Whether all names are known, as far as they can be; what is not is read meanwhile.
    fn are_named(&mut self, found: &[(DropKey, u64)]) -> bool {
        if let Some(read) = self.reading.take_if(|reading| reading.is_finished()) {
            // Nobody asks again for what could not be read.
            let names = read.join().unwrap_or_else(|_| Names::none(found));
            self.reasons = self.reasons.take().or(names.reasons);
            self.functions.extend(names.functions);
        }
        if self.reading.is_some() {
            return false;
        }
        let reasons = self.reasons.is_none() && found.iter().any(|(key, _)| key.reason != 0);
        let is_known = |place: &u64| self.functions.contains_key(place);
        let places = found.iter().map(|(key, _)| key.location);
        let unknown: BTreeSet<u64> = places.filter(|place| !is_known(place)).collect();
        if !reasons && (unknown.is_empty() || self.functions.len() >= MAX_FUNCTIONS) {
            return true;
        }
        let read = move || Names::read(reasons, &unknown);
        let thread = thread::Builder::new().name("names".to_owned());
        self.reading = thread.spawn(read).ok();
        // Better unnamed than never.
        self.reading.is_none()
    }

    fn decode(&self, key: &DropKey, packets: u64) -> LostPackets {
        let reason = self.reasons.as_ref().and_then(|all| all.get(&key.reason));
        let unnamed = || (key.reason != 0).then(|| format!("reason {:#x}", key.reason));
        let (local, remote) = decode::ends(key.family, key.local, key.remote, key.remote_port);
        LostPackets {
            local,
            remote,
            direction: decode::direction(key.direction),
            part: match key.tcp_flags {
                abi::TCP_SYN => Part::Syn,
                flags if flags & abi::TCP_SYN != 0 => Part::SynAck,
                _ => Part::Later,
            },
            netns: (key.netns != 0).then_some(NetnsId(key.netns)),
            reason: reason
                .map(|name| name.strip_prefix(PREFIX).unwrap_or(name).to_owned())
                .or_else(unnamed),
            function: self.functions.get(&key.location).cloned().flatten(),
            packets,
        }
    }

    /// Its place in coverage.
    pub(super) fn coverage(&self) -> SignalCoverage {
        SignalCoverage {
            signal: "drops".to_owned(),
            variant: self.program.is_ok().then(|| "raw_tracepoint".to_owned()),
            target: TARGET.to_owned(),
            without_it:
                "why packets of a connection that is not answered were dropped, other than \
                         by a rule, is not known"
                    .to_owned(),
            reason: self.program.clone().err().unwrap_or_default(),
            required: false,
            idle: false,
        }
    }
}

impl Names {
    fn read(reasons: bool, places: &BTreeSet<u64>) -> Self {
        let of_kernel = || Types::kernel().map(|types| types.values(REASONS));
        let names = Self {
            reasons: reasons.then(|| of_kernel().unwrap_or_default()),
            functions: functions(places),
        };
        super::memory::give_back_memory();
        names
    }

    fn none(found: &[(DropKey, u64)]) -> Self {
        Self {
            reasons: Some(BTreeMap::new()),
            functions: found.iter().map(|(key, _)| (key.location, None)).collect(),
        }
    }
}

fn load_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut RawTracePoint, String> {
    let program = raw_tracepoint(ebpf, name)?;
    program.load().map_err(|error| chain(&error))?;
    Ok(program)
}

/// Detaches what was tried, and unloads what did not work.
fn detach_all(ebpf: &mut Ebpf, name: &str, unload: bool) -> Result<(), String> {
    let program = raw_tracepoint(ebpf, name)?;
    // Unloading drops its links, too; it is loaded again where it is used.
    let _ = program.unload();
    if unload {
        return Ok(());
    }
    program.load().map_err(|error| chain(&error))
}

fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(v6.octets().chunks_exact(4)) {
                *word = bytes.try_into().map_or(0, u32::from_ne_bytes);
            }
            words
        }
    }
}

/// Names of the functions that these places are in, by one pass over the kernel's symbols.
fn functions(places: &BTreeSet<u64>) -> BTreeMap<u64, Option<String>> {
    let mut nearest: BTreeMap<u64, (u64, Option<String>)> =
        places.iter().map(|place| (*place, (0, None))).collect();
    if places.is_empty() {
        return BTreeMap::new();
    }
    let file = File::open("/proc/kallsyms").map(BufReader::new);
    for line in file
        .into_iter()
        .flat_map(BufReader::lines)
        .map_while(Result::ok)
    {
        let mut parts = line.split_ascii_whitespace();
        let at = parts
            .next()
            .and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let (Some(at), Some("t" | "T" | "w" | "W"), Some(name)) = (at, parts.next(), parts.next())
        else {
            continue;
        };
        // Zero is what the kernel shows to those who may not know.
        for (_, found) in nearest.range_mut(at..).filter(|_| at != 0) {
            if at >= found.0 {
                *found = (at, Some(name.to_owned()));
            }
        }
    }
    let names = nearest.into_iter();
    names.map(|(place, (_, name))| (place, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_what_the_packet_says() {
        let four = words(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(four[0].to_ne_bytes(), [10, 0, 0, 1]);
        let six: IpAddr = std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into();
        let words = words(six);
        assert_eq!(words[0].to_ne_bytes(), [0xfd, 0, 0, 0]);
        assert_eq!(words[3].to_ne_bytes(), [0, 0, 0, 1]);
    }

    #[test]
    fn this_kernel_names_its_reasons() -> Result<(), ProbeError> {
        let names = Types::kernel()?.values(REASONS);
        // Before 5.17 there are none.
        let netfilter = names
            .values()
            .any(|name| name == "SKB_DROP_REASON_NETFILTER_DROP");
        assert!(names.is_empty() || netfilter, "{names:?}");
        Ok(())
    }
}
