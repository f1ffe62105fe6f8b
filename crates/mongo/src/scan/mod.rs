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
//! before is in it; `hello` tells it to every user. Before T is used the majority must have committed it: no election takes it back then,
//! and every member can be read at it. The server keeps the history of `minSnapshotHistoryWindowInSeconds` (300 by default); a scan that
//! takes longer fails with `SnapshotTooOld`, told as [`ScanSetback::HistoryPassed`].
//!
//! # Members
//! Record ids are not replicated: each member numbers its records by itself. All ranges in storage order are therefore places in the
//! storage of one member, named in them, and are read from that member alone, as primary or as secondary: an election in the middle of a
//! scan changes nothing. Once that member is gone, [`ScanSetback::RangesLost`] says that the ranges have to be prepared anew, which is done
//! on another member at the same T. The member is the primary, or a secondary when the connection string's `readPreference` says so.
//!
//! The server refuses T for capped collections and for those created or changed after T. Such a collection is read as it is while the scan
//! runs, and says so: from the primary, nothing that a majority has not committed, and everything up to the moment the scan began. A
//! standalone server has no T at all.
//!
//! # Routers
//! A mongos takes T and hands it to every shard, but merges their cursors in no order and knows no record ids: its ranges follow `_id`, and
//! none can be continued after its first batch. [`Snapshot::limits`] says so.

mod bounds;
mod split;
mod stream;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bson::{Document, RawDocumentBuf, Timestamp, rawdoc};
use mainstay_engine::{
    CollectionInfo, CollectionKind, Consistency, DocumentStream, Namespace, PreparedScan, PressureGauge,
    ScanRange, ScanSetback, Snapshot, SnapshotRequest,
};
use mainstay_model::{Error, ErrorKind, OpTime, Result};

use crate::error::code;
use crate::metadata::Metadata;
use crate::pressure::MongoGauge;
use crate::server::MongoServer;
use crate::topology::{Topology, majority_moment, optime};
use bounds::Bounds;
use stream::{CursorPlan, MongoStream};

/// What every `find` of one scan has in common.
#[derive(Debug, Clone)]
struct ScanTarget {
    /// The namespace that holds the documents.
    namespace: Namespace,
    /// The moment, if there is one.
    at: Option<Timestamp>,
    /// Without a moment: what the documents must show at least, where there is an order of operations.
    not_before: Option<Timestamp>,
}

impl ScanTarget {
    /// The documents of `namespace`, at the moment if there is one.
    fn at(namespace: Namespace, at: Option<Timestamp>) -> Self {
        Self { namespace, at, not_before: None }
    }

    /// The read concern of every command of the scan.
    fn read_concern(&self) -> Option<RawDocumentBuf> {
        match (self.at, self.not_before) {
            (Some(at), _) => Some(rawdoc! { "level": "snapshot", "atClusterTime": at }),
            (None, Some(after)) => Some(rawdoc! { "level": "majority", "afterClusterTime": after }),
            (None, None) => None,
        }
    }
}

/// `$readPreference` of commands to a member that may be a secondary, or become one.
fn any_member() -> RawDocumentBuf {
    rawdoc! { "mode": "secondaryPreferred" }
}

/// How long a majority may take to commit the moment.
const MAJORITY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Between two looks whether it has.
const MAJORITY_LOOK_EVERY: Duration = Duration::from_millis(10);

