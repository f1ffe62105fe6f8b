//! The walk: records in their order, one key after another.

use std::io::Read;

use crc_fast::{CrcAlgorithm, Digest};

use crate::KEY_BYTES_MAX;
use crate::fault::{Fault, WalkError};
use crate::input::{Input, Tap};
use crate::kind::{self, Encoding, Flavor, Kind};
use crate::value::{self, Passed};

/// The newest version of each flavor that is begun. Newer ones of Redis have types that are not known here; a file without them is read.
const VERSION_MAX: [(Flavor, u32); 2] = [(Flavor::Redis, 15), (Flavor::Valkey, 80)];
/// From this version on a file ends in a checksum.
const CHECKSUM_VERSION: u32 = 5;
/// The longest name or value of an auxiliary field, and the longest source of a function library.
const TEXT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Beyond the value, `RESTORE` wants the type before it, and version and checksum behind it.
const RESTORABLE_BYTES_MORE: usize = 1 + 2 + 8;

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
    /// A key; its value comes with [`Walker::pass_value`] or [`Walker::restorable`], and is passed over otherwise.
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
    /// The code of its type, which `RESTORE` wants.
    code: u8,
}

/// What was seen of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTail {
    /// Its elements: fields of a hash, entries of a stream, 1 for a string; `None` for modules and where the file does not say.
    pub elements: Option<u64>,
    /// The bytes of its strings, unpacked.
    pub data_bytes: u64,
    /// The bytes it takes in the file.
    pub stored_bytes: u64,
    /// When the first of a hash's fields expires, in milliseconds since 1970.
    pub field_expires_at: Option<i64>,
}

/// A value as `RESTORE` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restorable {
    /// Type, value, version, checksum.
    pub payload: Vec<u8>,
    /// What was seen of it.
    pub tail: KeyTail,
}

