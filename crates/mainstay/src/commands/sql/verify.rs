//! `sql verify`: what is wrong between the folder and the database, each with its remedy.

use clap::Args;
use mainstay_model::{ExitStatus, Result, Severity};
use mainstay_ops::shape::Literals;
use mainstay_ops::sql::verify::{self, VerifyReport};
use serde_json::{Map, Value, json};

use super::{FolderArgs, Migrations};
use crate::commands::findings;
use crate::printer::{Look, Report};
use crate::wiring::Session;

/// Arguments of `sql verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Also whether Drizzle 1.0 could take the tracking table over
    #[arg(long)]
    drizzle_v1: bool,
}

/// Looks and judges.
///
/// # Errors
/// The operation's.
pub(super) async fn run(args: &VerifyArgs, session: &Session) -> Result<ExitStatus> {
    let migrations = Migrations::open(&args.folder, session)?;
    let progress = session.printer.progress();
    let context = migrations.context(session, progress.as_ref(), Literals::Hidden);
    let report = verify::verify(&context, args.drizzle_v1).await;
    session.printer.end_progress();
    Ok(session.printer.report(&Shown(report?)))
}

struct Shown(VerifyReport);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        match json!(self.0) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let mut text =
            format!("{} migrations, {} rows, {} pending\n", report.entries, report.rows, report.pending);
        if let Some(readiness) = &report.readiness {
            let applied = readiness.would_apply.len();
            text.push_str(&match readiness.is_ready() {
                true => format!(
                    "Drizzle 1.0 can take the table over, and would apply {applied} migrations then\n"
                ),
                false => "Drizzle 1.0 cannot take the table over as it is\n".to_owned(),
            });
        }
        text + &findings::text(&report.findings, look)
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.0.findings)
    }
}
