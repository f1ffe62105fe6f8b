//! What is declared for a collection against what it has.
//!
//! Indexes are paired by what they are, the most alike first: the same index (whatever its name), the same keys under the same name, the
//! same keys, the same keys in the other direction, the name that it had, the same name. What is left on either side is missing or
//! undeclared. One that is being built is never taken for one that is there.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::collation::Collation;
use crate::declared::DeclaredIndex;
use crate::keys::Key;
use crate::listed::ListedIndex;
use crate::route::{Route, route};
use crate::spec::IndexSpec;

/// One row of a comparison: an index that is declared, one that is there, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// What is declared; `None` for what nobody declares.
    pub declared: Option<DeclaredIndex>,
    /// What is there; `None` for what is missing.
    pub live: Option<ListedIndex>,
    /// How they stand to each other.
    pub standing: Standing,
}

/// How what is declared stands to what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is the same index; its name may be another one.
    Same,
    /// It is the same index, and still being built.
    Building,
    /// The same fields, all in the other direction: a server reads it both ways.
    Reversed,
    /// It differs.
    Changed {
        /// By what; at least one.
        differences: Vec<Difference>,
        /// What leads from the one to the other.
        route: Route,
    },
    /// It is not there.
    Missing,
    /// Nobody declares it.
    Undeclared,
}

/// One thing in which two indexes differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What differs.
    pub aspect: Aspect,
    /// How it is.
    pub live: String,
    /// How it is declared.
    pub declared: String,
}

/// A part of an index's definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// The keys.
    Keys,
    /// Whether it is unique.
    Unique,
    /// Whether it is sparse.
    Sparse,
    /// The filter of a partial index.
    Partial,
    /// The seconds after which documents expire.
    Ttl,
    /// How texts are compared.
    Collation,
    /// Fields, weights and language of a text index.
    Text,
    /// The paths of a wildcard index.
    Wildcard,
    /// Whether it is hidden.
    Hidden,
    /// Any other option.
    Options,
}

impl Aspect {
    /// Its word in text output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Unique => "unique",
            Self::Sparse => "sparse",
            Self::Partial => "partial",
            Self::Ttl => "ttl",
            Self::Collation => "collation",
            Self::Text => "text",
            Self::Wildcard => "wildcard",
            Self::Hidden => "hidden",
            Self::Options => "options",
        }
    }
}

/// `unique false → true`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} → {}", self.aspect.name(), self.live, self.declared)
    }
}

impl Comparison {
    /// Whether anything is to be done or waited for.
    pub fn is_drift(&self) -> bool {
        !matches!(self.standing, Standing::Same | Standing::Reversed)
    }

    /// The name that it is known by: the one that it has, else the one that is declared.
    pub fn name(&self) -> String {
        let live = self.live.as_ref().map(|live| live.name.clone());
        live.or_else(|| self.declared.as_ref().map(DeclaredIndex::name)).unwrap_or_default()
    }

    /// The declared name where it is not the one that it has.
    pub fn other_name(&self) -> Option<String> {
        let (declared, live) = (self.declared.as_ref()?, self.live.as_ref()?);
        Some(declared.name()).filter(|name| *name != live.name)
    }
}

/// In what two indexes differ, in the order of [`Aspect`]; nothing when the server treats them as the same.
pub fn differences(live: &IndexSpec, declared: &IndexSpec) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut differ =
        |aspect, live: String, declared: String| found.push(Difference { aspect, live, declared });
    if live.keys != declared.keys {
        differ(Aspect::Keys, keys_text(&live.written_keys()), keys_text(&declared.written_keys()));
    }
    for (aspect, live, declared) in [
        (Aspect::Unique, live.unique, declared.unique),
        (Aspect::Sparse, live.sparse, declared.sparse),
        (Aspect::Hidden, live.hidden, declared.hidden),
    ] {
        if live != declared {
            differ(aspect, live.to_string(), declared.to_string());
        }
    }
    let shown = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    if live.partial != declared.partial {
        let text = |spec: &IndexSpec| shown(spec.partial.as_ref().map(ToString::to_string));
        differ(Aspect::Partial, text(live), text(declared));
    }
    if live.ttl_seconds != declared.ttl_seconds {
        let text = |spec: &IndexSpec| {
            shown(spec.ttl_seconds.map(|seconds| match u64::try_from(seconds) {
                Ok(seconds) => crate::manifest::span(seconds),
                Err(_) => seconds.to_string(),
            }))
        };
        differ(Aspect::Ttl, text(live), text(declared));
    }
    if live.collation != declared.collation {
        differ(Aspect::Collation, live.collation.to_string(), declared.collation.to_string());
    }
    // Where only one is for texts, the keys have told so.
    if let (Some(one), Some(other)) = (&live.text, &declared.text)
        && one != other
    {
        differ(Aspect::Text, text_of(one), text_of(other));
    }
    if live.wildcard != declared.wildcard {
        let text = |spec: &IndexSpec| shown(spec.wildcard.as_ref().map(ToString::to_string));
        differ(Aspect::Wildcard, text(live), text(declared));
    }
    if live.other != declared.other {
        let text = |spec: &IndexSpec| {
            let options = spec.other.iter().map(|(name, value)| format!("{name}: {value}"));
            format!("{{{}}}", options.collect::<Vec<_>>().join(", "))
        };
        differ(Aspect::Options, text(live), text(declared));
    }
    found.sort_by_key(|difference| difference.aspect);
    found
}

