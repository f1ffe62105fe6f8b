//! What `restore` does for Redis: a set and the stream behind it, sent to a server as its primary would; and what the captured stream allows.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use jiff::SignedDuration;
use mainstay_engine::{ReplicaTarget, WrittenAs};
use mainstay_guard::{Outcome, UNKNOWN_ENVIRONMENT};
use mainstay_model::{
    ByteSize, Count, EnvironmentClass, Error, ErrorKind, ExitStatus, Plan, Result, ResultExt, StoreKind,
    Target, Timestamp,
};
use mainstay_ops::replication::ranges::{ReplicationRanges, ServerStream};
use mainstay_ops::replication::remarks;
use mainstay_ops::replication::restore::{
    self, Expiry, KeysPlanContext, KeysRestoreContext, KeysRestoreReport, KeysRestoreRequest, SCRATCH,
};
use mainstay_ops::replication::seek::{ReplicationTarget, ReplicationWish, newest_set};
use mainstay_redis::RedisScratch;
use mainstay_repository::{Repository, Set};
use serde_json::{Map, Value, json};

use super::backup::log::damaged_text;
use super::restore::other_target;
use super::{close, cluster, plan};
use crate::printer::shown::{ago, moment};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// What becomes of moments of expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TtlArgument {
    /// They stay: what would have expired by now expires at once
    Keep,
    /// They move by the time from the moment to now: every key lives as long as it had left
    Shift,
}

/// A moment of Redis as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamMoment {
    Latest,
    Offset(u64),
    Time(Timestamp),
    Ago(SignedDuration),
}

impl FromStr for StreamMoment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Ok(offset) = text.parse() {
            return Ok(Self::Offset(offset));
        }
        if let Ok(time) = text.parse() {
            return Ok(Self::Time(time));
        }
        match text.parse::<SignedDuration>() {
            Ok(ago) if ago.is_negative() => Ok(Self::Ago(-ago)),
            _ => Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "`{text}` is no moment of redis: expected a time (`2026-11-25T19:00:00.5Z`), a replication offset (`48211`), \
                     how long ago (`5m ago`), or `latest`"
                ),
            )
            .with_state("nothing was changed")),
        }
    }
}

impl StreamMoment {
    fn target(self, now: Timestamp) -> Result<ReplicationTarget> {
        Ok(match self {
            Self::Latest => ReplicationTarget::Latest,
            Self::Offset(offset) => ReplicationTarget::Offset(offset),
            Self::Time(time) => ReplicationTarget::Time(time),
            Self::Ago(ago) => ReplicationTarget::Time(now.checked_sub(ago).map_err(|_| {
                Error::new(ErrorKind::Usage, "no stream goes back to that time")
                    .with_state("nothing was changed")
            })?),
        })
    }
}

/// What a restore of Redis is asked for.
pub(crate) struct Asked<'a> {
    /// The set that was named, if one was.
    pub(crate) named: Option<Set>,
    /// The moment that is the last.
    pub(crate) to: Option<&'a str>,
    /// The moment that is left out.
    pub(crate) before: Option<&'a str>,
    /// Where to: a throw-away server, when that is named; the configured one otherwise.
    pub(crate) into: Option<&'a str>,
    /// Keys that the server holds go.
    pub(crate) drop: bool,
    /// What becomes of moments of expiry.
    pub(crate) ttl: Option<TtlArgument>,
    /// All keys may cross a network without encryption.
    pub(crate) unencrypted: bool,
}

/// Decides a restore.
///
/// # Errors
/// The operation's; `Usage` for something that is no moment or no place.
pub(crate) async fn plan_restore(
    asked: Asked<'_>,
    repository: &Repository,
    session: &Session,
) -> Result<Plan> {
    let (target, server) = match asked.into {
        None => {
            let probe = session.probe(StoreKind::Redis).await?;
            let target = session.target(probe.as_ref()).await?;
            (target, Some(session.replica()?.replica_facts().await?))
        }
        Some(SCRATCH) => {
            let meaningless = [("drop", asked.drop), ("unencrypted", asked.unencrypted)];
            cluster::refuse(&meaningless, "a throw-away server")?;
            (scratch_target(session), None)
        }
        Some(other) => {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("`{other}` is no place for a database file of redis"),
            )
            .with_state("nothing was changed")
            .with_hint("use `--into scratch`, or name the server with --redis-url"));
        }
    };
    let now = session.clock.now();
    let whose = server.as_ref().map(|facts| facts.fingerprint.clone()).unwrap_or_default();
    let wish = |text: &str, inclusive: bool, set: Option<Set>| {
        let target = text.parse::<StreamMoment>()?.target(now)?;
        Ok::<_, Error>(ReplicationWish { set, target, inclusive, server: whose.clone(), stream: None })
    };
    let is_named = asked.named.is_some();
    let (wish, set) = match (asked.to, asked.before, asked.named) {
        (_, Some("latest"), _) => {
            return Err(Error::new(ErrorKind::Usage, "there is no moment just before the latest")
                .with_state("nothing was changed")
                .with_hint("restore `--to latest`, or name the offset that is to be left out"));
        }
        (_, Some(before), set) => (Some(wish(before, false, set)?), None),
        (Some(to), None, set) => (Some(wish(to, true, set)?), None),
        (None, None, Some(set)) => (None, Some(set)),
        (None, None, None) => (None, newest_set(repository, &whose).await?),
    };
    let expiry = match asked.ttl {
        None | Some(TtlArgument::Keep) => Expiry::Keep,
        Some(TtlArgument::Shift) => Expiry::Shift,
    };
    let Asked { drop, unencrypted, .. } = asked;
    let request = KeysRestoreRequest { server, wish, set, drop, expiry, unencrypted };
    let progress = session.printer.progress();
    let context = KeysPlanContext { repository, clock: session.clock.as_ref(), observer: progress.as_ref() };
    let mut plan = tokio::select! {
        plan = restore::plan(&context, target, request) => plan?,
        () = session.cancel.cancelled() => {
            return Err(Error::new(ErrorKind::Interrupted, "the plan was stopped on request")
                .with_state("nothing was changed"));
        }
    };
    remarks::tell(repository, &mut plan, is_named).await?;
    Ok(plan)
}

