//! The Drizzle project beside the sample keeps up with it: a table for every collection, and one history in both formats.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use marketplace::{Collection, View};

const SCHEMA: &str = include_str!("../drizzle/schema.ts");

fn table_of(collection: Collection) -> &'static str {
    match collection {
        Collection::Categories => "categories",
        Collection::Levels => "levels",
        Collection::Users => "users",
        Collection::Addresses => "addresses",
        Collection::PurchaseRequests => "purchase_requests",
        Collection::SellerOffers => "seller_offers",
        Collection::Payments => "payments",
        Collection::Chats => "chats",
        Collection::Notifications => "notifications",
        Collection::TempVerifications => "temp_verifications",
        Collection::Disputes => "disputes",
        Collection::EventLog => "event_log",
        Collection::PriceHistory => "price_history",
        Collection::SessionSnapshots => "session_snapshots",
        Collection::SearchTerms => "search_terms",
        Collection::PayoutAccounts => "payout_accounts",
        Collection::Orders => "orders",
    }
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("drizzle")
}

/// The names in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn every_collection_and_view_has_a_place() {
    let collections = Collection::ALL.into_iter().chain([Collection::Orders]);
    for table in collections.map(table_of).chain(["payment_quotes", "pg_dualwrite_gaps"]) {
        let declared = [format!("pgTable('{table}'"), format!("pgTable(\n  '{table}'")]
            .iter()
            .any(|it| SCHEMA.contains(it));
        assert!(declared, "schema.ts declares no table {table}");
    }
    assert_eq!(View::all().len(), SCHEMA.matches("= pgView('").count());
}

#[test]
fn both_formats_hold_the_same_migrations() {
    let (journal, folders) = (project().join("drizzle"), project().join("drizzle-v1"));
    let files: Vec<String> = names(&journal).into_iter().filter(|name| name.ends_with(".sql")).collect();
    let (listed, folder_names) =
        (fs::read_to_string(journal.join("meta/_journal.json")).unwrap(), names(&folders));
    assert_eq!((files.len(), folder_names.len()), (9, 9));
    for (number, (file, folder)) in files.iter().zip(&folder_names).enumerate() {
        let tag = file.trim_end_matches(".sql");
        let (index, name) = tag.split_once('_').unwrap();
        assert_eq!(index, format!("{number:04}"));
        assert!(listed.contains(&format!("\"tag\": \"{tag}\"")), "the journal has no {tag}");
        assert_eq!(folder.split_once('_').unwrap().1, name);
        let read = |path: PathBuf| fs::read(path).unwrap();
        assert_eq!(read(journal.join(file)), read(folders.join(folder).join("migration.sql")), "{tag}");
    }
}
