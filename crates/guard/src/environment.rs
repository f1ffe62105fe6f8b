//! Which environment this is, from what the configuration says and what each store says of itself.
//!
//! Pure: the caller reads configuration and markers and hands them in. Relies on nothing but those answers. Refuses answers that
//! contradict each other, whichever of them may be right: the accident to prevent is a configuration pointed at another environment's
//! servers.

use mainstay_model::{EnvironmentClass, Error, ErrorKind, Result, StoreKind, Timestamp};
use serde::{Deserialize, Serialize};

/// The name of an environment that nothing names.
pub const UNKNOWN_ENVIRONMENT: &str = "unknown";

/// What a store says of the environment it belongs to: kept inside the store itself, so that it travels with the data and not with the
/// configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The environment's name, such as `marketplace-dev`.
    pub environment: String,
    /// How protected it is.
    pub class: EnvironmentClass,
    /// When the marker was written.
    pub marked_at: Timestamp,
    /// Tells this marker from any other ever written.
    pub id: String,
}

/// The parts of a marker's text form, in the order of [`Marker::fields`].
const MARKER_FIELDS: [&str; 4] = ["environment", "class", "marked_at", "id"];

/// Stored fields that are no marker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadMarkerError {
    /// A field is not there.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A field's text is not what it should be.
    #[error("its {field} is `{text}`")]
    Malformed {
        /// The field.
        field: &'static str,
        /// Its text.
        text: String,
    },
}

impl Marker {
    /// The marker as named texts, for a store to keep in columns or fields; [`Marker::from_fields`] reads them back.
    pub fn fields(&self) -> [(&'static str, String); 4] {
        let values = [
            self.environment.clone(),
            self.class.name().to_owned(),
            self.marked_at.to_string(),
            self.id.clone(),
        ];
        let mut values = values.into_iter();
        MARKER_FIELDS.map(|name| (name, values.next().expect("there are as many values as names")))
    }

    /// The marker that `field` gives the texts of.
    ///
    /// # Errors
    /// [`ReadMarkerError`] when a field is missing or malformed.
    pub fn from_fields(field: impl Fn(&str) -> Option<String>) -> Result<Self, ReadMarkerError> {
        let text = |name| field(name).ok_or(ReadMarkerError::Missing(name));
        let malformed = |field, text| ReadMarkerError::Malformed { field, text };
        let (class, marked_at) = (text("class")?, text("marked_at")?);
        let classes =
            [EnvironmentClass::Development, EnvironmentClass::Staging, EnvironmentClass::Production];
        Ok(Self {
            environment: text("environment")?,
            class: classes
                .into_iter()
                .find(|known| known.name() == class)
                .ok_or_else(|| malformed("class", class))?,
            marked_at: marked_at.parse().map_err(|_| malformed("marked_at", marked_at))?,
            id: text("id")?,
        })
    }
}

/// What the configuration says. Both parts are optional; what is absent is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfiguredEnvironment {
    /// The environment's name.
    pub name: Option<String>,
    /// Its class.
    pub class: Option<EnvironmentClass>,
}

/// The environment as found, with what every source said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// Its name; [`UNKNOWN_ENVIRONMENT`] when no source names it.
    pub name: String,
    /// The most protective of the answers; production when an answer is missing.
    pub class: EnvironmentClass,
    /// Every source and what it said, in the order asked: `("configuration", "marketplace-dev, development")`,
    /// `("marker in mongo", "absent, counts as production")`.
    pub sources: Vec<(String, String)>,
}

/// What one source said.
struct Answer {
    source: String,
    name: Option<String>,
    class: Option<EnvironmentClass>,
}

