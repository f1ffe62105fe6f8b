//! Where collections come from, with the words for it.

use std::fmt;
use std::path::PathBuf;

use mainstay_engine::Until;
use mainstay_model::{Blake3, ChainId, LogPosition, OpTime, SetId};
use serde::{Deserialize, Serialize};

/// What the collections come from, as a plan carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Origin {
    /// A backup set.
    Set {
        set: SetId,
        manifest: Blake3,
        /// Whether its users and roles are merged.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        accounts: bool,
        /// The log that brings the set to a moment; none for the set as it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log: Option<LogSpan>,
    },
    /// A dump in a file or folder, read and judged before anything is written.
    Dump {
        path: PathBuf,
        /// What was found in it.
        stamp: Blake3,
        /// Whether its users and roles are merged.
        accounts: bool,
        /// The end of its oplog that is replayed; none for the collections as the dump met them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        oplog: Option<Until>,
    },
    /// A dump that comes but once, through a pipe.
    Stream,
}

impl Origin {
    /// The word for what is done with it.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Set { .. } => "restore",
            Self::Dump { .. } | Self::Stream => "load",
        }
    }

    /// What it is, in the middle of a sentence.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Self::Set { .. } => "set",
            Self::Dump { .. } | Self::Stream => "dump",
        }
    }

    /// How to go on after a failure.
    pub(crate) fn again(&self) -> &'static str {
        match self {
            Self::Set { .. } => "apply the same plan again",
            Self::Dump { .. } | Self::Stream => "load again",
        }
    }

    /// How to begin anew.
    pub(crate) fn anew(&self) -> &'static str {
        match self {
            Self::Set { .. } => "make a new plan with `mainstay restore plan`",
            Self::Dump { .. } | Self::Stream => "make a new plan with `mainstay mongo load`",
        }
    }

    /// How to ask for other names.
    pub(super) fn elsewhere(&self) -> &'static str {
        match self {
            Self::Set { .. } => "`--into NAME`",
            Self::Dump { .. } | Self::Stream => "`--ns-from 'OLD.*' --ns-to 'NEW.*'`",
        }
    }

    /// The operations that add, merge and replace.
    pub(super) fn operations(&self) -> [&'static str; 3] {
        match self {
            Self::Set { .. } => ["restore.apply.new", "restore.apply.merge", "restore.apply.drop"],
            Self::Dump { .. } | Self::Stream => ["mongo.load.new", "mongo.load.merge", "mongo.load.drop"],
        }
    }

    /// Whether its users and roles are merged.
    pub(crate) fn merges_accounts(&self) -> bool {
        matches!(self, Self::Set { accounts: true, .. } | Self::Dump { accounts: true, .. })
    }

    pub(super) fn has_log(&self) -> bool {
        matches!(self, Self::Set { log: Some(_), .. } | Self::Dump { oplog: Some(_), .. })
    }

    /// Whether what was being loaded when a run failed stays, for the run to be continued; if not, the run removes it.
    pub(crate) fn keeps_unfinished(&self) -> bool {
        matches!(self, Self::Set { .. })
    }
}

/// A piece of change log, as a plan carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogSpan {
    /// The chain it lies in.
    pub(crate) chain: ChainId,
    /// The position after which it begins.
    pub(crate) after: LogPosition,
    /// Where it ends.
    pub(crate) until: Until,
}

impl LogSpan {
    /// What a plan calls the things it takes for granted of the log.
    pub(crate) fn assumption_names(&self) -> [String; 2] {
        [format!("log {}", self.chain), format!("collections {self}")]
    }
}

impl fmt::Display for LogSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", UntilWords(self.until))
    }
}

/// An end in words.
pub(crate) struct UntilWords(pub(crate) Until);

impl fmt::Display for UntilWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = self.0.position();
        let time = position.timestamp();
        match self.0 {
            Until::Through(OpTime { increment: u32::MAX, .. }) => write!(f, "at the end of second {time}"),
            Until::Through(position) => write!(f, "at {position} ({time})"),
            Until::Before(OpTime { increment: 0, .. }) => write!(f, "just before {time}"),
            Until::Before(position) => write!(f, "just before {position} ({time})"),
        }
    }
}
