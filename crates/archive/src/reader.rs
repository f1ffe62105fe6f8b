//! Reading an archive: chunks in, events out.
//!
//! [`ArchiveReader::push`] takes a chunk cut anywhere, [`ArchiveReader::event`] gives what it completes, [`ArchiveReader::end`] says whether the
//! stream may end there. Runs of documents inside one chunk come out as slices of it; only a document that lies across a border is copied.
//!
//! Every rule of the format that can be broken is checked, and the first fault ends the reading: the fault, the offset, and the namespace
//! where there is one. More is accepted than stock tools write where they accept it too: fields in any order, fields that are not known in
//! the header and the entries, closing blocks without data, blocks of any size.

use std::collections::HashMap;
use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use crate::checksum::Checksum;
use crate::document::{Front, fields, front};
use crate::prelude::{BUCKETS, Entry, EntryKind, Header, Prelude, not_a, text};

/// The most bytes before the first block. The entries are kept in memory.
const PRELUDE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What has been read. Entries are named by their positions in the prelude.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Header and entries; comes first and once.
    Prelude(Prelude),
    /// The first block of an entry begins.
    Opened {
        /// The entry.
        entry: usize,
    },
    /// Whole documents of an entry, one after another: framed, not looked into.
    Documents {
        /// The entry.
        entry: usize,
        /// The documents.
        bytes: Bytes,
        /// How many.
        count: u64,
    },
    /// An entry is complete, and its checksum right.
    Closed {
        /// The entry.
        entry: usize,
    },
}

/// A fault, and where the element begins that has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault}, at byte {offset}")]
pub struct ReadError {
    /// Bytes of the archive before it, after decompression.
    pub offset: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Something else than an archive.
    #[error("this is not an archive of mongodump: it does not begin with its magic number")]
    Magic,
    /// The stream ends where it may not.
    #[error("the archive is cut off {0}")]
    Truncated(&'static str),
    /// Four bytes that are neither a document's length nor a terminator.
    #[error("{0} is neither the length of a document nor a terminator")]
    Length(i32),
    /// A document that does not end in NUL.
    #[error("a document of {0} bytes does not end in NUL")]
    Terminator(usize),
    /// A terminator where a block should begin.
    #[error("a terminator stands where a block should begin")]
    StrayTerminator,
    /// A terminator instead of the header.
    #[error("the archive has no header")]
    NoHeader,
    /// The header is not what it should be.
    #[error("the header is not readable: {0}")]
    Header(String),
    /// An entry is not what it should be.
    #[error("an entry of the prelude is not readable: {0}")]
    Entry(String),
    /// Two entries of one name.
    #[error("the prelude lists {0} twice")]
    Listed(Name),
    /// More entries than fit into memory.
    #[error("the prelude has more than 256 MiB")]
    PreludeSize,
    /// The head of a block is not what it should be.
    #[error("the head of a block is not readable: {0}")]
    BlockHead(String),
    /// A block of a namespace without an entry.
    #[error("a block is of {0}, which the prelude does not list")]
    Unlisted(Name),
    /// A block after the closing block.
    #[error("{0} goes on after its closing block")]
    Reopened(Name),
    /// Documents in a closing block.
    #[error("the closing block of {0} holds documents")]
    ClosingData(Name),
    /// The documents are not those that were written.
    #[error(
        "{name} is damaged: its documents have checksum {found:016x}, its closing block says {expected:016x}"
    )]
    Checksum {
        /// The entry.
        name: Name,
        /// In the archive.
        expected: u64,
        /// Of the documents.
        found: u64,
    },
    /// No closing block.
    #[error("{0} has no closing block: the archive is not complete")]
    Unclosed(Name),
}

/// `database.collection`, as errors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an entry held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NamespaceSum {
    /// Documents.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their checksum.
    pub checksum: u64,
}

