//! The executor half: the lines of a split.

use std::{
    cell::Cell,
    fs::File,
    io::{self, Seek, SeekFrom},
    sync::Arc,
};

use millstream_common::{
    failure::{Failure, FailureKind},
    text::{Blob, Text},
};
use millstream_dataflow::program::TaskContext;
use rustix::{buffer::spare_capacity, io::Errno};
use serde::Deserialize;
use serde_json::Value;

use super::{
    FileSplit, OnChanged, Settings,
    lines::{Cutter, Ends, Input, Piece, Range},
    listing,
};
use crate::{
    malformed::OnMalformed,
    source::{More, SplitReader, SplitSource},
};

/// Rows that one call gives.
const CHUNK_ROWS: usize = 1024;
/// What may stand at the beginning of a UTF-8 file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the splits of a text file source.
#[derive(Debug)]
pub struct TextFileSplits {
    settings: Arc<Settings>,
}

impl TextFileSplits {
    /// The executor half.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings }
    }
}

impl SplitSource<Vec<Text>> for TextFileSplits {
    fn open(
        &self,
        split: &Value,
        _task: &TaskContext<'_>,
    ) -> Result<Box<dyn SplitReader<Vec<Text>>>, Failure> {
        let split = FileSplit::deserialize(split).map_err(|error| {
            let message = format!("a part of a text file was expected, not {split}");
            Failure::caused_by(FailureKind::Internal, message, &error)
        })?;
        let settings = Arc::clone(&self.settings);
        let mut reader = LineReader {
            settings,
            split,
            cutter: None,
            region: None,
            reported: false,
            lost: Cell::new(0),
        };
        reader.cutter = reader.open_file()?;
        Ok(Box::new(reader))
    }
}

struct FileInput(File);

