//! Slow operations grouped by shape, dearest first, each with what to do about it.
//!
//! Grouping and advising are pure. Two operations are of one group when namespace, command and the server's own hash of the query are equal;
//! where the server made no hash, our shape stands in for it. The hash of an aggregation covers its query alone, so its shape decides too.
//! Reads only.

mod advice;
mod query;

use std::collections::{BTreeMap, BTreeSet};

use mainstay_engine::{Inspection, SlowOperation, SlowRequest, SlowSource};
use mainstay_model::{Result, Timestamp};
use serde::Serialize;

pub use self::advice::Advice;
use crate::shape::{Literals, Shape, shape};

/// The most entries looked at, so that a busy profiler costs neither server nor client more than that.
pub const ENTRIES_MAX: u32 = 5_000;

/// Operations of one shape.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlowGroup {
    /// What they were about, `database.collection`.
    pub namespace: String,
    /// Their shape; with values, that of the slowest when they were asked for.
    pub shape: Shape,
    /// The server's hash of the query, if it made one.
    pub query_hash: Option<String>,
    /// How many there were; batches that continue a cursor are counted with the command that began it.
    pub count: u64,
    /// Further batches.
    pub batches: u64,
    /// Milliseconds in all.
    pub total_ms: u64,
    /// The longest.
    pub max_ms: u64,
    /// Documents looked at.
    pub documents_examined: u64,
    /// Index keys looked at.
    pub keys_examined: u64,
    /// Documents given back, changed or removed.
    pub returned: u64,
    /// The plans in the server's words, each once.
    pub plans: Vec<String>,
    /// How many sorted what no index gave in order.
    pub sorted: u64,
    /// How many wrote to disk what did not fit into memory.
    pub used_disk: u64,
    /// Who asked, as clients call themselves, each once.
    pub app_names: Vec<String>,
    /// The first of them.
    pub first_at: Timestamp,
    /// The last of them.
    pub last_at: Timestamp,
    /// What to do about them.
    pub advice: Vec<Advice>,
}

impl SlowGroup {
    /// Milliseconds on average.
    pub fn mean_ms(&self) -> f64 {
        self.total_ms as f64 / self.count.max(1) as f64
    }

    /// Documents looked at for each that was given back.
    pub fn examined_ratio(&self) -> f64 {
        self.documents_examined as f64 / self.returned.max(1) as f64
    }
}