/// Concludes which environment this is. `markers` holds one entry for each store that the operation will touch: `None` for a store that
/// was asked and has no marker.
///
/// A class that the configuration leaves out, a store without a marker, and no store at all each count as production. The class is the
/// most protective of all answers.
///
/// # Errors
/// [`ErrorKind::Refused`] when two sources name different environments or different classes; the error names both sources and what they
/// said.
pub fn identify(
    configured: &ConfiguredEnvironment,
    markers: &[(StoreKind, Option<Marker>)],
) -> Result<Environment> {
    let answers = answers(configured, markers);
    refuse_contradiction(&answers, "name", |answer| answer.name.clone())?;
    refuse_contradiction(&answers, "class", |answer| answer.class.map(|class| class.name().to_owned()))?;
    let name = answers.iter().find_map(|answer| answer.name.clone());
    let class = answers.iter().map(|answer| answer.class.unwrap_or(EnvironmentClass::Production)).max();
    let sources = sources(configured, markers);
    let class = if markers.is_empty() { None } else { class };
    Ok(Environment {
        name: name.unwrap_or_else(|| UNKNOWN_ENVIRONMENT.to_owned()),
        class: class.unwrap_or(EnvironmentClass::Production),
        sources,
    })
}

/// What every source says, in words, whether or not they agree: the configuration first, then the stores.
pub fn sources(
    configured: &ConfiguredEnvironment,
    markers: &[(StoreKind, Option<Marker>)],
) -> Vec<(String, String)> {
    let answers = answers(configured, markers);
    let mut sources: Vec<_> = answers.iter().map(|answer| (answer.source.clone(), said(answer))).collect();
    if markers.is_empty() {
        sources.push(("markers".to_owned(), "no store was asked, counts as production".to_owned()));
    }
    sources
}

fn answers(configured: &ConfiguredEnvironment, markers: &[(StoreKind, Option<Marker>)]) -> Vec<Answer> {
    let configuration =
        Answer { source: "configuration".to_owned(), name: configured.name.clone(), class: configured.class };
    let of_store = |(kind, marker): &(StoreKind, Option<Marker>)| Answer {
        source: format!("marker in {kind}"),
        name: marker.as_ref().map(|marker| marker.environment.clone()),
        class: marker.as_ref().map(|marker| marker.class),
    };
    std::iter::once(configuration).chain(markers.iter().map(of_store)).collect()
}

fn said(answer: &Answer) -> String {
    match (&answer.name, answer.class) {
        (Some(name), Some(class)) => format!("{name}, {class}"),
        (Some(name), None) => format!("{name}, no class, counts as production"),
        (None, Some(class)) => format!("no name, {class}"),
        (None, None) => "absent, counts as production".to_owned(),
    }
}

