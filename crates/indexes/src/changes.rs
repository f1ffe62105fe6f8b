//! From what is declared and what there is, to changes: by which steps, in which order, asked what of the documents before, and at what price.
//!
//! | from | to | by |
//! |---|---|---|
//! | nothing | an index | building it |
//! | plain | unique | refusing new duplicates, the server's dry run, conversion: no gap |
//! | any expiry or none | an expiry | one command: no gap |
//! | hidden | shown, and back | one command: no gap |
//! | anything | other collation, filter, `sparse`, `unique`, wildcard paths | the new one beside the old one, which is hidden then: no gap |
//! | text, an expiry taken away, options of other kinds | | dropping before building: a gap, which has to be asked for |
//! | undeclared | gone | hiding; dropping when nobody missed it for long enough |
//!
//! Nothing is dropped before what takes its place stands, but where a gap was asked for. An index is recognised by what it is, never by its
//! name: a name that is taken is left alone, and another one is made from it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::checks::{DuplicateQuestion, ExpiryQuestion, Uncountable, explicit_nulls};
use crate::collation::Collation;
use crate::compare::{Comparison, Difference, Standing, compare, differences};
use crate::declared::{Assertion, DeclaredIndex, Policy, Undeclared};
use crate::ejson::Ejson;
use crate::json::Json;
use crate::keys::{Key, KeyKind};
use crate::listed::ListedIndex;
use crate::manifest::span;
use crate::route::{Modification, Route};
use crate::spec::{IndexSpec, TTL_NEVER};
use crate::steps::Step;

/// A collection as it is.
#[derive(Debug, Clone)]
pub struct Present<'a> {
    /// Its own collation, which indexes inherit.
    pub collation: &'a Collation,
    /// Its indexes, that on `_id` too.
    pub indexes: &'a [ListedIndex],
}

/// What decides besides what is declared.
pub struct Choice<'a> {
    /// The manifest's policy.
    pub policy: &'a Policy,
    /// Whether an index may be dropped before the one in its place stands, where it cannot be done otherwise.
    pub allows_gaps: bool,
    /// For how many seconds an index was hidden, as far as that is known.
    pub hidden_seconds: &'a dyn Fn(&str) -> Option<u64>,
}

/// A change of one index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The index, by the name that it has afterwards, or had.
    pub index: String,
    /// Which change it is.
    pub kind: ChangeKind,
    /// From what to what.
    pub what: String,
    /// By which means, and what it costs others.
    pub how: String,
    /// The steps in order; empty where nothing is to be done but to know.
    pub steps: Vec<Step>,
    /// What is asked of the documents before.
    pub checks: Vec<Check>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Why it is not done, and what to do about it.
    pub blocked: Option<Blocked>,
}

/// Which change it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// An index is built.
    Build,
    /// It is changed where it stands.
    Modify,
    /// It is built beside the old one, which is hidden then.
    Replace,
    /// It is dropped and built: for a while there is none.
    Rebuild,
    /// It is hidden.
    Hide,
    /// It is dropped.
    Drop,
    /// Nothing is done.
    Leave,
}

/// Why a change is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocked {
    /// The reason, one line.
    pub reason: String,
    /// What to do.
    pub next: String,
}

/// A question to the documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "check", deny_unknown_fields)]
pub enum Check {
    /// No two documents may have the same keys.
    Duplicates {
        /// The indexed paths.
        paths: Vec<String>,
        /// Documents without any of them do not count.
        sparse: bool,
        /// Which documents count.
        partial: Option<Ejson>,
        /// By which rules texts are equal.
        collation: Ejson,
    },
    /// An explicit null is indexed, though what is missing is not.
    ExplicitNulls {
        /// The indexed paths.
        paths: Vec<String>,
        /// Which documents count.
        partial: Option<Ejson>,
        /// By which rules texts of the filter are equal.
        collation: Ejson,
        /// One is too many; else it is only told.
        forbidden: bool,
    },
    /// Documents expire at once.
    Expiry {
        /// The indexed path.
        path: String,
        /// Which documents count.
        partial: Option<Ejson>,
        /// By which rules texts of the filter are equal.
        collation: Ejson,
        /// Seconds after the date.
        seconds: i64,
    },
}

