//! What the checkpoint's log entries hold, and their names.
//!
//! ```text
//! metadata                 what the query is; written once, first
//! epochs/<n>               a driver's claim
//! offsets/<batch>          what a batch reads; written before any of its tasks
//! commits/<batch>          what a batch came to; written after its outputs are done
//! sources/<i>/start        where a source began; written before the first batch
//! sources/<i>/seen/<batch> everything that a source took up to a batch, so that offsets entries can be purged
//! ```
//!
//! Numbers in names have 20 digits, zeros in front, so that a listing in the order of names is in the order of numbers. Every entry is written by
//! put-if-absent and carries its driver's epoch and a nonce of its own, by which a driver knows what it wrote itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_common::{
    ids::{BatchId, Epoch, QueryId, SourceId},
    log_store::entry::Entry,
    protocol::{SinkCommit, StateFile},
    time::BatchTime,
};
use millstream_connectors::source::PlannedInput;
use millstream_dataflow::plan::CheckpointFingerprint;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::checkpoint::CheckpointError;

/// The newest layout of the whole checkpoint that this release reads and writes.
pub const CHECKPOINT_VERSION: u32 = 1;

/// Who wrote an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// The driver's epoch; in `metadata` too, since a claim comes first.
    pub epoch: Epoch,
    /// Unlike any other entry's.
    pub nonce: String,
}

/// `metadata`: what the query is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Who wrote it.
    #[serde(flatten)]
    pub author: Author,
    /// The query's identity.
    pub query: QueryId,
    /// [`CHECKPOINT_VERSION`] of the release that made the checkpoint.
    pub version: u32,
    /// The release that made it, for people.
    pub release: String,
    /// What a restart must agree with. Its partition counts hold for the checkpoint's life.
    pub fingerprint: CheckpointFingerprint,
    /// Version of the rule from keys to partitions.
    pub routing_version: u32,
    /// The application's arguments at the first start.
    pub arguments: Value,
    /// The configuration at the first start, without secrets.
    pub configuration: BTreeMap<String, String>,
    /// What the job function saw through the context at the first start.
    #[serde(default)]
    pub recorded: BTreeMap<String, Value>,
}

/// `epochs/<n>`: a driver's claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Who wrote it.
    #[serde(flatten)]
    pub author: Author,
    /// Where the driver can be reached, for people.
    pub address: String,
    /// Wall-clock milliseconds since the Unix epoch.
    pub time_millis: i64,
    /// The driver's build.
    pub build_id: String,
}

/// `offsets/<batch>`: what a batch reads. From here on the batch is a function of the log alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offsets {
    /// Who wrote it.
    #[serde(flatten)]
    pub author: Author,
    /// The batch, as in the name.
    pub batch: BatchId,
    /// Its time.
    pub batch_time: BatchTime,
    /// The build that planned it.
    pub build_id: String,
    /// What each source gives, in the order of sources.
    pub sources: Vec<PlannedInput>,
    /// Watermarks in force, by operator, milliseconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub watermarks: BTreeMap<String, i64>,
    /// Versions of broadcast values, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub broadcasts: BTreeMap<String, u64>,
    /// Versions of static tables, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, Value>,
    /// Configuration that affects results.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configuration: BTreeMap<String, String>,
}

/// `commits/<batch>`: what a batch came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Who wrote it.
    #[serde(flatten)]
    pub author: Author,
    /// The batch, as in the name.
    pub batch: BatchId,
    /// What each output's tasks left at its sink, in the order of outputs.
    pub outputs: Vec<OutputCommit>,
    /// State files of winning attempts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<StateFile>,
    /// Largest event times seen, by operator, milliseconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub event_time_maxima: BTreeMap<String, i64>,
    /// Watermarks of the next batch, by operator, milliseconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub next_watermarks: BTreeMap<String, i64>,
    /// Whether a batch without input is due, for what the watermarks now let go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_data_batch_due: bool,
}

/// What one output came to in a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OutputCommit {
    /// The output's stable id.
    pub id: String,
    /// What the winning attempts left, in partition order.
    pub winners: Vec<SinkCommit>,
}

/// `sources/<i>/start`: where a source began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceStart {
    /// Who wrote it.
    #[serde(flatten)]
    pub author: Author,
    /// The source's stable id.
    pub id: String,
    /// In the source's own terms.
    pub start: Value,
}

/// `sources/<i>/seen/<batch>`: everything that a source took up to and including a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceSeen {
    /// Who wrote it.
    #[serde(flatten)]
    pub author: Author,
    /// The batch, as in the name.
    pub batch: BatchId,
    /// In the source's own terms.
    pub seen: Value,
}

