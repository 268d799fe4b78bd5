//! What can be wrong with a configuration, and where values come from.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::failure::{Fault, Retry};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Nobody set the key.
    Default,
    /// A configuration file.
    File {
        /// The file's path as it was given.
        path: String,
        /// The line, counted from 1.
        line: u32,
    },
    /// An environment variable.
    Variable {
        /// The variable's name.
        name: String,
    },
    /// The command line.
    Flag {
        /// The flag, such as `--conf`.
        flag: String,
    },
    /// The application's code.
    Code,
}

impl Origin {
    /// Values of a higher precedence win.
    pub(super) fn precedence(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Variable { .. } => 2,
            Self::Flag { .. } => 3,
            Self::Code => 4,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}, line {line}"),
            Self::Variable { name } => write!(f, "variable {name}"),
            Self::Flag { flag } => f.write_str(flag),
            Self::Code => f.write_str("code"),
        }
    }
}

/// Why a configuration is refused. All of these are the user's to put right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such key.
    #[error("unknown configuration key `{given}` (from {origin}){}", hint(.nearest))]
    UnknownKey {
        /// The key as it was written.
        given: String,
        /// Where it was written.
        origin: Origin,
        /// The valid key most like it, if one is, written as its origin writes keys.
        nearest: Option<String>,
    },
    /// The key does not accept the value.
    #[error("bad value `{value}` for `{key}` (from {origin}): expected {expected}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value, or `<redacted>`.
        value: String,
        /// Where it was written.
        origin: Origin,
        /// What the key accepts.
        expected: String,
    },
    /// Two values that are each fine do not fit together.
    #[error("`{key}` = {value} (from {origin}) {problem}")]
    Conflict {
        /// The key to change.
        key: &'static str,
        /// Its value.
        value: String,
        /// Where it was written.
        origin: Origin,
        /// What does not fit, and with which other key.
        problem: String,
    },
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}: {cause}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The configuration file is not TOML.
    #[error("the configuration file {path}, line {line} is not valid TOML: {message}")]
    Toml {
        /// The file.
        path: String,
        /// The line, counted from 1.
        line: u32,
        /// What the parser says.
        message: String,
    },
    /// A `--conf` without a value.
    #[error("`--conf {given}` has no value: write it as `--conf key=value`")]
    FlagWithoutValue {
        /// What stands after the flag.
        given: String,
    },
    /// More than one thing is wrong.
    #[error("{}", lines(.0))]
    Several(Vec<Error>),
}

impl Error {
    /// A stable, searchable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownKey { .. } => "config.unknown_key",
            Self::BadValue { .. } => "config.bad_value",
            Self::Conflict { .. } => "config.conflict",
            Self::ReadFile { .. } => "config.unreadable",
            Self::Toml { .. } => "config.toml",
            Self::FlagWithoutValue { .. } => "config.flag",
            Self::Several(_) => "config.several",
        }
    }

    /// Whose fault it is: always the user's.
    pub fn fault(&self) -> Fault {
        Fault::User
    }

    /// Whether trying again can help: never.
    pub fn retry(&self) -> Retry {
        Retry::Never
    }

    /// One error for one or more; none for none.
    pub(super) fn gather(mut errors: Vec<Error>) -> Option<Error> {
        if errors.len() > 1 {
            return Some(Error::Several(errors));
        }
        errors.pop()
    }
}

fn hint(nearest: &Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => String::new(),
    }
}

fn lines(errors: &[Error]) -> String {
    let lines: Vec<String> = errors.iter().map(Error::to_string).collect();
    lines.join("\n")
}
