//! The past of a server that archived its WAL by itself: imported, and restored together with what was captured since.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use mainstay_testkit::Postgres;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::capture::{on_disk, stored};
use crate::stack::{Stack, segment_name, wait_for};

const SEGMENT_BYTES: u64 = 16 << 20;

/// A server that archives, as they did before.
struct Archiving {
    stack: Stack,
    folder: TempDir,
}

impl Archiving {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let command = format!("test ! -f {0}/%f && cp %p {0}/%f", folder.path().display());
        let options =
            Postgres::options().parameter("archive_mode", "on").parameter("archive_command", &command);
        let stack = Stack::of(options.parameter("wal_keep_size", "512MB").start().unwrap());
        stack.execute("CREATE TABLE m (n int PRIMARY KEY, pad text)");
        Self { stack, folder }
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a row; gives the position behind its commit.
    fn commit(&self) -> String {
        self.stack.execute("INSERT INTO m SELECT count(*) + 1, repeat('x', 1000) FROM m");
        self.stack.server.texts("postgres", "SELECT pg_current_wal_insert_lsn()").remove(0)
    }

    /// Lets the server begin another segment, and waits until the one before is archived; gives its name.
    fn archive(&self) -> String {
        let query = "SELECT pg_walfile_name(pg_switch_wal())";
        let name = self.stack.server.texts("postgres", query).remove(0);
        self.archived(&name);
        name
    }

    fn archived(&self, name: &str) {
        let last = format!("SELECT count(*) FROM pg_stat_archiver WHERE last_archived_wal >= '{name}'");
        wait_for("the segment is archived", || self.stack.server.texts("postgres", &last) == ["1"]);
    }

    fn import(&self, folder: &str) -> Value {
        self.stack.json(&["wal", "import", folder])
    }

    fn gaps(&self) -> Value {
        self.stack.json(&["backup", "list"])["wal"][0]["timelines"][0]["gaps"].clone()
    }
}

#[track_caller]
fn assert_holds(server: &Postgres, count: usize) {
    let found = server.texts("postgres", "SELECT count(*) || ' ' || max(n) FROM m");
    assert_eq!(found, [format!("{count} {count}")]);
}

fn gzip(file: &Path) {
    assert!(Command::new("gzip").arg(file).status().unwrap().success());
}

fn zstd(file: &Path) {
    let packed = zstd::encode_all(&*fs::read(file).unwrap(), 1).unwrap();
    fs::write(format!("{}.zst", file.display()), packed).unwrap();
    fs::remove_file(file).unwrap();
}

/// Copies a file, so that everybody may read it.
fn put(from: &Path, to: &Path) {
    fs::write(to, fs::read(from).unwrap()).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o644)).unwrap();
}

/// Names, lengths and times of what lies in a folder.
fn listing(folder: &Path) -> BTreeMap<String, (u64, std::time::SystemTime)> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let found = entry.metadata().unwrap();
            (entry.file_name().into_string().unwrap(), (found.len(), found.modified().unwrap()))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_of_the_archived_past_is_restored_after_capture_took_over() {
    let archiving = Archiving::start();
    let stack = &archiving.stack;
    let set = stack.back_up();
    let mut positions: Vec<String> = (0..4).map(|_| archiving.commit()).collect();
    gzip(&archiving.file(&archiving.archive()));
    positions.extend((0..4).map(|_| archiving.commit()));
    zstd(&archiving.file(&archiving.archive()));
    positions.extend((0..2).map(|_| archiving.commit()));
    archiving.archive();
    // From here on WAL is captured; what the server keeps for the slot begins here.
    stack.execute("CHECKPOINT");
    stack.catch_up();
    positions.extend((0..2).map(|_| archiving.commit()));
    stack.catch_up();
    stack.plan("early", &["--to", &positions[5]]).expect(8).says("continues none of the backup sets");

    let before = listing(archiving.folder.path());
    let dry = stack.run(&["wal", "import", archiving.path(), "--dry-run"]).expect(0);
    dry.says("import timeline 1").says("base backup").says("taken by others");
    let imported = archiving.import(archiving.path());
    assert!(imported["segments"].as_u64().unwrap() >= 3, "{imported}");
    assert_eq!((&imported["gaps"], &archiving.gaps()), (&json!([]), &json!([])), "{imported}");
    let again = archiving.import(archiving.path());
    assert_eq!((&again["segments"], &again["chains"]), (&json!(0), &json!([])), "{again}");
    assert_eq!(again["known"], imported["segments"].as_u64().unwrap() + imported["known"].as_u64().unwrap());
    stack.run(&["wal", "import", archiving.path()]).expect(0).says("nothing was there to import");
    assert_eq!(listing(archiving.folder.path()), before, "nothing of the archive was changed");
    stack.run(&["backup", "verify", "--store", "postgres", "--log"]).expect(0);
    stack.run(&["audit", "list"]).expect(0).says("wal.import");
    let range = &stack.json(&["backup", "list"])["wal"][0]["timelines"][0]["ranges"][0];
    assert_eq!(range["set"], set.as_str(), "{range}");

    for (name, count) in [("past", 6), ("present", 11)] {
        let restored = stack.restore(name, &["--to", &positions[count - 1]]);
        assert_holds(&restored, count);
    }
}

