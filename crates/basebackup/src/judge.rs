//! Looking at an archive while it passes: what each file holds, and whether its pages are sound.

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest};
use sha2::{Digest as _, Sha256};

use crate::incremental::{Changed, Changes, IncrementalError, IncrementalReader, incremental_of};
use crate::label::{LABEL_BYTES_MAX, LABEL_FILE};
use crate::manifest::{Algorithm, Checksum, FileSum};
use crate::page::{self, PAGE_BYTES, Page, Verdict};
use crate::tar::{Entry, EntryKind, TarError, TarReader, Visitor};

/// How many damaged pages are named.
pub const DAMAGED_COUNT_MAX: usize = 10_000;
/// How many faults of changes are told.
const MALFORMED_COUNT_MAX: usize = 20;

/// How an archive is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JudgeOptions {
    /// How files are summed up.
    pub algorithm: Algorithm,
    /// Where the backup began, when pages have checksums: pages written later may be torn.
    pub pages_since: Option<u64>,
    /// Whether files may hold changes alone. In a whole backup a file of such a name is a file as any other.
    pub incremental: bool,
}

/// A file that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFile {
    /// Its path as a manifest names it.
    pub path: String,
    /// What it held.
    pub sum: FileSum,
}

/// A page whose checksum is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPage {
    /// Its file as a manifest names it.
    pub path: String,
    /// Which block of its relation it is.
    pub block: u32,
}

impl fmt::Display for DamagedPage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "block {} of {}", self.block, self.path)
    }
}

/// What was seen of an archive.
#[derive(Debug, Default)]
pub struct SeenArchive {
    /// Its files, in its order.
    pub files: Vec<SeenFile>,
    /// Tablespaces whose links it holds.
    pub links: Vec<u32>,
    /// The bytes of its files.
    pub bytes: u64,
    /// Pages whose checksums were looked at.
    pub pages: u64,
    /// Pages whose checksum is wrong, the first [`DAMAGED_COUNT_MAX`].
    pub damaged_pages: Vec<DamagedPage>,
    /// How many such pages there are.
    pub damaged_page_count: u64,
    /// What is wrong with files that hold changes, one line each; not more than a screenful.
    pub malformed: Vec<String>,
    /// `backup_label`, when it is in there.
    pub label: Option<Vec<u8>>,
    /// What ended the walk early: nothing is known of what comes behind.
    pub fault: Option<TarError>,
}

/// Judges one archive.
pub struct ArchiveJudge {
    reader: TarReader,
    seeing: Seeing,
}

impl ArchiveJudge {
    /// A judge of the archive of the tablespace `place`, or of the data directory.
    pub fn new(place: Option<u32>, options: JudgeOptions) -> Self {
        let seeing = Seeing { place, options, seen: SeenArchive::default(), file: None };
        Self { reader: TarReader::new(place), seeing }
    }

    /// Takes the next piece. After a fault nothing is looked at any more.
    pub fn bytes(&mut self, piece: &[u8]) {
        if self.seeing.seen.fault.is_none() {
            self.seeing.seen.fault = self.reader.push(piece, &mut self.seeing).err();
        }
    }

    /// What was seen.
    pub fn end(self) -> SeenArchive {
        let Self { reader, mut seeing } = self;
        if seeing.seen.fault.is_none() {
            seeing.seen.fault = reader.end().err();
        }
        seeing.seen
    }
}

/// Judges one file that lies on a disk as if it passed in an archive.
pub struct FileJudge(Seeing);

impl FileJudge {
    /// A judge of the file of `size` bytes that a manifest calls `path`.
    pub fn new(path: String, size: u64, options: JudgeOptions) -> Self {
        let mut seeing = Seeing { place: None, options, seen: SeenArchive::default(), file: None };
        seeing.begin_file(path, size);
        Self(seeing)
    }

    /// Takes the next piece.
    pub fn bytes(&mut self, piece: &[u8]) {
        self.0.content(piece);
    }

    /// What was seen: one file.
    pub fn end(mut self) -> SeenArchive {
        self.0.end_file();
        self.0.seen
    }
}

/// The files seen, and the one that is passing.
struct Seeing {
    place: Option<u32>,
    options: JudgeOptions,
    seen: SeenArchive,
    file: Option<Passing>,
}

impl Visitor for Seeing {
    type Fault = TarError;

