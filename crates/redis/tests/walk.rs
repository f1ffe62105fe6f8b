//! The walk over database files that a real Redis wrote: every key as the server tells it, every value restorable, every damage found.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod file;

use std::collections::BTreeMap;
use std::fs;

use file::count_keys;
use mainstay_rdb::{Flavor, Item, KeyHead, KeyTail, Kind, Walker};
use mainstay_testkit::Redis;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, cmd};

/// Where values are restored to.
const SCRATCH: u64 = 9;

struct Client(MultiplexedConnection);

impl Client {
    async fn of(server: &Redis) -> Self {
        Self(redis::Client::open(server.uri()).unwrap().get_multiplexed_async_connection().await.unwrap())
    }

    async fn ask<T: FromRedisValue>(&mut self, words: &[&[u8]]) -> T {
        let mut command = cmd(std::str::from_utf8(words[0]).unwrap());
        for word in &words[1..] {
            command.arg(*word);
        }
        let answer = command.query_async(&mut self.0).await;
        answer.unwrap_or_else(|error| panic!("{}: {error}", words[0].escape_ascii()))
    }

    /// One command, words separated by spaces.
    async fn give(&mut self, line: &str) {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let _: redis::Value = self.ask(&words).await;
    }

    async fn select(&mut self, database: u64) {
        self.give(&format!("SELECT {database}")).await;
    }
}

fn server() -> Redis {
    Redis::options().setting("enable-debug-command", "yes").setting("save", "").start().unwrap()
}

/// Repeatable bytes that do not compress.
fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Keys of every type in every encoding that the server has for it, in two databases.
async fn fill(client: &mut Client) {
    for database in [0, 3] {
        client.select(database).await;
        strings(client).await;
        lists(client).await;
        sets(client).await;
        hashes(client).await;
        streams(client).await;
    }
    let library = b"#!lua name=shop\nredis.register_function('one', function() return 1 end)";
    let _: redis::Value = client.ask(&[b"FUNCTION", b"LOAD", library]).await;
}

async fn strings(client: &mut Client) {
    for number in ["0", "-1", "127", "-32768", "2147483647", "9223372036854775807", "1.5"] {
        client.give(&format!("SET number:{number} {number}")).await;
    }
    for (name, value) in [
        ("empty", Vec::new()),
        ("short", b"abc".to_vec()),
        ("same", vec![b'x'; 100_000]),
        ("noise", noise(300_000, 7)),
        ("words", b"the quick brown fox ".repeat(40)),
    ] {
        let _: () = client.ask(&[b"SET", name.as_bytes(), &value]).await;
    }
    let name = noise(20_000, 3);
    let _: () = client.ask(&[b"SET", &name, b"long name"]).await;
    client.give("SET expiring soon PXAT 4102444800123").await;
}

async fn lists(client: &mut Client) {
    client.give("RPUSH list:small a b 3 -4 5000000000").await;
    for index in 0..3000 {
        client.give(&format!("RPUSH list:many {index} element:{index}")).await;
    }
    let _: () =
        client.ask(&[b"RPUSH", b"list:large", &noise(100_000, 11), b"small", &vec![b'y'; 70_000]]).await;
}

async fn sets(client: &mut Client) {
    client.give("SADD set:16 1 2 3").await;
    client.give("SADD set:32 1 70000").await;
    client.give("SADD set:64 1 5000000000").await;
    client.give("SADD set:words a b c 1").await;
    client.give("ZADD sorted:small 1 a -inf b +inf c 0.1 d").await;
    for index in 0..2000 {
        client.give(&format!("SADD set:many member:{index}")).await;
        client.give(&format!("ZADD sorted:many {index}.25 member:{index}")).await;
    }
}

async fn hashes(client: &mut Client) {
    client.give("HSET hash:small a 1 b two").await;
    client.give("HSET hash:fading a 1 b 2 c 3").await;
    client.give("HPEXPIREAT hash:fading 4102444800000 FIELDS 2 a b").await;
    for index in 0..1500 {
        client.give(&format!("HSET hash:many field:{index} {index}")).await;
        client.give(&format!("HSET hash:many-fading field:{index} {index}")).await;
    }
    client.give("HPEXPIREAT hash:many-fading 4102444800000 FIELDS 1 field:7").await;
    client.give("HPEXPIREAT hash:many-fading 4102444700000 FIELDS 1 field:8").await;
}

