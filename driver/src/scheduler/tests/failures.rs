//! Attempts that fail, executors that die, tasks that are slow.

use millstream_common::ids::ExecutorId;

use super::*;
use crate::scheduler::options::Speculation;

#[test]
fn the_fourth_failure_of_a_task_ends_the_batch_with_its_reason_whole() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(2));
    for attempt in 0..4 {
        let task = bench.of(0, 0);
        assert_eq!(task.id.attempt, attempt);
        assert!(bench.failed.is_empty());
        let failure =
            Failure::new(FailureKind::UserCode, format!("try {attempt}")).in_operator("map-3");
        bench.report(&task, Err(failure));
        if let Some(other) = bench
            .running
            .values()
            .find(|of| of.id.partition == 1)
            .cloned()
        {
            bench.succeed(&other);
        }
    }
    let (_, failure) = &bench.failed[0];
    assert_eq!(failure.message, "try 3");
    assert_eq!(failure.operator.as_deref(), Some("map-3"));
    assert_eq!(failure.task.map(|task| task.attempt), Some(3));
    let retried = bench
        .notes
        .iter()
        .filter(|note| matches!(note, Note::Retried { .. }))
        .count();
    assert_eq!(retried, 3);
}

#[test]
fn a_failure_that_trying_again_cannot_help_ends_the_batch_at_once() {
    let mut bench = Bench::new(&[2]);
    bench.run(0, &one_stage(), splits(2));
    let (bad, other) = (bench.of(0, 0), bench.of(0, 1));
    bench.fail(&bad, FailureKind::DataLoss);
    assert_eq!(bench.failed[0].1.kind, FailureKind::DataLoss);
    assert_eq!(bench.cancelled, [(executor(0), other.id)]);
}

#[test]
fn lost_and_cancelled_attempts_do_not_count_as_failures() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(1));
    for number in 0..10 {
        bench.connect(number + 1, 1);
        bench.lose(number);
        bench.wait(Duration::from_secs(10));
        let task = bench.of(0, 0);
        bench.fail(&task, FailureKind::Cancelled);
        bench.wait(Duration::from_secs(10));
    }
    assert!(bench.failed.is_empty());
    bench.succeed_stage(0);
    assert_eq!(bench.ready.len(), 1);
}

fn losses(bench: &Bench) -> Vec<u32> {
    let batch = bench
        .scheduler
        .queries
        .iter()
        .find_map(|(_, query)| query.batch.as_ref());
    let tasks = &batch.expect("a batch").stages[0].tasks;
    tasks.iter().map(|task| task.losses).collect()
}

#[test]
fn a_task_whose_executors_die_one_after_the_other_ends_the_batch() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(1));
    for number in 0..16 {
        assert!(bench.failed.is_empty(), "after {number} losses");
        assert_eq!(bench.of(0, 0).executor, executor(number));
        bench.connect(number + 1, 1);
        bench.lose(number);
        bench.wait(Duration::from_secs(10));
    }
    assert_eq!(bench.failed.len(), 1);
    let (_, failure) = &bench.failed[0];
    assert_eq!(failure.kind, FailureKind::ExecutorLost);
    assert_eq!(failure.code, "task.executors_died");
    let last = executor(15).to_string();
    for part in [
        "executors died 16 times while running task 0 of stage `stage` (map-0, combine-0)",
        format!("the last one being {last}").as_str(),
        "out-of-memory killer",
    ] {
        assert!(failure.message.contains(part), "{failure}");
    }
    assert!(failure.causes[0].contains("process ended"), "{failure}");
    assert!(bench.running.is_empty());
}

#[test]
fn two_tasks_that_die_together_end_their_batch_once() {
    let mut bench = Bench::with_options(
        &[2],
        SchedulerOptions {
            max_failures: 1,
            ..SchedulerOptions::default()
        },
    );
    bench.run(0, &one_stage(), splits(2));
    for number in 0..4 {
        assert_eq!(bench.of_stage(0).len(), 2);
        bench.connect(number + 1, 2);
        bench.lose(number);
        bench.wait(Duration::from_secs(10));
    }
    assert_eq!(bench.failed.len(), 1);
    bench.run(1, &one_stage(), splits(2));
    bench.succeed_stage(0);
    assert_eq!(bench.ready.len(), 1, "the next batch has all slots");
}

