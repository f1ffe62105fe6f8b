//! Filling a new database from a dump.
//!
//! The plan names the database that will be there, the name under which it is filled, and the entries that are taken. [`restore`] looks again, reads the
//! whole set back, and only then makes a database; it gets its name when everything is in it. What is made bears a mark with the plan's
//! hash, so that the same plan removes what an interrupted try left, wherever it was interrupted, and nothing else is ever removed.

use std::collections::BTreeSet;

use mainstay_engine::{LoadRequest, LogicalSink, WorkingDatabase};
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    Assumption, BlastRadius, ByteSize, Clock, Count, Effect, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep,
    Result, SetId, Severity, Target,
};
use mainstay_pgdump::{Toc, Wanted};
use mainstay_repository::{Repository, Set};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::contents::TocSeeker;
use super::{LogicalSetContents, inspect};

/// The registered name of a restore under a new name.
const OPERATION: &str = "restore.apply.new";
/// How long a name of PostgreSQL is at most; it cuts longer ones.
const NAME_BYTES_MAX: usize = 63;

/// What is said of a database that is not there.
const ABSENT: &str = "absent";
/// How many missing roles are named.
const ROLE_COUNT_MAX: usize = 8;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct LogicalRestoreRequest {
    /// The name of the database; the one it had without.
    pub into: Option<String>,
    /// Everything in these schemas.
    pub schemas: Vec<String>,
    /// These tables, as `schema.table` or `table`.
    pub tables: Vec<String>,
    /// Whether things get the owners and rights they had.
    pub owners: bool,
    /// How many connections fill it at the same time.
    pub jobs: u16,
}

/// The decided parameters.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    set: SetId,
    /// The database that will be there.
    database: String,
    /// The name it has until then.
    working_name: String,
    /// The entries that are taken; everything without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<i32>>,
    owners: bool,
    jobs: u16,
}

/// What a restore works with.
pub struct LogicalRestoreContext<'a> {
    /// Where the database goes.
    pub sink: &'a dyn LogicalSink,
    /// Where the set is.
    pub repository: &'a Repository,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops it.
    pub cancel: &'a CancellationToken,
}

/// What a restore made.
#[derive(Debug, Serialize)]
pub struct LogicalRestoreReport {
    /// The set.
    pub set: SetId,
    /// The new database.
    pub database: String,
    /// How many entries of the dump were taken.
    pub entries: u64,
    /// Bytes of the dump that were read.
    pub bytes: u64,
}

/// Whether `plan` is one of restoring a dump.
pub fn is_restore(plan: &Plan) -> bool {
    plan.operation == OPERATION && plan.parameters.get("working_name").is_some()
}

/// Decides a restore of `set`.
///
/// # Errors
/// `Precondition` when the name is taken, a role is missing, or the server is older than the dump; `NotFound` when something is asked for that the
/// dump does not hold; the server's and the repository's.
pub async fn plan_restore(
    sink: &dyn LogicalSink,
    set: &Set,
    request: &LogicalRestoreRequest,
    target: Target,
    clock: &dyn Clock,
) -> Result<Plan> {
    let contents: LogicalSetContents = set.contents()?;
    let toc = read_toc(set, &contents).await?;
    let entries = selection(&toc, request)?;
    sink.check_program().await?;
    check_version(&contents, sink).await?;
    let database = request.into.clone().unwrap_or_else(|| contents.database.name.clone());
    check_free(sink, &database).await?;
    if request.owners {
        check_roles(sink, &contents, &toc, entries.as_deref()).await?;
    }
    let created_at = clock.now();
    let parameters = Parameters {
        set: set.id().clone(),
        working_name: format!("mainstay_restore_{}", created_at.as_millisecond()),
        database: database.clone(),
        entries,
        owners: request.owners,
        jobs: request.jobs,
    };
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: Effect::Additive,
        assumptions: assumptions(set, &target.fingerprint, &database, ABSENT),
        steps: steps(&contents, &toc, &parameters),
        blast_radius: BlastRadius {
            phrase: format!("restore {database} on {}@{}", target.store, target.environment),
            items: 0,
            bytes: 0,
        },
        target,
        parameters: serde_json::to_value(&parameters).expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// The dump's table of contents: no more of it is read.
async fn read_toc(set: &Set, contents: &LogicalSetContents) -> Result<Toc> {
    let object = &contents.logical.object;
    let mut source = set.read(object).await?;
    let mut seeker = TocSeeker::new();
    while seeker.found().is_none()
        && let Some(bytes) = source.next().await?
    {
        seeker.bytes(&bytes);
    }
    seeker
        .end()
        .map_err(|fault| Error::new(ErrorKind::Corrupt, format!("{object} of set {}: {fault}", set.id())))
}

/// The entries that are asked for; `None` for all.
fn selection(toc: &Toc, request: &LogicalRestoreRequest) -> Result<Option<Vec<i32>>> {
    let named = |table: &String| match table.split_once('.') {
        Some((schema, name)) => (Some(schema.to_owned()), name.to_owned()),
        None => (None, table.clone()),
    };
    let wanted =
        Wanted { schemas: request.schemas.clone(), tables: request.tables.iter().map(named).collect() };
    if wanted.is_empty() {
        return Ok(None);
    }
    toc.select(&wanted).map(Some).map_err(|missing| {
        Error::new(ErrorKind::NotFound, missing.to_string())
            .with_state("nothing was changed")
            .with_hint("`mainstay backup show` lists its tables")
    })
}

/// An older server does not understand everything that a newer one says.
async fn check_version(contents: &LogicalSetContents, sink: &dyn LogicalSink) -> Result<()> {
    let server = sink.server_facts().await?;
    let major = |version: &str| version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match (major(&contents.server.version), major(&server.version)) {
        (Some(of), Some(into)) if of <= into => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Precondition,
            format!(
                "the dump is of PostgreSQL {}, the server is {}",
                contents.server.version, server.version
            ),
        )
        .with_state("nothing was changed")
        .with_hint("restore into a server of the same version or a newer one")),
    }
}

