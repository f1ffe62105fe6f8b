//! How a server of keys persists and evicts: declared, compared, and changed in an order in which no crash loses more than it did before.
//!
//! [`drift()`] compares what is declared with what the server has, and says whether a change can outlive a restart. [`plan()`]
//! decides the steps; [`apply()`] takes them one by one, each remembered in the repository before it is taken and looked at
//! afterwards. Three things are dangerous, and the order of the steps is about them:
//!
//! - A server that is started with `appendonly yes` and has no append-only file begins empty, whatever its snapshot holds, and writes that
//!   over the snapshot when it ends. So the log is turned on in the running server, its first rewrite is waited for, and only then the
//!   setting is kept; never is a file edited.
//! - Leaving the log keeps the old one on the disk: a server that is started from it again has old data. So turning it off and keeping that
//!   are one step, with a snapshot before and behind.
//! - A limit below what is in use evicts at once, and eviction takes whatever the policy names: idempotency keys and revocations too. So what
//!   would go is counted first, and keys of protected classes are refused.
//!
//! Relies on the server to make its own files durable; sees nothing of its disk. Sources: `redis.conf` of Redis 8; documentation of persistence
//! and eviction; every order here was tried with a server that was killed at each step.

mod apply;
mod declared;
mod drift;
mod durability;
mod forecast;
mod plan;
mod steps;

pub use apply::{PolicyContext, PolicyReport, PolicyStepDone, apply, check, resumable};
pub use declared::{DeclaredPolicy, Difference};
pub use drift::{DriftReport, drift};
pub use durability::{Durability, StartCommand};
pub use forecast::{Forecast, ForecastGroup};
pub use plan::{PolicyRequest, plan};

/// The registered name of a change after which nothing is evicted that was not before.
pub const OPERATION: &str = "redis.policy.apply";
/// The registered name of a change that evicts keys at once.
pub const OPERATION_EVICT: &str = "redis.policy.apply.evict";
