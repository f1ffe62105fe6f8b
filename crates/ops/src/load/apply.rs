//! Loading as a plan says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::stream;
use jiff::SignedDuration;
use mainstay_engine::{AccountMerge, AccountStore, CollectionKind, DocumentSink, DocumentSource, Namespace};
use mainstay_guard::Permit;
use mainstay_journal::KeptLease;
use mainstay_model::progress::{Observer, Work as Amount};
use mainstay_model::{Clock, Error, ErrorKind, Plan, Result, RunId};
use mainstay_repository::Repository;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::archive::{Reading, Wanted};
use super::dump::{Dump, Found, Input, open_file};
use super::feed::Source;
use super::plan::stamp_assumption;
use crate::placement::run::{Event, Run};
use crate::placement::{
    BroughtAccounts, FinishSlots, ItemReport, Parameters, Placement, PlacementContext, SHADOW_PREFIX, Way,
    Work, existing_collections, leased, stoppable,
};

/// How many collections of a folder are worked on at the same time.
const COLLECTION_COUNT_MAX: usize = 3;
/// How many collections beside the open ones may be under way: proven, indexed, put in place.
const FINISHING_COUNT_MAX: usize = 3;

/// What a load works with.
pub struct LoadContext<'a> {
    /// The target, for reading: what exists, and the proof.
    pub source: &'a dyn DocumentSource,
    /// The target, for writing.
    pub sink: &'a dyn DocumentSink,
    /// The target's users and roles.
    pub accounts: &'a dyn AccountStore,
    /// Where journal and lease are kept, if there is one.
    pub repository: Option<&'a Repository>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who runs this, for the lease: `user@host`.
    pub holder: &'a str,
    /// How long the lease lives without being renewed.
    pub lease_ttl: SignedDuration,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops at the next batch.
    pub cancel: &'a CancellationToken,
}

/// What a load did.
#[derive(Debug)]
pub struct LoadReport {
    /// Its run.
    pub run: RunId,
    /// The collections of the plan, in its order.
    pub items: Vec<ItemReport>,
    /// What became of users and roles; `None` when they were not asked for.
    pub accounts: Option<AccountMerge>,
}

impl LoadReport {
    /// Documents that are not at the target, over all collections.
    pub fn failure_count(&self) -> u64 {
        self.items.iter().map(|item| item.failure_count).sum()
    }

    /// Whether every collection was proven equal to the dump and described equally by the server.
    pub fn is_proven(&self) -> bool {
        self.items.iter().all(ItemReport::is_proven)
    }
}

/// Loads as `plan` says.
///
/// # Errors
/// `StalePlan` when the dump or the world has changed; `Corrupt` when a pipe's dump turns out to be damaged; `Server` when documents were
/// refused; `Locked`, `Interrupted`. What had been loaded beside the names is removed then; what is in place stays, and the state says how much.
pub async fn apply(
    context: &LoadContext<'_>,
    dump: Dump,
    plan: &Plan,
    permit: &Permit,
) -> Result<LoadReport> {
    permit.covers(plan)?;
    let parameters = Parameters::of(plan)?;
    let placement_context = PlacementContext {
        source: context.source,
        sink: context.sink,
        repository: context.repository,
        clock: Arc::clone(&context.clock),
        holder: context.holder,
        lease_ttl: context.lease_ttl,
        observer: context.observer,
        cancel: context.cancel,
        finish_slots: FinishSlots::default(),
    };
    let work = async |lease: Option<&KeptLease>| {
        let run = match context.repository {
            Some(repository) => Run::open(repository, plan).await?,
            None => Run::unkept(plan)?,
        };
        let placement = Placement {
            context: &placement_context,
            plan,
            parameters: &parameters,
            permit,
            run: &run,
            lease,
        };
        let accounts = accounts_to_bring(context, &dump, &parameters)?;
        let of_dump = dump.stamp.map(stamp_assumption);
        let of_accounts = placement.accounts_seen(accounts.as_ref()).await?;
        placement.check(of_dump.into_iter().chain(of_accounts).collect()).await?;
        placement.begin().await?;
        let load = Load { context, placement };
        match stoppable(&placement_context, lease, load.run(dump, accounts)).await {
            Ok(report) => Ok(report),
            Err(error) => Err(load.clean_up(error).await),
        }
    };
    leased(&placement_context, &plan.target.fingerprint, work).await
}

/// The dump's users and roles, if the plan merges them.
fn accounts_to_bring<'a>(
    context: &LoadContext<'a>,
    dump: &Dump,
    parameters: &Parameters,
) -> Result<Option<BroughtAccounts<'a>>> {
    if !parameters.origin.merges_accounts() {
        return Ok(None);
    }
    let brought = dump.brought_accounts(context.accounts);
    brought.map(Some).ok_or_else(|| Error::new(ErrorKind::StalePlan, "the dump holds no users and roles"))
}

/// One application of one plan.
#[derive(Clone, Copy)]
struct Load<'a> {
    context: &'a LoadContext<'a>,
    placement: Placement<'a>,
}

