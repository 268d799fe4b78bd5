//! What a query tells of its batches, under Spark's names.

pub use millstream_driver::streaming::{
    SinkProgress, SourceProgress, StateOperatorProgress, StreamingQueryProgress,
    StreamingQueryStatus,
};
