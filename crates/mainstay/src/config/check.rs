//! What is wrong with a configuration that can be read: contradictions, passwords in the wrong place, settings without effect.
//!
//! Pure but for one look at the permissions of files that hold secrets. Connects nowhere; `doctor` does.

use mainstay_model::{Finding, Severity, StoreKind};

use super::Configuration;
use super::connection::Connection;
use super::resolved::{Credentials, Setting, Value};
use super::source::Rank;

/// Everything found, worst first.
pub(crate) fn check(configuration: &Configuration) -> Vec<Finding> {
    let mut findings = Vec::new();
    unknown_variables(configuration, &mut findings);
    missing(configuration, &mut findings);
    passwords_in_files(configuration, &mut findings);
    competing_variables(configuration, &mut findings);
    secret_file_permissions(configuration, &mut findings);
    mongo(configuration, &mut findings);
    postgres(configuration, &mut findings);
    redis(configuration, &mut findings);
    repository(configuration, &mut findings);
    findings.sort_by(|one, other| other.severity.cmp(&one.severity).then_with(|| one.id.cmp(&other.id)));
    findings
}

fn finding(
    id: &str,
    severity: Severity,
    store: Option<StoreKind>,
    subject: impl Into<String>,
    message: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding {
        id: format!("config.{id}"),
        severity,
        store,
        subject: subject.into(),
        message: message.into(),
        remedy: remedy.into(),
    }
}

fn unknown_variables(configuration: &Configuration, findings: &mut Vec<Finding>) {
    for (name, nearest) in &configuration.unknown_variables {
        let remedy = match nearest {
            Some(nearest) => format!("did you mean {nearest}? otherwise `unset {name}`"),
            None => format!("`unset {name}`, or see `mainstay config show --variables`"),
        };
        findings.push(finding(
            "unknown_variable",
            Severity::Warning,
            None,
            name,
            "no setting has this variable",
            remedy,
        ));
    }
}

fn missing(configuration: &Configuration, findings: &mut Vec<Finding>) {
    if configuration.stores().is_empty() {
        findings.push(finding(
            "no_store",
            Severity::Warning,
            None,
            "stores",
            "no store is configured",
            "set `url` in [mongo], [postgres] or [redis], or MAINSTAY_MONGO_URL and its kin; `mainstay config init` writes a file to begin with",
        ));
    }
    if configuration.repository.is_none() {
        findings.push(finding(
            "no_repository",
            Severity::Warning,
            None,
            "repository.url",
            "no repository is configured: nothing can be backed up or audited",
            "set `url` in [repository], for example \"file:./backups\"",
        ));
    }
    if configuration.environment_name.is_none() || configuration.environment_class.is_none() {
        findings.push(finding(
            "environment_unknown",
            Severity::Note,
            None,
            "environment",
            "the environment has no name or no class, so it counts as production",
            "set `name` and `class` in [environment]",
        ));
    }
}

fn passwords_in_files(configuration: &Configuration, findings: &mut Vec<Finding>) {
    for setting in configuration.settings.values() {
        let in_file = matches!(setting.origin.rank, Rank::ProjectFile | Rank::UserFile);
        let Value::Url(connection) = &setting.value else { continue };
        if in_file && connection.password.is_some() {
            let section = setting.key.section;
            findings.push(finding(
                "password_in_file",
                Severity::Warning,
                store_of(section),
                setting.origin.to_string(),
                format!("the password of [{section}] stands in the file in plain text"),
                format!("take it out of the url and set MAINSTAY_{}_PASSWORD, or name a file with `password_file`", section.to_uppercase()),
            ));
        }
    }
}

fn competing_variables(configuration: &Configuration, findings: &mut Vec<Finding>) {
    for setting in configuration.settings.values() {
        for other in setting
            .passed_over
            .iter()
            .filter(|other| other.differs && other.origin.rank == setting.origin.rank)
        {
            findings.push(finding(
                "competing_variables",
                Severity::Warning,
                store_of(setting.key.section),
                setting.key.path(),
                format!("{} and {} disagree; {} is used", setting.origin, other.origin, setting.origin),
                format!("unset one of them, or set {} to say which is meant", setting.key.variable()),
            ));
        }
    }
}

#[cfg(unix)]
fn secret_file_permissions(configuration: &Configuration, findings: &mut Vec<Finding>) {
    use std::os::unix::fs::PermissionsExt;
    for setting in configuration.settings.values() {
        let Some(path) = setting.origin.value_file.as_ref().filter(|_| setting.key.is_secret()) else {
            continue;
        };
        // Container runtimes mount secrets world-readable inside the container; that folder is theirs to guard.
        if path.starts_with("/run/secrets") {
            continue;
        }
        let Ok(facts) = std::fs::metadata(path) else { continue };
        let mode = facts.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            findings.push(finding(
                "secret_file_readable",
                Severity::Warning,
                store_of(setting.key.section),
                path.display().to_string(),
                format!("other users of this machine may read this secret (mode {mode:04o})"),
                format!("chmod 600 {}", path.display()),
            ));
        }
    }
}

