//! Keys: names of objects inside a store.
//!
//! A key is safe as a path below a folder and as an S3 object key, on every backend, without encoding. Names that come from outside are
//! encoded by `mainstay_model::ObjectName` before they become part of one; what is not plain is refused here, never mended.

use std::fmt;

use mainstay_model::{Error, ErrorKind, ObjectName, Result};

/// Longest part in bytes: file systems end at 255, and the suffix of a temporary file must still fit.
const PART_BYTES_MAX: usize = 240;
/// Longest key in bytes: S3 ends at 1,024 including the location's prefix.
const KEY_BYTES_MAX: usize = 900;

/// A validated relative key: parts separated by `/`, each of ASCII letters, digits and `. - _ % ~ + = @ ,`, none empty, `.` or `..`.
/// Order is byte order, which is also the order of listings. The root, which names no object, is only good for listing. The key of an
/// object is not the folder of others: a disk could not hold both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// The key `text`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] naming the text and what is wrong with it.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        match fault_of(text) {
            None => Ok(Self(text.to_owned())),
            Some(why) => Err(Error::new(ErrorKind::Usage, format!("{text:?} is not an object key: {why}"))),
        }
    }

    /// The folder above all keys, for listing everything. It is the key of no object.
    pub fn root() -> Self {
        Self(String::new())
    }

    /// The key of `part` (or of several parts separated by `/`) below this one.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn child(&self, part: impl AsRef<str>) -> Result<Self> {
        let part = part.as_ref();
        match fault_of(part) {
            Some(_) => Self::new(part),
            None if self.is_root() => Ok(Self(part.to_owned())),
            None => Self::new(format!("{}/{part}", self.0)),
        }
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for [`Key::root`].
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last part; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or("")
    }

    /// The folder this key is in; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        (!self.is_root()).then(|| Self(self.0.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned()))
    }

    /// The rest of this key below `folder`, without a leading slash; `None` when it is not below.
    pub fn below(&self, folder: &Self) -> Option<&str> {
        if folder.is_root() {
            return (!self.is_root()).then_some(self.as_str());
        }
        self.0.strip_prefix(&folder.0)?.strip_prefix('/')
    }
}

impl From<&ObjectName> for Key {
    fn from(name: &ObjectName) -> Self {
        Self(name.as_str().to_owned())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "/" } else { &self.0 })
    }
}

fn fault_of(text: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_%~+=@,/".contains(&byte);
    if text.is_empty() {
        Some("it is empty")
    } else if text.starts_with('/') || text.ends_with('/') {
        Some("it begins or ends with a slash")
    } else if !text.bytes().all(allowed) {
        Some("it has a character outside of A-Z a-z 0-9 . - _ % ~ + = @ , /")
    } else if text.split('/').any(str::is_empty) {
        Some("it has an empty part")
    } else if text.split('/').any(|part| part == "." || part == "..") {
        Some("it has a part that leads elsewhere")
    } else if text.split('/').any(|part| part.len() > PART_BYTES_MAX) {
        Some("a part of it is longer than 240 bytes")
    } else if text.len() > KEY_BYTES_MAX {
        Some("it is longer than 900 bytes")
    } else {
        None
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn plain_keys_are_taken_as_they_are() {
        for text in [
            "a",
            "mongo/sets/20261123T005502Z-7f3a9c1e/shop/users.0003.bson.zst",
            "a/%E6%97~+=@,b",
            ".hidden",
            "a/..b",
        ] {
            assert_eq!(Key::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn whatever_could_lead_elsewhere_is_refused() {
        let long_part = "x".repeat(241);
        let long_key = ["y".repeat(200).as_str(); 5].join("/");
        let bad = [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/..", "a/./b", "a\\b", "..\\a",
            "a\0b", "a\nb", "a b", "a#1", "é", "C:/a", "a?b", "a*b", &long_part, &long_key,
        ];
        for text in bad {
            let error = Key::new(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text:?}");
            assert!(!error.to_string().contains(['\0', '\n']), "{text:?} is shown escaped");
        }
    }

    #[test]
    fn children_parents_and_remainders() {
        let folder = Key::root().child("mongo").unwrap();
        let object = folder.child("sets/a.json").unwrap();
        assert_eq!(object.as_str(), "mongo/sets/a.json");
        assert_eq!(object.name(), "a.json");
        assert_eq!(object.parent().unwrap().as_str(), "mongo/sets");
        assert_eq!(object.below(&folder), Some("sets/a.json"));
        assert_eq!(object.below(&Key::root()), Some("mongo/sets/a.json"));
        assert_eq!(Key::new("mongolia").unwrap().below(&folder), None);
        assert_eq!(folder.below(&folder), None);
        for bad in ["", "..", "/a", "a/../../b"] {
            assert!(folder.child(bad).is_err(), "{bad:?}");
            assert!(Key::root().child(bad).is_err(), "{bad:?}");
        }
        assert!(Key::root().parent().is_none());
    }
}
