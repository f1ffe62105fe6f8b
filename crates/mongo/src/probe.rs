//! Looking at a deployment: what it is, which environment it says it belongs to, what is wrong with it.
//!
//! The environment marker is the document `{_id: "environment"}` of the collection `identity` in the database `mainstay`.
//!
//! The fingerprint is the first of these that the user may see: the replica set's own id (`replSetGetConfig`, given at its initiation and
//! kept for ever); the UUID of `admin.system.version`, which every server makes at its first start and replicates; the marker's id. A user
//! who may see none of them gets `unidentified` with the topology, which is stable but does not tell two servers apart.
//!
//! Refuses to write anything but the marker. What a user may not ask is left out of the facts and becomes a note in an examination.

use async_trait::async_trait;
use bson::{Document, rawdoc};
use mainstay_engine::{Namespace, Probe, ServerFacts, StoreFacts, UNIDENTIFIED};
use mainstay_guard::{Marker, Permit};
use mainstay_model::{ByteSize, Error, ErrorKind, Finding, Result, ResultExt, Severity, StoreKind};

use crate::catalog::{self, OWN_DATABASE};
use crate::create::majority;
use crate::metadata::array;
use crate::reply::{hex, number};
use crate::server::MongoServer;
use crate::topology::Topology;

const MARKER_COLLECTION: &str = "identity";
const MARKER_ID: &str = "environment";

/// Below this an oplog is too short to be relied upon over a night.
const OPLOG_HOURS_MIN: f64 = 24.0;

/// A careful guess at how fast a backup reads, for judging the history window.
const READ_BYTES_PER_SECOND: u64 = 100_000_000;

#[async_trait]
impl Probe for MongoServer {
    fn kind(&self) -> StoreKind {
        StoreKind::Mongo
    }

    fn address(&self) -> String {
        self.seed_list()
    }

    async fn facts(&self) -> Result<StoreFacts> {
        let hello = self.hello().await?;
        let status = permitted(self.ask("admin", status_command()).await)?.unwrap_or_default();
        let connections = status.get_document("connections").cloned().unwrap_or_default();
        let (current, available) = (number(&connections, "current"), number(&connections, "available"));
        Ok(StoreFacts {
            kind: StoreKind::Mongo,
            version: version(self).await?,
            role: Topology::of(&hello).role(),
            size: data_size(self).await?.map(ByteSize),
            uptime_seconds: number(&status, "uptime").unwrap_or(0),
            connections: current.unwrap_or(0),
            connections_max: current.zip(available).map(|(current, available)| current + available),
            fingerprint: fingerprint(self, &hello).await?,
            address: answering_address(self, &hello),
        })
    }

    async fn marker(&self) -> Result<Option<Marker>> {
        read_marker(self).await.context("read the environment marker")
    }

    async fn set_marker(&self, marker: &Marker, permit: &Permit) -> Result<()> {
        let writing = async {
            self.authorize(permit, "environment.mark").await?;
            write_marker(self, marker).await
        };
        let written: Result<()> = writing.await;
        // A server that tells no identity of its own is known by its marker.
        self.forget_fingerprint();
        written.context("write the environment marker")
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        let hello = self.hello().await?;
        let mut findings = Findings { subject: answering_address(self, &hello), list: Vec::new() };
        findings.examine_topology(&Topology::of(&hello));
        findings.examine_access(permitted(self.ask("admin", rawdoc! { "getCmdLineOpts": 1 }).await)?);
        if let Some(database) = self.database() {
            let profile = permitted(self.ask(database, rawdoc! { "profile": -1 }).await)?;
            findings.examine_profiler(database, profile);
        }
        let parameter = rawdoc! { "getParameter": 1, "featureCompatibilityVersion": 1 };
        let compatibility = permitted(self.ask("admin", parameter).await)?;
        findings.examine_compatibility(&version(self).await?, compatibility);
        if let Topology::ReplicaSet { .. } = Topology::of(&hello) {
            findings.examine_oplog(oplog(self).await?);
            let parameter = rawdoc! { "getParameter": 1, "minSnapshotHistoryWindowInSeconds": 1 };
            findings.examine_history(permitted(self.ask("admin", parameter).await)?, data_size(self).await?);
        }
        Ok(findings.list)
    }
}