impl Check {
    /// What must be asked before an index is `spec`.
    fn of(spec: &IndexSpec, asserts: &BTreeSet<Assertion>) -> Vec<Self> {
        let paths: Vec<String> = spec.keys.iter().map(|key| key.field.clone()).collect();
        let partial = spec.partial.as_ref().map(|filter| Ejson::new(filter.document().clone()));
        let collation = Ejson::new(spec.collation.document());
        let is_plain =
            |key: &Key| matches!(key.kind, KeyKind::Ascending | KeyKind::Descending | KeyKind::Other(_));
        let mut checks = Vec::new();
        let is_asserted = asserts.contains(&Assertion::NoExplicitNull);
        if is_asserted || (spec.unique && spec.sparse) {
            checks.push(Self::ExplicitNulls {
                paths: paths.clone(),
                partial: partial.clone(),
                collation: collation.clone(),
                forbidden: is_asserted,
            });
        }
        if spec.unique && spec.keys.iter().all(is_plain) {
            checks.push(Self::Duplicates { paths, sparse: spec.sparse, partial, collation });
        }
        if spec.ttl_seconds.is_some_and(|seconds| seconds < TTL_NEVER) {
            checks.extend(Self::of_expiry(spec));
        }
        checks
    }

    /// What is asked of the documents that expire by an index, of which the server takes those of one path alone.
    pub fn of_expiry(spec: &IndexSpec) -> Option<Self> {
        let (Some(seconds), [key]) = (spec.ttl_seconds, spec.keys.as_slice()) else { return None };
        Some(Self::Expiry {
            path: key.field.clone(),
            partial: spec.partial.as_ref().map(|filter| Ejson::new(filter.document().clone())),
            collation: Ejson::new(spec.collation.document()),
            seconds,
        })
    }

    /// The collation that its pipelines are run with.
    pub fn collation(&self) -> &Json {
        match self {
            Self::Duplicates { collation, .. }
            | Self::ExplicitNulls { collation, .. }
            | Self::Expiry { collation, .. } => collation.value(),
        }
    }

    /// The pipeline that counts, at `now_ms` by the server's clock; see the questions in [`crate::checks`] for what it gives.
    ///
    /// # Errors
    /// When nothing can be counted.
    pub fn count(&self, now_ms: i64) -> Result<Vec<Json>, Uncountable> {
        match self {
            Self::Duplicates { .. } => self.duplicates().map_or(Ok(Vec::new()), |question| question.count()),
            Self::ExplicitNulls { paths, partial, .. } => {
                Ok(explicit_nulls(paths, partial.as_ref().map(Ejson::value)))
            }
            Self::Expiry { .. } => Ok(self.expiry().map_or(Vec::new(), |question| question.overdue(now_ms))),
        }
    }

    /// The question after duplicates, if that is what it is.
    pub fn duplicates(&self) -> Option<DuplicateQuestion> {
        match self {
            Self::Duplicates { paths, sparse, partial, .. } => Some(DuplicateQuestion {
                paths: paths.clone(),
                sparse: *sparse,
                partial: partial.as_ref().map(|filter| filter.value().clone()),
            }),
            _ => None,
        }
    }

    /// The question after what expires, if that is what it is.
    pub fn expiry(&self) -> Option<ExpiryQuestion> {
        match self {
            Self::Expiry { path, partial, seconds, .. } => Some(ExpiryQuestion {
                path: path.clone(),
                seconds: *seconds,
                partial: partial.as_ref().map(|filter| filter.value().clone()),
            }),
            _ => None,
        }
    }
}

