//! The types of configuration values, and how they are read and written.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::{Address, Advertised};
use crate::failure::{Failure, FailureKind};

/// A type that a configuration key can have.
pub trait Setting: Clone + Send + Sync + 'static {
    /// What the ends of a key's valid range are given as.
    type Bound;

    /// Reads a value; none if the text is no such value.
    fn parse(text: &str) -> Option<Self>;

    /// Writes a value such that [`Setting::parse`] reads the same. A secret is written in clear.
    fn to_text(&self) -> String;

    /// What is accepted, with its article: "an integer".
    fn noun() -> String;

    /// Examples of it, for error messages; empty where none are needed.
    fn examples() -> &'static str {
        ""
    }

    /// Whether the value lies in a range, both ends included.
    fn within(&self, low: &Self::Bound, high: Option<&Self::Bound>) -> bool;

    /// Writes an end of a range.
    fn show_bound(bound: &Self::Bound) -> String;
}

macro_rules! number_setting {
    ($($type:ty, $expected:literal, $valid:expr;)*) => {$(
        impl Setting for $type {
            type Bound = Self;

            fn parse(text: &str) -> Option<Self> {
                let number = text.trim().parse::<$type>().ok();
                number.filter($valid)
            }

            fn to_text(&self) -> String {
                self.to_string()
            }

            fn noun() -> String {
                $expected.to_owned()
            }

            fn within(&self, low: &Self, high: Option<&Self>) -> bool {
                low <= self && high.is_none_or(|high| self <= high)
            }

            fn show_bound(bound: &Self) -> String {
                bound.to_text()
            }
        }
    )*};
}

number_setting! {
    u32, "an integer", |_| true;
    u64, "an integer", |_| true;
    f64, "a number", |number| number.is_finite();
}

macro_rules! plain_setting {
    ($($type:ty, $noun:literal, $examples:literal, $parse:expr, $text:expr;)*) => {$(
        impl Setting for $type {
            type Bound = std::convert::Infallible;

            fn parse(text: &str) -> Option<Self> {
                $parse(text)
            }

            fn to_text(&self) -> String {
                $text(self)
            }

            fn noun() -> String {
                $noun.to_owned()
            }

            fn examples() -> &'static str {
                $examples
            }

            fn within(&self, low: &Self::Bound, _: Option<&Self::Bound>) -> bool {
                match *low {}
            }

            fn show_bound(bound: &Self::Bound) -> String {
                match *bound {}
            }
        }
    )*};
}

plain_setting! {
    bool, "`true` or `false`", "", |text: &str| text.trim().parse().ok(), bool::to_string;
    String, "a string that is not empty", "",
        |text: &str| Some(text.to_owned()).filter(|text| !text.trim().is_empty()), String::clone;
    Address, "a host and port", "`127.0.0.1:7077`", Address::read, Address::to_string;
    Advertised, "a host, with or without a port", "`worker-1` or `worker-1:7078`", Advertised::read, Advertised::to_string;
    ZoneName, "an IANA time zone", "`Europe/Berlin`", ZoneName::read, |zone: &ZoneName| zone.0.clone();
    Secret, "a string that is not empty", "",
        |text: &str| Some(Secret(text.to_owned())).filter(|secret| !secret.0.is_empty()), |secret: &Secret| secret.0.clone();
}

/// An optional value; the empty text is none.
impl<T: Setting> Setting for Option<T> {
    type Bound = T::Bound;

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(None);
        }
        T::parse(text).map(Some)
    }

    fn to_text(&self) -> String {
        self.as_ref().map(T::to_text).unwrap_or_default()
    }

    fn noun() -> String {
        T::noun()
    }

    fn examples() -> &'static str {
        T::examples()
    }

    fn within(&self, low: &T::Bound, high: Option<&T::Bound>) -> bool {
        self.as_ref().is_none_or(|value| value.within(low, high))
    }

    fn show_bound(bound: &T::Bound) -> String {
        T::show_bound(bound)
    }
}

/// Units of durations in nanoseconds, largest first.
const DURATION_UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// No part of the engine counts in less than milliseconds.
const FINEST_NANOS: u128 = 1_000_000;

/// An integer and a unit: `10s`, `500ms`, `2m`.
impl Setting for Duration {
    type Bound = Self;

    fn parse(text: &str) -> Option<Self> {
        let nanos = read_with_unit(text, |unit| {
            let mut units = DURATION_UNITS.iter();
            units.find(|(name, nanos)| *name == unit && *nanos >= FINEST_NANOS)
        });
        nanos.and_then(duration_of_nanos)
    }

    fn to_text(&self) -> String {
        write_with_unit(self.as_nanos(), &DURATION_UNITS, "s")
    }

    fn noun() -> String {
        "a duration".to_owned()
    }

    fn examples() -> &'static str {
        "`10s`, `500ms` or `2m`"
    }

    fn within(&self, low: &Self, high: Option<&Self>) -> bool {
        low <= self && high.is_none_or(|high| self <= high)
    }

    fn show_bound(bound: &Self) -> String {
        bound.to_text()
    }
}

fn duration_of_nanos(nanos: u128) -> Option<Duration> {
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let rest = u32::try_from(nanos % 1_000_000_000).ok()?;
    Some(Duration::new(seconds, rest))
}

