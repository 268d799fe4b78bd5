//! A listener whose connections have passed the handshake. Each handshake has a task and a deadline of its own: one that stalls holds up nobody.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use millstream_common::time::{Clock, SystemClock};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::{
    line::{HANDSHAKE_RECORD, Line},
    trouble::Trouble,
};

/// Connections that may be in their handshake; further ones wait in the system's queue.
const HANDSHAKES: usize = 512;
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Connections that wait for the server to take them.
const ACCEPTED: usize = 64;
/// The pause after the system could give no connection, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// How long, and for how many bytes, a refused peer is listened to, so that it can read why: a connection closed with bytes unread is reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 << 10;
/// Peers and troubles that were logged.
const REMEMBERED: usize = 1_024;

/// A fatal alert, `unexpected_message`: what a client without TLS recognises a TLS port by.
const TLS_ALERT: &[u8] = &[0x15, 3, 3, 0, 2, 2, 10];
const HTTPS_WANTED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nthis port speaks HTTPS\n";
const NO_TLS_HERE: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nthis port speaks plain text\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

/// Connections that have passed the handshake. Dropping it closes the listener.
pub struct Incoming {
    accepted: mpsc::Receiver<(Line, SocketAddr)>,
    address: io::Result<SocketAddr>,
    accepting: AbortHandle,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Incoming {
    /// Accepts on the current tokio runtime.
    pub(super) fn start(
        listener: TcpListener,
        config: Option<Arc<ServerConfig>>,
        port: &'static str,
        protocol: Protocol,
    ) -> Self {
        let (sender, accepted) = mpsc::channel(ACCEPTED);
        let address = listener.local_addr();
        let gate = Arc::new(Gate {
            acceptor: config.map(TlsAcceptor::from),
            protocol,
            port,
            clock: SystemClock::new(),
            logged: Mutex::default(),
        });
        let accepting = tokio::spawn(gate.accept_all(listener, sender)).abort_handle();
        Self {
            accepted,
            address,
            accepting,
        }
    }

    /// The next connection. Never ends.
    pub async fn next_line(&mut self) -> (Line, SocketAddr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket doesn't say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match &self.address {
            Ok(address) => Ok(*address),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Line>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.accepted
            .poll_recv(context)
            .map(|accepted| accepted.map(|(line, _)| Ok(line)))
    }
}

struct Gate {
    acceptor: Option<TlsAcceptor>,
    protocol: Protocol,
    port: &'static str,
    clock: SystemClock,
    logged: Mutex<HashSet<(IpAddr, &'static str)>>,
}

impl Gate {
    async fn accept_all(
        self: Arc<Self>,
        listener: TcpListener,
        sender: mpsc::Sender<(Line, SocketAddr)>,
    ) {
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        // Ends them with this task.
        let mut handshakes = JoinSet::new();
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(port = self.port, %error, "could not accept a connection");
                    self.clock.until(self.clock.now().after(PAUSE)).await;
                    continue;
                }
            };
            let gate = Arc::clone(&self);
            let sender = sender.clone();
            handshakes.spawn(async move {
                let _place = place;
                let deadline = gate.clock.until(gate.clock.now().after(HANDSHAKE_TIME));
                let line = tokio::select! {
                    line = gate.admit(stream, peer) => line,
                    () = deadline => None,
                };
                if let Some(line) = line {
                    // The server may be gone.
                    let _ = sender.send((line, peer)).await;
                }
            });
            while handshakes.try_join_next().is_some() {}
        }
    }

    async fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Option<Line> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "could not set TCP_NODELAY");
        }
        // Clients of gRPC and HTTP speak first.
        let mut first = [0];
        if !matches!(stream.peek(&mut first).await, Ok(1)) {
            return None;
        }
        let speaks_tls = first[0] == HANDSHAKE_RECORD;
        let Some(acceptor) = &self.acceptor else {
            if speaks_tls {
                self.refuse(stream, peer, &Trouble::TlsSpoken, NO_TLS_HERE)
                    .await;
                return None;
            }
            return Some(Line::accepted_plain(stream));
        };
        if !speaks_tls {
            let answer = match self.protocol {
                Protocol::Grpc => TLS_ALERT,
                Protocol::Http => HTTPS_WANTED,
            };
            self.refuse(stream, peer, &Trouble::PlainText, answer).await;
            return None;
        }
        match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => Some(Line::accepted(stream.into())),
            Err((error, stream)) => {
                match Trouble::of_io(&error) {
                    // The TLS library has sent its alert.
                    Some(trouble) => self.refuse(stream, peer, &trouble, &[]).await,
                    None => {
                        tracing::debug!(port = self.port, %peer, %error, "a TLS handshake failed")
                    }
                }
                None
            }
        }
    }

    async fn refuse(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        trouble: &Trouble,
        answer: &[u8],
    ) {
        self.log(peer.ip(), trouble);
        let parting = async {
            stream.write_all(answer).await?;
            stream.shutdown().await?;
            let mut rest = (&mut stream).take(LINGER_BYTES);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        };
        tokio::select! {
            // The peer may have hung up already.
            _ = parting => {}
            () = self.clock.until(self.clock.now().after(LINGER)) => {}
        }
    }

    /// Says each kind of trouble once an address.
    fn log(&self, peer: IpAddr, trouble: &Trouble) {
        let is_new = {
            let mut logged = self.logged.lock();
            if logged.len() >= REMEMBERED {
                logged.clear();
            }
            logged.insert((peer, trouble.kind()))
        };
        if is_new {
            tracing::warn!(
                port = self.port,
                %peer,
                %trouble,
                "a connection was refused; more of this kind from this address are not logged"
            );
        } else {
            tracing::debug!(port = self.port, %peer, %trouble, "a connection was refused again");
        }
    }
}
