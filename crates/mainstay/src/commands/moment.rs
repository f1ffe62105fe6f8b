//! Moments as they are typed: a time, an optime, how long ago, or the end of the log.
//!
//! MongoDB's log knows seconds and a counter within them. A time therefore means a whole second: `--to` takes everything that is stamped
//! with it, `--before` nothing of it. Whoever means a moment within a second gives the optime.

use std::str::FromStr;

use jiff::SignedDuration;
use mainstay_engine::Until;
use mainstay_model::{Error, ErrorKind, OpTime, Result, Timestamp};
use mainstay_ops::restore::Moment;

/// A moment as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MomentArg {
    /// `latest`
    Latest,
    /// `1764500000:3`
    Position(OpTime),
    /// `2026-11-25T19:00:00Z`, of whole seconds
    Time(Timestamp),
    /// `5m ago`
    Ago(SignedDuration),
}

/// No log begins before this second, in 2001.
const FIRST_SECOND: u32 = 1_000_000_000;

/// What may be typed, for errors.
const FORMS: &str = "expected a time (`2026-11-25T19:00:00Z`, `2026-11-25T20:00:00+01:00`), an optime \
                     (`1764500000:3`), how long ago (`5m ago`), or `latest`";

impl FromStr for MomentArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Ok(position) = text.parse::<OpTime>() {
            // `19:00` is a time of day that somebody means, and a lone number nothing.
            let is_meant = text.contains(':') && position.seconds >= FIRST_SECOND;
            return if is_meant { Ok(Self::Position(position)) } else { Err(FORMS.to_owned()) };
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            return match time.subsec_nanosecond() {
                0 => Ok(Self::Time(time)),
                _ => {
                    Err("the log tells seconds apart, not parts of them: give a whole second, or the optime"
                        .to_owned())
                }
            };
        }
        match text.parse::<SignedDuration>() {
            Ok(ago) if ago.is_negative() => Ok(Self::Ago(-ago)),
            _ => Err(FORMS.to_owned()),
        }
    }
}

impl MomentArg {
    /// The moment that ends with it.
    ///
    /// # Errors
    /// `Usage` for times that no log has.
    pub(crate) fn through(self, now: Timestamp) -> Result<Moment> {
        let last = self.last(now)?;
        Ok(last.map_or(Moment::Latest, |last| Moment::Until(Until::Through(last))))
    }

    /// The moment just before it.
    ///
    /// # Errors
    /// As for [`MomentArg::through`]; also for `latest`.
    pub(crate) fn before(self, now: Timestamp) -> Result<Moment> {
        let first = self.first(now)?.ok_or_else(|| {
            Error::new(ErrorKind::Usage, "there is no moment just before the latest")
                .with_hint("restore `--to latest`, or name the position that is to be left out")
        })?;
        Ok(Moment::Until(Until::Before(first)))
    }

    /// The first position that it means; `None` for the end of the log.
    ///
    /// # Errors
    /// As for [`MomentArg::through`].
    pub(crate) fn first(self, now: Timestamp) -> Result<Option<OpTime>> {
        self.position(now, 0)
    }

    /// The last position that it means; `None` for the end of the log.
    ///
    /// # Errors
    /// As for [`MomentArg::through`].
    pub(crate) fn last(self, now: Timestamp) -> Result<Option<OpTime>> {
        self.position(now, u32::MAX)
    }

    /// The position: as given, or with this increment in the second that is meant.
    fn position(self, now: Timestamp, increment: u32) -> Result<Option<OpTime>> {
        Ok(match self {
            Self::Latest => None,
            Self::Position(position) => Some(position),
            Self::Time(_) | Self::Ago(_) => Some(OpTime { seconds: self.second(now)?, increment }),
        })
    }

    /// The second that is meant.
    fn second(self, now: Timestamp) -> Result<u32> {
        let time = match self {
            Self::Time(time) => Some(time),
            Self::Ago(ago) => now.checked_sub(ago).ok(),
            Self::Latest | Self::Position(_) => None,
        };
        time.and_then(|time| u32::try_from(time.as_second()).ok())
            .ok_or_else(|| Error::new(ErrorKind::Usage, "no log goes back to that time").with_hint(FORMS))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn every_form_means_one_end() {
        let now: Timestamp = "2026-11-25T19:10:00.7Z".parse().unwrap();
        let second = 1_795_633_200;
        let at = |seconds, increment| OpTime { seconds, increment };
        for (text, through, before) in [
            ("2026-11-25T19:00:00Z", at(second, u32::MAX), at(second, 0)),
            ("2026-11-25T20:00:00+01:00", at(second, u32::MAX), at(second, 0)),
            ("2026-11-25 19:00:00Z", at(second, u32::MAX), at(second, 0)),
            ("10m ago", at(second, u32::MAX), at(second, 0)),
            ("10 minutes ago", at(second, u32::MAX), at(second, 0)),
            ("1795633200:3", at(second, 3), at(second, 3)),
        ] {
            let moment: MomentArg = text.parse().unwrap();
            assert_eq!(moment.through(now).unwrap(), Moment::Until(Until::Through(through)), "{text}");
            assert_eq!(moment.before(now).unwrap(), Moment::Until(Until::Before(before)), "{text}");
        }
        assert_eq!(MomentArg::Latest.through(now).unwrap(), Moment::Latest);
        assert_eq!(MomentArg::Latest.before(now).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn what_is_no_moment_or_not_a_clear_one_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-25",
            "2026-11-25T19:00:00",
            "19:00",
            "5m",
            "in 5m",
            "1795633200",
            "1:2:3",
            "x:1",
        ] {
            let refused = text.parse::<MomentArg>();
            assert!(refused.is_err(), "{text}: {refused:?}");
        }
        assert!("2026-11-25T19:00:00.5Z".parse::<MomentArg>().unwrap_err().contains("whole second"));
        let now = Timestamp::from_second(60).unwrap();
        assert_eq!(
            MomentArg::Ago(SignedDuration::from_hours(1)).through(now).unwrap_err().kind(),
            ErrorKind::Usage
        );
    }
}
