//! Certificates, keys and ports that don't fit: each is named with the way out, and the job goes on.

use std::fs;

use millstream_integration_tests::{
    certificates::{Authority, Files},
    cluster::Application,
    process::ChildProcess,
};

use super::ask_without_certificate;
use crate::word_job::{SOON, WordJob, assert_ends, wait_executors, wait_says};

/// How often a process has said a line with all of these texts.
fn times_said(process: &ChildProcess, texts: &[&str]) -> usize {
    let lines = process.output().lines();
    let with_all = lines
        .iter()
        .filter(|line| texts.iter().all(|text| line.text.contains(text)));
    with_all.count()
}

#[test]
fn files_that_do_not_fit_end_both_sides_at_once() {
    let job = WordJob::new("tls-files");
    let authority = Authority::new(job.folder(), "ours").unwrap();
    let node = authority.node("node").unwrap();
    let expired = authority.expired("old").unwrap();
    let stranger = Authority::new(job.folder(), "theirs").unwrap();
    let stranger = stranger.node("stranger").unwrap();
    let garbled = job.folder().join("garbled.pem");
    fs::write(&garbled, "hello").unwrap();
    let missing = job.folder().join("missing.key");
    let with = |cert: &Files, key: &Files| Files {
        ca: node.ca.clone(),
        cert: cert.cert.clone(),
        key: key.key.clone(),
    };
    let unreadable = Files {
        key: missing,
        ..node.clone()
    };
    let no_certificate = Files {
        cert: garbled,
        ..node.clone()
    };
    let cases: [(Files, &[&str]); 5] = [
        (
            expired,
            &[
                "tls.cert",
                "old.pem",
                "expired on 2020-12-31",
                "millstream certs",
            ],
        ),
        (
            with(&stranger, &stranger),
            &["tls.cert", "stranger.pem", "another authority", "tls.ca"],
        ),
        (
            with(&node, &stranger),
            &["tls.key", "stranger.key", "doesn't fit", "node.pem"],
        ),
        (unreadable, &["tls.key", "could not read", "missing.key"]),
        (
            no_certificate,
            &["tls.cert", "garbled.pem", "holds no certificate"],
        ),
    ];
    for (files, texts) in cases {
        let application = job.application().tls(&files);
        let executor = application.start_executor().unwrap();
        let driver = application.start_driver().unwrap();
        assert_ends(&executor, 2, &[&["error:"], texts].concat());
        assert_ends(&driver.process, 2, &[&["error:"], texts].concat());
    }
    let two_of_three = job.application().conf("tls.ca", node.ca.display());
    let executor = two_of_three.start_executor().unwrap();
    assert_ends(&executor, 2, &["error:", "tls.ca", "without `tls.cert`"]);
}

#[test]
fn a_certificate_that_expires_soon_is_said_at_the_start() {
    let job = WordJob::new("tls-soon");
    let authority = Authority::new(job.folder(), "ours").unwrap();
    let soon = authority.expiring("soon").unwrap();
    let executor = job.application().tls(&soon).start_executor().unwrap();
    let texts = ["the certificate of this node expires soon", "soon.pem"];
    wait_says(&executor, &texts);
}

#[test]
fn strangers_are_turned_away_and_nothing_is_lost() {
    let job = WordJob::new("tls-strangers");
    job.send(40);
    let ours = Authority::new(job.folder(), "ours").unwrap();
    let theirs = Authority::new(job.folder(), "theirs").unwrap();
    let node = ours.node("node").unwrap();
    let application = job.application().tls(&node);
    let cluster = application.start(1).unwrap();
    let driver = &cluster.driver.process;
    let executors = wait_executors(&cluster, 1);

    // Twice, to see that the driver doesn't say it twice.
    for _ in 0..2 {
        let plain = application.clone().without_tls().start_executor().unwrap();
        assert_ends(
            &plain,
            2,
            &["error:", "speaks TLS, this one plain text", "tls.ca"],
        );
    }
    wait_says(
        driver,
        &["a connection was refused", "plain text", "127.0.0.1"],
    );
    assert_eq!(
        times_said(driver, &["a connection was refused", "plain text"]),
        1
    );

    let foreign = theirs.node("node").unwrap();
    let start = |application: &Application, files: &Files| {
        application.clone().tls(files).start_executor().unwrap()
    };
    let executor = start(&application, &foreign);
    let texts = [
        "error:",
        "the certificate of the other side",
        "another authority",
    ];
    assert_ends(&executor, 2, &texts);

    // It trusts the driver, but the driver doesn't trust it.
    theirs.trust(&ours).unwrap();
    let executor = start(&application, &foreign);
    let texts = [
        "error:",
        "says that the certificate of this one",
        "another authority",
    ];
    assert_ends(&executor, 2, &texts);
    wait_says(
        driver,
        &[
            "a connection was refused",
            "the certificate of the other side",
            "another authority",
        ],
    );

    let addresses = [
        cluster.driver.wait_ready().unwrap().driver.unwrap(),
        executors[0]["block_address"].as_str().unwrap().to_owned(),
    ];
    for address in addresses {
        let answer = ask_without_certificate(&node, address.parse().unwrap(), "hello");
        assert!(
            answer.is_err(),
            "{address} let a client without certificate in"
        );
    }
    wait_says(
        driver,
        &["a connection was refused", "presented no certificate"],
    );

    job.send(40);
    job.finish(cluster);
}

#[test]
fn an_executor_with_tls_ends_at_a_driver_without() {
    let job = WordJob::new("tls-one-sided");
    job.send(40);
    let ours = Authority::new(job.folder(), "ours").unwrap();
    let application = job.application();
    let cluster = application.start(1).unwrap();
    let with_tls = application.clone().tls(&ours.node("node").unwrap());
    let executor = with_tls.start_executor().unwrap();
    assert_ends(
        &executor,
        2,
        &["error:", "speaks plain text, this one TLS", "tls.ca"],
    );
    wait_says(
        &cluster.driver.process,
        &["a connection was refused", "speaks TLS"],
    );
    job.finish(cluster);
}

#[test]
fn a_restarted_driver_of_another_authority_ends_its_executors() {
    let job = WordJob::new("tls-renewed");
    job.send(40);
    let ours = Authority::new(job.folder(), "ours").unwrap();
    let theirs = Authority::new(job.folder(), "theirs").unwrap();
    let node = ours.node("node").unwrap();
    let application = job.application().tls(&node);
    let cluster = application.start(1).unwrap();
    wait_executors(&cluster, 1);
    job.wait_counted();
    let pid = cluster.executors()[0];
    cluster.driver.process.kill().unwrap();
    let foreign = application.clone().tls(&theirs.node("node").unwrap());
    let other = foreign.start(0).unwrap();
    let ended = cluster.with_executor(pid, |executor| {
        executor.wait_exit(SOON).unwrap();
        assert_ends(
            executor,
            2,
            &[
                "error:",
                "no safe connection to the driver",
                "another authority",
            ],
        );
    });
    assert!(ended.is_some());
    job.send(20);
    other.add_executor().unwrap();
    job.finish(other);
}
