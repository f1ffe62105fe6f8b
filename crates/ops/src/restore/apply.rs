//! Applying a restore plan.

use std::sync::Arc;

use futures::stream;
use jiff::SignedDuration;
use mainstay_engine::{
    AccountMerge, AccountStore, ChangeReplay, CollectionKind, DocumentSink, DocumentSource, Until,
};
use mainstay_guard::Permit;
use mainstay_journal::KeptLease;
use mainstay_model::progress::{Observer, Work as Amount};
use mainstay_model::{
    Assumption, ChainId, Clock, Error, ErrorKind, OpTime, Plan, Result, ResultExt, RunId, SetId, Severity,
    StoreKind,
};
use mainstay_repository::{Repository, Set};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::accounts;
use super::content::SetContent;
use super::log::{Log, StoredLog};
use super::plan::manifest_assumption;
use super::point::PointContext;
use super::wanted::Wanted;
use crate::contents::DocumentSetContents;
use crate::inspect::inspect_objects;
use crate::placement::run::{Event, Run};
use crate::placement::{
    BroughtAccounts, Content, FinishSlots, ItemReport, LogSpan, Moment, Origin, Parameters, Placement,
    PlacementContext, Turn, leased, stoppable,
};

/// How many collections are worked on at the same time: one loads while another's indexes are built.
const COLLECTION_COUNT_MAX: usize = 3;

/// What a restore works with.
pub struct RestoreContext<'a> {
    /// The target, for reading: what exists, and the proof.
    pub source: &'a dyn DocumentSource,
    /// The target, for writing.
    pub sink: &'a dyn DocumentSink,
    /// The target, for replaying a log.
    pub replay: &'a dyn ChangeReplay,
    /// The target's users and roles.
    pub accounts: &'a dyn AccountStore,
    /// Where the set is, and where journal and lease are kept.
    pub repository: &'a Repository,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who runs this, for the lease: `user@host`.
    pub holder: &'a str,
    /// How long the lease lives without being renewed: so long a killed restore keeps others out.
    pub lease_ttl: SignedDuration,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops at the next batch; the same plan continues later.
    pub cancel: &'a CancellationToken,
}

impl<'a> RestoreContext<'a> {
    /// The same for the machinery below.
    pub(super) fn placement(&self) -> PlacementContext<'a> {
        PlacementContext {
            source: self.source,
            sink: self.sink,
            repository: Some(self.repository),
            clock: Arc::clone(&self.clock),
            holder: self.holder,
            lease_ttl: self.lease_ttl,
            observer: self.observer,
            cancel: self.cancel,
            finish_slots: FinishSlots::default(),
        }
    }
}

/// What a restore did.
#[derive(Debug)]
pub struct RestoreReport {
    /// Its run.
    pub run: RunId,
    /// Whether it continued an earlier try.
    pub resumed: bool,
    /// The moment that was restored; `None` for a set as it is.
    pub moment: Option<MomentReport>,
    /// The collections of the plan, in its order.
    pub items: Vec<ItemReport>,
    /// What became of users and roles; `None` when they were not asked for.
    pub accounts: Option<AccountMerge>,
}

/// A moment that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MomentReport {
    /// The end that was asked for.
    pub until: Until,
    /// The last entry of the log within it; `None` when the set was that far already.
    pub reached: Option<OpTime>,
    /// The set that was begun with.
    pub set: SetId,
    /// The chain that was replayed.
    pub chain: ChainId,
    /// Entries of the log up to the end, those of other collections included.
    pub entries: u64,
}

impl RestoreReport {
    /// Documents that are not at the target, over all collections.
    pub fn failure_count(&self) -> u64 {
        self.items.iter().map(|item| item.failure_count).sum()
    }

    /// Whether every collection was proven equal to what was stored and described equally by the server.
    pub fn is_proven(&self) -> bool {
        self.items.iter().all(ItemReport::is_proven)
    }
}

