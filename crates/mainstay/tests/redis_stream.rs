//! `capture redis` and restores to a moment, through the binary: killed, cut off, overrun, taken over; by offset, by time, just before.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use binary::{Place, Seen};
use mainstay_testkit::engines::{EngineKind, locate};
use mainstay_testkit::keys::{Client, KeyHistory, KeyMoment};
use mainstay_testkit::{FaultProxy, Redis};
use serde_json::Value;

fn server() -> Redis {
    started(&[])
}

fn started(settings: &[(&str, &str)]) -> Redis {
    let options = Redis::options().setting("repl-diskless-sync-delay", "0");
    settings.iter().fold(options, |options, (name, value)| options.setting(name, value)).start().unwrap()
}

fn client(server: &Redis) -> Client {
    Client::connect(server.address(), None)
}

fn place(server: &Redis) -> Place {
    place_at(&server.uri())
}

fn place_at(uri: &str) -> Place {
    let program = locate(EngineKind::Redis).unwrap().program;
    let place = Place::new().variable("PATH", program.parent().unwrap().to_str().unwrap());
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"shop-dev\"\nclass = \"development\"\n[redis]\nurl = \"{uri}\"\n\
             [repository]\nurl = \"file:./backups\"\nlease_ttl = \"2s\"\n",
        ),
    );
    place
}

fn json(seen: &Seen) -> Value {
    serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {}", seen.both()))
}

/// The events of a capture that catches up, and its result.
fn catch_up(place: &Place, more: &[&str]) -> (Vec<Value>, Value) {
    let arguments = [more, &["capture", "redis", "--once", "--json"]].concat();
    let seen = place.run(&arguments).expect(0);
    let mut lines: Vec<Value> = seen.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ended = lines.pop().unwrap();
    assert_eq!(ended["event"], "ended", "{}", seen.both());
    (lines, ended)
}

fn has(events: &[Value], name: &str) -> bool {
    events.iter().any(|event| event["event"] == name)
}

