//! What is refused, with the way out.

use std::process::Command;

use millstream_integration_tests::{process::ChildProcess, wait::Deadline};

use crate::{
    driver_faults::rebuilt,
    word_job::{SOON, TESTJOB, WordJob, assert_ends, text, wait_executors, wait_says},
};

#[test]
fn a_wrong_secret_is_refused() {
    let job = WordJob::new("secret");
    job.send(40);
    let application = job.application();
    let cluster = application.start(0).unwrap();
    let stranger = application.clone().env("MILLSTREAM_AUTH__SECRET", "not-it");
    let executor = stranger.start_executor().unwrap();
    assert_ends(&executor, 1, &["error:", "refused", "secret"]);
    for process in [&executor, &cluster.driver.process] {
        let all = process.output().lines();
        assert!(
            all.iter()
                .all(|line| !line.text.contains("not-it") && !line.text.contains("of-the-tests")),
            "a secret stands in the log"
        );
    }
    cluster.add_executor().unwrap();
    job.finish(cluster);
}

#[test]
fn an_executor_with_a_secret_ends_at_a_driver_that_asks_for_none() {
    let job = WordJob::new("secret-one-sided");
    job.send(40);
    let application = job.application();
    let open = application.clone().without_env("MILLSTREAM_AUTH__SECRET");
    let cluster = open.start(0).unwrap();
    let executor = application.start_executor().unwrap();
    let texts = ["error:", "auth.secret", "the driver asks for none"];
    assert_ends(&executor, 2, &texts);
    cluster.add_executor().unwrap();
    job.finish(cluster);
}

#[test]
fn an_executor_of_another_build_is_refused() {
    let job = WordJob::new("other-build");
    job.send(40);
    let application = job.application();
    let cluster = application.start(1).unwrap();
    wait_executors(&cluster, 1);
    let build = cluster.driver.rest("application").unwrap()["build_id"].clone();
    let executor = application
        .clone()
        .with_program(rebuilt(&job))
        .start_executor()
        .unwrap();
    let executor_build = "the executor is build ";
    assert_ends(
        &executor,
        1,
        &[
            "error:",
            executor_build,
            build.as_str().unwrap(),
            "run the same executable on both",
        ],
    );
    job.finish(cluster);
}

/// Runs the job with these arguments; it must end at once.
fn ends(arguments: &[&str], code: i32, texts: &[&str]) {
    let mut command = Command::new(TESTJOB);
    command.args(arguments);
    let driver = ChildProcess::spawn("driver", &command).unwrap();
    assert_ends(&driver, code, texts);
}

#[test]
fn bad_configuration_is_refused_with_the_nearest_that_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let dir = text(folder.path());
    let with = |conf: &str, texts: &[&str]| ends(&["--dir", &dir, "--conf", conf], 2, texts);
    with(
        "task.max_failure=3",
        &["task.max_failure", "task.max_failures"],
    );
    with("stop.timeout=never", &["stop.timeout", "never"]);
    with("shuffle.compression=lz5", &["shuffle.compression", "lz4"]);
    with("time.zone=Mars/Phobos", &["error:", "Mars/Phobos"]);
    let file = folder.path().join("job.toml");
    std::fs::write(&file, "[task]\nmax_failurs = 3\n").unwrap();
    ends(
        &["--dir", &dir, "--config", &text(&file)],
        2,
        &["task.max_failures"],
    );
    let mut command = Command::new(TESTJOB);
    command
        .args(["--dir", &dir])
        .env("MILLSTREAM_TASK__MAX_FAILURS", "3");
    let driver = ChildProcess::spawn("driver", &command).unwrap();
    assert_ends(
        &driver,
        2,
        &["MILLSTREAM_TASK__MAX_FAILURS", "MAX_FAILURES"],
    );
    ends(&["--dir", &dir, "--master", "yarn"], 2, &["yarn"]);
    let checkpoint = ["--dir", &dir, "--checkpoint", "hdfs://node/checkpoint"];
    ends(&checkpoint, 2, &["error:", "hdfs"]);
}

#[test]
fn a_job_without_a_source_says_what_to_give() {
    ends(&[], 2, &["error:", "give --brokers and --topic, or --dir"]);
}

#[test]
fn a_broker_that_does_not_answer_is_named_with_a_command_to_try() {
    let arguments = ["--brokers", "127.0.0.1:1", "--topic", "lines"];
    let mut command = Command::new(TESTJOB);
    command.args(arguments);
    let begun = Deadline::after(SOON);
    let driver = ChildProcess::spawn("driver", &command).unwrap();
    assert_ends(
        &driver,
        1,
        &[
            "error:",
            "127.0.0.1:1",
            "within 10s",
            "kcat -L -b 127.0.0.1:1",
        ],
    );
    assert!(begun.elapsed().as_secs() >= 9, "it gave up too early");
}

#[test]
fn an_unknown_topic_is_named_with_the_command_that_makes_it() {
    let brokers = crate::word_job::kafka().bootstrap();
    let arguments = ["--brokers", brokers, "--topic", "never-made"];
    ends(
        &arguments,
        1,
        &[
            "error:",
            "topic never-made is not there",
            "kafka-topics.sh",
            brokers,
        ],
    );
}

#[test]
fn a_driver_that_is_no_driver_is_said_so() {
    let job = WordJob::new("no-driver");
    let executor = job.application().start_executor_for("127.0.0.1:1").unwrap();
    wait_says(&executor, &["127.0.0.1:1"]);
    assert_eq!(
        executor.exit_status().unwrap(),
        None,
        "it waits for its driver"
    );
}
