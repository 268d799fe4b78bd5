//! The logs of a query without a checkpoint: in the driver's memory, gone with it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Error, LogStore, PutOutcome, name};

/// A store in memory. What is retained is bounded by the driver, which purges as it does on disk.
#[derive(Debug, Default)]
pub struct MemoryLogStore {
    entries: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryLogStore {
    /// A store without entries.
    pub fn new() -> MemoryLogStore {
        MemoryLogStore::default()
    }
}

#[async_trait]
impl LogStore for MemoryLogStore {
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<PutOutcome, Error> {
        name::check(name)?;
        match self.entries.lock().entry(name.to_owned()) {
            Entry::Vacant(vacant) => {
                vacant.insert(bytes);
                Ok(PutOutcome::Won)
            }
            Entry::Occupied(existing) if *existing.get() == bytes => Ok(PutOutcome::Won),
            Entry::Occupied(existing) => Ok(PutOutcome::Lost(existing.get().clone())),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        name::check(name)?;
        Ok(self.entries.lock().get(name).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        name::folder_of(prefix)?;
        let entries = self.entries.lock();
        let names = entries.range(prefix.to_owned()..).map(|(name, _)| name);
        Ok(names
            .take_while(|name| name.starts_with(prefix))
            .cloned()
            .collect())
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        name::check(name)?;
        self.entries.lock().remove(name);
        Ok(())
    }

    fn location(&self) -> String {
        "the driver's memory".to_owned()
    }
}
