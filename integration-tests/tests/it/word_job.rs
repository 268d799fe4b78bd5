//! The word count of fault tests: a topic with known lines, the application that counts them into text files, and the whole of what it wrote.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use millstream_integration_tests::{
    cluster::{Application, Cluster, PATIENCE},
    kafka::{KafkaBroker, KafkaClient},
    minio::{BUCKET, Minio},
    process::ChildProcess,
    wait::{wait_for, wait_until},
};
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;
use walkdir::WalkDir;

pub(crate) type Counts = BTreeMap<String, u64>;

pub(crate) const TESTJOB: &str = env!("CARGO_BIN_EXE_testjob");
/// Time enough for an answer that takes milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const PARTITIONS: i32 = 2;

/// Clusters of processes at a time: more would only wait for each other's processors.
const AT_ONCE: usize = 3;
static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// The right to run a cluster of processes.
pub(crate) struct Turn;

impl Turn {
    pub fn take() -> Self {
        let mut running = RUNNING.0.lock();
        while *running >= AT_ONCE {
            RUNNING.1.wait(&mut running);
        }
        *running += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.0.lock() -= 1;
        RUNNING.1.notify_one();
    }
}

/// A topic, what it holds, and the folder of the application that counts it.
pub(crate) struct WordJob {
    /// The prefix in the bucket where checkpoint and output are, and the address by which processes reach it.
    objects: Option<(String, SocketAddr)>,
    folder: TempDir,
    topic: String,
    sent: Mutex<(usize, Counts)>,
    _turn: Turn,
}

impl WordJob {
    pub fn new(name: &str) -> Self {
        let turn = Turn::take();
        Self {
            objects: None,
            folder: tempfile::tempdir().unwrap(),
            topic: kafka().unique_topic(name, PARTITIONS).unwrap(),
            sent: Mutex::default(),
            _turn: turn,
        }
    }

    /// The same with checkpoint and output on the object store.
    pub fn on_objects(name: &str) -> Self {
        Self::on_objects_at(name, Minio::shared().address())
    }

    /// The same by way of a proxy.
    pub fn on_objects_at(name: &str, address: SocketAddr) -> Self {
        let mut job = Self::new(name);
        job.objects = Some((job.topic.clone(), address));
        job
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.folder().join("checkpoint")
    }

    /// Where the batches' folders appear.
    pub fn output(&self) -> PathBuf {
        self.folder().join("out")
    }

    /// Where the checkpoint is, as an argument.
    pub fn checkpoint_location(&self) -> String {
        match &self.objects {
            Some((prefix, _)) => format!("s3://{BUCKET}/{prefix}/checkpoint"),
            None => text(&self.checkpoint()),
        }
    }

    fn output_prefix(&self) -> String {
        match &self.objects {
            Some((prefix, _)) => format!("s3://{BUCKET}/{prefix}/out/counts"),
            None => text(&self.output().join("counts")),
        }
    }

    /// The application that counts the topic from its beginning: small batches, quick restarts.
    pub fn application(&self) -> Application {
        self.application_from("earliest")
    }

    pub fn application_from(&self, starting_offsets: &str) -> Application {
        self.application_of("wordcount", starting_offsets)
    }

    pub fn application_of(&self, job: &str, starting_offsets: &str) -> Application {
        self.application_without_checkpoint(job, starting_offsets)
            .args(["--checkpoint".to_owned(), self.checkpoint_location()])
    }

    pub fn application_without_checkpoint(&self, job: &str, starting_offsets: &str) -> Application {
        // On an object store a batch takes some dozens of requests.
        let interval = match self.objects {
            Some(_) => "500ms",
            None => "200ms",
        };
        let application = Application::new(TESTJOB, self.folder())
            .unwrap()
            .args(["--job", job, "--brokers", kafka().bootstrap()])
            .args(["--topic", &self.topic])
            .args(["--starting-offsets", starting_offsets])
            .args(["--output".to_owned(), self.output_prefix()])
            .args(["--batch-interval", interval])
            .conf("parallelism", 2)
            .conf("checkpoint.fsync", false);
        match &self.objects {
            // Batches that waited for the store are finished first.
            Some((_, address)) => Minio::give_to(application, *address).conf("stop.timeout", "60s"),
            None => application,
        }
    }

    /// Sends so many lines, over both partitions, and remembers their words.
    pub fn send(&self, lines: usize) {
        let mut sent = self.sent.lock();
        let (number, expected) = &mut *sent;
        let mut partitions = vec![Vec::new(); PARTITIONS as usize];
        for _ in 0..lines {
            let line = format!("every w{} v{}", *number % 7, *number % 11);
            for word in line.split(' ') {
                *expected.entry(word.to_owned()).or_default() += 1;
            }
            partitions[*number % PARTITIONS as usize].push(line);
            *number += 1;
        }
        for (partition, lines) in partitions.iter().enumerate() {
            let partition = i32::try_from(partition).unwrap();
            kafka()
                .produce_lines(&self.topic, partition, lines)
                .unwrap();
        }
    }

    /// Sends bytes as they are to the first partition, and says which words they are to come to.
    pub fn send_raw(&self, records: &[&[u8]], words: &[&str]) {
        kafka().produce_lines(&self.topic, 0, records).unwrap();
        let mut sent = self.sent.lock();
        for word in words {
            *sent.1.entry((*word).to_owned()).or_default() += 1;
        }
    }

    /// What was sent, by word.
    pub fn expected(&self) -> Counts {
        self.sent.lock().1.clone()
    }

    /// What stands in the output, by batch folder.
    pub fn batches(&self) -> BTreeMap<String, Counts> {
        match &self.objects {
            Some((prefix, _)) => read_objects(&format!("{prefix}/out")),
            None => read_batches(&self.output()),
        }
    }

