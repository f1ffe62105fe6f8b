//! What a purge would hit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use mainstay_engine::{KeyScanRequest, Keyspace, ListedNames, ServerPart};
use mainstay_guard::operation;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    Blake3, BlastRadius, ByteSize, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result,
    ResultExt, SetId, StoreKind, Target, Timestamp,
};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Glob, OPERATION};
use crate::classes::{KeyClass, KeyClasses};
use crate::keyfile::KeyFileSetContents;
use crate::keyspace::{CensusOptions, Counting, KeyCensus, KeyGroup, each_key, interrupted, open};
use crate::replication::log::ReplicationLog;

/// How many prefixes a plan names.
const STEP_COUNT_MAX: usize = 30;

/// What is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// Names that match one of these go.
    pub patterns: Vec<String>,
    /// Names that match one of these stay nevertheless.
    pub protect: Vec<String>,
    /// In these databases; in all when empty.
    pub databases: Vec<u64>,
    /// Every key is meant, where the patterns match all.
    pub everything: bool,
    /// The longest that the server should be busy with one answer, in microseconds.
    pub answer_micros_max: u64,
    /// What keys are for; those of protected classes stay.
    #[serde(default)]
    pub classes: KeyClasses,
    /// Protected classes that go nevertheless.
    #[serde(default)]
    pub with_classes: Vec<KeyClass>,
    /// Where the names come from, when the server is not to list them.
    #[serde(default)]
    pub file: Option<NamesFile>,
}

/// A database file that says which keys there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamesFile {
    /// Where it is.
    pub path: PathBuf,
    /// How long it is.
    pub bytes: u64,
    /// The hash of all its bytes: a file of another content is another one, however long it is and whenever it was written.
    pub blake3: Blake3,
}

impl NamesFile {
    /// The file at `path`, read once to know it again.
    ///
    /// # Errors
    /// `NotFound` or `Storage` when it cannot be read; `Usage` when it is no file; `Interrupted`.
    pub async fn at(path: PathBuf, cancel: &CancellationToken) -> Result<Self> {
        let opened = open(&path)?;
        let (_, bytes, blake3) = known(opened, &path, cancel).await?;
        Ok(Self { path, bytes, blake3 })
    }

    /// The same file, opened, when it is still what it was.
    ///
    /// # Errors
    /// `StalePlan` when it is another one; otherwise as [`NamesFile::at`].
    pub(super) async fn reopened(&self, cancel: &CancellationToken) -> Result<File> {
        let opened = open(&self.path)?;
        let (opened, bytes, blake3) = known(opened, &self.path, cancel).await?;
        let shown = self.path.display();
        let differs = match (bytes == self.bytes, blake3 == self.blake3) {
            (true, true) => return Ok(opened),
            (false, _) => format!("{shown} has {bytes} bytes, it had {}", self.bytes),
            (true, false) => format!("{shown} has other contents than it had, of the same length"),
        };
        Err(Error::new(ErrorKind::StalePlan, differs)
            .with_hint("make the plan again with the file as it is now, and review it"))
    }
}

/// The file from its beginning, its length, and the hash of what it holds.
async fn known(opened: File, path: &Path, cancel: &CancellationToken) -> Result<(File, u64, Blake3)> {
    let cancel = cancel.clone();
    let refused = |error: io::Error| {
        Error::new(ErrorKind::Storage, format!("cannot read {}", path.display())).with_source(error)
    };
    let read = tokio::task::spawn_blocking(move || {
        let mut source = Stoppable { file: opened, bytes: 0, cancel };
        let blake3 = Blake3::of_source(&mut source)?;
        let Stoppable { mut file, bytes, .. } = source;
        file.rewind()?;
        Ok::<_, io::Error>((file, bytes, blake3))
    });
    match read.await {
        Ok(Ok(known)) => Ok(known),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {
            Err(Error::new(ErrorKind::Interrupted, "reading the file was stopped on request")
                .with_state("nothing was changed"))
        }
        Ok(Err(error)) => Err(refused(error)),
        Err(_) => Err(Error::new(ErrorKind::Internal, "the reading of the file ended")),
    }
}

