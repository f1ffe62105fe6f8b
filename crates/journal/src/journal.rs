//! Journals: what a run set out to do and what it did, one record after the other, so that another process can continue it.
//!
//! Record 1 is the header, written when the run begins; every later one is an event. An event is durable when [`Journal::record`] returns, so
//! whoever writes its intent first and acts then can be resumed at any point. A journal has one writer; who that is, a lease decides.

use mainstay_model::{Blake3, Clock, Error, ErrorKind, Result, ResultExt, RunId, Timestamp, sealed};
use mainstay_store::{Key, Store};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Entry, Sequence};

const FOLDER: &str = "journals";
const KIND: &str = "journal";

/// The journal of one run, under `journals/<run-id>/`. Headers and events are JSON without floating-point numbers.
#[derive(Debug)]
pub struct Journal {
    sequence: Sequence,
    run: RunId,
    next: u64,
    /// A record whose writing ended in an error or was given up, and that may exist nevertheless.
    open_question: Option<Blake3>,
}

/// What a record holds. It repeats run and number, so that a record cannot stand in for another.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    run: RunId,
    number: u64,
    #[serde(flatten)]
    content: Content,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Content {
    Header { begun_at: Timestamp, header: Value },
    Event(Value),
}

impl Journal {
    /// Begins the journal of `run` with `header`, which says what is to be done.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the run has a journal already; the kinds of [`mainstay_store::Store::put_new`].
    pub async fn begin<H: Serialize>(
        store: &Store,
        clock: &dyn Clock,
        run: &RunId,
        header: &H,
    ) -> Result<Self> {
        let sequence = sequence_of(store, run)?;
        let content = Content::Header { begun_at: clock.now(), header: json(header)? };
        let record = Record { run: run.clone(), number: 1, content };
        sequence.append(1, &record).await.with_context(|| format!("begin journal of run {run}"))?;
        Ok(Self { sequence, run: run.clone(), next: 2, open_question: None })
    }