fn refuse_contradiction(
    answers: &[Answer],
    what: &str,
    value: impl Fn(&Answer) -> Option<String>,
) -> Result<()> {
    let mut given = answers.iter().filter_map(|answer| value(answer).map(|value| (&answer.source, value)));
    let Some((first_source, first)) = given.next() else { return Ok(()) };
    let Some((other_source, other)) = given.find(|(_, other)| *other != first) else { return Ok(()) };
    Err(Error::new(
        ErrorKind::Refused,
        format!(
            "the environment's {what} is contradictory: {first_source} says {first}, {other_source} says {other}"
        ),
    )
    .with_state("nothing was changed")
    .with_hint(
        "check that the configuration points at the servers you mean; `mainstay environment show` lists what every source says",
    ))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use EnvironmentClass::{Development, Production, Staging};

    use super::*;

    const CLASSES: [Option<EnvironmentClass>; 4] = [None, Some(Development), Some(Staging), Some(Production)];
    const NAMES: [Option<&str>; 3] = [None, Some("shop-a"), Some("shop-b")];

    fn marker(name: &str, class: EnvironmentClass) -> Marker {
        let marked_at = Timestamp::from_second(1_800_000_000).unwrap();
        Marker { environment: name.to_owned(), class, marked_at, id: "m1".to_owned() }
    }

    /// Every marker there can be, and none.
    fn markers() -> Vec<Option<Marker>> {
        let mut all = vec![None];
        for name in ["shop-a", "shop-b"] {
            all.extend([Development, Staging, Production].map(|class| Some(marker(name, class))));
        }
        all
    }

    /// Says the rule another way round: what agrees is what has at most one distinct value.
    fn expected(
        configured: &ConfiguredEnvironment,
        markers: &[Option<Marker>],
    ) -> Option<(String, EnvironmentClass)> {
        let mut names: Vec<_> = configured.name.iter().cloned().collect();
        let mut classes: Vec<_> = configured.class.into_iter().collect();
        let mut unknown = configured.class.is_none() || markers.is_empty();
        for marker in markers {
            match marker {
                Some(marker) => {
                    names.push(marker.environment.clone());
                    classes.push(marker.class);
                }
                None => unknown = true,
            }
        }
        names.sort_unstable();
        names.dedup();
        classes.sort_unstable();
        classes.dedup();
        if names.len() > 1 || classes.len() > 1 {
            return None;
        }
        let class = if unknown { Production } else { classes[0] };
        Some((names.pop().unwrap_or_else(|| "unknown".to_owned()), class))
    }

    #[test]
    fn every_combination_of_configuration_and_up_to_two_stores() {
        let mut sets: Vec<Vec<Option<Marker>>> = vec![vec![]];
        for first in markers() {
            sets.push(vec![first.clone()]);
            sets.extend(markers().into_iter().map(|second| vec![first.clone(), second]));
        }
        let mut combinations = 0;
        for name in NAMES {
            for class in CLASSES {
                let configured = ConfiguredEnvironment { name: name.map(str::to_owned), class };
                for set in &sets {
                    let given: Vec<_> = StoreKind::ALL.into_iter().zip(set.iter().cloned()).collect();
                    let found = identify(&configured, &given);
                    combinations += 1;
                    match expected(&configured, set) {
                        Some((name, class)) => {
                            let found = found.unwrap();
                            assert_eq!((found.name, found.class), (name, class), "{configured:?} {set:?}");
                        }
                        None => assert_eq!(
                            found.unwrap_err().kind(),
                            ErrorKind::Refused,
                            "{configured:?} {set:?}"
                        ),
                    }
                }
            }
        }
        assert_eq!(combinations, 3 * 4 * (1 + 7 + 49));
    }

    #[test]
    fn fields_make_the_same_marker_again() {
        let marker = marker("shop-a", Staging);
        let fields: std::collections::BTreeMap<_, _> = marker.fields().into();
        assert_eq!(Marker::from_fields(|name| fields.get(name).cloned()).unwrap(), marker);
        for name in MARKER_FIELDS {
            let found = Marker::from_fields(|asked| fields.get(asked).filter(|_| asked != name).cloned());
            assert_eq!(found, Err(ReadMarkerError::Missing(name)));
        }
        for name in ["class", "marked_at"] {
            let odd =
                |asked: &str| if asked == name { Some("odd".to_owned()) } else { fields.get(asked).cloned() };
            let expected = ReadMarkerError::Malformed { field: name, text: "odd".to_owned() };
            assert_eq!(Marker::from_fields(odd), Err(expected));
        }
    }

    #[test]
    fn a_contradiction_names_both_sources_and_what_they_said() {
        let configured =
            ConfiguredEnvironment { name: Some("shop-dev".to_owned()), class: Some(Development) };
        let prod = (StoreKind::Postgres, Some(marker("shop-prod", Production)));
        let text = identify(&configured, &[(StoreKind::Mongo, None), prod]).unwrap_err().to_string();
        for part in ["configuration says shop-dev", "marker in postgres says shop-prod"] {
            assert!(text.contains(part), "{text}");
        }
        let same_name = (StoreKind::Redis, Some(marker("shop-dev", Staging)));
        let text = identify(&configured, &[same_name]).unwrap_err().to_string();
        for part in ["class", "configuration says development", "marker in redis says staging"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let configured =
            ConfiguredEnvironment { name: Some("shop-dev".to_owned()), class: Some(Development) };
        let found = identify(&configured, &[(StoreKind::Mongo, None)]).unwrap();
        assert_eq!(found.class, Production);
        assert_eq!(
            found.sources,
            [
                ("configuration".to_owned(), "shop-dev, development".to_owned()),
                ("marker in mongo".to_owned(), "absent, counts as production".to_owned()),
            ]
        );
        let nothing = identify(&ConfiguredEnvironment::default(), &[]).unwrap();
        assert_eq!((nothing.name.as_str(), nothing.class), ("unknown", Production));
        assert_eq!(nothing.sources.len(), 2);
    }
}
