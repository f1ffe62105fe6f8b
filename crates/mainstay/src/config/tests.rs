//! Tables: which source wins, what is refused and how it is said, what is found.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use mainstay_model::{ErrorKind, Severity};

use super::check::check;
use super::{Configuration, Outside};

/// Names and values.
type Pairs<'a> = &'a [(&'a str, &'a str)];

/// Variables, flags, file; then the host that wins and the place that named it.
type SourceCase<'a> = (Pairs<'a>, &'a [(&'static str, &'a str)], &'a str, &'a str, &'a str);

/// Variables, the url in the file; then user, password and authentication source in effect.
type CredentialCase<'a> = (Pairs<'a>, &'a str, Option<&'a str>, Option<&'a str>, &'a str);

/// An outside made of variables, flags and the text of a project file in `folder`.
fn outside(folder: &Path, variables: &[(&str, &str)], flags: &[(&'static str, &str)], file: &str) -> Outside {
    if !file.is_empty() {
        std::fs::write(folder.join("mainstay.toml"), file).unwrap();
    }
    Outside {
        working_dir: folder.to_owned(),
        variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        flags: flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<BTreeMap<_, _>>(),
        config_flag: None,
    }
}

fn resolve(variables: &[(&str, &str)], file: &str) -> mainstay_model::Result<Configuration> {
    let folder = tempfile::tempdir().unwrap();
    Configuration::resolve(&outside(folder.path(), variables, &[], file))
}

#[test]
fn the_strongest_source_wins_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let xdg = folder.path().join("xdg/mainstay");
    std::fs::create_dir_all(&xdg).unwrap();
    std::fs::write(xdg.join("config.toml"), "[postgres]\nurl = \"postgres://user-file/x\"\n").unwrap();
    std::fs::write(folder.path().join("url"), "postgres://variable-file/x\n").unwrap();
    std::fs::write(folder.path().join("url2"), "postgres://runbook-file/x\n").unwrap();
    let xdg_home = folder.path().join("xdg");
    let xdg_home = ("XDG_CONFIG_HOME", xdg_home.to_str().unwrap());
    let file = "[postgres]\nurl = \"postgres://project-file/x\"\n";
    let runbook = ("PG_URL", "postgres://runbook/x");
    let second = ("MIGRATION_PG_URL", "postgres://second/x");
    let own = ("MAINSTAY_POSTGRES_URL", "postgres://variable/x");
    let flag = [("postgres-url", "postgres://flag/x")];
    #[rustfmt::skip]
    let cases: &[SourceCase<'_>] = &[
        (&[xdg_home, runbook, second, own], &flag, file, "flag", "--postgres-url"),
        (&[xdg_home, runbook, second, own], &[], file, "variable", "MAINSTAY_POSTGRES_URL"),
        (&[xdg_home, runbook, ("MAINSTAY_POSTGRES_URL_FILE", "url")], &[], file, "variable-file", "MAINSTAY_POSTGRES_URL_FILE"),
        (&[xdg_home, runbook, second], &[], file, "runbook", "PG_URL"),
        (&[xdg_home, ("PG_URL_FILE", "url2"), second], &[], file, "runbook-file", "PG_URL_FILE"),
        (&[xdg_home, ("PG_URL", ""), second], &[], file, "second", "MIGRATION_PG_URL"),
        (&[xdg_home], &[], file, "project-file", "mainstay.toml:2"),
        (&[xdg_home], &[], "[mongo]\n", "user-file", "config.toml:2"),
    ];
    for (variables, flags, file, host, place) in cases {
        let configuration = Configuration::resolve(&outside(folder.path(), variables, flags, file)).unwrap();
        assert_eq!(configuration.postgres.as_ref().unwrap().connection.hosts, *host);
        let setting = configuration.setting("postgres.url").unwrap();
        assert!(setting.origin.to_string().contains(place), "{} should name {place}", setting.origin);
    }
}

#[test]
fn a_file_is_found_upwards_and_its_paths_are_relative_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a/b");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(folder.path().join("secret"), "from-file").unwrap();
    let text = "[redis]\nurl = \"redis://h\"\npassword_file = \"secret\"\nca_file = \"ca.pem\"\n[repository]\nurl = \"file:./b\"\n";
    let mut outside = outside(folder.path(), &[], &[], text);
    outside.working_dir = deep.clone();
    let configuration = Configuration::resolve(&outside).unwrap();
    let redis = configuration.redis.unwrap();
    assert_eq!(redis.credentials.password.unwrap().0.expose(), "from-file");
    assert_eq!(redis.ca_file.unwrap(), folder.path().join("ca.pem"));
    assert_eq!(configuration.repository.unwrap().folder, folder.path());
    outside.variables.insert("MAINSTAY_REPOSITORY_URL".to_owned(), "file:./c".to_owned());
    assert_eq!(Configuration::resolve(&outside).unwrap().repository.unwrap().folder, deep);
}

