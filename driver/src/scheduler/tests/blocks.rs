//! Blocks that are gone, and rows that differ when they are made again.

use millstream_common::{failure::Retry, protocol::BlockMeta};
use millstream_dataflow::plan::Exchange;

use super::*;
use crate::scheduler::options::Nondeterminism;

#[test]
fn a_block_that_cannot_be_fetched_makes_its_map_task_run_again_and_only_that() {
    let mut bench = Bench::new(&[4, 4]);
    bench.run(0, &map_reduce(2), splits(4));
    let map = bench.of(0, 1);
    bench.succeed_stage(0);
    let (reader, other) = (bench.of(1, 0), bench.of(1, 1));
    bench.fetch_failed(&reader, &map.id, map.executor);
    let again = bench.of_stage(0);
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].id.partition, again[0].id.attempt), (1, 1));
    assert_ne!(again[0].executor, map.executor, "elsewhere");
    assert_eq!(
        bench.of_stage(1),
        [other],
        "the reader waits, the other goes on"
    );
    assert!(bench.notes.contains(&Note::MapOutputsLost {
        tasks: vec![map.id],
        executor: map.executor
    }));
    bench.succeed(&again[0]);
    assert_eq!(
        inputs(&bench.of(1, 0)),
        [vec![(0, 0), (1, 1), (2, 0), (3, 0)]]
    );
}

#[test]
fn a_stage_is_tried_four_times_in_a_row_for_want_of_blocks() {
    let mut bench = Bench::new(&[4, 4]);
    bench.run(0, &map_reduce(1), splits(1));
    for _ in 0..4 {
        assert!(bench.failed.is_empty());
        let map = bench.of(0, 0);
        bench.succeed(&map);
        let reader = bench.of(1, 0);
        bench.fetch_failed(&reader, &map.id, map.executor);
    }
    assert!(matches!(
        bench.failed[0].1.kind,
        FailureKind::FetchFailed { .. }
    ));
}

#[test]
fn many_readers_of_one_round_count_once() {
    let mut bench = Bench::new(&[12]);
    bench.run(0, &map_reduce(6), splits(1));
    let map = bench.of(0, 0);
    bench.succeed(&map);
    for reader in bench.of_stage(1) {
        bench.fetch_failed(&reader, &map.id, map.executor);
    }
    assert!(bench.failed.is_empty());
    bench.wait(Duration::from_secs(10));
    bench.succeed_stage(0);
    bench.wait(Duration::from_secs(10));
    bench.succeed_stage(1);
    assert_eq!(bench.ready.len(), 1);
}

#[test]
fn the_second_round_with_the_same_executor_gives_all_its_blocks_up() {
    let mut bench = Bench::new(&[8, 1]);
    bench.run(0, &map_reduce(1), splits(6));
    let holders: Vec<_> = bench.of_stage(0);
    bench.succeed_stage(0);
    let on_first: Vec<_> = holders
        .iter()
        .filter(|of| of.executor == executor(0))
        .collect();
    assert!(on_first.len() > 3);
    let reader = bench.of(1, 0);
    bench.fetch_failed(&reader, &on_first[0].id, executor(0));
    bench.succeed_stage(0);
    let reader = bench.of(1, 0);
    bench.fetch_failed(&reader, &on_first[1].id, executor(0));
    let waiting = bench
        .scheduler
        .queries
        .iter()
        .find_map(|(_, query)| query.batch.as_ref());
    let unfinished = waiting.expect("a batch").stages[0].unfinished as usize;
    assert!(unfinished >= on_first.len() - 1, "{unfinished}");
    bench.lose(0);
    bench.succeed_stage(0);
    bench.succeed_stage(1);
    assert_eq!(bench.ready.len(), 1);
}

