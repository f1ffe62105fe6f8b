//! A statement that no transaction may hold, watched from beside.
//!
//! Such a statement works in several transactions of its own and waits between them for those of others, so that its locks come and go. In a
//! database that nobody else uses it would be over before anybody had looked. So it is made to wait: an [`Obstacle`] holds every table, first
//! in a mode that nobody passes, then in one that lets readers and writers pass, then as a reader does, with an old snapshot; each time the
//! statement is seen to wait, for a lock or for the obstacle's transaction, what it holds and wants is written down, and the obstacle gives way by one step. A
//! second reader is there before the last step, for statements that wait twice.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use mainstay_engine::{Observation, Rehearsed, TableLock, TableName};
use mainstay_model::Result;
use tokio::time::{Instant, timeout};

use crate::config::Settings;
use crate::quote::name as quoted;
use crate::session::Session;

use super::look::{Baseline, Files, Locks};
use super::stage::{Stage, micros, refusal};

/// How often is looked.
const PAUSE: Duration = Duration::from_millis(4);
/// How long to wait for locks: the server's own vacuuming lets others pass after a second.
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// The same where the statement itself may be what keeps a reader out.
const SHORT_PATIENCE: Duration = Duration::from_millis(200);
/// More tables than this are not all held: the server's table of locks has an end.
const TABLE_COUNT_MAX: usize = 1_000;

/// Who stands in the way.
struct Obstacle {
    session: Session<'static>,
    /// How often it can give way before it is gone.
    steps: u8,
}

impl Obstacle {
    /// One that only reads: with a snapshot, and a lock on every table as readers have it.
    async fn reader(settings: &Settings, tables: &[String], patience: Duration) -> Result<Self> {
        let session = Session::open_for_long(settings).await?;
        let bounds = format!(
            "SET lock_timeout = {}; SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0",
            patience.as_millis()
        );
        session.rows(&bounds).await?;
        session.rows("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        session.rows("SELECT 1").await?;
        lock(&session, tables, TableLock::AccessShare).await?;
        Ok(Self { session, steps: 0 })
    }

    /// One that lets nobody pass.
    async fn closed(settings: &Settings, tables: &[String]) -> Result<Self> {
        let mut obstacle = Self::reader(settings, tables, LONG_PATIENCE).await?;
        for (step, mode) in [(1, TableLock::Share), (2, TableLock::AccessExclusive)] {
            obstacle.session.rows(&format!("SAVEPOINT step_{step}")).await?;
            lock(&obstacle.session, tables, mode).await?;
            obstacle.steps = step;
        }
        Ok(obstacle)
    }

    /// Gives up its strongest lock, and nothing else. False when there is none but that of a reader.
    async fn give_way(&mut self) -> Result<bool> {
        if self.steps == 0 {
            return Ok(false);
        }
        self.session.rows(&format!("ROLLBACK TO SAVEPOINT step_{}", self.steps)).await?;
        self.steps -= 1;
        Ok(true)
    }

    /// Goes away. When this returns nobody waits for it any more.
    async fn end(self) {
        // A connection that is gone holds nothing either.
        drop(self.session.rows("ROLLBACK").await);
    }
}

async fn lock(session: &Session<'_>, tables: &[String], mode: TableLock) -> Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let only: Vec<String> = tables.iter().map(|table| format!("ONLY {table}")).collect();
    session.rows(&format!("LOCK TABLE {} IN {mode} MODE", only.join(", "))).await.map(drop)
}

/// What is in the way of the statement, and how it goes away.
struct Way<'a> {
    settings: &'a Settings,
    tables: Vec<String>,
    first: Option<Obstacle>,
    second: Option<Obstacle>,
    second_was_there: bool,
}

impl<'a> Way<'a> {
    async fn blocked(settings: &'a Settings, baseline: &Baseline) -> Self {
        let name = |table: &TableName| format!("{}.{}", quoted(&table.schema), quoted(&table.name));
        let mut tables: Vec<String> = baseline.tables().map(name).collect();
        if tables.len() > TABLE_COUNT_MAX {
            tables.clear();
        }
        // There may be more than the server can lock: then only what is quick enough is seen.
        let first = Obstacle::closed(settings, &tables).await.ok();
        Self { settings, tables, first, second: None, second_was_there: false }
    }

    /// One step: the statement waits.
    async fn give_way(&mut self) -> Result<()> {
        if let Some(first) = &mut self.first
            && first.give_way().await?
        {
            return Ok(());
        }
        if self.first.is_some() && !self.second_was_there {
            // What the statement wants of some table by now may keep a reader out: then there is none.
            self.second = Obstacle::reader(self.settings, &self.tables, SHORT_PATIENCE).await.ok();
            self.second_was_there = true;
        }
        if let Some(obstacle) = self.first.take().or_else(|| self.second.take()) {
            obstacle.end().await;
        }
        Ok(())
    }

    /// Leaves nothing in the way of the next statement.
    async fn end(self) {
        for obstacle in [self.first, self.second].into_iter().flatten() {
            obstacle.end().await;
        }
    }
}

/// Runs `statement` and watches it.
pub(super) async fn observe(stage: &Stage, statement: &str) -> Result<Rehearsed> {
    let empty = Baseline::default();
    let (settings, baseline) = (&stage.inside, stage.baseline.as_ref().unwrap_or(&empty));
    let watcher = Session::open(settings).await?;
    let row = stage.session.row("SELECT pg_catalog.pg_backend_pid() AS pid").await?;
    let pid = stage.session.number(&row, "pid")?.to_string();
    let before = Files::read(&watcher).await?;
    // Tables may have come and gone since the baseline.
    let mut way = Way::blocked(settings, &Baseline::read(&watcher).await?).await;

    let begun = Instant::now();
    let (mut waited, mut waits_for_readers) = (0, false);
    let mut seen: BTreeMap<u32, BTreeSet<TableLock>> = BTreeMap::new();
    let mut work = pin!(stage.session.client.simple_query(statement));
    let outcome = loop {
        if let Ok(outcome) = timeout(PAUSE, work.as_mut()).await {
            break outcome;
        }
        let looked = Instant::now();
        let locks = Locks::read(&watcher, &pid).await?;
        for (number, modes) in locks.held.iter().chain(&locks.wanted) {
            seen.entry(*number).or_default().extend(modes);
        }
        if locks.is_waiting() {
            waits_for_readers |= locks.awaits_transaction;
            way.give_way().await?;
            waited += micros(looked);
        }
    };
    let took = micros(begun).saturating_sub(waited);
    way.end().await;
    if let Err(error) = outcome {
        return refusal(error, settings).map(Rehearsed::Failed);
    }
    let after = Files::read(&watcher).await?;
    Ok(Rehearsed::Done(Observation {
        micros: took,
        taken: baseline.locks(&seen),
        waits_for_readers,
        ..before.changes(&after, baseline)
    }))
}