#[cfg(not(unix))]
fn secret_file_permissions(_configuration: &Configuration, _findings: &mut Vec<Finding>) {}

fn mongo(configuration: &Configuration, findings: &mut Vec<Finding>) {
    let store = StoreKind::Mongo;
    let Some(settings) = &configuration.mongo else {
        return without_url(configuration, store, findings);
    };
    half_credentials(store, &settings.credentials, "username", configuration, findings);
    let url_tls = settings
        .connection
        .option("tls")
        .or_else(|| settings.connection.option("ssl"))
        .map(|value| value == "true");
    contradiction(store, "mongo.tls", settings.tls, url_tls, "the url's `tls` option", findings);
    let encrypted = settings.tls.or(url_tls).unwrap_or(settings.connection.scheme == "mongodb+srv");
    let files = [
        ("tls_ca_file", &settings.tls_ca_file),
        ("tls_certificate_key_file", &settings.tls_certificate_key_file),
    ];
    tls_files(store, encrypted, &files, "tls = true", findings);
    in_the_clear(store, encrypted, &settings.connection, &settings.credentials, "`tls = true`", findings);
    let from_url = settings.connection.database.as_ref();
    if let (Some(from_url), Some(Value::Text(from_key))) =
        (from_url, configuration.setting("mongo.database").map(|setting| &setting.value))
        && from_url != from_key
    {
        findings.push(finding(
            "database_twice",
            Severity::Warning,
            Some(store),
            "mongo.database",
            format!(
                "the url names the database `{from_url}`, {} names `{from_key}`; `{}` is used",
                configuration
                    .setting("mongo.database")
                    .map(|setting| setting.origin.to_string())
                    .unwrap_or_default(),
                settings.database.as_deref().unwrap_or_default()
            ),
            "name the database once",
        ));
    }
}

fn postgres(configuration: &Configuration, findings: &mut Vec<Finding>) {
    let store = StoreKind::Postgres;
    let Some(settings) = &configuration.postgres else {
        return without_url(configuration, store, findings);
    };
    half_credentials(store, &settings.credentials, "user", configuration, findings);
    let mode =
        settings.sslmode.as_deref().or_else(|| settings.connection.option("sslmode")).unwrap_or("prefer");
    tls_files(
        store,
        mode != "disable",
        &[("ca_file", &settings.ca_file)],
        "sslmode = \"verify-full\"",
        findings,
    );
    let encrypted = !matches!(mode, "disable" | "allow" | "prefer");
    in_the_clear(
        store,
        encrypted,
        &settings.connection,
        &settings.credentials,
        "`sslmode = \"verify-full\"`",
        findings,
    );
    if let (Some(key), Some(url)) = (&settings.sslmode, settings.connection.option("sslmode"))
        && key != url
    {
        findings.push(finding(
            "sslmode_twice",
            Severity::Warning,
            Some(store),
            "postgres.sslmode",
            format!("the url says `{url}`, the key says `{key}`; the key is used"),
            "say it once",
        ));
    }
}

fn redis(configuration: &Configuration, findings: &mut Vec<Finding>) {
    let store = StoreKind::Redis;
    let Some(settings) = &configuration.redis else {
        return without_url(configuration, store, findings);
    };
    let url_tls = settings.connection.scheme.starts_with("rediss").then_some(true);
    contradiction(store, "redis.tls", settings.tls, url_tls, "the scheme `rediss`", findings);
    let encrypted = settings.tls.or(url_tls).unwrap_or(false);
    tls_files(store, encrypted, &[("ca_file", &settings.ca_file)], "tls = true", findings);
    in_the_clear(store, encrypted, &settings.connection, &settings.credentials, "`rediss://`", findings);
    if let Err(error) = configuration.redis_policy.settings() {
        findings.push(finding(
            "redis_policy",
            Severity::Critical,
            Some(store),
            "redis.policy",
            error.message().to_owned(),
            error.hint().unwrap_or("correct [redis.policy] of mainstay.toml"),
        ));
    }
}

