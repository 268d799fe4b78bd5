//! Measures Millstream beside hand-written programs and Spark, and prints a table of ratios. `benchmarks/run.sh` builds what is measured and runs this.
//!
//! Layout:
//! - `kafka`: the broker and its topic, for the rows that need one
//! - `machine`: what it ran on
//! - `ours`: Millstream's programs
//! - `resident`: the memory of processes
//! - `rows`: what is measured, a module a group of rows
//! - `samples`: medians and quantiles
//! - `sizes`: how much of everything
//! - `spark`: Spark's programs
//! - `table`: rows, their bounds, and how they are shown

mod kafka;
mod machine;
mod ours;
mod resident;
mod rows;
mod samples;
mod sizes;
mod spark;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use millstream_integration_tests::cluster::Application;
use serde_json::json;

use kafka::Kafka;
use machine::Machine;
use ours::Ours;
use rows::Group;
use sizes::{SPLITS, Sizes};
use spark::Spark;
use table::Row;

/// What a row can't be measured for.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures Millstream beside hand-written programs and Spark
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Folder of the release programs `words`, `queries` and `yardsticks`
    #[arg(long)]
    programs: PathBuf,
    /// Small sizes, to see that everything runs; the figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Measures only this group of rows; may be given many times
    #[arg(long, value_enum, value_name = "GROUP")]
    only: Vec<Group>,
    /// Leaves Spark out
    #[arg(long)]
    no_spark: bool,
    /// How many times each contender runs, by turns; the median counts
    #[arg(long)]
    repeats: Option<usize>,
    /// Also writes everything measured to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What the rows are measured with.
pub(crate) struct Setting {
    pub sizes: Sizes,
    pub ours: Ours,
    pub spark: Option<Spark>,
    pub kafka: Kafka,
}

impl Setting {
    /// Our word count of the topic's corpus in batches of equal size, to be started.
    pub fn words_from_kafka(&self, folder: &Path) -> Result<Application, Error> {
        let brokers = self.kafka.brokers(&self.ours)?;
        // Back to back, the rate is one of a second, so of a batch.
        let rate = self.sizes.batch_lines / SPLITS;
        Ok(self
            .ours
            .words(folder)?
            .args(["--brokers", &brokers, "--topic", self.kafka.topic()])
            .conf("kafka.max_rate_per_partition", rate))
    }

    /// The same as a structured query, which keeps its counts.
    pub fn running_words_from_kafka(&self, folder: &Path) -> Result<Application, Error> {
        let brokers = self.kafka.brokers(&self.ours)?;
        let lines = self.sizes.batch_lines.to_string();
        let query = self.ours.query(folder, ours::MASTER, "words")?;
        Ok(query
            .args(["--brokers", &brokers, "--topic", self.kafka.topic()])
            .args(["--per-batch", &lines]))
    }
}

fn measure(args: &Args) -> Result<(Vec<Row>, Vec<String>), Error> {
    let mut sizes = if args.quick {
        Sizes::quick()
    } else {
        Sizes::full()
    };
    if let Some(repeats) = args.repeats {
        sizes.repeats = repeats.max(1);
    }
    let setting = Setting {
        ours: Ours::new(&args.programs)?,
        spark: match args.no_spark {
            true => None,
            false => Some(Spark::installed()?),
        },
        kafka: Kafka::new(sizes.lines),
        sizes,
    };
    let groups = match args.only.as_slice() {
        [] => Group::all(),
        chosen => chosen.to_vec(),
    };
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for group in groups {
        eprintln!("== {}", group.name());
        match group.measure(&setting) {
            Ok(measured) => rows.extend(measured),
            Err(error) => failures.push(format!("{}: {error}", group.name())),
        }
    }
    Ok((rows, failures))
}

fn run(args: &Args) -> Result<bool, Error> {
    let machine = Machine::look();
    let (rows, failures) = measure(args)?;
    let command = machine::command_line();
    println!("{}\n", table::show(&rows));
    println!("{machine}");
    println!("Command: `{command}`");
    if args.quick {
        println!("Small sizes: these figures say only that everything runs.");
    }
    for failure in &failures {
        println!("NOT MEASURED: {failure}");
    }
    if let Some(path) = &args.json {
        let rows: Vec<_> = rows.iter().map(Row::to_json).collect();
        let all = json!({"machine": machine, "command": command, "quick": args.quick, "rows": rows, "not_measured": failures});
        fs::write(path, format!("{all:#}\n"))?;
    }
    Ok(failures.is_empty())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
