//! What to do about a group of slow operations. Pure.
//!
//! Advice says what was seen and why it costs, and gives a command to copy where there is one. It guesses at no data: whether an index is
//! worth its writes is the reader's to judge, and indexes that exist already are not looked at here.

use std::collections::BTreeSet;

use mainstay_model::Count;
use serde::Serialize;

use super::SlowGroup;
use super::query::Facts;
use crate::shape::{name, quoted};

/// Documents looked at for each one given back, above which an index is not doing its work. Own; the alert that hosted MongoDB ships with
/// begins at 1,000, which is far too late for one shape.
const EXAMINED_RATIO_MAX: f64 = 10.0;
/// Fewer documents than this cost nothing that an index could save.
const EXAMINED_MIN: u64 = 100;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// A stable name: `collection_scan`, `in_memory_sort`.
    pub id: &'static str,
    /// What was seen and why it costs.
    pub message: String,
    /// Commands to copy into mongosh; empty when there is none.
    pub commands: Vec<String>,
}

/// What to do about `group`, whose slowest member asks `facts`.
pub(super) fn advise(group: &SlowGroup, facts: &Facts) -> Vec<Advice> {
    let mut advice = Vec::new();
    let mut add = |id: &'static str, message: String, commands: Vec<String>| {
        advice.push(Advice { id, message, commands });
    };
    let scans = group.plans.iter().any(|plan| plan.contains("COLLSCAN"));
    let sorts = group.sorted > 0;
    let ratio = group.examined_ratio();
    if facts.runs_javascript {
        add(
            "javascript",
            "$where runs JavaScript for every document and uses no index; say it with operators or $expr"
                .to_owned(),
            Vec::new(),
        );
    }
    if !facts.loose_patterns.is_empty() {
        let fields = facts.loose_patterns.join(", ");
        add(
            "loose_pattern",
            format!(
                "the regular expression on {fields} has no fixed beginning or ignores case, so that every value is tried; begin it with ^ and a literal, or use a text index or a collation of strength 2"
            ),
            Vec::new(),
        );
    }
    let indexes = indexes(group, facts);
    if scans && group.documents_examined >= EXAMINED_MIN {
        let examined = Count(group.documents_examined / group.count.max(1));
        let mostly = group.returned.saturating_mul(2) >= group.documents_examined;
        let indexes = if mostly { Vec::new() } else { indexes.clone() };
        let message = match (indexes.is_empty(), facts.asks) {
            _ if mostly => format!(
                "it reads the whole collection, {examined} documents each time, and most of them match: an index would not help"
            ),
            (false, _) => format!(
                "it reads the whole collection, {examined} documents each time; an index on its equality, sort and range fields would lead it"
            ),
            (true, true)
                if facts
                    .branches
                    .iter()
                    .all(|branch| branch.equality.is_empty() && branch.range.is_empty())
                    && !facts.runs_javascript
                    && facts.loose_patterns.is_empty() =>
            {
                format!(
                    "it asks for the whole collection, {examined} documents each time; give it a filter, or read in portions by _id"
                )
            }
            (true, _) => format!(
                "it reads the whole collection, {examined} documents each time, and compares nothing that an index could lead to"
            ),
        };
        add("collection_scan", message, indexes);
    } else if ratio > EXAMINED_RATIO_MAX && group.documents_examined >= EXAMINED_MIN {
        add(
            "poor_ratio",
            format!(
                "it looks at {ratio:.0} documents for each one it gives back: its index finds too much; one that holds all its equality fields would find less"
            ),
            indexes.clone(),
        );
    }
    if sorts {
        let message = "it sorts in memory what no index gave in order, and begins to answer only when everything is sorted";
        // The same index has been named above.
        let commands = if scans { Vec::new() } else { indexes };
        add("in_memory_sort", message.to_owned(), commands);
    }
    if group.used_disk > 0 {
        add(
            "used_disk",
            "it wrote to disk what did not fit into memory; filter earlier, project fewer fields, or sort by an index".to_owned(),
            Vec::new(),
        );
    }
    if !facts.negations.is_empty() && scans {
        let fields = facts.negations.join(", ");
        add(
            "negation",
            format!(
                "$ne, $nin and $not on {fields} match almost everything and make an index nearly useless; ask for what is wanted"
            ),
            Vec::new(),
        );
    }
    advice
}