fn keys_text(keys: &[Key]) -> String {
    format!("[{}]", keys.iter().map(Key::to_string).collect::<Vec<_>>().join(", "))
}

fn text_of(text: &crate::TextOptions) -> String {
    let weights = text.weights.iter().map(|(field, weight)| format!("{field}: {weight}"));
    let weights = weights.collect::<Vec<_>>().join(", ");
    format!("{{{weights}}} {} {}", text.language, text.language_override)
}

/// Compares what is declared for a collection with what it has. Rows stand in the order of the declarations, then of the list. The index on
/// `_id` is nobody's business.
pub fn compare(declared: &[DeclaredIndex], live: &[ListedIndex], inherited: &Collation) -> Vec<Comparison> {
    let specs: Vec<IndexSpec> = declared.iter().map(|index| index.spec(inherited)).collect();
    let live: Vec<&ListedIndex> = live.iter().filter(|index| !index.is_id()).collect();
    let pairs = pair(declared, &specs, &live);
    let mut rows: Vec<Comparison> = Vec::new();
    for (at, index) in declared.iter().enumerate() {
        let found = pairs[at].map(|at| live[at]);
        rows.push(Comparison {
            standing: found.map_or(Standing::Missing, |live| standing(live, &specs[at])),
            declared: Some(index.clone()),
            live: found.cloned(),
        });
    }
    let is_paired = |at: usize| pairs.contains(&Some(at));
    let left = live.iter().enumerate().filter(|(at, _)| !is_paired(*at));
    rows.extend(left.map(|(_, index)| Comparison {
        declared: None,
        live: Some((*index).clone()),
        standing: Standing::Undeclared,
    }));
    rows
}

fn standing(live: &ListedIndex, declared: &IndexSpec) -> Standing {
    if is_reversed(&live.spec, declared) && live.is_ready() {
        return Standing::Reversed;
    }
    let differences = differences(&live.spec, declared);
    match (differences.is_empty(), live.is_ready()) {
        (true, true) => Standing::Same,
        (true, false) => Standing::Building,
        (false, _) => Standing::Changed { route: route(&live.spec, declared), differences },
    }
}

/// Whether two indexes differ by nothing but all directions turned. A server walks either both ways.
fn is_reversed(live: &IndexSpec, declared: &IndexSpec) -> bool {
    let reversed: Option<Vec<Key>> = declared.keys.iter().map(Key::reversed).collect();
    reversed.is_some_and(|keys| *live == IndexSpec { keys, ..declared.clone() })
}

