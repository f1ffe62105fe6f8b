//! The rule of quotes, for `doctor` and `sql verify`: where the configuration says quotes are, and what the application's switch says.

use mainstay_engine::TableName;
use mainstay_model::{Error, ErrorKind, Finding, Result, ResultExt, Severity, StoreKind, Timestamp};
use mainstay_ops::sql::quotes::{self, QuoteRule, Quoting};

use crate::config::resolved::QuoteSettings;
use crate::wiring::Session;

/// How many rows are named of each sort.
const EXAMPLE_COUNT_MAX: u16 = 5;
/// The schema of a table that is named without one.
const SCHEMA: &str = "public";

/// What is wrong about quotes.
///
/// # Errors
/// `Config` when the configuration says something that cannot be; the server's.
pub(crate) async fn examine(session: &Session) -> Result<Vec<Finding>> {
    let settings = &session.configuration.sql.quotes;
    let (rule, mut findings) = rule(settings)?;
    let found = quotes::examine(session.references()?.as_ref(), &rule).await;
    findings.extend(found.context("look at quotes")?);
    Ok(findings)
}

/// The same where nothing may fail for it: trouble is a finding.
pub(crate) async fn examine_or_tell(session: &Session) -> Vec<Finding> {
    examine(session).await.unwrap_or_else(|error| {
        vec![Finding {
            id: "quotes.not_examined".to_owned(),
            severity: Severity::Note,
            store: Some(StoreKind::Postgres),
            subject: session.configuration.sql.quotes.table.clone(),
            message: error.to_string(),
            remedy: error
                .hint()
                .unwrap_or("grant SELECT on both tables, or name them as they are in [sql.quotes]")
                .to_owned(),
        }]
    })
}

/// The rule that the settings say, and what is to be told of them.
fn rule(settings: &QuoteSettings) -> Result<(QuoteRule, Vec<Finding>)> {
    let off_since = settings.off_since.as_deref().map(moment).transpose()?;
    let (quoting, findings) = match settings.enabled.as_deref().map(switch) {
        None => (Quoting::Unknown, Vec::new()),
        Some(Some(true)) => (Quoting::On, Vec::new()),
        Some(Some(false)) => (Quoting::Off(off_since), Vec::new()),
        Some(None) => (Quoting::Unknown, vec![not_understood(&settings.table)]),
    };
    let rule = QuoteRule {
        quotes: table(&settings.table),
        key: settings.key.clone(),
        payment_column: settings.payment_column.clone(),
        created_column: settings.created_column.clone(),
        payments: table(&settings.payments),
        payments_key: settings.payments_key.clone(),
        quoting,
        example_count_max: EXAMPLE_COUNT_MAX,
    };
    Ok((rule, findings))
}

/// What an application means by the words that switches are written with.
fn switch(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn table(text: &str) -> TableName {
    let (schema, name) = text.split_once('.').unwrap_or((SCHEMA, text));
    TableName { schema: schema.to_owned(), name: name.to_owned() }
}

fn moment(text: &str) -> Result<Timestamp> {
    text.parse().map_err(|_| {
        Error::new(ErrorKind::Config, "`off_since` of [sql.quotes] is no moment")
            .with_hint("write it as in 2026-11-01T00:00:00Z")
    })
}

fn not_understood(table: &str) -> Finding {
    Finding {
        id: "quotes.switch_not_understood".to_owned(),
        severity: Severity::Warning,
        store: Some(StoreKind::Postgres),
        subject: table.to_owned(),
        message: "what ORACLE_QUOTING_ENABLED says is neither on nor off".to_owned(),
        remedy: "set it, or `enabled` in [sql.quotes], to true or false".to_owned(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn settings(enabled: Option<&str>, off_since: Option<&str>) -> QuoteSettings {
        QuoteSettings {
            table: "shop.quotes".to_owned(),
            payments: "payments".to_owned(),
            enabled: enabled.map(str::to_owned),
            off_since: off_since.map(str::to_owned),
            ..QuoteSettings::default()
        }
    }

    #[test]
    fn the_switch_is_read_as_applications_write_it() {
        let since: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
        for (enabled, off_since, quoting, told) in [
            (None, None, Quoting::Unknown, 0),
            (Some("true"), None, Quoting::On, 0),
            (Some(" TRUE"), Some("2026-11-01T00:00:00Z"), Quoting::On, 0),
            (Some("0"), None, Quoting::Off(None), 0),
            (Some("off"), Some("2026-11-01T00:00:00Z"), Quoting::Off(Some(since)), 0),
            (Some("maybe"), None, Quoting::Unknown, 1),
        ] {
            let (rule, findings) = rule(&settings(enabled, off_since)).unwrap();
            assert_eq!((rule.quoting, findings.len()), (quoting, told), "{enabled:?}");
            assert_eq!((rule.quotes.schema.as_str(), rule.payments.schema.as_str()), ("shop", "public"));
        }
        assert_eq!(rule(&settings(None, Some("yesterday"))).unwrap_err().kind(), ErrorKind::Config);
    }
}
