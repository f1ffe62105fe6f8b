//! `sql apply`: what is pending, planned, permitted and applied in one command; or kept as a plan for whoever approves it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use mainstay_engine::MigrationRun;
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{Effect, ErrorKind, ExitStatus, Plan, Result, ResultExt, StoreKind};
use mainstay_ops::shape::Literals;
use mainstay_ops::sql::apply::{self, AppliedBy, ApplyReport, Choice};
use mainstay_ops::sql::{
    self, ApplyParameters, OPERATION_DESTROY, PlannedMigration, SqlContext, Transactions,
};
use serde_json::{Map, Value, json};

use super::{FolderArgs, Migrations, parse_timeout, repository};
use crate::commands::close;
use crate::commands::mongo::choice::{LiteralArgs, parse_duration};
use crate::commands::plan::{self, PlanReport, by_plan_file};
use crate::commands::restore::other_target;
use crate::printer::shown::{millis, plain};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// How long a plan from a file waits for another run.
const WAIT: Duration = Duration::from_secs(30);

/// Arguments of `sql apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Apply nothing behind this migration
    #[arg(long, value_name = "TAG")]
    to: Option<String>,
    /// Apply also what Drizzle would never apply, because something later is applied
    #[arg(long)]
    include_skipped: bool,
    /// A transaction for each migration, or one around all of them as Drizzle has it
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Tx::Each)]
    tx: Tx,
    /// How long a statement may wait for one lock
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_timeout)]
    lock_timeout: Duration,
    /// For how long a migration that does not get its locks is tried again
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    retry_for: Duration,
    /// How long another run is waited for
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    wait: Duration,
    #[command(flatten)]
    literals: LiteralArgs,
    /// Show what would be run, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// How migrations are put into transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tx {
    /// One for each
    Each,
    /// One around all
    All,
}

impl ApplyArgs {
    fn choice(&self) -> Choice {
        Choice {
            include_skipped: self.include_skipped,
            to: self.to.clone(),
            transactions: match self.tx {
                Tx::Each => Transactions::Each,
                Tx::All => Transactions::All,
            },
            lock_timeout: self.lock_timeout,
            retry_for: self.retry_for,
        }
    }
}

/// Plans and applies.
///
/// # Errors
/// The operation's.
pub(super) async fn run(args: &ApplyArgs, session: &Session) -> Result<ExitStatus> {
    let migrations = Migrations::open(&args.folder, session)?;
    let progress = session.printer.progress();
    let context = migrations.context(session, progress.as_ref(), args.literals.literals());
    let ended = match args.dry_run || args.output.is_some() {
        true => plan_only(args, &migrations, &context, session).await,
        false => at_once(args, &migrations, &context, session).await,
    };
    session.printer.end_progress();
    ended
}

/// Plans, and shows the plan or keeps it.
async fn plan_only(
    args: &ApplyArgs,
    migrations: &Migrations,
    context: &SqlContext<'_>,
    session: &Session,
) -> Result<ExitStatus> {
    let plan = make(args, context, session).await?;
    let parameters = ApplyParameters::of(&plan)?;
    let file = args.output.clone().filter(|_| !parameters.migrations.is_empty());
    if let Some(file) = &file {
        plan::write(&plan, &session.path(file))?;
    }
    let texts = migrations.texts(&parameters);
    let report = PlanReport::new(plan, file, session.clock.now())?;
    let report = PlanReport { flags: plan::flags(session), ..report };
    Ok(session.printer.report(&Planned { report, parameters, texts }))
}

/// Plans and applies under one lock: whoever comes second waits, and plans what the first has left.
async fn at_once(
    args: &ApplyArgs,
    migrations: &Migrations,
    context: &SqlContext<'_>,
    session: &Session,
) -> Result<ExitStatus> {
    let run = sql::open(context, args.wait).await?;
    let plan = make(args, context, session).await?;
    let parameters = ApplyParameters::of(&plan)?;
    if parameters.migrations.is_empty() {
        let texts = migrations.texts(&parameters);
        let report = PlanReport::new(plan, None, session.clock.now())?;
        return Ok(session.printer.report(&Planned { report, parameters, texts }));
    }
    carry_out(context, &plan, None, run.as_ref(), session).await.map_err(by_plan_file)
}

async fn make(args: &ApplyArgs, context: &SqlContext<'_>, session: &Session) -> Result<Plan> {
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    apply::plan(context, &args.choice(), target).await
}

/// Carries out a plan to apply migrations.
///
/// # Errors
/// As [`super::apply_plan`].
pub(super) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    ApplyParameters::of(plan)?;
    let migrations = Migrations::open(&FolderArgs::default(), session)?;
    let progress = session.printer.progress();
    let context = migrations.context(session, progress.as_ref(), Literals::Hidden);
    let ended = match sql::open(&context, WAIT).await {
        Ok(run) => carry_out(&context, plan, approve, run.as_ref(), session).await,
        Err(error) => Err(error),
    };
    session.printer.end_progress();
    ended
}

