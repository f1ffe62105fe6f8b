//! Keys carried between servers: `DUMP` and `RESTORE`, each with the moment of expiry.

use async_trait::async_trait;
use mainstay_engine::{CarriedCount, CarriedKey, KeyCarrier, KeyPutting, KeyTaking, TakenKeys};
use mainstay_guard::Permit;
use mainstay_model::{Result, ResultExt, StoreKind};
use redis::{Pipeline, Value};

use crate::config::{RedisConfig, Settings};
use crate::keyspace::SelectedSession;
use crate::probe::{fingerprint, read_info};
use crate::session::Session;

/// The keys of a Redis, to be carried.
#[derive(Debug)]
pub struct RedisCarrier {
    settings: Settings,
}

impl RedisCarrier {
    /// The keys of the server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL or the CA file cannot be used.
    pub fn new(config: &RedisConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)? })
    }
}

#[async_trait]
impl KeyCarrier for RedisCarrier {
    async fn taking<'a>(&'a self) -> Result<Box<dyn KeyTaking + 'a>> {
        let session = Session::open(&self.settings).await.context("connect to Redis")?;
        Ok(Box::new(Taking(SelectedSession::new(session))))
    }

    /// The server behind a connection stays the same, so that the permit is looked at once.
    async fn putting<'a>(&'a self, replace: bool, permit: &Permit) -> Result<Box<dyn KeyPutting + 'a>> {
        let mut session = Session::open(&self.settings).await.context("connect to Redis")?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        let fingerprint = fingerprint(&mut session, &info).await.context("read facts of Redis")?;
        permit.check("redis.undo", StoreKind::Redis, &fingerprint)?;
        Ok(Box::new(Putting { selected: SelectedSession::new(session), replace }))
    }
}

/// A connection that keys are taken on.
struct Taking<'a>(SelectedSession<'a>);

#[async_trait]
impl KeyTaking for Taking<'_> {
    async fn take(&mut self, database: u64, names: &[Vec<u8>], bytes_max: u64) -> Result<TakenKeys> {
        let session = self.0.of(database).await?;
        let mut sizes = Pipeline::with_capacity(names.len());
        for name in names {
            sizes.cmd("MEMORY").arg("USAGE").arg(name.as_slice()).arg("SAMPLES").arg(0);
        }
        let sizes = session.ask_all(&sizes).await.context("ask what keys of Redis take")?;
        let names = &names[..fitting(&sizes, bytes_max)];
        let mut pipeline = Pipeline::with_capacity(names.len() * 2);
        for name in names {
            pipeline.cmd("DUMP").arg(name.as_slice());
            pipeline.cmd("PEXPIRETIME").arg(name.as_slice());
        }
        let answers = session.ask_all(&pipeline).await.context("take keys of Redis")?;
        let keys = names.iter().zip(answers.chunks_exact(2));
        let keys = keys.filter_map(|(name, answers)| carried(name, answers)).collect();
        Ok(TakenKeys { names: names.len(), keys })
    }
}

/// A connection that keys are put on, to the server of the permit.
struct Putting<'a> {
    selected: SelectedSession<'a>,
    replace: bool,
}

#[async_trait]
impl KeyPutting for Putting<'_> {
    async fn put(&mut self, database: u64, keys: &[CarriedKey], counted: &mut CarriedCount) -> Result<()> {
        let session = self.selected.of(database).await?;
        let mut pipeline = Pipeline::with_capacity(keys.len());
        pipeline.ignore_errors();
        for key in keys {
            let restore = pipeline.cmd("RESTORE").arg(key.name.as_slice());
            restore.arg(key.expires_at.unwrap_or(0)).arg(key.payload.as_slice()).arg("ABSTTL");
            if self.replace {
                restore.arg("REPLACE");
            }
        }
        let answers = session.ask_all(&pipeline).await.context("write keys of Redis")?;
        count(session, &answers, counted).await
    }
}

/// How many of the first keys take `bytes_max` at most together, by what `MEMORY USAGE` says of each: of the first one in any case.
fn fitting(sizes: &[Value], bytes_max: u64) -> usize {
    let mut total = 0_u64;
    let fits = |size: &Value| {
        // A key that is gone by now takes nothing.
        total = total
            .saturating_add(redis::from_redis_value_ref::<Option<u64>>(size).ok().flatten().unwrap_or(0));
        total <= bytes_max
    };
    sizes.iter().map(fits).take_while(|fits| *fits).count().max(1).min(sizes.len())
}

/// What `DUMP` and `PEXPIRETIME` say; `None` for a key that is not there.
fn carried(name: &[u8], answers: &[Value]) -> Option<CarriedKey> {
    let payload = match answers.first()? {
        Value::BulkString(payload) => payload.clone(),
        _ => return None,
    };
    let expires_at = match redis::from_redis_value_ref::<i64>(answers.get(1)?).ok()? {
        -2 => return None,
        at if at < 0 => None,
        at => Some(at),
    };
    Some(CarriedKey { name: name.to_vec(), payload, expires_at })
}

/// Adds what `RESTORE` says of each key.
///
/// # Errors
/// The first refusal; all answers are counted before.
async fn count(session: &mut Session<'_>, answers: &[Value], counted: &mut CarriedCount) -> Result<()> {
    let mut refused = None;
    for answer in answers {
        match answer {
            Value::ServerError(error) if error.code() == "BUSYKEY" => counted.kept += 1,
            Value::ServerError(error) => {
                refused = refused.or(Some((error.code(), error.details().unwrap_or_default())));
            }
            _ => counted.written += 1,
        }
    }
    match refused {
        None => Ok(()),
        Some((code, detail)) => Err(session.refusal(code, detail).await.context("write keys of Redis")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_taken_as_fit_and_one_in_any_case() {
        let sizes = [Value::Int(40), Value::Nil, Value::Int(60), Value::Int(1), Value::Int(500)];
        for (bytes_max, count) in [(0, 1), (40, 2), (99, 2), (100, 3), (101, 4), (601, 5), (u64::MAX, 5)] {
            assert_eq!(fitting(&sizes, bytes_max), count, "{bytes_max}");
        }
        assert_eq!(fitting(&[], 10), 0);
    }
}
