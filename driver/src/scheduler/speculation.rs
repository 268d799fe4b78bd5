//! Slow tasks run a second time, on another executor; the first success wins.

use millstream_common::time::Tick;

use super::{Scheduler, executors::ExecutorIndex};

/// A task that runs long.
struct Slow {
    number: usize,
    stage: usize,
    partition: u32,
    executor: ExecutorIndex,
}

impl Scheduler {
    /// Looks for slow tasks, once an interval, and gives each a second attempt where a slot is free.
    pub(super) fn speculate(&mut self, now: Tick) {
        let Some(options) = self.options.speculation else {
            return;
        };
        if self.next_speculation.is_some_and(|next| next > now) {
            return;
        }
        let mut is_any_running = false;
        let mut slow = Vec::new();
        for (number, query) in self.queries.iter() {
            let Some(batch) = &query.batch else {
                continue;
            };
            for (stage_number, stage) in batch.stages.iter().enumerate() {
                let may_speculate = stage.output.is_none()
                    && batch
                        .run
                        .plan
                        .stages
                        .get(stage_number)
                        .is_some_and(|plan| plan.speculative);
                if !may_speculate || stage.unfinished == 0 || stage.first_launch.is_none() {
                    continue;
                }
                is_any_running = true;
                // A second attempt could not read what is being made again.
                if !batch.may_run(stage_number) {
                    continue;
                }
                let tasks = stage.tasks.len();
                let finished = tasks.saturating_sub(stage.unfinished as usize);
                let enough = (tasks as f64 * options.quantile).ceil().max(1.0);
                if (finished as f64) < enough || stage.run_times.is_empty() {
                    continue;
                }
                let mut run_times = stage.run_times.clone();
                let middle = run_times.len() / 2;
                let (_, median, _) = run_times.select_nth_unstable(middle);
                let threshold = std::time::Duration::from_micros(*median)
                    .mul_f64(options.multiplier.max(0.0))
                    .max(options.min_run_time);
                for (partition, task) in (0u32..).zip(&stage.tasks) {
                    let ([Some(attempt), None] | [None, Some(attempt)]) = task.running else {
                        continue;
                    };
                    if now.since(attempt.started) > threshold {
                        slow.push(Slow {
                            number,
                            stage: stage_number,
                            partition,
                            executor: attempt.executor,
                        });
                    }
                }
            }
        }
        self.next_speculation = is_any_running.then(|| now.after(options.interval));
        for Slow {
            number,
            stage,
            partition,
            executor,
        } in slow
        {
            let elsewhere = self.pool.most_free(|candidate| {
                candidate != executor && self.allows(number, stage, candidate)
            });
            if let Some(elsewhere) = elsewhere {
                self.start_attempt(now, number, stage, partition, elsewhere);
            }
        }
    }
}
