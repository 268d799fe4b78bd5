//! A query's program: the graph, and of each stage the plan's bytes with what goes in and comes out. It is made by the driver and sent to executors as it is.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use jiff::tz::TimeZone;
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::StageId,
    protocol::{PROTOCOL_VERSION, QueryProgram},
};
use millstream_dataflow::{
    plan::Plan,
    program::{Programs, StageProgram},
};
use serde::{Deserialize, Serialize};

use crate::{
    engine::{self, SharedContext},
    error::{Error, task_failure},
    ipc,
    sinks::{ExecutorSink, TaskSink},
    sources::{ExecutorSource, SourceSpec},
    stage::SqlStage,
    udf::Registry,
};

/// The whole.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) plan: Plan,
    /// The session's time zone.
    pub(crate) zone: String,
    pub(crate) sources: Vec<SourceSpec>,
    pub(crate) stages: Vec<StageSpec>,
}

/// A stage.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StageSpec {
    /// What the plan's leaves read; of a stage with state, what the state takes.
    pub(crate) inputs: Vec<InputSpec>,
    pub(crate) state: Option<StateSpec>,
    /// The plan's bytes; of a stage with state its one leaf reads what the state gives.
    pub(crate) plan: Vec<u8>,
    /// Of the rows that the plan gives.
    pub(crate) schema: SchemaBytes,
    pub(crate) exit: ExitSpec,
}

/// Where rows come from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum InputSpec {
    /// A split, in the tasks of this branch.
    Source {
        branch: u32,
        source: usize,
        schema: SchemaBytes,
        projection: Vec<usize>,
    },
    /// One of the exchanges that the branch reads.
    Exchange { list: usize, schema: SchemaBytes },
}

/// An aggregate that lives on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StateSpec {
    /// Its stable id.
    pub(crate) operator: String,
    /// The first so many columns are the key.
    pub(crate) group_columns: usize,
    /// The column of the key by which a watermark lets groups go.
    #[serde(default)]
    pub(crate) time: Option<usize>,
    /// Of its rows.
    pub(crate) schema: SchemaBytes,
    /// The plan that merges rows of equal keys: old ones and new ones in, merged ones out.
    pub(crate) merge: Vec<u8>,
    pub(crate) emit: Emit,
}

/// What a stateful stage hands on in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Emit {
    /// Every group.
    All,
    /// Groups that the batch changed.
    Changed,
    /// Groups that are over by the watermark, once.
    Over,
}

/// Where the rows go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ExitSpec {
    /// To one partition.
    Gather,
    /// To the partition of the key in these columns.
    Hash {
        columns: Vec<usize>,
        partitions: u32,
    },
    /// To the driver; at most so many of each task.
    Collect { rows: Option<usize> },
    /// Nowhere.
    Drop,
    /// To a sink that tasks write to.
    Sink(TaskSink),
}

/// An Arrow schema as IPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SchemaBytes(Vec<u8>);

impl SchemaBytes {
    pub(crate) fn of(schema: &SchemaRef) -> Result<Self, Error> {
        ipc::schema_bytes(schema).map(Self)
    }

    pub(crate) fn schema(&self) -> Result<SchemaRef, Error> {
        ipc::schema_of(&self.0)
    }
}

impl Program {
    pub(crate) fn encode(&self) -> Result<Bytes, Error> {
        let bytes = serde_json::to_vec(self);
        let bytes = bytes.map_err(|error| Error::internal(format!("no program: {error}")))?;
        Ok(bytes.into())
    }

    fn decode(bytes: &Bytes) -> Result<Self, Error> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::internal(format!("the program can't be read: {error}")))
    }
}

/// What an executor of a session without user functions is: it takes any query of the same release.
pub(crate) struct SessionPrograms {
    plan: Plan,
    functions: Registry,
}

impl SessionPrograms {
    pub(crate) fn new(functions: Registry) -> Self {
        Self {
            plan: Plan::default(),
            functions,
        }
    }
}

impl Programs for SessionPrograms {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn program(&self, _stage: StageId) -> Option<Arc<dyn StageProgram>> {
        None
    }

    fn session_fingerprint(&self, build_id: &str) -> String {
        let release = format!(
            "millstream {}, protocol {PROTOCOL_VERSION}, {}",
            env!("CARGO_PKG_VERSION"),
            engine::version()
        );
        if self.functions.functions().is_empty() {
            return release;
        }
        format!(
            "{release}, functions of build {build_id}: {}",
            self.functions.fingerprint()
        )
    }

    fn of_query(&self, program: &QueryProgram) -> Result<Arc<dyn Programs>, Failure> {
        let made = Program::decode(&program.bytes)
            .and_then(|program| QueryPrograms::new(program, &self.functions));
        let programs = made.map_err(|error| task_failure(error).with_retry(Retry::Never))?;
        Ok(Arc::new(programs))
    }
}

struct QueryPrograms {
    plan: Plan,
    sources: Arc<[ExecutorSource]>,
    sinks: Vec<Arc<ExecutorSink>>,
    stages: Vec<Arc<dyn StageProgram>>,
}

impl QueryPrograms {
    fn new(program: Program, functions: &Registry) -> Result<Self, Error> {
        let zone = TimeZone::get(&program.zone).map_err(|error| {
            Failure::caused_by(
                FailureKind::Io,
                format!("this machine doesn't know the time zone {}", program.zone),
                &error,
            )
        })?;
        let context: SharedContext = Arc::new(engine::executor_context(&program.zone, functions)?);
        let sources = program.sources.into_iter().map(ExecutorSource::new);
        let sources: Arc<[ExecutorSource]> = sources.collect();
        let mut stages: Vec<Arc<dyn StageProgram>> = Vec::with_capacity(program.stages.len());
        let mut sinks = Vec::new();
        for spec in program.stages {
            let stage = SqlStage::new(spec, &sources, &context, &zone)?;
            sinks.extend(stage.sink());
            stages.push(Arc::new(stage));
        }
        Ok(Self {
            plan: program.plan,
            sources,
            sinks,
            stages,
        })
    }
}

impl Programs for QueryPrograms {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn program(&self, stage: StageId) -> Option<Arc<dyn StageProgram>> {
        self.stages.get(usize::try_from(stage.0).ok()?).cloned()
    }

    fn close(&self) {
        self.sources.iter().for_each(ExecutorSource::close);
        self.sinks.iter().for_each(|sink| sink.close());
    }
}
