//! A folder that an `archive_command` fills: which files of WAL lie there, in what packing, and their plain bytes.
//!
//! Looks at names, and at the first page of each segment, which says whose it is and where it belongs. Opens nothing but regular files of the
//! folder itself, follows what links point to, and writes nothing. What has no name of a file of WAL is somebody else's and left alone; what
//! has one and does not hold that is an error which names it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mainstay_archive::gzip;
use mainstay_basebackup::{FIRST_PAGE_BYTES, Lineage, SegmentHeader, WalFile, WalSegment};
use mainstay_model::{Error, ErrorKind, Lsn, Result};

/// The longest file that is read as a history or the label of a backup.
const TEXT_BYTES_MAX: u64 = 64 * 1024;

/// What files are packed with that this version does not read.
const OTHER_PACKINGS: [&str; 5] = [".lz4", ".xz", ".bz2", ".lzo", ".br"];

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A segment, or the part of one that a timeline ended in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArchivedSegment {
    pub(super) segment: WalSegment,
    /// The position of its first byte.
    pub(super) begin: u64,
    /// Whether it is one of which only the front may be valid, such as one that its timeline ended in: behind that lies anything.
    pub(super) is_partial: bool,
    pub(super) path: PathBuf,
    packing: Packing,
}

/// What an archive holds.
#[derive(Debug)]
pub(super) struct Archive {
    /// The length of its segments.
    pub(super) segment_bytes: u64,
    /// By timeline and position. Of a segment that lies there in several packings, the one that is read fastest.
    pub(super) segments: BTreeMap<(u32, u64), ArchivedSegment>,
    /// The texts of histories, by timeline, each with its lineage.
    pub(super) histories: BTreeMap<u32, (String, Lineage)>,
    /// What is told of base backups that others took.
    pub(super) labels: Vec<Label>,
    /// The names of files of WAL that are packed in a way that is not read here.
    pub(super) unread: Vec<String>,
}

/// A base backup that the archive tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) file: String,
    pub(super) timeline: u32,
    pub(super) begin: Lsn,
    pub(super) end: Lsn,
}

/// What a name says.
enum Named {
    Segment { segment: WalSegment, is_partial: bool },
    History { timeline: u32 },
    Label { timeline: u32 },
}

impl Named {
    fn parse(name: &str) -> Option<Self> {
        if let Some(name) = name.strip_suffix(".partial") {
            let WalFile::Segment(segment) = WalFile::parse(name)? else { return None };
            return Some(Self::Segment { segment, is_partial: true });
        }
        if let Some((name, offset)) = name.strip_suffix(".backup").and_then(|name| name.split_once('.')) {
            let WalFile::Segment(segment) = WalFile::parse(name)? else { return None };
            let is_offset = offset.len() == 8 && offset.bytes().all(|byte| byte.is_ascii_hexdigit());
            return is_offset.then_some(Self::Label { timeline: segment.timeline });
        }
        Some(match WalFile::parse(name)? {
            WalFile::Segment(segment) => Self::Segment { segment, is_partial: false },
            WalFile::History { timeline } => Self::History { timeline },
        })
    }
}

/// Whether it is the name of a file of WAL that is packed in a way that is not read here; so is what is packed and partial, which whoever
/// packs while receiving leaves behind.
fn is_packed_otherwise(name: &str) -> bool {
    let packed = OTHER_PACKINGS.iter().find_map(|suffix| name.strip_suffix(suffix));
    let partial = name.strip_suffix(".partial").and_then(|front| {
        let mut packings = OTHER_PACKINGS.iter().chain(&[".gz", ".zst"]);
        packings.find_map(|suffix| front.strip_suffix(suffix))
    });
    packed.or(partial).and_then(Named::parse).is_some()
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("cannot read {}", path.display()))
        .with_source(source)
        .with_state("nothing was changed")
}

/// Something is wrong with one file of the archive.
pub(super) fn refused(kind: ErrorKind, path: &Path, what: impl std::fmt::Display) -> Error {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Error::new(kind, format!("{name} of the archive {what}"))
}

