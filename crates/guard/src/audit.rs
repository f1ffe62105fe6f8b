//! The audit log: what was intended, what came of it, what was refused, in a chain of numbered objects.
//!
//! Entry *n* is the sealed object `audit/<n as twelve digits>.json`, written create-only and never again. It holds the hash of entry
//! *n* − 1, so that an entry that is changed, removed from the middle, replaced or moved no longer fits its neighbours;
//! [`AuditLog::verify`] names the first that does not. Appenders race by trying to create the next number; the loser reads the new end
//! and tries again.
//!
//! What a chain cannot tell: that entries at its very end have been removed, or that somebody who can write to the repository has
//! rewritten all of it. For that, keep [`AuditLog::head`] somewhere else (a report, a chat message, object-locked storage) and compare.
//!
//! No entry holds a secret: user information in URLs and members with telling names are blanked before they are written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use mainstay_journal::Sequence;
use mainstay_model::{
    Blake3, Effect, Error, ErrorKind, ErrorStatus, Finding, Result, ResultExt, Severity, Target, Timestamp,
    redact_url,
};
use mainstay_store::{Key, Store};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::guard::Actor;

/// The kind of the sealed objects.
const KIND: &str = "audit";
/// Entries read at once when the chain is checked.
const READS_IN_FLIGHT_MAX: usize = 16;
/// How often an append is tried while other processes keep taking the next number.
const APPEND_ATTEMPTS_MAX: u32 = 100;
/// The longest pause between two tries.
const APPEND_PAUSE_MAX: Duration = Duration::from_millis(50);

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its number, from 1, without gaps.
    pub number: u64,
    /// Tells this entry from any other ever written, so that of two equal entries that race for a number one loses.
    pub id: String,
    /// When it was written, by the writer's clock.
    pub at: Timestamp,
    /// Who acted.
    pub actor: Actor,
    /// The registered operation.
    pub operation: String,
    /// What that operation does to the world.
    pub effect: Effect,
    /// What it acts upon, when that was known.
    pub target: Option<Target>,
    /// The plan, when there was one.
    pub plan_hash: Option<Blake3>,
    /// What happened.
    pub event: AuditEvent,
    /// The operation's own facts: hashes, counts, names. Never a secret; numbers with a fraction stand as text.
    pub facts: Value,
    /// The hash of the entry before; `None` for the first.
    pub previous: Option<Blake3>,
}

/// What an entry records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AuditEvent {
    /// An operation is about to begin.
    Intent {
        /// How consent was given: `not asked`, `confirmed`, `phrase typed`, `approved by hash`.
        consent: String,
    },
    /// An operation has ended.
    Outcome {
        /// The number of its intent.
        intent: u64,
        /// How it ended.
        outcome: AuditOutcome,
    },
    /// Something worth keeping that needed no permit.
    Note,
    /// An operation was not permitted.
    Refusal {
        /// Why.
        reason: String,
    },
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum AuditOutcome {
    /// As planned.
    Done {
        /// One line.
        summary: String,
    },
    /// With an error.
    Failed {
        /// Its text.
        error: String,
    },
    /// At a safe point, on request.
    Interrupted {
        /// What the world looks like now.
        state: String,
    },
}

/// An entry before it has a number and a place in the chain.
#[derive(Debug, Clone)]
pub struct NewAuditEntry {
    /// As [`AuditEntry::at`].
    pub at: Timestamp,
    /// As [`AuditEntry::actor`].
    pub actor: Actor,
    /// As [`AuditEntry::operation`].
    pub operation: String,
    /// As [`AuditEntry::effect`].
    pub effect: Effect,
    /// As [`AuditEntry::target`].
    pub target: Option<Target>,
    /// As [`AuditEntry::plan_hash`].
    pub plan_hash: Option<Blake3>,
    /// As [`AuditEntry::event`].
    pub event: AuditEvent,
    /// As [`AuditEntry::facts`], before redaction.
    pub facts: Value,
}

/// The audit log of a repository. Clones share one queue of appends.
#[derive(Clone)]
pub struct AuditLog {
    store: Store,
    sequence: Sequence,
    appending: Arc<Mutex<()>>,
}

impl AuditLog {
    /// The log kept in `store`; one that does not exist yet is empty.
    pub fn new(store: Store) -> Self {
        let sequence = Sequence::new(store.clone(), prefix(), KIND);
        Self { store, sequence, appending: Arc::default() }
    }

