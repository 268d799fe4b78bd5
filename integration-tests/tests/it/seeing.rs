//! What driver and executors show of a job of known input: metrics and REST.

use millstream_integration_tests::{
    cluster::get,
    wait::{wait_for, wait_until},
};

use crate::word_job::{PARTITIONS, SOON, WordJob, metric, wait_executors};

const LINES: usize = 140;

#[test]
fn metrics_and_rest_show_what_was_done() {
    let job = WordJob::new("seeing");
    job.send(LINES);
    let cluster = job.application().start(2).unwrap();
    let executors = wait_executors(&cluster, 2);
    job.wait_counted();
    cluster.wait_batch(1).unwrap();

    let words = 3.0 * LINES as f64;
    assert_eq!(job.expected().values().sum::<u64>() as f64, words);
    let distinct = job.expected().len() as f64;
    // A batch is planned while the source still hears of the one before; the lag that it shows may be older.
    let page = wait_for(SOON, "a batch that lags behind nothing", || {
        let page = cluster.driver.http("/metrics").unwrap();
        (metric(&page, "millstream_driver_source_lag", job.topic()) == 0.0).then_some(page)
    })
    .unwrap();
    let driver =
        |name: &str, labels: &str| metric(&page, &format!("millstream_driver_{name}"), labels);
    assert_eq!(driver("input_records_total", ""), LINES as f64);
    let committed = driver("batches_total", "committed");
    assert!(committed >= 2.0, "{page}");
    assert_eq!(driver("batches_total", ""), committed);
    assert_eq!(driver("batch_processing_seconds_count", ""), committed);
    assert_eq!(
        driver("batch_scheduling_delay_seconds_count", ""),
        committed
    );
    assert_eq!(driver("executors_alive", ""), 2.0);
    assert_eq!(driver("executors_lost_total", ""), 0.0);
    assert_eq!(driver("task_retries_total", ""), 0.0);
    assert!(driver("offset_log_write_seconds_count", "") >= committed);

    let mut pages = Vec::new();
    for executor in &executors {
        let address = executor["http_address"].as_str().unwrap();
        pages.push(get(&format!("http://{address}/metrics")).unwrap());
    }
    let executors_sum = |name: &str, labels: &str| -> f64 {
        let name = format!("millstream_executor_{name}");
        pages.iter().map(|page| metric(page, &name, labels)).sum()
    };
    assert_eq!(executors_sum("sink_rows_total", ""), distinct);
    // Each map task emits each of its words once.
    assert_eq!(
        executors_sum("shuffle_written_records_total", ""),
        2.0 * distinct
    );
    assert_eq!(executors_sum("malformed_records_total", ""), 0.0);
    assert_eq!(executors_sum("tasks_total", "failed"), 0.0);
    assert_eq!(
        executors_sum("tasks_total", "succeeded"),
        driver("tasks_total", "succeeded")
    );
    assert!(executors_sum("shuffle_written_bytes_total", "") > 0.0);

    let listed = cluster.driver.http("/").unwrap();
    for endpoint in [
        "/metrics",
        "/healthz",
        "/api/v1/application",
        "/api/v1/queries",
        "/api/v1/batches",
        "/api/v1/stages",
        "/api/v1/executors",
    ] {
        assert!(listed.contains(endpoint), "{endpoint}: {listed}");
    }

    let application = cluster.driver.rest("application").unwrap();
    assert_eq!(application["name"], "testjob");
    assert_eq!(application["process_id"], cluster.driver.process.pid());
    let configuration = application["configuration"].to_string();
    assert!(configuration.contains("auth.secret") && !configuration.contains("of-the-tests"));

    let queries = cluster.driver.rest("queries").unwrap();
    assert_eq!(queries[0]["name"], "testjob");
    assert_eq!(queries[0]["isActive"], true);
    assert!(queries[0]["lastProgress"]["batchId"].is_u64(), "{queries}");
    let progress = cluster.driver.rest("queries/testjob/progress").unwrap();
    let progress = progress.as_array().unwrap();
    let read = progress.iter().map(|batch| batch["numInputRows"].as_u64());
    assert_eq!(read.flatten().sum::<u64>(), LINES as u64);

    let batches = cluster.driver.rest("batches").unwrap();
    let batches = batches.as_array().unwrap();
    let rows = |key: &str| -> u64 {
        batches
            .iter()
            .map(|batch| batch[key].as_u64().unwrap())
            .sum()
    };
    assert_eq!(rows("input_rows"), LINES as u64);
    assert_eq!(rows("output_rows") as f64, distinct);
    assert_eq!(rows("shuffle_rows") as f64, 2.0 * distinct);
    assert_eq!(rows("retries"), 0);
    let numbers: Vec<u64> = batches
        .iter()
        .map(|batch| batch["batch"].as_u64().unwrap())
        .collect();
    assert!(
        numbers.is_sorted_by(|newer, older| *newer == older + 1),
        "{numbers:?}"
    );
    let first = batches
        .iter()
        .find(|batch| batch["input_rows"] == LINES)
        .unwrap();
    assert_eq!(first["sources"][0]["splits"], PARTITIONS);
    assert_eq!(first["sources"][0]["rows"], LINES);

    let stages = cluster.driver.rest("stages").unwrap();
    let operators = stages.to_string();
    for operator in ["kafka-0", "flat_map-0", "reduce_by_key-0"] {
        assert!(operators.contains(operator), "{operator}: {stages}");
    }

    let shown = cluster.driver.rest("executors").unwrap();
    let mut pids: Vec<u64> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|executor| executor["process_id"].as_u64().unwrap())
        .collect();
    pids.sort_unstable();
    let mut started: Vec<u64> = cluster.executors().into_iter().map(u64::from).collect();
    started.sort_unstable();
    assert_eq!(pids, started);
    assert!(shown[0]["cores"] == 2 && shown[0]["host"].is_string());
    wait_until(SOON, "memory in a heartbeat", || {
        let shown = cluster.driver.rest("executors").unwrap();
        shown[0]["resident_bytes"].as_u64().unwrap() > 1_000_000
    })
    .unwrap();
    job.finish(cluster);
}
