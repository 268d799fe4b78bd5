//! The door of HTTP ports (metrics, REST): a token where one is set, and TLS for ports that other machines reach.

use std::{io, net::SocketAddr};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    serve::Listener,
};
use futures::future::BoxFuture;
use millstream_common::config::{Config, keys};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Secret,
    tls::{Incoming, Line, Tls},
};

/// Answered without a token: it says only that the process lives.
const HEALTH: &str = "/healthz";
const TOKEN_WANTED: &str =
    "this port asks for the token of http.token: send it as `Authorization: Bearer TOKEN`\n";

/// A port can't be served as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token is no header value.
    #[error(
        "http.token can't be used: it must be 1 to 1024 visible ASCII characters without spaces"
    )]
    Token,
    /// Anyone could read it.
    #[error(
        "{key} is {address}, which other machines reach: set http.token, listen on 127.0.0.1, or switch HTTP off with http.enabled=false"
    )]
    Exposed {
        /// The configuration key of the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The socket doesn't say where it listens.
    #[error("could not serve HTTP for {key}: {source}")]
    Socket {
        /// The configuration key of the address.
        key: &'static str,
        /// What is wrong.
        source: io::Error,
    },
}

/// What HTTP clients must bring.
#[derive(Clone, Debug, Default)]
pub struct Door {
    token: Option<Secret>,
    tls: Tls,
}

impl Door {
    /// What a configuration says.
    ///
    /// # Errors
    /// [`Error::Token`].
    pub fn of_config(config: &Config, tls: &Tls) -> Result<Self, Error> {
        let token = match config.get(keys::HTTP_TOKEN) {
            Some(token) => Some(Secret::new(token.expose()).map_err(|_| Error::Token)?),
            None => None,
        };
        Ok(Self {
            token,
            tls: tls.clone(),
        })
    }

    /// Serves `router` on `listener`, whose address `key` gave: on this machine alone as plain HTTP, elsewhere only with a token, and encrypted where TLS
    /// is on. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Exposed`] beyond this machine without a token.
    pub fn open(
        &self,
        listener: TcpListener,
        key: &'static str,
        router: Router,
    ) -> Result<HttpServing, Error> {
        let address = listener
            .local_addr()
            .map_err(|source| Error::Socket { key, source })?;
        let is_exposed = !address.ip().is_loopback();
        if is_exposed && self.token.is_none() {
            return Err(Error::Exposed { key, address });
        }
        if is_exposed && !self.tls.is_on() {
            tracing::warn!(key, %address, "HTTP is served unencrypted to other machines: set tls.ca, tls.cert and tls.key");
        }
        let router = match &self.token {
            Some(token) => router.layer(middleware::from_fn_with_state(token.clone(), ask)),
            None => router,
        };
        Ok(HttpServing {
            incoming: self.tls.accept_http(listener, key, is_exposed),
            router,
            address,
        })
    }
}

/// An HTTP port that is open.
pub struct HttpServing {
    incoming: Incoming,
    router: Router,
    address: SocketAddr,
}

impl HttpServing {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then hangs up: a client that keeps its connection open must not hold up the stop.
    ///
    /// # Errors
    /// When the server breaks off.
    pub fn run(self, shutdown: CancellationToken) -> BoxFuture<'static, io::Result<()>> {
        // Boxed: the server is compiled here, not again in each crate that awaits it.
        Box::pin(async move {
            let serving = async { axum::serve(self.incoming, self.router).await };
            tokio::select! {
                served = serving => served,
                () = shutdown.cancelled() => Ok(()),
            }
        })
    }
}

impl Listener for Incoming {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        self.next_line().await
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.address()
    }
}

async fn ask(State(token): State<Secret>, request: Request, next: Next) -> Response {
    if request.uri().path() == HEALTH || presents(request.headers(), &token) {
        return next.run(request).await;
    }
    let wanted = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, wanted, TOKEN_WANTED).into_response()
}

fn presents(headers: &HeaderMap, token: &Secret) -> bool {
    headers
        .get(header::AUTHORIZATION)
        .is_some_and(|value| token.is_presented_by(value.as_bytes()))
}
