//! The ledger: what was begun, who is at it, how far it is; and what other tools say they have run.
//!
//! A run is held by a token inside its document, good for as long as the holder said and renewed by the server's clock. The segments bear the
//! token, too: a step of somebody who lost the run finds no segment. What has happened stays; nothing is removed but segments of a walk that
//! never began.

use bson::{Bson, Document, RawDocumentBuf, doc, rawdoc};
use mainstay_engine::{
    Backfill, BackfillClaim, BackfillHold, BackfillRun, BackfillStatus, ClaimFor, ImportedChange,
};
use mainstay_model::{Error, ErrorKind, Result, Timestamp};

use super::step::{bound, key_of};
use super::talk::{Failure, Talk, retried};
use super::{LEDGER, SEGMENTS, UNDO, Work};
use crate::catalog::OWN_DATABASE;
use crate::create::majority;
use crate::error::{code, driver_code};
use crate::metadata::array;
use crate::reply::number;
use crate::server::MongoServer;

/// How many keys are drawn for each segment, so that their borders lie about evenly.
const SAMPLES_PER_SEGMENT: u32 = 20;
/// Fewer documents than this are one segment.
const SEGMENT_DOCUMENTS_MIN: u64 = 5_000;

/// What a backfill is called in the store.
pub(super) fn key(database: &str, id: &str) -> String {
    format!("backfill/{database}/{id}")
}

/// What a segment is called.
pub(super) fn segment_name(key: &str, round: u32, number: u32) -> String {
    format!("{key}#{round}.{number}")
}

/// Somebody else holds the run.
pub(super) fn lost(id: &str) -> Error {
    Error::new(ErrorKind::Locked, format!("somebody else has taken the backfill {id} over"))
        .with_state("what this run had changed stays; the other goes on from there")
        .with_hint("`mainstay backfill list` tells who is at it")
}

pub(super) async fn claim(
    server: &MongoServer,
    work: &Work<'_>,
    backfill: &Backfill,
    claim: &BackfillClaim,
) -> Result<BackfillHold> {
    prepare(server).await?;
    let checksum = backfill.checksum()?.to_string();
    introduce(server, work, backfill, &checksum, claim).await?;
    let token = bson::oid::ObjectId::new().to_hex();
    let run = take(server, work, backfill, &checksum, claim, &token).await?;
    let held = Held { server, work, id: &backfill.id, token: &token };
    match held.arranged(&run, claim).await {
        Ok(hold) => Ok(hold),
        Err(error) => {
            // The claim runs out by itself where it cannot be given back.
            let _ = held.let_go().await;
            Err(error)
        }
    }
}

/// Makes the collections of the ledger where they are not there.
async fn prepare(server: &MongoServer) -> Result<()> {
    for name in [LEDGER, SEGMENTS, UNDO] {
        let command = rawdoc! { "create": name, "writeConcern": majority() };
        match server.driver_tell(OWN_DATABASE, command).await {
            Err(error) if driver_code(&error) != Some(code::NAMESPACE_EXISTS) => {
                return Err(server.explain(error).await);
            }
            _ => {}
        }
    }
    let index = rawdoc! { "key": { "run": 1, "undone": 1 }, "name": "run_1_undone_1" };
    let command = rawdoc! {
        "createIndexes": UNDO, "indexes": array([&index]), "writeConcern": majority(),
    };
    server.tell(OWN_DATABASE, command).await.map(drop)
}

/// Writes the run's document, where there is none.
async fn introduce(
    server: &MongoServer,
    work: &Work<'_>,
    backfill: &Backfill,
    checksum: &str,
    claim: &BackfillClaim,
) -> Result<()> {
    if claim.purpose == ClaimFor::Undo {
        return Ok(());
    }
    let now = server_time(server).await?;
    let insert = rawdoc! {
        "kind": "backfill", "database": work.namespace.database.as_str(), "id": backfill.id.as_str(),
        "place": work.namespace.to_string(), "checksum": checksum, "status": BackfillStatus::Running.name(),
        "paused": false, "by": claim.holder.as_str(), "begun_at": now, "beat_at": now, "lease_ms": 0_i64,
        "round": 0_i32, "tool_version": claim.tool_version.as_str(), "keeps_undo": backfill.keeps_undo,
    };
    let update = rawdoc! {
        "q": { "_id": work.key.as_str() }, "u": { "$setOnInsert": insert }, "upsert": true,
    };
    let command = rawdoc! { "update": LEDGER, "updates": array([&update]), "writeConcern": majority() };
    server.tell(OWN_DATABASE, command).await.map(drop)
}