    fn begin(&mut self, entry: Entry) -> Result<(), TarError> {
        match entry.kind {
            EntryKind::Directory => {}
            EntryKind::Link { oid, .. } => self.seen.links.push(oid),
            EntryKind::File => {
                let path = match self.place {
                    None => entry.path,
                    Some(oid) => format!("pg_tblspc/{oid}/{}", entry.path),
                };
                self.begin_file(path, entry.size);
            }
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.content(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), TarError> {
        self.end_file();
        Ok(())
    }
}

impl Seeing {
    fn begin_file(&mut self, path: String, size: u64) {
        let changed = if self.options.incremental { incremental_of(&path) } else { None };
        let changes = changed.is_some().then(|| IncrementalReader::new(size));
        let begun_at = self.options.pages_since;
        let pages = begun_at.and_then(|begun_at| {
            let first = page::first_block(changed.as_ref().unwrap_or(&path))?;
            Some(Pages { first, block: first, begun_at, partial: Vec::new() })
        });
        if path == LABEL_FILE {
            self.seen.label = Some(Vec::new());
        }
        let sum = Sum::new(self.options.algorithm);
        self.file = Some(Passing { path, size, sum, changes, pages });
    }

    fn content(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        file.sum.add(bytes);
        match &mut file.changes {
            None => {
                if let Some(pages) = &mut file.pages {
                    pages.add(bytes, &file.path, &mut self.seen);
                }
            }
            Some(changes) => {
                let mut blocks =
                    Blocks { pages: file.pages.as_mut(), path: &file.path, seen: &mut self.seen };
                if let Err(error) = changes.push(bytes, &mut blocks) {
                    self.seen.tell_malformed(&file.path, error);
                    // What it holds cannot be told any more; its sum goes on.
                    (file.changes, file.pages) = (None, None);
                }
            }
        }
        if let (LABEL_FILE, Some(label)) = (file.path.as_str(), &mut self.seen.label) {
            let room = LABEL_BYTES_MAX.saturating_sub(label.len()).min(bytes.len());
            label.extend_from_slice(&bytes[..room]);
        }
    }

    fn end_file(&mut self) {
        let Some(Passing { path, size, sum, changes, .. }) = self.file.take() else { return };
        if let Some(Err(error)) = changes.map(IncrementalReader::end) {
            self.seen.tell_malformed(&path, error);
        }
        self.seen.bytes = self.seen.bytes.saturating_add(size);
        self.seen.files.push(SeenFile { path, sum: FileSum { size, checksum: sum.checksum() } });
    }
}

impl SeenArchive {
    fn tell_malformed(&mut self, path: &str, error: IncrementalError) {
        if self.malformed.len() < MALFORMED_COUNT_MAX {
            self.malformed.push(format!("{path} holds no changes of its file: {error}"));
        }
    }
}

/// The pages among the changes of a file.
struct Blocks<'a> {
    pages: Option<&'a mut Pages>,
    path: &'a str,
    seen: &'a mut SeenArchive,
}

impl Changed for Blocks<'_> {
    type Fault = IncrementalError;

    fn changes(&mut self, _changes: &Changes) -> Result<(), IncrementalError> {
        Ok(())
    }

    fn block_bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), IncrementalError> {
        if let Some(pages) = &mut self.pages {
            if pages.partial.is_empty() {
                // The number of a block within its segment is less than 131072.
                pages.block = pages.first.wrapping_add((at / PAGE_BYTES as u64) as u32);
            }
            pages.add(bytes, self.path, self.seen);
        }
        Ok(())
    }
}

/// A file that is passing.
struct Passing {
    path: String,
    size: u64,
    sum: Sum,
    /// When it holds changes alone.
    changes: Option<IncrementalReader>,
    pages: Option<Pages>,
}

/// A checksum under way.
enum Sum {
    Crc32c(Box<Digest>),
    Sha256(Box<Sha256>),
}

impl Sum {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc32c => Self::Crc32c(Box::new(Digest::new(CrcAlgorithm::Crc32Iscsi))),
            Algorithm::Sha256 => Self::Sha256(Box::default()),
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc32c(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
        }
    }

    fn checksum(self) -> Checksum {
        match self {
            Self::Crc32c(digest) => {
                Checksum::Crc32c(u32::try_from(digest.finalize()).expect("a CRC of 32 bits has 32"))
            }
            Self::Sha256(digest) => Checksum::Sha256(digest.finalize().into()),
        }
    }
}

/// The pages of a file that is passing. What is no whole page at its end has no checksum.
struct Pages {
    /// The number of the file's first page in its relation.
    first: u32,
    /// The number of the next page in its relation.
    block: u32,
    begun_at: u64,
    /// The beginning of a page whose rest has not come.
    partial: Vec<u8>,
}

