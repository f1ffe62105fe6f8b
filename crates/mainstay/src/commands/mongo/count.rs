//! `mongo count`: how many documents, and how that is known.

use std::time::Duration;

use clap::Args;
use mainstay_engine::CollectionKind;
use mainstay_model::{Count, Error, ErrorKind, ExitStatus, Result, StoreKind};
use mainstay_ops::statistics::{self, CountOptions, CountRow, Counted};
use serde_json::{Map, Value, json};

use super::choice::{CollectionArgs, parse_duration};
use crate::printer::{Cell, Look, Report, Table, Tone, problem_json};
use crate::wiring::Session;

/// Arguments of `mongo count`.
#[derive(Debug, Args)]
pub(crate) struct CountArgs {
    #[command(flatten)]
    collections: CollectionArgs,
    /// Count what matches this query alone, Extended JSON; needs a NAMESPACE
    #[arg(long, value_name = "EJSON")]
    query: Option<String>,
    /// Count one by one instead of reading the estimate that the server keeps
    #[arg(long)]
    exact: bool,
    /// The longest that counting one collection may take; 0s for as long as it takes
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    max_time: Duration,
}

/// Counts.
///
/// # Errors
/// `Usage` for a query without a collection, or one that is no Extended JSON; `Precondition` when a name matches nothing; the server's.
pub(crate) async fn run(args: CountArgs, session: &Session) -> Result<ExitStatus> {
    if args.query.is_some() && args.collections.namespaces.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "a query needs a collection to be asked of")
            .with_hint("name it: `mainstay mongo count shop.users --query '{\"role\": \"buyer\"}'`"));
    }
    let documents = session.documents(StoreKind::Mongo).await?;
    let options = CountOptions { exact: args.exact, query: args.query, time_max: args.max_time };
    let rows = statistics::count(
        documents.source.as_ref(),
        documents.inspection.as_ref(),
        &args.collections.selection(session),
        &options,
    )
    .await?;
    Ok(session.printer.report(&Counts(rows)))
}

struct Counts(Vec<CountRow>);

impl Counts {
    /// The sum of what is known; `None` when a row is not.
    fn total(&self) -> Option<u64> {
        let of = |row: &CountRow| match row.documents {
            Counted::Estimate(documents) | Counted::Exact(documents) => Some(documents),
            Counted::Unknown | Counted::Failed(_) => None,
        };
        self.0.iter().map(of).sum()
    }
}

impl Report for Counts {
    fn json(&self) -> Map<String, Value> {
        let row = |row: &CountRow| {
            let (documents, counted, error) = match &row.documents {
                Counted::Estimate(documents) => (Some(*documents), "estimate", None),
                Counted::Exact(documents) => (Some(*documents), "exact", None),
                Counted::Unknown => (None, "unknown", None),
                Counted::Failed(error) => (None, "failed", Some(problem_json(error))),
            };
            json!({
                "namespace": row.namespace.to_string(), "kind": row.kind, "documents": documents, "counted": counted, "error": error,
            })
        };
        Map::from_iter([
            ("collections".to_owned(), self.0.iter().map(row).collect()),
            ("documents".to_owned(), json!(self.total())),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let mut table = Table::new(&["COLLECTION", "DOCUMENTS", "COUNTED"]);
        for row in &self.0 {
            let number = |documents: u64| Cell::right(Count(documents).to_string());
            let (documents, how) = match &row.documents {
                Counted::Estimate(documents) => (number(*documents), "estimate".into()),
                Counted::Exact(documents) => (number(*documents), "one by one".into()),
                Counted::Unknown => {
                    let what = match row.kind {
                        CollectionKind::TimeSeries => "time series: --exact counts its measurements",
                        _ => "view: --exact runs it",
                    };
                    (Cell::right("-"), Cell::new(what).tone(Tone::Faint))
                }
                Counted::Failed(error) => (Cell::right("-"), Cell::new(error.to_string()).tone(Tone::Bad)),
            };
            table.row(vec![row.namespace.to_string().into(), documents, how]);
        }
        if let (Some(total), true) = (self.total(), self.0.len() > 1) {
            table.row(vec![Cell::new("all").tone(Tone::Strong), Cell::right(Count(total).to_string())]);
        }
        table.render(look)
    }

    fn exit_status(&self) -> ExitStatus {
        let failed = self.0.iter().any(|row| matches!(row.documents, Counted::Failed(_)));
        if failed { ExitStatus::Failed } else { ExitStatus::Ok }
    }
}
