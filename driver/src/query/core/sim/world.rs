//! The checkpoint, the sources and the sink, and what must always hold of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millstream_common::{
    ids::{BatchId, Epoch},
    protocol::SinkCommit,
    time::Tick,
};
use millstream_connectors::source::Split;
use serde_json::{Value, json};

use super::{
    super::super::{
        checkpoint::{self, RawCheckpoint, recover},
        entries::{self, Commit, Name, Offsets, decode},
        event::PutResult,
    },
    source_ids,
};

/// What is outside of drivers.
#[derive(Default)]
pub(in super::super) struct World {
    pub(in super::super) entries: BTreeMap<String, Bytes>,
    /// Numbers `0..numbers` are in source 0; files `0..files` in source 1.
    pub(in super::super) numbers: u64,
    pub(in super::super) files: u64,
    /// What offsets entries and commits were won first, whatever was purged since.
    pub(in super::super) logged: BTreeMap<BatchId, Offsets>,
    pub(in super::super) committed: BTreeMap<BatchId, Commit>,
    pub(in super::super) published: BTreeMap<BatchId, Vec<SinkCommit>>,
    pub(in super::super) wall_millis: i64,
    pub(in super::super) tick: Tick,
}

impl World {
    pub(in super::super) fn new() -> Self {
        Self {
            tick: Tick(1_000_000),
            ..Self::default()
        }
    }

    pub(in super::super) fn advance(&mut self, millis: u64) {
        self.tick = Tick(self.tick.0 + millis * 1_000);
        self.wall_millis += millis as i64;
    }

    pub(super) fn list(&self, prefix: &str) -> Vec<String> {
        let names = self.entries.keys();
        names
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect()
    }

    pub(super) fn highest_epoch(&self) -> Epoch {
        let names = self.list(entries::EPOCHS);
        match names.last().and_then(|name| Name::parse(name)) {
            Some(Name::Epoch(epoch)) => epoch,
            _ => Epoch(0),
        }
    }

    pub(super) fn raw(&self) -> RawCheckpoint {
        let logs = self.entries.iter();
        let logs = logs.filter(|(name, _)| !name.starts_with(entries::EPOCHS));
        RawCheckpoint {
            entries: logs
                .map(|(name, bytes)| (name.clone(), bytes.clone()))
                .collect(),
            highest_epoch: self.highest_epoch(),
        }
    }

    pub(super) fn put(&mut self, name: &str, bytes: &Bytes) -> PutResult {
        if let Some(found) = self.entries.get(name) {
            return PutResult::Lost(found.clone());
        }
        self.entries.insert(name.to_owned(), bytes.clone());
        match Name::parse(name) {
            Some(Name::Offsets(batch)) => self.offsets_landed(name, batch, bytes),
            Some(Name::Commit(batch)) => self.commit_landed(name, batch, bytes),
            _ => {}
        }
        self.is_recoverable();
        PutResult::Won
    }

    pub(super) fn offsets_landed(&mut self, name: &str, batch: BatchId, bytes: &Bytes) {
        let entry: Offsets = decode(name, bytes).expect("own entry");
        if let Some((newest, _)) = self.logged.last_key_value()
            && batch <= *newest
        {
            // The name is free because it was purged: a stray.
            return;
        }
        assert_eq!(batch.0, self.logged.len() as u64, "batches have no gaps");
        if batch.0 > 0 {
            let before = BatchId(batch.0 - 1);
            assert!(
                self.committed.contains_key(&before),
                "{before} is committed before {batch} is logged"
            );
            assert!(
                self.published.contains_key(&before),
                "{before} is published before {batch} is logged"
            );
        }
        self.logged.insert(batch, entry);
        self.input_is_partitioned();
    }

    pub(super) fn commit_landed(&mut self, name: &str, batch: BatchId, bytes: &Bytes) {
        let entry: Commit = decode(name, bytes).expect("own entry");
        if let Some((newest, _)) = self.committed.last_key_value()
            && batch <= *newest
        {
            return;
        }
        let logged = &self.logged[&batch];
        let content = &entry.outputs[0].winners[0].payload["input"];
        assert_eq!(
            content,
            &content_of(&splits_of(logged)),
            "what is committed is what was logged"
        );
        self.committed.insert(batch, entry);
    }

    /// Every number and every file is in at most one batch, numbers in order.
    pub(super) fn input_is_partitioned(&self) {
        let mut next = None;
        let mut files = BTreeSet::new();
        for entry in self.logged.values() {
            for split in &entry.sources[0].splits {
                let from = split.split[0].as_u64().expect("from");
                assert!(
                    next.is_none_or(|next| next == from),
                    "numbers follow: {next:?} {from}"
                );
                next = split.split[1].as_u64();
            }
            for split in &entry.sources[1].splits {
                let file = split.split.as_u64().expect("file");
                assert!(
                    files.insert(file),
                    "file {file} twice, again in {}",
                    entry.batch
                );
            }
        }
    }

    /// At every moment a driver can go on from what is there, and again when it did the first steps and died.
    pub(super) fn is_recoverable(&self) {
        let mut raw = self.raw();
        if !raw.entries.contains_key(entries::METADATA) {
            return;
        }
        let metadata = checkpoint::metadata(&raw).expect("readable");
        let first = recover(&raw, metadata.clone(), &source_ids()).expect("recoverable");
        assert_eq!(first.next.0, self.logged.len() as u64);
        assert_eq!(
            first.uncommitted.is_some(),
            self.logged.len() > self.committed.len()
        );
        for stray in &first.strays {
            raw.entries.remove(stray);
        }
        let mut second = recover(&raw, metadata, &source_ids()).expect("recoverable again");
        assert!(second.strays.is_empty());
        second.strays.clone_from(&first.strays);
        assert_eq!(first.uncommitted, second.uncommitted);
        assert_eq!(first.newest_commit, second.newest_commit);
    }

    pub(super) fn publish(&mut self, batch: BatchId, winners: &[SinkCommit]) {
        let committed = &self.committed[&batch];
        assert_eq!(
            committed.outputs[0].winners, winners,
            "what is published is what was committed"
        );
        self.published.insert(batch, winners.to_vec());
    }

    /// Everything that is there was taken once.
    pub(in super::super) fn everything_is_committed(&self) {
        assert_eq!(self.logged.len(), self.committed.len());
        assert_eq!(self.logged.len(), self.published.len());
        let newest = self.logged.values().next_back().expect("a batch");
        assert_eq!(newest.sources[0].position, json!(self.numbers));
        let files: usize = self
            .logged
            .values()
            .map(|entry| entry.sources[1].splits.len())
            .sum();
        assert_eq!(files as u64, self.files);
    }
}

fn splits_of(entry: &Offsets) -> Vec<Vec<Split>> {
    entry
        .sources
        .iter()
        .map(|source| source.splits.clone())
        .collect()
}

pub(super) fn content_of(splits: &[Vec<Split>]) -> Value {
    serde_json::to_value(splits).expect("json")
}
