//! Restores of Redis that are killed, stopped or refused on the way, undoing, and several servers in one repository: nothing is lost that was there,
//! nothing comes from another server, and the same plan begins anew.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use binary::{Place, Seen};
use mainstay_testkit::Redis;
use mainstay_testkit::engines::{EngineKind, locate};
use mainstay_testkit::keys::{Client, Reply};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const MARKER: &str = "mainstay:identity:environment";
/// How long something may take that happens at once on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(60);

fn server(settings: &[(&str, &str)]) -> Redis {
    let options = Redis::options().setting("repl-diskless-sync-delay", "0");
    settings.iter().fold(options, |options, (name, value)| options.setting(name, value)).start().unwrap()
}

fn client(server: &Redis) -> Client {
    Client::connect(server.address(), None)
}

fn place(server: &Redis) -> Place {
    let program = locate(EngineKind::Redis).unwrap().program;
    let place = Place::new().variable("PATH", program.parent().unwrap().to_str().unwrap());
    fs::create_dir(place.path("tmp")).unwrap();
    let temporary = place.path("tmp").to_str().unwrap().to_owned();
    let place = place.variable("TMPDIR", &temporary);
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"shop-dev\"\nclass = \"development\"\n[redis]\nurl = \"{}\"\n\
             [repository]\nurl = \"file:./backups\"\nlease_ttl = \"2s\"\n",
            server.uri()
        ),
    );
    place
}

fn expect(seen: Seen, status: i32) -> Seen {
    assert_eq!(seen.status, status, "{}", seen.both());
    seen
}

fn json(seen: &Seen) -> Value {
    serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {}", seen.both()))
}

/// Captures what there is, and gives the set that was made for it.
fn capture(place: &Place, uri: &str) -> Option<String> {
    let seen = expect(place.run(&["--redis-url", uri, "capture", "redis", "--once", "--json"]), 0);
    let ended: Value = serde_json::from_str(seen.stdout.lines().last().unwrap()).unwrap();
    ended["base"].as_str().map(str::to_owned)
}

fn hash(place: &Place, file: &str) -> String {
    json(&place.run(&["plan", "show", file, "--json"]))["plan_hash"].as_str().unwrap().to_owned()
}

/// Marks a server as one of shop-dev; gives what it keeps of that, its fingerprint among it.
fn mark(place: &Place, server: &Redis) -> BTreeMap<String, String> {
    let (uri, file) = (server.uri(), format!("mark-{}.json", server.port()));
    let mark = ["--redis-url", &uri, "environment", "mark", "--store", "redis", "--output", &file];
    expect(place.run(&mark), 0);
    let hash = hash(place, &file);
    expect(place.run(&["--redis-url", &uri, "apply", &file, "--approve", &hash]), 0);
    let kept = marker(&mut client(server));
    assert_eq!(kept["environment"], "shop-dev");
    kept
}

fn marker(client: &mut Client) -> BTreeMap<String, String> {
    let Reply::List(fields) = client.must(&["HGETALL", MARKER]) else { return BTreeMap::new() };
    fields.chunks_exact(2).map(|pair| (pair[0].text(), pair[1].text())).collect()
}

/// A plan of a restore into a server, and how it is applied.
struct Planned {
    uri: String,
    file: String,
    hash: String,
}

impl Planned {
    fn new(place: &Place, into: &Redis, arguments: &[&str]) -> Self {
        let (uri, file) = (into.uri(), format!("plan-{}.json", into.port()));
        let _ = fs::remove_file(place.path(&file));
        let plan = ["--redis-url", &uri, "restore", "plan", "--store", "redis", "--output", &file];
        expect(place.run(&[&plan[..], arguments].concat()), 0);
        let hash = hash(place, &file);
        Self { uri, file, hash }
    }

    fn words(&self) -> [&str; 8] {
        ["--redis-url", &self.uri, "restore", "apply", &self.file, "--approve", &self.hash, "--json"]
    }

    fn apply(&self, place: &Place) -> Seen {
        place.run(&self.words())
    }

