//! Where a Redis is and how to log in: a URL, with overrides.
//!
//! Credentials are split from the URL here, at the *last* `@`, and never handed to the driver's parser or its connection set-up: the driver
//! would log in by itself and keep the server's reason for a refusal. Refuses a URL it cannot take apart without naming any part of it that
//! may belong to a password.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use mainstay_model::{Error, ErrorKind, Result, Secret};
use percent_encoding::percent_decode_str;
use redis::{ConnectionAddr, ConnectionInfo, RedisConnectionInfo, TlsCertificates};

use crate::sentinel::Watch;

/// Where Sentinels listen unless they are told otherwise.
const SENTINEL_PORT: u16 = 26_379;

/// How a server is reached. [`RedisConfig::new`] takes a URL; the other fields override what it says.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://user:password@host:port/database`, or `rediss://` for TLS; or `redis+sentinel://user:password@host:port,host:port/name/database`
    /// (`rediss+sentinel://`) for the primary that Sentinels know by that name. May hold a password, so it is a secret as a whole.
    pub url: Secret,
    /// Replaces the URL's user (an ACL user, Redis 6 and later).
    pub user: Option<String>,
    /// Replaces the URL's password.
    pub password: Option<Secret>,
    /// What Sentinels ask for, where the URL names some. User and password of the URL are those of the servers that they watch.
    pub sentinel_password: Option<Secret>,
    /// Replaces what the URL says of TLS.
    pub tls: TlsOptions,
    /// How long connecting may take, from the name's resolution to the end of the TLS handshake. 10 seconds unless set.
    pub connect_timeout: Duration,
}

impl RedisConfig {
    /// What `url` says, and nothing else.
    pub fn new(url: Secret) -> Self {
        Self {
            url,
            user: None,
            password: None,
            sentinel_password: None,
            tls: TlsOptions::default(),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// TLS, where it differs from what the URL says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Replaces the URL's scheme: `redis` means [`TlsMode::Disable`], `rediss` [`TlsMode::VerifyFull`].
    pub mode: Option<TlsMode>,
    /// PEM file of the authorities to trust instead of those of this machine.
    pub ca_file: Option<PathBuf>,
}

/// Whether to use TLS. A Redis port speaks either TLS or not, so there is nothing to prefer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// `disable`: never.
    Disable,
    /// `verify-full`: always; certificate and host name are checked.
    VerifyFull,
}

impl FromStr for TlsMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "disable" => Ok(Self::Disable),
            "verify-full" => Ok(Self::VerifyFull),
            _ => Err(Error::new(ErrorKind::Config, "the Redis TLS mode is not known")
                .with_hint("use one of disable, verify-full")),
        }
    }
}

/// The configuration resolved: what the driver is given, and what may be said of it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) client: redis::Client,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: i64,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) connect_timeout: Duration,
    /// What Sentinels tell which server it is; host and port are those of the first of them then.
    pub(crate) watch: Option<Watch>,
}

impl Settings {
    /// # Errors
    /// `Config`; never with a part of the URL that may be secret.
    pub(crate) fn resolve(config: &RedisConfig) -> Result<Self> {
        let parts = UrlParts::of(config.url.expose())?;
        let parsed = ConnectionInfo::from_str(&parts.bare)
            .map_err(|error| url_error(error.detail().unwrap_or("host, port or database is malformed")))?;
        let (host, port) = match parsed.addr() {
            ConnectionAddr::Tcp(host, port) => (host.clone(), *port),
            _ => return Err(url_error("it names no host")),
        };
        let database = parsed.redis_settings().db();
        let tls = config.tls.mode.map_or(parts.tls, |mode| mode == TlsMode::VerifyFull);
        let client = client(&host, port, tls, config.tls.ca_file.as_deref())?;
        let user = config.user.clone().or(parts.user);
        let password = config.password.clone().or(parts.password);
        let connect_timeout = config.connect_timeout;
        let ca_file = config.tls.ca_file.clone();
        let watch = parts.sentinels.map(|(nodes, name)| Watch {
            nodes,
            name,
            password: config.sentinel_password.clone(),
        });
        Ok(Self { client, user, password, database, host, port, tls, ca_file, connect_timeout, watch })
    }

    /// What follows `AUTH`; `None` where nobody logs in. A user who is named logs in also without a password: an unnamed one would have other rights.
    pub(crate) fn login(&self) -> Option<Vec<&str>> {
        let password = self.password.as_ref().map(Secret::expose);
        match (self.user.as_deref(), password) {
            (None, None) => None,
            (None, Some(password)) => Some(vec![password]),
            (Some(user), password) => Some(vec![user, password.unwrap_or_default()]),
        }
    }

