//! WAL as bytes, record by record: where each lies, that it is whole, and what recovery could be told to stop at.
//!
//! A walker begins at a record, or at a page, where it looks for the first record that begins there. Page headers are checked for their
//! position and taken out, records are summed up, each must name the one before it, and the few of them that matter to a recovery target are read: commits, aborts, restore
//! points. Everything else is passed over. Bytes come in pieces cut anywhere; what is kept of a record is bounded, whatever its length.
//!
//! Source: manual (18), "WAL Internals"; the structures `XLogPageHeaderData` and `XLogRecord` of PostgreSQL 15 to 18 on little-endian
//! processors, in pages of 8 KiB.

use crc_fast::{CrcAlgorithm, Digest};

/// A page of WAL.
const PAGE_BYTES: u64 = 8192;
/// The header of a page, and that of the first page of a segment.
const PAGE_HEADER_BYTES: usize = 24;
const LONG_HEADER_BYTES: usize = 40;
/// The header of a record.
const RECORD_HEADER_BYTES: usize = 24;
/// How much of a record is kept: its header, and enough of what follows for the records that are read.
const HEAD_BYTES: usize = RECORD_HEADER_BYTES + 136;
/// The longest record that a server makes (`XLogRecordMaxSize`), and a little more.
const RECORD_BYTES_MAX: u32 = 1024 * 1024 * 1024;
/// Records begin at multiples of this.
const ALIGNMENT: u64 = 8;

/// Flags of a page: it begins with the rest of a record; it has the long header; the record that it should go on with was given up.
const PAGE_CONTINUES: u16 = 0x0001;
const PAGE_LONG: u16 = 0x0002;
const PAGE_GIVES_UP: u16 = 0x0008;

/// Kinds of records that are looked at.
const RESOURCE_XLOG: u8 = 0;
const RESOURCE_TRANSACTION: u8 = 1;
const XLOG_SWITCH: u8 = 0x40;
const XLOG_RESTORE_POINT: u8 = 0x70;
const TRANSACTION_COMMIT: u8 = 0x00;
const TRANSACTION_ABORT: u8 = 0x20;
const TRANSACTION_COMMIT_PREPARED: u8 = 0x30;
const TRANSACTION_ABORT_PREPARED: u8 = 0x40;

/// A record that was walked over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRecord {
    /// Where it begins.
    pub at: u64,
    /// The position after its last byte.
    pub end: u64,
    /// What it is.
    pub kind: RecordKind,
}

/// What a record is. Times are microseconds since 2000-01-01T00:00:00Z, by the server's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordKind {
    /// A transaction was committed.
    Commit {
        /// Its number; 0 for one that had been prepared.
        xid: u32,
        /// When.
        at_us: i64,
    },
    /// A transaction was rolled back.
    Abort {
        /// Its number; 0 for one that had been prepared.
        xid: u32,
        /// When.
        at_us: i64,
    },
    /// Somebody gave this place a name.
    RestorePoint {
        /// The name.
        name: String,
        /// When.
        at_us: i64,
    },
    /// Anything else.
    Other,
}

/// Bytes that are no WAL of the position where they were found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("WAL at {:X}/{:X} is damaged: {what}", at >> 32, at & 0xFFFF_FFFF)]
pub struct WalError {
    /// Where.
    pub at: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

/// How many bytes of a segment [`SegmentHeader::read`] needs.
pub const FIRST_PAGE_BYTES: usize = LONG_HEADER_BYTES;

/// How long segments may be, in bytes.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;
/// What the pages of PostgreSQL 15 to 18 begin with.
const MAGICS: std::ops::RangeInclusive<u16> = 0xD110..=0xD118;

/// What the first page of a segment says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The timeline of the page, which is the segment's or one that leads to it.
    pub timeline: u32,
    /// The position of its first byte.
    pub position: u64,
    /// The identifier of the cluster.
    pub system: u64,
    /// How long a segment is, in bytes.
    pub segment_bytes: u64,
}

