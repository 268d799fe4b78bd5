//! The executor half: an attempt writes files to a place of its own, one for each folder that its rows go to.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::PathBuf,
    sync::Arc,
};

use arrow::{
    array::{Array, UInt32Array},
    compute::take_record_batch,
    datatypes::SchemaRef,
    record_batch::RecordBatch,
};
use jiff::tz::TimeZone;
use millstream_common::{
    failpoint,
    failure::{Failure, FailureKind, Retry},
    protocol::SinkCommit,
};
use millstream_connectors::{
    sink::WriteId,
    text_files::sink::{StagedFile, refused, sync_folder},
};
use millstream_dataflow::program::TaskContext;
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use xxhash_rust::xxh3::Xxh3;

use super::{FileFormat, FileSink, Staged, rows, split_columns};
use crate::{
    error::{Error, task_failure},
    show::cell_text,
};

/// Folders that one task may write to at a time.
const MOST_FOLDERS: usize = 10_000;
/// What file systems of Linux take as a name, and as a path.
const MOST_NAME_BYTES: usize = 255;
const MOST_PATH_BYTES: usize = 4_095;

/// One attempt's write.
pub(crate) struct FilesWriter {
    sink: Arc<FileSink>,
    id: WriteId,
    zone: TimeZone,
    schema: SchemaRef,
    in_files: Vec<usize>,
    in_folders: Vec<usize>,
    /// By folder below the sink's.
    open: BTreeMap<String, OpenFile>,
    rows: u64,
    is_finished: bool,
}

struct OpenFile {
    name: String,
    path: PathBuf,
    content: Content,
}

enum Content {
    Lines(Counted),
    Parquet(Box<ArrowWriter<Counted>>),
}

/// A file whose bytes are counted and summed up.
struct Counted {
    file: BufWriter<File>,
    length: u64,
    hash: Box<Xxh3>,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.length += written as u64;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn parquet_failure(path: &std::path::Path, error: &dyn std::error::Error) -> Failure {
    Failure::caused_by(
        FailureKind::Io,
        format!("can't write {}", path.display()),
        error,
    )
    .with_code("sink.io")
}

impl FilesWriter {
    pub(crate) fn new(
        sink: &Arc<FileSink>,
        schema: &SchemaRef,
        zone: &TimeZone,
        task: &TaskContext<'_>,
    ) -> Self {
        let (in_files, in_folders) = split_columns(schema, &sink.partition_by);
        Self {
            id: WriteId::of(task, &sink.output),
            sink: Arc::clone(sink),
            zone: zone.clone(),
            schema: Arc::clone(schema),
            in_files,
            in_folders,
            open: BTreeMap::new(),
            rows: 0,
            is_finished: false,
        }
    }

    pub(crate) fn write(
        &mut self,
        batch: &RecordBatch,
        task: &mut TaskContext<'_>,
    ) -> Result<(), Failure> {
        task.cancel.check()?;
        self.rows += batch.num_rows() as u64;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let mut folders: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        if self.in_folders.is_empty() {
            return self.append(String::new(), batch);
        }
        for row in 0..batch.num_rows() {
            let folder = self.folder(batch, row).map_err(task_failure)?;
            let rows = folders.entry(folder).or_default();
            rows.push(u32::try_from(row).unwrap_or(u32::MAX));
        }
        for (folder, rows) in folders {
            let part = take_record_batch(batch, &UInt32Array::from(rows));
            self.append(folder, &part.map_err(|error| task_failure(error.into()))?)?;
        }
        Ok(())
    }

    /// `day=2026-11-22/job=CLERK`.
    fn folder(&self, batch: &RecordBatch, row: usize) -> Result<String, Error> {
        let mut folder = String::new();
        for column in &self.in_folders {
            if !folder.is_empty() {
                folder.push('/');
            }
            folder.push_str(&escaped(self.schema.field(*column).name()));
            folder.push('=');
            let values = batch.column(*column);
            let text = match values.is_null(row) {
                true => String::new(),
                false => cell_text(values.as_ref(), row, &self.zone)?,
            };
            match text.is_empty() {
                true => folder.push_str("__HIVE_DEFAULT_PARTITION__"),
                false => folder.push_str(&escaped(&text)),
            }
        }
        Ok(folder)
    }

    /// Folders are made when the batch has committed: what no file system takes must be told before.
    fn check_length(&self, folder: &str, file_name: &str) -> Result<(), Failure> {
        let longest = folder.split('/').max_by_key(|name| name.len());
        let longest = longest.unwrap_or_default();
        let path = self.sink.folder.as_os_str().len() + folder.len() + file_name.len() + 2;
        if longest.len() <= MOST_NAME_BYTES && path <= MOST_PATH_BYTES {
            return Ok(());
        }
        let shown: String = longest.chars().take(60).collect();
        Err(Failure::new(
            FailureKind::UserCode,
            format!(
                "a value of partition_by makes a folder's name of {} bytes and a path of {path}, but a file system takes {MOST_NAME_BYTES} and {MOST_PATH_BYTES}: `{shown}..`; partition by something shorter, such as a hash of it, or leave such rows out",
                longest.len()
            ),
        )
        .with_code("sink.long_name")
        .with_retry(Retry::Never))
    }

