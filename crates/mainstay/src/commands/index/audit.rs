//! `index audit`: indexes that nobody uses, that are redundant, that were forgotten.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mainstay_indexes::mongoose::Project;
use mainstay_indexes::span;
use mainstay_model::{Count, Error, ErrorKind, ExitStatus, Result, Severity, StoreKind};
use mainstay_ops::index::audit::{self, AuditReport, AuditRequest};
use serde_json::{Map, Value, json};

use super::node::FACTS_BYTES_MAX;
use super::{ManifestArgs, PlaceArgs};
use crate::bounded;
use crate::commands::findings;
use crate::commands::mongo::choice::parse_duration;
use crate::printer::{Cell, Look, Report, Table};
use crate::wiring::Session;

/// Arguments of `index audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Judge an index unused when all members have watched it for so long; `watch_for` of [mongo.policy] when left out
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    watched: Option<Duration>,
    /// Also judge what this project of Mongoose does when it begins: a file that `index import mongoose --facts FILE` wrote
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
}

/// Audits.
///
/// # Errors
/// `Precondition` when a collection is not there; the server's.
pub(crate) async fn run(args: AuditArgs, session: &Session) -> Result<ExitStatus> {
    let manifest = args.manifest.read_if_any(session)?;
    let database = args.place.database(session)?;
    let code = args.facts.as_ref().map(|file| facts(&session.path(file))).transpose()?;
    let code = code.map(|project| super::node::declarations(&project)).transpose()?;
    let documents = session.documents(StoreKind::Mongo).await?;
    let request = AuditRequest {
        database: &database,
        collections: &args.place.collection,
        manifest: &manifest,
        watch_seconds: args.watched.map(|watched| watched.as_secs()),
        code: code.as_ref(),
    };
    let report = audit::audit(documents.indexes.as_ref(), &request, session.clock.as_ref()).await?;
    Ok(session.printer.report(&Audit(report)))
}

fn facts(file: &std::path::Path) -> Result<Project> {
    const HINT: &str = "write it with `mainstay index import mongoose --facts FILE MODELS…`";
    let name = file.display();
    let refuse = |message: String| Error::new(ErrorKind::Usage, message).with_hint(HINT);
    let unread = |source: std::io::Error| refuse(format!("cannot read {name}")).with_source(source);
    // A pipe without a writer would be waited for.
    if !std::fs::metadata(file).map_err(unread)?.is_file() {
        return Err(refuse(format!("{name} is no regular file")));
    }
    let text = bounded::read_text(file, FACTS_BYTES_MAX).map_err(unread)?;
    let text = text.ok_or_else(|| refuse(format!("{name} is too long for facts of an import")))?;
    Project::parse(&text).map_err(|error| refuse(format!("{name}: {error}")))
}

struct Audit(AuditReport);

impl Report for Audit {
    fn json(&self) -> Map<String, Value> {
        let rows: Vec<Value> = self
            .0
            .rows
            .iter()
            .map(|row| {
                json!({
                    "collection": row.collection, "index": row.index, "operations": row.operations,
                    "members": row.members, "watched_seconds": row.watched_seconds,
                })
            })
            .collect();
        Map::from_iter([
            ("indexes".to_owned(), Value::Array(rows)),
            ("findings".to_owned(), json!(self.0.findings)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let mut table = Table::new(&["INDEX", "USED", "MEMBERS", "WATCHED"]);
        for row in &self.0.rows {
            table.row(vec![
                Cell::new(format!("{}.{}", row.collection, row.index)),
                Cell::right(Count(row.operations).to_string()),
                Cell::right(row.members.to_string()),
                Cell::right(row.watched_seconds.map_or_else(|| "-".to_owned(), watched)),
            ]);
        }
        format!("{}{}", table.render(look), findings::text(&self.0.findings, look))
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.0.findings)
    }
}

/// Hours or days, when there are any.
fn watched(seconds: u64) -> String {
    let unit = [86_400, 3_600, 60].into_iter().find(|unit| seconds >= *unit).unwrap_or(1);
    span(seconds - seconds % unit)
}
