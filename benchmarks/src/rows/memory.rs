//! Resident memory: of an idle word count on Kafka, and of one under load, each process as the system counts it.

use std::time::Duration;

use millstream_integration_tests::{
    cluster::Driver,
    wait::{Deadline, wait_until},
};

use super::words;
use crate::{
    Error, Setting, ours,
    resident::{now, peak_during},
    sizes::SPLITS,
    spark::{DSTREAMS, LOCAL, STRUCTURED},
    table::{Figure, Row, Unit},
};

/// An idle program runs for so long before it is looked at; it has run some batches by then.
pub(super) const IDLE: Duration = Duration::from_secs(5);

/// Driver and each executor while nothing comes.
fn idle(setting: &Setting) -> Result<(f64, Vec<f64>), Error> {
    let folder = tempfile::tempdir()?;
    let brokers = setting.kafka.brokers(&setting.ours)?;
    let application = setting
        .ours
        .words(folder.path())?
        .args(["--brokers", &brokers, "--topic", setting.kafka.idle_topic()])
        .conf("batch.interval", "1s");
    let driver = application.start_driver()?;
    let ready = driver.wait_ready()?;
    let begun = Deadline::after(IDLE);
    wait_until(IDLE * 2, "the program to be idle", || {
        begun.has_passed() && executors_alive(&driver) == ready.executors.len()
    })?;
    let executors = ready.executors.iter().map(|pid| now(*pid)).collect();
    Ok((now(driver.process.pid()), executors))
}

fn executors_alive(driver: &Driver) -> usize {
    let shown = driver.rest("executors").unwrap_or_default();
    shown.as_array().map_or(0, Vec::len)
}

/// The most of driver and executors together while they count words.
fn loaded(setting: &Setting) -> Result<f64, Error> {
    let folder = tempfile::tempdir()?;
    let driver = setting.words_from_kafka(folder.path())?.start_driver()?;
    let expected = setting.sizes.lines * words::WORDS_PER_LINE;
    let work = || ours::wait_words(&driver, expected);
    let (counted, peak) = peak_during(driver.process.pid(), work);
    counted?;
    Ok(peak)
}

/// The most of Spark's one process while it counts the same words.
pub(super) fn spark_loaded(setting: &Setting, program: &str) -> Result<Option<f64>, Error> {
    let Some(spark) = &setting.spark else {
        return Ok(None);
    };
    let brokers = setting.kafka.brokers(&setting.ours)?;
    let topic = setting.kafka.topic();
    let lines = setting.sizes.batch_lines.to_string();
    let lines_of_partition = (setting.sizes.batch_lines / SPLITS).to_string();
    let batches = setting.sizes.batches().to_string();
    let arguments = match program {
        STRUCTURED => vec!["kafka", &brokers, topic, &lines, "running"],
        _ => vec!["kafka", &brokers, topic, &lines_of_partition, &batches],
    };
    let process = spark.start(program, LOCAL, &arguments)?;
    let work = || process.wait_for_line("its end", ours::RUN_LIMIT, |line| line.text == "END");
    let (ended, peak) = peak_during(process.pid(), work);
    ended?;
    Ok(Some(peak))
}

/// Idle and loaded.
pub fn measure(setting: &Setting) -> Result<Vec<Row>, Error> {
    let mut drivers = Vec::new();
    let mut executors = Vec::new();
    let mut totals = Vec::new();
    let mut structured = Vec::new();
    let mut dstreams = Vec::new();
    for _ in 0..setting.sizes.repeats {
        let (driver, own_executors) = idle(setting)?;
        drivers.push(driver);
        executors.extend(own_executors);
        totals.push(loaded(setting)?);
        structured.extend(spark_loaded(setting, STRUCTURED)?);
        dstreams.extend(spark_loaded(setting, DSTREAMS)?);
    }
    let figure = |samples| Figure::median(Unit::Mebibytes, samples);
    let mut rows = vec![
        Row::of("resident memory, idle driver", figure(drivers))
            .floor(60.0)
            .goal(40.0),
        Row::of("resident memory, idle executor", figure(executors))
            .floor(60.0)
            .goal(40.0),
    ];
    let total = Row::of(
        "resident memory, word count under load, driver + 2 executors",
        figure(totals),
    );
    let total = total.floor(300.0).goal(200.0);
    if setting.spark.is_none() {
        rows.push(total);
        return Ok(rows);
    }
    rows.push(total.clone().beside(
        "Structured Streaming 4.2, one process of up to 4 GiB",
        figure(structured),
    ));
    rows.push(total.beside(
        "DStreams 3.5 in Scala, one process of up to 4 GiB",
        figure(dstreams),
    ));
    Ok(rows)
}
