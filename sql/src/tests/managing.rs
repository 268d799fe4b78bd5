//! Several queries of a session: what is told of each, what they leave, and whose turn it is.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    sync::{Arc, Barrier},
    time::Duration,
};

use arrow::{
    array::{ArrayRef, Int64Array},
    datatypes::DataType,
};
use millstream_common::{
    config::Config,
    time::{Clock, SystemClock},
};
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use tempfile::TempDir;

use super::{FIRST, Fixture, SCHEMA, SECOND};
use crate::{
    Error, Expr, Master, MemoryStream, Registry, Session, StreamingQuery, Trigger,
    arrow::record_batch::RecordBatch, col,
};

/// For what comes soon, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

fn session(slots: u32, functions: Registry) -> Session {
    let config = Config::builder()
        .conf("driver.http", "127.0.0.1:0")
        .conf("checkpoint.fsync", false)
        .conf("time.zone", "UTC")
        .build()
        .unwrap();
    Session::builder()
        .name("managing")
        .config(&config)
        .master(Master::Local { slots })
        .conf("parallelism", 2)
        .functions(functions)
        .build()
        .unwrap()
}

/// Waits until `look` sees something.
fn eventually<T>(session: &Session, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = SystemClock::new();
    let begun = clock.now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(clock.now().since(begun) < PATIENCE, "{what} did not come");
        let soon = clock.until(clock.now().after(Duration::from_millis(5)));
        session.wait(soon).unwrap();
    }
}

fn http(session: &Session, path: &str) -> String {
    let mut stream = TcpStream::connect(session.http().unwrap()).unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    body.to_owned()
}

fn rest(session: &Session, part: &str) -> Value {
    serde_json::from_str(&http(session, &format!("/api/v1/{part}"))).unwrap()
}

