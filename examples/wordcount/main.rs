//! Counts the words of a Kafka topic, or of text files, batch by batch.
//!
//! ```sh
//! wordcount --demo                                  # with nothing else installed
//! wordcount --brokers localhost:9092 --topic lines  # on any Kafka
//! wordcount --dir incoming                          # files that appear in a folder
//! ```

mod demo;

use std::{path::PathBuf, process::ExitCode};

use millstream::prelude::*;
use serde::{Deserialize, Serialize};

/// Counts words, batch by batch.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
struct Args {
    /// Starts an embedded Kafka and a producer, and counts on a driver and two executor processes
    #[arg(long, conflicts_with_all = ["brokers", "dir"])]
    demo: bool,
    /// Lines a second that the demo's producer sends
    #[arg(long, default_value_t = 1_000, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// Kafka brokers
    #[arg(long, value_name = "HOST:PORT,...")]
    brokers: Option<String>,
    /// Kafka topic
    #[arg(long, default_value = "lines")]
    topic: String,
    /// Where to begin in the topic: earliest, latest, or offsets by topic and partition such as {"lines":{"0":42}}; partitions not named begin at latest
    #[arg(long, default_value = "latest", value_name = "OFFSETS")]
    starting_offsets: String,
    /// Folder in which text files appear
    #[arg(long, value_name = "FOLDER", conflicts_with = "brokers")]
    dir: Option<PathBuf>,
    /// Values are strings that a JSON serializer wrote, in quotes
    #[arg(long)]
    json: bool,
    /// Also saves each batch as text files in PREFIX-<batch time>
    #[arg(long, value_name = "PREFIX")]
    output: Option<String>,
    /// Also sends the counts to this topic of the same brokers
    #[arg(long, value_name = "TOPIC", conflicts_with = "dir")]
    output_topic: Option<String>,
}

fn word_count(ssc: &StreamingContext, args: Args) -> Result<()> {
    let lines = match (&args.dir, &args.brokers) {
        (Some(dir), _) => ssc.text_file_stream(dir)?,
        (None, Some(brokers)) => {
            let consumer = kafka::Consumer::new(brokers)
                .topics([&args.topic])
                .starting_offsets(args.starting_offsets.parse()?);
            kafka::direct_stream(ssc, consumer)?.map(|record| record.text())
        }
        (None, None) => {
            return Err(Error::usage(
                "nothing to count: give --demo, --brokers HOST:PORT --topic TOPIC, or --dir FOLDER",
            ));
        }
    };
    let lines = if args.json {
        lines.map(json_string)
    } else {
        lines
    };
    let counts = lines
        .flat_map(|line| line.split(' '))
        .map(|word| (word, 1u64))
        .reduce_by_key(|a, b| a + b);
    counts.pprint();
    if let Some(prefix) = &args.output {
        counts.save_as_text_files(prefix)?;
    }
    if let (Some(topic), Some(brokers)) = (&args.output_topic, &args.brokers) {
        counts
            .map(|(word, count)| kafka::ProducerRecord::value(count.to_string()).key(word))
            .save_to_kafka(kafka::Producer::new(brokers, topic))?;
    }
    Ok(())
}

/// What a JSON serializer made of a string; anything else stays as it is.
fn json_string(line: Text) -> Text {
    match serde_json::from_str::<String>(&line) {
        Ok(text) => Text::from(text),
        Err(_) => line,
    }
}

fn main() -> ExitCode {
    millstream::launcher(word_count)
        .before_start(demo::prepare)
        .on_ready(demo::invite)
        .run()
}
