//! Taking a dump into a set.

use mainstay_engine::{DatabaseFacts, LogicalSource};
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    BlastRadius, ByteSize, Clock, Effect, Error, ErrorKind, ObjectName, PLAN_FORMAT, Plan, PlanStep, Result,
    ResultExt, StoreKind, Target,
};
use mainstay_repository::{Repository, Set, SetWriter};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::contents::{DumpRecord, DumpTable, LogicalSetContents, ROLE_DUMP, TocSeeker};

/// The registered name of every backup.
const OPERATION: &str = "backup.create";

/// What a dump works with.
pub struct LogicalBackupContext<'a> {
    /// Where the database is.
    pub source: &'a dyn LogicalSource,
    /// Where the set goes.
    pub repository: &'a Repository,
    /// Who holds the set's lease.
    pub holder: &'a str,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops it; nothing is kept then.
    pub cancel: &'a CancellationToken,
}

/// What a dump made.
#[derive(Debug)]
pub struct LogicalBackupReport {
    /// The new set.
    pub set: Set,
    /// Its contents.
    pub contents: LogicalSetContents,
    /// Bytes in the repository.
    pub stored_bytes: ByteSize,
}

/// The decided parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    database: String,
}

/// Says what a dump of `facts`' database would do.
pub fn plan_backup(target: Target, facts: &DatabaseFacts, clock: &dyn Clock) -> Plan {
    let created_at = clock.now();
    let database = facts.definition.name.clone();
    Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: Effect::Additive,
        blast_radius: BlastRadius { phrase: format!("back up {}", target.environment), items: 0, bytes: 0 },
        assumptions: Vec::new(),
        steps: vec![PlanStep {
            name: format!("dump {database}"),
            mark: ' ',
            summary: format!(
                "of {} at one moment with pg_dump; it takes {} there, indexes included",
                target.address,
                ByteSize(facts.bytes)
            ),
        }],
        target,
        parameters: serde_json::to_value(Parameters { database }).expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Makes a backup set as `plan` says.
///
/// # Errors
/// Whatever the program, the server or the repository fails with; `Corrupt` when what the program wrote is no dump; `StalePlan` when another server
/// answers; `Interrupted` when cancelled. No set was made then.
pub async fn create(
    context: &LogicalBackupContext<'_>,
    plan: &Plan,
    permit: &Permit,
) -> Result<LogicalBackupReport> {
    permit.covers(plan)?;
    let parameters: Parameters = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of a dump").with_source(source)
    })?;
    let writer = context
        .repository
        .begin_set(StoreKind::Postgres, context.holder)
        .await
        .context("begin backup set")?;
    let made = tokio::select! {
        // What a signal broke shall be told as what it was.
        biased;
        () = context.cancel.cancelled() => Err(stopped()),
        made = dump(context, plan, &parameters.database, &writer) => made,
    };
    match made {
        Ok(contents) => {
            let set = writer.commit(&contents).await.context("write manifest")?;
            let stored_bytes = ByteSize(set.manifest().stored_bytes());
            Ok(LogicalBackupReport { set, contents, stored_bytes })
        }
        Err(error) if context.cancel.is_cancelled() && error.kind() != ErrorKind::Interrupted => {
            Err(writer.give_up(stopped()).await)
        }
        Err(error) => Err(writer.give_up(error).await),
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Interrupted, "the backup was stopped on request")
        .with_hint("run the same command again to start over")
}

/// Streams the dump into an object; gives what the set holds.
async fn dump(
    context: &LogicalBackupContext<'_>,
    plan: &Plan,
    database: &str,
    writer: &SetWriter,
) -> Result<LogicalSetContents> {
    let facts = context.source.database(Some(database)).await?;
    let (planned, found) = (&plan.target.fingerprint, &facts.server.fingerprint);
    if planned != found {
        return Err(Error::new(
            ErrorKind::StalePlan,
            format!("the plan is for server {planned}, this is {found}"),
        )
        .with_hint("make the plan again and review it"));
    }
    context.observer.phase(&format!("dump {database}"));
    let begun_at = context.clock.now();
    let mut dump = context.source.dump(database).await?;
    let program = dump.program().to_owned();
    let object = ObjectName::from_parts([database]).with_suffix(".dump");
    let mut sink = writer.object(&object, ROLE_DUMP).await?;
    let mut seeker = TocSeeker::new();
    while let Some(bytes) = dump.next().await.with_context(|| format!("dump database {database}"))? {
        seeker.bytes(&bytes);
        context.observer.advance(Work { items: 0, bytes: bytes.len() as u64 });
        sink.write(bytes).await?;
    }
    let toc = seeker.end().map_err(|fault| {
        Error::new(ErrorKind::Corrupt, format!("what {program} wrote cannot be used: {fault}"))
    })?;
    let mut tables: Vec<DumpTable> = toc
        .tables()
        .map(|(schema, table)| DumpTable { schema: schema.to_owned(), table: table.to_owned() })
        .collect();
    tables.sort();
    let bytes = sink.plain_bytes();
    sink.finish().await.with_context(|| format!("store {object}"))?;
    Ok(LogicalSetContents {
        environment: plan.target.environment.clone(),
        server: facts.server,
        database: facts.definition,
        logical: DumpRecord { object, program, begun_at, bytes, entries: toc.entries.len() as u64, tables },
    })
}
