//! Which databases and collections a question is about, and other arguments that several questions share.

use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use mainstay_engine::Namespace;
use mainstay_ops::Selection;
use mainstay_ops::shape::Literals;

use crate::commands::backup::parse_namespace;
use crate::wiring::Session;

/// Collections and databases.
#[derive(Debug, Args)]
pub(crate) struct CollectionArgs {
    /// Collections, as database.collection; those of the configured database, or of all, when none is given
    #[arg(value_name = "NAMESPACE", value_parser = parse_namespace)]
    pub(crate) namespaces: Vec<Namespace>,
    #[command(flatten)]
    pub(crate) databases: DatabaseArgs,
}

/// Databases.
#[derive(Debug, Args)]
pub(crate) struct DatabaseArgs {
    /// This database; may be repeated
    #[arg(long, alias = "db", value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) database: Vec<String>,
}

/// Whether values are shown.
#[derive(Debug, Args)]
pub(crate) struct LiteralArgs {
    /// Show the values in queries instead of their types; they are somebody's data
    #[arg(long)]
    show_literals: bool,
}

impl CollectionArgs {
    /// What is meant.
    pub(crate) fn selection(&self, session: &Session) -> Selection {
        session.selection(&self.databases.database, &self.namespaces, false)
    }
}

impl DatabaseArgs {
    /// What is meant: the configured database when none is given, every one when none is configured.
    pub(crate) fn selection(&self, session: &Session) -> Selection {
        session.selection(&self.database, &[], false)
    }
}

impl LiteralArgs {
    /// What becomes of values.
    pub(crate) fn literals(&self) -> Literals {
        if self.show_literals { Literals::Shown } else { Literals::Hidden }
    }
}

/// `30m`, `1h 30m`, `200ms`: a length of time, zero included.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    parsed.ok_or_else(|| "expected a length of time, such as 30s, 5m or 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        for (text, millis) in [("0s", 0), ("200ms", 200), ("30m", 1_800_000), ("1h 30m", 5_400_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "-1s", "soon"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
