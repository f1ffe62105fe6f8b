//! A failure, told as who wrote the file wants to know it: file, line, chunk, statement, and what the server said.

use mainstay_engine::{LockBlocker, WorkFailure, WorkPlace};
use mainstay_migrations::{Place, Statement};
use mainstay_model::{Error, ErrorKind};

use super::planned::{Piece, Program, Unit, what};
use super::{called, span};
use crate::relational;
use crate::shape::Literals;

/// The error that a failure of `piece` is. `state` tells what stands now.
pub(super) fn failed(program: &Program, piece: &Piece, failure: &WorkFailure, state: String) -> Error {
    let place = place(program, piece, failure);
    let message = format!("{place}: {} ({})", failure.message, failure.code);
    let state = match &failure.left {
        Some(left) => format!("{state}; what is left: {left}"),
        None => state,
    };
    let hint = match failure.place {
        WorkPlace::Record { .. } => hint_about_rows(failure),
        _ => failure.hint.clone().unwrap_or_else(|| hint(failure).to_owned()),
    };
    Error::new(failure.kind, message)
        .context(format!("apply {}", program.tag))
        .with_state(state)
        .with_hint(hint)
}

/// The error of work that did not get its locks in time.
pub(super) fn locked_out(
    program: &Program,
    piece: &Piece,
    failure: &WorkFailure,
    blockers: &[LockBlocker],
    literals: Literals,
) -> Error {
    let place = place(program, piece, failure);
    let who = match blockers.is_empty() {
        true => String::new(),
        false => format!("; it waited for {}", blocking(blockers, literals)),
    };
    let hint = match blockers.iter().map(|blocker| blocker.holder.id.pid).find(|pid| *pid > 0) {
        Some(pid) => format!(
            "let it end, or end it: `mainstay pg activity --terminate {pid}`; `--retry-for 10m` tries for longer"
        ),
        None => "`mainstay pg blockers` shows who holds what; `--retry-for 10m` tries for longer".to_owned(),
    };
    Error::new(ErrorKind::Locked, format!("{place}: {} ({}){who}", failure.message, failure.code))
        .context(format!("apply {}", program.tag))
        .with_hint(hint)
}

/// Who is waited for, in words.
pub(super) fn blocking(blockers: &[LockBlocker], literals: Literals) -> String {
    let one = |blocker: &LockBlocker| {
        let mut text = called(&blocker.holder);
        if let Some(state) = &blocker.state {
            text.push_str(&format!(", {state}"));
        }
        if let Some(micros) = blocker.transaction_micros {
            text.push_str(&format!(", in a transaction for {}", span(micros)));
        }
        if let Some(statement) = &blocker.statement {
            text.push_str(&format!(": {}", relational::shown(statement, literals)));
        }
        text
    };
    let who: Vec<String> = blockers.iter().map(one).collect();
    let wants = blockers.iter().find_map(|blocker| blocker.wants.as_deref());
    let on = wants.map(|wants| format!(" for {wants}")).unwrap_or_default();
    format!("{}{on}", who.join("; "))
}

/// Where it failed: `0005_a.sql:7:12, chunk 2, ALTER TABLE shop.users`.
fn place(program: &Program, piece: &Piece, failure: &WorkFailure) -> String {
    let path = &program.path;
    match failure.place {
        WorkPlace::TrackingTable => format!("{path}: the lock on the tracking table"),
        WorkPlace::Record { .. } => format!("{path}: its row in the tracking table"),
        WorkPlace::Commit => format!("{path}: the end of its transaction"),
        WorkPlace::Text { text, .. } => match piece.unit(text) {
            None => format!("{path}: a setting that it made further up"),
            Some(unit) => {
                let (place, statement) = found(unit, failure);
                let what = statement.map(|statement| format!(", {}", what(statement))).unwrap_or_default();
                format!("{path}:{place}, chunk {}{what}", unit.chunk)
            }
        },
    }
}

/// Where in a unit, and at which of its statements: the one that the server points into, or the first that had not ended.
fn found<'u>(unit: &'u Unit, failure: &WorkFailure) -> (Place, Option<&'u Statement>) {
    match failure.position {
        Some(position) => {
            let place = unit.place.of_position(&unit.text, position);
            (place, unit.statements.iter().rfind(|statement| statement.place <= place))
        }
        None => match unit.statements.get(failure.statements_done) {
            Some(statement) => (statement.place, Some(statement)),
            None => (unit.place, None),
        },
    }
}

