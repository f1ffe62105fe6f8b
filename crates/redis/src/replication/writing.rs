//! Waiting until a server that was filled has written down what it holds.
//!
//! A server that keeps an append-only file makes that anew when it has loaded what fills it; until that has ended it would start from what it
//! held before. One without would start from the file that it was sent, which lies in its folder: without the stream, and with the marker of
//! the server that the file is of. So of that a snapshot is made, whatever its own rules say. Relies on `INFO`; asks for nothing but `BGSAVE`.
//! Refuses to take a status from before the fill for one of it.
//!
//! Source: Redis documentation, "Redis persistence" and INFO; `replication.c` and `aof.c` of Redis 7 and 8.

use std::time::Duration;

use mainstay_engine::{PersistenceLook, WrittenAs};
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{Error, ErrorKind, Result, ResultExt};
use redis::cmd;
use tokio::time::{Instant, sleep};

use crate::info::Info;
use crate::probe::read_info;
use crate::server::look::persistence;
use crate::session::Session;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long it may write.
const WRITE_TIME_MAX: Duration = Duration::from_secs(6 * 3_600);
/// How often a snapshot is begun that another one is in the way of.
const SNAPSHOT_TRIES_MAX: u32 = 20;

/// What to do where it could not.
const WAY_OUT: &str = "look into its log, mend the disk or the folder's rights, then type `BGREWRITEAOF`, or `BGSAVE` where it keeps no such \
                       file, and look at `INFO persistence`";

/// A server that writes down what it holds.
pub(super) struct Writing<'a, 's> {
    session: &'a mut Session<'s>,
    /// The process that was filled.
    process: &'a str,
    /// Its disk before that.
    before: &'a PersistenceLook,
    observer: &'a dyn Observer,
    /// Keys that were told to be written.
    told: u64,
}

impl<'a, 's> Writing<'a, 's> {
    /// Of the server behind `session`, whose `process` was filled, and whose disk was as it is `before` that.
    pub(super) fn new(
        session: &'a mut Session<'s>,
        process: &'a str,
        before: &'a PersistenceLook,
        observer: &'a dyn Observer,
    ) -> Self {
        Self { session, process, before, observer, told: 0 }
    }

    /// Waits until a restart would bring back what the server holds.
    ///
    /// # Errors
    /// `Server` when it could not write, or began anew meanwhile; `Unreachable` when it does not answer.
    pub(super) async fn end(mut self) -> Result<WrittenAs> {
        match self.look().await?.1.log_on {
            true => self.log().await.map(|()| WrittenAs::AppendOnlyFile),
            false => self.snapshot().await,
        }
    }

    /// What the server says, and what that says of its disk.
    async fn look(&mut self) -> Result<(Info, PersistenceLook)> {
        let info = read_info(self.session).await.context("read facts of Redis")?;
        if info.required("run_id")? != self.process {
            return Err(Error::new(
                ErrorKind::Server,
                "the server ended and began anew before it had written what it was filled with",
            )
            .with_hint(
                "look into its log, then make a new plan: `mainstay restore plan --store redis --drop`",
            ));
        }
        self.tell(&info);
        let disk = persistence(&info, None);
        Ok((info, disk))
    }

    /// Tells how far it is; what another child wrote before is no part of it.
    fn tell(&mut self, info: &Info) {
        let number = |name: &str| info.number(name).unwrap_or(0);
        let (done, total) = (number("current_save_keys_processed"), number("current_save_keys_total"));
        if done < self.told {
            self.told = 0;
        }
        self.observer.expect(Work { items: total, bytes: 0 });
        self.observer.advance(Work { items: done - self.told, bytes: 0 });
        self.told = done;
    }

    /// Looks until `judge` comes to an end.
    async fn wait(&mut self, judge: impl Fn(&PersistenceLook) -> Option<Result<()>>) -> Result<()> {
        let deadline = Instant::now() + WRITE_TIME_MAX;
        loop {
            if let Some(end) = judge(&self.look().await?.1) {
                return end;
            }
            if Instant::now() >= deadline {
                return Err(unwritten("the server has not ended writing for hours"));
            }
            sleep(LOOK).await;
        }
    }

