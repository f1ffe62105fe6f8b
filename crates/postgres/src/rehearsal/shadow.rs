//! Databases of our own: made, filled with the live schema by the server's own programs, removed.
//!
//! A shadow has a name that nobody else would choose and bears a mark made of that name, so that whoever finds it knows whose it is. While its run lives
//! somebody is connected to it, and PostgreSQL drops no database that somebody is connected to: what can be dropped was left by a run
//! that is gone. Between making and connecting only one run at a time is at work, by an advisory lock that is polled for and never waited in:
//! who waits in one holds a snapshot, which index builds wait for. Foreign tables of a shadow lead nowhere: user mappings do not come along.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use mainstay_engine::{DatabaseFacts, ShadowContents, Told, WorkingDatabase};
use mainstay_model::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

use crate::config::Settings;
use crate::logical::ProgramPlaces;
use crate::logical::databases::Databases;
use crate::logical::passfile::PrivateFolder;
use crate::logical::program::{Pipe, connection, find, major_of};
use crate::quote::name as quoted;
use crate::session::Session;

/// With what the names of shadows begin.
const PREFIX: &str = "mainstay_shadow_";
/// The advisory lock of making one: "shadow" as a number.
const TURN: i64 = 0x7368_6164_6f77;
/// Where it is taken.
const COMMON: &str = "postgres";
/// How long to wait for one's turn.
const TURN_TIME_MAX: Duration = Duration::from_secs(60);
/// How often to ask for it.
const TURN_PAUSE: Duration = Duration::from_millis(100);
/// How long the dump waits for a table that somebody has locked. It waits with locks on others, behind which whoever changes these queues,
/// and everybody behind them.
const LOCK_WAIT_SECONDS_MAX: u32 = 10;
/// How much is carried from one program to the other at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// A shadow by its name.
fn working(name: String) -> WorkingDatabase {
    let mark = format!("mainstay shadow {name}: a rehearsal's own, which the next one removes");
    WorkingDatabase { name, mark }
}

/// Removes what is left, and makes a new one like the live database; gives it with the connection that keeps it.
pub(super) async fn create(
    shadows: &Settings,
    live: &DatabaseFacts,
    told: &Told<'_>,
) -> Result<(WorkingDatabase, Session<'static>)> {
    let databases = Databases::new(shadows);
    let server = databases.server().await?;
    if major_of(&server.version) != major_of(&live.server.version) {
        return Err(unfit(format!(
            "shadows would be made by PostgreSQL {}, the live server is {}: they lock and rewrite differently",
            server.version, live.server.version
        )));
    }
    if server.topology == "standby" {
        return Err(unfit(format!("{} is a standby: no database can be made on it", server.address)));
    }
    let turn = take_turn(shadows).await?;
    remove_left(&databases, told).await?;
    let shadow = working(format!("{PREFIX}{:016x}", RandomState::new().build_hasher().finish()));
    let made = databases.create(&shadow, &live.definition, None).await;
    made.map_err(|error| match error.kind() {
        ErrorKind::Auth => error.with_state("nothing was changed").with_hint(format!(
            "`ALTER ROLE {} CREATEDB` as a superuser, or name a server for shadows: `shadow_url` in [sql], or --shadow-url",
            quoted(shadows.user())
        )),
        _ => error,
    })?;
    let kept = Session::open_for_long(&databases.settings_of(&shadow.name)).await;
    drop(turn);
    match kept {
        Ok(session) => Ok((shadow, session)),
        Err(error) => {
            // What cannot be removed now is removed by the next one.
            drop(databases.discard(&shadow).await);
            Err(error)
        }
    }
}

fn unfit(message: String) -> Error {
    Error::new(ErrorKind::Precondition, message).with_state("nothing was changed").with_hint(
        "name a server of the same major version that may make databases: `shadow_url` in [sql], or --shadow-url",
    )
}

/// A session that holds the turn until it is dropped. Advisory locks are those of one database, so that all take it in the one that every server
/// has; where that lets nobody in, the turn is that of the database alone, and the later of two who come from different ones may fail.
async fn take_turn(shadows: &Settings) -> Result<Session<'static>> {
    let common = Databases::new(shadows).settings_of(COMMON);
    let session = match Session::open_for_long(&common).await {
        Ok(session) => session,
        Err(_) => Session::open_for_long(shadows).await?,
    };
    let begun = Instant::now();
    loop {
        let row = session.row(&format!("SELECT pg_try_advisory_lock({TURN}) AS taken")).await?;
        if session.truth(&row, "taken") {
            return Ok(session);
        }
        if begun.elapsed() > TURN_TIME_MAX {
            return Err(Error::new(
                ErrorKind::Locked,
                "somebody else has been making a shadow database for a minute",
            )
            .with_state("nothing was changed")
            .with_hint("`mainstay pg activity --all` shows who is connected"));
        }
        sleep(TURN_PAUSE).await;
    }
}

