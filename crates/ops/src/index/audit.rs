//! Which indexes nobody uses, which are redundant, which were forgotten.
//!
//! Use is summed over all members that hold data, for each member counts its own reads alone. Nothing is called unused before it was watched
//! for as long as the policy says on every one of them: a start, a failover and a change of the index begin the count anew. Never called
//! unused are indexes with work of their own (unique ones, expiries), hidden ones, and those that the manifest pins or excuses. What code
//! declares is judged when the import of a project is at hand: an application that builds its indexes when it begins can undo any plan.

use mainstay_engine::{IndexCatalog, IndexUsage, IndexedCollection, Namespace, UsageReport};
use mainstay_indexes::mongoose::Declarations;
use mainstay_indexes::{Allowance, DeclaredIndex, ListedIndex, Manifest, covers, rounded_span, span};
use mainstay_model::{Clock, Finding, Result, Severity, StoreKind, Timestamp};

use super::{choosable, collections, is_regarded};

/// What an audit knows besides the server.
#[derive(Debug, Clone)]
pub struct AuditRequest<'a> {
    /// The database.
    pub database: &'a str,
    /// These collections; all when empty.
    pub collections: &'a [String],
    /// What is declared: pins, excuses, the policy.
    pub manifest: &'a Manifest,
    /// For how many seconds an index must have been watched; the policy's when `None`.
    pub watch_seconds: Option<u64>,
    /// What code declares, when a project was imported.
    pub code: Option<&'a Declarations>,
}

/// What was seen of one index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// The collection.
    pub collection: String,
    /// The index.
    pub index: String,
    /// How often all members used it.
    pub operations: u64,
    /// The members that were asked, and answered.
    pub members: usize,
    /// For how many seconds the one that counts for the shortest time has counted; `None` when none answered.
    pub watched_seconds: Option<u64>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// All indexes but those on `_id`.
    pub rows: Vec<AuditRow>,
    /// What is to be looked at.
    pub findings: Vec<Finding>,
}

/// Audits the indexes of a database.
///
/// # Errors
/// `Precondition` when a collection is not there; the server's. A member that does not answer is a finding.
pub async fn audit(
    catalog: &dyn IndexCatalog,
    request: &AuditRequest<'_>,
    clock: &dyn Clock,
) -> Result<AuditReport> {
    let found = collections(catalog, request.database, request.collections, |_| false).await?;
    let (found, _) = choosable(found);
    let found: Vec<IndexedCollection> = found
        .into_iter()
        .filter(|collection| is_regarded(request.manifest, &collection.namespace.collection))
        .collect();
    let namespaces: Vec<Namespace> = found.iter().map(|collection| collection.namespace.clone()).collect();
    let usage = catalog.index_usage(&namespaces).await?;
    let now = clock.now();
    let mut judge = Judge { request, now, report: AuditReport { rows: Vec::new(), findings: Vec::new() } };
    judge.silence(&usage);
    for collection in &found {
        judge.collection(collection, &usage);
    }
    judge.code();
    Ok(judge.report)
}

struct Judge<'a> {
    request: &'a AuditRequest<'a>,
    now: Timestamp,
    report: AuditReport,
}

