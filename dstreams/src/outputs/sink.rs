//! Sinks of connectors as outputs.

use std::sync::Arc;

use millstream_common::{failure::Failure, protocol::TaskOutput};
use millstream_connectors::sink::{Sink, SinkDriver, WriteId};
use millstream_dataflow::{
    combine::Data,
    rows::{BoxRows, CHUNK_ROWS},
    stage::Exit,
    task::Task,
};
use millstream_driver::output::SinkOutput;
use serde_json::Value;

use crate::{
    graph::{Node, Shape},
    outputs::Output,
    stream::DStream,
};

impl<T: Data> DStream<T> {
    /// Writes every batch to a sink. `settings` are those that a checkpoint depends on. For connectors; programs call theirs.
    pub fn sink(
        &self,
        kind: &str,
        settings: Value,
        writer: Arc<dyn Sink<Vec<T>>>,
        driver: Arc<dyn SinkDriver>,
    ) -> Output {
        let checking = writer.clone();
        let closing = writer.clone();
        self.add_output(Node {
            kind: kind.to_owned(),
            name: None,
            inputs: vec![self.node],
            shape: Shape::Output {
                settings,
                exchanges: Vec::new(),
                program: Box::new(move |with, open| {
                    let exit = WriteRows {
                        sink: writer.clone(),
                        output: with.id().to_owned(),
                    };
                    Ok(with.program(with.typed::<T>(open)?, exit))
                }),
                driver: Box::new(move |_, _| Arc::new(SinkOutput(driver.clone()))),
                check: Some(Arc::new(move || checking.check())),
                close: Some(Arc::new(move || closing.close())),
                empty_to_empty: true,
                speculative: false,
            },
            keeping: None,
        })
    }
}

struct WriteRows<T> {
    sink: Arc<dyn Sink<Vec<T>>>,
    output: String,
}

impl<T: Data> Exit<T> for WriteRows<T> {
    fn run(&self, mut rows: BoxRows<'_, T>, task: &Task<'_>) -> Result<TaskOutput, Failure> {
        let mut writer = task.with(|context| {
            let id = WriteId::of(context, &self.output);
            self.sink.writer(id, context)
        })?;
        let mut more = true;
        while more {
            task.check()?;
            let mut chunk = Vec::with_capacity(CHUNK_ROWS);
            more = rows.next(&mut chunk)?;
            if chunk.is_empty() {
                continue;
            }
            let written = chunk.len() as u64;
            task.with(|context| {
                context.counts.output_rows += written;
                writer.write(chunk, context)
            })?;
        }
        let commit = task.with(|context| writer.finish(context))?;
        Ok(TaskOutput {
            sink: Some(commit),
            ..TaskOutput::default()
        })
    }
}
