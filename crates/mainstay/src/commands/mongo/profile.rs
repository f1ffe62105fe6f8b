//! `mongo profile show|set|reset`: what the profilers record, set for a while and put back exactly.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use mainstay_engine::{ProfilerSettings, SampleRate};
use mainstay_guard::{BackupEvidence, Guard, Outcome, Permit};
use mainstay_model::{
    ByteSize, Count, Error, ErrorKind, ExitStatus, Plan, Result, ResultExt, StoreKind, Timestamp,
};
use mainstay_ops::profiler::{self, HoldEnd, ProfilerContext, ProfilerReport, SetRequest};
use mainstay_ops::{Selection, profiler::Change};
use mainstay_repository::Repository;
use serde_json::{Map, Value, json};

use super::choice::{DatabaseArgs, LiteralArgs, parse_duration};
use crate::commands::close;
use crate::commands::plan::{self, by_plan_file};
use crate::commands::restore::other_target;
use crate::printer::shown::{ago, duration, moment};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::{Documents, Session};

/// The longest that a profiler is held: what is meant to last longer is a setting of the server's configuration.
const HOLD_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The commands below `mongo profile`.
#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Show level, threshold and sample rate, what was recorded, and what stood before a `set`
    Show(ShowArgs),
    /// Set level, threshold or sample rate, after writing down what stands
    Set(SetArgs),
    /// Put back what stood before the first `set`
    Reset(ResetArgs),
}

/// Arguments of `mongo profile show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    databases: DatabaseArgs,
    #[command(flatten)]
    literals: LiteralArgs,
}

/// Arguments of `mongo profile set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The database; the configured one when left out
    database: Option<String>,
    /// 0 records nothing, 1 slow operations, 2 every operation
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=2))]
    level: Option<u8>,
    /// From how many milliseconds on an operation is slow, for the whole server and its log too
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(i64).range(0..=86_400_000))]
    slow_ms: Option<i64>,
    /// Which share of the slow operations is recorded, from 0 to 1, for the whole server and its log too
    #[arg(long, value_name = "SHARE")]
    sample_rate: Option<SampleRate>,
    /// Wait for this long, then put back what stood before; so does Ctrl-C
    #[arg(long = "for", value_name = "TIME", value_parser = parse_hold)]
    hold: Option<Duration>,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// Arguments of `mongo profile reset`.
#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// The database; the configured one when left out
    database: Option<String>,
    #[command(flatten)]
    consent: ConsentArgs,
}

/// How a plan is agreed to.
#[derive(Debug, Args)]
struct ConsentArgs {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn parse_hold(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        hold if hold >= Duration::from_secs(1) && hold <= HOLD_MAX => Ok(hold),
        _ => Err("expected between 1s and 24h".to_owned()),
    }
}

impl ProfileCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Show(_) => "mongo.profile.show",
            Self::Set(_) => profiler::OPERATION_SET,
            Self::Reset(_) => profiler::OPERATION_RESET,
        }
    }
}

/// Runs a command below `mongo profile`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: ProfileCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        ProfileCommand::Show(args) => show(args, session).await,
        ProfileCommand::Set(args) => set(args, session).await,
        ProfileCommand::Reset(args) => reset(args, session).await,
    }
}

async fn show(args: ShowArgs, session: &Session) -> Result<ExitStatus> {
    let documents = session.documents(StoreKind::Mongo).await?;
    let databases = args.databases.selection(session).database_names(documents.source.as_ref()).await?;
    let repository = memory(session).await?;
    let shown = profiler::show(documents.inspection.as_ref(), repository.as_ref(), &databases).await?;
    let show_filter = args.literals.literals() == mainstay_ops::shape::Literals::Shown;
    Ok(session.printer.report(&Profilers { shown, show_filter, now: session.clock.now() }))
}

/// The repository, where one is configured and there is one.
async fn memory(session: &Session) -> Result<Option<Repository>> {
    if session.configuration.repository.is_none() {
        return Ok(None);
    }
    session.existing_repository().await.context("open the repository, which remembers what profilers were")
}

async fn set(args: SetArgs, session: &Session) -> Result<ExitStatus> {
    let documents = session.documents(StoreKind::Mongo).await?;
    let database = database(args.database.as_deref(), &documents, session).await?;
    let target = session.target(documents.probe.as_ref()).await?;
    let repository = memory(session).await?;
    let holder = session.holder();
    let context = context(&documents, repository.as_ref(), session, &holder);
    let request = SetRequest {
        level: args.level,
        slow_ms: args.slow_ms,
        sample_rate: args.sample_rate,
        hold: args.hold,
    };
    let plan = profiler::plan_set(&context, &database, &request, target).await?;
    planned(plan, &args.consent, session).await
}

