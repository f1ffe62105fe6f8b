//! Dividing a collection into ranges of similar size.
//!
//! Samples of `_id` taken by the server (`$sample` with a random cursor, so its cost does not grow with the collection) stand for the
//! collection; every so-manieth is a cut. At a cluster time the cuts become boundaries in storage order, which costs the server half of
//! what an index scan costs. Without one a boundary could be deleted before a scan reaches it, so the ranges follow the index on `_id`.
//!
//! Small and capped collections stay whole (a capped one is a sequence), and so does whatever the server cannot sample.

use bson::{RawArrayBuf, RawBsonRef, RawDocumentBuf, rawdoc};
use mainstay_engine::CollectionInfo;
use mainstay_model::{Error, ErrorKind, Result};

use super::ScanTarget;
use super::bounds::{Boundary, Bounds, Exact, RecordId};
use crate::metadata::array;
use crate::raw;
use crate::server::MongoServer;
use crate::topology::Topology;

/// Collections below this size stay whole: one cursor is done with them before a second is open.
const WHOLE_BELOW_BYTES: u64 = 64 * 1024 * 1024;

/// No range is meant to be smaller.
const RANGE_BYTES_MIN: u64 = 32 * 1024 * 1024;

/// Samples per range: the sizes of ranges then differ by a quarter or so.
const SAMPLES_PER_RANGE: usize = 24;

/// The ranges of a collection: disjoint, together the whole, at most `ranges_max`.
pub(super) async fn split(
    server: &MongoServer,
    topology: &Topology,
    target: &ScanTarget,
    collection: &CollectionInfo,
    ranges_max: usize,
) -> Result<Vec<Bounds>> {
    let wanted = range_count(collection.estimate.bytes, ranges_max);
    if wanted < 2 || collection.capped {
        return Ok(vec![Bounds::WHOLE]);
    }
    if target.at.is_some() && topology.keeps_order() {
        Ok(Bounds::natural(boundaries(server, target, wanted).await?))
    } else {
        Ok(Bounds::index(index_cuts(server, target, wanted).await?))
    }
}

fn range_count(bytes: u64, ranges_max: usize) -> usize {
    if bytes < WHOLE_BELOW_BYTES {
        return 1;
    }
    usize::try_from(bytes / RANGE_BYTES_MIN).unwrap_or(usize::MAX).min(ranges_max)
}

/// Cuts in the order of the index on `_id`, sorted by the server, which alone knows its order of all types.
async fn index_cuts(server: &MongoServer, target: &ScanTarget, ranges: usize) -> Result<Vec<Exact>> {
    let sampled = sample(server, target, ranges, true).await?;
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
async fn boundaries(server: &MongoServer, target: &ScanTarget, ranges: usize) -> Result<Vec<Boundary>> {
    let sampled = sample(server, target, ranges, false).await?;
    let mut ids = RawArrayBuf::new();
    for id in sampled.iter().filter_map(|document| document.get("_id").ok().flatten()) {
        ids.push(id);
    }
    let mut lookup = rawdoc! {
        "find": target.namespace.collection.as_str(),
        "filter": { "_id": { "$in": ids } },
        "projection": { "_id": 1 },
        "showRecordId": true,
    };
    at_the_moment(&mut lookup, target);
    let mut found = Vec::new();
    for document in server.list(&target.namespace.database, lookup).await? {
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
    server: &MongoServer,
    target: &ScanTarget,
    ranges: usize,
    sorted: bool,
) -> Result<Vec<RawDocumentBuf>> {
    let size = i64::try_from(ranges * SAMPLES_PER_RANGE).unwrap_or(i64::MAX);
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
    server.list(&target.namespace.database, command).await
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
    fn quantiles_are_even_and_distinct() {
        let values: Vec<_> = (0..100).collect();
        assert_eq!(quantiles(&values, 4).copied().collect::<Vec<_>>(), [25, 50, 75]);
        assert_eq!(quantiles(&values[..2], 8).copied().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(quantiles(&values[..0], 8).count(), 0);
    }
}
