//! How a statement must be run, by its first words.
//!
//! What cannot be in a transaction block is what the server checks with `PreventInTransactionBlock` (PostgreSQL 18), as far as the text tells.
//! What it does not tell (a partitioned table that is reindexed, a procedure that commits) the server says.

use crate::lexer::Words;
use crate::name::ObjectName;
use crate::statement::{Alone, Control, Execution, ReindexTarget};

/// Words between `CREATE` and the kind of the object.
const MODIFIERS: &[&str] = &[
    "OR",
    "REPLACE",
    "TEMP",
    "TEMPORARY",
    "UNLOGGED",
    "GLOBAL",
    "LOCAL",
    "UNIQUE",
    "RECURSIVE",
    "TRUSTED",
    "PROCEDURAL",
];
/// First words of kinds that have two.
const PAIRS: &[(&str, &[&str])] = &[
    ("MATERIALIZED", &["VIEW"]),
    ("FOREIGN", &["TABLE", "DATA"]),
    ("EVENT", &["TRIGGER"]),
    ("CONSTRAINT", &["TRIGGER"]),
    ("USER", &["MAPPING"]),
    ("ACCESS", &["METHOD"]),
    ("DEFAULT", &["PRIVILEGES"]),
    ("LARGE", &["OBJECT"]),
    ("OWNED", &["BY"]),
    ("OPERATOR", &["CLASS", "FAMILY"]),
    ("TEXT", &["SEARCH"]),
];

/// What a statement is called, and the number of the token behind that: `CREATE INDEX`, `ALTER TABLE`, `DO`.
pub(crate) fn command(words: &Words<'_>) -> (String, usize) {
    let first = words.upper(0).unwrap_or_else(|| words.raw(0).to_owned());
    match first.as_str() {
        "CREATE" | "ALTER" | "DROP" => object_command(words, first),
        "START" | "PREPARE" if words.is(1, "TRANSACTION") => (format!("{first} TRANSACTION"), 2),
        "COMMIT" | "ROLLBACK" if words.is(1, "PREPARED") => (format!("{first} PREPARED"), 2),
        "REFRESH" => ("REFRESH MATERIALIZED VIEW".to_owned(), 3),
        "INSERT" | "MERGE" if words.is(1, "INTO") => (format!("{first} INTO"), 2),
        "DELETE" if words.is(1, "FROM") => ("DELETE FROM".to_owned(), 2),
        _ => (first, 1),
    }
}

fn object_command(words: &Words<'_>, first: String) -> (String, usize) {
    let mut at = 1;
    while words.is_any(at, MODIFIERS) {
        at += 1;
    }
    let Some(kind) = words.upper(at) else { return (first, at) };
    let pair = PAIRS.iter().find(|(known, seconds)| *known == kind && words.is_any(at + 1, seconds));
    match (pair, words.upper(at + 1)) {
        (Some(_), Some(second)) => (format!("{first} {kind} {second}"), at + 2),
        _ => (format!("{first} {kind}"), at + 1),
    }
}

/// How a statement must be run.
pub(crate) fn execution(words: &Words<'_>) -> Execution {
    if let Some(control) = control(words) {
        return Execution::Control(control);
    }
    alone(words).map_or(Execution::Transactional, Execution::Alone)
}

/// Whether a `COPY` names the client in place of a file; the server takes either word in either direction. What stands in brackets is a query.
pub(crate) fn copies_through_client(words: &Words<'_>) -> bool {
    let mut depth = 0_usize;
    (0..words.len()).any(|at| {
        if words.is_symbol(at, "(") {
            depth += 1;
        } else if words.is_symbol(at, ")") {
            depth = depth.saturating_sub(1);
        }
        depth == 0 && words.is_any(at, &["FROM", "TO"]) && words.is_any(at + 1, &["STDIN", "STDOUT"])
    })
}

