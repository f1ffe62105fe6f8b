//! What `backup` and `restore` do for a store whose files are copied as a whole: PostgreSQL.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use mainstay_engine::{
    BaseBackupRequest, CheckpointPace, FileChecksum, LinkChoice, LinkCompression, ScratchHost, ScratchTable,
};
use mainstay_guard::{BackupEvidence, Outcome, UNKNOWN_ENVIRONMENT};
use mainstay_model::{
    ByteSize, Count, EnvironmentClass, Error, ErrorKind, ExitStatus, Lsn, Plan, Result, ResultExt, Severity,
    StoreKind, Target,
};
use mainstay_ops::cluster::{
    self, Asked, ClusterBackupContext, ClusterBackupReport, ClusterRestoreContext, ClusterRestoreReport,
    ClusterRestoreRequest, ClusterSetContents, EarlierChoice, FetchCommand, Questions, Recovery,
    RecoveryAction, RecoveryTarget, ScratchContext, ScratchReport,
};
use mainstay_repository::Set;
use serde_json::{Map, Value, json};

use super::backup::SetChoice;
use super::backup::making::Making;
use super::plan::PlanReport;
use super::{close, findings};
use crate::printer::shown::{moment, plain};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Where the official container image from version 18 on keeps its data, with the version for `{}`.
const CONTAINER_FOLDER: &str = "/var/lib/postgresql/{}/docker";

/// How much of a file of queries is read: more than any may have.
const CHECK_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How wide a value of an answer is shown.
const VALUE_COLUMNS_MAX: usize = 60;
/// How many tables are shown without `--verbose`.
const TABLE_COUNT_MAX: usize = 50;

/// How a server begins a base backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckpointArgument {
    /// At once
    Fast,
    /// Spread over some minutes, so that others hardly notice
    Spread,
}

/// How a server sums up its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChecksumArgument {
    /// CRC-32C: finds accidents
    Crc32c,
    /// SHA-256: finds forgeries too, for a core of the server
    Sha256,
}

/// How the server packs its files for the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LinkArgument {
    /// When its answers take 5 ms or longer: with zstd, else gzip, where the server has them
    Auto,
    /// Not at all
    None,
    /// With gzip
    Gzip,
    /// With zstd
    Zstd,
}

/// Arguments of `backup create` that mean something for PostgreSQL alone.
#[derive(Debug, Args)]
#[command(next_help_heading = "PostgreSQL")]
pub(crate) struct ClusterArgs {
    /// Most bytes per second that the server sends, such as 50MB
    #[arg(long, value_name = "SIZE")]
    max_rate: Option<ByteSize>,
    /// What the server calls the backup in its log and in backup_label [default: mainstay]
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// How the server begins [default: fast]
    #[arg(long, value_enum)]
    checkpoint: Option<CheckpointArgument>,
    /// How the server sums up each file [default: crc32c]
    #[arg(long, value_enum)]
    file_checksum: Option<ChecksumArgument>,
    /// How the server packs its files for a slow link; here they are unpacked again [default: auto]
    #[arg(long, value_enum)]
    link_compression: Option<LinkArgument>,
    /// Take the backup although pages of the server are damaged
    #[arg(long)]
    allow_damaged_pages: bool,
    /// Read what has changed since an earlier set alone: since this one, or the newest of the server
    #[arg(long, value_name = "SET", num_args = 0..=1, default_missing_value = "latest")]
    incremental: Option<SetChoice>,
}

impl ClusterArgs {
    /// Refuses them for something else.
    ///
    /// # Errors
    /// `Usage`, naming the first.
    pub(crate) fn refuse(&self, what: impl Display) -> Result<()> {
        let given = [
            ("max-rate", self.max_rate.is_some()),
            ("label", self.label.is_some()),
            ("checkpoint", self.checkpoint.is_some()),
            ("file-checksum", self.file_checksum.is_some()),
            ("link-compression", self.link_compression.is_some()),
            ("allow-damaged-pages", self.allow_damaged_pages),
            ("incremental", self.incremental.is_some()),
        ];
        refuse(&given, what)
    }

