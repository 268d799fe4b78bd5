//! A query over a folder of employees' files, what was put there, and what must be printed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use millstream_integration_tests::{
    cluster::{Application, Cluster, PATIENCE},
    process::Stream,
    wait::wait_until,
};
use parking_lot::Mutex;
use tempfile::TempDir;

pub const SQLJOB: &str = env!("CARGO_BIN_EXE_sqljob");

const HEADER: &str = "emp_id,emp_name,job_name,manager_id,salary,dept_name";
const RULE: &str = "-------------------------------------------";

/// Employees by job.
pub type Counts = BTreeMap<String, u64>;

/// A printed batch: its number, and its rows cell by cell with the column names first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    pub batch: u64,
    pub rows: Vec<Vec<String>>,
}

pub struct Job {
    folder: TempDir,
    sent: Mutex<(u64, Counts)>,
}

impl Job {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("input")).unwrap();
        Self {
            folder,
            sent: Mutex::default(),
        }
    }

    pub fn input(&self) -> PathBuf {
        self.folder.path().join("input")
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.folder.path().join("checkpoint")
    }

    /// Puts a file whole.
    pub fn put(&self, name: &str, content: &str) {
        let staged = self.folder.path().join("staged");
        fs::write(&staged, content).unwrap();
        fs::rename(staged, self.input().join(name)).unwrap();
    }

    /// Puts a file of so many employees of twelve jobs, and remembers them.
    pub fn send(&self, employees: u64) {
        let mut sent = self.sent.lock();
        let (next, counts) = &mut *sent;
        let mut content = format!("{HEADER}\n");
        let name = format!("employees-{next:06}.csv");
        for id in *next..*next + employees {
            // By its upper bits: those below give few of the jobs.
            let job = (id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) % 12;
            let job = format!("JOB {job}");
            content.push_str(&format!(
                "{id},NAME {id},{job},{},{}.5,DEPT {}\n",
                id / 3,
                id * 10,
                id % 4
            ));
            *counts.entry(job).or_default() += 1;
        }
        *next += employees;
        drop(sent);
        self.put(&name, &content);
    }

    pub fn expected(&self) -> Counts {
        self.sent.lock().1.clone()
    }

    /// On `cluster`, with executors of its own that are soon taken for lost.
    pub fn application(&self, arguments: &[&str]) -> Application {
        Application::new(SQLJOB, self.folder.path())
            .unwrap()
            .args(["--dir", self.input().to_str().unwrap()])
            .args(["--checkpoint", self.checkpoint().to_str().unwrap()])
            .args(arguments.iter().copied())
            .conf("parallelism", 4)
            .conf("executor.heartbeat_interval", "200ms")
            .conf("executor.timeout", "2s")
            .conf("shuffle.fetch_timeout", "2s")
            .conf("stop.timeout", "60s")
    }

    /// What the commits say that are kept, as text.
    pub fn commits(&self) -> String {
        let files = files_below(&self.checkpoint().join("commits")).into_iter();
        // One that is purged meanwhile is of no interest.
        files
            .filter_map(|path| fs::read_to_string(path).ok())
            .collect()
    }

    /// What of the employees' state is in the checkpoint.
    pub fn state_files(&self) -> Vec<PathBuf> {
        files_below(&self.checkpoint().join("state"))
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(folder).into_iter().flatten();
    let files = entries.filter(|entry| entry.file_type().is_file());
    files.map(|entry| entry.path().to_owned()).collect()
}

/// The batches that a text consists of; a last one that isn't whole is left out.
pub fn parse(text: &str) -> Vec<Printed> {
    let mut printed = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while at + 3 < lines.len() {
        let number = lines[at + 1].strip_prefix("Batch: ");
        let (true, Some(number)) = (lines[at] == RULE, number) else {
            at += 1;
            continue;
        };
        let table = &lines[at + 3..];
        let Some(end) = table.iter().position(|line| line.is_empty()) else {
            break;
        };
        let rows = table[..end].iter().filter(|line| line.starts_with('|'));
        let cells = |line: &&str| {
            let inside = line.trim_matches('|');
            inside
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect()
        };
        printed.push(Printed {
            batch: number.parse().unwrap(),
            rows: rows.map(cells).collect(),
        });
        at += 3 + end;
    }
    printed
}

/// What the driver has printed.
pub fn printed(cluster: &Cluster) -> Vec<Printed> {
    parse(&cluster.driver.process.output().text(Stream::Out))
}

/// The rows of a table of two columns, key and count.
pub fn counts(printed: &Printed) -> Counts {
    let rows = printed.rows.iter().skip(1);
    rows.map(|row| (row[0].clone(), row[1].parse().unwrap()))
        .collect()
}

/// Waits until the newest table is this.
pub fn wait_table(cluster: &Cluster, expected: &Counts) {
    let newest = || printed(cluster).last().map(counts);
    let waited = wait_until(PATIENCE, "the driver to end, or the whole table", || {
        let ended = cluster.driver.process.exit_status().unwrap().is_some();
        ended || newest().as_ref() == Some(expected)
    });
    let tail = || cluster.driver.process.output().tail();
    assert!(
        waited.is_ok(),
        "{:?} instead of {expected:?}: {}",
        newest(),
        tail()
    );
    assert_eq!(newest().as_ref(), Some(expected), "{}", tail());
}

/// Waits until so many batches are printed.
pub fn wait_printed(cluster: &Cluster, batches: usize) -> Vec<Printed> {
    wait_until(Duration::from_secs(60), "batches to be printed", || {
        printed(cluster).len() >= batches || cluster.driver.process.exit_status().unwrap().is_some()
    })
    .unwrap();
    let seen = printed(cluster);
    let tail = cluster.driver.process.output().tail();
    assert!(seen.len() >= batches, "the driver ended: {tail}");
    seen
}
