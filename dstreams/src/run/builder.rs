//! How an application is run: its master, configuration and checkpoint, made into a context for its graph.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use millstream_common::{
    config::{self, Config, keys},
    protocol::Application,
    time::{Clock, SystemClock},
};
use millstream_driver::application::Checkpoint;
use serde_json::Value;

use super::{Prepared, RunError, wait};
use crate::{
    context::{Side, StreamingContext},
    master::Master,
    outputs::Console,
};

/// Threads for IO; they don't compute.
const IO_THREADS: usize = 2;

/// Gives the build id; called once.
pub type BuildId = Box<dyn FnOnce() -> io::Result<String> + Send>;

/// How an application is run.
pub struct Builder {
    name: String,
    master: Master,
    config: config::Builder,
    arguments: Value,
    console: Console,
    clock: Arc<dyn Clock>,
    build_id: Option<BuildId>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            name: "millstream".to_owned(),
            master: Master::all_cores(),
            config: Config::builder().process_variables(),
            arguments: Value::Null,
            console: Console::stdout(),
            clock: Arc::new(SystemClock::new()),
            build_id: None,
        }
    }
}

impl Builder {
    /// The application's name, for logs, metrics and REST.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Where tasks run; by default in this process, one slot a core. Executors of other processes need the job function of `launch`.
    #[must_use]
    pub fn master(mut self, master: Master) -> Self {
        self.master = master;
        self
    }

    /// Sets a configuration key; wins over variables.
    #[must_use]
    pub fn conf(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.config = self.config.conf(key, value);
        self
    }

    /// Starts from this configuration instead of the variables.
    #[must_use]
    pub fn config(mut self, config: &Config) -> Self {
        self.config = config.to_builder();
        self
    }

    /// How long each batch spans; zero runs batches back to back.
    #[must_use]
    pub fn batch_interval(mut self, interval: Duration) -> Self {
        self.config = self.config.set(keys::BATCH_INTERVAL, interval);
        self
    }

    /// Where progress is kept.
    #[must_use]
    pub fn checkpoint(mut self, location: &str) -> Self {
        self.config = self
            .config
            .set(keys::CHECKPOINT_LOCATION, Some(location.to_owned()));
        self
    }

    /// The application's own arguments, for executors and the checkpoint.
    #[must_use]
    pub fn arguments(mut self, arguments: Value) -> Self {
        self.arguments = arguments;
        self
    }

    /// Where printed batches go; by default standard output.
    #[must_use]
    pub fn console(mut self, console: Console) -> Self {
        self.console = console;
        self
    }

    /// Another clock, for tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The hash of this executable; without it a rebuilt program isn't told from a nondeterministic one.
    #[must_use]
    pub fn build_id(mut self, build_id: BuildId) -> Self {
        self.build_id = Some(build_id);
        self
    }

    /// Opens the checkpoint and gives the context for the graph.
    ///
    /// # Errors
    /// What is wrong with configuration or checkpoint.
    pub fn build(self) -> Result<StreamingContext, RunError> {
        let config = self.config.build()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            .thread_name("io")
            .enable_all()
            .build()
            .map_err(|source| RunError::Io {
                action: "start the IO threads",
                source,
            })?;
        let time_zone = match config.get(keys::TIME_ZONE) {
            Some(zone) => zone.zone()?,
            None => TimeZone::system(),
        };
        let opened = config.clone();
        let checkpoint = wait(&runtime, async move { Checkpoint::open(&opened).await })??;
        let build_id = match self.build_id {
            Some(build_id) => build_id().map_err(|source| RunError::Io {
                action: "read this executable",
                source,
            })?,
            None => "unknown".to_owned(),
        };
        let metadata = checkpoint.metadata.as_ref();
        let parallelism = metadata
            .map(|metadata| metadata.fingerprint.parallelism)
            .or_else(|| config.get(keys::PARALLELISM))
            .unwrap_or_else(|| self.master.default_parallelism());
        let interval = config.get(keys::BATCH_INTERVAL).as_millis();
        let application = Application {
            name: self.name,
            arguments: self.arguments,
            configuration: shown_configuration(&config),
            parallelism,
            batch_interval_millis: u64::try_from(interval).unwrap_or(u64::MAX),
            build_id: build_id.clone(),
            recorded: metadata
                .map(|metadata| metadata.recorded.clone())
                .unwrap_or_default(),
        };
        let prepared = Prepared {
            runtime,
            master: self.master,
            config: config.clone(),
            application: application.clone(),
            checkpoint,
            console: self.console,
            time_zone,
            clock: self.clock,
            build_id,
        };
        Ok(StreamingContext::with_run(
            application,
            Side::Driver,
            config,
            prepared,
        ))
    }
}

/// Every key that has a value and is no secret.
fn shown_configuration(config: &Config) -> BTreeMap<String, String> {
    let shown = config
        .effective()
        .into_iter()
        .filter(|entry| !entry.value.is_empty() && entry.value != config::REDACTED);
    shown.map(|entry| (entry.key, entry.value)).collect()
}
