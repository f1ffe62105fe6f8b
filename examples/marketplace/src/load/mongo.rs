//! The MongoDB half of a load.
//!
//! An `insert` command is written as bytes, documents included, and sent as it is: no document is encoded twice. Ranges of documents go out
//! in parallel, except where the order of insertion is part of the data.

use super::{
    CollectionLoad, LoadError, LoadOptions, LoadReport, Meter, MongoTarget, Phase, Progress,
    SkippedCollection,
};
use crate::collection::{Collection, View};
use crate::sample::Sample;
use crate::url::without_secrets;
use crate::writer;
use bson::raw::RawDocumentBuf;
use bson::{Document, doc};
use futures::{StreamExt, TryStreamExt, stream};
use mongodb::options::ClientOptions;
use mongodb::{Client, Database};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::time::Duration;

/// A batch is closed when it has this many bytes. A command may have 16 MiB; smaller batches keep all connections busy to the end.
const BATCH_BYTES: usize = 3 << 20;
/// A command takes at most this many documents.
const BATCH_DOCUMENTS: u64 = 100_000;
/// Index builds under way at once. Each is one thread of the server.
const INDEX_BUILDS: usize = 2;

/// The connected database, and what may not appear in messages.
struct Connection {
    database: Database,
    url: String,
}

pub(super) async fn load(
    target: &MongoTarget,
    options: &LoadOptions,
    progress: &dyn Progress,
    report: &mut LoadReport,
) -> Result<(), LoadError> {
    let connection = Connection::open(target, options.connections).await?;
    let mut collections = options.collections();
    connection.make_room(&collections, options.drop).await?;
    report.skipped = connection.create(&collections).await?;
    collections
        .retain(|(collection, _)| !report.skipped.iter().any(|skipped| skipped.collection == *collection));

    let bytes_total = collections
        .iter()
        .map(|&(collection, count)| options.sample.estimated_bytes(collection, count))
        .sum();
    let documents_total = collections.iter().map(|(_, count)| count).sum();
    let meter = Meter::begin(progress, Phase::Documents, documents_total, bytes_total);
    report.collections = connection.insert(&collections, options, &meter).await?;
    report.documents_took = meter.elapsed();

    let meter = Meter::begin(progress, Phase::Indexes, collections.len() as u64, 0);
    connection.build_indexes(&collections, &meter).await?;
    connection.create_views(&collections).await?;
    report.indexes_took = meter.elapsed();
    Ok(())
}

impl Connection {
    async fn open(target: &MongoTarget, connections: usize) -> Result<Connection, LoadError> {
        let failed = |action: &str, error: mongodb::error::Error| LoadError::Mongo {
            action: action.to_owned(),
            message: without_secrets(&message(&error), &target.url),
        };
        let mut options =
            ClientOptions::parse(&target.url).await.map_err(|error| failed("read the MongoDB URL", error))?;
        options.max_pool_size = Some(u32::try_from(connections.max(INDEX_BUILDS) + 1).unwrap_or(u32::MAX));
        options.server_selection_timeout.get_or_insert(Duration::from_secs(10));
        options.app_name.get_or_insert_with(|| "marketplace".to_owned());
        let client = Client::with_options(options).map_err(|error| failed("read the MongoDB URL", error))?;
        Ok(Connection { database: client.database(&target.database), url: target.url.clone() })
    }

    async fn run(&self, action: impl FnOnce() -> String, command: Document) -> Result<Document, LoadError> {
        self.database.run_command(command).await.map_err(|error| self.failed(action(), &error))
    }

    fn failed(&self, action: String, error: &mongodb::error::Error) -> LoadError {
        LoadError::Mongo { action, message: without_secrets(&message(error), &self.url) }
    }

    /// Sees to it that none of the collections and views exists.
    async fn make_room(&self, collections: &[(Collection, u64)], drop: bool) -> Result<(), LoadError> {
        let existing = self
            .database
            .list_collection_names()
            .await
            .map_err(|error| self.failed("list the collections".to_owned(), &error))?;
        let existing: HashSet<String> = existing.into_iter().collect();
        let is_loaded = |view: &View| collections.iter().any(|(collection, _)| *collection == view.on);
        let views = View::all().into_iter().filter(is_loaded).map(|view| view.name);
        let wanted = views.chain(collections.iter().map(|(collection, _)| collection.name()));
        for name in wanted.filter(|name| existing.contains(*name)) {
            if !drop {
                let database = self.database.name().to_owned();
                return Err(LoadError::Exists { database, collection: name.to_owned() });
            }
            self.run(|| format!("drop {name}"), doc! { "drop": name }).await?;
        }
        Ok(())
    }

