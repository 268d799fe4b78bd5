//! The structured queries that are measured. Each reads what is there in batches of equal size, says of each batch `PROGRESS <json>`, and in the end `END`.

use std::process::ExitCode;

use clap::ValueEnum;
use millstream::{
    Error, Result,
    sql::{
        Args, DataFrame, DataStreamWriter, OutputMode, Session, Trigger,
        arrow::datatypes::DataType, cast, col, explode, split,
    },
};

const EMPLOYEES: &str =
    "emp_id INT, emp_name STRING, job_name STRING, manager_id INT, salary DOUBLE, dept_name STRING";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Query {
    /// Words of lines, counted for good
    Words,
    /// Employees by job, as a table on the screen
    Employees,
    /// Rows by a number
    State,
}

/// Runs a query to the end of its input.
#[derive(Args, Debug)]
struct Queries {
    /// What is computed
    #[arg(value_enum)]
    query: Query,
    /// Kafka brokers, for words
    #[arg(long, conflicts_with = "dir")]
    brokers: Option<String>,
    /// Kafka topic, from its beginning
    #[arg(long, default_value = "lines")]
    topic: String,
    /// Folder of files
    #[arg(long)]
    dir: Option<String>,
    /// Files that a batch takes, or records of a topic
    #[arg(long, default_value_t = 1)]
    per_batch: u64,
    /// Waits for more in the end
    #[arg(long)]
    stay: bool,
}

impl Queries {
    fn folder(&self) -> Result<&str> {
        let folder = self.dir.as_deref();
        folder.ok_or_else(|| Error::usage("give --dir"))
    }

    fn lines(&self, session: &Session) -> Result<DataFrame> {
        let Some(brokers) = &self.brokers else {
            let files = session
                .read_stream()
                .option("maxFilesPerTrigger", self.per_batch);
            return Ok(files.text(self.folder()?)?);
        };
        let records = session
            .read_stream()
            .format("kafka")
            .option("kafka.bootstrap.servers", brokers)
            .option("subscribe", &self.topic)
            .option("startingOffsets", "earliest")
            .option("maxOffsetsPerTrigger", self.per_batch)
            .load()?;
        Ok(records.select([cast(col("value"), DataType::Utf8).alias("value")])?)
    }

    fn csv(&self, session: &Session, schema: &str, header: bool) -> Result<DataFrame> {
        let files = session
            .read_stream()
            .schema(schema)
            .option("header", header)
            .option("maxFilesPerTrigger", self.per_batch);
        Ok(files.csv(self.folder()?)?)
    }

    fn writer(&self, session: &Session) -> Result<DataStreamWriter> {
        let running = |counts: DataFrame| {
            let writer = counts.write_stream().format("noop");
            writer.output_mode(OutputMode::Update)
        };
        Ok(match self.query {
            Query::Words => {
                let words = explode(split(col("value"), " ")).alias("word");
                let words = self.lines(session)?.select([words])?;
                running(words.group_by(["word"])?.count()?)
            }
            Query::State => {
                let rows = self.csv(session, "id BIGINT", false)?;
                running(rows.group_by(["id"])?.count()?)
            }
            Query::Employees => {
                let employees = self.csv(session, EMPLOYEES, true)?;
                let counts = employees.group_by(["job_name"])?.count()?;
                let writer = counts.write_stream().format("console");
                writer.output_mode(OutputMode::Complete)
            }
        })
    }
}

fn run(session: &Session, args: Queries) -> Result<()> {
    let trigger = match args.stay {
        true => Trigger::Default,
        false => Trigger::AvailableNow,
    };
    let query = args.writer(session)?.trigger(trigger).start()?;
    query.await_termination()?;
    for batch in query.recent_progress() {
        println!("PROGRESS {}", batch.json());
    }
    println!("END");
    Ok(())
}

fn main() -> ExitCode {
    millstream::sql::launch(run)
}
