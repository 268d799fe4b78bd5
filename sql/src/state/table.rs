//! Segments, their index, and merging.

use std::collections::{BTreeMap, BTreeSet};

use arrow::{compute::interleave_record_batch, datatypes::SchemaRef, record_batch::RecordBatch};
use hashbrown::{HashSet, HashTable, hash_table::Entry};
use millstream_common::{failure::Failure, protocol::StateFile, routing::Slot};
use millstream_dataflow::state::FileKind;
use xxhash_rust::xxh3::xxh3_64;

use super::{Layout, file, segment::Segment};
use crate::{
    error::{Error, task_failure},
    keys::{self, Keys},
};

/// So many segments of like size are merged.
const MERGED_AT_ONCE: usize = 8;
/// Superseded rows that don't matter.
const FEW_ROWS: usize = 8_192;

/// Writes a state file.
pub(crate) type WriteFile<'a> = dyn FnMut(FileKind, &[u8]) -> Result<StateFile, Failure> + 'a;
/// Reads a state file.
pub(crate) type ReadFile<'a> = dyn Fn(&StateFile) -> Result<bytes::Bytes, Failure> + 'a;

/// The groups of one state partition.
pub(crate) struct GroupTable {
    layout: Layout,
    /// By number; merged ones leave holes that are filled again.
    segments: Vec<Option<Segment>>,
    /// Numbers of the segments, oldest first.
    order: Vec<u32>,
    index: HashTable<Place>,
    /// Keys by when they are over, where they have an event time.
    timers: BTreeMap<i64, BTreeSet<Box<[u8]>>>,
    pending: Option<Pending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    segment: u32,
    row: u32,
}

/// Changes of a batch that may not be committed.
struct Pending {
    /// What a commit lists if they count.
    files: Vec<StateFile>,
    /// From this position of the order on, segments were merged into one.
    merged: Option<(usize, Segment)>,
    /// What the batch changed; none if nothing.
    delta: Option<Segment>,
}

fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

