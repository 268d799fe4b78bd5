//! A MinIO server with a bucket, and a client of it. One server serves a whole test binary; each test takes a prefix of its own.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use millstream_common::s3::Bucket;
use millstream_common::time::SystemClock;
use object_store::aws::AmazonS3Builder;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::cluster::{self, Application};
use crate::process::{ChildProcess, SpawnOptions};
use crate::{Error, installed, ports};

/// The bucket that is there.
pub const BUCKET: &str = "tests";
/// The name of the one user.
pub const USER: &str = "tests-user";
/// The user's password.
pub const PASSWORD: &str = "tests-password";

const START_LIMIT: Duration = Duration::from_secs(120);

/// A running server; killed when it is dropped, and when the test process ends.
#[derive(Debug)]
pub struct Minio {
    _process: ChildProcess,
    address: SocketAddr,
    bucket: Bucket,
    runtime: Runtime,
    /// Contents of objects that never change.
    known: Mutex<BTreeMap<String, Vec<u8>>>,
    _folder: TempDir,
}

impl Minio {
    /// The one server of this test binary, started by the first call.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<Minio, Error>> = OnceLock::new();
        match SHARED.get_or_init(Self::start) {
            Ok(server) => server,
            #[expect(
                clippy::panic,
                reason = "no test that asks for the shared server can go on without it"
            )]
            Err(error) => panic!("could not start the shared MinIO server: {error}"),
        }
    }

    /// Starts a server, and waits until it answers.
    pub fn start() -> Result<Self, Error> {
        ports::start_on_free(Self::try_start)
    }

    fn try_start() -> Result<Self, Error> {
        let folder = tempfile::Builder::new()
            .prefix("millstream-minio-")
            .tempdir()
            .map_err(Error::io("make a data directory for MinIO"))?;
        let data = folder.path().join("data");
        // A folder of the data directory is a bucket.
        fs::create_dir_all(data.join(BUCKET)).map_err(Error::io("make a bucket for MinIO"))?;
        let [port] = ports::free()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut command = Command::new(installed::minio()?);
        command
            .args(["server", "--quiet", "--anonymous", "--address"])
            .arg(address.to_string())
            .arg(&data)
            .env("MINIO_ROOT_USER", USER)
            .env("MINIO_ROOT_PASSWORD", PASSWORD)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            // Takes a data directory on the system's own disk.
            .env("MINIO_CI_CD", "on")
            .env("HOME", folder.path())
            .current_dir(folder.path());
        let options = SpawnOptions {
            remove_at_end: Some(folder.path().to_path_buf()),
            ..SpawnOptions::default()
        };
        let process = ChildProcess::spawn_with("minio", &command, &options)?;
        let health = format!("http://{address}/minio/health/ready");
        process.wait_answers(START_LIMIT, || cluster::get(&health).is_ok())?;
        let client = AmazonS3Builder::new()
            .with_endpoint(format!("http://{address}"))
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_access_key_id(USER)
            .with_secret_access_key(PASSWORD)
            .with_bucket_name(BUCKET)
            .build()
            .map_err(|error| Error::Misuse(error.to_string()))?;
        let patience = Duration::from_secs(30);
        let clock = Arc::new(SystemClock::new());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(Error::io("build the runtime of a MinIO client"))?;
        Ok(Self {
            _process: process,
            address,
            bucket: Bucket::over(Arc::new(client), BUCKET, patience, clock),
            runtime,
            known: Mutex::default(),
            _folder: folder,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An application that reaches a store at this address with this server's user.
    pub fn give_to(application: Application, address: SocketAddr) -> Application {
        application
            .env("AWS_ACCESS_KEY_ID", USER)
            .env("AWS_SECRET_ACCESS_KEY", PASSWORD)
            .conf("s3.endpoint", format!("http://{address}"))
            .conf("s3.allow_http", true)
    }

    /// The keys below a folder, which ends in no slash.
    pub fn keys(&self, folder: &str) -> Result<Vec<String>, Error> {
        let listed = self
            .runtime
            .block_on(self.bucket.list(folder))
            .map_err(failed)?;
        Ok(listed.into_iter().map(|(key, _)| key).collect())
    }

    /// What an object holds, if it is there.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let found = self
            .runtime
            .block_on(self.bucket.get(key))
            .map_err(failed)?;
        Ok(found.map(|bytes| bytes.to_vec()))
    }

    /// The same of an object that never changes; it is read once.
    pub fn get_lasting(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        if let Some(known) = self.known.lock().get(key) {
            return Ok(Some(known.clone()));
        }
        let found = self.get(key)?;
        if let Some(bytes) = &found {
            self.known.lock().insert(key.to_owned(), bytes.clone());
        }
        Ok(found)
    }

    /// Every object below a folder.
    pub fn objects(&self, folder: &str) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let mut objects = BTreeMap::new();
        for key in self.keys(folder)? {
            if let Some(bytes) = self.get(&key)? {
                objects.insert(key, bytes);
            }
        }
        Ok(objects)
    }

    /// Whether an upload in parts is open.
    pub fn upload_is_open(&self, key: &str, upload: &str) -> bool {
        let part = self.bucket.put_part(key, upload, 99, Bytes::new());
        self.runtime.block_on(part).is_ok()
    }
}

fn failed(error: millstream_common::s3::Error) -> Error {
    Error::Misuse(error.to_string())
}
