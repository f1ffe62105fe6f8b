//! The steps taken: each recorded before it is taken, and looked at afterwards.
//!
//! A plan that is applied again begins at its first step, and each looks first whether it is taken already. What an earlier run of the same
//! plan did is known from its records and does not count as a change of the world; what anybody else did makes the plan stale. A build goes on in
//! the server when nobody waits for it: it is recognised by its name and definition and waited for. Stopped on request, a build that
//! this plan began is ended, and nothing of it stays; every other step is one command of the server, which is there or is not.

use std::time::Duration;

use mainstay_engine::{BuildPhase, IndexBuild, IndexChange, IndexControl, IndexedCollection, Namespace};
use mainstay_guard::Permit;
use mainstay_indexes::steps::{after, is_same};
use mainstay_indexes::{Ejson, Json, ListedIndex, Step, TTL_NEVER};
use mainstay_journal::KeptLease;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    Assumption, Blake3, Clock, Count, Error, ErrorKind, ErrorStatus, Plan, Result, ResultExt, StoreKind,
};
use mainstay_repository::Repository;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::parameters::{Answer, IndexParameters, PlannedChange, PlannedCollection, assumptions};
use super::questions::{Asking, COUNT_TIME_MAX};
use super::records::{Record, Records, begun, has_begun};

/// How often is looked how far a build is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a build is begun that ended without us and left nothing.
const BUILD_TRIES_MAX: u32 = 3;
/// How long the server may take to let go of a build that is ended.
const ABORT_TIME_MAX: Duration = Duration::from_secs(60);
/// How many groups of duplicates an error names.
const GROUPS_TOLD: usize = 3;
/// What helps when the world is another one than was planned for.
const HINT_STALE: &str = "see what has changed with `mainstay index drift`, then plan again";

/// What changing indexes works with.
pub struct IndexContext<'a> {
    /// The indexes.
    pub control: &'a dyn IndexControl,
    /// Where it is recorded what was begun.
    pub repository: &'a Repository,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops at a safe point.
    pub cancel: &'a CancellationToken,
    /// Who acts: `user@host`.
    pub holder: &'a str,
}

/// A step that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IndexStepDone {
    /// The collection, with its database.
    pub collection: String,
    /// The index.
    pub index: String,
    /// The action: `build`, `hide`.
    pub action: String,
    /// `+` adds, `~` changes, `-` takes away.
    pub mark: char,
    /// It was taken before, and was found to hold.
    pub was_done: bool,
    /// How long it took.
    pub millis: u64,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IndexReport {
    /// The steps in order.
    pub steps: Vec<IndexStepDone>,
    /// The indexes that the plan left alone, with the reasons.
    pub blocked: Vec<(String, String)>,
}

/// Takes the right to change the indexes of the plan's server.
///
/// # Errors
/// `Locked` when somebody has it.
pub async fn claim(context: &IndexContext<'_>, plan: &Plan) -> Result<KeptLease> {
    let claimed =
        context.repository.claim_indexes(StoreKind::Mongo, &plan.target.fingerprint, context.holder).await;
    claimed.context("change indexes")
}

/// Refuses a plan whose world is not as it was, and one whose questions have other answers now; what an earlier run of the same plan has done
/// does not count.
///
/// # Errors
/// `StalePlan` with every difference; `Usage` when it is no plan about indexes; the server's and the repository's; `Interrupted`.
pub async fn check(context: &IndexContext<'_>, plan: &Plan) -> Result<()> {
    let parameters = IndexParameters::of(plan)?;
    let hash = plan.hash()?;
    let records = Records::of(context.repository, &plan.target.fingerprint).all().await?;
    context.observer.phase("compare the indexes with the plan");
    let mut seen = Vec::new();
    let mut open = Vec::new();
    for collection in
        parameters.collections.iter().filter(|found| found.changes.iter().any(PlannedChange::is_done))
    {
        let namespace = collection.namespace(&parameters.database);
        let live = context.control.indexed_collection(&namespace).await?;
        let begun = begun(&records, &hash, &namespace);
        seen.extend(forgiven(collection, &namespace, live.as_ref(), &begun));
        let is_open =
            |planned: &&PlannedChange| !planned.change.steps.iter().any(|step| begun.contains(step));
        open.extend(
            collection
                .changes
                .iter()
                .filter(|planned| planned.is_done())
                .filter(is_open)
                .map(|planned| (namespace.clone(), planned)),
        );
    }
    plan.check_assumptions(&seen).map_err(|stale| stale.with_hint(HINT_STALE))?;
    for (namespace, planned) in open {
        let asked = ask_again(context, &namespace, planned, parameters.expire_max).await;
        asked.map_err(|error| error.with_state("nothing was changed"))?;
    }
    Ok(())
}

