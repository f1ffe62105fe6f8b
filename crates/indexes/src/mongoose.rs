//! Declarations as a Mongoose project makes them, from the facts that the import script prints.
//!
//! The script tells what is there and judges nothing: models with their collection, what `schema.indexes()` gives, and what Mongoose would
//! add while it builds. What that means is decided here, as Mongoose 8 and 9 behave: a discriminator inherits its base's indexes, which are
//! declared once, and its own get its filter unless they are sparse; a schema's collation is that of its indexes but for text; several models
//! may share a collection. Relies on the form [`FORMAT`]; refuses any other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::collation::Collation;
use crate::declared::DeclaredIndex;
use crate::json::Json;
use crate::keys::Key;
use crate::spec::SpecError;

/// The number of the form that the script prints.
pub const FORMAT: u32 = 1;

/// What the script prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    /// The form; see [`FORMAT`].
    pub format: u32,
    /// Mongoose's version.
    pub mongoose: String,
    /// The models of all connections.
    pub models: Vec<Model>,
}

/// A model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Its collection.
    pub collection: String,
    /// The name of the model that it is a discriminator of.
    pub base: Option<String>,
    /// The field and value that tell its documents.
    pub discriminator: Option<Discriminator>,
    /// The collation of its schema.
    pub collation: Option<Json>,
    /// Whether it builds its indexes when the application begins.
    pub auto_index: bool,
    /// Whether its collection is a view or a time series, whose indexes are not compared.
    #[serde(default)]
    pub special: bool,
    /// Pairs of keys and options.
    pub indexes: Vec<(Json, Json)>,
}

/// What tells a discriminator's documents.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Discriminator {
    /// The field.
    pub key: String,
    /// Its value.
    pub value: Json,
}

/// What a project declares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declarations {
    /// The indexes by collection; also of collections without any.
    pub collections: BTreeMap<String, Vec<DeclaredIndex>>,
    /// The collections whose models build their indexes when the application begins.
    pub auto_index: Vec<String>,
    /// What a person should know: one factual line each.
    pub notes: Vec<String>,
}

/// Options that are Mongoose's own or change nothing.
const MONGOOSE_OPTIONS: [&str; 3] = ["background", "_autoIndex", "expires"];

impl Project {
    /// Reads what the script printed.
    ///
    /// # Errors
    /// One line about what is not as expected.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let project: Self = serde_json::from_str(text)
            .map_err(|error| SpecError::new(format!("these are no facts of an import: {error}")))?;
        match project.format {
            FORMAT => Ok(project),
            other => {
                Err(SpecError::new(format!("these are facts of form {other}, and form {FORMAT} is read")))
            }
        }
    }

    /// What it declares, by collection.
    ///
    /// # Errors
    /// The first index that cannot be read, with its model.
    pub fn declarations(&self) -> Result<Declarations, SpecError> {
        let mut declarations = Declarations::default();
        for model in &self.models {
            if model.special {
                let note =
                    format!("{} is a view or a time series: its indexes are left out", model.collection);
                declarations.note(note);
                continue;
            }
            if model.auto_index && !declarations.auto_index.contains(&model.collection) {
                declarations.auto_index.push(model.collection.clone());
            }
            declarations.collections.entry(model.collection.clone()).or_default();
            for (keys, options) in &model.indexes {
                if self.is_inherited(model, keys, options) || is_id(keys) {
                    continue;
                }
                let index = declared(model, keys, options)
                    .map_err(|error| SpecError::new(format!("model {}: {error}", model.name)))?;
                declarations.add(model, index);
            }
        }
        Ok(declarations)
    }

    /// Whether a discriminator has this index from its base, which declares it for all.
    fn is_inherited(&self, model: &Model, keys: &Json, options: &Json) -> bool {
        let Some(base) = &model.base else { return false };
        let bases =
            self.models.iter().filter(|other| other.name == *base && other.collection == model.collection);
        let same = |(base_keys, base_options): &(Json, Json)| {
            base_keys == keys && own_options(base_options).eq(own_options(options))
        };
        bases.flat_map(|base| &base.indexes).any(same)
    }
}

fn is_id(keys: &Json) -> bool {
    keys.members().is_some_and(|keys| keys.len() == 1 && keys[0].0 == "_id")
}

/// The options that mean something to the server, name and all.
fn own_options(options: &Json) -> impl Iterator<Item = &(String, Json)> {
    let means =
        |(name, value): &&(String, Json)| !MONGOOSE_OPTIONS.contains(&name.as_str()) && *value != Json::Null;
    options.members().unwrap_or_default().iter().filter(means)
}

impl Declarations {
    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn add(&mut self, model: &Model, index: DeclaredIndex) {
        let known = self.collections.entry(model.collection.clone()).or_default();
        if known.iter().any(|other| other.options() == index.options() && other.collation == index.collation)
        {
            return;
        }
        let clash = known.iter().find(|other| other.name() == index.name()).map(DeclaredIndex::name);
        if let Some(name) = clash {
            self.note(format!(
                "{}: the index {name} is declared twice with different options, by {} too: the first one stands",
                model.collection, model.name
            ));
            return;
        }
        known.push(index);
    }
}

