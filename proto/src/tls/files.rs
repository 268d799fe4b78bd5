//! Reads the authority, the certificate and the key, and refuses at the start what would be refused by every peer later.

use std::{fs, io, sync::Arc, time::Duration};

use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem, pem::PemObject},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};

use super::{Material, NODE_NAME, trouble::Flaw};

const CA: &str = "tls.ca";
const CERT: &str = "tls.cert";
const KEY: &str = "tls.key";
/// A certificate that expires within this time is spoken of at the start.
const SOON: Duration = Duration::from_secs(30 * 86_400);

/// The files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error(
        "{key}: could not read {path}: {source}; give the path of a PEM file that this process may read"
    )]
    Unreadable {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: String,
        /// What is wrong.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{key}: {path} holds no {expected} in PEM{problem}; make one with `millstream certs`")]
    NotPem {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: String,
        /// What should be there.
        expected: &'static str,
        /// What is wrong, with its colon; may be empty.
        problem: String,
    },
    /// The key is another certificate's.
    #[error(
        "tls.key: the key in {key} doesn't fit the certificate in {cert}: give the two files that were made together"
    )]
    KeyMismatch {
        /// The key's file.
        key: String,
        /// The certificate's file.
        cert: String,
    },
    /// The certificate would be refused by everyone.
    #[error("tls.cert: the certificate in {cert} {flaw} (tls.ca is {ca})")]
    Certificate {
        /// The certificate's file.
        cert: String,
        /// The authority's file.
        ca: String,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// The TLS library refuses them.
    #[error("tls: {ca}, {cert} and {key} can't be used: {source}")]
    Unusable {
        /// The authority's file.
        ca: String,
        /// The certificate's file.
        cert: String,
        /// The key's file.
        key: String,
        /// What is wrong.
        source: rustls::Error,
    },
}

pub(super) fn load(ca: &str, cert: &str, key: &str) -> Result<Material, Error> {
    let unusable = |source| Error::Unusable {
        ca: ca.to_owned(),
        cert: cert.to_owned(),
        key: key.to_owned(),
        source,
    };
    let roots = Arc::new(read_authority(ca)?);
    let chain = read_certificates(CERT, cert)?;
    let private = read_key(key)?;
    let provider = Arc::new(ring::default_provider());
    let verifiers = Verifiers::new(&roots, &provider).map_err(unusable)?;
    let now = UnixTime::now();
    verifiers
        .check_own(&chain, now)
        .map_err(|error| Error::Certificate {
            cert: cert.to_owned(),
            ca: ca.to_owned(),
            flaw: Flaw::of_error(&error),
        })?;
    let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + SOON);
    let checked = verifiers.check_own(&chain, later);
    let expires_soon = match checked.map_err(|error| Flaw::of_error(&error)) {
        Err(Flaw::Expired(day)) => day,
        _ => None,
    };
    let mismatch = |source| match source {
        rustls::Error::InconsistentKeys(_) => Error::KeyMismatch {
            key: key.to_owned(),
            cert: cert.to_owned(),
        },
        source => unusable(source),
    };

    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .with_webpki_verifier(verifiers.of_servers)
        .with_client_auth_cert(chain.clone(), private.clone_key())
        .map_err(mismatch)?;
    client.alpn_protocols.push(b"h2".to_vec());
    // A session that is resumed isn't checked again: a certificate that has expired meanwhile would pass.
    client.resumption = Resumption::disabled();

    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(verifiers.of_clients)
        .with_single_cert(chain.clone(), private.clone_key())
        .map_err(mismatch)?;
    server.alpn_protocols.push(b"h2".to_vec());
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;

    let http = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(mismatch)?;
    Ok(Material {
        client: Arc::new(client),
        server: Arc::new(server),
        http: Arc::new(http),
        expires_soon,
    })
}

fn read(key: &'static str, path: &str) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Unreadable {
        key,
        path: path.to_owned(),
        source,
    })
}

fn read_certificates(key: &'static str, path: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(key, path)?;
    let not_pem = |problem| Error::NotPem {
        key,
        path: path.to_owned(),
        expected: "certificate",
        problem,
    };
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        certificates.push(certificate.map_err(|error| not_pem(problem_of(&error)))?);
    }
    if certificates.is_empty() {
        return Err(not_pem(String::new()));
    }
    Ok(certificates)
}

/// What is wrong with a file, with its colon. The parser's own words show bytes as numbers.
fn problem_of(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => ": it breaks off before its end".to_owned(),
        pem::Error::IllegalSectionStart { .. } => ": the line that begins it is damaged".to_owned(),
        error => format!(": {error}"),
    }
}

/// One authority, or several while one replaces the other.
fn read_authority(path: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(CA, path)? {
        roots.add(certificate).map_err(|error| Error::NotPem {
            key: CA,
            path: path.to_owned(),
            expected: "certificate of an authority",
            problem: format!(": {error}"),
        })?;
    }
    Ok(roots)
}

fn read_key(path: &str) -> Result<PrivateKeyDer<'static>, Error> {
    let text = read(KEY, path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| Error::NotPem {
        key: KEY,
        path: path.to_owned(),
        expected: "private key",
        // Anything else of the parser's may quote the file.
        problem: match error {
            pem::Error::NoItemsFound => String::new(),
            _ => ": it can't be decoded".to_owned(),
        },
    })
}

struct Verifiers {
    of_servers: Arc<WebPkiServerVerifier>,
    of_clients: Arc<NodesOnly>,
}

impl Verifiers {
    fn new(
        roots: &Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let failed = |error: &dyn std::fmt::Display| rustls::Error::General(error.to_string());
        let of_servers =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
                .build()
                .map_err(|error| failed(&error))?;
        let of_clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
                .build()
                .map_err(|error| failed(&error))?;
        let name = ServerName::try_from(NODE_NAME).map_err(|error| failed(&error))?;
        Ok(Self {
            of_servers,
            of_clients: Arc::new(NodesOnly {
                authority: of_clients,
                name,
            }),
        })
    }

    /// What every peer will check, in both roles.
    fn check_own(
        &self,
        chain: &[CertificateDer<'static>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let Some((own, intermediates)) = chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        self.of_servers
            .verify_server_cert(own, intermediates, &self.of_clients.name, &[], now)?;
        self.of_clients
            .verify_client_cert(own, intermediates, now)?;
        Ok(())
    }
}

/// Lets clients in whose certificate is the authority's and made for a node: the authority may sign for others too.
#[derive(Debug)]
struct NodesOnly {
    authority: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl ClientCertVerifier for NodesOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authority.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.authority.verify_client_cert(own, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(own)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authority
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authority
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authority.supported_verify_schemes()
    }
}
