//! The commands of a physical replication connection, as text, and what they answer with.
//!
//! Names and labels are quoted here and nowhere else. Source: manual (18), "Streaming Replication Protocol".

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use fallible_iterator::FallibleIterator as _;
use mainstay_engine::{TimelineHistory, WalSlot};
use mainstay_model::Lsn;
use postgres_protocol::message::backend::DataRowBody;
use tokio::time::timeout;

use super::connection::Connection;
use super::error::{WireError, malformed};

/// How much of a list of files is sent at once.
const UPLOAD_PIECE_BYTES: usize = 64 * 1024;
/// How long a server may read a list of files.
const UPLOAD_TIME_MAX: Duration = Duration::from_secs(5 * 60);

/// One row of a result: text by the name of its column.
#[derive(Debug, Clone)]
pub(crate) struct Row(Vec<(String, Option<Bytes>)>);

impl Row {
    pub(super) fn read(names: &[String], body: &DataRowBody) -> Result<Self, WireError> {
        let mut ranges = body.ranges();
        let mut values = Vec::with_capacity(names.len());
        while let Some(range) = ranges.next().map_err(malformed)? {
            let value = range.map(|range: Range<usize>| body.buffer_bytes().slice(range));
            let name = names.get(values.len()).cloned().unwrap_or_default();
            values.push((name, value));
        }
        if values.len() != names.len() {
            return Err(WireError::Protocol(format!(
                "a row of {} columns, not {}",
                values.len(),
                names.len()
            )));
        }
        Ok(Self(values))
    }

    /// A column's bytes; `None` when it is NULL or not there.
    pub(crate) fn bytes(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(column, _)| column == name)?.1.as_ref()
    }

    /// A column's text; `None` when it is NULL or not there.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }

    /// A column that must be there and read as `T`.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<T, WireError> {
        self.text(name)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| WireError::Protocol(format!("a row without a usable {name}")))
    }
}

/// What `IDENTIFY_SYSTEM` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct System {
    /// The cluster's identifier, which a standby shares with its primary.
    pub(crate) identifier: String,
    /// The timeline.
    pub(crate) timeline: u32,
    /// How far WAL is flushed.
    pub(crate) flushed: Lsn,
}

impl Connection {
    /// Which cluster this is.
    pub(crate) async fn identify_system(&mut self) -> Result<System, WireError> {
        let row = self.only_row("IDENTIFY_SYSTEM").await?;
        Ok(System {
            identifier: row.parsed("systemid")?,
            timeline: row.parsed("timeline")?,
            flushed: row.parsed("xlogpos")?,
        })
    }

    /// The value of a setting as the server shows it.
    pub(crate) async fn show(&mut self, setting: &str) -> Result<String, WireError> {
        let row = self.only_row(&format!("SHOW {setting}")).await?;
        row.parsed(setting)
    }

    /// The history of `timeline`, which is not the first: that one has none.
    pub(crate) async fn timeline_history(&mut self, timeline: u32) -> Result<TimelineHistory, WireError> {
        let row = self.only_row(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let content = row.bytes("content").cloned();
        let content = content.ok_or_else(|| WireError::Protocol("a history without content".to_owned()))?;
        Ok(TimelineHistory { file: row.parsed("filename")?, content })
    }

    /// Makes a physical slot that keeps WAL from now on.
    pub(crate) async fn create_slot(&mut self, name: &str) -> Result<(), WireError> {
        let command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL (RESERVE_WAL)", identifier(name));
        self.rows(&command).await.map(drop)
    }

    /// What is known of a physical slot; `None` when there is none of that name.
    pub(crate) async fn read_slot(&mut self, name: &str) -> Result<Option<WalSlot>, WireError> {
        let row = self.only_row(&format!("READ_REPLICATION_SLOT {}", identifier(name))).await?;
        if row.text("slot_type").is_none() {
            return Ok(None);
        }
        let kept_from = row.text("restart_lsn").map(|_| row.parsed("restart_lsn")).transpose()?;
        let timeline = row.text("restart_tli").map(|_| row.parsed("restart_tli")).transpose()?;
        Ok(Some(WalSlot { kept_from, timeline }))
    }

    /// Removes a slot that nobody uses now.
    pub(crate) async fn drop_slot(&mut self, name: &str) -> Result<(), WireError> {
        self.rows(&format!("DROP_REPLICATION_SLOT {}", identifier(name))).await.map(drop)
    }

    /// Begins to stream WAL of `timeline` from `from` on. What follows are messages of [`super::copy::WalMessage`].
    pub(crate) async fn start_replication(
        &mut self,
        slot: Option<&str>,
        from: Lsn,
        timeline: u32,
    ) -> Result<(), WireError> {
        let slot = slot.map(|name| format!("SLOT {} ", identifier(name))).unwrap_or_default();
        self.send_command(&format!("START_REPLICATION {slot}PHYSICAL {from} TIMELINE {timeline}")).await?;
        self.copy_both().await
    }

    /// Tells the server of which backup it has made this list of files: the next one may build on it.
    pub(crate) async fn upload_manifest(&mut self, manifest: &[u8]) -> Result<(), WireError> {
        self.send_command("UPLOAD_MANIFEST").await?;
        self.copy_in().await?;
        for piece in manifest.chunks(UPLOAD_PIECE_BYTES) {
            self.send_copy(piece).await?;
        }
        self.send_copy_done().await?;
        timeout(UPLOAD_TIME_MAX, self.ready()).await.unwrap_or(Err(WireError::Timeout))
    }

    async fn only_row(&mut self, command: &str) -> Result<Row, WireError> {
        let rows = self.rows(command).await?;
        rows.into_iter().next().ok_or_else(|| WireError::Protocol(format!("no row in answer to {command}")))
    }
}

/// A name in the double quotes of the replication grammar.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Text in the single quotes of the replication grammar.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_leave_their_quotes() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
    }
}
