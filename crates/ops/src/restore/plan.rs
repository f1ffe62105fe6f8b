//! Deciding how each collection comes back. Reads the repository and the target; writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_engine::{
    ChangeCounts, CollectionInfo, CollectionKind, DocumentSource, Namespace, UNIDENTIFIED,
    metadata_differences,
};
use mainstay_guard::operation;
use mainstay_model::{
    Assumption, Blake3, BlastRadius, ByteSize, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep,
    Result, ResultExt, SetId, Target,
};
use mainstay_repository::Set;
use serde::{Deserialize, Serialize};

use super::log::LogSpan;
use super::point::Point;
use super::wanted::Wanted;
use super::{OPERATION_DROP, OPERATION_MERGE, OPERATION_NEW, SHADOW_PREFIX};
use crate::Selection;
use crate::contents::DocumentSetContents;
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

/// What is restored.
pub enum Basis {
    /// A set, as it is.
    Set(Set),
    /// A set, brought forward by the change log to a moment.
    Point(Box<Point>),
}

/// Under which names databases come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renames {
    /// Each of these under another name: from, to. All others under their own.
    Each(BTreeMap<String, String>),
    /// The one database that is restored, under this name.
    Into(String),
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Which collections, by their names in the set, or at the moment restored to.
    pub selection: Selection,
    /// Databases that come back under another name.
    pub renames: Renames,
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
    /// Plans of older versions do not say it.
    #[serde(default = "plain")]
    pub(super) kind: CollectionKind,
    pub(super) way: Way,
}

fn plain() -> CollectionKind {
    CollectionKind::Collection
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
    /// The log that brings the set to a moment; none for the set as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) log: Option<LogSpan>,
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
        } else if self.log.is_some() && self.items.iter().any(|item| item.way == Way::Merge) {
            Some("it would replay a log into documents of another beginning")
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

/// Decides a restore of `basis` into the server behind `source`.
///
/// # Errors
/// `Precondition` when the selection matches nothing, two collections would come back under one name, a name is taken in
/// [`RestoreMode::New`], or a log would be merged; `Corrupt` when the manifest is not readable.
pub async fn plan(
    basis: &Basis,
    source: &dyn DocumentSource,
    target: Target,
    request: &RestoreRequest,
    clock: &dyn Clock,
) -> Result<Plan> {
    let set = basis.set();
    let contents: DocumentSetContents = set.contents()?;
    check_mode(basis, request.mode)?;
    let chosen = choose(basis, &contents, request).await?;
    check_distinct(&chosen)?;
    check_database_names(source, &chosen).await?;
    let existing = existing_collections(source, chosen.iter().map(|(_, target)| target)).await?;
    if request.mode == RestoreMode::New {
        check_absent(&chosen, &existing)?;
    }
    let mut items = Vec::with_capacity(chosen.len());
    let mut steps = basis.steps();
    for (wanted, name) in &chosen {
        let standing = existing.get(name);
        let way = way(wanted, standing, request.mode);
        check_kinds(wanted, standing, way)?;
        let item = Item { source: wanted.namespace.clone(), target: name.clone(), kind: wanted.kind, way };
        steps.push(step(wanted, &item, standing));
        items.push(item);
    }
    if let Basis::Point(_) = basis {
        steps.extend(bystanders(source, &chosen, &request.selection).await?.iter().map(left_alone));
    }

    let mut assumptions = vec![manifest_assumption(set), server_assumption(&target)];
    if let Basis::Point(point) = basis {
        assumptions.extend(point.assumptions()?);
    }
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
            log: basis.span(),
        })
        .expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

impl Basis {
    fn set(&self) -> &Set {
        match self {
            Self::Set(set) => set,
            Self::Point(point) => &point.set,
        }
    }

    fn span(&self) -> Option<LogSpan> {
        match self {
            Self::Set(_) => None,
            Self::Point(point) => Some(point.span().clone()),
        }
    }

    /// What is read before anything is written.
    fn steps(&self) -> Vec<PlanStep> {
        match self {
            Self::Set(_) => Vec::new(),
            Self::Point(point) => point.steps(),
        }
    }
}

/// A log speaks of the documents of its own beginning, not of those that somebody has now.
fn check_mode(basis: &Basis, mode: RestoreMode) -> Result<()> {
    match (basis, mode) {
        (Basis::Point(_), RestoreMode::Merge) => Err(Error::new(
            ErrorKind::Precondition,
            "a moment cannot be merged into what exists: the log goes on from the set's documents, not from those that stand there",
        )
        .with_state("nothing was changed")
        .with_hint("restore `--into NAME` and copy what you need, or replace with `--drop`")),
        _ => Ok(()),
    }
}

