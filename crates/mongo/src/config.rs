//! How to reach a deployment, resolved from the connection string and what overrides it.
//!
//! The official driver reads the connection string (`mongodb://`, `mongodb+srv://`, percent-encoding, every standard option); what is
//! configured beside it wins. The result feeds both the driver and our own connections, so that the two can never differ in whom they
//! trust or who they are. Refuses mechanisms our own connections do not speak, Unix sockets, and to repeat any part of the string that
//! stands before the `@`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstay_model::{Error, ErrorKind, Result, Secret};
use mainstay_tls::{TlsSettings, Verification, client_config};
use mongodb::error::ErrorKind as DriverErrorKind;
use mongodb::options::{
    AuthMechanism, ClientOptions, Credential, DriverInfo, ReadPreference, SelectionCriteria, ServerAddress,
    Tls, TlsOptions as DriverTlsOptions,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::wire::{Endpoint, Login, Mechanism, WireOptions};

/// A MongoDB deployment and how to log in to it.
#[derive(Debug, Clone)]
pub struct MongoConfig {
    /// The connection string; may hold user and password.
    pub url: Secret,
    /// The user; wins over the connection string's.
    pub username: Option<String>,
    /// The user's password; wins over the connection string's.
    pub password: Option<Secret>,
    /// The database the user was created in; wins over the connection string's, `admin` when nothing says.
    pub auth_source: Option<String>,
    /// The application's database; wins over the one in the connection string.
    pub database: Option<String>,
    /// TLS; what is set wins over the connection string.
    pub tls: TlsOptions,
    /// Bound of opening one connection: name, TCP, TLS and login. 10 seconds when not set here or in the connection string.
    pub connect_timeout: Option<Duration>,
    /// Bound of finding a usable server. 10 seconds when not set here or in the connection string.
    pub server_selection_timeout: Option<Duration>,
    /// Bound of each reply on a data connection: a connection that hangs longer is given up and opened again.
    pub reply_timeout: Duration,
    /// What the server's log calls us; `mainstay` when not set.
    pub app_name: Option<String>,
    /// How often a broken connection is opened again.
    pub retry: RetryPolicy,
}

impl MongoConfig {
    /// The deployment of a connection string, nothing overridden.
    pub fn new(url: Secret) -> Self {
        Self {
            url,
            username: None,
            password: None,
            auth_source: None,
            database: None,
            tls: TlsOptions::default(),
            connect_timeout: None,
            server_selection_timeout: None,
            reply_timeout: Duration::from_secs(120),
            app_name: None,
            retry: RetryPolicy::default(),
        }
    }
}

/// TLS of the connections to a deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Whether TLS is used; naming a file below means yes.
    pub enabled: Option<bool>,
    /// The certificate authorities to trust, PEM; the Mozilla roots when not set.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and unencrypted private key in one PEM file.
    pub certificate_key_file: Option<PathBuf>,
    /// Accepts any server certificate. Whoever stands in between can then read everything: for tests alone.
    pub allow_invalid_certificates: Option<bool>,
}

/// How often, and how soon, something that failed for the moment is tried again. The count begins anew after each success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How many more tries one incident gets.
    pub retries_max: u32,
    /// The pause before the first of them; each following one is twice as long.
    pub first_delay: Duration,
    /// The longest pause.
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    /// Five tries within about five seconds.
    fn default() -> Self {
        Self { retries_max: 5, first_delay: Duration::from_millis(150), delay_max: Duration::from_secs(2) }
    }
}

impl RetryPolicy {
    pub(crate) fn incident(&self) -> Incident {
        Incident { policy: *self, tries: 0 }
    }
}

/// One series of tries.
#[derive(Debug)]
pub(crate) struct Incident {
    policy: RetryPolicy,
    tries: u32,
}

impl Incident {
    /// The pause before the next try; `None` when there is to be none.
    pub(crate) fn next_delay(&mut self) -> Option<Duration> {
        if self.tries == self.policy.retries_max {
            return None;
        }
        let delay = self.policy.first_delay.saturating_mul(1 << self.tries.min(16));
        self.tries += 1;
        Some(delay.min(self.policy.delay_max))
    }