fn control(words: &Words<'_>) -> Option<Control> {
    let behind_noise = if words.is_any(1, &["WORK", "TRANSACTION"]) { 2 } else { 1 };
    let chains = words.is_row(behind_noise, &["AND", "CHAIN"]);
    match words.upper(0)?.as_str() {
        "BEGIN" => Some(Control::Begin),
        "START" if words.is(1, "TRANSACTION") => Some(Control::Begin),
        "COMMIT" | "END" if words.is(1, "PREPARED") => None,
        "COMMIT" | "END" if chains => Some(Control::CommitAndChain),
        "COMMIT" | "END" => Some(Control::Commit),
        "ROLLBACK" | "ABORT" if words.is(1, "PREPARED") => None,
        "ROLLBACK" if words.is(behind_noise, "TO") => Some(Control::Savepoint),
        "ROLLBACK" | "ABORT" => Some(Control::Rollback),
        "SAVEPOINT" | "RELEASE" => Some(Control::Savepoint),
        "PREPARE" if words.is(1, "TRANSACTION") => Some(Control::Prepare),
        _ => None,
    }
}

fn alone(words: &Words<'_>) -> Option<Alone> {
    let (command, at) = command(words);
    match command.as_str() {
        "CREATE INDEX" if words.is(at, "CONCURRENTLY") => create_index(words, at + 1),
        "DROP INDEX" if words.is(at, "CONCURRENTLY") => {
            let begin = words.skip(at + 1, &["IF", "EXISTS"]);
            let (index, _) = words.name(begin)?;
            Some(Alone::DropIndexConcurrently { index, is_if_exists: begin > at + 1 })
        }
        "REINDEX" => reindex(words),
        "ALTER TABLE" => detach(words, at),
        "VACUUM" => Some(Alone::Vacuum),
        "CLUSTER" => is_of_all(words).then_some(Alone::Cluster),
        "CREATE DATABASE" | "DROP DATABASE" => Some(Alone::Database),
        "ALTER DATABASE" if words.find(at, &["SET", "TABLESPACE"]).is_some() => Some(Alone::Database),
        "CREATE TABLESPACE" | "DROP TABLESPACE" => Some(Alone::Tablespace),
        "ALTER SYSTEM" => Some(Alone::AlterSystem),
        "CREATE SUBSCRIPTION" if !is_off(words, "create_slot") && !is_off(words, "connect") => {
            Some(Alone::Subscription)
        }
        "DROP SUBSCRIPTION" => Some(Alone::Subscription),
        "ALTER SUBSCRIPTION" => alters_slot(words, at).then_some(Alone::Subscription),
        "DISCARD" if words.is(1, "ALL") => Some(Alone::DiscardAll),
        "COMMIT PREPARED" | "ROLLBACK PREPARED" => Some(Alone::Prepared),
        _ => None,
    }
}

/// `[IF NOT EXISTS] [name] ON [ONLY] table`, behind `CONCURRENTLY`.
fn create_index(words: &Words<'_>, at: usize) -> Option<Alone> {
    let begin = words.skip(at, &["IF", "NOT", "EXISTS"]);
    let (index, next) = match words.name(begin) {
        Some((name, next)) if !words.is(begin, "ON") => (Some(name), next),
        _ => (None, begin),
    };
    let (table, _) = words.name(words.skip(words.skip(next, &["ON"]), &["ONLY"]))?;
    let index = index.map(|index| ObjectName { schema: table.schema.clone(), name: index.name });
    let is_unique = words.is(1, "UNIQUE");
    Some(Alone::CreateIndexConcurrently { index, table, is_if_not_exists: begin > at, is_unique })
}

