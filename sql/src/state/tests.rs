use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::{AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit},
};
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::{BatchId, Epoch, QueryId, StageId, TaskId},
    protocol::StateFile,
};
use millstream_dataflow::{
    program::CancelToken,
    state::{self, BackgroundWork, StateCell, StateFolder, StateKey, StateServices},
};
use parking_lot::Mutex;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    GroupTable, Layout, StateIo,
    merging::{self, FEW_ROWS, MERGED_AT_ONCE, MOST_JOBS, MOST_SEGMENTS},
};

const OPERATOR: &str = "aggregate-0";

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Utf8, true),
        Field::new("time", time, true),
        Field::new("count", DataType::Int64, true),
    ]))
}

fn layout() -> Layout {
    Layout {
        schema: schema(),
        group_columns: 2,
        time: Some(1),
    }
}

/// When a key is over.
fn time_of(key: &str) -> i64 {
    (key.bytes().map(i64::from).sum::<i64>() % 7) * 1_000
}

fn batch(rows: &BTreeMap<String, i64>) -> RecordBatch {
    let keys = StringArray::from_iter_values(rows.keys());
    let times: TimestampMicrosecondArray = rows.keys().map(|key| Some(time_of(key))).collect();
    let counts = Int64Array::from_iter_values(rows.values().copied());
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(keys), Arc::new(times), Arc::new(counts)];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn key(text: &str) -> Box<[u8]> {
    let mut bytes = Vec::new();
    millstream_common::key::encode_key(&(Some(text), Some(time_of(text))), &mut bytes).unwrap();
    bytes.into()
}

fn content(table: &GroupTable) -> BTreeMap<String, i64> {
    let all = table.all().unwrap();
    let keys = all.column(0).as_string::<i32>();
    let counts = all.column(2).as_primitive::<Int64Type>();
    let rows = (0..all.num_rows()).map(|row| (keys.value(row).to_owned(), counts.value(row)));
    let map: BTreeMap<String, i64> = rows.clone().collect();
    assert_eq!(map.len(), all.num_rows(), "a key comes twice");
    assert!(rows.map(|(key, _)| key).is_sorted());
    map
}

/// Work beside the tasks that runs when the test says so.
struct Services {
    waiting: Mutex<VecDeque<BackgroundWork>>,
    /// Of work that waits.
    bound: usize,
}

impl StateServices for Services {
    fn cell(&self, _: &StateKey, _: BatchId) -> StateCell {
        StateCell::default()
    }

    fn folder(&self, _: QueryId) -> Option<StateFolder> {
        None
    }

    fn holds(&self, _: &StateKey, _: u64) {}

    fn in_background(&self, work: BackgroundWork) -> Result<(), BackgroundWork> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= self.bound {
            return Err(work);
        }
        waiting.push_back(work);
        Ok(())
    }
}

/// A checkpoint, its driver's clock of batches, and the executors' threads.
struct Fixture {
    checkpoint: TempDir,
    folder: StateFolder,
    services: Services,
    cancel: CancelToken,
    next: RefCell<(u64, u32)>,
}

impl Fixture {
    fn new(bound: usize) -> Self {
        let checkpoint = tempfile::tempdir().unwrap();
        Self {
            folder: StateFolder::new(checkpoint.path(), false),
            checkpoint,
            services: Services {
                waiting: Mutex::default(),
                bound,
            },
            cancel: CancelToken::new(),
            next: RefCell::new((0, 0)),
        }
    }

    fn run_background(&self, most: usize) {
        for _ in 0..most {
            let Some(work) = self.services.waiting.lock().pop_front() else {
                return;
            };
            work();
        }
    }

    fn task(&self) -> TaskId {
        let (batch, attempt) = *self.next.borrow();
        TaskId {
            query: QueryId(uuid::Uuid::nil()),
            epoch: Epoch(1),
            batch: BatchId(batch),
            stage: StageId(1),
            partition: 0,
            attempt,
        }
    }

    fn align(&self, table: &mut GroupTable, files: &[StateFile]) -> bool {
        table.align(files, &self.folder).unwrap()
    }

    fn try_change(
        &self,
        table: &mut GroupTable,
        rows: &BTreeMap<String, i64>,
        removed: &[&str],
    ) -> Result<Vec<StateFile>, Failure> {
        let io = StateIo {
            folder: &self.folder,
            task: self.task(),
            operator: OPERATOR,
            services: &self.services,
            cancel: &self.cancel,
        };
        let removed = removed.iter().map(|text| key(text)).collect();
        let files = table.change(&batch(rows), removed, &io);
        // Were it tried again, then as another attempt.
        self.next.borrow_mut().1 += 1;
        files
    }

