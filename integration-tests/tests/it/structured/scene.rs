//! Queries over Kafka: events, the two queries that read them, and what must come of them. What is expected is computed by DataFusion alone, in one go over all
//! that is in the topic.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray},
        compute::cast,
        datatypes::{DataType, Field, Int64Type, Schema, TimeUnit},
    },
    parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
    prelude::SessionContext,
};
use millstream_integration_tests::{
    cluster::{Application, Cluster, PATIENCE},
    kafka::{Isolation, KafkaBroker, KafkaClient},
    wait::wait_until,
};
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

use super::job::SQLJOB;
use crate::faults::scene::Turn;

const PARTITIONS: u64 = 2;
const JOBS: u64 = 5;
/// The watermark's delay, as the query has it. What is sent without waiting for it to be taken spans less, so that none of it is late in whatever order it is read.
const DELAY_SECONDS: i64 = 7_200;
/// Events that [`Scene::send`] sends, and the time between two.
const EVENTS: u64 = 200;
const STEP_SECONDS: i64 = 6;
/// The first event is of the beginning of 2026.
const FIRST_SECOND: i64 = 1_767_225_600;

/// The two queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Query {
    /// Events by minute and job, once a minute is over, to Parquet files.
    Windows,
    /// Events by job, whenever they change, to a topic.
    Running,
}

impl Query {
    pub fn name(self) -> &'static str {
        match self {
            Self::Windows => "windows",
            Self::Running => "running",
        }
    }
}

/// By job and minute: events and their sum.
type Minutes = BTreeMap<(String, i64), (i64, i64)>;
/// By job: events.
type Counts = BTreeMap<String, i64>;

struct Sent {
    number: u64,
    second: i64,
}

/// One of the queries, its input and its output.
pub struct Scene {
    pub query: Query,
    kafka: KafkaClient,
    topic: String,
    out: String,
    folder: TempDir,
    sent: Mutex<Sent>,
    // Last, so that the next scene begins when this one's folder is gone.
    _turn: Turn,
}

impl Scene {
    pub fn new(query: Query) -> Self {
        Self::on(query, KafkaBroker::shared().client())
    }

    /// On a broker of the test's own.
    pub fn on(query: Query, kafka: &KafkaClient) -> Self {
        let turn = Turn::take();
        let folder = tempfile::tempdir().unwrap();
        let out = match query {
            Query::Windows => folder.path().join("minutes").to_str().unwrap().to_owned(),
            Query::Running => kafka.unique_topic("counts", 2).unwrap(),
        };
        Self {
            query,
            topic: kafka
                .unique_topic("events", i32::try_from(PARTITIONS).unwrap())
                .unwrap(),
            kafka: kafka.clone(),
            out,
            folder,
            sent: Mutex::new(Sent {
                number: 0,
                second: FIRST_SECOND,
            }),
            _turn: turn,
        }
    }

    /// On `cluster`, with executors that are soon taken for lost.
    pub fn application(&self) -> Application {
        let checkpoint = self.checkpoint();
        Application::new(SQLJOB, self.folder.path())
            .unwrap()
            .args(["--query", self.query.name()])
            .args(["--brokers", self.kafka.bootstrap()])
            .args(["--topic", &self.topic, "--out", &self.out])
            .args(["--checkpoint", checkpoint.to_str().unwrap()])
            .conf("parallelism", 4)
            .conf("time.zone", "UTC")
            .conf("executor.heartbeat_interval", "200ms")
            .conf("executor.timeout", "2s")
            .conf("executor.reconnect_timeout", "2s")
            .conf("shuffle.fetch_timeout", "2s")
            .conf("stop.timeout", "60s")
    }

    fn checkpoint(&self) -> PathBuf {
        self.folder.path().join("checkpoint")
    }

    /// Sends the next events: twenty minutes of event time.
    pub fn send(&self) {
        self.send_some(EVENTS);
    }

    /// Lets so much event time pass that all minutes before it are over once later events are read. Only when all that was sent has been taken, as else
    /// what one partition still has is late.
    pub fn pass(&self) {
        self.sent.lock().second += 2 * DELAY_SECONDS;
    }

    fn send_some(&self, events: u64) {
        let mut sent = self.sent.lock();
        let Sent { number, second } = &mut *sent;
        for partition in 0..PARTITIONS {
            let mine = (0..events).filter(|event| (*number + event) % PARTITIONS == partition);
            let lines: Vec<String> = mine
                .map(|event| {
                    let later = i64::try_from(event).unwrap() * STEP_SECONDS;
                    line(*number + event, *second + later)
                })
                .collect();
            let partition = i32::try_from(partition).unwrap();
            self.kafka
                .produce_lines(&self.topic, partition, &lines)
                .unwrap();
        }
        *number += events;
        *second += i64::try_from(events).unwrap() * STEP_SECONDS;
    }