/// Whether a run of this plan has begun.
///
/// # Errors
/// The repository's.
pub async fn resumable(context: &IndexContext<'_>, plan: &Plan) -> Result<bool> {
    let hash = plan.hash()?;
    let records = Records::of(context.repository, &plan.target.fingerprint).all().await?;
    Ok(records.iter().any(|record| matches!(record, Record::Begun { plan, .. } if *plan == hash)))
}

/// What is seen of a collection, where what the plan's own steps have made of it counts as what it was.
fn forgiven(
    collection: &PlannedCollection,
    namespace: &Namespace,
    live: Option<&IndexedCollection>,
    begun: &[Step],
) -> Vec<Assumption> {
    let uuid = live.and_then(|live| live.identity.as_ref()).map(|identity| identity.0.as_str());
    let has_built = begun.iter().any(|step| matches!(step, Step::Build { .. }));
    // The first index makes the collection.
    let uuid = if collection.uuid.is_none() && has_built { None } else { uuid };
    let seen = live.map(|live| live.indexes.as_slice()).unwrap_or_default();
    let mut indexes: Vec<ListedIndex> = Vec::new();
    for index in seen {
        let planned = collection.indexes.iter().find(|planned| planned.name == index.name);
        match (planned, is_own(index, planned, begun)) {
            (Some(planned), true) => indexes.push(planned.clone()),
            (None, true) => {}
            (_, false) => {
                let has_made_it = collection.uuid.is_none() && has_built && index.is_id();
                indexes.extend((!has_made_it).then(|| index.clone()));
            }
        }
    }
    for planned in &collection.indexes {
        let is_gone = !seen.iter().any(|index| index.name == planned.name);
        let by_us = begun.iter().any(|step| matches!(step, Step::Drop { name, .. } if *name == planned.name));
        if is_gone && by_us {
            indexes.push(planned.clone());
        }
    }
    assumptions(namespace, uuid, &indexes)
}

/// Whether an index is in a state that steps which were begun lead to, from what it was when the plan was made.
fn is_own(index: &ListedIndex, planned: Option<&ListedIndex>, begun: &[Step]) -> bool {
    let mut state = planned.cloned();
    // What is under way is as good as what it will be.
    let whole = ListedIndex { build: None, ..index.clone() };
    // So is what was being built when the plan was made, and has come to its end.
    let has_ended = planned.is_some_and(|planned| {
        !planned.is_ready() && is_same(&ListedIndex { build: None, ..planned.clone() }, index)
    });
    has_ended
        || begun.iter().filter(|step| step.index() == index.name).any(|step| {
            state = after(step, state.as_ref());
            state.as_ref().is_some_and(|state| is_same(state, &whole))
        })
}

/// Asks the documents again, and refuses when the answer is in the way now. The state is the caller's to tell.
async fn ask_again(
    context: &IndexContext<'_>,
    namespace: &Namespace,
    planned: &PlannedChange,
    expire_max: u64,
) -> Result<()> {
    let asking = Asking { catalog: context.control, cancel: context.cancel, time_max: COUNT_TIME_MAX };
    let place = format!("{namespace}.{}", planned.change.index);
    for (check, before) in planned.change.checks.iter().zip(&planned.answers) {
        context.observer.phase(&format!("count documents for {place}"));
        let now = asking.ask(namespace, check).await?;
        if let Some(obstacle) = now.obstacle(check, &place, expire_max) {
            return Err(Error::new(
                ErrorKind::StalePlan,
                format!(
                    "the documents have changed since the plan was made: {}; {}",
                    obstacle.reason,
                    was(before)
                ),
            )
            .with_hint(obstacle.next));
        }
    }
    Ok(())
}

