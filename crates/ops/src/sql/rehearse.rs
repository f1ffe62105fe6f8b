//! `sql rehearse`: what pending migrations would lock, rewrite and read, measured statement by statement in a shadow database.
//!
//! The stage measures ([`RehearsalStage`]); what that means for the live database is judged here, purely: whom a lock keeps waiting, how large the table is
//! there, about how long the work takes at the rates below, and who holds a lock now that would make the statement wait, with everybody queued
//! behind it. A statement is over the limit when it rewrites a large table, or reads one or builds an index on it while others may not write or
//! read. A brief lock, though nobody passes it, is none: it is told with those who hold it up.

use std::collections::BTreeMap;

use mainstay_engine::{
    LiveBounds, Observation, RehearsalHost, RehearsalStage, SeenBuild, SeenLock, ShadowContents,
    StatementFailure, TableHolder, TableLock, TableName,
};
use mainstay_guard::Permit;
use mainstay_migrations::{Execution, Migration, Place};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{BlastRadius, Clock, Effect, PLAN_FORMAT, Plan, PlanStep, Result, Target};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::drift::replay;
use super::live::{LiveTable, LiveTables};
use super::staging::{Outcome, Play, Played, Purpose, interrupted, play};

/// The registered name of a rehearsal in a shadow.
pub const OPERATION: &str = "sql.rehearse";
/// The registered name of one in the live database.
pub const LIVE_OPERATION: &str = "sql.rehearse.live";

/// What a server with ordinary disks does in a second, carefully: reading a table, building an index from it, writing it anew with its indexes.
const READ_BYTES_PER_SECOND: u64 = 256 << 20;
const BUILD_BYTES_PER_SECOND: u64 = 64 << 20;
const REWRITE_BYTES_PER_SECOND: u64 = 32 << 20;
/// How many of those who would be waited for are told.
const HOLDER_COUNT_MAX: usize = 5;

/// Where and with what is rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// In a shadow with these contents; with [`ShadowContents::Nothing`] the applied migrations are replayed first.
    Shadow(ShadowContents),
    /// In the live database, taken back.
    Live(LiveBounds),
}

/// What is rehearsed.
#[derive(Debug, Clone)]
pub struct RehearsalRequest<'a> {
    /// The migrations, in order.
    pub migrations: Vec<&'a Migration>,
    /// Steps of them that are done already in the live database, by tag, numbered from 1.
    pub done: BTreeMap<String, Vec<u32>>,
    /// Those that are replayed before them into an empty shadow.
    pub replayed: Vec<&'a Migration>,
    /// Statements that come before all of them in an empty shadow, such as extensions that `init` makes.
    pub prelude: Vec<String>,
    /// Where.
    pub scene: Scene,
    /// From how many bytes on a table is large.
    pub large_bytes: u64,
}

/// What takes time on a table, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TableWork {
    /// Nothing that grows with it.
    None,
    /// All rows are thrown away at once.
    Emptied,
    /// It is read whole.
    Read,
    /// An index is built of it.
    Indexed,
    /// Its rows are changed one by one.
    Changed,
    /// It is written anew.
    Rewritten,
}

/// Whom a lock keeps waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blocks {
    /// Neither who reads nor who writes.
    Nobody,
    /// Who writes.
    Writes,
    /// Everybody.
    Reads,
}

/// What a statement does to a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableVerdict {
    /// The table, by its name before any of the migrations.
    pub table: TableName,
    /// The strongest lock that the statement takes.
    pub lock: Option<TableLock>,
    /// The strongest that its transaction holds on it after the statement, when that is a stronger one, of an earlier statement.
    pub held: Option<TableLock>,
    /// Whom they keep waiting.
    pub blocks: Blocks,
    /// What takes time.
    pub work: TableWork,
    /// Indexes that are built or rebuilt.
    pub built: Vec<SeenBuild>,
    /// The table in the live database; `None` where it is not known there.
    pub live: Option<LiveTable>,
    /// About how long the work takes there, in milliseconds.
    pub estimate_ms: u64,
    /// About how long others wait for the lock once it is taken: this statement and those after it in the transaction, in milliseconds.
    pub held_ms: u64,
    /// Who holds a lock now that the statement would wait for, and everybody behind it; the longest first.
    pub waits_for: Vec<TableHolder>,
    /// It is over the limit.
    pub is_over: bool,
}

