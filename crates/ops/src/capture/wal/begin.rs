//! The beginning of a session: the slot, the chain to write, and the proof that the server's log continues it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstay_basebackup::{Lineage, WalError, WalWalker};
use mainstay_engine::{FollowWal, SlotRetention, WalEvent, WalPosition, WalStream};
use mainstay_guard::Permit;
use mainstay_model::{Error, ErrorKind, ErrorStatus, Lsn, Result, ResultExt, Target};
use mainstay_repository::{
    Chain, ChainBeginning, ChainReason, ChainWriter, LogClaim, LogKind, Slice, WalChain,
};
use tokio::time::{Instant, sleep};

use super::{WalCaptureContext, WalCaptureEvent};
use crate::wal::log::lineage_of;
use crate::wal::segment_begin;

/// How many bytes before the end of what is stored are read again and compared.
const PROOF_BYTES: u64 = 64 * 1024;

/// How many bytes are read for a record that tells which one is before it. Each page of a longer one tells that it goes on with it.
const RECORD_PROOF_BYTES: usize = 1024 * 1024;

/// How long the server may take to send what it has already.
const PROOF_TIME_MAX: Duration = Duration::from_secs(30);

/// How long the slot's holder, the connection of a capture that was killed, may take to end.
const SLOT_WAIT_MAX: Duration = Duration::from_secs(10);
const SLOT_LOOK_PAUSE: Duration = Duration::from_millis(100);

/// What a session begins with.
pub(super) struct Beginning<'a> {
    pub(super) context: &'a WalCaptureContext,
    pub(super) target: &'a Target,
    pub(super) slot: &'a str,
    pub(super) permit: &'a Permit,
    pub(super) claim: &'a LogClaim,
}

/// What is moved from where to where.
pub(super) struct Begun {
    pub(super) writer: ChainWriter,
    pub(super) stream: Box<dyn WalStream>,
    /// What has come already and follows the writer's end.
    pub(super) first: BytesMut,
    pub(super) timeline: u32,
    pub(super) segment_bytes: u64,
}

/// A server's log, as far as it decides what is written.
struct ServerLog {
    position: WalPosition,
    lineage: Lineage,
    history: Option<String>,
}

/// A chain, as far as it decides what is written.
#[derive(Debug, Clone)]
struct StoredChain {
    lineage: Lineage,
    end: Lsn,
}

/// What a session goes on with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    /// The end of this chain.
    Resume(usize),
    /// A new chain of this timeline, which branches off here; the chain before it is whole up to there.
    Branch { after: usize, timeline: u32, at: Lsn },
    /// A new chain where the slot stands.
    New(ChainReason, Option<usize>),
}

/// Decides, from what is stored (oldest first) and where the server stands.
///
/// # Errors
/// A timeline of the server that is stored with another history: another copy of the same cluster is there. A standby that has not come as
/// far as what is stored.
fn decide(server: &Lineage, stand: Stand, stored: &[StoredChain]) -> Result<Next, Unfit> {
    let own = |chain: &StoredChain| chain.lineage.leads_to(server);
    if let Some(other) =
        stored.iter().find(|chain| server.part(chain.lineage.timeline()).is_some() && !own(chain))
    {
        return Err(Unfit::Branched(other.lineage.timeline()));
    }
    let known = stored.iter().enumerate().filter(|(_, chain)| own(chain));
    let Some((index, chain)) = known.max_by_key(|(index, chain)| (chain.lineage.timeline(), *index)) else {
        let Some(last) = stored.len().checked_sub(1) else { return Ok(Next::New(ChainReason::First, None)) };
        // What is stored begins on a timeline that a standby will come to.
        let ahead = stored.iter().filter(|chain| stand.is_standby && server.leads_to(&chain.lineage));
        return match ahead.map(|chain| chain.end).max() {
            Some(end) => Err(Unfit::Behind(end)),
            None => Ok(Next::New(ChainReason::Diverged, Some(last))),
        };
    };
    match server.part(chain.lineage.timeline()) {
        Some((_, Some(end))) if chain.end.0 >= end => match server.after(chain.lineage.timeline()) {
            Some((timeline, at)) => Ok(Next::Branch { after: index, timeline, at: Lsn(at) }),
            None => Ok(Next::New(ChainReason::Diverged, Some(index))),
        },
        Some((_, None)) if stand.flushed < chain.end => match stand.is_standby {
            true => Err(Unfit::Behind(chain.end)),
            false => Ok(Next::New(ChainReason::Diverged, Some(index))),
        },
        _ => Ok(Next::Resume(index)),
    }
}

