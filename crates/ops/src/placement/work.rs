//! Carrying a decided plan out, collection by collection.

use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use jiff::SignedDuration;
use mainstay_engine::{
    CollectionIdentity, CollectionInfo, CollectionKind, DocumentSink, DocumentSource, Namespace,
};
use mainstay_guard::Permit;
use mainstay_journal::KeptLease;
use mainstay_model::progress::Observer;
use mainstay_model::{Assumption, Clock, Count, Error, ErrorKind, Plan, Result, ResultExt};
use mainstay_repository::Repository;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::content::Content;
use super::decide::{Item, Parameters, Way, existing_collections, server_assumption, target_assumption};
use super::item::{ItemReport, ItemWork, Step};
use super::run::{Ending, Run, Stage};
use crate::lease::{self, Holder};

/// How many collections are proven and indexed at the same time.
const FINISH_COUNT_MAX: usize = 3;

/// Turns at proving and indexing: the server has one disk for all.
pub(crate) struct FinishSlots(Semaphore);

impl Default for FinishSlots {
    fn default() -> Self {
        Self(Semaphore::new(FINISH_COUNT_MAX))
    }
}

impl FinishSlots {
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        self.0.acquire().await.expect("the semaphore is never closed")
    }
}

/// What filling a server works with.
pub(crate) struct PlacementContext<'a> {
    pub(crate) source: &'a dyn DocumentSource,
    pub(crate) sink: &'a dyn DocumentSink,
    /// Where journal and lease are kept, if there is one.
    pub(crate) repository: Option<&'a Repository>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) holder: &'a str,
    pub(crate) lease_ttl: SignedDuration,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) cancel: &'a CancellationToken,
    pub(crate) finish_slots: FinishSlots,
}

/// Does `work` while holding the lease of those who fill one server, if there is a repository to keep it in. A lease that cannot be given back
/// runs out by itself.
pub(crate) async fn leased<T>(
    context: &PlacementContext<'_>,
    fingerprint: &str,
    work: impl AsyncFnOnce(Option<&KeptLease>) -> Result<T>,
) -> Result<T> {
    let Some(repository) = context.repository else { return work(None).await };
    let (name, lease_ttl, clock) = (context.holder, context.lease_ttl, Arc::clone(&context.clock));
    let lease = lease::take(repository, &Holder { name, lease_ttl, clock }, "restore", fingerprint).await?;
    let outcome = work(Some(&lease)).await;
    lease::give_back(lease, "restore", context.observer).await;
    outcome
}

/// Does `work` until it ends, is cancelled, or the lease is lost.
pub(crate) async fn stoppable<T>(
    context: &PlacementContext<'_>,
    lease: Option<&KeptLease>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let lost = async {
        match lease {
            Some(lease) => lease.lost().cancelled_owned().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = context.cancel.cancelled() => {
            Err(Error::new(ErrorKind::Interrupted, "the work was stopped on request").with_state(STOPPED))
        }
        () = lost => {
            let checked = lease.and_then(|lease| lease.check().err());
            let lost = || Error::new(ErrorKind::Locked, "the restore lease was lost");
            Err(checked.unwrap_or_else(lost).with_state(STOPPED))
        }
    }
}

/// How the server stands when a run was stopped from outside.
const STOPPED: &str = "what is in place stays, and under every other name stands what stood there before; \
                       a view or time series that was being replaced may be missing until the run continues";

/// One application of one plan.
#[derive(Clone, Copy)]
pub(crate) struct Placement<'a> {
    pub(crate) context: &'a PlacementContext<'a>,
    pub(crate) plan: &'a Plan,
    pub(crate) parameters: &'a Parameters,
    pub(crate) permit: &'a Permit,
    pub(crate) run: &'a Run,
    pub(crate) lease: Option<&'a KeptLease>,
}

/// A collection whose turn has come: its position in the plan's list, and where its documents come from.
pub(crate) type Turn<'a> = (usize, Box<dyn Content + 'a>);

