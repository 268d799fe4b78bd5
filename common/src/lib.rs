//! millstream-common
