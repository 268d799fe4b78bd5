//! How an application in one process ends.

use std::{sync::mpsc, thread, time::Duration};

use crate::{Master, StreamingContext, kafka};

/// A query may end before it was ready for executors; the one in this process then still waits for its registration.
#[test]
fn an_application_whose_source_cannot_start_ends_with_the_reason() {
    let (done, ended) = mpsc::channel();
    let running = move || {
        let ssc = StreamingContext::builder()
            .master(Master::Local { slots: 1 })
            .conf("kafka.plan_timeout", "200ms")
            .conf("http.enabled", false)
            .build()
            .expect("context");
        // Port 1 is nobody's.
        let consumer = kafka::Consumer::new("127.0.0.1:1").topics(["lines"]);
        let lines = kafka::direct_stream(&ssc, consumer).expect("stream");
        lines.count().pprint();
        ssc.start().expect("start");
        done.send(ssc.await_termination()).expect("the test waits");
    };
    thread::Builder::new()
        .name("application".to_owned())
        .spawn(running)
        .expect("thread");
    let outcome = ended
        .recv_timeout(Duration::from_secs(30))
        .expect("the application hangs");
    let error = outcome.expect_err("there is no broker");
    assert_eq!(error.code(), "kafka.no_broker", "{error}");
}

#[test]
fn a_time_zone_that_is_none_is_bad_configuration() {
    let building = StreamingContext::builder()
        .master(Master::Local { slots: 1 })
        .conf("time.zone", "Mars/Phobos")
        .build();
    let error = building.err().expect("there is no such zone");
    assert_eq!(error.code(), "config.time_zone", "{error}");
    assert_eq!(error.exit_code(), 2, "{error}");
}
