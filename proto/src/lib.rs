//! Millstream's wire protocol: the generated code, and its conversions to and from the domain's types. Prost types stop here.
//!
//! Layout:
//! - [`pb`]: what `proto/millstream.proto` generates
//! - [`convert`]: between [`pb`] and `millstream_common::{ids, protocol, failure}`
//! - [`auth`]: the shared secret: presented by clients, required by servers before anything is decoded
//! - [`http`]: the door of HTTP ports: a token, and TLS beyond this machine
//! - [`launches`]: launches as messages that are not too large
//! - [`limits`]: bounds on messages and streams
//! - [`peers`]: connections to executors, for their blocks
//! - [`refusal`]: failures as gRPC statuses, and the codes that executors act on
//! - [`server`]: serving gRPC on a port
//! - [`tls`]: mutual TLS on every connection between driver and executors

pub mod auth;
pub mod convert;
pub mod http;
pub mod launches;
pub mod limits;
pub mod peers;
pub mod refusal;
pub mod server;
pub mod tls;

#[expect(
    missing_docs,
    clippy::all,
    clippy::doc_markdown,
    reason = "generated; documented in the .proto file"
)]
pub mod pb {
    //! Generated from `proto/millstream.proto`; `generate` makes it anew.
    include!("../generated/millstream.v1.rs");
}

pub use convert::ConversionError;
