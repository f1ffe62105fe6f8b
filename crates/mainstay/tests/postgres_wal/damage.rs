//! Damage to captured WAL: found by a verification, and in the way of a restore before it writes.

use std::fs;

use crate::stack::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_stops_a_restore_before_it_writes() {
    let stack = Stack::start();
    stack.catch_up();
    stack.back_up();
    for number in 0..4 {
        stack.execute(&format!("CREATE TABLE t{number} AS SELECT generate_series(1, 1000) AS i"));
        stack.catch_up();
    }
    stack.plan("sound", &["--to", "latest"]).expect(0).says("verify WAL");
    let (_, chains) = stack.chains().await;
    let slices = chains[0].slices();
    assert!(slices.len() >= 4, "{}", slices.len());
    let number = slices.len() - 2;
    let (file, name) = (stack.slice_file(number).await, slices[number].name());
    let whole = fs::read(&file).unwrap();
    let into = stack.path("sound").join("data");

    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() / 2], &[]] {
        fs::write(&file, damaged).unwrap();
        stack.run(&["backup", "verify", "--store", "postgres"]).expect(4).says(&name);
        stack.apply("sound").expect(4).says("nothing was written");
        assert!(!into.exists());
    }
    fs::write(&file, &flipped).unwrap();
    stack.plan("flipped", &["--to", "latest"]).expect(4).says(&name);
    let segment = segment_of(slices[number].after.0);
    stack.run(&["wal", "fetch", &segment, "fetched"]).expect(204).says(&name);

    fs::remove_file(&file).unwrap();
    stack.run(&["backup", "verify", "--store", "postgres"]).expect(4).says("has no slice with what follows");
    stack.apply("sound").expect(4).says("nothing was written");
    assert!(!into.exists());
    // A server that would ask for it must not take its log to end there.
    stack.run(&["wal", "fetch", &segment, "fetched"]).expect(204).says("has a hole at");
    assert!(!stack.path("fetched").exists());
    stack.run(&["backup", "list"]).expect(4).says("slices are missing from the repository");
    // Nothing behind the hole can be restored, and nothing in its segment, which a server would ask for.
    let end = mainstay_model::Lsn(chains[0].end().0).to_string();
    let before = mainstay_model::Lsn(slices[number].after.0).to_string();
    for target in ["latest", &end, &before] {
        stack.plan("behind", &["--to", target]).expect(4).says("has a hole at");
    }

    fs::write(&file, &whole).unwrap();
    stack.run(&["backup", "verify", "--store", "postgres"]).expect(0);
    stack.run(&["wal", "fetch", &segment, "fetched"]).expect(0);

    // Of a chain without its description nobody knows what it holds.
    let description = file.parent().unwrap().join("chain.json");
    let sealed = fs::read(&description).unwrap();
    fs::write(&description, "{}").unwrap();
    stack.run(&["backup", "list"]).expect(4).says("is DAMAGED");
    stack
        .run(&["wal", "fetch", &segment, "fetched"])
        .expect(204)
        .says("it is not known whether it was captured");
    stack.plan("nothing", &["--to", "latest"]).expect(8).says("no WAL of server");
    // Nor is it taken for nothing by an import.
    fs::create_dir(stack.path("archive")).unwrap();
    let kept = stack.server.dir().join("data/pg_wal").join(&segment);
    // Not a copy, which only the server's user could read.
    fs::write(stack.path("archive").join(&segment), fs::read(kept).unwrap()).unwrap();
    stack.run(&["wal", "import", "archive"]).expect(4).says("it is not known what is stored");
    fs::write(&description, sealed).unwrap();
    stack.apply("sound").expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_behind_a_name_is_told_and_keeps_nobody_from_it() {
    let stack = Stack::start();
    stack.catch_up();
    stack.execute("CREATE TABLE m (n int)");
    stack.back_up();
    stack.execute("INSERT INTO m VALUES (1)");
    // The server's own: the repository has no record of it.
    stack.server.texts("postgres", "SELECT pg_create_restore_point('here')");
    stack.server.texts("postgres", "SELECT pg_switch_wal()");
    stack.execute("INSERT INTO m VALUES (2)");
    stack.server.texts("postgres", "SELECT pg_create_restore_point('near')");
    stack.server.texts("postgres", "SELECT pg_switch_wal()");
    stack.execute("INSERT INTO m VALUES (3)");
    stack.server.texts("postgres", "SELECT pg_create_restore_point('there')");
    stack.execute("INSERT INTO m VALUES (3)");
    stack.catch_up();
    stack.execute("INSERT INTO m SELECT generate_series(1, 1000)");
    stack.catch_up();
    let (_, chains) = stack.chains().await;
    let file = stack.slice_file(chains[0].slices().len() - 1).await;
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    stack
        .plan("here", &["--to", "here"])
        .expect(0)
        .says("it is not known whether the name was given again; a server stops at the first");
    stack.apply("here").expect(0);
    // A server fetches whole segments, and the next one ahead; this one cannot be had.
    for target in ["near", "there", "nowhere", "latest"] {
        stack.plan(target, &["--to", target]).expect(4);
    }
}

fn segment_of(position: u64) -> String {
    let number = position / (16 << 20);
    format!("00000001{:08X}{:08X}", number / 256, number % 256)
}
