//! The rule of quotes: a row of `payment_quotes` belongs to a payment, and none is written while quoting is off.
//!
//! Whether quoting is on is the application's own switch (`ORACLE_QUOTING_ENABLED`); nothing in the database tells. Three cases: it is on, and no row
//! is too many; it is off since a moment that is told, and rows made from then on are wrong; it is off and nobody says since when, so it never was on as far as anybody
//! knows, and every row is wrong. Where nobody says whether it is on, that part is not judged. Rows of payments that are not there are damage.
//! Judging is pure.

use mainstay_engine::{
    FoundRows, ReferenceInspection, ReferenceLook, ReferenceRule, SeenReference, TableName,
};
use mainstay_model::{Count, Finding, Result, Severity, StoreKind, Timestamp};

/// Whether the application writes quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quoting {
    /// Nobody says.
    Unknown,
    /// It does.
    On,
    /// It does not, since then; `None` when nobody says since when.
    Off(Option<Timestamp>),
}

/// Where quotes are, and what is known of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteRule {
    /// The table of quotes.
    pub quotes: TableName,
    /// Its key.
    pub key: String,
    /// The column that names the payment.
    pub payment_column: String,
    /// The column that says when a quote was made.
    pub created_column: String,
    /// The table of payments.
    pub payments: TableName,
    /// The column that is named.
    pub payments_key: String,
    /// The application's switch.
    pub quoting: Quoting,
    /// How many rows are named of each sort.
    pub example_count_max: u16,
}

impl QuoteRule {
    fn reference(&self) -> ReferenceRule {
        ReferenceRule {
            child: self.quotes.clone(),
            child_key: self.key.clone(),
            child_column: self.payment_column.clone(),
            created_column: self.created_column.clone(),
            parent: self.payments.clone(),
            parent_column: self.payments_key.clone(),
            example_count_max: self.example_count_max,
            since: match self.quoting {
                Quoting::Off(since) => since,
                Quoting::Unknown | Quoting::On => None,
            },
        }
    }
}

/// Looks and judges.
///
/// # Errors
/// The server's.
pub async fn examine(inspection: &dyn ReferenceInspection, rule: &QuoteRule) -> Result<Vec<Finding>> {
    let look = inspection.look_at_reference(&rule.reference()).await?;
    Ok(findings(&look, rule))
}

/// What is wrong with what was seen.
pub fn findings(look: &ReferenceLook, rule: &QuoteRule) -> Vec<Finding> {
    match look {
        ReferenceLook::NoTable if rule.quoting == Quoting::On => vec![finding(
            rule,
            "no_table",
            Severity::Warning,
            format!("quoting is on, and there is no table {}", rule.quotes),
            "apply the migration that makes it: `mainstay sql status`; or name it as `table` in [sql.quotes]",
        )],
        ReferenceLook::NoTable => Vec::new(),
        ReferenceLook::Missing(names) => vec![finding(
            rule,
            "not_as_named",
            Severity::Warning,
            format!("not there: {}", names.join(", ")),
            "name table and columns as they are in [sql.quotes]",
        )],
        ReferenceLook::Seen(seen) => {
            let mut findings = rows(seen, rule);
            findings.extend(constraints(seen, rule));
            findings
        }
    }
}

