//! Texts of JSON as values of columns, by Spark's rules: a field that doesn't fit its type is null, one that isn't there too.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanBuilder, Date32Array, Decimal128Array, Float32Array, Float64Array,
        ListArray, MapArray, NullArray, PrimitiveArray, StringArray, StringBuilder, StructArray,
        TimestampMicrosecondArray,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{
        ArrowPrimitiveType, DataType, Field, Fields, Int8Type, Int16Type, Int32Type, Int64Type,
        TimeUnit,
    },
};
use hashbrown::HashMap;
use jiff::tz::TimeZone;

use super::{
    convert,
    json_text::{self, Fields as Object, Value},
    pattern::Patterns,
};
use crate::error::Error;

/// Whether JSON can become values of this type; the message names the column.
pub(crate) fn check_type(column: &str, data_type: &DataType) -> Result<(), Error> {
    match data_type {
        DataType::Struct(fields) => fields.iter().try_for_each(|field| {
            check_type(&format!("{column}.{}", field.name()), field.data_type())
        }),
        DataType::List(element) => check_type(&format!("{column}[]"), element.data_type()),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields[0].data_type() == &DataType::Utf8 => {
                check_type(&format!("{column}[]"), fields[1].data_type())
            }
            _ => Err(Error::refused(
                format!("column {column} has keys that are no strings"),
                "give it the type MAP<STRING, ..>",
            )),
        },
        other => convert::check_type(column, other),
    }
}

/// What records came to: each is an object, or a list of objects.
pub(crate) struct Records {
    pub(crate) columns: Vec<ArrayRef>,
    /// Per record, whether all of it fitted.
    pub(crate) fits: Vec<bool>,
    /// Of each row, its record.
    pub(crate) of_rows: Vec<usize>,
}

struct Reader<'a> {
    zone: &'a TimeZone,
    patterns: &'a Patterns,
    fits: Vec<bool>,
}

/// The values of texts, a column a field; null where there is no text.
pub(crate) fn parse<'t>(
    texts: impl Iterator<Item = Option<&'t str>>,
    fields: &Fields,
    zone: &TimeZone,
    patterns: &Patterns,
) -> Result<Vec<ArrayRef>, Error> {
    let objects: Vec<Option<Object<'t>>> = texts
        .map(|text| match text.and_then(Value::read) {
            Some(Value::Object(object, _)) => Some(object),
            _ => None,
        })
        .collect();
    let rows: Vec<usize> = (0..objects.len()).collect();
    let mut reader = Reader {
        zone,
        patterns,
        fits: vec![true; objects.len()],
    };
    reader.rows(&objects, &rows, fields)
}

/// The rows of records: a list of objects is a row each. A list of anything else is no record, and one row of nulls.
pub(crate) fn parse_records<'t>(
    texts: impl Iterator<Item = &'t str>,
    fields: &Fields,
    zone: &TimeZone,
    patterns: &Patterns,
) -> Result<Records, Error> {
    let mut objects: Vec<Option<Object<'t>>> = Vec::new();
    let mut of_rows = Vec::new();
    let mut fits = Vec::new();
    for (record, text) in texts.enumerate() {
        let found = match Value::read(text) {
            Some(Value::Object(object, _)) => Some(vec![object]),
            Some(Value::Array(elements, _)) => elements.into_iter().map(Value::object).collect(),
            _ => None,
        };
        fits.push(found.is_some());
        match found {
            Some(found) => objects.extend(found.into_iter().map(Some)),
            None => objects.push(None),
        }
        of_rows.resize(objects.len(), record);
    }
    let mut reader = Reader {
        zone,
        patterns,
        fits,
    };
    let columns = reader.rows(&objects, &of_rows, fields)?;
    Ok(Records {
        columns,
        fits: reader.fits,
        of_rows,
    })
}