fn repository(configuration: &Configuration, findings: &mut Vec<Finding>) {
    let Some(settings) = &configuration.repository else { return };
    let on_s3 = settings.location.starts_with("s3:");
    let s3_settings: Vec<&Setting> = configuration
        .settings
        .values()
        .filter(|setting| setting.key.section == "repository.s3" && setting.origin.rank != Rank::Default)
        .collect();
    // Amazon's own variables may be there for other programs; only what was said to us is reported.
    if let Some(setting) =
        s3_settings.iter().find(|setting| !on_s3 && setting.origin.rank != Rank::RunbookVariable)
    {
        findings.push(finding(
            "s3_without_effect",
            Severity::Note,
            None,
            setting.key.path(),
            "has no effect: the repository is not on S3",
            "set `url = \"s3://bucket/prefix\"` in [repository], or remove [repository.s3]",
        ));
    }
    if on_s3 && settings.access_key_id.is_some() != settings.secret_access_key.is_some() {
        findings.push(finding(
            "s3_half_credentials",
            Severity::Warning,
            None,
            "repository.s3",
            "only one of the access key's name and the access key itself is set",
            "set both MAINSTAY_S3_ACCESS_KEY_ID and MAINSTAY_S3_SECRET_ACCESS_KEY (or …_FILE)",
        ));
    }
    if on_s3
        && !settings.allow_http
        && settings.endpoint.as_deref().is_some_and(|url| url.starts_with("http://"))
    {
        findings.push(finding(
            "s3_endpoint_http",
            Severity::Warning,
            None,
            "repository.s3.endpoint",
            "the endpoint has no TLS, which is refused unless permitted",
            "use https://, or set `allow_http = true` in [repository.s3] on a trusted network",
        ));
    }
    if !settings.recipients.is_empty() && settings.identities.is_empty() {
        findings.push(finding(
            "no_identity",
            Severity::Note,
            None,
            "repository.identity",
            "objects are encrypted, but this machine has no key to read them back: verify and restore are not possible here",
            "set MAINSTAY_REPOSITORY_IDENTITY_FILE where backups are verified and restored",
        ));
    }
}

fn without_url(configuration: &Configuration, store: StoreKind, findings: &mut Vec<Finding>) {
    let said = configuration.settings.values().find(|setting| {
        setting.key.section == store.name()
            && !matches!(setting.origin.rank, Rank::Default | Rank::RunbookVariable)
    });
    if let Some(setting) = said {
        findings.push(finding(
            "no_url",
            Severity::Warning,
            Some(store),
            setting.key.path(),
            format!("has no effect: [{store}] has no url"),
            format!("set `url` in [{store}] or MAINSTAY_{}_URL", store.name().to_uppercase()),
        ));
    }
}

fn half_credentials(
    store: StoreKind,
    credentials: &Credentials,
    user_key: &str,
    configuration: &Configuration,
    findings: &mut Vec<Finding>,
) {
    let section = store.name();
    if let (Some((_, origin)), None) = (&credentials.username, &credentials.password) {
        // PostgreSQL has authentication methods without a password; MongoDB has X.509.
        findings.push(finding(
            "no_password",
            Severity::Note,
            Some(store),
            origin.to_string(),
            "a user is named, but no password",
            format!(
                "set MAINSTAY_{}_PASSWORD or `password_file` in [{section}], unless the server asks for none",
                section.to_uppercase()
            ),
        ));
    }
    let said = configuration.setting(&format!("{section}.password"));
    let is_used =
        credentials.password.as_ref().map(|(_, origin)| origin) == said.map(|setting| &setting.origin);
    if let Some(setting) = said
        && (credentials.username.is_none() || !is_used)
    {
        let why = match &credentials.username {
            None => "no user is named".to_owned(),
            Some((_, origin)) => format!("the user comes from {origin}"),
        };
        findings.push(finding(
            "password_unused",
            Severity::Warning,
            Some(store),
            setting.origin.to_string(),
            format!("this password is not used as a pair: {why}"),
            format!("set `{user_key}` in [{section}] (or its variable) at the same place as the password"),
        ));
    }
}

fn contradiction(
    store: StoreKind,
    subject: &str,
    key: Option<bool>,
    url: Option<bool>,
    url_says: &str,
    findings: &mut Vec<Finding>,
) {
    if let (Some(key), Some(url)) = (key, url)
        && key != url
    {
        findings.push(finding(
            "tls_contradiction",
            Severity::Critical,
            Some(store),
            subject,
            format!("the key says {key}, {url_says} says {url}"),
            "make them agree: an operator must know whether the connection is encrypted",
        ));
    }
}

fn tls_files(
    store: StoreKind,
    encrypted: bool,
    files: &[(&str, &Option<std::path::PathBuf>)],
    remedy: &str,
    findings: &mut Vec<Finding>,
) {
    for (name, path) in files {
        let Some(path) = path else { continue };
        let subject = format!("{store}.{name}");
        if !encrypted {
            let message = "has no effect: the connection is not encrypted";
            findings.push(finding(
                "tls_file_unused",
                Severity::Warning,
                Some(store),
                subject,
                message,
                format!("set `{remedy}`"),
            ));
        } else if !path.is_file() {
            let message = format!("{} is not a file", path.display());
            findings.push(finding(
                "tls_file_missing",
                Severity::Critical,
                Some(store),
                subject,
                message,
                "correct the path",
            ));
        }
    }
}

fn in_the_clear(
    store: StoreKind,
    encrypted: bool,
    connection: &Connection,
    credentials: &Credentials,
    remedy: &str,
    findings: &mut Vec<Finding>,
) {
    if !encrypted && !connection.is_loopback() && credentials.password.is_some() {
        findings.push(finding(
            "unencrypted",
            Severity::Note,
            Some(store),
            connection.hosts.clone(),
            "data travels unencrypted to another machine",
            format!("use {remedy} unless the network is private"),
        ));
    }
}

fn store_of(section: &str) -> Option<StoreKind> {
    section.parse().ok()
}
