//! The local directory: modes, killed writers, full and read-only disks, foreign files.
//!
//! Disks that are full or read-only are real ones: a `tmpfs` in a mount namespace of its own (`unshare`), in which this test binary runs
//! the same test again; the second process knows by [`FOLDER_VARIABLE`] that it is the one to do the work.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mainstay_model::{Error, ErrorKind};
use mainstay_store::{Key, Location, Store, StoreOptions};

/// Where a test that runs in a second process finds its folder.
const FOLDER_VARIABLE: &str = "MAINSTAY_STORE_TEST_FOLDER";

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn open(path: &Path) -> Store {
    Store::open(&Location::directory(path), &StoreOptions::default()).unwrap()
}

/// The folder to work in, in a second process; `None` in the first.
fn given_folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from)
}

#[tokio::test]
async fn a_new_directory_is_private_and_relative_ones_resolve_against_the_base() {
    let temporary = tempfile::tempdir().unwrap();
    let options = StoreOptions { base_dir: temporary.path().to_owned(), ..StoreOptions::default() };
    let store = Store::open(&"file:./one/two".parse().unwrap(), &options).unwrap();
    for folder in ["one", "one/two"] {
        let mode = std::fs::metadata(temporary.path().join(folder)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{folder}");
    }
    store.put(&key("a"), Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(std::fs::read(temporary.path().join("one/two/a")).unwrap(), b"x");
    assert!(store.describe().starts_with("file:/"), "{}", store.describe());
}

#[test]
fn a_file_in_place_of_the_directory_is_told() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("file");
    std::fs::write(&path, "x").unwrap();
    let error = Store::open(&Location::directory(&path), &StoreOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn what_mainstay_did_not_write_is_left_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    std::fs::create_dir(temporary.path().join("my notes")).unwrap();
    std::fs::write(temporary.path().join("my notes/read me.txt"), "x").unwrap();
    std::fs::create_dir(temporary.path().join("empty")).unwrap();
    store.put(&key("set/a"), Bytes::new()).await.unwrap();
    assert_eq!(store.list(&Key::root()).await.unwrap().len(), 1);
    assert_eq!(store.folders(&Key::root()).await.unwrap(), ["set"]);
}

#[tokio::test]
async fn a_folder_is_no_object() {
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    store.put(&key("a/b"), Bytes::new()).await.unwrap();
    assert_eq!(store.get(&key("a"), 1).await.unwrap_err().kind(), ErrorKind::NotFound);
    let error = store.put_new(&key("a/b/c"), Bytes::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "below an object there is no folder: {error:?}");
}

#[tokio::test]
async fn an_object_cut_short_while_it_is_read_is_damage() {
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    store.put(&key("a"), vec![1; 3_000_000].into()).await.unwrap();
    let mut reader = store.read(&key("a")).await.unwrap();
    reader.next().await.unwrap().unwrap();
    std::fs::File::options()
        .write(true)
        .open(temporary.path().join("a"))
        .unwrap()
        .set_len(2_000_000)
        .unwrap();
    let error = loop {
        match reader.next().await {
            Ok(chunk) => assert!(chunk.is_some(), "the end must not pass as whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("2000000 of 3000000"), "{error}");
}

#[tokio::test]
async fn a_killed_writer_leaves_only_what_can_be_found_and_removed() {
    if let Some(folder) = given_folder() {
        return write_until_killed(&folder).await;
    }
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_writer_leaves_only_what_can_be_found_and_removed"])
        .env(FOLDER_VARIABLE, temporary.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while store.get(&key("ready"), 1).await.is_err() {
        assert!(child.try_wait().unwrap().is_none(), "the writer ended by itself");
        assert!(begun.elapsed() < Duration::from_secs(60), "the writer does not get ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    store.delete(&key("ready")).await.unwrap();

    assert!(store.list(&Key::root()).await.unwrap().is_empty());
    assert!(store.folders(&Key::root()).await.unwrap().is_empty());
    assert_eq!(store.get(&key("set/big"), 1).await.unwrap_err().kind(), ErrorKind::NotFound);
    let leftovers = store.leftovers(&Key::root()).await.unwrap();
    assert_eq!(leftovers.len(), 1);
    assert_eq!(leftovers[0].name, "set/big#1");
    assert!(leftovers[0].bytes >= 8 * 1024 * 1024);
    assert!(store.leftovers(&key("other")).await.unwrap().is_empty());

    store.put_new(&key("set/big"), Bytes::from_static(b"again")).await.expect("the key is free");
    assert_eq!(
        store.leftovers(&key("set")).await.unwrap(),
        leftovers,
        "the new writer left the old file alone"
    );
    let refusal = store.read_only().remove_leftover(&leftovers[0]).await.unwrap_err();
    assert_eq!(refusal.kind(), ErrorKind::Refused);
    store.remove_leftover(&leftovers[0]).await.unwrap();
    store.remove_leftover(&leftovers[0]).await.expect("it is gone already");
    assert!(store.leftovers(&Key::root()).await.unwrap().is_empty());
    assert_eq!(store.get(&key("set/big"), 10).await.unwrap(), "again");
}

#[tokio::test]
async fn only_partial_files_can_be_removed_as_leftovers() {
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    store.put(&key("a"), Bytes::new()).await.unwrap();
    let modified = store.list(&Key::root()).await.unwrap()[0].modified;
    for name in ["a", "../a#1", "/etc/passwd#1", "a#x", "#1", ""] {
        let leftover = mainstay_store::Leftover { name: name.to_owned(), bytes: 0, modified };
        assert_eq!(store.remove_leftover(&leftover).await.unwrap_err().kind(), ErrorKind::Usage, "{name:?}");
    }
    assert_eq!(store.list(&Key::root()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_disk_is_told_with_what_to_do() {
    match given_folder() {
        Some(folder) => fill_disk(&folder).await,
        None => in_namespace("a_full_disk_is_told_with_what_to_do", "mount -t tmpfs -o size=12m none"),
    }
}

#[tokio::test]
async fn a_read_only_disk_is_told_with_what_to_do() {
    match given_folder() {
        Some(folder) => write_read_only_disk(&folder).await,
        None => in_namespace("a_read_only_disk_is_told_with_what_to_do", "mount -t tmpfs -o ro none"),
    }
}

async fn write_until_killed(folder: &Path) {
    let store = open(folder);
    let mut writer = store.writer(&key("set/big")).await.unwrap();
    writer.write(vec![1; 40 * 1024 * 1024].into()).await.unwrap();
    store.put(&key("ready"), Bytes::new()).await.unwrap();
    std::future::pending::<()>().await;
}

async fn fill_disk(folder: &Path) {
    let store = open(folder);
    store.put(&key("before"), Bytes::from_static(b"kept")).await.unwrap();
    let check = |error: &Error, name: &str| {
        assert_eq!(error.kind(), ErrorKind::Storage, "{error:?}");
        assert!(error.to_string().contains("is full") && error.to_string().contains(name), "{error:?}");
        assert!(error.state().unwrap().contains("was not written"), "{error:?}");
        assert!(error.hint().unwrap().contains("free space"), "{error:?}");
    };
    check(&store.put(&key("whole"), vec![1; 20_000_000].into()).await.unwrap_err(), "whole");
    check(&store.put_new(&key("new"), vec![1; 20_000_000].into()).await.unwrap_err(), "new");

    let mut writer = store.writer(&key("stream")).await.unwrap();
    let error = match writer.write(vec![1; 40_000_000].into()).await {
        Err(error) => error,
        Ok(()) => writer.finish().await.unwrap_err(),
    };
    check(&error, "stream");
    let begun = Instant::now();
    while !store.leftovers(&Key::root()).await.unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the partial file stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let names: Vec<_> = store.list(&Key::root()).await.unwrap().into_iter().map(|info| info.key).collect();
    assert_eq!(names, [key("before")]);
    store.put(&key("after"), vec![1; 1_000_000].into()).await.expect("there is room again");
    assert_eq!(store.get(&key("before"), 10).await.unwrap(), "kept");
}

async fn write_read_only_disk(folder: &Path) {
    let error = Store::open(&Location::directory(folder.join("new")), &StoreOptions::default()).unwrap_err();
    let store = open(folder);
    let mut writer = store.writer(&key("a")).await.unwrap();
    let streamed = match writer.write(vec![1; 9_000_000].into()).await {
        Err(error) => error,
        Ok(()) => writer.finish().await.unwrap_err(),
    };
    let errors = [
        error,
        store.put(&key("a"), Bytes::new()).await.unwrap_err(),
        store.put_new(&key("a"), Bytes::new()).await.unwrap_err(),
        streamed,
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Storage, "{error:?}");
        assert!(error.to_string().contains("is read-only"), "{error:?}");
        assert!(error.hint().is_some());
    }
}

/// Runs a test again in a mount namespace in which `mount` has been applied to its folder.
fn in_namespace(test: &str, mount: &str) {
    let temporary = tempfile::tempdir().unwrap();
    let namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.arg(std::env::current_exe().unwrap()).arg(test).env(FOLDER_VARIABLE, temporary.path());
        command.output()
    };
    let mounted = format!("{mount} \"${FOLDER_VARIABLE}\"");
    let permitted = namespace(&mounted).is_ok_and(|output| output.status.success());
    assert!(permitted, "this test mounts a file system of its own and needs `unshare` with user namespaces");
    let output = namespace(&format!("{mounted} && exec \"$1\" --exact \"$2\"")).unwrap();
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}
