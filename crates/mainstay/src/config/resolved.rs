//! The configuration resolved: one value per key with its origin, then the typed settings that the wiring uses.
//!
//! Credentials may stand in a connection string or in keys of their own. The stronger answer wins; of two equally strong ones the key
//! does. Two rules keep halves of different pairs from being mixed: the password inside a connection string belongs to the user named
//! there, and `MONGO_INITDB_ROOT_PASSWORD` belongs to `MONGO_INITDB_ROOT_USERNAME`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::SignedDuration;
use mainstay_model::{ByteSize, EnvironmentClass, Error, ErrorKind, Result, Secret, StoreKind};

use mainstay_ops::key_policy::DeclaredPolicy;
use mainstay_ops::{KeyClass, KeyClasses};
use mainstay_store::Location;

use super::connection::{Connection, ConnectionError};
use super::file::{ConfigFile, Raw};
use super::init::InitSection;
use super::key::{Form, KEYS, Key, nearest};
use super::source::{Answer, Origin, Outside, Rank};

/// A checked value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Text, a word or a location.
    Text(String),
    /// A connection string.
    Url(Connection),
    /// A secret.
    Secret(Secret),
    /// An absolute path, or one relative to the working directory's own form.
    Path(PathBuf),
    /// `true` or `false`.
    Switch(bool),
    /// A whole number.
    Number(i64),
    /// A size.
    Size(ByteSize),
    /// A length of time.
    Duration(SignedDuration),
    /// A list.
    List(Vec<String>),
}

/// The winning answer to one key.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// To which key.
    pub(crate) key: &'static Key,
    /// The value.
    pub(crate) value: Value,
    /// Where it came from.
    pub(crate) origin: Origin,
    /// The folder from which relative locations are taken.
    pub(crate) folder: PathBuf,
    /// Weaker answers, strongest first; `differs` tells whether they say something else.
    pub(crate) passed_over: Vec<PassedOver>,
}

/// An answer that lost.
#[derive(Debug, Clone)]
pub(crate) struct PassedOver {
    /// Where it came from.
    pub(crate) origin: Origin,
    /// Whether it says something else than the winner.
    pub(crate) differs: bool,
}

impl Setting {
    /// The value as it may be shown: secrets hidden, connection strings redacted.
    pub(crate) fn shown(&self) -> String {
        match &self.value {
            Value::Text(text) => mainstay_model::redact_url(text),
            Value::Url(connection) => {
                let user =
                    if connection.username.is_some() || connection.password.is_some() { "***@" } else { "" };
                connection.to_string().replacen("://", &format!("://{user}"), 1)
            }
            Value::Secret(_) => "[secret]".to_owned(),
            Value::Path(path) => path.display().to_string(),
            Value::Switch(on) => on.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Size(size) => size.to_string(),
            Value::Duration(duration) => format!("{duration:#}"),
            Value::List(items) => items.join(", "),
        }
    }
}

/// User and password in effect, each with its origin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials {
    /// The user.
    pub(crate) username: Option<(String, Origin)>,
    /// The password.
    pub(crate) password: Option<(Secret, Origin)>,
    /// Whether the user came out of the connection string.
    pub(crate) from_url: bool,
}

/// How MongoDB is reached.
#[derive(Debug, Clone)]
pub(crate) struct MongoSettings {
    /// Hosts and options.
    pub(crate) connection: Connection,
    /// Who connects.
    pub(crate) credentials: Credentials,
    /// The database that knows the user; `None` when no user is named, so that the mechanism decides.
    pub(crate) auth_source: Option<String>,
    /// The database to operate on.
    pub(crate) database: Option<String>,
    /// Encrypt; the connection string decides when unset.
    pub(crate) tls: Option<bool>,
    /// Authority of the server's certificate.
    pub(crate) tls_ca_file: Option<PathBuf>,
    /// The client's certificate and key.
    pub(crate) tls_certificate_key_file: Option<PathBuf>,
    /// Talk to the named host only.
    pub(crate) direct: Option<bool>,
}

/// How PostgreSQL is reached.
#[derive(Debug, Clone)]
pub(crate) struct PostgresSettings {
    /// Hosts, database and options.
    pub(crate) connection: Connection,
    /// Who connects.
    pub(crate) credentials: Credentials,
    /// As libpq; the connection string decides when unset.
    pub(crate) sslmode: Option<String>,
    /// Authority of the server's certificate.
    pub(crate) ca_file: Option<PathBuf>,
    /// Where `pg_dump` and `pg_restore` are; looked for when unset.
    pub(crate) client_dir: Option<PathBuf>,
}

