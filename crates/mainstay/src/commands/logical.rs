//! What `backup` and `restore` do for logical dumps of PostgreSQL, and `backup export`, which hands one out.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use mainstay_engine::{DatabaseDefinition, ServerFacts};
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{ByteSize, Count, Error, ErrorKind, ExitStatus, Plan, Result, StoreKind};
use mainstay_ops::cluster::ClusterSetContents;
use mainstay_ops::logical::{
    self, LogicalBackupContext, LogicalBackupReport, LogicalRestoreContext, LogicalRestoreReport,
    LogicalRestoreRequest, LogicalSetContents,
};
use mainstay_repository::{Repository, Set};
use serde_json::{Map, Value, json};

use super::backup::making::Making;
use super::backup::{SetChoice, choose};
use super::close;
use super::plan::PlanReport;
use super::restore::other_target;
use crate::new_file::NewFile;
use crate::printer::shown::moment;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// How many tables of a dump are shown without `--verbose`.
const TABLE_COUNT_MAX: usize = 50;

/// Arguments of `restore plan` that mean something for logical dumps alone.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logical dumps of PostgreSQL")]
pub(crate) struct LogicalRestoreArgs {
    /// The latest logical dump is meant, not the latest base backup
    #[arg(long)]
    logical: bool,
    /// Restore everything in this schema only; may be repeated
    #[arg(long, value_name = "NAME")]
    schema: Vec<String>,
    /// Restore this table only, as schema.table or table, with what belongs to it; may be repeated
    #[arg(long, value_name = "NAME")]
    table: Vec<String>,
    /// Everything belongs to who restores, and no rights are granted: for a server without the dump's roles
    #[arg(long)]
    without_owners: bool,
    /// How many connections fill the database; with more than one the dump is kept in a temporary file [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
}

impl LogicalRestoreArgs {
    /// Whether the latest logical set is meant.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.logical
    }

    /// Those that are given, for refusing them where they mean nothing.
    pub(crate) fn given(&self) -> [(&'static str, bool); 5] {
        [
            ("logical", self.logical),
            ("schema", !self.schema.is_empty()),
            ("table", !self.table.is_empty()),
            ("without-owners", self.without_owners),
            ("jobs", self.jobs.is_some()),
        ]
    }
}

/// Arguments of `backup export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The set: its identifier, or `latest` for the latest logical dump
    set: SetChoice,
    /// The file; it must not exist
    file: PathBuf,
}

/// The set that is meant: the latest that holds a dump (or, with `logical` false, that holds the files of a server), or the one that is named.
///
/// # Errors
/// `NotFound` when there is none; `Usage` when there are sets of several servers, or dumps of several databases, for none of them is the one
/// that is meant; what the repository fails with.
pub(crate) async fn choose_form(repository: &Repository, choice: &SetChoice, logical: bool) -> Result<Set> {
    if let SetChoice::Id(_) = choice {
        return choose(repository, choice, StoreKind::Postgres).await;
    }
    let (what, option) = match logical {
        true => ("logical dump", " --logical"),
        false => ("base backup", ""),
    };
    // The newest of each server, and of each of its databases.
    let mut newest: Vec<(Origin, Set)> = Vec::new();
    let mut has_others = false;
    for entry in repository.sets(Some(StoreKind::Postgres)).await?.into_iter().rev() {
        let set = match entry.into_set() {
            Ok(set) => set,
            // It may be the latest that is meant; an older one that is damaged is of no matter.
            Err(error) if newest.is_empty() => return Err(error),
            Err(_) => continue,
        };
        if LogicalSetContents::is_of(&set) == logical {
            let origin = match Origin::of(&set, logical) {
                Ok(origin) => origin,
                Err(error) if newest.is_empty() => return Err(error),
                Err(_) => continue,
            };
            if newest.iter().all(|(other, _)| !other.is_same(&origin)) {
                newest.push((origin, set));
            }
        } else {
            has_others = true;
        }
    }
    if newest.len() > 1 {
        let told: Vec<String> =
            newest.iter().map(|(origin, set)| format!("{} of {origin}", set.id())).collect();
        return Err(Error::new(
            ErrorKind::Usage,
            format!("it is not said which latest {what} is meant: {}", told.join(", ")),
        )
        .with_state("nothing was changed")
        .with_hint("name the set: `mainstay backup list --store postgres`"));
    }
    newest.pop().map(|(_, set)| set).ok_or_else(|| {
        let hint = match (has_others, logical) {
            (true, false) => "`--logical` means the latest logical dump".to_owned(),
            (true, true) => "without `--logical` the latest base backup is meant".to_owned(),
            (false, _) => format!("`mainstay backup create --store postgres{option}` makes one"),
        };
        Error::new(ErrorKind::NotFound, format!("the repository holds no {what} of postgres")).with_hint(hint)
    })
}

/// What a set is of.
struct Origin {
    server: ServerFacts,
    /// The database of a dump.
    database: Option<String>,
}

impl Origin {
    fn of(set: &Set, logical: bool) -> Result<Self> {
        if logical {
            let LogicalSetContents { server, database, .. } = set.contents()?;
            return Ok(Self { server, database: Some(database.name) });
        }
        Ok(Self { server: set.contents::<ClusterSetContents>()?.server, database: None })
    }

