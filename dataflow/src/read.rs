//! Rows out of fetched blocks, in map order.

use std::marker::PhantomData;

use bytes::Bytes;
use millstream_common::{
    codec,
    failure::{Failure, FailureKind},
    frame::{Frame, MAX_FRAME_BYTES},
    protocol::BlockLocation,
    text::Block,
};
use serde::de::DeserializeOwned;

use crate::{
    combine::Data,
    program::BlockFrames,
    rows::{CHUNK_ROWS, Opener, Rows, opener},
    task::{Task, codec_failure},
};

/// Encoded bytes of rows after which a chunk is full, however few they are.
const CHUNK_BYTES: usize = 1 << 20;

/// How long texts of decoded rows lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texts {
    /// As slices of their block: nothing is copied, and the block stays in memory as long as one of them.
    Shared,
    /// In buffers of their own: for rows that are kept.
    Owned,
}

/// Rows of the blocks of one exchange that the task reads.
pub struct BlockRows<'t, 'a, T> {
    task: &'t Task<'a>,
    locations: Vec<BlockLocation>,
    frames: Box<dyn BlockFrames>,
    texts: Texts,
    open: Option<OpenFrame>,
    row: PhantomData<fn() -> T>,
}

struct OpenFrame {
    block: Block,
    rows: u32,
    offset: usize,
}

impl<'t, 'a, T: DeserializeOwned> BlockRows<'t, 'a, T> {
    /// Begins to fetch the blocks of one of the exchanges that the task's branch reads.
    ///
    /// # Errors
    /// When the task has no such list.
    pub fn open(task: &'t Task<'a>, list: usize, texts: Texts) -> Result<Self, Failure> {
        let locations = task.take_blocks(list)?;
        Ok(Self {
            frames: task
                .services()
                .fetch_blocks(locations.clone(), task.cancel().clone()),
            task,
            locations,
            texts,
            open: None,
            row: PhantomData,
        })
    }

    /// Appends the next rows to `chunk`, and the encoded size of each to `sizes`; false at the end. A chunk is bounded by rows and by bytes, so that memory
    /// doesn't depend on the size of rows; a row is never cut.
    ///
    /// # Errors
    /// Those of fetching; a damaged frame is a failed fetch.
    pub fn read(&mut self, chunk: &mut Vec<T>, sizes: &mut Vec<usize>) -> Result<bool, Failure> {
        let mut room = CHUNK_BYTES;
        while chunk.len() < CHUNK_ROWS && room > 0 {
            let Some(open) = &mut self.open else {
                match self.frames.next()? {
                    Some((location, bytes)) => self.open = Some(self.open_frame(location, &bytes)?),
                    None => return Ok(false),
                }
                continue;
            };
            let before = chunk.len();
            let begin = open.offset;
            match self.texts {
                Texts::Shared => {
                    let block = open.block.clone();
                    block.scope(|| open.decode(chunk, sizes, room))?;
                }
                Texts::Owned => open.decode(chunk, sizes, room)?,
            }
            room = room.saturating_sub(open.offset - begin);
            let rows = (chunk.len() - before) as u64;
            self.task.count(|counts| counts.shuffle_rows_read += rows);
            if open.rows == 0 {
                self.open = None;
            }
        }
        Ok(true)
    }

    fn open_frame(&self, location: usize, bytes: &Bytes) -> Result<OpenFrame, Failure> {
        match decode_frame(bytes) {
            Ok(frame) => Ok(OpenFrame {
                block: Block::new(frame.payload),
                rows: frame.rows,
                offset: 0,
            }),
            Err(reason) => Err(self.damaged(location, &reason)),
        }
    }

    fn damaged(&self, location: usize, reason: &str) -> Failure {
        match self.locations.get(location) {
            Some(location) => location.damaged(reason),
            None => Failure::new(
                FailureKind::Internal,
                format!(
                    "a frame came for block {location} of a list of {}",
                    self.locations.len()
                ),
            ),
        }
    }
}

/// The frame that `bytes` are; they must be no more than that.
///
/// # Errors
/// What is wrong with it, as a text.
pub fn decode_frame(bytes: &Bytes) -> Result<Frame, String> {
    let (frame, length) = Frame::decode(bytes, MAX_FRAME_BYTES)
        .map_err(|error| format!("{error}: {}", error.problem))?;
    if length != bytes.len() {
        return Err(format!("{} bytes follow its frame", bytes.len() - length));
    }
    if frame.codec != codec::CODEC_ID {
        return Err(format!(
            "its rows have codec {}, which this build doesn't read",
            frame.codec
        ));
    }
    Ok(frame)
}

