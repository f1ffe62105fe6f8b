//! Loading as a plan says.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{StreamExt, TryFutureExt, stream};
use jiff::SignedDuration;
use mainstay_engine::{
    AccountMerge, AccountStore, ChangeReplay, CollectionKind, DocumentSink, DocumentSource, Namespace,
};
use mainstay_guard::Permit;
use mainstay_journal::KeptLease;
use mainstay_model::progress::{Observer, Work as Amount};
use mainstay_model::{Clock, Error, ErrorKind, Plan, Result, RunId};
use mainstay_repository::Repository;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::archive::{Reading, Wanted};
use super::directory;
use super::dump::{Dump, Found, Input, open_file};
use super::feed::{Draft, Feed, Source};
use super::oplog::{Judged, OplogReport, explained};
use super::plan::stamp_assumption;
use crate::placement::run::{Event, Run};
use crate::placement::{
    BroughtAccounts, FinishSlots, Item, ItemReport, Moment, Parameters, Placement, PlacementContext,
    SHADOW_PREFIX, Turn, Way, existing_collections, leased, stoppable,
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
    /// The target, for replaying an oplog.
    pub replay: &'a dyn ChangeReplay,
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
    /// The oplog that was replayed; `None` when none was.
    pub oplog: Option<OplogReport>,
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

/// A collection of the plan, and where its documents are.
struct Chosen {
    /// Its position in the plan.
    index: usize,
    draft: Draft,
    /// The entry of its documents in an archive; `None` for what an oplog has created.
    entry: Option<usize>,
    /// The file of its documents in a folder.
    file: Option<PathBuf>,
}

impl Chosen {
    fn amount(&self) -> Amount {
        let digest = self.draft.digest.unwrap_or_default();
        Amount { items: digest.documents, bytes: digest.bytes }
    }

    fn without_documents<'w>(self) -> Turn<'w> {
        (self.index, Box::new(self.draft.content(1, Source::Nothing)))
    }

    fn with_file<'w>(self, connections: usize) -> Turn<'w> {
        let connections = self.draft.connections(connections);
        let source = self.file.map_or(Source::Nothing, Source::File);
        (self.index, Box::new(self.draft.content(connections, source)))
    }
}

/// What is loaded.
struct Collections {
    collections: Vec<Chosen>,
    views: Vec<Chosen>,
    /// How many collections of the archive are open at one time.
    open_max: usize,
}

impl Collections {
    fn amount(&self) -> Amount {
        self.collections.iter().map(Chosen::amount).sum()
    }
}

/// The collections of the plan, from what was found in the dump and what its oplog makes of it.
fn choose(found: Vec<Found>, oplog: Option<&Judged>, items: &[Item]) -> Result<Vec<Chosen>> {
    let gone = || Error::new(ErrorKind::StalePlan, "the dump does not hold what the plan says");
    let mut found: HashMap<Namespace, Found> =
        found.into_iter().map(|found| (found.namespace.clone(), found)).collect();
    let Some(oplog) = oplog else {
        let chosen = items.iter().enumerate().map(|(index, item)| {
            let found = found.remove(&item.source).ok_or_else(gone)?;
            let (entry, file) = (Some(found.entry), found.file.clone());
            Ok(Chosen { index, draft: found.draft(), entry, file })
        });
        return chosen.collect();
    };
    let chosen = items.iter().enumerate().map(|(index, item)| {
        let point = oplog.collections().iter().find(|point| point.namespace == item.source);
        let point = point.ok_or_else(gone)?;
        let origin = point.origin.as_ref().map(|origin| found.remove(origin).ok_or_else(gone)).transpose()?;
        let draft = Draft {
            kind: point.kind,
            metadata: point.metadata.clone(),
            digest: Some(origin.as_ref().and_then(|origin| origin.digest).unwrap_or_default()),
            log: oplog.logged(point),
        };
        let (entry, file) = origin.map_or((None, None), |origin| (Some(origin.entry), origin.file));
        Ok(Chosen { index, draft, entry, file })
    });
    chosen.collect()
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
        let Dump { input, found, oplog, open_max, .. } = dump;
        let oplog = oplog.judged();
        let chosen = choose(found, oplog, &parameters.items)?;
        let (views, collections) =
            chosen.into_iter().partition(|chosen| chosen.draft.kind == CollectionKind::View);
        let collections = Collections { collections, views, open_max };
        let mut reports = match input {
            Input::Archive(path) => {
                let mut reading = open_file(&path)?.0;
                reading.prelude().await?;
                self.load_archive(reading, collections, oplog).await?
            }
            Input::Pipe(reading) => self.load_archive(reading, collections, oplog).await?,
            Input::Folder(_) => self.load_folder(collections, oplog).await?,
            Input::Spent => return Err(Error::new(ErrorKind::Internal, "the dump has been read already")),
        };
        reports.sort_by_key(|(index, _)| *index);
        let items: Vec<ItemReport> = reports.into_iter().map(|(_, report)| report).collect();
        let accounts = self.placement.merge_accounts(accounts.as_ref()).await?;
        if items.iter().all(|item| item.failure_count == 0) {
            run.record(Event::Completed).await?;
        }
        Ok(LoadReport { run: run.id.clone(), items, accounts, oplog: oplog.map(Judged::report) })
    }

    /// Loads what comes, in the archive's order.
    async fn load_archive(
        self,
        reading: Reading,
        collections: Collections,
        oplog: Option<&Judged>,
    ) -> Result<Vec<(usize, ItemReport)>> {
        let documents = collections.amount();
        let Collections { collections, views, open_max } = collections;
        let connections = self.placement.parameters.load_count_max / open_max.max(1);
        let (mut wanted, mut unheld) = (HashMap::new(), views);
        for chosen in collections {
            match chosen.entry {
                Some(entry) => {
                    let Chosen { index, draft, .. } = chosen;
                    let connections = draft.connections(connections);
                    wanted.insert(entry, Wanted { index, draft, connections });
                }
                None => unheld.push(chosen),
            }
        }
        let unheld = unheld.into_iter().map(Chosen::without_documents);
        let (announce, announced) = mpsc::channel(1);
        let announced = stream::unfold(announced, |mut announced| async move {
            announced.recv().await.map(|work: Turn<'_>| (work, announced))
        });
        // Whoever reads waits for room in the feeds of all open collections, so all of them must be under way at the same time.
        let at_once = open_max + FINISHING_COUNT_MAX;
        let Some(oplog) = oplog else {
            self.begin_phase(documents);
            let brought = self.placement.bring(announced, at_once);
            let (mut reports, ()) =
                futures::try_join!(brought, reading.spread(wanted, None, open_max, announce))?;
            // Views last, so that what they read stands before them.
            reports.extend(self.placement.bring(stream::iter(unheld), COLLECTION_COUNT_MAX).await?);
            return Ok(reports);
        };
        let (feeding, feed) = Feed::new();
        let moment = self.moment(oplog, feed);
        let turns = stream::iter(unheld).chain(announced);
        let brought = self.placement.bring_together(turns, at_once, documents, moment).map_err(explained);
        let fed = oplog.entry.map(|entry| (entry, feeding));
        let (reports, ()) = futures::try_join!(brought, reading.spread(wanted, fed, open_max, announce))?;
        Ok(reports)
    }

    async fn load_folder(
        self,
        collections: Collections,
        oplog: Option<&Judged>,
    ) -> Result<Vec<(usize, ItemReport)>> {
        let documents = collections.amount();
        let Collections { mut collections, views, .. } = collections;
        // Largest first, so that the longest load does not begin last.
        collections.sort_by_key(|chosen| std::cmp::Reverse(chosen.amount().bytes));
        let connections = self.placement.parameters.load_count_max.div_ceil(COLLECTION_COUNT_MAX);
        let collections = collections.into_iter().map(|chosen| chosen.with_file(connections));
        let views = views.into_iter().map(Chosen::without_documents);
        let Some(oplog) = oplog else {
            self.begin_phase(documents);
            let mut reports = self.placement.bring(stream::iter(collections), COLLECTION_COUNT_MAX).await?;
            // Views last, so that what they read stands before them.
            reports.extend(self.placement.bring(stream::iter(views), COLLECTION_COUNT_MAX).await?);
            return Ok(reports);
        };
        let file = oplog
            .file
            .clone()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the oplog that was judged is in no file"))?;
        let moment = self.moment(oplog, directory::feed(file));
        let turns = stream::iter(collections.chain(views));
        self.placement.bring_together(turns, COLLECTION_COUNT_MAX, documents, moment).await.map_err(explained)
    }

    fn begin_phase(self, documents: Amount) {
        self.context.observer.phase("load");
        self.context.observer.expect(documents);
    }

    fn moment(&self, oplog: &Judged, feed: Feed) -> Moment<'_> {
        Moment { replay: self.context.replay, log: Box::new(oplog.log(feed)) }
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
