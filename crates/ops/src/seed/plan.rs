//! What a run of seeds would do, decided by looking at what is there.

use mainstay_engine::{SEED_BATCH_MAX, SeedGround, SeedPlace, SeedStanding, SeedTarget};
use mainstay_guard::{Marker, operation};
use mainstay_model::{
    Assumption, Blake3, BlastRadius, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result,
    ResultExt, Target,
};
use serde::{Deserialize, Serialize};

use super::declared::{Seed, SeedClass};
use super::{OPERATION, OPERATION_CHANGE, OPERATION_REPLACE};

/// A seed in a plan. Its rows stay in its file, whose hash is in the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedSeed {
    /// Its name.
    pub id: String,
    /// Its class.
    pub class: SeedClass,
    /// Where it goes.
    pub place: SeedPlace,
    /// The hash of its file.
    pub blake3: Blake3,
    /// How many rows it has.
    pub rows: u64,
    /// What they meet.
    pub standing: SeedStanding,
}

impl PlannedSeed {
    /// Whether anything would be written.
    pub fn has_work(&self) -> bool {
        match self.class {
            SeedClass::Reference => self.standing.absent + self.standing.different > 0,
            SeedClass::Demo => self.standing.absent > 0,
            SeedClass::Destructive => true,
        }
    }

    fn operation(&self) -> &'static str {
        match self.class {
            SeedClass::Destructive => OPERATION_REPLACE,
            SeedClass::Reference if self.standing.different > 0 => OPERATION_CHANGE,
            SeedClass::Reference | SeedClass::Demo => OPERATION,
        }
    }

    /// How many rows that exist now would be gone or changed.
    fn at_stake(&self) -> u64 {
        match self.class {
            SeedClass::Destructive => self.standing.held,
            SeedClass::Reference => self.standing.different,
            SeedClass::Demo => 0,
        }
    }
}

/// The decided parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedParameters {
    /// The database.
    pub database: String,
    /// The seeds in the order in which they are written.
    pub seeds: Vec<PlannedSeed>,
}

impl SeedParameters {
    /// The parameters of a plan of seeds.
    ///
    /// # Errors
    /// `Usage` when it is no such plan.
    pub fn of(plan: &Plan) -> Result<Self> {
        let is_ours = [OPERATION, OPERATION_CHANGE, OPERATION_REPLACE].contains(&plan.operation.as_str());
        let parameters: Option<Self> =
            is_ours.then(|| serde_json::from_value(plan.parameters.clone()).ok()).flatten();
        parameters.ok_or_else(|| Error::new(ErrorKind::Usage, "the plan's parameters are not those of seeds"))
    }
}

/// How a declared seed stands.
#[derive(Debug, Clone, Serialize)]
pub struct SeedStatus {
    /// The seed.
    #[serde(flatten)]
    pub seed: PlannedSeed,
    /// Why it may not be written here; `None` when it may.
    pub refused: Option<String>,
    /// Why it could not be compared, such as for want of a unique index; its standing says nothing then.
    pub fault: Option<String>,
}

/// How `seeds` of one store stand, in their order; changes nothing. What the store lacks for one of them is told of that one.
///
/// # Errors
/// The store's.
pub async fn status(store: &dyn SeedTarget, target: &Target, seeds: &[&Seed]) -> Result<Vec<SeedStatus>> {
    let ground = store.ground().await?;
    let mut all = Vec::new();
    for seed in seeds {
        let declared = &seed.declared;
        let refused = declared.class.check_allowed(&declared.id, target, ground.marker.as_ref()).err();
        let refused = refused.map(|error| error.message().to_owned());
        let (planned, fault) = match look(store, seed).await {
            Ok(planned) => (planned, None),
            Err(error) if error.kind() == ErrorKind::Precondition => {
                (with_standing(seed, SeedStanding::default()), Some(error.message().to_owned()))
            }
            Err(error) => return Err(error),
        };
        all.push(SeedStatus { seed: planned, refused, fault });
    }
    Ok(all)
}

