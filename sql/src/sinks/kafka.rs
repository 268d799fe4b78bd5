//! Topics of Kafka, exactly once: the columns `value`, and if wanted `key`, `topic`, `partition` and `headers` are records.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{DataType, Int32Type, Schema},
    record_batch::RecordBatch,
};
use millstream_common::{
    failure::Failure,
    protocol::SinkCommit,
    text::{Blob, Text},
    time::{Clock, SystemClock},
};
use millstream_connectors::{
    kafka::{
        Header,
        sink::{Configured, KafkaSink, KafkaSinkDriver, ProducerRecord, Settings},
    },
    sink::{Sink, SinkDriver, SinkWriter, WriteId},
};
use millstream_dataflow::program::TaskContext;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    error::{Error, task_failure},
    options::Options,
};

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KafkaTopics {
    brokers: String,
    topic: Option<String>,
    marker_topic: Option<String>,
    topic_create: bool,
    topic_partitions: Option<i32>,
    properties: BTreeMap<String, String>,
    /// The output's stable id.
    output: String,
    configured: Configured,
}

const KNOWN: [&str; 7] = [
    "kafka.bootstrap.servers",
    "topic",
    "marker.topic",
    "topic.create",
    "topic.partitions",
    "checkpointLocation",
    "kafka.*",
];

fn is_bytes(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Binary)
}

impl KafkaTopics {
    pub(crate) fn of(
        options: &mut Options,
        output: String,
        configured: Configured,
    ) -> Result<Self, Error> {
        let mut properties = options.take_prefixed("kafka.");
        let brokers = properties.remove("bootstrap.servers").ok_or_else(|| {
            Error::option(
                "kafka.bootstrap.servers",
                "",
                "name one or more brokers, such as localhost:9092",
            )
        })?;
        let topics = Self {
            brokers,
            topic: options.take("topic"),
            marker_topic: options.take("marker.topic"),
            topic_create: options.take_bool("topic.create")?.unwrap_or(false),
            topic_partitions: options.take_number("topic.partitions", "a number of partitions")?,
            properties,
            output,
            configured,
        };
        options.all_taken("kafka", &KNOWN)?;
        Ok(topics)
    }

    /// Checks the result's columns.
    pub(crate) fn check(&self, schema: &Schema) -> Result<(), Error> {
        let column = |name: &str| {
            let found = schema.field_with_name(name);
            found.ok().map(|field| field.data_type().clone())
        };
        match column("value") {
            None => {
                return Err(Error::refused(
                    "Required attribute 'value' not found",
                    "select what is to be written under the name value",
                ));
            }
            Some(value) if !is_bytes(&value) => {
                return Err(Error::refused(
                    format!("value attribute type must be a STRING or BINARY, but is {value}"),
                    "cast it to STRING",
                ));
            }
            Some(_) => {}
        }
        for (name, fits, wanted) in [
            (
                "key",
                column("key").is_none_or(|key| is_bytes(&key)),
                "STRING or BINARY",
            ),
            (
                "topic",
                column("topic").is_none_or(|topic| topic == DataType::Utf8),
                "STRING",
            ),
            (
                "partition",
                column("partition").is_none_or(|number| number == DataType::Int32),
                "INT",
            ),
        ] {
            if !fits {
                return Err(Error::refused(
                    format!("{name} attribute type must be {wanted}"),
                    format!("cast it to {wanted}"),
                ));
            }
        }
        if column("headers").is_some_and(|headers| !are_headers(&headers)) {
            return Err(Error::refused(
                "headers attribute type must be ARRAY<STRUCT<key: STRING, value: BINARY>>",
                "make it of such pairs, or leave it out",
            ));
        }
        if self.topic.is_none() && column("topic").is_none() {
            return Err(Error::refused(
                "topic option required when no 'topic' attribute is present",
                "set the option topic",
            ));
        }
        for field in schema.fields() {
            let known = ["key", "value", "topic", "partition", "headers"];
            if !known.contains(&field.name().as_str()) {
                return Err(Error::refused(
                    format!("column {} is none of a record's", field.name()),
                    format!("select {}", known.join(", ")),
                ));
            }
        }
        Ok(())
    }

    fn settings(&self, build_id: &str) -> Arc<Settings> {
        let mut settings = Settings::new(&self.brokers, self.topic.clone());
        settings.marker_topic = self.marker_topic.clone();
        settings.topic_create = self.topic_create;
        settings.topic_partitions = self.topic_partitions;
        settings.properties = self.properties.clone();
        settings.configure(&self.configured);
        build_id.clone_into(&mut settings.build_id);
        Arc::new(settings)
    }

    pub(crate) fn fingerprint(&self) -> Value {
        json!({ "topic": self.topic, "marker_topic": self.marker_topic })
    }

    /// The driver half.
    pub(crate) fn driver(&self, clock: &Arc<dyn Clock>, build_id: &str) -> Arc<dyn SinkDriver> {
        let settings = self.settings(build_id);
        Arc::new(KafkaSinkDriver::new(settings, Arc::clone(clock)))
    }

    /// The executor half.
    pub(crate) fn sink(&self, build_id: &str) -> KafkaSink {
        KafkaSink::new(self.settings(build_id), Arc::new(SystemClock::new()))
    }

    pub(crate) fn writer(
        &self,
        sink: &KafkaSink,
        task: &TaskContext<'_>,
    ) -> Result<RecordWriter, Failure> {
        let id = WriteId::of(task, &self.output);
        Ok(RecordWriter {
            writer: sink.writer(id, task)?,
        })
    }
}

