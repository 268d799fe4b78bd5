//! Millstream's programs: the word count with its driver and executors, the structured queries, and the yardsticks.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use jiff::Timestamp;
use millstream_integration_tests::{
    cluster::{Application, Driver},
    process::ChildProcess,
    wait::wait_for,
};
use serde_json::Value;

use crate::{Error, samples};

/// How long a run of any program may take.
pub const RUN_LIMIT: Duration = Duration::from_secs(600);
/// A driver and two executor processes of one slot each.
pub const MASTER: &str = "local-cluster[2,1]";
/// Driver and tasks in one process with two slots.
pub const LOCAL: &str = "local[2]";

/// The checkpoint's folder, in a run's own.
pub const CHECKPOINT: &str = "checkpoint";

/// A finished batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Its number.
    pub id: u64,
    /// Rows read.
    pub rows: u64,
    /// From its start to its being committed.
    pub millis: f64,
    /// From its being planned to the next one's being planned: all that a batch takes where they run back to back.
    pub cycle: f64,
    /// Attempts that did not succeed.
    pub retries: u64,
}

/// The median rate of the batches after the first `warm`, rows a second.
pub fn steady_rate(batches: &[Batch], warm: usize) -> f64 {
    let rates: Vec<f64> = batches
        .iter()
        .skip(warm)
        .map(|batch| batch.rows as f64 / batch.cycle.max(1e-3) * 1e3)
        .collect();
    samples::median(&rates)
}

/// Where the release programs are.
#[derive(Debug)]
pub struct Ours {
    words: PathBuf,
    yardsticks: PathBuf,
    folder: PathBuf,
}

fn program(folder: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = folder.join(name);
    match path.is_file() {
        true => Ok(path),
        false => Err(Error::from(format!(
            "{} is not there; benchmarks/run.sh builds it",
            path.display()
        ))),
    }
}

impl Ours {
    /// The programs in this folder.
    pub fn new(folder: &Path) -> Result<Self, Error> {
        Ok(Self {
            words: program(folder, "words")?,
            yardsticks: program(folder, "yardsticks")?,
            folder: folder.to_owned(),
        })
    }

    /// A command of the yardsticks.
    pub fn yardsticks(&self) -> Command {
        Command::new(&self.yardsticks)
    }

    /// What a command of the yardsticks says, one line of JSON.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value, Error> {
        let mut command = self.yardsticks();
        command.args(arguments);
        let process = ChildProcess::spawn("yardsticks", &command)?;
        let line = process.wait_for_line("its result", RUN_LIMIT, |line| {
            line.text.starts_with(['{', '['])
        })?;
        process.wait_success(RUN_LIMIT)?;
        Ok(serde_json::from_str(&line.text)?)
    }

    /// Writes files by a command of the yardsticks with these numbers.
    pub fn write(&self, what: &str, folder: &Path, numbers: &[(&str, u64)]) -> Result<(), Error> {
        let mut command = self.yardsticks();
        command.arg(what).arg(folder);
        for (flag, number) in numbers {
            command.args([flag, number.to_string().as_str()]);
        }
        Ok(ChildProcess::spawn(what, &command)?.wait_success(RUN_LIMIT)?)
    }

    /// Writes the corpus into files.
    pub fn write_files(&self, folder: &Path, lines: u64, files: u64) -> Result<(), Error> {
        self.write(
            "write-files",
            folder,
            &[("--lines", lines), ("--files", files)],
        )
    }

    /// A structured query, to be started; a checkpoint on the local disk. Its files go to `folder`.
    pub fn query(&self, folder: &Path, master: &str, query: &str) -> Result<Application, Error> {
        let checkpoint = folder.join(CHECKPOINT);
        Ok(Application::new(program(&self.folder, "queries")?, folder)?
            .master(master)
            .args([query, "--checkpoint", &checkpoint.to_string_lossy()])
            .conf("parallelism", 2))
    }

    /// The word count, to be started: driver and two executors, batches back to back, a checkpoint on the local disk. Its files go to `folder`.
    pub fn words(&self, folder: &Path) -> Result<Application, Error> {
        let checkpoint = folder.join(CHECKPOINT);
        Ok(Application::new(&self.words, folder)?
            .master(MASTER)
            .args(["--batch-interval", "0s"])
            .args(["--checkpoint", &checkpoint.to_string_lossy()])
            .conf("parallelism", 2))
    }
}

/// Waits until batches with so many words are done.
pub fn wait_words(driver: &Driver, words: u64) -> Result<(), Error> {
    let mut counted = 0;
    driver
        .process
        .wait_for_line("all words", RUN_LIMIT, |line| {
            counted += words_of(&line.text).unwrap_or(0);
            counted >= words
        })?;
    Ok(())
}

/// How many words a line of the word count says that a batch had.
pub fn words_of(line: &str) -> Option<u64> {
    let mut parts = line.strip_prefix("BATCH ")?.split(' ');
    parts.nth(1)?.parse().ok()
}