    /// Something succeeded: what fails next is another incident.
    pub(crate) fn over(&mut self) {
        self.tries = 0;
    }

    /// How many tries there were.
    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }
}

/// What the configuration comes to.
pub(crate) struct Resolved {
    pub(crate) driver: ClientOptions,
    pub(crate) wire: WireOptions,
    pub(crate) seeds: Vec<Endpoint>,
    /// True when the one address given is to be used as it is, whatever the server says of its replica set.
    pub(crate) direct: bool,
    pub(crate) database: Option<String>,
    /// Which members scans at one moment read.
    pub(crate) reads: ReadFrom,
}

/// Which members of a replica set scans at one moment read, after the connection string's `readPreference`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadFrom {
    /// The primary (`primary`, `primaryPreferred`, or nothing said).
    Primary,
    /// A secondary, or the primary when there is none (`secondaryPreferred`, `nearest`).
    SecondaryPreferred,
    /// A secondary (`secondary`).
    Secondary,
}

impl ReadFrom {
    fn of(criteria: Option<&SelectionCriteria>) -> Self {
        match criteria {
            Some(SelectionCriteria::ReadPreference(ReadPreference::Secondary { .. })) => Self::Secondary,
            Some(SelectionCriteria::ReadPreference(
                ReadPreference::SecondaryPreferred { .. } | ReadPreference::Nearest { .. },
            )) => Self::SecondaryPreferred,
            _ => Self::Primary,
        }
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);

/// Resolves `config`. Asks the network only for the SRV and TXT records of a `mongodb+srv://` string.
///
/// # Errors
/// `Config` for a string, a file or a combination that cannot be right; `Unreachable` when SRV records cannot be had.
pub(crate) async fn resolve(config: &MongoConfig) -> Result<Resolved> {
    let url = url_with_login(config);
    let mut driver = ClientOptions::parse(url.expose()).await.map_err(|error| refuse_url(&url, &error))?;
    if let (Some(credential), Some(source)) = (&mut driver.credential, &config.auth_source) {
        credential.source = Some(source.clone());
    }
    driver.tls = tls(&config.tls, driver.tls.take());
    driver.app_name = config.app_name.clone().or(driver.app_name).or_else(|| Some("mainstay".to_owned()));
    driver.driver_info = Some(
        DriverInfo::builder()
            .name("mainstay".to_owned())
            .version(env!("CARGO_PKG_VERSION").to_owned())
            .build(),
    );
    driver.connect_timeout = config.connect_timeout.or(driver.connect_timeout).or(Some(TIMEOUT));
    driver.server_selection_timeout =
        config.server_selection_timeout.or(driver.server_selection_timeout).or(Some(TIMEOUT));
    Ok(Resolved {
        wire: wire_options(config, &driver)?,
        seeds: driver.hosts.iter().map(endpoint).collect::<Result<_>>()?,
        direct: driver.direct_connection == Some(true) || driver.load_balanced == Some(true),
        database: config.database.clone().or_else(|| driver.default_database.clone()),
        reads: ReadFrom::of(driver.selection_criteria.as_ref()),
        driver,
    })
}

/// The connection string with the configured user and password in it, so that every option in it that concerns the login (`authSource`,
/// `authMechanism`) is read as it always is.
fn url_with_login(config: &MongoConfig) -> Secret {
    let text = config.url.expose();
    let Some((scheme, rest)) = text.split_once("://") else { return config.url.clone() };
    let (authority, options) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (given, hosts) =
        authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));
    let (given_user, given_password) = match given.map(|login| login.split_once(':').ok_or(login)) {
        None => (None, None),
        Some(Ok((user, password))) => (Some(user), Some(password)),
        Some(Err(user)) => (Some(user), None),
    };
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let user = config.username.as_deref().map(encoded).or_else(|| given_user.map(str::to_owned));
    let password =
        config.password.as_ref().map(|it| encoded(it.expose())).or_else(|| given_password.map(str::to_owned));
    match (user, password) {
        (Some(user), Some(password)) => Secret::new(format!("{scheme}://{user}:{password}@{hosts}{options}")),
        (Some(user), None) => Secret::new(format!("{scheme}://{user}@{hosts}{options}")),
        (None, _) => config.url.clone(),
    }
}

