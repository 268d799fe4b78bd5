//! Kills at random for a while, under a steady input.
//!
//! `MILLSTREAM_SOAK_SECONDS` says for how long (60 by default), `MILLSTREAM_SOAK_SEED` repeats a run's choices.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use millstream_integration_tests::wait::{Deadline, wait_until};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::scene::{Scene, wait_connected};

fn number(variable: &str) -> Option<u64> {
    env::var(variable)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

fn pause(duration: Duration) {
    // Nothing is awaited: the application is left alone for a while.
    let _ = wait_until(duration, "the pause to be over", || false);
}

#[test]
fn random_kills_lose_nothing_and_double_nothing() {
    let seconds = number("MILLSTREAM_SOAK_SECONDS").unwrap_or(60);
    let seed = number("MILLSTREAM_SOAK_SEED").unwrap_or_else(rand::random);
    println!("soak: seed {seed}, {seconds} s");
    let mut random = StdRng::seed_from_u64(seed);

    let scene = Scene::new("soak");
    let output = scene.files();
    let checkpoint = scene.folder().join("checkpoint");
    let application = scene
        .application("wordcount", &output)
        .args(["--checkpoint", checkpoint.to_str().expect("a plain path")])
        // A backlog taken in small pieces of all partitions: hardly a moment without a batch under way, as kills in between prove little.
        .conf("batch.interval", "100ms")
        .conf("kafka.max_rate_per_partition", 500);
    scene.send(seconds * 1_000);
    let mut cluster = application.start(3).unwrap();
    let mut alive = cluster.executors();
    wait_connected(&cluster, &alive);

    let over = AtomicBool::new(false);
    let (mut executor_kills, mut driver_kills) = (0u64, 0u64);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                scene.send(400);
                pause(Duration::from_millis(100));
            }
        });
        let killing = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let deadline = Deadline::after(Duration::from_secs(seconds));
            while !deadline.has_passed() {
                pause(Duration::from_millis(random.random_range(1_000..4_000)));
                if random.random_ratio(1, 4) {
                    cluster.restart_driver().unwrap();
                    driver_kills += 1;
                } else {
                    let victim = alive.swap_remove(random.random_range(0..alive.len()));
                    cluster.kill_executor(victim).unwrap();
                    alive.push(cluster.add_executor().unwrap());
                    executor_kills += 1;
                }
            }
        }));
        over.store(true, Ordering::Release);
        if let Err(panic) = killing {
            std::panic::resume_unwind(panic);
        }
    });
    let words = scene.expected().values().sum::<u64>();
    println!(
        "soak: seed {seed}: {} kills ({executor_kills} of executors, {driver_kills} of the driver), {words} words",
        executor_kills + driver_kills
    );
    assert!(
        executor_kills + driver_kills >= seconds / 6,
        "too few kills for {seconds} s"
    );
    scene.finish(cluster, &output, 1);
}
