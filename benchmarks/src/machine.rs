//! What the benchmarks ran on, when, and by which command.

use std::{fmt, fs, process::Command};

use serde::Serialize;

/// The machine and the moment.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    processor: String,
    cores: usize,
    memory_gib: u64,
    system: String,
    load: String,
    date: String,
    commit: String,
}

fn line_of(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    let (_, value) = line.split_once([':', '='])?;
    Some(value.trim().trim_matches('"').to_owned())
}

fn commit() -> String {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

impl Machine {
    /// This machine, now.
    pub fn look() -> Self {
        let kibibytes = line_of("/proc/meminfo", "MemTotal")
            .and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            processor: line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kibibytes.unwrap_or(0).div_ceil(1 << 20),
            system: line_of("/etc/os-release", "PRETTY_NAME").unwrap_or_else(|| "unknown".into()),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            date: jiff::Timestamp::now()
                .strftime("%Y-%m-%d %H:%M UTC")
                .to_string(),
            commit: commit(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Machine: {}, {} cores, {} GiB, {}; load {} before the start. Date: {}. Commit: {}.",
            self.processor,
            self.cores,
            self.memory_gib,
            self.system,
            self.load,
            self.date,
            self.commit
        )
    }
}

/// The command that a user gave.
pub fn command_line() -> String {
    let mut words = vec!["benchmarks/run.sh".to_owned()];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        // That one is run.sh's.
        if argument == "--programs" {
            arguments.next();
        } else {
            words.push(argument);
        }
    }
    words.join(" ")
}
