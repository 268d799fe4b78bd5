//! Where results go.
//!
//! Layout:
//! - `console`: printed by the driver
//! - `files`: files in a folder
//! - `kafka`: topics
//! - `memory`: kept by the driver, or handed to a function there

mod console;
pub(crate) mod files;
pub(crate) mod kafka;
pub(crate) mod memory;

use std::sync::Arc;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use jiff::tz::TimeZone;
use millstream_common::{failure::Failure, protocol::SinkCommit};
use millstream_connectors::{kafka::sink::KafkaSink, sink::Sink};
use millstream_dataflow::program::TaskContext;
use millstream_driver::output::{OutputDriver, SinkOutput};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::{
    files::{FilePublisher, FileSink, FilesWriter},
    kafka::{KafkaTopics, RecordWriter},
    memory::{BatchFunction, ForEachBatch, MemoryOutput, MemoryTable},
};
use crate::{
    error::Error,
    options::Options,
    output_mode::OutputMode,
    program::ExitSpec,
    session::Session,
    show::{Shown, check_columns},
};

/// A sink, as a writer was set to.
#[derive(Clone)]
pub(crate) enum SinkSpec {
    Console(Shown),
    Files(FileSink),
    ForEachBatch(BatchFunction),
    Kafka(KafkaTopics),
    Memory,
    Noop,
}

/// What of a sink runs on executors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TaskSink {
    Files(FileSink),
    Kafka {
        topics: KafkaTopics,
        build_id: String,
    },
}

const FORMATS: &str = "console, csv, json, kafka, memory, noop, parquet and text";

/// What a writer says beside format and options.
pub(crate) struct Wanted<'w> {
    pub(crate) mode: OutputMode,
    pub(crate) partition_by: Vec<String>,
    pub(crate) session: &'w Session,
}

impl SinkSpec {
    /// Reads a writer's settings.
    pub(crate) fn of(
        format: &str,
        mut options: Options,
        wanted: Wanted<'_>,
    ) -> Result<Self, Error> {
        let format = format.to_ascii_lowercase();
        let output = format!("{format}-0");
        let is_file = matches!(format.as_str(), "csv" | "json" | "parquet" | "text");
        if !is_file && !wanted.partition_by.is_empty() {
            return Err(Error::refused(
                format!("format {format} has no partition columns"),
                "leave partition_by out, or write files",
            ));
        }
        if is_file && wanted.mode != OutputMode::Append {
            return Err(Error::refused(
                format!(
                    "Data source {format} does not support {} output mode",
                    wanted.mode
                ),
                "use append mode; an aggregate needs a watermark for it",
            ));
        }
        let spec = match format.as_str() {
            "console" => {
                let rows = options.take_number("numRows", "a number of rows")?;
                let truncate = match options.take("truncate") {
                    None => Some(20),
                    Some(value) => match value.to_ascii_lowercase().as_str() {
                        "true" => Some(20),
                        "false" | "0" => None,
                        other => Some(other.parse().map_err(|_| {
                            Error::option(
                                "truncate",
                                &value,
                                "it is true, false or a number of letters",
                            )
                        })?),
                    },
                };
                options.all_taken("console", &["numRows", "truncate", "checkpointLocation"])?;
                Self::Console(Shown {
                    rows: rows.unwrap_or(20),
                    truncate,
                })
            }
            "noop" | "memory" => {
                options.all_taken(&format, &["checkpointLocation"])?;
                match format.as_str() {
                    "noop" => Self::Noop,
                    _ => Self::Memory,
                }
            }
            "kafka" => Self::Kafka(KafkaTopics::of(
                &mut options,
                output,
                wanted.session.kafka_sinks(),
            )?),
            _ if is_file => Self::Files(FileSink::of(
                &format,
                &mut options,
                wanted.partition_by,
                output,
                wanted.session.fsync(),
            )?),
            _ => {
                return Err(Error::option(
                    "format",
                    &format,
                    format!("streams are written to {FORMATS}"),
                ));
            }
        };
        Ok(spec)
    }

