//! The server's manifest: what it read, file by file.
//!
//! JSON whose last member is the SHA-256 of all lines before it. Source: manual (18), "Backup Manifest Format"; versions 1 (PostgreSQL 13 to 16)
//! and 2. Files of WAL are in no manifest; which WAL is needed is.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use sha2::{Digest as _, Sha256};

use crate::judge::SeenFile;
use crate::wal::WalRange;

/// The largest manifest that is read: more than a million files.
pub const MANIFEST_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How many differences are told.
const DIFFERENCE_COUNT_MAX: usize = 20;
/// How the member that closes a manifest begins.
const SEAL: &[u8] = b"\"Manifest-Checksum\"";
/// What is below it is of WAL.
const WAL_FOLDER: &str = "pg_wal/";

/// A manifest that cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not of the form.
    #[error("the manifest cannot be read: {0}")]
    Syntax(#[from] serde_json::Error),
    /// It has a form that is not known.
    #[error("the manifest has version {0}, which is not known")]
    Version(u64),
    /// Its own checksum is missing or wrong.
    #[error("the manifest's own checksum is {0}")]
    Seal(&'static str),
    /// A number or checksum in it is none.
    #[error("the manifest says {what} of {path}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// How a file is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// CRC-32C.
    Crc32c,
    /// SHA-256.
    Sha256,
}

/// What is known of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSum {
    /// Its size.
    pub size: u64,
    /// Its checksum.
    pub checksum: Checksum,
}

/// A file's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-32C.
    Crc32c(u32),
    /// SHA-256.
    Sha256([u8; 32]),
}

/// What the server read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The cluster's identifier, where the manifest has one (from version 2 on).
    pub system_identifier: Option<u64>,
    /// WAL that the files need.
    pub wal: Vec<WalRange>,
    files: HashMap<String, FileSum>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u64,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    files: Files,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<RangeForm>,
}

#[derive(Deserialize)]
struct FileForm {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Last-Modified")]
    last_modified: Option<String>,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct RangeForm {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    begin: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

/// The files, kept in their short form as they are read.
struct Files(HashMap<String, FileSum>);

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Files;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of files")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut files: A) -> Result<Files, A::Error> {
                let mut kept = HashMap::new();
                while let Some(file) = files.next_element::<FileForm>()? {
                    let (path, sum) = file.kept().map_err(serde::de::Error::custom)?;
                    if kept.insert(path, sum).is_some() {
                        return Err(serde::de::Error::custom("a file is named twice"));
                    }
                }
                Ok(Files(kept))
            }
        }

        deserializer.deserialize_seq(Reader)
    }
}

impl FileForm {
    fn kept(self) -> Result<(String, FileSum), ManifestError> {
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path,
            (None, Some(encoded)) => format!("\\x{encoded}"),
            _ => String::new(),
        };
        let refused = |path: &str, what| ManifestError::File { path: path.to_owned(), what };
        let digits = self.checksum.as_deref().and_then(from_hex).unwrap_or_default();
        let checksum = match self.algorithm.as_deref() {
            Some("CRC32C") => digits.try_into().ok().map(u32::from_le_bytes).map(Checksum::Crc32c),
            Some("SHA256") => digits.try_into().ok().map(Checksum::Sha256),
            _ => return Err(refused(&path, "no checksum that is known")),
        };
        match checksum {
            Some(checksum) => Ok((path, FileSum { size: self.size, checksum })),
            None => Err(refused(&path, "a checksum that is none")),
        }
    }
}

