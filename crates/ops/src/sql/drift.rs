//! `sql drift`: the live catalogue against what the applied migrations make of nothing.
//!
//! The migrations that the tracking table has are replayed into an empty shadow database in the order of its rows, which is the order in which they
//! were applied; then both catalogues are read as texts and compared, both ways. What is only in the live database was made by hand or by a
//! migration that nobody recorded; what is only in the shadow was taken away, or never came: a migration marked as applied that was not.
//! Comparing is pure.

use std::collections::BTreeMap;

use mainstay_engine::{CatalogObject, CatalogScope, RehearsalHost, RehearsalStage, Rehearsed, TableName};
use mainstay_guard::Permit;
use mainstay_migrations::{EntryState, Folder, Migration, TrackingTable, Verdict};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    BlastRadius, Clock, Effect, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result, ResultExt, Target,
};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::staging::{Outcome, Purpose, interrupted, play};

/// The registered name of the operation.
pub const OPERATION: &str = "sql.drift";

/// The schema of Drizzle's own tables, where it is not told otherwise.
const DRIZZLE_SCHEMA: &str = "drizzle";

/// What is compared.
#[derive(Debug, Clone)]
pub struct DriftRequest<'a> {
    /// The migrations that are applied, in the order in which they were.
    pub applied: Vec<&'a Migration>,
    /// Statements that come before them, such as extensions that `init` makes.
    pub prelude: Vec<String>,
    /// What is left out.
    pub scope: CatalogScope,
}

/// Where something is that is not everywhere the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// In the live database alone.
    OnlyLive,
    /// In the replayed migrations alone.
    OnlyJournal,
    /// In both, and different.
    Differs,
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where.
    pub side: Side,
    /// What kind of thing it is.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What it is in the live database.
    pub live: Option<String>,
    /// What the migrations make of it.
    pub journal: Option<String>,
    /// How many things belong to it that are on the same side alone, and not told themselves: columns and indexes of a table.
    pub part_count: usize,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriftReport {
    /// The live database.
    pub database: String,
    /// How many migrations were replayed.
    pub replayed_count: usize,
    /// How many things were compared.
    pub object_count: usize,
    /// The differences, by kind of difference, then by kind and name.
    pub differences: Vec<Difference>,
}

impl DriftReport {
    /// Whether there is any.
    pub fn is_drift(&self) -> bool {
        !self.differences.is_empty()
    }
}

/// The migrations of the folder that the tracking table has, in the order of its rows.
pub fn applied<'f>(folder: &'f Folder, verdict: &Verdict) -> Vec<&'f Migration> {
    let is_applied = |state: &EntryState| {
        matches!(state, EntryState::Applied | EntryState::Edited { .. } | EntryState::Retimed { .. })
    };
    let mut entries: Vec<_> = verdict.entries.iter().filter(|entry| is_applied(&entry.state)).collect();
    entries.sort_by_key(|entry| (entry.row, entry.index));
    entries.iter().filter_map(|entry| folder.migrations.get(entry.index)).collect()
}

/// What is compared of a database whose migrations are kept in `table`: everything but that table.
pub fn scope(table: &TrackingTable, privileges: bool) -> CatalogScope {
    let own_schema = Some(table.schema.clone()).filter(|schema| schema == DRIZZLE_SCHEMA);
    CatalogScope {
        without_schemas: own_schema.into_iter().collect(),
        without_tables: vec![TableName { schema: table.schema.clone(), name: table.name.clone() }],
        privileges,
    }
}

