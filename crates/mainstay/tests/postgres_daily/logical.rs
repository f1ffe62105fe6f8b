//! Logical dumps with the real `pg_dump` and `pg_restore`: taken, judged, restored, exported; and what keeps each from happening.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use mainstay_testkit::proxy::{Direction, Scope, Truncate};
use mainstay_testkit::{FaultProxy, Postgres};
use serde_json::Value;

use crate::binary::{Place, Seen};
use crate::support::{another_server, configure, mark, project, tool, url_of, wait_for};

/// A password that every quoting on its way must get right, and that nobody must see.
const PASSWORD: &str = "hun:ter2\\ it's";
/// A name of a database that looks like something else to everything on its way.
const DATABASE: &str = "host='x' shop=1";

/// What the shop is made of: two schemas, every way of numbering, keys, a trigger, a view, partitions, large objects.
const SHOP: &[&str] = &[
    "CREATE SCHEMA sales",
    "CREATE TYPE mood AS ENUM ('fine', 'sad')",
    "CREATE TABLE users (id serial PRIMARY KEY, name text UNIQUE, mood mood DEFAULT 'fine', seen int DEFAULT 0)",
    "INSERT INTO users (name) SELECT 'user ' || i FROM generate_series(1, 2000) AS i",
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.seen = 1; RETURN NEW; END $$",
    "CREATE TRIGGER touched BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch()",
    "CREATE TABLE sales.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id int REFERENCES users, note text)",
    "INSERT INTO sales.orders (user_id, note) SELECT 1 + i % 2000, md5(i::text) FROM generate_series(1, 20000) AS i",
    "CREATE INDEX orders_note ON sales.orders (note)",
    "CREATE VIEW sales.names AS SELECT name FROM users",
    "CREATE MATERIALIZED VIEW sales.totals AS SELECT user_id, count(*) FROM sales.orders GROUP BY 1",
    "CREATE TABLE sales.events (at date, text text) PARTITION BY RANGE (at)",
    "CREATE TABLE sales.events_2026 PARTITION OF sales.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "INSERT INTO sales.events SELECT '2026-03-01'::date + i % 100, 'event ' || i FROM generate_series(1, 500) AS i",
    "SELECT lo_from_bytea(4711, convert_to(repeat('large', 90000), 'UTF8'))",
    "ALTER TABLE users OWNER TO app",
    "GRANT SELECT ON sales.orders TO reader",
    "COMMENT ON TABLE users IS 'those who buy'",
];

/// A server with a password, roles, and a database that holds a shop.
pub(crate) fn shop_server() -> Postgres {
    let server = Postgres::options().scram(PASSWORD).start().unwrap();
    server.execute("postgres", "CREATE ROLE app; CREATE ROLE reader;").unwrap();
    server.execute("postgres", &format!("CREATE DATABASE \"{DATABASE}\"")).unwrap();
    for statement in SHOP {
        server.execute(&url_name(DATABASE), statement).unwrap();
    }
    server
}

/// A database's name as it stands in a url.
fn url_name(database: &str) -> String {
    database.bytes().fold(String::new(), |text, byte| match byte {
        b'a'..=b'z' | b'0'..=b'9' | b'_' => text + &char::from(byte).to_string(),
        _ => text + &format!("%{byte:02X}"),
    })
}

/// The folder of the programs, for the configuration.
pub(crate) fn programs() -> String {
    let folder = tool("pg_dump");
    format!("client_dir = \"{}\"", Path::new(folder.get_program()).parent().unwrap().display())
}

/// A marked project on `server` that finds the programs, and whose temporary files are its own.
pub(crate) fn dumping(server: &Postgres) -> Place {
    let place = project(&server.uri());
    let temporary = place.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let place = place.variable("TMPDIR", temporary.to_str().unwrap());
    mark(&place);
    configure(&place, &server.uri(), &programs());
    place
}

/// Runs a command that must show no part of the password.
#[track_caller]
pub(crate) fn run(place: &Place, arguments: &[&str]) -> Seen {
    place.run(arguments).hides("hun:ter2").hides("hun%3Ater2")
}

