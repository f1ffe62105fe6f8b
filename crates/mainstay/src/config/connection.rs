//! Connection strings, taken apart far enough to check them, to find the credentials in them, and to compare them.
//!
//! MongoDB's list of hosts keeps the common URL parsers from reading its strings, so this one reads all three dialects:
//! `scheme://[user[:password]@]host[:port][,host[:port]…][/database][?option=value&…]`. It refuses what it cannot read without saying
//! the text, because the text may hold a password.

use std::fmt;

use mainstay_model::Secret;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// A connection string in parts. Everything is decoded, except the hosts, which are kept as written.
#[derive(Clone)]
pub(crate) struct Connection {
    /// `mongodb`, `postgres`, `rediss`, …
    pub(crate) scheme: String,
    /// The user, if named.
    pub(crate) username: Option<String>,
    /// The password, if written in.
    pub(crate) password: Option<Secret>,
    /// `host` or `host:port`, comma-separated as written.
    pub(crate) hosts: String,
    /// The path without its slash; `None` when empty.
    pub(crate) database: Option<String>,
    /// The options in order.
    pub(crate) options: Vec<(String, String)>,
}

/// Why a text is no connection string. Never holds the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("has no scheme")]
    Scheme,
    #[error("has the scheme `{found}`")]
    ForeignScheme { found: String },
    #[error("names no host")]
    Host,
    #[error("has bad percent-encoding in the {part}: `%` must be followed by two hexadecimal digits")]
    Encoding { part: &'static str },
    #[error("has a {part} that is not UTF-8 after percent-decoding")]
    Utf8 { part: &'static str },
    #[error("has an unescaped `{character}` in the user or password; write it as {escape}")]
    Unescaped { character: char, escape: &'static str },
    #[error("has the port `{port}`, which is not a number from 1 to 65535")]
    Port { port: String },
}

impl Connection {
    /// Takes `text` apart, which must have one of `schemes`.
    ///
    /// # Errors
    /// [`ConnectionError`], which never holds a part that could be a password.
    pub(crate) fn parse(text: &str, schemes: &[&str]) -> Result<Self, ConnectionError> {
        let (scheme, rest) = text.split_once("://").ok_or(ConnectionError::Scheme)?;
        if !schemes.contains(&scheme) {
            let word = scheme.len() <= 20
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte));
            return Err(if word {
                ConnectionError::ForeignScheme { found: scheme.to_owned() }
            } else {
                ConnectionError::Scheme
            });
        }
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(authority_end);
        refuse_unescaped(authority, tail)?;
        let (user_info, hosts) = match authority.rsplit_once('@') {
            Some((user_info, hosts)) => (Some(user_info), hosts),
            None => (None, authority),
        };
        check_hosts(hosts, scheme == "mongodb+srv")?;
        let (username, password) = match user_info.map(|info| info.split_once(':').unwrap_or((info, ""))) {
            Some((username, password)) => (decode(username, "user")?, decode(password, "password")?),
            None => (String::new(), String::new()),
        };
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let database = decode(path.strip_prefix('/').unwrap_or(path), "database")?;
        let mut options = parse_options(query)?;
        let (mut option_user, mut option_password) = (None, None);
        if scheme.starts_with("postgres") {
            // libpq's other way to write them; the authority wins.
            option_user = take_option(&mut options, "user");
            option_password = take_option(&mut options, "password");
        }
        Ok(Self {
            scheme: scheme.to_owned(),
            username: Some(username).filter(|name| !name.is_empty()).or(option_user),
            password: Some(password)
                .filter(|password| !password.is_empty())
                .or(option_password)
                .map(Secret::new),
            hosts: hosts.to_owned(),
            database: Some(database).filter(|name| !name.is_empty()),
            options,
        })
    }

    /// The first value of an option, whose name is compared without regard to case.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether every host is this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.hosts.split(',').all(|host| {
            let name =
                host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(name, _)| name);
            let name = name.trim_matches(['[', ']']);
            name == "localhost"
                || name == "::1"
                || name.starts_with("127.")
                || name.starts_with('/')
                || name.starts_with("%2F")
        })
    }

    /// The connection string without user and password, for a driver that is told those apart.
    pub(crate) fn without_credentials(&self) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut text = format!("{}://{}", self.scheme, self.hosts);
        let options: Vec<String> =
            self.options.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        if let Some(database) = &self.database {
            text.push('/');
            text.push_str(&encode(database));
        } else if !options.is_empty() {
            text.push('/');
        }
        if !options.is_empty() {
            text.push('?');
            text.push_str(&options.join("&"));
        }
        text
    }
}

/// Whether a text given as an argument holds a password, even if it is no valid connection string.
pub(crate) fn holds_password(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let user_info = rest.rfind('@').map(|at| &rest[..at]);
    let in_authority =
        user_info.is_some_and(|info| info.split_once(':').is_some_and(|(_, password)| !password.is_empty()));
    in_authority
        || mainstay_model::redact_url(&format!("x://h{}", rest.find('?').map_or("", |at| &rest[at..])))
            .contains("=***")
}

