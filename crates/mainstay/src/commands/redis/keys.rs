//! `redis keys`: the keyspace by prefix, from the server at work or from a database file.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mainstay_model::{ByteSize, Count, ExitStatus, Result, Severity};
use mainstay_ops::keyspace::{
    self, CensusOptions, CensusSource, ExpirySpread, KeyGroup, KeyspaceReport, ServerCensusRequest,
};
use serde_json::{Map, Value, json};

use crate::commands::findings;
use crate::commands::mongo::choice::parse_duration;
use crate::printer::shown::plain;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// How many prefixes a table shows without being asked for more.
const ROW_COUNT: u16 = 40;

/// How much of a name or prefix a table shows; `--json` has all of it.
const NAME_CHARS_MAX: usize = 80;

/// Arguments of `redis keys`.
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    /// Count the keys of this database file (RDB) instead of asking the server
    #[arg(long, value_name = "FILE", conflicts_with_all = ["database", "matching", "busy_at_most"])]
    rdb: Option<PathBuf>,
    /// The database with this number alone; may be repeated
    #[arg(long, alias = "db", value_name = "NUMBER")]
    database: Vec<u64>,
    /// Only keys whose names match this glob, as SCAN understands it
    #[arg(long = "match", value_name = "GLOB")]
    matching: Option<String>,
    /// What stands between the words of a name
    #[arg(long, value_name = "CHARACTER", default_value = ":", value_parser = parse_delimiter)]
    delimiter: u8,
    /// How many words make a prefix
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    depth: u8,
    /// How many prefixes, and how many of the largest keys, are shown; --json tells all prefixes
    #[arg(long, value_name = "COUNT", default_value_t = ROW_COUNT)]
    top: u16,
    /// The longest that the server should be busy with one answer: others wait meanwhile
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = parse_busy_time)]
    busy_at_most: Duration,
}

fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] => Ok(*byte),
        _ => Err("expected one character, such as : or /".to_owned()),
    }
}

/// A length of time that is not none.
pub(super) fn parse_busy_time(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("expected more than no time, such as 1ms".to_owned()),
        time => Ok(time),
    }
}

/// Counts.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(args: KeysArgs, session: &Session) -> Result<ExitStatus> {
    let options = CensusOptions {
        delimiter: args.delimiter,
        depth: args.depth.into(),
        biggest: args.top.into(),
        now: session.clock.now().as_millisecond(),
    };
    let progress = session.printer.progress();
    let report = match &args.rdb {
        Some(file) => {
            let file = session.path(file);
            keyspace::of_file(file, options, progress.clone(), session.cancel.clone()).await?
        }
        None => {
            let keyspace = session.keyspace()?;
            let request = ServerCensusRequest {
                databases: args.database,
                pattern: args.matching.map(String::into_bytes),
                answer_time_max: args.busy_at_most,
                options,
            };
            keyspace::of_server(keyspace.as_ref(), request, progress.as_ref(), &session.cancel).await?
        }
    };
    drop(progress);
    Ok(session.printer.report(&Shown { report, rows: args.top.into() }))
}

struct Shown {
    report: KeyspaceReport,
    rows: usize,
}

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let KeyspaceReport { source, census, tells_bytes, findings } = &self.report;
        let bytes_are = match (source, tells_bytes) {
            (_, false) => Value::Null,
            (CensusSource::Server, true) => json!("memory"),
            (CensusSource::File, true) => json!("data"),
        };
        Map::from_iter([
            ("bytes_are".to_owned(), bytes_are),
            ("total".to_owned(), json!(census.total)),
            ("prefixes".to_owned(), json!(census.prefixes)),
            ("others".to_owned(), json!(census.others)),
            ("biggest".to_owned(), json!(census.biggest)),
            ("unconventional".to_owned(), json!(census.unconventional)),
            ("unconventional_names".to_owned(), json!(census.unconventional_names)),
            ("findings".to_owned(), json!(findings)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let census = &self.report.census;
        if census.total.keys == 0 {
            return "there are no keys\n".to_owned();
        }
        let mut text = self.prefixes(look);
        let hidden = census.prefixes.len().saturating_sub(self.rows);
        if hidden > 0 {
            text.push_str(&format!("and {hidden} smaller prefixes; `--top COUNT` shows more\n"));
        }
        if self.report.tells_bytes {
            text.push('\n');
            text.push_str(&self.biggest(look));
        } else {
            text.push_str("what keys take is not told: this user may not give MEMORY USAGE\n");
        }
        text.push('\n');
        text.push_str(&findings::text(&self.report.findings, look));
        text
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.report.findings)
    }
}

