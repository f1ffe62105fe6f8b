//! Restores to moments: each equal to what a model remembers, before and after a crash of the server and across a timeline switch.

use std::fs;

use mainstay_testkit::Postgres;

use crate::stack::{Capture, Stack, lsn, start_restored, wait_for};

/// What the model remembers of one commit.
#[derive(Debug)]
struct Commit {
    xid: String,
    /// The end of the log, and the server's clock, after it and before the next.
    lsn: String,
    time: String,
}

/// A table that grows by a row with each commit.
struct Model {
    commits: Vec<Commit>,
}

impl Model {
    fn begin(server: &Postgres) -> Self {
        server.execute("postgres", "CREATE TABLE m (n int PRIMARY KEY, pad text)").unwrap();
        Self { commits: Vec::new() }
    }

    fn commit(&mut self, server: &Postgres) {
        let n = self.commits.len() + 1;
        let seen = server.texts(
            "postgres",
            &format!(
                "BEGIN; INSERT INTO m VALUES ({n}, repeat('x', 1000)); SELECT pg_current_xact_id()::text; COMMIT; \
                 SELECT pg_current_wal_insert_lsn()::text; \
                 SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
            ),
        );
        let [xid, lsn, time] = seen.try_into().unwrap();
        self.commits.push(Commit { xid, lsn, time });
    }

    fn commits(&mut self, count: usize, server: &Postgres) {
        (0..count).for_each(|_| self.commit(server));
    }

    fn at(&self, n: usize) -> &Commit {
        &self.commits[n - 1]
    }
}

