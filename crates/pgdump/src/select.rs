//! What of an archive restores some schemas or tables.
//!
//! Three things come with what was asked for: what *belongs* to it (rows, indexes, constraints, defaults, its sequences and their values,
//! partitions, comments, rights), what all of that *needs* (schemas, types, functions, extensions; tables that a view reads, without
//! their rows), and what *joins* it to something else (foreign keys, triggers, rules, policies), the last only where all that it needs
//! comes anyway.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::toc::{Entry, Toc};

/// Said at the beginning of every restore.
const SETTINGS: &[&str] = &["ENCODING", "STDSTRINGS", "SEARCHPATH"];
/// What can be asked for by the name of a table.
const RELATIONS: &[&str] = &["TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE"];
/// What belongs to whatever it needs.
const BELONGING: &[&str] = &[
    "TABLE DATA",
    "MATERIALIZED VIEW DATA",
    "SEQUENCE",
    "SEQUENCE SET",
    "SEQUENCE OWNED BY",
    "DEFAULT",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "INDEX",
    "INDEX ATTACH",
    "TABLE ATTACH",
    "STATISTICS",
    "STATISTICS DATA",
    "COMMENT",
    "SECURITY LABEL",
    "ACL",
    "ROW SECURITY",
];
/// What joins one thing to another.
const JOINING: &[&str] = &["FK CONSTRAINT", "TRIGGER", "RULE", "POLICY"];

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Everything in these schemas.
    pub schemas: Vec<String>,
    /// These tables, views or sequences: of this schema, or of every one.
    pub tables: Vec<(Option<String>, String)>,
}

/// What is asked for and is not there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the dump holds no {0}")]
pub struct NotInArchive(String);

impl Wanted {
    /// Whether nothing in particular is asked for.
    pub fn is_empty(&self) -> bool {
        self.schemas.is_empty() && self.tables.is_empty()
    }
}

impl Toc {
    /// The numbers of the entries that restore what is `wanted`, in their order.
    ///
    /// # Errors
    /// The first of what is wanted that the archive does not hold.
    pub fn select(&self, wanted: &Wanted) -> Result<Vec<i32>, NotInArchive> {
        let mut selection = Selection::new(self);
        for schema in &wanted.schemas {
            let is_it = |entry: &Entry| entry.kind == "SCHEMA" && entry.tag == *schema;
            let inside = |entry: &Entry| entry.schema.as_ref() == Some(schema);
            let found: Vec<i32> = self
                .entries
                .iter()
                .filter(|entry| is_it(entry) || inside(entry) && !JOINING.contains(&entry.kind.as_str()))
                .map(|entry| entry.id)
                .collect();
            if found.is_empty() {
                return Err(NotInArchive(format!("schema {schema}")));
            }
            found.into_iter().for_each(|id| selection.own(id));
        }
        for (schema, name) in &wanted.tables {
            let is_it = |entry: &&Entry| {
                RELATIONS.contains(&entry.kind.as_str())
                    && entry.tag == *name
                    && (schema.is_none() || entry.schema == *schema)
            };
            let found: Vec<i32> = self.entries.iter().filter(is_it).map(|entry| entry.id).collect();
            if found.is_empty() {
                let of = schema.as_ref().map(|schema| format!("{schema}.")).unwrap_or_default();
                return Err(NotInArchive(format!("table {of}{name}")));
            }
            found.into_iter().for_each(|id| selection.own(id));
        }
        selection.gather();
        selection.join();
        let chosen = selection.chosen;
        let is_setting = |entry: &&Entry| SETTINGS.contains(&entry.kind.as_str());
        Ok(self
            .entries
            .iter()
            .filter(|entry| is_setting(entry) || chosen.contains(&entry.id))
            .map(|entry| entry.id)
            .collect())
    }
}

struct Selection<'a> {
    by_id: BTreeMap<i32, &'a Entry>,
    /// By what they need.
    needing: BTreeMap<i32, Vec<&'a Entry>>,
    /// All that comes.
    chosen: BTreeSet<i32>,
    /// What was asked for or belongs to it.
    owned: BTreeSet<i32>,
    /// What is owned and whose belongings are not gathered yet.
    waiting: Vec<i32>,
}

impl<'a> Selection<'a> {
    fn new(toc: &'a Toc) -> Self {
        let mut needing: BTreeMap<i32, Vec<&Entry>> = BTreeMap::new();
        for entry in &toc.entries {
            for needed in &entry.needs {
                needing.entry(*needed).or_default().push(entry);
            }
        }
        Self {
            by_id: toc.entries.iter().map(|entry| (entry.id, entry)).collect(),
            needing,
            chosen: BTreeSet::new(),
            owned: BTreeSet::new(),
            waiting: Vec::new(),
        }
    }

    fn own(&mut self, id: i32) {
        if self.owned.insert(id) {
            self.waiting.push(id);
        }
        self.choose(id);
    }

