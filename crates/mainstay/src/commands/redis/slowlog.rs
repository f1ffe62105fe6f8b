//! `redis slowlog`: commands that were slow, and what each command costs; once, or as they come.

use std::num::NonZeroU16;
use std::time::Duration;

use clap::Args;
use mainstay_engine::{CommandCost, KeyServerInspection};
use mainstay_model::{Count, ExitStatus, Result, Severity, Timestamp};
use mainstay_ops::keyserver::slow::{self, Following, ShownCall, SlowReport};
use mainstay_ops::shape::Literals;
use serde_json::{Map, Value, json};

use crate::commands::findings;
use crate::commands::mongo::choice::{LiteralArgs, parse_duration};
use crate::printer::shown::{moment, plain};
use crate::printer::{Cell, Look, Report, Table};
use crate::wiring::Session;

/// How many slow commands one look asks for while they are followed.
const LOOK_CALLS_MAX: u32 = 1_000;

/// Arguments of `redis slowlog`.
#[derive(Debug, Args)]
pub(crate) struct SlowlogArgs {
    /// At most so many slow commands, and so many commands by what they cost
    #[arg(long, value_name = "COUNT", default_value = "20")]
    limit: NonZeroU16,
    /// Tell slow commands as they come, until Ctrl-C; with --json each is an object of its own
    #[arg(long)]
    follow: bool,
    /// How often is looked while they are followed
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = super::keys::parse_busy_time, requires = "follow")]
    every: Duration,
    /// With --follow, end after this time
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration, requires = "follow")]
    hold: Option<Duration>,
    #[command(flatten)]
    literals: LiteralArgs,
}

/// Reads and judges.
///
/// # Errors
/// The server's.
pub(super) async fn run(args: &SlowlogArgs, session: &Session) -> Result<ExitStatus> {
    let server = session.key_server()?;
    let literals = args.literals.literals();
    if args.follow {
        follow(args, server.as_ref(), literals, session).await?;
    }
    let report = slow::report(server.as_ref(), args.limit.get().into(), literals).await?;
    Ok(session.printer.report(&Shown { report, calls_told: args.follow }))
}

/// Tells what comes, until it is stopped or the time is over.
async fn follow(
    args: &SlowlogArgs,
    server: &dyn KeyServerInspection,
    literals: Literals,
    session: &Session,
) -> Result<()> {
    let mut following = Following::default();
    let mut looks = tokio::time::interval(args.every);
    let end = async {
        match args.hold {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = session.cancel.cancelled() => return Ok(()),
            () = &mut end => return Ok(()),
            _ = looks.tick() => {}
        }
        let news = following.news(server.slow_calls(LOOK_CALLS_MAX).await?.calls);
        if news.missed > 0 {
            session.printer.notice(&format!(
                "{} slow commands came and went unseen; look more often (`--every`) or raise slowlog-max-len",
                Count(news.missed)
            ));
        }
        for call in &news.calls {
            session.printer.report(&Told(ShownCall::new(call, literals)));
        }
    }
}

/// One slow command, told as it came.
struct Told(ShownCall);

impl Report for Told {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("call".to_owned(), json!(self.0))])
    }

    fn text(&self, _: &Look) -> String {
        let Self(call) = self;
        format!(
            "{}  {}  {}  {}\n",
            at(call),
            millis(call.micros as f64),
            who(call),
            plain(&call.command, 400)
        )
    }
}

struct Shown {
    report: SlowReport,
    /// Whether the slow commands were told one by one.
    calls_told: bool,
}

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        match json!(self.report) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn text(&self, look: &Look) -> String {
        let mut text = String::new();
        if !self.calls_told {
            text.push_str(&calls(&self.report, look));
        }
        text.push_str(&costs(&self.report, look));
        text + &findings::text(&self.report.findings, look)
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.report.findings)
    }
}

fn calls(report: &SlowReport, look: &Look) -> String {
    if report.calls.is_empty() {
        let from = match report.threshold_micros {
            Some(micros) if micros >= 0 => format!(" of {} or longer", millis(micros as f64)),
            _ => String::new(),
        };
        return format!("no slow command{from} is remembered\n\n");
    }
    let command_max = if look.verbose { usize::MAX } else { 120 };
    let mut table = Table::new(&["AT", "TOOK", "CLIENT", "COMMAND"]);
    for call in &report.calls {
        table.row(vec![
            at(call).into(),
            Cell::right(millis(call.micros as f64)),
            who(call).into(),
            plain(&call.command, command_max).into(),
        ]);
    }
    table.render(look) + "\n"
}

fn costs(report: &SlowReport, look: &Look) -> String {
    let mut table = Table::new(&["COMMAND", "CALLS", "IN ALL", "MEAN", "P50", "P99", "P99.9", "FAILED"]);
    let percentile = |micros: Option<f64>| Cell::right(micros.map_or_else(|| "-".to_owned(), millis));
    for cost in &report.costs {
        let CommandCost { name, calls, micros, rejected, failed, .. } = cost;
        table.row(vec![
            plain(name, 100).into(),
            Cell::right(Count(*calls).to_string()),
            Cell::right(millis(*micros as f64)),
            Cell::right(millis(*micros as f64 / (*calls).max(1) as f64)),
            percentile(cost.p50_micros),
            percentile(cost.p99_micros),
            percentile(cost.p999_micros),
            Cell::right(Count(failed + rejected).to_string()),
        ]);
    }
    let rest = match report.costs_left_out {
        0 => String::new(),
        count => format!("and {count} commands that cost less; `--limit COUNT` shows more\n"),
    };
    table.render(look) + &rest
}

fn at(call: &ShownCall) -> String {
    Timestamp::from_second(call.at).map_or_else(|_| "-".to_owned(), moment)
}

fn who(call: &ShownCall) -> String {
    match (&call.client_name, &call.client) {
        (Some(name), Some(client)) => format!("{} at {client}", plain(name, 60)),
        (_, Some(client)) => client.clone(),
        _ => "-".to_owned(),
    }
}

/// `0.02 ms`, `340.00 ms`, `12.3 s`.
fn millis(micros: f64) -> String {
    match micros / 1_000.0 {
        millis if millis < 10_000.0 => format!("{millis:.2} ms"),
        millis => format!("{:.1} s", millis / 1_000.0),
    }
}
