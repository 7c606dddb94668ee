//! A BPF hook inside connect(2) of a pod, as load balancers that work at sockets attach one.
//!
//! The program is a handful of instructions, put into an object file here: so a scenario says
//! from where to where it rewrites, and no compiler is needed on the machine that runs it. It is
//! attached by a link, which the kernel drops with the harness, however that ends.
//!
//! It must never be attached to a cgroup that is not the scenario's own.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use aya::Ebpf;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use object::write::{Object, StandardSection, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

/// Places in `struct bpf_sock_addr`.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;

/// Instruction codes.
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x63;
const MOVE_IMMEDIATE: u8 = 0xb4;
const JUMP_IF_OTHER: u8 = 0x56;
const MOVE_RESULT: u8 = 0xb7;
const EXIT: u8 = 0x95;

/// A hook that stands, until dropped.
#[derive(Debug)]
pub(crate) struct Hook {
    _loaded: Ebpf,
}

/// Attaches a hook to a cgroup: every connection is allowed, and one to the first address, if
/// there is one, goes to the second.
pub(crate) fn attach(cgroup: &Path, change: Option<(SocketAddr, SocketAddr)>) -> Result<Hook> {
    let six = change.is_some_and(|(from, _)| from.is_ipv6());
    let section = ["cgroup/connect4", "cgroup/connect6"][usize::from(six)];
    let mut loaded = Ebpf::load(&object(section, &program(change)?)?)?;
    let program = loaded.program_mut("hook").context("no program in it")?;
    let program: &mut CgroupSockAddr = program.try_into()?;
    program.load()?;
    let directory = File::open(cgroup)?;
    // A link always stands beside others, and is refused where that is said as well.
    program
        .attach(directory, CgroupAttachMode::Single)
        .with_context(|| format!("cannot attach a hook to {}", cgroup.display()))?;
    Ok(Hook { _loaded: loaded })
}

/// `offset` and `immediate` of one instruction; `registers` is the source in the high half,
/// the destination in the low.
fn instruction(code: u8, registers: u8, offset: i16, immediate: u32) -> [u8; 8] {
    let [a, b] = offset.to_le_bytes();
    let [c, d, e, f] = immediate.to_le_bytes();
    [code, registers, a, b, c, d, e, f]
}

/// The words of an address and port as they lie in the hook's argument, with their places.
fn words(addr: SocketAddr) -> Vec<(i16, u32)> {
    let mut words: Vec<(i16, u32)> = match addr.ip() {
        IpAddr::V4(ip) => vec![(USER_IP4, u32::from_ne_bytes(ip.octets()))],
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let (four, _) = octets.as_chunks::<4>();
            let places = (0..).map(|word| USER_IP6 + 4 * word);
            let four = four.iter().map(|bytes| u32::from_ne_bytes(*bytes));
            places.zip(four).collect()
        }
    };
    words.push((USER_PORT, addr.port().to_be().into()));
    words
}

fn program(change: Option<(SocketAddr, SocketAddr)>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if let Some((from, to)) = change {
        let (from, to) = (words(from), words(to));
        // What is left of the body when a comparison fails: jumped over.
        let mut left = i16::try_from(2 * from.len() + 2 * to.len())?;
        for (place, word) in from {
            body.extend(instruction(LOAD_WORD, 0x12, place, 0));
            left -= 2;
            body.extend(instruction(JUMP_IF_OTHER, 0x02, left, word));
        }
        for (place, word) in to {
            body.extend(instruction(MOVE_IMMEDIATE, 0x02, 0, word));
            body.extend(instruction(STORE_WORD, 0x21, place, 0));
        }
    }
    body.extend(instruction(MOVE_RESULT, 0x00, 0, 1));
    body.extend(instruction(EXIT, 0, 0, 0));
    Ok(body)
}

fn object(section: &str, program: &[u8]) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"Apache-2.0\0", 1);
    // The section of ordinary code is expected to be there.
    let _ = object.section_id(StandardSection::Text);
    let code = object.add_section(Vec::new(), section.as_bytes().to_vec(), SectionKind::Text);
    object.append_section_data(code, program, 8);
    object.add_symbol(Symbol {
        name: b"hook".to_vec(),
        value: 0,
        size: u64::try_from(program.len())?,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(code),
        flags: SymbolFlags::None,
    });
    object
        .write()
        .map_err(|error| anyhow!("cannot write an object: {error}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]
mod tests {
    use super::*;

    #[test]
    fn a_failed_comparison_jumps_to_the_end() {
        for addr in ["10.0.0.1:80", "[fd00::1]:80"] {
            let addr = addr.parse().unwrap();
            let code = program(Some((addr, addr))).unwrap();
            let (all, _) = code.as_chunks::<8>();
            for (at, [code, _, low, high, ..]) in all.iter().enumerate() {
                if *code == JUMP_IF_OTHER {
                    let to = at + 1 + usize::from(u16::from_le_bytes([*low, *high]));
                    assert_eq!(all[to][0], MOVE_RESULT, "{at} jumps to {to}");
                }
            }
        }
    }
}
