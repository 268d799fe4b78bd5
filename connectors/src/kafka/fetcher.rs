//! One consumer and what it fetched of one topic, ahead of the tasks that read it. This is the tasks' side; the `polling` thread fills the buffers.
//!
//! A consumer serves one topic, because its errors and its end-of-partition events name only a partition number.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use millstream_common::{
    failure::{Failure, FailureKind},
    time::{Clock, Tick},
};
use parking_lot::{Condvar, Mutex};
use rdkafka::{ClientConfig, consumer::Consumer as _};

use super::client::{self, Consumer};
use super::{
    buffer::{Chunk, PartitionBuffer, Taken},
    polling,
};

/// The longest that a task sleeps before it looks whether it was cancelled.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// How long a task waits for records after the broker said that there are none, before it asks why. Records that were just
/// written take less.
const DRY: Duration = Duration::from_millis(50);
/// How long a broker may take to answer a question about offsets or a seek.
pub(super) const ASK: Duration = Duration::from_secs(10);

/// Limits of a fetcher.
#[derive(Clone, Copy, Debug)]
pub struct FetcherOptions {
    /// Bytes that a partition's buffer may hold ahead of its reader.
    pub read_ahead_bytes: usize,
}

/// Reads ahead for the partitions of one topic.
pub struct Fetcher {
    pub(super) topic: String,
    pub(super) consumer: Consumer,
    pub(super) options: FetcherOptions,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) state: Mutex<State>,
    /// Signals the polling thread: room was made, or there is a command.
    pub(super) wanted: Condvar,
}

pub(super) struct State {
    pub partitions: BTreeMap<i32, Slot>,
    pub commands: VecDeque<Seek>,
    pub closed: bool,
    /// When a range was last opened.
    pub last_opened: Tick,
    tickets: u64,
}

pub(super) struct Slot {
    pub buffer: PartitionBuffer,
    /// Whose range is being read; a newer range of the partition takes it from an older one.
    pub reader: Option<Ticket>,
    /// Whether the reader waits for records.
    pub waiting: bool,
    /// Signals the reader: records came, or the end was reached.
    pub filled: Arc<Condvar>,
    pub paused: bool,
    pub last_used: Tick,
    /// The consumer reported an offset that is not there, and it may have been this partition's.
    pub suspect: bool,
}

impl Slot {
    /// A task waits and nothing is here for it.
    pub fn is_starving(&self) -> bool {
        self.waiting && self.buffer.is_empty()
    }
}

/// Who reads a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// A command: fetch the partition from this offset on, under its buffer's generation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seek {
    pub partition: i32,
    pub offset: i64,
    pub generation: u64,
}

/// How a range's reading began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// All of the range was here already.
    Buffered,
    /// Fetching goes on where it was.
    Partly,
    /// The consumer had to be positioned.
    Repositioned,
}

/// What the next step of a range gave.
#[derive(Debug)]
pub enum Step {
    /// Records.
    Chunk(Chunk),
    /// The range is at its end.
    End,
    /// Nothing came within the time given.
    Timeout {
        /// The next offset to fetch.
        position: i64,
    },
    /// The broker has no more records than up to `position`.
    Dry {
        /// The next offset to fetch.
        position: i64,
    },
    /// The broker may no longer have the record at `position`.
    OutOfRange {
        /// The next offset to fetch.
        position: i64,
    },
    /// Another task began to read the partition.
    Superseded,
}

