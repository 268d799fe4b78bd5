//! Topics, offsets and reading whole topics, on any broker.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication, TopicResult,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use crate::Error;
use crate::process::unique_marker;
use crate::wait::{Deadline, wait_for};

/// Of one request.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Of reading a whole topic.
const READ_LIMIT: Duration = Duration::from_secs(120);

/// A record read from a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The partition it was in.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Milliseconds since 1970, if it has a timestamp.
    pub timestamp: Option<i64>,
    /// The key, if it has one.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// The value as text; a missing one is empty, invalid UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }
}

/// Which records a consumer is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// All but those of transactions that are open or were aborted.
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

/// Makes, fills and reads topics. Every call blocks, within a deadline, and works inside and outside of
/// asynchronous code. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KafkaClient {
    bootstrap: String,
}

impl KafkaClient {
    /// A client of the broker at `bootstrap`, which is given as `bootstrap.servers` wants it. Connects to
    /// nothing yet.
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
        }
    }

    /// The broker's address.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// How many brokers the cluster has, as a broker answers within `within`.
    pub fn broker_count(&self, within: Duration) -> Result<usize, Error> {
        let consumer = self.consumer(&[])?;
        let metadata = consumer
            .fetch_metadata(None, within)
            .map_err(Error::kafka(format!(
                "ask {} for its metadata",
                self.bootstrap
            )))?;
        Ok(metadata.brokers().len())
    }

    /// Makes a topic, and waits until its partitions can be used.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), Error> {
        self.create_topic_with(name, partitions, &[])
    }

    /// Makes a topic with the given settings, such as `retention.ms`, and waits until its partitions can be used.
    pub fn create_topic_with(
        &self,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Result<(), Error> {
        let action = format!("create topic {name}");
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let results = block_on(self.admin()?.create_topics([&topic], &admin_options()));
        one_result(results, &action)?;
        self.await_partitions(name, partitions)
    }

    /// Makes a topic whose name begins with `prefix` and is nobody else's; gives the name.
    pub fn unique_topic(&self, prefix: &str, partitions: i32) -> Result<String, Error> {
        let name = format!("{prefix}-{}", unique_marker());
        self.create_topic(&name, partitions)?;
        Ok(name)
    }

    /// Deletes a topic, and waits until it is gone.
    pub fn delete_topic(&self, name: &str) -> Result<(), Error> {
        let results = block_on(self.admin()?.delete_topics(&[name], &admin_options()));
        one_result(results, &format!("delete topic {name}"))?;
        let consumer = self.consumer(&[])?;
        wait_for(REQUEST_LIMIT, &format!("topic {name} to be gone"), || {
            self.partitions_in(&consumer, name)
                .is_ok_and(|count| count == 0)
                .then_some(())
        })
    }

    /// Gives a topic more partitions, `total` in all, and waits until they can be used.
    pub fn add_partitions(&self, topic: &str, total: i32) -> Result<(), Error> {
        let action = format!("give topic {topic} {total} partitions");
        let partitions = usize::try_from(total)
            .map_err(|_| Error::Misuse(format!("{action}: a negative count")))?;
        let request = NewPartitions::new(topic, partitions);
        let results = block_on(
            self.admin()?
                .create_partitions([&request], &admin_options()),
        );
        one_result(results, &action)?;
        self.await_partitions(topic, total)
    }

    /// Deletes a partition's records below offset `before`.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<(), Error> {
        let action = format!("delete the records of {topic}[{partition}] below {before}");
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset(topic, partition, Offset::Offset(before))
            .map_err(Error::kafka(action.clone()))?;
        let deleted = block_on(self.admin()?.delete_records(&offsets, &admin_options()))
            .map_err(Error::kafka(action.clone()))?;
        for element in deleted.elements() {
            element.error().map_err(Error::kafka(action.clone()))?;
        }
        Ok(())
    }

    /// How many partitions a topic has; 0 if there is no such topic.
    pub fn partition_count(&self, topic: &str) -> Result<i32, Error> {
        let consumer = self.consumer(&[])?;
        self.partitions_in(&consumer, topic)
    }

    /// The offset after the last record (or transaction marker) of each partition.
    pub fn end_offsets(&self, topic: &str) -> Result<BTreeMap<i32, i64>, Error> {
        let ends = self.watermarks(topic)?.into_iter();
        Ok(ends.map(|(partition, (_, end))| (partition, end)).collect())
    }

    /// The offset of the first record that each partition still has.
    pub fn begin_offsets(&self, topic: &str) -> Result<BTreeMap<i32, i64>, Error> {
        let begins = self.watermarks(topic)?.into_iter();
        Ok(begins
            .map(|(partition, (begin, _))| (partition, begin))
            .collect())
    }

    /// The offsets that a consumer group has committed; a partition without one is left out.
    pub fn committed_offsets(&self, group: &str, topic: &str) -> Result<BTreeMap<i32, i64>, Error> {
        let consumer = self.consumer(&[("group.id", group)])?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..self.partitions_in(&consumer, topic)? {
            partitions.add_partition(topic, partition);
        }
        let committed = consumer
            .committed_offsets(partitions, REQUEST_LIMIT)
            .map_err(Error::kafka(format!(
                "read the offsets of group {group} on {topic}"
            )))?;
        let mut offsets = BTreeMap::new();
        for element in committed.elements() {
            if let Offset::Offset(offset) = element.offset() {
                offsets.insert(element.partition(), offset);
            }
        }
        Ok(offsets)
    }

    /// All records of a topic up to the ends that its partitions have now (for [`Isolation::ReadCommitted`],
    /// up to the first transaction that is open), by partition and offset.
    pub fn consume_all(&self, topic: &str, isolation: Isolation) -> Result<Vec<Record>, Error> {
        let level = match isolation {
            Isolation::ReadCommitted => "read_committed",
            Isolation::ReadUncommitted => "read_uncommitted",
        };
        let consumer =
            self.consumer(&[("isolation.level", level), ("enable.partition.eof", "true")])?;
        let action = format!("read topic {topic}");
        let mut assignment = TopicPartitionList::new();
        let mut unfinished = self.partitions_in(&consumer, topic)?;
        if unfinished == 0 {
            return Err(Error::Misuse(format!("{action}: there is no such topic")));
        }
        for partition in 0..unfinished {
            assignment
                .add_partition_offset(topic, partition, Offset::Beginning)
                .map_err(Error::kafka(action.clone()))?;
        }
        consumer
            .assign(&assignment)
            .map_err(Error::kafka(action.clone()))?;

        let deadline = Deadline::after(READ_LIMIT);
        let mut finished = vec![false; assignment.count()];
        let mut records = Vec::new();
        while unfinished > 0 {
            if deadline.has_passed() {
                let seen = format!(
                    "{} records read, {unfinished} partitions unfinished",
                    records.len()
                );
                return Err(deadline.error(format_args!("the end of topic {topic}"), seen));
            }
            match consumer.poll(Duration::from_millis(200)) {
                None => {}
                // Of a partition whose end was seen, what came later is not wanted.
                Some(Ok(message)) if is_set(&finished, message.partition()) => {}
                Some(Ok(message)) => records.push(record(&message)),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    let index = usize::try_from(partition).unwrap_or(usize::MAX);
                    if let Some(flag) = finished.get_mut(index).filter(|flag| !**flag) {
                        *flag = true;
                        unfinished -= 1;
                    }
                }
                Some(Err(error)) if is_passing(&error) => {}
                Some(Err(error)) => return Err(Error::kafka(action)(error)),
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        Ok(records)
    }

    fn watermarks(&self, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>, Error> {
        let consumer = self.consumer(&[])?;
        let count = self.partitions_in(&consumer, topic)?;
        if count == 0 {
            return Err(Error::Misuse(format!(
                "read the offsets of {topic}: there is no such topic"
            )));
        }
        let mut watermarks = BTreeMap::new();
        for partition in 0..count {
            let begin_and_end = consumer
                .fetch_watermarks(topic, partition, REQUEST_LIMIT)
                .map_err(Error::kafka(format!(
                    "read the offsets of {topic}[{partition}]"
                )))?;
            watermarks.insert(partition, begin_and_end);
        }
        Ok(watermarks)
    }

    fn await_partitions(&self, topic: &str, wanted: i32) -> Result<(), Error> {
        let consumer = self.consumer(&[])?;
        wait_for(
            REQUEST_LIMIT,
            &format!("the partitions of topic {topic}"),
            || {
                let count = self.partitions_in(&consumer, topic).unwrap_or(0);
                (count >= wanted).then_some(())
            },
        )
    }

    /// Counts a topic's partitions; waits until all have a leader. 0 if there is no such topic.
    fn partitions_in(&self, consumer: &BaseConsumer, topic: &str) -> Result<i32, Error> {
        wait_for(REQUEST_LIMIT, &format!("leaders of topic {topic}"), || {
            let metadata =
                consumer
                    .fetch_metadata(Some(topic), REQUEST_LIMIT)
                    .map_err(Error::kafka(format!(
                        "ask {} for topic {topic}",
                        self.bootstrap
                    )));
            match metadata {
                Ok(metadata) => usable_partitions(&metadata, topic).map(Ok),
                Err(error) => Some(Err(error)),
            }
        })?
    }

    fn consumer(&self, settings: &[(&str, &str)]) -> Result<BaseConsumer, Error> {
        let mut config = self.config();
        // A consumer without a group must have the setting all the same.
        config
            .set("group.id", "millstream-tests")
            .set("enable.auto.commit", "false");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        config.create().map_err(Error::kafka(format!(
            "make a consumer on {}",
            self.bootstrap
        )))
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, Error> {
        self.config().create().map_err(Error::kafka(format!(
            "make an admin client on {}",
            self.bootstrap
        )))
    }

    /// The settings that all clients share.
    pub(super) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        // A broker that is just starting should be found soon.
        config.set("reconnect.backoff.max.ms", "500");
        config
    }
}

/// `None` while a partition has no leader.
fn usable_partitions(metadata: &Metadata, topic: &str) -> Option<i32> {
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Some(0);
    };
    match found.error() {
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => return Some(0),
        Some(_) => return None,
        None => {}
    }
    if found
        .partitions()
        .iter()
        .any(|partition| partition.leader() < 0)
    {
        return None;
    }
    Some(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX))
}

fn record(message: &impl Message) -> Record {
    let mut headers = Vec::new();
    if let Some(given) = message.headers() {
        for header in given.iter() {
            headers.push((header.key.to_owned(), header.value.map(<[u8]>::to_vec)));
        }
    }
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

fn is_set(flags: &[bool], partition: i32) -> bool {
    let index = usize::try_from(partition).unwrap_or(usize::MAX);
    flags.get(index).copied().unwrap_or(false)
}

/// Errors that librdkafka reports and then gets over by itself.
fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
        )
    )
}

fn admin_options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(REQUEST_LIMIT))
        .operation_timeout(Some(REQUEST_LIMIT))
}

/// Makes one error of the two places where a request about one topic can fail.
fn one_result(results: Result<Vec<TopicResult>, KafkaError>, action: &str) -> Result<(), Error> {
    for result in results.map_err(Error::kafka(action))? {
        result.map_err(|(_, code)| Error::kafka(action)(KafkaError::AdminOp(code)))?;
    }
    Ok(())
}

/// Runs a future that librdkafka's own threads complete; its requests have time limits. A runtime's `block_on`
/// would panic inside of a test that is asynchronous itself.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