impl GroupTable {
    /// An empty table of rows that are laid out so.
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout,
            segments: Vec::new(),
            order: Vec::new(),
            index: HashTable::new(),
            timers: BTreeMap::new(),
            pending: None,
        }
    }

    /// Whether its rows are laid out so.
    pub(crate) fn has_layout(&self, layout: &Layout) -> bool {
        self.layout == *layout
    }

    /// Groups, without uncommitted changes.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes in memory, about, with the uncommitted changes.
    pub(crate) fn memory(&self) -> usize {
        let segments: usize = self.segments.iter().flatten().map(Segment::memory).sum();
        let pending = self.pending.iter().flat_map(|pending| {
            let merged = pending.merged.iter().map(|(_, merged)| merged);
            merged.chain(&pending.delta)
        });
        let pending: usize = pending.map(Segment::memory).sum();
        segments + pending + self.index.capacity() * (size_of::<Place>() + 1)
    }

    /// Becomes the state that consists of these files: as it is, with the uncommitted changes, or read anew. Says whether it was read.
    pub(crate) fn align(
        &mut self,
        files: &[StateFile],
        read: &ReadFile<'_>,
    ) -> Result<bool, Failure> {
        let pending = self.pending.take();
        if self.order.len() == files.len() && self.files().eq(files.iter()) {
            return Ok(false);
        }
        if let Some(pending) = pending
            && pending.files == files
        {
            self.apply(pending);
            return Ok(false);
        }
        *self = Self::new(self.layout.clone());
        for listed in files {
            let content = read(listed)?;
            let (rows, removed) = file::decode(&listed.file, &content).map_err(task_failure)?;
            let rows = self.layout.laid_out(rows).map_err(|rows| {
                task_failure(Error::internal(format!(
                    "state file {} has other columns than the query: {} instead of {}",
                    listed.file,
                    rows.schema(),
                    self.layout.schema
                )))
            })?;
            let segment =
                Segment::new(rows, removed, &self.layout, listed.clone()).map_err(task_failure)?;
            self.add(segment);
        }
        Ok(true)
    }

    fn files(&self) -> impl Iterator<Item = &StateFile> {
        self.order
            .iter()
            .filter_map(|number| self.segment(*number))
            .map(|segment| &segment.file)
    }

    fn segment(&self, number: u32) -> Option<&Segment> {
        self.segments.get(number as usize)?.as_ref()
    }

    fn find(&self, key: &[u8]) -> Option<Place> {
        let is_it = |place: &Place| key_at(&self.segments, *place) == key;
        self.index.find(hash(key), is_it).copied()
    }

    /// Takes a number for a segment and puts its rows into the index.
    fn add(&mut self, segment: Segment) {
        let free = self.segments.iter().position(Option::is_none);
        let number = free.unwrap_or(self.segments.len());
        if number == self.segments.len() {
            self.segments.push(None);
        }
        self.segments[number] = Some(segment);
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        self.order.push(number);
        let segments = &self.segments;
        let Some(segment) = segments[number as usize].as_ref() else {
            return;
        };
        for key in &segment.removed {
            let is_it = |place: &Place| key_at(segments, *place) == &key[..];
            if let Ok(found) = self.index.find_entry(hash(key), is_it) {
                let (place, _) = found.remove();
                let was_in = segments.get(place.segment as usize);
                let time = was_in.and_then(|was_in| was_in.as_ref()?.time(place.row));
                if let Some(time) = time
                    && let Some(keys) = self.timers.get_mut(&time)
                {
                    keys.remove(key);
                    if keys.is_empty() {
                        self.timers.remove(&time);
                    }
                }
            }
        }
        for (row, key) in (0u32..).zip(segment.keys.iter()) {
            let place = Place {
                segment: number,
                row,
            };
            let is_it = |place: &Place| key_at(segments, *place) == key;
            let hasher = |place: &Place| hash(key_at(segments, *place));
            match self.index.entry(hash(key), is_it, hasher) {
                Entry::Occupied(mut found) => *found.get_mut() = place,
                Entry::Vacant(none) => {
                    none.insert(place);
                    if let Some(time) = segment.time(row) {
                        self.timers.entry(time).or_default().insert(key.into());
                    }
                }
            }
        }
    }

    fn apply(&mut self, pending: Pending) {
        if let Some((from, merged)) = pending.merged {
            let replaced = self.order.split_off(from);
            // The merged rows are put into the index first, as it refers to the replaced segments' keys.
            self.add(merged);
            for number in replaced {
                self.segments[number as usize] = None;
            }
        }
        if let Some(delta) = pending.delta {
            self.add(delta);
        }
    }

    /// Committed keys that are over at this time, microseconds: by time, and by key within one.
    pub(crate) fn over(&self, time: i64) -> Vec<Box<[u8]>> {
        let keys = self.timers.range(..=time);
        keys.flat_map(|(_, keys)| keys.iter().cloned()).collect()
    }

    /// The committed rows of these keys, in their order; keys without one are left out.
    pub(crate) fn rows_of<'k>(
        &self,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> Result<Option<RecordBatch>, Error> {
        let places: Vec<Place> = keys.filter_map(|key| self.find(key)).collect();
        if places.is_empty() {
            return Ok(None);
        }
        self.gather(&places, None).map(Some)
    }

    /// Rows by place; places past the segments are rows of `more`.
    fn gather(&self, places: &[Place], more: Option<&RecordBatch>) -> Result<RecordBatch, Error> {
        let empty = RecordBatch::new_empty(SchemaRef::clone(&self.layout.schema));
        let mut batches: Vec<&RecordBatch> = self
            .segments
            .iter()
            .map(|segment| segment.as_ref().map_or(&empty, |segment| &segment.rows))
            .collect();
        batches.extend(more);
        if batches.is_empty() {
            return Ok(empty);
        }
        let indices: Vec<(usize, usize)> = places
            .iter()
            .map(|place| (place.segment as usize, place.row as usize))
            .collect();
        Ok(interleave_record_batch(&batches, &indices)?)
    }

    /// Every row in the order of keys, with the uncommitted changes.
    pub(crate) fn all(&self) -> Result<RecordBatch, Error> {
        let delta = self
            .pending
            .as_ref()
            .and_then(|pending| pending.delta.as_ref());
        let mut gone: HashSet<&[u8]> = HashSet::new();
        let mut rows: Vec<(&[u8], Place)> = Vec::with_capacity(self.index.len());
        let past = u32::try_from(self.segments.len()).unwrap_or(u32::MAX);
        if let Some(delta) = delta {
            gone.extend(delta.removed.iter().map(|key| &key[..]));
            for (row, key) in (0u32..).zip(delta.keys.iter()) {
                gone.insert(key);
                rows.push((key, Place { segment: past, row }));
            }
        }
        for place in &self.index {
            let key = key_at(&self.segments, *place);
            if !gone.contains(key) {
                rows.push((key, *place));
            }
        }
        rows.sort_unstable_by_key(|(key, _)| *key);
        let places: Vec<Place> = rows.into_iter().map(|(_, place)| place).collect();
        self.gather(&places, delta.map(|delta| &delta.rows))
    }

    /// Takes a batch's changes: new rows, each key once, and keys that go. They are written, and count once a commit lists the files that this gives.
    pub(crate) fn change(
        &mut self,
        rows: RecordBatch,
        removed: Vec<Box<[u8]>>,
        write: &mut WriteFile<'_>,
    ) -> Result<Vec<StateFile>, Failure> {
        let live = self.len_after(&rows, &removed).map_err(task_failure)?;
        let merged = self.merge(write)?;
        let delta = if rows.num_rows() == 0 && removed.is_empty() {
            None
        } else {
            let rows = by_slot(&rows, self.layout.group_columns).map_err(task_failure)?;
            Some(self.write(FileKind::Delta, rows, removed, live, write)?)
        };
        if merged.is_none() && delta.is_none() {
            return Ok(self.files().cloned().collect());
        }
        let kept = merged
            .as_ref()
            .map_or(self.order.len(), |(position, _)| *position);
        let mut files: Vec<StateFile> = self.files().take(kept).cloned().collect();
        files.extend(merged.iter().map(|(_, segment)| segment.file.clone()));
        files.extend(delta.iter().map(|segment| segment.file.clone()));
        self.pending = Some(Pending {
            files: files.clone(),
            merged,
            delta,
        });
        Ok(files)
    }

    /// Groups once these changes count.
    fn len_after(&self, rows: &RecordBatch, removed: &[Box<[u8]>]) -> Result<usize, Error> {
        let keys = keys::encode(
            &rows.columns()[..self.layout.group_columns],
            rows.num_rows(),
        )?;
        let new = keys.iter().filter(|key| self.find(key).is_none()).count();
        let gone = removed
            .iter()
            .filter(|key| self.find(key).is_some())
            .count();
        Ok(self.len() + new - gone)
    }

    fn write(
        &self,
        kind: FileKind,
        rows: RecordBatch,
        removed: Vec<Box<[u8]>>,
        live: usize,
        write: &mut WriteFile<'_>,
    ) -> Result<Segment, Failure> {
        let content = file::encode(&rows, &removed).map_err(task_failure)?;
        let mut file = write(kind, &content)?;
        file.rows = live as u64;
        Segment::new(rows, removed, &self.layout, file).map_err(task_failure)
    }

    /// Merges committed segments where that is due.
    fn merge(&self, write: &mut WriteFile<'_>) -> Result<Option<(usize, Segment)>, Failure> {
        let Some(from) = self.merge_from() else {
            return Ok(None);
        };
        let mut places = Vec::new();
        let mut removed: Vec<Box<[u8]>> = Vec::new();
        for number in &self.order[from..] {
            let Some(segment) = self.segment(*number) else {
                continue;
            };
            for (row, key) in (0u32..).zip(segment.keys.iter()) {
                let place = Place {
                    segment: *number,
                    row,
                };
                if self.find(key) == Some(place) {
                    places.push(place);
                }
            }
            // A snapshot has nothing before it that a removal could be of.
            if from > 0 {
                let gone = segment
                    .removed
                    .iter()
                    .filter(|key| self.find(key).is_none());
                removed.extend(gone.cloned());
            }
        }
        removed.sort_unstable();
        removed.dedup();
        let rows = self.gather(&places, None).map_err(task_failure)?;
        let rows = by_slot(&rows, self.layout.group_columns).map_err(task_failure)?;
        let kind = match from {
            0 => FileKind::Snapshot,
            _ => FileKind::Merged,
        };
        let segment = self.write(kind, rows, removed, self.len(), write)?;
        Ok(Some((from, segment)))
    }

    /// The position of the first segment that is to be merged with all after it.
    fn merge_from(&self) -> Option<usize> {
        let weights: Vec<usize> = self
            .order
            .iter()
            .filter_map(|number| self.segment(*number))
            .map(Segment::weight)
            .collect();
        let total: usize = weights.iter().sum();
        if weights.len() > 1 && total > 2 * self.index.len() + FEW_ROWS {
            return Some(0);
        }
        let mut from = weights.len();
        let mut newer = 0;
        while from > 0 && (newer == 0 || weights[from - 1] <= newer) {
            from -= 1;
            newer += weights[from];
        }
        (weights.len() - from >= MERGED_AT_ONCE).then_some(from)
    }
}