impl Archive {
    /// Looks at the folder. `server` is whose log it must be.
    ///
    /// # Errors
    /// `NotFound` when there is no such folder; `Precondition` for what is of another server, or of no length that is that of the others;
    /// `Corrupt` for what is not what its name says; `Storage` when it cannot be read.
    pub(super) fn look(folder: &Path, server: &str) -> Result<Self> {
        let mut archive = Self {
            segment_bytes: 0,
            segments: BTreeMap::new(),
            histories: BTreeMap::new(),
            labels: Vec::new(),
            unread: Vec::new(),
        };
        for (name, path) in files(folder)? {
            let (bare, packing) = match (name.strip_suffix(".gz"), name.strip_suffix(".zst")) {
                (Some(bare), _) => (bare, Packing::Gzip),
                (_, Some(bare)) => (bare, Packing::Zstd),
                _ => (name.as_str(), Packing::Plain),
            };
            match Named::parse(bare) {
                Some(Named::Segment { segment, is_partial }) => {
                    archive.add_segment(segment, is_partial, path, packing, server)?;
                }
                Some(Named::History { timeline }) => archive.add_history(timeline, &path, packing)?,
                Some(Named::Label { timeline }) => archive.add_label(name, timeline, &path, packing)?,
                None if is_packed_otherwise(&name) => archive.unread.push(name),
                None => {}
            }
        }
        Ok(archive)
    }

    fn add_segment(
        &mut self,
        segment: WalSegment,
        is_partial: bool,
        path: PathBuf,
        packing: Packing,
        server: &str,
    ) -> Result<()> {
        let header = header(&path, packing)?;
        if header.system.to_string() != server {
            return Err(refused(
                ErrorKind::Precondition,
                &path,
                format!("is of server {}, not of {server}", header.system),
            )
            .with_state("nothing was changed")
            .with_hint("the archives of two servers must not be mixed: name the right folder, or move what is of the other out of it"));
        }
        if self.segment_bytes == 0 {
            self.segment_bytes = header.segment_bytes;
        }
        if header.segment_bytes != self.segment_bytes {
            let what = format!(
                "is one of segments of {} bytes, others are of {}",
                header.segment_bytes, self.segment_bytes
            );
            return Err(refused(ErrorKind::Precondition, &path, what)
                .with_state("nothing was changed")
                .with_hint("a cluster whose segments changed their length began anew: import what came after that from a folder of its own"));
        }
        let begin = segment.begin(self.segment_bytes);
        let Some(begin) = begin.filter(|begin| *begin == header.position) else {
            return Err(wrong(&path, format!("holds the segment at {}", Lsn(header.position))));
        };
        if header.timeline > segment.timeline {
            return Err(wrong(&path, format!("holds a segment of timeline {}", header.timeline)));
        }
        if packing == Packing::Plain {
            let length = fs::metadata(&path).map_err(|source| unreadable(&path, source))?.len();
            check_length(&path, length, self.segment_bytes)?;
        }
        let found = ArchivedSegment { segment, begin, is_partial, path, packing };
        let place = self.segments.entry((segment.timeline, begin)).or_insert_with(|| found.clone());
        if (found.is_partial, found.packing) < (place.is_partial, place.packing) {
            *place = found;
        }
        Ok(())
    }

    fn add_history(&mut self, timeline: u32, path: &Path, packing: Packing) -> Result<()> {
        let text = text(path, packing)?;
        let lineage = Lineage::read(timeline, text.as_bytes())
            .map_err(|error| wrong(path, format!("is no history: {error}")))?;
        if timeline == 1 || lineage.ancestors().is_empty() {
            return Err(wrong(path, "names no timeline that leads to it"));
        }
        self.histories.insert(timeline, (text, lineage));
        Ok(())
    }

    fn add_label(&mut self, file: String, timeline: u32, path: &Path, packing: Packing) -> Result<()> {
        let text = text(path, packing)?;
        let position = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<Lsn>().ok()
        };
        let range = position("START WAL LOCATION: ").zip(position("STOP WAL LOCATION: "));
        let (begin, end) = range.ok_or_else(|| wrong(path, "is no label of a backup"))?;
        self.labels.push(Label { file, timeline, begin, end });
        Ok(())
    }
}

fn wrong(path: &Path, what: impl std::fmt::Display) -> Error {
    refused(ErrorKind::Corrupt, path, what).with_state("nothing was changed").with_hint(
        "move it out of the folder to import the others; what it was to hold is told as a gap then",
    )
}

