//! Deciding how each collection comes back. Reads the set and the target; writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_engine::{
    CollectionInfo, CollectionKind, DocumentSource, Namespace, UNIDENTIFIED, metadata_differences,
};
use mainstay_guard::operation;
use mainstay_model::{
    Assumption, Blake3, BlastRadius, ByteSize, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep,
    Result, ResultExt, SetId, Target,
};
use mainstay_repository::Set;
use serde::{Deserialize, Serialize};

use super::{OPERATION_DROP, OPERATION_MERGE, OPERATION_NEW};
use crate::Selection;
use crate::contents::{CollectionRecord, DocumentSetContents, METADATA_BYTES_MAX};
use crate::selection::check_user_database;

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
    /// Put collections in place although the server describes them otherwise than the set: for another server version.
    pub accept_differences: bool,
}

/// How one collection comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The name is free: load beside it, prove, then give it the name; views and time series are made under it.
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
    /// Put collections in place although the server describes them otherwise than the set.
    pub(super) accept_differences: bool,
}

/// The most objects that may be loaded at the same time.
const LOAD_COUNT_MAX: usize = 64;

impl Parameters {
    /// The parameters of `plan`, which may have been edited: what they would do must be what the plan's operation says.
    ///
    /// # Errors
    /// `Usage` when they are not those of a restore, or contradict the plan.
    pub(super) fn of(plan: &Plan) -> Result<Self> {
        let parameters: Self = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of a restore")
                .with_source(source)
        })?;
        let Some(fault) = parameters.contradiction(plan) else { return Ok(parameters) };
        Err(Error::new(ErrorKind::Usage, format!("the plan contradicts itself: {fault}"))
            .with_state("nothing was changed")
            .with_hint("make the plan with `mainstay restore plan`; a plan is not to be edited"))
    }

    fn contradiction(&self, plan: &Plan) -> Option<&'static str> {
        let mut targets = BTreeSet::new();
        if operation_of(&self.items) != plan.operation {
            Some("its steps would do something else than its operation says")
        } else if self.items.is_empty() || !self.items.iter().all(|item| targets.insert(&item.target)) {
            Some("it restores nothing, or one collection twice")
        } else if !(1..=LOAD_COUNT_MAX).contains(&self.load_count_max) {
            Some("it loads no object, or too many, at the same time")
        } else if phrase(&self.items, &plan.target, plan.blast_radius.items) != plan.blast_radius.phrase {
            Some("the phrase to type does not say what is at stake")
        } else {
            None
        }
    }
}

/// The collections that `plan` would replace or load into: what a backup must hold before that is allowed.
///
/// # Errors
/// As for any use of a plan: `Usage` when it is no restore or contradicts itself.
pub fn replaced_namespaces(plan: &Plan) -> Result<Vec<Namespace>> {
    let parameters = Parameters::of(plan)?;
    let touched = |item: &Item| matches!(item.way, Way::Swap | Way::DropFirst | Way::Merge);
    Ok(parameters.items.into_iter().filter(touched).map(|item| item.target).collect())
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
    check_database_names(source, &chosen).await?;
    let existing = existing_collections(source, chosen.iter().map(|(_, target)| target)).await?;
    if request.mode == RestoreMode::New {
        check_absent(&chosen, &existing)?;
    }
    let mut items = Vec::with_capacity(chosen.len());
    let mut steps = Vec::with_capacity(chosen.len());
    for (record, name) in &chosen {
        let metadata = read_metadata(set, record).await?;
        let standing = existing.get(name);
        let way = way(record, &metadata, standing, request.mode);
        check_kinds(record, standing, way)?;
        let item = Item { source: record.namespace.clone(), target: name.clone(), way };
        steps.push(step(record, &metadata, &item, standing));
        items.push(item);
    }

    let mut assumptions = vec![manifest_assumption(set), server_assumption(&target)];
    assumptions.extend(items.iter().map(|item| target_assumption(&item.target, existing.get(&item.target))));
    let operation_name = operation_of(&items);
    check_identified(&target, operation_name)?;
    let created_at = clock.now();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: operation_name.to_owned(),
        effect: operation(operation_name).expect("restore operations are registered").effect,
        steps,
        blast_radius: blast_radius(&items, &existing, &target),
        target,
        assumptions,
        parameters: serde_json::to_value(Parameters {
            set: set.id().clone(),
            manifest: set.manifest_blake3(),
            items,
            load_count_max: request.load_count_max.clamp(1, LOAD_COUNT_MAX),
            accept_differences: request.accept_differences,
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

/// Refuses database names that the server would refuse later, half-way: malformed ones, and ones that differ from another's only in case.
async fn check_database_names(
    source: &dyn DocumentSource,
    chosen: &[(&CollectionRecord, Namespace)],
) -> Result<()> {
    let names: BTreeSet<&str> = chosen.iter().map(|(_, target)| target.database.as_str()).collect();
    names.iter().try_for_each(|name| check_user_database(name))?;
    let existing = source.databases().await.context("list databases")?;
    for name in names {
        let same_but_case =
            |other: &&String| other.as_str() != name && other.to_lowercase() == name.to_lowercase();
        if let Some(other) = existing.iter().find(same_but_case) {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("database {name} cannot be made beside {other}: their names differ only in case"),
            )
            .with_state("nothing was changed")
            .with_hint("choose another name with `--into NAME`"));
        }
    }
    Ok(())
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

/// Options and indexes of a collection of the set, as text.
///
/// # Errors
/// `Corrupt` when the object is damaged or no text.
pub(super) async fn read_metadata(set: &Set, record: &CollectionRecord) -> Result<String> {
    let bytes = set.read_all(&record.metadata, METADATA_BYTES_MAX).await.context("read metadata")?;
    String::from_utf8(bytes.into())
        .map_err(|source| Error::new(ErrorKind::Corrupt, "metadata is not UTF-8").with_source(source))
}

fn way(
    record: &CollectionRecord,
    metadata: &str,
    existing: Option<&CollectionInfo>,
    mode: RestoreMode,
) -> Way {
    let Some(existing) = existing else { return Way::Create };
    let plain = |kind| kind == CollectionKind::Collection;
    let same_view = || {
        record.kind == CollectionKind::View
            && existing.kind == CollectionKind::View
            && metadata_differences(metadata, &existing.metadata).is_empty()
    };
    match mode {
        RestoreMode::Drop if same_view() => Way::Keep,
        RestoreMode::New => Way::Create,
        RestoreMode::Merge if record.kind == CollectionKind::View => Way::Keep,
        RestoreMode::Merge => Way::Merge,
        RestoreMode::Drop if plain(record.kind) && plain(existing.kind) => Way::Swap,
        RestoreMode::Drop => Way::DropFirst,
    }
}

/// Refuses to replace or load into anything on a server that cannot be told from others.
fn check_identified(target: &Target, operation_name: &str) -> Result<()> {
    if operation_name == OPERATION_NEW || !target.fingerprint.starts_with(UNIDENTIFIED) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        format!("the server at {} cannot be told from others: this user may see nothing that identifies it", target.address),
    )
    .with_state("nothing was changed")
    .with_hint("mark the environment (`mainstay environment mark --store mongo`), or restore as a user who may run replSetGetConfig"))
}

