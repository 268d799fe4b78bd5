//! Object stores that speak S3: what their locations look like, how they are reached, and what can go wrong with them.
//!
//! Layout:
//! - `bucket`: the client: one request at a time, tried again while the store is away (feature `s3`)
//! - `answers`: what an error of the client means (feature `s3`)
//! - `client`: what a bucket sends requests with (feature `s3`)
//! - `away`: says once that a store is away, and once that it is back (feature `s3`)
//!
//! Without the feature only locations are understood, so that they can be refused by name.

#[cfg(feature = "s3")]
mod answers;
#[cfg(feature = "s3")]
mod away;
#[cfg(feature = "s3")]
mod bucket;
#[cfg(feature = "s3")]
mod client;
#[cfg(all(test, feature = "s3"))]
pub(crate) mod fake;

use std::{fmt, time::Duration};

#[cfg(feature = "s3")]
pub use self::bucket::{Backend, Bucket, Completed, Created};

use crate::{
    config::{Config, keys},
    failure::{Fault, Retry},
};

/// Whether this build can use `s3://` locations.
pub const ENABLED: bool = cfg!(feature = "s3");

const SCHEME: &str = "s3://";
/// A path that begins with it is a slip: nobody calls a folder so.
const MEANT: &str = "s3:";
const MAX_KEY_BYTES: usize = 512;

/// A location such as `s3://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    bucket: String,
    prefix: String,
}

impl Url {
    /// Whether a location is meant to be one of an object store, even if it can't be: `s3:/bucket` is no folder `s3:`.
    pub fn is_meant_by(location: &str) -> bool {
        begins_with(location, MEANT)
    }

    /// Understands `s3://bucket/prefix`. A slash at the end is dropped; the prefix may be empty.
    ///
    /// # Errors
    /// When it is no such location, or one that no key can begin with.
    pub fn parse(location: &str) -> Result<Self, Error> {
        let refused = |reason: &'static str| {
            Err(Error::Location {
                location: location.to_owned(),
                reason,
            })
        };
        if !begins_with(location, SCHEME) {
            return refused("it doesn't begin with s3://, as in s3://bucket/prefix");
        }
        let rest = &location[SCHEME.len()..];
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if bucket.len() < 3 || bucket.len() > 63 {
            return refused("a bucket's name has 3 to 63 characters, as in s3://bucket/prefix");
        }
        let plain = |c: char| {
            c.is_ascii_lowercase()
                || c.is_ascii_uppercase()
                || c.is_ascii_digit()
                || matches!(c, '-' | '.' | '_')
        };
        if !bucket.chars().all(plain) {
            return refused("a bucket's name has letters, digits, dots and hyphens only");
        }
        if prefix.len() > MAX_KEY_BYTES {
            return refused("the prefix is longer than 512 bytes");
        }
        let part_is_usable = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && !part.chars().any(|c| c == '\\' || c.is_control())
        };
        if !prefix.is_empty() && !prefix.split('/').all(part_is_usable) {
            return refused(
                "a part of its prefix is empty, `.` or `..`, or has a backslash or control character",
            );
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What keys begin with: without a slash at either end, or empty.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

fn begins_with(location: &str, wanted: &str) -> bool {
    let start = location.get(..wanted.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(wanted))
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{SCHEME}{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(formatter, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

/// How object stores are reached. Credentials come from the `AWS_*` variables of each process alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The store's URL; without it `AWS_ENDPOINT_URL`, else Amazon's own.
    pub endpoint: Option<String>,
    /// The region; without it `AWS_REGION`, else `us-east-1`.
    pub region: Option<String>,
    /// Whether `http://` endpoints are used.
    pub allow_http: bool,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How long a store that is away is waited for.
    pub retry_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            allow_http: false,
            request_timeout: Duration::from_secs(30),
            retry_timeout: Duration::from_secs(600),
        }
    }
}

impl Settings {
    /// Settings as the configuration says.
    pub fn of_config(config: &Config) -> Self {
        Self {
            endpoint: config.get(keys::S3_ENDPOINT),
            region: config.get(keys::S3_REGION),
            allow_http: config.get(keys::S3_ALLOW_HTTP),
            request_timeout: config.get(keys::S3_REQUEST_TIMEOUT),
            retry_timeout: config.get(keys::S3_RETRY_TIMEOUT),
        }
    }
}

/// What can go wrong with an object store. Messages hold no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The location is none.
    #[error("the location `{location}` is not usable: {reason}")]
    Location {
        /// The location.
        location: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The program was built without it.
    #[error(
        "this program was built without support for s3://, which `{location}` needs: add it to the program with \
         `cargo add millstream --features s3`, then build it again"
    )]
    NotBuilt {
        /// The location.
        location: String,
    },
    /// The settings don't go together.
    #[error("can't use {location} with these settings: {reason}")]
    Settings {
        /// The location.
        location: String,
        /// What is wrong.
        reason: String,
    },
    /// No credentials, or ones that the store doesn't know.
    #[error(
        "no usable credentials for {location}: {detail}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the variables of a \
         role) for the driver and every executor"
    )]
    Credentials {
        /// The location.
        location: String,
        /// What was said.
        detail: String,
    },
    /// There is no such bucket.
    #[error(
        "there is no bucket `{bucket}` at {endpoint}: create it, or correct the location or s3.endpoint"
    )]
    NoBucket {
        /// The bucket.
        bucket: String,
        /// Where it was looked for.
        endpoint: String,
    },
    /// The credentials don't suffice.
    #[error(
        "may not {action} {key} in {location}: {detail}; give these credentials the right to list the bucket and to get, put and \
         delete its objects"
    )]
    Denied {
        /// What was tried.
        action: &'static str,
        /// On what.
        key: String,
        /// The location.
        location: String,
        /// What the store said.
        detail: String,
    },
    /// The clocks differ.
    #[error(
        "{location} refuses requests because this machine's clock differs from the store's: {detail}; set the clock right (NTP) \
         on the driver's and the executors' machines"
    )]
    Clock {
        /// The location.
        location: String,
        /// What the store said.
        detail: String,
    },
    /// The store said no.
    #[error(
        "could not {action} {key} in {location}: the store refused: {detail}; check s3.endpoint and s3.region"
    )]
    Refused {
        /// What was tried.
        action: &'static str,
        /// On what.
        key: String,
        /// The location.
        location: String,
        /// What the store said.
        detail: String,
    },
    /// The store did not answer for as long as it is waited for.
    #[error(
        "could not {action} {key} in {location}: the store did not answer for {waited:?} ({detail}); see that it runs and that \
         s3.endpoint is its address, then start again: nothing is lost"
    )]
    Away {
        /// What was tried.
        action: &'static str,
        /// On what.
        key: String,
        /// The location.
        location: String,
        /// For how long.
        waited: Duration,
        /// What the last attempt ended with.
        detail: String,
    },
}

