//! The command line that every application has.

use std::{path::PathBuf, time::Duration};

use clap::{
    Arg, ArgMatches, Args, Command, FromArgMatches, builder::NonEmptyStringValueParser,
    error::ErrorKind,
};
use millstream_common::config::{self, Config, keys};
use millstream_dstreams::Master;
use serde_json::Value;

use crate::Error;

#[cfg(feature = "sql")]
const BATCH_INTERVAL: &str = "batch_interval";

/// Flags of a driver.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Launching")]
pub(crate) struct LaunchArgs {
    /// Where tasks run: `local` (one slot), `local[N]`, `local[*]` (a slot a core) in this process; `local-cluster[E,C]` in E executor
    /// processes of C slots, started here; `cluster` on executors that come to --listen [default: local[*]]
    #[arg(long, value_name = "MASTER")]
    pub master: Option<Master>,
    /// Where the driver listens for executors [default: 127.0.0.1:7077, or the next free port]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// How long each batch spans, such as 500ms or 10s; 0s runs batches back to back [default: 1s]
    #[arg(long, value_name = "DURATION")]
    pub batch_interval: Option<String>,
    /// Folder where progress is kept, so that the same command goes on after any crash; without it nothing survives the driver
    #[arg(long, value_name = "FOLDER", value_parser = NonEmptyStringValueParser::new())]
    pub checkpoint: Option<String>,
    #[command(flatten)]
    pub common: CommonArgs,
    /// Goes on with a batch whose rows an older build has written in part; see the error that asks for it
    #[arg(long, value_name = "BATCH", hide_short_help = true)]
    pub accept_mixed_batch: Option<u64>,
    /// Writes a batch again that may have been written already, because the broker no longer knows
    #[arg(long, hide_short_help = true)]
    pub accept_duplicates: bool,
    /// Writes one line of JSON with addresses and process ids to this file once the driver serves
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub ready_file: Option<PathBuf>,
}

/// Flags of both roles.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Configuration")]
pub struct CommonArgs {
    /// Sets a configuration key; may be given many times. Wins over MILLSTREAM_GROUP__KEY variables, which win over --config
    #[arg(long, value_name = "KEY=VALUE")]
    pub conf: Vec<String>,
    /// TOML file with configuration
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of an executor.
#[derive(Args, Clone, Debug)]
pub struct ExecutorArgs {
    /// Addresses of the driver, tried in turn; it may start later
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        required_unless_present = "child"
    )]
    pub driver: Vec<String>,
    /// Task slots [default: the machine's cores]
    #[arg(long, value_name = "N")]
    pub cores: Option<u32>,
    /// Configuration, as every program takes it.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Takes its orders from a driver of `local-cluster` on standard input
    #[arg(long, hide = true)]
    pub child: bool,
}

/// What a command line asks for.
pub(crate) enum Role<A> {
    Driver(Box<LaunchArgs>, A),
    Executor(ExecutorArgs),
}

const EXECUTOR: &str = "executor";

/// The command line of an application whose own arguments are `A`.
pub(crate) fn command<A: Args>() -> Result<Command, Error> {
    let own = A::augment_args(Command::new("application"));
    let ours = LaunchArgs::augment_args(Command::new("launch"));
    for flag in own.get_arguments() {
        if let Some(clash) = ours.get_arguments().find(|ours| clashes(ours, flag)) {
            return Err(Error::FlagTaken {
                flag: clash.get_id().as_str().replace('_', "-"),
            });
        }
    }
    let executor = ExecutorArgs::augment_args(Command::new(EXECUTOR))
        .about("Runs tasks for a driver of the same executable")
        .long_about("Runs tasks for a driver of the same executable. It may start before the driver and waits for it; when the driver comes back after a crash it registers again.");
    let mut command = Command::new(program_name()).next_help_heading("Application");
    command = A::augment_args(command);
    command = LaunchArgs::augment_args(command);
    // The flags' own documentation is no description of the program.
    let about = own.get_about().cloned().unwrap_or_default();
    let long_about = own
        .get_long_about()
        .cloned()
        .unwrap_or_else(|| about.clone());
    command = command.about(about).long_about(long_about);
    Ok(command
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand(executor)
        .subcommand_negates_reqs(true)
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
        .after_help(AFTER_HELP))
}

