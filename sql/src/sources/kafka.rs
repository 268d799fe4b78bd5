//! Topics of Kafka, with the columns that Spark gives them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, Int32Array, Int64Array, ListBuilder, StringBuilder, StructBuilder,
        TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit},
    record_batch::RecordBatch,
};
use millstream_common::{
    config::{self, Config, keys},
    failure::Failure,
    text::Blob,
    time::Clock,
};
use millstream_connectors::{
    kafka::{
        EndingOffsets, KafkaDriver, OffsetsError, OnDataLoss, Record, Settings, StartingOffsets,
        Subscription, TimestampKind,
    },
    source::{More, SourceDriver, SplitReader},
};
use millstream_dataflow::program::TaskContext;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BatchReader, Bounds, batch, is_full};
use crate::{error::Error, options::Options};

/// Topics, as a reader was set to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KafkaSource {
    brokers: String,
    subscription: Subscription,
    starting_offsets: StartingOffsets,
    #[serde(default)]
    ending_offsets: EndingOffsets,
    group: String,
    properties: BTreeMap<String, String>,
    max_offsets_per_trigger: Option<u64>,
    fails_on_data_loss: bool,
    max_rate_per_partition: Option<u64>,
    read_ahead_bytes: usize,
    plan_timeout: Duration,
}

/// Properties that are not the user's, as in Spark.
const FORBIDDEN: [&str; 6] = [
    "auto.offset.reset",
    "key.deserializer",
    "value.deserializer",
    "enable.auto.commit",
    "interceptor.classes",
    "enable.partition.eof",
];

const KNOWN: [&str; 11] = [
    "kafka.bootstrap.servers",
    "subscribe",
    "subscribePattern",
    "assign",
    "startingOffsets",
    "endingOffsets",
    "maxOffsetsPerTrigger",
    "failOnDataLoss",
    "includeHeaders",
    "groupIdPrefix",
    "kafka.*",
];

fn assigned(text: &str) -> Result<Subscription, Error> {
    let parsed: Result<BTreeMap<String, Vec<i32>>, _> = serde_json::from_str(text);
    let topics = parsed.map_err(|error| {
        Error::option(
            "assign",
            text,
            format!("it is JSON such as {{\"topic\":[0,1]}} ({error})"),
        )
    })?;
    let pairs = topics.into_iter().flat_map(|(topic, partitions)| {
        partitions
            .into_iter()
            .map(move |partition| (topic.clone(), partition))
    });
    Ok(Subscription::Assign(pairs.collect()))
}

/// Where reading begins. What doesn't grow is read from the oldest record on, and can't begin where nothing is yet.
fn starting_offsets(options: &mut Options, grows: bool) -> Result<StartingOffsets, Error> {
    let Some(text) = options.take("startingOffsets") else {
        return Ok(match grows {
            true => StartingOffsets::Latest,
            false => StartingOffsets::Earliest,
        });
    };
    let parsed: Result<StartingOffsets, OffsetsError> = text.parse();
    let parsed =
        parsed.map_err(|error| Error::option("startingOffsets", &text, error.to_string()))?;
    let is_latest = match &parsed {
        StartingOffsets::Earliest => false,
        StartingOffsets::Latest => true,
        StartingOffsets::Explicit(topics) => has_offset(topics, NEXT),
    };
    if is_latest && !grows {
        return Err(Error::option(
            "startingOffsets",
            &text,
            "starting offset can't be latest for batch queries on Kafka: nothing is there yet; use earliest or offsets",
        ));
    }
    Ok(parsed)
}

