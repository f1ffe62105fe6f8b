//! Deciding how each collection comes to the server, whatever it comes from. Reads the server; writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_engine::{
    AccountMerge, ChangeCounts, CollectionInfo, CollectionKind, DocumentDigest, DocumentSource, Namespace,
    UNIDENTIFIED, metadata_differences,
};
use mainstay_guard::operation;
use mainstay_model::{
    Assumption, BlastRadius, ByteSize, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result,
    ResultExt, Target,
};
use serde::{Deserialize, Serialize};

use super::accounts;
use super::origin::Origin;
use crate::contents::Needed;
use crate::selection::check_user_database;

/// What may happen to collections that exist at the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// None may exist.
    #[default]
    New,
    /// Existing ones are loaded into; documents that are there stay as they are.
    Merge,
    /// Existing ones are replaced.
    Drop,
}

/// How one collection comes to the server.
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

/// One collection to bring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Item {
    pub(crate) source: Namespace,
    pub(crate) target: Namespace,
    pub(crate) kind: CollectionKind,
    pub(crate) way: Way,
}

/// The decided parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameters {
    pub(crate) origin: Origin,
    pub(crate) items: Vec<Item>,
    pub(crate) load_count_max: usize,
    /// Put collections in place although the server describes them otherwise than the origin.
    pub(crate) accept_differences: bool,
    /// Whom merging users and roles touches, when the origin's are merged: nobody else may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) accounts: Option<AccountMerge>,
}

/// A collection that is to come, as far as deciding needs it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) source: Namespace,
    pub(crate) target: Namespace,
    pub(crate) kind: CollectionKind,
    /// Options and indexes that it must have in the end.
    pub(crate) metadata: String,
    /// What comes, in words: see [`amount`].
    pub(crate) amount: String,
}

impl Candidate {
    fn is_plain(&self) -> bool {
        self.kind == CollectionKind::Collection
    }

    fn indexes(&self) -> Vec<serde_json::Value> {
        let metadata: serde_json::Value = serde_json::from_str(&self.metadata).unwrap_or_default();
        metadata.get("indexes").and_then(serde_json::Value::as_array).cloned().unwrap_or_default()
    }

    /// Whether it has an index that deletes by age.
    fn has_ttl_index(&self) -> bool {
        self.indexes().iter().any(|index| index.get("expireAfterSeconds").is_some())
    }
}

/// Documents in words: `48,211 documents, 1.2 MB`. They may not be known before they come.
pub(crate) fn amount(digest: Option<DocumentDigest>) -> String {
    match digest {
        Some(digest) => format!("{} documents, {}", Count(digest.documents), ByteSize(digest.bytes)),
        None => "as many documents as come".to_owned(),
    }
}

/// What a log does, in words: `5 inserts, 3 updates`.
pub(crate) fn changed(counts: &ChangeCounts) -> String {
    let named = [(counts.inserts, "inserts"), (counts.updates, "updates"), (counts.deletes, "deletes")];
    let told: Vec<String> = named
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{} {name}", Count(count)))
        .collect();
    if told.is_empty() { "no changes".to_owned() } else { told.join(", ") }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) origin: Origin,
    pub(crate) mode: Mode,
    pub(crate) load_count_max: usize,
    pub(crate) accept_differences: bool,
    /// What merging the origin's users and roles does, when they are asked for.
    pub(crate) accounts: Option<AccountMerge>,
    /// What the plan takes for granted of the origin.
    pub(crate) assumptions: Vec<Assumption>,
}

/// The most objects that may be loaded at the same time.
const LOAD_COUNT_MAX: usize = 64;

