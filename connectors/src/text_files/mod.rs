//! Text files: lines of files that appear in a folder as a source, folders of part files as a sink.
//!
//! Layout:
//! - [`sink`]: a folder of part files for each batch
//! - [`source`]: lines of new files

pub mod sink;
pub mod source;
