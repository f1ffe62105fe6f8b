//! The indexes of a document store against what is declared.
//!
//! | module | what it answers |
//! |---|---|
//! | [`drift`] | what differs from the manifest |
//! | [`import`] | what is there, and what code declares, as a manifest; all three beside each other |
//! | [`audit`] | what nobody uses, what is redundant, what was forgotten |
//! | [`ttl`] | what expires, and how far behind the server is |
//!
//! Deciding is pure: what was read goes in, rows and findings come out. All of it reads only; the tables of [`mainstay_indexes`] say when two
//! indexes are the same.

pub mod audit;
pub mod drift;
mod expiry;
pub mod import;
pub mod ttl;

use mainstay_engine::{CollectionKind, IndexCatalog, IndexedCollection};
use mainstay_model::{Error, ErrorKind, Result};

/// The collections of a database whose indexes are somebody's choice: neither views nor time series.
fn choosable(collections: Vec<IndexedCollection>) -> (Vec<IndexedCollection>, Vec<IndexedCollection>) {
    collections.into_iter().partition(|collection| collection.kind == CollectionKind::Collection)
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