impl Input for FileInput {
    fn read(&mut self, buffer: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
        let begun = buffer.len();
        let limit = begun.saturating_add(limit);
        loop {
            match rustix::io::read(&self.0, spare_capacity(buffer)) {
                Ok(_) => {
                    // The buffer may have more room than was asked for.
                    let extra = buffer.len().saturating_sub(limit);
                    if extra > 0 {
                        buffer.truncate(limit);
                        let back = i64::try_from(extra).unwrap_or(i64::MAX);
                        self.0.seek(SeekFrom::Current(-back))?;
                    }
                    return Ok(buffer.len() - begun);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whole lines that were read.
struct Region {
    content: Content,
    ends: Ends,
    /// Where it is in the file.
    at: u64,
    /// The next line, within it.
    cursor: usize,
    /// Where the next line begins in the file, with a mark before it.
    line_at: u64,
}

/// Lines share the buffer that they were read into. Where all of it is UTF-8 that is checked once.
enum Content {
    Text(Text),
    Bytes(Blob),
}

impl Content {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes.as_slice(),
        }
    }

    /// A line; the bytes themselves where they aren't UTF-8.
    fn line(&self, start: usize, end: usize) -> Option<Result<Text, Blob>> {
        match self {
            Self::Text(text) => text.get_slice(start..end).map(Ok),
            Self::Bytes(bytes) => bytes.get_slice(start, end).map(Blob::into_text),
        }
    }
}

struct LineReader {
    settings: Arc<Settings>,
    split: FileSplit,
    /// None once there is nothing more to read.
    cutter: Option<Cutter<FileInput>>,
    region: Option<Region>,
    /// A malformed line was logged.
    reported: bool,
    /// Times that it didn't find what was planned and went on, not yet counted.
    lost: Cell<u64>,
}

impl SplitReader<Vec<Text>> for LineReader {
    fn next(&mut self, chunk: &mut Vec<Text>, task: &mut TaskContext<'_>) -> Result<More, Failure> {
        task.cancel.check()?;
        task.counts.malformed += self.lost.take();
        let Some(region) = self.region.take() else {
            return self.read(task);
        };
        self.deliver(region, chunk, task)
    }
}

impl LineReader {
    /// None: it is gone, and the settings tolerate that.
    fn open_file(&self) -> Result<Option<Cutter<FileInput>>, Failure> {
        let FileSplit {
            path,
            start,
            end,
            size,
            modified,
        } = &self.split;
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let gone = self.changed(
                    "it is gone; put it back, or see that this executor has the same file system as the driver",
                );
                self.judge(gone, self.settings.on_missing)?;
                return Ok(None);
            }
            Err(error) => return Err(self.unreadable(&error)),
        };
        let metadata = file.metadata().map_err(|error| self.unreadable(&error))?;
        let version = listing::version(&metadata);
        let range = Range {
            start: *start,
            end: *end,
            size: (*size).min(version.size),
        };
        if version.size != *size {
            let found = format!(
                "it has {} bytes now, {size} when it was planned; let files appear complete by renaming them into the folder, or set files.min_age",
                version.size
            );
            self.judge(self.changed(&found), self.settings.on_changed)?;
        } else if version.modified != *modified {
            tracing::warn!(
                path,
                "a file was changed between plan and reading, to the same length"
            );
        }
        file.seek(SeekFrom::Start(range.first_byte()))
            .map_err(|error| self.unreadable(&error))?;
        let max_line = self.settings.max_record_bytes;
        // A mark at the beginning doesn't count.
        let max_line = max_line.saturating_add(BYTE_ORDER_MARK.len());
        Ok(Some(Cutter::new(FileInput(file), range, max_line)))
    }

    fn changed(&self, found: &str) -> Failure {
        let FileSplit {
            path, start, end, ..
        } = &self.split;
        let message = format!(
            "bytes {start} to {end} of {path} can't be read as planned: {found}; files.on_changed = warn goes on without"
        );
        Failure::new(FailureKind::DataLoss, message).with_code("files.changed")
    }

    /// Lets pass what the settings tolerate.
    fn judge(&self, problem: Failure, rule: OnChanged) -> Result<(), Failure> {
        if rule == OnChanged::Fail {
            return Err(problem);
        }
        self.lost.set(self.lost.get() + 1);
        tracing::warn!(failure = %problem, "input is lost; going on with what is there");
        Ok(())
    }

    fn unreadable(&self, error: &io::Error) -> Failure {
        let message = format!("{} can't be read", self.split.path);
        Failure::caused_by(FailureKind::Io, message, error).with_code("files.read")
    }

    /// Reads the next region.
    fn read(&mut self, task: &mut TaskContext<'_>) -> Result<More, Failure> {
        let Some(cutter) = &mut self.cutter else {
            return Ok(More::No);
        };
        match cutter.next().map_err(|error| self.unreadable(&error))? {
            Piece::Lines { bytes, at } => {
                let cursor = if at == 0 && bytes.starts_with(BYTE_ORDER_MARK) {
                    BYTE_ORDER_MARK.len()
                } else {
                    0
                };
                let ends = Ends::of(&bytes);
                let content = match Blob::from_vec(bytes).into_text() {
                    Ok(text) => Content::Text(text),
                    Err(bytes) => Content::Bytes(bytes),
                };
                self.region = Some(Region {
                    content,
                    ends,
                    at,
                    cursor,
                    line_at: at,
                });
            }
            Piece::TooLong { at } => {
                task.counts.input_rows += 1;
                self.too_long(at, task)?;
            }
            Piece::Shrunk { at } => {
                let found = format!("it ended at byte {at} of {}", self.split.size);
                self.judge(self.changed(&found), self.settings.on_changed)?;
                task.counts.malformed += self.lost.take();
            }
            Piece::End => {
                self.cutter = None;
                return Ok(More::No);
            }
        }
        Ok(More::Yes)
    }

    /// Gives lines of `region`, and keeps it when it has more.
    fn deliver(
        &mut self,
        mut region: Region,
        chunk: &mut Vec<Text>,
        task: &mut TaskContext<'_>,
    ) -> Result<More, Failure> {
        let begun = region.cursor;
        let mut more = true;
        chunk.reserve(CHUNK_ROWS);
        let mut read = 0;
        while read < CHUNK_ROWS {
            let bytes = region.content.bytes();
            let rest = bytes.get(region.cursor..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            let start = region.cursor;
            let line_at = region.line_at;
            if line_at >= self.split.end {
                more = false;
                break;
            }
            let (line, with_end) = region.ends.first(rest);
            let end = start + line;
            region.cursor = start + with_end;
            region.line_at = region.at + region.cursor as u64;
            read += 1;
            if end - start > self.settings.max_record_bytes {
                self.too_long(line_at, task)?;
                continue;
            }
            match region.content.line(start, end) {
                Some(Ok(line)) => chunk.push(line),
                Some(Err(bytes)) => self.not_text(&bytes, line_at, chunk, task)?,
                None => return Err(Failure::new(FailureKind::Internal, "a line was cut amiss")),
            }
        }
        task.counts.input_rows += read as u64;
        let length = region.content.bytes().len();
        let consumed = region.cursor.saturating_sub(begun);
        task.counts.input_bytes += consumed as u64;
        if !more {
            self.cutter = None;
            return Ok(More::No);
        }
        if region.cursor < length {
            self.region = Some(region);
        }
        Ok(More::Yes)
    }

    fn not_text(
        &mut self,
        bytes: &Blob,
        at: u64,
        chunk: &mut Vec<Text>,
        task: &mut TaskContext<'_>,
    ) -> Result<(), Failure> {
        let path = &self.split.path;
        match self.settings.on_malformed {
            OnMalformed::Fail => {
                let message = format!(
                    "the line at byte {at} of {path} is not UTF-8 text; {} to go on without it",
                    self.settings.malformed_advice.goes_on
                );
                return Err(Failure::new(FailureKind::BadInput, message));
            }
            OnMalformed::Drop => {}
            OnMalformed::Replace => chunk.push(bytes.to_text_lossy()),
        }
        self.count_malformed("a line is not UTF-8 text", at, task);
        Ok(())
    }

    fn too_long(&mut self, at: u64, task: &mut TaskContext<'_>) -> Result<(), Failure> {
        if self.settings.on_malformed != OnMalformed::Drop {
            let message = format!(
                "the line at byte {at} of {} is longer than input.max_record_bytes = {}; raise it, or {}",
                self.split.path,
                self.settings.max_record_bytes,
                self.settings.malformed_advice.leaves_out
            );
            return Err(Failure::new(FailureKind::BadInput, message));
        }
        self.count_malformed("a line is too long", at, task);
        Ok(())
    }

    fn count_malformed(&mut self, problem: &str, at: u64, task: &mut TaskContext<'_>) {
        task.counts.malformed += 1;
        if !std::mem::replace(&mut self.reported, true) {
            tracing::warn!(
                path = self.split.path,
                offset = at,
                problem,
                "malformed input; further lines of this part of the file are only counted"
            );
        }
    }
}
