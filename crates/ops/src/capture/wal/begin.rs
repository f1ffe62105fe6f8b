//! The beginning of a session: the slot, and the chain to write, which the server's log is proven to continue ([`proof`](super::proof)).

use std::time::Duration;

use bytes::BytesMut;
use mainstay_basebackup::Lineage;
use mainstay_engine::{FollowWal, SlotRetention, WalPosition, WalStream};
use mainstay_guard::Permit;
use mainstay_model::{Error, ErrorKind, ErrorStatus, Lsn, Result, Target};
use mainstay_repository::{Chain, ChainBeginning, ChainReason, ChainWriter, LogClaim, LogKind, WalChain};
use tokio::time::{Instant, sleep};

use super::proof::{Compared, Proof, prove};
use super::{WalCaptureContext, WalCaptureEvent};
use crate::wal::log::lineage_of;
use crate::wal::segment_begin;

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
pub(super) struct StoredChain {
    pub(super) lineage: Lineage,
    pub(super) end: Lsn,
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
                .with_state("nothing was added to what is stored")
                .with_hint("`mainstay backup verify --log` names what is damaged")
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

    /// Follows the log from `from` on; `None` when the server no longer has it. Waits for the connection of a capture that was killed to end.
    pub(super) async fn follow(&self, from: Lsn, timeline: u32) -> Result<Option<Box<dyn WalStream>>> {
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
            replication: None,
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
                .with_state("nothing was added to what is stored")
                .with_hint(format!(
                    "look at it on the server: `SELECT pg_read_file('pg_wal/{timeline:08X}.history')`"
                ))
        }),
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
