//! Adapters, object store, repository and guard, made from the resolved configuration when a command asks for them.
//!
//! The one place that knows which adapter serves which trait. Nothing here connects by being made: servers are reached when they are asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;
use mainstay_engine::{
    AccountStore, BaseBackupSource, ChangeReplay, ChangeSource, DocumentInit, DocumentSink, DocumentSource,
    IndexControl, Inspection, KeyCarrier, KeyFileSource, KeyServerControl, KeyServerInit, Keyspace,
    MigrationTarget, Namespace, Principal, Probe, ReferenceInspection, RehearsalHost, RelationalInit,
    RelationalInspection, ReplicaTarget, ReplicationSource, StoreFacts, WalSource,
};
use mainstay_guard::{
    Actor, AuditLog, ConfiguredEnvironment, Environment, Guard, Marker, Permit, Policy, identify,
};
use mainstay_indexes::Manifest;
use mainstay_migrations::{Folder, TrackingTable};
use mainstay_model::{
    Clock, Error, ErrorKind, Finding, Result, ResultExt, Secret, StoreKind, SystemClock, Target, redact_url,
};
use mainstay_mongo::{MongoConfig, MongoInit, MongoServer};
use mainstay_ops::Selection;
use mainstay_ops::cluster::FetchCommand;
use mainstay_ops::status::counted_marker;
use mainstay_postgres::{
    PostgresCluster, PostgresConfig, PostgresDatabases, PostgresInit, PostgresInspection, PostgresMigrations,
    PostgresProbe, PostgresReferences, PostgresRehearsal, PostgresScratch, ProgramPlaces, TlsOptions,
};
use mainstay_redis::{
    RedisCarrier, RedisConfig, RedisInit, RedisKeyFile, RedisKeyspace, RedisProbe, RedisReplica,
    RedisReplication, RedisScratch, RedisServer,
};
use mainstay_repository::{Compression, Repository, RepositoryOptions};
use mainstay_store::{Location, S3Options, Store, StoreOptions};
use tokio_util::sync::CancellationToken;

use crate::config::connection::{Connection, holds_password};
use crate::config::drizzle;
use crate::config::key::Key;
use crate::config::manifest;
use crate::config::resolved::RepositorySettings;
use crate::config::source::Rank;
use crate::config::{Configuration, MongoSettings, Outside, PostgresSettings, RedisSettings};
use crate::printer::Printer;
use crate::printer::consent::TerminalConsent;

/// How long a probe may take to connect: less than any command waits for its answer, so that the reason is told and not only the delay.
const PROBE_CONNECT_TIME_MAX: Duration = Duration::from_secs(4);

/// A document store by its sides.
pub(crate) struct Documents {
    /// Looks at it.
    pub(crate) probe: Arc<dyn Probe>,
    /// Reads it.
    pub(crate) source: Arc<dyn DocumentSource>,
    /// Follows its change log.
    pub(crate) changes: Arc<dyn ChangeSource>,
    /// Fills it.
    pub(crate) sink: Arc<dyn DocumentSink>,
    /// Replays a change log into it.
    pub(crate) replay: Arc<dyn ChangeReplay>,
    /// Looks into it.
    pub(crate) inspection: Arc<dyn Inspection>,
    /// Its indexes.
    pub(crate) indexes: Arc<dyn IndexControl>,
    /// Its users and roles.
    pub(crate) accounts: Arc<dyn AccountStore>,
}

/// What a command works with.
pub(crate) struct Session {
    /// The resolved configuration.
    pub(crate) configuration: Configuration,
    /// What the outside said: working directory, variables.
    pub(crate) outside: Outside,
    /// Prints.
    pub(crate) printer: Arc<Printer>,
    /// Cancelled by the first Ctrl-C or SIGTERM.
    pub(crate) cancel: CancellationToken,
    /// Tells the time.
    pub(crate) clock: Arc<dyn Clock>,
    /// Who acts.
    pub(crate) actor: Actor,
}

impl Session {
    /// A session of this process.
    pub(crate) fn new(configuration: Configuration, outside: Outside, printer: Arc<Printer>) -> Self {
        let actor = actor(&outside);
        Self {
            configuration,
            outside,
            printer,
            cancel: CancellationToken::new(),
            clock: Arc::new(SystemClock),
            actor,
        }
    }

    /// Who runs this, for leases: `user@host`.
    pub(crate) fn holder(&self) -> String {
        format!("{}@{}", self.actor.name, self.actor.host)
    }

