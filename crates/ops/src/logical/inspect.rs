//! Reading a logical set back and judging it: what verification and restore share.
//!
//! The repository checks lengths, hashes, decryption and decompression; here the table of contents is read again and compared with what the set
//! says of it. Records nothing.

use mainstay_model::Result;
use mainstay_model::progress::Observer;
use mainstay_repository::{Inspector, ObjectEntry, Repository, Set, VerifyReport};

use super::LogicalSetContents;
use super::contents::TocSeeker;
use crate::contents::unlisted;

/// Reads every object of `set` back and judges it.
///
/// # Errors
/// As the repository's verification. Damage is not an error but a critical finding in the report.
pub(crate) async fn inspect(
    repository: &Repository,
    set: &Set,
    observer: &dyn Observer,
) -> Result<VerifyReport> {
    let contents: LogicalSetContents = set.contents()?;
    let entries = contents.logical.entries;
    let inspector = |entry: &ObjectEntry| -> Option<Box<dyn Inspector>> {
        let is_dump = entry.name == contents.logical.object;
        is_dump.then(|| Box::new(DumpInspector { entries, seeker: TocSeeker::new() }) as Box<dyn Inspector>)
    };
    let mut report = repository.verify(set, &inspector, 1, observer).await?;
    report.findings.splice(0..0, unlisted(set, [&contents.logical.object]));
    Ok(report)
}

/// Checks a dump while it is read.
struct DumpInspector {
    /// How many the set says it holds.
    entries: u64,
    seeker: TocSeeker,
}

impl Inspector for DumpInspector {
    fn bytes(&mut self, plain: &[u8]) {
        self.seeker.bytes(plain);
    }

    fn end(self: Box<Self>) -> Vec<String> {
        match self.seeker.end() {
            Ok(toc) if toc.entries.len() as u64 == self.entries => Vec::new(),
            Ok(toc) => vec![format!("it holds {} entries, the set says {}", toc.entries.len(), self.entries)],
            Err(fault) => vec![fault],
        }
    }
}
