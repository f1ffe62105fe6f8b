//! Restoring a Redis: a set, and the stream behind it up to a moment, sent to a server as its primary would send them.
//!
//! [`plan`] finds the moment and says what will be done; [`apply`] reads back and judges everything it needs before the server hears of it,
//! fills the server, waits until that has acknowledged exactly the last byte, makes it a server of its own, and waits until that has written
//! down what it holds. Relies on [`ReplicaTarget`]. Refuses a server that holds keys, unless the plan says that they go, and one that cannot be
//! filled: when it is planned, before the set is read back, and again before the server hears of it.
//!
//! A server stays who it is: the environment's marker that is among the keys of the set goes, and the server's own stands in its place before it
//! takes writes, or none where it had none.
//!
//! Before a server is told to come, it is written down where to (`redis/settings/<plan>/`), and its own markers with that: a run that was killed
//! leaves a replica of nobody, which the same plan knows again by its process and takes back first. By then the server may have lost its
//! marker, or have that of the set. Before it takes writes, that is written down, too: from then on the same plan is refused, for what was
//! written since would go with the keys.

use futures::StreamExt as _;
use mainstay_engine::{
    BegunFill, KeptMarker, KeyServerProgram, KeyspaceSize, ReplicaFacts, ReplicaFeed, ReplicaInvitation,
    ReplicaRoom, ReplicaTarget, ReplicationPoint, WrittenAs,
};
use mainstay_guard::{BackupEvidence, Permit, operation};
use mainstay_journal::Sequence;
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
    /// All keys may cross a network without encryption to a server that is itself reached by TLS.
    pub unencrypted: bool,
}

/// What a run notes: before it tells a server to come, and before that takes writes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
enum Note {
    #[serde(rename = "fill_begun")]
    FillBegun { fill: BegunFill, at: Timestamp },
    /// The server shows the moment, and is about to take writes.
    #[serde(rename = "fill_ended")]
    FillEnded { at: Timestamp },
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
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unencrypted: bool,
}

impl Parameters {
    /// What leads to a moment that was found; nothing goes for it.
    pub(super) fn of_found(found: &Found, expiry: Expiry) -> Self {
        let through = found.survey.boundary;
        Self {
            set: found.base.set.id().clone(),
            manifest: found.base.set.manifest_blake3(),
            from: found.base.at.offset,
            through,
            at_ms: found.survey.at_ms,
            way: cut_way(&found.way, through).iter().map(WayPart::record).collect(),
            drop: false,
            expiry,
            unencrypted: false,
        }
    }

    fn of(plan: &Plan) -> Result<Self> {
        let parameters: Self = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of a restore of redis")
                .with_source(source)
        })?;
        check_operation(plan, operation_of(parameters.drop))?;
        Ok(parameters)
    }

    /// The moment that is restored, where it is known.
    fn moment(&self) -> Option<Timestamp> {
        self.at_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok())
    }
}

/// The operation of a restore, by whether keys go for it.
fn operation_of(drop: bool) -> &'static str {
    if drop { OPERATION_DROP } else { OPERATION_NEW }
}

