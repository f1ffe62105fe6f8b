//! `redis policy` through the binary: declared, compared, changed on servers at work, killed at every step; what it refuses.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use binary::{Place, Seen};
use mainstay_testkit::Redis;
use redis::{Connection, Value as Answer};
use serde_json::Value;

/// Keys before anything is changed.
const KEYS: u64 = 300;

fn place(server: &Redis, class: &str, policy: &str) -> Place {
    let place = Place::new();
    configure(&place, server, class, policy);
    if class == "development" {
        mark(&place);
        let _: Answer = give(&mut connection(server), "SAVE");
    }
    place
}

fn configure(place: &Place, server: &Redis, class: &str, policy: &str) {
    place.write(
        "mainstay.toml",
        &format!(
            "[environment]\nname = \"shop\"\nclass = \"{class}\"\n[redis]\nurl = \"{}\"\n{policy}\n[repository]\nurl = \"file:./backups\"\n",
            server.uri()
        ),
    );
}

fn connection(server: &Redis) -> Connection {
    redis::Client::open(server.uri()).unwrap().get_connection().unwrap()
}

fn give<T: redis::FromRedisValue>(connection: &mut Connection, line: &str) -> T {
    let mut words = line.split(' ');
    let answer = redis::cmd(words.next().unwrap()).arg(words.collect::<Vec<_>>()).query(connection);
    answer.unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn setting(server: &Redis, name: &str) -> String {
    let answer: Vec<String> = give(&mut connection(server), &format!("CONFIG GET {name}"));
    answer[1].clone()
}

fn fill(server: &Redis) {
    let mut connection = connection(server);
    for index in 0..KEYS {
        let _: Answer = give(&mut connection, &format!("SET shop:product:{index} {index}"));
    }
    let _: Answer = give(&mut connection, "SAVE");
}

fn json(seen: &Seen) -> Value {
    serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {}", seen.both()))
}

fn ids(seen: &Seen) -> Vec<String> {
    let report = json(seen);
    report["findings"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

/// Marks the server, so that it is known again after a restart.
fn mark(place: &Place) {
    assert_eq!(place.run(&["environment", "mark", "--store", "redis", "--output", "mark.json"]).status, 0);
    assert_eq!(approved(place, "mark.json").status, 0);
}

fn hash(place: &Place, plan: &str) -> String {
    json(&place.run(&["plan", "show", plan, "--json"]))["plan_hash"].as_str().unwrap().to_owned()
}

fn approved(place: &Place, plan: &str) -> Seen {
    place.run(&["apply", plan, "--approve", &hash(place, plan)])
}

/// The records of changes that the repository holds.
fn records(place: &Place) -> Vec<PathBuf> {
    let Ok(servers) = fs::read_dir(place.path("backups/redis/settings")) else { return Vec::new() };
    let of_server =
        |server: fs::DirEntry| fs::read_dir(server.path()).unwrap().map(|file| file.unwrap().path());
    servers
        .map(Result::unwrap)
        .flat_map(of_server)
        .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
        .collect()
}

fn wait_for_records(place: &Place, child: &mut Child, count: usize) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while records(place).len() < count {
        if child.try_wait().unwrap().is_some() {
            return records(place).len() >= count;
        }
        assert!(Instant::now() < deadline, "record {count} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Writes as fast as it is answered, until it is stopped or the server is gone; knows what was answered.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Load {
    fn begin(server: &Redis) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut connection = connection(server);
        let (stops, counts) = (stop.clone(), answered.clone());
        let thread = std::thread::spawn(move || {
            while !stops.load(Ordering::Relaxed) {
                let next = counts.load(Ordering::Relaxed) + 1;
                let set: redis::RedisResult<()> =
                    redis::cmd("SET").arg("load:count:last").arg(next).query(&mut connection);
                if set.is_err() {
                    return;
                }
                counts.store(next, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Self { stop, answered, thread }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.answered.load(Ordering::Relaxed)
    }
}

fn last_written(server: &Redis) -> u64 {
    give::<Option<u64>>(&mut connection(server), "GET load:count:last").unwrap_or_default()
}

const LOG_ON: &str = "[redis.policy]\nappendonly = true\nappendfsync = \"always\"\nsave = []\n";

fn snapshots_only() -> Redis {
    // So slow that a snapshot and a rewrite last long enough to be killed in their middle.
    Redis::options()
        .config_file()
        .setting("save", "3600 1")
        .setting("rdb-key-save-delay", "300")
        .start()
        .unwrap()
}

#[test]
fn a_log_is_turned_on_under_load_and_outlives_the_server() {
    let mut server = snapshots_only();
    fill(&server);
    let place = place(&server, "development", LOG_ON);
    let drift = place.run(&["redis", "policy", "drift", "--json"]);
    assert_eq!(drift.status, 3, "{}", drift.both());
    assert_eq!(ids(&drift), ["redis.policy.drift"; 3]);
    let planned = place.run(&["redis", "policy", "plan"]);
    assert!(
        planned.status == 0 && planned.stdout.contains("turn the append-only file on"),
        "{}",
        planned.both()
    );
    assert!(place.run(&["doctor"]).stdout.contains("appendonly is no, declared is yes"));
    let load = Load::begin(&server);
    let applied = place.run(&["redis", "policy", "apply"]);
    assert_eq!(applied.status, 0, "{}", applied.both());
    assert!(applied.stdout.contains("also after a restart"), "{}", applied.stdout);
    assert!(!place.run(&["doctor"]).stdout.contains("redis.policy.drift"));
    let written = load.end();
    server.kill9();
    server.restart().unwrap();
    assert_eq!(setting(&server, "appendonly"), "yes");
    assert_eq!((last_written(&server), setting(&server, "save")), (written, String::new()));
    let drift = place.run(&["redis", "policy", "drift"]);
    assert!(drift.status == 0 && drift.stdout.contains("redis.conf"), "{}", drift.both());
    let again = place.run(&["redis", "policy", "plan"]);
    assert!(again.status == 8 && again.stderr.contains("as it is declared"), "{}", again.both());
    assert!(place.run(&["audit", "list"]).stdout.contains("redis.policy.apply"));

    // And off again: what was written up to then is in the snapshot.
    configure(&place, &server, "development", "[redis.policy]\nappendonly = false\nsave = [\"60 1\"]\n");
    let load = Load::begin(&server);
    let applied = place.run(&["redis", "policy", "apply", "--json"]);
    assert_eq!((applied.status, &json(&applied)["durable"]), (0, &Value::from(true)), "{}", applied.both());
    let before = load.answered();
    let written = load.end();
    assert!(written >= before);
    server.kill9();
    server.restart().unwrap();
    assert_eq!((setting(&server, "appendonly").as_str(), setting(&server, "save").as_str()), ("no", "60 1"));
    // All that the last snapshot, which began after the log had ended, could have.
    let kept = last_written(&server);
    assert!(kept > 0 && kept <= written, "{kept} of {written}");
}

/// The server is killed when the record number `at` stands, and started again: it has what was promised, and the same plan goes on.
fn killed_at(at: usize) -> bool {
    let mut server = snapshots_only();
    fill(&server);
    let place = place(&server, "development", LOG_ON);
    let load = Load::begin(&server);
    assert_eq!(place.run(&["redis", "policy", "plan", "--output", "plan.json"]).status, 0);
    let mut command = place.command(&["apply", "plan.json", "--approve", &hash(&place, "plan.json")]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Record 4 says that the snapshot is made: what was answered before it was begun, in record 3, is in it.
    wait_for_records(&place, &mut child, at.min(2));
    let in_snapshot = load.answered();
    let came = wait_for_records(&place, &mut child, at);
    let answered = load.answered();
    server.kill9();
    let ended: Seen = child.wait_with_output().unwrap().into();
    load.end();
    if !came {
        assert_eq!(ended.status, 0, "{}", ended.both());
        return false;
    }
    let all = records(&place).len();
    server.restart().unwrap();
    let kept_log = setting(&server, "appendonly") == "yes";
    let promised = match () {
        // `always`: what was answered is there.
        () if kept_log => answered,
        () if at >= 4 => in_snapshot,
        () => 0,
    };
    let found = last_written(&server);
    let products = (0..KEYS).filter(|index| {
        give::<Option<u64>>(&mut connection(&server), &format!("GET shop:product:{index}")) == Some(*index)
    });
    assert_eq!(products.count() as u64, KEYS, "record {at}: some are gone");
    assert!(found >= promised, "record {at}: {found} is there, {promised} was promised");
    if ended.status == 0 {
        return true;
    }
    assert!([1, 6, 8].contains(&ended.status), "record {at}: {}", ended.both());
    assert!(ended.stderr.contains("under way"), "record {at} of {all}: {}", ended.both());

    let load = Load::begin(&server);
    let again = approved(&place, "plan.json");
    assert_eq!(again.status, 0, "record {at}: {}", again.both());
    let written = load.end();
    server.kill9();
    server.restart().unwrap();
    assert_eq!(
        (setting(&server, "appendonly").as_str(), last_written(&server)),
        ("yes", written),
        "record {at}"
    );
    true
}

#[test]
fn a_server_killed_at_each_step_never_has_less_than_was_promised() {
    // Six steps leave two records each, and all of them one more.
    std::thread::scope(|threads| {
        for begin in 1..=4 {
            threads.spawn(move || (begin..=13).step_by(4).for_each(|at| assert!(killed_at(at), "{at}")));
        }
    });
    assert!(!killed_at(14));
}

/// The same while the log is turned off.
fn killed_turning_off_at(at: usize) -> bool {
    let options = Redis::options().config_file().append_only().setting("appendfsync", "always");
    let mut server = options.setting("rdb-key-save-delay", "300").start().unwrap();
    fill(&server);
    let place = place(&server, "development", "[redis.policy]\nappendonly = false\nsave = [\"60 1\"]\n");
    let load = Load::begin(&server);
    assert_eq!(place.run(&["redis", "policy", "plan", "--output", "plan.json"]).status, 0);
    let mut command = place.command(&["apply", "plan.json", "--approve", &hash(&place, "plan.json")]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The first snapshot is begun by record 3, the last one by record 9 and made in record 10.
    wait_for_records(&place, &mut child, at.min(2));
    let in_first = load.answered();
    wait_for_records(&place, &mut child, at.min(8));
    let in_last = load.answered();
    let came = wait_for_records(&place, &mut child, at);
    let answered = load.answered();
    server.kill9();
    let ended: Seen = child.wait_with_output().unwrap().into();
    load.end();
    if !came {
        assert_eq!(ended.status, 0, "{}", ended.both());
        return false;
    }
    server.restart().unwrap();
    let promised = match setting(&server, "appendonly").as_str() {
        "yes" => answered,
        _ if at >= 10 => in_last,
        _ => in_first,
    };
    let found = last_written(&server);
    assert!(found >= promised, "record {at}: {found} is there, {promised} was promised");
    let keys: u64 = give(&mut connection(&server), "DBSIZE");
    assert!(keys > KEYS, "record {at}: {keys}");
    if ended.status != 0 {
        let again = approved(&place, "plan.json");
        assert_eq!(again.status, 0, "record {at}: {}", again.both());
    }
    let before = last_written(&server);
    server.kill9();
    server.restart().unwrap();
    assert_eq!(
        (setting(&server, "appendonly").as_str(), last_written(&server)),
        ("no", before),
        "record {at}"
    );
    true
}

#[test]
fn a_server_killed_while_its_log_is_turned_off_never_has_less_than_was_promised() {
    // Five steps leave two records each, and all of them one more.
    std::thread::scope(|threads| {
        for begin in 1..=4 {
            threads.spawn(move || {
                (begin..=11).step_by(4).for_each(|at| assert!(killed_turning_off_at(at), "{at}"));
            });
        }
    });
    assert!(!killed_turning_off_at(12));
}

#[test]
fn a_log_that_is_not_written_yet_is_never_kept() {
    let mut server = snapshots_only();
    fill(&server);
    let place = place(&server, "development", LOG_ON);
    assert_eq!(place.run(&["redis", "policy", "plan", "--output", "plan.json"]).status, 0);
    let approve = hash(&place, "plan.json");
    let arguments = ["apply", "plan.json", "--approve", &approve];
    let mut child = place.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_records(&place, &mut child, 6);
    // From here on it takes seconds.
    let _: Answer = give(&mut connection(&server), "CONFIG SET rdb-key-save-delay 10000");
    wait_for_records(&place, &mut child, 7);
    let rewriting = |server: &Redis| {
        give::<String>(&mut connection(server), "INFO persistence").contains("aof_rewrite_in_progress:1")
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !rewriting(&server) {
        assert!(Instant::now() < deadline, "nothing is rewritten");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Another run begins with keeping what there is, which now says that there is a log.
    let mut again = place.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_records(&place, &mut again, 8);
    // It looks at the server again and again, each time by a connection of its own, and has nothing to keep yet.
    let mut watching = connection(&server);
    let mut connections = || {
        let stats: String = give(&mut watching, "INFO stats");
        let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().trim().parse::<u64>().unwrap()
    };
    let (seen, deadline) = (connections(), Instant::now() + Duration::from_secs(10));
    while connections() < seen + 4 {
        assert!(Instant::now() < deadline, "it does not look");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(rewriting(&server), "it was too fast to prove anything");
    server.kill9();
    assert!(!again.wait().unwrap().success());
    server.restart().unwrap();
    let keys: u64 = give(&mut connection(&server), "DBSIZE");
    assert_eq!(keys, KEYS + 1, "the marker is one");
}

#[test]
fn a_run_killed_at_each_step_goes_on() {
    let server = snapshots_only();
    fill(&server);
    let place = place(&server, "development", LOG_ON);
    assert_eq!(place.run(&["redis", "policy", "plan", "--output", "plan.json"]).status, 0);
    let approve = hash(&place, "plan.json");
    let mut kills = 0;
    loop {
        let mut command = place.command(&["apply", "plan.json", "--approve", &approve]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One record further than the run before came.
        kills += 1;
        let came = wait_for_records(&place, &mut child, records(&place).len() + kills);
        if came {
            child.kill().unwrap();
        }
        let ended: Seen = child.wait_with_output().unwrap().into();
        if ended.status == 0 {
            break;
        }
        assert!(came, "{}", ended.both());
        assert!(kills < 20);
    }
    assert!(kills > 3, "{kills}");
    assert_eq!((setting(&server, "appendonly").as_str(), setting(&server, "save").as_str()), ("yes", ""));
    assert_eq!(place.run(&["redis", "policy", "drift"]).status, 0);
    // Somebody else's change since makes the plan stale.
    let _: Answer = give(&mut connection(&server), "CONFIG SET appendfsync no");
    let stale = approved(&place, "plan.json");
    assert_eq!(stale.status, 9, "{}", stale.both());
}

#[test]
fn a_change_that_a_restart_forgets_is_refused_with_what_to_write_instead() {
    // Without a file.
    let server = Redis::start().unwrap();
    let place = place(&server, "development", "[redis.policy]\nappendonly = true\nmaxmemory = \"256MiB\"\n");
    place.write(
        "compose.yaml",
        "services:\n  cache:\n    image: redis:8\n    command: redis-server --requirepass canary --appendonly no\n",
    );
    let refused = place.run(&["redis", "policy", "plan"]);
    assert_eq!(refused.status, 8, "{}", refused.both());
    for text in [
        "without a configuration file",
        "--appendonly no",
        "compose.yaml: cache",
        "--appendonly yes --maxmemory 268435456",
    ] {
        assert!(refused.stderr.contains(text), "{text}: {}", refused.stderr);
    }
    assert!(!refused.both().contains("canary"));
    assert_eq!(setting(&server, "appendonly"), "no");
    let drift = place.run(&["redis", "policy", "drift", "--json"]);
    assert!(
        drift.status == 3 && ids(&drift).contains(&"redis.policy.not_durable".to_owned()),
        "{}",
        drift.both()
    );
    let applied = place.run(&["redis", "policy", "apply", "--run-time-only"]);
    assert_eq!(applied.status, 3, "{}", applied.both());
    assert_eq!(
        (setting(&server, "appendonly").as_str(), setting(&server, "maxmemory").as_str()),
        ("yes", "268435456")
    );
    // The file says so by now, and the server as well.
    place.write(
        "compose.yaml",
        "services:\n  cache:\n    image: redis:8\n    command: redis-server --appendonly yes --maxmemory 256mb\n",
    );
    let drift = place.run(&["redis", "policy", "drift"]);
    assert_eq!(drift.status, 0, "{}", drift.both());
}

#[test]
fn a_file_that_cannot_be_replaced_stops_before_anything_is_changed() {
    let server = snapshots_only();
    fs::remove_dir_all(server.config_file().parent().unwrap()).unwrap();
    let place = place(&server, "development", LOG_ON);
    let stopped = place.run(&["redis", "policy", "apply"]);
    assert_eq!(stopped.status, 8, "{}", stopped.both());
    assert!(stopped.stderr.contains("cannot replace its configuration file"), "{}", stopped.stderr);
    assert_eq!(
        (setting(&server, "appendonly").as_str(), setting(&server, "save").as_str()),
        ("no", "3600 1")
    );
}

#[test]
fn a_disk_that_takes_no_log_leaves_the_server_as_it_was() {
    let server = snapshots_only();
    fill(&server);
    let place = place(&server, "development", LOG_ON);
    // A file stands where the folder of the log is to be.
    fs::write(server.dir().join("data/appendonlydir"), "in the way").unwrap();
    let stopped = place.run(&["redis", "policy", "apply"]);
    assert_eq!(stopped.status, 8, "{}", stopped.both());
    assert!(stopped.stderr.contains("cannot write its append-only file"), "{}", stopped.both());
    assert_eq!(
        (setting(&server, "appendonly").as_str(), setting(&server, "save").as_str()),
        ("no", "3600 1")
    );
    fs::remove_file(server.dir().join("data/appendonlydir")).unwrap();
    let applied = place.run(&["redis", "policy", "apply"]);
    assert_eq!(applied.status, 0, "{}", applied.both());
}

#[test]
fn eviction_is_foretold_and_refused_where_it_harms() {
    let server = Redis::options().config_file().start().unwrap();
    let mut connection = connection(&server);
    for index in 0..400 {
        let text = "x".repeat(2_000);
        let _: Answer = give(&mut connection, &format!("SET cache:page:{index} {text} EX 9000"));
        let _: Answer = give(&mut connection, &format!("SET auth:session:{index} {index}"));
    }
    let used: String = give(&mut connection, "INFO memory");
    let used: u64 = used.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().parse().unwrap();
    let limit = used - 300_000;
    let policy = |eviction: &str, classes: &str| {
        format!(
            "[redis.policy]\nmaxmemory = {limit}\nmaxmemory_policy = \"{eviction}\"\n[redis.classes]\n{classes}\n"
        )
    };
    let place = place(&server, "development", &policy("allkeys-lru", ""));
    let blind = place.run(&["redis", "policy", "plan"]);
    assert!(blind.status == 7 && blind.stderr.contains("[redis.classes]"), "{}", blind.both());
    let declared = "session = [\"auth:session:*\"]\ncache = [\"cache:*\"]";
    configure(&place, &server, "development", &policy("allkeys-lru", declared));
    let refused = place.run(&["redis", "policy", "plan"]);
    assert!(refused.status == 7 && refused.stderr.contains("class session"), "{}", refused.both());
    let told = place.run(&["redis", "policy", "plan", "--evict-protected"]);
    assert!(told.status == 0 && told.stdout.contains("declared session"), "{}", told.both());

    // A limit that refuses every write at once.
    configure(&place, &server, "development", &policy("noeviction", declared));
    assert_eq!(place.run(&["redis", "policy", "plan"]).status, 8);

    configure(&place, &server, "development", &policy("volatile-lru", declared));
    let planned = place.run(&["redis", "policy", "plan", "--output", "plan.json", "--json"]);
    let plan = json(&planned)["plan"].clone();
    assert_eq!(
        (plan["operation"].as_str(), plan["effect"].as_str()),
        (Some("redis.policy.apply.evict"), Some("destructive"))
    );
    assert!(plan["steps"].to_string().contains("evict cache:page:*"), "{plan}");
    assert!(!plan["steps"].to_string().contains("evict auth"), "{plan}");
    let foretold = plan["blast_radius"]["items"].as_f64().unwrap();
    let applied = approved(&place, "plan.json");
    assert_eq!(applied.status, 0, "{}", applied.both());
    // The server evicts behind the command that lowered the limit.
    let deadline = Instant::now() + Duration::from_secs(10);
    let gone = loop {
        let _: Answer = give(&mut connection, "SET auth:session:0 0");
        let info: String = give(&mut connection, "INFO stats");
        let evicted =
            info.lines().find_map(|line| line.strip_prefix("evicted_keys:")).unwrap().parse::<f64>().unwrap();
        if evicted > foretold * 0.5 {
            break evicted;
        }
        assert!(Instant::now() < deadline, "{evicted} of {foretold} are gone");
    };
    assert!(gone < foretold * 2.0, "{gone} are gone, {foretold} were foretold");
    let sessions: u64 =
        (0..400).map(|index| give::<u64>(&mut connection, &format!("EXISTS auth:session:{index}"))).sum();
    assert_eq!(sessions, 400);
    // What expires and is protected is refused under a policy that takes what expires.
    let _: Answer = give(&mut connection, "SET auth:session:0 0 EX 9000");
    let _: Answer = give(&mut connection, "CONFIG SET maxmemory 0");
    let refused = place.run(&["redis", "policy", "plan"]);
    assert!(refused.status == 7 && refused.stderr.contains("1 of class session"), "{}", refused.both());
}

#[test]
fn what_is_declared_wrong_or_may_not_be_seen_is_told() {
    let server = Redis::start().unwrap();
    let place = place(&server, "development", "");
    let nothing = place.run(&["redis", "policy", "drift"]);
    assert!(nothing.status == 2 && nothing.stderr.contains("[redis.policy]"), "{}", nothing.both());
    let place = place.variable("MAINSTAY_REDIS_POLICY_SAVE", "3600 1,often");
    let nonsense = place.run(&["redis", "policy", "drift"]);
    assert!(nonsense.status == 2 && nonsense.stderr.contains("is no rule"), "{}", nonsense.both());
    let place = Place::new();
    configure(&place, &server, "development", "[redis.policy]\nappendfsync = \"often\"\n");
    assert_eq!(place.run(&["redis", "policy", "drift"]).status, 2);
    let unmarked = Redis::start().unwrap();
    configure(&place, &unmarked, "production", "[redis.policy]\nappendonly = true\n");
    let refused = place.run(&["redis", "policy", "apply", "--run-time-only"]);
    assert!(refused.status == 7 && refused.stderr.contains("--output"), "{}", refused.both());
}

#[test]
fn a_plan_that_was_to_evict_nothing_evicts_nothing() {
    let server = Redis::options().config_file().start().unwrap();
    let policy = "[redis.policy]\nmaxmemory = \"20MiB\"\nmaxmemory_policy = \"allkeys-lru\"\n[redis.classes]\ncache = [\"*\"]\n";
    let place = place(&server, "development", policy);
    let mut connection = connection(&server);
    let _: Answer = give(&mut connection, &format!("SET cache:page:1 {}", "x".repeat(3_000_000)));
    let planned = place.run(&["redis", "policy", "plan", "--output", "plan.json"]);
    assert!(
        planned.status == 0 && planned.stdout.contains("go first when the limit is reached"),
        "{}",
        planned.both()
    );
    let _: Answer = give(&mut connection, &format!("SET cache:page:2 {}", "x".repeat(30_000_000)));
    let stale = approved(&place, "plan.json");
    assert!(stale.status == 9 && stale.stderr.contains("by now"), "{}", stale.both());
    assert_eq!(setting(&server, "maxmemory"), "0");
}
