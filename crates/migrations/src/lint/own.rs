//! Rules of our own: what happens between a runner and a server, which no reader of SQL alone can know.

use std::collections::BTreeMap;

use super::LintLevel::{self, Error, Note, Warning};
use super::{FINDING_COUNT_MAX, File, Found, LintOptions, Runner};
use crate::lexer::{Lexed, Words};
use crate::statement::{Alone, Chunk, Control, Execution, Statement};

/// The findings of our own rules.
pub(super) fn findings(file: &File<'_>, options: &LintOptions) -> Vec<Found> {
    let mut found = about_text(file);
    let statement_count = file.statements().count();
    let mut added: BTreeMap<String, usize> = BTreeMap::new();
    let mut is_cut = false;
    for (chunk, next) in file.chunks.iter().zip(file.chunks.iter().skip(1).map(Some).chain([None])) {
        // What is behind a cut begins within what was cut: only the first is told.
        let open = unterminated(chunk, next.is_some());
        let is_cut_before = std::mem::replace(&mut is_cut, open.is_some());
        found.extend(open.filter(|_| !is_cut_before));
        found.extend(alone_in_chunk(chunk));
        for statement in &chunk.statements {
            let lexed = Lexed::of(&statement.text);
            let words = lexed.words();
            found.extend(transaction_control(statement, options.runner));
            found.extend(alone_in_transaction(statement, options.runner, statement_count));
            found.extend(concurrent_index(statement));
            found.extend(setting(statement, &words));
            found.extend(psql(statement, &words));
            found.extend(unbounded_write(statement, &words, file));
            found.extend(new_enum_value(statement, &words, file, options.runner, &mut added));
            found.extend(block(statement, &words));
        }
        if found.len() > FINDING_COUNT_MAX {
            break;
        }
    }
    found
}

fn at(
    statement: &Statement,
    rule: &'static str,
    level: LintLevel,
    message: impl Into<String>,
    suggestion: impl Into<String>,
) -> Found {
    Found {
        rule,
        level,
        start: statement.offset,
        end: statement.offset + statement.text.len(),
        message: message.into(),
        suggestion: Some(suggestion.into()),
        table: statement.tables.first().cloned(),
    }
}

/// A finding about the file at its beginning.
fn of_file(rule: &'static str, level: LintLevel, message: &str, suggestion: &str) -> Found {
    Found {
        rule,
        level,
        start: 0,
        end: 0,
        message: message.to_owned(),
        suggestion: Some(suggestion.to_owned()),
        table: None,
    }
}

fn about_text(file: &File<'_>) -> Vec<Found> {
    let text = &file.migration.text;
    let byte_order_mark = text.starts_with('\u{feff}').then(|| {
        of_file(
            "byte-order-mark",
            Error,
            "the file begins with a byte order mark: the server takes it for a syntax error",
            "Save the file without it.",
        )
    });
    let not_utf8 = text.find('\u{fffd}').map(|offset| Found {
        start: offset,
        end: offset + '\u{fffd}'.len_utf8(),
        ..of_file(
            "not-utf8",
            Warning,
            "there is U+FFFD here: bytes that were no UTF-8, and are lost",
            "Save the file as UTF-8.",
        )
    });
    let empty = file.statements().next().is_none().then(|| {
        of_file(
            "empty-migration",
            Note,
            "there is no statement in this file",
            "Write one, or remove the migration before it is applied anywhere.",
        )
    });
    [byte_order_mark, not_utf8, empty].into_iter().flatten().collect()
}

fn unterminated(chunk: &Chunk, has_next: bool) -> Option<Found> {
    let lexed = Lexed::of(&chunk.text);
    let open = lexed.tokens.last().filter(|token| token.is_open).map(|token| token.start);
    let comment = lexed.comments.last().filter(|_| lexed.is_comment_open).map(|(start, _)| *start);
    let start = chunk.offset + open.or(comment)?;
    let (message, suggestion) = if has_next {
        (
            "a string, a name or a comment that begins here is cut by a marker: drizzle cuts at markers wherever they stand",
            "Take the marker out of it.",
        )
    } else {
        ("a string, a name or a comment that begins here does not end", "End it.")
    };
    Some(Found {
        start,
        end: chunk.offset + chunk.text.len(),
        ..of_file("unterminated", Error, message, suggestion)
    })
}

fn alone_in_chunk(chunk: &Chunk) -> Option<Found> {
    let alone =
        chunk.statements.iter().find(|statement| matches!(statement.execution, Execution::Alone(_)))?;
    (chunk.statements.len() > 1).then(|| {
        at(
            alone,
            "alone-in-chunk",
            Warning,
            format!(
                "{} shares its chunk with others: a runner that sends chunks sends them as one transaction",
                alone.command
            ),
            "Put `--> statement-breakpoint` before and behind it.",
        )
    })
}

