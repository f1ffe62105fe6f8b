//! The past of a server whose WAL was kept by `archive_command`: brought from its archive into the repository's log.
//!
//! A plan looks at the folder, at the first page of every segment and at what the repository has, and says what is brought and what nobody
//! has. Then the *borders* are proven: where a part that is brought touches what is stored, the records on both sides must name each other
//! and what both have must be equal. Only then it writes, each segment after its pages and the sums of its records were checked, and the
//! record before it was found to be the one that it names. Chains that were imported are nobody else's: a capture never goes on with one.
//!
//! Importing again brings what is missing, so that a run that was stopped or killed is gone on with by the same command, and an archive that
//! is still filled is brought up to date by it. Relies on segments that are whole once they have their name. Refuses what is of another
//! server, of another history under the same number, or damaged, and names the file; nothing in the archive is changed.

mod archive;
mod decide;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::SignedDuration;
use mainstay_basebackup::{Lineage, SegmentHeader, WalWalker};
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    BlastRadius, ByteSize, ChainId, Clock, Count, Effect, Error, ErrorKind, LogPosition, Lsn, PLAN_FORMAT,
    Plan, PlanStep, Result, ResultExt, StoreKind, Target,
};
use mainstay_repository::{
    Chain, ChainBeginning, ChainReason, ChainWriter, LogClaim, LogKind, Repository, WalChain,
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub use decide::{ImportGap, ImportPart};

use self::archive::{Archive, ArchivedSegment, refused};
use self::decide::{Decided, Held, decide};
use super::log::{WalLog, WalLogs};

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

/// The archive beside what is stored.
struct Survey {
    server: String,
    archive: Arc<Archive>,
    /// Up to where partial segments are of their timeline.
    partial_ends: BTreeMap<(u32, u64), u64>,
    /// By timeline, of all that are brought or stored.
    histories: BTreeMap<u32, (Option<String>, Lineage)>,
    log: Option<WalLog>,
    decided: Decided,
}

impl Survey {
    async fn take(repository: Option<&Repository>, server: &str, folder: &Path) -> Result<Self> {
        let (place, wanted) = (folder.to_owned(), server.to_owned());
        let archive = blocking(move || Archive::look(&place, &wanted)).await?;
        if archive.segments.is_empty() {
            let hint = match archive.unread.first() {
                Some(first) => format!("what is packed as {first} is must be unpacked first"),
                None => "name the folder that `archive_command` copies to; what is in folders below it is not looked for".to_owned(),
            };
            let message = format!("{} holds no segment of WAL that is read here", folder.display());
            return Err(Error::new(ErrorKind::Precondition, message)
                .with_state("nothing was changed")
                .with_hint(hint));
        }
        let log = match repository {
            Some(repository) => WalLogs::read(repository).await?.of(server),
            None => None,
        };
        let mut survey = Self {
            server: server.to_owned(),
            archive: Arc::new(archive),
            partial_ends: BTreeMap::new(),
            histories: BTreeMap::new(),
            log,
            decided: Decided::default(),
        };
        survey.check_against_log()?;
        survey.gather_histories()?;
        for segment in survey.archive.segments.values().filter(|segment| segment.is_partial) {
            let (archive, segment) = (Arc::clone(&survey.archive), segment.clone());
            let key = (segment.segment.timeline, segment.begin);
            let end = blocking(move || {
                segment
                    .read(archive.segment_bytes)
                    .map(|plain| partial_end(&segment, &plain, archive.segment_bytes))
            });
            survey.partial_ends.insert(key, end.await?);
        }
        survey.decide();
        Ok(survey)
    }

    /// Segments of one length alone can be put together.
    fn check_against_log(&self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        if log.segment_bytes == self.archive.segment_bytes {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Precondition,
            format!(
                "the archive's segments have {} bytes, those of the captured WAL {}",
                self.archive.segment_bytes, log.segment_bytes
            ),
        )
        .with_state("nothing was changed")
        .with_hint("the cluster was changed since (`pg_resetwal --wal-segsize`), and nothing leads from one to the other"))
    }

    /// The history of every timeline, which must be the same wherever it is told.
    fn gather_histories(&mut self) -> Result<()> {
        let stored = self.log.iter().flat_map(|log| &log.chains);
        for (chain, lineage) in stored {
            let text = chain.description().wal.as_ref().and_then(|wal| wal.history.clone());
            self.histories.insert(lineage.timeline(), (text, lineage.clone()));
        }
        for (timeline, (text, lineage)) in &self.archive.histories {
            let known = self.histories.entry(*timeline);
            let known = known.or_insert_with(|| (Some(text.clone()), lineage.clone()));
            if known.1 != *lineage {
                return Err(self.other_branch(*timeline));
            }
        }
        let timelines = self.archive.segments.keys().map(|(timeline, _)| *timeline);
        for timeline in timelines.collect::<std::collections::BTreeSet<_>>() {
            if timeline == 1 {
                self.histories.entry(1).or_insert_with(|| (None, Lineage::without_history(1)));
            } else if !self.histories.contains_key(&timeline) {
                return Err(Error::new(
                    ErrorKind::Precondition,
                    format!("the archive has segments of timeline {timeline} and no {timeline:08X}.history"),
                )
                .with_state("nothing was changed")
                .with_hint("copy the history from the server's pg_wal into the folder: without it nobody knows what leads to that timeline"));
            }
        }
        let lineages: Vec<&Lineage> = self.histories.values().map(|(_, lineage)| lineage).collect();
        for one in &lineages {
            if let Some(other) =
                lineages.iter().find(|other| other.part(one.timeline()).is_some() && !one.leads_to(other))
            {
                return Err(self.other_branch(other.timeline()));
            }
        }
        Ok(())
    }

    fn other_branch(&self, timeline: u32) -> Error {
        Error::new(
            ErrorKind::Precondition,
            format!("timeline {timeline} of the archive branches off elsewhere than another of its number"),
        )
        .with_state("nothing was changed")
        .with_hint("two copies of one cluster have begun the same timeline: import each into a repository of its own")
    }

    fn decide(&mut self) {
        let held: Vec<Held> = self.archive.segments.values().map(|segment| self.held(segment)).collect();
        let mut stored: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
        for timeline in self.log.iter().flat_map(WalLog::timelines) {
            let runs = self.log.iter().flat_map(|log| log.parts_of(timeline));
            stored.entry(timeline).or_default().extend(runs);
        }
        self.decided = decide(&held, &stored);
    }

    fn held(&self, segment: &ArchivedSegment) -> Held {
        let timeline = segment.segment.timeline;
        let end = self.partial_ends.get(&(timeline, segment.begin)).copied();
        Held {
            timeline,
            begin: segment.begin,
            end: end.unwrap_or(segment.begin + self.archive.segment_bytes),
        }
    }

    fn steps(&self) -> Vec<PlanStep> {
        let step = |name: String, mark: char, summary: String| PlanStep { name, mark, summary };
        let Decided { parts, known, gaps } = &self.decided;
        let mut steps: Vec<PlanStep> = parts
            .iter()
            .map(|part| {
                let ImportPart { timeline, from, through, segments } = part;
                let size = ByteSize(through.0 - from.0);
                let summary = format!("{from} to {through}: {} segments, {size}", Count(*segments));
                step(format!("import timeline {timeline}"), '+', summary)
            })
            .collect();
        steps.extend(gaps.iter().map(|gap| {
            let summary = format!("{} to {}: neither archive nor repository has it", gap.from, gap.until);
            step(format!("gap in timeline {}", gap.timeline), ' ', summary)
        }));
        if *known > 0 {
            let summary = format!("{} segments that the repository has already", Count(*known));
            steps.push(step("leave out".to_owned(), ' ', summary));
        }
        steps.extend(self.archive.labels.iter().map(|label| {
            let summary =
                format!("{} to {} on timeline {}, taken by others", label.begin, label.end, label.timeline);
            step(format!("base backup {}", label.file), ' ', summary)
        }));
        if let Some(first) = self.archive.unread.first() {
            let count = Count(self.archive.unread.len() as u64);
            steps.push(step(
                "pass over".to_owned(),
                ' ',
                format!("{count} files packed as {first} is, which is not read"),
            ));
        }
        steps
    }

    /// Makes sure that everything of `parts` is in the archive still.
    fn check_holds(&self, parts: &[ImportPart]) -> Result<()> {
        for part in parts {
            let mut at = part.from.0;
            for segment in self.segments_of(part) {
                if segment.begin != at {
                    break;
                }
                at = self.held(segment).end;
            }
            if at < part.through.0 {
                return Err(Error::new(
                    ErrorKind::StalePlan,
                    format!("the archive does not hold {} of timeline {} any more", Lsn(at), part.timeline),
                )
                .with_state("nothing was changed")
                .with_hint("run the command again, so that it looks at what is there now"));
            }
        }
        Ok(())
    }

    fn segments_of(&self, part: &ImportPart) -> impl Iterator<Item = &ArchivedSegment> {
        let range = (part.timeline, part.from.0)..(part.timeline, part.through.0);
        self.archive.segments.range(range).map(|(_, segment)| segment)
    }

    async fn read(&self, segment: &ArchivedSegment) -> Result<Bytes> {
        let (segment, segment_bytes) = (segment.clone(), self.archive.segment_bytes);
        blocking(move || segment.read(segment_bytes)).await
    }

    /// What the repository has of one timeline.
    async fn stored(&self, repository: &Repository, timeline: u32, range: Range<u64>) -> Result<Vec<Bytes>> {
        let Some(log) = self.log.as_ref().filter(|_| !range.is_empty()) else { return Ok(Vec::new()) };
        let lineage = Lineage::without_history(timeline);
        let mut parts = Vec::new();
        for piece in log.pieces(&lineage, Lsn(range.start), Lsn(range.end))? {
            parts.push(piece.read(repository).await?);
        }
        Ok(parts)
    }

    /// A walker at the beginning of `part` that has come from what is stored before it, if that is.
    async fn walker_before(&self, repository: &Repository, part: &ImportPart) -> Result<WalWalker> {
        let segment_bytes = self.archive.segment_bytes;
        let since = self.log.as_ref().map_or(part.from, |log| log.since(part.timeline, part.from));
        let since = since.0.max(part.from.0.saturating_sub(segment_bytes));
        let mut walker = WalWalker::anywhere(since, segment_bytes);
        for plain in self.stored(repository, part.timeline, since..part.from.0).await? {
            walker.push(&plain, &mut |_| ()).map_err(|error| {
                Error::new(ErrorKind::Corrupt, format!("captured {error}"))
                    .with_source(error)
                    .with_state("nothing was changed")
                    .with_hint("`mainstay backup verify --log` names what is damaged")
            })?;
        }
        Ok(walker)
    }

    /// Proves that `part` continues what is stored before it and leads to what is stored behind it.
    async fn prove_borders(&self, repository: &Repository, part: &ImportPart) -> Result<()> {
        let (Some(log), segment_bytes) = (self.log.as_ref(), self.archive.segment_bytes) else {
            return Ok(());
        };
        let (Some(first), Some(last)) = (self.segments_of(part).next(), self.segments_of(part).last()) else {
            return Ok(());
        };
        let plain = self.read(first).await?;
        let first_end = self.held(first).end;
        let overlap = log.reach(part.timeline, part.from).0.min(first_end);
        let mut at = 0;
        for stored in self.stored(repository, part.timeline, part.from.0..overlap).await? {
            if plain[at..at + stored.len()] != stored {
                return Err(self.not_continued(first, part.from));
            }
            at += stored.len();
        }
        let mut walker = self.walker_before(repository, part).await?;
        self.walk_beside(&mut walker, first, &plain, first, part.from)?;
        let reach = log.reach(part.timeline, part.through);
        if reach > part.through && !last.is_partial {
            let plain = self.read(last).await?;
            let mut walker = WalWalker::anywhere(last.begin, segment_bytes);
            self.walk_beside(&mut walker, last, &plain, last, part.through)?;
            let until = reach.0.min(part.through.0 + segment_bytes);
            for stored in self.stored(repository, part.timeline, part.through.0..until).await? {
                self.walk_beside(&mut walker, last, &stored, last, part.through)?;
            }
        }
        Ok(())
    }

    /// Walks over a segment of the archive, or what is stored beside it. What is sound alone and not there is of another history.
    fn walk_beside(
        &self,
        walker: &mut WalWalker,
        segment: &ArchivedSegment,
        plain: &[u8],
        beside: &ArchivedSegment,
        border: Lsn,
    ) -> Result<()> {
        let walked = walker.push(&plain[..self.valid(segment, plain)], &mut |_| ());
        walked.map_err(|error| {
            let mut alone = WalWalker::anywhere(segment.begin, self.archive.segment_bytes);
            let is_archived = plain.len() as u64 == self.archive.segment_bytes && error.at >= segment.begin;
            let is_damaged = is_archived
                && error.at < segment.begin + self.archive.segment_bytes
                && alone.push(&plain[..self.valid(segment, plain)], &mut |_| ()).is_err();
            match is_damaged {
                true => damaged(segment, error, "nothing was changed"),
                false => self.not_continued(beside, border).with_source(error),
            }
        })
    }

    /// How much of a segment's bytes are of its timeline.
    fn valid(&self, segment: &ArchivedSegment, plain: &[u8]) -> usize {
        let end = self.partial_ends.get(&(segment.segment.timeline, segment.begin));
        let valid = end.map_or(plain.len() as u64, |end| end - segment.begin);
        usize::try_from(valid).unwrap_or(usize::MAX).min(plain.len())
    }

    fn not_continued(&self, segment: &ArchivedSegment, border: Lsn) -> Error {
        let what = format!(
            "and the captured WAL of server {} are of two histories: they differ at {border}",
            self.server
        );
        refused(ErrorKind::Precondition, &segment.path, what).with_state("nothing was changed").with_hint(
            "the server went back to an earlier state once, or the archive is of a copy of it: import it into a repository of its own",
        )
    }
}

