//! Deciding how each collection comes back. Reads the repository and the target; writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_engine::{AccountStore, DocumentSource, Namespace};
use mainstay_model::{Assumption, Clock, Error, ErrorKind, Plan, PlanStep, Result, ResultExt, Target};
use mainstay_repository::Set;

use super::accounts;
use super::point::Point;
use super::wanted::Wanted;
use crate::Selection;
use crate::contents::DocumentSetContents;
use crate::placement::{Candidate, LogSpan, Mode, Origin, SHADOW_PREFIX, Wish, amount, changed, decide};

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
    pub mode: Mode,
    /// How many objects are loaded at the same time; at least 1.
    pub load_count_max: usize,
    /// Whether the set's users and roles are merged too: all of them, whatever collections are selected.
    pub accounts: bool,
    /// Put collections in place although the server describes them otherwise than the set: for another server version.
    pub accept_differences: bool,
}

/// Decides a restore of `basis` into the server behind `source`, whose users and roles are in `store`.
///
/// # Errors
/// `Precondition` when users and roles are asked for that the set does not hold; as [`AccountStore::compare_accounts`] then. `Precondition`,
/// too, when the selection matches nothing, two collections would come back under one name, a name is taken in
/// [`Mode::New`], or a log would be merged; `Corrupt` when the manifest is not readable.
pub async fn plan(
    basis: &Basis,
    source: &dyn DocumentSource,
    store: &dyn AccountStore,
    target: Target,
    request: &RestoreRequest,
    clock: &dyn Clock,
) -> Result<Plan> {
    let set = basis.set();
    let contents: DocumentSetContents = set.contents()?;
    check_mode(basis, request.mode)?;
    let chosen = choose(basis, &contents, request).await?;
    let candidates: Vec<Candidate> =
        chosen.iter().map(|(wanted, target)| candidate(wanted, target)).collect();
    let merge = match request.accounts {
        true => Some(accounts::read(set, &contents, store).await?.compare().await?),
        false => None,
    };
    let mut assumptions = vec![manifest_assumption(set)];
    if let Basis::Point(point) = basis {
        assumptions.extend(point.assumptions()?);
    }
    let wish = Wish {
        origin: Origin::Set {
            set: set.id().clone(),
            manifest: set.manifest_blake3(),
            accounts: request.accounts,
            log: basis.span(),
        },
        mode: request.mode,
        load_count_max: request.load_count_max,
        accept_differences: request.accept_differences,
        accounts: merge,
        assumptions,
    };
    let mut plan = decide(source, target, &candidates, wish, clock).await?;
    plan.steps.splice(0..0, basis.steps());
    plan.steps.splice(0..0, damage_known(set).await?);
    if let Basis::Point(_) = basis {
        let left = bystanders(source, &chosen, &request.selection).await?;
        plan.steps.extend(left.iter().map(left_alone));
    }
    Ok(plan)
}

/// A warning when the last verification of `set` found it damaged. It is none of the restore's reasons to stop: what is restored is read
/// and proven before anything is put in place.
async fn damage_known(set: &Set) -> Result<Option<PlanStep>> {
    let last = set.last_verification().await?;
    Ok(last.filter(|record| !record.is_sound()).map(|record| PlanStep {
        name: format!("WARNING: set {} is damaged", set.id()),
        mark: '-',
        summary: format!(
            "so its last verification found at {}; `mainstay backup verify {}` tells what",
            record.at,
            set.id()
        ),
    }))
}

fn candidate(wanted: &Wanted<'_>, target: &Namespace) -> Candidate {
    Candidate {
        source: wanted.namespace.clone(),
        target: target.clone(),
        kind: wanted.kind,
        metadata: wanted.metadata.clone(),
        amount: content(wanted),
    }
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
fn check_mode(basis: &Basis, mode: Mode) -> Result<()> {
    match (basis, mode) {
        (Basis::Point(_), Mode::Merge) => Err(Error::new(
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

/// The set is still the one that was planned with.
pub(super) fn manifest_assumption(set: &Set) -> Assumption {
    Assumption { name: format!("manifest of set {}", set.id()), value: set.manifest_blake3().to_string() }
}

/// `48,211 documents, 1.2 MB`, and with a log `then 5 inserts, 3 updates`.
fn content(wanted: &Wanted<'_>) -> String {
    let stored = amount(Some(wanted.digest()));
    let Some(log) = &wanted.log else { return stored };
    let changes = changed(&log.counts);
    match wanted.origin {
        Some(origin) if origin.namespace != wanted.namespace => {
            format!("{stored}, named {} in the set, then {changes}", origin.namespace)
        }
        Some(_) => format!("{stored}, then {changes}"),
        None => format!("created after the set, {changes}"),
    }
}
