//! `init plan|apply|check`: servers of any age brought to what `[init]` of the configuration declares.
//!
//! Each store has a plan of its own, for each is a target of its own. Passwords are read here, from the variables and files that the declaration
//! names, and handed to the adapters beside the acts.

mod check;
mod declaration;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{Error, ErrorKind, ExitStatus, Plan, Result, ResultExt, StoreKind};
use mainstay_ops::init::{self, InitContext, InitPlan, InitReport, ItemCounts, OPERATION};
use serde_json::{Map, Value, json};

use self::check::CheckArgs;
use self::declaration::Declaration;
use super::close;
use super::plan::{self, PlanReport, by_plan_file_with};
use crate::printer::shown::plain;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// The commands below `init`.
#[derive(Debug, Subcommand)]
pub(crate) enum InitCommand {
    /// Compare servers with what is declared of them, and decide the steps
    Plan(PlanArgs),
    /// Take the steps, each looked at before and afterwards; may be repeated
    Apply(ApplyArgs),
    /// Tell what an image's one-time scripts do and do not, and how to declare it
    Check(CheckArgs),
}

/// What is decided about.
#[derive(Debug, Args)]
struct DecideArgs {
    /// This store alone: mongo, postgres or redis
    #[arg(long)]
    store: Option<StoreKind>,
    /// Set this account's password to the declared one although it is there; may be repeated
    #[arg(long, value_name = "USER")]
    rotate: Vec<String>,
}

