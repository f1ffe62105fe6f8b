//! Bringing back what was there before, part by part, but for what somebody has changed since.

use std::collections::BTreeMap;

use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};
use mainstay_engine::{BackfillHold, UndoPart, UndoneStep};
use mainstay_model::{Error, ErrorKind, Result};

use super::talk::{Failure, Talk, retried};
use super::{LEDGER, UNDO, Work, entry, owned};
use crate::catalog::OWN_DATABASE;
use crate::extjson;
use crate::metadata::array;
use crate::raw::{self, DocumentWriter, Element, kind};
use crate::server::MongoServer;

use super::ledger::{lost, note_session};

/// How many documents one command changes.
const UPDATES_MAX: usize = 1_000;

pub(super) async fn parts(server: &MongoServer, work: &Work<'_>) -> Result<Vec<UndoPart>> {
    let command = rawdoc! {
        "find": UNDO, "filter": { "run": work.key.as_str(), "undone": false }, "projection": { "count": 1 },
        // What was changed twice is brought back in the order that leads to what it was first.
        "sort": { "round": -1, "segment": -1, "part": -1 }, "allowDiskUse": true,
    };
    let part = |found: RawDocumentBuf| {
        let name = found.get_str("_id").map_err(|_| unreadable("a part has no name"))?.to_owned();
        let entries = found.get_i32("count").unwrap_or(0).unsigned_abs();
        Ok(UndoPart { name, entries: u64::from(entries) })
    };
    server.list(OWN_DATABASE, command).await?.into_iter().map(part).collect()
}

pub(super) async fn bring_back(
    server: &MongoServer,
    work: &Work<'_>,
    hold: &BackfillHold,
    part: &UndoPart,
) -> Result<UndoneStep> {
    retried(server, || async {
        let mut talk = Talk::begin(server, true).await?;
        note_session(server, work, &hold.token, &talk).await?;
        match inside(&mut talk, work, hold, part).await {
            Ok(step) => {
                talk.commit().await?;
                Ok(step)
            }
            Err(failure) => {
                talk.abort().await;
                Err(failure)
            }
        }
    })
    .await
}

async fn inside(
    talk: &mut Talk<'_>,
    work: &Work<'_>,
    hold: &BackfillHold,
    part: &UndoPart,
) -> Result<UndoneStep, Failure> {
    let held = rawdoc! {
        "find": LEDGER, "filter": { "_id": work.key.as_str(), "token": hold.token.as_str() },
        "projection": { "_id": 1 }, "limit": 1, "singleBatch": true,
    };
    if talk.read(OWN_DATABASE, held).await?.is_empty() {
        return Err(lost(&hold.id).into());
    }
    let kept =
        rawdoc! { "find": UNDO, "filter": { "_id": part.name.as_str() }, "limit": 1, "singleBatch": true };
    let kept = talk.read(OWN_DATABASE, kept).await?.into_iter().next();
    let kept = kept.ok_or_else(|| unreadable("a part is gone"))?;
    // Brought back by a transaction whose end was not told.
    if kept.get_bool("undone").unwrap_or(false) {
        return Ok(UndoneStep {
            restored: kept.get_i64("restored").unwrap_or(0).unsigned_abs(),
            left: kept.get_array("left").map_or(0, |left| left.into_iter().count() as u64),
        });
    }
    let entries = raw::find(kept.as_bytes(), "entries").ok().flatten();
    let entries = entries.ok_or_else(|| unreadable("a part holds nothing"))?;
    let entries: Vec<Element<'_>> = raw::elements(entries.value)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(&error.to_string()))?;
    let current = current(talk, work, &entries).await?;
    let (updates, left) = decided(&entries, &current)?;
    for chunk in updates.chunks(UPDATES_MAX) {
        let command = rawdoc! { "update": work.namespace.collection.as_str(), "updates": array(chunk) };
        talk.write(&work.namespace.database, command).await?;
    }
    let step = UndoneStep { restored: updates.len() as u64, left: left.len() as u64 };
    let mut ids = RawArrayBuf::new();
    left.iter().for_each(|key| ids.push(key));
    let restored = i64::try_from(step.restored).unwrap_or(i64::MAX);
    let update = rawdoc! {
        "q": { "_id": part.name.as_str() },
        "u": { "$set": { "undone": true, "restored": restored, "left": ids }, "$unset": { "entries": 1 } },
    };
    let command = rawdoc! { "update": UNDO, "updates": array([&update]) };
    talk.write(OWN_DATABASE, command).await?;
    Ok(step)
}

