//! Cuts what is read of a split into blocks of whole lines. Which lines come never depends on how much a read gives.
//!
//! A line ends, as Hadoop's does, with `\n`, `\r\n` or a `\r` alone. A `\r` ends one where no `\n` follows it, so that what ends a line never depends on
//! where a split or a read begins; one that is the last byte read waits for the next.

use std::io;

use memchr::{memchr, memchr2, memrchr};

/// Bytes asked for at once.
const READ: u64 = 1 << 20;
/// Bytes asked for at once past the split's end, where only the rest of one line is wanted.
const TAIL: u64 = 64 << 10;

/// Where a line ends within some bytes, if it does.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The next line begins here.
    At(usize),
    /// The last byte, here, is a `\r`: it ends a line unless it is half of a line's end.
    OpenAt(usize),
    None,
}

/// The first line end. Nothing follows the bytes if they are `whole`.
fn first_end(bytes: &[u8], whole: bool) -> Found {
    let Some(found) = memchr2(b'\n', b'\r', bytes) else {
        return Found::None;
    };
    match end_at(bytes, found) {
        Some(next) => Found::At(next),
        None if whole => Found::At(bytes.len()),
        None => Found::OpenAt(found),
    }
}

/// A line end behind which there may be others only where there is no `\n`.
fn last_end(bytes: &[u8], whole: bool) -> Found {
    if let Some(found) = memrchr(b'\n', bytes) {
        return Found::At(found + 1);
    }
    let Some(found) = memrchr(b'\r', bytes) else {
        return Found::None;
    };
    if whole || found + 1 < bytes.len() {
        return Found::At(found + 1);
    }
    match memrchr(b'\r', bytes.get(..found).unwrap_or_default()) {
        Some(before) => Found::At(before + 1),
        None => Found::OpenAt(found),
    }
}

/// Where the line after the letter at `found` begins, which is a `\n` or a `\r`. None: a `\r` at the end of the bytes.
fn end_at(bytes: &[u8], found: usize) -> Option<usize> {
    match (bytes.get(found), bytes.get(found + 1)) {
        (Some(b'\n'), _) => Some(found + 1),
        (_, Some(b'\n')) => Some(found + 2),
        (_, Some(_)) => Some(found + 1),
        (_, None) => None,
    }
}

/// Finds the lines of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// There is a `\r`. Most files have none, and are looked through for `\n` alone.
    has_returns: bool,
}

impl Ends {
    pub(super) fn of(block: &[u8]) -> Self {
        Self {
            has_returns: memchr(b'\r', block).is_some(),
        }
    }

    /// The length of the first line of what is left of the block, without and with its end. The block's last line may lack its end.
    pub(super) fn first(self, rest: &[u8]) -> (usize, usize) {
        let found = match self.has_returns {
            true => memchr2(b'\n', b'\r', rest).map(|end| (end, end_at(rest, end))),
            false => memchr(b'\n', rest).map(|end| (end, Some(end + 1))),
        };
        match found {
            Some((end, next)) => (end, next.unwrap_or(rest.len())),
            None => (rest.len(), rest.len()),
        }
    }
}

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
            let is_whole = self.position >= self.range.size;
            let unscanned = self.buffer.get(self.scanned..).unwrap_or_default();
            if self.skipping {
                match first_end(unscanned, is_whole) {
                    Found::At(line_end) => {
                        self.drop_first(self.scanned + line_end);
                        self.skipping = false;
                        continue;
                    }
                    Found::OpenAt(letter) => self.drop_first(self.scanned + letter),
                    Found::None => self.drop_first(self.buffer.len()),
                }
            } else {
                match last_end(unscanned, is_whole) {
                    Found::At(line_end) => return Ok(self.give(self.scanned + line_end)),
                    Found::OpenAt(letter) => self.scanned += letter,
                    Found::None => self.scanned = self.buffer.len(),
                }
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
            if is_whole {
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

    fn drop_first(&mut self, length: usize) {
        self.buffer.drain(..length);
        self.buffer_at += length as u64;
        self.scanned = 0;
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
        // Where a `\n` was found, a `\r` behind it wasn't looked for.
        self.scanned = 0;
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
                    let ends = Ends::of(&bytes);
                    let mut cursor = 0;
                    while cursor < bytes.len() {
                        let (length, whole) = ends.first(&bytes[cursor..]);
                        let line = &bytes[cursor..cursor + whole];
                        assert_eq!(without_end(line).len(), length);
                        let offset = at + cursor as u64;
                        if offset < range.end {
                            lines.push((offset, line.to_vec()));
                        }
                        cursor += whole;
                    }
                }
                Piece::TooLong { at } => too_long.push(at),
                Piece::Shrunk { at } => panic!("shrunk at {at}"),
                Piece::End => return (lines, too_long),
            }
        }
    }

    fn without_end(line: &[u8]) -> &[u8] {
        for end in [&b"\r\n"[..], b"\n", b"\r"] {
            if let Some(line) = line.strip_suffix(end) {
                return line;
            }
        }
        line
    }

    /// Letter by letter.
    fn expected(content: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut lines = Vec::new();
        let mut line = Vec::new();
        for (place, byte) in content.iter().enumerate() {
            line.push(*byte);
            let next = content.get(place + 1);
            if *byte == b'\n' || (*byte == b'\r' && next != Some(&b'\n')) {
                let at = (place + 1 - line.len()) as u64;
                lines.push((at, std::mem::take(&mut line)));
            }
        }
        if !line.is_empty() {
            lines.push(((content.len() - line.len()) as u64, line));
        }
        lines
    }

    /// Of files that end lines with `\n`, with `\r\n`, with `\r`, and with whatever comes.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let weights = [(3, 0), (3, 1), (0, 3), (2, 2)];
        proptest::sample::select(weights.to_vec()).prop_flat_map(|(line_feed, carriage_return)| {
            let byte = prop_oneof![
                line_feed => Just(b'\n'),
                8 => Just(b'x'),
                carriage_return => Just(b'\r'),
            ];
            proptest::collection::vec(byte, 1..200)
        })
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
            let short = |line: &[u8]| without_end(line).len() <= max_line;
            for (at, line) in &owned {
                let comes = lines.contains(&(*at, line.clone()));
                prop_assert!(comes != too_long.contains(at));
                prop_assert!(comes || !short(line));
            }
            prop_assert_eq!(lines.len() + too_long.len(), owned.len());
        }
    }

    #[test]
    fn a_carriage_return_ends_a_line_also_where_a_split_or_a_read_ends_behind_it() {
        let content = b"a\rb\r\nc\r\rd\r";
        let lines: [(u64, &[u8]); 5] = [
            (0, b"a\r"),
            (2, b"b\r\n"),
            (5, b"c\r"),
            (7, b"\r"),
            (8, b"d\r"),
        ];
        for cut in 0..=content.len() as u64 {
            for read in 1..=content.len() {
                let size = content.len() as u64;
                let mut found = Vec::new();
                for (start, end) in [(0, cut), (cut, size)] {
                    if start == end {
                        continue;
                    }
                    let range = Range { start, end, size };
                    found.append(&mut lines_of(content, range, 100, &[read]).0);
                }
                let found: Vec<(u64, &[u8])> = found
                    .iter()
                    .map(|(at, line)| (*at, line.as_slice()))
                    .collect();
                assert_eq!(found, lines, "cut at {cut}, {read} bytes a read");
            }
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
