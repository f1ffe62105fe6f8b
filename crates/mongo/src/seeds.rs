//! Rows of a project's files as documents of a collection, and who may fill a new installation.
//!
//! Whether a row is there, and is the same, is the server's own verdict: its natural key and its fields are asked for by equality, so that `1`
//! and `1.0` are one value here exactly when they are there. Relies on a unique index over the natural key, without which nothing is compared
//! or written; then two upserts of one row at once leave one document. The claim of a new installation is one document that one update
//! with a pipeline changes or leaves, by the server's own clock. Refuses to write where the environment marker is not the one that the
//! decision was made under.

use async_trait::async_trait;
use bson::{Document, RawDocumentBuf, doc, rawdoc};
use mainstay_engine::{
    CLAIM_SECONDS, IndexCatalog as _, Namespace, NewcomerRule, Probe as _, SeedClaim, SeedGround, SeedPlace,
    SeedRow, SeedStanding, SeedTarget, SeedWriting, SeedWritten,
};
use mainstay_guard::{Marker, Permit};
use mainstay_indexes::{Json, ListedIndex};
use mainstay_model::{Error, ErrorKind, Result, ResultExt, Timestamp};

use crate::catalog::{OWN_DATABASE, check_user_data};
use crate::create::majority;
use crate::error::{ServerError, code, driver_code};
use crate::extjson;
use crate::metadata::array;
use crate::reply::number;
use crate::server::MongoServer;

/// What a permit to claim must be for.
const OPERATION: &str = "seed.run";
/// The claims, in the database that is Mainstay's own: a document for each seeded database.
const CLAIMS: &str = "seed_claims";
/// How often a claim is tried again that met another one's making.
const CLAIM_TRIES: u32 = 10;
/// How many documents go into one command.
const BATCH: usize = 500;

#[async_trait]
impl SeedTarget for MongoServer {
    async fn ground(&self) -> Result<SeedGround> {
        let database = self.database().map(str::to_owned).ok_or_else(|| {
            Error::new(ErrorKind::Precondition, "no database is configured that seeds go into")
                .with_state("nothing was changed")
                .with_hint("set `database` in [mongo] of mainstay.toml")
        })?;
        Ok(SeedGround { database, marker: self.marker().await? })
    }

    async fn standing(&self, place: &SeedPlace, rows: &[SeedRow]) -> Result<SeedStanding> {
        let namespace = namespace(self, place).await?;
        let looking = async {
            let rows = objects(rows)?;
            check_key(self, &namespace, place).await?;
            standing(self, &namespace, place, &rows).await
        };
        looking.await.with_context(|| format!("compare with {namespace}"))
    }

    async fn write(
        &self,
        place: &SeedPlace,
        rows: &[SeedRow],
        writing: SeedWriting,
        under: Option<&Marker>,
        permit: &Permit,
    ) -> Result<SeedWritten> {
        let namespace = namespace(self, place).await?;
        let filling = async {
            let rows = objects(rows)?;
            self.authorize(permit, writing.operation()).await?;
            check_key(self, &namespace, place).await?;
            check_marker(self.marker().await?.as_ref(), under)?;
            match writing {
                SeedWriting::Upsert | SeedWriting::Insert => {
                    upsert(self, &namespace, place, &rows, writing).await
                }
                SeedWriting::Replace => replace(self, &namespace, &rows).await,
            }
        };
        filling.await.with_context(|| format!("seed {namespace}"))
    }

    async fn has_users(&self, rule: &NewcomerRule) -> Result<bool> {
        let database = self.ground().await?.database;
        let others =
            RawDocumentBuf::try_from(&doc! { rule.field.as_str(): { "$ne": rule.administrator.as_str() } })
                .map_err(|error| Error::new(ErrorKind::Usage, format!("no filter: {error}")))?;
        let command = rawdoc! {
            "find": rule.users.as_str(), "filter": others, "projection": { "_id": 1 }, "limit": 1, "singleBatch": true,
        };
        let found = self.list(&database, command).await;
        Ok(!found.with_context(|| format!("look for users in {database}.{}", rule.users))?.is_empty())
    }

