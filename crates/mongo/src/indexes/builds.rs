//! Builds under way, as `$currentOp` tells them.
//!
//! A build is seen twice: as the command that waits for it, whose operation can be killed, and as a thread of the server that tells how far
//! it is (seen with 6.0.27). The two are one build here, known by collection and names of indexes.

use std::collections::BTreeSet;

use bson::{Bson, Document, rawdoc};
use mainstay_engine::{BuildPhase, IndexBuild, Namespace};
use mainstay_model::Result;

use crate::inspect::{Right, list, section, text};
use crate::metadata::array;
use crate::reply::{hex, number};
use crate::server::MongoServer;

const BUILDS: Right = Right { action: "inprog", role: "clusterMonitor", on: "\"admin\"" };

pub(super) async fn under_way(server: &MongoServer, database: Option<&str>) -> Result<Vec<IndexBuild>> {
    let stages = [
        rawdoc! { "$currentOp": { "allUsers": true, "idleConnections": false } },
        rawdoc! { "$match": { "command.createIndexes": { "$exists": true } } },
    ];
    let command = rawdoc! { "aggregate": 1, "pipeline": array(&stages), "cursor": {} };
    let found = list(server, "admin", command, &BUILDS).await?;
    let operations: Vec<Document> =
        found.into_iter().filter_map(|operation| Document::try_from(operation).ok()).collect();
    Ok(of_operations(&operations, database))
}

/// The builds that operations tell of, by collection.
fn of_operations(operations: &[Document], database: Option<&str>) -> Vec<IndexBuild> {
    let mut builds: Vec<IndexBuild> = Vec::new();
    for build in operations.iter().filter_map(of_operation) {
        if database.is_some_and(|database| database != build.namespace.database) {
            continue;
        }
        let names: BTreeSet<&String> = build.indexes.iter().collect();
        let same = |known: &&mut IndexBuild| {
            known.namespace == build.namespace && known.indexes.iter().collect::<BTreeSet<_>>() == names
        };
        match builds.iter_mut().find(same) {
            Some(known) => join(known, build),
            None => builds.push(build),
        }
    }
    builds.sort_by(|one, other| (&one.namespace, &one.indexes).cmp(&(&other.namespace, &other.indexes)));
    builds
}

/// Adds what another operation tells of the same build.
fn join(known: &mut IndexBuild, other: IndexBuild) {
    if other.phase > known.phase {
        (known.phase, known.done, known.total) = (other.phase, other.done, other.total);
    }
    known.operation = known.operation.take().or(other.operation);
    known.micros = known.micros.max(other.micros);
    if known.build.is_empty() {
        known.build = other.build;
    }
}

fn of_operation(operation: &Document) -> Option<IndexBuild> {
    let command = section(operation, "command");
    let collection = command.get_str("createIndexes").ok()?;
    let database = match command.get_str("$db") {
        Ok(database) => database.to_owned(),
        Err(_) => operation.get_str("ns").ok()?.split('.').next()?.to_owned(),
    };
    let listed = command.get_array("indexes").map(Vec::as_slice).unwrap_or_default();
    let name = |index: &Bson| index.as_document()?.get_str("name").ok().map(str::to_owned);
    let progress = section(operation, "progress");
    let phase = phase(&text(operation, "msg"));
    // The thread that builds cannot be killed; the command that waits can.
    let is_thread = text(operation, "desc").starts_with("IndexBuildsCoordinator");
    Some(IndexBuild {
        namespace: Namespace::new(database, collection),
        indexes: listed.iter().filter_map(name).collect(),
        build: build_id(operation).or_else(|| build_id(&command)).unwrap_or_default(),
        operation: operation.get("opid").filter(|_| !is_thread).and_then(crate::inspect::operation_id),
        phase,
        done: number(&progress, "done").filter(|_| phase != BuildPhase::Waiting),
        total: number(&progress, "total").filter(|_| phase != BuildPhase::Waiting),
        micros: number(operation, "microsecs_running").unwrap_or(0),
    })
}

fn phase(message: &str) -> BuildPhase {
    let message = message.to_ascii_lowercase();
    let phases = [
        ("draining", BuildPhase::Draining),
        ("inserting", BuildPhase::Inserting),
        ("scanning", BuildPhase::Scanning),
    ];
    phases.iter().find(|(word, _)| message.contains(word)).map_or(BuildPhase::Waiting, |(_, phase)| *phase)
}

fn build_id(document: &Document) -> Option<String> {
    match document.get("buildUUID")? {
        Bson::Binary(id) => Some(hex(&id.bytes)),
        Bson::String(id) => Some(id.clone()),
        _ => None,
    }
}
