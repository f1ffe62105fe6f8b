//! Documents on their way from a reader to the connections that load them.

use std::path::PathBuf;

use async_trait::async_trait;
use futures::future::try_join_all;
use mainstay_engine::{CollectionKind, DocumentBatch, DocumentDigest};
use mainstay_model::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, mpsc};

use super::directory;
use crate::placement::{Content, Filling, Loaded, Logged};

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
    pub(super) async fn next(&self) -> Result<Option<DocumentBatch>> {
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

    /// Nothing more is taken: the reader need not wait.
    fn close(&self) {
        // Whoever holds the lock is taking, and whoever takes is not done.
        if let Ok(mut fed) = self.fed.try_lock() {
            fed.0.close();
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

/// What a collection of a dump is to become.
pub(super) struct Draft {
    pub(super) kind: CollectionKind,
    pub(super) metadata: String,
    /// What was found when the dump was judged.
    pub(super) digest: Option<DocumentDigest>,
    /// How the dump's oplog goes on from there, if it is replayed.
    pub(super) log: Option<Logged>,
}

impl Draft {
    /// How many connections may load it, out of `count_max`.
    pub(super) fn connections(&self, count_max: usize) -> usize {
        let metadata: serde_json::Value = serde_json::from_str(&self.metadata).unwrap_or_default();
        let capped = metadata.pointer("/options/capped");
        let is_capped = capped.is_some_and(|capped| {
            !matches!(capped, serde_json::Value::Bool(false) | serde_json::Value::Null)
        });
        // A capped collection keeps the order of insertion.
        if is_capped { 1 } else { count_max.max(1) }
    }

    /// The collection with its documents, as the machinery below takes it.
    pub(super) fn content(self, connections: usize, source: Source) -> DumpContent {
        DumpContent { draft: self, connections, source }
    }
}

/// A collection of a dump.
pub(super) struct DumpContent {
    draft: Draft,
    /// How many connections load it.
    connections: usize,
    source: Source,
}

#[async_trait]
impl Content for DumpContent {
    fn kind(&self) -> CollectionKind {
        self.draft.kind
    }

    fn digest(&self) -> Option<DocumentDigest> {
        self.draft.digest
    }

    fn metadata(&self) -> &str {
        &self.draft.metadata
    }

    fn log(&self) -> Option<Logged> {
        self.draft.log.clone()
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
            let mut filler = filling.loader(self.draft.kind).await?;
            if self.draft.log.is_some() {
                filler.set_doubles_aside();
            }
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
        match self.draft.digest {
            Some(judged) if judged != total.1 => Err(Error::new(
                ErrorKind::Corrupt,
                format!("the dump changed while it was read: digest {} instead of {judged}", total.1),
            )),
            _ => {
                total.1 -= total.0.aside;
                Ok(total)
            }
        }
    }

    fn let_go(&self) {
        if let Source::Feed(feed) = &self.source {
            feed.close();
        }
    }
}
