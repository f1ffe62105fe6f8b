//! `mongo slow`: slow operations by shape, with what to do about them.

use std::num::NonZeroU16;

use clap::Args;
use jiff::SignedDuration;
use mainstay_engine::SlowSource;
use mainstay_model::{Count, ExitStatus, Result, StoreKind, Timestamp};
use mainstay_ops::slow::{self, ENTRIES_MAX, SlowGroup, SlowQuery, SlowReport};
use serde_json::{Map, Value, json};

use super::choice::{DatabaseArgs, LiteralArgs, parse_duration};
use crate::printer::shown::{ago, millis, plain};
use crate::printer::{Look, Report, Tone};
use crate::wiring::Session;

/// Arguments of `mongo slow`.
#[derive(Debug, Args)]
pub(crate) struct SlowArgs {
    #[command(flatten)]
    databases: DatabaseArgs,
    /// None older than this: a length of time such as 2h, or a moment such as 2026-11-25T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// At most so many shapes
    #[arg(long, value_name = "COUNT", default_value = "10")]
    limit: NonZeroU16,
    #[command(flatten)]
    literals: LiteralArgs,
}

/// How far back.
#[derive(Debug, Clone, Copy)]
enum Since {
    Ago(SignedDuration),
    Moment(Timestamp),
}

fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(Since::Moment(moment));
    }
    let length = parse_duration(text).ok().and_then(|length| SignedDuration::try_from(length).ok());
    length
        .map(Since::Ago)
        .ok_or_else(|| "expected a length of time (2h) or a moment (2026-11-25T08:00:00Z)".to_owned())
}

/// Reads and groups.
///
/// # Errors
/// `Usage` for the server's own databases; `Precondition` for one that does not exist; the server's.
pub(crate) async fn run(args: SlowArgs, session: &Session) -> Result<ExitStatus> {
    let documents = session.documents(StoreKind::Mongo).await?;
    let now = session.clock.now();
    let since = args.since.map(|since| match since {
        Since::Ago(length) => now.checked_sub(length).unwrap_or(Timestamp::MIN),
        Since::Moment(moment) => moment,
    });
    let query = SlowQuery { since, groups_max: args.limit.get().into(), literals: args.literals.literals() };
    let databases = args.databases.selection(session).database_names(documents.source.as_ref()).await?;
    let report = slow::report(documents.inspection.as_ref(), &databases, &query).await?;
    Ok(session.printer.report(&Shown { report, now }))
}

struct Shown {
    report: SlowReport,
    now: Timestamp,
}

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let report = &self.report;
        let sources: Vec<Value> = report
            .sources
            .iter()
            .map(|(database, source)| json!({"database": database, "source": source}))
            .collect();
        let group = |group: &SlowGroup| {
            let mut value = json!(group);
            value["mean_ms"] = json!(group.mean_ms());
            value["examined_per_returned"] = json!(group.examined_ratio());
            value
        };
        Map::from_iter([
            ("sources".to_owned(), json!(sources)),
            ("operations".to_owned(), json!(report.operations)),
            ("unreadable".to_owned(), json!(report.unreadable)),
            ("more".to_owned(), json!(report.more)),
            ("groups".to_owned(), report.groups.iter().map(group).collect()),
            ("groups_left_out".to_owned(), json!(report.groups_left_out)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.report;
        let mut text = String::new();
        for (database, source) in &report.sources {
            let source = match source {
                SlowSource::Profiler => "its profiler",
                SlowSource::Log => "the server's last log lines, for its profiler recorded nothing",
            };
            text.push_str(&format!("{} {database}: {source}\n", look.paint(Tone::Faint, "looked at:")));
        }
        for (place, group) in report.groups.iter().enumerate() {
            text.push_str(&format!("\n{}", block(place + 1, group, self.now, look)));
        }
        text.push_str(&format!("\n{}", self.summary()));
        text
    }
}

impl Shown {
    fn summary(&self) -> String {
        let report = &self.report;
        if report.operations == 0 {
            return "no slow operations; `mainstay mongo profile set DATABASE --level 1 --slow-ms 100 --for 30m` records some\n".to_owned();
        }
        let shapes = report.groups.len() + report.groups_left_out;
        let mut parts = vec![format!("{} slow operations of {shapes} shapes", Count(report.operations))];
        if report.groups_left_out > 0 {
            parts.push(format!("{} shapes left out: --limit {shapes} shows all", report.groups_left_out));
        }
        if report.more {
            parts.push(format!(
                "only the newest {} entries of a database were read",
                Count(ENTRIES_MAX.into())
            ));
        }
        if report.unreadable > 0 {
            parts.push(format!("{} entries could not be read", Count(report.unreadable)));
        }
        format!("{}\n", parts.join("; "))
    }
}

fn block(place: usize, group: &SlowGroup, now: Timestamp, look: &Look) -> String {
    let title = format!("{place}. {} {}", group.namespace, group.shape.verb);
    let title = look.paint(Tone::Strong, &plain(&title, 300));
    let mut text = format!("{}\n", format!("{title} {}", group.shape.text).trim_end());
    let times = match group.count {
        1 => "once".to_owned(),
        count => format!("{} times", Count(count)),
    };
    let batches = match group.batches {
        0 => String::new(),
        batches => format!(" and {} more batches", Count(batches)),
    };
    text.push_str(&format!(
        "   {times}{batches}, {} in all, {} on average, {} at most; last {}\n",
        millis(group.total_ms),
        millis(group.mean_ms().round() as u64),
        millis(group.max_ms),
        ago(group.last_at, now),
    ));
    if group.documents_examined + group.keys_examined > 0 {
        text.push_str(&format!(
            "   examined {} documents and {} keys for {} returned or changed ({:.0} : 1)\n",
            Count(group.documents_examined),
            Count(group.keys_examined),
            Count(group.returned),
            group.examined_ratio(),
        ));
    }
    let mut how = Vec::new();
    if !group.plans.is_empty() {
        how.push(format!("plan {}", plain(&group.plans.join(" | "), 300)));
    }
    if group.sorted > 0 {
        how.push("sorts in memory".to_owned());
    }
    if group.used_disk > 0 {
        how.push("writes to disk".to_owned());
    }
    if let Some(hash) = &group.query_hash {
        how.push(format!("query hash {}", plain(hash, 40)));
    }
    if !group.app_names.is_empty() {
        how.push(format!("from {}", plain(&group.app_names.join(", "), 200)));
    }
    if !how.is_empty() {
        text.push_str(&format!("   {}\n", how.join("; ")));
    }
    for advice in &group.advice {
        text.push_str(&format!(
            "   {} {}  [{}]\n",
            look.paint(Tone::Warn, "advice:"),
            advice.message,
            advice.id
        ));
        for command in &advice.commands {
            text.push_str(&format!("           {command}\n"));
        }
    }
    text
}
