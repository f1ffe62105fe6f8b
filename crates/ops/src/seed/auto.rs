//! The seeding of a new installation by itself, when the application begins.
//!
//! Many processes of an application begin at once, and each may ask for this. One claims it in the database; the others are told so and go on.
//! It is done only where no user but administrators is: an installation that people use is never seeded by itself. A claim that was not ended
//! runs out, and the next one to ask goes on with what was begun, whoever is a user by then: the demo users may be its own. Begun it is when
//! whoever claimed it has found no users and said so by renewing the claim; before that the next one looks for itself. What was done once is done
//! for good. Never runs a destructive seed.

use mainstay_engine::{NewcomerRule, SeedClaim, SeedGround, SeedTarget};
use mainstay_guard::Permit;
use mainstay_model::{Error, ErrorKind, Plan, Result, ResultExt};
use serde::Serialize;

use super::apply::{SeedContext, SeedReport, SeededRows, write};
use super::declared::{Seed, SeedClass};

/// What came of the question whether to seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum AutoOutcome {
    /// It was done now.
    Seeded(SeedReport),
    /// Somebody uses the installation.
    InUse,
    /// Another process is at it.
    Claimed {
        /// Which.
        by: String,
    },
    /// It was done before.
    Done {
        /// By whom.
        by: String,
    },
}

/// Refuses what must not be done by itself.
///
/// # Errors
/// `Precondition` when a destructive seed is declared as automatic.
pub fn check_automatic(seeds: &[&Seed]) -> Result<()> {
    let Some(seed) = seeds.iter().find(|seed| seed.declared.class == SeedClass::Destructive) else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Precondition,
        format!("seed {} is destructive and declared as automatic", seed.declared.id),
    )
    .with_state("nothing was changed")
    .with_hint("take `automatic = true` from it: what replaces data is run by a person"))
}

/// What comes of the question, where looking is enough to tell: seeded before, or in use and claimed by nobody. `None` where it must be claimed.
///
/// # Errors
/// The store's.
pub async fn foregone(store: &dyn SeedTarget, rule: &NewcomerRule) -> Result<Option<AutoOutcome>> {
    // In this order: whoever makes users by seeding has claimed it before.
    let is_used = has_users(store, rule).await?;
    Ok(match store.claimed().await? {
        Some(SeedClaim::Done { by }) => Some(AutoOutcome::Done { by }),
        None if is_used => Some(AutoOutcome::InUse),
        _ => None,
    })
}

async fn has_users(store: &dyn SeedTarget, rule: &NewcomerRule) -> Result<bool> {
    store.has_users(rule).await.context("ask whether anybody uses this installation")
}

/// Claims the seeding and does it.
///
/// # Errors
/// `Refused` when `permit` is for another plan, or the marker is another one by now; `Locked` when the claim ran out while it was held; the
/// store's. The claim is given up unless the process is killed, so that the next may try.
pub async fn run(
    context: &SeedContext<'_>,
    plan: &Plan,
    seeds: &[&Seed],
    ground: &SeedGround,
    rule: &NewcomerRule,
    holder: &str,
    permit: &Permit,
) -> Result<AutoOutcome> {
    permit.covers(plan)?;
    check_automatic(seeds)?;
    let is_continued = match context.store.claim(holder, permit).await? {
        SeedClaim::Ours { is_continued } => is_continued,
        SeedClaim::Taken { by, .. } => return Ok(AutoOutcome::Claimed { by }),
        SeedClaim::Done { by } => return Ok(AutoOutcome::Done { by }),
    };
    let outcome = claimed(context, seeds, ground, rule, holder, is_continued, permit).await;
    let is_done = matches!(outcome, Ok(AutoOutcome::Seeded(_)));
    let ended = context.store.end_claim(holder, is_done, permit).await;
    let outcome = outcome?;
    ended?;
    Ok(outcome)
}

async fn claimed(
    context: &SeedContext<'_>,
    seeds: &[&Seed],
    ground: &SeedGround,
    rule: &NewcomerRule,
    holder: &str,
    is_continued: bool,
    permit: &Permit,
) -> Result<AutoOutcome> {
    // Asked behind the claim: whoever seeded a moment ago has made users.
    if !is_continued && has_users(context.store, rule).await? {
        return Ok(AutoOutcome::InUse);
    }
    renew(context, holder, permit).await?;
    let mut report = SeedReport::default();
    for seed in seeds {
        let written = write(context, seed, ground.marker.as_ref(), permit).await?;
        let (id, into) = (seed.declared.id.clone(), seed.declared.place.into.clone());
        report.seeds.push(SeededRows { id, into, written });
        renew(context, holder, permit).await?;
    }
    Ok(AutoOutcome::Seeded(report))
}

async fn renew(context: &SeedContext<'_>, holder: &str, permit: &Permit) -> Result<()> {
    match context.store.claim(holder, permit).await? {
        SeedClaim::Ours { .. } => Ok(()),
        SeedClaim::Taken { by, .. } | SeedClaim::Done { by } => Err(Error::new(
            ErrorKind::Locked,
            format!("the claim on the seeding ran out and is held by {by}"),
        )
        .with_state("rows that were written stay; none is there twice")),
    }
}
