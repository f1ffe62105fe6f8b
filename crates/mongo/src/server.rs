//! The adapter's centre: one deployment, its driver client, and the opening of our own connections.
//!
//! Administration goes through the driver, which finds the primary and retries elections; data goes over connections of our own to the
//! primary it found. When the driver cannot reach anything it says little; a connection of our own is then opened to each address given,
//! because its error tells the layer: name, connection, TLS, login, server. Relies on the configuration having been resolved; refuses to
//! send anything but what its callers built.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bson::{Document, RawDocumentBuf, rawdoc};
use mainstay_engine::{
    AccountMerge, AccountStore, Accounts, ChangeReplay, ChangeSurvey, CollectionInfo, CollectionKind,
    Consistency, DocumentSink, DocumentSource, Loader, Namespace, ReplayTarget, Replayer, ServerFacts,
    Snapshot, SnapshotRequest, StoredCollection, Unidentified, Until,
};
use mainstay_guard::Permit;
use mainstay_model::progress::Observer;
use mainstay_model::{Error, ErrorKind, OpTime, Result, ResultExt, StoreKind};
use mongodb::options::ServerAddress;

use crate::config::{self, MongoConfig, ReadFrom, RetryPolicy};
use crate::create::Occupant;
use crate::error::{self, driver_code, driver_error};
use crate::oplog::{MongoReplayer, MongoSurvey};
use crate::topology::{Topology, optime};
use crate::wire::{Connection, Endpoint, WireOptions};
use crate::{accounts, catalog, create, load, probe, scan};

/// The beginning of the names of operations that load dumps.
const LOAD: &str = "mongo.load";

/// The beginning of the names of operations that set servers up.
const INIT: &str = "init";

/// A MongoDB deployment: reads, fills and examines it. Cloning is cheap and shares everything.
#[derive(Clone)]
pub struct MongoServer(Arc<Inner>);

struct Inner {
    driver: mongodb::Client,
    wire: WireOptions,
    seeds: Vec<Endpoint>,
    direct: bool,
    database: Option<String>,
    /// The replica set that the connection string names.
    replica_set: Option<String>,
    /// Somebody is to log in with a password, and none is configured.
    lacks_password: bool,
    retry: RetryPolicy,
    reads: ReadFrom,
    /// Which server this is, once somebody has asked.
    fingerprint: Mutex<Option<String>>,
    /// Sessions that are in a ledger as those of a holder, each with the holder's token.
    noted_sessions: Mutex<BTreeSet<(String, Vec<u8>)>>,
}

impl std::fmt::Debug for MongoServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MongoServer({})", self.seed_list())
    }
}

impl MongoServer {
    /// The deployment that `config` describes. Connects to nothing yet; a `mongodb+srv://` string asks the name server.
    ///
    /// # Errors
    /// `Config` for a connection string, a file or a combination that cannot be right; `Unsupported` for an authentication mechanism or an
    /// address of a kind that is not spoken; `Unreachable` when SRV records cannot be read.
    pub async fn open(config: &MongoConfig) -> Result<Self> {
        let resolved = config::resolve(config).await?;
        let replica_set = resolved.driver.repl_set_name.clone();
        let lacks_password = resolved.wire.login.as_ref().is_some_and(|login| login.lacks_password());
        let driver = mongodb::Client::with_options(resolved.driver).map_err(driver_error)?;
        Ok(Self(Arc::new(Inner {
            driver,
            wire: resolved.wire,
            seeds: resolved.seeds,
            direct: resolved.direct,
            database: resolved.database,
            replica_set,
            lacks_password,
            retry: config.retry,
            reads: resolved.reads,
            fingerprint: Mutex::default(),
            noted_sessions: Mutex::default(),
        })))
    }

    /// The application's database, if one is configured.
    pub fn database(&self) -> Option<&str> {
        self.0.database.as_deref()
    }

