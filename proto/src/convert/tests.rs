//! Round trips through the wire form, and messages that must be refused.

use std::fmt::Debug;

use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind, Fault, Retry},
    ids::{BatchId, BlockId, Epoch, ExecutorId, OutputIndex, QueryId, SourceId, StageId, TaskId},
    protocol::{
        Application, BlockLocation, BlockMeta, EventTimesSeen, Heartbeat, Hello, QueryGrant,
        QueryProgram, RegisterReply, RegisterRequest, SharedFile, SinkCommit, StageLaunch,
        StateFile, TaskCounts, TaskInput, TaskOutput, TaskReport, TaskSpec, ToDriver, ToExecutor,
        Watermarks,
    },
    time::BatchTime,
};
use proptest::{collection::btree_map, collection::vec, option, prelude::*};
use prost::Message;
use serde_json::Value;
use uuid::Uuid;

use super::ConversionError;
use crate::pb;

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(".{0,4}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn query() -> impl Strategy<Value = QueryId> {
    any::<u128>().prop_map(|bits| QueryId(Uuid::from_u128(bits)))
}

fn executor() -> impl Strategy<Value = ExecutorId> {
    any::<u128>().prop_map(|bits| ExecutorId(Uuid::from_u128(bits)))
}

prop_compose! {
    fn task()(
        query in query(), epoch in any::<u64>(), batch in any::<u64>(), stage in any::<u32>(),
        partition in any::<u32>(), attempt in any::<u32>(),
    ) -> TaskId {
        TaskId {
            query, epoch: Epoch(epoch), batch: BatchId(batch), stage: StageId(stage), partition, attempt,
        }
    }
}

prop_compose! {
    fn block()(task in task(), exchange in any::<u32>(), partition in any::<u32>()) -> BlockId {
        BlockId { task, exchange, partition }
    }
}

prop_compose! {
    fn meta()(bytes in any::<u64>(), rows in any::<u64>(), checksum in any::<u64>()) -> BlockMeta {
        BlockMeta { bytes, rows, checksum }
    }
}

fn kind() -> impl Strategy<Value = FailureKind> {
    prop_oneof![
        Just(FailureKind::UserCode),
        Just(FailureKind::BadInput),
        (block(), executor())
            .prop_map(|(block, executor)| FailureKind::FetchFailed { block, executor }),
        Just(FailureKind::Io),
        Just(FailureKind::OutOfMemory),
        Just(FailureKind::Cancelled),
        Just(FailureKind::ExecutorLost),
        Just(FailureKind::Superseded),
        Just(FailureKind::Nondeterministic),
        Just(FailureKind::DataLoss),
        Just(FailureKind::Internal),
    ]
}

prop_compose! {
    fn failure()(
        code in ".{0,8}", kind in kind(),
        fault in prop_oneof![Just(Fault::User), Just(Fault::Environment), Just(Fault::Internal)],
        retry in prop_oneof![Just(Retry::Never), Just(Retry::Now), Just(Retry::Backoff)],
        message in ".{0,20}", causes in vec(".{0,8}", 0..3), operator in option::of(".{0,8}"),
        task in option::of(task()),
    ) -> Failure {
        Failure { code, kind, fault, retry, message, causes, operator, task }
    }
}

prop_compose! {
    fn state_file()(operator in ".{0,4}", partition in any::<u32>(), file in ".{0,4}", numbers in any::<[u64; 4]>()) -> StateFile {
        let [offset, length, checksum, rows] = numbers;
        StateFile { operator, partition, file, offset, length, checksum, rows }
    }
}

prop_compose! {
    fn output()(
        exchanges in vec(vec(meta(), 0..3), 0..3),
        result in option::of(vec(any::<u8>(), 0..9).prop_map(Bytes::from)),
        sink in option::of((any::<u32>(), any::<u64>(), any::<u64>(), json())),
        state in vec(state_file(), 0..2),
        event_times in btree_map(".{0,4}", (any::<i64>(), any::<i64>(), any::<Option<i64>>(), -1e15..1e15, any::<u64>()), 0..3),
        counts in any::<[u64; 17]>(),
    ) -> TaskOutput {
        TaskOutput {
            exchanges,
            result,
            sink: sink.map(|(partition, rows, checksum, payload)| SinkCommit { partition, rows, checksum, payload }),
            state,
            event_times: event_times.into_iter().map(|(name, (min, max, counted, mean, count))| (name, EventTimesSeen { min, max, counted, mean, count })).collect(),
            counts: TaskCounts {
                input_rows: counts[0],
                input_bytes: counts[1],
                malformed: counts[2],
                shuffle_rows_read: counts[3],
                shuffle_rows_written: counts[4],
                output_rows: counts[5],
                spilled_bytes: counts[6],
                kafka_records: counts[7],
                kafka_ranges_buffered: counts[8],
                kafka_ranges_awaited: counts[9],
                late_rows: counts[10],
                state_rows_updated: counts[11],
                state_rows_removed: counts[12],
                state_memory_bytes: counts[13],
                state_update_micros: counts[14],
                state_removal_micros: counts[15],
                state_commit_micros: counts[16],
            },
        }
    }
}

