//! The block that is printed for each batch: a header with the time of the batch, then its rows.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const RULE: &str = "-------------------------------------------";

/// The time of a batch as `pprint` shows it: local time in `time_zone`, `2021-06-24 12:36:55`, with microseconds
/// (`2021-06-24 12:36:55.250000`) only if they aren't zero.
///
/// A time outside the years 1 to 9999, which Python can't hold, is shown as [`scala_time`] does.
#[must_use]
pub fn python_time(batch_time_ms: i64, time_zone: &TimeZone) -> String {
    let Ok(timestamp) = Timestamp::from_millisecond(batch_time_ms) else {
        return scala_time(batch_time_ms);
    };
    let local = time_zone.to_datetime(timestamp);
    if local.year() < 1 {
        return scala_time(batch_time_ms);
    }
    let seconds = format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        local.year(),
        local.month(),
        local.day(),
        local.hour(),
        local.minute(),
        local.second(),
    );
    let microseconds = local.subsec_nanosecond() / 1_000;
    if microseconds == 0 {
        return seconds;
    }
    format!("{seconds}.{microseconds:06}")
}

/// The time of a batch as `print` shows it: `1624538215000 ms`, in milliseconds since 1970 (UTC).
#[must_use]
pub fn scala_time(batch_time_ms: i64) -> String {
    format!("{batch_time_ms} ms")
}

/// Appends the block that `pprint` prints for a batch: a rule, the `time` (of [`python_time`]), a rule, one line for
/// each of the `rows` (each of [`python`](super::python)), `...` if there are `more`, and an empty line.
pub fn python_block(time: &str, rows: &[String], more: bool, out: &mut String) {
    push_block(time, rows, more, out);
}

/// Appends the block that `print` prints for a batch: as [`python_block`], with the `time` of [`scala_time`] and `rows`
/// of [`scala`](super::scala).
pub fn scala_block(time: &str, rows: &[String], more: bool, out: &mut String) {
    push_block(time, rows, more, out);
}

fn push_block(time: &str, rows: &[String], more: bool, out: &mut String) {
    for line in [RULE, "\nTime: ", time, "\n", RULE, "\n"] {
        out.push_str(line);
    }
    for row in rows {
        out.push_str(row);
        out.push('\n');
    }
    if more {
        out.push_str("...\n");
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_python_cannot_hold_is_shown_in_milliseconds() {
        let shown = |ms| python_time(ms, &TimeZone::UTC);

        assert_eq!(shown(i64::MIN), "-9223372036854775808 ms");
        assert_eq!(shown(i64::MAX), "9223372036854775807 ms");
        assert_eq!(shown(-62_135_596_800_000), "0001-01-01 00:00:00");
        assert_eq!(shown(-62_135_596_800_001), "-62135596800001 ms");
    }
}
