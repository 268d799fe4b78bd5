//! millstream-executor
