//! How a session is set up.

use std::{
    fmt::Display,
    sync::{Arc, atomic::AtomicU64},
};

use jiff::tz::TimeZone;
use millstream_common::{
    config::{self, Config, Setting, keys},
    time::{Clock, SystemClock},
};
use millstream_dstreams::{Console, Master};
use parking_lot::Mutex;

use super::{
    Inner, Session,
    host::{Host, HostOptions},
};
use crate::{engine, error::Error, udf::Registry};

/// How a session is set up; made by [`Session::builder`].
pub struct SessionBuilder {
    name: String,
    master: Master,
    config: config::Builder,
    console: Console,
    clock: Arc<dyn Clock>,
    build_id: String,
    functions: Registry,
}

impl Default for SessionBuilder {
    fn default() -> Self {
        Self {
            name: "millstream".to_owned(),
            master: Master::all_cores(),
            config: Config::builder().process_variables(),
            console: Console::stdout(),
            clock: Arc::new(SystemClock::new()),
            build_id: "unknown".to_owned(),
            functions: Registry::default(),
        }
    }
}

impl SessionBuilder {
    /// The application's name, for logs, metrics and REST.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Where tasks run; by default in this process, one slot a core.
    #[must_use]
    pub fn master(mut self, master: Master) -> Self {
        self.master = master;
        self
    }

    /// Sets a configuration key; wins over variables.
    #[must_use]
    pub fn conf(mut self, key: &str, value: impl Display) -> Self {
        self.config = self.config.conf(key, value);
        self
    }

    /// Starts from this configuration instead of the variables.
    #[must_use]
    pub fn config(mut self, config: &Config) -> Self {
        self.config = config.to_builder();
        self
    }

    /// Where queries keep their progress and state: each in a folder of its name below this, a lone query without a name in this itself.
    #[must_use]
    pub fn checkpoint(mut self, location: &str) -> Self {
        self.config = self
            .config
            .set(keys::CHECKPOINT_LOCATION, Some(location.to_owned()));
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

    /// The hash of this executable, which stands in the checkpoint's entries.
    #[must_use]
    pub fn build_id(mut self, build_id: &str) -> Self {
        build_id.clone_into(&mut self.build_id);
        self
    }

    /// Functions of the program's own. Executors of other processes must have them too.
    #[must_use]
    pub fn functions(mut self, functions: Registry) -> Self {
        self.functions = functions;
        self
    }

    /// Starts the driver, and on `local[N]` the executor.
    ///
    /// # Errors
    /// What is wrong with the configuration, or an address that is taken.
    pub fn build(self) -> Result<Session, Error> {
        let config = self.config.build()?;
        check_triggers(&config)?;
        let zone = match config.get(keys::TIME_ZONE) {
            Some(zone) => zone.zone()?,
            None => TimeZone::system(),
        };
        // Executors need a name for it; a system without one has the time of Greenwich.
        let (zone, zone_name) = match zone.iana_name().map(str::to_owned) {
            Some(name) => (zone, name),
            None => (TimeZone::UTC, "UTC".to_owned()),
        };
        let most_ahead = config.get(keys::WATERMARK_MAX_AHEAD);
        let context = Arc::new(engine::context(&zone_name, &self.functions)?);
        let host = Host::start(HostOptions {
            name: self.name,
            master: self.master,
            config,
            clock: self.clock,
            build_id: self.build_id,
            functions: self.functions,
        })?;
        Ok(Session(Arc::new(Inner {
            host,
            context,
            zone,
            zone_name,
            most_ahead_millis: i64::try_from(most_ahead.as_millis()).unwrap_or(i64::MAX),
            console: self.console,
            numbers: AtomicU64::new(0),
            queries: Mutex::default(),
            unfinished: Mutex::default(),
        })))
    }
}

/// Refuses what means nothing where queries have triggers, wherever it was set: it would seem to be heeded.
fn check_triggers(config: &Config) -> Result<(), config::Error> {
    let key = keys::BATCH_INTERVAL;
    if !config.is_set(key) {
        return Ok(());
    }
    Err(config::Error::Conflict {
        key: key.name(),
        value: config.get(key).to_text(),
        origin: config.origin(key).clone(),
        problem: "is for DStreams alone; when batches of Structured Streaming run is said by each query: write_stream().trigger(Trigger::ProcessingTime(..))".to_owned(),
    })
}