/// Loading into something of another kind would make something that neither was.
fn check_kinds(record: &CollectionRecord, existing: Option<&CollectionInfo>, way: Way) -> Result<()> {
    let Some(existing) = existing.filter(|existing| existing.kind != record.kind) else { return Ok(()) };
    if !matches!(way, Way::Merge | Way::Keep) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        format!(
            "{} cannot be merged: it is not of the same kind as {} in the set",
            existing.namespace, record.namespace
        ),
    )
    .with_state("nothing was changed")
    .with_hint("leave it out, restore with `--into NAME`, or replace it with `--drop`"))
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

/// The identity that the server gave a collection; views and time series have none.
pub(super) fn uuid(info: &CollectionInfo) -> Option<String> {
    let metadata: serde_json::Value = serde_json::from_str(&info.metadata).ok()?;
    Some(metadata.get("uuid")?.as_str()?.to_owned())
}

/// Whether the collection has an index that deletes by age.
fn has_ttl_index(metadata: &str) -> bool {
    let metadata: serde_json::Value = serde_json::from_str(metadata).unwrap_or_default();
    let indexes = metadata.get("indexes").and_then(serde_json::Value::as_array);
    indexes.is_some_and(|indexes| indexes.iter().any(|index| index.get("expireAfterSeconds").is_some()))
}

fn step(
    record: &CollectionRecord,
    metadata: &str,
    item: &Item,
    existing: Option<&CollectionInfo>,
) -> PlanStep {
    let digest = record.digest();
    let expiring = if has_ttl_index(metadata) { "; the server deletes expired ones again" } else { "" };
    let size = match record.kind {
        CollectionKind::View => "view".to_owned(),
        CollectionKind::Collection | CollectionKind::TimeSeries => {
            format!("{} documents, {}{expiring}", Count(digest.documents), ByteSize(digest.bytes))
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

/// Documents and bytes that exist now and would be replaced or loaded into.
pub(super) fn stake(items: &[Item], existing: &BTreeMap<Namespace, CollectionInfo>) -> (u64, u64) {
    let touched = items
        .iter()
        .filter(|item| matches!(item.way, Way::Swap | Way::DropFirst | Way::Merge))
        .filter_map(|item| existing.get(&item.target));
    touched.fold((0_u64, 0_u64), |(documents, bytes), info| {
        (documents.saturating_add(info.estimate.items), bytes.saturating_add(info.estimate.bytes))
    })
}

fn blast_radius(
    items: &[Item],
    existing: &BTreeMap<Namespace, CollectionInfo>,
    target: &Target,
) -> BlastRadius {
    let (documents, bytes) = stake(items, existing);
    BlastRadius { phrase: phrase(items, target, documents), items: documents, bytes }
}

/// What a person types to consent.
fn phrase(items: &[Item], target: &Target, documents: u64) -> String {
    let databases: BTreeSet<&str> = items.iter().map(|item| item.target.database.as_str()).collect();
    let databases = databases.into_iter().collect::<Vec<_>>().join("+");
    format!("restore {databases}@{} {} documents", target.environment, Count(documents))
}

#[cfg(test)]
mod tests {
    use mainstay_model::{EnvironmentClass, StoreKind};

    use super::*;

    #[test]
    fn nothing_is_destroyed_on_a_server_that_could_be_another() {
        let target = |fingerprint: &str| Target {
            environment: "shop".to_owned(),
            class: EnvironmentClass::Development,
            store: StoreKind::Mongo,
            fingerprint: fingerprint.to_owned(),
            address: "127.0.0.1:27017".to_owned(),
        };
        let unknown = target("unidentified replica set rs0");
        assert!(check_identified(&unknown, OPERATION_NEW).is_ok());
        assert!(check_identified(&unknown, OPERATION_DROP).is_err());
        assert!(check_identified(&unknown, OPERATION_MERGE).is_err());
        assert!(check_identified(&target("replica-set-65"), OPERATION_DROP).is_ok());
    }
}
