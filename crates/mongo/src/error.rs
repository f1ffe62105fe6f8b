//! What went wrong on the way to a server or inside it, and the one table that says what a server's error code means.
//!
//! [`WireError`] is the local error of our own connections, [`driver_error`] turns the driver's; both end in the house's error through
//! the same table ([`meaning_of`]). Relies on the codes of the server's `src/mongo/base/error_codes.yml` (6.0 to 8.0), which are stable.
//! Refuses to pass on what may hold values of documents or credentials: a server's message is cut before the first document in it.

use std::io;

use bson::Document;
use mainstay_engine::ScanSetback;
use mainstay_model::{Error, ErrorKind, ErrorStatus};
use mongodb::error::{ErrorKind as DriverErrorKind, WriteConcernError, WriteFailure};

use crate::raw::{self, Malformed};
use crate::reply::number;

/// Error codes that the adapter itself acts upon.
pub(crate) mod code {
    pub(crate) const FAILED_TO_PARSE: i32 = 9;
    pub(crate) const UNAUTHORIZED: i32 = 13;
    pub(crate) const NAMESPACE_NOT_FOUND: i32 = 26;
    pub(crate) const INDEX_NOT_FOUND: i32 = 27;
    pub(crate) const CURSOR_NOT_FOUND: i32 = 43;
    pub(crate) const TIME_OVER: i32 = 50;
    pub(crate) const NAMESPACE_EXISTS: i32 = 48;
    pub(crate) const CANNOT_CREATE_INDEX: i32 = 67;
    pub(crate) const INVALID_OPTIONS: i32 = 72;
    pub(crate) const INDEX_OPTIONS_CONFLICT: i32 = 85;
    pub(crate) const INDEX_KEY_SPECS_CONFLICT: i32 = 86;
    pub(crate) const WRITE_CONFLICT: i32 = 112;
    pub(crate) const DOCUMENT_VALIDATION: i32 = 121;
    pub(crate) const COMMAND_NOT_SUPPORTED_ON_VIEW: i32 = 166;
    pub(crate) const KEY_NOT_FOUND: i32 = 211;
    pub(crate) const SNAPSHOT_TOO_OLD: i32 = 239;
    pub(crate) const SNAPSHOT_UNAVAILABLE: i32 = 246;
    pub(crate) const INDEX_BUILD_ABORTED: i32 = 276;
    pub(crate) const CANNOT_CONVERT_INDEX_TO_UNIQUE: i32 = 359;
    pub(crate) const DUPLICATE_KEY: i32 = 11000;
    pub(crate) const UNKNOWN_FIELD: i32 = 40415;
}

/// What an error code means to the house.
struct Meaning {
    kind: ErrorKind,
    status: ErrorStatus,
    hint: Option<&'static str>,
}

/// The one table of server error codes.
fn meaning_of(code: i32) -> Meaning {
    use ErrorKind::{Auth, Conflict, NotFound, Precondition, Server, Storage, Unreachable, Unsupported};
    use ErrorStatus::{Permanent, Temporary};
    let (kind, status, hint) = match code {
        // AuthenticationFailed, UserNotFound, AtlasError, MechanismUnavailable.
        18 | 11 | 8000 | 334 => (Auth, Permanent, Some(HINT_CREDENTIALS)),
        code::UNAUTHORIZED => (Auth, Permanent, Some(HINT_PRIVILEGE)),
        // HostUnreachable, HostNotFound, NetworkTimeout, SocketException: between members, or mongos and shards.
        6 | 7 | 89 | 9001 => (Unreachable, Temporary, None),
        // ShutdownInProgress, InterruptedAtShutdown.
        91 | 11600 => (Unreachable, Temporary, None),
        // PrimarySteppedDown, NotWritablePrimary, InterruptedDueToReplStateChange, NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary,
        // FailedToSatisfyReadPreference.
        189 | 10107 | 11602 | 13435 | 13436 | 133 => (Unreachable, Temporary, Some(HINT_PRIMARY)),
        // WriteConcernFailed, UnsatisfiableWriteConcern.
        64 | 100 => (Unreachable, Temporary, Some(HINT_MAJORITY)),
        // LockTimeout, CursorNotFound, MaxTimeMSExpired, WriteConflict, CappedPositionLost, QueryPlanKilled, CursorKilled,
        // ExceededTimeLimit.
        24 | code::CURSOR_NOT_FOUND | code::TIME_OVER | code::WRITE_CONFLICT | 136 | 175 | 237 | 262 => {
            (Server, Temporary, None)
        }
        code::NAMESPACE_NOT_FOUND => (NotFound, Permanent, None),
        // NamespaceExists, IndexAlreadyExists, IndexOptionsConflict, IndexKeySpecsConflict, DuplicateKey.
        code::NAMESPACE_EXISTS
        | 68
        | code::INDEX_OPTIONS_CONFLICT
        | code::INDEX_KEY_SPECS_CONFLICT
        | code::DUPLICATE_KEY => (Conflict, Permanent, None),
        code::SNAPSHOT_TOO_OLD => (Precondition, Permanent, Some(HINT_HISTORY)),
        code::SNAPSHOT_UNAVAILABLE => (Precondition, Permanent, Some(HINT_DURING_SCAN)),
        // CommandNotFound, CommandNotSupported, CommandNotSupportedOnView, unknown field.
        59 | 115 | code::COMMAND_NOT_SUPPORTED_ON_VIEW | code::UNKNOWN_FIELD => {
            (Unsupported, Permanent, None)
        }
        // OutOfDiskSpace.
        14031 => (Storage, Permanent, Some(HINT_DISK)),
        _ => (Server, Permanent, None),
    };
    Meaning { kind, status, hint }
}

