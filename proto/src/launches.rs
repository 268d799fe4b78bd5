//! Launches as messages: none larger than one may be.

use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    protocol::{BlockLocation, StageLaunch, StateFile, TaskInput, TaskReport, TaskSpec},
};
use prost::Message as _;
use serde_json::Value;

use crate::pb;

/// What a message has besides its launch, bytes, and more.
const AROUND: usize = 1_024;
/// What a block's place and its writer take at most besides the writer's address, bytes.
const BLOCK: usize = 160;
/// What a list of blocks takes at most besides its blocks, bytes.
const LIST: usize = 16;
/// What fields of fixed size take at most, bytes.
const FIXED: usize = 128;

/// A launch in messages of at most `max_message` bytes, its tasks in their order; and what is to be said of tasks that fit none.
pub fn messages(launch: StageLaunch, max_message: usize) -> (Vec<StageLaunch>, Vec<TaskReport>) {
    let limit = max_message.saturating_sub(AROUND);
    let estimate: usize = launch.tasks.iter().map(estimated_size).sum();
    if estimate <= limit {
        return (vec![launch], Vec::new());
    }
    let mut begin = launch;
    let tasks = std::mem::take(&mut begin.tasks);
    let mut parts: Vec<StageLaunch> = Vec::new();
    let mut too_large = Vec::new();
    let mut room = 0;
    for spec in tasks {
        let alone = StageLaunch {
            tasks: vec![spec],
            ..begin.clone()
        };
        let bytes = pb::StageLaunch::from(alone.clone()).encoded_len();
        if bytes > limit {
            too_large.extend(alone.tasks.iter().map(|spec| {
                let task = alone.task_id(spec);
                TaskReport {
                    task,
                    outcome: Err(does_not_fit(&alone, bytes, max_message).in_task(task)),
                    run_micros: 0,
                }
            }));
            continue;
        }
        // Writers that several tasks read are said once in a message, so together they are smaller than the sum.
        match parts.last_mut().filter(|_| bytes <= room) {
            Some(part) => part.tasks.extend(alone.tasks),
            None => {
                parts.push(alone);
                room = limit;
            }
        }
        room = room.saturating_sub(bytes);
    }
    (parts, too_large)
}

fn does_not_fit(launch: &StageLaunch, bytes: usize, max_message: usize) -> Failure {
    Failure::new(
        FailureKind::OutOfMemory,
        format!(
            "what one task of stage {} has to be told takes {bytes} bytes, a message takes {max_message}: raise rpc.max_message, or let a batch have fewer files or partitions",
            launch.stage
        ),
    )
    .with_retry(Retry::Never)
}

/// No less than a task takes in a message of its own.
fn estimated_size(spec: &TaskSpec) -> usize {
    let input = match &spec.input {
        TaskInput::Split { split, .. } => json_size(split),
        TaskInput::Blocks(lists) => lists
            .iter()
            .map(|blocks| {
                let block = |location: &BlockLocation| BLOCK + location.address.len();
                LIST + blocks.iter().map(block).sum::<usize>()
            })
            .sum(),
    };
    let state = |file: &StateFile| FIXED + file.operator.len() + file.file.len();
    FIXED + input + spec.state.iter().map(state).sum::<usize>()
}

/// No less than the value's text.
fn json_size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 32,
        Value::String(text) => text_size(text),
        Value::Array(values) => {
            2 + values
                .iter()
                .map(|value| 1 + json_size(value))
                .sum::<usize>()
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| 2 + text_size(name) + json_size(value);
            2 + fields.iter().map(field).sum::<usize>()
        }
    }
}