    fn request(&self) -> BaseBackupRequest {
        BaseBackupRequest {
            label: self.label.clone().unwrap_or_else(|| "mainstay".to_owned()),
            checkpoint: match self.checkpoint {
                None | Some(CheckpointArgument::Fast) => CheckpointPace::Fast,
                Some(CheckpointArgument::Spread) => CheckpointPace::Spread,
            },
            rate_max: self.max_rate.map(ByteSize::bytes),
            checksum: match self.file_checksum {
                None | Some(ChecksumArgument::Crc32c) => FileChecksum::Crc32c,
                Some(ChecksumArgument::Sha256) => FileChecksum::Sha256,
            },
            check_pages: !self.allow_damaged_pages,
            link: match self.link_compression {
                None | Some(LinkArgument::Auto) => LinkChoice::Auto,
                Some(LinkArgument::None) => LinkChoice::Always(LinkCompression::None),
                Some(LinkArgument::Gzip) => LinkChoice::Always(LinkCompression::Gzip),
                Some(LinkArgument::Zstd) => LinkChoice::Always(LinkCompression::Zstd),
            },
        }
    }
}

/// Arguments of `restore apply` that mean something for the files of a server alone.
#[derive(Debug, Default, Args)]
pub(crate) struct ScratchArgs {
    /// Prove a restored folder of PostgreSQL by a throw-away server, which uses it up: recover, read every table, look at every relation
    #[arg(long)]
    scratch: bool,
    /// Ask the throw-away server the queries of this file too, read-only; each must be answered, and what is one column of truth values be true
    #[arg(long, value_name = "FILE", requires = "scratch")]
    check: Option<PathBuf>,
}

impl ScratchArgs {
    /// Refuses them for something else.
    ///
    /// # Errors
    /// `Usage`.
    pub(crate) fn refuse(&self, what: impl Display) -> Result<()> {
        refuse(&[("scratch", self.scratch)], what)
    }

    /// The file of queries, read and told apart.
    fn questions(&self, host: &dyn ScratchHost, session: &Session) -> Result<Option<Questions>> {
        let Some(file) = &self.check else { return Ok(None) };
        let shown = file.display().to_string();
        let path = session.path(file);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(CHECK_BYTES_MAX).read_to_end(&mut bytes));
        read.map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Storage,
            };
            Error::new(kind, format!("cannot read {}: {error}", path.display()))
                .with_state("nothing was changed")
                .with_hint("name a file of queries that this user may read: `--check FILE`")
        })?;
        let queries = host.queries(&bytes).with_context(|| format!("read {shown}"))?;
        Ok(Some(Questions { file: shown, queries }))
    }
}

/// Refuses the first of these flags that is given: it means nothing for `what`.
///
/// # Errors
/// `Usage`.
pub(crate) fn refuse(flags: &[(&str, bool)], what: impl Display) -> Result<()> {
    match flags.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => Err(Error::new(ErrorKind::Usage, format!("--{flag} means nothing for {what}"))
            .with_state("nothing was changed")
            .with_hint(format!("leave --{flag} out"))),
    }
}

/// Takes a base backup.
///
/// # Errors
/// The operation's.
pub(crate) async fn create(args: &ClusterArgs, dry_run: bool, session: &Session) -> Result<ExitStatus> {
    let source = session.cluster()?;
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    let earlier = match &args.incremental {
        None => None,
        Some(choice) => {
            let choice = match choice {
                SetChoice::Latest => EarlierChoice::Latest,
                SetChoice::Id(id) => EarlierChoice::Id(id.clone()),
            };
            let repository = session.repository().await?;
            Some(cluster::find_earlier(&repository, &choice, &target.fingerprint).await?)
        }
    };
    let plan = cluster::plan_backup(target, &args.request(), earlier, session.clock.as_ref());
    if dry_run {
        return Ok(session.printer.report(&PlanReport::new(plan, None, session.clock.now())?));
    }
    let making = Making::begin(&plan, session).await?;
    let context = ClusterBackupContext {
        source: source.as_ref(),
        repository: &making.repository,
        holder: &making.holder,
        observer: making.progress.as_ref(),
        cancel: &session.cancel,
    };
    let made = cluster::create(&context, &plan, &making.permit).await;
    let facts = |made: &ClusterBackupReport| json!({"end": made.contents.end});
    let (report, elapsed) = making.close(made, |made| (&made.set, facts(made))).await?;
    Ok(session.printer.report(&Created { report, elapsed }))
}

struct Created {
    report: ClusterBackupReport,
    elapsed: Duration,
}

