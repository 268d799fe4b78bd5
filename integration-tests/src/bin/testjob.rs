//! The application of the fault tests: small jobs over Kafka or text files, chosen by `--job`. Built with failpoints.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

use millstream::prelude::*;
use serde::{Deserialize, Serialize};

/// A job of the fault tests.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
struct Args {
    /// Which job
    #[arg(long, value_enum, default_value_t = JobName::Wordcount)]
    job: JobName,
    /// Kafka brokers
    #[arg(long)]
    brokers: Option<String>,
    /// Kafka topic
    #[arg(long)]
    topic: Option<String>,
    /// Where to begin
    #[arg(long, default_value = "earliest")]
    starting_offsets: String,
    /// Folder in which text files appear
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Saves batches as text files
    #[arg(long)]
    output: Option<PathBuf>,
    /// Sends results to this topic
    #[arg(long)]
    output_topic: Option<String>,
    /// A second topic or output, where the job has one
    #[arg(long)]
    second: Option<String>,
    /// Stands for a changed closure: a build with another number is another program
    #[arg(long, default_value_t = 0)]
    salt: u64,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum JobName {
    /// Counts words.
    Wordcount,
    /// The lines as they are, without a shuffle.
    Copy,
    /// Two outputs to one place.
    TwoOutputs,
    /// Groups lines by their first word.
    Group,
    /// Gives other rows each time it runs.
    Random,
    /// Panics at the word `panic`.
    Panic,
    /// A map that computes for as many seconds as its line says.
    Compute,
    /// Fails the first two tasks on an executor whose process id is odd.
    FailOnOdd,
    /// Counts words, and saves them in a function on the driver.
    Callback,
}

fn job(ssc: &StreamingContext, args: Args) -> Result<()> {
    let lines = match (&args.brokers, &args.topic, &args.dir) {
        (Some(brokers), Some(topic), _) => {
            let consumer = kafka::Consumer::new(brokers)
                .topics([topic])
                .starting_offsets(args.starting_offsets.parse()?);
            kafka::direct_stream(ssc, consumer)?.map(|record| record.text())
        }
        (_, _, Some(dir)) => ssc.text_file_stream(dir)?,
        _ => return Err(Error::usage("give --brokers and --topic, or --dir")),
    };
    let rows: DStream<(Text, u64)> = match args.job {
        JobName::Wordcount | JobName::TwoOutputs | JobName::Callback => count(&lines),
        JobName::Copy => lines.map(|line| (line, 1)),
        JobName::Group => lines
            .map(|line| {
                let key = line.split(' ').next().unwrap_or_default();
                (key, line)
            })
            .group_by_key()
            .map(|(key, lines)| (key, lines.iter().map(|line| line.len() as u64).sum())),
        JobName::Random => lines
            .map(|line| {
                (
                    line,
                    u64::from(std::process::id()) * 1_000_003
                        + NEXT.fetch_add(1, Ordering::Relaxed),
                )
            })
            .reduce_by_key(|a, b| a + b),
        JobName::Panic => count(&lines.map(|line| {
            assert!(line != "panic", "the line said panic");
            line
        })),
        JobName::Compute => count(&lines.map(|line| {
            compute(line.parse().unwrap_or(0));
            line
        })),
        JobName::FailOnOdd => count(&lines.map(|line| {
            let odd = std::process::id() % 2 == 1;
            assert!(
                !odd || NEXT.fetch_add(1, Ordering::Relaxed) >= 2,
                "this executor is odd"
            );
            line
        })),
    };
    outputs(&rows, &args)
}

static NEXT: AtomicU64 = AtomicU64::new(0);

fn count(lines: &DStream<Text>) -> DStream<(Text, u64)> {
    lines
        .flat_map(|line| line.split(' '))
        .map(|word| (word, 1u64))
        .reduce_by_key(|a, b| a + b)
}

/// Keeps a core busy for so many seconds.
fn compute(seconds: u64) {
    let clock = millstream::common::time::SystemClock::new();
    let begun = millstream::common::time::Clock::now(&clock);
    let end = begun.after(std::time::Duration::from_secs(seconds));
    while millstream::common::time::Clock::now(&clock) < end {
        std::hint::spin_loop();
    }
}

fn outputs(rows: &DStream<(Text, u64)>, args: &Args) -> Result<()> {
    if let (JobName::Callback, Some(output)) = (args.job, args.output.clone()) {
        rows.for_each_batch(move |batch, time| -> Result<()> {
            if batch.is_empty() {
                return Ok(());
            }
            millstream::common::failpoint!("job.callback.before_read");
            let folder = format!("{}-{}", output.display(), time.0);
            save(Path::new(&folder), &batch.collect()?)?;
            Ok(())
        });
    } else if let Some(output) = &args.output {
        rows.save_as_text_files(output)?;
        if args.job == JobName::TwoOutputs
            && let Some(second) = &args.second
        {
            rows.save_as_text_files(second)?;
        }
    } else if let (Some(topic), Some(brokers)) = (&args.output_topic, &args.brokers) {
        let salt = args.salt;
        let records = rows
            .map(move |(word, count)| kafka::ProducerRecord::value(value(count, salt)).key(word));
        records.save_to_kafka(kafka::Producer::new(brokers, topic))?;
        if args.job == JobName::TwoOutputs {
            records.save_to_kafka(kafka::Producer::new(brokers, topic))?;
        }
    } else {
        rows.pprint();
    }
    Ok(())
}

/// The rows as text files have them, whole or not at all.
fn save(folder: &Path, rows: &[(Text, u64)]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut text = String::new();
    for (word, count) in rows {
        text.push_str(&format!("({word},{count})\n"));
    }
    fs::write(folder.join("part-00000"), text)?;
    fs::write(folder.join("_SUCCESS"), "")
}

/// Other bytes for another salt, which read as the same count.
fn value(count: u64, salt: u64) -> String {
    format!("{count}{}", " ".repeat(usize::try_from(salt).unwrap_or(1)))
}

fn main() -> ExitCode {
    millstream::launch(job)
}