impl Fetcher {
    /// Starts a consumer of `topic` and its thread.
    ///
    /// # Errors
    /// When the client's properties are wrong or the thread can't be started.
    pub fn start(
        config: &ClientConfig,
        topic: &str,
        options: FetcherOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, Failure> {
        let fetcher = Arc::new(Self::new(config, topic, options, clock)?);
        let polling = Arc::clone(&fetcher);
        std::thread::Builder::new()
            .name(format!("kafka-{topic}"))
            .spawn(move || polling::run(&polling))
            .map_err(|error| {
                Failure::caused_by(
                    FailureKind::Io,
                    "could not start the Kafka polling thread",
                    &error,
                )
            })?;
        Ok(fetcher)
    }

    /// One without a thread.
    pub(super) fn new(
        config: &ClientConfig,
        topic: &str,
        options: FetcherOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Failure> {
        let consumer = client::consumer(config).map_err(|error| {
            Failure::caused_by(
                FailureKind::Io,
                format!("could not make a Kafka consumer for topic {topic}"),
                &error,
            )
        })?;
        let last_opened = clock.now();
        Ok(Self {
            topic: topic.to_owned(),
            consumer,
            options,
            clock,
            state: Mutex::new(State {
                partitions: BTreeMap::new(),
                commands: VecDeque::new(),
                closed: false,
                last_opened,
                tickets: 0,
            }),
            wanted: Condvar::new(),
        })
    }

    /// Begins to read a range at `from`. What an older reader of the partition would still take is taken from it.
    /// `None` once the fetcher is closed.
    pub fn open(&self, partition: i32, from: i64, until: i64) -> Option<(Opened, Ticket)> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        state.tickets += 1;
        let ticket = Ticket(state.tickets);
        let now = self.clock.now();
        state.last_opened = now;
        if let Some(slot) = state.partitions.get_mut(&partition) {
            slot.last_used = now;
            slot.reader = Some(ticket);
            slot.filled.notify_all();
            if !slot.suspect && slot.buffer.advance_to(from) {
                let opened = if slot.buffer.holds_until(until) {
                    Opened::Buffered
                } else {
                    Opened::Partly
                };
                return Some((opened, ticket));
            }
        }
        self.reposition(&mut state, partition, from, ticket);
        Some((Opened::Repositioned, ticket))
    }

    fn reposition(&self, state: &mut State, partition: i32, offset: i64, ticket: Ticket) {
        let now = self.clock.now();
        let slot = state.partitions.entry(partition).or_insert_with(|| Slot {
            buffer: PartitionBuffer::default(),
            reader: None,
            waiting: false,
            filled: Arc::new(Condvar::new()),
            paused: false,
            last_used: now,
            suspect: false,
        });
        slot.reader = Some(ticket);
        slot.buffer.reposition(offset);
        slot.suspect = false;
        let generation = slot.buffer.generation();
        state.commands.push_back(Seek {
            partition,
            offset,
            generation,
        });
        self.wanted.notify_one();
    }

    /// Skips to `offset`: what is before it is lost.
    pub fn skip_to(&self, partition: i32, ticket: Ticket, offset: i64) {
        let mut state = self.state.lock();
        if is_reader(&state, partition, ticket) {
            self.reposition(&mut state, partition, offset, ticket);
        }
    }

    /// Fetches again from where the buffer ends, so that an end-of-partition that comes after it is a new one.
    pub fn refetch(&self, partition: i32, ticket: Ticket) {
        let mut state = self.state.lock();
        if !is_reader(&state, partition, ticket) {
            return;
        }
        if let Some(slot) = state.partitions.get_mut(&partition) {
            let offset = slot.buffer.refetch();
            let generation = slot.buffer.generation();
            state.commands.push_back(Seek {
                partition,
                offset,
                generation,
            });
            self.wanted.notify_one();
        }
    }

    /// The range has no more records below `until`, though none at or past it came yet.
    pub fn conclude(&self, partition: i32, ticket: Ticket, until: i64) {
        let mut state = self.state.lock();
        if !is_reader(&state, partition, ticket) {
            return;
        }
        if let Some(slot) = state.partitions.get_mut(&partition) {
            slot.buffer.skip_to(slot.buffer.generation(), until);
        }
    }

    /// The range is read no more; what was read ahead stays for the next one.
    pub fn finish(&self, partition: i32, ticket: Ticket) {
        let mut state = self.state.lock();
        if !is_reader(&state, partition, ticket) {
            return;
        }
        if let Some(slot) = state.partitions.get_mut(&partition) {
            slot.reader = None;
            slot.last_used = self.clock.now();
        }
    }

    /// The next records of the range that was opened, waiting at most about a tenth of a second.
    pub fn step(&self, partition: i32, ticket: Ticket, until: i64) -> Step {
        let mut state = self.state.lock();
        let mut last_try = false;
        loop {
            let Some(slot) = state.partitions.get_mut(&partition) else {
                return Step::Superseded;
            };
            if slot.reader != Some(ticket) {
                return Step::Superseded;
            }
            let patience = match slot.buffer.take(until) {
                Taken::Chunk(chunk) => {
                    self.wanted.notify_one();
                    return Step::Chunk(chunk);
                }
                Taken::End => return Step::End,
                Taken::Wait | Taken::Dry { .. } if slot.suspect => {
                    return Step::OutOfRange {
                        position: slot.buffer.position(),
                    };
                }
                Taken::Dry { position } if last_try => return Step::Dry { position },
                Taken::Wait if last_try => {
                    return Step::Timeout {
                        position: slot.buffer.position(),
                    };
                }
                Taken::Dry { .. } => DRY,
                Taken::Wait => LOOK,
            };
            slot.waiting = true;
            let filled = Arc::clone(&slot.filled);
            self.wanted.notify_one();
            filled.wait_for(&mut state, patience);
            if let Some(slot) = state.partitions.get_mut(&partition)
                && slot.reader == Some(ticket)
            {
                slot.waiting = false;
            }
            last_try = true;
        }
    }

    /// The oldest and the next offset of the partition, asked of its leader. Under `read_committed` the next offset is the last stable one.
    ///
    /// # Errors
    /// When the broker doesn't answer.
    pub fn ask_offsets(&self, partition: i32) -> Result<(i64, i64), Failure> {
        self.consumer
            .fetch_watermarks(&self.topic, partition, ASK)
            .map_err(|error| {
                let what = format!(
                    "could not ask the broker for the offsets of {}/{partition}",
                    self.topic
                );
                Failure::caused_by(FailureKind::Io, what, &error)
            })
    }

    /// Ends the thread; what is buffered is dropped.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for slot in state.partitions.values() {
            slot.filled.notify_all();
        }
        self.wanted.notify_all();
    }
}

fn is_reader(state: &State, partition: i32, ticket: Ticket) -> bool {
    state
        .partitions
        .get(&partition)
        .is_some_and(|slot| slot.reader == Some(ticket))
}
