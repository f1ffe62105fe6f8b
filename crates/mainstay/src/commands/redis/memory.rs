//! `redis memory`: what memory is taken by, how it grows, and when it is full at that rate.

use std::time::Duration;

use clap::Args;
use mainstay_model::{ByteSize, Count, ExitStatus, Result, Severity};
use mainstay_ops::keyserver::memory::{self, MemoryReport};
use serde_json::{Map, Value, json};

use crate::commands::findings;
use crate::commands::mongo::choice::parse_duration;
use crate::printer::shown::duration;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Arguments of `redis memory`.
#[derive(Debug, Args)]
pub(crate) struct MemoryArgs {
    /// How far apart the two looks are that growth is taken from
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    over: Duration,
}

/// Looks and judges.
///
/// # Errors
/// The server's.
pub(super) async fn run(args: &MemoryArgs, session: &Session) -> Result<ExitStatus> {
    let server = session.key_server()?;
    let report = memory::observe(server.as_ref(), args.over).await?;
    Ok(session.printer.report(&Shown(report)))
}

struct Shown(MemoryReport);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        match json!(self.0) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn text(&self, look: &Look) -> String {
        [parts(&self.0, look), summary(&self.0), findings::text(&self.0.findings, look)].concat()
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.0.findings)
    }
}

fn parts(report: &MemoryReport, look: &Look) -> String {
    let parts = &report.parts;
    let mut table = Table::new(&["PART", "BYTES", "SHARE"]);
    let mut row = |name: Cell, bytes: u64| {
        let share = bytes as f64 * 100.0 / report.memory.used.max(1) as f64;
        table.row(vec![name, Cell::right(ByteSize(bytes).to_string()), Cell::right(format!("{share:.1} %"))]);
    };
    for (name, bytes) in [
        ("keys and values", parts.dataset),
        ("tables of keys", parts.tables),
        ("buffers of clients", parts.clients),
        ("buffers of replicas", parts.replicas),
        ("replication backlog", parts.backlog),
        ("append-only file's buffer", parts.log),
        ("scripts and functions", parts.scripts),
        ("the server itself", parts.startup),
    ] {
        if let Some(bytes) = bytes {
            row(name.into(), bytes);
        }
    }
    row(Cell::new("used").tone(Tone::Strong), report.memory.used);
    table.render(look)
}

fn summary(report: &MemoryReport) -> String {
    let memory = &report.memory;
    let most = match memory.used_max {
        0 => "no limit".to_owned(),
        max => format!("the limit is {}, then {}", ByteSize(max), memory.eviction),
    };
    let fragmentation =
        memory.fragmentation.map(|ratio| format!(" ({ratio:.2} for each used)")).unwrap_or_default();
    let keys = match (report.parts.keys, report.parts.bytes_per_key) {
        (Some(keys), Some(bytes)) if keys > 0 => {
            format!("; {} keys of {} on average", Count(keys), ByteSize(bytes))
        }
        _ => String::new(),
    };
    let growth = match report.growth_bytes_per_second {
        rate if rate >= 1.0 => format!("grew by {}/s", ByteSize(rate as u64)),
        rate if rate <= -1.0 => format!("shrank by {}/s", ByteSize(-rate as u64)),
        _ => "did not grow".to_owned(),
    };
    let full = report
        .seconds_to_limit
        .map(|seconds| format!(", at which rate it is full in {}", duration(seconds)))
        .unwrap_or_default();
    format!(
        "{most}; {} at most so far; {} from the system{fragmentation}{keys}\nin {:.1} s it {growth}{full}; {:.0} keys/s were evicted, {} since the server began\n",
        ByteSize(memory.used_peak),
        ByteSize(memory.resident),
        report.seconds,
        report.evicted_per_second,
        Count(memory.evicted),
    )
}