fn tls(wanted: &TlsOptions, given: Option<Tls>) -> Option<Tls> {
    let named = wanted.ca_file.is_some() || wanted.certificate_key_file.is_some();
    let base = match (given, wanted.enabled) {
        (_, Some(false)) => return Some(Tls::Disabled),
        (Some(Tls::Enabled(options)), _) => options,
        (_, Some(true)) => DriverTlsOptions::default(),
        (_, None) if named => DriverTlsOptions::default(),
        (given, None) => return given,
    };
    let mut options = base;
    options.ca_file_path = wanted.ca_file.clone().or(options.ca_file_path);
    options.cert_key_file_path = wanted.certificate_key_file.clone().or(options.cert_key_file_path);
    options.allow_invalid_certificates =
        wanted.allow_invalid_certificates.or(options.allow_invalid_certificates);
    Some(Tls::Enabled(options))
}

fn wire_options(config: &MongoConfig, driver: &ClientOptions) -> Result<WireOptions> {
    let tls = match &driver.tls {
        Some(Tls::Enabled(options)) => Some(Arc::new(client_config(&TlsSettings {
            ca_file: options.ca_file_path.as_deref(),
            certificate_key_file: options.cert_key_file_path.as_deref(),
            verification: match options.allow_invalid_certificates {
                Some(true) => Verification::KeyOnly,
                _ => Verification::Full,
            },
        })?)),
        Some(Tls::Disabled) | None => None,
    };
    Ok(WireOptions {
        tls,
        login: driver.credential.as_ref().map(login).transpose()?,
        app_name: driver.app_name.clone().unwrap_or_default(),
        connect_timeout: driver.connect_timeout.unwrap_or(TIMEOUT),
        reply_timeout: config.reply_timeout,
    })
}

fn login(credential: &Credential) -> Result<Login> {
    let mechanism = match &credential.mechanism {
        None => None,
        Some(AuthMechanism::ScramSha1) => Some(Mechanism::ScramSha1),
        Some(AuthMechanism::ScramSha256) => Some(Mechanism::ScramSha256),
        Some(AuthMechanism::MongoDbX509) => Some(Mechanism::X509),
        Some(other) => {
            let message = format!("authentication mechanism {other:?} is not supported");
            let hint =
                "use SCRAM-SHA-256, SCRAM-SHA-1 or MONGODB-X509 as authMechanism in the connection string";
            return Err(Error::new(ErrorKind::Unsupported, message).with_hint(hint));
        }
    };
    let username = credential.username.clone().unwrap_or_default();
    if mechanism != Some(Mechanism::X509) && username.contains([',', '=']) {
        // The driver does not escape them as RFC 5802 asks, and would report a wrong password.
        return Err(Error::new(ErrorKind::Unsupported, "user names with `,` or `=` are not supported")
            .with_hint("create a user without these characters for mainstay"));
    }
    Ok(Login {
        username,
        password: credential.password.clone().map(Secret::new),
        source: credential.source.clone().unwrap_or_else(|| "admin".to_owned()),
        mechanism,
    })
}

/// A driver's address as ours.
pub(crate) fn endpoint(address: &ServerAddress) -> Result<Endpoint> {
    match address {
        ServerAddress::Tcp { host, port } => Ok(Endpoint { host: host.clone(), port: port.unwrap_or(27017) }),
        other => Err(Error::new(ErrorKind::Unsupported, format!("{other} is not a TCP address"))
            .with_hint("name the server by host and port in the connection string")),
    }
}

