//! Stage launches. A launch names each writer of blocks once; its locations refer to writers by index.

use std::collections::HashMap;

use millstream_common::{
    ids::{BatchId, Epoch, ExecutorId, OutputIndex, SourceId, StageId, TaskId},
    protocol::{BlockLocation, StageLaunch, TaskInput, TaskSpec, Watermarks},
    time::BatchTime,
};

use super::{ConversionError, ids, json_text, parse_json, require};
use crate::pb::{self, task_spec::Input};

impl From<StageLaunch> for pb::StageLaunch {
    fn from(launch: StageLaunch) -> Self {
        let mut writers = Writers::default();
        let tasks = launch
            .tasks
            .into_iter()
            .map(|task| wire_task(task, &mut writers))
            .collect();
        Self {
            query: ids::wire_query(launch.query),
            epoch: launch.epoch.0,
            batch: launch.batch.0,
            batch_time_millis: launch.batch_time.0,
            stage: launch.stage.0,
            output: launch.output.map(|output| output.0),
            rerun: launch.rerun,
            tasks,
            writers: writers.list,
            late_watermark_millis: launch.watermarks.late,
            evict_watermark_millis: launch.watermarks.evict,
            spill_threshold: launch.spill_threshold,
        }
    }
}

#[derive(Default)]
struct Writers {
    list: Vec<pb::BlockWriter>,
    index: HashMap<(TaskId, ExecutorId, String), u32>,
}

impl Writers {
    fn index_of(&mut self, task: TaskId, executor: ExecutorId, address: String) -> u32 {
        let next = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let list = &mut self.list;
        *self
            .index
            .entry((task, executor, address))
            .or_insert_with_key(|(_, _, address)| {
                list.push(pb::BlockWriter {
                    task: Some(task.into()),
                    executor: ids::wire_executor(executor),
                    address: address.clone(),
                });
                next
            })
    }
}

fn wire_task(task: TaskSpec, writers: &mut Writers) -> pb::TaskSpec {
    let input = match task.input {
        TaskInput::Split { source, split } => Input::Split(pb::SplitInput {
            source: source.0,
            split_json: json_text(&split),
        }),
        TaskInput::Blocks(exchanges) => {
            let mut lists = Vec::with_capacity(exchanges.len());
            for locations in exchanges {
                let blocks = locations
                    .into_iter()
                    .map(|location| pb::BlockLocation {
                        writer: writers.index_of(
                            location.task,
                            location.executor,
                            location.address,
                        ),
                        exchange: location.exchange,
                        partition: location.partition,
                        meta: Some(location.meta.into()),
                    })
                    .collect();
                lists.push(pb::BlockList { blocks });
            }
            Input::Blocks(pb::BlocksInput { exchanges: lists })
        }
    };
    pb::TaskSpec {
        partition: task.partition,
        attempt: task.attempt,
        branch: task.branch,
        input: Some(input),
        state: task.state.into_iter().map(Into::into).collect(),
    }
}

impl TryFrom<pb::StageLaunch> for StageLaunch {
    type Error = ConversionError;

    fn try_from(launch: pb::StageLaunch) -> Result<Self, ConversionError> {
        let mut writers = Vec::with_capacity(launch.writers.len());
        for writer in launch.writers {
            let task: TaskId = require(writer.task, "BlockWriter", "task")?.try_into()?;
            let executor = ids::executor(&writer.executor, "BlockWriter", "executor")?;
            writers.push((task, executor, writer.address));
        }
        let mut tasks = Vec::with_capacity(launch.tasks.len());
        for task in launch.tasks {
            tasks.push(TaskSpec {
                partition: task.partition,
                attempt: task.attempt,
                branch: task.branch,
                input: task_input(require(task.input, "TaskSpec", "input")?, &writers)?,
                state: task.state.into_iter().map(Into::into).collect(),
            });
        }
        Ok(Self {
            query: ids::query(&launch.query, "StageLaunch", "query")?,
            epoch: Epoch(launch.epoch),
            batch: BatchId(launch.batch),
            batch_time: BatchTime(launch.batch_time_millis),
            stage: StageId(launch.stage),
            output: launch.output.map(OutputIndex),
            rerun: launch.rerun,
            watermarks: Watermarks {
                late: launch.late_watermark_millis,
                evict: launch.evict_watermark_millis,
            },
            spill_threshold: launch.spill_threshold,
            tasks,
        })
    }
}

fn task_input(
    input: Input,
    writers: &[(TaskId, ExecutorId, String)],
) -> Result<TaskInput, ConversionError> {
    let blocks = match input {
        Input::Split(split) => {
            return Ok(TaskInput::Split {
                source: SourceId(split.source),
                split: parse_json(&split.split_json, "SplitInput", "split_json")?,
            });
        }
        Input::Blocks(blocks) => blocks,
    };
    let mut exchanges = Vec::with_capacity(blocks.exchanges.len());
    for list in blocks.exchanges {
        let mut locations = Vec::with_capacity(list.blocks.len());
        for location in list.blocks {
            let writer = usize::try_from(location.writer)
                .ok()
                .and_then(|index| writers.get(index));
            let Some((task, executor, address)) = writer else {
                return Err(ConversionError::new(
                    "BlockLocation",
                    "writer",
                    format!(
                        "index {} is outside the launch's {} writers",
                        location.writer,
                        writers.len()
                    ),
                ));
            };
            locations.push(BlockLocation {
                task: *task,
                exchange: location.exchange,
                partition: location.partition,
                executor: *executor,
                address: address.clone(),
                meta: require(location.meta, "BlockLocation", "meta")?.into(),
            });
        }
        exchanges.push(locations);
    }
    Ok(TaskInput::Blocks(exchanges))
}
