//! Dividing a collection into ranges of similar size.
//!
//! Samples of `_id` taken by the server (`$sample` with a random cursor, so its cost does not grow with the collection) stand for the
//! collection; every so-manieth is a cut. At a cluster time the cuts become boundaries in storage order, which costs the server half of
//! what an index scan costs. Without one a boundary could be deleted before a scan reaches it, so the ranges follow the index on `_id`.
//!
//! Small and capped collections stay whole (a capped one is a sequence), and so does whatever the server cannot sample. Without a moment a
//! whole collection is read in the order of `_id`, too: in storage order a document that is deleted and inserted again while the scan runs
//! would be met twice, and a restore could not put both in place.

use bson::{RawArrayBuf, RawBsonRef, RawDocumentBuf, rawdoc};
use mainstay_engine::{CollectionInfo, CollectionKind};
use mainstay_model::{Error, ErrorKind, Result};

use super::bounds::{Boundary, Bounds, Exact, RecordId};
use super::{ScanTarget, any_member};
use crate::metadata::array;
use crate::page::list_on;
use crate::raw;
use crate::server::MongoServer;
use crate::topology::Topology;
use crate::wire::Connection;

/// Collections below this size stay whole: one cursor is done with them before a second is open.
const WHOLE_BELOW_BYTES: u64 = 64 * 1024 * 1024;

/// No range is meant to be smaller.
const RANGE_BYTES_MIN: u64 = 32 * 1024 * 1024;

/// Samples per range: the sizes of ranges then differ by a quarter or so.
const SAMPLES_PER_RANGE: usize = 24;

/// Beyond so many ranges their sizes even out over all of them, and fewer samples do.
const MANY_RANGES: usize = 16;

/// Samples per range then: sizes differ by a third or so.
const SAMPLES_PER_RANGE_OF_MANY: usize = 8;

/// The ranges of a collection: disjoint, together the whole, at most `ranges_max`.
pub(super) async fn split(
    server: &MongoServer,
    topology: &Topology,
    target: &ScanTarget,
    collection: &CollectionInfo,
    ranges_max: usize,
    member: Option<&str>,
) -> Result<Vec<Bounds>> {
    let wanted = range_count(collection.estimate.bytes, ranges_max);
    let by_id = target.at.is_none() && !collection.capped && !is_stored_by_id(collection);
    if wanted < 2 || collection.capped {
        return Ok(vec![if by_id { Bounds::WHOLE_BY_ID } else { Bounds::WHOLE }]);
    }
    let samples = sample_count(wanted, collection.estimate.items);
    if target.at.is_some() && topology.keeps_order() {
        let mut lookup = Lookup::open(server, member).await?;
        Ok(Bounds::natural(boundaries(&mut lookup, target, wanted, samples).await?, member))
    } else {
        Ok(Bounds::index(index_cuts(server, target, wanted, samples).await?))
    }
}

/// Whether storage order is that of `_id`, so that a document that is deleted and inserted again is not met twice.
fn is_stored_by_id(collection: &CollectionInfo) -> bool {
    collection.clustered || collection.kind == CollectionKind::TimeSeries
}

fn range_count(bytes: u64, ranges_max: usize) -> usize {
    if bytes < WHOLE_BELOW_BYTES {
        return 1;
    }
    usize::try_from(bytes / RANGE_BYTES_MIN).unwrap_or(usize::MAX).min(ranges_max)
}

/// How many samples tell where to cut. Beyond a twentieth of all documents the server would scan the collection for them.
fn sample_count(ranges: usize, documents: u64) -> usize {
    let per_range = if ranges > MANY_RANGES { SAMPLES_PER_RANGE_OF_MANY } else { SAMPLES_PER_RANGE };
    let cheap = usize::try_from(documents / 21).unwrap_or(usize::MAX);
    (ranges * per_range).min(cheap).max(ranges)
}

/// Where a replica set's member is asked for its record ids: on a connection of our own to just that member.
enum Lookup<'a> {
    Server(&'a MongoServer),
    Member(Box<Connection>),
}

impl<'a> Lookup<'a> {
    async fn open(server: &'a MongoServer, member: Option<&str>) -> Result<Self> {
        match member {
            None => Ok(Self::Server(server)),
            Some(member) => Ok(Self::Member(Box::new(server.dial_member(member).await?))),
        }
    }

    async fn list(&mut self, database: &str, mut command: RawDocumentBuf) -> Result<Vec<RawDocumentBuf>> {
        match self {
            Self::Server(server) => server.list(database, command).await,
            Self::Member(connection) => {
                command.append(bson::cstr!("$readPreference"), any_member());
                list_on(connection, database, command).await
            }
        }
    }
}

