//! The probe: a Redis at a glance, and its environment marker.
//!
//! The marker is the hash at the key `mainstay:identity:environment` of the configured database, with the server's fingerprint in it. A server that evicts any key, or is flushed, may lose it, and
//! then counts as production: that errs on the safe side. In a cluster it lies on the node that has its slot; the others count as production.
//!
//! A server that is filled gets all keys of another one, its marker among them; so the markers of all its databases can be read as they are
//! kept and be put back ([`kept_markers`], [`put_back_markers`]).

use std::collections::BTreeMap;

use async_trait::async_trait;
use mainstay_engine::{KeptMarker, KeyspaceSize, Probe, StoreFacts};
use mainstay_guard::{Marker, Permit};
use mainstay_model::{ByteSize, Error, ErrorKind, Finding, Result, ResultExt, StoreKind};
use redis::cmd;

use crate::config::{RedisConfig, Settings};
use crate::examine;
use crate::info::Info;
use crate::session::Session;

/// The key that holds the marker.
pub(crate) const MARKER_KEY: &str = "mainstay:identity:environment";
/// The field beside the marker's own that keeps the server's fingerprint.
const FINGERPRINT_FIELD: &str = "fingerprint";
/// The most fields of a hash that is taken for a marker, and the most bytes of one of them: it goes into the repository.
const KEPT_MAX: (usize, usize) = (16, 1024);

/// Looks at a Redis. Each call opens a connection of its own and ends it.
#[derive(Debug)]
pub struct RedisProbe {
    settings: Settings,
}

impl RedisProbe {
    /// A probe of the server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL or the CA file cannot be used; no part of the URL that may be secret is shown.
    pub fn new(config: &RedisConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)? })
    }

    async fn open(&self) -> Result<Session<'_>> {
        Session::open(&self.settings).await.context("connect to Redis")
    }
}

#[async_trait]
impl Probe for RedisProbe {
    fn kind(&self) -> StoreKind {
        StoreKind::Redis
    }

    fn address(&self) -> String {
        self.settings.address()
    }

    /// Redis has no identity that outlives a restart: `run_id` is new each time, and `master_replid` too unless a replica was attached, and
    /// is replaced when the first one is. So the fingerprint is the `run_id` of the moment the server was first marked, which the marker
    /// keeps beside the environment; it comes back with the data. A server without a marker has its present `run_id`: after a restart, plans
    /// made before are stale and backups taken before no longer count as its own, which errs on the safe side.
    async fn facts(&self) -> Result<StoreFacts> {
        let mut session = self.open().await?;
        read_facts(&mut session, self.address()).await.context("read facts of Redis")
    }

    async fn marker(&self) -> Result<Option<Marker>> {
        let mut session = self.open().await?;
        read_marker(&mut session).await.context("read environment marker of Redis")
    }

    async fn marker_elsewhere(&self) -> Result<Option<String>> {
        let mut session = self.open().await?;
        let place = session.place_of(cmd("TYPE").arg(MARKER_KEY)).await;
        place.context("look for the environment marker of Redis")
    }

    async fn set_marker(&self, marker: &Marker, permit: &Permit) -> Result<()> {
        let mut session = self.open().await?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        let fingerprint = fingerprint(&mut session, &info).await.context("read facts of Redis")?;
        permit.check("environment.mark", StoreKind::Redis, &fingerprint)?;
        write_marker(&mut session, marker, &fingerprint).await.context("write environment marker of Redis")
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        let mut session = self.open().await?;
        let observed = examine::observe(&mut session).await.context("examine Redis")?;
        Ok(examine::findings(&observed, &self.address()))
    }
}

/// All default sections of `INFO`.
pub(crate) async fn read_info(session: &mut Session<'_>) -> Result<Info> {
    Ok(Info::parse(&session.ask::<String>(&cmd("INFO")).await?))
}

async fn read_facts(session: &mut Session<'_>, address: String) -> Result<StoreFacts> {
    let info = read_info(session).await?;
    let role = match info.required("role")? {
        "slave" => "replica",
        role => role,
    };
    Ok(StoreFacts {
        kind: StoreKind::Redis,
        version: info.required("redis_version")?.to_owned(),
        role: role.to_owned(),
        size: info.number("used_memory").map(ByteSize),
        uptime_seconds: info.number("uptime_in_seconds").unwrap_or(0),
        connections: info.number("connected_clients").unwrap_or(0),
        connections_max: info.number("maxclients"),
        fingerprint: fingerprint(session, &info).await?,
        address,
    })
}

/// See [`RedisProbe::facts`]. A key that is no hash, or may not be read, keeps no fingerprint; [`Probe::marker`] says what is wrong with it.
pub(crate) async fn fingerprint(session: &mut Session<'_>, info: &Info) -> Result<String> {
    let run_id = info.required("run_id")?.to_owned();
    Ok(kept_fingerprint(session).await?.unwrap_or(run_id))
}

/// The fingerprint that outlives a restart; `None` on a server that was never marked.
pub(crate) async fn kept_fingerprint(session: &mut Session<'_>) -> Result<Option<String>> {
    if marker_type(session).await?.as_deref() != Some("hash") {
        return Ok(None);
    }
    let kept: Option<Option<String>> =
        session.ask_if_allowed(cmd("HGET").arg(MARKER_KEY).arg(FINGERPRINT_FIELD)).await?;
    Ok(kept.flatten())
}

