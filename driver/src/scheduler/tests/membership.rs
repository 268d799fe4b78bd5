//! Executors that come, come back, leave and are lost.

use super::*;

fn reconcile(actions: &[Action]) -> (Vec<QueryGrant>, Vec<TaskId>) {
    actions
        .iter()
        .find_map(|action| match action {
            Action::Reconcile {
                queries, wanted, ..
            } => Some((queries.clone(), wanted.clone())),
            _ => None,
        })
        .expect("a reconcile")
}

fn is_release(action: &Action) -> bool {
    matches!(action, Action::Release { .. })
}

fn is_no_executor(action: &Action) -> bool {
    matches!(action, Action::NoExecutor { .. })
}

#[test]
fn an_executor_that_connects_is_told_every_query() {
    let mut bench = Bench::new(&[]);
    let actions = bench.handle(Event::Connected(info(0, 2)));
    let (queries, wanted) = reconcile(&actions);
    let ids: Vec<QueryId> = queries.iter().map(|grant| grant.query).collect();
    assert_eq!(ids, [QUERY, OTHER_QUERY]);
    assert!(wanted.is_empty());
}

#[test]
fn an_executor_that_is_back_keeps_its_work() {
    let mut bench = Bench::new(&[4]);
    bench.run(0, &map_reduce(1), splits(3));
    let (running, finished, forgotten) = (bench.of(0, 0), bench.of(0, 1), bench.of(0, 2));
    let (_, wanted) = reconcile(&bench.handle(Event::Connected(info(0, 4))));
    assert_eq!(wanted, [running.id, finished.id, forgotten.id]);
    let stranger = TaskId {
        batch: BatchId(77),
        ..running.id
    };
    let output = bench.output(&finished.id);
    bench.running.remove(&finished.id);
    bench.running.remove(&forgotten.id);
    bench.handle(Event::Truth {
        executor: executor(0),
        running: vec![running.id, stranger],
        finished: vec![TaskReport {
            task: finished.id,
            outcome: Ok(output),
            run_micros: 5,
        }],
    });
    assert_eq!(bench.cancelled, [(executor(0), stranger)]);
    let again = bench.of(0, 2);
    assert_eq!(again.id.attempt, 1);
    bench.succeed(&running);
    bench.succeed(&again);
    assert_eq!(inputs(&bench.of(1, 0)), [vec![(0, 0), (1, 0), (2, 1)]]);
    assert!(bench.failed.is_empty());
}

#[test]
fn tasks_launched_after_a_reconcile_are_not_missing_from_its_answer() {
    let mut bench = Bench::new(&[4]);
    bench.handle(Event::Connected(info(0, 4)));
    bench.run(0, &one_stage(), splits(1));
    let task = bench.of(0, 0);
    bench.handle(Event::Truth {
        executor: executor(0),
        running: vec![],
        finished: vec![],
    });
    assert_eq!(bench.of(0, 0), task);
    bench.succeed(&task);
    assert_eq!(bench.ready.len(), 1);
}

#[test]
fn a_slot_of_a_cancelled_attempt_is_free_once_the_truth_leaves_it_out() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(1));
    bench.handle(Event::Abort {
        query: QUERY,
        batch: BatchId(0),
    });
    bench.running.clear();
    bench.run(1, &one_stage(), splits(1));
    assert!(bench.running.is_empty());
    let (_, wanted) = reconcile(&bench.handle(Event::Connected(info(0, 1))));
    assert!(wanted.is_empty());
    bench.handle(Event::Truth {
        executor: executor(0),
        running: vec![],
        finished: vec![],
    });
    assert_eq!(bench.running.len(), 1);
}

#[test]
fn a_lost_executor_s_tasks_run_elsewhere_at_once() {
    let mut bench = Bench::new(&[2, 2]);
    bench.run(0, &one_stage(), splits(2));
    bench.lose(0);
    let tasks = bench.of_stage(0);
    assert_eq!(tasks.len(), 2);
    assert!(tasks.iter().all(|task| task.executor == executor(1)));
    assert!(bench.notes.iter().any(|note| matches!(
        note,
        Note::Retried { failure, .. } if failure.kind == FailureKind::ExecutorLost
            && failure.message.contains("process ended")
    )));
    assert!(bench.lose(0).is_empty(), "it is gone already");
}

