//! One application, its input and what must come of it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use millstream_integration_tests::{
    cluster::{Application, Cluster, PATIENCE, Reached},
    kafka::{Isolation, KafkaBroker, KafkaClient},
    process::Stream,
    wait::wait_until,
};
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

/// Applications that run at a time: each has a driver and executors, and waits on deadlines.
const AT_A_TIME: usize = 2;
/// Partitions of the input.
pub const PARTITIONS: i32 = 4;

static RUNNING: Mutex<usize> = Mutex::new(0);
static FREE: Condvar = Condvar::new();

/// The right to run an application.
pub(crate) struct Turn;

impl Turn {
    pub(crate) fn take() -> Self {
        let mut running = RUNNING.lock();
        while *running >= AT_A_TIME {
            FREE.wait(&mut running);
        }
        *running += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock() -= 1;
        FREE.notify_one();
    }
}

/// How often each word occurs.
pub type Counts = BTreeMap<String, u64>;

/// Where an application's output is.
#[derive(Clone, Debug)]
pub enum Output {
    /// Text files, a folder a batch.
    Files(PathBuf),
    /// Records of a topic, the word as the key and a count as the value.
    Topic(String),
}

/// An input topic, what was sent to it, and the outputs of an application that reads it.
pub struct Scene {
    pub kafka: KafkaClient,
    pub input: String,
    folder: TempDir,
    sent: Mutex<(u64, Counts)>,
    // Last, so that the next scene begins when this one's folder is gone.
    _turn: Turn,
}

impl Scene {
    pub fn new(name: &str) -> Self {
        Self::on(name, KafkaBroker::shared().client())
    }

