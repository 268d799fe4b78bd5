//! Input, checkpoints, disks and code that are bad: each gets a clear error that names the thing and the way out, and loses nothing.

mod checkpoints;
mod code;
mod disks;
mod records;
mod sockets;
