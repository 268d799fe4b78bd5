//! The executor half of the Kafka source: reads offset ranges out of what the fetchers have read ahead.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millstream_common::{
    failure::{Failure, FailureKind},
    text::{Blob, Text},
    time::{Clock, Tick},
};
use millstream_dataflow::program::TaskContext;
use parking_lot::Mutex;
use rdkafka::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    OnDataLoss, Settings,
    buffer::{Chunk, Entry, Part},
    client,
    fetcher::{Fetcher, FetcherOptions, Opened, Step, Ticket},
    loss::{self, Bounds, Overdue},
    record::{Header, Record, TimestampKind},
};
use crate::{
    malformed::{self, OnMalformed},
    source::{More, SplitReader, SplitSource},
};

/// How long brokers may take to say what a partition has of which nothing came in time.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// A range of offsets of a topic partition; what a Kafka split is in the offset log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetRange {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// First offset.
    pub from: i64,
    /// Past the last offset.
    pub until: i64,
}

/// How often ranges were found read ahead; for metrics.
#[derive(Debug, Default)]
pub struct ReadAhead {
    /// Ranges that were here whole when their task began.
    pub buffered: AtomicU64,
    /// Ranges that were being fetched in order.
    pub partly: AtomicU64,
    /// Ranges for which the consumer had to be positioned.
    pub repositioned: AtomicU64,
}

/// One executor's consumers of a Kafka source.
pub struct KafkaSplits {
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    /// A fetcher that isn't used for long ends, and goes.
    fetchers: Mutex<HashMap<String, Weak<Fetcher>>>,
    read_ahead: Arc<ReadAhead>,
}

impl KafkaSplits {
    /// Consumers are made when the first split of their topic is opened.
    pub fn new(settings: Arc<Settings>, clock: Arc<dyn Clock>) -> Self {
        Self {
            settings,
            clock,
            fetchers: Mutex::new(HashMap::new()),
            read_ahead: Arc::default(),
        }
    }

    /// How often ranges were found read ahead.
    pub fn read_ahead(&self) -> Arc<ReadAhead> {
        Arc::clone(&self.read_ahead)
    }

    /// Begins to read a range, with a new consumer where the topic has none.
    fn begin(&self, range: &OffsetRange) -> Result<(Arc<Fetcher>, Opened, Ticket), Failure> {
        let mut fetchers = self.fetchers.lock();
        let begun = |fetcher: Arc<Fetcher>| {
            let (opened, ticket) = fetcher.open(range.partition, range.from, range.until)?;
            Some((fetcher, opened, ticket))
        };
        let known = fetchers.get(&range.topic).and_then(Weak::upgrade);
        if let Some(begun) = known.and_then(begun) {
            return Ok(begun);
        }
        fetchers.retain(|_, fetcher| fetcher.strong_count() > 0);
        let options = FetcherOptions {
            read_ahead_bytes: self.settings.read_ahead_bytes,
        };
        let fetcher = Fetcher::start(
            &self.settings.client(),
            &range.topic,
            options,
            Arc::clone(&self.clock),
        )?;
        fetchers.insert(range.topic.clone(), Arc::downgrade(&fetcher));
        begun(fetcher).ok_or_else(|| {
            Failure::new(
                FailureKind::Internal,
                format!("the consumer of topic {} was closed at once", range.topic),
            )
        })
    }
}

