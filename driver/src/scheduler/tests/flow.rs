//! A batch from its start to its end: stages, outputs, what is skipped, what is summed.

use std::sync::Arc;

use millstream_common::{
    failure::FailureKind,
    ids::{BatchId, Epoch, ExecutorId},
    protocol::TaskInput,
    time::BatchTime,
};
use millstream_dataflow::plan::{Branch, Exchange, Plan};

use super::*;

fn launches(actions: &[Action]) -> Vec<(ExecutorId, usize)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Launch { executor, launch } => Some((*executor, launch.tasks.len())),
            _ => None,
        })
        .collect()
}

#[test]
fn tasks_of_a_stage_for_one_executor_travel_in_one_launch() {
    let mut bench = Bench::new(&[3, 2]);
    let actions = bench.run(0, &one_stage(), splits(5));
    let mut found = launches(&actions);
    found.sort_unstable();
    assert_eq!(found, [(executor(0), 3), (executor(1), 2)]);
}

#[test]
fn a_batch_goes_from_launch_to_done_and_sums_its_winners() {
    let mut bench = Bench::new(&[2]);
    bench.run(0, &map_reduce(2), splits(2));
    let map = bench.of(0, 0);
    assert_eq!(
        map.spec.input,
        TaskInput::Split {
            source: SourceId(0),
            split: json!(0)
        }
    );
    bench.fail(&map, FailureKind::UserCode);
    bench.succeed_stage(0);
    bench.succeed_stage(1);
    assert_eq!(bench.ready.len(), 1);
    let results: Vec<_> = bench.ready[0]
        .1
        .iter()
        .map(|result| (result.partition, result.result.clone()))
        .collect();
    assert_eq!(results, [(0, Some("0".into())), (1, Some("1".into()))]);
    assert!(bench.done.is_empty());
    bench.output_done(0, 0);
    let (_, _, summary) = &bench.done[0];
    assert_eq!((summary.tasks, summary.retries), (4, 1));
    assert_eq!(summary.counts.input_rows, 40);
    assert_eq!(summary.stages[0].tasks, 2);
}

#[test]
fn reduce_tasks_wait_for_every_map_and_read_their_blocks_in_map_order() {
    let mut bench = Bench::new(&[4]);
    bench.run(0, &map_reduce(2), splits(3));
    for partition in [2, 0] {
        let map = bench.of(0, partition);
        bench.succeed(&map);
    }
    assert!(bench.of_stage(1).is_empty());
    let last = bench.of(0, 1);
    let output = bench.output_of(&last.id, |_, partition| u64::from(partition));
    bench.report(&last, Ok(output));
    // Map 1 wrote no rows for partition 0.
    assert_eq!(inputs(&bench.of(1, 0)), [vec![(0, 0), (2, 0)]]);
    assert_eq!(inputs(&bench.of(1, 1)), [vec![(0, 0), (1, 0), (2, 0)]]);
}

#[test]
fn a_branch_reads_its_exchanges_side_by_side_and_a_union_one_after_the_other() {
    let both = Branch::Exchanges(vec![reference(0, 0), reference(1, 0)]);
    let graph = plan(
        vec![
            stage(vec![source()], vec![Exchange::Hash(2)]),
            stage(vec![source()], vec![Exchange::Hash(2)]),
            stage(vec![both, reads(0, 0), source()], vec![]),
        ],
        &[2],
    );
    let mut bench = Bench::new(&[16]);
    bench.run(0, &graph, splits(2));
    bench.succeed_stage(0);
    bench.succeed_stage(1);
    let joined = bench.of_stage(2);
    let branches: Vec<u32> = joined.iter().map(|task| task.spec.branch).collect();
    assert_eq!(branches, [0, 0, 1, 1, 2, 2]);
    assert_eq!(inputs(&joined[1]).len(), 2);
    let TaskInput::Blocks(lists) = &joined[3].spec.input else {
        panic!("blocks");
    };
    assert_eq!(lists[0][0].partition, 1);
    assert_eq!(
        joined[5].spec.input,
        TaskInput::Split {
            source: SourceId(0),
            split: json!(1)
        }
    );
}

