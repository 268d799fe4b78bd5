//! The application of the tests of Structured Streaming: small queries, chosen by `--query`. Built with failpoints.

use std::{process::ExitCode, sync::Arc};

use millstream::sql::{
    Args, DataFrame, OutputMode, Registry, Result, Session,
    arrow::{
        array::{AsArray, StringArray},
        datatypes::DataType,
    },
    avg, col, count, lit, max, min, sum,
};

const SCHEMA: &str =
    "emp_id INT, emp_name STRING, job_name STRING, manager_id INT, salary DOUBLE, dept_name STRING";
const EVENT: &str = "at TIMESTAMP, job STRING, n BIGINT";

/// A query of the tests.
#[derive(Args)]
struct Job {
    /// Folder in which files appear
    #[arg(long)]
    dir: Option<String>,
    /// Brokers of the topics
    #[arg(long)]
    brokers: Option<String>,
    /// Topic of events
    #[arg(long)]
    topic: Option<String>,
    /// Folder or topic to write to
    #[arg(long)]
    out: Option<String>,
    /// Which query
    #[arg(long, value_enum, default_value_t = Query::ByJob)]
    query: Query,
    /// What each batch writes
    #[arg(long, default_value_t = OutputMode::Complete)]
    output_mode: OutputMode,
    /// Files of a batch
    #[arg(long)]
    max_files: Option<u32>,
    /// Appended to what is written to a topic, so that another build may give other rows
    #[arg(long, default_value = "")]
    salt: String,
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
    /// Employees by what a function of the program's own makes of their job.
    Called,
    /// How many employees there are, and how many of each job, of the files as they are.
    Fixed,
    /// Events of a topic by minute and job, once a minute is over, to Parquet files.
    Windows,
    /// Events of a topic by job, whenever they change, to a topic.
    Running,
}

fn needed(argument: Option<&String>) -> &str {
    argument.map_or("", String::as_str)
}

fn events(session: &Session, job: &Job) -> Result<DataFrame> {
    let records = session
        .read_stream()
        .format("kafka")
        .option("kafka.bootstrap.servers", needed(job.brokers.as_ref()))
        .option("subscribe", needed(job.topic.as_ref()))
        .option("startingOffsets", "earliest")
        .load()?;
    records.create_or_replace_temp_view("records")?;
    let parsed = session.sql(&format!(
        "SELECT from_json(CAST(value AS STRING), '{EVENT}') AS event FROM records"
    ))?;
    parsed.create_or_replace_temp_view("parsed")?;
    session.sql("SELECT event.at AS at, event.job AS job, event.n AS n FROM parsed")
}

fn windows(session: &Session, job: &Job) -> Result<()> {
    let events = events(session, job)?.with_watermark("at", "2 hours")?;
    events.create_or_replace_temp_view("events")?;
    session
        .sql("SELECT window(at, '1 minute').start AS minute, job, count(*) AS events, sum(n) AS total FROM events GROUP BY window(at, '1 minute'), job")?
        .write_stream()
        .format("parquet")
        .partition_by(["job"])
        .output_mode(OutputMode::Append)
        .start_at(needed(job.out.as_ref()))?
        .await_termination()
}

fn running(session: &Session, job: &Job) -> Result<()> {
    events(session, job)?.create_or_replace_temp_view("events")?;
    let mut count = "CAST(count(*) AS STRING)".to_owned();
    if !job.salt.is_empty() {
        count = format!("CAST(concat({count}, '{}') AS STRING)", job.salt);
    }
    session
        .sql(&format!(
            "SELECT job AS key, {count} AS value FROM events GROUP BY job"
        ))?
        .write_stream()
        .format("kafka")
        .option("kafka.bootstrap.servers", needed(job.brokers.as_ref()))
        .option("topic", needed(job.out.as_ref()))
        .output_mode(OutputMode::Update)
        .start()?
        .await_termination()
}

fn fixed(session: &Session, job: &Job) -> Result<()> {
    let reader = session.read().schema(SCHEMA).option("header", true);
    let employees = reader.csv(needed(job.dir.as_ref()))?;
    println!("{} employees", employees.count()?);
    let by_job = employees.group_by(["job_name"])?.count()?;
    by_job.order_by(["job_name"])?.show(None)
}

fn job(session: &Session, job: Job) -> Result<()> {
    match job.query {
        Query::Fixed => return fixed(session, &job),
        Query::Windows => return windows(session, &job),
        Query::Running => return running(session, &job),
        _ => {}
    }
    let mut reader = session.read_stream().schema(SCHEMA).option("header", true);
    if let Some(files) = job.max_files {
        reader = reader.option("maxFilesPerTrigger", files);
    }
    let employees = reader.csv(needed(job.dir.as_ref()))?;
    let result = match job.query {
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
        Query::Called => {
            let called = employees.call("shout", vec![col("job_name")])?;
            let employees = employees.select([called.alias("job_name")])?;
            employees.group_by(["job_name"])?.count()?
        }
        _ => employees.group_by(["job_name"])?.count()?,
    };
    result
        .write_stream()
        .format("console")
        .option("numRows", 1000)
        .output_mode(job.output_mode)
        .start()?
        .await_termination()
}

/// With this variable in the environment the program has a function of its own.
const FUNCTIONS: &str = "SQLJOB_FUNCTIONS";

fn functions(registry: &mut Registry) {
    if std::env::var_os(FUNCTIONS).is_none() {
        return;
    }
    registry.register("shout", &[DataType::Utf8], DataType::Utf8, |columns| {
        let words = columns[0].as_string::<i32>().iter();
        let shouted = words.map(|word| word.map(|word| format!("{word}!")));
        Ok(Arc::new(shouted.collect::<StringArray>()))
    });
}

fn main() -> ExitCode {
    millstream::sql::launch_with(functions, job)
}