/// A throw-away server, for which the configuration alone says what environment it is of.
pub(crate) fn scratch_target(session: &Session) -> Target {
    let configured = session.configured_environment();
    Target {
        environment: configured.name.unwrap_or_else(|| UNKNOWN_ENVIRONMENT.to_owned()),
        class: configured.class.unwrap_or(EnvironmentClass::Production),
        store: StoreKind::Redis,
        fingerprint: SCRATCH.to_owned(),
        address: "a throw-away server".to_owned(),
    }
}

/// Carries out a stored plan.
///
/// # Errors
/// The operation's.
pub(crate) async fn apply_restore(
    plan: &Plan,
    approve: Option<&str>,
    session: &Session,
) -> Result<ExitStatus> {
    let began = Instant::now();
    let repository = session.repository().await?;
    let guard = session.guard(&repository);
    let (server, scratch): (Arc<dyn ReplicaTarget>, Option<RedisScratch>) =
        match plan.target.fingerprint == SCRATCH {
            true => {
                let scratch = session.redis_scratch().await?;
                (Arc::new(scratch.replica()?), Some(scratch))
            }
            false => {
                let replica = session.replica()?;
                // What an earlier run has left is the plan's server, though it may have lost its marker.
                let facts = replica.replica_facts().await?;
                if !restore::is_left_over(&repository, plan, &facts).await? {
                    let probe = session.probe(StoreKind::Redis).await?;
                    let target = session.target(probe.as_ref()).await?;
                    if let Some(stale) = other_target(&plan.target, &target) {
                        let hash = Some(plan.hash()?);
                        return Err(guard.refuse(&plan.operation, Some(&plan.target), hash, stale).await);
                    }
                }
                (replica, None)
            }
        };
    let evidence = restore::evidence(&repository, plan).await?;
    let permit = guard.permit(plan, &evidence, &session.consent(approve)?).await?;
    let progress = session.printer.progress();
    let context = KeysRestoreContext {
        server: server.as_ref(),
        repository: &repository,
        clock: session.clock.as_ref(),
        observer: progress.as_ref(),
        cancel: &session.cancel,
    };
    let restored = restore::apply(&context, plan, &permit).await;
    drop(progress);
    let outcome = match &restored {
        Ok(report) => Outcome::Done {
            summary: format!("restored {} keys of redis", report.keys()),
            facts: json!(report),
        },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, restored, outcome).await.context("restore redis")?;
    let is_scratch = scratch.is_some();
    if let Some(scratch) = scratch {
        scratch.end().await;
    }
    Ok(session.printer.report(&Restored {
        report,
        is_scratch,
        elapsed: began.elapsed(),
        flags: plan::flags(session),
    }))
}

struct Restored {
    report: KeysRestoreReport,
    is_scratch: bool,
    elapsed: Duration,
    /// How the server was named, for what comes next.
    flags: String,
}