/// Takes the run, unless somebody who was heard of lately holds it.
async fn take(
    server: &MongoServer,
    work: &Work<'_>,
    backfill: &Backfill,
    checksum: &str,
    claim: &BackfillClaim,
    token: &str,
) -> Result<Document> {
    let lease_ms = i64::try_from(claim.lease.as_millis()).unwrap_or(i64::MAX);
    let literal = |text: &str| rawdoc! { "$literal": text };
    let is_free = rawdoc! { "token": { "$exists": false } };
    let is_silent = rawdoc! { "$expr": { "$lt": ["$beat_at", { "$subtract": ["$$NOW", "$lease_ms"] }] } };
    let set = rawdoc! { "$set": {
        "token": literal(token), "holder": literal(&claim.holder), "by": literal(&claim.holder),
        "lease_ms": lease_ms, "beat_at": "$$NOW", "tool_version": literal(&claim.tool_version),
    } };
    let command = rawdoc! {
        "findAndModify": LEDGER,
        "query": { "_id": work.key.as_str(), "checksum": checksum, "$or": array([&is_free, &is_silent]) },
        "update": array([&set]), "new": true, "writeConcern": majority(),
    };
    let reply = server.tell(OWN_DATABASE, command).await?;
    match reply.get_document("value") {
        Ok(run) => {
            end_sessions(server, work, run).await?;
            Ok(run.clone())
        }
        Err(_) => Err(not_taken(find(server, &work.key).await?.as_ref(), backfill, checksum)),
    }
}

/// Ends the sessions of whoever held the run before: the server keeps the transactions of a killed process open, and everybody else out of
/// what they changed.
async fn end_sessions(server: &MongoServer, work: &Work<'_>, run: &Document) -> Result<()> {
    let Ok(sessions) = run.get_array("sessions") else { return Ok(()) };
    let sessions: Vec<RawDocumentBuf> =
        sessions.iter().filter_map(|id| RawDocumentBuf::try_from(&doc! { "id": id.clone() }).ok()).collect();
    // Where this is refused, they run out by themselves, and steps wait for that.
    let _ = server.tell("admin", rawdoc! { "killSessions": array(&sessions) }).await;
    let update = rawdoc! { "q": { "_id": work.key.as_str() }, "u": { "$unset": { "sessions": 1 } } };
    let command = rawdoc! { "update": LEDGER, "updates": array([&update]), "writeConcern": majority() };
    server.tell(OWN_DATABASE, command).await.map(drop)
}

/// Writes down in which session the holder of `token` is about to change something, once for each.
pub(super) async fn note_session(
    server: &MongoServer,
    work: &Work<'_>,
    token: &str,
    talk: &Talk<'_>,
) -> Result<(), Failure> {
    let Some(session) = talk.session_id().filter(|id| server.is_first_noted(token, &id.bytes)) else {
        return Ok(());
    };
    let update = rawdoc! {
        "q": { "_id": work.key.as_str(), "token": token }, "u": { "$addToSet": { "sessions": session } },
    };
    let command = rawdoc! { "update": LEDGER, "updates": array([&update]), "writeConcern": majority() };
    server.tell(OWN_DATABASE, command).await?;
    Ok(())
}

/// Why a run could not be taken.
fn not_taken(run: Option<&Document>, backfill: &Backfill, checksum: &str) -> Error {
    let id = &backfill.id;
    let Some(run) = run else { return never_begun(id) };
    let text = |name: &str| run.get_str(name).unwrap_or_default().to_owned();
    if text("checksum") != checksum {
        return Error::new(
            ErrorKind::Precondition,
            format!("the backfill {id} was declared otherwise when it was first run"),
        )
        .with_state("nothing was changed")
        .with_hint("give what is declared now an id of its own, or declare it again as it was");
    }
    Error::new(ErrorKind::Locked, format!("{} is at the backfill {id}", text("holder")))
        .with_state("nothing was changed")
        .with_hint(format!(
            "wait until it ends, or `mainstay backfill pause {id}`; a holder that was killed is forgotten after {} s",
            run.get_i64("lease_ms").unwrap_or(0) / 1_000
        ))
}

fn never_begun(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the backfill {id} was never run here"))
        .with_state("nothing was changed")
        .with_hint("`mainstay backfill list` tells what has run")
}

