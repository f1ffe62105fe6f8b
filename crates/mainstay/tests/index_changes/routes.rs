//! Each route from what there is to what is declared, and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mainstay_testkit::shared_mongod;
use mongodb::bson::{DateTime, Document, doc};
use serde_json::json;

use crate::shop::{Shop, changes, write_code};

/// The server's refusal of a second document with the same key.
const DUPLICATE_KEY: i32 = 11000;

#[tokio::test]
async fn an_index_becomes_unique_where_it_stands() {
    let shop =
        Shop::new(shared_mongod(), "[mongo.indexes]\nusers = [{ keys = [\"email\"], unique = true }]\n")
            .await;
    shop.fill("users", 2_000, doc! { "email": { "$toString": "$n" } }).await;
    shop.index("users", doc! { "key": { "email": 1 }, "name": "email_1" }).await;
    let plan = shop.plan(0, "plan.json", &[]);
    assert_eq!(plan["plan"]["operation"], "index.apply.change");
    let change = &changes(&plan)["users.email_1"];
    assert_eq!(
        change["commands"],
        json!([
            r#"{"collMod":"users","index":{"name":"email_1","prepareUnique":true}}"#,
            r#"{"collMod":"users","index":{"name":"email_1","unique":true},"dryRun":true}"#,
            r#"{"collMod":"users","index":{"name":"email_1","unique":true}}"#,
        ])
    );
    let text = shop.expect(0, &["index", "plan", "--verbose"]).stdout;
    for line in [
        "~ email_1  not unique → unique",
        "no rebuild, no gap",
        "no duplicates",
        "Plan: 0 to add, 1 to change, 0 to retire.",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let applied = shop.approve("plan.json");
    assert_eq!(applied.status, 0, "{}", applied.both());
    assert!(applied.stdout.contains("~ make unique"), "{}", applied.stdout);
    assert!(shop.indexes("users").await["email_1"].get_bool("unique").unwrap());
    let refused = shop.collection("users").insert_one(doc! { "email": "7" }).await.unwrap_err();
    assert_eq!(write_code(&refused), Some(DUPLICATE_KEY));
    // Nothing is left to be done, and no file is written about it.
    let again = shop.plan(0, "again.json", &[]);
    assert_eq!(again["totals"], json!({"added": 0, "changed": 0, "retired": 0, "blocked": 0}));
    assert!(!shop.place.path("again.json").exists());
    assert!(shop.expect(0, &["index", "plan"]).stdout.contains("nothing to do"));
    // The same plan again finds everything as it left it.
    let once_more = shop.approve("plan.json");
    assert!(once_more.status == 0 && once_more.stdout.contains("held already"), "{}", once_more.both());
    shop.database.drop().await.unwrap();
}

#[tokio::test]
async fn duplicates_that_nobody_could_count_are_found_by_the_server_and_nothing_stays_changed() {
    // A path with a place in it is nothing that an aggregation makes keys of.
    let shop =
        Shop::new(shared_mongod(), "[mongo.indexes]\nusers = [{ keys = [\"mails.0\"], unique = true }]\n")
            .await;
    let mails = ["a", "b", "a", "c", "b"].iter().enumerate();
    let users: Vec<Document> =
        mails.map(|(id, mail)| doc! { "_id": id as i32, "mails": [mail, "x"] }).collect();
    shop.collection("users").insert_many(users).await.unwrap();
    shop.index("users", doc! { "key": { "mails.0": 1 }, "name": "mails.0_1" }).await;
    let plan = shop.plan(0, "plan.json", &[]);
    assert_eq!(changes(&plan)["users.mails.0_1"]["answers"][0]["answer"], "unknown");
    let applied = shop.approve("plan.json");
    assert_eq!(applied.status, 9, "{}", applied.both());
    for text in ["2 keys of", "users.mails.0_1", "_id", "accepts duplicates", "plan again"] {
        assert!(applied.stderr.contains(text), "{text}: {}", applied.stderr);
    }
    let index = &shop.indexes("users").await["mails.0_1"];
    assert!(index.get("unique").is_none() && !index.get_bool("prepareUnique").unwrap_or(false), "{index}");
    shop.collection("users").insert_one(doc! { "mails": ["a"] }).await.unwrap();
    // The plan can be applied when the duplicates are gone.
    shop.collection("users").delete_many(doc! { "_id": { "$nin": [0, 1, 3] } }).await.unwrap();
    let applied = shop.approve("plan.json");
    assert_eq!(applied.status, 0, "{}", applied.both());
    assert!(shop.indexes("users").await["mails.0_1"].get_bool("unique").unwrap());
    shop.database.drop().await.unwrap();
}

/// Tries to write a second document with a key that one has, again and again, and counts how often that succeeds.
struct Intruder {
    stop: Arc<AtomicBool>,
    tries: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<u64>,
}

impl Intruder {
    fn begin(shop: &Shop, collection: &str, document: Document) -> Self {
        let (stop, tries) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let target = shop.collection(collection);
        let (stopping, trying) = (Arc::clone(&stop), Arc::clone(&tries));
        let task = tokio::spawn(async move {
            let mut succeeded = 0;
            while !stopping.load(Ordering::Relaxed) {
                match target.insert_one(document.clone()).await {
                    Ok(_) => succeeded += 1,
                    Err(error) => assert_eq!(write_code(&error), Some(DUPLICATE_KEY), "{error}"),
                }
                trying.fetch_add(1, Ordering::Relaxed);
            }
            succeeded
        });
        Self { stop, tries, task }
    }

    /// How often it tried and how often it succeeded.
    async fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let succeeded = self.task.await.unwrap();
        (self.tries.load(Ordering::Relaxed), succeeded)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_index_is_replaced_by_a_variant_while_somebody_tries_to_break_it() {
    let declared = r#"
[mongo.indexes]
users = [
  { keys = ["handle"], unique = true, partial = { handle = { "$type" = "string" } } },
  { keys = ["number"], collation = { locale = "en" } },
]
[mongo.policy]
undeclared = "drop"
hide_for = "0s"
"#;
    let shop = Shop::new(shared_mongod(), declared).await;
    shop.fill(
        "users",
        20_000,
        doc! { "handle": { "$concat": ["h", { "$toString": "$n" }] }, "number": { "$toString": "$n" } },
    )
    .await;
    shop.index("users", doc! { "key": { "handle": 1 }, "name": "handle_1", "unique": true }).await;
    shop.index("users", doc! { "key": { "number": 1 }, "name": "number_1" }).await;
    let intruder = Intruder::begin(&shop, "users", doc! { "handle": "h7" });
    let plan = shop.plan(0, "plan.json", &[]);
    let found = changes(&plan);
    assert_eq!(found["users.handle_1_2"]["change"]["kind"], "replace");
    let notes = found["users.handle_1_2"]["change"]["notes"].to_string();
    assert!(
        notes.contains("the name handle_1 is taken") && notes.contains("goes on refusing duplicates"),
        "{notes}"
    );
    let applied = shop.approve("plan.json");
    assert_eq!(applied.status, 0, "{}", applied.both());
    let indexes = shop.indexes("users").await;
    assert_eq!(
        indexes.keys().map(String::as_str).collect::<Vec<_>>(),
        ["handle_1", "handle_1_2", "number_1", "number_1_2"]
    );
    assert!(
        indexes["handle_1"].get_bool("hidden").unwrap() && indexes["handle_1_2"].get_bool("unique").unwrap()
    );
    // The old ones go by a later plan, when they were hidden for long enough.
    let later = shop.plan(0, "later.json", &[]);
    assert_eq!(later["plan"]["operation"], "index.apply.drop");
    let dropped = shop.approve("later.json");
    assert_eq!(dropped.status, 0, "{}", dropped.both());
    assert_eq!(shop.names("users").await, ["handle_1_2", "number_1_2"]);
    let (tries, succeeded) = intruder.end().await;
    assert_eq!(succeeded, 0, "of {tries} tries");
    assert!(tries > 50, "{tries} tries");
    assert_eq!(shop.plan(0, "again.json", &[])["totals"]["blocked"], 0);
    shop.database.drop().await.unwrap();
}

#[tokio::test]
async fn expiry_is_changed_by_one_command_and_never_more_goes_than_may() {
    let declared = |ttl: &str, most: u32| {
        format!(
            "[mongo.indexes]\ntokens = [{{ keys = [\"at\"], ttl = \"{ttl}\" }}]\n[mongo.policy]\nmax_expire = {most}\n"
        )
    };
    let shop = Shop::new(shared_mongod(), &declared("1d", 0)).await;
    let hours_ago =
        |hours: i64| DateTime::from_millis(DateTime::now().timestamp_millis() - hours * 3_600_000);
    let tokens: Vec<Document> = (0..48).map(|hours| doc! { "at": hours_ago(hours) }).collect();
    shop.collection("tokens").insert_many(tokens).await.unwrap();
    shop.index("tokens", doc! { "key": { "at": 1 }, "name": "at_1" }).await;
    let blocked = shop.plan(3, "plan.json", &[]);
    let reason = changes(&blocked)["tokens.at_1"]["change"]["blocked"]["reason"].to_string();
    assert!(reason.contains("24 documents would expire at once") && reason.contains("0 may"), "{reason}");
    shop.declare(&declared("1d", 24));
    let plan = shop.plan(0, "plan.json", &[]);
    assert_eq!(
        (&plan["plan"]["operation"], &plan["plan"]["blast_radius"]["items"]),
        (&json!("index.apply.expire"), &json!(24))
    );
    assert!(shop.expect(0, &["index", "plan"]).stdout.contains("24 documents expire at once"));
    // One more is one too many.
    shop.collection("tokens").insert_one(doc! { "at": hours_ago(30) }).await.unwrap();
    let stale = shop.approve("plan.json");
    assert_eq!(stale.status, 9, "{}", stale.both());
    assert!(
        stale.stderr.contains("25 documents would expire at once") && stale.stderr.contains("24 would have"),
        "{}",
        stale.stderr
    );
    shop.declare(&declared("1d", 100));
    shop.change();
    let seconds = |index: &Document| index.get("expireAfterSeconds").unwrap().to_string();
    assert_eq!(seconds(&shop.indexes("tokens").await["at_1"]), "86400");
    // Longer takes nothing away.
    shop.declare(&declared("2d", 0));
    let plan = shop.plan(0, "plan.json", &[]);
    assert_eq!(plan["plan"]["operation"], "index.apply.change");
    assert_eq!(shop.approve("plan.json").status, 0);
    assert_eq!(seconds(&shop.indexes("tokens").await["at_1"]), "172800");
    // None at all cannot be had without a gap, and what can be had is named.
    shop.declare("[mongo.indexes]\ntokens = [{ keys = [\"at\"] }]\n");
    let blocked = shop.expect(3, &["index", "plan"]).stdout;
    assert!(blocked.contains("--allow-gap") && blocked.contains("ttl = \"2147483647s\""), "{blocked}");
    shop.database.drop().await.unwrap();
}

#[tokio::test]
async fn a_text_index_is_replaced_only_when_a_gap_is_asked_for() {
    let shop = Shop::new(
        shared_mongod(),
        "[mongo.indexes]\nrequests = [{ keys = [\"title:text\", \"description:text\"] }]\n",
    )
    .await;
    shop.fill("requests", 500, doc! { "title": { "$toString": "$n" }, "description": "x" }).await;
    shop.index("requests", doc! { "key": { "title": "text" }, "name": "title_text" }).await;
    let blocked = shop.plan(3, "plan.json", &[]);
    assert_eq!(blocked["totals"], json!({"added": 0, "changed": 0, "retired": 0, "blocked": 1}));
    let shown = shop.expect(3, &["index", "plan"]).stdout;
    for text in ["BLOCKED", "room for one text index", "has to go before", "--allow-gap"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    let plan = shop.plan(0, "plan.json", &["--allow-gap"]);
    let change = &changes(&plan)["requests.title_text_description_text"];
    assert_eq!(change["change"]["kind"], "rebuild");
    assert!(change["estimate"]["millis"].is_u64(), "{change}");
    let shown = shop.expect(0, &["index", "plan", "--allow-gap"]).stdout;
    assert!(
        shown.contains("-/+ title_text_description_text")
            && shown.contains("GAP")
            && shown.contains("without the index"),
        "{shown}"
    );
    assert_eq!(shop.approve("plan.json").status, 0);
    assert_eq!(shop.names("requests").await, ["title_text_description_text"]);
    // What was dropped can be had back by hand, as far as there is room.
    let listed = shop.expect(0, &["index", "restore"]).stdout;
    assert!(listed.contains("requests.title_text"), "{listed}");
    shop.database.drop().await.unwrap();
}

#[tokio::test]
async fn what_nobody_declares_is_hidden_dropped_and_brought_back() {
    let declared = |policy: &str| {
        format!("[mongo.indexes]\norders = [{{ keys = [\"buyer\"] }}]\n[mongo.policy]\n{policy}\n")
    };
    let shop = Shop::new(shared_mongod(), &declared("hide_for = \"1h\"")).await;
    shop.fill("orders", 100, doc! { "buyer": "$n", "status": "$n" }).await;
    let status = doc! { "key": { "status": 1, "buyer": -1 }, "name": "old", "unique": true, "sparse": true };
    shop.index("orders", status).await;
    shop.index("orders", doc! { "key": { "buyer": 1 }, "name": "buyer_1" }).await;
    let before = shop.indexes("orders").await["old"].clone();
    // Told, and left alone.
    let plan = shop.plan(0, "plan.json", &[]);
    assert_eq!(changes(&plan)["orders.old"]["change"]["kind"], "leave");
    let left = shop.expect(0, &["index", "plan"]).stdout;
    assert!(left.contains("nothing to do: 1 left alone") && !left.contains("as declared"), "{left}");
    let wanted = shop.expect(8, &["index", "retire", "orders.buyer_1", "--dry-run"]);
    assert!(wanted.stderr.contains("is declared"), "{}", wanted.stderr);
    let missing = shop.expect(1, &["index", "retire", "orders.nothing", "--dry-run"]);
    assert!(missing.stderr.contains("no index orders.nothing"), "{}", missing.stderr);
    // Hidden first.
    let shown = shop.expect(0, &["index", "retire", "orders.old", "--dry-run"]).stdout;
    assert!(shown.contains("next: mainstay index retire orders.old --output plan.json"), "{shown}");
    let hiding = shop.expect(0, &["index", "retire", "orders.old", "--output", "hide.json"]);
    for text in ["- old", "used 0 times", "goes on refusing duplicates", "1 to retire"] {
        assert!(hiding.stdout.contains(text), "{text}: {}", hiding.stdout);
    }
    assert_eq!(shop.approve("hide.json").status, 0);
    assert!(shop.indexes("orders").await["old"].get_bool("hidden").unwrap());
    // Not dropped before its time.
    let early = shop.expect(3, &["index", "retire", "--dry-run"]).stdout;
    assert!(early.contains("BLOCKED") && early.contains("has to be for 1h"), "{early}");
    shop.declare(&declared("hide_for = \"0s\""));
    shop.expect(0, &["index", "retire", "--output", "drop.json"]);
    let dropped = shop.approve("drop.json");
    assert_eq!(dropped.status, 0, "{}", dropped.both());
    assert_eq!(shop.names("orders").await, ["buyer_1"]);
    // And back, as it was.
    let listed = shop.expect(0, &["index", "restore"]).stdout;
    assert!(listed.contains("orders.old") && listed.contains("status, -buyer, unique, sparse"), "{listed}");
    shop.expect(0, &["index", "restore", "orders.old", "--output", "restore.json"]);
    assert_eq!(shop.approve("restore.json").status, 0);
    assert_eq!(shop.indexes("orders").await["old"], before);
    assert!(shop.expect(0, &["index", "restore"]).stdout.contains("no index was dropped"));
    assert!(shop.expect(0, &["audit", "list"]).stdout.contains("index.apply.drop"));
    // By policy the plan itself does both, in two plans.
    shop.declare(&declared("undeclared = \"drop\"\nhide_for = \"0s\""));
    shop.change();
    assert!(shop.indexes("orders").await["old"].get_bool("hidden").unwrap());
    shop.change();
    assert_eq!(shop.names("orders").await, ["buyer_1"]);
    // What is brought back expires no more than the policy says.
    shop.declare(&declared("undeclared = \"drop\"\nhide_for = \"0s\"\nmax_expire = 0"));
    shop.index("orders", doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 60 }).await;
    shop.change();
    shop.change();
    assert_eq!(shop.names("orders").await, ["buyer_1"]);
    shop.collection("orders").insert_one(doc! { "at": DateTime::from_millis(0) }).await.unwrap();
    let blocked = shop.expect(3, &["index", "restore", "orders.at_1", "--dry-run"]).stdout;
    assert!(blocked.contains("1 documents would expire at once"), "{blocked}");
    shop.database.drop().await.unwrap();
}

#[tokio::test]
async fn collections_that_are_not_there_are_made_and_inherited_collations_hold() {
    let declared = r#"
[mongo.indexes]
fresh = [{ keys = ["a", "-b"], unique = true }]
named = [{ keys = ["name"], unique = true }]
"#;
    let shop = Shop::new(shared_mongod(), declared).await;
    shop.database
        .run_command(doc! { "create": "named", "collation": { "locale": "en", "strength": 2 } })
        .await
        .unwrap();
    shop.collection("named").insert_many([doc! { "name": "Ann" }, doc! { "name": "ann" }]).await.unwrap();
    let plan = shop.plan(3, "plan.json", &[]);
    let found = changes(&plan);
    assert_eq!(found["named.name_1"]["answers"][0]["groups"], 1, "the collection compares without case");
    assert!(found["fresh.a_1_b_-1"]["change"]["notes"].to_string().contains("no such collection"));
    assert_eq!(shop.approve("plan.json").status, 3);
    assert_eq!(shop.names("fresh").await, ["a_1_b_-1"]);
    shop.collection("named").delete_one(doc! { "name": "ann" }).await.unwrap();
    shop.change();
    let index = shop.indexes("named").await["name_1"].clone();
    assert_eq!(index.get_document("collation").unwrap().get_str("locale").unwrap(), "en");
    assert_eq!(
        shop.plan(0, "again.json", &[])["totals"],
        json!({"added": 0, "changed": 0, "retired": 0, "blocked": 0})
    );
    shop.database.drop().await.unwrap();
}

#[tokio::test]
async fn views_and_time_series_are_told_and_left_alone() {
    let declared = r#"
[mongo.indexes]
prices = [{ keys = ["at"] }]
shown = [{ keys = ["a"] }]
[mongo.policy]
undeclared = "hide"
"#;
    let shop = Shop::new(shared_mongod(), declared).await;
    for name in ["prices", "rates"] {
        let measured = doc! { "timeField": "at", "metaField": "item" };
        shop.database.run_command(doc! { "create": name, "timeseries": measured }).await.unwrap();
        shop.index(name, doc! { "key": { "item": 1 }, "name": "mine" }).await;
    }
    shop.database.run_command(doc! { "create": "shown", "viewOn": "users", "pipeline": [] }).await.unwrap();
    let plan = shop.plan(3, "plan.json", &[]);
    assert_eq!(plan["totals"], json!({"added": 0, "changed": 0, "retired": 0, "blocked": 2}));
    let found = changes(&plan);
    for (index, reason) in [("prices.at_1", "prices is a time series"), ("shown.a_1", "shown is a view")] {
        assert!(found[index]["change"]["blocked"]["reason"].to_string().contains(reason), "{}", found[index]);
        assert_eq!(found[index]["answers"], json!([]));
    }
    assert_eq!(found.len(), 2, "what nobody declares of a time series is nobody's business");
    let text = shop.expect(3, &["index", "plan"]).stdout;
    assert!(text.contains("nothing can be done: 2 blocked") && !text.contains("not there yet"), "{text}");
    let retired = shop.expect(3, &["index", "retire", "rates.mine", "--dry-run"]).stdout;
    assert!(retired.contains("BLOCKED: rates is a time series"), "{retired}");
    shop.database.drop().await.unwrap();
}
