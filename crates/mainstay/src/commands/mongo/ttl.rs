//! `mongo ttl`: what expires, how far behind the server is, what never will.

use std::time::Duration;

use clap::Args;
use mainstay_indexes::{rounded_span, span};
use mainstay_model::{Count, ExitStatus, Result, Severity, StoreKind};
use mainstay_ops::index::ttl::{self, TtlReport, TtlRow};
use serde_json::{Map, Value, json};

use super::choice::parse_duration;
use crate::commands::findings;
use crate::commands::index::PlaceArgs;
use crate::printer::{Cell, Look, Report, Table, Tone, problem_json};
use crate::wiring::Session;

/// Arguments of `mongo ttl`.
#[derive(Debug, Args)]
pub(crate) struct TtlArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The longest that the server may count for one index
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    max_time: Duration,
}

/// Looks.
///
/// # Errors
/// `Precondition` when a collection is not there; the server's.
pub(crate) async fn run(args: TtlArgs, session: &Session) -> Result<ExitStatus> {
    let database = args.place.database(session)?;
    let documents = session.documents(StoreKind::Mongo).await?;
    let (indexes, names) = (documents.indexes.as_ref(), &args.place.collection);
    let report = ttl::ttl(indexes, &database, names, args.max_time, &session.cancel).await?;
    Ok(session.printer.report(&Ttl { report }))
}

struct Ttl {
    report: TtlReport,
}

impl Report for Ttl {
    fn json(&self) -> Map<String, Value> {
        let row = |row: &TtlRow| {
            let counts = match &row.counts {
                Ok(counts) => json!({
                    "overdue": counts.overdue, "oldest": counts.oldest, "lag_seconds": row.lag_seconds(self.report.now),
                    "not_dates": counts.not_dates, "arrays": counts.arrays, "missing": counts.missing,
                }),
                Err(error) => json!({ "error": problem_json(error) }),
            };
            json!({
                "namespace": row.namespace.to_string(), "index": row.index, "field": row.field,
                "seconds": row.seconds, "never": row.is_never(), "filter": row.filter, "hidden": row.hidden,
                "counts": counts,
            })
        };
        Map::from_iter([
            ("monitor".to_owned(), json!(self.report.monitor)),
            ("indexes".to_owned(), self.report.rows.iter().map(row).collect()),
            ("findings".to_owned(), json!(self.report.findings)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let mut table =
            Table::new(&["INDEX", "AFTER", "OVERDUE", "BEHIND", "NO DATE", "ARRAYS", "WITHOUT", ""]);
        for row in &self.report.rows {
            let name = Cell::new(format!("{}.{}", row.namespace.collection, row.index));
            let after = match (row.is_never(), u64::try_from(row.seconds)) {
                (false, Ok(seconds)) => span(seconds),
                _ => "never".to_owned(),
            };
            let mut cells = vec![name, Cell::right(after)];
            match &row.counts {
                Ok(counts) => {
                    let number = |count: u64| Cell::right(Count(count).to_string());
                    let behind =
                        row.lag_seconds(self.report.now).map_or_else(|| "-".to_owned(), rounded_span);
                    cells.extend([number(counts.overdue), Cell::right(behind)]);
                    cells.extend([counts.not_dates, counts.arrays, counts.missing].map(number));
                }
                Err(_) => cells.extend((0..5).map(|_| Cell::right("?"))),
            }
            let about = match (&row.counts, &row.filter, row.hidden) {
                (Err(error), ..) => error.message().to_owned(),
                (_, Some(filter), _) => format!("of those that match {filter}"),
                (_, None, true) => "hidden, and deletes still".to_owned(),
                _ => String::new(),
            };
            cells.push(Cell::new(about).tone(Tone::Faint));
            table.row(cells);
        }
        let mut text = table.render(look);
        if let Some(monitor) = &self.report.monitor {
            let pause =
                monitor.sleep_seconds.map_or_else(String::new, |sleep| format!(", every {}", span(sleep)));
            text.push_str(&format!(
                "monitor of {}: {} passes{pause}, {} documents deleted in {}\n",
                monitor.member,
                Count(monitor.passes),
                Count(monitor.deleted),
                rounded_span(monitor.uptime_seconds)
            ));
        }
        if self.report.rows.is_empty() {
            text.push_str("no documents expire by an index\n");
        }
        text.push_str(&findings::text(&self.report.findings, look));
        text
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.report.findings)
    }
}
