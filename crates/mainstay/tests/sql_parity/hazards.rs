//! Folders with something wrong about them: what stock Drizzle makes of each was seen and written down, and is seen again; what we make of it stands
//! here.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::thread;

use mainstay_testkit::Hazard;
use mainstay_testkit::engines::Drizzle;

use crate::binary::Seen;
use crate::support::{Migrations, Project};

/// What we make of a folder.
enum Ours {
    /// What stock Drizzle makes of it, row for row.
    AsStock,
    /// What stock Drizzle does not: all went well, and the table `ran` is this.
    Applied(&'static [&'static str]),
    /// Nothing was done.
    Refused,
    /// Nothing was done, for the folder itself does not read; this status, and these words.
    Unreadable(i32, &'static str),
    /// A statement failed. These words are said, and the table `ran` is this.
    Failed(&'static [&'static str], &'static [&'static str]),
}

/// What is told as critical: whatever is done before it is mended does harm.
const CRITICAL: &[&str] = &["sql.null_rows", "sql.old_folder_new_table", "sql.not_ready"];

/// Every hazard by name, what `sql verify` finds about it before anything is applied, and what `sql apply` does.
const OURS: &[(&str, &[&str], Ours)] = &[
    ("plain", &[], Ours::AsStock),
    ("skipped", &["sql.skipped"], Ours::Refused),
    ("equal_when", &["sql.skipped"], Ours::Refused),
    ("out_of_order", &["sql.pending_out_of_order"], Ours::AsStock),
    ("edited", &["sql.edited"], Ours::Refused),
    ("line_endings", &["sql.line_endings"], Ours::Applied(&["0000", "0001"])),
    ("crlf", &[], Ours::AsStock),
    ("retimed_later", &["sql.retimed"], Ours::Applied(&["0000", "0001"])),
    ("retimed_earlier", &["sql.retimed"], Ours::Applied(&["0000", "0001"])),
    ("poisoned_watermark", &["sql.poisoned_watermark", "sql.skipped"], Ours::Refused),
    ("null_created_at", &["sql.null_rows"], Ours::Refused),
    ("duplicate_rows", &["sql.duplicate_rows"], Ours::Applied(&["0000", "0001"])),
    ("orphan_row", &["sql.orphan_rows"], Ours::AsStock),
    ("orphan_blocks", &["sql.orphan_rows", "sql.skipped"], Ours::Refused),
    ("stray_file", &["sql.folder"], Ours::AsStock),
    ("missing_file", &[], Ours::Unreadable(1, "0001_second.sql is missing")),
    ("half_applied", &[], Ours::Failed(&["0001_second", "22012"], &["0000", "0001"])),
    ("commit_before_concurrently", &[], Ours::AsStock),
    ("concurrently", &[], Ours::Applied(&["0000", "0002"])),
    ("byte_order_mark", &["sql.folder"], Ours::Failed(&["0001_second", "42601"], &["0000"])),
    ("invalid_utf8", &["sql.folder"], Ours::AsStock),
    ("several_statements", &[], Ours::AsStock),
    ("breakpoint_in_string", &[], Ours::Failed(&["0001_second", "42601"], &["0000"])),
    ("breakpoints_false", &[], Ours::Failed(&["0001_second", "42601"], &["0000"])),
    ("empty_chunks", &[], Ours::AsStock),
    ("empty_file", &[], Ours::AsStock),
    ("new_enum_value", &[], Ours::Applied(&["0000", "0001", "0002"])),
    ("session_leak", &[], Ours::Applied(&["0000", "0001", "0002"])),
    ("fails", &[], Ours::Failed(&["0002_third", "22012"], &["0000", "0001"])),
    ("v1_plain", &[], Ours::AsStock),
    ("v1_late", &["sql.pending"], Ours::AsStock),
    ("v1_edited", &["sql.edited"], Ours::Refused),
    ("v1_renamed", &["sql.retimed"], Ours::Applied(&["0000", "0001"])),
    ("v1_no_date", &[], Ours::Unreadable(2, "14 digits")),
    ("v1_same_second", &["sql.folder"], Ours::AsStock),
    ("v1_with_journal", &[], Ours::Unreadable(2, "both formats")),
    ("v1_upgrade", &["sql.table_to_upgrade"], Ours::AsStock),
    ("v1_not_ready", &["sql.not_ready"], Ours::Refused),
    ("old_folder_new_table", &["sql.old_folder_new_table"], Ours::Refused),
    ("v1_null_name", &["sql.null_names"], Ours::Refused),
];

