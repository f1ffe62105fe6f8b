//! Chains and slices as they are read.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use mainstay_model::{
    Blake3, ChainId, Error, ErrorKind, LogPosition, Result, ResultExt, StoreKind, Timestamp,
};
use mainstay_store::{Key, ObjectInfo};
use serde::{Deserialize, Serialize};

use super::SLICE_BYTES_MAX;
use super::order::{self, ChainDamage, Run};
use crate::decode::{Expected, ObjectSite, PlainBytes};
use crate::layout;
use crate::manifest::Encryption;
use crate::repository::{LISTING_READS, Repository, open_versioned};
use crate::source::ObjectSource;

/// The newest version of the description that this code reads. One of a replication stream needs 4, an imported chain 3, another one of WAL 2;
/// others are written as 1.
pub(super) const CHAIN_FORMAT: u32 = 4;

/// How long segments of WAL may be, in bytes.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;

/// The kind of a sealed description.
pub(super) const CHAIN_KIND: &str = "log_chain";

/// The largest description that is read: some ten thousand recipients.
const DESCRIPTION_BYTES_MAX: u64 = 1024 * 1024;

/// What the bytes of a slice are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogKind {
    /// Documents of MongoDB's `local.oplog.rs`, one after another; positions are their `ts`.
    Oplog,
    /// Bytes of PostgreSQL's write-ahead log; a position is the number of bytes before it, as an LSN counts them.
    Wal,
    /// Bytes of Redis's replication stream, and when each came ([`Arrival`](super::Arrival)); a position is the number of bytes before it,
    /// as a replication offset counts them.
    Replication,
}

impl LogKind {
    const ALL: [Self; 3] = [Self::Oplog, Self::Wal, Self::Replication];

    /// The word in the keys of slices.
    pub fn name(self) -> &'static str {
        match self {
            Self::Oplog => "oplog",
            Self::Wal => "wal",
            Self::Replication => "replication",
        }
    }
}

impl fmt::Display for LogKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a chain was begun instead of going on with the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainReason {
    /// There was none of this server.
    First,
    /// The server's log had been overwritten beyond the end of the one before.
    Overrun,
    /// The server went back to a state before the end of the one before.
    Diverged,
    /// The end of the one before cannot be read, so nothing can be proven to continue it.
    Unreadable,
    /// The server began a new timeline. A chain of WAL begins with the segment in which that branches off, one of a replication stream where
    /// the one before ends.
    Timeline,
    /// It was brought from an archive that somebody else filled: it is of a time before it was begun, and no capture goes on with it.
    Imported,
}

impl ChainReason {
    /// In words, as the reason of a gap.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::First => "capture began",
            Self::Overrun => "the server's log was overwritten before it was captured",
            Self::Diverged => "the server went back to an earlier state",
            Self::Unreadable => "the end of the chain before cannot be read",
            Self::Timeline => "the server began a new timeline",
            Self::Imported => "the archive that the rest was imported from has no more before that",
        }
    }
}

/// `chain.json`: what a chain is. `docs/repository-format.md` explains each field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainDescription {
    /// The version of this structure.
    pub format: u32,
    /// The repository it was written to.
    pub repository_id: String,
    /// The chain.
    pub chain_id: ChainId,
    /// The store whose log it is.
    pub store: StoreKind,
    /// What its slices are.
    pub kind: LogKind,
    /// The fingerprint of the server that recorded it.
    pub server: String,
    /// The environment it was captured in.
    pub environment: String,
    /// When it was begun.
    pub begun_at: Timestamp,
    /// The position it begins after.
    pub after: LogPosition,
    /// Why it was begun.
    pub why: ChainReason,
    /// The newest chain of the same server when it was begun.
    pub predecessor: Option<ChainId>,
    /// The version of mainstay that began it.
    pub tool_version: String,
    /// The age recipients its slices are encrypted to; empty when they are not.
    pub recipients: Vec<String>,
    /// Which WAL it is; of a chain of [`LogKind::Wal`] only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<WalChain>,
    /// Which replication stream it is; of a chain of [`LogKind::Replication`] only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationChain>,
}