const AFTER_HELP: &str = "\
Examples:
  PROGRAM ...                                         one process
  PROGRAM --master 'local-cluster[3,2]' ...           a driver and 3 executors
  PROGRAM --master cluster --listen 0.0.0.0:7077 ...  a driver alone
  PROGRAM executor --driver driver:7077 --cores 4     an executor of such a one

Results go to standard output, logs to standard error (MILLSTREAM_LOG=debug for more). \
SIGINT and SIGTERM finish the queued batches and commit; a second one stops at once.

Exit codes: 0 all committed, 1 failed, 2 bad arguments or configuration, 3 superseded by another driver on the same checkpoint, \
4 stop.timeout passed, or a second signal came, with a batch uncommitted or unpublished.";

fn clashes(ours: &Arg, theirs: &Arg) -> bool {
    let same_long = ours.get_long().is_some() && ours.get_long() == theirs.get_long();
    ours.get_id() == theirs.get_id() || same_long
}

/// What the application's executable is called.
pub(crate) fn program_name() -> String {
    let path = std::env::args_os().next().map(PathBuf::from);
    path.and_then(|path| {
        path.file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
    })
    .unwrap_or_else(|| "millstream".to_owned())
}

/// The command line of an application whose queries say themselves when their batches run.
#[cfg(feature = "sql")]
pub(crate) fn command_with_triggers<A: Args>() -> Result<Command, Error> {
    Ok(command::<A>()?.mut_arg(BATCH_INTERVAL, |flag| flag.hide(true)))
}

/// Refuses what means nothing where queries have triggers.
#[cfg(feature = "sql")]
pub(crate) fn check_triggers(
    command: &mut Command,
    launch: &LaunchArgs,
) -> Result<(), clap::Error> {
    if launch.batch_interval.is_none() {
        return Ok(());
    }
    let message = "--batch-interval is for DStreams alone; when batches of Structured Streaming run is said by each query: write_stream().trigger(Trigger::ProcessingTime(..))";
    Err(command.error(ErrorKind::UnknownArgument, message))
}

/// Reads a command line.
///
/// # Errors
/// Clap's own error, which may be a wish for help.
pub(crate) fn parse<A: Args + FromArgMatches>(
    command: &mut Command,
    arguments: Vec<std::ffi::OsString>,
) -> Result<Role<A>, clap::Error> {
    let matches: ArgMatches = command.try_get_matches_from_mut(arguments)?;
    if let Some((EXECUTOR, matches)) = matches.subcommand() {
        let executor =
            ExecutorArgs::from_arg_matches(matches).map_err(|error| error.format(command))?;
        return Ok(Role::Executor(executor));
    }
    let launch = LaunchArgs::from_arg_matches(&matches).map_err(|error| error.format(command))?;
    let own = A::from_arg_matches(&matches).map_err(|error| error.format(command))?;
    if launch.listen.is_some() && launch.master.is_some_and(Master::is_local) {
        let message = "--listen makes no sense where tasks run in this process: nobody comes to it";
        return Err(command.error(ErrorKind::ArgumentConflict, message));
    }
    Ok(Role::Driver(Box::new(launch), own))
}

impl CommonArgs {
    fn builder(&self) -> config::Builder {
        let mut builder = Config::builder().process_variables().flags(&self.conf);
        if let Some(path) = &self.config {
            builder = builder.file(path);
        }
        builder
    }
}

impl LaunchArgs {
    /// The configuration that the flags, variables and file give.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn config(&self) -> Result<Config, config::Error> {
        let mut builder = self.common.builder();
        if let Some(listen) = &self.listen {
            builder = builder.flag("--listen", keys::DRIVER_LISTEN, listen);
        }
        if let Some(interval) = &self.batch_interval {
            builder = builder.flag("--batch-interval", keys::BATCH_INTERVAL, interval);
        }
        if let Some(checkpoint) = &self.checkpoint {
            builder = builder.flag("--checkpoint", keys::CHECKPOINT_LOCATION, checkpoint);
        }
        if let Some(batch) = self.accept_mixed_batch {
            builder = builder.flag(
                "--accept-mixed-batch",
                keys::KAFKA_SINK_ACCEPT_MIXED_BATCH,
                batch,
            );
        }
        if self.accept_duplicates {
            builder = builder.flag(
                "--accept-duplicates",
                keys::KAFKA_SINK_ACCEPT_DUPLICATES,
                true,
            );
        }
        builder.build()
    }
}

