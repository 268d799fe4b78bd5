//! [`StreamingContext`]: where a job function declares its sources, and through which it sees the outside.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream_common::protocol::Application;
use millstream_common::{
    failure::{Failure, FailureKind},
    protocol::TaskInput,
    routing::MAX_PARTITIONS,
};
use millstream_connectors::source::{More, SplitReader, SplitSource};
use millstream_dataflow::{
    combine::Data,
    rows::{Opener, Rows, opener},
    task::Task,
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    compile::{CompileOptions, CompiledJob, compile},
    error::Error,
    graph::{Graph, Keeping, Node, NodeId, Shape, SourceFactory, erase},
    stream::DStream,
};

/// Which side builds the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The driver: what the job function reads through the context is recorded.
    Driver,
    /// An executor: what it reads is what the driver recorded.
    Executor,
}

/// The graph of an application under construction. Cheap to clone; clones are the same context.
#[derive(Clone)]
pub struct StreamingContext {
    inner: Arc<Inner>,
}

struct Inner {
    side: Side,
    application: Application,
    graph: Arc<Mutex<Graph>>,
    recorded: Mutex<BTreeMap<String, Value>>,
}

impl StreamingContext {
    /// A context without streams. Its partition count is the application's, between 1 and 4,096.
    pub fn new(application: Application, side: Side) -> Self {
        let recorded = application.recorded.clone();
        Self {
            inner: Arc::new(Inner {
                side,
                application,
                graph: Arc::default(),
                recorded: Mutex::new(recorded),
            }),
        }
    }

    /// The application's name.
    pub fn name(&self) -> &str {
        &self.inner.application.name
    }

    /// Partitions of an exchange where no count is asked for.
    pub fn parallelism(&self) -> u32 {
        self.inner.application.parallelism.clamp(1, MAX_PARTITIONS)
    }

    /// The batch interval; zero when batches run back to back.
    pub fn batch_interval(&self) -> Duration {
        Duration::from_millis(self.inner.application.batch_interval_millis)
    }

    /// A value of the configuration, as text.
    pub fn configuration(&self, key: &str) -> Option<&str> {
        self.inner
            .application
            .configuration
            .get(key)
            .map(String::as_str)
    }

    /// The application's own arguments.
    ///
    /// # Errors
    /// [`Error::Arguments`].
    pub fn arguments<A: DeserializeOwned>(&self) -> Result<A, Error> {
        serde_json::from_value(self.inner.application.arguments.clone()).map_err(|error| {
            Error::Arguments {
                reason: error.to_string(),
            }
        })
    }

    /// Reads something outside of the arguments (a file, the clock) so that both sides see the same: `read` runs on the driver, executors get its
    /// value. A second call of the same name gives the first one's value.
    ///
    /// # Errors
    /// When `read` fails, or its value can't be kept as JSON, or the driver never read under this name.
    pub fn record<V, E>(&self, name: &str, read: impl FnOnce() -> Result<V, E>) -> Result<V, Error>
    where
        V: Serialize + DeserializeOwned,
        E: std::fmt::Display,
    {
        let failed = |reason: String| Error::Recording {
            name: name.to_owned(),
            reason,
        };
        let known = self.inner.recorded.lock().get(name).cloned();
        if let Some(value) = known {
            return serde_json::from_value(value).map_err(|error| failed(error.to_string()));
        }
        if self.inner.side == Side::Executor {
            return Err(Error::NotRecorded {
                name: name.to_owned(),
            });
        }
        let value = read().map_err(|error| failed(error.to_string()))?;
        let json = serde_json::to_value(&value).map_err(|error| failed(error.to_string()))?;
        self.inner.recorded.lock().insert(name.to_owned(), json);
        Ok(value)
    }

    /// All that was recorded, for [`Application::recorded`].
    pub fn recorded(&self) -> BTreeMap<String, Value> {
        self.inner.recorded.lock().clone()
    }

    /// A stream of a source. `settings` are those that a checkpoint depends on. For connectors; programs call theirs.
    pub fn source<T: Data>(
        &self,
        kind: &str,
        settings: Value,
        driver: SourceFactory,
        reader: Arc<dyn SplitSource<Vec<T>>>,
    ) -> DStream<T> {
        let closing = reader.clone();
        let node = self.inner.graph.lock().add(Node {
            kind: kind.to_owned(),
            name: None,
            inputs: Vec::new(),
            shape: Shape::Source {
                settings,
                driver,
                open: Box::new(move |_| erase(read_split(reader.clone()))),
                close: Arc::new(move || closing.close()),
            },
            keeping: Some(Keeping::of::<T>()),
        });
        self.stream(node)
    }

    /// The union of several streams; at least one.
    pub fn union<T: Data>(&self, first: &DStream<T>, others: &[DStream<T>]) -> DStream<T> {
        first.union_all(others)
    }

    fn stream<T>(&self, node: NodeId) -> DStream<T> {
        DStream::new(self.inner.graph.clone(), node, self.parallelism())
    }

    /// Cuts the graph into stages. Nothing can be added afterwards.
    ///
    /// # Errors
    /// What is wrong with the graph.
    pub fn compile(&self, options: &CompileOptions) -> Result<CompiledJob, Error> {
        compile(&mut self.inner.graph.lock(), options)
    }
}

fn read_split<T: 'static>(source: Arc<dyn SplitSource<Vec<T>>>) -> Opener<T> {
    opener(move |task| {
        let reader = task.with(|context| {
            let TaskInput::Split { split, .. } = context.input.clone() else {
                return Err(Failure::new(
                    FailureKind::Internal,
                    "the task should read a split, but was given blocks",
                ));
            };
            source.open(&split, context)
        })?;
        Ok(Box::new(SplitRows { reader, task }))
    })
}

struct SplitRows<'t, 'a, T> {
    reader: Box<dyn SplitReader<Vec<T>>>,
    task: &'t Task<'a>,
}

impl<T> Rows<T> for SplitRows<'_, '_, T> {
    fn next(&mut self, chunk: &mut Vec<T>) -> Result<bool, Failure> {
        let more = self.task.with(|context| self.reader.next(chunk, context))?;
        Ok(more == More::Yes)
    }
}
