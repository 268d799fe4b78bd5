//! What a marker says and what follows from it. A marker is the committed offset of a group of its own: the batch after the one whose rows
//! were committed with it. Its metadata is a [`Note`].

use std::time::Duration;

use millstream_common::{
    config::OnNondeterminism,
    failure::{Failure, FailureKind, Retry},
    frame::ContentChecksum,
    ids::{BatchId, Epoch},
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaResult,
};
use serde::{Deserialize, Serialize};

use super::{Settings, failures};
use crate::sink::WriteId;

/// The version of [`Note`].
const VERSION: u32 = 1;

/// What stands beside a marker's offset, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    version: u32,
    /// Of the rows.
    pub checksum: ContentChecksum,
    /// The build that computed them.
    pub build: String,
    pub epoch: Epoch,
    pub attempt: u32,
}

impl Note {
    pub fn new(checksum: ContentChecksum, build: &str, id: &WriteId) -> Self {
        Self {
            version: VERSION,
            checksum,
            build: build.to_owned(),
            epoch: id.epoch,
            attempt: id.attempt,
        }
    }

    pub fn to_json(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| {
            Failure::caused_by(
                FailureKind::Internal,
                "a Kafka marker could not be written as JSON",
                &error,
            )
        })
    }
}

/// A marker as it was found or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    /// The batch after the one that was written last.
    pub next: u64,
    /// None where the metadata is no note.
    pub note: Option<Note>,
}

impl Marker {
    /// A marker as the broker gives it.
    pub fn read(offset: i64, metadata: &str) -> Self {
        let note = serde_json::from_str(metadata).ok();
        Self {
            next: u64::try_from(offset).unwrap_or(0),
            note: note.filter(|note: &Note| note.version == VERSION),
        }
    }
}

/// Asks the broker for the marker of the reader's group.
pub(super) fn read(
    reader: &BaseConsumer,
    topic: &str,
    timeout: Duration,
) -> KafkaResult<Option<Marker>> {
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, 0);
    let answered = reader.committed_offsets(asked, timeout)?;
    let Some(element) = answered.find_partition(topic, 0) else {
        return Ok(None);
    };
    element.error()?;
    Ok(match element.offset() {
        Offset::Offset(offset) => Some(Marker::read(offset, element.metadata())),
        _ => None,
    })
}

/// Whether the build is known to be another than the one that runs.
pub(super) fn other_build(build: &str, settings: &Settings) -> bool {
    !build.is_empty() && !settings.build_id.is_empty() && build != settings.build_id
}

/// What a marker means for a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The rows are not there yet.
    Write,
    /// The rows are there.
    Written(Note),
}

/// Whether the write's rows are there already.
///
/// # Errors
/// When the marker belongs to a batch that can't have been: skipping would lose rows, writing would double them.
pub(super) fn judge(
    marker: Option<&Marker>,
    id: &WriteId,
    group: &str,
) -> Result<Verdict, Failure> {
    let Some(marker) = marker else {
        return Ok(Verdict::Write);
    };
    let past = marker.next.checked_sub(id.batch.0);
    match (past, &marker.note) {
        (None | Some(0), _) => Ok(Verdict::Write),
        (Some(1), Some(note)) => Ok(Verdict::Written(note.clone())),
        // A newer driver has gone on; this attempt is its predecessor's.
        (Some(_), Some(note)) if note.epoch > id.epoch => Err(Failure::new(
            FailureKind::Superseded,
            format!(
                "sink partition {} of output {} was written by epoch {}, which is newer than this attempt's {}; if no other driver runs, the checkpoint was rolled back or copied: start with the newest checkpoint, or with a new one",
                id.partition, id.output, note.epoch, id.epoch
            ),
        )),
        (Some(_), note) => {
            let found = if note.is_some() {
                ""
            } else {
                ", and it is not Millstream's"
            };
            let message = format!(
                "sink partition {} of output {} is marked at the broker as written before batch {}, but this query is at batch {}{found}; the checkpoint was rolled back or copied: start with the newest checkpoint, or with a new one (or remove the consumer group {group} if doubled rows do no harm)",
                id.partition, id.output, marker.next, id.batch
            );
            Err(Failure::new(FailureKind::Io, message)
                .with_retry(Retry::Never)
                .with_code("sink.foreign_marker"))
        }
    }
}