impl Report for Created {
    fn json(&self) -> Map<String, Value> {
        let contents = &self.report.contents;
        Map::from_iter([
            ("set".to_owned(), set_json(&self.report.set, contents)),
            ("files".to_owned(), json!(contents.files())),
            ("bytes".to_owned(), json!(contents.bytes())),
            ("stored_bytes".to_owned(), json!(self.report.stored_bytes)),
            ("pages_checked".to_owned(), json!(self.report.pages_checked)),
            ("link_compression".to_owned(), json!(self.report.link)),
            ("seconds".to_owned(), json!(self.elapsed.as_secs_f64())),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let contents = &self.report.contents;
        let seconds = self.elapsed.as_secs_f64();
        let rate = ByteSize((contents.bytes() as f64 / seconds.max(0.001)) as u64);
        let id = self.report.set.id();
        let label = |word: &str| look.paint(Tone::Faint, &format!("{word:8}"));
        format!(
            "{} {id}\n  {} {}\n  {} {} files, {} in {} archives\n  {} {}\n  {} {}\n  {} {}\n  {} {seconds:.1} s, {rate}/s\nnext: mainstay backup verify {id}\n",
            look.paint(Tone::Strong, "backup set"),
            label("holds"),
            holds(contents),
            label("read"),
            Count(contents.files()),
            ByteSize(contents.bytes()),
            contents.archives.len(),
            label("checked"),
            checked(contents, self.report.pages_checked),
            label("stored"),
            self.report.stored_bytes,
            label("moment"),
            moment_of(contents),
            label("took"),
        )
    }
}

fn checked(contents: &ClusterSetContents, pages: u64) -> String {
    let pages = match (contents.page_checksums, contents.damaged_pages) {
        (false, _) => "pages have no checksums on this server".to_owned(),
        (true, 0) => format!("{} pages sound", Count(pages)),
        (true, damaged) => format!("{} of {} pages DAMAGED on the server", Count(damaged), Count(pages)),
    };
    format!("every file against the server's list; {pages}")
}

/// Whether a set is whole, or what it is of no use without.
fn holds(contents: &ClusterSetContents) -> String {
    match contents.chain.last() {
        None => "the whole cluster".to_owned(),
        Some(earlier) => format!(
            "what has changed since {}, and needs that; number {} of its chain",
            earlier.set,
            contents.chain.len() + 1
        ),
    }
}

/// The moment a set shows, for people.
pub(crate) fn moment_of(contents: &ClusterSetContents) -> String {
    format!("LSN {} on timeline {}", contents.end, contents.timeline)
}

/// A set as `--json` shows it.
pub(crate) fn set_json(set: &Set, contents: &ClusterSetContents) -> Value {
    json!({
        "id": set.id(),
        "store": set.kind(),
        "environment": contents.environment,
        "server": contents.server,
        "begun_at": set.manifest().begun_at,
        "completed_at": set.manifest().completed_at,
        "manifest": set.manifest_blake3(),
        "label": contents.label,
        "begin": contents.begin,
        "end": contents.end,
        "timeline": contents.timeline,
        "page_checksums": contents.page_checksums,
        "damaged_pages": contents.damaged_pages,
        "damaged": contents.damaged,
        "tablespaces": contents.tablespaces().collect::<Vec<_>>(),
        "incremental": contents.is_incremental(),
        "chain": contents.chain,
        "files": contents.files(),
        "bytes": contents.bytes(),
        "stored_bytes": set.manifest().stored_bytes(),
    })
}

/// A set as `backup show` tells it.
pub(crate) struct Shown {
    pub(crate) set: Set,
    pub(crate) contents: ClusterSetContents,
}

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let mut set = set_json(&self.set, &self.contents);
        set["contents"] = json!(self.contents.archives);
        set["objects"] = json!(self.set.manifest().objects);
        Map::from_iter([("set".to_owned(), set)])
    }

