//! What the job function saw of the outside on the driver, for executors and for later starts.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use millstream_common::working_folder::working_folder;
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{context::Side, error::Error};

/// The driver's working folder when the application was first started.
const WORKING_FOLDER: &str = "millstream.working_folder";

/// Values by name. Cheap to clone; clones are the same.
#[derive(Clone)]
pub(crate) struct Recorded {
    side: Side,
    values: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl Default for Recorded {
    fn default() -> Self {
        Self::new(Side::Driver, BTreeMap::new())
    }
}

impl Recorded {
    pub(crate) fn new(side: Side, values: BTreeMap<String, Value>) -> Self {
        Self {
            side,
            values: Arc::new(Mutex::new(values)),
        }
    }

    pub(crate) fn all(&self) -> BTreeMap<String, Value> {
        self.values.lock().clone()
    }

    /// The value of that name; on a driver that has none yet, what `read` gives.
    pub(crate) fn record<V, E>(
        &self,
        name: &str,
        read: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, Error>
    where
        V: Serialize + DeserializeOwned,
        E: std::fmt::Display,
    {
        let failed = |reason: String| Error::Recording {
            name: name.to_owned(),
            reason,
        };
        let known = self.values.lock().get(name).cloned();
        if let Some(value) = known {
            return serde_json::from_value(value).map_err(|error| failed(error.to_string()));
        }
        if self.side == Side::Executor {
            return Err(Error::NotRecorded {
                name: name.to_owned(),
            });
        }
        let value = read().map_err(|error| failed(error.to_string()))?;
        let json = serde_json::to_value(&value).map_err(|error| failed(error.to_string()))?;
        self.values.lock().insert(name.to_owned(), json);
        Ok(value)
    }

    /// What relative paths of the job are relative to, on every process and after every restart: where the driver was when the application was first started.
    pub(crate) fn working_folder(&self) -> Result<PathBuf, Error> {
        let folder: PathBuf = self.record(WORKING_FOLDER, working_folder)?;
        if self.side == Side::Driver
            && let Ok(here) = working_folder()
            && here != folder
        {
            tracing::warn!(
                folder = %folder.display(),
                here = %here.display(),
                "relative paths of the job are below the folder in which it was first started"
            );
        }
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_folder_is_that_of_the_first_start() {
        let first = Recorded::default();
        let here = working_folder().unwrap();
        assert_eq!(first.working_folder(), Ok(here.clone()));
        assert_eq!(
            Recorded::new(Side::Executor, first.all()).working_folder(),
            Ok(here)
        );
        let elsewhere = BTreeMap::from([(WORKING_FOLDER.to_owned(), Value::from("/elsewhere"))]);
        for side in [Side::Driver, Side::Executor] {
            let again = Recorded::new(side, elsewhere.clone());
            assert_eq!(again.working_folder(), Ok(PathBuf::from("/elsewhere")));
        }
        let none = Recorded::new(Side::Executor, BTreeMap::new());
        assert!(matches!(
            none.working_folder(),
            Err(Error::NotRecorded { .. })
        ));
    }
}
