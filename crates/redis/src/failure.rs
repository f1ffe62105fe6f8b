//! What went wrong, by layer: name, connection, TLS, authentication, server.
//!
//! Server errors are told apart by their first word (`WRONGPASS`, `LOADING`, …; Redis source, `server.c` and `networking.c`), and where the word is the
//! general `ERR` by their text.

use std::fmt;
use std::io;
use std::sync::Arc;

use mainstay_model::{Error, ErrorKind, ErrorStatus};
use redis::RedisError;

use crate::config::Settings;

/// The house's error for a driver's error met while talking to the server of `settings`. Of several commands the first that was refused tells
/// why. What a server says is told here and nowhere else: it may repeat what it was sent, so that it is no source to go on from.
pub(crate) fn failure(settings: &Settings, error: RedisError) -> Error {
    match error.clone().into_server_errors().as_deref() {
        Some([(_, first), ..]) => server_failure(settings, first.code(), first.details().unwrap_or_default()),
        _ => unanswered(settings, error),
    }
}

/// The error for a server that gave no answer, or none that the driver understood.
fn unanswered(settings: &Settings, error: RedisError) -> Error {
    let address = settings.address();
    let classified = match error.code() {
        Some(code) => server_failure(settings, code, error.detail().unwrap_or_default()),
        None if error.is_timeout() && settings.tls => silent(&address).with_hint(
            "check the address, and that the port speaks TLS: one that does not waits for more; redis:// connects without TLS",
        ),
        None if error.is_timeout() => silent(&address),
        None if error.is_connection_refusal() => refused(&address),
        None if settings.tls && is_tls_error(&error) => untrusted(&address, &error),
        None if error.is_io_error() => broken(&address, &error),
        None => not_understood(&address, &error),
    };
    classified.with_source(error)
}

/// The server does not answer.
pub(crate) fn silent(address: &str) -> Error {
    Error::new(ErrorKind::Unreachable, format!("{address} did not answer in time"))
        .with_hint("check that the address is right and no firewall drops the packets")
}

/// Nobody listens there.
pub(crate) fn refused(address: &str) -> Error {
    Error::new(ErrorKind::Unreachable, format!("{address} refused the connection"))
        .with_hint("check that Redis runs there and listens on this port")
}

/// TLS does not come about, for the reason `why`.
pub(crate) fn untrusted(address: &str, why: &dyn fmt::Display) -> Error {
    Error::new(ErrorKind::Unreachable, format!("TLS with {address} failed: {why}"))
        .with_status(ErrorStatus::Permanent)
        .with_hint("check the CA file and that the port speaks TLS; redis:// connects without TLS")
}

/// The connection broke, for the reason `why`.
pub(crate) fn broken(address: &str, why: &dyn fmt::Display) -> Error {
    Error::new(ErrorKind::Unreachable, format!("the connection to {address} broke: {why}"))
        .with_hint("check that it is a Redis that listens there, and try again; where it breaks again, the server's log tells why")
}

/// What answers is no Redis, or says `what` where it should not.
pub(crate) fn not_understood(address: &str, what: &dyn fmt::Display) -> Error {
    // A parser tells of bytes that are not the protocol's in several lines.
    let what = what.to_string();
    let what = what.lines().next().unwrap_or_default();
    Error::new(ErrorKind::Server, format!("{address} answered in a way that is not understood: {what}"))
        .with_hint("check host and port of the Redis URL: a Redis must listen there itself, and nothing stand between that answers for it")
}

/// The error for what a server says before it hangs up on a new connection.
pub(crate) fn turned_away(settings: &Settings, line: &str) -> Option<Error> {
    let (code, detail) = line.strip_prefix('-')?.trim_end().split_once(' ')?;
    Some(server_failure(settings, code, detail))
}

/// The name of the server has no address.
pub(crate) fn unresolved(host: &str) -> Error {
    Error::new(ErrorKind::Unreachable, format!("the host name {host} cannot be resolved"))
        .with_hint("check the host name in the Redis URL")
}