/// Where SQL migrations are, and where it is written down which are applied. What is not said here may be said by Drizzle's configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct SqlSettings {
    /// The folder.
    pub(crate) folder: Option<PathBuf>,
    /// The schema of the tracking table.
    pub(crate) schema: Option<String>,
    /// The tracking table.
    pub(crate) table: Option<String>,
    /// Where shadow databases are made, when not on the same server, and the password of its user.
    pub(crate) shadow: Option<(Connection, Option<Secret>)>,
    /// From how many bytes on a table is large.
    pub(crate) large_table: ByteSize,
    /// What is known of quotes.
    pub(crate) quotes: QuoteSettings,
}

/// `[sql.quotes]`, as it is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct QuoteSettings {
    /// The table.
    pub(crate) table: String,
    /// Its key.
    pub(crate) key: String,
    /// Its column that names the payment.
    pub(crate) payment_column: String,
    /// Its column that says when.
    pub(crate) created_column: String,
    /// The table of payments.
    pub(crate) payments: String,
    /// Its column that is named.
    pub(crate) payments_key: String,
    /// The application's switch, as the application writes it.
    pub(crate) enabled: Option<String>,
    /// Since when it is off.
    pub(crate) off_since: Option<String>,
}

/// How Redis is reached.
#[derive(Debug, Clone)]
pub(crate) struct RedisSettings {
    /// Host, database number and options.
    pub(crate) connection: Connection,
    /// Who connects.
    pub(crate) credentials: Credentials,
    /// What Sentinels ask for, when the url names some.
    pub(crate) sentinel_password: Option<Secret>,
    /// Encrypt; the scheme decides when unset.
    pub(crate) tls: Option<bool>,
    /// Authority of the server's certificate.
    pub(crate) ca_file: Option<PathBuf>,
}

/// Where the repository is and how it is written.
#[derive(Debug, Clone)]
pub(crate) struct RepositorySettings {
    /// Path or URL as written.
    pub(crate) location: String,
    /// What a relative path is taken from.
    pub(crate) folder: PathBuf,
    /// zstd level.
    pub(crate) compression_level: i32,
    /// Compressing threads; 0 means one per processor.
    pub(crate) compression_threads: usize,
    /// age public keys.
    pub(crate) recipients: Vec<String>,
    /// age secret keys.
    pub(crate) identities: Vec<Secret>,
    /// Most bytes per second.
    pub(crate) write_limit: Option<ByteSize>,
    /// S3 endpoint.
    pub(crate) endpoint: Option<String>,
    /// S3 region.
    pub(crate) region: Option<String>,
    /// S3 access key name.
    pub(crate) access_key_id: Option<String>,
    /// S3 access key.
    pub(crate) secret_access_key: Option<Secret>,
    /// S3 session token.
    pub(crate) session_token: Option<Secret>,
    /// Permit an endpoint without TLS.
    pub(crate) allow_http: bool,
    /// Bucket in the host name.
    pub(crate) virtual_hosted: bool,
}

/// The whole configuration.
#[derive(Debug, Clone)]
pub(crate) struct Configuration {
    /// The files that were read, strongest first.
    pub(crate) files: Vec<PathBuf>,
    /// The winning answers by key path.
    pub(crate) settings: BTreeMap<String, Setting>,
    /// Variables that look like ours and are none, with the nearest real name.
    pub(crate) unknown_variables: Vec<(String, Option<String>)>,
    /// The environment's configured name.
    pub(crate) environment_name: Option<String>,
    /// The environment's configured class.
    pub(crate) environment_class: Option<EnvironmentClass>,
    /// MongoDB, when it has a url.
    pub(crate) mongo: Option<MongoSettings>,
    /// The file that declares MongoDB's indexes, when one does.
    pub(crate) index_manifest: Option<PathBuf>,
    /// PostgreSQL, when it has a url.
    pub(crate) postgres: Option<PostgresSettings>,
    /// Where SQL migrations are, as far as somebody says.
    pub(crate) sql: SqlSettings,
    /// Redis, when it has a url.
    pub(crate) redis: Option<RedisSettings>,
    /// How Redis is to persist and evict.
    pub(crate) redis_policy: DeclaredPolicy,
    /// Which of its keys are what.
    pub(crate) redis_classes: KeyClasses,
    /// The repository, when it has a url.
    pub(crate) repository: Option<RepositorySettings>,
    /// A last backup older than this is a finding.
    pub(crate) backup_age_max: SignedDuration,
    /// How long a lease lives without being renewed.
    pub(crate) lease_ttl: SignedDuration,
    /// How old a slice of a captured log may become.
    pub(crate) slice_age: SignedDuration,
    /// The compose file that `doctor` reads.
    pub(crate) compose_file: Option<PathBuf>,
    /// The manifest of the seeds, when there is one.
    pub(crate) seed_manifest: Option<PathBuf>,
    /// Whether a new installation is seeded by itself.
    pub(crate) auto_seed: bool,
    /// A folder whose files declare backfills.
    pub(crate) backfills_folder: Option<PathBuf>,
    /// What is declared of the servers.
    pub(crate) init: Option<InitSection>,
}

