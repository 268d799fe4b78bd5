//! The application of the tests of Structured Streaming: small queries over folders of files, chosen by `--query`. Built with failpoints.

use std::process::ExitCode;

use millstream::sql::{Args, OutputMode, Result, Session, avg, col, count, lit, max, min, sum};

const SCHEMA: &str =
    "emp_id INT, emp_name STRING, job_name STRING, manager_id INT, salary DOUBLE, dept_name STRING";

/// A query of the tests.
#[derive(Args)]
struct Job {
    /// Folder in which files appear
    #[arg(long)]
    dir: String,
    /// Which query
    #[arg(long, value_enum, default_value_t = Query::ByJob)]
    query: Query,
    /// What each batch writes
    #[arg(long, default_value_t = OutputMode::Complete)]
    output_mode: OutputMode,
    /// Files of a batch
    #[arg(long)]
    max_files: Option<u32>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Query {
    /// Employees by job.
    ByJob,
    /// Employees by department.
    ByDepartment,
    /// Every aggregate, over one group of all.
    Whole,
    /// The rows as they are, above a salary.
    Rows,
}

fn job(session: &Session, job: Job) -> Result<()> {
    let mut reader = session.read_stream().schema(SCHEMA).option("header", true);
    if let Some(files) = job.max_files {
        reader = reader.option("maxFilesPerTrigger", files);
    }
    let employees = reader.csv(&job.dir)?;
    let result = match job.query {
        Query::ByJob => employees.group_by(["job_name"])?.count()?,
        Query::ByDepartment => employees.group_by(["dept_name"])?.count()?,
        Query::Whole => employees.group_by::<&str>([])?.agg([
            count(lit(1i64)).alias("rows"),
            count(col("salary")).alias("salaries"),
            sum(col("salary")).alias("sum"),
            avg(col("salary")).alias("avg"),
            min(col("emp_name")).alias("first"),
            max(col("emp_id")).alias("last"),
        ])?,
        Query::Rows => employees
            .filter("salary > 1000")?
            .select(["emp_name", "salary"])?,
    };
    result
        .write_stream()
        .format("console")
        .option("numRows", 1000)
        .output_mode(job.output_mode)
        .start()?
        .await_termination()
}

fn main() -> ExitCode {
    millstream::sql::launch(job)
}
