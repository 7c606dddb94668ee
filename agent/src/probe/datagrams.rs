//! Flows over UDP, rewritten destinations and namespaces that wait: taken out of their maps once a
//! second, not subtracted.
//!
//! The maps are small and their entries rarely the same twice (a resolver, now and then), so
//! whoever reads an entry removes it. Must never block for longer than one read takes.

use aya::maps::{Map, MapData};
use std::os::fd::AsFd as _;

use super::{ProbeError, sys};

/// Entries per system call: the whole map of flows over UDP.
pub(super) const ROOM: usize = 1_024;
/// The same of rewritten destinations.
pub(super) const REWRITES: usize = 512;

/// A map out of which is taken what it counted.
pub(super) struct Taker<K, V> {
    name: &'static str,
    map: MapData,
    keys: Vec<K>,
    values: Vec<V>,
    /// Entries at the last look.
    pub(super) len: usize,
}

impl<K: Copy + Default, V: Copy + Default> Taker<K, V> {
    /// Takes over the hash map of the object.
    ///
    /// # Errors
    /// [`ProbeError::Object`] if it is no hash map.
    pub(super) fn new(
        map: Option<Map>,
        name: &'static str,
        room: usize,
    ) -> Result<Self, ProbeError> {
        let Some(Map::HashMap(map)) = map else {
            return Err(ProbeError::Object {
                reason: format!("no hash map {name}"),
            });
        };
        Ok(Self {
            name,
            map,
            keys: vec![K::default(); room],
            values: vec![V::default(); room],
            len: 0,
        })
    }

    /// Takes out what was counted since the last call.
    ///
    /// # Errors
    /// [`ProbeError::System`] if the map cannot be read.
    pub(super) fn take<T>(&mut self, decode: impl Fn(&K, &V) -> T) -> Result<Vec<T>, ProbeError> {
        let mut out = Vec::new();
        let (mut cursor, mut first) = (0_u64, true);
        loop {
            let fd = self.map.fd().as_fd();
            let (keys, values) = (&mut self.keys, &mut self.values);
            let batch = sys::take_batch(fd, first, &mut cursor, keys, values);
            let batch = batch.map_err(|source| ProbeError::System {
                what: format!("cannot read the map {}", self.name),
                source,
            })?;
            let read = self.keys.iter().zip(&self.values).take(batch.count);
            out.extend(read.map(|(key, value)| decode(key, value)));
            first = false;
            if batch.done {
                break;
            }
        }
        self.len = out.len();
        Ok(out)
    }
}