impl Manifest {
    /// Reads a manifest and checks its own checksum.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, ManifestError> {
        check_seal(bytes)?;
        Self::read_unsealed(bytes)
    }

    /// As [`Manifest::read`], whatever its own checksum says.
    pub(crate) fn read_unsealed(bytes: &[u8]) -> Result<Self, ManifestError> {
        let form: Form = serde_json::from_slice(bytes)?;
        if !(1..=2).contains(&form.version) {
            return Err(ManifestError::Version(form.version));
        }
        let range = |range: &RangeForm| {
            let bad = || ManifestError::File { path: "WAL".to_owned(), what: "a position that is none" };
            let begin = position(&range.begin).ok_or_else(bad)?;
            let end = position(&range.end).ok_or_else(bad)?;
            Ok(WalRange { timeline: range.timeline, begin, end })
        };
        let wal = form.wal_ranges.iter().map(range).collect::<Result<_, ManifestError>>()?;
        Ok(Self { system_identifier: form.system_identifier, wal, files: form.files.0 })
    }

    /// The files, in no order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// How many files it names.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// What it says of a file.
    pub fn file(&self, path: &str) -> Option<&FileSum> {
        self.files.get(path)
    }

    /// What is wrong with the files that were `seen` in the archive of the tablespace `place`, or of the data directory; one line each, not
    /// more than a screenful. `places` are all tablespaces with an archive of their own.
    pub fn differences(&self, place: Option<u32>, places: &[u32], seen: &[SeenFile]) -> Vec<String> {
        let mut told = Told::default();
        let mut found = HashSet::with_capacity(seen.len());
        for file in seen.iter().filter(|file| !is_unlisted(&file.path)) {
            match self.files.get(&file.path) {
                None => told.tell(|| format!("{} is not in the server's manifest", file.path)),
                Some(sum) if sum.size != file.sum.size => told.tell(|| {
                    format!("{} has {} bytes, the server read {}", file.path, file.sum.size, sum.size)
                }),
                Some(sum) if sum.checksum != file.sum.checksum => {
                    told.tell(|| format!("{} is not what the server read: its checksum differs", file.path));
                }
                Some(_) => {}
            }
            if !found.insert(file.path.as_str()) {
                told.tell(|| format!("{} is there twice", file.path));
            }
        }
        for path in self.files.keys().filter(|path| place_of(path, places) == place && !is_unlisted(path)) {
            if !found.contains(path.as_str()) {
                told.tell(|| format!("{path} is missing"));
            }
        }
        told.lines()
    }

    /// Which files of WAL the backup needs and `seen` lacks, with segments of `segment_bytes`; one line each, not more than a screenful.
    pub fn missing_wal(&self, segment_bytes: u64, seen: &[SeenFile]) -> Vec<String> {
        let whole = |file: &&SeenFile| file.sum.size == segment_bytes;
        let found: HashSet<&str> =
            seen.iter().filter(whole).filter_map(|file| file.path.strip_prefix(WAL_FOLDER)).collect();
        let mut told = Told::default();
        if self.wal.is_empty() {
            told.tell(|| "the manifest names no WAL that the files need".to_owned());
        }
        for range in &self.wal {
            match range.files(segment_bytes) {
                None => told.tell(|| "the manifest names WAL that no backup needs".to_owned()),
                Some(files) => {
                    for file in files.filter(|file| !found.contains(file.as_str())) {
                        told.tell(|| format!("{WAL_FOLDER}{file}, which recovery needs, is missing or cut"));
                    }
                }
            }
        }
        told.lines()
    }
}

/// The manifest of files that were put together: the `server`'s, in which each file that `replaced` names is another one.
///
/// # Errors
/// As [`Manifest::read`].
pub fn combined_manifest(
    server: &[u8],
    replaced: &HashMap<String, SeenFile>,
) -> Result<Vec<u8>, ManifestError> {
    check_seal(server)?;
    let form: ListedForm = serde_json::from_slice(server)?;
    let mut text = format!("{{ \"PostgreSQL-Backup-Manifest-Version\": {},\n", form.version);
    if let Some(identifier) = form.system_identifier {
        text.push_str(&format!("\"System-Identifier\": {identifier},\n"));
    }
    text.push_str("\"Files\": [");
    for (index, file) in form.files.iter().enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        text.push_str(&file.line(file.path.as_ref().and_then(|path| replaced.get(path)))?);
    }
    text.push_str("\n],\n\"WAL-Ranges\": [");
    for (index, range) in form.wal_ranges.iter().enumerate() {
        let RangeForm { timeline, begin, end } = range;
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        text.push_str(&format!(
            "{{ \"Timeline\": {timeline}, \"Start-LSN\": {}, \"End-LSN\": {} }}",
            serde_json::to_string(begin)?,
            serde_json::to_string(end)?
        ));
    }
    text.push_str("\n],\n");
    let seal = to_hex(&Sha256::digest(text.as_bytes()));
    text.push_str(&format!("\"Manifest-Checksum\": \"{seal}\"}}\n"));
    Ok(text.into_bytes())
}

/// A manifest as it is, for writing it again.
#[derive(Deserialize)]
struct ListedForm {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u64,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    #[serde(rename = "Files")]
    files: Vec<FileForm>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<RangeForm>,
}

