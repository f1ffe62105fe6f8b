//! Dumps with an oplog, as a user loads them: whatever was written while the dump was made, it comes as the moment its oplog leads to.
//!
//! What the stock tool does is done by hand here, so that its worst cases are sure to be there: definitions from the beginning, documents from
//! later on, some of them seen twice, and the oplog from before to after all of that.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use futures::TryStreamExt as _;
use mainstay_archive::{ArchiveWriter, Entry, EntryKind, Header, gzip};
use mainstay_testkit::{Mongod, shared_mongod};
use mongodb::Database;
use mongodb::bson::{DateTime, Document, RawDocumentBuf, Timestamp, doc};

use crate::stack::{Project, Ran};

fn fixture(name: &str) -> String {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../archive/tests/fixtures");
    fixtures.join(name).display().to_string()
}

/// What the server says of a database: the hash of each collection, and what each is.
async fn testimony(mongod: &Mongod, database: &str) -> (BTreeMap<String, String>, Vec<Document>) {
    let mut hashes = mongod.db_hash(database).await.unwrap();
    hashes.remove("system.views");
    let database = mongod.oracle().await.database(database);
    let mut described = Vec::new();
    let mut listed = database.list_collections().await.unwrap();
    while let Some(found) = listed.try_next().await.unwrap() {
        let mut said = doc! { "name": &found.name, "options": mongodb::bson::serialize_to_document(&found.options).unwrap() };
        if let Ok(indexes) = database.run_command(doc! { "listIndexes": &found.name }).await {
            let mut indexes =
                indexes.get_document("cursor").unwrap().get_array("firstBatch").unwrap().clone();
            indexes.sort_by_key(ToString::to_string);
            said.insert("indexes", indexes);
        }
        described.push(said);
    }
    described.sort_by_key(ToString::to_string);
    (hashes, described)
}

/// The bytes of all documents of a collection, in natural order.
async fn documents(database: &Database, collection: &str) -> Vec<u8> {
    let collection = database.collection::<RawDocumentBuf>(collection);
    let found = collection.find(doc! {}).sort(doc! { "$natural": 1 });
    let found: Vec<RawDocumentBuf> = found.await.unwrap().try_collect().await.unwrap();
    found.iter().flat_map(|document| document.as_bytes().to_vec()).collect()
}

async fn newest(mongod: &Mongod) -> Timestamp {
    let oplog = mongod.oracle().await.database("local").collection::<Document>("oplog.rs");
    let newest = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await.unwrap().unwrap();
    newest.get_timestamp("ts").unwrap()
}

/// The oplog from `first` on.
async fn oplog(mongod: &Mongod, first: Timestamp) -> Vec<RawDocumentBuf> {
    let oplog = mongod.oracle().await.database("local").collection::<RawDocumentBuf>("oplog.rs");
    let found = oplog.find(doc! { "ts": { "$gte": first } }).sort(doc! { "$natural": 1 });
    found.await.unwrap().try_collect().await.unwrap()
}

fn concatenated(entries: &[RawDocumentBuf]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.as_bytes().to_vec()).collect()
}

/// Every kind of collection, before the dump.
async fn begin(database: &Database) {
    for command in [
        doc! { "create": "plain" },
        doc! { "create": "dropped" },
        doc! { "create": "again" },
        doc! { "create": "old_name" },
        doc! { "create": "capped", "capped": true, "size": 1_000_000, "max": 20 },
        doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
        doc! { "create": "series", "timeseries": { "timeField": "at", "metaField": "m" } },
        doc! { "create": "still", "timeseries": { "timeField": "at" } },
        doc! { "createIndexes": "plain", "indexes": [{ "key": { "n": 1 }, "name": "n" }, { "key": { "u": 1 }, "name": "u", "unique": true, "sparse": true }] },
    ] {
        database.run_command(command).await.unwrap();
    }
    for name in ["plain", "dropped", "again", "old_name", "capped", "clustered"] {
        let many = (0..20).map(|n| doc! { "_id": n, "n": n, "list": [n, 1, 2] });
        database.collection::<Document>(name).insert_many(many).await.unwrap();
    }
    for name in ["series", "still"] {
        let points =
            (0..50_i64).map(|n| doc! { "at": DateTime::from_millis(n * 60_000), "m": n % 3, "v": n });
        database.collection::<Document>(name).insert_many(points).await.unwrap();
    }
}

