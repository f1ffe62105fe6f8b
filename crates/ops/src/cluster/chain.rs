//! Chains: a whole set and those that hold what has changed since, each since the one before it.
//!
//! A set names all sets that it needs, with the seals of their manifests, so that one look at it tells what must not be removed. Here it is
//! decided what a new set may build on, and opened what an old one needs. Refuses chains that grow without end: each set more is one more
//! that can be damaged, and one more to be read at a restore.

use std::collections::BTreeSet;

use mainstay_model::{Error, ErrorKind, Result, ResultExt, SetId, StoreKind};
use mainstay_repository::{Repository, Set};

use super::ClusterSetContents;
use super::contents::EarlierSet;
use crate::contents::SetContents;

/// The most sets of a chain, the whole one and the last included.
pub(super) const CHAIN_SET_COUNT_MAX: usize = 32;

/// Which set a new one shall build on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EarlierChoice {
    /// The newest of the same server.
    Latest,
    /// This one.
    Id(SetId),
}

/// The set that a new one of the server with this `fingerprint` builds on.
///
/// # Errors
/// `NotFound` when there is none; `Precondition` when it is another server's, or its chain is as long as one may be; the repository's.
pub async fn find_earlier(
    repository: &Repository,
    choice: &EarlierChoice,
    fingerprint: &str,
) -> Result<EarlierSet> {
    let (set, contents) = match choice {
        EarlierChoice::Latest => newest(repository, fingerprint).await?,
        EarlierChoice::Id(id) => {
            let set = repository.set(Some(StoreKind::Postgres), id).await?;
            let SetContents::Cluster(contents) = SetContents::of(&set)? else {
                return Err(Error::new(
                    ErrorKind::Precondition,
                    format!("{id} is a dump, on which nothing can build"),
                )
                .with_state("nothing was changed")
                .with_hint("name a base backup, or leave the set out: `--incremental`"));
            };
            (set, *contents)
        }
    };
    check_extendable(set.id(), &contents, fingerprint)?;
    if !is_restorable(repository, &set, &contents).await? {
        let message = format!("backup set {}, or one that it builds on, is missing or damaged", set.id());
        return Err(Error::new(ErrorKind::Precondition, message)
            .with_state("nothing was changed")
            .with_hint("take a whole backup: leave `--incremental` out"));
    }
    Ok(EarlierSet { set: set.id().clone(), manifest: set.manifest_blake3() })
}

/// The newest set of the server, sets known to be damaged aside.
async fn newest(repository: &Repository, fingerprint: &str) -> Result<(Set, ClusterSetContents)> {
    let sets = repository.sets(Some(StoreKind::Postgres)).await.context("list backup sets")?;
    for entry in sets.into_iter().rev() {
        let Ok(set) = entry.into_set() else { continue };
        let Ok(contents) = set.contents::<ClusterSetContents>() else { continue };
        if contents.server.fingerprint != fingerprint {
            continue;
        }
        if !is_known_damaged(&set).await? {
            return Ok((set, contents));
        }
    }
    Err(Error::new(ErrorKind::NotFound, "the repository holds no base backup of this server to build on")
        .with_state("nothing was changed")
        .with_hint("take a whole backup first: leave `--incremental` out"))
}

/// Whether the last verification of `set`, as it is now, found it damaged.
async fn is_known_damaged(set: &Set) -> Result<bool> {
    Ok(set.verdict().await?.is_some_and(|record| !record.is_sound()))
}

/// Whether nothing is known that keeps `set` from being restored: all that it builds on is there, and none of it was found damaged.
///
/// # Errors
/// The store's.
pub(crate) async fn is_restorable(
    repository: &Repository,
    set: &Set,
    contents: &ClusterSetContents,
) -> Result<bool> {
    for link in open_earlier(repository, contents).await? {
        match link.opened {
            Ok((earlier, _)) if !is_known_damaged(&earlier).await? => {}
            _ => return Ok(false),
        }
    }
    Ok(!is_known_damaged(set).await?)
}

/// Whether a set of the server with this `fingerprint` may build on set `id`.
fn check_extendable(id: &SetId, contents: &ClusterSetContents, fingerprint: &str) -> Result<()> {
    let found = &contents.server.fingerprint;
    let what = if found != fingerprint {
        format!("backup set {id} is of cluster {found}, this server is {fingerprint}")
    } else if contents.chain.len() + 1 >= CHAIN_SET_COUNT_MAX {
        format!(
            "backup set {id} is the last of a chain of {CHAIN_SET_COUNT_MAX} sets, no more may build on it"
        )
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Precondition, what)
        .with_state("nothing was changed")
        .with_hint("take a whole backup: leave `--incremental` out"))
}

/// A set of a chain, opened; or why it cannot be used.
pub(super) struct Link {
    /// What the last set says of it.
    pub(super) record: EarlierSet,
    /// The set and its contents.
    pub(super) opened: Result<(Set, ClusterSetContents)>,
}