impl Parameters {
    /// The parameters of `plan`, which may have been edited: what they would do must be what the plan's operation says.
    ///
    /// # Errors
    /// `Usage` when they are not those of a restore, or contradict the plan.
    pub(crate) fn of(plan: &Plan) -> Result<Self> {
        let parameters: Self = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of a restore or load")
                .with_source(source)
        })?;
        let Some(fault) = parameters.contradiction(plan) else { return Ok(parameters) };
        Err(Error::new(ErrorKind::Usage, format!("the plan contradicts itself: {fault}"))
            .with_state("nothing was changed")
            .with_hint("make the plan again; a plan is not to be edited"))
    }

    fn contradiction(&self, plan: &Plan) -> Option<&'static str> {
        let mut targets = BTreeSet::new();
        if operation_of(&self.origin, &self.items) != plan.operation {
            Some("its steps would do something else than its operation says")
        } else if !self.origin.merges_accounts() && self.items.is_empty()
            || !self.items.iter().all(|item| targets.insert(&item.target))
        {
            Some("it brings nothing, or one collection twice")
        } else if self.origin.merges_accounts() != self.accounts.is_some() {
            Some("it does not say which users and roles it touches")
        } else if self.origin.has_log() && self.items.iter().any(|item| item.way == Way::Merge) {
            Some("it would replay a log into documents of another beginning")
        } else if !(1..=LOAD_COUNT_MAX).contains(&self.load_count_max) {
            Some("it loads no object, or too many, at the same time")
        } else if phrase(&self.origin, &self.items, &plan.target, plan.blast_radius.items)
            != plan.blast_radius.phrase
        {
            Some("the phrase to type does not say what is at stake")
        } else {
            None
        }
    }

    /// Documents, users and roles, and bytes of documents, that exist now and would be replaced or loaded into.
    pub(super) fn stake(&self, existing: &BTreeMap<Namespace, CollectionInfo>) -> (u64, u64) {
        let touched =
            self.items.iter().filter(|item| item.touches()).filter_map(|item| existing.get(&item.target));
        let accounts = self.accounts.as_ref().map_or(0, |merge| merge.replaced.len() as u64);
        touched.fold((accounts, 0_u64), |(items, bytes), info| {
            (items.saturating_add(info.estimate.items), bytes.saturating_add(info.estimate.bytes))
        })
    }
}

impl Item {
    /// Whether it replaces or loads into what exists.
    fn touches(&self) -> bool {
        matches!(self.way, Way::Swap | Way::DropFirst | Way::Merge)
    }
}

/// What `plan` would replace or load into: what a backup must hold before that is allowed.
///
/// # Errors
/// As for any use of a plan: `Usage` when it is no restore or contradicts itself.
pub fn needed_backup(plan: &Plan) -> Result<Needed> {
    let Parameters { origin, items, .. } = Parameters::of(plan)?;
    Ok(Needed {
        namespaces: items.into_iter().filter(Item::touches).map(|item| item.target).collect(),
        accounts: origin.merges_accounts(),
    })
}

/// Decides how `candidates` come to the server behind `source`.
///
/// # Errors
/// `Precondition` when two of them would have one name, a name cannot be, or is taken in [`Mode::New`].
pub(crate) async fn decide(
    source: &dyn DocumentSource,
    target: Target,
    candidates: &[Candidate],
    wish: Wish,
    clock: &dyn Clock,
) -> Result<Plan> {
    let Wish { origin, mode, load_count_max, accept_differences, accounts, mut assumptions } = wish;
    check_distinct(&origin, candidates)?;
    check_database_names(source, &origin, candidates).await?;
    let existing = existing_collections(source, candidates.iter().map(|candidate| &candidate.target)).await?;
    if mode == Mode::New {
        check_absent(&origin, candidates, &existing)?;
    }
    let mut items = Vec::with_capacity(candidates.len());
    let mut steps = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let standing = existing.get(&candidate.target);
        let way = way(candidate, standing, mode);
        check_kinds(&origin, candidate, standing, way)?;
        let Candidate { source, target, kind, .. } = candidate.clone();
        let item = Item { source, target, kind, way };
        steps.push(step(&origin, candidate, &item, standing));
        items.push(item);
    }
    if let Some(merge) = &accounts {
        steps.extend(accounts::steps(&origin, merge));
        assumptions.push(accounts::assumption(merge));
    }
    assumptions.push(server_assumption(&target));
    assumptions.extend(items.iter().map(|item| target_assumption(&item.target, existing.get(&item.target))));
    let operation_name = operation_of(&origin, &items);
    check_identified(&target, &origin, operation_name)?;
    let load_count_max = load_count_max.clamp(1, LOAD_COUNT_MAX);
    let parameters = Parameters { origin, items, load_count_max, accept_differences, accounts };
    let created_at = clock.now();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: operation_name.to_owned(),
        effect: operation(operation_name).expect("these operations are registered").effect,
        steps,
        blast_radius: blast_radius(&parameters, &existing, &target),
        target,
        assumptions,
        parameters: serde_json::to_value(parameters).expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn check_distinct(origin: &Origin, candidates: &[Candidate]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match candidates.iter().find(|candidate| !seen.insert(&candidate.target)) {
        None => Ok(()),
        Some(Candidate { target, .. }) => Err(Error::new(
            ErrorKind::Precondition,
            format!("two collections of the {} would come as {target}", origin.noun()),
        )
        .with_state("nothing was changed")
        .with_hint("give each a name of its own")),
    }
}

