//! millstream-dstreams
