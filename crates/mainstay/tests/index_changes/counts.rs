//! What a plan counts, against a count by hand of every document.

use std::collections::HashMap;

use futures::TryStreamExt;
use mainstay_testkit::shared_mongod;
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::{Value, json};

use crate::shop::{NULL, Shop, changes};

/// How many documents each collection holds; a soak says more.
fn documents() -> i32 {
    std::env::var("MAINSTAY_TEST_DOCUMENTS").map_or(100_000, |count| count.parse().unwrap())
}

const DECLARED: &str = r#"
[mongo.indexes]
users = [
  { keys = ["email"], unique = true },
  { keys = ["handle"], unique = true },
  { keys = ["handle"], name = "handle_any_case", unique = true, collation = { locale = "en", strength = 2 } },
  { keys = ["tags"], unique = true, partial = { role = "seller" } },
  { keys = ["role"] },
]
payments = [
  { keys = ["providerPaymentId"], unique = true, sparse = true },
  { keys = ["reference"], sparse = true, assert = ["no-explicit-null"] },
  { keys = ["note"], sparse = true, assert = ["no-explicit-null"] },
]
tempverifications = [{ keys = ["expiresAt"], ttl = "1h" }]
sessions = [{ keys = ["expiresAt"], ttl = "0s" }]
[mongo.policy]
max_expire = 100
"#;

/// Every document of a collection, with these fields alone.
async fn all(shop: &Shop, collection: &str, fields: Document) -> Vec<Document> {
    let found = shop.collection(collection).find(doc! {}).projection(fields).await.unwrap();
    found.try_collect().await.unwrap()
}

/// Keys that several documents have, and how many documents these are.
fn duplicates<K: std::hash::Hash + Eq>(keys: impl Iterator<Item = K>) -> (u64, u64) {
    let mut counts: HashMap<K, u64> = HashMap::new();
    keys.for_each(|key| *counts.entry(key).or_default() += 1);
    counts
        .into_values()
        .filter(|count| *count > 1)
        .fold((0, 0), |(groups, all), count| (groups + 1, all + count))
}