/// A statement that was rehearsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatementVerdict {
    /// Where it stands in its file.
    pub place: Place,
    /// Its first words.
    pub command: String,
    /// Whether it runs outside of a transaction.
    pub is_alone: bool,
    /// How long it took, in microseconds.
    pub micros: Option<u64>,
    /// What it does to tables.
    pub tables: Vec<TableVerdict>,
    /// Catalogs of the whole server that it writes to.
    pub beyond: Vec<String>,
    /// It waits for the end of every transaction that is older than it.
    pub waits_for_everybody: bool,
    /// What the server said when it failed.
    pub failure: Option<StatementFailure>,
    /// Where in the file the server points.
    pub failure_place: Option<Place>,
    /// Why it was not run.
    pub not_run: Option<String>,
}

/// A migration that was rehearsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MigrationVerdict {
    /// What it is called.
    pub tag: String,
    /// Its file.
    pub path: String,
    /// Its statements, up to the first that failed.
    pub statements: Vec<StatementVerdict>,
    /// Why it did not come to its end, beside a failed statement.
    pub stopped: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RehearsalReport {
    /// The database it was done in.
    pub database: String,
    /// Whether that is the live one.
    pub is_live: bool,
    /// What the shadow began with.
    pub contents: Option<ShadowContents>,
    /// The migrations, up to the first that did not come to its end.
    pub migrations: Vec<MigrationVerdict>,
    /// How many had no turn after that.
    pub left_out: usize,
    /// From how many bytes on a table is large.
    pub large_bytes: u64,
}

impl StatementVerdict {
    /// Whether it is over the limit.
    pub fn is_over(&self) -> bool {
        self.tables.iter().any(|table| table.is_over)
    }
}

impl MigrationVerdict {
    /// Whether it came to its end.
    pub fn is_whole(&self) -> bool {
        self.stopped.is_none() && self.statements.iter().all(|statement| statement.failure.is_none())
    }
}

impl RehearsalReport {
    /// Whether there is something to do before these migrations are applied.
    pub fn has_findings(&self) -> bool {
        let over = |migration: &MigrationVerdict| migration.statements.iter().any(StatementVerdict::is_over);
        self.left_out > 0 || self.migrations.iter().any(|one| !one.is_whole() || over(one))
    }
}

