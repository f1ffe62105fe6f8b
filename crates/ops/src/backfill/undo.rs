//! Bringing back: part by part, the newest first, what nobody has changed since.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures::future::join_all;
use mainstay_engine::{ClaimFor, UndoPart};
use mainstay_guard::Permit;
use mainstay_model::progress::Work;
use mainstay_model::{Count, Plan, Result};
use serde::Serialize;

use super::plan::BackfillParameters;
use super::run::{BackfillContext, Watch, claim, least, outcome, outlook};

/// How many that were left are listed.
const LISTED_MAX: usize = 10_000;

/// What was brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UndoReport {
    /// The backfill.
    pub id: String,
    /// The collection or table.
    pub place: String,
    /// How many this run brought back.
    pub restored: u64,
    /// How many this run left, because somebody has changed or removed them since.
    pub left: u64,
    /// Keys of all that were left, by this run and those before it; no more than 10,000.
    pub left_keys: Vec<String>,
    /// Whether it went on where another was.
    pub resumed: bool,
    /// How long it took.
    pub millis: u64,
}

/// Brings back what `plan` says.
///
/// # Errors
/// As [`run`](super::run()).
pub async fn undo(context: &BackfillContext<'_>, plan: &Plan, permit: &Permit) -> Result<UndoReport> {
    permit.covers(plan)?;
    let parameters = BackfillParameters::of(plan)?;
    let backfill = &parameters.declared.backfill;
    let hold = context.store.claim(backfill, &claim(context, plan, ClaimFor::Undo), permit).await?;
    let begun = Instant::now();
    context.observer.phase("bring back");
    let watch = Watch::new(context, &hold, &parameters);
    let (restored, left) = (AtomicU64::new(0), AtomicU64::new(0));
    let brought = async {
        let mut parts = context.store.undo_parts(backfill).await?;
        let entries = parts.iter().map(|part| part.entries).sum();
        context.observer.expect(Work { items: entries, bytes: 0 });
        // The newest is taken from the end.
        parts.reverse();
        let parts = Mutex::new(parts);
        let next = || -> Option<UndoPart> { parts.lock().unwrap_or_else(PoisonError::into_inner).pop() };
        let worker = async || -> Result<()> {
            while let Some(part) = next() {
                watch.ready().await?;
                let step = context.store.undo_part(backfill, &hold, &part, permit).await;
                let step = step.inspect_err(|_| watch.stop.cancel())?;
                restored.fetch_add(step.restored, Ordering::Relaxed);
                left.fetch_add(step.left, Ordering::Relaxed);
                context.observer.advance(Work { items: part.entries, bytes: 0 });
            }
            Ok(())
        };
        // Of what was changed by several walks the newest must come back first: one at a time, where there were several.
        let workers = if hold.round > 1 { 1 } else { parameters.workers.max(1) };
        outcome(join_all((0..workers).map(|_| worker())).await)
    };
    let brought = watch.beside(brought).await.and_then(|done| done);
    let (restored, left) = (restored.load(Ordering::Relaxed), left.load(Ordering::Relaxed));
    let released = context.store.release(&hold, brought.is_ok()).await;
    if let Err(error) = brought {
        let state = format!(
            "{}{} in {} are as they were before the backfill; the others are as it left them",
            least(&error),
            Count(restored),
            backfill.place()
        );
        return Err(outlook(error, state, format!("`mainstay backfill undo {}` goes on", backfill.id)));
    }
    released?;
    Ok(UndoReport {
        id: backfill.id.clone(),
        place: backfill.place(),
        restored,
        left,
        left_keys: context.store.left_behind(backfill, LISTED_MAX).await?,
        resumed: hold.resumed,
        millis: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}
