//! millstream-dstreams
pub mod display;
