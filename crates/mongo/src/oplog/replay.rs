//! Replaying a stored log as writes of our own.
//!
//! The server has a command for this, `applyOps`, and it is not used. It needs privileges that hosted servers do not give (`__system` or
//! every action on every resource); it takes one entry after the other, each as an operation of its own; and it proves nothing. Own
//! writes need `readWrite` (and `bypassDocumentValidation`), which whoever restores has anyway. They go in *windows*: all changes of a
//! document within some tens of megabytes of log are folded into its last state, which is then written once, among thousands of others, over
//! several connections. And because each write knows what stood there before, the digest of the whole collection is known at any moment
//! without reading it: what a reader finds in the end can be compared with it.
//!
//! Order between documents does not matter, because there is no unique index but the one on `_id` (see the engine's text), with one
//! exception: ids that the server takes for the same though they differ. Within a window deletes therefore come first. Capped collections keep
//! the order of insertion; they are written by one connection, inserts in the order of the log. Their evictions are in the log (MongoDB 5.0
//! and newer).
//!
//! An interrupted replay goes on from the position that [`Replayer::flush`] told; entries after it may have been applied already. Refuses
//! a transaction whose beginning it has not seen.

mod window;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_engine::{
    ChangeCounts, DocumentDigest, Namespace, ReplayTarget, Replayed, Replayer, Until, data_namespace,
    document_frames,
};
use mainstay_model::{Error, ErrorKind, OpTime, Result};
use tokio::task::JoinSet;

use self::window::{Change, Effect, Fate, Need, Window};
use self::writer::{Difference, Lanes, Order};
use super::entry::{Action, Entry, Fault, Update, Uuid, with_id};
use super::survey::{after, count, out_of_order};
use super::transaction::{Committed, Role, Transactions, Weight, role};
use crate::server::MongoServer;

/// A window is closed when it keeps this many bytes of changes, or touches this many documents.
const WINDOW_BYTES: usize = 64 * 1024 * 1024;
const WINDOW_DOCUMENTS: usize = 200_000;

/// The most documents in one task, and the bytes of log after which a task is full.
const TASK_DOCUMENTS: usize = 1_000;
const TASK_BYTES: usize = 4 * 1024 * 1024;

/// How many tasks run at the same time, each on a connection of its own.
const LANES: usize = 4;

/// The most bytes of changes of open transactions.
pub(super) const TRANSACTION_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// See [`Replayer`].
pub(crate) struct MongoReplayer {
    lanes: Arc<Lanes>,
    until: Until,
    targets: Vec<Target>,
    by_uuid: HashMap<Uuid, usize>,
    transactions: Transactions<Vec<Taken>>,
    /// Bytes that the windows keep, roughly.
    kept_bytes: usize,
    /// The last entry taken.
    last: Option<OpTime>,
    past_end: Option<OpTime>,
}

/// How many bytes a replay keeps, at most, of an operation on documents that waits for its commit.
pub(super) fn weight(operation: &Entry<'_>) -> Result<usize, Fault> {
    let id = operation.id_element()?.len();
    let effect = match operation.action {
        Action::Delete => 0,
        Action::Update => match operation.update()? {
            Update::Diff(diff) => diff.len(),
            // It gets the `_id` that it may lack.
            Update::Replacement(document) => document.len() + id,
        },
        Action::Insert | Action::Command | Action::Nothing => operation.object.len(),
    };
    Ok(window::weight(id, effect))
}

/// A collection being replayed into.
struct Target {
    target: ReplayTarget,
    /// The collection of its documents.
    data: Namespace,
    digest: DocumentDigest,
    changes: ChangeCounts,
    window: Window,
}

/// An operation that concerns a target.
#[derive(Debug)]
struct Taken {
    target: usize,
    action: Action,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Change(Change),
    /// Everything goes (`emptycapped`).
    Clear,
}

impl Step {
    /// How many bytes it keeps, roughly.
    fn weight(&self) -> usize {
        match self {
            Self::Change(change) => change.weight(),
            Self::Clear => 0,
        }
    }
}

