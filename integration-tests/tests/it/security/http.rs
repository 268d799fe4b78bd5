//! Metrics and REST beyond this machine: a token, and TLS.

use std::net::SocketAddr;

use super::{ask_without_certificate, node};
use crate::word_job::{WordJob, assert_ends};

const TOKEN: &str = "for-prometheus";

#[test]
fn an_exposed_port_without_a_token_is_refused() {
    let job = WordJob::new("http-exposed");
    let application = job.application();
    let exposed = application.clone().conf("driver.http", "0.0.0.0:0");
    let driver = exposed.start_driver().unwrap();
    let texts = [
        "error:",
        "driver.http",
        "0.0.0.0",
        "set http.token",
        "127.0.0.1",
    ];
    assert_ends(&driver.process, 2, &texts);
    let exposed = application.conf("executor.http", "0.0.0.0:0");
    let executor = exposed.start_executor().unwrap();
    assert_ends(&executor, 2, &["error:", "executor.http", "set http.token"]);
}

#[test]
fn an_exposed_port_is_encrypted_and_asks_for_the_token() {
    let job = WordJob::new("http-token");
    job.send(40);
    let files = node(&job);
    let application = job
        .application()
        .tls(&files)
        .env("MILLSTREAM_HTTP__TOKEN", TOKEN)
        .conf("driver.http", "0.0.0.0:0")
        .conf("executor.http", "0.0.0.0:0");
    let cluster = application.start(1).unwrap();
    let driver = cluster.driver.wait_ready().unwrap().http.unwrap();
    let driver = SocketAddr::from(([127, 0, 0, 1], driver.parse::<SocketAddr>().unwrap().port()));
    let ask = |address, path: &str, header: &str| {
        let question =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n");
        ask_without_certificate(&files, address, &question).unwrap()
    };
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    for header in ["", "Authorization: Bearer guess\r\n"] {
        let answer = ask(driver, "/metrics", header);
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(answer.contains("http.token"), "{answer}");
        assert!(!answer.contains("millstream_driver"), "{answer}");
    }
    assert!(ask(driver, "/healthz", "").starts_with("HTTP/1.1 200"));
    let page = ask(driver, "/metrics", &bearer);
    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains("millstream_driver_"),
        "{page}"
    );
    job.wait_counted();
    let shown = ask(driver, "/api/v1/application", &bearer);
    assert!(
        shown.contains("http.token") && !shown.contains(TOKEN),
        "{shown}"
    );
    let executors = ask(driver, "/api/v1/executors", &bearer);
    let port = executors
        .split("\"http_address\":\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .and_then(|address| address.rsplit_once(':'))
        .map(|(_, port)| port.parse::<u16>().unwrap())
        .unwrap();
    let executor = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(ask(executor, "/metrics", "").starts_with("HTTP/1.1 401"));
    assert!(ask(executor, "/metrics", &bearer).contains("millstream_executor_"));

    let log = cluster.driver.process.output().lines();
    assert!(log.iter().all(|line| !line.text.contains(TOKEN)));
    for (path, content) in job.files() {
        let found = content
            .windows(TOKEN.len())
            .any(|part| part == TOKEN.as_bytes());
        assert!(!found, "the token stands in {}", path.display());
    }
    job.finish(cluster);
}

#[test]
fn a_token_is_asked_for_on_this_machine_too() {
    let job = WordJob::new("http-local");
    job.send(40);
    let application = job.application().env("MILLSTREAM_HTTP__TOKEN", TOKEN);
    let cluster = application.start(1).unwrap();
    let error = cluster.driver.http("/metrics").unwrap_err().to_string();
    assert!(error.contains("401"), "{error}");
    assert_eq!(cluster.driver.http("/healthz").unwrap(), "ok\n");
    job.finish(cluster);
}
