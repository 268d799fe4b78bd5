//! Handshakes over real sockets, good and bad.

use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use http::Uri;
use millstream_common::{
    config::Config,
    time::{Clock, SystemClock},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{interval, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, AlertDescription, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use tower::Service;

use tonic::transport::server::Connected;

use super::{stay::Terms, *};

const DEADLINE: Duration = Duration::from_secs(30);

/// An authority in a folder, which makes certificates there.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(name: &str) -> Authority {
    let folder = tempfile::tempdir().expect("folder");
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::new(vec![]).expect("params");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("signed");
    fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("written");
    Authority {
        folder,
        issuer: Issuer::new(params, key),
    }
}

impl Authority {
    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).display().to_string()
    }

    /// A certificate of `name`, in force until the end of `year`.
    fn make(&self, file: &str, name: &str, year: i32) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("params");
        params.not_after = date_time_ymd(year, 12, 31);
        self.sign(file, params);
    }

    /// A node's certificate that is in force for so many days more.
    fn make_for(&self, file: &str, days: u64) {
        let mut params = CertificateParams::new(vec![NODE_NAME.to_owned()]).expect("params");
        let now = u64::try_from(SystemClock::new().wall_millis()).expect("time") / 1_000;
        let last = Duration::from_secs(now + days * 86_400);
        params.not_after = date_time_ymd(1970, 1, 1) + last;
        self.sign(file, params);
    }

    fn sign(&self, file: &str, mut params: CertificateParams) {
        let key = KeyPair::generate().expect("key");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        fs::write(self.path(&format!("{file}.pem")), signed.pem()).expect("written");
        fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).expect("written");
    }

    fn load(&self, certificate: &str, key: &str) -> Result<Tls, Error> {
        Tls::load(
            &self.path("ca.pem"),
            &self.path(certificate),
            &self.path(key),
        )
    }

    fn node(&self) -> Tls {
        self.make("node", NODE_NAME, 4_000);
        self.load("node.pem", "node.key").expect("loaded")
    }
}

