//! What is locked, and which files and scans tables have; what two looks say of the statement between them.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_engine::{Observation, SeenBuild, SeenLock, TableLock, TableName};
use mainstay_model::Result;

use crate::session::Session;

/// Everything of somebody's that can be locked by its name.
const BASELINE: &str = "\
    SELECT c.oid, n.nspname, c.relname, c.relkind FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";

/// Files of tables and indexes, and how often the present transaction has read each table whole.
const FILES: &str = "\
    SELECT c.oid, c.relname, i.indrelid, pg_catalog.pg_relation_filenode(c.oid) AS file, \
    pg_catalog.pg_stat_get_xact_numscans(c.oid) AS scans \
    FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid \
    WHERE c.relkind IN ('r', 'm', 'i') AND c.oid >= 16384";

/// Locks of a process on relations of the database, and on the numbers of transactions that it waits for.
const LOCKS: &str = "\
    SELECT l.relation, l.mode, l.granted, l.locktype FROM pg_catalog.pg_locks l WHERE l.pid = @pid@ AND \
    (l.locktype IN ('virtualxid', 'transactionid') AND NOT l.granted OR l.locktype = 'relation' AND l.database = \
    (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))";

/// Catalogs of the whole server that the present transaction writes to. Who owns what is written down for every table.
const BEYOND: &str = "\
    SELECT DISTINCT c.relname FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation \
    WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.database = 0 \
    AND l.mode = 'RowExclusiveLock' AND c.relkind = 'r' AND c.relname NOT IN ('pg_shdepend', 'pg_shseclabel') ORDER BY 1";

/// What was there when the stage was made, by number.
#[derive(Debug, Default)]
pub(super) struct Baseline {
    names: BTreeMap<u32, TableName>,
    /// Of these, the tables that a statement can lock.
    tables: Vec<u32>,
}

impl Baseline {
    pub(super) async fn read(session: &Session<'_>) -> Result<Self> {
        let mut baseline = Self::default();
        for row in session.rows(BASELINE).await? {
            let number: u32 = session.value(&row, "oid")?.unwrap_or_default();
            let table = TableName {
                schema: session.text(&row, "nspname")?.to_owned(),
                name: session.text(&row, "relname")?.to_owned(),
            };
            if matches!(session.text(&row, "relkind")?, "r" | "p") {
                baseline.tables.push(number);
            }
            baseline.names.insert(number, table);
        }
        Ok(baseline)
    }

    /// Whether nothing was there, so that nothing can be told.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The tables that a statement can lock.
    pub(super) fn tables(&self) -> impl Iterator<Item = &TableName> {
        self.tables.iter().filter_map(|number| self.names.get(number))
    }

    fn named<'n>(&self, numbers: impl IntoIterator<Item = &'n u32>) -> Vec<TableName> {
        let names: BTreeSet<&TableName> =
            numbers.into_iter().filter_map(|number| self.names.get(number)).collect();
        names.into_iter().cloned().collect()
    }

    /// The strongest of the modes on each.
    pub(super) fn locks(&self, held: &BTreeMap<u32, BTreeSet<TableLock>>) -> Vec<SeenLock> {
        let mut locks: Vec<SeenLock> = held
            .iter()
            .filter_map(|(number, modes)| {
                Some(SeenLock { table: self.names.get(number)?.clone(), mode: *modes.last()? })
            })
            .collect();
        locks.sort_by(|one, other| one.table.cmp(&other.table));
        locks
    }
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TableFile {
    file: u32,
    scans: u64,
}

/// An index.
#[derive(Debug, Clone, PartialEq, Eq)]
struct IndexFile {
    of: u32,
    name: String,
    file: u32,
}

/// Files at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Files {
    tables: BTreeMap<u32, TableFile>,
    indexes: Vec<IndexFile>,
}

impl Files {
    pub(super) async fn read(session: &Session<'_>) -> Result<Self> {
        let mut files = Self::default();
        for row in session.rows(FILES).await? {
            let Some(file) = session.value::<u32>(&row, "file")? else { continue };
            match session.value::<u32>(&row, "indrelid")? {
                Some(of) => {
                    let name = session.text(&row, "relname")?.to_owned();
                    files.indexes.push(IndexFile { of, name, file });
                }
                None => {
                    let number: u32 = session.value(&row, "oid")?.unwrap_or_default();
                    let scans = session.value(&row, "scans")?.unwrap_or_default();
                    files.tables.insert(number, TableFile { file, scans });
                }
            }
        }
        Ok(files)
    }

    /// What became of the tables of `baseline` between two looks.
    pub(super) fn changes(&self, after: &Self, baseline: &Baseline) -> Observation {
        let pairs: Vec<(&u32, &TableFile, &TableFile)> = { self.tables.iter() }
            .filter_map(|(number, before)| Some((number, before, after.tables.get(number)?)))
            .collect();
        let rewritten = pairs.iter().filter(|(_, before, after)| before.file != after.file);
        let scanned = pairs.iter().filter(|(_, before, after)| before.scans < after.scans);
        let built: BTreeSet<SeenBuild> =
            after.indexes.iter().filter_map(|index| self.built(index, baseline)).collect();
        Observation {
            rewritten: baseline.named(rewritten.map(|(number, ..)| *number)),
            scanned: baseline.named(scanned.map(|(number, ..)| *number)),
            built: built.into_iter().collect(),
            ..Observation::default()
        }
    }

