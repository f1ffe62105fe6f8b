//! Taking a base backup: archives pass from the wire to the repository as they are, and are looked at on the way.

use mainstay_basebackup::{
    ArchiveJudge, BuildsOn, DAMAGED_COUNT_MAX, DamagedPage, MANIFEST_BYTES_MAX, Manifest, SeenArchive,
};
use mainstay_engine::{
    BackupBeginning, BackupEnding, BackupEvent, BaseBackup, BaseBackupRequest, BaseBackupSource,
    EarlierBackup, LinkCompression, Tablespace,
};
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    Assumption, BlastRadius, ByteSize, Clock, Effect, Error, ErrorKind, ObjectName, PLAN_FORMAT, Plan,
    PlanStep, Result, ResultExt, StoreKind, Target,
};
use mainstay_repository::{ObjectSink, Repository, Set, SetWriter};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::contents::{EarlierSet, ROLE_ARCHIVE, ROLE_FILE_LIST};
use super::damage::by_file;
use super::judging::Judging;
use super::{ArchiveRecord, ClusterSetContents, Expected, Foundation, first_of, judge_options};
use crate::backup::OPERATION;

/// The object with the server's list of files.
const FILE_LIST: &str = "backup_manifest";

/// What a base backup works with.
pub struct ClusterBackupContext<'a> {
    /// The server to copy.
    pub source: &'a dyn BaseBackupSource,
    /// Where the set goes.
    pub repository: &'a Repository,
    /// Who runs this, for the lease: `user@host`.
    pub holder: &'a str,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops it; nothing is kept then.
    pub cancel: &'a CancellationToken,
}

/// What a base backup made.
#[derive(Debug)]
pub struct ClusterBackupReport {
    /// The new set.
    pub set: Set,
    /// Its contents.
    pub contents: ClusterSetContents,
    /// Bytes in the repository.
    pub stored_bytes: ByteSize,
    /// Pages whose checksums were looked at.
    pub pages_checked: u64,
    /// How the server packed archives for the way.
    pub link: LinkCompression,
}

/// The decided parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    request: BaseBackupRequest,
    /// The set that the new one builds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    earlier: Option<EarlierSet>,
}

/// Says what a base backup of the server behind `target` would do; of what has changed since an `earlier` set, if there is one.
pub fn plan_backup(
    target: Target,
    request: &BaseBackupRequest,
    earlier: Option<EarlierSet>,
    clock: &dyn Clock,
) -> Plan {
    let created_at = clock.now();
    let step = |name: &str, summary: String| PlanStep { name: name.to_owned(), mark: ' ', summary };
    let rate = match request.rate_max {
        None => "as fast as the server sends".to_owned(),
        Some(rate) => format!("at most {} per second", ByteSize(rate)),
    };
    Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: Effect::Additive,
        blast_radius: BlastRadius { phrase: format!("back up {}", target.environment), items: 0, bytes: 0 },
        assumptions: earlier.iter().map(assumption).collect(),
        steps: vec![
            match &earlier {
                None => step(
                    "read the data directory",
                    format!("of {}, every tablespace too, {rate}", target.address),
                ),
                Some(earlier) => step(
                    "read what has changed",
                    format!("since {} at {}, every tablespace too, {rate}", earlier.set, target.address),
                ),
            },
            step("read WAL", "that the files need to be consistent".to_owned()),
        ],
        target,
        parameters: serde_json::to_value(Parameters { request: request.clone(), earlier })
            .expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn assumption(earlier: &EarlierSet) -> Assumption {
    Assumption { name: format!("manifest of set {}", earlier.set), value: earlier.manifest.to_string() }
}

/// Makes a backup set as `plan` says.
///
/// # Errors
/// Whatever the server or the repository fails with; `Corrupt` when what arrived is not what the server read, or when pages are damaged
/// that were to be checked; `StalePlan` when another server answers, or the earlier set is another one; `Interrupted` when cancelled. No
/// set was made then.
pub async fn create(
    context: &ClusterBackupContext<'_>,
    plan: &Plan,
    permit: &Permit,
) -> Result<ClusterBackupReport> {
    permit.covers(plan)?;
    let Parameters { request, earlier } =
        serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of a base backup")
                .with_source(source)
        })?;
    let earlier = match earlier {
        Some(earlier) => Some(Earlier::open(context.repository, plan, earlier).await?),
        None => None,
    };
    let begun = context.repository.begin_set(StoreKind::Postgres, context.holder).await;
    let writer = begun.context("begin backup set")?;
    let attempt = Attempt { context, plan, request: &request, earlier: earlier.as_ref(), writer: &writer };
    let made = tokio::select! {
        made = attempt.run() => made,
        () = context.cancel.cancelled() => {
            Err(Error::new(ErrorKind::Interrupted, "the backup was stopped on request"))
        }
    };
    match made {
        Ok(Made { contents, pages_checked, link }) => {
            let set = writer.commit(&contents).await.context("write manifest")?;
            let stored_bytes = ByteSize(set.manifest().stored_bytes());
            Ok(ClusterBackupReport { set, contents, stored_bytes, pages_checked, link })
        }
        Err(error) => Err(writer.give_up(error).await),
    }
}

