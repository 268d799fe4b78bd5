//! Text files as streams, and streams as text files.

use std::{path::Path, sync::Arc};

use millstream_common::{
    failure::{Failure, FailureKind, Fault, Retry},
    protocol::SinkCommit,
    text::Text,
};
use millstream_connectors::{
    sink::{Sink, SinkWriter, WriteId},
    source::SourceDriver,
    text_files::{
        is_relative,
        sink::{self, TextRows},
        source::{self, TextFileDriver, TextFileSplits},
    },
};
use millstream_dataflow::{combine::Data, program::TaskContext, task::codec_failure};
use xxhash_rust::xxh3::xxh3_64;

use crate::{context::StreamingContext, display, outputs::Output, stream::DStream};

impl StreamingContext {
    /// The lines of text files that appear in a folder (or in folders matching a glob) from the start on. A file must appear whole, by a rename;
    /// hidden ones are passed over, and each is read once. A relative folder is below the one in which the driver was first started.
    ///
    /// # Errors
    /// When the glob is none.
    pub fn text_file_stream(&self, directory: impl AsRef<Path>) -> Result<DStream<Text>, Failure> {
        self.text_files(source::Settings::of_config(
            directory.as_ref().to_string_lossy(),
            self.config(),
        ))
    }

    /// The same with settings of its own, such as `existing_files`.
    ///
    /// # Errors
    /// When the glob is none.
    pub fn text_files(&self, mut settings: source::Settings) -> Result<DStream<Text>, Failure> {
        if is_relative(&settings.directory) && settings.relative_to.is_none() {
            settings.relative_to = Some(self.working_folder()?);
        }
        let settings = Arc::new(settings);
        let fingerprint = settings.fingerprint();
        let splits = Arc::new(TextFileSplits::new(Arc::clone(&settings)));
        let clock = self.clock();
        let made = TextFileDriver::new(Arc::clone(&settings), Arc::clone(&clock));
        made.map_err(|error| unusable(&error))?;
        let driver = Arc::new(move || {
            let driver = TextFileDriver::new(Arc::clone(&settings), Arc::clone(&clock));
            let driver = driver.map_err(|error| unusable(&error))?;
            Ok(Box::new(driver) as Box<dyn SourceDriver>)
        });
        Ok(self.source("text-files", fingerprint, driver, splits))
    }
}

impl<T: Data> DStream<T> {
    /// Saves every batch as text files in a folder `PREFIX-<batch time in ms>`, a part a partition and `_SUCCESS`; rows as Scala prints them. Readers
    /// see each batch once and whole. The prefix is a path, or `s3://bucket/prefix` with the feature `s3`. A relative path is below the folder in which the
    /// driver was first started, on executors and after a restart too.
    ///
    /// # Errors
    /// When the prefix can't be one.
    pub fn save_as_text_files(&self, prefix: impl AsRef<Path>) -> Result<Output, Failure> {
        self.save_as_text_files_with(prefix, "")
    }

    /// The same with `.SUFFIX` after the batch time.
    ///
    /// # Errors
    /// When prefix or suffix can't be one.
    pub fn save_as_text_files_with(
        &self,
        prefix: impl AsRef<Path>,
        suffix: &str,
    ) -> Result<Output, Failure> {
        let prefix = prefix.as_ref().to_string_lossy().into_owned();
        // Staging is kept apart by where the output goes, which no two outputs may share.
        let place = format!(
            "text-files-{:016x}",
            xxh3_64(format!("{prefix}\0{suffix}").as_bytes())
        );
        let (config, recorded) = {
            let graph = self.graph.lock();
            (graph.config.clone(), graph.recorded.clone())
        };
        let mut settings = sink::Settings::of_config(place, prefix, &config);
        suffix.clone_into(&mut settings.suffix);
        if is_relative(&settings.prefix) {
            settings.relative_to = Some(recorded.working_folder()?);
        }
        let files = sink::executor_half(&settings).map_err(|error| unusable(&error))?;
        let publisher = sink::driver_half(&settings).map_err(|error| unusable(&error))?;
        let output = self.sink(
            "text-files",
            settings.fingerprint(),
            Arc::new(Rendered(files)),
            publisher,
        );
        Ok(output.alone_at(settings.place()))
    }
}

fn unusable(error: &dyn std::error::Error) -> Failure {
    let mut failure = Failure::new(FailureKind::Internal, error.to_string())
        .with_code("files.location")
        .with_retry(Retry::Never);
    failure.fault = Fault::User;
    failure
}

/// Renders rows for a sink of text.
struct Rendered<S>(S);

impl<T: Data, S: Sink<TextRows>> Sink<Vec<T>> for Rendered<S> {
    fn writer(
        &self,
        id: WriteId,
        task: &TaskContext<'_>,
    ) -> Result<Box<dyn SinkWriter<Vec<T>>>, Failure> {
        Ok(Box::new(RenderedWriter(self.0.writer(id, task)?)))
    }

    fn check(&self) -> Result<(), Failure> {
        self.0.check()
    }

    fn close(&self) {
        self.0.close();
    }
}

struct RenderedWriter(Box<dyn SinkWriter<TextRows>>);

impl<T: Data> SinkWriter<Vec<T>> for RenderedWriter {
    fn write(&mut self, rows: Vec<T>, task: &mut TaskContext<'_>) -> Result<(), Failure> {
        let mut rendered = TextRows::default();
        for row in &rows {
            display::scala_into(row, &mut rendered.text).map_err(|error| codec_failure(&error))?;
            rendered.end_row();
        }
        self.0.write(rendered, task)
    }

    fn finish(self: Box<Self>, task: &mut TaskContext<'_>) -> Result<SinkCommit, Failure> {
        self.0.finish(task)
    }
}
