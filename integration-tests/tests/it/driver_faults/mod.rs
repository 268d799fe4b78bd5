//! The driver is killed, or stopped while another takes over; no word is lost or counted twice.

mod folders;
mod mixed;
mod restarts;
mod takeovers;

pub(crate) use restarts::{kill_and_restart_after, kill_and_restart_job, rebuilt};
pub(crate) use takeovers::{Second, take_over_job};