impl<'a> Placement<'a> {
    /// Re-checks what the plan took for granted; `seen` is what is known of the origin now. Gives whether an earlier try has begun.
    ///
    /// # Errors
    /// `StalePlan` when the world has moved, or the run has ended.
    pub(crate) async fn check(self, seen: Vec<Assumption>) -> Result<bool> {
        let resumed = self.run.is_begun().await;
        self.check_open()?;
        self.check_world(seen, resumed)
            .await
            .map_err(|error| if resumed { after_begin(error) } else { error })?;
        self.tell_resumption(resumed);
        Ok(resumed)
    }

    /// Writes the beginning of the run down, if it is kept.
    pub(crate) async fn begin(self) -> Result<()> {
        match self.context.repository {
            Some(repository) => self.run.begin(repository, self.context.clock.as_ref(), self.plan).await,
            None => Ok(()),
        }
    }

    /// Refuses when the lease was lost.
    pub(crate) fn check_lease(self) -> Result<()> {
        self.lease.map_or(Ok(()), KeptLease::check)
    }

    fn check_open(self) -> Result<()> {
        let ended = match self.run.before.ending {
            Ending::Open => return Ok(()),
            Ending::Completed => "has been applied already",
            Ending::Abandoning | Ending::Abandoned => "was given up",
        };
        Err(Error::new(ErrorKind::StalePlan, format!("this plan {ended} (run {})", self.run.id))
            .with_state("nothing was changed")
            .with_hint(self.parameters.origin.anew()))
    }

    /// Compares what the plan took for granted with what is there now, but for names under which this run has already acted.
    async fn check_world(self, mut seen: Vec<Assumption>, resumed: bool) -> Result<()> {
        let facts = self.context.source.server_facts().await.context("ask the server which one it is")?;
        let mut target = self.plan.target.clone();
        target.fingerprint = facts.fingerprint;
        let targets = self.parameters.items.iter().map(|item| &item.target);
        let existing = existing_collections(self.context.source, targets).await?;
        seen.push(server_assumption(&target));
        for (index, item) in self.parameters.items.iter().enumerate() {
            let standing = existing.get(&item.target);
            let planned = self.planned(&item.target);
            seen.push(match planned {
                Some(planned) if self.has_acted(index, item, standing) => planned.clone(),
                _ => target_assumption(&item.target, standing),
            });
        }
        self.plan.check_assumptions(&seen)?;
        if resumed { Ok(()) } else { self.check_stake(&existing) }
    }

    /// Whether this run has already changed what stands under the item's name, so that it need not be as planned.
    fn has_acted(self, index: usize, item: &Item, standing: Option<&CollectionInfo>) -> bool {
        match self.run.before.stage(index) {
            Stage::Untouched => false,
            Stage::Placed => true,
            // What is made under its own name may stand there already, which is found out before anything is dropped.
            Stage::Begun => item.way == Way::DropFirst || item.kind != CollectionKind::Collection,
            // Views, of which the server tells no identity, are made under their own names.
            Stage::Created(None) => true,
            Stage::Created(uuid) | Stage::Filled(uuid, _) | Stage::Placing(uuid) => {
                is_own(uuid.as_ref(), standing) || (item.way == Way::DropFirst && standing.is_none())
            }
        }
    }

