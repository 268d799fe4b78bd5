//! The `millstream` command: tools around applications, which have command lines of their own.
//!
//! Layout: one module a subcommand.
//! - `executor`: an executor of Structured Streaming programs, with the feature `sql`
//! - `certs`: certificates for TLS between driver and executors
//! - `new`: a crate with a job (`new/names`: what it can be called; `new/templates`: its files; `new/workspaces`: which workspaces would take it in)

mod certs;
mod new;

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};

#[cfg_attr(
    feature = "sql",
    doc = "Tools for Millstream applications, and an executor of Structured Streaming"
)]
#[cfg_attr(not(feature = "sql"), doc = "Tools for Millstream applications")]
#[derive(Parser)]
#[command(name = "millstream", subcommand_negates_reqs = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    /// Prints the version and the build id
    #[arg(long, short = 'V')]
    version: bool,
}

#[derive(Subcommand)]
enum Command {
    Certs(certs::CertsArgs),
    /// Runs tasks of any Structured Streaming program of this release that has no functions of its own
    ///
    /// It may start before the driver and waits for it; when the driver comes back after a crash it registers again. Executors of other programs run as
    /// `PROGRAM executor`.
    #[cfg(feature = "sql")]
    Executor(millstream::sql::ExecutorArgs),
    /// Not in this build, which is without Structured Streaming (feature `sql`)
    #[cfg(not(feature = "sql"))]
    #[command(hide = true)]
    Executor {
        /// Whatever an executor is given
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    New(new::NewArgs),
}

#[cfg(not(feature = "sql"))]
const NO_EXECUTOR: &str = "this millstream was built without Structured Streaming, whose programs alone it can be an executor of: build it with `--features sql`; executors of other programs run as `PROGRAM executor`";

fn main() -> ExitCode {
    let line = CommandLine::parse();
    match line.command {
        Some(Command::Certs(args)) => end(certs::run(&args), certs::Error::exit_code),
        #[cfg(feature = "sql")]
        Some(Command::Executor(flags)) => millstream::sql::execute_any(&flags),
        #[cfg(not(feature = "sql"))]
        Some(Command::Executor { .. }) => end(Err::<(), _>(NO_EXECUTOR), |_| 2),
        Some(Command::New(args)) => end(new::run(&args), new::Error::exit_code),
        None if line.version => end(show_version(), |_| 1),
        None => {
            // A closed terminal can't show help.
            let _ = CommandLine::command().print_help();
            ExitCode::from(2)
        }
    }
}

fn show_version() -> io::Result<()> {
    let build_id = millstream::build_id()?;
    let version = env!("CARGO_PKG_VERSION");
    writeln!(io::stdout(), "millstream {version} (build {build_id})")
}

/// The exit code of a subcommand's result; an error is printed.
fn end<E: Display>(result: Result<(), E>, exit_code: impl Fn(&E) -> u8) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