    fn begin(&self, place: &Place) -> Child {
        let mut command = place.command(&self.words());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// Waits until the server says so.
fn until(what: &str, client: &mut Client, mut holds: impl FnMut(&mut Client) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds(client) {
        assert!(Instant::now() < deadline, "not seen: {what}");
    }
}

fn number(client: &mut Client, field: &str) -> u64 {
    client.info(field).parse().unwrap_or(0)
}

fn is_replica(client: &mut Client) -> bool {
    client.info("role") == "slave"
}

/// A server with keys that take a while to load, and a stream behind them that takes a while to come; captured.
fn source() -> (Redis, Place, u64) {
    let source = server(&[("rdbcompression", "no"), ("repl-backlog-size", "64mb")]);
    let place = place(&source);
    client(&source).must(&["DEBUG", "POPULATE", "3000", "key", "4000"]);
    capture(&place, &source.uri());
    let base = number(&mut client(&source), "master_repl_offset");
    let write = "for i = 1, 100 do redis.call('SET', 'later:' .. i, string.rep('x', 1000)) end";
    let mut writer = client(&source);
    (0..300).for_each(|_| drop(writer.must(&["EVAL", write, "0"])));
    capture(&place, &source.uri());
    (source, place, base)
}

/// A server that loads slowly, and answers meanwhile.
fn slow() -> Redis {
    server(&[("key-load-delay", "500"), ("loading-process-events-interval-bytes", "4096")])
}

#[test]
fn a_restore_killed_anywhere_begins_anew_with_the_same_plan() {
    type Seen = fn(&mut Client, u64) -> bool;
    let (source, place, base) = source();
    let digest = client(&source).digest();
    let points: [(&str, bool, Seen); 4] = [
        ("told", false, |client, _| is_replica(client)),
        ("loading", true, |client, _| client.info("loading") == "1"),
        ("loaded", true, |client, base| {
            client.info("loading") == "0" && is_replica(client) && number(client, "slave_repl_offset") >= base
        }),
        ("in the stream", false, |client, base| {
            client.info("loading") == "0"
                && is_replica(client)
                && number(client, "slave_repl_offset") > base + 1_000_000
        }),
    ];
    for (point, is_marked, is_there) in points {
        let into = slow();
        // Its marker goes with its keys, and with it the name by which the plan knows it.
        let own = if is_marked { mark(&place, &into) } else { BTreeMap::new() };
        let planned = Planned::new(&place, &into, &["--to", "latest"]);
        let mut client = client(&into);
        let mut running = planned.begin(&place);
        until(point, &mut client, |client| is_there(client, base));
        running.kill().unwrap();
        running.wait().unwrap();
        until("loaded", &mut client, |client| client.info("loading") == "0");
        assert!(is_replica(&mut client), "{point}: killed too late");
        // Another plan is refused, and says what to do.
        let uri = into.uri();
        let other = place.run(&["--redis-url", &uri, "restore", "plan", "--store", "redis"]);
        let refused = expect(other, 8);
        assert!(refused.stderr.contains("apply its plan again"), "{point}: {}", refused.both());
        client.must(&["CONFIG", "SET", "key-load-delay", "0"]);
        expect(planned.apply(&place), 0);
        assert_eq!(marker(&mut client), own, "{point}: it is who it was");
        client.must(&["DEL", MARKER]);
        assert_eq!(client.digest(), digest, "{point}");
        assert!(!is_replica(&mut client), "{point}");
    }
}

#[test]
fn a_restore_that_is_stopped_while_the_server_loads_leaves_it_empty_and_its_own() {
    let (source, place, _) = source();
    let into = slow();
    let own = mark(&place, &into);
    let planned = Planned::new(&place, &into, &["--to", "latest"]);
    let mut running_client = client(&into);
    let running = planned.begin(&place);
    until("loading", &mut running_client, |client| client.info("loading") == "1");
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    let seen: Seen = running.wait_with_output().unwrap().into();
    let seen = expect(seen, 75);
    assert!(seen.both().contains("one of its own again and is empty"), "{}", seen.both());
    let mut client = client(&into);
    assert_eq!((client.info("role").as_str(), client.must(&["DBSIZE"]).text().as_str()), ("master", "1"));
    assert_eq!(marker(&mut client), own, "nothing but who it is");
    expect(planned.apply(&place), 0);
    assert_eq!(marker(&mut client), own);
    client.must(&["DEL", MARKER]);
    assert_eq!(client.digest(), self::client(&source).digest());
}

#[test]
fn a_server_without_room_is_refused_before_anything_reaches_it() {
    let (source, place, _) = source();
    client(&source).must(&["SELECT", "0"]);
    let mut ninth = client(&source);
    ninth.must(&["SELECT", "9"]);
    ninth.must(&["SET", "queue:mail:1", "x"]);
    expect(place.run(&["backup", "create", "--store", "redis"]), 0);
    for (setting, value, told, way_out) in [
        ("databases", "2", "keys in database 9", "`databases`"),
        ("maxmemory", "10kb", "may use", "`maxmemory`"),
    ] {
        let target = server(&[(setting, value)]);
        let plan =
            ["--redis-url", &target.uri(), "restore", "plan", "--store", "redis", "--output", "no.json"];
        let refused = expect(place.run(&plan), 8);
        assert!(refused.stderr.contains(told) && refused.stderr.contains(way_out), "{}", refused.both());
    }
}

#[test]
fn a_plan_that_does_more_than_it_is_called_is_refused() {
    let source = server(&[]);
    let place = place(&source);
    client(&source).must(&["SET", "catalog:item:1", "x"]);
    capture(&place, &source.uri());
    let target = server(&[]);
    let planned = Planned::new(&place, &target, &[]);
    client(&target).must(&["SET", "orders:new:1", "x"]);
    let mut plan: Value =
        serde_json::from_str(&fs::read_to_string(place.path(&planned.file)).unwrap()).unwrap();
    plan["parameters"]["drop"] = Value::from(true);
    place.write(&planned.file, &plan.to_string());
    let hash = hash(&place, &planned.file);
    let refused = expect(Planned { hash, ..planned }.apply(&place), 2);
    assert!(refused.both().contains("contradicts itself"), "{}", refused.both());
    assert_eq!(client(&target).must(&["GET", "orders:new:1"]).text(), "x");
}

#[test]
fn keys_that_appear_while_the_set_is_read_back_stay() {
    let (_source, place, _) = source();
    let into = server(&[]);
    let planned = Planned::new(&place, &into, &["--to", "latest"]);
    let mut client = client(&into);
    let asked = |client: &mut Client| {
        let all = client.must(&["INFO", "commandstats"]).text();
        let calls = all
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_type:calls=")?.split(',').next()?.parse().ok());
        calls.unwrap_or(0_u64)
    };
    // A run that ends at damage shows how often the server is asked before anything is read back.
    let mut slices: Vec<PathBuf> = Vec::new();
    let mut folders = vec![place.path("backups/redis/log")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_str().unwrap().contains(".replication.zst") => slices.push(path),
                false => {}
            }
        }
    }
    slices.sort();
    let (last, before) = (slices.pop().unwrap(), asked(&mut client));
    let sound = fs::read(&last).unwrap();
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    fs::write(&last, &damaged).unwrap();
    expect(planned.apply(&place), 4);
    fs::write(&last, &sound).unwrap();
    let first = asked(&mut client);
    let enough = first + (first - before);
    let running = planned.begin(&place);
    until("the first check", &mut client, |client| asked(client) >= enough);
    client.must(&["SET", "precious", "data"]);
    let seen: Seen = running.wait_with_output().unwrap().into();
    let seen = expect(seen, 8);
    assert!(seen.both().contains("holds 1 keys"), "{}", seen.both());
    assert_eq!(client.must(&["GET", "precious"]).text(), "data");
    assert_eq!(client.info("role"), "master");
}

