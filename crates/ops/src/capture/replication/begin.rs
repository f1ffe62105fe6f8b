//! The beginning of a session: the chain to write, the proof that the server's stream continues it, and all keys where it does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use mainstay_engine::{FollowedReplication, ReplicationFacts, ReplicationPoint, ReplicationStream};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Error, ErrorKind, LogPosition, Result, ResultExt, SetId, StoreKind, Target, Timestamp};
use mainstay_repository::{
    Chain, ChainBeginning, ChainReason, ChainWriter, LogClaim, LogKind, ReplicationChain, SetWriter,
};

use tokio::time::Instant;

use super::{ReplicationCaptureContext, ReplicationCaptureEvent, ReplicationCaptureObserver, stopped};
use crate::keyfile::{self, KeyFileSetContents};
use crate::replication::log::{BaseSet, chain_point, read_slice, sets};

/// How often it is told how far the keys have come.
const BASE_TELL_EVERY: Duration = Duration::from_secs(10);

/// What a session begins with.
pub(super) struct Beginning<'a> {
    pub(super) context: &'a ReplicationCaptureContext,
    pub(super) target: &'a Target,
    pub(super) claim: &'a LogClaim,
    /// Where it is left when the server began to send its keys, if it did.
    pub(super) base_begun: &'a OnceLock<Instant>,
}

/// What is moved from where to where.
pub(super) struct Begun {
    pub(super) writer: ChainWriter,
    pub(super) stream: Box<dyn ReplicationStream>,
    /// The stream's name.
    pub(super) id: String,
    /// The set that was made for it.
    pub(super) base: Option<SetId>,
    /// What the server had already when the session began: nobody knows when it was recorded but for this.
    pub(super) behind: Behind,
}

/// Bytes that came late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Behind {
    /// Up to this position.
    pub(super) through: u64,
    /// They were recorded after this, in milliseconds since 1970.
    pub(super) since_ms: i64,
}

/// What a session goes on with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    /// The end of this chain.
    Resume(usize),
    /// This set, in a new chain.
    Join(usize, ChainReason),
    /// All keys, in a new set, and a new chain.
    Anew(ChainReason),
}

/// Decides, from where the server stands, the ends of chains and the sets that are stored, both oldest first.
fn decide(facts: &ReplicationFacts, chains: &[ReplicationPoint], sets: &[ReplicationPoint]) -> Next {
    let is_kept = |offset: u64| facts.backlog.is_some_and(|backlog| backlog.after <= offset);
    let known = chains.iter().rposition(|end| leads_here(facts, end));
    let why = match known {
        Some(index) if is_kept(chains[index].offset) => return Next::Resume(index),
        Some(_) => ChainReason::Overrun,
        None if chains.is_empty() => ChainReason::First,
        None => ChainReason::Diverged,
    };
    let joined = sets
        .iter()
        .enumerate()
        .filter(|(_, set)| set.id == facts.at.id && leads_here(facts, set) && is_kept(set.offset));
    match joined.max_by_key(|(_, set)| set.offset) {
        Some((index, _)) => Next::Join(index, why),
        None => Next::Anew(why),
    }
}

/// Whether what the server has now follows from `point`.
fn leads_here(facts: &ReplicationFacts, point: &ReplicationPoint) -> bool {
    facts.follow_from(point)
}

/// The fingerprint under which the server's stream is stored. A server that was never marked has another fingerprint after a restart, and its
/// stream may go on nevertheless: then it is that of the chain that is gone on with.
///
/// # Errors
/// `StalePlan` when the server that answers is another one than `target`.
pub(super) async fn server(context: &ReplicationCaptureContext, target: &Target) -> Result<String> {
    let facts = context.source.replication_facts().await?;
    let chains = context.repository.chains(StoreKind::Redis).await?;
    let chains = chains.into_iter().filter_map(mainstay_repository::ChainEntry::whole);
    let continued = chains.filter(|chain| chain_point(chain).is_some_and(|end| leads_here(&facts, &end)));
    if let Some(chain) = continued.last() {
        return Ok(chain.description().server.clone());
    }
    if facts.fingerprint != target.fingerprint && facts.is_marked {
        return Err(Error::new(
            ErrorKind::StalePlan,
            format!("the capture is of server {}, this is {}", target.fingerprint, facts.fingerprint),
        )
        .with_hint("run the command again, so that it looks at the server that answers now"));
    }
    Ok(target.fingerprint.clone())
}

