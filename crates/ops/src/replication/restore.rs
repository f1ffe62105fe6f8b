//! Restoring a Redis: a set, and the stream behind it up to a moment, sent to a server as its primary would send them.
//!
//! [`plan`] finds the moment and says what will be done; [`apply`] reads back and judges everything it needs before the server hears of it,
//! fills the server, waits until that has acknowledged exactly the last byte, and makes it a server of its own. Relies on [`ReplicaTarget`].
//! Refuses a server that holds keys, unless the plan says that they go.

use futures::StreamExt as _;
use mainstay_engine::{KeyspaceSize, ReplicaFacts, ReplicaFeed, ReplicaTarget, ReplicationPoint};
use mainstay_guard::{BackupEvidence, Permit, operation};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    Blake3, BlastRadius, ByteSize, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result,
    ResultExt, SetId, StoreKind, Target, Timestamp,
};
use mainstay_repository::{Repository, Set};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::log::{PartRecord, ReplicationLog, WayPart, pieces};
use super::seek::{self, Found, Late, ReplicationWish, Survey};
use crate::append_only::AppendOnlySetContents;
use crate::keyfile::{self, KeyFileSetContents};

/// Fills an empty server.
const OPERATION_NEW: &str = "restore.apply.new";
/// Replaces what a server holds.
const OPERATION_DROP: &str = "restore.apply.drop";

/// How long the name of a stream is.
const STREAM_ID_LENGTH: usize = 40;

/// What becomes of moments of expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// They stay. What would have expired by now expires at once.
    Keep,
    /// They move by the time from the restored moment to now: every key lives as much longer as it had left then.
    Shift,
}

/// The fingerprint of a throw-away server that is started for the restore and ends with it.
pub const SCRATCH: &str = "scratch";

/// What a restore is asked for.
#[derive(Debug)]
pub struct KeysRestoreRequest {
    /// The server to fill, as it is now; `None` for a throw-away one.
    pub server: Option<ReplicaFacts>,
    /// The moment; without one the set as it is.
    pub wish: Option<ReplicationWish>,
    /// The set, where no moment is wished for.
    pub set: Option<Set>,
    /// Keys that the server holds go.
    pub drop: bool,
    /// What becomes of moments of expiry.
    pub expiry: Expiry,
}

/// What a plan keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    set: SetId,
    manifest: Blake3,
    /// The position that the set shows.
    from: u64,
    /// The last position that is sent.
    through: u64,
    /// When that came, in milliseconds since 1970.
    at_ms: Option<i64>,
    way: Vec<PartRecord>,
    drop: bool,
    expiry: Expiry,
}

impl Parameters {
    /// What leads to a moment that was found.
    pub(super) fn of_found(found: &Found, drop: bool, expiry: Expiry) -> Self {
        let through = found.survey.boundary;
        Self {
            set: found.base.set.id().clone(),
            manifest: found.base.set.manifest_blake3(),
            from: found.base.at.offset,
            through,
            at_ms: found.survey.at_ms,
            way: cut_way(&found.way, through).iter().map(WayPart::record).collect(),
            drop,
            expiry,
        }
    }

    fn of(plan: &Plan) -> Result<Self> {
        serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of a restore of redis")
                .with_source(source)
        })
    }

    /// The moment that is restored, where it is known.
    fn moment(&self) -> Option<Timestamp> {
        self.at_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok())
    }
}

/// What a restore works with.
pub struct KeysRestoreContext<'a> {
    /// The server to fill.
    pub server: &'a dyn ReplicaTarget,
    /// Where set and stream are.
    pub repository: &'a Repository,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops it.
    pub cancel: &'a CancellationToken,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeysRestoreReport {
    /// The set.
    pub set: SetId,
    /// The position that was reached, in the stream that was captured.
    pub offset: u64,
    /// When that was, where it is known.
    pub moment: Option<Timestamp>,
    /// Bytes of the set's file.
    pub file_bytes: u64,
    /// Bytes of the stream behind it.
    pub stream_bytes: u64,
    /// Commands in them.
    pub commands: u64,
    /// The databases at the moment, with keys whose time has passed since.
    pub databases: Vec<KeyspaceSize>,
    /// By how many milliseconds every moment of expiry was moved; `None` when they stayed.
    pub shifted_ms: Option<i64>,
}

impl KeysRestoreReport {
    /// Keys of all databases.
    pub fn keys(&self) -> u64 {
        keys(&self.databases)
    }
}

fn keys(databases: &[KeyspaceSize]) -> u64 {
    databases.iter().map(|size| size.keys).fold(0, u64::saturating_add)
}

/// What deciding works with.
pub struct KeysPlanContext<'a> {
    /// Where set and stream are.
    pub repository: &'a Repository,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
}

