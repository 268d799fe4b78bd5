//! The client of a bucket, as settings and variables say.

use std::time::Duration;

use object_store::{
    ClientConfigKey, Error as ClientError, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
};

use super::{Error, Settings, Url};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client as settings and variables say, and the endpoint's name for messages.
pub(super) fn client(url: &Url, settings: &Settings) -> Result<(AmazonS3, String), Error> {
    let refused = |reason: String| Error::Settings {
        location: url.to_string(),
        reason,
    };
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(url.bucket());
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder
            .with_endpoint(endpoint)
            .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    let of_s3 = builder.get_config_value(&AmazonS3ConfigKey::S3Endpoint);
    let endpoint = of_s3.or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let plain = endpoint.as_deref().is_some_and(|endpoint| {
        endpoint
            .get(..7)
            .is_some_and(|start| start.eq_ignore_ascii_case("http://"))
    });
    let allowed_by_variable = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value == "true");
    if plain && !settings.allow_http && !allowed_by_variable {
        let endpoint = endpoint.unwrap_or_default();
        return Err(refused(format!(
            "the endpoint {endpoint} is plain HTTP, by which everybody on the way can read and change data: use https://, or set \
             s3.allow_http=true"
        )));
    }
    let connect_timeout = CONNECT_TIMEOUT.min(settings.request_timeout);
    let options = [
        (ClientConfigKey::AllowHttp, plain.to_string()),
        (
            ClientConfigKey::Timeout,
            milliseconds(settings.request_timeout),
        ),
        (
            ClientConfigKey::ConnectTimeout,
            milliseconds(connect_timeout),
        ),
    ];
    for (key, value) in options {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    let retries = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    let client = builder
        .with_retry(retries)
        .build()
        .map_err(|error| match &error {
            ClientError::Generic { source, .. } if source.to_string().contains("AccessKey") => {
                Error::Credentials {
                    location: url.to_string(),
                    detail: source.to_string(),
                }
            }
            _ => refused(error.to_string()),
        })?;
    let endpoint = endpoint.unwrap_or_else(|| "Amazon S3".to_owned());
    Ok((client, endpoint))
}

fn milliseconds(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}