fn transaction_control(statement: &Statement, runner: Runner) -> Option<Found> {
    let Execution::Control(control) = &statement.execution else { return None };
    let take_out = "Take it out; put what must not be in a transaction into a migration of its own.";
    let found = |level, message: &str| Some(at(statement, "transaction-control", level, message, take_out));
    match (control, runner) {
        (Control::Savepoint, _) => None,
        (Control::Rollback, _) => found(Error, "it takes back what the runner records as applied"),
        (Control::Prepare, _) => found(Error, "it leaves a transaction open behind the migration"),
        (_, Runner::OneTransaction) => found(
            Error,
            "it ends the runner's transaction: when something later fails, what stands before it stays and is recorded nowhere",
        ),
        (_, Runner::Mainstay) => found(
            Warning,
            "it parts the migration into steps: when a later one fails, those before it stay; under drizzle-kit they are recorded nowhere",
        ),
    }
}

fn alone_in_transaction(statement: &Statement, runner: Runner, statement_count: usize) -> Option<Found> {
    let Execution::Alone(_) = &statement.execution else { return None };
    let rule = "alone-in-transaction";
    let own = "Put it into a migration of its own.";
    Some(match (runner, statement_count) {
        (Runner::OneTransaction, _) => at(
            statement,
            rule,
            Error,
            "the server refuses it in a transaction, and the runner puts one around all",
            "Apply it with `mainstay sql apply`, which runs it by itself.",
        ),
        (Runner::Mainstay, 1) => at(
            statement,
            rule,
            Note,
            "it runs as a step of its own; a stock drizzle-kit fails at it",
            "Apply it with `mainstay sql apply`.",
        ),
        (Runner::Mainstay, _) => at(
            statement,
            rule,
            Warning,
            "it runs as a step of its own, so that the migration is not one transaction; a stock drizzle-kit fails at it",
            own,
        ),
    })
}

fn concurrent_index(statement: &Statement) -> Option<Found> {
    let Execution::Alone(Alone::CreateIndexConcurrently { index, is_if_not_exists, .. }) =
        &statement.execution
    else {
        return None;
    };
    if index.is_none() {
        return Some(at(
            statement,
            "unnamed-concurrent-index",
            Warning,
            "the index has no name: what a failed build leaves behind cannot be told from others",
            "Give it a name.",
        ));
    }
    is_if_not_exists.then(|| {
        at(
            statement,
            "concurrent-if-not-exists",
            Note,
            "with IF NOT EXISTS the invalid index that a failed build leaves counts as there; `mainstay sql apply` drops it first",
            "Leave IF NOT EXISTS out.",
        )
    })
}

/// Settings that outlive the migration.
fn setting(statement: &Statement, words: &Words<'_>) -> Option<Found> {
    let name = set_for_session(words).or_else(|| (0..words.len()).find_map(|at| configured(words, at)))?;
    let is_off = words.tokens.iter().enumerate().any(|(at, _)| {
        words.is_any(at, &["off", "false"])
            || matches!(words.raw(at).to_ascii_lowercase().as_str(), "'off'" | "'false'" | "0" | "'0'")
    });
    if name == "standard_conforming_strings" && is_off {
        let message = "backslashes escape in strings from here on: statements are cut as if they did not";
        return Some(at(
            statement,
            "nonstandard-strings",
            Error,
            message,
            "Take it out, and write E'…' where a backslash is to escape.",
        ));
    }
    Some(at(
        statement,
        "session-setting",
        Warning,
        format!(
            "{name} is set for the session: under drizzle-kit the migrations behind this one run with it"
        ),
        format!("Write `SET LOCAL {name}`, or `set_config('{name}', …, true)`."),
    ))
}

/// The setting of a `SET` that is neither for the transaction nor about it.
fn set_for_session(words: &Words<'_>) -> Option<String> {
    let at = words.skip(1, &["SESSION"]);
    let is_of_transaction = words.is_any(at, &["LOCAL", "TRANSACTION", "CONSTRAINTS"]);
    if !words.is(0, "SET") || is_of_transaction {
        return None;
    }
    match words.upper(at)?.as_str() {
        "CHARACTERISTICS" => Some("the kind of transactions".to_owned()),
        "TIME" => Some("timezone".to_owned()),
        "NAMES" => Some("client_encoding".to_owned()),
        "AUTHORIZATION" => Some("session_authorization".to_owned()),
        _ => words.name(at).map(|(name, _)| name.to_string()),
    }
}

