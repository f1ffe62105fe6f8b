//! The indexes of a document store against what is declared, and changed to it without a moment in which a collection has neither its old nor
//! its new index.
//!
//! | module | what it answers |
//! |---|---|
//! | [`drift`] | what differs from the manifest |
//! | [`import`] | what is there, and what code declares, as a manifest; all three beside each other |
//! | [`audit`] | what nobody uses, what is redundant, what was forgotten |
//! | [`ttl`] | what expires, and how far behind the server is |
//!
//! Those read only, and decide purely: what was read goes in, rows and findings come out; the tables of [`mainstay_indexes`] say when two indexes
//! are the same.
//!
//! [`plan()`] compares and decides, asks the documents, measures, and returns everything as one plan: fingerprints of what it saw, exact
//! commands, answers, costs, and what it will not do. [`retire()`] and [`restore()`] make plans of the same kind, of hiding and dropping what
//! nobody declares, and of building again what was dropped. [`check()`] compares the world with the plan, and asks the documents again;
//! [`apply()`] takes the steps one by one under a lease, each recorded before it is taken and looked at afterwards, so that a run that was
//! killed goes on: a build that goes on without it is recognised and waited for, and never begun twice.
//!
//! Relies on the server to refuse what is not so: uniqueness is promised by its own dry run and conversion, never by a count. Refuses to drop an
//! index before the one in its place stands, unless a gap was asked for, and to expire more documents at once than may.

mod apply;
pub mod audit;
pub mod drift;
mod estimate;
pub mod import;
mod parameters;
mod plan;
mod questions;
mod records;
pub mod ttl;

use mainstay_engine::{CollectionKind, IndexCatalog, IndexedCollection};
use mainstay_indexes::Manifest;
use mainstay_model::{Error, ErrorKind, Result};

pub use mainstay_journal::KeptLease;

pub use apply::{IndexContext, IndexReport, IndexStepDone, apply, check, claim, resumable};
pub use parameters::{Answer, DuplicateGroup, Estimate, IndexParameters, PlannedChange, PlannedCollection};
pub use plan::{DroppedIndexes, IndexPlanning, dropped, plan, restore, retire};
pub use records::DroppedIndex;

/// The registered name of a plan that builds indexes which refuse no write and expire nothing.
pub const OPERATION_BUILD: &str = "index.apply.build";
/// The registered name of a plan that changes or hides indexes, or makes some that refuse writes.
pub const OPERATION_CHANGE: &str = "index.apply.change";
/// The registered name of a plan that drops indexes, too.
pub const OPERATION_DROP: &str = "index.apply.drop";
/// The registered name of a plan by which documents expire, too.
pub const OPERATION_EXPIRE: &str = "index.apply.expire";
/// The beginning of all of them.
pub const OPERATION: &str = "index.apply";

/// The collections of a database whose indexes are somebody's choice: neither views nor time series.
fn choosable(collections: Vec<IndexedCollection>) -> (Vec<IndexedCollection>, Vec<IndexedCollection>) {
    collections.into_iter().partition(|collection| collection.kind == CollectionKind::Collection)
}

/// Whether a collection is anybody's business: what is declared is, whatever the policy ignores.
fn is_regarded(manifest: &Manifest, collection: &str) -> bool {
    manifest.collections.contains_key(collection) || !manifest.policy.ignores(collection)
}

/// The collections of `database`, all of them or those that are named; a name of nothing must be known otherwise.
///
/// # Errors
/// `Precondition` when a name is neither there nor `known`; the server's.
async fn collections(
    catalog: &dyn IndexCatalog,
    database: &str,
    names: &[String],
    known: impl Fn(&str) -> bool,
) -> Result<Vec<IndexedCollection>> {
    let mut found = catalog.indexed_collections(database).await?;
    for name in names {
        let is_there = found.iter().any(|collection| collection.namespace.collection == *name);
        if !is_there && !known(name) {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("there is no collection {database}.{name}"),
            )
            .with_state("nothing was changed")
            .with_hint("`mainstay mongo count` lists the collections"));
        }
    }
    if !names.is_empty() {
        found.retain(|collection| names.contains(&collection.namespace.collection));
    }
    Ok(found)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_never_ignored() {
        let text = "[indexes]\ntmp_kept = []\n[policy]\nignore = [\"tmp_*\"]\n";
        let manifest = Manifest::parse(text).unwrap();
        for (collection, expected) in [("users", true), ("tmp_1", false), ("tmp_kept", true)] {
            assert_eq!(is_regarded(&manifest, collection), expected, "{collection}");
        }
    }
}
