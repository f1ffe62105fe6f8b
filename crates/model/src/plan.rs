//! Plans: what an operation will do, decided by code that only reads, as a value that can be printed, stored, approved and compared.
//!
//! A plan says what it will touch ([`Target`]), what it took for granted ([`Assumption`]), what it will do ([`PlanStep`]) and how far it
//! reaches ([`BlastRadius`]). Its hash covers all of that. Applying re-reads every assumption and refuses when one no longer holds; what a
//! plan does not say, `apply` must not do.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Blake3, Effect, EnvironmentClass, Error, ErrorKind, Result, StoreKind, Timestamp, canonical};

/// Version of the plan's form; another version is refused, not guessed at.
pub const PLAN_FORMAT: u32 = 1;

/// What a plan acts upon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The environment's configured name, such as `marketplace-dev`.
    pub environment: String,
    /// How protected it was found to be.
    pub class: EnvironmentClass,
    /// The store.
    pub store: StoreKind,
    /// Which server that is, from the server itself: replica-set id, system identifier, run id. Never an address.
    pub fingerprint: String,
    /// Where it was reached, without credentials; for people.
    pub address: String,
}

/// Something the planner saw that must still be so when the plan is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assumption {
    /// A stable name: `set 2026… manifest`, `shop.users exists`.
    pub name: String,
    /// The value seen, as text: a hash, a count, `absent`.
    pub value: String,
}

/// One thing the plan will do, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanStep {
    /// A stable name within the plan: `load shop.users`.
    pub name: String,
    /// `+` adds, `~` changes, `-` destroys, a space reads.
    pub mark: char,
    /// What it does, for people.
    pub summary: String,
}

/// How much is at stake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlastRadius {
    /// The phrase a person must type where policy asks for it: `restore shop@marketplace-dev 48,211 documents`.
    pub phrase: String,
    /// Documents, rows, keys, users or roles that exist now and will be gone or replaced.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A decided operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`PLAN_FORMAT`].
    pub format: u32,
    /// The operation's registered name: `restore.apply`.
    pub operation: String,
    /// What the operation does to the world.
    pub effect: Effect,
    /// What it acts upon.
    pub target: Target,
    /// What must still be so.
    pub assumptions: Vec<Assumption>,
    /// What will be done.
    pub steps: Vec<PlanStep>,
    /// How much is at stake.
    pub blast_radius: BlastRadius,
    /// The operation's own decided parameters; only the operation reads them.
    pub parameters: Value,
    /// When it was decided.
    pub created_at: Timestamp,
    /// After this it is stale whatever else holds.
    pub expires_at: Timestamp,
    /// The version of Mainstay that decided.
    pub tool_version: String,
}

impl Plan {
    /// How long a plan stays fresh.
    pub const LIFETIME: SignedDuration = SignedDuration::from_hours(24);
    /// By how much the clock of whoever planned may be ahead.
    const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(5);

    /// The plan's hash: BLAKE3 over its canonical JSON. This is what is approved.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the parameters hold a floating-point number.
    pub fn hash(&self) -> Result<Blake3> {
        canonical::hash(self)
    }

    /// Reads a plan from the text of a plan file.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when the text is no plan; [`ErrorKind::Unsupported`] when another format version wrote it.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)
            .map_err(|source| Error::new(ErrorKind::Usage, "the file is not a plan").with_source(source))?;
        match value.get("format").and_then(Value::as_u64) {
            Some(format) if format == u64::from(PLAN_FORMAT) => {}
            Some(format) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("the plan has format {format}; this version reads format {PLAN_FORMAT}"),
                )
                .with_hint("make the plan again with this version"));
            }
            None => return Err(Error::new(ErrorKind::Usage, "the file is not a plan: it has no format")),
        }
        serde_json::from_value(value).map_err(|source| {
            Error::new(ErrorKind::Usage, "the file is not a plan of this version").with_source(source)
        })
    }

    /// Refuses a plan that is past its time at `now`, one that claims a longer life than [`Plan::LIFETIME`], and one that is of a time to come,
    /// by more than clocks differ.
    ///
    /// # Errors
    /// [`ErrorKind::StalePlan`].
    pub fn check_fresh(&self, now: Timestamp) -> Result<()> {
        if self.created_at > now + Self::CLOCKS_DIFFER {
            let message =
                format!("the plan says that it was made at {}, which is still to come", self.created_at);
            return Err(Error::new(ErrorKind::StalePlan, message)
                .with_state("nothing was changed")
                .with_hint("set the clocks, make the plan again and review it"));
        }
        let lifetime = self.expires_at.duration_since(self.created_at);
        if now < self.expires_at && lifetime <= Self::LIFETIME {
            return Ok(());
        }
        Err(Error::new(ErrorKind::StalePlan, format!("the plan expired at {}", self.expires_at))
            .with_state("nothing was changed")
            .with_hint("make the plan again and review it"))
    }

    /// Compares the plan's assumptions with what is seen now, and refuses with every difference named.
    ///
    /// # Errors
    /// [`ErrorKind::StalePlan`].
    pub fn check_assumptions(&self, seen: &[Assumption]) -> Result<()> {
        let differences = assumption_differences(&self.assumptions, seen);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::StalePlan,
            format!("the world has moved since the plan was made: {}", differences.join("; ")),
        )
        .with_state("nothing was changed")
        .with_hint("make the plan again and review it"))
    }
}

