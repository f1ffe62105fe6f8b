//! What a collection holds, what a backfill would make of it, and what is left of it to do. Nothing here lasts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bson::{Bson, Document, RawDocumentBuf, rawdoc};
use mainstay_engine::{
    BackfillChange, BackfillLook, BackfillRemains, BackfillTrial, CollectionKind, FieldChange, TrialWay,
};
use mainstay_indexes::Json;
use mainstay_model::{Error, ErrorKind, Result};

use super::step::{counted, ids};
use super::talk::{Failure, Talk, retried};
use super::{Update, Work, entry};
use crate::catalog;
use crate::error::{code, driver_code};
use crate::indexes::json;
use crate::metadata::{array, kind_of};
use crate::raw;
use crate::reply::number;
use crate::server::MongoServer;
use crate::topology::Topology;

/// How deep changes are told field by field; what differs deeper is told as a whole.
const DEPTH_MAX: usize = 20;

pub(super) async fn look(server: &MongoServer, work: &Work<'_>, time_max: Duration) -> Result<BackfillLook> {
    check_kind(server, work).await?;
    let (database, collection) = (&work.namespace.database, work.namespace.collection.as_str());
    let total = server.ask(database, rawdoc! { "count": collection }).await?;
    let explain = rawdoc! {
        "explain": { "find": collection, "filter": work.guard.clone() }, "verbosity": "queryPlanner",
    };
    let plan = server.ask(database, explain).await?;
    Ok(BackfillLook {
        total: number(&total, "n").unwrap_or(0),
        guarded: count(server, work, &work.guard, Some(time_max)).await?,
        reads_everything: holds_stage(&Bson::Document(plan), "COLLSCAN"),
        has_transactions: has_transactions(server).await?,
    })
}

async fn has_transactions(server: &MongoServer) -> Result<bool> {
    Ok(Topology::of(&server.hello().await?) != Topology::Standalone)
}

/// Refuses what cannot be walked by `_id`.
async fn check_kind(server: &MongoServer, work: &Work<'_>) -> Result<()> {
    let refused = |kind, what: &str| {
        Err(Error::new(kind, format!("{} {what}", work.namespace)).with_state("nothing was changed"))
    };
    let Some(spec) = catalog::find(server, work.namespace).await? else {
        return refused(ErrorKind::NotFound, "is not there");
    };
    let is_capped =
        spec.get_document("options").is_ok_and(|options| options.get_bool("capped").unwrap_or(false));
    match kind_of(spec.get_str("type").unwrap_or("collection")) {
        CollectionKind::View => refused(ErrorKind::Unsupported, "is a view: change the collection under it"),
        CollectionKind::TimeSeries => {
            refused(ErrorKind::Unsupported, "is a time series, which is not walked by `_id`")
        }
        CollectionKind::Collection if is_capped => {
            refused(ErrorKind::Unsupported, "is capped: its documents must not grow")
        }
        CollectionKind::Collection => Ok(()),
    }
}

pub(super) async fn remains(server: &MongoServer, work: &Work<'_>) -> Result<BackfillRemains> {
    let counted = |number: Option<u64>| number.unwrap_or(0);
    let wrong = match &work.verify {
        Some(verify) => Some(counted(count(server, work, verify, None).await?)),
        None => None,
    };
    Ok(BackfillRemains { guarded: counted(count(server, work, &work.guard, None).await?), wrong })
}

/// How many documents match; `None` when that took longer than `time_max`.
async fn count(
    server: &MongoServer,
    work: &Work<'_>,
    filter: &RawDocumentBuf,
    time_max: Option<Duration>,
) -> Result<Option<u64>> {
    let pipeline = [rawdoc! { "$match": filter.clone() }, rawdoc! { "$count": "n" }];
    let mut command = rawdoc! {
        "aggregate": work.namespace.collection.as_str(), "pipeline": array(&pipeline), "cursor": {},
        "comment": "mainstay backfill",
    };
    if let Some(time_max) = time_max {
        let millis = i64::try_from(time_max.as_millis()).unwrap_or(i64::MAX).max(1);
        command.append(bson::cstr!("maxTimeMS"), millis);
    }
    match server.driver_list(&work.namespace.database, command).await {
        Ok(found) => Ok(Some(counted(&found))),
        // A limit of the server's own is an error where no time was set: what was not counted is not nothing.
        Err(error) if time_max.is_some() && driver_code(&error) == Some(code::TIME_OVER) => Ok(None),
        Err(error) => Err(server.explain(error).await),
    }
}

