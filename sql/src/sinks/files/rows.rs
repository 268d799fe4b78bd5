//! Rows as lines of CSV, JSON and text, as Spark writes them.

use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType},
    record_batch::RecordBatch,
};
use jiff::tz::TimeZone;

use super::{CsvStyle, FileFormat};
use crate::{
    error::Error,
    show::{LocalTime, cell_text, clock_text, date_text},
};

/// Appends the header line, where the format has one.
pub(super) fn header(format: &FileFormat, batch: &RecordBatch, out: &mut String) {
    let FileFormat::Csv(style) = format else {
        return;
    };
    if !style.header {
        return;
    }
    let schema = batch.schema();
    for (number, field) in schema.fields().iter().enumerate() {
        if number > 0 {
            out.push(style.separator);
        }
        quoted(field.name(), style, out);
    }
    out.push('\n');
}

/// Appends the rows, a line each.
pub(super) fn lines(
    format: &FileFormat,
    batch: &RecordBatch,
    zone: &TimeZone,
    out: &mut String,
) -> Result<(), Error> {
    for row in 0..batch.num_rows() {
        match format {
            FileFormat::Csv(style) => csv(batch, row, style, zone, out)?,
            FileFormat::Json => {
                let schema = batch.schema();
                let names = schema.fields().iter().map(|field| field.name().as_str());
                let columns = batch.columns().iter().map(|column| column.as_ref());
                object(names.zip(columns), row, zone, out)?;
            }
            FileFormat::Text | FileFormat::Parquet => {
                let column = batch.column(0);
                if column.is_valid(row) {
                    out.push_str(column.as_string::<i32>().value(row));
                }
            }
        }
        out.push('\n');
    }
    Ok(())
}

fn csv(
    batch: &RecordBatch,
    row: usize,
    style: &CsvStyle,
    zone: &TimeZone,
    out: &mut String,
) -> Result<(), Error> {
    let begin = out.len();
    for (number, column) in batch.columns().iter().enumerate() {
        if number > 0 {
            out.push(style.separator);
        }
        if column.is_null(row) {
            instead(&style.null_value, style, out);
            continue;
        }
        let text = plain(column.as_ref(), row, zone)?;
        quoted(&text, style, out);
    }
    // A line without anything would be no record.
    if out.len() == begin {
        instead(&style.empty_value, style, out);
    }
    Ok(())
}

/// A value as text: times as ISO says, everything else as a cast to string.
fn plain(column: &dyn Array, row: usize, zone: &TimeZone) -> Result<String, Error> {
    if let DataType::Timestamp(TimeUnit::Microsecond, in_zone) = column.data_type() {
        let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
        return Ok(time(micros, in_zone.is_some(), zone));
    }
    if let DataType::Binary = column.data_type() {
        return Ok(String::from_utf8_lossy(column.as_binary::<i32>().value(row)).into_owned());
    }
    cell_text(column, row, zone)
}

/// `2026-01-15T13:00:00.000+01:00`, as Spark's `yyyy-MM-dd'T'HH:mm:ss[.SSS][XXX]`.
fn time(micros: i64, has_zone: bool, zone: &TimeZone) -> String {
    let zone = if has_zone { zone } else { &TimeZone::UTC };
    let time = LocalTime::of(micros, zone);
    let text = format!(
        "{}T{}.{:03}",
        date_text(time.day),
        clock_text(time.second),
        time.micro / 1_000
    );
    if !has_zone {
        return text;
    }
    if time.offset == 0 {
        return format!("{text}Z");
    }
    let sign = if time.offset < 0 { '-' } else { '+' };
    let clock = clock_text(time.offset.abs());
    // Seconds, which zones had before there were trains, are written where there are any.
    format!(
        "{text}{sign}{}",
        clock.strip_suffix(":00").unwrap_or(&clock)
    )
}

/// What stands for a null or an empty text; quotes around it are its own.
fn instead(text: &str, style: &CsvStyle, out: &mut String) {
    let inside = text.strip_prefix(style.quote);
    match inside.is_some_and(|rest| rest.ends_with(style.quote)) {
        true => out.push_str(text),
        false => quoted_if_needed(text, style, out),
    }
}

fn quoted(text: &str, style: &CsvStyle, out: &mut String) {
    let is_blank = |letter: char| letter <= ' ';
    let is_empty = match style.trim_start || style.trim_end {
        true => text.trim_matches(is_blank).is_empty(),
        false => text.is_empty(),
    };
    match is_empty {
        true => instead(&style.empty_value, style, out),
        false => quoted_if_needed(text, style, out),
    }
}

