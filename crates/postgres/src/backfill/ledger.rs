//! The ledger: what was begun, who is at it, how far it is.
//!
//! A run is held by a token in its row, good for as long as the holder said and renewed by the server's clock. The segments bear the token, too: a
//! step of somebody who lost the run finds no segment.

use mainstay_engine::{Backfill, BackfillClaim, BackfillHold, BackfillRun, BackfillStatus, ClaimFor};
use mainstay_model::{Error, ErrorKind, Result, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::step::drawn;
use super::{PostgresBackfill, Value, Work, count, not_understood, optional, text};
use crate::session::Session;

/// Fewer rows than this are one segment.
const SEGMENT_ROWS_MIN: u64 = 5_000;
/// How many keys are drawn for each segment, so that their borders lie about evenly.
const SAMPLES_PER_SEGMENT: u64 = 20;

/// The tables of the ledger. Each is made by a statement of its own, so that two who begin at the same moment hinder nobody for long.
const TABLES: &str = "\
    CREATE SCHEMA IF NOT EXISTS mainstay; \
    CREATE TABLE IF NOT EXISTS mainstay.ledger (id text PRIMARY KEY, place text NOT NULL, checksum text NOT NULL, \
    status text NOT NULL, paused boolean NOT NULL DEFAULT false, token text, holder text, by_whom text NOT NULL, \
    begun_at timestamptz NOT NULL, beat_at timestamptz NOT NULL, ended_at timestamptz, lease_ms bigint NOT NULL, \
    round bigint NOT NULL, tool_version text NOT NULL, keeps_undo boolean NOT NULL); \
    CREATE TABLE IF NOT EXISTS mainstay.backfill_segments (run text NOT NULL, round bigint NOT NULL, number bigint NOT NULL, \
    at text, before text, done boolean NOT NULL DEFAULT false, changed bigint NOT NULL DEFAULT 0, parts bigint NOT NULL DEFAULT 0, \
    token text, PRIMARY KEY (run, round, number)); \
    CREATE TABLE IF NOT EXISTS mainstay.backfill_undo (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run text NOT NULL, \
    round bigint NOT NULL, segment bigint NOT NULL, part bigint NOT NULL, count bigint NOT NULL, entries jsonb, \
    undone boolean NOT NULL DEFAULT false, restored bigint NOT NULL DEFAULT 0, left_behind jsonb); \
    CREATE INDEX IF NOT EXISTS backfill_undo_run ON mainstay.backfill_undo (run) WHERE NOT undone";

/// Somebody else holds the run.
pub(super) fn lost(id: &str) -> Error {
    Error::new(ErrorKind::Locked, format!("somebody else has taken the backfill {id} over"))
        .with_state("what this run had changed stays; the other goes on from there")
        .with_hint("`mainstay backfill list` tells who is at it")
}

/// A run as it was taken.
struct Taken {
    status: Option<BackfillStatus>,
    paused: bool,
    round: u32,
    keeps_undo: bool,
}

pub(super) async fn claim(
    store: &PostgresBackfill,
    work: &Work<'_>,
    backfill: &Backfill,
    claim: &BackfillClaim,
) -> Result<BackfillHold> {
    prepare(store).await?;
    let checksum = backfill.checksum()?.to_string();
    if claim.purpose != ClaimFor::Undo {
        introduce(store, backfill, &checksum, claim).await?;
    }
    let token = store.asked("SELECT gen_random_uuid()::text", &[]).await?;
    let token = text(token.first().ok_or_else(|| not_understood("it sent no row"))?, 0)?;
    let taken = take(store, backfill, &checksum, claim, &token).await?;
    let held = Held { store, work, id: &backfill.id, token: &token };
    match held.arranged(&taken, claim).await {
        Ok(hold) => Ok(hold),
        Err(error) => {
            // The claim runs out by itself where it cannot be given back.
            let _ = held.let_go().await;
            Err(error)
        }
    }
}

/// Makes the tables where they are not there. `IF NOT EXISTS` does not keep two who make them at the same moment apart: the second is refused, and
/// finds them the next time.
async fn prepare(store: &PostgresBackfill) -> Result<()> {
    let there = "SELECT (to_regclass('mainstay.ledger') IS NOT NULL AND to_regclass('mainstay.backfill_segments') IS NOT NULL \
         AND to_regclass('mainstay.backfill_undo') IS NOT NULL)::text";
    // Whoever may use them need not be allowed to make them.
    if let Some(row) = store.asked(there, &[]).await?.first()
        && text(row, 0)? == "true"
    {
        return Ok(());
    }
    let mut tries = 0;
    loop {
        let client = store.client().await?;
        match store.plain(&client, TABLES).await {
            Ok(()) => {
                store.keep(client);
                return Ok(());
            }
            Err(_) if tries < 3 => tries += 1,
            Err(refusal) => return Err(refusal.into()),
        }
    }
}

async fn introduce(
    store: &PostgresBackfill,
    backfill: &Backfill,
    checksum: &str,
    claim: &BackfillClaim,
) -> Result<()> {
    let statement = "INSERT INTO mainstay.ledger (id, place, checksum, status, by_whom, begun_at, beat_at, lease_ms, round, tool_version, keeps_undo) \
         VALUES ($1::text, $2::text, $3::text, $4::text, $5::text, clock_timestamp(), clock_timestamp(), 0, 0, $6::text, $7::text::boolean) \
         ON CONFLICT (id) DO NOTHING";
    let (place, keeps_undo) = (backfill.place(), backfill.keeps_undo.to_string());
    let status = BackfillStatus::Running.name();
    let values: [Value<'_>; 7] =
        [&backfill.id, &place, &checksum, &status, &claim.holder, &claim.tool_version, &keeps_undo];
    store.asked(statement, &values).await.map(drop)
}

/// Takes the run, unless somebody who was heard of lately holds it.
async fn take(
    store: &PostgresBackfill,
    backfill: &Backfill,
    checksum: &str,
    claim: &BackfillClaim,
    token: &str,
) -> Result<Taken> {
    let statement = "UPDATE mainstay.ledger SET token = $3::text, holder = $4::text, by_whom = $4::text, lease_ms = $5::text::bigint, \
         beat_at = clock_timestamp(), tool_version = $6::text \
         WHERE id = $1::text AND checksum = $2::text \
         AND (token IS NULL OR beat_at < clock_timestamp() - lease_ms * interval '1 millisecond') \
         RETURNING status, paused::text, round::text, keeps_undo::text";
    let lease_ms = claim.lease.as_millis().to_string();
    let values: [Value<'_>; 6] =
        [&backfill.id, &checksum, &token, &claim.holder, &lease_ms, &claim.tool_version];
    let rows = store.asked(statement, &values).await?;
    let Some(row) = rows.first() else { return Err(not_taken(store, &backfill.id, checksum).await?) };
    Ok(Taken {
        status: BackfillStatus::of_name(&text(row, 0)?),
        paused: text(row, 1)? == "true",
        round: u32::try_from(count(row, 2)?).unwrap_or(u32::MAX),
        keeps_undo: text(row, 3)? == "true",
    })
}

/// Why a run could not be taken.
async fn not_taken(store: &PostgresBackfill, id: &str, checksum: &str) -> Result<Error> {
    let query = "SELECT checksum, coalesce(holder, ''), (lease_ms / 1000)::text FROM mainstay.ledger WHERE id = $1::text";
    let rows = store.asked(query, &[&id]).await?;
    let Some(row) = rows.first() else { return Ok(never_begun(id)) };
    if text(row, 0)? != checksum {
        return Ok(Error::new(
            ErrorKind::Precondition,
            format!("the backfill {id} was declared otherwise when it was first run"),
        )
        .with_state("nothing was changed")
        .with_hint("give what is declared now an id of its own, or declare it again as it was"));
    }
    let (holder, seconds) = (text(row, 1)?, text(row, 2)?);
    Ok(Error::new(ErrorKind::Locked, format!("{holder} is at the backfill {id}"))
        .with_state("nothing was changed")
        .with_hint(format!(
            "wait until it ends, or `mainstay backfill pause {id}`; a holder that was killed is forgotten after {seconds} s"
        )))
}

fn never_begun(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the backfill {id} was never run here"))
        .with_state("nothing was changed")
        .with_hint("`mainstay backfill list` tells what has run")
}

/// A run that was taken a moment ago.
struct Held<'a> {
    store: &'a PostgresBackfill,
    work: &'a Work<'a>,
    id: &'a str,
    token: &'a str,
}

impl Held<'_> {
    async fn arranged(&self, taken: &Taken, claim: &BackfillClaim) -> Result<BackfillHold> {
        let refused = |message: String, hint: String| {
            Err(Error::new(ErrorKind::Precondition, message)
                .with_state("nothing was changed")
                .with_hint(hint))
        };
        let (id, round) = (self.id, taken.round);
        match (claim.purpose, taken.status) {
            (ClaimFor::Run { resumes: false }, _) if taken.paused => refused(
                format!("the backfill {id} is paused"),
                format!("`mainstay backfill resume {id}` goes on"),
            ),
            (ClaimFor::Run { .. }, Some(BackfillStatus::Undoing)) => refused(
                format!("the backfill {id} is being brought back, and that is not at its end"),
                format!("`mainstay backfill undo {id}` goes on with that"),
            ),
            (ClaimFor::Run { .. }, Some(BackfillStatus::Running)) if round > 0 => {
                self.set_status(BackfillStatus::Running, round).await?;
                self.hold(round, true).await
            }
            (ClaimFor::Run { .. }, _) => {
                let round = round + 1;
                self.cut(round, claim.segments_max).await?;
                self.set_status(BackfillStatus::Running, round).await?;
                self.hold(round, false).await
            }
            (ClaimFor::Undo, _) if !taken.keeps_undo => refused(
                format!("nothing was kept by the backfill {id}: it was run with `undo = false`"),
                "bring the data back from a backup: `mainstay backup list`".to_owned(),
            ),
            (ClaimFor::Undo, status) => {
                self.set_status(BackfillStatus::Undoing, round).await?;
                self.hold(round, status == Some(BackfillStatus::Undoing)).await
            }
        }
    }

    async fn set_status(&self, status: BackfillStatus, round: u32) -> Result<()> {
        let statement = "UPDATE mainstay.ledger SET status = $3::text, round = $4::text::bigint, paused = false, ended_at = NULL \
             WHERE id = $1::text AND token = $2::text RETURNING 1::text";
        let (name, round) = (status.name(), round.to_string());
        let values: [Value<'_>; 4] = [&self.id, &self.token, &name, &round];
        match self.store.asked(statement, &values).await?.is_empty() {
            true => Err(lost(self.id)),
            false => Ok(()),
        }
    }

    /// Gives every segment of the walk the token, and tells which are open.
    async fn hold(&self, round: u32, resumed: bool) -> Result<BackfillHold> {
        let statement = "UPDATE mainstay.backfill_segments SET token = $3::text \
             WHERE run = $1::text AND round = $2::text::bigint RETURNING number::text, done::text, changed::text";
        let number = round.to_string();
        let values: [Value<'_>; 3] = [&self.id, &number, &self.token];
        let (mut open_segments, mut changed) = (Vec::new(), 0_u64);
        for row in self.store.asked(statement, &values).await? {
            changed = changed.saturating_add(count(&row, 2)?);
            if text(&row, 1)? != "true" {
                open_segments.push(u32::try_from(count(&row, 0)?).unwrap_or(u32::MAX));
            }
        }
        open_segments.sort_unstable();
        Ok(BackfillHold {
            id: self.id.to_owned(),
            token: self.token.to_owned(),
            round,
            open_segments,
            changed,
            resumed,
        })
    }

    /// Cuts the table into segments of about the same size. The walk that they are of has not begun; what a kill leaves of it is cut anew.
    async fn cut(&self, round: u32, count_max: u32) -> Result<()> {
        let borders = self.borders(count_max).await?;
        let delete =
            "DELETE FROM mainstay.backfill_segments WHERE run = $1::text AND round = $2::text::bigint";
        let insert = "WITH borders AS (SELECT border, place FROM jsonb_array_elements_text($3::text::jsonb) WITH ORDINALITY AS b (border, place)) \
             INSERT INTO mainstay.backfill_segments (run, round, number, at, before) \
             SELECT $1::text, $2::text::bigint, n, (SELECT border FROM borders WHERE place = n), (SELECT border FROM borders WHERE place = n + 1) \
             FROM generate_series(0, (SELECT count(*) FROM borders)) n";
        let list = serde_json::to_string(&borders).map_err(|error| not_understood(&error.to_string()))?;
        let number = round.to_string();
        self.store.asked(delete, &[&self.id, &number]).await?;
        self.store.asked(insert, &[&self.id, &number, &list]).await.map(drop)
    }

    /// Keys at which segments end, by the order of the key, none twice.
    async fn borders(&self, count_max: u32) -> Result<Vec<String>> {
        let look = super::step::estimated(self.store, self.work).await?;
        let wanted = u64::from(count_max).min(look / SEGMENT_ROWS_MIN).max(1);
        if wanted == 1 {
            return Ok(Vec::new());
        }
        let mut keys = drawn(self.store, self.work, look, wanted * SAMPLES_PER_SEGMENT).await?;
        keys.dedup();
        let wanted = usize::try_from(wanted).unwrap_or(1);
        let stride = keys.len() / wanted;
        if stride == 0 {
            return Ok(Vec::new());
        }
        Ok(keys.into_iter().skip(stride).step_by(stride).take(wanted - 1).collect())
    }

    async fn let_go(&self) -> Result<()> {
        let statement =
            "UPDATE mainstay.ledger SET token = NULL, holder = NULL WHERE id = $1::text AND token = $2::text";
        self.store.asked(statement, &[&self.id, &self.token]).await.map(drop)
    }
}

pub(super) async fn beat(store: &PostgresBackfill, hold: &BackfillHold) -> Result<bool> {
    let statement = "UPDATE mainstay.ledger SET beat_at = clock_timestamp() WHERE id = $1::text AND token = $2::text RETURNING paused::text";
    let rows = store.asked(statement, &[&hold.id, &hold.token]).await?;
    match rows.first() {
        Some(row) => Ok(text(row, 0)? == "true"),
        None => Err(lost(&hold.id)),
    }
}

pub(super) async fn release(store: &PostgresBackfill, hold: &BackfillHold, at_end: bool) -> Result<()> {
    let statement = match at_end {
        true => {
            "UPDATE mainstay.ledger SET token = NULL, holder = NULL, beat_at = clock_timestamp(), ended_at = clock_timestamp(), \
             paused = false, status = CASE status WHEN 'undoing' THEN 'undone' ELSE 'done' END WHERE id = $1::text AND token = $2::text"
        }
        false => {
            "UPDATE mainstay.ledger SET token = NULL, holder = NULL, beat_at = clock_timestamp() WHERE id = $1::text AND token = $2::text"
        }
    };
    store.asked(statement, &[&hold.id, &hold.token]).await.map(drop)
}

pub(super) async fn pause(store: &PostgresBackfill, id: &str) -> Result<()> {
    let known = runs(store).await?;
    let Some(run) = known.into_iter().find(|run| run.id == id) else { return Err(never_begun(id)) };
    let statement = "UPDATE mainstay.ledger SET paused = true WHERE id = $1::text AND status = 'running' RETURNING 1::text";
    match store.asked(statement, &[&id]).await?.is_empty() {
        false => Ok(()),
        true => {
            Err(Error::new(ErrorKind::Precondition, format!("the backfill {id} is {}", run.status.name()))
                .with_state("nothing was changed"))
        }
    }
}

pub(super) async fn runs(store: &PostgresBackfill) -> Result<Vec<BackfillRun>> {
    let query = "SELECT l.id, l.place, l.checksum, l.status, l.paused::text, \
         CASE WHEN l.token IS NOT NULL AND l.beat_at >= clock_timestamp() - l.lease_ms * interval '1 millisecond' THEN l.holder END, \
         l.by_whom, floor(1000 * extract(epoch FROM l.begun_at))::bigint::text, floor(1000 * extract(epoch FROM l.beat_at))::bigint::text, \
         l.tool_version, l.keeps_undo::text, \
         (SELECT count(*) FROM mainstay.backfill_segments s WHERE s.run = l.id AND s.round = l.round)::text, \
         (SELECT count(*) FROM mainstay.backfill_segments s WHERE s.run = l.id AND s.round = l.round AND s.done)::text, \
         (SELECT coalesce(sum(s.changed), 0) FROM mainstay.backfill_segments s WHERE s.run = l.id)::text, \
         (SELECT coalesce(sum(u.restored), 0) FROM mainstay.backfill_undo u WHERE u.run = l.id AND u.undone)::text \
         FROM mainstay.ledger l ORDER BY l.id";
    let session = Session::open(&store.settings).await?;
    let absent = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];
    // Where nothing was ever run there is no ledger.
    if session.rows_unless(&absent, "SELECT 1 FROM mainstay.ledger LIMIT 0").await?.is_none() {
        return Ok(Vec::new());
    }
    store.asked(query, &[]).await?.iter().map(described).collect()
}

fn described(row: &Row) -> Result<BackfillRun> {
    let time = |column: usize| -> Result<Timestamp> {
        let text = text(row, column)?;
        let millis = text.parse().ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
        millis.ok_or_else(|| not_understood(&format!("`{text}` is no time")))
    };
    let number = |column: usize| Ok::<_, Error>(u32::try_from(count(row, column)?).unwrap_or(u32::MAX));
    let status = text(row, 3)?;
    Ok(BackfillRun {
        id: text(row, 0)?,
        place: text(row, 1)?,
        checksum: text(row, 2)?,
        status: BackfillStatus::of_name(&status)
            .ok_or_else(|| not_understood(&format!("`{status}` is no status of a backfill")))?,
        paused: text(row, 4)? == "true",
        holder: optional(row, 5)?,
        by: text(row, 6)?,
        begun_at: time(7)?,
        beat_at: time(8)?,
        tool_version: text(row, 9)?,
        keeps_undo: text(row, 10)? == "true",
        segments: number(11)?,
        segments_done: number(12)?,
        changed: count(row, 13)?,
        restored: count(row, 14)?,
    })
}