/// A run that was taken a moment ago.
struct Held<'a> {
    server: &'a MongoServer,
    work: &'a Work<'a>,
    id: &'a str,
    token: &'a str,
}

impl Held<'_> {
    async fn arranged(&self, run: &Document, claim: &BackfillClaim) -> Result<BackfillHold> {
        let status = BackfillStatus::of_name(run.get_str("status").unwrap_or_default());
        let round = u32::try_from(run.get_i32("round").unwrap_or(0)).unwrap_or(0);
        let refused = |message: String, hint: String| {
            Err(Error::new(ErrorKind::Precondition, message)
                .with_state("nothing was changed")
                .with_hint(hint))
        };
        let id = self.id;
        match (claim.purpose, status) {
            (ClaimFor::Run { resumes: false }, _) if run.get_bool("paused").unwrap_or(false) => refused(
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
            (ClaimFor::Undo, _) if !run.get_bool("keeps_undo").unwrap_or(false) => refused(
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
        let update = rawdoc! {
            "q": { "_id": self.work.key.as_str(), "token": self.token },
            "u": { "$set": { "status": status.name(), "paused": false, "round": i32::try_from(round).unwrap_or(i32::MAX) },
                   "$unset": { "ended_at": 1 } },
        };
        let command = rawdoc! { "update": LEDGER, "updates": array([&update]), "writeConcern": majority() };
        let reply = self.server.tell(OWN_DATABASE, command).await?;
        if number(&reply, "n") == Some(1) { Ok(()) } else { Err(lost(self.id)) }
    }

    /// Gives every segment of the walk the token, and tells which are open.
    async fn hold(&self, round: u32, resumed: bool) -> Result<BackfillHold> {
        let round_number = i64::from(round);
        let update = rawdoc! {
            "q": { "run": self.work.key.as_str(), "round": round_number },
            "u": { "$set": { "token": self.token } }, "multi": true,
        };
        let command = rawdoc! { "update": SEGMENTS, "updates": array([&update]), "writeConcern": majority() };
        self.server.tell(OWN_DATABASE, command).await?;
        let command = rawdoc! {
            "find": SEGMENTS, "filter": { "run": self.work.key.as_str(), "round": round_number },
            "projection": { "number": 1, "done": 1, "changed": 1 }, "sort": { "number": 1 },
        };
        let (mut open_segments, mut changed) = (Vec::new(), 0_u64);
        for segment in self.server.list(OWN_DATABASE, command).await? {
            changed = changed.saturating_add(segment.get_i64("changed").map_or(0, |n| n.unsigned_abs()));
            if !segment.get_bool("done").unwrap_or(false) {
                open_segments.push(u32::try_from(segment.get_i64("number").unwrap_or(0)).unwrap_or(0));
            }
        }
        Ok(BackfillHold {
            id: self.id.to_owned(),
            token: self.token.to_owned(),
            round,
            open_segments,
            changed,
            resumed,
        })
    }

    /// Cuts the collection into segments of about the same size.
    async fn cut(&self, round: u32, count_max: u32) -> Result<()> {
        let round_number = i64::from(round);
        let filter = rawdoc! { "run": self.work.key.as_str(), "round": round_number };
        let delete = rawdoc! { "q": filter, "limit": 0 };
        let command = rawdoc! { "delete": SEGMENTS, "deletes": array([&delete]), "writeConcern": majority() };
        self.server.tell(OWN_DATABASE, command).await?;
        let borders = self.borders(count_max).await?;
        let mut segments = Vec::with_capacity(borders.len() + 1);
        for number in 0..=borders.len() {
            let index = u32::try_from(number).unwrap_or(u32::MAX);
            let mut segment = rawdoc! {
                "_id": segment_name(&self.work.key, round, index), "run": self.work.key.as_str(),
                "round": round_number, "number": i64::from(index), "done": false, "changed": 0_i64,
                "parts": 0_i32, "token": self.token,
            };
            if let Some(at) = number.checked_sub(1).and_then(|before| borders.get(before)) {
                segment.append(bson::cstr!("at"), at.clone());
            }
            if let Some(before) = borders.get(number) {
                segment.append(bson::cstr!("before"), before.clone());
            }
            segments.push(segment);
        }
        let command = rawdoc! {
            "insert": SEGMENTS, "documents": array(&segments), "writeConcern": majority(),
        };
        // A segment that is not there would never be walked over.
        let reply = self.server.tell(OWN_DATABASE, command).await?;
        match number(&reply, "n") == Some(segments.len() as u64) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Server, "the server did not take all segments of the walk")
                .with_state("nothing was changed")),
        }
    }

    /// Keys at which segments end, drawn from the collection: `{_id: …}` each, by the server's order, none twice.
    async fn borders(&self, count_max: u32) -> Result<Vec<RawDocumentBuf>> {
        let namespace = self.work.namespace;
        let count = rawdoc! { "count": namespace.collection.as_str() };
        let total = number(&self.server.ask(&namespace.database, count).await?, "n").unwrap_or(0);
        let count = u64::from(count_max).min(total / SEGMENT_DOCUMENTS_MIN).max(1);
        if count == 1 {
            return Ok(Vec::new());
        }
        let size = i64::try_from(count).unwrap_or(1) * i64::from(SAMPLES_PER_SEGMENT);
        let pipeline = [
            rawdoc! { "$sample": { "size": size } },
            rawdoc! { "$project": { "_id": 1 } },
            rawdoc! { "$group": { "_id": "$_id" } },
            rawdoc! { "$sort": { "_id": 1 } },
        ];
        let command = rawdoc! {
            "aggregate": namespace.collection.as_str(), "pipeline": array(&pipeline), "cursor": {},
        };
        let drawn = self.server.list(&namespace.database, command).await?;
        let stride = drawn.len() / usize::try_from(count).unwrap_or(1).max(1);
        let mut borders = Vec::new();
        if stride > 0 {
            for border in
                drawn.iter().skip(stride).step_by(stride).take(usize::try_from(count - 1).unwrap_or(0))
            {
                borders.push(key_of(border)?);
            }
        }
        self.ordered(borders).await
    }

    /// Borders as the index on `_id` orders them, which is what a walk follows: a collection's collation orders texts there, too.
    async fn ordered(&self, borders: Vec<RawDocumentBuf>) -> Result<Vec<RawDocumentBuf>> {
        let mut kept: Vec<RawDocumentBuf> = Vec::new();
        for border in borders {
            let Some(last) = kept.last() else {
                kept.push(border);
                continue;
            };
            // The server refuses a range that runs backwards, and finds nothing in one that is empty.
            let mut command = rawdoc! {
                "find": self.work.namespace.collection.as_str(), "projection": { "_id": 1 }, "limit": 1, "singleBatch": true,
            };
            bound(&mut command, Some(last), Some(&border));
            match self.server.driver_list(&self.work.namespace.database, command).await {
                Ok(found) if !found.is_empty() => kept.push(border),
                _ => {}
            }
        }
        Ok(kept)
    }

    async fn let_go(&self) -> Result<()> {
        let update = rawdoc! {
            "q": { "_id": self.work.key.as_str(), "token": self.token },
            "u": { "$unset": { "token": 1, "holder": 1 } },
        };
        let command = rawdoc! { "update": LEDGER, "updates": array([&update]), "writeConcern": majority() };
        self.server.tell(OWN_DATABASE, command).await.map(drop)
    }
}

