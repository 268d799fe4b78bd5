//! millstream-driver
