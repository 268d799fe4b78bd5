//! Lines from a TCP server.

use std::sync::Arc;

use millstream_common::text::Text;
use millstream_connectors::{
    socket::{Settings, SocketDriver, SocketSplits},
    source::SourceDriver,
};

use crate::{context::StreamingContext, stream::DStream};

impl StreamingContext {
    /// The lines that a TCP server sends. The receiver connects out from the driver and comes back after a break; lines that it had not logged when
    /// the driver died are lost.
    pub fn socket_text_stream(&self, host: &str, port: u16) -> DStream<Text> {
        let settings = Arc::new(Settings::of_config(format!("{host}:{port}"), self.config()));
        let fingerprint = settings.fingerprint();
        let splits = Arc::new(SocketSplits);
        let clock = self.clock();
        let driver = Arc::new(move || {
            Ok(
                Box::new(SocketDriver::new(Arc::clone(&settings), Arc::clone(&clock)))
                    as Box<dyn SourceDriver>,
            )
        });
        self.source("socket", fingerprint, driver, splits)
    }
}
