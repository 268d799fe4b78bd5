//! Texts of dates and times. A date is `2026-1-31` or a beginning of it, of any year that a column can hold; a time goes on after ` ` or `T` with hours, minutes,
//! seconds, a fraction and a zone, each of which may lack.

use jiff::{Timestamp, civil, tz::TimeZone};

use super::{trimmed, zones};

const DAY_SECONDS: i64 = 86_400;
const MICROS: i64 = 1_000_000;

/// What becomes of a zone at the end of a time that has none by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnZone {
    /// Passed over, as casts do.
    Ignored,
    /// Such a text is no such time, as readers have it.
    Refused,
}

/// A number of so many digits, at most nine.
fn number(digits: &str, fewest: usize, most: usize) -> Option<i64> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let fits = (fewest..=most).contains(&digits.len());
    (is_number && fits).then(|| digits.parse().ok())?
}

/// Days since 1970 and what follows the date; a day that isn't in the calendar is none.
fn day(text: &str, most_year_digits: usize) -> Option<(i64, &str)> {
    let (unsigned, sign) = match text.as_bytes().first()? {
        b'-' => (&text[1..], -1),
        b'+' => (&text[1..], 1),
        _ => (text, 1),
    };
    let end = unsigned.find([' ', 'T']).unwrap_or(unsigned.len());
    let (date, rest) = unsigned.split_at(end);
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4, most_year_digits)?;
    let mut month_and_day = [1, 1];
    let mut given = 1;
    for (value, part) in month_and_day.iter_mut().zip(parts.by_ref()) {
        *value = number(part, 1, 2)?;
        given += 1;
    }
    // What is less than a day ends the text.
    if parts.next().is_some() || (given < 3 && !rest.is_empty()) {
        return None;
    }
    let [month, day] = month_and_day;
    let year = sign * year;
    let is_in_calendar = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    is_in_calendar.then(|| (days_of(year, month, day), rest))
}

fn days_in(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970 of a day in the Gregorian calendar without beginning and end.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    const TO_1970: i64 = 719_468;
    // A year begins in March, so that the day that a leap year has more comes last.
    let year = year - i64::from(month <= 2);
    let from_march = (month + 9) % 12;
    let in_year = (153 * from_march + 2) / 5 + day - 1;
    let in_cycle = year.rem_euclid(400);
    let in_cycle = in_cycle * 365 + in_cycle / 4 - in_cycle / 100 + in_year;
    year.div_euclid(400) * 146_097 + in_cycle - TO_1970
}

/// Days since 1970. What follows a whole date after ` ` or `T` isn't looked at.
pub(crate) fn date(text: &str) -> Option<i32> {
    let (day, _) = day(trimmed(text), 7)?;
    i32::try_from(day).ok()
}

/// Microseconds of a clock since 1970 began there, and the zone that the text names, unread.
fn clock(text: &str) -> Option<(i128, &str)> {
    let (day, rest) = day(trimmed(text), 6)?;
    let mut micros = 0;
    let mut zone = "";
    if let Some(time) = rest.get(1..) {
        let cut = |text: &'_ str| text.find(|letter: char| !letter.is_ascii_digit());
        let mut rest = time;
        for (place, unit) in [3_600, 60, 1].into_iter().enumerate() {
            let end = cut(rest).unwrap_or(rest.len());
            let most = if place == 0 { 23 } else { 59 };
            let value = number(&rest[..end], 1, 2).filter(|value| *value <= most)?;
            micros += value * unit * MICROS;
            let follows = &rest[end..];
            if place == 2 {
                let fraction = follows.strip_prefix('.');
                let after = fraction.unwrap_or(follows);
                let end = fraction.map_or(0, |text| cut(text).unwrap_or(text.len()));
                // Digits past microseconds are cut off.
                let digits = after[..end].bytes().chain(std::iter::repeat(b'0'));
                let parsed = digits
                    .take(6)
                    .fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
                micros += parsed;
                zone = &after[end..];
                break;
            }
            if follows.is_empty() {
                break;
            }
            rest = follows.strip_prefix(':')?;
        }
    }
    Some((
        i128::from(day * DAY_SECONDS) * i128::from(MICROS) + i128::from(micros),
        zone,
    ))
}

/// Microseconds since 1970, in the zone that the text names or in this one.
pub(crate) fn timestamp(text: &str, zone: &TimeZone) -> Option<i64> {
    let (local, named) = clock(text)?;
    let instant = match named.trim_start() {
        "" => instant(local, zone),
        named => instant(local, &zones::zone(named)?),
    };
    i64::try_from(instant).ok()
}

/// Microseconds since 1970 of a time that has no zone.
pub(crate) fn local_timestamp(text: &str, own: OwnZone) -> Option<i64> {
    let (local, named) = clock(text)?;
    if !named.is_empty() {
        if own == OwnZone::Refused {
            return None;
        }
        zones::zone(named.trim_start())?;
    }
    i64::try_from(local).ok()
}