    /// Such as `console`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Console(_) => "console",
            Self::Files(files) => files.format.name(),
            Self::ForEachBatch(_) => "foreachbatch",
            Self::Kafka(_) => "kafka",
            Self::Memory => "memory",
            Self::Noop => "noop",
        }
    }

    /// Spark's description, for progress.
    pub(crate) fn description(&self) -> String {
        match self {
            Self::Console(_) => "ConsoleTable".to_owned(),
            Self::Files(files) => format!("FileSink[file:{}]", files.folder.display()),
            Self::ForEachBatch(_) => "ForeachBatchSink".to_owned(),
            Self::Kafka(_) => "KafkaTable".to_owned(),
            Self::Memory => "MemorySink".to_owned(),
            Self::Noop => "NoopTable".to_owned(),
        }
    }

    /// Whether this can be written there.
    pub(crate) fn check(&self, schema: &SchemaRef) -> Result<(), Error> {
        match self {
            Self::Files(files) => files.check(schema),
            Self::Kafka(topics) => topics.check(schema),
            Self::Console(_) => check_columns(schema.fields(), "shown"),
            Self::ForEachBatch(_) | Self::Memory | Self::Noop => Ok(()),
        }
    }

    /// What a checkpoint depends on.
    pub(crate) fn fingerprint(&self, mode: OutputMode) -> Value {
        let mut settings = json!({ "outputMode": mode.to_string() });
        match self {
            Self::Files(files) => settings["path"] = json!(files.folder),
            Self::Kafka(topics) => settings["kafka"] = topics.fingerprint(),
            Self::Console(_) | Self::ForEachBatch(_) | Self::Memory | Self::Noop => {}
        }
        settings
    }

    /// Whether several attempts of one task may run at a time.
    pub(crate) fn is_speculative(&self) -> bool {
        !matches!(self, Self::Files(_) | Self::Kafka(_))
    }

    pub(crate) fn exit(&self, build_id: &str) -> ExitSpec {
        match self {
            // One more, to know whether there are more.
            Self::Console(shown) => ExitSpec::Collect {
                rows: Some(shown.rows.saturating_add(1)),
            },
            Self::Memory | Self::ForEachBatch(_) => ExitSpec::Collect { rows: None },
            Self::Noop => ExitSpec::Drop,
            Self::Files(files) => ExitSpec::Sink(TaskSink::Files(files.clone())),
            Self::Kafka(topics) => ExitSpec::Sink(TaskSink::Kafka {
                topics: topics.clone(),
                build_id: build_id.to_owned(),
            }),
        }
    }

    /// The driver half.
    pub(crate) fn driver(
        &self,
        schema: &SchemaRef,
        mode: OutputMode,
        table: Option<&MemoryTable>,
        session: &Session,
    ) -> Arc<dyn OutputDriver> {
        match self {
            Self::Console(shown) => Arc::new(console::ConsoleOutput {
                schema: Arc::clone(schema),
                shown: *shown,
                console: session.console().clone(),
                zone: session.zone().clone(),
            }),
            Self::Noop => Arc::new(NoopOutput),
            Self::Memory => Arc::new(MemoryOutput {
                table: table.cloned().unwrap_or_else(|| MemoryTable::new(schema)),
                mode,
            }),
            Self::ForEachBatch(function) => Arc::new(ForEachBatch {
                function: Arc::clone(function),
                schema: Arc::clone(schema),
                session: session.downgrade(),
            }),
            Self::Files(files) => Arc::new(SinkOutput(Arc::new(FilePublisher::new(files.clone())))),
            Self::Kafka(topics) => Arc::new(SinkOutput(
                topics.driver(session.clock(), session.build_id()),
            )),
        }
    }
}

struct NoopOutput;

impl OutputDriver for NoopOutput {}

/// A sink on an executor, with what it holds from batch to batch.
pub(crate) enum ExecutorSink {
    Files(Arc<FileSink>),
    Kafka(KafkaTopics, KafkaSink),
}

/// One attempt's write.
pub(crate) enum TaskWriter {
    Files(FilesWriter),
    Kafka(RecordWriter),
}

impl ExecutorSink {
    pub(crate) fn new(spec: TaskSink) -> Self {
        match spec {
            TaskSink::Files(files) => Self::Files(Arc::new(files)),
            TaskSink::Kafka { topics, build_id } => {
                let sink = topics.sink(&build_id);
                Self::Kafka(topics, sink)
            }
        }
    }

    pub(crate) fn writer(
        &self,
        schema: &SchemaRef,
        zone: &TimeZone,
        task: &TaskContext<'_>,
    ) -> Result<TaskWriter, Failure> {
        Ok(match self {
            Self::Files(files) => TaskWriter::Files(FilesWriter::new(files, schema, zone, task)),
            Self::Kafka(topics, sink) => TaskWriter::Kafka(topics.writer(sink, task)?),
        })
    }

    pub(crate) fn close(&self) {
        if let Self::Kafka(_, sink) = self {
            sink.close();
        }
    }
}

impl TaskWriter {
    pub(crate) fn write(
        &mut self,
        batch: &RecordBatch,
        task: &mut TaskContext<'_>,
    ) -> Result<(), Failure> {
        match self {
            Self::Files(writer) => writer.write(batch, task),
            Self::Kafka(writer) => writer.write(batch, task),
        }
    }

    pub(crate) fn finish(self, task: &mut TaskContext<'_>) -> Result<SinkCommit, Failure> {
        match self {
            Self::Files(writer) => writer.finish(task),
            Self::Kafka(writer) => writer.finish(task),
        }
    }
}