/// Which replication stream a chain holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationChain {
    /// The server's name for this history of its data: 40 hexadecimal digits. It changes when another server takes over.
    pub id: String,
}

impl ReplicationChain {
    /// How long the name of a history is.
    const ID_LENGTH: usize = 40;

    fn is_sound(&self) -> bool {
        self.id.len() == Self::ID_LENGTH && self.id.bytes().all(|byte| byte.is_ascii_alphanumeric())
    }
}

/// Which WAL a chain holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalChain {
    /// The timeline that all of it is of.
    pub timeline: u32,
    /// How long a segment is, in bytes.
    pub segment_bytes: u64,
    /// How the timeline came about, as the server keeps it; absent for one that has no history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<String>,
}

impl ChainDescription {
    /// The version that a description of this kind is written as: the oldest that says it, so that older readers are kept out of what they do not
    /// know alone.
    pub(super) fn format_of(
        why: ChainReason,
        wal: Option<&WalChain>,
        replication: Option<&ReplicationChain>,
    ) -> u32 {
        match (replication, why, wal) {
            (Some(_), _, _) => CHAIN_FORMAT,
            (None, ChainReason::Imported, _) => 3,
            (None, _, Some(_)) => 2,
            (None, _, None) => 1,
        }
    }

    /// Whether it says of the log what the kind of its slices asks for.
    fn is_consistent(&self) -> bool {
        let sound = |wal: &WalChain| {
            wal.segment_bytes.is_power_of_two()
                && SEGMENT_BYTES.contains(&wal.segment_bytes)
                && wal.timeline > 0
        };
        match self.kind {
            LogKind::Oplog => self.wal.is_none() && self.replication.is_none(),
            LogKind::Wal => self.wal.as_ref().is_some_and(sound) && self.replication.is_none(),
            LogKind::Replication => {
                self.replication.as_ref().is_some_and(ReplicationChain::is_sound) && self.wal.is_none()
            }
        }
    }
}

/// One slice, as its name and the listing tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The position it begins after.
    pub after: LogPosition,
    /// The position of its last entry.
    pub through: LogPosition,
    /// The fencing token of its writer's lease.
    pub token: u64,
    /// The BLAKE3 of its stored bytes.
    pub blake3: Blake3,
    /// What its bytes are.
    pub kind: LogKind,
    /// How it is encrypted.
    pub encryption: Encryption,
    /// Its size in the store.
    pub bytes: u64,
}

impl Slice {
    /// The name of its object within the chain's folder.
    pub fn name(&self) -> String {
        let Self { after, through, token, blake3, kind, .. } = self;
        let suffix = layout::compressed_suffix(self.encryption);
        format!("{after}-{through}-{token:08x}-{blake3}.{kind}{suffix}")
    }

    /// The slice called `name`; `None` for what no slice is called.
    pub(crate) fn parse(name: &str, bytes: u64) -> Option<Self> {
        let (range, suffixes) = name.split_once('.')?;
        let mut parts = range.split('-');
        let slice = Self {
            after: parts.next()?.parse().ok()?,
            through: parts.next()?.parse().ok()?,
            token: u64::from_str_radix(parts.next()?, 16).ok()?,
            blake3: Blake3::from_str(parts.next()?).ok()?,
            kind: LogKind::ALL.into_iter().find(|kind| suffixes.split('.').next() == Some(kind.name()))?,
            encryption: if suffixes.ends_with(".age") { Encryption::Age } else { Encryption::None },
            bytes,
        };
        // Whatever has another spelling is not Mainstay's.
        (slice.name() == name && slice.after < slice.through).then_some(slice)
    }
}

/// A chain, as one listing showed it. Cheap to keep: names, no contents.
#[derive(Debug, Clone)]
pub struct Chain {
    repository: Repository,
    description: Arc<ChainDescription>,
    ordered: Arc<order::Ordered>,
}

