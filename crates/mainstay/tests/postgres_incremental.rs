//! Incremental backups of PostgreSQL: chains of sets, put together at a restore; the server's own `pg_combinebackup` as judge.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod binary;
mod cluster;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use age::secrecy::ExposeSecret as _;
use mainstay_testkit::{FaultProxy, Postgres};
use serde_json::Value;

use binary::Place;
use cluster::{Running, backup, check_relations, configure, give, project, sets, succeeds, tool, wait_for};

/// A server that keeps account of what changes, and changes nothing by itself.
struct Server(Postgres);

fn server() -> Server {
    let options = Postgres::options().parameter("summarize_wal", "on").parameter("autovacuum", "off");
    Server(options.start().unwrap())
}

impl Deref for Server {
    type Target = Postgres;

    fn deref(&self) -> &Postgres {
        &self.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // While its summarizer sleeps, up to half a minute, it ends in no other way.
        self.0.kill9();
    }
}

/// Takes what has changed since the newest set.
fn increment(place: &Place) -> Value {
    place.run(&["backup", "create", "--store", "postgres", "--incremental", "--json"]).expect(0).json()
}

fn id(made: &Value) -> &str {
    made["set"]["id"].as_str().unwrap()
}

fn execute(server: &Postgres, statements: &[&str]) {
    for statement in statements {
        server.execute("postgres", statement).unwrap();
    }
}

fn plan(place: &Place, set: &str, into: &Path, more: &[&str]) {
    let into = into.to_str().unwrap();
    // A plan is never written over another.
    let _ = fs::remove_file(place.path("plan.json"));
    let base = ["restore", "plan", set, "--store", "postgres", "--into", into, "--output", "plan.json"];
    place.run(&[&base[..], more].concat()).expect(0);
}

#[test]
fn a_twentieth_of_the_blocks_costs_few_bytes() {
    let server = server();
    execute(
        &server,
        &[
            "CREATE TABLE t (i int, filler text) WITH (fillfactor = 85)",
            "ALTER TABLE t ALTER filler SET STORAGE PLAIN",
            // Text that hardly compresses, about six rows a block.
            "INSERT INTO t SELECT i, (SELECT string_agg(md5(i::text || '-' || part), '') FROM generate_series(1, 32) AS part) \
             FROM generate_series(1, 24000) AS i",
            // Otherwise the first who reads them changes the pages.
            "VACUUM",
            "CHECKPOINT",
        ],
    );
    let place = project(&server.uri());
    let whole = backup(&place);
    execute(
        &server,
        &[
            "UPDATE t SET i = -i WHERE (ctid::text::point)[0]::int % 20 = 0 AND (ctid::text::point)[1]::int = 1",
        ],
    );
    let changed = increment(&place);
    let bytes = |made: &Value, what: &str| made[what].as_u64().unwrap();
    let (of_whole, of_changed) = (bytes(&whole, "stored_bytes"), bytes(&changed, "stored_bytes"));
    assert!(of_whole > 10_000_000, "{whole}");
    assert!(of_changed * 100 <= of_whole * 15, "{of_changed} of {of_whole} bytes stored");
    assert!(bytes(&changed, "pages_checked") < bytes(&whole, "pages_checked") * 15 / 100, "{changed}");
    assert_eq!(changed["set"]["incremental"], true);
}

/// What the tables hold that the history of [`first`], [`second`] and [`third`] makes.
const SUMS: &str = "SELECT string_agg(name || ' ' || rows, ', ' ORDER BY name) FROM (\
    SELECT relname AS name, (xpath('/row/c/text()', query_to_xml(format(\
        'SELECT count(*) || ''/'' || coalesce(sum(hashtextextended(t::text, 0)), 0) AS c FROM %I AS t', relname), false, true, '')))[1]::text AS rows \
    FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace) AS counted";

fn first(server: &Postgres, far: &Path) {
    let tablespace = format!("CREATE TABLESPACE distant LOCATION '{}'", far.display());
    let make = |name: &str, tablespace: &str| {
        format!(
            "CREATE TABLE {name} {tablespace} AS SELECT i, md5(i::text) AS text FROM generate_series(1, 20000) AS i"
        )
    };
    execute(server, &[&tablespace]);
    for name in ["kept", "changed", "grown", "shrunk", "emptied", "dropped", "later_emptied"] {
        execute(server, &[&make(name, "")]);
    }
    execute(
        server,
        &[
            &make("distant_table", "TABLESPACE distant"),
            "CREATE INDEX ON changed (text)",
            "VACUUM",
            "CHECKPOINT",
        ],
    );
}

