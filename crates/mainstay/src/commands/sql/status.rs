//! `sql status`: every migration and every row, with the state of each.

use clap::Args;
use mainstay_migrations::{Reaction, RowState, TableVersion};
use mainstay_model::{ExitStatus, Result};
use mainstay_ops::shape::Literals;
use mainstay_ops::sql::status::{self, StatusReport, row_state_name};
use serde_json::{Map, Value, json};

use super::{FolderArgs, Migrations};
use crate::printer::shown::plain;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Arguments of `sql status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    folder: FolderArgs,
}

/// Looks.
///
/// # Errors
/// The operation's.
pub(super) async fn run(args: &StatusArgs, session: &Session) -> Result<ExitStatus> {
    let migrations = Migrations::open(&args.folder, session)?;
    let progress = session.printer.progress();
    let context = migrations.context(session, progress.as_ref(), Literals::Hidden);
    let report = status::status(&context).await;
    session.printer.end_progress();
    Ok(session.printer.report(&Shown(report?)))
}

struct Shown(StatusReport);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        match json!(self.0) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let mut table = Table::new(&["MIGRATION", "STATE", "ROW", ""]);
        for entry in &report.verdict.entries {
            let message = match entry.reaction {
                Reaction::Ok if !look.verbose => "",
                _ => entry.message.as_str(),
            };
            table.row(vec![
                Cell::new(entry.tag.clone()),
                Cell::new(entry.state.name()).tone(tone(entry.reaction)),
                Cell::right(entry.row.map(|row| row.to_string()).unwrap_or_default()),
                Cell::new(plain(message, 200)).tone(Tone::Faint),
            ]);
        }
        for row in report.verdict.rows.iter().filter(|row| !matches!(row.state, RowState::Matched { .. })) {
            table.row(vec![
                Cell::new("-"),
                Cell::new(row_state_name(&row.state).replace('_', " ")).tone(tone(row.reaction)),
                Cell::right(row.row.to_string()),
                Cell::new(plain(&row.message, 200)).tone(Tone::Faint),
            ]);
        }
        let mut text = table.render(look);
        for notice in &report.verdict.notices {
            let line = plain(&notice.message, usize::MAX);
            text.push_str(&format!("{}\n", look.paint(tone(notice.reaction), &line)));
        }
        text + &self.summary(look)
    }
}

impl Shown {
    fn summary(&self, look: &Look) -> String {
        let (report, counts) = (&self.0, &self.0.counts);
        let parts = [
            (counts.applied, "applied"),
            (counts.changed, "changed since"),
            (counts.half_applied, "half applied"),
            (counts.skipped, "skipped"),
            (counts.pending, "pending"),
        ];
        let told: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let told = if told.is_empty() { "no migrations".to_owned() } else { told.join(", ") };
        let place = match report.verdict.table {
            TableVersion::Absent => format!("{} is not there yet", report.table_name),
            TableVersion::Classic | TableVersion::Named => {
                format!("{} rows in {}", report.verdict.rows.len(), report.table_name)
            }
        };
        let next = match report.verdict.worst() {
            Reaction::Fail | Reaction::Block => "next: mainstay sql verify\n",
            _ if counts.pending + counts.half_applied > 0 => "next: mainstay sql apply --dry-run\n",
            _ => "",
        };
        let line = plain(&format!("{}: {told}; {place}", report.facts.database), usize::MAX);
        format!("{}\n{next}", look.paint(Tone::Strong, &line))
    }
}

/// How a reaction looks.
fn tone(reaction: Reaction) -> Tone {
    match reaction {
        Reaction::Ok => Tone::Plain,
        Reaction::Warn => Tone::Warn,
        Reaction::Fail | Reaction::Block => Tone::Bad,
    }
}
