//! Stores, credentials and settings that can't work: refused before the first batch, with the way out.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use millstream_integration_tests::{
    cluster::Application,
    http_proxy::{Fate, HttpProxy},
    minio::Minio,
};

use crate::word_job::{TESTJOB, WordJob, assert_ends};

fn ends(application: &Application, code: i32, texts: &[&str]) {
    let driver = application.start_driver().unwrap();
    assert_ends(&driver.process, code, texts);
}

#[test]
fn missing_credentials_are_named() {
    let job = WordJob::new("s3-no-credentials");
    let application = Application::new(TESTJOB, job.folder())
        .unwrap()
        .args(["--job", "wordcount", "--dir", "."])
        .args(["--checkpoint", "s3://tests/none"])
        // No role of this machine is asked.
        .env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
        .conf(
            "s3.endpoint",
            format!("http://{}", Minio::shared().address()),
        )
        .conf("s3.allow_http", true);
    ends(
        &application,
        1,
        &["no usable credentials for s3://tests", "AWS_ACCESS_KEY_ID"],
    );
}

#[test]
fn an_executor_without_credentials_ends_before_it_gets_work() {
    let job = WordJob::on_objects("s3-executor-credentials");
    job.send(40);
    let application = job.application();
    let cluster = application.start(0).unwrap();
    let without = application
        .clone()
        .without_env("AWS_ACCESS_KEY_ID")
        .without_env("AWS_SECRET_ACCESS_KEY")
        .env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
    let executor = without.start_executor().unwrap();
    let texts = [
        "the executor could not start",
        "no usable credentials for s3://tests",
        "every executor",
    ];
    assert_ends(&executor, 1, &texts);
    let wrong = application
        .clone()
        .env("AWS_SECRET_ACCESS_KEY", "guessed-password");
    let executor = wrong.start_executor().unwrap();
    let texts = ["the executor could not start", "SignatureDoesNotMatch"];
    assert_ends(&executor, 1, &texts);
    cluster.add_executor().unwrap();
    job.finish(cluster);
}

#[test]
fn what_a_store_refuses_one_executor_is_done_by_another() {
    let proxy = HttpProxy::start(Minio::shared().address()).unwrap();
    let job = WordJob::on_objects_at("s3-one-clock", proxy.address());
    let refused = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&refused);
    // As for an executor whose clock was set wrong in mid-run.
    proxy.set(move |request| {
        let is_of_a_task = request.method == "POST" && request.target.contains("/out/counts-");
        if is_of_a_task && !seen.swap(true, Ordering::AcqRel) {
            return Fate::Answer(403, skewed());
        }
        Fate::Pass
    });
    let cluster = job.application().start(2).unwrap();
    job.send(40);
    job.wait_counted();
    assert!(refused.load(Ordering::Acquire), "no upload was begun");
    job.finish(cluster);
}

fn skewed() -> String {
    "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the server's time is too \
     large.</Message></Error>"
        .to_owned()
}

#[test]
fn wrong_credentials_are_named_and_not_shown() {
    let job = WordJob::on_objects("s3-wrong-credentials");
    let application = job
        .application()
        .env("AWS_SECRET_ACCESS_KEY", "guessed-password");
    let driver = application.start_driver().unwrap();
    assert_ends(
        &driver.process,
        1,
        &[
            "no usable credentials for s3://tests",
            "SignatureDoesNotMatch",
        ],
    );
    let said = driver.process.output().lines();
    assert!(
        said.iter()
            .all(|line| !line.text.contains("guessed-password"))
    );
    let application = job.application().env("AWS_ACCESS_KEY_ID", "nobody");
    ends(
        &application,
        1,
        &["no usable credentials for s3://tests", "InvalidAccessKeyId"],
    );
}

#[test]
fn a_bucket_that_is_not_there_is_named() {
    let job = WordJob::new("s3-no-bucket");
    let application = Minio::give_to(
        Application::new(TESTJOB, job.folder())
            .unwrap()
            .args(["--job", "wordcount", "--dir", "."])
            .args(["--checkpoint", "s3://nowhere/x"]),
        Minio::shared().address(),
    );
    ends(
        &application,
        1,
        &["there is no bucket `nowhere` at http://127.0.0.1"],
    );
}

#[test]
fn plain_http_must_be_allowed() {
    let job = WordJob::on_objects("s3-plain");
    let application = job.application().conf("s3.allow_http", false);
    ends(&application, 2, &["is plain HTTP", "s3.allow_http=true"]);
}

#[test]
fn a_store_that_is_not_there_is_not_waited_for_long() {
    let job = WordJob::on_objects_at("s3-nobody", "127.0.0.1:1".parse().unwrap());
    ends(
        &job.application(),
        1,
        &["did not answer for", "s3://tests at http://127.0.0.1:1"],
    );
}

#[test]
fn a_store_that_overwrites_is_refused() {
    let proxy = HttpProxy::start(Minio::shared().address()).unwrap();
    let job = WordJob::on_objects_at("s3-overwrites", proxy.address());
    let put = Mutex::new(Vec::new());
    // Tells every second put of a name that it went well.
    proxy.set(move |request| {
        if request.method != "PUT" || !request.has_header("if-none-match") {
            return Fate::Pass;
        }
        let mut put = put.lock().unwrap();
        if put.contains(&request.target) {
            return Fate::Answer(200, String::new());
        }
        put.push(request.target.clone());
        Fate::Pass
    });
    ends(
        &job.application(),
        1,
        &[
            "can't hold a checkpoint",
            "it let two puts of one name succeed",
        ],
    );
}

#[test]
fn a_clock_that_is_off_is_named() {
    let proxy = HttpProxy::start(Minio::shared().address()).unwrap();
    let job = WordJob::on_objects_at("s3-clock", proxy.address());
    proxy.set(|_| Fate::Answer(403, skewed()));
    ends(
        &job.application(),
        1,
        &["this machine's clock differs from the store's", "NTP"],
    );
}