    /// Opens the journal of `run`, to read it or to continue it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none.
    pub async fn open(store: &Store, run: &RunId) -> Result<Self> {
        let sequence = sequence_of(store, run)?;
        let Some(last) = sequence.numbers().await?.last().copied() else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("run {run} has no journal in {}", store.describe()),
            ));
        };
        Ok(Self { sequence, run: run.clone(), next: last + 1, open_question: None })
    }

    /// The runs that have a journal, oldest first.
    ///
    /// # Errors
    /// The kinds of [`mainstay_store::Store::folders`].
    pub async fn runs(store: &Store) -> Result<Vec<RunId>> {
        let mut runs: Vec<RunId> =
            store.folders(&Key::new(FOLDER)?).await?.iter().filter_map(|name| name.parse().ok()).collect();
        runs.sort_unstable();
        Ok(runs)
    }

    /// The run this is the journal of.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// What the run set out to do.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] naming the record when it is damaged or no `H`.
    pub async fn header<H: DeserializeOwned>(&self) -> Result<H> {
        match self.checked(self.sequence.read(1).await?)? {
            Content::Header { header, .. } => self.typed(1, header),
            Content::Event(_) => Err(self.misplaced(1)),
        }
    }

    /// When the run began.
    ///
    /// # Errors
    /// As [`Journal::header`].
    pub async fn begun_at(&self) -> Result<Timestamp> {
        match self.checked(self.sequence.read(1).await?)? {
            Content::Header { begun_at, .. } => Ok(begun_at),
            Content::Event(_) => Err(self.misplaced(1)),
        }
    }

    /// Appends `event`; it is durable when this returns. After an error, and when the call was given up in the middle, others may be recorded,
    /// and the same one again: it is kept once.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another process writes this journal; the kinds of [`mainstay_store::Store::put_new`] otherwise.
    pub async fn record<E: Serialize>(&mut self, event: &E) -> Result<()> {
        let event = json(event)?;
        loop {
            let before = self.open_question;
            if self.settle(&event).await? {
                return Ok(());
            }
            let content = Content::Event(event.clone());
            let record = Record { run: self.run.clone(), number: self.next, content };
            // Open until the store has answered: a caller that gives this call up does not take back what the store has begun to write.
            self.open_question = Some(sealed::seal(KIND, &record)?.1);
            let error = match self.sequence.append(self.next, &record).await {
                Ok(_) => {
                    self.next += 1;
                    self.open_question = None;
                    return Ok(());
                }
                Err(error) => error.context(format!("record step {} of run {}", self.next, self.run)),
            };
            if error.kind() != ErrorKind::Conflict {
                return Err(error);
            }
            self.open_question = before;
            if !self.is_answered(before).await {
                return Err(error.with_hint(
                    "another process continues this run; let it, or wait until its lease is free and continue again",
                ));
            }
        }
    }

    /// Whether the record that is in the way is the one whose writing was given up, and which ended only now.
    async fn is_answered(&self, attempted: Option<Blake3>) -> bool {
        let Some(attempted) = attempted else { return false };
        let found = self.sequence.read::<Record>(self.next).await;
        found.is_ok_and(|found| found.blake3 == attempted)
    }

    /// Finds out whether the record whose writing failed exists, and whether `event` is that record's.
    async fn settle(&mut self, event: &Value) -> Result<bool> {
        let Some(attempted) = self.open_question else { return Ok(false) };
        match self.sequence.read::<Record>(self.next).await {
            Ok(found) if found.blake3 == attempted => {
                let same = matches!(&found.body.content, Content::Event(recorded) if recorded == event);
                self.next += 1;
                self.open_question = None;
                Ok(same)
            }
            // Somebody else's: appending meets the conflict and reports it.
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.open_question = None;
                Ok(false)
            }
            Err(error) => Err(error.context(format!("look for step {} of run {}", self.next, self.run))),
        }
    }

    /// All events, in order. When a writer was killed they are a whole prefix of what it did.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] naming the first record that is missing, damaged, out of place or no `E`.
    pub async fn events<E: DeserializeOwned>(&self) -> Result<Vec<E>> {
        let entries = self.sequence.all::<Record>().await?;
        let mut events = Vec::with_capacity(entries.len().saturating_sub(1));
        for entry in entries {
            let number = entry.number;
            match self.checked(entry)? {
                Content::Header { .. } if number == 1 => {}
                Content::Event(event) if number > 1 => events.push(self.typed(number, event)?),
                _ => return Err(self.misplaced(number)),
            }
        }
        Ok(events)
    }

    /// Removes the journal of a run that nobody will continue any more: the newest record first, so that what an interruption leaves is a
    /// shorter journal of the same run. Removing it again is safe.
    ///
    /// # Errors
    /// The kinds of [`mainstay_store::Store::delete`].
    pub async fn remove(self) -> Result<()> {
        self.sequence.remove_all().await.with_context(|| format!("remove journal of run {}", self.run))
    }

    fn checked(&self, entry: Entry<Record>) -> Result<Content> {
        if entry.body.run == self.run && entry.body.number == entry.number {
            Ok(entry.body.content)
        } else {
            Err(self.misplaced(entry.number))
        }
    }

    fn typed<T: DeserializeOwned>(&self, number: u64, value: Value) -> Result<T> {
        serde_json::from_value(value).map_err(|source| {
            let record = format!("record {number} of run {} has a form this version does not know", self.run);
            Error::new(ErrorKind::Unsupported, record)
                .with_source(source)
                .with_hint("continue the run with the version that began it")
        })
    }

    fn misplaced(&self, number: u64) -> Error {
        let key = self.sequence.key(number).map_or_else(|_| number.to_string(), |key| key.to_string());
        Error::new(ErrorKind::Corrupt, format!("{key} is not record {number} of run {}", self.run))
            .with_hint("restore this object from an off-site copy")
    }
}

fn sequence_of(store: &Store, run: &RunId) -> Result<Sequence> {
    Ok(Sequence::new(store.clone(), Key::new(FOLDER)?.child(run.as_str())?, KIND))
}

fn json<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(|source| {
        Error::new(ErrorKind::Internal, "a journal record has no JSON form").with_source(source)
    })
}
