//! The build id: a hash of the running executable's bytes, taken once at start, off the critical path.

use std::{io, thread::JoinHandle};

use xxhash_rust::xxh3::Xxh3;

/// A hash that is being taken.
pub(crate) struct BuildId(JoinHandle<io::Result<String>>);

impl BuildId {
    /// Begins to hash the running executable.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn begin() -> io::Result<Self> {
        std::thread::Builder::new()
            .name("build-id".to_owned())
            .spawn(hash_executable)
            .map(Self)
    }

    /// Waits for the hash.
    ///
    /// # Errors
    /// When the executable can't be read.
    pub fn wait(self) -> io::Result<String> {
        self.0
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the hashing thread broke off")))
    }
}

fn hash_executable() -> io::Result<String> {
    // By way of /proc: right also after the file was replaced by a newer build.
    let mut file = std::fs::File::open("/proc/self/exe")?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = io::Read::read(&mut file, &mut buffer)?;
        if read == 0 {
            return Ok(format!("{:016x}", hash.digest()));
        }
        hash.update(&buffer[..read]);
    }
}