impl Report for Restored {
    fn json(&self) -> Map<String, Value> {
        let Value::Object(mut fields) = json!(self.report) else { return Map::new() };
        fields.insert("keys".to_owned(), json!(self.report.keys()));
        fields.insert("scratch".to_owned(), json!(self.is_scratch));
        fields.insert("seconds".to_owned(), json!(self.elapsed.as_secs_f64()));
        fields
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.report;
        let mut table = Table::new(&["DB", "KEYS", "EXPIRE"]);
        for size in &report.databases {
            table.row(vec![
                Cell::right(size.database.to_string()),
                Cell::right(Count(size.keys).to_string()),
                Cell::right(Count(size.expiring).to_string()),
            ]);
        }
        let moment = report.moment.map_or_else(String::new, |at| format!(", {}", moment(at)));
        let shifted = match report.shifted_ms {
            None => "moments of expiry stayed: what had expired since then expires now".to_owned(),
            Some(by) => format!(
                "moments of expiry moved by {}",
                crate::printer::shown::duration(u64::try_from(by / 1000).unwrap_or(0))
            ),
        };
        let end = match self.is_scratch {
            true => "a throw-away server showed it and has ended: nothing else was changed\n".to_owned(),
            false => {
                format!("{}{}", marker_text(report.marked, &self.flags), written_text(report.written_as))
            }
        };
        format!(
            "{}{} {} keys as they were at offset {}{moment}\n  set {} ({}) and {} commands ({}) in {:.1} s, acknowledged to the last byte\n  {shifted}\n{end}",
            table.render(look),
            look.paint(Tone::Good, "restored"),
            Count(report.keys()),
            report.offset,
            report.set,
            ByteSize(report.file_bytes),
            Count(report.commands),
            ByteSize(report.stream_bytes),
            self.elapsed.as_secs_f64(),
        )
    }
}

/// Which environment the server is of now.
fn marker_text(marked: bool, flags: &str) -> String {
    match marked {
        true => {
            "  the environment's marker is the server's own, as before; that of the set is gone\n".to_owned()
        }
        false => format!(
            "  the server has no environment's marker, as before, and counts as production: `mainstay{flags} environment mark --store redis` \
             writes one\n"
        ),
    }
}

/// What a restart of the server would bring back.
fn written_text(written: Option<WrittenAs>) -> &'static str {
    match written {
        Some(WrittenAs::AppendOnlyFile) => "the server takes writes; its append-only file was made anew\n",
        Some(WrittenAs::Snapshot) => {
            "the server takes writes; a snapshot of it was made, and what comes from now on is kept as its own `save` says\n"
        }
        Some(WrittenAs::Nothing) | None => {
            "the server takes writes, but has not written this down, and a restart would lose it: its user may not have a snapshot made; \
             type `BGSAVE` on it\n"
        }
    }
}

/// What the captured streams allow: Redis's part of `backup list`. Nothing when nothing was captured.
pub(crate) fn ranges_text(streams: &ReplicationRanges, now: Timestamp, look: &Look) -> String {
    let mut text = String::new();
    for server in &streams.servers {
        let when = server
            .recovery_point_at
            .map_or_else(String::new, |at| format!(" ({}, {})", moment(at), ago(at, now)));
        text.push_str(&format!(
            "\n{} {} in {}: newest recovery point offset {}{when}\n",
            look.paint(Tone::Strong, "stream of"),
            server.server,
            server.environment,
            server.recovery_point,
        ));
        text.push_str(&ranges_table(server).render(look));
    }
    if !streams.damaged.is_empty() {
        text.push('\n');
        text.push_str(&damaged_text(&streams.damaged, look));
    }
    text
}

fn ranges_table(server: &ServerStream) -> Table {
    let mut table = Table::new(&["", "FROM OFFSET", "TO OFFSET", "LENGTH", ""]);
    let mut row = |what: &'static str, tone: Tone, from: String, ends: (u64, u64), why: String| {
        table.row(vec![
            Cell::new(what).tone(tone),
            from.into(),
            ends.1.to_string().into(),
            Cell::right(ByteSize(ends.1.saturating_sub(ends.0)).to_string()),
            why.into(),
        ]);
    };
    for range in &server.ranges {
        let from = format!("{} ({})", range.from, moment(range.from_at));
        row("restorable", Tone::Good, from, (range.from, range.through), format!("set {}", range.set));
    }
    for part in &server.without_set {
        let why = "take a backup: `mainstay backup create --store redis`".to_owned();
        row("no set", Tone::Warn, part.after.to_string(), (part.after, part.through), why);
    }
    for gap in &server.gaps {
        row("gap", Tone::Bad, gap.after.to_string(), (gap.after, gap.until), gap.why.clone());
    }
    table
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn every_form_means_one_moment() {
        let now: Timestamp = "2026-11-25T19:10:00Z".parse().unwrap();
        let at = |text: &str| ReplicationTarget::Time(text.parse().unwrap());
        for (text, expected) in [
            ("latest", ReplicationTarget::Latest),
            ("48211", ReplicationTarget::Offset(48_211)),
            ("2026-11-25T20:00:00.25+01:00", at("2026-11-25T19:00:00.25Z")),
            ("10m ago", at("2026-11-25T19:00:00Z")),
        ] {
            assert_eq!(text.parse::<StreamMoment>().unwrap().target(now).unwrap(), expected, "{text}");
        }
        for bad in ["", "in 5m", "-3", "2026-11-25T19:00:00", "0/3000028"] {
            assert_eq!(bad.parse::<StreamMoment>().unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }
}