/// A server that answers each byte with the next one.
async fn serve(tls: &Tls) -> Uri {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address");
    let mut incoming = tls.accept(listener, "test.listen");
    tokio::spawn(async move {
        loop {
            let (mut line, _) = incoming.next_line().await;
            tokio::spawn(async move {
                while let Ok(byte) = line.read_u8().await {
                    if line.write_u8(byte + 1).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}").parse().expect("address")
}

/// Connections without TLS, as they come to an address.
async fn plain(protocol: accept::Protocol, bounds: Bounds) -> (SocketAddr, Incoming) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address");
    let incoming = Incoming::start(listener, None, "test.listen", protocol, bounds);
    (address, incoming)
}

/// A plain server of at most two connections that vouches for the first one alone, and the most that it had at a time.
async fn serve_two() -> (Uri, Arc<AtomicUsize>) {
    let bounds = Bounds {
        lines: 2,
        terms: Terms::Vouched(Duration::from_millis(100)),
        handshake: DEADLINE,
    };
    let (address, mut incoming) = plain(accept::Protocol::Grpc, bounds).await;
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let open = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        let mut is_first = true;
        loop {
            let (mut line, _) = incoming.next_line().await;
            if std::mem::take(&mut is_first) {
                line.connect_info().vouch();
            }
            let now = open.fetch_add(1, Ordering::SeqCst) + 1;
            seen.fetch_max(now, Ordering::SeqCst);
            let open = Arc::clone(&open);
            tokio::spawn(async move {
                while let Ok(byte) = line.read_u8().await {
                    if line.write_u8(byte + 1).await.is_err() {
                        break;
                    }
                }
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (format!("http://{address}").parse().expect("address"), most)
}

/// The silent connections come from one address, the honest one from another of this machine.
#[tokio::test]
async fn silent_connections_of_one_address_keep_no_other_out() {
    let bounds = Bounds {
        handshake: 10 * DEADLINE,
        ..Bounds::of_grpc()
    };
    let (address, mut incoming) = plain(accept::Protocol::Grpc, bounds).await;
    let mut silent = Vec::new();
    for _ in 0..520 {
        silent.push(TcpStream::connect(address).await.expect("connects"));
    }
    let socket = TcpSocket::new_v4().expect("a socket");
    let other = SocketAddr::from(([127, 0, 0, 2], 0));
    socket.bind(other).expect("binds");
    let mut honest = socket.connect(address).await.expect("connects");
    honest.write_u8(7).await.expect("written");
    let (_, peer) = timeout(DEADLINE, incoming.next_line())
        .await
        .expect("in time");
    assert_eq!(peer.ip(), other.ip());
    drop(silent);
}

#[tokio::test]
async fn a_byte_now_and_then_keeps_no_place() {
    let bounds = Bounds {
        lines: 2,
        terms: Terms::Answered(Duration::from_millis(200)),
        handshake: DEADLINE,
    };
    let (address, mut incoming) = plain(accept::Protocol::Http, bounds).await;
    let served = tokio::spawn(async move {
        let (mut line, _) = incoming.next_line().await;
        let mut bytes = 0;
        loop {
            match line.read_u8().await {
                Ok(_) => bytes += 1,
                Err(error) => return (bytes, error.kind()),
            }
        }
    });
    let mut slow = TcpStream::connect(address).await.expect("connects");
    let dripping = async {
        let mut every = interval(Duration::from_millis(20));
        loop {
            every.tick().await;
            // Cut in the end.
            if slow.write_u8(b'G').await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let ended = tokio::select! {
        ended = timeout(DEADLINE, served) => ended.expect("in time").expect("no panic"),
        () = dripping => unreachable!("it drips on"),
    };
    assert!(ended.0 > 0);
    assert_eq!(ended.1, std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn strangers_give_their_places_to_others() {
    let (server, most) = serve_two().await;
    let address = server.authority().expect("address").as_str();
    let known = async |stream: &mut TcpStream| {
        stream.write_u8(7).await.expect("written");
        timeout(DEADLINE, stream.read_u8()).await.expect("in time")
    };
    let mut first = TcpStream::connect(address).await.expect("connects");
    assert_eq!(known(&mut first).await.expect("answered"), 8);

    // Each of them keeps its connection open, and there is one place for them all.
    let mut strangers = Vec::new();
    for _ in 0..4 {
        let mut stranger = TcpStream::connect(address).await.expect("connects");
        stranger.write_u8(7).await.expect("written");
        strangers.push(stranger);
    }
    for stranger in &mut strangers {
        let mut heard = Vec::new();
        let ended = timeout(DEADLINE, stranger.read_to_end(&mut heard)).await;
        // Cut, whether or not it was answered before.
        let _ = ended.expect("in time");
    }
    assert_eq!(known(&mut first).await.expect("answered"), 8);
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

/// Sends a byte by way of `dial`; the answer, or what is known to be wrong.
async fn ask(mut dial: Dial, address: &Uri) -> Result<u8, Option<Trouble>> {
    let asking = async {
        let mut line = dial.call(address.clone()).await?.into_inner();
        line.write_u8(7).await?;
        line.flush().await?;
        line.read_u8().await
    };
    let asked = timeout(DEADLINE, asking).await.expect("in time");
    asked.map_err(|_| dial.trouble())
}

#[tokio::test]
async fn nodes_of_one_authority_talk() {
    let ours = authority("ours");
    let node = ours.node();
    let server = serve(&node).await;
    assert_eq!(ask(node.dial(), &server).await, Ok(8));
}

#[tokio::test]
async fn without_files_lines_are_plain() {
    let server = serve(&Tls::default()).await;
    assert_eq!(ask(Tls::default().dial(), &server).await, Ok(8));
}

#[tokio::test]
async fn each_side_is_told_of_the_others_plain_text() {
    let node = authority("ours").node();
    let with_tls = serve(&node).await;
    let plain = serve(&Tls::default()).await;
    let trouble = ask(Tls::default().dial(), &with_tls).await;
    assert_eq!(trouble, Err(Some(Trouble::TlsSpoken)));
    let trouble = ask(node.dial(), &plain).await;
    assert_eq!(trouble, Err(Some(Trouble::PlainText)));
    // Both live on.
    assert_eq!(ask(node.dial(), &with_tls).await, Ok(8));
    assert_eq!(ask(Tls::default().dial(), &plain).await, Ok(8));
}

#[tokio::test]
async fn what_is_no_node_is_told_from_one() {
    // What answers, if anything, to whoever comes.
    let answers = async |answer: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let heard = stream.read_u8().await;
                if heard.is_ok() && stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
        let server: Uri = format!("http://{address}").parse().expect("address");
        let dial = Tls::default().dial();
        // It hangs up, whether after an answer or not.
        let _ = ask(dial.clone(), &server).await;
        dial.foreign()
    };
    assert_eq!(
        answers(b"HTTP/1.1 400 Bad Request\r\n\r\n").await,
        Some(Foreign::OtherProtocol)
    );
    assert_eq!(answers(b"").await, Some(Foreign::HungUp));
    assert_eq!(answers(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await, None);
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused_by_the_client() {
    let server = serve(&authority("theirs").node()).await;
    let trouble = ask(authority("ours").node().dial(), &server).await;
    let expected = Trouble::TheirCertificate(Flaw::OtherAuthority);
    assert_eq!(trouble, Err(Some(expected)));
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused_by_the_server_and_hears_why() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let server = serve(&ours.node()).await;
    theirs.make("node", NODE_NAME, 4_000);
    // It trusts both; the server trusts its own alone.
    let text = |authority: &Authority| fs::read_to_string(authority.path("ca.pem")).expect("read");
    let both = text(&theirs) + &text(&ours);
    fs::write(theirs.path("ca.pem"), both).expect("written");
    let client = theirs.load("node.pem", "node.key").expect("loaded");
    let trouble = ask(client.dial(), &server).await;
    let expected = Trouble::OurCertificate(Flaw::OtherAuthority);
    assert_eq!(trouble, Err(Some(expected)));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ours = authority("ours");
    let node = ours.node();
    let server = serve(&node).await;
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(ours.path("ca.pem")).expect("read");
    roots.add(ca).expect("added");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address = server.authority().expect("address").as_str();
    let stream = TcpStream::connect(address).await.expect("connects");
    let name = ServerName::try_from(NODE_NAME).expect("name");
    let talking = async {
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        stream.write_u8(7).await?;
        stream.read_u8().await
    };
    let error = timeout(DEADLINE, talking)
        .await
        .expect("in time")
        .expect_err("refused");
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let required = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
    assert_eq!(cause, Some(&required), "{error}");
    assert_eq!(ask(node.dial(), &server).await, Ok(8));
}

#[test]
fn files_that_everyone_would_refuse_are_refused_at_the_start() {
    let ours = authority("ours");
    ours.make("old", NODE_NAME, 2_020);
    ours.make("other", "somebody", 4_000);
    ours.make("node", NODE_NAME, 4_000);
    let theirs = authority("theirs");
    theirs.make("node", NODE_NAME, 4_000);
    fs::copy(theirs.path("node.pem"), ours.path("stranger.pem")).expect("copied");
    fs::copy(theirs.path("node.key"), ours.path("stranger.key")).expect("copied");
    fs::write(ours.path("empty.pem"), "").expect("written");
    let whole = fs::read_to_string(ours.path("node.pem")).expect("read");
    fs::write(ours.path("half.pem"), &whole[..whole.len() / 2]).expect("written");
    fs::write(ours.path("folder.key"), "no key").expect("written");
    for (certificate, key, texts) in [
        (
            "old.pem",
            "old.key",
            ["tls.cert", "old.pem", "expired on 2020-12-31"],
        ),
        (
            "other.pem",
            "other.key",
            ["tls.cert", "other.pem", "must name millstream-node"],
        ),
        (
            "stranger.pem",
            "stranger.key",
            ["tls.cert", "stranger.pem", "another authority"],
        ),
        ("node.pem", "old.key", ["tls.key", "old.key", "doesn't fit"]),
        (
            "gone.pem",
            "node.key",
            ["tls.cert", "gone.pem", "could not read"],
        ),
        (
            "node.pem",
            "gone.key",
            ["tls.key", "gone.key", "could not read"],
        ),
        (
            "empty.pem",
            "node.key",
            ["tls.cert", "empty.pem", "holds no certificate"],
        ),
        (
            "node.pem",
            "folder.key",
            ["tls.key", "folder.key", "holds no private key"],
        ),
        (
            "half.pem",
            "node.key",
            [
                "tls.cert",
                "half.pem",
                "in PEM: it breaks off before its end",
            ],
        ),
        // The key in the place of the certificate.
        (
            "node.key",
            "node.pem",
            ["tls.cert", "node.key", "holds no certificate"],
        ),
    ] {
        let error = ours
            .load(certificate, key)
            .expect_err("refused")
            .to_string();
        assert!(texts.iter().all(|text| error.contains(text)), "{error}");
    }
}

#[test]
fn an_alert_says_what_is_wrong_with_our_certificate() {
    let trouble = |alert| {
        let error = rustls::Error::AlertReceived(alert);
        Trouble::of_io(&std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    };
    assert_eq!(
        trouble(AlertDescription::CertificateExpired),
        Some(Trouble::OurCertificate(Flaw::OutOfTime))
    );
    assert_eq!(trouble(AlertDescription::InternalError), None);
    let failure = Trouble::PlainText.to_failure("driver:7077");
    assert!(failure.message.starts_with("driver:7077: "), "{failure}");
}

#[test]
fn without_the_keys_tls_is_off() {
    assert!(!Tls::of_config(&Config::default()).expect("plain").is_on());
}

#[test]
fn a_certificate_that_expires_soon_is_known() {
    let authority = authority("ours");
    let soon = |days| {
        authority.make_for("short", days);
        let tls = authority.load("short.pem", "short.key").expect("loaded");
        tls.expires_soon().map(str::to_owned)
    };
    assert_eq!(soon(32), None);
    let day = soon(28).expect("soon");
    assert_eq!(day.len(), "2026-01-31".len(), "{day}");
    assert_eq!(Tls::default().expires_soon(), None);
}
