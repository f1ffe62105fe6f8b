//! `redis acl`: every command is run as exactly the user whose rules are printed, and what is not its work is refused by the server.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;

use binary::{Place, Seen};
use mainstay_testkit::Redis;
use mainstay_testkit::engines::{EngineKind, locate};
use redis::Connection;
use serde_json::Value;

/// The password of every user here, which no output may show.
const CANARY: &str = "canary-4711";

fn connection(server: &Redis) -> Connection {
    redis::Client::open(server.uri()).unwrap().get_connection().unwrap()
}

fn give(connection: &mut Connection, words: &[&str]) -> redis::RedisResult<redis::Value> {
    redis::cmd(words[0]).arg(&words[1..]).query(connection)
}

fn json(seen: &Seen) -> Value {
    serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {}", seen.both()))
}

/// A server with a password, marked, with some keys; and the place that talks to it.
struct Stack {
    server: Redis,
    place: Place,
}

impl Stack {
    fn new() -> Self {
        let server = Redis::options()
            .config_file()
            .password("canary-admin")
            .setting("save", "3600 1")
            .setting("repl-diskless-sync-delay", "0")
            .start()
            .unwrap();
        // A throw-away server is started from there.
        let program = locate(EngineKind::Redis).unwrap().program;
        let place = Place::new()
            .variable("MAINSTAY_REDIS_PASSWORD_FILE", "password")
            .variable("PATH", program.parent().unwrap().to_str().unwrap());
        let stack = Self { server, place };
        stack.place.write("admin", "canary-admin");
        stack.place.write("secret", CANARY);
        stack.acts_as("default", "admin");
        assert_eq!(stack.run(&["environment", "mark", "--store", "redis", "--output", "m.json"]).status, 0);
        assert_eq!(stack.approved("m.json").status, 0);
        let mut connection = connection(&stack.server);
        for index in 0..30 {
            for prefix in ["cache:page", "auth:session"] {
                give(&mut connection, &["SET", &format!("{prefix}:{index}"), "1"]).unwrap();
            }
        }
        stack
    }

    fn acts_as(&self, user: &str, password: &str) {
        let url = format!("redis://{user}@{}/", self.server.address());
        self.place.write(
            "mainstay.toml",
            &format!(
                "[environment]\nname = \"shop\"\nclass = \"development\"\n[redis]\nurl = \"{url}\"\n[redis.policy]\nappendonly = true\n\
                 [repository]\nurl = \"file:./backups\"\n"
            ),
        );
        std::fs::copy(self.place.path(password), self.place.path("password")).unwrap();
    }

    /// Makes the user of a role from what is printed, and acts as it from now on.
    fn becomes(&self, role: &str, more: &[&str]) {
        let printed =
            self.run(&[&["redis", "acl", role, "--password-file", "secret", "--json"], more].concat());
        assert_eq!(printed.status, 0, "{}", printed.both());
        let user = json(&printed)["users"][0].clone();
        let name = user["name"].as_str().unwrap();
        let rules: Vec<&str> =
            user["rules"].as_array().unwrap().iter().map(|rule| rule.as_str().unwrap()).collect();
        give(&mut connection(&self.server), &[&["ACL", "SETUSER", name], &rules[..]].concat()).unwrap();
        self.acts_as(name, "secret");
    }

    fn run(&self, arguments: &[&str]) -> Seen {
        let seen = self.place.run(arguments);
        assert!(!seen.both().contains("canary"), "{}", seen.both());
        seen
    }

    fn approved(&self, plan: &str) -> Seen {
        let shown = json(&self.run(&["plan", "show", plan, "--json"]));
        self.run(&["apply", plan, "--approve", shown["plan_hash"].as_str().unwrap()])
    }

    /// Whether the user of a role may give a command.
    fn may(&self, role: &str, words: &[&str]) -> bool {
        let url = format!("redis://mainstay-{role}:{CANARY}@{}/", self.server.address());
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        match give(&mut connection, words) {
            Ok(_) => true,
            Err(error) if error.code() == Some("NOPERM") => false,
            Err(error) => panic!("{words:?}: {error}"),
        }
    }
}

#[test]
fn who_looks_may_look_at_everything_and_read_nothing() {
    let stack = Stack::new();
    stack.becomes("observe", &[]);
    for (arguments, status) in [
        (&["status"][..], 0),
        (&["environment", "show"], 0),
        (&["redis", "info", "--over", "0s"], 0),
        (&["redis", "memory", "--over", "0s"], 0),
        (&["redis", "slowlog"], 0),
        (&["redis", "keys"], 0),
        (&["redis", "policy", "drift"], 3),
        (&["redis", "policy", "plan"], 0),
        (&["redis", "purge", "cache:*", "--dry-run"], 0),
        (&["redis", "policy", "apply"], 5),
        (&["backup", "create", "--store", "redis"], 5),
    ] {
        let seen = stack.run(arguments);
        assert_eq!(seen.status, status, "{arguments:?}: {}", seen.both());
    }
    let purge = stack.run(&["redis", "purge", "cache:*", "--output", "purge.json"]);
    assert_eq!(purge.status, 0, "{}", purge.both());
    assert_eq!(stack.approved("purge.json").status, 5);
    for words in [
        &["GET", "cache:page:1"][..],
        &["HGETALL", "cache:page:1"],
        &["SET", "a", "1"],
        &["DEL", "cache:page:1"],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["KEYS", "*"],
        &["FLUSHALL"],
        &["ACL", "LIST"],
    ] {
        assert!(!stack.may("observe", words), "{words:?}");
    }
    assert!(stack.may("observe", &["TYPE", "cache:page:1"]));
}