fn second(server: &Postgres) {
    execute(
        server,
        &[
            "UPDATE changed SET text = 'second' WHERE i % 2000 = 0",
            "INSERT INTO grown SELECT i, 'second' FROM generate_series(1, 5000) AS i",
            "DELETE FROM shrunk WHERE i > 5000",
            "VACUUM (TRUNCATE) shrunk",
            "TRUNCATE emptied",
            "DROP TABLE dropped",
            "CREATE TABLE made AS SELECT i FROM generate_series(1, 10000) AS i",
            "UPDATE distant_table SET text = 'second' WHERE i < 10",
            "CREATE DATABASE other",
        ],
    );
    server.execute("other", "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) AS i").unwrap();
}

fn third(server: &Postgres) {
    execute(
        server,
        &[
            "UPDATE changed SET text = 'third' WHERE i % 3000 = 0",
            // Grows again over blocks that were cut off.
            "INSERT INTO shrunk SELECT i, 'third' FROM generate_series(1, 4000) AS i",
            "TRUNCATE later_emptied",
            "INSERT INTO emptied SELECT i, 'third' FROM generate_series(1, 100) AS i",
            "DELETE FROM made WHERE i > 100",
            "VACUUM (TRUNCATE) made",
            "UPDATE distant_table SET text = 'third' WHERE i > 19990",
        ],
    );
    server.execute("other", "UPDATE t SET i = 0 WHERE i < 10").unwrap();
}

#[test]
fn a_chain_of_encrypted_sets_comes_back_as_it_was() {
    let server = server();
    let far = server.make_folder("far");
    let identity = age::x25519::Identity::generate();
    let place = project(&server.uri());
    place.write("identity.txt", identity.to_string().expose_secret());
    let configured = fs::read_to_string(place.path("mainstay.toml")).unwrap();
    place.write(
        "mainstay.toml",
        &format!(
            "{configured}recipients = [\"{}\"]\nidentity_file = \"identity.txt\"\n",
            identity.to_public()
        ),
    );
    first(&server, &far);
    let create = ["backup", "create", "--store", "postgres"];
    backup(&place);
    second(&server);
    let dry = place.run(&[&create[..], &["--incremental", "--dry-run"]].concat()).expect(0);
    dry.says("read what has changed");
    let middle = increment(&place);
    third(&server);
    let last = place.run(&[&create[..], &["--incremental", id(&middle), "--json"]].concat()).expect(0).json();
    let (expected, other) = (server.texts("postgres", SUMS), server.texts("other", "SELECT sum(i) FROM t"));
    execute(&server, &["DROP TABLE kept"]);

    assert_eq!(last["set"]["chain"].as_array().unwrap().len(), 2, "{last}");
    place.run(&["backup", "show", id(&last)]).expect(0).says("number 3 of its chain").says(id(&middle));
    place.run(&["backup", "list"]).expect(0).says(&format!("changes since {}", id(&middle)));
    place.run(&["backup", "verify", id(&last)]).expect(0).says("is sound").says("2 sets that it builds on");

    let folder = server.make_folder("restored");
    let (into, moved) = (folder.join("data"), folder.join("moved"));
    plan(&place, id(&last), &into, &["--tablespace", &format!("{}={}", far.display(), moved.display())]);
    place.run(&["restore", "apply", "plan.json"]).expect(0);
    succeeds(tool("pg_verifybackup").arg("--no-parse-wal").arg(&into));
    give(&folder, &server);
    let restored = Postgres::options().in_folder(&folder).start().unwrap();
    assert_eq!(restored.texts("postgres", SUMS), expected);
    assert_eq!(restored.texts("other", "SELECT sum(i) FROM t"), other);
    check_relations(&restored);
}

/// The objects of a set, unpacked as one would by hand.
fn by_hand(place: &Place, set: &str, to: &Path, far: &Path) {
    let from = place.path(&format!("repository/postgres/sets/{set}"));
    let plain = |name: &str, to: &Path| {
        let file = File::open(from.join(format!("{name}.zst"))).unwrap();
        zstd::stream::copy_decode(file, File::create(to).unwrap()).unwrap();
    };
    let untar = |name: &str, to: &Path| {
        let archive = to.with_extension("tar");
        plain(name, &archive);
        fs::create_dir_all(to).unwrap();
        succeeds(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(to));
    };
    untar("base.tar", to);
    plain("backup_manifest", &to.join("backup_manifest"));
    for link in fs::read_dir(to.join("pg_tblspc")).unwrap().map(|entry| entry.unwrap().path()) {
        let oid = link.file_name().unwrap().to_str().unwrap();
        untar(&format!("{oid}.tar"), far);
        fs::remove_file(&link).unwrap();
        symlink(far, &link).unwrap();
    }
}

