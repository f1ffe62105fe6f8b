//! Backup and restore of MongoDB as a user runs them, against a real server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::stack::{Project, fill};
use mainstay_testkit::{FaultProxy, Mongod, shared_mongod};
use mongodb::bson::{Document, doc};

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_database_comes_back_equal() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 3_000).await;
    let before = mongod.db_hash(&project.database).await.unwrap();

    let set = project.back_up();
    project.run(&["backup", "verify", &set]).expect(0);
    mongod.oracle().await.database(&project.database).drop().await.unwrap();
    let hash = project.plan_restore(&["latest"]);
    project.apply_restore(&hash).expect(0);

    assert_eq!(mongod.db_hash(&project.database).await.unwrap(), before);
    project.run(&["audit", "verify"]).expect(0);
    project.run(&["backup", "list"]).expect(0).says(&set);
}

#[tokio::test(flavor = "multi_thread")]
async fn existing_collections_need_a_mode_and_consent() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 500).await;
    let before = mongod.db_hash(&project.database).await.unwrap();
    project.back_up();
    project.run(&["restore", "plan", "latest"]).expect(8).says("exist already").says("--drop");

    let users = mongod.oracle().await.database(&project.database).collection::<Document>("users");
    users.delete_many(doc! { "number": { "$lt": 100 } }).await.unwrap();
    let hash = project.plan_restore(&["latest", "--drop"]);
    project.run(&["restore", "apply", "plan.json"]).expect(7).says("--approve");
    let wrong = "0".repeat(64);
    project.apply_restore(&wrong).expect(7);
    assert_eq!(users.count_documents(doc! {}).await.unwrap(), 150);

    project.apply_restore(&hash).expect(0);
    assert_eq!(mongod.db_hash(&project.database).await.unwrap(), before);
    project.apply_restore(&hash).expect(9).says("applied already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_name_and_a_selection_leave_the_rest_alone() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 500).await;
    let before = mongod.db_hash(&project.database).await.unwrap();
    project.back_up();
    let copy = format!("{}_copy", project.database);
    let users = format!("{}.users", project.database);
    let hash = project.plan_restore(&["latest", "--collection", &users, "--into", &copy]);
    project.apply_restore(&hash).expect(0);

    let copied = mongod.db_hash(&copy).await.unwrap();
    assert_eq!(copied.len(), 1);
    assert_eq!(copied["users"], before["users"]);
    assert_eq!(mongod.db_hash(&project.database).await.unwrap(), before);
    project
        .run(&["restore", "plan", "latest", "--collection", "nowhere.users"])
        .expect(8)
        .says("nowhere.users");
    mongod.oracle().await.database(&copy).drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_keeps_what_is_there_and_names_what_differs() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 400).await;
    project.back_up();
    let users = mongod.oracle().await.database(&project.database).collection::<Document>("users");
    users.delete_many(doc! { "number": { "$gte": 150 } }).await.unwrap();
    let hash = project.plan_restore(&["latest", "--merge"]);
    project.apply_restore(&hash).expect(0);
    assert_eq!(users.count_documents(doc! {}).await.unwrap(), 200);

    users.update_one(doc! { "number": 3 }, doc! { "$set": { "name": "changed since" } }).await.unwrap();
    let hash = project.plan_restore(&["latest", "--merge"]);
    project.apply_restore(&hash).expect(1).says("1 document");
    let kept = users.find_one(doc! { "number": 3 }).await.unwrap().unwrap();
    assert_eq!(kept.get_str("name").unwrap(), "changed since");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_world_makes_the_plan_stale() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 100).await;
    project.back_up();
    let database = mongod.oracle().await.database(&project.database);
    let hash = project.plan_restore(&["latest", "--drop"]);
    database.collection::<Document>("orders").drop().await.unwrap();
    database.create_collection("orders").await.unwrap();
    project.apply_restore(&hash).expect(9).says("orders").says("nothing was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_during_the_backup_does_not_blur_the_moment() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 20_000).await;
    let database = mongod.oracle().await.database(&project.database);
    let (left, right) = (database.collection::<Document>("left"), database.collection::<Document>("right"));
    left.insert_one(doc! { "_id": 0, "n": 0 }).await.unwrap();
    right.insert_one(doc! { "_id": 0, "n": 0 }).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (left, right, stop) = (left.clone(), right.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            // `left` is always written first: at any one moment left is right, or one ahead.
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                left.update_one(doc! { "_id": 0 }, doc! { "$set": { "n": n } }).await.unwrap();
                right.update_one(doc! { "_id": 0 }, doc! { "$set": { "n": n } }).await.unwrap();
            }
            n
        })
    };
    let answer = tokio::task::block_in_place(|| project.json(&["backup", "create", "--store", "mongo"]));
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0);
    assert_eq!(answer["consistency"]["kind"], "cluster_time");

    let copy = format!("{}_copy", project.database);
    let hash = project.plan_restore(&["latest", "--into", &copy]);
    project.apply_restore(&hash).expect(0);
    let restored = mongod.oracle().await.database(&copy);
    let mut seen = Vec::new();
    for name in ["left", "right"] {
        let document = restored.collection::<Document>(name).find_one(doc! {}).await.unwrap().unwrap();
        seen.push(document.get_i32("n").unwrap());
    }
    assert!(seen[0] == seen[1] || seen[0] == seen[1] + 1, "{seen:?}");
    restored.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_is_backed_up_with_a_warning() {
    let mongod = Mongod::options().standalone().start().unwrap();
    let project = Project::filled(&mongod, 500).await;
    let before = mongod.db_hash(&project.database).await.unwrap();
    project.run(&["backup", "create", "--store", "mongo"]).expect(0).says("warning").says("standalone");
    let refused = project.run(&["backup", "create", "--store", "mongo", "--consistency", "cluster-time"]);
    refused.expect(8).says("standalone");
    mongod.oracle().await.database(&project.database).drop().await.unwrap();
    let hash = project.plan_restore(&["latest"]);
    project.apply_restore(&hash).expect(0);
    assert_eq!(mongod.db_hash(&project.database).await.unwrap(), before);
}

