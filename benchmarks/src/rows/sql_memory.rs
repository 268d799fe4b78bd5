//! Resident memory of structured queries: of the employees query that waits for files, and of a word count under load, all processes together.

use millstream_integration_tests::{
    process::ChildProcess,
    wait::{Deadline, wait_until},
};

use super::{
    employees::Employees,
    memory::{IDLE, spark_loaded},
};
use crate::{
    Error, Setting, ours,
    resident::{peak_during, together},
    spark::{self, STRUCTURED},
    table::{Figure, Row, Unit},
};

/// Files that the query reads before it is idle.
const FILES: usize = 20;
const IDLE_AT: [(&str, &str, &str); 2] = [
    (ours::LOCAL, spark::LOCAL, "`local[2]`"),
    (ours::MASTER, spark::LOCAL_CLUSTER, "driver + 2 executors"),
];

/// A process and all that it started, once its query has waited for a while.
fn when_idle(process: &ChildProcess) -> Result<f64, Error> {
    ours::wait_first_table(process)?;
    let begun = Deadline::after(IDLE);
    wait_until(IDLE * 2, "the query to be idle", || begun.has_passed())?;
    Ok(together(process.pid()))
}

fn idle(setting: &Setting, files: &Employees, master: &str) -> Result<f64, Error> {
    let folder = tempfile::tempdir()?;
    let query = setting.ours.query(folder.path(), master, "employees")?;
    let query = query.args(["--dir", &files.path(), "--stay"]);
    when_idle(&query.start_driver()?.process)
}

fn spark_idle(setting: &Setting, files: &Employees, master: &str) -> Result<Option<f64>, Error> {
    let Some(spark) = &setting.spark else {
        return Ok(None);
    };
    let arguments = ["employees", &files.path(), "stay"];
    let process = spark.start(STRUCTURED, master, &arguments)?;
    Ok(Some(when_idle(&process)?))
}

/// The most of driver and executors together while they count words.
fn loaded(setting: &Setting) -> Result<f64, Error> {
    let folder = tempfile::tempdir()?;
    let query = setting.running_words_from_kafka(folder.path())?;
    let driver = query.start_driver()?;
    let (batches, peak) = peak_during(driver.process.pid(), || ours::run_query(&driver.process));
    batches?;
    Ok(peak)
}

fn row(what: String, floor: f64, goal: f64, ours: Vec<f64>, theirs: Vec<f64>) -> Row {
    let figure = |samples| Figure::median(Unit::Mebibytes, samples);
    let row = Row::of(what, figure(ours)).floor(floor).goal(goal);
    match theirs.is_empty() {
        true => row,
        false => row.beside("Structured Streaming 4.2", figure(theirs)),
    }
}

/// Idle and loaded.
pub fn measure(setting: &Setting) -> Result<Vec<Row>, Error> {
    let files = Employees::write(setting, FILES)?;
    let mut rows = Vec::new();
    for (master, spark_master, where_it_runs) in IDLE_AT {
        let mut own = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..setting.sizes.repeats {
            own.push(idle(setting, &files, master)?);
            theirs.extend(spark_idle(setting, &files, spark_master)?);
        }
        let what = format!("resident memory, idle employees query, {where_it_runs}");
        rows.push(row(what, 120.0, 80.0, own, theirs));
    }
    let mut own = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..setting.sizes.repeats {
        own.push(loaded(setting)?);
        theirs.extend(spark_loaded(setting, STRUCTURED)?);
    }
    let what = "resident memory, structured word count under load, driver + 2 executors";
    rows.push(row(what.to_owned(), 300.0, 200.0, own, theirs));
    Ok(rows)
}