/// The set that a backup builds on.
struct Earlier {
    record: EarlierSet,
    contents: ClusterSetContents,
    backup: EarlierBackup,
}

impl Earlier {
    /// Opens the set as it was when the plan was made.
    async fn open(repository: &Repository, plan: &Plan, record: EarlierSet) -> Result<Self> {
        let opened = repository.set(Some(StoreKind::Postgres), &record.set).await;
        let set = opened.context("open the set to build on")?;
        let found = EarlierSet { set: record.set.clone(), manifest: set.manifest_blake3() };
        plan.check_assumptions(&[assumption(&found)])?;
        let contents: ClusterSetContents = set.contents()?;
        let file_list = set.read_all(&contents.file_list, MANIFEST_BYTES_MAX).await?;
        let backup = EarlierBackup {
            file_list,
            fingerprint: contents.server.fingerprint.clone(),
            begin: contents.begin,
            timeline: contents.timeline,
        };
        Ok(Self { record, contents, backup })
    }

    /// The sets that one which builds on this one needs.
    fn chain(&self) -> Vec<EarlierSet> {
        self.contents.chain.iter().chain([&self.record]).cloned().collect()
    }
}

/// One try at a backup.
struct Attempt<'a> {
    context: &'a ClusterBackupContext<'a>,
    plan: &'a Plan,
    request: &'a BaseBackupRequest,
    earlier: Option<&'a Earlier>,
    writer: &'a SetWriter,
}

/// What a try made: all but the manifest.
struct Made {
    contents: ClusterSetContents,
    pages_checked: u64,
    link: LinkCompression,
}

/// An archive that is passing.
struct Passing {
    tablespace: Option<Tablespace>,
    sink: ObjectSink,
    judging: Judging,
}

/// An archive that has passed.
struct Passed {
    tablespace: Option<Tablespace>,
    object: ObjectName,
    seen: SeenArchive,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<Made> {
        self.context.observer.phase("checkpoint");
        let earlier = self.earlier.map(|earlier| &earlier.backup);
        let mut backup = self.context.source.begin(self.request, earlier).await?;
        let beginning = backup.beginning().clone();
        self.check_server(&beginning)?;
        self.check_pages_alike(&beginning)?;
        if let Some(refusal) = &beginning.link_refusal {
            self.context.observer.notice(&format!("the server sends its files as they are: {refusal}"));
        }
        self.context.observer.phase("back up");
        self.context.observer.expect(Work { items: 0, bytes: beginning.estimated_bytes });
        let (passed, file_list) = self.copy(backup.as_mut(), &beginning).await?;
        let ending = backup.end().await?;
        for notice in &ending.notices {
            self.context.observer.notice(&format!("the server remarks: {notice}"));
        }
        let (contents, pages_checked) = self.judge(&beginning, &ending, passed, &file_list).await?;
        Ok(Made { contents, pages_checked, link: beginning.link })
    }

    fn check_server(&self, beginning: &BackupBeginning) -> Result<()> {
        let (planned, found) = (&self.plan.target.fingerprint, &beginning.server.fingerprint);
        if planned == found {
            return Ok(());
        }
        Err(Error::new(ErrorKind::StalePlan, format!("the plan is for server {planned}, this is {found}"))
            .with_hint("make the plan again and review it"))
    }