impl Shown {
    fn size(&self, bytes: u64) -> Cell {
        if self.report.tells_bytes { Cell::right(ByteSize(bytes).to_string()) } else { Cell::right("-") }
    }

    fn prefixes(&self, look: &Look) -> String {
        let census = &self.report.census;
        let size = match self.report.source {
            CensusSource::Server => "MEMORY",
            CensusSource::File => "DATA",
        };
        let mut table = Table::new(&["DB", "PREFIX", "KEYS", size, "KINDS", "EXPIRE", "NEVER"]);
        let mut row = |database: Cell, name: Cell, group: &KeyGroup| {
            table.row(vec![
                database,
                name,
                Cell::right(Count(group.keys).to_string()),
                self.size(group.bytes),
                kinds(group).into(),
                spread(&group.expiry).into(),
                Cell::right(Count(group.expiry.never).to_string()),
            ]);
        };
        for group in census.prefixes.iter().take(self.rows) {
            let name = match group.prefix.as_str() {
                "" => Cell::new("(one word)").tone(Tone::Faint),
                prefix => Cell::new(format!("{}*", plain(prefix, NAME_CHARS_MAX))),
            };
            row(Cell::right(group.database.to_string()), name, &group.group);
        }
        if census.others.keys > 0 {
            row(Cell::default(), Cell::new("(further prefixes)").tone(Tone::Faint), &census.others);
        }
        row(Cell::default(), Cell::new("all").tone(Tone::Strong), &census.total);
        table.render(look)
    }

    fn biggest(&self, look: &Look) -> String {
        const SHOWN: usize = 10;
        let size = match self.report.source {
            CensusSource::Server => "MEMORY",
            CensusSource::File => "DATA",
        };
        let mut table = Table::new(&["DB", "LARGEST KEYS", "KIND", size, "ELEMENTS"]);
        for key in self.report.census.biggest.iter().take(self.rows.min(SHOWN)) {
            table.row(vec![
                Cell::right(key.database.to_string()),
                Cell::new(plain(&key.name, NAME_CHARS_MAX)),
                Cell::new(key.kind.name()),
                self.size(key.bytes),
                key.elements.map_or_else(|| Cell::right("-"), |count| Cell::right(Count(count).to_string())),
            ]);
        }
        table.render(look)
    }
}

/// `hash`, or `12 hash, 3 string` where there are several.
fn kinds(group: &KeyGroup) -> String {
    let parts: Vec<String> = match group.kinds.len() {
        1 => group.kinds.keys().map(|kind| kind.name().to_owned()).collect(),
        _ => group.kinds.iter().map(|(kind, count)| format!("{} {}", Count(*count), kind.name())).collect(),
    };
    parts.join(", ")
}

/// How soon keys expire, in words; empty when none does.
fn spread(expiry: &ExpirySpread) -> String {
    let parts: Vec<String> = [
        (expiry.passed, "overdue"),
        (expiry.hour, "≤1h"),
        (expiry.day, "≤1d"),
        (expiry.week, "≤7d"),
        (expiry.month, "≤30d"),
        (expiry.later, ">30d"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, when)| format!("{} {when}", Count(count)))
    .collect();
    parts.join(", ")
}
