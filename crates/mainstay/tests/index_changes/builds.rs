//! Builds that take long: watched, stopped, killed, begun by somebody else. A fail point of the server holds them.

use std::process::Child;
use std::time::{Duration, Instant};

use mainstay_testkit::Mongod;
use mainstay_testkit::servers::MongodOptions;
use mongodb::bson::{Document, doc};

use crate::binary::Seen;
use crate::shop::Shop;

const DECLARED: &str = "[mongo.indexes]\nusers = [{ keys = [\"email\"] }]\n";
/// Where the server holds a build, as long as nobody ends it: when the collection was read.
const POINT: &str = "hangAfterStartingIndexBuild";

/// What is said when a build is there already.
const WAITED_FOR: &str = "is under way: it is waited for";

/// A server whose builds can be held.
struct Held {
    server: Mongod,
    shop: Shop,
}

impl Held {
    async fn begin() -> Self {
        Self::on(Mongod::options()).await
    }

    async fn on(options: MongodOptions) -> Self {
        let server = options.parameter("enableTestCommands", "1").start().unwrap();
        // A server that is gone is not waited for longer than a test takes.
        let separator = if server.uri().contains('?') { '&' } else { '?' };
        let uri = format!("{}{separator}serverSelectionTimeoutMS=2000", server.uri());
        let shop = Shop::of_class(&server, &uri, "development", DECLARED).await;
        shop.fill("users", 5_000, doc! { "email": { "$toString": "$n" } }).await;
        shop.plan(0, "plan.json", &[]);
        let held = Self { server, shop };
        held.set("alwaysOn").await;
        held
    }

    async fn set(&self, mode: &str) {
        let admin = self.server.oracle().await.database("admin");
        admin.run_command(doc! { "configureFailPoint": POINT, "mode": mode }).await.unwrap();
    }