    /// A path given as an argument.
    pub(crate) fn path(&self, given: &std::path::Path) -> PathBuf {
        self.outside.working_dir.join(given)
    }

    /// Words that appear in output for reasons of their own, so that a password equal to one of them is not blanked out.
    pub(crate) fn public_words(&self) -> Vec<String> {
        let configuration = &self.configuration;
        let mut words: Vec<String> = configuration.environment_name.iter().cloned().collect();
        let connections = [
            configuration
                .mongo
                .as_ref()
                .map(|settings| (&settings.connection, &settings.credentials, settings.database.clone())),
            configuration
                .postgres
                .as_ref()
                .map(|settings| (&settings.connection, &settings.credentials, None)),
            configuration.redis.as_ref().map(|settings| (&settings.connection, &settings.credentials, None)),
        ];
        for (connection, credentials, database) in connections.into_iter().flatten() {
            words.push(connection.hosts.clone());
            words.extend(connection.hosts.split([':', ',']).map(str::to_owned));
            words.extend(connection.database.clone());
            words.extend(database);
            words.extend(credentials.username.as_ref().map(|(name, _)| name.clone()));
        }
        words
    }

    /// Consent through the terminal, or through the value of `--approve`.
    ///
    /// # Errors
    /// `Usage` when that is not a hash.
    pub(crate) fn consent(&self, approve: Option<&str>) -> Result<TerminalConsent> {
        TerminalConsent::new(self.printer.clone(), approve)
    }

    /// What the configuration says of the environment.
    pub(crate) fn configured_environment(&self) -> ConfiguredEnvironment {
        ConfiguredEnvironment {
            name: self.configuration.environment_name.clone(),
            class: self.configuration.environment_class,
        }
    }

    /// The environment that `probe`'s store belongs to, by configuration and marker. A marker that is damaged counts as none, and is told.
    ///
    /// # Errors
    /// `Refused` when the two contradict each other; the store's when it cannot be asked.
    pub(crate) async fn environment_of(&self, probe: &dyn Probe) -> Result<Environment> {
        let marker = probe.marker().await;
        let marker = match (counted_marker(&marker), marker) {
            (Some(counted), Ok(_)) => counted,
            (Some(counted), Err(damage)) => {
                let way_out = format!("`mainstay environment mark --store {}` writes it anew", probe.kind());
                self.printer.notice(&format!("warning: {damage}: it counts as production; {way_out}"));
                counted
            }
            (None, marker) => {
                marker.with_context(|| format!("read the environment marker of {}", probe.kind()))?
            }
        };
        identify(&self.configured_environment(), &[(probe.kind(), marker)])
    }

    /// A probe for every configured store. One whose address cannot even be looked up is a probe that says so.
    ///
    /// # Errors
    /// `Config` when a connection cannot be described.
    pub(crate) async fn probes(&self) -> Result<Vec<Arc<dyn Probe>>> {
        let mut probes = Vec::new();
        for kind in self.configuration.stores() {
            probes.push(match self.probe(kind).await {
                Err(error) if error.kind() == ErrorKind::Unreachable => self.lost(kind, &error),
                probe => probe?,
            });
        }
        Ok(probes)
    }

    fn lost(&self, kind: StoreKind, error: &Error) -> Arc<dyn Probe> {
        // Only MongoDB's addresses are looked up before anything is asked (`mongodb+srv://`).
        let hosts = self.configuration.mongo.as_ref().map(|settings| settings.connection.hosts.clone());
        Arc::new(Lost {
            kind,
            address: hosts.unwrap_or_default(),
            message: error.to_string(),
            hint: error.hint().unwrap_or("check the address and the name server").to_owned(),
        })
    }

