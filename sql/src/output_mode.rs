//! What a batch writes of a result that grows.

use std::{fmt, str::FromStr};

use crate::error::Error;

/// What a batch writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutputMode {
    /// Rows that never change again.
    #[default]
    Append,
    /// Rows that are new or have changed.
    Update,
    /// The whole result.
    Complete,
}

impl fmt::Display for OutputMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Append => "append",
            Self::Update => "update",
            Self::Complete => "complete",
        })
    }
}

impl FromStr for OutputMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.to_ascii_lowercase().as_str() {
            "append" => Ok(Self::Append),
            "update" => Ok(Self::Update),
            "complete" => Ok(Self::Complete),
            _ => Err(Error::option(
                "outputMode",
                text,
                "it is append, update or complete",
            )),
        }
    }
}

impl TryFrom<&str> for OutputMode {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        text.parse()
    }
}