fn reindex(words: &Words<'_>) -> Option<Alone> {
    let (options, at) = options(words, 1);
    let target = match words.upper(at)?.as_str() {
        "INDEX" => ReindexTarget::Index,
        "TABLE" => ReindexTarget::Table,
        "SCHEMA" => ReindexTarget::Schema,
        "DATABASE" => ReindexTarget::Database,
        "SYSTEM" => ReindexTarget::System,
        _ => return None,
    };
    let in_options =
        (0..options.len()).any(|at| options.is(at, "CONCURRENTLY") && !says_off(&options, at + 1));
    let is_concurrent = words.is(at + 1, "CONCURRENTLY") || in_options;
    let name = words.name(words.skip(at + 1, &["CONCURRENTLY"])).map(|(name, _)| name);
    let is_of_many =
        matches!(target, ReindexTarget::Schema | ReindexTarget::Database | ReindexTarget::System);
    (is_concurrent || is_of_many).then_some(Alone::Reindex { target, name, is_concurrent })
}

/// What stands in the parentheses that begin at `at`, and the number of the token behind them; nothing when there are none.
fn options<'a>(words: &Words<'a>, at: usize) -> (Words<'a>, usize) {
    if !words.is_symbol(at, "(") {
        return (words.slice(at, at), at);
    }
    let end = (at..words.len()).find(|at| words.is_symbol(*at, ")")).unwrap_or(words.len());
    (words.slice(at + 1, end), end + 1)
}

fn says_off(words: &Words<'_>, at: usize) -> bool {
    words.is_any(at, &["OFF", "FALSE"])
        || ["0", "'off'", "'false'", "'0'"].contains(&words.raw(at).to_ascii_lowercase().as_str())
}

/// Whether an option stands there as `name = false`, in any of its spellings.
fn is_off(words: &Words<'_>, name: &str) -> bool {
    (0..words.len()).any(|at| words.is(at, name) && words.is_symbol(at + 1, "=") && says_off(words, at + 2))
}

fn detach(words: &Words<'_>, at: usize) -> Option<Alone> {
    let (table, next) = words.name(table_begin(words, at))?;
    let at = words.find(next, &["DETACH", "PARTITION"])?;
    let (partition, behind) = words.name(at + 2)?;
    words.is(behind, "CONCURRENTLY").then_some(Alone::DetachPartitionConcurrently { table, partition })
}

fn is_of_all(words: &Words<'_>) -> bool {
    let (_, at) = options(words, words.skip(1, &["VERBOSE"]));
    words.len() <= at
}

/// Whether a change of a subscription talks to the other server about its slot.
fn alters_slot(words: &Words<'_>, at: usize) -> bool {
    let Some((_, at)) = words.name(at) else { return false };
    let is_of_publications = words.is_any(at, &["SET", "ADD", "DROP"]) && words.is(at + 1, "PUBLICATION");
    let is_of_slot = (at..words.len()).any(|at| words.is_any(at, &["failover", "two_phase"]));
    words.is(at, "REFRESH")
        || (is_of_publications && !is_off(words, "refresh"))
        || (words.is(at, "SET") && is_of_slot)
}

/// Behind `IF EXISTS` and `ONLY`.
fn table_begin(words: &Words<'_>, at: usize) -> usize {
    words.skip(words.skip(at, &["IF", "EXISTS"]), &["ONLY"])
}

