//! Structured Streaming: SQL and DataFrames over streams. Needs the feature `sql`, which compiles DataFusion.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use millstream::sql::{Args, OutputMode, Result, Session};
//!
//! /// Counts employees by job, whenever a file appears.
//! #[derive(Args)]
//! struct Employees {
//!     folder: String,
//! }
//!
//! fn employees(session: &Session, args: Employees) -> Result<()> {
//!     session
//!         .read_stream()
//!         .schema("emp_id INT, emp_name STRING, job_name STRING, manager_id INT, salary DOUBLE, dept_name STRING")
//!         .option("header", true)
//!         .csv(&args.folder)?
//!         .group_by(["job_name"])?
//!         .count()?
//!         .write_stream()
//!         .format("console")
//!         .output_mode(OutputMode::Complete)
//!         .start()?
//!         .await_termination()
//! }
//!
//! fn main() -> ExitCode {
//!     millstream::sql::launch(employees)
//! }
//! ```

use std::{process::ExitCode, time::Duration};

use clap::FromArgMatches;
use millstream_common::{
    config::keys,
    time::{Clock, SystemClock},
};

pub use crate::cli::ExecutorArgs;
pub use clap::Args;
pub use millstream_sql::*;

use crate::{
    build_id::BuildId,
    cli::{self, LaunchArgs, Role},
    launch::{
        EXIT_UNCOMMITTED, Ready, begin, execute, fail, start_children_of, stop_children,
        with_secret, write_ready,
    },
    signals::Signals,
};

/// Runs `job` as the command line says, and gives the process's exit code. On the driver the job function is called with a session; it may start, stop and
/// await queries as it likes, and what still runs when it returns is stopped. Executors don't call it: queries travel to them.
pub fn launch<A, J, E>(job: J) -> ExitCode
where
    A: Args + FromArgMatches + 'static,
    J: FnOnce(&Session, A) -> Result<(), E>,
    E: Into<crate::Error>,
{
    launch_with(|_| {}, job)
}

/// The same for a program with functions of its own: `functions` is called on the driver and on executors, which therefore run this binary.
pub fn launch_with<A, F, J, E>(functions: F, job: J) -> ExitCode
where
    A: Args + FromArgMatches + 'static,
    F: FnOnce(&mut Registry),
    J: FnOnce(&Session, A) -> Result<(), E>,
    E: Into<crate::Error>,
{
    let mut registry = Registry::default();
    functions(&mut registry);
    let mut command = match cli::command_with_triggers::<A>() {
        Ok(command) => command,
        Err(error) => return fail(&error),
    };
    let parsed = cli::parse::<A>(&mut command, std::env::args_os().collect());
    let checked = parsed.and_then(|role| {
        if let Role::Driver(flags, _) = &role {
            cli::check_triggers(&mut command, flags)?;
        }
        Ok(role)
    });
    let done = match checked {
        Ok(Role::Driver(flags, own)) => drive(&flags, own, registry, job),
        Ok(Role::Executor(flags)) => execute(&flags, executor_programs(registry)),
        Err(error) => {
            // A closed terminal can't show help.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Runs an executor of programs that have no functions of their own, whichever they are: what `millstream executor` does.
pub fn execute_any(flags: &ExecutorArgs) -> ExitCode {
    match execute(flags, executor_programs(Registry::default())) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn drive<A, J, E>(
    flags: &LaunchArgs,
    arguments: A,
    functions: Registry,
    job: J,
) -> crate::error::Result<ExitCode>
where
    J: FnOnce(&Session, A) -> Result<(), E>,
    E: Into<crate::Error>,
{
    let build_id = BuildId::begin()?;
    let config = flags.config()?;
    begin(&config)?;
    let master = flags.master.unwrap_or_else(Master::all_cores);
    let config = with_secret(config, master)?;
    let session = Session::builder()
        .name(&cli::program_name())
        .master(master)
        .config(&config)
        .build_id(&build_id.wait()?)
        .functions(functions)
        .build()?;
    let runtime = session.runtime()?;
    let driver = (session.address(), session.cluster());
    let children = start_children_of(driver, runtime, master, &config)?;
    watch_signals(&session, config.get(keys::STOP_TIMEOUT))?;
    let ready = Ready::told(session.address(), session.http(), children.as_ref(), master);
    if let Some(path) = &flags.ready_file {
        write_ready(path, &ready)?;
    }
    let outcome = job(&session, arguments).map_err(Into::into);
    let was_told_to_end = session.is_ending();
    let stopped = session.stop();
    if let Some(children) = children {
        stop_children(children, session.runtime()?);
    }
    match outcome {
        // A query that would have been started after the signal.
        Err(crate::Error::Sql(error)) if was_told_to_end && error.code() == "session.ended" => {}
        other => other?,
    }
    if stopped? {
        return Ok(ExitCode::SUCCESS);
    }
    tracing::error!(
        "stopped before everything planned was committed and published; where there is a checkpoint the next start goes on with it"
    );
    Ok(ExitCode::from(EXIT_UNCOMMITTED))
}

/// The first signal stops queries in an orderly way, within `stop.timeout`; then, or with the second signal, they are broken off.
fn watch_signals(session: &Session, stop_timeout: Duration) -> crate::error::Result<()> {
    let runtime = session.runtime()?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    let stopping = session.downgrade();
    let clock = SystemClock::new();
    runtime.spawn(async move {
        signals.next().await;
        for graceful in [true, false] {
            tracing::info!(graceful, "stopping");
            if let Some(session) = stopping.upgrade() {
                session.stop_queries(graceful);
            }
            let over = clock.until(clock.now().after(stop_timeout));
            tokio::select! {
                () = signals.next() => {}
                () = over => {}
            }
        }
    });
    Ok(())
}
