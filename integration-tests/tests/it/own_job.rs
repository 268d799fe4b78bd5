//! A job of one's own: what `millstream new` writes is built outside of the workspace, tested, run, changed, and run on.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use millstream_integration_tests::{
    cluster::{Application, Cluster, PATIENCE},
    process::ChildProcess,
    wait::wait_until,
};

use crate::word_job::{Counts, assert_ends, read_batches, text, wait_executors};

/// As a user might call it; with a hyphen, so that crate and module differ.
const NAME: &str = "own-words";
/// For compiling, on a busy machine and with nothing compiled before.
pub(crate) const BUILD: Duration = Duration::from_secs(900);

/// The folder of this build's executables.
fn profile_folder() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_testjob")).parent().unwrap()
}

pub(crate) fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Cargo, with the target directory and profile of this build.
pub(crate) fn cargo(folder: &Path, subcommand: &str) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    // Of the package under test; build scripts that look at them would run again, and replace this very program.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", profile_folder().parent().unwrap())
        .args([subcommand, "--quiet", "--offline"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    cargo
}

/// What it wrote, at the end.
fn run(name: &str, command: &Command) -> String {
    let process = ChildProcess::spawn(name, command).unwrap();
    process.wait_success(BUILD).unwrap();
    fs::read_to_string(process.log()).unwrap()
}

/// The `millstream` program, built if it isn't.
pub(crate) fn tool() -> &'static Path {
    static TOOL: OnceLock<PathBuf> = OnceLock::new();
    TOOL.get_or_init(|| {
        let mut build = cargo(checkout(), "build");
        // With the whole workspace's features nothing is compiled twice.
        build.args(["--workspace", "--bin", "millstream", "--test", "it"]);
        run("cargo", &build);
        profile_folder().join("millstream")
    })
}

/// An example of the workspace, built if it isn't.
pub(crate) fn example(name: &str) -> PathBuf {
    let mut build = cargo(checkout(), "build");
    build.args(["--workspace", "--example", name, "--test", "it"]);
    run("cargo", &build);
    profile_folder().join("examples").join(name)
}

/// The crate that `millstream new` wrote.
struct OwnJob {
    folder: tempfile::TempDir,
}

impl OwnJob {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut new = Command::new(tool());
        new.current_dir(folder.path())
            .args(["new", NAME, "--path", &text(checkout())]);
        run("new", &new);
        let job = Self { folder };
        // What a first build writes; taken from here so that nothing is downloaded.
        fs::copy(checkout().join("Cargo.lock"), job.in_crate("Cargo.lock")).unwrap();
        fs::write(job.path("profile.toml"), profiles()).unwrap();
        job
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn in_crate(&self, name: &str) -> PathBuf {
        self.path(NAME).join(name)
    }

    fn cargo(&self, subcommand: &str) {
        let mut cargo = cargo(&self.path(NAME), subcommand);
        cargo.args(["--config", &text(&self.path("profile.toml"))]);
        // Nowhere else is Millstream compiled without the feature `sql`: here a warning shows.
        let output = run("cargo", &cargo);
        assert!(!output.contains("-->"), "{output}");
    }

    /// Builds, and keeps the executable under another name.
    fn build(&self, kept: &str) -> PathBuf {
        self.cargo("build");
        let kept = self.path(kept);
        fs::copy(profile_folder().join(NAME), &kept).unwrap();
        kept
    }

    /// How it is run: always with the same input, output and checkpoint.
    fn application(&self, program: &Path) -> Application {
        let output = self.path("out/counts");
        Application::new(program, self.folder.path())
            .unwrap()
            .args(["--dir", &text(&self.path("input")), "--existing"])
            .args(["--output", &text(&output), "--batch-interval", "200ms"])
            .args(["--checkpoint", &text(&self.path("checkpoint"))])
            .conf("parallelism", 2)
            .conf("checkpoint.fsync", false)
    }

    /// Lets a file appear, whole.
    fn put(&self, name: &str, content: &str) {
        let input = self.path("input");
        fs::create_dir_all(&input).unwrap();
        let hidden = input.join(format!(".{name}"));
        fs::write(&hidden, content).unwrap();
        fs::rename(hidden, input.join(name)).unwrap();
    }

