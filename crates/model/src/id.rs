//! Identifiers. Each is a type of its own, so that a set is never taken for a run and a name is never taken for a hash.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Text that is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {what}: {why}")]
pub struct IdError {
    /// The text given.
    pub text: String,
    /// What it should have been.
    pub what: &'static str,
    /// Why it is not.
    pub why: &'static str,
}

impl From<IdError> for crate::Error {
    fn from(error: IdError) -> Self {
        Self::new(crate::ErrorKind::Usage, error.to_string())
    }
}

/// The three stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// MongoDB.
    Mongo,
    /// PostgreSQL.
    Postgres,
    /// Redis.
    Redis,
}

impl StoreKind {
    /// All three, in the order they are shown.
    pub const ALL: [Self; 3] = [Self::Mongo, Self::Postgres, Self::Redis];

    /// The word used in object keys, arguments and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mongo => "mongo",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StoreKind {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| IdError {
            text: text.to_owned(),
            what: "store",
            why: "expected mongo, postgres or redis",
        })
    }
}

/// Declares an identifier of the form `20261123T005502Z-7f3a9c1e`: UTC time of birth, then eight hexadecimal digits. Text order is time order.
macro_rules! timed_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// An identifier born at `at`; `entropy` tells those of one second apart.
            pub fn new(at: Timestamp, entropy: u32) -> Self {
                Self(format!("{}-{entropy:08x}", at.strftime("%Y%m%dT%H%M%SZ")))
            }

            /// The identifier's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_timed_id(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError { text: text.to_owned(), what: $what, why: "expected the form 20261123T005502Z-7f3a9c1e" })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

fn is_timed_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 25
        && bytes.iter().enumerate().all(|(index, byte)| match index {
            8 => *byte == b'T',
            15 => *byte == b'Z',
            16 => *byte == b'-',
            0..=14 => byte.is_ascii_digit(),
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

timed_id!(
    /// A backup set.
    SetId,
    "backup set id"
);
timed_id!(
    /// A chain of a store's change log: a run of slices without a hole.
    ChainId,
    "chain id"
);
timed_id!(
    /// One run of one operation: the name of its journal.
    RunId,
    "run id"
);

/// The name of an object inside a backup set: a relative path of `/`-separated parts, each percent-encoded so that it is safe as a
/// file name and as an object key (`shop/users.0003.bson`). Made with [`ObjectName::from_parts`], which encodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName(String);

/// Longest part of an [`ObjectName`] in bytes: file systems end at 255, and `.zst.age` and a temporary suffix must still fit.
const OBJECT_NAME_PART_BYTES_MAX: usize = 200;

impl ObjectName {
    /// The name made of `parts`, each encoded: ASCII letters, digits, `.`, `-`, `_` stand for themselves (but a leading dot is encoded),
    /// every other byte becomes `%XX`. A part that would be too long is cut and ends in `%~` and 32 digits of its BLAKE3.
    pub fn from_parts<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        Self(parts.into_iter().map(encode_part).collect::<Vec<_>>().join("/"))
    }

    /// The same name with `suffix` (already safe text such as `.0003.bson`) appended to its last part.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> Self {
        Self(format!("{}{suffix}", self.0))
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn encode_part(part: &str) -> String {
    let mut encoded = String::with_capacity(part.len());
    for (index, byte) in part.bytes().enumerate() {
        match byte {
            b'.' if index > 0 => encoded.push('.'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    if encoded.len() > OBJECT_NAME_PART_BYTES_MAX {
        let hash = blake3::hash(part.as_bytes()).to_hex();
        encoded.truncate(OBJECT_NAME_PART_BYTES_MAX - 34);
        encoded.push_str("%~");
        encoded.push_str(&hash[..32]);
    }
    encoded
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ObjectName {
    type Error = IdError;

    /// Refuses what could leave the set's folder: empty or dotted parts, a leading slash, bytes outside the encoded alphabet.
    fn try_from(text: String) -> Result<Self, IdError> {
        let safe = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_%~".contains(&byte))
        };
        if text.split('/').all(safe) {
            Ok(Self(text))
        } else {
            Err(IdError { text, what: "object name", why: "expected encoded parts separated by `/`" })
        }
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.0
    }
}

/// A BLAKE3 hash, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Blake3([u8; 32]);

impl Blake3 {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The hash of everything that `source` gives, to its end. Takes no more memory than a piece of it.
    ///
    /// # Errors
    /// The source's.
    pub fn of_source(source: impl io::Read) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(source)?;
        Ok(hasher.finalize().into())
    }

    /// The first twelve digits: enough for a person to tell two apart.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl From<blake3::Hash> for Blake3 {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Blake3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Blake3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Blake3 {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match blake3::Hash::from_hex(text) {
            Ok(hash) if lower => Ok(hash.into()),
            _ => Err(IdError {
                text: text.to_owned(),
                what: "hash",
                why: "expected 64 lower-case hexadecimal digits",
            }),
        }
    }
}

impl TryFrom<String> for Blake3 {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Blake3> for String {
    fn from(hash: Blake3) -> Self {
        hash.to_string()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn timed_ids_sort_by_time_and_refuse_other_text() {
        let early = SetId::new(Timestamp::from_second(1_000).unwrap(), 9);
        let late = SetId::new(Timestamp::from_second(2_000).unwrap(), 1);
        assert!(early < late);
        assert_eq!(early.as_str().parse::<SetId>().unwrap(), early);
        for bad in ["", "20261123T005502Z-7F3A9C1E", "../../etc/passwd", "20261123T005502Z-7f3a9c1e/"] {
            assert!(bad.parse::<SetId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn object_names_are_safe_and_distinct() {
        let name = ObjectName::from_parts(["shop", "日本/../$x y"]);
        assert_eq!(name.as_str(), "shop/%E6%97%A5%E6%9C%AC%2F..%2F%24x%20y");
        assert!(ObjectName::try_from(name.as_str().to_owned()).is_ok());
        let long = |tail: &str| ObjectName::from_parts([format!("{}{tail}", "é".repeat(120)).as_str()]);
        assert_ne!(long("a"), long("b"));
        assert!(long("a").as_str().len() <= OBJECT_NAME_PART_BYTES_MAX);
        for bad in ["", "/a", "a//b", "a/../b", ".a", "a b"] {
            assert!(ObjectName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
