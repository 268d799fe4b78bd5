//! What an error of the client means: wait and try again, or stop and say what to do.

use object_store::Error as ClientError;

use super::Error;

/// Longest detail that goes into a message.
const MAX_DETAIL: usize = 400;

/// What the client's store in memory says for `NoSuchUpload`.
const UPLOAD_GONE_IN_MEMORY: &str = "MultipartUpload not found";

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The store has no such object, or no such upload.
    Absent,
    /// Something has that name; or two wrote it at once, and perhaps neither succeeded.
    Taken,
    /// No answer, or one of a store that is busy or broken. What the request was to do may have been done.
    Passing(String),
    /// Trying again is of no use.
    Final(Meaning),
}

/// Why trying again is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Credentials(String),
    NoBucket,
    Denied(String),
    Clock(String),
    Refused(String),
}

impl Meaning {
    pub(super) fn into_error(
        self,
        action: &'static str,
        key: &str,
        bucket: &str,
        endpoint: &str,
    ) -> Error {
        let location = format!("s3://{bucket}");
        let key = key.to_owned();
        match self {
            Meaning::Credentials(detail) => Error::Credentials { location, detail },
            Meaning::NoBucket => Error::NoBucket {
                bucket: bucket.to_owned(),
                endpoint: endpoint.to_owned(),
            },
            Meaning::Denied(detail) => Error::Denied {
                action,
                key,
                location,
                detail,
            },
            Meaning::Clock(detail) => Error::Clock { location, detail },
            Meaning::Refused(detail) => Error::Refused {
                action,
                key,
                location,
                detail,
            },
        }
    }
}

/// Reads the meaning from the S3 error code in the answer's body where there is one, else from the kind of the error.
pub(super) fn meaning(error: &ClientError) -> Answer {
    let text = chain(error);
    let code = element(&text, "Code").unwrap_or_default();
    let said = match element(&text, "Message") {
        Some(message) if !code.is_empty() => shortened(&format!("{code}: {message}")),
        _ => shortened(&text),
    };
    match code {
        "NoSuchBucket" => return Answer::Final(Meaning::NoBucket),
        // A completion that meets an earlier one of the same upload finds that its parts are gone.
        "NoSuchKey" | "NoSuchUpload" | "InvalidPart" => return Answer::Absent,
        "RequestTimeTooSkewed" | "RequestExpired" => return Answer::Final(Meaning::Clock(said)),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" => {
            return Answer::Final(Meaning::Credentials(said));
        }
        code if passes(code) => return Answer::Passing(said),
        _ => {}
    }
    match error {
        // Whatever stands before the store says so too, while the store is away.
        ClientError::NotFound { .. } if code.is_empty() && status(&text) == Some(404) => {
            Answer::Passing(said)
        }
        ClientError::NotFound { .. } => Answer::Absent,
        ClientError::AlreadyExists { .. } | ClientError::Precondition { .. } => Answer::Taken,
        ClientError::PermissionDenied { .. } | ClientError::Unauthenticated { .. } => {
            Answer::Final(Meaning::Denied(said))
        }
        ClientError::NotImplemented { .. }
        | ClientError::NotSupported { .. }
        | ClientError::InvalidPath { .. }
        | ClientError::UnknownConfigurationKey { .. } => Answer::Final(Meaning::Refused(said)),
        _ if text.contains(UPLOAD_GONE_IN_MEMORY) => Answer::Absent,
        _ => match status(&text) {
            Some(408 | 429) | None => Answer::Passing(said),
            Some(500 | 502..=599) => Answer::Passing(said),
            Some(_) => Answer::Final(Meaning::Refused(said)),
        },
    }
}

/// Codes of what another try may cure. Some come with status 400: a body that broke off on its way, or came too slowly.
fn passes(code: &str) -> bool {
    code.starts_with("Throttl")
        || matches!(
            code,
            "RequestTimeout"
                | "IncompleteBody"
                | "BadDigest"
                | "XAmzContentSHA256Mismatch"
                | "XAmzContentChecksumMismatch"
                | "InternalError"
                | "SlowDown"
                | "ServiceUnavailable"
                | "TooManyRequests"
                | "RequestLimitExceeded"
                | "RequestThrottled"
        )
}

/// An error as one short line.
pub(super) fn said(error: &ClientError) -> String {
    shortened(&chain(error))
}

/// The error with its causes, each once.
fn chain(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// The content of the first XML element of that name.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let open = format!("<{name}>");
    let start = text.find(&open)? + open.len();
    let length = text[start..].find(&format!("</{name}>"))?;
    Some(&text[start..start + length])
}

