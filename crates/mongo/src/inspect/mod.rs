//! Looking into a running deployment: counts, sizes, the profiler, slow and current operations, locks.
//!
//! Relies on the replies of MongoDB 6.0, which were seen, and of 7.0 and 8.0 as documented; where those moved a field, its presence is asked
//! for and never the version. Refuses to write anything but profiler settings and `killOp`, each under a permit, and to speak of one server
//! where a mongos stands in front of many: profiler, log, locks and tickets are each shard's own.

mod command;
mod contention;
mod profiler;
mod running;
mod slow;
mod statistics;

use async_trait::async_trait;
use bson::{Document, RawDocumentBuf};
use mainstay_engine::{
    CollectionKind, CollectionStatistics, Contention, CountRequest, Inspection, Namespace, Profiler,
    ProfilerSettings, RunningOperation, SlowOperations, SlowRequest,
};
use mainstay_guard::Permit;
use mainstay_model::{Error, ErrorKind, Result, ResultExt};

use crate::server::MongoServer;
use crate::topology::Topology;

pub(crate) use running::id as operation_id;

#[async_trait]
impl Inspection for MongoServer {
    async fn count(&self, namespace: &Namespace, request: &CountRequest) -> Result<u64> {
        statistics::count(self, namespace, request).await.with_context(|| format!("count {namespace}"))
    }

    async fn statistics(&self, namespace: &Namespace, kind: CollectionKind) -> Result<CollectionStatistics> {
        statistics::statistics(self, namespace, kind)
            .await
            .with_context(|| format!("read the statistics of {namespace}"))
    }

    async fn profiler(&self, database: &str) -> Result<Profiler> {
        profiler::read(self, database).await.with_context(|| format!("read the profiler of {database}"))
    }

    async fn set_profiler(&self, database: &str, settings: &ProfilerSettings, permit: &Permit) -> Result<()> {
        let setting = async {
            self.authorize(permit, "mongo.profile").await?;
            profiler::write(self, database, settings).await
        };
        setting.await.with_context(|| format!("set the profiler of {database}"))
    }

    async fn slow_operations(&self, database: &str, request: &SlowRequest) -> Result<SlowOperations> {
        slow::operations(self, database, request)
            .await
            .with_context(|| format!("read the slow operations of {database}"))
    }

    async fn running_operations(&self) -> Result<Vec<RunningOperation>> {
        running::operations(self).await.context("read the current operations")
    }

    async fn kill(&self, operation: &str, permit: &Permit) -> Result<()> {
        let killing = async {
            self.authorize(permit, "mongo.ops.kill").await?;
            running::kill(self, operation).await
        };
        killing.await.with_context(|| format!("kill operation {operation}"))
    }

    async fn contention(&self) -> Result<Contention> {
        contention::read(self).await.context("read locks and queues")
    }
}

/// A right that a question needs.
pub(crate) struct Right {
    /// The action, and on what.
    pub(crate) action: &'static str,
    /// A role that has it, and on which database.
    pub(crate) role: &'static str,
    pub(crate) on: &'static str,
}

/// Asks what needs `right`; an answer that it is lacking names it.
pub(crate) async fn ask(
    server: &MongoServer,
    database: &str,
    command: RawDocumentBuf,
    right: &Right,
) -> Result<Document> {
    server.ask(database, command).await.map_err(|error| lacking(error, right))
}

/// As [`ask`], for what gives a cursor.
pub(crate) async fn list(
    server: &MongoServer,
    database: &str,
    command: RawDocumentBuf,
    right: &Right,
) -> Result<Vec<RawDocumentBuf>> {
    server.list(database, command).await.map_err(|error| lacking(error, right))
}

/// An error that says what is lacking, with the right that has it.
pub(crate) fn lacking(error: Error, right: &Right) -> Error {
    // Refused credentials are another matter, and carry their own hint.
    if error.kind() != ErrorKind::Auth || !error.message().starts_with("the user lacks") {
        return error;
    }
    let Right { action, role, on } = right;
    error.with_hint(format!(
        "this needs {action}, which the role {role} has: db.getSiblingDB(\"admin\").grantRolesToUser(USER, [{{role: \"{role}\", db: {on}}}])"
    ))
}

/// Refuses a mongos for what every shard has of its own.
pub(crate) async fn single_server(server: &MongoServer, what: &str) -> Result<Document> {
    let hello = server.hello().await?;
    if Topology::of(&hello) == Topology::Mongos {
        return Err(Error::new(ErrorKind::Unsupported, format!("a mongos has no {what}: each shard has its own"))
            .with_hint("name a shard's server: `--mongo-url 'mongodb://SHARD:27018/?directConnection=true'`, once for each shard (db.adminCommand({listShards: 1}) names them)"));
    }
    Ok(hello)
}

/// The text at `key`; empty when it is not there.
pub(crate) fn text(document: &Document, key: &str) -> String {
    document.get_str(key).unwrap_or_default().to_owned()
}

/// The text at `key`, unless it is empty.
fn some_text(document: &Document, key: &str) -> Option<String> {
    document.get_str(key).ok().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The document at `key`; an empty one when it is not there.
pub(crate) fn section(document: &Document, key: &str) -> Document {
    document.get_document(key).cloned().unwrap_or_default()
}

/// A line of the server's log. For fuzzers.
pub(crate) fn exercise_line(line: &str) {
    let _ = slow::of_line(line);
}

/// An entry of the profiler. For fuzzers.
pub(crate) fn exercise_profile(entry: RawDocumentBuf) {
    let _ = slow::of_profile(entry);
}

/// A document where a report on operations, locks or sizes was expected. For fuzzers.
pub(crate) fn exercise_document(document: &Document) {
    drop(running::operation(document));
    drop(contention::of_status(document));
    drop(contention::queues(document));
    statistics::add(&mut CollectionStatistics::default(), document);
}