impl SplitSource<Vec<Record>> for KafkaSplits {
    fn open(
        &self,
        split: &Value,
        task: &TaskContext<'_>,
    ) -> Result<Box<dyn SplitReader<Vec<Record>>>, Failure> {
        let range: OffsetRange = OffsetRange::deserialize(split).map_err(|error| {
            Failure::caused_by(
                FailureKind::Internal,
                format!("a Kafka split was expected, not {split}"),
                &error,
            )
        })?;
        malformed::begin(self.settings.on_malformed);
        let (fetcher, opened, ticket) = self.begin(&range)?;
        let count = match opened {
            Opened::Buffered => &self.read_ahead.buffered,
            Opened::Partly => &self.read_ahead.partly,
            Opened::Repositioned => &self.read_ahead.repositioned,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let uncounted = (range.from < range.until).then_some(opened);
        let deadline = self.clock.now().after(task.input_deadline);
        Ok(Box::new(RangeReader {
            topic: Text::from(range.topic.as_str()),
            range,
            fetcher,
            ticket,
            settings: Arc::clone(&self.settings),
            clock: Arc::clone(&self.clock),
            deadline,
            end_confirmed: false,
            uncounted,
        }))
    }

    fn close(&self) {
        for (_, fetcher) in self.fetchers.lock().drain() {
            if let Some(fetcher) = fetcher.upgrade() {
                fetcher.close();
            }
        }
    }
}

impl Drop for KafkaSplits {
    fn drop(&mut self) {
        self.close();
    }
}

struct RangeReader {
    topic: Text,
    range: OffsetRange,
    fetcher: Arc<Fetcher>,
    ticket: Ticket,
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    deadline: Tick,
    /// The leader had all of the range, and fetching began anew since.
    end_confirmed: bool,
    /// How the range was found, until the task's counts have it.
    uncounted: Option<Opened>,
}

impl SplitReader<Vec<Record>> for RangeReader {
    fn next(
        &mut self,
        chunk: &mut Vec<Record>,
        task: &mut TaskContext<'_>,
    ) -> Result<More, Failure> {
        task.counts.malformed += malformed::take_count();
        match self.uncounted.take() {
            Some(Opened::Buffered) => task.counts.kafka_ranges_buffered += 1,
            Some(Opened::Partly | Opened::Repositioned) => task.counts.kafka_ranges_awaited += 1,
            None => {}
        }
        task.cancel.check()?;
        let range = &self.range;
        match self.fetcher.step(range.partition, self.ticket, range.until) {
            Step::Chunk(fetched) => {
                self.deadline = self.clock.now().after(task.input_deadline);
                self.deliver(&fetched, chunk, task)?;
                Ok(More::Yes)
            }
            Step::End => Ok(More::No),
            Step::Dry { position } => self.look_into_end(position),
            Step::OutOfRange { position } => self.look_into_loss(position),
            Step::Timeout { position } if self.is_overdue() => self.look_into_delay(position),
            Step::Timeout { .. } => Ok(More::Yes),
            Step::Superseded => Err(Failure::new(
                FailureKind::Superseded,
                format!(
                    "offsets {} to {} of {}/{}: another task of this executor reads the partition now",
                    range.from, range.until, range.topic, range.partition
                ),
            )),
        }
    }
}

impl Drop for RangeReader {
    fn drop(&mut self) {
        self.fetcher.finish(self.range.partition, self.ticket);
    }
}

impl RangeReader {
    /// An end-of-partition is only a hint: it may have been queued before the range was planned. One that came after the leader
    /// was seen to have all of the range, and still has it, means that the range's last offsets are no records.
    fn look_into_end(&mut self, position: i64) -> Result<More, Failure> {
        let partition = self.range.partition;
        let has_end = match self.fetcher.ask_offsets(partition) {
            Ok((_, next)) => next >= self.range.until,
            Err(failure) => {
                tracing::debug!(%failure, "whether a range is at its end can't be asked for");
                false
            }
        };
        if has_end && self.end_confirmed {
            self.fetcher
                .conclude(partition, self.ticket, self.range.until);
            return Ok(More::No);
        }
        if self.is_overdue() {
            return self.look_into_delay(position);
        }
        self.end_confirmed = has_end;
        tracing::debug!(topic = %self.topic, partition, position, has_end, "fetching again to see the range's end");
        self.fetcher.refetch(partition, self.ticket);
        Ok(More::Yes)
    }

    fn look_into_loss(&mut self, position: i64) -> Result<More, Failure> {
        let partition = self.range.partition;
        let (oldest, end) = self.fetcher.ask_offsets(partition)?;
        if position >= oldest && position <= end {
            if self.is_overdue() {
                return self.look_into_delay(position);
            }
            self.fetcher.skip_to(partition, self.ticket, position);
            return Ok(More::Yes);
        }
        self.accept_loss(loss::out_of_range(
            &self.range,
            position,
            Bounds { oldest, end },
        ))?;
        if oldest >= self.range.until || oldest < position {
            return Ok(More::No);
        }
        self.fetcher.skip_to(partition, self.ticket, oldest);
        Ok(More::Yes)
    }