impl Beginning<'_> {
    /// The newest chain that the server's stream follows from, gone on with where the server still can; else a new one.
    ///
    /// # Errors
    /// The server's and the store's; `Interrupted` when the capture is asked to stop. A set that was begun is given up then.
    pub(super) async fn begin(&self) -> Result<Begun> {
        let (facts, chains, sets) = self.unless_stopped(self.look()).await?;
        let ends: Vec<_> = chains.iter().filter_map(chain_point).collect();
        let points: Vec<_> = sets.iter().map(|set| set.at.clone()).collect();
        let before = chains.last();
        match decide(&facts, &ends, &points) {
            Next::Resume(index) => self.resume(&chains[index], before).await,
            Next::Join(index, why) => {
                let set = &sets[index];
                self.join((set.set.id(), &set.at, set.set.manifest().begun_at), why, before).await
            }
            Next::Anew(why) => self.anew(why, before).await,
        }
    }

    /// Where the server stands, and what is stored of it.
    async fn look(&self) -> Result<(ReplicationFacts, Vec<Chain>, Vec<BaseSet>)> {
        let repository = &self.context.repository;
        let facts = self.context.source.replication_facts().await?;
        let chains = repository.chains_of(StoreKind::Redis, &self.target.fingerprint).await?;
        Ok((facts, chains, sets(repository).await?))
    }

    /// Waits for `work`, unless the capture is asked to stop meanwhile.
    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.context.cancel.cancelled() => Err(stopped()),
        }
    }

    /// Asks the server to go on after `at`, or for everything.
    async fn follow(&self, at: Option<&ReplicationPoint>) -> Result<FollowedReplication> {
        self.unless_stopped(self.context.source.follow_replication(at)).await
    }

    /// How far the server has recorded by now. Asked when the stream is there already: what of it was recorded before comes at once, and late, however
    /// long the way to here has taken.
    async fn recorded(&self) -> Result<u64> {
        Ok(self.unless_stopped(self.context.source.replication_facts()).await?.at.offset)
    }

    fn tell(&self, event: &ReplicationCaptureEvent) {
        self.context.observer.event(event);
    }

    async fn resume(&self, chain: &Chain, before: Option<&Chain>) -> Result<Begun> {
        let since_ms = match self.unless_stopped(self.last_time(chain)).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return self.anew(ChainReason::Unreadable, before).await;
            }
            since => since?,
        };
        let Some(end) = chain_point(chain) else { return self.anew(ChainReason::Unreadable, before).await };
        let (id, stream) = match self.follow(Some(&end)).await? {
            FollowedReplication::Continued { id, stream } => (id, stream),
            FollowedReplication::Anew { at, file } => {
                let writer = self.begin_set().await?;
                return self.base(writer, (at, file), ChainReason::Overrun, before).await;
            }
        };
        let behind = Behind { through: self.recorded().await?, since_ms };
        let writer = if id == end.id {
            self.tell(&ReplicationCaptureEvent::ChainResumed {
                chain: chain.id().clone(),
                id: id.clone(),
                at: end.offset,
            });
            self.claim.resume_chain(chain)?
        } else {
            self.tell(&ReplicationCaptureEvent::TimelineEnded {
                id: end.id.clone(),
                next: id.clone(),
                at: end.offset,
            });
            self.begin_chain(&id, end.offset, ChainReason::Timeline, Some(chain)).await?
        };
        Ok(Begun { writer, stream, id, base: None, behind })
    }

    /// When the last byte of a chain came; when it was begun, where it has none.
    async fn last_time(&self, chain: &Chain) -> Result<i64> {
        let Some(last) = chain.slices().last() else {
            return Ok(chain.description().begun_at.as_millisecond());
        };
        let (_, arrivals) = read_slice(&self.context.repository, chain, last).await?;
        Ok(arrivals.last().map_or(0, |arrival| arrival.at_ms))
    }

    async fn join(
        &self,
        (set, at, begun_at): (&SetId, &ReplicationPoint, Timestamp),
        why: ChainReason,
        before: Option<&Chain>,
    ) -> Result<Begun> {
        let (id, stream) = match self.follow(Some(at)).await? {
            FollowedReplication::Continued { id, stream } if id == at.id => (id, stream),
            FollowedReplication::Continued { .. } => {
                return Err(Error::new(ErrorKind::Unreachable, "another server took over meanwhile")
                    .with_hint("point the configuration at the one that is primary now"));
            }
            FollowedReplication::Anew { at, file } => {
                let writer = self.begin_set().await?;
                return self.base(writer, (at, file), why, before).await;
            }
        };
        self.tell(&ReplicationCaptureEvent::BaseJoined { set: set.clone(), at: at.offset });
        let writer = self.begin_chain(&id, at.offset, why, before).await?;
        let behind = Behind { through: self.recorded().await?, since_ms: begun_at.as_millisecond() };
        Ok(Begun { writer, stream, id, base: None, behind })
    }

    /// Begins with all keys. The set is begun first: a store that is down is no reason to let the server fork.
    async fn anew(&self, why: ChainReason, before: Option<&Chain>) -> Result<Begun> {
        let writer = self.begin_set().await?;
        match self.follow(None).await {
            Ok(FollowedReplication::Anew { at, file }) => self.base(writer, (at, file), why, before).await,
            Ok(FollowedReplication::Continued { .. }) => {
                let error = Error::new(ErrorKind::Server, "the server goes on from where nobody asked");
                Err(writer.give_up(error).await)
            }
            Err(error) => Err(writer.give_up(error).await),
        }
    }

    async fn begin_set(&self) -> Result<SetWriter> {
        let begun = self.context.repository.begin_set(StoreKind::Redis, &self.context.holder).await;
        begun.context("begin backup set")
    }

    /// Stores all keys as a set and begins a chain behind it.
    async fn base(
        &self,
        writer: SetWriter,
        (at, mut file): (ReplicationPoint, Box<dyn mainstay_engine::ReplicationFile>),
        why: ChainReason,
        before: Option<&Chain>,
    ) -> Result<Begun> {
        let since_ms = self.context.now_ms();
        let _ = self.base_begun.set(Instant::now());
        let direct = file.beginning().direct;
        self.tell(&ReplicationCaptureEvent::BaseBegun { id: at.id.clone(), at: at.offset, direct });
        let telling = BaseTelling::new(self.context.observer.as_ref(), BASE_TELL_EVERY);
        let storing = keyfile::store(file.as_mut(), &writer, &self.target.environment, &telling);
        let stored = self.unless_stopped(storing).await;
        let checked = stored.and_then(|(contents, _)| shows(contents, &at));
        let contents = match checked {
            Ok(contents) => contents,
            Err(error) => return Err(writer.give_up(with_way_out(error)).await),
        };
        let set = writer.commit(&contents).await.context("write manifest")?;
        self.tell(&ReplicationCaptureEvent::BaseStored {
            set: set.id().clone(),
            keys: contents.keys(),
            bytes: contents.bytes,
        });
        let chain = self.begin_chain(&at.id, at.offset, why, before).await?;
        let stream = file.stream().await?;
        let behind = Behind { through: at.offset, since_ms };
        Ok(Begun { writer: chain, stream, id: at.id, base: Some(set.id().clone()), behind })
    }

    async fn begin_chain(
        &self,
        id: &str,
        after: u64,
        why: ChainReason,
        before: Option<&Chain>,
    ) -> Result<ChainWriter> {
        let beginning = ChainBeginning {
            kind: LogKind::Replication,
            environment: self.target.environment.clone(),
            after: LogPosition(after),
            why,
            predecessor: before.map(|chain| chain.id().clone()),
            wal: None,
            replication: Some(ReplicationChain { id: id.to_owned() }),
        };
        let writer = self.claim.begin_chain(beginning).await?;
        let gap_after = match why {
            ChainReason::First | ChainReason::Timeline => None,
            _ => before.map(|chain| chain.end().0),
        };
        self.tell(&ReplicationCaptureEvent::ChainBegun {
            chain: writer.id().clone(),
            id: id.to_owned(),
            after,
            why,
            gap_after,
        });
        Ok(writer)
    }
}