/// The batches that had rows, in order.
pub fn batches(driver: &Driver) -> Result<Vec<Batch>, Error> {
    let shown = driver.rest("batches")?;
    let mut batches: Vec<Batch> = shown
        .as_array()
        .ok_or("the driver shows no batches")?
        .iter()
        .filter_map(|batch| {
            Some(Batch {
                id: batch["batch"].as_u64()?,
                rows: batch["input_rows"].as_u64()?,
                millis: batch["processing_millis"].as_f64()?,
                cycle: batch["batch_time"].as_f64()?,
                retries: batch["retries"].as_u64()?,
            })
        })
        .collect();
    batches.sort_by_key(|batch| batch.id);
    end_cycles(&mut batches);
    batches.retain(|batch| batch.rows > 0);
    Ok(batches)
}

/// Makes cycles of the batch times that stand in their place. The last one's ends with it.
fn end_cycles(batches: &mut [Batch]) {
    let nexts: Vec<f64> = batches.iter().skip(1).map(|batch| batch.cycle).collect();
    let mut nexts = nexts.into_iter();
    for batch in batches {
        batch.cycle = nexts.next().map_or(batch.millis, |next| next - batch.cycle);
    }
}

/// The same once all these rows are in them: a batch is shown a moment after its line is written.
pub fn wait_batches(driver: &Driver, rows: u64) -> Result<Vec<Batch>, Error> {
    wait_for(RUN_LIMIT, "the driver to show all batches", || {
        let batches = batches(driver).ok()?;
        let shown: u64 = batches.iter().map(|batch| batch.rows).sum();
        (shown >= rows).then_some(batches)
    })
    .map_err(Error::from)
}

/// Waits for the end of a structured query, and gives its batches that had rows, in order.
pub fn run_query(process: &ChildProcess) -> Result<Vec<Batch>, Error> {
    let mut batches = Vec::new();
    process.wait_for_line("its end", RUN_LIMIT, |line| {
        batches.extend(batch_of(&line.text));
        line.text == "END"
    })?;
    end_cycles(&mut batches);
    batches.retain(|batch| batch.rows > 0);
    Ok(batches)
}

/// The batch that a line of progress tells of; its cycle is still the time at which it was planned.
fn batch_of(line: &str) -> Option<Batch> {
    let progress: Value = serde_json::from_str(line.strip_prefix("PROGRESS ")?).ok()?;
    let rows = progress["numInputRows"].as_u64()?;
    let whole = progress["durationMs"]["triggerExecution"].as_f64()?;
    // That is rounded to milliseconds; the rate is not.
    let rate = progress["processedRowsPerSecond"].as_f64()?;
    let exact = rows as f64 / rate * 1e3;
    let planned: Timestamp = progress["timestamp"].as_str()?.parse().ok()?;
    Some(Batch {
        id: progress["batchId"].as_u64()?,
        rows,
        millis: if exact.is_normal() { exact } else { whole },
        cycle: planned.as_millisecond() as f64,
        retries: 0,
    })
}

/// Waits until the first table stands on the console, of ours or of Spark.
pub fn wait_first_table(process: &ChildProcess) -> Result<(), Error> {
    let mut rules = 0;
    process.wait_for_line("the first table", RUN_LIMIT, |line| {
        rules += usize::from(line.text.starts_with("+-"));
        rules == RULES_OF_TABLE
    })?;
    Ok(())
}

/// Above its header, below it, and at its end.
const RULES_OF_TABLE: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_line_says_its_words() {
        assert_eq!(words_of("BATCH 1700000000000 10000000"), Some(10_000_000));
        assert_eq!(words_of("BATCH 1700000000000"), None);
        assert_eq!(words_of("FAILPOINT x"), None);
    }

    #[test]
    fn progress_tells_of_a_batch_to_the_microsecond() {
        let progress = |rate: f64| {
            format!(
                r#"PROGRESS {{"batchId":3,"numInputRows":10,"processedRowsPerSecond":{rate},"timestamp":"1970-01-01T00:00:01.250Z","durationMs":{{"triggerExecution":5}}}}"#
            )
        };
        let batch = batch_of(&progress(2_000.0)).unwrap();
        assert_eq!((batch.id, batch.rows), (3, 10));
        assert_eq!((batch.millis, batch.cycle), (5.0, 1_250.0));
        assert_eq!(batch_of(&progress(2_500.0)).unwrap().millis, 4.0);
        assert_eq!(batch_of(&progress(0.0)).unwrap().millis, 5.0);
        assert!(batch_of("+---+").is_none());
    }

    #[test]
    fn a_cycle_ends_where_the_next_batch_begins() {
        let batch = |id, time| Batch {
            id,
            rows: 1,
            millis: 7.0,
            cycle: time,
            retries: 0,
        };
        let mut batches = [batch(0, 1_000.0), batch(1, 1_010.0), batch(2, 1_025.0)];
        end_cycles(&mut batches);
        assert_eq!(batches.map(|batch| batch.cycle), [10.0, 15.0, 7.0]);
    }

    #[test]
    fn the_steady_rate_leaves_the_first_batches_out() {
        let batch = |id, millis| Batch {
            id,
            rows: 1_000,
            millis: 0.0,
            cycle: millis,
            retries: 0,
        };
        let batches = [
            batch(0, 9_000.0),
            batch(1, 1_000.0),
            batch(2, 500.0),
            batch(3, 250.0),
        ];
        assert_eq!(steady_rate(&batches, 1), 2_000.0);
    }
}
