//! Sessions that have read the tracking table, and may be about to act on what it said: other runners.
//!
//! They are let go on first. One that ends has done what it came for; one that is in no transaction for a while only looked. What is seen
//! of the table afterwards is what they left.

use std::collections::BTreeSet;
use std::time::Duration;

use mainstay_engine::{BackendId, LockHolder, MigrationRun};
use mainstay_model::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::progress::pause;
use super::{SqlContext, called, span};

/// For how long a session that has read the tracking table must be in no transaction to count as one that does nothing about it.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long such a session is waited for at least, whatever is said of locks.
const TIME_MIN: Duration = Duration::from_secs(10);

/// When somebody is waited for no longer who has been since `began`, where a lock is tried for `retry_for`.
pub(super) fn deadline(began: Instant, retry_for: Duration) -> Instant {
    began + retry_for.max(TIME_MIN)
}

/// The texts that another runner would send first, if it has begun with these migrations.
pub(super) fn texts<'t>(context: &SqlContext<'_>, tags: impl Iterator<Item = &'t str>) -> Vec<String> {
    let tags: BTreeSet<&str> = tags.collect();
    let migrations = context.folder.migrations.iter().filter(|found| tags.contains(found.tag.as_str()));
    let chunks = migrations.flat_map(|migration| migration.chunks());
    chunks.filter(|chunk| !chunk.text.trim().is_empty()).map(|chunk| chunk.text).collect()
}

/// Says that other runners could not be seen, where that is so.
///
/// # Errors
/// The server's.
pub(super) async fn tell_hidden(context: &SqlContext<'_>, run: &dyn MigrationRun) -> Result<()> {
    let count = run.hidden().await?;
    if count > 0 {
        context.observer.notice(&format!(
            "{count} sessions of other roles that may write into {} do not show what they do: let no other runner be among them, or grant `pg_read_all_stats`",
            context.table
        ));
    }
    Ok(())
}

/// Waits until `sessions`, which have read the table (`how`), are gone or have been in no transaction for a while. Gives the latter.
///
/// # Errors
/// `Locked` at the deadline, naming them; `Interrupted`; the server's.
pub(super) async fn let_go_on(
    context: &SqlContext<'_>,
    run: &dyn MigrationRun,
    (sessions, how): (&[LockHolder], &str),
    deadline: Instant,
) -> Result<Vec<BackendId>> {
    let names: Vec<String> = sessions.iter().map(told).collect();
    let names = names.join("; ");
    let table = context.table;
    context
        .observer
        .notice(&format!("{names} {how} {table}: it may be another runner, and is let go on first"));
    let mut quiet_since = Instant::now();
    loop {
        if Instant::now() >= deadline {
            return Err(still_at_it(context, run, sessions, &names).await);
        }
        let there = run.still_there(sessions).await?;
        if there.iter().any(|(_, is_busy)| *is_busy) {
            quiet_since = Instant::now();
        }
        if there.is_empty() || quiet_since.elapsed() >= SETTLED_AFTER {
            return Ok(there.into_iter().map(|(session, _)| session.id).collect());
        }
        if !pause(context.cancel, LOOK_EVERY).await {
            return Err(Error::new(
                ErrorKind::Interrupted,
                "waiting for another runner was stopped on request",
            )
            .with_hint("the same command goes on"));
        }
    }
}

/// The error of sessions that were waited for in vain.
async fn still_at_it(
    context: &SqlContext<'_>,
    run: &dyn MigrationRun,
    sessions: &[LockHolder],
    names: &str,
) -> Error {
    // Whom to end: one that is at something, if it is still known which.
    let there = run.still_there(sessions).await.unwrap_or_default();
    let busy = there.iter().find(|(_, is_busy)| *is_busy).map(|(session, _)| session.id.pid);
    let hint = match busy.or_else(|| sessions.first().map(|session| session.id.pid)) {
        Some(pid) => format!(
            "let it end, then run the same command again, or end it: `mainstay pg activity --terminate {pid}`"
        ),
        None => "run the same command again".to_owned(),
    };
    let message = format!(
        "{names} has read {} before this run had it, and may apply the same migrations",
        context.table
    );
    Error::new(ErrorKind::Locked, message).with_hint(hint)
}

/// A session, and for how long it has been connected.
fn told(session: &LockHolder) -> String {
    let since = session.connected_micros.map(|micros| format!(", connected for {}", span(micros)));
    format!("{}{}", called(session), since.unwrap_or_default())
}
