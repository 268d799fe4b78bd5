use millstream_common::time::BatchTime;
use millstream_connectors::source::PlannedInput;
use millstream_dataflow::plan::Plan;

use super::{
    super::entries::{Author, LogEntry, encode},
    *,
};

fn author(epoch: u64) -> Author {
    Author {
        epoch: Epoch(epoch),
        nonce: format!("n-{epoch}"),
    }
}

fn add<T: LogEntry>(raw: &mut RawCheckpoint, name: Name, entry: &T) {
    let name = name.to_string();
    let bytes = encode(&name, entry).expect("entry");
    raw.entries.insert(name, bytes);
}

fn sources() -> [String; 1] {
    ["s".to_owned()]
}

fn checkpoint(offsets: &[u64], commits: &[u64]) -> RawCheckpoint {
    let mut raw = RawCheckpoint::default();
    let metadata = Metadata {
        author: author(1),
        query: millstream_common::ids::QueryId::random(),
        version: 1,
        release: "0".into(),
        fingerprint: Plan::default().checkpoint_fingerprint(1, 1_000),
        routing_version: 1,
        arguments: Value::Null,
        configuration: BTreeMap::new(),
        recorded: BTreeMap::new(),
    };
    add(&mut raw, Name::Metadata, &metadata);
    let start = SourceStart {
        author: author(1),
        id: "s".into(),
        start: Value::Null,
    };
    add(&mut raw, Name::Start(SourceId(0)), &start);
    for batch in offsets {
        let entry = Offsets {
            author: author(2),
            batch: BatchId(*batch),
            batch_time: BatchTime(0),
            build_id: "b".into(),
            sources: vec![PlannedInput {
                splits: Vec::new(),
                position: Value::from(*batch),
            }],
            watermarks: BTreeMap::new(),
            broadcasts: BTreeMap::new(),
            tables: BTreeMap::new(),
            configuration: BTreeMap::new(),
        };
        add(&mut raw, Name::Offsets(BatchId(*batch)), &entry);
    }
    for batch in commits {
        let entry = Commit {
            author: author(2),
            batch: BatchId(*batch),
            outputs: Vec::new(),
            state: Vec::new(),
            event_time_maxima: BTreeMap::new(),
            next_watermarks: BTreeMap::new(),
            no_data_batch_due: false,
        };
        add(&mut raw, Name::Commit(BatchId(*batch)), &entry);
    }
    raw
}

fn recover(raw: &RawCheckpoint, sources: &[String]) -> Result<Recovered, CheckpointError> {
    super::recover(raw, metadata(raw)?, sources)
}

fn newest(recovered: &Recovered) -> (Option<u64>, Option<u64>, u64, u64) {
    let committed = recovered.newest_commit.as_ref();
    let uncommitted = recovered.uncommitted.as_ref();
    (
        committed.map(|batch| batch.commit.batch.0),
        uncommitted.map(|entry| entry.batch.0),
        recovered.oldest.0,
        recovered.next.0,
    )
}

#[test]
fn the_newest_run_counts_and_what_lies_before_it_is_stray() {
    let cases: [(&[u64], &[u64], _, usize); 8] = [
        (&[], &[], (None, None, 0, 0), 0),
        (&[0], &[], (None, Some(0), 0, 1), 0),
        (&[0, 1], &[0], (Some(0), Some(1), 0, 2), 0),
        (&[0, 1], &[0, 1], (Some(1), None, 0, 2), 0),
        // A superseded driver won names that were purged.
        (&[3, 7, 8, 9], &[3, 7, 8], (Some(8), Some(9), 7, 10), 2),
        // A purge died between the two entries of batch 6.
        (&[7, 8], &[6, 7, 8], (Some(8), None, 7, 9), 1),
        // A superseded driver won just the name before the run.
        (&[6, 7, 8], &[7, 8], (Some(8), None, 6, 9), 0),
        // A commit was lost.
        (&[0, 1, 2, 3], &[0, 2, 3], (Some(3), None, 0, 4), 1),
    ];
    for (offsets, commits, wanted, strays) in cases {
        let recovered = recover(&checkpoint(offsets, commits), &sources()).expect("sound");
        assert_eq!(newest(&recovered), wanted, "{offsets:?} {commits:?}");
        assert_eq!(recovered.strays.len(), strays, "{offsets:?} {commits:?}");
    }
}