async fn reset(args: ResetArgs, session: &Session) -> Result<ExitStatus> {
    let documents = session.documents(StoreKind::Mongo).await?;
    let database = database(args.database.as_deref(), &documents, session).await?;
    let target = session.target(documents.probe.as_ref()).await?;
    let repository = memory(session).await?;
    let holder = session.holder();
    let context = context(&documents, repository.as_ref(), session, &holder);
    let plan = profiler::plan_reset(&context, &database, target).await?;
    planned(plan, &args.consent, session).await
}

async fn database(given: Option<&str>, documents: &Documents, session: &Session) -> Result<String> {
    let name = given.map(str::to_owned).or_else(|| session.configured_database()).ok_or_else(|| {
        Error::new(ErrorKind::Usage, "no database was given and none is configured")
            .with_state("nothing was changed")
            .with_hint("name it: `mainstay mongo profile set shop --level 1 --slow-ms 200`")
    })?;
    let selection = Selection { databases: vec![name.clone()], collections: Vec::new() };
    selection.database_names(documents.source.as_ref()).await?;
    Ok(name)
}

fn context<'a>(
    documents: &'a Documents,
    repository: Option<&'a Repository>,
    session: &'a Session,
    holder: &'a str,
) -> ProfilerContext<'a> {
    ProfilerContext {
        inspection: documents.inspection.as_ref(),
        repository,
        clock: session.clock.as_ref(),
        holder,
    }
}

async fn planned(plan: Plan, consent: &ConsentArgs, session: &Session) -> Result<ExitStatus> {
    if let Some(status) = plan::only_planned(&plan, consent.output.as_deref(), consent.dry_run, session)? {
        return Ok(status);
    }
    apply_plan(&plan, None, session).await.map_err(by_plan_file)
}

/// Carries out a plan of setting or putting back; a plan that holds waits, and puts back.
///
/// # Errors
/// `StalePlan` when the profiler or the server is another by now; `Refused` by policy; the server's and the repository's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let documents = session.documents(StoreKind::Mongo).await?;
    let repository =
        session.repository_or_create().await.context("open the repository, which remembers what stands")?;
    let guard = session.guard(&repository);
    let holder = session.holder();
    let context = context(&documents, Some(&repository), session, &holder);
    let permit = permitted(plan, approve, &documents, &guard, &context, session).await?;
    for step in &plan.steps {
        session.printer.notice(&format!("{}: {}", step.name, step.summary));
    }
    let done = carry_out(plan, &permit, &context, session).await;
    let outcome = match &done {
        Ok(done) => Outcome::Done { summary: done.summary(), facts: done.facts() },
        Err(error) => Outcome::of_error(error),
    };
    let done = close(&guard, permit, done, outcome).await?;
    Ok(session.printer.report(&done))
}