impl Load<'_> {
    async fn run(self, dump: Dump, accounts: Option<BroughtAccounts<'_>>) -> Result<LoadReport> {
        let Placement { parameters, run, .. } = self.placement;
        self.context.observer.phase("load");
        let positions: HashMap<&Namespace, usize> =
            parameters.items.iter().enumerate().map(|(index, item)| (&item.source, index)).collect();
        let mut chosen: BTreeMap<usize, Found> = BTreeMap::new();
        for found in dump.found {
            if let Some(index) = positions.get(&found.namespace) {
                chosen.insert(*index, found);
            }
        }
        if chosen.len() != parameters.items.len() {
            return Err(Error::new(ErrorKind::StalePlan, "the dump does not hold what the plan says"));
        }
        let known = chosen.values().filter_map(|found| found.digest);
        self.context
            .observer
            .expect(known.map(|digest| Amount { items: digest.documents, bytes: digest.bytes }).sum());
        let (views, collections): (Vec<_>, Vec<_>) =
            chosen.into_iter().partition(|(_, found)| found.kind == CollectionKind::View);
        let mut reports = match dump.input {
            Input::Archive(path) => {
                let mut reading = open_file(&path)?.0;
                reading.prelude().await?;
                self.load_archive(reading, collections, dump.open_max).await?
            }
            Input::Pipe(reading) => self.load_archive(reading, collections, dump.open_max).await?,
            Input::Folder(_) => self.load_folder(collections).await?,
            Input::Spent => return Err(Error::new(ErrorKind::Internal, "the dump has been read already")),
        };
        // Views last, so that what they read stands before them.
        let works = views
            .into_iter()
            .map(|(index, found)| -> Work<'_> { (index, Box::new(found.content(1, Source::Nothing))) });
        reports.extend(self.placement.bring(stream::iter(works), COLLECTION_COUNT_MAX).await?);
        reports.sort_by_key(|(index, _)| *index);
        let items: Vec<ItemReport> = reports.into_iter().map(|(_, report)| report).collect();
        let accounts = self.placement.merge_accounts(accounts.as_ref()).await?;
        if items.iter().all(|item| item.failure_count == 0) {
            run.record(Event::Completed).await?;
        }
        Ok(LoadReport { run: run.id.clone(), items, accounts })
    }

    /// Loads what comes, in the archive's order.
    async fn load_archive(
        self,
        reading: Reading,
        collections: Vec<(usize, Found)>,
        open_max: usize,
    ) -> Result<Vec<(usize, ItemReport)>> {
        let connections = self.placement.parameters.load_count_max / open_max.max(1);
        let wanted: HashMap<usize, Wanted> = collections
            .into_iter()
            .map(|(index, found)| {
                let connections = found.connections(connections);
                let Found { entry, kind, metadata, digest, .. } = found;
                (entry, Wanted { index, kind, metadata, digest, connections })
            })
            .collect();
        let (announce, announced) = mpsc::channel(1);
        let works = stream::unfold(announced, |mut announced| async move {
            announced.recv().await.map(|work: Work<'_>| (work, announced))
        });
        // Whoever reads waits for room in the feeds of all open collections, so all of them must be under way at the same time.
        let brought = self.placement.bring(works, open_max + FINISHING_COUNT_MAX);
        let (reports, ()) = futures::try_join!(brought, reading.spread(wanted, open_max, announce))?;
        Ok(reports)
    }

    async fn load_folder(self, mut collections: Vec<(usize, Found)>) -> Result<Vec<(usize, ItemReport)>> {
        // Largest first, so that the longest load does not begin last.
        collections
            .sort_by_key(|(_, found)| std::cmp::Reverse(found.digest.map_or(0, |digest| digest.bytes)));
        let connections = self.placement.parameters.load_count_max.div_ceil(COLLECTION_COUNT_MAX);
        let works = collections.into_iter().map(|(index, found)| -> Work<'_> {
            let connections = found.connections(connections);
            let source = found.file.clone().map_or(Source::Nothing, Source::File);
            (index, Box::new(found.content(connections, source)))
        });
        self.placement.bring(stream::iter(works), COLLECTION_COUNT_MAX).await
    }

    /// Removes what a failed load was loading beside the names, and says how the server stands.
    async fn clean_up(self, error: Error) -> Error {
        let Placement { parameters, run, .. } = self.placement;
        let far = format!("{} of {} collections are in place", run.placed(), parameters.items.len());
        let left = match self.remove_shadows().await {
            Ok(()) => "what was loaded beside them is removed".to_owned(),
            Err(why) => format!(
                "what was loaded beside them begins with `{SHADOW_PREFIX}` and could not be removed: {why}"
            ),
        };
        let before = error.state().map(|state| format!("{state}; ")).unwrap_or_default();
        let error = error.with_state(format!("{before}{far}; {left}"));
        if error.hint().is_some() {
            return error;
        }
        error.with_hint(
            "correct the cause and load again; what is in place can be left out with `--ns-exclude`",
        )
    }

    async fn remove_shadows(self) -> Result<()> {
        let Placement { context, parameters, run, permit, .. } = self.placement;
        run.record(Event::Abandoning).await?;
        let beside = |way| matches!(way, Way::Create | Way::Swap);
        let shadows: Vec<Namespace> = { parameters.items.iter().enumerate() }
            .filter(|(_, item)| beside(item.way))
            .map(|(index, item)| run.shadow(index, &item.target))
            .collect();
        for shadow in existing_collections(context.source, shadows.iter()).await?.into_keys() {
            context.sink.drop_collection(&shadow, permit).await?;
        }
        run.record(Event::Abandoned).await
    }
}
