//! Deciding how each collection comes back. Reads the set and the target; writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_engine::{CollectionInfo, CollectionKind, DocumentSource, Namespace};
use mainstay_guard::operation;
use mainstay_model::{
    Assumption, Blake3, BlastRadius, ByteSize, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep,
    Result, ResultExt, SetId, Target,
};
use mainstay_repository::Set;
use serde::{Deserialize, Serialize};

use super::{OPERATION_DROP, OPERATION_MERGE, OPERATION_NEW};
use crate::Selection;
use crate::contents::{CollectionRecord, DocumentSetContents};

/// What may happen to collections that exist at the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreMode {
    /// None may exist.
    #[default]
    New,
    /// Existing ones are loaded into; documents that are there stay as they are.
    Merge,
    /// Existing ones are replaced.
    Drop,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Which collections of the set, by their names in the set.
    pub selection: Selection,
    /// Databases that come back under another name: from, to.
    pub database_renames: BTreeMap<String, String>,
    /// What may happen to what exists.
    pub mode: RestoreMode,
    /// How many objects are loaded at the same time; at least 1.
    pub load_count_max: usize,
}

/// How one collection comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The name is free: create, load, prove.
    Create,
    /// Load beside the existing collection, prove, then swap in one step.
    Swap,
    /// Drop what exists, then create and load: for views and time series, which the server cannot swap.
    DropFirst,
    /// Load into what exists; identical documents count as restored.
    Merge,
    /// A view of the same name exists and is kept.
    Keep,
}

/// One collection to restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Item {
    pub(super) source: Namespace,
    pub(super) target: Namespace,
    pub(super) way: Way,
}

/// The decided parameters of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    pub(super) set: SetId,
    pub(super) manifest: Blake3,
    pub(super) items: Vec<Item>,
    pub(super) load_count_max: usize,
}

impl Parameters {
    pub(super) fn of(plan: &Plan) -> Result<Self> {
        serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of a restore")
                .with_source(source)
        })
    }
}

/// Decides a restore of `set` into the server behind `source`.
///
/// # Errors
/// `Precondition` when the selection matches nothing, two collections would come back under one name, or a name is taken in
/// [`RestoreMode::New`]; `Corrupt` when the manifest is not readable.
pub async fn plan(
    set: &Set,
    source: &dyn DocumentSource,
    target: Target,
    request: &RestoreRequest,
    clock: &dyn Clock,
) -> Result<Plan> {
    let contents: DocumentSetContents = set.contents()?;
    request.selection.check_matches(
        contents
            .collections
            .iter()
            .map(|record| &record.namespace)
            .filter(|name| request.selection.includes(name)),
        &format!("set {}", set.id()),
    )?;
    let chosen: Vec<(&CollectionRecord, Namespace)> = contents
        .collections
        .iter()
        .filter(|record| request.selection.includes(&record.namespace))
        .map(|record| (record, renamed(&record.namespace, &request.database_renames)))
        .collect();
    check_renames(&chosen, &request.database_renames)?;
    check_distinct(&chosen)?;
    let existing = existing_collections(source, chosen.iter().map(|(_, target)| target)).await?;
    if request.mode == RestoreMode::New {
        check_absent(&chosen, &existing)?;
    }
    let items: Vec<Item> = chosen
        .iter()
        .map(|(record, name)| Item {
            source: record.namespace.clone(),
            target: name.clone(),
            way: way(record, existing.get(name), request.mode),
        })
        .collect();

    let mut assumptions = vec![manifest_assumption(set), server_assumption(&target)];
    assumptions.extend(items.iter().map(|item| target_assumption(&item.target, existing.get(&item.target))));
    let steps =
        chosen.iter().zip(&items).map(|((record, _), item)| step(record, item, existing.get(&item.target)));
    let operation_name = operation_of(&items);
    let created_at = clock.now();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: operation_name.to_owned(),
        effect: operation(operation_name).expect("restore operations are registered").effect,
        steps: steps.collect(),
        blast_radius: blast_radius(&items, &existing, &target),
        target,
        assumptions,
        parameters: serde_json::to_value(Parameters {
            set: set.id().clone(),
            manifest: set.manifest_blake3(),
            items,
            load_count_max: request.load_count_max.max(1),
        })
        .expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn renamed(namespace: &Namespace, renames: &BTreeMap<String, String>) -> Namespace {
    let database = renames.get(&namespace.database).unwrap_or(&namespace.database);
    Namespace::new(database, &namespace.collection)
}

fn check_renames(
    chosen: &[(&CollectionRecord, Namespace)],
    renames: &BTreeMap<String, String>,
) -> Result<()> {
    match renames.keys().find(|from| !chosen.iter().any(|(record, _)| record.namespace.database == **from)) {
        None => Ok(()),
        Some(from) => Err(Error::new(
            ErrorKind::Precondition,
            format!("nothing of database {from} is restored, so that it cannot be renamed"),
        )
        .with_state("nothing was changed")
        .with_hint("`mainstay backup show` lists the databases of the set")),
    }
}

fn check_distinct(chosen: &[(&CollectionRecord, Namespace)]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match chosen.iter().find(|(_, target)| !seen.insert(target)) {
        None => Ok(()),
        Some((_, target)) => Err(Error::new(
            ErrorKind::Precondition,
            format!("two collections of the set would come back as {target}"),
        )
        .with_state("nothing was changed")
        .with_hint("rename each database to a name of its own")),
    }
}

fn check_absent(
    chosen: &[(&CollectionRecord, Namespace)],
    existing: &BTreeMap<Namespace, CollectionInfo>,
) -> Result<()> {
    let taken: Vec<String> = chosen
        .iter()
        .filter(|(_, name)| existing.contains_key(name))
        .map(|(_, name)| name.to_string())
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Precondition, format!("{} exist already at the target", taken.join(", ")))
        .with_state("nothing was changed")
        .with_hint(
            "add `--into NAME` to restore into a new database, `--drop` to replace them, or `--merge` to load into them",
        ))
}

