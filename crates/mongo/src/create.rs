//! Making collections and indexes again from their metadata, replacing and dropping them.
//!
//! A collection is created bare, loaded, and then indexed in one `createIndexes` command: one pass over the data for all indexes. What the
//! server lists is what it is given back, but for a few fields it lists and does not take, or that would change their meaning:
//!
//! * `autoIndexId` (gone since 4.0) and the `uuid` are left out; the index on `_id` travels as `idIndex`, so that its collation survives,
//!   except for clustered collections and time series, which have none;
//! * an index without a collation on a collection with one gets `{locale: "simple"}`, because it would inherit the collection's otherwise;
//! * `ns` and `background` are stripped from indexes; `v` is kept.
//!
//! Refuses to replace across databases: the server would copy, and readers would see neither the old nor the new.

use std::time::Duration;

use bson::{RawDocumentBuf, rawdoc};
use mainstay_engine::{CollectionKind, Namespace};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use tokio::time::sleep;

use crate::catalog;
use crate::error::{code, driver_code};
use crate::metadata::{Metadata, array, kind_of, without};
use crate::raw;
use crate::server::MongoServer;

/// How often the server is asked how far an index build is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How long a majority may take to follow.
const MAJORITY_TIMEOUT_MS: i32 = 60_000;

/// The write concern of what must last: committed by a majority and journalled, or an error in bounded time.
pub(crate) fn majority() -> RawDocumentBuf {
    rawdoc! { "w": "majority", "j": true, "wtimeout": MAJORITY_TIMEOUT_MS }
}

/// Creates `target` from `metadata`; see the module's text.
pub(crate) async fn create(server: &MongoServer, target: &Namespace, metadata: &str) -> Result<()> {
    let creating = async {
        let metadata = Metadata::parse(metadata)?;
        // Newer servers answer `ok` to a `create` that changes nothing; this asks first, so that an existing collection is never mistaken
        // for a new one.
        if catalog::find(server, target).await?.is_some() {
            return Err(exists(target));
        }
        match server.driver_tell(&target.database, create_command(target, &metadata)).await {
            Ok(_) => Ok(()),
            Err(error) if driver_code(&error) == Some(code::NAMESPACE_EXISTS) => Err(exists(target)),
            Err(error) => Err(server.explain(error).await),
        }
    };
    let created: Result<()> = creating.await;
    created.with_context(|| format!("create {target}"))
}

fn exists(target: &Namespace) -> Error {
    Error::new(ErrorKind::Conflict, format!("{target} exists already"))
        .with_hint("restore into another database, or choose to merge or to drop")
}

fn create_command(target: &Namespace, metadata: &Metadata) -> RawDocumentBuf {
    let mut command = rawdoc! { "create": target.collection.as_str() };
    let options = without(&metadata.options, &["autoIndexId", "uuid", "idIndex"]);
    for (key, value) in options.iter().filter_map(std::result::Result::ok) {
        command.append(key, value);
    }
    if let (CollectionKind::Collection, false, Some(id_index)) =
        (metadata.kind, metadata.is_clustered(), metadata.id_index())
    {
        command.append(bson::cstr!("idIndex"), without(id_index, &["ns", "background"]));
    }
    command.append(bson::cstr!("writeConcern"), majority());
    command
}

/// Builds the indexes of `metadata` that `target` has not yet.
pub(crate) async fn build_indexes(
    server: &MongoServer,
    target: &Namespace,
    metadata: &str,
    observer: &dyn Observer,
) -> Result<()> {
    let building = async {
        let metadata = Metadata::parse(metadata)?;
        if metadata.kind == CollectionKind::View {
            return Ok(());
        }
        let existing = match catalog::indexes(server, target, metadata.kind).await {
            // The role `restore` may create indexes but not list them; creating one that is there already changes nothing.
            Err(error) if error.kind() == ErrorKind::Auth => Vec::new(),
            existing => existing?,
        };
        let missing = missing_indexes(&metadata, &existing);
        if missing.is_empty() {
            return Ok(());
        }
        let command = rawdoc! {
            "createIndexes": target.collection.as_str(), "indexes": array(&missing), "writeConcern": majority(),
        };
        build(server, target, command, observer).await
    };
    let built: Result<()> = building.await;
    built.with_context(|| format!("build indexes of {target}"))
}

/// The indexes to build, in the form that createIndexes takes.
fn missing_indexes(metadata: &Metadata, existing: &[RawDocumentBuf]) -> Vec<RawDocumentBuf> {
    let comparable = |index: &RawDocumentBuf| {
        let mut fields: Vec<_> = raw::elements(index.as_bytes())
            .map_while(std::result::Result::ok)
            .filter(|field| ![b"ns".as_slice(), b"background"].contains(&field.key))
            .map(|field| (field.key.to_vec(), field.kind, field.value.to_vec()))
            .collect();
        fields.sort();
        fields
    };
    let existing: Vec<_> = existing.iter().map(comparable).collect();
    metadata
        .secondary_indexes()
        .filter(|index| !existing.contains(&comparable(index)))
        .map(|index| {
            let mut index = without(index, &["ns", "background"]);
            if metadata.collation().is_some() && matches!(index.get("collation"), Ok(None)) {
                index.append(bson::cstr!("collation"), rawdoc! { "locale": "simple" });
            }
            index
        })
        .collect()
}