    /// Whether both are of one server, however it was reached, and of one database.
    fn is_same(&self, other: &Self) -> bool {
        (&self.server.fingerprint, &self.database) == (&other.server.fingerprint, &other.database)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(database) = &self.database {
            write!(formatter, "database {database} of ")?;
        }
        write!(formatter, "server {} at {}", self.server.fingerprint, self.server.address)
    }
}

/// Dumps a database.
///
/// # Errors
/// The operation's.
pub(crate) async fn create(databases: &[String], dry_run: bool, session: &Session) -> Result<ExitStatus> {
    let name = match databases {
        [] => None,
        [one] => Some(one.as_str()),
        _ => {
            return Err(Error::new(ErrorKind::Usage, "a logical dump is of one database")
                .with_state("nothing was changed")
                .with_hint("give `--database` once, and run the command for each database"));
        }
    };
    let source = session.databases()?;
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    let facts = mainstay_engine::LogicalSource::database(source.as_ref(), name).await?;
    let plan = logical::plan_backup(target, &facts, session.clock.as_ref());
    if dry_run {
        return Ok(session.printer.report(&PlanReport::new(plan, None, session.clock.now())?));
    }
    let making = Making::begin(&plan, session).await?;
    let context = LogicalBackupContext {
        source: source.as_ref(),
        repository: &making.repository,
        holder: &making.holder,
        clock: session.clock.as_ref(),
        observer: making.progress.as_ref(),
        cancel: &session.cancel,
    };
    let made = logical::create(&context, &plan, &making.permit).await;
    let facts = |made: &LogicalBackupReport| json!({"database": made.contents.database.name});
    let (report, elapsed) = making.close(made, |made| (&made.set, facts(made))).await?;
    Ok(session.printer.report(&Created { report, elapsed }))
}

struct Created {
    report: LogicalBackupReport,
    elapsed: Duration,
}

impl Report for Created {
    fn json(&self) -> Map<String, Value> {
        let contents = &self.report.contents;
        Map::from_iter([
            ("set".to_owned(), set_json(&self.report.set, contents)),
            ("bytes".to_owned(), json!(contents.logical.bytes)),
            ("stored_bytes".to_owned(), json!(self.report.stored_bytes)),
            ("seconds".to_owned(), json!(self.elapsed.as_secs_f64())),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let LogicalSetContents { database, logical, .. } = &self.report.contents;
        let seconds = self.elapsed.as_secs_f64();
        let rate = ByteSize((logical.bytes as f64 / seconds.max(0.001)) as u64);
        let id = self.report.set.id();
        let label = |word: &str| look.paint(Tone::Faint, &format!("{word:8}"));
        format!(
            "{} {id}\n  {} database {}: {} tables with rows, {} entries in all, {}\n  {} {}\n  {} {}\n  {} {seconds:.1} s, {rate}/s\nnext: mainstay backup verify {id}\n",
            look.paint(Tone::Strong, "backup set"),
            label("dumped"),
            database.name,
            Count(logical.tables.len() as u64),
            Count(logical.entries),
            ByteSize(logical.bytes),
            label("stored"),
            self.report.stored_bytes,
            label("moment"),
            moment(logical.begun_at),
            label("took"),
        )
    }
}

/// A set as `--json` shows it.
pub(crate) fn set_json(set: &Set, contents: &LogicalSetContents) -> Value {
    let LogicalSetContents { environment, server, database, logical } = contents;
    json!({
        "id": set.id(),
        "store": set.kind(),
        "form": "logical",
        "environment": environment,
        "server": server,
        "database": database,
        "begun_at": set.manifest().begun_at,
        "completed_at": set.manifest().completed_at,
        "manifest": set.manifest_blake3(),
        "moment": logical.begun_at,
        "program": logical.program,
        "entries": logical.entries,
        "tables": logical.tables.len(),
        "bytes": logical.bytes,
        "stored_bytes": set.manifest().stored_bytes(),
    })
}

/// A set as `backup show` tells it.
pub(crate) struct Shown {
    pub(crate) set: Set,
    pub(crate) contents: LogicalSetContents,
}

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let mut set = set_json(&self.set, &self.contents);
        set["contents"] = json!(self.contents.logical.tables);
        set["objects"] = json!(self.set.manifest().objects);
        Map::from_iter([("set".to_owned(), set)])
    }