    fn change(
        &self,
        table: &mut GroupTable,
        rows: &BTreeMap<String, i64>,
        removed: &[&str],
    ) -> Vec<StateFile> {
        self.try_change(table, rows, removed).unwrap()
    }

    /// The batch is committed.
    fn commit(&self) {
        let mut next = self.next.borrow_mut();
        *next = (next.0 + 1, 0);
    }

    fn names(&self) -> Vec<String> {
        let folder = self.checkpoint.path().join(format!("state/{OPERATOR}/0"));
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            format!("state/{OPERATOR}/0/{name}")
        };
        entries.map(name).collect()
    }

    /// Deletes what the driver deletes when only the newest commit is retained.
    fn sweep(&self, committed: &[StateFile]) {
        let Some(through) = self.next.borrow().0.checked_sub(1) else {
            return;
        };
        for name in self.names() {
            let is_reached = committed.iter().any(|file| file.file == name);
            if !is_reached && state::is_left(&name, BatchId(through), Epoch(1)) {
                std::fs::remove_file(self.checkpoint.path().join(name)).unwrap();
            }
        }
    }

    fn remove_spares(&self) {
        for name in self.names() {
            if name.ends_with(".merging") {
                std::fs::remove_file(self.checkpoint.path().join(name)).unwrap();
            }
        }
    }
}

fn one(key: &str, count: i64) -> BTreeMap<String, i64> {
    BTreeMap::from([(key.to_owned(), count)])
}

#[derive(Clone, Debug)]
struct Step {
    changes: BTreeMap<u8, i64>,
    removals: Vec<u8>,
    /// The attempt doesn't count; another runs.
    is_lost: bool,
    /// Where an attempt before was lost, a driver that slept commits that one all the same.
    earlier_wins: bool,
    /// The next task runs on an executor that holds nothing, or on one that held this before.
    moves: bool,
    /// So much work beside the tasks is done before the task, and after it.
    background: (usize, usize),
    sweeps: bool,
    /// What was merged and not adopted is gone.
    loses_spares: bool,
}