    /// On a broker of the test's own.
    pub fn on(name: &str, kafka: &KafkaClient) -> Self {
        let turn = Turn::take();
        Self {
            kafka: kafka.clone(),
            input: kafka.unique_topic(name, PARTITIONS).unwrap(),
            folder: tempfile::tempdir().unwrap(),
            sent: Mutex::default(),
            _turn: turn,
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sends lines that no other call sends, and remembers their words.
    pub fn send(&self, lines: u64) {
        let mut sent = self.sent.lock();
        let (next, counts) = &mut *sent;
        let numbers = *next..*next + lines;
        *next += lines;
        for partition in 0..PARTITIONS {
            let mine: Vec<String> = numbers
                .clone()
                .filter(|number| number % PARTITIONS as u64 == partition as u64)
                .map(line)
                .collect();
            for word in mine.iter().flat_map(|line| line.split(' ')) {
                *counts.entry(word.to_owned()).or_default() += 1;
            }
            self.kafka
                .produce_lines(&self.input, partition, &mine)
                .unwrap();
        }
    }

    /// What the words come to.
    pub fn expected(&self) -> Counts {
        self.sent.lock().1.clone()
    }

    /// A place for text files.
    pub fn files(&self) -> Output {
        Output::Files(self.folder().join("counts"))
    }

    /// A topic for output.
    pub fn topic(&self) -> Output {
        Output::Topic(self.kafka.unique_topic("counts", 2).unwrap())
    }

    /// The application: small batches, and little patience with executors.
    pub fn application(&self, job: &str, output: &Output) -> Application {
        let application = Application::new(env!("CARGO_BIN_EXE_testjob"), self.folder())
            .unwrap()
            .args(["--job", job, "--brokers", self.kafka.bootstrap()])
            .args(["--topic", &self.input])
            .conf("batch.interval", "300ms")
            .conf("parallelism", 4)
            .conf("executor.heartbeat_interval", "200ms")
            .conf("executor.timeout", "2s")
            .conf("shuffle.fetch_timeout", "2s")
            .conf("stop.timeout", "60s");
        match output {
            Output::Files(prefix) => {
                application.args(["--output", prefix.to_str().expect("a plain path")])
            }
            Output::Topic(topic) => application.args(["--output-topic", topic]),
        }
    }

    /// What the output holds now, whole. Folders of batches that aren't complete don't count.
    pub fn counts(&self, output: &Output) -> Counts {
        match output {
            Output::Files(prefix) => files(prefix),
            Output::Topic(topic) => self.records(topic, Isolation::ReadCommitted).1,
        }
    }

    /// The records of an output topic: how many, and what they count.
    pub fn records(&self, topic: &str, isolation: Isolation) -> (usize, Counts) {
        let records = self.kafka.consume_all(topic, isolation).unwrap();
        let mut counts = Counts::new();
        for record in &records {
            let key = record.key.clone().expect("a key");
            let word = String::from_utf8(key).expect("a word");
            *counts.entry(word).or_default() += record.text().parse::<u64>().expect("a count");
        }
        (records.len(), counts)
    }

    /// Waits until as much has come out as was sent; `times` is how many outputs go to the place.
    pub fn wait_whole(&self, cluster: &Cluster, output: &Output, times: u64) {
        let wanted = self.expected().values().sum::<u64>() * times;
        let mut seen_at = None;
        let mut seen = 0;
        let waited = wait_until(
            PATIENCE * 2,
            "the driver to end, or all that was sent to come out",
            || {
                if cluster.driver.process.exit_status().unwrap().is_some() {
                    return true;
                }
                // Reading it all is dear, and of use only after another commit.
                let newest = cluster.newest_batch();
                if newest != seen_at {
                    seen = self.counts(output).values().sum::<u64>();
                    seen_at = newest;
                }
                seen >= wanted
            },
        );
        let tail = || cluster.driver.process.output().tail();
        assert!(
            waited.is_ok(),
            "{seen} of {wanted} words came out: {}",
            tail()
        );
        assert!(seen >= wanted, "the driver ended: {}", tail());
    }

    /// Waits for the whole output, stops the application, and compares.
    pub fn finish(&self, cluster: Cluster, output: &Output, times: u64) {
        self.wait_whole(&cluster, output, times);
        let tail = cluster.driver.process.log().to_owned();
        assert_eq!(cluster.stop().unwrap(), Some(0), "see {}", tail.display());
        let mut wanted = self.expected();
        wanted.values_mut().for_each(|count| *count *= times);
        let got = self.counts(output);
        assert!(got == wanted, "{}", difference(&wanted, &got));
        if let Output::Files(prefix) = output {
            assert_eq!(unfinished(prefix), Vec::<PathBuf>::new());
        }
    }
}

fn line(number: u64) -> String {
    let words = (0..5).map(|place| {
        let mixed = (number * 5 + place).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        format!("w{}", mixed % 97)
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The folders of batches under a prefix.
fn folders(prefix: &Path) -> Vec<PathBuf> {
    let name = prefix.file_name().expect("a name").to_string_lossy();
    let start = format!("{name}-");
    let entries = fs::read_dir(prefix.parent().expect("a parent")).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            name.strip_prefix(&start)
                .is_some_and(|time| time.parse::<i64>().is_ok())
        })
        .collect()
}

fn unfinished(prefix: &Path) -> Vec<PathBuf> {
    let mut folders = folders(prefix);
    folders.retain(|folder| !folder.join("_SUCCESS").exists());
    folders
}

fn files(prefix: &Path) -> Counts {
    let mut counts = Counts::new();
    for folder in folders(prefix) {
        if !folder.join("_SUCCESS").exists() {
            continue;
        }
        let mut batch = Counts::new();
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().expect("a name").to_string_lossy();
            if !name.starts_with("part-") {
                assert_eq!(name, "_SUCCESS", "in {}", folder.display());
                continue;
            }
            for line in fs::read_to_string(&path).unwrap().lines() {
                let row = line.strip_prefix('(').and_then(|row| row.strip_suffix(')'));
                let (word, count) = row.and_then(|row| row.rsplit_once(',')).expect("a row");
                let earlier = batch.insert(word.to_owned(), count.parse().expect("a count"));
                assert_eq!(earlier, None, "{word} twice in {}", folder.display());
            }
        }
        for (word, count) in batch {
            *counts.entry(word).or_default() += count;
        }
    }
    counts
}

fn difference(wanted: &Counts, got: &Counts) -> String {
    let mut lines = Vec::new();
    for word in wanted
        .keys()
        .chain(got.keys().filter(|word| !wanted.contains_key(*word)))
    {
        let (wanted, got) = (wanted.get(word), got.get(word));
        if wanted != got {
            lines.push(format!("{word}: {wanted:?} were sent, {got:?} came out"));
        }
    }
    format!("{} words differ: {}", lines.len(), lines.join("; "))
}

/// A counter of the driver; labelled ones are added up.
pub fn counter(cluster: &Cluster, name: &str) -> u64 {
    let text = cluster.driver.http("/metrics").unwrap();
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with([' ', '{']) {
            return None;
        }
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    values.sum::<f64>() as u64
}

/// Tasks that ran again, for whatever reason.
pub fn reruns(cluster: &Cluster) -> u64 {
    counter(cluster, "millstream_driver_task_retries_total")
        + counter(cluster, "millstream_driver_stage_reruns_total")
}

pub fn lost_executors(cluster: &Cluster) -> u64 {
    counter(cluster, "millstream_driver_executors_lost_total")
}

/// The id under which the driver knows a process, if it is connected.
pub fn executor_id(cluster: &Cluster, pid: u32) -> Option<String> {
    let executors = cluster.driver.rest("executors").unwrap();
    let connected = executors
        .as_array()?
        .iter()
        .find(|view| view["process_id"] == pid && view["state"] == "connected")?;
    Some(connected["id"].to_string())
}

/// Waits until all executors of the list are connected, so that work is spread.
pub fn wait_connected(cluster: &Cluster, executors: &[u32]) {
    wait_until(PATIENCE, "the executors to be connected", || {
        executors
            .iter()
            .all(|pid| executor_id(cluster, *pid).is_some())
    })
    .unwrap();
}

/// The executor that is at the failpoint.
pub fn executor_at(cluster: &Cluster, point: &str) -> u32 {
    match cluster.wait_failpoint(point).unwrap() {
        Reached::Executor(pid) => pid,
        Reached::Driver => panic!("the driver was at {point}"),
    }
}

/// Waits until the process is connected under another id.
pub fn wait_rejoined(cluster: &Cluster, pid: u32, old: &str) {
    wait_until(PATIENCE, "the executor to be back under another id", || {
        executor_id(cluster, pid).is_some_and(|id| id != old)
    })
    .unwrap();
}

/// Whether an executor has said this.
pub fn said(cluster: &Cluster, pid: u32, text: &str) -> bool {
    cluster
        .with_executor(pid, |executor| {
            executor.output().text(Stream::Err).contains(text)
        })
        .unwrap_or(false)
}

/// Waits until the driver counts an executor as lost.
pub fn wait_lost(cluster: &Cluster) {
    wait_until(Duration::from_secs(20), "an executor to be lost", || {
        lost_executors(cluster) > 0
    })
    .unwrap();
}
