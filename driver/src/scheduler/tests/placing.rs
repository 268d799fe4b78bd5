//! Where tasks go: slots, locality over batches, waits, kept blocks.

use millstream_dataflow::plan::Exchange;

use super::*;

fn places(bench: &Bench, stage: u32) -> Vec<(u32, ExecutorId)> {
    let mut found: Vec<_> = bench
        .of_stage(stage)
        .iter()
        .map(|launched| (launched.id.partition, launched.executor))
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn tasks_without_a_preference_spread_over_free_slots() {
    let mut bench = Bench::new(&[4, 4, 4]);
    bench.run(0, &one_stage(), splits(6));
    for number in 0..3 {
        assert_eq!(bench.running_on(number).len(), 2);
    }
}

#[test]
fn locality_keys_spread_evenly_and_stay_where_they_are() {
    let mut bench = Bench::new(&[4, 4]);
    bench.run(0, &one_stage(), keyed_splits(4));
    let first = places(&bench, 0);
    assert_eq!(bench.running_on(0).len(), 2);
    bench.succeed_stage(0);
    bench.output_done(0, 0);
    // In another order and with others among them, so that dealing them out anew gives other places: keys count, not positions.
    let mut later = keyed_splits(6);
    later.reverse();
    bench.run(1, &one_stage(), later);
    for (partition, place) in first {
        assert_eq!(bench.of(0, 5 - partition).executor, place);
    }
}

#[test]
fn a_task_waits_for_its_executor_and_then_goes_anywhere() {
    let mut bench = Bench::new(&[1, 1]);
    let graph = one_stage();
    bench.run_through(0, &graph, keyed_splits(1));
    // The other query takes the slot at home and more than that.
    bench.run_of(OTHER_QUERY, 0, &graph, splits(2));
    let elsewhere = bench.running_on(1)[0];
    bench.run(1, &graph, keyed_splits(1));
    assert_eq!(bench.running.len(), 2);
    let freed = bench.running[&elsewhere].clone();
    bench.succeed(&freed);
    assert!(bench.running_on(1).is_empty(), "it waits for its own");
    let due = bench.wake.expect("a wish to wake");
    assert_eq!(due, bench.now.after(Duration::from_millis(100)));
    bench.wait(Duration::from_millis(99));
    assert!(bench.running_on(1).is_empty());
    bench.wait(Duration::from_millis(1));
    assert_eq!(bench.running_on(1).len(), 1);
    assert!(bench.notes.contains(&Note::Placed {
        preferred: 0,
        elsewhere: 1
    }));
    // Where it ran is its home from now on.
    while let Some(launched) = bench.running.values().next().cloned() {
        bench.succeed(&launched);
    }
    bench.output_done(1, 0);
    bench.run(2, &graph, keyed_splits(1));
    assert_eq!(bench.of(0, 0).executor, executor(1));
}

#[test]
fn a_kept_partition_is_read_where_it_is() {
    let graph = plan(
        vec![
            stage(vec![source()], vec![Exchange::Keep]),
            stage(vec![reads(0, 0)], vec![]),
        ],
        &[1],
    );
    let mut bench = Bench::new(&[3, 3]);
    bench.run(0, &graph, splits(4));
    let written = places(&bench, 0);
    for partition in [3, 1, 0, 2] {
        let map = bench.of(0, partition);
        bench.succeed(&map);
    }
    assert_eq!(places(&bench, 1), written);
    assert_eq!(inputs(&bench.of(1, 2)), [vec![(2, 0)]]);
}

#[test]
fn reduce_partitions_go_where_they_ran_in_the_batch_before() {
    let mut bench = Bench::new(&[4, 4]);
    let graph = map_reduce(4);
    bench.run(0, &graph, splits(1));
    bench.succeed_stage(0);
    let before = places(&bench, 1);
    bench.succeed_stage(1);
    bench.output_done(0, 0);
    bench.run(1, &graph, splits(3));
    bench.succeed_stage(0);
    assert_eq!(places(&bench, 1), before);
}

#[test]
fn a_new_executor_takes_its_share_of_keys() {
    let mut bench = Bench::new(&[4]);
    bench.run_through(0, &one_stage(), keyed_splits(4));
    bench.connect(1, 4);
    bench.run(1, &one_stage(), keyed_splits(4));
    assert_eq!(bench.running_on(0).len(), 2);
    assert_eq!(bench.running_on(1).len(), 2);
}

#[test]
fn the_keys_of_a_lost_executor_go_to_the_others() {
    let mut bench = Bench::new(&[4, 4]);
    bench.run_through(0, &one_stage(), keyed_splits(4));
    bench.lose(1);
    bench.run(1, &one_stage(), keyed_splits(4));
    assert_eq!(bench.running_on(0).len(), 4);
}