impl OpenFrame {
    /// Decodes rows until the chunk is full, `room` bytes are used up or the frame is at its end.
    fn decode<T: DeserializeOwned>(
        &mut self,
        chunk: &mut Vec<T>,
        sizes: &mut Vec<usize>,
        room: usize,
    ) -> Result<(), Failure> {
        let bytes = self.block.as_slice();
        let count = (self.rows as usize).min(CHUNK_ROWS.saturating_sub(chunk.len()));
        let full = self.offset.saturating_add(room);
        for _ in 0..count {
            if self.offset >= full {
                break;
            }
            let (row, used) =
                codec::decode::<T>(&bytes[self.offset..]).map_err(|error| codec_failure(&error))?;
            self.offset += used;
            self.rows -= 1;
            chunk.push(row);
            sizes.push(used);
        }
        if self.rows == 0 && self.offset != bytes.len() {
            return Err(Failure::new(
                FailureKind::UserCode,
                format!(
                    "rows of type {} take {} bytes of a frame that has {}: does their `Deserialize` read what their `Serialize` writes?",
                    std::any::type_name::<T>(),
                    self.offset,
                    bytes.len()
                ),
            )
            .with_code("task.codec"));
        }
        Ok(())
    }
}

impl<T: DeserializeOwned> Rows<T> for PlainRows<'_, '_, T> {
    fn next(&mut self, chunk: &mut Vec<T>) -> Result<bool, Failure> {
        self.sizes.clear();
        self.rows.read(chunk, &mut self.sizes)
    }
}

struct PlainRows<'t, 'a, T> {
    rows: BlockRows<'t, 'a, T>,
    sizes: Vec<usize>,
}

/// The rows of one of the exchanges that the stage's branch reads.
pub fn read<T: Data>(list: usize, texts: Texts) -> Opener<T> {
    opener(move |task| {
        Ok(Box::new(PlainRows {
            rows: BlockRows::open(task, list, texts)?,
            sizes: Vec::with_capacity(CHUNK_ROWS),
        }))
    })
}

