//! `backup create`: a set of what was named, or an interrupted one continued.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::SignedDuration;
use mainstay_engine::Namespace;
use mainstay_model::{
    ByteSize, Count, Error, ErrorKind, ExitStatus, IdError, Plan, Result, RunId, StoreKind, Target,
};
use mainstay_ops::backup::{self, BackupContext, BackupReport, BackupRequest, ResumeRequest, SnapshotChoice};
use serde_json::{Map, Value, json};

use super::making::Making;
use super::{PARALLEL_DEFAULT, label, moment_of, parse_namespace, set_json};
use crate::commands::cluster::{self, ClusterArgs};
use crate::commands::keyfile::{self, KeyFileArgs};
use crate::commands::logical;
use crate::commands::plan::PlanReport;
use crate::printer::{Look, Report, Tone};
use crate::wiring::Session;

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
    /// The store: mongo, postgres, redis [default: the one that is configured; mongo of several]
    #[arg(long = "store", value_name = "STORE")]
    named_store: Option<StoreKind>,
    /// The same, decided.
    #[arg(skip = StoreKind::Mongo)]
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
    /// Most ranges of MongoDB read at the same time [default: 4]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: Option<u16>,
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
    /// PostgreSQL: dump one database with pg_dump instead of copying the server's files
    #[arg(long)]
    logical: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    key_file: KeyFileArgs,
}

impl CreateArgs {
    /// How many ranges are read at the same time.
    fn scan_count_max(&self) -> usize {
        self.parallel.unwrap_or(PARALLEL_DEFAULT).into()
    }

    /// Refuses what means something for documents alone; a database can be named for a logical dump, too.
    fn refuse_documents(&self) -> Result<()> {
        let given = [
            ("database", !self.database.is_empty() && !self.logical),
            ("collection", !self.collection.is_empty()),
            ("all-databases", self.all_databases),
            ("consistency", !matches!(self.consistency, ConsistencyArgument::Best)),
            ("users-and-roles", self.users_and_roles),
            ("parallel", self.parallel.is_some()),
            ("max-impact", self.max_impact.is_some()),
            ("resume", self.resume.is_some()),
        ];
        cluster::refuse(&given, self.store)
    }
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

/// Backs up.
///
/// # Errors
/// The operation's.
pub(super) async fn run(args: CreateArgs, session: &Session) -> Result<ExitStatus> {
    let args = CreateArgs { store: session.store_or_usual(args.named_store), ..args };
    if args.store == StoreKind::Postgres {
        args.refuse_documents()?;
        args.key_file.refuse(args.store)?;
        if args.logical {
            args.cluster.refuse("a logical dump")?;
            return logical::create(&args.database, args.dry_run, session).await;
        }
        return cluster::create(&args.cluster, args.dry_run, session).await;
    }
    args.cluster.refuse(args.store)?;
    cluster::refuse(&[("logical", args.logical)], args.store)?;
    if args.store == StoreKind::Redis {
        args.refuse_documents()?;
        return keyfile::create(&args.key_file, args.dry_run, session).await;
    }
    args.key_file.refuse(args.store)?;
    let documents = session.documents(args.store).await?;
    let target = session.target(documents.probe.as_ref()).await?;
    let plan = match &args.resume {
        None => {
            let request = BackupRequest {
                selection: session.selection(&args.database, &args.collection, args.all_databases),
                snapshot: args.consistency.into(),
                scan_count_max: args.scan_count_max(),
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
    let making = Making::begin(&plan, session).await?;
    let context = BackupContext {
        source: documents.source.as_ref(),
        accounts: documents.accounts.as_ref(),
        repository: &making.repository,
        holder: &making.holder,
        clock: session.clock.as_ref(),
        observer: making.progress.as_ref(),
        cancel: &session.cancel,
    };
    let made = backup::create(&context, &plan, &making.permit).await;
    let facts = |made: &BackupReport| json!({"digest": made.contents.digest()});
    let (report, elapsed) = making.close(made, |made| (&made.set, facts(made))).await?;
    Ok(session.printer.report(&Created { report, elapsed }))
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
    let request = ResumeRequest { run, scan_count_max: args.scan_count_max(), impact_max: args.max_impact };
    backup::plan_resume(&repository, target, &request, session.clock.as_ref()).await
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
