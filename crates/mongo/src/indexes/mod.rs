//! The indexes of a running deployment: read, watched while they are built, changed.
//!
//! Relies on MongoDB 6.0, whose answers were seen, and on 7.0 and 8.0 as documented: `listIndexes` tells what is being built only when it is
//! asked to (`includeBuildUUIDs`), `collMod` converts to unique in place, `$indexStats` is each member's own. Refuses to change anything
//! without a permit of an index or init operation for this very server. Every error names the collection, the index, the server's code and
//! what to do next.

mod builds;
mod change;
mod list;
mod ttl;
mod usage;

use std::time::Duration;

use async_trait::async_trait;
use bson::{RawDocumentBuf, rawdoc};
use mainstay_engine::{
    AggregateRequest, CommitQuorum, DiskRoom, IndexBuild, IndexCatalog, IndexChange, IndexControl,
    IndexedCollection, Namespace, TtlMonitor, UniqueVerdict, UsageReport,
};
use mainstay_guard::Permit;
use mainstay_indexes::Json;
use mainstay_model::{Error, ErrorKind, ErrorStatus, Result, ResultExt, Timestamp};

use crate::error::{code, driver_code};
use crate::extjson::{self, ExtJsonError};
use crate::metadata::array;
use crate::reply::number;
use crate::server::MongoServer;

#[async_trait]
impl IndexCatalog for MongoServer {
    async fn indexed_collections(&self, database: &str) -> Result<Vec<IndexedCollection>> {
        list::collections(self, database).await.with_context(|| format!("list the indexes of {database}"))
    }

    async fn indexed_collection(&self, namespace: &Namespace) -> Result<Option<IndexedCollection>> {
        list::collection(self, namespace).await.with_context(|| format!("list the indexes of {namespace}"))
    }

    async fn index_builds(&self, database: Option<&str>) -> Result<Vec<IndexBuild>> {
        builds::under_way(self, database).await.context("read the index builds under way")
    }

    async fn index_usage(&self, namespaces: &[Namespace]) -> Result<UsageReport> {
        usage::of_members(self, namespaces).await.with_context(|| match namespaces {
            [one] => format!("read who uses the indexes of {one}"),
            several => format!("read who uses the indexes of {} collections", several.len()),
        })
    }

    async fn aggregate(&self, namespace: &Namespace, request: &AggregateRequest) -> Result<Vec<Json>> {
        aggregate(self, namespace, request).await.with_context(|| format!("look into {namespace}"))
    }

    async fn disk_room(&self, database: &str) -> Result<Option<DiskRoom>> {
        match self.ask(database, rawdoc! { "dbStats": 1 }).await {
            Ok(stats) => {
                let (total, used) = (number(&stats, "fsTotalSize"), number(&stats, "fsUsedSize"));
                let room = |(total, used): (u64, u64)| DiskRoom {
                    total_bytes: total,
                    free_bytes: total.saturating_sub(used),
                };
                Ok(total.zip(used).map(room))
            }
            Err(error) if error.kind() == ErrorKind::Auth => Ok(None),
            Err(error) => Err(error.context(format!("read the size of {database}"))),
        }
    }

    async fn server_time(&self) -> Result<Timestamp> {
        ttl::local_time(&self.hello().await?).context("read the server's clock")
    }

    async fn ttl_monitor(&self) -> Result<TtlMonitor> {
        ttl::monitor(self).await.context("read the monitor of expiries")
    }
}

#[async_trait]
impl IndexControl for MongoServer {
    async fn create_indexes(
        &self,
        namespace: &Namespace,
        definitions: &[Json],
        quorum: Option<&CommitQuorum>,
        permit: &Permit,
    ) -> Result<()> {
        let building = async {
            self.authorize_indexing(permit).await?;
            change::create(self, namespace, definitions, quorum).await
        };
        let names: Vec<&str> =
            definitions.iter().filter_map(|definition| definition.get("name")?.text()).collect();
        building.await.with_context(|| format!("build {} of {namespace}", names.join(", ")))
    }

    async fn change_index(
        &self,
        namespace: &Namespace,
        index: &str,
        change: IndexChange,
        permit: &Permit,
    ) -> Result<()> {
        let changing = async {
            self.authorize_indexing(permit).await?;
            change::modify(self, namespace, index, change).await
        };
        changing.await.with_context(|| format!("change {index} of {namespace}"))
    }

    async fn try_unique(&self, namespace: &Namespace, index: &str) -> Result<UniqueVerdict> {
        change::try_unique(self, namespace, index)
            .await
            .with_context(|| format!("ask whether {index} of {namespace} could be unique"))
    }

    async fn drop_index(&self, namespace: &Namespace, index: &str, permit: &Permit) -> Result<bool> {
        let dropping = async {
            self.authorize_indexing(permit).await?;
            change::drop_index(self, namespace, index).await
        };
        dropping.await.with_context(|| format!("drop {index} of {namespace}"))
    }
}

/// Runs an aggregation that reads, to its end.
async fn aggregate(
    server: &MongoServer,
    namespace: &Namespace,
    request: &AggregateRequest,
) -> Result<Vec<Json>> {
    let limit = i64::try_from(request.results_max).unwrap_or(i64::MAX - 1) + 1;
    let mut stages: Vec<RawDocumentBuf> = request.pipeline.iter().map(document).collect::<Result<_>>()?;
    stages.push(rawdoc! { "$limit": limit });
    let millis = i64::try_from(request.time_max.as_millis()).unwrap_or(i64::MAX).max(1);
    let mut command = rawdoc! {
        "aggregate": namespace.collection.as_str(), "pipeline": array(&stages), "cursor": {}, "maxTimeMS": millis,
        "allowDiskUse": true, "comment": "mainstay index",
    };
    let collation = request
        .collation
        .as_ref()
        .map_or_else(|| Ok(rawdoc! { "locale": "simple" }), |collation| document(&collation.document()))?;
    command.append(bson::cstr!("collation"), collation);
    if let Some(hint) = &request.hint {
        command.append(bson::cstr!("hint"), hint.as_str());
    }
    // Told once: what took too long takes as long the next time.
    let found = match server.driver_list(&namespace.database, command).await {
        Ok(found) => found,
        Err(error) if driver_code(&error) == Some(code::TIME_OVER) => return Err(too_long(request.time_max)),
        Err(error) => return Err(server.explain(error).await),
    };
    if found.len() > request.results_max {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("there are more than {} results", request.results_max),
        ));
    }
    found.iter().map(|document| json(document)).collect()
}

fn too_long(bound: Duration) -> Error {
    // Temporary by the server's meaning, but asking again at once would only load it again: by this status callers know what lacked time alone.
    Error::new(ErrorKind::Server, format!("it was not answered within {bound:?} (MaxTimeMSExpired, code 50)"))
        .with_status(ErrorStatus::Persistent)
        .with_hint("run the same command again when the server has less to do: `mainstay mongo ops` shows what it does")
}

/// A document of the server as JSON in order.
pub(crate) fn json(document: &bson::RawDocument) -> Result<Json> {
    let read = |document| Json::parse(&extjson::document_text(document)?).map_err(ExtJsonError::from);
    read(document).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("the server told a document that is not readable: {error}"))
    })
}

/// JSON as a document for the server.
pub(crate) fn document(json: &Json) -> Result<RawDocumentBuf> {
    let refuse = |what: String| Error::new(ErrorKind::Usage, format!("no document for the server: {what}"));
    let bytes = extjson::to_bson(json).map_err(|error| refuse(error.to_string()))?;
    RawDocumentBuf::from_bytes(bytes).map_err(|error| refuse(error.to_string()))
}
