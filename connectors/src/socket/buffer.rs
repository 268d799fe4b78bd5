//! Received bytes as lines, and lines in blocks. No IO.

use std::{collections::VecDeque, time::Duration};

use memchr::memchr;
use millstream_common::{
    failure::{Failure, FailureKind},
    time::Tick,
};

use super::{Block, Settings};
use crate::malformed::OnMalformed;

/// Bytes of one block, unless a single line has more.
const BLOCK_BYTES: usize = 1 << 20;

/// Lines that wait for a batch.
#[derive(Debug)]
pub(super) struct LineBuffer {
    address: String,
    on_malformed: OnMalformed,
    max_line: usize,
    block_interval: Duration,
    max_bytes: u64,
    /// Oldest first; the last one is open.
    blocks: VecDeque<(Tick, Block)>,
    bytes: u64,
    rows: u64,
    /// The line that has not ended.
    partial: Vec<u8>,
    /// The line that has not ended is too long already.
    skipping: bool,
    /// Malformed lines that no block has counted.
    malformed: u64,
    /// Lines received on this connection.
    line_number: u64,
    reported: bool,
}

impl LineBuffer {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            address: settings.address.clone(),
            on_malformed: settings.on_malformed,
            max_line: settings.max_record_bytes,
            block_interval: settings.block_interval,
            max_bytes: settings.max_buffered,
            blocks: VecDeque::new(),
            bytes: 0,
            rows: 0,
            partial: Vec::new(),
            skipping: false,
            malformed: 0,
            line_number: 0,
            reported: false,
        }
    }

    /// Whether no more may be received for now, where batches that are not over hold `planned` bytes.
    pub(super) fn is_full(&self, planned: u64) -> bool {
        self.bytes.saturating_add(planned) >= self.max_bytes
    }

    /// Whole lines that wait.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes what was received.
    ///
    /// # Errors
    /// `BadInput` when a line is malformed and the policy is to fail.
    pub(super) fn receive(&mut self, mut bytes: &[u8], now: Tick) -> Result<(), Failure> {
        while let Some(line_end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(line_end);
            bytes = rest.get(1..).unwrap_or_default();
            self.end_line(line, now)?;
        }
        if !self.skipping {
            self.partial.extend_from_slice(bytes);
            // One byte more may be the `\r` before the line's end.
            if self.partial.len() > self.max_line.saturating_add(1) {
                self.skipping = true;
                self.partial = Vec::new();
                return self.too_long(self.line_number + 1);
            }
        }
        Ok(())
    }

    /// The connection ended; what lacks a line end is a line too.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub(super) fn end_connection(&mut self, now: Tick) -> Result<(), Failure> {
        let ended = if self.partial.is_empty() {
            Ok(())
        } else {
            self.end_line(&[], now)
        };
        self.skipping = false;
        self.line_number = 0;
        ended
    }

    /// Ends the line of which `rest` is the last part.
    fn end_line(&mut self, rest: &[u8], now: Tick) -> Result<(), Failure> {
        self.line_number += 1;
        if std::mem::replace(&mut self.skipping, false) {
            return Ok(());
        }
        if self.partial.is_empty() {
            return self.push(rest, now);
        }
        let mut line = std::mem::take(&mut self.partial);
        line.extend_from_slice(rest);
        let pushed = self.push(&line, now);
        line.clear();
        self.partial = line;
        pushed
    }

    fn push(&mut self, line: &[u8], now: Tick) -> Result<(), Failure> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.max_line {
            return self.too_long(self.line_number);
        }
        match std::str::from_utf8(line) {
            Ok(text) => self.append(text, now),
            Err(_) => {
                self.not_text()?;
                if self.on_malformed == OnMalformed::Replace {
                    self.append(&String::from_utf8_lossy(line), now);
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, line: &str, now: Tick) {
        let length = line.len() + 1;
        let open = self.blocks.back().is_some_and(|(opened, block)| {
            now.since(*opened) < self.block_interval && block.text.len() + length <= BLOCK_BYTES
        });
        if !open {
            self.blocks.push_back((now, Block::default()));
        }
        if let Some((_, block)) = self.blocks.back_mut() {
            block.text.push_str(line);
            block.text.push('\n');
            block.rows += 1;
            block.malformed += std::mem::take(&mut self.malformed);
            self.bytes += length as u64;
            self.rows += 1;
        }
    }

    fn not_text(&mut self) -> Result<(), Failure> {
        if self.on_malformed == OnMalformed::Fail {
            let message = format!(
                "line {} of the connection to {} is not UTF-8 text; set input.on_malformed to `replace` or `drop` to go on without it",
                self.line_number, self.address
            );
            return Err(Failure::new(FailureKind::BadInput, message));
        }
        self.count_malformed(self.line_number, "a line is not UTF-8 text");
        Ok(())
    }

    fn too_long(&mut self, line_number: u64) -> Result<(), Failure> {
        if self.on_malformed != OnMalformed::Drop {
            let message = format!(
                "line {line_number} of the connection to {} is longer than input.max_record_bytes = {}; raise it, or set input.on_malformed to `drop`",
                self.address, self.max_line
            );
            return Err(Failure::new(FailureKind::BadInput, message));
        }
        self.count_malformed(line_number, "a line is too long");
        Ok(())
    }

    fn count_malformed(&mut self, line_number: u64, problem: &str) {
        self.malformed += 1;
        if !std::mem::replace(&mut self.reported, true) {
            tracing::warn!(
                address = self.address,
                line_number,
                problem,
                "malformed input; further lines are only counted"
            );
        }
    }

    /// The oldest blocks with at most `max_bytes` and `max_rows`, but at least one row where there is one.
    pub(super) fn take(&mut self, max_bytes: u64, max_rows: u64) -> Vec<Block> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let mut rows = 0;
        while let Some((opened, block)) = self.blocks.pop_front() {
            let room = max_bytes.saturating_sub(bytes);
            let rows_left = max_rows.saturating_sub(rows);
            let fits = block.text.len() as u64 <= room && block.rows <= rows_left;
            let (head, rest) = if fits {
                (block, None)
            } else {
                cut(block, room, rows_left, taken.is_empty())
            };
            if let Some(rest) = rest {
                self.blocks.push_front((opened, rest));
            }
            if head.rows == 0 {
                break;
            }
            bytes += head.text.len() as u64;
            rows += head.rows;
            taken.push(head);
            if !fits {
                break;
            }
        }
        self.bytes -= bytes;
        self.rows -= rows;
        taken
    }
}