impl FileForm {
    /// The line of the file, or of the one that takes its place.
    fn line(&self, instead: Option<&SeenFile>) -> Result<String, ManifestError> {
        let text = |text: &str| serde_json::to_string(text);
        let (name, size, algorithm, checksum) = match instead {
            Some(SeenFile { path, sum }) => {
                let (algorithm, checksum) = match sum.checksum {
                    Checksum::Crc32c(crc) => ("CRC32C", to_hex(&crc.to_le_bytes())),
                    Checksum::Sha256(digest) => ("SHA256", to_hex(&digest)),
                };
                (format!("\"Path\": {}", text(path)?), sum.size, algorithm.to_owned(), checksum)
            }
            None => {
                let name = match (&self.path, &self.encoded_path) {
                    (Some(path), _) => format!("\"Path\": {}", text(path)?),
                    (None, encoded) => {
                        format!("\"Encoded-Path\": {}", text(encoded.as_deref().unwrap_or_default())?)
                    }
                };
                let algorithm = self.algorithm.clone().unwrap_or_default();
                (name, self.size, algorithm, self.checksum.clone().unwrap_or_default())
            }
        };
        let modified = match &self.last_modified {
            Some(at) => format!(", \"Last-Modified\": {}", text(at)?),
            None => String::new(),
        };
        Ok(format!(
            "{{ {name}, \"Size\": {size}{modified}, \"Checksum-Algorithm\": {}, \"Checksum\": {} }}",
            text(&algorithm)?,
            text(&checksum)?
        ))
    }
}

/// Lines for people, bounded.
#[derive(Default)]
struct Told {
    lines: Vec<String>,
    more: usize,
}

impl Told {
    fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.lines.len() < DIFFERENCE_COUNT_MAX {
            self.lines.push(line());
        } else {
            self.more += 1;
        }
    }

    fn lines(mut self) -> Vec<String> {
        self.lines.sort();
        if self.more > 0 {
            self.lines.push(format!("and {} more", self.more));
        }
        self.lines
    }
}

/// What lies in an archive and in no manifest: WAL has its own place in it.
fn is_unlisted(path: &str) -> bool {
    path.starts_with(WAL_FOLDER)
}

/// Which archive holds the file.
fn place_of(path: &str, places: &[u32]) -> Option<u32> {
    let (oid, _) = path.strip_prefix("pg_tblspc/")?.split_once('/')?;
    oid.parse().ok().filter(|oid| places.contains(oid))
}

