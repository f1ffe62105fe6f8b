//! Searching the stored change log for what destroyed data: the moment before it is the one to restore.

use std::collections::BTreeMap;

use mainstay_engine::{ChangeLens, SightKind};
use mainstay_model::{ChainId, LogPosition, OpTime, Result, ResultExt, StoreKind};
use mainstay_repository::{ChainEntry, Repository};
use serde::Serialize;

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

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SearchReport {
    /// What was destroyed, in the order of the log.
    pub found: Vec<Destruction>,
    /// There was more than [`SIGHTS_MAX`]; the search ended there.
    pub more: bool,
    /// Slices read.
    pub slices: u64,
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
    for chain in repository.chains(StoreKind::Mongo).await?.into_iter().filter_map(ChainEntry::whole) {
        let mut gathered = Gathered::default();
        for slice in chain.slices_between(LogPosition(since.0.saturating_sub(1)), until) {
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
            if report.found.len() + gathered.found.len() >= SIGHTS_MAX {
                report.more = true;
                break;
            }
        }
        report.found.append(&mut gathered.found);
        if report.more {
            break;
        }
    }
    Ok(report)
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
    fn a_namespace_means_its_collections_and_what_happened_to_its_database() {
        let request =
            |text: &str| SearchRequest { namespace: Some(text.to_owned()), ..SearchRequest::default() };
        assert!(request("shop").wants("shop") && request("shop").wants("shop.users"));
        assert!(request("shop.users").wants("shop.users") && request("shop.users").wants("shop"));
        assert!(!request("shop.users").wants("shop.user") && !request("shop").wants("shopping.users"));
    }
}