fn step() -> impl Strategy<Value = Step> {
    (
        prop::collection::btree_map(0u8..40, any::<i64>(), 0..12),
        prop::collection::btree_set(0u8..40, 0..5),
        (prop::bool::weighted(0.2), prop::bool::weighted(0.3)),
        prop::bool::weighted(0.1),
        (0usize..3, 0usize..2),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.05),
    )
        .prop_map(
            |(
                changes,
                removals,
                (is_lost, earlier_wins),
                moves,
                background,
                sweeps,
                loses_spares,
            )| Step {
                removals: removals
                    .into_iter()
                    .filter(|key| !changes.contains_key(key))
                    .collect(),
                changes,
                is_lost,
                earlier_wins,
                moves,
                background,
                sweeps,
                loses_spares,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_table_is_what_its_committed_changes_make(
        steps in prop::collection::vec(step(), 1..120),
        bound in 0usize..4,
    ) {
        let fixture = Fixture::new(bound);
        // Two executors: the state moves between them, and each keeps what it had.
        let mut table = GroupTable::new(layout());
        let mut elsewhere = GroupTable::new(layout());
        let mut committed: Vec<StateFile> = Vec::new();
        let mut model: BTreeMap<String, i64> = BTreeMap::new();
        let mut earlier = None;
        for step in steps {
            if step.moves {
                std::mem::swap(&mut table, &mut elsewhere);
            }
            fixture.run_background(step.background.0);
            if step.loses_spares {
                fixture.remove_spares();
            }
            fixture.align(&mut table, &committed);
            prop_assert_eq!(table.len(), model.len());
            prop_assert_eq!(&content(&table), &model);
            let changes: BTreeMap<String, i64> = step.changes.iter().map(|(key, count)| (format!("k{key}"), *count)).collect();
            let removals: Vec<String> = step.removals.iter().map(|key| format!("k{key}")).collect();
            let removals: Vec<&str> = removals.iter().map(String::as_str).collect();
            let mut over: Vec<(i64, Box<[u8]>)> = model.keys().map(|text| (time_of(text), key(text))).filter(|(time, _)| *time <= 3_000).collect();
            over.sort();
            let over: Vec<Box<[u8]>> = over.into_iter().map(|(_, key)| key).collect();
            prop_assert_eq!(table.over(3_000), over);
            // A task that must wait for work beside it would wait for ever here.
            if committed.len() >= MOST_SEGMENTS {
                fixture.run_background(usize::MAX);
            }
            let after = fixture.change(&mut table, &changes, &removals);
            let mut expected = model.clone();
            for key in &removals {
                expected.remove(*key);
            }
            expected.extend(changes);
            prop_assert_eq!(&content(&table), &expected);
            fixture.run_background(step.background.1);
            if step.is_lost {
                earlier = Some((after, expected));
            } else {
                (committed, model) = match earlier.take() {
                    Some(earlier) if step.earlier_wins => earlier,
                    _ => (after, expected),
                };
                fixture.commit();
            }
            if step.sweeps {
                fixture.sweep(&committed);
            }
        }
        prop_assert!(committed.len() <= MOST_SEGMENTS, "{} files", committed.len());
        let mut restored = GroupTable::new(layout());
        fixture.align(&mut restored, &committed);
        prop_assert_eq!(content(&restored), model);
    }
}

#[test]
fn what_is_in_memory_is_not_read_again() {
    let fixture = Fixture::new(0);
    let mut table = GroupTable::new(layout());
    let first = fixture.change(&mut table, &one("a", 1), &[]);
    assert!(!fixture.align(&mut table, &first));
    let second = fixture.change(&mut table, &one("a", 2), &[]);
    // The second attempt was lost: its changes are dropped.
    assert!(!fixture.align(&mut table, &first));
    assert_eq!(content(&table), one("a", 1));
    std::fs::remove_file(fixture.checkpoint.path().join(&first[0].file)).unwrap();
    assert!(fixture.align(&mut table, &second), "it was dropped");
    assert_eq!(content(&table), one("a", 2), "only what it lacks is read");
    let unchanged = fixture.change(&mut table, &BTreeMap::new(), &[]);
    assert_eq!(unchanged, second);
}

/// Batches of one new key each until a merge has been asked for; gives the newest version.
fn until_a_merge_is_due(fixture: &Fixture, table: &mut GroupTable) -> Vec<StateFile> {
    let mut committed = Vec::new();
    for number in 0..=MERGED_AT_ONCE {
        fixture.align(table, &committed);
        let row = one(&format!("k{number}"), 1);
        committed = fixture.change(table, &row, &[]);
        fixture.commit();
    }
    assert_eq!(committed.len(), MERGED_AT_ONCE + 1);
    assert_eq!(fixture.services.waiting.lock().len(), 1);
    committed
}

#[test]
fn a_batch_merges_nothing_and_a_later_one_adopts_what_was_merged() {
    let fixture = Fixture::new(8);
    let mut table = GroupTable::new(layout());
    let mut committed = until_a_merge_is_due(&fixture, &mut table);
    // The merge takes its time: batches go on without it.
    for number in 0..3 {
        fixture.align(&mut table, &committed);
        committed = fixture.change(&mut table, &one("late", number), &[]);
        fixture.commit();
    }
    assert_eq!(committed.len(), MERGED_AT_ONCE + 4);
    fixture.run_background(1);
    fixture.sweep(&committed);
    fixture.align(&mut table, &committed);
    let expected = content(&table);
    // An attempt adopts it and is lost; the next one does so as well, under another name.
    let lost = fixture.change(&mut table, &BTreeMap::new(), &[]);
    fixture.align(&mut table, &committed);
    let adopted = fixture.change(&mut table, &BTreeMap::new(), &[]);
    fixture.commit();
    assert_eq!((lost.len(), adopted.len()), (5, 5));
    assert!(adopted[0].file.ends_with(".snapshot"), "{adopted:?}");
    assert_ne!(lost[0].file, adopted[0].file);
    assert_eq!(adopted[1..], committed[MERGED_AT_ONCE..]);
    fixture.align(&mut table, &adopted);
    fixture.sweep(&adopted);
    let spare = fixture
        .names()
        .into_iter()
        .find(|name| name.ends_with(".merging"));
    assert_eq!(spare, None, "it goes once its second name counts");
    let mut restored = GroupTable::new(layout());
    assert!(fixture.align(&mut restored, &adopted));
    assert_eq!(content(&restored), expected);
    assert_eq!(content(&table), expected);
}

#[test]
fn a_merge_whose_file_was_swept_is_made_again() {
    let fixture = Fixture::new(8);
    let mut table = GroupTable::new(layout());
    let committed = until_a_merge_is_due(&fixture, &mut table);
    fixture.run_background(1);
    fixture.remove_spares();
    fixture.align(&mut table, &committed);
    let after = fixture.change(&mut table, &BTreeMap::new(), &[]);
    assert_eq!(after, committed);
    fixture.run_background(1);
    fixture.align(&mut table, &after);
    let after = fixture.change(&mut table, &BTreeMap::new(), &[]);
    assert_eq!(after.len(), 1, "{after:?}");
}

#[test]
fn a_merge_that_was_lost_or_failed_is_tried_again_later() {
    let fixture = Fixture::new(8);
    let mut table = GroupTable::new(layout());
    let mut committed = until_a_merge_is_due(&fixture, &mut table);
    // As a thread that panics does.
    drop(fixture.services.waiting.lock().pop_front());
    for number in 0..=MERGED_AT_ONCE {
        assert!(fixture.services.waiting.lock().is_empty(), "{number}");
        fixture.align(&mut table, &committed);
        committed = fixture.change(&mut table, &one("more", 1), &[]);
        fixture.commit();
    }
    assert_eq!(fixture.services.waiting.lock().len(), 1);
}

#[test]
fn a_batch_that_finds_too_many_segments_and_no_thread_merges_itself() {
    let fixture = Fixture::new(0);
    let mut table = GroupTable::new(layout());
    let mut committed: Vec<StateFile> = Vec::new();
    let mut most = 0;
    for number in 0..3 * MOST_SEGMENTS {
        fixture.align(&mut table, &committed);
        committed = fixture.change(&mut table, &one(&format!("k{}", number % 50), 1), &[]);
        fixture.commit();
        most = most.max(committed.len());
    }
    assert_eq!(most, MOST_SEGMENTS);
    fixture.align(&mut table, &committed);
    assert_eq!(table.len(), 50);
}

#[test]
fn a_batch_that_finds_too_many_segments_waits_for_the_merge_that_is_under_way() {
    let fixture = Fixture::new(1);
    let mut table = GroupTable::new(layout());
    let mut committed: Vec<StateFile> = Vec::new();
    while committed.len() < MOST_SEGMENTS {
        fixture.align(&mut table, &committed);
        committed = fixture.change(&mut table, &one(&format!("k{}", committed.len()), 1), &[]);
        fixture.commit();
    }
    fixture.align(&mut table, &committed);
    let waits = {
        fixture.cancel.cancel();
        fixture.try_change(&mut table, &one("last", 1), &[])
    };
    assert_eq!(waits.unwrap_err().kind, FailureKind::Cancelled);
    let fixture = Fixture {
        cancel: CancelToken::new(),
        ..fixture
    };
    let work = fixture.services.waiting.lock().pop_front().unwrap();
    let adopted = std::thread::scope(|scope| {
        scope.spawn(work);
        fixture.align(&mut table, &committed);
        fixture.change(&mut table, &one("last", 1), &[])
    });
    assert_eq!(adopted.len(), MOST_SEGMENTS - MERGED_AT_ONCE + 2);
    fixture.align(&mut table, &adopted);
    assert_eq!(table.len(), MOST_SEGMENTS + 1);
}

#[test]
fn a_batch_merges_itself_when_the_merge_that_is_under_way_never_ends() {
    let fixture = Fixture::new(1);
    let mut table = GroupTable::new(layout());
    table.waits_at_most(Duration::from_millis(1));
    let mut committed: Vec<StateFile> = Vec::new();
    while committed.len() < MOST_SEGMENTS {
        fixture.align(&mut table, &committed);
        committed = fixture.change(&mut table, &one(&format!("k{}", committed.len()), 1), &[]);
        fixture.commit();
    }
    assert_eq!(
        fixture.services.waiting.lock().len(),
        1,
        "asked for and never begun"
    );
    fixture.align(&mut table, &committed);
    let merged = fixture.change(&mut table, &one("last", 1), &[]);
    assert!(merged.len() < MOST_SEGMENTS, "{}", merged.len());
    fixture.commit();
    fixture.align(&mut table, &merged);
    assert_eq!(table.len(), MOST_SEGMENTS + 1);
    // What comes too late does no harm.
    let expected = content(&table);
    fixture.run_background(1);
    fixture.align(&mut table, &merged);
    let after = fixture.change(&mut table, &BTreeMap::new(), &[]);
    fixture.align(&mut table, &after);
    assert_eq!(content(&table), expected);
}

#[test]
fn a_partition_has_few_merges_at_a_time_and_a_short_one_is_not_held_up_by_a_long_one() {
    let fixture = Fixture::new(100);
    let mut table = GroupTable::new(layout());
    let mut committed: Vec<StateFile> = Vec::new();
    while committed.len() < 4 * MERGED_AT_ONCE {
        fixture.align(&mut table, &committed);
        committed = fixture.change(&mut table, &one(&format!("k{}", committed.len()), 1), &[]);
        fixture.commit();
    }
    assert_eq!(fixture.services.waiting.lock().len(), MOST_JOBS);
    // The second is done before the first.
    let second = fixture.services.waiting.lock().pop_back().unwrap();
    second();
    fixture.align(&mut table, &committed);
    let after = fixture.change(&mut table, &BTreeMap::new(), &[]);
    assert_eq!(after.len(), committed.len() - MERGED_AT_ONCE + 1);
    assert!(after[MERGED_AT_ONCE].file.ends_with(".merged"), "{after:?}");
    fixture.run_background(1);
    fixture.align(&mut table, &after);
    let after = fixture.change(&mut table, &BTreeMap::new(), &[]);
    fixture.align(&mut table, &after);
    assert_eq!(table.len(), 4 * MERGED_AT_ONCE);
}

#[test]
fn what_is_merged_without_its_removals_replaces_only_the_oldest() {
    let fixture = Fixture::new(8);
    let mut table = GroupTable::new(layout());
    let committed = until_a_merge_is_due(&fixture, &mut table);
    fixture.align(&mut table, &committed);
    let run = &committed[..2];
    let at = |files: &[StateFile], is_oldest| {
        let mut other = GroupTable::new(layout());
        fixture.align(&mut other, files);
        other.position_of(run, is_oldest)
    };
    assert_eq!(at(&committed, true), Some(0));
    let moved: Vec<StateFile> = committed[4..].iter().chain(run).cloned().collect();
    assert_eq!(
        (at(&moved, true), at(&moved, false)),
        (None, Some(MERGED_AT_ONCE - 3))
    );
    assert_eq!(at(&committed[1..], false), None, "it lacks one of them");
    let parted = [
        committed[0].clone(),
        committed[2].clone(),
        committed[1].clone(),
    ];
    assert_eq!(at(&parted, false), None);
}

#[test]
fn what_is_due_leaves_out_what_is_being_merged() {
    let few = [1; 8];
    assert_eq!(merging::due(&few, 8, 0), Some(0));
    assert_eq!(merging::due(&few[..7], 7, 0), None);
    let tiers = [100, 10, 1, 1, 1, 1, 1, 1, 1, 1];
    assert_eq!(merging::due(&tiers, 110, 0), Some(2));
    assert_eq!(merging::due(&tiers, 110, 3), None);
    // Rows that are superseded are let go of, but not while others are being merged.
    let superseded = [FEW_ROWS, FEW_ROWS];
    assert_eq!(merging::due(&superseded, 10, 0), Some(0));
    assert_eq!(merging::due(&superseded, 10, 1), None);
    assert_eq!(
        merging::due(&[3 * FEW_ROWS], 10, 0),
        None,
        "nothing to merge it with"
    );
}

#[test]
fn segments_stay_few_and_old_rows_are_let_go() {
    let fixture = Fixture::new(8);
    let mut table = GroupTable::new(layout());
    let mut committed = Vec::new();
    let mut written = 0;
    for round in 0..600i64 {
        let rows = (0..50).map(|key| (format!("k{}", (round * 7 + key) % 2_000), round));
        let rows: BTreeMap<String, i64> = rows.collect();
        fixture.align(&mut table, &committed);
        let after = fixture.change(&mut table, &rows, &[]);
        let is_new = |file: &&StateFile| !committed.contains(*file);
        written += after
            .iter()
            .filter(is_new)
            .map(|file| file.length)
            .sum::<u64>();
        committed = after;
        fixture.commit();
        fixture.run_background(1);
        assert!(
            committed.len() <= 26,
            "{} files in round {round}",
            committed.len()
        );
    }
    fixture.align(&mut table, &committed);
    let kept: u64 = committed.iter().map(|file| file.length).sum();
    assert!(written < 40 * kept, "{written} bytes written for {kept}");
    let rows = table.rows_in_memory();
    assert!(
        rows <= 2 * table.len() + FEW_ROWS + 150,
        "{rows} rows of {} groups",
        table.len()
    );
    let mut restored = GroupTable::new(layout());
    assert!(fixture.align(&mut restored, &committed));
    assert_eq!(content(&restored), content(&table));
}
