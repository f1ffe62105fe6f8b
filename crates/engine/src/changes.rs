//! Change logs of document stores: following one as it grows, and replaying a stored one up to a moment.
//!
//! The contract in short. A [`ChangeSource`] hands out what the server has recorded *and will never take back* (majority-committed), raw
//! and without holes, or says that it cannot. What was stored is later read twice. A [`ChangeSurvey`] reads it without any server and
//! decides which collections exist at the wanted moment, under which names and definitions. A [`Replayer`] reads it again and brings
//! the documents of those collections to that moment. Collections are known by [`CollectionIdentity`], which the server keeps through
//! renames: what a name stood for at any moment is the survey's business alone.
//!
//! Replaying is idempotent: entries may be replayed onto documents that are further on already, as long as all entries up to the same
//! end follow. It relies on there being no unique index but the one on `_id` meanwhile, because only the last state is sure to fulfil
//! the others: whoever restores builds indexes afterwards.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mainstay_model::{OpTime, Result};
use serde::{Deserialize, Serialize};

use crate::digest::DocumentDigest;
use crate::documents::{CollectionKind, Namespace};

/// What the server calls a collection whatever its name: the UUID of the collection that holds the documents (the buckets of a time
/// series), 32 lower-case hexadecimal digits. Views have none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CollectionIdentity(pub String);

/// How far a server's change log reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeLogFacts {
    /// The oldest entry still there.
    pub oldest: OpTime,
    /// The newest entry that a majority has.
    pub newest: OpTime,
    /// Bytes of entries held.
    pub bytes: u64,
    /// Bytes the log may grow to before the oldest entries go.
    pub bytes_max: u64,
}

impl ChangeLogFacts {
    /// Seconds between oldest and newest entry: how long a follower may be away.
    pub fn window_seconds(&self) -> u64 {
        u64::from(self.newest.seconds.saturating_sub(self.oldest.seconds))
    }
}

/// The last entry that a follower has, to go on after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeAnchor {
    /// Its position.
    pub at: OpTime,
    /// Its bytes, when known: what stands at that position must be the same entry. `None` asks for the position alone.
    pub entry: Option<Bytes>,
}

/// Why a follower cannot go on without a hole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ContinuityBreak {
    /// The entry is gone: the log has been overwritten beyond it, or was made anew.
    Overrun {
        /// The oldest entry that is still there.
        oldest: OpTime,
    },
    /// Another entry stands at that position, or the log ends before it: the server went back to an earlier state.
    Diverged,
}

/// The outcome of [`ChangeSource::follow`].
pub enum Followed {
    /// The log, from the entry after the anchor on.
    Stream(Box<dyn ChangeStream>),
    /// There is a hole between the anchor and what the server has.
    Broken(ContinuityBreak),
}

/// A server whose change log can be followed.
#[async_trait]
pub trait ChangeSource: Send + Sync {
    /// How far the log reaches now.
    ///
    /// # Errors
    /// `Precondition` when the server keeps none (a standalone, a router).
    async fn change_log_facts(&self) -> Result<ChangeLogFacts>;

    /// Follows the log after `anchor`.
    async fn follow(&self, anchor: &ChangeAnchor) -> Result<Followed>;
}

/// A change log being followed. Goes on by itself after a broken connection or an election, when it can prove that nothing is missing.
#[async_trait]
pub trait ChangeStream: Send {
    /// The next entries; `None` when none came within `wait`. Entries are majority-committed and in order, each exactly once.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](mainstay_model::ErrorKind) when the log broke off under the follower (overrun, divergence): only
    /// [`ChangeSource::follow`] can tell how to go on. Others are those of the server or the connection.
    async fn next(&mut self, wait: Duration) -> Result<Option<ChangeBatch>>;
}

/// Whole entries of a change log, one after another, as the server keeps them.
#[derive(Debug, Clone)]
pub struct ChangeBatch {
    /// The concatenated entries: BSON documents whose framing has been checked. At least one.
    pub bytes: Bytes,
    /// How many.
    pub entries: u64,
    /// The position of the first.
    pub first: OpTime,
    /// The position of the last.
    pub last: OpTime,
}

/// The end of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// Everything up to and including this position.
    Through(OpTime),
    /// Everything before this position.
    Before(OpTime),
}

impl Until {
    /// Whether an entry at `position` belongs to the replay.
    pub fn includes(self, position: OpTime) -> bool {
        match self {
            Self::Through(end) => position <= end,
            Self::Before(end) => position < end,
        }
    }

    /// The position given.
    pub fn position(self) -> OpTime {
        match self {
            Self::Through(position) | Self::Before(position) => position,
        }
    }
}

/// A collection as a backup set holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCollection {
    /// Its name in the set.
    pub namespace: Namespace,
    /// Its kind.
    pub kind: CollectionKind,
    /// Which collection it is; `None` for views, and where nobody has written it down.
    pub identity: Option<CollectionIdentity>,
    /// Its definition, see [`CollectionInfo::metadata`](crate::CollectionInfo).
    pub metadata: String,
    /// Every entry up to and including this one is in the set's documents already; later ones may be.
    pub holds_through: OpTime,
}

/// What a survey makes of a collection (no view) whose identity nobody has written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unidentified {
    /// It is refused.
    Refused,
    /// It is the one that the log first calls by its name. Right where the log begins before the collections were listed, and renames nothing
    /// until then: what is called so first is what was listed, or something older, whose end the log tells.
    FirstOfName,
}