#[test]
fn a_block_that_was_not_to_be_read_is_a_failure_of_the_reader() {
    let mut bench = Bench::new(&[4]);
    bench.run(0, &map_reduce(1), splits(1));
    bench.succeed_stage(0);
    for _ in 0..4 {
        let reader = bench.of(1, 0);
        let own = reader.id;
        bench.fetch_failed(&reader, &own, executor(0));
    }
    assert_eq!(bench.failed[0].1.kind, FailureKind::Internal);
}

fn chain() -> Plan {
    plan(
        vec![
            stage(vec![source()], vec![Exchange::Hash(2)]),
            stage(vec![reads(0, 0)], vec![Exchange::Hash(2)]),
            stage(vec![reads(1, 0)], vec![]),
        ],
        &[2],
    )
}

#[test]
fn a_lost_executor_costs_only_the_blocks_that_are_still_needed() {
    let mut bench = Bench::new(&[4, 4]);
    bench.run(0, &chain(), splits(4));
    bench.succeed_stage(0);
    let one = bench.of(1, 0);
    let two = bench.of(1, 1);
    bench.succeed(&one);
    bench.succeed(&two);
    // Stage 2 has all it reads; nobody needs stage 0 any more. Losing a reader's executor costs the blocks of stage 1 there, and what these
    // are made of.
    let lost = one.executor;
    let number = lost.0.as_u128() - 100;
    let kept = bench
        .of_stage(2)
        .iter()
        .filter(|of| of.executor != lost)
        .count();
    bench.lose(number);
    assert!(kept > 0);
    let again: Vec<_> = bench.of_stage(0);
    assert_eq!(again.len(), 2, "stage 1 partition 0 needs the lost maps");
    assert!(
        again
            .iter()
            .all(|of| of.id.attempt == 1 && of.executor != lost)
    );
    assert!(bench.of_stage(1).is_empty(), "waits for its maps");
    bench.succeed_stage(0);
    let again = bench.of(1, 0);
    assert_eq!(again.id.attempt, 1);
    bench.succeed(&again);
    assert!(bench.of_stage(0).is_empty());
    bench.succeed_stage(2);
    assert_eq!(bench.ready[0].1.len(), 2);
}

#[test]
fn blocks_nobody_needs_are_not_made_again() {
    let mut bench = Bench::new(&[1, 1]);
    bench.run(0, &map_reduce(1), splits(2));
    bench.succeed_stage(0);
    bench.succeed_stage(1);
    bench.lose(0);
    assert!(bench.running.is_empty());
    bench.output_done(0, 0);
    assert_eq!(bench.done.len(), 1);
}

#[test]
fn blocks_that_a_later_output_needs_are_made_again() {
    let graph = plan(
        vec![
            stage(vec![source()], vec![Exchange::Keep]),
            stage(vec![reads(0, 0)], vec![]),
            stage(vec![reads(0, 0)], vec![]),
        ],
        &[1, 2],
    );
    let mut bench = Bench::new(&[1, 1]);
    bench.run(0, &graph, splits(2));
    bench.succeed_stage(0);
    bench.succeed_stage(1);
    bench.lose(0);
    assert_eq!(bench.of_stage(0).len(), 1);
    bench.succeed_stage(0);
    bench.output_done(0, 0);
    bench.succeed_stage(2);
    assert_eq!(bench.ready.len(), 2);
}

fn rows_that_differ(options: SchedulerOptions, reader_is_done: bool) -> Bench {
    let mut bench = Bench::with_options(&[4, 4], options);
    bench.run(0, &map_reduce(2), splits(1));
    let map = bench.of(0, 0);
    bench.succeed(&map);
    let (done, waiting) = (bench.of(1, 0), bench.of(1, 1));
    if reader_is_done {
        bench.succeed(&done);
    }
    bench.fetch_failed(&waiting, &map.id, map.executor);
    let again = bench.of(0, 0);
    let mut output = bench.output(&again.id);
    output.exchanges[0][0] = BlockMeta {
        checksum: 78,
        ..output.exchanges[0][0]
    };
    bench.report(&again, Ok(output));
    bench
}

