//! A MongoDB brought to what is declared of it: users, roles, collections, and the replica set itself.
//!
//! The driver finds no server in a set that is not initiated and logs in before it asks anything, so everything here goes over connections
//! of our own, one for each question. Who logs in is found out each time: the configured user; where that user is not there yet, a declared
//! administrator; where the server has no users, nobody (the localhost exception, MongoDB manual). Before the set is initiated a server tells
//! no lasting identity: its process is it until then. Passwords go to the server inside `createUser` and `updateUser`, which its log leaves
//! out (`digestPassword` on the server, so that SCRAM credentials of both kinds are made); nothing here drops, revokes or renames.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use bson::{Bson, Document, RawDocumentBuf, doc};
use mainstay_engine::{
    DocumentAccess, DocumentAct, DocumentInit, DocumentServer, Membership, Namespace, PasswordMatch,
    Principal, Privilege, SeenCollection, SeenPrincipal, ServerIdentity, UserData,
};
use mainstay_guard::{Marker, Permit};
use mainstay_model::{Error, ErrorKind, Result, ResultExt, Secret, StoreKind};
use mongodb::options::ServerAddress;

use crate::catalog::{OWN_DATABASE, is_user_collection, is_user_database};
use crate::config::{self, MongoConfig};
use crate::error::{WireError, code, driver_error};
use crate::extjson;
use crate::raw;
use crate::reply::{hex, number};
use crate::wire::{Connection, Endpoint, Login, WireOptions};

/// What a permit must be for.
const OPERATION: &str = "init.apply";
/// How long a set may take to have a primary.
const PRIMARY_TIME_MAX: Duration = Duration::from_secs(60);
/// How often is looked for it.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long documents that a validator would refuse are counted.
const COUNT_TIME_MAX: Duration = Duration::from_secs(60);
/// Documents of one answer of a cursor; more answers follow.
const BATCH: i32 = 10_000;

/// Server codes that are no trouble here.
const AUTHENTICATION_FAILED: i32 = 18;
const NOT_YET_INITIALIZED: i32 = 94;
const NOT_PRIMARY_OR_SECONDARY: i32 = 13436;
const NOT_PRIMARY_NO_SECONDARY_OK: i32 = 13435;
const ALREADY_INITIALIZED: i32 = 23;

/// A MongoDB that is being initiated. Each call opens a connection of its own and ends it.
pub struct MongoInit {
    wire: WireOptions,
    seeds: Vec<Endpoint>,
    direct: bool,
    /// Declared users who may make others, with their passwords: who logs in where the configured user is not there yet.
    administrators: Vec<(Principal, Secret)>,
}

impl std::fmt::Debug for MongoInit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MongoInit({})", self.seeds.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
    }
}

impl MongoInit {
    /// The deployment that `config` describes. Connects to nothing yet. `administrators` are tried where the configured user does not get in.
    ///
    /// # Errors
    /// As [`crate::MongoServer::open`].
    pub async fn open(config: &MongoConfig, administrators: Vec<(Principal, Secret)>) -> Result<Self> {
        let resolved = config::resolve(config).await?;
        Ok(Self { wire: resolved.wire, seeds: resolved.seeds, direct: resolved.direct, administrators })
    }

    /// A connection to the server that takes writes, or would, and how it takes us.
    async fn connect(&self) -> Result<Talk> {
        let mut failure = None;
        for seed in &self.seeds {
            match self.enter(seed).await {
                Ok(mut talk) => match talk.primary().await? {
                    Some(primary) if !self.direct && primary != *seed => return self.enter(&primary).await,
                    _ => return Ok(talk),
                },
                Err(error) => failure = Some(error),
            }
        }
        let none = || Error::new(ErrorKind::Config, "the connection string names no server");
        Err(failure.unwrap_or_else(none))
    }