/// Opens the sets that one with `contents` builds on, oldest first.
///
/// # Errors
/// The store's. What is missing or damaged is told by its link.
pub(super) async fn open_earlier(
    repository: &Repository,
    contents: &ClusterSetContents,
) -> Result<Vec<Link>> {
    let mut links: Vec<Link> = Vec::with_capacity(contents.chain.len());
    for record in &contents.chain {
        let before: Vec<&EarlierSet> = links.iter().map(|link| &link.record).collect();
        let opened = open_link(repository, record, &before).await;
        let opened = match opened {
            Err(error) if !is_of_the_set(&error) => return Err(error),
            opened => opened,
        };
        links.push(Link { record: record.clone(), opened });
    }
    Ok(links)
}

async fn open_link(
    repository: &Repository,
    record: &EarlierSet,
    before: &[&EarlierSet],
) -> Result<(Set, ClusterSetContents)> {
    let set = repository.set(Some(StoreKind::Postgres), &record.set).await?;
    let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, format!("backup set {} {what}", record.set));
    if set.manifest_blake3() != record.manifest {
        return Err(corrupt("has another manifest than the one that was built on"));
    }
    let contents: ClusterSetContents = set.contents()?;
    if !contents.chain.iter().eq(before.iter().copied()) {
        return Err(corrupt("builds on other sets than those of this chain"));
    }
    Ok((set, contents))
}

fn is_of_the_set(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::Unsupported)
}

/// All sets of the chain that ends with `set`, oldest first, `set` the last.
///
/// # Errors
/// `Corrupt` when one of them is missing or damaged; the store's.
pub(super) async fn open_chain(
    repository: &Repository,
    set: &Set,
    contents: &ClusterSetContents,
) -> Result<Vec<(Set, ClusterSetContents)>> {
    let mut chain = Vec::with_capacity(contents.chain.len() + 1);
    for link in open_earlier(repository, contents).await? {
        chain.push(link.opened.map_err(|error| {
            let message = format!("backup set {} builds on {}: {error}", set.id(), link.record.set);
            Error::new(ErrorKind::Corrupt, message)
        })?);
    }
    chain.push((set.clone(), contents.clone()));
    Ok(chain)
}

/// The sets that others build on: whatever is left of them must stay.
#[derive(Debug, Default)]
pub(crate) struct NeededSets {
    named: BTreeSet<SetId>,
    /// A manifest cannot be read, and may come back from elsewhere: what it names is not known.
    is_open: bool,
}

impl NeededSets {
    /// Whether another set may build on what is left of set `id`.
    pub(crate) fn may_need(&self, id: &SetId) -> bool {
        self.is_open || self.named.contains(id)
    }
}

/// The sets that others build on.
///
/// # Errors
/// The store's.
pub(crate) async fn needed_sets(repository: &Repository) -> Result<NeededSets> {
    let mut needed = NeededSets::default();
    for entry in repository.sets(Some(StoreKind::Postgres)).await.context("list backup sets")? {
        match entry.into_set() {
            Err(_) => needed.is_open = true,
            Ok(set) => match SetContents::of(&set) {
                Ok(SetContents::Cluster(contents)) => {
                    needed.named.extend(contents.chain.into_iter().map(|earlier| earlier.set));
                }
                Ok(_) => {}
                Err(_) => needed.is_open = true,
            },
        }
    }
    Ok(needed)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_engine::{FileChecksum, ServerFacts};
    use mainstay_model::{Blake3, Lsn, ObjectName, Timestamp};

    use super::*;

    #[test]
    fn a_chain_is_of_one_server_and_has_an_end() {
        let id = SetId::new(Timestamp::from_second(1).unwrap(), 1);
        let earlier = EarlierSet { set: id.clone(), manifest: Blake3::of(b"") };
        let contents = |sets_before: usize| ClusterSetContents {
            environment: String::new(),
            server: ServerFacts {
                version: String::new(),
                topology: String::new(),
                fingerprint: "7".to_owned(),
                address: String::new(),
                part: None,
            },
            label: String::new(),
            begin: Lsn(1),
            end: Lsn(2),
            timeline: 1,
            checksum: FileChecksum::Crc32c,
            page_checksums: true,
            damaged_pages: 0,
            damaged: Vec::new(),
            wal_segment_bytes: 1 << 24,
            file_list: ObjectName::from_parts(["backup_manifest"]),
            archives: Vec::new(),
            chain: vec![earlier.clone(); sets_before],
        };
        for sets_before in [0, 1, CHAIN_SET_COUNT_MAX - 2] {
            check_extendable(&id, &contents(sets_before), "7").unwrap();
        }
        let error = check_extendable(&id, &contents(CHAIN_SET_COUNT_MAX - 1), "7").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        let error = check_extendable(&id, &contents(0), "8").unwrap_err();
        assert!(error.to_string().contains("is of cluster 7, this server is 8"), "{error}");
    }
}
