//! The acts done, each under a lease, remembered before it is done and looked at afterwards.
//!
//! What was begun and what ended is in the repository, one record after the other for each server (`<store>/init/<server>/`). Going on needs none
//! of it: the server says what is there. An act that was planned and is decided otherwise by now was approved by nobody, and ends the run.

use std::sync::Arc;

use jiff::SignedDuration;
use mainstay_guard::{ConfiguredEnvironment, Marker, Permit, identify};
use mainstay_journal::{KeptLease, Sequence};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Blake3, Clock, Error, ErrorKind, ErrorStatus, Plan, Result, ResultExt, Timestamp};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::plan::{InitParameters, PlannedAct};
use super::{Act, InitStore, ItemCounts, OPERATION, OPERATION_CHANGE, Sight, Standing, Survey};
use crate::lease::{self, Holder};

/// What initiating works with.
pub struct InitContext<'a> {
    /// The server with what is declared of it.
    pub store: &'a dyn InitStore,
    /// Where lease and records are kept.
    pub repository: &'a Repository,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops between two acts.
    pub cancel: &'a CancellationToken,
    /// Who acts: `user@host`.
    pub holder: &'a str,
    /// How long the lease outlives a process that no longer renews it.
    pub lease_ttl: SignedDuration,
}

/// An act that was done, or was not needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitStepDone {
    /// The declared thing.
    pub name: String,
    /// It was found there, and nothing was done.
    pub was_there: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitReport {
    /// The planned acts in order.
    pub steps: Vec<InitStepDone>,
    /// How everything declared stands now.
    pub counts: ItemCounts,
    /// What differs, or cannot be compared, and was left: name and why.
    pub left: Vec<(String, String)>,
    /// What a person should do.
    pub advice: Vec<String>,
}

impl InitReport {
    fn of(steps: Vec<InitStepDone>, survey: Survey) -> Self {
        let counts = ItemCounts::of(&survey);
        let left = survey.items.into_iter().filter(|item| !matches!(item.standing, Standing::There));
        Self {
            steps,
            counts,
            left: left.map(|item| (item.name, item.detail)).collect(),
            advice: survey.advice,
        }
    }
}

/// One entry of the records about a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
enum Record {
    /// An act is about to be done.
    #[serde(rename = "init_begun")]
    Begun { plan: Blake3, item: String, act: Act, at: Timestamp, by: String },
    /// It was, and what it was done for was found there.
    #[serde(rename = "init_done")]
    Done { plan: Blake3, item: String, at: Timestamp },
}

/// Refuses a plan that is for another server or environment, or whose acts are not what is decided now. Gives the report when nothing of it is
/// due: then nothing need be permitted.
///
/// # Errors
/// As [`apply`], and `Refused` when configuration and marker contradict each other.
pub async fn check(
    context: &InitContext<'_>,
    configured: &ConfiguredEnvironment,
    plan: &Plan,
) -> Result<Option<InitReport>> {
    let parameters = InitParameters::of(plan)?;
    let (_, survey) = surveyed(context.store, plan).await?;
    let now = identify(configured, &[(plan.target.store, survey.identity.marker.clone())])?;
    // The plan's own marker may have made the server less protected than it was.
    if now.name != plan.target.environment || now.class > plan.target.class {
        return Err(stale(format!(
            "the plan is for {} ({}), this is {} ({})",
            plan.target.environment, plan.target.class, now.name, now.class
        )));
    }
    for planned in &parameters.acts {
        if find(&survey, planned, plan)?.is_some() {
            return Ok(None);
        }
    }
    let steps =
        parameters.acts.into_iter().map(|planned| InitStepDone { name: planned.item, was_there: true });
    Ok(Some(InitReport::of(steps.collect(), survey)))
}

/// The server as it is now, whose decisions are those of the plan.
///
/// # Errors
/// `StalePlan`, with what is otherwise; `Usage` when the plan is not one of an initiation; those of the survey.
async fn surveyed(store: &dyn InitStore, plan: &Plan) -> Result<(Sight, Survey)> {
    let parameters = InitParameters::of(plan)?;
    let sight = store.look().await?;
    let survey = store.compare(&sight)?;
    if !survey.identity.is(&plan.target.fingerprint) {
        return Err(stale(format!(
            "the plan is for {} {}, here answers {}",
            plan.target.store, plan.target.fingerprint, survey.identity.fingerprint
        )));
    }
    for planned in &parameters.acts {
        find(&survey, planned, plan)?;
    }
    Ok((sight, survey))
}