/// What to do when the server stops sending its keys.
fn with_way_out(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unreachable => error.with_hint(
            "where the server's log says `output buffer limits`: take `mainstay backup create --store redis`, from which the capture goes on, \
             or type `CONFIG SET client-output-buffer-limit \"replica 1gb 512mb 300\"`",
        ),
        _ => error,
    }
}

/// Tells now and then how far the keys have come.
struct BaseTelling<'a> {
    observer: &'a dyn ReplicationCaptureObserver,
    every: Duration,
    bytes: AtomicU64,
    expected_bytes: AtomicU64,
    told: Mutex<Instant>,
}

impl<'a> BaseTelling<'a> {
    fn new(observer: &'a dyn ReplicationCaptureObserver, every: Duration) -> Self {
        let (bytes, expected_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { observer, every, bytes, expected_bytes, told: Mutex::new(Instant::now()) }
    }
}

impl Observer for BaseTelling<'_> {
    fn expect(&self, total: Work) {
        self.expected_bytes.store(total.bytes, Ordering::Relaxed);
    }

    fn advance(&self, done: Work) {
        let bytes = self.bytes.fetch_add(done.bytes, Ordering::Relaxed) + done.bytes;
        let Ok(mut told) = self.told.lock() else { return };
        if told.elapsed() >= self.every {
            *told = Instant::now();
            let expected_bytes = self.expected_bytes.load(Ordering::Relaxed);
            self.observer.event(&ReplicationCaptureEvent::BaseProgress { bytes, expected_bytes });
        }
    }
}