fn quoted_if_needed(text: &str, style: &CsvStyle, out: &mut String) {
    let is_blank = |letter: char| letter <= ' ';
    let mut text = match style.trim_start {
        true => text.trim_start_matches(is_blank),
        false => text,
    };
    // As Spark: what is cut off at the end counts here.
    let needs_quotes = text.contains([style.separator, style.quote, '\n', '\r']);
    if style.trim_end {
        text = text.trim_end_matches(is_blank);
    }
    if !needs_quotes {
        out.push_str(text);
        return;
    }
    out.push(style.quote);
    for letter in text.chars() {
        if letter == style.quote || letter == style.escape {
            out.push(style.escape);
        }
        out.push(letter);
    }
    out.push(style.quote);
}

/// A row as an object; nulls are left out.
pub(super) fn object<'a>(
    fields: impl Iterator<Item = (&'a str, &'a dyn Array)>,
    row: usize,
    zone: &TimeZone,
    out: &mut String,
) -> Result<(), Error> {
    out.push('{');
    let mut is_first = true;
    for (name, column) in fields {
        if column.is_null(row) {
            continue;
        }
        if !std::mem::take(&mut is_first) {
            out.push(',');
        }
        string(name, out)?;
        out.push(':');
        value(column, row, zone, out)?;
    }
    out.push('}');
    Ok(())
}

fn string(text: &str, out: &mut String) -> Result<(), Error> {
    let quoted = serde_json::to_string(text);
    out.push_str(&quoted.map_err(|error| Error::internal(error.to_string()))?);
    Ok(())
}

fn value(column: &dyn Array, row: usize, zone: &TimeZone, out: &mut String) -> Result<(), Error> {
    if column.is_null(row) {
        out.push_str("null");
        return Ok(());
    }
    match column.data_type() {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Decimal128(..) => out.push_str(&cell_text(column, row, zone)?),
        DataType::Float32 => {
            let number = column.as_primitive::<Float32Type>().value(row);
            float(f64::from(number), cell_text(column, row, zone)?, out);
        }
        DataType::Float64 => {
            let number = column.as_primitive::<Float64Type>().value(row);
            float(number, cell_text(column, row, zone)?, out);
        }
        DataType::Struct(fields) => {
            let names = fields.iter().map(|field| field.name().as_str());
            let columns = column.as_struct().columns().iter();
            let columns = columns.map(|column| column.as_ref());
            object(names.zip(columns), row, zone, out)?;
        }
        DataType::List(_) => {
            let values = column.as_list::<i32>().value(row);
            out.push('[');
            for element in 0..values.len() {
                if element > 0 {
                    out.push(',');
                }
                value(values.as_ref(), element, zone, out)?;
            }
            out.push(']');
        }
        DataType::Map(..) => {
            let entries = column.as_map().value(row);
            out.push('{');
            for entry in 0..entries.len() {
                if entry > 0 {
                    out.push(',');
                }
                string(&cell_text(entries.column(0).as_ref(), entry, zone)?, out)?;
                out.push(':');
                value(entries.column(1).as_ref(), entry, zone, out)?;
            }
            out.push('}');
        }
        _ => string(&plain(column, row, zone)?, out)?,
    }
    Ok(())
}