fn check_length(path: &Path, length: u64, segment_bytes: u64) -> Result<()> {
    if length == segment_bytes {
        return Ok(());
    }
    let how = if length < segment_bytes { "only " } else { "" };
    Err(refused(ErrorKind::Corrupt, path, format!("has {how}{length} bytes, not {segment_bytes}"))
        .with_state("nothing was changed")
        .with_hint("a file that is being copied is whole soon: run the command again; one that is not whole is of no use: move it out of the folder"))
}

/// The names of the folder's regular files, sorted.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = fs::read_dir(folder).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::new(ErrorKind::NotFound, format!("{} is no folder", folder.display()))
                .with_state("nothing was changed")
                .with_hint("name the folder that `archive_command` copies to, as this machine sees it")
        }
        _ => unreadable(folder, source),
    })?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| unreadable(folder, source))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        // A pipe would be waited for.
        if fs::metadata(&path).is_ok_and(|found| found.is_file()) {
            files.push((name, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn open(path: &Path, packing: Packing) -> io::Result<Box<dyn Read>> {
    let file = BufReader::new(File::open(path)?);
    Ok(match packing {
        Packing::Plain => Box::new(file),
        Packing::Gzip => Box::new(gzip::Decoder::new(file)),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
    })
}

/// At most `bytes_max` of the file's plain bytes.
fn plain(path: &Path, packing: Packing, bytes_max: u64) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let read = open(path, packing).and_then(|file| file.take(bytes_max).read_to_end(&mut plain));
    match read {
        Ok(_) => Ok(plain),
        // What cannot be unpacked is damaged; what cannot be read at all is not known to be.
        Err(source) if packing != Packing::Plain && source.raw_os_error().is_none() => {
            Err(wrong(path, format!("cannot be unpacked: {source}")).with_source(source))
        }
        Err(source) => Err(unreadable(path, source)),
    }
}

fn header(path: &Path, packing: Packing) -> Result<SegmentHeader> {
    let front = plain(path, packing, FIRST_PAGE_BYTES as u64)?;
    SegmentHeader::read(&front).map_err(|what| wrong(path, format!("is no segment of WAL: {what}")))
}

fn text(path: &Path, packing: Packing) -> Result<String> {
    let bytes = plain(path, packing, TEXT_BYTES_MAX + 1)?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        return Err(wrong(path, format!("has more than {TEXT_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| wrong(path, "is no text"))
}

impl ArchivedSegment {
    /// Its plain bytes, all of them.
    ///
    /// # Errors
    /// `Corrupt` when it cannot be unpacked or has another length; `Storage` when it cannot be read.
    pub(super) fn read(&self, segment_bytes: u64) -> Result<Bytes> {
        let plain = plain(&self.path, self.packing, segment_bytes + 1)?;
        check_length(&self.path, plain.len() as u64, segment_bytes)?;
        Ok(plain.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_a_file_of_an_archive_is() {
        let told = |name: &str| {
            Named::parse(name).map(|named| match named {
                Named::Segment { segment, is_partial } => format!("{segment} {is_partial}"),
                Named::History { timeline } => format!("history {timeline}"),
                Named::Label { timeline } => format!("label {timeline}"),
            })
        };
        let cases = [
            ("000000010000000000000005", Some("000000010000000000000005 false")),
            ("000000010000000000000005.partial", Some("000000010000000000000005 true")),
            ("00000002.history", Some("history 2")),
            ("000000010000000000000002.00000028.backup", Some("label 1")),
            ("000000010000000000000002.0000028.backup", None),
            ("00000002.history.partial", None),
            ("archive_status", None),
            ("000000010000000000000005.tmp", None),
        ];
        for (name, expected) in cases {
            assert_eq!(told(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn what_is_packed_in_a_way_that_is_not_read_is_told_from_what_is_of_no_matter() {
        let cases = [
            ("000000010000000000000005.lz4", true),
            ("000000010000000000000005.partial.xz", true),
            ("000000010000000000000005.lz4.partial", true),
            ("000000010000000000000005.gz.partial", true),
            ("000000010000000000000005.zst.partial", true),
            ("00000002.history.bz2", true),
            ("000000010000000000000005", false),
            ("000000010000000000000005.partial", false),
            ("notes.gz.partial", false),
            ("notes.lz4", false),
        ];
        for (name, expected) in cases {
            assert_eq!(is_packed_otherwise(name), expected, "{name}");
        }
    }
}