prop_compose! {
    fn report()(
        task in task(),
        outcome in prop_oneof![output().prop_map(Ok), failure().prop_map(Err)],
        run_micros in any::<u64>(),
    ) -> TaskReport {
        TaskReport { task, outcome, run_micros }
    }
}

fn location() -> impl Strategy<Value = BlockLocation> {
    // Few distinct writers, so that sharing them is exercised.
    let writer = (0u64..3, 0u128..2, prop_oneof![Just("a:1"), Just("b:2")]);
    (writer, any::<u32>(), any::<u32>(), meta()).prop_map(
        |((batch, executor, address), exchange, partition, meta)| BlockLocation {
            task: TaskId {
                query: QueryId(Uuid::nil()),
                epoch: Epoch(1),
                batch: BatchId(batch),
                stage: StageId(0),
                partition: 0,
                attempt: 0,
            },
            exchange,
            partition,
            executor: ExecutorId(Uuid::from_u128(executor)),
            address: address.to_owned(),
            meta,
        },
    )
}

fn input() -> impl Strategy<Value = TaskInput> {
    prop_oneof![
        (any::<u32>(), json()).prop_map(|(source, split)| TaskInput::Split {
            source: SourceId(source),
            split
        }),
        vec(vec(location(), 0..5), 0..3).prop_map(TaskInput::Blocks),
    ]
}

prop_compose! {
    fn launch()(
        query in query(), epoch in any::<u64>(), batch in any::<u64>(), time in any::<i64>(), stage in any::<u32>(),
        output in option::of(any::<u32>()), rerun in any::<bool>(), late in option::of(any::<i64>()), evict in option::of(any::<i64>()),
        spill_threshold in option::of(any::<u64>()),
        tasks in vec((any::<[u32; 3]>(), input(), vec(state_file(), 0..3)), 0..4),
    ) -> StageLaunch {
        StageLaunch {
            query,
            epoch: Epoch(epoch),
            batch: BatchId(batch),
            batch_time: BatchTime(time),
            stage: StageId(stage),
            output: output.map(OutputIndex),
            rerun,
            watermarks: Watermarks { late, evict },
            spill_threshold,
            tasks: tasks
                .into_iter()
                .map(|([partition, attempt, branch], input, state)| TaskSpec { partition, attempt, branch, input, state })
                .collect(),
        }
    }
}

fn to_driver() -> impl Strategy<Value = ToDriver> {
    prop_oneof![
        (vec(task(), 0..3), vec(report(), 0..3))
            .prop_map(|(running, finished)| ToDriver::Truth { running, finished }),
        report().prop_map(|report| ToDriver::Report(Box::new(report))),
        (any::<u32>(), any::<[u64; 3]>()).prop_map(|(running, bytes)| ToDriver::Heartbeat(
            Heartbeat {
                running,
                resident_bytes: bytes[0],
                block_bytes: bytes[1],
                spilled_bytes: bytes[2],
            }
        )),
        Just(ToDriver::Leaving),
    ]
}

fn to_executor() -> impl Strategy<Value = ToExecutor> {
    let grant = (query(), any::<u64>()).prop_map(|(query, epoch)| QueryGrant {
        query,
        epoch: Epoch(epoch),
    });
    prop_oneof![
        (vec(grant, 0..3), vec(task(), 0..3))
            .prop_map(|(queries, wanted)| ToExecutor::Reconcile { queries, wanted }),
        launch().prop_map(ToExecutor::Launch),
        (query(), vec(any::<u8>(), 0..20), option::of("[a-z/]{0,9}")).prop_map(
            |(query, bytes, checkpoint)| {
                ToExecutor::Program(Box::new(QueryProgram {
                    query,
                    bytes: bytes.into(),
                    checkpoint,
                    shared_files: vec![SharedFile {
                        path: "/a".to_owned(),
                        nonce: "n".to_owned(),
                        purpose: "checkpoint".to_owned(),
                    }],
                }))
            }
        ),
        vec(task(), 0..3).prop_map(ToExecutor::Cancel),
        (query(), any::<u64>(), any::<u64>()).prop_map(|(query, epoch, through)| {
            ToExecutor::DropBatches {
                query,
                epoch: Epoch(epoch),
                through: BatchId(through),
            }
        }),
        ".{0,9}".prop_map(|reason| ToExecutor::Shutdown { reason }),
    ]
}

