//! Batches and the clock, and what the driver prints.

use millstream_integration_tests::{cluster::PATIENCE, process::Stream, wait::wait_until};
use serde_json::Value;

use super::{Place, batches, start, stop, wait_input};

fn numbers(batches: &[Value], field: &str) -> Vec<u64> {
    batches
        .iter()
        .map(|batch| batch[field].as_u64().unwrap())
        .collect()
}

fn assert_steps(numbers: &[u64], step: u64) {
    for pair in numbers.windows(2) {
        assert_eq!(pair[1] - pair[0], step, "{numbers:?}");
    }
}

#[test]
fn late_batches_queue_and_none_is_dropped() {
    let place = Place::new();
    let output = place.path("out");
    let application = place
        .test_job("compute")
        .args(["--output", output.to_str().unwrap()]);
    let cluster = start(&application, 1);
    // One batch takes as long as six.
    place.put("slow", "2\n");
    let slow = wait_input(&cluster);
    let number = slow["batch"].as_u64().unwrap();
    cluster.wait_batch(number + 12).unwrap();
    let batches = batches(&cluster);
    assert!(slow["queued"].as_u64().unwrap() >= 4, "{slow}");
    assert_steps(&numbers(&batches, "batch"), 1);
    let from_slow: Vec<Value> = batches
        .iter()
        .filter(|batch| batch["batch"].as_u64() >= Some(number))
        .cloned()
        .collect();
    // Times are those that the clock gave, not those at which the late ones ran.
    assert_steps(&numbers(&from_slow, "batch_time"), 300);
    let late = from_slow[1]["scheduling_delay_millis"].as_f64().unwrap();
    assert!(late >= 1_000.0, "{}", from_slow[1]);
    stop(cluster);
    assert_eq!(place.counts().get("2"), Some(&1));
}

#[test]
fn without_an_interval_a_batch_follows_the_other() {
    let place = Place::new();
    let output = place.path("out");
    let application = place
        .test_job("wordcount")
        .args(["--output", output.to_str().unwrap()])
        .conf("batch.interval", "0s");
    let cluster = start(&application, 1);
    // Without an interval a batch waits for input, and for nothing else.
    for file in 0..5 {
        place.put(&format!("lines-{file}"), "a b a\n");
        wait_until(PATIENCE, "the file's batch to be committed", || {
            batches(&cluster).len() == file + 1
        })
        .unwrap();
    }
    let batches = batches(&cluster);
    assert_steps(&numbers(&batches, "batch"), 1);
    let times = numbers(&batches, "batch_time");
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    assert!(batches.iter().all(|batch| batch["queued"] == 0));
    stop(cluster);
    let counts = place.counts();
    assert_eq!((counts["a"], counts["b"]), (10, 5));
}

const RULE: &str = "-------------------------------------------";

#[test]
fn pprint_over_processes_is_laid_out_as_pyspark_does() {
    let place = Place::new();
    let application = place
        .test_job("wordcount")
        .conf("batch.interval", "1s")
        .conf("time.zone", "UTC");
    let cluster = start(&application, 2);
    place.put("lines", "Hello Hello\nHello\n");
    let batch = wait_input(&cluster);
    let number = batch["batch"].as_u64().unwrap();
    cluster.wait_batch(number + 1).unwrap();
    let printed = |cluster: &super::Cluster| cluster.driver.process.output().text(Stream::Out);
    wait_until(PATIENCE, "the batch to be printed", || {
        printed(&cluster).contains("('Hello', 3)")
    })
    .unwrap();
    let batches = batches(&cluster);
    let text = printed(&cluster);
    stop(cluster);

    let mut wanted = String::new();
    for batch in &batches {
        let row = if batch["batch"].as_u64() == Some(number) {
            "('Hello', 3)\n"
        } else {
            ""
        };
        let time = time_of_day(batch["batch_time"].as_u64().unwrap() / 1_000);
        wanted += &format!("{RULE}\nTime: {time}\n{RULE}\n{row}\n");
    }
    assert!(batches.len() >= 2);
    assert!(
        text.starts_with(&wanted),
        "printed:\n{text}\nwanted:\n{wanted}"
    );
}

/// `2021-06-24 12:36:55`, in UTC.
fn time_of_day(seconds: u64) -> String {
    let (days, rest) = ((seconds / 86_400) as i64, seconds % 86_400);
    let (mut year, mut left) = (1970, days);
    let length = |year: i64| {
        let is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        365 + i64::from(is_leap)
    };
    while left >= length(year) {
        left -= length(year);
        year += 1;
    }
    let february = length(year) - 337;
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= months[month] {
        left -= months[month];
        month += 1;
    }
    format!(
        "{year:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        month + 1,
        left + 1,
        rest / 3_600,
        rest / 60 % 60,
        rest % 60
    )
}
