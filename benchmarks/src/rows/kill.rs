//! An executor of two killed in the middle of a batch: from the moment at which the driver knows it to the batch's end. The driver starts another one.

use std::time::Duration;

use millstream_integration_tests::wait::{Deadline, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Error, Setting,
    ours::{self, RUN_LIMIT, words_of},
    samples::median,
    table::{Figure, Row, Unit},
};

/// The batch in whose middle the executor is killed.
const KILLED_IN: usize = 4;

/// Seconds to the batch's end, and seconds that the batches before it took.
fn kill(setting: &Setting) -> Result<Option<(f64, f64)>, Error> {
    let folder = tempfile::tempdir()?;
    let driver = setting.words_from_kafka(folder.path())?.start_driver()?;
    let executors = driver.wait_ready()?.executors;
    let mut batches = 0;
    driver
        .process
        .wait_for_line("the first batches", RUN_LIMIT, |line| {
            batches += usize::from(words_of(&line.text).is_some());
            batches == KILLED_IN
        })?;
    let before: Vec<f64> = ours::batches(&driver)?
        .iter()
        .skip(1)
        .map(|batch| batch.millis / 1e3)
        .collect();
    let usual = median(&before);
    let middle = Deadline::after(Duration::from_secs_f64(usual / 2.0));
    wait_until(RUN_LIMIT, "the middle of the batch", || middle.has_passed())?;
    let from = driver.process.output().next();
    let victim = executors
        .first()
        .copied()
        .and_then(|pid| i32::try_from(pid).ok());
    let victim = victim
        .and_then(Pid::from_raw)
        .ok_or("there is no executor to kill")?;
    kill_process(victim, Signal::KILL)?;
    driver
        .process
        .wait_for_line_from(from, "the loss", RUN_LIMIT, |line| {
            line.text.contains("executor lost")
        })?;
    let known = Deadline::after(RUN_LIMIT);
    driver
        .process
        .wait_for_line_from(from, "the batch's end", RUN_LIMIT, |line| {
            words_of(&line.text).is_some()
        })?;
    let seconds = known.elapsed().as_secs_f64();
    let batches = ours::wait_batches(&driver, (KILLED_IN as u64 + 1) * setting.sizes.batch_lines)?;
    // A kill between two batches, or after the last task, would show nothing.
    let hit = batches.iter().any(|batch| batch.retries > 0);
    Ok(hit.then_some((seconds, usual)))
}

/// Kills until enough of them hit a running batch.
pub fn measure(setting: &Setting) -> Result<Vec<Row>, Error> {
    let mut times = Vec::new();
    let mut usual = Vec::new();
    for _ in 0..setting.sizes.kills * 3 {
        if times.len() == setting.sizes.kills {
            break;
        }
        if let Some((seconds, undisturbed)) = kill(setting)? {
            eprintln!("   {seconds:.2} s; undisturbed batches take {undisturbed:.2} s");
            times.push(seconds);
            usual.push(undisturbed);
        }
    }
    if times.is_empty() {
        return Err("no kill hit a running batch".into());
    }
    let row = Row::of(
        "an executor killed in mid-batch, loss known to the batch's end",
        Figure::median(Unit::Seconds, times),
    );
    Ok(vec![row.floor(3.0).goal(1.0).beside(
        "the batch undisturbed",
        Figure::median(Unit::Seconds, usual),
    )])
}
