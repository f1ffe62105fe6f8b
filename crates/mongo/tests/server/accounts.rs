//! Users and roles merged by an account that may do no more than it must, while others make users.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bson::{Document, doc};
use mainstay_engine::{AccountKind, AccountMerge, AccountName, AccountStore, Accounts};
use mainstay_model::ErrorKind;
use mainstay_mongo::MongoServer;
use mainstay_testkit::Mongod;
use mongodb::Client;

use crate::support::{open, permit};

fn uri(mongod: &Mongod, user: &str, password: &str, database: &str) -> String {
    format!("mongodb://{user}:{password}@{}/?directConnection=true&authSource={database}", mongod.address())
}

async fn logs_in(mongod: &Mongod, user: &str, password: &str, database: &str) -> bool {
    let client = Client::with_uri_str(uri(mongod, user, password, database)).await.unwrap();
    client.database("admin").run_command(doc! { "ping": 1 }).await.is_ok()
}

async fn run(client: &Client, database: &str, commands: impl IntoIterator<Item = Document>) {
    for command in commands {
        client.database(database).run_command(command).await.unwrap();
    }
}

async fn documents(client: &Client, collection: &str) -> Vec<Document> {
    use futures::TryStreamExt as _;
    let collection = client.database("admin").collection::<Document>(collection);
    collection.find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap().try_collect().await.unwrap()
}