/// Refuses a plan that does something else than its `own` name says: it was permitted by that name.
pub(super) fn check_operation(plan: &Plan, own: &str) -> Result<()> {
    match plan.operation == own {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Usage,
            format!(
                "the plan contradicts itself: it calls itself {} and does what {own} does",
                plan.operation
            ),
        )
        .with_state("nothing was changed")
        .with_hint("make the plan again; a plan is not to be edited")),
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
    /// The databases at the moment, with keys whose time has passed since; markers of an environment are not counted.
    pub databases: Vec<KeyspaceSize>,
    /// By how many milliseconds every moment of expiry was moved; `None` when they stayed.
    pub shifted_ms: Option<i64>,
    /// Whether the server has an environment's marker: the one that it had before.
    pub marked: bool,
    /// How the server keeps what it was filled with; `None` of a throw-away one, which does not.
    pub written_as: Option<WrittenAs>,
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
/// `Precondition` when nothing leads to the moment, when the server holds keys that are not to go, is a replica, or cannot be filled;
/// `Unsupported` when it is older than the one that wrote the set; the store's.
pub async fn plan(
    context: &KeysPlanContext<'_>,
    target: Target,
    request: KeysRestoreRequest,
) -> Result<Plan> {
    let held = request.server.as_ref().map_or(0, |facts| keys(&facts.databases));
    if let Some(facts) = &request.server {
        check_server(facts, request.drop, &target.address)?;
        check_encryption(facts, request.unencrypted, &target.address)?;
    }
    let (found, late) = match (&request.wish, &request.set) {
        (Some(wish), _) => seek::find(context.repository, wish, context.observer).await?,
        (None, Some(set)) => (alone(set)?, None),
        (None, None) => {
            return Err(Error::new(ErrorKind::NotFound, "the repository holds no backup set of redis")
                .with_hint("`mainstay backup create --store redis` makes one"));
        }
    };
    if let Some(facts) = &request.server {
        check_program(&found.base.contents, &facts.program)?;
        check_room(&found.base.contents, &facts.room, &target.address)?;
    }
    let name = operation_of(request.drop);
    let parameters = Parameters {
        drop: request.drop,
        unencrypted: request.unencrypted,
        ..Parameters::of_found(&found, request.expiry)
    };
    let created_at = context.clock.now();
    let phrase = match request.drop {
        true => format!("replace {} keys of redis in {}", Count(held), target.environment),
        false => format!("restore redis of {}", target.environment),
    };
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: name.to_owned(),
        effect: operation(name).expect("restores are registered").effect,
        steps: steps(&found, &parameters, late, held, request.server.is_none()),
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

fn unmet(message: String, hint: &str) -> Error {
    Error::new(ErrorKind::Precondition, message).with_state("nothing was changed").with_hint(hint)
}

fn check_server(facts: &ReplicaFacts, drop: bool, address: &str) -> Result<()> {
    let held = keys(&facts.databases);
    if let Some(obstacle) = &facts.obstacle {
        return Err(obstacle.refusal(address));
    }
    if let Some(primary) = &facts.primary {
        return Err(unmet(
            format!("the server at {address} is a replica of {primary}"),
            "name its primary with --redis-url; where a restore was killed, apply its plan again, which takes the server back",
        ));
    }
    if held > 0 && !drop {
        return Err(unmet(
            format!("the server at {address} holds {} keys", Count(held)),
            "name an empty server with --redis-url, try it on a throw-away one with `--into scratch`, or replace all keys with --drop",
        ));
    }
    Ok(())
}

/// Refuses a server, as it is now, for what is in the set and was decided.
fn check_fillable(
    facts: &ReplicaFacts,
    contents: &KeyFileSetContents,
    parameters: &Parameters,
    address: &str,
) -> Result<()> {
    check_server(facts, parameters.drop, address)?;
    check_encryption(facts, parameters.unencrypted, address)?;
    check_program(contents, &facts.program)?;
    check_room(contents, &facts.room, address)
}

/// Refuses to send what is reached by TLS over a network without it, unless that was agreed to.
fn check_encryption(facts: &ReplicaFacts, unencrypted: bool, address: &str) -> Result<()> {
    match facts.comes_unencrypted && !unencrypted {
        false => Ok(()),
        true => Err(unmet(
            format!(
                "the server at {address} would come for its keys without TLS: all of them would cross the network in the clear"
            ),
            "run the command on the server's own host, or agree to it with --unencrypted",
        )),
    }
}

/// Refuses a server that cannot read what a newer one, or another program, wrote.
fn check_program(contents: &KeyFileSetContents, reads: &KeyServerProgram) -> Result<()> {
    let written = contents.program();
    let is_other = written.name != reads.name && !contents.is_shared_form();
    let is_newer = written.name == reads.name
        && written.release().zip(reads.release()).is_some_and(|(written, reads)| reads < written);
    if !is_other && !is_newer {
        return Ok(());
    }
    let hint = match is_other {
        true => "restore into a server of the same program, and of the same or a newer version",
        false => "restore into a server of the same or a newer version",
    };
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("the set was written by {written}; the server is {reads} and cannot read it"),
    )
    .with_state("nothing was changed")
    .with_hint(hint))
}

