//! What keys are for, as the project declares it: by glob, in classes of which some must be neither evicted nor removed unasked.
//!
//! A key belongs to the first class one of whose globs it matches; those that need protection come first, so that a key of which two things
//! are said is protected. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::purge::Glob;

/// What a key is for. The order is the order in which classes are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyClass {
    /// Keeps somebody signed in.
    Session,
    /// Keeps a token that was revoked from being accepted.
    Revocation,
    /// Keeps work from being done twice.
    Idempotency,
    /// Holds work to be done.
    Queue,
    /// Counts, as a rate limit does.
    Counter,
    /// Can be made again.
    Cache,
}

impl KeyClass {
    /// Every class, in order.
    pub const ALL: [Self; 6] =
        [Self::Session, Self::Revocation, Self::Idempotency, Self::Queue, Self::Counter, Self::Cache];

    /// Its name in configuration and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Revocation => "revocation",
            Self::Idempotency => "idempotency",
            Self::Queue => "queue",
            Self::Counter => "counter",
            Self::Cache => "cache",
        }
    }

    /// Whether losing such a key harms somebody.
    pub fn is_protected(self) -> bool {
        !matches!(self, Self::Counter | Self::Cache)
    }

    /// What becomes of `count` such keys when they go.
    pub fn loss(self, count: impl fmt::Display) -> String {
        match self {
            Self::Session => format!("{count} sessions are signed out"),
            Self::Revocation => format!("{count} revoked tokens are valid again"),
            Self::Idempotency => format!("{count} idempotency keys are lost: their work may be done twice"),
            Self::Queue => format!("{count} queues or queued jobs are lost"),
            Self::Counter => format!("{count} counters begin anew"),
            Self::Cache => format!("{count} cached values are made again"),
        }
    }
}

/// Which keys are of which class.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyClasses(Vec<(KeyClass, Vec<String>)>);

impl KeyClasses {
    /// Classes with their globs, in any order.
    pub fn new(classes: impl IntoIterator<Item = (KeyClass, Vec<String>)>) -> Self {
        let mut classes: Vec<_> = classes.into_iter().filter(|(_, globs)| !globs.is_empty()).collect();
        classes.sort_by_key(|(class, _)| *class);
        Self(classes)
    }

    /// Whether nothing is declared.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The protected classes of which keys are declared.
    pub fn protected(&self) -> impl Iterator<Item = KeyClass> {
        self.0.iter().map(|(class, _)| *class).filter(|class| class.is_protected())
    }

    /// The classes as they are asked, for many names.
    pub fn matcher(&self) -> ClassMatcher {
        let one = |(class, globs): &(KeyClass, Vec<String>)| {
            (*class, globs.iter().map(|glob| Glob::new(glob)).collect())
        };
        ClassMatcher(self.0.iter().map(one).collect())
    }
}

/// Tells the class of names.
#[derive(Debug)]
pub struct ClassMatcher(Vec<(KeyClass, Vec<Glob>)>);

impl ClassMatcher {
    /// The class of the key called `name`; `None` when nothing is declared of it.
    pub fn class(&self, name: &[u8]) -> Option<KeyClass> {
        let of = |(_, globs): &&(KeyClass, Vec<Glob>)| globs.iter().any(|glob| glob.matches(name));
        self.0.iter().find(of).map(|(class, _)| *class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_protects_wins() {
        let classes = KeyClasses::new([
            (KeyClass::Cache, vec!["auth:*".to_owned(), "cache:*".to_owned()]),
            (KeyClass::Queue, vec![]),
            (KeyClass::Session, vec!["auth:session:*".to_owned()]),
        ]);
        let matcher = classes.matcher();
        for (name, class) in [
            ("auth:session:1", Some(KeyClass::Session)),
            ("auth:avatar:1", Some(KeyClass::Cache)),
            ("cache:1", Some(KeyClass::Cache)),
            ("queue:1", None),
        ] {
            assert_eq!(matcher.class(name.as_bytes()), class, "{name}");
        }
        assert_eq!(classes.protected().collect::<Vec<_>>(), [KeyClass::Session]);
        assert!(KeyClasses::new([(KeyClass::Queue, vec![])]).is_empty());
    }
}
