//! Sorted runs on disk: what a task's table writes when it is full, and merging them. Records are ordered by partition, then by the key's canonical
//! bytes; records alike in both keep the order of their runs, and within a run the order in which they were written.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, binary_heap::PeekMut},
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use millstream_common::failure::{Failure, FailureKind};

use crate::task::Task;

/// Runs that are merged at once; with more, the oldest are merged into one.
pub const MAX_RUNS: usize = 64;

const BUFFER_BYTES: usize = 64 << 10;
const LENGTH_LIMIT: u32 = 1 << 30;

fn io_failure(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::caused_by(
        FailureKind::Io,
        format!(
            "{what} spill file {} failed: give shuffle.spill_dir a folder with room, or raise memory.spill_threshold",
            path.display()
        ),
        error,
    )
}

/// Writes one run.
pub struct RunWriter {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
}

impl RunWriter {
    /// A new file of the task.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(task: &Task<'_>) -> Result<Self, Failure> {
        let path = task.next_spill_file()?;
        let file =
            File::create_new(&path).map_err(|error| io_failure("creating", &path, &error))?;
        Ok(Self {
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            path,
            bytes: 0,
        })
    }

    /// Appends a record, not before those written so far.
    ///
    /// # Errors
    /// `Io`.
    pub fn push(&mut self, partition: u32, key: &[u8], row: &[u8]) -> Result<(), Failure> {
        let (Ok(key_length), Ok(row_length)) = (u32::try_from(key.len()), u32::try_from(row.len()))
        else {
            return Err(Failure::new(
                FailureKind::UserCode,
                "a key or row is too large to spill: split it into smaller rows",
            ));
        };
        let mut head = [0; 12];
        head[..4].copy_from_slice(&partition.to_le_bytes());
        head[4..8].copy_from_slice(&key_length.to_le_bytes());
        head[8..].copy_from_slice(&row_length.to_le_bytes());
        for part in [&head[..], key, row] {
            self.file
                .write_all(part)
                .map_err(|error| io_failure("writing", &self.path, &error))?;
            self.bytes += part.len() as u64;
        }
        Ok(())
    }

    /// Ends the run and counts its bytes as spilled.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(mut self, task: &Task<'_>) -> Result<Run, Failure> {
        self.file
            .flush()
            .map_err(|error| io_failure("writing", &self.path, &error))?;
        task.count(|counts| counts.spilled_bytes += self.bytes);
        Ok(Run { path: self.path })
    }
}

/// A finished run; its file goes with the value.
pub struct Run {
    path: PathBuf,
}

impl Drop for Run {
    fn drop(&mut self) {
        // The folder goes with the task anyway.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The front of a run that is being merged.
struct Head {
    partition: u32,
    key: Vec<u8>,
    row: Vec<u8>,
    order: usize,
    file: BufReader<File>,
    run: Run,
}

impl Head {
    fn open(run: Run, order: usize) -> Result<Option<Self>, Failure> {
        let file =
            File::open(&run.path).map_err(|error| io_failure("opening", &run.path, &error))?;
        let mut head = Self {
            partition: 0,
            key: Vec::new(),
            row: Vec::new(),
            order,
            file: BufReader::with_capacity(BUFFER_BYTES, file),
            run,
        };
        Ok(head.advance()?.then_some(head))
    }

    /// Reads the next record; false at the end.
    fn advance(&mut self) -> Result<bool, Failure> {
        self.read()
            .map_err(|error| io_failure("reading", &self.run.path, &error))
    }

    fn read(&mut self) -> io::Result<bool> {
        let mut head = [0; 12];
        let first = self.file.read(&mut head)?;
        if first == 0 {
            return Ok(false);
        }
        self.file.read_exact(&mut head[first..])?;
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        self.partition = number(0);
        read_part(&mut self.file, number(4), &mut self.key)?;
        read_part(&mut self.file, number(8), &mut self.row)?;
        Ok(true)
    }
}

fn read_part(file: &mut BufReader<File>, length: u32, part: &mut Vec<u8>) -> io::Result<()> {
    if length > LENGTH_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a record's length is beyond the limit",
        ));
    }
    part.clear();
    part.resize(length as usize, 0);
    file.read_exact(part)
}

impl Ord for Head {
    /// Reversed: the heap gives its greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.partition, &other.key, other.order).cmp(&(self.partition, &self.key, self.order))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

/// Runs being merged.
pub struct Merge {
    heads: BinaryHeap<Head>,
    key: Vec<u8>,
}

impl Merge {
    /// Merges these runs; earlier ones first where keys are alike.
    ///
    /// # Errors
    /// `Io`.
    pub fn new(runs: Vec<Run>) -> Result<Self, Failure> {
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (order, run) in runs.into_iter().enumerate() {
            heads.extend(Head::open(run, order)?);
        }
        Ok(Self {
            heads,
            key: Vec::new(),
        })
    }

    /// Gives the rows of the next key to `each` and returns the partition; `None` at the end.
    ///
    /// # Errors
    /// `Io`, and those of `each`.
    pub fn next_key(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<Option<u32>, Failure> {
        let Some(first) = self.heads.peek() else {
            return Ok(None);
        };
        let partition = first.partition;
        self.key.clear();
        self.key.extend_from_slice(&first.key);
        while let Some(mut head) = self.heads.peek_mut() {
            if head.partition != partition || head.key != self.key {
                break;
            }
            each(&head.row)?;
            if !head.advance()? {
                PeekMut::pop(head);
            }
        }
        Ok(Some(partition))
    }

    /// The key whose rows were given last, in canonical bytes.
    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{memory::MemoryServices, testing::task};

    type Record = (u32, Vec<u8>, Vec<u8>);

    proptest! {
        #[test]
        fn merges_in_order_and_keeps_the_order_of_runs(runs in proptest::collection::vec(proptest::collection::vec((0u32..3, proptest::collection::vec(0u8..3, 0..3)), 0..20), 0..6)) {
            let services = MemoryServices::new(0);
            let task = task(&services, 0);
            let mut expected: Vec<Record> = Vec::new();
            let mut written = Vec::new();
            for (number, mut keys) in runs.into_iter().enumerate() {
                keys.sort();
                let mut writer = RunWriter::create(&task).unwrap();
                for (at, (partition, key)) in keys.into_iter().enumerate() {
                    let row = vec![number as u8, at as u8];
                    writer.push(partition, &key, &row).unwrap();
                    expected.push((partition, key, row));
                }
                written.push(writer.finish(&task).unwrap());
            }
            expected.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            let mut merge = Merge::new(written).unwrap();
            let mut got: Vec<Record> = Vec::new();
            loop {
                let mut rows = Vec::new();
                let Some(partition) = merge.next_key(|row| { rows.push(row.to_vec()); Ok(()) }).unwrap() else { break };
                prop_assert!(got.last().is_none_or(|last| (last.0, last.1.as_slice()) < (partition, merge.key())));
                got.extend(rows.into_iter().map(|row| (partition, merge.key().to_vec(), row)));
            }
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn a_cut_run_is_a_failure() {
        let services = MemoryServices::new(0);
        let task = task(&services, 0);
        let mut writer = RunWriter::create(&task).unwrap();
        writer.push(1, b"key", b"row").unwrap();
        let run = writer.finish(&task).unwrap();
        let path = run.path.clone();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(16).unwrap();
        let failure = Merge::new(vec![run]).err().unwrap();
        assert_eq!(failure.kind, FailureKind::Io);
        assert!(failure.message.contains(path.to_str().unwrap()));
        assert!(!path.exists(), "the file goes with the run");
    }
}
