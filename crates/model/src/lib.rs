//! The words every crate of Mainstay shares.
//!
//! Values only: errors and their one policy table, identifiers, positions, sizes, times, secrets, effects, plans and progress events.
//! Nothing here opens a file, a socket or the environment, and nothing here knows a store or a wire format. Every other crate may
//! depend on this one; it depends on none of them.

pub mod canonical;
mod clock;
mod effect;
mod error;
mod finding;
mod id;
mod plan;
mod position;
pub mod progress;
pub mod sealed;
mod secret;
mod size;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use effect::{Effect, EnvironmentClass};
pub use error::{BoxedSource, Error, ErrorKind, ErrorStatus, ExitStatus, Result, ResultExt};
pub use finding::{Finding, Severity};
pub use id::{Blake3, ChainId, IdError, ObjectName, RunId, SetId, StoreKind};
pub use plan::{Assumption, BlastRadius, PLAN_FORMAT, Plan, PlanStep, Target};
pub use position::{LogPosition, Lsn, OpTime, ParsePositionError};
pub use secret::{Secret, redact_url};
pub use size::{ByteSize, Count, ParseSizeError};
