//! A Kafka record as a row.

use millstream_common::text::{Blob, Text};
use serde::{Deserialize, Serialize};

use crate::malformed;

/// A record of a topic partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its topic.
    pub topic: Text,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds since the Unix epoch, where it has one.
    pub timestamp: Option<i64>,
    /// Who gave it the timestamp.
    pub timestamp_kind: TimestampKind,
    /// Its key.
    pub key: Option<Blob>,
    /// Its value; none for a tombstone.
    pub value: Option<Blob>,
    /// Its headers, in order.
    pub headers: Vec<Header>,
}

/// Who gives records their timestamps; a topic's `message.timestamp.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimestampKind {
    /// Nobody: the record has none.
    #[default]
    None,
    /// The producer, when it made the record.
    Created,
    /// The broker, when it appended the record to its log.
    Appended,
}

/// A record's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Name; need not be unique.
    pub key: Text,
    /// Value.
    pub value: Option<Blob>,
}

impl Record {
    /// The value as text; empty for a tombstone. A value that isn't UTF-8 is treated as `input.on_malformed` says.
    pub fn text(self) -> Text {
        let Self {
            topic,
            partition,
            offset,
            value,
            ..
        } = self;
        match value {
            Some(value) => malformed::text(value, || {
                format!("the value of the record at offset {offset} of {topic}/{partition}")
            }),
            None => Text::new(),
        }
    }

    /// The key as text, in the same way; none for a record without a key.
    pub fn key_text(&self) -> Option<Text> {
        let place = || {
            format!(
                "the key of the record at offset {} of {}/{}",
                self.offset, self.topic, self.partition
            )
        };
        self.key.clone().map(|key| malformed::text(key, place))
    }
}
