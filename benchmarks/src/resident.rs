//! The resident memory of processes, as `/proc` shows it.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use millstream_integration_tests::process::descendants;

const MEBIBYTE: f64 = 1_048_576.0;
const PAUSE: Duration = Duration::from_millis(50);

/// Resident memory of a process now, MiB; 0 when it is gone.
pub fn now(pid: u32) -> f64 {
    mebibytes(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Resident memory of a process and all that it started now, MiB. What several of them share, as the program's code, is in it once: each has its share
/// (PSS) counted.
pub fn together(pid: u32) -> f64 {
    let share = |pid| mebibytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:");
    let children = descendants(pid);
    share(pid) + children.iter().map(|child| share(child.pid)).sum::<f64>()
}

fn mebibytes(file: &str, name: &str) -> f64 {
    let content = fs::read_to_string(file).unwrap_or_default();
    let line = content.lines().find(|line| line.starts_with(name));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kibibytes.unwrap_or(0.0) * 1_024.0 / MEBIBYTE
}

/// The most that a process and all that it started held at any one moment of `work`, MiB.
pub fn peak_during<T>(pid: u32, work: impl FnOnce() -> T) -> (T, f64) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut peak: f64 = 0.0;
            while !over.load(Ordering::Relaxed) {
                peak = peak.max(together(pid));
                thread::park_timeout(PAUSE);
            }
            peak
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        sampler.thread().unpark();
        (done, sampler.join().unwrap_or(0.0))
    })
}