    /// The probe of one store.
    ///
    /// # Errors
    /// `Precondition` when that store has no url; `Config` when its connection cannot be described.
    pub(crate) async fn probe(&self, kind: StoreKind) -> Result<Arc<dyn Probe>> {
        let configuration = &self.configuration;
        Ok(match kind {
            StoreKind::Mongo => {
                let mut config = mongo(configuration.mongo.as_ref().ok_or_else(|| not_configured(kind))?);
                config.connect_timeout = Some(PROBE_CONNECT_TIME_MAX);
                config.server_selection_timeout = Some(PROBE_CONNECT_TIME_MAX);
                let opened = tokio::time::timeout(PROBE_CONNECT_TIME_MAX, MongoServer::open(&config)).await;
                Arc::new(opened.unwrap_or_else(|_| {
                    Err(Error::new(
                        ErrorKind::Unreachable,
                        "the name server does not tell the hosts of MongoDB in time",
                    ))
                })?)
            }
            StoreKind::Postgres => {
                let mut config =
                    postgres(configuration.postgres.as_ref().ok_or_else(|| not_configured(kind))?)?;
                config.connect_timeout = PROBE_CONNECT_TIME_MAX;
                Arc::new(PostgresProbe::new(&config)?)
            }
            StoreKind::Redis => {
                let mut config = redis(configuration.redis.as_ref().ok_or_else(|| not_configured(kind))?);
                config.connect_timeout = PROBE_CONNECT_TIME_MAX;
                Arc::new(RedisProbe::new(&config)?)
            }
        })
    }

