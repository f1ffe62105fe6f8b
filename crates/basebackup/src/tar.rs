//! Walking an archive: the headers are looked at, what lies between them is passed on.
//!
//! Format: POSIX ustar as `src/port/tar.c` of the server writes it, sizes in octal or, from 8 GiB on, in base 256. Only files, directories and
//! the links of tablespaces are accepted, only under relative names without `..`, and nothing below a link: whoever unpacks what passes here
//! writes nowhere else.

/// The size of a header, and of what files are padded to.
pub const BLOCK_BYTES: usize = 512;

/// What an archive may not hold, or not so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// A header that is none, or damaged.
    #[error("the archive is damaged at byte {at}: {what}")]
    Header {
        /// Where the header begins.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An entry that no server makes.
    #[error("the archive holds {path:?}, {what}")]
    Entry {
        /// Its name, cut.
        path: String,
        /// Why it is refused.
        what: &'static str,
    },
    /// The archive ends inside an entry.
    #[error("the archive ends inside an entry, after {0} bytes")]
    Truncated(u64),
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file of [`Entry::size`] bytes.
    File,
    /// A directory.
    Directory,
    /// The link of a tablespace, `pg_tblspc/<oid>`, to the place where it lay.
    Link {
        /// The tablespace.
        oid: u32,
        /// Where it lay.
        to: String,
    },
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the place of the archive, checked: relative, no empty part, no `.` and no `..`.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// The bytes of its content; 0 but for files.
    pub size: u64,
    /// Its permissions.
    pub mode: u32,
}

/// Who looks at an archive while it is walked.
pub trait Visitor {
    /// What makes it stop.
    type Fault: From<TarError>;
    /// An entry begins.
    fn begin(&mut self, entry: Entry) -> Result<(), Self::Fault>;
    /// The next bytes of the file that began last.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Self::Fault>;
    /// The file that began last is whole.
    fn end(&mut self) -> Result<(), Self::Fault>;
}

/// How many bytes follow a file of `size` bytes up to the next header.
pub fn padding(size: u64) -> usize {
    let block = BLOCK_BYTES as u64;
    ((block - size % block) % block) as usize
}

/// Where the reader stands.
#[derive(Debug)]
enum State {
    /// In a header of which so much is there.
    Header(usize),
    /// In a file: bytes left, then padding.
    Content { left: u64, padding: usize },
    /// Behind the last entry.
    End,
}

/// Walks one archive.
#[derive(Debug)]
pub struct TarReader {
    /// The tablespace that it is the archive of; `None` for the data directory.
    place: Option<u32>,
    state: State,
    header: Box<[u8; BLOCK_BYTES]>,
    offset: u64,
}