    fn text(&self, look: &Look) -> String {
        let (manifest, contents) = (self.set.manifest(), &self.contents);
        let server = &contents.server;
        let mut text = format!("{} {}\n", look.paint(Tone::Strong, "backup set"), self.set.id());
        let pages = match (contents.page_checksums, contents.damaged_pages) {
            (false, _) => "without checksums".to_owned(),
            (true, 0) => "with checksums, all sound".to_owned(),
            (true, damaged) => format!("{} were DAMAGED on the server", Count(damaged)),
        };
        let facts = [
            (
                "of",
                format!(
                    "{} {} ({}) at {} in {}",
                    self.set.kind(),
                    server.version,
                    server.topology,
                    server.address,
                    contents.environment
                ),
            ),
            ("taken", format!("{} to {}", moment(manifest.begun_at), moment(manifest.completed_at))),
            ("label", contents.label.clone()),
            ("holds", holds(contents)),
            ("moment", moment_of(contents)),
            ("recovery", format!("from {} to {}", contents.begin, contents.end)),
            ("pages", pages),
            ("manifest", self.set.manifest_blake3().to_string()),
        ];
        for (name, value) in facts {
            text.push_str(&format!("  {} {value}\n", look.paint(Tone::Faint, &format!("{name:8}"))));
        }
        for earlier in &contents.chain {
            text.push_str(&format!("  {} {}\n", look.paint(Tone::Faint, "needs   "), earlier.set));
        }
        let stored: BTreeMap<_, _> =
            manifest.objects.iter().map(|object| (&object.name, object.stored_bytes)).collect();
        let mut table = Table::new(&["ARCHIVE", "FILES", "SIZE", "STORED", "LAY AT"]);
        for archive in &contents.archives {
            let bytes = stored.get(&archive.object).copied().unwrap_or_default();
            table.row(vec![
                archive.object.to_string().into(),
                Cell::right(Count(archive.files).to_string()),
                Cell::right(ByteSize(archive.bytes).to_string()),
                Cell::right(ByteSize(bytes).to_string()),
                archive
                    .tablespace
                    .as_ref()
                    .map_or("the data directory", |place| place.location.as_str())
                    .into(),
            ]);
        }
        text + &table.render(look)
    }
}

/// Decides a restore of `set` into a folder.
///
/// # Errors
/// The operation's; `Usage` without a folder.
pub(crate) fn plan_restore(
    set: &Set,
    into: Option<&str>,
    tablespaces: &[(String, String)],
    recovery: Option<Recovery>,
    session: &Session,
) -> Result<Plan> {
    let into = into.ok_or_else(|| {
        Error::new(ErrorKind::Usage, "a set of postgres is restored into a folder, and none is named")
            .with_state("nothing was changed")
            .with_hint("name an empty folder, or one that does not exist: `--into DIR`")
    })?;
    let into = whole_path(&session.path(Path::new(into)))?;
    let contents: ClusterSetContents = set.contents()?;
    let configured = session.configured_environment();
    let mut mapped = BTreeMap::new();
    for (from, to) in tablespaces {
        mapped.insert(from.clone(), whole_path(&session.path(Path::new(to)))?);
    }
    if let Some(repository) = session.repository_folder()? {
        let repository: PathBuf = repository.components().collect();
        let inside =
            [&into].into_iter().chain(mapped.values()).find(|folder| folder.starts_with(&repository));
        if let Some(folder) = inside {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{} lies in the repository, {}", folder.display(), repository.display()),
            )
            .with_state("nothing was changed")
            .with_hint("name a folder elsewhere: `--into DIR`"));
        }
    }
    let request = ClusterRestoreRequest {
        environment: Target {
            environment: configured.name.unwrap_or_else(|| UNKNOWN_ENVIRONMENT.to_owned()),
            class: configured.class.unwrap_or(EnvironmentClass::Production),
            store: StoreKind::Postgres,
            fingerprint: contents.server.fingerprint.clone(),
            address: into.display().to_string(),
        },
        into,
        tablespaces: mapped,
        recovery,
    };
    cluster::plan_restore(set, &request, session.clock.as_ref())
}

/// The path without `.` and `..`, which would make two names of one folder.
pub(crate) fn whole_path(path: &Path) -> Result<PathBuf> {
    if path.components().any(|part| matches!(part, std::path::Component::ParentDir)) {
        return Err(Error::new(ErrorKind::Usage, format!("{} holds `..`", path.display()))
            .with_state("nothing was changed")
            .with_hint("name the folder without it"));
    }
    Ok(path.components().collect())
}