/// What is written while the dump is made. `turn` tells one time from another.
async fn write(mongod: &Mongod, database: &Database, turn: i32) {
    let plain = database.collection::<Document>("plain");
    for n in 0..10 {
        plain
            .update_one(doc! { "_id": n }, doc! { "$inc": { "n": turn }, "$push": { "list": turn } })
            .await
            .unwrap();
    }
    // Two that exchange a unique value, one that goes, and one that goes and comes again elsewhere.
    plain.update_one(doc! { "_id": 1 }, doc! { "$unset": { "u": 1 } }).await.unwrap();
    plain.update_one(doc! { "_id": 2 }, doc! { "$set": { "u": turn } }).await.unwrap();
    plain.update_one(doc! { "_id": 2 }, doc! { "$unset": { "u": 1 } }).await.unwrap();
    plain.update_one(doc! { "_id": 1 }, doc! { "$set": { "u": turn } }).await.unwrap();
    plain.delete_one(doc! { "_id": 10 + turn }).await.unwrap();
    plain.delete_one(doc! { "_id": 0 }).await.unwrap();
    plain.insert_one(doc! { "_id": 0, "n": 100, "turn": turn }).await.unwrap();
    for (name, base) in [("capped", 100), ("clustered", 100), ("old_name", 100)] {
        let many = (0..8).map(|n| doc! { "_id": base * turn + n, "turn": turn });
        database.collection::<Document>(name).insert_many(many).await.unwrap();
    }
    let points = (0..30_i64).map(|n| doc! { "at": DateTime::from_millis(n * 61_000), "m": n % 3, "v": turn });
    database.collection::<Document>("series").insert_many(points).await.unwrap();
    let mut session = mongod.oracle().await.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for name in ["plain", "clustered"] {
        let many = (0..5).map(|n| doc! { "_id": 10_000 * turn + n, "in": "a transaction" });
        let inside = session.client().database(database.name()).collection::<Document>(name);
        inside.insert_many(many).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
}

/// Definitions change, after the dump has listed them.
async fn redefine(database: &Database) {
    for command in [
        doc! { "drop": "dropped" },
        doc! { "drop": "again" },
        doc! { "create": "again", "validator": { "n": { "$gte": 0 } } },
        doc! { "create": "new" },
        doc! { "createIndexes": "new", "indexes": [{ "key": { "n": 1 }, "name": "n" }] },
        doc! { "create": "seen", "viewOn": "plain", "pipeline": [{ "$match": { "n": { "$gt": 1 } } }] },
        doc! { "createIndexes": "plain", "indexes": [{ "key": { "turn": 1 }, "name": "turn" }] },
        doc! { "dropIndexes": "plain", "index": "n" },
        doc! { "collMod": "old_name", "validator": { "x": { "$exists": false } } },
    ] {
        database.run_command(command).await.unwrap();
    }
    let names = ["old_name", "new_name"].map(|name| format!("{}.{name}", database.name()));
    let rename = doc! { "renameCollection": &names[0], "to": &names[1] };
    database.client().database("admin").run_command(rename).await.unwrap();
    for name in ["again", "new", "new_name"] {
        let many = (0..5).map(|n| doc! { "_id": 70_000 + n, "n": n });
        database.collection::<Document>(name).insert_many(many).await.unwrap();
    }
}

/// The folder as an archive, the oplog last.
fn as_archive(folder: &Path, database: &str) -> Vec<u8> {
    let header = Header {
        concurrent_collections: 1,
        server_version: "6.0.27".to_owned(),
        tool_version: "test".to_owned(),
    };
    let (mut entries, mut contents) = (Vec::new(), Vec::new());
    for file in fs::read_dir(folder.join(database)).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(collection) = name.strip_suffix(".metadata.json") else { continue };
        let metadata = fs::read_to_string(&path).unwrap();
        let is_series = metadata.contains(r#""type":"timeseries""#);
        let data = if is_series { format!("system.buckets.{collection}") } else { collection.to_owned() };
        contents.push(fs::read(folder.join(database).join(format!("{data}.bson"))).unwrap_or_default());
        entries.push(Entry {
            database: database.to_owned(),
            collection: collection.to_owned(),
            metadata,
            kind: if is_series { EntryKind::TimeSeries } else { EntryKind::Collection },
        });
    }
    entries.push(Entry::oplog());
    contents.push(fs::read(folder.join("oplog.bson")).unwrap());
    let (mut writer, mut bytes) = ArchiveWriter::begin(&header, &entries).unwrap();
    for (entry, content) in contents.iter().enumerate() {
        bytes.extend(writer.documents(entry, content).unwrap());
        bytes.extend(content);
        bytes.extend(writer.close(entry).unwrap());
    }
    writer.end().unwrap();
    bytes
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = gzip::Compressor::new(1);
    bytes.chunks(gzip::MEMBER_BYTES).flat_map(|piece| compressor.member(piece).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_comes_as_the_moment_its_oplog_leads_to() {
    let mongod = Mongod::start().unwrap();
    let project = Project::new(&mongod.uri());
    project.mark();
    let name = project.database.as_str();
    let database = mongod.oracle().await.database(name);
    begin(&database).await;
    let capped_before = documents(&database, "capped").await;
    let plain_before = documents(&database, "plain").await;

    let first = newest(&mongod).await;
    write(&mongod, &database, 1).await;
    project.run(&["mongo", "dump", "--directory", "d"]).expect(0);
    write(&mongod, &database, 2).await;
    let folder = project.path("d");
    let file = |collection: &str| folder.join(name).join(format!("{collection}.bson"));
    // Read later than they were listed; the capped one from before until after it has turned over, the plain one with two documents twice.
    let mut capped = capped_before;
    capped.extend(documents(&database, "capped").await);
    fs::write(file("capped"), capped).unwrap();
    let mut plain = documents(&database, "plain").await;
    let twice: Vec<u8> =
        [&plain_before[..], &plain[..]].iter().flat_map(|all| first_document(all).to_vec()).collect();
    plain.extend(twice);
    fs::write(file("plain"), plain).unwrap();
    let buckets = documents(&database, "system.buckets.series").await;
    fs::write(file("system.buckets.series"), buckets).unwrap();
    write(&mongod, &database, 3).await;
    let middle = testimony(&mongod, name).await;
    let capped_middle = documents(&database, "capped").await;
    let limit = newest(&mongod).await;
    redefine(&database).await;
    write_again(&database).await;
    let (end, capped_end) = (testimony(&mongod, name).await, documents(&database, "capped").await);
    let entries = oplog(&mongod, first).await;
    fs::write(folder.join("oplog.bson"), concatenated(&entries)).unwrap();
    fs::write(project.path("a"), as_archive(&folder, name)).unwrap();
    fs::write(project.path("a.gz"), compressed(&as_archive(&folder, name))).unwrap();

    let refused = |more: &[&str], status| project.run(&[&["mongo", "load"], more].concat()).expect(status);
    refused(&["d"], 8).says("exist already");
    database.drop().await.unwrap();
    refused(&["a", "--merge"], 8).says("--without-oplog");
    let output =
        project.command(&["mongo", "load", "-"]).stdin(File::open(project.path("a")).unwrap()).output();
    Ran::of(output.unwrap()).expect(1).says("standard input").says("--without-oplog");
    project
        .run(&["mongo", "load", "a", "--dry-run"])
        .expect(0)
        .says("replay the oplog")
        .says("created in the oplog");
    assert!(mongod.db_hash(name).await.unwrap().is_empty());

    for dump in ["d", "a", "a.gz"] {
        let loaded = project.json(&["mongo", "load", dump]);
        assert_eq!(loaded["proven"], true, "{loaded}");
        assert_eq!(loaded["oplog"]["entries"], entries.len(), "{loaded}");
        assert_eq!(testimony(&mongod, name).await, end, "{dump}");
        assert_eq!(
            documents(&database, "capped").await,
            capped_end,
            "{dump}: the order of a capped collection"
        );
        database.drop().await.unwrap();
    }
    // The first second of what is left out; the position itself is not replayed, so it must be the one after.
    let before = format!("{}:{}", limit.time, limit.increment + 1);
    project.run(&["mongo", "load", "a", "--oplog-limit", &before]).expect(0).says("replayed");
    assert_eq!(testimony(&mongod, name).await, middle);
    assert_eq!(documents(&database, "capped").await, capped_middle);
    database.drop().await.unwrap();
    refused(&["a", "--oplog-limit", "1"], 8).says("nothing before");

    // Selections and names are those of the end.
    let into = format!("{name}_x.$c$_copy");
    let from = format!("{name}.$c$");
    refused(&["d", "--ns-include", &format!("{name}.old_name")], 8).says("matches no collection");
    let named = ["--ns-include", "*.new*", "--ns-include", "*.series", "--ns-from", &from, "--ns-to", &into];
    project.run(&[&["mongo", "load", "d"], &named[..]].concat()).expect(0);
    let copies = mongod.oracle().await.database(&format!("{name}_x"));
    let found = testimony(&mongod, copies.name()).await.0;
    for (copy, original) in [
        ("new_copy", "new"),
        ("new_name_copy", "new_name"),
        ("system.buckets.series_copy", "system.buckets.series"),
    ] {
        assert_eq!(found[copy], end.0[original], "{copy} in {found:?}");
    }
    assert_eq!(found.len(), 3, "{found:?}");
    copies.drop().await.unwrap();

    // A plan that is kept is for the oplog that was read.
    let planned = project.json(&["mongo", "load", "d", "--output", "plan.json"]);
    let hash = planned["plan_hash"].as_str().unwrap();
    fs::write(folder.join("oplog.bson"), concatenated(&entries[..entries.len() - 1])).unwrap();
    project.run(&["apply", "plan.json", "--approve", hash]).expect(9).says("contents of the dump");
    fs::write(folder.join("oplog.bson"), concatenated(&entries)).unwrap();
    project.run(&["apply", "plan.json", "--approve", hash]).expect(0);
    assert_eq!(testimony(&mongod, name).await, end);
    database.drop().await.unwrap();

    // What cannot be replayed is found before anything is written.
    let shuffled = [&entries[1..2], &entries[..1], &entries[2..]].concat();
    let unknown = doc! { "ts": Timestamp { time: u32::MAX, increment: 1 }, "t": 1_i64, "v": 2_i64, "op": "c", "ns": format!("{name}.$cmd"), "o": { "importCollection": "x" } };
    let unknown = [&entries[..], &[RawDocumentBuf::try_from(&unknown).unwrap()]].concat();
    let whole = concatenated(&entries);
    for (oplog, status, told) in [
        (whole[..whole.len() - 3].to_vec(), 4, "oplog.bson"),
        (concatenated(&shuffled), 4, "out of order"),
        ([&whole[..], b"\x05\0\0\0\0"].concat(), 4, "without position"),
        (concatenated(&unknown), 1, "importCollection"),
    ] {
        fs::write(folder.join("oplog.bson"), oplog).unwrap();
        for more in [&[][..], &["--dry-run"]] {
            let ran = project.run(&[&["mongo", "load", "d"], more].concat()).expect(status);
            ran.says(told).says("nothing was changed").says("make the dump again");
        }
    }
    let limit = format!("{}", u32::MAX);
    project.run(&["mongo", "load", "d", "--dry-run", "--oplog-limit", &limit]).expect(0);
    // Nor is an oplog without its dump replayed into whatever stands there.
    fs::create_dir(project.path("alone")).unwrap();
    fs::write(project.path("alone/oplog.bson"), &whole).unwrap();
    refused(&["alone"], 8).says("does not hold");
    assert_eq!(mongod.db_hash(name).await.unwrap(), BTreeMap::new());
}

/// The last writes: unlike the others, beside definitions that have changed.
async fn write_again(database: &Database) {
    let plain = database.collection::<Document>("plain");
    plain.update_many(doc! {}, doc! { "$set": { "last": true } }).await.unwrap();
    let many = (0..3).map(|n| doc! { "_id": 80_000 + n });
    database.collection::<Document>("capped").insert_many(many).await.unwrap();
}

fn first_document(documents: &[u8]) -> &[u8] {
    let length = u32::from_le_bytes(*documents.first_chunk().unwrap());
    &documents[..length as usize]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_tools_folder_comes_with_its_oplog() {
    let mongod = shared_mongod();
    let project = Project::new(&mongod.uri());
    project.mark();
    let (folder, into) = (fixture("dir_full"), format!("{}_$db$.$collection$", project.database));
    let run = |more: &[&str]| {
        let renamed = ["mongo", "load", folder.as_str(), "--ns-from", "$db$.$collection$", "--ns-to", &into];
        project.run(&[&renamed[..], more].concat())
    };
    run(&["--oplog-replay", "--without-oplog"]).expect(2);
    run(&["--oplog-limit", "noon"]).expect(2);
    project.run(&["mongo", "load", &fixture("full.archive"), "--oplog-replay"]).expect(8).says("no oplog");
    run(&["--oplog-replay"]).expect(0).says("replayed 13 entries");
    let client = mongod.oracle().await;
    let other = client.database(&format!("{}_other", project.database));
    let live = other.collection::<Document>("live");
    let ids: Vec<i32> = {
        let found: Vec<Document> = live
            .find(doc! { "_id": { "$type": "int" } })
            .sort(doc! { "_id": 1 })
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        found.iter().map(|document| document.get_i32("_id").unwrap()).collect()
    };
    // The dump holds 1 to 43 without 24, the oplog goes on to 44.
    let expected: Vec<i32> = (1..=44).filter(|id| *id != 24).collect();
    assert_eq!(ids, expected);
    assert!(live.list_index_names().await.unwrap().len() > 1);
    let changed = live.find_one(doc! { "_id": 40 }).await.unwrap().unwrap();
    assert_eq!(changed.get_i32("u").unwrap(), 1, "{changed}");
    for name in client.list_database_names().await.unwrap() {
        if name.starts_with(&format!("{}_", project.database)) {
            client.database(&name).drop().await.unwrap();
        }
    }
}
