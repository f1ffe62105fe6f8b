//! `mongo locks`: where operations wait for one another, and whether that is bad.

use std::time::Duration;

use clap::Args;
use mainstay_model::{ByteSize, Count, ExitStatus, Result, Severity, StoreKind};
use mainstay_ops::contention::{self, Blocked, ContentionReport, Party};
use serde_json::{Map, Value, json};

use super::choice::{LiteralArgs, parse_duration};
use crate::commands::findings;
use crate::printer::shown::{millis, plain};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Arguments of `mongo locks`.
#[derive(Debug, Args)]
pub(crate) struct LocksArgs {
    /// How far apart the two looks are whose difference is judged
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    over: Duration,
    #[command(flatten)]
    literals: LiteralArgs,
}

/// Looks and judges.
///
/// # Errors
/// The server's.
pub(crate) async fn run(args: LocksArgs, session: &Session) -> Result<ExitStatus> {
    let documents = session.documents(StoreKind::Mongo).await?;
    let address = documents.probe.address();
    let report =
        contention::observe(documents.inspection.as_ref(), &address, args.over, args.literals.literals())
            .await?;
    Ok(session.printer.report(&Shown(report)))
}

struct Shown(ContentionReport);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let report = &self.0;
        Map::from_iter([
            ("seconds".to_owned(), json!(report.seconds)),
            ("waits".to_owned(), json!(report.waits)),
            (
                "queued".to_owned(),
                json!({"readers": report.now.queued_readers, "writers": report.now.queued_writers}),
            ),
            ("tickets".to_owned(), json!(report.now.tickets)),
            ("cache".to_owned(), json!(report.now.cache)),
            ("flow_control".to_owned(), json!(report.now.flow_control)),
            ("blocked".to_owned(), json!(report.blocked)),
            ("findings".to_owned(), json!(report.findings)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let mut text = pressure(report, look);
        let mut waits = Table::new(&["LOCK", "MODE", "WAITS", "WAITED", "WAITS IN ALL", "WAITED IN ALL"]);
        for wait in &report.waits {
            waits.row(vec![
                Cell::new(plain(&wait.resource, 60)),
                wait.mode.name().into(),
                Cell::right(Count(wait.waited).to_string()),
                Cell::right(format!("{:.2} s/s", wait.wait_rate)),
                Cell::right(Count(wait.waited_total).to_string()),
                Cell::right(millis(wait.wait_micros_total / 1_000)),
            ]);
        }
        text.push_str(&waits.render(look));
        match &report.blocked {
            None => text.push_str("who blocks whom is not told by this server to this user\n"),
            Some(blocked) => text.extend(blocked.iter().map(|one| line(one, look))),
        }
        text.push_str(&findings::text(&report.findings, look));
        text
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.0.findings)
    }
}

fn pressure(report: &ContentionReport, look: &Look) -> String {
    let now = &report.now;
    let mut table = Table::new(&["", "NOW"]);
    table.row(vec![
        "queued".into(),
        format!("{} readers, {} writers", Count(now.queued_readers), Count(now.queued_writers)).into(),
    ]);
    for tickets in &now.tickets {
        let queued = tickets.queued.map(|queued| format!(", {} waiting", Count(queued))).unwrap_or_default();
        table.row(vec![
            format!("{} tickets", tickets.kind).into(),
            format!("{} of {} used{queued}", Count(tickets.used), Count(tickets.total)).into(),
        ]);
    }
    if let Some(cache) = &now.cache {
        let share = |bytes: u64| bytes as f64 * 100.0 / cache.bytes_max.max(1) as f64;
        table.row(vec![
            "cache".into(),
            format!(
                "{:.0} % used, {:.1} % dirty, of {}",
                share(cache.bytes),
                share(cache.dirty_bytes),
                ByteSize(cache.bytes_max)
            )
            .into(),
        ]);
    }
    if let Some(control) = &now.flow_control {
        let now = if control.lagged { "holds writers back" } else { "does not hold back" };
        let before = millis(control.lagged_micros / 1_000);
        table.row(vec!["flow control".into(), format!("{now}; did for {before} in all").into()]);
    }
    table.render(look)
}

fn line(blocked: &Blocked, look: &Look) -> String {
    let told = |party: &Party| {
        let asks = party
            .shape
            .as_ref()
            .map(|shape| format!(": {} {} {}", shape.verb, party.namespace, shape.text))
            .unwrap_or_default();
        plain(&format!("{} ({}{asks})", contention::called(party), party.mode.name()), 400)
    };
    let mut text = format!(
        "{} {} waits {} for {}\n",
        look.paint(Tone::Warn, "blocked:"),
        told(&blocked.waiter),
        millis((blocked.wait_seconds * 1_000.0) as u64),
        plain(&blocked.resource, 200),
    );
    for blocker in &blocked.blockers {
        text.push_str(&format!("   {} {}\n", look.paint(Tone::Faint, "by:"), told(blocker)));
    }
    text
}
