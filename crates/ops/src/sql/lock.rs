//! How a run gets its lock: by trying, with pauses that differ, for a bounded time.
//!
//! Never by waiting inside the server: a session that waits there has a snapshot, and the building of an index in the run that has the lock waits
//! for everybody's snapshots.

use std::time::Duration;

use mainstay_engine::MigrationRun;
use mainstay_model::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::progress::{jittered, pause};
use super::{SqlContext, called, span};

/// How long is waited between two tries, at most.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// Opens a run and takes its lock, for `wait_max` at most.
///
/// # Errors
/// `Locked` with who has it; `Precondition` behind a pooler that hands connections on between transactions; `Interrupted`; the server's.
pub async fn open<'a>(context: &SqlContext<'a>, wait_max: Duration) -> Result<Box<dyn MigrationRun + 'a>> {
    let run = context.target.open(context.table).await?;
    let deadline = Instant::now() + wait_max;
    let mut is_told = false;
    loop {
        let Some(holder) = run.try_lock().await? else { return Ok(run) };
        let since = holder
            .connected_micros
            .map(|micros| format!(", connected for {}", span(micros)))
            .unwrap_or_default();
        let who = format!("{}{since}", called(&holder));
        if Instant::now() >= deadline {
            return Err(Error::new(ErrorKind::Locked, format!("another run applies the migrations of {}: {who}", context.table))
                .with_state("nothing was changed")
                .with_hint("wait until it has ended, or for longer with `--wait 10m`; a run that was killed lets go when its server notices"));
        }
        if !is_told {
            context.observer.phase("wait for another run");
            context.observer.notice(&format!("another run applies migrations: {who}; waiting for it"));
            is_told = true;
        }
        if !pause(context.cancel, jittered(TRY_EVERY)).await {
            return Err(Error::new(ErrorKind::Interrupted, "waiting for another run was stopped on request")
                .with_state("nothing was changed"));
        }
    }
}
