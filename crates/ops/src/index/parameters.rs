//! What a plan about indexes keeps beside what every plan does: collections as they were seen, changes, answers, estimates. Pure.
//!
//! A plan file is somebody's text: what is not of the plan's database, what does more than the plan's operation says, a command that is not
//! its step's, an index that was not seen, a drop without anything in its place, an expiry that nobody asked the documents about, and other
//! assumptions than the collections' own are refused before anything is asked of the server; so is a plan that shows other steps than it takes.

use std::collections::BTreeSet;

use mainstay_engine::Namespace;
use mainstay_indexes::{
    Blocked, Change, ChangeKind, Check, Collation, Ejson, Json, ListedIndex, Step, TTL_NEVER,
    is_collection_name,
};
use mainstay_model::{Assumption, Error, ErrorKind, Plan, Result};
use serde::{Deserialize, Serialize};

use super::{OPERATION_BUILD, OPERATION_CHANGE, OPERATION_DROP, OPERATION_EXPIRE};

/// The decided parameters of a plan about indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexParameters {
    /// The database.
    pub database: String,
    /// How many documents a change may expire at once.
    pub expire_max: u64,
    /// The collections that are changed.
    pub collections: Vec<PlannedCollection>,
}

/// A collection that is to be changed, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedCollection {
    /// Its name.
    pub name: String,
    /// Its id; `None` when there is no such collection, which its first index makes.
    pub uuid: Option<String>,
    /// Its own collation.
    pub collation: Ejson,
    /// Its documents.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Its indexes, as the server told them.
    pub indexes: Vec<ListedIndex>,
    /// What is to be done, in order.
    pub changes: Vec<PlannedChange>,
}

/// A change with what was found out about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedChange {
    /// The change.
    pub change: Change,
    /// The commands that the server is sent, in order.
    pub commands: Vec<Ejson>,
    /// What the documents answered, in the order of the change's questions.
    pub answers: Vec<Answer>,
    /// What it costs; `None` where nothing is built.
    pub estimate: Option<Estimate>,
}

/// What the documents answered to a [`Check`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer", deny_unknown_fields)]
pub enum Answer {
    /// How many keys several documents have.
    Duplicates {
        /// The keys.
        groups: u64,
        /// The documents; one that has several such keys counts for each.
        documents: u64,
        /// The largest groups.
        first: Vec<DuplicateGroup>,
    },
    /// How many documents hold an explicit null.
    ExplicitNulls {
        /// The documents.
        documents: u64,
    },
    /// What a time after which documents expire does.
    Expiry {
        /// Documents that expire at once.
        overdue: u64,
        /// Documents that never do, for want of a date.
        undated: u64,
        /// Documents with an array there, whose earliest date decides.
        arrays: u64,
    },
    /// It could not be counted; the server judges when it is done.
    Unknown {
        /// Why.
        why: String,
    },
}

/// Documents that share a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DuplicateGroup {
    /// How many.
    pub documents: u64,
    /// `_id`s of the first of them, in canonical Extended JSON.
    pub ids: Vec<Ejson>,
}

/// What building an index costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// Documents that are read.
    pub documents: u64,
    /// Bytes that the index takes.
    pub bytes: u64,
    /// How long it takes.
    pub millis: u64,
    /// Documents that are read in a second, as measured.
    pub documents_per_second: u64,
    /// Bytes that are free where the server keeps its data when the plan's builds before it are done, where it tells.
    pub free: Option<u64>,
}

impl Answer {
    /// Why the change cannot be done with this answer, and what to do; `None` when it can.
    pub fn obstacle(&self, check: &Check, place: &str, expire_max: u64) -> Option<Blocked> {
        let blocked = |reason: String, next: String| Some(Blocked { reason, next });
        match (self, check) {
            (Self::Duplicates { groups, documents, .. }, _) if *groups > 0 => blocked(
                format!("{groups} keys of {place} are those of several documents, {documents} in all"),
                "remove or change all but one document of each group, then plan again".to_owned(),
            ),
            (Self::ExplicitNulls { documents }, Check::ExplicitNulls { forbidden: true, .. }) if *documents > 0 => {
                blocked(
                    format!("{documents} documents hold an explicit null in {place}, which a sparse index holds, too"),
                    "remove the field with $unset, or declare `partial` on the type of the values in the place of `sparse`"
                        .to_owned(),
                )
            }
            (Self::Expiry { overdue, .. }, _) if *overdue > expire_max => blocked(
                format!("{overdue} documents would expire at once by {place}; {expire_max} may"),
                "raise `max_expire` in [mongo.policy] when all of them are to go, or declare a longer `ttl`".to_owned(),
            ),
            _ => None,
        }
    }

    /// How many documents expire at once.
    pub fn overdue(&self) -> u64 {
        match self {
            Self::Expiry { overdue, .. } => *overdue,
            _ => 0,
        }
    }
}

impl PlannedChange {
    /// Whether it is carried out.
    pub fn is_done(&self) -> bool {
        self.change.blocked.is_none() && !self.change.steps.is_empty()
    }