    /// Waits for the append-only file, which the server has begun to make anew before it took the first command of the stream.
    async fn log(&mut self) -> Result<()> {
        let before = self.before;
        self.wait(|disk| log_verdict(before, disk)).await
    }

    /// Has a snapshot made that begins now; one that is under way may be of before.
    async fn snapshot(&mut self) -> Result<WrittenAs> {
        let mut tries = 0;
        let begun_at = loop {
            self.wait(|disk| (!disk.saving && !disk.log_rewriting).then_some(Ok(()))).await?;
            let seconds = self.look().await?.0.number("server_time_usec").unwrap_or(0) / 1_000_000;
            match self.session.ask_if_allowed::<String>(&cmd("BGSAVE")).await {
                Ok(Some(_)) => break seconds,
                Ok(None) => return Ok(WrittenAs::Nothing),
                Err(error) if error.kind() == ErrorKind::Conflict && tries < SNAPSHOT_TRIES_MAX => tries += 1,
                Err(error) => return Err(error.context("begin a snapshot of Redis").with_hint(WAY_OUT)),
            }
        };
        self.wait(|disk| match (disk.saving, disk.save_ok && disk.saved_at >= begun_at) {
            (true, _) => None,
            (false, true) => Some(Ok(())),
            (false, false) => Some(Err(unwritten("the server could not write a snapshot of what it holds"))),
        })
        .await?;
        Ok(WrittenAs::Snapshot)
    }
}

/// Whether the append-only file is there, or was not to be had; nothing while it is being written. A status may be from before the fill, and
/// after a failure the server tries again by itself, at ever longer intervals.
fn log_verdict(before: &PersistenceLook, disk: &PersistenceLook) -> Option<Result<()>> {
    let is_sound = disk.log_rewrite_ok && disk.log_write_ok;
    let has_failed = disk.log_rewrite_failures > before.log_rewrite_failures
        || (before.log_rewrite_ok && !disk.log_rewrite_ok)
        || (!disk.log_rewriting && !is_sound);
    match (has_failed, disk.log_rewriting) {
        (true, _) => Some(Err(unwritten("the server could not write its append-only file anew"))),
        (false, true) => None,
        (false, false) => Some(Ok(())),
    }
}

fn unwritten(what: &str) -> Error {
    Error::new(ErrorKind::Server, what).with_hint(WAY_OUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_only_file_is_waited_for_until_it_is_there_or_will_not_be() {
        let disk = |told: &str| persistence(&Info::parse(&format!("aof_enabled:1\r\n{told}")), None);
        let (sound, failed) = (disk(""), disk("aof_last_bgrewrite_status:err\r\n"));
        let verdict = |before: &PersistenceLook, told: &str| {
            log_verdict(before, &disk(told)).map(|end| end.map_err(|error| error.kind()))
        };
        let (written, lost) = (Some(Ok(())), Some(Err(ErrorKind::Server)));
        for (before, told, expected) in [
            (&sound, "", &written),
            (&sound, "aof_rewrite_in_progress:1\r\n", &None),
            (&sound, "aof_rewrite_scheduled:1\r\n", &None),
            (&sound, "aof_last_bgrewrite_status:err\r\n", &lost),
            (&sound, "aof_last_bgrewrite_status:err\r\naof_rewrite_scheduled:1\r\n", &lost),
            (&sound, "aof_last_write_status:err\r\n", &lost),
            (&failed, "aof_last_bgrewrite_status:err\r\naof_rewrite_in_progress:1\r\n", &None),
            (&failed, "aof_last_bgrewrite_status:err\r\naof_rewrite_scheduled:1\r\n", &None),
            (&failed, "aof_last_bgrewrite_status:err\r\n", &lost),
            (
                &failed,
                "aof_last_bgrewrite_status:err\r\naof_rewrite_scheduled:1\r\naof_rewrites_consecutive_failures:1\r\n",
                &lost,
            ),
            (&failed, "aof_last_bgrewrite_status:ok\r\n", &written),
        ] {
            assert_eq!(&verdict(before, told), expected, "{told:?}");
        }
    }
}
