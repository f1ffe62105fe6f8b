//! `index plan|apply|retire|restore`: the indexes of a database changed to what is declared, planned first.

use std::path::PathBuf;

use clap::Args;
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{ErrorKind, ExitStatus, Plan, Result, ResultExt, StoreKind};
use mainstay_ops::contents::Needed;
use mainstay_ops::index::{
    self, DroppedIndexes, IndexContext, IndexParameters, IndexPlanning, IndexReport, OPERATION_EXPIRE,
};
use mainstay_ops::verify;
use serde_json::{Map, Value, json};

use super::ManifestArgs;
use super::view::{Changes, tally};
use crate::commands::close;
use crate::commands::plan::{self, by_plan_file};
use crate::commands::restore::other_target;
use crate::printer::shown::{moment, plain};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::{Documents, Session};

/// Arguments of `index plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Write the plan to this file
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where it cannot be done otherwise, drop an index before the one in its place stands
    #[arg(long)]
    allow_gap: bool,
}

/// Arguments of `index apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The plan file
    file: PathBuf,
    /// Approve the plan with this hash beforehand; needed where there is no terminal
    #[arg(long, value_name = "HASH")]
    approve: Option<String>,
}

/// What becomes of a plan that is made.
#[derive(Debug, Args)]
struct MakingArgs {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Arguments of `index retire`.
#[derive(Debug, Args)]
pub(crate) struct RetireArgs {
    /// Indexes that nobody declares: hidden first, dropped when they were hidden for long enough; all that are hidden when left out
    #[arg(value_name = "COLLECTION.INDEX")]
    indexes: Vec<String>,
    #[command(flatten)]
    making: MakingArgs,
}

/// Arguments of `index restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The index that is built again; those that can be are listed when it is left out
    #[arg(value_name = "COLLECTION.INDEX")]
    index: Option<String>,
    #[command(flatten)]
    making: MakingArgs,
}

/// Runs `index plan`.
///
/// # Errors
/// The operation's.
pub(super) async fn plan(args: &PlanArgs, session: &Session) -> Result<ExitStatus> {
    expect_free(args.output.as_deref(), session)?;
    let made = Making::open(session.index_manifest()?, args.allow_gap, session).await?;
    let plan = made.plan(Decision::AsDeclared, session).await?;
    let command = if args.allow_gap { "index plan --allow-gap" } else { "index plan" };
    report(&plan, args.output.as_deref(), command.to_owned(), session)
}

/// Runs `index apply`.
///
/// # Errors
/// The operation's.
pub(super) async fn apply(args: &ApplyArgs, session: &Session) -> Result<ExitStatus> {
    let plan = plan::read(&session.path(&args.file))?;
    apply_plan(&plan, args.approve.as_deref(), session).await
}

/// Runs `index retire`.
///
/// # Errors
/// The operation's.
pub(super) async fn retire(args: &RetireArgs, session: &Session) -> Result<ExitStatus> {
    expect_free(args.making.output.as_deref(), session)?;
    let made = Making::open(session.index_manifest()?, false, session).await?;
    let plan = made.plan(Decision::Retire(&args.indexes), session).await?;
    carry_out(&plan, &args.making, typed("index retire", &args.indexes), session).await
}

/// Runs `index restore`.
///
/// # Errors
/// The operation's.
pub(super) async fn restore(args: &RestoreArgs, session: &Session) -> Result<ExitStatus> {
    expect_free(args.making.output.as_deref(), session)?;
    // What was dropped comes back as it was, whatever is declared; the policy says how much may expire by it.
    let manifest = ManifestArgs::default().read_if_any(session)?;
    let made = Making::open(manifest, false, session).await?;
    let Some(name) = &args.index else {
        let target = session.target(made.documents.probe.as_ref()).await?;
        let dropped = match &made.repository {
            Some(repository) => index::dropped(repository, &target.fingerprint, &made.database).await?,
            None => DroppedIndexes(Vec::new()),
        };
        return Ok(session.printer.report(&Restorable(dropped)));
    };
    let plan = made.plan(Decision::Restore(name), session).await?;
    carry_out(&plan, &args.making, typed("index restore", std::slice::from_ref(name)), session).await
}

/// Refuses to count documents for a plan that could not be kept.
fn expect_free(output: Option<&std::path::Path>, session: &Session) -> Result<()> {
    output.map_or(Ok(()), |file| plan::expect_free(&session.path(file)))
}

