//! Texts as values of a column's type, by Spark's rules for CSV.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
        Float64Array, PrimitiveArray, StringArray, TimestampMicrosecondArray,
    },
    datatypes::{
        ArrowPrimitiveType, DataType, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    },
};
use jiff::{civil, tz::TimeZone};

use super::pattern::Patterns;
use crate::error::Error;

/// Whether texts can become values of this type; the message names the column.
pub(crate) fn check_type(column: &str, data_type: &DataType) -> Result<(), Error> {
    match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Decimal128(..)
        | DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(()),
        other => Err(Error::refused(
            format!("column {column} of type {other} can't be read from text"),
            "give it a simple type such as STRING, INT, DOUBLE or TIMESTAMP",
        )),
    }
}

/// The values of a column; null where a text isn't one.
pub(crate) fn column(
    texts: &StringArray,
    data_type: &DataType,
    zone: &TimeZone,
    patterns: &Patterns,
) -> Result<ArrayRef, Error> {
    Ok(match data_type {
        DataType::Utf8 => Arc::new(texts.clone()),
        DataType::Boolean => Arc::new(BooleanArray::from_iter(
            texts.iter().map(|text| text.and_then(boolean)),
        )),
        DataType::Int8 => integers::<Int8Type>(texts),
        DataType::Int16 => integers::<Int16Type>(texts),
        DataType::Int32 => integers::<Int32Type>(texts),
        DataType::Int64 => integers::<Int64Type>(texts),
        DataType::Float32 => Arc::new(Float32Array::from_iter(
            texts.iter().map(|text| text.and_then(float::<f32>)),
        )),
        DataType::Float64 => Arc::new(Float64Array::from_iter(
            texts.iter().map(|text| text.and_then(float::<f64>)),
        )),
        DataType::Binary => Arc::new(BinaryArray::from_iter(texts.iter())),
        DataType::Date32 => Arc::new(Date32Array::from_iter(
            texts
                .iter()
                .map(|text| text.and_then(|text| date(text, patterns))),
        )),
        DataType::Decimal128(precision, scale) => {
            let values = texts
                .iter()
                .map(|text| text.and_then(|text| decimal(text, *precision, *scale)));
            let array = Decimal128Array::from_iter(values);
            Arc::new(array.with_precision_and_scale(*precision, *scale)?)
        }
        DataType::Timestamp(TimeUnit::Microsecond, in_zone) => {
            let zone = match in_zone {
                Some(_) => zone.clone(),
                None => TimeZone::UTC,
            };
            let values = texts
                .iter()
                .map(|text| text.and_then(|text| timestamp(text, &zone, patterns)));
            let array = TimestampMicrosecondArray::from_iter(values);
            Arc::new(array.with_timezone_opt(in_zone.clone()))
        }
        other => {
            return Err(Error::internal(format!(
                "a column of type {other} was to be read from text"
            )));
        }
    })
}

fn integers<T>(texts: &StringArray) -> ArrayRef
where
    T: ArrowPrimitiveType,
    T::Native: std::str::FromStr,
{
    let values = texts
        .iter()
        .map(|text| text.and_then(|text| text.parse().ok()));
    Arc::new(PrimitiveArray::<T>::from_iter(values))
}

fn boolean(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        return Some(true);
    }
    text.eq_ignore_ascii_case("false").then_some(false)
}

fn float<T: std::str::FromStr + From<f32>>(text: &str) -> Option<T> {
    match text {
        "NaN" => return Some(f32::NAN.into()),
        "Inf" | "Infinity" | "+Infinity" => return Some(f32::INFINITY.into()),
        "-Inf" | "-Infinity" => return Some(f32::NEG_INFINITY.into()),
        _ => {}
    }
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if !text.chars().all(is_number) {
        return None;
    }
    text.parse().ok()
}

pub(crate) fn date(text: &str, patterns: &Patterns) -> Option<i32> {
    if let Some(pattern) = &patterns.date {
        return pattern.date(text);
    }
    let date: civil::Date = text.parse().ok()?;
    if text.len() != 10 {
        return None;
    }
    let epoch = civil::date(1970, 1, 1);
    Some(date.since(epoch).ok()?.get_days())
}

