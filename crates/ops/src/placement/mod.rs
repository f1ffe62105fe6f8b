//! Bringing collections to a server: the machinery under every operation that fills one.
//!
//! [`decide()`] says how each collection comes ([`Way`]); [`Placement`] re-checks what the plan took for granted, loads, proves by digest,
//! builds indexes, and puts collections in place last. A collection is loaded beside its name and gets it in one step, so that whatever
//! happens at whatever moment, under the name stands what stood there before or the whole and proven collection. Views and time series, which
//! the server cannot rename, are made under their names; the plan says so.
//!
//! Where the documents come from is a [`Content`]'s business. Collections take their steps each by itself ([`Placement::bring`]) or all
//! together, one step after the other, with the replay of a log between them ([`Placement::bring_together`]). Every step is journalled before it is taken,
//! when there is a repository, with the identities of what the run creates: the same plan applied again after a kill knows its own collections
//! from others', keeps what it had loaded and proven, and continues.

mod accounts;
mod content;
mod decide;
mod item;
mod origin;
pub(crate) mod run;
mod together;
mod work;

pub(crate) use accounts::BroughtAccounts;
pub(crate) use content::{Content, Filling, Loaded, Logged};
pub(crate) use decide::{
    Candidate, Item, Parameters, Wish, amount, changed, decide, existing_collections, server_assumption,
};
pub use decide::{Mode, Way, needed_backup};
pub use item::ItemReport;
pub(crate) use origin::{LogSpan, Origin, UntilWords};
pub(crate) use together::{Log, Moment, work_of};
pub(crate) use work::{FinishSlots, Placement, PlacementContext, Turn, is_own, leased, stoppable};

/// Collections that are loaded before they get their names begin with this.
pub(crate) const SHADOW_PREFIX: &str = "mainstay.restore.";