    /// How many documents expire at once by it.
    pub fn overdue(&self) -> u64 {
        self.answers.iter().map(Answer::overdue).sum()
    }
}

impl PlannedCollection {
    /// The collection's full name.
    pub fn namespace(&self, database: &str) -> Namespace {
        Namespace::new(database, &self.name)
    }

    /// What must still be so.
    pub fn assumptions(&self, database: &str) -> Vec<Assumption> {
        assumptions(&self.namespace(database), self.uuid.as_deref(), &self.indexes)
    }
}

/// What a plan takes for granted of a collection: which one it is, and each of its indexes.
pub(super) fn assumptions(
    namespace: &Namespace,
    uuid: Option<&str>,
    indexes: &[ListedIndex],
) -> Vec<Assumption> {
    let collection = Assumption {
        name: format!("collection {namespace}"),
        value: uuid.map_or_else(|| "absent".to_owned(), |uuid| format!("the one with id {uuid}")),
    };
    let index = |listed: &ListedIndex| Assumption {
        name: format!("index {namespace}.{}", listed.name),
        value: shown(listed),
    };
    [collection].into_iter().chain(indexes.iter().map(index)).collect()
}

/// An index as a plan remembers it: its definition without versions.
fn shown(listed: &ListedIndex) -> String {
    const LEFT_OUT: [&str; 6] = ["v", "ns", "name", "background", "textIndexVersion", "2dsphereIndexVersion"];
    let counts = |name: &str| !(LEFT_OUT.contains(&name) || name == "prepareUnique" && listed.spec.unique);
    let members =
        listed.definition.fields().unwrap_or_default().iter().filter(|(name, _)| counts(name)).cloned();
    let definition = Json::object(members);
    match listed.is_ready() {
        true => definition.to_string(),
        false => format!("{definition}, being built"),
    }
}

impl IndexParameters {
    /// Those of `plan`, checked against what it says it does.
    ///
    /// # Errors
    /// `Usage` when the plan is none about indexes, or holds what its operation does not cover.
    pub fn of(plan: &Plan) -> Result<Self> {
        let parameters: Self = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            no_plan("its parameters are not those of a change of indexes").with_source(source)
        })?;
        match parameters.flaw() {
            Some(flaw) => Err(no_plan(&flaw)),
            None if !covers(&plan.operation, parameters.operation()) => Err(no_plan(&format!(
                "it calls itself {} and does what {} does",
                plan.operation,
                parameters.operation()
            ))),
            None if plan.assumptions != parameters.assumptions() => {
                Err(no_plan("its assumptions are not those of the collections that it changes"))
            }
            None if !parameters.are_shown(plan) => {
                Err(no_plan("its steps, or what is at stake, are not what it shows to whoever approves it"))
            }
            None => Ok(parameters),
        }
    }

    /// What must still be so: everything that was seen of the collections that are changed, in their order.
    pub(super) fn assumptions(&self) -> Vec<Assumption> {
        let is_changed =
            |collection: &&PlannedCollection| collection.changes.iter().any(PlannedChange::is_done);
        let changed = self.collections.iter().filter(is_changed);
        changed.flat_map(|collection| collection.assumptions(&self.database)).collect()
    }

    /// The registered operation that does all of it: the worst of what its steps do.
    pub fn operation(&self) -> &'static str {
        let steps = self.done().flat_map(|(collection, planned)| {
            planned.change.steps.iter().map(move |step| rank_of(collection, step))
        });
        ORDER[steps.max().unwrap_or(0)]
    }

    /// How many documents expire at once.
    pub fn overdue(&self) -> u64 {
        self.done().map(|(_, planned)| planned.overdue()).sum()
    }

    /// The collections whose documents expire by it.
    pub fn expiring(&self) -> BTreeSet<Namespace> {
        let expires = |(collection, planned): &(&PlannedCollection, &PlannedChange)| {
            planned.change.steps.iter().any(|step| ORDER[rank_of(collection, step)] == OPERATION_EXPIRE)
        };
        self.done().filter(expires).map(|(collection, _)| collection.namespace(&self.database)).collect()
    }

    /// The changes that are carried out, with their collections.
    pub fn done(&self) -> impl Iterator<Item = (&PlannedCollection, &PlannedChange)> {
        self.collections.iter().flat_map(|collection| {
            collection
                .changes
                .iter()
                .filter(|planned| planned.is_done())
                .map(move |planned| (collection, planned))
        })
    }

    /// Whether the plan's own steps and stakes, which a person sees, are what is carried out.
    fn are_shown(&self, plan: &Plan) -> bool {
        let shown = plan.steps.iter().filter(|step| step.mark != ' ');
        let taken = self.done().flat_map(|(collection, planned)| {
            let steps = planned.change.steps.iter();
            steps.map(move |step| (name_of(&self.database, &collection.name, step), step.mark()))
        });
        plan.blast_radius.items == self.overdue()
            && shown.map(|step| (step.name.clone(), step.mark)).eq(taken)
    }

    /// What is wrong with them, if anything is.
    fn flaw(&self) -> Option<String> {
        if ["admin", "local", "config", ""].contains(&self.database.as_str()) {
            return Some(format!("`{}` is no database of an application", self.database));
        }
        self.collections.iter().find_map(|collection| {
            let name = &collection.name;
            if !is_collection_name(name) {
                return Some(format!("`{name}` is no collection of an application"));
            }
            collection.changes.iter().find_map(|planned| flaw_of(collection, planned))
        })
    }
}

