//! Positions that somebody gave a name: one small sealed object each, made once and never changed.

use futures::StreamExt as _;
use mainstay_model::{Error, ErrorKind, LogPosition, Result, ResultExt, StoreKind, Timestamp, sealed};
use mainstay_store::Key;
use serde::{Deserialize, Serialize};

use crate::layout;
use crate::repository::{LISTING_READS, Repository, open_versioned};

/// The version of the record that this code writes and the newest it reads.
const POINT_FORMAT: u32 = 1;
/// The kind of a sealed record.
const POINT_KIND: &str = "restore_point";
/// The largest record that is read.
const POINT_BYTES_MAX: u64 = 64 * 1024;

/// A position with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPoint {
    /// The version of this structure.
    pub format: u32,
    /// The repository it was written to.
    pub repository_id: String,
    /// The name; no other point of the server has it.
    pub name: String,
    /// The store whose log has the position.
    pub store: StoreKind,
    /// The fingerprint of the server.
    pub server: String,
    /// The environment it was named in.
    pub environment: String,
    /// The position that the server told.
    pub at: LogPosition,
    /// The timeline of the position, where logs have timelines.
    pub timeline: Option<u32>,
    /// When it was named.
    pub created_at: Timestamp,
    /// Who named it.
    pub created_by: String,
}

/// What a new point is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPoint {
    /// Its name.
    pub name: String,
    /// The store whose log has the position.
    pub store: StoreKind,
    /// The fingerprint of the server.
    pub server: String,
    /// The environment it is named in.
    pub environment: String,
    /// The position.
    pub at: LogPosition,
    /// The timeline of the position, where logs have timelines.
    pub timeline: Option<u32>,
    /// Who names it.
    pub created_by: String,
}

/// A line of a listing: a point, or why it cannot be read.
#[derive(Debug)]
pub struct PointEntry {
    /// Where it lies.
    pub key: Key,
    /// The point.
    pub point: Result<NamedPoint>,
}

impl Repository {
    /// Keeps a point.
    ///
    /// # Errors
    /// `Conflict` when its server has one of that name; the store's.
    pub async fn keep_point(&self, new: NewPoint) -> Result<NamedPoint> {
        let NewPoint { name, store, server, environment, at, timeline, created_by } = new;
        let key = layout::point(store, &server, &name)?;
        let (format, repository_id, created_at) = (POINT_FORMAT, self.id().to_owned(), self.now());
        let point = NamedPoint {
            format,
            repository_id,
            name,
            store,
            server,
            environment,
            at,
            timeline,
            created_at,
            created_by,
        };
        let (bytes, _) = sealed::seal(POINT_KIND, &point)?;
        self.store().put_new(&key, bytes.into()).await.with_context(|| format!("write {key}"))?;
        Ok(point)
    }

    /// The point of `server` that is called `name`; `None` when there is none.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged; the store's.
    pub async fn point(&self, store: StoreKind, server: &str, name: &str) -> Result<Option<NamedPoint>> {
        match self.read_point(store, &layout::point(store, server, name)?).await {
            Ok(point) => Ok(Some(point)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All points of `store`, by server and position; those that cannot be read last.
    ///
    /// # Errors
    /// The store's.
    pub async fn points(&self, store: StoreKind) -> Result<Vec<PointEntry>> {
        let objects = self.store().list(&layout::all_points(store)).await.context("list restore points")?;
        let reads = futures::stream::iter(objects).map(|object| async move {
            PointEntry { point: self.read_point(store, &object.key).await, key: object.key }
        });
        let mut points: Vec<PointEntry> = reads.buffered(LISTING_READS).collect().await;
        points.sort_by_key(|entry| match &entry.point {
            Ok(point) => (false, point.server.clone(), point.at),
            Err(_) => (true, entry.key.as_str().to_owned(), LogPosition(0)),
        });
        Ok(points)
    }

    async fn read_point(&self, store: StoreKind, key: &Key) -> Result<NamedPoint> {
        let bytes = self.store().get(key, POINT_BYTES_MAX).await?;
        let (point, _): (NamedPoint, _) = open_versioned(POINT_KIND, key.as_str(), &bytes, POINT_FORMAT)?;
        let belongs = point.store == store
            && point.repository_id == self.id()
            && layout::point(store, &point.server, &point.name)? == *key;
        if belongs {
            return Ok(point);
        }
        Err(Error::new(ErrorKind::Corrupt, format!("{key} is the record of another restore point"))
            .with_hint("copy the right one back from an off-site copy of the repository"))
    }
}