/// Refuses a server that the set would end, or that would evict at once what it was filled with.
fn check_room(contents: &KeyFileSetContents, room: &ReplicaRoom, address: &str) -> Result<()> {
    let highest = contents.databases.iter().map(|size| size.database).max();
    if let Some((highest, databases)) = highest.zip(room.databases).filter(|(highest, has)| highest >= has) {
        return Err(unmet(
            format!(
                "the set has keys in database {highest}; the server at {address} has {databases} databases, and would end for good"
            ),
            "start it with a larger `databases`, which cannot be changed while it runs",
        ));
    }
    // In memory they take more than in the file.
    if let Some(bound) = room.memory_bytes.filter(|bound| contents.bytes > *bound) {
        return Err(unmet(
            format!(
                "the keys take more than the {} that the server at {address} may use: it would evict them, or refuse all writes",
                ByteSize(bound)
            ),
            "raise `maxmemory` there, or take it away while it is filled: `CONFIG SET maxmemory 0`",
        ));
    }
    Ok(())
}

/// Refuses a throw-away server from which keys cannot be carried to the one at work, which reads what is as old as itself.
pub(super) fn check_carrier(shown: &KeyServerProgram, reads: &KeyServerProgram) -> Result<()> {
    let is_newer = shown.release().zip(reads.release()).is_some_and(|(shown, reads)| reads < shown);
    if shown.name == reads.name && !is_newer {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "the throw-away server is {shown}; the one at work is {reads} and does not take keys from it"
        ),
    )
    .with_state("nothing was changed")
    .with_hint("put the server's own version of redis-server first on the PATH"))
}

