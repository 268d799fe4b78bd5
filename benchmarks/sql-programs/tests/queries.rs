//! The measured queries read every row, batch by batch as they are told, so that a time is one of work done.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by a panic, its helping functions too"
)]

use std::{path::Path, process::Command, time::Duration};

use millstream_benchmark_programs::{
    corpus,
    tables::{self, Groups},
};
use millstream_integration_tests::process::ChildProcess;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// Rows read, groups changed and groups there are, of each batch that read any.
fn batches(query: &str, folder: &Path, per_batch: &str) -> Vec<(u64, u64, u64)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_queries"));
    command
        .args([query, "--per-batch", per_batch, "--master", "local[2]"])
        .args(["--conf", "http.enabled=false", "--conf", "parallelism=2"])
        .arg("--dir")
        .arg(folder);
    let process = ChildProcess::spawn("queries", &command).unwrap();
    let mut batches = Vec::new();
    process
        .wait_for_line("its end", PATIENCE, |line| {
            if let Some(progress) = line.text.strip_prefix("PROGRESS ") {
                let progress: Value = serde_json::from_str(progress).unwrap();
                let state = &progress["stateOperators"][0];
                let numbers = [
                    &progress["numInputRows"],
                    &state["numRowsUpdated"],
                    &state["numRowsTotal"],
                ];
                let [rows, updated, total] = numbers.map(|number| number.as_u64().unwrap());
                batches.push((rows, updated, total));
            }
            line.text == "END"
        })
        .unwrap();
    process.wait_success(PATIENCE).unwrap();
    batches.retain(|(rows, _, _)| *rows > 0);
    batches
}

#[test]
fn words_are_counted_for_good() {
    let folder = tempfile::tempdir().unwrap();
    corpus::write_files(folder.path(), 2_000, 4).unwrap();
    let batches = batches("words", folder.path(), "2");
    let [first, second] = batches[..] else {
        panic!("{batches:?}");
    };
    assert_eq!((first.0, second.0), (1_000, 1_000));
    assert_eq!(first.1, first.2);
    assert!(second.2 > first.2 && second.1 < second.2, "{batches:?}");
}

#[test]
fn each_file_of_employees_is_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    tables::write_employees(folder.path(), 3).unwrap();
    let batches = batches("employees", folder.path(), "1");
    assert_eq!(batches, [(10, 5, 5); 3]);
}

#[test]
fn batches_touch_so_many_groups() {
    let folder = tempfile::tempdir().unwrap();
    let groups = Groups {
        groups: 4_000,
        fills: 2,
        touched: 100,
        batches: 2,
    };
    tables::write_groups(folder.path(), groups).unwrap();
    let batches = batches("state", folder.path(), "2");
    let expected = [
        (2_000, 2_000, 2_000),
        (2_000, 2_000, 4_000),
        (100, 100, 4_000),
        (100, 100, 4_000),
    ];
    assert_eq!(batches, expected);
}