/// What a whole archive held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// One for each entry, in the prelude's order.
    pub entries: Vec<NamespaceSum>,
    /// The most entries that were open at one time.
    pub open_max: usize,
}

/// Reads one archive. After an error there is nothing more to be had from it.
#[derive(Debug, Default)]
pub struct ArchiveReader {
    /// What has not been read of the present chunk.
    chunk: Bytes,
    /// The beginning of an element whose rest is in a later chunk.
    partial: BytesMut,
    /// Bytes before `partial`, or before `chunk` when that is empty.
    offset: u64,
    place: Place,
    entries: Vec<Track>,
    by_name: HashMap<(String, String), usize>,
    open: usize,
    open_max: usize,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Magic,
    Header,
    Entries(Header, Vec<Entry>),
    /// Where a block begins, or the stream ends.
    Between,
    /// Inside a block of this entry.
    Documents(usize),
    /// After the head of a closing block.
    Closing(usize),
}

#[derive(Debug)]
struct Track {
    name: Name,
    stage: Stage,
    checksum: Checksum,
    sum: NamespaceSum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Unseen,
    Open,
    Closed,
}

/// A whole element.
enum Element {
    Terminator,
    Document(Bytes),
}

/// The head of a block.
struct Head {
    database: String,
    collection: String,
    closing: bool,
    checksum: u64,
}