/// Says what will be rehearsed where, for the guard.
pub fn plan(request: &RehearsalRequest<'_>, target: Target, clock: &dyn Clock) -> Plan {
    let (operation, effect, mark, where_to) = match request.scene {
        Scene::Shadow(_) => (OPERATION, Effect::Additive, '+', "in a shadow database of its own"),
        Scene::Live(_) => (
            LIVE_OPERATION,
            Effect::Disruptive,
            '~',
            "in the live database, with short bounds, and taken back",
        ),
    };
    let step = |migration: &&Migration| PlanStep {
        name: format!("rehearse {}", migration.tag),
        mark,
        summary: where_to.to_owned(),
    };
    let created_at = clock.now();
    Plan {
        format: PLAN_FORMAT,
        operation: operation.to_owned(),
        effect,
        blast_radius: BlastRadius {
            phrase: format!("rehearse {} migrations in {}", request.migrations.len(), target.environment),
            items: 0,
            bytes: 0,
        },
        target,
        assumptions: Vec::new(),
        steps: request.migrations.iter().map(step).collect(),
        parameters: json!({
            "migrations": request.migrations.iter().map(|one| json!({"tag": one.tag, "hash": one.hash})).collect::<Vec<_>>(),
        }),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Rehearses. The stage is ended whatever happens.
///
/// # Errors
/// `Interrupted` when `cancel` says so; what making, filling and removing a shadow fail with. A statement that fails is no error.
pub async fn rehearse(
    host: &dyn RehearsalHost,
    live: &LiveTables,
    request: &RehearsalRequest<'_>,
    observer: &dyn Observer,
    cancel: &CancellationToken,
    permit: &Permit,
) -> Result<RehearsalReport> {
    // Who holds what is asked for before anything is done: afterwards it would be ourselves.
    let holders = host.lock_holders().await?;
    observer.phase(if matches!(request.scene, Scene::Live(_)) { "begin" } else { "make a shadow database" });
    let told = |text: &str| observer.notice(text);
    let mut stage = match request.scene {
        Scene::Shadow(_) => host.shadow(&told, permit).await?,
        Scene::Live(bounds) => host.on_live(bounds, permit).await?,
    };
    let database = stage.database().to_owned();
    let played = perform(host, stage.as_mut(), request, observer, cancel, permit).await;
    observer.phase(if stage.is_live() { "roll back" } else { "remove the shadow database" });
    let ended = stage.end().await;
    let played = played?;
    ended?;
    let judging = Judging { live, holders: &holders, large_bytes: request.large_bytes };
    Ok(RehearsalReport {
        database,
        is_live: matches!(request.scene, Scene::Live(_)),
        contents: match request.scene {
            Scene::Shadow(contents) => Some(contents),
            Scene::Live(_) => None,
        },
        left_out: request.migrations.len() - played.len(),
        migrations: played.iter().map(|(migration, play)| judging.migration(migration, play)).collect(),
        large_bytes: request.large_bytes,
    })
}

async fn perform<'m>(
    host: &dyn RehearsalHost,
    stage: &mut dyn RehearsalStage,
    request: &RehearsalRequest<'m>,
    observer: &dyn Observer,
    cancel: &CancellationToken,
    permit: &Permit,
) -> Result<Vec<(&'m Migration, Play)>> {
    match request.scene {
        Scene::Live(_) => {}
        Scene::Shadow(ShadowContents::Nothing) => {
            replay(stage, &request.prelude, &request.replayed, observer, cancel).await?;
            stage.look_again();
        }
        Scene::Shadow(contents) => {
            observer.phase("fill it from the live database");
            let filled = cancel.run_until_cancelled(host.fill(&*stage, contents, permit)).await;
            filled.ok_or_else(interrupted)??;
        }
    }
    observer.phase("rehearse");
    let count =
        |migration: &&Migration| migration.chunks().iter().map(|chunk| chunk.statements.len()).sum::<usize>();
    observer.expect(Work { items: request.migrations.iter().map(count).sum::<usize>() as u64, bytes: 0 });
    let mut played = Vec::new();
    for migration in &request.migrations {
        let done = request.done.get(&migration.tag).map(Vec::as_slice).unwrap_or_default();
        let play = play(stage, migration, Purpose::Rehearse, done, observer, cancel).await?;
        let is_whole = play.is_whole();
        played.push((*migration, play));
        if !is_whole {
            break;
        }
    }
    Ok(played)
}

/// What is known of the live database when statements are judged.
struct Judging<'a> {
    live: &'a LiveTables,
    holders: &'a [TableHolder],
    large_bytes: u64,
}