fn refuse_unescaped(authority: &str, tail: &str) -> Result<(), ConnectionError> {
    // An `@` after the authority's end means that a raw `/`, `?` or `#` of the password ended it too early.
    let before_query = tail.split('?').next().unwrap_or_default();
    if !authority.contains('@')
        && (before_query.contains('@') || (tail.starts_with(['?', '#']) && tail.contains('@')))
    {
        return Err(match tail.chars().next() {
            Some('?') => ConnectionError::Unescaped { character: '?', escape: "%3F" },
            Some('#') => ConnectionError::Unescaped { character: '#', escape: "%23" },
            _ => ConnectionError::Unescaped { character: '/', escape: "%2F" },
        });
    }
    match authority.matches('@').count() {
        0 | 1 => Ok(()),
        _ => Err(ConnectionError::Unescaped { character: '@', escape: "%40" }),
    }
}

fn check_hosts(hosts: &str, is_srv: bool) -> Result<(), ConnectionError> {
    for host in hosts.split(',') {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, Some(port)),
            _ => (host, None),
        };
        if name.is_empty() {
            return Err(ConnectionError::Host);
        }
        let valid = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        match port {
            Some(port) if is_srv || !valid(port) => {
                // What stands behind a colon could be a password whose `@` was forgotten: only digits are repeated.
                let port = if port.bytes().all(|byte| byte.is_ascii_digit()) { port } else { "…" };
                return Err(ConnectionError::Port { port: port.to_owned() });
            }
            _ => {}
        }
    }
    Ok(())
}

fn parse_options(query: &str) -> Result<Vec<(String, String)>, ConnectionError> {
    query
        .split('&')
        .filter(|option| !option.is_empty())
        .map(|option| {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            Ok((decode(name, "options")?, decode(value, "options")?))
        })
        .collect()
}

fn take_option(options: &mut Vec<(String, String)>, name: &str) -> Option<String> {
    let at = options.iter().position(|(own, _)| own == name)?;
    Some(options.remove(at).1).filter(|value| !value.is_empty())
}

fn decode(text: &str, part: &'static str) -> Result<String, ConnectionError> {
    let bytes = text.as_bytes();
    let broken = bytes.iter().enumerate().any(|(index, byte)| {
        *byte == b'%'
            && !bytes.get(index + 1..index + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    if broken {
        return Err(ConnectionError::Encoding { part });
    }
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| ConnectionError::Utf8 { part })
}

impl fmt::Display for Connection {
    /// Without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mainstay_model::redact_url(&self.without_credentials()))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const MONGO: &[&str] = &["mongodb", "mongodb+srv"];

    #[test]
    fn parts_are_decoded() {
        let url = "mongodb://us%40er:p%2Fw@a:1,[::1]:2/shop?tls=true&authSource=admin";
        let connection = Connection::parse(url, MONGO).unwrap();
        assert_eq!(connection.username.as_deref(), Some("us@er"));
        assert_eq!(connection.password.as_ref().unwrap().expose(), "p/w");
        assert_eq!(connection.hosts, "a:1,[::1]:2");
        assert_eq!(connection.database.as_deref(), Some("shop"));
        assert_eq!(connection.option("AUTHSOURCE"), Some("admin"));
        assert_eq!(connection.without_credentials(), "mongodb://a:1,[::1]:2/shop?tls=true&authSource=admin");
        assert!(!connection.is_loopback());
        let libpq =
            Connection::parse("postgres://h/d?user=u&password=p%20w&sslmode=require", &["postgres"]).unwrap();
        assert_eq!(
            (libpq.username.as_deref(), libpq.password.as_ref().unwrap().expose()),
            (Some("u"), "p w")
        );
        assert_eq!(libpq.without_credentials(), "postgres://h/d?sslmode=require");
        assert!(Connection::parse("mongodb://127.0.0.1:1,[::1]:2", MONGO).unwrap().is_loopback());
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_being_repeated() {
        use ConnectionError as E;
        let cases = [
            ("host:27017/db", E::Scheme),
            ("u:canary@host", E::Scheme),
            ("postgres://h/db", E::ForeignScheme { found: "postgres".to_owned() }),
            ("mongodb://", E::Host),
            ("mongodb://u:canary@", E::Host),
            ("mongodb://u:can%ry@h", E::Encoding { part: "password" }),
            ("mongodb://u:%ff@h", E::Utf8 { part: "password" }),
            ("mongodb://u:can/ary@h", E::Unescaped { character: '/', escape: "%2F" }),
            ("mongodb://u:can?ary@h", E::Unescaped { character: '?', escape: "%3F" }),
            ("mongodb://u:can@ary@h", E::Unescaped { character: '@', escape: "%40" }),
            ("mongodb://h:canary", E::Port { port: "…".to_owned() }),
            ("mongodb://h:99999", E::Port { port: "99999".to_owned() }),
            ("mongodb://h/d%2", E::Encoding { part: "database" }),
        ];
        for (text, expected) in cases {
            let error = Connection::parse(text, MONGO).unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }

    #[test]
    fn passwords_are_seen_wherever_they_hide() {
        for text in [
            "mongodb://u:p@h",
            "mongodb://u:p/x@h",
            "redis://:p@h",
            "u:p@h",
            "postgres://h/db?password=p",
            "postgres://h?sslmode=require&PASSWORD=p",
        ] {
            assert!(holds_password(text), "{text}");
        }
        for text in
            ["mongodb://u@h:1/db", "mongodb://h:1", "redis://h:6379/0", "s3://bucket/a:b", "/srv/backups"]
        {
            assert!(!holds_password(text), "{text}");
        }
    }
}
