//! The store itself: one type over all backends, with decorators as properties of a handle.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, TryStreamExt};
use mainstay_model::{Error, ErrorKind, Result, Timestamp};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::time::Instant;

use crate::failure::{self, Diagnosis, Site, Trouble};
use crate::faults::Ordeal;
use crate::leftover::{self, Leftover};
use crate::location::Place;
use crate::throttle::Throttle;
use crate::{Faults, Key, Location, ObjectReader, ObjectWriter, RetryPolicy, StoreOptions, Verb, s3};

/// A store of immutable objects. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Store {
    backend: Arc<Backend>,
    read_only: bool,
    throttles: Vec<Arc<Throttle>>,
    faults: Vec<Faults>,
}

struct Backend {
    objects: Arc<dyn ObjectStore>,
    /// Never repeats a request by itself; for create-only puts.
    single: Arc<dyn ObjectStore>,
    /// The folder in the bucket under which all keys lie.
    prefix: Key,
    site: Site,
    retry: RetryPolicy,
}

/// An object, as listings tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: Key,
    /// Its size.
    pub bytes: u64,
    /// When it appeared, by the clock of the disk or the service.
    pub modified: Timestamp,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.describe())
    }
}

impl Store {
    /// Opens the store at `location`. A directory that does not exist is created with mode 0700; files and folders are synced to the disk
    /// before a write counts. Of a remote store nothing is asked yet. `memory:` gives a new, empty store.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] when the directory cannot be made or used, [`ErrorKind::Config`] when options are missing or contradict each other.
    pub fn open(location: &Location, options: &StoreOptions) -> Result<Self> {
        let store = match &location.0 {
            Place::Memory => Self::memory(),
            Place::Directory(path) => Self::open_directory(options.base_dir.join(path), options.retry)?,
            Place::S3 { bucket, prefix } => {
                let clients = s3::connect(bucket, &options.s3, &options.retry)?;
                let described = match &options.s3.endpoint {
                    Some(endpoint) => format!("{location} at {endpoint}"),
                    None => location.to_string(),
                };
                Self::over(Backend {
                    objects: Arc::new(clients.repeating),
                    single: Arc::new(clients.single),
                    prefix: prefix.clone(),
                    site: Site::S3 { bucket: bucket.clone(), described },
                    retry: options.retry,
                })
            }
        };
        Ok(match options.write_bytes_per_second {
            Some(rate) => store.throttled(rate.bytes()),
            None => store,
        })
    }

    /// A new, empty store in this process's memory.
    pub fn memory() -> Self {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        Self::over(Backend {
            single: Arc::clone(&objects),
            objects,
            prefix: Key::root(),
            site: Site::Memory,
            retry: RetryPolicy::default(),
        })
    }

    fn open_directory(path: PathBuf, retry: RetryPolicy) -> Result<Self> {
        let refuse = |error: &std::io::Error| {
            failure::report_disk(
                error.kind(),
                &error.to_string(),
                "open",
                "the store",
                &Site::Directory(path.clone()),
            )
        };
        create_directory(&path).map_err(|error| refuse(&error))?;
        let path = std::fs::canonicalize(&path).map_err(|error| refuse(&error))?;
        let site = Site::Directory(path.clone());
        let objects = LocalFileSystem::new_with_prefix(&path).map_err(|error| {
            failure::report(&failure::diagnose(&error), false, Verb::List, &Key::root(), &site)
        })?;
        let objects: Arc<dyn ObjectStore> = Arc::new(objects.with_fsync(true));
        Ok(Self::over(Backend { single: Arc::clone(&objects), objects, prefix: Key::root(), site, retry }))
    }

    fn over(backend: Backend) -> Self {
        Self { backend: Arc::new(backend), read_only: false, throttles: Vec::new(), faults: Vec::new() }
    }

    /// Where this store is, for people; never a secret.
    pub fn describe(&self) -> String {
        self.backend.site.describe()
    }

    /// The same store, refusing every change with [`ErrorKind::Refused`].
    #[must_use]
    pub fn read_only(&self) -> Self {
        Self { read_only: true, ..self.clone() }
    }

    /// The same store, writing at most `bytes_per_second` over all clones of the returned handle together.
    #[must_use]
    pub fn throttled(&self, bytes_per_second: u64) -> Self {
        let mut store = self.clone();
        store.throttles.push(Arc::new(Throttle::new(bytes_per_second)));
        store
    }

