//! A value as the text that Spark's cast to string gives.

use std::fmt::Write;

use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{
        DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type,
        Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
        TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
        UInt64Type,
    },
};
use jiff::{Timestamp, civil, tz::TimeZone};
use millstream_dstreams::display;

use crate::error::Error;

/// The text of a value; `NULL` for none.
pub(crate) fn cell_text(array: &dyn Array, row: usize, zone: &TimeZone) -> Result<String, Error> {
    let mut text = String::new();
    append(array, row, zone, &mut text)?;
    Ok(text)
}

fn append(array: &dyn Array, row: usize, zone: &TimeZone, out: &mut String) -> Result<(), Error> {
    if array.is_null(row) || matches!(array.data_type(), DataType::Null) {
        out.push_str("NULL");
        return Ok(());
    }
    macro_rules! number {
        ($type:ty) => {
            write!(out, "{}", array.as_primitive::<$type>().value(row)).map_err(unwritable)
        };
    }
    match array.data_type() {
        DataType::Boolean => write!(out, "{}", array.as_boolean().value(row)).map_err(unwritable),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => java(&array.as_primitive::<Float32Type>().value(row), out),
        DataType::Float64 => java(&array.as_primitive::<Float64Type>().value(row), out),
        DataType::Decimal128(..) => {
            out.push_str(&array.as_primitive::<Decimal128Type>().value_as_string(row));
            Ok(())
        }
        DataType::Utf8 => {
            out.push_str(array.as_string::<i32>().value(row));
            Ok(())
        }
        DataType::LargeUtf8 => {
            out.push_str(array.as_string::<i64>().value(row));
            Ok(())
        }
        DataType::Utf8View => {
            out.push_str(array.as_string_view().value(row));
            Ok(())
        }
        DataType::Binary => hex(array.as_binary::<i32>().value(row), out),
        DataType::LargeBinary => hex(array.as_binary::<i64>().value(row), out),
        DataType::BinaryView => hex(array.as_binary_view().value(row), out),
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            let date = civil::date(1970, 1, 1)
                .checked_add(jiff::Span::new().days(days))
                .map_err(|error| Error::internal(format!("day {days} is no date: {error}")))?;
            write!(out, "{date}").map_err(unwritable)
        }
        DataType::Timestamp(unit, in_zone) => {
            let micros = match unit {
                TimeUnit::Second => array
                    .as_primitive::<TimestampSecondType>()
                    .value(row)
                    .saturating_mul(1_000_000),
                TimeUnit::Millisecond => array
                    .as_primitive::<TimestampMillisecondType>()
                    .value(row)
                    .saturating_mul(1_000),
                TimeUnit::Microsecond => {
                    array.as_primitive::<TimestampMicrosecondType>().value(row)
                }
                TimeUnit::Nanosecond => array
                    .as_primitive::<TimestampNanosecondType>()
                    .value(row)
                    .div_euclid(1_000),
            };
            let zone = match in_zone {
                Some(_) => zone.clone(),
                None => TimeZone::UTC,
            };
            timestamp(micros, zone, out)
        }
        DataType::Struct(_) => {
            let columns = array.as_struct().columns();
            sequence(
                columns.iter().map(|column| (column, row)),
                '{',
                '}',
                zone,
                out,
            )
        }
        DataType::List(_) => {
            let values = array.as_list::<i32>().value(row);
            let rows = 0..values.len();
            sequence(rows.map(|row| (&values, row)), '[', ']', zone, out)
        }
        DataType::LargeList(_) => {
            let values = array.as_list::<i64>().value(row);
            let rows = 0..values.len();
            sequence(rows.map(|row| (&values, row)), '[', ']', zone, out)
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            out.push('{');
            for row in 0..entries.len() {
                if row > 0 {
                    out.push_str(", ");
                }
                append(entries.column(0).as_ref(), row, zone, out)?;
                out.push_str(" -> ");
                append(entries.column(1).as_ref(), row, zone, out)?;
            }
            out.push('}');
            Ok(())
        }
        other => Err(Error::refused(
            format!("a column of type {other} can't be shown"),
            "cast it to a string",
        )),
    }
}