/// The index that a pair of keys and options means.
fn declared(model: &Model, keys: &Json, options: &Json) -> Result<DeclaredIndex, SpecError> {
    let pairs = keys
        .members()
        .filter(|keys| !keys.is_empty())
        .ok_or_else(|| SpecError::new("an index without keys"))?;
    let mut index = DeclaredIndex::new(
        pairs.iter().map(|(field, value)| Key::of_pair(field, &direction(value))).collect(),
    );
    for (name, value) in own_options(options) {
        match name.as_str() {
            "collation" => index.collation = Some(Collation::of_document(value).map_err(SpecError)?),
            name => index.options_mut().set(name, value)?,
        }
    }
    let name = options.get("name").and_then(Json::text);
    index.name = name.filter(|name| *name != crate::driver_name(&index.keys)).map(str::to_owned);
    if let (None, Some(collation), false) = (&index.collation, &model.collation, index.options().is_text()) {
        index.collation = Some(Collation::of_document(collation).map_err(SpecError)?);
    }
    if let Some(Discriminator { key, value }) = &model.discriminator
        && options.get("sparse").is_none()
        && options.get("partialFilterExpression").is_none()
    {
        let filter = Json::object([(key.clone(), value.clone())]);
        index.options_mut().set("partialFilterExpression", &filter)?;
    }
    Ok(index)
}

/// What Mongoose accepts in the place of the server's numbers.
fn direction(value: &Json) -> Json {
    match value.text() {
        Some("asc" | "ascending" | "1") => Json::Integer(1),
        Some("desc" | "descending" | "-1") => Json::Integer(-1),
        _ => value.clone(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::json::json;
    use crate::render::toml_of;

    fn declarations(models: &[Json]) -> Declarations {
        let models = Json::List(models.to_vec());
        let text = format!(r#"{{"format":1,"mongoose":"8.24.10","models":{models}}}"#);
        Project::parse(&text).unwrap().declarations().unwrap()
    }

    fn model(name: &str, collection: &str, more: Json) -> Json {
        let mut members = more.members().unwrap().to_vec();
        for (key, value) in [
            ("name", name.into()),
            ("collection", collection.into()),
            ("autoIndex", true.into()),
            ("indexes", Json::List(Vec::new())),
        ] {
            if more.get(key).is_none() {
                members.push((key.to_owned(), value));
            }
        }
        Json::Object(members)
    }

    fn lines(declarations: &Declarations, collection: &str) -> Vec<String> {
        declarations.collections[collection].iter().map(toml_of).collect()
    }

    #[test]
    fn what_is_mongooses_own_is_left_out() {
        let found = declarations(&[model(
            "User",
            "users",
            json!({"indexes": [
                [{"email": 1}, {"unique": true, "background": true}],
                [{"createdAt": "desc"}, {"name": "newest", "background": true}],
                [{"expiresAt": 1}, {"expireAfterSeconds": 0, "name": "expiresAt_1"}],
                [{"_id": 1}, {}]
            ]}),
        )]);
        assert_eq!(
            lines(&found, "users"),
            [
                r#"{ keys = ["email"], unique = true }"#,
                r#"{ keys = ["-createdAt"], name = "newest" }"#,
                r#"{ keys = ["expiresAt"], ttl = "0s" }"#,
            ]
        );
        assert_eq!(found.auto_index, ["users"]);
    }

    #[test]
    fn discriminators_declare_their_own_only() {
        let found = declarations(&[
            model("Event", "events", json!({"indexes": [[{"at": 1}, {"background": true}]]})),
            model(
                "Click",
                "events",
                json!({"base": "Event", "discriminator": {"key": "kind", "value": "Click"}, "indexes": [
                    [{"at": 1}, {"background": true}], [{"url": 1}, {}], [{"user": 1}, {"sparse": true}]
                ]}),
            ),
        ]);
        assert_eq!(
            lines(&found, "events"),
            [
                r#"{ keys = ["at"] }"#,
                r#"{ keys = ["url"], partial = { kind = "Click" } }"#,
                r#"{ keys = ["user"], sparse = true }"#,
            ]
        );
    }

    #[test]
    fn a_schemas_collation_is_that_of_its_indexes_but_for_text() {
        let found = declarations(&[model(
            "A",
            "a",
            json!({"collation": {"locale": "en", "strength": 2}, "indexes": [
                [{"name": 1}, {}], [{"words": "text"}, {}], [{"own": 1}, {"collation": {"locale": "fr"}}]
            ]}),
        )]);
        assert_eq!(
            lines(&found, "a"),
            [
                r#"{ keys = ["name"], collation = { locale = "en", strength = 2 } }"#,
                r#"{ keys = ["words:text"] }"#,
                r#"{ keys = ["own"], collation = { locale = "fr" } }"#,
            ]
        );
    }

    #[test]
    fn models_that_share_a_collection_are_merged() {
        let found = declarations(&[
            model("A", "c", json!({"indexes": [[{"x": 1}, {}], [{"y": 1}, {}]], "autoIndex": false})),
            model(
                "B",
                "c",
                json!({"indexes": [[{"y": 1}, {"background": true}], [{"z": 1}, {}], [{"x": 1}, {"unique": true}]], "autoIndex": false}),
            ),
            model("V", "v", json!({"special": true})),
            model("E", "e", json!({})),
        ]);
        assert_eq!(lines(&found, "c"), [r#"{ keys = ["x"] }"#, r#"{ keys = ["y"] }"#, r#"{ keys = ["z"] }"#]);
        assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
        assert!(found.notes[0].contains("x_1") && found.notes[0].contains('B'));
        assert_eq!(found.collections["e"], []);
        assert_eq!(found.auto_index, ["e"]);
    }

    #[test]
    fn what_is_no_project_is_refused() {
        for text in ["", "{}", "[]", r#"{"format":2,"mongoose":"8","models":[]}"#] {
            assert!(Project::parse(text).is_err(), "{text}");
        }
    }
}
