//! Exclusion of an executor that fails, and heartbeats beside tasks that compute.

use std::fs;

use super::{Place, of_driver, start, stop, wait_input};

#[test]
fn an_executor_that_fails_two_tasks_gets_no_more_of_the_stage() {
    let place = Place::new();
    let application = place
        .runtime_job("one-fails")
        .cores(1)
        .conf("files.split_size", "1KiB")
        .conf("task.max_failures", 4);
    let cluster = start(&application, 2);
    // A line is about a split.
    let lines: String = (0..16)
        .map(|line| format!("line-{line} {:x<1010}\n", ""))
        .collect();
    place.put("lines", &lines);
    wait_input(&cluster);
    let failed = of_driver(&cluster, "millstream_driver_tasks_total", "failed");
    let retries = of_driver(&cluster, "millstream_driver_task_retries_total", "");
    stop(cluster);

    let first = fs::read_to_string(place.path("calls").join("first")).unwrap();
    let calls = place.calls();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert_eq!(calls[&format!("calls-{first}")], 2, "{calls:?}");
    assert_eq!((failed, retries), (2, 2));
    let counts = place.counts();
    let of_lines = counts.iter().filter(|(word, _)| word.starts_with("line-"));
    assert_eq!(of_lines.map(|(_, count)| count).sum::<u64>(), 16);
}

#[test]
fn a_task_that_computes_delays_no_heartbeat() {
    let place = Place::new();
    let output = place.path("out");
    let application = place
        .test_job("compute")
        .args(["--output", output.to_str().unwrap()])
        .cores(2)
        .conf("files.split_size", "1KiB")
        .conf("executor.timeout", "2s")
        .conf("executor.heartbeat_interval", "200ms");
    let cluster = start(&application, 1);
    // Both slots compute, three times as long as an executor may be silent.
    place.put("first", "6\n");
    place.put("second", "6\n");
    let batch = wait_input(&cluster);
    assert!(
        batch["processing_millis"].as_f64().unwrap() >= 6_000.0,
        "{batch}"
    );
    assert_eq!(
        of_driver(&cluster, "millstream_driver_executors_lost_total", ""),
        0
    );
    assert_eq!(
        of_driver(&cluster, "millstream_driver_task_retries_total", ""),
        0
    );
    super::wait_until(super::PATIENCE, "both lines to come out", || {
        place.counts().get("6") == Some(&2)
    })
    .unwrap();
    stop(cluster);
}
