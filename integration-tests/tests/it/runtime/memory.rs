//! Grouping more than fits into memory.

use millstream_common::time::{Clock, SystemClock};
use std::{collections::BTreeMap, env, fs};

use millstream_integration_tests::rows::{KEYS, VALUE_BYTES};

use super::{Place, of_executors, start, stop, wait_input};

/// What an executor may have resident at its most, with `memory.budget=128MiB`.
const MOST_KIB: u64 = 256 * 1024;
const MAP_TASKS: u64 = 16;

/// `MILLSTREAM_TEST_GROUP_MIB` is how much is grouped; 1024 in a release build, 256 in others unless said.
fn mebibytes() -> u64 {
    match env::var("MILLSTREAM_TEST_GROUP_MIB") {
        Ok(given) => given.parse().expect("a number of MiB"),
        Err(_) if cfg!(debug_assertions) => 256,
        Err(_) => 1024,
    }
}

#[test]
fn group_by_key_of_far_more_than_the_budget_is_right_and_stays_within_memory() {
    let rows = (mebibytes() << 20) / VALUE_BYTES as u64;
    let place = Place::new();
    let application = place
        .runtime_job("explode")
        .conf("memory.budget", "128MiB")
        .conf("parallelism", 8)
        // A line is a task.
        .conf("files.split_size", "1KiB");
    let cluster = start(&application, 2);
    let lines = (0..MAP_TASKS).map(|task| {
        let (from, until) = (rows * task / MAP_TASKS, rows * (task + 1) / MAP_TASKS);
        format!("{from} {until} {:x<1024}\n", "")
    });
    let clock = SystemClock::new();
    let started = clock.now();
    place.put("lines", &lines.collect::<String>());
    wait_input(&cluster);
    let took = clock.now().since(started);

    let peaks: Vec<u64> = cluster.executors().into_iter().map(peak_kib).collect();
    let written = of_executors(
        &cluster,
        "millstream_executor_shuffle_written_bytes_total",
        "",
    );
    let spilled = of_executors(&cluster, "millstream_executor_spilled_bytes_total", "");
    println!(
        "grouped {} MiB in {took:.1?}: peaks {peaks:?} KiB, blocks {} MiB, spilled {} MiB",
        mebibytes(),
        written >> 20,
        spilled >> 20
    );
    stop(cluster);

    let mut wanted = BTreeMap::new();
    for key in 0..KEYS {
        let count = (rows - key).div_ceil(KEYS);
        let sum = key * count + KEYS * (count * (count - 1) / 2);
        wanted.insert(key, format!("({key},({count},{sum},0))"));
    }
    let mut found: Vec<String> = place.lines("out");
    found.sort();
    let mut wanted: Vec<String> = wanted.into_values().collect();
    wanted.sort();
    assert!(
        found == wanted,
        "the groups differ; {} rows came",
        found.len()
    );
    assert!(spilled > 0, "all of it fitted into memory");
    for peak in peaks {
        assert!(peak <= MOST_KIB, "an executor had {peak} KiB resident");
    }
}

/// The most that a process had resident.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap().parse().unwrap()
}