    /// Creates the collections; those with options that this server does not know are left out and returned.
    async fn create(&self, collections: &[(Collection, u64)]) -> Result<Vec<SkippedCollection>, LoadError> {
        let mut skipped = Vec::new();
        for &(collection, _) in collections {
            let mut command = doc! { "create": collection.name() };
            command.extend(collection.creation_options());
            let action = format!("create {}", collection.name());
            let created = self.database.run_command(command).await;
            match created {
                Ok(_) => {}
                Err(error) if collection.is_special() && is_refusal(&error) => {
                    skipped.push(SkippedCollection { collection, reason: message(&error) });
                }
                Err(error) => return Err(self.failed(action, &error)),
            }
        }
        Ok(skipped)
    }

    async fn insert(
        &self,
        collections: &[(Collection, u64)],
        options: &LoadOptions,
        meter: &Meter<'_>,
    ) -> Result<Vec<CollectionLoad>, LoadError> {
        let ranges =
            collections.iter().flat_map(|&(collection, count)| ranges(&options.sample, collection, count));
        let loads: Vec<CollectionLoad> = stream::iter(ranges)
            .map(|(collection, range)| self.insert_range(&options.sample, collection, range, meter))
            .buffer_unordered(options.connections.max(1))
            .try_collect()
            .await?;
        let mut sums = BTreeMap::new();
        for load in loads {
            let (documents, bytes) = sums.entry(load.collection).or_insert((0, 0));
            *documents += load.documents;
            *bytes += load.bytes;
        }
        Ok(sums
            .into_iter()
            .map(|(collection, (documents, bytes))| CollectionLoad { collection, documents, bytes })
            .collect())
    }

    /// Inserts a range of documents in order, one batch after another.
    async fn insert_range(
        &self,
        sample: &Sample,
        collection: Collection,
        range: Range<u64>,
        meter: &Meter<'_>,
    ) -> Result<CollectionLoad, LoadError> {
        let mut load = CollectionLoad { collection, documents: 0, bytes: 0 };
        let mut next = range.start;
        while next < range.end {
            let (sample, rest) = (sample.clone(), next..range.end);
            let batch = tokio::task::spawn_blocking(move || Batch::generate(&sample, collection, rest));
            let batch = batch.await.expect("generating a batch does not panic");
            let (documents, bytes) = (batch.documents, batch.bytes);
            let sent = self.database.run_raw_command(batch.command).await;
            let answer =
                sent.map_err(|error| self.failed(format!("insert into {}", collection.name()), &error))?;
            check_answer(collection, &answer)?;
            meter.add(documents, bytes);
            next += documents;
            load.documents += documents;
            load.bytes += bytes;
        }
        Ok(load)
    }

    /// Builds each collection's indexes in one command. The majority must have them, and with them the documents.
    async fn build_indexes(
        &self,
        collections: &[(Collection, u64)],
        meter: &Meter<'_>,
    ) -> Result<(), LoadError> {
        let builds = stream::iter(collections.iter().map(|(collection, _)| *collection)).map(
            |collection| async move {
                let indexes = collection.indexes();
                if !indexes.is_empty() {
                    let command = doc! {
                        "createIndexes": collection.name(),
                        "indexes": indexes,
                        "writeConcern": { "w": "majority" },
                    };
                    self.run(|| format!("build the indexes of {}", collection.name()), command).await?;
                }
                meter.add(1, 0);
                Ok(())
            },
        );
        builds.buffer_unordered(INDEX_BUILDS).try_collect().await
    }

    async fn create_views(&self, collections: &[(Collection, u64)]) -> Result<(), LoadError> {
        for view in View::all() {
            if collections.iter().any(|(collection, _)| *collection == view.on) {
                let command =
                    doc! { "create": view.name, "viewOn": view.on.name(), "pipeline": view.pipeline };
                self.run(|| format!("create view {}", view.name), command).await?;
            }
        }
        Ok(())
    }
}

/// Cuts a collection into ranges of a few batches each.
fn ranges(sample: &Sample, collection: Collection, count: u64) -> Vec<(Collection, Range<u64>)> {
    const RANGE_BYTES: u64 = 2 * BATCH_BYTES as u64;
    let parts = if collection.is_ordered() {
        1
    } else {
        sample.estimated_bytes(collection, count).div_ceil(RANGE_BYTES).max(1)
    };
    let cut = |part: u64| {
        u64::try_from(u128::from(count) * u128::from(part) / u128::from(parts)).expect("a part of a count")
    };
    (0..parts)
        .map(|part| (collection, cut(part)..cut(part + 1)))
        .filter(|(_, range)| !range.is_empty())
        .collect()
}

