//! The past of a server whose WAL was kept by `archive_command`: brought from its archive into the repository's log.
//!
//! A plan looks at the folder, at the first page of every segment and at what the repository has, and says what is brought and what nobody
//! has. Then the *borders* are proven: where a part that is brought touches what is stored of its timeline, the records on both sides must
//! name each other and what both have must be equal. What another timeline has is compared by its history alone: that an archive is of a copy,
//! which went its own way before a branch, is not found out where the two do not touch. Only then it writes, each segment after its pages and
//! the sums of its records were checked, and the record before it was found to be the one that it names. Chains that were imported are nobody
//! else's: a capture never goes on with one.
//!
//! Importing again brings what is missing, so that a run that was stopped or killed is gone on with by the same command, and an archive that
//! is still filled is brought up to date by it. Relies on segments that are whole once they have their name. Refuses what is of another
//! server, of another history under the same number, or damaged, and names the file; nothing in the archive is changed.

mod archive;
mod decide;
mod survey;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::SignedDuration;
use mainstay_basebackup::{SegmentHeader, WalWalker};
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    BlastRadius, ChainId, Clock, Count, Effect, Error, ErrorKind, LogPosition, PLAN_FORMAT, Plan, Result,
    ResultExt, StoreKind, Target,
};
use mainstay_repository::{
    Chain, ChainBeginning, ChainReason, ChainWriter, LogClaim, LogKind, Repository, WalChain,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use decide::{ImportGap, ImportPart};

use self::archive::{ArchivedSegment, refused};
use self::survey::{Survey, damaged};
use super::log::WalLog;

/// The operation's registered name.
pub const OPERATION: &str = "wal.import";

/// Plain bytes at which a slice is cut: a segment of the usual length is one.
const SLICE_BYTES: usize = 16 * 1024 * 1024;

/// What an import works with.
pub struct ImportContext<'a> {
    /// Where the log goes.
    pub repository: &'a Repository,
    /// Who runs this, for the lease: `user@host`.
    pub holder: &'a str,
    /// How long the lease of a killed import keeps others away.
    pub lease_ttl: SignedDuration,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops between two segments.
    pub cancel: &'a CancellationToken,
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// What was brought.
    pub parts: Vec<ImportPart>,
    /// The chains that it is in.
    pub chains: Vec<ChainId>,
    /// Segments that were brought.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// Segments of the archive that the repository had already.
    pub known: u64,
    /// What neither archive nor repository has.
    pub gaps: Vec<ImportGap>,
}

/// The decided parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    folder: PathBuf,
    parts: Vec<ImportPart>,
}

/// Says what of the archive in `folder` is brought. Without a repository, one is made.
///
/// # Errors
/// `NotFound`, `Precondition`, `Corrupt` and `Storage` for what lies in the folder, naming the file; `Precondition` for a history that is not
/// the server's or not there; the store's.
pub async fn plan(
    repository: Option<&Repository>,
    target: Target,
    folder: &Path,
    clock: &dyn Clock,
) -> Result<Plan> {
    let survey = Survey::take(repository, &target.fingerprint, folder).await?;
    let created_at = clock.now();
    let parameters = Parameters { folder: folder.to_owned(), parts: survey.decided.parts.clone() };
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: OPERATION.to_owned(),
        effect: Effect::Additive,
        blast_radius: BlastRadius {
            phrase: format!("import WAL of {}", target.environment),
            items: 0,
            bytes: 0,
        },
        assumptions: Vec::new(),
        steps: survey.steps(),
        target,
        parameters: serde_json::to_value(parameters).expect("positions and paths have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Brings what `plan` says.
///
/// # Errors
/// As [`plan`]; `StalePlan` when the archive does not hold it any more; `Locked` while another import of the server's WAL is at work;
/// `Interrupted` when it was asked to stop. What was brought until then is whole and stays, and importing again goes on from there.
pub async fn import(context: &ImportContext<'_>, plan: &Plan, permit: &Permit) -> Result<ImportReport> {
    permit.covers(plan)?;
    let Parameters { folder, parts } = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of an import").with_source(source)
    })?;
    let server = &plan.target.fingerprint;
    let claim = context
        .repository
        .claim_import(StoreKind::Postgres, server, context.holder, context.lease_ttl)
        .await
        .context("claim the import of this server's WAL")?;
    let worked = async {
        let survey = Survey::take(Some(context.repository), server, &folder).await?;
        survey.check_holds(&parts)?;
        context.observer.phase("prove the borders");
        for part in &parts {
            survey.prove_borders(context.repository, part).await?;
        }
        context.observer.phase("import WAL");
        let work = |part: &ImportPart| Work { items: part.segments, bytes: part.through.0 - part.from.0 };
        context.observer.expect(parts.iter().map(work).sum());
        let mut report = ImportReport {
            known: survey.decided.known,
            gaps: survey.decided.gaps.clone(),
            ..ImportReport::default()
        };
        for part in parts {
            let import = PartImport { context, survey: &survey, claim: &claim, target: &plan.target };
            import.run(&part, &mut report).await?;
            report.parts.push(part);
        }
        Ok(report)
    }
    .await;
    // A claim that cannot be given back runs out by itself.
    let _ = claim.release().await;
    worked
}

/// One part on its way.
struct PartImport<'a> {
    context: &'a ImportContext<'a>,
    survey: &'a Survey,
    claim: &'a LogClaim,
    target: &'a Target,
}