    /// What stands in the output.
    pub fn counted(&self) -> Counts {
        let mut total = Counts::new();
        for (word, count) in self.batches().into_values().flatten() {
            *total.entry(word).or_default() += count;
        }
        total
    }

    /// Waits until as many words stand in the output as were sent.
    pub fn wait_counted(&self) {
        let wanted: u64 = self.expected().values().sum();
        let enough = || self.counted().values().sum::<u64>() >= wanted;
        wait_until(PATIENCE, "all words in the output", enough)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.counted()));
    }

    /// Asserts that the output is what was sent: nothing lost, nothing twice, every folder whole.
    pub fn check(&self) {
        if let Some((prefix, _)) = &self.objects {
            let keys = Minio::shared().keys(&format!("{prefix}/out")).unwrap();
            for batch in self.batches().keys() {
                let success = format!("{batch}/_SUCCESS");
                assert!(keys.contains(&success), "{batch} isn't marked whole");
            }
            assert_eq!(self.counted(), self.expected());
            return;
        }
        for folder in folders(&self.output()) {
            assert!(
                folder.join("_SUCCESS").exists(),
                "{} isn't marked whole",
                folder.display()
            );
        }
        assert_eq!(self.counted(), self.expected());
    }

    /// Waits until all is counted, stops the application, and asserts that the output is what was sent.
    pub fn finish(&self, cluster: Cluster) {
        self.wait_counted();
        let code = cluster.stop().unwrap();
        assert_eq!(code, Some(0));
        self.check();
    }

    /// Every file below the output and the checkpoint with its content.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        if let Some((prefix, _)) = &self.objects {
            let objects = Minio::shared().objects(prefix).unwrap();
            let files = objects.into_iter().map(|(key, bytes)| (key.into(), bytes));
            return files.collect();
        }
        let walk = |folder: PathBuf| WalkDir::new(folder).into_iter().flatten();
        walk(self.output())
            .chain(walk(self.checkpoint()))
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| (entry.path().to_owned(), fs::read(entry.path()).unwrap()))
            .collect()
    }
}

pub(crate) fn kafka() -> &'static KafkaClient {
    KafkaBroker::shared().client()
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn folders(output: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(output) else {
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.retain(|folder| {
        let name = folder.file_name().unwrap().to_string_lossy();
        name.starts_with("counts-")
    });
    folders.sort();
    folders
}

/// The counts in each batch folder; a word that stands in one twice is an error.
pub(crate) fn read_batches(output: &Path) -> BTreeMap<String, Counts> {
    let mut batches = BTreeMap::new();
    for folder in folders(output) {
        let mut counts = Counts::new();
        for part in fs::read_dir(&folder).unwrap().flatten() {
            let name = part.file_name().to_string_lossy().into_owned();
            if !name.starts_with("part-") {
                continue;
            }
            let content = fs::read_to_string(part.path()).unwrap();
            add_rows(&content, &mut counts, &folder.to_string_lossy());
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        batches.insert(name, counts);
    }
    batches
}

/// Adds the rows of one part; a word that its batch has already is an error.
fn add_rows(content: &str, counts: &mut Counts, batch: &str) {
    for line in content.lines() {
        let row = line.strip_prefix('(').unwrap().strip_suffix(')').unwrap();
        let (word, count) = row.rsplit_once(',').unwrap();
        let before = counts.insert(word.to_owned(), count.parse().unwrap());
        assert_eq!(before, None, "{word} stands twice in {batch}");
    }
}

/// The counts of each batch below a folder of the bucket, by the key that its objects have in common. An object that can be seen is whole and
/// never changes.
fn read_objects(folder: &str) -> BTreeMap<String, Counts> {
    let server = Minio::shared();
    let mut batches: BTreeMap<String, Counts> = BTreeMap::new();
    for key in server.keys(folder).unwrap() {
        let (batch, name) = key.rsplit_once('/').unwrap();
        if batch.contains("/.staging") {
            continue;
        }
        let counts = batches.entry(batch.to_owned()).or_default();
        if name.starts_with("part-") {
            let content = server.get_lasting(&key).unwrap().unwrap();
            add_rows(std::str::from_utf8(&content).unwrap(), counts, batch);
        }
    }
    batches
}

/// Waits until a process has written a line with all of these texts on either stream.
pub(crate) fn wait_says(process: &ChildProcess, texts: &[&str]) {
    let said = process.wait_for_line(&format!("{texts:?}"), SOON, |line| {
        texts.iter().all(|text| line.text.contains(text))
    });
    said.unwrap_or_else(|error| panic!("{error}"));
}

/// Waits for a process's end, and asserts its exit code and that one line of what it wrote has all of these texts.
pub(crate) fn assert_ends(process: &ChildProcess, code: i32, texts: &[&str]) {
    let status = process.wait_exit(SOON).unwrap();
    assert_eq!(status.code(), Some(code), "{}", process.output().tail());
    wait_says(process, texts);
}

/// A sample of a metrics page: the sum over all lines of that name that hold `labels`.
pub(crate) fn metric(page: &str, name: &str, labels: &str) -> f64 {
    let samples = page.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
    });
    samples
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum()
}

/// Waits until the driver knows so many executors that are connected; gives what it shows of them.
pub(crate) fn wait_executors(cluster: &Cluster, count: usize) -> Vec<serde_json::Value> {
    wait_for(SOON, &format!("{count} connected executors"), || {
        let all = cluster.driver.rest("executors").ok()?;
        let connected: Vec<_> = all
            .as_array()?
            .iter()
            .filter(|executor| executor["state"] == "connected")
            .cloned()
            .collect();
        (connected.len() == count).then_some(connected)
    })
    .unwrap()
}
