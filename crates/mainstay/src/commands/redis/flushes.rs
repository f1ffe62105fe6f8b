//! `redis flushes`: what emptied databases, from the captured stream.

use clap::Args;
use mainstay_model::{ByteSize, Count, Error, ErrorKind, ExitStatus, Result, Severity};
use mainstay_ops::replication::search::{self, Emptied, EmptyingReport, EmptyingSearch};
use serde_json::{Map, Value, json};

use crate::commands::moment::MomentArg;
use crate::commands::plan;
use crate::printer::shown::moment;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Arguments of `redis flushes`.
#[derive(Debug, Args)]
pub(crate) struct FlushesArgs {
    /// From this moment on: a time (2026-11-23T00:55:02Z), or how long ago ("5m ago")
    #[arg(long, value_name = "MOMENT")]
    since: Option<MomentArg>,
}

/// Searches.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(args: &FlushesArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    if let Some(MomentArg::Latest | MomentArg::Position(_)) = args.since {
        return Err(Error::new(
            ErrorKind::Usage,
            "a stream of Redis has no optimes, and nothing begins at its end",
        )
        .with_hint(
            "give `--since` a time, such as 2026-11-23T00:55:02Z, or how long ago, such as '5m ago'",
        ));
    }
    let since = args.since.map(|since| since.first(session.clock.now())).transpose()?.flatten();
    let progress = session.printer.progress();
    let asked = EmptyingSearch { since: since.map(|since| since.timestamp()) };
    let report = search::search(&repository, &asked, progress.as_ref()).await?;
    drop(progress);
    Ok(session.printer.report(&Searched { report, flags: plan::flags(session) }))
}

struct Searched {
    report: EmptyingReport,
    /// How server and repository were named, for what comes next.
    flags: String,
}

fn databases(emptied: Emptied) -> String {
    match emptied {
        Emptied::All => "all".to_owned(),
        Emptied::Database { database } => database.to_string(),
        Emptied::Unknown => "unknown".to_owned(),
        Emptied::Swapped { databases: (one, other) } => format!("{one} and {other}"),
    }
}

impl Report for Searched {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("found".to_owned(), json!(self.report.found)),
            ("left_out".to_owned(), json!(self.report.left_out)),
            ("bytes".to_owned(), json!(self.report.bytes)),
            ("unsearched".to_owned(), json!(self.report.unsearched)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let mut text = String::new();
        match self.report.found.last() {
            None => {
                let bytes = ByteSize(self.report.bytes);
                text.push_str(&format!("nothing emptied a database in the {bytes} of stream searched\n"));
            }
            Some(last) => {
                let mut table = Table::new(&["TIME", "OFFSET", "COMMAND", "DB", "KEYS", "SERVER"]);
                for found in &self.report.found {
                    table.row(vec![
                        found.time.map_or_else(|| "-".to_owned(), moment).into(),
                        found.at.to_string().into(),
                        found.command.clone().into(),
                        databases(found.emptied).into(),
                        Cell::right(
                            found.keys.map_or_else(|| "-".to_owned(), |keys| Count(keys).to_string()),
                        ),
                        format!("{} in {}", found.server, found.environment).into(),
                    ]);
                }
                text.push_str(&table.render(look));
                if self.report.left_out > 0 {
                    let left_out = Count(self.report.left_out);
                    text.push_str(&format!(
                        "{left_out} older ones are left out: `--since` names a beginning\n"
                    ));
                }
                text.push_str(&format!(
                    "to bring back what was there just before one of them: mainstay{} redis undo --at {}\n",
                    self.flags, last.at
                ));
            }
        }
        for (chain, why) in &self.report.unsearched {
            text.push_str(&format!(
                "{} chain {chain}: {why}\n",
                look.paint(Tone::Bad, "not searched to its end:")
            ));
        }
        text
    }

    fn exit_status(&self) -> ExitStatus {
        if self.report.unsearched.is_empty() { ExitStatus::Ok } else { Severity::Critical.exit_status() }
    }
}
