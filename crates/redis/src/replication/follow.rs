//! Following the stream: `PSYNC`, the file when the server has to begin anew, and acknowledgements.
//!
//! The server is told no port, so that it does not offer this process to others as a server. It sends the stream only after the file was
//! acknowledged, and ends a connection that has not acknowledged anything for `repl-timeout`, a minute.

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use mainstay_engine::{
    Backlog, FollowedReplication, KeyFile, KeyFileBeginning, ReplicationFacts, ReplicationFile,
    ReplicationPoint, ReplicationSource, ReplicationStream,
};
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use tokio::time::timeout;

use super::link::Link;
use super::pull::{self, Pull};
use crate::cluster::is_cluster;
use crate::config::{RedisConfig, Settings};
use crate::failure::not_understood;
use crate::info::Info;
use crate::probe::{kept_fingerprint, read_info};
use crate::server::look;
use crate::session::Session;

/// The stream of a Redis, over its replication link.
#[derive(Debug)]
pub struct RedisReplication {
    settings: Settings,
}

impl RedisReplication {
    /// The stream of the server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL or the CA file cannot be used.
    pub fn new(config: &RedisConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)? })
    }
}

#[async_trait]
impl ReplicationSource for RedisReplication {
    async fn replication_facts(&self) -> Result<ReplicationFacts> {
        let mut session = Session::open(&self.settings).await.context("connect to Redis")?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        if is_cluster(&info) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a node of a cluster has the stream of a part of the keys alone",
            )
            .with_state("nothing was changed")
            .with_hint("this version captures single servers"));
        }
        let kept = kept_fingerprint(&mut session).await.context("read facts of Redis")?;
        facts(&info, kept)
    }

    async fn follow_replication(&self, after: Option<&ReplicationPoint>) -> Result<FollowedReplication> {
        let mut link = Link::open(&self.settings).await.context("connect to Redis")?;
        let asked = self.ask(&mut link, after).await.context("ask for the replication stream")?;
        match asked {
            Answer::Continue(id) => {
                let id = id.or_else(|| after.map(|after| after.id.clone())).unwrap_or_default();
                Ok(FollowedReplication::Continued {
                    id,
                    stream: Box::new(Stream { link, is_at_begin: false }),
                })
            }
            Answer::Anew(at) => {
                let end = pull::announcement(&mut link, &self.settings).await?;
                let facts = pull::facts(&self.settings).await.context("read facts of Redis")?;
                let pull = Pull::begin(link, end, facts, false);
                Ok(FollowedReplication::Anew { at: at.clone(), file: Box::new(Base { pull, at }) })
            }
        }
    }
}

impl RedisReplication {
    async fn ask(&self, link: &mut Link, after: Option<&ReplicationPoint>) -> Result<Answer> {
        let settings = &self.settings;
        link.introduce(settings).await?;
        let (id, next) = match after {
            Some(after) => (after.id.clone(), (after.offset + 1).to_string()),
            None => ("?".to_owned(), "-1".to_owned()),
        };
        let line = link.ask(settings, &[b"PSYNC", id.as_bytes(), next.as_bytes()]).await?;
        answered(&line).ok_or_else(|| not_understood(&settings.address(), &format!("PSYNC with {line:?}")))
    }
}

/// What `INFO` says of the stream.
fn facts(info: &Info, kept: Option<String>) -> Result<ReplicationFacts> {
    let at = ReplicationPoint {
        id: info.required("master_replid")?.to_owned(),
        offset: info.number("master_repl_offset").unwrap_or(0),
    };
    // The offset is the first one that is not of that stream; -1 when there is none.
    let earlier = info
        .get("master_replid2")
        .zip(info.number("second_repl_offset"))
        .map(|(id, next)| ReplicationPoint { id: id.to_owned(), offset: next.saturating_sub(1) });
    let backlog = (info.number("repl_backlog_active") == Some(1)).then(|| Backlog {
        bytes_max: info.number("repl_backlog_size").unwrap_or(0),
        after: info.number("repl_backlog_first_byte_offset").unwrap_or(1).saturating_sub(1),
        room: look::memory(info).room(),
    });
    let is_marked = kept.is_some();
    let fingerprint = match kept {
        Some(kept) => kept,
        None => info.required("run_id")?.to_owned(),
    };
    Ok(ReplicationFacts { fingerprint, is_marked, at, earlier, backlog })
}

/// What the server says to `PSYNC`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// It goes on; under this name, if it says so.
    Continue(Option<String>),
    Anew(ReplicationPoint),
}

fn answered(line: &str) -> Option<Answer> {
    let mut words = line.split_whitespace();
    let answer = match words.next()? {
        "+CONTINUE" => match words.next() {
            Some(id) => Answer::Continue(Some(ReplicationPoint::id_of(id.as_bytes())?)),
            None => Answer::Continue(None),
        },
        "+FULLRESYNC" => Answer::Anew(ReplicationPoint {
            id: ReplicationPoint::id_of(words.next()?.as_bytes())?,
            offset: words.next()?.parse().ok()?,
        }),
        _ => return None,
    };
    words.next().is_none().then_some(answer)
}

