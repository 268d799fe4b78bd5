//! What goes through a shuffle, and how often a shared operator is called.

use super::{Counts, Place, of_driver, of_executors, start, stop, wait_input};

const WORDS: u64 = 2_000;
const LINES: u64 = 8_000;

fn text() -> (String, Counts) {
    let mut text = String::new();
    let mut counts = Counts::new();
    for line in 0..LINES {
        for place in 0..10 {
            let word = format!("word-{:06}", (line * 7 + place * 13) % WORDS);
            if place > 0 {
                text.push(' ');
            }
            text.push_str(&word);
            *counts.entry(word).or_default() += 1;
        }
        text.push('\n');
    }
    (text, counts)
}

/// Rows and bytes written into blocks, and the map tasks, of one batch of `text`.
fn written(compression: &str) -> (u64, u64, u64) {
    let (text, counts) = text();
    let place = Place::new();
    let output = place.path("out");
    let application = place
        .test_job("wordcount")
        .args(["--output", output.to_str().unwrap()])
        .conf("shuffle.compression", compression)
        .conf("files.split_size", "128KiB");
    let map_tasks = (text.len() as u64).div_ceil(128 * 1024);
    let cluster = start(&application, 2);
    place.put("lines", &text);
    wait_input(&cluster);
    let metric = |name: &str| of_executors(&cluster, name, "");
    let rows = metric("millstream_executor_shuffle_written_records_total");
    let bytes = metric("millstream_executor_shuffle_written_bytes_total");
    stop(cluster);
    assert_eq!(place.counts(), counts);
    (rows, bytes, map_tasks)
}

#[test]
fn the_map_side_combines_and_lz4_pays() {
    let (rows, compressed, map_tasks) = written("lz4");
    assert!(map_tasks >= 4, "{map_tasks} map tasks");
    assert!(
        (WORDS..=WORDS * map_tasks).contains(&rows),
        "{} words became {rows} rows of {map_tasks} tasks",
        LINES * 10
    );
    let (_, plain, _) = written("none");
    assert!(
        compressed * 10 < plain * 9,
        "{compressed} bytes with LZ4, {plain} without"
    );
}

fn shared_operator(job: &str) {
    let place = Place::new();
    let application = place.runtime_job(job).conf("files.split_size", "1KiB");
    let cluster = start(&application, 2);
    let lines: String = (0..300)
        .map(|line| format!("the line {line:030}\n"))
        .collect();
    place.put("lines", &lines);
    wait_input(&cluster);
    stop(cluster);
    let calls = place.calls();
    assert_eq!(calls.values().sum::<usize>(), 300, "{calls:?}");
    assert_eq!(calls.len(), 2, "one executor had it all: {calls:?}");
    let counts = place.counts();
    assert_eq!(
        (counts["the"], counts["line"], counts.len()),
        (300, 300, 302)
    );
    let totals: Vec<u64> = place
        .lines("out-totals")
        .iter()
        .map(|total| total.parse().unwrap())
        .collect();
    assert_eq!(totals.iter().sum::<u64>(), 300);
}

#[test]
fn an_operator_with_two_outputs_is_called_once_a_row_over_processes() {
    shared_operator("shared");
}

#[test]
fn a_persisted_operator_is_called_once_a_row_over_processes() {
    shared_operator("persisted");
}

#[test]
fn a_stage_whose_launch_is_larger_than_a_message_runs() {
    const MAP_TASKS: u64 = 800;
    const REDUCE_TASKS: u32 = 150;
    let mut text = String::new();
    let mut counts = Counts::new();
    for line in 0..MAP_TASKS {
        // More than a split has: a line is a task. It has words for about half of the reduce tasks, each some 20 bytes in the launch.
        for place in 0..110 {
            let word = format!("word-{:06}", (line * 7 + place * 13) % WORDS);
            if place > 0 {
                text.push(' ');
            }
            text.push_str(&word);
            *counts.entry(word).or_default() += 1;
        }
        text.push('\n');
    }
    let place = Place::new();
    let output = place.path("out");
    let application = place
        .test_job("wordcount")
        .args(["--output", output.to_str().unwrap()])
        .conf("files.split_size", "1KiB")
        .conf("rpc.max_message", "1MiB")
        .conf("parallelism", REDUCE_TASKS)
        .cores(REDUCE_TASKS);
    let cluster = start(&application, 1);
    place.put("lines", &text);
    wait_input(&cluster);
    let lost = of_driver(&cluster, "millstream_driver_executors_lost_total", "");
    let retries = of_driver(&cluster, "millstream_driver_task_retries_total", "");
    stop(cluster);
    assert_eq!((lost, retries), (0, 0), "the session was cut");
    assert_eq!(place.counts(), counts);
}