/// Cuts a block before the first line that has no room; with `at_least_one`, after the first line at the earliest.
fn cut(mut block: Block, room: u64, max_rows: u64, at_least_one: bool) -> (Block, Option<Block>) {
    let mut length = 0;
    let mut rows = 0;
    for line in block.text.split_inclusive('\n') {
        let must = at_least_one && rows == 0;
        let end = length + line.len();
        if !must && (end as u64 > room || rows == max_rows) {
            break;
        }
        length = end;
        rows += 1;
    }
    let text = block.text.split_off(length);
    let rest = Block {
        text,
        rows: block.rows - rows,
        malformed: 0,
    };
    if rows == 0 {
        let malformed = block.malformed;
        return (Block::default(), Some(Block { malformed, ..rest }));
    }
    block.rows = rows;
    let rest = (rest.rows > 0).then_some(rest);
    (block, rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn buffer(on_malformed: OnMalformed, max_line: usize) -> LineBuffer {
        let mut settings = Settings::new("127.0.0.1:9");
        settings.on_malformed = on_malformed;
        settings.max_record_bytes = max_line;
        LineBuffer::new(&settings)
    }

    fn texts(blocks: &[Block]) -> Vec<&str> {
        blocks.iter().map(|block| block.text.as_str()).collect()
    }

    #[test]
    fn blocks_are_cut_by_time() {
        let mut buffer = buffer(OnMalformed::Fail, 100);
        buffer.receive(b"a\r\nb\n", Tick(0)).unwrap();
        buffer.receive(b"c\nd", Tick(199_999)).unwrap();
        buffer.receive(b"e\n", Tick(200_000)).unwrap();
        assert_eq!(buffer.rows(), 4);
        let blocks = buffer.take(u64::MAX, u64::MAX);
        assert_eq!(texts(&blocks), ["a\nb\nc\n", "de\n"]);
        assert_eq!((buffer.rows(), buffer.bytes), (0, 0));
    }

    #[test]
    fn malformed_lines_follow_the_policy_and_are_counted() {
        let input = b"good\nb\xffd\nmuch too long\nfine\n";
        let failure = buffer(OnMalformed::Fail, 5)
            .receive(input, Tick(0))
            .unwrap_err();
        assert!(
            failure.message.contains("line 2 of the connection"),
            "{failure}"
        );
        let failure = buffer(OnMalformed::Replace, 5)
            .receive(input, Tick(0))
            .unwrap_err();
        assert!(
            failure.message.contains("line 3 of the connection"),
            "{failure}"
        );
        let mut dropping = buffer(OnMalformed::Drop, 5);
        dropping.receive(input, Tick(0)).unwrap();
        let blocks = dropping.take(u64::MAX, u64::MAX);
        assert_eq!(texts(&blocks), ["good\nfine\n"]);
        assert_eq!(blocks[0].malformed, 2);
        let mut replacing = buffer(OnMalformed::Replace, 50);
        replacing.receive(input, Tick(0)).unwrap();
        assert_eq!(replacing.rows(), 4);
    }

    #[test]
    fn a_last_line_without_its_end_counts_when_the_connection_ends() {
        let mut buffer = buffer(OnMalformed::Fail, 100);
        buffer.receive(b"a\nb", Tick(0)).unwrap();
        buffer.end_connection(Tick(0)).unwrap();
        buffer.end_connection(Tick(0)).unwrap();
        buffer.receive(b"c\n", Tick(0)).unwrap();
        assert_eq!(texts(&buffer.take(u64::MAX, u64::MAX)), ["a\nb\nc\n"]);
    }

    proptest! {
        #[test]
        fn batches_take_every_line_once_within_their_limits(
            lines in proptest::collection::vec("[a-z]{0,20}", 0..60),
            pieces in proptest::collection::vec(1usize..50, 1..5),
            max_bytes in 1u64..100,
            max_rows in 1u64..10,
        ) {
            let mut buffer = buffer(OnMalformed::Drop, 20);
            let mut input = lines.join("\n").into_bytes();
            if !lines.is_empty() {
                input.push(b'\n');
            }
            let mut at = 0;
            let mut turn = 0;
            while at < input.len() {
                let end = (at + pieces[turn % pieces.len()]).min(input.len());
                buffer.receive(&input[at..end], Tick(turn as u64 * 70_000)).unwrap();
                at = end;
                turn += 1;
            }
            let mut taken = Vec::new();
            while buffer.rows() > 0 {
                let blocks = buffer.take(max_bytes, max_rows);
                let bytes: usize = blocks.iter().map(|block| block.text.len()).sum();
                let rows: u64 = blocks.iter().map(|block| block.rows).sum();
                prop_assert!(rows >= 1 && rows <= max_rows);
                prop_assert!(bytes as u64 <= max_bytes || rows == 1);
                for block in blocks {
                    prop_assert_eq!(block.text.lines().count() as u64, block.rows);
                    taken.extend(block.text.lines().map(str::to_owned));
                }
            }
            prop_assert_eq!(taken, lines);
            prop_assert_eq!(buffer.bytes, 0);
        }
    }
}
