//! Secrets: values that cannot be printed, serialised or compared, and are wiped when dropped.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// A password, a key or a connection string that holds one. `Debug` shows `[secret]`; there is no `Display` and no `Serialize`.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(SecretString::from(value.into()))
    }

    /// The value itself. The caller hands it to a driver and to nothing else.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// True for the empty text.
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// `text` with everything between `://` and the last `@` of the authority replaced by `***@`, and every query value of a secret
/// option (`password`, `tlsCertificateKeyFilePassword`, …) replaced by `***`.
///
/// Works on text that is no valid URL, too: where no scheme stands before `://`, or there is no `://` at all, everything before the last
/// `@` is replaced, so that `s3:KEY:SECRET@bucket` becomes `***@bucket`.
pub fn redact_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        return match text.rfind('@') {
            Some(at) => format!("***@{}", redact_query(&text[at + 1..])),
            None => redact_query(text),
        };
    };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A raw `/`, `?` or `#` inside a password makes the URL invalid, but must not leak: look for the last `@` of the whole text then.
    let user_end = rest[..authority_end].rfind('@').or_else(|| rest.rfind('@'));
    let (user, tail) = match user_end {
        Some(at) => ("***@", &rest[at + 1..]),
        None => ("", rest),
    };
    format!("{scheme}://{user}{}", redact_query(tail))
}

/// RFC 3986, section 3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn redact_query(tail: &str) -> String {
    let Some((path, query)) = tail.split_once('?') else { return tail.to_owned() };
    let options = query.split('&').map(|option| match option.split_once('=') {
        Some((name, _)) if is_secret_option(name) => format!("{name}=***"),
        _ => option.to_owned(),
    });
    format!("{path}?{}", options.collect::<Vec<_>>().join("&"))
}

fn is_secret_option(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "secret", "token", "key"].iter().any(|word| name.contains(word))
        || name.starts_with("authmechanismproperties")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_show_it() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[secret]");
    }

    #[test]
    fn urls_lose_their_secrets() {
        let cases = [
            ("mongodb://host:1/db", "mongodb://host:1/db"),
            ("mongodb://u:p%40w@host:1/db?tls=true", "mongodb://***@host:1/db?tls=true"),
            (
                "postgres://u:p@host/db?password=x&sslmode=require",
                "postgres://***@host/db?password=***&sslmode=require",
            ),
            ("redis://:pa/ss@host:6379", "redis://***@host:6379"),
            ("redis://:a@b@host", "redis://***@host"),
            ("not a url", "not a url"),
            ("", ""),
            ("s3:KEY:SECRET@bucket", "***@bucket"),
            ("user:pass@host:9000", "***@host:9000"),
            ("user:p@ss@host:9000/path", "***@host:9000/path"),
            ("@host", "***@host"),
            ("user:pass@", "***@"),
            ("host:9000/db?password=x&tls=true", "host:9000/db?password=***&tls=true"),
            ("user:pass@host?next=http://other", "***@host?next=http://other"),
            ("user:pass@https://host", "***@https://host"),
            ("cannot reach mongodb://u:p@host", "***@host"),
            ("://u:p@host", "***@host"),
            ("ü:p@hóst", "***@hóst"),
        ];
        for (given, expected) in cases {
            assert_eq!(redact_url(given), expected);
        }
    }
}
