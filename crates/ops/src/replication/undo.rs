//! Undoing what emptied a database: the moment just before it shown by a throw-away server, and keys carried from there to the server at work.
//!
//! Relies on [`search`](super::search) for the command and on [`restore`](super::restore) for the moment. The command is looked for in the
//! stream that led to where the server at work stands, and in no other server's. Keys that were written since are left as they are, unless
//! they are to be replaced; the environment's marker always is left out, which is told: who wrote it says which server it is. Refuses to
//! guess which database was emptied.

use mainstay_engine::{
    CarriedCount, KeyCarrier, KeyScanRequest, KeyServerProgram, Keyspace, ReplicaTarget, ReplicationFacts,
};
use mainstay_guard::{Permit, operation};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    BlastRadius, ByteSize, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result, ResultExt,
    Target, Timestamp,
};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::log::ReplicationLog;
use super::restore::{self, Expiry, KeysPlanContext, KeysRestoreContext, Parameters};
use super::search::{self, Emptied, Emptying};
use super::seek::{self, Found, ReplicationTarget, ReplicationWish};
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

/// The server at work.
#[derive(Debug)]
pub struct UndoServer {
    /// The server.
    pub target: Target,
    /// Where its stream stands.
    pub stream: ReplicationFacts,
    /// How many keys it holds now.
    pub held: u64,
}

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

impl UndoParameters {
    fn of(plan: &Plan) -> Result<Self> {
        let parameters: Self = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of an undo").with_source(source)
        })?;
        restore::check_operation(plan, operation_of(parameters.replace))?;
        Ok(parameters)
    }
}

/// The operation of an undo, by whether keys that are there are replaced.
fn operation_of(replace: bool) -> &'static str {
    if replace { OPERATION_REPLACE } else { OPERATION }
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
    /// What that is.
    pub program: &'a KeyServerProgram,
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

