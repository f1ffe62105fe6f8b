//! Pulling the database file: asking for it, and knowing where it ends.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use mainstay_engine::{KeyFile, KeyFileBeginning, KeyFileSource, ServerFacts};
use mainstay_model::{Result, ResultExt};

use super::link::Link;
use crate::cluster;
use crate::config::{RedisConfig, Settings};
use crate::failure::not_understood;
use crate::probe::{fingerprint, read_info};
use crate::session::Session;

/// The length of the mark at the end of a file that is written while it is sent.
const MARK_BYTES: usize = 40;

/// The database file of a Redis, over its replication link.
#[derive(Debug)]
pub struct RedisKeyFile {
    settings: Settings,
}

impl RedisKeyFile {
    /// The file of the server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL or the CA file cannot be used.
    pub fn new(config: &RedisConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)? })
    }
}

#[async_trait]
impl KeyFileSource for RedisKeyFile {
    async fn begin(&self) -> Result<Box<dyn KeyFile>> {
        let (server, estimated_bytes) = facts(&self.settings).await.context("read facts of Redis")?;
        let mut link = Link::open(&self.settings).await.context("connect to Redis")?;
        let begun = self.begin_on(&mut link).await.context("ask for the database file")?;
        let Begun { end, direct } = begun;
        Ok(Box::new(Pull::begin(link, end, (server, estimated_bytes), direct)))
    }
}

/// What the server says of itself, and what its data take.
pub(super) async fn facts(settings: &Settings) -> Result<(ServerFacts, u64)> {
    let mut session = Session::open(settings).await.context("connect to Redis")?;
    let info = read_info(&mut session).await?;
    let facts = ServerFacts {
        version: info.required("redis_version")?.to_owned(),
        topology: info.get("redis_mode").unwrap_or("standalone").to_owned(),
        fingerprint: fingerprint(&mut session, &info).await?,
        address: settings.address(),
        part: cluster::part(&mut session, &info).await?,
    };
    Ok((facts, info.number("used_memory_dataset").or(info.number("used_memory")).unwrap_or(0)))
}

/// What the server has said to `SYNC`.
struct Begun {
    end: End,
    direct: bool,
}

/// How the end of the file is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// After so many bytes more.
    After(u64),
    /// By these bytes behind it.
    Mark([u8; MARK_BYTES]),
}

impl RedisKeyFile {
    async fn begin_on(&self, link: &mut Link) -> Result<Begun> {
        let settings = &self.settings;
        link.introduce(settings).await?;
        link.ask_if_known(settings, &[b"REPLCONF", b"rdb-only", b"1"]).await?;
        let direct = link.ask_if_known(settings, &[b"REPLCONF", b"rdb-channel", b"1"]).await?;
        link.send(&[b"SYNC"]).await?;
        let end = announcement(link, settings).await?;
        Ok(Begun { end, direct })
    }
}

/// What Valkey says first on a channel for the file alone: where its stream goes on, for a replica that follows it on another connection.
const STREAM_PLACE: &str = "$ENDOFF:";

/// What the server says of the file before it sends it.
pub(super) async fn announcement(link: &mut Link, settings: &Settings) -> Result<End> {
    let mut line = link.answer(settings).await?;
    if line.starts_with(STREAM_PLACE) {
        line = link.answer(settings).await?;
    }
    announced(&line)
        .ok_or_else(|| not_understood(&settings.address(), &format!("a file that begins with {line:?}")))
}

/// `$<length>`, or `$EOF:` and the mark.
fn announced(line: &str) -> Option<End> {
    let announced = line.strip_prefix('$')?;
    match announced.strip_prefix("EOF:") {
        Some(mark) => mark.as_bytes().try_into().ok().map(End::Mark),
        None => announced.parse().ok().map(End::After),
    }
}

/// A file that is coming.
pub(super) struct Pull {
    link: Link,
    beginning: KeyFileBeginning,
    end: End,
    /// The last bytes that came, which may be the mark, or a part of it.
    held: BytesMut,
    is_whole: bool,
}

