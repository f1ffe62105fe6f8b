//! Which set of a chain gives what of which file. Decided from the server's lists of files alone, before anything is written.
//!
//! What the last set holds whole comes from it. Of what it holds changes of, the newest whole file below it is taken, and on it the changes of
//! every set above that one, in their order. What the last set does not name is no more. A server sends changes of a file only when the
//! backup before holds that file, whole or changes of it again; a chain in which it is otherwise is refused.

use std::collections::HashMap;

use mainstay_basebackup::{incremental_of, incremental_path};

/// How many faults are told.
const FAULT_COUNT_MAX: usize = 20;

/// What of a file is taken from a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// Nothing: a newer set has it, or it is no more.
    Nothing,
    /// The file.
    Whole,
    /// The changes in it, to the file that is there.
    Changes,
}

/// What each set of a chain gives; sets are counted from the oldest, which is 0.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Combination {
    /// The number of the last set.
    last: usize,
    /// Files that the last set holds changes of, by the names they get, and the set that holds each whole.
    origins: HashMap<String, usize>,
}

/// A combination that is being decided, from the last set down.
pub(super) struct Deciding {
    combination: Combination,
    /// Files whose whole form has not been found yet.
    open: Vec<String>,
    faults: Vec<String>,
}

impl Combination {
    /// Begins with the files of the last of a chain of `count` sets.
    pub(super) fn decide<'a>(count: usize, last: impl Iterator<Item = &'a str>) -> Deciding {
        let open = if count > 1 { last.filter_map(incremental_of).collect() } else { Vec::new() };
        let combination = Self { last: count.saturating_sub(1), origins: HashMap::new() };
        Deciding { combination, open, faults: Vec::new() }
    }

    /// What the set `number` gives of the file that the lists call `path`.
    pub(super) fn share(&self, number: usize, path: &str) -> Share {
        let changed = incremental_of(path).filter(|_| self.last > 0);
        match changed {
            Some(_) if number == self.last => Share::Changes,
            None if number == self.last => Share::Whole,
            Some(file) if self.origins.get(&file).is_some_and(|origin| *origin < number) => Share::Changes,
            None if self.origins.get(path) == Some(&number) => Share::Whole,
            _ => Share::Nothing,
        }
    }

    /// Whether the set `number` is the last.
    pub(super) fn is_last(&self, number: usize) -> bool {
        number == self.last
    }

    /// Whether there is but one set.
    pub(super) fn is_one_set(&self) -> bool {
        self.last == 0
    }

    /// The files that are put together.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.origins.keys().map(String::as_str)
    }
}

impl Deciding {
    /// Goes on with the next older set, whose number is `number`; `holds` tells which files are in it.
    pub(super) fn older(&mut self, number: usize, holds: impl Fn(&str) -> bool) {
        for file in std::mem::take(&mut self.open) {
            if holds(&file) {
                self.combination.origins.insert(file, number);
            } else if holds(&incremental_path(&file)) {
                self.open.push(file);
            } else if self.faults.len() < FAULT_COUNT_MAX {
                self.faults.push(format!("{file}, of which a later set holds changes, is not in it"));
            }
        }
    }

    /// What is wrong with the set that came last, one line each.
    pub(super) fn take_faults(&mut self) -> Vec<String> {
        std::mem::take(&mut self.faults)
    }

    /// What was decided, when the oldest set has come; the files that no set holds whole otherwise.
    pub(super) fn end(self) -> Result<Combination, Vec<String>> {
        if self.open.is_empty() { Ok(self.combination) } else { Err(self.open) }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn decided(lists: &[&[&str]]) -> Deciding {
        let last = lists.len() - 1;
        let mut deciding = Combination::decide(lists.len(), lists[last].iter().copied());
        for number in (0..last).rev() {
            deciding.older(number, |path| lists[number].contains(&path));
        }
        deciding
    }

    #[test]
    fn each_file_comes_from_the_newest_set_that_holds_it_whole() {
        let lists: [&[&str]; 3] = [
            &["base/1/1", "base/1/2", "base/1/3", "base/1/9", "PG_VERSION"],
            &["base/1/INCREMENTAL.1", "base/1/2", "base/1/INCREMENTAL.3", "PG_VERSION"],
            &["base/1/INCREMENTAL.1", "base/1/INCREMENTAL.2", "base/1/3", "base/1/4", "PG_VERSION"],
        ];
        let combination = decided(&lists).end().unwrap();
        let shares = |path: &str| [0, 1, 2].map(|number| combination.share(number, path));
        use Share::{Changes, Nothing, Whole};
        // Each number is asked what it gives of files of that name; a set gives of what it has.
        assert_eq!(shares("base/1/1")[..2], [Whole, Nothing]);
        assert_eq!(shares("base/1/INCREMENTAL.1")[1..], [Changes, Changes]);
        assert_eq!(shares("base/1/2")[..2], [Nothing, Whole]);
        assert_eq!(shares("base/1/INCREMENTAL.2")[2], Changes);
        assert_eq!(shares("base/1/3"), [Nothing, Nothing, Whole]);
        assert_eq!(shares("base/1/INCREMENTAL.3")[1], Nothing);
        assert_eq!(shares("base/1/9")[0], Nothing, "dropped");
        assert_eq!(shares("PG_VERSION"), [Nothing, Nothing, Whole]);
        assert_eq!(shares("pg_wal/000000010000000000000001"), [Nothing, Nothing, Whole]);
        let mut files: Vec<&str> = combination.files().collect();
        files.sort_unstable();
        assert_eq!(files, ["base/1/1", "base/1/2"]);
    }

    #[test]
    fn a_set_that_stands_alone_gives_all_it_has() {
        let combination = decided(&[&["base/1/1", "base/1/INCREMENTAL.1"]]).end().unwrap();
        assert_eq!(combination.share(0, "base/1/INCREMENTAL.1"), Share::Whole);
        assert_eq!(combination, Combination::default());
    }

    #[test]
    fn changes_of_what_no_set_holds_are_refused() {
        let mut torn = decided(&[&["base/1/1"], &[], &["base/1/INCREMENTAL.1"]]);
        assert_eq!(torn.take_faults(), ["base/1/1, of which a later set holds changes, is not in it"]);
        let nowhere = decided(&[&["base/1/INCREMENTAL.1"], &["base/1/INCREMENTAL.1"]]);
        assert_eq!(nowhere.end().unwrap_err(), ["base/1/1"]);
    }
}
