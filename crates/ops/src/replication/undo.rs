//! Undoing what emptied a database: the moment just before it shown by a throw-away server, and keys carried from there to the server at work.
//!
//! Relies on [`search`](super::search) for the command and on [`restore`](super::restore) for the moment. Keys that were written since are left
//! as they are, unless they are to be replaced; the environment's marker always is left.

use mainstay_engine::{KeyCarrier, KeyScanRequest, Keyspace, ReplicaTarget};
use mainstay_guard::{Permit, operation};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    BlastRadius, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result, ResultExt, Target,
    Timestamp,
};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::restore::{self, Expiry, KeysPlanContext, KeysRestoreContext, Parameters};
use super::search::{self, Emptying};
use super::seek::{self, ReplicationTarget, ReplicationWish};
use crate::purge::Glob;

/// Brings back what is not there.
pub const OPERATION: &str = "redis.undo";
/// Also replaces what was written since.
pub const OPERATION_REPLACE: &str = "redis.undo.replace";

/// How many keys are carried at once.
const CARRIED_COUNT_MAX: usize = 64;
/// How much they may take together in the throw-away server's memory, which bounds what this process holds of them; one that is larger goes alone.
const CARRIED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// How long the throw-away server, which nobody else uses, may be busy with one answer.
const ANSWER_TIME_MAX: std::time::Duration = std::time::Duration::from_millis(20);

/// What is to be undone.
#[derive(Debug, Clone)]
pub struct UndoRequest {
    /// The command, by the position after it; the newest `FLUSHALL` or `FLUSHDB` when none is named.
    pub at: Option<u64>,
    /// Names that match one of these come back; all when empty.
    pub patterns: Vec<String>,
    /// In these databases; in those that the command emptied when empty.
    pub databases: Vec<u64>,
    /// Keys that are there are replaced.
    pub replace: bool,
    /// What becomes of moments of expiry.
    pub expiry: Expiry,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UndoParameters {
    moment: Parameters,
    patterns: Vec<String>,
    databases: Vec<u64>,
    replace: bool,
}

/// What an undo works with.
pub struct UndoContext<'a> {
    /// The throw-away server that shows the moment.
    pub scratch: &'a dyn ReplicaTarget,
    /// Its keys.
    pub shown: &'a dyn Keyspace,
    /// The same, to be carried.
    pub from: &'a dyn KeyCarrier,
    /// The server at work.
    pub to: &'a dyn KeyCarrier,
    /// Where set and stream are.
    pub repository: &'a Repository,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops it between two steps.
    pub cancel: &'a CancellationToken,
}

/// What an undo did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UndoReport {
    /// The position of the moment.
    pub offset: u64,
    /// When that was, where it is known.
    pub moment: Option<Timestamp>,
    /// Keys of all databases at that moment.
    pub shown: u64,
    /// Keys that came back.
    pub written: u64,
    /// Keys that are there, and stayed as they were.
    pub kept: u64,
    /// By how many milliseconds every moment of expiry was moved; `None` when they stayed.
    pub shifted_ms: Option<i64>,
}