/// A capture that goes on.
struct Capture {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Capture {
    fn of(place: &Place, age: &str) -> Self {
        let mut command = place.command(&["capture", "redis", "--slice-age", age, "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn until(&mut self, name: &str) -> Value {
        for line in self.lines.by_ref() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if event["event"] == name {
                return event;
            }
        }
        panic!("it ended before {name}");
    }

    /// Until everything up to `offset` is stored.
    fn until_stored(&mut self, offset: u64) {
        while self.until("slice_stored")["through"].as_u64().unwrap() < offset {}
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn stop(mut self) -> Value {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = self.until("ended");
        assert!(self.child.wait().unwrap().success());
        ended
    }
}

fn hash(place: &Place, file: &str) -> String {
    json(&place.run(&["plan", "show", file, "--json"]))["plan_hash"].as_str().unwrap().to_owned()
}

/// Plans a restore into the server behind `uri`, and applies it; gives what that said.
fn restore(place: &Place, uri: &str, arguments: &[&str]) -> Value {
    let file = format!("plan{}.json", fs::read_dir(place.path("")).unwrap().count());
    let plan = [&["--redis-url", uri, "restore", "plan", "--store", "redis", "--output", &file], arguments];
    place.run(&plan.concat()).expect(0);
    let hash = hash(place, &file);
    let applied =
        place.run(&["--redis-url", uri, "restore", "apply", &file, "--approve", &hash, "--json"]).expect(0);
    json(&applied)
}

/// Restores a moment into a server of its own and compares.
fn compare(place: &Place, moment: &KeyMoment, arguments: &[&str]) {
    let into = server();
    let restored = restore(place, &into.uri(), arguments);
    let mut into = client(&into);
    assert_eq!(into.digest(), moment.digest, "{arguments:?} after {}: {restored}", moment.act);
    assert!(restored["offset"].as_u64().unwrap() <= moment.offset + 1_000, "{restored}");
    assert_eq!(into.info("role"), "master");
}

/// When a millisecond has passed since `moment`, nothing that comes later is stamped with it.
fn time(moment: &KeyMoment) -> String {
    let ms = i64::try_from(moment.at_ms).unwrap();
    mainstay_model::Timestamp::from_millisecond(ms).unwrap().to_string()
}

fn wait_for_the_millisecond_after(moment: &KeyMoment) {
    let at_ms = i64::try_from(moment.at_ms).unwrap();
    while mainstay_model::Timestamp::now().as_millisecond() <= at_ms {
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn slices(place: &Place) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![place.path("backups/redis/log")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_str().unwrap().contains(".replication.zst") => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_capture_killed_again_and_again_stores_every_byte_once() {
    let server = server();
    let place = place(&server);
    let (events, _) = catch_up(&place, &[]);
    assert!(has(&events, "base_stored") && has(&events, "chain_begun"), "{events:?}");
    let mut history = KeyHistory::begin(server.address(), 11);
    for round in 0..4_u64 {
        let mut capture = Capture::of(&place, "100ms");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(250 + 60 * round) {
            history.act();
        }
        capture.until("slice_stored");
        capture.kill();
        history.act();
    }
    let last = history.moment("everything".to_owned());
    let (events, ended) = catch_up(&place, &[]);
    assert!(has(&events, "chain_resumed") && !has(&events, "base_stored"), "{events:?}");
    assert!(ended["recovery_point"].as_u64().unwrap() >= last.offset, "{ended}");
    let listed = json(&place.run(&["backup", "list", "--json"]).expect(0));
    let stream = &listed["streams"][0];
    assert_eq!(
        (stream["ranges"].as_array().unwrap().len(), stream["gaps"].as_array().unwrap().len()),
        (1, 0)
    );
    assert!(stream["recovery_point_at"].is_string(), "{stream}");
    place.run(&["backup", "verify", "latest", "--store", "redis", "--log"]).expect(0);
    let status = place.run(&["status"]);
    assert!(status.stdout.contains(&format!("offset {}", ended["recovery_point"])), "{}", status.both());
    compare(&place, &last, &["--to", "latest"]);
}

#[test]
fn any_moment_is_restored_by_offset_and_by_time() {
    let server = server();
    let place = place(&server);
    let mut capture = Capture::of(&place, "200ms");
    capture.until("chain_begun");
    let mut history = KeyHistory::begin(server.address(), 5);
    let mut moments: Vec<KeyMoment> = Vec::new();
    for number in 0..400 {
        moments.push(history.act());
        // What a transaction holds is inside a moment or not.
        if number % 40 == 39 {
            // The capture's clock counts: it has all of it before this moment, and nothing more within its millisecond.
            capture.until_stored(moments.last().unwrap().offset);
            let before = history.moment("before a pause".to_owned());
            wait_for_the_millisecond_after(&before);
            moments.push(before);
        }
    }
    let flushed = history.moment("before the flush".to_owned());
    history.client().must(&["FLUSHALL"]);
    let empty = history.moment("the flush".to_owned());
    history.act();
    capture.stop();
    catch_up(&place, &[]);

    for index in [3, 97, 250, 380] {
        let moment = &moments[index];
        compare(&place, moment, &["--to", &moment.offset.to_string()]);
    }
    for moment in moments.iter().filter(|moment| moment.act == "before a pause").skip(3).step_by(4) {
        compare(&place, moment, &["--to", &time(moment)]);
        compare(
            &place,
            moment,
            &["--before", &time(&KeyMoment { at_ms: moment.at_ms + 1, ..moment.clone() })],
        );
    }
    // Just before the command that emptied everything, and with it.
    compare(&place, &flushed, &["--before", &empty.offset.to_string(), "--ttl", "shift"]);
    compare(&place, &empty, &["--to", &empty.offset.to_string()]);

    // What nothing leads to is told, and changes nothing.
    let into = server_with_a_key();
    let refused = |arguments: &[&str], status: i32| {
        let uri = into.uri();
        let all = [&["--redis-url", &uri, "restore", "plan", "--store", "redis"], arguments].concat();
        place.run(&all).expect(status).both()
    };
    assert!(refused(&["--to", "latest"], 8).contains("holds 1 keys"));
    assert!(refused(&["--to", "99999999", "--drop"], 8).contains("stored up to offset"));
    assert!(refused(&["--to", "2001-01-01T00:00:00Z", "--drop"], 8).contains("no backup set"));
    assert!(refused(&["--to", "2101-01-01T00:00:00Z", "--drop"], 8).contains("stored up to 20"));
    assert!(refused(&["--to", "yesterday", "--drop"], 2).contains("no moment of redis"));
    assert!(refused(&["--to", "latest", "--into", "elsewhere"], 2).contains("no place"));
    assert_eq!(client(&into).must(&["GET", "precious"]).text(), "data");
}

fn server_with_a_key() -> Redis {
    let server = server();
    client(&server).must(&["SET", "precious", "data"]);
    server
}

#[test]
fn what_is_acknowledged_is_stored() {
    let server = server();
    let place = place(&server);
    let mut capture = Capture::of(&place, "500ms");
    capture.until("chain_begun");
    let mut writer = client(&server);
    let stored_before = slices(&place).len();
    writer.must(&["SET", "paid", "yes"]);
    assert_eq!(writer.must(&["WAIT", "1", "10000"]).text(), "1", "the capture acknowledges");
    assert!(slices(&place).len() > stored_before, "not before the slice was written");
    capture.kill();
    let digest = writer.digest();
    let into = self::server();
    restore(&place, &into.uri(), &["--to", "latest"]);
    assert_eq!(client(&into).digest(), digest);
    // A second capture at the same time is turned away, and nothing is lost by a stop.
    let mut capture = Capture::of(&place, "500ms");
    capture.until("chain_resumed");
    assert!(place.run(&["capture", "redis", "--once"]).expect(10).stderr.contains("another capture"));
    writer.must(&["SET", "last", "one"]);
    let offset: u64 = writer.info("master_repl_offset").parse().unwrap();
    let ended = capture.stop();
    assert!(ended["recovery_point"].as_u64().unwrap() >= offset, "{ended}");
    assert!(ended["held_ms_max"].as_u64().unwrap() < 5_000, "{ended}");
}

#[test]
fn a_lost_history_begins_a_new_chain_and_says_so() {
    let server = started(&[("repl-backlog-size", "16384")]);
    let place = place(&server);
    catch_up(&place, &[]);
    let mut writer = client(&server);
    writer.must(&["SET", "first", "1"]);
    let (events, first) = catch_up(&place, &[]);
    assert!(has(&events, "chain_resumed"), "{events:?}");
    let (digest, end) = (writer.digest(), first["recovery_point"].as_u64().unwrap());
    for number in 0..200 {
        writer.must(&["SET", &format!("lost:{number}"), &"x".repeat(1_000)]);
    }
    let (events, ended) = catch_up(&place, &[]);
    let begun = events.iter().find(|event| event["event"] == "chain_begun").unwrap();
    assert_eq!((begun["why"].as_str(), begun["gap_after"].as_u64()), (Some("overrun"), Some(end)), "{begun}");
    assert!(has(&events, "base_stored") && ended["base"].is_string(), "{events:?}");

    let listed = place.run(&["backup", "list"]).expect(0);
    assert!(listed.stdout.contains("overwritten before it was captured"), "{}", listed.both());
    // Moments before and after the gap can be restored, those inside cannot.
    let into = self::server();
    restore(&place, &into.uri(), &["--to", &end.to_string()]);
    assert_eq!(client(&into).digest(), digest);
    let into = self::server();
    restore(&place, &into.uri(), &["--to", "latest"]);
    assert_eq!(client(&into).digest(), writer.digest());
    let inside = (end + 50_000).to_string();
    let into = self::server();
    let uri = into.uri();
    let plan = ["--redis-url", &uri, "restore", "plan", "--store", "redis", "--to", &inside];
    assert!(place.run(&plan).expect(8).stderr.contains("stored up to offset"));

    // The server forgets everything and begins a new history.
    let mut server = server;
    server.kill9();
    server.restart().unwrap();
    let (events, _) = catch_up(&place, &[]);
    assert!(has(&events, "base_stored") && has(&events, "chain_begun"), "{events:?}");

    // What is the latest now holds nothing: that is told, with the set that holds the keys.
    let status = place.run(&["status"]);
    assert!(status.stdout.contains("look again:"), "{}", status.both());
    let told = place.run(&["--redis-url", &uri, "restore", "plan", "--store", "redis"]).expect(0);
    for text in ["look again", "holds no keys", "holds 201"] {
        assert!(told.stdout.contains(text), "{text}: {}", told.both());
    }
}

#[test]
fn a_server_that_takes_over_goes_on_without_a_gap() {
    let primary = server();
    let standby = server();
    let (host, port) = ("127.0.0.1", primary.port().to_string());
    client(&standby).must(&["REPLICAOF", host, &port]);
    let place = place(&primary);
    catch_up(&place, &[]);
    let mut history = KeyHistory::begin(primary.address(), 3);
    (0..60).for_each(|_| drop(history.act()));
    let before = history.moment("before the failover".to_owned());
    catch_up(&place, &[]);
    (0..20).for_each(|_| drop(history.act()));
    let wanted = history.moment("the end".to_owned());
    let mut other = client(&standby);
    let deadline = Instant::now() + Duration::from_secs(20);
    while other.info("slave_repl_offset").parse::<u64>().unwrap() < wanted.offset {
        assert!(Instant::now() < deadline, "the standby does not follow");
    }
    drop(history);
    drop(primary);
    other.must(&["REPLICAOF", "NO", "ONE"]);
    let mut history = KeyHistory::begin(standby.address(), 4);
    (0..40).for_each(|_| drop(history.act()));
    let after = history.moment("after the failover".to_owned());
    let uri = standby.uri();
    let (events, ended) = catch_up(&place, &["--redis-url", &uri]);
    assert!(has(&events, "timeline_ended") && !has(&events, "base_stored"), "{events:?}");
    assert!(ended["recovery_point"].as_u64().unwrap() >= after.offset, "{ended}");
    let (events, _) = catch_up(&place, &["--redis-url", &uri]);
    assert!(has(&events, "chain_resumed"), "{events:?}");
    // One set leads across: to before it and to after it.
    compare(&place, &before, &["--to", &before.offset.to_string()]);
    compare(&place, &after, &["--to", &after.offset.to_string()]);
    let listed = json(&place.run(&["backup", "list", "--json"]).expect(0));
    assert_eq!(listed["streams"][0]["gaps"].as_array().unwrap().len(), 0, "{listed}");
    place.run(&["backup", "verify", "latest", "--store", "redis"]).expect(0);
}

#[test]
fn a_backup_is_gone_on_from_and_a_cut_is_survived() {
    let server = server();
    let proxy = FaultProxy::start(server.address());
    let place = place_at(&server.uri_through(proxy.address()));
    let mut history = KeyHistory::begin(server.address(), 9);
    (0..30).for_each(|_| drop(history.act()));
    place.run(&["backup", "create", "--store", "redis"]).expect(0);
    (0..30).for_each(|_| drop(history.act()));
    let (events, ended) = catch_up(&place, &[]);
    assert!(has(&events, "base_joined") && !has(&events, "base_stored"), "{events:?}");
    assert_eq!(ended["base"], Value::Null);

    let mut capture = Capture::of(&place, "100ms");
    capture.until("chain_resumed");
    history.act();
    capture.until("slice_stored");
    proxy.cut();
    (0..30).for_each(|_| drop(history.act()));
    capture.until("waiting");
    let moment = history.moment("written meanwhile".to_owned());
    proxy.heal();
    capture.until("chain_resumed");
    capture.until("slice_stored");
    capture.stop();
    catch_up(&place, &[]);
    compare(&place, &moment, &["--to", &moment.offset.to_string()]);
}

#[test]
fn damage_is_found_before_the_server_is_touched() {
    let server = server();
    let place = place(&server);
    catch_up(&place, &[]);
    let mut writer = client(&server);
    for number in 0..50 {
        writer.must(&["SET", &format!("key:{number}"), "value"]);
    }
    catch_up(&place, &[]);
    let into = server_with_a_key();
    let uri = into.uri();
    // Nobody has marked it, so it counts as production, where replacing takes a verified backup of what is replaced.
    for arguments in [&["backup", "create", "--store", "redis"], &["backup", "verify", "--store", "redis"]] {
        place.run(&[&["--redis-url", &uri], &arguments[..]].concat()).expect(0);
    }
    let to = ["--redis-url", &uri, "restore", "plan", "--store", "redis", "--to", "latest", "--drop"];
    place.run(&[&to[..], &["--output", "plan.json"]].concat()).expect(0);
    let hash = hash(&place, "plan.json");
    let apply = ["--redis-url", &uri, "restore", "apply", "plan.json", "--approve", &hash];
    let slice = slices(&place).pop().unwrap();
    let sound = fs::read(&slice).unwrap();
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    fs::write(&slice, &damaged).unwrap();
    place.run(&apply).expect(4);
    place.run(&["backup", "verify", "latest", "--store", "redis", "--log"]).expect(4);
    fs::remove_file(&slice).unwrap();
    assert!(place.run(&apply).expect(9).stderr.contains("no longer holds"));
    assert_eq!(client(&into).must(&["GET", "precious"]).text(), "data", "nothing was touched");
    fs::write(&slice, &sound).unwrap();
    place.run(&apply).expect(0);
    assert_eq!(client(&into).digest(), writer.digest());
    assert_eq!(client(&into).must(&["EXISTS", "precious"]).text(), "0", "all keys were replaced");
}

#[test]
fn a_throw_away_server_shows_a_moment_and_expiry_moves_when_asked() {
    let server = server();
    let place = place(&server);
    let mut capture = Capture::of(&place, "100ms");
    capture.until("chain_begun");
    let mut writer = client(&server);
    writer.must(&["SET", "brief", "alive", "PX", "2000"]);
    writer.must(&["HSET", "hash", "field", "alive"]);
    writer.must(&["HPEXPIRE", "hash", "90000000", "FIELDS", "1", "field"]);
    let offset = writer.info("master_repl_offset");
    let deadline = Instant::now() + Duration::from_secs(30);
    while writer.must(&["EXISTS", "brief"]).text() != "0" {
        assert!(Instant::now() < deadline, "it does not expire");
    }
    writer.must(&["SET", "later", "1"]);
    capture.stop();
    assert!(catch_up(&place, &[]).1["recovery_point"].as_u64().unwrap() > offset.parse().unwrap());

    let (kept, shifted) = (self::server(), self::server());
    restore(&place, &kept.uri(), &["--to", &offset]);
    let mut kept = client(&kept);
    assert_eq!(kept.must(&["EXISTS", "brief"]).text(), "0", "its time has passed");
    let told = restore(&place, &shifted.uri(), &["--to", &offset, "--ttl", "shift"]);
    let mut shifted = client(&shifted);
    assert_eq!(shifted.must(&["GET", "brief"]).text(), "alive");
    let by = told["shifted_ms"].as_i64().unwrap();
    let left = |client: &mut Client| match client.must(&["HPEXPIRETIME", "hash", "FIELDS", "1", "field"]) {
        mainstay_testkit::keys::Reply::List(list) => list[0].text().parse::<i64>().unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(left(&mut shifted) - left(&mut kept), by, "fields move as keys do");

    let plan = ["restore", "plan", "--store", "redis", "--to", "latest", "--into", "scratch"];
    place.run(&[&plan[..], &["--output", "scratch.json"]].concat()).expect(0);
    let shown = json(&place.run(&["restore", "apply", "scratch.json", "--json"]).expect(0));
    assert_eq!((&shown["scratch"], &shown["keys"]), (&Value::Bool(true), &Value::from(2)), "{shown}");
    assert_eq!(writer.must(&["DBSIZE"]).text(), "2", "the server itself was left alone");
}

#[test]
fn a_flush_is_undone_in_one_command() {
    let server = server();
    let place = place(&server);
    let mut writer = client(&server);
    for number in 0..300 {
        writer.must(&["SET", &format!("auth:session:{number}"), "token", "EX", "9000"]);
        writer.must(&["HSET", &format!("cart:{number}"), "item", "1"]);
    }
    writer.must(&["SELECT", "2"]);
    writer.must(&["SET", "elsewhere", "1"]);
    catch_up(&place, &[]);
    writer.must(&["RPUSH", "queue", "one", "two"]);
    // More than is carried at once, by bytes: some together, one alone.
    for number in 0..6 {
        writer.must(&["SETRANGE", &format!("large:{number}"), "3000000", "end"]);
    }
    writer.must(&["SETRANGE", "large:whole", "12000000", "end"]);
    writer.must(&["FLUSHALL"]);
    writer.must(&["SELECT", "0"]);
    writer.must(&["SET", "auth:session:7", "newer"]);
    catch_up(&place, &[]);

    let listed = place.run(&["redis", "flushes"]).expect(0);
    assert!(
        listed.stdout.contains("FLUSHALL") && listed.stdout.contains("redis undo --at"),
        "{}",
        listed.both()
    );
    let dry = place.run(&["redis", "undo", "--dry-run"]).expect(0);
    assert!(dry.stdout.contains("throw-away server"), "{}", dry.both());
    assert_eq!(writer.must(&["DBSIZE"]).text(), "1");
    // With its keys the server has lost its marker: it counts as production, so somebody has to agree.
    place.run(&["redis", "undo", "--keys", "auth:session:*"]).expect(7);
    place.run(&["redis", "undo", "--keys", "auth:session:*", "--output", "sessions.json"]).expect(0);
    let agreed = hash(&place, "sessions.json");
    let undone = json(&place.run(&["apply", "sessions.json", "--approve", &agreed, "--json"]).expect(0));
    assert_eq!((&undone["written"], &undone["kept"]), (&Value::from(299), &Value::from(1)), "{undone}");
    assert_eq!(writer.must(&["GET", "auth:session:7"]).text(), "newer", "what was written since stays");
    assert_eq!(writer.must(&["GET", "auth:session:8"]).text(), "token");
    let left: i64 = writer.must(&["TTL", "auth:session:8"]).text().parse().unwrap();
    assert!((8_000..=9_000).contains(&left), "{left}");
    assert_eq!(writer.must(&["EXISTS", "cart:1"]).text(), "0", "it was not asked for");

    // Everything, over what is there: that destroys, and takes a verified backup.
    place.run(&["backup", "create", "--store", "redis"]).expect(0);
    place.run(&["backup", "verify", "latest", "--store", "redis"]).expect(0);
    place.run(&["redis", "undo", "--replace", "--output", "undo.json"]).expect(0);
    let hash = hash(&place, "undo.json");
    place.run(&["apply", "undo.json", "--approve", &hash]).expect(0);
    assert_eq!(writer.must(&["GET", "auth:session:7"]).text(), "token");
    assert_eq!(writer.must(&["DBSIZE"]).text(), "600");
    writer.must(&["SELECT", "2"]);
    assert_eq!(writer.must(&["LLEN", "queue"]).text(), "2", "written a moment before the flush");
    for (key, length) in [("large:0", "3000003"), ("large:5", "3000003"), ("large:whole", "12000003")] {
        assert_eq!(writer.must(&["STRLEN", key]).text(), length, "{key}");
    }
    place.run(&["redis", "undo", "--at", "1"]).expect(8);
}

/// The same command, for which and for whatever it starts no file may become larger than 128 KiB.
#[cfg(unix)]
fn without_room(place: &Place, arguments: &[&str]) -> Seen {
    let bare = place.command(arguments);
    let mut limited = std::process::Command::new("/bin/sh");
    limited.args(["-c", "ulimit -f 256 && exec \"$0\" \"$@\""]).arg(bare.get_program()).args(bare.get_args());
    limited.env_clear().envs(bare.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.current_dir(bare.get_current_dir().unwrap()).output().unwrap().into()
}

#[cfg(unix)]
#[test]
fn a_throw_away_server_takes_no_room_and_says_why_it_does_not_start() {
    use std::os::unix::fs::PermissionsExt as _;

    let server = server();
    let place = place(&server);
    let mut writer = client(&server);
    let mut state = 1_u64;
    for number in 0..40 {
        // Nothing that can be packed.
        let value: String = (0..40_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(b'!' + u8::try_from((state >> 33) % 90).unwrap())
            })
            .collect();
        writer.must(&["SET", &format!("large:{number}"), &value]);
    }
    place.run(&["backup", "create", "--store", "redis"]).expect(0);
    let plan = ["restore", "plan", "--store", "redis", "--into", "scratch", "--output", "scratch.json"];
    place.run(&plan).expect(0);
    let shown = without_room(&place, &["restore", "apply", "scratch.json", "--json"]).expect(0);
    let shown = json(&shown);
    assert!(shown["file_bytes"].as_u64().unwrap() > 1_000_000, "{shown}");
    assert_eq!(shown["keys"], 40, "{shown}");

    let program = place.path("redis-server");
    let says = "#!/bin/sh\nwhile read -r line; do echo \"$line\"; done\necho 'no such library' >&2\nexit 3\n";
    fs::write(&program, says).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let folder = place.path("");
    let mut command = place.command(&["restore", "apply", "scratch.json"]);
    let refused: Seen = command.env("PATH", folder).output().unwrap().into();
    assert_eq!(refused.status, 1, "{}", refused.both());
    for text in ["ended at once", "no such library", "databases 4096"] {
        assert!(refused.stderr.contains(text), "{text}: {}", refused.both());
    }
    assert!(!refused.stderr.contains("requirepass"), "{}", refused.both());
}

#[test]
fn an_undo_reads_the_newest_stream_alone_and_leaves_the_marker_out() {
    let server = server();
    let place = place(&server);
    let approve = |file: &str| {
        let agreed = hash(&place, file);
        place.run(&["apply", file, "--approve", &agreed]).expect(0)
    };
    place.run(&["environment", "mark", "--store", "redis", "--output", "mark.json"]).expect(0);
    approve("mark.json");
    let mut writer = client(&server);
    catch_up(&place, &[]);
    for number in 0..50 {
        writer.must(&["SET", &format!("early:{number}"), "1"]);
    }
    writer.must(&["FLUSHDB"]);
    let early = writer.info("master_repl_offset");
    catch_up(&place, &[]);
    let oldest = slices(&place).remove(0);
    place.run(&["environment", "mark", "--store", "redis", "--output", "again.json"]).expect(0);
    approve("again.json");
    writer.must(&["SET", "cart:1", "book"]);
    catch_up(&place, &[]);
    // From here on it is known where a command begins.
    place.run(&["backup", "create", "--store", "redis"]).expect(0);
    writer.must(&["SET", "cart:2", "lamp"]);
    writer.must(&["SET", "text", "*1\r\n$8\r\nFLUSHALL\r\n"]);
    writer.must(&["FLUSHALL"]);
    catch_up(&place, &[]);
    let sound = fs::read(&oldest).unwrap();
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    fs::write(&oldest, &damaged).unwrap();
    place.run(&["redis", "flushes"]).expect(4);

    let uri = server.uri();
    let named = |arguments: &[&str]| place.run(&[&["--redis-url", &uri], arguments].concat());
    let planned = named(&["redis", "undo", "--output", "undo.json"]).expect(0);
    assert!(planned.stdout.contains("the environment's marker is left out"), "{}", planned.both());
    let agreed = hash(&place, "undo.json");
    let undone = named(&["apply", "undo.json", "--approve", &agreed]).expect(0);
    let next = format!("next: mainstay --redis-url {uri} environment mark --store redis");
    assert!(undone.stdout.contains(&next), "{}", undone.both());
    assert_eq!(writer.must(&["EXISTS", "cart:1", "cart:2", "text"]).text(), "3");
    assert_eq!(writer.must(&["EXISTS", "mainstay:identity:environment"]).text(), "0");

    // The older one lies behind what is damaged; with that mended it is found by its offset.
    let refused = place.run(&["redis", "undo", "--at", &early, "--dry-run"]).expect(8);
    assert!(refused.stderr.contains("cannot be searched to its end"), "{}", refused.both());
    fs::write(&oldest, &sound).unwrap();
    let dry = place.run(&["redis", "undo", "--at", &early, "--dry-run"]).expect(0);
    assert!(dry.stdout.contains("FLUSHDB"), "{}", dry.both());
}

#[test]
fn the_privileges_that_are_documented_are_enough() {
    let (server, into) = (server(), server());
    let marker = "%R~mainstay:identity:environment";
    let user = |server: &Redis, commands: &[&str]| {
        let password = [
            ">canary-keeper",
            "resetkeys",
            marker,
            "+ping",
            "+info",
            "+select",
            "+type",
            "+hget",
            "+hgetall",
        ];
        client(server).must(&[&["ACL", "SETUSER", "keeper", "on"], &password[..], commands].concat());
        server.uri().replace("redis://", "redis://keeper@")
    };
    let uri = user(&server, &["+psync", "+replconf"]);
    let place = place_at(&uri).variable("MAINSTAY_REDIS_PASSWORD", "canary-keeper");
    client(&server).must(&["SET", "key", "value"]);
    catch_up(&place, &[]);
    client(&server).must(&["SET", "other", "value"]);
    catch_up(&place, &[]);
    let filled = user(&into, &["+replicaof", "+flushall", "+config|get"]);
    restore(&place, &filled, &["--to", "latest"]);
    assert_eq!(client(&into).digest(), client(&server).digest());

    client(&server).must(&["ACL", "SETUSER", "keeper", "-psync"]);
    let denied = place.run(&["capture", "redis", "--once"]).expect(5);
    assert!(
        denied.stderr.contains("lacks a permission") && !denied.both().contains("canary"),
        "{}",
        denied.both()
    );
    client(&into).must(&["FLUSHALL"]);
    client(&into).must(&["ACL", "SETUSER", "keeper", "-replicaof"]);
    let plan = ["--redis-url", &filled, "restore", "plan", "--store", "redis", "--output", "denied.json"];
    place.run(&plan).expect(0);
    let hash = hash(&place, "denied.json");
    let apply = ["--redis-url", &filled, "restore", "apply", "denied.json", "--approve", &hash];
    let denied = place.run(&apply).expect(5);
    assert!(!denied.both().contains("canary"), "{}", denied.both());
    assert_eq!(client(&into).info("role"), "master");
}