#[test]
fn only_what_ran_on_a_lost_executor_is_counted_and_a_success_forgets_it() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(3));
    let ran = bench.of_stage(0)[0].id.partition;
    bench.connect(1, 1);
    let elsewhere = bench.running_on(1)[0].partition;
    bench.lose(0);
    let mut wanted = vec![0; 3];
    wanted[ran as usize] = 1;
    assert_ne!(ran, elsewhere);
    assert_eq!(losses(&bench), wanted);
    bench.succeed_stage(0);
    assert_eq!(losses(&bench), [0; 3]);
}

#[test]
fn an_executor_that_says_it_lost_a_task_counts_too() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(1));
    for _ in 0..16 {
        assert!(bench.failed.is_empty());
        let task = bench.of(0, 0);
        bench.fail(&task, FailureKind::ExecutorLost);
        bench.wait(Duration::from_secs(10));
    }
    assert_eq!(bench.failed[0].1.code, "task.executors_died");
}

/// Nothing runs until the scheduler's next wish to wake: goes there, and gives the milliseconds until then.
fn pause(bench: &mut Bench) -> u128 {
    assert!(bench.running.is_empty());
    let due = bench.wake.expect("a wish to wake");
    let millis = due.since(bench.now).as_millis();
    bench.now = due;
    bench.handle(Event::Timer);
    millis
}

/// Three pauses, each about twice as long as the one before.
fn assert_double(pauses: &[u128]) {
    for (pause, middle) in pauses.iter().zip([100, 200, 400]) {
        assert!(
            (middle * 3 / 4..=middle * 5 / 4).contains(pause),
            "{pauses:?}"
        );
    }
}

#[test]
fn a_task_that_was_lost_again_pauses_longer_each_time() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(1));
    bench.connect(1, 1);
    bench.lose(0);
    let mut pauses = Vec::new();
    for number in 1..4 {
        assert_eq!(bench.of(0, 0).executor, executor(number));
        bench.connect(number + 1, 1);
        bench.lose(number);
        pauses.push(pause(&mut bench));
    }
    assert_double(&pauses);
}

#[test]
fn a_superseded_task_waits_a_second_and_counts_up_to_ten() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(1));
    for _ in 0..10 {
        let task = bench.of(0, 0);
        bench.fail(&task, FailureKind::Superseded);
        assert!(bench.running.is_empty());
        bench.wait(Duration::from_millis(999));
        assert!(bench.running.is_empty());
        bench.wait(Duration::from_millis(1));
    }
    assert!(bench.failed.is_empty());
    let task = bench.of(0, 0);
    bench.fail(&task, FailureKind::Superseded);
    assert_eq!(bench.failed[0].1.kind, FailureKind::Superseded);
}

#[test]
fn a_backoff_waits_longer_each_time() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(1));
    let mut pauses = Vec::new();
    for _ in 0..3 {
        let task = bench.of(0, 0);
        bench.fail(&task, FailureKind::Io);
        pauses.push(pause(&mut bench));
    }
    assert_double(&pauses);
}

#[test]
fn a_failed_task_goes_elsewhere() {
    let mut bench = Bench::new(&[4, 4]);
    bench.run(0, &one_stage(), splits(1));
    let first = bench.of(0, 0);
    bench.fail(&first, FailureKind::UserCode);
    assert_ne!(bench.of(0, 0).executor, first.executor);
}

#[test]
fn an_executor_on_which_a_stage_failed_twice_gets_no_more_of_it() {
    let mut bench = Bench::new(&[2, 2]);
    bench.run(0, &one_stage(), splits(8));
    for task in bench.running_on(0) {
        let launched = bench.running[&task].clone();
        bench.fail(&launched, FailureKind::UserCode);
    }
    assert!(
        bench
            .notes
            .iter()
            .any(|note| matches!(note, Note::Excluded { executor: of, .. } if *of == executor(0)))
    );
    let mut seen = 0;
    while let Some(launched) = bench
        .running
        .values()
        .find(|of| of.executor == executor(1))
        .cloned()
    {
        assert!(bench.running_on(0).iter().all(|task| task.attempt == 0));
        bench.succeed(&launched);
        seen += 1;
    }
    assert!(seen >= 6);
    // In the next batch it is as good as any.
    for launched in bench.of_stage(0) {
        bench.succeed(&launched);
    }
    bench.output_done(0, 0);
    bench.run(1, &one_stage(), splits(4));
    assert_eq!(bench.running_on(0).len(), 2);
}