/// A moment of a deployment. See the module's text for what it promises.
pub(crate) struct MongoSnapshot {
    server: MongoServer,
    topology: Topology,
    at: Option<Timestamp>,
    consistency: Consistency,
    /// The member that is read at the moment; another once it is gone.
    member: Mutex<Option<String>>,
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
        let consistency = match moment {
            Ok(at) => {
                await_majority(&server, &topology, &hello, at).await?;
                cluster_time(at)
            }
            Err(reason) if request == SnapshotRequest::ClusterTime => {
                return Err(Error::new(ErrorKind::Precondition, format!("one moment for all collections cannot be had: {reason}"))
                    .with_state("nothing was read")
                    .with_hint("make the server a replica set of one node (replication.replSetName, then rs.initiate()), or read with `--consistency scan`"));
            }
            Err(reason) => Consistency::DuringScan { reason },
        };
        Self::of(server, topology, &hello, consistency).await
    }

    /// The moment of an earlier snapshot; `None` when its history has passed, as far as `near` shows.
    pub(crate) async fn again(
        server: MongoServer,
        consistency: &Consistency,
        near: &CollectionInfo,
    ) -> Result<Option<Self>> {
        let hello = server.hello().await?;
        let snapshot = Self::of(server, Topology::of(&hello), &hello, consistency.clone()).await?;
        match snapshot.grant(&near.data_namespace()).await {
            Ok(Ok(_)) => Ok(Some(snapshot)),
            Ok(Err(_)) => Ok(None),
            Err(error) if ScanSetback::of(&error) == Some(ScanSetback::HistoryPassed) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn of(
        server: MongoServer,
        topology: Topology,
        hello: &Document,
        consistency: Consistency,
    ) -> Result<Self> {
        let at = moment_of(&consistency);
        let member = match at {
            Some(_) if topology.has_members() => server.reading_member(hello).await?,
            _ => None,
        };
        Ok(Self { server, topology, at, consistency, member: Mutex::new(member) })
    }

    fn member(&self) -> Option<String> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Chooses the member to read anew, after the one before did not answer.
    async fn renew_member(&self) -> Result<Option<String>> {
        let hello = self.server.hello().await?;
        let member = self.server.reading_member(&hello).await?;
        self.member.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&member);
        Ok(member)
    }

    /// The moment the server grants this collection: the snapshot's, or a reason why not.
    async fn grant(&self, namespace: &Namespace) -> Result<Result<Option<Timestamp>, String>> {
        let Some(at) = self.at else { return Ok(Ok(None)) };
        let mut probe = rawdoc! {
            "find": namespace.collection.as_str(), "limit": 1, "singleBatch": true, "projection": { "_id": 1 },
        };
        let target = ScanTarget::at(namespace.clone(), Some(at));
        if let Some(read_concern) = target.read_concern() {
            probe.append(bson::cstr!("readConcern"), read_concern);
        }
        match self.server.ask_unless(code::SNAPSHOT_UNAVAILABLE, &namespace.database, probe).await? {
            Some(_) => Ok(Ok(Some(at))),
            None => Ok(Err(format!("the server has no history of {namespace} at {}", optime(at)))),
        }
    }

    /// The ranges of a collection on the member that is read; on another one when that does not answer.
    async fn split(
        &self,
        target: &ScanTarget,
        collection: &CollectionInfo,
        ranges_max: usize,
    ) -> Result<Vec<Bounds>> {
        let member = target.at.and_then(|_| self.member());
        let (server, topology) = (&self.server, &self.topology);
        match split::split(server, topology, target, collection, ranges_max, member.as_deref()).await {
            Err(error) if error.kind() == ErrorKind::Unreachable && member.is_some() => {
                let other = self.renew_member().await?;
                split::split(server, topology, target, collection, ranges_max, other.as_deref()).await
            }
            outcome => outcome,
        }
    }
}

/// Waits until a majority has committed `at`: what only some members have, an election may take back.
async fn await_majority(
    server: &MongoServer,
    topology: &Topology,
    hello: &Document,
    at: Timestamp,
) -> Result<()> {
    if !topology.has_members() || majority_moment(hello).is_none_or(|committed| committed >= at) {
        return Ok(());
    }
    let deadline = Instant::now() + MAJORITY_WAIT_MAX;
    while Instant::now() < deadline {
        tokio::time::sleep(MAJORITY_LOOK_EVERY).await;
        if majority_moment(&server.hello().await?).is_some_and(|committed| committed >= at) {
            return Ok(());
        }
    }
    Err(Error::new(
        ErrorKind::Unreachable,
        format!("no majority of the replica set has committed the moment {} within 30 s", optime(at)),
    )
    .with_state("nothing was read")
    .with_hint("a majority does not follow; look at rs.status(), then run the same command again"))
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
        let target = ScanTarget::at(namespace, at);
        let bounds = self.split(&target, collection, ranges_max).await?;
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
        let bounds = Bounds::from_json(&range.bounds)?;
        let at = moment_of(&prepared.consistency);
        let mut target = ScanTarget::at(collection.data_namespace(), at);
        let mut member = None;
        if at.is_some() {
            member = bounds.member().map(str::to_owned).or_else(|| self.member());
        } else if self.topology.has_members() {
            target.not_before = self.topology.moment(&self.server.hello().await?).ok();
        }
        let plan = CursorPlan {
            target,
            bounds,
            resumable: self.topology.keeps_order(),
            member,
            collation: collation_of(collection)?,
            document_bytes: average_bytes(collection),
            documents_expected: collection.estimate.items > 0,
        };
        Ok(Box::new(MongoStream::begin(self.server.clone(), plan)))
    }

    fn limits(&self) -> Vec<String> {
        if self.topology != Topology::Mongos {
            return Vec::new();
        }
        vec![
            "read through a mongos: large collections are divided by `_id`, and a range whose connection breaks cannot be continued, only read anew"
                .to_owned(),
            "shard keys, chunks and zones are not kept: a restore makes unsharded collections".to_owned(),
        ]
    }

    fn gauge(&self, near: &CollectionInfo) -> Box<dyn PressureGauge> {
        Box::new(MongoGauge::new(self.server.clone(), self.member(), near.data_namespace()))
    }
}

/// The cluster time of a consistency that is one moment.
fn moment_of(consistency: &Consistency) -> Option<Timestamp> {
    match consistency {
        Consistency::ClusterTime { at: OpTime { seconds, increment } } => {
            Some(Timestamp { time: *seconds, increment: *increment })
        }
        Consistency::DuringScan { .. } => None,
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