/// A number of bytes, written with a binary unit: `128MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteSize(u64);

const BYTE_UNITS: [(&str, u128); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl ByteSize {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many KiB (1,024 bytes).
    pub const fn kib(count: u32) -> Self {
        Self(count as u64 * (1 << 10))
    }

    /// So many MiB (1,048,576 bytes).
    pub const fn mib(count: u32) -> Self {
        Self(count as u64 * (1 << 20))
    }

    /// So many GiB (1,073,741,824 bytes).
    pub const fn gib(count: u32) -> Self {
        Self(count as u64 * (1 << 30))
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory, at most what this machine can address.
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&write_with_unit(u128::from(self.0), &BYTE_UNITS, "B"))
    }
}

impl Setting for ByteSize {
    type Bound = Self;

    fn parse(text: &str) -> Option<Self> {
        let bytes = read_with_unit(text, |unit| {
            BYTE_UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        });
        let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok());
        bytes.map(Self)
    }

    fn to_text(&self) -> String {
        self.to_string()
    }

    fn noun() -> String {
        "a size".to_owned()
    }

    fn examples() -> &'static str {
        "`64KiB`, `128MiB` or `1GiB`"
    }

    fn within(&self, low: &Self, high: Option<&Self>) -> bool {
        low <= self && high.is_none_or(|high| self <= high)
    }

    fn show_bound(bound: &Self) -> String {
        bound.to_text()
    }
}

/// Reads an integer followed by a unit and multiplies them.
fn read_with_unit<'a>(
    text: &str,
    find_unit: impl Fn(&str) -> Option<&'a (&'static str, u128)>,
) -> Option<u128> {
    let text = text.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(digits_end);
    let count: u128 = digits.parse().ok()?;
    let (_, factor) = find_unit(unit.trim_start())?;
    count.checked_mul(*factor)
}

/// Writes a count in the largest unit that divides it.
fn write_with_unit(count: u128, units: &[(&str, u128)], unit_of_zero: &str) -> String {
    if count == 0 {
        return format!("0{unit_of_zero}");
    }
    let dividing = units
        .iter()
        .find(|(_, factor)| count.is_multiple_of(*factor));
    let (unit, factor) = dividing.copied().unwrap_or(("", 1));
    format!("{}{unit}", count / factor)
}

/// The name of a time zone. Looked up only where it is used: an executor may lack the zone's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneName(String);

impl ZoneName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Looks the zone up in the system's time zone database.
    ///
    /// # Errors
    ///
    /// The database has no such zone, or the machine has no database.
    pub fn zone(&self) -> Result<jiff::tz::TimeZone, Failure> {
        jiff::tz::TimeZone::get(&self.0).map_err(|error| {
            let message = format!("time.zone is {}, which this machine doesn't know", self.0);
            Failure::caused_by(FailureKind::BadInput, message, &error).with_code("config.time_zone")
        })
    }

    fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+');
        let is_name =
            text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(valid);
        is_name.then(|| Self(text.to_owned()))
    }
}

/// A value that is never shown: `Debug` prints `<redacted>`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself; never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(super::REDACTED)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_an_integer_and_a_unit() {
        assert_eq!(Duration::parse("10s"), Some(Duration::from_secs(10)));
        assert_eq!(Duration::parse("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(Duration::parse(" 2 m "), Some(Duration::from_secs(120)));
        assert_eq!(Duration::parse("0s"), Some(Duration::ZERO));
        for bad in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "1s1s",
            "1x",
            "99999999999999999999999d",
            "1S",
        ] {
            assert!(Duration::parse(bad).is_none(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn sizes_are_an_integer_and_a_binary_unit() {
        assert_eq!(ByteSize::parse("128MiB"), Some(ByteSize::mib(128)));
        assert_eq!(ByteSize::parse("1gib"), Some(ByteSize::gib(1)));
        assert_eq!(ByteSize::parse("0B"), Some(ByteSize::from_bytes(0)));
        assert_eq!(ByteSize::gib(2).to_string(), "2GiB");
        assert_eq!(ByteSize::from_bytes(1025).to_string(), "1025B");
        for bad in ["", "128", "128MB", "1.5GiB", "-1B", "16777216TiB", "MiB"] {
            assert!(ByteSize::parse(bad).is_none(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn numbers_are_finite() {
        assert_eq!(f64::parse("0.5"), Some(0.5));
        assert!(f64::parse("NaN").is_none());
        assert!(f64::parse("inf").is_none());
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "<redacted>");
    }

    proptest! {
        #[test]
        fn durations_read_back(seconds in any::<u64>(), nanos in 0u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            let is_read = nanos.is_multiple_of(1_000_000);
            prop_assert_eq!(Duration::parse(&duration.to_text()), is_read.then_some(duration));
        }

        #[test]
        fn whole_milliseconds_read_back(millis in 0u64..100_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(Duration::parse(&duration.to_text()), Some(duration));
        }

        #[test]
        fn sizes_read_back(bytes in any::<u64>(), shift in 0u32..64) {
            let size = ByteSize::from_bytes(bytes << shift);
            prop_assert_eq!(ByteSize::parse(&size.to_text()), Some(size));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Duration::parse(&text);
            let _ = ByteSize::parse(&text);
            let _ = ZoneName::parse(&text);
        }
    }
}