    /// Appends an entry and gives its number and hash. It is durable when this returns.
    ///
    /// # Errors
    /// `Corrupt` when the last entry is damaged; `Conflict` when other processes took the next number a hundred times in a row (temporary);
    /// what the store says otherwise.
    pub async fn append(&self, entry: NewAuditEntry) -> Result<(u64, Blake3)> {
        let entry = redacted(entry);
        let _turn = self.appending.lock().await;
        for attempt in 1..=APPEND_ATTEMPTS_MAX {
            let last = self.sequence.last::<AuditEntry>().await.context("read the end of the audit log")?;
            let (number, previous) = last.map_or((1, None), |last| (last.number + 1, Some(last.blake3)));
            match self.sequence.append(number, &placed(&entry, number, previous)).await {
                Ok(blake3) => return Ok((number, blake3)),
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    tokio::time::sleep(APPEND_PAUSE_MAX.min(Duration::from_millis(attempt.into()))).await;
                }
                Err(error) => return Err(error.context("append to the audit log")),
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the audit log is too busy: the next number was taken every time",
        )
        .with_status(ErrorStatus::Temporary))
    }

    /// Every entry, oldest first.
    ///
    /// # Errors
    /// `Corrupt` at a gap or a damaged entry, naming its key; [`AuditLog::verify`] then tells all that is wrong.
    pub async fn entries(&self) -> Result<Vec<AuditEntry>> {
        let entries = self.sequence.all::<AuditEntry>().await.context("read the audit log")?;
        Ok(entries.into_iter().map(|entry| entry.body).collect())
    }

    /// The number and hash of the last entry, to be kept elsewhere; `None` for an empty log.
    ///
    /// # Errors
    /// As [`AuditLog::entries`], for the last entry alone.
    pub async fn head(&self) -> Result<Option<(u64, Blake3)>> {
        let last = self.sequence.last::<AuditEntry>().await.context("read the end of the audit log")?;
        Ok(last.map(|entry| (entry.number, entry.blake3)))
    }

    /// Checks the whole chain. The findings stand in the order of the log, so that the first names the first bad entry; none means that
    /// every entry is what its successor was written after.
    ///
    /// # Errors
    /// What the store says when it cannot be read; damage is a finding, not an error.
    pub async fn verify(&self) -> Result<Vec<Finding>> {
        let numbers = self.sequence.numbers().await.context("list the audit log")?;
        let listed = self.store.list(&prefix()).await.context("list the audit log")?;
        let links: Vec<Link> = futures::stream::iter(&numbers)
            .map(|number| self.link(*number))
            .buffered(READS_IN_FLIGHT_MAX)
            .try_collect()
            .await
            .context("read the audit log")?;
        let mut findings = chain_faults(&links);
        let known: BTreeSet<_> = numbers.into_iter().map(key_of).collect();
        let keys = listed.iter().map(|object| object.key.to_string());
        findings.extend(keys.filter(|key| !known.contains(key)).map(|key| foreign(&key)));
        Ok(findings)
    }

    async fn link(&self, number: u64) -> Result<Link> {
        match self.sequence.read::<AuditEntry>(number).await {
            Ok(entry) => {
                Ok(Link { number, body: Ok((entry.body.number, entry.body.previous, entry.blake3)) })
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::NotFound
                ) =>
            {
                Ok(Link { number, body: Err(error.message().to_owned()) })
            }
            Err(error) => Err(error),
        }
    }
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditLog({})", self.store.describe())
    }
}

fn prefix() -> Key {
    Key::new("audit").expect("a word is a valid key")
}

fn key_of(number: u64) -> String {
    format!("audit/{number:012}.json")
}

fn placed(entry: &NewAuditEntry, number: u64, previous: Option<Blake3>) -> AuditEntry {
    let NewAuditEntry { at, actor, operation, effect, target, plan_hash, event, facts } = entry.clone();
    let id = Uuid::new_v4().to_string();
    AuditEntry { number, id, at, actor, operation, effect, target, plan_hash, event, facts, previous }
}

/// What the chain needs to know of one object: its key's number, and its own number, predecessor and hash, or why it cannot be read.
struct Link {
    number: u64,
    body: Result<(u64, Option<Blake3>, Blake3), String>,
}

/// The faults of a chain, in its order. Pure. `links` are sorted by number.
fn chain_faults(links: &[Link]) -> Vec<Finding> {
    let mut faults = Vec::new();
    let mut expected = 1;
    for (index, link) in links.iter().enumerate() {
        if link.number > expected {
            faults.push(gap(expected, link.number - 1));
        }
        expected = link.number + 1;
        match &link.body {
            Err(why) => faults.push(critical("audit.damaged", link.number, why.clone())),
            Ok((own, _, _)) if *own != link.number => faults.push(critical(
                "audit.misplaced",
                link.number,
                format!("entry {own} stands in the place of entry {}", link.number),
            )),
            Ok((_, previous, _)) => faults.extend(predecessor_fault(links, index, *previous)),
        }
    }
    faults.sort_by(|one, other| one.subject.cmp(&other.subject));
    faults
}