impl TarReader {
    /// A reader of the archive of the tablespace `place`, or of the data directory.
    pub fn new(place: Option<u32>) -> Self {
        Self { place, state: State::Header(0), header: Box::new([0; BLOCK_BYTES]), offset: 0 }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// The visitor's. Afterwards the reader must not be used again.
    pub fn push<V: Visitor>(&mut self, mut piece: &[u8], visitor: &mut V) -> Result<(), V::Fault> {
        while !piece.is_empty() {
            let taken = match self.state {
                State::Header(filled) => self.header(filled, piece, visitor)?,
                State::Content { left, padding } => self.content(left, padding, piece, visitor)?,
                State::End => match piece.iter().position(|byte| *byte != 0) {
                    None => piece.len(),
                    Some(0) => return Err(self.damaged("bytes behind its end").into()),
                    Some(zeros) => zeros,
                },
            };
            self.offset += taken as u64;
            piece = &piece[taken..];
        }
        Ok(())
    }

    /// Checks that the archive ended where it may. Servers end it with blocks of zeros; without them it is as whole.
    ///
    /// # Errors
    /// [`TarError::Truncated`].
    pub fn end(self) -> Result<(), TarError> {
        match self.state {
            State::Header(0) | State::End => Ok(()),
            State::Header(_) | State::Content { .. } => Err(TarError::Truncated(self.offset)),
        }
    }

    fn header<V: Visitor>(
        &mut self,
        filled: usize,
        piece: &[u8],
        visitor: &mut V,
    ) -> Result<usize, V::Fault> {
        let taken = (BLOCK_BYTES - filled).min(piece.len());
        self.header[filled..filled + taken].copy_from_slice(&piece[..taken]);
        self.state = State::Header(filled + taken);
        if filled + taken < BLOCK_BYTES {
            return Ok(taken);
        }
        if self.header.iter().all(|byte| *byte == 0) {
            self.state = State::End;
            return Ok(taken);
        }
        let entry = self.entry()?;
        let (is_file, size) = (entry.kind == EntryKind::File, entry.size);
        visitor.begin(entry)?;
        self.state = State::Header(0);
        if is_file && size == 0 {
            visitor.end()?;
        } else if is_file {
            self.state = State::Content { left: size, padding: padding(size) };
        }
        Ok(taken)
    }

    fn content<V: Visitor>(
        &mut self,
        left: u64,
        padding: usize,
        piece: &[u8],
        visitor: &mut V,
    ) -> Result<usize, V::Fault> {
        if left == 0 {
            let taken = padding.min(piece.len());
            self.state = match padding - taken {
                0 => State::Header(0),
                padding => State::Content { left, padding },
            };
            return Ok(taken);
        }
        let taken = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        visitor.bytes(&piece[..taken])?;
        let left = left - taken as u64;
        if left == 0 {
            visitor.end()?;
        }
        self.state =
            if left == 0 && padding == 0 { State::Header(0) } else { State::Content { left, padding } };
        Ok(taken)
    }

    /// The entry that the header describes.
    fn entry(&self) -> Result<Entry, TarError> {
        let header = &self.header[..];
        if &header[257..262] != b"ustar" {
            return Err(self.damaged("no header where one must be"));
        }
        if number(&header[148..156]) != Some(checksum(header)) {
            return Err(self.damaged("the checksum of a header is wrong"));
        }
        let size = number(&header[124..136]).ok_or_else(|| self.damaged("a size is no number"))?;
        let mode = number(&header[100..108]).ok_or_else(|| self.damaged("permissions are no number"))?;
        let name = self.text(&header[..100])?;
        let prefix = self.text(&header[345..500])?;
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        // The folder of WAL's state has a name of its own kind: `./pg_wal/archive_status`.
        let path = path.strip_prefix("./").unwrap_or(&path);
        let path = path.strip_suffix('/').unwrap_or(path).to_owned();
        let refused = |what| TarError::Entry { path: path.chars().take(200).collect(), what };
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(refused("which is no path below it"));
        }
        let below_link = path.strip_prefix("pg_tblspc/");
        let kind = match header[156] {
            b'0' | 0 => EntryKind::File,
            b'5' => EntryKind::Directory,
            b'2' => {
                let oid = below_link.and_then(|oid| oid.parse().ok());
                match (self.place, oid) {
                    (None, Some(oid)) => {
                        EntryKind::Link { oid, to: self.text(&header[157..257])?.to_owned() }
                    }
                    _ => return Err(refused("a link that is none of a tablespace")),
                }
            }
            _ => return Err(refused("neither file nor directory nor link")),
        };
        match (&kind, self.place) {
            (EntryKind::File | EntryKind::Directory, None) if below_link.is_some() => {
                return Err(refused("below the links of tablespaces"));
            }
            (_, Some(_)) if !path.starts_with("PG_") => return Err(refused("which no tablespace holds")),
            _ => {}
        }
        let size = if kind == EntryKind::File { size } else { 0 };
        Ok(Entry { path, kind, size, mode: (mode & 0o777) as u32 })
    }

    /// The text of a field, which ends at its first NUL.
    fn text<'a>(&self, field: &'a [u8]) -> Result<&'a str, TarError> {
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        std::str::from_utf8(&field[..end]).map_err(|_| self.damaged("a name is not UTF-8"))
    }

    fn damaged(&self, what: &'static str) -> TarError {
        let block = BLOCK_BYTES as u64;
        TarError::Header { at: self.offset / block * block, what }
    }
}

/// A number in octal digits, or, with the highest bit set, in base 256.
fn number(field: &[u8]) -> Option<u64> {
    if let [first, rest @ ..] = field
        && first & 0x80 != 0
    {
        let (high, low) = rest.split_at(rest.len().checked_sub(8)?);
        let empty = first & 0x7F == 0 && high.iter().all(|byte| *byte == 0);
        return low.try_into().ok().map(u64::from_be_bytes).filter(|_| empty);
    }
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches([' ', '\0']);
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, 8).ok() }
}