impl Pull {
    /// Begins behind the server's announcement. `facts` are the server, and what its data take.
    pub(super) fn begin(link: Link, end: End, facts: (ServerFacts, u64), direct: bool) -> Self {
        let bytes = match &end {
            End::After(bytes) => Some(*bytes),
            End::Mark(_) => None,
        };
        let (server, estimated_bytes) = facts;
        let beginning = KeyFileBeginning { server, bytes, estimated_bytes, direct };
        Self { link, beginning, end, held: BytesMut::new(), is_whole: false }
    }

    /// The link behind the whole file; `None` before its end.
    pub(super) fn behind(self) -> Option<Link> {
        self.is_whole.then_some(self.link)
    }
}

#[async_trait]
impl KeyFile for Pull {
    fn beginning(&self) -> &KeyFileBeginning {
        &self.beginning
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.is_whole {
            if self.end == End::After(0) {
                self.is_whole = true;
                break;
            }
            let came = self.link.bytes().await?;
            if came.is_empty() {
                return Err(self.link.ended().context("read the database file"));
            }
            let given = match &mut self.end {
                End::After(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(came.len());
                    *left -= here as u64;
                    // What a server sends behind a file of known length is the stream.
                    self.link.give_back(&came[here..]);
                    came.slice(..here)
                }
                End::Mark(mark) => {
                    let (given, is_end) = before_mark(&mut self.held, came, mark);
                    self.is_whole = is_end;
                    given
                }
            };
            if !given.is_empty() {
                return Ok(Some(given));
            }
        }
        Ok(None)
    }
}

/// What of `held` and `came` is surely of the file; the rest is held. True when the mark has come: the server sends nothing behind it until
/// it is answered, so that only the end of what has come needs to be compared. Servers before 7.0.5 may send empty lines nevertheless, to say
/// that they live (redis/redis#11261).
fn before_mark(held: &mut BytesMut, came: Bytes, mark: &[u8; MARK_BYTES]) -> (Bytes, bool) {
    held.extend_from_slice(&came);
    let empty_lines = held.iter().rev().take_while(|byte| **byte == b'\n').count();
    let is_end = held[..held.len() - empty_lines].ends_with(mark);
    let behind = MARK_BYTES + if is_end { empty_lines } else { 0 };
    let given = held.split_to(held.len().saturating_sub(behind)).freeze();
    (given, is_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: [u8; MARK_BYTES] = *b"0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn the_servers_announcement_is_read() {
        assert_eq!(announced("$17"), Some(End::After(17)));
        let line = format!("$EOF:{}", std::str::from_utf8(&MARK).unwrap_or_default());
        assert_eq!(announced(&line), Some(End::Mark(MARK)));
        for line in ["", "+OK", "$", "$-1", "$EOF:short", "$EOF:"] {
            assert_eq!(announced(line), None, "{line}");
        }
    }

    #[test]
    fn the_mark_is_found_however_it_is_cut() {
        let file: Vec<u8> = (0..200u8).chain(*b"\n\n").collect();
        for behind in ["", "\n", "\n\n\n"] {
            let sent = [file.as_slice(), &MARK, behind.as_bytes()].concat();
            for cut in 1..=sent.len() {
                let (mut held, mut seen, mut read) = (BytesMut::new(), Vec::new(), 0);
                let has_ended = sent.chunks(cut).any(|piece| {
                    let (given, is_end) = before_mark(&mut held, Bytes::copy_from_slice(piece), &MARK);
                    seen.extend_from_slice(&given);
                    read += piece.len();
                    is_end
                });
                assert_eq!((seen.as_slice(), has_ended), (file.as_slice(), true), "cut {cut}, {behind:?}");
                assert!(read >= file.len() + MARK_BYTES, "cut {cut}, {behind:?}");
            }
        }
    }
}