const HINT_CREDENTIALS: &str = "check user, password and authSource (the database the user was created in), then run `mainstay config check`";
const HINT_LOGIN: &str = "set `username` in [mongo] of mainstay.toml and MAINSTAY_MONGO_PASSWORD";
const HINT_PRIVILEGE: &str = "grant the user `backup` to read, `restore` and `readWriteAnyDatabase` to write: db.getSiblingDB(\"admin\").grantRolesToUser(USER, [{role: \"backup\", db: \"admin\"}])";
const HINT_PRIMARY: &str =
    "wait until the replica set has a primary (rs.status() shows it), then run the same command again";
const HINT_MAJORITY: &str =
    "a majority of the replica set does not follow; look at rs.status(), then run the same command again";
const HINT_HISTORY: &str = "raise the history the server keeps with db.adminCommand({setParameter: 1, minSnapshotHistoryWindowInSeconds: 3600}), or read without one moment with `--consistency scan`";
const HINT_DURING_SCAN: &str = "run the command again, or read without one moment with `--consistency scan`";
const HINT_DISK: &str = "free space on the server's data volume, then run the same command again";

/// An error that the server answered with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", describe_server(*.code, .name, .message))]
pub(crate) struct ServerError {
    /// Its number.
    pub(crate) code: i32,
    /// Its name, such as `NamespaceNotFound`; may be empty.
    pub(crate) name: String,
    /// The server's text; may hold values.
    pub(crate) message: String,
}

impl ServerError {
    /// The first refusal in the reply to a write, with the number of the one write that it is of, from 0.
    pub(crate) fn in_write(reply: &Document) -> Option<(u64, Self)> {
        let first = reply.get_array("writeErrors").ok()?.first()?.as_document()?;
        let code = first.get_i32("code").unwrap_or(0);
        let message = first.get_str("errmsg").unwrap_or_default().to_owned();
        Some((number(first, "index").unwrap_or(0), Self { code, name: String::new(), message }))
    }

    /// The error inside a reply, if its `ok` is not 1.
    pub(crate) fn in_reply(reply: &[u8]) -> Result<Option<Self>, Malformed> {
        if raw::find(reply, "ok")?.and_then(|ok| ok.number()) == Some(1) {
            return Ok(None);
        }
        let text = |key| -> Result<String, Malformed> {
            Ok(raw::find(reply, key)?
                .and_then(|element| element.text().map(str::to_owned))
                .unwrap_or_default())
        };
        let code = raw::find(reply, "code")?
            .and_then(|code| code.number())
            .and_then(|code| i32::try_from(code).ok());
        Ok(Some(Self { code: code.unwrap_or(0), name: text("codeName")?, message: text("errmsg")? }))
    }
}

/// Whether nobody logged in where somebody must, which the server says with the code of every privilege that lacks.
fn lacks_login(code: i32, message: &str) -> bool {
    code == code::UNAUTHORIZED && message.ends_with("requires authentication")
}

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Self {
        let meaning = meaning_of(error.code);
        let mut built = Self::new(meaning.kind, error.to_string()).with_status(meaning.status);
        if matches!(error.code, code::SNAPSHOT_TOO_OLD | code::SNAPSHOT_UNAVAILABLE) {
            built = built.with_source(ScanSetback::HistoryPassed);
        }
        match meaning.hint {
            _ if lacks_login(error.code, &error.message) => built.with_hint(HINT_LOGIN),
            Some(hint) => built.with_hint(hint),
            None => built,
        }
    }
}

