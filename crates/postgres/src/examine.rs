//! Misconfigurations of a running PostgreSQL. Observing asks the server; finding is pure.
//!
//! Sources: manual (18), "Server Configuration" (reliability, archiving, connections), `pg_stat_archiver`, `pg_hba_file_rules`; the official
//! container image's notes on `PGDATA` from version 18 on. What the role may not see becomes one note that names it.

use std::collections::BTreeMap;

use mainstay_model::{Finding, Result, Severity, StoreKind};
use tokio_postgres::error::SqlState;

use crate::session::Session;

/// Share of `max_connections` in use from which it is said, in percent.
const CONNECTIONS_PERCENT_HIGH: u64 = 80;

/// What was seen. `None` where the role may not look.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// Settings by name; those that the role may not see are absent.
    settings: BTreeMap<String, String>,
    /// Segments that could not be archived since the last success, and the newest of them.
    archive_failure: Option<(u64, String)>,
    /// Client connections now.
    connections: u64,
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
    "max_connections",
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
            "SELECT (SELECT sum(numbackends) FROM pg_stat_database) AS connections, \
             current_user AS role, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser",
        )
        .await?;
    let superuser = match session.text(&row, "superuser")? {
        "t" => Some(session.text(&row, "role")?.to_owned()),
        _ => None,
    };
    Ok(Observed {
        settings,
        archive_failure: observe_archiver(session).await?,
        connections: session.number(&row, "connections")?,
        superuser,
        trusted: observe_trust(session).await?,
    })
}

async fn observe_archiver(session: &Session<'_>) -> Result<Option<(u64, String)>> {
    let rows = session
        .rows(
            "SELECT failed_count, last_failed_wal FROM pg_stat_archiver \
             WHERE last_failed_time > coalesce(last_archived_time, '-infinity'::timestamptz)",
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some((session.number(row, "failed_count")?, session.text(row, "last_failed_wal")?.to_owned())))
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

/// What is wrong with a server so observed, worst first.
pub(crate) fn findings(observed: &Observed, address: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |id: &str, severity, message: String, remedy: &str| {
        findings.push(Finding {
            id: format!("postgres.{id}"),
            severity,
            store: Some(StoreKind::Postgres),
            subject: address.to_owned(),
            message,
            remedy: remedy.to_owned(),
        });
    };
    let setting = |name: &str| observed.settings.get(name).map(String::as_str);
    let is_off = |name: &str| setting(name) == Some("off");

    if is_off("fsync") {
        report(
            "fsync_off",
            Severity::Critical,
            "fsync is off: a crash of the machine may destroy the whole cluster".to_owned(),
            "type `ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();`",
        );
    }
    if is_off("full_page_writes") {
        report(
            "full_page_writes_off",
            Severity::Critical,
            "full_page_writes is off: a page half written at a crash cannot be repaired".to_owned(),
            "type `ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();`",
        );
    }
    if let Some((count, segment)) = &observed.archive_failure {
        report(
            "archive_failing",
            Severity::Critical,
            format!(
                "archiving fails at WAL segment {segment} ({count} failures): WAL piles up and no point in time can be recovered"
            ),
            "look into the server's log for the archive_command's output, and mend it",
        );
    }
    trust_finding(observed, &mut report);
    if setting("wal_level") == Some("minimal") {
        report(
            "wal_level_minimal",
            Severity::Warning,
            "wal_level is minimal: neither base backups nor replication are possible".to_owned(),
            "type `ALTER SYSTEM SET wal_level = replica;`, then restart the server",
        );
    }
    if is_off("data_checksums") {
        report(
            "data_checksums_off",
            Severity::Warning,
            "data checksums are off: damaged pages are served as if they were whole".to_owned(),
            "stop the server and run `pg_checksums --enable` on its data folder",
        );
    }
    if let Some(max) = setting("max_connections").and_then(|text| text.parse::<u64>().ok())
        && observed.connections * 100 >= max * CONNECTIONS_PERCENT_HIGH
    {
        report(
            "connections_high",
            Severity::Warning,
            format!("{} of {max} connections are in use", observed.connections),
            "end idle connections, put a pooler in front, or raise max_connections",
        );
    }
    if setting("password_encryption") == Some("md5") {
        report(
            "password_encryption_md5",
            Severity::Warning,
            "new passwords are stored as MD5".to_owned(),
            "type `ALTER SYSTEM SET password_encryption = 'scram-sha-256'; SELECT pg_reload_conf();`, then set the passwords again",
        );
    }
    let version = setting("server_version_num").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    if version >= 180_000 && setting("data_directory") == Some("/var/lib/postgresql/data") {
        report(
            "data_directory_moved",
            Severity::Note,
            "the data folder is /var/lib/postgresql/data; from version 18 on the official image keeps it below /var/lib/postgresql/<version>"
                .to_owned(),
            "mount the volume at /var/lib/postgresql, so that an upgrade finds old and new data side by side",
        );
    }
    if let Some(role) = &observed.superuser {
        report(
            "superuser_role",
            Severity::Note,
            format!("role {role} is a superuser: whoever has its password may do anything"),
            "give applications a role of their own without SUPERUSER",
        );
    }
    let unseen = unseen(observed);
    if !unseen.is_empty() {
        report(
            "not_examined",
            Severity::Note,
            format!("the role may not see {}", unseen.join(", ")),
            "grant it pg_read_all_settings and EXECUTE on pg_hba_file_rules(), or use another role",
        );
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn trust_finding(observed: &Observed, report: &mut impl FnMut(&str, Severity, String, &str)) {
    let open: Vec<_> =
        observed.trusted.iter().flatten().filter(|(_, address)| !is_loopback(address)).collect();
    let Some((line, address)) = open.first() else { return };
    let listens = observed.settings.get("listen_addresses").map_or("*", String::as_str);
    let reachable = listens.split(',').map(str::trim).any(|part| !part.is_empty() && !is_loopback(part));
    let (severity, reach) = match reachable {
        true => (Severity::Critical, "and the server listens on the network"),
        false => (Severity::Note, "though the server listens on this machine alone"),
    };
    report(
        "trust_on_network",
        severity,
        format!("pg_hba.conf line {line} lets clients from {address} in without a password, {reach}"),
        "replace `trust` by `scram-sha-256` in pg_hba.conf, then type `SELECT pg_reload_conf();`",
    );
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
            ("max_connections", "100"),
            ("server_version_num", "180004"),
            ("password_encryption", "scram-sha-256"),
        ];
        Observed {
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            connections: 79,
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
            (Box::new(set("max_connections", "98")), "connections_high", Severity::Warning),
            (Box::new(set("password_encryption", "md5")), "password_encryption_md5", Severity::Warning),
            (
                Box::new(set("data_directory", "/var/lib/postgresql/data")),
                "data_directory_moved",
                Severity::Note,
            ),
            (
                Box::new(|observed| observed.archive_failure = Some((3, "00000001".to_owned()))),
                "archive_failing",
                Severity::Critical,
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
