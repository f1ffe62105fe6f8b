//! Sizes and counts, and how they are written for people.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size: expected a number with an optional unit, such as 64MiB or 1.5GB")]
pub struct ParseSizeError(String);

/// A number of bytes. Written in powers of 1000 (`3.2 GB`) for people, as a plain number in JSON; read with `kB MB GB TB` (1000) or `KiB MiB GiB TiB` (1024).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `count` mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count.saturating_mul(1024 * 1024))
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Both sizes together; what is too large for a number stays at the largest.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Sums saturate, because sizes often are foreign numbers: a manifest may claim anything.
impl std::iter::Sum for ByteSize {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self(0), Self::saturating_add)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "kB", "MB", "GB", "TB", "PB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 999.5 && unit + 1 < units.len() {
            value /= 1000.0;
            unit += 1;
        }
        let text = match unit {
            0 => format!("{} B", self.0),
            _ if value < 9.95 => format!("{value:.1} {}", units[unit]),
            _ => format!("{value:.0} {}", units[unit]),
        };
        f.pad(&text)
    }
}

impl FromStr for ByteSize {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        let refuse = || ParseSizeError(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let number: f64 = trimmed[..digits].parse().map_err(|_| refuse())?;
        let factor: f64 = match trimmed[digits..].trim() {
            "" | "B" => 1.0,
            "kB" | "KB" | "k" => 1e3,
            "MB" | "M" => 1e6,
            "GB" | "G" => 1e9,
            "TB" | "T" => 1e12,
            "KiB" | "Ki" => 1024.0,
            "MiB" | "Mi" => 1_048_576.0,
            "GiB" | "Gi" => 1_073_741_824.0,
            "TiB" | "Ti" => 1_099_511_627_776.0,
            _ => return Err(refuse()),
        };
        let bytes = number * factor;
        if bytes.is_finite() && bytes < u64::MAX as f64 {
            Ok(Self(bytes.round() as u64))
        } else {
            Err(refuse())
        }
    }
}

/// A count written with commas: `48,211`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len() + digits.len() / 3);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes) in [("0", 0), ("64MiB", 67_108_864), ("1.5 GB", 1_500_000_000), ("10k", 10_000)] {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
        for bad in ["", "MB", "1 XB", "-1", "1.2.3", "99999999999999TB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1_234, "1.2 kB"), (999_700, "1.0 MB"), (48_211_000_000, "48 GB")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        assert_eq!([u64::MAX, 1, 2].map(ByteSize).into_iter().sum::<ByteSize>(), ByteSize(u64::MAX));
        assert_eq!([1, 2, 3].map(ByteSize).into_iter().sum::<ByteSize>(), ByteSize(6));
        assert_eq!(ByteSize::mib(u64::MAX), ByteSize(u64::MAX));
        assert_eq!(Count(1_048_211).to_string(), "1,048,211");
        assert_eq!(Count(7).to_string(), "7");
    }
}