/// A file that is read until somebody asks to stop.
struct Stoppable {
    file: File,
    /// How much of it was read.
    bytes: u64,
    cancel: CancellationToken,
}

impl Read for Stoppable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            // Not `Interrupted`, which means to try again.
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let count = self.file.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

/// What could bring back what goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UndoPoint {
    /// The newest set of this server.
    pub set: SetId,
    /// When it was begun: what came later it does not have.
    pub begun_at: Timestamp,
    /// Whether it was read back and found sound.
    pub is_verified: bool,
    /// Up to where the captured stream leads on from it; `None` where none does.
    pub stream: Option<u64>,
}

impl PurgeRequest {
    pub(super) fn answer_time_max(&self) -> Duration {
        Duration::from_micros(self.answer_micros_max)
    }

    /// Whether keys of `class` stay.
    fn keeps(&self, class: KeyClass) -> bool {
        class.is_protected() && !self.with_classes.contains(&class)
    }

    /// Which names the walk for pattern number `index` means: not those that a pattern before it has met already, none of a class that stays,
    /// and never the store's `marker`.
    pub(super) fn selector(
        &self,
        index: usize,
        marker: &'static [u8],
    ) -> impl Fn(&[u8]) -> bool + Send + Sync + use<> {
        let globs =
            |patterns: &[String]| patterns.iter().map(|pattern| Glob::new(pattern)).collect::<Vec<_>>();
        let mut passed_over = globs(&self.protect);
        passed_over.extend(globs(&self.patterns[..index]));
        let classes = self.classes.matcher();
        let kept: Vec<KeyClass> = KeyClass::ALL.into_iter().filter(|class| self.keeps(*class)).collect();
        move |name| {
            name != marker
                && !passed_over.iter().any(|glob| glob.matches(name))
                && !classes.class(name).is_some_and(|class| kept.contains(&class))
        }
    }

    /// Which keys of a file are meant: what each walk would mean, together.
    pub(super) fn file_selector(
        &self,
        marker: &'static [u8],
    ) -> impl Fn(u64, &[u8]) -> bool + Send + Sync + use<> {
        let walks: Vec<_> = { self.patterns.iter().enumerate() }
            .map(|(index, pattern)| (Glob::new(pattern), self.selector(index, marker)))
            .collect();
        let databases = self.databases.clone();
        move |database, name| {
            (databases.is_empty() || databases.contains(&database))
                && walks.iter().any(|(glob, is_meant)| glob.matches(name) && is_meant(name))
        }
    }

    /// The databases that are meant, of those that hold keys.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn databases(&self, keyspace: &dyn Keyspace) -> Result<Vec<u64>> {
        let sizes = keyspace.databases().await?;
        let wanted = |database: &u64| self.databases.is_empty() || self.databases.contains(database);
        Ok(sizes.into_iter().map(|size| size.database).filter(wanted).collect())
    }
}

/// What planning a purge works with.
pub struct PurgePlanning<'a> {
    /// The keys.
    pub keyspace: &'a dyn Keyspace,
    /// What could bring back what goes, when there is something.
    pub undo: Option<UndoPoint>,
    /// An older one is told to be old.
    pub undo_age_max: SignedDuration,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told how far counting is.
    pub observer: &'a dyn Observer,
    /// Stops counting.
    pub cancel: &'a CancellationToken,
}

