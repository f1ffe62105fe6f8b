//! What a query asks of an index: which fields it compares with one value, which it sorts by, which it limits.
//!
//! Follows the rule that an index serves a query best with its equality fields first, then its sort, then its ranges (MongoDB manual, "The
//! ESR Rule"). What an index cannot serve is noted beside: JavaScript, regular expressions without a fixed beginning, negations.

use mainstay_engine::{CommandValue, Literal};

/// What was found in a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whether the command has a query at all, be it empty.
    pub(super) asks: bool,
    /// One for each alternative of an `$or` at the top, else one.
    pub(super) branches: Vec<Branch>,
    /// Fields sorted by, each with whether it ascends.
    pub(super) sort: Vec<(String, bool)>,
    /// Whether JavaScript decides.
    pub(super) runs_javascript: bool,
    /// Fields compared with a regular expression that has no fixed beginning.
    pub(super) loose_patterns: Vec<String>,
    /// Fields that must not be something.
    pub(super) negations: Vec<String>,
}

/// Conditions that hold together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Branch {
    /// Fields compared with one value or a few.
    pub(super) equality: Vec<String>,
    /// Fields limited to a range.
    pub(super) range: Vec<String>,
}

impl Branch {
    /// The fields of an index for it in their order, each with whether it ascends; empty when an index would not help.
    pub(super) fn index(&self, sort: &[(String, bool)]) -> Vec<(String, bool)> {
        let mut fields: Vec<(String, bool)> = Vec::new();
        let ascending = |field: &String| (field.clone(), true);
        let wanted = self
            .equality
            .iter()
            .map(ascending)
            .chain(sort.iter().cloned())
            .chain(self.range.iter().map(ascending));
        for (field, ascends) in wanted {
            if fields.iter().all(|(known, _)| *known != field) {
                fields.push((field, ascends));
            }
        }
        // The index on `_id` is always there.
        if fields.first().is_some_and(|(field, _)| field == "_id") { Vec::new() } else { fields }
    }
}

/// What `command` asks.
pub(super) fn facts(kind: &str, command: &CommandValue) -> Facts {
    let mut facts = Facts::default();
    let statement = ["updates", "deletes"].into_iter().find_map(|list| command.get(list)?.items().first());
    let filter = ["filter", "query", "q"]
        .into_iter()
        .find_map(|name| command.get(name))
        .or_else(|| statement.and_then(|statement| statement.get("q")));
    facts.asks = filter.is_some() || matches!(kind, "query") || command.get("find").is_some();
    if let Some(filter) = filter {
        facts.read_filter(filter);
    }
    if let Some(sort) = command.get("sort") {
        facts.sort = directions(sort);
    }
    if let Some(pipeline) = command.get("pipeline") {
        facts.asks = true;
        facts.read_pipeline(pipeline.items());
    }
    if facts.branches.is_empty() {
        facts.branches.push(Branch::default());
    }
    facts
}

fn directions(sort: &CommandValue) -> Vec<(String, bool)> {
    let fields = sort.fields().iter().filter(|(_, direction)| direction.literal().is_some());
    fields
        .map(|(field, direction)| {
            let descends = direction.literal().map(Literal::expose).is_some_and(|text| text.starts_with('-'));
            (field.clone(), !descends)
        })
        .collect()
}

impl Facts {
    /// Only the stages at the beginning can use an index: matches, then one sort.
    fn read_pipeline(&mut self, stages: &[CommandValue]) {
        for stage in stages {
            if let Some(filter) = stage.get("$match") {
                self.read_filter(filter);
            } else {
                if let Some(sort) = stage.get("$sort") {
                    self.sort = directions(sort);
                }
                break;
            }
        }
    }

    fn read_filter(&mut self, filter: &CommandValue) {
        let mut base = Branch::default();
        let mut alternatives = Vec::new();
        self.read_conditions(filter, "", &mut base, &mut alternatives);
        if alternatives.is_empty() {
            self.branches.push(base);
            return;
        }
        for alternative in alternatives {
            let mut branch = base.clone();
            branch.equality.extend(alternative.equality);
            branch.range.extend(alternative.range);
            if !self.branches.contains(&branch) {
                self.branches.push(branch);
            }
        }
    }

    fn read_conditions(
        &mut self,
        filter: &CommandValue,
        prefix: &str,
        branch: &mut Branch,
        alternatives: &mut Vec<Branch>,
    ) {
        for (key, value) in filter.fields() {
            match key.as_str() {
                "$where" => self.runs_javascript = true,
                "$and" => {
                    for part in value.items() {
                        self.read_conditions(part, prefix, branch, alternatives);
                    }
                }
                "$or" if alternatives.is_empty() => {
                    for part in value.items() {
                        let (mut one, mut nested) = (Branch::default(), Vec::new());
                        self.read_conditions(part, prefix, &mut one, &mut nested);
                        alternatives.push(one);
                    }
                }
                key if key.starts_with('$') => {}
                field => self.read_condition(&format!("{prefix}{field}"), value, branch),
            }
        }
    }

