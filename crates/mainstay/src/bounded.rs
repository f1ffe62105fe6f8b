//! Files that people name, read up to a bound: what is no regular file tells no length beforehand, and a device has no end.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The bytes of the file at `path`; `None` when it has more than `bytes_max`. Never reads more than one byte beyond that.
///
/// # Errors
/// The system's.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= bytes_max).then_some(bytes))
}

/// The same of a file of text.
///
/// # Errors
/// The system's; `InvalidData` when it is no UTF-8.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> io::Result<Option<String>> {
    let text = |bytes| {
        String::from_utf8(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
    };
    read(path, bytes_max)?.map(text).transpose()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "four").unwrap();
        assert_eq!(read_text(&file, 4).unwrap().as_deref(), Some("four"));
        assert_eq!(read(&file, 3).unwrap(), None);
        assert_eq!(
            read(Path::new("/dev/zero"), 1_000).unwrap(),
            None,
            "it tells a length of 0 and has no end"
        );
        std::fs::write(&file, [0xff]).unwrap();
        assert_eq!(read_text(&file, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(read(&folder.path().join("absent"), 4).is_err());
    }
}