/// An entry type.
pub trait LogEntry: Serialize + DeserializeOwned {
    /// The kind that stands in the entry's header.
    const KIND: &'static str;
    /// Who wrote it.
    fn author(&self) -> &Author;
}

macro_rules! log_entry {
    ($($name:ident $kind:literal),*) => {$(
        impl LogEntry for $name {
            const KIND: &'static str = $kind;
            fn author(&self) -> &Author {
                &self.author
            }
        }
    )*};
}

log_entry!(Metadata "metadata", Claim "epoch", Offsets "offsets", Commit "commit", SourceStart "source-start", SourceSeen "source-seen");

/// The bytes of an entry.
///
/// # Errors
/// When a value has no JSON form, such as a map with keys that are no text.
pub fn encode<T: LogEntry>(name: &str, entry: &T) -> Result<Bytes, CheckpointError> {
    match Entry::encode(T::KIND, entry) {
        Ok(bytes) => Ok(Bytes::from(bytes)),
        Err(error) => Err(CheckpointError::Unwritable {
            file: name.to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// The entry in these bytes.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn decode<T: LogEntry>(name: &str, bytes: &Bytes) -> Result<T, CheckpointError> {
    Entry::decode(T::KIND, name, bytes).map_err(|error| CheckpointError::from_entry(name, &error))
}

/// The name of the metadata entry.
pub const METADATA: &str = "metadata";
/// What the names of claims begin with.
pub const EPOCHS: &str = "epochs/";
/// What the names of offsets entries begin with.
pub const OFFSETS: &str = "offsets/";
/// What the names of commits begin with.
pub const COMMITS: &str = "commits/";
/// What the names of sources' entries begin with.
pub const SOURCES: &str = "sources/";

/// No checkpoint comes to a higher epoch, which each start of a driver makes higher by one: with one each second that takes a hundred years.
pub const HIGHEST_EPOCH: Epoch = Epoch(1 << 32);

/// What an entry's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// `metadata`
    Metadata,
    /// `epochs/<n>`
    Epoch(Epoch),
    /// `offsets/<batch>`
    Offsets(BatchId),
    /// `commits/<batch>`
    Commit(BatchId),
    /// `sources/<i>/start`
    Start(SourceId),
    /// `sources/<i>/seen/<batch>`
    Seen(SourceId, BatchId),
}

impl Name {
    /// Reads a name; nothing for names of other things.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| -> Option<u64> {
            if digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
                digits.parse().ok()
            } else {
                None
            }
        };
        if text == METADATA {
            return Some(Self::Metadata);
        }
        if let Some(rest) = text.strip_prefix(EPOCHS) {
            return number(rest).map(|epoch| Self::Epoch(Epoch(epoch)));
        }
        if let Some(rest) = text.strip_prefix(OFFSETS) {
            return number(rest).map(|batch| Self::Offsets(BatchId(batch)));
        }
        if let Some(rest) = text.strip_prefix(COMMITS) {
            return number(rest).map(|batch| Self::Commit(BatchId(batch)));
        }
        let (source, rest) = text.strip_prefix(SOURCES)?.split_once('/')?;
        let source = SourceId(source.parse().ok()?);
        if rest == "start" {
            return Some(Self::Start(source));
        }
        let batch = number(rest.strip_prefix("seen/")?)?;
        Some(Self::Seen(source, BatchId(batch)))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Metadata => formatter.write_str(METADATA),
            Self::Epoch(epoch) => write!(formatter, "{EPOCHS}{:020}", epoch.0),
            Self::Offsets(batch) => write!(formatter, "{OFFSETS}{:020}", batch.0),
            Self::Commit(batch) => write!(formatter, "{COMMITS}{:020}", batch.0),
            Self::Start(source) => write!(formatter, "{SOURCES}{source}/start"),
            Self::Seen(source, batch) => {
                write!(formatter, "{SOURCES}{source}/seen/{:020}", batch.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_sort_by_number() {
        let names = [
            Name::Metadata,
            Name::Epoch(Epoch(1)),
            Name::Offsets(BatchId(0)),
            Name::Commit(BatchId(u64::MAX)),
            Name::Start(SourceId(3)),
            Name::Seen(SourceId(3), BatchId(12)),
        ];
        for name in names {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        assert!(Name::Offsets(BatchId(9)).to_string() < Name::Offsets(BatchId(10)).to_string());
        for other in [
            "offsets/1",
            "offsets/",
            "sources/0/7",
            "offsets/0000000000000000000x",
            "sources/x/start",
            "x",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}