/// Every file below `folder`, by its path in it.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path().strip_prefix(folder).unwrap().to_owned();
                found.insert(path, fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

/// The files that a manifest names, with sizes and sums.
fn listed(manifest: &[u8]) -> BTreeMap<String, Value> {
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    let of = |file: &Value| {
        let facts = ["Size", "Checksum-Algorithm", "Checksum"].map(|name| file[name].clone());
        (file["Path"].as_str().unwrap().to_owned(), Value::from(facts.to_vec()))
    };
    // Their tool lists files of WAL, too, without sums; a server's list has none.
    let files = manifest["Files"].as_array().unwrap().iter().map(of);
    files.filter(|(path, _)| !path.starts_with("pg_wal/")).collect()
}

#[test]
fn what_is_put_together_is_what_the_servers_own_tool_makes_of_it() {
    let server = server();
    let far = server.make_folder("far");
    let place = project(&server.uri());
    first(&server, &far);
    let sets = [
        backup(&place),
        {
            second(&server);
            increment(&place)
        },
        {
            third(&server);
            increment(&place)
        },
    ];
    let hand = place.path("hand");
    fs::create_dir(&hand).unwrap();
    for (number, made) in sets.iter().enumerate() {
        by_hand(&place, id(made), &hand.join(format!("set{number}")), &hand.join(format!("far{number}")));
    }
    for last in [1, 2] {
        let (theirs, theirs_far) = (hand.join(format!("out{last}")), hand.join(format!("out_far{last}")));
        let mut combine = tool("pg_combinebackup");
        combine.args((0..=last).map(|number| hand.join(format!("set{number}")))).arg("--output").arg(&theirs);
        let old_far = hand.join(format!("far{last}"));
        combine.arg("--no-sync").arg("-T").arg(format!("{}={}", old_far.display(), theirs_far.display()));
        succeeds(&mut combine);

        let (ours, ours_far) = (place.path(&format!("data{last}")), place.path(&format!("data_far{last}")));
        let mapping = format!("{}={}", far.display(), ours_far.display());
        plan(&place, id(&sets[last]), &ours, &["--tablespace", &mapping]);
        place.run(&["restore", "apply", "plan.json"]).expect(0);

        let (mut ours, mut theirs) = (files(&ours), files(&theirs));
        let manifest = Path::new("backup_manifest");
        let (our_list, their_list) = (ours.remove(manifest).unwrap(), theirs.remove(manifest).unwrap());
        let (ours_listed, theirs_listed) = (listed(&our_list), listed(&their_list));
        let differing = ours_listed.iter().find(|(path, facts)| theirs_listed.get(*path) != Some(facts));
        assert_eq!((differing, ours_listed.len()), (None, theirs_listed.len()));
        assert_same(&ours, &theirs);
        assert_same(&files(&ours_far), &files(&theirs_far));
    }
}

#[track_caller]
fn assert_same(ours: &BTreeMap<PathBuf, Vec<u8>>, theirs: &BTreeMap<PathBuf, Vec<u8>>) {
    assert!(!ours.is_empty() && ours.keys().eq(theirs.keys()), "{:?} {:?}", ours.keys(), theirs.keys());
    let differing: Vec<&PathBuf> =
        ours.iter().filter(|(path, bytes)| &theirs[*path] != *bytes).map(|(path, _)| path).collect();
    assert!(differing.is_empty(), "{differing:?}");
}

#[test]
fn a_chain_with_a_bad_link_is_told_and_never_restored() {
    let server = server();
    execute(&server, &["CREATE TABLE t AS SELECT generate_series(1, 50000) AS i"]);
    let place = project(&server.uri());
    backup(&place);
    execute(&server, &["UPDATE t SET i = 0 WHERE i % 1000 = 0"]);
    let middle = increment(&place);
    execute(&server, &["UPDATE t SET i = 1 WHERE i % 1000 = 1"]);
    let last = increment(&place);
    let into = place.path("data");
    plan(&place, id(&last), &into, &[]);
    let refused = |what: &str| {
        place.run(&["restore", "apply", "plan.json"]).expect(4).says(id(&middle));
        assert!(!into.exists(), "{what}");
        place.run(&["backup", "verify", id(&last)]).expect(4).says("DAMAGED").says(id(&middle));
        place.run(&["backup", "list"]).expect(4);
    };
    let folder = place.path(&format!("repository/postgres/sets/{}", id(&middle)));
    let (object, manifest) = (folder.join("base.tar.zst"), folder.join("manifest.json"));

    // Nobody has verified the middle set: a set without manifest that nobody needs would be removed.
    let kept = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    wait_for("the leases have run out", || {
        let pruned = place.run(&["backup", "prune"]).expect(0);
        pruned.both().contains("sets build on it")
    });
    assert!(object.exists());
    refused("without manifest");
    fs::write(&manifest, kept).unwrap();

    let whole = fs::read(&object).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (what, damaged) in [("flipped", &flipped[..]), ("cut", &whole[..whole.len() / 2])] {
        fs::write(&object, damaged).unwrap();
        refused(what);
    }
    fs::write(&object, &whole).unwrap();
    place.run(&["backup", "verify", id(&last)]).expect(0);

    // Known to be sound, it is read again nevertheless.
    fs::write(&object, &flipped).unwrap();
    place.run(&["restore", "apply", "plan.json"]).expect(4).says("nothing was written");
    assert!(!into.exists());
    fs::remove_dir_all(&folder).unwrap();
    refused("gone");
}

#[test]
fn what_cannot_be_built_on_is_refused() {
    let mut server = server();
    let place = project(&server.uri());
    let create = ["backup", "create", "--store", "postgres", "--incremental"];
    place.run(&create).expect(1);
    let whole = backup(&place);
    place.run(&create).expect(0);
    place
        .run(&["backup", "create", "--store", "mongo", "--incremental"])
        .expect(2)
        .says("--incremental means nothing for mongo");

    // What has changed is not known any more.
    let summaries = server.dir().join("data/pg_wal/summaries");
    for summary in fs::read_dir(summaries).unwrap() {
        fs::remove_file(summary.unwrap().path()).unwrap();
    }
    place
        .run(&[&create[..], &[id(&whole)]].concat())
        .expect(8)
        .says("does not know any more what has changed");
    assert_eq!(sets(&place), 2);

    // Another timeline: the same cluster, gone on from a restored copy.
    let folder = server.make_folder("restored");
    plan(&place, id(&whole), &folder.join("data"), &[]);
    place.run(&["restore", "apply", "plan.json"]).expect(0);
    fs::write(folder.join("data/recovery.signal"), "").unwrap();
    give(&folder, &server);
    let options = Postgres::options().in_folder(&folder).parameter("restore_command", "false");
    let promoted = Server(options.parameter("summarize_wal", "on").start().unwrap());
    wait_for("it is promoted", || promoted.texts("postgres", "SELECT pg_is_in_recovery()") == ["f"]);
    configure(&place, &promoted.uri());
    place.run(&[&create[..], &[id(&whole)]].concat()).expect(8).says("is of timeline 1");
    configure(&place, &server.uri());

    // Off is how a server comes.
    server.0.kill9();
    let server = Postgres::options().in_folder(server.dir()).start().unwrap();
    configure(&place, &server.uri());
    place.run(&create).expect(8).says("summarize_wal is off").says("ALTER SYSTEM SET summarize_wal = on");
    assert_eq!(sets(&place), 2);
}

#[test]
fn a_killed_increment_leaves_no_set_and_none_is_lost() {
    let server = server();
    let proxy = FaultProxy::start(server.address());
    let place = project(&server.uri_through(proxy.address(), "postgres"));
    execute(&server, &["CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 100000) AS i"]);
    backup(&place);
    execute(&server, &["UPDATE t SET i = 0"]);
    let before = proxy.counters().from_server_bytes;
    proxy.throttle(4_000_000);
    let mut running = Running::start(&place, &["backup", "create", "--store", "postgres", "--incremental"]);
    wait_for("changes flow", || proxy.counters().from_server_bytes > before + 4_000_000);
    running.kill();
    assert_eq!(sets(&place), 1);
    proxy.heal();
    wait_for("the server's sender ends", || {
        server.texts("postgres", "SELECT count(*) FROM pg_stat_replication") == ["0"]
    });
    let made = increment(&place);
    assert_eq!(sets(&place), 2);
    wait_for("the lease of the killed one has run out", || {
        place.run(&["backup", "prune", "--json"]).expect(0).json()["in_use"].as_array().unwrap().is_empty()
    });
    place.run(&["backup", "verify", id(&made)]).expect(0);
    place.run(&["restore", "plan", id(&made), "--store", "postgres", "--into", "data"]).expect(0);
}
