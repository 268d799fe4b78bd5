//! A checksum of rows that doesn't depend on chunks, frames or compression.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// Sums up rows' bytes in their order, however they are cut into chunks and frames.
#[derive(Clone, Default)]
pub struct ContentHash {
    hash: Box<Xxh3>,
    rows: u64,
}

impl ContentHash {
    /// The hash of no rows.
    pub fn new() -> ContentHash {
        ContentHash::default()
    }

    /// Adds `rows` rows whose bytes, one after the other, are `bytes`.
    #[inline]
    pub fn update(&mut self, bytes: &[u8], rows: u32) {
        self.hash.update(bytes);
        self.rows += u64::from(rows);
    }

    /// The checksum of all rows so far.
    pub fn finish(&self) -> ContentChecksum {
        ContentChecksum {
            hash: self.hash.digest(),
            rows: self.rows,
        }
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({})", self.finish())
    }
}

/// What two runs of the same task over the same input must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContentChecksum {
    /// xxh3-64 of the rows' bytes, in order.
    pub hash: u64,
    /// Number of rows.
    pub rows: u64,
}

impl fmt::Display for ContentChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{}", self.hash, self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    proptest! {
    #[test]
    fn content_hash_is_of_rows_alone(rows in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..40), chunk in 1usize..10) {
        let mut one_by_one = ContentHash::new();
        for row in &rows {
            one_by_one.update(row, 1);
        }
        let mut chunked = ContentHash::new();
        for chunk in rows.chunks(chunk) {
            chunked.update(&chunk.concat(), chunk.len() as u32);
        }
        prop_assert_eq!(one_by_one.finish(), chunked.finish());
        prop_assert_eq!(one_by_one.finish(), ContentChecksum { hash: xxh3_64(&rows.concat()), rows: rows.len() as u64 });
    }
    }

    #[test]
    fn content_hash_sees_order_and_count() {
        let sum = |parts: &[&[u8]]| {
            let mut hash = ContentHash::new();
            parts.iter().for_each(|part| hash.update(part, 1));
            hash.finish()
        };
        assert_ne!(sum(&[b"a", b"b"]), sum(&[b"b", b"a"]));
        assert_ne!(sum(&[b"", b""]), sum(&[b""]));
    }
}
