//! Dumps and loads in mongodump's formats as a user runs them, against a real server and files of the stock tools.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::stack::{Project, Ran};
use mainstay_testkit::{Mongod, shared_mongod};
use mongodb::bson::{self, Bson, Document, RawDocumentBuf, doc};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../archive/tests/fixtures").join(name)
}

/// Options that load a dump's databases under names of the project's own.
fn renamed(project: &Project) -> Vec<String> {
    let into = format!("{}_$db$.$collection$", project.database);
    ["--ns-from", "$db$.$collection$", "--ns-to", &into].map(str::to_owned).into()
}

fn load(project: &Project, dump: &Path, more: &[&str]) -> Ran {
    let (dump, renamed) = (dump.display().to_string(), renamed(project));
    let mut arguments = vec!["mongo", "load", dump.as_str()];
    arguments.extend(renamed.iter().map(String::as_str));
    arguments.extend(more);
    project.run(&arguments)
}

/// The databases that [`load`] has made.
async fn made(mongod: &Mongod, project: &Project) -> Vec<String> {
    let names = mongod.oracle().await.list_database_names().await.unwrap();
    names.into_iter().filter(|name| name.starts_with(&format!("{}_", project.database))).collect()
}

async fn drop_made(mongod: &Mongod, project: &Project) {
    for name in made(mongod, project).await {
        mongod.oracle().await.database(&name).drop().await.unwrap();
    }
}

async fn documents(mongod: &Mongod, database: &str, collection: &str) -> Vec<u8> {
    use mongodb::options::Hint;
    let collection = mongod.oracle().await.database(database).collection::<RawDocumentBuf>(collection);
    let mut cursor = collection.find(doc! {}).hint(Hint::Keys(doc! { "$natural": 1 })).await.unwrap();
    let mut bytes = Vec::new();
    while cursor.advance().await.unwrap() {
        bytes.extend_from_slice(cursor.current().as_bytes());
    }
    bytes
}

fn sorted(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut all) = (bytes, Vec::new());
    while let Some(length) = rest.first_chunk::<4>() {
        let (document, tail) = rest.split_at(u32::from_le_bytes(*length) as usize);
        all.push(document.to_vec());
        rest = tail;
    }
    all.sort();
    all
}

/// A collection of every kind, and documents of every type, beside what the project has.
async fn add_every_kind(mongod: &Mongod, database: &str) {
    let database = mongod.oracle().await.database(database);
    for command in [
        doc! { "create": "empty" },
        doc! { "create": "capped", "capped": true, "size": 100_000 },
        doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
        doc! { "create": "french", "collation": { "locale": "fr" } },
        doc! { "create": "checked", "validator": { "n": { "$gte": 0 } } },
        doc! { "create": "series", "timeseries": { "timeField": "at", "metaField": "m" } },
    ] {
        database.run_command(command).await.unwrap();
    }
    let every_type = doc! {
        "_id": 1, "n": 1, "double": f64::NAN, "text": "é\0", "document": {}, "list": [1, [2_i64]],
        "binary": bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16] }, "undefined": Bson::Undefined,
        "oid": bson::oid::ObjectId::from_bytes([3; 12]), "flag": false, "date": bson::DateTime::from_millis(-1), "null": Bson::Null,
        "code": Bson::JavaScriptCode("f()".to_owned()), "symbol": Bson::Symbol("s".to_owned()),
        "at": bson::Timestamp { time: 0, increment: 0 }, "decimal": "1.50E+10".parse::<bson::Decimal128>().unwrap(),
        "min": Bson::MinKey, "max": Bson::MaxKey, "": "empty name", "a.b": 1, "$c": 2,
    };
    for name in ["capped", "clustered", "french", "checked"] {
        let collection = database.collection::<Document>(name);
        collection.insert_one(&every_type).await.unwrap();
        let more = (2..40).rev().map(|n| doc! { "_id": n, "n": n });
        collection.insert_many(more).await.unwrap();
    }
    let points =
        (0..300_i64).map(|n| doc! { "at": bson::DateTime::from_millis(n * 60_000), "m": n % 3, "v": n });
    database.collection::<Document>("series").insert_many(points).await.unwrap();
}

