//! What killed writers leave behind: partial files that no listing shows.
//!
//! A local writer writes to `<key>#<n>` and makes the object appear with a rename or a hard link; when it is killed, that file stays.
//! Memory leaves nothing. On S3 an unfinished multipart upload stays in the service, invisible to listings and reads; this crate does not
//! list those: give the bucket a lifecycle rule with `AbortIncompleteMultipartUpload` (`docs/repository-format.md` shows one).

use std::path::{Path, PathBuf};

use mainstay_model::Timestamp;

/// A partial file of a writer that never finished, or of one that is still at work: the two look alike here, so the caller must know from
/// elsewhere (a lease) that nobody writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The name below the store's root, such as `mongo/sets/…/users.bson.zst#1`.
    pub name: String,
    /// Its size so far.
    pub bytes: u64,
    /// When it was last written to.
    pub modified: Timestamp,
}

/// True for the name of a partial file: `#` and digits at its end.
pub(crate) fn is_partial(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(stem, digits)| {
        !stem.is_empty() && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// All partial files below `folder` of `root`, sorted by name. A folder that does not exist holds none.
pub(crate) fn find(root: &Path, folder: &str) -> std::io::Result<Vec<Leftover>> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> = vec![root.join(folder)];
    while let Some(directory) = pending.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() && entry.file_name().to_str().is_some_and(is_partial) {
                found.extend(describe(root, &entry)?);
            }
        }
    }
    found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// `None` when it has vanished meanwhile, as the partial file of a writer that finishes does.
fn describe(root: &Path, entry: &std::fs::DirEntry) -> std::io::Result<Option<Leftover>> {
    let metadata = match entry.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    let path = entry.path();
    let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) else { return Ok(None) };
    let modified = Timestamp::try_from(metadata.modified()?).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok(Some(Leftover { name: name.to_owned(), bytes: metadata.len(), modified }))
}

#[cfg(test)]
mod tests {
    use super::is_partial;

    #[test]
    fn partial_files_are_told_by_their_names() {
        for name in ["a.json#1", "a#22", "a#b#3"] {
            assert!(is_partial(name), "{name}");
        }
        for name in ["a.json", "a#", "#1", "a#1x", "1"] {
            assert!(!is_partial(name), "{name}");
        }
    }
}
