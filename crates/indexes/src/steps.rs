//! The steps of a change, as plans keep them, and the very commands that they are.
//!
//! A step says what one command to the server changes of one index. [`Step::commands`] writes them out for people; what is applied is made of
//! the same values. [`after`] says what a collection has when a step was taken, so that a run that was killed can tell its own work from
//! somebody else's.

use serde::{Deserialize, Serialize};

use crate::ejson::Ejson;
use crate::json::Json;
use crate::listed::ListedIndex;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step", deny_unknown_fields)]
pub enum Step {
    /// Build an index; queries use it, and it refuses duplicates, when it is whole.
    Build {
        /// Its name.
        name: String,
        /// Its entry in `createIndexes`.
        definition: Ejson,
    },
    /// Refuse new duplicates from now on; those there are stay.
    PrepareUnique {
        /// Its name.
        name: String,
    },
    /// Accept new duplicates again.
    AcceptDuplicates {
        /// Its name.
        name: String,
    },
    /// Make it unique, after the server has looked for duplicates; when there are some, refuse new ones no longer.
    MakeUnique {
        /// Its name.
        name: String,
    },
    /// Change the time after which documents expire.
    SetTtl {
        /// Its name.
        name: String,
        /// Seconds after the date in the key.
        seconds: i64,
    },
    /// Let queries use it no longer. It is kept up to date, refuses duplicates and expires documents as before.
    Hide {
        /// Its name.
        name: String,
    },
    /// Let queries use it again.
    Show {
        /// Its name.
        name: String,
    },
    /// Drop it.
    Drop {
        /// Its name.
        name: String,
        /// What it is, as the server told it, so that it can be built again.
        definition: Ejson,
    },
}

impl Step {
    /// The index that it is about.
    pub fn index(&self) -> &str {
        match self {
            Self::Build { name, .. }
            | Self::PrepareUnique { name }
            | Self::AcceptDuplicates { name }
            | Self::MakeUnique { name }
            | Self::SetTtl { name, .. }
            | Self::Hide { name }
            | Self::Show { name }
            | Self::Drop { name, .. } => name,
        }
    }

    /// What it does, as a bare action without its object: `build`.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Build { .. } => "build",
            Self::PrepareUnique { .. } => "refuse new duplicates in",
            Self::AcceptDuplicates { .. } => "accept duplicates again in",
            Self::MakeUnique { .. } => "make unique",
            Self::SetTtl { .. } => "set the expiry of",
            Self::Hide { .. } => "hide",
            Self::Show { .. } => "show",
            Self::Drop { .. } => "drop",
        }
    }

    /// `+` adds, `~` changes, `-` takes away.
    pub fn mark(&self) -> char {
        match self {
            Self::Build { .. } => '+',
            Self::PrepareUnique { .. }
            | Self::AcceptDuplicates { .. }
            | Self::MakeUnique { .. }
            | Self::SetTtl { .. }
            | Self::Show { .. } => '~',
            Self::Hide { .. } | Self::Drop { .. } => '-',
        }
    }

    /// The commands that the server is sent, in order, for the collection `collection`.
    pub fn commands(&self, collection: &str) -> Vec<Json> {
        let modify = |name: &str, option: &str, value: Json| {
            let index = Json::object([("name", Json::from(name)), (option, value)]);
            vec![("collMod", Json::from(collection)), ("index", index)]
        };
        let one = |members| vec![Json::object(members)];
        match self {
            Self::Build { definition, .. } => one(vec![
                ("createIndexes", Json::from(collection)),
                ("indexes", Json::List(vec![definition.value().clone()])),
            ]),
            Self::PrepareUnique { name } => one(modify(name, "prepareUnique", Json::from(true))),
            Self::AcceptDuplicates { name } => one(modify(name, "prepareUnique", Json::from(false))),
            Self::MakeUnique { name } => {
                let convert = modify(name, "unique", Json::from(true));
                let dry_run = convert.iter().cloned().chain([("dryRun", Json::from(true))]);
                vec![Json::object(dry_run), Json::object(convert)]
            }
            Self::SetTtl { name, seconds } => one(modify(name, "expireAfterSeconds", Json::from(*seconds))),
            Self::Hide { name } => one(modify(name, "hidden", Json::from(true))),
            Self::Show { name } => one(modify(name, "hidden", Json::from(false))),
            Self::Drop { name, .. } => {
                one(vec![("dropIndexes", Json::from(collection)), ("index", Json::from(name))])
            }
        }
    }
}

