//! `pg bloat`: tables with dead rows and empty pages.

use std::num::NonZeroU16;

use clap::Args;
use mainstay_model::{ByteSize, Count, ExitStatus, Result, Severity};
use mainstay_ops::relational::tables::{self, TableReport};
use serde_json::{Map, Value, json};

use crate::commands::findings;
use crate::printer::shown::duration;
use crate::printer::{Cell, Look, Report, Table};
use crate::wiring::Session;

/// Arguments of `pg bloat`.
#[derive(Debug, Args)]
pub(crate) struct BloatArgs {
    /// At most so many tables
    #[arg(long, value_name = "COUNT", default_value = "20")]
    limit: NonZeroU16,
}

/// Reads and judges.
///
/// # Errors
/// The server's.
pub(super) async fn run(args: &BloatArgs, session: &Session) -> Result<ExitStatus> {
    let (inspection, _) = session.relational()?;
    let report = tables::observe(inspection.as_ref(), args.limit.get().into()).await?;
    Ok(session.printer.report(&Shown(report)))
}

struct Shown(TableReport);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("tables".to_owned(), json!(self.0.tables)),
            ("left_out".to_owned(), json!(self.0.left_out)),
            ("not_estimated".to_owned(), json!(self.0.not_estimated)),
            ("findings".to_owned(), json!(self.0.findings)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        if report.tables.is_empty() {
            return "the database has no tables\n".to_owned();
        }
        let mut table = Table::new(&[
            "TABLE",
            "SIZE",
            "INDEXES",
            "LIVE ROWS",
            "DEAD ROWS",
            "DEAD",
            "BLOAT",
            "OF IT",
            "VACUUMED",
            "BY ITSELF",
            "ANALYZED",
        ]);
        for one in &report.tables {
            let ago = |seconds: Option<u64>| {
                seconds.map_or("never".to_owned(), |seconds| format!("{} ago", duration(seconds)))
            };
            let (bloat, share) = match (one.bloat_bytes, one.bloat_ratio) {
                (Some(bytes), Some(ratio)) => {
                    (format!("~{}", ByteSize(bytes)), format!("{:.0} %", ratio * 100.0))
                }
                _ => ("-".to_owned(), "-".to_owned()),
            };
            table.row(vec![
                Cell::new(format!("{}.{}", one.schema, one.table)),
                Cell::right(ByteSize(one.bytes).to_string()),
                Cell::right(ByteSize(one.index_bytes).to_string()),
                Cell::right(Count(one.live_rows).to_string()),
                Cell::right(Count(one.dead_rows).to_string()),
                Cell::right(format!("{:.0} %", one.dead_ratio * 100.0)),
                Cell::right(bloat),
                Cell::right(share),
                Cell::new(ago(one.vacuumed_seconds)),
                Cell::new(ago(one.autovacuumed_seconds)),
                Cell::new(ago(one.analyzed_seconds)),
            ]);
        }
        let mut text = table.render(look);
        if report.left_out > 0 {
            text.push_str(&format!("{} tables left out: --limit shows more\n", report.left_out));
        }
        if report.not_estimated > 0 {
            text.push_str(&format!(
                "bloat of {} tables is not estimated: they were never analysed, or this role may not read them (pg_read_all_data)\n",
                report.not_estimated
            ));
        }
        text + &findings::text(&report.findings, look)
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.0.findings)
    }
}
