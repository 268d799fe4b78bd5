//! Disks that are full: a small tmpfs is one that fills up.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::word_job::{SOON, WordJob, assert_ends, text};

/// A file system of 1 MiB; unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs", &text(folder)])
            .status()
            .unwrap();
        assert!(
            mounted.success(),
            "mounting a tmpfs needs root: run integration-tests/run.sh as root"
        );
        Self(folder.to_owned())
    }

    /// Fills all that is free.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        // Ends with the error that the disk is full.
        let _ = fs::write(&path, vec![0; 2 << 20]);
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &text(&self.0)]).status();
    }
}

#[test]
fn a_full_disk_under_the_checkpoint_ends_the_query_and_room_is_the_way_out() {
    let job = WordJob::new("full-checkpoint");
    let disk = SmallDisk::mount(&job.checkpoint());
    job.send(40);
    let application = job.application().master("local[2]");
    let cluster = application.start(0).unwrap();
    job.wait_counted();
    let filler = disk.fill();
    job.send(40);
    assert_ends(
        &cluster.driver.process,
        1,
        &[
            "error:",
            "No space left",
            "check the checkpoint's storage",
            "then start again",
        ],
    );
    drop(cluster);
    // Nor is it started on a full disk.
    let driver = application.start_driver().unwrap();
    assert_ends(
        &driver.process,
        1,
        &["error:", "No space left", &text(&job.checkpoint())],
    );
    fs::remove_file(filler).unwrap();
    let cluster = application.start(0).unwrap();
    job.finish(cluster);
}

#[test]
fn a_full_disk_under_the_spills_fails_the_batch_and_room_is_the_way_out() {
    let job = WordJob::new("full-spill");
    let spills = job.folder().join("spills");
    let disk = SmallDisk::mount(&spills);
    disk.fill();
    // Enough different words for the smallest table to overflow.
    let words: Vec<String> = (0..20_000)
        .map(|number| format!("different-word-{number}"))
        .collect();
    let lines: Vec<String> = words.chunks(100).map(|chunk| chunk.join(" ")).collect();
    let records: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    job.send_raw(&records, &words);
    let application = job
        .application()
        .conf("memory.spill_threshold", "64KiB")
        .conf("shuffle.spill_dir", text(&spills));
    let cluster = application.start(1).unwrap();
    assert_ends(
        &cluster.driver.process,
        1,
        &["error:", "No space left", &text(&spills)],
    );
    assert!(job.counted().is_empty());
    // It was told to shut down with its driver; the full disk had not ended it.
    let pid = cluster.executors()[0];
    let code = cluster.with_executor(pid, |executor| executor.wait_exit(SOON).unwrap().code());
    assert_eq!(code, Some(Some(0)));
    fs::remove_file(spills.join("filler")).unwrap();
    drop((disk, cluster));
    let cluster = application.start(1).unwrap();
    job.finish(cluster);
}
