//! Deciding what becomes of indexes. Reads, counts and measures; writes nothing.

use std::collections::BTreeMap;

use mainstay_engine::{
    CollectionKind, CollectionStatistics, IndexCatalog, IndexedCollection, Inspection, Namespace, UsageReport,
};
use mainstay_guard::operation;
use mainstay_indexes::changes::{self, Choice, Present};
use mainstay_indexes::{
    Blocked, Change, ChangeKind, Collation, DeclaredIndex, Ejson, ListedIndex, Manifest, Step, span,
};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    BlastRadius, ByteSize, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result, Target,
    Timestamp,
};
use mainstay_repository::Repository;
use tokio_util::sync::CancellationToken;

use super::estimate::{estimate, lack_of_room, reading_rate, room_after};
use super::parameters::{Estimate, IndexParameters, PlannedChange, PlannedCollection, name_of};
use super::questions::{Asking, COUNT_TIME_MAX, interrupted};
use super::records::{DroppedIndex, Record, Records, dropped as dropped_of, hidden_since};
use super::{choosable, is_regarded};

/// What planning works with.
pub struct IndexPlanning<'a> {
    /// The indexes.
    pub catalog: &'a dyn IndexCatalog,
    /// The sizes of collections.
    pub inspection: &'a dyn Inspection,
    /// Where it is remembered what was done before; `None` when nothing was.
    pub repository: Option<&'a Repository>,
    /// What is declared.
    pub manifest: &'a Manifest,
    /// The database.
    pub database: &'a str,
    /// Whether an index may be dropped before the one in its place stands, where it cannot be done otherwise.
    pub allows_gaps: bool,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops counting.
    pub cancel: &'a CancellationToken,
}

/// What was dropped and can be built again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedIndexes(
    /// The last first.
    pub Vec<DroppedIndex>,
);

/// Decides how the indexes of a database become what is declared. The plan may have nothing to do, and then none of its changes is
/// [done](PlannedChange::is_done).
///
/// # Errors
/// The server's; `Interrupted`.
pub async fn plan(planning: &IndexPlanning<'_>, target: Target) -> Result<Plan> {
    let (live, special) = planning.collections().await?;
    let records = planning.records(&target).await?;
    let mut decided = Vec::new();
    let names =
        planning.manifest.collections.keys().chain(live.keys()).collect::<std::collections::BTreeSet<_>>();
    for name in names.into_iter().filter(|name| is_regarded(planning.manifest, name)) {
        let declared = planning.manifest.collections.get(name).map(Vec::as_slice).unwrap_or_default();
        decided.push(match special.get(name) {
            Some(special) => planning.leave(special, declared),
            None => planning.decide(name, live.get(name), declared, &records).await?,
        });
    }
    planning.compose(decided, target).await
}

/// Decides what of the indexes that nobody declares is hidden now, and what is dropped since it was hidden for long enough. With `names`
/// (`collection.index`) these alone, else every one that is hidden.
///
/// # Errors
/// `NotFound` when there is no such index; `Precondition` when it is declared; the server's.
pub async fn retire(planning: &IndexPlanning<'_>, names: &[String], target: Target) -> Result<Plan> {
    let (live, special) = planning.collections().await?;
    let records = planning.records(&target).await?;
    let mut decided = Vec::new();
    let mut found = Vec::new();
    for (name, collection) in live.iter().filter(|(name, _)| is_regarded(planning.manifest, name)) {
        let declared = planning.manifest.collections.get(name).map(Vec::as_slice).unwrap_or_default();
        let rows = mainstay_indexes::compare(declared, &collection.indexes, &collection.collation);
        let hidden = planning.hidden(collection, &records).await?;
        let mut changes = Vec::new();
        for index in collection.indexes.iter().filter(|index| !index.is_id()) {
            let full = format!("{name}.{}", index.name);
            if !names.is_empty() && !names.contains(&full) {
                continue;
            }
            let is_declared = rows.iter().any(|row| {
                row.declared.is_some() && row.live.as_ref().is_some_and(|live| live.name == index.name)
            });
            match (is_declared, names.is_empty(), index.spec.hidden) {
                (true, false, _) => return Err(is_wanted(&full)),
                (true, true, _) | (false, true, false) => continue,
                (false, ..) => {}
            }
            found.push(full);
            changes.push(retirement(index, &hidden, planning.manifest.policy.hide_seconds));
        }
        decided.push(planned(name, Some(collection), changes));
    }
    for (name, collection) in special.iter().filter(|(name, _)| is_regarded(planning.manifest, name)) {
        let full = |index: &ListedIndex| format!("{name}.{}", index.name);
        let named: Vec<_> = collection.indexes.iter().filter(|index| names.contains(&full(index))).collect();
        found.extend(named.iter().copied().map(full));
        let left = |index: &ListedIndex| Change {
            steps: Vec::new(),
            blocked: not_choosable(collection),
            ..changes::hide(index)
        };
        decided.push(planned(name, None, named.into_iter().map(left).collect()));
    }
    if let Some(missing) = names.iter().find(|name| !found.contains(name)) {
        return Err(Error::new(ErrorKind::NotFound, format!("{} has no index {missing}", planning.database))
            .with_state("nothing was changed")
            .with_hint(
                "name it as COLLECTION.INDEX; `mainstay index drift` lists those that nobody declares",
            ));
    }
    planning.compose(decided, target).await
}

