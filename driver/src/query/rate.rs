//! The rate controller: how many rows a second a source may take, so that batches end within their interval. Spark's PID estimator. Pure.

/// Settings of the controller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateOptions {
    /// Rows a second before the first estimate; without one there is no limit until then.
    pub initial_rate: Option<u64>,
    /// The lowest rate, rows a second. Default 100.
    pub min_rate: u64,
    /// Weight of the difference between the last rate and the rate of processing. Default 1.
    pub proportional: f64,
    /// Weight of the rows that wait because of scheduling delay. Default 0.2.
    pub integral: f64,
    /// Weight of the change of that difference. Default 0.
    pub derived: f64,
}

impl Default for RateOptions {
    fn default() -> Self {
        Self {
            initial_rate: None,
            min_rate: 100,
            proportional: 1.0,
            integral: 0.2,
            derived: 0.0,
        }
    }
}

/// What a finished batch says of a source's rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateSample {
    /// When the batch ended, wall-clock milliseconds.
    pub end_millis: i64,
    /// Rows that the source gave it.
    pub rows: u64,
    /// How long the batch was processed, milliseconds.
    pub processing_millis: f64,
    /// How long it waited before, milliseconds.
    pub scheduling_delay_millis: f64,
}

/// One source's controller.
#[derive(Clone, Debug)]
pub struct RateController {
    options: RateOptions,
    interval_millis: u64,
    latest: Option<Latest>,
    limit: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Latest {
    end_millis: i64,
    rate: f64,
    error: f64,
}

impl RateController {
    /// A controller for batches of `interval_millis`; 0 (back to back) counts as one second, since there is no interval to keep to.
    pub fn new(options: RateOptions, interval_millis: u64) -> Self {
        Self {
            options,
            interval_millis: if interval_millis == 0 {
                1_000
            } else {
                interval_millis
            },
            latest: None,
            limit: options.initial_rate.map(|rate| rate as f64),
        }
    }

    /// Rows a second, where there is a limit.
    pub fn rate(&self) -> Option<f64> {
        self.limit
    }

    /// The most rows that a batch may take, at least 1.
    pub fn max_rows(&self) -> Option<u64> {
        let rows = |rate: f64| (rate * self.interval_millis as f64 / 1_000.0) as u64;
        self.limit.map(|rate| rows(rate).max(1))
    }

    /// Learns from a finished batch. Batches without rows teach nothing.
    pub fn learn(&mut self, sample: RateSample) {
        if sample.rows == 0 || sample.processing_millis <= 0.0 {
            return;
        }
        let processing_rate = sample.rows as f64 / sample.processing_millis * 1_000.0;
        let Some(latest) = self.latest else {
            self.latest = Some(Latest {
                end_millis: sample.end_millis,
                rate: processing_rate,
                error: 0.0,
            });
            return;
        };
        if sample.end_millis <= latest.end_millis {
            return;
        }
        let seconds = (sample.end_millis - latest.end_millis) as f64 / 1_000.0;
        let error = latest.rate - processing_rate;
        let waiting =
            sample.scheduling_delay_millis * processing_rate / self.interval_millis as f64;
        let change = (error - latest.error) / seconds;
        let wanted = latest.rate
            - self.options.proportional * error
            - self.options.integral * waiting
            - self.options.derived * change;
        let rate = wanted.max(self.options.min_rate as f64);
        self.latest = Some(Latest {
            end_millis: sample.end_millis,
            rate,
            error,
        });
        self.limit = Some(rate);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(
        end_millis: i64,
        rows: u64,
        processing_millis: f64,
        scheduling_delay_millis: f64,
    ) -> RateSample {
        RateSample {
            end_millis,
            rows,
            processing_millis,
            scheduling_delay_millis,
        }
    }

    #[test]
    fn the_first_sample_sets_no_limit() {
        let mut controller = RateController::new(RateOptions::default(), 1_000);
        controller.learn(sample(1_000, 500, 1_000.0, 0.0));
        assert_eq!(controller.max_rows(), None);
    }

    #[test]
    fn the_initial_rate_counts_until_the_first_estimate() {
        let options = RateOptions {
            initial_rate: Some(50),
            ..RateOptions::default()
        };
        let mut controller = RateController::new(options, 2_000);
        assert_eq!(controller.max_rows(), Some(100));
        controller.learn(sample(1_000, 2_000, 1_000.0, 0.0));
        controller.learn(sample(2_000, 2_000, 1_000.0, 0.0));
        assert_eq!(controller.max_rows(), Some(4_000));
    }

    #[test]
    fn the_rate_follows_processing_and_falls_with_the_delay() {
        let mut controller = RateController::new(RateOptions::default(), 1_000);
        controller.learn(sample(1_000, 1_000, 1_000.0, 0.0));
        controller.learn(sample(2_000, 3_000, 1_000.0, 0.0));
        assert_eq!(controller.rate(), Some(3_000.0));
        // 500 ms of delay at 2,000 rows a second are 1,000 rows behind; a fifth of them is taken off.
        controller.learn(sample(3_000, 2_000, 1_000.0, 500.0));
        assert_eq!(controller.rate(), Some(1_800.0));
    }

    #[test]
    fn the_derived_weight_takes_the_change_of_the_error() {
        let options = RateOptions {
            derived: 0.5,
            ..RateOptions::default()
        };
        let mut controller = RateController::new(options, 1_000);
        controller.learn(sample(1_000, 1_000, 1_000.0, 0.0));
        controller.learn(sample(3_000, 2_000, 1_000.0, 0.0));
        // error -1,000 over 2 s: -500 a second, half of it added.
        assert_eq!(controller.rate(), Some(2_250.0));
    }

    proptest! {
        #[test]
        fn never_below_the_minimum_and_always_finite(samples in proptest::collection::vec((0i64..10_000, 0u64..1_000_000, 0.0f64..100_000.0, 0.0f64..100_000.0), 0..50)) {
            let mut controller = RateController::new(RateOptions::default(), 500);
            let mut end = 0;
            for (step, rows, processing, delay) in samples {
                end += step;
                controller.learn(sample(end, rows, processing, delay));
                if let Some(rate) = controller.rate() {
                    prop_assert!(rate.is_finite() && rate >= 100.0);
                }
            }
        }
    }
}