/// What a backup or restore notes about the server.
pub(crate) async fn server_facts(server: &MongoServer) -> Result<ServerFacts> {
    let hello = server.hello().await?;
    Ok(ServerFacts {
        version: version(server).await?,
        topology: Topology::of(&hello).describe(),
        fingerprint: fingerprint(server, &hello).await?,
        address: answering_address(server, &hello),
        part: None,
    })
}

fn status_command() -> bson::RawDocumentBuf {
    rawdoc! { "serverStatus": 1, "repl": 0, "metrics": 0, "locks": 0, "wiredTiger": 0, "tcmalloc": 0, "transactions": 0 }
}

async fn version(server: &MongoServer) -> Result<String> {
    let info = server.ask("admin", rawdoc! { "buildInfo": 1 }).await?;
    Ok(info.get_str("version").unwrap_or("unknown").to_owned())
}

fn answering_address(server: &MongoServer, hello: &Document) -> String {
    hello.get_str("me").map_or_else(|_| server.seed_list(), str::to_owned)
}

/// Bytes of data in the configured database; over all user databases when none is configured.
async fn data_size(server: &MongoServer) -> Result<Option<u64>> {
    let names = match server.database() {
        Some(name) => vec![name.to_owned()],
        None => match permitted(catalog::databases(server).await)? {
            Some(names) => names,
            None => return Ok(None),
        },
    };
    let mut sum = 0;
    for name in names {
        match permitted(server.ask(&name, rawdoc! { "dbStats": 1 }).await)? {
            Some(stats) => sum += number(&stats, "dataSize").unwrap_or(0),
            None => return Ok(None),
        }
    }
    Ok(Some(sum))
}

pub(crate) async fn fingerprint(server: &MongoServer, hello: &Document) -> Result<String> {
    let topology = Topology::of(hello);
    if let Topology::ReplicaSet { .. } = topology {
        let config = permitted(server.ask("admin", rawdoc! { "replSetGetConfig": 1 }).await)?;
        let id = config.as_ref().and_then(|reply| {
            reply
                .get_document("config")
                .ok()?
                .get_document("settings")
                .ok()?
                .get_object_id("replicaSetId")
                .ok()
        });
        if let Some(id) = id {
            return Ok(format!("replica-set-{id}"));
        }
    }
    let system = Namespace::new("admin", "system.version");
    let spec = permitted(catalog::find(server, &system).await)?.flatten();
    let uuid = spec.as_ref().and_then(|spec| spec.get_document("info").ok()?.get_binary("uuid").ok());
    if let Some(uuid) = uuid {
        return Ok(format!("server-{}", hex(uuid.bytes)));
    }
    Ok(match permitted(read_marker(server).await)?.flatten() {
        Some(marker) => format!("marker-{}", marker.id),
        None => format!("{UNIDENTIFIED} {}", topology.describe()),
    })
}

async fn read_marker(server: &MongoServer) -> Result<Option<Marker>> {
    let command = rawdoc! { "find": MARKER_COLLECTION, "filter": { "_id": MARKER_ID }, "limit": 1, "singleBatch": true };
    let Some(found) = server.list(OWN_DATABASE, command).await?.into_iter().next() else { return Ok(None) };
    let damaged = |why: String| {
        Error::new(ErrorKind::Corrupt, format!("{OWN_DATABASE}.{MARKER_COLLECTION} holds no marker: {why}"))
            .with_hint("write it anew with `mainstay environment mark`")
    };
    let mut document = Document::try_from(found).map_err(|error| damaged(error.to_string()))?;
    document.remove("_id");
    bson::deserialize_from_document(document).map(Some).map_err(|error| damaged(error.to_string()))
}

async fn write_marker(server: &MongoServer, marker: &Marker) -> Result<()> {
    let document = bson::serialize_to_raw_document_buf(marker)
        .map_err(|error| Error::new(ErrorKind::Internal, "the marker has no BSON form").with_source(error))?;
    let updates = [rawdoc! { "q": { "_id": MARKER_ID }, "u": document, "upsert": true }];
    let command = rawdoc! {
        "update": MARKER_COLLECTION, "updates": array(&updates), "writeConcern": majority(),
    };
    let reply = server.tell(OWN_DATABASE, command).await?;
    match reply.get_array("writeErrors") {
        Ok(errors) if !errors.is_empty() => {
            Err(Error::new(ErrorKind::Server, "the server refused the marker"))
        }
        _ => Ok(()),
    }
}

