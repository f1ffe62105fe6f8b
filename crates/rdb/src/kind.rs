//! The types of values, by the code that stands before a key.

use crate::fault::Fault;

/// Whose file it is: codes from 22 on mean different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Redis, and Valkey before its version 9: the magic is `REDIS`.
    Redis,
    /// Valkey from its version 9 on.
    Valkey,
}

/// What a value is to its users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Bytes or a number.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set.
    SortedSet,
    /// A hash.
    Hash,
    /// A stream with its groups.
    Stream,
    /// What a module keeps.
    Module,
}

impl Kind {
    /// The server's word for it, as `TYPE` answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "zset",
            Self::Hash => "hash",
            Self::Stream => "stream",
            Self::Module => "module",
        }
    }
}

/// How a value lies in the file. Every server makes of it what its own configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// One string.
    Plain,
    /// Element by element.
    Table,
    /// Hash fields one by one, each with its expiry.
    ExpiringTable(FieldExpiry),
    /// One string that holds a listpack, with so many entries for each element.
    Listpack {
        /// Entries for each element: 1, 2 for pairs, 3 for pairs with an expiry.
        entries: u64,
    },
    /// A listpack of fields, values and expiries, behind the earliest expiry.
    ExpiringListpack,
    /// One string that holds a ziplist: written by servers before version 7.
    Ziplist {
        /// Entries for each element.
        entries: u64,
    },
    /// One string that holds a zipmap: written by servers before version 2.6.
    Zipmap,
    /// One string that holds whole numbers.
    Intset,
    /// Ziplists, one after another.
    Ziplists,
    /// Listpacks and single elements, one after another.
    Quicklist,
    /// Members with scores as text.
    TextScores,
    /// Members with scores as numbers.
    Scores,
    /// A stream, by the generation of its form: 1 to 3.
    Stream(u8),
    /// What a module wrote, in items that say what they are.
    Module,
}

/// How a hash says when a field expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldExpiry {
    /// Redis: before the field, counted from the earliest.
    Relative,
    /// Valkey: behind the value, as a moment.
    Absolute,
}

/// What `code` means.
///
/// # Errors
/// `Type` when it is not known: also for forms of release candidates, and for those of modules before version 4.
pub(crate) fn of_code(code: u8, flavor: Flavor) -> Result<(Kind, Encoding), Fault> {
    Ok(match (code, flavor) {
        (0, _) => (Kind::String, Encoding::Plain),
        (1, _) => (Kind::List, Encoding::Table),
        (2, _) => (Kind::Set, Encoding::Table),
        (3, _) => (Kind::SortedSet, Encoding::TextScores),
        (4, _) => (Kind::Hash, Encoding::Table),
        (5, _) => (Kind::SortedSet, Encoding::Scores),
        (7, _) => (Kind::Module, Encoding::Module),
        (9, _) => (Kind::Hash, Encoding::Zipmap),
        (10, _) => (Kind::List, Encoding::Ziplist { entries: 1 }),
        (11, _) => (Kind::Set, Encoding::Intset),
        (12, _) => (Kind::SortedSet, Encoding::Ziplist { entries: 2 }),
        (13, _) => (Kind::Hash, Encoding::Ziplist { entries: 2 }),
        (14, _) => (Kind::List, Encoding::Ziplists),
        (15, _) => (Kind::Stream, Encoding::Stream(1)),
        (16, _) => (Kind::Hash, Encoding::Listpack { entries: 2 }),
        (17, _) => (Kind::SortedSet, Encoding::Listpack { entries: 2 }),
        (18, _) => (Kind::List, Encoding::Quicklist),
        (19, _) => (Kind::Stream, Encoding::Stream(2)),
        (20, _) => (Kind::Set, Encoding::Listpack { entries: 1 }),
        (21, _) => (Kind::Stream, Encoding::Stream(3)),
        (22, Flavor::Valkey) => (Kind::Hash, Encoding::ExpiringTable(FieldExpiry::Absolute)),
        (24, Flavor::Redis) => (Kind::Hash, Encoding::ExpiringTable(FieldExpiry::Relative)),
        (25, Flavor::Redis) => (Kind::Hash, Encoding::ExpiringListpack),
        (code, _) => return Err(Fault::Type(code)),
    })
}
