//! `backfill list|preview|verify`: what is declared, what has run, what it would do, what is left. Changes nothing.

use std::time::Duration;

use clap::Args;
use mainstay_engine::{BackfillRemains, TrialWay};
use mainstay_model::{ExitStatus, Result, StoreKind};
use mainstay_ops::backfill::DeclaredBackfill;

use super::declared;
use super::view::{Listed, Previewed, Verified};
use crate::wiring::Session;

/// How long counting may take for a preview.
const COUNT_TIME_MAX: Duration = Duration::from_secs(30);

/// Arguments of `backfill list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {}

/// Arguments of `backfill preview`.
#[derive(Debug, Args)]
pub(crate) struct PreviewArgs {
    /// Which one
    #[arg(value_name = "ID")]
    id: String,
    /// Show so many documents or rows
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    count: u32,
}

/// Arguments of `backfill verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Which one; all that are declared when left out
    #[arg(value_name = "ID")]
    id: Option<String>,
}

/// Runs `backfill list`.
///
/// # Errors
/// `Config` when a declaration is faulty; the stores'.
pub(super) async fn list(_args: &ListArgs, session: &Session) -> Result<ExitStatus> {
    let declared = session.declared_backfills()?;
    let is_meant = |kind: &StoreKind| match declared.is_empty() {
        true => *kind != StoreKind::Redis,
        false => declared.iter().any(|one| one.store() == *kind),
    };
    let (mut runs, mut history) = (Vec::new(), Vec::new());
    for kind in session.configuration.stores().into_iter().filter(is_meant) {
        let store = session.backfill_store(kind).await?;
        runs.extend(store.runs().await?);
        history.extend(store.history().await?);
    }
    Ok(session.printer.report(&Listed { declared, runs, history, now: session.clock.now() }))
}

/// Runs `backfill preview`.
///
/// # Errors
/// `NotFound` when it is not declared; the store's.
pub(super) async fn preview(args: &PreviewArgs, session: &Session) -> Result<ExitStatus> {
    let (declared, store) = declared(&args.id, session).await?;
    let look = store.look(&declared.backfill, COUNT_TIME_MAX).await?;
    let trial = store.try_out(&declared.backfill, args.count, TrialWay::Gentle).await?;
    Ok(session.printer.report(&Previewed { declared, look, trial }))
}

/// Runs `backfill verify`.
///
/// # Errors
/// `NotFound` when it is not declared; the store's.
pub(super) async fn verify(args: &VerifyArgs, session: &Session) -> Result<ExitStatus> {
    let mut verified: Vec<(DeclaredBackfill, BackfillRemains)> = Vec::new();
    let ids: Vec<String> = match &args.id {
        Some(id) => vec![id.clone()],
        None => session.declared_backfills()?.into_iter().map(|one| one.backfill.id).collect(),
    };
    for id in ids {
        let (declared, store) = declared(&id, session).await?;
        let remains = store.remains(&declared.backfill).await?;
        verified.push((declared, remains));
    }
    Ok(session.printer.report(&Verified(verified)))
}
