//! Changes: `createIndexes`, `collMod`, `dropIndexes`. Each is one command, committed by a majority.
//!
//! What the server refuses keeps its code and gets the step that helps. A build goes on when the connection that began it breaks, so the same
//! command is sent again and waits for it.

use bson::{RawDocumentBuf, rawdoc};
use mainstay_engine::{CommitQuorum, IndexChange, Namespace, UniqueVerdict};
use mainstay_indexes::Json;
use mainstay_model::{Error, ErrorKind, Result};
use tokio::time::sleep;

use super::{document, json};
use crate::create::majority;
use crate::error::{code, driver_code};
use crate::metadata::array;
use crate::server::MongoServer;

pub(super) async fn create(
    server: &MongoServer,
    namespace: &Namespace,
    definitions: &[Json],
    quorum: Option<&CommitQuorum>,
) -> Result<()> {
    let indexes: Vec<RawDocumentBuf> = definitions.iter().map(document).collect::<Result<_>>()?;
    let mut command = rawdoc! {
        "createIndexes": namespace.collection.as_str(), "indexes": array(&indexes), "writeConcern": majority(),
    };
    match quorum {
        None => {}
        Some(CommitQuorum::VotingMembers) => command.append(bson::cstr!("commitQuorum"), "votingMembers"),
        Some(CommitQuorum::Majority) => command.append(bson::cstr!("commitQuorum"), "majority"),
        Some(CommitQuorum::Members(count)) => {
            command.append(bson::cstr!("commitQuorum"), i32::try_from(*count).unwrap_or(i32::MAX));
        }
    }
    let mut incident = server.retry().incident();
    loop {
        let failure = match server.driver_tell(&namespace.database, command.clone()).await {
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        };
        let error = refused(server, failure, namespace).await;
        match incident.next_delay() {
            Some(delay) if error.is_temporary() => sleep(delay).await,
            _ => return Err(error),
        }
    }
}

pub(super) async fn modify(
    server: &MongoServer,
    namespace: &Namespace,
    index: &str,
    change: IndexChange,
) -> Result<()> {
    let mut wanted = rawdoc! { "name": index };
    match change {
        IndexChange::PrepareUnique { on } => wanted.append(bson::cstr!("prepareUnique"), on),
        IndexChange::Unique => wanted.append(bson::cstr!("unique"), true),
        IndexChange::TtlSeconds { seconds } => wanted.append(bson::cstr!("expireAfterSeconds"), seconds),
        IndexChange::Hidden { hidden } => wanted.append(bson::cstr!("hidden"), hidden),
    }
    let command = rawdoc! {
        "collMod": namespace.collection.as_str(), "index": wanted, "writeConcern": majority(),
    };
    match server.driver_tell(&namespace.database, command).await {
        Ok(_) => Ok(()),
        Err(failure) => Err(refused(server, failure, namespace).await),
    }
}

pub(super) async fn try_unique(
    server: &MongoServer,
    namespace: &Namespace,
    index: &str,
) -> Result<UniqueVerdict> {
    let command = rawdoc! {
        "collMod": namespace.collection.as_str(), "index": { "name": index, "unique": true }, "dryRun": true,
    };
    match server.driver_tell(&namespace.database, command).await {
        Ok(_) => Ok(UniqueVerdict { violations: Vec::new() }),
        Err(failure) if driver_code(&failure) == Some(code::CANNOT_CONVERT_INDEX_TO_UNIQUE) => {
            let reply = failure.server_response().map(|reply| json(reply)).transpose()?;
            let groups =
                reply.as_ref().and_then(|reply| reply.get("violations")?.items()).unwrap_or_default();
            let ids = |group: &Json| group.get("ids").and_then(Json::items).unwrap_or_default().to_vec();
            Ok(UniqueVerdict { violations: groups.iter().map(ids).collect() })
        }
        Err(failure) => Err(refused(server, failure, namespace).await),
    }
}

pub(super) async fn drop_index(server: &MongoServer, namespace: &Namespace, index: &str) -> Result<bool> {
    let command = rawdoc! {
        "dropIndexes": namespace.collection.as_str(), "index": index, "writeConcern": majority(),
    };
    match server.driver_tell(&namespace.database, command).await {
        Ok(_) => Ok(true),
        Err(failure)
            if matches!(driver_code(&failure), Some(code::INDEX_NOT_FOUND | code::NAMESPACE_NOT_FOUND)) =>
        {
            Ok(false)
        }
        Err(failure) => Err(refused(server, failure, namespace).await),
    }
}

/// The server's refusal, with what helps against it.
async fn refused(server: &MongoServer, failure: mongodb::error::Error, namespace: &Namespace) -> Error {
    let code = driver_code(&failure);
    let error = server.explain(failure).await;
    let list = format!("`mainstay index drift --collection {}` shows what is there", namespace.collection);
    let (kind, hint) = match code {
        Some(code::INDEX_OPTIONS_CONFLICT) => (
            ErrorKind::Conflict,
            format!(
                "the same index is there under another name, or with options that stand in the way; {list}"
            ),
        ),
        Some(code::INDEX_KEY_SPECS_CONFLICT) => (
            ErrorKind::Conflict,
            format!("another index has this name: give this one a `name` in the manifest; {list}"),
        ),
        Some(code::DUPLICATE_KEY | code::CANNOT_CONVERT_INDEX_TO_UNIQUE) => (
            ErrorKind::Conflict,
            "documents share a key: `mainstay index plan` lists every group of them".to_owned(),
        ),
        Some(code::INVALID_OPTIONS) => (
            ErrorKind::Precondition,
            "an index becomes unique in two steps: `mainstay index plan` prepares it first".to_owned(),
        ),
        Some(code::INDEX_NOT_FOUND) => (ErrorKind::NotFound, list),
        Some(code::CANNOT_CREATE_INDEX) => (
            ErrorKind::Server,
            format!("the server has no index of this form; correct it in the manifest; {list}"),
        ),
        Some(code::INDEX_BUILD_ABORTED) => (
            ErrorKind::Conflict,
            "somebody ended the build, or dropped the index or the collection; make the plan again"
                .to_owned(),
        ),
        _ => return error,
    };
    let mut told = Error::new(kind, error.message().to_owned()).with_hint(hint);
    for action in error.contexts() {
        told = told.context(action.clone());
    }
    told
}
