//! The rules of squawk, asked as a library.
//!
//! Its parser goes as deep as a text nests, and is tried on whatever stands in a folder: so it runs on a thread of its own with a large stack, sees
//! no statement of more than some thousand tokens, and what it may panic at becomes a finding. What is hidden from it is told.

use squawk_linter::{Linter, LinterSettings, Rule as SquawkRule};
use squawk_syntax::SourceFile;

use super::table::{self, rule};
use super::{File, Found, LintOptions};
use crate::lexer::Lexed;
use crate::statement::Statement;

/// The most tokens of a statement that the linter sees.
const STATEMENT_TOKENS_MAX: usize = 10_000;
/// The most tokens of a file that it sees.
const FILE_TOKENS_MAX: usize = 400_000;
/// The stack that it gets, taken only as far as it is used.
const STACK_BYTES: usize = 512 << 20;
/// How many places of a file are told that it cannot read.
const UNREADABLE_MAX: usize = 3;

/// What the linter said, in bytes of the text.
struct Said {
    violations: Vec<Found>,
    unreadable: Vec<Found>,
}

/// The findings of squawk's rules.
pub(super) fn findings(file: &File<'_>, lexed: &Lexed<'_>, options: &LintOptions) -> Vec<Found> {
    let hidden = too_large(file, lexed);
    let mut found: Vec<Found> = hidden
        .iter()
        .filter(|statement| !is_data(statement))
        .map(|statement| not_linted(statement))
        .collect();
    let hidden_tokens: usize = hidden.iter().map(|statement| token_count(statement, lexed)).sum();
    if lexed.tokens.len() - hidden_tokens.min(lexed.tokens.len()) > FILE_TOKENS_MAX {
        return vec![whole_file("the file is too large for the linter: only our own rules were asked")];
    }
    let text = without(&file.migration.text, &hidden);
    let Some(said) = on_a_large_stack(&text, options) else {
        return vec![whole_file("the linter failed on this file: only our own rules were asked")];
    };
    found.extend(said.unreadable.into_iter().take(UNREADABLE_MAX));
    found.extend(said.violations.into_iter().filter_map(|violation| ours(violation, file)));
    found
}

/// A violation with its table; nothing where nobody uses that table yet, or where the linter does not know a rule of ours.
fn ours(mut found: Found, file: &File<'_>) -> Option<Found> {
    let statement = file.statement_at(found.start);
    let is_about_use = rule(found.rule).is_some_and(|rule| rule.is_about_use);
    if is_about_use && statement.is_some_and(|statement| file.is_of_new_tables(statement)) {
        return None;
    }
    let unknown = found.message.strip_prefix("unknown name ");
    if unknown.is_some_and(|name| rule(name).is_some_and(|rule| rule.is_own)) {
        return None;
    }
    found.table = statement.and_then(|statement| statement.tables.first().cloned());
    Some(found)
}

/// Statements that the linter does not see.
fn too_large<'f>(file: &'f File<'_>, lexed: &Lexed<'_>) -> Vec<&'f Statement> {
    file.statements().filter(|statement| token_count(statement, lexed) > STATEMENT_TOKENS_MAX).collect()
}

/// No rule asks about these.
fn is_data(statement: &Statement) -> bool {
    matches!(statement.command.as_str(), "INSERT INTO" | "COPY")
}

fn token_count(statement: &Statement, lexed: &Lexed<'_>) -> usize {
    let end = statement.offset + statement.text.len();
    let before = |offset: usize| lexed.tokens.partition_point(|token| token.start < offset);
    before(end) - before(statement.offset)
}

/// The text with blanks in the place of some statements, as long as it was.
fn without(text: &str, hidden: &[&Statement]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for statement in hidden {
        let end = statement.offset + statement.text.len();
        out.push_str(text.get(at..statement.offset).unwrap_or(""));
        out.extend(statement.text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        at = end;
    }
    out.push_str(text.get(at..).unwrap_or(""));
    out
}

/// Runs the linter; nothing when there is no such thread, or it does not come back.
fn on_a_large_stack(text: &str, options: &LintOptions) -> Option<Said> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("lint".to_owned()).stack_size(STACK_BYTES);
        builder.spawn_scoped(scope, || said(text, options)).ok()?.join().ok()
    })
}

fn said(text: &str, options: &LintOptions) -> Said {
    let parsed = SourceFile::parse(text);
    let wanted = table::SQUAWK.iter().filter(|rule| options.has(rule));
    let mut linter =
        Linter::from(wanted.filter_map(|rule| SquawkRule::try_from(rule.name).ok()).collect::<Vec<_>>());
    let version = options.server_major.to_string().parse().unwrap_or_default();
    linter.settings = LinterSettings { pg_version: version, assume_in_transaction: true };
    let violations = linter.lint(&parsed, text).into_iter().filter_map(|violation| {
        let rule = rule(&violation.code.to_string())?;
        Some(Found {
            rule: rule.name,
            level: rule.level,
            start: violation.text_range.start().into(),
            end: violation.text_range.end().into(),
            message: violation.message,
            suggestion: violation.help.or(violation.fix.map(|fix| fix.title)),
            table: None,
        })
    });
    let violations = violations.collect();
    let unreadable = parsed.errors().into_iter().map(|error| Found {
        rule: "unreadable",
        level: super::LintLevel::Note,
        start: error.range().start().into(),
        end: error.range().end().into(),
        message: format!("the linter cannot read this, and may have missed something: {}", error.message()),
        suggestion: None,
        table: None,
    });
    Said { violations, unreadable: unreadable.collect() }
}

fn not_linted(statement: &Statement) -> Found {
    Found {
        rule: "not-linted",
        level: super::LintLevel::Note,
        start: statement.offset,
        end: statement.offset,
        message: "the statement is too large for the linter: only our own rules were asked".to_owned(),
        suggestion: None,
        table: statement.tables.first().cloned(),
    }
}

fn whole_file(message: &str) -> Found {
    Found {
        rule: "not-linted",
        level: super::LintLevel::Note,
        start: 0,
        end: 0,
        message: message.to_owned(),
        suggestion: None,
        table: None,
    }
}
