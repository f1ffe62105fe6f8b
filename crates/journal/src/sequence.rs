//! Sequences: numbered, create-only, sealed objects `<prefix>/000000000001.json`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use mainstay_model::{Blake3, Error, ErrorKind, Result, ResultExt, sealed};
use mainstay_store::{Key, ObjectInfo, Store};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest record. What is larger is data and belongs into an object of its own.
const RECORD_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Records read at once.
const READS_IN_FLIGHT_MAX: usize = 16;
/// How often a number may be taken by somebody else before a writer gives up.
const APPEND_TRIES_MAX: u32 = 20;
/// Digits of a number in a key, so that text order is number order.
const NUMBER_DIGITS: usize = 12;

/// Numbered records of one kind under one prefix, counted from 1. Clones share what they know of its end.
#[derive(Debug, Clone)]
pub struct Sequence {
    store: Store,
    prefix: Key,
    kind: &'static str,
    /// A number near the end, 0 for none: where a search for the last record begins. Nothing rests on it.
    near_end: Arc<AtomicU64>,
}

/// One record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// Its number.
    pub number: u64,
    /// What it says.
    pub body: T,
    /// The hash that seals it.
    pub blake3: Blake3,
}

impl Sequence {
    /// The sequence below `prefix`; `kind` is what its records are sealed as. Nothing is read or written yet.
    pub fn new(store: Store, prefix: Key, kind: &'static str) -> Self {
        Self { store, prefix, kind, near_end: Arc::default() }
    }

    /// The key of record `number`.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the number has more digits than keys have.
    pub fn key(&self, number: u64) -> Result<Key> {
        let name = format!("{number:0NUMBER_DIGITS$}");
        if number == 0 || name.len() > NUMBER_DIGITS {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("{number} is no record number of {}", self.prefix),
            ));
        }
        self.prefix.child(format!("{name}.json"))
    }

    /// Writes record `number`, durably, and returns the hash that seals it. The caller knows that `number - 1` is the last.
    ///
    /// Two processes that append the very same body may both be told that they succeeded when the store loses an answer; a body that must
    /// win alone holds something of its own (see [`mainstay_store::Store::put_new`]).
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the number is taken; the kinds of [`mainstay_store::Store::put_new`] otherwise.
    pub async fn append<T: Serialize>(&self, number: u64, body: &T) -> Result<Blake3> {
        let key = self.key(number)?;
        let (bytes, blake3) = sealed::seal(self.kind, body)?;
        if bytes.len() as u64 > RECORD_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Internal,
                format!(
                    "record {key} would have {} bytes; at most {RECORD_BYTES_MAX} are read back",
                    bytes.len()
                ),
            ));
        }
        self.store.put_new(&key, Bytes::from(bytes)).await?;
        self.near_end.store(number, Ordering::Relaxed);
        Ok(blake3)
    }

    /// Writes a record behind the last one, whichever number that takes: for records that several processes write at the same time, and of
    /// which each stands for itself. Durable when it returns.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when others are faster again and again; as [`Sequence::append`] otherwise.
    pub async fn append_next<T: Serialize>(&self, body: &T) -> Result<Blake3> {
        for _ in 0..APPEND_TRIES_MAX {
            let number = self.numbers().await?.last().map_or(1, |last| last + 1);
            match self.append(number, body).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                appended => return appended,
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("others write to {} all the time", self.prefix)))
    }

    /// The numbers there are, ascending, from one listing; no record is read.
    ///
    /// # Errors
    /// The kinds of [`mainstay_store::Store::list`].
    pub async fn numbers(&self) -> Result<Vec<u64>> {
        Ok(self.numbers_in(&self.store.list(&self.prefix).await?))
    }

    fn numbers_in(&self, listed: &[ObjectInfo]) -> Vec<u64> {
        listed.iter().filter_map(|object| number_of(object.key.below(&self.prefix)?)).collect()
    }

    /// The highest number there is. A handle that has seen the end before lists from there on; only when nothing is found there (records
    /// were removed) does it list everything, as a new handle does.
    async fn last_number(&self) -> Result<Option<u64>> {
        let near_end = self.near_end.load(Ordering::Relaxed);
        if near_end > 1 {
            let listed = self.store.list_after(&self.prefix, &self.key(near_end - 1)?).await?;
            if let Some(last) = self.numbers_in(&listed).last().copied() {
                self.near_end.store(last, Ordering::Relaxed);
                return Ok(Some(last));
            }
        }
        let last = self.numbers().await?.last().copied();
        self.near_end.store(last.unwrap_or(0), Ordering::Relaxed);
        Ok(last)
    }

    /// Record `number`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::Corrupt`] naming its key when it is damaged.
    pub async fn read<T: DeserializeOwned>(&self, number: u64) -> Result<Entry<T>> {
        let key = self.key(number)?;
        let bytes = self.store.get(&key, RECORD_BYTES_MAX).await?;
        let (body, blake3) = sealed::open(self.kind, &key.to_string(), &bytes)?;
        Ok(Entry { number, body, blake3 })
    }

    /// The record with the highest number, `None` when there is none: one listing, one read. From the second time on the listing begins
    /// near the end, so that its cost does not grow with the sequence.
    ///
    /// # Errors
    /// As [`Sequence::read`].
    pub async fn last<T: DeserializeOwned>(&self) -> Result<Option<Entry<T>>> {
        match self.last_number().await? {
            Some(number) => self.read(number).await.map(Some),
            None => Ok(None),
        }
    }

    /// All records, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] naming the key of the first record that is missing or damaged; the kinds of [`Sequence::read`] otherwise.
    pub async fn all<T: DeserializeOwned + Send>(&self) -> Result<Vec<Entry<T>>> {
        let numbers = self.numbers().await?;
        for (expected, number) in (1..).zip(&numbers) {
            if *number != expected {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "{} is missing in {}, but later records exist",
                        self.key(expected)?,
                        self.store.describe()
                    ),
                )
                .with_hint("restore this object from an off-site copy"));
            }
        }
        futures::stream::iter(numbers)
            .map(|number| self.read(number))
            .buffered(READS_IN_FLIGHT_MAX)
            .try_collect()
            .await
            .with_context(|| format!("read records of {}", self.prefix))
    }

    /// Removes the records below `number`, oldest first, as far as that goes.
    pub(crate) async fn remove_below(&self, number: u64, numbers: &[u64]) -> Result<()> {
        for old in numbers.iter().filter(|old| **old < number) {
            self.store.delete(&self.key(*old)?).await?;
        }
        Ok(())
    }

    /// Removes every record, newest first.
    pub async fn remove_all(&self) -> Result<()> {
        for number in self.numbers().await?.into_iter().rev() {
            self.store.delete(&self.key(number)?).await?;
        }
        Ok(())
    }
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    let plain = digits.len() == NUMBER_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok().filter(|number| *number > 0) } else { None }
}

#[cfg(test)]
mod tests {
    use super::number_of;

    #[test]
    fn only_whole_names_are_numbers() {
        assert_eq!(number_of("000000000042.json"), Some(42));
        for name in [
            "000000000000.json",
            "42.json",
            "000000000042",
            "00000000004x.json",
            "a/000000000042.json",
            "+00000000042.json",
        ] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }
}