/// Compares the rows that are there with those that this attempt computed.
///
/// # Errors
/// `Nondeterministic` when they differ and that isn't accepted.
pub(super) fn compare(
    written: &Note,
    computed: ContentChecksum,
    id: &WriteId,
    settings: &Settings,
) -> Result<(), Failure> {
    if written.checksum == computed {
        return Ok(());
    }
    let WriteId {
        output,
        partition,
        batch: BatchId(batch),
        ..
    } = id;
    if other_build(&written.build, settings) {
        if settings.accept_mixed_batch == Some(id.batch) {
            tracing::warn!(
                output,
                partition,
                batch,
                build = written.build,
                "rows of another build stay in a mixed batch"
            );
            return Ok(());
        }
        let message = format!(
            "sink partition {partition} of output {output} holds batch {batch} as build {} wrote it ({}), and this build {} gives other rows ({computed}); run the old build once, so that it finishes the batch, or go on with --accept-mixed-batch {batch}",
            written.build, written.checksum, settings.build_id
        );
        return Err(failures::user(
            Failure::new(FailureKind::Nondeterministic, message)
                .with_code("sink.other_build")
                .in_operator(output),
        ));
    }
    let message = format!(
        "batch {batch} ran again and gave other rows for sink partition {partition} of output {output} ({computed}) than were written before ({}); an operator's result depends on more than its input, such as time, random numbers or the order of a hash map",
        written.checksum
    );
    match settings.on_nondeterminism {
        OnNondeterminism::Fail => {
            Err(Failure::new(FailureKind::Nondeterministic, message).in_operator(output))
        }
        OnNondeterminism::Warn => {
            tracing::warn!(output, partition, batch, written = %written.checksum, %computed, "a batch that ran again gave other rows; those written first stay");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_common::ids::QueryId;

    use super::*;

    fn id(batch: u64, epoch: u64) -> WriteId {
        WriteId {
            query: QueryId::random(),
            output: "out".to_owned(),
            partition: 3,
            batch: BatchId(batch),
            epoch: Epoch(epoch),
            attempt: 0,
        }
    }

    fn checksum(hash: u64) -> ContentChecksum {
        ContentChecksum { hash, rows: 7 }
    }

    fn marker(next: u64, epoch: u64) -> Marker {
        Marker {
            next,
            note: Some(Note::new(checksum(1), "build", &id(next - 1, epoch))),
        }
    }

    fn code(result: Result<Verdict, Failure>) -> String {
        result.unwrap_err().code
    }

    #[test]
    fn only_the_batch_just_before_the_marker_is_skipped() {
        assert_eq!(judge(None, &id(5, 1), "g"), Ok(Verdict::Write));
        assert_eq!(
            judge(Some(&marker(1, 1)), &id(5, 1), "g"),
            Ok(Verdict::Write)
        );
        assert_eq!(
            judge(Some(&marker(5, 1)), &id(5, 1), "g"),
            Ok(Verdict::Write)
        );
        let six = marker(6, 1);
        let note = six.note.clone().unwrap();
        assert_eq!(
            judge(Some(&six), &id(5, 1), "g"),
            Ok(Verdict::Written(note))
        );
        assert_eq!(
            code(judge(Some(&marker(7, 1)), &id(5, 1), "g")),
            "sink.foreign_marker"
        );
        let newer = judge(Some(&marker(7, 2)), &id(5, 1), "g").unwrap_err();
        assert_eq!(newer.code, "sink.superseded");
        assert!(newer.message.contains("rolled back"), "{newer}");
    }

    #[test]
    fn a_marker_of_someone_else_is_never_skipped() {
        let foreign = Marker::read(6, "written by hand");
        assert_eq!(foreign.note, None);
        assert_eq!(
            code(judge(Some(&foreign), &id(5, 1), "g")),
            "sink.foreign_marker"
        );
    }

    #[test]
    fn a_note_comes_back_as_it_was() {
        let note = Note::new(checksum(u64::MAX), "build", &id(5, 2));
        let read = Marker::read(6, &note.to_json().unwrap());
        assert_eq!(
            read,
            Marker {
                next: 6,
                note: Some(note)
            }
        );
    }

    #[test]
    fn other_rows_stop_the_query_unless_accepted() {
        let mut settings = Settings::new("broker", Some("out".to_owned()));
        settings.build_id = "build".to_owned();
        let note = Note::new(checksum(1), "build", &id(5, 1));
        assert_eq!(compare(&note, checksum(1), &id(5, 1), &settings), Ok(()));
        let failure = compare(&note, checksum(2), &id(5, 1), &settings).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Nondeterministic);
        assert!(
            failure.message.contains("partition 3 of output out"),
            "{failure}"
        );
        settings.on_nondeterminism = OnNondeterminism::Warn;
        assert_eq!(compare(&note, checksum(2), &id(5, 1), &settings), Ok(()));

        settings.build_id = "rebuilt".to_owned();
        assert_eq!(compare(&note, checksum(1), &id(5, 1), &settings), Ok(()));
        let failure = compare(&note, checksum(2), &id(5, 1), &settings).unwrap_err();
        assert_eq!(failure.code, "sink.other_build");
        assert_eq!(failure.retry, Retry::Never);
        assert!(
            failure.message.contains("--accept-mixed-batch 5"),
            "{failure}"
        );
        settings.accept_mixed_batch = Some(BatchId(4));
        assert!(compare(&note, checksum(2), &id(5, 1), &settings).is_err());
        settings.accept_mixed_batch = Some(BatchId(5));
        assert_eq!(compare(&note, checksum(2), &id(5, 1), &settings), Ok(()));
    }
}