    /// Refuses when much more is at stake now than the plan that was approved says.
    fn check_stake(self, existing: &std::collections::BTreeMap<Namespace, CollectionInfo>) -> Result<()> {
        let (touched, _) = self.parameters.stake(existing);
        let planned = self.plan.blast_radius.items;
        if touched <= planned.saturating_add(planned / 2).saturating_add(1_000) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::StalePlan,
            format!("{} items are at stake, the plan says {}", Count(touched), Count(planned)),
        )
        .with_state("nothing was changed")
        .with_hint("make the plan again and review it"))
    }

    /// What the plan took for granted about the name `target`.
    pub(super) fn planned(&self, target: &Namespace) -> Option<&Assumption> {
        self.assumption(&target.to_string())
    }

    /// What the plan took for granted of the thing that it calls `name`.
    pub(crate) fn assumption(&self, name: &str) -> Option<&Assumption> {
        self.plan.assumptions.iter().find(|assumption| assumption.name == name)
    }

    fn tell_resumption(self, resumed: bool) {
        if resumed {
            self.context.observer.notice(&format!(
                "continuing run {}: {} of {} collections are in place; what was loaded and proven is kept, the rest is loaded again",
                self.run.id,
                self.run.before.placed(),
                self.parameters.items.len()
            ));
        }
    }

    /// The work on the collection at `index` of the plan's list.
    fn work<'w>(self, index: usize, content: Box<dyn Content + 'w>) -> ItemWork<'w>
    where
        'a: 'w,
    {
        ItemWork { placement: self, index, item: &self.parameters.items[index], content }
    }

    /// Takes each collection whose turn comes through all its steps, at most `at_once` of them at the same time. One that is done lets go of
    /// its content, so that nobody waits to feed it.
    pub(crate) async fn bring<'w>(
        self,
        turns: impl Stream<Item = Turn<'w>>,
        at_once: usize,
    ) -> Result<Vec<(usize, ItemReport)>>
    where
        'a: 'w,
    {
        turns
            .map(|(index, content)| async move {
                let work = self.work(index, content);
                let report = work.bring().await;
                report.map(|report| (index, report)).with_context(|| self.doing(work.item))
            })
            .buffer_unordered(at_once)
            .try_collect()
            .await
    }

    /// Loads each collection whose turn comes, at most `at_once` of them at the same time.
    pub(super) async fn load<'w>(
        self,
        turns: impl Stream<Item = Turn<'w>>,
        at_once: usize,
    ) -> Result<Works<'w, Step>>
    where
        'a: 'w,
    {
        turns
            .map(|(index, content)| async move {
                let work = self.work(index, content);
                let step = work.load().await.with_context(|| work.doing())?;
                Ok((work, step))
            })
            .buffer_unordered(at_once)
            .try_collect()
            .await
    }

    /// Takes collections through one step, `at_once` of them at the same time, each with what the step before gave.
    pub(super) async fn pass<'w, T, U>(
        self,
        works: Works<'w, T>,
        at_once: usize,
        step: impl AsyncFn(&ItemWork<'w>, T) -> Result<U>,
    ) -> Result<Works<'w, U>> {
        let step = &step;
        stream::iter(works)
            .map(|(work, before)| async move {
                let done = step(&work, before).await.with_context(|| self.doing(work.item))?;
                Ok((work, done))
            })
            .buffer_unordered(at_once)
            .try_collect()
            .await
    }

    /// What an error happened in.
    pub(super) fn doing(self, item: &Item) -> String {
        format!("{} {}", self.parameters.origin.verb(), item.target)
    }
}

/// Collections, each with how far it has come.
pub(super) type Works<'a, T> = Vec<(ItemWork<'a>, T)>;

/// Whether `standing` is the collection that this run created.
pub(crate) fn is_own(uuid: Option<&CollectionIdentity>, standing: Option<&CollectionInfo>) -> bool {
    uuid.is_some() && standing.and_then(|standing| standing.identity.as_ref()) == uuid
}

/// A refusal in the middle of a run must not say that nothing was changed. Only when the world has moved is there nothing to continue.
fn after_begin(error: Error) -> Error {
    let error = error.with_state(STOPPED);
    if error.kind() != ErrorKind::StalePlan {
        return error;
    }
    error.with_hint("`mainstay restore list` shows the run; give it up with `mainstay restore abandon RUN`, then plan again")
}

/// What stands under `name` at the target.
pub(crate) async fn find(source: &dyn DocumentSource, name: &Namespace) -> Result<Option<CollectionInfo>> {
    Ok(existing_collections(source, std::iter::once(name)).await?.remove(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_run_that_cannot_be_continued_is_to_be_given_up() {
        let stale = after_begin(Error::new(ErrorKind::StalePlan, "moved").with_hint("make a new plan"));
        assert!(stale.hint().is_some_and(|hint| hint.contains("restore abandon")), "{stale:?}");
        let refused = after_begin(Error::new(ErrorKind::Auth, "not allowed").with_hint("grant a role"));
        assert_eq!(refused.hint(), Some("grant a role"));
        assert_eq!(after_begin(Error::new(ErrorKind::Unreachable, "gone")).hint(), None);
        for error in [stale, refused] {
            assert_eq!(error.state(), Some(STOPPED));
        }
    }
}