impl Judging<'_> {
    fn migration(&self, migration: &Migration, play: &Play) -> MigrationVerdict {
        let mut statements: Vec<StatementVerdict> =
            play.statements.iter().map(|played| self.statement(played)).collect();
        let steps: Vec<usize> = play.statements.iter().map(|played| played.step).collect();
        add_held(&mut statements, &steps);
        MigrationVerdict {
            tag: migration.tag.clone(),
            path: migration.path.clone(),
            statements,
            stopped: play.stopped.clone(),
        }
    }

    fn statement(&self, played: &Played) -> StatementVerdict {
        let statement = &played.statement;
        let (seen, failure, not_run) = match &played.outcome {
            Outcome::Done(seen) => (Some(seen), None, None),
            Outcome::Failed(failure) => (None, Some(failure.clone()), None),
            Outcome::NotRun(reason) => (None, None, Some((*reason).to_owned())),
        };
        let position = failure.as_ref().and_then(|failure| failure.position);
        StatementVerdict {
            place: statement.place,
            command: statement.command.clone(),
            is_alone: matches!(statement.execution, Execution::Alone(_)),
            micros: seen.map(|seen| seen.micros),
            tables: seen.map(|seen| self.tables(seen, &statement.command)).unwrap_or_default(),
            beyond: seen.map(|seen| seen.beyond.clone()).unwrap_or_default(),
            waits_for_everybody: seen.is_some_and(|seen| seen.waits_for_readers),
            failure_place: position.map(|position| statement.locate(position)),
            failure,
            not_run,
        }
    }

    /// Every table that a statement locked, read or wrote.
    fn tables(&self, seen: &Observation, command: &str) -> Vec<TableVerdict> {
        let mut names: Vec<&TableName> = seen.taken.iter().map(|lock| &lock.table).collect();
        names.extend(&seen.rewritten);
        names.extend(&seen.scanned);
        names.extend(seen.built.iter().map(|build| &build.table));
        names.sort();
        names.dedup();
        names.into_iter().map(|table| self.table(table, seen, command)).collect()
    }

    fn table(&self, table: &TableName, seen: &Observation, command: &str) -> TableVerdict {
        let on = |locks: &[SeenLock]| locks.iter().find(|lock| lock.table == *table).map(|lock| lock.mode);
        let lock = on(&seen.taken);
        let held = on(&seen.held).filter(|held| lock.is_none_or(|lock| *held > lock));
        let strongest = held.max(lock);
        let built: Vec<SeenBuild> =
            seen.built.iter().filter(|build| build.table == *table).cloned().collect();
        let work = work(table, seen, command, !built.is_empty());
        let blocks = blocks(strongest);
        let live = self.live.get(table);
        let is_large = live.is_some_and(|live| live.bytes >= self.large_bytes);
        let takes_long = matches!(work, TableWork::Read | TableWork::Indexed | TableWork::Rewritten);
        TableVerdict {
            table: table.clone(),
            lock,
            held,
            blocks,
            work,
            estimate_ms: estimate_ms(work, live, built.len()),
            held_ms: 0,
            built,
            live,
            waits_for: self.waits_for(table, lock, seen.waits_for_readers),
            is_over: is_large && (work == TableWork::Rewritten || (takes_long && blocks != Blocks::Nobody)),
        }
    }

    /// Who would be waited for now. What waits for older transactions waits for everybody's.
    fn waits_for(&self, table: &TableName, lock: Option<TableLock>, for_everybody: bool) -> Vec<TableHolder> {
        let Some(lock) = lock else { return Vec::new() };
        let in_the_way = |holder: &&TableHolder| {
            for_everybody || (holder.table == *table && holder.mode.conflicts_with(lock))
        };
        let mut found: Vec<TableHolder> = Vec::new();
        for holder in self.holders.iter().filter(in_the_way) {
            let is_told = found.iter().any(|told| told.pid == holder.pid);
            if !is_told && found.len() < HOLDER_COUNT_MAX {
                found.push(holder.clone());
            }
        }
        found
    }
}

fn work(table: &TableName, seen: &Observation, command: &str, is_indexed: bool) -> TableWork {
    let changes_rows = command.starts_with("UPDATE") || command.starts_with("DELETE");
    if seen.rewritten.contains(table) {
        return if command.starts_with("TRUNCATE") { TableWork::Emptied } else { TableWork::Rewritten };
    }
    match (is_indexed, seen.scanned.contains(table)) {
        (true, _) => TableWork::Indexed,
        (false, true) if changes_rows => TableWork::Changed,
        (false, true) => TableWork::Read,
        (false, false) => TableWork::None,
    }
}