fn steps(
    found: &Found,
    parameters: &Parameters,
    late: Option<Late>,
    held: u64,
    is_scratch: bool,
) -> Vec<PlanStep> {
    let step = |mark, name: &str, summary: String| PlanStep { name: name.to_owned(), mark, summary };
    let contents = &found.base.contents;
    let mut steps = vec![step(
        ' ',
        "read back and judge",
        format!(
            "set {} of {} at {} ({} keys, {}) and {} of stream",
            parameters.set,
            contents.environment,
            contents.server.address,
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
        "the server takes writes when it has acknowledged the last byte, under its own environment's marker alone"
            .to_owned(),
    ));
    if !is_scratch {
        steps.push(step(
            ' ',
            "write down",
            "the server's append-only file, or a snapshot where it keeps none, is waited for".to_owned(),
        ));
    }
    steps
}

/// The newest sound backup of the server that `plan` would replace the keys of.
///
/// # Errors
/// The store's.
pub async fn evidence(repository: &Repository, plan: &Plan) -> Result<BackupEvidence> {
    keyfile::evidence(repository, &plan.target.fingerprint).await
}

/// Whether the server, as it is now, is what an earlier run of `plan` has left: a replica of that run, or a server whose keys went, and its
/// marker with them. It is the server of the plan then, whatever it is called now.
///
/// # Errors
/// The repository's.
pub async fn is_left_over(repository: &Repository, plan: &Plan, facts: &ReplicaFacts) -> Result<bool> {
    Ok(left_over(&notes(repository, plan.hash()?), facts).await?.is_some())
}

/// The fill that has left the server as it is.
async fn left_over(notes: &Sequence, facts: &ReplicaFacts) -> Result<Option<BegunFill>> {
    let mut fills = begun_fills(notes).await?.into_iter();
    let is_unmarked = facts.fingerprint == facts.process;
    let is_of = |fill: &BegunFill| match &facts.primary {
        Some(primary) => *primary == fill.primary,
        None => is_unmarked && facts.databases.is_empty(),
    };
    Ok(fills.find(|fill| fill.process == facts.process && is_of(fill)))
}

/// The fills that were begun, the last one first.
async fn begun_fills(notes: &Sequence) -> Result<Vec<BegunFill>> {
    let entries = notes.all::<Note>().await.context("read what was begun")?;
    let fills = entries.into_iter().rev().filter_map(|entry| match entry.body {
        Note::FillBegun { fill, .. } => Some(fill),
        Note::FillEnded { .. } => None,
    });
    Ok(fills.collect())
}

/// Refuses a server that an earlier run has filled and let take writes: beginning anew would remove these, and nobody has agreed to that.
async fn check_unfilled(notes: &Sequence, facts: &ReplicaFacts, address: &str) -> Result<()> {
    let entries = notes.all::<Note>().await.context("read what was begun")?;
    let has_ended = entries.last().is_some_and(|entry| matches!(entry.body, Note::FillEnded { .. }));
    // One that is empty has nothing to lose, and may have been taken back since.
    match has_ended && facts.primary.is_none() && !facts.databases.is_empty() {
        false => Ok(()),
        true => Err(unmet(
            format!(
                "an earlier run of this plan has filled the server at {address}, which takes writes since"
            ),
            "`mainstay redis info` shows how it is doing; to fill it anew, make a new plan: `mainstay restore plan --store redis --drop`",
        )),
    }
}

fn notes(repository: &Repository, plan: Blake3) -> Sequence {
    repository.settings_records(StoreKind::Redis, &plan)
}

/// Carries out `plan`.
///
/// # Errors
/// `Corrupt` when something needed is damaged, `StalePlan` when it is gone, `Precondition` when the server holds keys by now, cannot be
/// filled, or was filled by an earlier run and takes writes since: the server was not touched. The server's errors and `Interrupted`
/// otherwise; the state says what it holds then. Applying the plan again begins anew, as long as the server takes no writes yet.
pub async fn apply(
    context: &KeysRestoreContext<'_>,
    plan: &Plan,
    permit: &Permit,
) -> Result<KeysRestoreReport> {
    permit.covers(plan)?;
    let parameters = Parameters::of(plan)?;
    let facts = context.server.replica_facts().await?;
    if plan.target.fingerprint == SCRATCH {
        return show(context, &parameters, &plan.target.address, None, permit).await;
    }
    let notes = notes(context.repository, plan.hash()?);
    check_unfilled(&notes, &facts, &plan.target.address).await?;
    match left_over(&notes, &facts).await? {
        Some(fill) => {
            context.observer.phase("take back what an earlier run has left");
            let taken = context.server.take_back(&fill, permit).await;
            taken.context("take back what an earlier run has left")?;
        }
        None => check_server(&facts, parameters.drop, &plan.target.address)?,
    }
    let report = show(context, &parameters, &plan.target.address, Some(&notes), permit).await?;
    // What stays is forgotten by the time that it matters: nobody replicates from there any more.
    let _ = notes.remove_all().await;
    Ok(report)
}

/// Reads back what is needed, and lets the server show the moment. What is begun goes into `notes`.
///
/// # Errors
/// As [`apply`].
pub(super) async fn show(
    context: &KeysRestoreContext<'_>,
    parameters: &Parameters,
    address: &str,
    notes: Option<&Sequence>,
    permit: &Permit,
) -> Result<KeysRestoreReport> {
    let untouched = |error: Error| match error.state() {
        Some(_) => error,
        None => error.with_state("nothing was changed"),
    };
    let (set, contents) = planned_set(context.repository, parameters).await.map_err(untouched)?;
    let facts = context.server.replica_facts().await.map_err(untouched)?;
    check_fillable(&facts, &contents, parameters, address)?;
    let ready = tokio::select! {
        ready = read_back(context, parameters, set, contents) => ready,
        () = context.cancel.cancelled() => Err(stopped()),
    }
    .map_err(untouched)?;
    // Reading back may have taken an hour.
    let facts = context.server.replica_facts().await.map_err(untouched)?;
    check_fillable(&facts, &ready.contents, parameters, address)?;
    // A name of its own: what the server does from here on is no history of the one that was captured.
    let name = format!("{} {} {}", permit.plan_hash(), parameters.set, context.clock.now());
    let stream: String = Blake3::of(name.as_bytes()).to_string().chars().take(STREAM_ID_LENGTH).collect();
    let markers = own_markers(notes, &facts).await.map_err(untouched)?;
    let invitation = context.server.invite().await.map_err(untouched)?;
    let fill = BegunFill { process: facts.process, primary: invitation.primary().clone(), stream, markers };
    if let Some(notes) = notes {
        let begun = Note::FillBegun { fill: fill.clone(), at: context.clock.now() };
        let noted = note(notes, &begun).await.context("note that the server is told to come");
        noted.map_err(untouched)?;
    }
    let filled = tokio::select! {
        filled = fill_and_conclude(context, parameters, &ready, (invitation, &fill), permit) => filled,
        () = context.cancel.cancelled() => Err(stopped()),
    };
    let filled = match (filled, notes) {
        (Ok(filled), Some(notes)) => {
            let ended = note(notes, &Note::FillEnded { at: context.clock.now() }).await;
            ended.context("note that the server is to take writes").map(|()| filled)
        }
        (filled, _) => filled,
    };
    let Filled { mut feed, databases, shifted_ms } = match filled {
        Ok(filled) => filled,
        // A throw-away server ends with this process, whatever it holds.
        Err(error) if notes.is_none() => return Err(error),
        Err(error) => return Err(give_up(context, &fill, permit, error).await),
    };
    feed.promote().await.map_err(|error| {
        error.with_state("the server was filled up to the moment, and was not seen to take writes")
    })?;
    let written_as = match notes {
        Some(_) => Some(write_down(context, feed.as_mut()).await?),
        None => None,
    };
    Ok(KeysRestoreReport {
        set: ready.set.id().clone(),
        offset: parameters.through,
        moment: parameters.moment(),
        file_bytes: ready.contents.bytes,
        stream_bytes: parameters.through - parameters.from,
        commands: ready.survey.commands,
        databases,
        shifted_ms,
        marked: !fill.markers.is_empty(),
        written_as,
    })
}

/// The markers that are to stand in the server of its own afterwards: those that it has, or had before an earlier run took them with the keys. A
/// throw-away server has none.
async fn own_markers(notes: Option<&Sequence>, facts: &ReplicaFacts) -> Result<Vec<KeptMarker>> {
    let Some(notes) = notes.filter(|_| facts.markers.is_empty()) else {
        return Ok(facts.markers.clone());
    };
    let earlier = begun_fills(notes).await?.into_iter().find(|fill| fill.process == facts.process);
    Ok(earlier.map_or_else(Vec::new, |fill| fill.markers))
}

/// Waits until the server, which takes writes by now, would bring back after a restart what it was filled with.
async fn write_down(context: &KeysRestoreContext<'_>, feed: &mut dyn ReplicaFeed) -> Result<WrittenAs> {
    context.observer.phase("wait until the server has written it down");
    let written = tokio::select! {
        written = feed.write_down(context.observer) => written,
        () = context.cancel.cancelled() => Err(stopped().with_hint(
            "`INFO persistence` on the server tells when it has: no rewrite or snapshot in progress, and the last one `ok`",
        )),
    };
    written.map_err(|error| {
        error.with_state(
            "the server shows the moment and takes writes, but was not seen to write it down: a restart of it may bring back what it held \
             before, or the set without the stream and with the marker that is in it",
        )
    })
}

fn stopped() -> Error {
    Error::new(ErrorKind::Interrupted, "the restore was stopped on request")
}

/// Writes a note behind the last one, unless another run of the plan does so at the same time.
async fn note(notes: &Sequence, note: &Note) -> Result<()> {
    let number = notes.numbers().await?.last().map_or(1, |last| last + 1);
    notes.append(number, note).await.map(drop)
}

/// Everything that a restore needs, read back.
struct Ready {
    set: Set,
    contents: KeyFileSetContents,
    way: Vec<WayPart>,
    survey: Survey,
}

/// The set that the plan is of, by its manifest.
async fn planned_set(repository: &Repository, parameters: &Parameters) -> Result<(Set, KeyFileSetContents)> {
    let set = repository.set(Some(StoreKind::Redis), &parameters.set).await?;
    if set.manifest_blake3() != parameters.manifest {
        return Err(Error::new(ErrorKind::StalePlan, format!("set {} is not the one of the plan", set.id()))
            .with_hint("make the plan again and review it"));
    }
    let contents = set.contents()?;
    Ok((set, contents))
}

/// Reads back the set and the stream, and judges both.
async fn read_back(
    context: &KeysRestoreContext<'_>,
    parameters: &Parameters,
    set: Set,
    contents: KeyFileSetContents,
) -> Result<Ready> {
    let repository = context.repository;
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

/// A server that shows the moment.
struct Filled {
    feed: Box<dyn ReplicaFeed>,
    /// Its databases.
    databases: Vec<KeyspaceSize>,
    /// By how much moments of expiry were moved.
    shifted_ms: Option<i64>,
}

/// Fills the server up to the last byte acknowledged, makes it who it was, counts, and moves moments of expiry where that is wished.
async fn fill_and_conclude(
    context: &KeysRestoreContext<'_>,
    parameters: &Parameters,
    ready: &Ready,
    (invitation, fill): (Box<dyn ReplicaInvitation>, &BegunFill),
    permit: &Permit,
) -> Result<Filled> {
    context.observer.phase("fill");
    let total = ready.contents.bytes + (parameters.through - parameters.from);
    context.observer.expect(Work { items: 0, bytes: total });
    let at = ReplicationPoint { id: fill.stream.clone(), offset: parameters.from };
    let mut feed = invitation.feed(&at, ready.contents.bytes, permit).await?;
    send(context, parameters, ready, feed.as_mut()).await?;
    let databases =
        feed.take_identity(&fill.markers).await.context("put the server's own marker in place")?;
    if parameters.expiry == Expiry::Keep {
        return Ok(Filled { feed, databases, shifted_ms: None });
    }
    // The keys of a set are as of the fork, soon after it was begun.
    let then = parameters.at_ms.unwrap_or(ready.set.manifest().begun_at.as_millisecond());
    let by = context.clock.now().as_millisecond().saturating_sub(then).max(0);
    context.observer.phase("move moments of expiry");
    feed.shift_expiry(by).await.context("move moments of expiry")?;
    Ok(Filled { feed, databases, shifted_ms: Some(by) })
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
        return Err(Error::new(ErrorKind::Server, message)
            .with_hint("look into its log; somebody else may write to it as its primary"));
    }
    Ok(())
}

fn other_length(set: &Set) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the file of set {} is not as long as its manifest says", set.id()),
    )
    .with_hint(format!("`mainstay backup verify {}` tells more; restore from another set", set.id()))
}