fn was(answer: &Answer) -> String {
    match answer {
        Answer::Duplicates { groups, .. } => format!("there were {groups} such keys"),
        Answer::ExplicitNulls { documents } => format!("there were {documents} such documents"),
        Answer::Expiry { overdue, .. } => format!("{overdue} would have"),
        Answer::Unknown { why } => format!("that could not be counted before: {why}"),
    }
}

/// Takes the steps of `plan`, which was [`check`]ed under `lease`.
///
/// # Errors
/// `StalePlan` when documents are in the way by now, and what was begun about that index was taken back, or when another index stands where one
/// was to be dropped; `Interrupted` when stopped; `Locked` when the lease was lost; the server's and the
/// repository's. The state says what was taken; applying the plan again goes on.
pub async fn apply(
    context: &IndexContext<'_>,
    plan: &Plan,
    lease: &KeptLease,
    permit: &Permit,
) -> Result<IndexReport> {
    permit.covers(plan)?;
    let parameters = IndexParameters::of(plan)?;
    let records = Records::of(context.repository, &plan.target.fingerprint);
    let run = Run { context, lease, permit, records, hash: plan.hash()?, expire_max: parameters.expire_max };
    let mut done = Vec::new();
    for (collection, planned) in parameters.done() {
        let namespace = collection.namespace(&parameters.database);
        if let Err(error) = run.change(&namespace, planned, &mut done).await {
            return Err(with_state(error, &done));
        }
    }
    run.records.write(&Record::Applied { plan: run.hash, at: context.clock.now() }).await?;
    let blocked = parameters.collections.iter().flat_map(|collection| {
        let namespace = collection.namespace(&parameters.database);
        collection.changes.iter().filter_map(move |planned| {
            let blocked = planned.change.blocked.as_ref()?;
            Some((format!("{namespace}.{}", planned.change.index), blocked.reason.clone()))
        })
    });
    let blocked = blocked.collect();
    Ok(IndexReport { steps: done, blocked })
}

/// Adds what was taken before the error to what it tells of the index itself.
fn with_state(error: Error, done: &[IndexStepDone]) -> Error {
    let taken = match done.iter().filter(|done| !done.was_done).count() {
        0 => "no step before it changed anything".to_owned(),
        1 => "one step before it was taken and stays".to_owned(),
        count => format!("{count} steps before it were taken and stay"),
    };
    let state = match error.state() {
        Some(own) => format!("{own}; {taken}"),
        None => taken,
    };
    let error = error.with_state(state);
    match error.hint() {
        Some(_) => error,
        None => error.with_hint("apply the same plan again: it goes on"),
    }
}

/// A plan being applied.
struct Run<'a> {
    context: &'a IndexContext<'a>,
    lease: &'a KeptLease,
    permit: &'a Permit,
    records: Records,
    hash: Blake3,
    expire_max: u64,
}

/// A step with its place.
#[derive(Clone, Copy)]
struct At<'a> {
    namespace: &'a Namespace,
    planned: &'a PlannedChange,
    step: &'a Step,
}

impl At<'_> {
    /// The index's full name.
    fn index(&self) -> String {
        format!("{}.{}", self.namespace, self.step.index())
    }

    fn name(&self) -> String {
        format!("{} {}", self.step.verb(), self.index())
    }
}

