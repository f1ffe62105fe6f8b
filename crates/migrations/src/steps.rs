//! From statements to what is done at once: transactions, and steps that run alone.
//!
//! `COMMIT` and `BEGIN` in a file are borders, not statements: what a file meant by a trailing `COMMIT` (leave the runner's transaction) becomes
//! two steps, each recorded by itself, so that a failure behind the border does not lose what stands before it.

use mainstay_model::{Error, ErrorKind};

use crate::folder::Migration;
use crate::place::Place;
use crate::statement::{Control, Execution, Statement};

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
    let mut steps = Vec::new();
    let mut together = Vec::new();
    for statement in migration.chunks().into_iter().flat_map(|chunk| chunk.statements) {
        match statement.execution {
            Execution::Transactional | Execution::Control(Control::Savepoint) => together.push(statement),
            Execution::Alone(_) => {
                end(&mut together, &mut steps);
                steps.push(Step::Alone(statement));
            }
            Execution::Control(Control::Begin | Control::Commit | Control::CommitAndChain) => {
                end(&mut together, &mut steps);
            }
            Execution::Control(Control::Rollback) => {
                return Err(StepError::Rollback { path: migration.path.clone(), place: statement.place });
            }
            Execution::Control(Control::Prepare) => {
                return Err(StepError::Prepare { path: migration.path.clone(), place: statement.place });
            }
        }
    }
    end(&mut together, &mut steps);
    Ok(steps)
}

/// Makes one transaction of what has been gathered.
fn end(together: &mut Vec<Statement>, steps: &mut Vec<Step>) {
    if !together.is_empty() {
        steps.push(Step::Transaction(std::mem::take(together)));
    }
}

impl From<StepError> for Error {
    fn from(error: StepError) -> Self {
        Self::new(ErrorKind::Unsupported, error.to_string())
            .with_state("nothing of this migration was changed")
            .with_hint(
                "take that statement out of the file; what a migration does is recorded when it is committed",
            )
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Result<Vec<Vec<String>>, StepError> {
        let found = steps(&Migration::new("m", "m.sql", 1, text))?;
        let texts =
            |step: &Step| step.statements().iter().map(|found| found.text.clone()).collect::<Vec<_>>();
        Ok(found
            .iter()
            .map(|step| [vec![if step.is_alone() { "alone" } else { "tx" }.to_owned()], texts(step)].concat())
            .collect())
    }

    #[test]
    fn statements_become_transactions_and_what_stands_alone() {
        let table: &[(&str, &[&[&str]])] = &[
            ("", &[]),
            ("a;b--> statement-breakpoint c", &[&["tx", "a", "b", "c"]]),
            ("a; vacuum; b", &[&["tx", "a"], &["alone", "vacuum"], &["tx", "b"]]),
            (
                "a;--> statement-breakpoint\nCOMMIT;--> statement-breakpoint\ncreate index concurrently i on t (a)",
                &[&["tx", "a"], &["alone", "create index concurrently i on t (a)"]],
            ),
            (
                "begin; a; savepoint s; b; rollback to s; commit; c",
                &[&["tx", "a", "savepoint s", "b", "rollback to s"], &["tx", "c"]],
            ),
            ("commit; vacuum; begin;", &[&["alone", "vacuum"]]),
        ];
        for (text, expected) in table {
            let expected: Vec<Vec<String>> =
                expected.iter().map(|step| step.iter().map(|text| (*text).to_owned()).collect()).collect();
            assert_eq!(shape(text), Ok(expected), "{text:?}");
        }
        assert_eq!(
            shape("a;\n rollback").unwrap_err().to_string(),
            "m.sql:2:2: ROLLBACK would take back what is recorded as applied"
        );
        assert!(matches!(shape("prepare transaction 'x'"), Err(StepError::Prepare { .. })));
    }
}