/// `set_config(name, value, false)` that begins at this token.
fn configured(words: &Words<'_>, at: usize) -> Option<String> {
    if !(words.is(at, "set_config") && words.is_symbol(at + 1, "(")) {
        return None;
    }
    let end = (at..words.len().min(at + 40)).find(|end| words.is_symbol(*end, ")"))?;
    let arguments = words.slice(0, end).parts(at + 2);
    let is_for_session = arguments.get(2).is_some_and(|last| {
        last.is(0, "false") || last.string(0).is_some_and(|text| text.starts_with(['f', 'F']))
    });
    let name = arguments.first().and_then(|first| first.string(0));
    if is_for_session {
        Some(name.unwrap_or_else(|| "a setting".to_owned()).to_ascii_lowercase())
    } else {
        None
    }
}

/// What only psql understands.
fn psql(statement: &Statement, words: &Words<'_>) -> Option<Found> {
    if (0..words.len()).any(|at| words.is_symbol(at, "\\")) {
        let message = "a command of psql, which the server does not know";
        return Some(at(
            statement,
            "psql-command",
            Error,
            message,
            "Take it out; dump with `pg_dump --inserts` for statements alone.",
        ));
    }
    statement.copies_through_client().then(|| {
        let message =
            "COPY from STDIN or to STDOUT passes its rows through a client, and a migration has none";
        at(statement, "copy-from-stdin", Error, message, "Write INSERTs, or declare the rows as a seed.")
    })
}

fn unbounded_write(statement: &Statement, words: &Words<'_>, file: &File<'_>) -> Option<Found> {
    let is_write = matches!(statement.command.as_str(), "UPDATE" | "DELETE FROM");
    let is_bounded = || (0..words.len()).any(|at| words.is(at, "WHERE"));
    if !is_write || is_bounded() || file.is_of_new_tables(statement) {
        return None;
    }
    Some(at(
        statement,
        "unbounded-write",
        Warning,
        format!(
            "{} without WHERE writes every row in one transaction, and holds all their locks to its end",
            statement.command
        ),
        "Declare it as a [[backfill]]: it runs in batches, can be paused, and can be undone.",
    ))
}

/// `ALTER TYPE … ADD VALUE`, and what uses such a value in the same transaction.
fn new_enum_value(
    statement: &Statement,
    words: &Words<'_>,
    file: &File<'_>,
    runner: Runner,
    added: &mut BTreeMap<String, usize>,
) -> Option<Found> {
    let rule = "new-enum-value";
    if statement.command == "ALTER TYPE"
        && let Some(place) = words.find(2, &["ADD", "VALUE"])
    {
        let value = words.string(words.skip(place + 2, &["IF", "NOT", "EXISTS"]))?;
        let is_new_type = file.statements().any(|other| {
            other.offset < statement.offset && other.command == "CREATE TYPE" && is_of_type(other, words)
        });
        if is_new_type {
            return None;
        }
        let (level, message) = match runner {
            Runner::Mainstay => (
                Note,
                format!(
                    "{value:?} can be used from the next migration on; with `--tx all`, or under a stock drizzle-kit, only from the next run on"
                ),
            ),
            Runner::OneTransaction => (
                Warning,
                format!(
                    "{value:?} cannot be used before the next run: all pending migrations are one transaction"
                ),
            ),
        };
        added.insert(value, statement.offset);
        return Some(at(
            statement,
            rule,
            level,
            message,
            "Apply with one transaction for each migration, which is the default.",
        ));
    }
    if added.is_empty() || matches!(statement.execution, Execution::Control(_)) {
        return None;
    }
    let used = (0..words.len()).filter_map(|at| words.string(at)).find(|value| added.contains_key(value))?;
    let message = format!(
        "{used:?} was added to a type by this migration, and cannot be used before that is committed: unsafe use of new value"
    );
    Some(at(statement, rule, Warning, message, "Put what uses the value into the next migration."))
}

/// Whether a `CREATE TYPE` is of the type that an `ALTER TYPE` is about.
fn is_of_type(create: &Statement, alter: &Words<'_>) -> bool {
    let lexed = Lexed::of(create.text.get(..create.text.len().min(512)).unwrap_or(&create.text));
    match (lexed.words().name(2), alter.name(2)) {
        (Some((created, _)), Some((altered, _))) => created.may_be(&altered),
        _ => false,
    }
}

