//! Where rows enter a plan: a leaf that is fed by the task, chunk by chunk, on the task's own thread.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    common::tree_node::TreeNodeRecursion,
    error::{DataFusionError, Result},
    execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext},
    physical_expr::EquivalenceProperties,
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
    },
};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use futures::Stream;
use parking_lot::Mutex;

use crate::{engine::PLANNED_PARTITIONS, table::StreamSource};

/// Between a task and one leaf of its plan.
#[derive(Clone, Default)]
pub(crate) struct Feed(Arc<Mutex<FeedState>>);

#[derive(Default)]
struct FeedState {
    batches: VecDeque<RecordBatch>,
    is_closed: bool,
    waker: Option<Waker>,
}

impl Feed {
    /// Whether the plan waits for rows of this leaf.
    pub(crate) fn is_wanted(&self) -> bool {
        let state = self.0.lock();
        state.waker.is_some() && !state.is_closed && state.batches.is_empty()
    }

    pub(crate) fn push(&self, batch: RecordBatch) {
        let mut state = self.0.lock();
        state.batches.push_back(batch);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

/// The leaf.
pub(crate) struct InputExec {
    index: usize,
    feed: Feed,
    scan: Option<Scan>,
    properties: Arc<PlanProperties>,
}

/// What a leaf of a plan that isn't cut yet stands for.
#[derive(Clone)]
pub(crate) struct Scan {
    pub(crate) source: Arc<StreamSource>,
    pub(crate) projection: Vec<usize>,
}

impl InputExec {
    /// A leaf of a piece of a plan.
    pub(crate) fn new(index: usize, schema: SchemaRef, feed: Feed) -> Self {
        Self {
            index,
            feed,
            scan: None,
            properties: properties(schema, 1),
        }
    }

    /// A leaf of a whole plan: several partitions, so that the planner puts in what changes them.
    pub(crate) fn scanning(scan: Scan, schema: SchemaRef) -> Self {
        Self {
            index: usize::MAX,
            feed: Feed::default(),
            scan: Some(scan),
            properties: properties(schema, PLANNED_PARTITIONS),
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn scan(&self) -> Option<&Scan> {
        self.scan.as_ref()
    }
}

fn properties(schema: SchemaRef, partitions: usize) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

impl fmt::Debug for InputExec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "InputExec({})", self.index)
    }
}

impl DisplayAs for InputExec {
    fn fmt_as(
        &self,
        _format: DisplayFormatType,
        formatter: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        write!(formatter, "InputExec: input={}", self.index)
    }
}

impl ExecutionPlan for InputExec {
    fn name(&self) -> &str {
        "InputExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        _partition: usize,
        _context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if self.scan.is_some() {
            // Nobody would feed it.
            return Err(DataFusionError::Plan(
                "what executors read can't be read by the driver itself, as in a subquery"
                    .to_owned(),
            ));
        }
        Ok(Box::pin(Fed {
            schema: self.schema(),
            feed: self.feed.clone(),
        }))
    }
}

struct Fed {
    schema: SchemaRef,
    feed: Feed,
}

impl Stream for Fed {
    type Item = Result<RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.feed.0.lock();
        if let Some(batch) = state.batches.pop_front() {
            return Poll::Ready(Some(Ok(batch)));
        }
        if state.is_closed {
            return Poll::Ready(None);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl RecordBatchStream for Fed {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// Writes leaves as their index, and reads them as leaves of these schemas and feeds.
#[derive(Default)]
pub(crate) struct InputCodec {
    pub(crate) inputs: Vec<(SchemaRef, Feed)>,
}

impl fmt::Debug for InputCodec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "InputCodec({})", self.inputs.len())
    }
}

fn foreign(what: &str) -> DataFusionError {
    DataFusionError::Internal(format!("{what} can't travel to executors"))
}

impl PhysicalExtensionCodec for InputCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        _inputs: &[Arc<dyn ExecutionPlan>],
        _context: &TaskContext,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let index = bytes
            .first_chunk::<4>()
            .map(|bytes| u32::from_le_bytes(*bytes));
        let index = index.ok_or_else(|| foreign("a leaf without a number"))? as usize;
        let input = self.inputs.get(index);
        let (schema, feed) = input.ok_or_else(|| foreign("a leaf that isn't there"))?;
        Ok(Arc::new(InputExec::new(
            index,
            Arc::clone(schema),
            feed.clone(),
        )))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        out: &mut Vec<u8>,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(input) = node.downcast_ref::<InputExec>() else {
            return Err(foreign(node.name()));
        };
        let index = u32::try_from(input.index()).map_err(|_| foreign("so many leaves"))?;
        out.extend_from_slice(&index.to_le_bytes());
        Ok(())
    }
}