/// The value of a metric with these labels.
fn metric(page: &str, name: &str, labels: &str) -> Option<f64> {
    let mut lines = page.lines();
    let line = lines.find(|line| line.starts_with(&format!("{name}{{{labels}")))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn numbers(session: &Session) -> MemoryStream {
    session.memory_stream("n BIGINT").unwrap()
}

fn add(stream: &MemoryStream, numbers: Vec<i64>) {
    let column: ArrayRef = Arc::new(Int64Array::from(numbers));
    let rows = RecordBatch::try_new(stream.to_df().schema(), vec![column]);
    stream.add_data(&rows.unwrap()).unwrap();
}

fn count_by_number(stream: &MemoryStream, name: &str) -> StreamingQuery {
    let counted = stream.to_df().group_by(["n"]).unwrap().count().unwrap();
    counted
        .write_stream()
        .format("noop")
        .query_name(name)
        .output_mode("update")
        .start()
        .unwrap()
}

#[test]
fn metrics_and_rest_tell_queries_apart() {
    let session = session(2, Registry::default());
    let (first, second) = (numbers(&session), numbers(&session));
    let three = count_by_number(&first, "three");
    let five = count_by_number(&second, "five");
    add(&first, vec![1, 1, 2]);
    add(&second, vec![1, 2, 3, 4, 5]);
    three.process_all_available().unwrap();
    five.process_all_available().unwrap();
    // Reading in passing is no query of its own.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("1"), FIRST).unwrap();
    let files = session
        .read()
        .schema(SCHEMA)
        .csv(folder.path().to_str().unwrap());
    assert_eq!(files.unwrap().count().unwrap(), 3);

    let input = "millstream_driver_input_records_total";
    let has_state = |page: &str, query: &str, groups: f64| {
        let labels = format!("query=\"{query}\",operator=\"aggregate-0\"");
        let of = |name: &str| metric(page, &format!("millstream_driver_state_{name}"), &labels);
        [of("rows"), of("rows_updated_total")] == [Some(groups); 2]
            && of("memory_bytes") > Some(0.0)
            && of("file_bytes") > Some(0.0)
    };
    eventually(&session, "what was counted", || {
        let page = http(&session, "/metrics");
        let counted = ["query=\"three\"", "query=\"five\"", "query=\"(read)\""];
        let counted = counted.map(|labels| metric(&page, input, labels));
        let are_counted = counted == [Some(3.0), Some(5.0), Some(3.0)];
        (are_counted && has_state(&page, "three", 2.0) && has_state(&page, "five", 5.0))
            .then_some(())
    });

    let queries = rest(&session, "queries");
    let shown = queries.as_array().unwrap();
    assert_eq!(shown.len(), 2, "{queries}");
    assert_eq!(
        (&shown[0]["name"], &shown[1]["name"]),
        (&"three".into(), &"five".into())
    );
    assert_eq!(shown[0]["id"], three.id().to_string());
    assert_eq!(shown[0]["runId"], three.run_id().to_string());
    assert_eq!(shown[0]["lastProgress"]["numInputRows"], 3);
    assert_eq!(
        shown[1]["lastProgress"]["stateOperators"][0]["numRowsTotal"],
        5
    );
    for key in [
        "five".to_owned(),
        five.id().to_string(),
        five.run_id().to_string(),
    ] {
        let progress = rest(&session, &format!("queries/{key}/progress"));
        assert_eq!(progress[0]["sources"][0]["numInputRows"], 5, "{progress}");
    }
    assert_eq!(
        http(&session, "/api/v1/queries/six/progress"),
        "there is no such query; /api/v1/queries shows the names and ids of those there are\n"
    );
    let batches = rest(&session, "batches");
    let mut names: Vec<&str> = batches
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|batch| batch["query_name"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["five", "three"]);

    // Gauges end with their query alone.
    three.stop().unwrap();
    let rows = "millstream_driver_state_rows";
    let page = eventually(&session, "the end of a gauge", || {
        let page = http(&session, "/metrics");
        metric(&page, rows, "query=\"three\"")
            .is_none()
            .then_some(page)
    });
    assert_eq!(metric(&page, rows, "query=\"five\""), Some(5.0));
    assert_eq!(metric(&page, input, "query=\"three\""), Some(3.0));
    let ended = &rest(&session, "queries")[0];
    assert_eq!(
        (&ended["isActive"], &ended["status"]["message"]),
        (&false.into(), &"Stopped".into())
    );
    session.stop().unwrap();
}

#[test]
fn what_a_query_kept_for_itself_goes_with_it() {
    let session = session(1, Registry::default());
    let stream = numbers(&session);
    add(&stream, vec![1, 2]);
    let query = count_by_number(&stream, "counts");
    query.process_all_available().unwrap();
    let checkpoint = PathBuf::from(query.checkpoint().unwrap());
    assert!(checkpoint.join("state").is_dir());
    query.stop().unwrap();
    eventually(&session, "the end of its folder", || {
        (!checkpoint.exists()).then_some(())
    });
    // Refused, so nothing is left of it either.
    let kept = count_by_number(&stream, "counts");
    let kept_folder = PathBuf::from(kept.checkpoint().unwrap());
    eventually(&session, "the end of the first folder", || {
        (session.temporary_folders() == [kept_folder.clone()]).then_some(())
    });
    let again = stream.to_df().write_stream().format("noop");
    let refused = again.query_name("counts").start().unwrap_err();
    assert!(refused.to_string().contains("already active"), "{refused}");
    assert_eq!(
        session.temporary_folders(),
        std::slice::from_ref(&kept_folder)
    );
    session.stop().unwrap();
    assert!(!kept_folder.exists());
}

#[test]
fn of_two_starts_at_a_time_one_gets_the_name() {
    let session = session(2, Registry::default());
    let stream = numbers(&session);
    for round in 0..8 {
        let barrier = Barrier::new(2);
        let start = || {
            barrier.wait();
            let writer = stream.to_df().write_stream().format("noop");
            writer.query_name(&format!("round {round}")).start()
        };
        let started = std::thread::scope(|scope| {
            let other = scope.spawn(start);
            [start(), other.join().unwrap()]
        });
        let (started, refused): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
        assert_eq!((started.len(), refused.len()), (1, 1), "round {round}");
    }
    assert_eq!(session.active_queries().len(), 8);
    session.stop().unwrap();
}

#[test]
fn each_source_tells_what_was_read_of_it_and_from_where() {
    let folder = TempDir::new().unwrap();
    let run = |fixture: &Fixture| {
        let other = fixture.folder.path().join("other");
        std::fs::create_dir_all(&other).unwrap();
        let more = fixture.session.read_stream().schema(SCHEMA);
        let more = more.csv(other.to_str().unwrap()).unwrap();
        let both = fixture.rows().union(&more).unwrap();
        let counts = both.group_by(["job"]).unwrap().count().unwrap();
        let writer = counts.write_stream().format("noop").output_mode("update");
        writer.trigger(Trigger::AvailableNow).start().unwrap()
    };
    let fixture = Fixture::in_folder(folder);
    fixture.put("1", FIRST);
    std::fs::create_dir_all(fixture.folder.path().join("other")).unwrap();
    std::fs::write(fixture.folder.path().join("other/1"), "9,zoe,boss,1\n").unwrap();
    let query = run(&fixture);
    query.await_termination().unwrap();
    let told: Value = serde_json::from_str(&query.last_progress().unwrap().json()).unwrap();
    assert_eq!(told["numInputRows"], 4);
    assert_eq!(told["sources"][0]["numInputRows"], 3);
    assert_eq!(told["sources"][1]["numInputRows"], 1);
    assert_eq!(told["sources"][0]["startOffset"], Value::Null);
    assert_eq!(told["sources"][0]["endOffset"]["logOffset"], 0);
    assert!(
        told["durationMs"]["triggerExecution"].as_u64() >= told["durationMs"]["addBatch"].as_u64()
    );
    assert!(told["stateOperators"][0]["memoryUsedBytes"].as_u64() > Some(0));
    fixture.session.stop().unwrap();

    let fixture = Fixture::in_folder(fixture.folder);
    fixture.put("2", SECOND);
    let query = run(&fixture);
    query.await_termination().unwrap();
    let told: Value = serde_json::from_str(&query.last_progress().unwrap().json()).unwrap();
    assert_eq!(told["batchId"], 1);
    assert_eq!(told["sources"][0]["startOffset"]["logOffset"], 0);
    assert_eq!(told["sources"][0]["endOffset"]["logOffset"], 1);
    assert_eq!(told["sources"][1]["numInputRows"], 0);
    assert_eq!(told["sources"][1]["endOffset"]["logOffset"], 0);
    fixture.session.stop().unwrap();
}

#[test]
fn whichever_query_ends_is_waited_for() {
    let session = session(2, Registry::default());
    let (first, second) = (numbers(&session), numbers(&session));
    let is_over = |within: Duration| session.await_any_termination_timeout(within);
    let soon = Duration::from_millis(1);
    assert!(!is_over(soon).unwrap(), "none was begun");
    let runs_on = count_by_number(&first, "runs-on");
    assert!(!is_over(soon).unwrap(), "it runs");
    let waiting = std::thread::Builder::new().name("waits".to_owned()).spawn({
        let session = session.clone();
        move || session.await_any_termination_timeout(PATIENCE)
    });
    // Begun while the other thread waits, or before it does.
    let fails = second.to_df().write_stream();
    let fails = fails.for_each_batch(|_, _| Err(Error::Plan("no more".to_owned())));
    let fails = fails.start().unwrap();
    add(&second, vec![1]);
    let why = waiting.unwrap().join().unwrap().unwrap_err().to_string();
    assert!(why.contains("no more"), "{why}");
    assert!(!fails.is_active() && runs_on.is_active());
    assert!(is_over(soon).is_err(), "it is told until it is forgotten");
    session.reset_terminated();
    assert!(!is_over(soon).unwrap(), "the other one runs");
    runs_on.stop().unwrap();
    assert!(is_over(PATIENCE).unwrap(), "a stop is no error");
    session.reset_terminated();
    assert!(!is_over(soon).unwrap(), "none runs, and one may be begun");
    session.stop_queries(true);
    assert!(is_over(PATIENCE).unwrap(), "none will be begun");
    session.stop().unwrap();
}

#[test]
fn progress_says_which_event_times_were_seen() {
    let fixture = Fixture::new();
    fixture.put(
        "1",
        "2026-01-01 10:00:00,a,1\n2026-01-01 10:00:10,b,1\n,c,1\n2026-01-01 10:00:50,a,1\n",
    );
    let events = fixture
        .session
        .read_stream()
        .schema("at TIMESTAMP, k STRING, v BIGINT");
    let events = events.csv(fixture.input().to_str().unwrap()).unwrap();
    let counts = events.with_watermark("at", "10 seconds").unwrap();
    let counts = counts.group_by(["at"]).unwrap().count().unwrap();
    let writer = counts.write_stream().format("noop").output_mode("update");
    let query = writer.trigger(Trigger::AvailableNow).start().unwrap();
    query.await_termination().unwrap();
    let first = &query.recent_progress()[0];
    let time = |name: &str| first.event_time.get(name).map(String::as_str);
    assert_eq!(time("min"), Some("2026-01-01T10:00:00.000Z"));
    assert_eq!(time("avg"), Some("2026-01-01T10:00:20.000Z"));
    assert_eq!(time("max"), Some("2026-01-01T10:00:50.000Z"));
    fixture.session.stop().unwrap();
}

/// Lets calls of a function through one by one.
#[derive(Default)]
struct Gate {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// Calls that came.
    came: usize,
    /// Calls that may go on.
    let_through: usize,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock();
        state.came += 1;
        let mine = state.came;
        self.changed.notify_all();
        while state.let_through < mine {
            self.changed.wait(&mut state);
        }
    }

    fn came(&self) -> usize {
        self.state.lock().came
    }

    fn let_through(&self, calls: usize) {
        self.state.lock().let_through = calls;
        self.changed.notify_all();
    }
}