impl Error {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Error::Location { .. } | Error::NotBuilt { .. } | Error::Settings { .. } => Fault::User,
            _ => Fault::Environment,
        }
    }

    /// Whether the same call can succeed a little later. A store that is away was waited for already.
    pub fn retry(&self) -> Retry {
        Retry::Never
    }

    /// A stable word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Location { .. } => "s3.location",
            Error::NotBuilt { .. } => "s3.not_built",
            Error::Settings { .. } => "s3.settings",
            Error::Credentials { .. } => "s3.credentials",
            Error::NoBucket { .. } => "s3.no_bucket",
            Error::Denied { .. } => "s3.denied",
            Error::Clock { .. } => "s3.clock",
            Error::Refused { .. } => "s3.refused",
            Error::Away { .. } => "s3.away",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let url = Url::parse("s3://my-bucket/a/b").unwrap();
        assert_eq!((url.bucket(), url.prefix()), ("my-bucket", "a/b"));
        assert_eq!(url.to_string(), "s3://my-bucket/a/b");
        assert_eq!(Url::parse("S3://my-bucket/a/b/").unwrap(), url);
        let bare = Url::parse("s3://my-bucket").unwrap();
        assert_eq!(
            (bare.prefix(), bare.to_string().as_str()),
            ("", "s3://my-bucket")
        );
    }

    #[test]
    fn locations_that_no_store_has_are_refused_by_name() {
        for location in [
            "s3:///a",
            "s3://b/a",
            "s3://buc ket/a",
            "s3://bucket//a",
            "s3://bucket/a/../b",
            "s3://bucket/a\\b",
            "s3://user@bucket/a",
            "gs://bucket/a",
            "s3:bucket",
            "s3:/bucket/a",
        ] {
            let error = Url::parse(location).unwrap_err();
            assert!(error.to_string().contains(location), "{error}");
            assert_eq!(error.fault(), Fault::User);
        }
    }
}
