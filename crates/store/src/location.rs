//! Locations: where a store is, as text in configuration and on the command line.
//!
//! Four forms: `file:./dir` or `file:/abs/dir` (also `./dir`, `../dir`, `/abs/dir`), `s3://bucket/prefix`, and `memory:`. A location
//! never carries credentials; text that does is refused without repeating it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mainstay_model::{Error, ErrorKind, Result, redact_url};
use serde::{Deserialize, Serialize};

use crate::Key;

const FORMS: &str = "write file:./dir, /abs/dir, s3://bucket/prefix or memory:";

/// Where a store is. `Display` gives text that parses to the same location and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Location(pub(crate) Place);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A directory; a relative one is resolved against `StoreOptions::base_dir`.
    Directory(PathBuf),
    /// A bucket, and the folder in it under which all keys lie.
    S3 { bucket: String, prefix: Key },
    /// This process's memory; every opening makes a new, empty store.
    Memory,
}

impl Location {
    /// The location of a directory.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self(Place::Directory(path.into()))
    }

    /// The directory, when this is one; relative as it was written.
    pub fn as_directory(&self) -> Option<&Path> {
        match &self.0 {
            Place::Directory(path) => Some(path),
            _ => None,
        }
    }

    /// True for a store in the memory of this process, which ends with it.
    pub fn is_memory(&self) -> bool {
        matches!(self.0, Place::Memory)
    }

    /// True for an S3-compatible service, which needs [`crate::S3Options`].
    pub fn is_s3(&self) -> bool {
        matches!(self.0, Place::S3 { .. })
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map(Self).map_err(|why| {
            Error::new(
                ErrorKind::Config,
                format!("{:?} is not a repository location: {why}", redact_url(text)),
            )
            .with_hint(FORMS)
        })
    }
}

impl TryFrom<String> for Location {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.to_string()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Directory(path) => write!(f, "file:{}", path.display()),
            Place::S3 { bucket, prefix } if prefix.is_root() => write!(f, "s3://{bucket}"),
            Place::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{}", prefix.as_str()),
            Place::Memory => f.write_str("memory:"),
        }
    }
}

fn parse(text: &str) -> Result<Place, String> {
    if text.chars().any(char::is_control) {
        return Err("it has a control character".to_owned());
    }
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.starts_with('/')
        || text == "."
        || text.starts_with("./")
        || text == ".."
        || text.starts_with("../")
    {
        return Ok(Place::Directory(PathBuf::from(text)));
    }
    match text.split_once(':') {
        Some(("file", rest)) => parse_file(rest),
        Some(("s3", rest)) => parse_s3(rest.strip_prefix("//").ok_or("expected s3://bucket/prefix")?),
        Some(("memory", "")) => Ok(Place::Memory),
        Some(("memory", _)) => Err("nothing may follow memory:".to_owned()),
        Some(("http" | "https", _)) => {
            Err("an S3-compatible service is s3://bucket/prefix, with its address as the endpoint".to_owned())
        }
        // Before the `@` may stand a key; it is not repeated.
        Some(_) if text.contains('@') => Err("credentials do not belong into a location".to_owned()),
        Some((scheme, _)) => Err(format!("unknown scheme {scheme:?}")),
        None => Err("a relative directory begins with ./ or file:".to_owned()),
    }
}

fn parse_file(rest: &str) -> Result<Place, String> {
    if let Some(after) = rest.strip_prefix("//") {
        // RFC 8089: an empty authority. Another host's files are not ours to reach.
        return match after.strip_prefix('/') {
            Some(path) if !path.is_empty() => Ok(Place::Directory(PathBuf::from(format!("/{path}")))),
            _ => Err("file: takes no host, only a directory of this machine".to_owned()),
        };
    }
    match rest {
        "" => Err("file: needs a directory".to_owned()),
        path => Ok(Place::Directory(PathBuf::from(path))),
    }
}

fn parse_s3(rest: &str) -> Result<Place, String> {
    if rest.contains('@') {
        return Err("credentials do not belong into a location".to_owned());
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    // https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    let named = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(plain)
        && edge(bucket.bytes().next())
        && edge(bucket.bytes().last())
        && !bucket.contains("..");
    if !named {
        return Err("a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens".to_owned());
    }
    let prefix = match prefix.strip_suffix('/').unwrap_or(prefix) {
        "" => Key::root(),
        prefix if prefix.contains('?') => return Err("a location takes no options".to_owned()),
        prefix => Key::new(prefix).map_err(|error| error.to_string())?,
    };
    Ok(Place::S3 { bucket: bucket.to_owned(), prefix })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_known_forms_parse_and_print_so_that_they_parse_again() {
        let cases = [
            ("file:./backups", "file:./backups"),
            ("./backups", "file:./backups"),
            ("../backups", "file:../backups"),
            (".", "file:."),
            ("/srv/backups", "file:/srv/backups"),
            ("file:/srv/backups", "file:/srv/backups"),
            ("file:///srv/backups", "file:/srv/backups"),
            ("file:backups", "file:backups"),
            ("file:./dä ta", "file:./dä ta"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://my.bucket-1/a/b/", "s3://my.bucket-1/a/b"),
            ("memory:", "memory:"),
        ];
        for (text, shown) in cases {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), shown);
            assert_eq!(shown.parse::<Location>().unwrap(), location);
        }
    }

    #[test]
    fn everything_else_is_refused_with_the_forms() {
        let bad = [
            "",
            "backups",
            "file:",
            "file://",
            "file:///",
            "file://host/dir",
            "file://host",
            "memory:x",
            "ftp://host/dir",
            "s3:bucket",
            "s3://",
            "s3://a",
            "s3://Bucket",
            "s3://bucket/../other",
            "s3://bucket//a",
            "s3://-bucket",
            "s3://bu..cket",
            "s3://bucket/a?versionId=1",
            "https://s3.example.com/bucket",
            "./a\0b",
            "a\\b",
            "C:\\backups",
            "s3://bucket/a\\b",
        ];
        for text in bad {
            let error = text.parse::<Location>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text:?}");
            assert_eq!(error.hint(), Some(FORMS));
        }
    }

    #[test]
    fn credentials_in_a_location_are_refused_and_not_repeated() {
        for text in [
            "s3://AKIAEXAMPLE:wJalrXUtnFEMI@bucket/prefix",
            "s3:AKIAEXAMPLE:wJalrXUtnFEMI@bucket",
            "AKIAEXAMPLE:wJalrXUtnFEMI@bucket",
            "AKIAEXAMPLE:wJalrXUtnFEMI@host:9000/bucket",
            "wJalrXUtnFEMI@bucket",
            "https://AKIAEXAMPLE:wJalrXUtnFEMI@s3.example.com/bucket",
            "s3://bucket/prefix?secret_access_key=wJalrXUtnFEMI&access_key_id=AKIAEXAMPLE",
            "s3:bucket?secret=wJalrXUtnFEMI",
        ] {
            let error = text.parse::<Location>().unwrap_err();
            let shown = format!("{error:?}");
            assert!(!shown.contains("wJalr") && !shown.contains("AKIA"), "{shown}");
            assert!(shown.contains("bucket"), "what is no secret is shown: {shown}");
        }
    }
}
