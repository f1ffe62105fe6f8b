//! Commands for another server of Redis than the configured one, such as the other primaries of a cluster: reached as that one is, at another
//! place. What they say can be typed: no password is in it.

use mainstay_engine::{ServerFacts, ServerPart};
use mainstay_model::Count;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::commands::plan::{flags_but, quoted};
use crate::wiring::Session;

/// The flag that names the server.
const URL_FLAG: &str = "redis-url";

/// The configured Redis, with what of it another server is reached by, too.
fn url_at(place: &str, session: &Session) -> String {
    let connection = session.configuration.redis.as_ref().map(|settings| &settings.connection);
    let is_encrypted = connection.is_some_and(|connection| connection.scheme.starts_with("rediss"));
    let scheme = if is_encrypted { "rediss" } else { "redis" };
    let user = connection
        .and_then(|connection| connection.username.as_ref())
        .map_or_else(String::new, |user| format!("{}@", utf8_percent_encode(user, NON_ALPHANUMERIC)));
    format!("{scheme}://{user}{place}")
}

/// `command` for the server at `place`, with the flags that this one was given.
pub(crate) fn command_at(place: &str, command: &str, session: &Session) -> String {
    let url = quoted(&url_at(place, session));
    format!("mainstay{} --{URL_FLAG} {url} {command}", flags_but(&[URL_FLAG], session))
}

/// `command` for each of the other primaries, where `server` is of a cluster.
pub(crate) fn commands_for_others(server: &ServerFacts, command: &str, session: &Session) -> Vec<String> {
    let others = server.part.iter().flat_map(|part| &part.others);
    others.map(|place| command_at(place, command, session)).collect()
}

/// What a copy of `server` holds of a cluster, for people; `None` of a server that is of none.
pub(crate) fn part_of(server: &ServerFacts) -> Option<String> {
    let part = server.part_told()?;
    Some(match part.is_whole() {
        true => format!("{part}: the whole cluster"),
        false => format!("of a cluster: {part}; keys of its other primaries are not in it"),
    })
}

/// The same, short, for a list; nothing of a server that has all keys.
pub(crate) fn part_short(server: &ServerFacts) -> String {
    match server.part_told() {
        Some(part) if part.is_whole() => String::new(),
        Some(part) if part.is_known() => {
            let all = Count(ServerPart::SLOT_COUNT);
            format!(", {} of {all} slots", Count(part.slot_count()))
        }
        Some(_) => ", of one node of a cluster".to_owned(),
        None => String::new(),
    }
}

/// Commands as they are told below a report.
pub(crate) fn others_text(commands: &[String]) -> String {
    match commands {
        [] => String::new(),
        commands => format!("the other primaries, each by itself:\n  {}\n", commands.join("\n  ")),
    }
}