/// What helps where a row of the tracking table was not to be written.
pub(super) fn hint_about_rows(failure: &WorkFailure) -> String {
    let is_of = |classes: &[&str]| classes.iter().any(|class| failure.code.starts_with(class));
    match &failure.hint {
        // insufficient_privilege, of which the adapter says what to grant
        Some(hint) if failure.code == "42501" => hint.clone(),
        // data_exception, integrity_constraint_violation, a name or a type that does not fit, a relation of another kind
        _ if is_of(&["0A", "22", "23", "42", "55000"]) => {
            "the table is not as Drizzle makes it (`id serial PRIMARY KEY, hash text NOT NULL, created_at bigint`): \
             alter it, or name another one with `schema` and `table` of [sql] in mainstay.toml"
                .to_owned()
        }
        _ => hint(failure).to_owned(),
    }
}

/// What helps where nothing may be written.
const READ_ONLY: &str =
    "the database is read-only: see `SHOW default_transaction_read_only`, and that this is the primary";

fn hint(failure: &WorkFailure) -> &'static str {
    match failure.code.as_str() {
        // insufficient_privilege
        "42501" => "grant the privilege, or apply migrations as the role that owns the tables",
        // duplicate_table, duplicate_column, duplicate_object, duplicate_schema, duplicate_function
        "42P07" | "42701" | "42710" | "42P06" | "42723" => {
            "it is there already: when all that the file does is, `mainstay sql mark-applied` says so and runs nothing"
        }
        // unique_violation, foreign_key_violation, not_null_violation, check_violation
        "23505" | "23503" | "23502" | "23514" => {
            "the rows that are there do not fit: correct them in a migration before this one"
        }
        // query_canceled
        "57014" => {
            "a `statement_timeout` of role, database or file ended it, or somebody cancelled it: `SET statement_timeout = 0` in the file lets it take its time"
        }
        // read_only_sql_transaction
        "25006" => READ_ONLY,
        code if code.starts_with("53") => {
            "the server lacks disk, memory or connections: give it room, then run the same command again"
        }
        code if code.starts_with("57P") || code.starts_with("08") => {
            "the server ended the connection: see that it answers, then run the same command again"
        }
        _ => "correct the file, and run the same command again: what is applied is not run twice",
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_migrations::{Folder, Format, Migration};

    use super::*;

    fn failure(text: usize, position: Option<u32>) -> WorkFailure {
        WorkFailure {
            place: WorkPlace::Text { work: 0, text },
            code: "42703".to_owned(),
            kind: ErrorKind::Server,
            message: "column \"x\" does not exist".to_owned(),
            hint: None,
            position,
            statements_done: 0,
            left: None,
        }
    }

    #[test]
    fn a_failure_names_file_line_chunk_and_statement() {
        let text =
            "SELECT 1;\n--> statement-breakpoint\nSELECT 2;\nALTER TABLE a\n  ALTER x DROP NOT NULL;\n";
        let migration = Migration::new("0001_a", "0001_a.sql", 7, text);
        let folder =
            Folder { format: Format::Journal, migrations: vec![migration.clone()], notes: Vec::new() };
        let program = Program::of(&migration, &folder).unwrap();
        let told = |failure: &WorkFailure| {
            failed(&program, &program.pieces[0], failure, "nothing of it stays".to_owned())
        };
        // The chunk begins with the line break behind the marker.
        let at_alter = u32::try_from("\nSELECT 2;\nALTER TABLE a\n  ALTER x".len()).unwrap();
        let error = told(&failure(1, Some(at_alter)));
        assert_eq!(
            error.to_string(),
            "apply 0001_a: 0001_a.sql:5:9, chunk 2, ALTER TABLE a: column \"x\" does not exist (42703)"
        );
        assert_eq!(error.state(), Some("nothing of it stays"));
        assert!(told(&failure(0, None)).message().starts_with("0001_a.sql:1:1, chunk 1, SELECT: "));
        assert!(told(&failure(1, None)).message().starts_with("0001_a.sql:3:1, chunk 2, SELECT: "));
        let second = WorkFailure { statements_done: 1, ..failure(1, None) };
        assert!(told(&second).message().starts_with("0001_a.sql:4:1, chunk 2, ALTER TABLE a: "));
    }
}