impl Judge<'_> {
    fn find(&mut self, id: &str, severity: Severity, subject: String, message: String, remedy: String) {
        let store = Some(StoreKind::Mongo);
        self.report.findings.push(Finding { id: id.to_owned(), severity, store, subject, message, remedy });
    }

    /// Members that did not answer.
    fn silence(&mut self, usage: &UsageReport) {
        for (member, error) in &usage.silent {
            self.find(
                "index.member_silent",
                Severity::Warning,
                member.clone(),
                format!("nothing can be called unused: it was not told what this member uses ({error})"),
                error.hint().unwrap_or("make the member reachable, and run the audit again").to_owned(),
            );
        }
    }

    fn collection(&mut self, collection: &IndexedCollection, usage: &UsageReport) {
        let name = &collection.namespace.collection;
        let declared = self.request.manifest.collections.get(name).map(Vec::as_slice).unwrap_or_default();
        for index in collection.indexes.iter().filter(|index| !index.is_id() && index.is_ready()) {
            let spec = |declared: &&DeclaredIndex| declared.spec(&collection.collation) == index.spec;
            let declared = declared.iter().find(spec);
            let used = usage.index(&collection.namespace, &index.name);
            let watched = self.row(name, index, used);
            let excused = |allowance| declared.is_some_and(|declared| declared.allows.contains(&allowance));
            if index.ttl_is_no_number {
                self.no_number(&collection.namespace, index);
            }
            if index.spec.hidden {
                self.hidden(&collection.namespace, index, watched, declared.is_some());
                continue;
            }
            if !excused(Allowance::PrefixRedundant) && !declared.is_some_and(|declared| declared.pinned) {
                self.redundant(collection, index);
            }
            let has_work = index.spec.unique || index.spec.is_ttl();
            let is_spared = declared.is_some_and(|declared| declared.pinned) || excused(Allowance::Unused);
            if !has_work && !is_spared && usage.silent.is_empty() {
                self.unused(&collection.namespace, index, used, watched);
            }
        }
    }

    /// The row of an index; gives for how many seconds it was watched.
    fn row(&mut self, collection: &str, index: &ListedIndex, used: Option<&IndexUsage>) -> Option<u64> {
        let members = used.map(|used| used.members.as_slice()).unwrap_or_default();
        let since = members.iter().map(|member| member.since).max();
        let watched = since.map(|since| u64::try_from(self.now.as_second() - since.as_second()).unwrap_or(0));
        self.report.rows.push(AuditRow {
            collection: collection.to_owned(),
            index: index.name.clone(),
            operations: members.iter().map(|member| member.operations).sum(),
            members: members.len(),
            watched_seconds: watched,
        });
        watched
    }

    fn unused(
        &mut self,
        namespace: &Namespace,
        index: &ListedIndex,
        used: Option<&IndexUsage>,
        watched: Option<u64>,
    ) {
        let (Some(used), Some(watched)) = (used, watched) else { return };
        if used.members.iter().any(|member| member.operations > 0) {
            return;
        }
        let subject = format!("{namespace} {}", index.name);
        let members = used.members.len();
        let enough = self.request.watch_seconds.unwrap_or(self.request.manifest.policy.watch_seconds);
        if watched < enough {
            self.find(
                "index.unjudged",
                Severity::Note,
                subject,
                format!("not used yet, but watched for {} only, of {}", rounded_span(watched), span(enough)),
                "run the audit again later: a start, a failover or a change of the index begins the count anew".to_owned(),
            );
            return;
        }
        self.find(
            "index.unused",
            Severity::Warning,
            subject,
            format!("not used for {}, by none of {members} members", rounded_span(watched)),
            format!(
                "remove it from the manifest and run `mainstay index plan`, or keep it with `allow = [\"unused\"]` or `pin = true`; a monthly job may need it: {}",
                index.name
            ),
        );
    }

    fn redundant(&mut self, collection: &IndexedCollection, index: &ListedIndex) {
        let others = collection.indexes.iter().filter(|other| other.is_ready() && other.name != index.name);
        let longer = others.into_iter().find(|other| covers(&other.spec, &index.spec));
        if let Some(longer) = longer {
            let longer = longer.name.clone();
            self.find(
                "index.redundant",
                Severity::Warning,
                format!("{} {}", collection.namespace, index.name),
                format!("all its queries are served by {longer}, which begins with the same keys"),
                "remove it from the manifest and run `mainstay index plan`, or keep it with `allow = [\"prefix-redundant\"]`"
                    .to_owned(),
            );
        }
    }

    fn hidden(&mut self, namespace: &Namespace, index: &ListedIndex, watched: Option<u64>, declared: bool) {
        let allowed = self.request.manifest.policy.hide_seconds;
        // Hiding begins the count anew, so that it began at most so long ago.
        let Some(watched) = watched.filter(|watched| *watched > allowed && !declared) else { return };
        let still = match (index.spec.unique, index.spec.is_ttl()) {
            (true, _) => "; it refuses duplicates still",
            (_, true) => "; it deletes still",
            _ => "",
        };
        self.find(
            "index.hidden_long",
            Severity::Warning,
            format!("{namespace} {}", index.name),
            format!("hidden for {} at least, of {} by policy{still}", rounded_span(watched), span(allowed)),
            format!(
                "drop it with `mainstay index retire {}.{}`, or show it again",
                namespace.collection, index.name
            ),
        );
    }

    fn no_number(&mut self, namespace: &Namespace, index: &ListedIndex) {
        self.find(
            "index.ttl_no_number",
            Severity::Critical,
            format!("{namespace} {}", index.name),
            "its expireAfterSeconds is not a number: early 5.0 and 6.0 servers delete by it at once"
                .to_owned(),
            "give it a `ttl` in the manifest and run `mainstay index plan`; upgrade the server".to_owned(),
        );
    }

    fn code(&mut self) {
        let Some(code) = self.request.code.filter(|code| !code.auto_index.is_empty()) else { return };
        let collections = code.auto_index.join(", ");
        self.find(
            "index.auto_index",
            Severity::Warning,
            self.request.database.to_owned(),
            format!("autoIndex is on: the application builds its indexes whenever it begins ({collections})"),
            "set `mongoose.set('autoIndex', false)` in production, and let `mainstay index apply` build what the manifest says".to_owned(),
        );
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_engine::{CollectionKind, MemberUsage};
    use mainstay_indexes::{Collation, Json};
    use mainstay_model::{Error, ErrorKind};

    use super::*;

    const DAY: i64 = 86_400;

    /// The ids of what is found for indexes of one collection, each used so often by two members that watch for so many days.
    fn found(manifest: &str, indexes: &[(&str, u64, i64)], silent: bool) -> Vec<String> {
        let told = findings(manifest, indexes, silent).into_iter().map(|finding| {
            format!("{} {}", finding.id, finding.subject.split(' ').next_back().unwrap_or_default())
        });
        told.collect()
    }

    /// The same as it is found.
    fn findings(manifest: &str, indexes: &[(&str, u64, i64)], silent: bool) -> Vec<Finding> {
        let now = Timestamp::from_second(1_000 * DAY).unwrap();
        let listed: Vec<ListedIndex> = indexes
            .iter()
            .map(|(text, ..)| ListedIndex::read(&Json::parse(text).unwrap()).unwrap())
            .collect();
        let usage = |index: &ListedIndex, (_, operations, days): &(&str, u64, i64)| IndexUsage {
            namespace: Namespace::new("shop", "c"),
            name: index.name.clone(),
            members: [("one", 100), ("two", *days)]
                .map(|(member, days)| MemberUsage {
                    member: member.to_owned(),
                    operations: if member == "two" { *operations } else { 0 },
                    since: Timestamp::from_second((1_000 - days) * DAY).unwrap(),
                })
                .to_vec(),
        };
        let usage = UsageReport {
            indexes: listed.iter().zip(indexes).map(|(index, seen)| usage(index, seen)).collect(),
            silent: if silent {
                vec![("three".to_owned(), Error::new(ErrorKind::Unreachable, "gone"))]
            } else {
                Vec::new()
            },
        };
        let collection = IndexedCollection {
            namespace: Namespace::new("shop", "c"),
            kind: CollectionKind::Collection,
            identity: None,
            collation: Collation::Simple,
            options: "{}".to_owned(),
            indexes: listed,
        };
        let manifest = Manifest::parse(manifest).unwrap();
        let request = AuditRequest {
            database: "shop",
            collections: &[],
            manifest: &manifest,
            watch_seconds: None,
            code: None,
        };
        let mut judge =
            Judge { request: &request, now, report: AuditReport { rows: Vec::new(), findings: Vec::new() } };
        judge.silence(&usage);
        judge.collection(&collection, &usage);
        judge.report.findings
    }

    #[test]
    fn only_what_was_watched_for_long_enough_is_called_unused() {
        let a = r#"{"key":{"a":1},"name":"a_1"}"#;
        assert_eq!(found("", &[(a, 0, 30)], false), ["index.unused a_1"]);
        assert_eq!(found("", &[(a, 1, 30)], false), [""; 0]);
        assert_eq!(found("", &[(a, 0, 1)], false), ["index.unjudged a_1"]);
        assert_eq!(found("[policy]\nwatch_for = \"1h\"\n", &[(a, 0, 1)], false), ["index.unused a_1"]);
        assert_eq!(found("", &[(a, 0, 30)], true), ["index.member_silent three"]);
        assert_eq!(found("[indexes]\nc = [{ keys = [\"a\"], pin = true }]\n", &[(a, 0, 30)], false), [""; 0]);
        assert_eq!(
            found("[indexes]\nc = [{ keys = [\"a\"], allow = [\"unused\"] }]\n", &[(a, 0, 30)], false),
            [""; 0]
        );
        for has_work in [
            r#"{"key":{"a":1},"name":"a_1","unique":true}"#,
            r#"{"key":{"a":1},"name":"a_1","expireAfterSeconds":5}"#,
        ] {
            assert_eq!(found("", &[(has_work, 0, 30)], false), [""; 0]);
        }
    }

    #[test]
    fn redundant_hidden_and_odd_ones_are_found() {
        let a = r#"{"key":{"a":1},"name":"a_1"}"#;
        let ab = r#"{"key":{"a":1,"b":1},"name":"ab"}"#;
        assert_eq!(found("", &[(a, 1, 30), (ab, 1, 30)], false), ["index.redundant a_1"]);
        let excused = "[indexes]\nc = [{ keys = [\"a\"], allow = [\"prefix-redundant\"] }]\n";
        assert_eq!(found(excused, &[(a, 1, 30), (ab, 1, 30)], false), [""; 0]);
        let hidden = r#"{"key":{"a":1},"name":"a_1","hidden":true}"#;
        assert_eq!(found("", &[(hidden, 0, 30)], false), ["index.hidden_long a_1"]);
        assert_eq!(found("", &[(hidden, 0, 3)], false), [""; 0]);
        // What is to be typed is what the command takes.
        let remedy = &findings("", &[(hidden, 0, 30)], false)[0].remedy;
        assert!(remedy.contains("`mainstay index retire c.a_1`"), "{remedy}");
        let nan = r#"{"key":{"a":1},"name":"a_1","expireAfterSeconds":{"$numberDouble":"NaN"}}"#;
        assert_eq!(found("", &[(nan, 0, 30)], false), ["index.ttl_no_number a_1"]);
    }
}