#[test]
fn a_server_that_refuses_commands_of_the_stream_is_not_promoted() {
    let source = server(&[]);
    let place = place(&source);
    capture(&place, &source.uri());
    let mut writer = client(&source);
    writer.must(&["SET", "a", "1"]);
    writer.must(&["SELECT", "9"]);
    writer.must(&["SET", "b", "1"]);
    capture(&place, &source.uri());
    let into = server(&[("databases", "4")]);
    let planned = Planned::new(&place, &into, &["--to", "latest"]);
    let seen = expect(planned.apply(&place), 1);
    assert!(seen.both().contains("refused 1 commands of the stream"), "{}", seen.both());
    assert!(seen.both().contains("is empty"), "{}", seen.both());
    let mut client = client(&into);
    assert_eq!((client.info("role").as_str(), client.must(&["DBSIZE"]).text().as_str()), ("master", "0"));
}

#[test]
fn every_moment_of_expiry_moves_once() {
    let source = server(&[]);
    let place = place(&source);
    let fill = "for i = 1, 6000 do redis.call('SET', 'key:' .. i, i, 'PX', 90000000 + i) end";
    let mut writer = client(&source);
    writer.must(&["SELECT", "3"]);
    writer.must(&["EVAL", fill, "0"]);
    writer.must(&["SET", "for ever", "1"]);
    capture(&place, &source.uri());
    let sum = "local sum = 0 for _, key in ipairs(redis.call('KEYS', 'key:*')) do \
               sum = sum + redis.call('PEXPIRETIME', key) - 1760000000000 end return string.format('%.0f', sum)";
    let total = |into: &Redis| {
        let mut client = client(into);
        client.must(&["SELECT", "3"]);
        assert_eq!(client.must(&["DBSIZE"]).text(), "6001", "nothing of the work is left");
        client.must(&["EVAL", sum, "0"]).text().parse::<i64>().unwrap()
    };
    let (kept, shifted) = (server(&[]), server(&[]));
    expect(Planned::new(&place, &kept, &[]).apply(&place), 0);
    let told = json(&expect(Planned::new(&place, &shifted, &["--ttl", "shift"]).apply(&place), 0));
    let by = told["shifted_ms"].as_i64().unwrap();
    assert_eq!(total(&shifted) - total(&kept), 6_000 * by);
}