    /// The document store of that kind, for reading and writing.
    ///
    /// # Errors
    /// `Precondition` when it has no url; `Unsupported` when the store holds no documents.
    pub(crate) async fn documents(&self, kind: StoreKind) -> Result<Documents> {
        if kind != StoreKind::Mongo {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("this version backs up mongo and postgres, not {kind}"),
            )
            .with_state("nothing was changed")
            .with_hint("use `--store mongo` or `--store postgres`"));
        }
        let settings = self.configuration.mongo.as_ref().ok_or_else(|| not_configured(kind))?;
        let server = Arc::new(MongoServer::open(&mongo(settings)).await?);
        Ok(Documents {
            probe: server.clone(),
            source: server.clone(),
            changes: server.clone(),
            sink: server.clone(),
            replay: server.clone(),
            inspection: server.clone(),
            indexes: server.clone(),
            accounts: server,
        })
    }

    /// The indexes that MongoDB is to have.
    ///
    /// # Errors
    /// `Precondition` when nobody declares any; `Config` when the manifest is faulty.
    pub(crate) fn index_manifest(&self) -> Result<Manifest> {
        let path = self.configuration.index_manifest.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Precondition, "no indexes are declared")
                .with_state("nothing was changed")
                .with_hint("write what is there with `mainstay index import live --output indexes.toml`, or what code declares with `mainstay index import mongoose`, and name the file as `indexes` in [mongo]")
        })?;
        manifest::read(path)
    }

    /// The MongoDB that is brought to what is declared. `administrators` are declared users who may make others.
    ///
    /// # Errors
    /// `Precondition` when it has no url; `Config` when its connection cannot be described.
    pub(crate) async fn document_init(
        &self,
        administrators: Vec<(Principal, Secret)>,
    ) -> Result<Arc<dyn DocumentInit>> {
        let kind = StoreKind::Mongo;
        let settings = self.configuration.mongo.as_ref().ok_or_else(|| not_configured(kind))?;
        Ok(Arc::new(MongoInit::open(&mongo(settings), administrators).await?))
    }

    /// The PostgreSQL that is brought to what is declared.
    ///
    /// # Errors
    /// As [`Session::document_init`].
    pub(crate) fn relational_init(&self) -> Result<Arc<dyn RelationalInit>> {
        let kind = StoreKind::Postgres;
        let settings = self.configuration.postgres.as_ref().ok_or_else(|| not_configured(kind))?;
        Ok(Arc::new(PostgresInit::new(&postgres(settings)?)?))
    }

    /// The Redis that is brought to what is declared.
    ///
    /// # Errors
    /// As [`Session::document_init`].
    pub(crate) fn key_server_init(&self) -> Result<Arc<dyn KeyServerInit>> {
        let kind = StoreKind::Redis;
        let settings = self.configuration.redis.as_ref().ok_or_else(|| not_configured(kind))?;
        Ok(Arc::new(RedisInit::new(&redis(settings))?))
    }

    /// The keys of Redis.
    ///
    /// # Errors
    /// `Precondition` when it has no url; `Config` when its connection cannot be described.
    pub(crate) fn keyspace(&self) -> Result<Arc<dyn Keyspace>> {
        let kind = StoreKind::Redis;
        let settings = self.configuration.redis.as_ref().ok_or_else(|| not_configured(kind))?;
        Ok(Arc::new(RedisKeyspace::new(&redis(settings))?))
    }

    /// The running Redis, looked at and configured.
    ///
    /// # Errors
    /// `Precondition` when it has no url; `Config` when its connection cannot be described.
    pub(crate) fn key_server(&self) -> Result<Arc<dyn KeyServerControl>> {
        let kind = StoreKind::Redis;
        let settings = self.configuration.redis.as_ref().ok_or_else(|| not_configured(kind))?;
        Ok(Arc::new(RedisServer::new(&redis(settings))?))
    }

    /// The same, for the settings that a backup changes while it begins.
    ///
    /// # Errors
    /// As [`Session::key_server`].
    pub(crate) fn key_server_of_backup(&self) -> Result<Arc<dyn KeyServerControl>> {
        let kind = StoreKind::Redis;
        let settings = self.configuration.redis.as_ref().ok_or_else(|| not_configured(kind))?;
        Ok(Arc::new(RedisServer::of_backup(&redis(settings))?))
    }

    /// The Redis whose keys are copied as one file.
    ///
    /// # Errors
    /// `Precondition` when it has no url; `Config` when its connection cannot be described.
    pub(crate) fn key_file(&self) -> Result<Arc<dyn KeyFileSource>> {
        let kind = StoreKind::Redis;
        let settings = self.configuration.redis.as_ref().ok_or_else(|| not_configured(kind))?;
        Ok(Arc::new(RedisKeyFile::new(&redis(settings))?))
    }

    /// The Redis whose replication stream is followed.
    ///
    /// # Errors
    /// `Precondition` when it has no url; `Config` when its connection cannot be described.
    pub(crate) fn replication(&self) -> Result<Arc<dyn ReplicationSource>> {
        let kind = StoreKind::Redis;
        let settings = self.configuration.redis.as_ref().ok_or_else(|| not_configured(kind))?;
        Ok(Arc::new(RedisReplication::new(&redis(settings))?))
    }

    /// The Redis that is filled.
    ///
    /// # Errors
    /// As [`Session::replication`].
    pub(crate) fn replica(&self) -> Result<Arc<dyn ReplicaTarget>> {
        let kind = StoreKind::Redis;
        let settings = self.configuration.redis.as_ref().ok_or_else(|| not_configured(kind))?;
        Ok(Arc::new(RedisReplica::new(&redis(settings))?))
    }

    /// The Redis that keys are carried to.
    ///
    /// # Errors
    /// As [`Session::replication`].
    pub(crate) fn carrier(&self) -> Result<Arc<dyn KeyCarrier>> {
        let kind = StoreKind::Redis;
        let settings = self.configuration.redis.as_ref().ok_or_else(|| not_configured(kind))?;
        Ok(Arc::new(RedisCarrier::new(&redis(settings))?))
    }

    /// A throw-away Redis, started now. Needs no configured server.
    ///
    /// # Errors
    /// `Precondition` when its program is not installed; what starting it fails with.
    pub(crate) async fn redis_scratch(&self) -> Result<RedisScratch> {
        let ProgramPlaces { path, temporary, .. } = self.program_places(None);
        RedisScratch::start(&path, &temporary).await
    }

    /// The PostgreSQL whose files are copied as a whole.
    ///
    /// # Errors
    /// `Precondition` when it has no url; `Config` when its connection cannot be described.
    pub(crate) fn cluster(&self) -> Result<Arc<dyn BaseBackupSource>> {
        Ok(Arc::new(self.postgres_cluster()?))
    }

    /// The PostgreSQL whose WAL is followed.
    ///
    /// # Errors
    /// As [`Session::cluster`].
    pub(crate) fn wal(&self) -> Result<Arc<dyn WalSource>> {
        Ok(Arc::new(self.postgres_cluster()?))
    }

    fn postgres_cluster(&self) -> Result<PostgresCluster> {
        let kind = StoreKind::Postgres;
        let settings = self.configuration.postgres.as_ref().ok_or_else(|| not_configured(kind))?;
        PostgresCluster::new(&postgres(settings)?)
    }

    /// How a server that recovers fetches WAL from the repository: this program, with the configuration that this command has. Nothing
    /// secret is in it.
    ///
    /// # Errors
    /// `Precondition` when no repository is configured; `Internal` when this program's file has no name that a configuration file can hold.
    pub(crate) fn fetch_command(&self) -> Result<FetchCommand> {
        let program = std::env::current_exe().ok().and_then(|path| path.into_os_string().into_string().ok());
        let program = program.ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "the file of this program has no name that a server could be told",
            )
        })?;
        let mut words = vec![program];
        if let Some(file) = self.configuration.files.first() {
            words.extend(["--config".to_owned(), self.path(file).display().to_string()]);
        }
        let url = self.repository_url()?;
        words.extend(["--repository-url".to_owned(), url, "wal".to_owned(), "fetch".to_owned()]);
        Ok(FetchCommand(words))
    }

    /// Where the repository is, wherever that is said from.
    ///
    /// # Errors
    /// `Precondition` when no repository is configured.
    pub(crate) fn repository_url(&self) -> Result<String> {
        Ok(match self.repository_folder()? {
            Some(folder) => format!("file:{}", folder.display()),
            None => self.repository_settings()?.location.clone(),
        })
    }

    /// The folder that the repository is, when it is one.
    ///
    /// # Errors
    /// `Precondition` when no repository is configured.
    pub(crate) fn repository_folder(&self) -> Result<Option<PathBuf>> {
        let settings = self.repository_settings()?;
        let location: Location = settings.location.parse()?;
        Ok(location.as_directory().map(|folder| settings.folder.join(folder)))
    }

    /// The variables that reading the repository needs, by name: whoever fetches from it needs them, too.
    pub(crate) fn repository_variables(&self) -> Vec<String> {
        let is_variable = |rank| matches!(rank, Rank::Variable | Rank::RunbookVariable);
        let is_needed = |key: &Key| {
            key.section == "repository.s3" || (key.section, key.name) == ("repository", "identity")
        };
        let needed = self.configuration.settings.values().filter(|setting| is_needed(setting.key));
        needed
            .filter(|setting| is_variable(setting.origin.rank))
            .map(|setting| setting.origin.place.clone())
            .collect()
    }

    /// The PostgreSQL that is asked daily questions, and its address for findings.
    ///
    /// # Errors
    /// As [`Session::cluster`].
    pub(crate) fn relational(&self) -> Result<(Arc<dyn RelationalInspection>, String)> {
        let kind = StoreKind::Postgres;
        let settings = self.configuration.postgres.as_ref().ok_or_else(|| not_configured(kind))?;
        let inspection = PostgresInspection::new(&postgres(settings)?)?;
        let address = inspection.address();
        Ok((Arc::new(inspection), address))
    }

    /// The PostgreSQL that migrations are applied to.
    ///
    /// # Errors
    /// As [`Session::cluster`].
    pub(crate) fn migration_target(&self) -> Result<Arc<dyn MigrationTarget>> {
        let kind = StoreKind::Postgres;
        let settings = self.configuration.postgres.as_ref().ok_or_else(|| not_configured(kind))?;
        Ok(Arc::new(PostgresMigrations::new(&postgres(settings)?)?))
    }

    /// The SQL migrations, from `folder` or from where the configuration says, and the table that says which are applied.
    ///
    /// # Errors
    /// `NotFound` when there are none; `Config` when it cannot be told where they are; what Drizzle's own runner would refuse.
    pub(crate) fn migrations(&self, folder: Option<&std::path::Path>) -> Result<(Folder, TrackingTable)> {
        let place = self.migrations_place(folder)?;
        Ok((drizzle::read(&place.folder)?, place.table))
    }

    /// Where the SQL migrations are.
    ///
    /// # Errors
    /// `Config` when it cannot be told.
    pub(crate) fn migrations_place(&self, folder: Option<&std::path::Path>) -> Result<drizzle::Place> {
        let mut settings = self.configuration.sql.clone();
        if let Some(folder) = folder {
            settings.folder = Some(self.path(folder));
        }
        drizzle::Place::of(&settings, &self.outside.project_folder())
    }

    /// The PostgreSQL that migrations are rehearsed for, with shadow databases on the server of `shadow`, of the configuration, or on its own.
    ///
    /// # Errors
    /// As [`Session::cluster`]; `Usage` when `shadow` is no url or holds a password.
    pub(crate) fn rehearsal(&self, shadow: Option<&str>) -> Result<Arc<dyn RehearsalHost>> {
        let kind = StoreKind::Postgres;
        let settings = self.configuration.postgres.as_ref().ok_or_else(|| not_configured(kind))?;
        let configured = &self.configuration.sql;
        let shadow = match shadow {
            Some(url) => {
                let password = configured.shadow.as_ref().and_then(|(_, password)| password.clone());
                Some((shadow_connection(url)?, password))
            }
            None => configured.shadow.clone(),
        };
        let shadow = shadow.map(|(connection, password)| {
            let mut config = PostgresConfig::new(Secret::new(connection.without_credentials()));
            config.user = connection.username.clone();
            config.password = password;
            config
        });
        let places = self.program_places(settings.client_dir.clone());
        Ok(Arc::new(PostgresRehearsal::new(&postgres(settings)?, shadow.as_ref(), places)?))
    }

    /// The PostgreSQL whose rows are looked at.
    ///
    /// # Errors
    /// As [`Session::cluster`].
    pub(crate) fn references(&self) -> Result<Arc<dyn ReferenceInspection>> {
        let kind = StoreKind::Postgres;
        let settings = self.configuration.postgres.as_ref().ok_or_else(|| not_configured(kind))?;
        Ok(Arc::new(PostgresReferences::new(&postgres(settings)?)?))
    }

    /// The databases of the PostgreSQL: dumped, filled, wiped.
    ///
    /// # Errors
    /// As [`Session::cluster`].
    pub(crate) fn databases(&self) -> Result<Arc<PostgresDatabases>> {
        let kind = StoreKind::Postgres;
        let settings = self.configuration.postgres.as_ref().ok_or_else(|| not_configured(kind))?;
        let places = self.program_places(settings.client_dir.clone());
        Ok(Arc::new(PostgresDatabases::new(&postgres(settings)?, places)?))
    }

    /// Where throw-away servers of PostgreSQL are started. Needs no configured server.
    ///
    /// # Errors
    /// `Config` when the configured URL cannot be used.
    pub(crate) fn scratch_host(&self) -> Result<PostgresScratch> {
        let settings = self.configuration.postgres.as_ref();
        let config = settings.map(postgres).transpose()?;
        let places = self.program_places(settings.and_then(|settings| settings.client_dir.clone()));
        let others = ["HOME", "PATH", "XDG_CONFIG_HOME"].map(str::to_owned);
        let variables = self.repository_variables().into_iter().chain(others).filter_map(|name| {
            let value = Secret::new(self.outside.variable(&name)?);
            Some((name, value))
        });
        PostgresScratch::new(config.as_ref(), places, variables.collect())
    }

    fn program_places(&self, folder: Option<PathBuf>) -> ProgramPlaces {
        ProgramPlaces {
            folder,
            path: std::env::split_paths(self.outside.variable("PATH").unwrap_or_default()).collect(),
            temporary: self.temporary(),
        }
    }

    /// Where short-lived files go.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.outside.variable("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
    }

    /// What an operation on `probe`'s store acts upon: the environment by configuration and marker, and which server it is.
    ///
    /// # Errors
    /// `Refused` when configuration and marker contradict each other; the store's.
    pub(crate) async fn target(&self, probe: &dyn Probe) -> Result<Target> {
        let kind = probe.kind();
        let facts = probe.facts().await.with_context(|| format!("read facts of {kind}"))?;
        let environment = self.environment_of(probe).await?;
        Ok(Target {
            environment: environment.name,
            class: environment.class,
            store: kind,
            fingerprint: facts.fingerprint,
            address: facts.address,
        })
    }

    /// What an operation acts upon that asks nothing of the server itself: the environment by configuration alone.
    ///
    /// # Errors
    /// None but those of a configuration that contradicts itself.
    pub(crate) fn absent_target(
        &self,
        store: StoreKind,
        fingerprint: String,
        address: String,
    ) -> Result<Target> {
        let environment = identify(&self.configured_environment(), &[])?;
        Ok(Target { environment: environment.name, class: environment.class, store, fingerprint, address })
    }

    /// The database that the configuration names for document operations.
    pub(crate) fn configured_database(&self) -> Option<String> {
        self.configuration.mongo.as_ref()?.database.clone()
    }

    /// What was named; without a name the configured database, or everything when none is configured or `all` was asked for.
    pub(crate) fn selection(&self, databases: &[String], collections: &[Namespace], all: bool) -> Selection {
        let mut databases = databases.to_vec();
        if databases.is_empty() && collections.is_empty() && !all {
            databases.extend(self.configured_database());
        }
        Selection { databases, collections: collections.to_vec() }
    }

    /// The store that is meant: the one that was named, or the only one that is configured.
    pub(crate) fn store_or_usual(&self, named: Option<StoreKind>) -> StoreKind {
        match (named, self.configuration.stores().as_slice()) {
            (Some(named), _) => named,
            (None, [only]) => *only,
            (None, _) => StoreKind::Mongo,
        }
    }

    /// How long a lease outlives a process that no longer renews it.
    pub(crate) fn lease_ttl(&self) -> SignedDuration {
        self.configuration.lease_ttl
    }

    /// The repository's location as it may be shown.
    pub(crate) fn repository_location(&self) -> Option<String> {
        self.configuration.repository.as_ref().map(|settings| redact_url(&settings.location))
    }

    /// The repository, which must exist. Nothing is written by opening it.
    ///
    /// # Errors
    /// `Precondition` when none is configured; `NotFound` when there is none at that place; the store's.
    pub(crate) async fn repository(&self) -> Result<Repository> {
        let settings = self.repository_settings()?;
        let location: Location = settings.location.parse()?;
        // Opening a folder that is not there would make it, and reading must change nothing.
        if let Some(folder) = location.as_directory().map(|folder| settings.folder.join(folder))
            && !folder.is_dir()
        {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no repository at {}", folder.display()),
            )
            .with_hint("`mainstay backup create` makes one, or correct `url` in [repository]"));
        }
        let store = self.open_store(settings, &location)?;
        let repository = Repository::open(store, self.clock.clone(), repository_options(settings)).await?;
        Ok(repository.with_lease_ttl(self.lease_ttl()))
    }

    /// The repository; `None` when there is none yet at its place, which is no trouble for who only looks.
    ///
    /// # Errors
    /// As [`Session::repository`], but for `NotFound`.
    pub(crate) async fn existing_repository(&self) -> Result<Option<Repository>> {
        match self.repository().await {
            Ok(repository) => Ok(Some(repository)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The repository, made when there is none.
    ///
    /// # Errors
    /// As [`Session::repository`], but for `NotFound`.
    pub(crate) async fn repository_or_create(&self) -> Result<Repository> {
        let settings = self.repository_settings()?;
        let location: Location = settings.location.parse()?;
        let store = self.open_store(settings, &location)?;
        let repository =
            Repository::open_or_create(store, self.clock.clone(), repository_options(settings)).await?;
        Ok(repository.with_lease_ttl(self.lease_ttl()))
    }

    /// The guard whose audit log is in `repository`.
    pub(crate) fn guard(&self, repository: &Repository) -> Guard {
        self.guard_of(Some(repository))
    }

    /// The guard whose audit log is in `repository`; without one it permits nothing that changes what exists.
    pub(crate) fn guard_of(&self, repository: Option<&Repository>) -> Guard {
        let policy = Policy { verified_backup_age_max: self.configuration.backup_age_max };
        let (clock, actor) = (self.clock.clone(), self.actor.clone());
        match repository {
            Some(repository) => Guard::new(AuditLog::new(repository.store().clone()), policy, clock, actor),
            None => Guard::without_audit(policy, clock, actor),
        }
    }

    fn repository_settings(&self) -> Result<&RepositorySettings> {
        self.configuration.repository.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Precondition, "no repository is configured")
                .with_state("nothing was changed")
                .with_hint(
                    "set `url` in [repository] of mainstay.toml, or MAINSTAY_REPOSITORY_URL=file:./backups",
                )
        })
    }

    fn open_store(&self, settings: &RepositorySettings, location: &Location) -> Result<Store> {
        if location.is_memory() {
            return Err(Error::new(
                ErrorKind::Config,
                "a repository in memory ends with the command and keeps nothing",
            )
            .with_state("nothing was changed")
            .with_hint(
                "set `url` in [repository] to a folder (`file:./backups`) or a bucket (`s3://bucket/prefix`)",
            ));
        }
        let options = StoreOptions {
            base_dir: settings.folder.clone(),
            s3: S3Options {
                endpoint: settings.endpoint.clone(),
                region: settings.region.clone(),
                access_key_id: settings.access_key_id.clone().map(Secret::new),
                secret_access_key: settings.secret_access_key.clone(),
                session_token: settings.session_token.clone(),
                allow_http: settings.allow_http,
                virtual_hosted: settings.virtual_hosted,
            },
            write_bytes_per_second: settings.write_limit,
            ..StoreOptions::default()
        };
        Store::open(location, &options)
    }
}

