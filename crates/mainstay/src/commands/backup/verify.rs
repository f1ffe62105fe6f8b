//! `backup verify`: every byte of a set, and of the log that continues it, read back.

use clap::Args;
use mainstay_model::{ByteSize, Error, ErrorKind, ExitStatus, Result, ResultExt, Severity};
use mainstay_ops::cluster::EarlierSet;
use mainstay_ops::contents::SetContents;
use mainstay_ops::{recoverable, verify};
use mainstay_repository::{LogReport, VerifyReport};
use serde_json::{Map, Value, json};

use super::SetArgs;
use crate::commands::findings;
use crate::printer::{Look, Report, Tone, problem_details, problem_json};
use crate::wiring::Session;

/// Arguments of `backup verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    set: SetArgs,
    /// Read the whole change log back, not only what continues the set
    #[arg(long)]
    log: bool,
}

/// Verifies.
///
/// # Errors
/// The operation's. Damage is a finding.
pub(super) async fn run(args: &VerifyArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let set = args.set.find(&repository, session).await?;
    let progress = session.printer.progress();
    let verified = async {
        let (report, recorded) = verify::verify(&repository, &set, progress.as_ref()).await?;
        let logs = match args.log {
            true => recoverable::verify_logs(&repository, progress.as_ref()).await?,
            false => recoverable::verify_log_after(&repository, &set, progress.as_ref()).await?,
        };
        Ok::<_, Error>((report, recorded, logs))
    };
    let (report, recorded, logs) = tokio::select! {
        verified = verified => verified?,
        () = session.cancel.cancelled() => return Err(
            Error::new(ErrorKind::Interrupted, "the verification was stopped on request").with_state("nothing was changed")
        ),
    };
    drop(progress);
    let facts = json!({"set": report.set_id, "manifest": report.manifest, "sound": report.is_sound(), "findings": report.findings.len()});
    let noted = session.guard(&repository).note("backup.verify", None, facts).await;
    let recorded = recorded.and(noted.context("record the result in the audit log"));
    let recorded = recorded.and(recoverable::record(&repository, &logs).await);
    let earlier = match SetContents::of(&set) {
        Ok(SetContents::Cluster(contents)) => contents.chain,
        _ => Vec::new(),
    };
    Ok(session.printer.report(&Verified { report, earlier, logs, recorded }))
}

struct Verified {
    report: VerifyReport,
    /// The sets that it builds on, which were read back, too.
    earlier: Vec<EarlierSet>,
    /// The verifications of the change log.
    logs: Vec<LogReport>,
    /// What kept the verdict from being recorded.
    recorded: Result<()>,
}

impl Report for Verified {
    fn json(&self) -> Map<String, Value> {
        let report = &self.report;
        Map::from_iter([
            ("set".to_owned(), json!(report.set_id)),
            ("manifest".to_owned(), json!(report.manifest)),
            ("sound".to_owned(), json!(report.is_sound())),
            ("chain".to_owned(), json!(self.earlier)),
            ("objects".to_owned(), json!(report.objects)),
            ("bytes".to_owned(), json!(report.bytes)),
            ("stored_bytes".to_owned(), json!(report.stored_bytes)),
            ("seconds".to_owned(), json!(report.seconds)),
            ("findings".to_owned(), json!(report.findings)),
            ("log".to_owned(), self.logs.iter().map(log_json).collect()),
            ("not_recorded".to_owned(), json!(self.recorded.as_ref().err().map(problem_json))),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.report;
        let verdict = match report.is_sound() {
            true => look.paint(Tone::Good, "sound"),
            false => look.paint(Tone::Bad, "DAMAGED"),
        };
        let with_earlier = match self.earlier.len() {
            0 => String::new(),
            1 => ", with the set that it builds on,".to_owned(),
            count => format!(", with the {count} sets that it builds on,"),
        };
        let mut text = format!(
            "backup set {}{with_earlier} is {verdict}: {} objects, {} stored, {} read back in {:.1} s\n",
            report.set_id,
            report.objects,
            ByteSize(report.stored_bytes),
            ByteSize(report.bytes),
            report.seconds
        );
        if !report.findings.is_empty() {
            text.push_str(&findings::text(&report.findings, look));
        }
        for log in &self.logs {
            let verdict = match log.is_sound() {
                true => look.paint(Tone::Good, "sound"),
                false => look.paint(Tone::Bad, "DAMAGED"),
            };
            text.push_str(&format!(
                "change log in chain {} is {verdict}: {} slices, {} read back\n",
                log.chain_id,
                log.slices,
                ByteSize(log.bytes)
            ));
            if !log.findings.is_empty() {
                text.push_str(&findings::text(&log.findings, look));
            }
        }
        if let Err(error) = &self.recorded {
            text.push_str(&format!("{} {error}\n", look.paint(Tone::Bad, "this verdict was not recorded:")));
            text.push_str(&problem_details(error));
        }
        text
    }

    fn exit_status(&self) -> ExitStatus {
        let logs = self.logs.iter().flat_map(|log| &log.findings);
        let all: Vec<_> = self.report.findings.iter().chain(logs).cloned().collect();
        match (Severity::worst_exit_status(&all), &self.recorded) {
            (ExitStatus::Ok, Err(error)) => error.kind().exit_status(),
            (verdict, _) => verdict,
        }
    }
}

fn log_json(log: &LogReport) -> Value {
    let mut value = json!(log);
    value["sound"] = json!(log.is_sound());
    value
}
