//! Taking such a backup: the file passes from the wire to the repository as it is, and is walked on the way.

use mainstay_engine::{KeyFile, KeyFileSource, KeyServerControl, KeyServerInspection, ServerPart};
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    BlastRadius, ByteSize, Clock, Effect, Error, ErrorKind, ObjectName, PLAN_FORMAT, Plan, PlanStep, Result,
    ResultExt, StoreKind, Target,
};
use mainstay_repository::{Repository, Set, SetWriter};
use tokio_util::sync::CancellationToken;

use super::KeyFileSetContents;
use super::contents::ROLE_KEY_FILE;
use super::judge::{Judge, Seen};
use super::packing::{self, OFF, Packing, SETTING};
use crate::backup::OPERATION;

/// The registered name of a backup for which the server packs nothing.
pub const OPERATION_PLAIN: &str = "backup.create.plain-transfer";

/// The object with the file, named as a server would.
const FILE: &str = "dump.rdb";

/// What a backup works with.
pub struct KeyFileBackupContext<'a> {
    /// The server to copy.
    pub source: &'a dyn KeyFileSource,
    /// The same server, as one whose settings can be changed while the file begins.
    pub server: &'a dyn KeyServerControl,
    /// Where the set goes.
    pub repository: &'a Repository,
    /// Who runs this, for the lease: `user@host`.
    pub holder: &'a str,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops it; nothing is kept then.
    pub cancel: &'a CancellationToken,
}

/// What a backup made.
#[derive(Debug)]
pub struct KeyFileBackupReport {
    /// The new set.
    pub set: Set,
    /// Its contents.
    pub contents: KeyFileSetContents,
    /// Bytes in the repository.
    pub stored_bytes: ByteSize,
    /// Whether the file carries a checksum, which was right.
    pub has_checksum: bool,
    /// Whether the server was kept from packing it.
    pub is_plain: bool,
}

/// Says what a backup of the server behind `target` would do, which holds this `part` of a cluster, if it is of one.
pub fn plan_backup(target: Target, part: Option<&ServerPart>, clock: &dyn Clock) -> Plan {
    let step = |name: &str, summary: String| PlanStep { name: name.to_owned(), mark: ' ', summary };
    let mut steps = vec![step(
        "read all keys",
        format!("of {}: the server forks, and its child writes and sends them", target.address),
    )];
    steps.extend(part.filter(|part| !part.is_whole()).map(|part| {
        let rest = match part.others.as_slice() {
            [] => "keys of other primaries are".to_owned(),
            others => format!("keys of {} are", others.join(", ")),
        };
        step("of a cluster", format!("{part}; {rest} not in it: back up each by its own `--redis-url`"))
    }));
    planned(target, OPERATION, Effect::Additive, steps, clock)
}

/// The same of a backup for which the server packs nothing: a setting of it is changed until it has forked, and put back.
///
/// # Errors
/// `Auth` when the user may not know the setting; the server's.
pub async fn plan_plain_backup(
    server: &dyn KeyServerInspection,
    target: Target,
    part: Option<&ServerPart>,
    clock: &dyn Clock,
) -> Result<Plan> {
    let value = packing::now(server).await?;
    let mut plan = plan_backup(target, part, clock);
    if value == OFF {
        return Ok(plan);
    }
    let step = |name: String, summary: String| PlanStep { name, mark: '~', summary };
    plan.steps.insert(
        0,
        step(
            format!("set {SETTING}"),
            format!("{value} becomes {OFF}, until the server has forked: a snapshot that it begins meanwhile is larger"),
        ),
    );
    plan.steps.push(step(
        format!("put {SETTING} back"),
        format!("to {value}, when the file begins to come, and whatever ends the backup before"),
    ));
    let (target, steps) = (plan.target, plan.steps);
    Ok(planned(target, OPERATION_PLAIN, Effect::Disruptive, steps, clock))
}

