//! A TCP proxy that cuts or stalls the connections through it.
//!
//! One thread serves one proxy. It may touch nothing but its sockets.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::Error;

const BUFFER: usize = 64 * 1024;

/// What the proxy does with its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    Stalled,
    Cut,
    Closed,
}

#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    /// Tells a connection of a cut that was healed before it looked.
    cuts: u64,
}

/// When a [`TcpProxy`] stalls at bytes that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// They stay with the proxy until it is healed.
    Before,
    /// They are passed on; what is answered stays with the proxy.
    After,
}

type Wanted = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// What the connections share beside the state.
#[derive(Default)]
struct Watch {
    trigger: Mutex<Option<(Moment, Wanted)>>,
    accepted: AtomicU64,
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Watch")
            .field("accepted", &self.accepted)
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// Whether these are the bytes waited for, and when to stall; once.
    fn matches(&self, bytes: &[u8]) -> Option<Moment> {
        let mut trigger = self.trigger.lock();
        if !trigger.as_ref().is_some_and(|(_, wanted)| wanted(bytes)) {
            return None;
        }
        trigger.take().map(|(moment, _)| moment)
    }
}

/// A TCP proxy in front of one address. It begins open, and closes when it is dropped.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    watch: Arc<Watch>,
    thread: Option<JoinHandle<()>>,
}

impl TcpProxy {
    /// Starts a proxy on a free port of the loopback interface; it connects to `upstream` once for each
    /// connection that it accepts.
    pub fn start(upstream: SocketAddr) -> Result<Self, Error> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")
            .map_err(Error::io("bind a port for a proxy"))?;
        let address = listener
            .local_addr()
            .map_err(Error::io("read the address of a proxy"))?;
        listener
            .set_nonblocking(true)
            .map_err(Error::io("prepare the socket of a proxy"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(Error::io("build the runtime of a proxy"))?;
        let (state, observer) = watch::channel(State {
            mode: Mode::Open,
            cuts: 0,
        });
        let watch = Arc::new(Watch::default());
        let shared = Shared {
            state: state.clone(),
            watch: Arc::clone(&watch),
        };
        let thread = thread::Builder::new()
            .name("tcp-proxy".to_owned())
            .spawn(move || runtime.block_on(serve(listener, upstream, observer, shared)))
            .map_err(Error::io("start the thread of a proxy"))?;
        Ok(Self {
            address,
            state,
            watch,
            thread: Some(thread),
        })
    }

    /// The address to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every connection, and each new one as soon as it is made.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.mode = Mode::Cut;
            state.cuts += 1;
        });
    }

    /// Moves no byte any more, in neither direction; new connections are accepted and stay silent. Nothing
    /// is lost: what is under way moves on after [`heal`](Self::heal).
    pub fn stall(&self) {
        self.state.send_modify(|state| state.mode = Mode::Stalled);
    }

    /// Stalls, once, when a client sends a piece of bytes that is `wanted`. A piece is what arrives at once: a small message that
    /// its sender waits for the answer of, as a rule.
    pub fn stall_at(&self, moment: Moment, wanted: impl Fn(&[u8]) -> bool + Send + Sync + 'static) {
        *self.watch.trigger.lock() = Some((moment, Box::new(wanted)));
    }

    /// How many connections were made to it.
    pub fn accepted(&self) -> u64 {
        self.watch.accepted.load(Ordering::Acquire)
    }

    /// Lets stalled connections go on, and new ones through. Connections that were cut stay cut.
    pub fn heal(&self) {
        self.state.send_modify(|state| state.mode = Mode::Open);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.state.send_modify(|state| state.mode = Mode::Closed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and takes nothing else with it.
            let _ = thread.join();
        }
    }
}

#[derive(Clone)]
struct Shared {
    state: watch::Sender<State>,
    watch: Arc<Watch>,
}

impl Shared {
    fn stall(&self) {
        self.state.send_modify(|state| state.mode = Mode::Stalled);
    }
}

async fn serve(
    listener: std::net::TcpListener,
    upstream: SocketAddr,
    mut state: watch::Receiver<State>,
    shared: Shared,
) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = state.wait_for(|state| state.mode == Mode::Closed) => return,
        };
        // An error here is of one connection that was gone before it was accepted.
        if let Ok((client, _)) = accepted {
            shared.watch.accepted.fetch_add(1, Ordering::Release);
            tokio::spawn(connection(client, upstream, state.clone(), shared.clone()));
        }
    }
}

async fn connection(
    mut client: TcpStream,
    upstream: SocketAddr,
    mut state: watch::Receiver<State>,
    shared: Shared,
) {
    set_linger(&client, Some(Duration::ZERO));
    let cuts = {
        let now = state.borrow_and_update();
        if now.mode == Mode::Cut || now.mode == Mode::Closed {
            return;
        }
        now.cuts
    };
    let mut cut = state.clone();
    let through = async {
        until_open(&mut state).await;
        let Ok(mut server) = TcpStream::connect(upstream).await else {
            return;
        };
        set_linger(&server, Some(Duration::ZERO));
        // A refusal only costs speed.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (up, down) = tokio::join!(
            pump(from_client, to_server, state.clone(), Some(&shared)),
            pump(from_server, to_client, state.clone(), None),
        );
        if up == End::Orderly && down == End::Orderly {
            set_linger(&client, None);
            set_linger(&server, None);
        }
    };
    tokio::select! {
        () = through => {}
        _ = cut.wait_for(|state| state.cuts != cuts || state.mode == Mode::Closed) => {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Orderly,
    Broken,
}

/// Copies one direction until its end, and passes the end on.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    watched: Option<&Shared>,
) -> End {
    let mut buffer = vec![0; BUFFER];
    loop {
        until_open(&mut state).await;
        let Ok(read) = from.read(&mut buffer).await else {
            return End::Broken;
        };
        let stall = watched.and_then(|shared| {
            let moment = shared.watch.matches(&buffer[..read])?;
            Some((shared, moment))
        });
        if let Some((shared, Moment::Before)) = stall {
            shared.stall();
        }
        // The stall may have begun while this waited for the bytes.
        until_open(&mut state).await;
        if let Some((shared, Moment::After)) = stall {
            shared.stall();
        }
        let passed_on = if read == 0 {
            to.shutdown().await
        } else {
            to.write_all(&buffer[..read]).await
        };
        if passed_on.is_err() {
            return End::Broken;
        }
        if read == 0 {
            return End::Orderly;
        }
    }
}

async fn until_open(state: &mut watch::Receiver<State>) {
    // An error means that the proxy is gone, and with it this connection.
    let _ = state.wait_for(|state| state.mode == Mode::Open).await;
}

/// A linger time of zero makes the socket's end a reset, as that of a lost connection is.
fn set_linger(socket: &TcpStream, linger: Option<Duration>) {
    // It only fails on a socket that is closed already.
    let _ = set_socket_linger(socket, linger);
}
