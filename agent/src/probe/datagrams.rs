//! Flows over UDP: taken out of their map once a second, not subtracted.
//!
//! The map is small and its entries are rarely the same twice (a resolver, now and then), so
//! whoever reads an entry removes it. Must never block for longer than one read takes.

use aya::maps::{Map, MapData};
use sidestep_abi::{DatagramValue, EdgeKey};
use std::os::fd::AsFd as _;

use super::{ProbeError, decode, sys};
use crate::model::Datagrams;

/// Entries per system call: the whole map.
pub(super) const ROOM: usize = 1_024;

/// The map of flows over UDP.
pub(super) struct DatagramReader {
    map: MapData,
    keys: Vec<EdgeKey>,
    values: Vec<DatagramValue>,
    /// Entries at the last look.
    pub(super) len: usize,
}

impl DatagramReader {
    /// Takes over the hash map of the object.
    ///
    /// # Errors
    /// [`ProbeError::Object`] if it is no hash map.
    pub(super) fn new(map: Option<Map>) -> Result<Self, ProbeError> {
        let Some(Map::HashMap(map)) = map else {
            return Err(ProbeError::Object {
                reason: "no hash map DATAGRAMS".into(),
            });
        };
        Ok(Self {
            map,
            keys: vec![EdgeKey::default(); ROOM],
            values: vec![DatagramValue::default(); ROOM],
            len: 0,
        })
    }

    /// Takes out what was counted since the last call.
    ///
    /// # Errors
    /// [`ProbeError::System`] if the map cannot be read.
    pub(super) fn take(&mut self) -> Result<Vec<Datagrams>, ProbeError> {
        let mut out = Vec::new();
        let (mut cursor, mut first) = (0_u64, true);
        loop {
            let fd = self.map.fd().as_fd();
            let (keys, values) = (&mut self.keys, &mut self.values);
            let batch = sys::take_batch(fd, first, &mut cursor, keys, values);
            let batch = batch.map_err(|source| ProbeError::System {
                what: "cannot read the map of flows over UDP".into(),
                source,
            })?;
            let read = self.keys.iter().zip(&self.values).take(batch.count);
            out.extend(read.map(|(key, value)| decode::datagrams(key, value)));
            first = false;
            if batch.done {
                break;
            }
        }
        self.len = out.len();
        Ok(out)
    }
}