impl Run<'_> {
    async fn change(
        &self,
        namespace: &Namespace,
        planned: &PlannedChange,
        done: &mut Vec<IndexStepDone>,
    ) -> Result<()> {
        for step in &planned.change.steps {
            let at = At { namespace, planned, step };
            let begun = self.context.clock.now();
            let was_done = self.take(at).await.with_context(|| at.name())?;
            let millis = self.context.clock.now().duration_since(begun).as_millis();
            done.push(IndexStepDone {
                collection: namespace.to_string(),
                index: step.index().to_owned(),
                action: step.verb().to_owned(),
                mark: step.mark(),
                was_done,
                millis: u64::try_from(millis).unwrap_or(0),
            });
        }
        Ok(())
    }

    /// Takes one step; `true` when it had been taken before.
    async fn take(&self, at: At<'_>) -> Result<bool> {
        if self.context.cancel.is_cancelled() {
            return Err(stopped());
        }
        self.lease.check()?;
        self.context.observer.phase(&at.name());
        let live = self.listed(at).await?;
        if holds(at.step, live.as_ref()) {
            return Ok(true);
        }
        if !drops_what_was_planned(at.step, live.as_ref()) {
            return Err(Error::new(
                ErrorKind::StalePlan,
                format!("{} is not the index any more that was to be dropped", at.index()),
            )
            .with_state(format!("{} was left as it is", at.index()))
            .with_hint(HINT_STALE));
        }
        if expires(at.step) {
            // Right before: hours may have passed since the plan was compared, and a collection that was not there may have come.
            let asked = ask_again(self.context, at.namespace, at.planned, self.expire_max).await;
            asked.map_err(|error| error.with_state(format!("{} was left as it is", at.index())))?;
        }
        let place = || (self.hash, at.namespace.database.clone(), at.namespace.collection.clone());
        let (plan, database, collection) = place();
        self.records
            .write(&Record::Begun {
                plan,
                database,
                collection,
                step: at.step.clone(),
                before: live.as_ref().map(|live| live.definition.clone()),
                at: self.context.clock.now(),
                by: self.context.holder.to_owned(),
            })
            .await?;
        self.act(at).await?;
        let live = self.listed(at).await?;
        if !holds(at.step, live.as_ref()) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the server agreed and {} is not as it was to be", at.index()),
            )
            .with_hint(
                "somebody else changes the same index: see `mainstay index drift`, then apply again",
            ));
        }
        let (plan, database, collection) = place();
        let (step, at) = (at.step.clone(), self.context.clock.now());
        self.records.write(&Record::Done { plan, database, collection, step, at }).await?;
        Ok(false)
    }

    async fn act(&self, at: At<'_>) -> Result<()> {
        let change =
            |change| self.context.control.change_index(at.namespace, at.step.index(), change, self.permit);
        match at.step {
            Step::Build { definition, .. } => self.build(at, definition).await,
            Step::PrepareUnique { .. } => change(IndexChange::PrepareUnique { on: true }).await,
            Step::AcceptDuplicates { .. } => change(IndexChange::PrepareUnique { on: false }).await,
            Step::MakeUnique { .. } => self.make_unique(at).await,
            Step::SetTtl { seconds, .. } => change(IndexChange::TtlSeconds { seconds: *seconds }).await,
            Step::Hide { .. } => change(IndexChange::Hidden { hidden: true }).await,
            Step::Show { .. } => change(IndexChange::Hidden { hidden: false }).await,
            Step::Drop { .. } => {
                self.context.control.drop_index(at.namespace, at.step.index(), self.permit).await.map(drop)
            }
        }
    }

    /// The index as the server lists it now.
    async fn listed(&self, at: At<'_>) -> Result<Option<ListedIndex>> {
        let live = self.context.control.indexed_collection(at.namespace).await?;
        let indexes = live.map(|live| live.indexes).unwrap_or_default();
        Ok(indexes.into_iter().find(|index| index.name == at.step.index()))
    }

    /// Builds, or waits for the build of the same index that is under way.
    async fn build(&self, at: At<'_>, definition: &Ejson) -> Result<()> {
        for _ in 0..BUILD_TRIES_MAX {
            match self.listed(at).await? {
                Some(live) if live.is_ready() => return Ok(()),
                Some(_) => self.wait(at).await?,
                None => return self.begin_build(at, definition).await,
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("builds of {} end again and again without an index", at.index()),
        )
        .with_hint("look into the server's log, then apply the same plan again"))
    }

    /// Waits for a build that goes on without us.
    async fn wait(&self, at: At<'_>) -> Result<()> {
        self.context.observer.notice(&format!("a build of {} is under way: it is waited for", at.index()));
        let mut shown = Shown::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.context.cancel.cancelled() => return self.abandon(at).await,
                () = self.lease.lost().cancelled_owned() => return self.lease.check(),
            }
            match self.listed(at).await? {
                Some(live) if !live.is_ready() => self.show(at, &mut shown).await,
                _ => return Ok(()),
            }
        }
    }

    /// Stops waiting. The build is ended when this plan has begun it.
    async fn abandon(&self, at: At<'_>) -> Result<()> {
        let records = self.records.all().await?;
        if !has_begun(&records, &self.hash, at.namespace, at.step) {
            return Err(
                stopped().with_state(format!("the build of {} goes on: somebody else began it", at.index()))
            );
        }
        self.end_build(at).await
    }

    async fn begin_build(&self, at: At<'_>, definition: &Ejson) -> Result<()> {
        let definitions = [definition.value().clone()];
        let creating = self.context.control.create_indexes(at.namespace, &definitions, None, self.permit);
        tokio::pin!(creating);
        let watching = async {
            let mut shown = Shown::default();
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                self.show(at, &mut shown).await;
            }
        };
        tokio::pin!(watching);
        tokio::select! {
            created = &mut creating => return created.map_err(|error| refused(at, error)),
            () = &mut watching => {}
            () = self.context.cancel.cancelled() => {}
            () = self.lease.lost().cancelled_owned() => return self.lease.check(),
        }
        // The build may not have begun yet, so it is dropped until the server has answered.
        let deadline = tokio::time::Instant::now() + ABORT_TIME_MAX;
        while tokio::time::Instant::now() < deadline {
            self.context.control.drop_index(at.namespace, at.step.index(), self.permit).await?;
            if tokio::time::timeout(LOOK_EVERY, &mut creating).await.is_ok() {
                break;
            }
        }
        self.end_build(at).await
    }

    /// Ends a build, and sees that nothing of it stays.
    async fn end_build(&self, at: At<'_>) -> Result<()> {
        self.context.control.drop_index(at.namespace, at.step.index(), self.permit).await?;
        if self.listed(at).await?.is_some() {
            return Err(Error::new(
                ErrorKind::Server,
                format!("the server does not let go of the build of {}", at.index()),
            )
            .with_hint("`mainstay mongo ops` shows it; apply the same plan again to wait for it"));
        }
        self.undone(at, "stopped on request").await?;
        Err(stopped().with_state(format!("the build of {} was ended, nothing of it is left", at.index())))
    }

    /// Tells how far a build is, where the server and this user's rights let it be seen.
    async fn show(&self, at: At<'_>, shown: &mut Shown) {
        let Ok(builds) = self.context.control.index_builds(Some(&at.namespace.database)).await else {
            return;
        };
        let is_it = |build: &&IndexBuild| {
            build.namespace == *at.namespace && build.indexes.iter().any(|name| name == at.step.index())
        };
        if let Some(build) = builds.iter().filter(is_it).max_by_key(|build| (build.phase, build.done)) {
            shown.tell(&at.index(), build, self.context.observer);
        }
    }

    /// Asks the server for duplicates, and converts when there are none; else new ones are accepted again.
    async fn make_unique(&self, at: At<'_>) -> Result<()> {
        let name = at.step.index();
        let verdict = self.context.control.try_unique(at.namespace, name).await?;
        if !verdict.violations.is_empty() {
            return Err(self.back_out(at, duplicates(at, &verdict.violations)).await);
        }
        let converted =
            self.context.control.change_index(at.namespace, name, IndexChange::Unique, self.permit).await;
        match converted {
            Err(error) if error.kind() == ErrorKind::Conflict => Err(self.back_out(at, error).await),
            converted => converted,
        }
    }

    /// Accepts duplicates again, and gives back why.
    async fn back_out(&self, at: At<'_>, why: Error) -> Error {
        let accept = IndexChange::PrepareUnique { on: false };
        let accepted = async {
            self.context.control.change_index(at.namespace, at.step.index(), accept, self.permit).await?;
            self.undone(at, why.message()).await?;
            let prepare = Step::PrepareUnique { name: at.step.index().to_owned() };
            self.undone(At { step: &prepare, ..at }, why.message()).await
        };
        match accepted.await {
            Ok(()) => {
                why.with_state(format!("{} is as it was before: plain, and accepts duplicates", at.index()))
            }
            Err(error) => why.with_state(format!(
                "{} refuses new duplicates and is not unique, since it could not be put back: {error}",
                at.index()
            )),
        }
    }

    async fn undone(&self, at: At<'_>, why: &str) -> Result<()> {
        self.records
            .write(&Record::Undone {
                plan: self.hash,
                database: at.namespace.database.clone(),
                collection: at.namespace.collection.clone(),
                step: at.step.clone(),
                why: why.to_owned(),
                at: self.context.clock.now(),
            })
            .await
    }
}