/// One line of a listing: a chain, or what is left of one.
#[derive(Debug)]
pub enum ChainEntry {
    /// A chain whose description is whole. Its slices may be damaged: see [`Chain::damage`].
    Whole(Chain),
    /// A chain whose description is missing or cannot be read.
    Damaged {
        /// The store whose log it is.
        store: StoreKind,
        /// The chain.
        id: ChainId,
        /// How many slices lie in its folder.
        slices: usize,
        /// What is wrong with its description.
        error: Error,
    },
}

impl ChainEntry {
    /// The chain's identifier.
    pub fn id(&self) -> &ChainId {
        match self {
            Self::Whole(chain) => chain.id(),
            Self::Damaged { id, .. } => id,
        }
    }

    /// The chain; `None` for what is left of one.
    pub fn whole(self) -> Option<Chain> {
        match self {
            Self::Whole(chain) => Some(chain),
            Self::Damaged { .. } => None,
        }
    }
}

impl Chain {
    /// The chain's identifier.
    pub fn id(&self) -> &ChainId {
        &self.description.chain_id
    }

    /// What it is.
    pub fn description(&self) -> &ChainDescription {
        &self.description
    }

    /// Its slices, in order: each continues the one before, but for what [`Chain::damage`] tells.
    pub fn slices(&self) -> &[Slice] {
        &self.ordered.slices
    }

    /// Slices that a writer without its lease put beside others: harmless, and not read.
    pub fn superseded(&self) -> &[Slice] {
        &self.ordered.superseded
    }

    /// What is wrong with its slices, as far as names tell.
    pub fn damage(&self) -> &[ChainDamage] {
        &self.ordered.damage
    }

    /// The position of its last entry; that it begins after when it has none yet.
    pub fn end(&self) -> LogPosition {
        self.slices().last().map_or(self.description.after, |slice| slice.through)
    }

    /// Its continuous parts, in order: one, unless it is damaged.
    pub fn runs(&self) -> Vec<Run> {
        let beginning = self.description.after;
        let mut runs = vec![Run { after: beginning, through: beginning }];
        for slice in self.slices() {
            match runs.last_mut() {
                Some(run) if run.through == slice.after => run.through = slice.through,
                _ => runs.push(Run { after: slice.after, through: slice.through }),
            }
        }
        runs
    }

    /// Whether it holds, without a hole, everything after `after` up to and including `through`. Nothing (both the same) is held anywhere
    /// from the position it begins after to its end.
    pub fn covers(&self, after: LogPosition, through: LogPosition) -> bool {
        self.runs().iter().any(|run| run.covers(after, through))
    }

    /// The slices that hold what lies after `after` up to and including `through`: the first and the last may hold more.
    pub fn slices_between(&self, after: LogPosition, through: LogPosition) -> &[Slice] {
        let slices = self.slices();
        let from = slices.partition_point(|slice| slice.through <= after);
        let to = slices.partition_point(|slice| slice.after < through);
        &slices[from..to.max(from)]
    }

    /// The key of one of its slices.
    ///
    /// # Errors
    /// None for a slice of this chain.
    pub fn key(&self, slice: &Slice) -> Result<Key> {
        layout::chain(self.description.store, self.id()).child(slice.name())
    }

    /// Finds out, without reading any slice, whether its slices can be decrypted with what the repository was opened with.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] without any identity, [`ErrorKind::Auth`] when none fits; both name the recipients.
    pub fn check_readable(&self) -> Result<()> {
        if self.slices().iter().any(|slice| slice.encryption == Encryption::Age) {
            let what = format!("chain {}", self.id());
            self.repository.identities().check(&self.description.recipients, &what)?;
        }
        Ok(())
    }

    pub(super) fn repository(&self) -> &Repository {
        &self.repository
    }