async fn check_free(sink: &dyn LogicalSink, database: &str) -> Result<()> {
    if database.is_empty() || database.len() > NAME_BYTES_MAX || database.contains('\0') {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("a database cannot be named {database:?}: PostgreSQL takes 1 to {NAME_BYTES_MAX} bytes"),
        )
        .with_state("nothing was changed")
        .with_hint("`--into NAME` names it"));
    }
    if !sink.has_database(database).await? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Precondition, format!("database {database} exists already"))
        .with_state("nothing was changed")
        .with_hint("a dump fills a new database only: name one with `--into NAME`"))
}

/// Roles belong to no database, so a dump names them and does not make them.
async fn check_roles(
    sink: &dyn LogicalSink,
    contents: &LogicalSetContents,
    toc: &Toc,
    entries: Option<&[i32]>,
) -> Result<()> {
    let taken: Option<BTreeSet<i32>> = entries.map(|entries| entries.iter().copied().collect());
    let is_taken = |id: i32| taken.as_ref().is_none_or(|taken| taken.contains(&id));
    let owners = toc.entries.iter().filter(|entry| is_taken(entry.id)).map(|entry| entry.owner.as_str());
    let named: BTreeSet<&str> =
        owners.chain([contents.database.owner.as_str()]).filter(|owner| !owner.is_empty()).collect();
    let roles = sink.roles().await?;
    let missing: Vec<&str> = named.into_iter().filter(|owner| !roles.contains(*owner)).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let shown = missing.iter().take(ROLE_COUNT_MAX).copied().collect::<Vec<_>>().join(", ");
    Err(Error::new(ErrorKind::Precondition, format!("the server has no roles {shown}, to whom things of the dump belong"))
        .with_state("nothing was changed")
        .with_hint(format!(
            "make them (`CREATE ROLE \"{first}\";`), or add `--without-owners`: everything then belongs to who restores, and no rights are granted"
        )))
}

fn steps(contents: &LogicalSetContents, toc: &Toc, parameters: &Parameters) -> Vec<PlanStep> {
    let what = match &parameters.entries {
        None => format!("all {} entries", Count(toc.entries.len() as u64)),
        Some(entries) => {
            format!("{} of {} entries", Count(entries.len() as u64), Count(toc.entries.len() as u64))
        }
    };
    let owners = if parameters.owners { "with owners and rights" } else { "without owners and rights" };
    let step = |name: String, mark, summary: String| PlanStep { name, mark, summary };
    vec![
        step(
            format!("read {}", parameters.set),
            ' ',
            format!("to its end, before anything is written: {}", ByteSize(contents.logical.bytes)),
        ),
        step(
            format!("create {}", parameters.working_name),
            '+',
            format!(
                "like {} was: {}, {}",
                contents.database.name, contents.database.encoding, contents.database.collate
            ),
        ),
        step(format!("fill {}", parameters.working_name), '+', format!("{what}, {owners}, with pg_restore")),
        step(
            format!("name it {}", parameters.database),
            '+',
            "when everything is in it; what fails is removed".to_owned(),
        ),
    ]
}

/// What must still be so.
fn assumptions(set: &Set, fingerprint: &str, database: &str, found: &str) -> Vec<Assumption> {
    vec![
        Assumption { name: format!("set {} manifest", set.id()), value: set.manifest_blake3().to_string() },
        Assumption { name: "server".to_owned(), value: fingerprint.to_owned() },
        Assumption { name: format!("database {database}"), value: found.to_owned() },
    ]
}