fn damaged(segment: &ArchivedSegment, error: mainstay_basebackup::WalError, state: &str) -> Error {
    refused(ErrorKind::Corrupt, &segment.path, format!("cannot be trusted: {error}"))
        .with_source(error)
        .with_state(state)
        .with_hint("take the right one from another copy of the archive, or move it out of the folder: what it was to hold is told as a gap then")
}

/// Where the last whole record of a segment ends that a timeline ended in.
fn partial_end(segment: &ArchivedSegment, plain: &[u8], segment_bytes: u64) -> u64 {
    let mut end = segment.begin;
    let mut walker = WalWalker::anywhere(segment.begin, segment_bytes);
    // What is behind the end is of no matter, whatever it is.
    drop(walker.push(plain, &mut |record| end = record.end.next_multiple_of(8)));
    end.min(segment.begin + segment_bytes)
}

/// Reads files without holding up others.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|source| {
        Error::new(ErrorKind::Internal, "the reading thread ended early").with_source(source)
    })?
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
        let mut walker = self.survey.walker_before(self.context.repository, part).await?;
        let mut writer = None;
        for segment in self.survey.segments_of(part) {
            if self.context.cancel.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "the import was stopped on request")
                    .with_state(so_far(report))
                    .with_hint("the same command goes on from there"));
            }
            let plain = self.survey.read(segment).await?;
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
        let chains = self.survey.log.iter().flat_map(|log| &log.chains);
        let own: Vec<&Chain> = chains
            .filter(|(chain, lineage)| {
                let description = chain.description();
                description.why == ChainReason::Imported && lineage.timeline() == part.timeline
            })
            .map(|(chain, _)| chain)
            .collect();
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

fn so_far(report: &ImportReport) -> String {
    match report.segments {
        0 => "nothing was imported".to_owned(),
        count => format!("{} segments before it were imported, and stay", Count(count)),
    }
}
