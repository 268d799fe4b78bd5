//! The ends of stages that write into exchanges, and the operators that begin on the other side of a keyed one.

use std::sync::Arc;

use millstream_common::{
    failure::Failure,
    protocol::{BlockMeta, TaskOutput},
    routing::{PartitionCount, Router},
    text::INLINE_CAPACITY,
};

use crate::{
    combine::{Combined, Data, Key, Table, TableOptions, Weighing},
    read::{BlockRows, Texts},
    rows::{BoxRows, CHUNK_ROWS, Opener, Rows, for_each_chunk, opener},
    stage::Exit,
    task::{OperatorIndex, Task, codec_failure},
    write::ExchangeWriter,
};

/// What the heap blocks of a long value cost besides its bytes.
const HEAP_BLOCKS: usize = 48;

/// Encoded bytes of merged rows after which a chunk is full.
const CHUNK_BYTES: usize = 1 << 20;

fn output(metas: Vec<BlockMeta>) -> TaskOutput {
    TaskOutput {
        exchanges: vec![metas],
        ..TaskOutput::default()
    }
}

/// Rows stay where they are, as one block a task.
pub struct Keep;

impl<T: Data> Exit<T> for Keep {
    fn run(&self, mut rows: BoxRows<'_, T>, task: &Task<'_>) -> Result<TaskOutput, Failure> {
        let mut writer = ExchangeWriter::keeping(task, 0);
        for_each_chunk(&mut *rows, task, |chunk| {
            chunk.iter().try_for_each(|row| writer.push(0, row))
        })?;
        Ok(output(writer.finish()?))
    }
}

/// All rows go to one partition.
pub struct Gather;

impl<T: Data> Exit<T> for Gather {
    fn run(&self, mut rows: BoxRows<'_, T>, task: &Task<'_>) -> Result<TaskOutput, Failure> {
        let mut writer = ExchangeWriter::new(task, 0, 1);
        for_each_chunk(&mut *rows, task, |chunk| {
            chunk.iter().try_for_each(|row| writer.push(0, row))
        })?;
        Ok(output(writer.finish()?))
    }
}

/// Row `i` of a task goes to partition `(task's partition + i) mod n`.
pub struct RoundRobin(pub PartitionCount);

impl<T: Data> Exit<T> for RoundRobin {
    fn run(&self, mut rows: BoxRows<'_, T>, task: &Task<'_>) -> Result<TaskOutput, Failure> {
        let count = self.0.get();
        let mut writer = ExchangeWriter::new(task, 0, count);
        let mut partition = task.id().partition % count;
        for_each_chunk(&mut *rows, task, |chunk| {
            for row in chunk {
                writer.push(partition, row)?;
                partition = (partition + 1) % count;
            }
            Ok(())
        })?;
        Ok(output(writer.finish()?))
    }
}

/// Each row goes to the partition of its key, as it is.
pub struct HashRows {
    /// How many partitions there are.
    pub partitions: PartitionCount,
    /// Who is named where a key can't be one.
    pub operator: OperatorIndex,
}

impl<K: Key, V: Data> Exit<(K, V)> for HashRows {
    fn run(&self, mut rows: BoxRows<'_, (K, V)>, task: &Task<'_>) -> Result<TaskOutput, Failure> {
        let mut writer = ExchangeWriter::new(task, 0, self.partitions.get());
        let mut router = Router::new(self.partitions);
        for_each_chunk(&mut *rows, task, |chunk| {
            self.operator.enter();
            for row in chunk {
                let partition = router
                    .partition_of(&row.0)
                    .map_err(|error| codec_failure(&error))?;
                writer.push(partition, row)?;
            }
            Ok(())
        })?;
        Ok(output(writer.finish()?))
    }
}

/// The three functions of combining by key.
pub struct CombineFunctions<Create, MergeValue, MergeCombined> {
    /// The combined value of a key's first row.
    pub create: Create,
    /// Merges a row into a combined value.
    pub merge_value: MergeValue,
    /// Merges two combined values, the earlier first.
    pub merge_combined: MergeCombined,
}

/// Rows of equal keys are combined before they go to the partition of their key.
pub struct HashCombined<Create, MergeValue, MergeCombined> {
    partitions: PartitionCount,
    operator: OperatorIndex,
    functions: Arc<CombineFunctions<Create, MergeValue, MergeCombined>>,
}

impl<Create, MergeValue, MergeCombined> HashCombined<Create, MergeValue, MergeCombined> {
    /// Combines by these functions of an operator.
    pub fn new(
        partitions: PartitionCount,
        operator: OperatorIndex,
        functions: Arc<CombineFunctions<Create, MergeValue, MergeCombined>>,
    ) -> Self {
        Self {
            partitions,
            operator,
            functions,
        }
    }
}

impl<K, V, C, Create, MergeValue, MergeCombined> Exit<(K, V)>
    for HashCombined<Create, MergeValue, MergeCombined>
