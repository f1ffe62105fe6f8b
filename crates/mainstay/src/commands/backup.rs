//! `backup create|list|log|show|verify|prune`.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use jiff::SignedDuration;
use mainstay_engine::{Consistency, Namespace};
use mainstay_guard::{BackupEvidence, Outcome, UNKNOWN_ENVIRONMENT};
use mainstay_model::{
    ByteSize, Count, EnvironmentClass, Error, ErrorKind, ExitStatus, IdError, Plan, Result, ResultExt, RunId,
    SetId, Severity, StoreKind, Target, Timestamp,
};
use mainstay_ops::backup::{self, BackupContext, BackupReport, BackupRequest, ResumeRequest, SnapshotChoice};
use mainstay_ops::contents::DocumentSetContents;
use mainstay_ops::prune::{self, PruneReport, PruneScope};
use mainstay_ops::recoverable::{self, Recoverable};
use mainstay_ops::{Selection, verify};
use mainstay_repository::{Leftover, LogReport, Repository, Set, SetEntry, VerifyReport};
use serde_json::{Map, Value, json};

use super::plan::PlanReport;
use super::{findings, log};
use crate::printer::shown::{ago, moment};
use crate::printer::{Cell, Look, Report, Table, Tone, problem_details, problem_json};
use crate::wiring::Session;

/// The commands below `backup`.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Take a backup of a store into the repository
    Create(CreateArgs),
    /// List the backup sets of the repository, and which moments can be restored
    List(ListArgs),
    /// Find in the captured change log what destroyed data
    Log(log::LogArgs),
    /// Show what a backup set holds
    Show(SetArgs),
    /// Read every byte of a backup set, and of the change log after it, back and record the result
    Verify(VerifyArgs),
    /// Remove what interrupted backups left behind
    Prune(PruneArgs),
}

/// Which moment a backup shows.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum ConsistencyArgument {
    /// One cluster time where the server can
    #[default]
    Best,
    /// One cluster time, or an error
    ClusterTime,
    /// Each document as the scan meets it
    Scan,
}

impl From<ConsistencyArgument> for SnapshotChoice {
    fn from(argument: ConsistencyArgument) -> Self {
        match argument {
            ConsistencyArgument::Best => Self::Best,
            ConsistencyArgument::ClusterTime => Self::ClusterTime,
            ConsistencyArgument::Scan => Self::DuringScan,
        }
    }
}

/// Arguments of `backup create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The store: mongo
    #[arg(long, default_value = "mongo")]
    store: StoreKind,
    /// Back up this database; may be repeated [default: the configured one, or all]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    database: Vec<String>,
    /// Back up this collection, as database.collection; may be repeated
    #[arg(long, value_name = "NAME", value_parser = parse_namespace)]
    collection: Vec<Namespace>,
    /// Back up every database, whatever the configuration names
    #[arg(long, conflicts_with_all = ["database", "collection"])]
    all_databases: bool,
    /// Which moment the backup shows
    #[arg(long, value_enum, default_value_t)]
    consistency: ConsistencyArgument,
    /// Most ranges read at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// Take the server's users and roles along, with what their passwords are checked with
    #[arg(long)]
    users_and_roles: bool,
    /// Hold the backup back so that the server answers within this time, such as 20ms
    #[arg(long, value_name = "LATENCY", value_parser = parse_latency)]
    max_impact: Option<Duration>,
    /// Continue an interrupted backup: its run, or the newest one
    #[arg(
        long,
        value_name = "RUN",
        num_args = 0..=1,
        default_missing_value = "latest",
        conflicts_with_all = ["database", "collection", "all_databases", "consistency", "users_and_roles"]
    )]
    resume: Option<RunChoice>,
    /// Show what would be read, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Which interrupted run is meant.
#[derive(Debug, Clone)]
pub(crate) enum RunChoice {
    /// The newest.
    Latest,
    /// This one.
    Id(RunId),
}

impl FromStr for RunChoice {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text == "latest" { Ok(Self::Latest) } else { text.parse().map(Self::Id) }
    }
}

