//! The word count that is measured: over a Kafka topic or files, with `Text` or with `String`s. It says for each batch that had words
//! `BATCH <batch time> <words>`.

use std::{path::PathBuf, process::ExitCode};

use millstream::{
    connectors::text_files::source::Settings,
    dstreams::{BoxIterator, ComputedBatch},
    prelude::*,
};
use serde::{Deserialize, Serialize};

/// Counts words.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
struct Args {
    /// Kafka brokers
    #[arg(long, conflicts_with = "dir")]
    brokers: Option<String>,
    /// Kafka topic, from its beginning
    #[arg(long, default_value = "lines")]
    topic: String,
    /// Folder of text files; those that are there are read too
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Rows are `String`s rather than slices of what was read
    #[arg(long)]
    strings: bool,
}

fn word_count(ssc: &StreamingContext, args: Args) -> Result<()> {
    let lines = match (&args.dir, &args.brokers) {
        (Some(dir), _) => ssc.text_files(Settings {
            existing_files: true,
            ..Settings::of_config(dir.to_string_lossy(), ssc.config())
        })?,
        (None, Some(brokers)) => {
            let consumer = kafka::Consumer::new(brokers)
                .topics([&args.topic])
                .starting_offsets("earliest".parse()?);
            kafka::direct_stream(ssc, consumer)?.map(|record| record.text())
        }
        (None, None) => return Err(Error::usage("give --brokers or --dir")),
    };
    let sums = if args.strings {
        let words = lines
            .map(|line| line.to_string())
            .flat_map(|line| line.split(' ').map(str::to_owned).collect::<Vec<String>>());
        sums(words.map(|word| (word, 1u64)).reduce_by_key(|a, b| a + b))
    } else {
        let words = lines.flat_map(|line| line.split(' '));
        sums(words.map(|word| (word, 1u64)).reduce_by_key(|a, b| a + b))
    };
    sums.for_each_batch(say);
    Ok(())
}

/// The words of each partition. Every count is computed; what goes to the driver is one number a partition.
fn sums<W: Data>(counts: DStream<(W, u64)>) -> DStream<u64>
where
    (W, u64): Data,
{
    counts.map_partitions(|rows| {
        let words: u64 = rows.map(|(_, count)| count).sum();
        Box::new(std::iter::once(words)) as BoxIterator<'_, u64>
    })
}

fn say(batch: &ComputedBatch<u64>, time: BatchTime) -> Result<()> {
    let words: u64 = batch.collect()?.into_iter().sum();
    if words > 0 {
        println!("BATCH {} {words}", time.0);
    }
    Ok(())
}

fn main() -> ExitCode {
    millstream::launch(word_count)
}
