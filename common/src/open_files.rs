//! How many files and connections this process may have open.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What to do when a process may open no more files.
pub const OUT_OF_FILES: &str = "too many files and connections are open: raise the limit of this process (`ulimit -n`, or LimitNOFILE of its service)";

/// Raises the soft limit of open files to the hard one, once at a process's start: the usual 1024 is soon used up by connections and blocks. Where that
/// can't be done the limit stays.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, limit = limit.current, "the limit of open files can't be raised");
    }
}

/// How many files this process may have open; none where there is no limit.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Whether an error says that this process, or the machine, may open no more files.
pub fn is_out_of_files(error: &io::Error) -> bool {
    let codes = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    error
        .raw_os_error()
        .is_some_and(|code| codes.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let lower = Rlimit {
            current: maximum.map(|files| files - 1),
            maximum,
        };
        setrlimit(Resource::Nofile, lower).expect("lowered");
        raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(super::limit(), limit.maximum);
    }

    #[test]
    fn want_of_files_is_told_from_other_errors() {
        assert!(is_out_of_files(&io::Error::from_raw_os_error(24)));
        assert!(is_out_of_files(&io::Error::from_raw_os_error(23)));
        assert!(!is_out_of_files(&io::Error::from_raw_os_error(2)));
        assert!(!is_out_of_files(&io::Error::other("no system error")));
    }
}