    /// Waits until all that was sent is in committed batches.
    pub fn wait_taken(&self, driver: &millstream_integration_tests::cluster::Driver) {
        let wanted = self.kafka.end_offsets(&self.topic).unwrap();
        let wanted: i64 = wanted.values().sum();
        let mut taken = 0;
        let waited = wait_until(PATIENCE * 2, "all events to be taken", || {
            taken = self.taken();
            taken >= wanted || driver.process.exit_status().unwrap().is_some()
        });
        let tail = || driver.process.output().tail();
        assert!(waited.is_ok(), "{taken} of {wanted} were taken: {}", tail());
        assert!(taken >= wanted, "the driver ended: {}", tail());
    }

    /// How many records the newest committed batch and those before it read, by the checkpoint.
    fn taken(&self) -> i64 {
        let commits = fs::read_dir(self.checkpoint().join("commits"));
        let names = commits.into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        // Others are being written.
        let newest = names
            .filter(|name| name.bytes().all(|letter| letter.is_ascii_digit()))
            .max();
        let Some(newest) = newest else {
            return 0;
        };
        let path = self.checkpoint().join("offsets").join(newest);
        // Purged meanwhile: there is a newer one.
        let Ok(text) = fs::read_to_string(path) else {
            return 0;
        };
        let entry: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        let position = entry["sources"][0]["position"][&self.topic].as_object();
        let offsets = position.into_iter().flatten();
        offsets.map(|(_, offset)| offset.as_i64().unwrap()).sum()
    }

    /// Ends the scene: all events are taken, everything that is over has come out once, and nothing else; the application stops in order.
    pub fn finish(self, cluster: Cluster) {
        self.wait_taken(&cluster.driver);
        match self.query {
            Query::Windows => self.finish_windows(cluster),
            Query::Running => self.finish_running(cluster),
        }
    }

    fn finish_windows(self, cluster: Cluster) {
        self.pass();
        self.send_some(PARTITIONS);
        let expected = self.expected_minutes();
        assert!(expected.len() > 200, "{} groups", expected.len());
        let out = PathBuf::from(&self.out);
        let mut seen_files = 0;
        let mut seen_groups = 0;
        let waited = wait_until(PATIENCE * 2, "all minutes that are over", || {
            if cluster.driver.process.exit_status().unwrap().is_some() {
                return true;
            }
            // Reading it all is dear, and of use only after more files came.
            let files = written_files(&out).len();
            if files != seen_files {
                seen_files = files;
                seen_groups = written(&out).len();
            }
            seen_groups >= expected.len()
        });
        let tail = cluster.driver.process.output().tail();
        assert!(
            waited.is_ok(),
            "{seen_groups} of {}: {tail}",
            expected.len()
        );
        assert_eq!(cluster.stop().unwrap(), Some(0), "{tail}");
        let got = written(&out);
        assert!(got == expected, "{}", difference(&expected, &got));
    }

    fn finish_running(self, cluster: Cluster) {
        let tail = cluster.driver.process.output().tail();
        assert_eq!(cluster.stop().unwrap(), Some(0), "{tail}");
        let expected = self.expected_counts();
        assert_eq!(expected.len(), JOBS as usize);
        let isolation = Isolation::ReadCommitted;
        let records = self.kafka.consume_all(&self.out, isolation).unwrap();
        let mut newest = Counts::new();
        for record in records {
            let key = String::from_utf8(record.key.clone().unwrap()).unwrap();
            let count: i64 = record.text().parse().unwrap();
            // Counts that were written twice, or from lost state, don't grow.
            let before = newest.insert(key.clone(), count);
            assert!(before < Some(count), "{key}: {before:?}, then {count}");
        }
        assert_eq!(newest, expected);
    }

    /// What one query over all events gives; without minutes that are not over.
    fn expected_minutes(&self) -> Minutes {
        let over_by = self.newest_second() - DELAY_SECONDS;
        let rows = self.query_all(
            "SELECT job, date_bin(INTERVAL '1 minute', CAST(at AS TIMESTAMP)) AS minute, count(*) AS events, sum(n) AS total \
             FROM events GROUP BY job, date_bin(INTERVAL '1 minute', CAST(at AS TIMESTAMP))",
        );
        let mut minutes = Minutes::new();
        for batch in rows {
            let starts = seconds(batch.column(1));
            let jobs = texts(batch.column(0));
            for row in 0..batch.num_rows() {
                let minute = starts.value(row);
                if minute + 60 <= over_by {
                    let job = jobs.value(row).to_owned();
                    minutes.insert((job, minute), numbers(&batch, 2, row));
                }
            }
        }
        minutes
    }