fn blocks(lock: Option<TableLock>) -> Blocks {
    match lock {
        Some(lock) if lock.blocks_reads() => Blocks::Reads,
        Some(lock) if lock.blocks_writes() => Blocks::Writes,
        _ => Blocks::Nobody,
    }
}

/// About how long work on a live table takes, in milliseconds.
fn estimate_ms(work: TableWork, live: Option<LiveTable>, index_count: usize) -> u64 {
    let Some(live) = live else { return 0 };
    let (bytes, rate) = match work {
        TableWork::None | TableWork::Emptied => return 0,
        TableWork::Read => (live.bytes, READ_BYTES_PER_SECOND),
        TableWork::Indexed => (live.bytes.saturating_mul(index_count.max(1) as u64), BUILD_BYTES_PER_SECOND),
        TableWork::Changed | TableWork::Rewritten => {
            (live.bytes.saturating_add(live.index_bytes), REWRITE_BYTES_PER_SECOND)
        }
    };
    bytes.saturating_mul(1_000) / rate
}

/// How long each lock is held: until the end of its transaction, so over the work of every statement after it.
fn add_held(statements: &mut [StatementVerdict], steps: &[usize]) {
    let mut rest = 0;
    for at in (0..statements.len()).rev() {
        let (step, next) = (steps.get(at), steps.get(at + 1));
        if step != next {
            rest = 0;
        }
        let Some(statement) = statements.get_mut(at) else { continue };
        // Tables of one statement are worked on one after the other.
        rest += statement.tables.iter().map(|table| table.estimate_ms).sum::<u64>();
        for table in statement.tables.iter_mut().filter(|table| table.blocks != Blocks::Nobody) {
            table.held_ms = rest;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::live::tests::live;
    use super::*;

    const MIB: u64 = 1 << 20;

    fn name(table: &str) -> TableName {
        TableName { schema: "public".to_owned(), name: table.to_owned() }
    }

    fn locked(table: &str, mode: TableLock) -> Vec<SeenLock> {
        vec![SeenLock { table: name(table), mode }]
    }

    fn judged(seen: &Observation, command: &str, holders: &[TableHolder]) -> Vec<TableVerdict> {
        let live = live(&[("orders", 640 * MIB), ("users", MIB)]);
        Judging { live: &live, holders, large_bytes: 64 * MIB }.tables(seen, command)
    }

    #[test]
    fn what_is_over_the_limit() {
        let orders = || vec![name("orders")];
        let built =
            |table: &str| vec![SeenBuild { table: name(table), index: "i".to_owned(), is_rebuilt: false }];
        let seen = |table: &str, mode: TableLock| Observation {
            taken: locked(table, mode),
            ..Observation::default()
        };
        let exclusive = || seen("orders", TableLock::AccessExclusive);
        let rows = [
            ("a brief lock", exclusive(), "ALTER TABLE", Blocks::Reads, TableWork::None, false),
            (
                "a rewrite",
                Observation { rewritten: orders(), scanned: orders(), ..exclusive() },
                "ALTER TABLE",
                Blocks::Reads,
                TableWork::Rewritten,
                true,
            ),
            (
                "a truncate",
                Observation { rewritten: orders(), ..exclusive() },
                "TRUNCATE",
                Blocks::Reads,
                TableWork::Emptied,
                false,
            ),
            (
                "a scan that nobody may read beside",
                Observation { scanned: orders(), ..exclusive() },
                "ALTER TABLE",
                Blocks::Reads,
                TableWork::Read,
                true,
            ),
            (
                "a scan beside everybody",
                Observation { scanned: orders(), ..seen("orders", TableLock::ShareUpdateExclusive) },
                "ALTER TABLE",
                Blocks::Nobody,
                TableWork::Read,
                false,
            ),
            (
                "an index",
                Observation { built: built("orders"), scanned: orders(), ..seen("orders", TableLock::Share) },
                "CREATE INDEX",
                Blocks::Writes,
                TableWork::Indexed,
                true,
            ),
            (
                "an index beside everybody",
                Observation { built: built("orders"), ..seen("orders", TableLock::ShareUpdateExclusive) },
                "CREATE INDEX",
                Blocks::Nobody,
                TableWork::Indexed,
                false,
            ),
            (
                "an index on a small table",
                Observation { built: built("users"), ..seen("users", TableLock::Share) },
                "CREATE INDEX",
                Blocks::Writes,
                TableWork::Indexed,
                false,
            ),
            (
                "an update of all rows",
                Observation { scanned: orders(), ..seen("orders", TableLock::RowExclusive) },
                "UPDATE",
                Blocks::Nobody,
                TableWork::Changed,
                false,
            ),
        ];
        for (what, seen, command, blocks, work, is_over) in rows {
            let verdicts = judged(&seen, command, &[]);
            assert_eq!(verdicts.len(), 1, "{what}");
            let verdict = &verdicts[0];
            assert_eq!((verdict.blocks, verdict.work, verdict.is_over), (blocks, work, is_over), "{what}");
        }
    }

    #[test]
    fn a_lock_of_an_earlier_statement_still_blocks() {
        let seen = Observation {
            taken: locked("orders", TableLock::Share),
            held: locked("orders", TableLock::AccessExclusive),
            ..Observation::default()
        };
        let verdict = judged(&seen, "CREATE INDEX", &[]).pop().unwrap();
        assert_eq!((verdict.lock, verdict.held), (Some(TableLock::Share), Some(TableLock::AccessExclusive)));
        assert_eq!(verdict.blocks, Blocks::Reads);
    }

    #[test]
    fn only_who_is_in_the_way_is_waited_for() {
        let holder = |pid: i32, table: &str, mode: TableLock| TableHolder {
            table: name(table),
            mode,
            pid: Some(pid),
            app_name: "report".to_owned(),
            user: None,
            transaction_seconds: 60,
        };
        let holders = [
            holder(1, "orders", TableLock::AccessShare),
            holder(2, "users", TableLock::AccessShare),
            holder(3, "orders", TableLock::RowExclusive),
        ];
        let pids = |mode: TableLock, waits_for_readers: bool| {
            let seen =
                Observation { taken: locked("orders", mode), waits_for_readers, ..Observation::default() };
            let verdict = judged(&seen, "ALTER TABLE", &holders).pop().unwrap();
            verdict.waits_for.iter().filter_map(|holder| holder.pid).collect::<Vec<_>>()
        };
        assert_eq!(pids(TableLock::AccessExclusive, false), [1, 3]);
        assert_eq!(pids(TableLock::Share, false), [3]);
        assert_eq!(pids(TableLock::ShareUpdateExclusive, false), [] as [i32; 0]);
        assert_eq!(pids(TableLock::ShareUpdateExclusive, true), [1, 2, 3]);
    }

    #[test]
    fn a_lock_is_held_until_its_transaction_ends() {
        let verdict = |seen: Observation| StatementVerdict {
            place: Place::START,
            command: "ALTER TABLE".to_owned(),
            is_alone: false,
            micros: Some(1),
            tables: judged(&seen, "ALTER TABLE", &[]),
            beyond: Vec::new(),
            waits_for_everybody: false,
            failure: None,
            failure_place: None,
            not_run: None,
        };
        let brief = || {
            verdict(Observation {
                taken: locked("users", TableLock::AccessExclusive),
                ..Observation::default()
            })
        };
        let long = || {
            verdict(Observation {
                taken: locked("orders", TableLock::AccessExclusive),
                rewritten: vec![name("orders")],
                ..Observation::default()
            })
        };
        let mut statements = vec![brief(), long(), brief()];
        add_held(&mut statements, &[0, 0, 1]);
        let held: Vec<u64> = statements.iter().map(|statement| statement.tables[0].held_ms).collect();
        // 640 MiB with half as much of indexes, at 32 MiB a second.
        assert_eq!(held, [30_000, 30_000, 0]);
    }
}