const CREATE: &[&str] = &["backup", "create", "--store", "postgres", "--logical", "--database", DATABASE];

pub(crate) fn dump(place: &Place) -> Value {
    run(place, &[CREATE, &["--json"]].concat()).expect(0).json()
}

fn sets(place: &Place) -> usize {
    place.run(&["backup", "list", "--json"]).json()["sets"].as_array().unwrap().len()
}

/// Plans a restore of the latest dump into `plan.json`.
pub(crate) fn plan(place: &Place, more: &[&str]) -> Seen {
    let _ = fs::remove_file(place.path("plan.json"));
    let base = ["restore", "plan", "--store", "postgres", "--logical", "--output", "plan.json"];
    run(place, &[&base[..], more].concat())
}

pub(crate) fn databases(server: &Postgres) -> Vec<String> {
    server.texts("postgres", "SELECT datname::text FROM pg_database ORDER BY 1")
}

/// A database as the stock program writes it down, from the first statement to the last row.
fn written_down(server: &Postgres, database: &str) -> String {
    let mut command = tool("pg_dump");
    command.args(["--format=plain", "--dbname", &server.uri_of(&url_name(database))]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // Each has a key of its own, against statements in names.
    let is_key = |line: &&str| line.starts_with("\\restrict") || line.starts_with("\\unrestrict");
    text.lines().filter(|line| !is_key(line)).collect::<Vec<_>>().join("\n")
}

/// Whether two texts are equal, without printing thousands of lines when they are not.
#[track_caller]
fn assert_same(one: &str, other: &str) {
    let difference = one.lines().zip(other.lines()).find(|(one, other)| one != other);
    assert_eq!(difference, None);
    assert_eq!(one.lines().count(), other.lines().count());
}

#[test]
fn a_database_comes_back_from_its_dump_as_it_was() {
    let server = shop_server();
    let place = dumping(&server);
    let before = written_down(&server, DATABASE);
    run(&place, &[CREATE, &["--dry-run"]].concat()).expect(0).says("with pg_dump");
    let made = dump(&place);
    let id = made["set"]["id"].as_str().unwrap();
    assert_eq!((&made["set"]["form"], &made["set"]["tables"]), (&"logical".into(), &3.into()), "{made}");
    assert!(made["stored_bytes"].as_u64().unwrap() * 2 < made["bytes"].as_u64().unwrap(), "{made}");
    server.execute(&url_name(DATABASE), "TRUNCATE sales.orders").unwrap();

    run(&place, &["backup", "list"]).expect(0).says(id).says("dump of host=");
    run(&place, &["backup", "show", id])
        .expect(0)
        .says("pg_dump (PostgreSQL) 18")
        .says("orders")
        .says("C.UTF-8");
    run(&place, &["backup", "verify", id]).expect(0).says("is sound");
    plan(&place, &[]).expect(8).says("exists already").says("--into NAME");
    let folder = ["restore", "plan", "--store", "postgres", "--into", "folder"];
    run(&place, &folder).expect(1).says("holds no base backup of postgres");
    run(&place, &[&folder[..4], &["--jobs", "2", id]].concat()).expect(8).says("exists already");
    plan(&place, &["--into", "copy", "--drop"]).expect(2).says("--drop means nothing for a logical dump");
    plan(&place, &["--into", "copy", "--tablespace", "a=b"])
        .expect(2)
        .says("means nothing for a logical dump");
    plan(&place, &["--into", "copy"]).expect(0).says("with pg_restore").says("name it copy");
    run(&place, &["restore", "apply", "plan.json"]).expect(0).says("into database copy").says("ANALYZE");
    assert_same(&written_down(&server, "copy"), &before);
    assert_eq!(server.texts("copy", "SELECT length(lo_get(4711))::text"), ["450000"]);
    assert_eq!(server.texts("copy", "SELECT nextval('users_id_seq')::text"), ["2001"]);
    run(&place, &["restore", "apply", "plan.json"]).expect(9).says("was absent, is present");

    // Several connections from a file do the same.
    plan(&place, &["--into", "copy 2", "--jobs", "3"]).expect(0);
    run(&place, &["restore", "apply", "plan.json"]).expect(0);
    assert_same(&written_down(&server, "copy 2").replace("copy 2", "copy"), &before);

    // So does the stock program with what is handed out.
    run(&place, &["backup", "export", id, "shop.dump"]).expect(0).says("pg_restore --list");
    let file = place.path("shop.dump");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    run(&place, &["backup", "export", "latest", "shop.dump"]).expect(8).says("exists already");
    server.execute("postgres", "CREATE DATABASE stock").unwrap();
    let stock = tool("pg_restore")
        .arg("--exit-on-error")
        .arg("--dbname")
        .arg(server.uri_of("stock"))
        .arg(&file)
        .output()
        .unwrap();
    assert!(stock.status.success(), "{}", String::from_utf8_lossy(&stock.stderr));
    assert_same(&written_down(&server, "stock"), &before);
    assert_eq!(
        databases(&server),
        ["copy", "copy 2", DATABASE, "postgres", "stock", "template0", "template1"]
    );
    assert_eq!(fs::read_dir(place.path("tmp")).unwrap().count(), 0, "nothing private is left");
    let hidden: Vec<_> =
        fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!hidden.iter().any(|name| name.to_string_lossy().contains("partial")), "{hidden:?}");
    let comments = "SELECT count(*)::text FROM pg_shdescription WHERE description LIKE '%mainstay%'";
    assert_eq!(server.texts("postgres", comments), ["0"]);
}

