//! Seeds: rows that a project keeps in files and an environment needs before anybody can work with it.
//!
//! Each seed has a class. *Reference* data (categories, levels) belongs everywhere and is brought to what the file says by a natural key. *Demo*
//! data is made up: it is added where nothing is in its place, and never in production. A *destructive* seed empties its collection or table
//! first. Which environment this is, is believed from the marker **inside the database** alone: what is not reference data goes nowhere that has
//! none, or whose marker says production, whatever configuration, variables or a plan file say. That is looked at when the plan is made, when
//! it is applied, and by the adapter once more right before it writes.
//!
//! [`auto`] seeds a new installation by itself: one of many processes that begin at once does it, and only where no user but administrators is.

mod apply;
pub mod auto;
mod declared;
mod plan;
mod rows;

pub use apply::{SeedContext, SeedReport, SeededRows, apply, check};
pub use declared::{DeclaredSeed, Seed, SeedClass, SeedFile};
pub use plan::{PlannedSeed, SeedParameters, SeedStatus, plan, status};
pub use rows::{ReadRowsError, read as read_rows};

/// The registered name of a run that only adds.
pub const OPERATION: &str = "seed.run";
/// The registered name of a run that changes rows which are there.
pub const OPERATION_CHANGE: &str = "seed.run.change";
/// The registered name of a run that empties something first.
pub const OPERATION_REPLACE: &str = "seed.run.replace";
