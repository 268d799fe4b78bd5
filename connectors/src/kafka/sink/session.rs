//! One producer of a sink partition and its transactions. Everything here waits for the broker: at most as long as the settings say, and not
//! on once the task is cancelled, except for a commit under way.

use std::{sync::Arc, time::Duration};

use millstream_common::{
    failure::{Failure, FailureKind, Fault},
    time::{Clock, Tick},
};
use millstream_dataflow::program::CancelToken;
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata},
    error::{KafkaError, KafkaResult},
    message::{DeliveryResult, Header, Headers as _, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
    types::RDKafkaErrorCode as Code,
};

use super::{
    Names, Settings,
    failures::{self, Undelivered},
    lines::Lines,
    marker::{self, Marker, Note},
    record::ProducerRecord,
};

/// The longest that a call runs before the task's cancellation is looked at.
const SLICE: Duration = Duration::from_millis(200);
/// The crate's poll waits for all of the time given, whatever comes: short, so that little is waited in vain.
const POLL: Duration = Duration::from_millis(1);
/// Letting go of a transaction may take so long; the broker, or the next producer, does it otherwise.
const ABORT: Duration = Duration::from_secs(5);

/// Keeps the first record that wasn't written.
struct Deliveries {
    first: Mutex<Option<Undelivered>>,
    lines: Arc<Lines>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.lines.say(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "a Kafka producer met trouble");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let Err((error, message)) = result else {
            return;
        };
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        // These were taken back by ourselves, or are no more than a consequence.
        if matches!(code, Code::PurgeQueue | Code::PurgeInflight) {
            return;
        }
        self.first.lock().get_or_insert_with(|| Undelivered {
            topic: message.topic().to_owned(),
            code,
            bytes: size_of(message),
        });
    }
}

/// Bytes of key, value and headers.
fn size_of<M: Message>(message: &M) -> usize {
    let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let headers = message.headers().map_or(0, |headers| {
        let sizes = headers
            .iter()
            .map(|header| header.key.len() + length(header.value));
        sizes.sum()
    });
    length(message.key()) + length(message.payload()) + headers
}

/// How a commit ended.
pub(super) enum Committed {
    Yes,
    /// It may have happened: only the marker knows. The producer is of no more use.
    Unknown(Failure),
}

/// A producer, and what is known of its sink partition.
pub(super) struct Session {
    producer: BaseProducer<Deliveries>,
    group: ConsumerGroupMetadata,
    names: Names,
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    /// Read after the producer was initialised, or written by itself: true until another producer takes over.
    pub marker: Option<Marker>,
    /// The batch that it was last used for.
    pub batch: u64,
    /// Among the producers of this process, which one it is.
    pub serial: u64,
    begun_at: Tick,
}

impl Session {
    /// A new producer: fences the sink partition's earlier ones, waits for what they left to be ended, and then reads the marker.
    ///
    /// # Errors
    /// When the brokers don't answer, or refuse; `Cancelled`.
    pub fn open(
        names: Names,
        settings: &Arc<Settings>,
        clock: &Arc<dyn Clock>,
        lines: &Arc<Lines>,
        serial: u64,
        cancel: &CancelToken,
    ) -> Result<Self, Failure> {
        let begun_at = clock.now();
        let producer: BaseProducer<Deliveries> = settings
            .producer(&names)
            .create_with_context(Deliveries {
                first: Mutex::default(),
                lines: Arc::clone(lines),
            })
            .map_err(|error| failures::properties(&error))?;
        let reader: BaseConsumer = settings
            .reader(&names)
            .create()
            .map_err(|error| failures::properties(&error))?;
        let group = reader.group_metadata().ok_or_else(|| {
            Failure::new(
                FailureKind::Internal,
                "a Kafka consumer has no group metadata",
            )
        })?;
        let mut session = Self {
            producer,
            group,
            names,
            settings: Arc::clone(settings),
            clock: Arc::clone(clock),
            marker: None,
            batch: 0,
            serial,
            begun_at,
        };
        let deadline = session.deadline(settings.request_timeout);
        session
            .repeat(deadline, SLICE, Some(cancel), |producer, slice| {
                producer.init_transactions(slice)
            })
            .map_err(|error| session.explain("start a transactional producer", Some(&error)))?;
        cancel.check()?;
        session.marker = session.read_marker(&reader, cancel)?;
        tracing::debug!(
            transactional_id = session.names.transactional_id,
            marker = session.marker.as_ref().map(|marker| marker.next),
            "opened a Kafka producer"
        );
        Ok(session)
    }