#[cfg(test)]
mod tests {
    use millstream_common::{
        failure::FailureKind, ids::BlockId, protocol::BlockMeta, routing::PartitionCount,
        text::Text,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::{
        exchange::{Gather, Keep, RoundRobin},
        memory::MemoryServices,
        rows::{BoxRows, VecRows},
        stage::Exit,
        testing::{all, location, reading, task},
    };

    fn rows(count: usize) -> Vec<(Text, u64)> {
        let text = |i: usize| Text::from(format!("row {i} {}", "and more of it ".repeat(i % 5)));
        (0..count).map(|i| (text(i), i as u64)).collect()
    }

    fn write(
        services: &MemoryServices,
        partition: u32,
        exit: impl Exit<(Text, u64)>,
        rows: Vec<(Text, u64)>,
    ) -> Vec<BlockLocation> {
        let map = task(services, partition);
        let rows: BoxRows<'_, _> = Box::new(VecRows::new(rows));
        let metas: Vec<BlockMeta> = exit.run(rows, &map).unwrap().exchanges.remove(0);
        (0..)
            .zip(metas)
            .map(|(partition, meta)| location(&map, partition, meta))
            .collect()
    }

    fn read_all(
        services: &MemoryServices,
        blocks: Vec<BlockLocation>,
        texts: Texts,
    ) -> Vec<(Text, u64)> {
        let task = reading(services, blocks);
        let open = read::<(Text, u64)>(0, texts);
        all(open(&task).unwrap(), &task)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn what_is_written_is_read(count in 0usize..30_000, compress in any::<bool>()) {
            let services = MemoryServices::new(u64::MAX);
            let services = if compress { services } else { services.uncompressed() };
            let blocks = write(&services, 0, Gather, rows(count));
            prop_assert_eq!(blocks[0].meta.rows, count as u64);
            prop_assert_eq!(read_all(&services, blocks.clone(), Texts::Shared), rows(count));
            prop_assert_eq!(read_all(&services, blocks, Texts::Owned), rows(count));
        }
    }

    /// The chunks in which the rows of these blocks are read.
    fn chunks_of(
        services: &MemoryServices,
        blocks: Vec<BlockLocation>,
        texts: Texts,
    ) -> Vec<Vec<(Text, u64)>> {
        let task = reading(services, blocks);
        let mut rows = read::<(Text, u64)>(0, texts)(&task).unwrap();
        let mut chunks = Vec::new();
        loop {
            let mut chunk = Vec::new();
            let more = rows.next(&mut chunk).unwrap();
            chunks.push(chunk);
            if !more {
                return chunks;
            }
        }
    }

    #[test]
    fn a_chunk_of_large_rows_is_few_rows_and_nothing_is_lost_at_its_edge() {
        let services = MemoryServices::new(u64::MAX);
        let row = |kib: usize, i| (Text::from("x".repeat(kib << 10)), i);
        // One row a frame, a row larger than a chunk, three rows a frame: chunks end between frames and within them.
        let mut written: Vec<(Text, u64)> = (0..20).map(|i| row(300, i)).collect();
        written.push(row(3 << 10, 20));
        written.extend((21..60).map(|i| row(100, i)));
        written.extend(rows(2_000));
        let blocks = write(&services, 0, Gather, written.clone());
        for texts in [Texts::Shared, Texts::Owned] {
            let chunks = chunks_of(&services, blocks.clone(), texts);
            for chunk in &chunks {
                assert!(chunk.len() <= CHUNK_ROWS);
                let all_but_last = chunk.iter().rev().skip(1);
                let bytes: usize = all_but_last.map(|(text, _)| text.len()).sum();
                assert!(bytes < CHUNK_BYTES, "{bytes} bytes in one chunk");
            }
            assert!(chunks.iter().any(|chunk| chunk.len() == CHUNK_ROWS));
            assert_eq!(chunks.concat(), written);
        }
    }

    #[test]
    fn the_checksum_is_of_the_rows_alone() {
        let plain = MemoryServices::new(u64::MAX).uncompressed();
        let compressing = MemoryServices::new(u64::MAX);
        let one = write(&plain, 0, Gather, rows(20_000))[0].meta;
        let other = write(&compressing, 0, Gather, rows(20_000))[0].meta;
        assert_eq!(one.checksum, other.checksum);
        assert!(other.bytes < one.bytes / 2);
        assert_ne!(
            write(&plain, 1, Gather, rows(19_999))[0].meta.checksum,
            one.checksum
        );
    }

    #[test]
    fn a_kept_block_has_the_number_of_its_task() {
        let services = MemoryServices::new(u64::MAX);
        let mut blocks = write(&services, 5, Keep, rows(10));
        assert_eq!(blocks.len(), 1);
        blocks[0].partition = 5;
        assert_eq!(read_all(&services, blocks, Texts::Shared), rows(10));
    }

    #[test]
    fn frames_are_small_where_partitions_are_many() {
        let services = MemoryServices::new(u64::MAX).uncompressed();
        let spread = RoundRobin(PartitionCount::new(4096).unwrap());
        let wide = |i: u64| (Text::from("x".repeat(1000)), i);
        let blocks = write(&services, 0, spread, (0..40_960).map(wide).collect());
        assert_eq!(blocks[0].meta.rows, 10);
        let frames = services.frames(BlockId {
            task: blocks[0].task,
            exchange: 0,
            partition: 0,
        });
        assert!(frames.len() > 1);
    }

    #[test]
    fn a_damaged_block_is_a_failed_fetch() {
        let services = MemoryServices::new(u64::MAX);
        let blocks = write(&services, 0, Gather, rows(100));
        let id = BlockId {
            task: blocks[0].task,
            exchange: 0,
            partition: 0,
        };
        services.change(id, |frames| {
            let mut bytes = frames[0].to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            frames[0] = Bytes::from(bytes);
        });
        let task = reading(&services, blocks.clone());
        let mut rows = read::<(Text, u64)>(0, Texts::Shared)(&task).unwrap();
        let failure = rows.next(&mut Vec::new()).unwrap_err();
        let FailureKind::FetchFailed { block, executor } = failure.kind else {
            panic!("{failure}")
        };
        assert_eq!((block, executor), (id, blocks[0].executor));
        assert!(failure.message.contains("damaged"), "{failure}");
    }

    #[test]
    fn rows_of_another_type_are_told() {
        let services = MemoryServices::new(u64::MAX);
        let blocks = write(&services, 0, Gather, rows(100));
        let task = reading(&services, blocks);
        let mut rows = read::<u8>(0, Texts::Shared)(&task).unwrap();
        let failure = rows.next(&mut Vec::new()).unwrap_err();
        assert_eq!(failure.code, "task.codec");
    }

    #[test]
    fn a_cancelled_task_stops() {
        let services = MemoryServices::new(u64::MAX);
        let blocks = write(&services, 0, Gather, rows(100));
        let task = reading(&services, blocks);
        task.cancel().cancel();
        let mut rows = read::<(Text, u64)>(0, Texts::Shared)(&task).unwrap();
        assert_eq!(
            rows.next(&mut Vec::new()).unwrap_err().kind,
            FailureKind::Cancelled
        );
    }
}
