//! How a person says yes: at a terminal, or beforehand by naming a plan's hash.
//!
//! The trait is implemented by whoever owns the terminal; this crate only asks. Nothing is filled in beforehand: a phrase that types itself
//! protects nobody.

use std::fmt;
use std::str::FromStr;

use mainstay_model::{Blake3, Error, ErrorKind, Result};

/// Fewest digits of a hash that count as naming it.
const APPROVAL_DIGITS_MIN: usize = 12;
/// Digits of a whole hash.
const APPROVAL_DIGITS_MAX: usize = 64;

/// Text that names no plan hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not name a plan: expected the plan's hash or at least its first 12 hexadecimal digits")]
pub struct ParseApprovalError(String);

impl From<ParseApprovalError> for Error {
    fn from(error: ParseApprovalError) -> Self {
        Self::new(ErrorKind::Usage, error.to_string())
            .with_hint("`mainstay plan show FILE` prints a plan's hash")
    }
}

/// The value of `--approve`: a plan's whole hash or its first digits, at least twelve (48 bits), in either case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovedHash(String);

impl ApprovedHash {
    /// Whether this names the plan with that hash.
    pub fn names(&self, plan_hash: &Blake3) -> bool {
        plan_hash.to_string().starts_with(&self.0)
    }
}

impl FromStr for ApprovedHash {
    type Err = ParseApprovalError;

    fn from_str(text: &str) -> Result<Self, ParseApprovalError> {
        let digits = text.trim().to_ascii_lowercase();
        let length_fits = (APPROVAL_DIGITS_MIN..=APPROVAL_DIGITS_MAX).contains(&digits.len());
        if length_fits && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(digits))
        } else {
            Err(ParseApprovalError(text.to_owned()))
        }
    }
}

impl From<Blake3> for ApprovedHash {
    fn from(hash: Blake3) -> Self {
        Self(hash.to_string())
    }
}

impl fmt::Display for ApprovedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Obtains consent. Asking may block for as long as a person thinks.
pub trait Consent: Send + Sync {
    /// The plan that was approved beforehand, if one was.
    fn approved_hash(&self) -> Option<ApprovedHash>;

    /// Whether there is somebody to ask.
    fn interactive(&self) -> bool;

    /// Asks `question`; true for yes. Anything but a clear yes is no.
    ///
    /// # Errors
    /// `Interrupted` when the person ends the program instead of answering.
    fn confirm(&self, question: &str) -> Result<bool>;

    /// Asks `question`, shows `phrase`, and gives back what was typed.
    ///
    /// # Errors
    /// As [`Consent::confirm`].
    fn type_phrase(&self, question: &str, phrase: &str) -> Result<String>;
}

/// Nobody to ask, nothing approved.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoConsent;

impl Consent for NoConsent {
    fn approved_hash(&self) -> Option<ApprovedHash> {
        None
    }

    fn interactive(&self) -> bool {
        false
    }

    fn confirm(&self, _question: &str) -> Result<bool> {
        Ok(false)
    }

    fn type_phrase(&self, _question: &str, _phrase: &str) -> Result<String> {
        Ok(String::new())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_named_by_itself_or_by_twelve_digits_of_it() {
        let hash = Blake3::of(b"plan");
        let text = hash.to_string();
        for named in [text.as_str(), &text[..12], &text[..40], &text.to_uppercase(), &format!(" {text}\n")] {
            assert!(named.parse::<ApprovedHash>().unwrap().names(&hash), "{named}");
        }
        assert!(ApprovedHash::from(hash).names(&hash));
        assert!(!ApprovedHash::from(hash).names(&Blake3::of(b"other")));
        for bad in ["", &text[..11], "yes", "zzzzzzzzzzzz", &format!("{text}0")] {
            assert!(bad.parse::<ApprovedHash>().is_err(), "{bad}");
        }
    }
}
