//! The walk: records in their order, one key after another.

use std::io::Read;

use crate::KEY_BYTES_MAX;
use crate::fault::{Fault, WalkError};
use crate::input::Input;
use crate::kind::{self, Encoding, Flavor, Kind};
use crate::value::{self, Passed};

/// The newest version of each flavor that is begun. Newer ones of Redis have types that are not known here; a file without them is read.
const VERSION_MAX: [(Flavor, u32); 2] = [(Flavor::Redis, 15), (Flavor::Valkey, 80)];
/// From this version on a file ends in a checksum.
const CHECKSUM_VERSION: u32 = 5;
/// The longest name or value of an auxiliary field, and the longest source of a function library.
const TEXT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How often a file may change the database: a server tells each one once.
const DATABASE_COUNT_MAX: u32 = 65_536;

mod code {
    pub(super) const FUNCTION: u8 = 245;
    pub(super) const SLOT: u8 = 244;
    pub(super) const MODULE: u8 = 247;
    pub(super) const IDLE: u8 = 248;
    pub(super) const FREQUENCY: u8 = 249;
    pub(super) const AUXILIARY: u8 = 250;
    pub(super) const SIZES: u8 = 251;
    pub(super) const EXPIRY_MILLIS: u8 = 252;
    pub(super) const EXPIRY_SECONDS: u8 = 253;
    pub(super) const DATABASE: u8 = 254;
    pub(super) const END: u8 = 255;
    /// Types of values are below.
    pub(super) const RECORDS: u8 = 240;
}

/// A record of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Something about the file: `redis-ver`, `repl-id`, `repl-offset` and others.
    Auxiliary {
        /// Its name.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// The keys that follow are of this database.
    Database(u64),
    /// So many keys follow, and so many of them expire; a hint, not a promise.
    Sizes {
        /// Keys.
        keys: u64,
        /// Keys that expire.
        expiring: u64,
    },
    /// The source of a library of functions.
    Function(Vec<u8>),
    /// Something that a module keeps outside of keys, passed over.
    Module {
        /// Which module.
        id: u64,
    },
    /// Keys of a slot follow, in a cluster.
    Slot {
        /// Which.
        number: u64,
    },
    /// A key; what there is to say of its value comes with [`Walker::pass_value`].
    Key(KeyHead),
    /// The file is whole.
    End {
        /// The checksum that was compared; `None` when the server writes none.
        checksum: Option<u64>,
    },
}

/// What stands before a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHead {
    /// The number of its database.
    pub database: u64,
    /// Its name.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// How its value lies in the file.
    pub encoding: Encoding,
    /// When it expires, in milliseconds since 1970.
    pub expires_at: Option<i64>,
    /// Seconds since it was used last; only in files of servers that evict by it.
    pub idle_seconds: Option<u64>,
    /// The server's logarithmic counter of its uses; only in files of servers that evict by it.
    pub frequency: Option<u8>,
}

/// What was seen of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTail {
    /// Its elements: fields of a hash, entries of a stream, 1 for a string; `None` for modules and where the file does not say.
    pub elements: Option<u64>,
    /// The bytes of its strings, unpacked.
    pub data_bytes: u64,
}

/// Where the walk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Magic,
    Records,
    /// Before the value of the key that was told last.
    Value(Kind, Encoding),
    End,
}

/// Walks one file. After an error there is nothing more to be had from it.
pub struct Walker<R> {
    input: Input<R>,
    place: Place,
    flavor: Flavor,
    version: u32,
    database: u64,
    /// Memory for the next name.
    spare: Vec<u8>,
    /// How often it was changed.
    database_count: u32,
}

impl<R: Read> Walker<R> {
    /// A walk over `source`, which must end where the file ends.
    pub fn new(source: R) -> Self {
        Self {
            input: Input::new(source),
            place: Place::Magic,
            flavor: Flavor::Redis,
            version: 0,
            database: 0,
            spare: Vec::new(),
            database_count: 0,
        }
    }

    /// Takes a name back, for the next one to come without an allocation.
    pub fn reuse(&mut self, name: Vec<u8>) {
        self.spare = name;
    }

    /// Whose file it is, and of which version; known from the first item on.
    pub fn version(&self) -> (Flavor, u32) {
        (self.flavor, self.version)
    }

    /// Bytes of the file that were read.
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// The next record; `None` behind the end. A value that was not asked for is passed over.
    ///
    /// # Errors
    /// The first fault of the file; `Checksum` at its end.
    pub fn next_item(&mut self) -> Result<Option<Item>, WalkError> {
        self.step().map_err(|fault| self.at(fault))
    }

    /// Passes over the value of the key that was told last.
    ///
    /// # Errors
    /// The first fault of the file.
    ///
    /// # Panics
    /// When no key was told, or its value has been asked for.
    pub fn pass_value(&mut self) -> Result<KeyTail, WalkError> {
        self.value().map_err(|fault| self.at(fault))
    }

    fn at(&self, fault: Fault) -> WalkError {
        WalkError { offset: self.input.offset(), fault }
    }

