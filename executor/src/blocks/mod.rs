//! Blocks: what map tasks wrote for reduce tasks, in memory under a budget, else on local disk.
//!
//! Layout:
//! - `spill`: the local folder and its files
//! - `store`: the blocks

mod spill;
mod store;
#[cfg(test)]
mod tests;

pub use spill::SpillFolder;
pub use store::{BlockStore, StoredFrame, Unreadable};