fn describe_server(code: i32, name: &str, message: &str) -> String {
    let name = if name.is_empty() { format!("code {code}") } else { format!("{name}, code {code}") };
    match code {
        18 => "the server refused user name or password".to_owned(),
        code if lacks_login(code, message) => {
            "the server asks for a user and password, and none is configured".to_owned()
        }
        code::UNAUTHORIZED => format!("the user lacks a privilege: {}", missing_privilege(message)),
        _ => format!("the server answered: {} ({name})", without_values(message)),
    }
}

/// `not authorized on shop to execute command { find: "users", … }` as `not authorized on shop to execute command find`.
fn missing_privilege(message: &str) -> String {
    match message.split_once('{') {
        Some((before, command)) => {
            let name: String =
                command.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            format!("{}{name}", before)
        }
        None => message.to_owned(),
    }
}

/// A server's message up to the first document or array in it, at most 300 characters.
pub(crate) fn without_values(message: &str) -> String {
    let end = message.find(['{', '[']).unwrap_or(message.len());
    message[..end].trim_end_matches([' ', ':']).chars().take(300).collect()
}

/// What can go wrong on one of our own connections.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("host {host} has no address")]
    Resolve { host: String, source: io::Error },
    #[error("{address} does not accept connections")]
    Connect { address: String, source: io::Error },
    #[error("{address} did not answer within {seconds} s while {action}")]
    Timeout { address: String, seconds: u64, action: &'static str },
    #[error("TLS with {address} failed")]
    Tls { address: String, source: io::Error },
    #[error("{0}")]
    TlsSetup(String),
    #[error("the connection to {address} broke")]
    Broken { address: String, source: io::Error },
    #[error("the server sent what is no reply: {0}")]
    Protocol(String),
    #[error("the server cannot be authenticated with: {0}")]
    Login(String),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("{0}")]
    Unsupported(String),
}

