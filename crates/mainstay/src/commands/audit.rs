//! `audit list|verify`: the hash-chained record of what was done, by whom, permitted how.

use clap::{Args, Subcommand};
use mainstay_guard::{AuditEntry, AuditEvent, AuditLog, AuditOutcome};
use mainstay_model::{Blake3, Count, ExitStatus, Finding, Result, Severity};
use serde_json::{Map, Value, json};

use super::findings;
use crate::printer::shown::moment;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// The commands below `audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show the audit log, newest last
    List(ListArgs),
    /// Check every entry and the chain between them
    Verify,
}

/// Arguments of `audit list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Show the newest entries only
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
}

impl AuditCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::List(_) => "audit.list",
            Self::Verify => "audit.verify",
        }
    }
}

/// Runs a command below `audit`.
///
/// # Errors
/// `Corrupt` when `list` meets a damaged entry; the repository's.
pub(crate) async fn run(command: AuditCommand, session: &Session) -> Result<ExitStatus> {
    let log = AuditLog::new(session.repository().await?.store().clone());
    Ok(match command {
        AuditCommand::List(args) => {
            let mut entries = log.entries().await?;
            if let Some(count) = args.last {
                entries.drain(..entries.len().saturating_sub(count as usize));
            }
            session.printer.report(&Listed(entries))
        }
        AuditCommand::Verify => {
            let findings = log.verify().await?;
            // A damaged end has no head to tell.
            let head = log.head().await.ok().flatten();
            session.printer.report(&Verified { findings, head })
        }
    })
}

struct Listed(Vec<AuditEntry>);

impl Report for Listed {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("entries".to_owned(), json!(self.0))])
    }

    fn text(&self, look: &Look) -> String {
        if self.0.is_empty() {
            return "the audit log is empty\n".to_owned();
        }
        let mut table = Table::new(&["NUMBER", "AT", "ACTOR", "OPERATION", "EVENT", "TARGET", "PLAN"]);
        for entry in &self.0 {
            let target =
                entry.target.as_ref().map(|target| format!("{}@{}", target.store, target.environment));
            table.row(vec![
                Cell::right(entry.number.to_string()),
                moment(entry.at).into(),
                format!("{}@{}", entry.actor.name, entry.actor.host).into(),
                entry.operation.as_str().into(),
                event_cell(&entry.event, look),
                target.unwrap_or_default().into(),
                Cell::new(entry.plan_hash.map(|hash| hash.short()).unwrap_or_default()).tone(Tone::Faint),
            ]);
        }
        table.render(look)
    }
}

/// The most characters of an event's text in the table; `--verbose` and `--json` show it whole.
const EVENT_CHARS_MAX: usize = 90;

fn event_cell(event: &AuditEvent, look: &Look) -> Cell {
    let short = |text: String| match text.char_indices().nth(EVENT_CHARS_MAX) {
        Some((end, _)) if !look.verbose => Cell::new(format!("{}…", &text[..end])),
        _ => Cell::new(text),
    };
    match event {
        AuditEvent::Intent { consent } => Cell::new(format!("intent, {consent}")),
        AuditEvent::Outcome { intent, outcome: AuditOutcome::Done { summary } } => {
            short(format!("done ({intent}): {summary}")).tone(Tone::Good)
        }
        AuditEvent::Outcome { intent, outcome: AuditOutcome::Failed { error } } => {
            short(format!("failed ({intent}): {error}")).tone(Tone::Bad)
        }
        AuditEvent::Outcome { intent, outcome: AuditOutcome::Interrupted { state } } => {
            short(format!("interrupted ({intent}): {state}")).tone(Tone::Warn)
        }
        AuditEvent::Note => Cell::new("note"),
        AuditEvent::Refusal { reason } => short(format!("refused: {reason}")).tone(Tone::Warn),
    }
}

struct Verified {
    findings: Vec<Finding>,
    head: Option<(u64, Blake3)>,
}

impl Report for Verified {
    fn json(&self) -> Map<String, Value> {
        let head = self.head.as_ref().map(|(number, blake3)| json!({"number": number, "blake3": blake3}));
        Map::from_iter([("findings".to_owned(), json!(self.findings)), ("head".to_owned(), json!(head))])
    }

    fn text(&self, look: &Look) -> String {
        let mut text = findings::text(&self.findings, look);
        if let Some((number, blake3)) = &self.head {
            // A chain shows edits, not a cut end: whoever keeps this line elsewhere can show that, too.
            text.push_str(&format!("head: entry {} with hash {blake3}\n", Count(*number)));
        }
        text
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.findings)
    }
}
