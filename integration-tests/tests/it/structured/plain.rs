//! Executors that are no executable of the program: the plain `millstream`, in this build or another, and what it can't serve.

use std::{fs, path::PathBuf};

use millstream_integration_tests::{
    cluster::{Application, Cluster, PATIENCE},
    process::ChildProcess,
};
use rustix::process::Signal;

use super::job::{Job, counts, printed, wait_printed, wait_table};
use crate::{
    own_job::tool,
    word_job::{TESTJOB, WordJob, assert_ends, wait_executors},
};

/// The same application with executors of the plain program.
fn plain(application: &Application) -> Application {
    application.clone().with_program(tool())
}

/// Another build of the plain program: the same release with another hash.
fn rebuilt(job: &Job) -> PathBuf {
    let program = job.checkpoint().with_file_name("millstream");
    let mut bytes = fs::read(tool()).unwrap();
    bytes.push(0);
    fs::write(&program, bytes).unwrap();
    fs::set_permissions(&program, fs::metadata(tool()).unwrap().permissions()).unwrap();
    program
}

fn stop(cluster: &Cluster, executors: Vec<ChildProcess>) {
    assert_eq!(cluster.driver.stop().unwrap(), Some(0));
    for executor in executors {
        // It waits for the driver to come back.
        executor.signal(Signal::TERM).unwrap();
        executor.wait_exit(PATIENCE).unwrap();
    }
    cluster.application.assert_nothing_left().unwrap();
}

#[test]
fn queries_run_on_plain_executors_of_any_build_of_the_release() {
    let job = Job::new();
    job.send(300);
    let application = job.application(&[]);
    let mut executors = vec![plain(&application).start_executor().unwrap()];
    let other = application.clone().with_program(rebuilt(&job));
    executors.push(other.start_executor().unwrap());
    let cluster = application.start(0).unwrap();
    wait_executors(&cluster, 2);
    wait_table(&cluster, &job.expected());
    // The state goes on with what the second executor has alone.
    let first = executors.remove(0);
    first.kill().unwrap();
    job.send(300);
    wait_table(&cluster, &job.expected());
    stop(&cluster, executors);
}

#[test]
fn a_program_with_functions_needs_executors_of_its_own() {
    let job = Job::new();
    let application = job
        .application(&["--query", "called"])
        .env("SQLJOB_FUNCTIONS", "1");
    let cluster = application.start(0).unwrap();
    let refused = plain(&application).start_executor().unwrap();
    let words = [
        "functions of build",
        "where the program has functions of its own",
    ];
    assert_ends(&refused, 1, &words);
    cluster.add_executor().unwrap();
    job.put(
        "1.csv",
        "header\n1,A,CLERK,,1.0,X\n2,B,CLERK,,1.0,X\n3,C,,,1.0,X\n",
    );
    wait_printed(&cluster, 1);
    let rows = [("CLERK!", 2), ("NULL", 1)];
    let rows = rows.map(|(name, count)| (name.to_owned(), count));
    assert_eq!(counts(&printed(&cluster)[0]), rows.into());
    assert_eq!(cluster.stop().unwrap(), Some(0));
}

#[test]
fn another_program_is_refused_with_what_to_run() {
    let job = Job::new();
    let application = job.application(&[]);
    let cluster = application.start(0).unwrap();
    let other = application.clone().with_program(TESTJOB);
    let refused = other.start_executor().unwrap();
    assert_ends(
        &refused,
        1,
        &["Structured queries", "`millstream executor`"],
    );
    assert_eq!(cluster.stop().unwrap(), Some(0));

    let words = WordJob::new("plain");
    let application = words.application();
    let cluster = application.start(0).unwrap();
    let refused = plain(&application).start_executor().unwrap();
    assert_ends(
        &refused,
        1,
        &["Structured queries alone", "run its executable"],
    );
    cluster.driver.process.kill().unwrap();
    application.assert_nothing_left().unwrap();
}