    fn newest_second(&self) -> i64 {
        let newest = self.query_all("SELECT max(CAST(at AS TIMESTAMP)) AS newest FROM events");
        seconds(newest[0].column(0)).value(0)
    }

    fn expected_counts(&self) -> Counts {
        let mut counts = Counts::new();
        for batch in self.query_all("SELECT job, count(*) AS n FROM events GROUP BY job") {
            let jobs = texts(batch.column(0));
            let numbers = batch.column(1).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                counts.insert(jobs.value(row).to_owned(), numbers.value(row));
            }
        }
        counts
    }

    /// Asks DataFusion of all that is in the topic.
    fn query_all(&self, sql: &str) -> Vec<RecordBatch> {
        let isolation = Isolation::ReadCommitted;
        let records = self.kafka.consume_all(&self.topic, isolation).unwrap();
        let sent = self.sent.lock().number;
        assert_eq!(records.len() as u64, sent, "the topic holds what was sent");
        let events: Vec<Value> = records
            .iter()
            .map(|record| serde_json::from_str(&record.text()).unwrap())
            .collect();
        let field = |name: &str| -> StringArray {
            let values = events.iter().map(|event| event[name].as_str());
            values.collect()
        };
        let numbers: Int64Array = events.iter().map(|event| event["n"].as_i64()).collect();
        let schema = Schema::new(vec![
            Field::new("at", DataType::Utf8, false),
            Field::new("job", DataType::Utf8, false),
            Field::new("n", DataType::Int64, false),
        ]);
        let all = RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(field("at")),
                Arc::new(field("job")),
                Arc::new(numbers),
            ],
        )
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let context = SessionContext::new();
            context.register_batch("events", all).unwrap();
            context.sql(sql).await.unwrap().collect().await.unwrap()
        })
    }
}

/// Times as seconds since 1970.
fn seconds(column: &ArrayRef) -> Int64Array {
    let times = cast(column, &DataType::Timestamp(TimeUnit::Second, None)).unwrap();
    let numbers = cast(&times, &DataType::Int64).unwrap();
    numbers.as_primitive::<Int64Type>().clone()
}

fn texts(column: &ArrayRef) -> StringArray {
    let texts = cast(column, &DataType::Utf8).unwrap();
    texts.as_string::<i32>().clone()
}

fn numbers(batch: &RecordBatch, first: usize, row: usize) -> (i64, i64) {
    let number = |column: usize| batch.column(column).as_primitive::<Int64Type>().value(row);
    (number(first), number(first + 1))
}

fn line(number: u64, second: i64) -> String {
    let time = second - FIRST_SECOND;
    let (day, of_day) = (time / 86_400 + 1, time % 86_400);
    let (hour, minute) = (of_day / 3_600, of_day / 60 % 60);
    let time = format!("2026-01-{day:02}T{hour:02}:{minute:02}:{:02}Z", of_day % 60);
    // Mixed by its upper bits: those below would go with the partition.
    let job = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) % JOBS;
    format!("{{\"at\":\"{time}\",\"job\":\"JOB {job}\",\"n\":{number}}}")
}

/// The files in the folders of jobs.
fn written_files(out: &Path) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    let folders = fs::read_dir(out).into_iter().flatten().flatten();
    for folder in folders {
        let name = folder.file_name().into_string().unwrap();
        let Some(job) = name.strip_prefix("job=") else {
            continue;
        };
        for file in fs::read_dir(folder.path()).unwrap() {
            files.push((job.to_owned(), file.unwrap().path()));
        }
    }
    files
}

/// What is in the folders of jobs, each row once.
fn written(out: &Path) -> Minutes {
    let mut minutes = Minutes::new();
    for (job, path) in written_files(out) {
        let file = File::open(&path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            let column = |name: &str| batch.schema().index_of(name).unwrap();
            let starts = seconds(batch.column(column("minute")));
            assert_eq!(column("total"), column("events") + 1);
            for row in 0..batch.num_rows() {
                let minute = starts.value(row);
                let row = numbers(&batch, column("events"), row);
                let earlier = minutes.insert((job.clone(), minute), row);
                assert_eq!(earlier, None, "{job} has minute {minute} twice");
            }
        }
    }
    minutes
}

fn difference(expected: &Minutes, got: &Minutes) -> String {
    let keys = expected.keys().chain(got.keys());
    let mut differing: Vec<_> = keys
        .filter(|key| expected.get(*key) != got.get(*key))
        .collect();
    differing.sort();
    differing.dedup();
    let shown = differing.iter().take(20);
    let shown =
        shown.map(|key| format!("{key:?}: {:?}, not {:?}", got.get(*key), expected.get(*key)));
    format!(
        "{} groups differ: {}",
        differing.len(),
        shown.collect::<Vec<_>>().join("; ")
    )
}
