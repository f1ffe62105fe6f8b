//! Sentinels: which server is the primary of a name now, and what to say to who names a Sentinel as if it held keys.
//!
//! A name is looked up whenever a connection is opened, at the first Sentinel that answers, so that whoever follows a server for long follows the
//! name through a failover. Sentinels are asked nothing but `SENTINEL`, with the TLS of the URL and a password of their own. Source: Redis
//! documentation, "Sentinel client spec".

use std::borrow::Cow;

use mainstay_model::{Error, ErrorKind, Result, Secret};
use redis::cmd;

use crate::config::Settings;
use crate::session::Session;

/// What Sentinels watch.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    /// The Sentinels, host and port, in the order in which they are asked.
    pub(crate) nodes: Vec<(String, u16)>,
    /// The name of the primary.
    pub(crate) name: String,
    /// The Sentinels' own password.
    pub(crate) password: Option<Secret>,
}

/// A primary that a Sentinel watches.
struct Watched {
    name: String,
    host: String,
    port: String,
}

/// The settings of the server to connect to now: these, or those of the primary that Sentinels tell.
///
/// # Errors
/// `NotFound` when those that answer watch nothing of that name; that of the last one when none answers.
pub(crate) async fn current(settings: &Settings) -> Result<Cow<'_, Settings>> {
    let Some(watch) = &settings.watch else { return Ok(Cow::Borrowed(settings)) };
    let (mut unknown, mut failed) = (None, None);
    for node in &watch.nodes {
        match ask(settings, watch, node).await {
            Ok((host, port)) => return settings.at(host, port).map(Cow::Owned),
            // It may be a new one, or one that was reset: another may know the name.
            Err(error) if error.kind() == ErrorKind::NotFound => unknown = Some(error),
            Err(error) => failed = Some(error),
        }
    }
    let failed = unknown
        .or(failed)
        .unwrap_or_else(|| Error::new(ErrorKind::Config, "the Redis URL names no Sentinel"));
    Err(failed.context(format!("ask a Sentinel which server is {}", watch.name)))
}

async fn ask(settings: &Settings, watch: &Watch, (host, port): &(String, u16)) -> Result<(String, u16)> {
    let sentinel =
        Settings { user: None, password: watch.password.clone(), ..settings.at(host.clone(), *port)? };
    let mut session = Session::connect(&sentinel).await?;
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(&watch.name);
    let found: Option<(String, u16)> = session.ask(&question).await?;
    match found {
        Some(found) => Ok(found),
        None => {
            let names: Vec<String> = watched(&mut session).await.into_iter().map(|one| one.name).collect();
            let error = Error::new(
                ErrorKind::NotFound,
                format!("the Sentinel at {} watches no primary called {}", sentinel.address(), watch.name),
            );
            Err(error.with_hint(format!("it watches {}", listed(&names))))
        }
    }
}

/// The error for a Sentinel that was named where a server of keys is meant: with what it watches, and what to type.
pub(crate) async fn refusal(session: &mut Session<'_>, address: &str) -> Error {
    let watched = watched(session).await;
    let names: Vec<String> =
        watched.iter().map(|one| format!("{} at {}:{}", one.name, one.host, one.port)).collect();
    let hint = match watched.first() {
        Some(first) => format!(
            "name the server, `--redis-url redis://{}:{}`, or have Sentinel tell it: `--redis-url redis+sentinel://{address}/{}`",
            first.host, first.port, first.name
        ),
        None => "name the server of the keys itself".to_owned(),
    };
    Error::new(
        ErrorKind::Unsupported,
        format!("{address} is a Sentinel, which holds no keys; it watches {}", listed(&names)),
    )
    .with_state("nothing was changed")
    .with_hint(hint)
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// What a Sentinel watches, as far as it tells.
async fn watched(session: &mut Session<'_>) -> Vec<Watched> {
    type Fields = std::collections::BTreeMap<String, String>;
    let told: Result<Vec<Fields>> = session.ask(cmd("SENTINEL").arg("MASTERS")).await;
    let watched = told.unwrap_or_default().into_iter().filter_map(|mut fields| {
        Some(Watched {
            name: fields.remove("name")?,
            host: fields.remove("ip")?,
            port: fields.remove("port")?,
        })
    });
    watched.collect()
}
