//! The checkpoint's storage, as the state machine asks for it.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use millstream_common::{
    failpoint,
    failure::Retry,
    ids::{BatchId, Epoch},
    log_store::{self, LogStore, PutOutcome},
    time::Clock,
};
use millstream_dataflow::state;
use std::time::Duration;

use super::super::{
    checkpoint::{CheckpointError, RawCheckpoint},
    entries::{self, Metadata, Name},
    error::{QueryError, StoreFailure},
    event::PutResult,
};

/// How often a passing failure is tried again.
const TRIES: u32 = 5;
/// The first pause before that; it doubles each time.
const PAUSE: Duration = Duration::from_millis(100);
/// How often reading is begun anew because another driver changes what is read.
const READS: u32 = 20;
/// Entries that are read at a time: on an object store each takes a while.
const READ_AT_ONCE: usize = 16;

/// What a checkpoint says of its query; nothing before the first start. Changes nothing.
///
/// # Errors
/// When it can't be read.
pub async fn read_metadata(store: &dyn LogStore) -> Result<Option<Metadata>, QueryError> {
    let bytes = store
        .get(entries::METADATA)
        .await
        .map_err(|error| failure("read", entries::METADATA, store, &error))?;
    match bytes {
        Some(bytes) => Ok(Some(entries::decode(entries::METADATA, &bytes)?)),
        None => Ok(None),
    }
}

/// `offsets` and `12` of `offsets/00000000000000000012`.
fn kind_and_number(name: &str) -> (&str, &str) {
    let (kind, number) = name.rsplit_once('/').unwrap_or((name, ""));
    let significant = number.trim_start_matches('0');
    let number = if significant.is_empty() && !number.is_empty() {
        "0"
    } else {
        significant
    };
    (kind, number)
}

