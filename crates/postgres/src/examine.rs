//! Misconfigurations of a running PostgreSQL, and slow decay. Observing asks the server; finding is pure. What comes and goes (connections,
//! archiving, slots) is judged where the daily questions are, not here.
//!
//! Sources: manual (18), "Server Configuration" (reliability, archiving, connections), `pg_stat_archiver`, `pg_hba_file_rules`; the official
//! container image's notes on `PGDATA` from version 18 on. What the role may not see becomes one note that names it.

use std::collections::BTreeMap;

use mainstay_model::{Finding, Result, Severity, StoreKind};
use tokio_postgres::error::SqlState;

use crate::session::Session;

/// Transactions since the oldest row was frozen: far from the end of numbers (2^31), and near enough to look. After Amazon's guidance; the
/// server itself warns 40 million before the end and stops 3 million before it.
const FREEZE_AGE_HIGH: u64 = 500_000_000;
const FREEZE_AGE_DANGEROUS: u64 = 1_000_000_000;
/// How many indexes are named.
const INDEX_COUNT_MAX: usize = 5;

/// What was seen. `None` where the role may not look.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// Settings by name; those that the role may not see are absent.
    settings: BTreeMap<String, String>,
    /// The database whose rows are longest unfrozen, in transactions, and how long.
    freeze_age: Option<(String, u64)>,
    /// The same in multixacts.
    multixact_age: Option<(String, u64)>,
    /// Indexes of the connected database that no query uses because their building failed.
    invalid_indexes: Vec<String>,
    /// Pages whose checksums were found wrong since statistics were reset.
    checksum_failures: u64,
    /// Whether the role we logged in as is a superuser, and its name.
    superuser: Option<String>,
    /// Lines of pg_hba.conf that let TCP clients in without a password: line number and address.
    trusted: Option<Vec<(u64, String)>>,
}

const SETTINGS: [&str; 10] = [
    "wal_level",
    "fsync",
    "full_page_writes",
    "data_checksums",
    "data_directory",
    "archive_mode",
    "listen_addresses",
    "max_wal_senders",
    "server_version_num",
    "password_encryption",
];

pub(crate) async fn observe(session: &Session<'_>) -> Result<Observed> {
    let names = SETTINGS.map(|name| format!("'{name}'")).join(", ");
    let mut settings = BTreeMap::new();
    for row in session.rows(&format!("SELECT name, setting FROM pg_settings WHERE name IN ({names})")).await?
    {
        settings.insert(session.text(&row, "name")?.to_owned(), session.text(&row, "setting")?.to_owned());
    }
    let row = session
        .row(
            "SELECT (SELECT coalesce(sum(checksum_failures), 0) FROM pg_stat_database) AS checksum_failures, \
             current_user AS role, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser",
        )
        .await?;
    let superuser = match session.text(&row, "superuser")? {
        "t" => Some(session.text(&row, "role")?.to_owned()),
        _ => None,
    };
    Ok(Observed {
        settings,
        freeze_age: observe_age(session, "age(datfrozenxid)").await?,
        multixact_age: observe_age(session, "mxid_age(datminmxid)").await?,
        invalid_indexes: observe_invalid_indexes(session).await?,
        checksum_failures: session.number(&row, "checksum_failures")?,
        superuser,
        trusted: observe_trust(session).await?,
    })
}

async fn observe_age(session: &Session<'_>, age: &str) -> Result<Option<(String, u64)>> {
    let query = format!("SELECT datname, {age} AS age FROM pg_database ORDER BY 2 DESC, 1 LIMIT 1");
    let rows = session.rows(&query).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some((session.text(row, "datname")?.to_owned(), session.number(row, "age")?)))
}

/// Those that are being built are invalid, too, and no fault; so are those of partitioned tables until each partition has its own.
async fn observe_invalid_indexes(session: &Session<'_>) -> Result<Vec<String>> {
    let rows = session
        .rows(
            "SELECT i.indexrelid::regclass::text AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
             WHERE NOT i.indisvalid AND c.relkind = 'i' AND NOT EXISTS \
             (SELECT 1 FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid) ORDER BY 1",
        )
        .await?;
    rows.iter().map(|row| session.text(row, "name").map(str::to_owned)).collect()
}

