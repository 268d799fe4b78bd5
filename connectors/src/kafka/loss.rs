//! What of a range the brokers no longer have: plain functions over offsets.

use millstream_common::failure::{Failure, FailureKind, Retry};

use super::{OnDataLoss, source::OffsetRange};

/// The offsets that a partition's log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The oldest.
    pub oldest: i64,
    /// Past the newest.
    pub end: i64,
}

/// What becomes of a range of which nothing more came in its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The brokers have what is missing: another attempt may get it.
    Late,
    /// They never will have it: the query stops.
    Lost,
    /// The same, and the range ends here by configuration; all that there is of it was read.
    Ends,
}

/// Looks at a range that was read up to `position`, and at its partition's log, of which there is none where the topic is gone.
///
/// A log that ends at or past the range has lost none of it, though its last offset may be no record (a marker, or one that
/// was compacted away).
pub(super) fn overdue(
    range: &OffsetRange,
    position: i64,
    log: Option<Bounds>,
    on_data_loss: OnDataLoss,
) -> Overdue {
    if position >= range.until || log.is_some_and(|log| log.end >= range.until) {
        return Overdue::Late;
    }
    if on_data_loss == OnDataLoss::Fail {
        return Overdue::Lost;
    }
    match log {
        Some(log) if position.max(log.oldest) < log.end => Overdue::Late,
        _ => Overdue::Ends,
    }
}

/// What to say when records that are to be read now are not there any more.
pub(super) fn out_of_range(range: &OffsetRange, position: i64, log: Bounds) -> Failure {
    let OffsetRange {
        topic,
        partition,
        from,
        until,
    } = range;
    let Bounds { oldest, end } = log;
    data_loss(format!(
        "offset {position} of {topic}/{partition} was to be read (range {from} to {until}), but the broker has {oldest} to {end}; records expired, or the topic was made anew; set kafka.on_data_loss=warn to go on with what is there"
    ))
}

/// What to say when a range's end is not there any more.
pub(super) fn end_is_gone(range: &OffsetRange, log: Option<Bounds>) -> Failure {
    let OffsetRange {
        topic,
        partition,
        from,
        until,
    } = range;
    let found = match log {
        Some(Bounds { end, .. }) => {
            format!("the broker's log ends at {end}; it was cut, or the topic was made anew")
        }
        None => "the brokers know no such partition; the topic was deleted".to_owned(),
    };
    data_loss(format!(
        "offsets {from} to {until} of {topic}/{partition} were to be read, but {found}; set kafka.on_data_loss=warn to go on with what is there, or begin anew with another checkpoint"
    ))
}

fn data_loss(message: String) -> Failure {
    Failure::new(FailureKind::DataLoss, message).with_retry(Retry::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> OffsetRange {
        OffsetRange {
            topic: "lines".to_owned(),
            partition: 3,
            from: 5,
            until: 10,
        }
    }

    fn log(oldest: i64, end: i64) -> Option<Bounds> {
        Some(Bounds { oldest, end })
    }

    #[test]
    fn a_range_that_the_log_still_has_is_late_whatever_its_last_offset_is() {
        for policy in [OnDataLoss::Fail, OnDataLoss::Warn] {
            for position in 5..=10 {
                assert_eq!(
                    overdue(&range(), position, log(0, 10), policy),
                    Overdue::Late
                );
                assert_eq!(
                    overdue(&range(), position, log(7, 99), policy),
                    Overdue::Late
                );
            }
            let read = overdue(&range(), 10, log(0, 7), policy);
            assert_eq!(read, Overdue::Late, "nothing of it is missing");
        }
    }

    #[test]
    fn a_log_that_ends_within_the_range_is_a_loss() {
        for (position, log) in [
            (5, log(0, 9)),
            (9, log(0, 9)),
            (8, log(0, 2)),
            (6, log(0, 0)),
            (6, None),
        ] {
            let fails = overdue(&range(), position, log, OnDataLoss::Fail);
            assert_eq!(fails, Overdue::Lost, "{position}, {log:?}");
        }
    }

    #[test]
    fn with_a_warning_a_range_ends_once_all_that_there_is_of_it_was_read() {
        for (position, log, expected) in [
            (7, log(0, 8), Overdue::Late),
            (8, log(0, 8), Overdue::Ends),
            (8, log(0, 6), Overdue::Ends),
            (6, log(7, 8), Overdue::Late),
            (6, log(8, 8), Overdue::Ends),
            (6, None, Overdue::Ends),
        ] {
            let warns = overdue(&range(), position, log, OnDataLoss::Warn);
            assert_eq!(warns, expected, "{position}, {log:?}");
        }
    }

    #[test]
    fn a_lost_end_is_told_with_the_range_the_log_and_what_to_do() {
        let failure = end_is_gone(&range(), log(0, 7));
        let kind = (&failure.kind, failure.retry);
        assert_eq!(kind, (&FailureKind::DataLoss, Retry::Never));
        for part in [
            "offsets 5 to 10 of lines/3",
            "ends at 7",
            "kafka.on_data_loss=warn",
            "another checkpoint",
        ] {
            assert!(failure.message.contains(part), "{failure}");
        }
        let gone = end_is_gone(&range(), None);
        assert!(gone.message.contains("was deleted"), "{gone}");
    }
}