/// The changes that lead a collection from what it is to what is declared, those that take away last. What is as declared is not among them.
pub fn changes(present: &Present<'_>, declared: &[DeclaredIndex], choice: &Choice<'_>) -> Vec<Change> {
    let names = present.indexes.iter().map(|index| index.name.clone()).collect();
    let mut deciding = Deciding { present, choice, names };
    let rows = compare(declared, present.indexes, present.collation);
    let mut changes: Vec<Change> = rows.iter().filter_map(|row| deciding.decide(row)).collect();
    changes.sort_by_key(|change| change.kind);
    changes
}

/// A collection whose changes are being decided.
struct Deciding<'a> {
    present: &'a Present<'a>,
    choice: &'a Choice<'a>,
    /// Those that are taken.
    names: BTreeSet<String>,
}

impl Deciding<'_> {
    fn decide(&mut self, row: &Comparison) -> Option<Change> {
        match (&row.standing, &row.declared, &row.live) {
            (Standing::Missing, Some(index), _) => Some(self.build(index)),
            (Standing::Building, Some(index), Some(live)) => Some(self.wait(index, live)),
            (Standing::Same | Standing::Reversed, Some(_), Some(live)) => settle(row, live),
            (Standing::Changed { differences, route }, Some(index), Some(live)) => {
                Some(self.lead(live, index, route, transition(differences)))
            }
            (Standing::Undeclared, _, Some(live)) => self.unclaimed(live),
            _ => None,
        }
    }

    /// Waits for what somebody builds as it is declared.
    fn wait(&self, index: &DeclaredIndex, live: &ListedIndex) -> Change {
        let definition = Ejson::new(index.definition(&live.name, self.present.collation));
        // Whether it can be unique is judged by the server when that build ends; what expires then is asked as of any other.
        let asked = IndexSpec { unique: false, ..live.spec.clone() };
        Change {
            checks: Check::of(&asked, &BTreeSet::new()),
            notes: vec!["somebody builds it already: that build is waited for".to_owned()],
            ..change(
                &live.name,
                ChangeKind::Build,
                format!("{}, being built", describe(&live.spec)),
                "waited for; writes stay open",
                vec![Step::Build { name: live.name.clone(), definition }],
            )
        }
    }

    /// Builds what has nothing to begin from.
    fn build(&mut self, index: &DeclaredIndex) -> Change {
        let spec = index.spec(self.present.collation);
        let (name, note) = self.free_name(index);
        let steps = vec![self.building(&name, index)];
        Change {
            checks: Check::of(&spec, &index.asserts),
            notes: note.into_iter().collect(),
            ..change(&name, ChangeKind::Build, describe(&spec), "built; writes stay open", steps)
        }
    }

    /// Leads from `old` to what is declared.
    fn lead(&mut self, old: &ListedIndex, index: &DeclaredIndex, route: &Route, what: String) -> Change {
        if !old.is_ready() {
            let blocked = Blocked {
                reason: format!("{} is being built otherwise than declared: {what}", old.name),
                next: "wait for that build and plan again; `mainstay mongo ops` shows it".to_owned(),
            };
            let left = change(&old.name, ChangeKind::Leave, what, "nothing is done", Vec::new());
            return Change { blocked: Some(blocked), ..left };
        }
        let spec = index.spec(self.present.collation);
        match route {
            Route::Nothing => change(&old.name, ChangeKind::Leave, what, "nothing is done", Vec::new()),
            Route::Modify { steps } => modify(old, index, &spec, steps, what),
            Route::Beside => self.replace(old, index, &spec, what),
            Route::Replace { reason } => self.rebuild(old, index, &spec, reason, what),
        }
    }

    fn replace(
        &mut self,
        old: &ListedIndex,
        index: &DeclaredIndex,
        spec: &IndexSpec,
        what: String,
    ) -> Change {
        let (name, note) = self.free_name(index);
        let mut steps = vec![self.building(&name, index)];
        let mut notes: Vec<String> = note.into_iter().collect();
        if old.spec.ttl_seconds.is_some_and(|seconds| spec.ttl_seconds.is_none_or(|wanted| wanted > seconds))
        {
            steps.push(Step::SetTtl { name: old.name.clone(), seconds: TTL_NEVER });
        }
        if !old.spec.hidden {
            steps.push(Step::Hide { name: old.name.clone() });
        }
        notes.push(format!(
            "{} is hidden then; `mainstay index retire` drops it when nobody misses it",
            old.name
        ));
        notes.extend(still_acts(&old.spec, &old.name));
        let how = format!("built beside {}, which stays until then: no gap", old.name);
        Change {
            checks: Check::of(spec, &index.asserts),
            notes,
            ..change(&name, ChangeKind::Replace, what, &how, steps)
        }
    }

    fn rebuild(
        &mut self,
        old: &ListedIndex,
        index: &DeclaredIndex,
        spec: &IndexSpec,
        reason: &str,
        what: String,
    ) -> Change {
        self.names.remove(&old.name);
        let (name, note) = self.free_name(index);
        let steps = vec![
            Step::Drop { name: old.name.clone(), definition: old.definition.clone() },
            self.building(&name, index),
        ];
        let mut notes: Vec<String> = note.into_iter().collect();
        if old.spec.is_ttl() && !spec.is_ttl() {
            notes.push(format!(
                "without a gap: declare `ttl = \"{TTL_NEVER}s\"`, by which nothing ever expires"
            ));
        }
        let gap = Blocked {
            reason: format!("{reason}: {} has to go before the new one is built", old.name),
            next: "plan with `--allow-gap` when everybody can do without it for so long".to_owned(),
        };
        Change {
            checks: Check::of(spec, &index.asserts),
            notes,
            blocked: (!self.choice.allows_gaps).then_some(gap),
            ..change(&name, ChangeKind::Rebuild, what, "GAP: dropped, then built again", steps)
        }
    }

    fn unclaimed(&self, index: &ListedIndex) -> Option<Change> {
        let policy = self.choice.policy;
        let leave = |note: String| {
            let what = format!("{}, not declared", describe(&index.spec));
            Some(Change {
                notes: vec![note],
                ..change(&index.name, ChangeKind::Leave, what, "nothing is done", Vec::new())
            })
        };
        if !index.is_ready() {
            return leave("somebody builds it now".to_owned());
        }
        match (policy.undeclared, index.spec.hidden) {
            (Undeclared::Report, false) => leave(
                "`mainstay index retire` hides it; or declare it: `mainstay index import live`".to_owned(),
            ),
            (Undeclared::Report | Undeclared::Hide, true) => {
                leave("hidden; `mainstay index retire` drops it when nobody misses it".to_owned())
            }
            (Undeclared::Hide | Undeclared::Drop, false) => Some(hide(index)),
            (Undeclared::Drop, true) => match (self.choice.hidden_seconds)(&index.name) {
                Some(seconds) if seconds >= policy.hide_seconds => Some(drop_hidden(index)),
                seconds => leave(format!(
                    "hidden for {}; dropped by a plan that is made when it was hidden for {}",
                    seconds.map_or_else(|| "nobody knows how long".to_owned(), span),
                    span(policy.hide_seconds)
                )),
            },
        }
    }

    fn building(&self, name: &str, index: &DeclaredIndex) -> Step {
        Step::Build {
            name: name.to_owned(),
            definition: Ejson::new(index.definition(name, self.present.collation)),
        }
    }

    /// The declared name, or one made from it when that is taken by something else.
    fn free_name(&mut self, index: &DeclaredIndex) -> (String, Option<String>) {
        let wanted = index.name();
        let mut name = wanted.clone();
        for number in 2.. {
            if self.names.insert(name.clone()) {
                break;
            }
            name = format!("{wanted}_{number}");
        }
        let note = (name != wanted).then(|| {
            format!("the name {wanted} is taken: give the index in the code the name {name}, `{{ name: \"{name}\" }}`, or its start builds it again")
        });
        (name, note)
    }
}