#[test]
fn tasks_without_rows_are_skipped_where_nothing_comes_of_nothing() {
    let mut bench = Bench::new(&[4]);
    bench.run(0, &map_reduce(3), splits(1));
    let map = bench.of(0, 0);
    let output = bench.output_of(&map.id, |_, partition| u64::from(partition == 1));
    bench.report(&map, Ok(output));
    let partitions: Vec<u32> = bench
        .of_stage(1)
        .iter()
        .map(|task| task.id.partition)
        .collect();
    assert_eq!(partitions, [1]);
    bench.succeed_stage(1);
    assert_eq!(bench.ready[0].1.len(), 1);

    bench.output_done(0, 0);
    bench.run(1, &map_reduce(3), splits(0));
    assert!(bench.running.is_empty());
    assert!(bench.ready[1].1.is_empty());
}

#[test]
fn tasks_without_rows_run_where_something_comes_of_nothing() {
    let mut graph = map_reduce(3);
    graph.stages[1].empty_to_empty = false;
    let mut bench = Bench::new(&[4]);
    bench.run(0, &graph, splits(0));
    let reduces = bench.of_stage(1);
    assert_eq!(reduces.len(), 3);
    assert_eq!(inputs(&reduces[0]), [vec![]]);
    // A source without splits has no tasks, whatever comes of nothing.
    let mut graph = one_stage();
    graph.stages[0].empty_to_empty = false;
    bench.run_of(OTHER_QUERY, 0, &graph, splits(0));
    assert!(bench.of_stage(0).is_empty());
}

#[test]
fn a_batch_without_outputs_is_done_at_once() {
    let mut bench = Bench::new(&[4]);
    bench.run(
        0,
        &plan(vec![stage(vec![source()], vec![])], &[]),
        splits(3),
    );
    assert!(bench.running.is_empty());
    assert_eq!(bench.done.len(), 1);
}

fn two_outputs_of_one_stage() -> Plan {
    plan(
        vec![
            stage(vec![source()], vec![Exchange::Keep]),
            stage(vec![reads(0, 0)], vec![]),
            stage(vec![reads(0, 0)], vec![]),
        ],
        &[2, 1],
    )
}

#[test]
fn outputs_start_one_after_another_in_order_of_definition() {
    let mut bench = Bench::new(&[8]);
    bench.run(0, &two_outputs_of_one_stage(), splits(2));
    bench.succeed_stage(0);
    assert_eq!(bench.of_stage(2).len(), 2);
    assert!(bench.of_stage(1).is_empty(), "the second output waits");
    bench.succeed_stage(2);
    assert!(bench.of_stage(1).is_empty(), "the first output isn't done");
    bench.output_done(0, 1);
    assert!(bench.of_stage(1).is_empty(), "that was not its turn");
    bench.output_done(0, 0);
    assert_eq!(bench.of_stage(1).len(), 2);
    assert!(
        bench.of_stage(0).is_empty(),
        "what is shared is computed once"
    );
    bench.succeed_stage(1);
    bench.output_done(0, 1);
    let order: Vec<u32> = bench.ready.iter().map(|(output, _)| output.0).collect();
    assert_eq!(order, [0, 1]);
    assert_eq!(bench.done.len(), 1);
}

#[test]
fn what_the_current_output_needs_goes_first_when_slots_are_few() {
    let graph = plan(
        vec![
            stage(vec![source()], vec![Exchange::Hash(1)]),
            stage(vec![reads(0, 0)], vec![]),
            stage(vec![source()], vec![Exchange::Hash(1)]),
            stage(vec![reads(2, 0)], vec![]),
        ],
        &[3, 1],
    );
    let mut bench = Bench::new(&[1]);
    bench.run(0, &graph, splits(2));
    assert_eq!(bench.of_stage(2).len(), 1, "the first output reads stage 2");
    bench.succeed_stage(2);
    assert_eq!(bench.of_stage(3).len(), 1);
}