    async fn claimed(&self) -> Result<Option<SeedClaim>> {
        let database = self.ground().await?.database;
        let command = rawdoc! {
            "find": CLAIMS, "filter": { "_id": database.as_str() }, "limit": 1, "singleBatch": true,
        };
        let found = self.list(OWN_DATABASE, command).await;
        let found = found.with_context(|| format!("look who has seeded {database}"))?;
        let Some(claim) = found.first() else { return Ok(None) };
        let claim = Document::try_from(claim.as_ref()).map_err(|_| unreadable_claim())?;
        held_by_another(&claim).map(Some)
    }

    async fn claim(&self, holder: &str, permit: &Permit) -> Result<SeedClaim> {
        self.authorize(permit, OPERATION).await?;
        let database = self.ground().await?.database;
        claim(self, &database, holder).await.with_context(|| format!("claim the seeding of {database}"))
    }

    async fn end_claim(&self, holder: &str, is_done: bool, permit: &Permit) -> Result<()> {
        self.authorize(permit, OPERATION).await?;
        let database = self.ground().await?.database;
        end_claim(self, &database, holder, is_done)
            .await
            .with_context(|| format!("end the claim on the seeding of {database}"))
    }
}

async fn namespace(server: &MongoServer, place: &SeedPlace) -> Result<Namespace> {
    let namespace = Namespace::new(server.ground().await?.database, place.into.clone());
    check_user_data(&namespace)?;
    Ok(namespace)
}

/// Refuses when the marker is not the one that the decision was made under.
fn check_marker(found: Option<&Marker>, under: Option<&Marker>) -> Result<()> {
    if found == under {
        return Ok(());
    }
    let told = |marker: Option<&Marker>| {
        marker.map_or_else(
            || "absent".to_owned(),
            |marker| format!("{} ({})", marker.environment, marker.class),
        )
    };
    Err(Error::new(
        ErrorKind::Refused,
        format!("the environment marker inside the database was {} and is {}", told(under), told(found)),
    )
    .with_state("nothing more was written")
    .with_hint("`mainstay environment show` tells what each source says; then make the plan again"))
}

/// Refuses a natural key that the server does not keep unique.
async fn check_key(server: &MongoServer, namespace: &Namespace, place: &SeedPlace) -> Result<()> {
    if place.key == ["_id"] {
        return Ok(());
    }
    let collection = server.indexed_collection(namespace).await?;
    let indexes = collection.map(|collection| collection.indexes).unwrap_or_default();
    if indexes.iter().any(|index| keeps_unique(index, &place.key)) {
        return Ok(());
    }
    let key = place.key.join(", ");
    Err(Error::new(ErrorKind::Precondition, format!("no unique index of {namespace} is over {key}"))
        .with_state("nothing was changed: without one, two that seed at once would write a row twice")
        .with_hint(format!(
            "declare `{{ keys = [\"{}\"], unique = true }}` for {} and type `mainstay index plan`",
            place.key.join("\", \""),
            place.into
        )))
}

/// Whether no two documents can have the same values in `key`, whatever else they hold.
fn keeps_unique(index: &ListedIndex, key: &[String]) -> bool {
    let spec = &index.spec;
    let is_same = spec.keys.len() == key.len() && spec.keys.iter().all(|one| key.contains(&one.field));
    spec.unique && spec.partial.is_none() && index.build.is_none() && is_same
}