/// Whether two listings tell of the same index in the same state, whatever the versions.
pub fn is_same(one: &ListedIndex, other: &ListedIndex) -> bool {
    // What is unique needs no preparation, and some versions go on telling it.
    let is_prepared = |index: &ListedIndex| index.prepare_unique && !index.spec.unique;
    one.name == other.name
        && one.spec == other.spec
        && is_prepared(one) == is_prepared(other)
        && one.is_ready() == other.is_ready()
}

/// The index as it is after `step`, when `before` is what it was; `None` for none.
pub fn after(step: &Step, before: Option<&ListedIndex>) -> Option<ListedIndex> {
    let changed = |option: &str, value: Json| {
        let members = before?.definition.fields()?.iter().filter(|(name, _)| name != option).cloned();
        let definition = Json::object(members.chain([(option.to_owned(), value)]));
        ListedIndex::read(&definition).ok()
    };
    match step {
        Step::Build { definition, .. } => ListedIndex::read(definition.value()).ok(),
        Step::PrepareUnique { .. } => changed("prepareUnique", Json::from(true)),
        Step::AcceptDuplicates { .. } => changed("prepareUnique", Json::from(false)),
        Step::MakeUnique { .. } => changed("unique", Json::from(true)),
        Step::SetTtl { seconds, .. } => changed("expireAfterSeconds", Json::from(*seconds)),
        Step::Hide { .. } => changed("hidden", Json::from(true)),
        Step::Show { .. } => changed("hidden", Json::from(false)),
        Step::Drop { .. } => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::json::json;

    fn all() -> Vec<Step> {
        let name = || "email_1".to_owned();
        let definition = || Ejson::new(json!({"key": {"email": 1}, "name": "email_1"}));
        vec![
            Step::Build { name: name(), definition: definition() },
            Step::PrepareUnique { name: name() },
            Step::AcceptDuplicates { name: name() },
            Step::MakeUnique { name: name() },
            Step::SetTtl { name: name(), seconds: 60 },
            Step::Hide { name: name() },
            Step::Show { name: name() },
            Step::Drop { name: name(), definition: definition() },
        ]
    }

    #[test]
    fn each_step_is_the_command_that_is_sent() {
        let texts: Vec<String> =
            all().iter().flat_map(|step| step.commands("users")).map(|command| command.to_string()).collect();
        assert_eq!(
            texts,
            [
                r#"{"createIndexes":"users","indexes":[{"key":{"email":1},"name":"email_1"}]}"#,
                r#"{"collMod":"users","index":{"name":"email_1","prepareUnique":true}}"#,
                r#"{"collMod":"users","index":{"name":"email_1","prepareUnique":false}}"#,
                r#"{"collMod":"users","index":{"name":"email_1","unique":true},"dryRun":true}"#,
                r#"{"collMod":"users","index":{"name":"email_1","unique":true}}"#,
                r#"{"collMod":"users","index":{"name":"email_1","expireAfterSeconds":60}}"#,
                r#"{"collMod":"users","index":{"name":"email_1","hidden":true}}"#,
                r#"{"collMod":"users","index":{"name":"email_1","hidden":false}}"#,
                r#"{"dropIndexes":"users","index":"email_1"}"#,
            ]
        );
    }

    #[test]
    fn steps_survive_a_plan_file() {
        for step in all() {
            let text = serde_json::to_string(&step).unwrap_or_default();
            assert_eq!(serde_json::from_str::<Step>(&text).ok(), Some(step), "{text}");
        }
    }

    #[test]
    fn what_a_step_leaves_is_told_from_what_it_met() {
        let read = |definition: Json| ListedIndex::read(&definition).unwrap();
        let before = read(json!({"v": 2, "key": {"email": 1}, "name": "email_1"}));
        let unique = read(
            json!({"v": 2, "key": {"email": {"$numberInt": "1"}}, "name": "email_1", "unique": true, "prepareUnique": true}),
        );
        let [build, prepare, accept, make, ttl, hide, show, drop]: [Step; 8] = all().try_into().unwrap();
        assert!(is_same(&after(&build, None).unwrap(), &before));
        let prepared = after(&prepare, Some(&before)).unwrap();
        assert!(!is_same(&prepared, &before) && !is_same(&prepared, &unique));
        assert!(is_same(&after(&accept, Some(&prepared)).unwrap(), &before));
        assert!(is_same(&after(&make, Some(&prepared)).unwrap(), &unique));
        assert!(!is_same(&after(&ttl, Some(&before)).unwrap(), &before));
        let hidden = after(&hide, Some(&before)).unwrap();
        assert!(!is_same(&hidden, &before) && is_same(&after(&show, Some(&hidden)).unwrap(), &before));
        assert_eq!(after(&drop, Some(&before)), None);
        assert_eq!(after(&prepare, None), None);
    }
}
