//! A server of keys and a place that is configured for it, for the tests that question one.

use mainstay_testkit::Redis;
use redis::aio::MultiplexedConnection;

use crate::binary::Place;

/// A place whose configuration names the server.
pub(crate) fn place(server: &Redis) -> Place {
    let place = Place::new();
    place.write("mainstay.toml", &format!("[redis]\nurl = \"{}\"\n", server.uri()));
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