async fn standing(
    server: &MongoServer,
    namespace: &Namespace,
    place: &SeedPlace,
    rows: &[Json],
) -> Result<SeedStanding> {
    let held = count(server, namespace, rawdoc! {}).await?;
    let (mut there, mut same) = (0, 0);
    for batch in rows.chunks(BATCH) {
        let keys = batch.iter().map(|row| equality(row, |field| place.key.iter().any(|key| key == field)));
        there += count(server, namespace, any_of(keys)?).await?;
        same += count(server, namespace, any_of(batch.iter().map(|row| equality(row, |_| true)))?).await?;
    }
    let given = rows.len() as u64;
    Ok(SeedStanding { held, absent: given.saturating_sub(there), different: there.saturating_sub(same) })
}

/// The fields of `row` that are `wanted`, each asked for by equality.
fn equality(row: &Json, wanted: impl Fn(&str) -> bool) -> Json {
    let fields = row.members().unwrap_or_default().iter().filter(|(field, _)| wanted(field));
    Json::object(fields.map(|(field, value)| (field.clone(), Json::object([("$eq", value.clone())]))))
}

fn any_of(filters: impl Iterator<Item = Json>) -> Result<RawDocumentBuf> {
    document(&Json::object([("$or", Json::List(filters.collect()))]))
}

fn objects(rows: &[SeedRow]) -> Result<Vec<Json>> {
    rows.iter().map(|row| Json::parse(&row.text()).map_err(|error| no_document(&error.to_string()))).collect()
}

fn no_document(what: &str) -> Error {
    Error::new(ErrorKind::Precondition, format!("a row is no document: {what}"))
        .with_state("nothing was changed")
}

fn document(json: &Json) -> Result<RawDocumentBuf> {
    let bytes = extjson::to_bson(json).map_err(|error| no_document(&error.to_string()))?;
    RawDocumentBuf::from_bytes(bytes).map_err(|error| no_document(&error.to_string()))
}

async fn count(server: &MongoServer, namespace: &Namespace, filter: RawDocumentBuf) -> Result<u64> {
    let stages = [rawdoc! { "$match": filter }, rawdoc! { "$count": "n" }];
    let command =
        rawdoc! { "aggregate": namespace.collection.as_str(), "pipeline": array(&stages), "cursor": {} };
    let found = server.list(&namespace.database, command).await?;
    let Some(first) = found.first() else { return Ok(0) };
    let reply = Document::try_from(first.as_ref())
        .map_err(|error| Error::new(ErrorKind::Corrupt, format!("the server told no count: {error}")))?;
    Ok(number(&reply, "n").unwrap_or(0))
}

/// Sets the fields of rows, or only those of rows that nobody has.
async fn upsert(
    server: &MongoServer,
    namespace: &Namespace,
    place: &SeedPlace,
    rows: &[Json],
    writing: SeedWriting,
) -> Result<SeedWritten> {
    let mut written = SeedWritten::default();
    for batch in rows.chunks(BATCH) {
        let updates =
            batch.iter().map(|row| document(&update_of(row, place, writing))).collect::<Result<Vec<_>>>()?;
        let command = rawdoc! {
            "update": namespace.collection.as_str(), "updates": array(&updates), "ordered": true,
            "writeConcern": majority(),
        };
        let reply = server.tell(&namespace.database, command).await?;
        check_written(&reply)?;
        written.inserted += reply.get_array("upserted").map_or(0, |upserted| upserted.len() as u64);
        written.changed += number(&reply, "nModified").unwrap_or(0);
    }
    Ok(written)
}

/// The update of one row. `_id` is never set in what is there, for no document may change its own.
fn update_of(row: &Json, place: &SeedPlace, writing: SeedWriting) -> Json {
    let is_key = |field: &str| place.key.iter().any(|key| key == field);
    let (mut set, mut set_on_insert) = (Vec::new(), Vec::new());
    for (field, value) in row.members().unwrap_or_default().iter().filter(|(field, _)| !is_key(field)) {
        let is_kept = writing == SeedWriting::Insert || field == "_id";
        let side = if is_kept { &mut set_on_insert } else { &mut set };
        side.push((field.clone(), value.clone()));
    }
    let update = Json::object([("$set", Json::Object(set)), ("$setOnInsert", Json::Object(set_on_insert))]);
    Json::object([("q", equality(row, is_key)), ("u", update), ("upsert", Json::Flag(true))])
}

