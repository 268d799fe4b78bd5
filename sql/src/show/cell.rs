//! A value as the text that Spark's cast to string gives.

use std::fmt::Write;

use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{
        DataType, Date32Type, Decimal128Type, Field, FieldRef, Float32Type, Float64Type, Int8Type,
        Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
        TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type,
    },
};
use jiff::{Timestamp, tz::TimeZone};
use millstream_dstreams::display;

use crate::error::Error;

/// The text of a value; `NULL` for none.
pub(crate) fn cell_text(array: &dyn Array, row: usize, zone: &TimeZone) -> Result<String, Error> {
    let mut text = String::new();
    append(array, row, zone, &mut text)?;
    Ok(text)
}

/// Whether values of this type have a text.
pub(crate) fn has_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(..)
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::Date32
        | DataType::Timestamp(..) => true,
        DataType::Struct(fields) => fields.iter().all(|field| has_text(field.data_type())),
        DataType::List(inner) | DataType::LargeList(inner) | DataType::Map(inner, _) => {
            has_text(inner.data_type())
        }
        _ => false,
    }
}

/// Columns that can't be shown, or written as text.
pub(crate) fn check_columns<'f>(
    fields: impl IntoIterator<Item = &'f FieldRef>,
    how: &str,
) -> Result<(), Error> {
    for field in fields {
        if !has_text(field.data_type()) {
            return Err(unfit(field, how));
        }
    }
    Ok(())
}

