//! The folder in which this process runs, and what is below it.

use std::{
    env, fs, io,
    path::{self, Path, PathBuf},
};

/// The folder in which this process runs.
///
/// # Errors
/// Names the folder, which may be gone.
pub fn working_folder() -> io::Result<PathBuf> {
    env::current_dir().map_err(|error| {
        // The system still knows what it was called.
        let folder = fs::read_link("/proc/self/cwd").unwrap_or_else(|_| PathBuf::from("."));
        let message = format!(
            "the working folder {} can't be used: {error}; start in a folder that is there, or give paths from the root",
            folder.display()
        );
        io::Error::new(error.kind(), message)
    })
}

/// The path from the root; a relative one is below the working folder.
///
/// # Errors
/// When the path is empty, or relative and the working folder is gone.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    if path.is_absolute() || path.as_os_str().is_empty() {
        return path::absolute(path);
    }
    path::absolute(working_folder()?.join(path))
}