/// A command with its indexes as a person types it; the shell is kept off their names.
fn typed(command: &str, indexes: &[String]) -> String {
    let words = indexes.iter().map(|index| plan::quoted(index));
    [command.to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

/// Shows the plan, or keeps it, or does what it says.
async fn carry_out(
    plan: &Plan,
    making: &MakingArgs,
    command: String,
    session: &Session,
) -> Result<ExitStatus> {
    let parameters = IndexParameters::of(plan)?;
    if making.dry_run || making.output.is_some() || parameters.done().next().is_none() {
        return report(plan, making.output.as_deref(), command, session);
    }
    apply_plan(plan, None, session).await.map_err(by_plan_file)
}

/// Shows the plan that `command` made, which is written to the file that is named when it does anything.
fn report(
    plan: &Plan,
    output: Option<&std::path::Path>,
    command: String,
    session: &Session,
) -> Result<ExitStatus> {
    let parameters = IndexParameters::of(plan)?;
    let file = output.filter(|_| parameters.done().next().is_some());
    if let Some(file) = file {
        plan::write(plan, &session.path(file))?;
    }
    let file = file.map(std::path::Path::to_owned);
    let changes = Changes::new(plan.clone(), parameters, command, file, session.clock.now())?;
    Ok(session.printer.report(&changes))
}

/// What a plan is made with.
struct Making {
    documents: Documents,
    repository: Option<mainstay_repository::Repository>,
    manifest: mainstay_indexes::Manifest,
    database: String,
    allows_gaps: bool,
}

impl Making {
    async fn open(
        manifest: mainstay_indexes::Manifest,
        allows_gaps: bool,
        session: &Session,
    ) -> Result<Self> {
        let repository = match session.configuration.repository {
            Some(_) => session.existing_repository().await?,
            None => None,
        };
        Ok(Self {
            documents: session.documents(StoreKind::Mongo).await?,
            repository,
            manifest,
            database: super::database(session)?,
            allows_gaps,
        })
    }

    async fn plan(&self, decision: Decision<'_>, session: &Session) -> Result<Plan> {
        let target = session.target(self.documents.probe.as_ref()).await?;
        let progress = session.printer.progress();
        let planning = IndexPlanning {
            catalog: self.documents.indexes.as_ref(),
            inspection: self.documents.inspection.as_ref(),
            repository: self.repository.as_ref(),
            manifest: &self.manifest,
            database: &self.database,
            allows_gaps: self.allows_gaps,
            clock: session.clock.as_ref(),
            observer: progress.as_ref(),
            cancel: &session.cancel,
        };
        let plan = match decision {
            Decision::AsDeclared => index::plan(&planning, target).await,
            Decision::Retire(names) => index::retire(&planning, names, target).await,
            Decision::Restore(name) => index::restore(&planning, name, target).await,
        };
        session.printer.end_progress();
        plan
    }
}

/// What is to be decided.
enum Decision<'a> {
    /// How everything becomes what is declared.
    AsDeclared,
    /// How these go, or all that are hidden.
    Retire(&'a [String]),
    /// How this one comes back.
    Restore(&'a str),
}

/// Carries out a plan about indexes.
///
/// # Errors
/// `StalePlan` when the server is another one, or indexes or documents have changed; `Locked` when somebody else changes its indexes;
/// `Refused` by policy; the operation's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let parameters = IndexParameters::of(plan)?;
    let documents = session.documents(StoreKind::Mongo).await?;
    let repository = session.repository_or_create().await.context("open the audit log")?;
    let guard = session.guard(&repository);
    let (progress, holder) = (session.printer.progress(), session.holder());
    let context = IndexContext {
        control: documents.indexes.as_ref(),
        repository: &repository,
        clock: session.clock.as_ref(),
        observer: progress.as_ref(),
        cancel: &session.cancel,
        holder: &holder,
    };
    let target = session.target(documents.probe.as_ref()).await?;
    if let Some(stale) = other_target(&plan.target, &target) {
        return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    let lease = index::claim(&context, plan).await?;
    let applied = under_lease(&context, plan, &parameters, &lease, approve, session, &guard).await;
    session.printer.end_progress();
    // Whoever was killed leaves it to run out; the next one is not to wait for us.
    let released = lease.release().await;
    let report = applied?;
    released.context("give the lease back")?;
    Ok(session.printer.report(&Applied(report)))
}

async fn under_lease(
    context: &IndexContext<'_>,
    plan: &Plan,
    parameters: &IndexParameters,
    lease: &index::KeptLease,
    approve: Option<&str>,
    session: &Session,
    guard: &mainstay_guard::Guard,
) -> Result<IndexReport> {
    if let Err(stale) = index::check(context, plan).await {
        return Err(match stale.kind() {
            ErrorKind::StalePlan => {
                guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await
            }
            _ => stale,
        });
    }
    let evidence = match plan.operation == OPERATION_EXPIRE {
        true => {
            let namespaces = parameters.expiring().into_iter().collect();
            let needed = Needed { namespaces, accounts: false };
            verify::evidence(context.repository, &plan.target.fingerprint, &needed).await?
        }
        false => BackupEvidence::default(),
    };
    let permit = guard.permit(plan, &evidence, &session.consent(approve)?).await?;
    if index::resumable(context, plan).await? {
        session.printer.notice("a run of this plan was begun before: it goes on");
    }
    let applied = index::apply(context, plan, lease, &permit).await;
    let outcome = match &applied {
        Ok(report) => Outcome::Done { summary: summary(report), facts: json!(report) },
        Err(error) => Outcome::of_error(error),
    };
    close(guard, permit, applied, outcome).await
}

fn summary(report: &IndexReport) -> String {
    let taken = report.steps.iter().filter(|step| !step.was_done).count();
    format!("took {taken} of {} steps", report.steps.len())
}

struct Applied(IndexReport);

impl Report for Applied {
    fn json(&self) -> Map<String, Value> {
        match json!(self.0) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn text(&self, look: &Look) -> String {
        let mut table = Table::new(&["", "INDEX", "", "TIME"]);
        for step in &self.0.steps {
            let how = if step.was_done { "held already".to_owned() } else { "done".to_owned() };
            table.row(vec![
                Cell::new(format!("  {} {}", step.mark, step.action)),
                Cell::new(format!("{}.{}", step.collection, step.index)),
                Cell::new(how).tone(Tone::Good),
                Cell::right(if step.was_done {
                    String::new()
                } else {
                    crate::printer::shown::millis(step.millis)
                }),
            ]);
        }
        let mut text = table.render(look);
        for (index, reason) in &self.0.blocked {
            let line = format!("  left alone: {index}: {reason}");
            text.push_str(&format!("{}\n", look.paint(Tone::Warn, &plain(&line, usize::MAX))));
        }
        let marks = |mark| self.0.steps.iter().filter(|step| step.mark == mark).count();
        text.push_str(&format!(
            "{}\nnext: mainstay index drift\n",
            look.paint(Tone::Good, &format!("Applied: {}.", tally(marks('+'), marks('~'), marks('-'))))
        ));
        text
    }

    fn exit_status(&self) -> ExitStatus {
        match self.0.blocked.is_empty() {
            true => ExitStatus::Ok,
            false => ExitStatus::Findings,
        }
    }
}

struct Restorable(DroppedIndexes);

impl Report for Restorable {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("dropped".to_owned(), json!(self.0.0))])
    }

    fn text(&self, look: &Look) -> String {
        let dropped = &self.0.0;
        if dropped.is_empty() {
            return "no index was dropped by mainstay that is not there again\n".to_owned();
        }
        let mut table = Table::new(&["INDEX", "WAS", "DROPPED", "BY"]);
        for index in dropped {
            table.row(vec![
                Cell::new(format!("{}.{}", index.collection, index.index.name)),
                Cell::new(mainstay_indexes::changes::describe(&index.index.spec)),
                Cell::new(moment(index.at)),
                Cell::new(index.by.clone()),
            ]);
        }
        let first = format!("{}.{}", dropped[0].collection, dropped[0].index.name);
        format!("{}next: mainstay index restore {}\n", table.render(look), plain(&first, usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_as_they_are_typed() {
        assert_eq!(typed("index retire", &[]), "index retire");
        let names = ["users.a_1_b_-1", "logs.$**_1"].map(str::to_owned);
        assert_eq!(typed("index retire", &names), "index retire users.a_1_b_-1 'logs.$**_1'");
    }
}
