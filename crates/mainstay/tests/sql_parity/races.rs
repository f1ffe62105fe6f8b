//! Several runners at once: whoever comes first applies, and nobody applies again.

use std::fs;

use mainstay_testkit::Hazard;
use mainstay_testkit::engines::Drizzle;

use crate::support::{Migrations, Project, client_that_did};

const TRACKING: &str = "drizzle.__drizzle_migrations";
/// How many sessions of ours there are.
const OURS: &str = "\
    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'mainstay%')";

/// How many sessions wait for a lock on a table.
fn waiting_for(table: &str) -> String {
    format!(
        "(SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )
}

/// A project of three ordinary migrations that would go through a second time without complaint.
fn repeatable(line: Drizzle) -> Project {
    let name = match line {
        Drizzle::Zero => "plain",
        Drizzle::One => "v1_plain",
    };
    let project = Project::new(&Hazard::named(name).migrations());
    // Two of `CREATE TABLE IF NOT EXISTS` at once end one of them: there must be no such luck.
    let table = "CREATE TABLE ran (id serial PRIMARY KEY, tag text NOT NULL)";
    project.server.execute(&project.database, table).unwrap();
    project
}

/// Nobody did anything twice, and nothing was left out.
#[track_caller]
fn expect_once(project: &Project) {
    assert_eq!(project.ran(), ["0000", "0001", "0002"]);
    assert_eq!(project.row_count(), 3);
    project.sql(&["verify"]).expect(0);
}

#[test]
fn two_of_ours_and_one_stock_runner_started_together_apply_once() {
    for line in Drizzle::ALL {
        for stock_is_first in [true, false] {
            let project = repeatable(line);
            let stock = project.stock(line);
            let (stock, ours) = if stock_is_first {
                let stock = stock.begin();
                (stock, [project.begin(), project.begin()])
            } else {
                let ours = [project.begin(), project.begin()];
                (stock.begin(), ours)
            };
            for ours in ours {
                ours.end().expect(0);
            }
            // Its `CREATE SCHEMA IF NOT EXISTS` may meet another one, and then it gives up.
            let stock = stock.end();
            assert!(matches!(stock.status, 0 | 1), "{stock:?}");
            expect_once(&project);
        }
    }
}

/// All of them stand before the tracking table, which is empty, and are let in at once: the stock runner reads it first, and believes for good what
/// it has read.
#[test]
fn a_stock_runner_that_has_read_before_us_applies_nothing_twice() {
    for (line, more) in
        [(Drizzle::Zero, ""), (Drizzle::One, ", name text, applied_at timestamptz DEFAULT now()")]
    {
        let project = repeatable(line);
        let table = format!(
            "CREATE SCHEMA drizzle; CREATE TABLE {TRACKING} (id serial PRIMARY KEY, hash text NOT NULL, created_at bigint{more})"
        );
        project.server.execute(&project.database, &table).unwrap();
        let mut gate =
            client_that_did(&project, &format!("BEGIN; LOCK TABLE {TRACKING} IN ACCESS EXCLUSIVE MODE;"));
        let stock = project.stock(line).begin();
        project.wait_until(&format!("{} = 1", waiting_for(TRACKING)));
        let ours = [project.begin(), project.begin()];
        project.wait_until(&format!("{OURS} >= 2"));
        gate.send("COMMIT;");
        for ours in ours {
            ours.end().expect(0);
        }
        let stock = stock.end();
        assert!(matches!(stock.status, 0 | 1), "{stock:?}");
        expect_once(&project);
    }
}

#[test]
fn a_stock_runner_that_comes_while_we_apply_waits_and_finds_nothing_to_do() {
    let folder = Migrations::first(3, &Hazard::named("plain").migrations(), Drizzle::Zero);
    // The last migration needs a table that somebody has locked.
    let last = folder.path().join("0002_third.sql");
    let text = fs::read_to_string(&last).unwrap();
    fs::write(
        &last,
        format!("{text}\n--> statement-breakpoint\nALTER TABLE gate ADD COLUMN passed boolean;\n"),
    )
    .unwrap();
    let project = Project::new(folder.path());
    project.server.execute(&project.database, "CREATE TABLE gate ()").unwrap();
    let mut gate = client_that_did(&project, "BEGIN; LOCK TABLE gate IN ACCESS SHARE MODE;");
    let ours = project.begin();
    project.wait_until(&format!("{} = 1", waiting_for("gate")));
    let stock = project.stock(Drizzle::Zero).begin();
    // It waits for the tracking table, or at the gate once it was let in between two tries of ours, which then lets it go on first.
    project.wait_until(&format!(
        "EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.datname = current_database() \
         AND a.application_name NOT LIKE 'mainstay%' AND l.relation IN ('{TRACKING}'::regclass, 'gate'::regclass))"
    ));
    gate.send("COMMIT;");
    ours.end().expect(0);
    assert_eq!(stock.end().status, 0);
    expect_once(&project);
}

#[test]
fn an_index_built_beside_writes_ends_though_others_wait_for_the_run() {
    let hazard = Hazard::named("concurrently");
    let project = Project::new(&hazard.migrations());
    hazard.prepare(project.server, &project.database);
    // Somebody looks at an old moment of the table; the index waits for the end of that.
    let mut looking =
        client_that_did(&project, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ran;");
    let first = project.begin();
    project.wait_until("EXISTS (SELECT FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting for%')");
    let others = [project.begin(), project.begin()];
    // The first has two sessions, one for its lock and one that builds; each of the others has one at least.
    project.wait_until(&format!("{OURS} >= 4"));
    // A stock runner has no way to apply this one, and leaves it as it is.
    assert_eq!(project.stock(Drizzle::Zero).run().status, 1);
    looking.send("COMMIT;");
    first.end().expect(0);
    for other in others {
        other.end().expect(0);
    }
    assert_eq!(project.ran(), ["0000", "0002"]);
    assert_eq!(project.row_count(), 3);
    project.wait_until("(SELECT indisvalid FROM pg_index WHERE indexrelid = 'ran_tag'::regclass)");
    project.sql(&["verify"]).expect(0);
}
