//! The directory form of a dump: names of files, and the file that tells the server's version.
//!
//! ```text
//! <dir>/prelude.json[.gz]
//! <dir>/oplog.bson                                  compressed or not under this one name
//! <dir>/<database>/<stem>.bson[.gz]                 documents one after another; none for a view
//! <dir>/<database>/<stem>.metadata.json[.gz]
//! <dir>/<database>/$admin.system.<users|roles|version>.bson[.gz]
//! ```
//!
//! A stem is the collection's name as a URL query would hold it. One over 238 bytes is cut and ends in a hash; the metadata tells the name.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha1::{Digest as _, Sha1};

use crate::prelude::Header;

/// The longest stem: with the longest ending it is as long as a file name may be.
const STEM_BYTES_MAX: usize = 238;
/// How much of a longer one is kept.
const STEM_BYTES_KEPT: usize = 208;
/// Stands between what is kept and the hash. No escape gives it, for `$` itself is only met in names that are not escaped.
const CUT: &str = "%24";

/// The name of the file that tells the server's version.
pub const PRELUDE: &str = "prelude.json";
/// The name of the oplog's file.
pub const OPLOG: &str = "oplog.bson";

/// The stem of a collection's files.
pub fn stem(collection: &str) -> String {
    if collection.starts_with("$admin.system.") {
        return collection.to_owned();
    }
    let escaped = escape(collection);
    if escaped.len() <= STEM_BYTES_MAX {
        return escaped;
    }
    let hash = URL_SAFE_NO_PAD.encode(Sha1::digest(collection.as_bytes()));
    format!("{}{CUT}{hash}", &escaped[..STEM_BYTES_KEPT])
}

/// Letters, digits and four signs stand for themselves, a blank is `+`, every other byte is `%` and two digits.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            b' ' => escaped.push('+'),
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

/// A stem that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stem {
    /// The collection's name.
    Name(String),
    /// The name was cut; `collectionName` in the metadata is the whole one.
    Cut,
}

/// Reads a stem.
///
/// # Errors
/// When an escape is broken or the name is not UTF-8.
pub fn read_stem(stem: &str) -> Result<Stem, String> {
    if stem.starts_with("$admin.system.") {
        return Ok(Stem::Name(stem.to_owned()));
    }
    if stem.len() == STEM_BYTES_MAX && stem.get(STEM_BYTES_KEPT..).is_some_and(|rest| rest.starts_with(CUT)) {
        return Ok(Stem::Cut);
    }
    let broken = || format!("`{stem}` is not the escaped name of a collection");
    let mut name = Vec::with_capacity(stem.len());
    let mut rest = stem.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => name.push(b' '),
            b'%' => {
                let digits = tail.first_chunk::<2>().and_then(|digits| std::str::from_utf8(digits).ok());
                let byte = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
                name.push(byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or_else(broken)?);
                rest = &tail[2..];
            }
            byte => name.push(*byte),
        }
    }
    String::from_utf8(name).map(Stem::Name).map_err(|_| broken())
}

/// Whether a cut stem belongs to `collection`.
pub fn is_stem_of(stem_found: &str, collection: &str) -> bool {
    stem(collection) == stem_found
}

/// What a file of a database's folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Documents.
    Documents,
    /// Options and indexes.
    Metadata,
}

/// A file's stem and kind; `None` for a name that no dump has.
pub fn read_file_name(name: &str) -> Option<(&str, FileKind)> {
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let endings = [
        (".metadata.json", FileKind::Metadata),
        (".bson", FileKind::Documents),
        // What very old versions wrote.
        (".bin", FileKind::Documents),
    ];
    endings.into_iter().find_map(|(ending, kind)| {
        plain.strip_suffix(ending).filter(|stem| !stem.is_empty()).map(|stem| (stem, kind))
    })
}

/// The name of a collection's file.
pub fn file_name(collection: &str, kind: FileKind, gzip: bool) -> String {
    let ending = match kind {
        FileKind::Documents => "bson",
        FileKind::Metadata => "metadata.json",
    };
    format!("{}.{ending}{}", stem(collection), if gzip { ".gz" } else { "" })
}

/// The text of `prelude.json`.
pub fn prelude_text(header: &Header) -> String {
    let quoted = |text: &str| {
        let clean: String = text.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect();
        format!("\"{clean}\"")
    };
    format!(
        "{{\"ServerVersion\":{},\"ToolVersion\":{}}}",
        quoted(&header.server_version),
        quoted(&header.tool_version)
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_in_a_query() {
        for (name, escaped) in [
            ("users", "users"),
            ("n.e.s-t_e~d", "n.e.s-t_e~d"),
            ("weird name/with%slash&plus+and spaces", "weird+name%2Fwith%25slash%26plus%2Band+spaces"),
            ("日本", "%E6%97%A5%E6%9C%AC"),
            ("колл", "%D0%BA%D0%BE%D0%BB%D0%BB"),
            ("$admin.system.users", "$admin.system.users"),
        ] {
            assert_eq!(stem(name), escaped);
            assert_eq!(read_stem(escaped).unwrap(), Stem::Name(name.to_owned()));
        }
        for broken in ["%", "%4", "%zz", "a%+1", "%FF"] {
            assert!(read_stem(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn long_names_are_cut_and_told_by_their_hash() {
        let name = format!("{}{}", "L".repeat(160), "é".repeat(20));
        let cut = stem(&name);
        assert_eq!(cut, format!("{}{}%24VJ8wNfFLWVk5055ld2-LGk9JGsA", "L".repeat(160), "%C3%A9".repeat(8)));
        assert_eq!(cut.len(), 238);
        assert_eq!(read_stem(&cut).unwrap(), Stem::Cut);
        assert!(is_stem_of(&cut, &name) && !is_stem_of(&cut, "other"));
        assert_eq!(read_stem(&"x".repeat(238)).unwrap(), Stem::Name("x".repeat(238)));
    }

    #[test]
    fn files_are_told_by_their_endings() {
        for (name, told) in [
            ("a.bson", Some(("a", FileKind::Documents))),
            ("a.b.bson.gz", Some(("a.b", FileKind::Documents))),
            ("a.metadata.json", Some(("a", FileKind::Metadata))),
            ("a.bin", Some(("a", FileKind::Documents))),
            (".bson", None),
            ("prelude.json.gz", None),
            ("a.txt", None),
        ] {
            assert_eq!(read_file_name(name), told);
        }
        assert_eq!(file_name("a b", FileKind::Metadata, true), "a+b.metadata.json.gz");
    }

    #[test]
    fn the_prelude_names_two_versions() {
        let header = Header {
            concurrent_collections: 4,
            server_version: "6.0.27".into(),
            tool_version: "m\"1".into(),
        };
        assert_eq!(prelude_text(&header), r#"{"ServerVersion":"6.0.27","ToolVersion":"m1"}"#);
    }
}
