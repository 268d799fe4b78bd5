//! Rows out of fetched blocks, in map order.

use std::marker::PhantomData;

use bytes::Bytes;
use millstream_common::{
    codec,
    failure::{Failure, FailureKind},
    frame::{Frame, MAX_FRAME_BYTES},
    ids::BlockId,
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

    /// Appends the next rows to `chunk`, and the encoded size of each to `sizes`; false at the end.
    ///
    /// # Errors
    /// Those of fetching; a damaged frame is a failed fetch.
    pub fn read(&mut self, chunk: &mut Vec<T>, sizes: &mut Vec<usize>) -> Result<bool, Failure> {
        while chunk.len() < CHUNK_ROWS {
            let Some(open) = &mut self.open else {
                match self.frames.next()? {
                    Some((location, bytes)) => self.open = Some(self.open_frame(location, &bytes)?),
                    None => return Ok(false),
                }
                continue;
            };
            let before = chunk.len();
            match self.texts {
                Texts::Shared => {
                    let block = open.block.clone();
                    block.scope(|| open.decode(chunk, sizes))?;
                }
                Texts::Owned => open.decode(chunk, sizes)?,
            }
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
            Err(reason) => Err(self.damaged(location, reason)),
        }
    }

    fn damaged(&self, location: usize, reason: String) -> Failure {
        let Some(location) = self.locations.get(location) else {
            return Failure::new(
                FailureKind::Internal,
                format!(
                    "a frame came for block {location} of a list of {}",
                    self.locations.len()
                ),
            );
        };
        let block = BlockId {
            task: location.task,
            exchange: location.exchange,
            partition: location.partition,
        };
        Failure::new(
            FailureKind::FetchFailed {
                block,
                executor: location.executor,
            },
            format!("{block} from {} is damaged: {reason}", location.address),
        )
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
    /// Decodes rows until the chunk is full or the frame at its end.
    fn decode<T: DeserializeOwned>(
        &mut self,
        chunk: &mut Vec<T>,
        sizes: &mut Vec<usize>,
    ) -> Result<(), Failure> {
        let bytes = self.block.as_slice();
        let count = (self.rows as usize).min(CHUNK_ROWS.saturating_sub(chunk.len()));
        for _ in 0..count {
            let (row, used) =
                codec::decode::<T>(&bytes[self.offset..]).map_err(|error| codec_failure(&error))?;
            self.offset += used;
            chunk.push(row);
            sizes.push(used);
        }
        self.rows -= count as u32;
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