/// The TLS library's errors come as I/O errors of kind `InvalidData` that wrap its own.
fn is_tls_error(error: &RedisError) -> bool {
    let source = std::error::Error::source(error);
    let inner = source.and_then(|source| source.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>());
    let io_error = inner.and_then(|inner| inner.downcast_ref::<io::Error>());
    io_error.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

/// The house's error for a refusal: its first word, and the rest of it.
pub(crate) fn server_failure(settings: &Settings, code: &str, detail: &str) -> Error {
    let address = settings.address();
    let user = settings.user.as_deref().unwrap_or("default");
    let auth = |message: String| Error::new(ErrorKind::Auth, message);
    let unreachable = |message: String| Error::new(ErrorKind::Unreachable, message);
    let precondition =
        |message: String| Error::new(ErrorKind::Precondition, message).with_state("nothing was changed");
    match (code, detail) {
        ("WRONGPASS", _) | ("ERR", "invalid password") => {
            auth(format!("{address} refused the password of user {user}"))
                .with_hint("check user and password of the Redis URL")
        }
        ("NOAUTH", _) => auth(format!("{address} asks for a password and none is configured"))
            .with_hint("put the password into the Redis URL, or into REDIS_PASSWORD_FILE"),
        ("ERR", text) if text.contains("without any password configured") => {
            auth(format!("{address} asks for no password, but one is configured"))
                .with_hint("remove the password from the configuration, or set requirepass on the server")
        }
        ("NOPERM", text) => auth(format!("user {user} lacks a permission: {text}"))
            .with_hint("allow it with ACL SETUSER, or use another user"),
        ("DENIED", _) => {
            auth(format!("{address} is in protected mode and takes connections from its own machine alone"))
                .with_hint("set a password on the server, or connect from that machine")
        }
        ("LOADING", _) => {
            unreachable(format!("{address} is loading its data")).with_hint("try again when it has loaded")
        }
        ("MASTERDOWN" | "NOMASTERLINK", _) => {
            unreachable(format!("{address} is a replica that has lost its master"))
                .with_hint(
                    "check that the master runs, and `masterauth` on the replica; where a restore was killed, type \
                     `CONFIG SET replica-serve-stale-data yes` on it and apply the plan of that again, which takes it back",
                )
        }
        ("ERR", text) if text.starts_with("max number of clients") => {
            unreachable(format!("{address} has no connection left"))
                .with_hint("end idle clients or raise maxclients")
        }
        ("ERR", text) if text.contains("DB index") => Error::new(
            ErrorKind::NotFound,
            format!("database {} does not exist at {address}", settings.database),
        )
        .with_hint("check the number at the end of the Redis URL, or raise `databases` on the server"),
        ("MISCONF", _) => {
            precondition(format!("{address} refuses writes because it cannot save its data to disk"))
                .with_hint("look into the server's log, and mend the disk or the folder's rights")
        }
        ("READONLY", _) => {
            precondition(format!("{address} is a read-only replica")).with_hint("connect to the master")
        }
        ("OOM", _) => precondition(format!("{address} is at its memory limit and evicts nothing"))
            .with_hint("raise maxmemory or remove keys"),
        ("MOVED" | "ASK", text) => {
            let node = text.rsplit(' ').next().unwrap_or_default();
            Error::new(
                ErrorKind::Unsupported,
                format!("{address} is a node of a cluster, and the key is with the node at {node}"),
            )
            .with_hint(format!("name that node: `--redis-url redis://{node}`"))
        }
        ("ERR", text) if text.contains("unknown command 'SELECT'") => {
            Error::new(ErrorKind::Unsupported, format!("{address} is a Sentinel, which holds no keys"))
                .with_hint("name the server itself, which it tells: `SENTINEL MASTERS`")
        }
        ("CLUSTERDOWN", text) => unreachable(format!("the cluster of {address} is down: {text}"))
            .with_hint("`CLUSTER INFO` tells what is missing"),
        ("ERR", text) if text.contains("without a config file") => precondition(format!(
            "{address} was started without a configuration file, so it cannot keep settings"
        ))
        .with_hint("start it with a configuration file, or put the settings into the command that starts it"),
        ("ERR", text) if text.starts_with("Rewriting config file") => {
            let why = text.split_once(": ").map_or(text, |(_, why)| why);
            precondition(format!("{address} cannot replace its configuration file: {why}")).with_hint(
                "the server writes a new file beside the old one and renames it: the folder must be writable for it, and a file that \
                 is mounted by itself cannot be replaced; mount the folder",
            )
        }
        ("ERR", text) if text.contains("Unable to turn on AOF") => {
            precondition(format!("{address} cannot write its append-only file"))
                .with_hint("look into the server's log, and mend the disk or the folder's rights")
        }
        ("ERR", text)
            if text.contains("save already in progress") || text.contains("child process is active") =>
        {
            Error::new(
                ErrorKind::Conflict,
                format!("{address} has a snapshot or a rewrite under way already"),
            )
            .with_hint("try again when it has ended; `mainstay redis info` tells")
        }
        ("ERR", text) if text.starts_with("unknown command") => {
            Error::new(ErrorKind::Server, format!("{address} answered ERR: {}", without_arguments(text)))
                .with_hint("the server is too old for it, or the command was renamed: look for `rename-command` in its configuration")
        }
        (code, text) => {
            Error::new(ErrorKind::Server, format!("{address} answered {code}: {}", without_arguments(text)))
                .with_hint("look into the server's log, and try again")
        }
    }
}

/// What a server says, without what it was sent: of a command that it does not know it repeats the arguments, a password among them.
fn without_arguments(text: &str) -> &str {
    text.split_once(", with args").map_or(text, |(said, _)| said)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_model::Secret;
    use mainstay_testkit::Redis;

    use super::*;
    use crate::config::RedisConfig;

    #[test]
    fn what_a_server_says_is_told_apart() {
        let settings = Settings::resolve(&RedisConfig::new(Secret::new("redis://:hunter2@h:1/9"))).unwrap();
        let cases = [
            (
                "-WRONGPASS invalid username-password pair or user is disabled.",
                ErrorKind::Auth,
                "refused the password",
            ),
            ("-NOAUTH Authentication required.", ErrorKind::Auth, "none is configured"),
            ("-ERR invalid password", ErrorKind::Auth, "refused the password"),
            (
                "-ERR AUTH <password> called without any password configured for the default user. Are you sure?",
                ErrorKind::Auth,
                "asks for no password",
            ),
            ("-NOPERM User app has no permissions to run the 'info' command", ErrorKind::Auth, "'info'"),
            ("-DENIED Redis is running in protected mode because", ErrorKind::Auth, "protected mode"),
            ("-LOADING Redis is loading the dataset in memory", ErrorKind::Unreachable, "loading"),
            (
                "-MISCONF Redis is configured to save RDB snapshots, but",
                ErrorKind::Precondition,
                "cannot save",
            ),
            ("-READONLY You can't write against a read only replica.", ErrorKind::Precondition, "read-only"),
            ("-ERR max number of clients reached", ErrorKind::Unreachable, "no connection left"),
            ("-ERR DB index is out of range", ErrorKind::NotFound, "database 9"),
            (
                "-OOM command not allowed when used memory > 'maxmemory'.",
                ErrorKind::Precondition,
                "memory limit",
            ),
            ("-WRONGTYPE Operation against a key", ErrorKind::Server, "WRONGTYPE"),
            ("-MOVED 3999 h2:7001", ErrorKind::Unsupported, "with the node at h2:7001"),
            (
                "-ERR unknown command 'SELECT', with args beginning with: '0' ",
                ErrorKind::Unsupported,
                "is a Sentinel",
            ),
            ("-CLUSTERDOWN Hash slot not served", ErrorKind::Unreachable, "is down"),
            (
                "-ERR The server is running without a config file",
                ErrorKind::Precondition,
                "without a configuration file",
            ),
            (
                "-ERR Rewriting config file: Device or resource busy",
                ErrorKind::Precondition,
                "configuration file: Device or resource busy",
            ),
            (
                "-ERR CONFIG SET failed (possibly related to argument 'appendonly') - Unable to turn on AOF. Check server logs.",
                ErrorKind::Precondition,
                "cannot write its append-only file",
            ),
            ("-ERR Background save already in progress", ErrorKind::Conflict, "under way already"),
        ];
        for (line, kind, text) in cases {
            let error = turned_away(&settings, line).unwrap();
            assert_eq!(error.kind(), kind, "{line}");
            assert!(error.to_string().contains(text), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(turned_away(&settings, "+OK").is_none());
        // A server that does not know a command repeats its arguments.
        let line = "-ERR unknown command 'AUTH', with args beginning with: 'default' 'hunter2' ";
        let error = turned_away(&settings, line).unwrap();
        assert_eq!(error.to_string(), "h:1 answered ERR: unknown command 'AUTH'");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }

    #[tokio::test]
    async fn of_several_commands_the_first_refused_tells_why() {
        let server = Redis::options().setting("maxmemory", "1").start().unwrap();
        let url = server.uri().replace("redis://", "redis://default:hunter2@");
        let settings = Settings::resolve(&RedisConfig::new(Secret::new(url))).unwrap();
        let client = redis::Client::open(server.uri()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let says = |line: &str| format!("return redis.error_reply('{line}')");
        let moved = says("MOVED 3999 h2:7001");
        let cases: [(&[&str], ErrorKind, &str); 4] = [
            (&["SET", "a", "1"], ErrorKind::Precondition, "is at its memory limit"),
            (&["EVAL", &moved, "0"], ErrorKind::Unsupported, "with the node at h2:7001"),
            (&["CONFIG", "REWRITE"], ErrorKind::Precondition, "without a configuration file"),
            (&["AUTHENTICATE", "hunter2"], ErrorKind::Server, "unknown command 'AUTHENTICATE'"),
        ];
        for (words, kind, text) in cases {
            for is_atomic in [false, true] {
                let mut commands = redis::pipe();
                if is_atomic {
                    commands.atomic();
                }
                commands.cmd("PING").cmd(words[0]).arg(&words[1..]).cmd("PING");
                let answer: Result<Vec<redis::Value>, RedisError> =
                    commands.query_async(&mut connection).await;
                let error = failure(&settings, answer.unwrap_err());
                assert_eq!(error.kind(), kind, "{words:?} {is_atomic}: {error}");
                assert!(error.to_string().contains(text), "{words:?} {is_atomic}: {error}");
                assert!(!format!("{error:?} {:?}", error.causes()).contains("hunter2"), "{error:?}");
            }
        }
        let mut setting_up = redis::pipe();
        setting_up.cmd("ACL").arg(&["SETUSER", "onlooker", "on", "nopass", "+ping", "+multi", "+exec"]);
        let _: Vec<redis::Value> = setting_up.query_async(&mut connection).await.unwrap();
        let _: redis::Value =
            redis::cmd("AUTH").arg(&["onlooker", ""]).query_async(&mut connection).await.unwrap();
        let answer: Result<Vec<redis::Value>, RedisError> =
            redis::pipe().cmd("PING").cmd("GET").arg("a").query_async(&mut connection).await;
        let error = failure(&settings, answer.unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
        assert!(error.to_string().contains("'get' command"), "{error}");
    }
}