    fn text(&self, look: &Look) -> String {
        let manifest = self.set.manifest();
        let LogicalSetContents { environment, server, database, logical } = &self.contents;
        let mut text = format!("{} {}\n", look.paint(Tone::Strong, "backup set"), self.set.id());
        let facts = [
            (
                "of",
                format!(
                    "database {} of {} {} at {} in {environment}",
                    database.name,
                    self.set.kind(),
                    server.version,
                    server.address
                ),
            ),
            ("made by", logical.program.clone()),
            ("taken", format!("{} to {}", moment(manifest.begun_at), moment(manifest.completed_at))),
            ("moment", moment(logical.begun_at)),
            ("database", described(database)),
            (
                "dump",
                format!(
                    "{} entries, {}, {} stored",
                    Count(logical.entries),
                    ByteSize(logical.bytes),
                    ByteSize(manifest.stored_bytes())
                ),
            ),
            ("manifest", self.set.manifest_blake3().to_string()),
        ];
        for (name, value) in facts {
            text.push_str(&format!("  {} {value}\n", look.paint(Tone::Faint, &format!("{name:8}"))));
        }
        let shown = if look.verbose { usize::MAX } else { TABLE_COUNT_MAX };
        let mut table = Table::new(&["SCHEMA", "TABLE"]);
        for one in logical.tables.iter().take(shown) {
            table.row(vec![Cell::new(one.schema.as_str()), Cell::new(one.table.as_str())]);
        }
        text.push_str(&table.render(look));
        if logical.tables.len() > shown {
            text.push_str(&format!(
                "and {} more tables: --verbose lists them\n",
                logical.tables.len() - shown
            ));
        }
        text
    }
}

fn described(database: &DatabaseDefinition) -> String {
    let locale = database.locale.as_deref().unwrap_or(&database.collate);
    format!("belongs to {}, {}, {locale}", database.owner, database.encoding)
}

/// Decides a restore of `set` into a new database.
///
/// # Errors
/// The operation's.
pub(crate) async fn plan_restore(
    set: &Set,
    into: Option<&str>,
    args: &LogicalRestoreArgs,
    session: &Session,
) -> Result<Plan> {
    let sink = session.databases()?;
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    let request = LogicalRestoreRequest {
        into: into.map(str::to_owned),
        schemas: args.schema.clone(),
        tables: args.table.clone(),
        owners: !args.without_owners,
        jobs: args.jobs.unwrap_or(1),
    };
    logical::plan_restore(sink.as_ref(), set, &request, target, session.clock.as_ref()).await
}

/// Carries out a stored plan.
///
/// # Errors
/// The operation's.
pub(crate) async fn apply_restore(
    plan: &Plan,
    approve: Option<&str>,
    session: &Session,
) -> Result<ExitStatus> {
    let began = Instant::now();
    let sink = session.databases()?;
    let repository = session.repository().await?;
    let guard = session.guard(&repository);
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    if let Some(stale) = other_target(&plan.target, &target) {
        return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    let permit = guard.permit(plan, &BackupEvidence::default(), &session.consent(approve)?).await?;
    let progress = session.printer.progress();
    let context = LogicalRestoreContext {
        sink: sink.as_ref(),
        repository: &repository,
        observer: progress.as_ref(),
        cancel: &session.cancel,
    };
    let restored = logical::restore(&context, plan, &permit).await;
    drop(progress);
    let outcome = match &restored {
        Ok(report) => Outcome::Done {
            summary: format!("restored {} into database {}", report.set, report.database),
            facts: json!(report),
        },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, restored, outcome).await?;
    Ok(session.printer.report(&Restored { report, elapsed: began.elapsed() }))
}

struct Restored {
    report: LogicalRestoreReport,
    elapsed: Duration,
}

impl Report for Restored {
    fn json(&self) -> Map<String, Value> {
        let Value::Object(mut fields) = json!(self.report) else { return Map::new() };
        fields.insert("seconds".to_owned(), json!(self.elapsed.as_secs_f64()));
        fields
    }

    fn text(&self, _look: &Look) -> String {
        let LogicalRestoreReport { set, database, entries, bytes } = &self.report;
        format!(
            "restored {set} into database {database}: {} entries, {} in {:.1} s, verification included\nnext: `ANALYZE;` in it, so that queries are planned well\n",
            Count(*entries),
            ByteSize(*bytes),
            self.elapsed.as_secs_f64()
        )
    }
}

/// Hands a dump out as a file.
///
/// # Errors
/// The operation's; `Precondition` when the file exists.
pub(crate) async fn export(args: &ExportArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let set = choose_form(&repository, &args.set, true).await?;
    let file = NewFile::begin(&session.path(&args.file), "name another file")?;
    let progress = session.printer.progress();
    let exported = tokio::select! {
        exported = logical::export(&set, file.writer()?, progress.as_ref()) => exported,
        () = session.cancel.cancelled() => Err(
            Error::new(ErrorKind::Interrupted, "the export was stopped on request").with_state("nothing was written")
        ),
    };
    drop(progress);
    let bytes = exported?;
    file.place()?;
    let exported = Exported { set, file: args.file.clone(), bytes };
    Ok(session.printer.report(&exported))
}

struct Exported {
    set: Set,
    file: PathBuf,
    bytes: u64,
}

impl Report for Exported {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("set".to_owned(), json!(self.set.id())),
            ("file".to_owned(), json!(self.file)),
            ("bytes".to_owned(), json!(self.bytes)),
        ])
    }

    fn text(&self, _look: &Look) -> String {
        let file = self.file.display();
        format!(
            "wrote {} of set {} to {file}\nnext: pg_restore --list {file}\n",
            ByteSize(self.bytes),
            self.set.id()
        )
    }
}
