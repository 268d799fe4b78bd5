//! Starting offsets as a command line gives them.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where a query begins when it starts for the first time. Partitions found later begin at their earliest offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum StartingOffsets {
    /// The oldest that the broker has.
    Earliest,
    /// What arrives from the start on.
    #[default]
    Latest,
    /// By topic and partition, -2 being the oldest and -1 the next to come; those not named begin at the latest.
    Explicit(BTreeMap<String, BTreeMap<i32, i64>>),
}

/// Where a query ends that reads what is there, by topic and partition: the first offset that it doesn't read, -1 being the end. Partitions not named are read to their ends.
pub type EndingOffsets = BTreeMap<String, BTreeMap<i32, i64>>;

/// Not starting offsets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{given}` are no starting offsets{reason}; use earliest, latest, or JSON such as {{\"topic\":{{\"0\":42}}}}"
)]
pub struct OffsetsError {
    given: String,
    reason: String,
}

impl FromStr for StartingOffsets {
    type Err = OffsetsError;

    fn from_str(text: &str) -> Result<Self, OffsetsError> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        let refused = |error: serde_json::Error| OffsetsError {
            given: text.to_owned(),
            reason: format!(" ({error})"),
        };
        serde_json::from_str(text)
            .map(Self::Explicit)
            .map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starting_offsets_are_read_from_a_command_line() {
        assert_eq!("earliest".parse(), Ok(StartingOffsets::Earliest));
        let explicit = BTreeMap::from([("t".to_owned(), BTreeMap::from([(0, 42)]))]);
        assert_eq!(
            r#"{"t":{"0":42}}"#.parse(),
            Ok(StartingOffsets::Explicit(explicit))
        );
        let error = "newest"
            .parse::<StartingOffsets>()
            .expect_err("refused")
            .to_string();
        assert!(error.contains("earliest, latest"), "{error}");
        assert!(r#"{"t":5}"#.parse::<StartingOffsets>().is_err());
    }
}
