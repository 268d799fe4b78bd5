//! Records of one partition on their way from the client into a chunk: plain state of the polling thread.

use millstream_common::text::Blob;
use rdkafka::{
    Message,
    message::{BorrowedMessage, Headers},
};

use super::buffer::{Chunk, Entry, Part};

/// A chunk is handed over at this many records...
const CHUNK_RECORDS: usize = 1_024;
/// ... or this many bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// Collects records of one partition.
pub(super) struct Pending {
    /// Which repositioning of the partition's buffer the records belong to.
    pub generation: u64,
    /// Whether the client's position is known to be of this generation.
    pub position_known: bool,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Pending {
    pub fn new(generation: u64) -> Self {
        Self {
            generation,
            position_known: false,
            bytes: Vec::new(),
            entries: Vec::new(),
        }
    }

    pub fn add(&mut self, message: &BorrowedMessage<'_>) {
        let key = message.key().map(|key| self.append(key));
        let value = message.payload().map(|value| self.append(value));
        let mut headers = Vec::new();
        if let Some(given) = message.headers() {
            for header in given.iter() {
                let name = self.append(header.key.as_bytes());
                let value = header.value.map(|value| self.append(value));
                headers.push((name, value));
            }
        }
        self.entries.push(Entry {
            offset: message.offset(),
            timestamp: message.timestamp(),
            key,
            value,
            headers: headers.into_boxed_slice(),
        });
        self.position_known = true;
    }

    fn append(&mut self, part: &[u8]) -> Part {
        let start = to_u32(self.bytes.len());
        self.bytes.extend_from_slice(part);
        Part {
            start,
            end: to_u32(self.bytes.len()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.entries.len() >= CHUNK_RECORDS || self.bytes.len() >= CHUNK_BYTES
    }

    /// What was collected, in buffers of about its own size.
    pub fn take(&mut self) -> Option<Chunk> {
        if self.entries.is_empty() {
            return None;
        }
        if self.entries.len() < CHUNK_RECORDS / 2 {
            let bytes = self.bytes.as_slice().to_vec();
            self.bytes.clear();
            return Some(Chunk {
                bytes: Blob::from_vec(bytes),
                entries: self.entries.drain(..).collect(),
            });
        }
        let bytes = hand_out(&mut self.bytes);
        let entries = hand_out(&mut self.entries);
        Some(Chunk {
            bytes: Blob::from_vec(bytes),
            entries,
        })
    }
}

/// Takes what is there, without spare room. Chunks of a topic are much alike: the next one has as much room and a little more, as a buffer that is outgrown by a
/// little doubles.
fn hand_out<T>(buffer: &mut Vec<T>) -> Vec<T> {
    let room = buffer.len() + buffer.len() / 8;
    let mut full = std::mem::replace(buffer, Vec::with_capacity(room));
    full.shrink_to_fit();
    full
}

/// A chunk is full long before 4 GiB; one record's size is limited by the protocol to 2 GiB.
fn to_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
