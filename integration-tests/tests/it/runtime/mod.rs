//! What driver and executors do with a batch, seen from outside: real processes, their metrics and REST.

mod batches;
mod builds;
mod demo;
mod effects;
mod kafka_tasks;
mod memory;
pub(crate) mod python;
mod shuffles;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use millstream_integration_tests::{
    cluster::{self, Application, Cluster, Driver, PATIENCE},
    wait::wait_until,
};
use serde_json::Value;
use tempfile::TempDir;

/// Sums of counts, by row.
type Counts = BTreeMap<String, u64>;

/// The folders of one application over text files.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for part in ["input", "calls", "staging"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, part: &str) -> PathBuf {
        self.folder.path().join(part)
    }

    /// Makes a whole file appear.
    fn put(&self, name: &str, text: &str) {
        let staged = self.path("staging").join(name);
        fs::write(&staged, text).unwrap();
        fs::rename(staged, self.path("input").join(name)).unwrap();
    }

    /// A job of `runtimejob`.
    fn runtime_job(&self, job: &str) -> Application {
        let argument = |part: &str| self.path(part).to_str().unwrap().to_owned();
        self.application(env!("CARGO_BIN_EXE_runtimejob"))
            .args(["--job", job, "--output", &argument("out")])
            .args(["--calls", &argument("calls")])
    }

    /// A job of `testjob`.
    fn test_job(&self, job: &str) -> Application {
        self.application(env!("CARGO_BIN_EXE_testjob"))
            .args(["--job", job])
    }

    fn application(&self, program: &str) -> Application {
        let input = self.path("input");
        Application::new(program, self.folder.path())
            .unwrap()
            .args(["--dir", input.to_str().unwrap()])
            .conf("batch.interval", "300ms")
            .conf("parallelism", 4)
            .conf("stop.timeout", "20s")
            .conf("shuffle.spill_dir", self.folder.path().display())
    }

    /// The lines of complete output folders.
    fn lines(&self, prefix: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let of_batch = name
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|time| time.parse::<i64>().is_ok());
            if !of_batch || !path.join("_SUCCESS").exists() {
                continue;
            }
            for part in fs::read_dir(&path).unwrap() {
                let text = fs::read_to_string(part.unwrap().path()).unwrap();
                lines.extend(text.lines().map(str::to_owned));
            }
        }
        lines
    }

    /// Sums of `(row,count)` lines of the output `out`.
    fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for line in self.lines("out") {
            let row = line.strip_prefix('(').and_then(|row| row.strip_suffix(')'));
            let (row, count) = row.and_then(|row| row.rsplit_once(',')).unwrap();
            *counts.entry(row.to_owned()).or_default() += count.parse::<u64>().unwrap();
        }
        counts
    }

    /// Calls that the job noted, by file.
    fn calls(&self) -> BTreeMap<String, usize> {
        let entries = fs::read_dir(self.path("calls")).unwrap();
        let files = entries.map(|entry| entry.unwrap().path());
        files
            .map(|path| (name(&path), fs::read_to_string(&path).unwrap()))
            .filter(|(name, _)| name.starts_with("calls-"))
            .map(|(name, text)| (name, text.lines().count()))
            .collect()
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Starts executors and waits until all of them are connected.
fn start(application: &Application, executors: usize) -> Cluster {
    let cluster = application.start(executors).unwrap();
    wait_until(PATIENCE, "the executors to be connected", || {
        connected(&cluster.driver).len() == executors
    })
    .unwrap();
    cluster
}

/// What REST says of the connected executors.
fn connected(driver: &Driver) -> Vec<Value> {
    let executors = driver.rest("executors").unwrap();
    let executors = executors.as_array().cloned().unwrap_or_default();
    let is_connected = |executor: &Value| executor["state"] == "connected";
    executors.into_iter().filter(is_connected).collect()
}

/// What REST says of the committed batches, oldest first.
fn batches(cluster: &Cluster) -> Vec<Value> {
    let batches = cluster.driver.rest("batches").unwrap();
    let mut batches = batches.as_array().cloned().unwrap_or_default();
    batches.sort_by_key(|batch| batch["batch"].as_u64());
    batches
}

/// Waits until a batch with input is committed.
fn wait_input(cluster: &Cluster) -> Value {
    let mut found = Value::Null;
    let waited = wait_until(PATIENCE * 5, "a batch with input to be committed", || {
        assert_running(cluster);
        let with_input = |batch: &Value| batch["input_rows"].as_u64() > Some(0);
        match batches(cluster).into_iter().find(with_input) {
            Some(batch) => {
                found = batch;
                true
            }
            None => false,
        }
    });
    waited.unwrap();
    found
}

fn assert_running(cluster: &Cluster) {
    let process = &cluster.driver.process;
    let ended = process.exit_status().unwrap();
    assert!(
        ended.is_none(),
        "the driver ended: {}",
        process.output().tail()
    );
}

/// The sum of a metric's samples that have all of these labels.
fn sample(text: &str, name: &str, labels: &str) -> u64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (found, value) = rest.rsplit_once(' ')?;
        let is_whole = found.is_empty() || found.starts_with('{');
        (is_whole && found.contains(labels)).then(|| value.parse::<f64>().unwrap())
    });
    values.sum::<f64>() as u64
}

/// A metric of the driver.
fn of_driver(cluster: &Cluster, name: &str, labels: &str) -> u64 {
    sample(&cluster.driver.http("/metrics").unwrap(), name, labels)
}

/// A metric of all executors, summed.
fn of_executors(cluster: &Cluster, name: &str, labels: &str) -> u64 {
    let executors = connected(&cluster.driver);
    let texts = executors.iter().map(|executor| {
        let address = executor["http_address"].as_str().unwrap();
        cluster::get(&format!("http://{address}/metrics")).unwrap()
    });
    texts.map(|text| sample(&text, name, labels)).sum()
}

fn stop(cluster: Cluster) {
    let log = cluster.driver.process.log().to_owned();
    assert_eq!(cluster.stop().unwrap(), Some(0), "see {}", log.display());
}