    /// The name under which the broker knows the sink partition's producers.
    pub fn transactional_id(&self) -> &str {
        &self.names.transactional_id
    }

    fn read_marker(
        &self,
        reader: &BaseConsumer,
        cancel: &CancelToken,
    ) -> Result<Option<Marker>, Failure> {
        let topic = self.settings.marker_topic()?;
        let deadline = self.deadline(self.settings.request_timeout);
        loop {
            let error = match marker::read(reader, topic, SLICE * 10) {
                Ok(marker) => return Ok(marker),
                Err(error) => error,
            };
            cancel.check()?;
            let failure = failures::call(
                &format!("read the marker of group {}", self.names.marker_group),
                &self.names.transactional_id,
                &self.settings.brokers,
                &error,
            );
            if self.clock.now() >= deadline || failure.fault == Fault::User {
                return Err(failure);
            }
            // Without a subscription nothing comes: a pause.
            reader.poll(SLICE);
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// When the producer can't.
    pub fn begin(&mut self) -> Result<(), Failure> {
        for _ in 0..64 {
            if self.producer.in_flight_count() == 0 {
                break;
            }
            self.producer.poll(Duration::ZERO);
        }
        *self.producer.context().first.lock() = None;
        self.begun_at = self.clock.now();
        let begun = self.producer.begin_transaction();
        begun.map_err(|error| self.explain("begin a transaction", Some(&error)))
    }

    /// Adds a record to the transaction; waits while the producer's queue is full.
    ///
    /// # Errors
    /// `Superseded` when another producer took over; what was refused; `Cancelled`.
    pub fn send(&self, record: &ProducerRecord, cancel: &CancelToken) -> Result<(), Failure> {
        let topic = record.topic.as_ref().map(|topic| topic.as_str());
        let topic = topic.or(self.settings.topic.as_deref()).ok_or_else(|| {
            let message = "a record for a Kafka output names no topic, and the output has none";
            failures::user(Failure::new(FailureKind::BadInput, message).with_code("sink.no_topic"))
        })?;
        let mut message: BaseRecord<'_, [u8], [u8], ()> = BaseRecord::to(topic);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        message.partition = record.partition;
        message.timestamp = record.timestamp;
        if !record.headers.is_empty() {
            let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
            for header in &record.headers {
                headers = headers.insert(Header {
                    key: header.key.as_str(),
                    value: header.value.as_deref(),
                });
            }
            message.headers = Some(headers);
        }
        let deadline = self.deadline(self.settings.transaction_timeout);
        loop {
            let (error, back) = match self.producer.send(message) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            let full = error.rdkafka_error_code() == Some(Code::QueueFull);
            if !full || self.clock.now() >= deadline {
                return Err(self.refused(topic, record, &error));
            }
            message = back;
            self.producer.poll(POLL);
            cancel.check()?;
            self.check("write records")?;
        }
    }

    fn refused(&self, topic: &str, record: &ProducerRecord, error: &KafkaError) -> Failure {
        match error {
            KafkaError::MessageProduction(code) if *code != Code::Fatal && *code != Code::State => {
                let undelivered = Undelivered {
                    topic: topic.to_owned(),
                    code: *code,
                    bytes: record.size(),
                };
                self.of_record(&undelivered)
            }
            // No call takes a name with a zero in it.
            KafkaError::Nul(_) => self.of_record(&Undelivered {
                topic: topic.to_owned(),
                code: Code::InvalidTopic,
                bytes: record.size(),
            }),
            error => self.explain("write records", Some(error)),
        }
    }

    /// Takes in what the broker said of earlier records; without waiting.
    ///
    /// # Errors
    /// When one was refused, or the producer is fenced.
    pub fn look(&self) -> Result<(), Failure> {
        self.producer.poll(Duration::ZERO);
        self.check("write records")
    }

    /// Waits until every record of the transaction is with the broker.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn flush(&self, cancel: &CancelToken) -> Result<(), Failure> {
        let deadline = self.deadline(self.settings.transaction_timeout);
        while self.producer.in_flight_count() > 0 {
            // Ends the client's lingering; the reports are polled here, as it would wait a tenth of a second for each.
            match self.producer.flush(Duration::ZERO) {
                Ok(()) | Err(KafkaError::Flush(Code::OperationTimedOut)) => {}
                Err(error) => return Err(self.explain("write records", Some(&error))),
            }
            self.producer.poll(POLL);
            cancel.check()?;
            self.check("write records")?;
            if self.clock.now() >= deadline {
                let message = format!(
                    "{} records were not taken by the brokers {} within {:?}; see that all brokers are up, or raise kafka_sink.transaction_timeout",
                    self.producer.in_flight_count(),
                    self.settings.brokers,
                    self.settings.transaction_timeout
                );
                return Err(Failure::new(FailureKind::Io, message));
            }
        }
        self.check("write records")
    }

    /// Puts the marker into the transaction; of two the later one counts. A round trip: a producer that is fenced learns it here.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn mark(&self, next: u64, note: &Note, cancel: &CancelToken) -> Result<(), Failure> {
        let offset = i64::try_from(next).map_err(|error| {
            Failure::caused_by(FailureKind::Internal, "a batch number is too large", &error)
        })?;
        let mut offsets = TopicPartitionList::new();
        let mut element = offsets.add_partition(self.settings.marker_topic()?, 0);
        element
            .set_offset(Offset::Offset(offset))
            .map_err(|error| self.explain("write the marker", Some(&error)))?;
        element.set_metadata(note.to_json()?);
        let deadline = self.deadline(self.settings.request_timeout);
        // Every call is a request of its own, so each gets time enough.
        self.repeat(deadline, SLICE * 10, Some(cancel), |producer, slice| {
            producer.send_offsets_to_transaction(&offsets, &self.group, slice)
        })
        .map_err(|error| {
            // A record that was refused ends the transaction before its report is here; the report says why.
            self.producer.poll(POLL);
            let refused = self.check("write records").err();
            refused.unwrap_or_else(|| self.explain("write the marker", Some(&error)))
        })?;
        cancel.check()
    }