/// What is restored, and under which name, in the order of the basis.
async fn choose<'a>(
    basis: &Basis,
    contents: &'a DocumentSetContents,
    request: &RestoreRequest,
) -> Result<Vec<(Wanted<'a>, Namespace)>> {
    let selection = &request.selection;
    let offered: Vec<&Namespace> = match basis {
        Basis::Set(_) => contents.collections.iter().map(|record| &record.namespace).collect(),
        Basis::Point(point) => point.collections(contents).map(|found| &found.namespace).collect(),
    };
    let selected: Vec<&Namespace> = offered.into_iter().filter(|name| selection.includes(name)).collect();
    selection.check_matches(selected.iter().copied(), &basis.place())?;
    if let Basis::Point(point) = basis {
        check_held(point, contents, selection)?;
    }
    let renames = renames(&request.renames, &selected)?;
    let mut chosen = Vec::with_capacity(selected.len());
    match basis {
        Basis::Set(set) => {
            for record in contents.collections.iter().filter(|record| selection.includes(&record.namespace)) {
                let wanted = Wanted::of_record(set, record).await?;
                chosen.push((wanted, renamed(&record.namespace, &renames)));
            }
        }
        Basis::Point(point) => {
            for found in point.collections(contents).filter(|found| selection.includes(&found.namespace)) {
                let wanted = Wanted::of_point(contents, found)?;
                chosen.push((wanted, renamed(&found.namespace, &renames)));
            }
        }
    }
    Ok(chosen)
}

/// Refuses what existed at the moment, belongs to what was backed up, and cannot be made again, because the set does not hold it: it was
/// renamed there from elsewhere.
fn check_held(point: &Point, contents: &DocumentSetContents, selection: &Selection) -> Result<()> {
    let lost: Vec<String> =
        point.foreign(contents).filter(|name| selection.includes(name)).map(ToString::to_string).collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        format!(
            "{} existed {}, but set {} does not hold its documents",
            lost.join(", "),
            point.span(),
            point.set.id()
        ),
    )
    .with_state("nothing was changed")
    .with_hint(
        "choose what to restore with `--collection`, name a newer set, or take a new backup of everything",
    ))
}

impl Basis {
    /// Where a selection is looked up, for people.
    fn place(&self) -> String {
        match self {
            Self::Set(set) => format!("set {}", set.id()),
            Self::Point(point) => format!("the set and its log {}", point.span()),
        }
    }
}

/// The databases that come back under another name, each of which must be among those of `selected`.
fn renames(asked: &Renames, selected: &[&Namespace]) -> Result<BTreeMap<String, String>> {
    let databases: BTreeSet<&String> = selected.iter().map(|name| &name.database).collect();
    match asked {
        Renames::Each(renames) => match renames.keys().find(|from| !databases.contains(from)) {
            None => Ok(renames.clone()),
            Some(from) => Err(Error::new(
                ErrorKind::Precondition,
                format!("nothing of database {from} is restored, so that it cannot be renamed"),
            )
            .with_state("nothing was changed")
            .with_hint("`mainstay backup show` lists the databases of the set")),
        },
        Renames::Into(into) => match databases.len() {
            0 | 1 => Ok(databases.into_iter().map(|from| (from.clone(), into.clone())).collect()),
            many => Err(Error::new(
                ErrorKind::Usage,
                format!("--into names one database, the selection holds {many}"),
            )
            .with_state("nothing was changed")
            .with_hint("choose one with `--database NAME`, or rename each with `--rename from=to`")),
        },
    }
}

fn renamed(namespace: &Namespace, renames: &BTreeMap<String, String>) -> Namespace {
    let database = renames.get(&namespace.database).unwrap_or(&namespace.database);
    Namespace::new(database, &namespace.collection)
}

