//! Incremental files: the blocks of a relation's segment that changed since an earlier backup.
//!
//! Such a file is called `INCREMENTAL.` and then as the segment. It holds, in the processor's order of bytes: a magic number, how many blocks
//! follow, how many blocks of the segment stay in their place (all behind them that are not in the file hold zeros), the numbers of the
//! blocks within the segment; then, if there is any block, zeros up to a whole page, and the blocks. Source: the server's
//! `src/backend/backup/README.incremental` and `src/include/backup/basebackup_incremental.h`, version 17 on.
//!
//! Refuses what no server writes: a length that is not that of its blocks, numbers that do not ascend or lie outside a segment. So whoever
//! writes what passes here writes each block once, and never more than a segment.

use crate::page::{self, PAGE_BYTES, SEGMENT_BLOCKS};

/// What the name of an incremental file begins with.
pub const INCREMENTAL_PREFIX: &str = "INCREMENTAL.";
/// What the file begins with.
const MAGIC: u32 = 0xD3AE_1F0D;
/// Magic number, count of blocks, count of those that stay.
const HEAD_BYTES: usize = 12;
const NUMBER_BYTES: usize = 4;

/// Why a file is no incremental one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IncrementalError {
    /// It begins otherwise.
    #[error("it does not begin as an incremental file")]
    Magic,
    /// It counts more blocks than a segment has.
    #[error("it counts {0} blocks, more than a segment has")]
    Count(u32),
    /// It keeps more blocks than a segment has.
    #[error("it keeps {0} blocks, more than a segment has")]
    Kept(u32),
    /// Its numbers do not ascend, or lie outside a segment.
    #[error("its block {0} is out of order")]
    Order(u32),
    /// It has another length than its blocks need.
    #[error("it has {found} bytes, its blocks need {needed}")]
    Length {
        /// The length of the file.
        found: u64,
        /// The length that follows from its beginning.
        needed: u64,
    },
}

/// What an incremental file says before its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// So many blocks of the segment stay as they were, unless they are in the file. All others that are not in the file hold zeros.
    pub kept_blocks: u32,
    /// The numbers of the blocks in the file, ascending.
    pub blocks: Vec<u32>,
}

impl Changes {
    /// How long the segment is afterwards, in bytes.
    pub fn length(&self) -> u64 {
        let behind_last = self.blocks.last().map_or(0, |block| block + 1);
        u64::from(behind_last.max(self.kept_blocks)) * PAGE_BYTES as u64
    }

    /// How much of the segment may stay as it was, in bytes.
    pub fn kept_bytes(&self) -> u64 {
        u64::from(self.kept_blocks) * PAGE_BYTES as u64
    }
}

/// Who is told what an incremental file holds.
pub trait Changed {
    /// What makes it stop.
    type Fault: From<IncrementalError>;
    /// What changes; comes once, before all blocks.
    fn changes(&mut self, changes: &Changes) -> Result<(), Self::Fault>;
    /// The next bytes of blocks: they belong at byte `at` of the segment.
    fn block_bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), Self::Fault>;
}

/// Reads one incremental file, in pieces cut anywhere. Keeps its numbers alone, at most half a megabyte.
#[derive(Debug)]
pub struct IncrementalReader {
    size: u64,
    read_bytes: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Before the blocks: what is there of it.
    Beginning(Vec<u8>),
    /// Between the numbers and the first block.
    Padding { left: usize, changes: Changes },
    /// In the blocks: of the one at `index` so many bytes have passed.
    Blocks { changes: Changes, index: usize, passed: usize },
}

impl IncrementalReader {
    /// A reader of a file of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { size, read_bytes: 0, state: State::Beginning(Vec::new()) }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// The visitor's. Afterwards the reader must not be used again.
    pub fn push<V: Changed>(&mut self, mut piece: &[u8], visitor: &mut V) -> Result<(), V::Fault> {
        while !piece.is_empty() {
            let taken = match &mut self.state {
                State::Beginning(read) => {
                    let needed = needed(read)?;
                    let taken = (needed - read.len()).min(piece.len());
                    read.extend_from_slice(&piece[..taken]);
                    if let Some(changes) = whole(read, self.size)? {
                        visitor.changes(&changes)?;
                        self.state = State::Padding { left: padding(&changes), changes };
                    }
                    taken
                }
                State::Padding { left: 0, changes } => {
                    let changes = Changes {
                        kept_blocks: changes.kept_blocks,
                        blocks: std::mem::take(&mut changes.blocks),
                    };
                    self.state = State::Blocks { changes, index: 0, passed: 0 };
                    0
                }
                State::Padding { left, .. } => {
                    let taken = piece.len().min(*left);
                    *left -= taken;
                    taken
                }
                State::Blocks { changes, index, passed } => {
                    let run = run(&changes.blocks[*index..], *passed, piece.len());
                    let Some(first) = changes.blocks.get(*index).filter(|_| run > 0) else {
                        let found = self.read_bytes + piece.len() as u64;
                        return Err(IncrementalError::Length { found, needed: self.size }.into());
                    };
                    let at = u64::from(*first) * PAGE_BYTES as u64 + *passed as u64;
                    visitor.block_bytes(at, &piece[..run])?;
                    *index += (*passed + run) / PAGE_BYTES;
                    *passed = (*passed + run) % PAGE_BYTES;
                    run
                }
            };
            self.read_bytes += taken as u64;
            piece = &piece[taken..];
        }
        Ok(())
    }