/// Where reading ends, of what doesn't grow.
fn ending_offsets(options: &mut Options, grows: bool) -> Result<EndingOffsets, Error> {
    let Some(text) = options.take("endingOffsets") else {
        return Ok(EndingOffsets::new());
    };
    let refused = |reason: &str| Err(Error::option("endingOffsets", &text, reason));
    if grows {
        return refused("ending offset not valid in streaming queries; leave it out, or use read");
    }
    let parsed: Result<StartingOffsets, OffsetsError> = text.parse();
    match parsed {
        Ok(StartingOffsets::Latest) => Ok(EndingOffsets::new()),
        Ok(StartingOffsets::Explicit(topics)) if !has_offset(&topics, OLDEST) => Ok(topics),
        Ok(_) => refused(
            "ending offset can't be earliest for batch queries on Kafka: nothing would be read",
        ),
        Err(_) => refused("it is latest, or JSON such as {\"topic\":{\"0\":42}}"),
    }
}

/// As offsets are written in JSON: the next to come, and the oldest.
const NEXT: i64 = -1;
const OLDEST: i64 = -2;

fn has_offset(topics: &EndingOffsets, wanted: i64) -> bool {
    let mut offsets = topics.values().flat_map(BTreeMap::values);
    offsets.any(|offset| *offset == wanted)
}

impl KafkaSource {
    /// Reads a reader's options; gives the columns too.
    pub(crate) fn of(
        options: &mut Options,
        zone: &str,
        grows: bool,
        config: &Config,
    ) -> Result<(Self, SchemaRef), Error> {
        let mut properties = options.take_prefixed("kafka.");
        let brokers = properties.remove("bootstrap.servers");
        let brokers = brokers.ok_or_else(|| {
            Error::option(
                "kafka.bootstrap.servers",
                "",
                "name one or more brokers, such as localhost:9092",
            )
        })?;
        if let Some((name, value)) = properties
            .iter()
            .find(|(name, _)| FORBIDDEN.contains(&name.as_str()))
        {
            return Err(Error::option(
                &format!("kafka.{name}"),
                value,
                "the engine sets it itself",
            ));
        }
        let mut subscriptions = Vec::new();
        if let Some(topics) = options.take("subscribe") {
            let topics = topics.split(',').map(|topic| topic.trim().to_owned());
            subscriptions.push(Subscription::Topics(topics.collect()));
        }
        if let Some(pattern) = options.take("subscribePattern") {
            subscriptions.push(Subscription::Pattern(pattern));
        }
        if let Some(partitions) = options.take("assign") {
            subscriptions.push(assigned(&partitions)?);
        }
        let subscription = match (subscriptions.pop(), subscriptions.len()) {
            (Some(subscription), 0) => subscription,
            _ => {
                return Err(Error::option(
                    "subscribe",
                    "",
                    "give exactly one of subscribe, subscribePattern and assign",
                ));
            }
        };
        let starting_offsets = starting_offsets(options, grows)?;
        let ending_offsets = ending_offsets(options, grows)?;
        let prefix = options.take("groupIdPrefix");
        let prefix = prefix.unwrap_or_else(|| "millstream-kafka-source".to_owned());
        let group = properties
            .remove("group.id")
            .unwrap_or_else(|| format!("{prefix}-{}", Uuid::new_v4()));
        let fails = config.get(keys::KAFKA_ON_DATA_LOSS) == config::OnDataLoss::Fail;
        let with_headers = options.take_bool("includeHeaders")?.unwrap_or(false);
        let most = options.take_number("maxOffsetsPerTrigger", "a number of records")?;
        if most == Some(0) {
            return Err(Error::option(
                "maxOffsetsPerTrigger",
                "0",
                "it is at least 1",
            ));
        }
        let source = Self {
            brokers,
            subscription,
            starting_offsets,
            ending_offsets,
            group,
            properties,
            max_offsets_per_trigger: most,
            fails_on_data_loss: options.take_bool("failOnDataLoss")?.unwrap_or(fails),
            max_rate_per_partition: config.get(keys::KAFKA_MAX_RATE_PER_PARTITION),
            read_ahead_bytes: config.get(keys::KAFKA_READ_AHEAD).as_len(),
            plan_timeout: config.get(keys::KAFKA_PLAN_TIMEOUT),
        };
        options.all_taken("kafka", &KNOWN)?;
        Ok((source, schema(zone, with_headers)))
    }