/// Hashes that do not cover the database's name.
async fn hashes(mongod: &Mongod, database: &str) -> BTreeMap<String, String> {
    let mut hashes = mongod.db_hash(database).await.unwrap();
    hashes.remove("system.views");
    hashes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_comes_back_equal() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 2_000).await;
    add_every_kind(mongod, &project.database).await;
    let before = hashes(mongod, &project.database).await;
    let natural = documents(mongod, &project.database, "capped").await;
    for (name, options) in [
        ("plain.archive", &["--output", "plain.archive"][..]),
        ("gzip.archive", &["--output", "gzip.archive", "--gzip"]),
        ("folder", &["--directory", "folder"]),
        ("folder.gz", &["--directory", "folder.gz", "--gzip", "--gzip-level", "1"]),
    ] {
        let answer = project.json(&[&["mongo", "dump"], options].concat());
        assert_eq!(answer["consistency"]["kind"], "cluster_time", "{answer}");
        project.run(&["mongo", "load", name]).expect(8).says("exist already");
        mongod.oracle().await.database(&project.database).drop().await.unwrap();
        project.run(&["mongo", "load", name, "--dry-run"]).expect(0).says("users");
        assert_eq!(hashes(mongod, &project.database).await, BTreeMap::new());
        let loaded = project.json(&["mongo", "load", name]);
        assert_eq!(loaded["proven"], true, "{loaded}");
        assert_eq!(hashes(mongod, &project.database).await, before, "{name}");
        assert_eq!(
            documents(mongod, &project.database, "capped").await,
            natural,
            "{name}: the order of a capped collection"
        );
    }
    let left: Vec<_> =
        fs::read_dir(project.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("partial")), "{left:?}");
    project.run(&["audit", "verify"]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_carries_a_dump_and_nothing_else() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 3_000).await;
    let before = hashes(mongod, &project.database).await;
    for gzip in [&[][..], &["--gzip"]] {
        let mut dump = project.command(&[&["mongo", "dump", "--output", "-"], gzip].concat());
        let mut dump = dump.stderr(Stdio::null()).spawn().unwrap();
        let into = renamed(&project);
        let mut arguments = vec!["mongo", "load", "-", "--json"];
        arguments.extend(into.iter().map(String::as_str));
        let mut load = project.command(&arguments);
        let loaded = load.stdin(dump.stdout.take().unwrap()).output().unwrap();
        assert!(dump.wait().unwrap().success());
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        let copy = format!("{0}_{0}", project.database);
        assert_eq!(hashes(mongod, &copy).await, before);
        drop_made(mongod, &project).await;
    }
    // The report stands beside the data, as JSON too; and a reader that goes away is told.
    let output = project.command(&["mongo", "dump", "--output", "-", "--json"]).output().unwrap();
    assert!(output.stdout.starts_with(&[0x6D, 0xE2, 0x99, 0x81]));
    let report = String::from_utf8(output.stderr).unwrap();
    let report: serde_json::Value = serde_json::from_str(report.lines().last().unwrap()).unwrap();
    assert_eq!(report["documents"], 3_000 / 2 + 3_000 + 300);
    let mut dump = project.spawn(&["mongo", "dump", "--output", "-"]);
    drop(dump.stdout.take());
    let ended = dump.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{text}");
    assert!(text.contains("closed the pipe") && !text.contains("panic"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_dump_leaves_nothing() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 5_000).await;
    // Nobody reads the pipe, so that the dump is still under way.
    let mut dump = project.spawn(&["mongo", "dump", "--output", "-"]);
    let mut first = [0; 4];
    std::io::Read::read_exact(dump.stdout.as_mut().unwrap(), &mut first).unwrap();
    let pid = rustix::process::Pid::from_child(&dump);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut ended = dump.stderr.take().unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut ended, &mut text).unwrap();
    assert_eq!(dump.wait().unwrap().code(), Some(75), "{text}");
    assert!(text.contains("the dump is not whole"), "{text}");
    // A failure half-way takes the partial file away.
    project
        .run(&["mongo", "dump", "--output", "a", "--collection", "nowhere.c"])
        .expect(8)
        .says("no dump was made");
    let left: Vec<_> =
        fs::read_dir(project.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with('a')), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_dump_left_is_removed_by_the_next() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 50).await;
    // A process that has ended, and was waited for, has a number that nobody has.
    let mut gone = project.spawn(&["--version"]);
    gone.wait().unwrap();
    let remains = format!("a.{}.partial", gone.id());
    let of_the_living = format!("a.{}.partial", std::process::id());
    let of_another = format!("b.{}.partial", gone.id());
    fs::create_dir(project.path(&remains)).unwrap();
    fs::write(project.path(&remains).join("x.bson"), "").unwrap();
    fs::write(project.path(&of_the_living), "").unwrap();
    fs::write(project.path(&of_another), "").unwrap();
    project.run(&["mongo", "dump", "--output", "a"]).expect(0).says(&format!("removed {remains}"));
    assert!(!project.path(&remains).exists() && project.path("a").exists());
    assert!(project.path(&of_the_living).exists() && project.path(&of_another).exists());

    // One that somebody has locked is written, wherever that somebody runs.
    fs::write(project.path(&of_another), "").unwrap();
    let locked = File::open(project.path(&of_another)).unwrap();
    locked.lock().unwrap();
    project.run(&["mongo", "dump", "--output", "b"]).expect(0);
    assert!(project.path(&of_another).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_stock_tool_load_with_what_they_hold() {
    let mongod = shared_mongod();
    let project = Project::new(&mongod.uri());
    project.mark();
    for (name, collections) in [
        ("full.archive", 18),
        ("full.archive.gz", 18),
        ("db_shop.archive", 15),
        ("coll_types.archive", 1),
        ("coll_empty.archive", 1),
    ] {
        load(&project, &fixture(name), &[]).expect(0).says("loaded");
        let mut found = 0;
        for database in made(mongod, &project).await {
            let names = mongod.oracle().await.database(&database).list_collection_names().await.unwrap();
            found += names.iter().filter(|name| !name.starts_with("system.")).count();
        }
        assert_eq!(found, collections, "{name}");
        let shop = format!("{}_shop", project.database);
        if name != "coll_empty.archive" {
            assert_eq!(
                documents(mongod, &shop, "types").await,
                fs::read(fixture("dir_full/shop/types.bson")).unwrap(),
                "{name}"
            );
        }
        if collections > 1 {
            let folder = fixture("dir_full/shop");
            for collection in [
                "users",
                "caplog",
                "clustered",
                "coll_fr",
                "validated",
                "system.buckets.metrics_ts",
                "n.e.s.t.e.d",
            ] {
                let expected = fs::read(folder.join(format!("{collection}.bson"))).unwrap();
                assert_eq!(
                    sorted(&documents(mongod, &shop, collection).await),
                    sorted(&expected),
                    "{name}: {collection}"
                );
            }
        }
        drop_made(mongod, &project).await;
    }
    load(&project, &fixture("dir_full"), &["--without-oplog"]).expect(0);
    let long = format!("{}{}", "L".repeat(160), "é".repeat(20));
    let shop = hashes(mongod, &format!("{}_shop", project.database)).await;
    assert!(
        shop.contains_key(&long) && shop.contains_key("weird name/with%slash&plus+and spaces"),
        "{shop:?}"
    );
    drop_made(mongod, &project).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_before_anything_is_written() {
    let mongod = shared_mongod();
    let project = Project::new(&mongod.uri());
    project.mark();
    for name in ["ok", "multimember.gz", "extra_meta_field", "eof_only_empty", "relaxed_json"] {
        load(&project, &fixture(&format!("edge/{name}")), &["--dry-run"]).expect(0);
        load(&project, &fixture(&format!("edge/{name}")), &[]).expect(0);
        drop_made(mongod, &project).await;
    }
    for name in ["badcrc", "missing_eof", "reopened", "trailing_term", "trunc_mid", "crc_int32"] {
        let file = fixture(&format!("edge/{name}"));
        load(&project, &file, &[]).expect(4).says("nothing was changed").says("hint:");
        // Through a pipe the damage shows when documents have been loaded: beside the name.
        let into = renamed(&project);
        let mut arguments = vec!["mongo", "load", "-"];
        arguments.extend(into.iter().map(String::as_str));
        let output = project.command(&arguments).stdin(File::open(&file).unwrap()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(4)), "{name}: {text}");
        let left = made(mongod, &project).await;
        for database in &left {
            let names = mongod.oracle().await.database(database).list_collection_names().await.unwrap();
            assert!(
                !names.iter().any(|name| name.starts_with("mainstay.restore.")),
                "{name}: {names:?} {text}"
            );
        }
        if name == "badcrc" {
            assert_eq!(left, Vec::<String>::new(), "{text}");
        }
        drop_made(mongod, &project).await;
    }
    // A frame is whole and what is in it is not: the server refuses it, and it is counted.
    let status = load(&project, &fixture("edge/malformed_body_doc"), &[]).status;
    assert!(status == 1 || status == 4, "{status}");
    assert_eq!(made(mongod, &project).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_and_merging_need_a_plan_that_is_approved() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 400).await;
    let before = hashes(mongod, &project.database).await;
    project.run(&["mongo", "dump", "--output", "d"]).expect(0);
    let mode = fs::metadata(project.path("d")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others may read it: {mode:o}");
    project.run(&["mongo", "dump", "--output", "d"]).expect(8).says("--overwrite");
    project.run(&["mongo", "dump", "--output", "d", "--overwrite"]).expect(0);
    let users = mongod.oracle().await.database(&project.database).collection::<Document>("users");
    users.delete_many(doc! { "number": { "$lt": 100 } }).await.unwrap();

    project.run(&["mongo", "load", "d", "--drop"]).expect(7).says("--output");
    let planned = project.json(&["mongo", "load", "d", "--drop", "--output", "drop.json"]);
    let hash = planned["plan_hash"].as_str().unwrap().to_owned();
    project.run(&["apply", "drop.json"]).expect(7);
    project.run(&["apply", "drop.json", "--approve", &hash]).expect(0);
    assert_eq!(hashes(mongod, &project.database).await, before);

    users.delete_many(doc! { "number": { "$lt": 10 } }).await.unwrap();
    users.update_one(doc! { "number": 20 }, doc! { "$set": { "name": "changed since" } }).await.unwrap();
    let planned =
        project.json(&["mongo", "load", "d", "--merge", "--ns-include", "*.users", "--output", "merge.json"]);
    let hash = planned["plan_hash"].as_str().unwrap().to_owned();
    project.run(&["apply", "merge.json", "--approve", &hash]).expect(1).says("1 document");
    assert_eq!(users.count_documents(doc! {}).await.unwrap(), 200);

    // The plan is for what the file held.
    let planned = project.json(&["mongo", "load", "d", "--drop", "--output", "stale.json"]);
    let hash = planned["plan_hash"].as_str().unwrap().to_owned();
    project.run(&["mongo", "dump", "--output", "d", "--overwrite"]).expect(0);
    project.run(&["apply", "stale.json", "--approve", &hash]).expect(9).says("contents of the dump");
}

#[tokio::test(flavor = "multi_thread")]
async fn selections_and_names() {
    let mongod = shared_mongod();
    let project = Project::new(&mongod.uri());
    project.mark();
    let full = fixture("full.archive");
    let full = full.display().to_string();
    let to = format!("{}_x.$c$_copy", project.database);
    let run = |more: &[&str]| project.run(&[&["mongo", "load", full.as_str()], more].concat());
    // A time series comes under its new name with its buckets, also by an exact name.
    let series = format!("{}_x.renamed", project.database);
    run(&["--ns-include", "shop.metrics_ts", "--ns-from", "shop.metrics_ts", "--ns-to", &series]).expect(0);
    run(&[
        "--ns-include",
        "shop.*",
        "--ns-exclude",
        "*.users",
        "--ns-exclude",
        "*.adults",
        "--ns-from",
        "shop.$c$",
        "--ns-to",
        &to,
    ])
    .expect(0);
    let database = format!("{}_x", project.database);
    let names = mongod.oracle().await.database(&database).list_collection_names().await.unwrap();
    for expected in [
        "renamed",
        "system.buckets.renamed",
        "types_copy",
        "metrics_ts_copy",
        "system.buckets.metrics_ts_copy",
    ] {
        assert!(names.iter().any(|name| name == expected), "{expected} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.starts_with("users") || name.starts_with("adults")), "{names:?}");
    let buckets = fs::read(fixture("dir_full/shop/system.buckets.metrics_ts.bson")).unwrap();
    assert_eq!(sorted(&documents(mongod, &database, "system.buckets.renamed").await), sorted(&buckets));
    drop_made(mongod, &project).await;

    run(&["--ns-include", "shop.nothing"]).expect(8).says("shop.nothing matches no collection");
    run(&["--ns-include", "shop.t*", "--ns-include", "shpo.*"]).expect(8).says("shpo.*");
    run(&["--ns-from", "shop.*", "--ns-to", "admin.*"]).expect(2).says("admin");
    run(&["--ns-from", "shop.*", "--ns-to", "same.name"]).expect(2).says("asterisks");
    run(&["--ns-from", "shop.*"]).expect(2);
    run(&["--ns-include", "a$b$"]).expect(2);
    let one = format!("{}_x.one", project.database);
    run(&[
        "--ns-include",
        "shop.types",
        "--ns-include",
        "shop.users",
        "--ns-from",
        "shop.types",
        "--ns-to",
        &one,
        "--ns-from",
        "shop.users",
        "--ns-to",
        &one,
    ])
    .expect(8)
    .says("two collections");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_dump_is_told() {
    let mongod = shared_mongod();
    let project = Project::new(&mongod.uri());
    project.mark();
    fs::write(project.path("text"), "no archive at all").unwrap();
    fs::create_dir(project.path("nothing")).unwrap();
    project.run(&["mongo", "load", "text"]).expect(2).says("not an archive");
    project.run(&["mongo", "load", "nothing"]).expect(2).says("no dump");
    project.run(&["mongo", "load", "missing"]).expect(1).says("missing");
    project.run(&["mongo", "load", "-"]).expect(2).says("not an archive");
    project
        .run(&["mongo", "load", &fixture("dir_full/shop").display().to_string()])
        .expect(2)
        .says("folder above");
    for more in [
        &["--drop"][..],
        &["--merge"],
        &["--users-and-roles"],
        &["--drop", "--dry-run"],
        &["--merge", "--dry-run"],
        &["--users-and-roles", "--dry-run"],
    ] {
        let file = File::open(fixture("db_shop.archive")).unwrap();
        let arguments = [&["mongo", "load", "-"], more].concat();
        let output = project.command(&arguments).stdin(file).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("write it to a file first"), "{text}");
    }
    let levels = |name: &str| project.path("folder/shop").join(format!("levels.{name}"));
    fs::create_dir_all(project.path("folder/shop")).unwrap();
    fs::write(levels("metadata.json"), r#"{"indexes":[]}"#).unwrap();
    project.run(&["mongo", "load", "folder"]).expect(4).says("no file of documents");
    fs::write(levels("bson"), "").unwrap();
    for (metadata, fault) in [
        (r#"{"indexes":5}"#, "indexes"),
        (r#"{"indexes":[{"name":"a_1"}]}"#, "indexes"),
        (r#"{"options":"x","indexes":[]}"#, "options"),
    ] {
        fs::write(levels("metadata.json"), metadata).unwrap();
        project.run(&["mongo", "load", "folder"]).expect(4).says(fault).says("nothing was changed");
    }
    fs::write(levels("metadata.json"), "").unwrap();
    project.run(&["mongo", "load", "folder", "--dry-run"]).expect(0).says("has no metadata");
    let pipe = project.path("folder/shop/pipe.bson");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    project.run(&["mongo", "load", "folder"]).expect(2).says("neither a file nor a folder");
    project.run(&["mongo", "load", "folder/shop/pipe.bson"]).expect(2).says("mongo load -");
    project.run(&["mongo", "dump"]).expect(2);
    project.run(&["mongo", "dump", "--output", "a", "--directory", "b"]).expect(2);
    project.run(&["mongo", "dump", "--output", "a", "--gzip", "--gzip-level", "13"]).expect(2);
    project.run(&["mongo", "dump", "--output", "no/such/folder"]).expect(1).says("cannot make");
    project.run(&["mongo", "dump", "--output", "a", "--db", "admin"]).expect(2).says("admin");
    fs::write(project.path("nothing/x"), "").unwrap();
    project.run(&["mongo", "dump", "--directory", "nothing"]).expect(8).says("not empty");
    let many = ["mongo", "dump", "--output", "a", "--db", "a", "--db", "b", "--users-and-roles"];
    project.run(&many).expect(2).says("one whole database");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_roles_are_merged_and_nobody_is_removed() {
    let mongod = Mongod::start().unwrap();
    let project = Project::filled(&mongod, 100).await;
    let client = mongod.oracle().await;
    let database = client.database(&project.database);
    database
        .run_command(doc! { "createRole": "reader", "privileges": [{ "resource": { "db": &project.database, "collection": "users" }, "actions": ["find"] }], "roles": [] })
        .await
        .unwrap();
    let create =
        |name: &str, password: &str| doc! { "createUser": name, "pwd": password, "roles": ["reader"] };
    database.run_command(create("anna", "canary-one")).await.unwrap();
    let credentials = async |name: &str| {
        let users = client.database("admin").collection::<Document>("system.users");
        users
            .find_one(doc! { "user": name })
            .await
            .unwrap()
            .map(|user| user.get_document("credentials").unwrap().clone())
    };
    let before = credentials("anna").await.unwrap();
    project.run(&["mongo", "dump", "--output", "one", "--users-and-roles"]).expect(0);
    project.run(&["mongo", "dump", "--output", "all", "--all-databases", "--users-and-roles"]).expect(0);
    project.run(&["mongo", "dump", "--directory", "folder", "--users-and-roles"]).expect(0);
    for (dump, absent) in [("one", true), ("all", true), ("folder", true), ("folder", false), ("one", false)]
    {
        if absent {
            database.run_command(doc! { "dropAllUsersFromDatabase": 1 }).await.unwrap();
            database.run_command(doc! { "dropAllRolesFromDatabase": 1 }).await.unwrap();
        } else {
            database.run_command(doc! { "dropUser": "extra" }).await.unwrap();
            database.run_command(doc! { "updateUser": "anna", "pwd": "changed", "roles": [] }).await.unwrap();
            database.run_command(doc! { "updateRole": "reader", "privileges": [] }).await.unwrap();
            assert_ne!(credentials("anna").await.unwrap(), before);
        }
        database.run_command(doc! { "createUser": "extra", "pwd": "canary-two", "roles": [] }).await.unwrap();
        let into = renamed(&project);
        let mut arguments = vec!["mongo", "load", dump, "--users-and-roles", "--output", "plan.json"];
        arguments.extend(into.iter().map(String::as_str));
        let planned = project.json(&arguments);
        let ran = project.run(&["apply", "plan.json", "--approve", planned["plan_hash"].as_str().unwrap()]);
        ran.expect(0).says("merged 1 users and 1 roles");
        assert_eq!(credentials("anna").await.unwrap(), before, "{dump}");
        assert!(credentials("extra").await.is_some(), "{dump}");
        let temporary = client.database("admin").list_collection_names().await.unwrap();
        assert!(!temporary.iter().any(|name| name.starts_with("temp")), "{temporary:?}");
        fs::remove_file(project.path("plan.json")).unwrap();
        drop_made(&mongod, &project).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_repository_only_free_names_are_filled() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 100).await;
    project.run(&["mongo", "dump", "--output", "d"]).expect(0);
    let text = fs::read_to_string(project.path("mainstay.toml")).unwrap();
    let text = text.split("[repository]").next().unwrap().to_owned();
    fs::write(project.path("mainstay.toml"), text).unwrap();
    load(&project, &project.path("d"), &[]).expect(0);
    project.run(&["mongo", "load", "d", "--drop"]).expect(7).says("audit log");
    drop_made(mongod, &project).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_load_is_told_as_one_that_cannot_be_continued() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 20_000).await;
    project.json(&["mongo", "dump", "--output", "dump.archive"]);
    let renamed = renamed(&project);
    let arguments: Vec<&str> =
        ["mongo", "load", "dump.archive"].into_iter().chain(renamed.iter().map(String::as_str)).collect();
    let mut child = project.spawn(&arguments);
    while made(mongod, &project).await.is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "the load was not caught in the act");
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let listed = project.json(&["restore", "list"]);
    let unfinished = &listed["unfinished"][0];
    assert_eq!(unfinished["can_continue"], false, "{listed}");
    let run = unfinished["run"].as_str().unwrap().to_owned();
    project.run(&["restore", "list"]).expect(0).says("cannot be continued").says("then load again");
    let remedies = project.run(&["doctor", "--json"]).json()["findings"].to_string();
    assert!(
        remedies.contains(&format!("restore abandon {run}")) && remedies.contains("load again"),
        "{remedies}"
    );
    // The killed run's lease has to run out first.
    while project.run(&["restore", "abandon", &run]).status == 10 {}
    let left = made(mongod, &project).await;
    for name in &left {
        let names = mongod.oracle().await.database(name).list_collection_names().await.unwrap();
        assert!(!names.iter().any(|name| name.starts_with("mainstay.restore.")), "{names:?}");
    }
    drop_made(mongod, &project).await;
    project.run(&arguments).expect(0);
    drop_made(mongod, &project).await;
}