impl Configuration {
    /// Resolves what the outside says.
    ///
    /// # Errors
    /// `Config`, naming the source of the fault and never a value that may be secret.
    pub(crate) fn resolve(outside: &Outside) -> Result<Self> {
        let files = outside.files()?;
        let settings = Settings::choose(outside.answers(&files)?)?;
        let unknown_variables = outside.unknown_variables();
        settings.into_configuration(files, unknown_variables)
    }

    /// The winning answer to a key.
    pub(crate) fn setting(&self, path: &str) -> Option<&Setting> {
        self.settings.get(path)
    }

    /// The stores that have a url.
    pub(crate) fn stores(&self) -> Vec<StoreKind> {
        StoreKind::ALL
            .into_iter()
            .filter(|kind| match kind {
                StoreKind::Mongo => self.mongo.is_some(),
                StoreKind::Postgres => self.postgres.is_some(),
                StoreKind::Redis => self.redis.is_some(),
            })
            .collect()
    }

    /// Every text that must never be printed: passwords, keys, tokens.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let mut secrets = Vec::new();
        for setting in self.settings.values() {
            match &setting.value {
                Value::Secret(secret) => {
                    secrets.extend(
                        secret.expose().lines().filter(|line| !line.starts_with('#')).map(Secret::new),
                    );
                }
                Value::Url(connection) => {
                    secrets.extend(connection.password.clone());
                    let hidden = connection
                        .options
                        .iter()
                        .filter(|(name, _)| name.to_ascii_lowercase().contains("password"));
                    secrets.extend(hidden.map(|(_, value)| Secret::new(value.clone())));
                }
                _ => {}
            }
        }
        secrets
    }
}

/// The winning answers by key path.
struct Settings(BTreeMap<String, Setting>);