#[test]
fn other_rows_than_those_that_were_read_end_the_batch_and_name_the_operators() {
    let bench = rows_that_differ(SchedulerOptions::default(), true);
    let failure = &bench.failed[0].1;
    assert_eq!(failure.kind, FailureKind::Nondeterministic);
    assert_eq!(failure.operator.as_deref(), Some("map-0, combine-0"));
    assert_eq!(failure.retry, Retry::Never);
}

#[test]
fn other_rows_that_nobody_had_finished_with_are_fine() {
    let bench = rows_that_differ(SchedulerOptions::default(), false);
    assert!(bench.failed.is_empty());
}

/// One map's rows for partition 0 differ when it runs again, while `of(1, 0)` runs on the earlier ones.
fn a_reader_is_misled(options: SchedulerOptions) {
    let mut bench = Bench::with_options(&[4, 4], options);
    bench.run(0, &map_reduce(3), splits(2));
    let map = bench.of(0, 0);
    bench.succeed_stage(0);
    let (misled, other, waiting) = (bench.of(1, 0), bench.of(1, 1), bench.of(1, 2));
    bench.fetch_failed(&waiting, &map.id, map.executor);
    let again = bench.of(0, 0);
    let mut output = bench.output(&again.id);
    output.exchanges[0][0].checksum = 78;
    bench.report(&again, Ok(output));
    assert!(bench.failed.is_empty());
    assert_eq!(bench.cancelled, [(misled.executor, misled.id)]);
    bench.running.remove(&misled.id);
    let reads = bench.of(1, 0);
    assert_eq!(reads.id.attempt, 1);
    assert_eq!(inputs(&reads), [vec![(0, 1), (1, 0)]], "the newer rows");
    assert_eq!(bench.of(1, 1), other, "its rows are the same");
    assert_eq!(inputs(&bench.of(1, 2)), [vec![(0, 1), (1, 0)]]);
    // It ended before it heard that it should stop.
    bench.succeed(&misled);
    bench.succeed(&other);
    let waiting = bench.of(1, 2);
    bench.succeed(&waiting);
    assert!(bench.ready.is_empty(), "what it made counts for nothing");
    bench.succeed(&reads);
    assert_eq!(bench.ready.len(), 1);
    bench.output_done(0, 0);
    assert_eq!(bench.done[0].2.retries, 2);
}

#[test]
fn a_reader_that_runs_on_rows_that_no_longer_count_reads_anew() {
    a_reader_is_misled(SchedulerOptions::default());
    a_reader_is_misled(SchedulerOptions {
        nondeterminism: Nondeterminism::Warn,
        ..SchedulerOptions::default()
    });
}

#[test]
fn a_misled_reader_waits_until_all_that_it_reads_is_there_again() {
    let mut bench = Bench::new(&[2, 2]);
    bench.run(0, &map_reduce(1), splits(4));
    bench.succeed_stage(0);
    let misled = bench.of(1, 0);
    bench.connect(2, 4);
    let reads_on = misled.executor.0.as_u128() - 100;
    bench.lose(1 - reads_on);
    let again = bench.of_stage(0);
    assert_eq!(again.len(), 2, "the maps of the lost executor");
    let mut output = bench.output(&again[0].id);
    output.exchanges[0][0].checksum = 78;
    bench.report(&again[0], Ok(output));
    assert_eq!(bench.cancelled, [(misled.executor, misled.id)]);
    bench.running.remove(&misled.id);
    assert!(bench.of_stage(1).is_empty(), "one map is still to come");
    bench.succeed(&again[1]);
    let reads = bench.of(1, 0);
    assert_eq!(reads.id.attempt, 1);
    bench.succeed(&reads);
    assert_eq!(bench.ready.len(), 1);
}

#[test]
fn other_rows_can_be_a_warning() {
    let options = SchedulerOptions {
        nondeterminism: Nondeterminism::Warn,
        ..SchedulerOptions::default()
    };
    let mut bench = rows_that_differ(options, true);
    assert!(bench.failed.is_empty());
    assert!(
        bench
            .notes
            .iter()
            .any(|note| matches!(note, Note::Differed { partition: 0, .. }))
    );
    bench.succeed_stage(1);
    assert_eq!(bench.ready.len(), 1);
}

