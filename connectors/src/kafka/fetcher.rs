//! One consumer and its thread: fills the partition buffers of one topic, ahead of the tasks that read them.
//!
//! A consumer serves one topic, because its errors and its end-of-partition events name only a partition number.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use millstream_common::{
    failure::{Failure, FailureKind},
    text::Blob,
    time::{Clock, Tick},
};
use parking_lot::{Condvar, Mutex};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers},
};

use super::buffer::{Chunk, Entry, Part, PartitionBuffer, Taken};

/// A chunk is handed over at this many records...
const CHUNK_RECORDS: usize = 1_024;
/// ... or this many bytes.
const CHUNK_BYTES: usize = 256 * 1024;
/// The longest that a command waits for the polling thread.
const POLL: Duration = Duration::from_millis(10);
/// The longest that a task sleeps before it looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(100);
/// A partition that no task has read for so long is let go of: its tasks run elsewhere.
const IDLE: Duration = Duration::from_secs(60);
/// How long a broker may take to answer a question about offsets or a seek.
const ASK: Duration = Duration::from_secs(10);

/// Limits of a fetcher.
#[derive(Clone, Copy, Debug)]
pub struct FetcherOptions {
    /// Bytes that a partition's buffer may hold ahead of its reader.
    pub read_ahead_bytes: usize,
}

/// Reads ahead for the partitions of one topic.
pub struct Fetcher {
    topic: String,
    consumer: BaseConsumer,
    options: FetcherOptions,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Signals readers: records came, or the end was reached.
    filled: Condvar,
    /// Signals the polling thread: room was made, or there is a command.
    wanted: Condvar,
}

#[derive(Default)]
struct State {
    partitions: BTreeMap<i32, Slot>,
    commands: VecDeque<Command>,
    closed: bool,
}

struct Slot {
    buffer: PartitionBuffer,
    /// Tasks that wait for records.
    waiting: u32,
    paused: bool,
    last_used: Tick,
    /// The broker doesn't have the wanted offset any more.
    out_of_range: bool,
}