/// Fills a new database as `plan` says.
///
/// # Errors
/// `StalePlan` when the world has moved; `Corrupt` when the set is damaged: nothing was written then; whatever the program or the server fails with: what
/// was made is removed then; `Interrupted` when cancelled.
pub async fn restore(
    context: &LogicalRestoreContext<'_>,
    plan: &Plan,
    permit: &Permit,
) -> Result<LogicalRestoreReport> {
    permit.covers(plan)?;
    let parameters: Parameters = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of a restore of a dump")
            .with_source(source)
    })?;
    let set = context.repository.set(None, &parameters.set).await?;
    let contents: LogicalSetContents = set.contents()?;
    let server = context.sink.server_facts().await?;
    let found = if context.sink.has_database(&parameters.database).await? { "present" } else { ABSENT };
    plan.check_assumptions(&assumptions(&set, &server.fingerprint, &parameters.database, found))?;
    prove(context, &set).await?;

    let attempt = Attempt {
        context,
        set: &set,
        contents: &contents,
        parameters: &parameters,
        working: working(plan, &parameters)?,
        permit,
    };
    // An earlier try of the same plan may have been killed.
    let removed = context.sink.remove_database(&attempt.working, permit).await;
    removed.map_err(|error| error.with_state("nothing was changed"))?;
    let filled = tokio::select! {
        biased;
        () = context.cancel.cancelled() => Err(stopped()),
        filled = attempt.run() => filled,
    };
    match filled {
        Ok(bytes) => Ok(LogicalRestoreReport {
            set: parameters.set.clone(),
            entries: parameters
                .entries
                .as_ref()
                .map_or(contents.logical.entries, |entries| entries.len() as u64),
            database: parameters.database.clone(),
            bytes,
        }),
        Err(error) if context.cancel.is_cancelled() && error.kind() != ErrorKind::Interrupted => {
            Err(attempt.give_up(stopped()).await)
        }
        Err(error) => Err(attempt.give_up(error).await),
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Interrupted, "the restore was stopped on request")
        .with_hint("apply the same plan again to begin anew")
}

/// The database in progress; its mark makes it this plan's own.
fn working(plan: &Plan, parameters: &Parameters) -> Result<WorkingDatabase> {
    let mark = format!("mainstay restore in progress, plan {}", plan.hash()?);
    Ok(WorkingDatabase { name: parameters.working_name.clone(), mark })
}

/// Reads everything back before anything is written.
async fn prove(context: &LogicalRestoreContext<'_>, set: &Set) -> Result<()> {
    let report = tokio::select! {
        report = inspect(context.repository, set, context.observer) => report?,
        () = context.cancel.cancelled() => return Err(stopped().with_state("nothing was written")),
    };
    match report.findings.iter().find(|finding| finding.severity == Severity::Critical) {
        None => Ok(()),
        Some(finding) => Err(Error::new(
            ErrorKind::Corrupt,
            format!("backup set {} is damaged: {}: {}", set.id(), finding.subject, finding.message),
        )
        .with_state("nothing was written")
        .with_hint(format!("`mainstay backup verify {}` lists all damage; restore another set", set.id()))),
    }
}

/// One try.
struct Attempt<'a> {
    context: &'a LogicalRestoreContext<'a>,
    set: &'a Set,
    contents: &'a LogicalSetContents,
    parameters: &'a Parameters,
    working: WorkingDatabase,
    permit: &'a Permit,
}

impl Attempt<'_> {
    /// Makes, fills and names the database; gives the bytes of the dump that were read.
    async fn run(&self) -> Result<u64> {
        let sink = self.context.sink;
        let like = &self.contents.database;
        let owner = self.parameters.owners.then_some(like.owner.as_str());
        sink.create_database(&self.working, like, owner, self.permit).await?;
        let bytes = self.fill().await?;
        sink.place_database(&self.working, &self.parameters.database, self.permit).await?;
        Ok(bytes)
    }

    async fn fill(&self) -> Result<u64> {
        let observer = self.context.observer;
        observer.phase(&format!("fill {}", self.parameters.database));
        observer.expect(Work { items: 0, bytes: self.contents.logical.bytes });
        let request = LoadRequest {
            database: self.parameters.working_name.clone(),
            entries: self.parameters.entries.clone(),
            owners: self.parameters.owners,
            jobs: self.parameters.jobs,
        };
        let mut load = self.context.sink.load(&request, self.permit).await?;
        let mut source = self.set.read(&self.contents.logical.object).await?;
        let mut read = 0;
        while let Some(bytes) = source.next().await? {
            read += bytes.len() as u64;
            observer.advance(Work { items: 0, bytes: bytes.len() as u64 });
            load.write(bytes).await?;
        }
        load.end().await?;
        Ok(read)
    }

    /// Removes what was made; says what stands.
    async fn give_up(&self, error: Error) -> Error {
        let sink = self.context.sink;
        let name = &self.parameters.database;
        match sink.remove_database(&self.working, self.permit).await {
            Ok(true) => error.with_state("what was made is removed; nothing else was changed"),
            // It was named, and the answer was lost; or it was never made.
            Ok(false) => match sink.has_database(name).await {
                Ok(true) => error.with_state(format!("database {name} is there; if nobody else made it, it is whole")),
                Ok(false) => error.with_state("nothing was changed"),
                Err(_) => error.with_state(format!("either nothing was changed, or database {name} is there, whole")),
            },
            Err(_) => error.with_state(format!(
                "database {} may be left half filled, nothing else was changed; applying the same plan again removes it",
                self.working.name
            )),
        }
    }
}