fn check_distinct(chosen: &[(Wanted<'_>, Namespace)]) -> Result<()> {
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

/// Collections that stand in databases restored whole, under names that nothing had at the moment: made later, and none of the restore's
/// business.
async fn bystanders(
    source: &dyn DocumentSource,
    chosen: &[(Wanted<'_>, Namespace)],
    selection: &Selection,
) -> Result<Vec<Namespace>> {
    let whole = |database: &String| selection.is_everything() || selection.databases.contains(database);
    let databases: BTreeSet<&String> = chosen
        .iter()
        .filter(|(wanted, _)| whole(&wanted.namespace.database))
        .map(|(_, target)| &target.database)
        .collect();
    let restored: BTreeSet<&Namespace> = chosen.iter().map(|(_, target)| target).collect();
    let mut left = Vec::new();
    for database in databases {
        let found =
            source.collections(database).await.with_context(|| format!("list collections of {database}"))?;
        let names = found.into_iter().map(|info| info.namespace);
        left.extend(
            names.filter(|name| !restored.contains(name) && !name.collection.starts_with(SHADOW_PREFIX)),
        );
    }
    Ok(left)
}

fn left_alone(name: &Namespace) -> PlanStep {
    PlanStep {
        name: format!("leave {name}"),
        mark: ' ',
        summary: "nothing had this name at that moment; it stays as it is".to_owned(),
    }
}

/// Refuses database names that the server would refuse later, half-way: malformed ones, and ones that differ from another's only in case.
async fn check_database_names(source: &dyn DocumentSource, chosen: &[(Wanted<'_>, Namespace)]) -> Result<()> {
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
    chosen: &[(Wanted<'_>, Namespace)],
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

fn way(wanted: &Wanted<'_>, existing: Option<&CollectionInfo>, mode: RestoreMode) -> Way {
    let Some(existing) = existing else { return Way::Create };
    let same_view = || {
        wanted.kind == CollectionKind::View
            && existing.kind == CollectionKind::View
            && metadata_differences(&wanted.metadata, &existing.metadata).is_empty()
    };
    match mode {
        RestoreMode::Drop if same_view() => Way::Keep,
        RestoreMode::New => Way::Create,
        RestoreMode::Merge if wanted.kind == CollectionKind::View => Way::Keep,
        RestoreMode::Merge => Way::Merge,
        RestoreMode::Drop if wanted.is_plain() && existing.kind == CollectionKind::Collection => Way::Swap,
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
fn check_kinds(wanted: &Wanted<'_>, existing: Option<&CollectionInfo>, way: Way) -> Result<()> {
    let Some(existing) = existing.filter(|existing| existing.kind != wanted.kind) else { return Ok(()) };
    if !matches!(way, Way::Merge | Way::Keep) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        format!(
            "{} cannot be merged: it is not of the same kind as {} in the set",
            existing.namespace, wanted.namespace
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
        Some(info) => match &info.identity {
            Some(identity) => format!("present, uuid {}", identity.0),
            None => "present".to_owned(),
        },
    };
    Assumption { name: name.to_string(), value }
}

fn step(wanted: &Wanted<'_>, item: &Item, existing: Option<&CollectionInfo>) -> PlanStep {
    let expiring = if wanted.has_ttl_index() { "; the server deletes expired ones again" } else { "" };
    let size = match wanted.kind {
        CollectionKind::View => "view".to_owned(),
        CollectionKind::Collection | CollectionKind::TimeSeries => format!("{}{expiring}", content(wanted)),
    };
    let old =
        existing.map_or(String::new(), |info| format!("about {} documents", Count(info.estimate.items)));
    let (mark, what) = match item.way {
        Way::Create => ('+', format!("create: {size}, {} indexes", wanted.index_count())),
        Way::Swap => ('-', format!("load {size} beside it, prove, then replace {old} in one step")),
        Way::DropFirst => {
            ('-', format!("drop {old} first, then create: {size}; until it is loaded, the name is empty"))
        }
        Way::Merge => ('~', format!("load {size} into {old}; documents with the same _id stay as they are")),
        Way::Keep => (' ', "keep the view that exists".to_owned()),
    };
    PlanStep { name: format!("restore {}", item.target), mark, summary: what }
}

/// `48,211 documents, 1.2 MB`, and with a log `then 5 inserts, 3 updates`.
fn content(wanted: &Wanted<'_>) -> String {
    let digest = wanted.digest();
    let stored = format!("{} documents, {}", Count(digest.documents), ByteSize(digest.bytes));
    let Some(log) = &wanted.log else { return stored };
    let changes = changes(&log.counts);
    match wanted.origin {
        Some(origin) if origin.namespace != wanted.namespace => {
            format!("{stored}, named {} in the set, then {changes}", origin.namespace)
        }
        Some(_) => format!("{stored}, then {changes}"),
        None => format!("created after the set, {changes}"),
    }
}

fn changes(counts: &ChangeCounts) -> String {
    let named = [(counts.inserts, "inserts"), (counts.updates, "updates"), (counts.deletes, "deletes")];
    let told: Vec<String> = named
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{} {name}", Count(count)))
        .collect();
    if told.is_empty() { "no changes".to_owned() } else { told.join(", ") }
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
