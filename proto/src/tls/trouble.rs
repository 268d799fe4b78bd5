//! What is wrong with the other side of a connection, told from what the TLS library says, and the way out.

use std::{fmt, io};

use jiff::Timestamp;
use millstream_common::failure::{Failure, Fault};
use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

use super::NODE_NAME;
use crate::refusal::refusal;

/// A certificate was refused.
pub const CERTIFICATE: &str = "tls.certificate";
/// One side speaks TLS, the other plain text.
pub const ONE_SIDED: &str = "tls.one_sided";

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Its time is over, since the day given where that is known.
    Expired(Option<String>),
    /// Its time hasn't come.
    NotYetValid,
    /// One of the two; alerts don't tell them apart.
    OutOfTime,
    /// The authority didn't sign it.
    OtherAuthority,
    /// It isn't made for a node.
    OtherName,
    /// Anything else.
    Other(String),
}

impl Flaw {
    pub(super) fn of_error(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            other => Self::Other(format!("is refused: {other}")),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired => Self::Expired(None),
            CertificateError::ExpiredContext { not_after, .. } => {
                let seconds = i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX);
                let at = Timestamp::from_second(seconds).ok();
                Self::Expired(at.map(|at| at.strftime("%Y-%m-%d").to_string()))
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYetValid
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Self::OtherAuthority
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::OtherName
            }
            other => Self::Other(format!("is refused: {other}")),
        }
    }

    /// What the other side's alert says of our certificate; `None` for alerts about something else.
    fn of_alert(alert: AlertDescription) -> Option<Self> {
        match alert {
            AlertDescription::CertificateExpired => Some(Self::OutOfTime),
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                Some(Self::OtherAuthority)
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::AccessDenied => Some(Self::Other(format!("is refused: {alert:?}"))),
            _ => None,
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(Some(day)) => write!(
                formatter,
                "expired on {day}: make a new one with `millstream certs`"
            ),
            Self::Expired(None) => formatter
                .write_str("has expired: make a new one with `millstream certs`"),
            Self::NotYetValid => formatter.write_str(
                "isn't in force yet: compare this machine's clock with that of the one it was made on",
            ),
            Self::OutOfTime => formatter.write_str(
                "has expired or isn't in force yet: compare the clocks of both machines, and if they agree make a new one with `millstream certs`",
            ),
            Self::OtherAuthority => formatter.write_str(
                "is signed by another authority: sign the certificates of all nodes with one, and name that one in tls.ca everywhere",
            ),
            Self::OtherName => write!(
                formatter,
                "isn't made for a node: it must name {NODE_NAME}, as those of `millstream certs` do"
            ),
            Self::Other(text) => formatter.write_str(text),
        }
    }
}

/// Why no connection came about, where that won't change by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// We refused their certificate.
    #[error("the certificate of the other side {0}")]
    TheirCertificate(Flaw),
    /// They refused ours.
    #[error("the other side says that the certificate of this one {0}")]
    OurCertificate(Flaw),
    /// They presented none.
    #[error(
        "the other side presented no certificate: give it tls.ca, tls.cert and tls.key of this cluster"
    )]
    NoCertificate,
    /// We speak TLS, they don't.
    #[error(
        "the other side speaks plain text, this one TLS: give tls.ca, tls.cert and tls.key to both or to neither"
    )]
    PlainText,
    /// They speak TLS, we don't.
    #[error(
        "the other side speaks TLS, this one plain text: give tls.ca, tls.cert and tls.key to both or to neither"
    )]
    TlsSpoken,
}

/// Why what answers at an address seems to be no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// It says what no server of HTTP/2 says.
    #[error("what answers there is no Millstream driver: look at the address")]
    OtherProtocol,
    /// It closes connections without a word, as other servers do, and a driver that ends, and proxies with nothing behind them.
    #[error(
        "what answers there hangs up at once: look at the address if it isn't a driver that is about to start"
    )]
    HungUp,
}

impl Trouble {
    /// What an error of a connection means; `None` for what another try may cure.
    pub(super) fn of_io(error: &io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        match error {
            rustls::Error::InvalidCertificate(_) => {
                Some(Self::TheirCertificate(Flaw::of_error(error)))
            }
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            rustls::Error::InvalidMessage(_) => Some(Self::PlainText),
            rustls::Error::AlertReceived(alert) => Flaw::of_alert(*alert).map(Self::OurCertificate),
            _ => None,
        }
    }

    /// A refusal that names the peer. Somebody has to change the configuration.
    pub fn to_failure(&self, address: &str) -> Failure {
        let code = match self {
            Self::TheirCertificate(_) | Self::OurCertificate(_) | Self::NoCertificate => {
                CERTIFICATE
            }
            Self::PlainText | Self::TlsSpoken => ONE_SIDED,
        };
        let mut failure = refusal(code, format!("{address}: {self}"));
        failure.fault = Fault::User;
        failure
    }

    /// Tells kinds apart, whatever their details.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::TheirCertificate(_) => "their certificate",
            Self::OurCertificate(_) => "our certificate",
            Self::NoCertificate => "no certificate",
            Self::PlainText => "plain text",
            Self::TlsSpoken => "TLS",
        }
    }
}