fn repository_options(settings: &RepositorySettings) -> RepositoryOptions {
    let default = Compression::default();
    let threads = match settings.compression_threads {
        0 => default.threads,
        threads => threads,
    };
    RepositoryOptions {
        compression: Compression { level: settings.compression_level, threads },
        recipients: settings.recipients.clone(),
        identities: settings.identities.clone(),
    }
}

/// A store whose address could not be looked up.
struct Lost {
    kind: StoreKind,
    address: String,
    message: String,
    hint: String,
}

impl Lost {
    fn error(&self) -> Error {
        Error::new(ErrorKind::Unreachable, self.message.clone()).with_hint(self.hint.clone())
    }
}

#[async_trait]
impl Probe for Lost {
    fn kind(&self) -> StoreKind {
        self.kind
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    async fn facts(&self) -> Result<StoreFacts> {
        Err(self.error())
    }

    async fn marker(&self) -> Result<Option<Marker>> {
        Err(self.error())
    }

    async fn set_marker(&self, _marker: &Marker, _permit: &Permit) -> Result<()> {
        Err(self.error())
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        Err(self.error())
    }
}

/// A url that was given as an argument, for shadow databases.
fn shadow_connection(url: &str) -> Result<Connection> {
    let refused = |what: &str| {
        Error::new(ErrorKind::Usage, format!("--shadow-url {what}")).with_state("nothing was done").with_hint(
            "as in postgres://user@host:5432/postgres; the password stands in MAINSTAY_SQL_SHADOW_PASSWORD, or _FILE",
        )
    };
    if holds_password(url) {
        return Err(refused("holds a password, which process lists and shell histories would show"));
    }
    Connection::parse(url, &["postgres", "postgresql"]).map_err(|fault| refused(&fault.to_string()))
}

fn not_configured(kind: StoreKind) -> Error {
    Error::new(ErrorKind::Precondition, format!("{kind} is not configured"))
        .with_state("nothing was changed")
        .with_hint(format!(
            "set `url` in [{kind}] of mainstay.toml, or MAINSTAY_{}_URL",
            kind.name().to_uppercase()
        ))
}

fn mongo(settings: &MongoSettings) -> MongoConfig {
    let mut connection = settings.connection.clone();
    if let Some(direct) = settings.direct {
        connection.options.retain(|(name, _)| !name.eq_ignore_ascii_case("directConnection"));
        connection.options.push(("directConnection".to_owned(), direct.to_string()));
    }
    let mut config = MongoConfig::new(Secret::new(connection.without_credentials()));
    config.username = settings.credentials.username.as_ref().map(|(name, _)| name.clone());
    config.password = settings.credentials.password.as_ref().map(|(password, _)| password.clone());
    config.auth_source = settings.auth_source.clone();
    config.database = settings.database.clone();
    config.tls.enabled = settings.tls;
    config.tls.ca_file = settings.tls_ca_file.clone();
    config.tls.certificate_key_file = settings.tls_certificate_key_file.clone();
    config
}

fn postgres(settings: &PostgresSettings) -> Result<PostgresConfig> {
    let mut config = PostgresConfig::new(Secret::new(settings.connection.without_credentials()));
    config.user = settings.credentials.username.as_ref().map(|(name, _)| name.clone());
    config.password = settings.credentials.password.as_ref().map(|(password, _)| password.clone());
    config.tls = TlsOptions {
        mode: settings.sslmode.as_deref().map(str::parse).transpose()?,
        ca_file: settings.ca_file.clone(),
    };
    Ok(config)
}

fn redis(settings: &RedisSettings) -> RedisConfig {
    let mut config = RedisConfig::new(Secret::new(settings.connection.without_credentials()));
    config.user = settings.credentials.username.as_ref().map(|(name, _)| name.clone());
    config.password = settings.credentials.password.as_ref().map(|(password, _)| password.clone());
    config.sentinel_password = settings.sentinel_password.clone();
    config.tls = mainstay_redis::TlsOptions {
        mode: settings.tls.map(|on| match on {
            true => mainstay_redis::TlsMode::VerifyFull,
            false => mainstay_redis::TlsMode::Disable,
        }),
        ca_file: settings.ca_file.clone(),
    };
    config
}

/// Who acts: the account that the operating system says this process runs as. `$USER` is only what somebody says.
fn actor(outside: &Outside) -> Actor {
    let (name, method) = match account() {
        Some(name) => (name, "os user"),
        None => (outside.variable("USER").unwrap_or("unknown").to_owned(), "environment"),
    };
    Actor { name, method: method.to_owned(), host: host() }
}

#[cfg(unix)]
fn account() -> Option<String> {
    let uid = rustix::process::getuid().as_raw();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = accounts.lines().find(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()));
    Some(line.and_then(|line| line.split(':').next()).map_or_else(|| format!("uid {uid}"), str::to_owned))
}

#[cfg(not(unix))]
fn account() -> Option<String> {
    None
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    "unknown".to_owned()
}
