//! `meta/_journal.json`, as Drizzle 0.x reads it.
//!
//! Of an entry the migrator uses `tag` and `when` alone; numbers, versions and `breakpoints` it passes over, and so do we, but for what they tell of merges.
//! What it would carry into the database as no number (`when` missing, or a string) is refused here.

use serde::Deserialize;

use crate::folder::FolderError;

/// The largest moment that JavaScript's dates have, in milliseconds; nothing that a generator writes is beyond it.
const WHEN_MAX: f64 = 8.64e15;

/// The journal, as far as anything here asks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Journal {
    pub(crate) dialect: Option<String>,
    pub(crate) entries: Vec<JournalEntry>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JournalEntry {
    pub(crate) tag: String,
    pub(crate) when: i64,
    pub(crate) index: Option<i64>,
    pub(crate) breakpoints: Option<bool>,
}

#[derive(Deserialize)]
struct RawJournal {
    dialect: Option<serde_json::Value>,
    entries: Vec<RawEntry>,
}

#[derive(Deserialize)]
struct RawEntry {
    tag: String,
    when: serde_json::Number,
    idx: Option<serde_json::Value>,
    breakpoints: Option<serde_json::Value>,
}

impl Journal {
    /// Reads a journal.
    ///
    /// # Errors
    /// [`FolderError::Journal`]: no JSON, no entries, an entry without a tag or a whole number of milliseconds.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, FolderError> {
        let text = String::from_utf8_lossy(bytes);
        let is_conflicted =
            text.lines().any(|line| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> "));
        if is_conflicted {
            return Err(unreadable("it has the marks of an unresolved merge"));
        }
        let raw: RawJournal = serde_json::from_str(&text).map_err(|error| unreadable(&error.to_string()))?;
        let entries = raw.entries.into_iter().map(JournalEntry::read).collect::<Result<Vec<_>, _>>()?;
        let dialect =
            raw.dialect.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        Ok(Self { dialect, entries })
    }
}

impl JournalEntry {
    fn read(raw: RawEntry) -> Result<Self, FolderError> {
        let when = whole(&raw.when);
        let when = when.ok_or_else(|| {
            unreadable(&format!("`when` of {:?} is no time in milliseconds: {}", raw.tag, raw.when))
        })?;
        let index = raw.idx.as_ref().and_then(serde_json::Value::as_i64);
        Ok(Self {
            when,
            index,
            breakpoints: raw.breakpoints.as_ref().and_then(serde_json::Value::as_bool),
            tag: raw.tag,
        })
    }
}

/// A whole number in the range of JavaScript's dates, also when it is written as `1.7e12`.
fn whole(number: &serde_json::Number) -> Option<i64> {
    let value = number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() <= WHEN_MAX)?;
    // Whole and far below 2^63, so that nothing is lost.
    #[expect(clippy::cast_possible_truncation, reason = "checked the line before")]
    number.as_i64().or(Some(value as i64))
}

fn unreadable(reason: &str) -> FolderError {
    FolderError::Journal { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_as_far_as_the_migrator_reads_it() {
        let text = br#"{"version":"7","dialect":"postgresql","entries":[
            {"idx":0,"version":"7","when":1700000000000,"tag":"0000_a","breakpoints":true},
            {"when":1.7e12,"tag":"b","more":[1]}]}"#;
        let journal = Journal::read(text).unwrap();
        assert_eq!(journal.dialect.as_deref(), Some("postgresql"));
        assert_eq!(journal.entries[0].when, 1_700_000_000_000);
        assert_eq!((journal.entries[0].index, journal.entries[0].breakpoints), (Some(0), Some(true)));
        assert_eq!((journal.entries[1].when, journal.entries[1].index), (1_700_000_000_000, None));
    }

    #[test]
    fn what_the_migrator_would_carry_on_as_no_number_is_refused() {
        let table: &[(&[u8], &str)] = &[
            (b"", "EOF"),
            (b"{}", "entries"),
            (b"{\"entries\":[{\"when\":1}]}", "tag"),
            (b"{\"entries\":[{\"tag\":\"a\"}]}", "when"),
            (b"{\"entries\":[{\"tag\":\"a\",\"when\":\"1\"}]}", "string"),
            (b"{\"entries\":[{\"tag\":\"a\",\"when\":1.5}]}", "no time in milliseconds"),
            (b"{\"entries\":[{\"tag\":\"a\",\"when\":1e300}]}", "no time in milliseconds"),
            (b"{\n<<<<<<< HEAD\n", "unresolved merge"),
            (b"\xff\xfe", "expected value"),
        ];
        for (bytes, part) in table {
            let error = Journal::read(bytes).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let deep = [b"{\"entries\":".as_slice(), &b"[".repeat(100_000)].concat();
        assert!(Journal::read(&deep).is_err());
    }
}
