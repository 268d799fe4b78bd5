//! What was fetched of a partition and not yet read: plain state, without IO. The fetcher's thread puts chunks in, tasks take ranges out.

use std::collections::VecDeque;

use millstream_common::text::Blob;
use rdkafka::Timestamp;

/// Where a part of a record lies in its chunk's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub start: u32,
    /// Past the last byte.
    pub end: u32,
}

/// A record of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Offset.
    pub offset: i64,
    /// When, and who says so.
    pub timestamp: Timestamp,
    /// Key.
    pub key: Option<Part>,
    /// Value.
    pub value: Option<Part>,
    /// Headers: name and value.
    pub headers: Box<[(Part, Option<Part>)]>,
}

/// Records in offset order whose bytes lie in one buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The bytes of all of them.
    pub bytes: Blob,
    /// The records.
    pub entries: Vec<Entry>,
}

impl Chunk {
    /// Bytes of memory, about.
    fn size(&self) -> usize {
        let headers: usize = self.entries.iter().map(|entry| entry.headers.len()).sum();
        self.bytes.len()
            + self.entries.len() * size_of::<Entry>()
            + headers * size_of::<(Part, Option<Part>)>()
    }
}

/// A chunk in a buffer, and what it was charged with when it came.
#[derive(Debug)]
struct Held {
    chunk: Chunk,
    charged: usize,
}

/// What the buffer has for a range right now.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Records of the range, not all of it.
    Chunk(Chunk),
    /// The range has no more records.
    End,
    /// Nothing yet; fetching goes on.
    Wait,
    /// Nothing yet, and the broker said at `position` that it has no more: to be looked into.
    Dry {
        /// The next offset to fetch.
        position: i64,
    },
}

/// What was fetched of one partition.
#[derive(Debug, Default)]
pub struct PartitionBuffer {
    chunks: VecDeque<Held>,
    bytes: usize,
    /// Everything from here up to `position` is in `chunks`.
    start: i64,
    /// The next offset that the consumer will give.
    position: i64,
    /// Grows with every repositioning; what was fetched under an older one is refused.
    generation: u64,
    at_end: bool,
}

impl PartitionBuffer {
    /// An empty buffer that will be filled from `offset` on.
    pub fn starting_at(offset: i64, generation: u64) -> Self {
        Self {
            start: offset,
            position: offset,
            generation,
            ..Self::default()
        }
    }

    /// Which repositioning the buffer is under.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether no record is here.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes held, those that describe the records included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The next offset that the consumer will give.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Whether a range that begins at `from` can be read from here; records before `from` are dropped.
    pub fn advance_to(&mut self, from: i64) -> bool {
        if from < self.start || from > self.position {
            return false;
        }
        while let Some(front) = self.chunks.front_mut() {
            let entries = &mut front.chunk.entries;
            let keep = entries.iter().position(|entry| entry.offset >= from);
            match keep {
                Some(0) => break,
                Some(index) => {
                    entries.drain(..index);
                    break;
                }
                None => {
                    self.bytes -= front.charged;
                    self.chunks.pop_front();
                }
            }
        }
        self.start = from;
        true
    }

    /// Whether all of the range up to `until` is here.
    pub fn holds_until(&self, until: i64) -> bool {
        self.position >= until
    }

    /// Starts anew at `offset`.
    pub fn reposition(&mut self, offset: i64) {
        *self = Self::starting_at(offset, self.generation + 1);
    }

    /// Keeps what is here, but what is in flight will be fetched again from `position` on.
    pub fn refetch(&mut self) -> i64 {
        self.generation += 1;
        self.at_end = false;
        self.position
    }

    /// Adds fetched records; refused if they belong to an older generation.
    pub fn push(&mut self, generation: u64, chunk: Chunk) -> bool {
        let Some(last) = chunk.entries.last() else {
            return true;
        };
        if generation != self.generation {
            return false;
        }
        debug_assert!(
            chunk
                .entries
                .first()
                .is_some_and(|first| first.offset >= self.position),
            "records come in offset order"
        );
        self.position = last.offset + 1;
        self.at_end = false;
        let charged = chunk.size();
        self.bytes += charged;
        self.chunks.push_back(Held { chunk, charged });
        true
    }

    /// The consumer's position moved over records that aren't given (transaction markers, compacted ones). Tells whether that is new.
    pub fn skip_to(&mut self, generation: u64, position: i64) -> bool {
        if generation != self.generation || position <= self.position {
            return false;
        }
        self.position = position;
        true
    }

    /// The broker said that it has no more.
    pub fn end_reached(&mut self, generation: u64) {
        if generation == self.generation {
            self.at_end = true;
        }
    }