#[test]
fn with_no_executor_there_it_is_said_now_and_then_and_work_goes_on_when_one_comes() {
    let mut bench = Bench::new(&[]);
    let said = |bench: &mut Bench, wait: Duration| {
        let actions = bench.wait(wait);
        actions
            .iter()
            .filter(|action| is_no_executor(action))
            .count()
    };
    bench.run(0, &one_stage(), splits(2));
    assert_eq!(bench.wake, Some(bench.now.after(Duration::from_secs(1))));
    assert_eq!(said(&mut bench, Duration::from_millis(999)), 0);
    assert_eq!(said(&mut bench, Duration::from_millis(1)), 1);
    let interval = SchedulerOptions::default().wait_log_interval;
    for _ in 0..3 {
        let told_at = bench.now;
        assert_eq!(bench.wake, Some(told_at.after(interval)));
        assert_eq!(said(&mut bench, Duration::from_secs(1)), 0);
        bench.now = told_at;
        assert_eq!(said(&mut bench, interval), 1);
    }
    bench.connect(0, 1);
    assert_eq!(bench.running.len(), 1);
    let actions = bench.lose(0);
    assert!(!actions.iter().any(is_no_executor));
    let again = said(&mut bench, Duration::from_secs(1));
    assert_eq!(again, 1, "a new waiting");
    bench.connect(1, 2);
    bench.succeed_stage(0);
    assert_eq!(bench.ready.len(), 1);
}

#[test]
fn a_leaving_executor_ends_what_it_has_and_is_released_with_the_batch() {
    let mut bench = Bench::new(&[1, 1]);
    bench.run(0, &one_stage(), splits(4));
    let on_leaving = bench.running_on(0)[0];
    let actions = bench.handle(Event::Leaving(executor(0)));
    assert!(!actions.iter().any(is_release));
    let launched = bench.running[&on_leaving].clone();
    bench.succeed(&launched);
    assert!(bench.running_on(0).is_empty(), "no new tasks");
    bench.succeed_stage(0);
    let actions = bench.output_done(0, 0);
    assert!(actions.iter().any(is_release));
    bench.run(1, &one_stage(), splits(2));
    assert!(bench.running_on(0).is_empty());
}

#[test]
fn the_last_executor_ends_the_running_batch_before_it_leaves() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(2));
    bench.handle(Event::Leaving(executor(0)));
    bench.succeed_stage(0);
    let actions = bench.output_done(0, 0);
    assert!(actions.iter().any(is_release));
    bench.run(1, &one_stage(), splits(1));
    assert!(bench.running.is_empty());
    let actions = bench.wait(Duration::from_secs(1));
    assert!(actions.iter().any(is_no_executor));
}

#[test]
fn an_executor_that_comes_within_a_second_was_never_missing() {
    let mut bench = Bench::new(&[]);
    let mut actions = bench.run(0, &one_stage(), splits(1));
    actions.append(&mut bench.wait(Duration::from_millis(900)));
    actions.append(&mut bench.connect(0, 1));
    assert_eq!(bench.running.len(), 1);
    actions.append(&mut bench.wait(Duration::from_secs(2)));
    assert!(!actions.iter().any(is_no_executor));
    // The next waiting counts from its own beginning.
    bench.lose(0);
    let actions = bench.wait(Duration::from_millis(999));
    assert!(!actions.iter().any(is_no_executor));
    let actions = bench.wait(Duration::from_millis(1));
    assert!(actions.iter().any(is_no_executor));
}

#[test]
fn an_idle_executor_that_leaves_is_released_at_once() {
    let mut bench = Bench::new(&[1]);
    let actions = bench.handle(Event::Leaving(executor(0)));
    assert!(actions.iter().any(is_release));
    assert!(bench.handle(Event::Leaving(executor(0))).is_empty());
}

#[test]
fn a_query_of_a_higher_epoch_replaces_the_lower_one() {
    let mut bench = Bench::new(&[1]);
    bench.run(0, &one_stage(), splits(1));
    let old = bench.of(0, 0);
    let actions = bench.handle(Event::QueryAdded(QueryGrant {
        query: QUERY,
        epoch: Epoch(4),
    }));
    assert_eq!(bench.cancelled, [(executor(0), old.id)]);
    let (queries, wanted) = reconcile(&actions);
    assert!(queries.iter().any(|grant| grant.epoch == Epoch(4)) && wanted.is_empty());
    bench.succeed(&old);
    assert!(bench.ready.is_empty());
}