/// Carries out a stored plan.
///
/// # Errors
/// The operation's.
pub(crate) async fn apply_restore(
    plan: &Plan,
    approve: Option<&str>,
    scratch: &ScratchArgs,
    session: &Session,
) -> Result<ExitStatus> {
    let began = Instant::now();
    let repository = session.repository().await?;
    let host = if scratch.scratch { Some(session.scratch_host()?) } else { None };
    let mut questions = None;
    if let Some(host) = &host {
        questions = scratch.questions(host, session)?;
        cluster::check_scratch(host, &repository, plan).await?;
    }
    let guard = session.guard(&repository);
    let permit = guard.permit(plan, &BackupEvidence::default(), &session.consent(approve)?).await?;
    let progress = session.printer.progress();
    let fetch = session.fetch_command()?;
    let context = ClusterRestoreContext {
        repository: &repository,
        fetch: &fetch,
        observer: progress.as_ref(),
        cancel: &session.cancel,
    };
    let restored = cluster::restore(&context, plan, &permit).await;
    drop(progress);
    let outcome = match &restored {
        Ok(report) => Outcome::Done {
            summary: format!("restored {} into {}", report.set, report.into.display()),
            facts: json!({
                "set": report.set,
                "into": report.into,
                "tablespaces": report.tablespaces,
                "recovery": report.recovery,
            }),
        },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, restored, outcome).await?;
    let elapsed = began.elapsed();
    let scratch = match &host {
        None => None,
        Some(host) => Some(rehearse(host, questions.as_ref(), &report, session).await?),
    };
    let variables = session.repository_variables();
    Ok(session.printer.report(&Restored { report, fetch, variables, elapsed, scratch }))
}

/// Proves what was restored by a throw-away server.
async fn rehearse(
    host: &dyn ScratchHost,
    questions: Option<&Questions>,
    restored: &ClusterRestoreReport,
    session: &Session,
) -> Result<ScratchReport> {
    let progress = session.printer.progress();
    let context = ScratchContext { host, questions, observer: progress.as_ref(), cancel: &session.cancel };
    cluster::rehearse(&context, restored).await
}

struct Restored {
    report: ClusterRestoreReport,
    fetch: FetchCommand,
    /// What the fetching of WAL needs in the server's environment.
    variables: Vec<String>,
    elapsed: Duration,
    /// What a throw-away server showed, when one was asked for.
    scratch: Option<ScratchReport>,
}

impl Restored {
    /// What a throw-away server showed, and that the folder is used up.
    fn scratch_text(&self, scratch: &ScratchReport, look: &Look) -> String {
        let mut text = match (scratch.reached, scratch.timeline) {
            (Some(reached), Some(timeline)) => format!(
                "a scratch server recovered to {reached} and took writes on timeline {timeline}; it has ended\n"
            ),
            _ => "a scratch server did not recover; it has ended\n".to_owned(),
        };
        let shown = if look.verbose { usize::MAX } else { TABLE_COUNT_MAX };
        let mut table = Table::new(&["DATABASE", "SCHEMA", "TABLE", "ROWS"]);
        for counted in scratch.tables.iter().take(shown) {
            let ScratchTable { database, schema, table: name } = &counted.table;
            table.row(vec![
                database.as_str().into(),
                schema.as_str().into(),
                name.as_str().into(),
                Cell::right(Count(counted.rows).to_string()),
            ]);
        }
        text.push_str(&table.render(look));
        if scratch.tables.len() > shown {
            let more = scratch.tables.len() - shown;
            text.push_str(&format!("and {more} more tables: --verbose lists them\n"));
        }
        scratch.queries.iter().for_each(|asked| text.push_str(&asked_text(asked, look)));
        if scratch.relations_checked {
            text.push_str("pg_amcheck looked at every relation of every database\n");
        }
        text.push_str(&findings::text(&scratch.findings, look));
        let into = self.report.into.display();
        text + &format!("{into} was used by the scratch server: restore anew for a server to keep\n")
    }

    /// The first number of the server's version.
    fn major(&self) -> &str {
        self.report.contents.server.version.split('.').next().unwrap_or_default()
    }

    fn start(&self) -> String {
        format!("pg_ctl --pgdata={} start", self.report.into.display())
    }

    /// How far it recovers.
    fn end(&self) -> Lsn {
        self.report.recovery.as_ref().map_or(self.report.contents.end, |recovery| recovery.stop)
    }

