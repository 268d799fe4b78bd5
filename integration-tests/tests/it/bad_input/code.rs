//! A panic in a user's closure.

use crate::word_job::{SOON, WordJob, assert_ends, metric, wait_executors};

#[test]
fn a_panic_fails_the_batch_after_its_attempts_and_a_repaired_closure_is_the_way_out() {
    let job = WordJob::new("panic");
    job.send(20);
    let application = job
        .application_of("panic", "earliest")
        .conf("task.max_failures", 3);
    let cluster = application.start(1).unwrap();
    wait_executors(&cluster, 1);
    job.wait_counted();
    let pid = cluster.executors()[0];
    job.send_raw(&[b"panic"], &["panic"]);
    // The third attempt was the last.
    assert_ends(
        &cluster.driver.process,
        1,
        &[
            "error:",
            "the line said panic",
            "in operator map-1",
            "attempt 2 ",
        ],
    );
    // The driver told its executor to shut down; the panics had not ended it.
    let code = cluster
        .with_executor(pid, |executor| executor.wait_exit(SOON).unwrap().code())
        .unwrap();
    assert_eq!(code, Some(0));
    drop(cluster);

    job.send(20);
    let cluster = job.application().start(1).unwrap();
    job.finish(cluster);
}

#[test]
fn an_executor_lives_on_after_panics() {
    let job = WordJob::new("panic-twice");
    job.send(20);
    // Panics twice on an executor with an odd process id, then counts.
    let application = job
        .application_of("fail-on-odd", "earliest")
        .conf("task.max_failures", 10)
        .cores(1);
    let cluster = application.start(0).unwrap();
    let odd = loop {
        let executor = application.start_executor().unwrap();
        if executor.pid() % 2 == 1 {
            break executor;
        }
    };
    wait_executors(&cluster, 1);
    job.wait_counted();
    let executors = wait_executors(&cluster, 1);
    assert_eq!(executors[0]["process_id"], odd.pid());
    assert_eq!(odd.exit_status().unwrap(), None);
    let page = cluster.driver.http("/metrics").unwrap();
    assert_eq!(
        metric(&page, "millstream_driver_task_retries_total", ""),
        2.0
    );
    job.wait_counted();
    assert_eq!(cluster.driver.stop().unwrap(), Some(0));
    odd.wait_exit(SOON).unwrap();
    job.check();
}
