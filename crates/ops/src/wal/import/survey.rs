//! An archive beside what is stored: reads both, decides, and proves the borders between what is brought and what is there.
//!
//! Borders are those within one timeline. Where one timeline leads to another the histories alone must agree. Refuses a repository with a chain
//! that cannot be read: what lies in it would be taken for not stored, and nothing proven against it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mainstay_basebackup::{Lineage, WalError, WalWalker};
use mainstay_model::{ByteSize, Count, Error, ErrorKind, Lsn, PlanStep, Result};
use mainstay_repository::Repository;
use tokio::task::spawn_blocking;

use super::archive::{Archive, ArchivedSegment, refused};
use super::decide::{Decided, Held, ImportPart, Known, decide};
use crate::wal::log::{WalLog, WalLogs};
use crate::wal::segment_begin;

/// The archive beside what is stored.
pub(super) struct Survey {
    pub(super) server: String,
    pub(super) archive: Arc<Archive>,
    /// Up to where partial segments are of their timeline.
    partial_ends: BTreeMap<(u32, u64), u64>,
    /// By timeline, of all that are brought or stored.
    pub(super) histories: BTreeMap<u32, (Option<String>, Lineage)>,
    pub(super) log: Option<WalLog>,
    pub(super) decided: Decided,
}

impl Survey {
    pub(super) async fn take(repository: Option<&Repository>, server: &str, folder: &Path) -> Result<Self> {
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
            Some(repository) => own_log(WalLogs::read(repository).await?, server)?,
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
        for timeline in timelines.collect::<BTreeSet<_>>() {
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
        let mut known = Known::default();
        for timeline in self.log.iter().flat_map(WalLog::timelines) {
            let runs = self.log.iter().flat_map(|log| log.parts_of(timeline));
            known.stored.entry(timeline).or_default().extend(runs);
            let turns = self.log.iter().flat_map(|log| log.turned_at(timeline));
            known.turns.extend(turns.map(|position| (timeline, position)));
        }
        for branch in self.histories.values().flat_map(|(_, lineage)| lineage.ancestors()) {
            let needed = segment_begin(Lsn(branch.ends_at), self.archive.segment_bytes).0;
            let end = known.ends.entry(branch.timeline).or_default();
            *end = needed.max(*end);
        }
        self.decided = decide(&held, &known);
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

    pub(super) fn steps(&self) -> Vec<PlanStep> {
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
    pub(super) fn check_holds(&self, parts: &[ImportPart]) -> Result<()> {
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

    pub(super) fn segments_of(&self, part: &ImportPart) -> impl Iterator<Item = &ArchivedSegment> {
        let range = (part.timeline, part.from.0)..(part.timeline, part.through.0);
        self.archive.segments.range(range).map(|(_, segment)| segment)
    }

    pub(super) async fn read(&self, segment: &ArchivedSegment) -> Result<Bytes> {
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
    pub(super) async fn walker_before(
        &self,
        repository: &Repository,
        part: &ImportPart,
    ) -> Result<WalWalker> {
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
    pub(super) async fn prove_borders(&self, repository: &Repository, part: &ImportPart) -> Result<()> {
        let (Some(log), segment_bytes) = (self.log.as_ref(), self.archive.segment_bytes) else {
            return Ok(());
        };
        let (Some(first), Some(last)) = (self.segments_of(part).next(), self.segments_of(part).last()) else {
            return Ok(());
        };
        self.check_turns(log, part, last)?;
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
            let until = reach.0.min(part.through.0.saturating_add(segment_bytes));
            for stored in self.stored(repository, part.timeline, part.through.0..until).await? {
                self.walk_beside(&mut walker, last, &stored, last, part.through)?;
            }
        }
        Ok(())
    }

    /// Where the server went back to an earlier state, two histories begin that are sound alone: behind that, what touches nothing that is stored
    /// may be of either.
    fn check_turns(&self, log: &WalLog, part: &ImportPart, last: &ArchivedSegment) -> Result<()> {
        let ImportPart { timeline, from, through, .. } = *part;
        let Some(turn) = log.turned_at(timeline).into_iter().filter(|turn| *turn <= from.0).max() else {
            return Ok(());
        };
        // What lies before that position leads to both.
        let is_led_to = turn < from.0 && log.since(timeline, from) < from;
        let leads_on = !last.is_partial && log.reach(timeline, through) > through;
        if is_led_to || leads_on || log.reach(timeline, from) > from {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Precondition,
            format!(
                "the server went back to {} once, and the archive's {from} to {through} of timeline {timeline} touches nothing that was captured since: it is not known which of the two histories it is of",
                Lsn(turn)
            ),
        )
        .with_state("nothing was changed")
        .with_hint("`mainstay backup list` names what is stored: add the segments between to the folder, or import from one without these"))
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
    pub(super) fn valid(&self, segment: &ArchivedSegment, plain: &[u8]) -> usize {
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

/// The log of `server`. A chain that cannot be read may be of it, and what it holds would be taken for not stored.
fn own_log(logs: WalLogs, server: &str) -> Result<Option<WalLog>> {
    let unread = logs.damaged.iter().find(|it| it.server.as_deref().is_none_or(|of| of == server));
    if let Some(unread) = unread {
        let what = format!("chain {} cannot be read: {}", unread.chain, unread.why);
        return Err(Error::new(ErrorKind::Corrupt, format!("it is not known what is stored: {what}"))
            .with_state("nothing was changed")
            .with_hint("`mainstay backup verify --log` names what is damaged"));
    }
    Ok(logs.of(server))
}

pub(super) fn damaged(segment: &ArchivedSegment, error: WalError, state: &str) -> Error {
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_model::{ChainId, Timestamp};

    use super::*;
    use crate::wal::log::DamagedLog;

    #[test]
    fn a_chain_that_cannot_be_read_is_not_taken_for_nothing() {
        for (server, expected) in
            [(None, Some(ErrorKind::Corrupt)), (Some("7"), Some(ErrorKind::Corrupt)), (Some("8"), None)]
        {
            let damaged = DamagedLog {
                chain: ChainId::new(Timestamp::from_second(0).unwrap(), 1),
                server: server.map(str::to_owned),
                slices: 1,
                why: "it is no JSON".to_owned(),
            };
            let refused = own_log(WalLogs { logs: Vec::new(), damaged: vec![damaged] }, "7").err();
            assert_eq!(refused.map(|error| error.kind()), expected, "{server:?}");
        }
    }
}
