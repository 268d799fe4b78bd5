//! Lines of words as they come in texts: few words are common, most are rare (Zipf's law). The same for every run.

use std::{
    fs,
    io::{BufWriter, Write},
    path::Path,
    time::Duration,
};

use rand::{Rng, SeedableRng, distr::Distribution, distr::weighted::WeightedIndex, rngs::SmallRng};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};

use crate::Error;

/// Words in a line.
pub const WORDS_PER_LINE: usize = 10;
/// Distinct words.
const VOCABULARY: usize = 50_000;
/// Words drawn beforehand; a line is a piece of them.
const DRAWN: usize = 1 << 20;
const SEED: u64 = 7;

/// Makes lines of ten words.
#[derive(Debug)]
pub struct Corpus {
    vocabulary: Vec<String>,
    drawn: Vec<u32>,
    random: SmallRng,
}

impl Corpus {
    /// The corpus from its beginning.
    ///
    /// # Errors
    /// None that a machine could cause.
    pub fn new() -> Result<Self, Error> {
        let mut random = SmallRng::seed_from_u64(SEED);
        let vocabulary = (0..VOCABULARY)
            .map(|_| {
                let letters = random.random_range(3..=9);
                (0..letters)
                    .map(|_| char::from(random.random_range(b'a'..=b'z')))
                    .collect()
            })
            .collect();
        let weights = (1..=VOCABULARY).map(|rank| 1.0 / rank as f64);
        let zipf = WeightedIndex::new(weights)?;
        let drawn = (0..DRAWN)
            .map(|_| u32::try_from(zipf.sample(&mut random)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            vocabulary,
            drawn,
            random,
        })
    }

    /// Puts the next line into `line`, without an end of line.
    pub fn next_line(&mut self, line: &mut String) {
        line.clear();
        let first = self.random.random_range(0..DRAWN - WORDS_PER_LINE);
        for word in &self.drawn[first..first + WORDS_PER_LINE] {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&self.vocabulary[*word as usize]);
        }
    }
}

/// Writes `lines` lines into `files` files `part-00000.txt` and so on.
///
/// # Errors
/// When a file can't be written.
pub fn write_files(folder: &Path, lines: u64, files: u64) -> Result<(), Error> {
    fs::create_dir_all(folder)?;
    let mut corpus = Corpus::new()?;
    let mut line = String::new();
    let files = files.max(1);
    for file in 0..files {
        let path = folder.join(format!("part-{file:05}.txt"));
        let mut writer = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
        let until = lines * (file + 1) / files;
        for _ in lines * file / files..until {
            corpus.next_line(&mut line);
            writer.write_all(line.as_bytes())?;
            writer.write_all(b"\n")?;
        }
        writer.flush()?;
    }
    Ok(())
}

/// Ends the program when a record did not arrive: a topic with a gap must not be measured.
struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, _: ()) {
        if let Err((error, record)) = delivered {
            eprintln!("a record for {} did not arrive: {error}", record.topic());
            std::process::exit(1);
        }
    }
}

/// Sends `lines` lines to a topic, compressed with LZ4, to its partitions by turns.
///
/// # Errors
/// When the brokers don't take them.
pub fn send(brokers: &str, topic: &str, partitions: i32, lines: u64) -> Result<(), Error> {
    let producer: ThreadedProducer<Deliveries> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("linger.ms", "50")
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", "500000")
        .create_with_context(Deliveries)?;
    let mut corpus = Corpus::new()?;
    let mut line = String::new();
    let mut partition = 0;
    for _ in 0..lines {
        corpus.next_line(&mut line);
        let mut record = BaseRecord::<[u8], str>::to(topic)
            .partition(partition)
            .payload(&line);
        partition = (partition + 1) % partitions.max(1);
        loop {
            record = match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => record,
                Err((error, _)) => return Err(error.into()),
            };
            // Room comes as records arrive.
            producer.flush(Duration::from_millis(100)).ok();
        }
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn few_words_are_common_and_many_are_rare() {
        let mut corpus = Corpus::new().unwrap();
        let mut line = String::new();
        let mut counts: HashMap<String, u64> = HashMap::new();
        for _ in 0..20_000 {
            corpus.next_line(&mut line);
            assert_eq!(line.split(' ').count(), WORDS_PER_LINE);
            for word in line.split(' ') {
                *counts.entry(word.to_owned()).or_default() += 1;
            }
        }
        let commonest = counts.values().max().copied().unwrap();
        assert!(commonest > 10_000, "the commonest came {commonest} times");
        assert!(counts.len() > 10_000, "{} distinct words", counts.len());
    }

    #[test]
    fn files_hold_the_lines_and_come_out_alike() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| {
            let folder = folder.path().join(name);
            write_files(&folder, 1_001, 4).unwrap();
            let mut text = String::new();
            for file in 0..4 {
                let path = folder.join(format!("part-{file:05}.txt"));
                text.push_str(&fs::read_to_string(path).unwrap());
            }
            text
        };
        let text = read("first");
        assert_eq!(text.lines().count(), 1_001);
        assert_eq!(text, read("second"));
    }
}