async fn carry_out(
    context: &SqlContext<'_>,
    plan: &Plan,
    approve: Option<&str>,
    run: &dyn MigrationRun,
    session: &Session,
) -> Result<ExitStatus> {
    let repository = repository(session).await.context("open the audit log")?;
    let guard = session.guard_of(repository.as_ref());
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    let checked = match other_target(&plan.target, &target) {
        Some(stale) => Err(stale),
        None => apply::check(context, plan).await,
    };
    if let Err(stale) = checked {
        return Err(match stale.kind() {
            ErrorKind::StalePlan => {
                guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await
            }
            _ => stale,
        });
    }
    let evidence = match repository.as_ref().filter(|_| plan.operation == OPERATION_DESTROY) {
        Some(repository) => {
            let database = ApplyParameters::of(plan)?.database;
            sql::evidence(repository, &plan.target.fingerprint, &database).await?
        }
        None => BackupEvidence::default(),
    };
    let permit = guard.permit(plan, &evidence, &session.consent(approve)?).await?;
    let applied = apply::apply(context, plan, run, &permit).await;
    let outcome = match &applied {
        Ok(report) => Outcome::Done { summary: summary(report), facts: json!(report) },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, applied, outcome).await?;
    Ok(session.printer.report(&Applied(report)))
}

fn summary(report: &ApplyReport) -> String {
    let own = report.migrations.iter().filter(|done| done.by == AppliedBy::ThisRun).count();
    format!("applied {own} of {} migrations", report.migrations.len())
}

impl Migrations {
    /// The texts of planned migrations, for whoever wants to see them whole.
    fn texts(&self, parameters: &ApplyParameters) -> Vec<(String, String)> {
        let found = parameters.migrations.iter().filter_map(|planned| self.folder.migration(&planned.tag));
        found.map(|migration| (migration.path.clone(), migration.text.clone())).collect()
    }
}

/// A plan to apply, with what would be run.
struct Planned {
    report: PlanReport,
    parameters: ApplyParameters,
    texts: Vec<(String, String)>,
}

impl Report for Planned {
    fn json(&self) -> Map<String, Value> {
        let mut fields = self.report.json();
        fields.insert("migrations".to_owned(), json!(self.parameters.migrations));
        fields
    }

    fn text(&self, look: &Look) -> String {
        if self.parameters.migrations.is_empty() {
            return format!("{}\n", look.paint(Tone::Good, "no migration is pending"));
        }
        let mut text = String::new();
        for migration in &self.parameters.migrations {
            text.push_str(&statements(migration, look));
        }
        if look.verbose {
            for (path, sql) in &self.texts {
                text.push_str(&format!("{}\n", look.paint(Tone::Faint, &format!("-- {}", plain(path, 200)))));
                for line in sql.lines() {
                    text.push_str(&format!("{}\n", plain(line, usize::MAX)));
                }
            }
        }
        text + &self.report.text(look)
    }
}

/// What of a migration would be sent, and how.
fn statements(migration: &PlannedMigration, look: &Look) -> String {
    let mut table = Table::new(&["", "LINE", "STATEMENT", "", ""]);
    for statement in &migration.statements {
        let (mark, tone) = match statement.effect {
            Effect::Read => (' ', Tone::Plain),
            Effect::Additive => ('+', Tone::Good),
            Effect::Disruptive => ('~', Tone::Warn),
            Effect::Destructive | Effect::Irreversible => ('-', Tone::Bad),
        };
        let how = match (statement.is_alone, migration.steps) {
            (true, _) => format!("step {}, in no transaction", statement.step),
            (false, 1) => String::new(),
            (false, _) => format!("step {}", statement.step),
        };
        table.row(vec![
            Cell::new(format!("  {mark}")).tone(tone),
            Cell::right(statement.line.to_string()),
            Cell::new(plain(&statement.what, 100)),
            Cell::new(how).tone(Tone::Faint),
            Cell::new(plain(statement.reason.as_deref().unwrap_or_default(), 100)).tone(tone),
        ]);
    }
    let title = plain(&format!("{} ({})", migration.tag, migration.path), 200);
    format!("{}\n{}", look.paint(Tone::Strong, &title), table.render(look))
}

struct Applied(ApplyReport);

impl Report for Applied {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("applied".to_owned(), json!(self.0.migrations))])
    }

    fn text(&self, look: &Look) -> String {
        let mut table = Table::new(&["MIGRATION", "", "TIME", ""]);
        for done in &self.0.migrations {
            let (how, time) = match done.by {
                AppliedBy::ThisRun => ("applied", millis(done.millis)),
                AppliedBy::Another => ("applied already, by another run", String::new()),
            };
            let mut notes = Vec::new();
            if done.repetitions > 0 {
                notes.push(format!("tried {} times for its locks", done.repetitions + 1));
            }
            if done.steps_done_before > 0 {
                notes.push(format!("{} of {} steps were done before", done.steps_done_before, done.steps));
            }
            if done.leftovers_dropped > 0 {
                notes.push("an invalid index of an earlier failure was dropped".to_owned());
            }
            table.row(vec![
                Cell::new(done.tag.clone()),
                Cell::new(how).tone(Tone::Good),
                Cell::right(time),
                Cell::new(notes.join("; ")).tone(Tone::Faint),
            ]);
        }
        format!("{}{}\n", table.render(look), look.paint(Tone::Good, &format!("{}.", summary(&self.0))))
    }
}
