//! `restore plan|apply|abandon|list`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use mainstay_engine::{AccountKind, AccountMerge, AccountName, Namespace};
use mainstay_guard::{Guard, Outcome, Permit};
use mainstay_model::progress::{Observer, Silent};
use mainstay_model::{ByteSize, Count, Error, ErrorKind, ExitStatus, Plan, Result, RunId, StoreKind, Target};
use mainstay_ops::contents::Needed;
use mainstay_ops::logical::LogicalSetContents;
use mainstay_ops::replication::restore::SCRATCH;
use mainstay_ops::restore::{
    self, AbandonReport, Basis, ItemReport, Listing, MomentReport, PointContext, Renames, RestoreContext,
    RestoreMode, RestoreReport, RestoreRequest, UnfinishedRun, Way,
};
use mainstay_ops::{Selection, verify};
use mainstay_repository::{Repository, Set};
use serde_json::{Map, Value, json};

use super::backup::{PARALLEL_DEFAULT, SetChoice, choose, parse_namespace};
use super::cluster::ScratchArgs;
use super::logical::{self, LogicalRestoreArgs};
use super::moment::MomentArg;
use super::plan::{self, by_plan_file};
use super::recovery::{ActionArgument, Asked};
use super::replication::TtlArgument;
use super::restore_point::{self, PointCommand};
use super::{append_only, close, cluster, replication};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::{Documents, Session};

/// The commands below `restore`.
#[derive(Debug, Subcommand)]
pub(crate) enum RestoreCommand {
    /// Decide a restore, show it, and write it to a file
    Plan(Box<PlanArgs>),
    /// Carry out a restore plan; the same plan continues after an interruption
    Apply(ApplyArgs),
    /// Give up a restore that was interrupted, and remove what it was loading
    Abandon(AbandonArgs),
    /// List restores that were begun and have not ended
    List,
    /// Moments of PostgreSQL that have a name
    #[command(subcommand)]
    Point(PointCommand),
}

/// Arguments of `restore plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The set: its identifier, or `latest`; with `--to` or `--before` the newest that leads to the moment
    #[arg(default_value = "latest")]
    set: SetChoice,
    /// Bring the set forward to this moment: everything up to and including it. A time (2026-11-25T19:00:00Z), how long ago ("5m ago"), `latest`, an optime (1764500000:3); of postgres an LSN (0/3000028), a transaction (735) or the name of a restore point; of redis a replication offset (48211)
    #[arg(long, value_name = "MOMENT", conflicts_with = "before")]
    to: Option<String>,
    /// Bring the set forward to just before this moment
    #[arg(long, value_name = "MOMENT")]
    before: Option<String>,
    /// Follow PostgreSQL's history along this timeline [default: the newest]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    timeline: Option<u32>,
    /// What PostgreSQL does at the moment [default: promote]
    #[arg(long, value_enum, value_name = "WHAT")]
    then: Option<ActionArgument>,
    /// Restore this database only; may be repeated
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    database: Vec<String>,
    /// Restore this collection only, as database.collection; may be repeated
    #[arg(long, value_name = "NAME", value_parser = parse_namespace)]
    collection: Vec<Namespace>,
    /// The store whose latest set is meant: mongo, postgres, redis [default: the one that is configured; mongo of several]
    #[arg(long)]
    store: Option<StoreKind>,
    /// Restore into a database of this name; for a set or selection of one database. For a set of postgres: into this folder, which is empty or not there; a logical dump: into this database, which is not there; a set of redis: `scratch`, a throw-away server; an append-only file: into this folder, which is empty or not there
    #[arg(long, value_name = "NAME", conflicts_with = "rename")]
    into: Option<String>,
    #[command(flatten)]
    logical: LogicalRestoreArgs,
    /// Put a tablespace of PostgreSQL into another folder, as OLD=NEW; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = parse_rename)]
    tablespace: Vec<(String, String)>,
    /// Bring a database back under another name, as from=to; may be repeated
    #[arg(long, value_name = "FROM=TO", value_parser = parse_rename)]
    rename: Vec<(String, String)>,
    /// Replace collections that exist: the new data is loaded beside them, proven, and swapped in. Of redis: all keys of the server
    #[arg(long, conflicts_with = "merge")]
    drop: bool,
    /// Load into collections that exist; documents that are there stay as they are
    #[arg(long)]
    merge: bool,
    /// Merge the set's users and roles too: those of the same name become what the set says, nobody is removed
    #[arg(long)]
    users_and_roles: bool,
    /// Put collections in place although the server describes them otherwise than the set: for another server version
    #[arg(long)]
    accept_differences: bool,
    /// Most objects of MongoDB loaded at the same time [default: 4]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: Option<u16>,
    /// What becomes of the moments at which keys of Redis expire [default: keep]
    #[arg(long, value_enum, value_name = "WHAT")]
    ttl: Option<TtlArgument>,
    /// Let all keys of Redis cross the network without encryption to a server that is itself reached by TLS
    #[arg(long)]
    unencrypted: bool,
    /// Write the plan to this file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Arguments of `restore abandon`.
