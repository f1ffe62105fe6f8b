//! What stands before the first block: the writer's header, and one entry for every namespace in the archive.

use bson::raw::RawBsonRef;

use crate::document::{DocumentWriter, fields};

/// The header as the writer fills it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The most ordinary namespaces that are open at one time. A reader needs as many workers.
    pub concurrent_collections: u32,
    /// The version of the server that was read, such as `6.0.27`. Decides under which name the documents of a time series lie.
    pub server_version: String,
    /// Free text.
    pub tool_version: String,
}

/// The format's only version.
const FORMAT_VERSION: &str = "0.1";

impl Header {
    /// Whether documents of a time series lie under its own name: from 8.3 on there are no bucket collections to be seen.
    pub fn has_plain_time_series(&self) -> bool {
        let mut parts = self.server_version.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
        matches!((parts.next(), parts.next()), (Some(major), Some(minor)) if (major, minor) >= (8, 3))
    }

    pub(crate) fn to_document(&self) -> Vec<u8> {
        DocumentWriter::new()
            .int("concurrent_collections", i32::try_from(self.concurrent_collections).unwrap_or(i32::MAX))
            .text("version", FORMAT_VERSION)
            .text("server_version", &self.server_version)
            .text("tool_version", &self.tool_version)
            .finish()
    }

    /// Reads a header: fields in any order, others passed over, missing ones empty.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut header =
            Self { concurrent_collections: 1, server_version: String::new(), tool_version: String::new() };
        for (key, value) in fields(bytes)? {
            match key {
                "concurrent_collections" => {
                    let count = whole(value).ok_or_else(|| not_a(key, "whole number"))?;
                    header.concurrent_collections = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
                }
                "server_version" => header.server_version = text(key, value)?,
                "tool_version" => header.tool_version = text(key, value)?,
                _ => {}
            }
        }
        Ok(header)
    }
}

/// What an entry is, as listCollections says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Documents. Also what an archive does not say, or says in a word that is not known.
    Collection,
    /// A definition only.
    View,
    /// Measurements, as documents of buckets.
    TimeSeries,
}

impl EntryKind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Collection => "collection",
            Self::View => "view",
            Self::TimeSeries => "timeseries",
        }
    }

    /// The kind of a word.
    pub fn of_name(name: &str) -> Self {
        match name {
            "view" => Self::View,
            "timeseries" => Self::TimeSeries,
            _ => Self::Collection,
        }
    }
}

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A collection, view or time series.
    Ordinary,
    /// `admin.system.users`, or the users of one database.
    Users,
    /// The same of roles.
    Roles,
    /// The same of the version of their form.
    AuthVersion,
    /// What was written while the dump ran.
    Oplog,
}

/// One namespace of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its database; empty for the oplog.
    pub database: String,
    /// Its collection.
    pub collection: String,
    /// Its `.metadata.json` text; may be empty.
    pub metadata: String,
    /// What it is.
    pub kind: EntryKind,
}

/// The prefix of the collection under a time series.
pub(crate) const BUCKETS: &str = "system.buckets.";

impl Entry {
    /// The oplog's entry.
    pub fn oplog() -> Self {
        Self {
            database: String::new(),
            collection: "oplog".to_owned(),
            metadata: String::new(),
            kind: EntryKind::Collection,
        }
    }

    /// What it is for, which its name tells.
    pub fn role(&self) -> Role {
        if self.database.is_empty() && self.collection == "oplog" {
            return Role::Oplog;
        }
        let own = self.collection.strip_prefix("$admin.");
        let name = own.or((self.database == "admin").then_some(self.collection.as_str()));
        match name {
            Some("system.users") => Role::Users,
            Some("system.roles") => Role::Roles,
            Some("system.version") => Role::AuthVersion,
            _ => Role::Ordinary,
        }
    }

    /// The collection whose name stands before the entry's documents.
    pub fn data_collection(&self, header: &Header) -> String {
        match self.kind {
            EntryKind::TimeSeries if !header.has_plain_time_series() => {
                format!("{BUCKETS}{}", self.collection)
            }
            _ => self.collection.clone(),
        }
    }

