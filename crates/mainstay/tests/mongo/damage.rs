//! Damage in a repository, as each command tells it.

use std::fs;

use mainstay_testkit::{Mongod, shared_mongod};
use mongodb::bson::{Document, doc};

use crate::stack::Project;

#[tokio::test(flavor = "multi_thread")]
async fn a_set_found_damaged_is_told_by_every_command() {
    let project = Project::filled(shared_mongod(), 200).await;
    let set = project.back_up();
    project.run(&["backup", "verify", &set]).expect(0);
    project.run(&["status"]).expect(0);
    let shown = project.json(&["backup", "show", &set]);
    let object = shown["set"]["objects"][0]["name"].as_str().unwrap();
    let path = project.path(&format!("repository/mongo/sets/{set}/{object}.zst"));
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, &bytes).unwrap();
    project.run(&["backup", "verify", &set]).expect(4).says("DAMAGED");
    project.run(&["backup", "list"]).expect(4).says("DAMAGED");
    project.run(&["status"]).expect(4).says(&format!("backup set {set} is damaged"));
    project.run(&["doctor"]).expect(4).says(&format!("set {set} is damaged"));
    let copy = format!("{}_copy", project.database);
    project
        .run(&["restore", "plan", &set, "--into", &copy])
        .expect(0)
        .says(&format!("WARNING: set {set} is damaged"));

    // Mended and verified again, it is sound for all of them.
    bytes[0] ^= 1;
    fs::write(&path, &bytes).unwrap();
    project.run(&["backup", "verify", &set]).expect(0);
    project.run(&["status"]).expect(0);
    let planned = project.run(&["restore", "plan", &set, "--into", &copy]).expect(0);
    assert!(!planned.stdout.contains("WARNING"), "{planned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_cannot_be_recorded_is_told_all_the_same() {
    let project = Project::filled(shared_mongod(), 50).await;
    let set = project.back_up();
    // No folder can be made where a file is: as in a repository that may only be read, for whoever runs this.
    fs::create_dir_all(project.path("repository/mongo/verifications")).unwrap();
    fs::write(project.path(&format!("repository/mongo/verifications/{set}")), "").unwrap();
    let verified = project.run(&["backup", "verify", &set]).expect(1).says("is sound");
    verified.says("this verdict was not recorded");
    let verified = project.run(&["backup", "verify", &set, "--json"]).expect(1).json();
    assert_eq!(verified["sound"], true, "{verified}");
    assert!(verified["not_recorded"]["message"].is_string(), "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_set_without_a_manifest_is_damaged_and_never_pruned() {
    let project = Project::filled(shared_mongod(), 50).await;
    let set = project.back_up();
    project.run(&["backup", "verify", &set]).expect(0);
    let manifest = project.path(&format!("repository/mongo/sets/{set}/manifest.json"));
    let whole = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    project.run(&["backup", "list"]).expect(4).says(&set).says("manifest.json is missing");
    project.run(&["backup", "show", &set]).expect(4).says("manifest.json is missing");
    for arguments in [&["backup", "prune", "--dry-run"][..], &["backup", "prune"]] {
        let pruned = project.run(arguments).expect(0).says("its manifest is missing").says(&set);
        assert!(pruned.stdout.contains(" 0 leftovers"), "{pruned}");
    }
    fs::write(&manifest, whole).unwrap();
    project.run(&["backup", "verify", &set]).expect(0).says("is sound");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_slice_ends_what_can_be_restored() {
    let mongod = Mongod::start().unwrap();
    let project = Project::filled(&mongod, 50).await;
    project.run(&["capture", "mongo", "--once"]).expect(0);
    project.back_up();
    let client = mongod.oracle().await;
    let users = client.database(&project.database).collection::<Document>("users");
    users.insert_one(doc! { "_id": "written since" }).await.unwrap();
    project.run(&["capture", "mongo", "--once"]).expect(0);
    project.run(&["backup", "list"]).expect(0).says("restorable");
    let chains = fs::read_dir(project.path("repository/mongo/log")).unwrap();
    let chain = chains.map(|entry| entry.unwrap().path()).next().unwrap();
    let slices = fs::read_dir(chain).unwrap().map(|entry| entry.unwrap().path());
    let mut slices: Vec<_> = slices.filter(|path| path.extension().is_some_and(|it| it == "zst")).collect();
    slices.sort();
    fs::write(slices.last().unwrap(), "").unwrap();
    project.run(&["backup", "list"]).expect(4).says("DAMAGED").says("0 bytes");
    project.run(&["backup", "verify", "--log"]).expect(4).says("has no bytes");

    // What is captured once more takes its place.
    project.run(&["capture", "mongo", "--once"]).expect(0);
    project.run(&["backup", "list"]).expect(0).says("restorable");
}