#[tokio::test]
async fn plans_block_exactly_where_the_documents_are_in_the_way() {
    let shop = Shop::new(shared_mongod(), DECLARED).await;
    let count = documents();
    let now = DateTime::now().timestamp_millis();
    let mostly = |every: i32, rare: Bson, usual: Bson| -> Document {
        doc! { "$cond": [{ "$eq": [{ "$mod": ["$n", every] }, 7 % every] }, rare, usual] }
    };
    let number = doc! { "$toString": "$n" };
    let own = |prefix: &str| Bson::Document(doc! { "$concat": [prefix, &number] });
    let before = |prefix: &str, distance: i32| {
        Bson::Document(doc! { "$concat": [prefix, { "$toString": { "$subtract": ["$n", distance] } }] })
    };
    shop.fill("users", count, doc! {
        // One of a hundred has the address of another, one of ten thousand none.
        "email": mostly(10_000, Bson::String("$$REMOVE".to_owned()), mostly(100, before("u", 3), own("u")).into()),
        "handle": mostly(500, Bson::Document(doc! { "$toUpper": before("h", 1) }), own("h")),
        "role": mostly(50, "seller".into(), "buyer".into()),
        "tags": [{ "$concat": ["t", { "$toString": { "$mod": ["$n", 1_000] } }] }, own("t"), own("t")],
    }).await;
    shop.fill(
        "payments",
        count,
        doc! {
            "providerPaymentId": mostly(1_000, NULL, mostly(2, "$$REMOVE".into(), own("p")).into()),
            "reference": mostly(5_000, NULL, "$$REMOVE".into()),
            "note": "$$REMOVE",
        },
    )
    .await;
    let date = |millis: i64| Bson::DateTime(DateTime::from_millis(millis));
    let hour = 3_600_000;
    shop.fill(
        "tempverifications",
        count,
        doc! {
            "expiresAt": mostly(
                40,
                date(now - 2 * hour),
                mostly(
                    70,
                    "soon".into(),
                    mostly(90, vec![date(now + hour), date(now - 3 * hour)].into(), date(now)).into(),
                )
                .into(),
            ),
        },
    )
    .await;
    shop.fill(
        "sessions",
        count / 10,
        doc! { "expiresAt": mostly(1_000, date(now - hour), date(now + hour)) },
    )
    .await;

    let plan = shop.plan(3, "plan.json", &[]);
    let changes = changes(&plan);
    let answer = |index: &str, place: usize| changes[index]["answers"][place].clone();
    let told = |answer: &Value| (answer["groups"].as_u64().unwrap(), answer["documents"].as_u64().unwrap());

    let users = all(&shop, "users", doc! { "email": 1, "handle": 1, "role": 1, "tags": 1 }).await;
    let text = |document: &Document, field: &str| document.get_str(field).ok().map(str::to_owned);
    let emails = duplicates(users.iter().map(|user| text(user, "email")));
    assert!(emails.0 > u64::try_from(count / 200).unwrap());
    assert_eq!(told(&answer("users.email_1", 0)), emails);
    assert_eq!(told(&answer("users.handle_1", 0)), duplicates(users.iter().map(|user| text(user, "handle"))));
    assert_eq!(told(&answer("users.handle_1", 0)), (0, 0), "case tells them apart");
    let folded =
        duplicates(users.iter().map(|user| text(user, "handle").map(|handle| handle.to_lowercase())));
    assert!(folded.0 > 0);
    assert_eq!(told(&answer("users.handle_any_case", 0)), folded);
    let sellers = users.iter().filter(|user| user.get_str("role").unwrap() == "seller");
    let tags = sellers.flat_map(|user| {
        let mut tags: Vec<String> =
            user.get_array("tags").unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect();
        tags.sort();
        tags.dedup();
        tags
    });
    let tags = duplicates(tags);
    assert!(tags.0 > 0);
    assert_eq!(told(&answer("users.tags_1", 0)), tags);

    let payments = all(&shop, "payments", doc! { "providerPaymentId": 1, "reference": 1 }).await;
    let nulls =
        |field: &str| payments.iter().filter(|payment| payment.get(field) == Some(&NULL)).count() as u64;
    assert!(nulls("providerPaymentId") > 1);
    assert_eq!(answer("payments.providerPaymentId_1", 0)["documents"], json!(nulls("providerPaymentId")));
    let indexed = payments.iter().filter_map(|payment| payment.get("providerPaymentId"));
    let ids = duplicates(indexed.map(|id| id.as_str().map(str::to_owned)));
    assert_eq!(told(&answer("payments.providerPaymentId_1", 1)), ids);
    assert_eq!(answer("payments.reference_1", 0)["documents"], json!(nulls("reference")));
    assert_eq!(answer("payments.note_1", 0)["documents"], json!(0));

    let is_overdue = |value: &Bson, seconds: i64| match value {
        Bson::DateTime(at) => at.timestamp_millis() <= now - seconds * 1_000,
        _ => false,
    };
    let expiry = |documents: &[Document], seconds: i64| {
        let values = || documents.iter().map(|document| document.get("expiresAt").unwrap());
        let overdue = values().filter(|value| match value {
            Bson::Array(items) => items.iter().any(|item| is_overdue(item, seconds)),
            value => is_overdue(value, seconds),
        });
        let undated = values().filter(|value| matches!(value, Bson::String(_)));
        let arrays = values().filter(|value| matches!(value, Bson::Array(_)));
        json!({"answer": "expiry", "overdue": overdue.count(), "undated": undated.count(), "arrays": arrays.count()})
    };
    let temporary = all(&shop, "tempverifications", doc! { "expiresAt": 1 }).await;
    assert_eq!(answer("tempverifications.expiresAt_1", 0), expiry(&temporary, 3_600));
    let sessions = all(&shop, "sessions", doc! { "expiresAt": 1 }).await;
    assert_eq!(answer("sessions.expiresAt_1", 0), expiry(&sessions, 0));

    let blocked: Vec<&String> = changes
        .iter()
        .filter(|(_, change)| !change["change"]["blocked"].is_null())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        blocked,
        [
            "payments.providerPaymentId_1",
            "payments.reference_1",
            "tempverifications.expiresAt_1",
            "users.email_1",
            "users.handle_any_case",
            "users.tags_1"
        ]
    );
    assert_eq!(plan["totals"], json!({"added": 4, "changed": 0, "retired": 0, "blocked": 6}));

    // Each group that is named is one: the documents share the value.
    let groups = answer("users.email_1", 0)["first"].as_array().unwrap().clone();
    assert_eq!(groups.len() as u64, emails.0.min(100));
    for group in groups.iter().take(5) {
        let ids: Vec<i32> = group["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| serde_json::from_str::<Value>(id.as_str().unwrap()).unwrap())
            .map(|id| id["$numberInt"].as_str().unwrap().parse().unwrap())
            .collect();
        let values: Vec<_> =
            users.iter().filter(|user| ids.contains(&user.get_i32("_id").unwrap())).collect();
        // Of a large group the first ten are named.
        assert_eq!(values.len() as u64, group["documents"].as_u64().unwrap().min(10));
        assert!(values.windows(2).all(|pair| pair[0].get("email") == pair[1].get("email")));
    }

    // Counting once is enough of a million.
    if count <= 100_000 {
        let text = shop.expect(3, &["index", "plan"]).stdout;
        for line in [
            format!("duplicates: {} groups, {} documents", grouped(emails.0), grouped(emails.1)),
            "BLOCKED: ".to_owned(),
            "documents hold no date there and never expire".to_owned(),
            "Plan: 4 to add, 0 to change, 0 to retire; 6 blocked.".to_owned(),
        ] {
            assert!(text.contains(&line), "{line}: {text}");
        }
    }
    // What is not blocked is done, the rest is named and left alone.
    let applied = shop.approve("plan.json");
    assert_eq!(applied.status, 3, "{}", applied.both());
    assert!(
        applied.stdout.contains("left alone") && applied.stdout.contains("users.email_1"),
        "{}",
        applied.stdout
    );
    assert_eq!(shop.names("users").await, ["handle_1", "role_1"]);
    assert_eq!(shop.names("payments").await, ["note_1"]);
    assert_eq!(shop.names("sessions").await, ["expiresAt_1"]);
    assert!(shop.names("tempverifications").await.is_empty());
    shop.database.drop().await.unwrap();
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|part| std::str::from_utf8(part).unwrap()).collect();
    parts.join(",")
}
