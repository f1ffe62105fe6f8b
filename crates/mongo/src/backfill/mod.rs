//! Backfills of collections: walked by `_id`, changed by one `update` for each range, what was there before kept in the same transaction.
//!
//! A step looks only at the index on `_id` to find where its range ends, so that its work is bounded whatever the guard means; within the
//! range it reads the fields that will change, sends one update for all documents of the range, reads the fields again, and puts both into one
//! document of `mainstay.backfill_undo`. All of that, and the segment's new place, is one transaction with snapshot reads: who reads the fields
//! and who changes them see the same moment, and a client that writes to one of these documents meanwhile waits for the end of the step or makes the
//! server refuse it, upon which it is done again.
//!
//! The ledger is in `mainstay`, the program's own database, which no backup holds: `ledger` (one document for each backfill, and what other
//! tools have run), `backfill_segments`, `backfill_undo`. Relies on MongoDB 6.0, where `min` and `max` follow the index on `_id` over all
//! types and transactions reach over databases. Refuses views, time series and capped collections, and values that a path reaches through an array.

mod entry;
mod ledger;
mod look;
mod step;
mod talk;
mod undo;

use std::time::Duration;

use async_trait::async_trait;
use bson::{RawArrayBuf, RawDocumentBuf};
use mainstay_engine::{
    Backfill, BackfillBody, BackfillClaim, BackfillHold, BackfillLook, BackfillRemains, BackfillRun,
    BackfillStep, BackfillStore, BackfillTrial, ClaimFor, ImportedChange, Namespace, TrialWay, UndoPart,
    UndoneStep,
};
use mainstay_guard::Permit;
use mainstay_indexes::Json;
use mainstay_model::{Error, ErrorKind, Result, ResultExt};

use crate::catalog::check_user_data;
use crate::indexes::document;
use crate::metadata::array;
use crate::server::MongoServer;

/// One document for each backfill, and one for each change that was imported.
const LEDGER: &str = "ledger";
/// One document for each segment of a walk.
const SEGMENTS: &str = "backfill_segments";
/// What was there before and after, one document for each step.
const UNDO: &str = "backfill_undo";

/// What permits must be for.
const RUN: &str = "backfill.run";
const UNDOING: &str = "backfill.undo";
const PAUSE: &str = "backfill.pause";
const IMPORT: &str = "backfill.import";

/// What the server takes as a stage of an update. It would refuse any other there, but not in an aggregation, by which an update is told without a
/// change: `$out` and `$merge` write.
const STAGES: [&str; 6] = ["$addFields", "$project", "$replaceRoot", "$replaceWith", "$set", "$unset"];

/// A backfill in the server's own form.
struct Work<'a> {
    id: &'a str,
    namespace: &'a Namespace,
    guard: RawDocumentBuf,
    update: Update,
    fields: &'a [String],
    verify: Option<RawDocumentBuf>,
    keeps_undo: bool,
    /// Its name in the ledger.
    key: String,
}

/// What is done to each document.
enum Update {
    Pipeline(Vec<RawDocumentBuf>),
    Operators(RawDocumentBuf),
}

impl<'a> Work<'a> {
    fn of(backfill: &'a Backfill) -> Result<Self> {
        let BackfillBody::Documents { namespace, guard, update, fields, verify } = &backfill.body else {
            return Err(Error::new(ErrorKind::Usage, format!("{} is no backfill of documents", backfill.id)));
        };
        check_user_data(namespace)?;
        let read = || -> Result<_> {
            let verify = verify.as_ref().map(|text| filter("verify", text)).transpose()?;
            Ok((filter("guard", guard)?, Update::parse(update)?, verify))
        };
        let (guard, update, verify) = read()
            .map_err(|error| declared_wrongly(error.with_state("nothing was changed")))
            .with_context(|| format!("read the backfill {}", backfill.id))?;
        Ok(Self {
            id: &backfill.id,
            namespace,
            guard,
            update,
            fields,
            verify,
            keeps_undo: backfill.keeps_undo,
            key: ledger::key(&namespace.database, &backfill.id),
        })
    }

    /// The fields by their first names, as a projection: a value that stands where a path goes on is to be seen, too.
    fn projection(&self) -> RawDocumentBuf {
        let mut names: Vec<&str> =
            self.fields.iter().map(|path| path.split('.').next().unwrap_or(path)).collect();
        names.sort_unstable();
        names.dedup();
        let mut writer = crate::raw::DocumentWriter::new();
        writer.element(crate::raw::kind::INT32, "_id", &1_i32.to_le_bytes());
        if self.keeps_undo {
            for name in names {
                writer.element(crate::raw::kind::INT32, name, &1_i32.to_le_bytes());
            }
        }
        owned(writer.finish())
    }
}