impl ArchiveReader {
    /// Takes the next chunk. Whatever [`ArchiveReader::event`] has not given yet of the last one must have been asked for.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "the last chunk was not read to its end");
        self.chunk = chunk;
    }

    /// The next event of the present chunk; `None` when it is used up.
    ///
    /// # Errors
    /// The first fault of the archive.
    pub fn event(&mut self) -> Result<Option<Event>, ReadError> {
        self.step().map_err(|fault| ReadError { offset: self.offset, fault })
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// `Truncated` or `Unclosed` when the archive may not end here.
    pub fn end(self) -> Result<Summary, ReadError> {
        let offset = self.offset + self.partial.len() as u64;
        let refuse = |fault| Err(ReadError { offset, fault });
        let inside = match self.place {
            Place::Between if self.partial.is_empty() => {
                if let Some(track) = self.entries.iter().find(|track| track.stage != Stage::Closed) {
                    return refuse(Fault::Unclosed(track.name.clone()));
                }
                return Ok(Summary {
                    entries: self.entries.into_iter().map(|track| track.sum).collect(),
                    open_max: self.open_max,
                });
            }
            Place::Magic if self.partial.is_empty() => return refuse(Fault::Magic),
            Place::Magic | Place::Header | Place::Entries(..) => "inside its prelude",
            Place::Between => "inside the head of a block",
            Place::Documents(_) | Place::Closing(_) => "inside a block",
        };
        refuse(Fault::Truncated(inside))
    }

    fn step(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            match std::mem::take(&mut self.place) {
                Place::Magic => {
                    self.place = Place::Magic;
                    let Some(magic) = self.four()? else { return Ok(None) };
                    if magic != crate::MAGIC {
                        return Err(Fault::Magic);
                    }
                    self.place = Place::Header;
                }
                Place::Header => {
                    self.place = Place::Header;
                    match self.element()? {
                        None => return Ok(None),
                        Some(Element::Terminator) => return Err(Fault::NoHeader),
                        Some(Element::Document(bytes)) => {
                            let header = Header::read(&bytes).map_err(Fault::Header)?;
                            self.place = Place::Entries(header, Vec::new());
                        }
                    }
                }
                Place::Entries(header, mut entries) => match self.element()? {
                    None => {
                        self.place = Place::Entries(header, entries);
                        return Ok(None);
                    }
                    Some(Element::Terminator) => {
                        self.place = Place::Between;
                        return Ok(Some(Event::Prelude(Prelude { header, entries })));
                    }
                    Some(Element::Document(bytes)) => {
                        let entry = Entry::read(&bytes).map_err(Fault::Entry)?;
                        self.list(&entry)?;
                        entries.push(entry);
                        self.place = Place::Entries(header, entries);
                    }
                },
                Place::Between => {
                    self.place = Place::Between;
                    match self.element()? {
                        None => return Ok(None),
                        Some(Element::Terminator) => return Err(Fault::StrayTerminator),
                        Some(Element::Document(bytes)) => {
                            if let Some(event) = self.begin_block(&bytes)? {
                                return Ok(Some(event));
                            }
                        }
                    }
                }
                Place::Documents(entry) => {
                    self.place = Place::Documents(entry);
                    match self.run()? {
                        None => return Ok(None),
                        Some(Run::End) => self.place = Place::Between,
                        Some(Run::Documents(bytes, count)) => {
                            let track = &mut self.entries[entry];
                            track.checksum.add(&bytes);
                            track.sum.documents += count;
                            track.sum.bytes += bytes.len() as u64;
                            return Ok(Some(Event::Documents { entry, bytes, count }));
                        }
                    }
                }
                Place::Closing(entry) => {
                    self.place = Place::Closing(entry);
                    match self.element()? {
                        None => return Ok(None),
                        Some(Element::Document(_)) => {
                            return Err(Fault::ClosingData(self.entries[entry].name.clone()));
                        }
                        Some(Element::Terminator) => {
                            self.place = Place::Between;
                            self.entries[entry].stage = Stage::Closed;
                            self.open -= 1;
                            return Ok(Some(Event::Closed { entry }));
                        }
                    }
                }
            }
        }
    }

    /// Notes an entry under every name that its blocks may have.
    fn list(&mut self, entry: &Entry) -> Result<(), Fault> {
        if self.offset > PRELUDE_BYTES_MAX {
            return Err(Fault::PreludeSize);
        }
        let name = Name(entry.name());
        let buckets = (entry.kind == EntryKind::TimeSeries).then(|| format!("{BUCKETS}{}", entry.collection));
        for collection in [Some(entry.collection.clone()), buckets].into_iter().flatten() {
            if self.by_name.insert((entry.database.clone(), collection), self.entries.len()).is_some() {
                return Err(Fault::Listed(name));
            }
        }
        self.entries.push(Track {
            name,
            stage: Stage::Unseen,
            checksum: Checksum::EMPTY,
            sum: NamespaceSum::default(),
        });
        Ok(())
    }

    /// Judges the head of a block. Gives `Opened` for the first of its entry.
    fn begin_block(&mut self, bytes: &[u8]) -> Result<Option<Event>, Fault> {
        let head = Head::read(bytes).map_err(Fault::BlockHead)?;
        let name = (head.database, head.collection);
        let Some(entry) = self.by_name.get(&name).copied() else {
            return Err(Fault::Unlisted(Name(format!("{}.{}", name.0, name.1))));
        };
        let track = &mut self.entries[entry];
        let was = track.stage;
        if was == Stage::Closed {
            return Err(Fault::Reopened(track.name.clone()));
        }
        track.stage = Stage::Open;
        self.place = Place::Documents(entry);
        if head.closing {
            track.sum.checksum = track.checksum.value();
            if track.sum.checksum != head.checksum {
                let (name, found) = (track.name.clone(), track.sum.checksum);
                return Err(Fault::Checksum { name, expected: head.checksum, found });
            }
            self.place = Place::Closing(entry);
        }
        if was == Stage::Open {
            return Ok(None);
        }
        self.open += 1;
        self.open_max = self.open_max.max(self.open);
        Ok(Some(Event::Opened { entry }))
    }

    /// The next four bytes.
    fn four(&mut self) -> Result<Option<[u8; 4]>, Fault> {
        self.gather(4);
        let Some(four) = self.partial.first_chunk::<4>().copied() else { return Ok(None) };
        self.partial.clear();
        self.offset += 4;
        Ok(Some(four))
    }

    /// The next element, if the rest of it is in the present chunk.
    fn element(&mut self) -> Result<Option<Element>, Fault> {
        if self.partial.is_empty() {
            match front(&self.chunk) {
                Front::Document(length) if length <= self.chunk.len() => {
                    let document = self.chunk.split_to(length);
                    return self.whole(document).map(Some);
                }
                Front::Terminator => {
                    self.chunk.advance(4);
                    self.offset += 4;
                    return Ok(Some(Element::Terminator));
                }
                Front::Neither(length) => return Err(Fault::Length(length)),
                Front::Document(_) | Front::Short => {}
            }
        }
        self.gather(4);
        let length = match front(&self.partial) {
            Front::Short => return Ok(None),
            Front::Neither(length) => return Err(Fault::Length(length)),
            Front::Terminator => {
                self.partial.clear();
                self.offset += 4;
                return Ok(Some(Element::Terminator));
            }
            Front::Document(length) => length,
        };
        self.gather(length);
        if self.partial.len() < length {
            return Ok(None);
        }
        let document = self.partial.split().freeze();
        self.whole(document).map(Some)
    }

    fn whole(&mut self, document: Bytes) -> Result<Element, Fault> {
        if document.last() != Some(&0) {
            return Err(Fault::Terminator(document.len()));
        }
        self.offset += document.len() as u64;
        Ok(Element::Document(document))
    }

    /// Moves bytes from the chunk until `partial` has `length` of them or the chunk is used up.
    fn gather(&mut self, length: usize) {
        let missing = length.saturating_sub(self.partial.len()).min(self.chunk.len());
        self.partial.extend_from_slice(&self.chunk[..missing]);
        self.chunk.advance(missing);
    }

    /// As many documents as lie whole in the chunk, or the one that lay across its border, or the end of the block.
    fn run(&mut self) -> Result<Option<Run>, Fault> {
        let (length, count) = if self.partial.is_empty() { self.whole_documents()? } else { (0, 0) };
        if count > 0 {
            self.offset += length as u64;
            return Ok(Some(Run::Documents(self.chunk.split_to(length), count)));
        }
        Ok(self.element()?.map(|element| match element {
            Element::Terminator => Run::End,
            Element::Document(bytes) => Run::Documents(bytes, 1),
        }))
    }

    /// How many leading bytes of the chunk are whole documents, and how many documents. A fault behind the first document is left for later,
    /// so that its offset is right.
    fn whole_documents(&mut self) -> Result<(usize, u64), Fault> {
        let (mut length, mut count) = (0, 0);
        while let Front::Document(next) = front(&self.chunk[length..]) {
            match self.chunk.get(length + next - 1) {
                Some(0) => {}
                Some(_) if count == 0 => return Err(Fault::Terminator(next)),
                _ => break,
            }
            length += next;
            count += 1;
        }
        Ok((length, count))
    }
}

/// What [`ArchiveReader::run`] finds in a block.
enum Run {
    Documents(Bytes, u64),
    End,
}

impl Head {
    /// Reads the four fields, in any order; any other is a fault, for stock tools refuse it.
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let (mut database, mut collection, mut closing, mut checksum) = (None, None, false, 0);
        for (key, value) in fields(bytes)? {
            match key {
                "db" => database = Some(text(key, value)?),
                "collection" => collection = Some(text(key, value)?),
                "EOF" => closing = value.as_bool().ok_or_else(|| not_a(key, "flag"))?,
                "CRC" => {
                    checksum = value.as_i64().ok_or_else(|| not_a(key, "64-bit number"))?.cast_unsigned()
                }
                other => {
                    return Err(format!("it has a field `{}`", other.chars().take(40).collect::<String>()));
                }
            }
        }
        let missing = |what: &str| format!("it names no {what}");
        Ok(Self {
            database: database.ok_or_else(|| missing("database"))?,
            collection: collection.ok_or_else(|| missing("collection"))?,
            closing,
            checksum,
        })
    }
}
