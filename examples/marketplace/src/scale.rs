//! How large the sample is.

use std::fmt;
use std::str::FromStr;

/// The size of the sample relative to its ordinary one: at 1 about 250,000 documents, at 0 none.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Scale(f64);

/// A scale outside 0 to 1000, or not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scale is not a number from 0 to 1000")]
pub struct InvalidScale;

impl Scale {
    /// The ordinary size.
    pub const ONE: Scale = Scale(1.0);

    /// A scale from 0 to 1000 inclusive.
    pub fn new(scale: f64) -> Result<Scale, InvalidScale> {
        if (0.0..=1000.0).contains(&scale) { Ok(Scale(scale)) } else { Err(InvalidScale) }
    }

    /// Whether the sample is left out altogether.
    pub fn is_zero(self) -> bool {
        self.0 == 0.0
    }

    /// `base` documents at scale 1, but at least `minimum` unless the scale is zero.
    pub(crate) fn count(self, base: u64, minimum: u64) -> u64 {
        // A product that lies a hair above a whole number means that number.
        const ROUNDING: f64 = 1e-6;
        if self.is_zero() { 0 } else { ((base as f64 * self.0 - ROUNDING).ceil() as u64).max(minimum) }
    }
}

impl FromStr for Scale {
    type Err = InvalidScale;

    fn from_str(text: &str) -> Result<Scale, InvalidScale> {
        text.parse().map_err(|_| InvalidScale).and_then(Scale::new)
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sensible_scales_are_read() {
        assert_eq!("0.02".parse::<Scale>(), Scale::new(0.02));
        for text in ["-1", "NaN", "inf", "1001", "big", ""] {
            assert_eq!(text.parse::<Scale>(), Err(InvalidScale), "{text}");
        }
    }

    #[test]
    fn counts_round_up_and_keep_a_minimum() {
        let scale = "0.001".parse::<Scale>().expect("a valid scale");
        assert_eq!((scale.count(28_000, 1), scale.count(500, 40)), (28, 40));
        assert_eq!(Scale(0.0).count(28_000, 40), 0);
    }
}
