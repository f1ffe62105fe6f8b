//! What a restored folder is told of its recovery: from where it fetches WAL, and where it stops.
//!
//! A plan holds a [`Recovery`]; before the first write the log that it needs is read back, and with the files come `recovery.signal` and
//! settings at the end of `postgresql.auto.conf`, where they win over what the backup brought along. Source: manual (18), "Archive Recovery",
//! "Recovery Target". No secret is written: the command that fetches WAL names a configuration file, and its variables are the server's. It
//! is no part of the plan, for whoever could change a plan could run commands as the server.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::Path;

use mainstay_basebackup::SeenRecord;
use mainstay_model::progress::Observer;
use mainstay_model::{Error, ErrorKind, Lsn, Result, ResultExt};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};

use crate::place::storage;
use crate::wal::log::WalLogs;
use crate::wal::seek::RecoveryTarget;
use crate::wal::segment_begin;

/// How many segments a recovering server's fetches bring along: with those of the usual length, 128 MiB.
const AHEAD_COUNT: u32 = 8;

/// What a server does when it has reached its target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryAction {
    /// It begins a timeline of its own and takes writes.
    #[default]
    Promote,
    /// It answers queries and waits: `pg_wal_replay_resume()` promotes it.
    Pause,
}

/// The command that a server runs to fetch WAL, as words, up to the server's fingerprint and the file's name and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchCommand(pub Vec<String>);

/// A decided recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// What was asked for.
    pub asked: RecoveryTarget,
    /// What the server is told.
    pub target: RecoveryTarget,
    /// Whether what it stops at belongs to it.
    pub inclusive: bool,
    /// Whose log.
    pub server: String,
    /// The timeline that it follows.
    pub timeline: u32,
    /// Where recovery begins.
    pub from: Lsn,
    /// The position after the last record that it replays; of the end of the log, where that was when this was decided.
    pub stop: Lsn,
    /// What the server does then.
    pub action: RecoveryAction,
}

impl FetchCommand {
    /// The command for the log of `server`, as a setting of the server: quoted for its shell, per cent signs doubled.
    pub fn for_server(&self, server: &str) -> String {
        let ahead = AHEAD_COUNT.to_string();
        let words = self.0.iter().map(String::as_str).chain(["--prefetch", &ahead, "--server", server]);
        let quoted: Vec<String> = words.map(|word| shell_quoted(word).replace('%', "%%")).collect();
        format!("{} \"%f\" \"%p\"", quoted.join(" "))
    }
}

/// A word that a shell takes as it is.
fn shell_quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:=,@".contains(&byte);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// A value in the quotes of a configuration file.
fn config_quoted(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n").replace('\r', "\\r");
    format!("'{escaped}'")
}

/// Up to where a server may read that replays up to `stop`: a segment further, for it reads ahead.
pub(super) fn reads_up_to(stop: Lsn, segment_bytes: u64) -> Lsn {
    Lsn(segment_begin(stop, segment_bytes).0.saturating_add(2 * segment_bytes))
}