impl ExecutorArgs {
    pub(crate) fn config(&self) -> Result<Config, config::Error> {
        let mut builder = self.common.builder();
        if let Some(cores) = self.cores {
            builder = builder.flag("--cores", keys::EXECUTOR_CORES, cores);
        }
        builder.build()
    }
}

/// What a driver of `local-cluster` writes to its executors' standard input: one line of JSON. The input's end means that the driver is gone.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Orders {
    /// Where the driver listens.
    pub driver: String,
    /// Task slots.
    pub cores: u32,
    /// The shared secret.
    pub secret: Option<String>,
    /// The token of HTTP ports.
    pub http_token: Option<String>,
    /// The driver's configuration, without secrets.
    pub config: Value,
}

/// How long an executor of `local-cluster` waits for its orders.
pub(crate) const ORDERS_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Args, serde::Serialize, serde::Deserialize)]
    struct Own {
        #[arg(long)]
        topic: String,
    }

    #[derive(Args)]
    struct Clashing {
        #[arg(long)]
        checkpoint: String,
    }

    fn parsed(arguments: &[&str]) -> Result<Role<Own>, clap::Error> {
        let mut command = command::<Own>().expect("no clash");
        let arguments = std::iter::once("program").chain(arguments.iter().copied());
        parse(&mut command, arguments.map(Into::into).collect())
    }

    #[test]
    fn an_application_flag_of_our_name_is_refused() {
        let error = command::<Clashing>().expect_err("clash").to_string();
        assert!(error.contains("--checkpoint"), "{error}");
    }

    #[test]
    fn a_driver_takes_its_own_and_our_flags() {
        let Ok(Role::Driver(launch, own)) = parsed(&[
            "--topic",
            "t",
            "--master",
            "local-cluster[3,2]",
            "--conf",
            "task.max_failures=7",
            "--batch-interval",
            "2s",
        ]) else {
            panic!("a driver was expected");
        };
        assert_eq!(own.topic, "t");
        assert_eq!(
            launch.master,
            Some(Master::LocalCluster {
                executors: 3,
                cores: 2
            })
        );
        let config = launch.config().expect("config");
        assert_eq!(config.get(keys::TASK_MAX_FAILURES), 7);
        assert_eq!(config.get(keys::BATCH_INTERVAL), Duration::from_secs(2));
    }

    #[cfg(feature = "sql")]
    #[test]
    fn an_interval_is_refused_where_queries_have_triggers() {
        let read = |arguments: &[&str]| {
            let mut command = command_with_triggers::<Own>().expect("no clash");
            let given = std::iter::once("program").chain(arguments.iter().copied());
            let role = parse::<Own>(&mut command, given.map(Into::into).collect());
            let Ok(Role::Driver(launch, _)) = role else {
                panic!("a driver was expected");
            };
            check_triggers(&mut command, &launch)
        };
        assert!(read(&["--topic", "t"]).is_ok());
        let error = read(&["--topic", "t", "--batch-interval", "2s"]).expect_err("refused");
        assert_eq!(error.exit_code(), 2);
        assert!(
            error
                .to_string()
                .contains("trigger(Trigger::ProcessingTime"),
            "{error}"
        );
        let mut command = command_with_triggers::<Own>().expect("no clash");
        let help = command.render_long_help().to_string();
        assert!(
            help.contains("--checkpoint") && !help.contains("--batch-interval"),
            "{help}"
        );
    }

    #[test]
    fn an_executor_needs_no_application_arguments() {
        let Ok(Role::Executor(executor)) =
            parsed(&["executor", "--driver", "http://a:1,b:2", "--cores", "4"])
        else {
            panic!("an executor was expected");
        };
        assert_eq!(executor.driver, ["http://a:1", "b:2"]);
        assert!(parsed(&["executor"]).is_err(), "an executor needs a driver");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(
            parsed(&[]).is_err(),
            "the application's own argument is missing"
        );
        let error = parsed(&["--topic", "t", "--master", "yarn"])
            .map(|_| ())
            .expect_err("unknown master")
            .to_string();
        assert!(error.contains("local-cluster[E,C]"), "{error}");
        assert!(
            parsed(&[
                "--topic",
                "t",
                "--master",
                "local",
                "--listen",
                "127.0.0.1:1"
            ])
            .is_err()
        );
    }
}
