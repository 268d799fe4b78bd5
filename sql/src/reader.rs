//! Reading streams.

use std::{collections::BTreeMap, fmt::Display, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::{
    ddl::IntoSchema,
    error::Error,
    frame::DataFrame,
    session::Session,
    sources::{
        SourceSpec, convert,
        csv::CsvOptions,
        files::{FileSource, Format, Mode},
    },
    table::{StreamSource, StreamTable},
};

/// What a stream is read from; made by [`Session::read_stream`].
pub struct DataStreamReader {
    session: Session,
    format: Option<String>,
    schema: Option<Result<SchemaRef, Error>>,
    options: Options,
}

/// Options by name; names know no case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options(BTreeMap<String, (String, String)>);

impl Options {
    pub(crate) fn set(&mut self, name: &str, value: &dyn Display) {
        let folded = folded(name);
        self.0.insert(folded, (name.to_owned(), value.to_string()));
    }

    /// Takes a value out.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(&folded(name)).map(|(_, value)| value)
    }

    pub(crate) fn take_bool(&mut self, name: &str) -> Result<Option<bool>, Error> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match value.to_ascii_lowercase().as_str() {
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => Err(Error::option(name, &value, "it is true or false")),
        }
    }

    pub(crate) fn take_char(&mut self, name: &str) -> Result<Option<Option<char>>, Error> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let mut letters = value.chars();
        match (letters.next(), letters.next()) {
            (first, None) => Ok(Some(first)),
            (Some('\\'), Some('t')) if value.len() == 2 => Ok(Some(Some('\t'))),
            _ => Err(Error::option(name, &value, "it is one letter")),
        }
    }

    pub(crate) fn take_number<T: std::str::FromStr>(
        &mut self,
        name: &str,
        what: &str,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = value.trim().parse();
        number
            .map(Some)
            .map_err(|_| Error::option(name, &value, format!("it is {what}")))
    }

    /// Everything must have been taken: a name that means nothing is told with the nearest that does.
    pub(crate) fn all_taken(&self, format: &str, known: &[&str]) -> Result<(), Error> {
        let Some((name, value)) = self.0.values().next() else {
            return Ok(());
        };
        let near = known
            .iter()
            .min_by_key(|known| strsim::levenshtein(&folded(known), &folded(name)));
        let hint = match near {
            Some(near) => format!(
                "format {format} has no such option; is {near} meant? There are {}",
                known.join(", ")
            ),
            None => format!("format {format} has no options"),
        };
        Err(Error::option(name, value, hint))
    }
}

/// `maxFilesPerTrigger` and `max_files_per_trigger` are one.
fn folded(name: &str) -> String {
    name.replace('_', "").to_ascii_lowercase()
}

const FORMATS: &str = "csv and text";

impl DataStreamReader {
    pub(crate) fn new(session: Session) -> Self {
        Self {
            session,
            format: None,
            schema: None,
            options: Options::default(),
        }
    }

    /// What is read: `csv` or `text`.
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
        self.format("csv").load(folder)
    }

    /// The lines of the files of a folder, in a column `value`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn text(self, folder: &str) -> Result<DataFrame, Error> {
        self.format("text").load(folder)
    }

    /// The stream. Nothing is read before a query starts.
    ///
    /// # Errors
    /// A format, option or schema that isn't one.
    pub fn load(mut self, folder: &str) -> Result<DataFrame, Error> {
        let Some(format) = self.format.take() else {
            return Err(Error::option(
                "format",
                "",
                format!("say what is read; there are {FORMATS}"),
            ));
        };
        let schema = self.schema.take().transpose()?;
        let (spec, schema) = match format.to_ascii_lowercase().as_str() {
            "csv" => self.csv_source(folder, schema)?,
            "text" => self.text_source(folder, schema)?,
            _ => {
                return Err(Error::option(
                    "format",
                    &format,
                    format!("streams are read from {FORMATS}"),
                ));
            }
        };
        let source = Arc::new(StreamSource {
            spec: SourceSpec::Files(spec),
            schema,
            number: self.session.next_number(),
        });
        let context = self.session.context();
        let inner = context.read_table(Arc::new(StreamTable(source)))?;
        Ok(DataFrame::new(self.session, inner))
    }

    fn files(&mut self, folder: &str, format: Format) -> Result<FileSource, Error> {
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
        Ok(FileSource {
            format,
            folder: path_of(folder)?,
            mode,
            max_files_per_trigger: most,
        })
    }

    fn csv_source(
        &mut self,
        folder: &str,
        schema: Option<SchemaRef>,
    ) -> Result<(FileSource, SchemaRef), Error> {
        let Some(schema) = schema else {
            return Err(Error::refused(
                "schema must be specified when creating a streaming source of files",
                "give it with schema(\"name TYPE, ..\")",
            ));
        };
        for field in schema.fields() {
            convert::check_type(field.name(), field.data_type())?;
        }
        let mut csv = CsvOptions::default();
        let options = &mut self.options;
        csv.header = options.take_bool("header")?.unwrap_or(csv.header);
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
        let trim_start = options.take_bool("ignoreLeadingWhiteSpace")?;
        csv.trim_start = trim_start.unwrap_or_default();
        let trim_end = options.take_bool("ignoreTrailingWhiteSpace")?;
        csv.trim_end = trim_end.unwrap_or_default();
        let files = self.files(folder, Format::Csv(csv))?;
        self.options.all_taken(
            "csv",
            &[
                "header",
                "sep",
                "delimiter",
                "quote",
                "escape",
                "comment",
                "nullValue",
                "ignoreLeadingWhiteSpace",
                "ignoreTrailingWhiteSpace",
                "mode",
                "maxFilesPerTrigger",
            ],
        )?;
        Ok((files, schema))
    }

    fn text_source(
        &mut self,
        folder: &str,
        schema: Option<SchemaRef>,
    ) -> Result<(FileSource, SchemaRef), Error> {
        let own = Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8, true)]));
        if schema.is_some_and(|schema| schema != own) {
            return Err(Error::refused(
                "text files have the one column `value STRING`",
                "leave the schema out",
            ));
        }
        let files = self.files(folder, Format::Text)?;
        self.options
            .all_taken("text", &["mode", "maxFilesPerTrigger"])?;
        Ok((files, own))
    }
}

/// The absolute path of a folder: the same for executors, wherever they were started.
fn path_of(folder: &str) -> Result<String, Error> {
    let path = match folder.split_once("://") {
        Some(("file", path)) => path,
        Some((scheme, _)) => {
            return Err(Error::option(
                "path",
                folder,
                format!("{scheme}:// is not read from; give a folder that every executor has"),
            ));
        }
        None => folder,
    };
    let absolute = std::path::absolute(path)
        .map_err(|error| Error::option("path", folder, error.to_string()))?;
    match absolute.to_str() {
        Some(path) => Ok(path.to_owned()),
        None => Err(Error::option("path", folder, "it isn't UTF-8")),
    }
}