/// What JSON has no number for is text.
fn float(number: f64, text: String, out: &mut String) {
    if number.is_finite() {
        out.push_str(&text);
        return;
    }
    out.push('"');
    out.push_str(&text);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, Float64Array, Int32Array, StringArray, TimestampMicrosecondArray,
    };

    use super::*;

    fn batch() -> RecordBatch {
        let times = TimestampMicrosecondArray::from(vec![Some(1_768_478_400_250_000), None, None]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "id",
                Arc::new(Int32Array::from(vec![Some(1), None, Some(3)])),
            ),
            (
                "name",
                Arc::new(StringArray::from(vec![Some("a,\"b\""), Some(""), None])),
            ),
            (
                "salary",
                Arc::new(Float64Array::from(vec![
                    Some(1e10),
                    Some(f64::NAN),
                    Some(0.5),
                ])),
            ),
            ("at", Arc::new(times.with_timezone("Europe/Berlin"))),
        ];
        RecordBatch::try_from_iter_with_nullable(
            columns
                .into_iter()
                .map(|(name, column)| (name, column, true)),
        )
        .unwrap()
    }

    fn written(format: &FileFormat) -> String {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let mut out = String::new();
        header(format, &batch(), &mut out);
        lines(format, &batch(), &zone, &mut out).unwrap();
        out
    }

    fn style() -> CsvStyle {
        CsvStyle {
            header: false,
            separator: ',',
            quote: '"',
            escape: '\\',
            null_value: String::new(),
            empty_value: "\"\"".to_owned(),
            trim_start: true,
            trim_end: true,
        }
    }

    /// Texts, each the only one of a line, as Spark 4.2 wrote them.
    fn texts_written(style: CsvStyle, texts: &[Option<&str>]) -> Vec<String> {
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let batch = RecordBatch::try_from_iter_with_nullable([("s", texts, true)]).unwrap();
        let mut out = String::new();
        lines(&FileFormat::Csv(style), &batch, &TimeZone::UTC, &mut out).unwrap();
        let lines = out.split_terminator('\n');
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn texts_are_quoted_where_the_separator_is_in_them() {
        let texts = [
            "a\tb",
            "a,b",
            "say \"hi\"",
            " lead",
            "x\t",
            "\tx",
            " , ",
            "  ",
            "back\\slash",
            "a\\b,c",
            "cr\rx",
            "a\"b\tc",
        ];
        let texts = texts.map(Some);
        let tabs = CsvStyle {
            separator: '\t',
            ..style()
        };
        assert_eq!(
            texts_written(tabs, &texts),
            [
                "\"a\tb\"",
                "a,b",
                r#""say \"hi\"""#,
                "lead",
                "\"x\"",
                "x",
                ",",
                "\"\"",
                "back\\slash",
                "a\\b,c",
                "\"cr\rx\"",
                "\"a\\\"b\tc\"",
            ]
        );
        assert_eq!(
            texts_written(style(), &texts),
            [
                "a\tb",
                "\"a,b\"",
                r#""say \"hi\"""#,
                "lead",
                "x",
                "x",
                "\",\"",
                "\"\"",
                "back\\slash",
                r#""a\\b,c""#,
                "\"cr\rx\"",
                "\"a\\\"b\tc\"",
            ]
        );
        let untrimmed = CsvStyle {
            separator: '\t',
            trim_start: false,
            trim_end: false,
            ..style()
        };
        assert_eq!(
            texts_written(untrimmed, &texts[3..8]),
            [" lead", "\"x\t\"", "\"\tx\"", " , ", "  "]
        );
    }

    #[test]
    fn what_stands_for_nothing_is_written_as_it_is_quoted() {
        let nothing = [None, Some("")];
        let with = |null_value: &str, empty_value: &str| CsvStyle {
            null_value: null_value.to_owned(),
            empty_value: empty_value.to_owned(),
            ..style()
        };
        let written = |style| texts_written(style, &nothing);
        assert_eq!(written(style()), ["\"\"", "\"\""]);
        assert_eq!(written(with("NULL", "")), ["NULL", ""]);
        assert_eq!(written(with(" - ", "a,b")), ["-", "\"a,b\""]);
        assert_eq!(written(with("\"n\"", "E")), ["\"n\"", "E"]);
        assert_eq!(written(with("a\"b,c", "\"")), [r#""a\"b,c""#, r#""\"""#]);
        let without_quotes = CsvStyle {
            quote: '\0',
            ..style()
        };
        assert_eq!(
            texts_written(without_quotes, &[Some("say \"hi\""), Some("a,b"), Some("")]),
            ["say \"hi\"", "\0a,b\0", "\"\""]
        );
    }

    #[test]
    fn csv_is_sparks() {
        let style = CsvStyle {
            header: true,
            ..style()
        };
        assert_eq!(
            written(&FileFormat::Csv(style)),
            "id,name,salary,at\n1,\"a,\\\"b\\\"\",1.0E10,2026-01-15T13:00:00.250+01:00\n,\"\",NaN,\n3,,0.5,\n"
        );
    }

    #[test]
    fn json_is_sparks() {
        assert_eq!(
            written(&FileFormat::Json),
            "{\"id\":1,\"name\":\"a,\\\"b\\\"\",\"salary\":1.0E10,\"at\":\"2026-01-15T13:00:00.250+01:00\"}\n{\"name\":\"\",\"salary\":\"NaN\"}\n{\"id\":3,\"salary\":0.5}\n"
        );
    }
}