    /// The next records below `until`.
    pub fn take(&mut self, until: i64) -> Taken {
        let Some(front) = self.chunks.front() else {
            if self.position >= until {
                self.start = self.start.max(until);
                return Taken::End;
            }
            if self.at_end {
                return Taken::Dry {
                    position: self.position,
                };
            }
            return Taken::Wait;
        };
        let entries = &front.chunk.entries;
        let is_past = |entry: &Entry| entry.offset >= until;
        let within = match entries.last() {
            Some(last) if is_past(last) => entries.partition_point(|entry| !is_past(entry)),
            _ => entries.len(),
        };
        if within == 0 {
            self.start = self.start.max(until);
            return Taken::End;
        }
        if within < entries.len() {
            let Some(front) = self.chunks.front_mut() else {
                return Taken::Wait;
            };
            let rest = front.chunk.entries.split_off(within);
            let entries = std::mem::replace(&mut front.chunk.entries, rest);
            let bytes = front.chunk.bytes.clone();
            self.start = until;
            return Taken::Chunk(Chunk { bytes, entries });
        }
        let Some(held) = self.chunks.pop_front() else {
            return Taken::Wait;
        };
        self.bytes -= held.charged;
        if let Some(last) = held.chunk.entries.last() {
            self.start = last.offset + 1;
        }
        Taken::Chunk(held.chunk)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(offsets: &[i64]) -> Chunk {
        let entry = |offset: &i64| Entry {
            offset: *offset,
            timestamp: Timestamp::NotAvailable,
            key: None,
            value: None,
            headers: Box::default(),
        };
        Chunk {
            bytes: Blob::from_vec(vec![0; 10]),
            entries: offsets.iter().map(entry).collect(),
        }
    }

    fn read_all(buffer: &mut PartitionBuffer, until: i64) -> (Vec<i64>, Taken) {
        let mut offsets = Vec::new();
        loop {
            match buffer.take(until) {
                Taken::Chunk(chunk) => {
                    offsets.extend(chunk.entries.iter().map(|entry| entry.offset))
                }
                other => return (offsets, other),
            }
        }
    }

    #[test]
    fn a_range_ends_at_a_record_past_it_and_the_rest_stays() {
        let mut buffer = PartitionBuffer::starting_at(10, 0);
        assert!(buffer.push(0, chunk(&[10, 11, 15, 20])));
        assert_eq!(read_all(&mut buffer, 14), (vec![10, 11], Taken::End));
        assert!(buffer.advance_to(14));
        assert_eq!(read_all(&mut buffer, 18), (vec![15], Taken::End));
        assert!(buffer.advance_to(18) && buffer.holds_until(21));
        assert_eq!(read_all(&mut buffer, 21), (vec![20], Taken::End));
        assert_eq!(buffer.bytes(), 0);
    }

    #[test]
    fn a_range_ends_when_the_position_moved_over_markers() {
        let mut buffer = PartitionBuffer::starting_at(0, 3);
        buffer.push(3, chunk(&[0]));
        assert_eq!(read_all(&mut buffer, 2), (vec![0], Taken::Wait));
        buffer.end_reached(3);
        assert_eq!(buffer.take(2), Taken::Dry { position: 1 });
        buffer.skip_to(2, 9);
        assert_eq!(
            buffer.take(2),
            Taken::Dry { position: 1 },
            "an older generation's position is not to be trusted"
        );
        buffer.skip_to(3, 2);
        assert_eq!(buffer.take(2), Taken::End);
    }

    #[test]
    fn going_back_or_leaping_ahead_needs_a_repositioning() {
        let mut buffer = PartitionBuffer::starting_at(10, 0);
        buffer.push(0, chunk(&[10, 11]));
        assert!(!buffer.advance_to(9));
        assert!(!buffer.advance_to(13));
        assert!(buffer.advance_to(12));
        buffer.reposition(5);
        assert!(
            !buffer.push(0, chunk(&[12])),
            "what was in flight before is refused"
        );
        assert!(buffer.push(1, chunk(&[5])));
        assert_eq!(read_all(&mut buffer, 6), (vec![5], Taken::End));
    }

    proptest! {
        #[test]
        fn every_record_is_read_once_whatever_the_chunks_and_ranges(
            gaps in prop::collection::vec(1i64..4, 1..200),
            cuts in prop::collection::vec(1usize..20, 1..100),
            lengths in prop::collection::vec(1i64..60, 1..60),
        ) {
            let mut offset = 0;
            let offsets: Vec<i64> = gaps.iter().map(|gap| { offset += gap; offset }).collect();
            let end = offset + 1;
            let mut buffer = PartitionBuffer::starting_at(0, 0);
            let mut rest = &offsets[..];
            let mut cuts = cuts.iter().cycle();
            let mut lengths = lengths.iter().cycle();
            let mut read = Vec::new();
            let mut from = 0;
            while from < end {
                let until = (from + lengths.next().unwrap()).min(end);
                prop_assert!(buffer.advance_to(from));
                loop {
                    match buffer.take(until) {
                        Taken::Chunk(chunk) => read.extend(chunk.entries.iter().map(|entry| entry.offset)),
                        Taken::End => break,
                        Taken::Wait | Taken::Dry { .. } => {
                            let size = (*cuts.next().unwrap()).min(rest.len());
                            let (now, later) = rest.split_at(size);
                            buffer.push(0, chunk(now));
                            rest = later;
                        }
                    }
                }
                from = until;
            }
            prop_assert_eq!(read, offsets);
        }
    }
}