/// Threads that look at hazards; each has a process of Node's at work most of the time.
const WORKERS: usize = 2;

#[test]
fn each_hazard_is_seen_as_it_is() {
    let hazards = Hazard::all();
    let known: BTreeSet<&str> = OURS.iter().map(|(name, _, _)| *name).collect();
    let there: BTreeSet<&str> = hazards.iter().map(|hazard| hazard.name.as_str()).collect();
    assert_eq!(
        (known, OURS.len()),
        (there, hazards.len()),
        "a hazard without a row here, or a row without a hazard"
    );
    let work = Mutex::new(hazards);
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).pop();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(hazard) = next() {
                    let row = OURS.iter().find(|(name, _, _)| *name == hazard.name);
                    let (_, found, ours) = row.unwrap();
                    see(&hazard, found, ours);
                }
            });
        }
    });
}

fn see(hazard: &Hazard, found: &[&str], ours: &Ours) {
    let name = &hazard.name;
    let theirs = Project::new(&hazard.migrations());
    hazard.prepare(theirs.server, &theirs.database);
    let project = Project::copy_of(&theirs.database, &hazard.migrations());

    let stock = theirs.stock(hazard.line).run();
    let seen = (stock.status, theirs.ran(), theirs.row_count());
    let expected = (hazard.expected.status, hazard.expected.ran.clone(), hazard.expected.rows);
    assert_eq!(seen, expected, "{name}: {} ({stock:?})", hazard.stock);

    let stays = matches!(ours, Ours::Refused | Ours::Unreadable(..));
    let before = stays.then(|| (project.left(), project.ran()));
    let verified = project.sql(&["verify", "--json"]);
    let applied = project.sql(&["apply"]);
    let told = format!(
        "{name}: {}\nverify {}: {}\napply {}: {}",
        hazard.about,
        verified.status,
        verified.both(),
        applied.status,
        applied.both()
    );
    if let Some(before) = before {
        assert_eq!((project.left(), project.ran()), before, "{told}");
    }
    if !matches!(ours, Ours::Unreadable(..)) {
        expect_findings(&verified, found, &told);
    }
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
        Ours::Refused => assert_eq!(applied.status, 8, "{told}"),
        Ours::Unreadable(status, words) => {
            assert_eq!((verified.status, applied.status), (*status, *status), "{told}");
            assert!(applied.both().contains(words), "{words}: {told}");
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

/// `sql verify` found these, and its status says how bad they are.
fn expect_findings(verified: &Seen, expected: &[&str], told: &str) {
    let report = verified.json();
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("{told}"));
    for id in expected {
        let finding = findings.iter().find(|finding| finding["id"] == **id);
        let finding = finding.unwrap_or_else(|| panic!("{id} is not found: {told}"));
        // Explained, and with something to do about it.
        for key in ["message", "remedy"] {
            assert!(finding[key].as_str().is_some_and(|text| !text.is_empty()), "{told}");
        }
    }
    let status = match expected {
        [] => 0,
        ids if ids.iter().any(|id| CRITICAL.contains(id)) => 4,
        _ => 3,
    };
    assert_eq!(verified.status, status, "{told}");
}

/// A migration that ends its transaction itself and then fails: what stands before that is recorded, and is not done again once the rest is mended.
#[test]
fn a_half_applied_migration_goes_on_where_it_failed() {
    let folder = Migrations::first(2, &Hazard::named("half_applied").migrations(), Drizzle::Zero);
    let project = Project::new(folder.path());
    project.sql(&["apply"]).expect(1);
    assert_eq!(project.row_count(), 1);
    let verified = project.sql(&["verify", "--json"]);
    expect_findings(&verified, &["sql.half_applied"], &verified.both());

    let file = folder.path().join("0001_second.sql");
    let text = fs::read_to_string(&file).unwrap();
    let mended = text.replace("SELECT 1 / 0", "INSERT INTO \"ran\" (\"tag\") VALUES ('0002')");
    assert_ne!(text, mended);
    fs::write(&file, mended).unwrap();
    project.sql(&["apply"]).expect(0);
    assert_eq!((project.ran(), project.row_count()), (owned(&["0000", "0001", "0002"]), 2));
    project.sql(&["verify"]).expect(0);
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
