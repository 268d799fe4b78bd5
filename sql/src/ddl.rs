//! Schemas as DDL text, such as `emp_id INT, emp_name STRING`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::error::Error;

/// What a schema may be given as: an Arrow schema, or DDL text as Spark takes it.
pub trait IntoSchema {
    /// The schema; timestamps without a zone get the session's.
    ///
    /// # Errors
    /// What is wrong with the text.
    fn into_schema(self, session_zone: &str) -> Result<SchemaRef, Error>;
}

impl IntoSchema for SchemaRef {
    fn into_schema(self, _session_zone: &str) -> Result<SchemaRef, Error> {
        Ok(self)
    }
}

impl IntoSchema for Schema {
    fn into_schema(self, _session_zone: &str) -> Result<SchemaRef, Error> {
        Ok(Arc::new(self))
    }
}

impl IntoSchema for &str {
    fn into_schema(self, session_zone: &str) -> Result<SchemaRef, Error> {
        let mut parser = Parser {
            text: self,
            at: 0,
            zone: session_zone,
        };
        let fields = parser.fields(None)?;
        for (number, field) in fields.iter().enumerate() {
            let is_again = |other: &Arc<Field>| other.name() == field.name();
            if fields[..number].iter().any(is_again) {
                return Err(parser.wrong(format!("column {} is there twice", field.name())));
            }
        }
        Ok(Arc::new(Schema::new(fields)))
    }
}

