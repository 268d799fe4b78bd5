//! Writing to topics, plain and in transactions. Every call returns only when the broker has confirmed all.

use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::KafkaClient;
use super::client::REQUEST_LIMIT;
use crate::Error;
use crate::process::unique_marker;
use crate::wait::Deadline;

/// Of writing one call's records.
const WRITE_LIMIT: Duration = Duration::from_secs(120);

/// A record to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// The partition; `None` lets the key decide.
    pub partition: Option<i32>,
    /// Milliseconds since 1970; `None` is now.
    pub timestamp: Option<i64>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl NewRecord {
    /// A record with this value and nothing else.
    pub fn value(value: impl Into<Vec<u8>>) -> Self {
        Self {
            value: Some(value.into()),
            ..Self::default()
        }
    }
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a commit.
    Commit,
    /// With an abort.
    Abort,
}

/// A transaction whose records are written, and which nobody has ended; the broker aborts it in a minute.
pub struct OpenTransaction {
    producer: BaseProducer<FirstFailure>,
    topic: String,
}

impl OpenTransaction {
    /// Ends it.
    pub fn end(self, outcome: Outcome) -> Result<(), Error> {
        let Self { producer, topic } = self;
        let action = |step: &str| Error::kafka(format!("{step} a transaction on topic {topic}"));
        match outcome {
            Outcome::Commit => producer
                .commit_transaction(REQUEST_LIMIT)
                .map_err(action("commit")),
            Outcome::Abort => producer
                .abort_transaction(REQUEST_LIMIT)
                .map_err(action("abort")),
        }
    }
}

/// Keeps the first delivery that failed.
#[derive(Default)]
struct FirstFailure(Mutex<Option<KafkaError>>);

impl ClientContext for FirstFailure {}

impl ProducerContext for FirstFailure {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().get_or_insert_with(|| error.clone());
        }
    }
}

impl KafkaClient {
    /// Writes lines, in order, to one partition.
    pub fn produce_lines<L: AsRef<[u8]>>(
        &self,
        topic: &str,
        partition: i32,
        lines: impl IntoIterator<Item = L>,
    ) -> Result<(), Error> {
        let producer = self.producer(&[("linger.ms", "5"), ("compression.type", "lz4")])?;
        let deadline = Deadline::after(WRITE_LIMIT);
        for line in lines {
            let record = BaseRecord::<[u8], [u8]>::to(topic)
                .partition(partition)
                .payload(line.as_ref());
            enqueue(&producer, record, topic, deadline)?;
        }
        flush(&producer, topic, deadline)
    }

    /// Writes records, in order.
    pub fn produce(&self, topic: &str, records: &[NewRecord]) -> Result<(), Error> {
        let producer = self.producer(&[])?;
        write(&producer, topic, records)
    }

    /// Writes records in one transaction of its own, and ends it. Either end leaves a marker at the end of
    /// each partition written to, which takes up one offset but is no record.
    pub fn produce_transaction(
        &self,
        topic: &str,
        records: &[NewRecord],
        outcome: Outcome,
    ) -> Result<(), Error> {
        self.open_transaction(topic, records)?.end(outcome)
    }

    /// Writes records in one transaction, which stays open.
    pub fn open_transaction(
        &self,
        topic: &str,
        records: &[NewRecord],
    ) -> Result<OpenTransaction, Error> {
        let id = format!("millstream-tests-{}", unique_marker());
        let action = |step: &str| Error::kafka(format!("{step} a transaction on topic {topic}"));
        let producer = self.producer(&[("transactional.id", id.as_str())])?;
        producer
            .init_transactions(REQUEST_LIMIT)
            .map_err(action("prepare"))?;
        producer.begin_transaction().map_err(action("begin"))?;
        write(&producer, topic, records)?;
        Ok(OpenTransaction {
            producer,
            topic: topic.to_owned(),
        })
    }

    fn producer(&self, settings: &[(&str, &str)]) -> Result<BaseProducer<FirstFailure>, Error> {
        let mut config = self.config();
        config
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "60000");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        BaseProducer::from_config_and_context(&config, FirstFailure::default()).map_err(
            Error::kafka(format!("make a producer on {}", self.bootstrap())),
        )
    }
}

fn write(
    producer: &BaseProducer<FirstFailure>,
    topic: &str,
    records: &[NewRecord],
) -> Result<(), Error> {
    let deadline = Deadline::after(WRITE_LIMIT);
    for new in records {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &new.headers {
            headers = headers.insert(Header {
                key,
                value: Some(value),
            });
        }
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).headers(headers);
        record.partition = new.partition;
        record.timestamp = new.timestamp;
        record.key = new.key.as_deref();
        record.payload = new.value.as_deref();
        enqueue(producer, record, topic, deadline)?;
    }
    flush(producer, topic, deadline)
}

/// Hands over one record; waits while the producer's queue is full.
fn enqueue(
    producer: &BaseProducer<FirstFailure>,
    record: BaseRecord<'_, [u8], [u8]>,
    topic: &str,
    deadline: Deadline,
) -> Result<(), Error> {
    let mut record = record;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused))
                if !deadline.has_passed() =>
            {
                record = refused;
                producer.poll(Duration::from_millis(100));
            }
            Err((error, _)) => return Err(Error::kafka(format!("write to topic {topic}"))(error)),
        }
    }
}

/// Waits until all records are confirmed, and fails if one was refused.
fn flush(
    producer: &BaseProducer<FirstFailure>,
    topic: &str,
    deadline: Deadline,
) -> Result<(), Error> {
    let action = format!("write to topic {topic}");
    producer
        .flush(deadline.remaining())
        .map_err(Error::kafka(action.clone()))?;
    match producer.context().0.lock().take() {
        Some(error) => Err(Error::kafka(action)(error)),
        None => Ok(()),
    }
}
