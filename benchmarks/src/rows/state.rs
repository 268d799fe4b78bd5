//! What a batch costs that touches ten thousand groups of an aggregate, however many there are: its time, the memory of all processes, and the checkpoint.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::{
    Error, Setting,
    ours::{self, Batch, CHECKPOINT},
    resident::peak_during,
    spark::{self, STRUCTURED},
    table::{Figure, Row, Unit},
};

/// Groups that a batch touches.
const TOUCHED: u64 = 10_000;
/// Groups of the batches that come first.
const FILLED_AT_ONCE: u64 = 1_000_000;
const FILES_PER_BATCH: u64 = 2;
const SPARK: &str = "Structured Streaming 4.2 with RocksDB";
const MEBIBYTE: f64 = 1_048_576.0;

/// Files of rows of so many groups.
struct Rows {
    folder: TempDir,
    groups: u64,
    fills: u64,
    batches: u64,
}

/// What a run came to.
struct Measured {
    /// The mean time of the batches that count, milliseconds.
    millis: f64,
    /// The most memory of all processes together, MiB.
    peak: f64,
    /// The checkpoint in the end, MiB.
    checkpoint: f64,
}

impl Rows {
    fn write(setting: &Setting, groups: u64) -> Result<Self, Error> {
        let folder = tempfile::tempdir()?;
        let fills = (groups / FILLED_AT_ONCE).max(1);
        let batches = (setting.sizes.warm_state_batches + setting.sizes.state_batches) as u64;
        let numbers = [
            ("--groups", groups),
            ("--fills", fills),
            ("--touched", TOUCHED),
            ("--batches", batches),
        ];
        setting
            .ours
            .write("write-groups", folder.path(), &numbers)?;
        Ok(Self {
            folder,
            groups,
            fills,
            batches,
        })
    }

    fn path(&self) -> String {
        self.folder.path().to_string_lossy().into_owned()
    }

    fn measured(
        &self,
        setting: &Setting,
        batches: &[Batch],
        peak: f64,
        checkpoint: &Path,
    ) -> Result<Measured, Error> {
        let rows: u64 = batches.iter().map(|batch| batch.rows).sum();
        let expected = (
            self.fills + self.batches,
            self.groups + self.batches * TOUCHED,
        );
        if (batches.len() as u64, rows) != expected {
            let count = batches.len();
            return Err(format!("{rows} rows in {count} batches instead of {expected:?}").into());
        }
        let counted = &batches[batches.len().saturating_sub(setting.sizes.state_batches)..];
        let whole: f64 = counted.iter().map(|batch| batch.millis).sum();
        Ok(Measured {
            millis: whole / counted.len().max(1) as f64,
            peak,
            checkpoint: bytes_below(checkpoint)? as f64 / MEBIBYTE,
        })
    }
}

/// Bytes of the files in a folder and those below it.
fn bytes_below(folder: &Path) -> Result<u64, Error> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => bytes_below(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}

fn ours(setting: &Setting, rows: &Rows) -> Result<Measured, Error> {
    let folder = tempfile::tempdir()?;
    let query = setting.ours.query(folder.path(), ours::MASTER, "state")?;
    let files = FILES_PER_BATCH.to_string();
    let query = query.args(["--dir", &rows.path(), "--per-batch", &files]);
    let driver = query.start_driver()?;
    let (batches, peak) = peak_during(driver.process.pid(), || ours::run_query(&driver.process));
    rows.measured(setting, &batches?, peak, &folder.path().join(CHECKPOINT))
}

fn sparks(setting: &Setting, rows: &Rows) -> Result<Option<Measured>, Error> {
    let Some(spark) = &setting.spark else {
        return Ok(None);
    };
    let folder = tempfile::tempdir()?;
    let files = FILES_PER_BATCH.to_string();
    let checkpoint = folder.path().to_string_lossy().into_owned();
    let arguments = ["state", &rows.path(), &files, &checkpoint];
    let process = spark.start(STRUCTURED, spark::LOCAL, &arguments)?;
    let (batches, peak) = peak_during(process.pid(), || spark::batches_of(&process));
    let measured = rows.measured(setting, &batches?, peak, folder.path())?;
    Ok(Some(measured))
}

/// One of the figures of a run.
type Part = fn(&Measured) -> f64;

fn in_words(groups: u64) -> String {
    match groups {
        millions if millions >= 1_000_000 => format!("{} M", millions / 1_000_000),
        thousands => format!("{} thousand", thousands / 1_000),
    }
}

fn say(who: &str, groups: u64, measured: &Measured) {
    eprintln!(
        "   {} groups: {who}: {:.1} ms, {:.0} MiB, checkpoint {:.0} MiB",
        in_words(groups),
        measured.millis,
        measured.peak,
        measured.checkpoint
    );
}

/// Rows of each size, and how much dearer a batch is with the most groups than with the fewest.
pub fn measure(setting: &Setting) -> Result<Vec<Row>, Error> {
    let mut table = Vec::new();
    let mut times = Vec::new();
    let mut spark_times = Vec::new();
    for groups in setting.sizes.state_groups.iter().copied() {
        let rows = Rows::write(setting, groups)?;
        let own = ours(setting, &rows)?;
        say("ours", groups, &own);
        let theirs = sparks(setting, &rows)?;
        if let Some(theirs) = &theirs {
            say("Structured", groups, theirs);
            spark_times.push(theirs.millis);
        }
        times.push(own.millis);
        let parts: [(&str, Unit, Part); 3] = [
            ("time of a batch", Unit::Millis, |run| run.millis),
            ("memory of all processes, most", Unit::Mebibytes, |run| {
                run.peak
            }),
            ("checkpoint", Unit::Mebibytes, |run| run.checkpoint),
        ];
        for (name, unit, part) in parts {
            let what = format!(
                "state of {} groups, 10 thousand touched a batch: {name}",
                in_words(groups)
            );
            let figure = |run: &Measured| Figure::median(unit, vec![part(run)]);
            let row = Row::of(what, figure(&own));
            table.push(match &theirs {
                Some(theirs) => row.beside(SPARK, figure(theirs)),
                None => row,
            });
        }
    }
    table.extend(growth(setting, &times, &spark_times));
    Ok(table)
}

fn growth(setting: &Setting, times: &[f64], spark_times: &[f64]) -> Option<Row> {
    let figure = |times: &[f64]| {
        let (first, last) = times.first().zip(times.last())?;
        Some(Figure::median(Unit::Times, vec![last / first]))
    };
    let sizes = setting.sizes.state_groups;
    let (fewest, most) = sizes.first().zip(sizes.last())?;
    let what = format!(
        "state: time of a batch with {} groups by that with {}",
        in_words(*most),
        in_words(*fewest)
    );
    let row = Row::of(what, figure(times)?).floor(3.0).goal(1.5);
    Some(match figure(spark_times) {
        Some(theirs) => row.beside(SPARK, theirs),
        None => row,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_all_that_is_below_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("state/0")).unwrap();
        fs::write(folder.path().join("metadata"), "123").unwrap();
        fs::write(folder.path().join("state/0/delta"), "12345").unwrap();
        assert_eq!(bytes_below(folder.path()).unwrap(), 8);
    }

    #[test]
    fn groups_are_told_in_words() {
        assert_eq!(in_words(10_000), "10 thousand");
        assert_eq!(in_words(10_000_000), "10 M");
    }
}