impl Settings {
    fn choose(answers: Vec<Answer>) -> Result<Self> {
        let mut settings: BTreeMap<String, (Setting, Raw)> = BTreeMap::new();
        for answer in answers {
            // Every answer is checked, also one that loses: a fault that surfaces only when a flag is left out helps nobody.
            let value = parse(&answer)?;
            match settings.get_mut(&answer.key.path()) {
                Some((setting, raw)) => {
                    setting
                        .passed_over
                        .push(PassedOver { origin: answer.origin, differs: answer.raw != *raw });
                }
                None => {
                    let setting = Setting {
                        key: answer.key,
                        value,
                        origin: answer.origin,
                        folder: answer.folder,
                        passed_over: Vec::new(),
                    };
                    settings.insert(answer.key.path(), (setting, answer.raw));
                }
            }
        }
        let mut settings: BTreeMap<String, Setting> =
            settings.into_iter().map(|(path, (setting, _))| (path, setting)).collect();
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            if let std::collections::btree_map::Entry::Vacant(vacant) = settings.entry(key.path()) {
                let origin = Origin { rank: Rank::Default, place: "default".to_owned(), value_file: None };
                let answer =
                    Answer { key, raw: Raw::One(key.default.to_owned()), origin, folder: PathBuf::new() };
                vacant.insert(Setting {
                    key,
                    value: parse(&answer)?,
                    origin: answer.origin,
                    folder: answer.folder,
                    passed_over: Vec::new(),
                });
            }
        }
        Ok(Self(settings))
    }

    fn into_configuration(
        self,
        files: Vec<(Rank, ConfigFile)>,
        unknown_variables: Vec<(String, Option<String>)>,
    ) -> Result<Configuration> {
        // Of two files the project's counts, and it alone: half a declaration is none.
        let init = files.iter().find_map(|(_, file)| file.init.clone());
        Ok(Configuration {
            index_manifest: self.index_manifest(&files)?,
            init,
            files: files.into_iter().map(|(_, file)| file.path).collect(),
            unknown_variables,
            environment_name: self.text("environment.name"),
            environment_class: self.text("environment.class").map(|class| match class.as_str() {
                "development" => EnvironmentClass::Development,
                "staging" => EnvironmentClass::Staging,
                _ => EnvironmentClass::Production,
            }),
            mongo: self.mongo(),
            postgres: self.postgres(),
            sql: self.sql(),
            redis: self.redis(),
            redis_policy: self.redis_policy(),
            redis_classes: self.redis_classes(),
            repository: self.repository(),
            backup_age_max: self.duration("policy.backup_age_max"),
            lease_ttl: self.duration("repository.lease_ttl"),
            slice_age: self.duration("capture.slice_age"),
            compose_file: self.path("compose.file"),
            seed_manifest: self.path("seeds.file"),
            auto_seed: self.switch("seeds.auto").unwrap_or(false),
            backfills_folder: self.path("backfills.folder"),
            settings: self.0,
        })
    }

    fn value(&self, path: &str) -> Option<&Value> {
        self.0.get(path).map(|setting| &setting.value)
    }

    fn text(&self, path: &str) -> Option<String> {
        match self.value(path) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn path(&self, path: &str) -> Option<PathBuf> {
        match self.value(path) {
            Some(Value::Path(path)) => Some(path.clone()),
            _ => None,
        }
    }

    fn switch(&self, path: &str) -> Option<bool> {
        match self.value(path) {
            Some(Value::Switch(on)) => Some(*on),
            _ => None,
        }
    }

    fn number(&self, path: &str) -> i64 {
        match self.value(path) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    fn duration(&self, path: &str) -> SignedDuration {
        match self.value(path) {
            Some(Value::Duration(duration)) => *duration,
            _ => unreachable!("{path} is a duration with a default"),
        }
    }

    fn secret(&self, path: &str) -> Option<Secret> {
        match self.value(path) {
            Some(Value::Secret(secret)) => Some(secret.clone()),
            _ => None,
        }
    }

    fn url(&self, section: &str) -> Option<(&Connection, &Origin)> {
        let setting = self.0.get(&format!("{section}.url"))?;
        match &setting.value {
            Value::Url(connection) => Some((connection, &setting.origin)),
            _ => None,
        }
    }

    fn mongo(&self) -> Option<MongoSettings> {
        let (connection, origin) = self.url("mongo")?;
        let credentials = self.credentials("mongo", "username", connection, origin);
        let auth_source = self
            .text("mongo.auth_source")
            .or_else(|| connection.option("authSource").map(str::to_owned))
            // What the connection string means by its path, when the user stands there, too.
            .or_else(|| connection.database.clone().filter(|_| credentials.from_url))
            .or_else(|| credentials.username.as_ref().map(|_| "admin".to_owned()));
        let from_key = self
            .0
            .get("mongo.database")
            .filter(|setting| connection.database.is_none() || setting.origin.rank >= origin.rank);
        let database = match from_key.map(|setting| &setting.value) {
            Some(Value::Text(name)) => Some(name.clone()),
            _ => connection.database.clone(),
        };
        Some(MongoSettings {
            connection: connection.clone(),
            credentials,
            auth_source,
            database,
            tls: self.switch("mongo.tls"),
            tls_ca_file: self.path("mongo.tls_ca_file"),
            tls_certificate_key_file: self.path("mongo.tls_certificate_key_file"),
            direct: self.switch("mongo.direct"),
        })
    }

    /// The file that `[mongo] indexes` names, or else the strongest one that declares indexes itself.
    fn index_manifest(&self, files: &[(Rank, ConfigFile)]) -> Result<Option<PathBuf>> {
        let Some(named) = self.path("mongo.indexes") else {
            let declaring = files.iter().find(|(_, file)| file.declares_indexes);
            return Ok(declaring.map(|(_, file)| file.path.clone()));
        };
        match files.iter().find_map(|(_, file)| Some((file, file.index_policy?))) {
            None => Ok(Some(named)),
            Some((file, line)) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "{}:{line}: [mongo.policy] stands apart from the indexes it is for",
                    file.path.display()
                ),
            )
            .with_hint(format!("move it to {} as [policy]", named.display()))),
        }
    }

    fn postgres(&self) -> Option<PostgresSettings> {
        let (connection, origin) = self.url("postgres")?;
        Some(PostgresSettings {
            connection: connection.clone(),
            credentials: self.credentials("postgres", "user", connection, origin),
            sslmode: self.text("postgres.sslmode"),
            ca_file: self.path("postgres.ca_file"),
            client_dir: self.path("postgres.client_dir"),
        })
    }

    fn sql(&self) -> SqlSettings {
        let text = |name: &str| self.text(&format!("sql.quotes.{name}"));
        let named = |name: &str| text(name).unwrap_or_default();
        SqlSettings {
            folder: self.path("sql.folder"),
            schema: self.text("sql.schema"),
            table: self.text("sql.table"),
            shadow: match self.value("sql.shadow_url") {
                Some(Value::Url(connection)) => {
                    let password = self.secret("sql.shadow_password").or_else(|| connection.password.clone());
                    Some((connection.clone(), password))
                }
                _ => None,
            },
            large_table: match self.value("sql.large_table") {
                Some(Value::Size(size)) => *size,
                _ => ByteSize(0),
            },
            quotes: QuoteSettings {
                table: named("table"),
                key: named("key"),
                payment_column: named("payment_column"),
                created_column: named("created_column"),
                payments: named("payments"),
                payments_key: named("payments_key"),
                enabled: text("enabled"),
                off_since: text("off_since"),
            },
        }
    }

    fn redis(&self) -> Option<RedisSettings> {
        let (connection, origin) = self.url("redis")?;
        Some(RedisSettings {
            connection: connection.clone(),
            credentials: self.credentials("redis", "username", connection, origin),
            sentinel_password: self.secret("redis.sentinel_password"),
            tls: self.switch("redis.tls"),
            ca_file: self.path("redis.ca_file"),
        })
    }

    fn redis_policy(&self) -> DeclaredPolicy {
        let size = |name: &str| match self.value(&format!("redis.policy.{name}")) {
            Some(Value::Size(size)) => Some(size.bytes()),
            _ => None,
        };
        DeclaredPolicy {
            save: self.list("redis.policy.save"),
            appendonly: self.switch("redis.policy.appendonly"),
            appendfsync: self.text("redis.policy.appendfsync"),
            maxmemory: size("maxmemory"),
            maxmemory_policy: self.text("redis.policy.maxmemory_policy"),
            repl_backlog_size: size("repl_backlog_size"),
        }
    }

    fn redis_classes(&self) -> KeyClasses {
        let globs = |class: KeyClass| {
            self.list(&format!("redis.classes.{}", class.name())).map(|globs| (class, globs))
        };
        KeyClasses::new(KeyClass::ALL.into_iter().filter_map(globs))
    }

    fn list(&self, path: &str) -> Option<Vec<String>> {
        match self.value(path) {
            Some(Value::List(items)) => Some(items.clone()),
            _ => None,
        }
    }

    fn repository(&self) -> Option<RepositorySettings> {
        let setting = self.0.get("repository.url")?;
        let Value::Text(location) = &setting.value else { return None };
        let identities =
            self.secret("repository.identity").map(|text| identity_lines(text.expose())).unwrap_or_default();
        Some(RepositorySettings {
            location: location.clone(),
            folder: setting.folder.clone(),
            compression_level: i32::try_from(self.number("repository.compression_level")).unwrap_or(3),
            compression_threads: usize::try_from(self.number("repository.compression_threads")).unwrap_or(0),
            recipients: self.list("repository.recipients").unwrap_or_default(),
            identities,
            write_limit: match self.value("repository.write_limit") {
                Some(Value::Size(size)) => Some(*size),
                _ => None,
            },
            endpoint: self.text("repository.s3.endpoint"),
            region: self.text("repository.s3.region"),
            access_key_id: self.text("repository.s3.access_key_id"),
            secret_access_key: self.secret("repository.s3.secret_access_key"),
            session_token: self.secret("repository.s3.session_token"),
            allow_http: self.switch("repository.s3.allow_http").unwrap_or(false),
            virtual_hosted: self.switch("repository.s3.virtual_hosted").unwrap_or(false),
        })
    }

    fn credentials(
        &self,
        section: &str,
        user_key: &str,
        url: &Connection,
        url_origin: &Origin,
    ) -> Credentials {
        let from_key = |name: &str| self.0.get(&format!("{section}.{name}"));
        let stronger = |setting: &&Setting, has_url_answer: bool| {
            !has_url_answer || setting.origin.rank >= url_origin.rank
        };

        let key_user = from_key(user_key).filter(|setting| stronger(setting, url.username.is_some()));
        let username = match key_user.map(|setting| (&setting.value, &setting.origin)) {
            Some((Value::Text(name), origin)) => Some((name.clone(), origin.clone())),
            _ => url.username.clone().map(|name| (name, url_origin.clone())),
        };
        let from_url = key_user.is_none() && username.is_some();
        let name = username.as_ref().map(|(name, _)| name.as_str());

        // A password inside the connection string belongs to the user named there.
        let url_password = url.password.clone().filter(|_| name == url.username.as_deref());
        let is_root_pair = |origin: &Origin| {
            !origin.place.starts_with("MONGO_INITDB_ROOT_PASSWORD")
                || username
                    .as_ref()
                    .is_some_and(|(_, origin)| origin.place.starts_with("MONGO_INITDB_ROOT_USERNAME"))
        };
        let key_password = from_key("password")
            .filter(|setting| stronger(setting, url_password.is_some()) && is_root_pair(&setting.origin));
        let password = match key_password.map(|setting| (&setting.value, &setting.origin)) {
            Some((Value::Secret(secret), origin)) => Some((secret.clone(), origin.clone())),
            _ => url_password.map(|password| (password, url_origin.clone())),
        };
        Credentials { username, password, from_url }
    }
}