fn names(list: &[AccountName]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn told(merge: &AccountMerge) -> [Vec<String>; 3] {
    [names(&merge.added), names(&merge.replaced), names(&merge.kept)]
}

async fn merge(server: &MongoServer, accounts: &Accounts, database: Option<&str>) -> AccountMerge {
    let permit = permit(server, "restore.apply.merge").await;
    server.merge_accounts(accounts, database, &permit).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn those_of_the_same_name_become_what_is_brought_and_everybody_else_stays() {
    let mongod = Mongod::options().auth("root", "pw").start().unwrap();
    let client = mongod.oracle().await;
    let find = |collection: &str| doc! { "resource": { "db": "shop", "collection": collection }, "actions": ["find"] };
    run(
        &client,
        "shop",
        [
            doc! { "createRole": "lower", "privileges": [find("a")], "roles": [] },
            doc! { "createRole": "upper", "privileges": [], "roles": ["lower"], "authenticationRestrictions": [{ "clientSource": ["127.0.0.1"] }] },
            doc! { "createRole": "same", "privileges": [find("a"), find("b")], "roles": [] },
            doc! { "createUser": "anna", "pwd": "anna-then", "roles": ["upper"] },
            doc! { "createUser": "bert", "pwd": "bert-then", "roles": [] },
            doc! { "createUser": "same", "pwd": "same", "roles": [] },
        ],
    )
    .await;
    run(
        &client,
        "admin",
        [
            doc! { "createRole": "held", "privileges": [], "roles": [] },
            doc! { "createUser": "ops", "pwd": "ops-then", "roles": ["restore"] },
        ],
    )
    .await;
    let then = open(&mongod.uri()).await.accounts(None).await.unwrap();
    let (users_then, roles_then) =
        (documents(&client, "system.users").await, documents(&client, "system.roles").await);
    run(
        &client,
        "shop",
        [
            // Turned round: while one inherits from the other, the other cannot inherit from it.
            doc! { "updateRole": "upper", "privileges": [find("c")], "roles": [], "authenticationRestrictions": [] },
            doc! { "updateRole": "lower", "privileges": [], "roles": ["upper"] },
            doc! { "updateUser": "anna", "pwd": "anna-now", "roles": [] },
            doc! { "dropUser": "bert" },
            doc! { "createUser": "newcomer", "pwd": "newcomer", "roles": [] },
        ],
    )
    .await;
    run(
        &client,
        "admin",
        [
            doc! { "updateRole": "held", "privileges": [find("a")] },
            doc! { "updateUser": "ops", "pwd": "ops-now", "roles": ["restore", "held"] },
        ],
    )
    .await;

    let server = open(&uri(&mongod, "ops", "ops-now", "admin")).await;
    let compared = server.compare_accounts(&then, None).await.unwrap();
    let expected = [
        vec!["user shop.bert".to_owned()],
        vec!["user shop.anna".to_owned(), "role shop.lower".to_owned(), "role shop.upper".to_owned()],
        vec!["user admin.ops".to_owned(), "role admin.held".to_owned()],
    ];
    assert_eq!(told(&compared), expected);
    assert_eq!((compared.unchanged, compared.count(AccountKind::User)), (3, 2), "{compared:?}");
    assert!(logs_in(&mongod, "anna", "anna-now", "shop").await, "comparing changes nothing");

    // Of another database: nothing.
    assert_eq!(merge(&server, &then, Some("elsewhere")).await, AccountMerge::default());
    assert_eq!(merge(&server, &then, None).await, compared);
    for (user, password, database, does) in [
        ("anna", "anna-then", "shop", true),
        ("anna", "anna-now", "shop", false),
        ("bert", "bert-then", "shop", true),
        ("same", "same", "shop", true),
        ("newcomer", "newcomer", "shop", true),
        ("ops", "ops-now", "admin", true),
        ("ops", "ops-then", "admin", false),
    ] {
        assert_eq!(logs_in(&mongod, user, password, database).await, does, "{user} {password}");
    }
    let others = |all: &[Document], names: &[&str]| -> Vec<Document> {
        let other = |it: &&Document| !names.contains(&it.get_str("_id").unwrap());
        all.iter().filter(other).cloned().collect()
    };
    let users = documents(&client, "system.users").await;
    assert_eq!(others(&users, &["admin.ops", "shop.newcomer"]), others(&users_then, &["admin.ops"]));
    let roles = documents(&client, "system.roles").await;
    assert_eq!(others(&roles, &["admin.held"]), others(&roles_then, &["admin.held"]));
    let left = client.database("admin").list_collection_names().await.unwrap();
    assert!(!left.iter().any(|name| name.starts_with("temp")), "{left:?}");

    // Again: nothing is left to do.
    let again = merge(&server, &then, None).await;
    assert_eq!(told(&again), [vec![], vec![], expected[2].clone()]);
    assert_eq!(again.unchanged, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_is_made_meanwhile_is_lost() {
    let mongod = Mongod::options().auth("root", "pw").start().unwrap();
    let client = mongod.oracle().await;
    run(&client, "shop", [doc! { "createUser": "anna", "pwd": "then", "roles": [] }]).await;
    let server = open(&mongod.uri()).await;
    let then = server.accounts(None).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let maker = tokio::spawn({
        let (client, stop) = (client.clone(), Arc::clone(&stop));
        async move {
            let mut made = 0;
            while !stop.load(Ordering::Relaxed) {
                run(&client, "shop", [doc! { "createUser": format!("new{made}"), "pwd": "x", "roles": [], "mechanisms": ["SCRAM-SHA-1"] }]).await;
                made += 1;
            }
            made
        }
    });
    for round in 0..10 {
        let change = match round % 2 {
            0 => doc! { "updateUser": "anna", "pwd": "now", "mechanisms": ["SCRAM-SHA-1"] },
            _ => doc! { "dropUser": "anna" },
        };
        run(&client, "shop", [change]).await;
        assert_eq!(merge(&server, &then, None).await.count(AccountKind::User), 1);
    }
    stop.store(true, Ordering::Relaxed);
    let made: usize = maker.await.unwrap();
    assert!(made > 0);
    assert_eq!(documents(&client, "system.users").await.len(), made + 2);
    assert!(logs_in(&mongod, "anna", "then", "shop").await);
}

#[tokio::test]
async fn what_may_not_or_cannot_be_is_refused_with_nothing_changed() {
    let mongod = Mongod::options().auth("root", "pw").start().unwrap();
    let client = mongod.oracle().await;
    run(&client, "admin", [doc! { "createUser": "weak", "pwd": "weak", "roles": ["readWriteAnyDatabase"] }])
        .await;
    let server = open(&mongod.uri()).await;
    let good = server.accounts(None).await.unwrap();
    let weak = open(&uri(&mongod, "weak", "weak", "admin")).await;
    let error = weak.compare_accounts(&good, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error:?}");
    assert!(error.hint().unwrap().contains("`restore`"), "{error:?}");

    let before = documents(&client, "system.users").await;
    let permit = permit(&server, "restore.apply.merge").await;
    let bytes = |document: Document| document.to_vec().unwrap().into();
    for (users, kind) in [
        (bytes(doc! { "_id": "shop.other", "user": "root", "db": "admin" }), ErrorKind::Corrupt),
        (vec![5, 0, 0, 0].into(), ErrorKind::Corrupt),
        // A document that the server does not take, and says nothing of.
        (bytes(doc! { "_id": "shop.odd", "user": "odd", "db": "shop" }), ErrorKind::Server),
    ] {
        let bad = Accounts { users, ..good.clone() };
        let error = server.merge_accounts(&bad, None, &permit).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
    }
    let bad = Accounts { version: bytes(doc! { "_id": "authSchema", "currentVersion": 3 }), ..good };
    let error = server.merge_accounts(&bad, None, &permit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert_eq!(documents(&client, "system.users").await, before);
}
