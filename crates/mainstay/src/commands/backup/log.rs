//! What the captured change log allows: the ranges that `backup list` shows, and `backup log`, which finds what destroyed data.

use clap::Args;
use mainstay_model::{Count, ExitStatus, OpTime, Result, Severity, StoreKind, Timestamp};
use mainstay_mongo::OplogLens;
use mainstay_ops::recoverable::{DamagedChain, Recoverable, ServerLog};
use mainstay_ops::search::{self, Destruction, SearchReport, SearchRequest};
use serde_json::{Map, Value, json};

use crate::commands::moment::MomentArg;
use crate::printer::shown::{ago, duration, moment};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Arguments of `backup log`.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// From this moment on: a time (2026-11-23T00:55:02Z), an optime (1764500000:3), or how long ago ("5m ago")
    #[arg(long, value_name = "MOMENT")]
    since: Option<MomentArg>,
    /// Up to this moment
    #[arg(long, value_name = "MOMENT")]
    until: Option<MomentArg>,
    /// In this collection (database.collection) or database alone
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
}

/// Searches the log.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(args: LogArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let now = session.clock.now();
    let request = SearchRequest {
        since: args.since.map(|moment| moment.first(now)).transpose()?.flatten(),
        until: args.until.map(|moment| moment.last(now)).transpose()?.flatten(),
        namespace: args.namespace,
    };
    let report = search::search(&repository, &OplogLens, &request).await?;
    let has_streams = !repository.chains(StoreKind::Redis).await?.is_empty();
    Ok(session.printer.report(&Searched(report, Streams(has_streams))))
}

/// Whether streams of Redis are stored, which this search does not read.
struct Streams(bool);

struct Searched(SearchReport, Streams);

impl Report for Searched {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("found".to_owned(), json!(self.0.found)),
            ("more".to_owned(), json!(self.0.more)),
            ("slices".to_owned(), json!(self.0.slices)),
            ("damaged_chains".to_owned(), json!(self.0.damaged)),
            ("missing".to_owned(), json!(self.0.missing)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let found = &self.0.found;
        let Some(last) = found.last() else {
            let searched =
                format!("nothing was destroyed in the {} slices of MongoDB's log searched\n", self.0.slices);
            return searched + &self.unsearched(look) + self.elsewhere();
        };
        let mut table = Table::new(&["TIME", "OPTIME", "WHAT", "NAMESPACE", "COUNT", ""]);
        for destruction in found {
            table.row(cells(destruction));
        }
        let mut text = table.render(look);
        if self.0.more {
            text.push_str("there is more: narrow the search with --since, --until or --namespace\n");
        }
        // The newest is the likeliest to be the one that is looked for.
        text.push_str(&format!(
            "to bring back the moment just before one of them: mainstay restore plan --before {}\n",
            last.at
        ));
        text + &self.unsearched(look) + self.elsewhere()
    }

    fn exit_status(&self) -> ExitStatus {
        if self.0.is_whole() { ExitStatus::Ok } else { Severity::Critical.exit_status() }
    }
}

impl Searched {
    /// What tells of the logs that are not searched here.
    fn elsewhere(&self) -> &'static str {
        if self.1.0 { "what emptied databases of Redis: `mainstay redis flushes`\n" } else { "" }
    }

    /// What the search says nothing about, a line each.
    fn unsearched(&self, look: &Look) -> String {
        let mut text = damaged_text(&self.0.damaged, look);
        for hole in &self.0.missing {
            text.push_str(&format!(
                "{} {}: slices are {} between {} and {}\n",
                look.paint(Tone::Strong, "change log in chain"),
                hole.chain,
                look.paint(Tone::Bad, "MISSING"),
                hole.after,
                hole.through
            ));
        }
        if !text.is_empty() {
            text.push_str("what was destroyed there is not known\n");
        }
        text
    }
}

fn cells(destruction: &Destruction) -> Vec<Cell> {
    vec![
        moment(destruction.at.timestamp()).into(),
        destruction.at.to_string().into(),
        destruction.kind.name().into(),
        Cell::new(destruction.namespace.clone()),
        Cell::right(Count(destruction.count).to_string()),
        Cell::new(destruction.detail.clone()),
    ]
}

/// The log's part of `backup list`.
pub(crate) fn ranges_json(logs: &[ServerLog], now: Timestamp) -> Value {
    let one = |log: &ServerLog| {
        let mut value = json!(log);
        value["recovery_point_age_seconds"] = json!(log.recovery_point.age_seconds(now));
        value
    };
    logs.iter().map(one).collect()
}

/// The same for people; nothing when nothing was captured.
pub(crate) fn ranges_text(logs: &Recoverable, now: Timestamp, look: &Look) -> String {
    let mut text = String::new();
    for log in &logs.servers {
        text.push_str(&format!(
            "\n{} {} in {}: newest recovery point {} ({})\n",
            look.paint(Tone::Strong, "change log of"),
            log.server,
            log.environment,
            log.recovery_point,
            ago(log.recovery_point.timestamp(), now),
        ));
        let mut table = Table::new(&["", "FROM", "TO", "LENGTH", ""]);
        let mut rows: Vec<(OpTime, Vec<Cell>)> = Vec::new();
        for range in &log.ranges {
            rows.push((
                range.from,
                row("restorable", range.from, range.through, Tone::Good, &format!("set {}", range.set)),
            ));
        }
        for part in &log.without_set {
            rows.push((
                part.after,
                row(
                    "no set",
                    part.after,
                    part.through,
                    Tone::Warn,
                    "take a backup: `mainstay backup create`",
                ),
            ));
        }
        for gap in &log.gaps {
            rows.push((gap.after, row("gap", gap.after, gap.until, Tone::Bad, &gap.why)));
        }
        rows.sort_by_key(|(from, _)| *from);
        for (_, cells) in rows {
            table.row(cells);
        }
        text.push_str(&table.render(look));
    }
    if !logs.damaged.is_empty() {
        text.push('\n');
        text.push_str(&damaged_text(&logs.damaged, look));
    }
    text
}

/// Chains that nobody can read, a line each.
pub(crate) fn damaged_text(damaged: &[DamagedChain], look: &Look) -> String {
    let line = |chain: &DamagedChain| {
        format!(
            "{} {} with {} slices is {}: {}\n",
            look.paint(Tone::Strong, "change log in chain"),
            chain.chain,
            chain.slices,
            look.paint(Tone::Bad, "DAMAGED"),
            chain.damaged
        )
    };
    damaged.iter().map(line).collect()
}

fn row(what: &'static str, from: OpTime, to: OpTime, tone: Tone, why: &str) -> Vec<Cell> {
    vec![
        Cell::new(what).tone(tone),
        format!("{} ({from})", moment(from.timestamp())).into(),
        format!("{} ({to})", moment(to.timestamp())).into(),
        duration(u64::from(to.seconds.saturating_sub(from.seconds))).into(),
        why.to_owned().into(),
    ]
}
