//! The oplog in a dump: judged with the dump, replayed when its collections are loaded.
//!
//! A dump made with `--oplog` shows one moment only after the writes in its oplog have been done again on top of its collections: each of
//! them was read at some time between the oplog's beginning and its end. So they are, unless somebody says otherwise, and as a restore does
//! it: the oplog is surveyed while the dump is checked, which tells what exists at its end, under which names and definitions, and finds what
//! cannot be replayed before anything is written; it is replayed once into all collections, each of which must then hold what was reckoned.
//!
//! Relies on the oplog to begin before the first collection was listed, as the stock tool makes it. Collections are known by the UUIDs in
//! their metadata; those of time series are not there, and are the ones that the oplog calls by their names first. What was read while it was
//! written to may hold one `_id` twice; which document it was in the end, the oplog tells.
//!
//! Refuses an oplog in a pipe, which comes after everything that it decides on; one that goes on from collections that the dump does not hold;
//! and one to be merged into documents of another beginning. Users and roles are not followed through it.

use std::path::PathBuf;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use mainstay_engine::{
    ChangeReplay, ChangeSurvey, CollectionIdentity, CollectionKind, DocumentDigest, Namespace,
    PointCollection, StoredCollection, Surveyed, Unidentified, Until,
};
use mainstay_model::progress::Work;
use mainstay_model::{ByteSize, Count, Error, ErrorKind, OpTime, PlanStep, Result};
use serde::Serialize;

use super::dump::Found;
use super::feed::Feed;
use super::left_out_because;
use crate::placement::{Log, Logged, UntilWords, work_of};

/// What is to become of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OplogChoice {
    /// Nothing was said: it is replayed to its end, if there is one.
    #[default]
    Unsaid,
    /// It must be there, and is replayed: to its end, or what comes before a position.
    Replay {
        /// The first position that is left out.
        before: Option<OpTime>,
    },
    /// It is passed over: each collection is as it was when the dump came to it.
    PassOver,
}

impl OplogChoice {
    /// What was chosen, as a plan carries it.
    pub(super) fn of_plan(until: Option<Until>) -> Self {
        match until {
            None => Self::PassOver,
            Some(Until::Through(_)) => Self::Replay { before: None },
            Some(Until::Before(position)) => Self::Replay { before: Some(position) },
        }
    }

    /// The end of the replay.
    pub(super) fn until(self) -> Until {
        match self {
            Self::Replay { before: Some(position) } => Until::Before(position),
            _ => Until::Through(OpTime { seconds: u32::MAX, increment: u32::MAX }),
        }
    }
}

/// The oplog of a dump that was opened.
pub(super) enum Oplog {
    /// There is none, or it is passed over.
    None,
    /// It comes last in a pipe that is still to be read.
    Coming,
    /// It was read, and is to be replayed.
    Judged(Box<Judged>),
}

impl Oplog {
    /// What was found to be one, if there are entries in it.
    pub(super) fn of(judged: Option<Judged>) -> Self {
        judged.map_or(Self::None, |judged| Self::Judged(Box::new(judged)))
    }

    /// The one that is to be replayed.
    pub(super) fn judged(&self) -> Option<&Judged> {
        match self {
            Self::Judged(judged) => Some(judged),
            Self::None | Self::Coming => None,
        }
    }
}

/// An oplog that can be replayed.
pub(super) struct Judged {
    pub(super) until: Until,
    pub(super) surveyed: Surveyed,
    pub(super) work: Work,
    digest: DocumentDigest,
    /// Everything up to this entry is in the dump's documents for certain.
    holds_through: OpTime,
    /// Its entry, in an archive.
    pub(super) entry: Option<usize>,
    /// Its file, in a folder.
    pub(super) file: Option<PathBuf>,
}

/// Nothing is known to be in a document before the first entry.
const BEGINNING: OpTime = OpTime { seconds: 0, increment: 0 };

