//! Reading streams, and what doesn't grow.

use std::{
    collections::HashMap,
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use millstream_common::working_folder;

use crate::{
    ddl::IntoSchema,
    error::Error,
    frame::DataFrame,
    options::Options,
    session::Session,
    sources::{
        SourceSpec, convert,
        csv::CsvOptions,
        files::{Configured, FileSource, Format, Mode},
        json,
        kafka::KafkaSource,
        memory::MemoryRows,
        pattern::{Pattern, Patterns},
        rate::RateSource,
    },
    table::{StreamSource, StreamTable},
};

/// What rows are read from; made by [`Session::read_stream`] and [`Session::read`].
pub struct DataStreamReader {
    session: Session,
    format: Option<String>,
    schema: Option<Result<SchemaRef, Error>>,
    options: Options,
    grows: bool,
}

const FORMATS: &str = "csv, json, kafka, parquet, rate and text";

impl DataStreamReader {
    pub(crate) fn new(session: Session, grows: bool) -> Self {
        Self {
            session,
            format: None,
            schema: None,
            options: Options::default(),
            grows,
        }
    }

    /// What is read: `csv`, `json`, `kafka`, `parquet`, `rate` or `text`.
    #[must_use]
    pub fn format(mut self, format: &str) -> Self {
        self.format = Some(format.to_owned());
        self
    }

    /// The columns: an Arrow schema, or DDL text such as `emp_id INT, emp_name STRING`.
    #[must_use]
    pub fn schema(mut self, schema: impl IntoSchema) -> Self {
        self.schema = Some(schema.into_schema(self.session.zone_name()));
        self
    }

    /// Sets an option of the format, by Spark's name or the same in snake case.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl Display) -> Self {
        self.options.set(name, &value);
        self
    }

    /// Sets options.
    #[must_use]
    pub fn options<'a>(mut self, options: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        for (name, value) in options {
            self.options.set(name, &value);
        }
        self
    }

    /// The CSV files of a folder.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn csv(self, folder: &str) -> Result<DataFrame, Error> {
        self.format("csv").load_from(folder)
    }

    /// The JSON files of a folder, an object a line.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn json(self, folder: &str) -> Result<DataFrame, Error> {
        self.format("json").load_from(folder)
    }

    /// The Parquet files of a folder.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parquet(self, folder: &str) -> Result<DataFrame, Error> {
        self.format("parquet").load_from(folder)
    }

    /// The lines of the files of a folder, in a column `value`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn text(self, folder: &str) -> Result<DataFrame, Error> {
        self.format("text").load_from(folder)
    }

    /// The rows of this folder.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_from(self, folder: &str) -> Result<DataFrame, Error> {
        self.option("path", folder).load()
    }

    /// The rows. Nothing is read before a query starts. Files are those of the option `path`.
    ///
    /// # Errors
    /// A format, option or schema that isn't one.
    pub fn load(mut self) -> Result<DataFrame, Error> {
        let Some(format) = self.format.take() else {
            return Err(Error::option(
                "format",
                "",
                format!("say what is read; there are {FORMATS}"),
            ));
        };
        let schema = self.schema.take().transpose()?;
        let zone = self.session.zone_name().to_owned();
        let has_own_columns = |schema: Option<SchemaRef>| match schema {
            None => Ok(()),
            Some(_) => Err(Error::refused(
                format!("format {format} has columns of its own"),
                "leave the schema out",
            )),
        };
        let (spec, schema) = match format.to_ascii_lowercase().as_str() {
            "csv" => self.csv_source(schema)?,
            "json" => self.json_source(schema)?,
            "parquet" => self.parquet_source(schema)?,
            "text" => self.text_source(schema)?,
            "kafka" => {
                has_own_columns(schema)?;
                let config = self.session.config();
                let (source, schema) =
                    KafkaSource::of(&mut self.options, &zone, self.grows, config)?;
                (SourceSpec::Kafka(source), schema)
            }
            "rate" => {
                has_own_columns(schema)?;
                let (source, schema) = RateSource::of(&mut self.options, &zone)?;
                (SourceSpec::Rate(source), schema)
            }
            _ => {
                return Err(Error::option(
                    "format",
                    &format,
                    format!("rows are read from {FORMATS}"),
                ));
            }
        };
        frame_of(&self.session, spec, schema, None, self.grows)
    }

    fn files(&mut self, format: Format, known: &[&str]) -> Result<SourceSpec, Error> {
        let mode = match self.options.take("mode") {
            None => Mode::default(),
            Some(mode) => match mode.to_ascii_uppercase().as_str() {
                "PERMISSIVE" => Mode::Permissive,
                "DROPMALFORMED" => Mode::DropMalformed,
                "FAILFAST" => Mode::FailFast,
                _ => {
                    return Err(Error::option(
                        "mode",
                        &mode,
                        "it is PERMISSIVE, DROPMALFORMED or FAILFAST",
                    ));
                }
            },
        };
        let most = self
            .options
            .take_number::<u32>("maxFilesPerTrigger", "a number of files, at least 1")?;
        if most == Some(0) {
            return Err(Error::option("maxFilesPerTrigger", "0", "it is at least 1"));
        }
        let folder = self
            .options
            .take("path")
            .ok_or_else(|| Error::option("path", "", "say in which folder the files are"))?;
        let ignore_missing_files = self.options.take_bool("ignoreMissingFiles")?;
        let ignore_corrupt_files = self.options.take_bool("ignoreCorruptFiles")?;
        let patterns = Patterns {
            date: self.pattern("dateFormat")?,
            timestamp: self.pattern("timestampFormat")?,
        };
        let kind = format.kind();
        let mut all = vec![
            "path",
            "mode",
            "maxFilesPerTrigger",
            "ignoreMissingFiles",
            "ignoreCorruptFiles",
        ];
        all.extend(known);
        self.options.all_taken(kind, &all)?;
        Ok(SourceSpec::Files(FileSource {
            format,
            folder: path_of(&folder)?,
            mode,
            max_files_per_trigger: most,
            ignore_missing_files,
            ignore_corrupt_files: ignore_corrupt_files.unwrap_or(false),
            configured: Configured::of(self.session.config()),
            patterns,
        }))
    }

    fn pattern(&mut self, name: &str) -> Result<Option<Pattern>, Error> {
        let Some(text) = self.options.take(name) else {
            return Ok(None);
        };
        match Pattern::parse(&text) {
            Ok(pattern) => Ok(Some(pattern)),
            Err(reason) => Err(Error::option(name, &text, reason)),
        }
    }

    fn csv_source(&mut self, schema: Option<SchemaRef>) -> Result<(SourceSpec, SchemaRef), Error> {
        let schema = schema.ok_or_else(no_schema)?;
        for field in schema.fields() {
            convert::check_type(field.name(), field.data_type())?;
        }
        let mut csv = CsvOptions::default();
        let options = &mut self.options;
        csv.header = options.take_bool("header")?.unwrap_or(csv.header);
        let enforces = options.take_bool("enforceSchema")?;
        csv.enforce_schema = enforces.unwrap_or(csv.enforce_schema);
        let separator = match options.take_char("sep")? {
            None => options.take_char("delimiter")?,
            given => given,
        };
        csv.separator = match separator {
            None => csv.separator,
            Some(Some(separator)) => separator,
            Some(None) => return Err(Error::option("sep", "", "it is one letter")),
        };
        csv.quote = options.take_char("quote")?.unwrap_or(csv.quote);
        csv.escape = options.take_char("escape")?.unwrap_or(csv.escape);
        csv.comment = options.take_char("comment")?.unwrap_or(csv.comment);
        csv.null_value = options.take("nullValue").unwrap_or_default();
        csv.empty_value = options.take("emptyValue").unwrap_or_default();
        let trim_start = options.take_bool("ignoreLeadingWhiteSpace")?;
        csv.trim_start = trim_start.unwrap_or_default();
        let trim_end = options.take_bool("ignoreTrailingWhiteSpace")?;
        csv.trim_end = trim_end.unwrap_or_default();
        let known = [
            "header",
            "enforceSchema",
            "sep",
            "delimiter",
            "quote",
            "escape",
            "comment",
            "nullValue",
            "emptyValue",
            "ignoreLeadingWhiteSpace",
            "ignoreTrailingWhiteSpace",
            "dateFormat",
            "timestampFormat",
        ];
        Ok((self.files(Format::Csv(csv), &known)?, schema))
    }

    fn json_source(&mut self, schema: Option<SchemaRef>) -> Result<(SourceSpec, SchemaRef), Error> {
        let schema = schema.ok_or_else(no_schema)?;
        for field in schema.fields() {
            json::check_type(field.name(), field.data_type())?;
        }
        let source = self.files(Format::Json, &["dateFormat", "timestampFormat"])?;
        Ok((source, schema))
    }

    fn parquet_source(
        &mut self,
        schema: Option<SchemaRef>,
    ) -> Result<(SourceSpec, SchemaRef), Error> {
        let schema = schema.ok_or_else(no_schema)?;
        Ok((self.files(Format::Parquet, &[])?, schema))
    }

    fn text_source(&mut self, schema: Option<SchemaRef>) -> Result<(SourceSpec, SchemaRef), Error> {
        let own = Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8, true)]));
        if schema.is_some_and(|schema| schema != own) {
            return Err(Error::refused(
                "text files have the one column `value STRING`",
                "leave the schema out",
            ));
        }
        Ok((self.files(Format::Text, &[])?, own))
    }
}

