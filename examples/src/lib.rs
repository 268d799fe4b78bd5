//! Runnable Millstream programs; see the Cargo example targets.
