//! Reading a whole collection at one moment, as bytes.
//!
//! * [`bounds`] says what a range is and how it is written into a journal.
//! * [`split`] divides a collection into ranges of similar size.
//! * [`crate::page`] takes a reply apart: one batch of documents, contiguous, without decoding them.
//! * [`stream`] drives a cursor over one connection, ahead of its consumer, and continues it on another connection when the first breaks.
//!
//! A replica set is read at one cluster time T: `find` with `readConcern: {level: "snapshot", atClusterTime: T}`, which servers from 5.0
//! take outside sessions too (MongoDB manual, "Read Concern snapshot"). No session is used: a cursor without one does not die with its
//! session after thirty minutes. T is the operation time of the primary when the snapshot was taken, so that everything acknowledged
//! before is in it; `hello` tells it to every user. The server keeps the history of `minSnapshotHistoryWindowInSeconds` (300 by default);
//! a scan that takes longer fails with `SnapshotTooOld`.
//!
//! The server refuses T for capped collections and for those created or changed after T. Such a collection is read as it is while the scan
//! runs, and says so. A standalone server has no T at all.

mod bounds;
mod split;
mod stream;

use async_trait::async_trait;
use bson::{RawDocumentBuf, Timestamp, rawdoc};
use mainstay_engine::{
    CollectionInfo, CollectionKind, Consistency, DocumentStream, Namespace, PreparedScan, ScanRange,
    Snapshot, SnapshotRequest,
};
use mainstay_model::{Error, ErrorKind, Result};

use crate::error::code;
use crate::metadata::Metadata;
use crate::server::MongoServer;
use crate::topology::{Topology, optime};
use bounds::Bounds;
use stream::{CursorPlan, MongoStream};

/// What every `find` of one scan has in common.
#[derive(Debug, Clone)]
struct ScanTarget {
    /// The namespace that holds the documents.
    namespace: Namespace,
    /// The moment, if there is one.
    at: Option<Timestamp>,
}

impl ScanTarget {
    /// The read concern of every command of the scan.
    fn read_concern(&self) -> Option<RawDocumentBuf> {
        self.at.map(|at| rawdoc! { "level": "snapshot", "atClusterTime": at })
    }
}

/// A moment of a deployment. See the module's text for what it promises.
pub(crate) struct MongoSnapshot {
    server: MongoServer,
    topology: Topology,
    at: Option<Timestamp>,
    consistency: Consistency,
}

impl MongoSnapshot {
    /// Fixes a moment: the primary's operation time, when the deployment has one and the request wants one.
    pub(crate) async fn take(server: MongoServer, request: SnapshotRequest) -> Result<Self> {
        let hello = server.hello().await?;
        let topology = Topology::of(&hello);
        let moment = match request {
            SnapshotRequest::DuringScan => Err("reading without one moment was asked for".to_owned()),
            SnapshotRequest::Best | SnapshotRequest::ClusterTime => topology.moment(&hello),
        };
        let (at, consistency) = match moment {
            Ok(at) => (Some(at), cluster_time(at)),
            Err(reason) if request == SnapshotRequest::ClusterTime => {
                return Err(Error::new(ErrorKind::Precondition, format!("one moment for all collections cannot be had: {reason}"))
                    .with_state("nothing was read")
                    .with_hint("make the server a replica set of one node (replication.replSetName, then rs.initiate()), or read with `--consistency scan`"));
            }
            Err(reason) => (None, Consistency::DuringScan { reason }),
        };
        Ok(Self { server, topology, at, consistency })
    }

    /// The moment the server grants this collection: the snapshot's, or a reason why not.
    async fn grant(&self, namespace: &Namespace) -> Result<Result<Option<Timestamp>, String>> {
        let Some(at) = self.at else { return Ok(Ok(None)) };
        let mut probe = rawdoc! {
            "find": namespace.collection.as_str(), "limit": 1, "singleBatch": true, "projection": { "_id": 1 },
        };
        let target = ScanTarget { namespace: namespace.clone(), at: Some(at) };
        if let Some(read_concern) = target.read_concern() {
            probe.append(bson::cstr!("readConcern"), read_concern);
        }
        match self.server.ask_unless(code::SNAPSHOT_UNAVAILABLE, &namespace.database, probe).await? {
            Some(_) => Ok(Ok(Some(at))),
            None => Ok(Err(format!("the server has no history of {namespace} at {}", optime(at)))),
        }
    }
}

#[async_trait]
impl Snapshot for MongoSnapshot {
    fn consistency(&self) -> &Consistency {
        &self.consistency
    }

    async fn prepare(&self, collection: &CollectionInfo, ranges_max: usize) -> Result<PreparedScan> {
        let namespace = collection.data_namespace();
        let (at, consistency) = match self.grant(&namespace).await? {
            Ok(Some(at)) => (Some(at), cluster_time(at)),
            Ok(None) => (None, self.consistency.clone()),
            Err(_) if collection.capped => (
                None,
                Consistency::DuringScan {
                    reason: "the server keeps no history of capped collections".to_owned(),
                },
            ),
            Err(reason) => (None, Consistency::DuringScan { reason }),
        };
        let target = ScanTarget { namespace, at };
        let bounds = split::split(&self.server, &self.topology, &target, collection, ranges_max).await?;
        let ranges = bounds
            .iter()
            .zip(0_u32..)
            .map(|(bounds, ordinal)| ScanRange { ordinal, bounds: bounds.to_json() })
            .collect();
        Ok(PreparedScan { consistency, ranges })
    }

    async fn scan(
        &self,
        collection: &CollectionInfo,
        prepared: &PreparedScan,
        range: &ScanRange,
    ) -> Result<Box<dyn DocumentStream>> {
        let at = match &prepared.consistency {
            Consistency::ClusterTime { at } => Some(Timestamp { time: at.seconds, increment: at.increment }),
            Consistency::DuringScan { .. } => None,
        };
        let target = ScanTarget { namespace: collection.data_namespace(), at };
        let bounds = Bounds::from_json(&range.bounds)?;
        let plan = CursorPlan {
            target,
            bounds,
            resumable: self.topology.keeps_order(),
            collation: collation_of(collection)?,
            document_bytes: average_bytes(collection),
        };
        Ok(Box::new(MongoStream::begin(self.server.clone(), plan)))
    }
}

/// The collection's default collation: a `find` with `min` and `max` must name the one of the index it walks. Buckets have none of their own.
fn collation_of(collection: &CollectionInfo) -> Result<Option<RawDocumentBuf>> {
    if collection.kind != CollectionKind::Collection {
        return Ok(None);
    }
    Ok(Metadata::parse(&collection.metadata)?.collation().map(ToOwned::to_owned))
}

/// The average size of a document, as far as the server's estimate tells.
fn average_bytes(collection: &CollectionInfo) -> u64 {
    collection
        .estimate
        .bytes
        .checked_div(collection.estimate.items)
        .filter(|bytes| *bytes > 0)
        .unwrap_or(1_024)
}

fn cluster_time(at: Timestamp) -> Consistency {
    Consistency::ClusterTime { at: optime(at) }
}