fn no_schema() -> Error {
    Error::refused(
        "schema must be specified when creating a streaming source of files",
        "give it with schema(\"name TYPE, ..\")",
    )
}

pub(crate) fn frame_of(
    session: &Session,
    spec: SourceSpec,
    schema: SchemaRef,
    rows: Option<MemoryRows>,
    grows: bool,
) -> Result<DataFrame, Error> {
    // What else is said of a column isn't the engine's: of a union it would have to be alike.
    let fields = schema.fields().iter();
    let bare = |field: &Arc<Field>| field.as_ref().clone().with_metadata(HashMap::new());
    let schema = Arc::new(Schema::new(fields.map(bare).collect::<Vec<_>>()));
    let source = Arc::new(StreamSource {
        spec,
        schema,
        rows,
        grows,
    });
    let context = session.context();
    let inner = context.read_table(Arc::new(StreamTable(source)))?;
    Ok(DataFrame::new(session.clone(), inner))
}

/// A stream whose rows the program gives, for tests; made by [`Session::memory_stream`]. Its rows are not there any more when the program starts again.
#[derive(Clone)]
pub struct MemoryStream {
    schema: SchemaRef,
    rows: MemoryRows,
    frame: DataFrame,
}

impl MemoryStream {
    pub(crate) fn new(session: &Session, schema: SchemaRef) -> Result<Self, Error> {
        let rows = MemoryRows::default();
        let given = Some(rows.clone());
        let frame = frame_of(
            session,
            SourceSpec::Memory,
            Arc::clone(&schema),
            given,
            true,
        )?;
        Ok(Self {
            schema,
            rows,
            frame,
        })
    }

    /// Adds rows; the next batch takes them.
    ///
    /// # Errors
    /// When they have other columns.
    pub fn add_data(&self, rows: &RecordBatch) -> Result<(), Error> {
        self.rows.add(&self.schema, rows)
    }

    /// The stream.
    pub fn to_df(&self) -> DataFrame {
        self.frame.clone()
    }
}

/// The absolute path of a folder: the same for executors, wherever they were started.
pub(crate) fn path_of(folder: &str) -> Result<String, Error> {
    let path = match folder.split_once("://") {
        Some(("file", path)) => path,
        Some((scheme, _)) => {
            return Err(Error::option(
                "path",
                folder,
                format!("{scheme}:// is not known here; give a folder that every executor has"),
            ));
        }
        None => match folder.strip_prefix("file:") {
            Some(path) if path.starts_with('/') => path,
            _ => folder,
        },
    };
    let absolute = working_folder::absolute(Path::new(path))
        .map_err(|error| Error::option("path", folder, error.to_string()))?;
    // Without a slash at the end, which says nothing.
    let absolute: PathBuf = absolute.components().collect();
    match absolute.to_str() {
        Some(path) => Ok(path.to_owned()),
        None => Err(Error::option("path", folder, "it isn't UTF-8")),
    }
}
