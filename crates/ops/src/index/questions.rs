//! What is asked of the documents before an index is built or changed: by the plan, and again right before it is carried out.

use std::time::Duration;

use mainstay_engine::{AggregateRequest, IndexCatalog, Namespace};
use mainstay_indexes::checks::counted;
use mainstay_indexes::{Check, Collation, Ejson, Json};
use mainstay_model::{Error, ErrorKind, Result, ResultExt, Timestamp};
use tokio_util::sync::CancellationToken;

use super::parameters::{Answer, DuplicateGroup};

/// How long the server may count.
const COUNT_TIME_MAX: Duration = Duration::from_secs(6 * 3_600);
/// How many groups of duplicates a plan names.
const GROUPS_MAX: u32 = 100;
/// How many documents of each group it names.
const IDS_MAX: u32 = 10;

/// Who is asked.
pub(super) struct Asking<'a> {
    pub(super) catalog: &'a dyn IndexCatalog,
    pub(super) cancel: &'a CancellationToken,
    pub(super) now: Timestamp,
}

impl Asking<'_> {
    /// Asks `check` of the documents of `namespace`. A collection that is not there answers as an empty one.
    ///
    /// # Errors
    /// The server's; `Interrupted`.
    pub(super) async fn ask(&self, namespace: &Namespace, check: &Check) -> Result<Answer> {
        let pipeline = match check.count(self.now.as_millisecond()) {
            Ok(pipeline) => pipeline,
            Err(why) => return Ok(Answer::Unknown { why: why.to_string() }),
        };
        let answer = async {
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

    async fn aggregate(
        &self,
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
            hint: None,
            time_max: COUNT_TIME_MAX,
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
