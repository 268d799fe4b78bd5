//! Where results go.
//!
//! Layout:
//! - `console`: printed by the driver

mod console;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use jiff::tz::TimeZone;
use millstream_driver::output::OutputDriver;
use millstream_dstreams::Console;
use serde_json::{Value, json};

use crate::{
    error::Error, output_mode::OutputMode, program::ExitSpec, reader::Options, show::Shown,
};

/// A sink, as a writer was set to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SinkSpec {
    Console(Shown),
    Noop,
}

const FORMATS: &str = "console and noop";

impl SinkSpec {
    /// Reads a writer's settings.
    pub(crate) fn of(format: &str, mut options: Options) -> Result<Self, Error> {
        let spec = match format.to_ascii_lowercase().as_str() {
            "console" => {
                let rows = options.take_number("numRows", "a number of rows")?;
                let truncate = match options.take("truncate") {
                    None => Some(20),
                    Some(value) => match value.to_ascii_lowercase().as_str() {
                        "true" => Some(20),
                        "false" | "0" => None,
                        other => Some(other.parse().map_err(|_| {
                            Error::option(
                                "truncate",
                                &value,
                                "it is true, false or a number of letters",
                            )
                        })?),
                    },
                };
                options.all_taken("console", &["numRows", "truncate", "checkpointLocation"])?;
                Self::Console(Shown {
                    rows: rows.unwrap_or(20),
                    truncate,
                })
            }
            "noop" => {
                options.all_taken("noop", &["checkpointLocation"])?;
                Self::Noop
            }
            _ => {
                return Err(Error::option(
                    "format",
                    format,
                    format!("streams are written to {FORMATS}"),
                ));
            }
        };
        Ok(spec)
    }

    /// Such as `console`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Console(_) => "console",
            Self::Noop => "noop",
        }
    }

    /// What a checkpoint depends on.
    pub(crate) fn fingerprint(&self, mode: OutputMode) -> Value {
        json!({ "outputMode": mode.to_string() })
    }

    pub(crate) fn exit(&self) -> ExitSpec {
        match self {
            // One more, to know whether there are more.
            Self::Console(shown) => ExitSpec::Collect {
                rows: Some(shown.rows.saturating_add(1)),
            },
            Self::Noop => ExitSpec::Drop,
        }
    }

    /// The driver half.
    pub(crate) fn driver(
        &self,
        schema: &SchemaRef,
        console: &Console,
        zone: &TimeZone,
    ) -> Arc<dyn OutputDriver> {
        match self {
            Self::Console(shown) => Arc::new(console::ConsoleOutput {
                schema: Arc::clone(schema),
                shown: *shown,
                console: console.clone(),
                zone: zone.clone(),
            }),
            Self::Noop => Arc::new(NoopOutput),
        }
    }
}

struct NoopOutput;

impl OutputDriver for NoopOutput {}