fn planned(target: Target, operation: &str, effect: Effect, steps: Vec<PlanStep>, clock: &dyn Clock) -> Plan {
    let created_at = clock.now();
    Plan {
        format: PLAN_FORMAT,
        operation: operation.to_owned(),
        effect,
        blast_radius: BlastRadius { phrase: format!("back up {}", target.environment), items: 0, bytes: 0 },
        assumptions: Vec::new(),
        steps,
        target,
        parameters: serde_json::Value::Null,
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Makes a backup set as `plan` says.
///
/// # Errors
/// Whatever the server or the repository fails with; `Corrupt` when what arrived is no whole file; `Unsupported` when this version does not know what it holds; `StalePlan` when another server answers;
/// `Interrupted` when cancelled. No set was made then.
pub async fn create(
    context: &KeyFileBackupContext<'_>,
    plan: &Plan,
    permit: &Permit,
) -> Result<KeyFileBackupReport> {
    permit.covers(plan)?;
    let packing = Packing::new(context, &plan.target.fingerprint, permit);
    packing.mend().await;
    let begun = context.repository.begin_set(StoreKind::Redis, context.holder).await;
    let writer = begun.context("begin backup set")?;
    let made = tokio::select! {
        made = copy(context, plan, &packing, &writer) => made,
        () = context.cancel.cancelled() => {
            Err(Error::new(ErrorKind::Interrupted, "the backup was stopped on request"))
        }
    };
    // Nothing is left of it but where the copy was ended before the file began to come.
    if let Err(error) = packing.end().await {
        let hint = error.hint().unwrap_or_default();
        context.observer.notice(&format!("{error}; {hint}"));
    }
    match made {
        Ok((contents, has_checksum)) => {
            let set = writer.commit(&contents).await.context("write manifest")?;
            let stored_bytes = ByteSize(set.manifest().stored_bytes());
            let is_plain = plan.operation == OPERATION_PLAIN;
            Ok(KeyFileBackupReport { set, contents, stored_bytes, has_checksum, is_plain })
        }
        Err(error) => Err(writer.give_up(error).await),
    }
}

async fn copy(
    context: &KeyFileBackupContext<'_>,
    plan: &Plan,
    packing: &Packing<'_>,
    writer: &SetWriter,
) -> Result<(KeyFileSetContents, bool)> {
    context.observer.phase("wait for the server's fork");
    if plan.operation == OPERATION_PLAIN {
        packing.turn_off().await?;
    }
    let mut file = context.source.begin().await?;
    packing.end().await?;
    let beginning = file.beginning().clone();
    let (planned, found) = (&plan.target.fingerprint, &beginning.server.fingerprint);
    if planned != found {
        return Err(Error::new(
            ErrorKind::StalePlan,
            format!("the plan is for server {planned}, this is {found}"),
        )
        .with_hint("make the plan again and review it"));
    }
    if !beginning.direct {
        context
            .observer
            .notice("every byte passes through the server's one thread: it cannot send through its child");
    }
    context.observer.phase("back up");
    store(file.as_mut(), writer, &plan.target.environment, context.observer).await
}

/// Stores a file that is coming, judged on the way, as the one object of the set that `writer` writes; gives what the manifest is to say of it,
/// and whether the file carries a checksum.
///
/// # Errors
/// The server's and the repository's; `Corrupt` when what arrives is no whole file; `Unsupported` when this version does not know what it holds.
pub(crate) async fn store(
    file: &mut dyn KeyFile,
    writer: &SetWriter,
    environment: &str,
    observer: &dyn Observer,
) -> Result<(KeyFileSetContents, bool)> {
    let beginning = file.beginning().clone();
    let bytes = beginning.bytes.unwrap_or(beginning.estimated_bytes);
    observer.expect(Work { items: 0, bytes });
    let name = ObjectName::from_parts([FILE]);
    let seen = pass(observer, file, writer, &name).await?;
    let contents = KeyFileSetContents {
        environment: environment.to_owned(),
        server: beginning.server,
        file: name,
        bytes: seen.bytes,
        version: seen.version,
        databases: seen.databases,
        functions: seen.functions,
        stream_database: seen.stream_database.filter(|_| seen.replication.is_some()),
        replication: seen.replication,
        program: seen.program,
        direct: beginning.direct,
    };
    Ok((contents, seen.has_checksum))
}

/// Passes the file on to the repository and to the walk; gives what that has seen.
async fn pass(
    observer: &dyn Observer,
    file: &mut dyn KeyFile,
    writer: &SetWriter,
    name: &ObjectName,
) -> Result<Seen> {
    let mut sink = writer.object(name, ROLE_KEY_FILE).await?;
    let judge = Judge::begin()?;
    while let Some(bytes) = file.next().await.context("read from the server")? {
        observer.advance(Work { items: 0, bytes: bytes.len() as u64 });
        judge.bytes(bytes.clone()).await;
        sink.write(bytes).await?;
    }
    sink.finish().await.with_context(|| format!("store {name}"))?;
    // The walk has a few pieces to go.
    let judged = tokio::task::spawn_blocking(|| judge.end()).await;
    let judged = judged.map_err(|_| Error::new(ErrorKind::Internal, "the walk over the file broke off"))?;
    judged.map_err(|error| match error.kind() {
        ErrorKind::Corrupt => Error::new(
            ErrorKind::Corrupt,
            format!("what arrived is no whole database file: {error}"),
        )
        .with_hint(
            "take the backup again; when it is the same again, look at the network and this machine's memory",
        ),
        _ => error,
    })
}