impl SegmentHeader {
    /// Reads the beginning of a segment, of which at least [`FIRST_PAGE_BYTES`] must be there.
    ///
    /// # Errors
    /// Why it is no beginning of a segment, to follow "it is none:".
    pub fn read(front: &[u8]) -> Result<Self, &'static str> {
        let header = front.get(..LONG_HEADER_BYTES).ok_or("it is shorter than the header of a page")?;
        let (magic, flags) = (half(header, 0), half(header, 2));
        let segment_bytes = u64::from(short(header, 32));
        if !MAGICS.contains(&magic) {
            return Err("its first page is not one of PostgreSQL 15 to 18");
        }
        if flags & PAGE_LONG == 0 {
            return Err("its first page has the header of another");
        }
        if !segment_bytes.is_power_of_two() || !SEGMENT_BYTES.contains(&segment_bytes) {
            return Err("its first page tells a length that segments do not have");
        }
        if u64::from(short(header, 36)) != PAGE_BYTES {
            return Err("its pages are not of 8 KiB");
        }
        let (timeline, position, system) = (short(header, 4), number(header, 8), number(header, 24));
        // Behind the last segment of all there is no position to tell its end by.
        let has_end = position.checked_add(segment_bytes).is_some();
        if timeline == 0 || !position.is_multiple_of(segment_bytes) || !has_end {
            return Err("its first page belongs elsewhere");
        }
        Ok(Self { timeline, position, system, segment_bytes })
    }
}

/// Walks over WAL.
pub struct WalWalker {
    segment_bytes: u64,
    /// The position of the next byte.
    at: u64,
    /// Everything before this position is passed over.
    skip_to: u64,
    /// Whether the next record is known to begin where the next byte is that is no page header.
    is_synced: bool,
    header: Vec<u8>,
    record: Option<Partial>,
    last: Option<u64>,
    /// The timeline of the newest page.
    timeline: Option<u32>,
}

/// A record of which not all has come.
struct Partial {
    at: u64,
    /// `None` before its first four bytes.
    length: Option<u32>,
    taken: u32,
    head: Vec<u8>,
    sum: Digest,
}

impl WalWalker {
    /// A walker whose first byte is that of a record at `position`, or of the page header before it. `segment_bytes` is a power of two.
    pub fn at_record(position: u64, segment_bytes: u64) -> Self {
        Self {
            segment_bytes: segment_bytes.max(PAGE_BYTES),
            at: position,
            skip_to: position,
            is_synced: true,
            header: Vec::with_capacity(LONG_HEADER_BYTES),
            record: None,
            last: None,
            timeline: None,
        }
    }

    /// A walker whose first byte is at `position`, wherever that is: it begins with the first record of the next page.
    pub fn anywhere(position: u64, segment_bytes: u64) -> Self {
        let page = position.next_multiple_of(PAGE_BYTES);
        Self { skip_to: page, is_synced: false, ..Self::at_record(position, segment_bytes) }
    }

    /// The position of the next byte that it takes.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Where the last whole record begins; `None` before there was one.
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// The timeline that the newest page says it is of; `None` before there was one.
    pub fn timeline(&self) -> Option<u32> {
        self.timeline
    }

