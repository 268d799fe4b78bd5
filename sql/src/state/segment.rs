//! A segment in memory: what one batch changed, or what several segments came to. It never changes, so whoever holds it may read it beside the tasks.

use std::sync::Arc;

use arrow::{compute::interleave_record_batch, datatypes::SchemaRef, record_batch::RecordBatch};
use hashbrown::{HashSet, HashTable, hash_table::Entry};
use millstream_common::{protocol::StateFile, routing::Slot};
use xxhash_rust::xxh3::xxh3_64;

use super::{Layout, time};
use crate::{
    error::Error,
    keys::{self, Keys},
    pool::memory_of,
};

/// A segment and the file that it is in a version of the state.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) content: Arc<Content>,
    pub(super) file: StateFile,
}

/// Rows, keys that are gone since the segments before, and where each key is.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) rows: RecordBatch,
    pub(super) keys: Keys,
    pub(super) removed: Vec<Box<[u8]>>,
    /// Event times of the rows, where keys have one.
    times: Vec<Option<i64>>,
    /// Rows by number, and past them what was removed.
    index: HashTable<u32>,
    memory: usize,
}

/// What a segment says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Row(u32),
    Gone,
}

/// A row of a list of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: usize,
    pub(super) row: u32,
}

/// Keys that are looked for at once: few enough that what they touch stays in a near cache.
const LOOKED_FOR_AT_ONCE: usize = 128;

pub(super) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

impl Content {
    /// Rows with these keys, each once, and keys that are gone.
    pub(super) fn new(
        rows: RecordBatch,
        keys: Keys,
        removed: Vec<Box<[u8]>>,
        layout: &Layout,
    ) -> Result<Self, Error> {
        let times = match layout.time {
            Some(column) => time::micros(rows.column(column).as_ref())?,
            None => Vec::new(),
        };
        let mut content = Self {
            index: HashTable::new(),
            memory: 0,
            rows,
            keys,
            removed,
            times,
        };
        content.index = content.indexed()?;
        content.memory = content.measured();
        Ok(content)
    }

    /// What a file holds.
    pub(super) fn read(
        rows: RecordBatch,
        removed: Vec<Box<[u8]>>,
        layout: &Layout,
    ) -> Result<Self, Error> {
        let keys = keys::encode(&rows.columns()[..layout.group_columns], rows.num_rows())?;
        Self::new(rows, keys, removed, layout)
    }

    /// What a run of segments comes to: of each key what the newest of them says. `is_oldest` says that nothing is before the run, so nothing is there that a
    /// removal could be of.
    pub(super) fn merged(run: &[Segment], is_oldest: bool, layout: &Layout) -> Result<Self, Error> {
        let most = run.iter().map(|segment| segment.content.weight()).sum();
        let mut seen: HashSet<&[u8]> = HashSet::with_capacity(most);
        let mut places: Vec<(u16, Place)> = Vec::with_capacity(most);
        let mut removed: Vec<Box<[u8]>> = Vec::new();
        for (number, segment) in run.iter().enumerate().rev() {
            for (row, key) in (0u32..).zip(segment.content.keys.iter()) {
                if seen.insert(key) {
                    let place = Place {
                        segment: number,
                        row,
                    };
                    places.push((Slot::of(key).get(), place));
                }
            }
            for key in &segment.content.removed {
                if seen.insert(key) && !is_oldest {
                    removed.push(key.clone());
                }
            }
        }
        drop(seen);
        places.sort_unstable_by_key(|(slot, place)| (*slot, place.segment, place.row));
        removed.sort_unstable();
        let mut keys = Keys::default();
        for (_, place) in &places {
            keys.push(run[place.segment].content.keys.get(place.row as usize));
        }
        let places: Vec<Place> = places.into_iter().map(|(_, place)| place).collect();
        let rows = gather(run, &places, &layout.schema)?;
        Self::new(rows, keys, removed, layout)
    }

    fn indexed(&self) -> Result<HashTable<u32>, Error> {
        let all = self.keys.len() + self.removed.len();
        if u32::try_from(all).is_err() {
            return Err(Error::internal(format!(
                "a state partition of {all} groups; use more partitions"
            )));
        }
        let mut index = HashTable::with_capacity(all);
        let hasher = |entry: &u32| hash(self.key(*entry));
        for (row, key) in (0u32..).zip(self.keys.iter()) {
            index.insert_unique(hash(key), row, hasher);
        }
        let first_removed = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
        for (entry, key) in (first_removed..).zip(&self.removed) {
            let is_it = |known: &u32| self.key(*known) == &key[..];
            if let Entry::Vacant(none) = index.entry(hash(key), is_it, hasher) {
                none.insert(entry);
            }
        }
        Ok(index)
    }

    fn key(&self, entry: u32) -> &[u8] {
        let entry = entry as usize;
        match entry.checked_sub(self.keys.len()) {
            None => self.keys.get(entry),
            Some(removed) => &self.removed[removed],
        }
    }