#[test]
fn credentials_are_never_mixed_from_two_pairs() {
    let root = [("MONGO_INITDB_ROOT_USERNAME", "root"), ("MONGO_INITDB_ROOT_PASSWORD", "rootpw")];
    #[rustfmt::skip]
    let cases: &[CredentialCase<'_>] = &[
        (&[root[0], root[1]], "mongodb://h/shop", Some("root"), Some("rootpw"), "admin"),
        (&[root[0], root[1]], "mongodb://app:apppw@h/shop", Some("root"), Some("rootpw"), "admin"),
        (&[root[0], root[1], ("MAINSTAY_MONGO_URL", "mongodb://app:apppw@h/shop")], "", Some("app"), Some("apppw"), "shop"),
        (&[root[0], root[1], ("MAINSTAY_MONGO_URL", "mongodb://app@h")], "", Some("app"), None, "admin"),
        (&[("MAINSTAY_MONGO_USERNAME", "ops")], "mongodb://app:apppw@h", Some("ops"), None, "admin"),
        (&[("MAINSTAY_MONGO_PASSWORD", "new")], "mongodb://app:old@h/x?authSource=y", Some("app"), Some("new"), "y"),
        (&[("MAINSTAY_MONGO_AUTH_SOURCE", "z")], "mongodb://app:old@h/x?authSource=y", Some("app"), Some("old"), "z"),
        (&[root[1]], "mongodb://h", None, None, "none"),
    ];
    for (variables, url, username, password, auth_source) in cases {
        let file = if url.is_empty() { String::new() } else { format!("[mongo]\nurl = \"{url}\"\n") };
        let mongo = resolve(variables, &file).unwrap().mongo.unwrap();
        assert_eq!(
            mongo.credentials.username.as_ref().map(|(name, _)| name.as_str()),
            *username,
            "{variables:?} {url}"
        );
        assert_eq!(
            mongo.credentials.password.as_ref().map(|(secret, _)| secret.expose()),
            *password,
            "{variables:?} {url}"
        );
        assert_eq!(mongo.auth_source.as_deref().unwrap_or("none"), *auth_source, "{variables:?} {url}");
    }
}

#[test]
fn the_database_comes_from_the_stronger_source() {
    let database =
        |variables: &[(&str, &str)], file: &str| resolve(variables, file).unwrap().mongo.unwrap().database;
    let file = "[mongo]\nurl = \"mongodb://h/from_url\"\n";
    assert_eq!(database(&[], file).unwrap(), "from_url");
    assert_eq!(database(&[("DB_NAME", "from_runbook")], file).unwrap(), "from_runbook");
    let strong = ("MAINSTAY_MONGO_URL", "mongodb://h/strong");
    assert_eq!(database(&[("DB_NAME", "weak"), strong], "").unwrap(), "strong");
    assert_eq!(database(&[("MAINSTAY_MONGO_URL", "mongodb://h")], ""), None);
}

