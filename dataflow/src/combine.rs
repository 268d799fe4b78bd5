//! Rows of equal keys merged in a table. The table uses the key's own `Hash` and `Eq`, so a row costs no encoding; a key is encoded once, when it
//! comes in, to weigh it. When the weight passes the spill threshold the table goes to disk as a sorted run.
//!
//! What comes out is in the order in which keys were first seen, or, after a spill, in the order of their canonical bytes. Whether it spills, and
//! where, depends on the rows alone: weights are encoded sizes plus a constant an entry, taken at fixed points.

use std::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use millstream_common::{
    codec,
    failure::Failure,
    key::encode_key,
    routing::{self, PartitionCount},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    detach::{Detacher, may_share},
    held::Held,
    runs::{MAX_RUNS, Merge, Run, RunWriter},
    task::{Task, codec_failure},
};

/// A key of keyed operators.
pub trait Key: Hash + Eq + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<K: Hash + Eq + Serialize + DeserializeOwned + Send + Sync + 'static> Key for K {}

/// A row's type.
pub trait Data: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Data for T {}

/// Weights are taken again when a table has seen this many merges an entry since the last time, and this many besides.
const MERGES_PER_ENTRY: usize = 16;
const MERGES_BESIDES: usize = 1 << 16;

/// What an entry weighs besides its bytes: its place in the table and what its heap blocks cost.
const ENTRY_OVERHEAD: usize = 24;

/// How a table knows what its entries weigh after merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighing {
    /// Entries stay about as large as they came (sums): all are weighed again from time to time.
    Again,
    /// The caller gives the weight of every row that it merges (lists that grow).
    Added,
}

/// How a table is set up.
pub struct TableOptions {
    /// Where what comes out goes: it is ordered by this first when it was spilled.
    pub route: Option<PartitionCount>,
    /// Where weights come from.
    pub weighing: Weighing,
    /// Rows come as slices of their chunk's buffers.
    pub detach: bool,
}

struct Entry<K, C> {
    key: K,
    // Always there between calls; merging takes it by value.
    combined: Option<C>,
}

/// Where a key's entry is. A part of the hash is kept with it, so that looking for an entry doesn't touch the entries.
struct Slot {
    hash: u32,
    at: u32,
}

const NOT_FOUND: u32 = u32::MAX;

/// Rows of a block: few enough that their entries stay in the nearest cache between passes.
const BLOCK_ROWS: usize = 64;

/// Rows of equal keys merged, in memory up to the task's spill threshold.
pub struct Table<'t, 'a, K, C> {
    task: &'t Task<'a>,
    hasher: FixedState,
    index: HashTable<Slot>,
    entries: Vec<Entry<K, C>>,
    /// Of the block that is coming in: each row's hash, and the entry that it probably belongs to.
    probes: Vec<(u64, u32)>,
    options: TableOptions,
    detacher: Detacher<(K, C)>,
    weight: u64,
    merges: usize,
    /// Merges after which entries are weighed again.
    merges_allowed: usize,
    /// Above this weight something is to be done: take more memory, or spill.
    noticed: u64,
    threshold: u64,
    held: Held<'t, 'a>,
    runs: Vec<Run>,
}

impl<'t, 'a, K: Key, C: Data> Table<'t, 'a, K, C> {
    /// An empty table.
    pub fn new(task: &'t Task<'a>, options: TableOptions) -> Self {
        let shares = options.detach && (may_share::<K>() || may_share::<C>());
        let threshold = task.services().spill_threshold();
        let held = Held::new(task);
        Self {
            task,
            hasher: FixedState::with_seed(0x6d69_6c6c),
            index: HashTable::new(),
            entries: Vec::new(),
            probes: Vec::new(),
            merges_allowed: match options.weighing {
                Weighing::Again => MERGES_BESIDES,
                Weighing::Added => usize::MAX,
            },
            options,
            detacher: Detacher::new(shares),
            weight: 0,
            merges: 0,
            noticed: threshold.min(held.room()),
            threshold,
            held,
            runs: Vec::new(),
        }
    }

