//! What becomes of the oplog in a dump.
//!
//! A dump made with `--oplog` shows one moment only after the writes in its oplog have been done again on top of its collections. This is the
//! seam where that is plugged in: [`judge`] decides before anything is written, and whoever replays gets the oplog's documents as a feed
//! (`directory::feed` of `oplog.bson`; in an archive it is the last entry, which `Reading::spread` would announce like any other) after the
//! last collection is loaded and before the indexes are built. Until then an oplog is refused, because a load without it shows no moment at
//! all; whoever wants that says so.

use mainstay_model::{Error, ErrorKind, Result};

/// What is to become of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OplogChoice {
    /// Nothing was said: a dump that has one is refused.
    #[default]
    Unsaid,
    /// Its writes are done again.
    Replay,
    /// It is passed over: each collection is as it was when the dump came to it.
    PassOver,
}

/// Refuses what cannot be done.
pub(super) fn judge(choice: OplogChoice, is_there: bool) -> Result<()> {
    let refuse = |kind, message: &str, hint: &str| {
        Err(Error::new(kind, message).with_state("nothing was changed").with_hint(hint))
    };
    match (choice, is_there) {
        (OplogChoice::PassOver, _) | (OplogChoice::Unsaid, false) => Ok(()),
        (OplogChoice::Replay, false) => {
            refuse(ErrorKind::Precondition, "the dump holds no oplog to replay", "leave `--oplog-replay` out")
        }
        (OplogChoice::Unsaid | OplogChoice::Replay, true) => refuse(
            ErrorKind::Unsupported,
            "the dump holds an oplog, which this version does not replay: without it the collections do not show one moment",
            "load the collections as they are with `--without-oplog`, or make a dump without `--oplog`",
        ),
    }
}