async fn streams(client: &mut Client) {
    for index in 0..500 {
        client.give(&format!("XADD stream {}-1 event click number {index}", 1000 + index)).await;
    }
    client.give("XADD stream 5000-1 other shape entirely yes").await;
    client.give("XDEL stream 1000-1 1001-1").await;
    client.give("XGROUP CREATE stream readers 0").await;
    client.give("XGROUP CREATE stream idle $").await;
    client.give("XREADGROUP GROUP readers anna COUNT 10 STREAMS stream >").await;
    client.give("XREADGROUP GROUP readers ben COUNT 5 STREAMS stream >").await;
    client.give("XACK stream readers 1003-1").await;
    client.give("XGROUP CREATE stream:empty readers $ MKSTREAM").await;
}

/// Saves, and gives the file.
async fn saved(server: &Redis, client: &mut Client) -> Vec<u8> {
    client.give("SAVE").await;
    fs::read(server.dir().join("data/dump.rdb")).unwrap()
}

/// Checks one key of the walk against the server, and its value by bringing it back.
async fn check(client: &mut Client, head: &KeyHead, tail: KeyTail, payload: &[u8]) {
    let name = head.name.as_slice();
    client.select(head.database).await;
    let kind: String = client.ask(&[b"TYPE", name]).await;
    assert_eq!(kind, head.kind.name(), "{}", name.escape_ascii());
    let expires_at: i64 = client.ask(&[b"PEXPIRETIME", name]).await;
    assert_eq!(head.expires_at.unwrap_or(-1), expires_at, "{}", name.escape_ascii());
    let counting: &[u8] = match head.kind {
        Kind::String => b"STRLEN",
        Kind::List => b"LLEN",
        Kind::Set => b"SCARD",
        Kind::SortedSet => b"ZCARD",
        Kind::Hash => b"HLEN",
        Kind::Stream => b"XLEN",
        Kind::Module => panic!("no module is loaded"),
    };
    let count: u64 = client.ask(&[counting, name]).await;
    match head.kind {
        Kind::String => {
            assert_eq!((tail.elements, tail.data_bytes), (Some(1), count), "{}", name.escape_ascii())
        }
        _ => assert_eq!(tail.elements, Some(count), "{}", name.escape_ascii()),
    }
    let [before]: [String; 1] =
        client.ask::<Vec<String>>(&[b"DEBUG", b"DIGEST-VALUE", name]).await.try_into().unwrap();
    client.select(SCRATCH).await;
    // The digest says whether a key expires.
    let expires = head.expires_at.unwrap_or(0).to_string();
    let _: () = client.ask(&[b"RESTORE", name, expires.as_bytes(), payload, b"REPLACE", b"ABSTTL"]).await;
    let [after]: [String; 1] =
        client.ask::<Vec<String>>(&[b"DEBUG", b"DIGEST-VALUE", name]).await.try_into().unwrap();
    assert_eq!(before, after, "{}", name.escape_ascii());
    let _: () = client.ask(&[b"DEL", name]).await;
}

/// What `RESTORE` takes: the type, the value, the version, and a checksum that the server is told not to look at. `head` is what stands before
/// the value: perhaps a moment of expiry, the type, the name.
fn payload(head: &[u8], value: &[u8]) -> Vec<u8> {
    let code = if head[0] == 252 { head[9] } else { head[0] };
    [&[code], value, &12u16.to_le_bytes(), &[0; 8]].concat()
}