async fn observe_trust(session: &Session<'_>) -> Result<Option<Vec<(u64, String)>>> {
    let rows = session
        .rows_unless(
            &[SqlState::INSUFFICIENT_PRIVILEGE],
            "SELECT line_number, address FROM pg_hba_file_rules \
             WHERE error IS NULL AND type LIKE 'host%' AND auth_method = 'trust' ORDER BY line_number",
        )
        .await?;
    let Some(rows) = rows else { return Ok(None) };
    let mut trusted = Vec::new();
    for row in &rows {
        trusted.push((session.number(row, "line_number")?, session.text(row, "address")?.to_owned()));
    }
    Ok(Some(trusted))
}

/// What is wrong with a server.
struct Fault {
    id: &'static str,
    severity: Severity,
    message: String,
    remedy: String,
}

impl Fault {
    fn new(
        id: &'static str,
        severity: Severity,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Option<Self> {
        Some(Self { id, severity, message: message.into(), remedy: remedy.into() })
    }
}

/// A setting with a value that nobody should want.
struct SettingCheck {
    name: &'static str,
    value: &'static str,
    id: &'static str,
    severity: Severity,
    message: &'static str,
    remedy: &'static str,
}

const SETTING_CHECKS: &[SettingCheck] = &[
    SettingCheck {
        name: "fsync",
        value: "off",
        id: "fsync_off",
        severity: Severity::Critical,
        message: "fsync is off: a crash of the machine may destroy the whole cluster",
        remedy: "type `ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();`",
    },
    SettingCheck {
        name: "full_page_writes",
        value: "off",
        id: "full_page_writes_off",
        severity: Severity::Critical,
        message: "full_page_writes is off: a page half written at a crash cannot be repaired",
        remedy: "type `ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();`",
    },
    SettingCheck {
        name: "wal_level",
        value: "minimal",
        id: "wal_level_minimal",
        severity: Severity::Warning,
        message: "wal_level is minimal: neither base backups nor replication are possible",
        remedy: "type `ALTER SYSTEM SET wal_level = replica;`, then restart the server",
    },
    SettingCheck {
        name: "data_checksums",
        value: "off",
        id: "data_checksums_off",
        severity: Severity::Warning,
        message: "data checksums are off: damaged pages are served as if they were whole",
        remedy: "stop the server and run `pg_checksums --enable` on its data folder",
    },
    SettingCheck {
        name: "max_wal_senders",
        value: "0",
        id: "wal_senders_none",
        severity: Severity::Warning,
        message: "max_wal_senders is 0: neither base backups nor replication are possible",
        remedy: "type `ALTER SYSTEM SET max_wal_senders = 10;`, then restart the server",
    },
    SettingCheck {
        name: "password_encryption",
        value: "md5",
        id: "password_encryption_md5",
        severity: Severity::Warning,
        message: "new passwords are stored as MD5",
        remedy: "type `ALTER SYSTEM SET password_encryption = 'scram-sha-256'; SELECT pg_reload_conf();`, then set the passwords again",
    },
];

/// The checks that take more than one setting.
const CHECKS: &[fn(&Observed) -> Option<Fault>] = &[
    pages_damaged,
    |observed| not_frozen("xid_age", "transactions", observed.freeze_age.as_ref()),
    |observed| not_frozen("multixact_age", "multixacts", observed.multixact_age.as_ref()),
    let_in_without_password,
    indexes_invalid,
    data_directory_moved,
    role_is_superuser,
    not_examined,
];

impl SettingCheck {
    fn fault(&self, observed: &Observed) -> Option<Fault> {
        let Self { name, value, id, severity, message, remedy } = self;
        if observed.setting(name) != Some(value) {
            return None;
        }
        Fault::new(id, *severity, *message, *remedy)
    }
}

impl Observed {
    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }
}