/// Says what will be done, for the guard: a shadow on the server that `target` names. `operation` is the registered name.
pub fn plan(operation: &str, request: &DriftRequest<'_>, target: Target, clock: &dyn Clock) -> Plan {
    let created_at = clock.now();
    let tags: Vec<&str> = request.applied.iter().map(|migration| migration.tag.as_str()).collect();
    Plan {
        format: PLAN_FORMAT,
        operation: operation.to_owned(),
        effect: Effect::Additive,
        blast_radius: BlastRadius {
            phrase: format!("replay {} migrations beside {}", tags.len(), target.environment),
            items: 0,
            bytes: 0,
        },
        target,
        assumptions: Vec::new(),
        steps: vec![PlanStep {
            name: "replay migrations".to_owned(),
            mark: '+',
            summary: "in a shadow database of its own".to_owned(),
        }],
        parameters: json!({"migrations": tags}),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Replays and compares. The shadow is removed whatever happens.
///
/// # Errors
/// `Precondition` when an applied migration cannot be replayed, with file, line and what the server says; `Interrupted` when `cancel` says so; what
/// making and removing a shadow fail with.
pub async fn drift(
    host: &dyn RehearsalHost,
    request: &DriftRequest<'_>,
    observer: &dyn Observer,
    cancel: &CancellationToken,
    permit: &Permit,
) -> Result<DriftReport> {
    observer.phase("read the live catalogue");
    let database = host.live().await?.definition.name;
    let live = host.live_catalog(&request.scope).await?;
    observer.phase("make a shadow database");
    let told = |text: &str| observer.notice(text);
    let mut stage = host.shadow(&told, permit).await?;
    let journal = replayed(stage.as_mut(), request, observer, cancel).await;
    observer.phase("remove the shadow database");
    let ended = stage.end().await;
    let journal = journal?;
    ended?;
    Ok(DriftReport {
        database,
        replayed_count: request.applied.len(),
        object_count: live.len().max(journal.len()),
        differences: compare(&live, &journal),
    })
}

async fn replayed(
    stage: &mut dyn RehearsalStage,
    request: &DriftRequest<'_>,
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<Vec<CatalogObject>> {
    replay(stage, &request.prelude, &request.applied, observer, cancel).await?;
    // What is not committed is seen by nobody who reads from beside.
    if stage.is_open_ended() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "an applied migration changes what belongs to the whole server, which a replay must not do again",
        )
        .with_state("nothing was changed")
        .with_hint("move such statements into a script of their own, or declare them in [init]"));
    }
    stage.catalog(&request.scope).await
}

/// Runs applied migrations into an empty stage.
///
/// # Errors
/// `Precondition` when one fails; `Interrupted` when `cancel` says so.
pub(super) async fn replay(
    stage: &mut dyn RehearsalStage,
    prelude: &[String],
    migrations: &[&Migration],
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<()> {
    observer.phase("replay the applied migrations");
    let count =
        |migration: &&Migration| migration.chunks().iter().map(|chunk| chunk.statements.len()).sum::<usize>();
    observer.expect(Work { items: migrations.iter().map(count).sum::<usize>() as u64, bytes: 0 });
    prepare(stage, prelude).await.context("prepare the shadow database")?;
    for migration in migrations {
        if cancel.is_cancelled() {
            return Err(interrupted());
        }
        let play = play(stage, migration, Purpose::Replay, &[], observer, cancel).await?;
        for played in &play.statements {
            if let Outcome::NotRun(reason) = &played.outcome {
                let statement = &played.statement;
                observer.notice(&format!(
                    "{}:{}: {} is not replayed: {reason}",
                    migration.path, statement.place, statement.command
                ));
            }
        }
        let fault = match (play.failure(), &play.stopped) {
            (Some((statement, failure)), _) => {
                let place = failure.position.map_or(statement.place, |position| statement.locate(position));
                format!("{}:{place}: {} ({})", migration.path, failure.message, failure.code)
            }
            (None, Some(stopped)) => format!("{}: {stopped}", migration.path),
            (None, None) => continue,
        };
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("an applied migration cannot be replayed into an empty database: {fault}"),
        )
        .with_state("nothing was changed")
        .with_hint(
            "what it needs and no migration makes is declared in [init], or the file was edited: `mainstay sql verify` tells",
        ));
    }
    Ok(())
}

async fn prepare(stage: &mut dyn RehearsalStage, prelude: &[String]) -> Result<()> {
    if prelude.is_empty() {
        return Ok(());
    }
    stage.begin().await?;
    let mut failed = None;
    for statement in prelude {
        if let Rehearsed::Failed(failure) = stage.observe(statement).await? {
            failed = Some(failure);
            break;
        }
    }
    if failed.is_none() {
        failed = stage.commit().await?;
    }
    match failed {
        None => Ok(()),
        Some(failure) => {
            Err(Error::new(ErrorKind::Precondition, format!("{} ({})", failure.message, failure.code))
                .with_state("nothing was changed")
                .with_hint("what [init.postgres] declares must be available on the server of shadows, too"))
        }
    }
}

/// The differences between two catalogues, which may come in any order.
pub fn compare(live: &[CatalogObject], journal: &[CatalogObject]) -> Vec<Difference> {
    let (live, journal) = (keyed(live), keyed(journal));
    let mut differences = Vec::new();
    for ((kind, name), definition) in &live {
        let other = journal.get(&(*kind, *name)).copied();
        let side = match other {
            None => Side::OnlyLive,
            Some(other) if other != *definition => Side::Differs,
            Some(_) => continue,
        };
        differences.push(difference(side, (*kind, *name), Some(*definition), other));
    }
    for ((kind, name), definition) in &journal {
        if !live.contains_key(&(*kind, *name)) {
            differences.push(difference(Side::OnlyJournal, (*kind, *name), None, Some(*definition)));
        }
    }
    differences
        .sort_by(|one, other| (one.side, &one.kind, &one.name).cmp(&(other.side, &other.kind, &other.name)));
    without_parts(differences)
}

