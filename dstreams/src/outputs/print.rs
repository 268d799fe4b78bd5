//! print and pprint: a task renders the first rows of its partition, the driver shows the first of all.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::tz::TimeZone;
use millstream_common::{
    codec,
    failure::{Failure, FailureKind},
    protocol::TaskOutput,
};
use millstream_dataflow::{
    combine::Data,
    rows::BoxRows,
    stage::Exit,
    task::{OperatorIndex, Task, codec_failure},
};
use millstream_driver::output::{BatchInfo, BlockReader, OutputDriver, PartitionResult};
use serde::Serialize;
use serde_json::Value;

use crate::{
    display::{self, python_block, python_into, python_time, scala_block, scala_into, scala_time},
    graph::{Node, Shape},
    outputs::{Console, Output},
    stream::DStream,
};

/// Rows shown where no number is given, as in Spark.
const DEFAULT_ROWS: usize = 10;

#[derive(Clone, Copy)]
enum Layout {
    Python,
    Scala,
}

impl Layout {
    fn row<T: Serialize>(self, row: &T, line: &mut String) -> Result<(), display::Error> {
        match self {
            Self::Python => python_into(row, line),
            Self::Scala => scala_into(row, line),
        }
    }

    fn block(self, info: BatchInfo, zone: &TimeZone, rows: &[String], more: bool) -> String {
        let mut block = String::new();
        let time = info.batch_time.0;
        match self {
            Self::Python => python_block(&python_time(time, zone), rows, more, &mut block),
            Self::Scala => scala_block(&scala_time(time), rows, more, &mut block),
        }
        block
    }
}

impl<T: Data> DStream<T> {
    /// Prints the first 10 rows of every batch on the driver's stdout, as Spark's Scala API does.
    pub fn print(&self) -> Output {
        self.print_n(DEFAULT_ROWS)
    }

    /// As [`print`](Self::print), with so many rows.
    pub fn print_n(&self, rows: usize) -> Output {
        self.print_as("print", Layout::Scala, rows)
    }

    /// Prints the first 10 rows of every batch on the driver's stdout, as Spark's Python API does.
    pub fn pprint(&self) -> Output {
        self.pprint_n(DEFAULT_ROWS)
    }

    /// As [`pprint`](Self::pprint), with so many rows.
    pub fn pprint_n(&self, rows: usize) -> Output {
        self.print_as("pprint", Layout::Python, rows)
    }

    fn print_as(&self, kind: &str, layout: Layout, rows: usize) -> Output {
        self.add_output(Node {
            kind: kind.to_owned(),
            name: None,
            inputs: vec![self.node],
            shape: Shape::Output {
                settings: Value::Null,
                exchanges: Vec::new(),
                program: Box::new(move |with, open| {
                    let exit = PrintRows {
                        layout,
                        rows,
                        operator: with.node.operator(),
                    };
                    Ok(with.program(with.typed::<T>(open)?, exit))
                }),
                driver: Box::new(move |_, options| {
                    Arc::new(PrintDriver {
                        layout,
                        rows,
                        console: options.console.clone(),
                        time_zone: options.time_zone.clone(),
                    })
                }),
                check: None,
                close: None,
                empty_to_empty: true,
                speculative: true,
            },
            keeping: None,
        })
    }
}

struct PrintRows {
    layout: Layout,
    rows: usize,
    operator: OperatorIndex,
}

impl<T: Data> Exit<T> for PrintRows {
    /// Pulls no more than it shows, and one to know whether there are more.
    fn run(&self, mut rows: BoxRows<'_, T>, task: &Task<'_>) -> Result<TaskOutput, Failure> {
        let wanted = self.rows.saturating_add(1);
        let mut lines: Vec<String> = Vec::new();
        let mut chunk = Vec::new();
        let mut more = true;
        while more && lines.len() < wanted {
            task.check()?;
            chunk.clear();
            more = rows.next(&mut chunk)?;
            self.operator.enter();
            for row in chunk.iter().take(wanted - lines.len()) {
                let mut line = String::new();
                self.layout
                    .row(row, &mut line)
                    .map_err(|error| codec_failure(&error))?;
                lines.push(line);
            }
        }
        let shown = lines.len() as u64;
        task.count(|counts| counts.output_rows += shown);
        let mut encoded = Vec::new();
        codec::encode_into(&lines, &mut encoded).map_err(|error| codec_failure(&error))?;
        Ok(TaskOutput {
            result: Some(Bytes::from(encoded)),
            ..TaskOutput::default()
        })
    }
}

struct PrintDriver {
    layout: Layout,
    rows: usize,
    console: Console,
    time_zone: TimeZone,
}

#[async_trait]
impl OutputDriver for PrintDriver {
    async fn complete(
        &self,
        batch: BatchInfo,
        results: &[PartitionResult],
        _blocks: Arc<dyn BlockReader>,
    ) -> Result<(), Failure> {
        let mut lines: Vec<String> = Vec::new();
        for result in results {
            if lines.len() > self.rows {
                break;
            }
            let Some(bytes) = &result.result else {
                continue;
            };
            let (more, _) = codec::decode::<Vec<String>>(bytes).map_err(|error| {
                Failure::caused_by(
                    FailureKind::Internal,
                    "a task's printed rows can't be read",
                    &error,
                )
            })?;
            lines.extend(more);
        }
        let more = lines.len() > self.rows;
        lines.truncate(self.rows);
        let block = self.layout.block(batch, &self.time_zone, &lines, more);
        self.console.print(block).await
    }
}