    /// Checks that the file was whole.
    ///
    /// # Errors
    /// [`IncrementalError::Length`].
    pub fn end(self) -> Result<(), IncrementalError> {
        let (is_whole, needed) = match &self.state {
            State::Beginning(read) => (false, needed(read)? as u64),
            State::Padding { left, changes } => (*left == 0 && changes.blocks.is_empty(), self.size),
            State::Blocks { changes, index, .. } => (*index == changes.blocks.len(), self.size),
        };
        if is_whole { Ok(()) } else { Err(IncrementalError::Length { found: self.read_bytes, needed }) }
    }
}

/// How many bytes the beginning has, as far as `read` tells.
fn needed(read: &[u8]) -> Result<usize, IncrementalError> {
    if read.len() < HEAD_BYTES {
        return Ok(HEAD_BYTES);
    }
    let (count, kept) = (word(read, 4), word(read, 8));
    if word(read, 0) != MAGIC {
        Err(IncrementalError::Magic)
    } else if count > SEGMENT_BLOCKS {
        Err(IncrementalError::Count(count))
    } else if kept > SEGMENT_BLOCKS {
        Err(IncrementalError::Kept(kept))
    } else {
        Ok(HEAD_BYTES + count as usize * NUMBER_BYTES)
    }
}

/// What the beginning says, when it is whole.
fn whole(read: &[u8], size: u64) -> Result<Option<Changes>, IncrementalError> {
    if read.len() < HEAD_BYTES || read.len() < needed(read)? {
        return Ok(None);
    }
    let numbers = read[HEAD_BYTES..].chunks_exact(NUMBER_BYTES).map(|number| word(number, 0));
    let changes = Changes { kept_blocks: word(read, 8), blocks: numbers.collect() };
    let mut least = 0;
    for block in &changes.blocks {
        if !(least..SEGMENT_BLOCKS).contains(block) {
            return Err(IncrementalError::Order(*block));
        }
        least = block + 1;
    }
    let needed = (read.len() + padding(&changes) + changes.blocks.len() * PAGE_BYTES) as u64;
    if needed == size { Ok(Some(changes)) } else { Err(IncrementalError::Length { found: size, needed }) }
}

/// How many bytes lie between the numbers and the first block.
fn padding(changes: &Changes) -> usize {
    if changes.blocks.is_empty() {
        return 0;
    }
    (HEAD_BYTES + changes.blocks.len() * NUMBER_BYTES).next_multiple_of(PAGE_BYTES)
        - HEAD_BYTES
        - changes.blocks.len() * NUMBER_BYTES
}