/// Whether an index is what `step` leads to.
fn holds(step: &Step, live: Option<&ListedIndex>) -> bool {
    match (step, live) {
        (Step::Drop { .. }, live) => live.is_none(),
        (_, None) => false,
        (Step::Build { definition, .. }, Some(live)) => {
            live.is_ready()
                && ListedIndex::read(definition.value()).is_ok_and(|wanted| wanted.spec == live.spec)
        }
        (Step::PrepareUnique { .. }, Some(live)) => live.prepare_unique || live.spec.unique,
        (Step::AcceptDuplicates { .. }, Some(live)) => !live.prepare_unique,
        (Step::MakeUnique { .. }, Some(live)) => live.spec.unique,
        (Step::SetTtl { seconds, .. }, Some(live)) => {
            live.spec.ttl_seconds == Some(*seconds) && !live.ttl_is_no_number
        }
        (Step::Hide { .. }, Some(live)) => live.spec.hidden,
        (Step::Show { .. }, Some(live)) => !live.spec.hidden,
    }
}

/// Whether a step that drops meets the index that was seen when it was planned; every other step goes on from what it meets.
fn drops_what_was_planned(step: &Step, live: Option<&ListedIndex>) -> bool {
    let Step::Drop { definition, .. } = step else { return true };
    let planned = ListedIndex::read(definition.value());
    matches!((planned, live), (Ok(planned), Some(live)) if is_same(&planned, live))
}