fn parse_latency(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    parsed
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "expected a time with its unit, such as 20ms".to_owned())
}

/// Arguments of `backup list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Sets of this store only
    #[arg(long)]
    store: Option<StoreKind>,
}

/// Which set is meant.
#[derive(Debug, Clone)]
pub(crate) enum SetChoice {
    /// The newest.
    Latest,
    /// This one.
    Id(SetId),
}

impl FromStr for SetChoice {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text == "latest" { Ok(Self::Latest) } else { text.parse().map(Self::Id) }
    }
}

/// Arguments of `backup verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    set: SetArgs,
    /// Read the whole change log back, not only what continues the set
    #[arg(long)]
    log: bool,
}

/// Arguments of `backup show` and `backup verify`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The set: its identifier, or `latest`
    #[arg(default_value = "latest")]
    set: SetChoice,
    /// The store whose latest set is meant
    #[arg(long, default_value = "mongo")]
    store: StoreKind,
}

/// Arguments of `backup prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Also remove what interrupted backups need to be continued, however young
    #[arg(long)]
    resumable: bool,
    /// Show what would be removed, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl BackupCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => backup::OPERATION,
            Self::List(_) => "backup.list",
            Self::Log(_) => "backup.log",
            Self::Show(_) => "backup.show",
            Self::Verify(_) => "backup.verify",
            Self::Prune(_) => prune::OPERATION,
        }
    }
}

/// `database.collection`; the collection may hold dots.
pub(crate) fn parse_namespace(text: &str) -> Result<Namespace, String> {
    match text.split_once('.') {
        Some((database, collection)) if !database.is_empty() && !collection.is_empty() => {
            Ok(Namespace::new(database, collection))
        }
        _ => Err("expected database.collection".to_owned()),
    }
}

/// Runs a command below `backup`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: BackupCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        BackupCommand::Create(args) => create(args, session).await,
        BackupCommand::List(args) => list(&args, session).await,
        BackupCommand::Log(args) => log::run(args, session).await,
        BackupCommand::Show(args) => show(&args, session).await,
        BackupCommand::Verify(args) => verify_set(&args, session).await,
        BackupCommand::Prune(args) => prune_leftovers(&args, session).await,
    }
}

async fn create(args: CreateArgs, session: &Session) -> Result<ExitStatus> {
    let documents = session.documents(args.store).await?;
    let target = session.target(documents.probe.as_ref()).await?;
    let plan = match &args.resume {
        None => {
            let request = BackupRequest {
                selection: selection(&args, session),
                snapshot: args.consistency.into(),
                scan_count_max: args.parallel.into(),
                impact_max: args.max_impact,
                accounts: args.users_and_roles,
            };
            backup::plan(documents.source.as_ref(), target, &request, session.clock.as_ref()).await?
        }
        Some(choice) => plan_resume(choice, &args, target, session).await?,
    };
    if args.dry_run {
        return Ok(session.printer.report(&PlanReport::new(plan, None, session.clock.now())?));
    }
    let repository = session.repository_or_create().await?;
    let guard = session.guard(&repository);
    let permit = guard.permit(&plan, &BackupEvidence::default(), &session.consent(None)?).await?;
    let began = Instant::now();
    let progress = session.printer.progress();
    let context = BackupContext {
        source: documents.source.as_ref(),
        accounts: documents.accounts.as_ref(),
        repository: &repository,
        holder: &session.holder(),
        clock: session.clock.as_ref(),
        observer: progress.as_ref(),
        cancel: &session.cancel,
    };
    let made = backup::create(&context, &plan, &permit).await;
    drop(progress);
    let outcome = match &made {
        Ok(report) => Outcome::Done {
            summary: format!("made backup set {}", report.set.id()),
            facts: json!({"set": report.set.id(), "manifest": report.set.manifest_blake3(), "digest": report.contents.digest()}),
        },
        Err(error) => Outcome::of_error(error),
    };
    let closed = guard.close(permit, outcome).await.context("record the outcome in the audit log");
    let report = made?;
    closed?;
    Ok(session.printer.report(&Created { report, elapsed: began.elapsed() }))
}

