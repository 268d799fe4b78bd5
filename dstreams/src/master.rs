//! Where tasks run.

use std::{fmt, str::FromStr};

/// Where tasks run, as in Spark's master URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Master {
    /// `local[N]`: in the driver's process, on this many slots; `local` is one, `local[*]` one a core.
    Local {
        /// Slots.
        slots: u32,
    },
    /// `local-cluster[E,C]`: in executor processes that the driver starts on this machine.
    LocalCluster {
        /// Executor processes.
        executors: u32,
        /// Slots of each.
        cores: u32,
    },
    /// `cluster`: on executors that come to the driver.
    Cluster,
}

/// Not a master.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no master; use local, local[N], local[*], local-cluster[E,C] or cluster (N, E and C from 1 to {MAX_SLOTS})"
)]
pub struct ParseError(String);

const MAX_SLOTS: u32 = 4_096;

impl Master {
    /// One slot a core of this machine.
    pub fn all_cores() -> Self {
        let cores = std::thread::available_parallelism()
            .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(MAX_SLOTS));
        Self::Local {
            slots: cores.min(MAX_SLOTS),
        }
    }

    /// Everything runs in the driver's process.
    pub fn is_local(self) -> bool {
        matches!(self, Self::Local { .. })
    }

    /// The partition count of exchanges where `parallelism` isn't set.
    pub fn default_parallelism(self) -> u32 {
        match self {
            Self::Local { slots } => slots,
            Self::LocalCluster { executors, cores } => {
                executors.saturating_mul(cores).clamp(1, MAX_SLOTS)
            }
            Self::Cluster => 8,
        }
    }
}

impl fmt::Display for Master {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { slots } => write!(formatter, "local[{slots}]"),
            Self::LocalCluster { executors, cores } => {
                write!(formatter, "local-cluster[{executors},{cores}]")
            }
            Self::Cluster => formatter.write_str("cluster"),
        }
    }
}

impl FromStr for Master {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refused = || ParseError(text.to_owned());
        let number = |digits: &str| {
            let number: u32 = digits.trim().parse().map_err(|_| refused())?;
            if number == 0 || number > MAX_SLOTS {
                Err(refused())
            } else {
                Ok(number)
            }
        };
        let inside = |name: &str| {
            text.strip_prefix(name)?
                .strip_prefix('[')?
                .strip_suffix(']')
        };
        match text {
            "local" => return Ok(Self::Local { slots: 1 }),
            "local[*]" => return Ok(Self::all_cores()),
            "cluster" => return Ok(Self::Cluster),
            _ => {}
        }
        if let Some(slots) = inside("local") {
            return Ok(Self::Local {
                slots: number(slots)?,
            });
        }
        let pair = inside("local-cluster").and_then(|inside| inside.split_once(','));
        let (executors, cores) = pair.ok_or_else(refused)?;
        Ok(Self::LocalCluster {
            executors: number(executors)?,
            cores: number(cores)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_read_and_written() {
        for text in ["local[3]", "local-cluster[3,2]", "cluster"] {
            assert_eq!(text.parse::<Master>().expect(text).to_string(), text);
        }
        assert_eq!("local".parse(), Ok(Master::Local { slots: 1 }));
        assert_eq!(
            "local-cluster[ 3, 2 ]".parse(),
            Ok(Master::LocalCluster {
                executors: 3,
                cores: 2
            })
        );
        assert!("local[*]".parse::<Master>().expect("all cores").is_local());
    }

    #[test]
    fn what_is_no_master_is_refused_with_what_is() {
        for text in [
            "",
            "local[]",
            "local[0]",
            "local[-1]",
            "local[5000]",
            "local-cluster[2]",
            "local-cluster[0,1]",
            "yarn",
            "spark://x",
        ] {
            let error = text.parse::<Master>().expect_err(text).to_string();
            assert!(error.contains("local-cluster[E,C]"), "{error}");
        }
    }
}