/// The oplog's first and last entry and how full it is; `None` when the user may not look.
async fn oplog(server: &MongoServer) -> Result<Option<Oplog>> {
    let entry = async |direction: i32| {
        let command = rawdoc! {
            "find": "oplog.rs", "sort": { "$natural": direction }, "projection": { "ts": 1 }, "limit": 1, "singleBatch": true,
        };
        permitted(server.list("local", command).await)
    };
    let stages = [rawdoc! { "$collStats": { "storageStats": {} } }];
    let stats = rawdoc! { "aggregate": "oplog.rs", "pipeline": array(&stages), "cursor": {} };
    let (Some(first), Some(last), Some(stats)) =
        (entry(1).await?, entry(-1).await?, permitted(server.list("local", stats).await)?)
    else {
        return Ok(None);
    };
    let seconds =
        |entries: &[bson::RawDocumentBuf]| entries.first()?.get_timestamp("ts").ok().map(|ts| ts.time);
    let stats = stats.into_iter().next().and_then(|stats| Document::try_from(stats).ok()).unwrap_or_default();
    let stats = stats.get_document("storageStats").cloned().unwrap_or_default();
    let (Some(first), Some(last)) = (seconds(&first), seconds(&last)) else { return Ok(None) };
    Ok(Some(Oplog {
        hours: f64::from(last.saturating_sub(first)) / 3600.0,
        full: number(&stats, "size")
            .zip(number(&stats, "maxSize"))
            .is_some_and(|(size, max)| size >= max / 10 * 9),
    }))
}

struct Oplog {
    hours: f64,
    /// Whether it has begun to drop its oldest entries, so that `hours` is all it can hold.
    full: bool,
}

