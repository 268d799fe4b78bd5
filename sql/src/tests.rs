//! Whole queries in this process, from files to the console.

mod ansi;
mod changing;
mod columns;
mod event_time;
mod expressions;
mod functions;
mod golden;
mod managing;
mod outputs;
mod reading;
mod refusals;
mod streams;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use millstream_common::config::Config;
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::{
    Console, DataFrame, Error, Expr, Master, OutputMode, Registry, Result, Session, StreamingQuery,
    avg, col, count, lit, max, min, sum,
};

const SCHEMA: &str = "id INT, name STRING, job STRING, salary DOUBLE";

/// What was printed.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Fixture {
    folder: TempDir,
    screen: Screen,
    session: Session,
}

impl Fixture {
    fn new() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap())
    }

    fn in_folder(folder: TempDir) -> Self {
        Self::of(folder, "UTC", Registry::default())
    }

    fn of(folder: TempDir, zone: &str, functions: Registry) -> Self {
        let input = folder.path().join("input");
        std::fs::create_dir_all(&input).unwrap();
        let screen = Screen::default();
        let config = Config::builder()
            .conf("http.enabled", false)
            .conf("checkpoint.fsync", false)
            .conf("time.zone", zone)
            .build()
            .unwrap();
        let session = Session::builder()
            .config(&config)
            .functions(functions)
            .master(Master::Local { slots: 2 })
            .conf("parallelism", 3)
            .console(Console::new(screen.clone()))
            .checkpoint(folder.path().join("checkpoint").to_str().unwrap())
            .build()
            .unwrap();
        Self {
            folder,
            screen,
            session,
        }
    }

    fn input(&self) -> PathBuf {
        self.folder.path().join("input")
    }

    fn put(&self, name: &str, content: &str) {
        let staged = self.folder.path().join("staged");
        std::fs::write(&staged, content).unwrap();
        std::fs::rename(staged, self.input().join(name)).unwrap();
    }

    fn rows(&self) -> DataFrame {
        self.session
            .read_stream()
            .schema(SCHEMA)
            .csv(self.input().to_str().unwrap())
            .unwrap()
    }

    fn start(&self, frame: Result<DataFrame>, mode: OutputMode) -> StreamingQuery {
        let writer = frame.unwrap().write_stream().format("console");
        writer
            .option("numRows", 100_000)
            .option("truncate", false)
            .output_mode(mode)
            .start()
            .unwrap()
    }

    /// The newest table: its rows, cell by cell.
    fn newest(&self) -> Vec<Vec<String>> {
        self.tables().pop().expect("a batch")
    }

    /// The newest table that has rows.
    fn newest_given(&self) -> Vec<Vec<String>> {
        let mut tables = self.tables();
        tables.retain(|rows| !rows.is_empty());
        tables.pop().expect("a batch with rows")
    }

    fn tables(&self) -> Vec<Vec<Vec<String>>> {
        let text = String::from_utf8(self.screen.0.lock().clone()).unwrap();
        text.split("Batch: ")
            .skip(1)
            .map(Self::table_rows)
            .collect()
    }

    fn table_rows(table: &str) -> Vec<Vec<String>> {
        let rows = table.lines().filter(|line| line.starts_with('|')).skip(1);
        let cells = |line: &str| {
            let inside = line.trim_matches('|').split('|');
            inside.map(|cell| cell.trim().to_owned()).collect()
        };
        rows.map(cells).collect()
    }

    /// All rows that were printed, whatever stood around them.
    fn printed(&self) -> Vec<Vec<String>> {
        let text = String::from_utf8(self.screen.0.lock().clone()).unwrap();
        Self::table_rows(&text)
    }

    fn newest_sorted(&self) -> Vec<Vec<String>> {
        let mut rows = self.newest();
        rows.sort();
        rows
    }

    fn batches(&self) -> usize {
        let text = String::from_utf8(self.screen.0.lock().clone()).unwrap();
        text.matches("Batch: ").count()
    }
}

fn rows(expected: &[&[&str]]) -> Vec<Vec<String>> {
    let row = |row: &&[&str]| row.iter().map(|cell| (*cell).to_owned()).collect();
    expected.iter().map(row).collect()
}

const FIRST: &str = "1,ann,clerk,10.5\n2,bob,clerk,20\n3,cid,,5\n";
const SECOND: &str = "4,dan,boss,100\n5,eve,clerk,\n6,fay,,7\n";