/// The manifest ends in `"Manifest-Checksum": "<hex>"}`; what is summed up are all bytes before that line.
fn check_seal(bytes: &[u8]) -> Result<(), ManifestError> {
    let found = bytes.windows(SEAL.len()).rposition(|window| window == SEAL);
    let at = found.ok_or(ManifestError::Seal("missing"))?;
    let rest = std::str::from_utf8(&bytes[at + SEAL.len()..]).map_err(|_| ManifestError::Seal("not text"))?;
    let claimed = rest.split('"').nth(1).and_then(from_hex).ok_or(ManifestError::Seal("not a checksum"))?;
    if claimed == Sha256::digest(&bytes[..at]).as_slice() {
        Ok(())
    } else {
        Err(ManifestError::Seal("wrong"))
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pair = |pair: &[u8]| {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()
    };
    digits.len().is_multiple_of(2).then(|| digits.chunks_exact(2).map(pair).collect())?
}

/// A position as the server writes it.
pub(crate) fn position(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let half = |digits: &str| u32::from_str_radix(digits, 16).ok().map(u64::from);
    Some(half(high)? << 32 | half(low)?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod tests {
    use super::*;

    /// A manifest of these files, sealed.
    pub(crate) fn manifest(files: &[(&str, u64, &str, &str)]) -> Vec<u8> {
        let files: Vec<String> = files
            .iter()
            .map(|(path, size, algorithm, checksum)| {
                format!("{{ \"Path\": \"{path}\", \"Size\": {size}, \"Last-Modified\": \"2026-11-25 10:00:00 GMT\", \"Checksum-Algorithm\": \"{algorithm}\", \"Checksum\": \"{checksum}\" }}")
            })
            .collect();
        let text = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7,\n\"Files\": [\n{}\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000120\" }}\n],\n",
            files.join(",\n")
        );
        let seal: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{text}\"Manifest-Checksum\": \"{seal}\"}}\n").into_bytes()
    }

    fn seen(path: &str, size: u64, crc: u32) -> SeenFile {
        SeenFile { path: path.to_owned(), sum: FileSum { size, checksum: Checksum::Crc32c(crc) } }
    }

    #[test]
    fn every_difference_is_told() {
        let bytes = manifest(&[
            ("global/pg_control", 8192, "CRC32C", "01000000"),
            ("base/5/1", 10, "CRC32C", "02000000"),
            ("pg_tblspc/9/PG_18/5/2", 10, "CRC32C", "03000000"),
            ("pg_tblspc/8/PG_18/5/2", 10, "CRC32C", "03000000"),
        ]);
        let manifest = Manifest::read(&bytes).unwrap();
        assert_eq!((manifest.system_identifier, manifest.file_count()), (Some(7), 4));
        let places = [9];
        let inside = seen("pg_tblspc/8/PG_18/5/2", 10, 3);
        let whole =
            [seen("global/pg_control", 8192, 1), seen("base/5/1", 10, 2), inside, seen("pg_wal/x", 1, 1)];
        assert_eq!(manifest.differences(None, &places, &whole), [""; 0]);
        assert_eq!(manifest.differences(Some(9), &places, &[seen("pg_tblspc/9/PG_18/5/2", 10, 3)]), [""; 0]);
        let damaged = [seen("base/5/1", 10, 9), seen("base/5/1", 9, 2), seen("extra", 1, 1)];
        assert_eq!(
            manifest.differences(None, &places, &damaged),
            [
                "base/5/1 has 9 bytes, the server read 10",
                "base/5/1 is not what the server read: its checksum differs",
                "base/5/1 is there twice",
                "extra is not in the server's manifest",
                "global/pg_control is missing",
                "pg_tblspc/8/PG_18/5/2 is missing",
            ]
        );
        let many: Vec<SeenFile> = (0..100).map(|number| seen(&format!("extra{number}"), 1, 1)).collect();
        let told = manifest.differences(Some(9), &places, &many);
        assert_eq!((told.len(), told.last().unwrap().as_str()), (21, "and 81 more"));
    }

    #[test]
    fn a_combined_manifest_names_what_was_put_together() {
        let server = manifest(&[
            ("base/5/INCREMENTAL.1", 100, "CRC32C", "01000000"),
            ("quoted \\\"name\\\"", 10, "CRC32C", "0200000a"),
        ]);
        let replaced = HashMap::from([("base/5/INCREMENTAL.1".to_owned(), seen("base/5/1", 8192, 0x0A01))]);
        let bytes = combined_manifest(&server, &replaced).unwrap();
        let read = Manifest::read(&bytes).unwrap();
        assert_eq!((read.file_count(), read.system_identifier), (2, Some(7)));
        assert_eq!(read.file("base/5/1"), Some(&seen("", 8192, 0x0A01).sum));
        assert_eq!(read.wal, Manifest::read(&server).unwrap().wal);
        assert_eq!(combined_manifest(&server, &HashMap::new()).unwrap(), server, "nothing put together");
        assert!(combined_manifest(&server[1..], &replaced).is_err());
    }

    #[test]
    fn wal_that_is_needed_must_be_there_whole() {
        let manifest = Manifest::read(&manifest(&[])).unwrap();
        let name = "pg_wal/000000010000000000000002";
        assert_eq!(manifest.missing_wal(16 << 20, &[seen(name, 16 << 20, 0)]), [""; 0]);
        for lacking in [vec![], vec![seen(name, 5, 0)], vec![seen("000000010000000000000002", 16 << 20, 0)]] {
            assert_eq!(manifest.missing_wal(16 << 20, &lacking).len(), 1);
        }
    }

    #[test]
    fn a_changed_byte_is_found() {
        let bytes = manifest(&[("a", 1, "SHA256", &"0f".repeat(32))]);
        assert!(Manifest::read(&bytes).is_ok());
        for at in 0..bytes.len() - 3 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(Manifest::read(&damaged).is_err(), "byte {at}");
        }
        for (algorithm, checksum) in [("CRC32C", "00"), ("NONE", ""), ("SHA256", "zz")] {
            assert!(Manifest::read(&manifest(&[("a", 1, algorithm, checksum)])).is_err(), "{algorithm}");
        }
    }
}