/// The plan of continuing the run that `choice` means.
async fn plan_resume(
    choice: &RunChoice,
    args: &CreateArgs,
    target: Target,
    session: &Session,
) -> Result<Plan> {
    let repository = session.repository().await?;
    let run = match choice {
        RunChoice::Id(run) => run.clone(),
        RunChoice::Latest => match backup::resumable_runs(&repository).await?.pop() {
            Some(newest) => newest.run,
            None => {
                return Err(Error::new(ErrorKind::NotFound, "the repository holds no interrupted backup that can be continued")
                    .with_state("nothing was changed")
                    .with_hint(
                        "a backup that was killed can be continued a minute later, when its lease has run out; `mainstay backup prune \
                         --dry-run` lists what there is",
                    ));
            }
        },
    };
    let request = ResumeRequest { run, scan_count_max: args.parallel.into(), impact_max: args.max_impact };
    backup::plan_resume(&repository, target, &request, session.clock.as_ref()).await
}

/// What was named; without a name the configured database, or everything.
fn selection(args: &CreateArgs, session: &Session) -> Selection {
    let mut databases = args.database.clone();
    if databases.is_empty() && args.collection.is_empty() && !args.all_databases {
        databases.extend(session.configured_database());
    }
    Selection { databases, collections: args.collection.clone() }
}

struct Created {
    report: BackupReport,
    elapsed: Duration,
}