    /// Waits until the server says that it builds.
    async fn await_build(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.shop.names("users").await != ["building email_1"] {
            assert!(Instant::now() < deadline, "no build began: {:?}", self.shop.names("users").await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The build that the server has now.
    async fn build_id(&self) -> String {
        let command = doc! { "listIndexes": "users", "includeBuildUUIDs": true };
        let mut cursor = self.shop.database.run_cursor_command(command).await.unwrap();
        let mut id = String::new();
        while cursor.advance().await.unwrap() {
            let entry = cursor.deserialize_current().unwrap();
            if let Some(build) = entry.get("buildUUID") {
                id = build.to_string();
            }
        }
        id
    }
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[tokio::test]
async fn a_build_that_is_stopped_leaves_nothing_behind() {
    let held = Held::begin().await;
    let child = held.shop.begin("plan.json");
    held.await_build().await;
    // Meanwhile nobody else may change indexes of this server from this repository.
    let locked = held.shop.approve("plan.json");
    assert!(locked.status == 10 && locked.stderr.contains("lease"), "{}", locked.both());
    interrupt(&child);
    let stopped: Seen = child.wait_with_output().unwrap().into();
    assert_eq!(stopped.status, 75, "{}", stopped.both());
    for text in ["users.email_1", "was ended, nothing of it is left", "apply the same plan again"] {
        assert!(stopped.stderr.contains(text), "{text}: {}", stopped.stderr);
    }
    assert!(held.shop.names("users").await.is_empty());
    held.set("off").await;
    let seen = held.shop.approve("plan.json");
    assert_eq!(seen.status, 0, "{}", seen.both());
    assert_eq!(held.shop.names("users").await, ["email_1"]);
}

#[tokio::test]
async fn a_build_goes_on_without_the_process_that_began_it_and_is_not_begun_twice() {
    let held = Held::begin().await;
    let mut child = held.shop.begin("plan.json");
    held.await_build().await;
    let build = held.build_id().await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(held.build_id().await, build, "the server builds on");
    // A plan that is made now says that it waits.
    let planned = held.shop.expect(0, &["index", "plan"]).stdout;
    assert!(planned.contains("being built") && planned.contains("waited for"), "{planned}");
    let (child, said) = held.shop.begin_until("plan.json", WAITED_FOR);
    assert_eq!(held.build_id().await, build, "the same build goes on");
    held.set("off").await;
    let seen: Seen = child.wait_with_output().unwrap().into();
    assert_eq!(seen.status, 0, "{}", seen.both());
    let said = said + &seen.stderr;
    for text in ["it goes on", "a build of"] {
        assert!(said.contains(text), "{text}: {said}");
    }
    assert_eq!(held.shop.names("users").await, ["email_1"]);
}

#[tokio::test]
async fn a_build_of_somebody_else_is_waited_for_and_never_ended() {
    let held = Held::begin().await;
    let database = held.shop.database.clone();
    let other = tokio::spawn(async move {
        let index = doc! { "key": { "email": 1 }, "name": "email_1" };
        database.run_command(doc! { "createIndexes": "users", "indexes": [index] }).await
    });
    held.await_build().await;
    // The world has moved: somebody builds what was not there.
    let stale = held.shop.approve("plan.json");
    assert!(stale.status == 9 && stale.stderr.contains("being built"), "{}", stale.both());
    held.shop.plan(0, "wait.json", &[]);
    let (child, _) = held.shop.begin_until("wait.json", WAITED_FOR);
    interrupt(&child);
    let stopped: Seen = child.wait_with_output().unwrap().into();
    assert_eq!(stopped.status, 75, "{}", stopped.both());
    assert!(stopped.stderr.contains("goes on: somebody else began it"), "{}", stopped.stderr);
    assert_eq!(held.shop.names("users").await, ["building email_1"]);
    let (child, _) = held.shop.begin_until("wait.json", WAITED_FOR);
    held.set("off").await;
    let seen: Seen = child.wait_with_output().unwrap().into();
    assert_eq!(seen.status, 0, "{}", seen.both());
    let _: Document = other.await.unwrap().unwrap();
    assert_eq!(held.shop.names("users").await, ["email_1"]);
}

#[tokio::test]
async fn a_standalone_lists_what_it_builds_as_if_it_were_there() {
    let held = Held::on(Mongod::options().standalone()).await;
    let child = held.shop.begin("plan.json");
    let deadline = Instant::now() + Duration::from_secs(30);
    while held.shop.names("users").await != ["email_1"] {
        assert!(Instant::now() < deadline, "no build began");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let planned = held.shop.expect(0, &["index", "plan"]).stdout;
    assert!(planned.contains("being built") && planned.contains("waited for"), "{planned}");
    interrupt(&child);
    let stopped: Seen = child.wait_with_output().unwrap().into();
    assert_eq!(stopped.status, 75, "{}", stopped.both());
    assert!(held.shop.names("users").await.is_empty());
}

#[tokio::test]
async fn a_server_that_dies_is_told_and_the_plan_goes_on_when_it_is_back() {
    let mut held = Held::begin().await;
    let child = held.shop.begin("plan.json");
    held.await_build().await;
    held.server.kill9();
    let gone: Seen = child.wait_with_output().unwrap().into();
    assert_eq!(gone.status, 6, "{}", gone.both());
    assert!(gone.stderr.contains("users.email_1") && gone.stderr.contains("hint:"), "{}", gone.stderr);
    let unreachable = held.shop.run(&["index", "plan"]);
    assert_eq!(unreachable.status, 6, "{}", unreachable.both());
    held.server.restart().unwrap();
    // It builds on from what it had, or had nothing: either way the index is there in the end.
    let seen = tokio::task::spawn_blocking({
        let shop = held.shop;
        move || (shop.go_on("plan.json"), shop)
    });
    let (seen, shop) = seen.await.unwrap();
    assert_eq!(seen.status, 0, "{}", seen.both());
    assert_eq!(shop.names("users").await, ["email_1"]);
}
