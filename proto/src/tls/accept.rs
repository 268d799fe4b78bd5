//! A listener whose connections have passed the handshake. Each handshake has a task and a deadline of its own: one that stalls holds up nobody.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use millstream_common::{
    open_files::{self, OUT_OF_FILES, is_out_of_files},
    time::{Clock, SystemClock, Tick},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::{
    line::{HANDSHAKE_RECORD, Line},
    stay::{Stay, Terms},
    trouble::Trouble,
};

/// Connections that may be in their handshake; further ones wait in the system's queue.
const HANDSHAKES: usize = 512;
/// How many of them one address may have: nobody keeps the others out alone.
const HANDSHAKES_OF_ONE: usize = HANDSHAKES / 4;
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Connections that wait for the server to take them.
const ACCEPTED: usize = 64;
/// How long a connection may take until its first call is let in.
const STRANGER_TIME: Duration = Duration::from_secs(30);
/// How long a client of HTTP may keep its connection without taking an answer.
const IDLE_TIME: Duration = Duration::from_secs(120);
/// The most connections of a gRPC port...
const GRPC_LINES: u64 = 16 * 1024;
/// ... and of an HTTP port.
const HTTP_LINES: u64 = 256;
/// How often it is said that a port is full, or that the system gives no connections.
const SAID_EVERY: Duration = Duration::from_secs(60);
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

/// How many connections a port takes, and on which terms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) lines: usize,
    pub(super) terms: Terms,
    /// How long a handshake may take.
    pub(super) handshake: Duration,
}

impl Bounds {
    pub(super) fn of_grpc() -> Self {
        Self {
            lines: lines(open_files::limit(), 2, GRPC_LINES),
            terms: Terms::Vouched(STRANGER_TIME),
            handshake: HANDSHAKE_TIME,
        }
    }

    pub(super) fn of_http() -> Self {
        Self {
            lines: lines(open_files::limit(), 8, HTTP_LINES),
            terms: Terms::Answered(IDLE_TIME),
            handshake: HANDSHAKE_TIME,
        }
    }
}

/// At most `most`, and no more than one part in `share` of the files that this process may have open: the rest is for blocks, tables and logs.
fn lines(files: Option<u64>, share: u64, most: u64) -> usize {
    const LEAST: u64 = 16;
    let bound = files.map_or(most, |files| (files / share).clamp(LEAST, most));
    usize::try_from(bound).unwrap_or(usize::MAX)
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
        bounds: Bounds,
    ) -> Self {
        let (sender, accepted) = mpsc::channel(ACCEPTED);
        let address = listener.local_addr();
        let gate = Arc::new(Gate {
            acceptor: config.map(TlsAcceptor::from),
            protocol,
            port,
            bounds,
            clock: SystemClock::new(),
            logged: Mutex::default(),
            begun: Mutex::default(),
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

/// When something was said last.
#[derive(Default)]
struct Said(Option<Tick>);

impl Said {
    fn is_due(&mut self, clock: &SystemClock) -> bool {
        let now = clock.now();
        let is_due = self.0.is_none_or(|last| now.since(last) >= SAID_EVERY);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

struct Gate {
    acceptor: Option<TlsAcceptor>,
    protocol: Protocol,
    port: &'static str,
    bounds: Bounds,
    clock: SystemClock,
    logged: Mutex<HashSet<(IpAddr, &'static str)>>,
    /// Handshakes that have begun, by address.
    begun: Mutex<HashMap<IpAddr, usize>>,
}

/// One of an address's handshakes, until it is dropped.
struct Begun {
    gate: Arc<Gate>,
    peer: IpAddr,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut begun = self.gate.begun.lock();
        if let Some(count) = begun.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                begun.remove(&self.peer);
            }
        }
    }
}

impl Gate {
    async fn accept_all(
        self: Arc<Self>,
        listener: TcpListener,
        sender: mpsc::Sender<(Line, SocketAddr)>,
    ) {
        let places = Arc::new(Semaphore::new(self.bounds.lines));
        let starting = Arc::new(Semaphore::new(HANDSHAKES));
        // Ends them with this task.
        let mut handshakes = JoinSet::new();
        let mut full = Said::default();
        let mut failing = Said::default();
        loop {
            if places.available_permits() == 0 && full.is_due(&self.clock) {
                tracing::warn!(
                    port = self.port,
                    connections = self.bounds.lines,
                    "a port has as many connections as it takes; others wait"
                );
            }
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let Ok(start) = Arc::clone(&starting).acquire_owned().await else {
                return;
            };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.report(&error, &mut failing);
                    self.clock.until(self.clock.now().after(PAUSE)).await;
                    continue;
                }
            };
            let Some(begun) = self.begin(peer.ip()) else {
                tracing::debug!(port = self.port, %peer, "an address has as many handshakes as it may");
                continue;
            };
            let gate = Arc::clone(&self);
            let sender = sender.clone();
            handshakes.spawn(async move {
                let _start = start;
                let _begun = begun;
                let deadline = gate
                    .clock
                    .until(gate.clock.now().after(gate.bounds.handshake));
                let line = tokio::select! {
                    line = gate.admit(stream, peer, place) => line,
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

    /// Nothing when the address has as many handshakes as it may; its connection is then closed, and an honest one comes again.
    fn begin(self: &Arc<Self>, peer: IpAddr) -> Option<Begun> {
        let mut begun = self.begun.lock();
        let count = begun.entry(peer).or_default();
        if *count >= HANDSHAKES_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Begun {
            gate: Arc::clone(self),
            peer,
        })
    }

    /// Says that the system gives no connections; what a peer did to its own is no news.
    fn report(&self, error: &io::Error, failing: &mut Said) {
        if is_out_of_files(error) && failing.is_due(&self.clock) {
            tracing::warn!(port = self.port, %error, advice = OUT_OF_FILES, "could not accept a connection");
        } else {
            tracing::debug!(port = self.port, %error, "could not accept a connection");
        }
    }

    async fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> Option<Line> {
        let stay = Stay::new(place, self.bounds.terms, self.clock.clone());
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
            return Some(Line::accepted_plain(stream, stay));
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
            Ok(stream) => Some(Line::accepted(stream.into(), stay)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_leaves_files_for_the_rest_of_the_process() {
        assert_eq!(lines(Some(1_024), 2, GRPC_LINES), 512);
        assert_eq!(lines(Some(1 << 20), 2, GRPC_LINES), 16 * 1024);
        assert_eq!(lines(None, 2, GRPC_LINES), 16 * 1024);
        assert_eq!(lines(Some(20), 8, HTTP_LINES), 16);
    }
}
