//! `wal fetch`, as a recovering server calls it: one segment after another, some of them there before they are asked for.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use mainstay_testkit::S3Server;

use crate::stack::{Seen, Stack, segment_name};

/// How many whole segments there are to fetch.
const SEGMENT_COUNT: u64 = 10;

/// Captures that many whole segments, and a part of one; gives the number of the first.
async fn capture_segments(stack: &Stack) -> u64 {
    stack.catch_up();
    stack.execute("CREATE TABLE t (i int)");
    for _ in 0..SEGMENT_COUNT {
        stack.execute("INSERT INTO t SELECT generate_series(1, 1000)");
        stack.server.texts("postgres", "SELECT pg_switch_wal()");
    }
    stack.execute("INSERT INTO t VALUES (1)");
    stack.catch_up();
    let slot = "SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots";
    let last = stack.server.texts("postgres", slot).remove(0);
    u64::from_str_radix(&last[16..], 16).unwrap() - SEGMENT_COUNT
}

fn name(number: u64) -> String {
    segment_name(1, number)
}

/// Fetches as the server's command does.
fn fetch(stack: &Stack, name: &str, ahead: &str) -> Seen {
    stack.run(&["wal", "fetch", "--json", "--prefetch", ahead, name, "RECOVERYXLOG"])
}

/// Whether what was fetched is the server's own segment.
#[track_caller]
fn assert_fetched(stack: &Stack, number: u64) {
    let own = fs::read(stack.server.dir().join("data/pg_wal").join(name(number))).unwrap();
    assert!(fs::read(stack.path("RECOVERYXLOG")).unwrap() == own, "{}", name(number));
}

/// The files that wait.
fn waiting(stack: &Stack) -> Vec<PathBuf> {
    let entries = fs::read_dir(stack.path(".mainstay-ahead")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_asks_the_repository_once_for_many_segments() {
    let (mut stack, s3) = (Stack::start(), S3Server::start());
    stack.configure_s3(&s3, "l");
    let first = capture_segments(&stack).await;
    let mut calls = [Vec::new(), Vec::new()];
    for (counted, ahead) in calls.iter_mut().zip(["0", "4"]) {
        for number in first..first + SEGMENT_COUNT {
            let before = s3.requests();
            let fetched = fetch(&stack, &name(number), ahead).expect(0).json();
            counted.push(s3.requests() - before);
            assert_fetched(&stack, number);
            assert_eq!(fetched["captured_bytes"], 16 << 20, "{fetched}");
            assert!(waiting(&stack).len() <= 4);
        }
    }
    let [alone, ahead] = calls;
    assert!(alone.iter().all(|calls| (1..=8).contains(calls)), "{alone:?}");
    for number in [1, 2, 3, 4, 6, 7, 8, 9] {
        assert_eq!(ahead[number], 0, "{ahead:?}");
    }
    let sum = |calls: &[u64]| calls.iter().sum::<u64>();
    assert!(sum(&ahead) * 2 <= sum(&alone), "{ahead:?} {alone:?}");

    // The last one is not whole, and never fetched before it is asked for; behind it the log ends, and nothing is left behind.
    let last = fetch(&stack, &name(first + SEGMENT_COUNT), "4").expect(0).json();
    assert!(last["captured_bytes"].as_u64().unwrap() < 16 << 20 && last["prefetched"] == 0, "{last}");
    fetch(&stack, &name(first), "4").expect(0);
    assert_eq!(waiting(&stack).len(), 4);
    fetch(&stack, "00000002.history", "4").expect(1);
    assert!(!stack.path(".mainstay-ahead").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_whole_and_of_the_log_that_is_meant() {
    let stack = Stack::start();
    let first = capture_segments(&stack).await;
    // Killed while it writes one, with more and more of them there: what has its name is whole, and what has not is removed.
    let mut killed = 0;
    for round in 0..8 {
        let mut child = stack
            .command(&["wal", "fetch", "--prefetch", "8", &name(first), "RECOVERYXLOG"])
            .spawn()
            .unwrap();
        let partial = format!(".{}.partial", child.id());
        let is_partial = |file: &PathBuf| file.to_string_lossy().ends_with(&partial);
        while child.try_wait().unwrap().is_none() {
            let files = waiting(&stack);
            if files.len() > round && files.iter().any(is_partial) {
                killed += 1;
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        // It may have ended by itself.
        child.kill().unwrap();
        child.wait().unwrap();
        for file in waiting(&stack) {
            let shown = file.file_name().unwrap().to_string_lossy().into_owned();
            let own = shown.split_once('.').filter(|(log, _)| !log.is_empty());
            let Some((_, segment)) = own else { continue };
            let own = fs::read(stack.server.dir().join("data/pg_wal").join(segment)).unwrap();
            assert!(fs::read(&file).unwrap() == own, "{shown}");
        }
    }
    assert!(killed > 0, "it was never seen to write");
    for number in first..first + 3 {
        fetch(&stack, &name(number), "8").expect(0);
        assert_fetched(&stack, number);
    }
    assert!(waiting(&stack).iter().all(|file| file.extension().is_some_and(|it| it != "partial")));

    // A server that follows another timeline, or another server's log, gets nothing of this one.
    fetch(&stack, &segment_name(2, first + 4), "8").expect(1);
    assert_eq!(waiting(&stack).len(), 0);
    fetch(&stack, &name(first), "2").expect(0);
    let other = ["wal", "fetch", "--prefetch", "2", "--server", "7", &name(first + 1), "RECOVERYXLOG"];
    stack.run(&other).expect(201).says("no WAL of server 7 was captured");
    fetch(&stack, "00000002.history", "2").expect(1);
    assert_eq!(waiting(&stack).len(), 0);

    // Damage further on is no matter of a segment before it, and not hidden by what waits.
    let (_, chains) = stack.chains().await;
    let begin = (first + 2) * (16 << 20);
    let damaged = chains[0].slices().iter().position(|slice| slice.after.0 >= begin).unwrap();
    let file = stack.slice_file(damaged).await;
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let fetched = fetch(&stack, &name(first), "8").expect(0).json();
    assert_eq!(fetched["prefetched"], 1, "{fetched}");
    fetch(&stack, &name(first + 1), "8").expect(0);
    fetch(&stack, &name(first + 2), "8").expect(204);
}