fn stale(message: String) -> Error {
    Error::new(ErrorKind::StalePlan, message)
        .with_state("nothing was changed")
        .with_hint("make the plan again and review it")
}

/// The act that is due for the item of a planned one; `None` when the item is there.
///
/// # Errors
/// `StalePlan` when something else is due, or a change in a plan that only adds.
fn find<'s>(survey: &'s Survey, planned: &PlannedAct, plan: &Plan) -> Result<Option<&'s Act>> {
    let Some(item) = survey.items.iter().find(|item| item.name == planned.item) else {
        // What depends on something else may be no item of its own once that is there: a password comes with its user.
        return Err(stale(format!("{} is not declared any more", planned.item)));
    };
    match &item.standing {
        Standing::There => Ok(None),
        standing => match item.act() {
            // Of what only adds, whoever was here before may have done a part; the rest was approved with it.
            Some(act) if *act == planned.act || is_part_of(act, &planned.act) => match standing {
                Standing::Change(_) if plan.operation != OPERATION_CHANGE => Err(stale(format!(
                    "a plan of {OPERATION} only adds, and something declared is there otherwise: {}",
                    item.name
                ))),
                _ => Ok(Some(act)),
            },
            _ => {
                Err(stale(format!("{} stands otherwise by now: {}", item.name, now(standing, &item.detail))))
            }
        },
    }
}

fn now(standing: &Standing, detail: &str) -> String {
    match standing {
        Standing::Differs => format!("it differs, {detail}"),
        Standing::Unknown => format!("it cannot be compared, {detail}"),
        _ => detail.to_owned(),
    }
}

/// Whether `rest` gives nothing that `planned` did not.
fn is_part_of(rest: &Act, planned: &Act) -> bool {
    use mainstay_engine::RelationalAct::Grant;
    match (rest, planned) {
        (Act::Relational(Grant { grant: rest }), Act::Relational(Grant { grant: planned })) => {
            rest.role == planned.role
                && rest.database == planned.database
                && rest.object == planned.object
                && rest.privileges.is_subset(&planned.privileges)
        }
        _ => false,
    }
}

/// Does what `plan` says and is still due.
///
/// # Errors
/// `StalePlan` when something is decided otherwise by now; `Locked` when somebody else initiates the server; `Interrupted` between two acts; the
/// server's and the repository's. The state says what was done; applying the plan again goes on.
pub async fn apply(context: &InitContext<'_>, plan: &Plan, permit: &Permit) -> Result<InitReport> {
    permit.covers(plan)?;
    let parameters = InitParameters::of(plan)?;
    let hash = plan.hash()?;
    let server = Blake3::of(plan.target.fingerprint.as_bytes());
    let records = context.repository.init_records(plan.target.store, &server);
    let holder =
        Holder { name: context.holder, lease_ttl: context.lease_ttl, clock: Arc::clone(&context.clock) };
    let what = format!("init-{}", plan.target.store);
    let lease = lease::take(context.repository, &holder, &what, &plan.target.fingerprint).await?;
    let outcome = Run { context, plan, permit, hash, records, lease: &lease }.all(&parameters.acts).await;
    lease::give_back(lease, &what, context.observer).await;
    outcome
}

/// A plan being applied.
struct Run<'a> {
    context: &'a InitContext<'a>,
    plan: &'a Plan,
    permit: &'a Permit,
    hash: Blake3,
    records: Sequence,
    lease: &'a KeptLease,
}

