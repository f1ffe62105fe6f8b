//! Collations with all that the server fills in.
//!
//! A server lists a collation whole, with a `version` of its library besides; people write a locale and what matters to them. Both become
//! the same value here. A locale alone means more to an index than its name: Danish puts capitals first, Thai ignores punctuation.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ejson;
use crate::json::Json;

/// How texts are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collation {
    /// Byte by byte: what there is without a collation.
    Simple,
    /// By the rules of a language.
    Locale(Rules),
}

/// The rules of a language, complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    locale: String,
    case_level: bool,
    case_first: String,
    strength: i64,
    numeric_ordering: bool,
    alternate: String,
    max_variable: String,
    normalization: bool,
    backwards: bool,
}

impl Rules {
    /// What a server makes of a locale alone in an index: what its library knows of the language (6.0, asked for every locale). A collection's
    /// own collation is filled in otherwise, and listed whole.
    fn of_locale(locale: &str) -> Self {
        let language = locale.split(['@', '_']).next().unwrap_or_default();
        let is_search = locale.ends_with("@collation=search");
        Self {
            locale: locale.to_owned(),
            case_level: false,
            case_first: if matches!(language, "da" | "mt") && !is_search { "upper" } else { "off" }
                .to_owned(),
            strength: 3,
            numeric_ordering: false,
            alternate: if language == "th" { "shifted" } else { "non-ignorable" }.to_owned(),
            max_variable: "punct".to_owned(),
            normalization: is_search || NORMALIZED.contains(&language),
            backwards: locale == "fr_CA",
        }
    }
}

/// Languages whose texts are normalised before they are compared.
const NORMALIZED: [&str; 23] = [
    "as", "bn", "el", "fa", "gu", "he", "hi", "ig", "km", "kn", "kok", "mr", "my", "or", "pa", "ps", "si",
    "ta", "te", "th", "vi", "yi", "yo",
];

impl Collation {
    /// The collation that a document says; an absent one is the server's business.
    ///
    /// # Errors
    /// One line about what is wrong with it.
    pub fn of_document(document: &Json) -> Result<Self, String> {
        let fields = document.members().ok_or("a collation is a document with a locale")?;
        let locale = document.get("locale").and_then(Json::text).ok_or("a collation needs a locale")?;
        if locale == "simple" {
            return Ok(Self::Simple);
        }
        let mut rules = Rules::of_locale(locale);
        for (name, value) in fields {
            let flag = || Ok::<_, String>(ejson::truthy(value));
            let text = || {
                value.text().map(str::to_owned).ok_or_else(|| format!("`{name}` of a collation is a text"))
            };
            match name.as_str() {
                "locale" | "version" => {}
                "caseLevel" => rules.case_level = flag()?,
                "caseFirst" => rules.case_first = text()?,
                "strength" => {
                    rules.strength =
                        ejson::whole(value).ok_or("`strength` of a collation is a number from 1 to 5")?;
                }
                "numericOrdering" => rules.numeric_ordering = flag()?,
                "alternate" => rules.alternate = text()?,
                "maxVariable" => rules.max_variable = text()?,
                "normalization" => rules.normalization = flag()?,
                "backwards" => rules.backwards = flag()?,
                other => return Err(format!("a collation has no `{other}`")),
            }
        }
        Ok(Self::Locale(rules))
    }

    /// The shortest document that says it.
    pub fn document(&self) -> Json {
        let Self::Locale(rules) = self else { return Json::object([("locale", Json::from("simple"))]) };
        let plain = Rules::of_locale(&rules.locale);
        let mut fields = vec![("locale", Json::from(&rules.locale))];
        let mut differing = |name: &'static str, value: Json, default: Json| {
            if value != default {
                fields.push((name, value));
            }
        };
        differing("caseLevel", Json::from(rules.case_level), Json::from(plain.case_level));
        differing("caseFirst", Json::from(&rules.case_first), Json::from(&plain.case_first));
        differing("strength", Json::from(rules.strength), Json::from(plain.strength));
        differing("numericOrdering", Json::from(rules.numeric_ordering), Json::from(plain.numeric_ordering));
        differing("alternate", Json::from(&rules.alternate), Json::from(&plain.alternate));
        differing("maxVariable", Json::from(&rules.max_variable), Json::from(&plain.max_variable));
        differing("normalization", Json::from(rules.normalization), Json::from(plain.normalization));
        differing("backwards", Json::from(rules.backwards), Json::from(plain.backwards));
        Json::object(fields)
    }

    /// Whether it is what there is without a collation.
    pub fn is_simple(&self) -> bool {
        *self == Self::Simple
    }
}

/// `simple`, or the shortest document.
impl fmt::Display for Collation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple => f.write_str("simple"),
            locale => write!(f, "{}", locale.document()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::json::json;

    #[test]
    fn what_the_server_fills_in_is_no_difference() {
        let listed = json!({"locale": "en", "caseLevel": false, "caseFirst": "off", "strength": {"$numberInt": "2"},
            "numericOrdering": false, "alternate": "non-ignorable", "maxVariable": "punct", "normalization": false,
            "backwards": false, "version": "57.1"});
        let listed = Collation::of_document(&listed).unwrap();
        let written = json!({"locale": "en", "strength": 2});
        assert_eq!(listed, Collation::of_document(&written).unwrap());
        assert_eq!(listed.document(), written);
        assert_eq!(Collation::of_document(&listed.document()).unwrap(), listed);
        for other in [
            json!({"locale": "en"}),
            json!({"locale": "fr", "strength": 2}),
            json!({"locale": "en", "strength": 2, "numericOrdering": true}),
        ] {
            assert_ne!(listed, Collation::of_document(&other).unwrap());
        }
    }

    #[test]
    fn languages_have_habits() {
        let alone =
            |locale: &str| Collation::of_document(&Json::object([("locale", Json::from(locale))])).unwrap();
        for (locale, whole) in [
            ("da", json!({"locale": "da", "caseFirst": "upper"})),
            ("th", json!({"locale": "th", "alternate": "shifted", "normalization": true})),
            ("fa_AF", json!({"locale": "fa_AF", "normalization": true})),
            ("fr_CA", json!({"locale": "fr_CA", "backwards": true})),
            (
                "da@collation=search",
                json!({"locale": "da@collation=search", "caseFirst": "off", "normalization": true}),
            ),
        ] {
            assert_eq!(alone(locale), Collation::of_document(&whole).unwrap());
            assert_eq!(alone(locale).document().members().unwrap().len(), 1);
        }
    }

    #[test]
    fn what_is_no_collation_is_refused() {
        assert!(Collation::of_document(&json!({"locale": "simple"})).unwrap().is_simple());
        for bad in [
            json!("en"),
            json!({}),
            json!({"locale": "en", "strenght": 2}),
            json!({"locale": "en", "alternate": 1}),
        ] {
            assert!(Collation::of_document(&bad).is_err(), "{bad}");
        }
    }
}
