//! Spark's programs, which benchmarks/setup.sh installs and compiles.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use millstream_integration_tests::process::ChildProcess;

use crate::{
    Error,
    ours::{Batch, RUN_LIMIT},
};

/// Driver and tasks in one process with two slots.
pub const LOCAL: &str = "local[2]";
/// A driver and two executor processes of one slot and 1 GiB each.
pub const LOCAL_CLUSTER: &str = "local-cluster[2,1,1024]";
/// The two programs.
pub const STRUCTURED: &str = "structured";
/// DStreams.
pub const DSTREAMS: &str = "dstreams";

/// Where both Sparks are.
#[derive(Debug)]
pub struct Spark {
    home: PathBuf,
}

/// The same as in setup.sh.
fn home() -> PathBuf {
    match env::var_os("MILLSTREAM_BENCH_HOME") {
        Some(home) => PathBuf::from(home),
        None => {
            let user = env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
            user.join(".cache/millstream-benchmarks")
        }
    }
}

impl Spark {
    /// What setup.sh installed.
    pub fn installed() -> Result<Self, Error> {
        let home = home();
        for program in [STRUCTURED, DSTREAMS] {
            let stamp = home.join(program).join(".stamp");
            if !stamp.is_file() {
                let message = format!(
                    "Spark is missing (looked at {}): run benchmarks/setup.sh, or give --no-spark",
                    stamp.display()
                );
                return Err(message.into());
            }
        }
        Ok(Self { home })
    }

    /// Starts a program.
    pub fn start(
        &self,
        program: &str,
        master: &str,
        arguments: &[&str],
    ) -> Result<ChildProcess, Error> {
        let folder = self.home.join(program);
        let distribution = folder.join("spark");
        let mut command = Command::new(distribution.join("bin/spark-submit"));
        command
            .env("SPARK_HOME", &distribution)
            .env("SPARK_LOCAL_IP", "127.0.0.1")
            .args(["--class", "Words", "--master", master])
            .args(["--driver-memory", "4g"])
            .args(["--conf", "spark.ui.enabled=false"])
            .args(["--conf", "spark.sql.shuffle.partitions=2"])
            .args(["--conf", "spark.default.parallelism=2"])
            .arg("--jars")
            .arg(jars(&folder.join("jars"))?)
            .arg(folder.join("program.jar"))
            .args(arguments);
        Ok(ChildProcess::spawn(&format!("spark-{program}"), &command)?)
    }

    /// Runs a program to its end and gives its batches.
    pub fn run(
        &self,
        program: &str,
        master: &str,
        arguments: &[&str],
    ) -> Result<Vec<Batch>, Error> {
        batches_of(&self.start(program, master, arguments)?)
    }
}

/// Waits for a program's end, and gives its batches that had rows.
pub fn batches_of(process: &ChildProcess) -> Result<Vec<Batch>, Error> {
    let mut batches = Vec::new();
    process.wait_for_line("its end", RUN_LIMIT, |line| {
        batches.extend(batch_of(&line.text).filter(|batch| batch.rows > 0));
        line.text == "END"
    })?;
    Ok(batches)
}

/// Spark's own list of jars.
fn jars(folder: &Path) -> Result<String, Error> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jar") {
            paths.push(path.to_string_lossy().into_owned());
        }
    }
    paths.sort();
    Ok(paths.join(","))
}

/// The batch that a line tells of.
pub fn batch_of(line: &str) -> Option<Batch> {
    let mut parts = line.strip_prefix("BATCH ")?.split(' ');
    let (id, rows) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let millis = parts.next()?.parse().ok()?;
    Some(Batch {
        id,
        rows,
        millis,
        cycle: millis,
        retries: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_of_a_batch() {
        let batch = batch_of("BATCH 3 1000000 2345").unwrap();
        assert_eq!(
            (batch.id, batch.rows, batch.millis),
            (3, 1_000_000, 2_345.0)
        );
        assert!(batch_of("TOTAL 5").is_none());
    }
}