impl Run<'_> {
    async fn all(&self, acts: &[PlannedAct]) -> Result<InitReport> {
        let observer = self.context.observer;
        observer.phase("bring the server to what is declared");
        observer.expect(Work { items: acts.len() as u64, bytes: 0 });
        let (mut sight, survey) = surveyed(self.context.store, self.plan).await?;
        let mut steps: Vec<InitStepDone> = Vec::new();
        for planned in acts {
            observer.phase(&planned.item);
            let was_there = match self.one(planned, &mut sight).await {
                Ok(was_there) => was_there,
                Err(error) => return Err(with_state(error, &planned.item, &steps)),
            };
            steps.push(InitStepDone { name: planned.item.clone(), was_there });
            observer.advance(Work { items: 1, bytes: 0 });
        }
        if steps.iter().all(|step| step.was_there) {
            return Ok(InitReport::of(steps, survey));
        }
        // What one act is done to is seen above; what came of all of them is seen as a whole.
        let end = "look at the whole";
        observer.phase(end);
        match self.context.store.survey().await {
            Ok(survey) => Ok(InitReport::of(steps, survey)),
            Err(error) => Err(with_state(error, end, &steps)),
        }
    }

    /// Does one act unless what it is for is there; `true` when it was.
    async fn one(&self, planned: &PlannedAct, sight: &mut Sight) -> Result<bool> {
        if self.context.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "the initiation was stopped on request"));
        }
        self.lease.check()?;
        // What is there needs no second look; what is due was seen a while ago.
        let Some(due) = self.due(planned, sight)? else { return Ok(true) };
        self.context.store.look_again(sight, &due).await?;
        let Some(due) = self.due(planned, sight)? else { return Ok(true) };
        let (item, at) = (planned.item.clone(), self.context.clock.now());
        let by = self.context.holder.to_owned();
        self.record(&Record::Begun { plan: self.hash, item: item.clone(), act: due.clone(), at, by }).await?;
        self.act(&due).await.with_context(|| planned.item.clone())?;
        self.context.store.look_again(sight, &due).await?;
        self.prove(planned, &self.context.store.compare(sight)?)?;
        self.record(&Record::Done { plan: self.hash, item, at: self.context.clock.now() }).await?;
        Ok(false)
    }

    /// The act that is due by what was seen, if any.
    fn due(&self, planned: &PlannedAct, sight: &Sight) -> Result<Option<Act>> {
        let survey = self.context.store.compare(sight)?;
        Ok(find(&survey, planned, self.plan)?.cloned())
    }

    async fn act(&self, act: &Act) -> Result<()> {
        match act {
            Act::Mark { name, class } => {
                let marker = Marker {
                    environment: name.clone(),
                    class: *class,
                    marked_at: self.context.clock.now(),
                    id: self.hash.short(),
                };
                self.context.store.mark(&marker, self.permit).await
            }
            act => self.context.store.act(act, self.permit).await,
        }
    }

    /// Refuses to believe an act whose item is not there afterwards.
    fn prove(&self, planned: &PlannedAct, survey: &Survey) -> Result<()> {
        let Some(item) = survey.items.iter().find(|item| item.name == planned.item) else {
            return Err(Error::new(
                ErrorKind::Server,
                format!("{} is not to be found after the server took it", planned.item),
            )
            .with_hint("`mainstay init plan` compares everything anew"));
        };
        // A password that nobody may compare stays so after it was set: the server's word is all there is.
        let sets_password = planned.item.starts_with("password of ");
        match &item.standing {
            Standing::There => Ok(()),
            Standing::Change(act) if sets_password && *act == planned.act => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Server,
                format!("{} is not as declared after the server took it: {}", item.name, item.detail),
            )
            .with_hint(
                "`mainstay init plan` compares; a name that the server writes otherwise is one to correct",
            )),
        }
    }

    async fn record(&self, record: &Record) -> Result<()> {
        self.records.append_next(record).await.context("remember what is done").map(drop)
    }
}

fn with_state(error: Error, under_way: &str, done: &[InitStepDone]) -> Error {
    let state = match done.iter().filter(|done| !done.was_there).count() {
        0 => format!("`{under_way}` was the step under way; none before it changed anything"),
        count => format!("`{under_way}` was the step under way; {count} before it were done and stay"),
    };
    let error = error.with_state(state);
    match error.hint() {
        Some(_) => error,
        // The same would be refused again.
        None if error.kind() == ErrorKind::Server && error.status() == ErrorStatus::Permanent => error
            .with_hint(
                "the server does not take it: correct the declaration, then `mainstay init plan` again",
            ),
        None => error.with_hint("apply the same plan again: it goes on"),
    }
}