/// What remains to be done of an index that is what is declared.
fn settle(row: &Comparison, live: &ListedIndex) -> Option<Change> {
    if live.prepare_unique && !live.spec.unique {
        return Some(change(
            &live.name,
            ChangeKind::Modify,
            "new duplicates refused → accepted".to_owned(),
            "collMod; no rebuild, no gap",
            vec![Step::AcceptDuplicates { name: live.name.clone() }],
        ));
    }
    // Without a name of its own it is as well under the one that it has.
    row.declared.as_ref().filter(|declared| declared.name.is_some())?;
    let other_name = row.other_name()?;
    Some(Change {
        notes: vec![format!(
            "declared as {other_name}; the server refuses the same index under another name (85): declare `name = \"{}\"`",
            live.name
        )],
        ..change(&live.name, ChangeKind::Leave, "named otherwise".to_owned(), "nothing is done", Vec::new())
    })
}

/// Changes an index where it stands.
fn modify(
    old: &ListedIndex,
    index: &DeclaredIndex,
    spec: &IndexSpec,
    by: &[Modification],
    what: String,
) -> Change {
    let name = || old.name.clone();
    let steps: Vec<Step> = by
        .iter()
        .flat_map(|modification| match modification {
            Modification::Unique => {
                vec![Step::PrepareUnique { name: name() }, Step::MakeUnique { name: name() }]
            }
            Modification::TtlSeconds { seconds } => vec![Step::SetTtl { name: name(), seconds: *seconds }],
            Modification::Hidden { hidden: true } => vec![Step::Hide { name: name() }],
            Modification::Hidden { hidden: false } => vec![Step::Show { name: name() }],
        })
        .collect();
    let how = match by.contains(&Modification::Unique) {
        true => "new duplicates refused, the server's dry run, conversion; no rebuild, no gap",
        false => "collMod; no rebuild, no gap",
    };
    let checks = changed_checks(old, index, spec);
    Change { checks, ..change(&old.name, ChangeKind::Modify, what, how, steps) }
}