/// The tables that a statement is about.
pub(crate) fn tables(words: &Words<'_>) -> Vec<ObjectName> {
    let (command, at) = command(words);
    let one = |at: usize| words.name(at).map(|(name, _)| name).into_iter().collect();
    match command.as_str() {
        "ALTER TABLE" | "ALTER FOREIGN TABLE" | "ALTER MATERIALIZED VIEW" => one(table_begin(words, at)),
        "CREATE TABLE" | "CREATE FOREIGN TABLE" | "CREATE MATERIALIZED VIEW" => {
            one(words.skip(at, &["IF", "NOT", "EXISTS"]))
        }
        "DROP TABLE" | "DROP FOREIGN TABLE" | "DROP MATERIALIZED VIEW" => {
            words.names(words.skip(at, &["IF", "EXISTS"]))
        }
        "TRUNCATE" | "LOCK" => words.names(words.skip(at, &["TABLE"])),
        "CREATE INDEX"
        | "CREATE TRIGGER"
        | "CREATE CONSTRAINT TRIGGER"
        | "CREATE POLICY"
        | "ALTER POLICY"
        | "DROP POLICY"
        | "DROP TRIGGER"
        | "ALTER TRIGGER" => on(words, at),
        "CREATE RULE" => words.find(at, &["TO"]).map_or_else(Vec::new, |at| one(at + 1)),
        "INSERT INTO" | "MERGE INTO" | "DELETE FROM" | "UPDATE" => one(words.skip(at, &["ONLY"])),
        "COPY" | "ANALYZE" => one(at),
        "REINDEX" => {
            let (_, at) = options(words, 1);
            if words.is(at, "TABLE") { one(words.skip(at + 1, &["CONCURRENTLY"])) } else { Vec::new() }
        }
        "VACUUM" | "CLUSTER" => {
            let (_, at) = options(words, 1);
            let begin =
                (at..words.len()).find(|at| !words.is_any(*at, &["FULL", "FREEZE", "VERBOSE", "ANALYZE"]));
            begin.map_or_else(Vec::new, |at| words.names(at))
        }
        "REFRESH MATERIALIZED VIEW" => one(words.skip(at, &["CONCURRENTLY"])),
        _ => Vec::new(),
    }
}