#[test]
fn a_selection_comes_with_what_belongs_to_it() {
    let server = shop_server();
    let place = dumping(&server);
    dump(&place);
    let restored = |into: &str, more: &[&str]| {
        plan(&place, &[&["--into", into][..], more].concat()).expect(0);
        run(&place, &["restore", "apply", "plan.json"]).expect(0);
    };
    let relations = |database: &str| {
        server.texts(
            database,
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname IN ('public', 'sales') ORDER BY 1",
        )
    };
    restored("users_alone", &["--table", "users"]);
    assert_eq!(relations("users_alone"), ["users", "users_id_seq", "users_name_key", "users_pkey"]);
    assert_eq!(server.texts("users_alone", "SELECT count(*)::text FROM users WHERE mood = 'fine'"), ["2000"]);
    assert_eq!(server.texts("users_alone", "SELECT nextval('users_id_seq')::text"), ["2001"]);

    restored("orders_alone", &["--table", "sales.orders", "--table", "sales.events"]);
    let expected = [
        "sales.events",
        "sales.events_2026",
        "sales.orders",
        "sales.orders_id_seq",
        "sales.orders_note",
        "sales.orders_pkey",
    ];
    assert_eq!(relations("orders_alone"), expected);
    let counts = "SELECT count(*)::text FROM sales.orders UNION ALL SELECT count(*)::text FROM sales.events";
    assert_eq!(server.texts("orders_alone", counts), ["20000", "500"]);

    // What a schema's views read comes along without rows; its keys to what does not come stay away.
    restored("sales_alone", &["--schema", "sales"]);
    let counts = "SELECT count(*)::text FROM sales.totals UNION ALL SELECT count(*)::text FROM sales.names";
    assert_eq!(server.texts("sales_alone", counts), ["2000", "0"]);
    plan(&place, &["--into", "x", "--table", "nothing"]).expect(1).says("the dump holds no table nothing");
    plan(&place, &["--into", "x", "--schema", "nothing"]).expect(1).says("the dump holds no schema nothing");
}

/// The stored dump of the only set.
fn stored(place: &Place) -> PathBuf {
    let sets = place.path("repository/postgres/sets");
    let set = fs::read_dir(sets).unwrap().next().unwrap().unwrap().path();
    let files = fs::read_dir(set).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "zst")).unwrap()
}