/// An `insert` command and what it holds.
struct Batch {
    command: RawDocumentBuf,
    documents: u64,
    bytes: u64,
}

impl Batch {
    /// Takes documents from the front of a range until the batch is full.
    fn generate(sample: &Sample, collection: Collection, range: Range<u64>) -> Batch {
        let mut buffer = Vec::with_capacity(BATCH_BYTES + (128 << 10));
        let (mut documents, mut bytes) = (0, 0);
        writer::write_document(&mut buffer, |f| {
            f.string("insert", collection.name());
            f.boolean("ordered", collection.is_ordered());
            f.document("writeConcern", |f| f.int32("w", 1));
            f.array("documents", |items| {
                for index in range.take(BATCH_DOCUMENTS as usize) {
                    items.raw_document(|buffer| {
                        let before = buffer.len();
                        sample.write_document(collection, index, buffer);
                        bytes += buffer.len() - before;
                    });
                    documents += 1;
                    if bytes >= BATCH_BYTES {
                        break;
                    }
                }
            });
        });
        let command = RawDocumentBuf::from_bytes(buffer).expect("the writer frames its documents");
        Batch { command, documents, bytes: bytes as u64 }
    }
}

/// The server answers `ok: 1` even when it refused documents.
fn check_answer(collection: Collection, answer: &Document) -> Result<(), LoadError> {
    let Ok(errors) = answer.get_array("writeErrors") else { return Ok(()) };
    let first =
        errors.first().and_then(|error| error.as_document()).and_then(|error| error.get_str("errmsg").ok());
    let message = first.unwrap_or("no reason given").to_owned();
    Err(LoadError::Documents { collection: collection.name(), refused: errors.len(), message })
}

/// Whether the server does not know, or not allow here, what a `create` asks for.
///
/// Source: `error_codes.yml` of the server. 2 BadValue, 9 FailedToParse, 20 IllegalOperation, 72 InvalidOptions,
/// 115 CommandNotSupported, 238 NotImplemented, 40415 unknown field, 51024 value out of its range.
fn is_refusal(error: &mongodb::error::Error) -> bool {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => {
            matches!(command.code, 2 | 9 | 20 | 72 | 115 | 238 | 40_415 | 51_024)
        }
        _ => false,
    }
}

fn message(error: &mongodb::error::Error) -> String {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => format!("{} ({})", command.message, command.code_name),
        kind => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scale;
    use jiff::Timestamp;

    #[test]
    fn ranges_cover_each_document_once() {
        let sample = Sample::new(1, Scale::ONE, Timestamp::UNIX_EPOCH);
        for collection in Collection::ALL {
            let count = sample.count(collection);
            let ranges = ranges(&sample, collection, count);
            let mut next = 0;
            for (_, range) in &ranges {
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, count);
            assert!(ranges.len() == 1 || !collection.is_ordered());
        }
    }

    #[test]
    fn a_batch_is_an_insert_command() {
        let sample = Sample::new(1, Scale::ONE, Timestamp::UNIX_EPOCH);
        let batch = Batch::generate(&sample, Collection::Users, 5..8);
        let command: Document =
            bson::deserialize_from_slice(batch.command.as_bytes()).expect("a valid document");
        assert_eq!(command.get_str("insert").ok(), Some("users"));
        let documents = command.get_array("documents").expect("an array of documents");
        assert_eq!((documents.len(), batch.documents), (3, 3));
        let sixth: Document = bson::deserialize_from_slice(sample.document(Collection::Users, 6).as_bytes())
            .expect("a valid document");
        let found = documents[1].as_document().expect("a document");
        assert_eq!(found.get("_id"), sixth.get("_id"));
    }

    #[test]
    fn refused_documents_are_an_error() {
        assert!(check_answer(Collection::Users, &doc! { "ok": 1, "n": 3 }).is_ok());
        let answer = doc! { "ok": 1, "n": 2, "writeErrors": [{ "index": 0, "errmsg": "duplicate key" }] };
        let error = check_answer(Collection::Users, &answer).expect_err("a document was refused");
        assert_eq!(
            error.to_string(),
            "insert into users: 1 documents refused, the first with: duplicate key"
        );
    }
}