impl Report for Created {
    fn json(&self) -> Map<String, Value> {
        let contents = &self.report.contents;
        let digest = contents.digest();
        Map::from_iter([
            ("set".to_owned(), set_json(&self.report.set, contents)),
            ("consistency".to_owned(), json!(contents.consistency)),
            ("documents".to_owned(), json!(digest.documents)),
            ("bytes".to_owned(), json!(digest.bytes)),
            ("stored_bytes".to_owned(), json!(self.report.stored_bytes)),
            ("resumed".to_owned(), json!(self.report.resumed)),
            ("seconds".to_owned(), json!(self.elapsed.as_secs_f64())),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let contents = &self.report.contents;
        let digest = contents.digest();
        let seconds = self.elapsed.as_secs_f64();
        let rate = ByteSize((digest.bytes as f64 / seconds.max(0.001)) as u64);
        let id = self.report.set.id();
        format!(
            "{} {id}\n  {} {} documents, {} in {} collections and views\n  {} {} in {} objects\n  {} {}\n  {} {seconds:.1} s, {rate}/s\nnext: mainstay backup verify {id}\n",
            look.paint(Tone::Strong, "backup set"),
            label(look, "read"),
            Count(digest.documents),
            ByteSize(digest.bytes),
            contents.collections.len(),
            label(look, "stored"),
            self.report.stored_bytes,
            self.report.set.manifest().objects.len(),
            label(look, "moment"),
            moment_of(&contents.consistency),
            label(look, "took"),
        )
    }
}

fn label(look: &Look, word: &str) -> String {
    look.paint(Tone::Faint, &format!("{word:8}"))
}

/// The moment a set shows, for people.
pub(crate) fn moment_of(consistency: &Consistency) -> String {
    match consistency {
        Consistency::ClusterTime { at } => format!("cluster time {at}, {}", moment(at.timestamp())),
        Consistency::DuringScan { reason } => format!("no single moment: {reason}"),
    }
}

fn set_json(set: &Set, contents: &DocumentSetContents) -> Value {
    let digest = contents.digest();
    json!({
        "id": set.id(),
        "store": set.kind(),
        "environment": contents.environment,
        "server": contents.server,
        "begun_at": set.manifest().begun_at,
        "completed_at": set.manifest().completed_at,
        "manifest": set.manifest_blake3(),
        "consistency": contents.consistency,
        "settled": contents.settled,
        "collections": contents.collections.len(),
        "documents": digest.documents,
        "bytes": digest.bytes,
        "users": contents.accounts.as_ref().map(|accounts| accounts.users.digest.documents),
        "roles": contents.accounts.as_ref().map(|accounts| accounts.roles.digest.documents),
        "stored_bytes": set.manifest().stored_bytes(),
        "digest": digest,
    })
}

async fn list(args: &ListArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let mut rows = Vec::new();
    for entry in repository.sets(args.store).await? {
        rows.push(row(&repository, entry).await?);
    }
    let wants_log = args.store.is_none_or(|store| store == StoreKind::Mongo);
    let logs = if wants_log { recoverable::recoverable(&repository).await? } else { Recoverable::default() };
    Ok(session.printer.report(&Listed { rows, logs, now: session.clock.now() }))
}

async fn row(repository: &Repository, entry: SetEntry) -> Result<Row> {
    let (id, kind) = (entry.id().clone(), entry.kind());
    let read = entry.into_set().and_then(|set| set.contents().map(|contents| (set, contents)));
    let last = repository.last_verification(kind, &id).await?;
    let verified = last.map(|record| (record.at, record.is_sound()));
    Ok(Row { id, kind, read, verified })
}

struct Row {
    id: SetId,
    kind: StoreKind,
    read: Result<(Set, DocumentSetContents)>,
    /// When it was last read back, and whether it was sound.
    verified: Option<(Timestamp, bool)>,
}

struct Listed {
    rows: Vec<Row>,
    logs: Recoverable,
    now: Timestamp,
}

impl Report for Listed {
    fn json(&self) -> Map<String, Value> {
        let sets = self.rows.iter().map(|row| {
            let mut value = match &row.read {
                Ok((set, contents)) => set_json(set, contents),
                Err(error) => json!({"id": row.id, "store": row.kind, "damaged": error.to_string()}),
            };
            value["verified_at"] = json!(row.verified.map(|(at, _)| at));
            value["sound"] = json!(row.verified.map(|(_, sound)| sound));
            value
        });
        Map::from_iter([
            ("sets".to_owned(), sets.collect()),
            ("log".to_owned(), log::ranges_json(&self.logs.servers, self.now)),
            ("damaged_chains".to_owned(), json!(self.logs.damaged)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        if self.rows.is_empty() {
            return "the repository holds no backup sets; `mainstay backup create` makes one\n".to_owned()
                + &log::ranges_text(&self.logs, self.now, look);
        }
        let mut table = Table::new(&[
            "SET",
            "STORE",
            "TAKEN",
            "COLLECTIONS",
            "DOCUMENTS",
            "SIZE",
            "STORED",
            "MOMENT",
            "VERIFIED",
        ]);
        for row in &self.rows {
            table.row(row.cells(self.now));
        }
        table.render(look) + &log::ranges_text(&self.logs, self.now, look)
    }

    fn exit_status(&self) -> ExitStatus {
        let damaged = |row: &Row| row.read.is_err() || row.verified.is_some_and(|(_, sound)| !sound);
        if self.rows.iter().any(damaged) || !self.logs.damaged.is_empty() {
            Severity::Critical.exit_status()
        } else {
            ExitStatus::Ok
        }
    }
}

impl Row {
    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let mut cells = vec![self.id.as_str().into(), self.kind.name().into()];
        match &self.read {
            Err(error) => cells.push(Cell::new(format!("DAMAGED: {error}")).tone(Tone::Bad)),
            Ok((set, contents)) => {
                let digest = contents.digest();
                cells.extend([
                    Cell::new(ago(set.manifest().completed_at, now)),
                    Cell::right(contents.collections.len().to_string()),
                    Cell::right(Count(digest.documents).to_string()),
                    Cell::right(ByteSize(digest.bytes).to_string()),
                    Cell::right(ByteSize(set.manifest().stored_bytes()).to_string()),
                    Cell::new(match contents.consistency {
                        Consistency::ClusterTime { .. } => "one",
                        Consistency::DuringScan { .. } => "per scan",
                    }),
                    match self.verified {
                        None => Cell::new("never").tone(Tone::Warn),
                        Some((at, true)) => Cell::new(ago(at, now)).tone(Tone::Good),
                        Some((at, false)) => Cell::new(format!("DAMAGED, {}", ago(at, now))).tone(Tone::Bad),
                    },
                ]);
            }
        }
        cells
    }
}

/// The set that `choice` means.
///
/// # Errors
/// `NotFound` when there is none; what the repository fails with.
pub(crate) async fn choose(repository: &Repository, choice: &SetChoice, store: StoreKind) -> Result<Set> {
    match choice {
        SetChoice::Id(id) => repository.set(None, id).await,
        SetChoice::Latest => repository.latest(store).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("the repository holds no backup set of {store}"))
                .with_hint(format!("`mainstay backup create --store {store}` makes one"))
        }),
    }
}

async fn show(args: &SetArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let set = choose(&repository, &args.set, args.store).await?;
    let contents = set.contents()?;
    Ok(session.printer.report(&Shown { set, contents }))
}

struct Shown {
    set: Set,
    contents: DocumentSetContents,
}

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let mut set = set_json(&self.set, &self.contents);
        set["contents"] = json!(self.contents.collections);
        set["objects"] = json!(self.set.manifest().objects);
        Map::from_iter([("set".to_owned(), set)])
    }

    fn text(&self, look: &Look) -> String {
        let manifest = self.set.manifest();
        let contents = &self.contents;
        let mut text = format!("{} {}\n", look.paint(Tone::Strong, "backup set"), self.set.id());
        let facts = [
            (
                "of",
                format!(
                    "{} {} at {} in {}",
                    self.set.kind(),
                    contents.server.version,
                    contents.server.address,
                    contents.environment
                ),
            ),
            ("taken", format!("{} to {}", moment(manifest.begun_at), moment(manifest.completed_at))),
            ("moment", moment_of(&contents.consistency)),
            ("accounts", accounts_of(contents)),
            ("digest", contents.digest().to_string()),
            ("manifest", self.set.manifest_blake3().to_string()),
        ];
        for (name, value) in facts {
            text.push_str(&format!("  {} {value}\n", label(look, name)));
        }
        let stored: BTreeMap<_, _> =
            manifest.objects.iter().map(|object| (&object.name, object.stored_bytes)).collect();
        let mut table =
            Table::new(&["NAMESPACE", "KIND", "DOCUMENTS", "SIZE", "STORED", "PARTS", "INDEXES", "MOMENT"]);
        for record in &contents.collections {
            let digest = record.digest();
            let bytes: u64 = record.parts.iter().filter_map(|part| stored.get(&part.object)).sum();
            table.row(vec![
                record.namespace.to_string().into(),
                Cell::new(match record.kind {
                    mainstay_engine::CollectionKind::Collection if record.capped => "capped",
                    mainstay_engine::CollectionKind::Collection => "collection",
                    mainstay_engine::CollectionKind::View => "view",
                    mainstay_engine::CollectionKind::TimeSeries => "time series",
                }),
                Cell::right(Count(digest.documents).to_string()),
                Cell::right(ByteSize(digest.bytes).to_string()),
                Cell::right(ByteSize(bytes).to_string()),
                Cell::right(record.parts.len().to_string()),
                Cell::right(record.index_count.to_string()),
                Cell::new(if record.consistency == contents.consistency {
                    "the set's".to_owned()
                } else {
                    moment_of(&record.consistency)
                }),
            ]);
        }
        text + &table.render(look)
    }
}

