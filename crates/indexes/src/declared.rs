//! An index as somebody declares it, and the manifest of all that is declared.

use std::collections::{BTreeMap, BTreeSet};

use crate::collation::Collation;
use crate::json::Json;
use crate::keys::{Key, driver_name};
use crate::spec::IndexSpec;

/// A declared index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredIndex {
    /// Its keys as written, text fields spelled out.
    pub keys: Vec<Key>,
    /// Its name; the drivers' when `None`.
    pub name: Option<String>,
    /// Its collation; the collection's when `None`.
    pub collation: Option<Collation>,
    /// What must hold of the documents before it is built.
    pub asserts: BTreeSet<Assertion>,
    /// Whether one of its fields is to hold arrays; not judged when `None`.
    pub multikey: Option<bool>,
    /// What an audit is to put up with.
    pub allows: BTreeSet<Allowance>,
    /// Never judged unused.
    pub pinned: bool,
    /// The name that it had before.
    pub was: Option<String>,
    /// What it is, but for the collation.
    options: IndexSpec,
}

/// What must hold of a collection's documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assertion {
    /// No document has an explicit null in a key: `sparse` leaves out what is missing, and not that.
    NoExplicitNull,
}

/// What an audit is to put up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allowance {
    /// Another index begins with the same keys.
    PrefixRedundant,
    /// Nobody uses it.
    Unused,
}

impl Assertion {
    /// Its word in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoExplicitNull => "no-explicit-null",
        }
    }

    pub(crate) const ALL: [Self; 1] = [Self::NoExplicitNull];
}

impl Allowance {
    /// Its word in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::PrefixRedundant => "prefix-redundant",
            Self::Unused => "unused",
        }
    }

    pub(crate) const ALL: [Self; 2] = [Self::PrefixRedundant, Self::Unused];
}

impl DeclaredIndex {
    /// An index of `keys` without options.
    pub fn new(keys: Vec<Key>) -> Self {
        let options = IndexSpec::of_keys(&keys);
        Self {
            keys,
            name: None,
            collation: None,
            asserts: BTreeSet::new(),
            multikey: None,
            allows: BTreeSet::new(),
            pinned: false,
            was: None,
            options,
        }
    }

    /// The declaration that makes what a server lists, on a collection whose own collation is `inherited`.
    pub fn of_spec(name: &str, spec: &IndexSpec, inherited: &Collation) -> Self {
        let keys = spec.written_keys();
        let plain = if spec.can_collate() { inherited } else { &Collation::Simple };
        Self {
            name: (driver_name(&keys) != name).then(|| name.to_owned()),
            collation: (spec.collation != *plain).then(|| spec.collation.clone()),
            options: IndexSpec { collation: Collation::Simple, ..spec.clone() },
            ..Self::new(keys)
        }
    }

    /// Its options, which have no collation of their own: that is [`DeclaredIndex::collation`].
    pub fn options(&self) -> &IndexSpec {
        &self.options
    }

    pub(crate) fn options_mut(&mut self) -> &mut IndexSpec {
        &mut self.options
    }

    /// What it is on a collection whose own collation is `inherited`.
    pub fn spec(&self, inherited: &Collation) -> IndexSpec {
        let plain = if self.options.can_collate() { inherited } else { &Collation::Simple };
        IndexSpec { collation: self.collation.as_ref().unwrap_or(plain).clone(), ..self.options.clone() }
    }

    /// The name that it is made under.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| driver_name(&self.keys))
    }

    /// The entry of `createIndexes` that makes it under `name`; its own is [`DeclaredIndex::name`].
    pub fn definition(&self, name: &str, inherited: &Collation) -> Json {
        self.spec(inherited).definition_of(&self.keys, name, inherited)
    }
}

/// The indexes that a database is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// By collection, in the order in which they were written.
    pub collections: BTreeMap<String, Vec<DeclaredIndex>>,
    /// What is done about the rest.
    pub policy: Policy,
}