#[test]
fn one_server_is_never_taken_for_another() {
    let (one, other) = (server(&[]), server(&[("repl-backlog-size", "16mb")]));
    let place = place(&one);
    let (mut of_one, mut of_other) = (client(&one), client(&other));
    of_one.must(&["SET", "whose", "one"]);
    of_other.must(&["SET", "whose", "other"]);
    let set_of_one = capture(&place, &one.uri()).unwrap();
    capture(&place, &other.uri()).unwrap();
    of_other.must(&["SET", "last", "1"]);
    of_other.must(&["FLUSHALL"]);
    // A purge afterwards hides nothing.
    let purge = "for i = 1, 2100 do redis.call('SET', 'k', 1) local names = {'k'} \
                 for j = 1, 120 do names[#names + 1] = 'none:' .. j end redis.call('DEL', unpack(names)) end";
    of_other.must(&["EVAL", purge, "0"]);
    of_other.must(&["SWAPDB", "0", "2"]);
    capture(&place, &other.uri());
    of_one.must(&["SET", "more", "1"]);
    capture(&place, &one.uri());

    // An empty server is nobody's: which one is meant has to be said.
    let into = server(&[]);
    let uri = into.uri();
    let plan = ["--redis-url", &uri, "restore", "plan", "--store", "redis"];
    let moments: [&[&str]; 4] = [&[], &["--to", "latest"], &["--to", "400"], &["--into", "scratch"]];
    for moment in moments {
        let refused = expect(place.run(&[&plan[..], moment].concat()), 2);
        for server in [&one, &other] {
            assert!(refused.stderr.contains(&server.address().to_string()), "{moment:?}: {}", refused.both());
        }
        assert!(refused.stderr.contains("name a set"), "{}", refused.both());
    }
    let planned = Planned::new(&place, &into, &[&set_of_one, "--to", "latest"]);
    let shown = place.run(&["plan", "show", &planned.file]);
    assert!(shown.stdout.contains(&format!("of shop-dev at {}", one.address())), "{}", shown.both());
    expect(planned.apply(&place), 0);
    assert_eq!(client(&into).must(&["GET", "whose"]).text(), "one");

    // What emptied the one is not undone in the other.
    let flushes = json(&expect(place.run(&["redis", "flushes", "--json"]), 0));
    let found = flushes["found"].as_array().unwrap();
    assert!(flushes["left_out"].as_u64().unwrap() >= 1_000, "{}", flushes["left_out"]);
    let of = |command: &str| found.iter().find(|found| found["command"] == command).unwrap();
    let at = of("FLUSHALL")["at"].to_string();
    assert_eq!(of("FLUSHALL")["emptied"], "all");
    assert_eq!(of("SWAPDB")["databases"], serde_json::json!([0, 2]));
    for arguments in [&["redis", "undo", "--dry-run"][..], &["redis", "undo", "--dry-run", "--at", &at]] {
        let refused = expect(place.run(arguments), 8);
        assert!(refused.stderr.contains("of this server"), "{}", refused.both());
    }
    let uri = into.uri();
    let refused = expect(place.run(&["--redis-url", &uri, "redis", "undo", "--dry-run"]), 8);
    assert!(refused.stderr.contains("no captured stream leads to"), "{}", refused.both());
    let uri = other.uri();
    let planned = expect(place.run(&["--redis-url", &uri, "redis", "undo", "--dry-run"]), 0);
    let whose = format!("of server {} in shop-dev", of_other.info("run_id"));
    assert!(planned.stdout.contains(&whose) && planned.stdout.contains(&at), "{}", planned.both());
    let swapped = of("SWAPDB")["at"].to_string();
    let refused = expect(place.run(&["--redis-url", &uri, "redis", "undo", "--at", &swapped]), 8);
    assert!(refused.stderr.contains("SWAPDB 0 2"), "{}", refused.both());
}