/// How many users and roles a set holds; who they are is told by nothing but a plan that restores them.
fn accounts_of(contents: &DocumentSetContents) -> String {
    match &contents.accounts {
        None => "no users and roles".to_owned(),
        Some(accounts) => {
            format!("{} users, {} roles", accounts.users.digest.documents, accounts.roles.digest.documents)
        }
    }
}

async fn verify_set(args: &VerifyArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let set = choose(&repository, &args.set.set, args.set.store).await?;
    let progress = session.printer.progress();
    let verified = async {
        let (report, recorded) = verify::verify(&repository, &set, progress.as_ref()).await?;
        let logs = match args.log {
            true => recoverable::verify_logs(&repository, progress.as_ref()).await?,
            false => recoverable::verify_log_after(&repository, &set, progress.as_ref())
                .await?
                .into_iter()
                .collect(),
        };
        Ok::<_, Error>((report, recorded, logs))
    };
    let (report, recorded, logs) = tokio::select! {
        verified = verified => verified?,
        () = session.cancel.cancelled() => return Err(
            Error::new(ErrorKind::Interrupted, "the verification was stopped on request").with_state("nothing was changed")
        ),
    };
    drop(progress);
    let facts = json!({"set": report.set_id, "manifest": report.manifest, "sound": report.is_sound(), "findings": report.findings.len()});
    let noted = session.guard(&repository).note("backup.verify", None, facts).await;
    let recorded = recorded.and(noted.context("record the result in the audit log"));
    Ok(session.printer.report(&Verified { report, logs, recorded }))
}

