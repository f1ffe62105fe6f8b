//! What a reviewer should know of a file before it runs.
//!
//! The rules of squawk, read under the transaction that the runner puts around a file (`squawk`), and rules of our own for what happens between a
//! runner and a server (`own`). A table that the same file creates is exempt from what is about locks and scans: nobody waits for it. Comments are
//! obeyed, for our own rules as well: `-- squawk-ignore RULE` on the line before, `-- squawk-ignore-file RULE` for a whole file.

mod ignore;
mod own;
mod squawk;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::folder::Migration;
use crate::lexer::Lexed;
use crate::name::ObjectName;
use crate::place::Place;
use crate::statement::{Chunk, Statement};

use ignore::Ignores;
use table::{Rule, rule};

/// The most findings of a file that are told.
pub(crate) const FINDING_COUNT_MAX: usize = 2_000;

/// Rules of our own that say better why a file cannot be read.
const UNREADABLE: [&str; 4] = ["unterminated", "psql-command", "copy-from-stdin", "byte-order-mark"];

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

impl LintOptions {
    /// Names that are asked for or left out and that no rule has; none when all is well.
    #[must_use]
    pub fn unknown_rules(&self) -> Vec<&str> {
        let names = self.exclude.iter().chain(&self.include).map(String::as_str);
        names.filter(|name| rule(name).is_none()).collect()
    }

    fn has(&self, rule: &Rule) -> bool {
        let names = |list: &[String]| list.iter().any(|name| name == rule.name);
        !names(&self.exclude) && (rule.is_default || names(&self.include))
    }
}

/// A rule that there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LintRule {
    /// Its name: squawk's, or ours.
    pub name: String,
    /// How much its findings matter; for some of ours the runner decides, and this is the most.
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

/// A finding in bytes of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    rule: &'static str,
    level: LintLevel,
    start: usize,
    end: usize,
    message: String,
    suggestion: Option<String>,
    table: Option<ObjectName>,
}

/// A file and what is known of it.
struct File<'a> {
    migration: &'a Migration,
    chunks: Vec<Chunk>,
    /// The tables that it creates, and the statement, by its offset, that does.
    created: BTreeMap<String, Vec<(ObjectName, usize)>>,
}

/// The findings about a file, in the order of places; at most a few thousand.
#[must_use]
pub fn lint(migration: &Migration, options: &LintOptions) -> Vec<LintFinding> {
    let file = File::of(migration);
    let lexed = Lexed::of(&migration.text);
    let ignores = Ignores::of(&lexed);
    let mut found = own::findings(&file, options);
    let explains = |finding: &Found| UNREADABLE.contains(&finding.rule);
    let is_explained = found.iter().any(explains);
    found.extend(squawk::findings(&file, &lexed, options));
    found.retain(|finding| !(is_explained && finding.rule == "unreadable"));
    found.retain(|finding| rule(finding.rule).is_some_and(|rule| options.has(rule)));
    found.retain(|finding| !ignores.has(finding.rule, finding.start));
    found.sort_by(|one, other| (one.start, one.rule).cmp(&(other.start, other.rule)));
    found.truncate(FINDING_COUNT_MAX);
    placed(found, migration)
}

/// All rules, by name.
#[must_use]
pub fn rules() -> Vec<LintRule> {
    let mut rules: Vec<LintRule> = table::all()
        .map(|rule| LintRule {
            name: rule.name.to_owned(),
            level: rule.level,
            is_default: rule.is_default,
            is_own: rule.is_own,
        })
        .collect();
    rules.sort_by(|one, other| one.name.cmp(&other.name));
    rules
}

impl<'a> File<'a> {
    fn of(migration: &'a Migration) -> Self {
        let chunks = migration.chunks();
        let mut created: BTreeMap<String, Vec<(ObjectName, usize)>> = BTreeMap::new();
        let statements = chunks.iter().flat_map(|chunk| &chunk.statements);
        for statement in statements.filter(|statement| statement.command == "CREATE TABLE") {
            for table in &statement.tables {
                created.entry(table.name.clone()).or_default().push((table.clone(), statement.offset));
            }
        }
        Self { migration, chunks, created }
    }

    fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.chunks.iter().flat_map(|chunk| &chunk.statements)
    }

    /// The statement in which a byte of the file stands.
    fn statement_at(&self, offset: usize) -> Option<&Statement> {
        let chunk = self.chunks.partition_point(|chunk| chunk.offset <= offset).checked_sub(1)?;
        let statements = &self.chunks.get(chunk)?.statements;
        let statement =
            statements.get(statements.partition_point(|found| found.offset <= offset).checked_sub(1)?)?;
        (offset < statement.offset + statement.text.len()).then_some(statement)
    }

    /// Whether all tables of a statement were created earlier in this file.
    fn is_of_new_tables(&self, statement: &Statement) -> bool {
        let is_new = |table: &ObjectName| {
            let known = self.created.get(&table.name).into_iter().flatten();
            known.into_iter().any(|(known, offset)| *offset < statement.offset && known.may_be(table))
        };
        !statement.tables.is_empty() && statement.tables.iter().all(is_new)
    }
}

/// Bytes become places, in one walk over the file.
fn placed(found: Vec<Found>, migration: &Migration) -> Vec<LintFinding> {
    let text = migration.text.as_str();
    let offsets: BTreeSet<usize> = found.iter().flat_map(|finding| [finding.start, finding.end]).collect();
    let mut places = BTreeMap::new();
    let (mut at, mut place) = (0, Place::START);
    for offset in offsets {
        if let Some(part) = text.get(at..offset.min(text.len())) {
            place = place.after(part);
            at = offset.min(text.len());
        }
        places.insert(offset, place);
    }
    let place = |offset: usize| places.get(&offset).copied().unwrap_or(Place::START);
    found
        .into_iter()
        .map(|finding| LintFinding {
            rule: finding.rule.to_owned(),
            level: finding.level,
            path: migration.path.clone(),
            place: place(finding.start),
            end: place(finding.end),
            message: finding.message,
            suggestion: finding.suggestion,
            table: finding.table,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str, options: &LintOptions) -> Vec<(String, LintLevel, String)> {
        let found = lint(&Migration::new("m", "m.sql", 1, text), options);
        found.into_iter().map(|found| (found.rule, found.level, found.place.to_string())).collect()
    }

    fn names(text: &str) -> Vec<String> {
        with(text, &LintOptions::default()).into_iter().map(|(rule, _, _)| rule).collect()
    }

    #[test]
    fn what_holds_a_table_up_is_found_with_its_place_and_its_table() {
        let text = "ALTER TABLE \"shop\".\"Orders\" ADD COLUMN a int;--> statement-breakpoint\n\
            CREATE INDEX i ON shop.\"Orders\" (a);\n";
        let found = lint(&Migration::new("0001_x", "0001_x.sql", 1, text), &LintOptions::default());
        let index = found.iter().find(|found| found.rule == "require-concurrent-index-creation").unwrap();
        assert_eq!((index.place.to_string(), index.end.to_string()), ("2:1".to_owned(), "2:37".to_owned()));
        assert_eq!(index.table.as_ref().unwrap().to_string(), "shop.Orders");
        assert_eq!(index.level, LintLevel::Warning);
        assert!(index.suggestion.as_ref().is_some_and(|text| text.contains("concurrently")), "{index:?}");
        assert_eq!(index.path, "0001_x.sql");
    }

    #[test]
    fn nobody_waits_for_a_table_that_the_file_creates() {
        let text = "CREATE TABLE t (id bigint PRIMARY KEY, a bigint);--> statement-breakpoint\n\
            CREATE UNIQUE INDEX i ON t (a);\nALTER TABLE t ADD CONSTRAINT c CHECK (a > 0);\nALTER TABLE public.t DROP COLUMN a;";
        assert_eq!(names(text), Vec::<String>::new());
        let other = "DROP TABLE t; CREATE TABLE t (id bigint PRIMARY KEY);";
        assert!(names(other).contains(&"ban-drop-table".to_owned()), "it was there before");
    }

    #[test]
    fn what_the_runner_does_itself_is_not_asked_for() {
        let quiet =
            ["ALTER TABLE t ADD COLUMN a bigint;", "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a);"];
        for text in quiet {
            for name in [
                "require-lock-timeout",
                "require-statement-timeout",
                "prefer-robust-stmts",
                "transaction-nesting",
            ] {
                assert!(!names(text).iter().any(|found| found == name), "{text}: {name}");
            }
        }
        let options =
            LintOptions { include: vec!["require-lock-timeout".to_owned()], ..LintOptions::default() };
        let found = with("ALTER TABLE t ADD COLUMN a bigint;", &options);
        assert!(found.iter().any(|(rule, _, _)| rule == "require-lock-timeout"), "{found:?}");
    }

    #[test]
    fn comments_are_obeyed_for_all_rules() {
        let loud = "DELETE FROM t;\nALTER TABLE t DROP COLUMN a;";
        assert_eq!(names(loud), ["unbounded-write", "ban-drop-column"]);
        let quiet = "-- squawk-ignore unbounded-write -- it is small\nDELETE FROM t;\n-- squawk-ignore ban-drop-column\nALTER TABLE t DROP COLUMN a;";
        assert_eq!(names(quiet), Vec::<String>::new());
        let file = "/* squawk-ignore-file ban-drop-column, unbounded-write */\nSELECT 1;\nDELETE FROM t;\nALTER TABLE t DROP COLUMN a;";
        assert_eq!(names(file), Vec::<String>::new());
        assert_eq!(names("-- squawk-ignore nonsense\nSELECT 1;"), ["unused-ignore"]);
        let excluded = LintOptions { exclude: vec!["ban-drop-column".to_owned()], ..LintOptions::default() };
        assert_eq!(with(loud, &excluded).len(), 1);
    }

    #[test]
    fn names_of_rules_that_are_unknown_are_told() {
        let options = LintOptions {
            include: vec!["prefer-robust-stmts".to_owned(), "x".to_owned()],
            exclude: vec!["unbounded-write".to_owned(), "y".to_owned()],
            ..LintOptions::default()
        };
        assert_eq!(options.unknown_rules(), ["y", "x"]);
    }

    #[test]
    fn hostile_files_are_survived() {
        for (name, text) in [
            ("parentheses", "select ".to_owned() + &"(".repeat(200_000)),
            ("operators", "select ".to_owned() + &"- ".repeat(200_000)),
            ("nots", "select ".to_owned() + &"not ".repeat(200_000) + "true"),
            ("sums", "select 1".to_owned() + &"+1".repeat(200_000)),
            ("cases", "select ".to_owned() + &"case when ".repeat(100_000)),
            ("statements", "select 1;".repeat(100_000)),
            ("dots", "select a".to_owned() + &".a".repeat(200_000)),
            ("unions", "select 1".to_owned() + &" union select 1".repeat(100_000)),
            ("casts", "select 1".to_owned() + &"::int".repeat(100_000)),
            ("arrays", "select ".to_owned() + &"array[".repeat(100_000)),
            ("types", "create table t (a int".to_owned() + &"[]".repeat(100_000)),
            ("markers", "--> statement-breakpoint".repeat(20_000)),
            ("quotes", "\"".repeat(100_001)),
            ("blocks", "/*".repeat(100_000)),
            ("selects", "select (".repeat(4_000)),
            ("deep enough", "select ".to_owned() + &"(".repeat(4_000) + "1" + &")".repeat(4_000)),
            ("nots, few", "select ".to_owned() + &"not ".repeat(9_000) + "true"),
            ("sums, few", "select 1".to_owned() + &"+1".repeat(4_900)),
        ] {
            let found = lint(&Migration::new("m", "m.sql", 1, text), &LintOptions::default());
            assert!(found.len() <= FINDING_COUNT_MAX, "{name}");
        }
    }
}