    fn settings_of(&self, bounds: Bounds) -> Arc<Settings> {
        let mut settings = Settings::new(&self.brokers, self.subscription.clone());
        settings.starting_offsets = self.starting_offsets.clone();
        settings.ending_offsets = self.ending_offsets.clone();
        settings.group = self.group.clone();
        settings.properties = self.properties.clone();
        // As Spark: a query's progress is in its checkpoint alone.
        settings.commit_offsets = false;
        settings.only_present = bounds.only_present;
        settings.read_ahead_bytes = self.read_ahead_bytes;
        settings.plan_timeout = self.plan_timeout;
        if !bounds.at_once {
            settings.max_per_batch = self.max_offsets_per_trigger;
            settings.max_rate_per_partition = self.max_rate_per_partition;
        }
        settings.on_data_loss = match self.fails_on_data_loss {
            true => OnDataLoss::Fail,
            false => OnDataLoss::Warn,
        };
        Arc::new(settings)
    }

    /// For executors.
    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings_of(Bounds::default())
    }

    pub(super) fn fingerprint(&self) -> Value {
        json!({ "subscription": self.subscription })
    }

    pub(super) fn description(&self) -> String {
        match &self.subscription {
            Subscription::Topics(topics) => {
                format!("KafkaV2[Subscribe[{}]]", topics.join(", "))
            }
            Subscription::Pattern(pattern) => format!("KafkaV2[SubscribePattern[{pattern}]]"),
            Subscription::Assign(partitions) => {
                let partitions = partitions.iter();
                let shown: Vec<String> = partitions
                    .map(|(topic, partition)| format!("{topic}-{partition}"))
                    .collect();
                format!("KafkaV2[Assign[{}]]", shown.join(", "))
            }
        }
    }

    pub(super) fn driver(
        &self,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
    ) -> Result<Box<dyn SourceDriver>, Error> {
        Ok(Box::new(KafkaDriver::new(self.settings_of(bounds), clock)?))
    }
}

fn header_fields() -> Fields {
    Fields::from(vec![
        Field::new("key", DataType::Utf8, true),
        Field::new("value", DataType::Binary, true),
    ])
}

fn schema(zone: &str, with_headers: bool) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into()));
    let mut fields = vec![
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        Field::new("topic", DataType::Utf8, true),
        Field::new("partition", DataType::Int32, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("timestamp", time, true),
        Field::new("timestampType", DataType::Int32, true),
    ];
    if with_headers {
        let header = DataType::Struct(header_fields());
        fields.push(Field::new(
            "headers",
            DataType::new_list(header, true),
            true,
        ));
    }
    Arc::new(Schema::new(fields))
}

/// Records of a range as rows.
pub(super) struct RecordReader {
    records: Box<dyn SplitReader<Vec<Record>>>,
    schema: SchemaRef,
    is_over: bool,
}

impl RecordReader {
    pub(super) fn new(records: Box<dyn SplitReader<Vec<Record>>>, schema: SchemaRef) -> Self {
        Self {
            records,
            schema,
            is_over: false,
        }
    }
}

impl BatchReader for RecordReader {
    fn next(&mut self, task: &mut TaskContext<'_>) -> Result<Option<RecordBatch>, Failure> {
        let mut records = Vec::new();
        let mut more = Vec::new();
        let mut bytes = 0;
        while !self.is_over && !is_full(records.len(), bytes) {
            self.is_over = self.records.next(&mut more, task)? == More::No;
            bytes += more.iter().map(length).sum::<usize>();
            records.append(&mut more);
        }
        if records.is_empty() {
            return Ok(None);
        }
        let fields = self.schema.fields().iter();
        let columns = fields.map(|field| column(&records, field)).collect();
        batch(&self.schema, columns, records.len()).map(Some)
    }
}

