//! `redis info`: how the server is doing, and what to do where that is bad.

use std::time::Duration;

use clap::Args;
use mainstay_model::{ByteSize, Count, ExitStatus, Result, Severity};
use mainstay_ops::keyserver::overview::{self, Overview};
use serde_json::{Map, Value, json};

use crate::commands::findings;
use crate::commands::mongo::choice::parse_duration;
use crate::printer::shown::duration;
use crate::printer::{Look, Report, Table};
use crate::wiring::Session;

/// Arguments of `redis info`.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// How far apart the two looks are between which rates are taken; `0s` takes one look and tells no rates
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    over: Duration,
}

/// Looks and judges.
///
/// # Errors
/// The server's.
pub(super) async fn run(args: &InfoArgs, session: &Session) -> Result<ExitStatus> {
    let server = session.key_server()?;
    let report = overview::observe(server.as_ref(), args.over).await?;
    Ok(session.printer.report(&Shown(report)))
}

struct Shown(Overview);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        match json!(self.0) {
            // What the printer itself says by this name is the form of the object.
            Value::Object(mut fields) => {
                let version = fields.remove("version").unwrap_or_default();
                fields.insert("server_version".to_owned(), version);
                fields
            }
            _ => Map::new(),
        }
    }

    fn text(&self, look: &Look) -> String {
        let seen = &self.0.look;
        let mut table = Table::new(&["", "NOW"]);
        let mut row = |name: &str, value: String| table.row(vec![name.into(), value.into()]);
        row("server", format!("{}, {}, up {}", seen.version, seen.mode, duration(seen.uptime_seconds)));
        row("clients", clients(&self.0));
        row("memory", memory(&self.0));
        row("commands", commands(&self.0));
        row("look-ups", lookups(&self.0));
        row("snapshots", snapshots(&self.0));
        row("append-only file", log(&self.0));
        row("replication", replication(&self.0));
        row("keys", keys(&self.0));
        table.render(look) + &findings::text(&self.0.findings, look)
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.0.findings)
    }
}

fn clients(seen: &Overview) -> String {
    let clients = &seen.look.clients;
    let most = clients.connected_max.map(|max| format!(" of {}", Count(max))).unwrap_or_default();
    format!("{}{most}, {} blocked", Count(clients.connected), Count(clients.blocked))
}

fn memory(seen: &Overview) -> String {
    let memory = &seen.look.memory;
    let most = match memory.used_max {
        0 => "no limit".to_owned(),
        max => format!("of {}, then {}", ByteSize(max), memory.eviction),
    };
    format!("{} used, {most}; {} from the system", ByteSize(memory.used), ByteSize(memory.resident))
}

fn commands(seen: &Overview) -> String {
    format!("{:.0}/s", seen.commands_per_second)
}

fn lookups(seen: &Overview) -> String {
    match seen.hit_ratio {
        Some(ratio) => format!("{:.1} % found their key", ratio * 100.0),
        None => "none".to_owned(),
    }
}

fn snapshots(seen: &Overview) -> String {
    let disk = &seen.look.persistence;
    let rules = match &disk.save_after {
        None => "rules not to be seen by this user".to_owned(),
        Some(rules) if rules.is_empty() => "off".to_owned(),
        Some(rules) => rules
            .iter()
            .map(|(seconds, changes)| format!("after {seconds} s for {} changes", Count(*changes)))
            .collect::<Vec<_>>()
            .join(", "),
    };
    let under_way = if disk.saving { "; one is under way" } else { "" };
    format!("{rules}; {} changes since the last{under_way}", Count(disk.unsaved_changes))
}

fn log(seen: &Overview) -> String {
    let disk = &seen.look.persistence;
    let size = disk.log_bytes.map(|bytes| format!(", {}", ByteSize(bytes))).unwrap_or_default();
    let under_way = if disk.log_rewriting { "; it is being rewritten" } else { "" };
    match disk.log_on {
        true => format!("on{size}{under_way}"),
        false => "off".to_owned(),
    }
}

fn replication(seen: &Overview) -> String {
    let replication = &seen.look.replication;
    let role = match replication.link_up {
        None => format!("{} replicas", Count(replication.replicas)),
        Some(true) => "a replica".to_owned(),
        Some(false) => "a replica that has lost its master".to_owned(),
    };
    let backlog = replication.backlog_bytes.map(|bytes| format!(", backlog {}", ByteSize(bytes)));
    let slack = seen.backlog_seconds.map(|seconds| format!(": {} of slack", duration(seconds as u64)));
    [role, backlog.unwrap_or_default(), slack.unwrap_or_default()].concat()
}

fn keys(seen: &Overview) -> String {
    let one = |size: &mainstay_engine::KeyspaceSize| {
        format!("{} in database {}, {} expire", Count(size.keys), size.database, Count(size.expiring))
    };
    match seen.look.databases.is_empty() {
        true => "none".to_owned(),
        false => seen.look.databases.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}
