//! Millstream's wire protocol: the generated code, and its conversions to and from the domain's types. Prost types stop here.
//!
//! Layout:
//! - [`pb`]: what `proto/millstream.proto` generates
//! - [`convert`]: between [`pb`] and `millstream_common::{ids, protocol, failure}`
//! - [`auth`]: the shared secret: presented by clients, required by servers before anything is decoded
//! - [`limits`]: bounds on messages and streams
//! - [`refusal`]: failures as gRPC statuses, and the codes that executors act on

pub mod auth;
pub mod convert;
pub mod limits;
pub mod refusal;

#[expect(
    missing_docs,
    clippy::all,
    clippy::doc_markdown,
    reason = "generated; documented in the .proto file"
)]
pub mod pb {
    //! Generated from `proto/millstream.proto`.
    tonic::include_proto!("millstream.v1");
}

pub use convert::ConversionError;
