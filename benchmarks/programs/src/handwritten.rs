//! Word count as one would write it by hand for one process with two threads: what any engine could reach at most.
//!
//! With borrowed words, a word is copied once, when it is first seen. With owned ones, a line and each of its words is a `String` of its own, as in
//! a program of closures over `String`s.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use hashbrown::HashMap;
use millstream_common::time::{Clock, SystemClock, Tick};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use crate::Error;

/// Threads of a program.
pub const THREADS: usize = 2;

type Counts = HashMap<String, u64, foldhash::fast::RandomState>;

/// What a program does with each line.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// Nothing: how fast lines come.
    None,
    /// Counts pieces of the line.
    Borrowed,
    /// Counts `String`s.
    Owned,
}

/// What a program did.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Lines read.
    pub lines: u64,
    /// Words counted.
    pub words: u64,
    /// From the first line to the sums of both threads.
    pub time: Duration,
}

fn count(line: &str, words: Words, counts: &mut Counts) {
    match words {
        Words::None => {}
        Words::Borrowed => {
            for word in line.split(' ') {
                match counts.get_mut(word) {
                    Some(count) => *count += 1,
                    None => {
                        counts.insert(word.to_owned(), 1);
                    }
                }
            }
        }
        Words::Owned => {
            let line = line.to_owned();
            let owned: Vec<String> = line.split(' ').map(str::to_owned).collect();
            for word in owned {
                *counts.entry(word).or_insert(0) += 1;
            }
        }
    }
}

/// What a thread did.
struct Part {
    lines: u64,
    counts: Counts,
    begun: Tick,
}

fn sum(parts: Vec<Part>, clock: &dyn Clock) -> Counted {
    let lines = parts.iter().map(|part| part.lines).sum();
    let begun = parts.iter().map(|part| part.begun).min();
    let mut all = Counts::default();
    for part in parts {
        for (word, count) in part.counts {
            *all.entry(word).or_insert(0) += count;
        }
    }
    Counted {
        lines,
        words: all.values().sum(),
        time: clock.now().since(begun.unwrap_or_default()),
    }
}

fn in_threads(run: impl Fn(usize) -> Result<Part, Error> + Sync) -> Result<Vec<Part>, Error> {
    thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..THREADS)
            .map(|number| scope.spawn(move || run(number)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .map_err(|_| Error::from("a thread panicked"))
                .flatten()
        };
        threads.into_iter().map(join).collect()
    })
}

/// Counts the words of all files in a folder.
///
/// # Errors
/// When a file can't be read.
pub fn count_files(folder: &Path, words: Words) -> Result<Counted, Error> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.sort();
    let clock = SystemClock::new();
    let parts = in_threads(|number| {
        let mut part = Part {
            lines: 0,
            counts: Counts::default(),
            begun: clock.now(),
        };
        for file in files.iter().skip(number).step_by(THREADS) {
            let text = fs::read_to_string(file)?;
            for line in text.lines() {
                part.lines += 1;
                count(line, words, &mut part.counts);
            }
        }
        Ok(part)
    })?;
    Ok(sum(parts, &clock))
}

/// Counts the words of a whole topic.
///
/// # Errors
/// When the brokers can't be read.
pub fn count_topic(brokers: &str, topic: &str, words: Words) -> Result<Counted, Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let parts = in_threads(|number| read(brokers, topic, number, words, clock.as_ref()))?;
    Ok(sum(parts, clock.as_ref()))
}

fn read(
    brokers: &str,
    topic: &str,
    number: usize,
    words: Words,
    clock: &dyn Clock,
) -> Result<Part, Error> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "handwritten")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .set("fetch.message.max.bytes", "4194304")
        .set("queued.min.messages", "1000000")
        .set("fetch.queue.backoff.ms", "10")
        .set("check.crcs", "false")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let mut open: BTreeMap<i32, ()> = BTreeMap::new();
    let mut assigned = TopicPartitionList::new();
    for found in metadata.topics() {
        for partition in found.partitions().iter().skip(number).step_by(THREADS) {
            assigned.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
            open.insert(partition.id(), ());
        }
    }
    consumer.assign(&assigned)?;
    let mut part = Part {
        lines: 0,
        counts: Counts::default(),
        begun: Tick(u64::MAX),
    };
    while !open.is_empty() {
        match consumer.poll(Duration::from_secs(30)) {
            Some(Ok(message)) => {
                if part.lines == 0 {
                    part.begun = clock.now();
                }
                part.lines += 1;
                let line = std::str::from_utf8(message.payload().unwrap_or_default())?;
                count(line, words, &mut part.counts);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(error)) => return Err(error.into()),
            None => return Err("nothing came from Kafka for 30 s".into()),
        }
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;

    #[test]
    fn borrowed_and_owned_words_of_files_are_all_counted() {
        let folder = tempfile::tempdir().unwrap();
        corpus::write_files(folder.path(), 1_000, 3).unwrap();
        for words in [Words::Borrowed, Words::Owned] {
            let counted = count_files(folder.path(), words).unwrap();
            assert_eq!((counted.lines, counted.words), (1_000, 10_000), "{words:?}");
        }
    }
}
