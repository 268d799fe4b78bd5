//! Which task runs where: a state machine without IO. `handle(now, event) -> actions`.
//!
//! Layout:
//! - [`message`]: events in, actions out

pub mod message;
