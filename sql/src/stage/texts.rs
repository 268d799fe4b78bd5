//! The groups of texts.

use std::hash::{BuildHasher, RandomState};

use arrow::{
    array::{Array, StringArray},
    buffer::{Buffer, NullBuffer, OffsetBuffer},
    error::ArrowError,
};
use xxhash_rust::xxh3::xxh3_64;

/// Rows that are looked up together.
const BLOCK: usize = 512;
/// Places at first.
const PLACES: usize = 1_024;
/// A word of the machine, bytes.
const WORD: usize = size_of::<u64>();
/// The golden ratio's fraction, which sets lengths far apart.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A text as two words, which are all of a short one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Key {
    /// The first bytes; of a text of more than two words a hash of it.
    head: u64,
    /// The last bytes of a text of one to two words.
    tail: u64,
    length: u32,
}

impl Key {
    /// Of the text from `start` to `end` of a column's bytes.
    #[inline]
    fn of(bytes: &[u8], start: usize, end: usize) -> Self {
        let length = end - start;
        let (head, tail) = if length <= WORD {
            let unused = 8 * (WORD - length) as u32;
            let mask = u64::MAX.checked_shr(unused).unwrap_or(0);
            (word_at(bytes, start) & mask, 0)
        } else if length <= 2 * WORD {
            (word_at(bytes, start), word_at(bytes, end - WORD))
        } else {
            (xxh3_64(&bytes[start..end]), 0)
        };
        Self {
            head,
            tail,
            length: length as u32,
        }
    }

    /// Whether the words are all of it.
    fn is_whole(self) -> bool {
        self.length as usize <= 2 * WORD
    }

    /// The product of both halves, folded, as in `foldhash`.
    #[inline]
    fn hash(self, seed: u64) -> u64 {
        let tail = self.tail ^ seed.rotate_left(32);
        let tail = tail.wrapping_add(u64::from(self.length).wrapping_mul(GOLDEN));
        let product = u128::from(self.head ^ seed) * u128::from(tail);
        (product as u64) ^ (product >> 64) as u64
    }
}

/// The word that begins at `at`; what lies past the end is zero.
#[inline]
fn word_at(bytes: &[u8], at: usize) -> u64 {
    match bytes[at..].first_chunk::<WORD>() {
        Some(word) => u64::from_le_bytes(*word),
        None => {
            let mut word = [0; WORD];
            word[..bytes.len() - at].copy_from_slice(&bytes[at..]);
            u64::from_le_bytes(word)
        }
    }
}

/// Numbers texts in the order of their coming. Rows are looked up a block at a time, in passes: each pass reads of all rows one thing that doesn't depend on the
/// others, so the processor waits for the memory of many rows at once.
#[derive(Debug)]
pub(super) struct TextGroups {
    /// A place has the lower half of its key's hash and the group's number plus one; an empty one is zero.
    places: Vec<u64>,
    /// Of each group, by number.
    keys: Vec<Key>,
    bytes: Vec<u8>,
    /// Where groups' texts end in the bytes; begins with a 0.
    ends: Vec<i32>,
    /// The group of null.
    null: Option<usize>,
    seed: u64,
}

impl Default for TextGroups {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            keys: Vec::new(),
            bytes: Vec::new(),
            ends: vec![0],
            null: None,
            seed: RandomState::new().hash_one(0),
        }
    }
}

