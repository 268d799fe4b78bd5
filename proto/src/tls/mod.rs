//! Mutual TLS on every connection between driver and executors, from three PEM files.
//!
//! Both sides present a certificate; each checks that the other's is signed by `tls.ca`, is in force, and is made for [`NODE_NAME`]. Peers are reached by
//! addresses that change (containers, dynamic ports), so the name asked for is the same for every node; belonging to the authority is what counts.
//! Without the files connections are plain; then too, a peer that speaks TLS is recognised and told.
//!
//! Layout:
//! - `accept`: a listener whose connections have passed the handshake
//! - `dial`: how clients connect
//! - `files`: reading and checking the three files
//! - `line`: one connection, plain or TLS
//! - `stay`: the place that an accepted connection takes, and how long it may keep it
//! - `trouble`: what is wrong with the other side, and the way out

mod accept;
mod dial;
mod files;
mod line;
mod stay;
#[cfg(test)]
mod tests;
mod trouble;

use std::{fmt, sync::Arc};

use millstream_common::config::{Config, keys};
use tokio::net::TcpListener;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

use accept::Bounds;

pub use accept::Incoming;
pub use dial::Dial;
pub use files::Error;
pub use line::Line;
pub use stay::Guest;
pub use trouble::{Flaw, Foreign, Trouble};

/// The name that the certificate of every node is made for, and that both sides ask for.
pub const NODE_NAME: &str = "millstream-node";

/// How this process connects and lets connect: plain, or with TLS. Cheap to clone; plain by default.
#[derive(Clone, Default)]
pub struct Tls(Option<Arc<Material>>);

pub(crate) struct Material {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// For HTTP, where clients present a token and no certificate.
    http: Arc<ServerConfig>,
    /// The day on which the certificate expires, where that is soon.
    expires_soon: Option<String>,
}

impl Tls {
    /// What a configuration says. The files are read once, here.
    ///
    /// # Errors
    /// [`Error`]: files that can't be read, don't fit together, or that the other side would refuse.
    pub fn of_config(config: &Config) -> Result<Self, Error> {
        let (Some(ca), Some(cert), Some(key)) = (
            config.get(keys::TLS_CA),
            config.get(keys::TLS_CERT),
            config.get(keys::TLS_KEY),
        ) else {
            return Ok(Self::default());
        };
        let tls = Self::load(&ca, &cert, &key)?;
        if let Some(day) = tls.expires_soon() {
            tracing::warn!(
                certificate = cert,
                expires = day,
                "the certificate of this node expires soon; put a new one in place and restart"
            );
        }
        Ok(tls)
    }

    /// Reads the authority's certificate, this node's, and its key.
    ///
    /// # Errors
    /// [`Error`].
    pub fn load(ca: &str, cert: &str, key: &str) -> Result<Self, Error> {
        let material = files::load(ca, cert, key)?;
        Ok(Self(Some(Arc::new(material))))
    }

    /// The day on which this node's certificate expires, where that is within 30 days from when it was read.
    pub fn expires_soon(&self) -> Option<&str> {
        self.0.as_ref()?.expires_soon.as_deref()
    }

    /// Whether connections are encrypted.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A connector for one peer.
    pub fn dial(&self) -> Dial {
        Dial::new(self.0.as_ref().map(|material| Arc::clone(&material.client)))
    }

    /// Lets nodes connect. `port` is what logs call the listener: its configuration key.
    pub fn accept(&self, listener: TcpListener, port: &'static str) -> Incoming {
        let config = self.0.as_ref().map(|material| Arc::clone(&material.server));
        let bounds = Bounds::of_grpc();
        Incoming::start(listener, config, port, accept::Protocol::Grpc, bounds)
    }

    /// Lets clients of HTTP connect: encrypted where TLS is on and `is_exposed`.
    pub fn accept_http(
        &self,
        listener: TcpListener,
        port: &'static str,
        is_exposed: bool,
    ) -> Incoming {
        let material = self.0.as_ref().filter(|_| is_exposed);
        let config = material.map(|material| Arc::clone(&material.http));
        let bounds = Bounds::of_http();
        Incoming::start(listener, config, port, accept::Protocol::Http, bounds)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.is_on() { "Tls(on)" } else { "Tls(off)" })
    }
}
