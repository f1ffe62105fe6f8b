//! Leases: who may write something, until when.
//!
//! A lease is a sequence `leases/<name>/<seq>.json`; each acquisition, renewal and release is its next record, made with a create-only
//! put. The last record tells the state. Old records are removed by the holder as it renews; the last few stay, so that numbers, and the
//! fencing tokens made of them, only grow.

use std::sync::Arc;

use jiff::SignedDuration;
use mainstay_model::{Clock, Error, ErrorKind, Result, ResultExt, Timestamp};
use mainstay_store::{Key, Store};
use serde::{Deserialize, Serialize};

use crate::{Entry, KeptLease, Sequence};

const FOLDER: &str = "leases";
const KIND: &str = "lease";
/// Records kept behind the last one.
const RECORDS_KEPT: u64 = 4;
/// Attempts to get ahead of others who acquire at the same moment.
const ACQUIRE_ATTEMPTS_MAX: u32 = 8;

/// A record of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRecord {
    /// The lease's name.
    pub name: String,
    /// The record's number, repeated, so that a record cannot stand in for another.
    pub number: u64,
    /// The fencing token: the number of the record by which the lease was acquired.
    pub token: u64,
    /// Who holds it: for people, such as `host:pid operation`.
    pub holder: String,
    /// What this record says.
    pub state: LeaseState,
    /// When it was made, by its maker's clock.
    pub at: Timestamp,
    /// Until when it is held, exclusive, by its maker's clock.
    pub expires_at: Timestamp,
    /// Unique text, so that no two records have the same bytes.
    pub nonce: String,
}

/// What a record of a lease says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Acquired or renewed.
    Held,
    /// Given back.
    Released,
}

/// A lease that this process acquired. It must be renewed before it expires: see [`Lease::keep`].
///
/// **Clocks.** A holder counts itself out at `expires_at` by its own clock, and others take over at `expires_at` by theirs. If another
/// host's clock is ahead by more than the time since the last renewal leaves, both believe to hold the lease for a while. Two things
/// bound the harm: with renewal every third of the time to live, clocks may differ by up to two thirds of it; and every take-over has a
/// higher [`Lease::token`], while the record of the former holder's next renewal is already taken, so that its renew, [`Lease::check`] and
/// release fail. Whoever commits something under a lease checks it last, and lets the token be part of what it commits where order matters.
#[derive(Debug)]
pub struct Lease {
    sequence: Sequence,
    clock: Arc<dyn Clock>,
    ttl: SignedDuration,
    current: LeaseRecord,
}

impl Lease {
    /// Acquires the lease `name` for `holder` (shown to others), for `ttl` from now.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when somebody holds it, saying who and until when; [`ErrorKind::Corrupt`] when its last record is damaged; the
    /// kinds of [`mainstay_store::Store::put_new`] otherwise, and then the lease may be held by nobody until it expires.
    pub async fn acquire(
        store: &Store,
        clock: Arc<dyn Clock>,
        name: &str,
        holder: &str,
        ttl: SignedDuration,
    ) -> Result<Self> {
        let sequence = sequence_of(store, name)?;
        for _ in 0..ACQUIRE_ATTEMPTS_MAX {
            let last = last_of(&sequence, name).await?;
            let now = clock.now();
            if let Some(live) = last.as_ref().map(|entry| &entry.body).filter(|record| is_live(record, now)) {
                return Err(locked(live));
            }
            let number = last.map_or(1, |entry| entry.number + 1);
            let record = LeaseRecord {
                name: name.to_owned(),
                number,
                token: number,
                holder: holder.to_owned(),
                state: LeaseState::Held,
                at: now,
                expires_at: expiry(now, ttl)?,
                nonce: nonce(),
            };
            match write(&sequence, &record).await {
                Ok(Written::AsLast(_)) => return Ok(Self { sequence, clock, ttl, current: record }),
                // Somebody was quicker; what they wrote decides.
                Ok(Written::Overtaken) => {}
                Err(error) => return Err(error.context(format!("acquire lease {name}"))),
            }
        }
        Err(Error::new(ErrorKind::Locked, format!("lease {name} changes hands too often to be acquired"))
            .with_hint("try again in a moment"))
    }

    /// The live holder's record, `None` when the lease is free, expired or was never acquired.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when its last record is damaged; the kinds of [`mainstay_store::Store::get`].
    pub async fn holder(store: &Store, clock: &dyn Clock, name: &str) -> Result<Option<LeaseRecord>> {
        let last = last_of(&sequence_of(store, name)?, name).await?;
        Ok(last.map(|entry| entry.body).filter(|record| is_live(record, clock.now())))
    }

    /// The lease's name.
    pub fn name(&self) -> &str {
        &self.current.name
    }

    /// The fencing token: it is higher than that of every earlier acquisition of this lease, and stays when it is renewed.
    pub fn token(&self) -> u64 {
        self.current.token
    }

    /// Until when the lease is held, exclusive, unless it is renewed.
    pub fn expires_at(&self) -> Timestamp {
        self.current.expires_at
    }

    /// How long an acquisition or renewal lasts.
    pub fn ttl(&self) -> SignedDuration {
        self.ttl
    }

    /// Extends the lease to its time to live from now. An expired lease that nobody took over is held again.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when it was lost, saying to whom; the kinds of [`mainstay_store::Store::put_new`] otherwise, and then renewing
    /// again is safe.
    pub async fn renew(&mut self) -> Result<()> {
        let now = self.clock.now();
        let next = LeaseRecord { at: now, expires_at: expiry(now, self.ttl)?, ..self.current.clone() };
        let numbers =
            self.write_next(next).await.with_context(|| format!("renew lease {}", self.current.name))?;
        // Removing is tidiness; the next renewal tries again.
        let _ = self.sequence.remove_below(self.current.number.saturating_sub(RECORDS_KEPT), &numbers).await;
        Ok(())
    }