impl From<Malformed> for WireError {
    fn from(error: Malformed) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl WireError {
    /// The server's error code, if the server answered with one.
    pub(crate) fn server_code(&self) -> Option<i32> {
        match self {
            Self::Server(error) => Some(error.code),
            _ => None,
        }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        let message = error.to_string();
        let built = |kind| Self::new(kind, message);
        match error {
            WireError::Server(error) => error.into(),
            WireError::Resolve { source, .. } => built(ErrorKind::Unreachable)
                .with_status(ErrorStatus::Permanent)
                .with_source(source)
                .with_hint("correct the host name in the connection string, then run `mainstay config check`"),
            WireError::Connect { source, .. } => built(ErrorKind::Unreachable).with_source(source).with_hint(
                "start the server or correct host and port in the connection string, then run `mainstay status`",
            ),
            WireError::Timeout { .. } => built(ErrorKind::Unreachable)
                .with_hint("check firewall and load of the server, then run `mainstay status`"),
            WireError::Tls { source, .. } => built(ErrorKind::Unreachable)
                .with_status(ErrorStatus::Permanent)
                .with_source(source)
                .with_hint("name the authority's certificate with `ca_file`, or turn TLS off with `tls = false` if the server has none"),
            WireError::TlsSetup(_) => {
                built(ErrorKind::Config).with_hint("correct the TLS files in the configuration, then run `mainstay config check`")
            }
            WireError::Broken { source, .. } => built(ErrorKind::Unreachable)
                .with_source(source)
                .with_hint("check that the server still runs with `mainstay status`, then run the same command again"),
            WireError::Protocol(_) => built(ErrorKind::Corrupt)
                .with_hint("check that the address is a MongoDB server and that nothing in between changes its answers"),
            WireError::Login(_) => built(ErrorKind::Auth).with_hint(HINT_CREDENTIALS),
            WireError::Unsupported(_) => built(ErrorKind::Unsupported),
        }
    }
}

/// The driver's error as the house's. What cannot be reached is told more exactly by opening one of our own connections; see
/// `MongoServer`.
pub(crate) fn driver_error(error: mongodb::error::Error) -> Error {
    let server = |code: i32, name: &str, message: &str| {
        Error::from(ServerError { code, name: name.to_owned(), message: message.to_owned() })
    };
    match error.kind.as_ref() {
        DriverErrorKind::Command(command) => server(command.code, &command.code_name, &command.message),
        DriverErrorKind::Write(WriteFailure::WriteError(write)) => server(write.code, "", &write.message),
        DriverErrorKind::Write(WriteFailure::WriteConcernError(concern)) => {
            server(concern.code, &concern.code_name, &concern.message)
                .with_state("the change was made; whether it is durable is not known")
        }
        DriverErrorKind::Authentication { .. } => server(18, "", ""),
        DriverErrorKind::ServerSelection { .. } => {
            Error::new(ErrorKind::Unreachable, "no server of the deployment can be used")
                .with_hint(HINT_PRIMARY)
        }
        DriverErrorKind::Io(source) => Error::new(ErrorKind::Unreachable, "the connection broke")
            .with_source(io::Error::new(source.kind(), source.to_string())),
        DriverErrorKind::ConnectionPoolCleared { .. } => {
            Error::new(ErrorKind::Unreachable, "the connection broke")
        }
        DriverErrorKind::DnsResolve { .. } => {
            Error::new(ErrorKind::Unreachable, "the host name has no address")
                .with_status(ErrorStatus::Permanent)
                .with_hint("correct the host name in the connection string, then run `mainstay config check`")
        }
        DriverErrorKind::InvalidTlsConfig { message, .. } => Error::new(ErrorKind::Config, message.clone()),
        DriverErrorKind::IncompatibleServer { message, .. } => {
            Error::new(ErrorKind::Unsupported, message.clone())
        }
        // Other texts of the driver may repeat what it was given.
        _ => Error::new(ErrorKind::Server, "the driver refused the command or its answer"),
    }
}

/// The failed write concern inside a reply, as the driver's error: the write was done and may be undone by a failover.
pub(crate) fn concern_failure(reply: &Document) -> Option<mongodb::error::Error> {
    let concern = reply.get_document("writeConcernError").ok()?;
    // Only the form that is described for `WriteConcernError` is understood; what cannot be read must not pass for success.
    let failure = match bson::deserialize_from_document::<WriteConcernError>(concern.clone()) {
        Ok(failure) => DriverErrorKind::Write(WriteFailure::WriteConcernError(failure)),
        Err(error) => return Some(mongodb::error::Error::custom(error)),
    };
    Some(failure.into())
}

/// True when the driver found no server within the time it has for that.
pub(crate) fn is_unselected(error: &mongodb::error::Error) -> bool {
    matches!(error.kind.as_ref(), DriverErrorKind::ServerSelection { .. })
}

/// True when the driver could not reach any server, so that a connection of our own may tell why.
pub(crate) fn is_unreached(error: &mongodb::error::Error) -> bool {
    matches!(
        error.kind.as_ref(),
        DriverErrorKind::ServerSelection { .. }
            | DriverErrorKind::Io(_)
            | DriverErrorKind::ConnectionPoolCleared { .. }
            | DriverErrorKind::DnsResolve { .. }
    )
}

/// The server's error code inside a driver's error.
pub(crate) fn driver_code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        DriverErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_kinds() {
        let error = |code| Error::from(ServerError { code, name: String::new(), message: "m".to_owned() });
        for (code, kind, temporary) in [
            (18, ErrorKind::Auth, false),
            (13, ErrorKind::Auth, false),
            (10107, ErrorKind::Unreachable, true),
            (11600, ErrorKind::Unreachable, true),
            (189, ErrorKind::Unreachable, true),
            (43, ErrorKind::Server, true),
            (26, ErrorKind::NotFound, false),
            (48, ErrorKind::Conflict, false),
            (239, ErrorKind::Precondition, false),
            (1, ErrorKind::Server, false),
        ] {
            assert_eq!((error(code).kind(), error(code).is_temporary()), (kind, temporary), "{code}");
        }
    }

    #[test]
    fn nobody_is_told_to_log_in_and_not_to_be_given_rights() {
        let message = "command listCollections requires authentication".to_owned();
        let error = Error::from(ServerError { code: 13, name: "Unauthorized".to_owned(), message });
        assert_eq!((error.kind(), error.hint()), (ErrorKind::Auth, Some(HINT_LOGIN)));
        assert!(error.message().contains("none is configured"), "{error}");
    }

    #[test]
    fn values_stay_out_of_messages() {
        let refused = ServerError {
            code: 13,
            name: "Unauthorized".to_owned(),
            message:
                r#"not authorized on shop to execute command { find: "users", filter: { email: "x@y" } }"#
                    .to_owned(),
        };
        assert_eq!(
            Error::from(refused).message(),
            "the user lacks a privilege: not authorized on shop to execute command find"
        );
        let odd = ServerError {
            code: 16755,
            name: "Location16755".to_owned(),
            message: "Can't extract geo keys: {a: 1}".to_owned(),
        };
        assert_eq!(
            odd.to_string(),
            "the server answered: Can't extract geo keys (Location16755, code 16755)"
        );
    }
}