/// Refuses database names that the server would refuse later, half-way: malformed ones, and ones that differ from another's only in case.
async fn check_database_names(
    source: &dyn DocumentSource,
    origin: &Origin,
    candidates: &[Candidate],
) -> Result<()> {
    let names: BTreeSet<&str> =
        candidates.iter().map(|candidate| candidate.target.database.as_str()).collect();
    names.iter().try_for_each(|name| check_user_database(name))?;
    let existing = source.databases().await.context("list databases")?;
    let Some((name, other)) = same_but_case(&names, &existing) else { return Ok(()) };
    Err(Error::new(
        ErrorKind::Precondition,
        format!("database {name} cannot be made beside {other}: their names differ only in case"),
    )
    .with_state("nothing was changed")
    .with_hint(format!("choose another name with {}", origin.elsewhere())))
}

/// One of `names` and another name, of these or of the `existing`, that differs from it only in case.
fn same_but_case<'a>(names: &BTreeSet<&'a str>, existing: &'a [String]) -> Option<(&'a str, &'a str)> {
    let others = || existing.iter().map(String::as_str).chain(names.iter().copied());
    names.iter().find_map(|name| {
        let is_twin = |other: &&str| other != name && other.to_lowercase() == name.to_lowercase();
        others().find(is_twin).map(|other| (*name, other))
    })
}

fn check_absent(
    origin: &Origin,
    candidates: &[Candidate],
    existing: &BTreeMap<Namespace, CollectionInfo>,
) -> Result<()> {
    let taken: Vec<String> = candidates
        .iter()
        .map(|candidate| &candidate.target)
        .filter(|name| existing.contains_key(name))
        .map(ToString::to_string)
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Precondition, format!("{} exist already at the target", taken.join(", ")))
        .with_state("nothing was changed")
        .with_hint(ways_past_what_exists(origin)))
}

/// What to add to the command when names are taken. A log is replayed into new collections alone, so nothing with a log can be merged.
fn ways_past_what_exists(origin: &Origin) -> String {
    let (elsewhere, verb) = (origin.elsewhere(), origin.verb());
    let beside = format!("add {elsewhere} to {verb} into a new database");
    if origin.has_log() {
        format!("{beside}, or `--drop` to replace them")
    } else {
        format!("{beside}, `--drop` to replace them, or `--merge` to load into them")
    }
}

/// The collections among `names` that exist behind `source`.
pub(crate) async fn existing_collections<'a>(
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

