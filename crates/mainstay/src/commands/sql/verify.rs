//! `sql verify`: what is wrong between the folder and the database, each with its remedy.

use clap::Args;
use mainstay_model::{ExitStatus, Result, Severity};
use mainstay_ops::shape::Literals;
use mainstay_ops::sql::drift::DriftReport;
use mainstay_ops::sql::verify::{self, VerifyReport};
use serde_json::{Map, Value, json};

use super::{FolderArgs, Migrations, drift};
use crate::commands::{findings, quotes};
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
    /// Also compare the live database with what the applied migrations make, as `sql drift` does
    #[arg(long)]
    drift: bool,
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
    let mut report = report?;
    report.findings.extend(quotes::examine_or_tell(session).await);
    report.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let drift = match args.drift {
        true => Some(Box::pin(drift::compared(&migrations, false, None, session)).await?),
        false => None,
    };
    Ok(session.printer.report(&Shown { report, drift }))
}

struct Shown {
    report: VerifyReport,
    drift: Option<DriftReport>,
}

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let mut fields = match json!(self.report) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        if let Some(drift) = &self.drift {
            fields.insert("drift".to_owned(), json!(drift));
        }
        fields
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.report;
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
        if let Some(drift) = &self.drift {
            text.push_str(&drift::text(drift, look));
        }
        text + &findings::text(&report.findings, look)
    }

    fn exit_status(&self) -> ExitStatus {
        match Severity::worst_exit_status(&self.report.findings) {
            ExitStatus::Ok if self.drift.as_ref().is_some_and(DriftReport::is_drift) => ExitStatus::Findings,
            status => status,
        }
    }
}