/// Restores as `plan` says.
///
/// # Errors
/// `StalePlan` when the world has moved; `Corrupt` when set or log are damaged (then nothing was written); `Locked` when another restore
/// works on this server; `Interrupted` when cancelled. After any error past the first write, applying the same plan again continues.
pub async fn apply(context: &RestoreContext<'_>, plan: &Plan, permit: &Permit) -> Result<RestoreReport> {
    permit.covers(plan)?;
    let parameters = Parameters::of(plan)?;
    let Origin::Set { set, .. } = &parameters.origin else {
        return Err(Error::new(ErrorKind::Usage, "the plan is not that of a restore"));
    };
    let set = context.repository.set(Some(StoreKind::Mongo), set).await.context("open backup set")?;
    let contents: DocumentSetContents = set.contents()?;
    let placement_context = context.placement();
    let work = async |lease: Option<&KeptLease>| {
        // Under the lease: what the journal says must stay true until this process has acted on it.
        let run = Run::open(context.repository, plan).await?;
        let placement = Placement {
            context: &placement_context,
            plan,
            parameters: &parameters,
            permit,
            run: &run,
            lease,
        };
        let restore = Restore { context, placement, set: &set, contents: &contents };
        let outcome = stoppable(&placement_context, lease, restore.run()).await;
        outcome.map_err(|error| with_state_of(error, &run, parameters.items.len()))
    };
    leased(&placement_context, &plan.target.fingerprint, work).await
}

/// Tells how far the run has come, and how to go on.
fn with_state_of(error: Error, run: &Run, total: usize) -> Error {
    if matches!(
        error.kind(),
        ErrorKind::StalePlan | ErrorKind::Refused | ErrorKind::Usage | ErrorKind::Locked
    ) {
        return error;
    }
    let far = format!("{} of {total} collections are in place", run.placed());
    let error = match error.state().map(str::to_owned) {
        Some(state) => error.with_state(format!("{state}; {far}")),
        None => error.with_state(far),
    };
    if error.hint().is_some() {
        return error;
    }
    error.with_hint(
        "apply the same plan again to continue, or give it up: `mainstay restore list` names the run",
    )
}

/// One application of one plan.
#[derive(Clone, Copy)]
struct Restore<'a> {
    context: &'a RestoreContext<'a>,
    placement: Placement<'a>,
    set: &'a Set,
    contents: &'a DocumentSetContents,
}

impl<'a> Restore<'a> {
    async fn run(self) -> Result<RestoreReport> {
        let run = self.placement.run;
        let accounts = self.accounts_to_bring().await?;
        let mut seen = self.seen();
        seen.extend(self.placement.accounts_seen(accounts.as_ref()).await?);
        let resumed = self.placement.check(seen).await?;
        let log = self.open_log().await?;
        let wanted = self.wanted(log.as_ref()).await?;
        self.check_set_whole(&wanted).await?;
        self.placement.begin().await?;
        let mut reports = self.reports(&wanted, log.as_ref()).await?;
        reports.sort_by_key(|(index, _)| *index);
        let items: Vec<ItemReport> = reports.into_iter().map(|(_, report)| report).collect();
        let accounts = self.placement.merge_accounts(accounts.as_ref()).await?;
        if items.iter().all(|item| item.failure_count == 0) {
            run.record(Event::Completed).await?;
        }
        let moment = log.map(|log| log.report(self.set.id()));
        Ok(RestoreReport { run: run.id.clone(), resumed, moment, items, accounts })
    }