/// The keys of an identity file: one per line, without comments.
fn identity_lines(text: &str) -> Vec<Secret> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(Secret::new)
        .collect()
}

fn parse(answer: &Answer) -> Result<Value> {
    let key = answer.key;
    let refuse =
        |what: &str| Error::new(ErrorKind::Config, format!("{}: {} {what}", answer.origin, key.path()));
    let text = match &answer.raw {
        Raw::Many(items) => return Ok(Value::List(items.clone())),
        Raw::One(text) => text,
    };
    let must = || refuse(&format!("must be a {}", key.form.describe()));
    match key.form {
        Form::Text => Ok(Value::Text(text.clone())),
        Form::Location => match text.parse::<Location>() {
            Ok(_) => Ok(Value::Text(text.clone())),
            Err(_) => Err(must()),
        },
        Form::List => Ok(Value::List(vec![text.clone()])),
        Form::Secret => Ok(Value::Secret(Secret::new(text.clone()))),
        Form::Path => Ok(Value::Path(answer.folder.join(text))),
        Form::Word(words) if words.contains(&text.as_str()) => Ok(Value::Text(text.clone())),
        Form::Word(words) => {
            let error = refuse(&format!("must be one of {}", words.join(", ")));
            Err(match nearest(text, words.iter().copied()) {
                Some(word) => error.with_hint(format!("did you mean `{word}`?")),
                None => error,
            })
        }
        Form::Url(schemes) => Connection::parse(text, schemes)
            .map(Value::Url)
            .map_err(|error| url_error(&refuse, &error, schemes)),
        // Variables of other programs say it in their own ways.
        Form::Switch => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Value::Switch(true)),
            "false" | "0" | "no" | "off" => Ok(Value::Switch(false)),
            _ => Err(must()),
        },
        Form::Number(least, most) => match text.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(Value::Number(number)),
            _ => Err(must()),
        },
        Form::Size => text.parse().map(Value::Size).map_err(|_| must()),
        Form::Duration => match text.parse::<SignedDuration>() {
            Ok(duration) if duration.is_positive() => Ok(Value::Duration(duration)),
            _ => parse_days(text).map(Value::Duration).ok_or_else(must),
        },
    }
}

/// `7d`: days of 24 hours, which the general parser leaves to calendars.
pub(super) fn parse_days(text: &str) -> Option<SignedDuration> {
    let days: i64 = text.strip_suffix('d')?.trim().parse().ok()?;
    (1..=36_500).contains(&days).then(|| SignedDuration::from_hours(days * 24))
}

fn url_error(refuse: &dyn Fn(&str) -> Error, error: &ConnectionError, schemes: &[&str]) -> Error {
    let wrapped = refuse(&error.to_string());
    match error {
        ConnectionError::Scheme | ConnectionError::ForeignScheme { .. } => {
            wrapped.with_hint(format!("write {}://host:port/…", schemes[0]))
        }
        ConnectionError::Encoding { .. } | ConnectionError::Unescaped { .. } => wrapped.with_hint(
            "percent-encode the password, or leave it out of the url and set it with its own variable",
        ),
        _ => wrapped,
    }
}