/// Reads stored change logs and applies them to a server.
#[async_trait]
pub trait ChangeReplay: Send + Sync {
    /// Begins to survey a log that continues a backup set of `collections`, up to `until`. Asks no server.
    ///
    /// # Errors
    /// `Corrupt` when a definition is not readable, or two collections have one identity; `Unsupported` for one without identity, if
    /// `unidentified` says so.
    fn survey(
        &self,
        collections: Vec<StoredCollection>,
        until: Until,
        unidentified: Unidentified,
    ) -> Result<Box<dyn ChangeSurvey>>;

    /// Begins to replay a log into `targets`, up to `until`.
    async fn replayer(&self, targets: Vec<ReplayTarget>, until: Until) -> Result<Box<dyn Replayer>>;
}

/// Decides what exists at the end of a log. Fed with the log in order, in pieces of any number of whole entries.
pub trait ChangeSurvey: Send {
    /// Reads `entries`, those past the end included.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are no change log, or one out of order; `Unsupported`, naming entry and position, for an entry within the
    /// range that this version does not know how to replay: nothing is ever left out silently.
    fn add(&mut self, entries: &[u8]) -> Result<()>;

    /// What exists at the end.
    fn end(self: Box<Self>) -> Result<Surveyed>;
}

/// What a survey found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surveyed {
    /// The collections and views that exist at the end, by name.
    pub collections: Vec<PointCollection>,
    /// Collections that the log changes although neither the set holds them nor the log creates them, and that it does not drop: what the set
    /// leaves out. They are not among `collections`.
    pub foreign: Vec<Namespace>,
    /// The first entry within the range; `None` when there was none.
    pub first: Option<OpTime>,
    /// The last entry within the range; `None` when there was none.
    pub last: Option<OpTime>,
    /// The first entry past the end, if one was read: proof that the log reaches the end.
    pub past_end: Option<OpTime>,
    /// A transaction within the range began with an entry at this position, before the first one read: the log must be surveyed, and
    /// replayed, from there on. `None` when nothing earlier is needed.
    pub needs_from: Option<OpTime>,
    /// Where the last transaction ends that `needs_from` speaks of.
    pub needed_by: Option<OpTime>,
    /// Entries within the range.
    pub entries: u64,
}

/// How many documents a replay will insert, update and delete in one collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeCounts {
    /// Insertions.
    pub inserts: u64,
    /// Updates, replacements included.
    pub updates: u64,
    /// Deletions.
    pub deletes: u64,
}

/// A collection or view at the end of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointCollection {
    /// Its name then.
    pub namespace: Namespace,
    /// Its kind.
    pub kind: CollectionKind,
    /// Whether it is capped.
    pub capped: bool,
    /// Which collection it is; `None` for views.
    pub identity: Option<CollectionIdentity>,
    /// The collection of the set that its documents begin with; `None` when it was created later.
    pub origin: Option<Namespace>,
    /// Its definition then: options and all indexes, in the form of [`CollectionInfo::metadata`](crate::CollectionInfo).
    pub metadata: String,
    /// What the log does to its documents.
    pub changes: ChangeCounts,
}

/// Where the documents of one collection are replayed into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayTarget {
    /// Which collection of the log.
    pub identity: CollectionIdentity,
    /// The collection at the server that holds its documents so far (its name there; for a time series that of the series), without
    /// any index but the one on `_id`.
    pub namespace: Namespace,
    /// Its kind.
    pub kind: CollectionKind,
    /// Whether it is capped: then insertion order counts.
    pub capped: bool,
    /// Entries up to and including this one are in already and are skipped.
    pub holds_through: OpTime,
    /// The digest of what it holds now.
    pub digest: DocumentDigest,
}

/// Applies a change log. Fed as a [`ChangeSurvey`] is.
#[async_trait]
pub trait Replayer: Send {
    /// Replays `entries`. What has been taken need not be at the server before [`Replayer::flush`].
    ///
    /// # Errors
    /// As [`ChangeSurvey::add`], and those of the server. After an error the targets hold some state between beginning and end.
    async fn apply(&mut self, entries: Bytes) -> Result<()>;

    /// Brings everything taken so far to the server, and tells the position up to which it is there: after a kill, replaying what comes
    /// after that position is enough. `None` while an earlier one must still be told (a transaction is open).
    async fn flush(&mut self) -> Result<Option<OpTime>>;

    /// Flushes, waits until it is durable, and tells what the targets must hold now, in the order of the targets.
    async fn end(self: Box<Self>) -> Result<Vec<Replayed>>;
}

/// What became of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Which collection of the log.
    pub identity: CollectionIdentity,
    /// What a reader must find there now. `None` for capped collections, which the server trims by rules of its own.
    pub digest: Option<DocumentDigest>,
    /// What was done.
    pub changes: ChangeCounts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_inclusive_or_not_as_it_says() {
        let at = |seconds, increment| OpTime { seconds, increment };
        assert!(Until::Through(at(5, 2)).includes(at(5, 2)));
        assert!(!Until::Through(at(5, 2)).includes(at(5, 3)));
        assert!(Until::Before(at(5, 2)).includes(at(5, 1)));
        assert!(!Until::Before(at(5, 2)).includes(at(5, 2)));
    }
}