impl MongoReplayer {
    /// Begins a replay.
    pub(crate) async fn begin(server: MongoServer, targets: Vec<ReplayTarget>, until: Until) -> Result<Self> {
        let mut by_uuid = HashMap::new();
        for (position, target) in targets.iter().enumerate() {
            let uuid = Uuid::parse(&target.identity).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, format!("{} has no readable identity", target.namespace))
                    .with_hint("survey the log again")
            })?;
            by_uuid.insert(uuid, position);
        }
        let targets = targets.into_iter().map(|target| Target {
            data: data_namespace(&target.namespace, target.kind),
            digest: target.digest,
            changes: ChangeCounts::default(),
            window: Window::default(),
            target,
        });
        Ok(Self {
            lanes: Arc::new(Lanes::open(server).await?),
            until,
            targets: targets.collect(),
            by_uuid,
            transactions: Transactions::new(Weight { changes: TRANSACTION_BYTES_MAX, ..Weight::default() }),
            kept_bytes: 0,
            last: None,
            past_end: None,
        })
    }

    /// Takes one entry.
    async fn take(&mut self, frame: &[u8]) -> Result<()> {
        let before = self.past_end.or(self.last);
        let at = Entry::position(frame).map_err(|fault| fault.at(after(before)))?;
        if before.is_some_and(|before| at <= before) {
            return Err(out_of_order(at));
        }
        if !self.until.includes(at) {
            self.past_end.get_or_insert(at);
            return Ok(());
        }
        let taken = self.entry(frame).map_err(|fault| fault.at(at))?;
        for taken in taken {
            self.keep(taken, at).await?;
        }
        self.last = Some(at);
        Ok(())
    }

    /// What an entry does, now that it is reached.
    fn entry(&mut self, frame: &[u8]) -> Result<Vec<Taken>, Fault> {
        let entry = Entry::read(frame)?;
        let role = match entry.action {
            Action::Command => role(&entry)?,
            _ => None,
        };
        let committed = match role {
            None => {
                self.transactions.notice(&entry);
                return Ok(self.operation(&entry)?.into_iter().collect());
            }
            Some(Role::Immediate) => return self.operations(&entry),
            Some(Role::Partial) => {
                self.put_aside(&entry)?;
                return Ok(Vec::new());
            }
            // Nothing was put aside before: the usual transaction of one entry.
            Some(Role::Last) if entry.previous.is_none() => return self.operations(&entry),
            Some(Role::Last) => {
                self.put_aside(&entry)?;
                self.transactions.end(&entry)?
            }
            Some(Role::Commit) => self.transactions.commit(&entry)?,
            Some(Role::Abort) => {
                self.transactions.abort(&entry)?;
                return Ok(Vec::new());
            }
        };
        self.whole(&entry, committed)
    }

    fn whole(&self, entry: &Entry<'_>, committed: Committed<Vec<Taken>>) -> Result<Vec<Taken>, Fault> {
        let counts = self.targets.iter().any(|target| entry.at > target.target.holds_through);
        match committed.missing {
            Some(missing) if counts => Err(Fault::Corrupt(format!(
                "a transaction is committed whose entry at {missing} was not read"
            ))),
            _ => Ok(committed.content),
        }
    }

    fn operations(&self, entry: &Entry<'_>) -> Result<Vec<Taken>, Fault> {
        let mut taken = Vec::new();
        for operation in entry.operations() {
            taken.extend(self.operation(&operation?)?);
        }
        Ok(taken)
    }

    fn put_aside(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        let taken = self.operations(entry)?;
        let changes = taken.iter().map(|taken| taken.step.weight()).sum();
        self.transactions.put_aside(entry, self.last, |content| {
            content.extend(taken);
            Ok(Weight { changes, ..Weight::default() })
        })
    }

    /// What an operation does, if it concerns a target.
    fn operation(&self, operation: &Entry<'_>) -> Result<Option<Taken>, Fault> {
        let target = operation.collection.and_then(|uuid| self.by_uuid.get(&uuid).copied());
        let (Some(target), action) = (target, operation.action) else { return Ok(None) };
        // Of most entries only a small part is needed; a copy of it keeps windows long.
        let copy = Bytes::copy_from_slice;
        let step = match action {
            Action::Nothing => return Ok(None),
            Action::Command => match operation.command()?.key {
                b"emptycapped" => Step::Clear,
                _ => return Ok(None),
            },
            Action::Insert | Action::Update | Action::Delete => {
                let id = copy(operation.id_element()?);
                let effect = match action {
                    Action::Insert => Effect::Insert(copy(operation.object)),
                    Action::Delete => Effect::Delete,
                    _ => match operation.update()? {
                        Update::Diff(diff) => Effect::Diff { diff: copy(diff), upsert: operation.upsert },
                        Update::Replacement(document) => {
                            let completed = with_id(document, &operation.id()?)?;
                            Effect::Replace(completed.map_or_else(|| copy(document), Bytes::from))
                        }
                    },
                };
                Step::Change(Change { id, effect })
            }
        };
        Ok(Some(Taken { target, action, step }))
    }

    /// Takes an operation that is reached at `at` into its window.
    async fn keep(&mut self, taken: Taken, at: OpTime) -> Result<()> {
        let target = &mut self.targets[taken.target];
        if at <= target.target.holds_through {
            return Ok(());
        }
        count(&mut target.changes, taken.action);
        match taken.step {
            Step::Change(change) => {
                self.kept_bytes += change.weight();
                target.window.take(change);
                if target.window.len() >= WINDOW_DOCUMENTS {
                    self.close_windows().await?;
                }
                Ok(())
            }
            Step::Clear => {
                self.close_windows().await?;
                let target = &mut self.targets[taken.target];
                self.lanes.lane(&target.data).await?.clear().await?;
                target.digest = DocumentDigest::default();
                Ok(())
            }
        }
    }

    /// Writes all windows.
    async fn close_windows(&mut self) -> Result<()> {
        self.kept_bytes = 0;
        let (mut removals, mut writes) = (Vec::new(), Vec::new());
        for position in 0..self.targets.len() {
            let fates = self.targets[position].window.close();
            if self.targets[position].target.capped {
                self.write_in_order(position, fates).await?;
                continue;
            }
            let (mut gone, mut new, mut changed) = (Vec::new(), Vec::new(), Vec::new());
            for fate in fates {
                match fate.need() {
                    Need::Removal => gone.push(fate),
                    Need::Insertion => new.push(fate),
                    Need::Reading => changed.push(fate),
                }
            }
            removals.extend(tasks(gone).map(|fates| Task { position, need: Need::Removal, fates }));
            writes.extend(tasks(new).map(|fates| Task { position, need: Need::Insertion, fates }));
            writes.extend(tasks(changed).map(|fates| Task { position, need: Need::Reading, fates }));
        }
        // Nothing is inserted before everything that may stand in its way is gone.
        self.perform(removals).await?;
        self.perform(writes).await
    }

    async fn perform(&mut self, tasks: Vec<Task>) -> Result<()> {
        let (mut waiting, mut running) = (tasks.into_iter(), JoinSet::new());
        loop {
            while running.len() < LANES
                && let Some(task) = waiting.next()
            {
                let data = self.targets[task.position].data.clone();
                running.spawn(task.perform(Arc::clone(&self.lanes), data));
            }
            let Some(done) = running.join_next().await else { return Ok(()) };
            let (position, difference) = done.map_err(|error| {
                Error::new(ErrorKind::Internal, format!("a writing task broke: {error}"))
            })??;
            self.targets[position].account(difference);
        }
    }

    /// Writes the window of a capped collection: deletes, inserts in the order of the log, changes in place. What is there already though the
    /// log inserts it is deleted and inserted again, so that it stands where it belongs.
    async fn write_in_order(&mut self, position: usize, fates: Vec<Fate>) -> Result<()> {
        let target = &mut self.targets[position];
        let (mut gone, mut new, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        for fate in fates {
            match (fate.need(), fate.inserted) {
                (Need::Removal, _) => gone.push(fate),
                (_, Some(_)) => new.push(fate),
                (_, None) => changed.push(fate),
            }
        }
        new.sort_by_key(|fate| fate.inserted);
        let (new, mut sum): (Vec<_>, _) = (tasks(new).collect(), Difference::default());
        let data = target.data.clone();
        let mut lane = self.lanes.lane(&data).await?;
        for fates in tasks(gone) {
            sum.add(lane.remove(&fates).await?);
        }
        for fates in &new {
            sum.add(lane.remove(fates).await?);
        }
        for fates in &new {
            sum.add(lane.insert(fates, Order::Kept).await?);
        }
        for fates in tasks(changed) {
            sum.add(lane.update(&fates).await?);
        }
        target.account(sum);
        Ok(())
    }
}

