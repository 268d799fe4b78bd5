//! What an application tells whoever starts it: its help, what an unset checkpoint means, the line of progress.

use std::{fs, process::Command};

use millstream_integration_tests::{
    process::{ChildProcess, Signal},
    wait::wait_until,
};

use crate::word_job::{SOON, TESTJOB, assert_ends, text, wait_says};

#[test]
fn help_names_masters_flags_roles_and_exit_codes() {
    let shown = |arguments: &[&str], texts: &[&str]| {
        let mut command = Command::new(TESTJOB);
        command.args(arguments);
        let help = ChildProcess::spawn("help", &command).unwrap();
        for text in texts {
            assert_ends(&help, 0, &[*text]);
        }
    };
    shown(
        &["--help"],
        &[
            "local-cluster[E,C]",
            "--master <MASTER>",
            "--checkpoint <FOLDER>",
            "--conf <KEY=VALUE>",
            "--config <FILE>",
            // The application's own.
            "--topic <TOPIC>",
            "Exit codes: 0 all committed",
        ],
    );
    shown(
        &["executor", "--help"],
        &["waits for it", "--driver <HOST:PORT>", "--cores <N>"],
    );
}

#[test]
fn without_a_checkpoint_the_driver_says_what_that_means() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(TESTJOB);
    command
        .args(["--dir", &text(folder.path()), "--master", "local"])
        .args(["--conf", "driver.http=127.0.0.1:0"]);
    let driver = ChildProcess::spawn("driver", &command).unwrap();
    wait_says(
        &driver,
        &[
            "no checkpoint",
            "after a crash the next start begins anew",
            "--checkpoint",
        ],
    );
    wait_says(&driver, &["the driver serves"]);
    driver.signal(Signal::TERM).unwrap();
    assert_eq!(driver.wait_exit(SOON).unwrap().code(), Some(0));
}

#[test]
fn the_progress_line_shows_the_newest_batch() {
    let folder = tempfile::tempdir().unwrap();
    let [input, staging] = ["input", "staging"].map(|part| folder.path().join(part));
    fs::create_dir(&input).unwrap();
    let errors = folder.path().join("errors");
    // The line has no end: it is looked for in what stands behind standard error.
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"exec "$0" "$@" 2>"$ERRORS""#, TESTJOB])
        .args(["--dir", &text(&input), "--master", "local"])
        .args(["--batch-interval", "0s"])
        .args(["--conf", "driver.http=127.0.0.1:0"])
        .args(["--conf", "progress.show=always"])
        .env("ERRORS", &errors);
    let driver = ChildProcess::spawn("driver", &command).unwrap();
    let mut files = 0;
    wait_until(SOON, "the line of progress", || {
        // Files that are there before the source has begun are passed over.
        fs::write(&staging, "a b\nc\nd\n").unwrap();
        fs::rename(&staging, input.join(format!("file-{files}"))).unwrap();
        files += 1;
        let said = fs::read_to_string(&errors).unwrap_or_default();
        said.split('\r').any(|line| {
            let parts = [
                "batch ",
                " rows · ",
                " rows/s · ",
                " ms delay · ",
                "1 executors",
            ];
            parts.iter().all(|part| line.contains(part)) && !line.contains(" 0 rows · ")
        })
    })
    .unwrap();
    driver.signal(Signal::TERM).unwrap();
    assert_eq!(driver.wait_exit(SOON).unwrap().code(), Some(0));
}
