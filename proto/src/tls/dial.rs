//! How clients connect, and learn what is wrong when they don't.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, rustls::ClientConfig, rustls::pki_types::ServerName};
use tonic::transport::{Channel, Endpoint, Error};
use tower::Service;

use super::{
    NODE_NAME,
    line::{Learnt, Line, Slot},
    trouble::{Foreign, Trouble},
};

const PORT_OF_HTTP: u16 = 80;

/// Connects to one peer; clones share what they learn of it.
#[derive(Clone)]
pub struct Dial {
    config: Option<Arc<ClientConfig>>,
    slot: Slot,
}

impl Dial {
    pub(super) fn new(config: Option<Arc<ClientConfig>>) -> Self {
        Self {
            config,
            slot: Slot::default(),
        }
    }

    /// What was wrong with the newest connection, where that won't change by itself.
    pub fn trouble(&self) -> Option<Trouble> {
        self.slot.lock().trouble.clone()
    }

    /// Why what answered at the newest connection is no node, where it seems to be something else. A node may be there later.
    pub fn foreign(&self) -> Option<Foreign> {
        self.slot.lock().foreign
    }

    /// Connects as the endpoint says.
    ///
    /// # Errors
    /// When nobody answers there, or not as a node does; see [`Dial::trouble`] and [`Dial::foreign`].
    pub fn open(&self, endpoint: &Endpoint) -> BoxFuture<'static, Result<Channel, Error>> {
        let (endpoint, dial) = (endpoint.clone(), self.clone());
        // Boxed: the HTTP/2 client is compiled here, not again in each crate that connects.
        Box::pin(async move { endpoint.connect_with_connector(dial).await })
    }

    /// A channel that connects when it is used.
    pub fn open_lazily(&self, endpoint: &Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(self.clone())
    }

    async fn connect(self, uri: Uri) -> io::Result<Line> {
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(PORT_OF_HTTP);
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let Some(config) = self.config else {
            return Ok(Line::dialled_plain(stream, self.slot));
        };
        let name = ServerName::try_from(NODE_NAME).map_err(io::Error::other)?;
        match TlsConnector::from(config).connect(name, stream).await {
            Ok(stream) => Ok(Line::dialled(stream.into(), self.slot)),
            Err(error) => {
                self.slot.lock().trouble = Trouble::of_io(&error);
                Err(error)
            }
        }
    }
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Dial")
            .field("trouble", &self.trouble())
            .finish_non_exhaustive()
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Line>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        *self.slot.lock() = Learnt::default();
        let dial = self.clone();
        Box::pin(async move { dial.connect(uri).await.map(TokioIo::new) })
    }
}
