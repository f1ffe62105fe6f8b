//! Restored folders proven by a throw-away server: what it reports, what it leaves.

use std::env::join_paths;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use mainstay_testkit::Postgres;
use mainstay_testkit::engines::{EngineKind, locate};
use serde_json::Value;

use crate::stack::{Seen, Stack, wait_for};

/// The restore of the plan called `name`, rehearsed, with the programs of server and client on the PATH and nothing of its own in the way.
pub(crate) fn apply(stack: &Stack, name: &str, more: &[&str]) -> Command {
    let server = locate(EngineKind::Postgres).unwrap().tool("postgres");
    let client = locate(EngineKind::PgClient).unwrap().tool("pg_amcheck");
    let path = [&server, &client].map(|tool| tool.parent().unwrap().to_owned());
    let mut command =
        stack.command(&[&["restore", "apply", &format!("{name}.json"), "--scratch"], more].concat());
    command.env("PATH", join_paths(path).unwrap());
    command
}

fn rehearse(stack: &Stack, name: &str) -> (Seen, Value) {
    let seen = Seen::from(apply(stack, name, &["--json"]).output().unwrap());
    let scratch = seen.json()["scratch"].clone();
    (seen, scratch)
}

/// The processes whose command line names `folder`.
fn processes_of(folder: &Path) -> usize {
    let wanted = folder.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).split('\0').any(|word| word == wanted)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_is_proven_by_a_server_that_is_gone_afterwards() {
    let stack = Stack::start();
    stack.catch_up();
    stack.execute("ALTER SYSTEM SET archive_command = 'touch /tmp/must-not-be'");
    stack.execute("CREATE TABLE m (n int PRIMARY KEY)");
    stack.back_up();
    stack.execute("INSERT INTO m SELECT generate_series(1, 10)");
    stack.execute("CREATE DATABASE other");
    stack.run(&["restore", "point", "create", "ten"]).expect(0);
    stack.execute("INSERT INTO m SELECT generate_series(11, 20)");
    stack.catch_up();

    stack.plan("named", &["--to", "ten", "--then", "pause"]).expect(0);
    let (seen, scratch) = rehearse(&stack, "named");
    seen.expect(0);
    assert_eq!((&scratch["timeline"], &scratch["relations_checked"]), (&2.into(), &true.into()), "{scratch}");
    let rows = serde_json::json!([{"database": "postgres", "schema": "public", "table": "m", "rows": 10}]);
    assert_eq!(scratch["tables"], rows, "{scratch}");
    assert_eq!(scratch["findings"], serde_json::json!([]));
    let into = stack.path("named").join("data");
    assert_eq!(processes_of(&into), 0);
    assert!(!into.join("postmaster.pid").exists());
    let settings = fs::read_to_string(into.join("postgresql.auto.conf")).unwrap();
    assert!(settings.contains("recovery_target_action = 'pause'"), "{settings}");

    // A set as it is; and a program that is not there stops it before the first write.
    stack.plan("bare", &[]).expect(0);
    let seen = Seen::from(apply(&stack, "bare", &[]).env("PATH", "/nowhere").output().unwrap());
    seen.expect(8).says("postgres of PostgreSQL 18 is not on this machine");
    assert!(!stack.path("bare").join("data").exists());
    let seen = Seen::from(apply(&stack, "bare", &[]).output().unwrap());
    seen.expect(0)
        .says("took writes on timeline 1")
        .says("restore anew for a server to keep")
        .says("no findings");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_a_finding() {
    let mut server = Postgres::start().unwrap();
    server.execute("postgres", "CREATE TABLE t AS SELECT generate_series(1, 5000) AS i").unwrap();
    server.execute("postgres", "CHECKPOINT").unwrap();
    let path = server.texts("postgres", "SELECT pg_relation_filepath('t')").remove(0);
    server.stop();
    let file = server.dir().join("data").join(path);
    let mut bytes = fs::read(&file).unwrap();
    bytes[8192 + 5_000] ^= 1;
    fs::write(&file, bytes).unwrap();
    server.restart().unwrap();
    let stack = Stack::of(server);
    stack.run(&["backup", "create", "--store", "postgres", "--allow-damaged-pages"]).expect(0);
    stack.plan("damaged", &[]).expect(0);
    let (seen, scratch) = rehearse(&stack, "damaged");
    let seen = seen.expect(4);
    let ids: Vec<&str> =
        scratch["findings"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["postgres.scratch_table", "postgres.scratch_damage"], "{}", seen.both());
    assert!(
        scratch["findings"][0]["message"].as_str().unwrap().contains("invalid page in block 1"),
        "{scratch}"
    );
    assert_eq!(processes_of(&stack.path("damaged").join("data")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_no_server() {
    let stack = Stack::start();
    // Enough to look at for being stopped in the middle.
    stack.execute("CREATE TABLE slow (i int); INSERT INTO slow SELECT generate_series(1, 1000000)");
    stack.back_up();
    stack.plan("stopped", &[]).expect(0);
    let into = stack.path("stopped").join("data");
    let mut command = apply(&stack, "stopped", &[]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the scratch server runs", || into.join("postmaster.pid").exists());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let seen = Seen::from(child.wait_with_output().unwrap());
    seen.expect(75).says("the rehearsal was stopped on request");
    assert_eq!(processes_of(&into), 0);
    assert!(!into.join("postmaster.pid").exists());
}
