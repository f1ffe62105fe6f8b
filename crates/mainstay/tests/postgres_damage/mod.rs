//! Every kind of damage to what is stored of PostgreSQL, in every file of it: found by a verification, and in the way of a restore before its
//! first write. And damage that the server had: known, page by page, wherever it goes.

use std::fs;
use std::path::{Path, PathBuf};

use mainstay_testkit::Postgres;
use serde_json::Value;

use crate::binary::Place;
use crate::cluster::{backup, project};

/// The files below `folder`, those of locks and verdicts aside.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

/// Ways to damage a file; `None` for taking it away.
fn damages(whole: &[u8]) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let flipped = |at: usize| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x10;
        Some(bytes)
    };
    vec![
        ("flipped at its beginning", flipped(whole.len() / 20)),
        ("flipped in the middle", flipped(whole.len() / 2)),
        ("flipped at its end", flipped(whole.len() - 2)),
        ("cut off", Some(whole[..whole.len() - 1].to_vec())),
        ("empty", Some(Vec::new())),
        ("missing", None),
    ]
}

/// Damages each of `damaged` in each way: what reads it back says so, and `apply` writes nothing.
#[track_caller]
fn assert_found(place: &Place, damaged: &[PathBuf], verify: &[&str], into: &Path) {
    for file in damaged {
        let whole = fs::read(file).unwrap();
        for (what, bytes) in damages(&whole) {
            match bytes {
                Some(bytes) => fs::write(file, bytes).unwrap(),
                None => fs::remove_file(file).unwrap(),
            }
            let context = format!("{} {what}", file.display());
            // The first time the last verdict is that all was sound.
            let seen = place.run(&["restore", "apply", "plan.json"]);
            assert_eq!(seen.status, 4, "apply, {context}: {}", seen.both());
            assert!(!into.exists(), "{context}");
            let seen = place.run(verify);
            assert_eq!(seen.status, 4, "verify, {context}: {}", seen.both());
        }
        fs::write(file, whole).unwrap();
        assert_eq!(place.run(verify).status, 0, "nothing is damaged any more");
    }
}

fn plan(place: &Place, set: &str, more: &[&str]) {
    let base = ["restore", "plan", set, "--store", "postgres", "--into", "data", "--output", "plan.json"];
    place.run(&[&base[..], more].concat()).expect(0);
}

#[test]
fn damage_to_any_file_of_a_set_is_found_and_nothing_is_written() {
    let server = Postgres::start().unwrap();
    let far = server.make_folder("far");
    server.execute("postgres", &format!("CREATE TABLESPACE far LOCATION '{}'", far.display())).unwrap();
    server
        .execute("postgres", "CREATE TABLE t TABLESPACE far AS SELECT i FROM generate_series(1, 1000) AS i")
        .unwrap();
    let place = project(&server.uri());
    let made = backup(&place);
    let id = made["set"]["id"].as_str().unwrap();
    plan(&place, id, &["--tablespace", &format!("{}=far", far.display())]);
    let stored = files(&place.path(&format!("repository/postgres/sets/{id}")));
    let names: Vec<_> = stored.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names.len(), 4, "two archives, the list of files, the manifest: {names:?}");
    // Found sound before, so that a restore only reads the stored bytes back; the verdict is none on what changed since.
    place.run(&["backup", "verify", id]).expect(0);
    assert_found(&place, &stored, &["backup", "verify", id], &place.path("data"));
    place.run(&["restore", "apply", "plan.json"]).expect(0);
}

#[test]
fn damage_to_any_file_of_the_log_is_found_and_nothing_is_written() {
    let server = Postgres::options().parameter("wal_keep_size", "512MB").start().unwrap();
    let place = project(&server.uri());
    let capture = ["capture", "postgres", "--once"];
    place.run(&capture).expect(0);
    let made = backup(&place);
    let id = made["set"]["id"].as_str().unwrap();
    for text in ["first", "second", "third"] {
        server.execute("postgres", &format!("CREATE TABLE {text} (i int)")).unwrap();
        place.run(&capture).expect(0);
    }
    plan(&place, id, &["--to", "latest"]);
    place.run(&["backup", "verify", id, "--log"]).expect(0);
    let log = files(&place.path("repository/postgres/log"));
    assert!(log.len() > 4 && log.last().unwrap().ends_with("chain.json"), "{log:?}");
    // Those before the set are none of its business; the last may be missing, for nobody knows that it was there. Behind it lies what describes the chain.
    let needed = &log[log.len() - 4..log.len() - 2];
    let verify = ["backup", "verify", id, "--log"];
    assert_found(&place, needed, &verify, &place.path("data"));
    place.run(&["restore", "apply", "plan.json"]).expect(0);
}

/// Changes a byte of block `block` of the table `t` on the disk of a server that does not run.
fn damage_page(server: &mut Postgres, block: usize) -> String {
    let path = server.texts("postgres", "SELECT pg_relation_filepath('t')").remove(0);
    server.execute("postgres", "CHECKPOINT").unwrap();
    // While its summarizer sleeps, it ends in no other way.
    server.kill9();
    let file = server.dir().join("data").join(&path);
    let mut bytes = fs::read(&file).unwrap();
    bytes[block * 8192 + 5_000] ^= 1;
    fs::write(&file, bytes).unwrap();
    server.restart().unwrap();
    path
}

#[test]
fn pages_that_were_damaged_on_the_server_are_known_by_name_through_a_chain() {
    let options = Postgres::options().parameter("summarize_wal", "on").parameter("autovacuum", "off");
    let mut server = options.start().unwrap();
    let fill =
        "CREATE TABLE t AS SELECT i, repeat('x', 500) AS x FROM generate_series(1, 200) AS i; VACUUM t";
    for statement in fill.split("; ") {
        server.execute("postgres", statement).unwrap();
    }
    let path = damage_page(&mut server, 1);
    let place = project(&server.uri());
    let create = ["backup", "create", "--store", "postgres", "--allow-damaged-pages", "--json"];
    let whole = place.run(&create).expect(0).json();
    let known = |made: &Value| {
        let id = made["set"]["id"].as_str().unwrap();
        let manifest = fs::read(place.path(&format!("repository/postgres/sets/{id}/manifest.json"))).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let contents =
            manifest.pointer("/contents").or_else(|| manifest.pointer("/body/contents")).unwrap().clone();
        contents["damaged"].clone()
    };
    assert_eq!(known(&whole), serde_json::json!([{"path": path, "blocks": [1]}]));

    // Another page changes, is sent as a change, and is damaged in turn.
    server.execute("postgres", "UPDATE t SET i = -i WHERE ctid = '(3,1)'").unwrap();
    damage_page(&mut server, 3);
    let changed = place.run(&[&create[..], &["--incremental"]].concat()).expect(0).json();
    let names = known(&changed);
    assert_eq!(names[0]["blocks"], serde_json::json!([3]), "{names}");
    assert!(names[0]["path"].as_str().unwrap().contains("INCREMENTAL."), "{names}");
    let id = changed["set"]["id"].as_str().unwrap();
    place.run(&["backup", "verify", id]).expect(0);
    plan(&place, id, &[]);
    place.run(&["restore", "apply", "plan.json"]).expect(0);
    server.kill9();
}