/// For each declaration the place of its partner in the list.
fn pair(declared: &[DeclaredIndex], specs: &[IndexSpec], live: &[&ListedIndex]) -> Vec<Option<usize>> {
    let same_keys =
        |spec: &IndexSpec, live: &IndexSpec| spec.keys == live.keys || spec.is_text() && live.is_text();
    type Rule<'a> = &'a dyn Fn(usize, &ListedIndex) -> bool;
    let rules: [Rule<'_>; 8] = [
        &|at, live| specs[at] == live.spec && live.name == declared[at].name() && live.is_ready(),
        &|at, live| specs[at] == live.spec && live.is_ready(),
        &|at, live| specs[at] == live.spec,
        &|at, live| same_keys(&specs[at], &live.spec) && live.name == declared[at].name(),
        &|at, live| is_reversed(&live.spec, &specs[at]),
        &|at, live| declared[at].was.as_ref() == Some(&live.name),
        &|at, live| same_keys(&specs[at], &live.spec),
        &|at, live| live.name == declared[at].name(),
    ];
    let mut pairs: Vec<Option<usize>> = vec![None; declared.len()];
    for rule in rules {
        for at in 0..declared.len() {
            if pairs[at].is_some() {
                continue;
            }
            let free = |place: &usize| !pairs.contains(&Some(*place)) && rule(at, live[*place]);
            // Of several, the one that differs least.
            pairs[at] = (0..live.len())
                .filter(free)
                .min_by_key(|place| differences(&live[*place].spec, &specs[at]).len());
        }
    }
    pairs
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::declared::Manifest;
    use crate::json::{Json, json};

    fn declared(indexes: &str) -> Vec<DeclaredIndex> {
        let manifest = Manifest::parse(&format!("[indexes]\nc = [{indexes}]\n")).unwrap();
        manifest.collections["c"].clone()
    }

    fn listed(entries: Json) -> Vec<ListedIndex> {
        entries.items().unwrap().iter().map(|entry| ListedIndex::read(entry).unwrap()).collect()
    }

    /// Each row as a line: a sign, the name, and what differs.
    fn compared(indexes: &str, entries: Json, inherited: Option<Json>) -> Vec<String> {
        let inherited =
            inherited.map_or(Collation::Simple, |document| Collation::of_document(&document).unwrap());
        let rows = compare(&declared(indexes), &listed(entries), &inherited);
        let line = |row: &Comparison| match &row.standing {
            Standing::Same => format!("= {}", row.name()),
            Standing::Building => format!("… {}", row.name()),
            Standing::Reversed => format!("≈ {}", row.name()),
            Standing::Missing => format!("+ {}", row.name()),
            Standing::Undeclared => format!("- {}", row.name()),
            Standing::Changed { differences, .. } => {
                let told: Vec<String> = differences.iter().map(Difference::to_string).collect();
                format!("~ {}: {}", row.name(), told.join("; "))
            }
        };
        rows.iter().map(line).collect()
    }

    #[test]
    fn the_table() {
        let cases: Vec<(&str, Json, Vec<&str>)> = vec![
            ("{ keys = [\"a\"] }", json!([{"v": 2, "key": {"_id": 1}, "name": "_id_"}]), vec!["+ a_1"]),
            (
                "",
                json!([{"v": 2, "key": {"_id": 1}, "name": "_id_"}, {"key": {"a": 1}, "name": "a_1"}]),
                vec!["- a_1"],
            ),
            (
                "{ keys = [\"a\"] }",
                json!([{"key": {"a": 1}, "name": "a_1", "sparse": false, "background": true}]),
                vec!["= a_1"],
            ),
            ("{ keys = [\"a\"] }", json!([{"key": {"a": 1}, "name": "mine"}]), vec!["= mine"]),
            ("{ keys = [\"a\"] }", json!([{"key": {"a": -1}, "name": "a_-1"}]), vec!["≈ a_-1"]),
            (
                "{ keys = [\"a\", \"b\"] }",
                json!([{"key": {"a": 1, "b": -1}, "name": "x"}]),
                vec!["+ a_1_b_1", "- x"],
            ),
            (
                "{ keys = [\"a\"], unique = true }",
                json!([{"key": {"a": 1}, "name": "a_1"}]),
                vec!["~ a_1: unique false → true"],
            ),
            (
                "{ keys = [\"a\"] }",
                json!([{"key": {"a": 1}, "name": "a_1", "hidden": true}]),
                vec!["~ a_1: hidden true → false"],
            ),
            (
                "{ keys = [\"a\"], ttl = \"1d\" }",
                json!([{"key": {"a": 1}, "name": "a_1", "expireAfterSeconds": 60}]),
                vec!["~ a_1: ttl 1m → 1d"],
            ),
            (
                "{ keys = [\"title\"] }",
                json!([{"key": {"_fts": "text", "_ftsx": 1}, "name": "title_text", "weights": {"title": 1}}]),
                vec!["+ title_1", "- title_text"],
            ),
            (
                "{ keys = [\"title:text\"] }",
                json!([{"key": {"_fts": "text", "_ftsx": 1}, "name": "b_text", "weights": {"body": 1}}]),
                vec!["~ b_text: text {body: 1} english language → {title: 1} english language"],
            ),
            (
                "{ keys = [\"a\"] }",
                json!([{"spec": {"key": {"a": 1}, "name": "a_1"}, "buildUUID": {"$uuid": "1"}}]),
                vec!["… a_1"],
            ),
            // Of two variants each finds its own.
            (
                "{ keys = [\"a\"], unique = true }, { keys = [\"a\"], name = \"p\", partial = { b = 1 } }",
                json!([{"key": {"a": 1}, "name": "p", "partialFilterExpression": {"b": 1.0}}, {"key": {"a": 1}, "name": "a_1"}]),
                vec!["~ a_1: unique false → true", "= p"],
            ),
            // A name that another index has.
            (
                "{ keys = [\"b\"], name = \"n\" }",
                json!([{"key": {"a": 1}, "name": "n"}]),
                vec!["~ n: keys [a] → [b]"],
            ),
            (
                "{ keys = [\"b\"], was = \"old\" }",
                json!([{"key": {"a": 1}, "name": "old"}]),
                vec!["~ old: keys [a] → [b]"],
            ),
        ];
        for (indexes, entries, expected) in cases {
            assert_eq!(compared(indexes, entries, None), expected, "{indexes}");
        }
    }

    #[test]
    fn an_inherited_collation_is_no_difference() {
        let french = json!({"locale": "fr"});
        let entries = json!([{"key": {"a": 1}, "name": "a_1", "collation": {"locale": "fr", "caseLevel": false, "caseFirst": "off",
            "strength": 3, "numericOrdering": false, "alternate": "non-ignorable", "maxVariable": "punct", "normalization": false,
            "backwards": false, "version": "57.1"}}]);
        assert_eq!(compared("{ keys = [\"a\"] }", entries.clone(), Some(french.clone())), ["= a_1"]);
        assert_eq!(
            compared("{ keys = [\"a\"], collation = { locale = \"simple\" } }", entries, Some(french)),
            [r#"~ a_1: collation {"locale":"fr"} → simple"#]
        );
    }
}
