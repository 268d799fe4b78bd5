//! Checkpoints that were damaged, or that belong to something else.

use std::{fs, path::PathBuf};

use millstream_integration_tests::cluster::Application;

use crate::word_job::{WordJob, assert_ends, kafka};

/// A job that has counted some lines and was stopped, and its application on `local[2]`.
fn begun(name: &str) -> (WordJob, Application) {
    let job = WordJob::new(name);
    job.send(40);
    let application = job.application().master("local[2]");
    let cluster = application.start(0).unwrap();
    job.finish(cluster);
    (job, application)
}

/// The application must refuse to start, and change nothing.
fn refused(job: &WordJob, application: &Application, code: i32, texts: &[&str]) {
    let before = job.files();
    let driver = application.start_driver().unwrap();
    assert_ends(&driver.process, code, texts);
    assert_eq!(job.files(), before, "something was changed");
}

fn newest(job: &WordJob, kind: &str) -> PathBuf {
    let mut names: Vec<_> = fs::read_dir(job.checkpoint().join(kind))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    names.sort();
    names.pop().unwrap()
}

#[test]
fn a_truncated_or_altered_file_is_named_and_its_backup_goes_on() {
    let (job, application) = begun("damaged");
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.clear(),
        |bytes| {
            let at = bytes.len() - 10;
            bytes[at] ^= 1;
        },
        |bytes| *bytes = b"\x00\xff not json\n".to_vec(),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let path = match number {
            3 => job.checkpoint().join("metadata"),
            _ => newest(
                &job,
                if number % 2 == 0 {
                    "offsets"
                } else {
                    "commits"
                },
            ),
        };
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damage(&mut damaged);
        fs::write(&path, damaged).unwrap();
        let name = path
            .strip_prefix(job.checkpoint())
            .unwrap()
            .to_str()
            .unwrap();
        refused(&job, &application, 1, &["error:", name, "backup"]);
        fs::write(&path, whole).unwrap();
    }
    job.send(20);
    job.finish(application.start(0).unwrap());
}

#[test]
fn a_file_of_a_newer_format_is_refused_with_both_versions() {
    let (job, application) = begun("newer");
    let path = newest(&job, "offsets");
    let whole = fs::read_to_string(&path).unwrap();
    let header = whole.lines().next().unwrap();
    let newer = header.replace(":1", ":99");
    assert_ne!(newer, header, "the header has a version: {header}");
    fs::write(&path, whole.replacen(header, &newer, 1)).unwrap();
    let name = path
        .strip_prefix(job.checkpoint())
        .unwrap()
        .to_str()
        .unwrap();
    refused(&job, &application, 1, &["error:", name, "99"]);
    fs::write(&path, whole).unwrap();
    job.send(20);
    job.finish(application.start(0).unwrap());
}

#[test]
fn a_checkpoint_of_another_topic_is_refused_with_the_difference() {
    let (job, application) = begun("topic");
    let other = kafka().unique_topic("other", 1).unwrap();
    let elsewhere = WordJob::new("unused");
    let foreign = Application::new(crate::word_job::TESTJOB, elsewhere.folder())
        .unwrap()
        .args([
            "--brokers",
            kafka().bootstrap(),
            "--topic",
            &other,
            "--starting-offsets",
            "earliest",
        ])
        .args(["--output", &format!("{}/counts", job.output().display())])
        .args(["--checkpoint", &job.checkpoint().display().to_string()])
        .args(["--batch-interval", "200ms"])
        .master("local[2]");
    refused(
        &job,
        &foreign,
        1,
        &["error:", &other, job.topic(), "new checkpoint"],
    );
    job.send(20);
    job.finish(application.start(0).unwrap());
}

#[test]
fn a_checkpoint_of_another_application_is_refused_with_the_difference() {
    let (job, application) = begun("application");
    let second = job.output().join("other").display().to_string();
    let other = job
        .application_of("two-outputs", "earliest")
        .args(["--second", &second])
        .master("local[2]");
    refused(&job, &other, 1, &["error:", "output", "new checkpoint"]);
    job.send(20);
    job.finish(application.start(0).unwrap());
}