#[test]
fn groups_grow_over_batches() {
    let fixture = Fixture::new();
    let grouped = fixture.rows().group_by(["job"]).unwrap();
    let query = fixture.start(grouped.count(), OutputMode::Complete);
    fixture.put("1", FIRST);
    query.process_all_available().unwrap();
    assert_eq!(
        fixture.newest_sorted(),
        rows(&[&["NULL", "1"], &["clerk", "2"]])
    );
    fixture.put("2", SECOND);
    query.process_all_available().unwrap();
    assert_eq!(
        fixture.newest_sorted(),
        rows(&[&["NULL", "2"], &["boss", "1"], &["clerk", "3"]])
    );
    assert_eq!(fixture.batches(), 2);
    query.stop().unwrap();
    assert!(!query.is_active() && query.exception().is_none());
    assert!(fixture.session.stop().unwrap());
}

#[test]
fn a_restart_goes_on_where_the_query_was() {
    let fixture = Fixture::new();
    let query = fixture.start(
        fixture.rows().group_by(["job"]).unwrap().count(),
        OutputMode::Update,
    );
    fixture.put("1", FIRST);
    query.process_all_available().unwrap();
    let id = query.id();
    query.stop().unwrap();
    fixture.session.stop().unwrap();
    let fixture = Fixture::in_folder(fixture.folder);
    fixture.put("2", SECOND);
    // Another filter is no other query.
    let grouped = fixture.rows().filter("id <> 4").unwrap();
    let query = fixture.start(
        grouped.group_by(["job"]).unwrap().count(),
        OutputMode::Update,
    );
    assert_eq!(query.id(), id);
    query.process_all_available().unwrap();
    assert_eq!(
        fixture.newest_sorted(),
        rows(&[&["NULL", "2"], &["clerk", "3"]])
    );
    query.stop().unwrap();
    let other = fixture.rows().group_by(["name"]).unwrap().count().unwrap();
    let refused = other
        .write_stream()
        .format("console")
        .output_mode("update")
        .start()
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("aggregate-0") && refused.contains("name"),
        "{refused}"
    );
    fixture.session.stop().unwrap();
}

fn every_aggregate() -> Vec<Expr> {
    vec![
        count(lit(1i64)).alias("rows"),
        count(col("salary")).alias("salaries"),
        sum(col("salary")).alias("sum"),
        sum(col("id")).alias("ids"),
        avg(col("salary")).alias("avg"),
        min(col("name")).alias("first"),
        max(col("salary")).alias("most"),
    ]
}

