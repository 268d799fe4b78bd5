use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use millstream_common::{
    ids::{BatchId, BlockId, Epoch, QueryId, StageId, TaskId},
    telemetry::metrics::Metrics,
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::{BlockStore, SpillFolder};
use crate::memory::MemoryBudget;

struct Fixture {
    store: BlockStore,
    budget: Arc<MemoryBudget>,
    spill: Arc<SpillFolder>,
    _parent: TempDir,
}

fn fixture(block_limit: u64) -> Fixture {
    let parent = tempfile::tempdir().expect("folder");
    let spill = Arc::new(SpillFolder::create(parent.path()).expect("spill folder"));
    let budget = Arc::new(MemoryBudget::new(block_limit * 2, block_limit));
    let store = BlockStore::new(
        Arc::clone(&budget),
        Arc::clone(&spill),
        Metrics::of_executor(),
    );
    Fixture {
        store,
        budget,
        spill,
        _parent: parent,
    }
}

fn block(task_partition: u32, partition: u32) -> BlockId {
    BlockId {
        task: TaskId {
            query: QueryId(uuid::Uuid::nil()),
            epoch: Epoch(1),
            batch: BatchId(0),
            stage: StageId(0),
            partition: task_partition,
            attempt: 0,
        },
        exchange: 0,
        partition,
    }
}

fn read_all(store: &BlockStore, block: BlockId) -> Vec<Bytes> {
    let frames = store.frames(block).expect("block");
    frames
        .iter()
        .map(|frame| frame.read().expect("readable"))
        .collect()
}

fn spill_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("folder");
    entries
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.to_string_lossy().contains("blocks-"))
        .collect()
}

#[test]
fn memory_frames_come_back_without_a_copy() {
    let fixture = fixture(1_000);
    let frame = Bytes::from(vec![1; 100]);
    assert!(
        fixture
            .store
            .append(block(0, 0), frame.clone())
            .expect("append")
    );
    assert!(
        !fixture
            .store
            .append(block(0, 1), frame.clone())
            .expect("append")
    );
    let stored = read_all(&fixture.store, block(0, 0));
    assert_eq!(stored[0].as_ptr(), frame.as_ptr());
    assert_eq!(fixture.budget.block_bytes(), 200);
}

#[test]
fn past_the_budget_the_oldest_task_goes_to_disk_and_reads_the_same() {
    let fixture = fixture(1_000);
    for task in 0..4 {
        for byte in 0..3u8 {
            let frame = Bytes::from(vec![task as u8 * 10 + byte; 100]);
            fixture.store.append(block(task, 0), frame).expect("append");
        }
    }
    assert!(fixture.budget.block_bytes() <= 1_000);
    assert!(fixture.store.spilled_bytes() >= 300);
    let oldest = fixture.store.frames(block(0, 0)).expect("block");
    assert!(oldest.iter().all(|frame| frame.in_memory().is_none()));
    let newest = fixture.store.frames(block(3, 0)).expect("block");
    assert!(newest.iter().all(|frame| frame.in_memory().is_some()));
    for task in 0..4 {
        let first_bytes: Vec<u8> = read_all(&fixture.store, block(task, 0))
            .iter()
            .map(|frame| frame[0])
            .collect();
        assert_eq!(first_bytes, [0, 1, 2].map(|byte| task as u8 * 10 + byte));
    }
}

#[test]
fn of_a_large_task_goes_to_disk_what_must() {
    let fixture = fixture(1_000);
    for byte in 0..11u8 {
        let frame = Bytes::from(vec![byte; 100]);
        fixture.store.append(block(0, 0), frame).expect("append");
    }
    assert_eq!(fixture.budget.block_bytes(), 800);
    assert_eq!(fixture.store.spilled_bytes(), 300);
}

#[test]
fn dropping_gives_memory_and_disk_back() {
    let fixture = fixture(250);
    for task in 0..3 {
        let frame = Bytes::from(vec![0; 100]);
        fixture.store.append(block(task, 0), frame).expect("append");
    }
    assert_eq!(spill_files(fixture.spill.path()).len(), 1);
    for task in 0..3 {
        fixture.store.drop_task(block(task, 0).task);
    }
    assert_eq!(fixture.budget.block_bytes(), 0);
    assert_eq!(fixture.store.spilled_bytes(), 0);
    assert!(spill_files(fixture.spill.path()).is_empty());
    assert!(fixture.store.frames(block(0, 0)).is_none());
}

#[test]
fn an_altered_or_cut_file_is_unreadable_never_wrong() {
    let fixture = fixture(10);
    let frame = Bytes::from(vec![7; 100]);
    fixture.store.append(block(0, 0), frame).expect("append");
    let path = spill_files(fixture.spill.path()).pop().expect("file");
    let mut bytes = fs::read(&path).expect("read");
    bytes[50] ^= 1;
    fs::write(&path, &bytes).expect("write");
    let stored = fixture.store.frames(block(0, 0)).expect("block");
    let error = stored[0].read().expect_err("altered");
    assert!(error.to_string().contains("differ"), "{error}");
    fs::write(&path, &bytes[..60]).expect("write");
    assert!(stored[0].read().is_err());
}

#[test]
fn a_disk_that_refuses_names_path_and_key() {
    let fixture = fixture(10);
    fs::remove_dir_all(fixture.spill.path()).expect("remove");
    let failure = fixture
        .store
        .append(block(0, 0), Bytes::from(vec![7; 100]))
        .expect_err("refused");
    assert_eq!(failure.kind, millstream_common::failure::FailureKind::Io);
    let folder = fixture.spill.path().display().to_string();
    assert!(failure.message.contains(&folder), "{failure}");
    assert!(failure.message.contains("shuffle.spill_dir"), "{failure}");
}

#[test]
fn the_folders_of_the_dead_are_swept_and_those_of_the_living_stay() {
    let parent = tempfile::tempdir().expect("folder");
    let living = SpillFolder::create(parent.path()).expect("folder");
    let dead = parent.path().join("millstream-spill-dead");
    fs::create_dir(&dead).expect("folder");
    fs::write(dead.join("lock"), "").expect("lock");
    fs::write(dead.join("blocks-0"), "x").expect("file");
    let foreign = parent.path().join("else");
    fs::create_dir(&foreign).expect("folder");
    let next = SpillFolder::create(parent.path()).expect("folder");
    assert!(!dead.exists());
    assert!(living.path().exists() && next.path().exists() && foreign.exists());
    let path = living.path().to_owned();
    drop(living);
    assert!(!path.exists());
}

proptest! {
    #[test]
    fn whatever_the_budget_blocks_read_as_written(
        limit in 1u64..2_000,
        appends in proptest::collection::vec((0u32..4, 0u32..3, 1usize..200), 1..80),
    ) {
        let fixture = fixture(limit);
        let mut model: std::collections::BTreeMap<BlockId, Vec<Bytes>> = Default::default();
        for (number, (task, partition, length)) in appends.into_iter().enumerate() {
            let frame = Bytes::from(vec![number as u8; length]);
            fixture.store.append(block(task, partition), frame.clone()).expect("append");
            model.entry(block(task, partition)).or_default().push(frame);
            prop_assert!(fixture.budget.block_bytes() <= limit);
        }
        for (id, frames) in model {
            prop_assert_eq!(read_all(&fixture.store, id), frames);
        }
        fixture.store.clear();
        prop_assert_eq!((fixture.budget.block_bytes(), fixture.store.spilled_bytes()), (0, 0));
    }
}