    /// The same store, failing where `faults` says.
    #[must_use]
    pub fn with_faults(&self, faults: Faults) -> Self {
        let mut store = self.clone();
        store.faults.push(faults);
        store
    }

    /// The whole object at `key`, at most `bytes_max` long.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::Corrupt`] when it is larger than `bytes_max` or shorter than the store
    /// says; [`ErrorKind::Auth`], [`ErrorKind::Unreachable`] or [`ErrorKind::Storage`] when the store refuses, cannot be reached or fails.
    /// Repeating is safe.
    pub async fn get(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        let mut reader = self.open_reader(Verb::Get, key).await?;
        let size = reader.size();
        if size > bytes_max {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{key} in {} has {size} bytes where at most {bytes_max} belong", self.describe()),
            ));
        }
        let Some(first) = reader.next().await? else { return Ok(Bytes::new()) };
        if first.len() as u64 == size {
            return reader.next().await.map(|_| first);
        }
        let mut whole = BytesMut::with_capacity(usize::try_from(size).unwrap_or(0));
        whole.extend_from_slice(&first);
        while let Some(chunk) = reader.next().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Opens the object at `key` for reading in chunks.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn read(&self, key: &Key) -> Result<ObjectReader> {
        self.open_reader(Verb::Read, key).await
    }

    async fn open_reader(&self, verb: Verb, key: &Key) -> Result<ObjectReader> {
        let ordeal = self.enter(verb, key, 0).await?;
        let found = self
            .backend
            .objects
            .get(&self.path(key)?)
            .await
            .map_err(|error| self.explain(&error, verb, key))?;
        match ordeal.lost_answer {
            Some(error) => Err(error),
            None => Ok(ObjectReader::new(self.clone(), key.clone(), found, ordeal.flip_byte)),
        }
    }

    /// Creates the object at `key`, whole and durable, if there is none: of any number of callers exactly one succeeds.
    ///
    /// A remote store may do what was asked and fail to say so. When a try ended without an answer, the next one that finds an object
    /// reads it: the same bytes are taken for its own and count as success. Callers who compete for a key must therefore put something of
    /// their own (a nonce) into the bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when there is an object; the kinds of [`Store::put`] otherwise, and then the error's state says whether the
    /// object may have been written nevertheless.
    pub async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let ordeal = self.enter(Verb::PutNew, key, bytes.len() as u64).await?;
        self.throttle(bytes.len() as u64).await;
        self.create(key, bytes).await?;
        ordeal.lost_answer.map_or(Ok(()), Err)
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let path = self.path(key)?;
        let retry = &self.backend.retry;
        let begun = Instant::now();
        let mut answers_lost = false;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let payload = PutPayload::from_bytes(bytes.clone());
            let Err(error) = self.backend.single.put_opts(&path, payload, PutMode::Create.into()).await
            else {
                return Ok(());
            };
            let trouble = failure::diagnose(&error).trouble;
            if trouble == Trouble::Exists && answers_lost {
                match self.holds(&path, &bytes).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => answers_lost = false,
                    // Whose object it is cannot be found out.
                    Err(error) => {
                        let diagnosis = failure::diagnose(&error);
                        return Err(failure::report(&diagnosis, true, Verb::PutNew, key, &self.backend.site));
                    }
                }
            }
            answers_lost |= trouble.leaves_open();
            let last = attempts > retry.max_retries || begun.elapsed() >= retry.timeout;
            if !trouble.may_pass() || last {
                let diagnosis = Diagnosis { trouble, retries: attempts - 1 };
                return Err(failure::report(&diagnosis, answers_lost, Verb::PutNew, key, &self.backend.site));
            }
            tokio::time::sleep(pause_before(attempts, retry)).await;
        }
    }

    /// True when the object at `path` has exactly `bytes`.
    async fn holds(&self, path: &Path, bytes: &Bytes) -> object_store::Result<bool> {
        let found = self.backend.objects.get(path).await?;
        Ok(found.meta.size == bytes.len() as u64 && found.bytes().await? == *bytes)
    }

    /// Writes the object at `key`, whole and durable, in place of whatever was there.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] on a read-only handle; [`ErrorKind::Storage`] when the disk or the service fails, [`ErrorKind::Auth`] when it
    /// refuses access, [`ErrorKind::Unreachable`] when it cannot be reached. The error's state says whether the object may have been
    /// written nevertheless ([`crate::outcome_is_open`]). Repeating is safe.
    pub async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let ordeal = self.enter(Verb::Put, key, bytes.len() as u64).await?;
        self.throttle(bytes.len() as u64).await;
        let put = self.backend.objects.put(&self.path(key)?, PutPayload::from_bytes(bytes)).await;
        put.map_err(|error| self.explain(&error, Verb::Put, key))?;
        ordeal.lost_answer.map_or(Ok(()), Err)
    }

    /// A writer for an object too large to hold. Nothing is visible until it is finished.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn writer(&self, key: &Key) -> Result<ObjectWriter> {
        let ordeal = self.enter(Verb::Writer, key, 0).await?;
        let path = self.path(key)?;
        match ordeal.lost_answer {
            Some(error) => Err(error),
            None => Ok(ObjectWriter::new(self.clone(), key.clone(), path)),
        }
    }

    /// All objects below `prefix`, sorted by key; none when there is no such folder. What was not written by Mainstay and has no valid key
    /// is left out.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn list(&self, prefix: &Key) -> Result<Vec<ObjectInfo>> {
        let ordeal = self.enter(Verb::List, prefix, 0).await?;
        let listed = self.backend.objects.list(Some(&self.folder_path(prefix)?));
        let found = self.gather(listed, prefix).await?;
        ordeal.lost_answer.map_or(Ok(found), Err)
    }

    /// The objects below `prefix` whose keys are greater than `after`, sorted by key. What lies before `after` costs nothing on S3, and on
    /// a disk no more than its name.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn list_after(&self, prefix: &Key, after: &Key) -> Result<Vec<ObjectInfo>> {
        let ordeal = self.enter(Verb::List, prefix, 0).await?;
        let (folder, offset) = (self.folder_path(prefix)?, self.folder_path(after)?);
        let listed = self.backend.objects.list_with_offset(Some(&folder), &offset);
        let mut found = self.gather(listed, prefix).await?;
        // Some S3-compatible services accept `start-after` and ignore it.
        found.retain(|info| info.key > *after);
        ordeal.lost_answer.map_or(Ok(found), Err)
    }

    /// The objects below `prefix` whose keys are greater than `after` and less than `until`, sorted by key. What lies outside costs nothing on
    /// S3, which lists in order, and on a disk no more than its name.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn list_between(&self, prefix: &Key, after: &Key, until: &Key) -> Result<Vec<ObjectInfo>> {
        let ordeal = self.enter(Verb::List, prefix, 0).await?;
        let (folder, offset) = (self.folder_path(prefix)?, self.folder_path(after)?);
        // A folder comes in any order, a bucket in that of its keys, page by page: what is past the end is not asked for.
        let in_order = !matches!(self.backend.site, Site::Directory(_));
        let mut order = ListingOrder::default();
        let listed = self.backend.objects.list_with_offset(Some(&folder), &offset);
        let listed = listed.try_take_while(|meta| {
            let goes_on = match self.info(meta) {
                Some(info) if in_order => order.goes_on(info.key, until),
                _ => true,
            };
            std::future::ready(Ok(goes_on))
        });
        let mut found = self.gather(listed, prefix).await?;
        if order.is_broken {
            return Err(Error::new(
                ErrorKind::Storage,
                "the store does not list objects in the order of their keys",
            )
            .with_state(format!("what it holds below {prefix} is not known"))
            .with_hint("keep the repository in a bucket whose listings are sorted, as those of S3 are"));
        }
        found.retain(|info| info.key > *after && info.key < *until);
        ordeal.lost_answer.map_or(Ok(found), Err)
    }

    async fn gather(
        &self,
        listed: impl Stream<Item = object_store::Result<ObjectMeta>> + Send,
        prefix: &Key,
    ) -> Result<Vec<ObjectInfo>> {
        let mut found: Vec<ObjectInfo> = listed
            .try_filter_map(|meta| std::future::ready(Ok(self.info(&meta))))
            .try_collect()
            .await
            .map_err(|error| self.explain(&error, Verb::List, prefix))?;
        found.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Ok(found)
    }

    /// The names of the folders right below `prefix` that hold at least one object, sorted.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn folders(&self, prefix: &Key) -> Result<Vec<String>> {
        let ordeal = self.enter(Verb::Folders, prefix, 0).await?;
        let explain = |error| self.explain(&error, Verb::Folders, prefix);
        let listed = self
            .backend
            .objects
            .list_with_delimiter(Some(&self.folder_path(prefix)?))
            .await
            .map_err(explain)?;
        let mut names = Vec::with_capacity(listed.common_prefixes.len());
        for folder in listed.common_prefixes {
            // A directory may be empty, or hold nothing but what a killed writer left; a bucket knows no such folders.
            let on_disk = matches!(self.backend.site, Site::Directory(_));
            if on_disk
                && self.backend.objects.list(Some(&folder)).try_next().await.map_err(explain)?.is_none()
            {
                continue;
            }
            let name = folder.filename().unwrap_or("");
            if Key::new(name).is_ok() {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        ordeal.lost_answer.map_or(Ok(names), Err)
    }

    /// Removes the object at `key`; that there is none is no error. After a power cut a removal on a disk may turn out undone.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn delete(&self, key: &Key) -> Result<()> {
        let ordeal = self.enter(Verb::Delete, key, 0).await?;
        match self.backend.objects.delete(&self.path(key)?).await {
            Err(error) if failure::diagnose(&error).trouble != Trouble::Absent => {
                return Err(self.explain(&error, Verb::Delete, key));
            }
            _ => {}
        }
        ordeal.lost_answer.map_or(Ok(()), Err)
    }

    /// The partial files that killed writers, or writers still at work, have below `prefix`, sorted by name. On S3 always empty, as
    /// unfinished uploads can only be removed by the bucket's lifecycle rule.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] when the folder cannot be read.
    pub async fn leftovers(&self, prefix: &Key) -> Result<Vec<Leftover>> {
        let Site::Directory(root) = &self.backend.site else { return Ok(Vec::new()) };
        let (root, folder) = (root.clone(), prefix.as_str().to_owned());
        self.on_disk(Verb::List, prefix.to_string(), move || leftover::find(&root, &folder)).await
    }

    /// Removes a partial file; that it is gone already is no error. The caller knows that nobody writes it any more.
    ///
    /// # Errors
    /// As [`Store::delete`]; [`ErrorKind::Usage`] when its name is not one of a partial file below the root.
    pub async fn remove_leftover(&self, leftover: &Leftover) -> Result<()> {
        let name = leftover.name.clone();
        let stem = name.rsplit_once('#').map_or("", |(stem, _)| stem);
        let key = Key::new(stem)?;
        if !leftover::is_partial(&name) {
            return Err(Error::new(ErrorKind::Usage, format!("{name:?} is not the name of a partial file")));
        }
        self.enter(Verb::Delete, &key, 0).await?;
        let Site::Directory(root) = &self.backend.site else { return Ok(()) };
        let path = root.join(&name);
        self.on_disk(Verb::Delete, name, move || match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    /// Proves that this store can be written, read and cleaned up below `folder`, and that [`Store::put_new`] really is create-only: some
    /// S3-compatible services accept the condition and ignore it. Leaves nothing behind when it succeeds.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when an existing object was overwritten; the kinds of [`Store::put_new`] otherwise.
    pub async fn probe(&self, folder: &Key, nonce: &str) -> Result<()> {
        let key = folder.child(format!("probe-{nonce}"))?;
        self.put_new(&key, Bytes::from(nonce.to_owned())).await?;
        let second = self.put_new(&key, Bytes::from_static(b"second")).await;
        self.delete(&key).await?;
        match second {
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} overwrites objects that were to be created only once", self.describe()),
            )
            .with_hint("use a service that honours If-None-Match on PutObject, or a directory")),
        }
    }

    /// Runs before every operation: read-only, then deliberate failures.
    pub(crate) async fn enter(&self, verb: Verb, key: &Key, write_bytes: u64) -> Result<Ordeal> {
        if self.read_only && verb.changes() {
            let message =
                format!("cannot {} {key}: {} is open for reading only", verb.name(), self.describe());
            return Err(Error::new(ErrorKind::Refused, message).with_state("nothing was changed"));
        }
        let mut ordeal = Ordeal::default();
        for faults in &self.faults {
            let met = faults.meet(verb, key, write_bytes).await?;
            ordeal.lost_answer = ordeal.lost_answer.or(met.lost_answer);
            ordeal.flip_byte = ordeal.flip_byte.or(met.flip_byte);
        }
        Ok(ordeal)
    }

    pub(crate) async fn throttle(&self, bytes: u64) {
        for throttle in &self.throttles {
            throttle.take(bytes).await;
        }
    }

    pub(crate) fn objects(&self) -> &dyn ObjectStore {
        &*self.backend.objects
    }

    pub(crate) fn is_s3(&self) -> bool {
        matches!(self.backend.site, Site::S3 { .. })
    }

    pub(crate) fn explain(&self, error: &object_store::Error, verb: Verb, key: &Key) -> Error {
        let diagnosis = failure::diagnose(error);
        failure::report(&diagnosis, diagnosis.leaves_open(), verb, key, &self.backend.site)
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        verb: Verb,
        subject: String,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let outcome = tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::new(ErrorKind::Internal, format!("disk task ended early: {error}")))?;
        outcome.map_err(|error| {
            failure::report_disk(error.kind(), &error.to_string(), verb.name(), &subject, &self.backend.site)
        })
    }

    fn path(&self, key: &Key) -> Result<Path> {
        if key.is_root() {
            return Err(Error::new(ErrorKind::Internal, "the root of a store is not an object"));
        }
        self.folder_path(key)
    }

    fn folder_path(&self, key: &Key) -> Result<Path> {
        let prefix = &self.backend.prefix;
        let text = match (prefix.is_root(), key.is_root()) {
            (true, _) => key.as_str().to_owned(),
            (false, true) => prefix.as_str().to_owned(),
            (false, false) => format!("{}/{}", prefix.as_str(), key.as_str()),
        };
        Path::parse(&text).map_err(|error| {
            Error::new(ErrorKind::Internal, format!("key {key} is no path of the store")).with_source(error)
        })
    }

    fn info(&self, meta: &ObjectMeta) -> Option<ObjectInfo> {
        let whole = Key::new(meta.location.as_ref()).ok()?;
        let key = Key::new(whole.below(&self.backend.prefix)?).ok()?;
        let (seconds, nanoseconds) =
            (meta.last_modified.timestamp(), meta.last_modified.timestamp_subsec_nanos());
        let modified =
            Timestamp::new(seconds, i32::try_from(nanoseconds).unwrap_or(0)).unwrap_or(Timestamp::UNIX_EPOCH);
        Some(ObjectInfo { key, bytes: meta.size, modified })
    }
}

