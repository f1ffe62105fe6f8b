//! `index drift`: what is there against what is declared.

use clap::Args;
use mainstay_indexes::{Comparison, Modification, Route, Standing};
use mainstay_model::{ExitStatus, Result, StoreKind};
use mainstay_ops::index::drift::{self, DriftReport};
use serde_json::{Map, Value, json};

use super::{ManifestArgs, PlaceArgs};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Arguments of `index drift`.
#[derive(Debug, Args)]
pub(crate) struct DriftArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    manifest: ManifestArgs,
}

/// Compares.
///
/// # Errors
/// `Precondition` when nothing is declared or a collection is unknown; the server's.
pub(crate) async fn run(args: DriftArgs, session: &Session) -> Result<ExitStatus> {
    let manifest = args.manifest.read(session)?;
    let database = args.place.database(session)?;
    let documents = session.documents(StoreKind::Mongo).await?;
    let report =
        drift::drift(documents.indexes.as_ref(), &database, &manifest, &args.place.collection).await?;
    Ok(session.printer.report(&Drift(report)))
}

struct Drift(DriftReport);

impl Report for Drift {
    fn json(&self) -> Map<String, Value> {
        let report = &self.0;
        let totals = report.totals();
        let rows: Vec<Value> = report
            .rows()
            .map(|(collection, row)| {
                let (differences, route) = match &row.standing {
                    Standing::Changed { differences, route } => (json!(differences), json!(route)),
                    _ => (json!([]), Value::Null),
                };
                json!({
                    "collection": collection,
                    "index": row.name(),
                    "standing": word(row),
                    "declared_name": row.other_name(),
                    "differences": differences,
                    "route": route,
                    "declared": row.declared.as_ref().map(mainstay_indexes::toml_of),
                    "live": row.live.as_ref().map(|live| live.definition.to_string()),
                })
            })
            .collect();
        Map::from_iter([
            ("database".to_owned(), json!(report.database)),
            ("is_drift".to_owned(), json!(report.is_drift())),
            ("indexes".to_owned(), Value::Array(rows)),
            ("incomparable".to_owned(), json!(report.incomparable)),
            (
                "totals".to_owned(),
                json!({
                    "missing": totals.missing, "changed": totals.changed, "undeclared": totals.undeclared,
                    "building": totals.building, "same": totals.same,
                }),
            ),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let mut table = Table::new(&["", "INDEX", "", ""]);
        for (collection, row) in report.rows() {
            let Some((mark, tone, what, how)) = told(row, look.verbose) else { continue };
            let name = Cell::new(format!("{collection}.{}", row.name()));
            table.row(vec![Cell::new(mark).tone(tone), name, what.into(), Cell::new(how).tone(Tone::Faint)]);
        }
        let mut text = table.render(look);
        for collection in &report.incomparable {
            let line =
                format!("{collection} is a view or a time series: its declared indexes are not compared\n");
            text.push_str(&look.paint(Tone::Warn, &line));
        }
        text.push_str(&self.summary(look));
        text
    }

    fn exit_status(&self) -> ExitStatus {
        if self.0.is_drift() { ExitStatus::Findings } else { ExitStatus::Ok }
    }
}

impl Drift {
    fn summary(&self, look: &Look) -> String {
        let (report, totals) = (&self.0, self.0.totals());
        if !report.is_drift() {
            let count = format!("{} has the {} indexes that are declared", report.database, totals.same);
            return format!("{}\n", look.paint(Tone::Good, &count));
        }
        let parts = [
            (totals.missing, "to add"),
            (totals.changed, "to change"),
            (totals.undeclared, "undeclared"),
            (totals.building, "being built"),
            (totals.same, "as declared"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(count, what)| *count > 0 || *what == "as declared")
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let next = match (totals.missing + totals.changed, totals.undeclared, totals.building) {
            (0, 0, _) => "next: wait for the build, then run `mainstay index drift` again",
            (0, _, _) => {
                "next: declare them in the manifest, or let `undeclared = \"hide\"` of [mongo.policy] and `mainstay index plan` put them away"
            }
            _ => "next: mainstay index plan --output plan.json",
        };
        format!("{}\n{next}\n", parts.join(", "))
    }
}

fn word(row: &Comparison) -> &'static str {
    match row.standing {
        Standing::Same => "same",
        Standing::Building => "building",
        Standing::Reversed => "reversed",
        Standing::Changed { .. } => "changed",
        Standing::Missing => "missing",
        Standing::Undeclared => "undeclared",
    }
}

/// Mark, tone, what is so, and what leads to what is declared; `None` for what needs no line.
fn told(row: &Comparison, verbose: bool) -> Option<(&'static str, Tone, String, String)> {
    let declaration = || row.declared.as_ref().map(mainstay_indexes::toml_of).unwrap_or_default();
    Some(match &row.standing {
        Standing::Missing => ("+", Tone::Good, "missing".to_owned(), declaration()),
        Standing::Undeclared => {
            let building = row.live.as_ref().is_some_and(|live| !live.is_ready());
            let what = if building { "not declared, being built" } else { "not declared" };
            ("-", Tone::Bad, what.to_owned(), String::new())
        }
        Standing::Building => ("…", Tone::Warn, "being built".to_owned(), String::new()),
        Standing::Changed { differences, route } => {
            let told: Vec<String> = differences.iter().map(ToString::to_string).collect();
            ("~", Tone::Warn, told.join("; "), way(route))
        }
        Standing::Reversed => (
            "=",
            Tone::Faint,
            "equivalent, direction differs".to_owned(),
            "a server reads it both ways".to_owned(),
        ),
        Standing::Same => match row.other_name() {
            Some(name) => (
                "=",
                Tone::Faint,
                format!("declared as {name}"),
                "the same index under another name".to_owned(),
            ),
            None if verbose => ("=", Tone::Faint, "as declared".to_owned(), String::new()),
            None => return None,
        },
    })
}

/// How a change is made.
pub(crate) fn way(route: &Route) -> String {
    match route {
        Route::Nothing => String::new(),
        Route::Modify { steps } => {
            let step = |step: &Modification| match step {
                Modification::Unique => "prepareUnique, then collMod".to_owned(),
                Modification::TtlSeconds { .. } => "collMod".to_owned(),
                Modification::Hidden { hidden: true } => "hidden by collMod".to_owned(),
                Modification::Hidden { hidden: false } => "shown by collMod".to_owned(),
            };
            let steps: Vec<String> = steps.iter().map(step).collect();
            format!("{}: nothing is built", steps.join(", "))
        }
        Route::Beside => "built beside under another name, then the old one is hidden and dropped".to_owned(),
        Route::Replace { reason } => format!("dropped, then built: a gap, since {reason}"),
    }
}
