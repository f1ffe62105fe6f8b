//! What went wrong, by layer: name, connection, TLS, authentication, server.
//!
//! The driver keeps the kind of its errors to itself but for the server's own; the fixed texts of its `Display` (version 0.7) are read where
//! there is no other way. Server errors are told apart by SQLSTATE (manual, appendix "PostgreSQL Error Codes"). Refuses to pass on a server's detail,
//! which may hold rows.

use std::io;

use mainstay_model::{Error, ErrorKind, ErrorStatus};

use crate::config::Settings;

/// The house's error for a driver's error met while talking to the server of `settings`.
pub(crate) fn failure(settings: &Settings, error: tokio_postgres::Error) -> Error {
    let address = &settings.address;
    if let Some(answer) = error.as_db_error() {
        // Nothing of the error beyond that: the server's detail tells values, a whole row where a constraint refuses one.
        return server_failure(settings, answer.code().code(), answer.message());
    }
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    let unreachable = |message: String| Error::new(ErrorKind::Unreachable, message);
    let kind = error.to_string();
    let classified = if kind.starts_with("error performing TLS handshake") {
        unreachable(format!("TLS with {address} failed: {cause}"))
            .with_status(ErrorStatus::Permanent)
            .with_hint("check sslmode and the CA file; `sslmode=disable` connects without TLS")
    } else if kind.starts_with("authentication error") {
        Error::new(ErrorKind::Auth, format!("authentication with {address} failed: {cause}"))
    } else if kind.starts_with("invalid configuration") && cause.contains("password missing") {
        Error::new(ErrorKind::Auth, format!("{address} asks for a password and none is configured"))
            .with_hint("put the password into the URL, or into PG_URL_FILE")
    } else if kind.starts_with("invalid configuration") {
        Error::new(ErrorKind::Config, format!("the PostgreSQL configuration cannot be used: {cause}"))
    } else if kind.starts_with("timeout") {
        timed_out(settings)
    } else if let Some(source) = io_error(&error) {
        connection_failure(address, source)
    } else if error.is_closed() || kind.starts_with("error communicating") {
        unreachable(format!("the connection to {address} broke: {cause}"))
    } else {
        Error::new(ErrorKind::Server, format!("{address} answered in a way that is not understood: {kind}"))
    };
    classified.with_source(error)
}

/// Connecting or asking took too long.
pub(crate) fn timed_out(settings: &Settings) -> Error {
    Error::new(ErrorKind::Unreachable, format!("{} did not answer in time", settings.address))
        .with_hint("check that the address is right and no firewall drops the packets")
}

/// The name of the server has no address.
pub(crate) fn unresolved(host: &str) -> Error {
    Error::new(ErrorKind::Unreachable, format!("the host name {host} cannot be resolved"))
        .with_hint("check the host name in the PostgreSQL URL")
}

fn io_error(error: &tokio_postgres::Error) -> Option<&io::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

pub(crate) fn connection_failure(address: &str, source: &io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::ConnectionRefused => {
            Error::new(ErrorKind::Unreachable, format!("{address} refused the connection"))
                .with_hint("check that PostgreSQL runs there and listens on this port")
        }
        io::ErrorKind::TimedOut => {
            Error::new(ErrorKind::Unreachable, format!("{address} did not answer in time"))
                .with_hint("check that the address is right and no firewall drops the packets")
        }
        _ => Error::new(ErrorKind::Unreachable, format!("the connection to {address} failed: {source}")),
    }
}