    pub(super) fn site(&self, slice: &Slice) -> Result<ObjectSite> {
        Ok(ObjectSite {
            store: self.repository.store().clone(),
            key: self.key(slice)?,
            expected: Expected {
                stored_bytes: slice.bytes,
                blake3: slice.blake3,
                encryption: slice.encryption,
                plain: PlainBytes::AtMost(SLICE_BYTES_MAX as u64),
            },
            identities: Arc::clone(self.repository.identities()),
        })
    }
}

impl Repository {
    /// All chains of the log of `store`, oldest first, from one listing. A chain without a readable description is listed as damaged. What
    /// has no name of a chain or slice is not Mainstay's and is left out.
    ///
    /// # Errors
    /// The store's.
    pub async fn chains(&self, store: StoreKind) -> Result<Vec<ChainEntry>> {
        let folder = layout::log(store);
        let objects = self.store().list(&folder).await.with_context(|| format!("list log of {store}"))?;
        let mut reads = futures::stream::iter(by_chain(&folder, objects))
            .map(|(id, slices)| self.chain_entry(store, id, slices))
            .buffered(LISTING_READS);
        let mut entries = Vec::new();
        while let Some(entry) = reads.next().await {
            entries.extend(entry?);
        }
        Ok(entries)
    }

    /// All chains of the log of `store`, oldest first, each with the slices alone that begin within the range that `within` says of it. What
    /// lies before and behind costs nothing on S3. Where the range does not begin at the chain's own beginning it must begin where a slice
    /// does. Of chains with an empty range the description alone is read.
    ///
    /// # Errors
    /// The store's.
    pub async fn chains_within(
        &self,
        store: StoreKind,
        within: impl Fn(&ChainDescription) -> Range<LogPosition>,
    ) -> Result<Vec<ChainEntry>> {
        let folder = layout::log(store);
        let names = self.store().folders(&folder).await.with_context(|| format!("list log of {store}"))?;
        let ids = names.iter().filter_map(|name| name.parse().ok());
        let mut reads = futures::stream::iter(ids)
            .map(|id| self.chain_entry_within(store, id, &within))
            .buffered(LISTING_READS);
        let mut entries = Vec::new();
        while let Some(entry) = reads.next().await {
            entries.push(entry?);
        }
        Ok(entries)
    }

    /// The whole chains of the server with this `fingerprint`, oldest first; damaged ones are left out.
    ///
    /// # Errors
    /// The store's.
    pub async fn chains_of(&self, store: StoreKind, fingerprint: &str) -> Result<Vec<Chain>> {
        let entries = self.chains(store).await?;
        let chains = entries.into_iter().filter_map(ChainEntry::whole);
        Ok(chains.filter(|chain| chain.description().server == fingerprint).collect())
    }

    /// Reads a slice back: the entries the server recorded, as it keeps them.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] naming the slice when it is missing or its bytes are not those that were written; as
    /// [`Chain::check_readable`] when it is encrypted; the store's errors as they are.
    pub async fn read_slice(&self, chain: &Chain, slice: &Slice) -> Result<Bytes> {
        if slice.encryption == Encryption::Age {
            chain.check_readable()?;
        }
        ObjectSource::open(&chain.site(slice)?).await?.read_all(SLICE_BYTES_MAX).await
    }

