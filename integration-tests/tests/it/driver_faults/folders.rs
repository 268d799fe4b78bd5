//! Processes in other working folders than the driver's first one.

use std::fs;

use crate::word_job::{WordJob, text, wait_executors};

#[test]
fn a_relative_prefix_is_below_the_drivers_first_folder_for_everyone() {
    let job = WordJob::new("relative");
    let others = ["of-the-executor", "of-the-second-start"].map(|name| job.folder().join(name));
    for folder in &others {
        fs::create_dir(folder).unwrap();
    }
    let prefix = text(&job.output().join("counts"));
    let application = job.application().replace_arg(&prefix, "out/counts");
    job.send(40);
    let mut cluster = application
        .clone()
        .in_folder(job.folder())
        .start(0)
        .unwrap();
    cluster.application = application.clone().in_folder(&others[0]);
    cluster.add_executor().unwrap();
    job.wait_counted();

    job.send(40);
    cluster.application = application.in_folder(&others[1]);
    cluster.restart_driver().unwrap();
    wait_executors(&cluster, 1);
    job.send(40);
    job.finish(cluster);
    for folder in &others {
        let made: Vec<_> = fs::read_dir(folder).unwrap().flatten().collect();
        assert!(made.is_empty(), "{made:?}");
    }
}
