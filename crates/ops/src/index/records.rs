//! What was done to the indexes of a server, one record after the other (`mongo/indexes/<server>/`): written before each step and after it.
//!
//! They tell a run that goes on what is its own work, since when an index is hidden, and how to build again what was dropped. Nobody edits or
//! removes them.

use std::collections::BTreeMap;

use mainstay_engine::Namespace;
use mainstay_indexes::{Ejson, IndexSpec, ListedIndex, Step};
use mainstay_journal::Sequence;
use mainstay_model::{Blake3, Result, ResultExt, StoreKind, Timestamp};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
pub(super) enum Record {
    /// A step is about to be taken.
    #[serde(rename = "index_step_begun")]
    Begun {
        /// The plan's hash.
        plan: Blake3,
        /// Whose collection.
        database: String,
        /// The collection.
        collection: String,
        /// The step.
        step: Step,
        /// The index as the server told it before; `None` when it was not there.
        before: Option<Ejson>,
        /// When.
        at: Timestamp,
        /// Who.
        by: String,
    },
    /// It was taken, and what came of it was looked at.
    #[serde(rename = "index_step_done")]
    Done {
        /// The plan's hash.
        plan: Blake3,
        /// Whose collection.
        database: String,
        /// The collection.
        collection: String,
        /// The step.
        step: Step,
        /// When.
        at: Timestamp,
    },
    /// It was taken back.
    #[serde(rename = "index_step_undone")]
    Undone {
        /// The plan's hash.
        plan: Blake3,
        /// Whose collection.
        database: String,
        /// The collection.
        collection: String,
        /// The step.
        step: Step,
        /// Why.
        why: String,
        /// When.
        at: Timestamp,
    },
    /// All steps of a plan were taken.
    #[serde(rename = "index_plan_applied")]
    Applied {
        /// The plan's hash.
        plan: Blake3,
        /// When.
        at: Timestamp,
    },
}

/// The records about one server.
pub(super) struct Records {
    sequence: Sequence,
}

/// A dropped index, as it can be built again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DroppedIndex {
    /// Its database.
    pub database: String,
    /// Its collection.
    pub collection: String,
    /// What it was.
    pub index: ListedIndex,
    /// When it was dropped.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
}

impl Records {
    pub(super) fn of(repository: &Repository, fingerprint: &str) -> Self {
        Self { sequence: repository.index_records(StoreKind::Mongo, fingerprint) }
    }

    pub(super) async fn all(&self) -> Result<Vec<Record>> {
        let entries = self.sequence.all::<Record>().await.context("read what was done to indexes")?;
        Ok(entries.into_iter().map(|entry| entry.body).collect())
    }

    pub(super) async fn write(&self, record: &Record) -> Result<()> {
        self.sequence.append_next(record).await.context("record what is done to an index").map(drop)
    }
}

/// The steps on a collection that runs of `plan` have begun and not taken back.
pub(super) fn begun(records: &[Record], plan: &Blake3, namespace: &Namespace) -> Vec<Step> {
    let is_here = |database: &str, collection: &str| {
        namespace.database == database && namespace.collection == collection
    };
    let mut steps: Vec<Step> = Vec::new();
    for record in records {
        match record {
            Record::Begun { plan: of, database, collection, step, .. }
                if of == plan && is_here(database, collection) && !steps.contains(step) =>
            {
                steps.push(step.clone());
            }
            Record::Undone { plan: of, database, collection, step, .. }
                if of == plan && is_here(database, collection) =>
            {
                steps.retain(|begun| begun != step);
            }
            _ => {}
        }
    }
    steps
}

/// Whether what is being built by `step` was begun by a run of `plan`: the index was not there when it recorded the step, and it has not taken
/// it back since.
pub(super) fn has_begun(records: &[Record], plan: &Blake3, namespace: &Namespace, step: &Step) -> bool {
    let is_it = |of: &Blake3, database: &str, collection: &str, recorded: &Step| {
        of == plan && namespace.database == database && namespace.collection == collection && recorded == step
    };
    records.iter().fold(false, |has_begun, record| match record {
        // A run that goes on meets what an earlier one began.
        Record::Begun { plan: of, database, collection, step: recorded, before, .. }
            if is_it(of, database, collection, recorded) =>
        {
            has_begun || before.is_none()
        }
        Record::Undone { plan: of, database, collection, step: recorded, .. }
            if is_it(of, database, collection, recorded) =>
        {
            false
        }
        _ => has_begun,
    })
}

/// When each index of `database` was hidden last, by collection and name, as far as it was done here and not taken back.
pub(super) fn hidden_since(records: &[Record], database: &str) -> BTreeMap<(String, String), Timestamp> {
    let mut hidden = BTreeMap::new();
    for record in records {
        let Record::Done { database: of, collection, step, at, .. } = record else { continue };
        if of != database {
            continue;
        }
        let place = (collection.clone(), step.index().to_owned());
        match step {
            Step::Hide { .. } => drop(hidden.insert(place, *at)),
            Step::Show { .. } | Step::Drop { .. } | Step::Build { .. } => drop(hidden.remove(&place)),
            _ => {}
        }
    }
    hidden
}