    fn step(&mut self) -> Result<Option<Item>, Fault> {
        match self.place {
            Place::Magic => self.magic()?,
            Place::Records => {}
            Place::Value(..) => drop(self.value()?),
            Place::End => {
                return if self.input.is_at_end()? { Ok(None) } else { Err(Fault::Behind) };
            }
        }
        self.record().map(Some)
    }

    /// `REDIS` and four digits, or `VALKEY` and three.
    fn magic(&mut self) -> Result<(), Fault> {
        let magic: [u8; 9] = self.input.array()?;
        let refuse = || Fault::Magic(magic.escape_ascii().to_string());
        let (flavor, digits) = match (magic.strip_prefix(b"REDIS"), magic.strip_prefix(b"VALKEY")) {
            (Some(digits), _) => (Flavor::Redis, digits),
            (_, Some(digits)) => (Flavor::Valkey, digits),
            (None, None) => return Err(refuse()),
        };
        let digits = std::str::from_utf8(digits).map_err(|_| refuse())?;
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(refuse());
        }
        let version = digits.parse().map_err(|_| refuse())?;
        if version == 0 || VERSION_MAX.iter().any(|(known, newest)| *known == flavor && version > *newest) {
            return Err(Fault::Version(version));
        }
        (self.flavor, self.version, self.place) = (flavor, version, Place::Records);
        Ok(())
    }

    fn record(&mut self) -> Result<Item, Fault> {
        let input = &mut self.input;
        Ok(match input.byte()? {
            code::AUXILIARY => {
                Item::Auxiliary { name: input.string(TEXT_BYTES_MAX)?, value: input.string(TEXT_BYTES_MAX)? }
            }
            code::DATABASE => {
                self.database = input.length()?;
                self.database_count += 1;
                if self.database_count > DATABASE_COUNT_MAX {
                    return Err(Fault::Databases(DATABASE_COUNT_MAX));
                }
                Item::Database(self.database)
            }
            code::SIZES => Item::Sizes { keys: input.length()?, expiring: input.length()? },
            code::FUNCTION => Item::Function(input.string(TEXT_BYTES_MAX)?),
            code::SLOT => {
                let number = input.length()?;
                // Keys of it, and those that expire.
                input.length()?;
                input.length()?;
                Item::Slot { number }
            }
            code::MODULE => {
                let id = input.length()?;
                value::module_items(input)?;
                Item::Module { id }
            }
            code::END => self.end()?,
            other => Item::Key(self.key(other)?),
        })
    }

    /// What may stand before a key, its type, and its name. `first` has been read.
    fn key(&mut self, first: u8) -> Result<KeyHead, Fault> {
        let (mut expires_at, mut idle_seconds, mut frequency) = (None, None, None);
        let mut code = first;
        while code >= code::RECORDS {
            match code {
                code::EXPIRY_MILLIS => expires_at = Some(i64::from_le_bytes(self.input.array()?)),
                code::EXPIRY_SECONDS => {
                    expires_at = Some(i64::from(i32::from_le_bytes(self.input.array()?)) * 1000);
                }
                code::IDLE => idle_seconds = Some(self.input.length()?),
                code::FREQUENCY => frequency = Some(self.input.byte()?),
                other => return Err(Fault::Record(other)),
            }
            code = self.input.byte()?;
        }
        let (kind, encoding) = kind::of_code(code, self.flavor)?;
        let mut name = std::mem::take(&mut self.spare);
        name.clear();
        self.input.string_into(&mut name, KEY_BYTES_MAX)?;
        self.place = Place::Value(kind, encoding);
        let database = self.database;
        Ok(KeyHead { database, name, kind, encoding, expires_at, idle_seconds, frequency })
    }

    fn value(&mut self) -> Result<KeyTail, Fault> {
        let Place::Value(kind, encoding) = self.place else { panic!("a value is asked for behind its key") };
        let Passed { elements, data_bytes } = value::pass(&mut self.input, kind, encoding)?;
        self.place = Place::Records;
        Ok(KeyTail { elements, data_bytes })
    }

    fn end(&mut self) -> Result<Item, Fault> {
        self.place = Place::End;
        if self.version < CHECKSUM_VERSION {
            return Ok(Item::End { checksum: None });
        }
        let found = self.input.checksum();
        let expected = u64::from_le_bytes(self.input.array()?);
        match expected {
            0 => Ok(Item::End { checksum: None }),
            _ if expected == found => Ok(Item::End { checksum: Some(found) }),
            _ => Err(Fault::Checksum { expected, found }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_its_database_without_end_is_refused() {
        let mut file = b"REDIS0011".to_vec();
        for number in 0..=DATABASE_COUNT_MAX {
            file.extend([code::DATABASE, 0x80]);
            file.extend(number.to_be_bytes());
        }
        let mut walker = Walker::new(file.as_slice());
        let fault = loop {
            match walker.next_item() {
                Ok(item) => assert!(item.is_some_and(|item| matches!(item, Item::Database(_)))),
                Err(error) => break error.fault,
            }
        };
        assert!(matches!(fault, Fault::Databases(DATABASE_COUNT_MAX)), "{fault}");
    }
}
