//! Gathers values from their sources and makes a checked configuration of them.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use super::declare::{Key, Spec};
use super::error::{Error, Origin};
use super::registry::Values;
use super::sources::{self, Given};
use super::value::{ByteSize, Setting};
use super::{Config, Inner, REDACTED, keys};

/// Makes a [`Config`]. The order of calls does not matter between sources: a file yields to variables,
/// those to `--conf`, that to code. Within one source the last value of a key wins.
///
/// Nothing fails before [`Builder::build`], which reports everything that is wrong at once.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct Builder {
    base: Config,
    given: Vec<Given>,
    errors: Vec<Error>,
}

impl Builder {
    pub(super) fn new(base: Config) -> Self {
        Self {
            base,
            given: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Takes the values of a TOML file, in tables (`[task]`, `max_failures = 4`) or with dotted keys.
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        match std::fs::read_to_string(path) {
            Ok(text) => self = self.toml(&path.display().to_string(), &text),
            Err(cause) => self.errors.push(Error::ReadFile {
                path: path.to_owned(),
                cause,
            }),
        }
        self
    }

    /// Takes the values of TOML text; `path` is what errors call it.
    pub fn toml(mut self, path: &str, text: &str) -> Self {
        match sources::read_toml(path, text) {
            Ok(given) => self.given.extend(given),
            Err(error) => self.errors.push(error),
        }
        self
    }

    /// Takes the variables of this process.
    pub fn process_variables(self) -> Self {
        self.variables(std::env::vars_os())
    }

    /// Takes variables such as `MILLSTREAM_TASK__MAX_FAILURES`, where the doubled underscore stands for
    /// the dot. Others are left alone: without a doubled underscore, `MILLSTREAM_...` may be meant for
    /// something else (Kubernetes makes such variables for each service). One that differs from a key's
    /// variable in just that underscore is refused.
    pub fn variables(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        for (name, value) in variables {
            match sources::read_variable(&name, value) {
                Ok(given) => self.given.extend(given),
                Err(error) => self.errors.push(error),
            }
        }
        self
    }

    /// Takes the values of `--conf key=value`.
    pub fn flags<S: AsRef<str>>(mut self, flags: impl IntoIterator<Item = S>) -> Self {
        for flag in flags {
            match sources::read_flag(flag.as_ref()) {
                Ok(given) => self.given.push(given),
                Err(error) => self.errors.push(error),
            }
        }
        self
    }

    /// Takes the value of a key that has a flag of its own, such as `--checkpoint`.
    pub fn flag<T: Setting>(mut self, flag: &str, key: Key<T>, value: impl Display) -> Self {
        let origin = Origin::Flag {
            flag: flag.to_owned(),
        };
        self.add(origin, key.name().to_owned(), value.to_string());
        self
    }

    /// Sets a key by its name from the application's code.
    pub fn conf(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.add(Origin::Code, name.into(), value.to_string());
        self
    }

    /// Sets a key by its constant from the application's code.
    pub fn set<T: Setting>(mut self, key: Key<T>, value: T) -> Self {
        self.add(Origin::Code, key.name().to_owned(), value.to_text());
        self
    }

    pub(super) fn add(&mut self, origin: Origin, name: String, value: String) {
        self.given.push(Given {
            origin,
            name,
            value,
        });
    }

    /// Checks everything and gives the configuration.
    ///
    /// # Errors
    ///
    /// All that is wrong: unknown keys, bad values, values that do not fit together, unreadable files.
    pub fn build(self) -> Result<Config, Error> {
        let Self {
            base,
            mut given,
            mut errors,
        } = self;
        given.sort_by_key(|given| given.origin.precedence());
        let mut inner = (*base.inner).clone();
        for Given {
            origin,
            name,
            value,
        } in given
        {
            let Some(spec) = Spec::find(&name) else {
                errors.push(sources::unknown_key(&name, origin));
                continue;
            };
            match spec.assign(&mut inner.values, &value) {
                Ok(()) => inner.origins[spec.index()] = origin,
                Err(expected) => errors.push(Error::BadValue {
                    key: spec.name(),
                    value: if spec.is_secret() {
                        REDACTED.to_owned()
                    } else {
                        value
                    },
                    origin,
                    expected,
                }),
            }
        }
        fit_spill_threshold(&mut inner);
        let config = Config {
            inner: Arc::new(inner),
        };
        if errors.is_empty() {
            errors.extend(heartbeat_conflict(&config));
            errors.extend(tls_conflict(&config));
        }
        match Error::gather(errors) {
            Some(error) => Err(error),
            None => Ok(config),
        }
    }
}

/// A spill threshold that nobody set follows a small memory budget: several tables must fit beside blocks and read-ahead.
fn fit_spill_threshold(inner: &mut Inner) {
    let threshold = keys::MEMORY_SPILL_THRESHOLD;
    if inner.origins[threshold.spec().index()] != Origin::Default {
        return;
    }
    let most = keys::MEMORY_BUDGET.read(&inner.values).bytes() / 8;
    let usual = threshold.read(&Values::default()).bytes();
    let fitting = ByteSize::from_bytes(most.min(usual)).to_text();
    // A size that a key may have is one of this key too.
    let _ = threshold.spec().assign(&mut inner.values, &fitting);
}

/// Values that are each valid and do not fit together.
fn heartbeat_conflict(config: &Config) -> Option<Error> {
    let heartbeat = config.get(keys::EXECUTOR_HEARTBEAT_INTERVAL);
    let timeout = config.get(keys::EXECUTOR_TIMEOUT);
    if timeout >= heartbeat.saturating_mul(2) {
        return None;
    }
    // The key that was set is the one to name.
    let key = if config.is_set(keys::EXECUTOR_TIMEOUT) {
        keys::EXECUTOR_TIMEOUT
    } else {
        keys::EXECUTOR_HEARTBEAT_INTERVAL
    };
    Some(Error::Conflict {
        key: key.name(),
        value: config.get(key).to_text(),
        origin: config.origin(key).clone(),
        problem: format!(
            "does not fit: `executor.timeout` ({}) must be at least twice `executor.heartbeat_interval` ({}), or one late heartbeat is a lost executor",
            timeout.to_text(),
            heartbeat.to_text(),
        ),
    })
}

/// The three files of TLS come together.
fn tls_conflict(config: &Config) -> Option<Error> {
    let all = [keys::TLS_CA, keys::TLS_CERT, keys::TLS_KEY];
    let given = all.iter().find(|key| config.get(**key).is_some())?;
    let missing = all.iter().find(|key| config.get(**key).is_none())?;
    Some(Error::Conflict {
        key: given.name(),
        value: config.get(*given).to_text(),
        origin: config.origin(*given).clone(),
        problem: format!(
            "is given without `{}`: TLS needs `tls.ca`, `tls.cert` and `tls.key`; give all three or none",
            missing.name()
        ),
    })
}
