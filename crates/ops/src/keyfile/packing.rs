//! A server's own packing, off while it begins the file that a backup fetches.
//!
//! A server packs each string of its file by itself, which takes more than half of its child's time and leaves little for the packing here,
//! which is better. The child takes the setting along when it is forked: so the setting is changed between the request and the first byte
//! alone, and whatever ends the backup in between, it is put back. What stood before is in the repository before anything is changed
//! (`redis/settings/<packing>/`); where this process is killed, the next backup of the server puts it back, and `doctor` tells it.
//! Refuses to take a backup otherwise than it was asked to: a user who may not change the setting is told so.

use std::sync::{Mutex, PoisonError};

use mainstay_engine::{KeyServerInspection, KeyServerSettings};
use mainstay_guard::Permit;
use mainstay_journal::Sequence;
use mainstay_model::{Blake3, Error, ErrorKind, Finding, Result, ResultExt, Severity, StoreKind, Timestamp};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};

use super::KeyFileBackupContext;

/// The setting that says whether a server packs.
pub(super) const SETTING: &str = "rdbcompression";
/// Its value when it does not.
pub(super) const OFF: &str = "no";

/// One entry of the records about a server's packing; the last one counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
enum Record {
    /// It is about to be turned off.
    #[serde(rename = "packing_off")]
    Off { before: KeyServerSettings, at: Timestamp, by: String },
    /// It is as it was.
    #[serde(rename = "packing_put_back")]
    PutBack { at: Timestamp, by: String },
}

/// What a backup that was killed has left.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Left {
    before: KeyServerSettings,
    at: Timestamp,
    by: String,
}

fn records(repository: &Repository, fingerprint: &str) -> Sequence {
    let server = Blake3::of(format!("packing {fingerprint}").as_bytes());
    repository.settings_records(StoreKind::Redis, &server)
}

async fn left(repository: &Repository, fingerprint: &str) -> Result<Option<Left>> {
    let last = records(repository, fingerprint).last::<Record>().await;
    let last = last.context("read whether an earlier backup has left the server's packing off")?;
    Ok(match last.map(|entry| entry.body) {
        Some(Record::Off { before, at, by }) => Some(Left { before, at, by }),
        Some(Record::PutBack { .. }) | None => None,
    })
}

/// Whether the server packs now, in its own word.
///
/// # Errors
/// `Auth` when the user may not know; `Unsupported` when the server has no such setting.
pub(super) async fn now(server: &dyn KeyServerInspection) -> Result<String> {
    let settings = server.settings(&[SETTING]).await.map_err(|error| match error.kind() {
        ErrorKind::Auth => {
            error.with_hint("allow `+config|get +config|set`, or leave `--plain-transfer` out")
        }
        _ => error,
    })?;
    settings.get(SETTING).cloned().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, format!("the server has no setting {SETTING}"))
            .with_state("nothing was changed")
            .with_hint("leave `--plain-transfer` out")
    })
}

/// What a backup that was killed has left changed at the server with this `fingerprint`, as a finding.
///
/// # Errors
/// The repository's.
pub async fn left_off(
    repository: &Repository,
    fingerprint: &str,
    server: &dyn KeyServerInspection,
) -> Result<Option<Finding>> {
    let Some(left) = left(repository, fingerprint).await? else { return Ok(None) };
    // A server that began anew has forgotten it; one that does not tell is taken at the record's word.
    if server.settings(&[SETTING]).await.is_ok_and(|now| now == left.before) {
        return Ok(None);
    }
    let before = left.before.get(SETTING).map_or("yes", String::as_str);
    Ok(Some(Finding {
        id: "redis.packing_left_off".to_owned(),
        severity: Severity::Warning,
        store: Some(StoreKind::Redis),
        subject: server.address(),
        message: format!(
            "{SETTING} is still {OFF}: a backup of {} was ended at {} before it could put it back",
            left.by, left.at
        ),
        remedy: format!(
            "`mainstay backup create --store redis` puts it back, and so does `CONFIG SET {SETTING} {before}`"
        ),
    }))
}

/// The packing of the server of one backup.
pub(super) struct Packing<'a> {
    context: &'a KeyFileBackupContext<'a>,
    permit: &'a Permit,
    fingerprint: &'a str,
    /// What is to be put back.
    before: Mutex<Option<KeyServerSettings>>,
}

impl<'a> Packing<'a> {
    pub(super) fn new(
        context: &'a KeyFileBackupContext<'a>,
        fingerprint: &'a str,
        permit: &'a Permit,
    ) -> Self {
        Self { context, permit, fingerprint, before: Mutex::new(None) }
    }

    /// Puts back what an earlier backup has left. Where that fails it is told: it is no reason to have no backup.
    pub(super) async fn mend(&self) {
        let mended = async {
            let Some(left) = left(self.context.repository, self.fingerprint).await? else { return Ok(()) };
            if self.put_back(&left.before).await? {
                self.context.observer.notice(&format!(
                    "{SETTING} is as it was again: a backup of {} was ended at {} before it could put it back",
                    left.by, left.at
                ));
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = mended.await {
            let hint = error.hint().unwrap_or("`mainstay doctor` tells what is left");
            self.context.observer.notice(&format!("{error}; {hint}"));
        }
    }

    /// Turns it off, once what stands is remembered.
    pub(super) async fn turn_off(&self) -> Result<()> {
        let server = self.context.server;
        let value = now(server).await?;
        if value == OFF {
            return Ok(());
        }
        let setting = |value: &str| KeyServerSettings::from([(SETTING.to_owned(), value.to_owned())]);
        let before = setting(&value);
        let (at, by) = (self.context.clock.now(), self.context.holder.to_owned());
        self.record(&Record::Off { before: before.clone(), at, by }).await?;
        self.remember(Some(before));
        server.set(&setting(OFF), self.permit).await.context("turn the server's packing off")
    }

    /// Puts back what was turned off, if it was. May be repeated.
    ///
    /// # Errors
    /// The server's, with what to do by hand.
    pub(super) async fn end(&self) -> Result<()> {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(before) = before else { return Ok(()) };
        self.put_back(&before).await?;
        self.remember(None);
        Ok(())
    }

    /// Whether it was not as it was.
    async fn put_back(&self, before: &KeyServerSettings) -> Result<bool> {
        let server = self.context.server;
        let value = before.get(SETTING).map_or("yes", String::as_str);
        let restored = async {
            let differs = server.settings(&[SETTING]).await? != *before;
            if differs {
                server.set(before, self.permit).await?;
            }
            Ok(differs)
        };
        let differed = restored.await.map_err(|error: Error| {
            let hint = format!(
                "`CONFIG SET {SETTING} {value}` at the server, or the next backup of it, puts it back"
            );
            error
                .context(format!("put {SETTING} back to {value}"))
                .with_state(format!("{SETTING} may still be {OFF}"))
                .with_hint(hint)
        })?;
        let (at, by) = (self.context.clock.now(), self.context.holder.to_owned());
        self.record(&Record::PutBack { at, by }).await?;
        Ok(differed)
    }

    fn remember(&self, before: Option<KeyServerSettings>) {
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = before;
    }

    async fn record(&self, record: &Record) -> Result<()> {
        let appended = records(self.context.repository, self.fingerprint).append_next(record).await;
        appended.context("remember how the server packs").map(drop)
    }
}
