//! The masters: all of them count the same.

use std::{net::TcpListener, process::Command};

use millstream_integration_tests::{
    process::{ChildProcess, Line, processes},
    wait::{wait_for, wait_until},
};

use crate::word_job::{
    SOON, TESTJOB, WordJob, assert_ends, metric, text, wait_executors, wait_says,
};

/// Counts on this master, in the driver's process, which must have so many slots.
fn count_on(master: &str, slots: usize) {
    let job = WordJob::new("masters");
    job.send(40);
    let application = job.application().master(master);
    let cluster = application.start(0).unwrap();
    let executors = wait_executors(&cluster, 1);
    assert_eq!(executors[0]["cores"], slots, "{master}");
    assert_eq!(executors[0]["process_id"], cluster.driver.process.pid());
    job.wait_counted();
    job.send(20);
    job.finish(cluster);
}

#[test]
fn local() {
    count_on("local", 1);
}

#[test]
fn local_with_slots() {
    count_on("local[2]", 2);
    let cores = std::thread::available_parallelism().unwrap().get();
    count_on("local[*]", cores);
}

#[test]
fn local_cluster() {
    let job = WordJob::new("local-cluster");
    job.send(40);
    let cluster = job
        .application()
        .master("local-cluster[2,1]")
        .start(0)
        .unwrap();
    let executors = wait_executors(&cluster, 2);
    let driver = cluster.driver.process.pid();
    for executor in &executors {
        assert_eq!(executor["cores"], 1);
        let pid = u32::try_from(executor["process_id"].as_u64().unwrap()).unwrap();
        let parent = processes().into_iter().find(|process| process.pid == pid);
        assert_eq!(parent.map(|process| process.parent), Some(driver));
    }
    job.finish(cluster);
}

#[test]
fn executors_may_come_before_the_driver() {
    let job = WordJob::new("early");
    job.send(40);
    let application = job.application();
    let early = application.start_executor().unwrap();
    wait_says(&early, &["driver"]);
    let cluster = application.start(0).unwrap();
    wait_executors(&cluster, 1);
    job.finish(cluster);
    early.wait_exit(SOON).unwrap();
}

#[test]
fn executors_may_come_late_and_are_used_from_then_on() {
    let job = WordJob::new("late");
    job.send(40);
    let application = job
        .application()
        .conf("executor.wait_log_interval", "100ms")
        .cores(1);
    let cluster = application.start(0).unwrap();
    wait_until(SOON, "the driver to say that it waits", || {
        let shown = cluster.driver.rest("application").unwrap();
        shown["queries"][0]["waits_for_executor"] == true
    })
    .unwrap();
    assert!(job.counted().is_empty());
    let waits = |line: &Line| line.text.contains("no executor can take tasks");
    let driver = &cluster.driver.process;
    let said = driver.wait_for_line("that it waits", SOON, waits).unwrap();
    driver
        .wait_for_line_from(said.number + 1, "that it waits still", SOON, waits)
        .unwrap();
    cluster.add_executor().unwrap();
    job.wait_counted();
    cluster.add_executor().unwrap();
    let both = wait_executors(&cluster, 2);
    let late = both[1]["http_address"].as_str().unwrap().to_owned();
    let page = wait_for(SOON, "tasks on the late executor", || {
        job.send(10);
        job.wait_counted();
        let page = millstream_integration_tests::cluster::get(&format!("http://{late}/metrics"));
        page.ok()
            .filter(|page| metric(page, "millstream_executor_tasks_total", "succeeded") > 0.0)
    })
    .unwrap();
    assert!(page.contains("millstream_executor_tasks_total"));
    job.finish(cluster);
}

#[test]
fn a_killed_child_of_local_cluster_is_started_again() {
    let job = WordJob::new("reborn");
    job.send(40);
    let cluster = job
        .application()
        .master("local-cluster[2,1]")
        .start(0)
        .unwrap();
    let executors = wait_executors(&cluster, 2);
    job.wait_counted();
    let victim = executors[0]["process_id"].as_u64().unwrap();
    let killed = Command::new("kill")
        .args(["-9", &victim.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    job.send(40);
    wait_until(SOON, "another child in its place", || {
        let now = cluster.driver.rest("executors").unwrap();
        let now = now.as_array().unwrap();
        let connected = now
            .iter()
            .filter(|executor| executor["state"] == "connected");
        let ids: Vec<_> = connected
            .map(|executor| executor["process_id"].clone())
            .collect();
        ids.len() == 2 && !ids.contains(&victim.into())
    })
    .unwrap();
    wait_says(
        &cluster.driver.process,
        &["an executor process ended", &victim.to_string()],
    );
    job.send(10);
    job.finish(cluster);
}

/// The arguments of a driver over an empty folder.
fn driver_command(folder: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(TESTJOB);
    command.args(["--dir", &text(folder), "--batch-interval", "200ms"]);
    command.args(arguments);
    command
}

#[test]
fn a_port_that_was_asked_for_is_not_moved() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let listen = [
        "--master",
        "cluster",
        "--listen",
        &address,
        "--conf",
        "driver.http=127.0.0.1:0",
    ];
    let driver = ChildProcess::spawn("driver", &driver_command(folder.path(), &listen)).unwrap();
    assert_ends(&driver, 1, &["error:", &address, "--listen"]);

    let conf = format!("driver.http={address}");
    let http = ["--master", "local", "--conf", &conf];
    let driver = ChildProcess::spawn("driver", &driver_command(folder.path(), &http)).unwrap();
    assert_ends(&driver, 1, &["error:", &address, "driver.http"]);
}

#[test]
fn a_default_port_that_is_taken_moves_on() {
    let folder = tempfile::tempdir().unwrap();
    // Whoever has them, they are taken.
    let taken = [7_077, 4_040].map(|port| TcpListener::bind(("127.0.0.1", port)));
    let ready = folder.path().join("ready.json");
    let driver = driver_command(
        folder.path(),
        &["--master", "cluster", "--ready-file", &text(&ready)],
    );
    let driver = ChildProcess::spawn("driver", &driver).unwrap();
    let shown = wait_for(SOON, "the ready file", || {
        let line = std::fs::read_to_string(&ready).ok()?;
        assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line}");
        serde_json::from_str::<serde_json::Value>(&line).ok()
    })
    .unwrap();
    let port = |key: &str| -> u16 {
        let (host, port) = shown[key].as_str().unwrap().rsplit_once(':').unwrap();
        assert_eq!(host, "127.0.0.1", "{key} is open to other machines");
        port.parse().unwrap()
    };
    assert!((7_078..7_200).contains(&port("driver")), "{shown}");
    assert!((4_041..4_200).contains(&port("http")), "{shown}");
    assert_eq!(shown["process_id"], driver.pid());
    wait_says(
        &driver,
        &["driver.listen is taken", &format!("{}", port("driver"))],
    );
    drop(taken);
    driver
        .signal(millstream_integration_tests::process::Signal::TERM)
        .unwrap();
    assert_eq!(driver.wait_exit(SOON).unwrap().code(), Some(0));
}