/// Rows that should not be there.
fn rows(seen: &SeenReference, rule: &QuoteRule) -> Vec<Finding> {
    let (quotes, column) = (&rule.quotes, &rule.payment_column);
    let mut findings = Vec::new();
    if let Some(orphans) = seen.orphans.as_ref().filter(|rows| rows.count > 0) {
        findings.push(finding(
            rule,
            "without_payment",
            Severity::Critical,
            format!("{quotes} has {} whose payment is not there: {}", told(orphans), named(orphans, rule)),
            format!(
                "find out what became of {} with these ids, bring them back from a backup or take the quotes away, then make the foreign key",
                rule.payments
            ),
        ));
    }
    if let Some(nameless) = seen.nameless.as_ref().filter(|rows| rows.count > 0) {
        findings.push(finding(
            rule,
            "without_payment_id",
            Severity::Critical,
            format!("{quotes} has {} without {column}: {}", told(nameless), named(nameless, rule)),
            format!("give them their payment or take them away, then `ALTER TABLE {quotes} ALTER COLUMN {column} SET NOT NULL`"),
        ));
    }
    if let (Quoting::Off(since), Some(recent)) =
        (rule.quoting, seen.recent.as_ref().filter(|rows| rows.count > 0))
    {
        let when = match since {
            Some(since) => format!("since {since}, when quoting was off"),
            None => "while quoting is off, and nobody says that it ever was on".to_owned(),
        };
        findings.push(finding(
            rule,
            "written_while_off",
            Severity::Warning,
            format!("{quotes} has {} made {when}: {}", told(recent), named(recent, rule)),
            "find the process that writes them and give it the same ORACLE_QUOTING_ENABLED; when quoting was on before, say since when it is off: `off_since` in [sql.quotes]",
        ));
    }
    let is_recent_asked = matches!(rule.quoting, Quoting::Off(_));
    if seen.orphans.is_none() || seen.nameless.is_none() || (is_recent_asked && seen.recent.is_none()) {
        findings.push(not_counted(rule));
    }
    findings
}

/// What should keep such rows away and does not.
fn constraints(seen: &SeenReference, rule: &QuoteRule) -> Vec<Finding> {
    let (quotes, column) = (&rule.quotes, &rule.payment_column);
    let mut findings = Vec::new();
    if !seen.is_required {
        findings.push(finding(
            rule,
            "payment_id_not_required",
            Severity::Warning,
            format!("{quotes}.{column} may be NULL"),
            format!(
                "`ALTER TABLE {quotes} ADD CONSTRAINT … CHECK ({column} IS NOT NULL) NOT VALID`, VALIDATE it, then SET NOT NULL, in a migration"
            ),
        ));
    }
    let enforced: Vec<_> = seen.foreign_keys.iter().filter(|key| key.is_enforced).collect();
    if enforced.is_empty() {
        let what = match seen.foreign_keys.first() {
            Some(key) => format!("the foreign key {} of {quotes} is not enforced", key.name),
            None => format!(
                "no foreign key leads from {quotes}.{column} to {}.{}",
                rule.payments, rule.payments_key
            ),
        };
        let remedy = format!(
            "`ALTER TABLE {quotes} ADD CONSTRAINT … FOREIGN KEY ({column}) REFERENCES {} ({}) NOT VALID`, then VALIDATE it, in a migration",
            rule.payments, rule.payments_key
        );
        findings.push(finding(rule, "no_foreign_key", Severity::Warning, what, remedy));
    } else if let Some(key) = enforced.iter().find(|key| !key.is_valid)
        && !enforced.iter().any(|key| key.is_valid)
    {
        findings.push(finding(
            rule,
            "foreign_key_not_valid",
            Severity::Warning,
            format!(
                "the foreign key {} of {quotes} was never checked against the rows that there are",
                key.name
            ),
            format!("`ALTER TABLE {quotes} VALIDATE CONSTRAINT {}`, in a migration", key.name),
        ));
    }
    findings
}

fn not_counted(rule: &QuoteRule) -> Finding {
    finding(
        rule,
        "not_counted",
        Severity::Note,
        format!("not all rows of {} were counted: it takes too long, or somebody has it locked", rule.quotes),
        format!("an index on {} ({}) makes it quick", rule.quotes, rule.payment_column),
    )
}

fn told(rows: &FoundRows) -> String {
    match rows.count {
        1 => "1 row".to_owned(),
        count => format!("{} rows", Count(count)),
    }
}

fn named(rows: &FoundRows, rule: &QuoteRule) -> String {
    let more = if rows.count > rows.examples.len() as u64 { ", …" } else { "" };
    format!("{} {}{more}", rule.key, rows.examples.join(", "))
}

fn finding(
    rule: &QuoteRule,
    id: &str,
    severity: Severity,
    message: String,
    remedy: impl Into<String>,
) -> Finding {
    Finding {
        id: format!("quotes.{id}"),
        severity,
        store: Some(StoreKind::Postgres),
        subject: rule.quotes.to_string(),
        message,
        remedy: remedy.into(),
    }
}