/// Decides to write `seeds`, all of one store, in their order.
///
/// # Errors
/// `Refused` when one of them may not be written here; `Precondition` when the store does not take it; the store's.
pub async fn plan(
    store: &dyn SeedTarget,
    seeds: &[&Seed],
    target: Target,
    clock: &dyn Clock,
) -> Result<Plan> {
    let ground = store.ground().await?;
    for seed in seeds {
        seed.declared.class.check_allowed(&seed.declared.id, &target, ground.marker.as_ref())?;
    }
    let mut planned = Vec::new();
    for seed in seeds {
        planned.push(look(store, seed).await?);
    }
    let name = worst_operation(&planned);
    let created_at = clock.now();
    let names = planned.iter().map(|seed| seed.id.as_str()).collect::<Vec<_>>().join(", ");
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: name.to_owned(),
        effect: operation(name).expect("running seeds is registered").effect,
        assumptions: assumptions(&target, &ground, &planned),
        blast_radius: BlastRadius {
            phrase: format!(
                "seed {} of {}@{} with {names}",
                ground.database, target.store, target.environment
            ),
            items: planned.iter().map(PlannedSeed::at_stake).sum(),
            bytes: 0,
        },
        target,
        steps: planned.iter().map(step).collect(),
        parameters: serde_json::to_value(SeedParameters { database: ground.database, seeds: planned })
            .expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// What the rows of `seed` meet.
pub(super) async fn look(store: &dyn SeedTarget, seed: &Seed) -> Result<PlannedSeed> {
    let declared = &seed.declared;
    let rows = &seed.file.rows;
    let mut standing = SeedStanding::default();
    // Even without rows the store is asked what is there.
    let batches = rows.chunks(SEED_BATCH_MAX).chain(rows.is_empty().then_some(&[][..]));
    for batch in batches {
        let part = store
            .standing(&declared.place, batch)
            .await
            .with_context(|| format!("look at what seed {} meets", declared.id))?;
        standing.held = part.held;
        standing.absent += part.absent;
        standing.different += part.different;
    }
    Ok(with_standing(seed, standing))
}

fn with_standing(seed: &Seed, standing: SeedStanding) -> PlannedSeed {
    let declared = &seed.declared;
    PlannedSeed {
        id: declared.id.clone(),
        class: declared.class,
        place: declared.place.clone(),
        blake3: seed.file.blake3,
        rows: seed.file.rows.len() as u64,
        standing,
    }
}

/// The operation of a run is that of the seed that needs most.
pub(super) fn worst_operation(seeds: &[PlannedSeed]) -> &'static str {
    let worst = [OPERATION_REPLACE, OPERATION_CHANGE].into_iter();
    worst
        .filter(|name| seeds.iter().any(|seed| seed.operation() == *name))
        .chain([OPERATION])
        .next()
        .unwrap_or(OPERATION)
}

fn step(seed: &PlannedSeed) -> PlanStep {
    let SeedStanding { held, absent, different } = seed.standing;
    let (rows, into) = (Count(seed.rows), &seed.place.into);
    let (mark, summary) = match seed.class {
        _ if !seed.has_work() => (' ', format!("{into}: all {rows} rows are there")),
        SeedClass::Destructive => {
            ('-', format!("{into}: all {} rows that are there go, then {rows} are inserted", Count(held)))
        }
        SeedClass::Reference if different > 0 => {
            ('~', format!("{into}: {} of {rows} rows are new, {} change", Count(absent), Count(different)))
        }
        SeedClass::Reference | SeedClass::Demo => {
            ('+', format!("{into}: {} of {rows} rows are new", Count(absent)))
        }
    };
    PlanStep { name: format!("seed {}", seed.id), mark, summary }
}

/// What must still be so.
pub(super) fn assumptions(target: &Target, ground: &SeedGround, seeds: &[PlannedSeed]) -> Vec<Assumption> {
    let said = |marker: &Marker| format!("{}, {}, {}", marker.environment, marker.class, marker.id);
    let marker = ground.marker.as_ref().map_or_else(|| "absent".to_owned(), said);
    let mut all = vec![
        Assumption { name: "server".to_owned(), value: target.fingerprint.clone() },
        Assumption { name: "database".to_owned(), value: ground.database.clone() },
        Assumption { name: "marker".to_owned(), value: marker },
    ];
    for seed in seeds {
        let SeedStanding { held, absent, different } = seed.standing;
        let stands = match seed.class {
            // What else is in the collection is nobody's business but of what removes it.
            SeedClass::Reference | SeedClass::Demo => format!("{absent} absent, {different} different"),
            SeedClass::Destructive => format!("{held} there"),
        };
        all.push(Assumption { name: format!("file of {}", seed.id), value: seed.blake3.to_string() });
        all.push(Assumption { name: format!("rows of {}", seed.id), value: stands });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(class: SeedClass, held: u64, absent: u64, different: u64) -> PlannedSeed {
        PlannedSeed {
            id: "s".to_owned(),
            class,
            place: SeedPlace { into: "c".to_owned(), key: vec!["k".to_owned()] },
            blake3: Blake3::of(b"rows"),
            rows: 3,
            standing: SeedStanding { held, absent, different },
        }
    }

    #[test]
    fn a_run_is_judged_by_the_worst_that_it_does() {
        use SeedClass::{Demo, Destructive, Reference};
        for (seed, operation, mark, at_stake) in [
            (planned(Reference, 9, 0, 0), OPERATION, ' ', 0),
            (planned(Reference, 9, 2, 0), OPERATION, '+', 0),
            (planned(Reference, 9, 0, 1), OPERATION_CHANGE, '~', 1),
            (planned(Demo, 9, 3, 0), OPERATION, '+', 0),
            (planned(Demo, 9, 0, 3), OPERATION, ' ', 0),
            (planned(Destructive, 9, 0, 0), OPERATION_REPLACE, '-', 9),
        ] {
            assert_eq!((seed.operation(), step(&seed).mark, seed.at_stake()), (operation, mark, at_stake));
            let together = [planned(Demo, 0, 3, 0), seed];
            assert_eq!(worst_operation(&together), operation);
        }
        assert_eq!(
            worst_operation(&[planned(Reference, 9, 0, 1), planned(Destructive, 1, 0, 0)]),
            OPERATION_REPLACE
        );
    }
}