#[test]
fn every_aggregate_goes_on_from_batch_to_batch() {
    let fixture = Fixture::new();
    let grouped = fixture.rows().group_by(["job"]).unwrap();
    let query = fixture.start(grouped.agg(every_aggregate()), OutputMode::Complete);
    for (name, content) in [("1", FIRST), ("2", SECOND)] {
        fixture.put(name, content);
        query.process_all_available().unwrap();
    }
    assert_eq!(
        fixture.newest_sorted(),
        rows(&[
            &["NULL", "2", "2", "12.0", "9", "6.0", "cid", "7.0"],
            &["boss", "1", "1", "100.0", "4", "100.0", "dan", "100.0"],
            &["clerk", "3", "2", "30.5", "8", "15.25", "ann", "20.0"],
        ])
    );
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn one_group_of_all_rows() {
    let fixture = Fixture::new();
    let grouped = fixture.rows().group_by::<&str>([]).unwrap();
    let query = fixture.start(grouped.agg(every_aggregate()), OutputMode::Update);
    for (name, content) in [("1", FIRST), ("2", SECOND)] {
        fixture.put(name, content);
        query.process_all_available().unwrap();
    }
    assert_eq!(
        fixture.newest(),
        rows(&[&["6", "5", "142.5", "21", "28.5", "ann", "100.0"]])
    );
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn sql_text_over_a_view_with_having_order_and_limit() {
    let fixture = Fixture::new();
    let view = fixture.rows().with_column("doubled", "salary * 2").unwrap();
    view.create_or_replace_temp_view("people").unwrap();
    let text = "SELECT upper(job) AS j, sum(doubled) AS s FROM people WHERE job IS NOT NULL \
                GROUP BY upper(job) HAVING sum(doubled) > 10 ORDER BY s DESC LIMIT 2";
    let query = fixture.start(fixture.session.sql(text), OutputMode::Complete);
    fixture.put("1", FIRST);
    fixture.put("2", SECOND);
    fixture.put("3", "7,gus,cook,50\n8,hal,poor,1\n");
    query.process_all_available().unwrap();
    assert_eq!(
        fixture.newest(),
        rows(&[&["BOSS", "200.0"], &["COOK", "100.0"]])
    );
    query.stop().unwrap();
    let error = fixture
        .session
        .sql("SELECT nothing FROM people")
        .err()
        .unwrap();
    assert!(error.to_string().contains("doubled"), "{error}");
    fixture.session.stop().unwrap();
}

#[test]
fn rows_pass_through_filters_unions_and_projections() {
    let fixture = Fixture::new();
    let poor = fixture.rows().filter("salary < 10").unwrap();
    let rich = fixture.rows().filter(col("salary").gt(lit(50.0))).unwrap();
    let both = poor.select(["name", "salary"]).unwrap();
    let both = both.union(&rich.select(["name", "salary"]).unwrap());
    let query = fixture.start(both, OutputMode::Append);
    fixture.put("1", FIRST);
    fixture.put("2", SECOND);
    query.process_all_available().unwrap();
    let all = String::from_utf8(fixture.screen.0.lock().clone()).unwrap();
    let names = ["cid", "dan", "fay"].map(|name| all.matches(name).count());
    assert_eq!(names, [1, 1, 1], "{all}");
    assert!(!all.contains("bob"), "{all}");
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn many_groups_are_right_after_many_batches() {
    let fixture = Fixture::new();
    let reader = fixture.session.read_stream().schema(SCHEMA);
    let reader = reader.option("max_files_per_trigger", 1);
    let rows = reader.csv(fixture.input().to_str().unwrap()).unwrap();
    let grouped = rows.group_by(["name", "job"]).unwrap();
    let query = fixture.start(
        grouped.agg([sum(col("id")).alias("sum")]),
        OutputMode::Complete,
    );
    let mut expected: BTreeMap<(String, String), i64> = BTreeMap::new();
    for file in 0..25u32 {
        let mut content = String::new();
        for row in 0..400u32 {
            let mixed = (file * 400 + row).wrapping_mul(2_654_435_761);
            let (name, job) = (format!("n{}", mixed % 997), format!("j{}", mixed % 3));
            content.push_str(&format!("{row},{name},{job},1\n"));
            *expected.entry((name, job)).or_default() += i64::from(row);
        }
        fixture.put(&format!("{file:03}"), &content);
    }
    query.process_all_available().unwrap();
    let found: BTreeMap<(String, String), i64> = fixture
        .newest()
        .into_iter()
        .map(|row| ((row[0].clone(), row[1].clone()), row[2].parse().unwrap()))
        .collect();
    assert_eq!(found, expected);
    assert!(fixture.batches() >= 25);
    query.stop().unwrap();
    fixture.session.stop().unwrap();
}

#[test]
fn queries_run_side_by_side() {
    let fixture = Fixture::new();
    let by_job = fixture.rows().group_by(["job"]).unwrap().count().unwrap();
    let everything = fixture.rows();
    let start = |frame: &DataFrame, name: &str, mode: &str| {
        let writer = frame.write_stream().format("noop").query_name(name);
        writer.output_mode(mode).start()
    };
    let first = start(&by_job, "by_job", "complete").unwrap();
    let second = start(&everything, "everything", "append").unwrap();
    let again = start(&by_job, "by_job", "complete")
        .unwrap_err()
        .to_string();
    assert!(again.contains("already active"), "{again}");
    fixture.put("1", FIRST);
    first.process_all_available().unwrap();
    second.process_all_available().unwrap();
    assert_eq!(fixture.session.active_queries().len(), 2);
    first.stop().unwrap();
    assert_eq!(fixture.session.active_queries().len(), 1);
    fixture.put("2", SECOND);
    second.process_all_available().unwrap();
    assert!(second.is_active());
    fixture.session.stop().unwrap();
    assert!(!second.is_active());
}

#[test]
fn what_streams_cannot_do_is_said_when_the_query_is_built() {
    let fixture = Fixture::new();
    let view = fixture.rows();
    view.create_or_replace_temp_view("t").unwrap();
    let fixed = fixture.session.read().schema(SCHEMA);
    let fixed = fixed.csv(fixture.input().to_str().unwrap()).unwrap();
    fixed.create_or_replace_temp_view("fixed").unwrap();
    let session = &fixture.session;
    let refused = |frame: &DataFrame, mode: &str| -> String {
        let writer = frame.write_stream().format("noop").output_mode(mode);
        match writer.start() {
            Err(error @ Error::Refused { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let cases = [
        (
            "SELECT job, count(*) FROM t GROUP BY job",
            "append",
            "Append output mode not supported",
        ),
        (
            "SELECT name FROM t",
            "complete",
            "Complete output mode not supported",
        ),
        (
            "SELECT name FROM t ORDER BY name",
            "append",
            "sorting is not supported",
        ),
        (
            "SELECT name FROM t LIMIT 3",
            "append",
            "limits are not supported",
        ),
        (
            "SELECT DISTINCT name FROM t",
            "append",
            "distinct is not supported",
        ),
        (
            "SELECT count(DISTINCT name) FROM t",
            "complete",
            "distinct aggregations",
        ),
        (
            "SELECT a.name FROM t a JOIN t b ON a.id = b.id",
            "append",
            "joins are not supported",
        ),
        (
            "SELECT name, row_number() OVER (ORDER BY id) FROM t",
            "append",
            "non-time-based windows",
        ),
        (
            "SELECT count(*) FROM (SELECT job, count(*) AS n FROM t GROUP BY job) WHERE n > 1",
            "complete",
            "multiple streaming aggregations",
        ),
        (
            "SELECT job, count(*) FROM t GROUP BY CUBE (job)",
            "complete",
            "grouping sets",
        ),
        ("SELECT stddev(salary) FROM t", "complete", "stddev"),
        (
            "SELECT random() FROM t",
            "append",
            "another value at each call",
        ),
        (
            "SELECT shuffle(make_array(1, 2)) FROM t",
            "append",
            "another value at each call",
        ),
        (
            "SELECT name FROM t WHERE salary > random()",
            "append",
            "another value at each call",
        ),
        (
            "SELECT name, now() FROM t",
            "append",
            "another value at each call",
        ),
        (
            "SELECT name FROM t UNION ALL SELECT name FROM fixed",
            "append",
            "union between streaming and batch",
        ),
        (
            "SELECT name FROM t UNION ALL SELECT 'x'",
            "append",
            "union between streaming and batch",
        ),
        (
            "SELECT name FROM t WHERE id IN (SELECT max(id) FROM t)",
            "append",
            "subquery",
        ),
    ];
    for (text, mode, rule) in cases {
        let said = refused(&session.sql(text).unwrap(), mode);
        assert!(said.contains(rule), "{text}: {said}");
    }
    fixture.session.stop().unwrap();
}

#[test]
fn a_wrong_name_format_or_option_is_told_with_the_nearest() {
    let fixture = Fixture::new();
    let said = |result: Result<DataFrame>| result.err().unwrap().to_string();
    let reader = || fixture.session.read_stream().schema(SCHEMA);
    assert!(said(fixture.rows().select(["salry"])).contains("the nearest are salary"));
    assert!(said(reader().option("headr", true).csv("/tmp")).contains("is header meant?"));
    assert!(said(reader().option("header", "yes").csv("/tmp")).contains("true or false"));
    assert!(said(reader().format("orc").load_from("/tmp")).contains("csv, json"));
    assert!(said(fixture.session.read_stream().csv("/tmp")).contains("schema must be specified"));
    let writer = fixture.rows().write_stream().format("consol").start();
    assert!(writer.unwrap_err().to_string().contains("console, csv"));
    let mode = fixture
        .rows()
        .write_stream()
        .format("noop")
        .output_mode("all");
    assert!(
        mode.start()
            .unwrap_err()
            .to_string()
            .contains("append, update or complete")
    );
    fixture.session.stop().unwrap();
}

#[test]
fn malformed_records_are_taken_dropped_or_fatal() {
    for (mode, expected) in [("PERMISSIVE", 4), ("DROPMALFORMED", 1)] {
        let fixture = Fixture::new();
        let reader = fixture
            .session
            .read_stream()
            .schema(SCHEMA)
            .option("mode", mode);
        let rows = reader.csv(fixture.input().to_str().unwrap()).unwrap();
        let query = fixture.start(Ok(rows), OutputMode::Append);
        fixture.put(
            "1",
            "1,ann,clerk,1\n2,bob\nx,cid,clerk,2\n3,dan,clerk,3,more\n",
        );
        query.process_all_available().unwrap();
        assert_eq!(fixture.newest().len(), expected, "{mode}");
        fixture.session.stop().unwrap();
    }
    let fixture = Fixture::new();
    let reader = fixture
        .session
        .read_stream()
        .schema(SCHEMA)
        .option("mode", "FAILFAST");
    let rows = reader.csv(fixture.input().to_str().unwrap()).unwrap();
    let query = fixture.start(Ok(rows), OutputMode::Append);
    fixture.put("1", "1,ann,clerk,1\n2,bob\n");
    let error = query.await_termination().unwrap_err().to_string();
    assert!(
        error.contains("2,bob") && error.contains("PERMISSIVE"),
        "{error}"
    );
    fixture.session.stop().unwrap();
}