#[tokio::test]
async fn every_key_is_told_as_the_server_tells_it_and_can_be_brought_back() {
    let server = server();
    let client = &mut Client::of(&server).await;
    client.give("DEBUG SET-SKIP-CHECKSUM-VALIDATION 1").await;
    fill(client).await;
    for compression in ["yes", "no"] {
        client.give(&format!("CONFIG SET rdbcompression {compression}")).await;
        let file = saved(&server, client).await;
        let mut walker = Walker::new(&file[..]);
        let (mut auxiliary, mut counts, mut sizes) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut is_whole = false;
        let mut begin = 0;
        while let Some(item) = walker.next_item().unwrap() {
            match item {
                Item::Auxiliary { name, value } => {
                    auxiliary.insert(String::from_utf8(name).unwrap(), String::from_utf8(value).unwrap());
                }
                Item::Key(head) => {
                    let value = walker.offset();
                    let tail = walker.pass_value().unwrap();
                    let payload = payload(
                        &file[begin..value as usize],
                        &file[value as usize..walker.offset() as usize],
                    );
                    check(client, &head, tail, &payload).await;
                    *counts.entry(head.database).or_insert(0) += 1;
                }
                Item::Sizes { keys, expiring } => sizes.push((keys, expiring)),
                Item::Function(source) => assert!(source.starts_with(b"#!lua name=shop")),
                Item::End { checksum } => is_whole = checksum.is_some(),
                Item::Database(_) => {}
                other => panic!("{other:?}"),
            }
            begin = walker.offset() as usize;
        }
        assert!(is_whole, "the end was not told");
        assert_eq!(walker.version(), (Flavor::Redis, 12));
        assert_eq!(walker.offset(), file.len() as u64);
        assert_eq!(auxiliary["redis-ver"], "8.0.2");
        for (index, database) in [0, 3].into_iter().enumerate() {
            client.select(database).await;
            let keys: u64 = client.ask(&[b"DBSIZE"]).await;
            assert_eq!((counts[&database], sizes[index]), (keys, (keys, 1)));
        }
    }
}

#[tokio::test]
async fn idleness_and_frequency_are_told_where_the_server_evicts_by_them() {
    let server = server();
    let client = &mut Client::of(&server).await;
    client.give("SET a 1 PXAT 4102444800123").await;
    for (policy, has_idleness, has_frequency) in
        [("allkeys-lru", true, false), ("allkeys-lfu", false, true), ("noeviction", false, false)]
    {
        client.give(&format!("CONFIG SET maxmemory-policy {policy}")).await;
        let file = saved(&server, client).await;
        let mut walker = Walker::new(&file[..]);
        let head = loop {
            match walker.next_item().unwrap().unwrap() {
                Item::Key(head) => break head,
                _ => continue,
            }
        };
        assert_eq!(head.expires_at, Some(4_102_444_800_123), "{policy}");
        assert_eq!(
            (head.idle_seconds.is_some(), head.frequency.is_some()),
            (has_idleness, has_frequency),
            "{policy}"
        );
    }
}

#[tokio::test]
async fn every_flipped_byte_and_every_cut_is_found() {
    let server = server();
    let client = &mut Client::of(&server).await;
    client.give("SET a 1 PXAT 4102444800123").await;
    client.give("SET words abcabcabcabcabcabcabcabcabcabcabcabcabcabc").await;
    client.give("RPUSH list a b 3").await;
    client.give("SADD set 1 2 3").await;
    client.give("HSET hash a 1").await;
    client.give("HPEXPIREAT hash 4102444800000 FIELDS 1 a").await;
    client.give("XADD stream 1-1 a b").await;
    client.give("XGROUP CREATE stream readers 0").await;
    client.give("XREADGROUP GROUP readers anna STREAMS stream >").await;
    let file = saved(&server, client).await;
    assert_eq!(count_keys(&file[..]).unwrap(), 6);
    for cut in 0..file.len() {
        assert!(count_keys(&file[..cut]).is_err(), "cut at {cut}");
    }
    let mut damaged = file.clone();
    for at in 0..file.len() {
        for bit in 0..8 {
            damaged[at] ^= 1 << bit;
            assert!(count_keys(&damaged[..]).is_err(), "bit {bit} of byte {at}");
            damaged[at] ^= 1 << bit;
        }
    }
    damaged.push(b'\n');
    assert!(count_keys(&damaged[..]).unwrap_err().to_string().contains("behind the end"));
}
