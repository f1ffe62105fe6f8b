//! The table of contents of an archive.
//!
//! Source: PostgreSQL 18, `pg_backup_archiver` and `pg_backup_custom` (the order and width of the fields; there is no other description).

use thiserror::Error;

/// The longest table of contents that is worth reading: more objects than any server bears.
pub const TOC_BYTES_MAX: usize = 64 * 1024 * 1024;

/// With what an archive begins.
const MAGIC: &[u8] = b"PGDMP";
/// The number of the custom form.
const CUSTOM: u8 = 1;
/// Versions of the form that are read, both inclusive.
const VERSIONS: (u8, u8) = (14, 16);
/// From here on entries tell the kind of their relation.
const WITH_RELATION_KIND: u8 = 16;
/// From here on the header names a way of compression instead of a level.
const WITH_COMPRESSION_WAY: u8 = 15;

/// Why a table of contents could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TocError {
    /// It goes on behind the bytes that are there.
    #[error("the archive ends within its table of contents")]
    Incomplete,
    /// It is something else.
    #[error("it is no custom archive of pg_dump")]
    NotAnArchive,
    /// A form that is not read.
    #[error("it has version 1.{0} of the form; 1.14 to 1.16 are read")]
    Version(u8),
    /// Something in it cannot be.
    #[error("its table of contents is damaged: {0}")]
    Damaged(&'static str),
}

/// What an archive says of itself and of what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toc {
    /// The database that it was made of.
    pub database: String,
    /// The server's version, in the server's words.
    pub server_version: String,
    /// The version of the `pg_dump` that made it.
    pub tool_version: String,
    /// Everything in it, in the order in which it is restored.
    pub entries: Vec<Entry>,
    /// How many bytes of the archive this took.
    pub bytes: usize,
}

/// One thing in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number, by which others name it.
    pub id: i32,
    /// What it is, in pg_dump's words: `TABLE`, `TABLE DATA`, `FK CONSTRAINT`.
    pub kind: String,
    /// Its name; of a constraint or default behind the name of its table.
    pub tag: String,
    /// The schema it is in.
    pub schema: Option<String>,
    /// The role it belongs to; may be empty.
    pub owner: String,
    /// Whether there are rows behind it.
    pub has_data: bool,
    /// The numbers of what it needs.
    pub needs: Vec<i32>,
}

impl Toc {
    /// Reads the table of contents at the beginning of `bytes`; whatever follows it does not matter.
    ///
    /// # Errors
    /// [`TocError::Incomplete`] when more bytes are needed; everything else is final.
    pub fn read(bytes: &[u8]) -> Result<Self, TocError> {
        let mut reader = Reader { bytes, at: 0, int_bytes: 0, offset_bytes: 0 };
        let version = reader.header()?;
        for _ in 0..7 {
            // The time of its making, by the clock and time zone of a machine that is not told.
            reader.int()?;
        }
        let database = reader.text()?.unwrap_or_default();
        let server_version = reader.text()?.unwrap_or_default();
        let tool_version = reader.text()?.unwrap_or_default();
        let count = reader.int()?;
        if count < 0 {
            return Err(TocError::Damaged("it has less than no entries"));
        }
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(reader.entry(version)?);
        }
        Ok(Self { database, server_version, tool_version, entries, bytes: reader.at })
    }

    /// The tables with rows in the archive: schema and name.
    pub fn tables(&self) -> impl Iterator<Item = (&str, &str)> {
        let with_rows = self.entries.iter().filter(|entry| entry.kind == "TABLE DATA");
        with_rows.map(|entry| (entry.schema.as_deref().unwrap_or_default(), entry.tag.as_str()))
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    int_bytes: usize,
    offset_bytes: usize,
}

impl<'a> Reader<'a> {
    /// Everything up to the time of its making; gives the minor version of the form.
    fn header(&mut self) -> Result<u8, TocError> {
        let there = MAGIC.len().min(self.bytes.len());
        if self.bytes[..there] != MAGIC[..there] {
            return Err(TocError::NotAnArchive);
        }
        self.take(MAGIC.len())?;
        let (major, minor, _) = (self.byte()?, self.byte()?, self.byte()?);
        if major != 1 {
            return Err(TocError::NotAnArchive);
        }
        if !(VERSIONS.0..=VERSIONS.1).contains(&minor) {
            return Err(TocError::Version(minor));
        }
        self.int_bytes = usize::from(self.byte()?);
        self.offset_bytes = usize::from(self.byte()?);
        if !(1..=8).contains(&self.int_bytes) || !(1..=8).contains(&self.offset_bytes) {
            return Err(TocError::Damaged("its numbers have no width that a machine has"));
        }
        if self.byte()? != CUSTOM {
            return Err(TocError::NotAnArchive);
        }
        if minor >= WITH_COMPRESSION_WAY {
            self.byte()?;
        } else {
            self.int()?;
        }
        Ok(minor)
    }