/// Documents of one collection that are treated alike.
struct Task {
    position: usize,
    need: Need,
    fates: Vec<Fate>,
}

impl Task {
    async fn perform(self, lanes: Arc<Lanes>, data: Namespace) -> Result<(usize, Difference)> {
        let mut lane = lanes.lane(&data).await?;
        let difference = match self.need {
            Need::Removal => lane.remove(&self.fates).await?,
            Need::Insertion => lane.insert(&self.fates, Order::Free).await?,
            Need::Reading => lane.update(&self.fates).await?,
        };
        Ok((self.position, difference))
    }
}

/// `fates` in portions.
fn tasks(fates: Vec<Fate>) -> impl Iterator<Item = Vec<Fate>> {
    let mut fates = fates.into_iter().peekable();
    std::iter::from_fn(move || {
        let (mut portion, mut bytes) = (Vec::new(), 0);
        while portion.len() < TASK_DOCUMENTS && bytes < TASK_BYTES {
            let Some(fate) = fates.next() else { break };
            bytes += fate.weight();
            portion.push(fate);
        }
        (!portion.is_empty()).then_some(portion)
    })
}

impl Target {
    fn account(&mut self, difference: Difference) {
        self.digest -= difference.gone;
        self.digest += difference.come;
    }
}

#[async_trait]
impl Replayer for MongoReplayer {
    async fn apply(&mut self, entries: Bytes) -> Result<()> {
        for frame in document_frames(&entries) {
            let before = self.past_end.or(self.last);
            let frame = frame.map_err(|error| Fault::Corrupt(error.to_string()).at(after(before)))?;
            self.take(frame).await?;
        }
        if self.kept_bytes >= WINDOW_BYTES {
            self.close_windows().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<Option<OpTime>> {
        self.close_windows().await?;
        Ok(self.transactions.settled(self.last))
    }

    async fn end(mut self: Box<Self>) -> Result<Vec<Replayed>> {
        self.close_windows().await?;
        if let Some(target) = self.targets.first() {
            self.lanes.lane(&target.data).await?.settle().await?;
        }
        Ok(self
            .targets
            .into_iter()
            .map(|target| Replayed {
                identity: target.target.identity,
                digest: (!target.target.capped).then_some(target.digest),
                changes: target.changes,
            })
            .collect())
    }
}
