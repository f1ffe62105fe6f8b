//! What can be wrong with a database file.

use std::io;

/// A fault, and how many bytes of the file had been read before it.
#[derive(Debug, thiserror::Error)]
#[error("{fault}, at byte {offset}")]
pub struct WalkError {
    /// Bytes of the file before the place where it was seen.
    pub offset: u64,
    /// What is wrong.
    #[source]
    pub fault: Fault,
}

/// What can be wrong.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The source failed.
    #[error("cannot read the database file: {0}")]
    Read(#[from] io::Error),
    /// Something else than a database file.
    #[error("this is no database file of Redis or Valkey: it begins with {0:?}")]
    Magic(String),
    /// A version that is not known.
    #[error("the file is of version {0}, which is newer than what can be read")]
    Version(u32),
    /// The file ends where it may not.
    #[error("the file is cut off")]
    Truncated,
    /// A type of values that is not known in this version, so that its length is not known either.
    #[error("a value is of type {0}, which is not known in this version of the file")]
    Type(u8),
    /// A record that is not known or may not stand here.
    #[error("a record of code {0} may not stand here")]
    Record(u8),
    /// A length that is none.
    #[error("{0} is no length")]
    Length(u8),
    /// More changes of the database than any server makes.
    #[error("the keys are spread over more than {0} databases")]
    Databases(u32),
    /// A name that is too long to be one.
    #[error("a name has {0} bytes")]
    Name(u64),
    /// A compressed string that does not come out as it says.
    #[error("a compressed string is damaged")]
    Compressed,
    /// A packed value that contradicts itself.
    #[error("a packed value is damaged: {0}")]
    Packed(&'static str),
    /// The file goes on behind its end.
    #[error("something stands behind the end of the file")]
    Behind,
    /// The file is not what was written.
    #[error("the checksum of the file is {found:016x}, its end says {expected:016x}: it is damaged")]
    Checksum {
        /// At the end of the file.
        expected: u64,
        /// Of the bytes.
        found: u64,
    },
}

impl Fault {
    /// Whether the file holds what this reader does not know, as those of newer servers do; else it is damaged, or none at all.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Version(_) | Self::Type(_) | Self::Record(_))
    }
}
