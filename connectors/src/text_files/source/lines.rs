//! Cuts what is read of a split into blocks of whole lines. Which lines come never depends on how much a read gives.

use std::io;

use memchr::{memchr, memrchr};

/// Bytes asked for at once.
const READ: u64 = 1 << 20;
/// Bytes asked for at once past the split's end, where only the rest of one line is wanted.
const TAIL: u64 = 64 << 10;

/// Where bytes come from.
pub(super) trait Input {
    /// Appends up to `limit` bytes to `buffer`, and says how many; 0 at the end.
    fn read(&mut self, buffer: &mut Vec<u8>, limit: usize) -> io::Result<usize>;
}

/// The range of a split in its file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub start: u64,
    pub end: u64,
    /// The file's length.
    pub size: u64,
}

impl Range {
    /// Where reading begins: one byte early, to see whether a line begins at the start.
    pub(super) fn first_byte(&self) -> u64 {
        self.start.saturating_sub(1)
    }
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Whole lines; only the file's last one may lack its end. Some may begin at or past the split's end.
    Lines {
        /// The bytes.
        bytes: Vec<u8>,
        /// Where they are in the file.
        at: u64,
    },
    /// A line that is longer than the limit was left out.
    TooLong {
        /// Where it begins.
        at: u64,
    },
    /// The file ended before its planned length.
    Shrunk {
        /// Where it ended.
        at: u64,
    },
    /// There are no more.
    End,
}

/// Cuts the lines of one split.
#[derive(Debug)]
pub(super) struct Cutter<I> {
    input: I,
    range: Range,
    max_line: usize,
    /// The next byte to read.
    position: u64,
    /// Read and not given: the beginning of a line, unless `skipping`.
    buffer: Vec<u8>,
    /// Where the buffer is in the file.
    buffer_at: u64,
    /// Bytes of the buffer that hold no line end.
    scanned: usize,
    /// Everything up to the next line end is left out.
    skipping: bool,
}

impl<I: Input> Cutter<I> {
    /// `input` stands at [`Range::first_byte`]. Lines of more than `max_line` bytes may be left out as too long; up to about that
    /// many are held.
    pub(super) fn new(input: I, range: Range, max_line: usize) -> Self {
        let position = range.first_byte();
        Self {
            input,
            range,
            max_line,
            position,
            buffer: Vec::new(),
            buffer_at: position,
            scanned: 0,
            skipping: range.start > 0,
        }
    }

    pub(super) fn next(&mut self) -> io::Result<Piece> {
        loop {
            let unscanned = self.buffer.get(self.scanned..).unwrap_or_default();
            if self.skipping {
                match memchr(b'\n', unscanned) {
                    Some(line_end) => {
                        let dropped = self.scanned + line_end + 1;
                        self.buffer.drain(..dropped);
                        self.buffer_at += dropped as u64;
                        self.skipping = false;
                    }
                    None => {
                        self.buffer_at += self.buffer.len() as u64;
                        self.buffer.clear();
                    }
                }
                self.scanned = 0;
            } else if let Some(line_end) = memrchr(b'\n', unscanned) {
                return Ok(self.give(self.scanned + line_end + 1));
            } else {
                self.scanned = self.buffer.len();
                // One byte more may be the `\r` before the line's end.
                if self.buffer.len() > self.max_line.saturating_add(1)
                    && self.buffer_at < self.range.end
                {
                    let at = self.buffer_at;
                    self.skipping = true;
                    return Ok(Piece::TooLong { at });
                }
            }
            let begins_past_end = !self.skipping && self.buffer_at >= self.range.end;
            if begins_past_end {
                return Ok(Piece::End);
            }
            if self.scanned < self.buffer.len() {
                continue;
            }
            if self.position >= self.range.size {
                if self.buffer.is_empty() || self.skipping {
                    return Ok(Piece::End);
                }
                return Ok(self.give(self.buffer.len()));
            }
            if self.read()? == 0 {
                let at = self.position;
                self.range.size = at;
                return Ok(Piece::Shrunk { at });
            }
        }
    }

    /// Takes the first `length` bytes of the buffer.
    fn give(&mut self, length: usize) -> Piece {
        let rest = self.buffer.get(length..).unwrap_or_default();
        let mut next = Vec::new();
        if !rest.is_empty() {
            next.reserve_exact(rest.len() + self.read_size());
            next.extend_from_slice(rest);
        }
        let mut bytes = std::mem::replace(&mut self.buffer, next);
        bytes.truncate(length);
        let at = self.buffer_at;
        self.buffer_at += length as u64;
        self.scanned = self.buffer.len();
        Piece::Lines { bytes, at }
    }

    fn read_size(&self) -> usize {
        let wanted = self.range.end.saturating_sub(self.position);
        let limit = wanted.clamp(TAIL, READ);
        let left = self.range.size.saturating_sub(self.position);
        usize::try_from(limit.min(left)).unwrap_or(usize::MAX)
    }