/// The collections among `names` that exist behind `source`.
pub(super) async fn existing_collections<'a>(
    source: &dyn DocumentSource,
    names: impl Iterator<Item = &'a Namespace>,
) -> Result<BTreeMap<Namespace, CollectionInfo>> {
    let names: BTreeSet<&Namespace> = names.collect();
    let databases: BTreeSet<&String> = names.iter().map(|name| &name.database).collect();
    let mut existing = BTreeMap::new();
    for database in databases {
        let found =
            source.collections(database).await.with_context(|| format!("list collections of {database}"))?;
        let wanted = found.into_iter().filter(|info| names.contains(&info.namespace));
        existing.extend(wanted.map(|info| (info.namespace.clone(), info)));
    }
    Ok(existing)
}

fn way(record: &CollectionRecord, existing: Option<&CollectionInfo>, mode: RestoreMode) -> Way {
    let Some(existing) = existing else { return Way::Create };
    let plain = |kind| kind == CollectionKind::Collection;
    match mode {
        RestoreMode::New => Way::Create,
        RestoreMode::Merge if record.kind == CollectionKind::View => Way::Keep,
        RestoreMode::Merge => Way::Merge,
        RestoreMode::Drop if plain(record.kind) && plain(existing.kind) => Way::Swap,
        RestoreMode::Drop => Way::DropFirst,
    }
}

fn operation_of(items: &[Item]) -> &'static str {
    let any = |ways: &[Way]| items.iter().any(|item| ways.contains(&item.way));
    if any(&[Way::Swap, Way::DropFirst]) {
        OPERATION_DROP
    } else if any(&[Way::Merge]) {
        OPERATION_MERGE
    } else {
        OPERATION_NEW
    }
}

/// The set is still the one that was planned with.
pub(super) fn manifest_assumption(set: &Set) -> Assumption {
    Assumption { name: format!("manifest of set {}", set.id()), value: set.manifest_blake3().to_string() }
}

/// The server is still the one that was planned for.
pub(super) fn server_assumption(target: &Target) -> Assumption {
    Assumption { name: "server".to_owned(), value: target.fingerprint.clone() }
}

/// The target name is still free, or still held by the same collection.
pub(super) fn target_assumption(name: &Namespace, existing: Option<&CollectionInfo>) -> Assumption {
    let value = match existing {
        None => "absent".to_owned(),
        Some(info) => match uuid(info) {
            Some(uuid) => format!("present, uuid {uuid}"),
            None => "present".to_owned(),
        },
    };
    Assumption { name: name.to_string(), value }
}

fn uuid(info: &CollectionInfo) -> Option<String> {
    let metadata: serde_json::Value = serde_json::from_str(&info.metadata).ok()?;
    Some(metadata.get("uuid")?.as_str()?.to_owned())
}

fn step(record: &CollectionRecord, item: &Item, existing: Option<&CollectionInfo>) -> PlanStep {
    let digest = record.digest();
    let size = match record.kind {
        CollectionKind::View => "view".to_owned(),
        CollectionKind::Collection | CollectionKind::TimeSeries => {
            format!("{} documents, {}", Count(digest.documents), ByteSize(digest.bytes))
        }
    };
    let old =
        existing.map_or(String::new(), |info| format!("about {} documents", Count(info.estimate.items)));
    let (mark, what) = match item.way {
        Way::Create => ('+', format!("create: {size}, {} indexes", record.index_count)),
        Way::Swap => ('-', format!("load {size} beside it, prove, then replace {old} in one step")),
        Way::DropFirst => {
            ('-', format!("drop {old} first, then create: {size}; until it is loaded, the name is empty"))
        }
        Way::Merge => ('~', format!("load {size} into {old}; documents with the same _id stay as they are")),
        Way::Keep => (' ', "keep the view that exists".to_owned()),
    };
    PlanStep { name: format!("restore {}", item.target), mark, summary: what }
}

fn blast_radius(
    items: &[Item],
    existing: &BTreeMap<Namespace, CollectionInfo>,
    target: &Target,
) -> BlastRadius {
    let touched = items
        .iter()
        .filter(|item| matches!(item.way, Way::Swap | Way::DropFirst | Way::Merge))
        .filter_map(|item| existing.get(&item.target));
    let (documents, bytes) = touched.fold((0, 0), |(documents, bytes), info| {
        (documents + info.estimate.items, bytes + info.estimate.bytes)
    });
    let databases: BTreeSet<&str> = items.iter().map(|item| item.target.database.as_str()).collect();
    let databases = databases.into_iter().collect::<Vec<_>>().join("+");
    BlastRadius {
        phrase: format!("restore {databases}@{} {} documents", target.environment, Count(documents)),
        items: documents,
        bytes,
    }
}
