//! How many documents collections hold, and what they take.
//!
//! By default a count is what the storage engine keeps beside the data: free, and right but after a crash or while a sharded cluster moves
//! chunks. Time series have no such number, for their documents are buckets, and views none at all; neither is counted unasked. Reads only.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use mainstay_engine::{
    CollectionInfo, CollectionKind, CollectionStatistics, CountRequest, DocumentSource, Inspection, Namespace,
};
use mainstay_model::{Error, ErrorKind, Result};
use serde::Serialize;

use crate::Selection;

/// How many collections are asked about at the same time: few, since the server has other things to do.
const CONCURRENCY: usize = 4;

/// How documents are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountOptions {
    /// One by one, or as the storage engine estimates them. A query is always counted one by one.
    pub exact: bool,
    /// Count only what matches this Extended JSON.
    pub query: Option<String>,
    /// The longest that one collection may take.
    pub time_max: Duration,
}

/// What was counted of a collection.
#[derive(Debug)]
pub struct CountRow {
    /// Its name.
    pub namespace: Namespace,
    /// Its kind.
    pub kind: CollectionKind,
    /// How many documents.
    pub documents: Counted,
}

/// How many documents, and how that is known.
#[derive(Debug)]
pub enum Counted {
    /// As the storage engine keeps it.
    Estimate(u64),
    /// One by one.
    Exact(u64),
    /// The engine keeps no such number: the documents of a view, the measurements of a time series.
    Unknown,
    /// It took too long, or the server refused.
    Failed(Error),
}

/// Counts the selected collections, by name.
///
/// # Errors
/// `Precondition` when a name matches nothing; the server's. What fails for one collection is its row.
pub async fn count(
    source: &dyn DocumentSource,
    inspection: &dyn Inspection,
    selection: &Selection,
    options: &CountOptions,
) -> Result<Vec<CountRow>> {
    let collections = selection.resolve_visible(source).await?;
    let request = CountRequest { query: options.query.clone(), time_max: options.time_max };
    let row = async |info: CollectionInfo| {
        let documents = match (options.exact || options.query.is_some(), info.kind) {
            (true, _) => match inspection.count(&info.namespace, &request).await {
                Ok(documents) => Counted::Exact(documents),
                // What is wrong with the question or the way to the server is wrong for every collection.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Usage | ErrorKind::Auth | ErrorKind::Unreachable
                    ) =>
                {
                    return Err(error);
                }
                Err(error) => Counted::Failed(error),
            },
            (false, CollectionKind::Collection) => Counted::Estimate(info.estimate.items),
            (false, CollectionKind::View | CollectionKind::TimeSeries) => Counted::Unknown,
        };
        Ok(CountRow { namespace: info.namespace, kind: info.kind, documents })
    };
    let rows: Vec<Result<CountRow>> =
        futures::stream::iter(collections).map(row).buffered(CONCURRENCY).collect().await;
    rows.into_iter().collect()
}

/// What a collection takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatisticsRow {
    /// Its name.
    pub namespace: Namespace,
    /// Its kind.
    pub kind: CollectionKind,
    /// Whether it keeps a bounded size.
    pub capped: bool,
    /// The engine's numbers; all zero for views.
    pub statistics: CollectionStatistics,
}

impl StatisticsRow {
    /// Bytes of all its indexes.
    pub fn index_bytes(&self) -> u64 {
        self.statistics.indexes.iter().map(|index| index.bytes).sum()
    }

    /// Bytes on disk, indexes included.
    pub fn disk_bytes(&self) -> u64 {
        self.statistics.storage_bytes + self.index_bytes()
    }

    /// Bytes of an average document; `None` without documents.
    pub fn document_bytes_mean(&self) -> Option<u64> {
        self.statistics.data_bytes.checked_div(self.statistics.documents)
    }

    /// Bytes inside its files that are free to be written again, indexes included as far as told.
    pub fn reusable_bytes(&self) -> u64 {
        let indexes = self.statistics.indexes.iter().filter_map(|index| index.reusable_bytes);
        self.statistics.reusable_bytes + indexes.sum::<u64>()
    }

    /// Bytes of it in the cache, indexes included as far as told.
    pub fn cache_bytes(&self) -> u64 {
        let indexes = self.statistics.indexes.iter().filter_map(|index| index.cache_bytes);
        self.statistics.cache_bytes + indexes.sum::<u64>()
    }
}

/// What the selected collections take, the largest on disk first.
///
/// # Errors
/// `Precondition` when a name matches nothing; the server's. A collection dropped meanwhile is left out.
pub async fn statistics(
    source: &dyn DocumentSource,
    inspection: &dyn Inspection,
    selection: &Selection,
) -> Result<Vec<StatisticsRow>> {
    let row = async |info: CollectionInfo| match inspection.statistics(&info.namespace, info.kind).await {
        Ok(statistics) => Ok(Some(StatisticsRow {
            namespace: info.namespace,
            kind: info.kind,
            capped: info.capped,
            statistics,
        })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let collections = selection.resolve_visible(source).await?;
    let rows: Vec<Option<StatisticsRow>> =
        futures::stream::iter(collections).map(row).buffered(CONCURRENCY).try_collect().await?;
    let mut rows: Vec<StatisticsRow> = rows.into_iter().flatten().collect();
    rows.sort_by(|one, other| {
        (other.disk_bytes(), &one.namespace).cmp(&(one.disk_bytes(), &other.namespace))
    });
    Ok(rows)
}