fn way(candidate: &Candidate, existing: Option<&CollectionInfo>, mode: Mode) -> Way {
    let Some(existing) = existing else { return Way::Create };
    let same_view = || {
        candidate.kind == CollectionKind::View
            && existing.kind == CollectionKind::View
            && metadata_differences(&candidate.metadata, &existing.metadata).is_empty()
    };
    match mode {
        Mode::Drop if same_view() => Way::Keep,
        Mode::New => Way::Create,
        Mode::Merge if candidate.kind == CollectionKind::View => Way::Keep,
        Mode::Merge => Way::Merge,
        Mode::Drop if candidate.is_plain() && existing.kind == CollectionKind::Collection => Way::Swap,
        Mode::Drop => Way::DropFirst,
    }
}

/// Refuses to replace or load into anything on a server that cannot be told from others.
fn check_identified(target: &Target, origin: &Origin, operation_name: &str) -> Result<()> {
    if operation_name == origin.operations()[0] || !target.fingerprint.starts_with(UNIDENTIFIED) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        format!("the server at {} cannot be told from others: this user may see nothing that identifies it", target.address),
    )
    .with_state("nothing was changed")
    .with_hint("mark the environment (`mainstay environment mark --store mongo`), or work as a user who may run replSetGetConfig"))
}

/// Loading into something of another kind would make something that neither was.
fn check_kinds(
    origin: &Origin,
    candidate: &Candidate,
    existing: Option<&CollectionInfo>,
    way: Way,
) -> Result<()> {
    let Some(existing) = existing.filter(|existing| existing.kind != candidate.kind) else { return Ok(()) };
    if !matches!(way, Way::Merge | Way::Keep) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        format!(
            "{} cannot be merged: it is not of the same kind as {} in the {}",
            existing.namespace,
            candidate.source,
            origin.noun()
        ),
    )
    .with_state("nothing was changed")
    .with_hint(format!(
        "leave it out, name it otherwise with {}, or replace it with `--drop`",
        origin.elsewhere()
    )))
}

fn operation_of(origin: &Origin, items: &[Item]) -> &'static str {
    let [new, merge, drop] = origin.operations();
    let any = |ways: &[Way]| items.iter().any(|item| ways.contains(&item.way));
    if any(&[Way::Swap, Way::DropFirst]) {
        drop
    } else if any(&[Way::Merge]) || origin.merges_accounts() {
        merge
    } else {
        new
    }
}

/// The server is still the one that was planned for.
pub(crate) fn server_assumption(target: &Target) -> Assumption {
    Assumption { name: "server".to_owned(), value: target.fingerprint.clone() }
}

/// The target name is still free, or still held by the same collection.
pub(crate) fn target_assumption(name: &Namespace, existing: Option<&CollectionInfo>) -> Assumption {
    let value = match existing {
        None => "absent".to_owned(),
        Some(info) => match &info.identity {
            Some(identity) => format!("present, uuid {}", identity.0),
            None => "present".to_owned(),
        },
    };
    Assumption { name: name.to_string(), value }
}

fn step(origin: &Origin, candidate: &Candidate, item: &Item, existing: Option<&CollectionInfo>) -> PlanStep {
    let expiring = if candidate.has_ttl_index() { "; the server deletes expired ones again" } else { "" };
    let size = match candidate.kind {
        CollectionKind::View => "view".to_owned(),
        CollectionKind::Collection | CollectionKind::TimeSeries => format!("{}{expiring}", candidate.amount),
    };
    let old =
        existing.map_or(String::new(), |info| format!("about {} documents", Count(info.estimate.items)));
    let (mark, what) = match item.way {
        Way::Create => ('+', format!("create: {size}, {} indexes", candidate.indexes().len())),
        Way::Swap => ('-', format!("load {size} beside it, prove, then replace {old} in one step")),
        Way::DropFirst => {
            ('-', format!("drop {old} first, then create: {size}; until it is loaded, the name is empty"))
        }
        Way::Merge => ('~', format!("load {size} into {old}; documents with the same _id stay as they are")),
        Way::Keep => (' ', "keep the view that exists".to_owned()),
    };
    PlanStep { name: format!("{} {}", origin.verb(), item.target), mark, summary: what }
}