impl IntoSchema for String {
    fn into_schema(self, session_zone: &str) -> Result<SchemaRef, Error> {
        self.as_str().into_schema(session_zone)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    zone: &'a str,
}

const TYPES: [&str; 21] = [
    "BOOLEAN",
    "TINYINT",
    "BYTE",
    "SMALLINT",
    "SHORT",
    "INT",
    "INTEGER",
    "BIGINT",
    "LONG",
    "FLOAT",
    "REAL",
    "DOUBLE",
    "STRING",
    "BINARY",
    "DATE",
    "TIMESTAMP",
    "DECIMAL",
    "TIMESTAMP_NTZ",
    "ARRAY",
    "MAP",
    "STRUCT",
];

impl Parser<'_> {
    fn wrong(&self, reason: String) -> Error {
        Error::Schema {
            text: self.text.to_owned(),
            reason,
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn take(&mut self, wanted: char) -> bool {
        self.skip_spaces();
        if self.rest().starts_with(wanted) {
            self.at += wanted.len_utf8();
            return true;
        }
        false
    }

    fn word(&mut self) -> String {
        self.skip_spaces();
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let end = self.rest().find(|c| !is_part(c));
        let word = self.rest()[..end.unwrap_or(self.rest().len())].to_owned();
        self.at += word.len();
        word
    }

    /// A column's name: a word, or anything between backticks.
    fn name(&mut self) -> Result<String, Error> {
        if self.take('`') {
            let end = self.rest().find('`');
            let end =
                end.ok_or_else(|| self.wrong("a name in backticks doesn't end".to_owned()))?;
            let name = self.rest()[..end].to_owned();
            self.at += end + 1;
            return Ok(name);
        }
        let name = self.word();
        if name.is_empty() {
            return Err(self.wrong(format!("a column's name was expected {}", self.place())));
        }
        Ok(name)
    }

    fn place(&self) -> String {
        match self.rest().split_whitespace().next() {
            Some(found) => format!("where `{found}` is"),
            None => "at the end".to_owned(),
        }
    }

    /// `name type, name type`, or with colons between; until the text ends, or a struct's closing bracket.
    fn fields(&mut self, closing: Option<char>) -> Result<Fields, Error> {
        let mut fields = Vec::new();
        loop {
            let name = self.name()?;
            self.take(':');
            let data_type = self.data_type(&name)?;
            let before = self.at;
            let nullable = if self.word().eq_ignore_ascii_case("NOT") {
                if !self.word().eq_ignore_ascii_case("NULL") {
                    return Err(self.wrong(format!("NULL was expected after NOT of column {name}")));
                }
                // What comes out of files may be null whatever is said.
                true
            } else {
                self.at = before;
                true
            };
            fields.push(Field::new(name, data_type, nullable));
            if self.take(',') {
                continue;
            }
            let is_over = match closing {
                Some(closing) => self.take(closing),
                None => {
                    self.skip_spaces();
                    self.rest().is_empty()
                }
            };
            if is_over {
                return Ok(fields.into());
            }
            return Err(self.wrong(format!("a comma was expected {}", self.place())));
        }
    }

    fn data_type(&mut self, column: &str) -> Result<DataType, Error> {
        let word = self.word();
        let upper = word.to_ascii_uppercase();
        Ok(match upper.as_str() {
            "BOOLEAN" => DataType::Boolean,
            "TINYINT" | "BYTE" => DataType::Int8,
            "SMALLINT" | "SHORT" => DataType::Int16,
            "INT" | "INTEGER" => DataType::Int32,
            "BIGINT" | "LONG" => DataType::Int64,
            "FLOAT" | "REAL" => DataType::Float32,
            "DOUBLE" => DataType::Float64,
            "STRING" => DataType::Utf8,
            "BINARY" => DataType::Binary,
            "DATE" => DataType::Date32,
            "TIMESTAMP" => DataType::Timestamp(TimeUnit::Microsecond, Some(self.zone.into())),
            "TIMESTAMP_NTZ" => DataType::Timestamp(TimeUnit::Microsecond, None),
            "DECIMAL" | "DEC" | "NUMERIC" => self.decimal(column)?,
            "ARRAY" => {
                self.open(column)?;
                let element = self.data_type(column)?;
                self.close(column)?;
                DataType::List(Arc::new(Field::new_list_field(element, true)))
            }
            "MAP" => {
                self.open(column)?;
                let key = self.data_type(column)?;
                if !self.take(',') {
                    return Err(self.wrong(format!(
                        "a comma was expected between the types of map {column}"
                    )));
                }
                let value = self.data_type(column)?;
                self.close(column)?;
                let entries = Fields::from(vec![
                    Field::new("key", key, false),
                    Field::new("value", value, true),
                ]);
                let entries = Field::new("entries", DataType::Struct(entries), false);
                DataType::Map(Arc::new(entries), false)
            }
            "STRUCT" => {
                self.open(column)?;
                DataType::Struct(self.fields(Some('>'))?)
            }
            "" => {
                return Err(self.wrong(format!(
                    "the type of column {column} was expected {}",
                    self.place()
                )));
            }
            _ => {
                let near = TYPES
                    .iter()
                    .min_by_key(|known| strsim::levenshtein(known, &upper))
                    .unwrap_or(&"STRING");
                return Err(self.wrong(format!(
                    "column {column} has type {word}, which isn't one; is {near} meant? There are {}",
                    TYPES.join(", ")
                )));
            }
        })
    }

    fn open(&mut self, column: &str) -> Result<(), Error> {
        if self.take('<') {
            return Ok(());
        }
        Err(self.wrong(format!("`<` was expected in the type of column {column}")))
    }

    fn close(&mut self, column: &str) -> Result<(), Error> {
        if self.take('>') {
            return Ok(());
        }
        Err(self.wrong(format!("`>` was expected in the type of column {column}")))
    }

    fn decimal(&mut self, column: &str) -> Result<DataType, Error> {
        let (mut precision, mut scale) = (10u8, 0i8);
        if self.take('(') {
            let refused = format!(
                "DECIMAL of column {column} has two numbers, such as (10, 2), the first at most 38 and the second not above it"
            );
            let number = self.word().parse();
            precision = number.map_err(|_| self.wrong(refused.clone()))?;
            if self.take(',') {
                let number = self.word().parse();
                scale = number.map_err(|_| self.wrong(refused.clone()))?;
            }
            let fits = (1..=38).contains(&precision) && i16::from(scale) <= i16::from(precision);
            if !self.take(')') || !fits {
                return Err(self.wrong(refused));
            }
        }
        Ok(DataType::Decimal128(precision, scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, DataType)> {
        let schema = text.into_schema("UTC").unwrap();
        let fields = schema.fields().iter();
        fields
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect()
    }

    #[test]
    fn ddl_is_read_as_spark_reads_it() {
        assert_eq!(
            parsed(
                "emp_id INT, emp_name string , `the salary`: DOUBLE NOT NULL,\n at TIMESTAMP, d decimal(12,2), e DECIMAL"
            ),
            [
                ("emp_id".to_owned(), DataType::Int32),
                ("emp_name".to_owned(), DataType::Utf8),
                ("the salary".to_owned(), DataType::Float64),
                (
                    "at".to_owned(),
                    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
                ),
                ("d".to_owned(), DataType::Decimal128(12, 2)),
                ("e".to_owned(), DataType::Decimal128(10, 0)),
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, reason) in [
            ("", "a column's name was expected at the end"),
            ("a", "the type of column a was expected at the end"),
            (
                "a INTT",
                "column a has type INTT, which isn't one; is INT meant?",
            ),
            ("a INT b STRING", "a comma was expected where `b` is"),
            ("a INT, a STRING", "column a is there twice"),
            ("`a INT", "a name in backticks doesn't end"),
            ("a DECIMAL(39)", "at most 38"),
            ("a INT NOT", "NULL was expected after NOT of column a"),
            ("a INT,", "a column's name was expected at the end"),
        ] {
            let error = text.into_schema("UTC").unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