/// `None` for what the user may not ask.
fn permitted<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.kind() == ErrorKind::Auth => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gathers findings. Deciding is here, asking is above.
struct Findings {
    subject: String,
    list: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, id: &str, severity: Severity, message: impl Into<String>, remedy: impl Into<String>) {
        self.list.push(Finding {
            id: format!("mongo.{id}"),
            severity,
            store: Some(StoreKind::Mongo),
            subject: self.subject.clone(),
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    fn not_permitted(&mut self, what: &str) {
        self.add(
            "not_permitted",
            Severity::Note,
            format!("{what} could not be examined: the user lacks the privilege"),
            "grant the role clusterMonitor: db.getSiblingDB(\"admin\").grantRolesToUser(USER, [{role: \"clusterMonitor\", db: \"admin\"}])",
        );
    }

    fn examine_topology(&mut self, topology: &Topology) {
        if *topology == Topology::Standalone {
            self.add(
                "standalone",
                Severity::Warning,
                "it is a standalone server: no oplog, so no point-in-time recovery and no moment common to all collections in a backup",
                "start it with --replSet rs0 and run rs.initiate() once; one node is enough",
            );
        }
    }

    fn examine_access(&mut self, options: Option<Document>) {
        let Some(options) = options else { return self.not_permitted("who may connect") };
        let parsed = options.get_document("parsed").cloned().unwrap_or_default();
        let section = |name: &str| parsed.get_document(name).cloned().unwrap_or_default();
        let (net, security) = (section("net"), section("security"));
        let asks =
            matches!(security.get_str("authorization"), Ok("enabled")) || security.contains_key("keyFile");
        let bound = net.get_str("bindIp").unwrap_or("127.0.0.1");
        let local = |address: &str| {
            ["localhost", "::1"].contains(&address) || address.starts_with("127.") || address.starts_with('/')
        };
        let open = matches!(net.get_bool("bindIpAll"), Ok(true))
            || bound.split(',').any(|address| !local(address.trim()));
        if !asks && open {
            self.add(
                "no_authentication",
                Severity::Critical,
                format!("it listens on {} and asks nobody for a password", if bound.is_empty() { "all addresses" } else { bound }),
                "create a user, then set security.authorization: enabled (with a keyFile in a replica set), or bind to 127.0.0.1",
            );
        }
    }

    fn examine_profiler(&mut self, database: &str, profile: Option<Document>) {
        let Some(profile) = profile else { return self.not_permitted("the profiler") };
        if number(&profile, "was") == Some(2) {
            self.add(
                "profiler_all",
                Severity::Warning,
                format!("the profiler of {database} records every operation, which slows all of them"),
                format!("run db.getSiblingDB(\"{database}\").setProfilingLevel(1, {{slowms: 100}})"),
            );
        }
    }

    fn examine_compatibility(&mut self, version: &str, parameter: Option<Document>) {
        let Some(parameter) = parameter else {
            return self.not_permitted("the feature compatibility version");
        };
        let found =
            parameter.get_document("featureCompatibilityVersion").and_then(|value| value.get_str("version"));
        let binary: Vec<&str> = version.split('.').take(2).collect();
        let binary = binary.join(".");
        match found {
            Ok(found) if found != binary => self.add(
                "compatibility_behind",
                Severity::Warning,
                format!("it runs version {version} with the features of {found}"),
                format!("once the upgrade has proven itself run db.adminCommand({{setFeatureCompatibilityVersion: \"{binary}\"}})"),
            ),
            _ => {}
        }
    }

    fn examine_oplog(&mut self, oplog: Option<Oplog>) {
        let Some(oplog) = oplog else { return self.not_permitted("the oplog") };
        if oplog.full && oplog.hours < OPLOG_HOURS_MIN {
            self.add(
                "oplog_short",
                Severity::Warning,
                format!("the oplog holds {:.1} hours; a member or a change log that is away longer must start over", oplog.hours),
                "make it larger: db.adminCommand({replSetResizeOplog: 1, size: <megabytes>})",
            );
        }
    }

    fn examine_history(&mut self, parameter: Option<Document>, data_size: Option<u64>) {
        let (Some(parameter), Some(bytes)) = (parameter, data_size) else {
            return self.not_permitted("the history window for snapshot reads");
        };
        let window = number(&parameter, "minSnapshotHistoryWindowInSeconds").unwrap_or(300);
        let needed = bytes / READ_BYTES_PER_SECOND;
        if needed > window {
            self.add(
                "history_window_short",
                Severity::Warning,
                format!(
                    "it keeps {window} s of history; reading {} at one moment may take {needed} s",
                    ByteSize(bytes)
                ),
                format!(
                    "run db.adminCommand({{setParameter: 1, minSnapshotHistoryWindowInSeconds: {}}})",
                    needed.saturating_mul(2)
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn found(examine: impl FnOnce(&mut Findings)) -> Vec<(String, Severity)> {
        let mut findings = Findings { subject: "h:1".to_owned(), list: Vec::new() };
        examine(&mut findings);
        findings.list.into_iter().map(|finding| (finding.id, finding.severity)).collect()
    }

    #[test]
    fn an_open_server_without_passwords_is_critical() {
        let options =
            |net: Document, security: Document| Some(doc! { "parsed": { "net": net, "security": security } });
        for (given, expected) in [
            (options(doc! { "bindIp": "*" }, doc! {}), 1),
            (options(doc! { "bindIpAll": true }, doc! {}), 1),
            (options(doc! { "bindIp": "127.0.0.1,10.0.0.5" }, doc! {}), 1),
            (options(doc! { "bindIp": "127.0.0.1,::1,/tmp/s" }, doc! {}), 0),
            (options(doc! {}, doc! {}), 0),
            (options(doc! { "bindIp": "*" }, doc! { "authorization": "enabled" }), 0),
            (options(doc! { "bindIp": "*" }, doc! { "keyFile": "/k" }), 0),
        ] {
            let findings = found(|findings| findings.examine_access(given.clone()));
            assert_eq!(findings.len(), expected, "{given:?}");
        }
        assert_eq!(
            found(|findings| findings.examine_access(None)),
            [("mongo.not_permitted".to_owned(), Severity::Note)]
        );
    }

    #[test]
    fn windows_are_judged_by_size_and_age() {
        let window = Some(doc! { "minSnapshotHistoryWindowInSeconds": 300 });
        assert_eq!(found(|findings| findings.examine_history(window.clone(), Some(1 << 30))).len(), 0);
        assert_eq!(found(|findings| findings.examine_history(window, Some(1 << 40))).len(), 1);
        assert_eq!(
            found(|findings| findings.examine_oplog(Some(Oplog { hours: 2.0, full: false }))).len(),
            0
        );
        assert_eq!(found(|findings| findings.examine_oplog(Some(Oplog { hours: 2.0, full: true }))).len(), 1);
        let behind = Some(doc! { "featureCompatibilityVersion": { "version": "5.0" } });
        assert_eq!(found(|findings| findings.examine_compatibility("6.0.27", behind)).len(), 1);
    }
}
