//! The adapter's centre: one deployment, its driver client, and the opening of our own connections.
//!
//! Administration goes through the driver, which finds the primary and retries elections; data goes over connections of our own to the
//! primary it found. When the driver cannot reach anything it says little; a connection of our own is then opened to each address given,
//! because its error tells the layer: name, connection, TLS, login, server. Relies on the configuration having been resolved; refuses to
//! send anything but what its callers built.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bson::{Document, RawDocumentBuf, rawdoc};
use mainstay_engine::{
    CollectionInfo, CollectionKind, DocumentSink, DocumentSource, Loader, Namespace, ServerFacts, Snapshot,
    SnapshotRequest,
};
use mainstay_guard::Permit;
use mainstay_model::progress::Observer;
use mainstay_model::{Error, ErrorKind, Result};
use mongodb::options::ServerAddress;

use crate::config::{self, MongoConfig, RetryPolicy};
use crate::error::{self, driver_error};
use crate::wire::{Connection, Endpoint, WireOptions};
use crate::{catalog, create, load, probe, scan};

/// A MongoDB deployment: reads, fills and examines it. Cloning is cheap and shares everything.
#[derive(Clone)]
pub struct MongoServer(Arc<Inner>);

struct Inner {
    driver: mongodb::Client,
    wire: WireOptions,
    seeds: Vec<Endpoint>,
    direct: bool,
    database: Option<String>,
    retry: RetryPolicy,
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
        let driver = mongodb::Client::with_options(resolved.driver).map_err(driver_error)?;
        Ok(Self(Arc::new(Inner {
            driver,
            wire: resolved.wire,
            seeds: resolved.seeds,
            direct: resolved.direct,
            database: resolved.database,
            retry: config.retry,
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

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.0.retry
    }

    /// Runs a command that only reads; tried again when the server says that it failed for the moment.
    pub(crate) async fn ask(&self, database: &str, command: RawDocumentBuf) -> Result<Document> {
        self.retried(|| self.tell(database, command.clone())).await
    }

    /// Runs a command once.
    pub(crate) async fn tell(&self, database: &str, command: RawDocumentBuf) -> Result<Document> {
        match self.driver_tell(database, command).await {
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// As [`MongoServer::tell`], with the driver's error for whoever acts on its code.
    pub(crate) async fn driver_tell(
        &self,
        database: &str,
        command: RawDocumentBuf,
    ) -> Result<Document, mongodb::error::Error> {
        self.0.driver.database(database).run_raw_command(command).await
    }

    /// Runs a command that gives a cursor, and everything the cursor gives, byte for byte.
    pub(crate) async fn list(&self, database: &str, command: RawDocumentBuf) -> Result<Vec<RawDocumentBuf>> {
        self.retried(|| async {
            match self.driver_list(database, command.clone()).await {
                Ok(documents) => Ok(documents),
                Err(error) => Err(self.explain(error).await),
            }
        })
        .await
    }

    async fn driver_list(
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
            Error::from,
        ))
    }

    /// The servers to try, in order: the primary of a replica set; else the addresses given.
    async fn candidates(&self) -> Result<Vec<Endpoint>> {
        if self.0.direct {
            return Ok(self.0.seeds.clone());
        }
        let hello = self.tell("admin", rawdoc! { "hello": 1 }).await?;
        match hello.get_str("primary").or_else(|_| hello.get_str("me")) {
            Ok(address) => {
                let address = ServerAddress::parse(address).map_err(driver_error)?;
                Ok(vec![config::endpoint(&address)?])
            }
            Err(_) => Ok(self.0.seeds.clone()),
        }
    }

    async fn retried<T, F: Future<Output = Result<T>>>(&self, mut attempt: impl FnMut() -> F) -> Result<T> {
        let mut incident = self.0.retry.incident();
        loop {
            match attempt().await {
                // What is unreachable has been waited for by the driver already.
                Err(error) if error.is_temporary() && error.kind() != ErrorKind::Unreachable => {
                    match incident.next_delay() {
                        Some(delay) => tokio::time::sleep(delay).await,
                        None => return Err(error),
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// The driver's error; when it reached nothing, the error of a connection of our own that says at which layer.
    pub(crate) async fn explain(&self, error: mongodb::error::Error) -> Error {
        if error::is_unreached(&error) {
            for endpoint in &self.0.seeds {
                if let Err(exact) = Connection::open(endpoint, &self.0.wire).await {
                    return exact.into();
                }
            }
        }
        driver_error(error)
    }
}

/// Pauses between tries of the same thing on one of our own connections; see [`RetryPolicy`].
pub(crate) async fn pause(delay: Duration) {
    tokio::time::sleep(delay).await;
}

#[async_trait]
impl DocumentSource for MongoServer {
    async fn server_facts(&self) -> Result<ServerFacts> {
        probe::server_facts(self).await
    }

    async fn databases(&self) -> Result<Vec<String>> {
        catalog::databases(self).await
    }

    async fn collections(&self, database: &str) -> Result<Vec<CollectionInfo>> {
        catalog::collections(self, database).await
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<Arc<dyn Snapshot>> {
        Ok(Arc::new(scan::MongoSnapshot::take(self.clone(), request).await?))
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

    async fn replace(&self, from: &Namespace, to: &Namespace, _permit: &Permit) -> Result<()> {
        create::replace(self, from, to).await
    }

    async fn drop_collection(&self, target: &Namespace, _permit: &Permit) -> Result<()> {
        create::drop_collection(self, target).await
    }
}
