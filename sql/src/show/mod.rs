//! Tables as Spark's `show` prints them.
//!
//! Layout:
//! - `cell`: a value as text

mod cell;

use std::fmt::Write;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use jiff::tz::TimeZone;

use crate::error::Error;

pub(crate) use cell::{LocalTime, cell_text, check_columns, clock_text, date_text, unfit};

/// A column is at least so wide.
const MIN_WIDTH: usize = 3;

/// What of a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Rows at most.
    pub(crate) rows: usize,
    /// Letters of a cell at most; none prints cells whole, and to the left.
    pub(crate) truncate: Option<usize>,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            rows: 20,
            truncate: Some(20),
        }
    }
}

/// The table of batches with these columns.
pub(crate) fn table_of(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    shown: Shown,
    zone: &TimeZone,
) -> Result<String, Error> {
    let fields = schema.fields().iter();
    let names: Vec<&str> = fields.map(|field| field.name().as_str()).collect();
    table(&names, batches, shown, zone)
}

/// The table of these batches, which have at least one row more than is shown where there are more. Ends with a line feed.
pub(crate) fn table(
    names: &[&str],
    batches: &[RecordBatch],
    shown: Shown,
    zone: &TimeZone,
) -> Result<String, Error> {
    let mut rows: Vec<Vec<String>> = vec![names.iter().map(|name| escaped(name)).collect()];
    let total: usize = batches.iter().map(RecordBatch::num_rows).sum();
    'batches: for batch in batches {
        for row in 0..batch.num_rows() {
            if rows.len() > shown.rows {
                break 'batches;
            }
            let mut cells = Vec::with_capacity(names.len());
            for column in batch.columns() {
                let text = cell_text(column.as_ref(), row, zone)?;
                cells.push(truncated(escaped(&text), shown.truncate));
            }
            rows.push(cells);
        }
    }
    let mut widths = vec![MIN_WIDTH; names.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(half_widths(cell));
        }
    }
    let mut rule = String::from("+");
    for width in &widths {
        rule.extend(std::iter::repeat_n('-', *width));
        rule.push('+');
    }
    rule.push('\n');
    let mut text = rule.clone();
    for (number, row) in rows.iter().enumerate() {
        text.push('|');
        for (width, cell) in widths.iter().zip(row) {
            let padding = width - half_widths(cell);
            let spaces = std::iter::repeat_n(' ', padding);
            if shown.truncate.is_some() {
                text.extend(spaces);
                text.push_str(cell);
            } else {
                text.push_str(cell);
                text.extend(spaces);
            }
            text.push('|');
        }
        text.push('\n');
        if number == 0 {
            text.push_str(&rule);
        }
    }
    text.push_str(&rule);
    if total > shown.rows {
        let noun = if shown.rows == 1 { "row" } else { "rows" };
        // Writing into a string can't fail.
        let _ = writeln!(text, "only showing top {} {noun}", shown.rows);
    }
    Ok(text)
}

/// Control letters as Spark shows them.
fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            '\u{c}' => shown.push_str("\\f"),
            '\u{8}' => shown.push_str("\\b"),
            '\u{b}' => shown.push_str("\\v"),
            '\u{7}' => shown.push_str("\\a"),
            other => shown.push(other),
        }
    }
    shown
}

/// Cut to so many UTF-16 units, as Java counts letters, the last three of them dots.
fn truncated(text: String, limit: Option<usize>) -> String {
    let Some(limit) = limit else {
        return text;
    };
    if text.encode_utf16().count() <= limit {
        return text;
    }
    let kept = if limit < 4 { limit } else { limit - 3 };
    let mut cut = String::new();
    let mut units = 0;
    for letter in text.chars() {
        units += letter.len_utf16();
        if units > kept {
            break;
        }
        cut.push(letter);
    }
    if limit >= 4 {
        cut.push_str("...");
    }
    cut
}

/// Columns on a terminal: wide letters are two.
fn half_widths(text: &str) -> usize {
    let width = |letter: char| match letter {
        '\u{1100}'..='\u{115F}'
        | '\u{2E80}'..='\u{303E}'
        | '\u{3041}'..='\u{33FF}'
        | '\u{3400}'..='\u{4DBF}'
        | '\u{4E00}'..='\u{9FFF}'
        | '\u{A000}'..='\u{A4CF}'
        | '\u{AC00}'..='\u{D7A3}'
        | '\u{F900}'..='\u{FAFF}'
        | '\u{FE30}'..='\u{FE4F}'
        | '\u{FF00}'..='\u{FF60}'
        | '\u{FFE0}'..='\u{FFE6}' => 2,
        other => other.len_utf16(),
    };
    text.chars().map(width).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Float64Array, Int32Array, StringArray},
        datatypes::{DataType, Field, Schema},
    };

    use super::*;

    fn batch(rows: usize) -> RecordBatch {
        let names = ["ab", "a long name that is cut", "日本", "tab\there"];
        let names = (0..rows).map(|row| (row != 4).then(|| names[row % 4]));
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int32, true),
            Field::new("name", DataType::Utf8, true),
            Field::new("salary", DataType::Float64, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from_iter_values(0..rows as i32)),
            Arc::new(StringArray::from_iter(names)),
            Arc::new(Float64Array::from_iter_values(
                (0..rows).map(|row| row as f64 * 1e7),
            )),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn shown(rows: usize, shown: Shown) -> String {
        table(
            &["id", "name", "salary"],
            &[batch(rows)],
            shown,
            &TimeZone::UTC,
        )
        .unwrap()
    }

    #[test]
    fn a_table_has_sparks_layout() {
        let expected = "\
+---+--------------------+------+
| id|                name|salary|
+---+--------------------+------+
|  0|                  ab|   0.0|
|  1|a long name that ...| 1.0E7|
|  2|                日本| 2.0E7|
|  3|           tab\\there| 3.0E7|
|  4|                NULL| 4.0E7|
+---+--------------------+------+
";
        assert_eq!(shown(5, Shown::default()), expected);
    }

    #[test]
    fn rows_and_letters_are_limited_as_asked() {
        let few = Shown {
            rows: 1,
            truncate: None,
        };
        let expected = "\
+---+----+------+
|id |name|salary|
+---+----+------+
|0  |ab  |0.0   |
+---+----+------+
only showing top 1 row
";
        assert_eq!(shown(2, few), expected);
        let narrow = Shown {
            rows: 2,
            truncate: Some(3),
        };
        assert!(
            shown(2, narrow).contains("|  1| a l|"),
            "{}",
            shown(2, narrow)
        );
        assert!(shown(21, Shown::default()).ends_with("only showing top 20 rows\n"));
        assert!(
            shown(0, Shown::default())
                .ends_with("|salary|\n+---+----+------+\n+---+----+------+\n")
        );
    }
}
