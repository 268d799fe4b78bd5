//! A store that is away, busy, slow, or whose answers are lost on the way: batches wait, and nothing is lost or written twice.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use millstream_integration_tests::{
    http_proxy::{Fate, HttpProxy},
    minio::Minio,
    process::ChildProcess,
    wait::wait_until,
};

use crate::word_job::{SOON, WordJob, wait_executors, wait_says};

const AWAY: &str = "the object store does not answer";
const BACK: &str = "the object store is back";

fn times_said(process: &ChildProcess, text: &str) -> usize {
    let lines = process.output().lines();
    lines.iter().filter(|line| line.text.contains(text)).count()
}

#[test]
fn a_store_that_goes_away_is_waited_for_and_spoken_of_once() {
    let proxy = HttpProxy::start(Minio::shared().address()).unwrap();
    let job = WordJob::on_objects_at("s3-away", proxy.address());
    let cluster = job.application().start(2).unwrap();
    wait_executors(&cluster, 2);
    job.send(40);
    job.wait_counted();

    proxy.set(|_| Fate::Cut);
    job.send(40);
    let driver = &cluster.driver.process;
    wait_says(driver, &[AWAY]);
    let before = proxy.seen();
    wait_until(SOON, "many requests in vain", || proxy.seen() > before + 12).unwrap();
    assert_eq!(times_said(driver, "no checkpoint"), 0);
    assert!(driver.exit_status().unwrap().is_none());
    proxy.set(|_| Fate::Pass);
    wait_says(driver, &[BACK]);
    job.wait_counted();
    assert_eq!((times_said(driver, AWAY), times_said(driver, BACK)), (1, 1));
    for pid in cluster.executors() {
        let said = cluster.with_executor(pid, |executor| times_said(executor, AWAY));
        assert!(said.unwrap() <= 1);
    }
    job.finish(cluster);
}

#[test]
fn a_bad_connection_loses_and_doubles_nothing() {
    let proxy = HttpProxy::start(Minio::shared().address()).unwrap();
    let job = WordJob::on_objects_at("s3-bad", proxy.address());
    let application = job
        .application()
        .conf("kafka.max_rate_per_partition", 50)
        .conf("s3.request_timeout", "5s");
    let cluster = application.start(2).unwrap();
    wait_executors(&cluster, 2);
    proxy.set(|request| match request.number {
        number if number % 17 == 0 => Fate::LoseAnswer,
        number if number % 13 == 0 => Fate::Cut,
        number if number % 11 == 0 => Fate::Answer(503, busy()),
        number if number % 19 == 0 => Fate::Answer(400, too_slow()),
        number if number % 9 == 0 => Fate::Answer(404, "404 page not found\n".to_owned()),
        number if number % 7 == 0 => Fate::Delay(Duration::from_millis(30)),
        _ => Fate::Pass,
    });
    // Batches come whether or not there are records, and with them requests.
    for _ in 0..3 {
        job.send(20);
        let before = proxy.seen();
        wait_until(SOON, "requests, good and bad", || {
            proxy.seen() > before + 60
        })
        .unwrap();
    }
    proxy.set(|_| Fate::Pass);
    job.finish(cluster);
}

fn busy() -> String {
    "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        .to_owned()
}

fn too_slow() -> String {
    "<Error><Code>RequestTimeout</Code><Message>Your socket connection to the server was not read from or written to within the \
     timeout period.</Message></Error>"
        .to_owned()
}

/// The first request of the kind is done, but its answer is lost.
fn loses_the_answer_of(name: &str, wanted: fn(&str, &str) -> bool) {
    let proxy = HttpProxy::start(Minio::shared().address()).unwrap();
    let job = WordJob::on_objects_at(name, proxy.address());
    let lost = std::sync::Arc::new(AtomicBool::new(false));
    let seen = std::sync::Arc::clone(&lost);
    proxy.set(move |request| {
        if wanted(&request.method, &request.target) && !seen.swap(true, Ordering::AcqRel) {
            return Fate::LoseAnswer;
        }
        Fate::Pass
    });
    let cluster = job.application().start(1).unwrap();
    job.send(40);
    job.wait_counted();
    assert!(lost.load(Ordering::Acquire), "no such request was made");
    job.finish(cluster);
}

#[test]
fn a_commit_whose_answer_was_lost_was_won() {
    loses_the_answer_of("s3-lost-commit", |method, target| {
        method == "PUT" && target.contains("/commits/")
    });
}

#[test]
fn a_claim_whose_answer_was_lost_was_won() {
    loses_the_answer_of("s3-lost-claim", |method, target| {
        method == "PUT" && target.contains("/epochs/")
    });
}

#[test]
fn a_completion_whose_answer_was_lost_is_published() {
    loses_the_answer_of("s3-lost-complete", |method, target| {
        method == "POST" && target.contains("uploadId=") && target.contains("/out/counts-")
    });
}
