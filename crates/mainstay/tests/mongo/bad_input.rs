//! Bad input and bad worlds: each ends with an error that says what happened, what state things are in and what to do next.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::stack::{Project, fill};
use mainstay_testkit::s3::S3Fault;
use mainstay_testkit::servers::free_port;
use mainstay_testkit::{Mongod, S3Server, shared_mongod};
use mongodb::bson::{Document, doc};

const CANARY: &str = "canary-s3cret/pw";

#[test]
fn an_unknown_key_is_refused_with_a_suggestion() {
    let project = Project::new("mongodb://127.0.0.1:1");
    project.configure(
        "mongodb://127.0.0.1:1",
        "file:./repository",
        "[postgres]\nurll = \"postgres://h/d\"\n",
    );
    project.run(&["status"]).expect(2).says("urll").says("url").says("mainstay.toml");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_an_auth_error_and_is_never_shown() {
    let mongod = Mongod::options().auth("root", "right").start().unwrap();
    let project =
        Project::new(&format!("mongodb://root@{}/?directConnection=true&authSource=admin", mongod.address()));
    let output = project
        .command(&["backup", "create", "--store", "mongo"])
        .env("MAINSTAY_MONGO_PASSWORD", CANARY)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("user name or password"), "{text}");
    for secret in [CANARY, "canary-s3cret", "s3cret%2Fpw"] {
        assert!(!text.contains(secret), "{text}");
    }
    let without = project.run(&["backup", "create", "--store", "mongo"]).expect(5);
    without.says("no password for it").says("MAINSTAY_MONGO_PASSWORD");
}