pub(super) async fn beat(server: &MongoServer, hold: &BackfillHold) -> Result<bool> {
    let set = rawdoc! { "$set": { "beat_at": "$$NOW" } };
    let command = rawdoc! {
        "findAndModify": LEDGER, "query": { "kind": "backfill", "id": hold.id.as_str(), "token": hold.token.as_str() },
        "update": array([&set]), "new": true, "fields": { "paused": 1 }, "writeConcern": majority(),
    };
    // Nothing is lost when it is done twice.
    let reply = retried(server, || {
        let command = command.clone();
        async move { Ok(server.driver_tell(OWN_DATABASE, command).await?) }
    })
    .await?;
    match reply.get_document("value") {
        Ok(run) => Ok(run.get_bool("paused").unwrap_or(false)),
        Err(_) => Err(lost(&hold.id)),
    }
}

pub(super) async fn release(server: &MongoServer, hold: &BackfillHold, at_end: bool) -> Result<()> {
    let mut pipeline = vec![rawdoc! { "$set": { "beat_at": "$$NOW" } }];
    if at_end {
        let undoing = rawdoc! { "$eq": ["$status", BackfillStatus::Undoing.name()] };
        pipeline.push(rawdoc! { "$set": {
            "ended_at": "$$NOW", "paused": false,
            "status": { "$cond": [undoing, BackfillStatus::Undone.name(), BackfillStatus::Done.name()] },
        } });
    }
    pipeline.push(rawdoc! { "$unset": ["token", "holder", "sessions"] });
    let update = rawdoc! {
        "q": { "kind": "backfill", "id": hold.id.as_str(), "token": hold.token.as_str() }, "u": array(&pipeline),
    };
    retried(server, || async {
        let mut talk = Talk::begin(server, false).await?;
        let command = rawdoc! { "update": LEDGER, "updates": array([&update]) };
        talk.write(OWN_DATABASE, command).await.map(drop)
    })
    .await
}