fn text_size(text: &str) -> usize {
    let size = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    2 + text.bytes().map(size).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use millstream_common::{
        ids::{BatchId, Epoch, ExecutorId, QueryId, SourceId, StageId, TaskId},
        protocol::BlockMeta,
        time::BatchTime,
    };
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn launch(tasks: Vec<TaskSpec>) -> StageLaunch {
        StageLaunch {
            query: QueryId(Uuid::from_u128(u128::MAX)),
            epoch: Epoch(u64::MAX),
            batch: BatchId(u64::MAX),
            batch_time: BatchTime(i64::MIN),
            stage: StageId(u32::MAX),
            output: None,
            rerun: true,
            watermarks: Default::default(),
            spill_threshold: Some(u64::MAX),
            tasks,
        }
    }

    fn spec(partition: u32, input: TaskInput) -> TaskSpec {
        TaskSpec {
            partition,
            attempt: u32::MAX,
            branch: u32::MAX,
            input,
            state: vec![],
        }
    }

    /// A task that reads a block of each of so many maps.
    fn reads(partition: u32, maps: u32) -> TaskSpec {
        let block = |map: u32| BlockLocation {
            task: TaskId {
                query: QueryId(Uuid::from_u128(u128::MAX)),
                epoch: Epoch(u64::MAX),
                batch: BatchId(u64::MAX),
                stage: StageId(u32::MAX),
                partition: u32::MAX - map,
                attempt: u32::MAX,
            },
            exchange: u32::MAX,
            partition: u32::MAX,
            executor: ExecutorId(Uuid::from_u128(u128::MAX)),
            address: "executor-1.example:65535".to_owned(),
            meta: BlockMeta {
                bytes: u64::MAX,
                rows: u64::MAX,
                checksum: u64::MAX,
            },
        };
        spec(
            partition,
            TaskInput::Blocks(vec![(0..maps).map(block).collect()]),
        )
    }

    fn size(launch: &StageLaunch) -> usize {
        pb::StageLaunch::from(launch.clone()).encoded_len()
    }

    #[test]
    fn a_launch_that_fits_no_message_goes_as_several() {
        let limit = 64 << 10;
        let tasks: Vec<TaskSpec> = (0..20).map(|partition| reads(partition, 100)).collect();
        let whole = launch(tasks.clone());
        assert!(size(&whole) > limit);
        let (parts, too_large) = messages(whole, limit);
        assert!(too_large.is_empty());
        assert!(parts.len() > 1 && parts.len() < 10, "{}", parts.len());
        assert!(parts.iter().all(|part| size(part) <= limit - AROUND));
        let sent: Vec<TaskSpec> = parts.into_iter().flat_map(|part| part.tasks).collect();
        assert_eq!(sent, tasks);
    }

    #[test]
    fn a_task_that_fits_no_message_is_told_with_the_key() {
        let tasks = vec![reads(0, 10), reads(1, 2_000), reads(2, 10)];
        let whole = launch(tasks.clone());
        let (parts, too_large) = messages(whole.clone(), 64 << 10);
        let sent: Vec<TaskSpec> = parts.into_iter().flat_map(|part| part.tasks).collect();
        assert_eq!(sent, [tasks[0].clone(), tasks[2].clone()]);
        assert_eq!(too_large.len(), 1);
        assert_eq!(too_large[0].task, whole.task_id(&tasks[1]));
        let failure = too_large[0].outcome.as_ref().expect_err("a failure");
        assert_eq!(failure.retry, Retry::Never);
        assert!(
            failure.message.contains("raise rpc.max_message"),
            "{failure}"
        );
    }

    fn state_file(number: u32) -> StateFile {
        StateFile {
            operator: format!("operator-{number}"),
            partition: u32::MAX,
            file: format!("state/operator-{number}/{}/1-1.0.delta", u32::MAX),
            offset: u64::MAX,
            length: u64::MAX,
            checksum: u64::MAX,
            rows: u64::MAX,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        // Of each part there is at times so much that nothing else makes up for what is estimated too low.
        #[test]
        fn the_estimate_is_never_too_small(
            text in prop::collection::vec(any::<char>(), 0..1_000),
            controls in prop::collection::vec(0u8..32, 0..1_000),
            numbers in prop::collection::vec(any::<f64>(), 0..1_000),
            quotes in prop::collection::vec(0usize..4, 0..1_000),
            maps in 0u32..200,
            lists in 0usize..1_000,
            files in 0u32..200,
        ) {
            let text: String = text.into_iter().collect();
            let controls: String = controls.into_iter().map(char::from).collect();
            let short: Vec<String> = quotes.iter().map(|count| "\"".repeat(*count)).collect();
            let field = |(number, name): (usize, &String)| (format!("{name}{number}"), json!(null));
            let fields: serde_json::Map<String, Value> = short.iter().enumerate().map(field).collect();
            let splits = [json!(text), json!(controls), json!(numbers), json!(short), json!(fields), json!(vec![i64::MIN; numbers.len()])];
            let splits = splits.map(|split| spec(u32::MAX, TaskInput::Split { source: SourceId(u32::MAX), split }));
            let mut stateful = spec(u32::MAX, TaskInput::Blocks(vec![]));
            stateful.state = (0..files).map(state_file).collect();
            let no_blocks = spec(u32::MAX, TaskInput::Blocks(vec![vec![]; lists]));
            for task in splits.into_iter().chain([reads(u32::MAX, maps), stateful, no_blocks]) {
                let estimate = estimated_size(&task);
                prop_assert!(size(&launch(vec![task])) <= estimate + AROUND);
            }
        }

        #[test]
        fn the_estimate_of_many_tasks_is_never_too_small(tasks in prop::collection::vec(0u32..20, 0..200)) {
            let tasks: Vec<TaskSpec> = tasks.into_iter().map(|maps| reads(u32::MAX, maps)).collect();
            let estimate: usize = tasks.iter().map(estimated_size).sum();
            prop_assert!(size(&launch(tasks)) <= estimate + AROUND);
        }
    }
}
