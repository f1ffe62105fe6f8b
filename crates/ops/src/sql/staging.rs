//! Migrations run on a stage: one transaction each, what must run alone by itself, as applying them would.
//!
//! What acts on the whole server, on its files or on another server is not run at all; what turns out to have done so is never committed, which
//! is the stage's business. The first failure ends it: what comes after would fail for that alone.

use mainstay_engine::{Observation, RehearsalStage, Rehearsed, StatementFailure};
use mainstay_migrations::{Alone, Execution, Migration, Statement, Step, steps};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

/// Functions that act on the whole server, on its files or on another server at once, whatever becomes of the transaction that calls them.
const BEYOND: &[&str] = &[
    "dblink",
    "lo_export",
    "pg_cancel_backend",
    "pg_copy_logical_replication_slot",
    "pg_copy_physical_replication_slot",
    "pg_create_logical_replication_slot",
    "pg_create_physical_replication_slot",
    "pg_create_restore_point",
    "pg_drop_replication_slot",
    "pg_file_",
    "pg_promote",
    "pg_reload_conf",
    "pg_replication_origin_",
    "pg_replication_slot_advance",
    "pg_rotate_logfile",
    "pg_stat_reset_shared",
    "pg_switch_wal",
    "pg_terminate_backend",
    "pg_wal_replay_",
];

/// What came of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was carried out.
    Done(Observation),
    /// The server refused it.
    Failed(StatementFailure),
    /// It was not run, for this reason.
    NotRun(&'static str),
}

/// What a migration is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To see what it would do.
    Rehearse,
    /// To have what it did: its roles are there already, for they are the server's.
    Replay,
}

/// A statement that had its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Played {
    /// Which.
    pub(super) statement: Statement,
    /// The number of its step in the migration, from 0; statements of one transaction share it.
    pub(super) step: usize,
    /// What came of it.
    pub(super) outcome: Outcome,
}

/// A migration that had its turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Play {
    /// Its statements up to the first that failed.
    pub(super) statements: Vec<Played>,
    /// Why it did not come to its end, beside a failed statement: it cannot be run step by step, or a constraint failed that is checked at the end.
    pub(super) stopped: Option<String>,
}

impl Play {
    /// Whether it came to its end.
    pub(super) fn is_whole(&self) -> bool {
        self.stopped.is_none() && self.failure().is_none()
    }

    /// The statement that failed, and what the server said.
    pub(super) fn failure(&self) -> Option<(&Statement, &StatementFailure)> {
        self.statements.iter().find_map(|played| match &played.outcome {
            Outcome::Failed(failure) => Some((&played.statement, failure)),
            _ => None,
        })
    }
}

/// Runs a migration but for the steps that are `done`, numbered from 1. Its statements advance `observer` by one item each.
///
/// # Errors
/// `Interrupted` when `cancel` says so; when the connection breaks.
pub(super) async fn play(
    stage: &mut dyn RehearsalStage,
    migration: &Migration,
    purpose: Purpose,
    done: &[u32],
    observer: &dyn Observer,
    cancel: &CancellationToken,
) -> Result<Play> {
    let mut play = Play::default();
    let steps = match steps(migration) {
        Ok(steps) => steps,
        Err(error) => {
            play.stopped = Some(error.to_string());
            return Ok(play);
        }
    };
    stage.reset_settings().await?;
    for (number, step) in steps.into_iter().enumerate() {
        if u32::try_from(number + 1).is_ok_and(|number| done.contains(&number)) {
            continue;
        }
        let is_alone = step.is_alone();
        if !is_alone {
            stage.begin().await?;
        }
        for statement in statements(step) {
            if cancel.is_cancelled() {
                return Err(interrupted());
            }
            let outcome = cancel.run_until_cancelled(outcome(stage, &statement, purpose)).await;
            let outcome = outcome.ok_or_else(interrupted)??;
            observer.advance(Work { items: 1, bytes: 0 });
            let has_failed = matches!(outcome, Outcome::Failed(_));
            play.statements.push(Played { statement, step: number, outcome });
            if has_failed {
                return Ok(play);
            }
        }
        if !is_alone && let Some(failure) = stage.commit().await? {
            play.stopped =
                Some(format!("at the end of the transaction: {} ({})", failure.message, failure.code));
            return Ok(play);
        }
    }
    Ok(play)
}

fn statements(step: Step) -> Vec<Statement> {
    match step {
        Step::Transaction(statements) => statements,
        Step::Alone(statement) => vec![statement],
    }
}

