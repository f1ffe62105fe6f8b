//! The beginning of a session: the chain to write, with the proof that the server's log continues it.

use mainstay_engine::{ChangeAnchor, ChangeStream, ContinuityBreak, Followed, document_frames};
use mainstay_model::{Error, ErrorKind, ErrorStatus, LogPosition, OpTime, Result, ResultExt, Target};
use mainstay_repository::{Chain, ChainBeginning, ChainReason, ChainWriter, LogClaim, LogKind};

use super::{CaptureContext, CaptureEvent};

/// How often following is tried from the oldest entry, which may go while it is asked for, before the newest is taken.
const OLDEST_ATTEMPTS: u32 = 3;

/// What is moved from where to where.
pub(super) struct Begun {
    pub(super) writer: ChainWriter,
    pub(super) stream: Box<dyn ChangeStream>,
}

/// The newest chain of the server, to be gone on with where its last entry is at the server still; else a new one.
///
/// # Errors
/// The server's and the store's.
pub(super) async fn begin(context: &CaptureContext, target: &Target, claim: &LogClaim) -> Result<Begun> {
    let mut chains = context.repository.chains_of(target.store, &target.fingerprint).await?;
    let Some(chain) = chains.pop() else {
        return begin_chain(context, target, claim, ChainReason::First, None).await;
    };
    let anchor = match anchor_of(context, &chain).await {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            return begin_chain(context, target, claim, ChainReason::Unreadable, Some(&chain)).await;
        }
        anchor => anchor?,
    };
    match context.source.follow(&anchor).await.context("follow the change log")? {
        Followed::Stream(stream) => {
            let writer = claim.resume_chain(&chain)?;
            context.observer.event(&CaptureEvent::ChainResumed { chain: chain.id().clone(), at: anchor.at });
            Ok(Begun { writer, stream })
        }
        Followed::Broken(broken) => {
            let why = match broken {
                ContinuityBreak::Overrun { .. } => ChainReason::Overrun,
                ContinuityBreak::Diverged => ChainReason::Diverged,
            };
            begin_chain(context, target, claim, why, Some(&chain)).await
        }
    }
}

/// The last entry of a chain. One without slices has none; its position alone must do.
async fn anchor_of(context: &CaptureContext, chain: &Chain) -> Result<ChangeAnchor> {
    let at = chain.end().optime();
    let Some(last) = chain.slices().last() else { return Ok(ChangeAnchor { at, entry: None }) };
    let plain = context.repository.read_slice(chain, last).await.context("read the last slice")?;
    let mut entry = None;
    for frame in document_frames(&plain) {
        let frame = frame.map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("{} holds what is no log", last.name())).with_source(error)
        })?;
        entry = Some(frame);
    }
    Ok(ChangeAnchor { at, entry: entry.map(|frame| plain.slice_ref(frame)) })
}

/// Begins a chain as early as the server's log and the reason allow, so that the gap is as small as can be: after an overrun with the
/// oldest entry, after an unreadable end right there if the server still has that position. The first chain, and one of a server that went
/// back to an earlier state, begins with the newest: what is older belongs to no set, or to another history.
async fn begin_chain(
    context: &CaptureContext,
    target: &Target,
    claim: &LogClaim,
    why: ChainReason,
    predecessor: Option<&Chain>,
) -> Result<Begun> {
    let (after, stream) = first_stream(context, why, predecessor.map(Chain::end)).await?;
    let beginning = ChainBeginning {
        kind: LogKind::Oplog,
        environment: target.environment.clone(),
        after: after.into(),
        why,
        predecessor: predecessor.map(|chain| chain.id().clone()),
        wal: None,
        replication: None,
    };
    let writer = claim.begin_chain(beginning).await?;
    context.observer.event(&CaptureEvent::ChainBegun {
        chain: writer.id().clone(),
        after,
        why,
        gap_after: predecessor.map(|chain| chain.end().optime()),
    });
    Ok(Begun { writer, stream })
}

async fn first_stream(
    context: &CaptureContext,
    why: ChainReason,
    end: Option<LogPosition>,
) -> Result<(OpTime, Box<dyn ChangeStream>)> {
    for attempt in 1.. {
        let facts = context.source.change_log_facts().await?;
        let at = match (why, end) {
            (ChainReason::Unreadable, Some(end)) if attempt == 1 => end.optime(),
            (ChainReason::Overrun | ChainReason::Unreadable, _) if attempt <= OLDEST_ATTEMPTS => facts.oldest,
            _ => facts.newest,
        };
        match context.source.follow(&ChangeAnchor { at, entry: None }).await? {
            Followed::Stream(stream) => return Ok((at, stream)),
            Followed::Broken(_) if attempt <= 2 * OLDEST_ATTEMPTS => {}
            Followed::Broken(_) => break,
        }
    }
    Err(Error::new(ErrorKind::Server, "the server's log is overwritten faster than it can be followed")
        .with_status(ErrorStatus::Temporary)
        .with_hint("make the oplog larger: db.adminCommand({replSetResizeOplog: 1, size: MEGABYTES})"))
}