/// Leaves the server as one of its own.
async fn give_up(context: &KeysRestoreContext<'_>, fill: &BegunFill, permit: &Permit, error: Error) -> Error {
    context.observer.phase("take the server back");
    match context.server.take_back(fill, permit).await {
        Ok(state) => error.with_state(state),
        Err(_) => error
            .with_state(format!(
                "the server holds a part of the moment, or waits for a primary at {} that is gone",
                fill.primary
            ))
            .with_hint("apply the same plan again: it takes the server back and begins anew"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_engine::KeyServerName::{self, Redis, Valkey};

    use super::*;

    fn program(name: KeyServerName, version: &str) -> KeyServerProgram {
        KeyServerProgram { name, version: version.to_owned() }
    }

    /// A set in this version of the file's form. Older ones do not say which program wrote it.
    fn contents(version: u32, server: &str, program: Option<KeyServerProgram>) -> KeyFileSetContents {
        let facts = serde_json::json!({
            "version": server, "topology": "standalone", "fingerprint": "f", "address": "h:1",
        });
        KeyFileSetContents {
            environment: "shop".to_owned(),
            server: serde_json::from_value(facts).unwrap(),
            file: mainstay_model::ObjectName::from_parts(["dump.rdb"]),
            bytes: 1,
            version,
            databases: Vec::new(),
            functions: 0,
            replication: None,
            stream_database: None,
            program,
            direct: true,
        }
    }

    #[test]
    fn a_server_that_cannot_read_the_set_is_refused() {
        let reads = |contents: KeyFileSetContents, name, version| {
            check_program(&contents, &program(name, version)).map_err(|error| error.kind())
        };
        let redis = |version: &str| contents(12, version, Some(program(Redis, version)));
        assert_eq!(reads(redis("8.0.2"), Redis, "8.0.1"), Ok(()), "a patch changes no format");
        assert_eq!(reads(redis("8.0.2"), Redis, "8.2.0"), Ok(()));
        assert_eq!(reads(redis("7.4.1"), Redis, "8.0.0"), Ok(()));
        assert_eq!(reads(redis("8.0.2"), Redis, "7.4.9"), Err(ErrorKind::Unsupported));
        assert_eq!(reads(redis("odd"), Redis, "7.4.9"), Ok(()));
        assert_eq!(reads(redis("8.0.2"), Valkey, "9.0.0"), Err(ErrorKind::Unsupported));
        let shared = contents(11, "7.2.4", Some(program(Redis, "7.2.4")));
        assert_eq!(reads(shared, Valkey, "8.1.0"), Ok(()), "both read it");
        let valkey = contents(80, "7.2.4", Some(program(Valkey, "9.0.0")));
        assert_eq!(reads(valkey.clone(), Redis, "8.0.2"), Err(ErrorKind::Unsupported));
        assert_eq!(reads(valkey.clone(), Valkey, "8.1.0"), Err(ErrorKind::Unsupported));
        assert_eq!(reads(valkey, Valkey, "9.0.1"), Ok(()));
        assert_eq!(
            reads(contents(80, "7.2.4", None), Redis, "8.0.2"),
            Err(ErrorKind::Unsupported),
            "an older set"
        );
    }

    #[test]
    fn keys_are_carried_to_servers_that_are_as_new() {
        let carried = |shown, live| check_carrier(&program(Redis, shown), &program(Redis, live)).is_ok();
        assert!(carried("8.0.2", "8.0.1") && carried("7.4.0", "8.0.0") && !carried("8.2.0", "8.0.2"));
        assert!(check_carrier(&program(Redis, "8.0.2"), &program(Valkey, "9.0.0")).is_err());
    }

    #[test]
    fn keys_do_not_cross_a_network_in_the_clear_unless_that_was_agreed_to() {
        let facts = |comes_unencrypted| ReplicaFacts {
            fingerprint: "f".to_owned(),
            process: "p".to_owned(),
            program: program(Redis, "8.0.2"),
            primary: None,
            databases: Vec::new(),
            markers: Vec::new(),
            obstacle: None,
            comes_unencrypted,
            room: ReplicaRoom::default(),
        };
        assert!(check_encryption(&facts(false), false, "h:1").is_ok());
        assert!(check_encryption(&facts(true), true, "h:1").is_ok());
        let refused = check_encryption(&facts(true), false, "h:1").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Precondition);
        assert!(refused.hint().unwrap().contains("--unencrypted"));
    }
}