where
    K: Key,
    V: Data,
    C: Data,
    Create: Fn(V) -> C + Send + Sync,
    MergeValue: Fn(C, V) -> C + Send + Sync,
    MergeCombined: Fn(C, C) -> C + Send + Sync,
{
    fn run(&self, mut rows: BoxRows<'_, (K, V)>, task: &Task<'_>) -> Result<TaskOutput, Failure> {
        let functions = &*self.functions;
        let options = TableOptions {
            route: Some(self.partitions),
            weighing: Weighing::Again,
            detach: true,
        };
        let mut table = Table::new(task, options);
        for_each_chunk(&mut *rows, task, |chunk| {
            self.operator.enter();
            table.push(
                chunk,
                |_| 0,
                &functions.create,
                &functions.merge_value,
                &functions.merge_combined,
            )
        })?;
        // The pipeline's buffers go before the table is written.
        drop(rows);
        self.operator.enter();
        let mut combined = table.finish(&functions.merge_combined)?;
        let mut writer = ExchangeWriter::new(task, 0, self.partitions.get());
        let mut written = 0usize;
        while let Some((partition, key, value)) = combined.next(&functions.merge_combined)? {
            writer.push(partition, &(key, value))?;
            written += 1;
            if written.is_multiple_of(CHUNK_ROWS) {
                task.check()?;
            }
        }
        Ok(output(writer.finish()?))
    }
}

/// Combined values of equal keys out of an exchange, merged.
pub fn merge_combined<K, C, F>(
    list: usize,
    operator: OperatorIndex,
    merge_combined: Arc<F>,
) -> Opener<(K, C)>
where
    K: Key,
    C: Data,
    F: Fn(C, C) -> C + Send + Sync + 'static,
{
    opener(move |task| {
        Ok(Box::new(Merging {
            task,
            list,
            operator,
            create: |value: C| value,
            merge_value: merge_combined.clone(),
            merge_combined: merge_combined.clone(),
            weigh: |_| 0,
            weighing: Weighing::Again,
            combined: None,
            value: std::marker::PhantomData::<fn() -> C>,
        }))
    })
}

/// Values of equal keys out of an exchange as lists, in map order and each map task's order of rows. A group must fit into memory, all groups
/// together need not.
pub fn group<K: Key, V: Data>(list: usize, operator: OperatorIndex) -> Opener<(K, Vec<V>)> {
    opener(move |task| {
        Ok(Box::new(Merging {
            task,
            list,
            operator,
            create: |value: V| vec![value],
            merge_value: Arc::new(|mut group: Vec<V>, value: V| {
                group.push(value);
                group
            }),
            merge_combined: Arc::new(|mut earlier: Vec<V>, mut later: Vec<V>| {
                earlier.append(&mut later);
                earlier
            }),
            weigh: weight_in_list::<V>,
            weighing: Weighing::Added,
            combined: None,
            value: std::marker::PhantomData::<fn() -> V>,
        }))
    })
}

/// What a value of this encoded size weighs in a list that has up to twice the room that it needs.
fn weight_in_list<V>(encoded: usize) -> usize {
    let heap_blocks = if encoded > INLINE_CAPACITY {
        HEAP_BLOCKS
    } else {
        0
    };
    encoded + 2 * size_of::<V>() + heap_blocks
}

struct Merging<'t, 'a, K, V, C, Create, MergeValue, MergeCombined> {
    task: &'t Task<'a>,
    list: usize,
    operator: OperatorIndex,
    create: Create,
    merge_value: Arc<MergeValue>,
    merge_combined: Arc<MergeCombined>,
    weigh: fn(usize) -> usize,
    weighing: Weighing,
    combined: Option<Combined<'t, 'a, K, C>>,
    value: std::marker::PhantomData<fn() -> V>,
}

impl<'t, 'a, K, V, C, Create, MergeValue, MergeCombined>
    Merging<'t, 'a, K, V, C, Create, MergeValue, MergeCombined>
where
    K: Key,
    V: Data,
    C: Data,
    Create: Fn(V) -> C,
    MergeValue: Fn(C, V) -> C,
    MergeCombined: Fn(C, C) -> C,
{
    fn combine(&self) -> Result<Combined<'t, 'a, K, C>, Failure> {
        let options = TableOptions {
            route: None,
            weighing: self.weighing,
            detach: false,
        };
        let mut table = Table::new(self.task, options);
        let mut rows = BlockRows::<(K, V)>::open(self.task, self.list, Texts::Owned)?;
        let mut chunk = Vec::with_capacity(CHUNK_ROWS);
        let mut sizes = Vec::with_capacity(CHUNK_ROWS);
        loop {
            self.task.check()?;
            sizes.clear();
            let more = rows.read(&mut chunk, &mut sizes)?;
            self.operator.enter();
            table.push(
                &mut chunk,
                |row| (self.weigh)(sizes[row]),
                &self.create,
                &*self.merge_value,
                &*self.merge_combined,
            )?;
            if !more {
                return table.finish(&*self.merge_combined);
            }
        }
    }
}

impl<K, V, C, Create, MergeValue, MergeCombined> Rows<(K, C)>
    for Merging<'_, '_, K, V, C, Create, MergeValue, MergeCombined>
where
    K: Key,
    V: Data,
    C: Data,
    Create: Fn(V) -> C,
    MergeValue: Fn(C, V) -> C,
    MergeCombined: Fn(C, C) -> C,
{
    fn next(&mut self, chunk: &mut Vec<(K, C)>) -> Result<bool, Failure> {
        let mut combined = match self.combined.take() {
            Some(combined) => combined,
            None => self.combine()?,
        };
        self.operator.enter();
        // Groups can be large: a chunk of them is bounded by bytes too.
        let until = combined.read_bytes().saturating_add(CHUNK_BYTES);
        while chunk.len() < CHUNK_ROWS && combined.read_bytes() < until {
            match combined.next(&*self.merge_combined)? {
                Some((_, key, value)) => chunk.push((key, value)),
                None => return Ok(false),
            }
        }
        self.combined = Some(combined);
        Ok(true)
    }
}