/// Hides an index that nobody declares.
pub fn hide(index: &ListedIndex) -> Change {
    let name = index.name.clone();
    Change {
        notes: still_acts(&index.spec, &name),
        ..change(
            &index.name,
            ChangeKind::Hide,
            format!("{}, not declared", describe(&index.spec)),
            "hidden; queries do without it, and it can be shown again at once",
            vec![Step::Hide { name }],
        )
    }
}

/// Drops an index that was hidden for long enough.
pub fn drop_hidden(index: &ListedIndex) -> Change {
    let step = Step::Drop { name: index.name.clone(), definition: index.definition.clone() };
    Change {
        notes: acts_no_more(&index.spec),
        ..change(
            &index.name,
            ChangeKind::Drop,
            format!("{}, hidden", describe(&index.spec)),
            "dropped; its definition is kept for `mainstay index restore`",
            vec![step],
        )
    }
}

/// Builds an index again that was dropped, on a collection that is `present`.
pub fn restore(definition: &ListedIndex, present: &Present<'_>) -> Change {
    let spec = &definition.spec;
    let entry = Ejson::new(spec.definition(&definition.name, present.collation));
    let steps = vec![Step::Build { name: definition.name.clone(), definition: entry }];
    let is_there = |listed: &&ListedIndex| listed.name == definition.name || listed.spec == *spec;
    let blocked = present.indexes.iter().find(is_there).map(|listed| Blocked {
        reason: format!("there is {} already", listed.name),
        next: "look at it: `mainstay index drift`".to_owned(),
    });
    Change {
        checks: Check::of(spec, &BTreeSet::new()),
        blocked,
        ..change(&definition.name, ChangeKind::Build, describe(spec), "built again; writes stay open", steps)
    }
}

fn change(index: &str, kind: ChangeKind, what: String, how: &str, steps: Vec<Step>) -> Change {
    let (checks, notes) = (Vec::new(), Vec::new());
    Change { index: index.to_owned(), kind, what, how: how.to_owned(), steps, checks, notes, blocked: None }
}

