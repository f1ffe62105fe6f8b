//! Who uses which index: `$indexStats` of every member that holds data, for each counts for itself.

use bson::{Bson, Document, RawDocumentBuf, rawdoc};
use mainstay_engine::{IndexUsage, MemberUsage, Namespace, UsageReport};
use mainstay_model::{Error, ErrorKind, Result, Timestamp};

use crate::error::WireError;
use crate::inspect::{Right, list, section, text};
use crate::metadata::array;
use crate::reply::number;
use crate::server::{MongoServer, members_of};
use crate::topology::Topology;

const USAGE: Right =
    Right { action: "indexStats on every collection", role: "clusterMonitor", on: "\"admin\"" };

pub(super) async fn of_members(server: &MongoServer, namespaces: &[Namespace]) -> Result<UsageReport> {
    let mut report = UsageReport { indexes: Vec::new(), silent: Vec::new() };
    if namespaces.is_empty() {
        return Ok(report);
    }
    let mut found: Vec<Vec<IndexUsage>> = namespaces.iter().map(|_| Vec::new()).collect();
    let hello = server.hello().await?;
    let topology = Topology::of(&hello);
    match topology {
        Topology::ReplicaSet { .. } => {
            let members = data_members(server, &hello).await?;
            let asking = members.iter().map(|member| ask_member(server, member, namespaces));
            let answers = futures::future::join_all(asking).await;
            for (member, answer) in members.into_iter().zip(answers) {
                match answer {
                    Ok(answer) => {
                        for ((namespace, entries), usages) in namespaces.iter().zip(answer).zip(&mut found) {
                            entries.iter().for_each(|entry| add(usages, namespace, entry, &member));
                        }
                    }
                    Err(error) => report.silent.push((member, error)),
                }
            }
        }
        Topology::Standalone | Topology::Mongos => {
            for (namespace, usages) in namespaces.iter().zip(&mut found) {
                let entries = list(server, &namespace.database, command(namespace, false), &USAGE).await?;
                for entry in entries.into_iter().filter_map(|entry| Document::try_from(entry).ok()) {
                    add(usages, namespace, &entry, &text(&entry, "host"));
                }
            }
            if topology == Topology::Mongos {
                let error = Error::new(ErrorKind::Unsupported, "a mongos asks one member of each shard")
                    .with_hint(
                        "ask each shard's replica set for itself: `--mongo-url mongodb://SHARD:27018/`",
                    );
                report.silent.push(("the other members of each shard".to_owned(), error));
            }
        }
    }
    report.indexes = found.into_iter().flatten().collect();
    Ok(report)
}

fn add(usages: &mut Vec<IndexUsage>, namespace: &Namespace, entry: &Document, member: &str) {
    let accesses = section(entry, "accesses");
    let since = match accesses.get("since") {
        Some(Bson::DateTime(at)) => Timestamp::from_millisecond(at.timestamp_millis()).unwrap_or_default(),
        _ => Timestamp::default(),
    };
    let name = text(entry, "name");
    let usage =
        MemberUsage { member: member.to_owned(), operations: number(&accesses, "ops").unwrap_or(0), since };
    match usages.iter_mut().find(|known| known.name == name) {
        Some(known) => known.members.push(usage),
        None => usages.push(IndexUsage { namespace: namespace.clone(), name, members: vec![usage] }),
    }
}

/// The members that hold data: also hidden and delayed ones where the user may see the configuration.
async fn data_members(server: &MongoServer, hello: &Document) -> Result<Vec<String>> {
    let reply = match server.ask("admin", rawdoc! { "replSetGetConfig": 1 }).await {
        Ok(reply) => reply,
        Err(error) if error.kind() == ErrorKind::Auth => return Ok(members_of(hello)),
        Err(error) => return Err(error),
    };
    let config = section(&reply, "config");
    let members = config.get_array("members").cloned().unwrap_or_default();
    let holds_data = |member: &&Document| !member.get_bool("arbiterOnly").unwrap_or(false);
    let names =
        members.iter().filter_map(Bson::as_document).filter(holds_data).map(|member| text(member, "host"));
    Ok(names.collect())
}

/// What a member tells of each collection, in order.
async fn ask_member(
    server: &MongoServer,
    member: &str,
    namespaces: &[Namespace],
) -> Result<Vec<Vec<Document>>> {
    let asking = async {
        let mut connection = server.dial_member(member).await?;
        let mut answers = Vec::with_capacity(namespaces.len());
        for namespace in namespaces {
            let reply = connection.run(command(namespace, true).as_bytes()).await?;
            let reply = Document::from_reader(reply.document())
                .map_err(|error| WireError::Protocol(error.to_string()))?;
            // There are at most 64 indexes, and 101 entries in a first batch.
            let batch = section(&reply, "cursor").get_array("firstBatch").cloned().unwrap_or_default();
            answers.push(batch.into_iter().filter_map(|entry| entry.as_document().cloned()).collect());
        }
        Ok(answers)
    };
    let asked: Result<Vec<Vec<Document>>> = asking.await;
    asked.map_err(|error| crate::inspect::lacking(error, &USAGE))
}

/// The question; to one member it says that a secondary may answer.
fn command(namespace: &Namespace, to_member: bool) -> RawDocumentBuf {
    let stages = [rawdoc! { "$indexStats": {} }, rawdoc! { "$match": { "building": { "$ne": true } } }];
    let mut command =
        rawdoc! { "aggregate": namespace.collection.as_str(), "pipeline": array(&stages), "cursor": {} };
    if to_member {
        command.append(bson::cstr!("$db"), namespace.database.as_str());
        command.append(bson::cstr!("$readPreference"), rawdoc! { "mode": "secondaryPreferred" });
    }
    command
}