async fn outcome(stage: &mut dyn RehearsalStage, statement: &Statement, purpose: Purpose) -> Result<Outcome> {
    if let Some(reason) = not_run(statement, purpose) {
        return Ok(Outcome::NotRun(reason));
    }
    let rehearsed = match &statement.execution {
        Execution::Alone(_) if stage.is_live() => {
            return Ok(Outcome::NotRun("it cannot be taken back in the live database"));
        }
        Execution::Alone(_) if stage.is_open_ended() => {
            return Ok(Outcome::NotRun(
                "a statement before it acts beyond the database, so that nothing is committed, and this needs it to be",
            ));
        }
        Execution::Alone(_) => stage.observe_alone(&statement.text).await?,
        Execution::Transactional | Execution::Control(_) => stage.observe(&statement.text).await?,
    };
    Ok(match rehearsed {
        Rehearsed::Done(observation) => Outcome::Done(observation),
        Rehearsed::Failed(failure) => Outcome::Failed(failure),
    })
}

/// Why a statement is not run on a stage, if it is not: nothing would take back what it does, or it is done already.
fn not_run(statement: &Statement, purpose: Purpose) -> Option<&'static str> {
    let is_of_role = |command: &str| {
        let mut words = command.split(' ');
        let (verb, object) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let is_mapping = words.next() == Some("MAPPING");
        matches!(verb, "CREATE" | "ALTER" | "DROP")
            && matches!(object, "ROLE" | "USER" | "GROUP")
            && !is_mapping
    };
    match &statement.execution {
        Execution::Alone(Alone::Database | Alone::Tablespace | Alone::AlterSystem | Alone::Prepared) => {
            Some("it acts on the whole server")
        }
        Execution::Alone(Alone::Subscription) => Some("it acts on another server"),
        _ if purpose == Purpose::Replay && is_of_role(&statement.command) => {
            Some("roles are the server's, and not made again")
        }
        _ if statement.command.starts_with("COPY") => Some("it reads or writes files of the server"),
        _ if statement.command.contains("SUBSCRIPTION") => Some("it acts on another server"),
        _ if calls_beyond(statement) => Some("it calls a function that acts beyond the database"),
        _ => None,
    }
}

/// Whether the text names a function that acts beyond the database, or copies to and from files within a block. What only declares a function is run:
/// nobody calls it by that.
fn calls_beyond(statement: &Statement) -> bool {
    let declares = ["CREATE", "ALTER", "DROP", "COMMENT", "GRANT", "REVOKE"];
    let first = statement.command.split(' ').next().unwrap_or_default();
    if declares.contains(&first) {
        return false;
    }
    let text = statement.text.to_ascii_lowercase();
    BEYOND.iter().any(|function| text.contains(function)) || (first == "DO" && text.contains("copy "))
}

/// The rehearsal was stopped on request.
pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "the rehearsal was stopped on request")
        .with_state("nothing was changed")
        .with_hint("the same command begins anew")
}

#[cfg(test)]
mod tests {
    use mainstay_migrations::Place;
    use mainstay_model::Effect;

    use super::*;

    fn statement(command: &str, execution: Execution) -> Statement {
        Statement {
            chunk: 1,
            number: 1,
            place: Place::START,
            offset: 0,
            text: command.to_owned(),
            command: command.to_owned(),
            execution,
            effect: Effect::Additive,
            reason: None,
            tables: Vec::new(),
        }
    }

    #[test]
    fn what_nothing_takes_back_is_not_run() {
        let plain = |command: &str| statement(command, Execution::Transactional);
        for (statement, rehearsed, replayed) in [
            (plain("ALTER TABLE"), true, true),
            (plain("CREATE ROLE"), true, false),
            (plain("ALTER USER"), true, false),
            (plain("CREATE USER MAPPING"), true, true),
            (plain("COPY"), false, false),
            (plain("CREATE SUBSCRIPTION"), false, false),
            (plain("SELECT PG_DROP_REPLICATION_SLOT('other')"), false, false),
            (plain("CREATE EXTENSION dblink"), true, true),
            (statement("VACUUM", Execution::Alone(Alone::Vacuum)), true, true),
            (statement("DROP DATABASE", Execution::Alone(Alone::Database)), false, false),
            (statement("ALTER SYSTEM", Execution::Alone(Alone::AlterSystem)), false, false),
        ] {
            let runs = |purpose| not_run(&statement, purpose).is_none();
            let told = (runs(Purpose::Rehearse), runs(Purpose::Replay));
            assert_eq!(told, (rehearsed, replayed), "{}", statement.command);
        }
    }
}