/// A step as a plan names it: `hide shop.users.email_1`.
pub(super) fn name_of(database: &str, collection: &str, step: &Step) -> String {
    format!("{} {database}.{collection}.{}", step.verb(), step.index())
}

/// The registered operations, each of which may do what those before it do.
const ORDER: [&str; 4] = [OPERATION_BUILD, OPERATION_CHANGE, OPERATION_DROP, OPERATION_EXPIRE];

/// Whether an operation may do what `needed` does.
fn covers(operation: &str, needed: &str) -> bool {
    let rank = |name: &str| ORDER.iter().position(|known| *known == name);
    matches!((rank(operation), rank(needed)), (Some(given), Some(needed)) if given >= needed)
}

/// The place in [`ORDER`] of what a step does to a collection as it was seen. Where none was, nothing expires at once.
fn rank_of(collection: &PlannedCollection, step: &Step) -> usize {
    let before = |name: &str| {
        let seen = collection.indexes.iter().find(|index| index.name == name);
        seen.and_then(|index| index.spec.ttl_seconds)
    };
    match step {
        Step::Build { definition, .. } => match ListedIndex::read(definition.value()) {
            Ok(index) if collection.uuid.is_some() && index.spec.ttl_seconds.is_some_and(is_expiry) => 3,
            Ok(index) if !index.spec.unique => 0,
            _ => 1,
        },
        Step::SetTtl { name, seconds }
            if is_expiry(*seconds) && before(name).is_none_or(|before| *seconds < before) =>
        {
            3
        }
        Step::Drop { .. } => 2,
        _ => 1,
    }
}

/// Whether anything ever expires after so many seconds.
fn is_expiry(seconds: i64) -> bool {
    seconds < TTL_NEVER
}

/// Whether the documents are asked how many of them expire by a step.
fn is_counted(step: &Step, checks: &[Check]) -> bool {
    let after = match step {
        Step::Build { definition, .. } => {
            ListedIndex::read(definition.value()).ok().and_then(|index| index.spec.ttl_seconds)
        }
        Step::SetTtl { seconds, .. } => Some(*seconds),
        _ => None,
    };
    checks.iter().any(|check| matches!(check, Check::Expiry { seconds, .. } if Some(*seconds) == after))
}

fn flaw_of(collection: &PlannedCollection, planned: &PlannedChange) -> Option<String> {
    let change = &planned.change;
    let commands: Vec<Ejson> =
        change.steps.iter().flat_map(|step| step.commands(&collection.name)).map(Ejson::new).collect();
    if commands != planned.commands {
        return Some(format!("the commands for {} are not those of its steps", change.index));
    }
    if planned.is_done() && planned.answers.len() != change.checks.len() {
        return Some(format!("not every question about {} has its answer", change.index));
    }
    let mut known: BTreeSet<&str> = collection.indexes.iter().map(|index| index.name.as_str()).collect();
    for (number, step) in change.steps.iter().enumerate() {
        if ORDER[rank_of(collection, step)] == OPERATION_EXPIRE && !is_counted(step, &change.checks) {
            return Some(format!(
                "documents expire by `{} {}`, and nobody asks how many",
                step.verb(),
                step.index()
            ));
        }
        match step {
            Step::Build { name, definition } => match ListedIndex::read(definition.value()) {
                Ok(index) if index.name == *name && !index.is_id() => drop(known.insert(name)),
                _ => return Some(format!("{name} is not defined by what is to build it")),
            },
            step if !known.contains(step.index()) => {
                return Some(format!(
                    "`{} {}` is about an index that was not seen",
                    step.verb(),
                    step.index()
                ));
            }
            Step::Drop { name, definition } => {
                let is_seen = |index: &ListedIndex| index.name == *name && index.definition == *definition;
                if !collection.indexes.iter().any(|index| is_seen(index) && !index.is_id()) {
                    return Some(format!("{name} is dropped with another definition than it had"));
                }
                let is_hidden = collection.indexes.iter().any(|index| is_seen(index) && index.spec.hidden);
                if change.kind != ChangeKind::Rebuild && !is_hidden {
                    return Some(format!("{name} is dropped and was not hidden"));
                }
                let is_built = |step: &Step| matches!(step, Step::Build { .. });
                if !is_hidden && !change.steps[number + 1..].iter().any(is_built) {
                    return Some(format!("{name} is dropped and nothing is built in its place"));
                }
            }
            _ => {}
        }
    }
    match Collation::of_document(collection.collation.value()) {
        Ok(_) => None,
        Err(error) => Some(format!("the collation of {}: {error}", collection.name)),
    }
}

fn no_plan(why: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("the plan is refused: {why}"))
        .with_state("nothing was changed")
        .with_hint("make the plan again with `mainstay index plan --output FILE`")
}