fn assumption_differences(planned: &[Assumption], seen: &[Assumption]) -> Vec<String> {
    let find = |list: &[Assumption], name: &str| {
        list.iter().find(|assumption| assumption.name == name).map(|assumption| assumption.value.clone())
    };
    let mut differences: Vec<String> = planned
        .iter()
        .filter_map(|assumption| match find(seen, &assumption.name) {
            Some(value) if value == assumption.value => None,
            Some(value) => Some(format!("{} was {}, is {value}", assumption.name, assumption.value)),
            None => Some(format!("{} was {}, is gone", assumption.name, assumption.value)),
        })
        .collect();
    differences.extend(
        seen.iter()
            .filter(|assumption| find(planned, &assumption.name).is_none())
            .map(|assumption| format!("{} is {}, was not there", assumption.name, assumption.value)),
    );
    differences
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample() -> Plan {
        let created_at = Timestamp::from_second(1_800_000_000).unwrap();
        Plan {
            format: PLAN_FORMAT,
            operation: "restore.apply".to_owned(),
            effect: Effect::Destructive,
            target: Target {
                environment: "marketplace-dev".to_owned(),
                class: EnvironmentClass::Development,
                store: StoreKind::Mongo,
                fingerprint: "rs0/65".to_owned(),
                address: "127.0.0.1:27017".to_owned(),
            },
            assumptions: vec![Assumption { name: "shop.users exists".to_owned(), value: "yes".to_owned() }],
            steps: vec![],
            blast_radius: BlastRadius {
                phrase: "restore shop@marketplace-dev".to_owned(),
                items: 1,
                bytes: 2,
            },
            parameters: json!({"drop": true}),
            created_at,
            expires_at: created_at + Plan::LIFETIME,
            tool_version: "0.1.0".to_owned(),
        }
    }

    #[test]
    fn a_stored_plan_keeps_its_hash() {
        let plan = sample();
        let again = Plan::from_json(&serde_json::to_string_pretty(&plan).unwrap()).unwrap();
        assert_eq!(plan.hash().unwrap(), again.hash().unwrap());
        let mut other = plan.clone();
        other.parameters = json!({"drop": false});
        assert_ne!(plan.hash().unwrap(), other.hash().unwrap());
    }

    #[test]
    fn a_moved_world_is_told_difference_by_difference() {
        let seen = [
            Assumption { name: "shop.users exists".to_owned(), value: "no".to_owned() },
            Assumption { name: "shop.other exists".to_owned(), value: "yes".to_owned() },
        ];
        let error = sample().check_assumptions(&seen).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StalePlan);
        assert!(error.to_string().contains("shop.users exists was yes, is no"), "{error}");
        assert!(error.to_string().contains("shop.other exists is yes, was not there"), "{error}");
        assert!(sample().check_assumptions(&sample().assumptions).is_ok());
    }

    #[test]
    fn an_expired_or_foreign_plan_is_refused() {
        let plan = sample();
        assert!(plan.check_fresh(plan.created_at).is_ok());
        assert_eq!(plan.check_fresh(plan.expires_at).unwrap_err().kind(), ErrorKind::StalePlan);
        let mut eternal = plan.clone();
        eternal.expires_at = plan.created_at + SignedDuration::from_hours(9_000);
        assert_eq!(eternal.check_fresh(plan.created_at).unwrap_err().kind(), ErrorKind::StalePlan);
        let before = plan.created_at - SignedDuration::from_hours(1);
        assert_eq!(plan.check_fresh(before).unwrap_err().kind(), ErrorKind::StalePlan, "it is of the future");
        assert_eq!(Plan::from_json(r#"{"format":9}"#).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(Plan::from_json("{").unwrap_err().kind(), ErrorKind::Usage);
    }
}