/// The HTTP status that the client's message names. A redirection without a place to go to is what another region's bucket gives.
fn status(text: &str) -> Option<u16> {
    const BEFORE: &str = "non-2xx status code: ";
    if let Some(at) = text.find(BEFORE) {
        return text
            .get(at + BEFORE.len()..at + BEFORE.len() + 3)?
            .parse()
            .ok();
    }
    text.contains("redirect without LOCATION").then_some(301)
}

fn shortened(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match one_line.char_indices().nth(MAX_DETAIL) {
        Some((end, _)) => format!("{}...", &one_line[..end]),
        None => one_line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> ClientError {
        ClientError::Generic {
            store: "S3",
            source: text.to_owned().into(),
        }
    }

    fn status_of(status: &str, body: &str) -> ClientError {
        generic(&format!(
            "Error performing PUT http://s/b/k in 1ms - Server returned non-2xx status code: {status}: {body}"
        ))
    }

    fn body(code: &str) -> String {
        format!("<Error><Code>{code}</Code><Message>said so</Message></Error>")
    }

    #[test]
    fn what_passes_is_waited_for() {
        for error in [
            status_of("503 Service Unavailable", &body("SlowDown")),
            status_of("500 Internal Server Error", ""),
            status_of("429 Too Many Requests", ""),
            status_of("408 Request Timeout", ""),
            status_of("400 Bad Request", &body("RequestTimeout")),
            status_of("400 Bad Request", &body("IncompleteBody")),
            status_of("400 Bad Request", &body("XAmzContentSHA256Mismatch")),
            status_of("400 Bad Request", &body("ThrottlingException")),
            generic("Error performing PUT http://s/b/k in 2s - HTTP error: operation timed out"),
            generic("connection refused"),
        ] {
            assert!(matches!(meaning(&error), Answer::Passing(_)), "{error}");
        }
    }

    #[test]
    fn what_does_not_pass_is_told_apart() {
        let cases = [
            (
                "RequestTimeTooSkewed",
                Meaning::Clock("RequestTimeTooSkewed: said so".into()),
            ),
            ("NoSuchBucket", Meaning::NoBucket),
            (
                "InvalidAccessKeyId",
                Meaning::Credentials("InvalidAccessKeyId: said so".into()),
            ),
            (
                "AccessDenied",
                Meaning::Refused("AccessDenied: said so".into()),
            ),
            (
                "AuthorizationHeaderMalformed",
                Meaning::Refused("AuthorizationHeaderMalformed: said so".into()),
            ),
        ];
        for (code, wanted) in cases {
            let error = status_of("403 Forbidden", &body(code));
            assert_eq!(meaning(&error), Answer::Final(wanted), "{code}");
        }
        let denied = ClientError::PermissionDenied {
            path: "k".into(),
            source: body("AccessDenied").into(),
        };
        assert_eq!(
            meaning(&denied),
            Answer::Final(Meaning::Denied("AccessDenied: said so".into()))
        );
        assert!(matches!(
            meaning(&status_of("501 Not Implemented", "")),
            Answer::Final(Meaning::Refused(_))
        ));
        assert!(matches!(
            meaning(&generic(
                "Received redirect without LOCATION, this normally indicates"
            )),
            Answer::Final(Meaning::Refused(_))
        ));
    }

    #[test]
    fn names_that_are_taken_or_free() {
        let source = || "x".to_owned().into();
        let path = || "k".to_owned();
        let taken = ClientError::AlreadyExists {
            path: path(),
            source: source(),
        };
        assert_eq!(meaning(&taken), Answer::Taken);
        let absent = ClientError::NotFound {
            path: path(),
            source: source(),
        };
        assert_eq!(meaning(&absent), Answer::Absent);
        let answered = |body: &str| ClientError::NotFound {
            path: path(),
            source: format!("Server returned non-2xx status code: 404 Not Found: {body}").into(),
        };
        assert_eq!(meaning(&answered(&body("NoSuchKey"))), Answer::Absent);
        for of_a_proxy in ["404 page not found", "<html></html>", ""] {
            let answer = meaning(&answered(of_a_proxy));
            assert!(matches!(answer, Answer::Passing(_)), "{of_a_proxy}");
        }
        let gone = status_of("404 Not Found", &body("NoSuchUpload"));
        assert_eq!(meaning(&gone), Answer::Absent);
        let no_bucket = ClientError::NotFound {
            path: path(),
            source: body("NoSuchBucket").into(),
        };
        assert_eq!(meaning(&no_bucket), Answer::Final(Meaning::NoBucket));
    }

    #[test]
    fn details_are_one_short_line() {
        let detail = shortened(&format!("a\n b {}", "é".repeat(1_000)));
        assert!(detail.starts_with("a b éé") && detail.ends_with("..."));
        assert!(detail.chars().count() <= MAX_DETAIL + 3);
    }
}
