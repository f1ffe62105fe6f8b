//! Where a PostgreSQL is and how to log in: a URL, with overrides.
//!
//! The URL is taken apart here rather than in the driver for two reasons: credentials are split at the *last* `@`, so that a raw `@` in a
//! password is not taken for the start of a host name and shown; and `sslmode=verify-full` and `sslrootcert` are understood, which the
//! driver does not know. What the URL says otherwise is the driver's business. Refuses a URL it cannot take apart without naming any part
//! of it that may belong to a password.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use mainstay_model::{Error, ErrorKind, Result, Secret};
use percent_encoding::percent_decode_str;
use tokio_postgres::config::{Host, SslMode};

/// How a server is reached. [`PostgresConfig::new`] takes a URL; the other fields override what it says.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database?option=value`; may hold a password, so it is a secret as a whole.
    pub url: Secret,
    /// Replaces the URL's user.
    pub user: Option<String>,
    /// Replaces the URL's password.
    pub password: Option<Secret>,
    /// Replaces what the URL says of TLS.
    pub tls: TlsOptions,
    /// How long connecting may take, from the name's resolution to the end of authentication. 10 seconds unless set.
    pub connect_timeout: Duration,
}

impl PostgresConfig {
    /// What `url` says, and nothing else.
    pub fn new(url: Secret) -> Self {
        Self {
            url,
            user: None,
            password: None,
            tls: TlsOptions::default(),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// TLS, where it differs from what the URL says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Replaces the URL's `sslmode`. When neither says anything: [`TlsMode::Prefer`].
    pub mode: Option<TlsMode>,
    /// PEM file of the authorities to trust instead of the public ones; replaces the URL's `sslrootcert`. With such a file the certificate
    /// and the host name are checked in every mode that uses TLS.
    pub ca_file: Option<PathBuf>,
}

/// `sslmode`, as in PostgreSQL's manual, "SSL Support" of libpq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// `disable`: never.
    Disable,
    /// `prefer`: when the server offers it; the certificate is not checked. Protects against nobody who can change what is sent.
    Prefer,
    /// `require`: always; the certificate is checked only against a given CA file.
    Require,
    /// `verify-full`: always; certificate and host name are checked against the CA file or the public authorities. `verify-ca` is read as
    /// this, which is stricter.
    VerifyFull,
}

impl FromStr for TlsMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "disable" => Ok(Self::Disable),
            "prefer" | "allow" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-full" | "verify-ca" => Ok(Self::VerifyFull),
            _ => Err(Error::new(ErrorKind::Config, "the PostgreSQL sslmode is not known")
                .with_hint("use one of disable, prefer, require, verify-full")),
        }
    }
}

/// The configuration resolved: what the driver is given, and what may be said of it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) driver: tokio_postgres::Config,
    pub(crate) tls_mode: TlsMode,
    pub(crate) ca_file: Option<PathBuf>,
    /// `host:port`, several joined by commas.
    pub(crate) address: String,
    pub(crate) connect_timeout: Duration,
}

impl Settings {
    /// # Errors
    /// `Config`; never with a part of the URL that may be secret.
    pub(crate) fn resolve(config: &PostgresConfig) -> Result<Self> {
        let parts = UrlParts::of(config.url.expose())?;
        let mut driver = tokio_postgres::Config::from_str(&parts.bare).map_err(|error| {
            // The driver saw no credentials, and names an option, not its value.
            let why =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            url_error(&why).with_hint("remove or correct that option of the PostgreSQL URL")
        })?;
        if driver.get_hosts().is_empty() && driver.get_hostaddrs().is_empty() {
            return Err(url_error("it names no host"));
        }
        if let Some(user) = config.user.clone().or(parts.user) {
            driver.user(user);
        }
        if let Some(password) = config.password.clone().or(parts.password) {
            driver.password(password.expose());
        }
        if driver.get_application_name().is_none() {
            driver.application_name("mainstay");
        }
        let tls_mode = config.tls.mode.or(parts.tls_mode).unwrap_or(TlsMode::Prefer);
        driver.connect_timeout(config.connect_timeout).ssl_mode(match tls_mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyFull => SslMode::Require,
        });
        let address = address(&driver);
        let ca_file = config.tls.ca_file.clone().or(parts.ca_file);
        Ok(Self { driver, tls_mode, ca_file, address, connect_timeout: config.connect_timeout })
    }

    /// The database asked for: named, or the user's own as the server would take it.
    pub(crate) fn database(&self) -> &str {
        self.driver.get_dbname().or(self.driver.get_user()).unwrap_or("the user's own")
    }

    pub(crate) fn user(&self) -> &str {
        self.driver.get_user().unwrap_or("the operating system's user")
    }
}

/// A URL without what the driver must not or cannot see, and those parts.
struct UrlParts {
    bare: String,
    user: Option<String>,
    password: Option<Secret>,
    tls_mode: Option<TlsMode>,
    ca_file: Option<PathBuf>,
}

