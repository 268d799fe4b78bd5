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
use jiff::tz::TimeZone;

use super::pattern::Patterns;
use crate::{
    error::Error,
    texts::{
        numbers,
        times::{self, OwnZone},
    },
};

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
            let zone = in_zone.as_ref().map(|_| zone);
            let values = texts
                .iter()
                .map(|text| text.and_then(|text| timestamp(text, zone, patterns)));
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

/// Spark's names of infinity, and what Java takes for numbers.
fn float<T: std::str::FromStr + From<f32>>(text: &str) -> Option<T> {
    match text {
        "Inf" => Some(f32::INFINITY.into()),
        "-Inf" => Some(f32::NEG_INFINITY.into()),
        _ => numbers::java(text),
    }
}

/// A decimal, in whose text commas may part the thousands.
pub(crate) fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    if text.contains(',') {
        return numbers::decimal(&text.replace(',', ""), precision, scale);
    }
    numbers::decimal(text, precision, scale)
}

/// Days since 1970.
pub(crate) fn date(text: &str, patterns: &Patterns) -> Option<i32> {
    match &patterns.date {
        Some(pattern) => pattern.date(text),
        None => times::date(text),
    }
}

/// Microseconds since 1970: in this zone where the text names none, or of a time that has no zone.
pub(crate) fn timestamp(text: &str, zone: Option<&TimeZone>, patterns: &Patterns) -> Option<i64> {
    match (&patterns.timestamp, zone) {
        (Some(pattern), zone) => pattern.timestamp(text, zone.unwrap_or(&TimeZone::UTC)),
        (None, Some(zone)) => times::timestamp(text, zone),
        (None, None) => times::local_timestamp(text, OwnZone::Refused),
    }
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
                &["1e3", "inf", "NaN", "-Inf", ".5", "1_0", " 1.5d", "nan"],
                DataType::Float64
            ),
            [
                "1000.0", "null", "NaN", "-inf", "0.5", "null", "1.5", "null"
            ]
        );
        assert_eq!(
            converted(&["TRUE", "false", "1"], DataType::Boolean),
            ["true", "false", "null"]
        );
        assert_eq!(
            converted(&["2026-02-28", "2026-02-30", "2026-2-1"], DataType::Date32),
            ["2026-02-28", "null", "2026-02-01"]
        );
        assert_eq!(
            converted(
                &["1.239", "-5", "1000000", "1.5e2", "-0.005", "1,00.1", " 1"],
                DataType::Decimal128(5, 2)
            ),
            ["1.24", "-5.00", "null", "150.00", "-0.01", "100.10", "null"]
        );
        let without_zone = DataType::Timestamp(TimeUnit::Microsecond, None);
        assert_eq!(
            converted(&["2026-01-15 1:2:3", "2026-01-15T12:00:00Z"], without_zone),
            ["2026-01-15T01:02:03", "null"]
        );
    }

    #[test]
    fn timestamps_without_a_zone_are_the_sessions() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let noon_utc = 1_768_478_400_000_000;
        let iso = |text: &str| timestamp(text, Some(&zone), &Patterns::default());
        for text in [
            "2026-01-15T12:00:00Z",
            "2026-01-15 13:00:00",
            "2026-01-15T13:00:00",
            "2026-01-15T07:00:00-05:00",
        ] {
            assert_eq!(iso(text), Some(noon_utc), "{text}");
        }
        assert_eq!(iso("2026-01-15"), Some(noon_utc - 13 * 3_600_000_000));
        assert_eq!(iso("soon"), None);
    }
}