impl TextGroups {
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        self.places.capacity() * size_of::<u64>()
            + self.keys.capacity() * size_of::<Key>()
            + self.bytes.capacity()
            + self.ends.capacity() * size_of::<i32>()
    }

    /// Whether an array could hold the texts of all groups and these.
    pub fn has_room_for(&self, texts: &StringArray) -> bool {
        let ends = texts.value_offsets();
        let more = (ends[texts.len()] - ends[0]) as usize;
        self.bytes.len() + more <= i32::MAX as usize
    }

    /// The group of each text; there must be room for them.
    pub fn groups_of(&mut self, texts: &StringArray, groups: &mut Vec<usize>) {
        groups.clear();
        groups.reserve(texts.len());
        let mut keys = [Key::default(); BLOCK];
        let mut hashes = [0; BLOCK];
        let mut seen = [0; BLOCK];
        let bytes = texts.value_data();
        for begin in (0..texts.len()).step_by(BLOCK) {
            let rows = BLOCK.min(texts.len() - begin);
            // A block may be all new: with room for it, places stay where they are meanwhile.
            self.make_room(rows);
            let ends = &texts.value_offsets()[begin..=begin + rows];
            for (row, (start, end)) in ends.iter().zip(&ends[1..]).enumerate() {
                let key = Key::of(bytes, *start as usize, *end as usize);
                keys[row] = key;
                hashes[row] = key.hash(self.seed);
            }
            for row in 0..rows {
                seen[row] = self.places[self.place(hashes[row])];
            }
            for row in 0..rows {
                if texts.is_null(begin + row) {
                    groups.push(self.null());
                    continue;
                }
                let text = || &bytes[ends[row] as usize..ends[row + 1] as usize];
                let group = match self.matches(seen[row], hashes[row], keys[row], text) {
                    Some(group) => group,
                    None => self.find_or_add(hashes[row], keys[row], text),
                };
                groups.push(group);
            }
        }
    }

    /// Takes all texts, in the order of their groups.
    ///
    /// # Errors
    /// None: what is here was texts.
    pub fn take(&mut self) -> Result<StringArray, ArrowError> {
        let taken = std::mem::replace(
            self,
            Self {
                seed: self.seed,
                ..Self::default()
            },
        );
        let nulls = taken.null.map(|null| {
            let is_valid = (0..taken.keys.len()).map(|group| group != null);
            NullBuffer::from_iter(is_valid)
        });
        let ends = OffsetBuffer::new(taken.ends.into());
        StringArray::try_new(ends, Buffer::from_vec(taken.bytes), nulls)
    }

    /// Where looking for a hash begins: its upper half decides.
    #[inline]
    fn place(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.places.len() - 1)
    }

    /// The group at a place, if it is this key's.
    #[inline]
    fn matches<'t>(
        &self,
        place: u64,
        hash: u64,
        key: Key,
        text: impl Fn() -> &'t [u8],
    ) -> Option<usize> {
        if place >> 32 != hash & u64::from(u32::MAX) {
            return None;
        }
        let group = (place as u32).checked_sub(1)? as usize;
        let is_same = self.keys[group] == key && (key.is_whole() || self.text(group) == text());
        is_same.then_some(group)
    }

    fn text(&self, group: usize) -> &[u8] {
        &self.bytes[self.ends[group] as usize..self.ends[group + 1] as usize]
    }

    #[cold]
    fn find_or_add<'t>(&mut self, hash: u64, key: Key, text: impl Fn() -> &'t [u8]) -> usize {
        let mut at = self.place(hash);
        while self.places[at] != 0 {
            if let Some(group) = self.matches(self.places[at], hash, key, &text) {
                return group;
            }
            at = (at + 1) & (self.places.len() - 1);
        }
        self.places[at] = placed(hash, self.keys.len());
        self.add(key, text())
    }

    fn null(&mut self) -> usize {
        match self.null {
            Some(group) => group,
            None => {
                let group = self.add(Key::default(), &[]);
                self.null = Some(group);
                group
            }
        }
    }

    fn add(&mut self, key: Key, text: &[u8]) -> usize {
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len() as i32);
        self.keys.push(key);
        self.keys.len() - 1
    }

    /// Makes room for so many more groups: at most half of the places are taken.
    fn make_room(&mut self, more: usize) {
        let places = (2 * (self.keys.len() + more))
            .next_power_of_two()
            .max(PLACES);
        if places <= self.places.len() {
            return;
        }
        self.places.clear();
        self.places.resize(places, 0);
        for (group, key) in self.keys.iter().enumerate() {
            if Some(group) == self.null {
                continue;
            }
            let hash = key.hash(self.seed);
            let mut at = (hash >> 32) as usize & (places - 1);
            while self.places[at] != 0 {
                at = (at + 1) & (places - 1);
            }
            self.places[at] = placed(hash, group);
        }
    }
}

fn placed(hash: u64, group: usize) -> u64 {
    (hash << 32) | (group as u64 + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Few letters, so that many begin and end alike; some not of ASCII, some of none.
    fn texts() -> impl Strategy<Value = Vec<Option<String>>> {
        let text = prop_oneof![
            4 => "[ab]{0,3}",
            2 => "[ab]{7,9}",
            2 => "[ab]{15,18}",
            1 => "[abé\0]{0,40}",
        ];
        prop::collection::vec(prop::option::weighted(0.9, text), 0..1_500)
    }

    fn expected(texts: &[Option<String>], known: &mut Vec<Option<String>>) -> Vec<usize> {
        let mut numbers: HashMap<Option<String>, usize> = HashMap::new();
        for (number, text) in known.iter().enumerate() {
            numbers.insert(text.clone(), number);
        }
        let groups = texts.iter().map(|text| {
            *numbers.entry(text.clone()).or_insert_with(|| {
                known.push(text.clone());
                known.len() - 1
            })
        });
        groups.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn texts_are_numbered_as_they_come(first in texts(), second in texts(), skipped in 0usize..40) {
            let mut groups = TextGroups::default();
            for _ in 0..2 {
                let mut known = Vec::new();
                let mut given = Vec::new();
                for part in [&first, &second] {
                    let skipped = skipped.min(part.len());
                    let column = StringArray::from(part.clone()).slice(skipped, part.len() - skipped);
                    prop_assert!(groups.has_room_for(&column));
                    groups.groups_of(&column, &mut given);
                    prop_assert_eq!(&given, &expected(&part[skipped..], &mut known));
                    prop_assert_eq!(groups.len(), known.len());
                }
                let taken = groups.take().unwrap();
                let taken: Vec<Option<&str>> = taken.iter().collect();
                let known: Vec<Option<&str>> = known.iter().map(Option::as_deref).collect();
                prop_assert_eq!(taken, known);
                prop_assert_eq!(groups.len(), 0);
            }
        }
    }

    #[test]
    fn many_texts_find_their_places() {
        let mut groups = TextGroups::default();
        let column: StringArray = (0..100_000)
            .map(|number| Some(format!("text {number}")))
            .collect();
        let numbers: Vec<usize> = (0..100_000).collect();
        let mut given = Vec::new();
        for _ in 0..2 {
            groups.groups_of(&column, &mut given);
            assert_eq!(given, numbers);
        }
        assert_eq!(groups.take().unwrap(), column);
    }
}