/// Decides a restore into the server behind `target`. Reads the stream up to the moment.
///
/// # Errors
/// `Precondition` when nothing leads to the moment, when the server holds keys that are not to go, or is a replica; `Unsupported` when it is
/// older than the one that wrote the set; the store's.
pub async fn plan(
    context: &KeysPlanContext<'_>,
    target: Target,
    request: KeysRestoreRequest,
) -> Result<Plan> {
    let (found, late) = match (&request.wish, &request.set) {
        (Some(wish), _) => seek::find(context.repository, wish, context.observer).await?,
        (None, Some(set)) => (alone(set)?, None),
        (None, None) => {
            return Err(Error::new(ErrorKind::NotFound, "the repository holds no backup set of redis")
                .with_hint("`mainstay backup create --store redis` makes one"));
        }
    };
    let held = request.server.as_ref().map_or(0, |facts| keys(&facts.databases));
    if let Some(facts) = &request.server {
        check_server(facts, request.drop, &target)?;
        check_version(&found.base.contents.server.version, &facts.version)?;
    }
    let name = if request.drop { OPERATION_DROP } else { OPERATION_NEW };
    let parameters = Parameters::of_found(&found, request.drop, request.expiry);
    let created_at = context.clock.now();
    let phrase = match request.drop {
        true => format!("replace {} keys of redis in {}", Count(held), target.environment),
        false => format!("restore redis of {}", target.environment),
    };
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: name.to_owned(),
        effect: operation(name).expect("restores are registered").effect,
        steps: steps(&found, &parameters, late, held),
        blast_radius: BlastRadius { phrase, items: held, bytes: 0 },
        target,
        assumptions: Vec::new(),
        parameters: serde_json::to_value(parameters).expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// A set as it is.
fn alone(set: &Set) -> Result<Found> {
    if AppendOnlySetContents::is_of(set) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "backup set {} holds an append-only file, from which a server starts by itself",
                set.id()
            ),
        )
        .with_state("nothing was changed")
        .with_hint("restore it into a folder: `--into DIR`"));
    }
    let contents: KeyFileSetContents = set.contents()?;
    // A server that keeps no stream tells no position.
    let at = contents.replication.clone().unwrap_or(ReplicationPoint { id: String::new(), offset: 0 });
    let survey = Survey { boundary: at.offset, ..Survey::default() };
    let base = super::log::BaseSet { set: set.clone(), contents, at };
    Ok(Found { base, way: Vec::new(), survey })
}

/// The way up to `through`.
fn cut_way(way: &[WayPart], through: u64) -> Vec<WayPart> {
    let parts = way.iter().filter(|part| part.after < through);
    parts.map(|part| WayPart { through: part.through.min(through), ..part.clone() }).collect()
}

fn check_server(facts: &ReplicaFacts, drop: bool, target: &Target) -> Result<()> {
    let held = keys(&facts.databases);
    let refuse = |message: String, hint: &str| {
        Err(Error::new(ErrorKind::Precondition, message).with_state("nothing was changed").with_hint(hint))
    };
    if facts.is_replica {
        return refuse(
            format!("the server at {} is a replica of another one", target.address),
            "type `REPLICAOF NO ONE` on it, or name its primary with --redis-url",
        );
    }
    if held > 0 && !drop {
        return refuse(
            format!("the server at {} holds {} keys", target.address, Count(held)),
            "name an empty server with --redis-url, try it on a throw-away one with `--into scratch`, or replace all keys with --drop",
        );
    }
    Ok(())
}