/// A column whose type doesn't fit what becomes of it.
pub(crate) fn unfit(field: &Field, how: &str) -> Error {
    let (name, data_type) = (field.name(), field.data_type());
    Error::refused(
        format!("column {name} of type {data_type} can't be {how}"),
        format!("cast it to a string, CAST({name} AS STRING), or leave it out"),
    )
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
            out.push_str(&date_text(i64::from(days)));
            Ok(())
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
            timestamp(micros, &zone, out)
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
fn timestamp(micros: i64, zone: &TimeZone, out: &mut String) -> Result<(), Error> {
    let time = LocalTime::of(micros, zone);
    write!(out, "{} {}", date_text(time.day), clock_text(time.second)).map_err(unwritable)?;
    if time.micro > 0 {
        let digits = format!("{:06}", time.micro);
        write!(out, ".{}", digits.trim_end_matches('0')).map_err(unwritable)?;
    }
    Ok(())
}

/// A time as the clocks of a zone show it. Every one that a column can hold: a producer that takes milliseconds for seconds gives years that no calendar
/// library knows.
pub(crate) struct LocalTime {
    /// Since 1970.
    pub(crate) day: i64,
    /// Of the day.
    pub(crate) second: i64,
    pub(crate) micro: i64,
    /// Of the clocks, ahead of UTC, seconds.
    pub(crate) offset: i64,
}

const MICROS: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;

impl LocalTime {
    pub(crate) fn of(micros: i64, zone: &TimeZone) -> Self {
        // Beyond what is known, clocks are as at its end.
        let known = Timestamp::from_microsecond(micros).unwrap_or(match micros < 0 {
            true => Timestamp::MIN,
            false => Timestamp::MAX,
        });
        let offset = i64::from(zone.to_offset(known).seconds());
        let local = micros.div_euclid(MICROS).saturating_add(offset);
        Self {
            day: local.div_euclid(DAY_SECONDS),
            second: local.rem_euclid(DAY_SECONDS),
            micro: micros.rem_euclid(MICROS),
            offset,
        }
    }
}

/// `10:00:00`.
pub(crate) fn clock_text(second: i64) -> String {
    let (minute, second) = (second / 60, second % 60);
    format!("{:02}:{:02}:{second:02}", minute / 60, minute % 60)
}

/// `2026-11-22`, as Java writes dates: years of more than four digits with their sign.
pub(crate) fn date_text(day: i64) -> String {
    let (year, month, day) = civil_of(day);
    match year {
        0..=9_999 => format!("{year:04}-{month:02}-{day:02}"),
        10_000.. => format!("+{year}-{month:02}-{day:02}"),
        _ => format!("-{:04}-{month:02}-{day:02}", year.unsigned_abs()),
    }
}

/// Year, month and day of a day since 1970, in the Gregorian calendar without beginning and end. The calendar repeats itself every 400 years, and is counted
/// from March, so that the day that a leap year has more comes last.
fn civil_of(day: i64) -> (i64, i64, i64) {
    const FOUR_CENTURIES: i64 = 146_097;
    /// From 1 March of the year 0.
    const TO_1970: i64 = 719_468;
    let day = day.saturating_add(TO_1970);
    let in_cycle = day.rem_euclid(FOUR_CENTURIES);
    let year = (in_cycle - in_cycle / 1_460 + in_cycle / 36_524 - in_cycle / 146_096) / 365;
    let in_year = in_cycle - (365 * year + year / 4 - year / 100);
    let from_march = (5 * in_year + 2) / 153;
    let day_of_month = in_year - (153 * from_march + 2) / 5 + 1;
    let month = match from_march {
        0..=9 => from_march + 3,
        _ => from_march - 9,
    };
    let year = year + day.div_euclid(FOUR_CENTURIES) * 400 + i64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{
            BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
            StructArray, TimestampMicrosecondArray, make_array, new_null_array,
        },
        datatypes::IntervalUnit,
    };
    use std::sync::Arc;

    use super::*;

    fn text(array: impl Array) -> String {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        cell_text(&array, 0, &zone).unwrap()
    }

    #[test]
    fn what_is_said_to_have_a_text_has_one() {
        let item = |data_type: DataType| Arc::new(Field::new("item", data_type, true));
        let pair = |keys_may_be_null: bool, value: DataType| {
            let fields = vec![
                Field::new("key", DataType::Utf8, keys_may_be_null),
                Field::new("value", value, true),
            ];
            DataType::Struct(fields.into())
        };
        let map =
            |entry: DataType| DataType::Map(Arc::new(Field::new("entries", entry, false)), false);
        let simple = [
            DataType::Null,
            DataType::Boolean,
            DataType::Int8,
            DataType::Int16,
            DataType::Int32,
            DataType::Int64,
            DataType::UInt8,
            DataType::UInt16,
            DataType::UInt32,
            DataType::UInt64,
            DataType::Float16,
            DataType::Float32,
            DataType::Float64,
            DataType::Decimal128(10, 2),
            DataType::Decimal256(10, 2),
            DataType::Utf8,
            DataType::LargeUtf8,
            DataType::Utf8View,
            DataType::Binary,
            DataType::LargeBinary,
            DataType::BinaryView,
            DataType::FixedSizeBinary(2),
            DataType::Date32,
            DataType::Date64,
            DataType::Time32(TimeUnit::Second),
            DataType::Time64(TimeUnit::Nanosecond),
            DataType::Timestamp(TimeUnit::Second, None),
            DataType::Timestamp(TimeUnit::Millisecond, None),
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::Duration(TimeUnit::Microsecond),
            DataType::Interval(IntervalUnit::YearMonth),
            DataType::Interval(IntervalUnit::DayTime),
            DataType::Interval(IntervalUnit::MonthDayNano),
        ];
        let texts = |data_type: &DataType| {
            let array = new_null_array(data_type, 1).to_data();
            // A value of zeros instead of none.
            let array = array.into_builder().nulls(None).build().unwrap();
            cell_text(&make_array(array), 0, &TimeZone::UTC).is_ok()
        };
        for data_type in &simple {
            assert_eq!(has_text(data_type), texts(data_type), "{data_type}");
            for nested in [
                DataType::List(item(data_type.clone())),
                DataType::LargeList(item(data_type.clone())),
                pair(true, data_type.clone()),
                map(pair(false, data_type.clone())),
            ] {
                assert_eq!(has_text(&nested), has_text(data_type), "{nested}");
                assert!(texts(&nested) || !has_text(&nested), "{nested}");
            }
        }
        for other in [
            DataType::FixedSizeList(item(DataType::Int8), 1),
            DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
        ] {
            assert!(!has_text(&other), "{other}");
        }
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
