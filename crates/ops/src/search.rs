//! Searching the stored change log for what destroyed data: the moment before it is the one to restore.
//!
//! What cannot be searched is told: chains of which nobody knows whose log they are, and slices that are missing. That nothing was found in the
//! rest says nothing about them.

use std::collections::BTreeMap;

use mainstay_engine::{ChangeLens, SightKind};
use mainstay_model::{ChainId, LogPosition, OpTime, Result, ResultExt, StoreKind};
use mainstay_repository::{ChainEntry, Repository, Run};
use serde::Serialize;

use crate::recoverable::DamagedChain;

/// How many findings are told; a mass deletion makes one per second and collection.
pub const SIGHTS_MAX: usize = 10_000;

/// What to look for.
#[derive(Debug, Clone, Default)]
pub struct SearchRequest {
    /// From this position on, inclusive.
    pub since: Option<OpTime>,
    /// Up to this position, inclusive.
    pub until: Option<OpTime>,
    /// In this collection or database alone.
    pub namespace: Option<String>,
}

/// Something destroyed: one entry, or the deletions of one second in one collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Destruction {
    /// The first entry's position: what to restore `--before`.
    pub at: OpTime,
    /// The last one's.
    pub through: OpTime,
    /// What was done.
    pub kind: SightKind,
    /// To which collection or database.
    pub namespace: String,
    /// More, in words.
    pub detail: String,
    /// How many entries.
    pub count: u64,
    /// The server, by its fingerprint.
    pub server: String,
    /// The chain it was found in.
    pub chain: ChainId,
}

/// Slices that are missing inside a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingLog {
    /// The chain.
    pub chain: ChainId,
    /// Everything after this position is missing,
    pub after: OpTime,
    /// up to and including this one.
    pub through: OpTime,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SearchReport {
    /// What was destroyed, in the order of the log.
    pub found: Vec<Destruction>,
    /// There was more than [`SIGHTS_MAX`]; the search ended there.
    pub more: bool,
    /// Slices read.
    pub slices: u64,
    /// Chains that were not searched, because nobody can tell whose log they are.
    pub damaged: Vec<DamagedChain>,
    /// Parts of the span that were not searched, because their slices are not there.
    pub missing: Vec<MissingLog>,
}

impl SearchReport {
    /// Whether the whole span was searched, as far as it was ever captured.
    pub fn is_whole(&self) -> bool {
        self.damaged.is_empty() && self.missing.is_empty()
    }
}

/// Searches the chains of MongoDB's log. Memory is bounded by one slice and what is found.
///
/// # Errors
/// `Corrupt` naming a slice that cannot be read; the store's.
pub async fn search(
    repository: &Repository,
    lens: &dyn ChangeLens,
    request: &SearchRequest,
) -> Result<SearchReport> {
    let since = request.since.map_or(LogPosition(0), LogPosition::from);
    let until = request.until.map_or(LogPosition(u64::MAX), LogPosition::from);
    let mut report = SearchReport::default();
    let mut chains = Vec::new();
    for entry in repository.chains(StoreKind::Mongo).await? {
        match entry {
            ChainEntry::Whole(chain) => chains.push(chain),
            ChainEntry::Damaged { id, slices, error, .. } => {
                report.damaged.push(DamagedChain { chain: id, slices, damaged: error.to_string() });
            }
        }
    }
    let after = LogPosition(since.0.saturating_sub(1));
    for chain in &chains {
        let missing = holes(&chain.runs(), after, until).into_iter();
        report.missing.extend(missing.map(|hole| MissingLog {
            chain: chain.id().clone(),
            after: hole.after.optime(),
            through: hole.through.optime(),
        }));
    }
    for chain in chains {
        let mut gathered = Gathered::default();
        for slice in chain.slices_between(after, until) {
            let plain = repository.read_slice(&chain, slice).await.context("search the log")?;
            report.slices += 1;
            lens.look(&plain, &mut |sight| {
                let position = LogPosition::from(sight.at);
                let wanted = (since..=until).contains(&position) && request.wants(&sight.namespace);
                if wanted {
                    let server = chain.description().server.clone();
                    gathered.add(Destruction {
                        at: sight.at,
                        through: sight.at,
                        kind: sight.kind,
                        namespace: sight.namespace,
                        detail: sight.detail,
                        count: 1,
                        server,
                        chain: chain.id().clone(),
                    });
                }
            })
            .with_context(|| format!("search {}", slice.name()))?;
            if report.found.len() + gathered.found.len() > SIGHTS_MAX {
                report.more = true;
                break;
            }
        }
        report.found.append(&mut gathered.found);
        if report.more {
            report.found.truncate(SIGHTS_MAX);
            break;
        }
    }
    Ok(report)
}

/// What is missing between `runs`, the continuous parts of one chain, as far as it concerns what lies after `after` up to `until`.
fn holes(runs: &[Run], after: LogPosition, until: LogPosition) -> Vec<Run> {
    let between = runs.windows(2).map(|pair| Run { after: pair[0].through, through: pair[1].after });
    between.filter(|hole| hole.after < until && after < hole.through).collect()
}

impl SearchRequest {
    fn wants(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| {
            namespace == wanted
                || namespace.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'))
                || wanted.strip_prefix(namespace).is_some_and(|rest| rest.starts_with('.'))
        })
    }
}

/// What was found in one chain; deletions are counted by second and collection.
#[derive(Default)]
struct Gathered {
    found: Vec<Destruction>,
    /// Where in `found` the deletions of the present second are, by collection.
    deletions: BTreeMap<String, usize>,
    second: u32,
}

impl Gathered {
    fn add(&mut self, destruction: Destruction) {
        if destruction.kind == SightKind::Delete {
            if self.second != destruction.at.seconds {
                self.deletions.clear();
                self.second = destruction.at.seconds;
            }
            if let Some(index) = self.deletions.get(&destruction.namespace) {
                let before = &mut self.found[*index];
                (before.through, before.count) = (destruction.at, before.count + 1);
                return;
            }
            self.deletions.insert(destruction.namespace.clone(), self.found.len());
        }
        self.found.push(destruction);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_count_where_the_search_goes() {
        let run = |after, through| Run { after: LogPosition(after), through: LogPosition(through) };
        let runs = [run(10, 20), run(30, 40), run(50, 60)];
        let found = |after, until| holes(&runs, LogPosition(after), LogPosition(until));
        assert_eq!(found(0, 99), [run(20, 30), run(40, 50)]);
        assert_eq!(found(30, 40), []);
        assert_eq!(found(25, 26), [run(20, 30)]);
        assert_eq!(found(0, 21), [run(20, 30)]);
        assert_eq!(found(0, 20), []);
        assert_eq!(holes(&runs[..1], LogPosition(0), LogPosition(99)), []);
    }

    #[test]
    fn a_namespace_means_its_collections_and_what_happened_to_its_database() {
        let request =
            |text: &str| SearchRequest { namespace: Some(text.to_owned()), ..SearchRequest::default() };
        assert!(request("shop").wants("shop") && request("shop").wants("shop.users"));
        assert!(request("shop.users").wants("shop.users") && request("shop.users").wants("shop"));
        assert!(!request("shop.users").wants("shop.user") && !request("shop").wants("shopping.users"));
    }
}