    /// Walks over `bytes`, and gives every record that ends in them.
    ///
    /// # Errors
    /// When they are no WAL of this position. The walker must not be used again then.
    pub fn push(&mut self, mut bytes: &[u8], see: &mut dyn FnMut(SeenRecord)) -> Result<(), WalError> {
        while !bytes.is_empty() {
            let taken = if self.at < self.skip_to {
                let skipped = (self.skip_to - self.at).min(bytes.len() as u64);
                usize::try_from(skipped).unwrap_or(bytes.len())
            } else if self.at.is_multiple_of(PAGE_BYTES) || !self.header.is_empty() {
                self.take_header(bytes)?
            } else {
                self.take_record(bytes, see)?
            };
            self.at += taken as u64;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Takes what belongs to the header of a page; gives how many bytes that is.
    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, WalError> {
        let page = self.at - self.header.len() as u64;
        let is_long = page.is_multiple_of(self.segment_bytes);
        let wanted = if is_long { LONG_HEADER_BYTES } else { PAGE_HEADER_BYTES };
        let taken = (wanted - self.header.len()).min(bytes.len());
        self.header.extend_from_slice(&bytes[..taken]);
        if self.header.len() == wanted {
            let header = std::mem::take(&mut self.header);
            self.enter_page(page, &header, is_long)?;
        }
        Ok(taken)
    }

    fn enter_page(&mut self, page: u64, header: &[u8], is_long: bool) -> Result<(), WalError> {
        let fault = |what| Err(WalError { at: page, what });
        let (flags, timeline) = (half(header, 2), short(header, 4));
        if number(header, 8) != page {
            return fault("its page belongs elsewhere");
        }
        if self.timeline.is_some_and(|before| timeline < before) {
            return fault("its page is of an earlier timeline than the one before it");
        }
        self.timeline = Some(timeline);
        if (flags & PAGE_LONG != 0) != is_long {
            return fault("its page has the header of another");
        }
        let rest = short(header, 16);
        let data_at = page + header.len() as u64;
        let page_end = page + PAGE_BYTES;
        if !self.is_synced {
            if flags & PAGE_CONTINUES != 0 && data_at + u64::from(rest) > page_end {
                self.skip_to = page_end;
                return Ok(());
            }
            let first = if flags & PAGE_CONTINUES != 0 { u64::from(rest) } else { 0 };
            self.skip_to = (data_at + first).next_multiple_of(ALIGNMENT);
            self.is_synced = true;
            return Ok(());
        }
        match &self.record {
            _ if flags & PAGE_GIVES_UP != 0 => self.record = None,
            None if flags & PAGE_CONTINUES != 0 => {
                return fault("its page goes on with a record that did not begin");
            }
            Some(_) if flags & PAGE_CONTINUES == 0 => {
                return fault("its page does not go on with the record before it");
            }
            Some(record) if record.length.is_some_and(|length| length - record.taken != rest) => {
                return fault("its page goes on with another record");
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes what belongs to a record on this page; gives how many bytes that is.
    fn take_record(&mut self, bytes: &[u8], see: &mut dyn FnMut(SeenRecord)) -> Result<usize, WalError> {
        let room = PAGE_BYTES - self.at % PAGE_BYTES;
        let bytes = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        let at = self.at;
        let record = self.record.get_or_insert_with(|| Partial::new(at));
        let taken = record.take(bytes)?;
        if record.is_whole() {
            let end = self.at + taken as u64;
            let seen = self.record.take().map(|record| record.end(end, self.last)).transpose()?;
            if let Some((seen, is_switch)) = seen {
                self.last = Some(seen.at);
                let unit = if is_switch { self.segment_bytes } else { ALIGNMENT };
                self.skip_to = end.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
                see(seen);
            }
        }
        Ok(taken)
    }
}

impl Partial {
    fn new(at: u64) -> Self {
        let sum = Digest::new(CrcAlgorithm::Crc32Iscsi);
        Self { at, length: None, taken: 0, head: Vec::with_capacity(HEAD_BYTES), sum }
    }

    fn is_whole(&self) -> bool {
        self.length == Some(self.taken)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<usize, WalError> {
        let wanted = match self.length {
            // The length is the first thing, and never split by a page.
            None => 4 - self.head.len(),
            Some(length) => usize::try_from(length - self.taken).unwrap_or(usize::MAX),
        };
        let bytes = &bytes[..bytes.len().min(wanted)];
        let kept = bytes.len().min(HEAD_BYTES - self.head.len());
        self.head.extend_from_slice(&bytes[..kept]);
        // The header is summed up last, and without the sum itself.
        let header_left = RECORD_HEADER_BYTES.saturating_sub(self.taken as usize).min(bytes.len());
        self.sum.update(&bytes[header_left..]);
        self.taken += u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if self.length.is_none() && self.head.len() == 4 {
            let length = short(&self.head, 0);
            if !(RECORD_HEADER_BYTES as u32..RECORD_BYTES_MAX).contains(&length) {
                return Err(WalError { at: self.at, what: "a record has no length that records have" });
            }
            self.length = Some(length);
        }
        Ok(bytes.len())
    }

    /// What it is, and whether the rest of its segment is unused. `before` is where the record before it begins, as far as that is known.
    fn end(mut self, end: u64, before: Option<u64>) -> Result<(SeenRecord, bool), WalError> {
        let (header, body) = self.head.split_at(RECORD_HEADER_BYTES);
        self.sum.update(&header[..20]);
        if self.sum.finalize() != u64::from(short(header, 20)) {
            return Err(WalError { at: self.at, what: "a record has a wrong checksum" });
        }
        if before.is_some_and(|before| number(header, 8) != before) {
            return Err(WalError { at: self.at, what: "a record follows another one than that before it" });
        }
        let (info, resource) = (header[16], header[17]);
        let is_switch = resource == RESOURCE_XLOG && info & 0xF0 == XLOG_SWITCH;
        let kind = kind(resource, info, short(header, 4), body);
        Ok((SeenRecord { at: self.at, end, kind }, is_switch))
    }
}

fn kind(resource: u8, info: u8, xid: u32, body: &[u8]) -> RecordKind {
    let Some(data) = main_data(body).filter(|data| data.len() >= 8) else { return RecordKind::Other };
    let at_us = i64::from_le_bytes(number(data, 0).to_le_bytes());
    match (resource, info & 0x70) {
        (RESOURCE_TRANSACTION, TRANSACTION_COMMIT) => RecordKind::Commit { xid, at_us },
        (RESOURCE_TRANSACTION, TRANSACTION_ABORT) => RecordKind::Abort { xid, at_us },
        (RESOURCE_TRANSACTION, TRANSACTION_COMMIT_PREPARED) => RecordKind::Commit { xid: 0, at_us },
        (RESOURCE_TRANSACTION, TRANSACTION_ABORT_PREPARED) => RecordKind::Abort { xid: 0, at_us },
        (RESOURCE_XLOG, XLOG_RESTORE_POINT) if info & 0xF0 == XLOG_RESTORE_POINT => {
            let name = data[8..].split(|byte| *byte == 0).next().unwrap_or_default();
            RecordKind::RestorePoint { name: String::from_utf8_lossy(name).into_owned(), at_us }
        }
        _ => RecordKind::Other,
    }
}

/// What a record says by itself, behind the origin and the number of an enclosing transaction. `None` for one that refers to blocks.
fn main_data(mut body: &[u8]) -> Option<&[u8]> {
    loop {
        let (skipped, is_data) = match *body.first()? {
            255 => (2, true),
            254 => (5, true),
            253 => (3, false),
            252 => (5, false),
            _ => return None,
        };
        body = body.get(skipped..)?;
        if is_data {
            return Some(body);
        }
    }
}

/// Two bytes at `offset`.
fn half(bytes: &[u8], offset: usize) -> u16 {
    bytes.get(offset..).and_then(|bytes| bytes.first_chunk()).copied().map_or(0, u16::from_le_bytes)
}

/// Four bytes at `offset`.
fn short(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(|bytes| bytes.first_chunk()).copied().map_or(0, u32::from_le_bytes)
}

/// Eight bytes at `offset`.
fn number(bytes: &[u8], offset: usize) -> u64 {
    bytes.get(offset..).and_then(|bytes| bytes.first_chunk()).copied().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;
    const SYSTEM: u64 = 7_000_000_000_000_000_001;

    /// A writer of WAL, as far as the walker reads it.
    struct Log {
        begin: u64,
        bytes: Vec<u8>,
        /// Where the last record begins.
        last: u64,
    }

    impl Log {
        fn at(begin: u64) -> Self {
            Self { begin, bytes: Vec::new(), last: 0 }
        }

        fn end(&self) -> u64 {
            self.begin + self.bytes.len() as u64
        }

        fn page_header(&mut self, flags: u16, rest: u32) {
            let page = self.end();
            let is_long = page.is_multiple_of(SEGMENT);
            let flags = if is_long { flags | PAGE_LONG } else { flags };
            self.bytes.extend([0x18, 0xD1]);
            self.bytes.extend(flags.to_le_bytes());
            self.bytes.extend(1_u32.to_le_bytes());
            self.bytes.extend(page.to_le_bytes());
            self.bytes.extend(rest.to_le_bytes());
            self.bytes.extend([0; 4]);
            if is_long {
                self.bytes.extend(SYSTEM.to_le_bytes());
                self.bytes.extend(u32::try_from(SEGMENT).unwrap().to_le_bytes());
                self.bytes.extend(u32::try_from(PAGE_BYTES).unwrap().to_le_bytes());
            }
        }

        /// Writes a record; gives where it begins and ends.
        fn record(&mut self, resource: u8, info: u8, xid: u32, body: &[u8]) -> (u64, u64) {
            let mut record = Vec::new();
            record.extend(u32::try_from(RECORD_HEADER_BYTES + body.len()).unwrap().to_le_bytes());
            record.extend(xid.to_le_bytes());
            record.extend(self.last.to_le_bytes());
            record.extend([info, resource, 0, 0]);
            let mut sum = Digest::new(CrcAlgorithm::Crc32Iscsi);
            sum.update(body);
            sum.update(&record);
            record.extend(u32::try_from(sum.finalize()).unwrap().to_le_bytes());
            record.extend(body);
            if self.end().is_multiple_of(PAGE_BYTES) {
                self.page_header(0, 0);
            }
            let at = self.end();
            self.last = at;
            for (index, byte) in record.iter().enumerate() {
                if self.end().is_multiple_of(PAGE_BYTES) {
                    self.page_header(PAGE_CONTINUES, u32::try_from(record.len() - index).unwrap());
                }
                self.bytes.push(*byte);
            }
            let end = self.end();
            while !self.end().is_multiple_of(ALIGNMENT) {
                self.bytes.push(0);
            }
            (at, end)
        }

        fn commit(&mut self, xid: u32, at_us: i64) -> (u64, u64) {
            let body = [&[252, 1, 0, 0, 0, 253, 0, 0, 255, 8][..], &at_us.to_le_bytes()].concat();
            self.record(RESOURCE_TRANSACTION, 0x80, xid, &body)
        }
    }

    fn walk(mut walker: WalWalker, bytes: &[u8], cut: usize) -> Result<Vec<SeenRecord>, WalError> {
        let mut seen = Vec::new();
        for piece in bytes.chunks(cut) {
            walker.push(piece, &mut |record| seen.push(record))?;
        }
        Ok(seen)
    }

    fn sample() -> (Log, Vec<SeenRecord>) {
        let mut log = Log::at(SEGMENT);
        let mut expected = Vec::new();
        let (at, end) = log.record(10, 0, 7, &[0; 30_000]);
        expected.push(SeenRecord { at, end, kind: RecordKind::Other });
        let (at, end) = log.commit(7, -5);
        expected.push(SeenRecord { at, end, kind: RecordKind::Commit { xid: 7, at_us: -5 } });
        let name = [&[255, 72][..], &9_i64.to_le_bytes(), b"before the sale\0", &[0; 48]].concat();
        let (at, end) = log.record(RESOURCE_XLOG, XLOG_RESTORE_POINT, 0, &name);
        let kind = RecordKind::RestorePoint { name: "before the sale".to_owned(), at_us: 9 };
        expected.push(SeenRecord { at, end, kind });
        let (at, end) = log.record(RESOURCE_XLOG, XLOG_SWITCH, 0, &[]);
        expected.push(SeenRecord { at, end, kind: RecordKind::Other });
        let unused = usize::try_from(2 * SEGMENT - log.end()).unwrap();
        log.bytes.extend(vec![0; unused]);
        let (at, end) =
            log.record(RESOURCE_TRANSACTION, TRANSACTION_ABORT, 8, &[&[255, 8][..], &[1; 8]].concat());
        let at_us = i64::from_le_bytes([1; 8]);
        expected.push(SeenRecord { at, end, kind: RecordKind::Abort { xid: 8, at_us } });
        (log, expected)
    }

    #[test]
    fn records_are_found_across_pages_and_segments_however_the_bytes_are_cut() {
        let (log, expected) = sample();
        for cut in [1, 7, 8192, 20_000, log.bytes.len()] {
            let walker = WalWalker::at_record(log.begin, SEGMENT);
            assert_eq!(walk(walker, &log.bytes, cut).unwrap(), expected, "{cut}");
        }
        let from = usize::try_from(expected[1].at - log.begin).unwrap();
        let walker = WalWalker::at_record(expected[1].at, SEGMENT);
        assert_eq!(walk(walker, &log.bytes[from..], 100).unwrap(), expected[1..]);
    }

    #[test]
    fn a_walk_that_begins_anywhere_finds_the_next_record() {
        let (log, expected) = sample();
        for from in [0, 1, 50, 8_192, 12_000, 24_570] {
            let walker = WalWalker::anywhere(log.begin + from as u64, SEGMENT);
            let found = walk(walker, &log.bytes[from..], 999).unwrap();
            let first = if from == 0 { 0 } else { 1 };
            assert_eq!(found, expected[first..], "{from}");
        }
    }

    #[test]
    fn a_record_that_was_given_up_does_not_stand_in_the_way() {
        let mut log = Log::at(SEGMENT);
        log.record(10, 0, 1, &[0; 9_000]);
        log.bytes.truncate(8192);
        log.page_header(PAGE_GIVES_UP, 0);
        let (at, end) = log.commit(3, 4);
        let seen = walk(WalWalker::at_record(log.begin, SEGMENT), &log.bytes, 64).unwrap();
        assert_eq!(seen, [SeenRecord { at, end, kind: RecordKind::Commit { xid: 3, at_us: 4 } }]);
    }

    #[test]
    fn a_segment_tells_whose_it_is() {
        let (log, _) = sample();
        let header = SegmentHeader::read(&log.bytes).unwrap();
        assert_eq!(
            header,
            SegmentHeader { timeline: 1, position: SEGMENT, system: SYSTEM, segment_bytes: SEGMENT }
        );
        let mut walker = WalWalker::at_record(log.begin, SEGMENT);
        assert_eq!(walker.timeline(), None);
        walker.push(&log.bytes, &mut |_| ()).unwrap();
        assert_eq!(walker.timeline(), Some(1));
        let fault = |offset: usize, byte: u8| {
            let mut front = log.bytes[..FIRST_PAGE_BYTES].to_vec();
            front[offset] = byte;
            SegmentHeader::read(&front).unwrap_err()
        };
        assert_eq!(fault(0, 0x19), "its first page is not one of PostgreSQL 15 to 18");
        assert_eq!(fault(2, 0), "its first page has the header of another");
        assert_eq!(fault(4, 0), "its first page belongs elsewhere");
        assert_eq!(fault(9, 1), "its first page belongs elsewhere");
        assert_eq!(fault(33, 3), "its first page tells a length that segments do not have");
        assert_eq!(fault(37, 0x10), "its pages are not of 8 KiB");
        let mut last = log.bytes[..FIRST_PAGE_BYTES].to_vec();
        last[8..16].copy_from_slice(&(u64::MAX - SEGMENT + 1).to_le_bytes());
        assert_eq!(SegmentHeader::read(&last), Err("its first page belongs elsewhere"), "it has no end");
        assert_eq!(SegmentHeader::read(&log.bytes[..39]), Err("it is shorter than the header of a page"));
    }

    #[test]
    fn damage_is_told_with_its_place() {
        let (log, expected) = sample();
        let fault = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = log.bytes.clone();
            change(&mut bytes);
            walk(WalWalker::at_record(log.begin, SEGMENT), &bytes, 512).unwrap_err()
        };
        let in_body = fault(&|bytes| bytes[20_000] ^= 1);
        assert_eq!((in_body.at, in_body.what), (expected[0].at, "a record has a wrong checksum"));
        assert_eq!(fault(&|bytes| bytes[8_192 + 9] ^= 1).what, "its page belongs elsewhere");
        assert_eq!(fault(&|bytes| bytes[8_192 + 16] ^= 1).what, "its page goes on with another record");
        assert_eq!(
            fault(&|bytes| bytes[8_192 + 4] = 0).what,
            "its page is of an earlier timeline than the one before it"
        );
        assert_eq!(
            fault(&|bytes| bytes[8_192 + 2] ^= 1).what,
            "its page does not go on with the record before it"
        );
        assert_eq!(fault(&|bytes| bytes[40..44].fill(0)).what, "a record has no length that records have");
        assert_eq!(fault(&|bytes| bytes[40..44].fill(0xFF)).what, "a record has no length that records have");
        let mut other = Log::at(SEGMENT);
        other.commit(1, 2);
        other.last -= 8;
        let (at, _) = other.commit(2, 3);
        let error = walk(WalWalker::at_record(other.begin, SEGMENT), &other.bytes, 64).unwrap_err();
        assert_eq!((error.at, error.what), (at, "a record follows another one than that before it"));
        let error = WalError { at: 0x1_0000_00AB, what: "x" };
        assert_eq!(error.to_string(), "WAL at 1/AB is damaged: x");
    }
}