    /// Commits.
    ///
    /// # Errors
    /// When it certainly didn't happen, or another producer took over.
    pub fn commit(&self) -> Result<Committed, Failure> {
        let deadline = self.deadline(self.settings.commit_timeout);
        let committed = self.repeat(deadline, SLICE, None, |producer, slice| {
            producer.commit_transaction(slice)
        });
        let Err(error) = committed else {
            return Ok(Committed::Yes);
        };
        let failure = self.explain("commit a transaction", Some(&error));
        let aborted =
            matches!(&error, KafkaError::Transaction(error) if error.txn_requires_abort());
        if aborted || failure.kind == FailureKind::Superseded {
            return Err(failure);
        }
        Ok(Committed::Unknown(failure))
    }

    /// Takes the transaction back. Whether the producer can be used again.
    pub fn abort(&self) -> bool {
        if self.producer.client().fatal_error().is_some() {
            return false;
        }
        let deadline = self.deadline(ABORT);
        let aborted = self.repeat(deadline, SLICE, None, |producer, slice| {
            producer.abort_transaction(slice)
        });
        if let Err(error) = &aborted {
            tracing::debug!(transactional_id = self.names.transactional_id, %error, "a transaction was left to the broker to abort");
        }
        aborted.is_ok()
    }

    /// Calls again while the client says that calling again goes on where it was.
    fn repeat(
        &self,
        deadline: Tick,
        slice: Duration,
        cancel: Option<&CancelToken>,
        call: impl Fn(&BaseProducer<Deliveries>, Duration) -> KafkaResult<()>,
    ) -> KafkaResult<()> {
        loop {
            let error = match call(&self.producer, slice) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again = match &error {
                KafkaError::Transaction(error) => error.is_retriable(),
                // What is left are reports in the queue, which polling takes out.
                KafkaError::Flush(code) => *code == Code::OperationTimedOut,
                _ => false,
            };
            let cancelled = cancel.is_some_and(CancelToken::is_cancelled);
            if !again || cancelled || self.clock.now() >= deadline {
                return Err(error);
            }
            self.producer.poll(POLL);
        }
    }

