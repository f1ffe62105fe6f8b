//! A server of keys and a place that is configured for it, for the tests that question one.

use mainstay_testkit::Redis;
use redis::aio::MultiplexedConnection;
use serde_json::Value;

use crate::binary::{Place, Seen};

/// A place whose configuration names the server behind `uri`, and says `more` besides.
pub(crate) fn place(uri: &str, more: &str) -> Place {
    let place = Place::new();
    place.write("mainstay.toml", &format!("[redis]\nurl = \"{uri}\"\n{more}"));
    place
}

/// A connection to it.
pub(crate) async fn connection(server: &Redis) -> MultiplexedConnection {
    redis::Client::open(server.uri()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// Gives a command whose words are separated by single blanks, and must work.
pub(crate) async fn give(connection: &mut MultiplexedConnection, line: &str) {
    let mut words = line.split(' ');
    let answer: redis::RedisResult<redis::Value> =
        redis::cmd(words.next().unwrap()).arg(words.collect::<Vec<_>>()).query_async(connection).await;
    answer.unwrap_or_else(|error| panic!("{line}: {error}"));
}

/// What a run says with `--json`.
pub(crate) fn json(seen: &Seen) -> Value {
    serde_json::from_str(&seen.stdout).unwrap_or_else(|error| panic!("{error}: {}", seen.both()))
}