/// Cuts in the order of the index on `_id`, sorted by the server, which alone knows its order of all types.
async fn index_cuts(
    server: &MongoServer,
    target: &ScanTarget,
    ranges: usize,
    samples: usize,
) -> Result<Vec<Exact>> {
    let sampled = sample(&mut Lookup::Server(server), target, samples, true).await?;
    let mut cuts = Vec::new();
    // A range cannot end before the least value of all, nor can one begin at the greatest.
    for document in quantiles(&sampled, ranges).filter(|document| !is_extreme(document)) {
        cuts.push(exact(document.as_bytes().to_vec())?);
    }
    cuts.dedup();
    Ok(cuts)
}

fn is_extreme(document: &RawDocumentBuf) -> bool {
    matches!(document.get("_id"), Ok(Some(RawBsonRef::MinKey | RawBsonRef::MaxKey)))
}

/// Boundaries in storage order: the samples' record ids, looked up at the scan's own cluster time.
async fn boundaries(
    lookup: &mut Lookup<'_>,
    target: &ScanTarget,
    ranges: usize,
    samples: usize,
) -> Result<Vec<Boundary>> {
    let sampled = sample(lookup, target, samples, false).await?;
    let mut ids = RawArrayBuf::new();
    for id in sampled.iter().filter_map(|document| document.get("_id").ok().flatten()) {
        ids.push(id);
    }
    let mut find = rawdoc! {
        "find": target.namespace.collection.as_str(),
        "filter": { "_id": { "$in": ids } },
        "projection": { "_id": 1 },
        "showRecordId": true,
    };
    at_the_moment(&mut find, target);
    let mut found = Vec::new();
    for document in lookup.list(&target.namespace.database, find).await? {
        found.extend(boundary(document.as_bytes())?);
    }
    found.sort_by(|one, other| one.record.cmp(&other.record));
    found.dedup_by(|one, other| one.record == other.record);
    Ok(quantiles(&found, ranges).cloned().collect())
}

/// The boundary at a document `{_id, $recordId}`; `None` when the server tells no record id.
fn boundary(document: &[u8]) -> Result<Option<Boundary>> {
    let unreadable = |_| Error::new(ErrorKind::Corrupt, "the server sent a document that is not BSON");
    let id = raw::id_of(document).map_err(unreadable)?;
    let record = raw::find(document, "$recordId").map_err(unreadable)?;
    let (Some(id), Some(record)) = (id, record) else { return Ok(None) };
    let Some(place) = RecordId::of(&record) else { return Ok(None) };
    Ok(Some(Boundary {
        record: place,
        token: exact(record.alone("$recordId"))?,
        id: exact(id.alone("_id"))?,
    }))
}

/// Documents `{_id: …}` drawn at random.
async fn sample(
    lookup: &mut Lookup<'_>,
    target: &ScanTarget,
    samples: usize,
    sorted: bool,
) -> Result<Vec<RawDocumentBuf>> {
    let size = i64::try_from(samples).unwrap_or(i64::MAX);
    let mut stages = vec![rawdoc! { "$sample": { "size": size } }, rawdoc! { "$project": { "_id": 1 } }];
    if sorted {
        stages.push(rawdoc! { "$sort": { "_id": 1 } });
    }
    let mut command = rawdoc! {
        "aggregate": target.namespace.collection.as_str(),
        "pipeline": array(&stages),
        "cursor": {},
    };
    at_the_moment(&mut command, target);
    lookup.list(&target.namespace.database, command).await
}

fn at_the_moment(command: &mut RawDocumentBuf, target: &ScanTarget) {
    if let Some(read_concern) = target.read_concern() {
        command.append(bson::cstr!("readConcern"), read_concern);
    }
}

fn exact(document: Vec<u8>) -> Result<Exact> {
    Exact::new(document)
        .map_err(|_| Error::new(ErrorKind::Corrupt, "the server sent a document that is not BSON"))
}

/// The values that divide `sorted` into `parts` of equal count; fewer when there are fewer values.
fn quantiles<T>(sorted: &[T], parts: usize) -> impl Iterator<Item = &T> {
    let mut last = None;
    (1..parts).filter_map(move |part| {
        let position = part * sorted.len() / parts;
        (last.replace(position) != Some(position)).then(|| sorted.get(position)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_collections_stay_whole() {
        assert_eq!(range_count(0, 8), 1);
        assert_eq!(range_count(WHOLE_BELOW_BYTES, 8), 2);
        assert_eq!(range_count(10 << 30, 8), 8);
        assert_eq!(range_count(10 << 30, 1), 1);
    }

    #[test]
    fn samples_are_few_where_documents_are() {
        assert_eq!(sample_count(4, 10_000_000), 96);
        assert_eq!(sample_count(100, 100_000_000), 800);
        assert_eq!(sample_count(100, 2_100), 100);
        assert_eq!(sample_count(10, 0), 10);
    }

    #[test]
    fn quantiles_are_even_and_distinct() {
        let values: Vec<_> = (0..100).collect();
        assert_eq!(quantiles(&values, 4).copied().collect::<Vec<_>>(), [25, 50, 75]);
        assert_eq!(quantiles(&values[..2], 8).copied().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(quantiles(&values[..0], 8).count(), 0);
    }
}
