//! Where the parts that `integration-tests/setup.sh` installs are; the two must agree.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// The folder that `setup.sh` fills: `MILLSTREAM_TEST_HOME`, by default `~/.cache/millstream-tests`.
pub fn home() -> PathBuf {
    if let Some(home) = env::var_os("MILLSTREAM_TEST_HOME") {
        return PathBuf::from(home);
    }
    let user_home = env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    user_home.join(".cache/millstream-tests")
}

/// The folder of Kafka's jars: `KAFKA_HOME/libs` if that holds some, or what `setup.sh` copied.
pub fn kafka_jars() -> Result<PathBuf, Error> {
    if let Some(kafka_home) = env::var_os("KAFKA_HOME") {
        let libs = Path::new(&kafka_home).join("libs");
        if holds_kafka(&libs) {
            return Ok(libs);
        }
    }
    let lib = home().join("kafka/lib");
    if holds_kafka(&lib) {
        return Ok(lib);
    }
    Err(Error::Missing {
        part: "Apache Kafka",
        looked_at: lib,
    })
}

/// The `java` program: `JAVA_HOME`'s, or the one in `PATH`.
pub fn java() -> Result<PathBuf, Error> {
    if let Some(java_home) = env::var_os("JAVA_HOME") {
        let java = Path::new(&java_home).join("bin/java");
        if java.is_file() {
            return Ok(java);
        }
    }
    in_path("java").ok_or(Error::Missing {
        part: "a Java runtime",
        looked_at: PathBuf::from("java"),
    })
}

/// The `minio` program: the one in `PATH`, or what `setup.sh` built.
pub fn minio() -> Result<PathBuf, Error> {
    if let Some(minio) = in_path("minio") {
        return Ok(minio);
    }
    let built = home().join("minio/minio");
    if built.is_file() {
        return Ok(built);
    }
    Err(Error::Missing {
        part: "MinIO",
        looked_at: built,
    })
}

/// A Python interpreter that has `kafka-python`.
pub fn python() -> Result<PathBuf, Error> {
    let python = home().join("python/bin/python");
    if python.is_file() {
        return Ok(python);
    }
    Err(Error::Missing {
        part: "the tests' Python environment",
        looked_at: python,
    })
}

/// The folder for the logs of processes that tests start; made if it isn't there.
pub fn logs() -> Result<PathBuf, Error> {
    let logs = home().join("logs");
    fs::create_dir_all(&logs).map_err(Error::io(format!("make {}", logs.display())))?;
    Ok(logs)
}

fn holds_kafka(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| {
        entry
            .file_name()
            .to_string_lossy()
            .starts_with("kafka_2.13-")
    })
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}