/// The indexes of `database` that were dropped and not built again, the last first. One whose drop was begun counts: nobody knows better.
pub(super) fn dropped(records: &[Record], database: &str) -> Vec<DroppedIndex> {
    let mut dropped: Vec<DroppedIndex> = Vec::new();
    for record in records {
        match record {
            Record::Begun {
                database: of, collection, step: Step::Drop { name, definition }, at, by, ..
            } if of == database => {
                let Ok(index) = ListedIndex::read(definition.value()) else { continue };
                dropped.retain(|known| known.collection != *collection || known.index.name != *name);
                dropped.push(DroppedIndex {
                    database: of.clone(),
                    collection: collection.clone(),
                    index,
                    at: *at,
                    by: by.clone(),
                });
            }
            Record::Done { database: of, collection, step: Step::Build { definition, .. }, .. }
                if of == database =>
            {
                let Ok(built) = ListedIndex::read(definition.value()) else { continue };
                dropped.retain(|known| known.collection != *collection || !is_again(&known.index, &built));
            }
            _ => {}
        }
    }
    dropped.reverse();
    dropped
}

/// Whether an index that was dropped stands again; whether it was hidden does not matter.
fn is_again(dropped: &ListedIndex, built: &ListedIndex) -> bool {
    dropped.name == built.name
        && IndexSpec { hidden: built.spec.hidden, ..dropped.spec.clone() } == built.spec
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_indexes::Json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn definition() -> Ejson {
        Ejson::new(Json::parse(r#"{"key":{"a":1},"name":"a_1"}"#).unwrap())
    }

    fn build() -> Step {
        Step::Build { name: "a_1".to_owned(), definition: definition() }
    }

    fn begun_by(plan: &str, database: &str, collection: &str, before: Option<Ejson>) -> Record {
        Record::Begun {
            plan: Blake3::of(plan.as_bytes()),
            database: database.to_owned(),
            collection: collection.to_owned(),
            step: build(),
            before,
            at: at(0),
            by: "ann@desk".to_owned(),
        }
    }

    fn undone_by(plan: &str, collection: &str) -> Record {
        Record::Undone {
            plan: Blake3::of(plan.as_bytes()),
            database: "shop".to_owned(),
            collection: collection.to_owned(),
            step: build(),
            why: "stopped on request".to_owned(),
            at: at(1),
        }
    }

    #[test]
    fn a_build_is_known_by_plan_place_and_step() {
        let begun = |plan, database, collection| begun_by(plan, database, collection, None);
        let resumed = || begun_by("mine", "shop", "users", Some(definition()));
        for (records, expected) in [
            (vec![], false),
            (vec![begun("mine", "shop", "users")], true),
            (vec![begun("mine", "shop", "users"), resumed()], true),
            (vec![resumed()], false),
            (vec![begun("other", "shop", "users")], false),
            (vec![begun("mine", "shop", "orders")], false),
            (vec![begun("mine", "copy", "users")], false),
            (vec![begun("mine", "shop", "users"), undone_by("mine", "users")], false),
            (vec![begun("mine", "shop", "users"), undone_by("mine", "users"), resumed()], false),
            (vec![begun("mine", "shop", "users"), undone_by("mine", "orders")], true),
            (vec![begun("mine", "shop", "users"), undone_by("other", "users")], true),
        ] {
            let found = has_begun(&records, &Blake3::of(b"mine"), &Namespace::new("shop", "users"), &build());
            assert_eq!(found, expected, "{records:?}");
        }
        let hide = Step::Hide { name: "a_1".to_owned() };
        let records = [begun("mine", "shop", "users")];
        assert!(!has_begun(&records, &Blake3::of(b"mine"), &Namespace::new("shop", "users"), &hide));
    }

    #[test]
    fn an_index_is_hidden_since_it_was_hidden_last() {
        let done = |step: Step, second: i64| Record::Done {
            plan: Blake3::of(b"mine"),
            database: "shop".to_owned(),
            collection: "users".to_owned(),
            step,
            at: at(second),
        };
        let hide = || Step::Hide { name: "a_1".to_owned() };
        let show = || Step::Show { name: "a_1".to_owned() };
        let place = ("users".to_owned(), "a_1".to_owned());
        for (records, expected) in [
            (vec![done(hide(), 1)], Some(at(1))),
            // Somebody else showed it in between.
            (vec![done(hide(), 1), done(hide(), 9)], Some(at(9))),
            (vec![done(hide(), 1), done(show(), 5)], None),
            (vec![done(hide(), 1), done(build(), 5), done(hide(), 9)], Some(at(9))),
        ] {
            assert_eq!(hidden_since(&records, "shop").get(&place).copied(), expected, "{records:?}");
            assert!(hidden_since(&records, "other").is_empty());
        }
    }
}