enum Command {
    /// Fetch the partition from this offset on, under its buffer's generation.
    Seek {
        partition: i32,
        offset: i64,
        generation: u64,
    },
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
    Timeout,
    /// The broker has no more records than up to `position`.
    Dry {
        /// The next offset to fetch.
        position: i64,
    },
    /// The broker no longer has the record at `position`.
    OutOfRange {
        /// The next offset to fetch.
        position: i64,
    },
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
        let consumer: BaseConsumer = config.create().map_err(|error| {
            Failure::caused_by(
                FailureKind::Io,
                format!("could not make a Kafka consumer for topic {topic}"),
                &error,
            )
        })?;
        let fetcher = Arc::new(Self {
            topic: topic.to_owned(),
            consumer,
            options,
            clock,
            state: Mutex::new(State::default()),
            filled: Condvar::new(),
            wanted: Condvar::new(),
        });
        let polling = Arc::clone(&fetcher);
        std::thread::Builder::new()
            .name(format!("kafka-{topic}"))
            .spawn(move || polling.poll_until_closed())
            .map_err(|error| {
                Failure::caused_by(
                    FailureKind::Io,
                    "could not start the Kafka polling thread",
                    &error,
                )
            })?;
        Ok(fetcher)
    }

    /// Begins to read a range at `from`.
    pub fn open(&self, partition: i32, from: i64, until: i64) -> Opened {
        let mut state = self.state.lock();
        let now = self.clock.now();
        if let Some(slot) = state.partitions.get_mut(&partition) {
            slot.last_used = now;
            if slot.buffer.advance_to(from) && !slot.out_of_range {
                return if slot.buffer.holds_until(until) {
                    Opened::Buffered
                } else {
                    Opened::Partly
                };
            }
        }
        self.reposition(&mut state, partition, from);
        Opened::Repositioned
    }

    fn reposition(&self, state: &mut State, partition: i32, offset: i64) {
        let now = self.clock.now();
        let slot = state.partitions.entry(partition).or_insert_with(|| Slot {
            buffer: PartitionBuffer::default(),
            waiting: 0,
            paused: false,
            last_used: now,
            out_of_range: false,
        });
        slot.buffer.reposition(offset);
        slot.out_of_range = false;
        let generation = slot.buffer.generation();
        state.commands.push_back(Command::Seek {
            partition,
            offset,
            generation,
        });
        self.wanted.notify_one();
    }

    /// Skips to `offset`: what is before it is lost.
    pub fn skip_to(&self, partition: i32, offset: i64) {
        let mut state = self.state.lock();
        self.reposition(&mut state, partition, offset);
    }

    /// Fetches again from where the buffer ends, so that an end-of-partition that comes after it is a new one.
    pub fn refetch(&self, partition: i32) {
        let mut state = self.state.lock();
        if let Some(slot) = state.partitions.get_mut(&partition) {
            let offset = slot.buffer.refetch();
            let generation = slot.buffer.generation();
            state.commands.push_back(Command::Seek {
                partition,
                offset,
                generation,
            });
            self.wanted.notify_one();
        }
    }

    /// The next records of the range that was opened, waiting at most about a tenth of a second.
    pub fn step(&self, partition: i32, until: i64) -> Step {
        let mut state = self.state.lock();
        for last_try in [false, true] {
            let Some(slot) = state.partitions.get_mut(&partition) else {
                return Step::Timeout;
            };
            slot.last_used = self.clock.now();
            match slot.buffer.take(until) {
                Taken::Chunk(chunk) => {
                    self.wanted.notify_one();
                    return Step::Chunk(chunk);
                }
                Taken::End => return Step::End,
                Taken::Wait | Taken::Dry { .. } if slot.out_of_range => {
                    return Step::OutOfRange {
                        position: slot.buffer.position(),
                    };
                }
                Taken::Dry { position } => return Step::Dry { position },
                Taken::Wait if last_try => return Step::Timeout,
                Taken::Wait => {}
            }
            slot.waiting += 1;
            self.wanted.notify_one();
            self.filled.wait_for(&mut state, LOOK);
            if let Some(slot) = state.partitions.get_mut(&partition) {
                slot.waiting -= 1;
            }
        }
        Step::Timeout
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
        self.state.lock().closed = true;
        self.wanted.notify_all();
        self.filled.notify_all();
    }

    fn poll_until_closed(&self) {
        let mut pending: HashMap<i32, Pending> = HashMap::new();
        let mut wait = Duration::ZERO;
        loop {
            if !self.obey(&mut pending) {
                return;
            }
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    wait = Duration::ZERO;
                    let partition = message.partition();
                    if let Some(pending) = pending.get_mut(&partition) {
                        pending.add(&message);
                        if pending.is_full() {
                            self.hand_over(partition, pending);
                        }
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Some(pending) = pending.get_mut(&partition) {
                        self.hand_over(partition, pending);
                        self.end_reached(partition, pending);
                    }
                }
                Some(Err(error)) => self.trouble(&error),
                None => {
                    for (partition, pending) in &mut pending {
                        self.hand_over(*partition, pending);
                    }
                    wait = POLL;
                }
            }
        }
    }

    /// Carries out commands and waits for room; `false` once closed.
    fn obey(&self, pending: &mut HashMap<i32, Pending>) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return false;
            }
            let commands = std::mem::take(&mut state.commands);
            if !commands.is_empty() {
                // Seeking waits for the client's own thread: not under the lock.
                parking_lot::MutexGuard::unlocked(&mut state, || {
                    for command in commands {
                        self.carry_out(command, pending);
                    }
                });
                continue;
            }
            let full = |slot: &Slot| slot.buffer.bytes() >= self.options.read_ahead_bytes;
            let starving = state
                .partitions
                .values()
                .any(|slot| slot.waiting > 0 && slot.buffer.bytes() == 0);
            if !starving
                && state
                    .partitions
                    .values()
                    .any(|slot| full(slot) && !slot.paused)
            {
                // Nobody waits for anything that a poll could bring: let the readers catch up.
                self.wanted.wait_for(&mut state, LOOK);
                continue;
            }
            self.pause_and_resume(&mut state);
            self.let_go_of_idle(&mut state, pending);
            return true;
        }
    }

    /// A full partition is paused only while another one's reader starves; pausing throws away what the client has prefetched.
    fn pause_and_resume(&self, state: &mut State) {
        let limit = self.options.read_ahead_bytes;
        for (partition, slot) in &mut state.partitions {
            let bytes = slot.buffer.bytes();
            let pause = if slot.paused {
                bytes >= limit / 2
            } else {
                bytes >= limit
            };
            if pause == slot.paused {
                continue;
            }
            let mut list = TopicPartitionList::new();
            list.add_partition(&self.topic, *partition);
            let outcome = if pause {
                self.consumer.pause(&list)
            } else {
                self.consumer.resume(&list)
            };
            match outcome {
                Ok(()) => slot.paused = pause,
                Err(error) => {
                    tracing::debug!(topic = self.topic, partition, %error, "could not pause or resume")
                }
            }
        }
    }

    fn let_go_of_idle(&self, state: &mut State, pending: &mut HashMap<i32, Pending>) {
        let now = self.clock.now();
        let idle = |slot: &Slot| slot.waiting == 0 && now.since(slot.last_used) > IDLE;
        let partitions: Vec<i32> = state
            .partitions
            .iter()
            .filter(|(_, slot)| idle(slot))
            .map(|(partition, _)| *partition)
            .collect();
        for partition in partitions {
            let mut list = TopicPartitionList::new();
            list.add_partition(&self.topic, partition);
            if let Err(error) = self.consumer.incremental_unassign(&list) {
                tracing::debug!(topic = self.topic, partition, %error, "could not unassign an idle partition");
            }
            pending.remove(&partition);
            state.partitions.remove(&partition);
        }
    }

    fn carry_out(&self, command: Command, pending: &mut HashMap<i32, Pending>) {
        let Command::Seek {
            partition,
            offset,
            generation,
        } = command;
        let assigned = pending.contains_key(&partition);
        pending.insert(partition, Pending::new(generation));
        if assigned
            && self
                .consumer
                .seek(&self.topic, partition, Offset::Offset(offset), ASK)
                .is_ok()
        {
            return;
        }
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        if assigned && let Err(error) = self.consumer.incremental_unassign(&list) {
            tracing::debug!(topic = self.topic, partition, %error, "could not unassign before a seek");
        }
        let mut list = TopicPartitionList::new();
        let assigning = list
            .add_partition_offset(&self.topic, partition, Offset::Offset(offset))
            .and_then(|()| self.consumer.incremental_assign(&list));
        if let Err(error) = assigning {
            tracing::warn!(topic = self.topic, partition, offset, %error, "could not position the Kafka consumer");
        }
        if let Some(slot) = self.state.lock().partitions.get_mut(&partition) {
            slot.paused = false;
        }
    }

    fn hand_over(&self, partition: i32, pending: &mut Pending) {
        let Some(chunk) = pending.take() else {
            return;
        };
        let mut state = self.state.lock();
        if let Some(slot) = state.partitions.get_mut(&partition) {
            slot.buffer.push(pending.generation, chunk);
            if slot.waiting > 0 {
                self.filled.notify_all();
            }
        }
    }

    fn end_reached(&self, partition: i32, pending: &Pending) {
        // The client's position moves over transaction markers; before a record of this generation was given it may still be an older one.
        let position = if pending.gave_records {
            self.client_position(partition)
        } else {
            None
        };
        let mut state = self.state.lock();
        if let Some(slot) = state.partitions.get_mut(&partition) {
            if let Some(position) = position {
                slot.buffer.skip_to(pending.generation, position);
            }
            slot.buffer.end_reached(pending.generation);
            self.filled.notify_all();
        }
    }

    fn client_position(&self, partition: i32) -> Option<i64> {
        let positions = self.consumer.position().ok()?;
        let element = positions.find_partition(&self.topic, partition)?;
        match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    fn trouble(&self, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        if matches!(
            code,
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
        ) {
            // The event doesn't say which partition: those whose task waits look for themselves.
            let mut state = self.state.lock();
            for slot in state.partitions.values_mut() {
                slot.out_of_range = slot.out_of_range || slot.waiting > 0;
            }
            self.filled.notify_all();
        }
        tracing::warn!(topic = self.topic, %error, "Kafka consumer reports");
    }
}