    /// The set's users and roles, if the plan merges them.
    async fn accounts_to_bring(self) -> Result<Option<BroughtAccounts<'a>>> {
        if !self.placement.parameters.origin.merges_accounts() {
            return Ok(None);
        }
        accounts::read(self.set, self.contents, self.context.accounts).await.map(Some)
    }

    fn span(self) -> Option<&'a LogSpan> {
        match &self.placement.parameters.origin {
            Origin::Set { log, .. } => log.as_ref(),
            Origin::Dump { .. } | Origin::Stream => None,
        }
    }

    /// What is known of set and log before the log is read: what was taken for granted of it is compared when it has been.
    fn seen(self) -> Vec<Assumption> {
        let log_names = self.span().into_iter().flat_map(LogSpan::assumption_names);
        let of_log = log_names.filter_map(|name| self.placement.assumption(&name).cloned());
        std::iter::once(manifest_assumption(self.set)).chain(of_log).collect()
    }

    /// Reads the log that the plan names from beginning to end, and compares what it tells with what the plan was made with.
    async fn open_log(self) -> Result<Option<Log>> {
        let Some(span) = self.span() else { return Ok(None) };
        let RestoreContext { repository, replay, observer, .. } = *self.context;
        let context = PointContext {
            repository,
            replay,
            fingerprint: &self.placement.plan.target.fingerprint,
            observer,
        };
        let log = Log::open(&context, self.set, self.contents, span).await.map_err(|error| {
            if error.state().is_some() { error } else { error.with_state("nothing was changed by this run") }
        })?;
        let seen = log.assumptions()?;
        match seen.iter().find(|seen| self.placement.assumption(&seen.name) != Some(seen)) {
            None => Ok(Some(log)),
            Some(moved) => Err(Error::new(
                ErrorKind::StalePlan,
                format!("{} is no longer what the plan was made with: {}", moved.name, moved.value),
            )
            .with_state("nothing was changed by this run")
            .with_hint("make the plan again and review it")),
        }
    }

    /// What each collection of the plan must become, in the plan's order.
    async fn wanted(self, log: Option<&Log>) -> Result<Vec<Wanted<'a>>> {
        let mut wanted = Vec::with_capacity(self.placement.parameters.items.len());
        for item in &self.placement.parameters.items {
            wanted.push(match log {
                None => Wanted::of_record(self.set, self.contents.collection(&item.source)?).await?,
                Some(log) => Wanted::of_point(self.contents, log.collection(&item.source)?)?,
            });
        }
        Ok(wanted)
    }

    /// Reads back everything of the set that is needed; what is damaged is refused before the first write.
    async fn check_set_whole(self, wanted: &[Wanted<'_>]) -> Result<()> {
        let objects = match self.span() {
            // The definitions of all collections have been read for the survey.
            Some(_) => {
                self.contents.metadata_objects().chain(wanted.iter().flat_map(Wanted::objects)).collect()
            }
            None => wanted.iter().flat_map(Wanted::objects).collect(),
        };
        let findings =
            inspect_objects(self.context.repository, self.set, &objects, self.context.observer).await?;
        let damaged: Vec<String> = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Critical)
            .map(|finding| format!("{}: {}", finding.subject, finding.message))
            .collect();
        if damaged.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("backup set {} is damaged: {}", self.set.id(), damaged.join("; ")),
        )
        .with_state("nothing was changed by this run")
        .with_hint("choose another set: `mainstay backup list`"))
    }

    async fn reports(self, wanted: &[Wanted<'_>], log: Option<&Log>) -> Result<Vec<(usize, ItemReport)>> {
        let load_slots = Semaphore::new(self.placement.parameters.load_count_max);
        let mut turns: Vec<Turn<'_>> = wanted
            .iter()
            .enumerate()
            .map(|(index, wanted)| -> Turn<'_> {
                (index, Box::new(SetContent { set: self.set, wanted, load_slots: &load_slots }))
            })
            .collect();
        // Largest first, so that the longest load does not begin last.
        turns.sort_by_key(|(index, _)| std::cmp::Reverse(wanted[*index].digest().bytes));
        match log {
            None => self.one_by_one(turns).await,
            Some(log) => {
                let documents = turns.iter().map(|(_, content)| amount(content.as_ref())).sum();
                let log = Box::new(StoredLog { log, repository: self.context.repository });
                let moment = Moment { replay: self.context.replay, log };
                self.placement
                    .bring_together(stream::iter(turns), COLLECTION_COUNT_MAX, documents, moment)
                    .await
            }
        }
    }

    /// Takes each collection through all its steps; views last, so that what they read stands before them.
    async fn one_by_one(self, turns: Vec<Turn<'_>>) -> Result<Vec<(usize, ItemReport)>> {
        self.begin_phase("restore", turns.iter().map(|(_, content)| amount(content.as_ref())).sum());
        let (views, collections): (Vec<_>, Vec<_>) =
            turns.into_iter().partition(|(_, content)| content.kind() == CollectionKind::View);
        let mut reports = self.placement.bring(stream::iter(collections), COLLECTION_COUNT_MAX).await?;
        reports.extend(self.placement.bring(stream::iter(views), COLLECTION_COUNT_MAX).await?);
        Ok(reports)
    }

    fn begin_phase(self, name: &str, expected: Amount) {
        self.context.observer.phase(name);
        self.context.observer.expect(expected);
    }
}

/// The documents that `content` begins with.
fn amount(content: &dyn Content) -> Amount {
    let digest = content.digest().unwrap_or_default();
    Amount { items: digest.documents, bytes: digest.bytes }
}