#[test]
fn what_drivers_can_not_have_done_is_refused() {
    let cases: [(&[u64], &[u64], Name); 5] = [
        (&[0, 1], &[], Name::Commit(BatchId(0))),
        (&[4, 5, 6], &[4], Name::Commit(BatchId(5))),
        (&[], &[3], Name::Offsets(BatchId(3))),
        (&[3], &[3, 4], Name::Offsets(BatchId(4))),
        (&[3, 5], &[3, 4], Name::Offsets(BatchId(4))),
    ];
    for (offsets, commits, wanted) in cases {
        let error = recover(&checkpoint(offsets, commits), &sources()).expect_err("refused");
        let CheckpointError::Incomplete { missing, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*missing, wanted.to_string(), "{offsets:?} {commits:?}");
    }
}

#[test]
fn a_source_gets_what_follows_seen_and_at_least_the_newest() {
    let mut raw = checkpoint(&[4, 5, 6], &[4, 5]);
    let batches = |raw: &RawCheckpoint| -> Vec<u64> {
        let recovered = recover(raw, &sources()).expect("sound");
        let history = recovered.histories[0].clone().expect("history");
        history.logged.iter().map(|(batch, _)| batch.0).collect()
    };
    assert_eq!(batches(&raw), [4, 5, 6]);
    for (seen, wanted) in [(3, vec![4, 5, 6]), (4, vec![5, 6]), (5, vec![6])] {
        let entry = SourceSeen {
            author: author(1),
            batch: BatchId(seen),
            seen: Value::Null,
        };
        add(&mut raw, Name::Seen(SourceId(0), BatchId(seen)), &entry);
        assert_eq!(batches(&raw), wanted, "seen {seen}");
    }
    let all = checkpoint(&[4, 5], &[4, 5]);
    let mut seen_all = all.clone();
    let entry = SourceSeen {
        author: author(1),
        batch: BatchId(5),
        seen: Value::Null,
    };
    add(&mut seen_all, Name::Seen(SourceId(0), BatchId(5)), &entry);
    assert_eq!(batches(&seen_all), [5]);
}

#[test]
fn sources_in_another_order_are_refused() {
    let mut raw = checkpoint(&[0, 1], &[0]);
    let other = SourceStart {
        author: author(1),
        id: "t".into(),
        start: Value::Null,
    };
    add(&mut raw, Name::Start(SourceId(1)), &other);
    for batch in [0, 1] {
        let name = Name::Offsets(BatchId(batch));
        let mut entry: Offsets =
            crate::query::entries::decode("x", &raw.entries[&name.to_string()]).expect("entry");
        entry.sources.push(entry.sources[0].clone());
        add(&mut raw, name, &entry);
    }
    let named = |ids: [&str; 2]| ids.map(str::to_owned);
    recover(&raw, &named(["s", "t"])).expect("as before");
    let error = recover(&raw, &named(["t", "s"])).expect_err("moved");
    assert_eq!(
        error,
        CheckpointError::SourceMoved {
            position: 0,
            was: "s".into(),
            now: "t".into(),
        }
    );
    assert!(
        error
            .to_string()
            .contains("source `t` stands where source `s` stood"),
        "{error}"
    );
}

#[test]
fn a_claim_never_goes_below_an_entry() {
    let recovered = recover(&checkpoint(&[0], &[]), &sources()).expect("sound");
    assert_eq!(recovered.highest_epoch, Epoch(2));
}

#[test]
fn other_partition_counts_and_newer_layouts_are_named() {
    let raw = checkpoint(&[], &[]);
    let metadata = recover(&raw, &sources())
        .expect("sound")
        .metadata
        .expect("metadata");
    let now = Plan::default().checkpoint_fingerprint(4, 1_000);
    let expectation = Expectation {
        fingerprint: &now,
        routing_version: 2,
    };
    let error = agree(&metadata, &expectation).expect_err("differs");
    assert!(
        error.to_string().contains("partition count: was 1, is 4"),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("keys to partitions: was 1, is 2"),
        "{error}"
    );
    let newer = Metadata {
        version: 2,
        ..metadata
    };
    assert!(matches!(
        agree(&newer, &expectation),
        Err(CheckpointError::Newer { .. })
    ));
}