/// Removes shadows that bear their mark and that nobody is connected to.
async fn remove_left(databases: &Databases<'_>, told: &Told<'_>) -> Result<()> {
    for (name, mark) in databases.unused(PREFIX).await? {
        let left = working(name);
        if mark.is_some_and(|mark| mark != left.mark) {
            continue;
        }
        // Who is at work there, or may not be asked, keeps it: it is no trouble of this run.
        if databases.remove(&left).await.is_ok_and(|was_there| was_there) {
            told(&format!("removed database {}, which a rehearsal that was killed had left", left.name));
        }
    }
    Ok(())
}

/// Fills the shadow called `name` from the live database.
pub(super) async fn fill(
    live: &Settings,
    shadows: &Settings,
    name: &str,
    contents: ShadowContents,
    places: &ProgramPlaces,
) -> Result<()> {
    if contents == ShadowContents::Nothing {
        return Ok(());
    }
    let facts = Databases::new(live).facts(None).await?;
    let version = &facts.server.version;
    let (dump, restore) =
        (find("pg_dump", version, places).await?, find("pg_restore", version, places).await?);
    let private = PrivateFolder::create(&places.temporary)?;
    let private_too = PrivateFolder::create(&places.temporary)?;

    let mut reading = words(&["--format=custom", "--compress=none", "--no-password"]);
    // Whose things are is of no matter here, and what reaches beyond the database must not be made twice.
    reading.extend(words(&["--no-owner", "--no-privileges", "--no-publications", "--no-subscriptions"]));
    reading.extend(words(&["--no-security-labels", "--no-tablespaces", "--exclude-schema=mainstay"]));
    reading.push(format!("--lock-wait-timeout={LOCK_WAIT_SECONDS_MAX}s"));
    if contents == ShadowContents::Schema {
        reading.extend(words(&["--schema-only"]));
    }
    reading.push(format!("--dbname={}", connection(live, &facts.definition.name, &private)?));
    let mut writing = words(&["--format=custom", "--exit-on-error", "--no-password", "--no-owner"]);
    writing.extend(words(&["--no-privileges"]));
    writing.push(format!("--dbname={}", connection(shadows, name, &private_too)?));

    let (mut source, mut sink) = (dump.start(&reading, Pipe::Output)?, restore.start(&writing, Pipe::Input)?);
    let (mut output, mut input) = (source.take_output()?, sink.take_input()?);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = output.read(&mut piece).await.map_err(|error| source.broken(&error))?;
        if read == 0 {
            break;
        }
        if input.write_all(piece.get(..read).unwrap_or_default()).await.is_err() {
            // It wants no more: its own words say why.
            sink.end().await?;
            return Err(Error::new(ErrorKind::Server, "pg_restore ended before the dump did"));
        }
    }
    source.end().await.map_err(locked_out)?;
    // A program that has all it wants may have closed its end.
    drop(input.shutdown().await);
    drop(input);
    sink.end().await?;
    forget_other_servers(&Databases::new(shadows).settings_of(name)).await
}

/// What the dump's failure means when it waited for a lock in vain.
fn locked_out(failed: Error) -> Error {
    match failed.message().contains("due to statement timeout") {
        true => Error::new(
            ErrorKind::Locked,
            format!("somebody has a table of the live database locked: its schema was not to be read for {LOCK_WAIT_SECONDS_MAX} s"),
        )
        .with_source(failed)
        .with_state("nothing was changed")
        .with_hint("`mainstay pg blockers` shows who; then run the same command again"),
        false => failed,
    }
}

/// Takes away what foreign tables reach other servers with: what is written through them is committed there, and no shadow takes it back.
async fn forget_other_servers(inside: &Settings) -> Result<()> {
    let session = Session::open(inside).await?;
    let rows = session.rows("SELECT srvname, umuser = 0 AS everybody, usename FROM pg_user_mappings").await?;
    for row in &rows {
        let who = match session.truth(row, "everybody") {
            true => "PUBLIC".to_owned(),
            false => quoted(session.text(row, "usename")?),
        };
        let server = quoted(session.text(row, "srvname")?);
        session.rows(&format!("DROP USER MAPPING FOR {who} SERVER {server}")).await?;
    }
    Ok(())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_its_name() {
        let (one, other) = (working(format!("{PREFIX}1")), working(format!("{PREFIX}2")));
        assert!(one.mark.contains(&one.name) && one.mark != other.mark);
    }
}