/// Refuses keys that do not show the position that the server has promised.
fn shows(contents: KeyFileSetContents, at: &ReplicationPoint) -> Result<KeyFileSetContents> {
    match &contents.replication {
        Some(found) if found == at => Ok(contents),
        found => {
            let found = found.as_ref().map_or_else(|| "none".to_owned(), |found| found.offset.to_string());
            Err(Error::new(
                ErrorKind::Server,
                format!("the server's keys show offset {found}, it announced {}", at.offset),
            )
            .with_hint("look for what stands between: a proxy, or a server that answers for another; `mainstay redis info` tells which one it is"))
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_engine::Backlog;

    use super::*;

    fn point(id: &str, offset: u64) -> ReplicationPoint {
        ReplicationPoint { id: id.to_owned(), offset }
    }

    #[derive(Default)]
    struct Told(Mutex<Vec<(u64, u64)>>);

    impl ReplicationCaptureObserver for Told {
        fn event(&self, event: &ReplicationCaptureEvent) {
            if let ReplicationCaptureEvent::BaseProgress { bytes, expected_bytes } = event {
                self.0.lock().expect("nobody panics").push((*bytes, *expected_bytes));
            }
        }
    }

    #[test]
    fn keys_that_come_are_told_now_and_then() {
        let told = |every| {
            let seen = Told::default();
            let telling = BaseTelling::new(&seen, every);
            telling.expect(Work { items: 0, bytes: 30 });
            (0..3).for_each(|_| telling.advance(Work { items: 0, bytes: 10 }));
            seen.0.into_inner().expect("nobody panics")
        };
        assert_eq!(told(Duration::ZERO), [(10, 30), (20, 30), (30, 30)]);
        assert_eq!(told(Duration::from_secs(60)), []);
    }

    #[test]
    fn a_session_goes_on_where_the_server_can() {
        let server = |at: (&str, u64), earlier: Option<(&str, u64)>, kept: Option<u64>| ReplicationFacts {
            fingerprint: "f".to_owned(),
            is_marked: false,
            at: point(at.0, at.1),
            earlier: earlier.map(|(id, offset)| point(id, offset)),
            backlog: kept.map(|after| Backlog { bytes_max: 100, after, room: None }),
        };
        let a = |offset| point("a", offset);
        let plain = server(("a", 500), None, Some(400));
        assert_eq!(decide(&plain, &[], &[]), Next::Anew(ChainReason::First));
        assert_eq!(decide(&plain, &[a(450)], &[]), Next::Resume(0));
        assert_eq!(decide(&plain, &[a(450), a(420)], &[]), Next::Resume(1), "the newest chain");
        assert_eq!(decide(&plain, &[a(500)], &[]), Next::Resume(0), "nothing was missed");
        assert_eq!(decide(&plain, &[a(399)], &[]), Next::Anew(ChainReason::Overrun));
        assert_eq!(decide(&plain, &[a(501)], &[]), Next::Anew(ChainReason::Diverged), "it went back");
        assert_eq!(decide(&plain, &[point("b", 450)], &[]), Next::Anew(ChainReason::Diverged));
        assert_eq!(decide(&server(("a", 500), None, None), &[a(450)], &[]), Next::Anew(ChainReason::Overrun));

        let sets = [a(390), a(430), a(410), point("b", 450), a(501)];
        assert_eq!(decide(&plain, &[], &sets), Next::Join(1, ChainReason::First));
        assert_eq!(decide(&plain, &[a(399)], &sets), Next::Join(1, ChainReason::Overrun));
        assert_eq!(decide(&plain, &[a(450)], &sets), Next::Resume(0), "a chain is better than a set");

        let taken_over = server(("n", 500), Some(("a", 460)), Some(400));
        assert_eq!(decide(&taken_over, &[a(450)], &[]), Next::Resume(0));
        assert_eq!(
            decide(&taken_over, &[a(461)], &[]),
            Next::Anew(ChainReason::Diverged),
            "what the other server never had"
        );
        assert_eq!(decide(&taken_over, &[a(450), point("n", 480)], &[]), Next::Resume(1));
    }
}
