//! Checkpoint and output on a real object store.
//!
//! - `outages`: a store that is away, busy, slow, or whose answers are lost
//! - `processes`: the kills of `driver_faults` and `faults` with everything on the store
//! - `refusals`: what is refused before the first batch

mod outages;
mod processes;
mod refusals;