impl PartImport<'_> {
    async fn run(&self, part: &ImportPart, report: &mut ImportReport) -> Result<()> {
        let walker = self.survey.walker_before(self.context.repository, part).await;
        let mut walker = walker.map_err(|error| error.with_state(so_far(report)))?;
        let mut writer = None;
        for segment in self.survey.segments_of(part) {
            if self.context.cancel.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "the import was stopped on request")
                    .with_state(so_far(report))
                    .with_hint("the same command goes on from there"));
            }
            let plain = self.survey.read(segment).await;
            let plain = plain.map_err(|error| error.with_state(so_far(report)))?;
            let valid = self.survey.valid(segment, &plain);
            self.judge(&mut walker, segment, &plain[..valid], report)?;
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(self.writer(part, report).await?),
            };
            let stored = self.put(writer, segment, plain.slice(..valid)).await;
            report.stored_bytes += stored.map_err(|error| match error.state() {
                Some(_) => error,
                None => error.with_state(so_far(report)).with_hint("the same command goes on from there"),
            })?;
            report.segments += 1;
            report.bytes += valid as u64;
            self.context.observer.advance(Work { items: 1, bytes: valid as u64 });
        }
        Ok(())
    }

    /// Pages, records and the timelines of both.
    fn judge(
        &self,
        walker: &mut WalWalker,
        segment: &ArchivedSegment,
        plain: &[u8],
        report: &ImportReport,
    ) -> Result<()> {
        let header = SegmentHeader::read(plain);
        let is_it = header.is_ok_and(|header| {
            header.system.to_string() == self.survey.server && header.position == segment.begin
        });
        let timeline = segment.segment.timeline;
        let wrong = |what: String| {
            refused(ErrorKind::Corrupt, &segment.path, what)
                .with_state(so_far(report))
                .with_hint("run the command again, so that it looks at what is there now")
        };
        if !is_it {
            return Err(wrong("has changed since it was looked at".to_owned()));
        }
        walker.push(plain, &mut |_| ()).map_err(|error| damaged(segment, error, &so_far(report)))?;
        let lineage = self.survey.histories.get(&timeline).map(|(_, lineage)| lineage);
        match walker.timeline() {
            Some(found) if lineage.is_some_and(|lineage| lineage.part(found).is_none()) => Err(wrong(
                format!("has pages of timeline {found}, which does not lead to timeline {timeline}"),
            )),
            _ => Ok(()),
        }
    }

    /// The chain that goes on to where `part` begins, if one was imported before; else a new one.
    async fn writer(&self, part: &ImportPart, report: &mut ImportReport) -> Result<ChainWriter> {
        let own: Vec<&Chain> = self.survey.log.iter().flat_map(|log| imported(log, part)).collect();
        let (from, through) = (LogPosition(part.from.0), LogPosition(part.through.0));
        let goes_on = own.iter().find(|chain| {
            let begins_before = chain.description().after <= from;
            begins_before && (from..through).contains(&chain.end()) && chain.damage().is_empty()
        });
        let writer = match goes_on {
            Some(chain) => self.claim.resume_chain(chain)?,
            None => {
                let history = self.survey.histories.get(&part.timeline).and_then(|(text, _)| text.clone());
                let segment_bytes = self.survey.archive.segment_bytes;
                let beginning = ChainBeginning {
                    kind: LogKind::Wal,
                    environment: self.target.environment.clone(),
                    after: from,
                    why: ChainReason::Imported,
                    predecessor: None,
                    wal: Some(WalChain { timeline: part.timeline, segment_bytes, history }),
                    replication: None,
                };
                self.claim.begin_chain(beginning).await?
            }
        };
        report.chains.push(writer.id().clone());
        Ok(writer)
    }

    /// Stores what of the segment the chain has not yet; gives how many bytes that takes.
    async fn put(&self, writer: &mut ChainWriter, segment: &ArchivedSegment, plain: Bytes) -> Result<u64> {
        let had = usize::try_from(writer.end().0.saturating_sub(segment.begin)).unwrap_or(usize::MAX);
        let mut rest = plain.slice(had.min(plain.len())..);
        let mut stored_bytes = 0;
        while !rest.is_empty() {
            let slice = rest.split_to(SLICE_BYTES.min(rest.len()));
            let through = LogPosition(writer.end().0 + slice.len() as u64);
            let sealed = writer.seal(through, slice).await?;
            let segment = segment.segment;
            writer.put(&sealed).await.with_context(|| format!("store segment {segment}"))?;
            stored_bytes += sealed.slice().bytes;
        }
        Ok(stored_bytes)
    }
}

/// The chains of `part`'s timeline that were imported before, and count up to where it ends.
fn imported<'a>(log: &'a WalLog, part: &ImportPart) -> Vec<&'a Chain> {
    let chains = log.chains.iter().enumerate().filter(|(index, (chain, lineage))| {
        chain.description().why == ChainReason::Imported
            && lineage.timeline() == part.timeline
            && log.valid_end(*index) >= part.through.0
    });
    chains.map(|(_, (chain, _))| chain).collect()
}

fn so_far(report: &ImportReport) -> String {
    match report.segments {
        0 => "nothing was imported".to_owned(),
        count => format!("{} segments before it were imported, and stay", Count(count)),
    }
}