/// The bytes of an `_id`, with its type.
type Key = (u8, Vec<u8>);

/// The documents of `entries` as they are now, by their `_id`. Whole: what was put into a field beside ours is to be seen.
async fn current(
    talk: &mut Talk<'_>,
    work: &Work<'_>,
    entries: &[Element<'_>],
) -> Result<BTreeMap<Key, RawDocumentBuf>, Failure> {
    let mut list = DocumentWriter::new();
    for (index, one) in entries.iter().enumerate() {
        let id = id_of(one)?;
        list.element(id.kind, &index.to_string(), id.value);
    }
    let mut filter = DocumentWriter::new();
    filter.element(kind::ARRAY, "$in", &list.finish());
    let command = rawdoc! {
        "find": work.namespace.collection.as_str(), "filter": { "_id": owned(filter.finish()) },
        "projection": work.projection(), "batchSize": i32::MAX,
    };
    let mut current = BTreeMap::new();
    for document in talk.read(&work.namespace.database, command).await? {
        let id = entry::id_of(&document)?;
        let key = (id.kind, id.value.to_vec());
        current.insert(key, document);
    }
    Ok(current)
}

/// The updates that bring back what nobody has touched, and `{i: <_id>}` of what is left.
fn decided(
    entries: &[Element<'_>],
    current: &BTreeMap<Key, RawDocumentBuf>,
) -> Result<(Vec<RawDocumentBuf>, Vec<RawDocumentBuf>)> {
    let (mut updates, mut left) = (Vec::new(), Vec::new());
    for one in entries {
        let id = id_of(one)?;
        let kept = entry::fields(one.value)?;
        let now = current.get(&(id.kind, id.value.to_vec()));
        if !now.is_some_and(|document| entry::is_untouched(&kept, document)) {
            left.push(owned(id.alone("i")));
            continue;
        }
        let mut update = DocumentWriter::new();
        update.element(kind::DOCUMENT, "q", &id.alone("_id"));
        update.element(kind::DOCUMENT, "u", &entry::restoring(&kept));
        updates.push(owned(update.finish()));
    }
    Ok((updates, left))
}

fn id_of<'e>(one: &Element<'e>) -> Result<Element<'e>> {
    let id = raw::find(one.value, "i").map_err(|error| unreadable(&error.to_string()))?;
    id.ok_or_else(|| unreadable("an entry has no key"))
}

pub(super) async fn left_behind(server: &MongoServer, work: &Work<'_>, count: usize) -> Result<Vec<String>> {
    let command = rawdoc! {
        "find": UNDO, "filter": { "run": work.key.as_str(), "left.0": { "$exists": true } }, "projection": { "left": 1 },
    };
    let mut keys = Vec::new();
    for part in server.list(OWN_DATABASE, command).await? {
        let Ok(left) = part.get_array("left") else { continue };
        for one in left.into_iter().take(count.saturating_sub(keys.len())) {
            let one = one.map_err(|error| unreadable(&error.to_string()))?;
            let id = one.as_document().and_then(|one| one.get("i").ok().flatten());
            let mut text = String::new();
            if let Some(id) = id {
                extjson::write_value(&mut text, id).map_err(|error| unreadable(&error.to_string()))?;
            }
            keys.push(text);
        }
    }
    Ok(keys)
}

fn unreadable(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("what was kept in {OWN_DATABASE}.{UNDO} is not readable: {what}"))
        .with_hint("bring the data back from a backup: `mainstay backup list`")
}
