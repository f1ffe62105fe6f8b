//! Comments that silence rules: `squawk-ignore` for what begins on their line or the next, `squawk-ignore-file` for a file.

use std::collections::{BTreeMap, BTreeSet};

use crate::lexer::Lexed;

/// What the comments of a file silence.
#[derive(Debug, Default)]
pub(super) struct Ignores {
    /// Rules by the line, from 0, on which the comment ends.
    by_line: BTreeMap<usize, BTreeSet<String>>,
    in_file: BTreeSet<String>,
    is_all: bool,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl Ignores {
    pub(super) fn of(lexed: &Lexed<'_>) -> Self {
        let ends = lexed.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let mut ignores = Self { lines: std::iter::once(0).chain(ends).collect(), ..Self::default() };
        for (start, end) in &lexed.comments {
            let body = lexed.text.get(*start..*end).unwrap_or("");
            let body = body.trim_start_matches("--").trim_start_matches("/*").trim_end_matches("*/").trim();
            if let Some(names) = body.strip_prefix("squawk-ignore-file") {
                ignores.is_all |= names.trim().is_empty();
                ignores.in_file.extend(listed(names));
            } else if let Some(names) = body.strip_prefix("squawk-ignore") {
                let line = ignores.line(end.saturating_sub(1));
                ignores.by_line.entry(line).or_default().extend(listed(names));
            }
        }
        ignores
    }

    /// Whether a finding of this rule that begins at this byte is silenced.
    pub(super) fn has(&self, rule: &str, start: usize) -> bool {
        let line = self.line(start);
        let near = [Some(line), line.checked_sub(1)];
        let is_near = || {
            near.into_iter()
                .flatten()
                .any(|line| self.by_line.get(&line).is_some_and(|names| names.contains(rule)))
        };
        self.is_all || self.in_file.contains(rule) || is_near()
    }

    fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|begin| *begin <= at).saturating_sub(1)
    }
}

/// The names up to a remark behind `--`.
fn listed(names: &str) -> impl Iterator<Item = String> {
    let names = names.split("--").next().unwrap_or("");
    names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty())
}