#[test]
fn faults_name_their_source_and_no_value() {
    #[rustfmt::skip]
    let cases: &[(Pairs<'_>, &str, &str)] = &[
        (&[("MAINSTAY_MONGO_URL", "canary:27017")], "", "MAINSTAY_MONGO_URL: mongo.url has no scheme"),
        (&[("PG_URL", "mysql://canary@h")], "", "PG_URL: postgres.url has the scheme `mysql`"),
        (&[("MAINSTAY_REDIS_URL", "redis://:can%zzary@h")], "", "MAINSTAY_REDIS_URL: redis.url has bad percent-encoding in the password"),
        (&[("MAINSTAY_MONGO_TLS", "canary")], "", "MAINSTAY_MONGO_TLS: mongo.tls must be a true or false"),
        (&[("MAINSTAY_ENVIRONMENT_CLASS", "prodution")], "", "must be one of development, staging, production"),
        (&[("MAINSTAY_REPOSITORY_COMPRESSION_LEVEL", "40")], "", "must be a whole number from 1 to 19"),
        (&[("MAINSTAY_REPOSITORY_WRITE_LIMIT", "fast")], "", "must be a size such as 64MiB"),
        (&[("MAINSTAY_REPOSITORY_URL", "ftp://canary")], "", "must be a place: file:./folder"),
        (&[("MAINSTAY_POLICY_BACKUP_AGE_MAX", "-3h")], "", "must be a duration such as 24h"),
        (&[("REDIS_PASSWORD", "canary"), ("REDIS_PASSWORD_FILE", "x")], "", "REDIS_PASSWORD and REDIS_PASSWORD_FILE are both set"),
        (&[("REDIS_PASSWORD_FILE", "/nowhere/x")], "", "cannot read /nowhere/x, which REDIS_PASSWORD_FILE names"),
        (&[], "[redis]\npassword_file = \"/nowhere/y\"\n", "cannot read /nowhere/y, which"),
        (&[("MAINSTAY_CONFIG", "absent.toml")], "", "cannot read the configuration file"),
        // A weaker answer is checked, too.
        (&[("MAINSTAY_MONGO_URL", "mongodb://h")], "[mongo]\nurl = \"canary\"\n", "mainstay.toml:2: mongo.url has no scheme"),
    ];
    for (variables, file, expected) in cases {
        let error = resolve(variables, file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = format!("{error:?}");
        assert!(text.contains(expected), "{text}\nshould contain\n{expected}");
        assert!(!text.contains("canary"), "{text}");
    }
    let error = resolve(&[("MAINSTAY_ENVIRONMENT_CLASS", "prodution")], "").unwrap_err();
    assert_eq!(error.hint(), Some("did you mean `production`?"));
}

#[test]
fn durations_know_days() {
    let age = |text: &str| {
        resolve(&[("MAINSTAY_POLICY_BACKUP_AGE_MAX", text)], "").unwrap().backup_age_max.as_hours()
    };
    assert_eq!((age("24h"), age("7d"), age("90h")), (24, 168, 90));
}

#[test]
fn findings_tell_what_contradicts() {
    #[rustfmt::skip]
    let cases: &[(Pairs<'_>, &str, &str, Severity)] = &[
        (&[("MAINSTAY_MONGO_PASWORD", "x")], "", "config.unknown_variable", Severity::Warning),
        (&[], "", "config.no_store", Severity::Warning),
        (&[], "", "config.no_repository", Severity::Warning),
        (&[], "", "config.environment_unknown", Severity::Note),
        (&[], "[mongo]\nurl = \"mongodb://u:canary@h\"\n", "config.password_in_file", Severity::Warning),
        (&[], "[postgres]\nurl = \"postgres://u@h/d?password=canary\"\n", "config.password_in_file", Severity::Warning),
        (&[("PG_URL", "postgres://a/x"), ("MIGRATION_PG_URL", "postgres://b/x")], "", "config.competing_variables", Severity::Warning),
        (&[("MONGO_INITDB_ROOT_PASSWORD", "canary")], "[mongo]\nurl = \"mongodb://h\"\n", "config.password_unused", Severity::Warning),
        (&[], "[mongo]\nurl = \"mongodb://u@h\"\n", "config.no_password", Severity::Note),
        (&[], "[mongo]\nurl = \"mongodb://h?tls=true\"\ntls = false\n", "config.tls_contradiction", Severity::Critical),
        (&[], "[redis]\nurl = \"rediss://h\"\ntls = false\n", "config.tls_contradiction", Severity::Critical),
        (&[], "[redis]\nurl = \"redis://h\"\nca_file = \"x\"\n", "config.tls_file_unused", Severity::Warning),
        (&[], "[mongo]\nurl = \"mongodb://h\"\ntls = true\ntls_ca_file = \"absent\"\n", "config.tls_file_missing", Severity::Critical),
        (&[("DB_NAME", "b")], "[mongo]\nurl = \"mongodb://h/a\"\n", "config.database_twice", Severity::Warning),
        (&[("REDIS_PASSWORD", "canary")], "[redis]\nurl = \"redis://far\"\n", "config.unencrypted", Severity::Note),
        (&[], "[redis]\nusername = \"x\"\n", "config.no_url", Severity::Warning),
        (&[], "[repository]\nurl = \"file:./b\"\n[repository.s3]\nregion = \"x\"\n", "config.s3_without_effect", Severity::Note),
        (&[("AWS_ACCESS_KEY_ID", "x")], "[repository]\nurl = \"s3://bucket\"\n", "config.s3_half_credentials", Severity::Warning),
        (&[], "[repository]\nurl = \"s3://bucket\"\n[repository.s3]\nendpoint = \"http://h\"\n", "config.s3_endpoint_http", Severity::Warning),
        (&[], "[repository]\nurl = \"file:./b\"\nrecipients = [\"age1\"]\n", "config.no_identity", Severity::Note),
    ];
    for (variables, file, id, severity) in cases {
        let findings = check(&resolve(variables, file).unwrap());
        let found = findings.iter().find(|finding| finding.id == *id);
        assert!(found.is_some_and(|finding| finding.severity == *severity), "{id} is not in {findings:?}");
        assert!(!format!("{findings:?}").contains("canary"), "{findings:?}");
    }
    let good = "[environment]\nname = \"dev\"\nclass = \"development\"\n[mongo]\nurl = \"mongodb://127.0.0.1/a\"\n[repository]\nurl = \"file:./b\"\n";
    assert_eq!(check(&resolve(&[], good).unwrap()), []);
}

#[cfg(unix)]
#[test]
fn a_secret_that_others_may_read_is_found() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "canary").unwrap();
    let variables =
        [("REDIS_PASSWORD_FILE", secret.to_str().unwrap()), ("MAINSTAY_REDIS_URL", "redis://127.0.0.1")];
    let found = |mode: u32| {
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
        let configuration = Configuration::resolve(&outside(folder.path(), &variables, &[], "")).unwrap();
        check(&configuration).iter().any(|finding| finding.id == "config.secret_file_readable")
    };
    assert!(found(0o644));
    assert!(!found(0o600));
}

#[test]
fn nothing_shown_holds_a_secret() {
    let file = "[mongo]\nurl = \"mongodb://user:canary1@h/db?tlsCertificateKeyFilePassword=canary2\"\n";
    let configuration = resolve(&[("REDIS_PASSWORD", "canary3")], file).unwrap();
    for setting in configuration.settings.values() {
        assert!(!setting.shown().contains("canary"), "{}", setting.shown());
    }
    assert_eq!(
        configuration.setting("mongo.url").unwrap().shown(),
        "mongodb://***@h/db?tlsCertificateKeyFilePassword=***"
    );
    assert_eq!(configuration.setting("redis.password").unwrap().shown(), "[secret]");
    assert!(!format!("{configuration:?}").contains("canary"));
    let secrets: Vec<_> = configuration.secrets().iter().map(|secret| secret.expose().to_owned()).collect();
    assert!(
        ["canary1", "canary2", "canary3"].iter().all(|canary| secrets.iter().any(|secret| secret == canary))
    );
}
