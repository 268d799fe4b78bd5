//! TLS between real processes: the main faults once more, strangers at the ports, and HTTP beyond this machine.

mod faults;
mod http;
mod refusals;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use millstream_integration_tests::certificates::{Authority, Files};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::word_job::WordJob;

/// A node of an authority made for this job.
fn node(job: &WordJob) -> Files {
    let authority = Authority::new(job.folder(), "authority").unwrap();
    authority.node("node").unwrap()
}

/// Says something by TLS, without a certificate of its own, and gives what is answered.
fn ask_without_certificate(
    files: &Files,
    address: SocketAddr,
    question: &str,
) -> Result<String, std::io::Error> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(&files.ca).unwrap();
    roots.add(ca).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let asking = async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await?;
        stream.write_all(question.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(60), asking).await.unwrap() })
}