/// Decides how an index that was dropped is built again. `name` is `collection.index`.
///
/// # Errors
/// `NotFound` when none of that name was dropped here; the server's.
pub async fn restore(planning: &IndexPlanning<'_>, name: &str, target: Target) -> Result<Plan> {
    let dropped = dropped_of(&planning.records(&target).await?, planning.database);
    let known = |dropped: &&DroppedIndex| format!("{}.{}", dropped.collection, dropped.index.name) == name;
    let Some(dropped) = dropped.iter().find(known) else {
        return Err(Error::new(ErrorKind::NotFound, format!("no index {name} was dropped by mainstay"))
            .with_state("nothing was changed")
            .with_hint("`mainstay index restore` lists those that can be built again"));
    };
    let namespace = Namespace::new(planning.database, &dropped.collection);
    let live = planning.catalog.indexed_collection(&namespace).await?;
    let (collation, indexes) = match &live {
        Some(live) => (live.collation.clone(), live.indexes.clone()),
        None => (Collation::Simple, Vec::new()),
    };
    let present = Present { collation: &collation, indexes: &indexes };
    let mut index = dropped.index.clone();
    // It went hidden, and is wanted again.
    index.spec.hidden = false;
    let restored = changes::restore(&index, &present);
    let change = Change { blocked: live.as_ref().and_then(not_choosable).or(restored.blocked), ..restored };
    planning.compose(vec![planned(&dropped.collection, live.as_ref(), vec![change])], target).await
}

/// What was dropped and can be built again.
///
/// # Errors
/// The repository's.
pub async fn dropped(repository: &Repository, fingerprint: &str, database: &str) -> Result<DroppedIndexes> {
    let records = Records::of(repository, fingerprint).all().await?;
    Ok(DroppedIndexes(dropped_of(&records, database)))
}

fn is_wanted(name: &str) -> Error {
    Error::new(ErrorKind::Precondition, format!("the index {name} is declared"))
        .with_state("nothing was changed")
        .with_hint("remove it from [mongo.indexes] first, and from the code that would build it again")
}

fn retirement(index: &ListedIndex, hidden: &BTreeMap<String, u64>, hide_seconds: u64) -> Change {
    if !index.spec.hidden {
        return changes::hide(index);
    }
    let change = changes::drop_hidden(index);
    match hidden.get(&index.name) {
        Some(seconds) if *seconds >= hide_seconds => change,
        seconds => Change {
            blocked: Some(Blocked {
                reason: format!(
                    "it is hidden for {} and has to be for {}",
                    seconds.map_or_else(|| "nobody knows how long".to_owned(), |seconds| span(*seconds)),
                    span(hide_seconds)
                ),
                next: "plan again then, or lower `hide_for` in [mongo.policy]".to_owned(),
            }),
            ..change
        },
    }
}

/// Why nothing is done about the indexes of a collection whose indexes are nobody's choice; `None` for every other.
fn not_choosable(collection: &IndexedCollection) -> Option<Blocked> {
    let name = &collection.namespace.collection;
    let (reason, next) = match collection.kind {
        CollectionKind::Collection => return None,
        CollectionKind::View => (
            format!("{name} is a view, which has no indexes"),
            "declare them for the collection that it shows".to_owned(),
        ),
        CollectionKind::TimeSeries => (
            format!("{name} is a time series, whose indexes are left alone"),
            format!("take {name} out of the manifest, and change its indexes in mongosh"),
        ),
    };
    Some(Blocked { reason, next })
}