/// The sum of a header's bytes, its own field taken as spaces.
fn checksum(header: &[u8]) -> u64 {
    let own = 148..156;
    let value = |(at, byte): (usize, &u8)| u64::from(if own.contains(&at) { b' ' } else { *byte });
    header.iter().enumerate().map(value).sum()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod tests {
    use super::*;

    /// An entry with its content and padding.
    pub(crate) fn entry(path: &str, kind: u8, content: &[u8], link: &str) -> Vec<u8> {
        let mut header = vec![0; BLOCK_BYTES];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..107].copy_from_slice(b"0000600");
        let size = format!("{:011o}", content.len());
        header[124..135].copy_from_slice(size.as_bytes());
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..263].copy_from_slice(b"ustar\0");
        let sum = format!("{:06o}\0 ", checksum(&header));
        header[148..156].copy_from_slice(sum.as_bytes());
        header.extend_from_slice(content);
        header.resize(header.len() + padding(content.len() as u64), 0);
        header
    }

    #[derive(Default)]
    struct Listing {
        entries: Vec<Entry>,
        contents: Vec<Vec<u8>>,
        ended: usize,
    }

    impl Visitor for Listing {
        type Fault = TarError;

        fn begin(&mut self, entry: Entry) -> Result<(), TarError> {
            self.entries.push(entry);
            self.contents.push(Vec::new());
            Ok(())
        }

        fn bytes(&mut self, bytes: &[u8]) -> Result<(), TarError> {
            self.contents.last_mut().unwrap().extend_from_slice(bytes);
            Ok(())
        }

        fn end(&mut self) -> Result<(), TarError> {
            self.ended += 1;
            Ok(())
        }
    }

    fn read(place: Option<u32>, bytes: &[u8], cut: usize) -> Result<Listing, TarError> {
        let (mut reader, mut listing) = (TarReader::new(place), Listing::default());
        for piece in bytes.chunks(cut) {
            reader.push(piece, &mut listing)?;
        }
        reader.end()?;
        Ok(listing)
    }

    #[test]
    fn entries_come_out_however_the_archive_is_cut() {
        let mut archive = entry("global/", b'5', b"", "");
        archive.extend(entry("global/1262", b'0', &[7; 700], ""));
        archive.extend(entry("empty", b'0', b"", ""));
        archive.extend(entry("pg_tblspc/16400/", b'2', b"", "/far/away"));
        archive.extend(entry("whole", b'0', &[9; BLOCK_BYTES], ""));
        archive.extend([0; 2 * BLOCK_BYTES]);
        for cut in [1, 7, 511, 512, 513, 10_000] {
            let listing = read(None, &archive, cut).unwrap();
            let paths: Vec<&str> = listing.entries.iter().map(|entry| entry.path.as_str()).collect();
            assert_eq!(paths, ["global", "global/1262", "empty", "pg_tblspc/16400", "whole"], "cut at {cut}");
            let link = EntryKind::Link { oid: 16_400, to: "/far/away".to_owned() };
            assert_eq!(listing.entries[3].kind, link);
            assert_eq!(listing.entries[1].mode, 0o600);
            assert_eq!((listing.contents[1].len(), listing.contents[4].len(), listing.ended), (700, 512, 3));
        }
    }

    #[test]
    fn what_no_server_makes_is_refused() {
        let bad = [
            (None, entry("/etc/passwd", b'0', b"", "")),
            (None, entry("a/../../b", b'0', b"", "")),
            (None, entry("././a", b'0', b"", "")),
            (None, entry("./../a", b'0', b"", "")),
            (None, entry(".//etc/a", b'0', b"", "")),
            (None, entry("./", b'5', b"", "")),
            (None, entry("..", b'5', b"", "")),
            (None, entry("", b'0', b"", "")),
            (None, entry("base", b'2', b"", "/etc")),
            (None, entry("pg_tblspc/../x", b'2', b"", "/etc")),
            (None, entry("pg_tblspc/1/x", b'0', b"", "")),
            (None, entry("hard", b'1', b"", "/etc")),
            (None, entry("device", b'3', b"", "")),
            (Some(1), entry("pg_tblspc/1", b'2', b"", "/etc")),
            (Some(1), entry("global/pg_control", b'0', b"", "")),
        ];
        for (place, archive) in bad {
            assert!(matches!(read(place, &archive, 512), Err(TarError::Entry { .. })), "{place:?}");
        }
        let mut flipped = entry("a", b'0', b"x", "");
        flipped[3] ^= 1;
        assert!(matches!(read(None, &flipped, 512), Err(TarError::Header { at: 0, .. })));
        let whole = entry("a", b'0', &[1; 1_000], "");
        for length in [1, 511, 513, 1_500, whole.len() - 1] {
            assert!(matches!(read(None, &whole[..length], 512), Err(TarError::Truncated(_))), "{length}");
        }
    }

    #[test]
    fn sizes_are_octal_or_in_base_256() {
        assert_eq!(number(b"00000000017\0"), Some(15));
        assert_eq!(number(b"0000644 "), Some(0o644));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]), Some((2 << 32) + 1));
        for bad in [&b"9"[..], b"", b"+1", &[0xFF; 12], &[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0x80, 1]]
        {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }
}
