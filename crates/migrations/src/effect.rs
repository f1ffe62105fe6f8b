//! What a statement does to what is there: adds, takes away what is no data, or takes away data.
//!
//! Judged by words, on the safe side: what a function that is called does is not known, what an anonymous block holds is looked through, strings in it
//! as well. The worst that is found counts.

use mainstay_model::Effect;

use crate::execution::command;
use crate::lexer::{Lexed, Words};
use crate::name::ObjectName;

/// How deep strings within strings are looked through.
const DEPTH_MAX: usize = 4;
/// Kinds of which dropping one destroys data.
const DATA: &[&str] =
    &["TABLE", "SCHEMA", "TYPE", "DOMAIN", "SEQUENCE", "DATABASE", "EXTENSION", "COLUMN", "ATTRIBUTE"];

/// Kinds of which dropping one, or a property of a column, destroys no data, by their first words.
const NO_DATA: &[&str] = &[
    "ACCESS",
    "AGGREGATE",
    "CAST",
    "COLLATION",
    "CONSTRAINT",
    "CONVERSION",
    "EVENT",
    "EXPRESSION",
    "FOREIGN",
    "FUNCTION",
    "GROUP",
    "IDENTITY",
    "INDEX",
    "LANGUAGE",
    "MATERIALIZED",
    "OPERATOR",
    "POLICY",
    "PROCEDURE",
    "PUBLICATION",
    "ROLE",
    "ROUTINE",
    "RULE",
    "SERVER",
    "STATISTICS",
    "SUBSCRIPTION",
    "TABLESPACE",
    "TEXT",
    "TRANSFORM",
    "TRIGGER",
    "USER",
    "VIEW",
];

/// What a statement does, and why that is more than adding.
pub(crate) fn effect(words: &Words<'_>) -> (Effect, Option<String>) {
    let found = judged(words);
    match found {
        Some((effect, reason)) => (effect, Some(reason)),
        None => (harmless(words), None),
    }
}

type Judgement = Option<(Effect, String)>;

fn destroys(reason: String) -> Judgement {
    Some((Effect::Destructive, reason))
}

fn disturbs(reason: String) -> Judgement {
    Some((Effect::Disruptive, reason))
}

/// Statements that leave the database as it is.
fn harmless(words: &Words<'_>) -> Effect {
    let reads = [
        "SHOW",
        "SET",
        "RESET",
        "EXPLAIN",
        "BEGIN",
        "COMMIT",
        "END",
        "SAVEPOINT",
        "RELEASE",
        "START",
        "DISCARD",
        "LISTEN",
        "UNLISTEN",
    ];
    if words.is_any(0, &reads) { Effect::Read } else { Effect::Additive }
}

fn judged(words: &Words<'_>) -> Judgement {
    let (command, at) = command(words);
    match command.as_str() {
        "ALTER TABLE" | "ALTER FOREIGN TABLE" | "ALTER MATERIALIZED VIEW" | "ALTER TYPE" => {
            altered(words, at)
        }
        "ALTER SYSTEM" | "ALTER DATABASE" | "ALTER ROLE" | "ALTER USER" => {
            disturbs(format!("changes settings or rights: {command}"))
        }
        "DROP OWNED BY" => destroys("drops all that a role owns".to_owned()),
        _ if command.starts_with("DROP ") => dropped(words, &command, at),
        _ if command.starts_with("ALTER ") => renamed(words, &command, at),
        "TRUNCATE" | "UPDATE" | "DELETE FROM" | "MERGE INTO" | "WITH" | "EXPLAIN" => changed(words),
        // Each may hold a statement that changes rows and gives them back.
        "COPY" | "PREPARE" | "CREATE TABLE" | "(" => changed(words),
        "INSERT INTO" => overwritten(words),
        "DO" => inside(words, DEPTH_MAX),
        "REVOKE" => disturbs("takes rights away".to_owned()),
        "REASSIGN" => disturbs("changes owners".to_owned()),
        "CLUSTER" => disturbs("rewrites tables".to_owned()),
        "VACUUM" if (1..words.len()).any(|at| words.is(at, "FULL")) => disturbs("rewrites tables".to_owned()),
        "REINDEX" if (1..words.len()).all(|at| !words.is(at, "CONCURRENTLY")) => {
            disturbs("rebuilds indexes while writes wait".to_owned())
        }
        _ => None,
    }
}

fn named(words: &Words<'_>, at: usize) -> String {
    words.name(at).map_or_else(|| "something".to_owned(), |(name, _)| name.to_string())
}

