//! What is asked of the documents before an index is built or changed, by the plan and again right before it is carried out, and of those that
//! expire by one that is there.
//!
//! Relies on the server's clock, which decides what has expired, and on the collation of the index, by which texts in its filter are equal.

use std::time::Duration;

use mainstay_engine::{AggregateRequest, IndexCatalog, Namespace};
use mainstay_indexes::checks::{counted, dated};
use mainstay_indexes::{Check, Collation, Ejson, Json};
use mainstay_model::{Error, ErrorKind, Result, ResultExt, Timestamp};
use tokio_util::sync::CancellationToken;

use super::parameters::{Answer, DuplicateGroup};

/// How long the server may count before a change.
pub(super) const COUNT_TIME_MAX: Duration = Duration::from_secs(6 * 3_600);
/// How many groups of duplicates a plan names.
const GROUPS_MAX: u32 = 100;
/// How many documents of each group it names.
const IDS_MAX: u32 = 10;

/// Who is asked.
pub(super) struct Asking<'a> {
    pub(super) catalog: &'a dyn IndexCatalog,
    pub(super) cancel: &'a CancellationToken,
    /// How long the server may count for one question.
    pub(super) time_max: Duration,
}

/// What an index deletes, and what it never will.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpiryCounts {
    /// Documents that have expired.
    pub overdue: u64,
    /// The earliest date among them.
    pub oldest: Option<Timestamp>,
    /// Documents whose field holds no date: they never expire.
    pub not_dates: u64,
    /// Documents whose field is an array: the earliest date in it decides.
    pub arrays: u64,
    /// Documents without the field: they never expire.
    pub missing: u64,
}

impl Asking<'_> {
    /// Asks `check` of the documents of `namespace`. A collection that is not there answers as an empty one.
    ///
    /// # Errors
    /// The server's; `Interrupted`.
    pub(super) async fn ask(&self, namespace: &Namespace, check: &Check) -> Result<Answer> {
        let answer = async {
            let now = self.catalog.server_time().await?;
            let pipeline = match check.count(now.as_millisecond()) {
                Ok(pipeline) => pipeline,
                Err(why) => return Ok(Answer::Unknown { why: why.to_string() }),
            };
            let found = self.aggregate(namespace, check, pipeline, 1).await?;
            match check {
                Check::Duplicates { .. } => self.duplicates(namespace, check, &found).await,
                Check::ExplicitNulls { .. } => Ok(Answer::ExplicitNulls { documents: counted(&found, "n") }),
                Check::Expiry { .. } => self.expiry(namespace, check, counted(&found, "n")).await,
            }
        };
        answer.await.with_context(|| format!("count documents of {namespace}"))
    }

    async fn duplicates(&self, namespace: &Namespace, check: &Check, found: &[Json]) -> Result<Answer> {
        let (groups, documents) = (counted(found, "groups"), counted(found, "documents"));
        let question = check.duplicates().filter(|_| groups > 0);
        let first = match question.map(|question| question.groups(GROUPS_MAX, IDS_MAX)) {
            Some(Ok(pipeline)) => {
                let found = self.aggregate(namespace, check, pipeline, GROUPS_MAX as usize).await?;
                found.iter().map(group).collect()
            }
            _ => Vec::new(),
        };
        Ok(Answer::Duplicates { groups, documents, first })
    }

    async fn expiry(&self, namespace: &Namespace, check: &Check, overdue: u64) -> Result<Answer> {
        let Some(question) = check.expiry() else {
            return Ok(Answer::Expiry { overdue, undated: 0, arrays: 0 });
        };
        let undated = self.aggregate(namespace, check, question.undated(), 1).await?;
        let arrays = self.aggregate(namespace, check, question.arrays(), 1).await?;
        Ok(Answer::Expiry { overdue, undated: counted(&undated, "n"), arrays: counted(&arrays, "n") })
    }

    /// What has expired at `now`, the server's time, by an index that is there, and what never will; `index` is the one to walk, if queries may.
    /// Nothing when `check` asks something else.
    ///
    /// # Errors
    /// The server's; `Interrupted`.
    pub(super) async fn expired(
        &self,
        namespace: &Namespace,
        check: &Check,
        now: Timestamp,
        index: Option<&str>,
    ) -> Result<ExpiryCounts> {
        let Some(question) = check.expiry() else { return Ok(ExpiryCounts::default()) };
        let overdue = question.overdue(now.as_millisecond());
        let overdue = self.aggregate_by(index, namespace, check, overdue, 1).await?;
        let count = async |pipeline| {
            let found = self.aggregate(namespace, check, pipeline, 1).await?;
            Ok::<_, Error>(counted(&found, "n"))
        };
        Ok(ExpiryCounts {
            overdue: counted(&overdue, "n"),
            oldest: dated(&overdue, "oldest").and_then(|at| Timestamp::from_millisecond(at).ok()),
            not_dates: count(question.not_dates()).await?,
            arrays: count(question.arrays()).await?,
            missing: count(question.missing()).await?,
        })
    }

    async fn aggregate(
        &self,
        namespace: &Namespace,
        check: &Check,
        pipeline: Vec<Json>,
        results_max: usize,
    ) -> Result<Vec<Json>> {
        self.aggregate_by(None, namespace, check, pipeline, results_max).await
    }

    async fn aggregate_by(
        &self,
        index: Option<&str>,
        namespace: &Namespace,
        check: &Check,
        pipeline: Vec<Json>,
        results_max: usize,
    ) -> Result<Vec<Json>> {
        let collation = Collation::of_document(check.collation())
            .map_err(|why| Error::new(ErrorKind::Usage, format!("the collation cannot be used: {why}")))?;
        let request = AggregateRequest {
            pipeline,
            collation: Some(collation).filter(|collation| !collation.is_simple()),
            hint: index.map(str::to_owned),
            time_max: self.time_max,
            results_max,
        };
        tokio::select! {
            found = self.catalog.aggregate(namespace, &request) => found,
            () = self.cancel.cancelled() => Err(interrupted()),
        }
    }
}

pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "counting was stopped on request").with_state("nothing was changed")
}

fn group(found: &Json) -> DuplicateGroup {
    let ids = found.get("ids").and_then(Json::items).unwrap_or_default();
    DuplicateGroup {
        documents: counted(std::slice::from_ref(found), "n"),
        ids: ids.iter().cloned().map(Ejson::new).collect(),
    }
}