    /// Brings rows in: `create` makes the combined value of a new key, `merge` merges a row into one that is there. `merge_combined` merges two
    /// combined values of a key, the earlier first, should the table be spilled. `added` is what row `i` adds to the weight under
    /// [`Weighing::Added`]; it isn't asked otherwise.
    ///
    /// Works on blocks of rows, each in passes: the first ones hash the keys, find entries by the hashes and look at them, the last compares keys and
    /// merges. So the processor waits for the memory of many rows at once, which is most of what a large table costs. Hashing is a pass of its own,
    /// as it branches by the lengths of keys: a branch that was guessed wrongly throws away what was asked for after it.
    ///
    /// # Errors
    /// When a row can't be encoded, or spilling fails.
    pub fn push<V>(
        &mut self,
        rows: &mut Vec<(K, V)>,
        added: impl Fn(usize) -> usize,
        create: impl Fn(V) -> C,
        merge: impl Fn(C, V) -> C,
        merge_combined: &dyn Fn(C, C) -> C,
    ) -> Result<(), Failure> {
        let mut probes = std::mem::take(&mut self.probes);
        let mut row = 0;
        let mut rows = rows.drain(..);
        while !rows.as_slice().is_empty() {
            let block = rows.as_slice().iter().take(BLOCK_ROWS);
            probes.clear();
            probes.extend(block.map(|(key, _)| (self.hasher.hash_one(key), NOT_FOUND)));
            for (hash, probe) in &mut probes {
                let found = self.index.find(*hash, |slot| slot.hash == *hash as u32);
                *probe = found.map_or(NOT_FOUND, |slot| slot.at);
            }
            for (_, probe) in &mut probes {
                let entry = self.entries.get(*probe as usize);
                if entry.is_none_or(|entry| entry.combined.is_none()) {
                    *probe = NOT_FOUND;
                }
            }
            // In this order: a row isn't taken when there is no probe left.
            for ((hash, probe), (key, value)) in probes.iter().zip(rows.by_ref()) {
                let added = match self.options.weighing {
                    Weighing::Again => 0,
                    Weighing::Added => added(row),
                };
                row += 1;
                let Some(at) = self.place_of(&key, *hash, *probe) else {
                    self.insert(*hash, key, create(value), added, merge_combined)?;
                    continue;
                };
                let combined = &mut self.entries[at].combined;
                if let Some(so_far) = combined.take() {
                    *combined = Some(merge(so_far, value));
                }
                self.merges += 1;
                self.weight += added as u64;
                if self.merges > self.merges_allowed || self.weight > self.noticed {
                    self.after_merges(merge_combined)?;
                }
            }
        }
        self.probes = probes;
        Ok(())
    }

    /// The key's entry. `probe` may be wrong: another key of the same hash, or one that was spilled or came in since.
    #[inline]
    fn place_of(&self, key: &K, hash: u64, probe: u32) -> Option<usize> {
        let probably = probe as usize;
        match self.entries.get(probably) {
            Some(entry) if entry.key == *key => Some(probably),
            _ => self.search(key, hash),
        }
    }

    #[cold]
    #[inline(never)]
    fn search(&self, key: &K, hash: u64) -> Option<usize> {
        let entries = &self.entries;
        let is_it = |slot: &Slot| slot.hash == hash as u32 && entries[slot.at as usize].key == *key;
        self.index.find(hash, is_it).map(|slot| slot.at as usize)
    }

    #[cold]
    #[inline(never)]
    fn insert(
        &mut self,
        hash: u64,
        key: K,
        combined: C,
        added: usize,
        merge_combined: &dyn Fn(C, C) -> C,
    ) -> Result<(), Failure> {
        let ((key, combined), size) = self.detacher.detach((key, combined))?;
        let entries = &self.entries;
        let hasher = &self.hasher;
        // The table spills long before `u32` is too small: an entry weighs `ENTRY_OVERHEAD` and more.
        let at = u32::try_from(entries.len()).unwrap_or(NOT_FOUND);
        let slot = Slot {
            hash: hash as u32,
            at,
        };
        self.index.insert_unique(hash, slot, |slot| {
            hasher.hash_one(&entries[slot.at as usize].key)
        });
        self.entries.push(Entry {
            key,
            combined: Some(combined),
        });
        if self.options.weighing == Weighing::Again {
            self.merges_allowed = MERGES_BESIDES + MERGES_PER_ENTRY * self.entries.len();
        }
        self.weight += Self::entry_weight(size) + added as u64;
        if at >= NOT_FOUND - 1 {
            return self.spill(merge_combined);
        }
        self.heed_weight(merge_combined)
    }