    /// The listing's line for one chain; `None` when nothing of Mainstay's lies in the folder.
    async fn chain_entry(
        &self,
        store: StoreKind,
        id: ChainId,
        found: Option<Vec<Slice>>,
    ) -> Result<Option<ChainEntry>> {
        let Some(found) = found else { return Ok(None) };
        match self.chain_description(store, &id).await {
            Ok(description) => {
                let ordered = Arc::new(order::order(description.after, found));
                let description = Arc::new(description);
                Ok(Some(ChainEntry::Whole(Chain { repository: self.clone(), description, ordered })))
            }
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                Ok(Some(ChainEntry::Damaged { store, id, slices: found.len(), error }))
            }
            Err(error) => Err(error),
        }
    }

    async fn chain_entry_within(
        &self,
        store: StoreKind,
        id: ChainId,
        within: impl Fn(&ChainDescription) -> Range<LogPosition>,
    ) -> Result<ChainEntry> {
        let description = match self.chain_description(store, &id).await {
            Ok(description) => description,
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                return Ok(ChainEntry::Damaged { store, id, slices: 0, error });
            }
            Err(error) => return Err(error),
        };
        let Range { start, end } = within(&description);
        let mut slices = Vec::new();
        if start < end {
            let folder = layout::chain(store, &id);
            let (from, until) = (folder.child(start.to_string())?, folder.child(end.to_string())?);
            let objects = self.store().list_between(&folder, &from, &until).await;
            let objects = objects.with_context(|| format!("list chain {id}"))?;
            slices
                .extend(objects.iter().filter_map(|info| Slice::parse(info.key.below(&folder)?, info.bytes)));
        }
        let ordered = Arc::new(order::order(description.after.max(start), slices));
        Ok(ChainEntry::Whole(Chain { repository: self.clone(), description: Arc::new(description), ordered }))
    }

    pub(super) async fn chain_description(&self, store: StoreKind, id: &ChainId) -> Result<ChainDescription> {
        let key = layout::chain_description(store, id);
        let bytes = match self.store().get(&key, DESCRIPTION_BYTES_MAX).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::new(ErrorKind::Corrupt, format!("{key} is missing"))
                    .with_hint("copy it back from an off-site copy of the repository"));
            }
            bytes => bytes.context("read the description of a chain")?,
        };
        let (description, _): (ChainDescription, _) =
            open_versioned(CHAIN_KIND, key.as_str(), &bytes, CHAIN_FORMAT)?;
        if !description.is_consistent() {
            return Err(Error::new(ErrorKind::Corrupt, format!("{key} does not say which log it is of"))
                .with_hint("copy the right one back from an off-site copy of the repository"));
        }
        let belongs = description.chain_id == *id
            && description.store == store
            && description.repository_id == self.id();
        if belongs {
            return Ok(description);
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "{key} belongs to chain {} of {} in repository {}",
                description.chain_id, description.store, description.repository_id
            ),
        )
        .with_hint("copy the right one back from an off-site copy of the repository"))
    }
}

/// The slices by chain; `None` for a folder that holds neither slices nor a description.
fn by_chain(folder: &Key, objects: Vec<ObjectInfo>) -> BTreeMap<ChainId, Option<Vec<Slice>>> {
    let mut chains: BTreeMap<ChainId, Option<Vec<Slice>>> = BTreeMap::new();
    for info in objects {
        let Some((id, name)) = info.key.below(folder).and_then(|below| below.split_once('/')) else {
            continue;
        };
        let Ok(id) = id.parse() else { continue };
        let slice = Slice::parse(name, info.bytes);
        let slices = chains.entry(id).or_default();
        if slice.is_some() || name == layout::CHAIN_DESCRIPTION {
            slices.get_or_insert_default().extend(slice);
        }
    }
    chains
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_what_its_name_says_and_has_one_spelling() {
        let hash = Blake3::of(b"stored");
        for suffix in ["", ".age"] {
            let name = format!("000000010000000a-0000000200000001-0000001f-{hash}.oplog.zst{suffix}");
            let slice = Slice::parse(&name, 12).unwrap();
            assert_eq!(slice.name(), name);
            assert_eq!((slice.after.to_string(), slice.token), ("000000010000000a".to_owned(), 31));
        }
        for foreign in [
            "chain.json".to_owned(),
            "notes.txt".to_owned(),
            format!("000000010000000a-0000000200000001-1f-{hash}.oplog.zst"),
            format!("0000000200000001-000000010000000a-0000001f-{hash}.oplog.zst"),
            format!("000000010000000a-0000000200000001-0000001f-{hash}.aof.zst"),
            format!("000000010000000a-0000000200000001-0000001f-{hash}.oplog.zst#1"),
            format!("000000010000000a-0000000200000001-0000001f-{hash}.oplog.zst.gz"),
        ] {
            assert_eq!(Slice::parse(&foreign, 12), None, "{foreign}");
        }
    }
}