/// Where the walk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Magic,
    Records,
    /// Before the value of the key that was told last.
    Value(Kind, Encoding, u8),
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
        self.value(&mut None).map_err(|fault| self.at(fault))
    }

    /// The value of the key that was told last, for `RESTORE` on a server of the same or a newer version; `None` in its place when it has
    /// more than `bytes_max` bytes, which is then passed over.
    ///
    /// # Errors
    /// The first fault of the file.
    ///
    /// # Panics
    /// When no key was told, or its value has been asked for.
    pub fn restorable(&mut self, bytes_max: usize) -> Result<Result<Restorable, KeyTail>, WalkError> {
        let Place::Value(.., code) = self.place else { panic!("a value is asked for behind its key") };
        let mut payload = vec![code];
        let mut is_whole = true;
        let mut keep = |piece: &[u8]| {
            is_whole &= payload.len() + piece.len() + RESTORABLE_BYTES_MORE <= bytes_max;
            if is_whole {
                payload.extend_from_slice(piece);
            }
            Ok(())
        };
        let tail = self.value(&mut Some(&mut keep)).map_err(|fault| self.at(fault))?;
        if !is_whole {
            return Ok(Err(tail));
        }
        let version = u16::try_from(self.version).unwrap_or(u16::MAX);
        payload.extend_from_slice(&version.to_le_bytes());
        let mut checksum = Digest::new(CrcAlgorithm::Crc64Redis);
        checksum.update(&payload);
        payload.extend_from_slice(&checksum.finalize().to_le_bytes());
        Ok(Ok(Restorable { payload, tail }))
    }

    fn at(&self, fault: Fault) -> WalkError {
        WalkError { offset: self.input.offset(), fault }
    }

    fn step(&mut self) -> Result<Option<Item>, Fault> {
        match self.place {
            Place::Magic => self.magic()?,
            Place::Records => {}
            Place::Value(..) => drop(self.value(&mut None)?),
            Place::End => {
                return if self.input.is_at_end()? { Ok(None) } else { Err(Fault::Behind) };
            }
        }
        self.record().map(Some)
    }

    /// `REDIS` and four digits, or `VALKEY` and three.
    fn magic(&mut self) -> Result<(), Fault> {
        let magic: [u8; 9] = self.input.array(&mut None)?;
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
        let none = &mut None;
        let input = &mut self.input;
        Ok(match input.byte(none)? {
            code::AUXILIARY => Item::Auxiliary {
                name: input.string(TEXT_BYTES_MAX, none)?,
                value: input.string(TEXT_BYTES_MAX, none)?,
            },
            code::DATABASE => {
                self.database = input.length(none)?;
                Item::Database(self.database)
            }
            code::SIZES => Item::Sizes { keys: input.length(none)?, expiring: input.length(none)? },
            code::FUNCTION => Item::Function(input.string(TEXT_BYTES_MAX, none)?),
            code::SLOT => {
                let number = input.length(none)?;
                // Keys of it, and those that expire.
                input.length(none)?;
                input.length(none)?;
                Item::Slot { number }
            }
            code::MODULE => {
                let id = input.length(none)?;
                value::module_items(input, none)?;
                Item::Module { id }
            }
            code::END => self.end()?,
            other => Item::Key(self.key(other)?),
        })
    }

    /// What may stand before a key, its type, and its name. `first` has been read.
    fn key(&mut self, first: u8) -> Result<KeyHead, Fault> {
        let none = &mut None;
        let (mut expires_at, mut idle_seconds, mut frequency) = (None, None, None);
        let mut code = first;
        while code >= code::RECORDS {
            match code {
                code::EXPIRY_MILLIS => expires_at = Some(i64::from_le_bytes(self.input.array(none)?)),
                code::EXPIRY_SECONDS => {
                    expires_at = Some(i64::from(i32::from_le_bytes(self.input.array(none)?)) * 1000);
                }
                code::IDLE => idle_seconds = Some(self.input.length(none)?),
                code::FREQUENCY => frequency = Some(self.input.byte(none)?),
                other => return Err(Fault::Record(other)),
            }
            code = self.input.byte(none)?;
        }
        let (kind, encoding) = kind::of_code(code, self.flavor)?;
        let mut name = std::mem::take(&mut self.spare);
        name.clear();
        self.input.string_into(&mut name, KEY_BYTES_MAX, none)?;
        self.place = Place::Value(kind, encoding, code);
        let database = self.database;
        Ok(KeyHead { database, name, kind, encoding, expires_at, idle_seconds, frequency, code })
    }

    fn value(&mut self, tap: &mut Option<Tap<'_>>) -> Result<KeyTail, Fault> {
        let Place::Value(kind, encoding, _) = self.place else {
            panic!("a value is asked for behind its key")
        };
        let before = self.input.offset();
        self.input.begin_tap();
        let Passed { elements, data_bytes, field_expires_at } =
            value::pass(&mut self.input, kind, encoding, tap)?;
        self.input.flush_tap(tap)?;
        self.place = Place::Records;
        let stored_bytes = self.input.offset() - before;
        Ok(KeyTail { elements, data_bytes, stored_bytes, field_expires_at })
    }

    fn end(&mut self) -> Result<Item, Fault> {
        self.place = Place::End;
        if self.version < CHECKSUM_VERSION {
            return Ok(Item::End { checksum: None });
        }
        let found = self.input.checksum();
        let expected = u64::from_le_bytes(self.input.array(&mut None)?);
        match expected {
            0 => Ok(Item::End { checksum: None }),
            _ if expected == found => Ok(Item::End { checksum: Some(found) }),
            _ => Err(Fault::Checksum { expected, found }),
        }
    }
}

impl KeyHead {
    /// The code of its type, as the first byte of what `DUMP` answers.
    pub fn code(&self) -> u8 {
        self.code
    }
}

/// Walks to the end and gives how many keys there are: for those who only want to know that a file is whole.
///
/// # Errors
/// The first fault.
pub fn count_keys(source: impl Read) -> Result<u64, WalkError> {
    let mut walker = Walker::new(source);
    let mut keys = 0;
    while let Some(item) = walker.next_item()? {
        keys += u64::from(matches!(item, Item::Key(_)));
    }
    Ok(keys)
}
