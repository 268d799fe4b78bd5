//! A panic in a user's closure.

use millstream_integration_tests::wait::wait_until;

use crate::word_job::{SOON, WordJob, assert_ends, metric, wait_executors};

#[test]
fn a_panic_fails_the_batch_after_its_attempts_and_the_executor_lives_on() {
    let job = WordJob::new("panic");
    job.send(20);
    let application = job
        .application_of("panic", "earliest")
        .conf("task.max_failures", 3);
    let cluster = application.start(1).unwrap();
    wait_executors(&cluster, 1);
    job.wait_counted();
    let pid = cluster.executors()[0];
    let http = cluster.driver.rest("executors").unwrap()[0]["http_address"]
        .as_str()
        .unwrap()
        .to_owned();
    job.send_raw(&[b"panic"], &["panic"]);
    assert_ends(
        &cluster.driver.process,
        1,
        &["error:", "the line said panic", "map-"],
    );
    let page =
        millstream_integration_tests::cluster::get(&format!("http://{http}/metrics")).unwrap();
    assert_eq!(
        metric(&page, "millstream_executor_tasks_total", "failed"),
        3.0,
        "{page}"
    );

    // The closure is put right: the same executor process serves the same checkpoint.
    job.send(20);
    let repaired = job
        .application_of("wordcount", "earliest")
        .on_port_of(&application);
    let driver = repaired.start_driver().unwrap();
    driver.wait_ready().unwrap();
    wait_until(SOON, "the executor at the new driver", || {
        driver
            .rest("executors")
            .is_ok_and(|shown| shown[0]["process_id"] == pid && shown[0]["state"] == "connected")
    })
    .unwrap();
    job.wait_counted();
    assert_eq!(driver.stop().unwrap(), Some(0));
    job.check();
}
