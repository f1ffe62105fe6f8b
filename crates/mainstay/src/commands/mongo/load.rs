//! `mongo load`: an archive or folder of mongodump, checked, planned, permitted and brought like a restore.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use mainstay_engine::AccountKind;
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{ByteSize, Count, Error, ErrorKind, ExitStatus, OpTime, Plan, Result, StoreKind};
use mainstay_ops::contents::Needed;
use mainstay_ops::load::{
    self, Dump, DumpInput, LoadContext, LoadMode, LoadReport, LoadRequest, Opening, OplogChoice, OplogReport,
    PipeUse,
};
use mainstay_ops::{restore, verify};
use mainstay_repository::Repository;
use serde_json::{Map, Value, json};

use crate::commands::close;
use crate::commands::plan::{self, by_plan_file};
use crate::commands::restore::{
    accounts_json, accounts_text, item_json, items_table, other_target, troubles,
};
use crate::printer::{Look, Report};
use crate::wiring::Session;

/// Arguments of `mongo load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The archive, plain or gzip, or the folder of a dump; `-` is an archive on standard input
    dump: PathBuf,
    /// Load these collections only, as a pattern of database.collection; may be repeated
    #[arg(long, value_name = "PATTERN")]
    ns_include: Vec<String>,
    /// Leave these collections out; may be repeated
    #[arg(long, value_name = "PATTERN")]
    ns_exclude: Vec<String>,
    /// Load collections whose names match this pattern under the names that `--ns-to` gives them; may be repeated, the last that matches counts
    #[arg(long, value_name = "PATTERN", requires = "ns_to")]
    ns_from: Vec<String>,
    /// The new names, one for each `--ns-from`
    #[arg(long, value_name = "PATTERN", requires = "ns_from")]
    ns_to: Vec<String>,
    /// Replace collections that exist: the new data is loaded beside them, proven, and swapped in
    #[arg(long, conflicts_with = "merge")]
    drop: bool,
    /// Load into collections that exist; documents that are there stay as they are
    #[arg(long)]
    merge: bool,
    /// Merge users and roles too: those of the same name become what the dump says, nobody is removed
    #[arg(long)]
    users_and_roles: bool,
    /// Insist on an oplog in the dump; one that is there is replayed anyway, so that the dump comes as the moment it leads to
    #[arg(long, conflicts_with = "without_oplog")]
    oplog_replay: bool,
    /// Replay only what the oplog holds before this position
    #[arg(long, value_name = "SECONDS[:INCREMENT]", conflicts_with = "without_oplog")]
    oplog_limit: Option<OpTime>,
    /// Pass over the dump's oplog: collections come as the dump met them, each at its own moment
    #[arg(long)]
    without_oplog: bool,
    /// Put collections in place although the server describes them otherwise than the dump: for another server version
    #[arg(long)]
    accept_differences: bool,
    /// Most connections that load at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// Check the whole dump, show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Loads.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(args: LoadArgs, session: &Session) -> Result<ExitStatus> {
    let began = Instant::now();
    let request = request(&args)?;
    let is_pipe = args.dump.as_os_str() == "-";
    if is_pipe && args.output.is_some() {
        return Err(Error::new(
            ErrorKind::Usage,
            "a dump from standard input comes but once, so that no plan of it can be kept",
        )
        .with_state("nothing was changed")
        .with_hint("write it to a file first"));
    }
    let input = if is_pipe {
        DumpInput::Pipe(session.printer.data_input()?)
    } else {
        DumpInput::Path(session.path(&args.dump))
    };
    let documents = session.documents(StoreKind::Mongo).await?;
    let target = session.target(documents.probe.as_ref()).await?;
    let progress = session.printer.progress();
    let pipe_use = if args.dry_run { PipeUse::Judge } else { PipeUse::Load };
    let opening = Opening {
        pipe_use,
        oplog: request.oplog,
        replay: documents.replay.as_ref(),
        observer: progress.as_ref(),
        cancel: &session.cancel,
    };
    let dump = Dump::open(input, &opening).await?;
    let (source, accounts) = (documents.source.as_ref(), documents.accounts.as_ref());
    let clock = session.clock.as_ref();
    let plan = load::plan(&dump, source, accounts, target, &request, clock, progress.as_ref()).await?;
    drop(progress);
    if let Some(status) = plan::only_planned(&plan, args.output.as_deref(), args.dry_run, session)? {
        return Ok(status);
    }
    carry_out(dump, &plan, None, began, session).await.map_err(by_plan_file)
}

fn request(args: &LoadArgs) -> Result<LoadRequest> {
    if args.ns_from.len() != args.ns_to.len() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{} --ns-from and {} --ns-to do not make pairs", args.ns_from.len(), args.ns_to.len()),
        )
        .with_state("nothing was changed")
        .with_hint("give one `--ns-to` for each `--ns-from`"));
    }
    Ok(LoadRequest {
        include: args.ns_include.clone(),
        exclude: args.ns_exclude.clone(),
        renames: args.ns_from.iter().cloned().zip(args.ns_to.iter().cloned()).collect(),
        mode: match (args.drop, args.merge) {
            (true, _) => LoadMode::Drop,
            (_, true) => LoadMode::Merge,
            _ => LoadMode::New,
        },
        load_count_max: args.parallel.into(),
        accept_differences: args.accept_differences,
        accounts: args.users_and_roles,
        oplog: match (args.oplog_limit, args.oplog_replay, args.without_oplog) {
            (Some(before), ..) => OplogChoice::Replay { before: Some(before) },
            (None, true, _) => OplogChoice::Replay { before: None },
            (None, _, true) => OplogChoice::PassOver,
            _ => OplogChoice::Unsaid,
        },
    })
}