#[test]
fn the_only_executor_is_never_excluded() {
    let mut bench = Bench::new(&[2]);
    bench.run(0, &one_stage(), splits(2));
    for partition in [0, 1, 0, 1] {
        let task = bench.of(0, partition);
        bench.fail(&task, FailureKind::UserCode);
    }
    assert_eq!(bench.of_stage(0).len(), 2);
}

#[test]
fn an_output_whose_reports_are_wrong_in_shape_fails() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &map_reduce(2), splits(1));
    for _ in 0..4 {
        let task = bench.of(0, 0);
        bench.report(&task, Ok(TaskOutput::default()));
    }
    assert_eq!(bench.failed[0].1.kind, FailureKind::Internal);
}

fn speculating(speculative: bool) -> (Bench, Launched) {
    let options = SchedulerOptions {
        speculation: Some(Speculation {
            quantile: 0.5,
            ..Speculation::default()
        }),
        ..SchedulerOptions::default()
    };
    let mut bench = Bench::with_options(&[2, 2], options);
    let mut graph = map_reduce(1);
    graph.stages[0].speculative = speculative;
    bench.run(0, &graph, splits(4));
    let slow = bench.of(0, 3);
    for partition in 0..3 {
        let map = bench.of(0, partition);
        bench.succeed(&map);
    }
    for _ in 0..5 {
        bench.wait(Duration::from_millis(100));
    }
    (bench, slow)
}

fn backup(bench: &Bench, slow: &Launched) -> Launched {
    bench
        .of_stage(0)
        .into_iter()
        .find(|of| of.id.attempt == 1 && of.executor != slow.executor)
        .expect("a second attempt elsewhere")
}

#[test]
fn a_slow_task_runs_twice_and_the_first_to_succeed_wins() {
    let (mut bench, slow) = speculating(true);
    let second = backup(&bench, &slow);
    assert_eq!(bench.of_stage(0).len(), 2, "twice, not more");
    bench.succeed(&second);
    assert_eq!(bench.cancelled, [(slow.executor, slow.id)]);
    assert_eq!(inputs(&bench.of(1, 0))[0][3], (3, 1));
    // It finished before it heard of the cancel: too late.
    bench.succeed(&slow);
    bench.succeed_stage(1);
    bench.output_done(0, 0);
    assert_eq!(bench.done[0].2.tasks, 5);
    assert_eq!(bench.done[0].2.counts.input_rows, 50);
}

#[test]
fn when_one_of_two_attempts_fails_the_other_goes_on() {
    let (mut bench, slow) = speculating(true);
    let second = backup(&bench, &slow);
    bench.fail(&second, FailureKind::UserCode);
    assert_eq!(bench.of(0, 3).id, slow.id);
    bench.succeed(&slow);
    assert_eq!(inputs(&bench.of(1, 0))[0][3], (3, 0));
}

#[test]
fn stages_that_must_not_run_twice_do_not() {
    let (bench, slow) = speculating(false);
    assert_eq!(bench.of_stage(0), [slow]);
}

#[test]
fn late_reports_and_those_of_others_are_ignored() {
    let mut bench = Bench::new(&[1, 1]);
    bench.run(0, &one_stage(), splits(2));
    let task = bench.of(0, 0);
    let output = bench.output(&task.id);
    let wrong = |of: fn(&mut TaskId), from: ExecutorId| {
        let mut id = task.id;
        of(&mut id);
        Event::Reported {
            executor: from,
            report: Box::new(TaskReport {
                task: id,
                outcome: Ok(output.clone()),
                run_micros: 1,
            }),
        }
    };
    let other = if task.executor == executor(0) {
        executor(1)
    } else {
        executor(0)
    };
    let events = [
        wrong(|id| id.epoch = Epoch(2), task.executor),
        wrong(|id| id.batch = BatchId(9), task.executor),
        wrong(|id| id.attempt = 1, task.executor),
        wrong(|id| id.stage = StageId(5), task.executor),
        wrong(|id| id.partition = 77, task.executor),
        wrong(|id| id.query = QueryId(Uuid::from_u128(99)), task.executor),
        wrong(|_| {}, other),
        wrong(|_| {}, executor(42)),
    ];
    for event in events {
        let actions = bench.handle(event);
        assert!(actions.is_empty(), "{actions:?}");
    }
    bench.succeed(&task);
    let actions = bench.succeed(&task);
    assert!(actions.is_empty(), "the second time it is stale");
}