#[test]
fn kept_blocks_of_an_output_are_told_with_their_place() {
    let graph = plan(vec![stage(vec![source()], vec![Exchange::Keep])], &[0]);
    let mut bench = Bench::new(&[2]);
    bench.run(0, &graph, splits(2));
    bench.succeed_stage(0);
    let kept = bench.ready[0].1[1].kept.clone().expect("kept");
    assert_eq!((kept.task.partition, kept.partition), (1, 1));
    assert_eq!(
        (kept.executor, kept.address.as_str()),
        (executor(0), "host-0:7000")
    );
}

#[test]
fn queries_take_turns_when_slots_are_few() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(4));
    bench.run_of(OTHER_QUERY, 0, &one_stage(), splits(4));
    let mut order = Vec::new();
    while let Some(launched) = bench.running.values().next().cloned() {
        order.push(launched.id.query);
        bench.succeed(&launched);
    }
    assert_eq!(
        &order[1..7],
        [QUERY, OTHER_QUERY, QUERY, OTHER_QUERY, QUERY, OTHER_QUERY]
    );
}

#[test]
fn a_plan_or_run_that_cannot_be_is_refused_with_its_reason() {
    let mut bench = Bench::new(&[1]);
    let cyclic = plan(vec![stage(vec![reads(0, 0)], vec![Exchange::Gather])], &[0]);
    bench.run(0, &cyclic, splits(0));
    assert!(
        bench.failed[0]
            .1
            .message
            .contains("reads stage 0, which is not before it")
    );
    let mut no_source = one_stage();
    no_source.stages[0].branches = vec![Branch::Source(SourceId(4))];
    bench.run(0, &no_source, splits(0));
    assert!(bench.failed[1].1.message.contains("source 4"));

    bench.run(0, &one_stage(), splits(1));
    bench.run(1, &one_stage(), splits(1));
    assert!(bench.failed[2].1.message.contains("while batch 0 runs"));
    bench.handle(Event::Run(BatchRun {
        query: OTHER_QUERY,
        epoch: Epoch(1),
        batch: BatchId(0),
        batch_time: BatchTime(0),
        plan: Arc::new(one_stage()),
        splits: vec![],
        state: Default::default(),
        watermarks: Default::default(),
        spill_threshold: None,
        rerun: false,
    }));
    assert!(bench.failed[3].1.message.contains("epoch 1"));
}

#[test]
fn abort_and_removal_stop_attempts_whose_slots_stay_taken_until_they_say_so() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(2));
    let running = bench.of(0, 0);
    bench.handle(Event::Abort {
        query: QUERY,
        batch: BatchId(0),
    });
    assert_eq!(bench.cancelled, [(executor(0), running.id)]);
    bench.run_of(OTHER_QUERY, 0, &one_stage(), splits(1));
    assert_eq!(bench.running.len(), 1, "the slot is still taken");
    bench.fail(&running, FailureKind::Cancelled);
    let other = bench.of(0, 0);
    assert_eq!(other.id.query, OTHER_QUERY);

    let actions = bench.handle(Event::QueryRemoved(OTHER_QUERY));
    assert_eq!(bench.cancelled[1], (executor(0), other.id));
    let grants = actions.iter().find_map(|action| match action {
        Action::Reconcile { queries, .. } => Some(queries.len()),
        _ => None,
    });
    assert_eq!(grants, Some(1), "executors are told which queries remain");
    assert!(bench.done.is_empty() && bench.failed.is_empty());
}

#[test]
fn released_batches_are_dropped_everywhere() {
    let mut bench = Bench::new(&[1, 1]);
    let actions = bench.handle(Event::BatchReleased {
        query: QUERY,
        batch: BatchId(4),
    });
    let dropped: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::DropBatches {
                executor,
                grant,
                through,
            } => Some((*executor, grant.query, grant.epoch, *through)),
            _ => None,
        })
        .collect();
    assert_eq!(
        dropped,
        [
            (executor(0), QUERY, EPOCH, BatchId(4)),
            (executor(1), QUERY, EPOCH, BatchId(4))
        ]
    );
}