    /// Nothing more came in time: the brokers are slow or away, or have the range no more.
    fn look_into_delay(&self, position: i64) -> Result<More, Failure> {
        let OffsetRange {
            topic, partition, ..
        } = &self.range;
        let log = match client::log_bounds(&self.settings.client(), topic, *partition, LAST_LOOK) {
            Ok(log) => log,
            Err(error) => {
                tracing::debug!(%topic, partition, %error, "a range is late, and its partition's offsets can't be asked for");
                return Err(self.late());
            }
        };
        match loss::overdue(&self.range, position, log, self.settings.on_data_loss) {
            Overdue::Late => Err(self.late()),
            Overdue::Lost | Overdue::Ends => {
                self.accept_loss(loss::end_is_gone(&self.range, log))?;
                Ok(More::No)
            }
        }
    }

    fn accept_loss(&self, failure: Failure) -> Result<(), Failure> {
        if self.settings.on_data_loss == OnDataLoss::Fail {
            return Err(failure);
        }
        tracing::warn!(%failure, "input is lost; going on with what is there");
        Ok(())
    }

    fn is_overdue(&self) -> bool {
        self.clock.now() >= self.deadline
    }

    fn late(&self) -> Failure {
        let OffsetRange {
            topic,
            partition,
            from,
            until,
        } = &self.range;
        Failure::new(
            FailureKind::Io,
            format!(
                "offsets {from} to {until} of {topic}/{partition} did not come from the broker in time; see that the broker is reachable from this executor, or raise kafka.range_timeout"
            ),
        )
    }

    fn deliver(
        &self,
        fetched: &Chunk,
        rows: &mut Vec<Record>,
        task: &mut TaskContext<'_>,
    ) -> Result<(), Failure> {
        rows.reserve(fetched.entries.len());
        for entry in &fetched.entries {
            let record = self.record(&fetched.bytes, entry)?;
            task.counts.input_rows += 1;
            task.counts.kafka_records += 1;
            task.counts.input_bytes += record.value.as_ref().map_or(0, |value| value.len() as u64);
            if let Some(too_long) = self.too_long(&record) {
                match self.settings.on_malformed {
                    OnMalformed::Drop => malformed::count(),
                    OnMalformed::Fail | OnMalformed::Replace => return Err(too_long),
                }
                continue;
            }
            if self.settings.on_malformed == OnMalformed::Drop && !is_text(&record) {
                malformed::count();
                continue;
            }
            rows.push(record);
        }
        Ok(())
    }

    fn too_long(&self, record: &Record) -> Option<Failure> {
        let length = record.value.as_ref().map_or(0, |value| value.len());
        if length <= self.settings.max_record_bytes {
            return None;
        }
        Some(Failure::new(
            FailureKind::BadInput,
            format!(
                "the record at offset {} of {}/{} has {length} bytes, more than input.max_record_bytes = {}; raise it, or set input.on_malformed to `drop`",
                record.offset, self.topic, self.range.partition, self.settings.max_record_bytes
            ),
        ))
    }

    fn record(&self, bytes: &Blob, entry: &Entry) -> Result<Record, Failure> {
        let part = |part: &Part| {
            bytes
                .get_slice(part.start as usize, part.end as usize)
                .ok_or_else(|| {
                    Failure::new(
                        FailureKind::Internal,
                        format!("record at offset {} lies outside its chunk", entry.offset),
                    )
                })
        };
        let optional = |given: &Option<Part>| given.as_ref().map(part).transpose();
        let mut headers = Vec::with_capacity(entry.headers.len());
        for (name, value) in &*entry.headers {
            headers.push(Header {
                key: part(name)?.to_text_lossy(),
                value: optional(value)?,
            });
        }
        let (timestamp, timestamp_kind) = match entry.timestamp {
            Timestamp::NotAvailable => (None, TimestampKind::None),
            Timestamp::CreateTime(millis) => (Some(millis), TimestampKind::Created),
            Timestamp::LogAppendTime(millis) => (Some(millis), TimestampKind::Appended),
        };
        Ok(Record {
            topic: self.topic.clone(),
            partition: self.range.partition,
            offset: entry.offset,
            timestamp,
            timestamp_kind,
            key: optional(&entry.key)?,
            value: optional(&entry.value)?,
            headers,
        })
    }
}

fn is_text(record: &Record) -> bool {
    record
        .value
        .as_ref()
        .is_none_or(|value| std::str::from_utf8(value).is_ok())
}
