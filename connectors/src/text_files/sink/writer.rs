//! The executor half: an attempt writes one file to a place of its own.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use millstream_common::{
    failpoint,
    failure::{Failure, FailureKind},
    protocol::SinkCommit,
};
use millstream_dataflow::program::TaskContext;
use xxhash_rust::xxh3::Xxh3;

use super::{
    Settings, StagedFile, TextRows, foreign,
    layout::{Layout, PrefixError, part_name, sync_folder},
    refused,
};
use crate::sink::{Sink, SinkWriter, WriteId};

/// Bytes gathered before they are written.
const WRITE_BUFFER: usize = 256 << 10;

/// Writes rows to staged files.
#[derive(Debug)]
pub struct TextFileSink {
    layout: Layout,
    fsync: bool,
}

impl TextFileSink {
    /// The executor half.
    ///
    /// # Errors
    /// When the prefix is none.
    pub fn new(settings: &Settings) -> Result<Self, PrefixError> {
        Ok(Self {
            layout: Layout::new(settings)?,
            fsync: settings.fsync,
        })
    }
}

impl Sink<TextRows> for TextFileSink {
    fn writer(
        &self,
        id: WriteId,
        task: &TaskContext<'_>,
    ) -> Result<Box<dyn SinkWriter<TextRows>>, Failure> {
        // A batch is published after it committed, and then no attempt of it is of use any more.
        let folder = self.layout.folder(task.batch_time);
        if !is_vacant(&folder).map_err(|error| refused("look into", &folder, &error))? {
            return Err(foreign(
                &folder,
                "it is not empty before the batch is written",
            ));
        }
        let staged = self.layout.attempt(&id);
        let attempt = self.layout.parent.join(&staged);
        fs::create_dir_all(&attempt).map_err(|error| refused("make", &attempt, &error))?;
        let name = part_name(id.partition);
        let path = attempt.join(&name);
        let file = File::create_new(&path).map_err(|error| refused("make", &path, &error))?;
        Ok(Box::new(Writer {
            file: BufWriter::with_capacity(WRITE_BUFFER, file),
            parent: self.layout.parent.clone(),
            fsync: self.fsync,
            partition: id.partition,
            name,
            staged,
            hash: Box::default(),
            length: 0,
            rows: 0,
            finished: false,
        }))
    }
}

/// Whether nothing, or an empty folder, is there.
fn is_vacant(folder: &Path) -> io::Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(error),
    }
}

struct Writer {
    file: BufWriter<File>,
    parent: PathBuf,
    fsync: bool,
    partition: u32,
    /// The file's name.
    name: String,
    /// The attempt's folder, below `parent`.
    staged: PathBuf,
    hash: Box<Xxh3>,
    length: u64,
    rows: u64,
    finished: bool,
}

impl SinkWriter<TextRows> for Writer {
    fn write(&mut self, chunk: TextRows, task: &mut TaskContext<'_>) -> Result<(), Failure> {
        task.cancel.check()?;
        let bytes = chunk.text.as_bytes();
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        self.rows += chunk.rows;
        let written = self.file.write_all(bytes);
        written.map_err(|error| refused("write", &self.path(), &error))
    }

    fn finish(mut self: Box<Self>, _task: &mut TaskContext<'_>) -> Result<SinkCommit, Failure> {
        failpoint!("sink.files.before_finish", partition = self.partition);
        let path = self.path();
        let flushed = self.file.flush();
        flushed.map_err(|error| refused("write", &path, &error))?;
        if self.fsync {
            let synced = self.file.get_ref().sync_all();
            synced.map_err(|error| refused("force to the disk", &path, &error))?;
            self.sync_folders()?;
        }
        let checksum = self.hash.digest();
        let file = StagedFile {
            name: self.name.clone(),
            staged: self.staged.join(&self.name).to_string_lossy().into_owned(),
            length: self.length,
            checksum,
        };
        let payload = serde_json::to_value(file).map_err(|error| {
            Failure::caused_by(
                FailureKind::Internal,
                "a staged file can't be written down",
                &error,
            )
        })?;
        self.finished = true;
        Ok(SinkCommit {
            partition: self.partition,
            rows: self.rows,
            checksum,
            payload,
        })
    }
}

impl Writer {
    fn path(&self) -> PathBuf {
        self.parent.join(&self.staged).join(&self.name)
    }

    /// Forces to the disk what names the file: the attempt's folder, the batch's, and the output's, which the driver half made lasting.
    fn sync_folders(&self) -> Result<(), Failure> {
        for folder in self.staged.ancestors().take(3) {
            let folder = self.parent.join(folder);
            let synced = sync_folder(&folder);
            synced.map_err(|error| refused("force to the disk", &folder, &error))?;
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let attempt = self.parent.join(&self.staged);
        if let Err(error) = fs::remove_dir_all(&attempt) {
            tracing::debug!(folder = %attempt.display(), %error, "what an attempt staged is left for the next sweep");
        }
    }
}
