//! Rows written, batch by batch, after a last look.

use mainstay_engine::{SEED_BATCH_MAX, SeedGround, SeedTarget, SeedWriting, SeedWritten};
use mainstay_guard::{Marker, Permit};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Count, Error, ErrorKind, Plan, Result, ResultExt, Target};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::OPERATION;
use super::declared::Seed;
use super::plan::{PlannedSeed, SeedParameters, assumptions, look, worst_operation};

/// What writing seeds works with.
pub struct SeedContext<'a> {
    /// The store.
    pub store: &'a dyn SeedTarget,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops between two batches.
    pub cancel: &'a CancellationToken,
}

/// What was done with one seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeededRows {
    /// The seed.
    pub id: String,
    /// Where it went.
    pub into: String,
    /// What was written.
    #[serde(flatten)]
    pub written: SeedWritten,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SeedReport {
    /// By seed, in the order of the plan.
    pub seeds: Vec<SeededRows>,
}

/// Looks again, and refuses when anything is otherwise than `plan` took for granted, or may no longer be. `seeds` are those of the plan, in its
/// order. Gives what the database says of itself.
///
/// # Errors
/// `Refused`, `StalePlan`; as [`plan`](super::plan()).
pub async fn check(
    store: &dyn SeedTarget,
    plan: &Plan,
    seeds: &[&Seed],
    target: &Target,
) -> Result<SeedGround> {
    let ground = store.ground().await?;
    // What can never be is told before what has merely moved; and a plan that was edited must not do what planning refuses.
    for seed in seeds {
        seed.declared.class.check_allowed(&seed.declared.id, target, ground.marker.as_ref())?;
    }
    let mut now = Vec::new();
    for seed in seeds {
        now.push(look(store, seed).await?);
    }
    plan.check_assumptions(&assumptions(target, &ground, &now))?;
    check_same(plan, &now)?;
    Ok(ground)
}

/// Refuses a plan whose parameters are not what planning would decide now: the operation that was judged is the one that is done.
fn check_same(plan: &Plan, now: &[PlannedSeed]) -> Result<()> {
    let parameters = SeedParameters::of(plan)?;
    let is_same = |(planned, found): (&PlannedSeed, &PlannedSeed)| {
        (&planned.id, planned.class, &planned.place, planned.blake3)
            == (&found.id, found.class, &found.place, found.blake3)
    };
    let is_as_planned = parameters.seeds.len() == now.len()
        && parameters.seeds.iter().zip(now).all(is_same)
        && worst_operation(now) == plan.operation;
    match is_as_planned {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::StalePlan, "the seeds are declared otherwise than the plan says")
            .with_state("nothing was changed")
            .with_hint("make the plan again and review it")),
    }
}

/// Writes the seeds of `plan` as [`check`] found the database.
///
/// # Errors
/// `Refused` when `permit` is for another plan, or the marker is another one by now; `Interrupted` between two batches; the store's, with what
/// was written until then. Running the same seeds again writes what is missing.
pub async fn apply(
    context: &SeedContext<'_>,
    plan: &Plan,
    seeds: &[&Seed],
    ground: &SeedGround,
    permit: &Permit,
) -> Result<SeedReport> {
    permit.covers(plan)?;
    let mut report = SeedReport::default();
    for seed in seeds {
        let written = write(context, seed, ground.marker.as_ref(), permit).await;
        let written = written.map_err(|error| with_written(error, &report))?;
        let (id, into) = (seed.declared.id.clone(), seed.declared.place.into.clone());
        report.seeds.push(SeededRows { id, into, written });
    }
    Ok(report)
}

/// Writes one seed, whole.
///
/// # Errors
/// `Refused` when it may not be written under that marker; as [`apply`].
pub(super) async fn write(
    context: &SeedContext<'_>,
    seed: &Seed,
    under: Option<&Marker>,
    permit: &Permit,
) -> Result<SeedWritten> {
    let (declared, rows) = (&seed.declared, &seed.file.rows);
    // The adapter compares with `under`, so it must itself allow what is written.
    declared.class.check_allowed(&declared.id, permit.target(), under)?;
    context.observer.phase(&format!("seed {}", declared.id));
    context.observer.expect(Work { items: rows.len() as u64, bytes: 0 });
    // Under a permit that only adds nothing changes, whatever has become different since it was looked at.
    let writing = match declared.class.writing() {
        SeedWriting::Upsert if permit.operation() == OPERATION => SeedWriting::Insert,
        writing => writing,
    };
    let size = if writing == SeedWriting::Replace { rows.len().max(1) } else { SEED_BATCH_MAX };
    // A seed without rows empties what it replaces.
    let batches =
        rows.chunks(size).chain((rows.is_empty() && writing == SeedWriting::Replace).then_some(&[][..]));
    let mut written = SeedWritten::default();
    for batch in batches {
        if context.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, format!("stopped while seeding {}", declared.id))
                .with_state(format!(
                    "{} of {} rows are written",
                    Count(written.inserted),
                    Count(rows.len() as u64)
                ))
                .with_hint("run the same command again; it writes what is missing"));
        }
        let part = context.store.write(&declared.place, batch, writing, under, permit).await;
        written += part.with_context(|| format!("write seed {}", declared.id))?;
        context.observer.advance(Work { items: batch.len() as u64, bytes: 0 });
    }
    Ok(written)
}

fn with_written(error: Error, report: &SeedReport) -> Error {
    let state = error.state().unwrap_or("the seed that failed may be written in part").to_owned();
    if report.seeds.is_empty() {
        return error.with_state(state);
    }
    let done = report.seeds.iter().map(|seed| seed.id.as_str()).collect::<Vec<_>>().join(", ");
    error.with_state(format!("written whole: {done}; {state}"))
}