/// The file, and what is behind it.
struct Base {
    pull: Pull,
    at: ReplicationPoint,
}

#[async_trait]
impl KeyFile for Base {
    fn beginning(&self) -> &KeyFileBeginning {
        self.pull.beginning()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.pull.next().await
    }
}

#[async_trait]
impl ReplicationFile for Base {
    async fn stream(self: Box<Self>) -> Result<Box<dyn ReplicationStream>> {
        let Self { pull, at } = *self;
        let link = pull.behind().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "the stream was asked for before the file had come")
        })?;
        let mut stream = Stream { link, is_at_begin: true };
        stream.acknowledge(at.offset).await?;
        Ok(Box::new(stream))
    }
}

struct Stream {
    link: Link,
    /// Nothing but empty lines has come behind the file: with those a server before 7.0.5 says that it lives, and they are not of the stream.
    is_at_begin: bool,
}

/// What of `bytes` is of the stream.
fn past_empty_lines(mut bytes: Bytes, is_at_begin: &mut bool) -> Bytes {
    if *is_at_begin {
        let lines = bytes.iter().take_while(|byte| **byte == b'\n').count();
        bytes.advance(lines);
        *is_at_begin = bytes.is_empty();
    }
    bytes
}

#[async_trait]
impl ReplicationStream for Stream {
    async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>> {
        match timeout(patience, self.link.bytes()).await {
            Err(_) => Ok(None),
            Ok(bytes) => match bytes? {
                bytes if bytes.is_empty() => Err(self.link.ended().context("follow the replication stream")),
                bytes => {
                    let bytes = past_empty_lines(bytes, &mut self.is_at_begin);
                    Ok((!bytes.is_empty()).then_some(bytes))
                }
            },
        }
    }

    async fn acknowledge(&mut self, durable: u64) -> Result<()> {
        self.link.send(&[b"REPLCONF", b"ACK", durable.to_string().as_bytes()]).await
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_psync_is_read() {
        let point = |id: &str, offset| ReplicationPoint { id: id.to_owned(), offset };
        assert_eq!(answered("+CONTINUE"), Some(Answer::Continue(None)));
        let id = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(answered(&format!("+CONTINUE {id}")), Some(Answer::Continue(Some(id.to_owned()))));
        assert_eq!(answered(&format!("+FULLRESYNC {id} 17")), Some(Answer::Anew(point(id, 17))));
        for line in ["", "+OK", "+FULLRESYNC ID", "+FULLRESYNC ID x", "+FULLRESYNC ID 1 2", "+CONTINUE ID b"]
        {
            assert_eq!(answered(&line.replace("ID", id)), None, "{line}");
        }
        // What is no name of a stream goes into no file and no terminal.
        for line in [
            "+FULLRESYNC ab 17",
            "+CONTINUE \u{1b}[2J",
            "+FULLRESYNC ../../../../../../../../../../../../etc/pa 17",
        ] {
            assert_eq!(answered(line), None, "{line:?}");
        }
    }

    #[test]
    fn empty_lines_before_the_stream_are_none_of_it() {
        let mut is_at_begin = true;
        let mut taken = |came: &'static [u8]| past_empty_lines(Bytes::from_static(came), &mut is_at_begin);
        assert_eq!((taken(b"\n"), taken(b"\n\n*1")), (Bytes::new(), Bytes::from_static(b"*1")));
        assert_eq!(taken(b"\n\n"), Bytes::from_static(b"\n\n"), "behind its begin each byte counts");
    }

    #[test]
    fn the_stream_of_a_server_is_read_from_its_info() {
        let info = Info::parse(
            "run_id:r1\nmaster_replid:aa\nmaster_replid2:bb\nmaster_repl_offset:300\nsecond_repl_offset:101\n\
             repl_backlog_active:1\nrepl_backlog_size:1048576\nrepl_backlog_first_byte_offset:51\n",
        );
        let read = facts(&info, None).unwrap();
        assert_eq!((read.fingerprint.as_str(), read.is_marked, read.at.offset), ("r1", false, 300));
        assert_eq!(read.earlier, Some(ReplicationPoint { id: "bb".to_owned(), offset: 100 }));
        assert_eq!(read.backlog, Some(Backlog { bytes_max: 1 << 20, after: 50, room: None }));
        let alone = Info::parse("run_id:r1\nmaster_replid:aa\nmaster_replid2:00\nsecond_repl_offset:-1\n");
        let read = facts(&alone, Some("kept".to_owned())).unwrap();
        assert_eq!((read.fingerprint.as_str(), read.is_marked), ("kept", true));
        assert_eq!((read.earlier, read.backlog), (None, None));
    }
}
