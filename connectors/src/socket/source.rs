//! The executor half: the lines that a split carries.

use memchr::memchr;
use millstream_common::{
    failure::{Failure, FailureKind},
    text::Text,
};
use millstream_dataflow::program::TaskContext;
use serde::Deserialize;
use serde_json::Value;

use super::Block;
use crate::source::{More, SplitReader, SplitSource};

/// Rows that one call gives.
const CHUNK_ROWS: usize = 1024;

/// Reads the splits of a socket source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketSplits;

impl SplitSource<Vec<Text>> for SocketSplits {
    fn open(
        &self,
        split: &Value,
        _task: &TaskContext<'_>,
    ) -> Result<Box<dyn SplitReader<Vec<Text>>>, Failure> {
        let block = Block::deserialize(split).map_err(|error| {
            let message = "lines that were received from a socket were expected in a split";
            Failure::caused_by(FailureKind::Internal, message, &error)
        })?;
        Ok(Box::new(BlockReader {
            text: Text::from(block.text),
            malformed: block.malformed,
            cursor: 0,
        }))
    }
}

struct BlockReader {
    text: Text,
    malformed: u64,
    /// Where the next line begins.
    cursor: usize,
}

impl SplitReader<Vec<Text>> for BlockReader {
    fn next(&mut self, chunk: &mut Vec<Text>, task: &mut TaskContext<'_>) -> Result<More, Failure> {
        task.cancel.check()?;
        task.counts.malformed += std::mem::take(&mut self.malformed);
        let begun = self.cursor;
        while chunk.len() < CHUNK_ROWS {
            let rest = self.text.as_bytes().get(self.cursor..).unwrap_or_default();
            let Some(length) = memchr(b'\n', rest) else {
                break;
            };
            let line = self.text.get_slice(self.cursor..self.cursor + length);
            chunk.extend(line);
            self.cursor += length + 1;
        }
        task.counts.input_rows += chunk.len() as u64;
        task.counts.input_bytes += (self.cursor - begun) as u64;
        if self.cursor < self.text.len() {
            return Ok(More::Yes);
        }
        Ok(More::No)
    }
}
