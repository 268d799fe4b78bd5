//! Sets up logging: events of `tracing`, and those of `log` from dependencies, become lines on standard error.

use std::env::VarError;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// The variable that says what is logged, such as `debug` or `warn,millstream_driver=debug`.
pub const FILTER_VARIABLE: &str = "MILLSTREAM_LOG";

/// What is logged when the variable is not set.
pub const DEFAULT_FILTER: &str = "info";

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The filter is not valid.
    #[error(
        "bad value `{filter}` of the variable {FILTER_VARIABLE}: {problem}; write a level (`info`) or levels by target (`warn,millstream_driver=debug`)"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        problem: String,
    },
    /// This process has set up logging before.
    #[error("logging is already set up in this process: {problem}")]
    AlreadySet {
        /// What the logging library says.
        problem: String,
    },
}

/// Logs to standard error from now on, what [`FILTER_VARIABLE`] says or else [`DEFAULT_FILTER`]. Call it once, first.
///
/// Text lines are coloured when standard error is a terminal and `NO_COLOR` is not set.
///
/// # Errors
///
/// The filter is not valid, or logging is set up already.
pub fn init(format: LogFormat) -> Result<(), Error> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(filter) if !filter.trim().is_empty() => filter,
        Ok(_) | Err(VarError::NotPresent) => DEFAULT_FILTER.to_owned(),
        Err(VarError::NotUnicode(filter)) => {
            return Err(Error::Filter {
                filter: filter.to_string_lossy().into_owned(),
                problem: "it is not UTF-8".to_owned(),
            });
        }
    };
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = !plain && std::io::stderr().is_terminal();
    subscriber(format, &filter, colour, std::io::stderr)?
        .try_init()
        .map_err(|error| Error::AlreadySet {
            problem: error.to_string(),
        })
}

/// A subscriber that writes what passes the filter to any writer.
///
/// # Errors
///
/// The filter is not valid.
pub fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    colour: bool,
    writer: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, Error>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    check_levels(filter)?;
    let directives = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| Error::Filter {
            filter: filter.to_owned(),
            problem: error.to_string(),
        })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(directives)
        // It would be told on standard error by what panics where that can't be written to: a lost log must change nothing.
        .log_internal_errors(false)
        .with_writer(writer);
    Ok(match format {
        LogFormat::Text => Box::new(lines.with_ansi(colour).finish()),
        LogFormat::Json => Box::new(lines.json().with_ansi(false).finish()),
    })
}

/// A word alone must be a level. The library takes any other for the name of a target, of which everything is logged, and of all else nothing: a
/// misspelt level would silence all.
fn check_levels(filter: &str) -> Result<(), Error> {
    for part in filter.split(',').map(str::trim) {
        let is_word = !part.is_empty() && !part.contains(['=', '[', ']', '{', '}']);
        if is_word && part.parse::<LevelFilter>().is_err() {
            return Err(Error::Filter {
                filter: filter.to_owned(),
                problem: format!(
                    "`{part}` is no level (off, error, warn, info, debug, trace); if it is a target, give it one: `{part}=debug`"
                ),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber =
            subscriber(format, filter, false, move || writer.clone()).expect("a valid filter");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("batch", batch = 7).in_scope(|| {
                tracing::info!(records = 3, "batch committed");
                tracing::debug!("detail");
            });
        });
        let bytes = buffer.0.lock().clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn text_is_a_line_an_event() {
        let lines = logged(LogFormat::Text, "info");
        assert_eq!(lines.lines().count(), 1, "{lines}");
        assert!(lines.contains("batch{batch=7}"), "{lines}");
        assert!(lines.contains("batch committed records=3"), "{lines}");
    }

    #[test]
    fn json_is_an_object_an_event() {
        let lines = logged(LogFormat::Json, "debug");
        let objects: Vec<serde_json::Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("an object"))
            .collect();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0]["fields"]["message"], "batch committed");
        assert_eq!(objects[0]["fields"]["records"], 3);
        assert_eq!(objects[0]["span"]["batch"], 7);
    }

    #[test]
    fn the_filter_is_obeyed_and_checked() {
        assert_eq!(logged(LogFormat::Text, "warn"), "");
        let refused = subscriber(LogFormat::Text, "a=b=c", false, std::io::stderr);
        let message = refused.err().expect("refused").to_string();
        assert!(
            message.starts_with("bad value `a=b=c` of the variable MILLSTREAM_LOG: "),
            "{message}"
        );
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        let told = |filter| match subscriber(LogFormat::Text, filter, false, std::io::stderr) {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        for (filter, part) in [
            ("debgu", "debgu"),
            ("info,millstream_driver", "millstream_driver"),
        ] {
            let message = told(filter).expect("refused");
            let expected = format!("`{part}` is no level (off, error, warn, info, debug, trace)");
            assert!(message.contains(&expected), "{message}");
        }
        assert!(told("millstream_driver=debgu").is_some());
        for filter in [
            "DEBUG",
            "off",
            "warn,millstream_driver=debug",
            "info,[batch{batch=7}]=trace,h2=off",
        ] {
            assert_eq!(told(filter), None, "{filter}");
        }
    }
}