/// A block that changes the schema out of the linter's sight.
fn block(statement: &Statement, words: &Words<'_>) -> Option<Found> {
    if statement.command != "DO" {
        return None;
    }
    let changes = |text: String| {
        let lexed = Lexed::of(&text);
        let words = lexed.words();
        (0..words.len()).any(|at| words.is_any(at, &["ALTER", "CREATE", "DROP"]))
    };
    let is_change = (0..words.len()).filter_map(|at| words.string(at)).any(changes);
    is_change.then(|| {
        at(
            statement,
            "block-not-linted",
            Note,
            "the block changes the schema, and the linter does not look into blocks",
            "Measure it with `mainstay sql rehearse`.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Migration;
    use crate::lint::lint;

    /// A rule, its level, and where.
    type Expected = (&'static str, LintLevel, &'static str);

    fn of(text: &str, runner: Runner) -> Vec<(String, LintLevel, String)> {
        let options = LintOptions { runner, ..LintOptions::default() };
        let found = lint(&Migration::new("m", "m.sql", 1, text), &options);
        let own =
            found.into_iter().filter(|found| crate::lint::rule(&found.rule).is_some_and(|rule| rule.is_own));
        own.map(|found| (found.rule, found.level, found.place.to_string())).collect()
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        let table: &[(&str, &[Expected])] = &[
            ("", &[("empty-migration", Note, "1:1")]),
            ("\u{feff}select 1", &[("byte-order-mark", Error, "1:1")]),
            ("select '\u{fffd}'", &[("not-utf8", Warning, "1:9")]),
            ("select 1;\nselect 'a", &[("unterminated", Error, "2:8")]),
            ("select 1 /* x", &[("unterminated", Error, "1:10")]),
            ("select 1;\nCOMMIT;", &[("transaction-control", Warning, "2:1")]),
            ("rollback", &[("transaction-control", Error, "1:1")]),
            ("savepoint a; select 1", &[]),
            ("create index concurrently i on t (a)", &[("alone-in-transaction", Note, "1:1")]),
            (
                "select 1;\nvacuum t",
                &[("alone-in-chunk", Warning, "2:1"), ("alone-in-transaction", Warning, "2:1")],
            ),
            (
                "create index concurrently on t (a)",
                &[("alone-in-transaction", Note, "1:1"), ("unnamed-concurrent-index", Warning, "1:1")],
            ),
            (
                "create index concurrently if not exists i on t (a)",
                &[("alone-in-transaction", Note, "1:1"), ("concurrent-if-not-exists", Note, "1:1")],
            ),
            (
                "SELECT pg_catalog.set_config('search_path', '', false);",
                &[("session-setting", Warning, "1:1")],
            ),
            ("SELECT set_config('search_path', '', true);", &[]),
            ("set search_path = x", &[("session-setting", Warning, "1:1")]),
            ("set session authorization x", &[("session-setting", Warning, "1:1")]),
            ("set local search_path = x", &[]),
            ("set constraints all deferred", &[]),
            ("set standard_conforming_strings = off", &[("nonstandard-strings", Error, "1:1")]),
            ("set standard_conforming_strings to on", &[("session-setting", Warning, "1:1")]),
            ("\\connect x", &[("psql-command", Error, "1:1")]),
            ("copy t from stdin", &[("copy-from-stdin", Error, "1:1")]),
            ("copy t to stdout", &[("copy-from-stdin", Error, "1:1")]),
            ("copy (select 1 from stdin) to '/tmp/t'", &[]),
            ("update t set a = 1", &[("unbounded-write", Warning, "1:1")]),
            ("update t set a = 1 where b", &[]),
            ("create table t (a bigint); delete from t", &[]),
            ("alter type e add value 'x'", &[("new-enum-value", Note, "1:1")]),
            (
                "alter type e add value if not exists 'x' before 'y';\ninsert into t values ('x')",
                &[("new-enum-value", Note, "1:1"), ("new-enum-value", Warning, "2:1")],
            ),
            ("create type e as enum ('a');alter type e add value 'x';insert into t values ('x')", &[]),
            ("do $$ begin alter table t add column a int; end $$", &[("block-not-linted", Note, "1:1")]),
            ("do $$ begin perform 1; end $$", &[]),
        ];
        for (text, expected) in table {
            let expected: Vec<_> = expected
                .iter()
                .map(|(rule, level, place)| ((*rule).to_owned(), *level, (*place).to_owned()))
                .collect();
            assert_eq!(of(text, Runner::Mainstay), expected, "{text:?}");
        }
    }

    #[test]
    fn one_transaction_for_all_makes_more_of_it() {
        let table = [
            ("COMMIT", ("transaction-control", Error)),
            ("create index concurrently i on t (a)", ("alone-in-transaction", Error)),
            ("alter type e add value 'x'", ("new-enum-value", Warning)),
        ];
        for (text, (rule, level)) in table {
            let found = of(text, Runner::OneTransaction);
            assert_eq!((found[0].0.as_str(), found[0].1), (rule, level), "{text}");
        }
    }

    #[test]
    fn a_marker_within_a_string_is_told() {
        let text = "insert into t values ('a --> statement-breakpoint b')";
        let found = of(text, Runner::Mainstay);
        assert_eq!(found, [("unterminated".to_owned(), Error, "1:23".to_owned())]);
    }
}