#[test]
fn a_large_backlog_does_not_starve_a_small_query() {
    const BACKLOG: usize = 200;
    let gate = Arc::new(Gate::default());
    let mut functions = Registry::default();
    let held = Arc::clone(&gate);
    functions.register(
        "gate",
        &[DataType::Int64],
        DataType::Int64,
        move |columns| {
            held.pass();
            Ok(Arc::clone(&columns[0]))
        },
    );
    // The one slot has tasks of the backlog for long.
    let session = session(1, functions);
    let (large, small) = (numbers(&session), numbers(&session));
    for number in 0..BACKLOG {
        add(&large, vec![i64::try_from(number).unwrap()]);
    }
    let through: Expr = large.to_df().call("gate", vec![col("n")]).unwrap();
    let passed = large.to_df().select([through.alias("passed")]).unwrap();
    let writer = passed.write_stream().format("noop").query_name("large");
    let backlog = writer.start().unwrap();
    eventually(&session, "the first task of the backlog", || {
        (gate.came() == 1).then_some(())
    });

    add(&small, vec![1, 2, 3]);
    let query = count_by_number(&small, "small");
    let offsets = PathBuf::from(query.checkpoint().unwrap()).join("offsets");
    eventually(&session, "the small query's batch", || {
        let mut entries = std::fs::read_dir(&offsets).ok()?;
        entries.next().map(|_| ())
    });
    // It is its turn after each task of the backlog; it has tasks to run one after another.
    let mut calls = 0;
    while query.last_progress().is_none() {
        assert!(
            calls < BACKLOG,
            "the small query waited for the whole backlog"
        );
        calls += 1;
        gate.let_through(calls);
        eventually(&session, "a task of either query", || {
            (gate.came() > calls || query.last_progress().is_some() || calls == BACKLOG)
                .then_some(())
        });
    }
    assert_eq!(backlog.last_progress(), None, "after {calls} tasks");
    gate.let_through(BACKLOG);
    backlog.process_all_available().unwrap();
    assert_eq!(
        backlog.last_progress().unwrap().num_input_rows,
        BACKLOG as u64
    );
    session.stop().unwrap();
}