/// What is known of the order of a listing that is to be sorted.
#[derive(Debug, Default)]
struct ListingOrder {
    newest: Option<Key>,
    is_broken: bool,
}

impl ListingOrder {
    /// Whether the listing is gone on with behind `key`: not past `until`, and not where a greater one came before.
    fn goes_on(&mut self, key: Key, until: &Key) -> bool {
        self.is_broken |= self.newest.as_ref().is_some_and(|newest| key < *newest);
        let is_past = key >= *until;
        self.newest = Some(key);
        !self.is_broken && !is_past
    }
}

/// Doubles with every attempt up to the longest pause, less a little that differs from process to process so that many do not come back at once.
fn pause_before(attempts: u32, retry: &RetryPolicy) -> Duration {
    let grown = retry.backoff_first.saturating_mul(1 << (attempts - 1).min(20)).min(retry.backoff_max);
    let spread = 1.0 - f64::from((std::process::id().wrapping_mul(2_654_435_761) ^ attempts) % 256) / 1024.0;
    grown.mul_f64(spread)
}

fn create_directory(path: &std::path::Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => std::fs::File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_left_past_its_end_and_where_it_is_not_sorted() {
        let until = Key::new("n").unwrap();
        let cases: [(&[&str], usize, bool); 5] = [
            (&["a", "b", "m"], 3, false),
            (&["a", "n", "o"], 1, false),
            (&["a", "c", "b", "d"], 2, true),
            (&["a", "a"], 2, false),
            (&[], 0, false),
        ];
        for (listed, taken, is_broken) in cases {
            let mut order = ListingOrder::default();
            let keys = listed.iter().map(|key| Key::new(*key).unwrap());
            let count = keys.take_while(|key| order.goes_on(key.clone(), &until)).count();
            assert_eq!((count, order.is_broken), (taken, is_broken), "{listed:?}");
        }
    }
}