    fn counted(&self) -> Counts {
        let mut total = Counts::new();
        for (word, count) in read_batches(&self.path("out")).into_values().flatten() {
            *total.entry(word).or_default() += count;
        }
        total
    }

    /// Waits until as many words are counted, and asserts that they are these.
    fn wait_counted(&self, cluster: &Cluster, expected: &[(&str, u64)]) {
        let expected: Counts = expected
            .iter()
            .map(|(word, count)| ((*word).to_owned(), *count))
            .collect();
        let wanted: u64 = expected.values().sum();
        wait_until(PATIENCE, "all words to be counted", || {
            let driver = &cluster.driver.process;
            let ended = driver.exit_status().unwrap();
            assert!(ended.is_none(), "{}", driver.output().tail());
            self.counted().values().sum::<u64>() >= wanted
        })
        .unwrap();
        assert_eq!(self.counted(), expected);
    }

    /// The same, then an orderly stop, after which nothing has changed.
    fn finish(&self, cluster: Cluster, expected: &[(&str, u64)]) {
        self.wait_counted(&cluster, expected);
        let before = self.counted();
        assert_eq!(cluster.stop().unwrap(), Some(0));
        assert_eq!(self.counted(), before);
    }
}

/// The profiles of this workspace, so that dependencies which were compiled for it are taken as they are.
fn profiles() -> String {
    let manifest = fs::read_to_string(checkout().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let mut config = toml::Table::new();
    config.insert("profile".to_owned(), manifest["profile"].clone());
    config.to_string()
}

#[test]
fn a_new_job_is_tested_run_changed_and_goes_on() {
    let job = OwnJob::new();
    job.cargo("test");
    let first = job.build("first");
    let mut format = Command::new(env!("CARGO"));
    format
        .current_dir(job.path(NAME))
        .args(["fmt", "--", "--check"]);
    run("fmt", &format);

    job.put("a", "to be or\nnot to be\n");
    let application = job.application(&first);
    let alone = application.clone().master("local[2]").start(0).unwrap();
    let mut expected = vec![("to", 2), ("be", 2), ("or", 1), ("not", 1)];
    job.finish(alone, &expected);

    job.put("b", "that is\n");
    let mut cluster = application.start(2).unwrap();
    wait_executors(&cluster, 2);
    expected.extend([("that", 1), ("is", 1)]);
    let builds = cluster.driver.rest("application").unwrap();
    let first_build = builds["build_id"].as_str().unwrap().to_owned();
    job.wait_counted(&cluster, &expected);

    // The driver is replaced by a new build; the executors of the old one come back to it.
    change_closure(&job);
    let second = job.build("second");
    cluster.driver.process.kill().unwrap();
    let changed = application.clone().with_program(&second);
    cluster.driver = changed.start_driver().unwrap();
    cluster.driver.wait_ready().unwrap();
    let builds = cluster.driver.rest("application").unwrap();
    let second_build = builds["build_id"].as_str().unwrap().to_owned();
    assert_ne!(first_build, second_build);
    for pid in cluster.executors() {
        let refused = ["error:", first_build.as_str(), second_build.as_str()];
        cluster
            .with_executor(pid, |executor| assert_ends(executor, 1, &refused))
            .unwrap();
    }

    // And the job goes on where it was, with the new closure.
    job.put("c", "the question\n");
    cluster.application = changed;
    cluster.add_executor().unwrap();
    cluster.add_executor().unwrap();
    wait_executors(&cluster, 2);
    expected.extend([("THE", 1), ("QUESTION", 1)]);
    job.finish(cluster, &expected);
}

/// What a user might do first: another closure.
fn change_closure(job: &OwnJob) {
    let path = job.in_crate("src/lib.rs");
    let source = fs::read_to_string(&path).unwrap();
    let changed = source.replace(
        ".map(|word| (word, 1u64))",
        ".map(|word| (Text::from(word.to_uppercase()), 1u64))",
    );
    assert_ne!(changed, source, "the template's closure is another one");
    fs::write(path, changed).unwrap();
}
