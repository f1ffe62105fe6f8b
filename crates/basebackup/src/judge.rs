//! Looking at an archive while it passes: what each file holds, and whether its pages are sound.

use crc_fast::{CrcAlgorithm, Digest};
use sha2::{Digest as _, Sha256};

use crate::manifest::{Algorithm, Checksum, FileSum};
use crate::page::{self, PAGE_BYTES, Page, Verdict};
use crate::tar::{Entry, EntryKind, TarError, TarReader, Visitor};

/// How many damaged pages are named.
const DAMAGED_COUNT_MAX: usize = 20;

/// How an archive is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JudgeOptions {
    /// How files are summed up.
    pub algorithm: Algorithm,
    /// Where the backup began, when pages have checksums: pages written later may be torn.
    pub pages_since: Option<u64>,
}

/// A file that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFile {
    /// Its path as a manifest names it.
    pub path: String,
    /// What it held.
    pub sum: FileSum,
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
    /// Pages whose checksum is wrong, named; not more than a screenful.
    pub damaged_pages: Vec<String>,
    /// How many such pages there are.
    pub damaged_page_count: u64,
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
                let begun_at = self.options.pages_since;
                let pages = begun_at.and_then(|begun_at| {
                    page::first_block(&path).map(|block| Pages { block, begun_at, partial: Vec::new() })
                });
                let sum = Sum::new(self.options.algorithm);
                self.file = Some(Passing { path, size: entry.size, sum, pages });
            }
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.sum.add(bytes);
        if let Some(pages) = &mut file.pages {
            pages.add(bytes, &file.path, &mut self.seen);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), TarError> {
        if let Some(Passing { path, size, sum, .. }) = self.file.take() {
            self.seen.bytes = self.seen.bytes.saturating_add(size);
            self.seen.files.push(SeenFile { path, sum: FileSum { size, checksum: sum.checksum() } });
        }
        Ok(())
    }
}

/// A file that is passing.
struct Passing {
    path: String,
    size: u64,
    sum: Sum,
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
                    seen.damaged_pages.push(format!("block {} of {path}", self.block));
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
            let options = JudgeOptions { algorithm: Algorithm::Crc32c, pages_since: Some(1) };
            let mut judge = ArchiveJudge::new(Some(7), options);
            archive.chunks(cut).for_each(|piece| judge.bytes(piece));
            let seen = judge.end();
            assert_eq!(seen.fault, None);
            assert_eq!(seen.damaged_pages, ["block 1 of pg_tblspc/7/PG_18_1/5/16401"], "cut at {cut}");
            assert_eq!((seen.pages, seen.damaged_page_count, seen.bytes), (3, 1, 3 * 8192 + 9));
            assert_eq!(seen.files[1].path, "pg_tblspc/7/PG_18_1/5/PG_VERSION");
            assert_eq!(seen.files[1].sum.checksum, Checksum::Crc32c(0xE306_9283));
        }
    }
}