impl UrlParts {
    fn of(url: &str) -> Result<Self> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or_else(|| url_error("it does not begin with postgres:// or postgresql://"))?;
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if tail.contains('@') {
            return Err(url_error("it has an `@` after the host, or a raw `/`, `?` or `#` in the password")
                .with_hint("percent-encode those characters: @ is %40, / is %2F, ? is %3F, # is %23"));
        }
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        let (user, password) = match credentials.map(|text| text.split_once(':').unwrap_or((text, ""))) {
            Some((user, password)) => (decoded(user)?, decoded(password)?),
            None => (None, None),
        };
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let (mut tls_mode, mut ca_file, mut kept) = (None, None, Vec::new());
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("sslmode", value)) => tls_mode = Some(value.parse()?),
                Some(("sslrootcert", value)) => ca_file = decoded(value)?.map(PathBuf::from),
                _ => kept.push(option),
            }
        }
        let bare = format!("postgresql://{hosts}{path}?{}", kept.join("&"));
        Ok(Self { bare, user, password: password.map(Secret::new), tls_mode, ca_file })
    }
}

fn url_error(why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("the PostgreSQL URL cannot be used: {why}"))
}

/// Percent-decoded text; `None` for the empty text.
fn decoded(text: &str) -> Result<Option<String>> {
    let text = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| url_error("a percent-encoded part of it is not UTF-8"))?;
    Ok((!text.is_empty()).then(|| text.into_owned()))
}

fn address(driver: &tokio_postgres::Config) -> String {
    let ports = driver.get_ports();
    let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
    let hosts: Vec<String> = match driver.get_hosts() {
        [] => driver.get_hostaddrs().iter().map(ToString::to_string).collect(),
        hosts => hosts.iter().map(host_name).collect(),
    };
    let with_port = |(index, host): (usize, &String)| match host.contains(':') {
        true => format!("[{host}]:{}", port(index)),
        false => format!("{host}:{}", port(index)),
    };
    hosts.iter().enumerate().map(with_port).collect::<Vec<_>>().join(",")
}

fn host_name(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn resolve(url: &str) -> Result<Settings> {
        Settings::resolve(&PostgresConfig::new(Secret::new(url)))
    }

    #[test]
    fn urls_are_read() {
        let cases = [
            ("postgres://u:p@h/d", "h:5432", Some("u"), Some("p"), Some("d"), TlsMode::Prefer),
            (
                "postgresql://u%40x:p%2Fw@h:1/d?sslmode=require",
                "h:1",
                Some("u@x"),
                Some("p/w"),
                Some("d"),
                TlsMode::Require,
            ),
            (
                "postgres://u:a@b:c@h/d?sslmode=verify-full",
                "h:5432",
                Some("u"),
                Some("a@b:c"),
                Some("d"),
                TlsMode::VerifyFull,
            ),
            ("postgres://h1:1,h2:2/d?sslmode=disable", "h1:1,h2:2", None, None, Some("d"), TlsMode::Disable),
            ("postgres://u@[::1]:7/d", "[::1]:7", Some("u"), None, Some("d"), TlsMode::Prefer),
            (
                "postgres://u@h?connect_timeout=3&application_name=x",
                "h:5432",
                Some("u"),
                None,
                None,
                TlsMode::Prefer,
            ),
        ];
        for (url, address, user, password, database, mode) in cases {
            let settings = resolve(url).unwrap();
            assert_eq!(settings.address, address, "{url}");
            assert_eq!(settings.driver.get_user(), user, "{url}");
            assert_eq!(settings.driver.get_password(), password.map(str::as_bytes), "{url}");
            assert_eq!(settings.driver.get_dbname(), database, "{url}");
            assert_eq!(settings.tls_mode, mode, "{url}");
        }
    }

    #[test]
    fn overrides_win() {
        let config = PostgresConfig {
            user: Some("other".to_owned()),
            password: Some(Secret::new("new")),
            tls: TlsOptions { mode: Some(TlsMode::Require), ca_file: Some("/b.pem".into()) },
            ..PostgresConfig::new(Secret::new("postgres://u:p@h/d?sslmode=disable&sslrootcert=/a.pem"))
        };
        let settings = Settings::resolve(&config).unwrap();
        assert_eq!(settings.user(), "other");
        assert_eq!(settings.driver.get_password(), Some(&b"new"[..]));
        assert_eq!((settings.tls_mode, settings.ca_file), (TlsMode::Require, Some("/b.pem".into())));
    }

    #[test]
    fn no_refused_url_shows_a_part_of_its_password() {
        let urls = [
            "mysql://u:hunter2@h/d",
            "postgres://u:hunter2/hunter2@h/d",
            "postgres://u:hunter2?hunter2=1@h/d",
            "postgres://u:hunter2#hunter2@h/d",
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2@h/d?sslmode=hunter2",
            "postgres://u:hunter2@h/d?unheard_of=hunter2",
            "postgres://u:hunter2%FF@h/d",
            "postgres://u:hunter2@/d",
            "host=h password=hunter2",
        ];
        for url in urls {
            let error = resolve(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(resolve("postgres://u@h/d?unheard_of=1").unwrap_err().to_string().contains("unheard_of"));
        let shown = format!(
            "{:?} {:?}",
            PostgresConfig::new(Secret::new(urls[0])),
            resolve("postgres://u:hunter2@h/d").unwrap()
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