/// `2026-11-22`, `2026-11-22 10:00:00`, `2026-11-22T10:00:00.5`, each with a zone at its end or in the session's.
pub(crate) fn timestamp(text: &str, zone: &TimeZone, patterns: &Patterns) -> Option<i64> {
    if let Some(pattern) = &patterns.timestamp {
        return pattern.timestamp(text, zone);
    }
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Some(instant.as_microsecond());
    }
    let time: civil::DateTime = text.parse().ok()?;
    let zoned = time.to_zoned(zone.clone()).ok()?;
    Some(zoned.timestamp().as_microsecond())
}

/// Digits with a point and an exponent if wanted, rounded half up to the scale.
pub(crate) fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (unsigned, is_negative) = match text.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (text.strip_prefix('+').unwrap_or(text), false),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut digits = 0i128;
    for digit in whole.chars() {
        let digit = i128::from(digit.to_digit(10)?);
        digits = digits.checked_mul(10)?.checked_add(digit)?;
    }
    let mut places = 0i32;
    let mut is_full = false;
    for digit in fraction.chars() {
        let digit = i128::from(digit.to_digit(10)?);
        let more = digits
            .checked_mul(10)
            .and_then(|digits| digits.checked_add(digit));
        match more {
            // Digits past the 38th are past every scale; the one that rounds is before them.
            Some(more) if !is_full => (digits, places) = (more, places + 1),
            _ => is_full = true,
        }
    }
    let shift = exponent
        .checked_sub(places)?
        .checked_add(i32::from(scale))?;
    let power = |places: u32| 10i128.checked_pow(places);
    let value = if shift >= 0 {
        match digits {
            0 => 0,
            _ => digits.checked_mul(power(shift.unsigned_abs())?)?,
        }
    } else {
        match power(shift.unsigned_abs()) {
            Some(divisor) => digits / divisor + i128::from(digits % divisor >= divisor / 2),
            None => 0,
        }
    };
    if value >= power(u32::from(precision))? {
        return None;
    }
    Some(if is_negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;

    fn converted(texts: &[&str], data_type: DataType) -> Vec<String> {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let texts = StringArray::from_iter_values(texts);
        let column = column(&texts, &data_type, &zone, &Patterns::default()).unwrap();
        assert_eq!(column.data_type(), &data_type);
        let shown = arrow::compute::cast(&column, &DataType::Utf8).unwrap();
        let shown = shown.as_string::<i32>().iter();
        shown
            .map(|text| text.unwrap_or("null").to_owned())
            .collect()
    }

    #[test]
    fn what_is_no_value_is_null() {
        let cases = ["1", "-7", "+3", " 1", "1.0", "2147483648", "x"];
        assert_eq!(
            converted(&cases, DataType::Int32),
            ["1", "-7", "3", "null", "null", "null", "null"]
        );
        assert_eq!(
            converted(
                &["1e3", "inf", "NaN", "-Inf", ".5", "1_0"],
                DataType::Float64
            ),
            ["1000.0", "null", "NaN", "-inf", "0.5", "null"]
        );
        assert_eq!(
            converted(&["TRUE", "false", "1"], DataType::Boolean),
            ["true", "false", "null"]
        );
        assert_eq!(
            converted(&["2026-02-28", "2026-02-30", "2026-2-1"], DataType::Date32),
            ["2026-02-28", "null", "null"]
        );
        assert_eq!(
            converted(
                &["1.239", "-5", "1000000", "1.5e2", "-0.005", ".1", "."],
                DataType::Decimal128(5, 2)
            ),
            ["1.24", "-5.00", "null", "150.00", "-0.01", "0.10", "null"]
        );
        let long = format!("1.2{}9", "5".repeat(60));
        assert_eq!(converted(&[&long], DataType::Decimal128(5, 2)), ["1.26"]);
    }

    fn iso(text: &str, zone: &TimeZone) -> Option<i64> {
        timestamp(text, zone, &Patterns::default())
    }

    #[test]
    fn timestamps_without_a_zone_are_the_sessions() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let noon_utc = 1_768_478_400_000_000;
        for text in [
            "2026-01-15T12:00:00Z",
            "2026-01-15 13:00:00",
            "2026-01-15T13:00:00",
            "2026-01-15T07:00:00-05:00",
        ] {
            assert_eq!(iso(text, &zone), Some(noon_utc), "{text}");
        }
        assert_eq!(
            iso("2026-01-15", &zone),
            Some(noon_utc - 13 * 3_600_000_000)
        );
        assert_eq!(iso("soon", &zone), None);
    }
}
