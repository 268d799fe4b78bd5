//! What an executor is started with, and what it takes from the driver's configuration once registered.

use std::{collections::BTreeMap, time::Duration};

use millstream_common::{
    config::{Address, Advertised, Compression, Config, keys},
    failure::{Failure, FailureKind, Retry},
};
use millstream_connectors::malformed::OnMalformed;
use millstream_proto::{auth::Secret, http::Door, tls::Tls};

/// How one executor process is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Task slots, at least 1.
    pub cores: u32,
    /// Where blocks are served to peers; `None` for the in-process twin, where there are none.
    pub listen: Option<Address>,
    /// What driver and peers dial where that isn't the address listened on (containers, a wildcard address, a proxy).
    pub advertise: Option<Advertised>,
    /// Where `/metrics` and `/healthz` are; `None` for nowhere.
    pub http: Option<Address>,
    /// The host's name, for locality and messages.
    pub host: String,
    /// What driver and peers must know.
    pub secret: Option<Secret>,
    /// How it connects, and lets peers connect.
    pub tls: Tls,
    /// What clients of its HTTP port must bring.
    pub door: Door,
    /// Whether its driver started it, and ends it: then that no driver answers is no news to anybody.
    pub has_parent: bool,
    /// This process's own configuration; the driver's wins where a key isn't about one process.
    pub config: Config,
}

impl Options {
    /// Options of a process with this configuration: as its keys say, on this host.
    ///
    /// # Errors
    /// A secret or token that fits no header; files of TLS that can't be used.
    pub fn of_config(config: Config) -> Result<Self, Failure> {
        let cores = config.get(keys::EXECUTOR_CORES);
        let machine = std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        let secret = match config.get(keys::AUTH_SECRET) {
            Some(secret) => Some(Secret::new(secret.expose()).map_err(|error| {
                Failure::caused_by(FailureKind::BadInput, "auth.secret can't be used", &error)
                    .with_code("config.invalid")
            })?),
            None => None,
        };
        let tls = Tls::of_config(&config).map_err(|error| misconfigured("tls.files", &error))?;
        let door = Door::of_config(&config, &tls)
            .map_err(|error| misconfigured("config.invalid", &error))?;
        let has_http = config.get(keys::HTTP_ENABLED) && config.get(keys::METRICS_ENABLED);
        Ok(Self {
            cores: cores.unwrap_or(machine),
            listen: Some(config.get(keys::EXECUTOR_LISTEN)),
            advertise: config.get(keys::EXECUTOR_ADVERTISE),
            http: has_http.then(|| config.get(keys::EXECUTOR_HTTP)),
            host: host_name(),
            secret,
            tls,
            door,
            has_parent: false,
            config,
        })
    }

    /// Options of the in-process twin: no addresses, no secret.
    pub fn in_process(cores: u32, config: Config) -> Self {
        Self {
            cores,
            listen: None,
            advertise: None,
            http: None,
            host: host_name(),
            secret: None,
            tls: Tls::default(),
            door: Door::default(),
            has_parent: true,
            config,
        }
    }
}

fn misconfigured(code: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(FailureKind::BadInput, error.to_string()).with_code(code)
}

/// This host's name.
pub fn host_name() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) if !name.trim().is_empty() => name.trim().to_owned(),
        _ => "localhost".to_owned(),
    }
}

/// Settings in force for one registration.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How often the driver hears a sign of life.
    pub heartbeat_interval: Duration,
    /// The bound on establishing a connection.
    pub connect_timeout: Duration,
    /// The largest control message, bytes.
    pub max_message: usize,
    /// How long a leaving executor serves blocks.
    pub stop_timeout: Duration,
    /// Where tasks' tables spill, encoded bytes.
    pub spill_threshold: u64,
    /// Whether blocks are compressed when that pays.
    pub compress_blocks: bool,
    /// Bytes that one reader may have in flight.
    pub fetch_in_flight: u64,
    /// The longest silence within a fetch.
    pub fetch_timeout: Duration,
    /// Tries after the first.
    pub fetch_retries: u32,
    /// The longest that a task waits for input that should be there.
    pub input_deadline: Duration,
    /// What becomes of records that a task finds malformed as it decodes them.
    pub on_malformed: OnMalformed,
}

impl Tuning {
    /// What a configuration says.
    pub fn of_config(config: &Config) -> Self {
        Self {
            heartbeat_interval: config.get(keys::EXECUTOR_HEARTBEAT_INTERVAL),
            connect_timeout: config.get(keys::RPC_CONNECT_TIMEOUT),
            max_message: config.get(keys::RPC_MAX_MESSAGE).as_len(),
            stop_timeout: config.get(keys::STOP_TIMEOUT),
            spill_threshold: config.get(keys::MEMORY_SPILL_THRESHOLD).bytes(),
            compress_blocks: config.get(keys::SHUFFLE_COMPRESSION) == Compression::Lz4,
            fetch_in_flight: config.get(keys::SHUFFLE_FETCH_MAX_IN_FLIGHT).bytes(),
            fetch_timeout: config.get(keys::SHUFFLE_FETCH_TIMEOUT),
            fetch_retries: config.get(keys::SHUFFLE_FETCH_RETRIES),
            input_deadline: config.get(keys::KAFKA_RANGE_TIMEOUT),
            on_malformed: config.get(keys::INPUT_ON_MALFORMED).into(),
        }
    }
}

/// The configuration that an executor runs with: the driver's, as it came with the registration, and its own for what is about one
/// process. Empty values are unset ones.
///
/// # Errors
/// A key or value that this release doesn't know.
pub fn effective_config(
    driver: &BTreeMap<String, String>,
    local: &Config,
) -> Result<Config, Failure> {
    let mut builder = Config::builder();
    for (key, value) in driver.iter().filter(|(_, value)| !value.is_empty()) {
        builder = builder.conf(key.as_str(), value);
    }
    let driver = builder.build().map_err(|error| {
        Failure::caused_by(
            FailureKind::Internal,
            "the driver's configuration can't be read by this release: run one release on both sides",
            &error,
        )
        .with_code("registration.configuration")
        .with_retry(Retry::Never)
    })?;
    Ok(driver.for_executor(local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_configuration_wins_but_for_what_is_about_one_process() {
        let driver = BTreeMap::from([
            ("memory.spill_threshold".to_owned(), "8KiB".to_owned()),
            ("memory.budget".to_owned(), "1GiB".to_owned()),
            ("parallelism".to_owned(), String::new()),
        ]);
        let local = Config::builder()
            .conf("memory.budget", "64MiB")
            .conf("memory.spill_threshold", "1MiB")
            .build()
            .expect("accepted");
        let config = effective_config(&driver, &local).expect("accepted");
        assert_eq!(Tuning::of_config(&config).spill_threshold, 8 * 1024);
        assert_eq!(config.get(keys::MEMORY_BUDGET).bytes(), 64 << 20);
    }

    #[test]
    fn a_foreign_configuration_is_refused() {
        let driver = BTreeMap::from([("no.such_key".to_owned(), "1".to_owned())]);
        let refused = effective_config(&driver, &Config::default()).expect_err("refused");
        assert_eq!(refused.retry, Retry::Never);
        assert!(refused.to_string().contains("no.such_key"), "{refused}");
    }
}
