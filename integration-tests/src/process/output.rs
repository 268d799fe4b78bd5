//! What a child process writes: kept line by line in memory, within bounds, and copied to a log file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};

use crate::Error;
use crate::wait::Deadline;

/// Longer lines are cut into several.
const LINE_LIMIT: u64 = 64 * 1024;
/// The oldest lines leave the memory (not the file) when there are more.
const LINES_LIMIT: usize = 50_000;
/// Likewise for their bytes.
const BYTES_LIMIT: usize = 32 * 1024 * 1024;
/// Nor does the log file take more bytes than this.
const FILE_LIMIT: usize = 256 * 1024 * 1024;
/// How many lines an error shows.
const TAIL: usize = 30;

/// Which of its two outputs a process wrote a line to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One line that a process wrote.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its number, from 0, over both streams in the order of arrival.
    pub number: u64,
    /// The stream.
    pub stream: Stream,
    /// Its text without the end of line; invalid UTF-8 is replaced.
    pub text: String,
}

#[derive(Debug)]
struct Kept {
    lines: VecDeque<Line>,
    bytes: usize,
    next: u64,
    open: usize,
    file: Option<File>,
    file_bytes: usize,
}

impl Kept {
    fn write_to_file(&mut self, line: &[u8]) {
        self.file_bytes += line.len();
        let Some(file) = &mut self.file else {
            return;
        };
        // The log file is an extra: a full disk must not fail the test.
        if self.file_bytes > FILE_LIMIT || file.write_all(line).is_err() {
            self.file = None;
        }
    }
}

/// The captured output; cheap to clone, all clones see the same.
#[derive(Clone, Debug)]
pub struct Output {
    shared: Arc<(Mutex<Kept>, Condvar)>,
}

impl Output {
    pub(super) fn new(file: File) -> Self {
        let kept = Kept {
            lines: VecDeque::new(),
            bytes: 0,
            next: 0,
            open: 0,
            file: Some(file),
            file_bytes: 0,
        };
        Self {
            shared: Arc::new((Mutex::new(kept), Condvar::new())),
        }
    }

    /// Begins to read `pipe` in a thread of its own, which ends with the pipe.
    pub(super) fn capture(
        &self,
        stream: Stream,
        pipe: impl Read + Send + 'static,
    ) -> Result<(), Error> {
        self.shared.0.lock().open += 1;
        let output = self.clone();
        thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || {
                let mut pipe = BufReader::new(pipe);
                let mut line = Vec::new();
                // A read error ends the capture as the end of the pipe does.
                while let Ok(1..) = pipe.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line) {
                    output.push(stream, &line);
                    line.clear();
                }
                output.shared.0.lock().open -= 1;
                output.shared.1.notify_all();
            })
            .map_err(Error::io("start a thread that captures output"))?;
        Ok(())
    }

    fn push(&self, stream: Stream, line: &[u8]) {
        let text = String::from_utf8_lossy(line)
            .trim_end_matches(['\n', '\r'])
            .to_owned();
        let mut kept = self.shared.0.lock();
        kept.write_to_file(line);
        let number = kept.next;
        kept.next += 1;
        kept.bytes += text.len();
        kept.lines.push_back(Line {
            number,
            stream,
            text,
        });
        while kept.lines.len() > LINES_LIMIT || kept.bytes > BYTES_LIMIT {
            let Some(oldest) = kept.lines.pop_front() else {
                break;
            };
            kept.bytes -= oldest.text.len();
        }
        drop(kept);
        self.shared.1.notify_all();
    }

    /// The number that the next line will have: what to wait from, to see only what comes later.
    pub fn next(&self) -> u64 {
        self.shared.0.lock().next
    }

    /// All lines that are kept.
    pub fn lines(&self) -> Vec<Line> {
        self.shared.0.lock().lines.iter().cloned().collect()
    }

    /// The text of all lines of one stream that are kept.
    pub fn text(&self, stream: Stream) -> String {
        let kept = self.shared.0.lock();
        let mut text = String::new();
        for line in kept.lines.iter().filter(|line| line.stream == stream) {
            text.push_str(&line.text);
            text.push('\n');
        }
        text
    }

    /// The last lines, for an error message.
    pub fn tail(&self) -> String {
        let kept = self.shared.0.lock();
        let first = kept.lines.len().saturating_sub(TAIL);
        let last: Vec<&str> = kept
            .lines
            .iter()
            .skip(first)
            .map(|line| line.text.as_str())
            .collect();
        last.join("\n")
    }

    /// The first line from number `from` on that `wanted` accepts; waits for it. `None` when both streams
    /// end without it; `Err` with the deadline's error.
    pub(super) fn wait_for(
        &self,
        from: u64,
        deadline: Deadline,
        what: &str,
        mut wanted: impl FnMut(&Line) -> bool,
    ) -> Result<Option<Line>, Error> {
        let mut from = from;
        let mut kept = self.shared.0.lock();
        loop {
            let first_kept = kept.next - kept.lines.len() as u64;
            let skip = usize::try_from(from.saturating_sub(first_kept)).unwrap_or(usize::MAX);
            if let Some(line) = kept.lines.iter().skip(skip).find(|line| wanted(line)) {
                return Ok(Some(line.clone()));
            }
            from = kept.next;
            if kept.open == 0 {
                return Ok(None);
            }
            if self
                .shared
                .1
                .wait_for(&mut kept, deadline.remaining())
                .timed_out()
                && from == kept.next
            {
                drop(kept);
                return Err(
                    deadline.error(what, format_args!("the last output was:\n{}", self.tail()))
                );
            }
        }
    }
}
