//! `pg wal`: how fast WAL is written, whether it is archived, and what its directory holds.

use std::time::Duration;

use clap::Args;
use mainstay_model::{ByteSize, Count, ExitStatus, Result, Severity};
use mainstay_ops::relational::wal::{self, WalReport};
use serde_json::{Map, Value, json};

use crate::commands::findings;
use crate::commands::mongo::choice::parse_duration;
use crate::printer::shown::duration;
use crate::printer::{Look, Report, Table};
use crate::wiring::Session;

/// Arguments of `pg wal`.
#[derive(Debug, Args)]
pub(crate) struct WalArgs {
    /// How far apart the two looks are between which the rate is taken
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    over: Duration,
}

/// Looks and judges.
///
/// # Errors
/// The server's.
pub(super) async fn run(args: &WalArgs, session: &Session) -> Result<ExitStatus> {
    let (inspection, address) = session.relational()?;
    let report = wal::observe(inspection.as_ref(), &address, args.over).await?;
    Ok(session.printer.report(&Shown(report)))
}

struct Shown(WalReport);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        match json!(self.0) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let mut table = Table::new(&["", "NOW"]);
        let mut row = |name: &str, value: String| table.row(vec![name.into(), value.into()]);
        let written = if report.in_recovery { "replayed up to" } else { "written up to" };
        row(written, report.at.to_string());
        row("rate", format!("{}/s", ByteSize(report.bytes_per_second as u64)));
        let directory = match (report.directory_files, report.directory_bytes) {
            (Some(files), Some(bytes)) => format!(
                "{} in {} segments; a checkpoint begins at {}",
                ByteSize(bytes),
                Count(files),
                ByteSize(report.size_max_bytes)
            ),
            _ => "not to be seen by this role: grant it pg_monitor".to_owned(),
        };
        row("directory", directory);
        row("archiving", archiving(report));
        table.render(look) + &findings::text(&report.findings, look)
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.0.findings)
    }
}

fn archiving(report: &WalReport) -> String {
    if report.archive_mode == "off" {
        return "off".to_owned();
    }
    let last = match report.archived_seconds {
        None => "nothing archived yet".to_owned(),
        Some(seconds) => format!("{} segments, the last {} ago", Count(report.archived), duration(seconds)),
    };
    let waiting =
        report.archive_pending.map(|count| format!(", {} waiting", Count(count))).unwrap_or_default();
    let failures = match report.archive_failures {
        0 => String::new(),
        count => format!(", {} failed tries", Count(count)),
    };
    format!("{last}{waiting}{failures}")
}