/// Empties the collection, whose indexes and options stay, and inserts the rows. Not one step of the server: what ends in between is told, and
/// the same seed run again mends it.
async fn replace(server: &MongoServer, namespace: &Namespace, rows: &[Json]) -> Result<SeedWritten> {
    let all = [rawdoc! { "q": {}, "limit": 0 }];
    let command = rawdoc! {
        "delete": namespace.collection.as_str(), "deletes": array(&all), "writeConcern": majority(),
    };
    let reply = server.tell(&namespace.database, command).await?;
    check_written(&reply)?;
    let mut written = SeedWritten { removed: number(&reply, "n").unwrap_or(0), ..SeedWritten::default() };
    for batch in rows.chunks(BATCH) {
        let filled = insert(server, namespace, batch).await;
        written.inserted += filled.map_err(|error| {
            let state = format!(
                "{namespace} was emptied and holds at least {} of {} rows",
                written.inserted,
                rows.len()
            );
            let error = error.with_state(state);
            // Whoever knows what is wrong with a row says so.
            if error.hint().is_some() { error } else { error.with_hint("run the same seed again") }
        })?;
    }
    Ok(written)
}

async fn insert(server: &MongoServer, namespace: &Namespace, rows: &[Json]) -> Result<u64> {
    let documents = rows.iter().map(document).collect::<Result<Vec<_>>>()?;
    let command = rawdoc! {
        "insert": namespace.collection.as_str(), "documents": array(&documents), "writeConcern": majority(),
    };
    let reply = server.tell(&namespace.database, command).await?;
    check_written(&reply)?;
    Ok(number(&reply, "n").unwrap_or(0))
}

/// The first refusal in the reply of a write, without the values that it tells.
fn check_written(reply: &Document) -> Result<()> {
    let Some((index, refused)) = ServerError::in_write(reply) else { return Ok(()) };
    let number = refused.code;
    let error = Error::from(refused);
    Err(match number {
        code::DUPLICATE_KEY => error.with_hint(
            "another document has the same value in a unique field; correct the row, or the natural key of the seed",
        ),
        code::DOCUMENT_VALIDATION => error.with_hint("correct the row: the collection's validator refuses it"),
        _ => error,
    }
    .context(format!("write row {} of this part", index + 1)))
}

/// One update, whose pipeline takes the claim when nobody has it, when it has run out, or when it is the holder's own; and leaves it otherwise.
async fn claim(server: &MongoServer, database: &str, holder: &str) -> Result<SeedClaim> {
    let has_run_out = doc! { "$lt": ["$until", "$$NOW"] };
    let is_free = doc! { "$or": [
        { "$eq": [{ "$type": "$state" }, "missing"] },
        { "$and": [{ "$eq": ["$state", "running"] }, { "$or": [has_run_out, { "$eq": ["$by", { "$literal": holder }] }] }] },
    ] };
    let ours = doc! {
        "_id": "$_id", "state": "running", "by": { "$literal": holder },
        // By the first renewal.
        "begun": { "$or": [{ "$eq": ["$begun", true] }, { "$eq": ["$by", { "$literal": holder }] }] },
        "until": { "$dateAdd": { "startDate": "$$NOW", "unit": "second", "amount": i64::from(CLAIM_SECONDS) } },
    };
    let command = doc! {
        "findAndModify": CLAIMS, "query": { "_id": database }, "upsert": true, "new": true,
        "update": [{ "$replaceWith": { "$cond": [is_free, ours, "$$ROOT"] } }],
        "writeConcern": { "w": "majority", "wtimeout": 10_000 },
    };
    let reply = claimed(server, &raw(&command)?).await?;
    let found = reply.get_document("value").map_err(|_| unreadable_claim())?;
    let says = |field: &str, expected: &str| found.get_str(field).is_ok_and(|value| value == expected);
    match says("state", "running") && says("by", holder) {
        true => Ok(SeedClaim::Ours { is_continued: found.get_bool("begun").unwrap_or(false) }),
        false => held_by_another(found),
    }
}

