//! Pages that were damaged on the server already when it was copied.
//!
//! They are known by file and block, so that no other damage passes for one of them: neither in the set that tells of them, nor in files that are
//! put together from a chain of sets. Of a server with more damage than can be named no set is made.

use std::collections::{BTreeMap, HashSet};

use mainstay_basebackup::{DamagedPage, SeenArchive, incremental_path};
use serde::{Deserialize, Serialize};

use super::ClusterSetContents;

/// How many unknown pages are told.
const TOLD_COUNT_MAX: usize = 20;

/// A file with damaged pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DamagedFile {
    /// The file, as the server's list of files calls it.
    pub path: String,
    /// Which blocks of its relation, in order.
    pub blocks: Vec<u32>,
}

/// Damaged pages by file.
pub(super) fn by_file(pages: &[DamagedPage]) -> Vec<DamagedFile> {
    let mut files: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for page in pages {
        files.entry(&page.path).or_default().push(page.block);
    }
    let file = |(path, mut blocks): (&str, Vec<u32>)| {
        blocks.sort_unstable();
        DamagedFile { path: path.to_owned(), blocks }
    };
    files.into_iter().map(file).collect()
}

/// The damage that is known of some sets.
#[derive(Debug)]
pub(super) struct KnownDamage<'a> {
    pages: HashSet<(&'a str, u32)>,
    /// Whether one of them tells how many pages were damaged, and not which.
    is_unnamed: bool,
}

impl<'a> KnownDamage<'a> {
    /// The damage of all of `sets`.
    pub(super) fn of(sets: impl IntoIterator<Item = &'a ClusterSetContents>) -> Self {
        let mut known = Self { pages: HashSet::new(), is_unnamed: false };
        for contents in sets {
            known.is_unnamed |= contents.damaged_pages > 0 && contents.damaged.is_empty();
            for file in &contents.damaged {
                known.pages.extend(file.blocks.iter().map(|block| (file.path.as_str(), *block)));
            }
        }
        known
    }

    /// The damage among `seen` that is not known, one line a page; one line for all of it when a set does not say which it knew of. A file that
    /// was put together may have that of changes that went into it.
    pub(super) fn unknown(&self, seen: &SeenArchive) -> Vec<String> {
        let is_known = |page: &&DamagedPage| {
            self.pages.contains(&(page.path.as_str(), page.block))
                || self.pages.contains(&(incremental_path(&page.path).as_str(), page.block))
        };
        let unknown = seen.damaged_pages.iter().filter(|page| !is_known(page));
        let mut told: Vec<String> = unknown.map(|page| format!("{page} has a wrong checksum")).collect();
        let unseen = seen.damaged_page_count.saturating_sub(seen.damaged_pages.len() as u64);
        if self.is_unnamed && (unseen > 0 || !told.is_empty()) {
            return vec!["the set does not say which pages were damaged; take a new backup".to_owned()];
        }
        let more = unseen + told.len().saturating_sub(TOLD_COUNT_MAX) as u64;
        told.truncate(TOLD_COUNT_MAX);
        if more > 0 {
            told.push(format!("{more} more pages have wrong checksums"));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(path: &str, block: u32) -> DamagedPage {
        DamagedPage { path: path.to_owned(), block }
    }

    fn seen(pages: Vec<DamagedPage>, more: u64) -> SeenArchive {
        let damaged_page_count = pages.len() as u64 + more;
        SeenArchive { damaged_pages: pages, damaged_page_count, ..SeenArchive::default() }
    }

    #[test]
    fn damage_is_known_by_file_and_block_and_not_by_how_much_it_is() {
        let recorded = by_file(&[
            page("base/5/9", 7),
            page("base/5/1", 3),
            page("base/5/9", 2),
            page("base/5/INCREMENTAL.4", 1),
        ]);
        let expected = [("base/5/1", vec![3]), ("base/5/9", vec![2, 7]), ("base/5/INCREMENTAL.4", vec![1])];
        let told: Vec<_> = recorded.iter().map(|file| (file.path.as_str(), file.blocks.clone())).collect();
        assert_eq!(told, expected);
        let pages = HashSet::from([("base/5/9", 7), ("base/5/INCREMENTAL.4", 1)]);
        let known = KnownDamage { pages, is_unnamed: false };
        for (pages, more, unknown) in [
            (vec![], 0, vec![]),
            (vec![page("base/5/9", 7), page("base/5/4", 1)], 0, vec![]),
            (vec![page("base/5/9", 8)], 0, vec!["block 8 of base/5/9 has a wrong checksum"]),
            (vec![page("base/5/8", 7)], 0, vec!["block 7 of base/5/8 has a wrong checksum"]),
            (vec![page("base/5/9", 7)], 3, vec!["3 more pages have wrong checksums"]),
        ] {
            assert_eq!(known.unknown(&seen(pages, more)), unknown);
        }
        let many = (0..50).map(|block| page("base/5/1", block)).collect();
        let told = known.unknown(&seen(many, 2));
        assert_eq!(
            (told.len(), told.last().map(String::as_str)),
            (21, Some("32 more pages have wrong checksums"))
        );

        let known = KnownDamage { is_unnamed: true, ..known };
        let one = ["the set does not say which pages were damaged; take a new backup"];
        assert_eq!(known.unknown(&seen(vec![page("base/5/9", 7)], 0)), [""; 0]);
        assert_eq!(known.unknown(&seen(vec![page("base/5/9", 8), page("base/5/8", 7)], 3)), one);
        assert_eq!(known.unknown(&seen(vec![], 3)), one);
    }
}