    fn entry(&mut self, version: u8) -> Result<Entry, TocError> {
        let id = self.number("an entry has no number")?;
        let has_data = self.int()? != 0;
        // The server's own numbers of it.
        self.text()?;
        self.text()?;
        let tag = self.text()?.unwrap_or_default();
        let kind = self.text()?.unwrap_or_default();
        // The part of a restore it belongs to, and the statements that make, remove and fill it.
        self.int()?;
        self.text()?;
        self.text()?;
        self.text()?;
        let schema = self.text()?.filter(|schema| !schema.is_empty());
        // Its tablespace and access method.
        self.text()?;
        self.text()?;
        if version >= WITH_RELATION_KIND {
            self.int()?;
        }
        let owner = self.text()?.unwrap_or_default();
        // Whether it has row numbers, as tables of old had.
        self.text()?;
        let mut needs = Vec::new();
        while let Some(needed) = self.text()? {
            needs.push(needed.parse().map_err(|_| TocError::Damaged("an entry needs what is no number"))?);
        }
        // Where its rows are, which a dump into a pipe does not know.
        self.take(1 + self.offset_bytes)?;
        Ok(Entry { id, kind, tag, schema, owner, has_data, needs })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], TocError> {
        let end =
            self.at.checked_add(count).filter(|end| *end <= self.bytes.len()).ok_or(TocError::Incomplete)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, TocError> {
        self.take(1).map(|taken| taken[0])
    }

    /// A sign and a number, its lowest byte first.
    fn int(&mut self) -> Result<i64, TocError> {
        let is_negative = self.byte()? != 0;
        let mut value: u64 = 0;
        for (place, byte) in self.take(self.int_bytes)?.iter().enumerate() {
            value |= u64::from(*byte) << (8 * place);
        }
        let value = i64::try_from(value).map_err(|_| TocError::Damaged("a number is too large"))?;
        Ok(if is_negative { -value } else { value })
    }

    fn number(&mut self, otherwise: &'static str) -> Result<i32, TocError> {
        let number = self.int()?;
        i32::try_from(number).ok().filter(|number| *number > 0).ok_or(TocError::Damaged(otherwise))
    }

    /// A length and that many bytes, in the encoding of the database; a length below zero for no text.
    fn text(&mut self) -> Result<Option<String>, TocError> {
        let Ok(length) = usize::try_from(self.int()?) else { return Ok(None) };
        if length > TOC_BYTES_MAX {
            return Err(TocError::Damaged("a text is longer than any table of contents"));
        }
        self.take(length).map(|bytes| Some(String::from_utf8_lossy(bytes).into_owned()))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod tests {
    use super::*;

    fn int(value: i32) -> Vec<u8> {
        let mut bytes = vec![u8::from(value < 0)];
        bytes.extend(value.unsigned_abs().to_le_bytes());
        bytes
    }

    fn text(value: &str) -> Vec<u8> {
        [int(i32::try_from(value.len()).unwrap()), value.as_bytes().to_vec()].concat()
    }

    /// An archive of these entries: kind, schema, tag, what it needs. They are numbered from 1.
    pub(crate) fn archive(entries: &[(&str, &str, &str, &[i32])]) -> Vec<u8> {
        let mut bytes = [MAGIC, &[1, 16, 0, 4, 8, CUSTOM, 0][..]].concat();
        bytes.extend((0..7).flat_map(int));
        bytes.extend([text("shop"), text("18.4"), text("18.6"), int(entries.len() as i32)].concat());
        for ((kind, schema, tag, needs), id) in entries.iter().zip(1..) {
            bytes.extend(
                [int(id), int(i32::from(*kind == "TABLE DATA")), text("1259"), text("16384")].concat(),
            );
            bytes.extend([text(tag), text(kind), int(2), text("CREATE …"), text(""), int(-1)].concat());
            bytes.extend(
                [text(schema), text(""), text("heap"), int(114), text("app"), text("false")].concat(),
            );
            bytes.extend(needs.iter().flat_map(|needed| text(&needed.to_string())));
            bytes.extend(int(-1));
            bytes.extend([1, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        bytes
    }

    #[test]
    fn a_table_of_contents_is_read_from_as_many_bytes_as_it_has() {
        let made = archive(&[("TABLE", "public", "users", &[]), ("TABLE DATA", "public", "users", &[1])]);
        let mut with_rows = made.clone();
        with_rows.extend([1; 100]);
        let toc = Toc::read(&with_rows).unwrap();
        assert_eq!(
            (toc.database.as_str(), toc.tool_version.as_str(), toc.bytes),
            ("shop", "18.6", made.len())
        );
        assert_eq!(toc.tables().collect::<Vec<_>>(), [("public", "users")]);
        assert_eq!((toc.entries[1].needs.as_slice(), toc.entries[1].has_data), (&[1][..], true));
        assert_eq!((toc.entries[0].owner.as_str(), toc.entries[0].has_data), ("app", false));
        for cut in 0..made.len() {
            assert_eq!(Toc::read(&made[..cut]), Err(TocError::Incomplete), "{cut}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let made = archive(&[("TABLE", "public", "users", &[])]);
        let changed = |at: usize, byte: u8| {
            let mut bytes = made.clone();
            bytes[at] = byte;
            Toc::read(&bytes)
        };
        assert_eq!(changed(0, b'Q'), Err(TocError::NotAnArchive));
        assert_eq!(changed(5, 2), Err(TocError::NotAnArchive));
        assert_eq!(changed(6, 17), Err(TocError::Version(17)));
        assert_eq!(changed(8, 0), Err(TocError::Damaged("its numbers have no width that a machine has")));
        assert_eq!(changed(10, 3), Err(TocError::NotAnArchive));
        // A text of four gigabytes, and a count of entries that no archive holds.
        assert!(matches!(changed(51, 0xff), Err(TocError::Damaged(_) | TocError::Incomplete)));
        assert_eq!(Toc::read(b"PG"), Err(TocError::Incomplete));
        assert_eq!(Toc::read(b"-- a plain dump"), Err(TocError::NotAnArchive));
    }
}