/// What is done about indexes that nobody declares, and how freely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What becomes of them.
    pub undeclared: Undeclared,
    /// For how many seconds an index is hidden before it is dropped.
    pub hide_seconds: u64,
    /// How many documents a new TTL may delete at once.
    pub expire_max: u64,
    /// For how many seconds an index must have been watched before it is judged unused.
    pub watch_seconds: u64,
    /// Collections that are nobody's business: names, `*` for any part of one.
    pub ignore: Vec<String>,
}

/// What becomes of indexes that nobody declares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Undeclared {
    /// They are told.
    #[default]
    Report,
    /// They are hidden.
    Hide,
    /// They are hidden, and dropped when nobody has missed them.
    Drop,
}

impl Undeclared {
    /// Its word in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Hide => "hide",
            Self::Drop => "drop",
        }
    }

    pub(crate) const ALL: [Self; 3] = [Self::Report, Self::Hide, Self::Drop];
}

/// Seconds of a day.
const DAY: u64 = 86_400;

impl Default for Policy {
    fn default() -> Self {
        Self {
            undeclared: Undeclared::Report,
            hide_seconds: 7 * DAY,
            expire_max: 1_000,
            watch_seconds: 7 * DAY,
            ignore: Vec::new(),
        }
    }
}

impl Policy {
    /// Whether a collection is nobody's business.
    pub fn ignores(&self, collection: &str) -> bool {
        self.ignore.iter().any(|pattern| is_match(pattern, collection))
    }
}

/// Whether `name` is of the form `pattern`, in which `*` stands for anything.
pub fn is_match(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            tail.char_indices().map(|(at, _)| at).chain([tail.len()]).any(|at| is_match(rest, &tail[at..]))
        }),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::json::json;
    use crate::listed::ListedIndex;

    #[test]
    fn a_collation_is_inherited_where_it_can_be() {
        let french = Collation::of_document(&json!({"locale": "fr"})).unwrap();
        let plain = DeclaredIndex::new(vec!["name".parse().unwrap()]);
        assert_eq!(plain.spec(&french).collation, french);
        assert_eq!(plain.spec(&Collation::Simple).collation, Collation::Simple);
        let text = DeclaredIndex::new(vec!["name:text".parse().unwrap()]);
        assert_eq!(text.spec(&french).collation, Collation::Simple);
        let definition = text.definition("t", &french);
        assert_eq!(
            definition,
            json!({"key": {"name": "text"}, "name": "t", "collation": {"locale": "simple"}})
        );
    }

    #[test]
    fn a_listed_index_declares_itself() {
        let french = Collation::of_document(&json!({"locale": "fr"})).unwrap();
        for (entry, inherited) in [
            (json!({"key": {"b": 1, "a": -1}, "name": "b_1_a_-1", "unique": true}), &Collation::Simple),
            (json!({"key": {"a": 1}, "name": "mine", "collation": {"locale": "fr"}}), &french),
            (json!({"key": {"a": 1}, "name": "a_1"}), &french),
            (
                json!({"key": {"_fts": "text", "_ftsx": 1}, "name": "title_text", "weights": {"title": 1}}),
                &french,
            ),
        ] {
            let listed = ListedIndex::read(&entry).unwrap();
            let declared = DeclaredIndex::of_spec(&listed.name, &listed.spec, inherited);
            assert_eq!(declared.spec(inherited), listed.spec, "{entry}");
            assert_eq!(declared.name(), listed.name);
        }
    }

    #[test]
    fn patterns_match_parts() {
        for (pattern, name, matches) in [
            ("logs", "logs", true),
            ("logs", "logs2", false),
            ("tmp_*", "tmp_", true),
            ("*", "x", true),
            ("a*b*c", "a1b2c", true),
            ("a*b", "a1c", false),
        ] {
            assert_eq!(is_match(pattern, name), matches, "{pattern} {name}");
        }
    }
}