/// The driver's refusal of a connection string. Its text is shown only when it repeats nothing that stands before the `@`.
fn refuse_url(url: &Secret, error: &mongodb::error::Error) -> Error {
    let text = url.expose();
    let after_scheme = text.split_once("://").map_or(text, |(_, rest)| rest);
    let secrets: Vec<&str> = match after_scheme.rsplit_once('@') {
        Some((user_info, _)) => user_info.split([':', '@', '/']).filter(|part| !part.is_empty()).collect(),
        None => Vec::new(),
    };
    let detail = error.kind.to_string();
    let told = if secrets.iter().any(|secret| detail.contains(secret)) {
        String::new()
    } else {
        format!(": {detail}")
    };
    match error.kind.as_ref() {
        DriverErrorKind::DnsResolve { .. } => {
            Error::new(ErrorKind::Unreachable, format!("the SRV records of the MongoDB connection string cannot be read{told}"))
                .with_hint("check the host name after mongodb+srv:// and this machine's name server")
        }
        _ => Error::new(ErrorKind::Config, format!("the MongoDB connection string is not valid{told}"))
            .with_hint("write mongodb://HOST:PORT/DATABASE and keep user and password in their own settings; percent-encode what stays in the string"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    async fn resolved(url: &str, change: impl FnOnce(&mut MongoConfig)) -> Result<Resolved> {
        let mut config = MongoConfig::new(Secret::new(url));
        change(&mut config);
        resolve(&config).await
    }

    #[tokio::test]
    async fn the_connection_string_is_read_and_overridden() {
        let url = "mongodb://us%40er:p%2Fw@h1:1,h2/shop?authSource=auth&replicaSet=rs&tls=false";
        let plain = resolved(url, |_| {}).await.unwrap();
        let login = plain.wire.login.unwrap();
        assert_eq!(
            (login.username.as_str(), login.password.unwrap().expose(), login.source.as_str()),
            ("us@er", "p/w", "auth")
        );
        assert_eq!(plain.seeds.iter().map(ToString::to_string).collect::<Vec<_>>(), ["h1:1", "h2:27017"]);
        assert_eq!((plain.database.as_deref(), plain.direct), (Some("shop"), false));
        assert_eq!(plain.driver.app_name.as_deref(), Some("mainstay"));

        let overridden = resolved(url, |config| {
            config.username = Some("other".to_owned());
            config.password = Some(Secret::new("q"));
            config.auth_source = Some("admin".to_owned());
            config.database = Some("market".to_owned());
        })
        .await
        .unwrap();
        let login = overridden.wire.login.unwrap();
        assert_eq!(
            (login.username.as_str(), login.password.unwrap().expose(), login.source.as_str()),
            ("other", "q", "admin")
        );
        assert_eq!(overridden.database.as_deref(), Some("market"));

        let separate =
            resolved("mongodb://h", |config| config.username = Some("u".to_owned())).await.unwrap();
        assert_eq!(separate.wire.login.unwrap().source, "admin");
        assert!(resolved("mongodb://h", |_| {}).await.unwrap().wire.login.is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_right_is_refused_without_its_secrets() {
        for url in [
            "mongodb://user:hun/ter2@h:1",
            "mongodb://user:hunter2@h:port",
            "mongodb://user:hunter2@h/?tls=hunter2",
            "hunter2",
        ] {
            let error = resolved(url, |_| {}).await.err().unwrap_or_else(|| panic!("{url} was accepted"));
            assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
            assert!(!format!("{error:?}").contains("hun/ter2"), "{error:?}");
            assert!(url == "hunter2" || !format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let comma = resolved("mongodb://h", |config| config.username = Some("a,b".to_owned())).await;
        assert_eq!(comma.err().unwrap().kind(), ErrorKind::Unsupported);
        let unknown =
            resolved("mongodb://h/?authMechanism=GSSAPI", |config| config.username = Some("u".to_owned()))
                .await;
        assert!(unknown.is_err());
        let missing =
            resolved("mongodb://h", |config| config.tls.ca_file = Some("/nonexistent.pem".into())).await;
        let error = missing.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.message().contains("/nonexistent.pem"), "{error:?}");
    }

    #[test]
    fn retries_end() {
        let mut incident = RetryPolicy::default().incident();
        let delays: Vec<_> = std::iter::from_fn(|| incident.next_delay()).collect();
        assert_eq!(delays.iter().map(Duration::as_millis).collect::<Vec<_>>(), [150, 300, 600, 1200, 2000]);
        incident.over();
        assert!(incident.next_delay().is_some());
    }
}