/// Refuses a server that cannot read what a newer one wrote.
fn check_version(written: &str, reads: &str) -> Result<()> {
    let number = |version: &str| -> Option<(u32, u32)> {
        let mut parts = version.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    match (number(written), number(reads)) {
        (Some(written_by), Some(read_by)) if read_by < written_by => Err(Error::new(
            ErrorKind::Unsupported,
            format!("the set was written by Redis {written}; the server is {reads} and cannot read it"),
        )
        .with_state("nothing was changed")
        .with_hint("restore into a server of the same or a newer version")),
        _ => Ok(()),
    }
}

fn steps(found: &Found, parameters: &Parameters, late: Option<Late>, held: u64) -> Vec<PlanStep> {
    let step = |mark, name: &str, summary: String| PlanStep { name: name.to_owned(), mark, summary };
    let contents = &found.base.contents;
    let mut steps = vec![step(
        ' ',
        "read back and judge",
        format!(
            "set {} ({} keys, {}) and {} of stream",
            parameters.set,
            Count(contents.keys()),
            ByteSize(contents.bytes),
            ByteSize(parameters.through - parameters.from)
        ),
    )];
    if parameters.drop {
        steps.push(step('-', "remove all keys", format!("{} of the server", Count(held))));
    }
    steps.push(step(
        '+',
        "load the set",
        format!("as a primary would send it, at offset {}", parameters.from),
    ));
    if parameters.through > parameters.from {
        let flushes = match found.survey.flushes {
            0 => String::new(),
            1 => ", one of which empties a database".to_owned(),
            count => format!(", {count} of which empty databases"),
        };
        let when = parameters.moment().map_or_else(String::new, |at| format!(" ({at})"));
        steps.push(step(
            '+',
            "replay the stream",
            format!(
                "{} commands{flushes}, up to offset {}{when}",
                Count(found.survey.commands),
                parameters.through
            ),
        ));
    }
    if let Some(Late { since_ms, at_ms }) = late {
        let time = |ms| Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |at| at.to_string());
        steps.push(step(
            ' ',
            "leave out what came late",
            format!(
                "no capture ran from {} on; what the server recorded until {} has no exact time",
                time(since_ms),
                time(at_ms)
            ),
        ));
    }
    steps.push(match parameters.expiry {
        Expiry::Keep => {
            step(' ', "keep moments of expiry", "what would have expired by now expires at once".to_owned())
        }
        Expiry::Shift => step(
            '~',
            "move moments of expiry",
            "by the time from that moment to now: every key lives as long as it had left".to_owned(),
        ),
    });
    steps.push(step(
        '~',
        "promote",
        "the server takes writes when it has acknowledged the last byte".to_owned(),
    ));
    steps
}

/// The newest sound backup of the server that `plan` would replace the keys of.
///
/// # Errors
/// The store's.
pub async fn evidence(repository: &Repository, plan: &Plan) -> Result<BackupEvidence> {
    keyfile::evidence(repository, &plan.target.fingerprint).await
}

/// Carries out `plan`.
///
/// # Errors
/// `Corrupt` when something needed is damaged, `StalePlan` when it is gone, `Precondition` when the server holds keys by now: the server was
/// not touched. The server's errors and `Interrupted` otherwise; the state says what it holds then. Applying the plan again begins anew.
pub async fn apply(
    context: &KeysRestoreContext<'_>,
    plan: &Plan,
    permit: &Permit,
) -> Result<KeysRestoreReport> {
    permit.covers(plan)?;
    let parameters = Parameters::of(plan)?;
    let facts = context.server.replica_facts().await?;
    check_server(&facts, parameters.drop, &plan.target)?;
    show(context, &parameters, permit).await
}

/// Reads back what is needed, and lets the server show the moment.
///
/// # Errors
/// As [`apply`].
pub(super) async fn show(
    context: &KeysRestoreContext<'_>,
    parameters: &Parameters,
    permit: &Permit,
) -> Result<KeysRestoreReport> {
    let ready = read_back(context, parameters).await.map_err(|error| match error.state() {
        Some(_) => error,
        None => error.with_state("nothing was changed"),
    })?;
    check_version(&ready.contents.server.version, &context.server.replica_facts().await?.version)?;
    let feed = fill(context, parameters, &ready, permit).await?;
    conclude(context, parameters, &ready, feed).await
}

/// Everything that a restore needs, read back.
struct Ready {
    set: Set,
    contents: KeyFileSetContents,
    way: Vec<WayPart>,
    survey: Survey,
}

/// Reads back the set and the stream, and judges both.
async fn read_back(context: &KeysRestoreContext<'_>, parameters: &Parameters) -> Result<Ready> {
    let repository = context.repository;
    let set = repository.set(Some(StoreKind::Redis), &parameters.set).await?;
    if set.manifest_blake3() != parameters.manifest {
        return Err(Error::new(ErrorKind::StalePlan, format!("set {} is not the one of the plan", set.id()))
            .with_hint("make the plan again and review it"));
    }
    let contents: KeyFileSetContents = set.contents()?;
    let report = keyfile::inspect(repository, &set, context.observer).await?;
    if let Some(finding) = report.findings.first().filter(|_| !report.is_sound()) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("set {} is damaged: {} {}", set.id(), finding.subject, finding.message),
        )
        .with_hint(format!("`mainstay backup verify {}` tells more; restore from another set", set.id())));
    }
    let way = ReplicationLog::read(repository).await?.kept_way(&parameters.way)?;
    let (from, through) = (parameters.from, parameters.through);
    let survey = seek::survey(repository, from, &way, through, context.observer).await?;
    if survey.boundary != through {
        return Err(Error::new(
            ErrorKind::StalePlan,
            format!("offset {through} lies inside a command or a transaction"),
        )
        .with_hint("make the plan again"));
    }
    Ok(Ready { set, contents, way, survey })
}

