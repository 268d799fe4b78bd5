//! Queries over Kafka that lose processes: minutes of events to Parquet files once they are over, and running counts to a topic. What comes out equals what one query over all
//! events gives in one go.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use millstream::sql::{
    Master, Session,
    arrow::{
        array::AsArray,
        datatypes::{Int64Type, TimestampMicrosecondType},
    },
};
use millstream_common::config::Config;
use millstream_integration_tests::{
    cluster::{Application, Cluster, PATIENCE, Reached},
    kafka::{Isolation, KafkaBroker, KafkaClient},
    wait::wait_until,
};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::job::SQLJOB;
use crate::faults::scene::{executor_at, wait_connected};

const PARTITIONS: i32 = 2;
const JOBS: u64 = 5;
const SECOND: i64 = 1_000_000;

/// By job and minute: events and their sum.
type Minutes = BTreeMap<(String, i64), (i64, i64)>;

struct Scene {
    kafka: KafkaClient,
    topic: String,
    folder: TempDir,
    next: Mutex<u64>,
}

impl Scene {
    fn new() -> Self {
        let kafka = KafkaBroker::shared().client().clone();
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("all")).unwrap();
        Self {
            topic: kafka.unique_topic("events", PARTITIONS).unwrap(),
            kafka,
            folder,
            next: Mutex::default(),
        }
    }

    /// Sends events a few seconds at a time, and keeps them as files too: a batch may find a partition ahead of the other by less than the watermark's delay, so
    /// none is late.
    fn send(&self, events: u64) {
        let mut left = events;
        while left > 0 {
            let some = left.min(30);
            self.send_some(some);
            left -= some;
        }
    }

    fn send_some(&self, events: u64) {
        let mut next = self.next.lock();
        let mut all = String::new();
        for partition in 0..PARTITIONS {
            let mine = (*next..*next + events)
                .filter(|number| number % PARTITIONS as u64 == partition as u64);
            let lines: Vec<String> = mine.map(event).collect();
            lines.iter().for_each(|line| {
                all.push_str(line);
                all.push('\n');
            });
            self.kafka
                .produce_lines(&self.topic, partition, &lines)
                .unwrap();
        }
        let name = format!("{next:08}.json");
        fs::write(self.folder.path().join("all").join(name), all).unwrap();
        *next += events;
    }

    fn application(&self, query: &str, out: &str) -> Application {
        let checkpoint = self.folder.path().join("checkpoint");
        Application::new(SQLJOB, self.folder.path())
            .unwrap()
            .args(["--query", query, "--brokers", self.kafka.bootstrap()])
            .args(["--topic", &self.topic, "--out", out])
            .args(["--checkpoint", checkpoint.to_str().unwrap()])
            .conf("parallelism", 4)
            .conf("time.zone", "UTC")
            .conf("executor.heartbeat_interval", "200ms")
            .conf("executor.timeout", "2s")
            .conf("shuffle.fetch_timeout", "2s")
            .conf("stop.timeout", "60s")
    }

    /// What one query over all events gives; without the newest minutes, which are not over.
    fn expected(&self) -> Minutes {
        let session = local_session();
        session
            .read()
            .schema("at TIMESTAMP, job STRING, n BIGINT")
            .json(self.folder.path().join("all").to_str().unwrap())
            .unwrap()
            .create_or_replace_temp_view("events")
            .unwrap();
        let rows = session
            .sql("SELECT job, unix_seconds(window(at, '1 minute').start) AS minute, count(*) AS events, sum(n) AS total FROM events GROUP BY window(at, '1 minute'), job")
            .unwrap()
            .collect()
            .unwrap();
        let mut minutes = Minutes::new();
        for batch in rows {
            let number =
                |column: usize, row| batch.column(column).as_primitive::<Int64Type>().value(row);
            for row in 0..batch.num_rows() {
                let job = batch.column(0).as_string::<i32>().value(row).to_owned();
                minutes.insert((job, number(1, row)), (number(2, row), number(3, row)));
            }
        }
        session.stop().unwrap();
        let newest = event_second(*self.next.lock() - 1);
        minutes.retain(|(_, minute), _| minute + 60 <= newest - 30);
        minutes
    }
}

fn local_session() -> Session {
    let config = Config::builder()
        .conf("http.enabled", false)
        .conf("time.zone", "UTC")
        .build()
        .unwrap();
    Session::builder()
        .config(&config)
        .master(Master::Local { slots: 1 })
        .build()
        .unwrap()
}

/// Three events a second, from the beginning of 2026.
fn event_second(number: u64) -> i64 {
    1_767_225_600 + (number / 3) as i64
}

fn event(number: u64) -> String {
    let second = event_second(number);
    let of_day = second % 86_400;
    let (hour, minute) = (of_day / 3_600, of_day / 60 % 60);
    let time = format!("2026-01-01T{hour:02}:{minute:02}:{:02}Z", of_day % 60);
    let job = number.wrapping_mul(0x9E37_79B9) % JOBS;
    format!("{{\"at\":\"{time}\",\"job\":\"JOB {job}\",\"n\":{number}}}")
}