/// What was slow.
#[derive(Debug, Clone, PartialEq)]
pub struct SlowReport {
    /// Where it was read, by database.
    pub sources: Vec<(String, SlowSource)>,
    /// How many operations were looked at.
    pub operations: u64,
    /// How many entries could not be read.
    pub unreadable: u64,
    /// Whether there are older entries that were not looked at.
    pub more: bool,
    /// Groups, the most milliseconds first.
    pub groups: Vec<SlowGroup>,
    /// How many groups there are besides those in `groups`.
    pub groups_left_out: usize,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowQuery {
    /// None older than this.
    pub since: Option<Timestamp>,
    /// At most so many groups.
    pub groups_max: usize,
    /// What becomes of values.
    pub literals: Literals,
}

/// Reads and groups the slow operations of `databases`.
///
/// # Errors
/// The server's.
pub async fn report(
    inspection: &dyn Inspection,
    databases: &[String],
    query: &SlowQuery,
) -> Result<SlowReport> {
    let mut report = SlowReport {
        sources: Vec::new(),
        operations: 0,
        unreadable: 0,
        more: false,
        groups: Vec::new(),
        groups_left_out: 0,
    };
    let request = SlowRequest { since: query.since, entries_max: ENTRIES_MAX };
    let mut operations = Vec::new();
    for database in databases {
        let found = inspection.slow_operations(database, &request).await?;
        report.sources.push((database.clone(), found.source));
        report.unreadable += found.unreadable;
        report.more |= found.more;
        operations.extend(found.operations);
    }
    report.operations = operations.len() as u64;
    report.groups = group(&operations, query.literals);
    report.groups_left_out = report.groups.len().saturating_sub(query.groups_max);
    report.groups.truncate(query.groups_max);
    Ok(report)
}

/// Groups `operations`, the most milliseconds first.
pub fn group(operations: &[SlowOperation], literals: Literals) -> Vec<SlowGroup> {
    let mut members: BTreeMap<Key, Vec<&SlowOperation>> = BTreeMap::new();
    for operation in operations {
        members.entry(Key::of(operation)).or_default().push(operation);
    }
    let mut groups: Vec<SlowGroup> = members.values().map(|members| summed(members, literals)).collect();
    // Equal costs keep an order that does not depend on the server's.
    groups.sort_by(|one, other| {
        (other.total_ms, &one.namespace, &one.shape.text).cmp(&(
            one.total_ms,
            &other.namespace,
            &other.shape.text,
        ))
    });
    groups
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    namespace: String,
    verb: String,
    hash: Option<String>,
    text: Option<String>,
}

impl Key {
    fn of(operation: &SlowOperation) -> Self {
        let Shape { verb, text } = shape(&operation.kind, &operation.command, Literals::Hidden);
        let by_hash = operation.query_hash.is_some() && verb != "aggregate";
        Self {
            namespace: operation.namespace.clone(),
            hash: operation.query_hash.clone(),
            text: (!by_hash).then_some(text),
            verb,
        }
    }
}

/// `members` is not empty: a group begins with its first member.
fn summed(members: &[&SlowOperation], literals: Literals) -> SlowGroup {
    let sum = |of: fn(&SlowOperation) -> u64| members.iter().map(|member| of(member)).sum::<u64>();
    let texts = |of: fn(&SlowOperation) -> Option<&String>| -> Vec<String> {
        members.iter().filter_map(|member| of(member)).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    };
    let slowest = members.iter().max_by_key(|member| member.millis).expect("a group has a member");
    let batches = sum(|member| member.is_continuation.into());
    let mut group = SlowGroup {
        namespace: slowest.namespace.clone(),
        shape: shape(&slowest.kind, &slowest.command, literals),
        query_hash: slowest.query_hash.clone(),
        count: (members.len() as u64 - batches).max(1),
        batches,
        total_ms: sum(|member| member.millis),
        max_ms: slowest.millis,
        documents_examined: sum(|member| member.documents_examined),
        keys_examined: sum(|member| member.keys_examined),
        returned: sum(|member| member.returned),
        plans: texts(|member| member.plan.as_ref()),
        sorted: sum(|member| member.sorted.into()),
        used_disk: sum(|member| member.used_disk.into()),
        app_names: texts(|member| member.app_name.as_ref()),
        first_at: members.iter().map(|member| member.at).min().expect("a group has a member"),
        last_at: members.iter().map(|member| member.at).max().expect("a group has a member"),
        advice: Vec::new(),
    };
    group.advice = advice::advise(&group, &query::facts(&slowest.kind, &slowest.command));
    group
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod tests {
    use super::*;
    use crate::shape::tests::tree;

    pub(crate) fn operation(command: &str, millis: u64) -> SlowOperation {
        SlowOperation {
            at: Timestamp::from_second(1_800_000_000).unwrap(),
            namespace: "shop.users".to_owned(),
            kind: "query".to_owned(),
            command: tree(command),
            is_continuation: false,
            app_name: None,
            millis,
            documents_examined: 3_000,
            keys_examined: 0,
            returned: 10,
            plan: Some("COLLSCAN".to_owned()),
            sorted: false,
            used_disk: false,
            query_hash: Some("AAAA".to_owned()),
            plan_cache_key: None,
        }
    }

    #[test]
    fn operations_of_one_shape_are_one_group() {
        let by_role = |value: &str, millis| {
            operation(&format!(r#"{{"find":"users","filter":{{"role":"{value}"}}}}"#), millis)
        };
        let mut more = by_role("canary-c", 5);
        more.is_continuation = true;
        let mut unhashed = by_role("x", 1);
        unhashed.query_hash = None;
        let mut deleted = operation(r#"{"q":{"role":"canary-d"},"limit":0}"#, 400);
        deleted.kind = "remove".to_owned();
        let groups = group(
            &[by_role("canary-a", 100), by_role("canary-b", 300), more, unhashed.clone(), unhashed, deleted],
            Literals::Hidden,
        );
        let told: Vec<_> = groups
            .iter()
            .map(|group| {
                (group.shape.verb.as_str(), group.count, group.batches, group.total_ms, group.max_ms)
            })
            .collect();
        assert_eq!(told, [("find", 2, 1, 405, 300), ("delete", 1, 0, 400, 400), ("find", 2, 0, 2, 1)]);
        assert_eq!((groups[0].mean_ms(), groups[0].examined_ratio()), (202.5, 300.0));
        assert!(!serde_json::to_string(&groups).unwrap().contains("canary"));
    }

    #[test]
    fn aggregations_with_one_query_and_other_stages_are_two_groups() {
        let stages = |last: &str| {
            operation(
                &format!(r#"{{"aggregate":"users","pipeline":[{{"$match":{{"role":"x"}}}},{last}]}}"#),
                10,
            )
        };
        let groups = group(
            &[
                stages(r#"{"$count":"n"}"#),
                stages(r#"{"$group":{"_id":"$role"}}"#),
                stages(r#"{"$count":"n"}"#),
            ],
            Literals::Hidden,
        );
        assert_eq!(groups.iter().map(|group| group.count).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn values_of_the_slowest_are_shown_to_whoever_asked() {
        let groups = group(
            &[
                operation(r#"{"find":"users","filter":{"role":"quick"}}"#, 1),
                operation(r#"{"find":"users","filter":{"role":"slow"}}"#, 2),
            ],
            Literals::Shown,
        );
        assert_eq!(groups[0].shape.text, r#"{role: "slow"}"#);
    }
}
