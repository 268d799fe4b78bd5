//! Connections to executors, for their blocks: one per address, made on first use.

use std::time::Duration;

use dashmap::DashMap;
use tonic::{
    Code, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use crate::{
    auth::{PresentSecret, Secret},
    limits,
    pb::executor_client::ExecutorClient,
    tls::{Dial, Tls},
};

/// More addresses than a cluster has; beyond it, addresses of executors that are gone are forgotten with the rest.
const MAX_CONNECTIONS: usize = 4096;
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;

/// Asks an executor for blocks.
pub type Client = ExecutorClient<InterceptedService<Channel, PresentSecret>>;

/// Why a block didn't come from an executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The connection broke, or the like: another try may help.
    Transient(String),
    /// The block is not to be had there.
    Final(String),
    /// The executor asks for another secret.
    OtherSecret(String),
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        let message = status.message();
        match status.code() {
            Code::Unauthenticated => Self::OtherSecret(message.to_owned()),
            Code::Unimplemented => Self::Final(message.to_owned()),
            code => Self::Transient(format!("{code:?}: {message}")),
        }
    }
}

/// Connections to executors.
#[derive(Debug)]
pub struct Peers {
    channels: DashMap<String, (Channel, Dial)>,
    secret: PresentSecret,
    tls: Tls,
    connect_timeout: Duration,
}

impl Peers {
    /// No connections yet. Each presents `secret`; connecting may take `connect_timeout`.
    pub fn new(secret: Option<&Secret>, tls: Tls, connect_timeout: Duration) -> Self {
        Self {
            channels: DashMap::new(),
            secret: PresentSecret::new(secret),
            tls,
            connect_timeout,
        }
    }

    /// A client of the executor at `address`, taking replies of up to `reply_limit` bytes. Connects when used.
    ///
    /// # Errors
    /// When `address` is none.
    pub fn client(&self, address: &str, reply_limit: usize) -> Result<Client, String> {
        let client = ExecutorClient::with_interceptor(self.channel(address)?, self.secret.clone());
        Ok(client
            .max_decoding_message_size(reply_limit)
            .max_encoding_message_size(limits::FETCH_REQUEST))
    }

    /// What is wrong with the executor at `address` and won't change by itself says more than what became of a request.
    pub fn explained(&self, address: &str, problem: Problem) -> Problem {
        let trouble = self.channels.get(address).and_then(|entry| {
            let (_, dial) = entry.value();
            dial.trouble()
        });
        trouble.map_or(problem, |trouble| Problem::Final(trouble.to_string()))
    }

    fn channel(&self, address: &str) -> Result<Channel, String> {
        if let Some(entry) = self.channels.get(address) {
            let (channel, _) = entry.value();
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| format!("{address} is no address: {error}"))?;
        let dial = self.tls.dial();
        let endpoint = endpoint
            .connect_timeout(self.connect_timeout)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(limits::KEEPALIVE)
            .keep_alive_timeout(limits::KEEPALIVE);
        let channel = dial.open_lazily(&endpoint);
        if self.channels.len() >= MAX_CONNECTIONS {
            self.channels.clear();
        }
        self.channels
            .insert(address.to_owned(), (channel.clone(), dial));
        Ok(channel)
    }
}