async fn permitted(
    plan: &Plan,
    approve: Option<&str>,
    documents: &Documents,
    guard: &Guard,
    context: &ProfilerContext<'_>,
    session: &Session,
) -> Result<Permit> {
    let target = session.target(documents.probe.as_ref()).await?;
    let checked = match other_target(&plan.target, &target) {
        Some(stale) => Err(stale),
        None => profiler::check(context, plan, &target.fingerprint).await,
    };
    if let Err(stale) = checked {
        return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    guard.permit(plan, &BackupEvidence::default(), &session.consent(approve)?).await
}

async fn carry_out(
    plan: &Plan,
    permit: &Permit,
    context: &ProfilerContext<'_>,
    session: &Session,
) -> Result<Done> {
    if plan.operation == profiler::OPERATION_RESET {
        let report = profiler::reset(context, plan, permit).await?;
        return Ok(Done { report, held: None });
    }
    let hold = profiler::hold_of(plan)?;
    let report = profiler::set(context, plan, permit).await?;
    let Some(hold) = hold else { return Ok(Done { report, held: None }) };
    session.printer.notice(&format!(
        "profiling {} on {} for {}; Ctrl-C puts it back at once",
        report.database,
        report.server,
        duration(hold.as_secs())
    ));
    let end = profiler::hold(hold, &session.cancel).await;
    let back = profiler::end_hold(context, plan, &report, permit).await?;
    Ok(Done { report, held: Some((end, back)) })
}

/// What was set, or put back; and, when it was held, how that ended.
struct Done {
    report: ProfilerReport,
    held: Option<(HoldEnd, ProfilerReport)>,
}

impl Done {
    fn summary(&self) -> String {
        let database = &self.report.database;
        match self.held {
            Some(_) => format!("held the profiler of {database} and put it back"),
            None => format!("the profiler of {database} is at level {}", self.report.now.level),
        }
    }

    /// For the audit log, which holds no floating-point numbers.
    fn facts(&self) -> Value {
        let held = self.held.as_ref();
        json!({
            "profiler": report_facts(&self.report),
            "hold_end": held.map(|(end, _)| end),
            "reset": held.map(|(_, back)| report_facts(back)),
        })
    }
}

fn report_facts(report: &ProfilerReport) -> Value {
    json!({
        "database": report.database,
        "server": report.server,
        "before": settings_text(&report.before),
        "now": settings_text(&report.now),
    })
}

fn report_json(report: &ProfilerReport) -> Value {
    json!({
        "database": report.database,
        "server": report.server,
        "before": settings_json(&report.before, false),
        "now": settings_json(&report.now, false),
    })
}

fn settings_json(settings: &ProfilerSettings, show_filter: bool) -> Value {
    let mut value = json!({
        "level": settings.level,
        "slow_ms": settings.slow_ms,
        "sample_rate": settings.sample_rate.get(),
        "filtered": settings.filter.is_some(),
    });
    if show_filter {
        value["filter"] = json!(settings.filter);
    }
    value
}

impl Report for Done {
    fn json(&self) -> Map<String, Value> {
        let mut fields = Map::from_iter([("profiler".to_owned(), report_json(&self.report))]);
        if let Some((end, back)) = &self.held {
            fields.insert("hold_end".to_owned(), json!(end));
            fields.insert("reset".to_owned(), report_json(back));
        }
        fields
    }

    fn text(&self, _look: &Look) -> String {
        let ProfilerReport { database, server, before, now } = &self.report;
        match &self.held {
            None => format!(
                "the profiler of {database} on {server}: {} (was {})\n",
                settings_text(now),
                settings_text(before)
            ),
            Some((end, back)) => {
                let end = match end {
                    HoldEnd::Expired => "the time is over",
                    HoldEnd::Stopped => "stopped",
                };
                format!(
                    "{end}; the profiler of {database} on {server} is back: {}\n`mainstay mongo slow --database {database}` shows what was recorded\n",
                    settings_text(&back.now)
                )
            }
        }
    }
}

fn settings_text(settings: &ProfilerSettings) -> String {
    let rate = match settings.sample_rate {
        SampleRate::ALL => String::new(),
        rate => format!(", {rate} of them"),
    };
    let filter = if settings.filter.is_some() { ", by a filter" } else { "" };
    format!("level {}, slow from {} ms on{rate}{filter}", settings.level, settings.slow_ms)
}

struct Profilers {
    shown: Vec<profiler::Shown>,
    show_filter: bool,
    now: Timestamp,
}

impl Report for Profilers {
    fn json(&self) -> Map<String, Value> {
        let one = |shown: &profiler::Shown| {
            let mut value = settings_json(&shown.profiler.settings, self.show_filter);
            value["database"] = json!(shown.database);
            value["server"] = json!(shown.profiler.server.address);
            value["recorded"] = json!(shown.profiler.recorded);
            value["change"] = shown.change.as_ref().map_or(Value::Null, |change| {
                json!({
                    "before": settings_json(&change.before, self.show_filter),
                    "set_to": settings_json(&change.set_to, self.show_filter),
                    "at": change.at,
                    "by": change.by,
                    "until": change.until,
                })
            });
            value
        };
        Map::from_iter([("profilers".to_owned(), self.shown.iter().map(one).collect())])
    }

    fn text(&self, look: &Look) -> String {
        let mut table =
            Table::new(&["DATABASE", "LEVEL", "SLOW FROM", "RATE", "RECORDED", "OF AT MOST", "SERVER"]);
        for shown in &self.shown {
            let settings = &shown.profiler.settings;
            let tone = if settings.level == 2 { Tone::Warn } else { Tone::Plain };
            let level = if settings.filter.is_some() {
                format!("{} by a filter", settings.level)
            } else {
                settings.level.to_string()
            };
            let recorded = shown.profiler.recorded;
            table.row(vec![
                Cell::new(shown.database.clone()),
                Cell::new(level).tone(tone),
                Cell::right(format!("{} ms", settings.slow_ms)),
                Cell::right(settings.sample_rate.to_string()),
                Cell::right(recorded.map_or_else(
                    || "-".to_owned(),
                    |recorded| format!("{}, {}", Count(recorded.entries), ByteSize(recorded.bytes)),
                )),
                Cell::right(
                    recorded
                        .and_then(|recorded| recorded.bytes_max)
                        .map_or_else(|| "-".to_owned(), |max| ByteSize(max).to_string()),
                ),
                Cell::new(shown.profiler.server.address.clone()),
            ]);
        }
        let mut text = table.render(look);
        for shown in &self.shown {
            if let (Some(filter), true) = (&shown.profiler.settings.filter, self.show_filter) {
                text.push_str(&format!("{}: filter {filter}\n", shown.database));
            }
            if let Some(change) = &shown.change {
                text.push_str(&self.change_text(&shown.database, change));
            }
        }
        text
    }
}

impl Profilers {
    fn change_text(&self, database: &str, change: &Change) -> String {
        let until = match change.until {
            Some(until) if until < self.now => {
                format!(", until {}, which is past: whoever held it was cut off", moment(until))
            }
            Some(until) => format!(", until {}", moment(until)),
            None => String::new(),
        };
        format!(
            "{database}: set by {} {}{until}; before: {}; `mainstay mongo profile reset {database}` puts that back\n",
            change.by,
            ago(change.at, self.now),
            settings_text(&change.before)
        )
    }
}