/// What the clocks of a zone showed, as an instant. What they showed twice was the first time; what they left out is as long after as it is left out.
fn instant(local: i128, zone: &TimeZone) -> i128 {
    let micros = i128::from(MICROS);
    if let Ok(offset) = zone.to_fixed_offset() {
        return local - i128::from(offset.seconds()) * micros;
    }
    let known = civil_time(local).and_then(|time| zone.to_timestamp(time).ok());
    if let Some(known) = known {
        return i128::from(known.as_microsecond());
    }
    // Beyond what is known, clocks are as at its end.
    let end = match local < 0 {
        true => Timestamp::MIN,
        false => Timestamp::MAX,
    };
    local - i128::from(zone.to_offset(end).seconds()) * micros
}

fn civil_time(local: i128) -> Option<civil::DateTime> {
    let local = i64::try_from(local).ok()?;
    let utc = Timestamp::from_microsecond(local).ok()?;
    Some(TimeZone::UTC.to_datetime(utc))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::date_text;

    #[test]
    fn dates_are_of_any_year() {
        for (text, expected) in [
            ("2021-1-1", Some("2021-01-01")),
            (" 2021-01-31\t", Some("2021-01-31")),
            ("2021-02", Some("2021-02-01")),
            ("2021", Some("2021-01-01")),
            ("2021-01-01T", Some("2021-01-01")),
            ("2021-01-01 junk", Some("2021-01-01")),
            ("+12021-01-01", Some("+12021-01-01")),
            ("-0001-12-31", Some("-0001-12-31")),
            ("0000-02-29", Some("0000-02-29")),
            ("1582-10-10", Some("1582-10-10")),
            ("5881580-07-11", Some("+5881580-07-11")),
            ("5881580-07-12", None),
            ("2021 01", None),
            ("2021-02-29", None),
            ("2021-13-01", None),
            ("2021-00-01", None),
            ("2021-1-", None),
            ("2021-01-01-01", None),
            ("2021-01-011", None),
            ("202-01-01", None),
            ("20210101", None),
            ("2021/01/01", None),
            ("--2021-01-01", None),
            ("２021-01-01", None),
            ("", None),
        ] {
            let found = date(text).map(|day| date_text(i64::from(day)));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn every_day_is_the_one_that_its_text_says() {
        for day in (-1_000_000..1_000_000).step_by(7) {
            assert_eq!(date(&date_text(i64::from(day))), Some(day));
        }
    }

    #[test]
    fn times_are_whole_to_microseconds_and_in_a_zone() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        // 2021-01-01 10:00:00 there.
        let ten = 1_609_491_600_000_000;
        for (text, expected) in [
            ("2021-1-1", Some(ten - 36_000_000_000)),
            ("2021-01-01 10", Some(ten)),
            ("2021-01-01T10:0", Some(ten)),
            (" 2021-01-01 10:00:00 ", Some(ten)),
            ("2021-01-01 10:00:00.5", Some(ten + 500_000)),
            ("2021-01-01 10:00:00.123456789", Some(ten + 123_456)),
            ("2021-01-01 10:00:00.", Some(ten)),
            ("2021-01-01T10:00:00Z", Some(ten + 3_600_000_000)),
            ("2021-01-01T10:00:00.5 +01:00", Some(ten + 500_000)),
            ("2021-01-01 10:00:00 Europe/Berlin", Some(ten)),
            ("2021-01-01T10:00Z", None),
            ("2021-01-01T10:00:00z", None),
            ("2021-01-01T24:00:00", None),
            ("2021-01-01T10:60:00", None),
            ("2021-01-01T10:00:60", None),
            ("2021-01-01T", None),
            ("2021-01-01  10:00:00", None),
            ("2021-01-01 10:", None),
            ("2021-01-01 10:00:00,5", None),
            ("2021-01-01 100:00:00", None),
            ("2021-01 10:00:00", None),
            ("10:00:00", None),
            // Left out when summer time begins, and twice when it ends.
            ("2021-03-28 02:30:00", Some(1_616_895_000_000_000)),
            ("2021-10-31 02:30:00", Some(1_635_640_200_000_000)),
            ("9999-12-31 23:59:59.999999", Some(253_402_297_199_999_999)),
            ("12021-01-01 10:00:00", Some(317_179_011_600_000_000)),
            ("-0001-01-01 00:00:00", Some(-62_198_758_408_000_000)),
            ("294247-01-10T04:00:54.775807Z", Some(i64::MAX)),
            ("294247-01-10T04:00:54.775808Z", None),
            ("294247-01-10T05:00:54.775807+01:00", Some(i64::MAX)),
        ] {
            assert_eq!(timestamp(text, &zone), expected, "{text}");
        }
    }

    #[test]
    fn a_time_without_a_zone_takes_none() {
        let zoned = "1970-01-01 00:00:01+01:00";
        assert_eq!(local_timestamp(zoned, OwnZone::Ignored), Some(1_000_000));
        assert_eq!(local_timestamp(zoned, OwnZone::Refused), None);
        assert_eq!(
            local_timestamp("1970-01-01 00:00:01 nowhere", OwnZone::Ignored),
            None
        );
        assert_eq!(
            local_timestamp("1970-01-02", OwnZone::Refused),
            Some(86_400_000_000)
        );
    }
}
