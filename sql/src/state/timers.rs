//! Keys by when they are over.

use std::collections::{BTreeMap, BTreeSet};

/// About what a set and a map need for an entry, beside the key's bytes.
const ENTRY: usize = 48;

/// Keys that have an event time, in the order of those times.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeMap<i64, BTreeSet<Box<[u8]>>>,
    memory: usize,
}

impl Timers {
    pub(super) fn insert(&mut self, time: i64, key: &[u8]) {
        let keys = self.by_time.entry(time).or_default();
        if !keys.contains(key) && keys.insert(key.into()) {
            self.memory += key.len() + ENTRY;
        }
    }

    pub(super) fn remove(&mut self, time: i64, key: &[u8]) {
        let Some(keys) = self.by_time.get_mut(&time) else {
            return;
        };
        if keys.remove(key) {
            self.memory = self.memory.saturating_sub(key.len() + ENTRY);
        }
        if keys.is_empty() {
            self.by_time.remove(&time);
        }
    }

    /// Keys that are over at this time: by time, and by key within one.
    pub(super) fn over(&self, time: i64) -> Vec<Box<[u8]>> {
        let keys = self.by_time.range(..=time);
        keys.flat_map(|(_, keys)| keys.iter().cloned()).collect()
    }

    /// Bytes, about.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }
}