struct Verified {
    report: VerifyReport,
    /// The verifications of the change log.
    logs: Vec<LogReport>,
    /// What kept the verdict from being recorded.
    recorded: Result<()>,
}

impl Report for Verified {
    fn json(&self) -> Map<String, Value> {
        let report = &self.report;
        Map::from_iter([
            ("set".to_owned(), json!(report.set_id)),
            ("manifest".to_owned(), json!(report.manifest)),
            ("sound".to_owned(), json!(report.is_sound())),
            ("objects".to_owned(), json!(report.objects)),
            ("bytes".to_owned(), json!(report.bytes)),
            ("stored_bytes".to_owned(), json!(report.stored_bytes)),
            ("seconds".to_owned(), json!(report.seconds)),
            ("findings".to_owned(), json!(report.findings)),
            ("log".to_owned(), self.logs.iter().map(log_json).collect()),
            ("not_recorded".to_owned(), json!(self.recorded.as_ref().err().map(problem_json))),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.report;
        let verdict = match report.is_sound() {
            true => look.paint(Tone::Good, "sound"),
            false => look.paint(Tone::Bad, "DAMAGED"),
        };
        let mut text = format!(
            "backup set {} is {verdict}: {} objects, {} stored, {} read back in {:.1} s\n",
            report.set_id,
            report.objects,
            ByteSize(report.stored_bytes),
            ByteSize(report.bytes),
            report.seconds
        );
        if !report.findings.is_empty() {
            text.push_str(&findings::text(&report.findings, look));
        }
        for log in &self.logs {
            let verdict = match log.is_sound() {
                true => look.paint(Tone::Good, "sound"),
                false => look.paint(Tone::Bad, "DAMAGED"),
            };
            text.push_str(&format!(
                "change log in chain {} is {verdict}: {} slices, {} read back\n",
                log.chain_id,
                log.slices,
                ByteSize(log.bytes)
            ));
            if !log.findings.is_empty() {
                text.push_str(&findings::text(&log.findings, look));
            }
        }
        if let Err(error) = &self.recorded {
            text.push_str(&format!("{} {error}\n", look.paint(Tone::Bad, "this verdict was not recorded:")));
            text.push_str(&problem_details(error));
        }
        text
    }

    fn exit_status(&self) -> ExitStatus {
        let logs = self.logs.iter().flat_map(|log| &log.findings);
        let all: Vec<_> = self.report.findings.iter().chain(logs).cloned().collect();
        match (Severity::worst_exit_status(&all), &self.recorded) {
            (ExitStatus::Ok, Err(error)) => error.kind().exit_status(),
            (verdict, _) => verdict,
        }
    }
}

fn log_json(log: &LogReport) -> Value {
    let mut value = json!(log);
    value["sound"] = json!(log.is_sound());
    value
}

async fn prune_leftovers(args: &PruneArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let scope = PruneScope { resumable: args.resumable };
    if args.dry_run {
        let judged = prune::judge(&repository, scope, session.clock.as_ref()).await?;
        let headless = repository.headless_sets().await?;
        return Ok(session.printer.report(&Pruned {
            report: PruneReport::of(judged),
            headless,
            dry_run: true,
        }));
    }
    let guard = session.guard(&repository);
    let environment = session.configured_environment();
    let name = environment.name.as_deref().unwrap_or(UNKNOWN_ENVIRONMENT);
    let class = environment.class.unwrap_or(EnvironmentClass::Production);
    let plan = prune::plan(&repository, name, class, scope, session.clock.as_ref()).await?;
    let permit = guard.permit(&plan, &BackupEvidence::default(), &session.consent(None)?).await?;
    let pruned = prune::prune(&repository, &plan, &permit, session.clock.as_ref()).await;
    let outcome = match &pruned {
        Ok(report) => Outcome::Done {
            summary: format!("removed {} leftovers", report.removed.len()),
            facts: json!({"removed": report.removed.iter().map(Leftover::subject).collect::<Vec<_>>(), "bytes": report.removed_bytes()}),
        },
        Err(error) => Outcome::of_error(error),
    };
    guard.close(permit, outcome).await.context("record the outcome in the audit log")?;
    let report = pruned?;
    let headless = repository.headless_sets().await?;
    Ok(session.printer.report(&Pruned { report, headless, dry_run: false }))
}

struct Pruned {
    report: PruneReport,
    /// Kept, although they look like leftovers.
    headless: Vec<(StoreKind, SetId)>,
    dry_run: bool,
}

impl Report for Pruned {
    fn json(&self) -> Map<String, Value> {
        let shown = |leftovers: &[Leftover]| -> Value {
            let one = |leftover: &Leftover| json!({"subject": leftover.subject(), "objects": leftover.objects, "bytes": leftover.bytes});
            leftovers.iter().map(one).collect()
        };
        Map::from_iter([
            ("dry_run".to_owned(), json!(self.dry_run)),
            ("removed".to_owned(), shown(&self.report.removed)),
            ("in_use".to_owned(), shown(&self.report.in_use)),
            ("resumable".to_owned(), self.report.resumable.iter().map(|(_, run)| json!(run)).collect()),
            ("damaged".to_owned(), self.headless.iter().map(|(_, id)| json!(id)).collect()),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let verb = if self.dry_run { "would remove" } else { "removed" };
        let mut table = Table::new(&["", "LEFTOVER", "OBJECTS", "SIZE"]);
        let rows = self.report.removed.iter().map(|leftover| (verb, leftover));
        for (verb, leftover) in rows.chain(self.report.in_use.iter().map(|leftover| ("in use", leftover))) {
            table.row(vec![
                verb.into(),
                leftover.subject().into(),
                Cell::right(leftover.objects.to_string()),
                Cell::right(ByteSize(leftover.bytes).to_string()),
            ]);
        }
        for (leftover, _) in &self.report.resumable {
            table.row(vec![
                "kept".into(),
                leftover.subject().into(),
                Cell::right(leftover.objects.to_string()),
                Cell::right(ByteSize(leftover.bytes).to_string()),
            ]);
        }
        let mut text = table.render(look);
        text.push_str(&format!(
            "{verb} {} leftovers, {}\n",
            self.report.removed.len(),
            self.report.removed_bytes()
        ));
        if !self.report.in_use.is_empty() {
            text.push_str(
                "leftovers in use belong to a backup that is running, or was killed within the last minute\n",
            );
        }
        for (store, id) in &self.headless {
            text.push_str(&format!(
                "kept {store}/sets/{id}: its manifest is missing, but it has been verified, so it was a complete backup; copy manifest.json back from an off-site copy of the repository\n"
            ));
        }
        for (_, run) in &self.report.resumable {
            text.push_str(&format!(
                "kept for a day: {} of {} ranges, {}; continue with `mainstay backup create --resume {}`, remove with `backup prune --resumable`\n",
                run.parts,
                run.total,
                ByteSize(run.bytes),
                run.run
            ));
        }
        text
    }
}
