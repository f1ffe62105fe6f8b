//! Whose log goes on where: standbys, servers that went their own way, segments that ended.

use std::fs;
use std::path::Path;
use std::process::Command;

use mainstay_testkit::{FaultProxy, Postgres};

use crate::stack::{Capture, Stack, lsn, segment_name, wait_for};

/// A standby of the stack's server, made from its newest set, that follows it at `address`.
fn standby(stack: &Stack, name: &str, address: std::net::SocketAddr) -> Postgres {
    stack.back_up();
    stack.plan(name, &[]).expect(0);
    stack.apply(name).expect(0);
    let folder = stack.path(name);
    fs::write(folder.join("data/standby.signal"), "").unwrap();
    let primary = format!("host={} port={} user=postgres", address.ip(), address.port());
    let options = Postgres::options().parameter("primary_conninfo", &primary);
    options.parameter("wal_retrieve_retry_interval", "100ms").in_folder(&folder).start().unwrap()
}

fn end(server: &Postgres) -> String {
    server.texts("postgres", "SELECT pg_current_wal_flush_lsn()").remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_captured_and_followed_when_it_is_promoted() {
    let stack = Stack::start();
    let standby = standby(&stack, "standby", stack.server.address());
    stack.configure(&standby.uri());
    let mut capture = Capture::of(&stack, "200ms");
    capture.until("chain_begun");
    stack.execute("CREATE TABLE t (i int)");
    stack.execute("INSERT INTO t SELECT generate_series(1, 1000)");
    let position = end(&stack.server);
    capture.until_stored(&position);
    // The set is continued by what the standby gave.
    stack.plan("there", &["--to", &position]).expect(0);
    // It writes nothing of its own.
    stack.run(&["restore", "point", "create", "here"]).expect(8).says("is a standby, which writes no WAL");

    standby.execute("postgres", "SELECT pg_promote()").unwrap();
    let ended = capture.until("timeline_ended");
    assert_eq!((&ended["timeline"], &ended["next"]), (&1.into(), &2.into()));
    assert_eq!(capture.until("chain_begun")["timeline"], 2);
    wait_for("it takes writes", || standby.texts("postgres", "SELECT pg_is_in_recovery()") == ["f"]);
    standby.execute("postgres", "INSERT INTO t VALUES (1001)").unwrap();
    capture.until_stored(&end(&standby));
    assert_eq!(capture.stop().1, 0);
    let restored = stack.restore("restored", &["--to", "latest"]);
    assert_eq!(restored.texts("postgres", "SELECT count(*) FROM t"), ["1001"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_behind_is_waited_for() {
    let stack = Stack::start();
    let proxy = FaultProxy::start(stack.server.address());
    let standby = standby(&stack, "standby", proxy.address());
    stack.catch_up();
    // What the primary writes now comes to the repository and not to the standby.
    proxy.cut();
    stack.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    stack.catch_up();
    stack.configure(&standby.uri());
    stack.run(&["capture", "postgres", "--once"]).expect(8).says("the standby at").says("is behind");
    let mut capture = Capture::of(&stack, "200ms");
    let waiting = capture.until("waiting");
    assert!(waiting["message"].as_str().unwrap().contains("is behind"), "{waiting}");
    proxy.heal();
    capture.until("chain_resumed");
    stack.execute("INSERT INTO t VALUES (1)");
    capture.until_stored(&end(&stack.server));
    assert_eq!(capture.stop().1, 0);
    let (_, chains) = stack.chains().await;
    assert_eq!((chains.len(), chains[0].damage()), (1, &[][..]), "nobody went back");
}

/// A copy of the stack's server as it is now, which is stopped meanwhile.
fn copy(stack: &mut Stack) -> std::path::PathBuf {
    stack.server.stop();
    let (from, to) = (stack.server.dir().join("data"), stack.server.make_folder("copy"));
    assert!(Command::new("cp").arg("--archive").arg(&from).arg(&to).status().unwrap().success());
    stack.server.restart().unwrap();
    to
}

fn has_segment(folder: &Path, position: &str) -> bool {
    let number = (lsn(position).0 - 1) / (16 << 20);
    folder.join("data/pg_wal").join(segment_name(1, number)).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_went_its_own_way_is_found_out_where_a_segment_ended() {
    for is_removed in [false, true] {
        let mut stack = Stack::start();
        stack.catch_up();
        let copied = copy(&mut stack);
        // The stored chain ends exactly where a segment does, most of which was never used.
        stack.execute("CREATE TABLE own AS SELECT generate_series(1, 1000) AS i");
        stack.server.texts("postgres", "SELECT pg_switch_wal()");
        stack.catch_up();
        let (_, chains) = stack.chains().await;
        let stored = mainstay_model::Lsn(chains[0].end().0);
        assert_eq!(stored.0 % (16 << 20), 0, "{stored}");
        stack.catch_up().says(&format!("goes on at {stored}"));

        let kept = if is_removed { "0" } else { "512MB" };
        let options = Postgres::options().in_folder(&copied).parameter("wal_keep_size", kept);
        let options = options.parameter("min_wal_size", "32MB").parameter("max_wal_size", "512MB");
        let other = options.start().unwrap();
        other.execute("postgres", "SELECT pg_drop_replication_slot('mainstay_tests')").unwrap();
        other.execute("postgres", "CREATE TABLE other (i int)").unwrap();
        other.texts("postgres", "SELECT pg_switch_wal()");
        other.execute("postgres", "INSERT INTO other VALUES (1)").unwrap();
        assert!(lsn(&end(&other)).0 > stored.0);
        // What follows the end of the chain is there, the segment before it perhaps not any more.
        wait_for("the last segment is gone", || {
            other.execute("postgres", "CHECKPOINT").unwrap();
            !is_removed || !has_segment(&copied, &stored.to_string())
        });
        stack.configure(&other.uri());
        stack.catch_up().says("went back to an earlier state");
        let (_, chains) = stack.chains().await;
        assert_eq!(chains.len(), 2, "the log of the copy is a chain of its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_goes_on_where_its_last_segment_is_gone() {
    let options = Postgres::options().parameter("min_wal_size", "32MB").parameter("max_wal_size", "32MB");
    let stack = Stack::of(options.start().unwrap());
    stack.catch_up();
    stack.execute("CREATE TABLE t (i int)");
    stack.server.texts("postgres", "SELECT pg_switch_wal()");
    stack.catch_up();
    let (_, chains) = stack.chains().await;
    let stored = mainstay_model::Lsn(chains[0].end().0).to_string();
    let folder = stack.server.dir().to_owned();
    stack.execute("INSERT INTO t VALUES (1)");
    wait_for("the last segment is gone", || {
        stack.execute("CHECKPOINT");
        !has_segment(&folder, &stored)
    });
    stack.catch_up().says(&format!("goes on at {stored}"));
    let (_, chains) = stack.chains().await;
    assert_eq!((chains.len(), chains[0].damage()), (1, &[][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_given_twice_is_ambiguous() {
    let stack = Stack::start();
    stack.catch_up();
    stack.execute("CREATE TABLE m (n int)");
    stack.back_up();
    let named = |name: &str| {
        stack.execute("INSERT INTO m VALUES (1)");
        stack.server.texts("postgres", &format!("SELECT pg_create_restore_point('{name}')")).remove(0)
    };
    let first = named("twice");
    named("twice");
    stack.execute("INSERT INTO m VALUES (1)");
    stack.run(&["restore", "point", "create", "kept"]).expect(0);
    named("kept");
    stack.execute("INSERT INTO m VALUES (1)");
    stack.catch_up();
    let seen = stack.plan("twice", &["--to", "twice"]).expect(8).says("is in the captured WAL twice, at");
    // The hint leads to the first: where its record begins, which is a little before what the server told.
    let (_, hint) = seen.stderr.split_once("`--to ").unwrap();
    let position = hint.split_once('`').unwrap().0;
    let distance = lsn(&first).0 - lsn(position).0;
    assert!((1..=200).contains(&distance), "{first} {position}");
    let restored = stack.restore("first", &["--to", position]);
    assert_eq!(restored.texts("postgres", "SELECT count(*) FROM m"), ["1"]);
    // One that is listed is the one that is meant.
    stack.plan("kept", &["--to", "kept"]).expect(0);
}
