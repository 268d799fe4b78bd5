//! From a key to the partition that owns it. The rule is part of the checkpoint format, so it never changes
//! under one [`ROUTING_VERSION`]:
//!
//! 1. hash the key's canonical bytes ([`crate::key`]) with xxh3-64, seed 0;
//! 2. the slot is the hash's highest 12 bits (`hash >> 52`), one of 4,096;
//! 3. the partition is `slot * partitions / 4096`, so a partition owns one contiguous run of slots, and
//!    partitions can later be split or merged along slots.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

use crate::key;

/// Number of slots, and so the most partitions a shuffle or a state store can have.
pub const MAX_PARTITIONS: u32 = 4096;

/// Version of the whole rule: canonical key bytes, hash, slots and partitions. It stands in the checkpoint.
pub const ROUTING_VERSION: u32 = 1;

const SLOT_SHIFT: u32 = u64::BITS - MAX_PARTITIONS.trailing_zeros();

/// What can be wrong with a partition count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{count} partitions asked for: a shuffle has at least 1 and at most {MAX_PARTITIONS}")]
pub struct CountError {
    /// The count asked for.
    pub count: u32,
}

/// A number of partitions between 1 and [`MAX_PARTITIONS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct PartitionCount(u32);

impl PartitionCount {
    /// One partition: everything goes to it.
    pub const ONE: PartitionCount = PartitionCount(1);

    /// Checks a count. An error if it is 0 or above [`MAX_PARTITIONS`].
    pub const fn new(count: u32) -> Result<PartitionCount, CountError> {
        if count == 0 || count > MAX_PARTITIONS {
            return Err(CountError { count });
        }
        Ok(PartitionCount(count))
    }

    /// The count as a number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The slots that `partition` owns. Empty for a partition that doesn't exist.
    pub const fn slots_of(self, partition: u32) -> Range<u16> {
        if partition >= self.0 {
            return 0..0;
        }
        let first = (partition * MAX_PARTITIONS).div_ceil(self.0);
        let end = ((partition + 1) * MAX_PARTITIONS).div_ceil(self.0);
        first as u16..end as u16
    }
}

impl TryFrom<u32> for PartitionCount {
    type Error = CountError;

    fn try_from(count: u32) -> Result<PartitionCount, CountError> {
        PartitionCount::new(count)
    }
}

impl From<PartitionCount> for u32 {
    fn from(count: PartitionCount) -> u32 {
        count.0
    }
}

impl fmt::Display for PartitionCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the 4,096 routing slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot of a key, given its canonical bytes.
    pub fn of(canonical: &[u8]) -> Slot {
        Slot((xxh3_64(canonical) >> SLOT_SHIFT) as u16)
    }

    /// The slot's number, below [`MAX_PARTITIONS`].
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The partition that owns this slot.
    pub const fn partition(self, partitions: PartitionCount) -> u32 {
        self.0 as u32 * partitions.0 / MAX_PARTITIONS
    }
}

/// Routes keys to partitions; keeps the buffer that canonical bytes are written to.
#[derive(Debug)]
pub struct Router {
    partitions: PartitionCount,
    canonical: Vec<u8>,
}

impl Router {
    /// A router for so many partitions.
    pub fn new(partitions: PartitionCount) -> Router {
        Router {
            partitions,
            canonical: Vec::new(),
        }
    }

    /// Number of partitions routed to.
    pub fn partitions(&self) -> PartitionCount {
        self.partitions
    }

    /// The partition of `key`. An error if its type can't be a key.
    pub fn partition_of<K: Serialize + ?Sized>(&mut self, key: &K) -> Result<u32, key::Error> {
        self.canonical.clear();
        key::encode_key(key, &mut self.canonical)?;
        Ok(Slot::of(&self.canonical).partition(self.partitions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot<K: Serialize>(key: K) -> u16 {
        let mut bytes = Vec::new();
        key::encode_key(&key, &mut bytes).unwrap();
        Slot::of(&bytes).get()
    }

    #[test]
    fn the_hash_is_xxh3_64_with_seed_0() {
        // The reference implementation's value for the empty input.
        assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(Slot::of(b"").get(), 0x2d0);
    }

    #[test]
    fn golden_slots() {
        let slots = [
            slot("Hello"),
            slot(""),
            slot("the quick brown fox jumps over the lazy dog"),
            slot(0u64),
            slot(42i64),
            slot(-42i64),
            slot((1u32, "a")),
            slot(Some(7u8)),
            slot(1.5f64),
        ];
        assert_eq!(slots, GOLDEN);
    }

    const GOLDEN: [u16; 9] = [1597, 818, 3565, 3191, 3841, 3511, 1579, 2153, 3454];

    #[test]
    fn golden_partitions() {
        let partitions = PartitionCount::new(7).unwrap();
        let owners: Vec<u32> = [0u16, 585, 586, 1170, 1171, 2048, 4095]
            .iter()
            .map(|s| Slot(*s).partition(partitions))
            .collect();
        assert_eq!(owners, [0, 0, 1, 1, 2, 3, 6]);
    }

    #[test]
    fn counts_outside_the_range_are_refused() {
        assert!(PartitionCount::new(0).is_err());
        assert!(PartitionCount::new(MAX_PARTITIONS).is_ok());
        let error = PartitionCount::new(MAX_PARTITIONS + 1).unwrap_err();
        assert!(error.to_string().contains("4097"), "{error}");
        assert!(serde_json::from_str::<PartitionCount>("0").is_err());
        assert_eq!(serde_json::to_string(&PartitionCount::ONE).unwrap(), "1");
    }

    proptest! {
        #[test]
        fn every_partition_owns_its_slots(count in 1..=MAX_PARTITIONS) {
            let partitions = PartitionCount::new(count).unwrap();
            let mut next = 0u16;
            for partition in 0..count {
                let slots = partitions.slots_of(partition);
                prop_assert_eq!(slots.start, next);
                prop_assert!(!slots.is_empty());
                for slot in [slots.start, slots.end - 1] {
                    prop_assert_eq!(Slot(slot).partition(partitions), partition);
                }
                next = slots.end;
            }
            prop_assert_eq!(u32::from(next), MAX_PARTITIONS);
            prop_assert!(partitions.slots_of(count).is_empty());
        }

        #[test]
        fn the_router_agrees_with_the_rule(key in ".*", count in 1..=MAX_PARTITIONS) {
            let partitions = PartitionCount::new(count).unwrap();
            let mut bytes = Vec::new();
            key::encode_key(&key, &mut bytes).unwrap();
            let expected = ((xxh3_64(&bytes) >> 52) * u64::from(count) / 4096) as u32;
            let mut router = Router::new(partitions);
            prop_assert_eq!(router.partition_of("another key first").is_ok(), true);
            prop_assert_eq!(router.partition_of(&key).unwrap(), expected);
        }
    }

    #[test]
    fn keys_spread_evenly() {
        let partitions = PartitionCount::new(8).unwrap();
        let mut router = Router::new(partitions);
        let mut counts = [0u32; 8];
        for i in 0..80_000u32 {
            counts[router.partition_of(&format!("word{i}")).unwrap() as usize] += 1;
        }
        assert!(
            counts.iter().all(|c| (9_500..10_500).contains(c)),
            "{counts:?}"
        );
    }
}