#[test]
fn who_copies_may_copy_and_nothing_else() {
    let stack = Stack::new();
    stack.becomes("backup", &[]);
    let seen = stack.run(&["backup", "create", "--store", "redis"]);
    assert_eq!(seen.status, 0, "{}", seen.both());
    for words in [&["GET", "cache:page:1"][..], &["SCAN", "0"], &["SET", "a", "1"], &["CONFIG", "GET", "*"]] {
        assert!(!stack.may("backup", words), "{words:?}");
    }
}

#[test]
fn who_purges_is_held_to_the_pattern() {
    let stack = Stack::new();
    let refused = stack.run(&["redis", "acl", "purge"]);
    assert!(refused.status == 2 && refused.stderr.contains("--pattern"), "{}", refused.both());
    stack.becomes("purge", &["--pattern", "cache:*"]);
    for (pattern, status) in [("auth:*", 5), ("cache:*", 0)] {
        let file = format!("{status}.json");
        assert_eq!(stack.run(&["redis", "purge", pattern, "--output", &file]).status, 0);
        let seen = stack.approved(&file);
        assert_eq!(seen.status, status, "{}", seen.both());
    }
    for words in
        [&["GET", "auth:session:1"][..], &["UNLINK", "auth:session:1"], &["FLUSHDB"], &["CONFIG", "GET", "*"]]
    {
        assert!(!stack.may("purge", words), "{words:?}");
    }
    let left: u64 = redis::cmd("DBSIZE").query(&mut connection(&stack.server)).unwrap();
    assert_eq!(left, 31);
}

#[test]
fn who_changes_policy_and_who_marks_may_do_that() {
    let stack = Stack::new();
    stack.becomes("policy", &[]);
    let seen = stack.run(&["redis", "policy", "apply"]);
    assert_eq!(seen.status, 0, "{}", seen.both());
    assert!(
        !stack.may("policy", &["GET", "cache:page:1"]) && !stack.may("policy", &["UNLINK", "cache:page:1"])
    );
    stack.becomes("mark", &[]);
    assert_eq!(stack.run(&["environment", "mark", "--store", "redis", "--output", "again.json"]).status, 0);
    let seen = stack.approved("again.json");
    assert_eq!(seen.status, 0, "{}", seen.both());
    assert!(!stack.may("mark", &["SET", "a", "1"]) && !stack.may("mark", &["HSET", "cache:x", "a", "1"]));
}

#[test]
fn who_restores_and_who_undoes_may_do_that() {
    let stack = Stack::new();
    let catch_up = || {
        stack.acts_as("default", "admin");
        let seen = stack.run(&["capture", "redis", "--once"]);
        assert_eq!(seen.status, 0, "{}", seen.both());
    };
    let mut admin = connection(&stack.server);
    let mut left = || -> u64 { redis::cmd("DBSIZE").query(&mut admin).unwrap() };
    let empties = || drop(give(&mut connection(&stack.server), &["FLUSHALL"]).unwrap());
    let done = |plan: &[&str], file: &str| {
        let planned = stack.run(&[plan, &["--output", file]].concat());
        assert_eq!(planned.status, 0, "{}", planned.both());
        let seen = stack.approved(file);
        assert_eq!(seen.status, 0, "{}", seen.both());
    };
    catch_up();
    let before = left();
    empties();
    catch_up();
    stack.becomes("undo", &["--pattern", "auth:*"]);
    done(&["redis", "undo", "--keys", "auth:*"], "sessions.json");
    assert_eq!(left(), 30);
    assert!(
        !stack.may("undo", &["RESTORE", "cache:page:1", "0", "", "REPLACE"]),
        "it is held to the pattern"
    );
    stack.becomes("undo", &[]);
    done(&["redis", "undo"], "all.json");
    assert_eq!(left(), before - 1, "all but the marker of the environment");
    for words in [
        &["GET", "auth:session:1"][..],
        &["UNLINK", "auth:session:1"],
        &["FLUSHALL"],
        &["CONFIG", "GET", "*"],
    ] {
        assert!(!stack.may("undo", words), "{words:?}");
    }

    catch_up();
    let before = left();
    empties();
    stack.becomes("restore", &[]);
    done(&["restore", "plan", "--store", "redis", "--to", "latest"], "restore.json");
    assert_eq!(left(), before);
    for words in [&["GET", "auth:session:1"][..], &["SET", "a", "1"], &["UNLINK", "auth:session:1"]] {
        assert!(!stack.may("restore", words), "{words:?}");
    }
}

#[test]
fn rules_are_printed_for_people_and_for_files() {
    let place = Place::new();
    place.write("secret", CANARY);
    let shown = place.run(&["redis", "acl"]);
    assert_eq!(shown.status, 0, "{}", shown.both());
    assert!(shown.stdout.contains("ACL SETUSER mainstay-observe reset off"), "{}", shown.stdout);
    let file = place.run(&["redis", "acl", "backup", "--password-file", "secret", "--file"]);
    assert!(
        file.stdout.starts_with("user mainstay-backup on #") && !file.stdout.contains("canary"),
        "{}",
        file.stdout
    );
    for bad in
        [&["redis", "acl", "backup", "mark", "--name", "x"][..], &["redis", "acl", "mark", "--name", "a b"]]
    {
        assert_eq!(place.run(bad).status, 2, "{bad:?}");
    }

    // A server that begins with such a file knows the user.
    let folder = place.path("users.acl");
    std::fs::write(&folder, format!("user default on nopass ~* &* +@all\n{}", file.stdout)).unwrap();
    let server = Redis::options().setting("aclfile", folder.to_str().unwrap()).start().unwrap();
    let url = format!("redis://mainstay-backup:{CANARY}@{}/", server.address());
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    give(&mut connection, &["PING"]).unwrap();
    assert!(give(&mut connection, &["GET", "a"]).is_err());
}