    /// The same at another place, which no Sentinel is asked about.
    pub(crate) fn at(&self, host: String, port: u16) -> Result<Self> {
        let client = client(&host, port, self.tls, self.ca_file.as_deref())?;
        Ok(Self { client, host, port, watch: None, ..self.clone() })
    }

    /// `host:port`; of what Sentinels tell, its name and the first of these.
    pub(crate) fn address(&self) -> String {
        let place = self.place();
        match &self.watch {
            Some(watch) => format!("{} by Sentinel {place}", watch.name),
            None => place,
        }
    }

    fn place(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

fn client(host: &str, port: u16, tls: bool, ca_file: Option<&Path>) -> Result<redis::Client> {
    let unusable = |error: redis::RedisError| {
        Error::new(ErrorKind::Config, format!("the Redis configuration cannot be used: {error}"))
    };
    let with_address = |address: ConnectionAddr| {
        let info = redis::IntoConnectionInfo::into_connection_info(address).map_err(unusable)?;
        Ok::<_, Error>(info.set_redis_settings(RedisConnectionInfo::default().set_skip_set_lib_name()))
    };
    if !tls {
        return redis::Client::open(with_address(ConnectionAddr::Tcp(host.to_owned(), port))?)
            .map_err(unusable);
    }
    let root_cert = match ca_file {
        Some(file) => Some(std::fs::read(file).map_err(|error| {
            Error::new(ErrorKind::Config, format!("the CA file {} cannot be read: {error}", file.display()))
        })?),
        None => None,
    };
    let address = ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params: None };
    let certificates = TlsCertificates { client_tls: None, root_cert };
    redis::Client::build_with_tls(with_address(address)?, certificates).map_err(unusable)
}

/// A URL without what the driver must not see, and those parts.
struct UrlParts {
    /// `redis://host:port/database`.
    bare: String,
    tls: bool,
    user: Option<String>,
    password: Option<Secret>,
    /// Sentinels, and the name that they know the server by.
    sentinels: Option<(Vec<(String, u16)>, String)>,
}

impl UrlParts {
    fn of(url: &str) -> Result<Self> {
        let (tls, by_sentinel, rest) = match url.split_once("://") {
            Some(("redis", rest)) => (false, false, rest),
            Some(("rediss", rest)) => (true, false, rest),
            Some(("redis+sentinel", rest)) => (false, true, rest),
            Some(("rediss+sentinel", rest)) => (true, true, rest),
            _ => return Err(url_error("it does not begin with redis:// or rediss://")),
        };
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if tail.contains('@') {
            return Err(url_error("it has an `@` after the host, or a raw `/`, `?` or `#` in the password")
                .with_hint("percent-encode those characters: @ is %40, / is %2F, ? is %3F, # is %23"));
        }
        if tail.contains(['?', '#']) {
            return Err(url_error("it has options after the database, which are not supported"));
        }
        let (credentials, host) = match authority.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials), host),
            None => (None, authority),
        };
        let (user, password) = match credentials.map(|text| text.split_once(':').unwrap_or((text, ""))) {
            Some((user, password)) => (decoded(user)?, decoded(password)?),
            None => (None, None),
        };
        let password = password.map(Secret::new);
        if !by_sentinel {
            return Ok(Self { bare: format!("redis://{host}{tail}"), tls, user, password, sentinels: None });
        }
        let path = decoded(tail.trim_start_matches('/'))?.unwrap_or_default();
        let (name, database) = path.split_once('/').unwrap_or((&path, ""));
        if name.is_empty() {
            return Err(url_error("it names Sentinels, and not what they call the server")
                .with_hint("it has the form redis+sentinel://host:26379,host:26379/name/0"));
        }
        let nodes = host.split(',').map(sentinel_node).collect::<Result<Vec<_>>>()?;
        let first = nodes.first().map_or("", |(host, _)| host);
        let bare = match first.contains(':') {
            true => format!("redis://[{first}]:{}/{database}", nodes[0].1),
            false => format!("redis://{first}:{}/{database}", nodes[0].1),
        };
        Ok(Self { bare, tls, user, password, sentinels: Some((nodes, name.to_owned())) })
    }
}

