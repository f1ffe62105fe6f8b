//! Seeds as a user meets them: the real binary, real servers, and everything that must keep them out of where they do not belong.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../binary/mod.rs"]
mod binary;

use std::process::{Child, Stdio};

use binary::{Place, Seen};
use mainstay_testkit::{Postgres, ReplicaSet};
use mongodb::Database;
use mongodb::bson::{self, Document, doc};

const MANIFEST: &str = r#"
[auto]
store = "STORE"
users = "users"
field = "role"
administrator = "admin"

[[seed]]
id = "levels"
class = "reference"
store = "STORE"
into = "levels"
key = ["slug"]
file = "levels.csv"
automatic = true

[[seed]]
id = "demo"
class = "demo"
store = "STORE"
into = "users"
key = ["email"]
file = "users.jsonl"
automatic = true

[[seed]]
id = "users"
class = "destructive"
store = "STORE"
into = "users"
key = ["email"]
file = "users.jsonl"
"#;

/// A project on a store whose url is a line of configuration, with the seeds above.
fn project(store: &str, section: &str) -> Place {
    let place = Place::new().variable("MAINSTAY_REPOSITORY_URL", "file:./repository");
    configure(&place, "tests", "development", section);
    place.write("seeds.toml", &MANIFEST.replace("STORE", store));
    place.write("levels.csv", "slug,points:int\nnew,0\nold,100\n");
    place.write(
        "users.jsonl",
        "{\"email\":\"a@example.test\",\"role\":\"buyer\"}\n{\"email\":\"b@example.test\",\"role\":\"seller\"}\n",
    );
    place
}

fn configure(place: &Place, name: &str, class: &str, section: &str) {
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"{name}\"\nclass = \"{class}\"\n{section}\n[repository]\nlease_ttl = \"2s\"\n[seeds]\nfile = \"seeds.toml\"\n"
        ),
    );
}

#[track_caller]
fn mark(place: &Place, store: &str) {
    let planned = place.run(&["environment", "mark", "--store", store, "--output", "mark.json", "--json"]);
    let hash = planned.expect(0).json()["plans"][0]["plan_hash"].as_str().unwrap().to_owned();
    place.run(&["apply", "mark.json", "--approve", &hash]).expect(0);
    std::fs::remove_file(place.path("mark.json")).unwrap();
}

/// Plans a run of seeds into `plan.json`; gives its hash.
#[track_caller]
fn planned(place: &Place, seed: &str) -> String {
    let _ = std::fs::remove_file(place.path("plan.json"));
    let seen = place.run(&["seed", "run", seed, "--output", "plan.json", "--json"]).expect(0);
    seen.json()["plan_hash"].as_str().unwrap().to_owned()
}

#[track_caller]
fn apply(place: &Place, hash: &str) -> Seen {
    place.run(&["apply", "plan.json", "--approve", hash, "--json"])
}

/// A replica set of one, whose database has what keeps the seeds' keys unique.
async fn mongo() -> (ReplicaSet, Database, String) {
    let set = ReplicaSet::start(1).unwrap();
    let client = set.oracle().await;
    let database = client.database("shop");
    for (collection, field) in [("levels", "slug"), ("users", "email")] {
        let index = doc! { "createIndexes": collection, "indexes": [{ "key": { field: 1 }, "name": "key", "unique": true }] };
        database.run_command(index).await.unwrap();
    }
    let section = format!("[mongo]\nurl = \"{}\"\ndatabase = \"shop\"", set.uri());
    (set, database, section)
}

