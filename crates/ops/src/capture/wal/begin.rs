//! The beginning of a session: the slot, the chain to write, and the proof that the server's log continues it.

use std::time::Duration;

use bytes::BytesMut;
use mainstay_basebackup::Lineage;
use mainstay_engine::{FollowWal, SlotRetention, WalEvent, WalPosition, WalStream};
use mainstay_guard::Permit;
use mainstay_model::{Error, ErrorKind, Lsn, Result, ResultExt, Target};
use mainstay_repository::{Chain, ChainBeginning, ChainReason, ChainWriter, LogClaim, LogKind, WalChain};
use tokio::time::{Instant, sleep};

use super::{WalCaptureContext, WalCaptureEvent};
use crate::wal::log::lineage_of;
use crate::wal::segment_begin;

/// How many bytes before the end of what is stored are read again and compared.
const PROOF_BYTES: u64 = 64 * 1024;

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
/// A timeline of the server that is stored with another history: another copy of the same cluster is there.
fn decide(server: &Lineage, flushed: Lsn, stored: &[StoredChain]) -> Result<Next, Branched> {
    let own = |chain: &StoredChain| chain.lineage.leads_to(server);
    if let Some(other) =
        stored.iter().find(|chain| server.part(chain.lineage.timeline()).is_some() && !own(chain))
    {
        return Err(Branched(other.lineage.timeline()));
    }
    let known = stored.iter().enumerate().filter(|(_, chain)| own(chain));
    let Some((index, chain)) = known.max_by_key(|(index, chain)| (chain.lineage.timeline(), *index)) else {
        return Ok(match stored.len().checked_sub(1) {
            None => Next::New(ChainReason::First, None),
            last => Next::New(ChainReason::Diverged, last),
        });
    };
    match server.part(chain.lineage.timeline()) {
        Some((_, Some(end))) if chain.end.0 >= end => match server.after(chain.lineage.timeline()) {
            Some((timeline, at)) => Ok(Next::Branch { after: index, timeline, at: Lsn(at) }),
            None => Ok(Next::New(ChainReason::Diverged, Some(index))),
        },
        Some((_, None)) if flushed < chain.end => Ok(Next::New(ChainReason::Diverged, Some(index))),
        _ => Ok(Next::Resume(index)),
    }
}

/// The number of a timeline that is two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Branched(u32);

/// How a chain was gone on with.
enum Resumed {
    Yes(Box<Begun>),
    No(ChainReason),
}

impl Beginning<'_> {
    /// The newest chain of the server's own history, gone on with where its end is at the server still; else a new one.
    ///
    /// # Errors
    /// The server's and the store's; `StalePlan` for another server; `Precondition` for another branch under a number that is taken.
    pub(super) async fn begin(&self) -> Result<Begun> {
        let server = self.server().await?;
        let kept_from = self.ensure_slot(&server).await?;
        let chains = self.context.repository.chains_of(self.target.store, &self.target.fingerprint).await?;
        let mut known = Vec::new();
        for chain in chains {
            let lineage = lineage_of(&chain).map_err(|why| {
                Error::new(
                    ErrorKind::Corrupt,
                    format!("the description of chain {} is damaged: {why}", chain.id()),
                )
            })?;
            let end = Lsn(chain.end().0);
            known.push((chain, StoredChain { lineage, end }));
        }
        let stored: Vec<StoredChain> = known.iter().map(|(_, stored)| stored.clone()).collect();
        let decided = decide(&server.lineage, server.position.flushed, &stored);
        let next = decided.map_err(|branched| self.other_branch(branched))?;
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

    fn other_branch(&self, Branched(timeline): Branched) -> Error {
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
        let proof = match self.proof(chain, segment_bytes).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return Ok(Resumed::No(ChainReason::Unreadable));
            }
            proof => proof?,
        };
        let from = Lsn(stored.end.0 - proof.len() as u64);
        let followed = match self.follow(from, timeline).await? {
            // The segment before the last may be gone while the end is there.
            None if !proof.is_empty() => {
                self.follow(stored.end, timeline).await?.map(|stream| (stream, BytesMut::new()))
            }
            None => None,
            Some(mut stream) => match prove(stream.as_mut(), from, &proof).await? {
                Proof::Same(first) => Some((stream, first)),
                Proof::Other => return Ok(Resumed::No(ChainReason::Diverged)),
                Proof::Gone => None,
            },
        };
        let Some((stream, first)) = followed else { return Ok(Resumed::No(ChainReason::Overrun)) };
        let writer = self.claim.resume_chain(chain)?;
        self.tell(&WalCaptureEvent::ChainResumed { chain: chain.id().clone(), timeline, at: stored.end });
        Ok(Resumed::Yes(Box::new(Begun { writer, stream, first, timeline, segment_bytes })))
    }

    /// The last bytes of a chain, as far as they lie in the segment that the server keeps. Nothing where the chain ends with a segment.
    async fn proof(&self, chain: &Chain, segment_bytes: u64) -> Result<bytes::Bytes> {
        let Some(last) = chain.slices().last() else { return Ok(bytes::Bytes::new()) };
        let plain = self.context.repository.read_slice(chain, last).await.context("read the last slice")?;
        if plain.len() as u64 != last.through.0 - last.after.0 {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} is not as long as its name says", last.name()),
            ));
        }
        let in_segment = last.through.0 % segment_bytes;
        let length = in_segment.min(PROOF_BYTES).min(plain.len() as u64);
        Ok(plain.slice(plain.len() - usize::try_from(length).unwrap_or(0)..))
    }

    /// Follows the log from `from` on; `None` when the server no longer has it. Waits for the connection of a capture that was killed to end.
    async fn follow(&self, from: Lsn, timeline: u32) -> Result<Option<Box<dyn WalStream>>> {
        let request = FollowWal { slot: Some(self.slot.to_owned()), from, timeline };
        let deadline = Instant::now() + SLOT_WAIT_MAX;
        loop {
            match self.context.source.follow_wal(&request).await {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) if error.kind() == ErrorKind::Precondition => return Ok(None),
                Err(error) if error.message().contains("serves that slot") && Instant::now() < deadline => {
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
        Ok(Some(Begun { writer, stream, first, timeline, segment_bytes }))
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

/// Whether the first bytes of a stream are those that are stored.
enum Proof {
    /// They are; these came behind them.
    Same(BytesMut),
    /// They are not.
    Other,
    /// The server no longer has them.
    Gone,
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
        let has_answered = match stream.next(Duration::from_secs(1)).await {
            Ok(WalEvent::Bytes { bytes, .. }) => {
                received.extend_from_slice(&bytes);
                true
            }
            Ok(WalEvent::Quiet { server_end }) => server_end.is_some(),
            Ok(WalEvent::TimelineEnd { .. }) => {
                return Err(Error::new(
                    ErrorKind::Unreachable,
                    "the timeline ended before what is stored of it did",
                ));
            }
            Err(error) if error.kind() == ErrorKind::Precondition => return Ok(Proof::Gone),
            Err(error) => return Err(error),
        };
        if has_answered && received.len() >= expected.len() {
            let begins = received.split_to(expected.len());
            return Ok(if begins == expected { Proof::Same(received) } else { Proof::Other });
        }
        if Instant::now() >= deadline {
            return Err(Error::new(ErrorKind::Unreachable, "the server does not send what it has"));
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
            decide(&lineage(timeline, history), Lsn(flushed), stored)
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
        assert_eq!(next(2, TO_TWO, 0x400, &[one(0x300), chain(2, "1 0/280 x", 0x400)]), Err(Branched(2)));
    }
}