fn key_at(segments: &[Option<Segment>], place: Place) -> &[u8] {
    match segments.get(place.segment as usize) {
        Some(Some(segment)) => segment.keys.get(place.row as usize),
        _ => &[],
    }
}

/// Rows grouped by routing slot, in their order within each.
fn by_slot(rows: &RecordBatch, group_columns: usize) -> Result<RecordBatch, Error> {
    let keys: Keys = keys::encode(&rows.columns()[..group_columns], rows.num_rows())?;
    let mut order: Vec<(u16, u32)> = (0u32..)
        .zip(keys.iter())
        .map(|(row, key)| (Slot::of(key).get(), row))
        .collect();
    order.sort_unstable();
    let indices: arrow::array::UInt32Array = order.into_iter().map(|(_, row)| row).collect();
    Ok(arrow::compute::take_record_batch(rows, &indices)?)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, sync::Arc};

    use arrow::{
        array::{AsArray, Int64Array, StringArray},
        datatypes::{DataType, Field, Int64Type, Schema},
    };
    use proptest::prelude::*;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("key", DataType::Utf8, true),
            Field::new("count", DataType::Int64, true),
        ]))
    }

    fn layout() -> Layout {
        Layout {
            schema: schema(),
            group_columns: 1,
            time: None,
        }
    }

    fn batch(rows: &BTreeMap<String, i64>) -> RecordBatch {
        let keys = StringArray::from_iter_values(rows.keys());
        let counts = Int64Array::from_iter_values(rows.values().copied());
        RecordBatch::try_new(schema(), vec![Arc::new(keys), Arc::new(counts)]).unwrap()
    }

    fn key(text: &str) -> Box<[u8]> {
        let mut bytes = Vec::new();
        millstream_common::key::encode_key(&Some(text), &mut bytes).unwrap();
        bytes.into()
    }

    fn content(table: &GroupTable) -> BTreeMap<String, i64> {
        let all = table.all().unwrap();
        let keys = all.column(0).as_string::<i32>();
        let counts = all.column(1).as_primitive::<Int64Type>();
        let rows = (0..all.num_rows()).map(|row| (keys.value(row).to_owned(), counts.value(row)));
        let map: BTreeMap<String, i64> = rows.clone().collect();
        assert!(rows.map(|(key, _)| key).is_sorted());
        map
    }

    /// A checkpoint in memory.
    #[derive(Default)]
    struct Files(RefCell<BTreeMap<String, bytes::Bytes>>);

    impl Files {
        fn write(&self, kind: FileKind, content: &[u8]) -> Result<StateFile, Failure> {
            let mut files = self.0.borrow_mut();
            let name = format!("{}-{kind:?}", files.len());
            files.insert(name.clone(), content.to_vec().into());
            Ok(StateFile {
                operator: "aggregate-0".to_owned(),
                partition: 0,
                file: name,
                offset: 0,
                length: content.len() as u64,
                checksum: xxh3_64(content),
                rows: 0,
            })
        }

        fn align(&self, table: &mut GroupTable, files: &[StateFile]) -> bool {
            let read = |file: &StateFile| Ok(self.0.borrow()[&file.file].clone());
            table.align(files, &read).unwrap()
        }

        fn change(
            &self,
            table: &mut GroupTable,
            rows: &BTreeMap<String, i64>,
            removed: &[&str],
        ) -> Vec<StateFile> {
            let removed = removed.iter().map(|text| key(text)).collect();
            let mut write = |kind, content: &[u8]| self.write(kind, content);
            table.change(batch(rows), removed, &mut write).unwrap()
        }
    }

    #[derive(Clone, Debug)]
    struct Step {
        changes: BTreeMap<u8, i64>,
        removals: Vec<u8>,
        /// The attempt doesn't count; another runs.
        is_lost: bool,
        /// The next task runs on an executor that holds nothing.
        moves: bool,
    }

    fn step() -> impl Strategy<Value = Step> {
        (
            prop::collection::btree_map(0u8..40, any::<i64>(), 0..12),
            prop::collection::vec(0u8..40, 0..5),
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.2),
        )
            .prop_map(|(changes, removals, is_lost, moves)| Step {
                removals: removals
                    .into_iter()
                    .filter(|key| !changes.contains_key(key))
                    .collect(),
                changes,
                is_lost,
                moves,
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_table_is_what_its_committed_changes_make(steps in prop::collection::vec(step(), 1..60)) {
            let files = Files::default();
            let mut table = GroupTable::new(layout());
            let mut committed: Vec<StateFile> = Vec::new();
            let mut model: BTreeMap<String, i64> = BTreeMap::new();
            for step in steps {
                if step.moves {
                    table = GroupTable::new(layout());
                }
                files.align(&mut table, &committed);
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(&content(&table), &model);
                let changes: BTreeMap<String, i64> = step.changes.iter().map(|(key, count)| (format!("k{key}"), *count)).collect();
                let removals: Vec<String> = step.removals.iter().map(|key| format!("k{key}")).collect();
                let removals: Vec<&str> = removals.iter().map(String::as_str).collect();
                let after = files.change(&mut table, &changes, &removals);
                let mut expected = model.clone();
                for key in &removals {
                    expected.remove(*key);
                }
                expected.extend(changes);
                prop_assert_eq!(&content(&table), &expected);
                if !step.is_lost {
                    committed = after;
                    model = expected;
                }
            }
            prop_assert!(committed.len() < 3 * MERGED_AT_ONCE, "{} files", committed.len());
        }
    }

    #[test]
    fn what_is_in_memory_is_not_read_again() {
        let files = Files::default();
        let mut table = GroupTable::new(layout());
        let first = files.change(&mut table, &BTreeMap::from([("a".to_owned(), 1)]), &[]);
        assert!(!files.align(&mut table, &first));
        let second = files.change(&mut table, &BTreeMap::from([("a".to_owned(), 2)]), &[]);
        // The second attempt was lost: its changes are dropped.
        assert!(!files.align(&mut table, &first));
        assert_eq!(content(&table), BTreeMap::from([("a".to_owned(), 1)]));
        assert!(files.align(&mut table, &second), "it was dropped");
        assert_eq!(content(&table), BTreeMap::from([("a".to_owned(), 2)]));
        let unchanged = files.change(&mut table, &BTreeMap::new(), &[]);
        assert_eq!(unchanged, second);
    }

    #[test]
    fn segments_stay_few_and_old_rows_are_let_go() {
        let files = Files::default();
        let mut table = GroupTable::new(layout());
        let mut committed = Vec::new();
        for round in 0..600i64 {
            let rows = (0..50).map(|key| (format!("k{}", (round * 7 + key) % 2_000), round));
            let rows: BTreeMap<String, i64> = rows.collect();
            files.align(&mut table, &committed);
            committed = files.change(&mut table, &rows, &[]);
            assert!(
                committed.len() <= 24,
                "{} files in round {round}",
                committed.len()
            );
        }
        files.align(&mut table, &committed);
        let rows: usize = table
            .segments
            .iter()
            .flatten()
            .map(|segment| segment.rows.num_rows())
            .sum();
        assert!(
            rows <= 2 * table.len() + FEW_ROWS + 50,
            "{rows} rows of {} groups",
            table.len()
        );
        let written: usize = files.0.borrow().values().map(|content| content.len()).sum();
        let kept: usize = committed.iter().map(|file| file.length as usize).sum();
        assert!(written < 40 * kept, "{written} bytes written for {kept}");
        let mut restored = GroupTable::new(layout());
        assert!(files.align(&mut restored, &committed));
        assert_eq!(content(&restored), content(&table));
    }
}