/// The fault between an entry and the one before it, if they do not fit. Which of the two is blamed: the entry that fits neither neighbour, or
/// else the earlier one, for a hash written down later is the witness of what stood there.
fn predecessor_fault(links: &[Link], index: usize, previous: Option<Blake3>) -> Option<Finding> {
    let number = links[index].number;
    if number == 1 {
        return previous.map(|_| {
            critical(
                "audit.replaced",
                1,
                "the first entry names a predecessor: earlier entries are gone".to_owned(),
            )
        });
    }
    let before = index
        .checked_sub(1)
        .and_then(|before| links.get(before))
        .filter(|before| before.number + 1 == number)?;
    let (_, _, found) = before.body.as_ref().ok().filter(|(own, _, _)| *own == before.number)?;
    if previous.as_ref() == Some(found) {
        return None;
    }
    let wrong_to_successor =
        links.get(index + 1).is_some_and(|next| match (&next.body, &links[index].body) {
            (Ok((_, named, _)), Ok((_, _, own))) => next.number == number + 1 && named.as_ref() != Some(own),
            _ => false,
        });
    let named = previous.map_or_else(|| "none".to_owned(), |hash| hash.short());
    let message = format!(
        "entry {number} was written after an entry with hash {named}; entry {} has hash {}",
        number - 1,
        found.short()
    );
    Some(critical("audit.replaced", if wrong_to_successor { number } else { number - 1 }, message))
}

fn gap(from: u64, to: u64) -> Finding {
    let message = if from == to {
        format!("entry {from} is missing")
    } else {
        format!("entries {from} to {to} are missing")
    };
    critical("audit.gap", from, message)
}

fn critical(id: &str, number: u64, message: String) -> Finding {
    Finding {
        id: id.to_owned(),
        severity: Severity::Critical,
        store: None,
        subject: key_of(number),
        message,
        remedy: "compare the repository with an off-site copy, and find out who can write to it; the entries before this one are whole"
            .to_owned(),
    }
}

fn foreign(key: &str) -> Finding {
    Finding {
        id: "audit.foreign_object".to_owned(),
        severity: Severity::Warning,
        store: None,
        subject: key.to_owned(),
        message: "the object is no audit entry".to_owned(),
        remedy: format!("find out who wrote {key} into the repository, then remove it"),
    }
}

fn redacted(mut entry: NewAuditEntry) -> NewAuditEntry {
    entry.facts = redacted_value(entry.facts);
    match &mut entry.event {
        AuditEvent::Intent { .. } | AuditEvent::Note => {}
        AuditEvent::Refusal { reason: text }
        | AuditEvent::Outcome {
            outcome:
                AuditOutcome::Done { summary: text }
                | AuditOutcome::Failed { error: text }
                | AuditOutcome::Interrupted { state: text },
            ..
        } => *text = redacted_text(text),
    }
    entry
}

fn redacted_value(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(redacted_text(&text)),
        // Canonical JSON has no fractions; a rate in the facts must not make the record fail.
        Value::Number(number) if number.is_f64() => Value::String(number.to_string()),
        Value::Array(items) => Value::Array(items.into_iter().map(redacted_value).collect()),
        Value::Object(members) => {
            let blank = |name: String, value| match is_telling(&name) {
                true => (name, Value::String("***".to_owned())),
                false => (name, redacted_value(value)),
            };
            Value::Object(members.into_iter().map(|(name, value)| blank(name, value)).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

/// Redacts every URL in a text, word by word.
fn redacted_text(text: &str) -> String {
    text.split_inclusive(char::is_whitespace).map(redact_url).collect()
}

fn is_telling(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "passwd", "secret", "token", "credential", "private_key", "access_key"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn facts_lose_their_secrets_and_fractions() {
        let facts = json!({
            "url": "mongodb://u:hunter2@host/db", "rate": 0.5, "count": 3,
            "nested": [{"PASSWORD": "hunter2", "note": "read postgres://u:hunter2@h and redis://:hunter2@h failed"}],
        });
        let text = redacted_value(facts).to_string();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(
            text.contains(r#""count":3"#) && text.contains(r#""rate":"0.5""#) && text.contains("@h failed"),
            "{text}"
        );
    }

    #[test]
    fn keys_are_those_of_the_sequence() {
        let sequence = Sequence::new(Store::memory(), prefix(), KIND);
        assert_eq!(sequence.key(12).unwrap().to_string(), key_of(12));
    }
}