/// What is wrong with a server so observed, worst first.
pub(crate) fn findings(observed: &Observed, address: &str) -> Vec<Finding> {
    let of_settings = SETTING_CHECKS.iter().filter_map(|check| check.fault(observed));
    let faults = of_settings.chain(CHECKS.iter().filter_map(|check| check(observed)));
    let finding = |Fault { id, severity, message, remedy }| Finding {
        id: format!("postgres.{id}"),
        severity,
        store: Some(StoreKind::Postgres),
        subject: address.to_owned(),
        message,
        remedy,
    };
    let mut findings: Vec<Finding> = faults.map(finding).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn pages_damaged(observed: &Observed) -> Option<Fault> {
    if observed.checksum_failures == 0 {
        return None;
    }
    Fault::new(
        "checksum_failures",
        Severity::Critical,
        format!("{} pages were found damaged by their checksums", observed.checksum_failures),
        "look into the server's log for which; find all with pg_amcheck, and restore what is damaged from a backup",
    )
}

fn not_frozen(id: &'static str, what: &str, oldest: Option<&(String, u64)>) -> Option<Fault> {
    let (database, age) = oldest.filter(|(_, age)| *age >= FREEZE_AGE_HIGH)?;
    let severity = if *age >= FREEZE_AGE_DANGEROUS { Severity::Critical } else { Severity::Warning };
    Fault::new(
        id,
        severity,
        format!(
            "rows of database {database} have not been frozen for {age} {what}; at 2,147,483,648 the server stops"
        ),
        "`mainstay pg activity` and `mainstay pg slots` show what keeps vacuum from it; then `vacuumdb --all --freeze`",
    )
}

fn let_in_without_password(observed: &Observed) -> Option<Fault> {
    let trusted = observed.trusted.iter().flatten();
    let (line, address) = trusted.into_iter().find(|(_, address)| !is_loopback(address))?;
    let listens = observed.setting("listen_addresses").unwrap_or("*");
    let reachable = listens.split(',').map(str::trim).any(|part| !part.is_empty() && !is_loopback(part));
    let (severity, reach) = match reachable {
        true => (Severity::Critical, "and the server listens on the network"),
        false => (Severity::Note, "though the server listens on this machine alone"),
    };
    Fault::new(
        "trust_on_network",
        severity,
        format!("pg_hba.conf line {line} lets clients from {address} in without a password, {reach}"),
        "replace `trust` by `scram-sha-256` in pg_hba.conf, then type `SELECT pg_reload_conf();`",
    )
}

fn indexes_invalid(observed: &Observed) -> Option<Fault> {
    let first = observed.invalid_indexes.first()?;
    let count = match observed.invalid_indexes.len() {
        1 => "an index is invalid: it costs writes and serves no query".to_owned(),
        count => format!("{count} indexes are invalid: they cost writes and serve no query"),
    };
    let named: Vec<&str> =
        observed.invalid_indexes.iter().take(INDEX_COUNT_MAX).map(String::as_str).collect();
    Fault::new(
        "invalid_indexes",
        Severity::Warning,
        format!("{count}: {}", named.join(", ")),
        format!(
            "build each anew, `REINDEX INDEX CONCURRENTLY {first};`, or `DROP INDEX CONCURRENTLY {first};`"
        ),
    )
}

fn data_directory_moved(observed: &Observed) -> Option<Fault> {
    let version = observed.setting("server_version_num").and_then(|text| text.parse::<u64>().ok());
    let is_old_place = observed.setting("data_directory") == Some("/var/lib/postgresql/data");
    if !is_old_place || version.unwrap_or(0) < 180_000 {
        return None;
    }
    Fault::new(
        "data_directory_moved",
        Severity::Note,
        "the data folder is /var/lib/postgresql/data; from version 18 on the official image keeps it below /var/lib/postgresql/<version>",
        "mount the volume at /var/lib/postgresql, so that an upgrade finds old and new data side by side",
    )
}

fn role_is_superuser(observed: &Observed) -> Option<Fault> {
    let role = observed.superuser.as_ref()?;
    Fault::new(
        "superuser_role",
        Severity::Note,
        format!("role {role} is a superuser: whoever has its password may do anything"),
        "give applications a role of their own without SUPERUSER",
    )
}

fn not_examined(observed: &Observed) -> Option<Fault> {
    let unseen = unseen(observed);
    if unseen.is_empty() {
        return None;
    }
    Fault::new(
        "not_examined",
        Severity::Note,
        format!("the role may not see {}", unseen.join(", ")),
        "grant it pg_read_all_settings and EXECUTE on pg_hba_file_rules(), or use another role",
    )
}

fn is_loopback(address: &str) -> bool {
    matches!(address, "localhost" | "samehost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        || address == "127.0.0.0"
}

fn unseen(observed: &Observed) -> Vec<&'static str> {
    let mut unseen: Vec<_> =
        SETTINGS.into_iter().filter(|name| !observed.settings.contains_key(*name)).collect();
    if observed.trusted.is_none() {
        unseen.push("pg_hba.conf");
    }
    unseen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Observed {
        let settings = [
            ("wal_level", "replica"),
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("data_checksums", "on"),
            ("data_directory", "/var/lib/postgresql/18/docker"),
            ("archive_mode", "on"),
            ("listen_addresses", "*"),
            ("max_wal_senders", "10"),
            ("server_version_num", "180004"),
            ("password_encryption", "scram-sha-256"),
        ];
        Observed {
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            trusted: Some(vec![(3, "127.0.0.1".to_owned()), (4, "::1".to_owned())]),
            ..Observed::default()
        }
    }

    fn ids(observed: &Observed) -> Vec<(String, Severity)> {
        findings(observed, "h:5432").into_iter().map(|finding| (finding.id, finding.severity)).collect()
    }

    #[test]
    fn a_healthy_server_gives_no_finding() {
        assert_eq!(ids(&healthy()), []);
    }

    #[test]
    fn each_fault_gives_its_finding() {
        let set = |name: &'static str, value: &'static str| {
            move |observed: &mut Observed| {
                observed.settings.insert(name.to_owned(), value.to_owned());
            }
        };
        type Change = Box<dyn Fn(&mut Observed)>;
        let cases: Vec<(Change, &str, Severity)> = vec![
            (Box::new(set("fsync", "off")), "fsync_off", Severity::Critical),
            (Box::new(set("full_page_writes", "off")), "full_page_writes_off", Severity::Critical),
            (Box::new(set("data_checksums", "off")), "data_checksums_off", Severity::Warning),
            (Box::new(set("wal_level", "minimal")), "wal_level_minimal", Severity::Warning),
            (Box::new(set("max_wal_senders", "0")), "wal_senders_none", Severity::Warning),
            (
                Box::new(|observed| observed.freeze_age = Some(("shop".to_owned(), 500_000_000))),
                "xid_age",
                Severity::Warning,
            ),
            (
                Box::new(|observed| observed.multixact_age = Some(("shop".to_owned(), 1_000_000_000))),
                "multixact_age",
                Severity::Critical,
            ),
            (
                Box::new(|observed| observed.invalid_indexes = vec!["public.i".to_owned()]),
                "invalid_indexes",
                Severity::Warning,
            ),
            (Box::new(|observed| observed.checksum_failures = 1), "checksum_failures", Severity::Critical),
            (Box::new(set("password_encryption", "md5")), "password_encryption_md5", Severity::Warning),
            (
                Box::new(set("data_directory", "/var/lib/postgresql/data")),
                "data_directory_moved",
                Severity::Note,
            ),
            (
                Box::new(|observed| observed.superuser = Some("app".to_owned())),
                "superuser_role",
                Severity::Note,
            ),
            (
                Box::new(|observed| observed.trusted = Some(vec![(9, "all".to_owned())])),
                "trust_on_network",
                Severity::Critical,
            ),
            (
                Box::new(|observed| {
                    observed.trusted = Some(vec![(9, "0.0.0.0".to_owned())]);
                    observed.settings.insert("listen_addresses".to_owned(), "localhost, ::1".to_owned());
                }),
                "trust_on_network",
                Severity::Note,
            ),
            (Box::new(|observed| observed.trusted = None), "not_examined", Severity::Note),
            (
                Box::new(|observed| drop(observed.settings.remove("data_directory"))),
                "not_examined",
                Severity::Note,
            ),
        ];
        for (change, id, severity) in cases {
            let mut observed = healthy();
            change(&mut observed);
            assert_eq!(ids(&observed), [(format!("postgres.{id}"), severity)]);
        }
    }
}
