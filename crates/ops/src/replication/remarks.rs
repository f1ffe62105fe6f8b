//! What is to be known of a set before it is restored: that it is of one node of a cluster, or that it holds no keys where one before it does.
//!
//! A server that keeps nothing on disk begins a new history when it is started again, and the latest moment that can be restored is one of that
//! history. Who asks for the latest gets nothing then, exactly as asked: so it is told, and which set has the keys. Decided from manifests
//! alone. Says nothing of why the keys are gone: somebody may have removed them.

use std::fmt;

use mainstay_model::{Count, Plan, PlanStep, Result, ResultExt, SetId, StoreKind, Timestamp};
use mainstay_repository::{Repository, Set};
use serde::Serialize;

use crate::keyfile::KeyFileSetContents;

/// A set with so many keys holds none: the environment's marker is written again soon.
const NONE_KEYS: u64 = 1;
/// So many are worth a word.
const MANY_KEYS: u64 = 10;

/// A set without keys, and the newest one before it that has many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostKeys {
    /// The set without keys.
    pub set: SetId,
    /// When it was begun.
    pub at: Timestamp,
    /// The one before.
    pub before: SetId,
    /// When that was begun.
    pub before_at: Timestamp,
    /// How many keys it holds.
    pub before_keys: u64,
}

impl fmt::Display for LostKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { set, before, before_at, before_keys, .. } = self;
        write!(
            f,
            "set {set} holds no keys; set {before} of {before_at} holds {}: `mainstay restore plan {before} --store redis` restores that",
            Count(*before_keys)
        )
    }
}

/// What of a set decides.
#[derive(Debug, Clone)]
struct Held {
    set: SetId,
    at: Timestamp,
    environment: String,
    address: String,
    server: String,
    keys: u64,
}

impl Held {
    /// `None` for a set that is no server's file of all its keys.
    fn of(set: &Set) -> Option<Self> {
        let contents: KeyFileSetContents = set.contents().ok()?;
        Some(Self {
            set: set.id().clone(),
            at: set.manifest().begun_at,
            keys: contents.keys(),
            environment: contents.environment,
            address: contents.server.address,
            server: contents.server.fingerprint,
        })
    }

    /// Whether both come from one server, as far as is known: one that nobody has marked is called otherwise after a start.
    fn is_kin(&self, other: &Self) -> bool {
        self.server == other.server
            || (&self.environment, &self.address) == (&other.environment, &other.address)
    }
}

/// What the set at `index` lacks, of all sets, oldest first.
fn lost_at(held: &[Held], index: usize) -> Option<LostKeys> {
    let (now, earlier) = (held.get(index)?, held.get(..index)?);
    if now.keys > NONE_KEYS {
        return None;
    }
    let before = earlier.iter().rev().find(|before| before.is_kin(now) && before.keys >= MANY_KEYS)?;
    Some(LostKeys {
        set: now.set.clone(),
        at: now.at,
        before: before.set.clone(),
        before_at: before.at,
        before_keys: before.keys,
    })
}

/// The newest sets of servers that hold no keys, where an earlier one does.
fn newest_lost(held: &[Held]) -> Vec<LostKeys> {
    let is_newest = |index: &usize| {
        let (now, later) = (&held[*index], &held[index + 1..]);
        !later.iter().any(|other| other.is_kin(now))
    };
    (0..held.len()).filter(is_newest).filter_map(|index| lost_at(held, index)).collect()
}

/// The same of sets of Redis, oldest first.
pub(crate) fn lost_among(sets: &[Set]) -> Vec<LostKeys> {
    newest_lost(&sets.iter().filter_map(Held::of).collect::<Vec<_>>())
}

/// Tells in `plan`, a restore, what is to be known of the set that it begins with: that it has a part of a cluster alone; and, where nobody has
/// named it, that it holds no keys where one before it does.
///
/// # Errors
/// The store's.
pub async fn tell(repository: &Repository, plan: &mut Plan, is_named: bool) -> Result<()> {
    let planned = plan.parameters.get("set").cloned();
    let Some(id) = planned.and_then(|id| serde_json::from_value::<SetId>(id).ok()) else { return Ok(()) };
    let entries = repository.sets(Some(StoreKind::Redis)).await.context("list backup sets")?;
    let sets: Vec<Set> = entries.into_iter().filter_map(|entry| entry.into_set().ok()).collect();
    let step = |name: &str, summary: String| PlanStep { name: name.to_owned(), mark: ' ', summary };
    let contents = { sets.iter() }.find(|set| *set.id() == id);
    let contents = contents.and_then(|set| set.contents::<KeyFileSetContents>().ok());
    let part = contents.and_then(|contents| contents.server.part_told()).filter(|part| !part.is_whole());
    plan.steps.extend(
        part.map(|part| step("of a cluster", format!("{part}: the set has no keys of the other primaries"))),
    );
    if !is_named {
        let held: Vec<Held> = sets.iter().filter_map(Held::of).collect();
        let index = held.iter().position(|held| held.set == id);
        let lost = index.and_then(|index| lost_at(&held, index));
        plan.steps.extend(lost.map(|lost| step("look again", lost.to_string())));
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn held(second: i64, address: &str, server: &str, keys: u64) -> Held {
        let at = Timestamp::from_second(second).unwrap();
        let (environment, set) = ("shop".to_owned(), SetId::new(at, 1));
        Held { set, at, environment, address: address.to_owned(), server: server.to_owned(), keys }
    }

    #[test]
    fn a_set_without_keys_is_told_where_one_before_has_many() {
        let told = |held: &[Held]| -> Vec<(i64, i64)> {
            newest_lost(held).iter().map(|lost| (lost.at.as_second(), lost.before_at.as_second())).collect()
        };
        let full = held(10, "h:1", "a", 2_001);
        assert_eq!(
            told(&[full.clone(), held(20, "h:1", "b", 0)]),
            [(20, 10)],
            "called otherwise after a start"
        );
        assert_eq!(told(&[full.clone(), held(20, "h:2", "a", 1)]), [(20, 10)], "moved, and marked");
        assert_eq!(told(&[full.clone(), held(20, "h:1", "b", 0), held(30, "h:1", "c", 0)]), [(30, 10)]);
        for fine in [
            vec![full.clone(), held(20, "h:2", "b", 0)],
            vec![full.clone(), held(20, "h:1", "b", 0), held(30, "h:1", "b", 5)],
            vec![held(10, "h:1", "a", 9), held(20, "h:1", "a", 0)],
            vec![held(10, "h:1", "a", 0)],
            vec![],
        ] {
            assert_eq!(told(&fine), [], "{fine:?}");
        }
    }
}