pub(crate) fn server_failure(settings: &Settings, code: &str, text: &str) -> Error {
    let (user, database, address) = (settings.user(), settings.database(), &settings.address);
    match code {
        "28P01" => Error::new(ErrorKind::Auth, format!("{address} refused the password of user {user}"))
            .with_hint("check user and password of the PostgreSQL URL"),
        "28000" => Error::new(ErrorKind::Auth, format!("{address} does not let user {user} in: {}", text))
            .with_hint(
                "check the user, pg_hba.conf on the server, and whether it asks for TLS (`sslmode=require`)",
            ),
        "42501" => Error::new(ErrorKind::Auth, format!("user {user} lacks a privilege: {}", text))
            .with_hint("grant the privilege, or use a role that has it"),
        "3D000" => {
            Error::new(ErrorKind::NotFound, format!("database {database} does not exist at {address}"))
                .with_hint("check the database in the PostgreSQL URL, or create it")
        }
        "53300" => Error::new(ErrorKind::Unreachable, format!("{address} has no connection left: {}", text))
            .with_hint("end idle connections or raise max_connections"),
        "57P03" => Error::new(ErrorKind::Unreachable, format!("{address} is not ready: {}", text))
            .with_hint("try again when it has started"),
        "57P01" | "57P02" => {
            Error::new(ErrorKind::Unreachable, format!("{address} ended the connection: {}", text))
                .with_hint("see that the server answers, then run the same command again")
        }
        "25006" => Error::new(ErrorKind::Precondition, format!("{address} is read-only: {}", text))
            .with_state("nothing was changed")
            .with_hint("connect to the primary"),
        code if code.starts_with("08") => {
            Error::new(ErrorKind::Unreachable, format!("the connection to {address} broke: {}", text))
        }
        code => Error::new(ErrorKind::Server, format!("{address} answered {code}: {}", text)),
    }
}

/// What a server's answer means on a replication connection, where it means something else than on another.
pub(crate) fn refused_replication(settings: &Settings, code: &str, text: &str) -> Option<Error> {
    let (user, address) = (settings.user(), &settings.address);
    let quoted = format!("\"{}\"", user.replace('"', "\"\""));
    Some(match code {
        "42501" => {
            Error::new(ErrorKind::Auth, format!("user {user} may not replicate from {address}: {text}"))
                .with_hint(format!("as a superuser: `ALTER ROLE {quoted} REPLICATION`"))
        }
        "28000" if text.contains("pg_hba.conf") => {
            Error::new(ErrorKind::Auth, format!("{address} lets user {user} in for no replication: {text}"))
                .with_hint(format!(
                    "add `host replication {user} <address of this machine> scram-sha-256` to pg_hba.conf, then `SELECT pg_reload_conf()`"
                ))
        }
        "53300" => Error::new(ErrorKind::Unreachable, format!("{address} has no WAL sender left: {text}"))
            .with_hint("end one (`pg_stat_replication` lists them), or raise max_wal_senders"),
        "55000" if text.contains("WAL summar") => Error::new(
            ErrorKind::Precondition,
            format!("{address} does not know any more what has changed since the earlier backup: {text}"),
        )
        .with_state("nothing was changed")
        .with_hint(
            "take a whole backup: leave `--incremental` out; wal_summary_keep_time must be longer than the time between backups",
        ),
        "55000" if text.contains("manifest") => {
            Error::new(ErrorKind::Precondition, format!("{address} cannot build on the earlier backup: {text}"))
                .with_state("nothing was changed")
                .with_hint("take a whole backup: leave `--incremental` out; on a standby, wait for activity of the primary")
        }
        "55000" => Error::new(ErrorKind::Precondition, format!("{address} cannot do that as it is set up: {text}"))
            .with_state("nothing was changed")
            .with_hint("set wal_level to replica or higher and restart the server"),
        "XX001" => Error::new(ErrorKind::Corrupt, format!("{address} found damaged pages in its own files: {text}"))
            .with_hint(
                "find out what is damaged with pg_amcheck, and restore it from an older backup; `--allow-damaged-pages` takes a backup nevertheless",
            ),
        _ => return None,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_model::Secret;

    use super::*;
    use crate::config::PostgresConfig;

    #[test]
    fn what_a_server_says_is_told_apart() {
        let config = PostgresConfig::new(Secret::new("postgres://app:hunter2@h/shop"));
        let settings = Settings::resolve(&config).unwrap();
        let cases = [
            ("28P01", ErrorKind::Auth, "refused the password of user app"),
            ("28000", ErrorKind::Auth, "does not let user app in"),
            ("42501", ErrorKind::Auth, "lacks a privilege"),
            ("3D000", ErrorKind::NotFound, "database shop does not exist"),
            ("53300", ErrorKind::Unreachable, "no connection left"),
            ("57P03", ErrorKind::Unreachable, "not ready"),
            ("57P01", ErrorKind::Unreachable, "ended the connection"),
            ("08006", ErrorKind::Unreachable, "broke"),
            ("25006", ErrorKind::Precondition, "read-only"),
            ("XX000", ErrorKind::Server, "XX000: the text"),
        ];
        for (code, kind, text) in cases {
            let error = server_failure(&settings, code, "the text");
            assert_eq!(error.kind(), kind, "{code}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
