//! Java's patterns of dates and times, such as `dd.MM.yyyy HH:mm`, as far as they have fixed parts.

use jiff::{civil, fmt::strtime, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// How dates and times are written, where they aren't as ISO says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Patterns {
    pub(crate) date: Option<Pattern>,
    pub(crate) timestamp: Option<Pattern>,
}

/// A pattern that was understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pattern {
    /// In the terms of `strptime`.
    format: String,
}

impl Pattern {
    /// Reads a pattern of Java.
    ///
    /// # Errors
    /// The part that isn't understood.
    pub(crate) fn parse(pattern: &str) -> Result<Self, String> {
        let mut format = String::new();
        let mut letters = pattern.chars().peekable();
        while let Some(letter) = letters.next() {
            if letter == '\'' {
                let mut is_empty = true;
                for quoted in letters.by_ref() {
                    if quoted == '\'' {
                        break;
                    }
                    is_empty = false;
                    format.push(quoted);
                }
                if is_empty {
                    format.push('\'');
                }
                continue;
            }
            if !letter.is_ascii_alphabetic() {
                match letter {
                    '%' => format.push_str("%%"),
                    '[' | ']' => return Err("optional parts are not understood".to_owned()),
                    other => format.push(other),
                }
                continue;
            }
            let mut count = 1;
            while letters.next_if_eq(&letter).is_some() {
                count += 1;
            }
            let directive = match (letter, count) {
                ('y' | 'u', 4) => "%Y",
                ('y' | 'u', 2) => "%y",
                ('M' | 'L', 1 | 2) => "%m",
                ('M' | 'L', 3) => "%b",
                ('M' | 'L', 4) => "%B",
                ('d', 1 | 2) => "%d",
                ('H', 1 | 2) => "%H",
                ('h', 1 | 2) => "%I",
                ('m', 1 | 2) => "%M",
                ('s', 1 | 2) => "%S",
                ('S', _) => "%f",
                ('a', 1) => "%p",
                ('E', 1..=3) => "%a",
                ('E', 4) => "%A",
                ('X', 3) | ('x', 3) => "%:z",
                ('X' | 'x', 2) | ('Z', 1..=3) => "%z",
                ('V', 2) => "%Q",
                _ => {
                    let part: String = std::iter::repeat_n(letter, count).collect();
                    return Err(format!("`{part}` is not understood"));
                }
            };
            format.push_str(directive);
        }
        Ok(Self { format })
    }

    /// Days since 1970.
    pub(crate) fn date(&self, text: &str) -> Option<i32> {
        let parsed = strtime::parse(&self.format, text).ok()?;
        let date = parsed.to_date().ok()?;
        let days = date.since(civil::date(1970, 1, 1)).ok()?.get_days();
        Some(days)
    }

    /// Microseconds since 1970, in the zone that the text names or in this one.
    pub(crate) fn timestamp(&self, text: &str, zone: &TimeZone) -> Option<i64> {
        let parsed = strtime::parse(&self.format, text).ok()?;
        if parsed.offset().is_some() {
            return Some(parsed.to_timestamp().ok()?.as_microsecond());
        }
        let date = parsed.to_date().ok()?;
        // A pattern of dates alone means midnight.
        let time = parsed.to_time().unwrap_or(civil::Time::midnight());
        let zoned = date.to_datetime(time).to_zoned(zone.clone()).ok()?;
        Some(zoned.timestamp().as_microsecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(pattern: &str, text: &str) -> Option<i64> {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        Pattern::parse(pattern).unwrap().timestamp(text, &zone)
    }

    #[test]
    fn javas_patterns_are_understood() {
        let noon_utc = 1_768_478_400_000_000;
        assert_eq!(
            micros("dd.MM.yyyy HH:mm", "15.01.2026 13:00"),
            Some(noon_utc)
        );
        assert_eq!(
            micros("yyyy-MM-dd'T'HH:mm:ssXXX", "2026-01-15T12:00:00+00:00"),
            Some(noon_utc)
        );
        assert_eq!(
            micros("MMM d yyyy hh:mm a", "Jan 15 2026 01:00 PM"),
            Some(noon_utc)
        );
        assert_eq!(
            micros("yyyy-MM-dd HH:mm:ss.SSS", "2026-01-15 13:00:00.250"),
            Some(noon_utc + 250_000)
        );
        assert_eq!(
            micros("yyyyMMdd", "20260115"),
            Some(noon_utc - 13 * 3_600_000_000)
        );
        assert_eq!(micros("dd.MM.yyyy", "2026-01-15"), None);
        let date = Pattern::parse("dd/MM/yyyy").unwrap();
        assert_eq!(date.date("02/01/1970"), Some(1));
        assert!(Pattern::parse("yyyy-MM-dd[ HH]").is_err());
        assert!(Pattern::parse("qq").is_err());
    }
}
