//! Where printed batches go.

use std::{
    io::{self, Write},
    sync::Arc,
};

use millstream_common::failure::{Failure, FailureKind};
use parking_lot::Mutex;

/// Where printed batches go: stdout, or a writer of the program's own. Each batch is written whole.
#[derive(Clone)]
pub struct Console(Arc<Mutex<Box<dyn Write + Send>>>);

impl Console {
    /// The process's stdout.
    pub fn stdout() -> Self {
        Self::new(io::stdout())
    }

    /// Another writer.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(writer))))
    }

    /// Writes a text and flushes.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&self, text: &str) -> Result<(), Failure> {
        let mut writer = self.0.lock();
        let written = writer
            .write_all(text.as_bytes())
            .and_then(|()| writer.flush());
        written.map_err(|error| {
            Failure::caused_by(
                FailureKind::Io,
                "a batch could not be printed: is whoever reads the output gone?",
                &error,
            )
        })
    }

    /// [`write`](Self::write) on a thread that may block: whoever reads the output may be slow.
    ///
    /// # Errors
    /// `Io`.
    pub async fn print(&self, text: String) -> Result<(), Failure> {
        let console = self.clone();
        let written = tokio::task::spawn_blocking(move || console.write(&text)).await;
        written.unwrap_or_else(|error| {
            let message = "printing a batch ended early";
            Err(Failure::caused_by(FailureKind::Internal, message, &error))
        })
    }
}
