//! What may be done, by whom, where: environment identity, effects, policy, permits, the audit chain.
//!
//! Whatever destroys or disturbs takes a [`Permit`], and only [`Guard::permit`] makes one: it finds the operation in the one registry
//! ([`OPERATIONS`]), compares the declared effect with the plan's, asks the [`Policy`] what the environment's class demands, obtains
//! consent, and writes the intent to the [`AuditLog`] before it hands the permit out. Deciding is pure and tested in tables; doing is
//! asking a person and appending one record.
//!
//! The crate relies on the object store being honest about create-only writes. It refuses to guess: what is unknown about an environment
//! counts as production, and what is contradictory is refused.
//!
//! ```compile_fail,E0451
//! // A permit cannot be built outside this crate: its fields are private and it has no constructor.
//! fn forge(target: mainstay_model::Target, plan_hash: mainstay_model::Blake3) -> mainstay_guard::Permit {
//!     mainstay_guard::Permit { operation: "restore.apply.drop", plan_hash, target, intent: None }
//! }
//! ```
//!
//! ```compile_fail,E0599
//! // A permit cannot be used twice: it is not `Clone`.
//! fn twice(permit: mainstay_guard::Permit) -> (mainstay_guard::Permit, mainstay_guard::Permit) {
//!     (permit.clone(), permit)
//! }
//! ```

mod audit;
mod consent;
mod environment;
mod guard;
mod judge;
mod operation;
mod permit;
mod policy;

pub use audit::{AuditEntry, AuditEvent, AuditLog, AuditOutcome, NewAuditEntry};
pub use consent::{ApprovedHash, Consent, NoConsent, ParseApprovalError};
pub use environment::{
    ConfiguredEnvironment, Environment, Marker, ReadMarkerError, UNKNOWN_ENVIRONMENT, identify, sources,
};
pub use guard::{Actor, Guard, Outcome};
pub use judge::BackupEvidence;
pub use operation::{OPERATIONS, Operation, Reach, operation};
pub use permit::Permit;
#[cfg(feature = "testing")]
pub use permit::testing_permit;
pub use policy::{ConsentLevel, Policy, Requirement};