    /// Turning checksums of pages on or off changes pages that no account is kept of.
    fn check_pages_alike(&self, beginning: &BackupBeginning) -> Result<()> {
        let Some(earlier) = self.earlier else { return Ok(()) };
        if earlier.contents.page_checksums == beginning.page_checksums {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Precondition,
            format!(
                "the server's pages have been given checksums, or lost them, since {}",
                earlier.record.set
            ),
        )
        .with_hint("take a whole backup: leave `--incremental` out"))
    }

    /// Copies everything; gives what was seen of each archive, and the server's list of files.
    async fn copy(
        &self,
        backup: &mut dyn BaseBackup,
        beginning: &BackupBeginning,
    ) -> Result<(Vec<Passed>, Vec<u8>)> {
        let (mut passed, mut file_list) = (Vec::new(), None);
        let mut passing: Option<Passing> = None;
        while let Some(event) = backup.next().await.context("read from the server")? {
            match event {
                BackupEvent::Archive(tablespace) => {
                    passed.extend(end(passing.take()).await?);
                    passing = Some(self.begin(tablespace, beginning).await?);
                }
                BackupEvent::Manifest => {
                    passed.extend(end(passing.take()).await?);
                    file_list = Some(Vec::new());
                }
                BackupEvent::Bytes(bytes) => match (&mut passing, &mut file_list) {
                    (Some(archive), _) => {
                        archive.judging.bytes(bytes.clone()).await;
                        self.context.observer.advance(Work { items: 0, bytes: bytes.len() as u64 });
                        archive.sink.write(bytes).await?;
                    }
                    (None, Some(list)) if list.len() + bytes.len() <= MANIFEST_BYTES_MAX => {
                        list.extend_from_slice(&bytes);
                    }
                    (None, Some(_)) => {
                        return Err(Error::new(
                            ErrorKind::Unsupported,
                            format!(
                                "the server's list of files is longer than {}",
                                ByteSize(MANIFEST_BYTES_MAX as u64)
                            ),
                        ));
                    }
                    (None, None) => {
                        return Err(Error::new(
                            ErrorKind::Internal,
                            "bytes of a backup that belong to nothing",
                        ));
                    }
                },
            }
        }
        Ok((passed, file_list.unwrap_or_default()))
    }

    async fn begin(&self, tablespace: Option<Tablespace>, beginning: &BackupBeginning) -> Result<Passing> {
        let oid = tablespace.as_ref().map(|tablespace| tablespace.oid);
        let file = oid.map_or_else(|| "base.tar".to_owned(), |oid| format!("{oid}.tar"));
        let sink = self.writer.object(&ObjectName::from_parts([file.as_str()]), ROLE_ARCHIVE).await?;
        let options = judge_options(
            self.request.checksum,
            beginning.page_checksums,
            beginning.at,
            self.earlier.is_some(),
        );
        Ok(Passing { tablespace, sink, judging: Judging::begin(ArchiveJudge::new(oid, options))? })
    }

    /// Compares what arrived with what the server read, and says what the set holds.
    async fn judge(
        &self,
        beginning: &BackupBeginning,
        ending: &BackupEnding,
        passed: Vec<Passed>,
        file_list: &[u8],
    ) -> Result<(ClusterSetContents, u64)> {
        let manifest = Manifest::read(file_list).map_err(|source| {
            Error::new(ErrorKind::Corrupt, format!("the server's list of files is damaged: {source}"))
        })?;
        let foundation = match self.earlier {
            None => Foundation::Whole,
            Some(Earlier { backup: EarlierBackup { begin, timeline, .. }, .. }) => {
                Foundation::At(BuildsOn { begin: begin.0, timeline: *timeline })
            }
        };
        let places: Vec<u32> = beginning.tablespaces.iter().map(|tablespace| tablespace.oid).collect();
        let (mut archives, mut faults, mut damaged, mut pages) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut damaged_pages = 0;
        for Passed { tablespace, object, mut seen } in passed {
            let place = tablespace.as_ref().map(|tablespace| tablespace.oid);
            let expected = Expected {
                manifest: &manifest,
                place,
                places: &places,
                wal_segment_bytes: beginning.wal_segment_bytes,
                foundation,
            };
            faults.extend(expected.faults(&seen));
            damaged.append(&mut seen.damaged_pages);
            damaged_pages += seen.damaged_page_count;
            pages += seen.pages;
            let files = seen.files.len() as u64;
            archives.push(ArchiveRecord { object, tablespace, files, bytes: seen.bytes });
        }
        if !faults.is_empty() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("what arrived is not what the server read: {}", first_of(&faults)),
            )
            .with_hint("take the backup again; when it is the same again, look at the network and this machine's memory"));
        }
        self.judge_pages(&damaged, damaged_pages)?;
        archives.sort_by_key(ArchiveRecord::oid);
        let name = ObjectName::from_parts([FILE_LIST]);
        self.writer
            .put(&name, ROLE_FILE_LIST, file_list.to_vec().into())
            .await
            .context("store the list of files")?;
        let contents = ClusterSetContents {
            environment: self.plan.target.environment.clone(),
            server: beginning.server.clone(),
            label: self.request.label.clone(),
            begin: beginning.at,
            end: ending.at,
            timeline: ending.timeline,
            checksum: self.request.checksum,
            page_checksums: beginning.page_checksums,
            damaged_pages,
            damaged: by_file(&damaged),
            wal_segment_bytes: beginning.wal_segment_bytes,
            file_list: name,
            archives,
            chain: self.earlier.map(Earlier::chain).unwrap_or_default(),
        };
        Ok((contents, pages))
    }

    fn judge_pages(&self, damaged: &[DamagedPage], count: u64) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let told = format!("the server's files hold {count} damaged pages: {}", first_of(damaged));
        if self.request.check_pages {
            return Err(Error::new(ErrorKind::Corrupt, told).with_hint(
                "find out what is damaged with pg_amcheck; `--allow-damaged-pages` takes a backup nevertheless",
            ));
        }
        // Damage that is not known by name would hide other damage later.
        if damaged.len() as u64 != count || damaged.len() > DAMAGED_COUNT_MAX {
            return Err(Error::new(ErrorKind::Corrupt, told).with_hint(format!(
                "that is more than a set may know of ({DAMAGED_COUNT_MAX}); save what can be read: `mainstay backup create --store postgres --logical`"
            )));
        }
        self.context.observer.notice(&format!("warning: {told}"));
        Ok(())
    }
}

/// Makes an archive durable; gives what was seen of it.
async fn end(passing: Option<Passing>) -> Result<Option<Passed>> {
    let Some(Passing { tablespace, sink, judging }) = passing else { return Ok(None) };
    let object = sink.name().clone();
    sink.finish().await.with_context(|| format!("store {object}"))?;
    Ok(Some(Passed { tablespace, object, seen: judging.end().await? }))
}