#[test]
fn an_unreachable_host_is_told_within_bounds() {
    let began = std::time::Instant::now();
    let project = Project::new(&format!("mongodb://127.0.0.1:{}/?directConnection=true", free_port()));
    project.run(&["backup", "create", "--store", "mongo"]).expect(6).says("hint:");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let project = Project::new("mongodb://no-such-host.invalid:27017/");
    project.run(&["backup", "create", "--store", "mongo"]).expect(6).says("no-such-host.invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_of_another_environment_refuses() {
    let mongod = Mongod::start().unwrap();
    let staging = Project::new(&mongod.uri());
    staging.mark();
    fill(&mongod, &staging.database, 50).await;
    let set = staging.back_up();
    let hash = staging.plan_restore(&[&set, "--drop"]);
    let text = std::fs::read_to_string(staging.path("mainstay.toml")).unwrap();
    std::fs::write(staging.path("mainstay.toml"), text.replace("\"tests\"", "\"another\"")).unwrap();
    staging.apply_restore(&hash).expect(7).says("another").says("tests");
    staging.run(&["backup", "create", "--store", "mongo"]).expect(7);
    staging.run(&["environment", "show"]).expect(7).says("tests");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmarked_server_counts_as_production() {
    let mongod = Mongod::start().unwrap();
    let project = Project::new(&mongod.uri());
    fill(&mongod, &project.database, 50).await;
    project.back_up();
    let hash = project.plan_restore(&["latest", "--drop"]);
    project.apply_restore(&hash).expect(7).says("production").says("verified");
    let copy = format!("{}_copy", project.database);
    let hash = project.plan_restore(&["latest", "--into", &copy]);
    project.apply_restore(&hash).expect(0);
}

/// A plan that says it only adds, and would replace.
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_plan_is_refused() {
    let mongod = shared_mongod();
    let project = Project::filled(mongod, 50).await;
    let before = mongod.db_hash(&project.database).await.unwrap();
    project.back_up();
    project.plan_restore(&["latest", "--drop"]);
    let planned: serde_json::Value =
        serde_json::from_slice(&std::fs::read(project.path("plan.json")).unwrap()).unwrap();
    let edits: [fn(&mut serde_json::Value); 5] = [
        |plan| {
            plan["operation"] = "restore.apply.new".into();
            plan["effect"] = "additive".into();
        },
        |plan| plan["parameters"]["items"][0]["target"] = plan["parameters"]["items"][1]["target"].clone(),
        |plan| plan["parameters"]["load_count_max"] = 0.into(),
        |plan| plan["parameters"]["surprise"] = true.into(),
        |plan| plan["parameters"]["items"] = serde_json::json!([]),
    ];
    for edit in edits {
        let mut plan = planned.clone();
        edit(&mut plan);
        std::fs::write(project.path("plan.json"), plan.to_string()).unwrap();
        let hash = project.json(&["plan", "show", "plan.json"])["plan_hash"].as_str().unwrap().to_owned();
        project.apply_restore(&hash).expect(2).says("plan");
    }
    let mut plan = planned.clone();
    plan["expires_at"] = "2199-01-01T00:00:00Z".into();
    std::fs::write(project.path("plan.json"), plan.to_string()).unwrap();
    let hash = project.json(&["plan", "show", "plan.json"])["plan_hash"].as_str().unwrap().to_owned();
    project.apply_restore(&hash).expect(9);
    assert_eq!(mongod.db_hash(&project.database).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_something_else_does_not_count_in_production() {
    let mongod = Mongod::start().unwrap();
    let project = Project::new(&mongod.uri());
    fill(&mongod, &project.database, 50).await;
    let whole = project.back_up();
    let orders = format!("{}.orders", project.database);
    project.run(&["backup", "create", "--collection", &orders]).expect(0);
    project.run(&["backup", "verify", "latest"]).expect(0);
    let hash = project.plan_restore(&[&whole, "--drop"]);
    project.apply_restore(&hash).expect(7).says("verified backup");
    project.run(&["backup", "verify", &whole]).expect(0);
    project.apply_restore(&hash).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_replaced_in_production_only_when_a_backup_holds_them() {
    let mongod = Mongod::start().unwrap();
    let project = Project::new(&mongod.uri());
    fill(&mongod, &project.database, 50).await;
    let database = mongod.oracle().await.database(&project.database);
    database.run_command(doc! { "createUser": "anna", "pwd": "canary-one", "roles": [] }).await.unwrap();
    let made = project.json(&["backup", "create", "--users-and-roles"]);
    let with_users = made["set"]["id"].as_str().unwrap();
    database.run_command(doc! { "updateUser": "anna", "pwd": "canary-two" }).await.unwrap();
    project.back_up();
    project.run(&["backup", "verify", "latest"]).expect(0);
    let copy = format!("{}_copy", project.database);
    let hash = project.plan_restore(&[with_users, "--into", &copy, "--users-and-roles"]);
    let refused = project.apply_restore(&hash).expect(7).says("there is none with users and roles");
    refused.says("mainstay backup create --store mongo --users-and-roles");
    project.run(&["backup", "verify", with_users]).expect(0);
    project.apply_restore(&hash).expect(0).says("merged 1 users");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_come_back() {
    let mongod = shared_mongod();
    let project = Project::new(&mongod.uri());
    project.mark();
    let database = mongod.oracle().await.database(&project.database);
    let long = "n".repeat(200);
    let names = [
        "日本語コレクション",
        "a.b.c",
        "with space",
        "slash/and\\back",
        "%41+~",
        "UPPER",
        "upper",
        long.as_str(),
    ];
    for (number, name) in names.iter().enumerate() {
        database
            .collection::<Document>(name)
            .insert_one(
                doc! { "_id": number as i32, "имя": *name, "$price": { "a.b": { "$ref": 1, "": 2 } } },
            )
            .await
            .unwrap();
    }
    let before = mongod.db_hash(&project.database).await.unwrap();
    project.back_up();
    project.run(&["backup", "verify", "latest"]).expect(0);
    let hash = project.plan_restore(&["latest", "--drop"]);
    project.apply_restore(&hash).expect(0);
    assert_eq!(mongod.db_hash(&project.database).await.unwrap(), before);
    let copy = format!("{}_копия", project.database);
    let hash = project.plan_restore(&["latest", "--into", &copy]);
    project.apply_restore(&hash).expect(0);
    assert_eq!(mongod.db_hash(&copy).await.unwrap(), before);
    mongod.oracle().await.database(&copy).drop().await.unwrap();
}

/// The repository lies on a file system of 3 MiB, mounted in a mount namespace of the command's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_no_set() {
    let mongod = shared_mongod();
    let project = Project::new(&mongod.uri());
    project.mark();
    let collection = mongod.oracle().await.database(&project.database).collection::<Document>("noise");
    let mut noise: u64 = 88;
    for _ in 0..40 {
        let mut bytes = Vec::with_capacity(200_000);
        while bytes.len() < 200_000 {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&noise.to_be_bytes());
        }
        let binary = mongodb::bson::Binary { subtype: mongodb::bson::spec::BinarySubtype::Generic, bytes };
        collection.insert_one(doc! { "noise": binary }).await.unwrap();
    }
    std::fs::create_dir_all(project.path("repository")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=3m none repository && {} backup create --store mongo; status=$?; \
         {} backup list --json > list.json; exit $status",
        env!("CARGO_BIN_EXE_mainstay"),
        env!("CARGO_BIN_EXE_mainstay"),
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .current_dir(project.folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("is full"), "{text}");
    assert!(text.contains("no backup set was made"), "{text}");
    assert!(text.contains("hint:"), "{text}");
    let list: serde_json::Value =
        serde_json::from_slice(&std::fs::read(project.path("list.json")).unwrap()).unwrap();
    assert_eq!(list["sets"].as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_in_trouble_is_told() {
    let mongod = shared_mongod();
    let s3 = S3Server::start();
    let project = Project::new(&mongod.uri());
    fill(mongod, &project.database, 3_000).await;
    let section = format!(
        "\n[repository.s3]\nendpoint = \"{}\"\nregion = \"{}\"\naccess_key_id = \"{}\"\nallow_http = true\n",
        s3.endpoint(),
        s3.region(),
        s3.access_key()
    );
    project.configure(&mongod.uri(), &format!("s3://{}/backups", s3.bucket()), &section);
    let run = |arguments: &[&str]| {
        let output = project
            .command(arguments)
            .env("MAINSTAY_S3_SECRET_ACCESS_KEY", s3.secret_key())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!text.contains(s3.secret_key()), "{text}");
        (output.status.code().unwrap(), text)
    };
    let create = ["backup", "create", "--store", "mongo"];

    s3.set_fault(S3Fault::Forbidden);
    let (status, text) = run(&create);
    assert_eq!(status, 5, "{text}");
    s3.set_fault(S3Fault::Failing);
    let (status, text) = run(&create);
    assert!(status == 1 || status == 6, "{status} {text}");
    assert!(text.contains("hint:"), "{text}");
    s3.set_fault(S3Fault::Slow(Duration::from_millis(50)));
    let (status, text) = run(&create);
    assert_eq!(status, 0, "{text}");
    s3.set_fault(S3Fault::None);
    s3.fail_next(3);
    let (status, text) = run(&create);
    assert_eq!(status, 0, "{text}");
    let (status, text) = run(&["backup", "verify", "latest"]);
    assert_eq!(status, 0, "{text}");
    let (_, listed) = run(&["backup", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["sets"].as_array().unwrap().len(), 2);
}

#[test]
fn a_plan_file_that_is_none_is_refused() {
    let project = Project::new("mongodb://127.0.0.1:1");
    std::fs::write(project.path("plan.json"), "{\"format\": 1}").unwrap();
    project.run(&["restore", "apply", "plan.json"]).expect(2).says("not a plan");
    project.run(&["restore", "apply", "missing.json"]).expect(1).says("missing.json");
    project.run(&["plan", "show", "plan.json"]).expect(2);
    project.run(&["backup", "verify", "../../etc"]).expect(2);
    project.run(&["backup", "show", "20200101T000000Z-00000000"]).expect(1).says("hint:");
}
