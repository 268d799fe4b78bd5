//! Text files: lines of files that appear in a folder as a source, folders of part files as a sink.
//!
//! Layout:
//! - [`sink`]: a folder of part files for each batch
//! - [`source`]: lines of new files

use std::{
    io,
    path::{Path, PathBuf},
};

use millstream_common::working_folder;

pub mod sink;
pub mod source;

/// Whether a location is a path that depends on a folder.
pub fn is_relative(location: &str) -> bool {
    let path = plain(location);
    !path.contains("://") && Path::new(path).is_relative()
}

/// The location as a path from the root; a relative one is below `folder`, or this process's working folder.
fn absolute(location: &str, folder: Option<&Path>) -> io::Result<PathBuf> {
    let path = Path::new(plain(location));
    match folder {
        Some(folder) => working_folder::absolute(&folder.join(path)),
        None => working_folder::absolute(path),
    }
}

fn plain(location: &str) -> &str {
    location.strip_prefix("file://").unwrap_or(location)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_from_the_root_and_urls_are_not_relative() {
        for location in ["out", "./out", "../out", "file://out"] {
            assert!(is_relative(location), "{location}");
        }
        for location in ["/out", "file:///out", "s3://bucket/out", "hdfs://host/out"] {
            assert!(!is_relative(location), "{location}");
        }
    }
}