    /// `database.collection`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.database, self.collection)
    }

    pub(crate) fn to_document(&self) -> Vec<u8> {
        let kind = if self.role() == Role::Oplog || self.collection.starts_with("$admin.") {
            ""
        } else {
            self.kind.name()
        };
        DocumentWriter::new()
            .text("db", &self.database)
            .text("collection", &self.collection)
            .text("metadata", &self.metadata)
            .int("size", 0)
            .text("type", kind)
            .finish()
    }

    /// Reads an entry: fields in any order, others passed over, all but the two names may be missing.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let (mut database, mut collection, mut metadata, mut kind) =
            (None, None, String::new(), EntryKind::Collection);
        for (key, value) in fields(bytes)? {
            match key {
                "db" => database = Some(text(key, value)?),
                "collection" => collection = Some(text(key, value)?),
                "metadata" => metadata = text(key, value)?,
                "type" => kind = EntryKind::of_name(&text(key, value)?),
                _ => {}
            }
        }
        let missing = |what: &str| format!("it names no {what}");
        Ok(Self {
            database: database.ok_or_else(|| missing("database"))?,
            collection: collection.ok_or_else(|| missing("collection"))?,
            metadata,
            kind,
        })
    }
}

/// Everything before the first block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prelude {
    /// The header.
    pub header: Header,
    /// The entries, in the archive's order. Events name them by their positions here.
    pub entries: Vec<Entry>,
}

pub(crate) fn text(key: &str, value: RawBsonRef<'_>) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| not_a(key, "text"))
}

pub(crate) fn not_a(key: &str, what: &str) -> String {
    format!("`{key}` is not a {what}")
}

fn whole(value: RawBsonRef<'_>) -> Option<i64> {
    value.as_i32().map(i64::from).or_else(|| value.as_i64())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn names_tell_roles() {
        let role = |database: &str, collection: &str| {
            Entry {
                database: database.into(),
                collection: collection.into(),
                metadata: String::new(),
                kind: EntryKind::Collection,
            }
            .role()
        };
        assert_eq!(role("", "oplog"), Role::Oplog);
        assert_eq!(role("shop", "oplog"), Role::Ordinary);
        assert_eq!(role("admin", "system.users"), Role::Users);
        assert_eq!(role("shop", "system.users"), Role::Ordinary);
        assert_eq!(role("shop", "$admin.system.roles"), Role::Roles);
        assert_eq!(role("admin", "system.version"), Role::AuthVersion);
    }

    #[test]
    fn the_servers_version_names_the_buckets() {
        let series = Entry {
            database: "a".into(),
            collection: "m".into(),
            metadata: String::new(),
            kind: EntryKind::TimeSeries,
        };
        for (version, name) in [
            ("6.0.27", "system.buckets.m"),
            ("8.2.9", "system.buckets.m"),
            ("8.3.0-rc1", "m"),
            ("9.0", "m"),
            ("unknown", "system.buckets.m"),
            ("", "system.buckets.m"),
        ] {
            let header = Header {
                concurrent_collections: 4,
                server_version: version.into(),
                tool_version: String::new(),
            };
            assert_eq!(series.data_collection(&header), name, "{version}");
        }
    }

    #[test]
    fn both_come_back() {
        let header =
            Header { concurrent_collections: 4, server_version: "6.0.27".into(), tool_version: "x".into() };
        assert_eq!(Header::read(&header.to_document()).unwrap(), header);
        let entry = Entry {
            database: "d".into(),
            collection: "é".into(),
            metadata: "{}".into(),
            kind: EntryKind::View,
        };
        assert_eq!(Entry::read(&entry.to_document()).unwrap(), entry);
        let bare = DocumentWriter::new()
            .text("collection", "c")
            .long("size", 3)
            .text("db", "d")
            .text("new", "")
            .finish();
        assert_eq!(Entry::read(&bare).unwrap().name(), "d.c");
        assert!(Entry::read(&DocumentWriter::new().text("db", "d").finish()).is_err());
        assert!(Entry::read(&DocumentWriter::new().int("db", 1).finish()).is_err());
    }
}