    /// The addresses given, without credentials.
    pub(crate) fn seed_list(&self) -> String {
        self.0.seeds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// A session of the driver, for transactions.
    pub(crate) async fn session(&self) -> Result<mongodb::ClientSession, mongodb::error::Error> {
        self.0.driver.start_session().await
    }

    /// Whether this session of the holder of `token` was never told before; it counts as told from now on.
    pub(crate) fn is_first_noted(&self, token: &str, session: &[u8]) -> bool {
        let mut noted = self.0.noted_sessions.lock().unwrap_or_else(PoisonError::into_inner);
        noted.insert((token.to_owned(), session.to_vec()))
    }

    /// A database of the driver, for commands in a session.
    pub(crate) fn driver_database(&self, name: &str) -> mongodb::Database {
        self.0.driver.database(name)
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.0.retry
    }

    /// Runs a command that only reads; tried again when the connection breaks or the server says that it failed
    /// for the moment.
    pub(crate) async fn ask(&self, database: &str, command: RawDocumentBuf) -> Result<Document> {
        self.retried(|| self.driver_tell(database, command.clone())).await
    }

    /// As [`MongoServer::ask`]; `None` when the server answers with the error `code`.
    pub(crate) async fn ask_unless(
        &self,
        code: i32,
        database: &str,
        command: RawDocumentBuf,
    ) -> Result<Option<Document>> {
        self.retried(|| async {
            match self.driver_tell(database, command.clone()).await {
                Err(error) if driver_code(&error) == Some(code) => Ok(None),
                outcome => outcome.map(Some),
            }
        })
        .await
    }

    /// Runs a command once.
    pub(crate) async fn tell(&self, database: &str, command: RawDocumentBuf) -> Result<Document> {
        match self.driver_tell(database, command).await {
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// As [`MongoServer::tell`], with the driver's error for whoever acts on its code. A write that was done but is not known to be durable
    /// is an error, which the driver leaves to the reader of the reply.
    pub(crate) async fn driver_tell(
        &self,
        database: &str,
        command: RawDocumentBuf,
    ) -> Result<Document, mongodb::error::Error> {
        let reply = self.0.driver.database(database).run_raw_command(command).await?;
        match error::concern_failure(&reply) {
            Some(failure) => Err(failure),
            None => Ok(reply),
        }
    }

    /// Runs a command that gives a cursor, and everything the cursor gives, byte for byte.
    pub(crate) async fn list(&self, database: &str, command: RawDocumentBuf) -> Result<Vec<RawDocumentBuf>> {
        self.retried(|| self.driver_list(database, command.clone())).await
    }

    /// As [`MongoServer::list`], once, with the driver's error for whoever acts on its code.
    pub(crate) async fn driver_list(
        &self,
        database: &str,
        command: RawDocumentBuf,
    ) -> Result<Vec<RawDocumentBuf>, mongodb::error::Error> {
        let mut cursor = self.0.driver.database(database).run_raw_cursor_command(command).await?;
        let mut documents = Vec::new();
        while cursor.advance().await? {
            documents.push(cursor.current().to_owned());
        }
        Ok(documents)
    }

    /// What the primary (or the one server, or mongos) says of itself.
    pub(crate) async fn hello(&self) -> Result<Document> {
        self.ask("admin", rawdoc! { "hello": 1 }).await
    }

    /// Opens a connection of our own to the server that takes writes now.
    ///
    /// # Errors
    /// Those of the layers, as [`crate::error::WireError`] becomes them; temporary ones may be tried again.
    pub(crate) async fn dial(&self) -> Result<Connection> {
        let mut failure = None;
        for endpoint in self.candidates().await? {
            match Connection::open(&endpoint, &self.0.wire).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.map_or_else(
            || Error::new(ErrorKind::Config, "the connection string names no server"),
            |failure| self.with_password_missing(failure.into()),
        ))
    }

    /// As [`MongoServer::dial`], tried again while what failed may pass.
    ///
    /// # Errors
    /// As [`MongoServer::dial`], after the last try.
    pub(crate) async fn dial_retried(&self) -> Result<Connection> {
        let mut incident = self.0.retry.incident();
        loop {
            match self.dial().await {
                Err(error) if error.is_temporary() => match incident.next_delay() {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => return Err(error),
                },
                outcome => return outcome,
            }
        }
    }

    /// Opens a connection of our own to one member of the replica set, primary or not.
    ///
    /// # Errors
    /// As [`MongoServer::dial`]; `Unreachable` too when another member answers at that address.
    pub(crate) async fn dial_member(&self, member: &str) -> Result<Connection> {
        let connection = if self.0.direct {
            self.dial().await?
        } else {
            Connection::open(&member_endpoint(member)?, &self.0.wire).await?
        };
        let answers = connection.greeting().member.as_deref().unwrap_or("no member of a replica set");
        if answers == member {
            return Ok(connection);
        }
        Err(Error::new(ErrorKind::Unreachable, format!("{answers} answers in the place of member {member}"))
            .with_hint("run the same command again"))
    }

    /// The member of a replica set that scans at one moment read: the primary that gave `hello`, or a secondary when the connection string
    /// prefers one. `None` where there are no members.
    ///
    /// # Errors
    /// `Unreachable` when a secondary is demanded and none answers.
    pub(crate) async fn reading_member(&self, hello: &Document) -> Result<Option<String>> {
        let Ok(own) = hello.get_str("me") else { return Ok(None) };
        if self.0.reads == ReadFrom::Primary || self.0.direct {
            return Ok(Some(own.to_owned()));
        }
        for name in members_of(hello).into_iter().filter(|name| name != own) {
            let Ok(connection) = Connection::open(&member_endpoint(&name)?, &self.0.wire).await else {
                continue;
            };
            if connection.greeting().secondary {
                return Ok(connection.greeting().member.clone());
            }
        }
        match self.0.reads {
            ReadFrom::Secondary => Err(Error::new(
                ErrorKind::Unreachable,
                "the url says `readPreference=secondary`, and no secondary answers",
            )
            .with_hint("write `readPreference=secondaryPreferred` to read the primary then, or wait until rs.status() shows a secondary")),
            ReadFrom::Primary | ReadFrom::SecondaryPreferred => Ok(Some(own.to_owned())),
        }
    }

    /// The servers to try, in order: the primary of a replica set; else the addresses given.
    async fn candidates(&self) -> Result<Vec<Endpoint>> {
        if self.0.direct {
            return Ok(self.0.seeds.clone());
        }
        let hello = self.hello().await?;
        match hello.get_str("primary").or_else(|_| hello.get_str("me")) {
            Ok(address) => {
                let address = ServerAddress::parse(address).map_err(driver_error)?;
                Ok(vec![config::endpoint(&address)?])
            }
            Err(_) => Ok(self.0.seeds.clone()),
        }
    }

    async fn retried<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, mongodb::error::Error>>,
    {
        let mut incident = self.0.retry.incident();
        loop {
            let failure = match attempt().await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            // Where no server could be found the driver has waited for one already.
            let waited = error::is_unselected(&failure);
            let error = self.explain(failure).await;
            match incident.next_delay() {
                Some(delay) if error.is_temporary() && !waited => tokio::time::sleep(delay).await,
                _ => return Err(error),
            }
        }
    }

    /// The driver's error; when it reached nothing, the error of a connection of our own that says at which layer.
    pub(crate) async fn explain(&self, error: mongodb::error::Error) -> Error {
        if error::is_unreached(&error) {
            for endpoint in &self.0.seeds {
                match Connection::open(endpoint, &self.0.wire).await {
                    Err(exact) => return self.with_password_missing(exact.into()),
                    Ok(connection) => {
                        let found = connection.greeting().replica_set.as_deref();
                        if let Some(wanted) = self.0.replica_set.as_deref().filter(|it| Some(*it) != found) {
                            return other_replica_set(endpoint, wanted, found);
                        }
                    }
                }
            }
        }
        self.with_password_missing(driver_error(error))
    }

    /// A failed login for the reason that is known without asking the server.
    fn with_password_missing(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Auth || !self.0.lacks_password {
            return error;
        }
        Error::new(ErrorKind::Auth, "a user name is configured, but no password for it")
            .with_hint("set MAINSTAY_MONGO_PASSWORD, or `password` in [mongo] of mainstay.toml, then run `mainstay config check`")
    }

    /// Refuses when `permit` is not for filling this server: for a restore, or for the load of a dump.
    ///
    /// # Errors
    /// As [`MongoServer::authorize`].
    pub(crate) async fn authorize_filling(&self, permit: &Permit) -> Result<()> {
        let operation = if permit.operation().starts_with(LOAD) { LOAD } else { "restore" };
        self.authorize(permit, operation).await
    }

    /// Refuses when `permit` is not for changing the indexes of this server, by themselves or while it is set up.
    ///
    /// # Errors
    /// As [`MongoServer::authorize`].
    pub(crate) async fn authorize_indexing(&self, permit: &Permit) -> Result<()> {
        let operation = if permit.operation().starts_with(INIT) { INIT } else { "index" };
        self.authorize(permit, operation).await
    }

    /// Refuses when `permit` is not for `operation` on this server.
    ///
    /// # Errors
    /// `Refused`, with nothing changed; what asking the server for its fingerprint may give.
    pub(crate) async fn authorize(&self, permit: &Permit, operation: &str) -> Result<()> {
        let known = self.0.fingerprint.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fingerprint = match known {
            Some(fingerprint) => fingerprint,
            None => {
                let asked = probe::fingerprint(self, &self.hello().await?).await?;
                *self.0.fingerprint.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked.clone());
                asked
            }
        };
        permit.check(operation, StoreKind::Mongo, &fingerprint)
    }

    /// Forgets which server this is, after a change that may have changed the answer.
    pub(crate) fn forget_fingerprint(&self) {
        *self.0.fingerprint.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The members of a replica set that hold data and are not hidden, as one of them tells.
pub(crate) fn members_of(hello: &Document) -> Vec<String> {
    let mut names = Vec::new();
    for list in ["hosts", "passives"] {
        let listed = hello.get_array(list).map(Vec::as_slice).unwrap_or_default();
        names.extend(listed.iter().filter_map(|name| name.as_str()).map(str::to_owned));
    }
    names
}

fn member_endpoint(member: &str) -> Result<Endpoint> {
    config::endpoint(&ServerAddress::parse(member).map_err(driver_error)?)
}

/// The connection string names a replica set that the server at `endpoint` is no member of.
fn other_replica_set(endpoint: &Endpoint, wanted: &str, found: Option<&str>) -> Error {
    let built = |is: String| {
        Error::new(ErrorKind::Config, format!("the url asks for replica set {wanted}, {endpoint} {is}"))
    };
    match found {
        Some(found) => built(format!("is a member of {found}"))
            .with_hint(format!("write `replicaSet={found}` in the url, then run `mainstay config check`")),
        None => built("is a member of none".to_owned())
            .with_hint("remove `replicaSet=` from the url, then run `mainstay config check`"),
    }
}

#[async_trait]
impl ChangeReplay for MongoServer {
    fn survey(
        &self,
        collections: Vec<StoredCollection>,
        until: Until,
        unidentified: Unidentified,
    ) -> Result<Box<dyn ChangeSurvey>> {
        Ok(Box::new(MongoSurvey::begin(&collections, until, unidentified)?))
    }

    async fn replayer(&self, targets: Vec<ReplayTarget>, until: Until) -> Result<Box<dyn Replayer>> {
        Ok(Box::new(MongoReplayer::begin(self.clone(), targets, until).await?))
    }
}

#[async_trait]
impl DocumentSource for MongoServer {
    async fn server_facts(&self) -> Result<ServerFacts> {
        probe::server_facts(self).await
    }

    async fn databases(&self) -> Result<Vec<String>> {
        catalog::databases(self).await
    }

    async fn every_database(&self) -> Result<Vec<String>> {
        catalog::every_database(self).await
    }

    async fn collections(&self, database: &str) -> Result<Vec<CollectionInfo>> {
        catalog::collections(self, database).await
    }

    async fn position(&self) -> Result<Option<OpTime>> {
        let hello = self.hello().await?;
        Ok(Topology::of(&hello).log_position(&hello).map(optime))
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(scan::MongoSnapshot::take(self.clone(), request).await?))
    }

    async fn snapshot_again(
        &self,
        consistency: &Consistency,
        near: &CollectionInfo,
    ) -> Result<Option<Arc<dyn Snapshot>>> {
        let snapshot = scan::MongoSnapshot::again(self.clone(), consistency, near).await?;
        Ok(snapshot.map(|snapshot| Arc::new(snapshot) as Arc<dyn Snapshot>))
    }
}

#[async_trait]
impl DocumentSink for MongoServer {
    async fn create(&self, target: &Namespace, metadata: &str) -> Result<()> {
        create::create(self, target, metadata).await
    }

    async fn loader(&self, target: &Namespace, kind: CollectionKind) -> Result<Box<dyn Loader>> {
        Ok(Box::new(load::MongoLoader::open(self.clone(), target, kind).await?))
    }

    async fn build_indexes(&self, target: &Namespace, metadata: &str, observer: &dyn Observer) -> Result<()> {
        create::build_indexes(self, target, metadata, observer).await
    }

    async fn rename(&self, from: &Namespace, to: &Namespace) -> Result<()> {
        create::rename(self, from, to, Occupant::Respected).await
    }

    async fn replace(&self, from: &Namespace, to: &Namespace, permit: &Permit) -> Result<()> {
        self.authorize_filling(permit).await.with_context(|| format!("replace {to}"))?;
        create::rename(self, from, to, Occupant::Dropped).await
    }

    async fn drop_collection(&self, target: &Namespace, permit: &Permit) -> Result<()> {
        self.authorize_filling(permit).await.with_context(|| format!("drop {target}"))?;
        create::drop_collection(self, target).await
    }
}

#[async_trait]
impl AccountStore for MongoServer {
    async fn accounts(&self, database: Option<&str>) -> Result<Accounts> {
        accounts::read(self, database).await
    }

    async fn compare_accounts(&self, accounts: &Accounts, database: Option<&str>) -> Result<AccountMerge> {
        accounts::compare(self, accounts, database).await
    }

    async fn merge_accounts(
        &self,
        accounts: &Accounts,
        database: Option<&str>,
        permit: &Permit,
    ) -> Result<AccountMerge> {
        accounts::merge(self, accounts, database, permit).await
    }
}
