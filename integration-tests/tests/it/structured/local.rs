//! A session in this process, a folder that it reads and one that it writes.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use millstream::sql::{DataFrame, Error, Master, Result, Session, StreamingQuery};
use millstream_common::config::Config;
use millstream_integration_tests::cluster::get;
use serde_json::Value;
use tempfile::TempDir;
use walkdir::WalkDir;

/// How long a query may take to do what it is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.path("input")).unwrap();
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Puts a file whole.
    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let staged = self.path("staged");
        fs::write(&staged, content).unwrap();
        fs::rename(staged, self.path("input").join(name)).unwrap();
    }

    /// A session that keeps its queries' progress in the folder.
    pub fn session(&self, configuration: &[(&str, &str)]) -> Session {
        let mut config = Config::builder()
            .conf("driver.http", "127.0.0.1:0")
            .conf("checkpoint.fsync", false)
            .conf("time.zone", "UTC");
        for (key, value) in configuration {
            config = config.conf(*key, *value);
        }
        Session::builder()
            .config(&config.build().unwrap())
            .master(Master::Local { slots: 2 })
            .conf("parallelism", 2)
            .checkpoint(&self.text("checkpoint"))
            .build()
            .unwrap()
    }

    /// Copies rows to the folder `out`.
    pub fn copy(&self, frame: DataFrame) -> StreamingQuery {
        let writer = frame.write_stream().format("json");
        writer.start_at(&self.text("out")).unwrap()
    }

    /// The rows of all files in `out`, in order of their text.
    pub fn rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for path in files_below(&self.path("out")) {
            let text = fs::read_to_string(path).unwrap();
            rows.extend(text.lines().map(str::to_owned));
        }
        rows.sort();
        rows
    }
}

/// Files that readers are to see.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = WalkDir::new(folder).into_iter();
    let is_seen = |name: &str| !name.starts_with(['.', '_']);
    let seen = entries.filter_entry(|entry| entry.file_name().to_str().is_some_and(is_seen));
    let files = seen.flatten().filter(|entry| entry.file_type().is_file());
    files.map(|entry| entry.into_path()).collect()
}

/// Lets the query do all there is, and ends it. Gives how many malformed records this run counted.
pub fn finish(session: &Session, query: &StreamingQuery) -> u64 {
    query.process_all_available().unwrap();
    let count = malformed(session, query);
    query.stop().unwrap();
    count
}

/// Why the query ends.
pub fn failure(query: &StreamingQuery) -> Error {
    let ended = query.await_termination_timeout(PATIENCE);
    ended.expect_err("the query goes on, or was stopped")
}

/// The query ends with an error that has this code and these texts.
pub fn assert_fails(query: &StreamingQuery, code: &str, texts: &[&str]) {
    let error = failure(query);
    let said = error.to_string();
    assert_eq!(error.code(), code, "{said}");
    for text in texts {
        assert!(said.contains(text), "`{text}` is not in: {said}");
    }
}

/// The query isn't begun, with an error that has this code and these texts.
pub fn assert_refused(started: Result<StreamingQuery>, code: &str, texts: &[&str]) {
    let error = started.expect_err("the query was begun");
    let said = error.to_string();
    assert_eq!(error.code(), code, "{said}");
    for text in texts {
        assert!(said.contains(text), "`{text}` is not in: {said}");
    }
}

/// Malformed records of the batches that the query has run, which still runs.
fn malformed(session: &Session, query: &StreamingQuery) -> u64 {
    let address = session.http().unwrap();
    let batches = get(&format!("http://{address}/api/v1/batches")).unwrap();
    let batches: Vec<Value> = serde_json::from_str(&batches).unwrap();
    let progress = query.recent_progress();
    let own = progress.iter().map(|batch| batch.batch_id);
    let count = |number: u64| {
        let found = batches.iter().find(|batch| batch["batch"] == number);
        found.unwrap()["malformed"].as_u64().unwrap()
    };
    own.map(count).sum()
}