fn unwritable(_: std::fmt::Error) -> Error {
    Error::internal("a value could not be written as text")
}

fn java<T: serde::Serialize>(value: &T, out: &mut String) -> Result<(), Error> {
    display::scala_into(value, out).map_err(|error| Error::internal(error.to_string()))
}

fn hex(bytes: &[u8], out: &mut String) -> Result<(), Error> {
    out.push('[');
    for (number, byte) in bytes.iter().enumerate() {
        let space = if number > 0 { " " } else { "" };
        write!(out, "{space}{byte:02X}").map_err(unwritable)?;
    }
    out.push(']');
    Ok(())
}

fn sequence<'a>(
    values: impl Iterator<Item = (&'a ArrayRef, usize)>,
    opening: char,
    closing: char,
    zone: &TimeZone,
    out: &mut String,
) -> Result<(), Error> {
    out.push(opening);
    for (number, (array, row)) in values.enumerate() {
        if number > 0 {
            out.push_str(", ");
        }
        append(array.as_ref(), row, zone, out)?;
    }
    out.push(closing);
    Ok(())
}

/// `2026-11-22 10:00:00.5`: fractions without zeros at their end.
fn timestamp(micros: i64, zone: TimeZone, out: &mut String) -> Result<(), Error> {
    let instant = Timestamp::from_microsecond(micros)
        .map_err(|error| Error::internal(format!("{micros} µs is no time: {error}")))?;
    let time = instant.to_zoned(zone).datetime();
    write!(
        out,
        "{} {:02}:{:02}:{:02}",
        time.date(),
        time.hour(),
        time.minute(),
        time.second()
    )
    .map_err(unwritable)?;
    let fraction = time.subsec_nanosecond() / 1_000;
    if fraction > 0 {
        let digits = format!("{fraction:06}");
        write!(out, ".{}", digits.trim_end_matches('0')).map_err(unwritable)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{
            BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
            StructArray, TimestampMicrosecondArray,
        },
        datatypes::Field,
    };
    use std::sync::Arc;

    use super::*;

    fn text(array: impl Array) -> String {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        cell_text(&array, 0, &zone).unwrap()
    }

    #[test]
    fn values_are_as_spark_casts_them_to_strings() {
        assert_eq!(text(Float64Array::from(vec![1e-5])), "1.0E-5");
        assert_eq!(
            text(Float64Array::from(vec![f64::NEG_INFINITY])),
            "-Infinity"
        );
        assert_eq!(text(Float32Array::from(vec![0.1])), "0.1");
        assert_eq!(text(BooleanArray::from(vec![true])), "true");
        assert_eq!(text(Date32Array::from(vec![-1])), "1969-12-31");
        assert_eq!(text(BinaryArray::from_vec(vec![b"Hi\xff"])), "[48 69 FF]");
        let decimals = Decimal128Array::from(vec![-1_200]);
        let decimals = decimals.with_precision_and_scale(10, 2).unwrap();
        assert_eq!(text(decimals), "-12.00");
        let micros = TimestampMicrosecondArray::from(vec![1_768_478_400_500_000]);
        assert_eq!(text(micros.clone()), "2026-01-15 12:00:00.5");
        let zoned = micros.with_timezone("UTC");
        assert_eq!(
            text(zoned.clone()),
            "2026-01-15 13:00:00.5",
            "the session's zone"
        );
        let nothing = Float64Array::from(vec![None]);
        let window = StructArray::from(vec![
            (
                Arc::new(Field::new("start", zoned.data_type().clone(), true)),
                Arc::new(zoned) as ArrayRef,
            ),
            (
                Arc::new(Field::new("x", DataType::Float64, true)),
                Arc::new(nothing) as ArrayRef,
            ),
        ]);
        assert_eq!(text(window), "{2026-01-15 13:00:00.5, NULL}");
    }
}