/// Whether somebody can log in.
async fn logs_in(mongod: &Mongod, user: &str, password: &str, database: &str) -> bool {
    let uri = format!(
        "mongodb://{user}:{password}@{}/?directConnection=true&authSource={database}",
        mongod.address()
    );
    let client = mongodb::Client::with_uri_str(uri).await.unwrap();
    client.database("admin").run_command(doc! { "ping": 1 }).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_roles_come_back_when_asked_and_nobody_else_is_touched() {
    let mongod = Mongod::options().auth("root", "canary-root").start().unwrap();
    let project = Project::filled(&mongod, 100).await;
    let client = mongod.oracle().await;
    let database = client.database(&project.database);
    let run = async |command: Document| drop(database.run_command(command).await.unwrap());
    let find = doc! { "resource": { "db": &project.database, "collection": "users" }, "actions": ["find"] };
    run(doc! { "createRole": "reader", "privileges": [find], "roles": [] }).await;
    for (name, password) in [("anna", "canary-one"), ("bert", "canary-two")] {
        run(doc! { "createUser": name, "pwd": password, "roles": ["reader"] }).await;
    }
    project.back_up();
    let refused = project.run(&["restore", "plan", "latest", "--drop", "--users-and-roles"]);
    refused.expect(8).says("without users and roles");
    let made =
        project.run(&["backup", "create", "--users-and-roles", "--json"]).expect(0).says("is not encrypted");
    assert_eq!((&made.json()["set"]["users"], &made.json()["set"]["roles"]), (&3.into(), &1.into()));
    project.run(&["backup", "verify", "latest"]).expect(0);
    let shown = project.run(&["backup", "show", "latest"]).expect(0).says("3 users, 1 roles");
    assert!(!shown.stdout.contains("SCRAM") && !shown.stdout.contains("anna"), "{shown}");

    let mess = async || {
        run(doc! { "dropUser": "anna" }).await;
        run(doc! { "updateUser": "bert", "pwd": "canary-three", "roles": [] }).await;
        run(doc! { "updateRole": "reader", "privileges": [] }).await;
    };
    mess().await;
    run(doc! { "createUser": "newcomer", "pwd": "canary-four", "roles": [] }).await;
    let note = doc! { "updateUser": "root", "customData": { "note": "later" } };
    client.database("admin").run_command(note).await.unwrap();

    // Not asked for: nobody is touched.
    let copy = format!("{}_copy", project.database);
    let hash = project.plan_restore(&["latest", "--into", &copy]);
    project.apply_restore(&hash).expect(0);
    assert!(!logs_in(&mongod, "anna", "canary-one", &project.database).await);
    client.database(&copy).drop().await.unwrap();

    // Asked for: the plan names everybody, and is stale when it is somebody else.
    let arguments = ["latest", "--into", &copy, "--users-and-roles"];
    let hash = project.plan_restore(&arguments);
    let name = |who: &str| format!("{} {}.", who, project.database);
    let plan = project.run(&["plan", "show", "plan.json"]).expect(0).says("restore.apply.merge");
    for told in ["add user", "replace user", "replace role"] {
        assert!(plan.stdout.contains(&name(told)), "{told}: {plan}");
    }
    let plan =
        plan.says("keep user admin.root").says("admin.tempusers and admin.temproles are made and dropped");
    assert!(!plan.stdout.contains("newcomer") && !plan.stdout.contains("SCRAM"), "{plan}");
    run(doc! { "updateUser": "bert", "pwd": "canary-two", "roles": ["reader"] }).await;
    run(doc! { "createUser": "anna", "pwd": "another", "roles": [] }).await;
    project.apply_restore(&hash).expect(9).says("users and roles");
    mess().await;
    let hash = project.plan_restore(&arguments);
    let ran = project.apply_restore(&hash).expect(0).says("merged 2 users and 1 roles");
    ran.says("kept user admin.root as it is");
    for (user, password, does) in [
        ("anna", "canary-one", true),
        ("bert", "canary-two", true),
        ("bert", "canary-three", false),
        ("newcomer", "canary-four", true),
    ] {
        assert_eq!(logs_in(&mongod, user, password, &project.database).await, does, "{user} {password}");
    }
    let kept = client.database("admin").run_command(doc! { "usersInfo": "root" }).await.unwrap();
    assert!(kept.to_string().contains("later"), "{kept}");
    let anna = format!(
        "mongodb://anna:canary-one@{}/?directConnection=true&authSource={}",
        mongod.address(),
        project.database
    );
    let anna = mongodb::Client::with_uri_str(anna).await.unwrap();
    let users = anna.database(&project.database).collection::<Document>("users");
    assert_eq!(users.count_documents(doc! {}).await.unwrap(), 50, "her role lets her read again");

    // A damaged object of users is found before anything is written.
    let files = project.repository_files();
    let (path, bytes) =
        files.iter().find(|(path, _)| path.to_string_lossy().contains("system.users")).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 0x10;
    std::fs::write(path, damaged).unwrap();
    project.run(&["backup", "verify", "latest"]).expect(4).says("system.users");
    project.run(&["restore", "plan", "latest", "--drop", "--users-and-roles"]).expect(4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continued_merge_touches_nobody_whom_the_plan_does_not_name() {
    let mongod = Mongod::start().unwrap();
    let project = Project::filled(&mongod, 40).await;
    let client = mongod.oracle().await;
    let database = client.database(&project.database);
    let run = async |command: Document| drop(database.run_command(command).await.unwrap());
    let credentials = async |name: &str| {
        let users = client.database("admin").collection::<Document>("system.users");
        let user = users.find_one(doc! { "user": name }).await.unwrap().unwrap();
        user.get_document("credentials").unwrap().clone()
    };
    for name in ["anna", "bert"] {
        run(doc! { "createUser": name, "pwd": "canary-one", "roles": [] }).await;
    }
    let annas = credentials("anna").await;
    project.run(&["backup", "create", "--users-and-roles"]).expect(0);
    run(doc! { "updateUser": "anna", "pwd": "canary-two" }).await;
    let users = database.collection::<Document>("users");
    // A document that is another keeps the run from ending.
    users.update_one(doc! { "number": 3 }, doc! { "$set": { "name": "changed since" } }).await.unwrap();
    let hash = project.plan_restore(&["latest", "--merge", "--users-and-roles"]);
    project.apply_restore(&hash).expect(1).says("1 document");
    assert_eq!(credentials("anna").await, annas);
    // What was merged is as planned.
    project.apply_restore(&hash).expect(1);

    run(doc! { "updateUser": "bert", "pwd": "canary-three" }).await;
    let theirs = credentials("bert").await;
    let stale = project.apply_restore(&hash).expect(9).says(&format!("user {}.bert", project.database));
    stale.says("the collections stand").says("changed no user");
    assert_eq!(credentials("bert").await, theirs);
}

/// Kills backups at growing delays until one ends by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backup_is_never_listed() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 30_000).await;
    let mut killed = 0;
    let mut delay = Duration::from_millis(30);
    loop {
        let mut child = project.spawn(&["backup", "create", "--store", "mongo"]);
        if ended_within(&mut child, delay) {
            assert!(child.wait().unwrap().success());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
        // A kill between the manifest and the end of the process leaves a whole set; nothing else is ever listed.
        for set in project.json(&["backup", "list"])["sets"].as_array().unwrap() {
            project.run(&["backup", "verify", set["id"].as_str().unwrap()]).expect(0);
        }
        delay += Duration::from_millis(70);
    }
    assert!(killed > 0, "the first backup was not caught in the act");
    project.run(&["backup", "verify", "latest"]).expect(0);
    let leftover = |answer: &serde_json::Value| answer["removed"].as_array().unwrap().len();
    let deadline = Instant::now() + Duration::from_secs(30);
    // A killed writer's lease runs out by itself; until then its leftover counts as in use.
    let mut removed = 0;
    loop {
        let answer = project.json(&["backup", "prune", "--resumable"]);
        removed += leftover(&answer);
        // A partial file of a lease, a journal or the audit log is nobody's set; it counts as in use for a day.
        let is_record =
            |name: &str| ["leases/", "journals/", "audit/"].iter().any(|kind| name.contains(kind));
        let in_use = answer["in_use"].as_array().unwrap().iter();
        let in_use = in_use.map(|leftover| leftover["subject"].as_str().unwrap());
        if in_use.filter(|name| !is_record(name)).count() == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
        std::thread::yield_now();
    }
    assert!(removed <= killed);
    let left =
        project.repository_files().into_keys().filter(|path| path.to_string_lossy().contains("/sets/"));
    let kept: BTreeSet<_> =
        left.map(|path| path.to_string_lossy().split("/sets/").nth(1).unwrap()[..25].to_owned()).collect();
    let listed = project.json(&["backup", "list"]);
    let listed: BTreeSet<_> =
        listed["sets"].as_array().unwrap().iter().map(|set| set["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kept, listed, "only whole sets are left");
    project.run(&["backup", "verify", "latest"]).expect(0);
}

/// Whether `child` ends by itself before `delay` is over.
fn ended_within(child: &mut std::process::Child, delay: Duration) -> bool {
    let deadline = Instant::now() + delay;
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

/// Kills restores at growing delays until one ends by itself. Whatever the moment, each collection is the old or the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_leaves_old_or_new_and_continues() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 20_000).await;
    let new = mongod.db_hash(&project.database).await.unwrap();
    project.back_up();
    let database = mongod.oracle().await.database(&project.database);
    for name in ["users", "orders", "día.de ño"] {
        let collection = database.collection::<Document>(name);
        collection.update_many(doc! {}, doc! { "$set": { "spoiled": true } }).await.unwrap();
    }
    let old = mongod.db_hash(&project.database).await.unwrap();
    let repository =
        project.repository_files().into_iter().filter(|(path, _)| path.to_string_lossy().contains("/sets/"));
    let repository: Vec<_> = repository.collect();
    let hash = project.plan_restore(&["latest", "--drop"]);

    let mut killed = 0;
    let mut delay = Duration::from_millis(150);
    loop {
        let mut child = project.spawn(&["restore", "apply", "plan.json", "--approve", &hash]);
        if ended_within(&mut child, delay) {
            let ran = child.wait_with_output().unwrap();
            match ran.status.code() {
                Some(0) => break,
                // The kill came between the last record and the end of the process.
                Some(9) if killed > 0 => break,
                // The lease of the killed run has not run out yet.
                Some(10) => continue,
                _ => panic!("{}", String::from_utf8_lossy(&ran.stderr)),
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
        let now = mongod.db_hash(&project.database).await.unwrap();
        // The view is the one thing that the server cannot swap; its definition may be missing for a moment.
        let data =
            now.iter().filter(|(name, _)| !name.starts_with("mainstay.restore.") && *name != "system.views");
        for (name, hash) in data {
            assert!(*hash == old[name] || *hash == new[name], "{name} after {delay:?}");
        }
        delay += Duration::from_millis(250);
    }
    assert!(killed > 0, "the first restore was not caught in the act");
    assert_eq!(mongod.db_hash(&project.database).await.unwrap(), new);
    for (path, bytes) in repository {
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{}", path.display());
    }
    project.run(&["audit", "verify"]).expect(0);
}

/// Whoever comes second must see what the first has done, whenever it comes.
#[tokio::test(flavor = "multi_thread")]
async fn one_plan_applied_by_several_at_once_is_applied_once() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 2_000).await;
    let before = mongod.db_hash(&project.database).await.unwrap();
    project.back_up();
    let users = mongod.oracle().await.database(&project.database).collection::<Document>("users");
    users.update_many(doc! {}, doc! { "$set": { "spoiled": true } }).await.unwrap();
    let hash = project.plan_restore(&["latest", "--drop"]);
    let children: Vec<_> =
        (0..4).map(|_| project.spawn(&["restore", "apply", "plan.json", "--approve", &hash])).collect();
    let outputs: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let statuses: Vec<_> = outputs.iter().map(|output| output.status.code().unwrap()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 0).count(), 1, "{outputs:?}");
    assert!(statuses.iter().all(|status| [0, 9, 10].contains(status)), "{outputs:?}");
    assert_eq!(mongod.db_hash(&project.database).await.unwrap(), before);
    project.run(&["audit", "verify"]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_restore_can_be_given_up() {
    let mongod = Mongod::start().unwrap();
    let project = Project::filled(&mongod, 20_000).await;
    project.back_up();
    let users = mongod.oracle().await.database(&project.database).collection::<Document>("users");
    users.update_many(doc! {}, doc! { "$set": { "spoiled": true } }).await.unwrap();
    let old = mongod.db_hash(&project.database).await.unwrap();
    let hash = project.plan_restore(&["latest", "--drop"]);
    let mut child = project.spawn(&["restore", "apply", "plan.json", "--approve", &hash]);
    let database = mongod.oracle().await.database(&project.database);
    let shadows = async || {
        let names = database.list_collection_names().await.unwrap();
        names.into_iter().filter(|name| name.starts_with("mainstay.restore.")).count()
    };
    while shadows().await == 0 {
        assert!(child.try_wait().unwrap().is_none(), "the restore was not caught in the act");
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let listed = project.json(&["restore", "list"]);
    let run = listed["unfinished"][0]["run"].as_str().unwrap().to_owned();
    // The killed run's lease has to run out first.
    let abandoned = loop {
        let ran = project.run(&["restore", "abandon", &run, "--json"]);
        if ran.status != 10 {
            break ran.expect(0).json();
        }
    };
    assert_eq!(shadows().await, 0, "{abandoned}");
    assert_eq!(project.json(&["restore", "list"])["unfinished"].as_array().unwrap().len(), 0);
    project.apply_restore(&hash).expect(9).says("given up");
    project.run(&["restore", "abandon", &run]).expect(8).says("given up already");
    let placed: Vec<&str> = abandoned["abandoned"]["placed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().split_once('.').unwrap().1)
        .collect();
    let now = mongod.db_hash(&project.database).await.unwrap();
    for (name, hash) in old.iter().filter(|(name, _)| !placed.contains(&name.as_str())) {
        assert_eq!(now.get(name), Some(hash), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_names_what_stands_though_nobody_recorded_it() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 50).await;
    project.back_up();
    let orders = format!("{}.orders", project.database);
    let hash = project.plan_restore(&["latest", "--drop", "--collection", &orders]);
    project.apply_restore(&hash).expect(0);
    // The journal of a run that was killed right after the server had renamed.
    let mut removed = 0;
    for (path, bytes) in project.repository_files() {
        let text = String::from_utf8_lossy(&bytes);
        let is_last = ["placed", "completed"].iter().any(|it| text.contains(&format!("\"event\":\"{it}\"")));
        if path.to_string_lossy().contains("/journals/") && is_last {
            std::fs::remove_file(path).unwrap();
            removed += 1;
        }
    }
    assert_eq!(removed, 2);
    let run = project.json(&["restore", "list"])["unfinished"][0]["run"].as_str().unwrap().to_owned();
    let abandoned = &project.json(&["restore", "abandon", &run])["abandoned"];
    assert_eq!(abandoned["placed"], serde_json::json!([orders]), "{abandoned}");
    assert_eq!(abandoned["removed"], serde_json::json!([]), "{abandoned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_retried_and_then_told() {
    let mongod = shared_mongod();
    let proxy = FaultProxy::start(mongod.address());
    let project = Project::new(&mongod.uri_through(proxy.address()));
    project.mark();
    fill(mongod, &project.database, 30_000).await;

    // One cut in the middle: the scan goes on where it was.
    proxy.throttle(8_000_000);
    let child = project.spawn(&["backup", "create", "--store", "mongo", "--json"]);
    let moved = proxy.counters().from_server_bytes;
    while proxy.counters().from_server_bytes < moved + 3_000_000 {
        std::thread::sleep(Duration::from_millis(2));
    }
    proxy.cut_now();
    proxy.heal();
    let ran = child.wait_with_output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    project.run(&["backup", "verify", "latest"]).expect(0);
    let copy = format!("{}_copy", project.database);
    let hash = project.plan_restore(&["latest", "--into", &copy]);
    project.apply_restore(&hash).expect(0);
    assert_eq!(documents_of(mongod, &copy).await, documents_of(mongod, &project.database).await);
    mongod.oracle().await.database(&copy).drop().await.unwrap();

    // Cut for good: bounded retries, then a clear error.
    let began = Instant::now();
    proxy.throttle(8_000_000);
    let child = project.spawn(&["backup", "create", "--store", "mongo"]);
    let moved = proxy.counters().from_server_bytes;
    while proxy.counters().from_server_bytes < moved + 3_000_000 {
        std::thread::sleep(Duration::from_millis(2));
    }
    proxy.cut();
    let ran = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(6), "{stderr}");
    assert!(stderr.contains("no backup set was made"), "{stderr}");
    assert!(began.elapsed() < Duration::from_secs(90), "{:?}", began.elapsed());
}

/// The server's hashes of a database without `system.views`, whose entries hold the database's name.
async fn documents_of(mongod: &Mongod, database: &str) -> BTreeMap<String, String> {
    let mut hashes = mongod.db_hash(database).await.unwrap();
    hashes.remove("system.views");
    hashes
}

#[tokio::test(flavor = "multi_thread")]
async fn any_flipped_byte_is_found_named_and_refused() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 40).await;
    let set = project.back_up();
    let hash = project.plan_restore(&["latest", "--drop"]);
    let files: Vec<_> = project
        .repository_files()
        .into_iter()
        .filter(|(path, _)| {
            path.to_string_lossy().contains(&set) && !path.to_string_lossy().contains("/leases/")
        })
        .filter(|(path, _)| path.to_string_lossy().contains("/sets/"))
        .collect();
    assert!(files.len() > 5);
    let before = mongod.db_hash(&project.database).await.unwrap();
    for (path, bytes) in &files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for position in [0, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x10;
            std::fs::write(path, &damaged).unwrap();
            project.run(&["backup", "verify", &set]).expect(4).says(name.trim_end_matches(".zst"));
        }
        project.apply_restore(&hash).expect(4);
        assert_eq!(mongod.db_hash(&project.database).await.unwrap(), before, "{name}");
        std::fs::write(path, bytes).unwrap();
    }
    project.run(&["backup", "verify", &set]).expect(0);
}
