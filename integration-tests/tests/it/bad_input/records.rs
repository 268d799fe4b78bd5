//! Records that are no text or too large, under each policy.

use millstream_integration_tests::wait::wait_until;

use crate::word_job::{SOON, WordJob, assert_ends, metric};

const NOT_UTF8: &[u8] = b"broken\xff\xfe text";

/// Under `policy` the record becomes `words`, and is counted under the policy's name.
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
    let name = "millstream_executor_malformed_records_total";
    wait_until(SOON, "the count of malformed records", || {
        let page = cluster.driver.http("/metrics").unwrap();
        metric(&page, name, policy) >= 1.0
    })
    .unwrap();
    let page = cluster.driver.http("/metrics").unwrap();
    assert_eq!(metric(&page, name, policy), 1.0);
    assert_eq!(metric(&page, name, ""), 1.0);
    let batches = cluster.driver.rest("batches").unwrap();
    let malformed: u64 = batches
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| batch["malformed"].as_u64().unwrap())
        .sum();
    assert_eq!(malformed, 1);
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
    let page = cluster.driver.http("/metrics").unwrap();
    assert_eq!(
        metric(&page, "millstream_executor_malformed_records_total", "drop"),
        1.0
    );
    job.finish(cluster);
}