/// A collection with what was decided about it.
fn planned(name: &str, live: Option<&IndexedCollection>, changes: Vec<Change>) -> PlannedCollection {
    let collation = live.map_or(Collation::Simple, |live| live.collation.clone());
    let planned = |change: Change| PlannedChange {
        commands: change.steps.iter().flat_map(|step| step.commands(name)).map(Ejson::new).collect(),
        answers: Vec::new(),
        estimate: None,
        change,
    };
    PlannedCollection {
        name: name.to_owned(),
        uuid: live.and_then(|live| live.identity.as_ref()).map(|identity| identity.0.clone()),
        collation: Ejson::new(collation.document()),
        documents: 0,
        bytes: 0,
        indexes: live.map(|live| live.indexes.clone()).unwrap_or_default(),
        changes: changes.into_iter().map(planned).collect(),
    }
}

/// Collections by their names.
type ByName = BTreeMap<String, IndexedCollection>;

impl IndexPlanning<'_> {
    /// The collections of the database by name: those whose indexes are somebody's choice, and the others.
    async fn collections(&self) -> Result<(ByName, ByName)> {
        self.observer.phase("read the indexes");
        let (live, special) = choosable(self.catalog.indexed_collections(self.database).await?);
        let by_name = |collections: Vec<IndexedCollection>| -> ByName {
            collections.into_iter().map(|found| (found.namespace.collection.clone(), found)).collect()
        };
        Ok((by_name(live), by_name(special)))
    }

    async fn records(&self, target: &Target) -> Result<Vec<Record>> {
        match self.repository {
            Some(repository) => Records::of(repository, &target.fingerprint).all().await,
            None => Ok(Vec::new()),
        }
    }

    /// The changes of one collection.
    async fn decide(
        &self,
        name: &str,
        live: Option<&IndexedCollection>,
        declared: &[DeclaredIndex],
        records: &[Record],
    ) -> Result<PlannedCollection> {
        let hidden = match live {
            Some(live) => self.hidden(live, records).await?,
            None => BTreeMap::new(),
        };
        let choice = Choice {
            policy: &self.manifest.policy,
            allows_gaps: self.allows_gaps,
            hidden_seconds: &|index| hidden.get(index).copied(),
        };
        let (collation, indexes) = match live {
            Some(live) => (&live.collation, live.indexes.as_slice()),
            None => (&Collation::Simple, &[][..]),
        };
        let mut found = changes::changes(&Present { collation, indexes }, declared, &choice);
        if live.is_none() && !found.is_empty() {
            let note = "there is no such collection: its first index makes it";
            found.iter_mut().take(1).for_each(|change| change.notes.push(note.to_owned()));
        }
        Ok(planned(name, live, found))
    }

    /// What is declared of a view or a time series: told, and left alone.
    fn leave(&self, special: &IndexedCollection, declared: &[DeclaredIndex]) -> PlannedCollection {
        let choice = Choice {
            policy: &self.manifest.policy,
            allows_gaps: self.allows_gaps,
            hidden_seconds: &|_| None,
        };
        // Its own indexes are not compared.
        let present = Present { collation: &Collation::Simple, indexes: &[] };
        let mut found = changes::changes(&present, declared, &choice);
        found.iter_mut().for_each(|change| change.blocked = not_choosable(special));
        planned(&special.namespace.collection, None, found)
    }

    /// For how many seconds the hidden indexes of a collection are hidden, as far as anybody knows: by what was recorded or by the counters of
    /// their use, which begin anew when an index is changed, whichever is later: somebody else may have shown and hidden it since.
    async fn hidden(&self, live: &IndexedCollection, records: &[Record]) -> Result<BTreeMap<String, u64>> {
        let mut known = BTreeMap::new();
        let names: Vec<&str> =
            live.indexes.iter().filter(|index| index.spec.hidden).map(|index| index.name.as_str()).collect();
        if names.is_empty() {
            return Ok(known);
        }
        let now = self.clock.now();
        let seconds = |since: Timestamp| u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0);
        let recorded = hidden_since(records, self.database);
        let usage = self.catalog.index_usage(std::slice::from_ref(&live.namespace)).await?;
        for name in names {
            let place = (live.namespace.collection.clone(), name.to_owned());
            let since = recorded.get(&place).copied().max(counted_since(&usage, &live.namespace, name));
            known.extend(since.map(|since| (name.to_owned(), seconds(since))));
        }
        Ok(known)
    }

    /// Asks the documents, measures, and makes the plan.
    async fn compose(&self, mut collections: Vec<PlannedCollection>, target: Target) -> Result<Plan> {
        collections.retain(|collection| !collection.changes.is_empty());
        let mut free = self.catalog.disk_room(self.database).await?.map(|room| room.free_bytes);
        let expire_max = self.manifest.policy.expire_max;
        for collection in &mut collections {
            if self.cancel.is_cancelled() {
                return Err(interrupted());
            }
            self.find_out(collection, &mut free, expire_max).await?;
        }
        let parameters = IndexParameters { database: self.database.to_owned(), expire_max, collections };
        Ok(self.sealed(parameters, target))
    }

    /// Asks the documents of one collection, and measures what its changes cost; `free` is the room that those before it leave, and becomes what
    /// they leave, too.
    async fn find_out(
        &self,
        collection: &mut PlannedCollection,
        free: &mut Option<u64>,
        expire_max: u64,
    ) -> Result<()> {
        let namespace = collection.namespace(self.database);
        if collection.uuid.is_none() {
            // Nothing is there that could be in the way.
            let asking = self.asking();
            for planned in collection.changes.iter_mut().filter(|planned| planned.change.blocked.is_none()) {
                for check in &planned.change.checks {
                    planned.answers.push(asking.ask(&namespace, check).await?);
                }
            }
            return Ok(());
        }
        let statistics = self.inspection.statistics(&namespace, CollectionKind::Collection).await?;
        (collection.documents, collection.bytes) = (statistics.documents, statistics.data_bytes);
        let builds = |planned: &PlannedChange| {
            planned.change.steps.iter().any(|step| matches!(step, Step::Build { .. }))
        };
        let rate = match collection.changes.iter().any(builds) {
            true => {
                self.observer.phase(&format!("measure {namespace}"));
                let rate = reading_rate(self.catalog, &namespace).await?;
                if rate.is_none() {
                    let untold = format!("how fast {namespace} is read was not told: no time is estimated");
                    self.observer.notice(&untold);
                }
                rate
            }
            false => None,
        };
        let usage = match collection.changes.iter().any(|planned| planned.change.kind == ChangeKind::Hide) {
            true => Some(self.catalog.index_usage(std::slice::from_ref(&namespace)).await?),
            false => None,
        };
        let indexes = collection.indexes.clone();
        for planned in &mut collection.changes {
            self.answer(&namespace, planned, &statistics, expire_max).await?;
            if builds(planned) {
                let old = replaced(&planned.change, &indexes);
                // The room does not depend on how fast the collection is read.
                let told = estimate(&statistics, rate.unwrap_or(1), old, *free);
                planned.estimate = rate.map(|_| told);
                planned.change.blocked = planned.change.blocked.take().or_else(|| lack_of_room(&told));
                if planned.change.blocked.is_none() {
                    *free = room_after(&told);
                }
            }
            if let Some(usage) = usage.as_ref().filter(|_| planned.change.kind == ChangeKind::Hide) {
                let told = used(usage, &namespace, &planned.change.index, self.clock.now());
                planned.change.notes.insert(0, told);
            }
        }
        Ok(())
    }

    fn asking(&self) -> Asking<'_> {
        Asking { catalog: self.catalog, cancel: self.cancel, time_max: COUNT_TIME_MAX }
    }

    async fn answer(
        &self,
        namespace: &Namespace,
        planned: &mut PlannedChange,
        statistics: &CollectionStatistics,
        expire_max: u64,
    ) -> Result<()> {
        if planned.change.blocked.is_some() {
            return Ok(());
        }
        let place = format!("{namespace}.{}", planned.change.index);
        let asking = self.asking();
        for check in &planned.change.checks {
            self.observer.phase(&format!("count documents for {place}"));
            self.observer.expect(Work { items: statistics.documents, bytes: 0 });
            let answer = asking.ask(namespace, check).await?;
            let obstacle = answer.obstacle(check, &place, expire_max);
            planned.change.blocked = planned.change.blocked.take().or(obstacle);
            planned.answers.push(answer);
        }
        Ok(())
    }

    fn sealed(&self, parameters: IndexParameters, target: Target) -> Plan {
        let name = parameters.operation();
        let created_at = self.clock.now();
        let (overdue, database) = (parameters.overdue(), self.database);
        let bytes = |collection: &PlannedCollection| {
            let overdue: u64 = collection
                .changes
                .iter()
                .filter(|planned| planned.is_done())
                .map(PlannedChange::overdue)
                .sum();
            collection.bytes / collection.documents.max(1) * overdue
        };
        Plan {
            format: PLAN_FORMAT,
            operation: name.to_owned(),
            effect: operation(name).expect("a change of indexes is registered").effect,
            assumptions: parameters.assumptions(),
            steps: parameters.collections.iter().flat_map(|collection| shown(database, collection)).collect(),
            blast_radius: BlastRadius {
                phrase: match overdue {
                    0 => format!("change indexes of {database}@{}", target.environment),
                    count => {
                        format!("expire {} documents of {database}@{}", Count(count), target.environment)
                    }
                },
                items: overdue,
                bytes: parameters.collections.iter().map(bytes).sum(),
            },
            target,
            parameters: serde_json::to_value(&parameters).expect("parameters have a JSON form"),
            created_at,
            expires_at: created_at + Plan::LIFETIME,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Since when every member has counted the use of an index.
fn counted_since(usage: &UsageReport, namespace: &Namespace, name: &str) -> Option<Timestamp> {
    if !usage.silent.is_empty() {
        return None;
    }
    let index = usage.index(namespace, name)?;
    index.members.iter().map(|member| member.since).max()
}

/// How much an index was used.
fn used(usage: &UsageReport, namespace: &Namespace, name: &str, now: Timestamp) -> String {
    let index = usage.index(namespace, name);
    let members = index.map(|index| index.members.as_slice()).unwrap_or_default();
    let operations: u64 = members.iter().map(|member| member.operations).sum();
    let since = members.iter().map(|member| member.since).max();
    let seconds = since.map(|since| u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0));
    let all = members.len() + usage.silent.len();
    format!(
        "used {} times in {} on {} of {all} members",
        Count(operations),
        seconds.map_or_else(|| "a time that nobody counted".to_owned(), span),
        members.len()
    )
}

/// The index whose place a change's new one takes.
fn replaced<'a>(change: &Change, indexes: &'a [ListedIndex]) -> Option<&'a ListedIndex> {
    let old = change.steps.iter().find_map(|step| match step {
        Step::Hide { name } | Step::Drop { name, .. } => Some(name),
        _ => None,
    })?;
    indexes.iter().find(|index| index.name == *old)
}