/// Kills an import as soon as more than `count` slices are stored. One that finds the lease of the killed one before it ends at once, and is begun
/// again.
fn kill_when_stored(archiving: &Archiving, count: usize) {
    let stack = &archiving.stack;
    let is_stored = || slice_count(&stack.path("repository/postgres/log")) > count;
    wait_for("an import is killed", || {
        let mut child = stack.command(&["wal", "import", archiving.path(), "--quiet"]).spawn().unwrap();
        let mut ended = None;
        wait_for("a slice is stored, or the import ends", || {
            ended = child.try_wait().unwrap();
            ended.is_some() || is_stored()
        });
        assert!(ended.is_none_or(|ended| !ended.success()), "the import ended before it was killed");
        child.kill().unwrap();
        child.wait().unwrap();
        ended.is_none()
    });
}

/// The slices of all chains below a folder, which need not be there yet.
fn slice_count(log: &Path) -> usize {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries(log).flat_map(|chain| entries(&chain.path()).collect::<Vec<_>>());
    files
        .filter(|file| file.file_name() != "chain.json" && !file.file_name().to_string_lossy().contains('#'))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_killed_goes_on_and_capture_begins_where_it_ends() {
    let archiving = Archiving::start();
    let stack = &archiving.stack;
    stack.back_up();
    for _ in 0..8 {
        archiving.commit();
        archiving.archive();
    }
    for stored in [0, 2, 5] {
        kill_when_stored(&archiving, stored);
    }
    // It waits for no lease longer than that of the one that was killed.
    wait_for("the import is done", || stack.run(&["wal", "import", archiving.path()]).status == 0);
    let (repository, chains) = stack.chains().await;
    assert_eq!(chains.len(), 1, "one chain through all kills");
    let (from, end) = (chains[0].description().after, chains[0].end());
    assert_eq!((chains[0].damage(), end.0 % SEGMENT_BYTES), (&[][..], 0));
    assert!(stored(&repository, &chains[0]).await == on_disk(&stack.server, from, end));

    // Nothing came since: capture begins right there, and the archive may go on to be imported, or not.
    stack.catch_up().says(&format!("begins at {}", mainstay_model::Lsn(end.0)));
    let position = archiving.commit();
    archiving.archive();
    stack.catch_up().says("goes on at");
    assert_eq!(archiving.import(archiving.path())["segments"], 0, "captured already");
    assert_eq!(archiving.gaps(), json!([]));
    stack.plan("latest", &["--to", &position]).expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_that_ended_in_the_archive_is_imported_to_its_end() {
    let mut archiving = Archiving::start();
    archiving.stack.back_up();
    (0..3).for_each(|_| drop(archiving.commit()));
    archiving.archive();
    archiving.commit();
    // The server wakes up as a standby and is promoted: the old timeline ends in the middle of a segment.
    archiving.stack.server.stop();
    fs::write(archiving.stack.server.dir().join("data/standby.signal"), "").unwrap();
    archiving.stack.server.restart().unwrap();
    archiving.stack.execute("SELECT pg_promote()");
    let stack = &archiving.stack;
    wait_for("it takes writes", || stack.server.texts("postgres", "SELECT pg_is_in_recovery()") == ["f"]);
    (0..2).for_each(|_| drop(archiving.commit()));
    archiving.archive();
    let names: Vec<String> = listing(archiving.folder.path()).into_keys().collect();
    assert!(names.iter().any(|name| name.ends_with(".partial")), "{names:?}");

    let history = archiving.file("00000002.history");
    let text = fs::read(&history).unwrap();
    fs::remove_file(&history).unwrap();
    stack.run(&["wal", "import", archiving.path()]).expect(8).says("no 00000002.history");
    fs::write(&history, text).unwrap();
    let imported = archiving.import(archiving.path());
    let timelines: Vec<&Value> =
        imported["parts"].as_array().unwrap().iter().map(|part| &part["timeline"]).collect();
    assert_eq!(timelines, [&json!(1), &json!(2)], "{imported}");
    assert_eq!(archiving.import(archiving.path())["segments"], 0);
    stack.run(&["wal", "fetch", "00000002.history", "fetched"]).expect(0);

    let newest = stack.restore("newest", &["--to", "latest"]);
    assert_holds(&newest, 6);
    drop(newest);
    let other = stack.restore("other", &["--to", "latest", "--timeline", "1"]);
    assert_holds(&other, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_missing_or_of_another_server_is_named() {
    let archiving = Archiving::start();
    let stack = &archiving.stack;
    let mut names = Vec::new();
    for _ in 0..4 {
        archiving.commit();
        names.push(archiving.archive());
    }
    let file = archiving.file(&names[1]);
    let whole = fs::read(&file).unwrap();
    let refused = |status, why: &str| {
        stack.run(&["wal", "import", archiving.path()]).expect(status).says(&names[1]).says(why)
    };
    fs::write(&file, &whole[..100_000]).unwrap();
    refused(4, "has only 100000 bytes, not 16777216");
    let mut flipped = whole.clone();
    // In the first record of the segment.
    flipped[100] ^= 1;
    fs::write(&file, &flipped).unwrap();
    refused(4, "cannot be trusted: WAL at").says("were imported, and stay");
    fs::write(&file, vec![0; whole.len()]).unwrap();
    refused(4, "its first page is not one of PostgreSQL 15 to 18");
    put(&archiving.file(&names[2]), &file);
    refused(4, "holds the segment at");

    // A hole is told, and what is around it is brought.
    fs::remove_file(&file).unwrap();
    stack.run(&["wal", "import", archiving.path(), "--dry-run"]).expect(0).says("gap in timeline 1");
    let imported = archiving.import(archiving.path());
    assert_eq!(
        (imported["gaps"].as_array().unwrap().len(), archiving.gaps().as_array().unwrap().len()),
        (1, 1)
    );
    stack.run(&["wal", "fetch", &names[1], "fetched"]).expect(1);

    // What fills it must lead from one side to the other.
    let packed = archiving.file(&format!("{}.gz", names[1]));
    fs::write(&file, &whole).unwrap();
    gzip(&file);
    let mut bytes = Vec::new();
    fs::File::open(&packed).unwrap().read_to_end(&mut bytes).unwrap();
    fs::write(&packed, &bytes[..bytes.len() / 2]).unwrap();
    refused(4, "cannot be unpacked");
    fs::write(&packed, &bytes).unwrap();
    fs::write(archiving.file(&format!("{}.lz4", names[0])), "").unwrap();
    stack.run(&["wal", "import", archiving.path(), "--dry-run"]).expect(0).says("pass over");
    assert_eq!(archiving.import(archiving.path())["segments"], 1);
    assert_eq!(archiving.gaps(), json!([]));

    // What cannot be unpacked is found when its turn comes: what was brought before it stays, and that is told.
    let later: Vec<String> = (0..2).map(|_| (archiving.commit(), archiving.archive()).1).collect();
    gzip(&archiving.file(&later[1]));
    let packed = archiving.file(&format!("{}.gz", later[1]));
    let bytes = fs::read(&packed).unwrap();
    fs::write(&packed, &bytes[..bytes.len() / 2]).unwrap();
    let seen = stack.run(&["wal", "import", archiving.path()]).expect(4);
    seen.says(&later[1]).says("cannot be unpacked").says("were imported, and stay");
    fs::write(&packed, &bytes).unwrap();
    assert_eq!(archiving.import(archiving.path())["segments"], 1);

    // Another server's, and a timeline of which nobody knows what leads to it.
    let mut foreign = whole.clone();
    foreign[24] ^= 1;
    fs::write(&file, foreign).unwrap();
    refused(8, "is of server").says("must not be mixed");
    fs::remove_file(&file).unwrap();
    stack.run(&["wal", "import", archiving.path(), "--server", "7"]).expect(8).says("not of 7");
    stack.run(&["wal", "import", "no-such-folder"]).expect(1).says("is no folder");
    stack.run(&["wal", "import", "."]).expect(8).says("holds no segment of WAL");
    stack.run(&["wal", "import"]).expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_histories_of_one_server_are_not_put_together() {
    let mut archiving = Archiving::start();
    archiving.commit();
    archiving.archive();
    // A copy of the server goes its own way on the same timeline.
    archiving.stack.server.stop();
    let copy = archiving.stack.server.make_folder("copy");
    let data = archiving.stack.server.dir().join("data");
    assert!(Command::new("cp").arg("--archive").args([&data, &copy]).status().unwrap().success());
    archiving.stack.server.restart().unwrap();
    let stack = &archiving.stack;
    archiving.commit();
    let name = archiving.archive();
    let own = archiving.import(archiving.path());
    assert!(own["segments"].as_u64().unwrap() >= 2, "{own}");

    let other = Postgres::options().in_folder(&copy).parameter("wal_keep_size", "512MB").start().unwrap();
    other.execute("postgres", "INSERT INTO m VALUES (2, 'another'); SELECT pg_switch_wal()").unwrap();
    other.execute("postgres", "INSERT INTO m VALUES (3, 'another'); SELECT pg_switch_wal()").unwrap();
    let number = u64::from_str_radix(&name[16..], 16).unwrap();
    let next = segment_name(1, number + 1);
    put(&copy.join("data/pg_wal").join(&next), &archiving.file(&next));
    let seen = stack.run(&["wal", "import", archiving.path()]).expect(8);
    seen.says(&next).says("of two histories");
    // Nor does a capture of the copy go on behind what was imported.
    stack.configure(&other.uri());
    stack.run(&["capture", "postgres", "--once"]).expect(8).says("is of another history");
}