#[cfg(test)]
mod tests {
    use mainstay_engine::SeenConstraint;

    use super::*;

    fn rule(quoting: Quoting) -> QuoteRule {
        let name = |name: &str| TableName { schema: "public".to_owned(), name: name.to_owned() };
        QuoteRule {
            quotes: name("payment_quotes"),
            key: "id".to_owned(),
            payment_column: "payment_id".to_owned(),
            created_column: "created_at".to_owned(),
            payments: name("payments"),
            payments_key: "id".to_owned(),
            quoting,
            example_count_max: 3,
        }
    }

    fn rows_of(count: u64) -> Option<FoundRows> {
        Some(FoundRows { count, examples: (1..=count.min(3)).map(|one| one.to_string()).collect() })
    }

    fn key(is_valid: bool, is_enforced: bool) -> SeenConstraint {
        SeenConstraint { name: "fk".to_owned(), definition: String::new(), is_valid, is_enforced }
    }

    fn ids(seen: SeenReference, quoting: Quoting) -> Vec<String> {
        let look = ReferenceLook::Seen(Box::new(seen));
        findings(&look, &rule(quoting)).into_iter().map(|one| one.id.replace("quotes.", "")).collect()
    }

    #[test]
    fn each_violation_has_its_finding() {
        let sound = || SeenReference {
            orphans: rows_of(0),
            nameless: rows_of(0),
            recent: rows_of(7),
            is_required: true,
            foreign_keys: vec![key(true, true)],
        };
        let off = Quoting::Off(None);
        let cases: [(SeenReference, Quoting, &[&str]); 12] = [
            (sound(), Quoting::On, &[]),
            (sound(), Quoting::Unknown, &[]),
            (sound(), off, &["written_while_off"]),
            (sound(), Quoting::Off(Some(Timestamp::UNIX_EPOCH)), &["written_while_off"]),
            (SeenReference { recent: rows_of(0), ..sound() }, off, &[]),
            (SeenReference { orphans: rows_of(2), ..sound() }, Quoting::On, &["without_payment"]),
            (SeenReference { orphans: None, ..sound() }, Quoting::On, &["not_counted"]),
            (SeenReference { recent: None, ..sound() }, Quoting::On, &[]),
            (SeenReference { recent: None, ..sound() }, off, &["not_counted"]),
            (
                SeenReference { nameless: rows_of(1), is_required: false, ..sound() },
                Quoting::On,
                &["without_payment_id", "payment_id_not_required"],
            ),
            (
                SeenReference { foreign_keys: vec![key(false, true)], ..sound() },
                Quoting::On,
                &["foreign_key_not_valid"],
            ),
            (
                SeenReference { foreign_keys: vec![key(false, false)], ..sound() },
                Quoting::On,
                &["no_foreign_key"],
            ),
        ];
        for (number, (seen, quoting, expected)) in cases.into_iter().enumerate() {
            assert_eq!(ids(seen, quoting), expected, "case {number}");
        }
    }

    #[test]
    fn what_is_not_there_matters_only_when_quotes_are_written() {
        let count = |look: &ReferenceLook, quoting| findings(look, &rule(quoting)).len();
        assert_eq!(count(&ReferenceLook::NoTable, Quoting::Off(None)), 0);
        assert_eq!(count(&ReferenceLook::NoTable, Quoting::Unknown), 0);
        assert_eq!(count(&ReferenceLook::NoTable, Quoting::On), 1);
        assert_eq!(count(&ReferenceLook::Missing(vec!["public.payments".to_owned()]), Quoting::Unknown), 1);
    }

    #[test]
    fn a_few_rows_are_named() {
        let seen = SeenReference {
            orphans: rows_of(12_345),
            is_required: true,
            foreign_keys: vec![key(true, true)],
            ..SeenReference::default()
        };
        let found = findings(&ReferenceLook::Seen(Box::new(seen)), &rule(Quoting::On));
        assert_eq!(
            found.first().map(|one| one.message.as_str()),
            Some("public.payment_quotes has 12,345 rows whose payment is not there: id 1, 2, 3, …")
        );
    }
}