/// The table behind the first `ON` that no name of an event follows.
fn on(words: &Words<'_>, at: usize) -> Vec<ObjectName> {
    let found = words.find(at, &["ON"]).and_then(|at| words.name(words.skip(at + 1, &["ONLY"])));
    found.map(|(name, _)| name).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::Lexed;

    fn of(text: &str) -> Execution {
        execution(&Lexed::of(text).words())
    }

    fn name(schema: Option<&str>, name: &str) -> ObjectName {
        ObjectName { schema: schema.map(str::to_owned), name: name.to_owned() }
    }

    #[test]
    fn what_the_server_refuses_in_a_transaction_runs_alone() {
        let alone = [
            "create index concurrently on t (a)",
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON ONLY s.t USING btree (a)",
            "drop index concurrently if exists s.i",
            "reindex index concurrently i",
            "reindex (concurrently) table t",
            "reindex (verbose, concurrently true) table t",
            "reindex schema s",
            "REINDEX DATABASE",
            "reindex system concurrently",
            "alter table if exists only s.t detach partition p concurrently",
            "vacuum",
            "vacuum (full, analyze) t",
            "cluster",
            "cluster verbose",
            "cluster (verbose)",
            "create database d",
            "drop database if exists d with (force)",
            "alter database d set tablespace x",
            "create tablespace x location '/x'",
            "drop tablespace x",
            "alter system set work_mem = '1MB'",
            "create subscription s connection '' publication p",
            "create subscription s connection '' publication p with (copy_data = false)",
            "alter subscription s refresh publication",
            "alter subscription s set publication p",
            "alter subscription s set (failover = true)",
            "drop subscription s",
            "discard all",
            "commit prepared 'x'",
            "rollback prepared 'x'",
        ];
        for text in alone {
            assert!(matches!(of(text), Execution::Alone(_)), "{text}: {:?}", of(text));
        }
    }

    #[test]
    fn everything_else_runs_with_others() {
        let together = [
            "create index i on t (a)",
            "create index concurrently_i on t (a)",
            "drop index i",
            "reindex index i",
            "reindex (concurrently false) table t",
            "alter table t detach partition p",
            "alter table t detach partition p finalize",
            "alter table t add column concurrently int",
            "refresh materialized view concurrently v",
            "alter type e add value 'x'",
            "cluster t using i",
            "alter database d set work_mem = '1MB'",
            "create subscription s connection '' publication p with (connect = false)",
            "create subscription s connection '' publication p with (create_slot = 'off')",
            "alter subscription s set publication p with (refresh = false)",
            "alter subscription s disable",
            "prepare p as select 1",
            "discard plans",
            "select 'vacuum'",
            "analyze",
            "call p()",
            "(select 1)",
            "",
        ];
        for text in together {
            assert_eq!(of(text), Execution::Transactional, "{text}");
        }
    }

    #[test]
    fn what_parts_transactions_is_told_apart() {
        let table = [
            ("BEGIN", Control::Begin),
            ("begin isolation level serializable", Control::Begin),
            ("start transaction", Control::Begin),
            ("COMMIT", Control::Commit),
            ("end work", Control::Commit),
            ("commit and no chain", Control::Commit),
            ("commit transaction and chain", Control::CommitAndChain),
            ("rollback", Control::Rollback),
            ("abort", Control::Rollback),
            ("rollback work to savepoint a", Control::Savepoint),
            ("rollback to a", Control::Savepoint),
            ("savepoint a", Control::Savepoint),
            ("release a", Control::Savepoint),
            ("prepare transaction 'x'", Control::Prepare),
        ];
        for (text, control) in table {
            assert_eq!(of(text), Execution::Control(control), "{text}");
        }
    }

    #[test]
    fn an_index_is_named_in_the_schema_of_its_table() {
        let create = |index, table, is_if_not_exists, is_unique| {
            Execution::Alone(Alone::CreateIndexConcurrently { index, table, is_if_not_exists, is_unique })
        };
        let table = [
            (
                "create index concurrently i on t (a)",
                create(Some(name(None, "i")), name(None, "t"), false, false),
            ),
            (
                "create unique index concurrently if not exists \"I x\" on Shop.\"T\" (a)",
                create(Some(name(Some("shop"), "I x")), name(Some("shop"), "T"), true, true),
            ),
            ("create index concurrently on only s.t (a)", create(None, name(Some("s"), "t"), false, false)),
            (
                "drop index concurrently if exists s.i",
                Execution::Alone(Alone::DropIndexConcurrently {
                    index: name(Some("s"), "i"),
                    is_if_exists: true,
                }),
            ),
            (
                "reindex (concurrently) table s.t",
                Execution::Alone(Alone::Reindex {
                    target: ReindexTarget::Table,
                    name: Some(name(Some("s"), "t")),
                    is_concurrent: true,
                }),
            ),
            (
                "alter table s.t detach partition s.p concurrently",
                Execution::Alone(Alone::DetachPartitionConcurrently {
                    table: name(Some("s"), "t"),
                    partition: name(Some("s"), "p"),
                }),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn the_tables_of_a_statement_are_found() {
        let table: &[(&str, &[&str])] = &[
            ("alter table if exists only s.t add column a int", &["s.t"]),
            ("create table if not exists t (a int)", &["t"]),
            ("create unlogged table t (a int)", &["t"]),
            ("create unique index i on s.t (a)", &["s.t"]),
            ("drop table if exists a, s.b cascade", &["a", "s.b"]),
            ("truncate table only a, b * restart identity", &["a", "b"]),
            ("update only t set a = 1", &["t"]),
            ("delete from s.t where a = 1", &["s.t"]),
            ("insert into t values (1)", &["t"]),
            ("create trigger x before update of a on t for each row execute function f()", &["t"]),
            ("vacuum (full) t", &["t"]),
            ("vacuum full analyze t, u", &["t", "u"]),
            ("reindex table concurrently t", &["t"]),
            ("select 1", &[]),
        ];
        for (text, expected) in table {
            let found: Vec<String> =
                tables(&Lexed::of(text).words()).iter().map(ToString::to_string).collect();
            assert_eq!(&found, expected, "{text}");
        }
    }

    #[test]
    fn commands_have_short_names() {
        let table = [
            ("create or replace function f()", "CREATE FUNCTION"),
            ("create temp table t", "CREATE TABLE"),
            ("create unique index i", "CREATE INDEX"),
            ("drop materialized view v", "DROP MATERIALIZED VIEW"),
            ("do $$ $$", "DO"),
            ("with x as (select 1) select", "WITH"),
            ("start transaction", "START TRANSACTION"),
            ("(select 1)", "("),
        ];
        for (text, expected) in table {
            assert_eq!(command(&Lexed::of(text).words()).0, expected, "{text}");
        }
    }
}