    fn read(&mut self) -> io::Result<usize> {
        let limit = self.read_size();
        self.buffer.reserve_exact(limit);
        let count = self.input.read(&mut self.buffer, limit)?;
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives as many bytes as it is told, in turn.
    struct Dribble {
        bytes: Vec<u8>,
        at: usize,
        sizes: Vec<usize>,
        reads: usize,
    }

    impl Input for Dribble {
        fn read(&mut self, buffer: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
            let size = self.sizes[self.reads % self.sizes.len()].min(limit);
            self.reads += 1;
            let end = (self.at + size).min(self.bytes.len());
            let part = &self.bytes[self.at..end];
            buffer.extend_from_slice(part);
            let count = part.len();
            self.at = end;
            Ok(count)
        }
    }

    /// Lines that the split owns, as (offset, bytes with their end), and the offsets of those left out. Checks the rule for what may be too long.
    fn lines_of(
        content: &[u8],
        range: Range,
        max_line: usize,
        sizes: &[usize],
    ) -> (Vec<(u64, Vec<u8>)>, Vec<u64>) {
        let input = Dribble {
            bytes: content.to_vec(),
            at: range.first_byte() as usize,
            sizes: sizes.to_vec(),
            reads: 0,
        };
        let mut cutter = Cutter::new(input, range, max_line);
        let mut lines = Vec::new();
        let mut too_long = Vec::new();
        loop {
            match cutter.next().unwrap() {
                Piece::Lines { bytes, at } => {
                    let mut offset = at;
                    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                        if offset < range.end {
                            lines.push((offset, line.to_vec()));
                        }
                        offset += line.len() as u64;
                    }
                }
                Piece::TooLong { at } => too_long.push(at),
                Piece::Shrunk { at } => panic!("shrunk at {at}"),
                Piece::End => return (lines, too_long),
            }
        }
    }

    fn expected(content: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut at = 0;
        let mut lines = Vec::new();
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            lines.push((at, line.to_vec()));
            at += line.len() as u64;
        }
        lines
    }

    fn content() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![3 => Just(b'\n'), 8 => Just(b'x'), 1 => Just(b'\r')];
        proptest::collection::vec(byte, 1..200)
    }

    proptest! {
        #[test]
        fn splits_partition_the_lines(
            content in content(),
            cuts in proptest::collection::vec(0.0f64..1.0, 0..6),
            sizes in proptest::collection::vec(1usize..40, 1..5),
        ) {
            let size = content.len() as u64;
            let mut bounds: Vec<u64> = cuts.iter().map(|cut| (cut * size as f64) as u64).collect();
            bounds.extend([0, size]);
            bounds.sort_unstable();
            bounds.dedup();
            let mut lines = Vec::new();
            for pair in bounds.windows(2) {
                let range = Range { start: pair[0], end: pair[1], size };
                let (mut owned, too_long) = lines_of(&content, range, 1_000, &sizes);
                prop_assert!(too_long.is_empty());
                prop_assert!(owned.iter().all(|(at, _)| (pair[0]..pair[1]).contains(at)));
                lines.append(&mut owned);
            }
            prop_assert_eq!(lines, expected(&content));
        }

        #[test]
        fn lines_within_the_limit_always_come_and_the_others_are_left_out_or_come_whole(
            content in content(),
            max_line in 0usize..12,
            start in 0.0f64..1.0,
            sizes in proptest::collection::vec(1usize..40, 1..5),
        ) {
            let size = content.len() as u64;
            let range = Range { start: (start * size as f64) as u64, end: size, size };
            let (lines, too_long) = lines_of(&content, range, max_line, &sizes);
            let mut owned = expected(&content);
            owned.retain(|(at, _)| *at >= range.start);
            let short = |line: &[u8]| {
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                line.strip_suffix(b"\r").unwrap_or(line).len() <= max_line
            };
            for (at, line) in &owned {
                let comes = lines.contains(&(*at, line.clone()));
                prop_assert!(comes != too_long.contains(at));
                prop_assert!(comes || !short(line));
            }
            prop_assert_eq!(lines.len() + too_long.len(), owned.len());
        }
    }

    #[test]
    fn a_file_that_ends_early_is_told() {
        let input = Dribble {
            bytes: b"one\ntw".to_vec(),
            at: 0,
            sizes: vec![100],
            reads: 0,
        };
        let range = Range {
            start: 0,
            end: 10,
            size: 10,
        };
        let mut cutter = Cutter::new(input, range, 100);
        let lines = |bytes: &[u8], at| Piece::Lines {
            bytes: bytes.to_vec(),
            at,
        };
        assert_eq!(cutter.next().unwrap(), lines(b"one\n", 0));
        assert_eq!(cutter.next().unwrap(), Piece::Shrunk { at: 6 });
        assert_eq!(cutter.next().unwrap(), lines(b"tw", 4));
        assert_eq!(cutter.next().unwrap(), Piece::End);
    }
}