/// Whether documents may expire by a step.
fn expires(step: &Step) -> bool {
    match step {
        Step::Build { definition, .. } => ListedIndex::read(definition.value())
            .is_ok_and(|index| index.spec.ttl_seconds.is_some_and(|seconds| seconds < TTL_NEVER)),
        Step::SetTtl { seconds, .. } => *seconds < TTL_NEVER,
        _ => false,
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Interrupted, "the change of indexes was stopped on request")
        .with_hint("apply the same plan again: it goes on")
}

/// Duplicates that the server's dry run named.
fn duplicates(at: At<'_>, violations: &[Vec<Json>]) -> Error {
    let group = |ids: &Vec<Json>| ids.iter().map(Json::to_string).collect::<Vec<_>>().join(", ");
    let named: Vec<String> = violations.iter().take(GROUPS_TOLD).map(group).collect();
    let more = violations.len().saturating_sub(GROUPS_TOLD);
    let rest = if more > 0 { format!("; and {} more", Count(more as u64)) } else { String::new() };
    Error::new(
        ErrorKind::StalePlan,
        format!(
            "{} keys of {} are those of several documents by now, _id {}{rest}",
            Count(violations.len() as u64),
            at.index(),
            named.join("; _id ")
        ),
    )
    .with_hint("remove or change all but one document of each group, then plan again")
}

/// The server's refusal to build, with what to do about it. Without its answer nobody knows whether it builds on.
fn refused(at: At<'_>, error: Error) -> Error {
    if error.is_temporary() || error.kind() == ErrorKind::Unreachable {
        return error
            .with_state(format!("the build of {} may go on in the server", at.index()))
            .with_hint("apply the same plan again: it waits for it");
    }
    let error = error.with_state(format!("nothing is left of the build of {}", at.index()));
    match error.kind() {
        ErrorKind::Conflict if error.hint().is_none() => error
            .with_hint("plan again: `mainstay index plan` counts duplicates, and sees names that are taken"),
        // The same plan would be refused again.
        ErrorKind::Server if error.hint().is_none() && error.status() == ErrorStatus::Permanent => {
            error.with_hint("the server does not take this index: correct the manifest, then plan again")
        }
        _ => error,
    }
}

