//! What building an index costs: how long, by how fast the server reads now, and how much room.

use std::time::{Duration, Instant};

use mainstay_engine::{AggregateRequest, CollectionStatistics, IndexCatalog, Namespace};
use mainstay_indexes::checks::counted;
use mainstay_indexes::{Blocked, Json, ListedIndex};
use mainstay_model::{ByteSize, ErrorKind, Result};

use super::parameters::Estimate;

/// How many documents are read to see how fast that is.
const SAMPLE_DOCUMENTS: u32 = 20_000;
/// How long that may take.
const SAMPLE_TIME_MAX: Duration = Duration::from_secs(20);
/// A build reads, sorts and inserts: so many times what reading takes, as seen with MongoDB 6.0.
const BUILD_PER_READ: u64 = 3;
/// What an entry takes where no other index tells.
const ENTRY_BYTES: u64 = 24;
/// A build writes sorted keys to disk before it inserts them.
const ROOM_FACTOR: u64 = 2;

/// How fast a collection is read: documents in a second, at least 1; `None` when the server does not read so many in time, or has other things to
/// do.
///
/// # Errors
/// Those of the way to the server, and of rights.
pub(super) async fn reading_rate(catalog: &dyn IndexCatalog, namespace: &Namespace) -> Result<Option<u64>> {
    let stage = |text: &str| Json::parse(text).expect("the stage is JSON");
    let request = AggregateRequest {
        pipeline: vec![
            stage(&format!("{{\"$limit\": {SAMPLE_DOCUMENTS}}}")),
            // Every document is looked at as a whole, as a build does.
            stage(
                r#"{"$group": {"_id": null, "n": {"$sum": 1}, "size": {"$max": {"$bsonSize": "$$ROOT"}}}}"#,
            ),
        ],
        collation: None,
        hint: None,
        time_max: SAMPLE_TIME_MAX,
        results_max: 1,
    };
    let begun = Instant::now();
    match catalog.aggregate(namespace, &request).await {
        Ok(found) => Ok(Some(per_second(counted(&found, "n"), begun.elapsed()))),
        // A plan is as good without.
        Err(error) if error.kind() == ErrorKind::Server => Ok(None),
        Err(error) => Err(error),
    }
}

fn per_second(documents: u64, took: Duration) -> u64 {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    (documents.saturating_mul(1_000_000) / micros).max(1)
}

/// What an index costs on a collection that takes `statistics`; `old` is the one whose place it takes, `free` is the server's room.
pub(super) fn estimate(
    statistics: &CollectionStatistics,
    rate: u64,
    old: Option<&ListedIndex>,
    free: Option<u64>,
) -> Estimate {
    let documents = statistics.documents;
    let of_old = old.and_then(|old| statistics.indexes.iter().find(|index| index.name == old.name));
    let bytes = of_old.map_or_else(|| documents.saturating_mul(entry_bytes(statistics)), |index| index.bytes);
    Estimate {
        documents,
        bytes,
        millis: documents.saturating_mul(1_000 * BUILD_PER_READ) / rate.max(1),
        documents_per_second: rate,
        free,
    }
}

/// Bytes for each document in an index of the collection, as those that there are tell.
fn entry_bytes(statistics: &CollectionStatistics) -> u64 {
    let count = statistics.indexes.len() as u64;
    // In a small collection the file is larger than what is in it.
    if count == 0 || statistics.documents < 10_000 {
        return ENTRY_BYTES;
    }
    let total: u64 = statistics.indexes.iter().map(|index| index.bytes).sum();
    (total / count / statistics.documents).max(1)
}

/// What is free when it is built; what a build takes meanwhile, it gives back.
pub(super) fn room_after(estimate: &Estimate) -> Option<u64> {
    estimate.free.map(|free| free.saturating_sub(estimate.bytes))
}

/// Why there is no room for it.
pub(super) fn lack_of_room(estimate: &Estimate) -> Option<Blocked> {
    let free = estimate.free?;
    let needed = estimate.bytes.saturating_mul(ROOM_FACTOR);
    (needed > free).then(|| Blocked {
        reason: format!(
            "it takes about {} while it is built, and {} are free",
            ByteSize(needed),
            ByteSize(free)
        ),
        next: "make room on the server's volume, then plan again".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use mainstay_engine::IndexStatistics;

    use super::*;

    #[test]
    fn time_and_room_come_from_what_was_measured() {
        let index = |name: &str, bytes| IndexStatistics {
            name: name.to_owned(),
            bytes,
            reusable_bytes: None,
            cache_bytes: None,
        };
        let statistics = CollectionStatistics {
            documents: 1_000_000,
            indexes: vec![index("_id_", 10_000_000), index("a_1", 20_000_000)],
            ..CollectionStatistics::default()
        };
        assert_eq!(per_second(20_000, Duration::from_millis(100)), 200_000);
        let told = estimate(&statistics, 200_000, None, Some(29_000_000));
        assert_eq!((told.millis, told.bytes), (15_000, 15_000_000));
        let lack = lack_of_room(&told);
        assert_eq!(
            lack.map(|lack| lack.reason).as_deref(),
            Some("it takes about 30 MB while it is built, and 29 MB are free")
        );
        assert_eq!(lack_of_room(&estimate(&statistics, 200_000, None, None)), None);
        assert_eq!(lack_of_room(&estimate(&statistics, 200_000, None, Some(30_000_000))), None);
        // The next one finds what this one leaves.
        let first = estimate(&statistics, 200_000, None, Some(44_000_000));
        assert_eq!((lack_of_room(&first), room_after(&first)), (None, Some(29_000_000)));
        assert!(lack_of_room(&estimate(&statistics, 200_000, None, room_after(&first))).is_some());
        assert_eq!(room_after(&estimate(&statistics, 200_000, None, None)), None);
        let empty = estimate(&CollectionStatistics::default(), 1, None, Some(0));
        assert_eq!((empty.millis, empty.bytes, lack_of_room(&empty)), (0, 0, None));
    }
}