pub(super) async fn pause(server: &MongoServer, work: &Work<'_>) -> Result<()> {
    let running = BackfillStatus::Running.name();
    let update = rawdoc! {
        "q": { "_id": work.key.as_str(), "status": running }, "u": { "$set": { "paused": true } },
    };
    let command = rawdoc! { "update": LEDGER, "updates": array([&update]), "writeConcern": majority() };
    let reply = server.tell(OWN_DATABASE, command).await?;
    if number(&reply, "n").unwrap_or(0) > 0 {
        return Ok(());
    }
    let Some(run) = find(server, &work.key).await? else { return Err(never_begun(work.id)) };
    Err(Error::new(
        ErrorKind::Precondition,
        format!("the backfill {} is {}", work.id, run.get_str("status").unwrap_or("not at work")),
    )
    .with_state("nothing was changed"))
}

async fn find(server: &MongoServer, key: &str) -> Result<Option<Document>> {
    let command = rawdoc! { "find": LEDGER, "filter": { "_id": key }, "limit": 1, "singleBatch": true };
    let found = server.list(OWN_DATABASE, command).await?.into_iter().next();
    found.map(|run| Document::try_from(run).map_err(|error| unreadable(&error.to_string()))).transpose()
}

pub(super) async fn runs(server: &MongoServer) -> Result<Vec<BackfillRun>> {
    let command = rawdoc! { "find": LEDGER, "filter": { "kind": "backfill" }, "sort": { "_id": 1 } };
    let documents = server.list(OWN_DATABASE, command).await?;
    let segments = [rawdoc! { "$group": {
        "_id": { "run": "$run", "round": "$round" }, "count": { "$sum": 1 },
        "done": { "$sum": { "$cond": ["$done", 1, 0] } }, "changed": { "$sum": "$changed" },
    } }];
    let segments = grouped(server, SEGMENTS, &segments).await?;
    let restored = [
        // With the name of the run the index serves: what is not undone holds all that was kept, and is not to be read for a sum.
        rawdoc! { "$match": { "run": { "$gte": "" }, "undone": true } },
        rawdoc! { "$group": { "_id": "$run", "restored": { "$sum": "$restored" } } },
    ];
    let restored = grouped(server, UNDO, &restored).await?;
    let now = server_time(server).await?;
    documents
        .into_iter()
        .map(|run| {
            let run = Document::try_from(run).map_err(|error| unreadable(&error.to_string()))?;
            described(&run, &segments, &restored, now.timestamp_millis())
        })
        .collect()
}

async fn grouped(server: &MongoServer, from: &str, pipeline: &[RawDocumentBuf]) -> Result<Vec<Document>> {
    let command = rawdoc! { "aggregate": from, "pipeline": array(pipeline), "cursor": {} };
    let read = |one: RawDocumentBuf| Document::try_from(one).map_err(|error| unreadable(&error.to_string()));
    server.list(OWN_DATABASE, command).await?.into_iter().map(read).collect()
}

