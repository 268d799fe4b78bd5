//! The corpus, the hand-written programs and the scheduler alone; each says what it did as one line of JSON.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use millstream_benchmark_programs::{
    Error, corpus,
    handwritten::{self, Counted, Words},
    scheduler::{self, Load},
    tables::{self, Groups},
};
use millstream_common::time::SystemClock;
use serde_json::json;

#[derive(Parser)]
#[command(version, about = "What Millstream is measured against")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Writes the corpus into files
    WriteFiles {
        folder: PathBuf,
        #[arg(long)]
        lines: u64,
        #[arg(long)]
        files: u64,
    },
    /// Sends the corpus to a Kafka topic
    Send {
        brokers: String,
        topic: String,
        #[arg(long)]
        lines: u64,
        #[arg(long)]
        partitions: i32,
    },
    /// Writes files of ten employees
    WriteEmployees {
        folder: PathBuf,
        #[arg(long)]
        files: u64,
    },
    /// Writes files of numbered groups, two a batch
    WriteGroups {
        folder: PathBuf,
        /// Groups there are
        #[arg(long)]
        groups: u64,
        /// Batches in which each comes once
        #[arg(long)]
        fills: u64,
        /// Groups of each batch after that
        #[arg(long)]
        touched: u64,
        /// Batches after that
        #[arg(long)]
        batches: u64,
    },
    /// Counts the words of files
    Files {
        folder: PathBuf,
        #[arg(long, value_enum)]
        words: Words,
    },
    /// Counts the words of a Kafka topic
    Kafka {
        brokers: String,
        topic: String,
        #[arg(long, value_enum)]
        words: Words,
    },
    /// Drives the scheduler's core with simulated executors
    Scheduler {
        #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
        executors: Vec<u32>,
        #[arg(long, default_value_t = 4)]
        cores: u32,
        #[arg(long, default_value_t = 8000)]
        maps: u32,
        #[arg(long, default_value_t = 20)]
        batches: u64,
        #[arg(long, default_value_t = 5)]
        repeats: u32,
    },
}

fn say(counted: Counted) {
    let seconds = counted.time.as_secs_f64();
    let said = json!({
        "lines": counted.lines,
        "words": counted.words,
        "seconds": seconds,
        "lines_per_second": counted.lines as f64 / seconds.max(1e-9),
    });
    println!("{said}");
}

fn run(args: Args) -> Result<(), Error> {
    match args.what {
        What::WriteFiles {
            folder,
            lines,
            files,
        } => corpus::write_files(&folder, lines, files)?,
        What::Send {
            brokers,
            topic,
            lines,
            partitions,
        } => corpus::send(&brokers, &topic, partitions, lines)?,
        What::WriteEmployees { folder, files } => tables::write_employees(&folder, files)?,
        What::WriteGroups {
            folder,
            groups,
            fills,
            touched,
            batches,
        } => {
            let groups = Groups {
                groups,
                fills,
                touched,
                batches,
            };
            tables::write_groups(&folder, groups)?;
        }
        What::Files { folder, words } => say(handwritten::count_files(&folder, words)?),
        What::Kafka {
            brokers,
            topic,
            words,
        } => say(handwritten::count_topic(&brokers, &topic, words)?),
        What::Scheduler {
            executors,
            cores,
            maps,
            batches,
            repeats,
        } => {
            let load = Load {
                executors: 0,
                cores,
                maps,
                batches,
            };
            let compared = scheduler::compare(&executors, load, repeats, &SystemClock::new())?;
            println!("{}", serde_json::to_string(&compared)?);
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
