//! The driver is killed, or stopped while another takes over; no word is lost or counted twice.

mod mixed;
mod restarts;
mod takeovers;

pub(crate) use restarts::rebuilt;
