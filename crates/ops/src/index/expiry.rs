//! How many documents a TTL deletes, and how many it never will: the questions, asked of the server.
//!
//! The server deletes what is in the index and whose date is at least so many seconds old: of an array the earliest date counts, what is no
//! date never expires, and neither does what lacks the field. Relies on the server's clock; a partial filter narrows every answer.

use std::time::Duration;

use mainstay_engine::{AggregateRequest, IndexCatalog, Namespace};
use mainstay_indexes::{Filter, Json};
use mainstay_model::{Error, ErrorKind, ErrorStatus, Result, Timestamp};

/// Whose documents expire, and when.
pub(super) struct Expiring<'a> {
    /// The collection.
    pub(super) namespace: &'a Namespace,
    /// The field of the date.
    pub(super) field: &'a str,
    /// How old it becomes.
    pub(super) seconds: i64,
    /// Only these documents.
    pub(super) filter: Option<&'a Filter>,
    /// The index to walk, where there is one already.
    pub(super) index: Option<&'a str>,
}

/// What would be deleted, and what never will be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpiryCounts {
    /// Documents that have expired.
    pub overdue: u64,
    /// The earliest date among them.
    pub oldest: Option<Timestamp>,
    /// Documents whose field holds no date: they never expire.
    pub not_dates: u64,
    /// Documents whose field is an array: the earliest date in it decides.
    pub arrays: u64,
    /// Documents without the field: they never expire.
    pub missing: u64,
}

/// Counts what has expired at `now`, and what never will.
///
/// # Errors
/// The server's; `Server` when it was not counted in time.
pub(super) async fn count(
    catalog: &dyn IndexCatalog,
    expiring: &Expiring<'_>,
    now: Timestamp,
    time_max: Duration,
) -> Result<ExpiryCounts> {
    let ask = async |pipeline: Vec<Json>, hint: Option<&str>| {
        let request = AggregateRequest {
            pipeline,
            collation: None,
            hint: hint.map(str::to_owned),
            time_max,
            results_max: 1,
        };
        let answer = catalog.aggregate(expiring.namespace, &request).await.map_err(longer)?;
        Ok::<_, Error>(answer.into_iter().next())
    };
    let overdue = ask(overdue(expiring, now)?, expiring.index).await?;
    let of_field = async |condition: &str| {
        let counted = ask(counting(expiring, condition)?, None).await?;
        Ok::<_, Error>(number(counted.as_ref(), "n"))
    };
    Ok(ExpiryCounts {
        overdue: number(overdue.as_ref(), "n"),
        oldest: overdue.as_ref().and_then(|counted| date(counted.get("oldest")?)),
        not_dates: of_field(r#"{"$exists":true,"$not":{"$type":"date"}}"#).await?,
        arrays: of_field(r#"{"$type":"array"}"#).await?,
        missing: of_field(r#"{"$exists":false}"#).await?,
    })
}

/// An error of the server, with how to give it longer where that is what it lacked.
fn longer(error: Error) -> Error {
    match (error.kind(), error.status()) {
        (ErrorKind::Server, ErrorStatus::Persistent) => {
            error.with_hint("give it longer with `--max-time 30m`, or ask when the server has less to do")
        }
        _ => error,
    }
}

fn overdue(expiring: &Expiring<'_>, now: Timestamp) -> Result<Vec<Json>> {
    let cutoff = now.as_millisecond().saturating_sub(expiring.seconds.saturating_mul(1_000));
    let field = Json::from(expiring.field);
    let path = Json::from(format!("${}", expiring.field).as_str());
    // The bounds are dates, so that nothing but dates lies between them.
    let bounds = format!(
        r#"{{"$gte":{{"$date":{{"$numberLong":"{}"}}}},"$lte":{{"$date":{{"$numberLong":"{cutoff}"}}}}}}"#,
        i64::MIN
    );
    let dates = r#"{"$filter":{"input":PATH,"cond":{"$eq":[{"$type":"$$this"},"date"]}}}"#
        .replace("PATH", &path.to_string());
    stages(&[
        matching(expiring, &format!("{{{field}:{bounds}}}")),
        format!(
            r#"{{"$project":{{"_id":0,"at":{{"$cond":[{{"$isArray":{path}}},{{"$min":{dates}}},{path}]}}}}}}"#
        ),
        r#"{"$group":{"_id":null,"n":{"$sum":1},"oldest":{"$min":"$at"}}}"#.to_owned(),
    ])
}

fn counting(expiring: &Expiring<'_>, condition: &str) -> Result<Vec<Json>> {
    let field = Json::from(expiring.field);
    stages(&[matching(expiring, &format!("{{{field}:{condition}}}")), r#"{"$count":"n"}"#.to_owned()])
}

fn matching(expiring: &Expiring<'_>, condition: &str) -> String {
    match expiring.filter {
        Some(filter) => format!(r#"{{"$match":{{"$and":[{filter},{condition}]}}}}"#),
        None => format!(r#"{{"$match":{condition}}}"#),
    }
}

fn stages(texts: &[String]) -> Result<Vec<Json>> {
    let parsed: std::result::Result<Vec<Json>, _> = texts.iter().map(|text| Json::parse(text)).collect();
    parsed.map_err(|source| Error::new(ErrorKind::Internal, "a stage is no JSON").with_source(source))
}

fn number(document: Option<&Json>, key: &str) -> u64 {
    let value = document.and_then(|document| document.get(key));
    let text = value.and_then(|value| value.get("$numberInt").or_else(|| value.get("$numberLong"))?.text());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn date(value: &Json) -> Option<Timestamp> {
    let millis = value.get("$date")?.get("$numberLong")?.text()?.parse().ok()?;
    Timestamp::from_millisecond(millis).ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn only_what_lacked_time_is_given_longer() {
        let slow = Error::new(ErrorKind::Server, "slow").with_status(ErrorStatus::Persistent);
        assert!(longer(slow).hint().is_some_and(|hint| hint.contains("--max-time")));
        assert_eq!(longer(Error::new(ErrorKind::Server, "broken")).hint(), None);
    }

    #[test]
    fn stages_are_json_for_every_field() {
        let namespace = Namespace::new("shop", "c");
        let filter = Filter::of_document(&Json::parse(r#"{"a":1}"#).unwrap()).unwrap();
        for field in ["at", "a.b", "quo\"te"] {
            let expiring =
                Expiring { namespace: &namespace, field, seconds: 60, filter: Some(&filter), index: None };
            assert_eq!(overdue(&expiring, Timestamp::from_second(100).unwrap()).unwrap().len(), 3);
            let text = counting(&expiring, r#"{"$exists":false}"#).unwrap()[0].to_string();
            assert!(text.starts_with(r#"{"$match":{"$and":[{"a":1},{"#), "{text}");
        }
    }
}