#[test]
fn an_output_that_cannot_read_a_kept_block_gets_it_made_again() {
    let graph = plan(vec![stage(vec![source()], vec![Exchange::Keep])], &[0]);
    let mut bench = Bench::new(&[1, 1]);
    bench.run(0, &graph, splits(2));
    bench.succeed_stage(0);
    let kept = bench.ready[0].1[0].kept.clone().expect("kept");
    let number = kept.executor.0.as_u128() - 100;
    bench.lose(number);
    assert!(bench.running.is_empty(), "it may have been read already");
    bench.handle(Event::OutputFetchFailed {
        query: QUERY,
        batch: BatchId(0),
        output: OutputIndex(0),
        task: kept.task,
        executor: kept.executor,
        failure: unread(),
    });
    let again = bench.of(0, kept.task.partition);
    assert_eq!(again.id.attempt, 1);
    bench.output_done(0, 0);
    assert!(bench.done.is_empty(), "a late word of the first try");
    bench.succeed(&again);
    assert_eq!(bench.ready.len(), 2);
    assert_ne!(
        bench.ready[1].1[0].kept.as_ref().map(|of| of.executor),
        Some(kept.executor)
    );
    bench.output_done(0, 0);
    assert_eq!(bench.done.len(), 1);
}

#[test]
fn an_executor_that_gave_no_block_to_an_output_twice_is_not_read_from_again() {
    let graph = plan(vec![stage(vec![source()], vec![Exchange::Keep])], &[0]);
    let mut bench = Bench::new(&[6, 6]);
    bench.run(0, &graph, splits(12));
    bench.succeed_stage(0);
    let mut rounds = 0;
    loop {
        let (_, results) = bench.ready.last().expect("ready");
        let mut kept = results.iter().filter_map(|result| result.kept.clone());
        let Some(gone) = kept.find(|kept| kept.executor == executor(0)) else {
            break;
        };
        rounds += 1;
        bench.handle(Event::OutputFetchFailed {
            query: QUERY,
            batch: BatchId(0),
            output: OutputIndex(0),
            task: gone.task,
            executor: gone.executor,
            failure: unread(),
        });
        assert!(bench.failed.is_empty(), "{:?}", bench.failed);
        bench.succeed_stage(0);
    }
    assert_eq!(rounds, 2);
}

fn unread() -> Box<Failure> {
    let failure = Failure::new(FailureKind::Io, "connection refused").with_code("tls.certificate");
    Box::new(failure)
}

#[test]
fn why_an_output_could_not_read_is_told_at_once_and_at_the_end() {
    let graph = plan(vec![stage(vec![source()], vec![Exchange::Keep])], &[0]);
    let mut bench = Bench::new(&[1, 1]);
    bench.run(0, &graph, splits(1));
    bench.succeed_stage(0);
    while bench.failed.is_empty() {
        let (_, results) = bench.ready.last().expect("ready");
        let kept = results[0].kept.clone().expect("kept");
        bench.handle(Event::OutputFetchFailed {
            query: QUERY,
            batch: BatchId(0),
            output: OutputIndex(0),
            task: kept.task,
            executor: kept.executor,
            failure: unread(),
        });
        assert!(bench.ready.len() < 10, "it goes on for ever");
        if bench.failed.is_empty() {
            bench.succeed_stage(0);
        }
    }
    let told = bench
        .notes
        .iter()
        .filter(|note| matches!(note, Note::OutputMissed { failure, .. } if *failure == unread()));
    assert_eq!(told.count(), 1);
    let failure = &bench.failed[0].1;
    assert_eq!(failure.code, "tls.certificate");
    assert!(
        failure.to_string().contains("connection refused"),
        "{failure}"
    );
}
