//! The Driver service over the network: messages in and out of [`ClusterHandle`], behind the shared secret.

use std::{io, net::SocketAddr, pin::Pin};

use futures::{Stream, stream};
use millstream_common::protocol::{Hello, RegisterRequest, ToDriver};
use millstream_proto::{
    auth::{RequireSecret, Secret},
    pb,
    refusal::{to_status, unknown_executor},
    server,
    tls::Tls,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    service::{Routes, interceptor::InterceptedService},
};

use super::service::{ClusterHandle, SessionEnd};

/// The driver's gRPC server.
pub struct DriverServer {
    listener: TcpListener,
    secret: Option<Secret>,
    tls: Tls,
    max_message: usize,
    cluster: ClusterHandle,
}

/// The server could not be started or broke off.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken or not this host's.
    #[error(
        "could not listen for executors on {address}: {source}; name another address with --listen, or stop what listens there"
    )]
    Bind {
        /// The address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// It broke off.
    #[error("the driver's gRPC server broke off: {0}")]
    Serve(#[from] tonic::transport::Error),
}

impl DriverServer {
    /// Binds `address` (`host:port`).
    ///
    /// # Errors
    /// When it can't be bound.
    pub async fn bind(
        address: &str,
        secret: Option<Secret>,
        tls: Tls,
        max_message: usize,
        cluster: ClusterHandle,
    ) -> Result<Self, ServerError> {
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|source| ServerError::Bind {
            address: address.to_owned(),
            source,
        })?;
        Ok(Self {
            listener,
            secret,
            tls,
            max_message,
            cluster,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket doesn't say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When the server breaks off.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ServerError> {
        let service = pb::driver_server::DriverServer::new(Service {
            cluster: self.cluster,
            asks_for_secret: self.secret.is_some(),
            shutdown: shutdown.clone(),
        })
        .max_decoding_message_size(self.max_message)
        .max_encoding_message_size(self.max_message);
        let guarded = InterceptedService::new(service, RequireSecret::new(self.secret));
        let routes = Routes::new(guarded);
        server::serve(&self.tls, self.listener, "driver.listen", routes, shutdown).await?;
        Ok(())
    }
}

struct Service {
    cluster: ClusterHandle,
    asks_for_secret: bool,
    shutdown: CancellationToken,
}

type DriverMessages = Pin<Box<dyn Stream<Item = Result<pb::DriverMessage, Status>> + Send>>;

#[tonic::async_trait]
impl pb::driver_server::Driver for Service {
    type SessionStream = DriverMessages;

    async fn register(
        &self,
        request: Request<pb::RegisterRequest>,
    ) -> Result<Response<pb::RegisterReply>, Status> {
        let request = RegisterRequest::from(request.into_inner());
        match self.cluster.register(request).await {
            Ok(reply) => Ok(Response::new(pb::RegisterReply {
                asked_for_secret: self.asks_for_secret,
                ..reply.into()
            })),
            Err(failure) => Err(to_status(&failure)),
        }
    }

    async fn session(
        &self,
        request: Request<Streaming<pb::ExecutorMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("a session begins with Hello"))?;
        let hello = Hello::try_from(first)?;
        let executor = hello.executor;
        let session = self.cluster.open(hello).await.map_err(|end| match end {
            SessionEnd::Unknown(_) => to_status(&unknown_executor(end.to_string())),
            SessionEnd::Refused(failure) => to_status(&failure),
            SessionEnd::Stopping => Status::unavailable(end.to_string()),
        })?;
        let number = session.number;
        let cluster = self.cluster.clone();
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            loop {
                let received = tokio::select! {
                    received = inbound.message() => received,
                    () = shutdown.cancelled() => break,
                };
                let message = match received {
                    Ok(Some(message)) => message,
                    Ok(None) => break,
                    Err(status) => {
                        tracing::debug!(%executor, %status, "executor session broke off");
                        break;
                    }
                };
                let heard = match ToDriver::try_from(message) {
                    Ok(heard) => heard,
                    Err(error) => {
                        tracing::warn!(%executor, %error, "executor sent what can't be read; its session is ended");
                        break;
                    }
                };
                if cluster.heard(executor, number, heard).await.is_err() {
                    break;
                }
            }
            // The service may have ended before the session did.
            let _ = cluster.closed(executor, number).await;
        });
        let outbound = stream::unfold(session.outbox, |mut outbox| async move {
            let message = outbox.recv().await?;
            Some((Ok(pb::DriverMessage::from(message)), outbox))
        });
        Ok(Response::new(Box::pin(outbound)))
    }
}