/// The steps of a collection as a plan shows them.
fn shown(database: &str, collection: &PlannedCollection) -> Vec<PlanStep> {
    let of_change = |planned: &PlannedChange| {
        let change = &planned.change;
        let place = format!("{database}.{}.{}", collection.name, change.index);
        if let Some(blocked) = &change.blocked {
            return vec![PlanStep {
                name: format!("leave {place}"),
                mark: ' ',
                summary: format!("BLOCKED: {}; {}", blocked.reason, blocked.next),
            }];
        }
        let summary = |number: usize, step: &Step| match (number, step) {
            (_, Step::Build { .. }) => format!("{}{}", change.what, cost(planned.estimate.as_ref())),
            (0, _) => change.what.clone(),
            _ => String::new(),
        };
        let steps = change.steps.iter().enumerate();
        steps
            .map(|(number, step)| PlanStep {
                name: name_of(database, &collection.name, step),
                mark: step.mark(),
                summary: summary(number, step),
            })
            .collect()
    };
    collection.changes.iter().flat_map(of_change).collect()
}

fn cost(estimate: Option<&Estimate>) -> String {
    estimate.map_or_else(String::new, |told| {
        format!(
            "; {} documents, about {} s, {}",
            Count(told.documents),
            told.millis.div_ceil(1_000),
            ByteSize(told.bytes)
        )
    })
}
