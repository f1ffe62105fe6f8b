//! Redis: users of every kind, kept in a file of users or in the configuration file, killed at every step; what it does not keep is told.

use std::fs;

use mainstay_testkit::Redis;
use redis::Connection;

use crate::binary::Place;
use crate::support::{
    CANARY, apply, apply_killed_at, apply_when_free, done, holds_no_password, marked, plan, project, summary,
    wait_for_lease,
};

const DECLARATION: &str = r#"
[init]
mark = true

[init.redis.users.app]
password_variable = "APP_PWD"
rules = ["~app:*", "&events:*", "+@read", "+@write", "-@dangerous"]

[init.redis.users.mainstay-observe]
password_variable = "OBSERVE_PWD"
role = "observe"

[init.redis.users.mainstay-purge]
role = "purge"
patterns = ["cache:*"]
"#;

fn place() -> Place {
    Place::new()
        .variable("APP_PWD", &format!("{CANARY}-app"))
        .variable("OBSERVE_PWD", &format!("{CANARY}-observe"))
}

fn configured(place: &Place, server: &Redis) {
    project(place, &format!("[redis]\nurl = \"{}\"\n{DECLARATION}", server.uri()));
}

fn connection(server: &Redis) -> Connection {
    redis::Client::open(server.uri()).unwrap().get_connection().unwrap()
}

fn lines(server: &Redis) -> Vec<String> {
    redis::cmd("ACL").arg("LIST").query(&mut connection(server)).unwrap()
}

/// Whether the server lets the user in with its declared password.
fn lets_in(server: &Redis, user: &str, password: &str) -> bool {
    redis::cmd("AUTH").arg(user).arg(password).query::<()>(&mut connection(server)).is_ok()
}

fn becomes_what_is_declared(mut server: Redis) {
    let place = place();
    configured(&place, &server);
    let planned = plan(&place, "redis", &[], 0);
    assert_eq!(
        marked(&planned, "+"),
        ["user app", "user mainstay-observe", "user mainstay-purge", "environment marker"]
    );
    let mut kills = 0;
    for record in 1..=8 {
        if apply_killed_at(&place, "redis", record) {
            kills += 1;
            wait_for_lease();
        }
    }
    assert!(kills >= 3, "{kills}");
    apply_when_free(&place).expect(0);
    let made = lines(&server);
    assert!(made.iter().any(|line| line.starts_with("user mainstay-purge off ")), "{made:?}");
    assert!(lets_in(&server, "app", &format!("{CANARY}-app")));

    let again = plan(&place, "redis", &[], 0);
    assert!(marked(&again, "+").is_empty() && marked(&again, "~").is_empty(), "{again}");
    assert!(done(&apply(&place).expect(0).json()).is_empty());
    assert_eq!(lines(&server), made);

    // It is kept: the server was killed, and has its users again.
    redis::cmd("SAVE").query::<()>(&mut connection(&server)).unwrap();
    server.kill9();
    server.restart().unwrap();
    assert_eq!(lines(&server), made);
    assert!(!fs::read_to_string(server.log()).unwrap().contains(CANARY));
    holds_no_password(server.dir());
    holds_no_password(&place.path("repository"));
}

#[test]
fn users_are_kept_in_the_configuration_file() {
    becomes_what_is_declared(Redis::options().config_file().start().unwrap());
}

#[test]
fn users_are_kept_in_the_file_of_users() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users.acl");
    fs::write(&users, "").unwrap();
    becomes_what_is_declared(Redis::options().setting("aclfile", users.to_str().unwrap()).start().unwrap());
}

#[test]
fn rules_that_the_server_keeps_otherwise_are_there_once_they_are_given() {
    let server = Redis::options().config_file().start().unwrap();
    let place = Place::new();
    let users: String = [
        r#""~app:*", "%R~app:*", "%R~log", "%W~log", "%rw~all", "%r~some""#,
        r#""~app:*", "~*", "&a", "allchannels", "+get", "-get", "+set""#,
        r#""+config|get", "+config|set", "+config|get", "+xinfo|stream", "+xinfo""#,
        r#""+@all", "-@admin", "+@admin", "-config|set", "(%R~m %W~m +get)", "(~b +set)""#,
    ]
    .iter()
    .enumerate()
    .map(|(number, rules)| format!("[init.redis.users.u{number}]\nrules = [{rules}]\n"))
    .collect();
    project(&place, &format!("[redis]\nurl = \"{}\"\n{users}", server.uri()));
    assert_eq!(marked(&plan(&place, "redis", &[], 0), "+").len(), 4);
    apply(&place).expect(0);
    let again = plan(&place, "redis", &[], 0);
    assert!(marked(&again, "+").is_empty() && marked(&again, "~").is_empty(), "{again}");
}

#[test]
fn what_is_there_otherwise_is_told_and_changed_but_for_its_password() {
    let server = Redis::start().unwrap();
    let place = place();
    configured(&place, &server);
    let words = ["app", "on", ">another one", "~*", "+@all"];
    redis::cmd("ACL").arg("SETUSER").arg(&words).query::<()>(&mut connection(&server)).unwrap();
    let planned = plan(&place, "redis", &[], 3);
    assert_eq!(marked(&planned, "~"), ["user app"]);
    assert!(summary(&planned, "user app").contains("its rules are ~* +@all"), "{planned}");
    assert!(summary(&planned, "password of user app").contains("--rotate app"), "{planned}");
    let applied = apply(&place).expect(3).json();
    // It was started with neither file: that is said.
    assert!(applied["applied"][0]["advice"][0].as_str().unwrap().contains("--aclfile"), "{applied}");
    assert!(lets_in(&server, "app", "another one") && !lets_in(&server, "app", &format!("{CANARY}-app")));

    let planned = plan(&place, "redis", &["--rotate", "app"], 0);
    assert_eq!(marked(&planned, "~"), ["password of user app"]);
    apply(&place).expect(0);
    assert!(lets_in(&server, "app", &format!("{CANARY}-app")) && !lets_in(&server, "app", "another one"));
}

#[test]
fn a_wrong_password_a_missing_right_and_a_rule_that_is_none_are_told() {
    let server = Redis::options().password("right").start().unwrap();
    let with = |user: &str, password: &str, declaration: &str| {
        let place = place().variable("REDIS_PASSWORD", password);
        let url = format!("redis://127.0.0.1:{}", server.port());
        let user = if user.is_empty() { String::new() } else { format!("username = \"{user}\"\n") };
        project(&place, &format!("[redis]\nurl = \"{url}\"\n{user}{declaration}"));
        place
    };
    with("", "wrong", DECLARATION).run(&["init", "plan"]).expect(5).says("refused the password");
    let mut own = redis::Client::open(server.uri()).unwrap().get_connection().unwrap();
    let weak = ["weak", "on", ">right", "~*", "+@read", "+info", "+select", "+acl|getuser"];
    redis::cmd("ACL").arg("SETUSER").arg(&weak).query::<()>(&mut own).unwrap();
    let place = with("weak", "right", &DECLARATION.replace("[init]\nmark = true\n", ""));
    plan(&place, "redis", &[], 0);
    apply(&place).expect(5).says("lacks a permission");
    let bad = "[init.redis.users.app]\npassword_variable = \"APP_PWD\"\nrules = [\">canary-Pa55\"]\n";
    with("", "right", bad).run(&["init", "plan"]).expect(2).says("a rule that sets a password");
}