/// An oplog that is being judged. The first fault is kept until the whole dump was read: damage to the dump explains it better.
pub(super) struct Judging {
    until: Until,
    survey: Result<Box<dyn ChangeSurvey>>,
    work: Work,
    digest: DocumentDigest,
}

impl Judging {
    /// Begins to judge the oplog of a dump of `found`.
    pub(super) fn begin(found: &[Found], choice: OplogChoice, replay: &dyn ChangeReplay) -> Result<Self> {
        let until = choice.until();
        let of_users = found.iter().filter(|found| is_surveyed(&found.namespace));
        let collections = of_users.map(Found::stored).collect();
        let survey = replay.survey(collections, until, Unidentified::FirstOfName);
        let survey = Ok(survey.map_err(explained)?);
        Ok(Self { until, survey, work: Work::default(), digest: DocumentDigest::default() })
    }

    /// Reads whole entries.
    pub(super) fn add(&mut self, entries: &[u8]) {
        self.work = self.work.saturating_add(work_of(entries));
        self.digest.add_concatenation(entries).expect("the readers give framed documents");
        if let Ok(survey) = &mut self.survey
            && let Err(error) = survey.add(entries)
        {
            self.survey = Err(error);
        }
    }

    /// What it leads to; `None` for an oplog without entries.
    ///
    /// # Errors
    /// The survey's; `Precondition` when nothing lies before the limit; `Corrupt` when it begins in the middle of a transaction.
    pub(super) fn end(self, entry: Option<usize>, file: Option<PathBuf>) -> Result<Option<Judged>> {
        let Self { until, survey, work, digest } = self;
        if work.items == 0 {
            return Ok(None);
        }
        let surveyed = survey.and_then(ChangeSurvey::end).map_err(explained)?;
        let Some(first) = surveyed.first else {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("the oplog holds nothing before {}", until.position()),
            )
            .with_hint(
                "choose a later `--oplog-limit`, or load the collections as they are with `--without-oplog`",
            ));
        };
        let holds_through = match (surveyed.needs_from, surveyed.needed_by) {
            (None, _) => BEGINNING,
            // The stock tool begins with the newest entry that there is before it reads anything.
            (Some(_), Some(needed_by)) if needed_by == first => first,
            (Some(missing), _) => return Err(begins_too_late(missing)),
        };
        Ok(Some(Judged { until, surveyed, work, digest, holds_through, entry, file }))
    }
}

fn begins_too_late(missing: OpTime) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the oplog begins in the middle of a transaction: its entry at {missing} is missing"),
    )
    .with_hint("make the dump again; `--without-oplog` loads the collections as the dump met them")
}

/// An error of the oplog, with what can be done about it.
pub(super) fn explained(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unsupported => error.with_hint(
            "replay what comes before that position with `--oplog-limit POSITION`, load the collections as the dump met them with \
             `--without-oplog`, or make the dump again",
        ),
        ErrorKind::Corrupt => error.with_hint(
            "make the dump again, or take another copy of it; `--without-oplog` loads the collections as the dump met them",
        ),
        _ => error,
    }
}

/// Whether the survey has to know of it: what it leaves out by its nature it does not ask for.
fn is_surveyed(name: &Namespace) -> bool {
    left_out_because(name).is_none() || is_shadow(name)
}

fn is_shadow(name: &Namespace) -> bool {
    name.collection.starts_with(crate::placement::SHADOW_PREFIX)
}

impl Found {
    fn stored(&self) -> StoredCollection {
        let metadata: serde_json::Value = serde_json::from_str(&self.metadata).unwrap_or_default();
        let uuid = metadata.get("uuid").and_then(serde_json::Value::as_str);
        StoredCollection {
            namespace: self.namespace.clone(),
            kind: self.kind,
            identity: uuid
                .filter(|_| self.kind == CollectionKind::Collection)
                .map(|uuid| CollectionIdentity(uuid.to_owned())),
            metadata: self.metadata.clone(),
            holds_through: BEGINNING,
        }
    }
}