/// Definitions by kind and name.
fn keyed(objects: &[CatalogObject]) -> BTreeMap<(&str, &str), &str> {
    objects.iter().map(|one| ((one.kind.as_str(), one.name.as_str()), one.definition.as_str())).collect()
}

fn difference(
    side: Side,
    (kind, name): (&str, &str),
    live: Option<&str>,
    journal: Option<&str>,
) -> Difference {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Difference {
        side,
        kind: kind.to_owned(),
        name: name.to_owned(),
        live: owned(live),
        journal: owned(journal),
        part_count: 0,
    }
}

/// The differences without those that a table brings which is on one side alone: its columns, constraints, indexes, sequences, triggers, rules,
/// policies.
fn without_parts(differences: Vec<Difference>) -> Vec<Difference> {
    let wholes: Vec<(Side, String)> = { differences.iter() }
        .filter(|one| one.kind == "table" && one.side != Side::Differs)
        .map(|one| (one.side, one.name.clone()))
        .collect();
    let whole_of = |part: &Difference| {
        wholes.iter().position(|(side, table)| *side == part.side && is_part(part, table))
    };
    let mut counts = vec![0; wholes.len()];
    let mut kept = Vec::new();
    for one in differences {
        match whole_of(&one) {
            Some(whole) => {
                if let Some(count) = counts.get_mut(whole) {
                    *count += 1;
                }
            }
            None => kept.push(one),
        }
    }
    for ((side, table), count) in wholes.iter().zip(counts) {
        let whole =
            kept.iter_mut().find(|one| one.kind == "table" && one.side == *side && one.name == *table);
        if let Some(whole) = whole {
            whole.part_count = count;
        }
    }
    kept
}

/// Whether something belongs to that table.
fn is_part(part: &Difference, table: &str) -> bool {
    let definition = part.live.as_deref().or(part.journal.as_deref()).unwrap_or_default();
    match part.kind.as_str() {
        "column" | "constraint" | "trigger" | "rule" | "policy" => {
            part.name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
        }
        "index" => [" ON ", " ON ONLY "].iter().any(|on| definition.contains(&format!("{on}{table} "))),
        "sequence" => definition.contains(&format!(" OWNED BY {table}.")),
        "statistics" => definition.ends_with(&format!(" FROM {table}")),
        "privilege" => part.name.strip_prefix(table).is_some_and(|rest| rest.starts_with(" to ")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(all: &[(&str, &str, &str)]) -> Vec<CatalogObject> {
        let object = |(kind, name, definition): &(&str, &str, &str)| CatalogObject {
            kind: (*kind).to_owned(),
            name: (*name).to_owned(),
            definition: (*definition).to_owned(),
        };
        all.iter().map(object).collect()
    }

    #[test]
    fn differences_are_told_both_ways() {
        let live = objects(&[
            ("column", "public.users.email", "text NOT NULL"),
            ("index", "public.by_hand", "CREATE INDEX by_hand ON public.users USING btree (email)"),
            ("table", "public.users", "ordinary"),
        ]);
        let journal = objects(&[
            ("column", "public.users.email", "text"),
            ("column", "public.users.note", "text"),
            ("table", "public.users", "ordinary"),
        ]);
        let told: Vec<(Side, String, Option<String>, Option<String>)> = compare(&live, &journal)
            .into_iter()
            .map(|one| (one.side, one.name, one.live, one.journal))
            .collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            told,
            [
                (
                    Side::OnlyLive,
                    "public.by_hand".to_owned(),
                    text("CREATE INDEX by_hand ON public.users USING btree (email)"),
                    None
                ),
                (Side::OnlyJournal, "public.users.note".to_owned(), None, text("text")),
                (Side::Differs, "public.users.email".to_owned(), text("text NOT NULL"), text("text")),
            ]
        );
        assert_eq!(compare(&live, &live), []);
    }

    #[test]
    fn a_whole_table_is_one_difference() {
        let live = objects(&[
            ("table", "public.extra", "ordinary"),
            ("column", "public.extra.id", "integer NOT NULL"),
            ("constraint", "public.extra.extra_pkey", "PRIMARY KEY (id)"),
            ("index", "public.extra_id", "CREATE INDEX extra_id ON public.extra USING btree (id)"),
            ("sequence", "public.extra_id_seq", "AS integer START 1 OWNED BY public.extra.id"),
            ("column", "public.extras.id", "integer"),
        ]);
        let found = compare(&live, &[]);
        let told: Vec<(&str, usize)> = found.iter().map(|one| (one.name.as_str(), one.part_count)).collect();
        assert_eq!(told, [("public.extras.id", 0), ("public.extra", 4)]);
    }
}
