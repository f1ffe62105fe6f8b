//! A backfill as the project declares it, beyond what the store is told of it.

use std::collections::BTreeSet;

use mainstay_engine::{Backfill, BackfillBody};
use mainstay_model::StoreKind;
use serde::{Deserialize, Serialize};

/// The longest id.
const ID_LENGTH_MAX: usize = 80;

/// What a declaration asks of backups beyond policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupWish {
    /// What policy asks of what destroys.
    #[default]
    Policy,
    /// A fresh verified backup in every environment.
    Always,
}

/// A declared backfill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredBackfill {
    /// What is done, and its identity.
    pub backfill: Backfill,
    /// What it is for, for people.
    pub summary: Option<String>,
    /// How many keys a batch goes by at most.
    pub batch: u32,
    /// How long each of the workers rests after a batch, in milliseconds.
    pub pause_ms: u64,
    /// What is asked of backups.
    pub backup: BackupWish,
}

impl DeclaredBackfill {
    /// Keys of a batch when nothing is declared.
    pub const BATCH: u32 = 5_000;
    /// The most keys of a batch.
    pub const BATCH_MAX: u32 = 20_000;

    /// In which store.
    pub fn store(&self) -> StoreKind {
        match self.backfill.body {
            BackfillBody::Documents { .. } => StoreKind::Mongo,
            BackfillBody::Rows { .. } => StoreKind::Postgres,
        }
    }

    /// What is wrong with it, as one line each; nothing when it can be tried.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let id = &self.backfill.id;
        let is_name = |one: char| one.is_ascii_alphanumeric() || "._-".contains(one);
        if id.is_empty() || id.len() > ID_LENGTH_MAX || !id.chars().all(is_name) {
            faults.push(format!("`id` must be 1 to {ID_LENGTH_MAX} letters, digits, `.`, `-` or `_`"));
        }
        if self.batch == 0 || self.batch > Self::BATCH_MAX {
            faults.push(format!("`batch` must be from 1 to {}", Self::BATCH_MAX));
        }
        match &self.backfill.body {
            BackfillBody::Documents { guard, fields, .. } => {
                if guard.split_whitespace().collect::<String>() == "{}" {
                    faults.push("`guard` means every document, also those that were changed".to_owned());
                }
                faults.extend(field_faults(fields));
            }
            BackfillBody::Rows { guard, set, .. } => {
                if guard.trim().is_empty() {
                    faults.push("`guard` is empty".to_owned());
                }
                if set.is_empty() {
                    faults.push("`set` names no column".to_owned());
                }
            }
        }
        faults
    }
}

fn field_faults(fields: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    if fields.is_empty() {
        faults.push("`fields` names no field".to_owned());
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for field in fields {
        let is_path = field.split('.').all(|part| !part.is_empty() && !part.starts_with('$'));
        if !is_path || field.contains('\0') {
            faults.push(format!("`{field}` in `fields` is no path"));
        }
        if field == "_id" || field.starts_with("_id.") {
            faults.push("`_id` in `fields` never changes".to_owned());
        }
        let overlaps = |other: &&str| *other == field || lies_under(field, other) || lies_under(other, field);
        if let Some(other) = seen.iter().find(|other| overlaps(other)) {
            faults.push(format!("`{field}` and `{other}` in `fields` overlap"));
        }
        seen.insert(field);
    }
    faults
}

/// Whether `path` is `field` or something in it.
pub(super) fn lies_under(path: &str, field: &str) -> bool {
    path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use mainstay_engine::Namespace;

    use super::*;

    fn declared(id: &str, guard: &str, fields: &[&str]) -> DeclaredBackfill {
        DeclaredBackfill {
            backfill: Backfill {
                id: id.to_owned(),
                body: BackfillBody::Documents {
                    namespace: Namespace::new("shop", "users"),
                    guard: guard.to_owned(),
                    update: r#"{"$set": {"a": 1}}"#.to_owned(),
                    fields: fields.iter().map(|field| (*field).to_owned()).collect(),
                    verify: None,
                },
                keeps_undo: true,
            },
            summary: None,
            batch: DeclaredBackfill::BATCH,
            pause_ms: 0,
            backup: BackupWish::Policy,
        }
    }

    #[test]
    fn faults_are_told_before_a_server_is_asked() {
        let guard = r#"{"a": {"$exists": false}}"#;
        for (id, guard, fields, expected) in [
            ("users-1.points_2", guard, &["a", "b.c"][..], ""),
            ("", guard, &["a"][..], "`id` must be"),
            ("a b", guard, &["a"][..], "`id` must be"),
            ("x", " { } ", &["a"][..], "means every document"),
            ("x", guard, &[][..], "names no field"),
            ("x", guard, &["a", "a.b"][..], "overlap"),
            ("x", guard, &["a", "a"][..], "overlap"),
            ("x", guard, &["a", "ab"][..], ""),
            ("x", guard, &["_id"][..], "never changes"),
            ("x", guard, &["a..b"][..], "is no path"),
            ("x", guard, &["$a"][..], "is no path"),
        ] {
            let faults = declared(id, guard, fields).faults().join("; ");
            assert_eq!(faults.is_empty(), expected.is_empty(), "{id} {fields:?}: {faults}");
            assert!(faults.contains(expected), "{id} {fields:?}: {faults}");
        }
    }
}
