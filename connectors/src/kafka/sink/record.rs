//! A row for the Kafka sink.

use millstream_common::{
    frame::ContentHash,
    text::{Blob, Text},
};
use serde::{Deserialize, Serialize};

use super::super::record::Header;

/// A record to be written. Everything but the value may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerRecord {
    /// Its topic; by default the output's.
    pub topic: Option<Text>,
    /// Its key: records of one key go to one partition.
    pub key: Option<Blob>,
    /// Its value; none for a tombstone.
    pub value: Option<Blob>,
    /// Its headers, in order.
    pub headers: Vec<Header>,
    /// Its partition; by default the key's, or any.
    pub partition: Option<i32>,
    /// Its timestamp in milliseconds since the Unix epoch; by default when it is written.
    pub timestamp: Option<i64>,
}

impl ProducerRecord {
    /// A record with a value.
    pub fn value(value: impl Into<Blob>) -> Self {
        Self {
            value: Some(value.into()),
            ..Self::default()
        }
    }

    /// A record without a value: of its key's records, a compacted topic drops all that came before.
    pub fn tombstone(key: impl Into<Blob>) -> Self {
        Self {
            key: Some(key.into()),
            ..Self::default()
        }
    }

    /// The same with a key.
    pub fn key(mut self, key: impl Into<Blob>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same with one more header.
    pub fn header(mut self, key: impl Into<Text>, value: impl Into<Blob>) -> Self {
        self.headers.push(Header {
            key: key.into(),
            value: Some(value.into()),
        });
        self
    }

    /// The same for this topic.
    pub fn topic(mut self, topic: impl Into<Text>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// The same for this partition.
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// The same with a timestamp in milliseconds since the Unix epoch.
    pub fn timestamp(mut self, millis: i64) -> Self {
        self.timestamp = Some(millis);
        self
    }

    /// Bytes of key, value and headers.
    pub(super) fn size(&self) -> usize {
        let optional = |blob: &Option<Blob>| blob.as_ref().map_or(0, |blob| blob.len());
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|header| header.key.len() + optional(&header.value))
            .sum();
        optional(&self.key) + optional(&self.value) + headers
    }

    /// Adds the record to a checksum, in a form that tells any two different records apart. `scratch` is overwritten.
    pub(super) fn sum_up(&self, hash: &mut ContentHash, scratch: &mut Vec<u8>) {
        scratch.clear();
        put(scratch, self.topic.as_ref().map(|topic| topic.as_bytes()));
        put(scratch, self.key.as_deref());
        put(scratch, self.value.as_deref());
        scratch.extend_from_slice(&(self.headers.len() as u64).to_le_bytes());
        for header in &self.headers {
            put(scratch, Some(header.key.as_bytes()));
            put(scratch, header.value.as_deref());
        }
        put(
            scratch,
            self.partition
                .map(i32::to_le_bytes)
                .as_ref()
                .map(|b| &b[..]),
        );
        put(
            scratch,
            self.timestamp
                .map(i64::to_le_bytes)
                .as_ref()
                .map(|b| &b[..]),
        );
        hash.update(scratch, 1);
    }
}

/// Zero for absence; else the length, increased by one so that it never looks like absence, and the bytes.
fn put(bytes: &mut Vec<u8>, part: Option<&[u8]>) {
    match part {
        None => bytes.extend_from_slice(&0_u64.to_le_bytes()),
        Some(part) => {
            bytes.extend_from_slice(&(part.len() as u64 + 1).to_le_bytes());
            bytes.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = ProducerRecord> {
        let blob = || proptest::option::of("[ab]{0,2}".prop_map(|s| Blob::from(s.into_bytes())));
        let header = ("[ab]{0,2}", blob()).prop_map(|(key, value)| Header {
            key: Text::from(key),
            value,
        });
        (
            proptest::option::of("[ab]{0,2}".prop_map(Text::from)),
            blob(),
            blob(),
            proptest::collection::vec(header, 0..3),
            proptest::option::of(0..2_i32),
            proptest::option::of(0..2_i64),
        )
            .prop_map(|(topic, key, value, headers, partition, timestamp)| {
                ProducerRecord {
                    topic,
                    key,
                    value,
                    headers,
                    partition,
                    timestamp,
                }
            })
    }

    fn sum(rows: &[ProducerRecord]) -> millstream_common::frame::ContentChecksum {
        let mut hash = ContentHash::new();
        let mut scratch = Vec::new();
        for row in rows {
            row.sum_up(&mut hash, &mut scratch);
        }
        hash.finish()
    }

    proptest! {
        #[test]
        fn checksums_agree_exactly_when_the_rows_do(
            a in proptest::collection::vec(record(), 0..3),
            b in proptest::collection::vec(record(), 0..3),
        ) {
            prop_assert_eq!(sum(&a) == sum(&b), a == b);
            prop_assert_eq!(sum(&a), sum(&a.clone()));
        }
    }

    #[test]
    fn is_built_in_a_line() {
        let record = ProducerRecord::value("v").key("k").header("h", "x");
        assert_eq!(record.value.as_deref(), Some(&b"v"[..]));
        assert_eq!(record.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(record.headers.len(), 1);
        assert_eq!(record.size(), 4);
        assert_eq!(ProducerRecord::tombstone("k").value, None);
    }
}