async fn documents(database: &Database, collection: &str) -> Vec<Document> {
    let mut found =
        database.collection::<Document>(collection).find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    let mut all = Vec::new();
    while found.advance().await.unwrap() {
        all.push(found.deserialize_current().unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn reference_data_is_brought_to_the_file_and_nothing_else_is_touched() {
    let (_set, database, section) = mongo().await;
    let levels = database.collection::<Document>("levels");
    levels.insert_one(doc! { "slug": "old", "points": 7, "mine": "kept" }).await.unwrap();
    levels.insert_one(doc! { "slug": "other", "points": 9 }).await.unwrap();
    let place = project("mongo", &section);
    mark(&place, "mongo");

    place.run(&["seed", "list"]).expect(0).says("1 absent, 1 different").says("allowed");
    // A row changes, so it is disruptive; in development nobody is asked for that.
    let report = place.run(&["seed", "run", "levels", "--json"]).expect(0).json();
    assert_eq!((&report["seeds"][0]["inserted"], &report["seeds"][0]["changed"]), (&1.into(), &1.into()));
    let mut found = documents(&database, "levels").await;
    found.iter_mut().for_each(|level| drop(level.remove("_id")));
    found.sort_by_key(|level| level.get_i32("points").unwrap());
    assert_eq!(
        found,
        [
            doc! { "slug": "new", "points": 0 },
            doc! { "slug": "other", "points": 9 },
            doc! { "slug": "old", "points": 100, "mine": "kept" },
        ]
    );
    place.run(&["seed", "run", "levels"]).expect(0).says("all 2 rows are there");
    place.run(&["seed", "list", "levels"]).expect(0).says("all there");

    // Made up: added where nothing is in its place.
    database
        .collection::<Document>("users")
        .insert_one(doc! { "email": "a@example.test", "role": "mine" })
        .await
        .unwrap();
    let report = place.run(&["seed", "run", "demo", "--json"]).expect(0).json();
    assert_eq!((&report["seeds"][0]["inserted"], &report["seeds"][0]["changed"]), (&1.into(), &0.into()));
    let mine = doc! { "email": "a@example.test", "role": "mine" };
    assert_eq!(database.collection::<Document>("users").count_documents(mine).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_replaces_data_cannot_be_got_into_production() {
    let (_set, database, section) = mongo().await;
    database.collection::<Document>("users").insert_one(doc! { "email": "real@example.test" }).await.unwrap();
    let place = project("mongo", &section);
    let untouched = async || {
        let found = documents(&database, "users").await;
        assert_eq!((found.len(), found[0].get_str("email").unwrap()), (1, "real@example.test"));
    };

    // The configuration says development and the database says nothing.
    for seed in ["users", "demo"] {
        place.run(&["seed", "run", seed]).expect(7).says("no environment marker, so it counts as production");
        place.run(&["seed", "run", seed, "--output", "plan.json"]).expect(7);
        place.run(&["seed", "run", seed, "--dry-run"]).expect(7);
    }
    place.run(&["seed", "list"]).expect(0).says("never");

    // A plan that was made where it may be, and a marker that says production by then.
    mark(&place, "mongo");
    place.run(&["seed", "run", "users"]).expect(7).says("--output plan.json");
    let hash = planned(&place, "users");
    let identity = database.client().database("mainstay").collection::<Document>("identity");
    let say = async |class: &str| {
        identity.update_one(doc! {}, doc! { "$set": { "class": class } }).await.unwrap();
    };
    say("production").await;
    // The configuration lies: it contradicts the marker.
    for arguments in
        [&["seed", "run", "users"][..], &["seed", "run", "demo"], &["apply", "plan.json", "--approve", &hash]]
    {
        place.run(arguments).expect(7).says("contradictory");
    }
    // One that says nothing, and one that agrees with the marker, help nobody; nor does a variable.
    for lines in ["", "[environment]\nclass = \"production\"\n"] {
        place.write("mainstay.toml", &format!("{lines}{section}\n[seeds]\nfile = \"seeds.toml\"\n"));
        place.run(&["seed", "run", "users"]).expect(7).says("production");
        apply(&place, &hash);
        untouched().await;
    }
    let lying = |class: &str| {
        let mut command = place.command(&["seed", "run", "users", "--output", "other.json"]);
        command.env("MAINSTAY_ENVIRONMENT_CLASS", class).env("NODE_ENV", "development");
        Seen::from(command.output().unwrap())
    };
    lying("development").expect(7).says("contradictory");
    untouched().await;

    // A plan file that was edited to be harmless in name.
    say("development").await;
    configure(&place, "tests", "development", &section);
    let text = std::fs::read_to_string(place.path("plan.json")).unwrap();
    let edited =
        text.replace("\"seed.run.replace\"", "\"seed.run\"").replace("\"destructive\"", "\"additive\"");
    std::fs::remove_file(place.path("plan.json")).unwrap();
    place.write("plan.json", &edited);
    let shown =
        place.run(&["plan", "show", "plan.json", "--json"]).json()["plan_hash"].as_str().unwrap().to_owned();
    let refused = apply(&place, &shown);
    assert!([2, 7, 9].contains(&refused.status), "{}", refused.both());
    untouched().await;

    // Where it may be, and is agreed to, it is done.
    let hash = planned(&place, "users");
    // A file that changed since is another plan.
    place.write("users.jsonl", "{\"email\":\"c@example.test\",\"role\":\"buyer\"}\n");
    apply(&place, &hash).expect(9).says("file of users");
    untouched().await;
    let hash = planned(&place, "users");
    let report = apply(&place, &hash).expect(0).json();
    assert_eq!((&report["seeds"][0]["removed"], &report["seeds"][0]["inserted"]), (&1.into(), &1.into()));
    assert_eq!(documents(&database, "users").await[0].get_str("email").unwrap(), "c@example.test");
    place.run(&["audit", "verify"]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_that_begin_at_once_one_seeds() {
    let (_set, database, section) = mongo().await;
    let place = project("mongo", &section);
    mark(&place, "mongo");
    place.run(&["seed", "run", "--auto"]).expect(0).says("AUTO_SEED_ON_START is not set");
    assert!(documents(&database, "users").await.is_empty());

    let begin = || -> Child {
        let mut command = place.command(&["seed", "run", "--auto", "--json"]);
        command
            .env("AUTO_SEED_ON_START", "true")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let begun: Vec<Child> = (0..10).map(|_| begin()).collect();
    let seen: Vec<Seen> = begun.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
    let outcomes: Vec<String> = seen
        .iter()
        .map(|seen| {
            assert_eq!(seen.status, 0, "{}", seen.both());
            seen.json()["auto"]["outcome"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "seeded").count(), 1, "{outcomes:?}");
    assert!(
        outcomes.iter().all(|outcome| ["seeded", "claimed", "done"].contains(&outcome.as_str())),
        "{outcomes:?}"
    );
    assert_eq!(
        (documents(&database, "users").await.len(), documents(&database, "levels").await.len()),
        (2, 2)
    );

    // Once is for good, and a plain user makes it an installation that is in use.
    let again: Seen = begin().wait_with_output().unwrap().into();
    assert_eq!(again.json()["auto"]["outcome"], "done", "{}", again.both());
    let claims = database.client().database("mainstay").collection::<Document>("seed_claims");
    claims.delete_many(doc! {}).await.unwrap();
    let again: Seen = begin().wait_with_output().unwrap().into();
    assert_eq!(again.json()["auto"]["outcome"], "in_use", "{}", again.both());
    assert_eq!(claims.count_documents(doc! {}).await.unwrap(), 0, "the claim is given up");

    // Administrators are no users; what a killed process left claimed is taken over when its time is over.
    database.collection::<Document>("users").delete_many(doc! {}).await.unwrap();
    database
        .collection::<Document>("users")
        .insert_one(doc! { "email": "root@example.test", "role": "admin" })
        .await
        .unwrap();
    let left =
        |until: bson::DateTime| doc! { "_id": "shop", "state": "running", "by": "gone", "until": until };
    claims
        .insert_one(left(bson::DateTime::from_millis(bson::DateTime::now().timestamp_millis() + 60_000)))
        .await
        .unwrap();
    let waiting: Seen = begin().wait_with_output().unwrap().into();
    assert_eq!(
        (&waiting.json()["auto"]["outcome"], &waiting.json()["auto"]["by"]),
        (&"claimed".into(), &"gone".into())
    );
    claims.delete_many(doc! {}).await.unwrap();
    claims.insert_one(left(bson::DateTime::from_millis(0))).await.unwrap();
    let taken: Seen = begin().wait_with_output().unwrap().into();
    assert_eq!(taken.json()["auto"]["outcome"], "seeded", "{}", taken.both());
    assert_eq!(documents(&database, "users").await.len(), 3);

    // Whoever was killed before it had found nobody has not said that nobody is there; whoever was killed after that may have made users itself.
    for (begun, outcome) in [(false, "in_use"), (true, "seeded")] {
        claims.delete_many(doc! {}).await.unwrap();
        let mut claim = left(bson::DateTime::from_millis(0));
        claim.insert("begun", begun);
        claims.insert_one(claim).await.unwrap();
        let next: Seen = begin().wait_with_output().unwrap().into();
        assert_eq!(next.json()["auto"]["outcome"], outcome, "{}", next.both());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_told_with_its_place() {
    let (_set, database, section) = mongo().await;
    let place = project("mongo", &section);
    mark(&place, "mongo");
    place.run(&["seed", "run"]).expect(2);
    place.run(&["seed", "run", "nobody"]).expect(2).says("declared in").says("levels, demo, users");
    place.write("levels.csv", "slug,points:int\nnew,many\n");
    place.run(&["seed", "run", "levels"]).expect(2).says("levels.csv: line 2: `many` of column points");
    std::fs::remove_file(place.path("levels.csv")).unwrap();
    place.run(&["seed", "run", "levels"]).expect(2).says("levels.csv");
    std::fs::create_dir(place.path("levels.csv")).unwrap();
    place.run(&["seed", "run", "levels"]).expect(2).says("no regular file");
    std::fs::remove_dir(place.path("levels.csv")).unwrap();
    place.write("levels.csv", "slug,points:int\nnew,1\n");
    // Nothing that keeps the key unique.
    database.run_command(doc! { "dropIndexes": "levels", "index": "key" }).await.unwrap();
    place.run(&["seed", "run", "levels"]).expect(8).says("no unique index of shop.levels is over slug");
    place
        .run(&["seed", "list"])
        .expect(0)
        .says("not comparable")
        .says("no unique index of shop.levels")
        .says("2 absent");
    place.write("seeds.toml", "[[seed]]\nid = 1\n");
    place.run(&["seed", "list"]).expect(2).says("seeds.toml:2");
}

#[test]
fn tables_are_seeded_by_their_own_types() {
    let server = Postgres::start().unwrap();
    server.execute("postgres", "CREATE DATABASE shop").unwrap();
    server
        .execute(
            "shop",
            "CREATE TABLE levels (slug text PRIMARY KEY, points integer NOT NULL, note text DEFAULT 'none'); \
             CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY, email text UNIQUE, role text); \
             INSERT INTO levels VALUES ('old', 7, 'kept')",
        )
        .unwrap();
    let section = format!("[postgres]\nurl = \"{}\"", server.uri_of("shop"));
    let place = project("postgres", &section);
    place.run(&["seed", "run", "users"]).expect(7).says("no environment marker");
    // Reference data may be anywhere; without a marker it counts as production, where a person is asked.
    place.run(&["seed", "run", "levels"]).expect(7).says("--output plan.json");
    mark(&place, "postgres");
    place.run(&["seed", "list"]).expect(0).says("1 absent, 1 different");
    let report = place.run(&["seed", "run", "levels", "--json"]).expect(0).json();
    assert_eq!((&report["seeds"][0]["inserted"], &report["seeds"][0]["changed"]), (&1.into(), &1.into()));
    let rows = || server.texts("shop", "SELECT concat_ws(' ', slug, points, note) FROM levels ORDER BY slug");
    assert_eq!(rows(), ["new 0 none", "old 100 kept"]);
    place.run(&["seed", "run", "levels"]).expect(0).says("all 2 rows are there");

    place.run(&["seed", "run", "demo"]).expect(0);
    server.execute("shop", "INSERT INTO users (email, role) VALUES ('mine@example.test', 'buyer')").unwrap();
    let hash = planned(&place, "users");
    let report = apply(&place, &hash).expect(0).json();
    assert_eq!((&report["seeds"][0]["removed"], &report["seeds"][0]["inserted"]), (&3.into(), &2.into()));

    // What the server refuses is refused whole.
    place.write("levels.csv", "slug,points:int\nextra,1\nbad,many\n");
    place.run(&["seed", "run", "levels"]).expect(1).says("nothing was changed");
    assert_eq!(rows(), ["new 0 none", "old 100 kept"]);
    place.write("levels.csv", "slug,colour\nextra,red\n");
    place.run(&["seed", "run", "levels"]).expect(1).says("colour").says("nothing was changed");
    server.execute("shop", "ALTER TABLE levels DROP CONSTRAINT levels_pkey").unwrap();
    place.write("levels.csv", "slug,points:int\nextra,1\n");
    place.run(&["seed", "run", "levels"]).expect(8).says("no unique constraint");

    let begin = |said: &str| {
        let mut command = place.command(&["seed", "run", "--auto", "--json"]);
        Seen::from(command.env("AUTO_SEED_ON_START", said).output().unwrap())
    };
    assert_eq!(begin("Yes").expect(0).json()["auto"]["outcome"], "in_use");
    assert_eq!(begin("0").expect(0).json()["auto"]["outcome"], "off");
    begin("maybe").expect(2).says("AUTO_SEED_ON_START: seeds.auto must be a true or false");
}
