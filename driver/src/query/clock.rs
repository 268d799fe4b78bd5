//! The batch clock: which batch times are due. Pure; the wall clock is a parameter.

use millstream_common::time::BatchTime;

/// Hands out batch times: multiples of the interval, one after the other, none left out. With interval 0 the batch time is the moment at which it is
/// asked for.
#[derive(Clone, Debug)]
pub struct BatchClock {
    interval_millis: i64,
    next: i64,
}

impl BatchClock {
    /// A clock whose first batch time is the first multiple of the interval after `wall_millis`, and after `newest`, the newest batch time already used.
    /// Times that passed while nobody ran the clock are thereby left to the first batch.
    pub fn new(interval_millis: u64, wall_millis: i64, newest: Option<BatchTime>) -> Self {
        let interval_millis = i64::try_from(interval_millis).unwrap_or(i64::MAX);
        let newest = newest.map_or(i64::MIN, |time| time.0);
        let next = if interval_millis == 0 {
            newest.saturating_add(1)
        } else {
            let after = wall_millis.max(newest);
            after
                .div_euclid(interval_millis)
                .saturating_add(1)
                .saturating_mul(interval_millis)
        };
        Self {
            interval_millis,
            next,
        }
    }

    /// Whether batches run back to back.
    pub fn is_back_to_back(&self) -> bool {
        self.interval_millis == 0
    }

    /// The wall-clock millisecond from which on [`take`](Self::take) gives a batch time. With interval 0 that is now, whenever that is.
    pub fn due_at(&self) -> i64 {
        if self.is_back_to_back() {
            i64::MIN
        } else {
            self.next
        }
    }

    /// The next batch time, if it has come. Batch times always grow, whatever the wall clock does.
    pub fn take(&mut self, wall_millis: i64) -> Option<BatchTime> {
        if self.is_back_to_back() {
            let time = wall_millis.max(self.next);
            self.next = time.saturating_add(1);
            return Some(BatchTime(time));
        }
        if wall_millis < self.next {
            return None;
        }
        let time = self.next;
        self.next = time.saturating_add(self.interval_millis);
        Some(BatchTime(time))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_batch_is_at_the_next_multiple() {
        let mut clock = BatchClock::new(1_000, 5_400, None);
        assert_eq!(clock.take(5_999), None);
        assert_eq!(clock.take(6_000), Some(BatchTime(6_000)));
        assert_eq!(BatchClock::new(1_000, 6_000, None).due_at(), 7_000);
        assert_eq!(BatchClock::new(1_000, -1, None).due_at(), 0);
    }

    #[test]
    fn late_batch_times_come_one_by_one() {
        let mut clock = BatchClock::new(1_000, 0, None);
        let times: Vec<i64> = std::iter::from_fn(|| clock.take(3_500))
            .map(|time| time.0)
            .collect();
        assert_eq!(times, [1_000, 2_000, 3_000]);
    }

    #[test]
    fn times_that_passed_while_the_driver_was_down_are_left_out() {
        assert_eq!(
            BatchClock::new(1_000, 60_400, Some(BatchTime(3_000))).due_at(),
            61_000
        );
    }

    #[test]
    fn a_wall_clock_set_back_gives_no_batch_time_twice() {
        assert_eq!(
            BatchClock::new(1_000, 10_000, Some(BatchTime(90_000))).due_at(),
            91_000
        );
        let mut clock = BatchClock::new(0, 10, Some(BatchTime(90)));
        assert_eq!(clock.take(10), Some(BatchTime(91)));
        assert_eq!(clock.take(10), Some(BatchTime(92)));
        assert_eq!(clock.take(200), Some(BatchTime(200)));
    }

    proptest! {
        #[test]
        fn times_are_consecutive_multiples(interval in 1u64..10_000, start in -1_000_000i64..1_000_000, steps in proptest::collection::vec(-5_000i64..20_000, 1..50)) {
            let mut clock = BatchClock::new(interval, start, None);
            let mut wall = start;
            let mut newest: Option<i64> = None;
            for step in steps {
                wall += step;
                while let Some(time) = clock.take(wall) {
                    prop_assert!(time.0 <= wall && time.0 > start);
                    prop_assert_eq!(time.0.rem_euclid(interval as i64), 0);
                    if let Some(newest) = newest {
                        prop_assert_eq!(time.0, newest + interval as i64);
                    }
                    newest = Some(time.0);
                }
                prop_assert!(clock.due_at() > wall);
            }
        }
    }
}