/// How many of the next `length` bytes lie beside each other in the segment, too: `blocks` are those that are left, of the first `passed` bytes
/// have been read.
fn run(blocks: &[u32], passed: usize, length: usize) -> usize {
    let mut run = 0;
    for (block, number) in blocks.iter().zip(blocks.first().copied().unwrap_or_default()..) {
        if *block != number || run >= length {
            break;
        }
        run += if run == 0 { PAGE_BYTES - passed } else { PAGE_BYTES };
    }
    run.min(length)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The file that the one at `path`, as the list of files names it, holds changes of; `None` when it is whole itself.
pub fn incremental_of(path: &str) -> Option<String> {
    let (folder, file) = path.rsplit_once('/')?;
    let target = format!("{folder}/{}", file.strip_prefix(INCREMENTAL_PREFIX)?);
    page::first_block(&target).is_some().then_some(target)
}

/// Where the changes of the file at `path` lie.
pub fn incremental_path(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((folder, file)) => format!("{folder}/{INCREMENTAL_PREFIX}{file}"),
        None => format!("{INCREMENTAL_PREFIX}{path}"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod tests {
    use super::*;

    /// An incremental file whose block `n` is full of `n`.
    pub(crate) fn file(kept: u32, blocks: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [MAGIC, blocks.len() as u32, kept].iter().chain(blocks) {
            bytes.extend(number.to_le_bytes());
        }
        if !blocks.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
        }
        for block in blocks {
            bytes.extend([*block as u8; PAGE_BYTES]);
        }
        bytes
    }

    /// What becomes of a segment.
    #[derive(Default)]
    struct Segment {
        bytes: Vec<u8>,
        runs: usize,
    }

    impl Changed for Segment {
        type Fault = IncrementalError;

        fn changes(&mut self, changes: &Changes) -> Result<(), IncrementalError> {
            self.bytes.truncate(changes.kept_bytes() as usize);
            self.bytes.resize(changes.length() as usize, 0);
            Ok(())
        }

        fn block_bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), IncrementalError> {
            self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            self.runs += 1;
            Ok(())
        }
    }

    fn applied(before: usize, file: &[u8], cut: usize) -> Result<Segment, IncrementalError> {
        let mut segment = Segment { bytes: vec![0xEE; before * PAGE_BYTES], runs: 0 };
        let mut reader = IncrementalReader::new(file.len() as u64);
        for piece in file.chunks(cut) {
            reader.push(piece, &mut segment)?;
        }
        reader.end()?;
        Ok(segment)
    }

    #[test]
    fn changes_come_to_their_places_however_the_file_is_cut() {
        // Five blocks before; block 1 changes, 3 is cut off and zero again, 4 and 5 are new.
        let changes = file(3, &[1, 4, 5]);
        for cut in [1, 7, 11, 12, 13, 8_191, 8_192, 8_193, 100_000] {
            let segment = applied(5, &changes, cut).unwrap();
            let firsts: Vec<u8> = segment.bytes.chunks(PAGE_BYTES).map(|page| page[100]).collect();
            assert_eq!(firsts, [0xEE, 1, 0xEE, 0, 4, 5], "cut at {cut}");
            assert!(segment.bytes.chunks(PAGE_BYTES).all(|page| page.iter().all(|byte| *byte == page[0])));
        }
        assert_eq!(applied(5, &changes, 1 << 20).unwrap().runs, 2, "neighbours come together");
        assert_eq!(applied(9, &file(2, &[]), 5).unwrap().bytes.len(), 2 * PAGE_BYTES);
        assert_eq!(applied(9, &file(0, &[]), 5).unwrap().bytes.len(), 0);
    }

    #[test]
    fn what_no_server_writes_is_refused() {
        let fault = |bytes: &[u8]| applied(4, bytes, 5_000).err();
        let mut other = file(1, &[0]);
        other[0] ^= 1;
        assert_eq!(fault(&other), Some(IncrementalError::Magic));
        let mut many = file(1, &[]);
        many[4..8].copy_from_slice(&(SEGMENT_BLOCKS + 1).to_le_bytes());
        assert_eq!(fault(&many), Some(IncrementalError::Count(SEGMENT_BLOCKS + 1)));
        assert_eq!(fault(&file(SEGMENT_BLOCKS + 1, &[])), Some(IncrementalError::Kept(SEGMENT_BLOCKS + 1)));
        for blocks in [&[1, 1][..], &[2, 1], &[SEGMENT_BLOCKS]] {
            let last = blocks.last().copied().unwrap();
            assert_eq!(fault(&file(1, blocks)), Some(IncrementalError::Order(last)), "{blocks:?}");
        }
        let whole = file(1, &[0, 2]);
        for length in [0, 3, 12, 19, 20, 8_192, 9_000, whole.len() - 1] {
            assert!(matches!(fault(&whole[..length]), Some(IncrementalError::Length { .. })), "{length}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(matches!(fault(&longer), Some(IncrementalError::Length { .. })));
    }

    #[test]
    fn names_tell_what_is_incremental() {
        for (path, target) in [
            ("base/5/INCREMENTAL.16384", Some("base/5/16384")),
            ("base/5/INCREMENTAL.16384_vm.1", Some("base/5/16384_vm.1")),
            ("pg_tblspc/9/PG_18_1/5/INCREMENTAL.1", Some("pg_tblspc/9/PG_18_1/5/1")),
            ("base/5/16384", None),
            ("base/5/INCREMENTAL.PG_VERSION", None),
            ("pg_xact/INCREMENTAL.0000", None),
            ("INCREMENTAL.1", None),
        ] {
            assert_eq!(incremental_of(path).as_deref(), target, "{path}");
            if let Some(target) = target {
                assert_eq!(incremental_path(target), path);
            }
        }
    }
}