/// Records of one partition on their way into a chunk.
struct Pending {
    generation: u64,
    gave_records: bool,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Pending {
    fn new(generation: u64) -> Self {
        Self {
            generation,
            gave_records: false,
            bytes: Vec::new(),
            entries: Vec::new(),
        }
    }

    fn add(&mut self, message: &BorrowedMessage<'_>) {
        let key = message.key().map(|key| self.append(key));
        let value = message.payload().map(|value| self.append(value));
        let mut headers = Vec::new();
        if let Some(given) = message.headers() {
            for header in given.iter() {
                let name = self.append(header.key.as_bytes());
                let value = header.value.map(|value| self.append(value));
                headers.push((name, value));
            }
        }
        let timestamp = message.timestamp().to_millis();
        self.entries.push(Entry {
            offset: message.offset(),
            timestamp,
            key,
            value,
            headers,
        });
        self.gave_records = true;
    }

    fn append(&mut self, part: &[u8]) -> Part {
        let start = to_u32(self.bytes.len());
        self.bytes.extend_from_slice(part);
        Part {
            start,
            end: to_u32(self.bytes.len()),
        }
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= CHUNK_RECORDS || self.bytes.len() >= CHUNK_BYTES
    }

    fn take(&mut self) -> Option<Chunk> {
        if self.entries.is_empty() {
            return None;
        }
        let entries = std::mem::replace(&mut self.entries, Vec::with_capacity(CHUNK_RECORDS));
        let room = self.bytes.len();
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(room));
        Some(Chunk {
            bytes: Blob::from_vec(bytes),
            entries,
        })
    }
}

/// A chunk is full long before 4 GiB; one record's size is limited by the protocol to 2 GiB.
fn to_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
