//! What a reviewer should know of a file before it runs.
//!
//! The rules of squawk, read under the transaction that the runner puts around a file, and rules of our own for what happens between a runner
//! and a server. A table that the same file creates is exempt from what is about locks and scans: nobody waits for it. Comments are
//! obeyed: `-- squawk-ignore RULE` before a statement, `-- squawk-ignore-file RULE` for a file, for our own rules as well.

use serde::{Deserialize, Serialize};

use crate::folder::Migration;
use crate::name::ObjectName;
use crate::place::Place;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LintLevel {
    /// A matter of taste, or of later.
    Note,
    /// It blocks, scans or breaks something under load.
    Warning,
    /// It fails, or does something else than it says.
    Error,
}

/// Whose transaction is around a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runner {
    /// Ours: one for each migration, none around what must run alone.
    #[default]
    Mainstay,
    /// Ours with `--tx all`, or a stock drizzle-kit: one for all that is pending.
    OneTransaction,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LintOptions {
    /// Whose transaction is around the file.
    pub runner: Runner,
    /// The major version of the server.
    pub server_major: u32,
    /// Rules that are left out, by name.
    pub exclude: Vec<String>,
    /// Rules that are asked for though they are not on by default, by name.
    pub include: Vec<String>,
}

impl Default for LintOptions {
    fn default() -> Self {
        Self { runner: Runner::default(), server_major: 18, exclude: Vec::new(), include: Vec::new() }
    }
}

/// A rule that there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LintRule {
    /// Its name: squawk's, or ours.
    pub name: String,
    /// How much its findings matter.
    pub level: LintLevel,
    /// It is on when nothing is said.
    pub is_default: bool,
    /// It is one of ours.
    pub is_own: bool,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LintFinding {
    /// The name of the rule.
    pub rule: String,
    /// How much it matters.
    pub level: LintLevel,
    /// The file.
    pub path: String,
    /// Where it begins.
    pub place: Place,
    /// Where it ends, exclusive.
    pub end: Place,
    /// What was found, one line.
    pub message: String,
    /// What to write instead, where the rule knows.
    pub suggestion: Option<String>,
    /// The table that it is about, for its size to be looked up.
    pub table: Option<ObjectName>,
}

/// The findings about a file, in the order of places.
#[must_use]
pub fn lint(migration: &Migration, options: &LintOptions) -> Vec<LintFinding> {
    let _ = (migration, options);
    Vec::new()
}

/// All rules, by name.
#[must_use]
pub fn rules() -> Vec<LintRule> {
    Vec::new()
}
