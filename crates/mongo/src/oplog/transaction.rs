//! Transactions: what their entries hold is put aside, and handed out when the transaction is committed.
//!
//! A transaction is a chain of `applyOps` entries of one session and transaction number, each telling the position of the one before
//! (`prevOpTime`). All but the last have `partialTxn`; the last commits, unless it has `prepare`, and then a `commitTransaction` or
//! `abortTransaction` follows. Entries of other writers may stand in between, but none that touches the same documents before the commit.
//!
//! A chain that never ends (its primary failed half-way, and the transaction with it) is dropped when its session begins something new.
//! A chain whose beginning lies before the first entry read is noticed by the position it tells. Refuses to hold more than a bounded number
//! of bytes.

use std::collections::HashMap;
use std::ops::{AddAssign, SubAssign};

use mainstay_model::OpTime;

use super::entry::{Entry, Fault, Session};
use crate::raw;

/// What an `applyOps`, `commitTransaction` or `abortTransaction` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Operations that count at once: no transaction.
    Immediate,
    /// Operations of a transaction that goes on.
    Partial,
    /// The last operations of a transaction, and its commit.
    Last,
    /// The commit of a prepared transaction.
    Commit,
    /// The end of a prepared transaction without effect.
    Abort,
}

/// The role of a command in a transaction; `None` for all others.
pub(super) fn role(entry: &Entry<'_>) -> Result<Option<Role>, Fault> {
    let flag = |key| Ok::<_, Fault>(raw::find(entry.object, key)?.and_then(|flag| flag.number()) == Some(1));
    Ok(Some(match entry.command()?.key {
        b"applyOps" if entry.session.is_none() || entry.vectored => Role::Immediate,
        b"applyOps" if flag("partialTxn")? || flag("prepare")? => Role::Partial,
        b"applyOps" => Role::Last,
        b"commitTransaction" => Role::Commit,
        b"abortTransaction" => Role::Abort,
        _ => return Ok(None),
    }))
}

/// The transactions that are open at some position of the log. `T` is what was put aside of one.
#[derive(Debug)]
pub(super) struct Transactions<T> {
    open: HashMap<Vec<u8>, Open<T>>,
    weight: Weight,
    weight_max: Weight,
}

/// Bytes of operations that are put aside.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weight {
    /// Those that change what exists, as they are kept.
    pub(super) definitions: usize,
    /// Those that change documents, as a replay keeps them. A survey keeps none and weighs them all the same, so that a log is refused
    /// before anything is written, and not in the middle of its replay.
    pub(super) changes: usize,
}

/// An open transaction.
#[derive(Debug)]
struct Open<T> {
    number: i64,
    /// The entry before its first, if one was read.
    before: Option<OpTime>,
    /// Its last entry so far.
    last: OpTime,
    /// The position that its first entry read tells of one before.
    missing: Option<OpTime>,
    weight: Weight,
    content: T,
}

/// A transaction that is committed.
#[derive(Debug)]
pub(super) struct Committed<T> {
    pub(super) content: T,
    /// An earlier part of it was not read: the position of the last such.
    pub(super) missing: Option<OpTime>,
}

impl<T: Default> Transactions<T> {
    /// None are open; together they may weigh `weight_max`.
    pub(super) fn new(weight_max: Weight) -> Self {
        Self { open: HashMap::new(), weight: Weight::default(), weight_max }
    }

    /// Puts operations aside that belong to the transaction of `entry`: `put` adds them to what is there and tells what they weigh.
    /// `before` is the entry before this one.
    pub(super) fn put_aside(
        &mut self,
        entry: &Entry<'_>,
        before: Option<OpTime>,
        put: impl FnOnce(&mut T) -> Result<Weight, Fault>,
    ) -> Result<(), Fault> {
        let session = session(entry)?;
        match self.open.get(session.id) {
            Some(open) if open.number == session.number && entry.previous.is_some() => {
                unbroken(open.last, entry)?;
            }
            _ => drop(self.forget(session.id)),
        }
        let open = self.open.entry(session.id.to_vec()).or_insert_with(|| Open {
            number: session.number,
            before,
            last: entry.at,
            missing: entry.previous,
            weight: Weight::default(),
            content: T::default(),
        });
        let weight = put(&mut open.content)?;
        open.last = entry.at;
        open.weight += weight;
        self.weight += weight;
        self.check_weight()
    }

    fn check_weight(&self) -> Result<(), Fault> {
        let (weight, max) = (self.weight, self.weight_max);
        let (what, bytes_max) = if weight.changes > max.changes {
            ("changes", max.changes)
        } else if weight.definitions > max.definitions {
            ("definitions", max.definitions)
        } else {
            return Ok(());
        };
        Err(Fault::Unsupported(format!(
            "open transactions with more than {} MiB of {what} together",
            bytes_max >> 20
        )))
    }

    /// Ends the prepared transaction that `entry` commits.
    pub(super) fn commit(&mut self, entry: &Entry<'_>) -> Result<Committed<T>, Fault> {
        let session = session(entry)?;
        match self.forget(session.id).filter(|open| open.number == session.number) {
            Some(open) => {
                unbroken(open.last, entry)?;
                Ok(Committed { content: open.content, missing: open.missing })
            }
            None => Ok(Committed { content: T::default(), missing: entry.previous }),
        }
    }

    /// Ends the transaction whose last operations were those of `entry`.
    pub(super) fn end(&mut self, entry: &Entry<'_>) -> Result<Committed<T>, Fault> {
        let open = self.forget(session(entry)?.id);
        let open = open.ok_or_else(|| Fault::Corrupt("a transaction that ends twice".to_owned()))?;
        Ok(Committed { content: open.content, missing: open.missing })
    }

    /// Ends the transaction of `entry` without effect.
    pub(super) fn abort(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        self.forget(session(entry)?.id);
        Ok(())
    }

    /// The session of `entry` does something else: what it had begun before cannot be committed any more.
    pub(super) fn notice(&mut self, entry: &Entry<'_>) {
        if self.open.is_empty() {
            return;
        }
        if let Some(session) = entry.session
            && self.open.get(session.id).is_some_and(|open| open.number < session.number)
        {
            self.forget(session.id);
        }
    }

    /// The position up to which nothing belongs to an open transaction, given the last entry read.
    pub(super) fn settled(&self, last: Option<OpTime>) -> Option<OpTime> {
        self.open.values().map(|open| open.before).fold(last, Option::min)
    }

    fn forget(&mut self, session: &[u8]) -> Option<Open<T>> {
        let open = self.open.remove(session)?;
        self.weight -= open.weight;
        Some(open)
    }
}

impl AddAssign for Weight {
    fn add_assign(&mut self, more: Self) {
        self.definitions += more.definitions;
        self.changes += more.changes;
    }
}

impl SubAssign for Weight {
    fn sub_assign(&mut self, less: Self) {
        self.definitions -= less.definitions;
        self.changes -= less.changes;
    }
}

/// An entry of a chain follows the one before.
fn unbroken(last: OpTime, entry: &Entry<'_>) -> Result<(), Fault> {
    if entry.previous == Some(last) {
        return Ok(());
    }
    Err(Fault::Corrupt("a transaction of which an entry is missing".to_owned()))
}

fn session<'a>(entry: &Entry<'a>) -> Result<Session<'a>, Fault> {
    entry.session.ok_or_else(|| Fault::Corrupt("a transaction without session".to_owned()))
}