/// What must be asked before an index is changed where it stands: only of what becomes stricter.
fn changed_checks(old: &ListedIndex, index: &DeclaredIndex, spec: &IndexSpec) -> Vec<Check> {
    let asked = IndexSpec {
        unique: spec.unique && !old.spec.unique,
        ttl_seconds: spec
            .ttl_seconds
            .filter(|seconds| old.spec.ttl_seconds.is_none_or(|before| *seconds < before)),
        ..spec.clone()
    };
    Check::of(&asked, &index.asserts)
}

/// What a hidden index goes on doing.
fn still_acts(spec: &IndexSpec, name: &str) -> Vec<String> {
    let mut notes = Vec::new();
    if spec.unique {
        notes.push(format!("hidden, {name} goes on refusing duplicates: what is tried is queries alone"));
    }
    if spec.ttl_seconds.is_some_and(|seconds| seconds < TTL_NEVER) {
        notes.push(format!("hidden, {name} goes on expiring documents: what is tried is queries alone"));
    }
    notes
}

fn acts_no_more(spec: &IndexSpec) -> Vec<String> {
    let mut notes = Vec::new();
    if spec.unique {
        notes.push("duplicates are accepted from then on".to_owned());
    }
    if spec.is_ttl() {
        notes.push("documents expire by it no longer".to_owned());
    }
    notes
}

/// `plain → unique, ttl none → 1d`.
fn transition(differences: &[Difference]) -> String {
    let told =
        differences.iter().map(|difference| match (difference.live.as_str(), difference.declared.as_str()) {
            ("true", "false") => format!("{} → not {0}", difference.aspect.name()),
            ("false", "true") => format!("not {} → {0}", difference.aspect.name()),
            _ => difference.to_string(),
        });
    told.collect::<Vec<_>>().join(", ")
}