impl Recovery {
    /// Reads back all of the log that the server will ask for.
    ///
    /// # Errors
    /// `Corrupt` when something of it is missing or damaged; the store's.
    pub(super) async fn check_log(&self, repository: &Repository, observer: &dyn Observer) -> Result<()> {
        observer.phase("verify WAL");
        let logs = WalLogs::read(repository).await?;
        let log = logs.of(&self.server).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the captured WAL of server {} is gone", self.server))
        })?;
        let lineage = log.lineage(self.timeline).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the captured WAL of timeline {} is gone", self.timeline))
        })?;
        let reach = log.reach_along(lineage, self.from);
        let wanted = match self.target {
            RecoveryTarget::Latest => reach,
            _ => reach.min(reads_up_to(self.stop, log.segment_bytes)),
        };
        let through = wanted.max(self.stop);
        let mut see = |_: SeenRecord| ControlFlow::Continue(());
        log.walk(repository, lineage, (self.from, through), observer, &mut see)
            .await
            .context("verify the captured WAL")
            .map_err(|error| match error.kind() {
                ErrorKind::Corrupt => error.with_state("nothing was written").with_hint(
                    "`mainstay backup verify --log` names what is damaged; restore to a moment before it",
                ),
                _ => error,
            })
    }

    /// Tells the server in `into` of it, and that it fetches WAL with `command`.
    pub(super) fn arm(&self, into: &Path, command: &FetchCommand) -> Result<()> {
        let settings = into.join("postgresql.auto.conf");
        append(&settings, self.settings(&command.for_server(&self.server)).as_bytes())
            .map_err(|error| storage("write", &settings, error))?;
        // A backup of a standby brings its signal along, which would win.
        let standby = into.join("standby.signal");
        match fs::remove_file(&standby) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(storage("remove", &standby, error));
            }
            _ => {}
        }
        let signal = into.join("recovery.signal");
        append(&signal, &[]).map_err(|error| storage("write", &signal, error))
    }

    /// The settings. Every kind of target is set, so that none that the backup brought along stays beside it; the one that is meant comes last,
    /// because a server that has one takes no other, not even an empty one.
    fn settings(&self, command: &str) -> String {
        let mut values = [
            ("recovery_target", String::new()),
            ("recovery_target_lsn", String::new()),
            ("recovery_target_name", String::new()),
            ("recovery_target_time", String::new()),
            ("recovery_target_xid", String::new()),
        ];
        let (place, value) = match &self.target {
            RecoveryTarget::Latest => (0, String::new()),
            RecoveryTarget::Lsn(at) => (1, at.to_string()),
            RecoveryTarget::Name(name) => (2, name.clone()),
            RecoveryTarget::Time(at) => (3, at.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string()),
            RecoveryTarget::Xid(xid) => (4, xid.to_string()),
        };
        values[place].1 = value;
        values.sort_by_key(|(_, value)| !value.is_empty());
        let action = match self.action {
            RecoveryAction::Promote => "promote",
            RecoveryAction::Pause => "pause",
        };
        let mut text = format!(
            "\n# A recovery that mainstay prepared. Of no use once the server takes writes.\nrestore_command = {}\n",
            config_quoted(command)
        );
        for (name, value) in &values {
            text.push_str(&format!("{name} = {}\n", config_quoted(value)));
        }
        text.push_str(&format!(
            "recovery_target_inclusive = {}\nrecovery_target_timeline = '{}'\nrecovery_target_action = '{action}'\n",
            self.inclusive, self.timeline
        ));
        text
    }
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn recovery(target: RecoveryTarget) -> Recovery {
        Recovery {
            asked: target.clone(),
            target,
            inclusive: true,
            server: "7".to_owned(),
            timeline: 2,
            from: Lsn(1),
            stop: Lsn(2),
            action: RecoveryAction::Pause,
        }
    }

    #[test]
    fn a_command_reaches_the_server_as_it_was_meant() {
        let words =
            ["/opt/it's here/mainstay", "--config", "/etc/100%.toml", "wal", "fetch"].map(str::to_owned);
        let command = FetchCommand(words.to_vec()).for_server("7");
        assert_eq!(
            command,
            r#"'/opt/it'\''s here/mainstay' --config '/etc/100%%.toml' wal fetch --prefetch 8 --server 7 "%f" "%p""#
        );
        let setting = config_quoted(&command);
        assert!(setting.starts_with(r"'''/opt/it''\\''''s here/mainstay'' "), "{setting}");
        assert_eq!(config_quoted("a\nb"), r"'a\nb'", "a line stays one line");
    }

    #[test]
    fn one_target_is_set_and_every_other_taken_back() {
        let at = "2026-11-25T19:00:00.000123Z".parse().unwrap();
        let cases = [
            (RecoveryTarget::Lsn(Lsn(0x300_0028)), "recovery_target_lsn = '0/3000028'"),
            (RecoveryTarget::Name("it's".to_owned()), "recovery_target_name = 'it''s'"),
            (RecoveryTarget::Time(at), "recovery_target_time = '2026-11-25 19:00:00.000123+00'"),
            (RecoveryTarget::Xid(735), "recovery_target_xid = '735'"),
        ];
        for (target, line) in cases {
            let settings = recovery(target).settings("x");
            assert!(settings.contains(line), "{settings}");
            let targets =
                settings.lines().filter(|line| line.starts_with("recovery_target") && line.ends_with('\''));
            assert_eq!(targets.take(5).last(), Some(line), "{settings}");
            let empty =
                settings.lines().filter(|line| line.starts_with("recovery_target") && line.ends_with("= ''"));
            assert_eq!(empty.count(), 4, "{settings}");
        }
        let latest = recovery(RecoveryTarget::Latest).settings("x");
        assert_eq!(latest.lines().filter(|line| line.ends_with("= ''")).count(), 5, "{latest}");
        assert!(
            latest.contains("recovery_target_timeline = '2'") && latest.contains("action = 'pause'"),
            "{latest}"
        );
    }
}