/// The commands that make the indexes wanted, each once; empty when none would help.
fn indexes(group: &SlowGroup, facts: &Facts) -> Vec<String> {
    let Some((database, collection)) = group.namespace.split_once('.') else { return Vec::new() };
    let mut commands: Vec<String> = facts
        .branches
        .iter()
        .map(|branch| branch.index(&facts.sort))
        .filter(|fields| !fields.is_empty())
        .map(|fields| {
            let fields: Vec<String> = fields
                .iter()
                .map(|(field, ascends)| format!("{}: {}", name(field), if *ascends { 1 } else { -1 }))
                .collect();
            format!(
                "db.getSiblingDB({}).getCollection({}).createIndex({{{}}})",
                quoted(database),
                quoted(collection),
                fields.join(", ")
            )
        })
        .collect();
    let mut seen = BTreeSet::new();
    commands.retain(|command| seen.insert(command.clone()));
    commands
}

#[cfg(test)]
mod tests {
    use crate::shape::Literals;
    use crate::slow::group;
    use crate::slow::tests::operation;

    fn advised(
        command: &str,
        change: impl Fn(&mut mainstay_engine::SlowOperation),
    ) -> Vec<(&'static str, String)> {
        let mut one = operation(command, 100);
        change(&mut one);
        let groups = group(&[one], Literals::Hidden);
        groups[0].advice.iter().map(|advice| (advice.id, advice.commands.join("; "))).collect()
    }

    fn ids(advice: &[(&'static str, String)]) -> Vec<&'static str> {
        advice.iter().map(|(id, _)| *id).collect()
    }

    #[test]
    fn each_fault_has_its_advice() {
        let command = r#"{"find":"users","filter":{"n":{"$gt":5},"role":"x"},"sort":{"email":-1}}"#;
        let index =
            r#"db.getSiblingDB("shop").getCollection("users").createIndex({role: 1, email: -1, n: 1})"#;
        let found = advised(command, |one| one.sorted = true);
        assert_eq!(found[0], ("collection_scan", index.to_owned()));
        assert_eq!(found[1], ("in_memory_sort", String::new()));

        let indexed = |one: &mut mainstay_engine::SlowOperation| {
            one.plan = Some("IXSCAN { n: 1 }".to_owned());
        };
        let found = advised(command, indexed);
        assert_eq!(found, [("poor_ratio", index.to_owned())]);
        let found = advised(command, |one| {
            indexed(one);
            one.returned = 3_000;
            one.sorted = true;
            one.used_disk = true;
        });
        assert_eq!(ids(&found), ["in_memory_sort", "used_disk"]);
        assert_eq!(found[0].1, index);
        assert_eq!(
            advised(command, |one| {
                indexed(one);
                one.returned = 3_000;
            }),
            []
        );
        // Where everything matches, no index is advised.
        assert_eq!(advised(command, |one| one.returned = 2_000), [("collection_scan", String::new())]);
        // Small ones are left alone.
        assert_eq!(advised(command, |one| one.documents_examined = 20), []);
    }

    #[test]
    fn what_no_index_serves_gets_other_advice() {
        let found = advised(r#"{"find":"users","filter":{"$where":"f()"}}"#, |_| {});
        assert_eq!(ids(&found), ["javascript", "collection_scan"]);
        assert_eq!(found[1].1, "");
        let found = advised(r#"{"find":"users","filter":{"name":"<regex> /canary/"}}"#, |_| {});
        assert_eq!(ids(&found), ["loose_pattern", "collection_scan"]);
        assert_eq!(ids(&advised(r#"{"find":"users"}"#, |_| {})), ["collection_scan"]);
        let found = advised(r#"{"find":"users","filter":{"s":{"$ne":1}}}"#, |_| {});
        assert_eq!(ids(&found), ["collection_scan", "negation"]);
        let found = advised(r#"{"find":"users","filter":{"$or":[{"a":1},{"b c":2}]}}"#, |_| {});
        assert!(
            found[0].1.contains("createIndex({a: 1}); ") && found[0].1.contains(r#"createIndex({"b c": 1})"#),
            "{found:?}"
        );
    }
}