    /// Spills a table that is too heavy; takes memory for one that isn't yet.
    fn heed_weight(&mut self, merge_combined: &dyn Fn(C, C) -> C) -> Result<(), Failure> {
        if self.weight <= self.noticed {
            return Ok(());
        }
        if self.weight > self.threshold {
            return self.spill(merge_combined);
        }
        self.held.grow_to(self.weight)?;
        self.noticed = self.threshold.min(self.held.room());
        Ok(())
    }

    fn entry_weight(encoded: usize) -> u64 {
        (encoded + size_of::<Entry<K, C>>() + ENTRY_OVERHEAD) as u64
    }

    #[cold]
    #[inline(never)]
    fn after_merges(&mut self, merge_combined: &dyn Fn(C, C) -> C) -> Result<(), Failure> {
        if self.merges > self.merges_allowed {
            self.weigh_again()?;
            self.merges = 0;
        }
        self.heed_weight(merge_combined)
    }

    /// Weighs every entry, and detaches what merges have brought in.
    fn weigh_again(&mut self) -> Result<(), Failure> {
        self.weight = 0;
        let entries = std::mem::take(&mut self.entries);
        self.entries.reserve_exact(entries.len());
        for Entry { key, combined } in entries {
            let Some(combined) = combined else { continue };
            let ((key, combined), size) = self.detacher.detach((key, combined))?;
            self.weight += Self::entry_weight(size);
            self.entries.push(Entry {
                key,
                combined: Some(combined),
            });
        }
        Ok(())
    }

    /// Writes the table to disk as a run in order, and empties it.
    fn spill(&mut self, merge_combined: &dyn Fn(C, C) -> C) -> Result<(), Failure> {
        self.weight = 0;
        self.merges = 0;
        self.index.clear();
        if self.entries.is_empty() {
            return Ok(());
        }
        let mut entries = std::mem::take(&mut self.entries);
        // Keys' canonical bytes, one after the other.
        let mut canonical = Vec::new();
        let mut order = Vec::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            let start = canonical.len();
            encode_key(&entry.key, &mut canonical).map_err(|error| codec_failure(&error))?;
            let partition = partition_of(self.options.route, &canonical[start..]);
            order.push((partition, start, canonical.len(), at));
        }
        order
            .sort_unstable_by(|a, b| (a.0, &canonical[a.1..a.2]).cmp(&(b.0, &canonical[b.1..b.2])));
        let mut writer = RunWriter::create(self.task)?;
        let mut encoded = Vec::new();
        for (partition, start, end, at) in order {
            let entry = &mut entries[at];
            let Some(combined) = entry.combined.take() else {
                continue;
            };
            encoded.clear();
            codec::encode_into(&(&entry.key, &combined), &mut encoded)
                .map_err(|error| codec_failure(&error))?;
            writer.push(partition, &canonical[start..end], &encoded)?;
        }
        entries.clear();
        self.entries = entries;
        self.runs.push(writer.finish(self.task)?);
        if self.runs.len() >= MAX_RUNS {
            self.merge_runs(merge_combined)?;
        }
        Ok(())
    }

    fn merge_runs(&mut self, merge_combined: &dyn Fn(C, C) -> C) -> Result<(), Failure> {
        let mut merged = Merged {
            merge: Merge::new(std::mem::take(&mut self.runs))?,
            read_bytes: 0,
        };
        let mut writer = RunWriter::create(self.task)?;
        let mut encoded = Vec::new();
        while let Some((partition, key, combined)) = merged.next::<K, C>(merge_combined)? {
            self.task.check()?;
            encoded.clear();
            codec::encode_into(&(key, combined), &mut encoded)
                .map_err(|error| codec_failure(&error))?;
            writer.push(partition, merged.merge.key(), &encoded)?;
        }
        self.runs.push(writer.finish(self.task)?);
        Ok(())
    }

    /// All that came in, each key once.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(
        mut self,
        merge_combined: &dyn Fn(C, C) -> C,
    ) -> Result<Combined<'t, 'a, K, C>, Failure> {
        if self.runs.is_empty() {
            return Ok(Combined::Memory(InMemory {
                entries: self.entries.into_iter(),
                route: self.options.route,
                canonical: Vec::new(),
                _held: self.held,
            }));
        }
        self.spill(merge_combined)?;
        // A run may have more memory than the merge needs.
        let runs = std::mem::take(&mut self.runs);
        drop(self);
        Ok(Combined::Spilled(Merged {
            merge: Merge::new(runs)?,
            read_bytes: 0,
        }))
    }
}

