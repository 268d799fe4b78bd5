//! From the start of the driver's process, which starts two executors, to the first table of the employees query on the console.

use millstream_integration_tests::wait::Deadline;

use super::employees::Employees;
use crate::{
    Error, Setting,
    ours::{self, RUN_LIMIT, wait_first_table},
    spark::{self, STRUCTURED},
    table::{Figure, Row, Unit},
};

fn ours(setting: &Setting, files: &Employees) -> Result<f64, Error> {
    let folder = tempfile::tempdir()?;
    let query = setting
        .ours
        .query(folder.path(), ours::MASTER, "employees")?;
    let query = query.args(["--dir", &files.path()]);
    let begun = Deadline::after(RUN_LIMIT);
    let driver = query.start_driver()?;
    wait_first_table(&driver.process)?;
    Ok(begun.elapsed().as_secs_f64())
}

fn sparks(setting: &Setting, files: &Employees) -> Result<Option<f64>, Error> {
    let Some(spark) = &setting.spark else {
        return Ok(None);
    };
    let arguments = ["employees", &files.path(), "once"];
    let begun = Deadline::after(RUN_LIMIT);
    let process = spark.start(STRUCTURED, spark::LOCAL_CLUSTER, &arguments)?;
    wait_first_table(&process)?;
    Ok(Some(begun.elapsed().as_secs_f64()))
}

/// Ours beside Spark's.
pub fn measure(setting: &Setting) -> Result<Vec<Row>, Error> {
    let files = Employees::write(setting, 1)?;
    let mut times = Vec::new();
    let mut structured = Vec::new();
    for turn in 0..setting.sizes.launches {
        times.push(ours(setting, &files)?);
        if turn < setting.sizes.repeats {
            structured.extend(sparks(setting, &files)?);
        }
    }
    let figure = |samples| Figure::median(Unit::Seconds, samples);
    let row = Row::of(
        "employees query, driver + 2 executors, start to first table",
        figure(times),
    );
    let row = row.floor(1.0).goal(0.5);
    Ok(vec![match setting.spark {
        Some(_) => row.beside("Structured Streaming 4.2", figure(structured)),
        None => row,
    }])
}
