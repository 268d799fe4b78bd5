//! From the start of the driver's process, which starts two executors, to the end of the first batch.

use crate::{
    Error, Setting,
    ours::{RUN_LIMIT, words_of},
    spark::{DSTREAMS, LOCAL_CLUSTER, STRUCTURED, batch_of},
    table::{Figure, Row, Unit},
};
use millstream_integration_tests::wait::Deadline;

fn ours(setting: &Setting, files: &str) -> Result<f64, Error> {
    let folder = tempfile::tempdir()?;
    let application = setting.ours.words(folder.path())?.args(["--dir", files]);
    let begun = Deadline::after(RUN_LIMIT);
    let driver = application.start_driver()?;
    driver
        .process
        .wait_for_line("the first batch", RUN_LIMIT, |line| {
            words_of(&line.text).is_some()
        })?;
    Ok(begun.elapsed().as_secs_f64())
}

fn sparks(setting: &Setting, program: &str, arguments: &[&str]) -> Result<Option<f64>, Error> {
    let Some(spark) = &setting.spark else {
        return Ok(None);
    };
    let begun = Deadline::after(RUN_LIMIT);
    let process = spark.start(program, LOCAL_CLUSTER, arguments)?;
    process.wait_for_line("the first batch", RUN_LIMIT, |line| {
        batch_of(&line.text).is_some()
    })?;
    Ok(Some(begun.elapsed().as_secs_f64()))
}

/// Ours beside Spark's.
pub fn measure(setting: &Setting) -> Result<Vec<Row>, Error> {
    let files = tempfile::tempdir()?;
    setting.ours.write_files(files.path(), 20, 2)?;
    let path = files.path().to_string_lossy().into_owned();
    let mut times = Vec::new();
    let mut structured = Vec::new();
    let mut dstreams = Vec::new();
    for turn in 0..setting.sizes.launches {
        times.push(ours(setting, &path)?);
        if turn < setting.sizes.repeats {
            let arguments = ["files", &path, "2", "running"];
            structured.extend(sparks(setting, STRUCTURED, &arguments)?);
            let arguments = ["files", &path, "2", "20", "1"];
            dstreams.extend(sparks(setting, DSTREAMS, &arguments)?);
        }
    }
    let row = || {
        let figure = Figure::median(Unit::Seconds, times.clone());
        Row::of("driver + 2 executors, start to first batch done", figure)
            .floor(1.0)
            .goal(0.5)
    };
    if setting.spark.is_none() {
        return Ok(vec![row()]);
    }
    Ok(vec![
        row().beside(
            "Structured Streaming 4.2",
            Figure::median(Unit::Seconds, structured),
        ),
        row().beside(
            "DStreams 3.5 in Scala",
            Figure::median(Unit::Seconds, dstreams),
        ),
    ])
}