    /// `index` as a build, unless some index had its file before, under whatever name or number.
    fn built(&self, index: &IndexFile, baseline: &Baseline) -> Option<SeenBuild> {
        let table = baseline.names.get(&index.of)?.clone();
        let mut same_table = self.indexes.iter().filter(|before| before.of == index.of);
        if same_table.clone().any(|before| before.file == index.file) {
            return None;
        }
        let is_rebuilt = same_table.any(|before| before.name == index.name);
        Some(SeenBuild { table, index: index.name.clone(), is_rebuilt })
    }
}

/// The locks of a process at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Locks {
    /// What it holds, by number of the relation.
    pub(super) held: BTreeMap<u32, BTreeSet<TableLock>>,
    /// What it waits for.
    pub(super) wanted: BTreeMap<u32, BTreeSet<TableLock>>,
    /// Whether it waits for the end of another's transaction.
    pub(super) awaits_transaction: bool,
}

impl Locks {
    /// Those of the process whose number is `pid`, as SQL.
    pub(super) async fn read(session: &Session<'_>, pid: &str) -> Result<Self> {
        let mut locks = Self::default();
        for row in session.rows(&LOCKS.replace("@pid@", pid)).await? {
            if session.text(&row, "locktype")? != "relation" {
                locks.awaits_transaction = true;
                continue;
            }
            let Some(mode) = TableLock::of_server(session.text(&row, "mode")?) else { continue };
            let number: u32 = session.value(&row, "relation")?.unwrap_or_default();
            let list = if session.truth(&row, "granted") { &mut locks.held } else { &mut locks.wanted };
            list.entry(number).or_default().insert(mode);
        }
        Ok(locks)
    }

    /// Those of the session itself.
    pub(super) async fn own(session: &Session<'_>) -> Result<Self> {
        Self::read(session, "pg_catalog.pg_backend_pid()").await
    }

    /// Whether the process waits for anybody.
    pub(super) fn is_waiting(&self) -> bool {
        self.awaits_transaction || !self.wanted.is_empty()
    }

    /// What is held now and was not held `before`.
    pub(super) fn taken_since(&self, before: &Self) -> BTreeMap<u32, BTreeSet<TableLock>> {
        let new = |number: &u32, modes: &BTreeSet<TableLock>| -> BTreeSet<TableLock> {
            let earlier = before.held.get(number);
            modes.iter().filter(|mode| earlier.is_none_or(|held| !held.contains(mode))).copied().collect()
        };
        let taken = self.held.iter().map(|(number, modes)| (*number, new(number, modes)));
        taken.filter(|(_, modes)| !modes.is_empty()).collect()
    }
}

/// Catalogs of the whole server that the session's transaction writes to.
pub(super) async fn beyond(session: &Session<'_>) -> Result<Vec<String>> {
    let rows = session.rows(BEYOND).await?;
    rows.iter().map(|row| session.text(row, "relname").map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline() -> Baseline {
        let name = |name: &str| TableName { schema: "public".to_owned(), name: name.to_owned() };
        Baseline { names: BTreeMap::from([(1, name("users")), (2, name("orders"))]), tables: vec![1, 2] }
    }

    fn index(of: u32, name: &str, file: u32) -> IndexFile {
        IndexFile { of, name: name.to_owned(), file }
    }

    #[test]
    fn files_tell_what_was_written_anew() {
        let before = Files {
            tables: BTreeMap::from([
                (1, TableFile { file: 10, scans: 0 }),
                (2, TableFile { file: 20, scans: 4 }),
                (9, TableFile { file: 90, scans: 0 }),
            ]),
            indexes: vec![index(1, "kept", 11), index(1, "remade", 12), index(1, "old_name", 13)],
        };
        let after = Files {
            tables: BTreeMap::from([
                (1, TableFile { file: 15, scans: 0 }),
                (2, TableFile { file: 20, scans: 5 }),
                (9, TableFile { file: 91, scans: 1 }),
            ]),
            indexes: vec![
                index(1, "kept", 11),
                index(1, "remade", 17),
                index(1, "new_name", 13),
                index(1, "fresh", 18),
                index(9, "of a table that was not there", 19),
            ],
        };
        let seen = before.changes(&after, &baseline());
        let names = |tables: &[TableName]| tables.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            (names(&seen.rewritten), names(&seen.scanned)),
            (vec!["public.users".to_owned()], vec!["public.orders".to_owned()])
        );
        let built: Vec<(&str, bool)> =
            seen.built.iter().map(|build| (build.index.as_str(), build.is_rebuilt)).collect();
        assert_eq!(built, [("fresh", false), ("remade", true)]);
    }

    #[test]
    fn only_what_is_new_was_taken() {
        let held = |modes: &[TableLock]| Locks {
            held: BTreeMap::from([(1, modes.iter().copied().collect())]),
            ..Locks::default()
        };
        let (before, after) =
            (held(&[TableLock::AccessShare]), held(&[TableLock::AccessShare, TableLock::Share]));
        let taken = baseline().locks(&after.taken_since(&before));
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].table.name.as_str(), taken[0].mode), ("users", TableLock::Share));
        assert!(after.taken_since(&after).is_empty());
    }
}