    fn read_condition(&mut self, field: &str, value: &CommandValue, branch: &mut Branch) {
        let is_operator = value.fields().first().is_some_and(|(key, _)| key.starts_with('$'));
        if !is_operator {
            match value.literal().filter(|literal| literal.kind() == "regex") {
                Some(pattern) => self.read_pattern(field, pattern.expose(), None, branch),
                None => push(&mut branch.equality, field),
            }
            return;
        }
        for (operator, operand) in value.fields() {
            match operator.as_str() {
                "$eq" | "$in" | "$all" => push(&mut branch.equality, field),
                "$gt" | "$gte" | "$lt" | "$lte" | "$exists" | "$type" | "$mod" | "$size" => {
                    push(&mut branch.range, field);
                }
                "$ne" | "$nin" | "$not" => push(&mut self.negations, field),
                "$regex" => {
                    let options = value.get("$options").and_then(CommandValue::literal).map(Literal::expose);
                    let pattern = operand.literal().map(Literal::expose).unwrap_or_default();
                    self.read_pattern(field, pattern, options, branch);
                }
                "$elemMatch" => {
                    let mut nested = Vec::new();
                    self.read_conditions(operand, &format!("{field}."), branch, &mut nested);
                }
                _ => {}
            }
        }
    }

    /// A pattern is a range when it has a fixed beginning and regards case (MongoDB manual, "$regex", "Index Use").
    fn read_pattern(&mut self, field: &str, pattern: &str, options: Option<&str>, branch: &mut Branch) {
        let (pattern, flags) = match pattern.strip_prefix('/').and_then(|rest| rest.rsplit_once('/')) {
            Some((inner, flags)) => (inner, flags),
            None => (pattern, ""),
        };
        let ignores_case = flags.contains('i') || options.is_some_and(|options| options.contains('i'));
        let anchored =
            pattern.strip_prefix('^').or_else(|| pattern.strip_prefix("\\A")).is_some_and(|rest| {
                rest.starts_with(|first: char| first.is_alphanumeric() || " _-@#:/\\".contains(first))
            });
        match anchored && !ignores_case {
            true => push(&mut branch.range, field),
            false => push(&mut self.loose_patterns, field),
        }
    }
}

fn push(list: &mut Vec<String>, field: &str) {
    if list.iter().all(|known| known != field) {
        list.push(field.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::tests::tree;

    fn indexes(command: &str) -> Vec<String> {
        let facts = facts("query", &tree(command));
        facts
            .branches
            .iter()
            .map(|branch| {
                let fields = branch.index(&facts.sort);
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(field, up)| format!("{field}{}", if *up { "+" } else { "-" }))
                    .collect();
                fields.join(" ")
            })
            .collect()
    }

    #[test]
    fn equality_then_sort_then_range() {
        #[rustfmt::skip]
        let cases: &[(&str, &[&str])] = &[
            (r#"{"find":"u","filter":{"n":{"$gt":5,"$lt":9},"role":"x"},"sort":{"email":-1}}"#, &["role+ email- n+"]),
            (r#"{"find":"u","filter":{"role":{"$in":["a"]},"n":{"$gt":5}},"sort":{"n":-1}}"#, &["role+ n-"]),
            (r#"{"find":"u","filter":{"$and":[{"a":1},{"b":{"$gte":1}}]}}"#, &["a+ b+"]),
            (r#"{"find":"u","filter":{"z":1,"$or":[{"a":1},{"b":{"$gte":1}}]},"sort":{"s":1}}"#, &["z+ a+ s+", "z+ s+ b+"]),
            (r#"{"find":"u","filter":{"items":{"$elemMatch":{"sku":"x","n":{"$gt":1}}}}}"#, &["items.sku+ items.n+"]),
            (r#"{"find":"u","filter":{"name":"<regex> /^ab/"}}"#, &["name+"]),
            (r#"{"find":"u","filter":{"_id":5}}"#, &[""]),
            (r#"{"find":"u"}"#, &[""]),
            (r#"{"aggregate":"u","pipeline":[{"$match":{"a":1}},{"$match":{"a":1}},{"$sort":{"b":1}},{"$match":{"c":1}}]}"#, &["a+ b+", "a+ b+"]),
            (r#"{"q":{"role":"x"},"u":{"$set":{"a":1}}}"#, &["role+"]),
            (r#"{"update":"u","updates":[{"q":{"role":"x"},"u":{}}]}"#, &["role+"]),
        ];
        for (command, expected) in cases {
            assert_eq!(indexes(command), *expected, "{command}");
        }
    }

    #[test]
    fn what_no_index_serves_is_noted() {
        let facts = |command: &str| facts("query", &tree(command));
        assert!(facts(r#"{"find":"u","filter":{"$where":"f()"}}"#).runs_javascript);
        for pattern in ["<regex> /ab/", "<regex> /^ab/i", "<regex> /^.*ab/", "<regex> /(^ab)/"] {
            let found = facts(&format!(r#"{{"find":"u","filter":{{"name":"{pattern}"}}}}"#));
            assert_eq!(found.loose_patterns, ["name"], "{pattern}");
        }
        assert_eq!(
            facts(r#"{"find":"u","filter":{"name":{"$regex":"^ab","$options":"i"}}}"#).loose_patterns,
            ["name"]
        );
        assert_eq!(facts(r#"{"find":"u","filter":{"s":{"$ne":"x"}}}"#).negations, ["s"]);
    }
}
