//! Reading such a set back: the repository checks lengths, hashes, decryption and decompression; here the base is walked again, the commands are cut
//! again, and what is found is compared with the manifest. Records nothing.

use std::sync::Arc;

use mainstay_model::progress::Observer;
use mainstay_model::{Count, Result};
use mainstay_rdb::manifest::LogManifest;
use mainstay_repository::{Inspector, ObjectEntry, Repository, Set, VerifyReport};

use super::contents::{AppendOnlyFile, AppendOnlySetContents};
use super::judge::{FileJudge, check_end};
use crate::contents::unlisted;
use crate::keyfile::judge::Unknown;

/// Reads the files of `set` back and judges them.
///
/// # Errors
/// As the repository's verification; `Unsupported` when every byte is as it was stored, and this version does not know what they hold. Damage
/// is not an error but a critical finding in the report.
pub(crate) async fn inspect(
    repository: &Repository,
    set: &Set,
    observer: &dyn Observer,
) -> Result<VerifyReport> {
    let contents: Arc<AppendOnlySetContents> = Arc::new(set.contents()?);
    let unknown = Unknown::default();
    let inspector = |entry: &ObjectEntry| -> Option<Box<dyn Inspector>> {
        let record = &contents.append_only;
        if entry.name == record.object {
            return Some(Box::new(ListInspector { contents: Arc::clone(&contents), text: Vec::new() }));
        }
        let index = record.files.iter().position(|file| file.object == entry.name)?;
        let judge = FileJudge::begin(record.files[index].form);
        let (contents, unknown) = (Arc::clone(&contents), unknown.clone());
        Some(Box::new(FileInspector { contents, unknown, index, judge }))
    };
    let mut report = repository.verify(set, &inspector, 1, observer).await?;
    let record = &contents.append_only;
    let needed = record.files.iter().map(|file| &file.object).chain([&record.object]);
    report.findings.splice(0..0, unlisted(set, needed));
    unknown.verdict(report)
}

struct FileInspector {
    contents: Arc<AppendOnlySetContents>,
    unknown: Unknown,
    index: usize,
    /// A file that could not be judged is not sound.
    judge: Result<FileJudge>,
}

impl Inspector for FileInspector {
    fn bytes(&mut self, plain: &[u8]) {
        if let Ok(judge) = &mut self.judge {
            judge.bytes_blocking(plain);
        }
    }

    fn end(self: Box<Self>) -> Vec<String> {
        let files = &self.contents.append_only.files;
        let (file, is_last) = (&files[self.index], self.index + 1 == files.len());
        let found = match self.unknown.sift(self.judge.and_then(FileJudge::end)) {
            Ok(found) => found,
            Err(faults) => return faults,
        };
        if let Err(fault) = check_end(&found, is_last) {
            return vec![fault];
        }
        let seen = AppendOnlyFile {
            bytes: found.bytes,
            torn_bytes: found.torn_bytes,
            databases: found.databases,
            commands: found.commands,
            ..file.clone()
        };
        match seen == *file {
            true => Vec::new(),
            false => vec![format!(
                "the file holds {} keys and {} commands in {} bytes; the manifest says otherwise",
                Count(seen.databases.iter().map(|size| size.keys).fold(0, u64::saturating_add)),
                Count(seen.commands),
                Count(seen.bytes)
            )],
        }
    }
}

struct ListInspector {
    contents: Arc<AppendOnlySetContents>,
    text: Vec<u8>,
}

impl Inspector for ListInspector {
    fn bytes(&mut self, plain: &[u8]) {
        let room = LogManifest::BYTES_MAX.saturating_sub(self.text.len());
        self.text.extend_from_slice(&plain[..plain.len().min(room)]);
    }

    fn end(self: Box<Self>) -> Vec<String> {
        let list = match LogManifest::parse(&self.text) {
            Ok(list) => list,
            Err(fault) => return vec![fault.to_string()],
        };
        let held = self.contents.append_only.files.iter().map(|file| file.name.as_str());
        match list.current().map(|file| file.name.as_str()).eq(held) {
            true => Vec::new(),
            false => vec!["it names other files than the set holds".to_owned()],
        }
    }
}