#[derive(Debug, Args)]
pub(crate) struct AbandonArgs {
    /// The run, as `restore list` names it
    run: RunId,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show what would be removed, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `restore apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The plan file
    file: PathBuf,
    /// Approve the plan with this hash beforehand; needed where there is no terminal
    #[arg(long, value_name = "HASH")]
    approve: Option<String>,
    #[command(flatten)]
    scratch: ScratchArgs,
}

impl RestoreCommand {
    /// The operation's name, or the beginning of it where the plan decides the rest.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Plan(_) => "restore.plan",
            Self::Apply(_) => "restore.apply",
            Self::Abandon(_) => restore::OPERATION_ABANDON,
            Self::List => "restore.list",
            Self::Point(command) => command.name(),
        }
    }
}

fn parse_rename(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.to_owned(), to.to_owned())),
        _ => Err("expected from=to".to_owned()),
    }
}

/// Runs a command below `restore`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: RestoreCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        RestoreCommand::Plan(args) => plan_restore(*args, session).await,
        RestoreCommand::Apply(args) => {
            let plan = plan::read(&session.path(&args.file))?;
            apply_plan(&plan, args.approve.as_deref(), &args.scratch, session).await
        }
        RestoreCommand::Abandon(args) => plan_abandon(args, session).await,
        RestoreCommand::List => list(session).await,
        RestoreCommand::Point(command) => restore_point::run(command, session).await,
    }
}

/// The renames by what they rename.
fn each_once(renames: &[(String, String)]) -> Result<BTreeMap<String, String>> {
    let mut each = BTreeMap::new();
    for (from, to) in renames {
        if each.insert(from.clone(), to.clone()).is_some_and(|other| other != *to) {
            return Err(Error::new(ErrorKind::Usage, format!("`{from}` is renamed to two names"))
                .with_state("nothing was changed")
                .with_hint(format!("give `--rename {from}=…` once")));
        }
    }
    Ok(each)
}

async fn plan_restore(args: PlanArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let store = args.store(&repository, session).await?;
    if store == StoreKind::Redis {
        let plan = plan_keys(&args, &repository, session).await?;
        return plan::report(&plan, args.output.as_deref(), session);
    }
    cluster::refuse(&[("ttl", args.ttl.is_some()), ("unencrypted", args.unencrypted)], store)?;
    if store == StoreKind::Postgres {
        let plan = match logical_set(&args, &repository).await? {
            Some(set) => {
                args.refuse_documents("a logical dump")?;
                args.refuse_cluster("a logical dump")?;
                let moments = [("to", args.to.is_some()), ("before", args.before.is_some())];
                cluster::refuse(&moments, "a logical dump")?;
                logical::plan_restore(&set, args.into.as_deref(), &args.logical, session).await?
            }
            None => {
                cluster::refuse(&args.logical.given(), "a base backup")?;
                plan_cluster(&args, &repository, session).await?
            }
        };
        return plan::report(&plan, args.output.as_deref(), session);
    }
    args.refuse_cluster(StoreKind::Mongo)?;
    cluster::refuse(&args.logical.given(), StoreKind::Mongo)?;
    let documents = session.documents(StoreKind::Mongo).await?;
    let target = session.target(documents.probe.as_ref()).await?;
    let basis = basis(&args, &repository, &documents, &target, session).await?;
    let request = RestoreRequest {
        selection: Selection { databases: args.database.clone(), collections: args.collection.clone() },
        renames: match &args.into {
            Some(into) => Renames::Into(into.clone()),
            None => Renames::Each(each_once(&args.rename)?),
        },
        mode: match (args.drop, args.merge) {
            (true, _) => RestoreMode::Drop,
            (_, true) => RestoreMode::Merge,
            _ => RestoreMode::New,
        },
        load_count_max: args.parallel.unwrap_or(PARALLEL_DEFAULT).into(),
        accounts: args.users_and_roles,
        accept_differences: args.accept_differences,
    };
    let (source, accounts) = (documents.source.as_ref(), documents.accounts.as_ref());
    let plan = restore::plan(&basis, source, accounts, target, &request, session.clock.as_ref()).await?;
    plan::report(&plan, args.output.as_deref(), session)
}

/// Decides the restore of a server's keys, as they are in a set or further.
async fn plan_keys(args: &PlanArgs, repository: &Repository, session: &Session) -> Result<Plan> {
    args.refuse_cluster(StoreKind::Redis)?;
    cluster::refuse(&args.logical.given(), StoreKind::Redis)?;
    args.refuse_collections(StoreKind::Redis)?;
    let has_moment = args.to.is_some() || args.before.is_some();
    if let Some(into) = args.into.as_deref().filter(|into| *into != SCRATCH && !has_moment) {
        let meaningless =
            [("drop", args.drop), ("ttl", args.ttl.is_some()), ("unencrypted", args.unencrypted)];
        cluster::refuse(&meaningless, "an append-only file")?;
        return append_only::plan_restore(into, &args.set, repository, session).await;
    }
    let named = match args.set {
        SetChoice::Latest => None,
        SetChoice::Id(_) => Some(choose(repository, &args.set, StoreKind::Redis).await?),
    };
    let asked = replication::Asked {
        named,
        to: args.to.as_deref(),
        before: args.before.as_deref(),
        into: args.into.as_deref(),
        drop: args.drop,
        ttl: args.ttl,
        unencrypted: args.unencrypted,
    };
    replication::plan_restore(asked, repository, session).await
}

/// The set that is meant, when it holds a dump of PostgreSQL.
async fn logical_set(args: &PlanArgs, repository: &Repository) -> Result<Option<Set>> {
    if matches!(args.set, SetChoice::Latest) && !args.logical.is_asked_for() {
        return Ok(None);
    }
    let set = logical::choose_form(repository, &args.set, args.logical.is_asked_for()).await?;
    Ok(LogicalSetContents::is_of(&set).then_some(set))
}

/// Decides the restore of a server's files, as they are in a set or further.
async fn plan_cluster(args: &PlanArgs, repository: &Repository, session: &Session) -> Result<Plan> {
    args.refuse_documents(StoreKind::Postgres)?;
    let asked = Asked {
        to: args.to.as_deref(),
        before: args.before.as_deref(),
        timeline: args.timeline,
        action: args.then,
    };
    let (set, recovery) = if asked.is_some() {
        let named = match args.set {
            SetChoice::Latest => None,
            SetChoice::Id(_) => Some(choose(repository, &args.set, StoreKind::Postgres).await?),
        };
        let (set, recovery) = asked.find(repository, named, session).await?;
        (set, Some(recovery))
    } else {
        args.refuse_moment()?;
        (logical::choose_form(repository, &args.set, false).await?, None)
    };
    let verdict = repository.last_verification(StoreKind::Postgres, set.id()).await?;
    if let Some(damaged) = verdict.filter(|verdict| !verdict.is_sound()) {
        session.printer.notice(&format!(
            "warning: set {} was found damaged at {}; a restore reads it back first, and writes nothing if it still is",
            set.id(),
            damaged.at
        ));
    }
    cluster::plan_restore(&set, args.into.as_deref(), &args.tablespace, recovery, session)
}

impl PlanArgs {
    /// The store that the set is of which is meant.
    async fn store(&self, repository: &Repository, session: &Session) -> Result<StoreKind> {
        let store = session.store_or_usual(self.store);
        match &self.set {
            SetChoice::Latest => Ok(store),
            choice => Ok(choose(repository, choice, store).await?.kind()),
        }
    }

    /// Refuses what means something for the files of a server alone.
    fn refuse_cluster(&self, what: impl Display) -> Result<()> {
        let given = [
            ("tablespace", !self.tablespace.is_empty()),
            ("timeline", self.timeline.is_some()),
            ("then", self.then.is_some()),
        ];
        cluster::refuse(&given, what)
    }

    /// Refuses what means something together with a moment alone.
    fn refuse_moment(&self) -> Result<()> {
        let given = [("timeline", self.timeline.is_some()), ("then", self.then.is_some())];
        match given.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((flag, _)) => {
                Err(Error::new(ErrorKind::Usage, format!("--{flag} means nothing without a moment"))
                    .with_state("nothing was changed")
                    .with_hint("name the moment: `--to MOMENT`"))
            }
        }
    }

    /// A moment of MongoDB, when one was given as `flag`.
    fn moment(flag: &str, text: Option<&String>) -> Result<Option<MomentArg>> {
        let parse = |text: &String| {
            text.parse::<MomentArg>().map_err(|why| {
                Error::new(ErrorKind::Usage, format!("invalid value '{text}' for '--{flag}': {why}"))
                    .with_state("nothing was changed")
            })
        };
        text.map(parse).transpose()
    }

    /// Refuses what means something for documents alone.
    fn refuse_documents(&self, what: impl Display) -> Result<()> {
        cluster::refuse(&[("drop", self.drop)], &what)?;
        self.refuse_collections(what)
    }

    /// Refuses what means something for collections alone.
    fn refuse_collections(&self, what: impl Display) -> Result<()> {
        let given = [
            ("database", !self.database.is_empty()),
            ("collection", !self.collection.is_empty()),
            ("rename", !self.rename.is_empty()),
            ("merge", self.merge),
            ("users-and-roles", self.users_and_roles),
            ("accept-differences", self.accept_differences),
            ("parallel", self.parallel.is_some()),
        ];
        cluster::refuse(&given, what)
    }
}

/// The set that was named, or the set and the log that lead to the moment that was named.
async fn basis(
    args: &PlanArgs,
    repository: &Repository,
    documents: &Documents,
    target: &Target,
    session: &Session,
) -> Result<Basis> {
    let now = session.clock.now();
    let to = PlanArgs::moment("to", args.to.as_ref())?;
    let before = PlanArgs::moment("before", args.before.as_ref())?;
    let moment = match (to, before) {
        (None, None) => return choose(repository, &args.set, StoreKind::Mongo).await.map(Basis::Set),
        (Some(to), _) => to.through(now)?,
        (_, Some(before)) => before.before(now)?,
    };
    let named = match args.set {
        SetChoice::Latest => None,
        SetChoice::Id(_) => Some(choose(repository, &args.set, StoreKind::Mongo).await?),
    };
    let progress = session.printer.progress();
    let context = PointContext {
        repository,
        replay: documents.replay.as_ref(),
        fingerprint: &target.fingerprint,
        observer: progress.as_ref(),
    };
    restore::find_point(&context, named, moment).await.map(|point| Basis::Point(Box::new(point)))
}

/// Carries out a stored restore plan.
///
/// # Errors
/// The operation's.
pub(crate) async fn apply_plan(
    plan: &Plan,
    approve: Option<&str>,
    scratch: &ScratchArgs,
    session: &Session,
) -> Result<ExitStatus> {
    if mainstay_ops::logical::is_restore(plan) {
        scratch.refuse("a logical dump")?;
        return logical::apply_restore(plan, approve, session).await;
    }
    if plan.target.store == StoreKind::Postgres {
        return cluster::apply_restore(plan, approve, scratch, session).await;
    }
    scratch.refuse(plan.target.store)?;
    if mainstay_ops::append_only::is_restore(plan) {
        return append_only::apply_restore(plan, approve, session).await;
    }
    if plan.target.store == StoreKind::Redis {
        return replication::apply_restore(plan, approve, session).await;
    }
    let began = Instant::now();
    let needed = restore::needed_backup(plan)?;
    let work = Work::begin(plan, &needed, approve, session).await?;
    let progress = session.printer.progress();
    let applied = {
        let context = work.context(session, progress.as_ref());
        restore::apply(&context, plan, &work.permit).await
    };
    drop(progress);
    let outcome = match &applied {
        Ok(report) if report.failure_count() == 0 => {
            Outcome::Done { summary: summary(report), facts: facts(report) }
        }
        Ok(report) => {
            Outcome::Failed { error: format!("{} documents were not restored", report.failure_count()) }
        }
        Err(error) => Outcome::of_error(error),
    };
    let report = work.close(applied, outcome).await?;
    Ok(session.printer.report(&Applied { report, elapsed: began.elapsed() }))
}

/// What carrying out a plan needs, permit included.
struct Work {
    documents: Documents,
    repository: Repository,
    guard: Guard,
    permit: Permit,
    holder: String,
}

impl Work {
    /// Opens everything, makes sure that the plan is for this environment and this server, and obtains the permit.
    async fn begin(plan: &Plan, needed: &Needed, approve: Option<&str>, session: &Session) -> Result<Self> {
        let documents = session.documents(plan.target.store).await?;
        let repository = session.repository().await?;
        let guard = session.guard(&repository);
        let target = session.target(documents.probe.as_ref()).await?;
        if let Some(stale) = other_target(&plan.target, &target) {
            return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
        }
        let evidence = verify::evidence(&repository, &target.fingerprint, needed).await?;
        let permit = guard.permit(plan, &evidence, &session.consent(approve)?).await?;
        Ok(Self { documents, repository, guard, permit, holder: session.holder() })
    }

    fn context<'a>(&'a self, session: &'a Session, observer: &'a dyn Observer) -> RestoreContext<'a> {
        RestoreContext {
            source: self.documents.source.as_ref(),
            sink: self.documents.sink.as_ref(),
            replay: self.documents.replay.as_ref(),
            accounts: self.documents.accounts.as_ref(),
            repository: &self.repository,
            clock: session.clock.clone(),
            holder: &self.holder,
            lease_ttl: session.lease_ttl(),
            observer,
            cancel: &session.cancel,
        }
    }

    async fn close<T>(self, done: Result<T>, outcome: Outcome) -> Result<T> {
        close(&self.guard, self.permit, done, outcome).await
    }
}

/// Why the plan is not for `found`, if it is not.
pub(crate) fn other_target(planned: &Target, found: &Target) -> Option<Error> {
    let stale = |message: String| {
        Error::new(ErrorKind::StalePlan, message)
            .with_state("nothing was changed")
            .with_hint("make the plan again and review it")
    };
    if (&found.environment, found.class) != (&planned.environment, planned.class) {
        return Some(stale(format!(
            "the plan is for {} ({}), this is {} ({})",
            planned.environment, planned.class, found.environment, found.class
        )));
    }
    (found.fingerprint != planned.fingerprint).then(|| {
        stale(format!("the plan is for server {}, this is {}", planned.fingerprint, found.fingerprint))
    })
}

/// For the audit log.
fn summary(report: &RestoreReport) -> String {
    let restored = format!("restored {} collections", report.items.len());
    match report.moment.as_ref().and_then(|moment| moment.reached) {
        Some(reached) => format!("{restored} as they were at {reached}"),
        None => restored,
    }
}

fn facts(report: &RestoreReport) -> Value {
    json!({
        "run": report.run,
        "resumed": report.resumed,
        "proven": report.is_proven(),
        "moment": report.moment,
        "collections": report.items.iter().map(item_json).collect::<Vec<_>>(),
        "users": report.accounts.as_ref().map(|merge| merge.count(AccountKind::User)),
        "roles": report.accounts.as_ref().map(|merge| merge.count(AccountKind::Role)),
        "accounts": report.accounts.as_ref().map(accounts_json),
    })
}

/// Users and roles that were merged, as `--json` shows them.
pub(crate) fn accounts_json(merge: &AccountMerge) -> Value {
    let names = |names: &[AccountName]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "added": names(&merge.added),
        "replaced": names(&merge.replaced),
        "kept": names(&merge.kept),
        "unchanged": merge.unchanged,
    })
}

/// The same for people: how many came, and who stayed as they were.
pub(crate) fn accounts_text(merge: &AccountMerge) -> String {
    let (users, roles) = (merge.count(AccountKind::User), merge.count(AccountKind::Role));
    let mut text = format!("merged {users} users and {roles} roles\n");
    for name in &merge.kept {
        text.push_str(&format!("kept {name} as it is: it does this work\n"));
    }
    text
}

/// One collection as `--json` shows it.
pub(crate) fn item_json(item: &ItemReport) -> Value {
    json!({
        "source": item.source.to_string(),
        "target": item.target.to_string(),
        "way": item.way,
        "placed_before": item.placed_before,
        "documents": item.digest().documents,
        "bytes": item.digest().bytes,
        "changes": item.changes,
        "inserted": item.inserted,
        "identical": item.identical,
        "failed": item.failure_count,
        "failures": item.failures,
        "expected": item.expected,
        "found": item.found,
        "differences": item.differences,
    })
}

struct Applied {
    report: RestoreReport,
    elapsed: Duration,
}

impl Report for Applied {
    fn json(&self) -> Map<String, Value> {
        let Value::Object(mut fields) = facts(&self.report) else { return Map::new() };
        fields.insert("seconds".to_owned(), json!(self.elapsed.as_secs_f64()));
        fields
    }

    fn text(&self, look: &Look) -> String {
        let mut text = items_table(&self.report.items).render(look);
        for item in &self.report.items {
            text.push_str(&troubles(item, look));
        }
        if let Some(merge) = &self.report.accounts {
            text.push_str(&accounts_text(merge));
        }
        text.push_str(&self.summary());
        text
    }

    fn exit_status(&self) -> ExitStatus {
        match (self.report.failure_count(), self.report.is_proven()) {
            (0, true) => ExitStatus::Ok,
            (0, false) => ExitStatus::Findings,
            _ => ExitStatus::Failed,
        }
    }
}

impl Applied {
    fn summary(&self) -> String {
        let items = &self.report.items;
        let (documents, bytes) = items.iter().fold((0, 0), |(documents, bytes), item| {
            (documents + item.digest().documents, bytes + item.digest().bytes)
        });
        let seconds = self.elapsed.as_secs_f64();
        let rate = ByteSize((bytes as f64 / seconds.max(0.001)) as u64);
        let moment = self.report.moment.as_ref().map(reached).unwrap_or_default();
        format!(
            "{moment}restored {} collections and views, {} documents, {} in {seconds:.1} s ({rate}/s, verification and proof included)\n",
            items.len(),
            Count(documents),
            ByteSize(bytes)
        )
    }
}

/// Which moment was reached, and how.
fn reached(moment: &MomentReport) -> String {
    let reached = match moment.reached {
        Some(last) => format!("{last} ({})", last.timestamp()),
        None => "that of the set: the log changed nothing until then".to_owned(),
    };
    format!(
        "moment {reached}: set {} and {} entries of log {}\n",
        moment.set,
        Count(moment.entries),
        moment.chain
    )
}

/// Collections that were brought, with the proof of each.
pub(crate) fn items_table(items: &[ItemReport]) -> Table {
    let mut table = Table::new(&["COLLECTION", "DOCUMENTS", "SIZE", "PROOF"]);
    for item in items {
        table.row(vec![
            item.target.to_string().into(),
            Cell::right(Count(item.digest().documents).to_string()),
            Cell::right(ByteSize(item.digest().bytes).to_string()),
            proof(item),
        ]);
    }
    table
}

fn proof(item: &ItemReport) -> Cell {
    let said = match (item.found, item.way) {
        (Some(found), _) if item.expected == Some(found) => "read back, digest equal",
        (Some(_), _) if item.expected.is_none() => {
            return Cell::new("read back; not compared, the server trims it").tone(Tone::Warn);
        }
        (Some(_), _) => return Cell::new("DIGEST DIFFERS").tone(Tone::Bad),
        _ if item.placed_before => "in place since an earlier try",
        (None, Way::Merge) => "merged: every document inserted or identical",
        (None, Way::Keep) => return Cell::new("view kept as it was"),
        (None, _) => "definition equal",
    };
    if item.failure_count > 0 {
        Cell::new(format!("{} NOT RESTORED", Count(item.failure_count))).tone(Tone::Bad)
    } else if item.differences.is_empty() {
        Cell::new(said).tone(Tone::Good)
    } else {
        Cell::new(format!("{said}; options or indexes differ")).tone(Tone::Warn)
    }
}

/// What went wrong with one collection, a line each.
pub(crate) fn troubles(item: &ItemReport, look: &Look) -> String {
    let mut text = String::new();
    if item.failure_count > 0 {
        let plural = if item.failure_count == 1 { "document was" } else { "documents were" };
        text.push_str(&look.paint(
            Tone::Bad,
            &format!("{}: {} {plural} not restored\n", item.target, Count(item.failure_count)),
        ));
        for failure in &item.failures {
            text.push_str(&format!("  _id {}: {} (code {})\n", failure.id, failure.message, failure.code));
        }
    }
    for difference in &item.differences {
        text.push_str(&format!("{} {}: {difference}\n", look.paint(Tone::Warn, "differs"), item.target));
    }
    text
}

async fn plan_abandon(args: AbandonArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let documents = session.documents(StoreKind::Mongo).await?;
    let target = session.target(documents.probe.as_ref()).await?;
    let plan = restore::plan_abandon(
        &repository,
        &args.run,
        documents.source.as_ref(),
        target,
        session.clock.as_ref(),
    )
    .await?;
    if let Some(status) = plan::only_planned(&plan, args.output.as_deref(), args.dry_run, session)? {
        return Ok(status);
    }
    abandon_plan(&plan, None, session).await.map_err(by_plan_file)
}

/// Carries out a stored plan to give up a restore.
///
/// # Errors
/// The operation's.
pub(crate) async fn abandon_plan(
    plan: &Plan,
    approve: Option<&str>,
    session: &Session,
) -> Result<ExitStatus> {
    let work = Work::begin(plan, &Needed::default(), approve, session).await?;
    let abandoned = restore::abandon(&work.context(session, &Silent), plan, &work.permit).await;
    let outcome = match &abandoned {
        Ok(report) => Outcome::Done {
            summary: format!("gave up restore {}", report.run),
            facts: abandoned_json(report),
        },
        Err(error) => Outcome::of_error(error),
    };
    let report = work.close(abandoned, outcome).await?;
    Ok(session.printer.report(&Abandoned(report)))
}

struct Abandoned(AbandonReport);

impl Report for Abandoned {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("abandoned".to_owned(), abandoned_json(&self.0))])
    }

    fn text(&self, _look: &Look) -> String {
        let report = &self.0;
        let mut text = format!("restore {} is given up\n", report.run);
        for (what, names) in [
            ("removed", &report.removed),
            ("stays in place", &report.placed),
            ("stays HALF DONE", &report.half_done),
        ] {
            for name in names {
                text.push_str(&format!("  {what:15}  {name}\n"));
            }
        }
        text
    }
}

/// Names as the rest of `--json` writes them: `database.collection`.
fn shown_names(names: &[Namespace]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn abandoned_json(report: &AbandonReport) -> Value {
    let AbandonReport { run, removed, placed, half_done } = report;
    json!({
        "run": run,
        "removed": shown_names(removed),
        "placed": shown_names(placed),
        "half_done": shown_names(half_done),
    })
}

fn unfinished_json(run: &UnfinishedRun) -> Value {
    let UnfinishedRun { run, plan_hash, can_continue, placed, total, begun } = run;
    json!({
        "run": run,
        "plan_hash": plan_hash,
        "can_continue": can_continue,
        "placed": placed,
        "total": total,
        "begun": shown_names(begun),
    })
}

fn state_of(run: &UnfinishedRun) -> String {
    let begun = shown_names(&run.begun);
    let begun = if begun.is_empty() {
        "none is half done".to_owned()
    } else {
        format!("begun and not in place: {}", begun.join(", "))
    };
    format!("{} of {} collections are in place, {begun}", run.placed, run.total)
}

async fn list(session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    Ok(session.printer.report(&Unfinished(restore::unfinished_runs(&repository).await?)))
}

struct Unfinished(Listing);

impl Report for Unfinished {
    fn json(&self) -> Map<String, Value> {
        let damaged: Vec<Value> = self
            .0
            .damaged
            .iter()
            .map(|(run, error)| json!({"run": run, "damaged": error.to_string()}))
            .collect();
        Map::from_iter([
            (
                "unfinished".to_owned(),
                json!(self.0.unfinished.iter().map(unfinished_json).collect::<Vec<_>>()),
            ),
            ("damaged".to_owned(), json!(damaged)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let Listing { unfinished, damaged } = &self.0;
        let mut text = String::new();
        for run in unfinished {
            let what = if run.can_continue { "" } else { "  a load, which cannot be continued" };
            text.push_str(&format!("{}  plan {}  {}{what}\n", run.run, run.plan_hash.short(), state_of(run)));
        }
        for (run, error) in damaged {
            text.push_str(&format!("{run}  {}: {error}\n", look.paint(Tone::Bad, "DAMAGED")));
        }
        match (unfinished.is_empty(), damaged.is_empty()) {
            (true, true) => "no restore and no load is unfinished\n".to_owned(),
            (true, false) => text,
            (false, _) if unfinished.iter().any(|run| run.can_continue) => {
                text + "apply the same plan again to continue, or give it up: `mainstay restore abandon RUN`\n"
            }
            (false, _) => {
                text + "remove what was being loaded: `mainstay restore abandon RUN`; then load again\n"
            }
        }
    }

    fn exit_status(&self) -> ExitStatus {
        if self.0.damaged.is_empty() { ExitStatus::Ok } else { ExitStatus::Critical }
    }
}
