//! Records that are no text or too large, under each policy.

use millstream_integration_tests::{cluster::Cluster, wait::wait_until};

use crate::word_job::{SOON, WordJob, assert_ends};

const NOT_UTF8: &[u8] = b"broken\xff\xfe text";

/// Malformed records in all batches.
fn malformed(cluster: &Cluster) -> u64 {
    let batches = cluster.driver.rest("batches").unwrap();
    let batches = batches.as_array().unwrap();
    let counts = batches
        .iter()
        .map(|batch| batch["malformed"].as_u64().unwrap());
    counts.sum()
}

/// Waits until the batches show one malformed record, not more: a batch is shown just after its output stands.
fn wait_malformed(cluster: &Cluster) {
    wait_until(SOON, "the malformed record in REST", || {
        malformed(cluster) > 0
    })
    .unwrap();
    assert_eq!(malformed(cluster), 1);
}

/// Under `policy` the record becomes `words`, and is counted.
fn goes_on(policy: &str, words: &[&str]) {
    let job = WordJob::new("malformed");
    job.send(20);
    job.send_raw(&[NOT_UTF8, b"after it"], words);
    job.send_raw(&[], &["after", "it"]);
    job.send(20);
    let cluster = job
        .application()
        .master("local[2]")
        .conf("input.on_malformed", policy)
        .start(0)
        .unwrap();
    job.wait_counted();
    wait_malformed(&cluster);
    job.finish(cluster);
}

#[test]
fn what_is_no_text_is_replaced() {
    goes_on("replace", &["broken\u{fffd}\u{fffd}", "text"]);
}

#[test]
fn what_is_no_text_is_dropped() {
    goes_on("drop", &[]);
}

#[test]
fn what_is_no_text_fails_the_batch_and_another_policy_is_the_way_out() {
    let job = WordJob::new("malformed-fail");
    job.send(20);
    job.send_raw(&[NOT_UTF8], &["broken\u{fffd}\u{fffd}", "text"]);
    let application = job.application().master("local[2]");
    let driver = application.start_driver().unwrap();
    let place = format!("{}/0", job.topic());
    assert_ends(
        &driver.process,
        1,
        &["error:", "not UTF-8", job.topic(), "input.on_malformed"],
    );
    let said = driver.process.output().tail();
    assert!(
        said.contains(&place) || said.contains("partition 0"),
        "{said}"
    );
    assert!(job.counted().is_empty());
    drop(driver);
    let cluster = application
        .conf("input.on_malformed", "replace")
        .start(0)
        .unwrap();
    job.finish(cluster);
}

#[test]
fn a_record_larger_than_the_limit_fails_the_batch_and_is_named() {
    let job = WordJob::new("too-large");
    job.send(20);
    let large = "x".repeat(2_000);
    job.send_raw(&[large.as_bytes()], &[&large]);
    let application = job.application().master("local[2]");
    let limited = application.clone().conf("input.max_record_bytes", "1KiB");
    let driver = limited.start_driver().unwrap();
    assert_ends(
        &driver.process,
        1,
        &["error:", job.topic(), "input.max_record_bytes", "2000"],
    );
    assert!(job.counted().is_empty());
    drop(driver);
    let cluster = application.start(0).unwrap();
    job.finish(cluster);
}

#[test]
fn a_record_larger_than_the_limit_is_dropped_and_counted() {
    let job = WordJob::new("too-large-drop");
    job.send(20);
    job.send_raw(&["x".repeat(2_000).as_bytes()], &[]);
    job.send(20);
    let cluster = job
        .application()
        .master("local[2]")
        .conf("input.max_record_bytes", "1KiB")
        .conf("input.on_malformed", "drop")
        .start(0)
        .unwrap();
    job.wait_counted();
    wait_malformed(&cluster);
    job.finish(cluster);
}