    /// What it says of these keys with their hashes. In passes: most of what a large segment costs is waiting for its memory, and each pass waits for that of
    /// all keys at once.
    fn find_all<'k>(
        &self,
        asked: impl Iterator<Item = (u64, &'k [u8])> + Clone,
        said: &mut Vec<Option<Said>>,
    ) {
        // An entry at the hash's place is the key's, but for one in some dozens.
        let probable: Vec<Option<u32>> = asked
            .clone()
            .map(|(hash, _)| self.index.find(hash, |_| true).copied())
            .collect();
        let their_keys: Vec<Option<&[u8]>> = probable
            .iter()
            .map(|entry| entry.map(|entry| self.key(entry)))
            .collect();
        said.clear();
        for ((hash, key), (entry, its_key)) in asked.zip(probable.iter().zip(their_keys)) {
            said.push(match its_key {
                Some(its_key) if its_key == key => entry.map(|entry| self.says(entry)),
                Some(_) => self.find(hash, key),
                None => None,
            });
        }
    }

    /// What it says of a key with this hash.
    fn find(&self, hash: u64, key: &[u8]) -> Option<Said> {
        let entry = self.index.find(hash, |entry| self.key(*entry) == key)?;
        Some(self.says(*entry))
    }

    fn says(&self, entry: u32) -> Said {
        match (entry as usize) < self.keys.len() {
            true => Said::Row(entry),
            false => Said::Gone,
        }
    }

    /// Rows and removals: what it costs to write it again.
    pub(super) fn weight(&self) -> usize {
        self.rows.num_rows() + self.removed.len()
    }

    pub(super) fn time(&self, row: u32) -> Option<i64> {
        self.times.get(row as usize).copied().flatten()
    }

    /// Bytes, about.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    fn measured(&self) -> usize {
        let removed = self.removed.iter();
        let removed: usize = removed.map(|key| key.len() + size_of::<Box<[u8]>>()).sum();
        let times = self.times.capacity() * size_of::<Option<i64>>();
        let index = self.index.capacity() * (size_of::<u32>() + 1);
        memory_of(&self.rows) + self.keys.memory() + removed + times + index
    }
}

/// Where the newest rows of these keys are; none for keys that aren't there or are gone.
pub(super) fn places(segments: &[Segment], keys: &[&[u8]]) -> Vec<Option<Place>> {
    let hashes: Vec<u64> = keys.iter().map(|key| hash(key)).collect();
    let mut found = vec![None; keys.len()];
    let mut left: Vec<usize> = (0..keys.len()).collect();
    let mut said = Vec::with_capacity(LOOKED_FOR_AT_ONCE);
    // Segment by segment, so that an index is in the processor's cache while it is asked.
    for (number, segment) in segments.iter().enumerate().rev() {
        let mut still_left = Vec::new();
        for some in left.chunks(LOOKED_FOR_AT_ONCE) {
            let asked = some.iter().map(|at| (hashes[*at], keys[*at]));
            segment.content.find_all(asked, &mut said);
            for (at, said) in some.iter().zip(&said) {
                match said {
                    Some(Said::Row(row)) => {
                        found[*at] = Some(Place {
                            segment: number,
                            row: *row,
                        });
                    }
                    Some(Said::Gone) => {}
                    None => still_left.push(*at),
                }
            }
        }
        left = still_left;
        if left.is_empty() {
            break;
        }
    }
    found
}

/// Rows by place.
pub(super) fn gather(
    segments: &[Segment],
    places: &[Place],
    schema: &SchemaRef,
) -> Result<RecordBatch, Error> {
    if places.is_empty() {
        return Ok(RecordBatch::new_empty(SchemaRef::clone(schema)));
    }
    let batches: Vec<&RecordBatch> = segments
        .iter()
        .map(|segment| &segment.content.rows)
        .collect();
    let indices: Vec<(usize, usize)> = places
        .iter()
        .map(|place| (place.segment, place.row as usize))
        .collect();
    Ok(interleave_record_batch(&batches, &indices)?)
}

/// Rows grouped by routing slot, in their order within each, and their keys.
pub(super) fn by_slot(rows: &RecordBatch, keys: &Keys) -> Result<(RecordBatch, Keys), Error> {
    let mut order: Vec<(u16, u32)> = (0u32..)
        .zip(keys.iter())
        .map(|(row, key)| (Slot::of(key).get(), row))
        .collect();
    order.sort_unstable();
    let mut ordered = Keys::default();
    for (_, row) in &order {
        ordered.push(keys.get(*row as usize));
    }
    let indices: arrow::array::UInt32Array = order.into_iter().map(|(_, row)| row).collect();
    let rows = arrow::compute::take_record_batch(rows, &indices)?;
    Ok((rows, ordered))
}