    fn deadline(&self, after: Duration) -> Tick {
        self.clock.now().after(after)
    }

    fn check(&self, what: &str) -> Result<(), Failure> {
        let fatal = self.producer.client().fatal_error().is_some();
        if fatal || self.producer.context().first.lock().is_some() {
            return Err(self.explain(what, None));
        }
        Ok(())
    }

    /// The best that can be said of why something failed.
    fn explain(&self, what: &str, error: Option<&KafkaError>) -> Failure {
        let id = &self.names.transactional_id;
        let fatal = self.producer.client().fatal_error();
        let undelivered = self.producer.context().first.lock().clone();
        let code = error.and_then(KafkaError::rdkafka_error_code);
        let fenced = fatal
            .as_ref()
            .is_some_and(|(code, _)| failures::is_fence(*code))
            || undelivered
                .as_ref()
                .is_some_and(|record| failures::is_fence(record.code))
            || code.is_some_and(failures::is_fence);
        if fenced {
            // The broker fences a producer also when it ends its transaction itself.
            let open = self.clock.now().since(self.begun_at);
            if open >= self.settings.transaction_timeout {
                let limit = self.settings.transaction_timeout;
                return failures::transaction_timed_out(id, open, limit);
            }
            return failures::superseded(id);
        }
        if let Some(record) = undelivered.filter(|record| record.code != Code::Fatal) {
            return self.of_record(&record);
        }
        if let Some((code, text)) = fatal {
            return failures::fatal(code, &text, id);
        }
        match error {
            Some(error) => failures::call(what, id, &self.settings.brokers, error),
            None => Failure::new(
                FailureKind::Io,
                format!("could not {what} (transactional id {id})"),
            ),
        }
    }

    fn of_record(&self, record: &Undelivered) -> Failure {
        failures::undelivered(
            record,
            self.settings.max_message_bytes(),
            &self.settings.brokers,
            self.settings.topic.as_deref(),
        )
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::{Timestamp, message::OwnedMessage};

    use super::*;

    #[test]
    fn a_record_is_as_large_as_key_value_and_headers() {
        let message = |key: Option<&str>, value: Option<&str>, headers| {
            let [key, value] = [key, value].map(|part| part.map(|part| part.as_bytes().to_vec()));
            let topic = "out".to_owned();
            OwnedMessage::new(value, key, topic, Timestamp::NotAvailable, 0, 0, headers)
        };
        let named = OwnedHeaders::new().insert(Header {
            key: "trace",
            value: Some("1234567"),
        });
        let headers = named.insert(Header::<&str> {
            key: "last",
            value: None,
        });
        let whole = message(Some("key"), Some("value"), Some(headers));
        assert_eq!(size_of(&whole), 3 + 5 + 5 + 7 + 4);
        assert_eq!(size_of(&message(Some("key"), None, None)), 3);
        assert_eq!(size_of(&message(None, Some("value"), None)), 5);
    }
}
