//! The employees query, a table on the console that each file updates: ten rows a file, a file a batch, driver and tasks in one process.

use tempfile::TempDir;

use crate::{
    Error, Setting,
    ours::{self, Batch},
    samples::{median, quantile},
    spark::{self, STRUCTURED},
    table::{Figure, Row, Unit},
};

const ROWS_PER_FILE: u64 = 10;
const SHARES: [(f64, &str, f64, f64); 2] = [(0.5, "p50", 8.0, 5.0), (0.99, "p99", 25.0, 15.0)];

/// Files of employees.
pub struct Employees {
    folder: TempDir,
    files: u64,
}

impl Employees {
    /// So many files.
    pub fn write(setting: &Setting, files: usize) -> Result<Self, Error> {
        let folder = tempfile::tempdir()?;
        let files = files as u64;
        let numbers = [("--files", files)];
        setting
            .ours
            .write("write-employees", folder.path(), &numbers)?;
        Ok(Self { folder, files })
    }

    /// Where they are.
    pub fn path(&self) -> String {
        self.folder.path().to_string_lossy().into_owned()
    }

    /// What each batch took, if each had one file.
    fn millis(&self, batches: &[Batch]) -> Result<Vec<f64>, Error> {
        let is_one = |batch: &Batch| batch.rows == ROWS_PER_FILE;
        if batches.len() as u64 != self.files || !batches.iter().all(is_one) {
            let count = batches.len();
            return Err(format!("{} files were {count} batches", self.files).into());
        }
        Ok(batches.iter().map(|batch| batch.millis).collect())
    }
}

fn ours(setting: &Setting, files: &Employees) -> Result<Vec<f64>, Error> {
    let folder = tempfile::tempdir()?;
    let query = setting
        .ours
        .query(folder.path(), ours::LOCAL, "employees")?;
    let driver = query.args(["--dir", &files.path()]).start_driver()?;
    files.millis(&ours::run_query(&driver.process)?)
}

/// p50 and p99 of ours, beside Spark's.
pub fn measure(setting: &Setting) -> Result<Vec<Row>, Error> {
    let warm = setting.sizes.warm_small_batches;
    let files = Employees::write(setting, warm + setting.sizes.small_batches)?;
    let spark_files = Employees::write(setting, warm + setting.sizes.spark_small_batches)?;
    let mut runs = Vec::new();
    let mut structured = Vec::new();
    for repeat in 1..=setting.sizes.repeats {
        let run = ours(setting, &files)?;
        eprintln!("   {repeat}: ours: {:.2} ms", median(&run));
        runs.push(run);
        let Some(spark) = &setting.spark else {
            continue;
        };
        let arguments = ["employees", &spark_files.path(), "once"];
        let run = spark_files.millis(&spark.run(STRUCTURED, spark::LOCAL, &arguments)?)?;
        eprintln!("   {repeat}: Structured: {:.2} ms", median(&run));
        structured.push(run);
    }
    let figure = |runs: &[Vec<f64>], share: f64| {
        let counted = runs
            .iter()
            .map(|run| quantile(run.get(warm..).unwrap_or_default(), share));
        Figure::median(Unit::Millis, counted.collect())
    };
    let rows = SHARES.iter().map(|(share, name, floor, goal)| {
        let what = format!("employees query, 10-row files, `local[2]`, {name}");
        let row = Row::of(what, figure(&runs, *share))
            .floor(*floor)
            .goal(*goal);
        match structured.as_slice() {
            [] => row,
            structured => row.beside("Structured Streaming 4.2", figure(structured, *share)),
        }
    });
    Ok(rows.collect())
}