fn partition_of(route: Option<PartitionCount>, canonical: &[u8]) -> u32 {
    match route {
        Some(partitions) => routing::Slot::of(canonical).partition(partitions),
        None => 0,
    }
}

/// What a table gives.
pub enum Combined<'t, 'a, K, C> {
    /// It never spilled.
    Memory(InMemory<'t, 'a, K, C>),
    /// It did.
    Spilled(Merged),
}

impl<K: Key, C: Data> Combined<'_, '_, K, C> {
    /// The next key with its partition and combined value.
    ///
    /// # Errors
    /// When a key can't be encoded, or a run can't be read.
    #[inline]
    pub fn next(
        &mut self,
        merge_combined: &dyn Fn(C, C) -> C,
    ) -> Result<Option<(u32, K, C)>, Failure> {
        match self {
            Self::Memory(memory) => memory.next(),
            Self::Spilled(merged) => merged.next(merge_combined),
        }
    }

    /// Encoded bytes that were read from disk so far; what comes from memory counts nothing, as it was there already.
    pub fn read_bytes(&self) -> usize {
        match self {
            Self::Memory(_) => 0,
            Self::Spilled(merged) => merged.read_bytes,
        }
    }
}

/// A table that never spilled, in the order in which keys were first seen.
pub struct InMemory<'t, 'a, K, C> {
    entries: std::vec::IntoIter<Entry<K, C>>,
    route: Option<PartitionCount>,
    canonical: Vec<u8>,
    /// Given back when the last row is gone.
    _held: Held<'t, 'a>,
}

impl<K: Key, C: Data> InMemory<'_, '_, K, C> {
    fn next(&mut self) -> Result<Option<(u32, K, C)>, Failure> {
        for Entry { key, combined } in self.entries.by_ref() {
            let Some(combined) = combined else { continue };
            if self.route.is_none() {
                return Ok(Some((0, key, combined)));
            }
            self.canonical.clear();
            encode_key(&key, &mut self.canonical).map_err(|error| codec_failure(&error))?;
            let partition = partition_of(self.route, &self.canonical);
            return Ok(Some((partition, key, combined)));
        }
        Ok(None)
    }
}

/// A table's runs, merged: ordered by partition, then by the keys' canonical bytes.
pub struct Merged {
    merge: Merge,
    read_bytes: usize,
}

impl Merged {
    fn next<K: Key, C: Data>(
        &mut self,
        merge_combined: &dyn Fn(C, C) -> C,
    ) -> Result<Option<(u32, K, C)>, Failure> {
        let mut merged: Option<(K, C)> = None;
        let read_bytes = &mut self.read_bytes;
        let partition = self.merge.next_key(|row| {
            *read_bytes += row.len();
            let ((key, later), _) =
                codec::decode::<(K, C)>(row).map_err(|error| codec_failure(&error))?;
            merged = Some(match merged.take() {
                Some((key, earlier)) => (key, merge_combined(earlier, later)),
                None => (key, later),
            });
            Ok(())
        })?;
        Ok(match (partition, merged) {
            (Some(partition), Some((key, combined))) => Some((partition, key, combined)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests;
