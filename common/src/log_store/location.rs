//! What a user may write for a checkpoint's place.

use std::path::{Path, PathBuf};

use super::Error;
use crate::{s3, working_folder::absolute};

/// A location that has a store in this build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder, by absolute path.
    File(PathBuf),
    /// A prefix of a bucket.
    S3(s3::Url),
}

/// Understands `s3://bucket/prefix`, `file:///x`, `/x` and a path relative to the working directory. Paths are taken as they stand: nothing
/// in them is decoded or expanded.
pub fn parse_location(location: &str) -> Result<Location, Error> {
    let unusable = |reason: String| Error::Location {
        location: location.to_owned(),
        reason,
    };
    if s3::Url::is_meant_by(location) {
        return Ok(Location::S3(s3::Url::parse(location)?));
    }
    let path = match scheme_of(location) {
        None => location,
        Some(scheme) if scheme.eq_ignore_ascii_case("file") => {
            let rest = &location[scheme.len() + 1..];
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if !path.starts_with('/') {
                return Err(unusable(
                    "a file location has no host and an absolute path, as in file:///path"
                        .to_owned(),
                ));
            }
            path
        }
        Some(scheme) => {
            let (location, scheme) = (location.to_owned(), scheme.to_owned());
            return Err(Error::UnsupportedScheme { location, scheme });
        }
    };
    if path.is_empty() {
        return Err(unusable("it is empty".to_owned()));
    }
    absolute(Path::new(path))
        .map(Location::File)
        .map_err(|error| unusable(error.to_string()))
}

/// What stands before `://`, or the `file` of `file:/x`, if that is a scheme.
fn scheme_of(location: &str) -> Option<&str> {
    let (scheme, rest) = location.split_once(':')?;
    let mut letters = scheme.chars();
    let begins = letters.next().is_some_and(|c| c.is_ascii_alphabetic());
    let goes_on = letters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    let is_file = scheme.eq_ignore_ascii_case("file") && rest.starts_with('/');
    (begins && goes_on && (is_file || rest.starts_with("//"))).then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(location: &str) -> PathBuf {
        let Location::File(path) = parse_location(location).unwrap() else {
            panic!("{location} is no path");
        };
        path
    }

    #[test]
    fn paths_and_file_urls() {
        assert_eq!(path("/x/y"), PathBuf::from("/x/y"));
        assert_eq!(path("file:///x y/%20"), PathBuf::from("/x y/%20"));
        assert_eq!(path("FILE:///x"), PathBuf::from("/x"));
        assert_eq!(path("file:/x"), PathBuf::from("/x"));
        assert_eq!(path("a/b"), std::env::current_dir().unwrap().join("a/b"));
        assert_eq!(
            path("12:30"),
            std::env::current_dir().unwrap().join("12:30")
        );
    }

    #[test]
    fn object_stores() {
        let url = s3::Url::parse("s3://bucket/key").unwrap();
        assert_eq!(
            parse_location("s3://bucket/key").unwrap(),
            Location::S3(url)
        );
        // One of one slash would be a folder of this machine alone.
        for slip in ["s3://b", "s3:/bucket/key", "S3:bucket"] {
            let error = parse_location(slip).unwrap_err();
            assert!(matches!(error, Error::ObjectStore(_)), "{error}");
        }
    }

    #[test]
    fn others_are_refused_by_name() {
        let error = parse_location("hdfs://host/key").unwrap_err();
        assert!(
            matches!(&error, Error::UnsupportedScheme { scheme, .. } if scheme == "hdfs"),
            "{error}"
        );
        assert!(
            error.to_string().contains("not supported by this build"),
            "{error}"
        );
        for location in ["", "file://host/x", "file://"] {
            assert!(
                matches!(parse_location(location), Err(Error::Location { .. })),
                "{location}"
            );
        }
    }
}