/// How far a server is, and whether it may come further by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stand {
    flushed: Lsn,
    is_standby: bool,
}

/// Why the server's log cannot be what is written next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unfit {
    /// The number of a timeline that is two.
    Branched(u32),
    /// The server has not come as far as this, which is stored.
    Behind(Lsn),
}

/// Where a new chain begins, and why.
struct Begins<'a> {
    timeline: u32,
    from: Lsn,
    why: ChainReason,
    before: Option<&'a Chain>,
}

/// How a chain was gone on with.
enum Resumed {
    Yes(Box<Begun>),
    No(ChainReason),
}

impl Beginning<'_> {
    /// The newest chain of the server's own history, gone on with where its end is at the server still; else a new one.
    ///
    /// # Errors
    /// The server's and the store's; `StalePlan` for another server; `Precondition` for another branch under a number that is taken, and, as
    /// something that passes, for a standby that is behind what is stored.
    pub(super) async fn begin(&self) -> Result<Begun> {
        let server = self.server().await?;
        let kept_from = self.ensure_slot(&server).await?;
        let chains = self.context.repository.chains_of(self.target.store, &self.target.fingerprint).await?;
        let (mut known, mut imported) = (Vec::new(), Vec::new());
        for chain in chains {
            let lineage = lineage_of(&chain).map_err(|why| {
                Error::new(
                    ErrorKind::Corrupt,
                    format!("the description of chain {} is damaged: {why}", chain.id()),
                )
            })?;
            let end = Lsn(chain.end().0);
            let is_imported = chain.description().why == ChainReason::Imported;
            let chains = if is_imported { &mut imported } else { &mut known };
            chains.push((chain, StoredChain { lineage, end }));
        }
        if let Some(begun) = self.begin_behind_import(&server, &known, &imported).await? {
            return Ok(begun);
        }
        let stored: Vec<StoredChain> = known.iter().map(|(_, stored)| stored.clone()).collect();
        let WalPosition { flushed, is_standby, .. } = server.position;
        let decided = decide(&server.lineage, Stand { flushed, is_standby }, &stored);
        let next = decided.map_err(|unfit| match unfit {
            Unfit::Branched(timeline) => self.other_branch(timeline),
            Unfit::Behind(end) => self.behind(flushed, end),
        })?;
        let at = |index: usize| known.get(index).map(|(chain, _)| chain);
        match next {
            Next::Resume(index) => {
                let (chain, stored) = &known[index];
                match self.resume(chain, stored, &server).await? {
                    Resumed::Yes(begun) => Ok(*begun),
                    Resumed::No(why) => self.begin_where_kept(&server, kept_from, why, Some(chain)).await,
                }
            }
            Next::Branch { after, timeline, at: branch } => {
                let from = segment_begin(branch, server.position.segment_bytes);
                let begun =
                    self.begin_chain(&server, timeline, from, ChainReason::Timeline, at(after)).await?;
                match begun {
                    Some(begun) => Ok(begun),
                    None => self.begin_where_kept(&server, kept_from, ChainReason::Overrun, at(after)).await,
                }
            }
            Next::New(why, before) => {
                self.begin_where_kept(&server, kept_from, why, before.and_then(at)).await
            }
        }
    }

    /// Where nothing was captured yet: the first chain, behind the end of what was imported, when the server has all of its log from there on.
    ///
    /// # Errors
    /// `Precondition` when what was imported is of another history than the server's.
    async fn begin_behind_import(
        &self,
        server: &ServerLog,
        captured: &[(Chain, StoredChain)],
        imported: &[(Chain, StoredChain)],
    ) -> Result<Option<Begun>> {
        let other = imported.iter().find(|(_, stored)| {
            let is_known = server.lineage.part(stored.lineage.timeline()).is_some();
            is_known && !stored.lineage.leads_to(&server.lineage)
        });
        if let Some((_, stored)) = other {
            return Err(self.other_branch(stored.lineage.timeline()));
        }
        let (position, lineage) = (&server.position, &server.lineage);
        let newest = imported.iter().filter(|(_, stored)| {
            stored.lineage == *lineage
                && stored.end.0.is_multiple_of(position.segment_bytes)
                && stored.end <= position.flushed
        });
        let newest = newest.max_by_key(|(_, stored)| stored.end).filter(|_| captured.is_empty());
        let Some((chain, stored)) = newest else { return Ok(None) };
        match self.compare(chain, stored, position.segment_bytes).await? {
            Compared::Same(stream, first) => {
                let begins = Begins {
                    timeline: lineage.timeline(),
                    from: stored.end,
                    why: ChainReason::First,
                    before: Some(chain),
                };
                self.write_chain(server, begins, stream, first).await.map(Some)
            }
            Compared::Other => Err(Error::new(
                ErrorKind::Precondition,
                format!(
                    "the WAL that was imported up to {} is of another history than that of the server at {}",
                    stored.end, self.target.address
                ),
            )
            .with_state("nothing was stored")
            .with_hint("capture this server into a repository of its own")),
            Compared::Gone | Compared::Unknown => Ok(None),
        }
    }

    async fn server(&self) -> Result<ServerLog> {
        let position = self.context.source.wal_position().await?;
        if position.fingerprint != self.target.fingerprint {
            return Err(Error::new(
                ErrorKind::StalePlan,
                format!(
                    "the capture is of server {}, this is {}",
                    self.target.fingerprint, position.fingerprint
                ),
            )
            .with_hint("run the command again, so that it looks at the server that answers now"));
        }
        let history = self.history(position.timeline).await?;
        let lineage = read_lineage(position.timeline, history.as_deref())?;
        Ok(ServerLog { position, lineage, history })
    }

    /// How `timeline` came about; `None` for the first, which has no history.
    async fn history(&self, timeline: u32) -> Result<Option<String>> {
        if timeline == 1 {
            return Ok(None);
        }
        let history = self.context.source.timeline_history(timeline).await?;
        Ok(Some(String::from_utf8_lossy(&history.content).into_owned()))
    }

    /// Makes sure that the server keeps its log; gives from where on.
    async fn ensure_slot(&self, server: &ServerLog) -> Result<Lsn> {
        let source = &self.context.source;
        let is_there = match source.slot_health(self.slot).await? {
            None => false,
            Some(health) if health.retention == SlotRetention::Lost => {
                self.tell(&WalCaptureEvent::SlotLost { slot: self.slot.to_owned() });
                source.drop_wal_slot(self.slot, self.permit).await?;
                false
            }
            Some(_) => true,
        };
        if !is_there {
            source.create_wal_slot(self.slot).await?;
            self.tell(&WalCaptureEvent::SlotCreated { slot: self.slot.to_owned() });
        }
        let slot = source.wal_slot(self.slot).await?;
        Ok(slot.and_then(|slot| slot.kept_from).unwrap_or(server.position.flushed))
    }

    fn tell(&self, event: &WalCaptureEvent) {
        self.context.observer.event(event);
    }

    fn behind(&self, flushed: Lsn, end: Lsn) -> Error {
        Error::new(
            ErrorKind::Precondition,
            format!(
                "the standby at {} is behind: it has WAL up to {flushed}, stored is {end}",
                self.target.address
            ),
        )
        .with_status(ErrorStatus::Temporary)
        .with_state("nothing is missing from what is stored, and nothing was added")
        .with_hint("capture goes on when the standby has caught up; or let it follow the primary")
    }

    fn other_branch(&self, timeline: u32) -> Error {
        Error::new(
            ErrorKind::Precondition,
            format!(
                "timeline {timeline} of the server at {} branches off elsewhere than timeline {timeline} in the repository",
                self.target.address
            ),
        )
        .with_state("nothing was stored")
        .with_hint("two copies of one cluster have begun the same timeline; capture each into a repository of its own")
    }

    /// Goes on with `chain`, when the bytes before its end are the server's, too.
    async fn resume(&self, chain: &Chain, stored: &StoredChain, server: &ServerLog) -> Result<Resumed> {
        let segment_bytes = server.position.segment_bytes;
        let timeline = stored.lineage.timeline();
        let compared = self.compare(chain, stored, segment_bytes).await?;
        let (stream, first) = match compared {
            Compared::Same(stream, first) => (stream, first),
            Compared::Other => return Ok(Resumed::No(ChainReason::Diverged)),
            Compared::Gone => return Ok(Resumed::No(ChainReason::Overrun)),
            Compared::Unknown => return Ok(Resumed::No(ChainReason::Unreadable)),
        };
        let writer = self.claim.resume_chain(chain)?;
        self.tell(&WalCaptureEvent::ChainResumed { chain: chain.id().clone(), timeline, at: stored.end });
        Ok(Resumed::Yes(Box::new(Begun { writer, stream, first, timeline, segment_bytes })))
    }

    /// Whether the server's log continues `chain`: by the last bytes that are stored, where the server has these still, or by the record that
    /// follows them.
    async fn compare(&self, chain: &Chain, stored: &StoredChain, segment_bytes: u64) -> Result<Compared> {
        let proof = match self.proof(chain).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Compared::Unknown),
            proof => proof?,
        };
        if !proof.is_empty() && proof.iter().all(|byte| *byte == 0) {
            return self.compare_unused(chain, stored, segment_bytes).await;
        }
        let from = Lsn(stored.end.0 - proof.len() as u64);
        let compared = match self.follow(from, stored.lineage.timeline()).await? {
            Some(mut stream) => prove(stream.as_mut(), from, &proof).await?.of(stream),
            None => Compared::Gone,
        };
        match compared {
            // The segment of the last bytes may be gone while what follows them is there.
            Compared::Gone if !proof.is_empty() => self.compare_records(chain, stored, segment_bytes).await,
            compared => Ok(compared),
        }
    }

    /// The last bytes of a chain, all in one segment.
    async fn proof(&self, chain: &Chain) -> Result<Bytes> {
        let Some(last) = chain.slices().last() else { return Ok(Bytes::new()) };
        let plain = self.context.repository.read_slice(chain, last).await.context("read the last slice")?;
        if plain.len() as u64 != last.through.0 - last.after.0 {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} is not as long as its name says", last.name()),
            ));
        }
        let length = usize::try_from(PROOF_BYTES).unwrap_or(usize::MAX).min(plain.len());
        Ok(plain.slice(plain.len() - length..))
    }

    /// Compares what follows the chain at the server by its first record alone, which names the one before it.
    async fn compare_records(
        &self,
        chain: &Chain,
        stored: &StoredChain,
        segment_bytes: u64,
    ) -> Result<Compared> {
        let walker = match self.walk_end(chain, segment_bytes).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Compared::Unknown),
            walker => walker?,
        };
        let Some(walker) = walker else { return Ok(Compared::Unknown) };
        let Some(mut stream) = self.follow(stored.end, stored.lineage.timeline()).await? else {
            return Ok(Compared::Gone);
        };
        Ok(prove_records(stream.as_mut(), stored.end, walker).await?.of(stream))
    }

    /// The same for a chain that ends with the unused rest of a segment, which says nothing: the last record before it is compared.
    async fn compare_unused(
        &self,
        chain: &Chain,
        stored: &StoredChain,
        segment_bytes: u64,
    ) -> Result<Compared> {
        let walker = match self.walk_end(chain, segment_bytes).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Compared::Unknown),
            walker => walker?,
        };
        let Some(last) = walker.and_then(|walker| walker.last()) else { return Ok(Compared::Unknown) };
        let until = last.saturating_add(PROOF_BYTES).min(stored.end.0);
        let mut expected = BytesMut::new();
        for slice in chain.slices_between(Lsn(last).into(), Lsn(until).into()) {
            let plain = self.context.repository.read_slice(chain, slice).await;
            let plain = plain.with_context(|| format!("read {}", slice.name()))?;
            let within = |position: u64| {
                usize::try_from(position.saturating_sub(slice.after.0)).unwrap_or(usize::MAX).min(plain.len())
            };
            expected.extend_from_slice(&plain[within(last)..within(until)]);
        }
        let timeline = stored.lineage.timeline();
        let look = FollowWal { slot: None, from: Lsn(last), timeline };
        let looked = match self.context.source.follow_wal(&look).await {
            Err(error) if error.kind() == ErrorKind::Precondition => Proof::Gone,
            stream => prove(stream?.as_mut(), Lsn(last), &expected).await?,
        };
        match looked {
            Proof::Same(_) => {}
            Proof::Other => return Ok(Compared::Other),
            Proof::Gone => return self.compare_records(chain, stored, segment_bytes).await,
        }
        match self.follow(stored.end, timeline).await? {
            Some(mut stream) => Ok(prove(stream.as_mut(), stored.end, &[]).await?.of(stream)),
            None => Ok(Compared::Gone),
        }
    }

    /// A walker that has come to the end of `chain`, and knows its last record; `None` when the last slices hold none.
    async fn walk_end(&self, chain: &Chain, segment_bytes: u64) -> Result<Option<WalWalker>> {
        let slices = chain.slices();
        let Some(last) = slices.last() else { return Ok(None) };
        // From the first byte of the last segment on nothing is in the way of finding a record but damage.
        let begin = segment_begin(Lsn(last.after.0), segment_bytes);
        let in_segment = slices.len() - slices.partition_point(|slice| slice.after.0 < begin.0);
        let mut failed = None;
        for count in [1, 8, 64].into_iter().filter(|count| *count < in_segment).chain([in_segment]) {
            match self.walk(chain, &slices[slices.len() - count..], segment_bytes).await {
                Ok(walker) if walker.last().is_some() => return Ok(Some(walker)),
                Ok(_) => {}
                // What begins in the unused rest of a segment finds no page there.
                Err(error) if error.kind() == ErrorKind::Corrupt => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    async fn walk(&self, chain: &Chain, slices: &[Slice], segment_bytes: u64) -> Result<WalWalker> {
        let from = slices.first().map_or(chain.end(), |slice| slice.after);
        let mut walker = WalWalker::anywhere(from.0, segment_bytes);
        for slice in slices {
            let plain = self.context.repository.read_slice(chain, slice).await;
            let plain = plain.with_context(|| format!("read {}", slice.name()))?;
            walker.push(&plain, &mut |_| ()).map_err(|error| damaged(&slice.name(), error))?;
        }
        Ok(walker)
    }

    /// Follows the log from `from` on; `None` when the server no longer has it. Waits for the connection of a capture that was killed to end.
    async fn follow(&self, from: Lsn, timeline: u32) -> Result<Option<Box<dyn WalStream>>> {
        let request = FollowWal { slot: Some(self.slot.to_owned()), from, timeline };
        let deadline = Instant::now() + SLOT_WAIT_MAX;
        loop {
            match self.context.source.follow_wal(&request).await {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) if error.kind() == ErrorKind::Precondition => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Locked && Instant::now() < deadline => {
                    sleep(SLOT_LOOK_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins a chain in the segment from which on the server keeps its log for the slot.
    async fn begin_where_kept(
        &self,
        server: &ServerLog,
        kept_from: Lsn,
        why: ChainReason,
        before: Option<&Chain>,
    ) -> Result<Begun> {
        let segment_bytes = server.position.segment_bytes;
        // What is damaged at the end may be there still.
        let again = before.filter(|_| why == ChainReason::Unreadable).map(|chain| Lsn(chain.end().0));
        for at in again.into_iter().chain([kept_from]) {
            let from = segment_begin(at, segment_bytes);
            let timeline = server.lineage.timeline_at(at.0);
            if let Some(begun) = self.begin_chain(server, timeline, from, why, before).await? {
                return Ok(begun);
            }
        }
        Err(Error::new(
            ErrorKind::Server,
            format!("the server does not have the WAL that slot {} keeps", self.slot),
        )
        .with_hint(format!(
            "drop the slot, and capture makes it anew: `SELECT pg_drop_replication_slot('{}')`",
            self.slot
        )))
    }

    /// Begins a chain of `timeline` after `from`; `None` when the server no longer has that.
    async fn begin_chain(
        &self,
        server: &ServerLog,
        timeline: u32,
        from: Lsn,
        why: ChainReason,
        before: Option<&Chain>,
    ) -> Result<Option<Begun>> {
        let Some(mut stream) = self.follow(from, timeline).await? else { return Ok(None) };
        let first = match prove(stream.as_mut(), from, &[]).await? {
            Proof::Same(first) => first,
            Proof::Other | Proof::Gone => return Ok(None),
        };
        self.write_chain(server, Begins { timeline, from, why, before }, stream, first).await.map(Some)
    }

    /// The new chain that `stream` fills.
    async fn write_chain(
        &self,
        server: &ServerLog,
        Begins { timeline, from, why, before }: Begins<'_>,
        stream: Box<dyn WalStream>,
        first: BytesMut,
    ) -> Result<Begun> {
        let history = match timeline == server.position.timeline {
            true => server.history.clone(),
            false => self.history(timeline).await?,
        };
        let segment_bytes = server.position.segment_bytes;
        let beginning = ChainBeginning {
            kind: LogKind::Wal,
            environment: self.target.environment.clone(),
            after: from.into(),
            why,
            predecessor: before.map(|chain| chain.id().clone()),
            wal: Some(WalChain { timeline, segment_bytes, history }),
        };
        let writer = self.claim.begin_chain(beginning).await?;
        let before_end = before.map(|chain| Lsn(chain.end().0));
        self.tell(&WalCaptureEvent::ChainBegun {
            chain: writer.id().clone(),
            timeline,
            after: from,
            why,
            gap_after: before_end.filter(|end| *end < from),
        });
        Ok(Begun { writer, stream, first, timeline, segment_bytes })
    }
}

fn read_lineage(timeline: u32, history: Option<&str>) -> Result<Lineage> {
    match history {
        None => Ok(Lineage::without_history(timeline)),
        Some(history) => Lineage::read(timeline, history.as_bytes()).map_err(|source| {
            Error::new(ErrorKind::Server, format!("the server's history cannot be read: {source}"))
                .with_source(source)
        }),
    }
}

fn damaged(name: &str, error: WalError) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{name}: {error}")).with_source(error)
}

/// Whether the first bytes of a stream continue those that are stored.
enum Proof {
    /// They do; these came behind what is stored.
    Same(BytesMut),
    /// They do not.
    Other,
    /// The server no longer has them.
    Gone,
}

/// The same, with the stream that goes on from there.
enum Compared {
    Same(Box<dyn WalStream>, BytesMut),
    Other,
    Gone,
    /// What is stored does not tell.
    Unknown,
}

impl Proof {
    fn of(self, stream: Box<dyn WalStream>) -> Compared {
        match self {
            Self::Same(first) => Compared::Same(stream, first),
            Self::Other => Compared::Other,
            Self::Gone => Compared::Gone,
        }
    }
}

/// What a server has sent by now of what it has already.
enum Sent {
    Bytes(Bytes),
    /// How far its log goes, or nothing.
    Word(bool),
    Gone,
}

async fn sent(stream: &mut dyn WalStream) -> Result<Sent> {
    match stream.next(Duration::from_secs(1)).await {
        Ok(WalEvent::Bytes { bytes, .. }) => Ok(Sent::Bytes(bytes)),
        Ok(WalEvent::Quiet { server_end }) => Ok(Sent::Word(server_end.is_some())),
        Ok(WalEvent::TimelineEnd { .. }) => {
            Err(Error::new(ErrorKind::Unreachable, "the timeline ended before what is stored of it did"))
        }
        Err(error) if error.kind() == ErrorKind::Precondition => Ok(Sent::Gone),
        Err(error) => Err(error),
    }
}

fn not_sent() -> Error {
    Error::new(ErrorKind::Unreachable, "the server does not send what it has")
}

/// Reads as many bytes as `expected` has, from `from` on, and compares; without any, waits for a sign that the server has what was asked for.
async fn prove(stream: &mut dyn WalStream, from: Lsn, expected: &[u8]) -> Result<Proof> {
    let deadline = Instant::now() + PROOF_TIME_MAX;
    let mut received = BytesMut::new();
    if expected.is_empty() {
        // It answers, or says that it has no longer what was asked for.
        stream.acknowledge(from).await?;
    }
    loop {
        let has_answered = match sent(stream).await? {
            Sent::Bytes(bytes) => {
                received.extend_from_slice(&bytes);
                true
            }
            Sent::Word(is_one) => is_one,
            Sent::Gone => return Ok(Proof::Gone),
        };
        if has_answered && received.len() >= expected.len() {
            let begins = received.split_to(expected.len());
            return Ok(if begins == expected { Proof::Same(received) } else { Proof::Other });
        }
        if Instant::now() >= deadline {
            return Err(not_sent());
        }
    }
}

/// Reads from `from` on, where `walker` is, until a record has ended there that follows the last one it has seen.
async fn prove_records(stream: &mut dyn WalStream, from: Lsn, mut walker: WalWalker) -> Result<Proof> {
    let deadline = Instant::now() + PROOF_TIME_MAX;
    let mut received = BytesMut::new();
    stream.acknowledge(from).await?;
    loop {
        match sent(stream).await? {
            Sent::Bytes(bytes) => {
                let mut has_ended = false;
                if walker.push(&bytes, &mut |_| has_ended = true).is_err() {
                    return Ok(Proof::Other);
                }
                received.extend_from_slice(&bytes);
                if has_ended || received.len() >= RECORD_PROOF_BYTES {
                    return Ok(Proof::Same(received));
                }
            }
            Sent::Word(_) => {}
            Sent::Gone => return Ok(Proof::Gone),
        }
        if Instant::now() >= deadline {
            return Err(not_sent());
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn lineage(timeline: u32, history: &str) -> Lineage {
        Lineage::read(timeline, history.as_bytes()).unwrap()
    }

    #[test]
    fn a_session_goes_on_with_the_newest_chain_of_its_history() {
        const TO_TWO: &str = "1 0/300 x";
        const TO_THREE: &str = "1 0/300 x\n2 0/500 x";
        let chain =
            |timeline, history, end| StoredChain { lineage: lineage(timeline, history), end: Lsn(end) };
        let one = |end| chain(1, "", end);
        let next = |timeline, history, flushed, stored: &[StoredChain]| {
            decide(&lineage(timeline, history), Stand { flushed: Lsn(flushed), is_standby: false }, stored)
        };
        let standby = |timeline, history, flushed, stored: &[StoredChain]| {
            decide(&lineage(timeline, history), Stand { flushed: Lsn(flushed), is_standby: true }, stored)
        };
        let branch = |after, timeline, at| Ok(Next::Branch { after, timeline, at: Lsn(at) });
        let new = |why, before| Ok(Next::New(why, before));

        assert_eq!(next(1, "", 0x200, &[]), new(ChainReason::First, None));
        assert_eq!(next(1, "", 0x200, &[one(0x200)]), Ok(Next::Resume(0)));
        assert_eq!(
            next(1, "", 0x200, &[one(0x201)]),
            new(ChainReason::Diverged, Some(0)),
            "the server went back"
        );
        assert_eq!(next(1, "", 0x400, &[one(0x100), one(0x200)]), Ok(Next::Resume(1)));
        assert_eq!(
            next(2, TO_TWO, 0x400, &[one(0x200)]),
            Ok(Next::Resume(0)),
            "the rest of the first timeline"
        );
        assert_eq!(next(2, TO_TWO, 0x400, &[one(0x300)]), branch(0, 2, 0x300));
        assert_eq!(next(2, TO_TWO, 0x400, &[one(0x380)]), branch(0, 2, 0x300), "what the standby never had");
        assert_eq!(
            next(3, TO_THREE, 0x600, &[one(0x300)]),
            branch(0, 2, 0x300),
            "one timeline after the other"
        );
        assert_eq!(next(3, TO_THREE, 0x600, &[one(0x300), chain(2, TO_TWO, 0x500)]), branch(1, 3, 0x500));
        assert_eq!(
            next(1, "", 0x400, &[one(0x300), chain(2, TO_TWO, 0x500)]),
            Ok(Next::Resume(0)),
            "the old primary"
        );
        assert_eq!(next(1, "", 0x400, &[chain(2, TO_TWO, 0x500)]), new(ChainReason::Diverged, Some(0)));
        assert_eq!(
            next(2, TO_TWO, 0x400, &[one(0x300), chain(2, "1 0/280 x", 0x400)]),
            Err(Unfit::Branched(2))
        );

        let behind = |end| Err(Unfit::Behind(Lsn(end)));
        assert_eq!(standby(1, "", 0x200, &[one(0x200)]), Ok(Next::Resume(0)));
        assert_eq!(standby(1, "", 0x200, &[one(0x201)]), behind(0x201), "it comes further by itself");
        assert_eq!(standby(1, "", 0x280, &[chain(2, TO_TWO, 0x500)]), behind(0x500));
        let both = [one(0x300), chain(2, TO_TWO, 0x500)];
        assert_eq!(standby(1, "", 0x280, &both), behind(0x300));
        assert_eq!(standby(1, "", 0x300, &both), Ok(Next::Resume(0)), "and then to the next timeline");
        let other = [chain(2, "1 0/180 x", 0x500)];
        assert_eq!(standby(3, TO_THREE, 0x600, &other), Err(Unfit::Branched(2)));
    }
}