#[test]
fn the_database_that_was_flushed_is_known_without_a_select() {
    let (primary, replica) = (server(&[]), server(&[]));
    let mut follower = client(&replica);
    follower.must(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    until("in sync", &mut follower, |client| client.info("master_link_status") == "up");
    let place = place(&replica);
    let mut writer = client(&primary);
    writer.must(&["SET", "zero", "1"]);
    writer.must(&["SELECT", "3"]);
    writer.must(&["SET", "three", "1"]);
    let arrived = |writer: &mut Client, follower: &mut Client| {
        let wanted = number(writer, "master_repl_offset");
        until("arrived", follower, |client| number(client, "slave_repl_offset") >= wanted);
    };
    arrived(&mut writer, &mut follower);
    capture(&place, &replica.uri());
    // The primary has selected it already, and says so to nobody again.
    writer.must(&["FLUSHDB"]);
    arrived(&mut writer, &mut follower);
    capture(&place, &replica.uri());
    let flushes = json(&expect(place.run(&["redis", "flushes", "--json"]), 0));
    let found = &flushes["found"][0];
    assert_eq!((&found["emptied"], &found["database"]), (&"database".into(), &3.into()), "{flushes}");
    let planned = expect(place.run(&["--redis-url", &primary.uri(), "redis", "undo", "--dry-run"]), 0);
    assert!(planned.stdout.contains("all keys of database 3"), "{}", planned.both());
    // Nothing is searched that lies before.
    let late =
        json(&expect(place.run(&["redis", "flushes", "--json", "--since", "2100-01-01T00:00:00Z"]), 0));
    assert_eq!((&late["found"], &late["bytes"]), (&serde_json::json!([]), &0.into()), "{late}");
}

#[test]
fn an_undo_says_what_the_server_refuses_and_leaves_nothing_behind() {
    let server = server(&[]);
    let place = place(&server);
    let mut writer = client(&server);
    (0..200).for_each(|number| drop(writer.must(&["SET", &format!("key:{number}"), "value"])));
    capture(&place, &server.uri());
    writer.must(&["FLUSHALL"]);
    capture(&place, &server.uri());
    expect(place.run(&["redis", "undo", "--output", "undo.json"]), 0);
    let hash = hash(&place, "undo.json");
    let apply = ["apply", "undo.json", "--approve", &hash, "--json"];
    writer.must(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = expect(place.run(&apply), 8);
    assert!(
        full.both().contains("memory limit") && full.both().contains("at least 0 keys"),
        "{}",
        full.both()
    );
    writer.must(&["CONFIG", "SET", "maxmemory", "0"]);
    writer.must(&["ACL", "SETUSER", "default", "-restore"]);
    let denied = expect(place.run(&apply), 5);
    assert!(denied.both().contains("lacks a permission"), "{}", denied.both());

    writer.must(&["ACL", "SETUSER", "default", "+restore"]);

    // Killed, it leaves a server full of somebody's data, which the next one ends.
    let mut running = place.command(&apply).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let temporary = place.path("tmp");
    let folders =
        || -> Vec<PathBuf> { fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().path()).collect() };
    let port = |folder: &PathBuf| -> Option<u16> {
        fs::read_to_string(folder.join("server")).ok()?.lines().next()?.parse().ok()
    };
    let listens = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
    let deadline = Instant::now() + PATIENCE;
    let left = loop {
        assert!(Instant::now() < deadline, "no throw-away server is started");
        if let Some(port) = folders().first().and_then(port).filter(|port| listens(*port)) {
            break port;
        }
    };
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(listens(left), "it outlives its process");
    let undone = json(&expect(place.run(&apply), 0));
    assert_eq!(writer.must(&["DBSIZE"]).text(), "200", "{undone}");
    assert!(!listens(left), "it was ended");
    assert_eq!(folders(), Vec::<PathBuf>::new());
}
