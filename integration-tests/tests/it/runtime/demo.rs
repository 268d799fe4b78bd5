//! The demo: one command, with nothing else installed.

use std::process::Command;

use millstream_integration_tests::{
    cluster::{PATIENCE, get},
    process::{ChildProcess, Signal},
};

use super::python::example;

#[test]
fn the_demo_counts_and_goes_on_after_a_kill() {
    let mut command = Command::new(example("wordcount"));
    command
        .args(["--demo", "--rate", "200", "--batch-interval", "500ms"])
        .args(["--conf", "driver.http=127.0.0.1:0"]);
    let demo = ChildProcess::spawn("demo", &command).unwrap();
    let said = |from: u64, what: &str, start: &str| {
        demo.wait_for_line_from(from, what, PATIENCE, |line| line.text.starts_with(start))
            .unwrap()
    };
    let executors = said(0, "the executors", "Executors: processes ");
    let executors: Vec<u32> = executors
        .text
        .rsplit("processes ")
        .next()
        .unwrap()
        .split(" and ")
        .map(|process| process.parse().unwrap())
        .collect();
    assert_eq!(executors.len(), 2, "{executors:?}");
    let metrics = said(0, "the address of the metrics", "Metrics:");
    let address = metrics.text.split_whitespace().nth(1).unwrap();
    assert!(address.ends_with("/metrics"), "{address}");
    assert!(get(address).unwrap().contains("millstream_driver_"));
    said(
        0,
        "what to try",
        &format!("Try:       kill -9 {}", executors[0]),
    );
    said(0, "counts", "('");

    let killed = Command::new("kill")
        .args(["-9", &executors[0].to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let ended = demo
        .wait_for_line("the executor's end", PATIENCE, |line| {
            line.text.contains("an executor process ended")
        })
        .unwrap();
    // The batch that was under way, and those after it.
    let mut from = ended.number + 1;
    for _ in 0..3 {
        from = said(from, "another batch", "Time: ").number + 1;
        from = said(from, "its counts", "('").number + 1;
    }
    demo.signal(Signal::TERM).unwrap();
    assert_eq!(demo.wait_exit(PATIENCE).unwrap().code(), Some(0));
    demo.assert_nothing_left(PATIENCE).unwrap();
}