/// `none`, `hash` or another type; `None` when the user may not ask, or the key is with another node of a cluster.
pub(crate) async fn marker_type(session: &mut Session<'_>) -> Result<Option<String>> {
    session.ask_if_here(cmd("TYPE").arg(MARKER_KEY)).await
}

pub(crate) async fn read_marker(session: &mut Session<'_>) -> Result<Option<Marker>> {
    let damaged = |what: &str| {
        Error::new(
            ErrorKind::Corrupt,
            format!("the environment marker at key {MARKER_KEY} is damaged: {what}"),
        )
        .with_hint("`mainstay environment mark --store redis` writes it anew; until then the server counts as production")
    };
    let question = cmd("TYPE").arg(MARKER_KEY).to_owned();
    let kind = match session.place_of(&question).await? {
        Some(_) => "none".to_owned(),
        None => session.ask::<String>(&question).await?,
    };
    match kind.as_str() {
        "none" => return Ok(None),
        "hash" => {}
        other => return Err(damaged(&format!("it is a {other}, not a hash"))),
    }
    let fields: BTreeMap<String, String> = session.ask(cmd("HGETALL").arg(MARKER_KEY)).await?;
    Marker::from_fields(|name| fields.get(name).cloned())
        .map(Some)
        .map_err(|fault| damaged(&fault.to_string()))
}

/// One command, so that nobody reads half a marker. What is no hash stands in its way and goes first: a server without a marker counts as
/// production meanwhile, as one whose marker is damaged does.
pub(crate) async fn write_marker(
    session: &mut Session<'_>,
    marker: &Marker,
    fingerprint: &str,
) -> Result<()> {
    if marker_type(session).await?.is_some_and(|kind| kind != "hash" && kind != "none") {
        session.ask::<u64>(cmd("DEL").arg(MARKER_KEY)).await?;
    }
    let mut command = cmd("HSET");
    command.arg(MARKER_KEY).arg(FINGERPRINT_FIELD).arg(fingerprint);
    for (name, text) in marker.fields() {
        command.arg(name).arg(text);
    }
    session.ask::<u64>(&command).await.map(drop)
}

/// The markers of these databases as they are kept, whoever has written them. What is no hash of a few short texts is none: a server in which
/// such a thing stands counts as production, and does so without it.
pub(crate) async fn kept_markers(
    session: &mut Session<'_>,
    databases: &[KeyspaceSize],
) -> Result<Vec<KeptMarker>> {
    let mut kept = Vec::new();
    for size in databases {
        session.ask::<()>(cmd("SELECT").arg(size.database)).await?;
        if marker_type(session).await?.as_deref() == Some("hash") {
            let fields: Option<BTreeMap<Vec<u8>, Vec<u8>>> =
                session.ask_if_here(cmd("HGETALL").arg(MARKER_KEY)).await?;
            let fields = fields.and_then(marker_texts);
            kept.extend(fields.map(|fields| KeptMarker { database: size.database, fields }));
        }
    }
    session.select_own().await?;
    Ok(kept)
}

/// The fields as text, of what may be a marker.
fn marker_texts(fields: BTreeMap<Vec<u8>, Vec<u8>>) -> Option<BTreeMap<String, String>> {
    let (count_max, bytes_max) = KEPT_MAX;
    if fields.is_empty() || fields.len() > count_max {
        return None;
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok().filter(|text| text.len() <= bytes_max);
    fields.into_iter().map(|(name, value)| Some((text(name)?, text(value)?))).collect()
}

/// Puts markers back where nothing stands in their place. Whether each has something in its place afterwards: the user may not be allowed to.
pub(crate) async fn put_back_markers(session: &mut Session<'_>, markers: &[KeptMarker]) -> Result<bool> {
    let mut all_stand = true;
    for marker in markers {
        session.ask::<()>(cmd("SELECT").arg(marker.database)).await?;
        if marker_type(session).await?.is_some_and(|kind| kind != "none") {
            continue;
        }
        let mut command = cmd("HSET");
        command.arg(MARKER_KEY);
        for (name, text) in &marker.fields {
            command.arg(name).arg(text);
        }
        all_stand &= session.ask_if_allowed::<u64>(&command).await?.is_some();
    }
    session.select_own().await?;
    Ok(all_stand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_as_a_marker_is_short_text() {
        let fields = |pairs: &[(&[u8], &[u8])]| {
            marker_texts(pairs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect())
        };
        let kept = fields(&[(b"class", b"development"), (b"fingerprint", b"f")]);
        assert_eq!(kept.and_then(|kept| kept.get("fingerprint").cloned()).as_deref(), Some("f"));
        assert_eq!(fields(&[]), None);
        assert_eq!(fields(&[(b"class", b"\xff")]), None, "no text");
        assert_eq!(fields(&[(b"class", &[b'x'; 1025])]), None, "too long");
        let many: BTreeMap<Vec<u8>, Vec<u8>> = (0..17_u8).map(|number| (vec![number], Vec::new())).collect();
        assert_eq!(marker_texts(many), None, "too many");
    }
}