/// One attempt's write.
pub(crate) struct RecordWriter {
    writer: Box<dyn SinkWriter<Vec<ProducerRecord>>>,
}

impl RecordWriter {
    pub(crate) fn write(
        &mut self,
        batch: &RecordBatch,
        task: &mut TaskContext<'_>,
    ) -> Result<(), Failure> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let records = records(batch).map_err(task_failure)?;
        self.writer.write(records, task)
    }

    pub(crate) fn finish(self, task: &mut TaskContext<'_>) -> Result<SinkCommit, Failure> {
        self.writer.finish(task)
    }
}

fn bytes(column: &ArrayRef, row: usize) -> Option<Blob> {
    if column.is_null(row) {
        return None;
    }
    let bytes = match column.data_type() {
        DataType::Binary => column.as_binary::<i32>().value(row),
        _ => column.as_string::<i32>().value(row).as_bytes(),
    };
    Some(Blob::from(bytes.to_vec()))
}

fn records(batch: &RecordBatch) -> Result<Vec<ProducerRecord>, Error> {
    let value = batch
        .column_by_name("value")
        .ok_or_else(|| Error::internal("rows for Kafka without a value"))?;
    let key = batch.column_by_name("key");
    let topic = batch.column_by_name("topic");
    let partition = batch.column_by_name("partition");
    let headers = batch.column_by_name("headers");
    let mut records = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let topic = topic.filter(|topic| topic.is_valid(row));
        let partition = partition.filter(|partition| partition.is_valid(row));
        records.push(ProducerRecord {
            topic: topic.map(|topic| Text::from(topic.as_string::<i32>().value(row))),
            key: key.and_then(|key| bytes(key, row)),
            value: bytes(value, row),
            headers: headers.map_or_else(Vec::new, |headers| headers_of(headers, row)),
            partition: partition.map(|partition| partition.as_primitive::<Int32Type>().value(row)),
            timestamp: None,
        });
    }
    Ok(records)
}

/// Whether a column's values can be a record's headers: pairs of a text, and a text or bytes.
fn are_headers(data_type: &DataType) -> bool {
    let DataType::List(element) = data_type else {
        return false;
    };
    let DataType::Struct(fields) = element.data_type() else {
        return false;
    };
    match fields.iter().as_slice() {
        [key, value] => key.data_type() == &DataType::Utf8 && is_bytes(value.data_type()),
        _ => false,
    }
}

fn headers_of(column: &ArrayRef, row: usize) -> Vec<Header> {
    if column.is_null(row) {
        return Vec::new();
    }
    let Some(list) = column.as_list_opt::<i32>() else {
        return Vec::new();
    };
    let entries = list.value(row);
    let Some(entries) = entries.as_struct_opt() else {
        return Vec::new();
    };
    let (keys, values) = (entries.column(0), entries.column(1));
    (0..entries.len())
        .filter(|entry| entries.is_valid(*entry))
        .map(|entry| Header {
            key: Text::from(keys.as_string::<i32>().value(entry)),
            value: bytes(values, entry),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;
    use millstream_common::{
        config::{Config, OnNondeterminism},
        ids::BatchId,
    };

    use super::*;

    #[test]
    fn executors_take_what_the_driver_was_told() {
        let config = Config::builder()
            .conf("kafka_sink.transaction_timeout", "90s")
            .conf("kafka_sink.accept_mixed_batch", 4)
            .conf("kafka_sink.accept_duplicates", true)
            .conf("determinism.check", "warn")
            .build()
            .unwrap();
        let mut options = Options::default();
        options.set("kafka.bootstrap.servers", &"broker:9092");
        options.set("kafka.linger.ms", &5);
        options.set("topic", &"out");
        let configured = Configured::of(&config);
        let topics = KafkaTopics::of(&mut options, "kafka-0".to_owned(), configured).unwrap();
        let sent = serde_json::to_vec(&topics).unwrap();
        let received: KafkaTopics = serde_json::from_slice(&sent).unwrap();
        let settings = received.settings("a build");
        assert_eq!(settings.transaction_timeout.as_secs(), 90);
        assert_eq!(settings.accept_mixed_batch, Some(BatchId(4)));
        assert_eq!(settings.on_nondeterminism, OnNondeterminism::Warn);
        assert!(settings.accept_duplicates);
        assert_eq!(settings.build_id, "a build");
        assert_eq!(settings.properties["linger.ms"], "5");
    }
    #[test]
    fn headers_of_another_type_are_refused() {
        let mut options = Options::default();
        options.set("kafka.bootstrap.servers", &"broker:9092");
        options.set("topic", &"out");
        let configured = Configured::of(&Config::builder().build().unwrap());
        let topics = KafkaTopics::of(&mut options, "kafka-0".to_owned(), configured).unwrap();
        let check = |headers: DataType| {
            let value = Field::new("value", DataType::Utf8, true);
            topics.check(&Schema::new(vec![
                value,
                Field::new("headers", headers, true),
            ]))
        };
        let pairs = |key: DataType, value: DataType| {
            let fields = vec![
                Field::new("key", key, true),
                Field::new("value", value, true),
            ];
            DataType::new_list(DataType::Struct(fields.into()), true)
        };
        check(pairs(DataType::Utf8, DataType::Binary)).unwrap();
        for other in [
            DataType::Utf8,
            pairs(DataType::Int32, DataType::Binary),
            pairs(DataType::Utf8, DataType::Int64),
            DataType::new_list(
                DataType::Struct(vec![Field::new("key", DataType::Utf8, true)].into()),
                true,
            ),
        ] {
            let refused = check(other).unwrap_err().to_string();
            assert!(refused.contains("headers attribute type"), "{refused}");
        }
    }
}
