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

/// A position in PostgreSQL's write-ahead log. Written as the server does, `0/1A2B3C4`: the halves of 64 bits in hexadecimal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

impl FromStr for Lsn {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let half = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => u32::from_str_radix(digits, 16).ok().map(u64::from),
            false => None,
        };
        let halves = text.split_once('/').and_then(|(high, low)| half(high).zip(half(low)));
        let (high, low) = halves
            .ok_or_else(|| ParsePositionError::new(text, "an LSN: expected `high/low` in hexadecimal"))?;
        Ok(Self(high << 32 | low))
    }
}

impl TryFrom<String> for Lsn {
    type Error = ParsePositionError;

    fn try_from(text: String) -> Result<Self, ParsePositionError> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(position: Lsn) -> Self {
        position.to_string()
    }
}

impl From<Lsn> for LogPosition {
    fn from(position: Lsn) -> Self {
        Self(position.0)
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
    fn lsns_are_written_as_the_server_does() {
        for (text, number) in [
            ("0/0", 0),
            ("0/1A2B3C4", 0x1A2_B3C4),
            ("16/B374D848", 0x16_B374_D848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(number));
            assert_eq!(Lsn(number).to_string(), text);
        }
        for bad in ["", "0", "/", "0/", "/0", "100000000/0", "0/-1", "0/+1", "0/1/2"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

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
