//! `pg slow`: the statements that cost most, with what to do about them.

use std::num::NonZeroU16;

use clap::Args;
use mainstay_engine::StatementRequest;
use mainstay_model::{ByteSize, Count, ExitStatus, Result};
use mainstay_ops::relational::statements::{self, StatementGroup, StatementReport};
use serde_json::{Map, Value, json};

use crate::commands::mongo::choice::LiteralArgs;
use crate::printer::shown::{duration, millis, plain};
use crate::printer::{Look, Report, Tone};
use crate::wiring::Session;

/// Arguments of `pg slow`.
#[derive(Debug, Args)]
pub(crate) struct SlowArgs {
    /// At most so many statements
    #[arg(long, value_name = "COUNT", default_value = "10")]
    limit: NonZeroU16,
    /// The statements of all databases, not only of the configured one
    #[arg(long)]
    all_databases: bool,
    #[command(flatten)]
    literals: LiteralArgs,
}

/// Reads and reckons.
///
/// # Errors
/// `Precondition` when the server does not keep statements; the server's.
pub(super) async fn run(args: &SlowArgs, session: &Session) -> Result<ExitStatus> {
    let (inspection, _) = session.relational()?;
    let request = StatementRequest { count_max: args.limit.get(), all_databases: args.all_databases };
    let report = statements::report(inspection.as_ref(), request, args.literals.literals()).await?;
    Ok(session.printer.report(&Shown(report)))
}

struct Shown(StatementReport);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        match json!(self.0) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let mut text = String::new();
        for (place, group) in report.groups.iter().enumerate() {
            text.push_str(&format!("{}\n", block(place + 1, group, look)));
        }
        text + &summary(report)
    }
}

fn summary(report: &StatementReport) -> String {
    if report.groups.is_empty() {
        return "no statement was counted yet\n".to_owned();
    }
    let since = report.since_seconds.map(|seconds| format!(" in {}", duration(seconds))).unwrap_or_default();
    let mut parts = vec![format!("all statements took {}{since}", millis(report.total_ms.round() as u64))];
    if report.groups_left_out > 0 {
        let all = report.groups.len() as u64 + report.groups_left_out;
        parts.push(format!("{} left out: --limit {all} shows all", Count(report.groups_left_out)));
    }
    if let Some(forgotten) = report.forgotten.filter(|forgotten| *forgotten > 0) {
        parts.push(format!(
            "rare ones were forgotten {} times: raise pg_stat_statements.max",
            Count(forgotten)
        ));
    }
    format!("{}\n", parts.join("; "))
}

fn block(place: usize, group: &StatementGroup, look: &Look) -> String {
    let database = group.database.as_deref().unwrap_or("a database that is gone");
    let user = group.user.as_deref().unwrap_or("a role that is gone");
    let title = format!("{place}. {:.1} % of the time, {database}, {user}", group.share * 100.0);
    let statement_max = if look.verbose { usize::MAX } else { 400 };
    let statement = match &group.statement {
        Some(statement) => plain(statement, statement_max),
        None => "a statement that this role may not see: grant it pg_monitor".to_owned(),
    };
    let mut text = format!("{}\n   {statement}\n", look.paint(Tone::Strong, &plain(&title, 200)));
    text.push_str(&format!(
        "   {} calls, {} in all, {:.1} ms on average, {:.1} ms at most; {:.1} rows each\n",
        Count(group.calls),
        millis(group.total_ms.round() as u64),
        group.mean_ms,
        group.max_ms,
        group.rows_per_call,
    ));
    let mut costs = Vec::new();
    if let Some(ratio) = group.hit_ratio {
        costs.push(format!("{:.1} % of blocks found in memory", ratio * 100.0));
    }
    if group.wal_bytes_per_call >= 1.0 {
        costs.push(format!("{} of WAL each", ByteSize(group.wal_bytes_per_call as u64)));
    }
    if group.temporary_blocks_per_call > 0.0 {
        costs.push(format!("{:.1} temporary blocks each", group.temporary_blocks_per_call));
    }
    if !costs.is_empty() {
        text.push_str(&format!("   {}\n", costs.join("; ")));
    }
    for advice in &group.advice {
        text.push_str(&format!("   {} {advice}\n", look.paint(Tone::Warn, "advice:")));
    }
    text
}