/// What was told of a build.
#[derive(Default)]
struct Shown {
    phase: Option<BuildPhase>,
    done: u64,
}

impl Shown {
    fn tell(&mut self, index: &str, build: &IndexBuild, observer: &dyn Observer) {
        if self.phase != Some(build.phase) {
            *self = Self { phase: Some(build.phase), done: 0 };
            let phase = match build.phase {
                BuildPhase::Waiting => "waits to begin, or for other members",
                BuildPhase::Scanning => "reads the collection (1 of 3)",
                BuildPhase::Inserting => "inserts sorted keys (2 of 3)",
                BuildPhase::Draining => "takes in what was written meanwhile (3 of 3)",
            };
            observer.phase(&format!("build {index}: {phase}"));
        }
        if let Some(total) = build.total {
            observer.expect(Work { items: total, bytes: 0 });
        }
        let done = build.done.unwrap_or(0);
        observer.advance(Work { items: done.saturating_sub(self.done), bytes: 0 });
        self.done = self.done.max(done);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_indexes::{Change, ChangeKind};
    use mainstay_model::ErrorStatus;

    use super::*;

    fn listed(text: &str) -> ListedIndex {
        ListedIndex::read(&Json::parse(text).unwrap()).unwrap()
    }

    #[test]
    fn only_what_was_planned_is_dropped() {
        let hidden = r#"{"v":2,"key":{"a":1},"name":"a_1","hidden":true}"#;
        let planned = listed(hidden);
        let step = Step::Drop { name: "a_1".to_owned(), definition: planned.definition.clone() };
        for (live, expected) in [
            (hidden, true),
            (r#"{"v":1,"key":{"a":{"$numberInt":"1"}},"name":"a_1","hidden":true}"#, true),
            (r#"{"v":2,"key":{"a":1},"name":"a_1"}"#, false),
            (r#"{"v":2,"key":{"b":1},"name":"a_1","hidden":true}"#, false),
            (r#"{"v":2,"key":{"a":1},"name":"a_1","hidden":true,"unique":true}"#, false),
            (r#"{"spec":{"v":2,"key":{"a":1},"name":"a_1","hidden":true},"buildUUID":"1"}"#, false),
        ] {
            assert_eq!(drops_what_was_planned(&step, Some(&listed(live))), expected, "{live}");
        }
        assert!(!drops_what_was_planned(&step, None));
        assert!(drops_what_was_planned(&Step::Hide { name: "a_1".to_owned() }, None));
    }

    #[test]
    fn what_is_left_of_a_build_is_told_as_far_as_it_is_known() {
        let definition = listed(r#"{"key":{"a":1},"name":"a_1"}"#).definition;
        let step = Step::Build { name: "a_1".to_owned(), definition };
        let change = Change {
            index: "a_1".to_owned(),
            kind: ChangeKind::Build,
            what: String::new(),
            how: String::new(),
            steps: vec![step.clone()],
            checks: Vec::new(),
            notes: Vec::new(),
            blocked: None,
        };
        let planned = PlannedChange { change, commands: Vec::new(), answers: Vec::new(), estimate: None };
        let namespace = Namespace::new("shop", "c");
        let at = At { namespace: &namespace, planned: &planned, step: &step };
        for (error, expected) in [
            (
                Error::new(ErrorKind::Conflict, "keys are shared"),
                "nothing is left of the build of shop.c.a_1",
            ),
            (Error::new(ErrorKind::Unreachable, "gone"), "the build of shop.c.a_1 may go on in the server"),
            (
                Error::new(ErrorKind::Server, "busy").with_status(ErrorStatus::Temporary),
                "the build of shop.c.a_1 may go on in the server",
            ),
            (
                Error::new(ErrorKind::Unreachable, "gone").with_status(ErrorStatus::Persistent),
                "the build of shop.c.a_1 may go on in the server",
            ),
        ] {
            let told = refused(at, error);
            assert_eq!(told.state(), Some(expected));
            assert_eq!(
                told.hint().is_some_and(|hint| hint.contains("waits")),
                expected.contains("may go on")
            );
        }
    }
}