/// The store with a clock for its pauses.
#[derive(Clone)]
pub(super) struct Storage {
    pub(super) store: Arc<dyn LogStore>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Storage {
    /// Reads beside a driver that may still be running. Names of offsets entries and commits are taken together, and sources' entries last: what a
    /// purge deletes meanwhile has its replacement among them.
    pub(super) async fn read(&self) -> Result<RawCheckpoint, StoreFailure> {
        for _ in 0..READS {
            if let Some(raw) = self.read_once().await? {
                return Ok(raw);
            }
        }
        Err(StoreFailure {
            what: format!("read {}", self.store.location()),
            reason: "it changes while it is read; is another driver running?".to_owned(),
        })
    }

    async fn read_once(&self) -> Result<Option<RawCheckpoint>, StoreFailure> {
        let mut raw = RawCheckpoint {
            highest_epoch: self.highest_epoch().await?,
            ..RawCheckpoint::default()
        };
        if let Some(bytes) = self.get(entries::METADATA).await? {
            raw.entries.insert(entries::METADATA.to_owned(), bytes);
        }
        let offsets = self.list(entries::OFFSETS).await?;
        let commits = self.list(entries::COMMITS).await?;
        // An offsets entry comes between any two commits: without a new one, both listings are of one moment.
        if self.list(entries::OFFSETS).await? != offsets {
            return Ok(None);
        }
        for (name, found) in self.get_all(offsets.into_iter().chain(commits)).await? {
            // Gone means purged.
            if let Some(bytes) = found {
                raw.entries.insert(name, bytes);
            }
        }
        let mut sources = self.list(entries::SOURCES).await?;
        sources.retain(|name| Name::parse(name).is_some());
        for (name, found) in self.get_all(sources.into_iter()).await? {
            let Some(bytes) = found else {
                // Its successor may not have been listed.
                return Ok(None);
            };
            raw.entries.insert(name, bytes);
        }
        Ok(Some(raw))
    }

    /// What each name holds, some read at a time.
    async fn get_all(
        &self,
        names: impl Iterator<Item = String>,
    ) -> Result<Vec<(String, Option<Bytes>)>, StoreFailure> {
        let reads = names.map(|name| async move {
            let found = self.get(&name).await?;
            Ok((name, found))
        });
        stream::iter(reads)
            .buffer_unordered(READ_AT_ONCE)
            .try_collect()
            .await
    }

    /// Why a query really ended: of a driver that was superseded anything may fail, as its successor works on the same files and topics. `ours` is 0
    /// before a claim.
    pub(super) async fn cause_of(&self, error: QueryError, ours: Epoch) -> QueryError {
        let may_follow = matches!(
            error,
            QueryError::Batch { .. } | QueryError::Source { .. } | QueryError::Output { .. }
        );
        if !may_follow || ours == Epoch::default() {
            return error;
        }
        match self.highest_epoch().await {
            Ok(by) if by > ours && CheckpointError::check_claim(by).is_ok() => {
                tracing::warn!(%error, "failed after another driver had taken over");
                QueryError::Superseded { ours, by }
            }
            Ok(_) => error,
            Err(failure) => {
                tracing::debug!(%failure, "could not see whether another driver has taken over");
                error
            }
        }
    }

    pub(super) async fn highest_epoch(&self) -> Result<Epoch, StoreFailure> {
        let names = self.list(entries::EPOCHS).await?;
        let epochs = names.iter().filter_map(|name| match Name::parse(name) {
            Some(Name::Epoch(epoch)) => Some(epoch),
            _ => None,
        });
        Ok(epochs.max().unwrap_or_default())
    }

    /// Puts an entry. When the outcome isn't known it is put again: the same bytes are ours, as they carry a nonce.
    pub(super) async fn put(&self, name: &str, bytes: Bytes) -> Result<PutResult, StoreFailure> {
        let (kind, number) = kind_and_number(name);
        failpoint!("driver.put.before", kind = kind, number = number);
        let result = self.put_until_known(name, bytes).await;
        failpoint!("driver.put.after", kind = kind, number = number);
        result
    }

    async fn put_until_known(&self, name: &str, bytes: Bytes) -> Result<PutResult, StoreFailure> {
        let mut tries = 0;
        loop {
            let mut outcome = self.store.put_if_absent(name, bytes.clone()).await;
            if outcome.is_err() && matches!(self.store.get(name).await, Ok(Some(_))) {
                // It is there, which doesn't say that a power cut leaves it there. A put that succeeds does.
                outcome = self.store.put_if_absent(name, bytes.clone()).await;
            }
            let error = match outcome {
                Ok(PutOutcome::Won) => return Ok(PutResult::Won),
                Ok(PutOutcome::Lost(found)) if found == bytes => return Ok(PutResult::Won),
                Ok(PutOutcome::Lost(found)) => return Ok(PutResult::Lost(found)),
                Err(error) => error,
            };
            tries += 1;
            self.pause_or_fail(tries, "put", name, &error).await?;
        }
    }

    pub(super) async fn delete(&self, names: &[String]) -> Result<(), StoreFailure> {
        for name in names {
            self.store
                .delete(name)
                .await
                .map_err(|error| failure("delete", name, self.store.as_ref(), &error))?;
        }
        Ok(())
    }

    /// Deletes state files that no retained commit lists; those of later batches or epochs may be in the making.
    pub(super) async fn sweep_state(
        &self,
        reached: &BTreeSet<String>,
        through: BatchId,
        epoch: Epoch,
    ) -> Result<(), StoreFailure> {
        let names = self.list(state::STATE).await?;
        let is_left =
            |name: &String| !reached.contains(name) && state::is_left(name, through, epoch);
        let left: Vec<String> = names.into_iter().filter(is_left).collect();
        self.delete(&left).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreFailure> {
        let mut tries = 0;
        loop {
            match self.store.get(name).await {
                Ok(found) => return Ok(found),
                Err(error) => {
                    tries += 1;
                    self.pause_or_fail(tries, "read", name, &error).await?;
                }
            }
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreFailure> {
        let mut tries = 0;
        loop {
            match self.store.list(prefix).await {
                Ok(found) => return Ok(found),
                Err(error) => {
                    tries += 1;
                    self.pause_or_fail(tries, "list", prefix, &error).await?;
                }
            }
        }
    }

    async fn pause_or_fail(
        &self,
        tries: u32,
        what: &str,
        name: &str,
        error: &log_store::Error,
    ) -> Result<(), StoreFailure> {
        if error.retry() == Retry::Never || tries >= TRIES {
            return Err(failure(what, name, self.store.as_ref(), error));
        }
        let pause = PAUSE.saturating_mul(1 << tries.min(10));
        self.clock.until(self.clock.now().after(pause)).await;
        Ok(())
    }
}

pub(super) fn failure(
    what: &str,
    name: &str,
    store: &dyn LogStore,
    error: &log_store::Error,
) -> StoreFailure {
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        reason = format!("{reason}: {error}");
        cause = error.source();
    }
    StoreFailure {
        what: format!("{what} {name} in {}", store.location()),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use async_trait::async_trait;
    use millstream_common::{
        failure::{Failure, FailureKind},
        ids::BatchId,
        log_store::MemoryLogStore,
        time::ManualClock,
    };
    use parking_lot::Mutex;
    use tokio::sync::Barrier;

    use super::*;

    /// A store that keeps what is put, but whose first puts fail: their bytes are seen, and may not be there after a power cut.
    #[derive(Debug)]
    struct Unsynced {
        inner: MemoryLogStore,
        failures: Mutex<u32>,
    }

    #[async_trait]
    impl LogStore for Unsynced {
        async fn put_if_absent(
            &self,
            name: &str,
            bytes: Bytes,
        ) -> Result<PutOutcome, log_store::Error> {
            let outcome = self.inner.put_if_absent(name, bytes).await;
            let mut failures = self.failures.lock();
            if *failures > 0 {
                *failures -= 1;
                return Err(log_store::Error::Io {
                    action: "sync the folder",
                    path: name.into(),
                    advice: "see to the disk",
                    source: std::io::Error::from_raw_os_error(5),
                });
            }
            outcome
        }

        async fn get(&self, name: &str) -> Result<Option<Bytes>, log_store::Error> {
            self.inner.get(name).await
        }

        async fn list(&self, prefix: &str) -> Result<Vec<String>, log_store::Error> {
            self.inner.list(prefix).await
        }

        async fn delete(&self, name: &str) -> Result<(), log_store::Error> {
            self.inner.delete(name).await
        }

        fn location(&self) -> String {
            "unsynced".to_owned()
        }
    }

    fn storage(failures: u32) -> Storage {
        Storage {
            store: Arc::new(Unsynced {
                inner: MemoryLogStore::new(),
                failures: Mutex::new(failures),
            }),
            clock: Arc::new(ManualClock::new(0)),
        }
    }

    #[tokio::test]
    async fn a_put_that_can_be_read_back_counts_only_once_a_put_succeeded() {
        let name = Name::Commit(BatchId(0)).to_string();
        let entry = || Bytes::from_static(b"ours");
        let put = storage(1).put(&name, entry()).await;
        assert!(matches!(put, Ok(PutResult::Won)), "{put:?}");
        let put = storage(2).put(&name, entry()).await;
        let failure = put.expect_err("neither put succeeded");
        assert!(failure.to_string().contains("sync the folder"), "{failure}");
    }

    /// Gives an entry only once so many are being read.
    #[derive(Debug)]
    struct Together {
        inner: MemoryLogStore,
        entries: Barrier,
        reading: AtomicUsize,
        most: AtomicUsize,
    }

    #[async_trait]
    impl LogStore for Together {
        async fn put_if_absent(
            &self,
            name: &str,
            bytes: Bytes,
        ) -> Result<PutOutcome, log_store::Error> {
            self.inner.put_if_absent(name, bytes).await
        }

        async fn get(&self, name: &str) -> Result<Option<Bytes>, log_store::Error> {
            if name != entries::METADATA {
                let reading = self.reading.fetch_add(1, Ordering::AcqRel) + 1;
                self.most.fetch_max(reading, Ordering::AcqRel);
                self.entries.wait().await;
                self.reading.fetch_sub(1, Ordering::AcqRel);
            }
            self.inner.get(name).await
        }

        async fn list(&self, prefix: &str) -> Result<Vec<String>, log_store::Error> {
            self.inner.list(prefix).await
        }

        async fn delete(&self, name: &str) -> Result<(), log_store::Error> {
            self.inner.delete(name).await
        }

        fn location(&self) -> String {
            "together".to_owned()
        }
    }

    #[tokio::test]
    async fn entries_are_read_sixteen_at_a_time() {
        let store = Arc::new(Together {
            inner: MemoryLogStore::new(),
            entries: Barrier::new(READ_AT_ONCE),
            reading: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let storage = Storage {
            store: Arc::clone(&store) as _,
            clock: Arc::new(ManualClock::new(0)),
        };
        let mut written = BTreeMap::new();
        for batch in 0..24 {
            for name in [Name::Offsets(BatchId(batch)), Name::Commit(BatchId(batch))] {
                let name = name.to_string();
                let bytes = Bytes::from(name.clone());
                let put = store.put_if_absent(&name, bytes.clone()).await;
                assert_eq!(put.expect("put"), PutOutcome::Won);
                written.insert(name, bytes);
            }
        }
        let reading = tokio::time::timeout(Duration::from_secs(60), storage.read());
        let raw = reading.await.expect("in time").expect("read");
        assert_eq!(raw.entries, written);
        assert_eq!(store.most.load(Ordering::Acquire), READ_AT_ONCE);
    }

    #[tokio::test]
    async fn what_fails_after_a_take_over_is_told_as_the_take_over() {
        let storage = storage(0);
        let failed = || QueryError::Batch {
            batch: BatchId(3),
            failure: Box::new(Failure::new(FailureKind::Io, "it is not of this query")),
        };
        for epoch in [1, 2] {
            let name = Name::Epoch(Epoch(epoch)).to_string();
            let put = storage.put(&name, Bytes::from_static(b"claim")).await;
            assert!(matches!(put, Ok(PutResult::Won)), "{put:?}");
        }
        let ours = Epoch(1);
        let by = Epoch(2);
        assert_eq!(
            storage.cause_of(failed(), ours).await,
            QueryError::Superseded { ours, by }
        );
        assert_eq!(storage.cause_of(failed(), by).await, failed());
        assert_eq!(
            storage.cause_of(failed(), Epoch::default()).await,
            failed(),
            "this driver has claimed nothing yet"
        );
        let altered = Name::Epoch(Epoch(u64::MAX)).to_string();
        let put = storage.put(&altered, Bytes::new()).await;
        assert!(matches!(put, Ok(PutResult::Won)), "{put:?}");
        assert_eq!(
            storage.cause_of(failed(), ours).await,
            failed(),
            "no driver made that claim"
        );
        let internal = QueryError::Internal("a part is gone".to_owned());
        assert_eq!(storage.cause_of(internal.clone(), ours).await, internal);
    }
}
