//! What an environment's class demands of an operation's effect: one table.
//!
//! | effect       | development | staging | production                                   |
//! |--------------|-------------|---------|----------------------------------------------|
//! | read         | –           | –       | –                                            |
//! | additive     | –           | –       | confirm                                      |
//! | disruptive   | –           | confirm | typed phrase                                 |
//! | destructive  | confirm     | typed   | typed phrase and a fresh verified backup     |
//! | irreversible | typed       | typed   | refused: it needs two people                 |
//!
//! Operations that only add to the repository ([`Reach::Repository`](crate::Reach)) are asked for nothing anywhere.
//!
//! Pure. `--approve HASH` stands for every kind of consent and for nothing else: not for the backup, and not for a refusal.

use jiff::SignedDuration;
use mainstay_model::{Effect, EnvironmentClass};

/// How a person agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConsentLevel {
    /// Not asked.
    None,
    /// Asked yes or no.
    Confirm,
    /// Asked to type the plan's blast radius.
    Typed,
}

/// What must be there before an operation may be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The consent to obtain.
    pub consent: ConsentLevel,
    /// A verified backup of the same target must exist and be younger than this.
    pub verified_backup_age_max: Option<SignedDuration>,
    /// Why it may not be done at all, if so.
    pub refused: Option<String>,
}

/// The table above with its one adjustable number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How old a verified backup may be, counted from the moment the backup began, to count before a destructive operation in
    /// production. 24 hours unless set.
    pub verified_backup_age_max: SignedDuration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { verified_backup_age_max: SignedDuration::from_hours(24) }
    }
}

impl Policy {
    /// What an operation of this effect needs in an environment of this class.
    pub fn requirement(&self, class: EnvironmentClass, effect: Effect) -> Requirement {
        use {ConsentLevel as Level, Effect as E, EnvironmentClass as Class};
        let consent = match (effect, class) {
            (E::Read, _)
            | (E::Additive | E::Disruptive, Class::Development)
            | (E::Additive, Class::Staging) => Level::None,
            (E::Additive, Class::Production)
            | (E::Disruptive, Class::Staging)
            | (E::Destructive, Class::Development) => Level::Confirm,
            (E::Disruptive, Class::Production)
            | (E::Destructive, Class::Staging | Class::Production)
            | (E::Irreversible, _) => Level::Typed,
        };
        let production = class == Class::Production;
        let backup_needed = production && effect == E::Destructive;
        let refused = (production && effect == E::Irreversible).then(|| {
            "irreversible operations in production need the agreement of two people, which this version cannot obtain".to_owned()
        });
        let verified_backup_age_max = backup_needed.then_some(self.verified_backup_age_max);
        Requirement { consent, verified_backup_age_max, refused }
    }
}

#[cfg(test)]
mod tests {
    use ConsentLevel::{Confirm, None as NoConsent, Typed};
    use Effect::{Additive, Destructive, Disruptive, Irreversible, Read};
    use EnvironmentClass::{Development, Production, Staging};

    use super::*;

    #[test]
    fn the_table() {
        let rows = [
            (Read, [NoConsent, NoConsent, NoConsent]),
            (Additive, [NoConsent, NoConsent, Confirm]),
            (Disruptive, [NoConsent, Confirm, Typed]),
            (Destructive, [Confirm, Typed, Typed]),
            (Irreversible, [Typed, Typed, Typed]),
        ];
        let policy = Policy { verified_backup_age_max: SignedDuration::from_hours(6) };
        for (effect, levels) in rows {
            for (class, consent) in [Development, Staging, Production].into_iter().zip(levels) {
                let found = policy.requirement(class, effect);
                assert_eq!(found.consent, consent, "{effect} in {class}");
                let age =
                    (class == Production && effect == Destructive).then(|| SignedDuration::from_hours(6));
                assert_eq!(found.verified_backup_age_max, age, "{effect} in {class}");
                assert_eq!(
                    found.refused.is_some(),
                    class == Production && effect == Irreversible,
                    "{effect} in {class}"
                );
            }
        }
    }

    #[test]
    fn more_protection_and_more_danger_never_ask_for_less() {
        let policy = Policy::default();
        let classes = [Development, Staging, Production];
        let effects = [Read, Additive, Disruptive, Destructive, Irreversible];
        for effect in effects {
            for pair in classes.windows(2) {
                assert!(
                    policy.requirement(pair[0], effect).consent
                        <= policy.requirement(pair[1], effect).consent
                );
            }
        }
        for class in classes {
            for pair in effects.windows(2) {
                assert!(
                    policy.requirement(class, pair[0]).consent <= policy.requirement(class, pair[1]).consent
                );
            }
        }
    }
}