fn held_by_another(claim: &Document) -> Result<SeedClaim> {
    let by = claim.get_str("by").map_err(|_| unreadable_claim())?.to_owned();
    if claim.get_str("state").is_ok_and(|state| state == "done") {
        return Ok(SeedClaim::Done { by });
    }
    let until = claim.get_datetime("until").map_err(|_| unreadable_claim())?;
    let until = Timestamp::from_millisecond(until.timestamp_millis()).map_err(|_| unreadable_claim())?;
    Ok(SeedClaim::Taken { by, until })
}

fn unreadable_claim() -> Error {
    Error::new(ErrorKind::Corrupt, format!("{OWN_DATABASE}.{CLAIMS} holds no claim"))
}

/// The reply to a claim. Two that make the first one at once may both find nobody's: the server lets one in and the other try again.
async fn claimed(server: &MongoServer, command: &RawDocumentBuf) -> Result<Document> {
    let mut tries = 0;
    loop {
        tries += 1;
        match server.driver_tell(OWN_DATABASE, command.clone()).await {
            Err(error) if driver_code(&error) == Some(code::DUPLICATE_KEY) && tries < CLAIM_TRIES => {}
            Err(error) => return Err(server.explain(error).await),
            Ok(reply) => return Ok(reply),
        }
    }
}

async fn end_claim(server: &MongoServer, database: &str, holder: &str, is_done: bool) -> Result<()> {
    let own = doc! { "_id": database, "by": holder, "state": "running" };
    let command = match is_done {
        true => doc! {
            "update": CLAIMS, "writeConcern": { "w": "majority", "wtimeout": 10_000 },
            "updates": [{ "q": own, "u": [{ "$set": { "state": "done", "at": "$$NOW" } }] }],
        },
        false => doc! {
            "delete": CLAIMS, "deletes": [{ "q": own, "limit": 1 }],
            "writeConcern": { "w": "majority", "wtimeout": 10_000 },
        },
    };
    let reply = server.tell(OWN_DATABASE, raw(&command)?).await?;
    check_written(&reply)
}

fn raw(command: &Document) -> Result<RawDocumentBuf> {
    RawDocumentBuf::try_from(command)
        .map_err(|error| Error::new(ErrorKind::Internal, "a command has no BSON form").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(key: &[&str]) -> SeedPlace {
        SeedPlace { into: "c".to_owned(), key: key.iter().map(|field| (*field).to_owned()).collect() }
    }

    #[test]
    fn a_row_becomes_one_update_by_its_key() {
        let row = Json::object([("_id", Json::Integer(7)), ("slug", "a".into()), ("n", Json::Integer(1))]);
        for (key, writing, expected) in [
            (
                "slug",
                SeedWriting::Upsert,
                r#"{"q":{"slug":{"$eq":"a"}},"u":{"$set":{"n":1},"$setOnInsert":{"_id":7}},"upsert":true}"#,
            ),
            (
                "slug",
                SeedWriting::Insert,
                r#"{"q":{"slug":{"$eq":"a"}},"u":{"$set":{},"$setOnInsert":{"_id":7,"n":1}},"upsert":true}"#,
            ),
            (
                "_id",
                SeedWriting::Upsert,
                r#"{"q":{"_id":{"$eq":7}},"u":{"$set":{"slug":"a","n":1},"$setOnInsert":{}},"upsert":true}"#,
            ),
        ] {
            assert_eq!(update_of(&row, &place(&[key]), writing).to_string(), expected);
        }
    }
}