#[test]
fn what_is_damaged_or_does_not_fit_writes_nothing() {
    let server = shop_server();
    let place = dumping(&server);
    dump(&place);
    plan(&place, &["--into", "copy"]).expect(0);
    let before = databases(&server);
    let object = stored(&place);
    let whole = fs::read(&object).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [flipped, whole[..whole.len() / 2].to_vec()] {
        fs::write(&object, damaged).unwrap();
        run(&place, &["backup", "verify", "--store", "postgres"])
            .expect(1)
            .says("`--logical` means the latest");
        run(&place, &["backup", "verify", "--store", "postgres", "--logical"]).expect(4).says("DAMAGED");
        run(&place, &["restore", "apply", "plan.json"]).expect(4).says("nothing was written");
        run(&place, &["backup", "export", "latest", "out.dump"]).expect(4);
        assert!(!place.path("out.dump").exists());
        assert_eq!(databases(&server), before);
    }
    fs::write(&object, whole).unwrap();

    // Another server has not the roles.
    let other = another_server(&server);
    configure(&place, &other.uri(), &programs());
    mark_with_programs(&place, &other);
    run(&place, &["restore", "apply", "plan.json"]).expect(9).says("the plan is for server");
    plan(&place, &["--into", "copy"]).expect(8).says("has no roles app").says("--without-owners");
    other.execute("postgres", "CREATE ROLE app").unwrap();
    // Of rights the table of contents does not tell: the program does, and nothing is left of the try.
    plan(&place, &["--into", "copy"]).expect(0);
    let before = databases(&other);
    run(&place, &["restore", "apply", "plan.json"])
        .expect(1)
        .says("role \"reader\" does not exist")
        .says("what was made is removed");
    assert_eq!(databases(&other), before);
    plan(&place, &["--into", "copy", "--without-owners"]).expect(0);
    run(&place, &["restore", "apply", "plan.json"]).expect(0);
    assert_eq!(other.texts("copy", "SELECT count(*)::text FROM sales.orders"), ["20000"]);
}

/// Marks `server` for a project whose configuration names the programs.
fn mark_with_programs(place: &Place, server: &Postgres) {
    mark(place);
    configure(place, &server.uri(), &programs());
}