fn dropped(words: &Words<'_>, command: &str, at: usize) -> Judgement {
    let kind = command.trim_start_matches("DROP ").to_ascii_lowercase();
    let begin = words.skip(words.skip(at, &["CONCURRENTLY"]), &["IF", "EXISTS"]);
    let what = format!("drops {kind} {}", list(&words.names(begin)));
    let cascades = (at..words.len()).any(|at| words.is(at, "CASCADE"));
    match (command.split(' ').nth(1), cascades) {
        (Some(kind), _) if DATA.contains(&kind) => destroys(what),
        (_, true) => destroys(format!("{what}, and what depends on it")),
        _ => disturbs(what),
    }
}

/// Behind `ONLY` and the parenthesis that may stand around a table.
fn table_begin(words: &Words<'_>, at: usize) -> usize {
    let at = words.skip(at, &["ONLY"]);
    if words.is_symbol(at, "(") { at + 1 } else { at }
}

fn list(names: &[ObjectName]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `ALTER TABLE` and its kin, action by action; the worst counts.
fn altered(words: &Words<'_>, at: usize) -> Judgement {
    let begin = words.skip(words.skip(at, &["IF", "EXISTS"]), &["ONLY"]);
    let (table, next) = words.name(begin)?;
    worst(words.parts(next).into_iter().filter_map(|action| acted(&action, &table)))
}

fn acted(action: &Words<'_>, table: &ObjectName) -> Judgement {
    let begin = usize::from(action.is_symbol(0, "*"));
    match action.upper(begin)?.as_str() {
        "DROP" if action.is(begin + 1, "CONSTRAINT") => {
            let name = named(action, action.skip(begin + 2, &["IF", "EXISTS"]));
            disturbs(format!("drops constraint {name} of {table}"))
        }
        "DROP" => {
            let at = if action.is_any(begin + 1, &["COLUMN", "ATTRIBUTE"]) { begin + 2 } else { begin + 1 };
            destroys(format!("drops column {table}.{}", named(action, action.skip(at, &["IF", "EXISTS"]))))
        }
        "ALTER" => {
            let at = if action.is_any(begin + 1, &["COLUMN", "ATTRIBUTE"]) { begin + 2 } else { begin + 1 };
            let (column, next) = action.name(at)?;
            column_altered(action, next, &format!("{table}.{column}"))
        }
        "RENAME" => disturbs(format!("renames {table}, or something of it")),
        "DISABLE" | "NO" => disturbs(format!("switches something of {table} off")),
        "DETACH" => disturbs(format!("detaches a partition of {table}")),
        "SET" if action.is(begin + 1, "SCHEMA") => disturbs(format!("moves {table} to another schema")),
        "SET" if action.is_any(begin + 1, &["LOGGED", "UNLOGGED", "TABLESPACE", "ACCESS"]) => {
            disturbs(format!("rewrites {table}"))
        }
        _ => None,
    }
}

fn column_altered(action: &Words<'_>, at: usize, column: &str) -> Judgement {
    let is_type = action.is(at, "TYPE") || action.is_row(at, &["SET", "DATA", "TYPE"]);
    if is_type {
        return destroys(format!("changes the type of {column}"));
    }
    if action.is_row(at, &["SET", "EXPRESSION"]) {
        return disturbs(format!("computes {column} anew"));
    }
    if action.is(at, "DROP") && action.is_any(at + 1, &["IDENTITY", "EXPRESSION"]) {
        return disturbs(format!("makes an ordinary column of {column}"));
    }
    None
}

fn renamed(words: &Words<'_>, command: &str, at: usize) -> Judgement {
    let kind = command.trim_start_matches("ALTER ").to_ascii_lowercase();
    let moves = words.find(at, &["RENAME"]).or_else(|| words.find(at, &["SET", "SCHEMA"]));
    if moves.is_some() {
        return disturbs(format!(
            "renames or moves {kind} {}",
            named(words, words.skip(at, &["IF", "EXISTS"]))
        ));
    }
    let restarts = command == "ALTER SEQUENCE" && words.find(at, &["RESTART"]).is_some();
    if restarts {
        disturbs(format!("restarts sequence {}", named(words, words.skip(at, &["IF", "EXISTS"]))))
    } else {
        None
    }
}

fn overwritten(words: &Words<'_>) -> Judgement {
    match words.find(2, &["DO", "UPDATE"]) {
        Some(_) => destroys(format!("overwrites rows of {}", named(words, 2))),
        None => changed(words),
    }
}

/// The first change of rows that stands anywhere in a statement.
fn changed(words: &Words<'_>) -> Judgement {
    let only_plans =
        words.is(0, "EXPLAIN") && !(1..words.len()).any(|at| words.is_any(at, &["ANALYZE", "ANALYSE"]));
    if only_plans {
        return None;
    }
    let merges = has_merge(words);
    (0..words.len()).find_map(|at| change_at(words, at, merges))
}

fn has_merge(words: &Words<'_>) -> bool {
    words.find(0, &["MERGE", "INTO"]).is_some()
}

/// A change of rows that begins at this token, in a text that has a `MERGE` or not.
fn change_at(words: &Words<'_>, at: usize, merges: bool) -> Judgement {
    let before = at.checked_sub(1);
    let is_part = before.is_some_and(|before| {
        words.is_any(before, &["ON", "OR", "FOR", "BEFORE", "AFTER", "OF", "KEY", "GRANT"])
    });
    if is_part {
        return None;
    }
    if words.is_row(at, &["DELETE", "FROM"]) {
        return destroys(format!("deletes rows of {}", named(words, table_begin(words, at + 2))));
    }
    if words.is(at, "TRUNCATE") {
        let names = words.names(table_begin(words, words.skip(at + 1, &["TABLE"])));
        return if names.is_empty() { None } else { destroys(format!("truncates {}", list(&names))) };
    }
    if words.is_row(at, &["DO", "UPDATE", "SET"]) {
        return destroys("overwrites rows by ON CONFLICT".to_owned());
    }
    if merges && words.is(at, "THEN") && words.is_any(at + 1, &["DELETE", "UPDATE"]) {
        return destroys("changes or deletes rows by MERGE".to_owned());
    }
    if words.is(at, "UPDATE") {
        let (table, next) = words.name(table_begin(words, at + 1))?;
        let is_write = (next..next + 4).any(|at| words.is(at, "SET"));
        return if is_write { destroys(format!("updates rows of {table}")) } else { None };
    }
    None
}

/// The worst change that stands in a block, or within a string in it; of several that are as bad, the first.
fn inside(words: &Words<'_>, depth: usize) -> Judgement {
    let mut found = None;
    let mut begin = 0;
    while begin < words.len() {
        let end = (begin..words.len()).find(|at| words.is_symbol(*at, ";")).unwrap_or(words.len());
        found = worst(found.into_iter().chain(inside_statement(&words.slice(begin, end), depth)));
        begin = end + 1;
    }
    found
}

/// The same of what stands between two semicolons of a block.
fn inside_statement(words: &Words<'_>, depth: usize) -> Judgement {
    let merges = has_merge(words);
    let alters = words.find(0, &["ALTER", "TABLE"]).is_some();
    let cascades = words.find(0, &["CASCADE"]).is_some();
    let changes = (0..words.len()).filter_map(|at| {
        change_at(words, at, merges)
            .or_else(|| drop_at(words, at, alters, cascades))
            .or_else(|| type_at(words, at))
            .or_else(|| within_string(words, at, depth))
    });
    worst(changes)
}

fn worst(found: impl Iterator<Item = (Effect, String)>) -> Judgement {
    found.reduce(|worst, other| if other.0 > worst.0 { other } else { worst })
}

/// A `DROP` at this token, in a statement that alters a table or not, and that names `CASCADE` or not.
fn drop_at(words: &Words<'_>, at: usize, alters: bool, cascades: bool) -> Judgement {
    if !words.is(at, "DROP") || words.is_any(at + 1, &["NOT", "DEFAULT"]) {
        return None;
    }
    let kind = words.upper(at + 1).unwrap_or_default();
    let name = named(words, words.skip(at + 2, &["IF", "EXISTS"]));
    let what = format!("drops {} {name} in a block", kind.to_ascii_lowercase());
    if DATA.contains(&kind.as_str()) || kind == "OWNED" {
        return destroys(what);
    }
    if NO_DATA.contains(&kind.as_str()) {
        // What depends on it may be a column.
        return if cascades { destroys(format!("{what}, and what depends on it")) } else { disturbs(what) };
    }
    if alters {
        let column = named(words, words.skip(at + 1, &["IF", "EXISTS"]));
        return destroys(format!("drops column {column} in a block"));
    }
    // A placeholder: nobody knows what it will be.
    if words.is_symbol(at + 1, "%") { destroys("drops something in a block".to_owned()) } else { None }
}

/// A change of a column's type that begins at this token.
fn type_at(words: &Words<'_>, at: usize) -> Judgement {
    if !words.is(at, "ALTER") {
        return None;
    }
    let next = words.name(words.skip(at + 1, &["COLUMN"])).map_or(at, |(_, next)| next);
    let is_type = words.is(next, "TYPE") || words.is_row(next, &["SET", "DATA", "TYPE"]);
    if is_type { destroys("changes the type of a column in a block".to_owned()) } else { None }
}

fn within_string(words: &Words<'_>, at: usize, depth: usize) -> Judgement {
    let text = if depth > 0 { words.string(at)? } else { return None };
    inside(&Lexed::of(&text).words(), depth - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Effect, Option<String>) {
        effect(&Lexed::of(text).words())
    }

    #[test]
    fn what_takes_data_away_is_destructive() {
        let table = [
            ("drop table if exists s.a, b", "drops table s.a, b"),
            ("DROP SCHEMA x", "drops schema x"),
            ("drop type e", "drops type e"),
            ("drop sequence s", "drops sequence s"),
            ("drop view v cascade", "drops view v, and what depends on it"),
            ("alter table s.t add column a int, drop column if exists \"B\"", "drops column s.t.B"),
            ("alter table t drop a", "drops column t.a"),
            ("alter table t alter column a set data type bigint", "changes the type of t.a"),
            ("alter table t alter a type text using a::text", "changes the type of t.a"),
            ("alter type c drop attribute a", "drops column c.a"),
            ("truncate t, u", "truncates t, u"),
            ("delete from only t", "deletes rows of t"),
            ("update t as x set a = 1", "updates rows of t"),
            ("with d as (delete from t returning *) insert into u select * from d", "deletes rows of t"),
            ("insert into t values (1) on conflict (a) do update set a = 2", "overwrites rows of t"),
            (
                "merge into t using u on t.a = u.a when matched then delete",
                "changes or deletes rows by MERGE",
            ),
            ("do $$ begin drop table if exists t; end $$", "drops table t in a block"),
            ("do $x$ begin execute format('delete from %I', 't'); end $x$", "deletes rows of something"),
            ("do 'begin execute ''truncate t''; end'", "truncates t"),
            (
                "do $$ begin alter table t alter column a type int; end $$",
                "changes the type of a column in a block",
            ),
            ("explain analyze delete from t", "deletes rows of t"),
            ("update only (t) set a = 1", "updates rows of t"),
            ("truncate only (s.t)", "truncates s.t"),
            ("delete from only (t)", "deletes rows of t"),
            ("copy (delete from t returning *) to '/tmp/t'", "deletes rows of t"),
            ("prepare p as delete from t", "deletes rows of t"),
            ("create table u as with d as (delete from t returning *) select * from d", "deletes rows of t"),
            ("(with d as (delete from t returning *) select * from d)", "deletes rows of t"),
            ("do $$ begin alter table t drop a; end $$", "drops column a in a block"),
            ("do $$ begin drop index i; drop table t; end $$", "drops table t in a block"),
            ("do $$ begin drop view v cascade; end $$", "drops view v in a block, and what depends on it"),
            ("drop owned by r", "drops all that a role owns"),
        ];
        for (text, reason) in table {
            assert_eq!(of(text), (Effect::Destructive, Some(reason.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_takes_away_what_is_no_data_is_disruptive() {
        let table = [
            "drop index i",
            "drop index concurrently if exists i",
            "drop view v",
            "drop function f(int)",
            "drop trigger x on t",
            "alter table t drop constraint c",
            "alter table t rename column a to b",
            "alter table t disable trigger all",
            "alter table t set unlogged",
            "alter table t detach partition p",
            "alter system set work_mem = '1MB'",
            "revoke all on t from r",
            "vacuum full t",
            "cluster t using i",
            "reindex table t",
            "alter view v rename to w",
            "alter sequence s restart with 1",
            "alter type e rename value 'a' to 'b'",
            "alter table t no force row level security",
            "do $$ begin drop index if exists i; end $$",
            "do $$ begin alter table t drop constraint if exists c; end $$",
        ];
        for text in table {
            assert_eq!(of(text).0, Effect::Disruptive, "{text}");
            assert!(of(text).1.is_some(), "{text}");
        }
    }

    #[test]
    fn what_adds_is_additive() {
        let table = [
            "create table t (a int references u (a) on delete cascade on update no action)",
            "alter table t add constraint c foreign key (a) references u (a) on delete set null on update set default",
            "alter table t alter column a drop not null",
            "alter table t alter column a set default 1",
            "do $$ begin alter table t add constraint c foreign key (a) references u (a) on delete cascade; exception when duplicate_object then null; end $$",
            "create trigger x before update or delete on t for each row execute function f()",
            "create function f() returns void language sql as 'delete from t'",
            "insert into t values ('drop table t')",
            "insert into t values (1) on conflict do nothing",
            "select 1",
            "create index concurrently i on t (a)",
            "vacuum t",
            "alter type e add value 'x'",
            "grant update, delete on t to r",
            "select * from t for update",
            "reindex table concurrently t",
            "comment on table t is 'drop table t'",
            "alter table t validate constraint c",
            "copy t (a) from '/tmp/t'",
            "do $$ begin alter table t alter column a drop not null; end $$",
        ];
        for text in table {
            assert_eq!(of(text), (Effect::Additive, None), "{text}");
        }
        for text in ["set search_path to x", "explain delete from t", "show all", "begin", "savepoint a"] {
            assert_eq!(of(text).0, Effect::Read, "{text}");
        }
    }
}