impl Update {
    fn parse(text: &str) -> Result<Self> {
        match json("update", text)? {
            Json::List(stages) if !stages.is_empty() => {
                check_stages(&stages)?;
                let stages: Result<Vec<_>> = stages.iter().map(document).collect();
                stages.map(Self::Pipeline).context("read `update`")
            }
            operators @ Json::Object(_) if is_operators(&operators) => {
                document(&operators).map(Self::Operators).context("read `update`")
            }
            _ => Err(Error::new(
                ErrorKind::Usage,
                "`update` is neither a pipeline nor operators: it would replace whole documents",
            )
            .with_state("nothing was changed")
            .with_hint(r#"write `[{"$set": {…}}]` or `{"$set": {…}}`"#)),
        }
    }
}

/// Refuses every stage that is none of an update.
fn check_stages(stages: &[Json]) -> Result<()> {
    let is_known =
        |stage: &Json| matches!(stage.members(), Some([(name, _)]) if STAGES.contains(&name.as_str()));
    let Some(other) = stages.iter().position(|stage| !is_known(stage)) else { return Ok(()) };
    Err(Error::new(ErrorKind::Usage, format!("stage {} of `update` is none of an update", other + 1))
        .with_state("nothing was changed")
        .with_hint(format!("each stage is an object with one of {}", STAGES.join(", "))))
}

fn is_operators(json: &Json) -> bool {
    json.members()
        .is_some_and(|members| !members.is_empty() && members.iter().all(|(name, _)| name.starts_with('$')))
}

fn json(what: &str, text: &str) -> Result<Json> {
    Json::parse(text).map_err(|error| Error::new(ErrorKind::Usage, format!("`{what}` is not JSON: {error}")))
}

fn filter(what: &str, text: &str) -> Result<RawDocumentBuf> {
    document(&json(what, text)?).with_context(|| format!("read `{what}`"))
}

/// A fault of the declaration, with where to look unless it says so itself.
fn declared_wrongly(error: Error) -> Error {
    if error.hint().is_some() {
        return error;
    }
    error.with_hint("correct the declaration; docs/backfill.md tells what is declared how")
}

/// What whoever backfills lacks is no right of backups.
fn rights(error: Error) -> Error {
    let is_of_backups = |hint: &str| hint.contains("grantRolesToUser");
    if error.kind() == ErrorKind::Auth && error.hint().is_some_and(is_of_backups) {
        return error.with_hint(
            "grant the user `readWrite` on the database and on `mainstay`, as docs/backfill.md says under Rights",
        );
    }
    error
}

/// An error of looking or trying: nothing of that lasts, and what the server refuses for good is what was declared.
fn looked(error: Error) -> Error {
    let error = rights(error);
    let is_declared = error.kind() == ErrorKind::Server && !error.is_temporary() && error.hint().is_none();
    let error = match is_declared {
        true => declared_wrongly(Error::new(ErrorKind::Usage, error.message().to_owned())),
        false => error,
    };
    if error.state().is_some() { error } else { error.with_state("nothing was changed") }
}

/// Bytes that were put together here as a document.
fn owned(bytes: Vec<u8>) -> RawDocumentBuf {
    RawDocumentBuf::from_bytes(bytes).expect("elements of a document make a document")
}

fn stages(documents: &[RawDocumentBuf]) -> RawArrayBuf {
    array(documents)
}

#[async_trait]
impl BackfillStore for MongoServer {
    async fn look(&self, backfill: &Backfill, time_max: Duration) -> Result<BackfillLook> {
        let work = Work::of(backfill)?;
        let looked_at = look::look(self, &work, time_max).await.map_err(looked);
        looked_at.with_context(|| format!("look at {}", work.namespace))
    }

    async fn try_out(&self, backfill: &Backfill, count: u32, way: TrialWay) -> Result<BackfillTrial> {
        let work = Work::of(backfill)?;
        let tried = look::try_out(self, &work, count, way).await.map_err(looked);
        tried.with_context(|| format!("try {} out", backfill.id))
    }

    async fn remains(&self, backfill: &Backfill) -> Result<BackfillRemains> {
        let work = Work::of(backfill)?;
        look::remains(self, &work).await.with_context(|| format!("count what {} has to do", backfill.id))
    }

    async fn runs(&self) -> Result<Vec<BackfillRun>> {
        ledger::runs(self).await.map_err(rights).context("read the ledger")
    }

    async fn history(&self) -> Result<Vec<ImportedChange>> {
        ledger::history(self).await.map_err(rights).context("read the ledger")
    }

    async fn import(&self, source: &str, permit: &Permit) -> Result<u64> {
        let importing = async {
            self.authorize(permit, IMPORT).await?;
            ledger::import(self, source).await
        };
        importing.await.map_err(rights).with_context(|| format!("import {source}"))
    }

    async fn claim(
        &self,
        backfill: &Backfill,
        claim: &BackfillClaim,
        permit: &Permit,
    ) -> Result<BackfillHold> {
        let claiming = async {
            self.authorize(permit, permitted(claim)).await?;
            ledger::claim(self, &Work::of(backfill)?, backfill, claim).await
        };
        claiming.await.map_err(rights).with_context(|| format!("take {}", backfill.id))
    }

    async fn beat(&self, hold: &BackfillHold) -> Result<bool> {
        ledger::beat(self, hold).await.with_context(|| format!("hold {}", hold.id))
    }

    async fn release(&self, hold: &BackfillHold, at_end: bool) -> Result<()> {
        ledger::release(self, hold, at_end).await.with_context(|| format!("give {} back", hold.id))
    }

    async fn pause(&self, backfill: &Backfill, permit: &Permit) -> Result<()> {
        let pausing = async {
            self.authorize(permit, PAUSE).await?;
            ledger::pause(self, &Work::of(backfill)?).await
        };
        pausing.await.map_err(rights).with_context(|| format!("pause {}", backfill.id))
    }

    async fn step(
        &self,
        backfill: &Backfill,
        hold: &BackfillHold,
        segment: u32,
        keys: u32,
        permit: &Permit,
    ) -> Result<BackfillStep> {
        let stepping = async {
            self.authorize(permit, RUN).await?;
            step::step(self, &Work::of(backfill)?, hold, segment, keys).await
        };
        stepping.await.map_err(rights).with_context(|| format!("change {}", backfill.place()))
    }

    async fn lag(&self) -> Result<Option<Duration>> {
        look::lag(self).await.context("read how far the replicas are")
    }

    async fn undo_parts(&self, backfill: &Backfill) -> Result<Vec<UndoPart>> {
        undo::parts(self, &Work::of(backfill)?).await.context("list what was kept")
    }

    async fn undo_part(
        &self,
        backfill: &Backfill,
        hold: &BackfillHold,
        part: &UndoPart,
        permit: &Permit,
    ) -> Result<UndoneStep> {
        let undoing = async {
            self.authorize(permit, UNDOING).await?;
            undo::bring_back(self, &Work::of(backfill)?, hold, part).await
        };
        undoing.await.map_err(rights).with_context(|| format!("bring {} back", backfill.place()))
    }

    async fn left_behind(&self, backfill: &Backfill, count: usize) -> Result<Vec<String>> {
        undo::left_behind(self, &Work::of(backfill)?, count).await.context("list what was left")
    }
}

/// The operation that a claim is for.
fn permitted(claim: &BackfillClaim) -> &'static str {
    match claim.purpose {
        ClaimFor::Run { .. } => RUN,
        ClaimFor::Undo => UNDOING,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn updates_are_pipelines_or_operators_and_never_whole_documents() {
        for (text, expected) in [
            (r#"[{"$set": {"a": 1}}]"#, Some("pipeline")),
            (r#"[{"$replaceWith": "$a"}, {"$unset": "b"}]"#, Some("pipeline")),
            (r#"{"$set": {"a": 1}, "$inc": {"b": 2}}"#, Some("operators")),
            // These write, wherever they are tried out.
            (r#"[{"$set": {"a": 1}}, {"$out": "users"}]"#, None),
            (r#"[{"$merge": "users"}]"#, None),
            (r#"[{"$set": {"a": 1}, "$out": "users"}]"#, None),
            ("[{}]", None),
            (r#"{"a": 1}"#, None),
            (r#"{"$set": {"a": 1}, "b": 1}"#, None),
            ("{}", None),
            ("[]", None),
            ("[1]", None),
            ("x", None),
        ] {
            let found = Update::parse(text).ok().map(|update| match update {
                Update::Pipeline(_) => "pipeline",
                Update::Operators(_) => "operators",
            });
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn fields_are_read_by_their_first_names() {
        let backfill = Backfill {
            id: "x".to_owned(),
            body: BackfillBody::Documents {
                namespace: Namespace::new("shop", "users"),
                guard: "{}".to_owned(),
                update: r#"{"$set": {"a": 1}}"#.to_owned(),
                fields: ["b.c", "a", "b.d"].map(str::to_owned).to_vec(),
                verify: None,
            },
            keeps_undo: true,
        };
        let projection = Work::of(&backfill).unwrap().projection();
        let names: Vec<&str> = projection.iter().map(|field| field.unwrap().0.as_str()).collect();
        assert_eq!(names, ["_id", "a", "b"]);
    }
}