/// Carries out a stored plan of a load.
///
/// # Errors
/// The operation's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let began = Instant::now();
    let (path, oplog) = load::dump_of(plan)?;
    let documents = session.documents(plan.target.store).await?;
    let progress = session.printer.progress();
    let opening = Opening {
        pipe_use: PipeUse::Load,
        oplog,
        replay: documents.replay.as_ref(),
        observer: progress.as_ref(),
        cancel: &session.cancel,
    };
    let dump = Dump::open(DumpInput::Path(path), &opening).await?;
    drop(progress);
    carry_out(dump, plan, approve, began, session).await
}

async fn carry_out(
    dump: Dump,
    plan: &Plan,
    approve: Option<&str>,
    began: Instant,
    session: &Session,
) -> Result<ExitStatus> {
    let documents = session.documents(plan.target.store).await?;
    let repository = match session.configuration.repository {
        Some(_) => Some(session.repository_or_create().await?),
        None => None,
    };
    let guard = session.guard_of(repository.as_ref());
    let target = session.target(documents.probe.as_ref()).await?;
    if let Some(stale) = other_target(&plan.target, &target) {
        return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    let evidence = evidence(repository.as_ref(), &target.fingerprint, &restore::needed_backup(plan)?).await?;
    let permit = guard.permit(plan, &evidence, &session.consent(approve)?).await?;
    let progress = session.printer.progress();
    let holder = session.holder();
    let context = LoadContext {
        source: documents.source.as_ref(),
        sink: documents.sink.as_ref(),
        replay: documents.replay.as_ref(),
        accounts: documents.accounts.as_ref(),
        repository: repository.as_ref(),
        clock: session.clock.clone(),
        holder: &holder,
        lease_ttl: session.lease_ttl(),
        observer: progress.as_ref(),
        cancel: &session.cancel,
    };
    let loaded = load::apply(&context, dump, plan, &permit).await;
    drop(progress);
    let outcome = match &loaded {
        Ok(report) if report.failure_count() == 0 => Outcome::Done {
            summary: format!("loaded {} collections", report.items.len()),
            facts: facts(report),
        },
        Ok(report) => {
            Outcome::Failed { error: format!("{} documents were not loaded", report.failure_count()) }
        }
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, loaded, outcome).await?;
    Ok(session.printer.report(&Loaded { report, elapsed: began.elapsed() }))
}

async fn evidence(
    repository: Option<&Repository>,
    fingerprint: &str,
    needed: &Needed,
) -> Result<BackupEvidence> {
    match repository {
        Some(repository) => verify::evidence(repository, fingerprint, needed).await,
        None => Ok(BackupEvidence::default()),
    }
}

fn facts(report: &LoadReport) -> Value {
    json!({
        "run": report.run,
        "proven": report.is_proven(),
        "collections": report.items.iter().map(item_json).collect::<Vec<_>>(),
        "users": report.accounts.as_ref().map(|merge| merge.count(AccountKind::User)),
        "roles": report.accounts.as_ref().map(|merge| merge.count(AccountKind::Role)),
        "accounts": report.accounts.as_ref().map(accounts_json),
        "oplog": report.oplog,
    })
}

struct Loaded {
    report: LoadReport,
    elapsed: Duration,
}

impl Report for Loaded {
    fn json(&self) -> Map<String, Value> {
        let Value::Object(mut fields) = facts(&self.report) else { return Map::new() };
        fields.insert("seconds".to_owned(), json!(self.elapsed.as_secs_f64()));
        fields
    }

    fn text(&self, look: &Look) -> String {
        let items = &self.report.items;
        let mut text = items_table(items).render(look);
        for item in items {
            text.push_str(&troubles(item, look));
        }
        let (documents, bytes) = items.iter().fold((0, 0), |(documents, bytes), item| {
            (documents + item.digest().documents, bytes + item.digest().bytes)
        });
        let seconds = self.elapsed.as_secs_f64();
        let rate = ByteSize((bytes as f64 / seconds.max(0.001)) as u64);
        if let Some(OplogReport { reached: Some(reached), entries, .. }) = &self.report.oplog {
            text.push_str(&format!(
                "replayed {} entries of the oplog: the dump is as of {reached} ({})\n",
                Count(*entries),
                reached.timestamp()
            ));
        }
        if let Some(merge) = &self.report.accounts {
            text.push_str(&accounts_text(merge));
        }
        text.push_str(&format!(
            "loaded {} collections and views, {} documents, {} in {seconds:.1} s ({rate}/s, check and proof included)\n",
            items.len(),
            Count(documents),
            ByteSize(bytes)
        ));
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