impl Judged {
    /// What exists at its end.
    pub(super) fn collections(&self) -> &[PointCollection] {
        &self.surveyed.collections
    }

    /// What exists at its end and is not in the dump.
    pub(super) fn foreign(&self) -> impl Iterator<Item = &Namespace> {
        self.surveyed.foreign.iter().filter(|name| !is_shadow(name))
    }

    /// How it goes on from what the dump holds of `point`.
    pub(super) fn logged(&self, point: &PointCollection) -> Option<Logged> {
        (point.kind != CollectionKind::View).then(|| Logged {
            identity: point.identity.clone(),
            capped: point.capped,
            holds_through: if point.origin.is_some() { self.holds_through } else { BEGINNING },
            counts: point.changes,
        })
    }

    /// What it was found to be, as text.
    pub(super) fn stamp(&self) -> String {
        let told = serde_json::to_string(&self.surveyed).expect("what was surveyed has a JSON form");
        format!("oplog\0{:?}\0{:?}\0{}\0{told}", self.until, self.work, self.digest)
    }

    /// Its replay, for the plan.
    pub(super) fn step(&self) -> PlanStep {
        let Surveyed { entries, last, .. } = &self.surveyed;
        let end = match (self.until, last) {
            (Until::Before(_), _) => format!("to the moment {}", UntilWords(self.until)),
            (Until::Through(_), Some(last)) => format!("to the moment {}", UntilWords(Until::Through(*last))),
            (Until::Through(_), None) => "to its end".to_owned(),
        };
        PlanStep {
            name: "replay the oplog".to_owned(),
            mark: ' ',
            summary: format!("{end}: {} entries, {} to read", Count(*entries), ByteSize(self.work.bytes)),
        }
    }

    /// What was replayed.
    pub(super) fn report(&self) -> OplogReport {
        OplogReport { until: self.until, reached: self.surveyed.last, entries: self.surveyed.entries }
    }

    /// The oplog as it comes from `feed`.
    pub(super) fn log(&self, feed: Feed) -> FedOplog {
        FedOplog { feed, until: self.until, work: self.work }
    }
}

/// An oplog that was replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OplogReport {
    /// The end that was asked for.
    pub until: Until,
    /// The last entry within it.
    pub reached: Option<OpTime>,
    /// Entries up to the end, those of other collections included.
    pub entries: u64,
}

/// An oplog on its way.
pub(super) struct FedOplog {
    feed: Feed,
    until: Until,
    work: Work,
}

impl Log for FedOplog {
    fn until(&self) -> Until {
        self.until
    }

    fn beginning(&self) -> OpTime {
        BEGINNING
    }

    fn work(&self) -> Work {
        self.work
    }

    fn read(&self, _: OpTime) -> BoxStream<'_, Result<Bytes>> {
        Box::pin(stream::try_unfold(&self.feed, |feed| async move {
            Ok(feed.next().await?.map(|batch| (batch.bytes, feed)))
        }))
    }
}

/// Refuses what is asked of an oplog that is not there, or cannot be done with one that is.
pub(super) fn check(choice: OplogChoice, oplog: &Oplog) -> Result<()> {
    match (choice, oplog) {
        (OplogChoice::Replay { .. }, Oplog::None) => {
            Err(Error::new(ErrorKind::Precondition, "the dump holds no oplog to replay")
                .with_state("nothing was changed")
                .with_hint("leave `--oplog-replay` and `--oplog-limit` out"))
        }
        (_, Oplog::Coming) => Err(Error::new(
            ErrorKind::Unsupported,
            "the oplog of a dump from standard input cannot be replayed: it comes last, and decides what everything before it becomes",
        )
        .with_state("nothing was changed")
        .with_hint(
            "write the dump to a file first and load that, or load the collections as the dump met them with `--without-oplog`",
        )),
        _ => Ok(()),
    }
}