/// Arguments of `init plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    decide: DecideArgs,
    /// Write the plan to this file; where several stores are declared it needs --store
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Arguments of `init apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    decide: DecideArgs,
    /// Carry out this plan file instead of deciding anew
    #[arg(value_name = "FILE", conflicts_with_all = ["store", "rotate"])]
    file: Option<PathBuf>,
    /// Approve the plan file with this hash beforehand; needed where there is no terminal
    #[arg(long, value_name = "HASH", requires = "file")]
    approve: Option<String>,
}

impl InitCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Plan(_) => "init.plan",
            Self::Apply(_) => OPERATION,
            Self::Check(_) => "init.check",
        }
    }
}

/// Runs a command below `init`.
///
/// # Errors
/// See the commands.
pub(crate) async fn run(command: InitCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        InitCommand::Plan(args) => plan_all(&args, session).await,
        InitCommand::Apply(ApplyArgs { file: Some(file), approve, .. }) => {
            apply_plan(&plan::read(&session.path(&file))?, approve.as_deref(), session).await
        }
        InitCommand::Apply(args) => apply_all(&args.decide, session).await,
        InitCommand::Check(args) => check::run(&args, session).await,
    }
}

async fn decide(args: &DecideArgs, session: &Session) -> Result<Vec<InitPlan>> {
    let declaration = Declaration::of(session)?;
    let stores = declaration.stores(args.store)?;
    declaration.check_rotated(&stores, &args.rotate)?;
    let mut plans = Vec::new();
    for kind in stores {
        let server = declaration.server(kind, session).await?;
        let store = server.store(&declaration, &args.rotate);
        let configured = session.configured_environment();
        let planned = init::plan(store.as_ref(), &configured, session.clock.as_ref()).await;
        plans.push(planned.with_context(|| format!("plan the initiation of {kind}"))?);
    }
    Ok(plans)
}

async fn plan_all(args: &PlanArgs, session: &Session) -> Result<ExitStatus> {
    if let Some(file) = &args.output {
        plan::expect_free(&session.path(file))?;
    }
    let plans = decide(&args.decide, session).await?;
    if let Some(file) = &args.output {
        let [one] = plans.as_slice() else {
            let stores: Vec<&str> = plans.iter().map(|one| one.plan.target.store.name()).collect();
            return Err(Error::new(
                ErrorKind::Usage,
                format!("one file holds one plan, and there are plans for {}", stores.join(", ")),
            )
            .with_state("nothing was written")
            .with_hint(format!("add `--store {}`, and plan the others in files of their own", stores[0])));
        };
        plan::write(&one.plan, &session.path(file))?;
    }
    let now = session.clock.now();
    let mut reports = Vec::new();
    for planned in plans {
        let leaves_some = planned.counts.leaves_some();
        let report = PlanReport::new(planned.plan, args.output.clone(), now)?;
        reports.push((report, planned.counts, leaves_some));
    }
    Ok(session.printer.report(&Planned(reports)))
}

async fn apply_all(args: &DecideArgs, session: &Session) -> Result<ExitStatus> {
    let mut applied = Vec::new();
    for planned in decide(args, session).await? {
        let (kind, report) = (planned.plan.target.store, apply_one(&planned.plan, None, session).await);
        let report = report.map_err(|refusal| behind(&applied, kind, by_plan_of(kind, refusal)))?;
        applied.push((kind, report));
    }
    Ok(session.printer.report(&Applied(applied)))
}

/// The error of a store, with what was done to those before it.
fn behind(applied: &[(StoreKind, InitReport)], kind: StoreKind, error: Error) -> Error {
    let mut states = Vec::new();
    for (before, report) in applied {
        let count = report.steps.iter().filter(|step| !step.was_there).count();
        let steps = if count == 1 { "step" } else { "steps" };
        states.push(format!("{before} was brought to what is declared ({count} {steps})"));
    }
    if states.is_empty() {
        return error;
    }
    states.extend(error.state().map(|state| format!("{kind}: {state}")));
    error.with_state(states.join("; "))
}

/// Where nobody can be asked, the plan is made first and kept.
fn by_plan_of(kind: StoreKind, refusal: Error) -> Error {
    let refusal = by_plan_file_with("--output plan.json", refusal);
    match refusal.hint().is_some_and(|hint| hint.contains("--output plan.json")) {
        true => refusal.with_hint(format!(
            "run `mainstay init plan --store {kind} --output plan.json`, review it, then run `mainstay apply plan.json --approve HASH`"
        )),
        false => refusal,
    }
}

/// Carries out a plan of an initiation.
///
/// # Errors
/// `StalePlan` when the server is another one, or something is decided otherwise by now; `Refused` by policy; the operation's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let report = apply_one(plan, approve, session).await?;
    Ok(session.printer.report(&Applied(vec![(plan.target.store, report)])))
}

async fn apply_one(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<InitReport> {
    let declaration = Declaration::of(session)?;
    let rotate = init::rotated(plan)?;
    let server = declaration.server(plan.target.store, session).await?;
    let store = server.store(&declaration, &rotate);
    let repository = session.repository_or_create().await.context("open the audit log")?;
    let guard = session.guard(&repository);
    let (progress, holder) = (session.printer.progress(), session.holder());
    let context = InitContext {
        store: store.as_ref(),
        repository: &repository,
        clock: session.clock.clone(),
        observer: progress.as_ref(),
        cancel: &session.cancel,
        holder: &holder,
        lease_ttl: session.lease_ttl(),
    };
    match init::check(&context, &session.configured_environment(), plan).await {
        Ok(Some(report)) => return Ok(report),
        Ok(None) => {}
        Err(stale) => {
            return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
        }
    }
    let permit = guard.permit(plan, &BackupEvidence::default(), &session.consent(approve)?).await?;
    let applied = init::apply(&context, plan, &permit).await;
    session.printer.end_progress();
    let outcome = match &applied {
        Ok(report) => Outcome::Done { summary: summary(report), facts: json!(report) },
        Err(error) => Outcome::of_error(error),
    };
    close(&guard, permit, applied, outcome).await
}

fn summary(report: &InitReport) -> String {
    let done: Vec<&str> =
        report.steps.iter().filter(|step| !step.was_there).map(|step| step.name.as_str()).collect();
    match done.as_slice() {
        [] => "everything declared was there".to_owned(),
        done => format!("made: {}", done.join(", ")),
    }
}

struct Planned(Vec<(PlanReport, ItemCounts, bool)>);

fn totals(counts: &ItemCounts) -> String {
    format!(
        "{} there already, {} to do, {} to change, {} that differ and are left, {} that cannot be compared",
        counts.there, counts.to_do, counts.to_change, counts.differing, counts.unknown
    )
}

impl Report for Planned {
    fn json(&self) -> Map<String, Value> {
        let one = |(report, counts, _): &(PlanReport, ItemCounts, bool)| {
            let mut fields = report.json();
            fields.insert("counts".to_owned(), json!(counts));
            Value::Object(fields)
        };
        Map::from_iter([("plans".to_owned(), self.0.iter().map(one).collect())])
    }

    fn text(&self, look: &Look) -> String {
        let one = |(report, counts, _): &(PlanReport, ItemCounts, bool)| {
            let next = match (counts.to_do + counts.to_change, &report.file) {
                (0, _) => "nothing is to be done\n",
                (_, None) => "next: mainstay init apply, or keep the plan with `--output FILE`\n",
                (_, Some(_)) => "",
            };
            format!("{}{}\n{next}", report.text(look), totals(counts))
        };
        self.0.iter().map(one).collect::<Vec<_>>().join("\n")
    }

    fn exit_status(&self) -> ExitStatus {
        match self.0.iter().any(|(_, _, leaves_some)| *leaves_some) {
            true => ExitStatus::Findings,
            false => ExitStatus::Ok,
        }
    }
}

struct Applied(Vec<(StoreKind, InitReport)>);

impl Report for Applied {
    fn json(&self) -> Map<String, Value> {
        let one = |(kind, report): &(StoreKind, InitReport)| {
            let left: Vec<Value> =
                report.left.iter().map(|(name, why)| json!({"name": name, "why": why})).collect();
            json!({"store": kind, "steps": report.steps, "counts": report.counts, "left": left,
                   "advice": report.advice})
        };
        Map::from_iter([("applied".to_owned(), self.0.iter().map(one).collect())])
    }

    fn text(&self, look: &Look) -> String {
        let mut text = String::new();
        for (kind, report) in &self.0 {
            let mut table = Table::new(&["STEP", ""]);
            for step in &report.steps {
                let how = if step.was_there { "was there" } else { "done" };
                table.row(vec![step.name.clone().into(), Cell::new(how).tone(Tone::Good)]);
            }
            if report.steps.is_empty() {
                text.push_str(&format!("{kind}: nothing was to be done\n"));
            } else {
                text.push_str(&table.render(look));
            }
            for (name, why) in &report.left {
                let line = plain(&format!("{name}: {why}"), usize::MAX);
                text.push_str(&format!("{} {line}\n", look.paint(Tone::Warn, "left:")));
            }
            for advice in &report.advice {
                text.push_str(&format!("{} {advice}\n", look.paint(Tone::Warn, "advice:")));
            }
            text.push_str(&format!("{kind}: {}\n", totals(&report.counts)));
        }
        text
    }

    fn exit_status(&self) -> ExitStatus {
        match self.0.iter().any(|(_, report)| report.counts.leaves_some()) {
            true => ExitStatus::Findings,
            false => ExitStatus::Ok,
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_ops::init::InitStepDone;

    use super::*;

    #[test]
    fn what_was_done_to_other_stores_is_told_when_one_fails() {
        let error = || Error::new(ErrorKind::Auth, "it lacks a privilege").with_state("nothing was changed");
        let alone = behind(&[], StoreKind::Mongo, error());
        assert_eq!(alone.state(), Some("nothing was changed"));
        let step = |was_there| InitStepDone { name: "user shop.app".to_owned(), was_there };
        let report = InitReport {
            steps: vec![step(false), step(true), step(false)],
            counts: ItemCounts::default(),
            left: vec![],
            advice: vec![],
        };
        let second = behind(&[(StoreKind::Mongo, report)], StoreKind::Postgres, error());
        assert_eq!(
            second.state(),
            Some("mongo was brought to what is declared (2 steps); postgres: nothing was changed")
        );
    }
}