/// The rows of the model's table, when it has just those up to a number.
#[track_caller]
fn assert_holds(server: &Postgres, n: usize) {
    let found = server.texts("postgres", "SELECT count(*) || ' ' || coalesce(max(n), 0) FROM m");
    assert_eq!(found, [format!("{n} {n}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_target_leads_to_what_was_there() {
    let mut stack = Stack::start();
    let mut capture = Capture::of(&stack, "300ms");
    capture.until("chain_begun");
    let mut model = Model::begin(&stack.server);
    let too_early = stack.server.texts("postgres", "SELECT pg_current_wal_insert_lsn()").remove(0);
    let first = stack.back_up();
    model.commits(10, &stack.server);
    stack.run(&["restore", "point", "create", "after-ten"]).expect(0);
    model.commits(10, &stack.server);
    let second = stack.back_up();
    model.commits(5, &stack.server);
    // The server crashes, and comes back.
    stack.server.kill9();
    stack.server.restart().unwrap();
    model.commits(5, &stack.server);
    let end = stack.server.texts("postgres", "SELECT pg_current_wal_flush_lsn()").remove(0);
    capture.until_stored(&end);
    assert_eq!(capture.stop().1, 0);

    // The newest set that is consistent by then is taken, and what is told is what comes.
    let cases: [(&str, &[&str], usize, &str); 7] = [
        ("time", &["--to", &model.at(7).time], 7, &first),
        ("lsn", &["--to", &model.at(22).lsn], 22, &second),
        ("xid", &["--to", &model.at(27).xid], 27, &second),
        ("before", &["--before", &model.at(27).xid], 26, &second),
        ("name", &["--to", "after-ten"], 10, &first),
        ("latest", &["--to", "latest"], 30, &second),
        ("older", &["--to", "latest", &first], 30, &first),
    ];
    for (name, more, expected, set) in cases {
        stack.plan(name, more).expect(0);
        let plan = fs::read_to_string(stack.path(&format!("{name}.json"))).unwrap();
        assert!(plan.contains(&format!("\"set\": \"{set}\"")), "{name}: {plan}");
        if ["time", "xid", "name", "latest"].contains(&name) {
            stack.apply(name).expect(0).says("pg_ctl --pgdata=");
            let restored = start_restored(&stack.path(name));
            wait_for("it takes writes", || restored.texts("postgres", "SELECT pg_is_in_recovery()") == ["f"]);
            assert_holds(&restored, expected);
        }
    }

    // What cannot be reached is refused before anything is planned, with what can.
    let refused = |more: &[&str], status, why: &str| {
        let seen = stack.plan("refused", more).expect(status).says(why);
        assert!(!stack.path("refused.json").exists());
        seen
    };
    let restorable = "what can be restored is";
    refused(&["--to", "2020-01-01T00:00:00Z"], 8, "lies before the first moment").says(restorable);
    refused(&["--to", &too_early], 8, "lies before the first moment").says(restorable);
    refused(&["--to", "2100-01-01T00:00:00Z"], 8, "lies behind the end of the captured WAL")
        .says("whose last change is of");
    refused(&["--to", "FF/0"], 8, "lies behind the end of the captured WAL").says(&first_lsn(&stack));
    refused(&["--to", "4000000000"], 8, "the end of transaction 4000000000 is not in the captured WAL");
    refused(&["--to", "no-such-name"], 8, "the restore point `no-such-name` is not in the captured WAL");
    refused(&["--before", "latest"], 2, "cannot stop just before");
    refused(&["--to", "a b"], 2, "is no moment of postgres");
    refused(&["--to", "latest", "--timeline", "7"], 1, "no WAL of timeline 7 was captured");
    refused(&["--then", "pause"], 2, "--then means nothing without a moment");
}

/// Where the first restorable range begins.
fn first_lsn(stack: &Stack) -> String {
    let listed = stack.json(&["backup", "list"]);
    listed["wal"][0]["timelines"][0]["ranges"][0]["from"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_server_is_captured_on_along_its_own_timeline() {
    let stack = Stack::start();
    stack.catch_up();
    let mut model = Model::begin(&stack.server);
    stack.back_up();
    model.commits(4, &stack.server);
    // Two ends of one history: one goes on to six, the other leaves at four.
    let fork = model.at(4).lsn.clone();
    model.commits(2, &stack.server);
    stack.catch_up();

    // A server that waits at its target, which can be looked at, and then goes on.
    stack.plan("forked", &["--to", &fork, "--then", "pause"]).expect(0);
    stack.apply("forked").expect(0).says("pg_wal_replay_resume()");
    let forked = start_restored(&stack.path("forked"));
    wait_for("it waits", || forked.texts("postgres", "SELECT pg_get_wal_replay_pause_state()") == ["paused"]);
    assert_holds(&forked, 4);
    forked.execute("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    wait_for("it takes writes", || forked.texts("postgres", "SELECT pg_is_in_recovery()") == ["f"]);
    forked.execute("postgres", "INSERT INTO m VALUES (5, 'on timeline 2'), (6, ''), (7, '')").unwrap();

    stack.configure(&forked.uri());
    stack.catch_up().says("the server began a new timeline");
    forked.execute("postgres", "INSERT INTO m VALUES (8, '')").unwrap();
    stack.catch_up().says("of timeline 2 goes on at");
    let (_, chains) = stack.chains().await;
    assert_eq!(chains.len(), 2);
    let wal = chains[1].description().wal.clone().unwrap();
    assert!(wal.timeline == 2 && wal.history.unwrap().starts_with("1\t"), "{:?}", chains[1]);
    assert!(chains[1].description().after <= lsn(&fork), "it begins in the segment of the fork");
    stack.run(&["backup", "verify", "--store", "postgres", "--log"]).expect(0);
    stack.run(&["backup", "list"]).expect(0).says("timeline 1").says("timeline 2");

    // The newest timeline is followed, unless another is asked for.
    let newest = stack.restore("newest", &["--to", "latest"]);
    assert_holds(&newest, 8);
    drop(newest);
    let other = stack.restore("other", &["--to", "latest", "--timeline", "1"]);
    assert_holds(&other, 6);
    // It has found out that timeline 2 is taken.
    assert_eq!(other.texts("postgres", "SELECT timeline_id FROM pg_control_checkpoint()").len(), 1);
    let name = other.texts("postgres", "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)");
    assert_eq!(name, ["00000003"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_timeline_is_captured_after_its_end() {
    let mut stack = Stack::start();
    stack.catch_up();
    let mut model = Model::begin(&stack.server);
    stack.back_up();
    model.commits(3, &stack.server);
    // The server wakes up as a standby and is promoted, while nobody captures.
    stack.server.stop();
    fs::write(stack.server.dir().join("data/standby.signal"), "").unwrap();
    stack.server.restart().unwrap();
    stack.execute("SELECT pg_promote()");
    wait_for("it takes writes", || stack.server.texts("postgres", "SELECT pg_is_in_recovery()") == ["f"]);
    model.commits(3, &stack.server);
    stack.catch_up().says("timeline 1 ends at").says("the server began a new timeline");
    let listed = stack.json(&["backup", "list"]);
    for timeline in listed["wal"][0]["timelines"].as_array().unwrap() {
        assert_eq!(timeline["gaps"].as_array().unwrap().len(), 0, "{timeline}");
    }
    let restored = stack.restore("restored", &["--to", &model.at(5).time]);
    assert_holds(&restored, 5);
}
