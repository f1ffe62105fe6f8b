//! Folders with something wrong about them: what stock Drizzle makes of each was seen and written down, and is seen again; what we make of it stands
//! here.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;

use mainstay_testkit::Hazard;
use serde_json::Value;

use crate::support::Project;

/// What we make of a folder.
enum Ours {
    /// What stock Drizzle makes of it, row for row.
    AsStock,
    /// What stock Drizzle does not: all went well, and the table `ran` is this.
    Applied(&'static [&'static str]),
    /// Nothing was done. `verify` names this, and so does its report.
    Refused(&'static str),
    /// Nothing was done, for the folder itself does not read; this status, and these words.
    Unreadable(i32, &'static str),
    /// A statement failed. These words are said, and the table `ran` is this.
    Failed(&'static [&'static str], &'static [&'static str]),
}

/// Every hazard by name.
const OURS: &[(&str, Ours)] = &[
    ("plain", Ours::AsStock),
    ("skipped", Ours::Refused("skipped")),
    ("equal_when", Ours::Refused("skipped")),
    ("out_of_order", Ours::AsStock),
    ("edited", Ours::Refused("edited")),
    ("line_endings", Ours::Applied(&["0000", "0001"])),
    ("crlf", Ours::AsStock),
    ("retimed_later", Ours::Applied(&["0000", "0001"])),
    ("retimed_earlier", Ours::Applied(&["0000", "0001"])),
    ("poisoned_watermark", Ours::Refused("poisoned_watermark")),
    ("null_created_at", Ours::Refused("null_created_at")),
    ("duplicate_rows", Ours::Applied(&["0000", "0001"])),
    ("orphan_row", Ours::AsStock),
    ("orphan_blocks", Ours::Refused("skipped")),
    ("stray_file", Ours::AsStock),
    ("missing_file", Ours::Unreadable(1, "0001_second.sql is missing")),
    ("half_applied", Ours::Failed(&["0001_second", "22012"], &["0000", "0001"])),
    ("commit_before_concurrently", Ours::AsStock),
    ("concurrently", Ours::Applied(&["0000", "0002"])),
    ("byte_order_mark", Ours::Failed(&["0001_second", "42601"], &["0000"])),
    ("invalid_utf8", Ours::AsStock),
    ("several_statements", Ours::AsStock),
    ("breakpoint_in_string", Ours::Failed(&["0001_second", "42601"], &["0000"])),
    ("breakpoints_false", Ours::Failed(&["0001_second", "42601"], &["0000"])),
    ("empty_chunks", Ours::AsStock),
    ("empty_file", Ours::AsStock),
    ("new_enum_value", Ours::Applied(&["0000", "0001", "0002"])),
    ("session_leak", Ours::Applied(&["0000", "0001", "0002"])),
    ("fails", Ours::Failed(&["0002_third", "22012"], &["0000", "0001"])),
    ("v1_plain", Ours::AsStock),
    ("v1_late", Ours::AsStock),
    ("v1_edited", Ours::Refused("edited")),
    ("v1_renamed", Ours::Applied(&["0000", "0001"])),
    ("v1_no_date", Ours::Unreadable(2, "14 digits")),
    ("v1_same_second", Ours::AsStock),
    ("v1_with_journal", Ours::Unreadable(2, "both formats")),
    ("v1_upgrade", Ours::AsStock),
    ("v1_not_ready", Ours::Refused("not_ready")),
    ("old_folder_new_table", Ours::Refused("old_folder_new_table")),
    ("v1_null_name", Ours::Refused("null_name")),
];

/// Threads that look at hazards; each has a process of Node's at work most of the time.
const WORKERS: usize = 2;

#[test]
fn each_hazard_is_seen_as_it_is() {
    let mut ours: BTreeMap<&str, &Ours> = OURS.iter().map(|(name, ours)| (*name, ours)).collect();
    assert_eq!(ours.len(), OURS.len(), "a name stands twice");
    let hazards = Hazard::all();
    let work = hazards.iter().map(|hazard| {
        let expected = ours.remove(hazard.name.as_str());
        (hazard, expected.unwrap_or_else(|| panic!("nothing is expected of {}", hazard.name)))
    });
    let work: Mutex<Vec<_>> = Mutex::new(work.collect());
    let unknown: Vec<_> = ours.keys().collect();
    assert!(unknown.is_empty(), "there is no such hazard: {unknown:?}");
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).pop();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((hazard, ours)) = next() {
                    see(hazard, ours);
                }
            });
        }
    });
}

fn see(hazard: &Hazard, ours: &Ours) {
    let name = &hazard.name;
    let theirs = Project::new(&hazard.migrations());
    hazard.prepare(theirs.server, &theirs.database);
    let project = Project::copy_of(&theirs.database, &hazard.migrations());

    let stock = theirs.stock(hazard.line).run();
    let seen = (stock.status, theirs.ran(), theirs.row_count());
    let expected = (hazard.expected.status, hazard.expected.ran.clone(), hazard.expected.rows);
    assert_eq!(seen, expected, "{name}: {} ({stock:?})", hazard.stock);

    let before = project.left();
    let (ran_before, verified) = (project.ran(), project.sql(&["verify", "--json"]));
    let applied = project.sql(&["apply"]);
    let told = format!(
        "{name}: {}\nverify {}: {}\napply {}: {}",
        hazard.about,
        verified.status,
        verified.both(),
        applied.status,
        applied.both()
    );
    let is_untouched = || project.left() == before && project.ran() == ran_before;
    match ours {
        Ours::AsStock => {
            assert_eq!(applied.status, 0, "{told}");
            assert_eq!((project.left(), project.ran()), (theirs.left(), theirs.ran()), "{told}");
        }
        Ours::Applied(ran) => {
            assert_eq!((applied.status, project.ran()), (0, owned(ran)), "{told}");
            assert_eq!(project.sql(&["apply"]).status, 0, "{told}");
            assert_eq!(project.ran(), owned(ran), "applied again: {told}");
        }
        Ours::Refused(state) => {
            assert_eq!((verified.status, applied.status), (3, 8), "{told}");
            assert!(words_of(&verified.json()).iter().any(|word| word == state), "{state}: {told}");
            assert!(is_untouched(), "{told}");
        }
        Ours::Unreadable(status, words) => {
            assert_eq!((verified.status, applied.status), (*status, *status), "{told}");
            assert!(applied.both().contains(words), "{words}: {told}");
            assert!(is_untouched(), "{told}");
        }
        Ours::Failed(words, ran) => {
            assert_eq!((applied.status, project.ran()), (1, owned(ran)), "{told}");
            for word in *words {
                assert!(applied.both().contains(word), "{word}: {told}");
            }
            // What is done is not done again.
            assert_eq!(project.sql(&["apply"]).status, 1, "{told}");
            assert_eq!(project.ran(), owned(ran), "done again: {told}");
        }
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Every text in a report.
fn words_of(report: &Value) -> Vec<&str> {
    match report {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(words_of).collect(),
        Value::Object(fields) => fields.values().flat_map(words_of).collect(),
        _ => Vec::new(),
    }
}