/// Bytes of a record, about.
fn length(record: &Record) -> usize {
    let of = |part: &Option<Blob>| part.as_deref().map_or(0, <[u8]>::len);
    let headers = record.headers.iter();
    of(&record.key) + of(&record.value) + headers.map(|header| of(&header.value)).sum::<usize>()
}

fn column(records: &[Record], field: &Field) -> ArrayRef {
    let rows = records.iter();
    match field.name().as_str() {
        "key" | "value" => {
            let mut values = BinaryBuilder::new();
            for record in rows {
                let bytes = match field.name().as_str() {
                    "key" => &record.key,
                    _ => &record.value,
                };
                values.append_option(bytes.as_deref());
            }
            Arc::new(values.finish())
        }
        "topic" => {
            let mut topics = StringBuilder::new();
            rows.for_each(|record| topics.append_value(&record.topic));
            Arc::new(topics.finish())
        }
        "partition" => Arc::new(Int32Array::from_iter_values(
            rows.map(|record| record.partition),
        )),
        "offset" => Arc::new(Int64Array::from_iter_values(
            rows.map(|record| record.offset),
        )),
        "timestamp" => {
            let times = rows.map(|record| Some(record.timestamp?.saturating_mul(1_000)));
            let times = TimestampMicrosecondArray::from_iter(times);
            let zone = match field.data_type() {
                DataType::Timestamp(_, zone) => zone.clone(),
                _ => None,
            };
            Arc::new(times.with_timezone_opt(zone))
        }
        "headers" => headers(records),
        _ => Arc::new(Int32Array::from_iter_values(rows.map(
            |record| match record.timestamp_kind {
                TimestampKind::None => -1,
                TimestampKind::Created => 0,
                TimestampKind::Appended => 1,
            },
        ))),
    }
}

