//! Positions in a store's history.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Text that is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an optime: expected `seconds` or `seconds:increment`")]
pub struct ParsePositionError(String);

/// A MongoDB cluster time: seconds since 1970 and a counter within the second (BSON `timestamp`). Written `1764500000:3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OpTime {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: u32,
    /// Counter within that second, from 1.
    pub increment: u32,
}

impl OpTime {
    /// The wall clock's reading at this position, to the second.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_second(i64::from(self.seconds)).expect("every u32 of seconds is within range")
    }
}

impl fmt::Display for OpTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seconds, self.increment)
    }
}

impl FromStr for OpTime {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let (seconds, increment) = text.split_once(':').unwrap_or((text, "0"));
        match (seconds.parse(), increment.parse()) {
            (Ok(seconds), Ok(increment)) => Ok(Self { seconds, increment }),
            _ => Err(ParsePositionError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for OpTime {
    type Error = ParsePositionError;

    fn try_from(text: String) -> Result<Self, ParsePositionError> {
        text.parse()
    }
}

impl From<OpTime> for String {
    fn from(position: OpTime) -> Self {
        position.to_string()
    }
}