prop_compose! {
    fn reply()(
        executor in executor(), name in ".{0,8}", arguments in json(),
        configuration in btree_map(".{0,8}", ".{0,8}", 0..3), parallelism in any::<u32>(), interval in any::<u64>(),
        recorded in btree_map(".{0,8}", json(), 0..3), files in vec([".{0,8}", ".{0,8}", ".{0,8}"], 0..3),
    ) -> RegisterReply {
        RegisterReply {
            executor,
            application: Application {
                name, arguments, configuration, parallelism, batch_interval_millis: interval, build_id: "b".to_owned(), recorded,
            },
            shared_files: files
                .into_iter()
                .map(|[path, nonce, purpose]| SharedFile { path, nonce, purpose })
                .collect(),
        }
    }
}

fn round_trip<Domain, Wire>(value: Domain)
where
    Domain: Clone + PartialEq + Debug + TryFrom<Wire>,
    <Domain as TryFrom<Wire>>::Error: Debug,
    Wire: From<Domain> + Message + Default,
{
    let bytes = Wire::from(value.clone()).encode_to_vec();
    let wire = Wire::decode(bytes.as_slice()).expect("decodes");
    assert_eq!(Domain::try_from(wire).expect("converts"), value);
}

proptest! {
    #[test]
    fn messages_to_the_driver_survive_the_wire(message in to_driver()) {
        round_trip::<_, pb::ExecutorMessage>(message);
    }

    #[test]
    fn messages_to_executors_survive_the_wire(message in to_executor()) {
        round_trip::<_, pb::DriverMessage>(message);
    }

    #[test]
    fn registrations_survive_the_wire(
        reply in reply(), texts in any::<[String; 5]>(), numbers in any::<[u32; 3]>(), executor in executor(),
    ) {
        round_trip::<_, pb::RegisterReply>(reply);
        let [version, build_id, block_address, http_address, host] = texts.clone();
        let [protocol, cores, process_id] = numbers;
        round_trip::<_, pb::RegisterRequest>(RegisterRequest {
            protocol, version, build_id, cores, block_address, http_address, process_id, host,
        });
        let [fingerprint, unshared, ..] = texts;
        round_trip::<_, pb::ExecutorMessage>(Hello { executor, fingerprint, unshared: vec![unshared] });
    }

    #[test]
    fn failures_and_blocks_survive_the_wire(failure in failure(), block in block()) {
        round_trip::<_, pb::Failure>(failure);
        round_trip::<_, pb::BlockId>(block);
    }

    #[test]
    fn random_bytes_are_refused_or_taken_but_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = pb::DriverMessage::decode(bytes.as_slice()) {
            let _refused_or_taken = ToExecutor::try_from(message);
        }
        if let Ok(message) = pb::ExecutorMessage::decode(bytes.as_slice()) {
            let _refused_or_taken = ToDriver::try_from(message);
        }
    }
}

#[test]
fn errors_name_message_and_field() {
    let task = pb::TaskId {
        query: Bytes::from_static(b"short"),
        ..pb::TaskId::default()
    };
    let error = TaskId::try_from(task).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "message TaskId, field query: an id has 16 bytes, this has 5"
    );
    let error = ToExecutor::try_from(pb::DriverMessage::default()).expect_err("refused");
    assert_eq!((error.message, error.field), ("DriverMessage", "message"));
}

#[test]
fn a_location_with_an_unknown_writer_is_refused() {
    let location = pb::BlockLocation {
        writer: 7,
        ..pb::BlockLocation::default()
    };
    let blocks = pb::BlocksInput {
        exchanges: vec![pb::BlockList {
            blocks: vec![location],
        }],
    };
    let launch = pb::StageLaunch {
        query: Bytes::from_static(&[0; 16]),
        tasks: vec![pb::TaskSpec {
            input: Some(pb::task_spec::Input::Blocks(blocks)),
            ..pb::TaskSpec::default()
        }],
        ..pb::StageLaunch::default()
    };
    let error: ConversionError = StageLaunch::try_from(launch).expect_err("refused");
    assert_eq!(error.field, "writer");
}

#[test]
fn a_launch_says_each_writer_once() {
    let locations = |partition| {
        (0..10)
            .map(|map| BlockLocation {
                task: TaskId {
                    query: QueryId(Uuid::nil()),
                    epoch: Epoch(1),
                    batch: BatchId(1),
                    stage: StageId(0),
                    partition: map,
                    attempt: 0,
                },
                exchange: 0,
                partition,
                executor: ExecutorId(Uuid::nil()),
                address: "127.0.0.1:1".to_owned(),
                meta: BlockMeta::default(),
            })
            .collect::<Vec<_>>()
    };
    let launch = StageLaunch {
        query: QueryId(Uuid::nil()),
        epoch: Epoch(1),
        batch: BatchId(1),
        batch_time: BatchTime(0),
        stage: StageId(1),
        output: None,
        rerun: false,
        watermarks: Watermarks::default(),
        spill_threshold: None,
        tasks: (0..8)
            .map(|partition| TaskSpec {
                partition,
                attempt: 0,
                branch: 0,
                input: TaskInput::Blocks(vec![locations(partition)]),
                state: vec![],
            })
            .collect(),
    };
    assert_eq!(pb::StageLaunch::from(launch).writers.len(), 10);
}