/// Finds the command and the moment before it, and says what will be done. `held` is how many keys the server holds now.
///
/// # Errors
/// `Precondition` when no such command was captured, or nothing leads to the moment before it; the store's.
pub async fn plan(
    context: &KeysPlanContext<'_>,
    target: Target,
    held: u64,
    request: UndoRequest,
) -> Result<Plan> {
    let emptying = find(context, &target, request.at).await?;
    let wish = ReplicationWish {
        set: None,
        target: ReplicationTarget::Offset(emptying.at),
        inclusive: false,
        server: emptying.server.clone(),
        stream: Some(emptying.id.clone()),
    };
    let (found, _) = seek::find(context.repository, &wish, context.observer).await?;
    let databases = match (request.databases.is_empty(), emptying.database) {
        (true, Some(database)) => vec![database],
        _ => request.databases,
    };
    let name = if request.replace { OPERATION_REPLACE } else { OPERATION };
    let moment = Parameters::of_found(&found, false, request.expiry);
    let step = |mark, name: &str, summary: String| PlanStep { name: name.to_owned(), mark, summary };
    let when = emptying.time.map_or_else(String::new, |at| format!(", {at}"));
    let what = match request.patterns.is_empty() {
        true => "all keys".to_owned(),
        false => format!("keys that match {}", request.patterns.join(", ")),
    };
    let there = if request.replace { "are replaced" } else { "stay as they are" };
    let steps = vec![
        step(
            ' ',
            "show the moment before",
            format!(
                "{} at offset {}{when}: set {} and {} commands, in a throw-away server",
                emptying.command,
                emptying.at,
                found.base.set.id(),
                Count(found.survey.commands)
            ),
        ),
        step(
            if request.replace { '~' } else { '+' },
            "carry back",
            format!("{what}; those that are there {there}"),
        ),
    ];
    let items = if request.replace { held } else { 0 };
    let created_at = context.clock.now();
    let parameters =
        UndoParameters { moment, patterns: request.patterns, databases, replace: request.replace };
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: name.to_owned(),
        effect: operation(name).expect("undoing is registered").effect,
        steps,
        blast_radius: BlastRadius {
            phrase: format!("bring back keys of redis in {}", target.environment),
            items,
            bytes: 0,
        },
        target,
        assumptions: Vec::new(),
        parameters: serde_json::to_value(parameters).expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// The command that is meant.
async fn find(context: &KeysPlanContext<'_>, target: &Target, at: Option<u64>) -> Result<Emptying> {
    let report = search::search(context.repository, None, context.observer).await?;
    let own = |found: &&Emptying| found.server == target.fingerprint;
    let is_meant = |found: &&Emptying| match at {
        Some(at) => found.at == at,
        None => found.command == "FLUSHALL" || found.command == "FLUSHDB",
    };
    let meant: Vec<&Emptying> = report.found.iter().filter(is_meant).collect();
    let newest = meant.iter().rev().find(|found| own(found)).or(meant.last());
    newest.map(|found| (**found).clone()).ok_or_else(|| {
        let what = match at {
            Some(at) => format!("no command that emptied a database ends at offset {at}"),
            None => "no FLUSHALL and no FLUSHDB was captured".to_owned(),
        };
        Error::new(ErrorKind::Precondition, what).with_state("nothing was changed").with_hint(
            "`mainstay redis flushes` lists what was; what was captured so far, `mainstay backup list`",
        )
    })
}

/// Carries out `plan`.
///
/// # Errors
/// As a restore's until the moment is shown; the server's then. Keys that were written stay; applying the plan again goes on.
pub async fn apply(context: &UndoContext<'_>, plan: &Plan, permit: &Permit) -> Result<UndoReport> {
    permit.covers(plan)?;
    let parameters: UndoParameters = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of an undo").with_source(source)
    })?;
    let restoring = KeysRestoreContext {
        server: context.scratch,
        repository: context.repository,
        clock: context.clock,
        observer: context.observer,
        cancel: context.cancel,
    };
    let shown = restore::show(&restoring, &parameters.moment, permit)
        .await
        .map_err(|error| error.with_state("nothing was changed"))?;
    context.observer.phase("carry back");
    context.observer.expect(Work { items: shown.keys(), bytes: 0 });
    let mut report = UndoReport {
        offset: shown.offset,
        moment: shown.moment,
        shown: shown.keys(),
        written: 0,
        kept: 0,
        shifted_ms: shown.shifted_ms,
    };
    match carry(context, &parameters, permit, &mut report).await {
        Ok(()) => Ok(report),
        Err(error) => Err(error
            .with_state(format!("at least {} keys came back and stay", Count(report.written)))
            .with_hint("the same command again brings back the rest")),
    }
}

async fn carry(
    context: &UndoContext<'_>,
    parameters: &UndoParameters,
    permit: &Permit,
    report: &mut UndoReport,
) -> Result<()> {
    let globs: Vec<Glob> = parameters.patterns.iter().map(|pattern| Glob::new(pattern)).collect();
    let marker = context.shown.marker();
    let is_meant =
        |name: &[u8]| name != marker && (globs.is_empty() || globs.iter().any(|glob| glob.matches(name)));
    let sizes = context.shown.databases().await?;
    let databases = sizes.into_iter().map(|size| size.database);
    for database in
        databases.filter(|it| parameters.databases.is_empty() || parameters.databases.contains(it))
    {
        let request = KeyScanRequest {
            databases: vec![database],
            pattern: None,
            answer_time_max: ANSWER_TIME_MAX,
            now: 0,
            asks_idle: false,
        };
        let mut sweep = context.shown.sweep(request, None).await?;
        while let Some(mut names) = sweep.next().await? {
            names.retain(|name| is_meant(name));
            let mut rest = names.as_slice();
            while !rest.is_empty() {
                if context.cancel.is_cancelled() {
                    return Err(Error::new(ErrorKind::Interrupted, "the undo was stopped on request"));
                }
                let some = &rest[..rest.len().min(CARRIED_COUNT_MAX)];
                let taken = context.from.take(database, some, CARRIED_BYTES_MAX).await?;
                let put = context.to.put(database, &taken.keys, parameters.replace, permit).await;
                let counted = put.context("carry keys back")?;
                report.written += counted.written;
                report.kept += counted.kept;
                context.observer.advance(Work { items: taken.names as u64, bytes: 0 });
                rest = &rest[taken.names..];
            }
        }
    }
    Ok(())
}
