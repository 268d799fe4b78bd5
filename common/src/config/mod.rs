//! The runtime's configuration: one registry of keys, read by the code and rendered as the reference.
//!
//! [`keys`] declares each key once, with its type, default, valid range and documentation.
//! [`Config::builder`] gathers values from a TOML file, environment variables, `--conf` and code, in
//! rising precedence, and refuses unknown keys and bad values by naming where they came from. A key is
//! read by its constant, so a misspelt one does not compile:
//!
//! ```
//! use millstream_common::config::{Config, keys};
//!
//! let config = Config::builder().conf("task.max_failures", 8).build()?;
//! assert_eq!(config.get(keys::TASK_MAX_FAILURES), 8);
//! # Ok::<(), millstream_common::config::Error>(())
//! ```
//!
//! Options of a single source or sink belong to that connector's own types, not here.
//!
//! Layout:
//!
//! * `declare`: what a key is, and the macro that declares keys
//! * `registry`: every key
//! * `value`, `address`, `words`: the types of values
//! * `builder`, `sources`: gathering values; where they come from
//! * `error`: what can be wrong
//! * `reference`: the reference page

mod address;
mod builder;
mod declare;
mod error;
mod reference;
mod registry;
mod sources;
mod value;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use address::{Address, Advertised};
pub use builder::Builder;
pub use declare::{Key, Scope, Spec};
pub use error::{Error, Origin};
pub use reference::reference_markdown;
pub use registry::{SECTIONS, Section, keys};
pub use value::{ByteSize, Secret, Setting, ZoneName};
pub use words::{Compression, LogFormat, OnDataLoss, OnMalformed, OnNondeterminism, ShowProgress};

use registry::Values;

/// What stands in the place of a secret wherever a configuration is shown.
pub const REDACTED: &str = "<redacted>";

/// A checked, complete configuration: each key has a value. Cheap to clone.
///
/// `Debug` and [`Config::effective`] show secrets as `<redacted>`, and serialising leaves them out.
#[derive(Clone)]
pub struct Config {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    values: Values,
    /// Where the value of each key came from, by the key's index.
    origins: Vec<Origin>,
}

/// One key with its value in force, for the REST API, logs and metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effective {
    /// The key's name.
    pub key: String,
    /// The value as it would be written in a file; empty for an optional key without a value.
    pub value: String,
    /// Where the value came from.
    pub origin: Origin,
}

impl Default for Config {
    fn default() -> Self {
        let inner = Inner {
            values: Values::default(),
            origins: vec![Origin::Default; Spec::all().len()],
        };
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl Config {
    /// Starts from the defaults.
    pub fn builder() -> Builder {
        Builder::new(Self::default())
    }

    /// Starts from this configuration; values given to the builder win over those it holds.
    pub fn to_builder(&self) -> Builder {
        Builder::new(self.clone())
    }

    /// The value of a key.
    pub fn get<T: Setting>(&self, key: Key<T>) -> T {
        key.read(&self.inner.values).clone()
    }

    /// Where the value of a key came from.
    pub fn origin<T: Setting>(&self, key: Key<T>) -> &Origin {
        self.origin_at(key.spec())
    }

    /// Whether a key was set by anyone, even to its default value.
    pub fn is_set<T: Setting>(&self, key: Key<T>) -> bool {
        *self.origin(key) != Origin::Default
    }

    /// Every key with its value and where that came from, in the order of the registry; secrets redacted.
    pub fn effective(&self) -> Vec<Effective> {
        let mut list = Vec::new();
        for spec in Spec::all() {
            list.push(self.show(spec));
        }
        list
    }

    /// The values that a batch's result depends on, by name: recorded when a batch starts, so that it
    /// is computed alike when it has to run again; see [`logged_spill_threshold`].
    pub fn affecting_results(&self) -> BTreeMap<String, String> {
        let mut recorded = BTreeMap::new();
        for spec in Spec::all() {
            if spec.affects_results() {
                recorded.insert(spec.name().to_owned(), spec.text(&self.inner.values));
            }
        }
        recorded
    }

    /// What an executor runs with, made on the executor from `self`, the driver's configuration, and
    /// `local`, its own: a key about one process ([`Scope::Process`]) takes the local value where one
    /// was set, a secret always does, everything else is the driver's.
    pub fn for_executor(&self, local: &Config) -> Config {
        let mut merged = (*self.inner).clone();
        for spec in Spec::all() {
            let set_here = *local.origin_at(spec) != Origin::Default;
            let of_this_process = spec.scope() == Scope::Process && set_here;
            if spec.is_secret() || of_this_process {
                spec.copy(&local.inner.values, &mut merged.values);
                merged.origins[spec.index()] = local.origin_at(spec).clone();
            }
        }
        Config {
            inner: Arc::new(merged),
        }
    }

    fn origin_at(&self, spec: &Spec) -> &Origin {
        &self.inner.origins[spec.index()]
    }

    fn show(&self, spec: &Spec) -> Effective {
        let text = spec.text(&self.inner.values);
        let hidden = spec.is_secret() && !text.is_empty();
        Effective {
            key: spec.name().to_owned(),
            value: if hidden { REDACTED.to_owned() } else { text },
            origin: self.origin_at(spec).clone(),
        }
    }
}

/// The spill threshold among the values that [`Config::affecting_results`] gave. None where it isn't among them, or is none that this release accepts.
pub fn logged_spill_threshold(recorded: &BTreeMap<String, String>) -> Option<ByteSize> {
    let text = recorded.get(keys::MEMORY_SPILL_THRESHOLD.name())?;
    ByteSize::parse(text)
}

/// Shows what was set; keys at their defaults are left out.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for entry in self.effective() {
            if entry.origin != Origin::Default {
                map.entry(&entry.key, &format_args!("{}", entry.value));
            }
        }
        map.finish()
    }
}

/// Writes the keys that were set, with their origins, and never a secret.
impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut set = Vec::new();
        for spec in Spec::all() {
            if !spec.is_secret() && *self.origin_at(spec) != Origin::Default {
                set.push(self.show(spec));
            }
        }
        set.serialize(serializer)
    }
}

/// Reads what another process wrote; an unknown key or a bad value is refused, as from any source.
impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let set = Vec::<Effective>::deserialize(deserializer)?;
        let mut builder = Config::builder();
        for entry in set {
            builder.add(entry.origin, entry.key, entry.value);
        }
        builder.build().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