/// Finds the command and the moment before it, and says what will be done.
///
/// # Errors
/// `Precondition` when no such command of this server was captured, nothing leads to the moment before it, or it removed nothing; `Usage` when
/// it is not known which database it emptied; the store's.
pub async fn plan(context: &KeysPlanContext<'_>, server: UndoServer, request: UndoRequest) -> Result<Plan> {
    let emptying = find(context, &server, request.at).await?;
    let databases = match request.databases.is_empty() {
        true => emptied(&emptying)?,
        false => request.databases.clone(),
    };
    let wish = ReplicationWish {
        set: None,
        target: ReplicationTarget::Offset(emptying.at),
        inclusive: false,
        server: emptying.server.clone(),
        stream: Some(emptying.id.clone()),
    };
    let (found, _) = seek::find(context.repository, &wish, context.observer).await?;
    let name = operation_of(request.replace);
    let created_at = context.clock.now();
    let steps = steps(&emptying, &found, &request, &databases);
    let moment = Parameters::of_found(&found, request.expiry);
    let UndoRequest { patterns, replace, .. } = request;
    let parameters = UndoParameters { moment, patterns, databases, replace };
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: name.to_owned(),
        effect: operation(name).expect("undoing is registered").effect,
        steps,
        blast_radius: BlastRadius {
            phrase: format!("bring back keys of redis in {}", server.target.environment),
            items: if replace { server.held } else { 0 },
            bytes: 0,
        },
        target: server.target,
        assumptions: Vec::new(),
        parameters: serde_json::to_value(parameters).expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn steps(emptying: &Emptying, found: &Found, request: &UndoRequest, databases: &[u64]) -> Vec<PlanStep> {
    let step = |mark, name: &str, summary: String| PlanStep { name: name.to_owned(), mark, summary };
    let contents = &found.base.contents;
    let when = emptying.time.map_or_else(String::new, |at| format!(", {at}"));
    let what = match request.patterns.is_empty() {
        true => "all keys".to_owned(),
        false => format!("keys that match {}", request.patterns.join(", ")),
    };
    let numbers: Vec<String> = databases.iter().map(u64::to_string).collect();
    let of = match numbers.as_slice() {
        [] => "every database".to_owned(),
        numbers => format!("database {}", numbers.join(", ")),
    };
    let (mark, there) = if request.replace { ('~', "are replaced") } else { ('+', "stay as they are") };
    vec![
        step(
            ' ',
            "show the moment before",
            format!(
                "{} at offset {}{when}, of server {} in {}: set {} and {} commands, in a throw-away server on this machine, in memory \
                 for {} keys (their file: {})",
                emptying.command,
                emptying.at,
                emptying.server,
                emptying.environment,
                found.base.set.id(),
                Count(found.survey.commands),
                Count(contents.keys()),
                ByteSize(contents.bytes),
            ),
        ),
        step(
            mark,
            "carry back",
            format!(
                "{what} of {of}; those that are there {there}; the environment's marker is left out, `mainstay environment mark` writes it"
            ),
        ),
    ]
}

/// The databases that a command has emptied; none for all.
fn emptied(emptying: &Emptying) -> Result<Vec<u64>> {
    match emptying.emptied {
        Emptied::All => Ok(Vec::new()),
        Emptied::Database { database } => Ok(vec![database]),
        Emptied::Unknown => Err(Error::new(
            ErrorKind::Usage,
            format!(
                "the stream does not tell which database {} at offset {} was for",
                emptying.command, emptying.at
            ),
        )
        .with_state("nothing was changed")
        .with_hint(format!("name it: `mainstay redis undo --at {} --database NUMBER`", emptying.at))),
        Emptied::Swapped { databases: (one, other) } => Err(Error::new(
            ErrorKind::Precondition,
            format!(
                "SWAPDB at offset {} removed nothing: databases {one} and {other} took each other's place",
                emptying.at
            ),
        )
        .with_state("nothing was changed")
        .with_hint(format!("type `SWAPDB {one} {other}` on the server"))),
    }
}

/// The command that is meant, in the stream of the server at work.
async fn find(context: &KeysPlanContext<'_>, server: &UndoServer, at: Option<u64>) -> Result<Emptying> {
    let refuse = |what: String, hint: &str| {
        Error::new(ErrorKind::Precondition, what).with_state("nothing was changed").with_hint(hint)
    };
    let log = ReplicationLog::read(context.repository).await?;
    let servers = log.servers_of(&server.stream);
    if servers.is_empty() {
        return Err(refuse(
            format!("no captured stream leads to where the server at {} stands", server.target.address),
            "`mainstay redis flushes` lists what was captured, of which server; `mainstay restore plan --store redis --before OFFSET \
             --into scratch` shows a moment of any",
        ));
    }
    let sought = search::newest(context.repository, &servers, at, context.observer).await?;
    // A command that is named is found whatever else cannot be read.
    let fault = sought.unsearched.first().filter(|_| at.is_none() || sought.found.is_none());
    if let Some((chain, fault)) = fault {
        let what = match at {
            Some(at) => format!("whether a command ends at offset {at} is not known"),
            None => "which flush is the newest is not known".to_owned(),
        };
        return Err(refuse(
            format!("{what}: chain {chain} of the stream cannot be searched to its end: {fault}"),
            "`mainstay redis flushes` lists those that were found: name one by its offset, `--at OFFSET`",
        ));
    }
    sought.found.ok_or_else(|| {
        let what = match at {
            Some(at) => format!("no command that emptied a database of this server ends at offset {at}"),
            None => "no FLUSHALL and no FLUSHDB of this server was captured".to_owned(),
        };
        refuse(
            what,
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
    let parameters = UndoParameters::of(plan)?;
    let scratch = context.scratch.replica_facts().await?;
    restore::check_carrier(&scratch.program, context.program)?;
    let restoring = KeysRestoreContext {
        server: context.scratch,
        repository: context.repository,
        clock: context.clock,
        observer: context.observer,
        cancel: context.cancel,
    };
    let shown = restore::show(&restoring, &parameters.moment, "a throw-away server", None, permit)
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
        Err(error) => {
            let error_hint = error.hint().map(str::to_owned);
            Err(error
                .with_state(format!("at least {} keys came back and stay", Count(report.written)))
                .with_hint(match error_hint {
                    Some(hint) => format!("{hint}; the same command again brings back the rest"),
                    None => "the same command again brings back the rest".to_owned(),
                }))
        }
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
    let mut taking = context.from.taking().await?;
    let mut putting = context.to.putting(parameters.replace, permit).await?;
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
                let taken = taking.take(database, some, CARRIED_BYTES_MAX).await?;
                let mut counted = CarriedCount::default();
                let put = putting.put(database, &taken.keys, &mut counted).await;
                report.written += counted.written;
                report.kept += counted.kept;
                put.context("carry keys back")?;
                context.observer.advance(Work { items: taken.names as u64, bytes: 0 });
                rest = &rest[taken.names..];
            }
        }
    }
    Ok(())
}