impl Reader<'_> {
    fn rows(
        &mut self,
        objects: &[Option<Object<'_>>],
        records: &[usize],
        fields: &Fields,
    ) -> Result<Vec<ArrayRef>, Error> {
        let objects: Vec<Option<&Object<'_>>> = objects.iter().map(Option::as_ref).collect();
        self.fields(&objects, records, fields)
    }

    fn fields(
        &mut self,
        objects: &[Option<&Object<'_>>],
        rows: &[usize],
        fields: &Fields,
    ) -> Result<Vec<ArrayRef>, Error> {
        let mut columns = Vec::with_capacity(fields.len());
        for field in fields {
            let values: Vec<Option<&Value<'_>>> = objects
                .iter()
                .map(|object| {
                    let value = json_text::field(object.as_ref()?, field.name())?;
                    (!value.is_null()).then_some(value)
                })
                .collect();
            columns.push(self.column(&values, rows, field.data_type())?);
        }
        Ok(columns)
    }

    fn misfit(&mut self, row: usize) {
        if let Some(fits) = self.fits.get_mut(row) {
            *fits = false;
        }
    }

    /// Each value by a function that gives none where it doesn't fit.
    fn each<T>(
        &mut self,
        values: &[Option<&Value<'_>>],
        rows: &[usize],
        read: impl Fn(&Value<'_>) -> Option<T>,
    ) -> Vec<Option<T>> {
        let mut out = Vec::with_capacity(values.len());
        for (value, row) in values.iter().zip(rows) {
            let found = value.and_then(&read);
            if value.is_some() && found.is_none() {
                self.misfit(*row);
            }
            out.push(found);
        }
        out
    }

    fn integers<T>(&mut self, values: &[Option<&Value<'_>>], rows: &[usize]) -> ArrayRef
    where
        T: ArrowPrimitiveType,
        T::Native: TryFrom<i64>,
    {
        let read = |value: &Value<'_>| T::Native::try_from(value.as_i64()?).ok();
        Arc::new(PrimitiveArray::<T>::from_iter(
            self.each(values, rows, read),
        ))
    }

    fn column(
        &mut self,
        values: &[Option<&Value<'_>>],
        rows: &[usize],
        data_type: &DataType,
    ) -> Result<ArrayRef, Error> {
        Ok(match data_type {
            DataType::Null => Arc::new(NullArray::new(values.len())),
            DataType::Boolean => {
                let mut column = BooleanBuilder::new();
                for value in self.each(values, rows, |value| value.as_bool()) {
                    column.append_option(value);
                }
                Arc::new(column.finish())
            }
            DataType::Int8 => self.integers::<Int8Type>(values, rows),
            DataType::Int16 => self.integers::<Int16Type>(values, rows),
            DataType::Int32 => self.integers::<Int32Type>(values, rows),
            DataType::Int64 => self.integers::<Int64Type>(values, rows),
            DataType::Float32 => {
                let read = |value: &Value<'_>| number(value).map(|number| number as f32);
                Arc::new(Float32Array::from_iter(self.each(values, rows, read)))
            }
            DataType::Float64 => Arc::new(Float64Array::from_iter(self.each(values, rows, number))),
            DataType::Utf8 => {
                let mut column = StringBuilder::new();
                for value in values {
                    column.append_option(value.map(Value::text));
                }
                Arc::new(column.finish())
            }
            DataType::Struct(fields) => self.structs(values, rows, fields)?,
            DataType::List(element) => self.lists(values, rows, element)?,
            DataType::Map(entries, sorted) => self.maps(values, rows, entries, *sorted)?,
            DataType::Date32 => {
                let patterns = self.patterns;
                let read = |value: &Value<'_>| convert::date(value.as_str()?, patterns);
                Arc::new(Date32Array::from_iter(self.each(values, rows, read)))
            }
            DataType::Timestamp(TimeUnit::Microsecond, in_zone) => {
                let zone = in_zone.as_ref().map(|_| self.zone);
                let patterns = self.patterns;
                let read = |value: &Value<'_>| match value {
                    // Seconds since 1970.
                    Value::Number(_) if zone.is_some() => value.as_i64()?.checked_mul(1_000_000),
                    _ => convert::timestamp(value.as_str()?, zone, patterns),
                };
                let times = TimestampMicrosecondArray::from_iter(self.each(values, rows, read));
                Arc::new(times.with_timezone_opt(in_zone.clone()))
            }
            DataType::Decimal128(precision, scale) => {
                let read = |value: &Value<'_>| match value {
                    Value::Number(text) => convert::decimal(text, *precision, *scale),
                    Value::String(text) => convert::decimal(text, *precision, *scale),
                    _ => None,
                };
                let column = Decimal128Array::from_iter(self.each(values, rows, read));
                Arc::new(column.with_precision_and_scale(*precision, *scale)?)
            }
            other => {
                let texts = self.each(values, rows, |value| value.as_str().map(str::to_owned));
                convert::column(&StringArray::from(texts), other, self.zone, self.patterns)?
            }
        })
    }

    fn structs(
        &mut self,
        values: &[Option<&Value<'_>>],
        rows: &[usize],
        fields: &Fields,
    ) -> Result<ArrayRef, Error> {
        let mut objects = Vec::with_capacity(values.len());
        for (value, row) in values.iter().zip(rows) {
            let object = value.and_then(Value::as_object);
            if value.is_some() && object.is_none() {
                self.misfit(*row);
            }
            objects.push(object);
        }
        let nulls = NullBuffer::from_iter(objects.iter().map(Option::is_some));
        let columns = self.fields(&objects, rows, fields)?;
        let made =
            StructArray::try_new_with_length(fields.clone(), columns, Some(nulls), values.len())?;
        Ok(Arc::new(made))
    }

    fn lists(
        &mut self,
        values: &[Option<&Value<'_>>],
        rows: &[usize],
        element: &Arc<Field>,
    ) -> Result<ArrayRef, Error> {
        let mut elements: Vec<Option<&Value<'_>>> = Vec::new();
        let mut of_rows = Vec::new();
        let mut lengths = Vec::with_capacity(values.len());
        let mut valid = Vec::with_capacity(values.len());
        for (value, row) in values.iter().zip(rows) {
            let list = value.and_then(Value::as_array);
            if value.is_some() && list.is_none() {
                self.misfit(*row);
            }
            valid.push(list.is_some());
            let list = list.unwrap_or_default();
            lengths.push(list.len());
            for value in list {
                elements.push((!value.is_null()).then_some(value));
                of_rows.push(*row);
            }
        }
        let elements = self.column(&elements, &of_rows, element.data_type())?;
        Ok(Arc::new(ListArray::try_new(
            Arc::clone(element),
            OffsetBuffer::from_lengths(lengths),
            elements,
            Some(NullBuffer::from(valid)),
        )?))
    }

    fn maps(
        &mut self,
        values: &[Option<&Value<'_>>],
        rows: &[usize],
        entries: &Arc<Field>,
        sorted: bool,
    ) -> Result<ArrayRef, Error> {
        let DataType::Struct(fields) = entries.data_type() else {
            return Err(Error::internal("a map without entries"));
        };
        let mut keys = StringBuilder::new();
        let mut of_keys: Vec<Option<&Value<'_>>> = Vec::new();
        let mut of_rows = Vec::new();
        let mut lengths = Vec::with_capacity(values.len());
        let mut valid = Vec::with_capacity(values.len());
        for (value, row) in values.iter().zip(rows) {
            let object = value.and_then(Value::as_object);
            if value.is_some() && object.is_none() {
                self.misfit(*row);
            }
            valid.push(object.is_some());
            let before = of_keys.len();
            let fields = object.map(Vec::as_slice).unwrap_or_default();
            let places = fields.iter().zip(0usize..);
            let last: HashMap<&str, usize> = places
                .map(|((key, _), place)| (key.as_ref(), place))
                .collect();
            for ((key, value), place) in fields.iter().zip(0usize..) {
                if last.get(key.as_ref()) != Some(&place) {
                    continue;
                }
                keys.append_value(key);
                of_keys.push((!value.is_null()).then_some(value));
                of_rows.push(*row);
            }
            lengths.push(of_keys.len() - before);
        }
        let of_keys = self.column(&of_keys, &of_rows, fields[1].data_type())?;
        let pairs =
            StructArray::try_new(fields.clone(), vec![Arc::new(keys.finish()), of_keys], None)?;
        Ok(Arc::new(MapArray::try_new(
            Arc::clone(entries),
            OffsetBuffer::from_lengths(lengths),
            pairs,
            Some(NullBuffer::from(valid)),
            sorted,
        )?))
    }
}

/// Numbers, and the texts that Spark takes for numbers that JSON lacks.
fn number(value: &Value<'_>) -> Option<f64> {
    let text = match value {
        Value::Number(text) => text,
        Value::String(text) => text.as_ref(),
        _ => return None,
    };
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" | "+Infinity" | "+INF" => Some(f64::INFINITY),
        "-Infinity" | "-INF" => Some(f64::NEG_INFINITY),
        "INF" if matches!(value, Value::Number(_)) => Some(f64::INFINITY),
        // A whole number, which has no zero with a sign.
        "-0" if matches!(value, Value::Number(_)) => Some(0.0),
        _ if matches!(value, Value::Number(_)) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray, RecordBatch},
        datatypes::Schema,
        util::pretty::pretty_format_batches,
    };

    use super::*;
    use crate::ddl::IntoSchema;

    fn parsed(ddl: &str, lines: &[&str]) -> (String, Vec<bool>) {
        let schema: Arc<Schema> = ddl.into_schema("UTC").unwrap();
        let (zone, patterns) = (TimeZone::UTC, Patterns::default());
        let lines = lines.iter().copied();
        let parsed = parse_records(lines, schema.fields(), &zone, &patterns).unwrap();
        let batch = RecordBatch::try_new(schema, parsed.columns).unwrap();
        (
            pretty_format_batches(&[batch]).unwrap().to_string(),
            parsed.fits,
        )
    }

    #[test]
    fn what_does_not_fit_is_null() {
        let (shown, fits) = parsed(
            "id INT, name STRING, at TIMESTAMP",
            &[
                r#"{"id": 1, "name": "a", "at": "2026-01-15T12:00:00Z", "more": 5}"#,
                r#"{"id": "x", "name": {"b": [1, 2]}}"#,
                r#"{"id": 3000000000, "name": null}"#,
                "nonsense",
                "[1]",
            ],
        );
        assert_eq!(fits, [true, false, false, false, false]);
        let rows: Vec<&str> = shown.lines().skip(3).collect();
        assert_eq!(rows[0], "| 1  | a             | 2026-01-15T12:00:00Z |");
        assert_eq!(rows[1], "|    | {\"b\": [1, 2]} |                      |");
        assert!(
            rows[2..5]
                .iter()
                .all(|row| row.trim_matches(['|', ' ']).is_empty())
        );
    }

    #[test]
    fn what_is_nested_is_read() {
        let (shown, fits) = parsed(
            "who STRUCT<name: STRING, age: INT>, tags ARRAY<STRING>",
            &[
                r#"{"who": {"name": "a", "age": 7}, "tags": ["x", null, "y"]}"#,
                r#"{"who": 5, "tags": []}"#,
            ],
        );
        assert_eq!(fits, [true, false]);
        assert!(shown.contains("{name: a, age: 7}"), "{shown}");
        assert!(shown.contains("[x, , y]"), "{shown}");
    }

    #[test]
    fn a_list_of_objects_is_a_row_each() {
        let schema: Arc<Schema> = "a INT, b STRING".into_schema("UTC").unwrap();
        let lines = [
            r#"[{"a": 1, "b": "x"}, {"a": 2}]"#,
            r#"{"a": 3}"#,
            "[]",
            "[1]",
            r#"[{"a": 4}, null]"#,
            r#"[{"a": "no"}, {"a": 5}]"#,
            r#"[{"a": 6}] more"#,
            r#"[{"a": 7}, {"a": 8}"#,
        ];
        let (zone, patterns) = (TimeZone::UTC, Patterns::default());
        let lines = lines.into_iter();
        let read = parse_records(lines, schema.fields(), &zone, &patterns).unwrap();
        let numbers: Vec<Option<i32>> =
            read.columns[0].as_primitive::<Int32Type>().iter().collect();
        assert_eq!(
            numbers,
            [
                Some(1),
                Some(2),
                Some(3),
                None,
                None,
                None,
                Some(5),
                Some(6),
                None
            ]
        );
        assert_eq!(read.of_rows, [0, 0, 1, 3, 4, 5, 5, 6, 7]);
        assert_eq!(
            read.fits,
            [true, true, true, false, false, false, true, false]
        );
    }

    #[test]
    fn texts_that_are_absent_are_null() {
        let schema: Arc<Schema> = "a INT".into_schema("UTC").unwrap();
        let texts = [None, Some(r#"{"a":1}"#)].into_iter();
        let parsed = parse(texts, schema.fields(), &TimeZone::UTC, &Patterns::default()).unwrap();
        let numbers: Vec<Option<i32>> = parsed[0].as_primitive::<Int32Type>().iter().collect();
        assert_eq!(numbers, [None, Some(1)]);
    }

    #[test]
    fn digits_are_kept() {
        let (shown, fits) = parsed(
            "d DECIMAL(38,18), s STRING",
            &[
                r#"{"d": 12345678901234567890.123456789012345678, "s": 1.10}"#,
                r#"{"d": "-0.000000000000000001", "s": 12345678901234567890123}"#,
                r#"{"d": 1.50000000000000000000000000000000000000000000000001, "s": [ 1e5 ]}"#,
            ],
        );
        assert_eq!(fits, [true, true, true]);
        let rows: Vec<Vec<&str>> = shown
            .lines()
            .skip(3)
            .map(|line| {
                line.split_whitespace()
                    .filter(|word| *word != "|")
                    .collect()
            })
            .collect();
        assert_eq!(rows[0], ["12345678901234567890.123456789012345678", "1.10"]);
        assert_eq!(
            rows[1],
            ["-0.000000000000000001", "12345678901234567890123"]
        );
        assert_eq!(rows[2], ["1.500000000000000000", "[", "1e5", "]"]);
    }
}
