//! millstream-proto