impl Pages {
    fn add(&mut self, mut bytes: &[u8], path: &str, seen: &mut SeenArchive) {
        if !self.partial.is_empty() {
            let taken = (PAGE_BYTES - self.partial.len()).min(bytes.len());
            self.partial.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.partial.len() < PAGE_BYTES {
                return;
            }
            let page = std::mem::take(&mut self.partial);
            self.pages(&page, path, seen);
        }
        let whole = bytes.len() / PAGE_BYTES * PAGE_BYTES;
        self.pages(&bytes[..whole], path, seen);
        self.partial.extend_from_slice(&bytes[whole..]);
    }

    fn pages(&mut self, pages: &[u8], path: &str, seen: &mut SeenArchive) {
        for page in pages.chunks_exact(PAGE_BYTES) {
            let page: &Page = page.try_into().expect("the pieces are pages");
            seen.pages += 1;
            if page::judge(page, self.block, self.begun_at) == Verdict::Damaged {
                seen.damaged_page_count += 1;
                if seen.damaged_pages.len() < DAMAGED_COUNT_MAX {
                    seen.damaged_pages.push(DamagedPage { path: path.to_owned(), block: self.block });
                }
            }
            self.block = self.block.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::tests::entry;

    #[test]
    fn files_are_summed_up_and_pages_judged_however_the_archive_is_cut() {
        let mut pages = vec![0; 3 * PAGE_BYTES];
        for (block, page) in pages.chunks_exact_mut(PAGE_BYTES).enumerate() {
            page[14] = 1;
            let page: &mut Page = page.try_into().expect("a page");
            let right = page::checksum(page, block as u32).to_le_bytes();
            page[8..10].copy_from_slice(&right);
        }
        pages[PAGE_BYTES + 100] ^= 1;
        let mut archive = entry("PG_18_1/5/16401", b'0', &pages, "");
        archive.extend(entry("PG_18_1/5/PG_VERSION", b'0', b"123456789", ""));
        for cut in [100, 512, 5_000, 100_000] {
            let options =
                JudgeOptions { algorithm: Algorithm::Crc32c, pages_since: Some(1), incremental: false };
            let mut judge = ArchiveJudge::new(Some(7), options);
            archive.chunks(cut).for_each(|piece| judge.bytes(piece));
            let seen = judge.end();
            assert_eq!(seen.fault, None);
            let damaged = DamagedPage { path: "pg_tblspc/7/PG_18_1/5/16401".to_owned(), block: 1 };
            assert_eq!(seen.damaged_pages, [damaged], "cut at {cut}");
            assert_eq!((seen.pages, seen.damaged_page_count, seen.bytes), (3, 1, 3 * 8192 + 9));
            assert_eq!(seen.files[1].path, "pg_tblspc/7/PG_18_1/5/PG_VERSION");
            assert_eq!(seen.files[1].sum.checksum, Checksum::Crc32c(0xE306_9283));
        }
    }

    #[test]
    fn pages_among_changes_are_judged_as_what_they_are() {
        let mut page = [0; PAGE_BYTES];
        page[14] = 1;
        let mut file = crate::incremental::tests::file(0, &[3, 4, 9]);
        let blocks = file.len() - 3 * PAGE_BYTES;
        for (at, block) in [3, 4, 9].into_iter().enumerate() {
            let number = 131_072 + block;
            let right = page::checksum(&page, number).to_le_bytes();
            page[8..10].copy_from_slice(&right);
            file[blocks + at * PAGE_BYTES..][..PAGE_BYTES].copy_from_slice(&page);
        }
        let judged = |file: &[u8], incremental, cut| {
            let options = JudgeOptions { algorithm: Algorithm::Crc32c, pages_since: Some(1), incremental };
            let mut judge = ArchiveJudge::new(None, options);
            let archive = entry("base/5/INCREMENTAL.16401.1", b'0', file, "");
            archive.chunks(cut).for_each(|piece| judge.bytes(piece));
            judge.end()
        };
        for cut in [100, 5_000, 1 << 20] {
            let seen = judged(&file, true, cut);
            assert_eq!((seen.pages, seen.damaged_page_count), (3, 0), "cut at {cut}");
            assert_eq!(seen.malformed, [""; 0]);
        }
        let mut damaged = file.clone();
        damaged[blocks + 2 * PAGE_BYTES + 77] ^= 1;
        let seen = judged(&damaged, true, 5_000);
        assert_eq!(seen.damaged_pages[0].to_string(), "block 131081 of base/5/INCREMENTAL.16401.1");
        let mut other = file.clone();
        other[0] ^= 1;
        let seen = judged(&other, true, 5_000);
        assert!(
            seen.malformed[0].starts_with("base/5/INCREMENTAL.16401.1 holds no changes"),
            "{:?}",
            seen.malformed
        );
        assert_eq!(seen.files.len(), 1);
        assert_eq!(
            judged(&other, false, 5_000).malformed,
            [""; 0],
            "in a whole backup it is a file as any other"
        );
    }
}
