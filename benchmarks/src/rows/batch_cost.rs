//! What a batch costs that has next to no rows: two files of ten lines, two map tasks, two reduce tasks, on a driver and two executor processes.

use tempfile::TempDir;

use crate::{
    Error, Setting, ours,
    samples::{median, quantile},
    spark::{DSTREAMS, LOCAL_CLUSTER, STRUCTURED},
    table::{Figure, Row, Unit},
};

const LINES_PER_FILE: u64 = 10;
const FILES_PER_BATCH: usize = 2;
const WORDS_PER_LINE: u64 = 10;
const SHARES: [(f64, &str, f64, f64); 2] = [(0.5, "p50", 5.0, 3.0), (0.99, "p99", 15.0, 10.0)];

struct SmallFiles {
    folder: TempDir,
    batches: usize,
}

impl SmallFiles {
    fn write(setting: &Setting, batches: usize) -> Result<Self, Error> {
        let batches = batches + setting.sizes.warm_small_batches;
        let folder = tempfile::tempdir()?;
        let files = (batches * FILES_PER_BATCH) as u64;
        setting
            .ours
            .write_files(folder.path(), files * LINES_PER_FILE, files)?;
        Ok(Self { folder, batches })
    }

    fn path(&self) -> String {
        self.folder.path().to_string_lossy().into_owned()
    }

    fn lines(&self) -> u64 {
        (self.batches * FILES_PER_BATCH) as u64 * LINES_PER_FILE
    }
}

fn ours(setting: &Setting, files: &SmallFiles) -> Result<Vec<ours::Batch>, Error> {
    let folder = tempfile::tempdir()?;
    let application = setting
        .ours
        .words(folder.path())?
        .args(["--dir", &files.path()])
        .conf("files.max_files_per_batch", FILES_PER_BATCH);
    let driver = application.start_driver()?;
    ours::wait_words(&driver, files.lines() * WORDS_PER_LINE)?;
    ours::wait_batches(&driver, files.lines())
}

fn millis(batches: &[ours::Batch]) -> Vec<f64> {
    batches.iter().map(|batch| batch.millis).collect()
}

/// Quantiles of each run, after its first batches.
fn figure(setting: &Setting, runs: &[Vec<f64>], share: f64) -> Figure {
    let warm = setting.sizes.warm_small_batches;
    let quantiles = runs
        .iter()
        .map(|run| quantile(run.get(warm..).unwrap_or_default(), share));
    Figure::median(Unit::Millis, quantiles.collect())
}

/// Means of each run, after its first batches.
fn mean(setting: &Setting, runs: &[Vec<f64>]) -> Figure {
    let warm = setting.sizes.warm_small_batches;
    let means = runs.iter().map(|run| {
        let counted = run.get(warm..).unwrap_or_default();
        counted.iter().sum::<f64>() / counted.len().max(1) as f64
    });
    Figure::median(Unit::Millis, means.collect())
}

/// p50 and p99 of ours, and the mean of all that a batch takes, beside Spark's.
pub fn measure(setting: &Setting) -> Result<Vec<Row>, Error> {
    let files = SmallFiles::write(setting, setting.sizes.small_batches)?;
    let spark_files = SmallFiles::write(setting, setting.sizes.spark_small_batches)?;
    let mut runs = Vec::new();
    let mut cycles = Vec::new();
    let mut structured = Vec::new();
    let mut dstreams = Vec::new();
    let per_batch = FILES_PER_BATCH.to_string();
    let lines = (FILES_PER_BATCH as u64 * LINES_PER_FILE).to_string();
    let batches = spark_files.batches.to_string();
    for repeat in 1..=setting.sizes.repeats {
        let done = ours(setting, &files)?;
        let run = millis(&done);
        eprintln!("   {repeat}: ours: {:.2} ms", median(&run));
        runs.push(run);
        cycles.push(done.iter().map(|batch| batch.cycle).collect());
        let Some(spark) = &setting.spark else {
            continue;
        };
        let path = spark_files.path();
        let arguments = ["files", &path, &per_batch, "running"];
        let run = millis(&spark.run(STRUCTURED, LOCAL_CLUSTER, &arguments)?);
        eprintln!("   {repeat}: Structured: {:.2} ms", median(&run));
        structured.push(run);
        let arguments = ["files", &path, &per_batch, &lines, &batches];
        let run = millis(&spark.run(DSTREAMS, LOCAL_CLUSTER, &arguments)?);
        eprintln!("   {repeat}: DStreams: {:.2} ms", median(&run));
        dstreams.push(run);
    }
    let mut rows = Vec::new();
    for (share, name, floor, goal) in SHARES {
        let row = || {
            Row::of(
                format!("fixed cost of a two-stage batch, {name}"),
                figure(setting, &runs, share),
            )
            .floor(floor)
            .goal(goal)
        };
        if setting.spark.is_none() {
            rows.push(row());
            continue;
        }
        rows.push(row().beside(
            "Structured Streaming 4.2",
            figure(setting, &structured, share),
        ));
        rows.push(row().beside("DStreams 3.5 in Scala", figure(setting, &dstreams, share)));
    }
    let whole = Row::of(
        "the same with its planning, back to back, mean".to_owned(),
        mean(setting, &cycles),
    );
    rows.push(match setting.spark {
        Some(_) => whole.beside("Structured Streaming 4.2", mean(setting, &structured)),
        None => whole,
    });
    Ok(rows)
}