    /// Logs in at `endpoint`, as whoever can.
    async fn enter(&self, endpoint: &Endpoint) -> Result<Talk> {
        let declared = self.administrators.iter().map(|(user, password)| login(user, password));
        let mut refusal = None;
        for login in self.wire.login.clone().into_iter().chain(declared) {
            let access = DocumentAccess::User(format!("{}.{}", login.source, login.username));
            let options = WireOptions { login: Some(login), ..self.wire.clone() };
            match Connection::open(endpoint, &options).await {
                Ok(connection) => return Ok(Talk { connection, endpoint: endpoint.clone(), access }),
                Err(error) if is_refused_login(&error) => {
                    refusal.get_or_insert(error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let options = WireOptions { login: None, ..self.wire.clone() };
        let connection = Connection::open(endpoint, &options).await?;
        let mut talk = Talk { connection, endpoint: endpoint.clone(), access: DocumentAccess::Open };
        match (talk.nobody_access().await?, refusal) {
            (Some(access), _) => Ok(Talk { access, ..talk }),
            (None, Some(refusal)) => Err(refusal.into()),
            (None, None) => Err(Error::new(
                ErrorKind::Auth,
                format!("{endpoint} asks for a user and password, and none is configured"),
            )
            .with_hint("set `username` in [mongo] of mainstay.toml and MAINSTAY_MONGO_PASSWORD")),
        }
    }

    async fn asks_nobody(&self, endpoint: &Endpoint) -> Result<bool> {
        let options = WireOptions { login: None, ..self.wire.clone() };
        let connection = Connection::open(endpoint, &options).await?;
        let mut talk = Talk { connection, endpoint: endpoint.clone(), access: DocumentAccess::Open };
        Ok(talk.nobody_access().await? == Some(DocumentAccess::Open))
    }

    /// A connection to the server that `permit` is for.
    async fn permitted(&self, permit: &Permit) -> Result<Talk> {
        let mut talk = self.connect().await?;
        let identity = talk.identity().await?;
        let planned = identity.as_planned(&permit.target().fingerprint);
        permit.check(OPERATION, StoreKind::Mongo, planned)?;
        Ok(talk)
    }

    async fn initiate(&self, talk: &mut Talk, set: &str, members: &[String]) -> Result<()> {
        let listed: Vec<Bson> = (0_i32..)
            .zip(members)
            .map(|(id, host)| Bson::Document(doc! { "_id": id, "host": host.as_str() }))
            .collect();
        let command = doc! { "replSetInitiate": { "_id": set, "members": listed } };
        match talk.run("admin", command).await {
            // Somebody else was faster, or a run before this one: whose set it is, whoever looks next sees.
            Err(WireError::Server(error)) if error.code == ALREADY_INITIALIZED => {}
            Err(error) => return Err(Error::from(error).context("initiate the replica set")),
            Ok(_) => {}
        }
        let deadline = tokio::time::Instant::now() + PRIMARY_TIME_MAX;
        loop {
            let hello = talk.run("admin", doc! { "hello": 1 }).await?;
            if hello.get_bool("isWritablePrimary").unwrap_or(false) || hello.get_str("primary").is_ok() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorKind::Unreachable,
                    format!("the replica set {set} is initiated and has had no primary for a minute"),
                )
                .with_hint("look at rs.status(): a majority of its members must reach one another"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Whether the server said that user or password are wrong, or no password is configured.
fn is_refused_login(error: &WireError) -> bool {
    matches!(error, WireError::Login(_)) || error.server_code() == Some(AUTHENTICATION_FAILED)
}

fn login(user: &Principal, password: &Secret) -> Login {
    Login {
        username: user.name.clone(),
        password: Some(password.clone()),
        source: user.database.clone(),
        mechanism: None,
    }
}

/// A connection in use.
struct Talk {
    connection: Connection,
    endpoint: Endpoint,
    access: DocumentAccess,
}

impl Talk {
    async fn run(&mut self, database: &str, command: Document) -> Result<Document, WireError> {
        let mut command = command;
        command.insert("$db", database);
        let bytes = RawDocumentBuf::try_from(&command)
            .map_err(|error| WireError::Protocol(format!("a command that is no BSON: {error}")))?;
        let reply = self.connection.run(bytes.as_bytes()).await?;
        let document = raw::as_document(reply.document())?;
        Document::try_from(document).map_err(|error| WireError::Protocol(error.to_string()))
    }

    /// As [`Talk::run`]; `None` where the server does not tell that now: it is not initiated, or nobody may ask before there are users.
    async fn ask(&mut self, database: &str, command: Document) -> Result<Option<Document>> {
        let access = self.access.clone();
        match self.run(database, command).await {
            Ok(reply) => Ok(Some(reply)),
            Err(error) => match error.server_code() {
                Some(NOT_YET_INITIALIZED | NOT_PRIMARY_OR_SECONDARY | NOT_PRIMARY_NO_SECONDARY_OK) => {
                    Ok(None)
                }
                Some(code::UNAUTHORIZED) if access == DocumentAccess::Exception => Ok(None),
                _ => Err(error.into()),
            },
        }
    }

    /// Everything that a cursor gives.
    async fn list(&mut self, database: &str, command: Document) -> Result<Option<Vec<Document>>> {
        let Some(mut reply) = self.ask(database, command).await? else { return Ok(None) };
        let mut all = Vec::new();
        loop {
            let cursor = reply.get_document("cursor").cloned().unwrap_or_default();
            let batch = cursor.get_array("firstBatch").or_else(|_| cursor.get_array("nextBatch"));
            all.extend(batch.into_iter().flatten().filter_map(Bson::as_document).cloned());
            let id = cursor.get_i64("id").unwrap_or(0);
            let Some((_, collection)) = cursor.get_str("ns").ok().and_then(|name| name.split_once('.'))
            else {
                return Ok(Some(all));
            };
            if id == 0 {
                return Ok(Some(all));
            }
            let more = doc! { "getMore": id, "collection": collection, "batchSize": BATCH };
            reply = self.run(database, more).await?;
        }
    }

    /// How a server takes somebody without a password: `None` when it does not.
    async fn nobody_access(&mut self) -> Result<Option<DocumentAccess>> {
        let authorized = |outcome: Result<Document, WireError>| match outcome {
            Err(error) if error.server_code() == Some(code::UNAUTHORIZED) => Ok(false),
            Err(error) if error.server_code().is_none() => Err(Error::from(error)),
            _ => Ok(true),
        };
        // Who may read settings may do anything; the exception lets one look at a set and make the first user alone.
        if authorized(self.run("admin", doc! { "getCmdLineOpts": 1 }).await)? {
            return Ok(Some(DocumentAccess::Open));
        }
        if authorized(self.run("admin", doc! { "replSetGetStatus": 1 }).await)? {
            return Ok(Some(DocumentAccess::Exception));
        }
        Ok(None)
    }

    /// The set's primary, when the server knows one.
    async fn primary(&mut self) -> Result<Option<Endpoint>> {
        let hello = self.run("admin", doc! { "hello": 1 }).await?;
        let Ok(primary) = hello.get_str("primary") else { return Ok(None) };
        config::endpoint(&ServerAddress::parse(primary).map_err(driver_error)?).map(Some)
    }

    async fn identity(&mut self) -> Result<ServerIdentity> {
        let process = format!("process-{}", hex(&self.connection.greeting().process));
        let lasting = self.lasting_identity().await?;
        let marker = self.marker().await?;
        let fingerprint = lasting.unwrap_or_else(|| match &marker {
            Some(marker) => format!("marker-{}", marker.id),
            None => process.clone(),
        });
        let version = self.run("admin", doc! { "buildInfo": 1 }).await?;
        Ok(ServerIdentity {
            fingerprint,
            process,
            address: self.endpoint.to_string(),
            version: version.get_str("version").unwrap_or("unknown").to_owned(),
            marker,
        })
    }

    /// What names the server for good, as the probe's fingerprint does.
    async fn lasting_identity(&mut self) -> Result<Option<String>> {
        let may = |outcome: Result<Option<Document>>| match outcome {
            Err(error) if error.kind() == ErrorKind::Auth => Ok(None),
            other => other,
        };
        if self.connection.greeting().replica_set.is_some() {
            let config = may(self.ask("admin", doc! { "replSetGetConfig": 1 }).await)?;
            let id = config.as_ref().and_then(|reply| {
                let settings = reply.get_document("config").ok()?.get_document("settings").ok()?;
                settings.get_object_id("replicaSetId").ok()
            });
            if let Some(id) = id {
                return Ok(Some(format!("replica-set-{id}")));
            }
        }
        let filter = doc! { "listCollections": 1, "filter": { "name": "system.version" }, "cursor": {} };
        let found = may(self.ask("admin", filter).await)?;
        let uuid = found.as_ref().and_then(|reply| {
            let first = reply.get_document("cursor").ok()?.get_array("firstBatch").ok()?.first()?;
            let info = first.as_document()?.get_document("info").ok()?;
            info.get_binary_generic("uuid").ok().cloned().or_else(|| match info.get("uuid") {
                Some(Bson::Binary(binary)) => Some(binary.bytes.clone()),
                _ => None,
            })
        });
        Ok(uuid.map(|uuid| format!("server-{}", hex(&uuid))))
    }

    async fn marker(&mut self) -> Result<Option<Marker>> {
        let find =
            doc! { "find": "identity", "filter": { "_id": "environment" }, "limit": 1, "singleBatch": true };
        let found = match self.list(OWN_DATABASE, find).await {
            Err(error) if error.kind() == ErrorKind::Auth => None,
            other => other?,
        };
        let Some(mut document) = found.and_then(|found| found.into_iter().next()) else { return Ok(None) };
        document.remove("_id");
        bson::deserialize_from_document(document).map(Some).map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("mainstay.identity holds no marker: {error}"))
                .with_hint("write it anew with `mainstay environment mark`")
        })
    }

    async fn membership(&mut self) -> Result<Membership> {
        let hello = self.run("admin", doc! { "hello": 1 }).await?;
        if let Ok(set) = hello.get_str("setName") {
            let mut members: Vec<String> = Vec::new();
            for list in ["hosts", "passives", "arbiters"] {
                let listed = hello.get_array(list).map(Vec::as_slice).unwrap_or_default();
                members.extend(listed.iter().filter_map(Bson::as_str).map(str::to_owned));
            }
            members.sort();
            return Ok(Membership::Member { set: set.to_owned(), members });
        }
        Ok(match (hello.get_bool("isreplicaset"), hello.get_str("msg")) {
            (Ok(true), _) => Membership::Awaiting,
            (_, Ok("isdbgrid")) => Membership::Router,
            _ => Membership::Standalone,
        })
    }

    /// The collections of users in all databases.
    async fn user_data(&mut self) -> Result<Option<UserData>> {
        let listing = doc! { "listDatabases": 1, "nameOnly": true };
        let Some(reply) = self.ask("admin", listing).await.context("list databases")? else {
            return Ok(None);
        };
        let listed = reply.get_array("databases").map(Vec::as_slice).unwrap_or_default();
        let names: Vec<&str> =
            listed.iter().filter_map(|database| database.as_document()?.get_str("name").ok()).collect();
        let mut count = 0;
        for name in names.into_iter().filter(|name| is_user_database(name)) {
            let listing = doc! { "listCollections": 1, "nameOnly": true, "cursor": { "batchSize": BATCH } };
            let collections = self.list(name, listing).await.context("list collections")?.unwrap_or_default();
            let own = |spec: &&Document| spec.get_str("name").is_ok_and(is_user_collection);
            count += collections.iter().filter(own).count() as u64;
        }
        Ok(Some(UserData { what: "collections", count }))
    }
}

#[async_trait]
impl DocumentInit for MongoInit {
    async fn look(&self) -> Result<DocumentServer> {
        let mut talk = self.connect().await.context("connect to MongoDB")?;
        let identity = talk.identity().await.context("read facts of MongoDB")?;
        // A server that asks nobody for a password checks one that is offered nevertheless.
        let access = match (&talk.access, self.asks_nobody(&talk.endpoint).await?) {
            (_, true) => DocumentAccess::Open,
            (access, false) => access.clone(),
        };
        Ok(DocumentServer { identity, membership: talk.membership().await?, access })
    }

    async fn users(&self) -> Result<Option<Vec<SeenPrincipal>>> {
        let mut talk = self.connect().await.context("connect to MongoDB")?;
        let command = doc! { "usersInfo": { "forAllDBs": true } };
        let reply = talk.ask("admin", command).await.context("list users")?;
        Ok(reply.map(|reply| principals(&reply, "users", "user")))
    }

    async fn roles(&self) -> Result<Option<Vec<SeenPrincipal>>> {
        let mut talk = self.connect().await.context("connect to MongoDB")?;
        let find = doc! { "find": "system.roles", "batchSize": BATCH };
        let documents = talk.list("admin", find).await.context("list roles")?;
        let all = |documents: Vec<Document>| doc! { "roles": documents.into_iter().map(Bson::Document).collect::<Vec<_>>() };
        Ok(documents.map(|documents| principals(&all(documents), "roles", "role")))
    }

    async fn check_password(&self, user: &Principal, password: &Secret) -> Result<PasswordMatch> {
        let endpoint = self.connect().await.context("connect to MongoDB")?.endpoint;
        let options = WireOptions { login: Some(login(user, password)), ..self.wire.clone() };
        match Connection::open(&endpoint, &options).await {
            Ok(_) => Ok(PasswordMatch::Same),
            Err(error) if is_refused_login(&error) => Ok(PasswordMatch::Other),
            Err(error) => Err(error.into()),
        }
    }

    async fn collections(&self, database: &str) -> Result<Option<Vec<SeenCollection>>> {
        let mut talk = self.connect().await.context("connect to MongoDB")?;
        let listed =
            talk.list(database, doc! { "listCollections": 1, "cursor": { "batchSize": BATCH } }).await;
        let Some(listed) = listed.with_context(|| format!("list collections of {database}"))? else {
            return Ok(None);
        };
        let seen = listed.iter().filter_map(|spec| {
            let options = spec.get_document("options").cloned().unwrap_or_default();
            let namespace = Namespace::new(database, spec.get_str("name").ok()?);
            let kind = spec.get_str("type").unwrap_or("collection").to_owned();
            Some(text_of(&options).map(|options| SeenCollection { namespace, kind, options }))
        });
        seen.collect::<Result<_>>().map(Some)
    }

    async fn indexes(&self, namespace: &Namespace) -> Result<Vec<String>> {
        let mut talk = self.connect().await.context("connect to MongoDB")?;
        let command = doc! { "listIndexes": &namespace.collection, "cursor": { "batchSize": BATCH } };
        match talk.list(&namespace.database, command).await {
            Ok(listed) => listed.unwrap_or_default().iter().map(text_of).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.context(format!("list the indexes of {namespace}"))),
        }
    }

    async fn is_empty(&self, namespace: &Namespace) -> Result<bool> {
        let mut talk = self.connect().await.context("connect to MongoDB")?;
        let find = doc! {
            "find": &namespace.collection, "projection": { "_id": 1 }, "limit": 1, "singleBatch": true,
        };
        let found = talk.list(&namespace.database, find).await;
        let found = found.with_context(|| format!("look for a document in {namespace}"))?;
        // Where the server does not tell, documents may be there.
        Ok(found.is_some_and(|found| found.is_empty()))
    }

    async fn violations(&self, namespace: &Namespace, validator: &str) -> Result<Option<u64>> {
        let mut talk = self.connect().await.context("connect to MongoDB")?;
        let millis = i64::try_from(COUNT_TIME_MAX.as_millis()).unwrap_or(i64::MAX);
        let command = doc! {
            "count": &namespace.collection,
            "query": { "$nor": [document_of(validator)?] },
            "maxTimeMS": millis,
        };
        match talk.run(&namespace.database, command).await {
            Ok(reply) => Ok(number(&reply, "n")),
            Err(error) if error.server_code() == Some(code::TIME_OVER) => Ok(None),
            Err(error) => {
                let error =
                    Error::from(error).context(format!("count what a validator would refuse in {namespace}"));
                Err(match (error.kind(), error.hint()) {
                    (ErrorKind::Server, None) => error.with_hint(format!(
                        "correct `validator` of [init.mongo.collections.{}]: the server does not take it for a query",
                        namespace.collection
                    )),
                    _ => error,
                })
            }
        }
    }

    fn canonical(&self, text: &str) -> Result<String> {
        text_of(&document_of(text)?)
    }

    async fn user_data(&self) -> Result<Option<UserData>> {
        let mut talk = self.connect().await.context("connect to MongoDB")?;
        match talk.user_data().await {
            // Whoever may not look at every database cannot tell.
            Err(error) if error.kind() == ErrorKind::Auth => Ok(None),
            other => other,
        }
    }

    async fn act(&self, act: &DocumentAct, password: Option<&Secret>, permit: &Permit) -> Result<()> {
        let mut talk = self.permitted(permit).await?;
        if let DocumentAct::Initiate { set, members } = act {
            return self.initiate(&mut talk, set, members).await;
        }
        let (database, command) = command_of(act, password)?;
        talk.run(&database, command).await.map(drop).map_err(Error::from)
    }

    async fn mark(&self, marker: &Marker, permit: &Permit) -> Result<()> {
        let mut talk = self.permitted(permit).await?;
        let document = bson::serialize_to_document(marker).map_err(|error| {
            Error::new(ErrorKind::Internal, "the marker has no BSON form").with_source(error)
        })?;
        let command = doc! {
            "update": "identity",
            "updates": [{ "q": { "_id": "environment" }, "u": document, "upsert": true }],
            "writeConcern": { "w": "majority" },
        };
        let reply = talk.run(OWN_DATABASE, command).await.map_err(Error::from)?;
        match reply.get_array("writeErrors") {
            Ok(errors) if !errors.is_empty() => {
                Err(Error::new(ErrorKind::Server, "the server refused the marker"))
            }
            _ => Ok(()),
        }
    }
}

/// The command of an act, and the database that it is for.
fn command_of(act: &DocumentAct, password: Option<&Secret>) -> Result<(String, Document)> {
    let majority = doc! { "w": "majority" };
    let secret = |user: &Principal| {
        password.map(Secret::expose).ok_or_else(|| {
            Error::new(ErrorKind::Precondition, format!("no password is given for user {user}"))
                .with_state("nothing was changed")
        })
    };
    Ok(match act {
        DocumentAct::Initiate { .. } => {
            return Err(Error::new(ErrorKind::Internal, "a set is not initiated by one command alone"));
        }
        DocumentAct::CreateRole { role, privileges, roles } => (
            role.database.clone(),
            doc! {
                "createRole": &role.name, "privileges": privilege_list(privileges), "roles": role_list(roles),
                "writeConcern": majority,
            },
        ),
        DocumentAct::GrantToRole { role, privileges, roles } => {
            let database = role.database.clone();
            match (privileges.is_empty(), roles.is_empty()) {
                (true, _) => (
                    database,
                    doc! { "grantRolesToRole": &role.name, "roles": role_list(roles), "writeConcern": majority },
                ),
                (false, true) => (
                    database,
                    doc! {
                        "grantPrivilegesToRole": &role.name, "privileges": privilege_list(privileges),
                        "writeConcern": majority,
                    },
                ),
                (false, false) => {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        "privileges and roles are granted one by one",
                    ));
                }
            }
        }
        DocumentAct::CreateUser { user, roles } => (
            user.database.clone(),
            doc! {
                "createUser": &user.name, "pwd": secret(user)?, "digestPassword": true, "roles": role_list(roles),
                "writeConcern": majority,
            },
        ),
        DocumentAct::GrantToUser { user, roles } => (
            user.database.clone(),
            doc! { "grantRolesToUser": &user.name, "roles": role_list(roles), "writeConcern": majority },
        ),
        DocumentAct::SetPassword { user } => (
            user.database.clone(),
            doc! { "updateUser": &user.name, "pwd": secret(user)?, "digestPassword": true, "writeConcern": majority },
        ),
        DocumentAct::CreateCollection { namespace, options } => {
            let mut command = doc! { "create": &namespace.collection };
            command.extend(document_of(options)?);
            command.insert("writeConcern", majority);
            (namespace.database.clone(), command)
        }
        DocumentAct::ChangeCollection { namespace, options } => {
            let mut command = doc! { "collMod": &namespace.collection };
            command.extend(document_of(options)?);
            command.insert("writeConcern", majority);
            (namespace.database.clone(), command)
        }
        DocumentAct::CreateIndex { namespace, index } => (
            namespace.database.clone(),
            doc! {
                "createIndexes": &namespace.collection, "indexes": [document_of(index)?], "writeConcern": majority,
            },
        ),
    })
}

fn role_list(roles: &[Principal]) -> Vec<Bson> {
    roles.iter().map(|role| Bson::Document(doc! { "role": &role.name, "db": &role.database })).collect()
}

fn privilege_list(privileges: &[Privilege]) -> Vec<Bson> {
    let one = |privilege: &Privilege| {
        let actions: Vec<Bson> =
            privilege.actions.iter().map(|action| Bson::String(action.clone())).collect();
        Bson::Document(doc! {
            "resource": { "db": &privilege.database, "collection": &privilege.collection },
            "actions": actions,
        })
    };
    privileges.iter().map(one).collect()
}

fn principals(reply: &Document, list: &str, name: &str) -> Vec<SeenPrincipal> {
    let listed = reply.get_array(list).map(Vec::as_slice).unwrap_or_default();
    let mut seen: Vec<SeenPrincipal> = listed
        .iter()
        .filter_map(|one| {
            let one = one.as_document()?;
            Some(SeenPrincipal {
                name: principal(one, name)?,
                roles: roles_of(one),
                privileges: privileges_of(one),
            })
        })
        .collect();
    seen.sort_by(|one, other| one.name.cmp(&other.name));
    seen
}

fn principal(document: &Document, name: &str) -> Option<Principal> {
    Some(Principal {
        database: document.get_str("db").ok()?.to_owned(),
        name: document.get_str(name).ok()?.to_owned(),
    })
}

fn roles_of(document: &Document) -> BTreeSet<Principal> {
    let listed = document.get_array("roles").map(Vec::as_slice).unwrap_or_default();
    listed.iter().filter_map(|role| principal(role.as_document()?, "role")).collect()
}

/// Privileges on databases and collections; those on the cluster are none that can be declared.
fn privileges_of(document: &Document) -> Vec<Privilege> {
    let listed = document.get_array("privileges").map(Vec::as_slice).unwrap_or_default();
    let mut privileges: Vec<Privilege> = listed
        .iter()
        .filter_map(|one| {
            let one = one.as_document()?;
            let resource = one.get_document("resource").ok()?;
            let actions = one.get_array("actions").map(Vec::as_slice).unwrap_or_default();
            Some(Privilege {
                database: resource.get_str("db").ok()?.to_owned(),
                collection: resource.get_str("collection").ok()?.to_owned(),
                actions: actions.iter().filter_map(Bson::as_str).map(str::to_owned).collect(),
            })
        })
        .collect();
    privileges.sort();
    privileges
}

/// A document from Extended JSON.
fn document_of(text: &str) -> Result<Document> {
    let refuse =
        |why: String| Error::new(ErrorKind::Config, format!("it is no Extended JSON document: {why}"));
    let bytes = extjson::parse_document(text).map_err(|error| refuse(error.to_string()))?;
    let document = raw::as_document(&bytes).map_err(|error| refuse(error.to_string()))?;
    Document::try_from(document).map_err(|error| refuse(error.to_string()))
}

/// Its canonical Extended JSON.
fn text_of(document: &Document) -> Result<String> {
    let refuse = |why: String| {
        Error::new(ErrorKind::Corrupt, format!("a document of the server cannot be read: {why}"))
    };
    let bytes = RawDocumentBuf::try_from(document).map_err(|error| refuse(error.to_string()))?;
    extjson::document_text(&bytes).map_err(|error| refuse(error.to_string()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn user(name: &str) -> Principal {
        Principal { database: "shop".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_password_goes_into_the_command_and_nowhere_else() {
        let act = DocumentAct::CreateUser { user: user("app"), roles: vec![user("readWrite")] };
        let (database, command) = command_of(&act, Some(&Secret::new("canary"))).unwrap();
        assert_eq!((database.as_str(), command.get_str("pwd").unwrap()), ("shop", "canary"));
        assert!(command.get_bool("digestPassword").unwrap());
        let error = command_of(&act, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert!(!format!("{act:?}").contains("canary"));
    }

    #[test]
    fn options_keep_the_order_and_types_of_what_was_declared() {
        let document = document_of(r#"{"b": 1, "a": {"$numberLong": "2"}, "c": [true, null]}"#).unwrap();
        assert_eq!(document.keys().collect::<Vec<_>>(), ["b", "a", "c"]);
        assert_eq!(
            text_of(&document).unwrap(),
            r#"{"b":{"$numberInt":"1"},"a":{"$numberLong":"2"},"c":[true,null]}"#
        );
        for hostile in ["", "[]", "7", "{", r#"{"a": {"$numberInt": "x"}}"#, &"{\"a\":".repeat(500)] {
            assert_eq!(document_of(hostile).unwrap_err().kind(), ErrorKind::Config, "{hostile:.20}");
        }
    }

    #[test]
    fn users_and_roles_are_read_as_the_server_tells_them() {
        let reply = doc! { "users": [
            { "_id": "shop.app", "user": "app", "db": "shop", "roles": [{ "role": "readWrite", "db": "shop" }] },
            { "no": "user" },
        ] };
        let seen = principals(&reply, "users", "user");
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].name.to_string(), seen[0].roles.len()), ("shop.app".to_owned(), 1));
    }
}