    /// Makes sure that the lease is still held, by the clock and by the store.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when it expired or was lost; the kinds of [`mainstay_store::Store::list`].
    pub async fn check(&self) -> Result<()> {
        check_time(&self.current, self.clock.now())?;
        if self.sequence.numbers().await?.last() == Some(&self.current.number) {
            return Ok(());
        }
        match last_of(&self.sequence, &self.current.name).await? {
            Some(last) if self.is_own(&last.body) => Ok(()),
            last => Err(self.lost_to(last)),
        }
    }

    /// Gives the lease back, so that the next one need not wait for it to expire.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when it was lost already; the kinds of [`mainstay_store::Store::put_new`] otherwise: it expires by itself then.
    pub async fn release(mut self) -> Result<()> {
        let now = self.clock.now();
        let next =
            LeaseRecord { at: now, expires_at: now, state: LeaseState::Released, ..self.current.clone() };
        self.write_next(next).await.with_context(|| format!("release lease {}", self.current.name))?;
        Ok(())
    }

    /// Renews the lease in the background from now on. Needs a running Tokio runtime.
    pub fn keep(self) -> KeptLease {
        KeptLease::new(self)
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    pub(crate) fn record(&self) -> &LeaseRecord {
        &self.current
    }

    /// Makes `next` the record after the current one, and the current one. Returns the numbers there are.
    async fn write_next(&mut self, mut next: LeaseRecord) -> Result<Vec<u64>> {
        // A renewal whose answer was lost has taken the number; then its record is the one to go on from.
        for _ in 0..ACQUIRE_ATTEMPTS_MAX {
            next.number = self.current.number + 1;
            next.nonce = nonce();
            if let Written::AsLast(numbers) = write(&self.sequence, &next).await? {
                self.current = next;
                return Ok(numbers);
            }
            match last_of(&self.sequence, &self.current.name).await? {
                Some(last) if self.is_own(&last.body) => self.current = last.body,
                last => return Err(self.lost_to(last)),
            }
        }
        Err(self.lost_to(None))
    }

    /// True for a record that only this acquisition can have made.
    fn is_own(&self, record: &LeaseRecord) -> bool {
        record.token == self.current.token && record.state == LeaseState::Held
    }

    fn lost_to(&self, last: Option<Entry<LeaseRecord>>) -> Error {
        let LeaseRecord { name, holder, .. } = &self.current;
        let to = match last {
            Some(Entry { body, .. }) if body.state == LeaseState::Held => {
                format!(" to {} at {}", body.holder, body.at)
            }
            _ => String::new(),
        };
        Error::new(ErrorKind::Locked, format!("lease {name} of {holder} was lost{to}")).with_hint(
            "the work under it was taken over or given up; look at what the new holder does before starting again",
        )
    }
}

enum Written {
    /// The record is the last one; the numbers there are.
    AsLast(Vec<u64>),
    /// Another record is.
    Overtaken,
}

/// Writes `record` and makes sure that it is the last: a process that slept between reading and writing may find its number free again
/// because the holders after it have removed their old records.
async fn write(sequence: &Sequence, record: &LeaseRecord) -> Result<Written> {
    match sequence.append(record.number, record).await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::Conflict => return Ok(Written::Overtaken),
        Err(error) => return Err(error),
    }
    let numbers = sequence.numbers().await?;
    Ok(if numbers.last() == Some(&record.number) { Written::AsLast(numbers) } else { Written::Overtaken })
}

async fn last_of(sequence: &Sequence, name: &str) -> Result<Option<Entry<LeaseRecord>>> {
    let last = sequence.last::<LeaseRecord>().await.with_context(|| format!("read lease {name}"))?;
    match last {
        Some(entry) if entry.body.number != entry.number || entry.body.name != name => {
            let key = sequence.key(entry.number)?;
            Err(Error::new(
                ErrorKind::Corrupt,
                format!("{key} is not record {} of lease {name}", entry.number),
            ))
        }
        last => Ok(last),
    }
}

fn sequence_of(store: &Store, name: &str) -> Result<Sequence> {
    if name.contains('/') {
        return Err(Error::new(ErrorKind::Internal, format!("{name:?} is not the name of a lease")));
    }
    Ok(Sequence::new(store.clone(), Key::new(FOLDER)?.child(name)?, KIND))
}

fn is_live(record: &LeaseRecord, now: Timestamp) -> bool {
    record.state == LeaseState::Held && now < record.expires_at
}

pub(crate) fn check_time(record: &LeaseRecord, now: Timestamp) -> Result<()> {
    if is_live(record, now) {
        return Ok(());
    }
    let LeaseRecord { name, holder, expires_at, .. } = record;
    Err(Error::new(ErrorKind::Locked, format!("lease {name} of {holder} expired at {expires_at}"))
        .with_hint("the store could not be reached in time, or this machine slept; start again"))
}

fn locked(record: &LeaseRecord) -> Error {
    let LeaseRecord { name, holder, expires_at, .. } = record;
    Error::new(ErrorKind::Locked, format!("lease {name} is held by {holder} until {expires_at}"))
        .with_state("nothing was changed")
        .with_hint("wait for it to end; if that process no longer runs, the lease expires at the time told")
}

fn expiry(now: Timestamp, ttl: SignedDuration) -> Result<Timestamp> {
    now.checked_add(ttl).map_err(|source| {
        Error::new(ErrorKind::Internal, "a lease's end is out of range").with_source(source)
    })
}

fn nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