/// Counts what matches, and decides its removal.
///
/// # Errors
/// `Usage` for a pattern that matches everything, or patterns that do together, unless `everything` is asked for; `Precondition` when nothing
/// matches, or nothing that is not protected; the store's; `Interrupted`.
pub async fn plan(planning: &PurgePlanning<'_>, target: Target, request: &PurgeRequest) -> Result<Plan> {
    let PurgePlanning { keyspace, clock, .. } = *planning;
    check(request)?;
    let options = CensusOptions { delimiter: b':', depth: 2, biggest: 0, now: clock.now().as_millisecond() };
    let Counted { census, going, kept, all } = count(planning, request, options).await?;
    if census.total.keys == 0 {
        let marker = keyspace.marker();
        let means_marker = request.patterns.iter().any(|pattern| Glob::new(pattern).matches(marker));
        return Err(nothing_goes(&kept, means_marker));
    }
    check_share(request, census.total.keys, all)?;
    let created_at = clock.now();
    let mut shown = steps(&census);
    shown.extend(class_steps(&going, &kept));
    shown.extend(keyspace.part().await?.as_ref().and_then(cluster_step));
    shown.push(undo_step(planning, created_at));
    let (keys, bytes) = (census.total.keys, census.total.bytes);
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: operation(OPERATION).expect("a purge is registered").effect,
        assumptions: Vec::new(),
        blast_radius: BlastRadius {
            phrase: format!("purge {keys} keys on {}@{}", target.store, target.environment),
            items: keys,
            bytes,
        },
        steps: shown,
        target,
        parameters: serde_json::to_value(request).expect("a request has a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Refuses patterns that mean nothing, or everything unasked.
pub(super) fn check(request: &PurgeRequest) -> Result<()> {
    let refuse = |message: &str, hint: &str| {
        Err(Error::new(ErrorKind::Usage, message).with_state("nothing was changed").with_hint(hint))
    };
    if request.patterns.iter().any(String::is_empty) {
        return refuse(
            "an empty pattern matches no name but the empty one",
            "name a pattern, such as 'cache:*'",
        );
    }
    let all = request.patterns.iter().any(|pattern| Glob::new(pattern).is_everything());
    if all && !request.everything {
        return refuse(
            "the pattern matches every key: sessions, locks and queues too",
            "name prefixes, such as 'cache:*'; `--everything` if every key is meant",
        );
    }
    Ok(())
}

/// Refuses to remove all keys unasked, whatever the patterns look like; the marker is one that stays anyway.
fn check_share(request: &PurgeRequest, matching: u64, all: u64) -> Result<()> {
    /// So few keys are nobody's store.
    const TELLING_KEYS: u64 = 20;
    if request.everything || all <= TELLING_KEYS || matching + 1 < all {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, "the patterns match every key together: sessions, locks and queues too")
        .with_state("nothing was changed")
        .with_hint("name fewer prefixes; `--everything` if every key is meant"))
}

/// What was counted.
struct Counted {
    /// What goes.
    census: KeyCensus,
    /// That by class, where one is declared.
    going: BTreeMap<KeyClass, u64>,
    /// What matches and stays, because its class is protected.
    kept: BTreeMap<KeyClass, u64>,
    /// How many keys there are, whether or not they match.
    all: u64,
}

async fn count(
    planning: &PurgePlanning<'_>,
    request: &PurgeRequest,
    options: CensusOptions,
) -> Result<Counted> {
    let PurgePlanning { keyspace, observer, cancel, .. } = *planning;
    if let Some(file) = &request.file {
        return count_file(planning, request, file, options).await;
    }
    let databases = request.databases(keyspace).await?;
    let mut counting = Counting::new(options.clone());
    let (mut going, mut kept) = (BTreeMap::new(), BTreeMap::new());
    let classes = request.classes.matcher();
    for (index, pattern) in request.patterns.iter().enumerate() {
        observer.phase(&format!("count {pattern}"));
        let is_meant = request.selector(index, keyspace.marker());
        let scan_request = KeyScanRequest {
            databases: databases.clone(),
            pattern: Some(pattern.clone().into_bytes()),
            answer_time_max: request.answer_time_max(),
            now: options.now,
            asks_idle: false,
        };
        let mut scan = keyspace.scan(scan_request).await?;
        while let Some(ListedNames { database, names }) = scan.names().await? {
            observer.advance(Work { items: names.len() as u64, bytes: 0 });
            let mut looked_at = Vec::new();
            for name in names {
                let goes = is_meant(&name);
                match classes.class(&name) {
                    Some(class) if goes => *going.entry(class).or_default() += 1,
                    Some(class) if request.keeps(class) => *kept.entry(class).or_default() += 1,
                    _ => {}
                }
                if goes && counting.wants_described(database, &name) {
                    looked_at.push(name);
                } else if goes {
                    counting.add_named(database, &name);
                }
            }
            let described = scan.describe(&ListedNames { database, names: looked_at }).await?;
            described.iter().for_each(|record| counting.add(record));
            if cancel.is_cancelled() {
                return Err(interrupted());
            }
        }
    }
    let all = keyspace.databases().await?.iter().map(|size| size.keys).sum();
    Ok(Counted { census: counting.end(), going, kept, all })
}

/// The same of a file: nothing is asked of the server.
async fn count_file(
    planning: &PurgePlanning<'_>,
    request: &PurgeRequest,
    file: &NamesFile,
    options: CensusOptions,
) -> Result<Counted> {
    planning.observer.phase("count keys of the file");
    let is_meant = request.file_selector(planning.keyspace.marker());
    let (classes, request, file) = (request.classes.matcher(), request.clone(), file.clone());
    let cancel = planning.cancel.clone();
    let walked = tokio::task::spawn_blocking(move || {
        let (mut going, mut kept, mut all) = (BTreeMap::new(), BTreeMap::new(), 0);
        let mut counting = Counting::new(options);
        let globs: Vec<Glob> = request.patterns.iter().map(|pattern| Glob::new(pattern)).collect();
        each_key(open(&file.path)?, |record, _| {
            if cancel.is_cancelled() {
                return Err(interrupted());
            }
            all += 1;
            let goes = is_meant(record.database, &record.name);
            if goes {
                counting.add(record);
            }
            let stays = |class| request.keeps(class) && globs.iter().any(|glob| glob.matches(&record.name));
            match classes.class(&record.name) {
                Some(class) if goes => *going.entry(class).or_default() += 1,
                Some(class) if stays(class) => *kept.entry(class).or_default() += 1,
                _ => {}
            }
            Ok(())
        })
        .with_context(|| format!("walk through {}", file.path.display()))?;
        Ok(Counted { census: counting.end(), going, kept, all })
    });
    walked.await.map_err(|_| Error::new(ErrorKind::Internal, "the walk through the file ended"))?
}

/// `means_marker`: the environment's marker matches, which may be there or not.
fn nothing_goes(kept: &BTreeMap<KeyClass, u64>, means_marker: bool) -> Error {
    let error =
        |message: String| Error::new(ErrorKind::Precondition, message).with_state("nothing was changed");
    if kept.is_empty() && means_marker {
        return error(
            "no key matches but, where there is one, the environment's marker, which no purge removes"
                .to_owned(),
        )
        .with_hint("`mainstay environment mark` replaces it");
    }
    if kept.is_empty() {
        return error("no key matches".to_owned())
            .with_hint("`mainstay redis keys` shows what keys there are");
    }
    let counts: Vec<String> =
        kept.iter().map(|(class, count)| format!("{} of class {}", Count(*count), class.name())).collect();
    let options: Vec<String> = kept.keys().map(|class| format!("--with-class {}", class.name())).collect();
    error(format!("all keys that match are protected: {}", counts.join(", "))).with_hint(format!(
        "`{}` if they are to go; [redis.classes] declares which keys are which",
        options.join(" ")
    ))
}

/// What it means that they go, by class; and what stays.
fn class_steps(going: &BTreeMap<KeyClass, u64>, kept: &BTreeMap<KeyClass, u64>) -> Vec<PlanStep> {
    let goes = going.iter().map(|(class, count)| PlanStep {
        name: format!("of class {}", class.name()),
        mark: '-',
        summary: class.loss(Count(*count)),
    });
    let stays = kept.iter().map(|(class, count)| PlanStep {
        name: format!("of class {}", class.name()),
        mark: ' ',
        summary: format!(
            "{} keys match and stay; `--with-class {}` removes them, too",
            Count(*count),
            class.name()
        ),
    });
    goes.chain(stays).collect()
}

/// Where further keys stay, in a cluster.
fn cluster_step(part: &ServerPart) -> Option<PlanStep> {
    let summary = match (part.others.as_slice(), part.is_known()) {
        ([], true) => return None,
        ([], false) => {
            "their keys stay; which they are, the user may not know: allow `+cluster|nodes`".to_owned()
        }
        (others, _) => format!("keys of {} stay: purge each by its own `--redis-url`", others.join(", ")),
    };
    Some(PlanStep { name: "other primaries".to_owned(), mark: ' ', summary })
}

/// What could bring it back.
fn undo_step(planning: &PurgePlanning<'_>, now: Timestamp) -> PlanStep {
    let summary = match &planning.undo {
        None => {
            "no backup of this server: what goes is gone; `mainstay backup create --store redis` makes one"
                .to_owned()
        }
        Some(UndoPoint { set, begun_at, is_verified, stream }) => {
            let age = now.duration_since(*begun_at);
            let minutes = age.as_mins().max(0);
            let old = match age > planning.undo_age_max {
                true => format!(", older than {} h", planning.undo_age_max.as_hours()),
                false => String::new(),
            };
            let verified = match is_verified {
                true => "verified".to_owned(),
                false => format!("not verified: `mainstay backup verify {set}`"),
            };
            let later = match stream {
                Some(offset) => format!("the captured stream goes on from it up to offset {offset}"),
                None => "what came later it does not have".to_owned(),
            };
            format!("set {set}, begun {minutes} min ago{old}, {verified}; {later}")
        }
    };
    PlanStep { name: "undo point".to_owned(), mark: ' ', summary }
}

/// One step for each prefix, the largest first.
fn steps(census: &KeyCensus) -> Vec<PlanStep> {
    let summary = |group: &KeyGroup| {
        let about = if group.is_exact() { "" } else { "about " };
        let lasting = match group.expiry.never {
            0 if group.is_exact() => "all expire anyway".to_owned(),
            0 => format!("all of {} that were looked at expire anyway", Count(group.described)),
            never => format!("{about}{} never expire", Count(never)),
        };
        format!("{} keys, {about}{}; {lasting}", Count(group.keys), ByteSize(group.bytes))
    };
    let step = |name: String, summary: String| PlanStep { name, mark: '-', summary };
    let mut steps: Vec<PlanStep> = { census.prefixes.iter().take(STEP_COUNT_MAX) }
        .map(|group| {
            let name = match group.prefix.as_str() {
                "" => "names of one word".to_owned(),
                prefix => format!("{prefix}*"),
            };
            step(format!("{name} in database {}", group.database), summary(&group.group))
        })
        .collect();
    let rest = census.prefixes.iter().skip(STEP_COUNT_MAX).map(|group| group.group.keys);
    let rest: u64 = rest.sum::<u64>() + census.others.keys;
    if rest > 0 {
        steps.push(step("further prefixes".to_owned(), format!("{} keys", Count(rest))));
    }
    steps
}

/// The newest set of the server with this `fingerprint`, if there is one; not one that a verification found to be damaged.
///
/// # Errors
/// What the repository fails with.
pub async fn undo_point(repository: &Repository, fingerprint: &str) -> Result<Option<UndoPoint>> {
    let entries = repository.sets(Some(StoreKind::Redis)).await.context("look for backups")?;
    for set in entries.into_iter().rev().filter_map(|entry| entry.into_set().ok()) {
        let Ok(contents) = set.contents::<KeyFileSetContents>() else { continue };
        if contents.server.fingerprint != fingerprint {
            continue;
        }
        let verdict = set.verdict().await?;
        if verdict.as_ref().is_some_and(|verdict| !verdict.is_sound()) {
            continue;
        }
        let stream = match &contents.replication {
            Some(at) => ReplicationLog::read(repository).await?.way(at).last().map(|part| part.through),
            None => None,
        };
        let (id, begun_at) = (set.id().clone(), set.manifest().begun_at);
        return Ok(Some(UndoPoint { set: id, begun_at, is_verified: verdict.is_some(), stream }));
    }
    Ok(None)
}