fn blast_radius(
    parameters: &Parameters,
    existing: &BTreeMap<Namespace, CollectionInfo>,
    target: &Target,
) -> BlastRadius {
    let (touched, bytes) = parameters.stake(existing);
    BlastRadius {
        phrase: phrase(&parameters.origin, &parameters.items, target, touched),
        items: touched,
        bytes,
    }
}

/// What a person types to consent.
fn phrase(origin: &Origin, items: &[Item], target: &Target, touched: u64) -> String {
    let databases: BTreeSet<&str> = items.iter().map(|item| item.target.database.as_str()).collect();
    let databases = databases.into_iter().collect::<Vec<_>>().join("+");
    let (accounts, things) =
        if origin.merges_accounts() { (" with users and roles", "items") } else { ("", "documents") };
    let verb = origin.verb();
    format!("{verb} {databases}@{}{accounts} {} {things}", target.environment, Count(touched))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_engine::{AccountKind, AccountName};
    use mainstay_model::{Blake3, EnvironmentClass, StoreKind};

    use super::*;

    #[test]
    fn names_that_differ_only_in_case_are_found_wherever_they_are() {
        for (names, existing, expected) in [
            (vec!["shop"], vec!["admin", "shop", "Other"], None),
            (vec!["shop"], vec!["admin", "SHOP"], Some(("shop", "SHOP"))),
            (vec!["shop", "Shop"], vec![], Some(("Shop", "shop"))),
            (vec!["shop", "Shop"], vec!["shop"], Some(("Shop", "shop"))),
            (vec!["größe", "GRÖẞE"], vec![], Some(("GRÖẞE", "größe"))),
            (vec!["a", "b"], vec![], None),
        ] {
            let existing: Vec<String> = existing.into_iter().map(str::to_owned).collect();
            let found = same_but_case(&names.iter().copied().collect(), &existing);
            assert_eq!(found, expected, "{names:?} beside {existing:?}");
        }
    }

    /// A plan that merges accounts alone puts as many items at stake as it replaces.
    #[test]
    fn replaced_users_are_at_stake() {
        let name = |name: &str| AccountName {
            kind: AccountKind::User,
            database: "admin".to_owned(),
            name: name.to_owned(),
        };
        let merge = AccountMerge {
            added: vec![name("anna")],
            replaced: vec![name("bert"), name("carl")],
            kept: vec![name("root")],
            ..AccountMerge::default()
        };
        let parameters = Parameters {
            origin: Origin::Dump { path: "d".into(), stamp: Blake3::of(b""), accounts: true, oplog: None },
            items: Vec::new(),
            load_count_max: 1,
            accept_differences: false,
            accounts: Some(merge),
        };
        let radius = blast_radius(&parameters, &BTreeMap::new(), &target("replica-set-65"));
        assert_eq!((radius.items, radius.bytes), (2, 0));
        assert_eq!(radius.phrase, "load @shop with users and roles 2 items");
    }

    fn target(fingerprint: &str) -> Target {
        Target {
            environment: "shop".to_owned(),
            class: EnvironmentClass::Development,
            store: StoreKind::Mongo,
            fingerprint: fingerprint.to_owned(),
            address: "127.0.0.1:27017".to_owned(),
        }
    }

    #[test]
    fn nothing_is_destroyed_on_a_server_that_could_be_another() {
        let unknown = target("unidentified replica set rs0");
        for origin in [
            Origin::Stream,
            Origin::Set {
                set: "20260101T000000Z-00000000".parse().unwrap(),
                manifest: Blake3::of(b""),
                accounts: false,
                log: None,
            },
        ] {
            let [new, merge, drop] = origin.operations();
            assert!(check_identified(&unknown, &origin, new).is_ok());
            assert!(check_identified(&unknown, &origin, drop).is_err());
            assert!(check_identified(&unknown, &origin, merge).is_err());
            assert!(check_identified(&target("replica-set-65"), &origin, drop).is_ok());
        }
    }
}