/// An index in a few words: `email, unique, sparse`.
pub fn describe(spec: &IndexSpec) -> String {
    let mut words: Vec<String> = spec.written_keys().iter().map(Key::to_string).collect();
    let plain = IndexSpec { keys: spec.keys.clone(), text: spec.text.clone(), ..IndexSpec::of_keys(&[]) };
    words.extend(differences(&plain, spec).iter().map(|difference| match difference.declared.as_str() {
        "true" => difference.aspect.name().to_owned(),
        declared => format!("{} {declared}", difference.aspect.name()),
    }));
    words.join(", ")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::declared::Manifest;
    use crate::json::json;

    struct World {
        declared: &'static str,
        policy: &'static str,
        listed: Json,
        allows_gaps: bool,
        hidden_seconds: Option<u64>,
    }

    impl World {
        fn new(declared: &'static str, listed: Json) -> Self {
            Self { declared, policy: "", listed, allows_gaps: false, hidden_seconds: None }
        }

        fn changes(&self) -> Vec<Change> {
            let text = format!("[indexes]\nc = [{}]\n[policy]\n{}\n", self.declared, self.policy);
            let manifest = Manifest::parse(&text).unwrap();
            let indexes: Vec<ListedIndex> =
                self.listed.items().unwrap().iter().map(|entry| ListedIndex::read(entry).unwrap()).collect();
            let choice = Choice {
                policy: &manifest.policy,
                allows_gaps: self.allows_gaps,
                hidden_seconds: &|_| self.hidden_seconds,
            };
            changes(
                &Present { collation: &Collation::Simple, indexes: &indexes },
                &manifest.collections["c"],
                &choice,
            )
        }

        /// Each change on a line: kind, index, steps, checks, whether it is blocked.
        fn lines(&self) -> Vec<String> {
            let line = |change: &Change| {
                let steps: Vec<String> =
                    change.steps.iter().map(|step| format!("{} {}", step.verb(), step.index())).collect();
                let checks = change.checks.iter().map(|check| match check {
                    Check::Duplicates { .. } => "duplicates",
                    Check::ExplicitNulls { .. } => "nulls",
                    Check::Expiry { .. } => "expiry",
                });
                let blocked = if change.blocked.is_some() { " BLOCKED" } else { "" };
                let asked = checks.collect::<Vec<_>>().join(", ");
                format!("{:?} {}: {} [{asked}]{blocked}", change.kind, change.index, steps.join(", "))
            };
            self.changes().iter().map(line).collect()
        }
    }

    #[test]
    fn the_table() {
        let a = json!([{"key": {"_id": 1}, "name": "_id_"}, {"key": {"a": 1}, "name": "a_1"}]);
        let unique = json!([{"key": {"a": 1}, "name": "a_1", "unique": true}]);
        let ttl = json!([{"key": {"a": 1}, "name": "a_1", "expireAfterSeconds": 60}]);
        let text = json!([{"key": {"_fts": "text", "_ftsx": 1}, "name": "a_text", "weights": {"a": 1}}]);
        for (declared, listed, expected) in [
            ("{ keys = [\"a\"] }", a.clone(), vec![]),
            ("{ keys = [\"a\"] }", json!([]), vec!["Build a_1: build a_1 []"]),
            ("{ keys = [\"a\"], unique = true }", json!([]), vec!["Build a_1: build a_1 [duplicates]"]),
            (
                "{ keys = [\"a\"], unique = true, sparse = true }",
                json!([]),
                vec!["Build a_1: build a_1 [nulls, duplicates]"],
            ),
            ("{ keys = [\"a\"], ttl = \"1h\" }", json!([]), vec!["Build a_1: build a_1 [expiry]"]),
            (
                "{ keys = [\"a\"], unique = true }",
                a.clone(),
                vec!["Modify a_1: refuse new duplicates in a_1, make unique a_1 [duplicates]"],
            ),
            (
                "{ keys = [\"a\"], ttl = \"1h\" }",
                a.clone(),
                vec!["Modify a_1: set the expiry of a_1 [expiry]"],
            ),
            ("{ keys = [\"a\"], ttl = \"1h\" }", ttl.clone(), vec!["Modify a_1: set the expiry of a_1 []"]),
            (
                "{ keys = [\"a\"], ttl = \"1s\" }",
                ttl.clone(),
                vec!["Modify a_1: set the expiry of a_1 [expiry]"],
            ),
            ("{ keys = [\"a\"], hidden = true }", a.clone(), vec!["Modify a_1: hide a_1 []"]),
            ("{ keys = [\"a\"] }", unique.clone(), vec!["Replace a_1_2: build a_1_2, hide a_1 []"]),
            ("{ keys = [\"a\"], sparse = true }", a.clone(), vec!["Replace a_1_2: build a_1_2, hide a_1 []"]),
            (
                "{ keys = [\"a\"], sparse = true }",
                ttl.clone(),
                vec!["Replace a_1_2: build a_1_2, set the expiry of a_1, hide a_1 []"],
            ),
            ("{ keys = [\"a\"] }", ttl.clone(), vec!["Rebuild a_1: drop a_1, build a_1 [] BLOCKED"]),
            ("{ keys = [\"b:text\"] }", text, vec!["Rebuild b_text: drop a_text, build b_text [] BLOCKED"]),
            ("{ keys = [\"b\"] }", a.clone(), vec!["Build b_1: build b_1 []", "Leave a_1:  []"]),
            (
                "{ keys = [\"a\"] }",
                json!([{"spec": {"key": {"a": 1}, "name": "a_1"}, "buildUUID": {"$uuid": "1"}}]),
                vec!["Build a_1: build a_1 []"],
            ),
            (
                "{ keys = [\"a\"], ttl = \"1m\" }",
                json!([{"spec": {"key": {"a": 1}, "name": "a_1", "expireAfterSeconds": 60}, "buildUUID": {"$uuid": "1"}}]),
                vec!["Build a_1: build a_1 [expiry]"],
            ),
            (
                "{ keys = [\"a\"], unique = true }",
                json!([{"spec": {"key": {"a": 1}, "name": "a_1"}, "buildUUID": {"$uuid": "1"}}]),
                vec!["Leave a_1:  [] BLOCKED"],
            ),
            (
                "{ keys = [\"a\"] }",
                json!([{"key": {"a": 1}, "name": "a_1", "prepareUnique": true}]),
                vec!["Modify a_1: accept duplicates again in a_1 []"],
            ),
            ("{ keys = [\"a\"], name = \"n\" }", a.clone(), vec!["Leave a_1:  []"]),
        ] {
            assert_eq!(World::new(declared, listed.clone()).lines(), expected, "{declared} {listed}");
        }
        let with_gap = World { allows_gaps: true, ..World::new("{ keys = [\"a\"] }", ttl) };
        assert_eq!(with_gap.lines(), ["Rebuild a_1: drop a_1, build a_1 []"]);
    }

    #[test]
    fn what_nobody_declares_goes_in_two_plans() {
        let shown = json!([{"key": {"b": 1}, "name": "b_1"}]);
        let hidden = json!([{"key": {"b": 1}, "name": "b_1", "hidden": true}]);
        for (policy, listed, hidden_seconds, expected) in [
            ("", &shown, None, "Leave b_1:  []"),
            ("", &hidden, Some(u64::MAX), "Leave b_1:  []"),
            ("undeclared = \"hide\"", &shown, None, "Hide b_1: hide b_1 []"),
            ("undeclared = \"hide\"", &hidden, Some(u64::MAX), "Leave b_1:  []"),
            ("undeclared = \"drop\"", &shown, None, "Hide b_1: hide b_1 []"),
            ("undeclared = \"drop\"", &hidden, None, "Leave b_1:  []"),
            ("undeclared = \"drop\"", &hidden, Some(604_799), "Leave b_1:  []"),
            ("undeclared = \"drop\"", &hidden, Some(604_800), "Drop b_1: drop b_1 []"),
            ("undeclared = \"drop\"\nhide_for = \"1h\"", &hidden, Some(3_600), "Drop b_1: drop b_1 []"),
        ] {
            let world = World { policy, hidden_seconds, ..World::new("", listed.clone()) };
            assert_eq!(world.lines(), [expected], "{policy} {listed} {hidden_seconds:?}");
        }
    }

    #[test]
    fn nothing_is_dropped_before_what_takes_its_place_but_in_a_gap() {
        let listed = json!([{"key": {"a": 1}, "name": "a_1", "unique": true, "expireAfterSeconds": 5}]);
        for declared in [
            "{ keys = [\"a\"] }",
            "{ keys = [\"a\"], sparse = true, unique = true }",
            "{ keys = [\"a\"], partial = { b = 1 } }",
        ] {
            for change in World::new(declared, listed.clone()).changes() {
                let drops = change.steps.iter().any(|step| matches!(step, Step::Drop { .. }));
                assert_eq!(drops, change.kind == ChangeKind::Rebuild, "{declared}");
                assert!(!drops || change.blocked.is_some(), "{declared}");
            }
        }
    }

    #[test]
    fn an_index_is_told_in_a_few_words() {
        let spec = |entry: Json| ListedIndex::read(&entry).unwrap().spec;
        for (entry, expected) in [
            (json!({"key": {"a": 1, "b": -1}, "name": "x"}), "a, -b"),
            (json!({"key": {"a": 1}, "name": "x", "unique": true, "sparse": true}), "a, unique, sparse"),
            (
                json!({"key": {"a": 1}, "name": "x", "expireAfterSeconds": 3600, "hidden": true}),
                "a, ttl 1h, hidden",
            ),
            (
                json!({"key": {"a": 1}, "name": "x", "partialFilterExpression": {"b": 1}}),
                "a, partial {\"b\":1}",
            ),
        ] {
            assert_eq!(describe(&spec(entry)), expected);
        }
    }
}
