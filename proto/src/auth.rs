//! The shared secret: `authorization: Bearer <secret>` on every call, checked before a message is decoded.

use std::{fmt, sync::Arc};

use subtle::ConstantTimeEq;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

use crate::tls::Guest;

const HEADER: &str = "authorization";
const SCHEME: &str = "Bearer ";

/// A secret that is no header value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shared secret must be 1 to 1024 visible ASCII characters without spaces")]
pub struct InvalidSecret;

/// The secret that driver and executors share. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes 1 to 1024 visible ASCII characters.
    ///
    /// # Errors
    /// [`InvalidSecret`] for anything else.
    pub fn new(text: &str) -> Result<Self, InvalidSecret> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > 1024 || !visible {
            return Err(InvalidSecret);
        }
        Ok(Self(text.into()))
    }

    /// Whether the value of an `authorization` header is this secret; takes as long whatever differs.
    pub fn is_presented_by(&self, header: &[u8]) -> bool {
        match header.strip_prefix(SCHEME.as_bytes()) {
            Some(presented) => bool::from(presented.ct_eq(self.0.as_bytes())),
            None => false,
        }
    }

    fn header(&self) -> Option<MetadataValue<Ascii>> {
        let mut value = MetadataValue::try_from(format!("{SCHEME}{}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// Adds the secret to each call of a client; without one adds nothing.
#[derive(Clone, Debug, Default)]
pub struct PresentSecret {
    header: Option<MetadataValue<Ascii>>,
}

impl PresentSecret {
    /// Presents `secret`.
    pub fn new(secret: Option<&Secret>) -> Self {
        Self {
            header: secret.and_then(Secret::header),
        }
    }
}

impl Interceptor for PresentSecret {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.header {
            request.metadata_mut().insert(HEADER, header.clone());
        }
        Ok(request)
    }
}

/// Refuses calls that don't present the secret, as `Unauthenticated`; without one lets every call pass. The connection of a call that passes may stay.
#[derive(Clone, Debug, Default)]
pub struct RequireSecret {
    secret: Option<Secret>,
}

impl RequireSecret {
    /// Requires `secret`.
    pub fn new(secret: Option<Secret>) -> Self {
        Self { secret }
    }
}

impl Interceptor for RequireSecret {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(secret) = &self.secret {
            let presented = request.metadata().get(HEADER);
            if !presented.is_some_and(|value| secret.is_presented_by(value.as_encoded_bytes())) {
                return Err(Status::unauthenticated(
                    "the shared secret is missing or wrong: give the driver and all executors the same auth.secret",
                ));
            }
        }
        if let Some(guest) = request.extensions().get::<Guest>() {
            guest.vouch();
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(presented: Option<&str>, required: &str) -> bool {
        let secret = presented.map(|text| Secret::new(text).expect("secret"));
        let request = PresentSecret::new(secret.as_ref())
            .call(Request::new(()))
            .expect("present");
        RequireSecret::new(Some(Secret::new(required).expect("secret")))
            .call(request)
            .is_ok()
    }

    #[test]
    fn only_the_same_secret_passes() {
        assert!(passes(Some("abc"), "abc"));
        assert!(!passes(Some("abd"), "abc"));
        assert!(!passes(Some("ab"), "abc"));
        assert!(!passes(Some("abcd"), "abc"));
        assert!(!passes(None, "abc"));
    }

    #[test]
    fn the_connection_of_a_call_that_passes_may_stay() {
        let mut required = RequireSecret::new(Some(Secret::new("abc").expect("secret")));
        let guest = Guest::default();
        let mut request = Request::new(());
        request.extensions_mut().insert(guest.clone());
        assert!(required.call(request).is_err());
        assert!(!guest.is_vouched());

        let known = Secret::new("abc").expect("secret");
        let mut request = Request::new(());
        request.extensions_mut().insert(guest.clone());
        let request = PresentSecret::new(Some(&known))
            .call(request)
            .expect("present");
        assert!(required.call(request).is_ok());
        assert!(guest.is_vouched());
    }

    #[test]
    fn without_a_secret_every_call_passes() {
        assert!(RequireSecret::default().call(Request::new(())).is_ok());
    }

    #[test]
    fn a_secret_is_never_printed_and_must_fit_a_header() {
        let secret = Secret::new("hunter2").expect("secret");
        assert!(!format!("{secret:?}").contains("hunter2"));
        let present = PresentSecret::new(Some(&secret));
        assert!(!format!("{present:?}").contains("hunter2"));
        for bad in ["", "with space", "new\nline", "ünicode"] {
            assert_eq!(Secret::new(bad), Err(InvalidSecret), "{bad}");
        }
    }
}