/// Whether a stage of that name is anywhere in an explained plan.
fn holds_stage(plan: &Bson, stage: &str) -> bool {
    match plan {
        Bson::Document(document) => {
            document.get_str("stage").is_ok_and(|found| found == stage)
                || document
                    .iter()
                    // Plans that were not chosen say nothing of what will be done.
                    .any(|(name, inner)| name != "rejectedPlans" && holds_stage(inner, stage))
        }
        Bson::Array(items) => items.iter().any(|item| holds_stage(item, stage)),
        _ => false,
    }
}

pub(super) async fn try_out(
    server: &MongoServer,
    work: &Work<'_>,
    sample_count: u32,
    way: TrialWay,
) -> Result<BackfillTrial> {
    check_kind(server, work).await?;
    let has_transactions = has_transactions(server).await?;
    let command = rawdoc! {
        "find": work.namespace.collection.as_str(), "filter": work.guard.clone(),
        "limit": i64::from(sample_count.max(1)),
    };
    let mut before = server.list(&work.namespace.database, command).await?;
    by_id(server, work, &mut before).await?;
    let trial = Trial { server, work, before: &before };
    let told = match &work.update {
        Update::Pipeline(pipeline) if way == TrialWay::Gentle || !has_transactions => {
            trial.by_reading(pipeline).await?
        }
        _ => None,
    };
    match (told, &work.update) {
        (Some(told), _) => Ok(told),
        _ if has_transactions => retried(server, || trial.in_transaction()).await,
        (None, Update::Pipeline(_)) => Err(Error::new(
            ErrorKind::Unsupported,
            "the update takes `_id` away or changes it; what a standalone server makes of that cannot be told before it is done",
        )
        .with_state("nothing was changed")
        .with_hint("leave `_id` as it is: `$set` and `$unset` what changes, and replace no whole document")),
        (None, Update::Operators(_)) => Err(Error::new(
            ErrorKind::Unsupported,
            "what operators make of a document can be told only in a transaction, which a standalone server has not",
        )
        .with_state("nothing was changed")
        .with_hint(r#"write `update` as a pipeline, such as `[{"$set": {…}}]`, or make the server a replica set of one"#)),
    }
}

/// Brings documents into the order of their keys, by asking the server for them again in that order.
async fn by_id(server: &MongoServer, work: &Work<'_>, documents: &mut Vec<RawDocumentBuf>) -> Result<()> {
    if documents.is_empty() {
        return Ok(());
    }
    let command = rawdoc! {
        "find": work.namespace.collection.as_str(), "filter": { "_id": { "$in": ids(documents.iter())? } },
        "sort": { "_id": 1 },
    };
    *documents = server.list(&work.namespace.database, command).await?;
    Ok(())
}

/// Real documents that the guard means.
struct Trial<'a> {
    server: &'a MongoServer,
    work: &'a Work<'a>,
    before: &'a [RawDocumentBuf],
}

impl Trial<'_> {
    fn these(&self) -> Result<RawDocumentBuf> {
        Ok(rawdoc! { "_id": { "$in": ids(self.before.iter())? } })
    }

    /// The stages of an update's pipeline are stages of an aggregation, too, and do the same there but for `_id`, which an update keeps or refuses to
    /// change: `None` where they touch it.
    async fn by_reading(&self, pipeline: &[RawDocumentBuf]) -> Result<Option<BackfillTrial>> {
        let mut stages = vec![rawdoc! { "$match": self.these()? }, rawdoc! { "$sort": { "_id": 1 } }];
        stages.extend(pipeline.iter().cloned());
        let after = self.aggregated(&stages).await?;
        if !self.are_these(&after)? {
            return Ok(None);
        }
        stages.push(rawdoc! { "$match": self.work.guard.clone() });
        stages.push(rawdoc! { "$project": { "_id": 1 } });
        let still = self.aggregated(&stages).await?;
        self.told(&after, &still, None).map(Some)
    }

    /// Whether every one of `documents` is one of those before, by its key.
    fn are_these(&self, documents: &[RawDocumentBuf]) -> Result<bool> {
        let mut known = BTreeSet::new();
        for one in self.before {
            let id = entry::id_of(one)?;
            known.insert((id.kind, id.value));
        }
        for one in documents {
            let id = raw::id_of(one.as_bytes()).map_err(|error| {
                Error::new(ErrorKind::Corrupt, "the server sent a damaged document").with_source(error)
            })?;
            if !id.is_some_and(|id| known.contains(&(id.kind, id.value))) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn aggregated(&self, stages: &[RawDocumentBuf]) -> Result<Vec<RawDocumentBuf>> {
        let command = rawdoc! {
            "aggregate": self.work.namespace.collection.as_str(), "pipeline": array(stages), "cursor": {},
        };
        self.server.list(&self.work.namespace.database, command).await
    }

    /// The update itself, in a transaction that is given up.
    async fn in_transaction(&self) -> Result<BackfillTrial, Failure> {
        let mut talk = Talk::begin(self.server, true).await?;
        let tried = self.inside(&mut talk).await;
        talk.abort().await;
        let (after, still, took) = tried?;
        Ok(self.told(&after, &still, Some(took))?)
    }

    async fn inside(
        &self,
        talk: &mut Talk<'_>,
    ) -> Result<(Vec<RawDocumentBuf>, Vec<RawDocumentBuf>, Duration), Failure> {
        let (database, collection) = (&self.work.namespace.database, self.work.namespace.collection.as_str());
        let begun = Instant::now();
        talk.write(database, self.work.command(self.these()?)).await?;
        let took = begun.elapsed();
        let again = rawdoc! { "find": collection, "filter": self.these()?, "sort": { "_id": 1 } };
        let after = talk.read(database, again).await?;
        let filter = rawdoc! { "$and": array([&self.these()?, &self.work.guard]) };
        let still = rawdoc! { "find": collection, "filter": filter, "projection": { "_id": 1 } };
        let still = talk.read(database, still).await?;
        Ok((after, still, took))
    }

    fn told(
        &self,
        after: &[RawDocumentBuf],
        still: &[RawDocumentBuf],
        took: Option<Duration>,
    ) -> Result<BackfillTrial> {
        let key = |document: &Json| document.get("_id").map(ToString::to_string).unwrap_or_default();
        let mut changes = Vec::new();
        let after: Vec<Json> = after.iter().map(|document| json(document)).collect::<Result<_>>()?;
        for before in self.before {
            let before = json(before)?;
            let name = key(&before);
            // A document that was removed meanwhile shows nothing.
            let Some(after) = after.iter().find(|document| key(document) == name) else { continue };
            let mut fields = Vec::new();
            differences(&before, after, "", 0, &mut fields);
            changes.push(BackfillChange { key: name, fields });
        }
        let still: Vec<Json> = still.iter().map(|document| json(document)).collect::<Result<_>>()?;
        Ok(BackfillTrial { changes, still_guarded: still.iter().map(key).collect(), took })
    }
}

/// Every path at which two documents differ, as deep as both go on as documents.
fn differences(before: &Json, after: &Json, path: &str, depth: usize, found: &mut Vec<FieldChange>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if before == after {
        return;
    }
    let (Some(old), Some(new)) = (inner(before, depth), inner(after, depth)) else {
        found.push(FieldChange {
            field: path.to_owned(),
            before: Some(before.to_string()),
            after: Some(after.to_string()),
        });
        return;
    };
    for (name, value) in old {
        match after.get(name) {
            Some(other) => differences(value, other, &below(name), depth + 1, found),
            None => {
                found.push(FieldChange { field: below(name), before: Some(value.to_string()), after: None })
            }
        }
    }
    for (name, value) in new.iter().filter(|(name, _)| before.get(name).is_none()) {
        found.push(FieldChange { field: below(name), before: None, after: Some(value.to_string()) });
    }
}

/// The members of what is a document and no single value in its canonical form.
fn inner(value: &Json, depth: usize) -> Option<&[(String, Json)]> {
    let is_document =
        |members: &&[(String, Json)]| members.first().is_none_or(|(name, _)| !name.starts_with('$'));
    value.members().filter(|_| depth < DEPTH_MAX).filter(is_document)
}

/// The slowest secondary behind the primary, by the time of what each has last done.
pub(super) async fn lag(server: &MongoServer) -> Result<Option<Duration>> {
    if !matches!(Topology::of(&server.hello().await?), Topology::ReplicaSet { .. }) {
        return Ok(None);
    }
    let status = server.ask_unless(code::UNAUTHORIZED, "admin", rawdoc! { "replSetGetStatus": 1 }).await?;
    Ok(status.as_ref().and_then(slowest))
}

fn slowest(status: &Document) -> Option<Duration> {
    const PRIMARY: u64 = 1;
    const SECONDARY: u64 = 2;
    let members = status.get_array("members").ok()?;
    let reached = |state: u64| {
        members
            .iter()
            .filter_map(Bson::as_document)
            .filter(move |member| number(member, "state") == Some(state))
            .filter_map(|member| member.get_datetime("optimeDate").ok().map(|at| at.timestamp_millis()))
    };
    let first = reached(PRIMARY).max()?;
    let last = reached(SECONDARY).min()?;
    Some(Duration::from_millis(u64::try_from(first - last).unwrap_or(0)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bson::{DateTime, doc};

    use super::*;

    #[test]
    fn differences_are_told_by_path() {
        let before = Json::parse(r#"{"_id":1,"a":{"x":1,"y":{"$numberInt":"2"}},"b":[1],"gone":1}"#).unwrap();
        let after =
            Json::parse(r#"{"_id":1,"a":{"x":1,"y":{"$numberInt":"3"}},"b":[1,2],"c":{"d":1}}"#).unwrap();
        let mut found = Vec::new();
        differences(&before, &after, "", 0, &mut found);
        let told: Vec<String> = found
            .iter()
            .map(|one| {
                let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
                format!("{} {} {}", one.field, text(&one.before), text(&one.after))
            })
            .collect();
        assert_eq!(
            told,
            [r#"a.y {"$numberInt":"2"} {"$numberInt":"3"}"#, "b [1] [1,2]", "gone 1 -", r#"c - {"d":1}"#]
        );
    }

    #[test]
    fn the_slowest_secondary_counts() {
        let member = |state: i32, seconds: i64| {
            doc! { "state": state, "optimeDate": DateTime::from_millis(seconds * 1_000) }
        };
        let status = |members: Vec<Document>| doc! { "members": members };
        assert_eq!(slowest(&status(vec![member(1, 100)])), None);
        assert_eq!(
            slowest(&status(vec![member(1, 100), member(2, 99), member(2, 40), member(8, 1)])),
            Some(Duration::from_secs(60))
        );
        assert_eq!(slowest(&status(vec![member(1, 100), member(2, 101)])), Some(Duration::ZERO));
    }

    #[test]
    fn a_collection_scan_is_found_wherever_it_is() {
        let plan = |stage: &str| {
            doc! { "queryPlanner": { "winningPlan": { "stage": "LIMIT", "inputStage": { "stage": stage } },
            "rejectedPlans": [{ "stage": "COLLSCAN" }] } }
        };
        assert!(holds_stage(&Bson::Document(plan("COLLSCAN")), "COLLSCAN"));
        assert!(!holds_stage(&Bson::Document(plan("IXSCAN")), "COLLSCAN"));
    }
}