fn described(
    run: &Document,
    segments: &[Document],
    restored: &[Document],
    now_ms: i64,
) -> Result<BackfillRun> {
    let text = |name: &str| run.get_str(name).unwrap_or_default().to_owned();
    let time = |name: &str| match run.get(name) {
        Some(Bson::DateTime(at)) => Timestamp::from_millisecond(at.timestamp_millis())
            .map_err(|_| unreadable(&format!("{name} is no time"))),
        _ => Err(unreadable(&format!("it has no {name}"))),
    };
    let key = text("_id");
    let round = number(run, "round").unwrap_or(0);
    let mut described = BackfillRun {
        id: text("id"),
        place: text("place"),
        checksum: text("checksum"),
        status: BackfillStatus::of_name(&text("status"))
            .ok_or_else(|| unreadable("its status is not known"))?,
        paused: run.get_bool("paused").unwrap_or(false),
        holder: None,
        by: text("by"),
        begun_at: time("begun_at")?,
        beat_at: time("beat_at")?,
        tool_version: text("tool_version"),
        keeps_undo: run.get_bool("keeps_undo").unwrap_or(false),
        segments: 0,
        segments_done: 0,
        changed: 0,
        restored: 0,
    };
    let lease_ms = run.get_i64("lease_ms").unwrap_or(0);
    if run.contains_key("token") && now_ms - described.beat_at.as_millisecond() < lease_ms {
        described.holder = Some(text("holder"));
    }
    for group in segments {
        let Ok(id) = group.get_document("_id") else { continue };
        if !id.get_str("run").is_ok_and(|run| run == key) {
            continue;
        }
        described.changed = described.changed.saturating_add(number(group, "changed").unwrap_or(0));
        if number(id, "round") == Some(round) {
            let count = |name: &str| u32::try_from(number(group, name).unwrap_or(0)).unwrap_or(u32::MAX);
            (described.segments, described.segments_done) = (count("count"), count("done"));
        }
    }
    let own = restored.iter().find(|group| group.get_str("_id").is_ok_and(|id| id == key));
    described.restored = own.and_then(|group| number(group, "restored")).unwrap_or(0);
    Ok(described)
}

pub(super) async fn history(server: &MongoServer) -> Result<Vec<ImportedChange>> {
    let command = rawdoc! { "find": LEDGER, "filter": { "kind": "imported" }, "sort": { "name": 1 } };
    server
        .list(OWN_DATABASE, command)
        .await?
        .into_iter()
        .map(|one| {
            let one = Document::try_from(one).map_err(|error| unreadable(&error.to_string()))?;
            let text = |name: &str| one.get_str(name).ok().map(str::to_owned);
            Ok(ImportedChange {
                tool: text("tool").unwrap_or_default(),
                name: text("name").unwrap_or_default(),
                applied_at: one
                    .get_datetime("applied_at")
                    .ok()
                    .and_then(|at| Timestamp::from_millisecond(at.timestamp_millis()).ok()),
                hash: text("hash"),
                block: one.get_i64("block").ok(),
            })
        })
        .collect()
}

/// The changelog of migrate-mongo: `{fileName, appliedAt, migrationBlock, fileHash}`, of which only the name is always there.
pub(super) async fn import(server: &MongoServer, source: &str) -> Result<u64> {
    let database = server.database().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "no database is configured whose changelog is meant")
            .with_hint("set `database` in [mongo] of mainstay.toml")
    })?;
    prepare(server).await?;
    let found = server.list(database, rawdoc! { "find": source, "sort": { "fileName": 1 } }).await?;
    if found.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is nothing in {database}.{source}"))
            .with_state("nothing was changed")
            .with_hint(
                "name the collection that migrate-mongo's `changelogCollectionName` says with `--collection`",
            ));
    }
    let mut added = 0;
    for entry in found {
        let entry = Document::try_from(entry).map_err(|error| unreadable(&error.to_string()))?;
        let Ok(name) = entry.get_str("fileName") else { continue };
        let mut insert =
            rawdoc! { "kind": "imported", "tool": "migrate-mongo", "database": database, "name": name };
        if let Ok(at) = entry.get_datetime("appliedAt") {
            insert.append(bson::cstr!("applied_at"), *at);
        }
        if let Ok(hash) = entry.get_str("fileHash") {
            insert.append(bson::cstr!("hash"), hash);
        }
        if let Some(block) = number(&entry, "migrationBlock").and_then(|block| i64::try_from(block).ok()) {
            insert.append(bson::cstr!("block"), block);
        }
        let update = rawdoc! {
            "q": { "_id": format!("migrate-mongo/{database}/{name}") }, "u": { "$setOnInsert": insert }, "upsert": true,
        };
        let command = rawdoc! { "update": LEDGER, "updates": array([&update]), "writeConcern": majority() };
        let reply = server.tell(OWN_DATABASE, command).await?;
        added += u64::from(reply.get_array("upserted").is_ok_and(|upserted| !upserted.is_empty()));
    }
    Ok(added)
}

/// The server's clock.
async fn server_time(server: &MongoServer) -> Result<bson::DateTime> {
    let hello = server.hello().await?;
    hello
        .get_datetime("localTime")
        .copied()
        .map_err(|_| Error::new(ErrorKind::Corrupt, "the server does not tell its time"))
}

fn unreadable(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the ledger in {OWN_DATABASE}.{LEDGER} is not readable: {what}"))
        .with_hint("look at it with db.getSiblingDB(\"mainstay\").ledger.find()")
}