/// Runs createIndexes to its end. A connection that breaks meanwhile does not end a build: the same command finds it and waits for it.
async fn build(
    server: &MongoServer,
    target: &Namespace,
    command: RawDocumentBuf,
    observer: &dyn Observer,
) -> Result<()> {
    let mut incident = server.retry().incident();
    loop {
        let watching = watch(server, target, observer);
        let outcome = tokio::select! {
            outcome = server.tell(&target.database, command.clone()) => outcome,
            () = watching => continue,
        };
        match outcome {
            Ok(_) => return Ok(()),
            Err(error) if error.is_temporary() => match incident.next_delay() {
                Some(delay) => sleep(delay).await,
                None => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
}

/// Tells `observer` how far the build of `target` is, for ever. What the server does not tell is not told.
async fn watch(server: &MongoServer, target: &Namespace, observer: &dyn Observer) {
    let mut told = 0;
    loop {
        sleep(PROGRESS_EVERY).await;
        let Some((done, total)) = progress(server, target).await else { continue };
        observer.expect(Work { items: total, bytes: 0 });
        observer.advance(Work { items: done.saturating_sub(told), bytes: 0 });
        told = told.max(done);
    }
}

/// The progress of our own createIndexes on `target`: documents seen and to see. Asking for one's own operations needs no privilege.
async fn progress(server: &MongoServer, target: &Namespace) -> Option<(u64, u64)> {
    let stages = [
        rawdoc! { "$currentOp": { "allUsers": false } },
        rawdoc! { "$match": { "command.createIndexes": target.collection.as_str(), "command.$db": target.database.as_str() } },
    ];
    let command = rawdoc! { "aggregate": 1, "pipeline": array(&stages), "cursor": {} };
    let operations = server.list("admin", command).await.ok()?;
    operations.iter().find_map(|operation| {
        let progress = operation.get_document("progress").ok()?.as_bytes();
        let number =
            |key| raw::find(progress, key).ok()??.number().and_then(|number| u64::try_from(number).ok());
        Some((number("done")?, number("total")?))
    })
}

/// What a rename does with a collection that stands under the new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occupant {
    /// Fails on its account.
    Respected,
    /// Drops it in the same step.
    Dropped,
}

/// Gives `from` the name `to`, in one step.
pub(crate) async fn rename(
    server: &MongoServer,
    from: &Namespace,
    to: &Namespace,
    occupant: Occupant,
) -> Result<()> {
    if from.database != to.database {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{from} cannot become {to} in one step: they are in different databases"),
        ));
    }
    let command = rawdoc! {
        "renameCollection": from.to_string(), "to": to.to_string(),
        "dropTarget": occupant == Occupant::Dropped, "writeConcern": majority(),
    };
    server.tell("admin", command).await.map(drop).with_context(|| format!("rename {from} to {to}"))
}

/// Drops `target`, if it is there.
pub(crate) async fn drop_collection(server: &MongoServer, target: &Namespace) -> Result<()> {
    let command = rawdoc! { "drop": target.collection.as_str(), "writeConcern": majority() };
    match server.driver_tell(&target.database, command).await {
        Ok(_) => Ok(()),
        Err(error) if driver_code(&error) == Some(code::NAMESPACE_NOT_FOUND) => Ok(()),
        Err(error) => Err(server.explain(error).await.context(format!("drop {target}"))),
    }
}

/// Whether a namespace is capped; false when it does not exist.
pub(crate) async fn is_capped(server: &MongoServer, target: &Namespace) -> Result<bool> {
    let Some(spec) = catalog::find(server, target).await? else { return Ok(false) };
    let metadata = Metadata {
        options: spec.get_document("options").map(ToOwned::to_owned).unwrap_or_default(),
        indexes: Vec::new(),
        uuid: None,
        name: None,
        kind: kind_of(spec.get_str("type").unwrap_or("collection")),
    };
    Ok(metadata.is_capped())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::RawDocument;

    use super::*;

    fn fixture(name: &str) -> Metadata {
        let path = format!("{}/tests/fixtures/metadata/{name}.json", env!("CARGO_MANIFEST_DIR"));
        Metadata::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn names(indexes: &[RawDocumentBuf]) -> Vec<&str> {
        indexes.iter().map(|index| index.get_str("name").unwrap()).collect()
    }

    #[test]
    fn the_id_index_travels_with_the_collection() {
        let target = Namespace::new("shop", "c");
        let command = |name| create_command(&target, &fixture(name));
        let french = command("shop.coll_fr");
        assert_eq!(
            french
                .get_document("idIndex")
                .unwrap()
                .get_document("collation")
                .unwrap()
                .get_str("locale")
                .unwrap(),
            "fr"
        );
        assert!(command("shop.clustered").get("idIndex").unwrap().is_none());
        assert!(command("shop.metrics_ts").get("idIndex").unwrap().is_none());
        assert!(command("shop.adults").get("idIndex").unwrap().is_none());
        assert!(command("shop.clustered").get("clusteredIndex").unwrap().is_some());
    }

    #[test]
    fn indexes_keep_their_meaning() {
        let french = fixture("shop.coll_fr");
        let missing = missing_indexes(&french, &[]);
        assert_eq!(names(&missing), ["w_1", "w_simple"]);
        let locale = |index: &RawDocument| {
            index.get_document("collation").unwrap().get_str("locale").unwrap().to_owned()
        };
        assert_eq!(missing.iter().map(|index| locale(index)).collect::<Vec<_>>(), ["fr", "simple"]);
        let left = missing_indexes(&french, &french.indexes[..2]);
        assert_eq!(names(&left), ["w_simple"]);
        assert!(missing_indexes(&fixture("shop.clustered"), &[]).is_empty());
    }
}
