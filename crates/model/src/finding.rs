//! Findings: what `doctor`, `verify` and their kin report. A finding is a value; only the printer turns it into text.

use serde::{Deserialize, Serialize};

use crate::{ExitStatus, StoreKind};

/// How bad a finding is. The order is the order of badness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing; the exit status stays 0.
    Note,
    /// Should be mended.
    Warning,
    /// Data is damaged or in danger.
    Critical,
}

/// One thing found wrong, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name for tests and filters: `mongo.standalone`, `object.hash_differs`.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// The store it concerns, if one.
    pub store: Option<StoreKind>,
    /// The object it concerns: an address, a key, a namespace.
    pub subject: String,
    /// What was found, one factual line in lower case.
    pub message: String,
    /// What to do, a sentence with a command or a setting to copy.
    pub remedy: String,
}

impl Severity {
    /// The exit status of a command whose worst finding has this severity.
    pub fn exit_status(self) -> ExitStatus {
        match self {
            Self::Note => ExitStatus::Ok,
            Self::Warning => ExitStatus::Findings,
            Self::Critical => ExitStatus::Critical,
        }
    }

    /// The word used in text output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// The exit status for a list of findings: that of the worst, [`ExitStatus::Ok`] when there is none.
    pub fn worst_exit_status<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> ExitStatus {
        findings.into_iter().map(|finding| finding.severity).max().map_or(ExitStatus::Ok, Self::exit_status)
    }
}
