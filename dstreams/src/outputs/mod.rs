//! Outputs of streams: what makes a graph run.
//!
//! Layout:
//! - `callback`: for_each_batch, on the driver
//! - [`console`]: where printed batches go
//! - `partitions`: for_each_partition, on executors
//! - `print`: print and pprint
//! - `sink`: connectors' sinks

mod callback;
pub mod console;
mod partitions;
mod print;
mod sink;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{
    graph::{Graph, Node, NodeId},
    stream::DStream,
};

pub use console::Console;
pub use partitions::PartitionInfo;

/// An output that was declared.
pub struct Output {
    graph: Arc<Mutex<Graph>>,
    node: NodeId,
}

impl Output {
    /// Gives the output a stable id of the user's choice; else that is its kind and ordinal, such as `pprint-0`.
    pub fn named(self, name: &str) -> Self {
        if let Some(node) = self.graph.lock().nodes.get_mut(self.node.0) {
            node.name = Some(name.to_owned());
        }
        self
    }

    /// No other output of the graph may have this place.
    pub(crate) fn alone_at(self, place: String) -> Self {
        self.graph.lock().places.push((self.node, place));
        self
    }
}

impl<T> DStream<T> {
    fn add_output(&self, node: Node) -> Output {
        let node = self.graph.lock().add(node);
        Output {
            graph: self.graph.clone(),
            node,
        }
    }
}
