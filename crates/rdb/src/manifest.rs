//! The list of files that an append-only file is made of (`appendonly.aof.manifest`): read, and written again without its history.
//!
//! A line names a file with its number and its type: the base, which holds everything as it was once; the increments, with the commands since, in
//! order; and the history, which is of no use any more and about to be removed. Relies on nothing but the text. Refuses what the server would
//! refuse: a second base, increments out of order, a name that leads elsewhere. Source: Redis source, `aof.c`, Redis 7 to 8.

/// A text that is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} {what}")]
pub struct ManifestFault {
    /// The line, counted from 1.
    pub line: usize,
    what: &'static str,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFileKind {
    /// Everything as it was once.
    Base,
    /// Commands since, or since the increment before.
    Increment,
    /// Of no use any more.
    History,
}

/// A file of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// Its name in the manifest's own folder.
    pub name: String,
    /// What it is.
    pub kind: LogFileKind,
    /// Its number among its kind.
    pub sequence: u64,
    line: String,
}

/// The list of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogManifest {
    files: Vec<LogFile>,
}

impl LogManifest {
    /// The longest manifest that is read. The server's own are a few lines.
    pub const BYTES_MAX: usize = 1024 * 1024;

    /// Reads a manifest.
    ///
    /// # Errors
    /// The first line that is none.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestFault> {
        let fault = |line, what| ManifestFault { line, what };
        if text.len() > Self::BYTES_MAX {
            return Err(fault(1, "belongs to a text that is too long"));
        }
        let text = std::str::from_utf8(text).map_err(|_| fault(1, "belongs to a text that is not UTF-8"))?;
        let mut files: Vec<LogFile> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_end_matches('\r');
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let file = entry(line).map_err(|what| fault(number, what))?;
            let mut of_kind = files.iter().filter(|other| other.kind == file.kind);
            match file.kind {
                LogFileKind::Base if of_kind.next().is_some() => {
                    return Err(fault(number, "names a second base"));
                }
                LogFileKind::Increment if of_kind.any(|other| other.sequence >= file.sequence) => {
                    return Err(fault(number, "names an increment out of order"));
                }
                _ => {}
            }
            files.push(file);
        }
        Ok(Self { files })
    }

    /// The base, where there is one, and the increments: in the order in which a server reads them.
    pub fn current(&self) -> impl Iterator<Item = &LogFile> {
        let of = |kind| self.files.iter().filter(move |file| file.kind == kind);
        of(LogFileKind::Base).chain(of(LogFileKind::Increment))
    }

    /// The same as a manifest, each line as it was read.
    pub fn text(&self) -> String {
        self.current().map(|file| format!("{}\n", file.line)).collect()
    }
}

fn entry(line: &str) -> Result<LogFile, &'static str> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    if !words.len().is_multiple_of(2) {
        return Err("has a name without a value");
    }
    let value = |name: &str| words.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
    let name = value("file").ok_or("names no file")?;
    let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\\\"'".contains(&byte));
    if !is_plain || name.starts_with('.') {
        return Err("names a file that may lie elsewhere");
    }
    let sequence = value("seq").and_then(|text| text.parse().ok()).ok_or("has no number")?;
    let kind = match value("type") {
        Some("b") => LogFileKind::Base,
        Some("i") => LogFileKind::Increment,
        Some("h") => LogFileKind::History,
        _ => return Err("has no type"),
    };
    Ok(LogFile { name: name.to_owned(), kind, sequence, line: line.to_owned() })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_and_written_without_its_history() {
        let text = b"file a.aof.1.base.rdb seq 1 type h\nfile a.aof.2.base.rdb seq 2 type b\r\n# a word\n\
            file a.aof.1.incr.aof seq 1 type h\nfile a.aof.2.incr.aof seq 2 type i startoffset 17\n\
            file a.aof.3.incr.aof seq 3 type i startoffset 40\n";
        let manifest = LogManifest::parse(text).unwrap();
        let names: Vec<&str> = manifest.current().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a.aof.2.base.rdb", "a.aof.2.incr.aof", "a.aof.3.incr.aof"]);
        let again = LogManifest::parse(manifest.text().as_bytes()).unwrap();
        assert!(again.current().eq(manifest.current()));
        assert!(manifest.text().contains("startoffset 17") && !manifest.text().contains("type h"));
        assert_eq!(LogManifest::parse(b"").unwrap().current().count(), 0);
    }

    #[test]
    fn what_a_server_would_refuse_is_refused() {
        let twice = "file a seq 1 type b\nfile b seq 2 type b";
        let order = "file a seq 2 type i\nfile b seq 2 type i";
        let cases = [
            (twice, 2, "second base"),
            (order, 2, "out of order"),
            ("file a seq 1 type", 1, "without a value"),
            ("seq 1 type b", 1, "names no file"),
            ("file a seq x type b", 1, "no number"),
            ("file a seq 1 type x", 1, "no type"),
            ("file ../a seq 1 type b", 1, "elsewhere"),
            ("file .a seq 1 type b", 1, "elsewhere"),
            ("file \"a\" seq 1 type b", 1, "elsewhere"),
        ];
        for (text, line, what) in cases {
            let fault = LogManifest::parse(text.as_bytes()).unwrap_err();
            assert_eq!(fault.line, line, "{text}");
            assert!(fault.to_string().contains(what), "{text}: {fault}");
        }
        assert!(LogManifest::parse(&[0xFF]).is_err());
    }
}
