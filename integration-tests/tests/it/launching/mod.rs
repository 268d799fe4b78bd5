//! Every way to start an application, to stop it, and to be refused.

mod masters;
mod refusals;
mod stopping;
mod telling;