    /// Takes an entry and everything that it needs. A sequence that something needs is nothing without its value.
    fn choose(&mut self, id: i32) {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            let Some(entry) = self.by_id.get(&id).copied() else { continue };
            if !self.chosen.insert(id) {
                continue;
            }
            if entry.kind == "SEQUENCE" && self.owned.insert(id) {
                self.waiting.push(id);
            }
            open.extend(&entry.needs);
        }
    }

    /// Takes everything that belongs to what is owned.
    fn gather(&mut self) {
        while let Some(id) = self.waiting.pop() {
            let Some(owner) = self.by_id.get(&id).copied() else { continue };
            for entry in self.needing.get(&id).cloned().unwrap_or_default() {
                if !BELONGING.contains(&entry.kind.as_str()) {
                    continue;
                }
                if entry.kind != "TABLE ATTACH" {
                    self.own(entry.id);
                    continue;
                }
                // It is called like the partition. A partition that is asked for comes alone; a table comes with its partitions.
                let is_partition = entry.tag == owner.tag && entry.schema == owner.schema;
                if !is_partition {
                    self.own(entry.id);
                    entry.needs.iter().for_each(|needed| self.own(*needed));
                }
            }
        }
    }

    /// Takes what joins things that all come.
    fn join(&mut self) {
        let joining: Vec<&Entry> = self
            .by_id
            .values()
            .copied()
            .filter(|entry| JOINING.contains(&entry.kind.as_str()))
            .filter(|entry| entry.needs.iter().any(|needed| self.owned.contains(needed)))
            .filter(|entry| entry.needs.iter().all(|needed| self.is_there(*needed)))
            .collect();
        joining.into_iter().for_each(|entry| self.own(entry.id));
        self.gather();
    }

    /// Whether a need is met: chosen, or of something that no archive holds.
    fn is_there(&self, id: i32) -> bool {
        self.chosen.contains(&id) || !self.by_id.contains_key(&id)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::toc::tests::archive;

    /// A shop: two schemas, a serial and an identity column, a foreign key, a view, a function with a trigger, a partitioned table.
    fn shop() -> Toc {
        Toc::read(&archive(&[
            ("ENCODING", "", "ENCODING", &[]),                                   // 1
            ("SCHEMA", "", "sales", &[]),                                        // 2
            ("EXTENSION", "", "citext", &[]),                                    // 3
            ("TYPE", "public", "mood", &[]),                                     // 4
            ("FUNCTION", "public", "touch()", &[]),                              // 5
            ("TABLE", "public", "users", &[4, 3]),                               // 6
            ("SEQUENCE", "public", "users_id_seq", &[]),                         // 7
            ("SEQUENCE OWNED BY", "public", "users_id_seq", &[7, 6]),            // 8
            ("DEFAULT", "public", "users id", &[7, 6]),                          // 9
            ("TABLE", "sales", "orders", &[2]),                                  // 10
            ("VIEW", "sales", "names", &[2, 6]),                                 // 11
            ("TABLE DATA", "public", "users", &[6]),                             // 12
            ("TABLE DATA", "sales", "orders", &[10]),                            // 13
            ("SEQUENCE SET", "public", "users_id_seq", &[7]),                    // 14
            ("CONSTRAINT", "public", "users users_pkey", &[6]),                  // 15
            ("INDEX", "sales", "orders_at", &[10]),                              // 16
            ("FK CONSTRAINT", "sales", "orders orders_user_fkey", &[10, 6, 15]), // 17
            ("TRIGGER", "public", "users touched", &[6, 5]),                     // 18
            ("TABLE", "sales", "events", &[2]),                                  // 19
            ("TABLE", "sales", "events_1", &[2]),                                // 20
            ("TABLE ATTACH", "sales", "events_1", &[19, 20]),                    // 21
            ("TABLE DATA", "sales", "events_1", &[20]),                          // 22
            ("ACL", "", "SCHEMA sales", &[2]),                                   // 23
            ("COMMENT", "public", "COLUMN users.id", &[6]),                      // 24
        ]))
        .unwrap()
    }

    #[test]
    fn a_selection_comes_with_what_belongs_to_it_and_what_it_needs() {
        let toc = shop();
        let table = |schema: Option<&str>, name: &str| Wanted {
            schemas: Vec::new(),
            tables: vec![(schema.map(str::to_owned), name.to_owned())],
        };
        let schema = |name: &str| Wanted { schemas: vec![name.to_owned()], tables: Vec::new() };
        let cases: [(Wanted, &[i32]); 6] = [
            // Type, extension, serial sequence with its value, key and comment; no trigger without its function.
            (table(None, "users"), &[1, 3, 4, 6, 7, 8, 9, 12, 14, 15, 24]),
            // Its schema, its index; no key to a table that does not come.
            (table(Some("sales"), "orders"), &[1, 2, 10, 13, 16]),
            // What a view reads comes without rows.
            (table(None, "names"), &[1, 2, 3, 4, 6, 11]),
            (table(None, "events"), &[1, 2, 19, 20, 21, 22]),
            (table(None, "events_1"), &[1, 2, 20, 22]),
            (schema("public"), &[1, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15, 18, 24]),
        ];
        for (wanted, expected) in cases {
            assert_eq!(toc.select(&wanted).unwrap(), expected, "{wanted:?}");
        }
        let both = Wanted { schemas: vec!["public".to_owned(), "sales".to_owned()], ..Wanted::default() };
        assert_eq!(
            toc.select(&both).unwrap().len(),
            toc.entries.len(),
            "everything, keys between the two included"
        );
    }

    #[test]
    fn what_is_not_there_is_named() {
        let toc = shop();
        let missing =
            Wanted { schemas: Vec::new(), tables: vec![(Some("public".to_owned()), "orders".to_owned())] };
        assert_eq!(toc.select(&missing).unwrap_err().to_string(), "the dump holds no table public.orders");
        let missing = Wanted { schemas: vec!["archive".to_owned()], tables: Vec::new() };
        assert_eq!(toc.select(&missing).unwrap_err().to_string(), "the dump holds no schema archive");
    }

    #[test]
    fn circles_and_needs_that_lead_nowhere_end() {
        let toc = Toc::read(&archive(&[("TABLE", "s", "a", &[2, 99]), ("TABLE", "s", "b", &[1])])).unwrap();
        let wanted = Wanted { schemas: Vec::new(), tables: vec![(None, "a".to_owned())] };
        assert_eq!(toc.select(&wanted).unwrap(), [1, 2]);
    }
}