    /// What a server that recovers further than its set needs, and does then.
    fn recovery_text(&self, recovery: &Recovery) -> String {
        let then = match (recovery.action, &recovery.target) {
            (RecoveryAction::Pause, target) if *target != RecoveryTarget::Latest => {
                "there it waits and answers queries; `SELECT pg_wal_replay_resume()` lets it take writes"
            }
            _ => "there it takes writes, on a timeline of its own",
        };
        let mut text = format!(
            "it recovers to {}; {then}\nit fetches WAL by itself, as the user that it runs as:\n  {}\n",
            recovery.asked_for(),
            self.fetch.for_server(&recovery.server)
        );
        if !self.variables.is_empty() {
            text.push_str(&format!("  (with {} in its environment)\n", self.variables.join(", ")));
        }
        text
    }
}

/// A query of a file, and what came of it.
fn asked_text(asked: &Asked, look: &Look) -> String {
    let Asked { query, answer, passed } = asked;
    let verdict = match (passed, answer) {
        (false, _) => look.paint(Tone::Bad, "FAILED"),
        (true, Some(answer)) if answer.is_claim => look.paint(Tone::Good, "true"),
        (true, _) => look.paint(Tone::Good, "answered"),
    };
    let mut text = format!("query {}, line {}: {verdict}\n", query.number, query.line);
    let Some(answer) = answer.as_ref().filter(|answer| !(answer.is_claim && *passed)) else { return text };
    let line = |values: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = values.map(|value| plain(value, VALUE_COLUMNS_MAX)).collect();
        format!("  {}\n", cells.join(" | "))
    };
    text.push_str(&look.paint(Tone::Faint, &line(&mut answer.columns.iter().map(String::as_str))));
    for row in &answer.rows {
        text.push_str(&line(&mut row.iter().map(|value| value.as_deref().unwrap_or("NULL"))));
    }
    let more = answer.row_count - answer.rows.len() as u64;
    if more > 0 {
        text.push_str(&format!("  and {} more rows\n", Count(more)));
    }
    text
}

impl Report for Restored {
    fn json(&self) -> Map<String, Value> {
        let contents = &self.report.contents;
        Map::from_iter([
            ("set".to_owned(), json!(self.report.set)),
            ("into".to_owned(), json!(self.report.into)),
            ("tablespaces".to_owned(), json!(self.report.tablespaces)),
            ("files".to_owned(), json!(contents.files())),
            ("bytes".to_owned(), json!(contents.bytes())),
            ("end".to_owned(), json!(self.end())),
            ("recovery".to_owned(), json!(self.report.recovery)),
            (
                "restore_command".to_owned(),
                json!(self.report.recovery.as_ref().map(|recovery| self.fetch.for_server(&recovery.server))),
            ),
            ("server_version".to_owned(), json!(contents.server.version)),
            ("start".to_owned(), json!(self.start())),
            ("seconds".to_owned(), json!(self.elapsed.as_secs_f64())),
            ("scratch".to_owned(), json!(self.scratch)),
        ])
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(self.scratch.iter().flat_map(|scratch| &scratch.findings))
    }

    fn text(&self, look: &Look) -> String {
        let (contents, into) = (&self.report.contents, self.report.into.display());
        let seconds = self.elapsed.as_secs_f64();
        let rate = ByteSize((contents.bytes() as f64 / seconds.max(0.001)) as u64);
        let mut folders = vec![into.to_string()];
        folders.extend(self.report.tablespaces.iter().map(|place| place.folder.display().to_string()));
        let mut text = format!(
            "{} {} files, {} into {into} in {seconds:.1} s ({rate}/s, verification included)\n",
            look.paint(Tone::Good, "restored"),
            Count(contents.files()),
            ByteSize(contents.bytes()),
        );
        if let Some(scratch) = &self.scratch {
            return text + &self.scratch_text(scratch, look);
        }
        text.push_str(&format!(
            "start it with PostgreSQL {}, as the user that owns the files; it recovers to {} by itself:\n  {}\n",
            self.major(),
            self.end(),
            self.start()
        ));
        if let Some(recovery) = &self.report.recovery {
            text.push_str(&self.recovery_text(recovery));
        }
        text.push_str(&format!("  (another owner: chown -R postgres: {})\n", folders.join(" ")));
        if self.major().parse::<u32>().is_ok_and(|major| major >= 18) {
            let folder = CONTAINER_FOLDER.replace("{}", self.major());
            text.push_str(&format!(
                "  (container image postgres:{}: the files belong into {folder} of its volume)\n",
                self.major()
            ));
        }
        text
    }
}
