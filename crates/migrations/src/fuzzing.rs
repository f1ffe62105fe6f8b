//! What a fuzzer calls: the readers of this crate on any bytes. A broken promise panics; what the readers answer is of no interest.

use std::collections::BTreeMap;

use crate::cut::chunks;
use crate::folder::{Folder, JOURNAL_PATH, MARKER, Migration};
use crate::journal::Journal;
use crate::lint::{LintOptions, lint};
use crate::place::Place;
use crate::steps::steps;

/// How many statements of a chunk are held against the file: that takes time.
const STATEMENTS_LOOKED_AT: usize = 50;

/// A file of SQL: cut, and looked at statement by statement.
///
/// # Panics
/// When chunks do not add up to the file, or a statement does not stand where it says.
pub fn statements(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let chunks = chunks(&text);
    let texts: Vec<&str> = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
    assert_eq!(texts.join(MARKER), text, "chunks lose or add text");
    let lines: Vec<&str> = text.split('\n').collect();
    for chunk in &chunks {
        for statement in chunk.statements.iter().take(STATEMENTS_LOOKED_AT) {
            assert!(!statement.text.is_empty(), "a statement is empty");
            assert!(chunk.text.contains(&statement.text), "a statement is not of its chunk");
            let Place { line, column } = statement.place;
            let line = lines.get(line as usize - 1).expect("a statement stands in a line of the file");
            let rest: String = line.chars().skip(column as usize - 1).collect();
            let first = statement.text.split('\n').next().unwrap_or_default();
            assert!(rest.starts_with(first), "a statement does not stand where it says");
        }
    }
    let _ = steps(&Migration::new("fuzz", "fuzz.sql", 0, text));
}

/// A journal, and the folder that has it and nothing else but the files that it names.
///
/// # Panics
/// When an entry comes out that is no file of the folder.
pub fn journal(bytes: &[u8]) {
    let Ok(journal) = Journal::read(bytes) else { return };
    let named = journal.entries.iter().map(|entry| (format!("{}.sql", entry.tag), Vec::new()));
    let mut files: BTreeMap<String, Vec<u8>> = named.collect();
    files.insert(JOURNAL_PATH.to_owned(), bytes.to_vec());
    if let Ok(folder) = Folder::read(&files) {
        assert!(folder.migrations.iter().all(|found| !found.path.contains('/')), "a path leads elsewhere");
        assert_eq!(folder.migrations.len(), journal.entries.len(), "entries are lost");
    }
}

/// The linter on a file of SQL.
///
/// # Panics
/// Never by itself; a finding that does not stand in the file would.
pub fn lints(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let end = Place::START.after(&text);
    for finding in lint(&Migration::new("fuzz", "fuzz.sql", 0, text), &LintOptions::default()) {
        assert!(finding.place <= finding.end && finding.end <= end, "a finding stands outside of the file");
    }
}