/// Fills the server, up to the last byte acknowledged.
async fn fill(
    context: &KeysRestoreContext<'_>,
    parameters: &Parameters,
    ready: &Ready,
    permit: &Permit,
) -> Result<Box<dyn ReplicaFeed>> {
    // A name of its own: what the server does from here on is no history of the one that was captured.
    let name = format!("{} {} {}", permit.plan_hash(), parameters.set, context.clock.now());
    let id: String = Blake3::of(name.as_bytes()).to_string().chars().take(STREAM_ID_LENGTH).collect();
    let at = ReplicationPoint { id, offset: parameters.from };
    context.observer.phase("fill");
    let total = ready.contents.bytes + (parameters.through - parameters.from);
    context.observer.expect(Work { items: 0, bytes: total });
    let mut feed = context.server.feed(&at, ready.contents.bytes, permit).await?;
    let sent = tokio::select! {
        sent = send(context, parameters, ready, feed.as_mut()) => sent,
        () = context.cancel.cancelled() => {
            Err(Error::new(ErrorKind::Interrupted, "the restore was stopped on request"))
        }
    };
    match sent {
        Ok(()) => Ok(feed),
        Err(error) => Err(give_up(feed, error).await),
    }
}

async fn send(
    context: &KeysRestoreContext<'_>,
    parameters: &Parameters,
    ready: &Ready,
    feed: &mut dyn ReplicaFeed,
) -> Result<()> {
    let mut file = ready.set.read(&ready.contents.file).await?;
    let mut left = ready.contents.bytes;
    while let Some(bytes) = file.next().await.context("read the set")? {
        left = left.checked_sub(bytes.len() as u64).ok_or_else(|| other_length(&ready.set))?;
        context.observer.advance(Work { items: 0, bytes: bytes.len() as u64 });
        feed.send(bytes).await.context("send the set")?;
    }
    if left > 0 {
        return Err(other_length(&ready.set));
    }
    let mut pieces = std::pin::pin!(pieces(context.repository, &ready.way, parameters.through));
    while let Some(piece) = pieces.next().await {
        let piece = piece.context("read the stream")?;
        context.observer.advance(Work { items: 0, bytes: piece.bytes.len() as u64 });
        feed.send(piece.bytes).await.context("send the stream")?;
    }
    let at = feed.settle().await.context("wait until the server has everything")?;
    if at != parameters.through {
        let message = format!("the server is at offset {at}, not {}", parameters.through);
        return Err(Error::new(ErrorKind::Server, message));
    }
    Ok(())
}

fn other_length(set: &Set) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the file of set {} is not as long as its manifest says", set.id()),
    )
}

/// Counts, moves moments of expiry where that is wished, promotes.
async fn conclude(
    context: &KeysRestoreContext<'_>,
    parameters: &Parameters,
    ready: &Ready,
    mut feed: Box<dyn ReplicaFeed>,
) -> Result<KeysRestoreReport> {
    let concluded = async {
        let databases = feed.databases().await?;
        let shifted_ms = match (parameters.expiry, parameters.at_ms) {
            (Expiry::Shift, at) => {
                let then = at.unwrap_or(ready.set.manifest().completed_at.as_millisecond());
                let by = context.clock.now().as_millisecond().saturating_sub(then).max(0);
                context.observer.phase("move moments of expiry");
                feed.shift_expiry(by).await.context("move moments of expiry")?;
                Some(by)
            }
            (Expiry::Keep, _) => None,
        };
        Ok((databases, shifted_ms))
    }
    .await;
    let (databases, shifted_ms) = match concluded {
        Ok(concluded) => concluded,
        Err(error) => return Err(give_up(feed, error).await),
    };
    feed.promote()
        .await
        .map_err(|error| error.with_state("the server holds the moment, and is still a replica"))?;
    Ok(KeysRestoreReport {
        set: ready.set.id().clone(),
        offset: parameters.through,
        moment: parameters.moment(),
        file_bytes: ready.contents.bytes,
        stream_bytes: parameters.through - parameters.from,
        commands: ready.survey.commands,
        databases,
        shifted_ms,
    })
}

async fn give_up(feed: Box<dyn ReplicaFeed>, error: Error) -> Error {
    match feed.give_up().await {
        Ok(state) => error.with_state(state),
        Err(_) => error.with_state(
            "the server holds a part of the moment and waits for a primary that is gone: type `REPLICAOF NO ONE` and `FLUSHALL` on it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_server_is_refused() {
        assert!(check_version("8.0.2", "8.0.1").is_ok(), "a patch changes no format");
        assert!(check_version("8.0.2", "8.2.0").is_ok() && check_version("7.4.1", "8.0.0").is_ok());
        let error = check_version("8.0.2", "7.4.9").expect_err("it cannot read it");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(check_version("odd", "7.4.9").is_ok());
    }
}
