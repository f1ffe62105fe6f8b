//! What a project declares of its seeds.

use std::fmt;

use mainstay_engine::{SeedPlace, SeedRow, SeedWriting};
use mainstay_guard::Marker;
use mainstay_model::{Blake3, EnvironmentClass, Error, ErrorKind, Result, StoreKind, Target};
use serde::{Deserialize, Serialize};

/// What may become of a seed, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeedClass {
    /// Belongs everywhere.
    Reference,
    /// Made up, for trying things out.
    Demo,
    /// Replaces what is there.
    Destructive,
}

impl SeedClass {
    /// Its name, as in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Demo => "demo",
            Self::Destructive => "destructive",
        }
    }

    /// How its rows are written.
    pub fn writing(self) -> SeedWriting {
        match self {
            Self::Reference => SeedWriting::Upsert,
            Self::Demo => SeedWriting::Insert,
            Self::Destructive => SeedWriting::Replace,
        }
    }

    /// Refuses where this class may not be written. Reference data may be anywhere.
    ///
    /// # Errors
    /// `Refused`, with nothing changed.
    pub(super) fn check_allowed(self, id: &str, target: &Target, marker: Option<&Marker>) -> Result<()> {
        if self == Self::Reference {
            return Ok(());
        }
        let refused = |why: String| {
            Error::new(ErrorKind::Refused, format!("seed {id} is refused: it is {self}, and {why}"))
                .with_state("nothing was changed")
                .with_hint("only reference seeds go everywhere; `mainstay environment show` tells what each source says of this database")
        };
        match marker {
            None => {
                let why = "the database has no environment marker, so it counts as production";
                return Err(refused(why.to_owned()).with_hint(format!(
                    "if it is none, `mainstay environment mark --store {}` says so; only reference seeds go everywhere",
                    target.store
                )));
            }
            Some(marker) if marker.class == EnvironmentClass::Production => {
                return Err(refused(format!(
                    "the marker inside the database says {}, {}",
                    marker.environment, marker.class
                )));
            }
            Some(_) => {}
        }
        match target.class {
            EnvironmentClass::Production => {
                Err(refused(format!("the environment {} counts as production", target.environment)))
            }
            EnvironmentClass::Development | EnvironmentClass::Staging => Ok(()),
        }
    }
}

impl fmt::Display for SeedClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A seed as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredSeed {
    /// Its name.
    pub id: String,
    /// Its class.
    pub class: SeedClass,
    /// Which store it goes into: MongoDB or PostgreSQL.
    pub store: StoreKind,
    /// Where in it.
    pub place: SeedPlace,
    /// The file of its rows, as it is named in the manifest.
    pub file: String,
    /// Whether a new installation is seeded with it by itself.
    pub is_automatic: bool,
}

/// What was in a seed's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedFile {
    /// Its hash.
    pub blake3: Blake3,
    /// Its rows.
    pub rows: Vec<SeedRow>,
}

/// A seed with its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// What is declared.
    pub declared: DeclaredSeed,
    /// What its file holds.
    pub file: SeedFile,
}

#[cfg(test)]
mod tests {
    use EnvironmentClass::{Development, Production, Staging};
    use mainstay_model::Timestamp;

    use super::*;

    #[test]
    fn what_is_made_up_or_destroys_goes_nowhere_that_is_not_known_to_allow_it() {
        let target = |class| Target {
            environment: "shop".to_owned(),
            class,
            store: StoreKind::Mongo,
            fingerprint: "7".to_owned(),
            address: "h:1".to_owned(),
        };
        let marker = |class| Marker {
            environment: "shop".to_owned(),
            class,
            marked_at: Timestamp::UNIX_EPOCH,
            id: "m".to_owned(),
        };
        for (environment, inside, allowed) in [
            (Development, Some(Development), true),
            (Staging, Some(Staging), true),
            (Development, None, false),
            (Staging, None, false),
            (Production, None, false),
            (Development, Some(Production), false),
            (Production, Some(Development), false),
            (Production, Some(Production), false),
        ] {
            let inside = inside.map(marker);
            for class in [SeedClass::Demo, SeedClass::Destructive] {
                let judged = class.check_allowed("users", &target(environment), inside.as_ref());
                assert_eq!(judged.is_ok(), allowed, "{class} {environment} {inside:?}");
                if let Err(error) = judged {
                    assert_eq!(error.kind(), ErrorKind::Refused);
                }
            }
            assert!(
                SeedClass::Reference.check_allowed("levels", &target(environment), inside.as_ref()).is_ok()
            );
        }
    }
}