    fn append(&mut self, folder: String, rows: &RecordBatch) -> Result<(), Failure> {
        let rows = rows.project(&self.in_files);
        let rows = rows.map_err(|error| task_failure(error.into()))?;
        if !self.open.contains_key(&folder) {
            let opened = self.open_file(&folder, &rows)?;
            self.open.insert(folder.clone(), opened);
        }
        let Some(open) = self.open.get_mut(&folder) else {
            return Ok(());
        };
        match &mut open.content {
            Content::Lines(file) => {
                let mut text = String::new();
                rows::lines(&self.sink.format, &rows, &self.zone, &mut text)
                    .map_err(task_failure)?;
                let written = file.write_all(text.as_bytes());
                written.map_err(|error| refused("write", &open.path, &error))
            }
            Content::Parquet(writer) => writer
                .write(&rows)
                .map_err(|error| parquet_failure(&open.path, &error)),
        }
    }

    fn open_file(&self, folder: &str, rows: &RecordBatch) -> Result<OpenFile, Failure> {
        let number = self.open.len();
        if number >= MOST_FOLDERS {
            return Err(Failure::new(
                FailureKind::UserCode,
                format!(
                    "a task's rows go to more than {MOST_FOLDERS} folders; partition by columns with fewer values"
                ),
            ));
        }
        let file_name = self.sink.file_name(&self.id, number);
        self.check_length(folder, &file_name)?;
        let attempt = self.sink.folder.join(self.sink.attempt(&self.id));
        fs::create_dir_all(&attempt).map_err(|error| refused("make", &attempt, &error))?;
        let path = attempt.join(&file_name);
        let file = File::create_new(&path).map_err(|error| refused("make", &path, &error))?;
        let mut file = Counted {
            file: BufWriter::with_capacity(256 << 10, file),
            length: 0,
            hash: Box::default(),
        };
        let content = if self.sink.format == FileFormat::Parquet {
            let properties = WriterProperties::builder()
                .set_compression(Compression::SNAPPY)
                .build();
            let writer = ArrowWriter::try_new(file, rows.schema(), Some(properties))
                .map_err(|error| parquet_failure(&path, &error))?;
            Content::Parquet(Box::new(writer))
        } else {
            let mut header = String::new();
            rows::header(&self.sink.format, rows, &mut header);
            let written = file.write_all(header.as_bytes());
            written.map_err(|error| refused("write", &path, &error))?;
            Content::Lines(file)
        };
        let name = match folder.is_empty() {
            true => file_name,
            false => format!("{folder}/{file_name}"),
        };
        Ok(OpenFile {
            name,
            path,
            content,
        })
    }

    /// Makes what was written durable.
    pub(crate) fn finish(mut self, _task: &mut TaskContext<'_>) -> Result<SinkCommit, Failure> {
        failpoint!(
            "sink.files.before_finish",
            batch = self.id.batch,
            partition = self.id.partition
        );
        let staged = self.sink.attempt(&self.id);
        let mut files = Vec::new();
        let mut sum = Xxh3::new();
        for (_, open) in std::mem::take(&mut self.open) {
            let path = open.path;
            let counted = match open.content {
                Content::Lines(mut file) => {
                    let flushed = file.flush();
                    flushed.map_err(|error| refused("write", &path, &error))?;
                    file
                }
                Content::Parquet(writer) => {
                    let mut file = writer
                        .into_inner()
                        .map_err(|error| parquet_failure(&path, &error))?;
                    let flushed = file.flush();
                    flushed.map_err(|error| refused("write", &path, &error))?;
                    file
                }
            };
            if self.sink.fsync {
                let synced = counted.file.get_ref().sync_all();
                synced.map_err(|error| refused("force to the disk", &path, &error))?;
            }
            let checksum = counted.hash.digest();
            sum.update(open.name.as_bytes());
            sum.update(&checksum.to_le_bytes());
            let file_name = path.file_name().unwrap_or_default();
            files.push(StagedFile {
                name: open.name,
                staged: staged.join(file_name).to_string_lossy().into_owned(),
                length: counted.length,
                checksum,
            });
        }
        if self.sink.fsync && !files.is_empty() {
            for folder in staged.ancestors().take(3) {
                let folder = self.sink.folder.join(folder);
                let synced = sync_folder(&folder);
                synced.map_err(|error| refused("force to the disk", &folder, &error))?;
            }
        }
        self.is_finished = true;
        let payload = serde_json::to_value(Staged { files }).map_err(|error| {
            Failure::caused_by(
                FailureKind::Internal,
                "staged files can't be written down",
                &error,
            )
        })?;
        Ok(SinkCommit {
            partition: self.id.partition,
            rows: self.rows,
            checksum: sum.digest(),
            payload,
        })
    }
}

impl Drop for FilesWriter {
    fn drop(&mut self) {
        if self.is_finished || self.open.is_empty() {
            return;
        }
        let attempt = self.sink.folder.join(self.sink.attempt(&self.id));
        if let Err(error) = fs::remove_dir_all(&attempt) {
            tracing::debug!(folder = %attempt.display(), %error, "what an attempt staged is left for the next sweep");
        }
    }
}

/// A name of a folder, with what names may not hold written as `%3A`, as in Spark.
fn escaped(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for letter in text.chars() {
        let is_special = letter.is_control()
            || matches!(
                letter,
                '"' | '#' | '%' | '\'' | '*' | '/' | ':' | '=' | '?' | '\\' | '{' | '[' | ']' | '^'
            );
        if is_special {
            name.push_str(&format!("%{:02X}", u32::from(letter)));
        } else {
            name.push(letter);
        }
    }
    // `.` and `..` mean something else.
    if name.chars().all(|letter| letter == '.') {
        return name.replace('.', "%2E");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders_hold_nothing_that_means_something_else() {
        assert_eq!(escaped("2026-11-22 10:00:00"), "2026-11-22 10%3A00%3A00");
        assert_eq!(escaped("a/b=c"), "a%2Fb%3Dc");
        assert_eq!(escaped(".."), "%2E%2E");
    }
}
