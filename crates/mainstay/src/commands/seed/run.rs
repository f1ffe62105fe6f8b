//! `seed run`: plans and writes seeds; with `--auto`, those of a new installation, once.

use std::path::PathBuf;

use clap::Args;
use mainstay_engine::{NewcomerRule, SeedTarget};
use mainstay_guard::{BackupEvidence, Guard, Outcome};
use mainstay_model::{Count, Error, ErrorKind, ExitStatus, Plan, Result, ResultExt, StoreKind};
use mainstay_ops::seed::auto::{self, AutoOutcome};
use mainstay_ops::seed::{self, Seed, SeedContext, SeedParameters, SeedReport};
use serde_json::{Map, Value, json};

use super::manifest;
use crate::commands::close;
use crate::commands::plan::{self, by_plan_file};
use crate::commands::restore::other_target;
use crate::config::seeds::SeedManifest;
use crate::printer::shown::plain;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Arguments of `seed run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The seeds, written in the order of the manifest
    #[arg(value_name = "SEED", required_unless_present = "auto", conflicts_with = "auto")]
    seeds: Vec<String>,
    /// Seed a new installation by itself: where AUTO_SEED_ON_START says so, nobody else is at it, and no user but administrators is
    #[arg(long, conflicts_with_all = ["dry_run", "output"])]
    auto: bool,
    /// Show what would be written, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Plans and writes.
///
/// # Errors
/// The operation's.
pub(super) async fn run(args: RunArgs, session: &Session) -> Result<ExitStatus> {
    let manifest = manifest(session)?;
    if args.auto {
        return seed_automatically(&manifest, session).await;
    }
    let chosen = manifest.chosen(&args.seeds)?;
    let stores: Vec<StoreKind> = StoreKind::ALL
        .into_iter()
        .filter(|kind| chosen.iter().any(|declared| declared.store == *kind))
        .collect();
    if stores.len() > 1 {
        return Err(Error::new(ErrorKind::Usage, "the seeds go into two stores, and a plan is for one")
            .with_state("nothing was changed")
            .with_hint("run those of each store by themselves; `mainstay seed list` shows which is which"));
    }
    let seeds = chosen.into_iter().map(|declared| manifest.load(declared)).collect::<Result<Vec<_>>>()?;
    let seeds: Vec<&Seed> = seeds.iter().collect();
    let kind = stores.first().copied().unwrap_or(StoreKind::Mongo);
    let store = session.seeds(kind).await?;
    let plan = planned(store.as_ref(), kind, &seeds, session).await?;
    let has_work = SeedParameters::of(&plan)?.seeds.iter().any(seed::PlannedSeed::has_work);
    if args.dry_run || args.output.is_some() || !has_work {
        let file = args.output.filter(|_| has_work);
        return plan::report(&plan, file.as_deref(), session);
    }
    carry_out(&plan, &seeds, store.as_ref(), None, session).await.map_err(by_plan_file)
}

async fn planned(
    store: &dyn SeedTarget,
    kind: StoreKind,
    seeds: &[&Seed],
    session: &Session,
) -> Result<Plan> {
    let probe = session.probe(kind).await?;
    let target = session.target(probe.as_ref()).await?;
    seed::plan(store, seeds, target, session.clock.as_ref()).await
}

/// Carries out a plan of seeds, whose rows are read from their files once more.
///
/// # Errors
/// `StalePlan` when files, declarations, rows or the server are others by now; `Refused` where the seeds may not be written; the operation's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let parameters = SeedParameters::of(plan)?;
    let manifest = manifest(session)?;
    let ids: Vec<String> = parameters.seeds.iter().map(|seed| seed.id.clone()).collect();
    let seeds = manifest
        .chosen(&ids)?
        .into_iter()
        .map(|declared| manifest.load(declared))
        .collect::<Result<Vec<_>>>()?;
    let store = session.seeds(plan.target.store).await?;
    carry_out(plan, &seeds.iter().collect::<Vec<_>>(), store.as_ref(), approve, session).await
}

async fn carry_out(
    plan: &Plan,
    seeds: &[&Seed],
    store: &dyn SeedTarget,
    approve: Option<&str>,
    session: &Session,
) -> Result<ExitStatus> {
    let repository = session.repository_or_create().await.context("open the audit log")?;
    let guard = session.guard(&repository);
    let probe = session.probe(plan.target.store).await?;
    let target = session.target(probe.as_ref()).await?;
    let is_other_store = seeds.iter().any(|seed| seed.declared.store != plan.target.store);
    let checked = match other_target(&plan.target, &target) {
        Some(stale) => Err(stale),
        None if is_other_store => {
            Err(Error::new(ErrorKind::StalePlan, "the seeds are declared for another store than the plan's")
                .with_state("nothing was changed"))
        }
        None => seed::check(store, plan, seeds, &target).await,
    };
    let ground = match checked {
        Ok(ground) => ground,
        Err(error) => {
            return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), error).await);
        }
    };
    let permit = guard.permit(plan, &BackupEvidence::default(), &session.consent(approve)?).await?;
    let progress = session.printer.progress();
    let context = SeedContext { store, observer: progress.as_ref(), cancel: &session.cancel };
    let applied = seed::apply(&context, plan, seeds, &ground, &permit).await;
    session.printer.end_progress();
    let outcome = match &applied {
        Ok(report) => Outcome::Done { summary: summary(report), facts: json!(report) },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, applied, outcome).await?;
    Ok(session.printer.report(&Seeded(report)))
}

fn summary(report: &SeedReport) -> String {
    let inserted: u64 = report.seeds.iter().map(|seed| seed.written.inserted).sum();
    format!("wrote {} seeds, {} new rows", report.seeds.len(), Count(inserted))
}

/// `seed run --auto`: whatever need not be done is no failure, so that an application may begin with it.
async fn seed_automatically(manifest: &SeedManifest, session: &Session) -> Result<ExitStatus> {
    if !session.configuration.auto_seed {
        return Ok(session.printer.report(&Auto::Off));
    }
    let (kind, rule) = manifest.auto.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "nobody says who counts as a user of a new installation")
            .with_state("nothing was changed")
            .with_hint("add [auto] to the manifest of seeds, as docs/seeds.md says")
    })?;
    let seeds = manifest
        .seeds
        .iter()
        .filter(|seed| seed.is_automatic && seed.store == *kind)
        .map(|declared| manifest.load(declared))
        .collect::<Result<Vec<_>>>()?;
    let seeds: Vec<&Seed> = seeds.iter().collect();
    auto::check_automatic(&seeds)?;
    let store = session.seeds(*kind).await?;
    // Whoever begins where nothing is to be done is not judged for rows that people have changed since.
    if let Some(outcome) = auto::foregone(store.as_ref(), rule).await? {
        return Ok(session.printer.report(&Auto::Asked(outcome)));
    }
    let plan = planned(store.as_ref(), *kind, &seeds, session).await?;
    let repository = session.repository_or_create().await.context("open the audit log")?;
    let guard = session.guard(&repository);
    let outcome = claimed(&plan, &seeds, store.as_ref(), rule, &guard, session).await?;
    Ok(session.printer.report(&Auto::Asked(outcome)))
}

async fn claimed(
    plan: &Plan,
    seeds: &[&Seed],
    store: &dyn SeedTarget,
    rule: &NewcomerRule,
    guard: &Guard,
    session: &Session,
) -> Result<AutoOutcome> {
    let ground = store.ground().await?;
    let permitted = guard.permit(plan, &BackupEvidence::default(), &session.consent(None)?).await;
    let permit = permitted.map_err(|refusal| by_hand(seeds, refusal))?;
    let progress = session.printer.progress();
    let context = SeedContext { store, observer: progress.as_ref(), cancel: &session.cancel };
    // Two processes of one user are two, also in containers that share a host's name and number their processes alike.
    let holder = format!("{}#{} of {}", session.holder(), std::process::id(), session.clock.now());
    let ran = auto::run(&context, plan, seeds, &ground, rule, &holder, &permit).await;
    session.printer.end_progress();
    let outcome = match &ran {
        Ok(outcome) => Outcome::Done { summary: told(outcome), facts: json!(outcome) },
        Err(error) => Outcome::of_error(error),
    };
    close(guard, permit, ran, outcome).await
}

/// A refusal for want of somebody to ask, who types this.
fn by_hand(seeds: &[&Seed], refusal: Error) -> Error {
    let ids = seeds.iter().map(|seed| seed.declared.id.as_str()).collect::<Vec<_>>().join(" ");
    plan::by_kept_plan(&format!("type `mainstay seed run {ids} --output plan.json`"), "", refusal)
}

fn told(outcome: &AutoOutcome) -> String {
    match outcome {
        AutoOutcome::Seeded(report) => summary(report),
        AutoOutcome::InUse => "nothing was seeded: somebody uses this installation".to_owned(),
        AutoOutcome::Claimed { by } => format!("nothing was seeded: {by} is at it"),
        AutoOutcome::Done { by } => format!("nothing was seeded: {by} did it before"),
    }
}

enum Auto {
    Off,
    Asked(AutoOutcome),
}

impl Report for Auto {
    fn json(&self) -> Map<String, Value> {
        let outcome = match self {
            Self::Off => json!({"outcome": "off"}),
            Self::Asked(outcome) => json!(outcome),
        };
        Map::from_iter([("auto".to_owned(), outcome)])
    }

    fn text(&self, look: &Look) -> String {
        match self {
            Self::Off => "nothing was seeded: AUTO_SEED_ON_START is not set to true\n".to_owned(),
            Self::Asked(AutoOutcome::Seeded(report)) => rows_text(report, look),
            Self::Asked(outcome) => format!("{}\n", plain(&told(outcome), usize::MAX)),
        }
    }
}

struct Seeded(SeedReport);

impl Report for Seeded {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("seeds".to_owned(), json!(self.0.seeds))])
    }

    fn text(&self, look: &Look) -> String {
        rows_text(&self.0, look)
    }
}

fn rows_text(report: &SeedReport, look: &Look) -> String {
    let mut table = Table::new(&["SEED", "INTO", "NEW", "CHANGED", "GONE"]);
    for seed in &report.seeds {
        let count = |number: u64| Cell::right(Count(number).to_string());
        table.row(vec![
            Cell::new(seed.id.clone()),
            Cell::new(seed.into.clone()),
            count(seed.written.inserted),
            count(seed.written.changed),
            count(seed.written.removed),
        ]);
    }
    format!("{}{}\n", table.render(look), look.paint(Tone::Good, &format!("{}.", summary(report))))
}
