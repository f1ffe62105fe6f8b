//! Documents on their way from a reader to the connections that load them.

use std::path::PathBuf;

use async_trait::async_trait;
use futures::future::try_join_all;
use mainstay_engine::{CollectionKind, DocumentBatch, DocumentDigest};
use mainstay_model::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, mpsc};

use super::directory;
use crate::placement::{Content, Filling, Loaded};

/// What a reader hands on.
pub(super) enum Fed {
    Documents(DocumentBatch),
    /// There are no more, and what was promised of them holds.
    End,
    Failed(Error),
}

/// The documents of one collection. Several connections may take from it.
pub(super) struct Feed {
    fed: Mutex<(mpsc::Receiver<Fed>, bool)>,
}

impl Feed {
    /// A feed and the end that the reader holds.
    pub(super) fn new() -> (mpsc::Sender<Fed>, Self) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Self { fed: Mutex::new((receiver, false)) })
    }

    /// The next batch; `None` at the end that was said in so many words. The lock is held while the reader reads: whoever comes next waits for
    /// the batch behind.
    async fn next(&self) -> Result<Option<DocumentBatch>> {
        let mut fed = self.fed.lock().await;
        let (receiver, ended) = &mut *fed;
        if *ended {
            return Ok(None);
        }
        match receiver.recv().await {
            Some(Fed::Documents(batch)) => Ok(Some(batch)),
            Some(Fed::End) => {
                *ended = true;
                Ok(None)
            }
            Some(Fed::Failed(error)) => Err(error),
            None => Err(Error::new(ErrorKind::Internal, "the reader of the dump ended early")),
        }
    }
}

/// Where a collection's documents come from.
pub(super) enum Source {
    /// They are coming.
    Feed(Feed),
    /// They lie in this file.
    File(PathBuf),
    /// There are none.
    Nothing,
}

/// A collection of a dump.
pub(super) struct DumpContent {
    pub(super) kind: CollectionKind,
    pub(super) metadata: String,
    /// What was found when the dump was judged.
    pub(super) digest: Option<DocumentDigest>,
    /// How many connections load it.
    pub(super) connections: usize,
    pub(super) source: Source,
}

#[async_trait]
impl Content for DumpContent {
    fn kind(&self) -> CollectionKind {
        self.kind
    }

    fn digest(&self) -> Option<DocumentDigest> {
        self.digest
    }

    fn metadata(&self) -> &str {
        &self.metadata
    }

    async fn load(&self, filling: &Filling<'_>) -> Result<(Loaded, DocumentDigest)> {
        let opened;
        let feed = match &self.source {
            Source::Feed(feed) => feed,
            Source::File(path) => {
                opened = directory::feed(path.clone());
                &opened
            }
            Source::Nothing => return Ok((Loaded::default(), DocumentDigest::default())),
        };
        let one = || async {
            let mut filler = filling.loader(self.kind).await?;
            while let Some(batch) = feed.next().await? {
                filler.load(&batch).await?;
            }
            filler.finish().await
        };
        let all = try_join_all((0..self.connections.max(1)).map(|_| one())).await?;
        let mut total = (Loaded::default(), DocumentDigest::default());
        for (loaded, digest) in all {
            total.0.add(loaded);
            total.1 += digest;
        }
        match self.digest {
            Some(judged) if judged != total.1 => Err(Error::new(
                ErrorKind::Corrupt,
                format!("the dump changed while it was read: digest {} instead of {judged}", total.1),
            )),
            _ => Ok(total),
        }
    }
}
