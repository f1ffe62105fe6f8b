//! Reading such a set back: the repository checks lengths, hashes, decryption and decompression; here the file is walked again, its checksum
//! included, and its keys are counted. Records nothing.

use std::sync::Arc;

use bytes::Bytes;
use mainstay_engine::KeyspaceSize;
use mainstay_model::progress::Observer;
use mainstay_model::{Count, Result};
use mainstay_repository::{Inspector, ObjectEntry, Repository, Set, VerifyReport};

use super::KeyFileSetContents;
use super::judge::{Judge, Seen, Unknown};
use crate::contents::unlisted;

/// Reads the file of `set` back and judges it.
///
/// # Errors
/// As the repository's verification; `Unsupported` when every byte is as it was stored, and this version does not know what they hold. Damage
/// is not an error but a critical finding in the report.
pub(crate) async fn inspect(
    repository: &Repository,
    set: &Set,
    observer: &dyn Observer,
) -> Result<VerifyReport> {
    let contents: Arc<KeyFileSetContents> = Arc::new(set.contents()?);
    let unknown = Unknown::default();
    let inspector = |entry: &ObjectEntry| -> Option<Box<dyn Inspector>> {
        let judge = (entry.name == contents.file).then(Judge::begin)?;
        let (contents, unknown) = (Arc::clone(&contents), unknown.clone());
        Some(Box::new(FileInspector { contents, unknown, judge }))
    };
    let mut report = repository.verify(set, &inspector, 1, observer).await?;
    report.findings.splice(0..0, unlisted(set, [&contents.file]));
    unknown.verdict(report)
}

struct FileInspector {
    contents: Arc<KeyFileSetContents>,
    unknown: Unknown,
    /// A file that could not be judged is not sound.
    judge: Result<Judge>,
}

impl Inspector for FileInspector {
    fn bytes(&mut self, plain: &[u8]) {
        if let Ok(judge) = &self.judge {
            judge.bytes_blocking(Bytes::copy_from_slice(plain));
        }
    }

    fn end(self: Box<Self>) -> Vec<String> {
        match self.unknown.sift(self.judge.and_then(Judge::end)) {
            Ok(seen) => differences(&self.contents, &seen),
            Err(faults) => faults,
        }
    }
}

/// What the file has otherwise than the manifest says.
fn differences(contents: &KeyFileSetContents, seen: &Seen) -> Vec<String> {
    let keys = |databases: &[KeyspaceSize]| -> u64 {
        databases.iter().map(|size| size.keys).fold(0, u64::saturating_add)
    };
    let mut differences = Vec::new();
    if contents.databases != seen.databases {
        differences.push(format!(
            "the file holds {} keys in {} databases, the manifest says {} in {}",
            Count(keys(&seen.databases)),
            seen.databases.len(),
            Count(keys(&contents.databases)),
            contents.databases.len()
        ));
    }
    if (contents.version, &contents.replication) != (seen.version, &seen.replication) {
        differences.push("the file is not the one that the manifest describes".to_owned());
    }
    differences
}
