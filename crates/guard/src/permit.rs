//! The permit: proof, as a value, that an operation was judged, agreed to and recorded.

use mainstay_model::{Blake3, Error, ErrorKind, Plan, Result, StoreKind, Target};

/// Permission to carry out one plan, once. Functions that destroy or disturb take `&Permit`; [`Guard::permit`](crate::Guard::permit) alone
/// makes one and [`Guard::close`](crate::Guard::close) ends it.
#[derive(Debug)]
#[must_use = "a permit that is not closed leaves an intent without an outcome in the audit log"]
pub struct Permit {
    operation: &'static str,
    plan_hash: Blake3,
    target: Target,
    intent: Option<u64>,
}

impl Permit {
    pub(crate) fn new(
        operation: &'static str,
        plan_hash: Blake3,
        target: Target,
        intent: Option<u64>,
    ) -> Self {
        Self { operation, plan_hash, target, intent }
    }

    /// The permitted operation's registered name.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// The hash of the plan that may be carried out.
    pub fn plan_hash(&self) -> Blake3 {
        self.plan_hash
    }

    /// What may be acted upon. Whoever takes a permit may compare this with what it is connected to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Refuses when the permit is for something else than `operation` (a registered name or the beginning of several, such as
    /// `restore.apply`) on the server that now says it is `fingerprint`. Adapters call this on the connection they are about to change.
    ///
    /// # Errors
    /// `Refused`, naming what was permitted and what was found.
    pub fn check(&self, operation: &str, store: StoreKind, fingerprint: &str) -> Result<()> {
        let under = self
            .operation
            .strip_prefix(operation)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if under && self.target.store == store && self.target.fingerprint == fingerprint {
            return Ok(());
        }
        let (permitted, on, whose) = (self.operation, self.target.store, &self.target.fingerprint);
        Err(Error::new(
            ErrorKind::Refused,
            format!(
                "the permit is for {permitted} on {on} {whose}, this is {operation} on {store} {fingerprint}"
            ),
        )
        .with_state("nothing was changed")
        .with_hint("make the plan again, for this server"))
    }

    /// Refuses when the permit is for another plan.
    ///
    /// # Errors
    /// `Refused`; `Internal` when the plan has no hash.
    pub fn covers(&self, plan: &Plan) -> Result<()> {
        if self.operation == plan.operation && self.plan_hash == plan.hash()? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Refused,
            format!("the permit is for a plan of {}, not for this one of {}", self.operation, plan.operation),
        )
        .with_state("nothing was changed"))
    }

    /// The number of the audit entry that records the intent; `None` for an additive operation done without an audit log.
    pub fn intent(&self) -> Option<u64> {
        self.intent
    }
}

/// A permit for `plan` that nobody judged, for tests of what takes one. Only with the feature `testing`, which is enabled from
/// `[dev-dependencies]` alone.
///
/// # Panics
/// When the plan names no registered operation or has no hash.
#[cfg(feature = "testing")]
pub fn testing_permit(plan: &Plan) -> Permit {
    let registered = crate::operation(&plan.operation).expect("a test's plan names a registered operation");
    let plan_hash = plan.hash().expect("a test's plan has a hash");
    Permit::new(registered.name, plan_hash, plan.target.clone(), None)
}

#[cfg(test)]
mod tests {
    use mainstay_model::EnvironmentClass;

    use super::*;

    #[test]
    fn a_permit_is_for_one_thing_on_one_server() {
        let target = Target {
            environment: "shop".to_owned(),
            class: EnvironmentClass::Development,
            store: StoreKind::Mongo,
            fingerprint: "rs0/65".to_owned(),
            address: "h:1".to_owned(),
        };
        let permit = Permit::new("restore.apply.drop", Blake3::of(b"plan"), target, Some(1));
        assert!(permit.check("restore.apply.drop", StoreKind::Mongo, "rs0/65").is_ok());
        assert!(permit.check("restore.apply", StoreKind::Mongo, "rs0/65").is_ok());
        for (operation, store, fingerprint) in [
            ("restore.app", StoreKind::Mongo, "rs0/65"),
            ("environment.mark", StoreKind::Mongo, "rs0/65"),
            ("restore.apply.drop", StoreKind::Redis, "rs0/65"),
            ("restore.apply.drop", StoreKind::Mongo, "rs0/66"),
        ] {
            assert!(
                permit.check(operation, store, fingerprint).is_err(),
                "{operation} {store} {fingerprint}"
            );
        }
    }
}