#[test]
fn what_keeps_a_dump_from_being_whole_leaves_no_set() {
    let server = shop_server();
    let place = dumping(&server);
    let url = server.uri();
    let folder = place.path("programs");
    fs::create_dir(&folder).unwrap();
    configure(&place, &url, &format!("client_dir = \"{}\"", folder.display()));
    run(&place, CREATE).expect(8).says("pg_dump of PostgreSQL 18 is not on this machine").says("client_dir");
    let program = folder.join("pg_dump");
    fs::write(&program, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 17.2 (Debian 17.2-1)'\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    run(&place, CREATE).expect(8).says("is of PostgreSQL 17.2").says("one major version");

    configure(&place, &url, &programs());
    run(&place, &["backup", "create", "--store", "postgres", "--logical", "--database", "nowhere"])
        .expect(1)
        .says("nowhere");
    run(&place, &[CREATE, &["--database", "postgres"]].concat()).expect(2).says("of one database");
    run(&place, &[CREATE, &["--max-rate", "1MB"]].concat())
        .expect(2)
        .says("means nothing for a logical dump");
    run(&place, &["backup", "create", "--store", "mongo", "--logical"])
        .expect(2)
        .says("--logical means nothing for mongo");
    server
        .execute("postgres", &format!("CREATE ROLE plain LOGIN PASSWORD '{}'", PASSWORD.replace('\'', "''")))
        .unwrap();
    configure(&place, &url_of(&server, "plain", "postgres"), &programs());
    run(&place, CREATE)
        .expect(5)
        .says("pg_dump failed")
        .says("permission denied")
        .says("no backup set was made");

    let proxy = FaultProxy::start(server.address());
    configure(&place, &server.uri_through(proxy.address(), "postgres"), &programs());
    proxy.truncate(Truncate {
        direction: Direction::FromServer,
        bytes: 300_000,
        scope: Scope::EveryConnection,
    });
    run(&place, CREATE).expect(1).says("pg_dump failed").says("no backup set was made");
    proxy.heal();
    assert_eq!(sets(&place), 0);
    assert_eq!(fs::read_dir(place.path("tmp")).unwrap().count(), 0);
    run(&place, CREATE).expect(0);
}

/// The binary, running; killed when dropped.
pub(crate) struct Started(Child);

impl Started {
    pub(crate) fn begin(place: &Place, arguments: &[&str]) -> Self {
        Self(place.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// The processes that it started.
    fn children(&self) -> Vec<PathBuf> {
        let parent = format!("PPid:\t{}\n", self.0.id());
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let is_child = |path: &PathBuf| {
            fs::read_to_string(path.join("status")).is_ok_and(|status| status.contains(&parent))
        };
        processes.filter(is_child).collect()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }

    pub(crate) fn end(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_dump_that_is_stopped_or_killed_leaves_no_set_no_program_and_no_password() {
    let server = shop_server();
    let place = dumping(&server);
    let proxy = FaultProxy::start(server.address());
    configure(&place, &server.uri_through(proxy.address(), "postgres"), &programs());
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        proxy.throttle(500_000);
        let mut started = Started::begin(&place, CREATE);
        let mut children = Vec::new();
        wait_for("the program has connected and writes", || {
            children = started.children();
            let dumps = |child: &PathBuf| {
                fs::read_to_string(child.join("cmdline")).is_ok_and(|line| line.contains("--dbname"))
            };
            children.iter().any(dumps) && fs::read_dir(place.path("tmp")).unwrap().count() == 0
        });
        for seen_by_others in ["cmdline", "environ"] {
            let bytes = fs::read(children[0].join(seen_by_others)).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains("hun"), "{seen_by_others}");
        }
        started.signal(signal);
        let status = started.end();
        assert!(
            matches!((signal, status), (rustix::process::Signal::INT, Some(75)) | (_, None)),
            "{status:?}"
        );
        proxy.heal();
        wait_for("the program has ended", || !children[0].join("exe").exists());
        assert_eq!(sets(&place), 0);
        assert_eq!(fs::read_dir(place.path("tmp")).unwrap().count(), 0);
    }
    configure(&place, &server.uri(), &programs());
    dump(&place);
    assert_eq!(sets(&place), 1);
}

#[test]
fn a_restore_that_is_stopped_or_killed_has_no_name_and_begins_anew() {
    let server = shop_server();
    let place = dumping(&server);
    dump(&place);
    let before = databases(&server);
    let proxy = FaultProxy::start(server.address());
    plan(&place, &["--into", "copy"]).expect(0);
    configure(&place, &server.uri_through(proxy.address(), "postgres"), &programs());
    let in_progress = "SELECT datname::text FROM pg_database WHERE datname LIKE 'mainstay\\_restore%'";
    let begin = || {
        proxy.throttle(100_000);
        let sent = proxy.counters().to_server_bytes;
        let started = Started::begin(&place, &["restore", "apply", "plan.json"]);
        wait_for("rows flow", || proxy.counters().to_server_bytes > sent + 60_000);
        assert_eq!(server.texts("postgres", in_progress).len(), 1);
        started
    };
    // The target is told by its address too, but a plan is for a server, however it is reached.
    let mut started = begin();
    started.signal(rustix::process::Signal::INT);
    proxy.heal();
    assert_eq!(started.end(), Some(75));
    assert_eq!(databases(&server), before);

    let mut started = begin();
    started.signal(rustix::process::Signal::KILL);
    started.end();
    proxy.heal();
    assert_eq!(server.texts("postgres", in_progress).len(), 1);
    configure(&place, &server.uri(), &programs());
    run(&place, &["restore", "apply", "plan.json"]).expect(0);
    assert_same(&written_down(&server, "copy"), &written_down(&server, DATABASE));
    assert!(server.texts("postgres", in_progress).is_empty());

    // Somebody else's database of that name is nobody's to remove.
    plan(&place, &["--into", "copy3"]).expect(0);
    let planned = fs::read_to_string(place.path("plan.json")).unwrap();
    let name: Value = serde_json::from_str(&planned).unwrap();
    let name = name["parameters"]["working_name"].as_str().unwrap().to_owned();
    server.execute("postgres", &format!("CREATE DATABASE {name}")).unwrap();
    run(&place, &["restore", "apply", "plan.json"]).expect(1).says("is not the one that this restore made");
    assert_eq!(server.texts("postgres", in_progress), [name]);
    assert_eq!(fs::read_dir(place.path("tmp")).unwrap().count(), 0, "what the killed one left is removed");
}
