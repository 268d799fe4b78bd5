//! The application of the runtime's tests: jobs over text files that show what driver and executors do, chosen by `--job`.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::OnceLock,
    time::Duration,
};

use millstream::{
    common::time::{Clock, SystemClock},
    prelude::*,
};
use millstream_integration_tests::rows;
use serde::{Deserialize, Serialize};

/// A job of the runtime's tests.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
struct Args {
    /// Which job
    #[arg(long, value_enum)]
    job: JobName,
    /// Folder in which text files appear
    #[arg(long)]
    dir: PathBuf,
    /// Saves batches as text files
    #[arg(long)]
    output: PathBuf,
    /// Folder for notes of what was called, a file a process
    #[arg(long)]
    calls: PathBuf,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum JobName {
    /// Makes the rows `FROM` to `UNTIL` of each line and groups them by key.
    Explode,
    /// Two outputs of one operator.
    Shared,
    /// The same with `persist`.
    Persisted,
    /// Counts words; every call fails in the process that calls first.
    OneFails,
}

fn job(ssc: &StreamingContext, args: Args) -> Result<()> {
    let lines = ssc.text_file_stream(&args.dir)?;
    let calls = args.calls.clone();
    match args.job {
        JobName::Explode => {
            let groups = lines.flat_map(numbers).group_by_key();
            groups
                .map(|(key, values)| (key, rows::summarize(key, &values)))
                .save_as_text_files(&args.output)?;
        }
        JobName::Shared | JobName::Persisted => {
            let mut shared = lines.map(move |line| {
                note_call(&calls, &line);
                line
            });
            if args.job == JobName::Persisted {
                shared = shared.persist();
            }
            count(&shared).save_as_text_files(&args.output)?;
            let mut totals = args.output.clone();
            totals.as_mut_os_string().push("-totals");
            shared.count().save_as_text_files(totals)?;
        }
        JobName::OneFails => {
            let lines = lines.map(move |line| {
                note_call(&calls, "call");
                assert!(!is_first_process(&calls), "this process called first");
                spin(Duration::from_millis(100));
                line
            });
            count(&lines).save_as_text_files(&args.output)?;
        }
    }
    Ok(())
}

/// The rows that a line names, with their keys.
fn numbers(line: Text) -> impl Iterator<Item = (u64, Text)> {
    let mut ends = line.split(' ').map(|end| end.parse::<u64>().unwrap_or(0));
    let from = ends.next().unwrap_or(0);
    let until = ends.next().unwrap_or(0);
    (from..until).map(|number| (number % rows::KEYS, rows::value(number)))
}

fn count(lines: &DStream<Text>) -> DStream<(Text, u64)> {
    lines
        .flat_map(|line| line.split(' '))
        .map(|word| (word, 1u64))
        .reduce_by_key(|a, b| a + b)
}

fn note_call(folder: &Path, text: &str) {
    let path = folder.join(format!("calls-{}", std::process::id()));
    let file = OpenOptions::new().append(true).create(true).open(path);
    let noted = file.and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()));
    assert!(noted.is_ok(), "a call could not be noted: {noted:?}");
}

fn is_first_process(folder: &Path) -> bool {
    static IS_FIRST: OnceLock<bool> = OnceLock::new();
    *IS_FIRST.get_or_init(|| {
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(folder.join("first"));
        made.and_then(|mut file| write!(file, "{}", std::process::id()))
            .is_ok()
    })
}

/// Keeps a core busy.
fn spin(time: Duration) {
    let clock = SystemClock::new();
    let end = clock.now().after(time);
    while clock.now() < end {
        std::hint::spin_loop();
    }
}

fn main() -> ExitCode {
    millstream::launch(job)
}
