//! Positions in a store's history.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Text that is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}")]
pub struct ParsePositionError {
    text: String,
    what: &'static str,
}

impl ParsePositionError {
    fn new(text: &str, what: &'static str) -> Self {
        Self { text: text.to_owned(), what }
    }
}

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

    /// Whole seconds from this position to `now`; negative when the server's clock is ahead.
    pub fn age_seconds(self, now: Timestamp) -> i64 {
        now.as_second() - i64::from(self.seconds)
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
            _ => Err(ParsePositionError::new(text, "an optime: expected `seconds` or `seconds:increment`")),
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

/// A position in the change log of any store: a number that only grows, written as 16 hexadecimal digits, so that the order of the texts is
/// the order of the positions. The [`OpTime`] of MongoDB (seconds, then increment), the LSN of PostgreSQL, the replication offset of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogPosition(pub u64);

impl LogPosition {
    /// The optime at this position of a MongoDB log.
    pub fn optime(self) -> OpTime {
        let seconds = u32::try_from(self.0 >> 32).expect("the upper half of 64 bits has 32");
        let increment =
            u32::try_from(self.0 & u64::from(u32::MAX)).expect("the lower half of 64 bits has 32");
        OpTime { seconds, increment }
    }
}

impl From<OpTime> for LogPosition {
    fn from(position: OpTime) -> Self {
        Self(u64::from(position.seconds) << 32 | u64::from(position.increment))
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for LogPosition {
    type Err = ParsePositionError;

    /// Accepts what [`LogPosition`] prints and nothing else.
    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        match u64::from_str_radix(text, 16).map(Self) {
            Ok(position) if position.to_string() == text => Ok(position),
            _ => Err(ParsePositionError::new(
                text,
                "a log position: expected 16 lower-case hexadecimal digits",
            )),
        }
    }
}

impl TryFrom<String> for LogPosition {
    type Error = ParsePositionError;

    fn try_from(text: String) -> Result<Self, ParsePositionError> {
        text.parse()
    }
}

impl From<LogPosition> for String {
    fn from(position: LogPosition) -> Self {
        position.to_string()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn log_positions_sort_as_text_and_have_one_spelling() {
        let at = |seconds, increment| LogPosition::from(OpTime { seconds, increment });
        let positions = [at(0, 0), at(0, 1), at(1, 0), at(0x7fff_ffff, 2), at(u32::MAX, u32::MAX)];
        for pair in positions.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_string() < pair[1].to_string());
        }
        for position in positions {
            assert_eq!(position.to_string().parse::<LogPosition>().unwrap(), position);
            assert_eq!(LogPosition::from(position.optime()), position);
        }
        for bad in ["", "1", "000000000000000A", "+00000000000000a", "00000000000000000"] {
            assert!(bad.parse::<LogPosition>().is_err(), "{bad}");
        }
    }
}
