//! A collection of a set, as content to be placed.

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use mainstay_engine::{CollectionKind, DocumentDigest};
use mainstay_model::{Error, ErrorKind, Result};
use mainstay_repository::Set;
use tokio::sync::Semaphore;

use super::wanted::Wanted;
use crate::contents::PartRecord;
use crate::framing::Framer;
use crate::placement::{Content, Filling, Loaded, Logged};

/// The documents that a set holds of one collection, and what the collection must become.
pub(super) struct SetContent<'a> {
    pub(super) set: &'a Set,
    pub(super) wanted: &'a Wanted<'a>,
    /// How many objects may be loaded at the same time, over all collections.
    pub(super) load_slots: &'a Semaphore,
}

#[async_trait]
impl Content for SetContent<'_> {
    fn kind(&self) -> CollectionKind {
        self.wanted.kind
    }

    fn digest(&self) -> Option<DocumentDigest> {
        Some(self.wanted.digest())
    }

    fn metadata(&self) -> &str {
        &self.wanted.metadata
    }

    fn log(&self) -> Option<Logged> {
        let log = self.wanted.log.as_ref().filter(|_| self.wanted.kind != CollectionKind::View)?;
        Some(Logged {
            identity: log.identity.clone(),
            capped: self.wanted.capped,
            holds_through: self.wanted.holds_through(),
            counts: log.counts,
        })
    }

    async fn load(&self, filling: &Filling<'_>) -> Result<(Loaded, DocumentDigest)> {
        let parts = self.wanted.parts();
        // A capped collection keeps the order of insertion: one part after the other.
        let parallel = if self.wanted.capped { 1 } else { parts.len().max(1) };
        let parts: Vec<_> = parts.iter().map(|part| self.load_part(filling, part)).collect();
        stream::iter(parts)
            .buffered(parallel)
            .try_fold(
                (Loaded::default(), DocumentDigest::default()),
                |mut total, (loaded, digest)| async move {
                    total.0.add(loaded);
                    total.1 += digest;
                    Ok(total)
                },
            )
            .await
    }
}

impl SetContent<'_> {
    async fn load_part(&self, filling: &Filling<'_>, part: &PartRecord) -> Result<(Loaded, DocumentDigest)> {
        let _slot = self.load_slots.acquire().await.expect("the semaphore is never closed");
        let mut object = self.set.read(&part.object).await?;
        let mut filler = filling.loader(self.wanted.kind).await?;
        let mut framer = Framer::default();
        let unframed = |source| {
            Error::new(ErrorKind::Corrupt, format!("{} is not framed documents", part.object))
                .with_source(source)
        };
        while let Some(chunk) = object.next().await? {
            for batch in framer.push(&chunk).map_err(unframed)?.into_iter().flatten() {
                filler.load(&batch).await?;
            }
        }
        framer.end().map_err(unframed)?;
        let (loaded, digest) = filler.finish().await?;
        if digest != part.digest {
            let message = format!(
                "{} changed while it was read: digest {digest} instead of {}",
                part.object, part.digest
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok((loaded, digest))
    }
}