/// What is in the folders of jobs, each row once.
fn written(out: &Path) -> Minutes {
    let mut minutes = Minutes::new();
    let Ok(entries) = fs::read_dir(out) else {
        return minutes;
    };
    let session = local_session();
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(job) = name.strip_prefix("job=") else {
            continue;
        };
        let rows = session
            .read()
            .schema("minute TIMESTAMP, events BIGINT, total BIGINT")
            .parquet(path.to_str().unwrap())
            .unwrap()
            .collect()
            .unwrap();
        for batch in rows {
            let times = batch.column(0);
            let times = times.as_primitive::<TimestampMicrosecondType>();
            let number =
                |column: usize, row| batch.column(column).as_primitive::<Int64Type>().value(row);
            for row in 0..batch.num_rows() {
                let minute = times.value(row).div_euclid(SECOND);
                let earlier =
                    minutes.insert((job.to_owned(), minute), (number(1, row), number(2, row)));
                assert_eq!(earlier, None, "{job} has minute {minute} twice");
            }
        }
    }
    session.stop().unwrap();
    minutes
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(folder).into_iter().flatten();
    let files = entries.filter(|entry| entry.file_type().is_file());
    files.map(|entry| entry.path().to_owned()).collect()
}

/// What is wrong with a process in the middle.
enum Fault {
    Executor,
    Driver,
}

fn strike(scene: &Scene, mut cluster: Cluster, point: &str, fault: Fault) -> Cluster {
    let short = point.split('@').next().unwrap();
    match fault {
        Fault::Executor => {
            let victim = executor_at(&cluster, short);
            scene.send(400);
            cluster.kill_executor(victim).unwrap();
            cluster.add_executor().unwrap();
        }
        Fault::Driver => {
            assert_eq!(cluster.wait_failpoint(short).unwrap(), Reached::Driver);
            cluster.driver.process.kill().unwrap();
            scene.send(400);
            cluster.restart_driver().unwrap();
        }
    }
    scene.send(400);
    cluster
}

fn windows_survive(point: &str, fault: Fault) {
    let scene = Scene::new();
    let out = scene.folder.path().join("minutes");
    let application = scene
        .application("windows", out.to_str().unwrap())
        .failpoint(&format!("{point}=pause"));
    scene.send(900);
    let cluster = application.start(2).unwrap();
    wait_connected(&cluster, &cluster.executors());
    cluster.wait_batch(0).unwrap();
    scene.send(900);
    let cluster = strike(&scene, cluster, point, fault);
    let expected = scene.expected();
    assert!(expected.len() > 50);
    let folders = JOBS as usize;
    wait_until(PATIENCE, "all minutes that are over", || {
        let ended = cluster.driver.process.exit_status().unwrap().is_some();
        ended
            || (fs::read_dir(&out).is_ok_and(|found| found.count() > folders)
                && written(&out).len() >= expected.len())
    })
    .unwrap();
    let tail = cluster.driver.process.output().tail();
    assert_eq!(cluster.stop().unwrap(), Some(0), "{tail}");
    assert_eq!(written(&out), expected);
    let left = files_below(&out.join(".staging"));
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn minutes_come_out_once_when_an_executor_dies_with_its_state_written() {
    windows_survive("executor.state.durable@batch=1", Fault::Executor);
}

#[test]
fn minutes_come_out_once_when_the_driver_dies_between_commit_and_files() {
    windows_survive("sink.files.publish@batch=1,done=2", Fault::Driver);
}

fn counts_survive(point: &str, fault: Fault) {
    let scene = Scene::new();
    let out = scene.kafka.unique_topic("counts", 2).unwrap();
    let application = scene
        .application("running", &out)
        .failpoint(&format!("{point}=pause"));
    scene.send(300);
    let cluster = application.start(2).unwrap();
    wait_connected(&cluster, &cluster.executors());
    cluster.wait_batch(0).unwrap();
    scene.send(300);
    let cluster = strike(&scene, cluster, point, fault);
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0..*scene.next.lock() {
        let job = number.wrapping_mul(0x9E37_79B9) % JOBS;
        *expected.entry(format!("JOB {job}")).or_default() += 1;
    }
    let newest = || -> BTreeMap<String, u64> {
        let records = scene
            .kafka
            .consume_all(&out, Isolation::ReadCommitted)
            .unwrap();
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for record in records {
            let key = String::from_utf8(record.key.clone().unwrap()).unwrap();
            let count: u64 = record.text().parse().unwrap();
            // Counts that were written twice, or from lost state, don't grow.
            let before = newest.insert(key.clone(), count);
            assert!(before < Some(count), "{key}: {before:?}, then {count}");
        }
        newest
    };
    wait_until(PATIENCE, "the counts of all events", || {
        let ended = cluster.driver.process.exit_status().unwrap().is_some();
        ended || newest() == expected
    })
    .unwrap();
    let tail = cluster.driver.process.output().tail();
    assert_eq!(cluster.stop().unwrap(), Some(0), "{tail}");
    assert_eq!(newest(), expected);
}

#[test]
fn counts_go_on_when_an_executor_dies_before_it_reports_what_it_wrote() {
    counts_survive(
        "executor.task.before_report@batch=1,stage=1",
        Fault::Executor,
    );
}

#[test]
fn counts_go_on_when_the_driver_dies_before_a_commit() {
    counts_survive("driver.put.before@kind=commits,number=1", Fault::Driver);
}