fn headers(records: &[Record]) -> ArrayRef {
    let fields = header_fields();
    let entry = StructBuilder::new(
        fields.clone(),
        vec![
            Box::new(StringBuilder::new()),
            Box::new(BinaryBuilder::new()),
        ],
    );
    let element = Field::new_list_field(DataType::Struct(fields), true);
    let mut lists = ListBuilder::new(entry).with_field(Arc::new(element));
    for record in records {
        for header in &record.headers {
            let entry = lists.values();
            if let Some(keys) = entry.field_builder::<StringBuilder>(0) {
                keys.append_value(&header.key);
            }
            if let Some(values) = entry.field_builder::<BinaryBuilder>(1) {
                values.append_option(header.value.as_deref());
            }
            entry.append(true);
        }
        // As Spark: no headers are no list.
        lists.append(!record.headers.is_empty());
    }
    Arc::new(lists.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        let mut options = Options::default();
        for (name, value) in pairs {
            options.set(name, value);
        }
        options
    }

    #[test]
    fn options_are_sparks() {
        let mut given = options(&[
            ("kafka.bootstrap.servers", "b:9092"),
            ("kafka.security.protocol", "PLAINTEXT"),
            ("subscribe", "a, b"),
            ("startingOffsets", "earliest"),
            ("maxOffsetsPerTrigger", "10"),
        ]);
        let config = Config::builder()
            .conf("kafka.read_ahead", "1MiB")
            .conf("kafka.plan_timeout", "3s")
            .conf("kafka.max_rate_per_partition", 7)
            .conf("kafka.on_data_loss", "warn")
            .build()
            .unwrap();
        let (source, schema) = KafkaSource::of(&mut given, "UTC", true, &config).unwrap();
        // What executors get is what the driver was told.
        let sent = serde_json::to_string(&source).unwrap();
        let received: KafkaSource = serde_json::from_str(&sent).unwrap();
        let settings = received.settings();
        assert_eq!(settings.read_ahead_bytes, 1 << 20);
        assert_eq!(settings.plan_timeout, Duration::from_secs(3));
        assert_eq!(settings.max_rate_per_partition, Some(7));
        assert_eq!(settings.on_data_loss, OnDataLoss::Warn);
        assert_eq!(source.brokers, "b:9092");
        assert_eq!(
            source.subscription,
            Subscription::Topics(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(source.properties["security.protocol"], "PLAINTEXT");
        assert_eq!(schema.fields().len(), 7);
        for wrong in [
            &[("subscribe", "a")][..],
            &[("kafka.bootstrap.servers", "b:9092")],
            &[
                ("kafka.bootstrap.servers", "b"),
                ("subscribe", "a"),
                ("assign", "{\"a\":[0]}"),
            ],
            &[
                ("kafka.bootstrap.servers", "b"),
                ("subscribe", "a"),
                ("kafka.auto.offset.reset", "x"),
            ],
            &[("kafka.bootstrap.servers", "b"), ("assign", "a")],
            &[
                ("kafka.bootstrap.servers", "b"),
                ("subscribe", "a"),
                ("startingOffset", "x"),
            ],
        ] {
            assert!(
                KafkaSource::of(&mut options(wrong), "UTC", true, &config).is_err(),
                "{wrong:?}"
            );
        }
    }

    const TOPIC: [(&str, &str); 2] = [("kafka.bootstrap.servers", "b:9092"), ("subscribe", "t")];

    fn with(more: &[(&str, &str)], grows: bool) -> Result<KafkaSource, Error> {
        let mut given = options(&TOPIC);
        for (name, value) in more {
            given.set(name, value);
        }
        KafkaSource::of(&mut given, "UTC", grows, &Config::default()).map(|(source, _)| source)
    }

    #[test]
    fn what_does_not_grow_is_read_from_its_beginning() {
        let stream = with(&[], true).unwrap();
        assert_eq!(stream.starting_offsets, StartingOffsets::Latest);
        let fixed = with(&[("endingOffsets", r#"{"t":{"0":5}}"#)], false).unwrap();
        assert_eq!(fixed.starting_offsets, StartingOffsets::Earliest);
        let settings = fixed.settings_of(Bounds {
            only_present: true,
            at_once: true,
        });
        assert_eq!(settings.ending_offsets["t"], BTreeMap::from([(0, 5)]));
        assert_eq!(
            with(&[("endingOffsets", "latest")], false)
                .unwrap()
                .ending_offsets,
            EndingOffsets::new()
        );
        let refused = |more: (&str, &str), grows: bool, why: &str| {
            let error = with(&[more], grows).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(("startingOffsets", "latest"), false, "can't be latest");
        refused(
            ("startingOffsets", r#"{"t":{"0":-1}}"#),
            false,
            "can't be latest",
        );
        refused(("endingOffsets", "earliest"), false, "can't be earliest");
        refused(
            ("endingOffsets", r#"{"t":{"0":-2}}"#),
            false,
            "can't be earliest",
        );
        refused(("endingOffsets", "soon"), false, "it is latest, or JSON");
        refused(("endingOffsets", "latest"), true, "not valid in streaming");
    }

    fn record(timestamp_kind: TimestampKind) -> Record {
        Record {
            topic: millstream_common::text::Text::new(),
            partition: 0,
            offset: 0,
            timestamp: Some(0),
            timestamp_kind,
            key: None,
            value: None,
            headers: Vec::new(),
        }
    }

    #[test]
    fn who_gave_the_timestamp_is_told_by_sparks_numbers() {
        let kinds = [
            TimestampKind::None,
            TimestampKind::Created,
            TimestampKind::Appended,
        ];
        let field = Field::new("timestampType", DataType::Int32, true);
        let made = column(&kinds.map(record), &field);
        let made: &Int32Array = arrow::array::AsArray::as_primitive(made.as_ref());
        assert_eq!(made.values().to_vec(), [-1, 0, 1]);
    }
    #[test]
    fn a_batch_of_no_records_is_refused() {
        let refused = with(&[("maxOffsetsPerTrigger", "0")], true).unwrap_err();
        assert!(refused.to_string().contains("at least 1"), "{refused}");
    }
}
