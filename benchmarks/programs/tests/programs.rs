//! The measured programs count every word, so that a rate is a rate of work done.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by a panic, its helping functions too"
)]

use std::{path::Path, process::Command, time::Duration};

use millstream_benchmark_programs::corpus;
use millstream_integration_tests::process::ChildProcess;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);
const LINES: u64 = 2_000;
const WORDS: u64 = LINES * corpus::WORDS_PER_LINE as u64;

fn words_counted(files: &Path, more: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_words"));
    command
        .args(["--master", "local[2]", "--batch-interval", "0s"])
        .args(["--conf", "http.enabled=false"])
        .args(["--conf", "files.max_files_per_batch=2"])
        .arg("--dir")
        .arg(files)
        .args(more);
    let process = ChildProcess::spawn("words", &command).unwrap();
    let mut counts = Vec::new();
    process
        .wait_for_line("all words", PATIENCE, |line| {
            let said = line.text.strip_prefix("BATCH ");
            let count = said.and_then(|said| said.split(' ').nth(1)?.parse::<u64>().ok());
            counts.extend(count);
            counts.iter().sum::<u64>() >= WORDS
        })
        .unwrap();
    assert_eq!(counts, [WORDS / 2, WORDS / 2]);
}

#[test]
fn our_word_count_counts_all_words_with_text_and_with_strings() {
    let files = tempfile::tempdir().unwrap();
    corpus::write_files(files.path(), LINES, 4).unwrap();
    words_counted(files.path(), &[]);
    words_counted(files.path(), &["--strings"]);
}

#[test]
fn the_yardsticks_say_what_they_did() {
    let files = tempfile::tempdir().unwrap();
    corpus::write_files(files.path(), LINES, 4).unwrap();
    let ask = |arguments: &[&str]| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_yardsticks"));
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let folder = files.path().to_str().unwrap();
    for words in ["borrowed", "owned"] {
        let said = ask(&["files", folder, "--words", words]);
        assert_eq!(said["lines"], LINES);
        assert_eq!(said["words"], WORDS);
        assert!(said["lines_per_second"].as_f64() > Some(0.0), "{said}");
    }
    let small = ["--maps", "40", "--batches", "2", "--repeats", "1"];
    let said = ask(&[&["scheduler", "--executors", "1,10"][..], &small].concat());
    assert_eq!(said[0]["executors"], 1);
    assert_eq!(said[1]["executors"], 10);
    assert_eq!(said[1]["tasks"], 2 * (40 + 8));
}