/// `host`, `host:port`, or `[address]:port`.
fn sentinel_node(text: &str) -> Result<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = port.map_or(Ok(SENTINEL_PORT), str::parse);
    let port = port.map_err(|_| url_error("the port of a Sentinel is no number from 1 to 65535"))?;
    let host = host.trim_matches(['[', ']']);
    if host.is_empty() {
        return Err(url_error("it names no host"));
    }
    Ok((host.to_owned(), port))
}

fn url_error(why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("the Redis URL cannot be used: {why}"))
        .with_hint("it has the form redis://user:password@host:6379/0")
}

/// Percent-decoded text; `None` for the empty text.
fn decoded(text: &str) -> Result<Option<String>> {
    let text = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| url_error("a percent-encoded part of it is not UTF-8"))?;
    Ok((!text.is_empty()).then(|| text.into_owned()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn resolve(url: &str) -> Result<Settings> {
        Settings::resolve(&RedisConfig::new(Secret::new(url)))
    }

    #[test]
    fn urls_are_read() {
        let cases = [
            ("redis://h", "h:6379", None, None, 0, false),
            ("redis://:p%2Fw@h:1/3", "h:1", None, Some("p/w"), 3, false),
            ("redis://u:a@b:c@h:1/", "h:1", Some("u"), Some("a@b:c"), 0, false),
            ("rediss://u:p@[::1]:7/2", "[::1]:7", Some("u"), Some("p"), 2, true),
        ];
        for (url, address, user, password, database, tls) in cases {
            let settings = resolve(url).unwrap();
            assert_eq!(settings.address(), address, "{url}");
            assert_eq!(settings.user.as_deref(), user, "{url}");
            assert_eq!(settings.password.as_ref().map(Secret::expose), password, "{url}");
            assert_eq!((settings.database, settings.tls), (database, tls), "{url}");
        }
    }

    #[test]
    fn sentinels_are_read() {
        let cases = [
            ("redis+sentinel://h/shop", vec![("h", 26_379)], "shop", 0, false),
            (
                "rediss+sentinel://u:p@h:1,[::1]:2,i/shop/3",
                vec![("h", 1), ("::1", 2), ("i", 26_379)],
                "shop",
                3,
                true,
            ),
            ("redis+sentinel://h:1/shop%2F2", vec![("h", 1)], "shop", 2, false),
        ];
        for (url, nodes, name, database, tls) in cases {
            let settings = resolve(url).unwrap();
            let watch = settings.watch.unwrap();
            let seen: Vec<(&str, u16)> =
                watch.nodes.iter().map(|(host, port)| (host.as_str(), *port)).collect();
            assert_eq!((seen, watch.name.as_str()), (nodes, name), "{url}");
            assert_eq!((settings.database, settings.tls), (database, tls), "{url}");
        }
        assert_eq!(resolve("redis+sentinel://h/shop").unwrap().address(), "shop by Sentinel h:26379");
        for url in [
            "redis+sentinel://h",
            "redis+sentinel://h:hunter2/shop",
            "redis+sentinel://h,/shop",
            "redis+sentinel://h/shop/x",
        ] {
            assert_eq!(resolve(url).unwrap_err().kind(), ErrorKind::Config, "{url}");
        }
    }

    #[test]
    fn overrides_win() {
        let config = RedisConfig {
            user: Some("other".to_owned()),
            password: Some(Secret::new("new")),
            tls: TlsOptions { mode: Some(TlsMode::Disable), ca_file: None },
            ..RedisConfig::new(Secret::new("rediss://u:p@h"))
        };
        let settings = Settings::resolve(&config).unwrap();
        assert_eq!(settings.user.as_deref(), Some("other"));
        assert_eq!(settings.password.unwrap().expose(), "new");
        assert!(!settings.tls);
    }

    #[test]
    fn no_refused_url_shows_a_part_of_its_password() {
        let urls = [
            "http://u:hunter2@h/0",
            "redis://:hunter2/hunter2@h/0",
            "redis://:hunter2?hunter2@h/0",
            "redis://:hunter2#hunter2@h/0",
            "redis://:hunter2@h:port/0",
            "redis://:hunter2@h/zero",
            "redis://:hunter2@h/0?password=hunter2",
            "redis://:hunter2%FF@h/0",
            "redis://:hunter2@/0",
            "redis://:hunter2@0.0.0.0/0",
        ];
        for url in urls {
            let error = resolve(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let shown = format!(
            "{:?} {:?}",
            RedisConfig::new(Secret::new(urls[0])),
            resolve("redis://:hunter2@h").unwrap()
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
