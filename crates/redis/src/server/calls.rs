//! Slow commands and what commands cost, read. Pure.
//!
//! Which argument is a key, and which word belongs to the command's name, the server itself says (`COMMAND INFO`): of a key its first words
//! are shown, as in `payment:idem:*`; of everything else its length. Sources: Redis documentation, commands SLOWLOG GET, COMMAND INFO, INFO.

use std::collections::BTreeMap;

use mainstay_engine::{CallText, CommandCost, SlowCall};
use redis::Value;

use crate::info::Info;

/// How many words of a key are shown.
const KEY_WORDS: usize = 2;
/// How much of a key's words is shown, in bytes.
const KEY_BYTES_MAX: usize = 100;
/// How many arguments are shown.
const ARGUMENT_COUNT_MAX: usize = 8;

/// An entry of the slow log.
pub(super) struct Entry {
    /// The command's name, in upper case.
    pub(super) name: String,
    id: u64,
    at: i64,
    micros: u64,
    arguments: Vec<Vec<u8>>,
    client: Option<String>,
    client_name: Option<String>,
}

/// How a command's arguments are to be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    /// Where its first key stands, counted from the name; 0 for nowhere or anywhere.
    first_key: usize,
    /// The second words it may have, in lower case.
    parts: Vec<String>,
}

/// `[id, time, microseconds, [name, argument, …], client, client's name]` each; the last two since Redis 4. What has another form is passed over.
pub(super) fn entries(reply: &Value) -> Vec<Entry> {
    let Value::Array(items) = reply else { return Vec::new() };
    items.iter().filter_map(entry).collect()
}

fn entry(item: &Value) -> Option<Entry> {
    let Value::Array(fields) = item else { return None };
    let text = |at: usize| {
        fields
            .get(at)
            .and_then(|value| redis::from_redis_value_ref::<String>(value).ok())
            .filter(|text| !text.is_empty())
    };
    let mut arguments: Vec<Vec<u8>> = redis::from_redis_value_ref(fields.get(3)?).ok()?;
    let name = (!arguments.is_empty()).then(|| arguments.remove(0))?;
    Some(Entry {
        name: escaped(&name).to_uppercase(),
        id: redis::from_redis_value_ref(fields.first()?).ok()?,
        at: redis::from_redis_value_ref(fields.get(1)?).ok()?,
        micros: redis::from_redis_value_ref(fields.get(2)?).ok()?,
        arguments,
        client: text(4),
        client_name: text(5),
    })
}

/// By name in upper case, the forms of the commands that a reply to `COMMAND INFO` knows.
pub(super) fn forms(reply: &Value) -> BTreeMap<String, Form> {
    let Value::Array(items) = reply else { return BTreeMap::new() };
    let one = |item: &Value| {
        let Value::Array(fields) = item else { return None };
        let name: String = redis::from_redis_value_ref(fields.first()?).ok()?;
        let first_key: i64 = redis::from_redis_value_ref(fields.get(3)?).ok()?;
        let part = |value: &Value| {
            let Value::Array(fields) = value else { return None };
            let name: String = redis::from_redis_value_ref(fields.first()?).ok()?;
            Some(name.split_once('|')?.1.to_lowercase())
        };
        let parts = match fields.get(9) {
            Some(Value::Array(parts)) => parts.iter().filter_map(part).collect(),
            _ => Vec::new(),
        };
        Some((name.to_uppercase(), Form { first_key: usize::try_from(first_key).unwrap_or(0), parts }))
    };
    items.iter().filter_map(one).collect()
}

impl Entry {
    /// The call, its arguments read by `forms`.
    pub(super) fn into_call(self, forms: &BTreeMap<String, Form>) -> SlowCall {
        let form = forms.get(&self.name);
        let (masked, whole) = (self.masked(form), self.whole());
        let Self { name, id, at, micros, client, client_name, .. } = self;
        SlowCall { id, at, micros, name, text: CallText::new(masked, whole), client, client_name }
    }

    fn masked(&self, form: Option<&Form>) -> String {
        let mut words = vec![self.name.clone()];
        for (index, argument) in self.arguments.iter().take(ARGUMENT_COUNT_MAX).enumerate() {
            let lower = escaped(argument).to_lowercase();
            let is_part = index == 0 && form.is_some_and(|form| form.parts.contains(&lower));
            let is_key = form.is_some_and(|form| form.first_key == index + 1);
            words.push(match (is_part, is_key) {
                (true, _) => lower.to_uppercase(),
                (_, true) => key_shown(argument),
                _ => length(argument),
            });
        }
        if self.arguments.len() > ARGUMENT_COUNT_MAX {
            words.push(format!("and {} more", self.arguments.len() - ARGUMENT_COUNT_MAX));
        }
        words.join(" ")
    }

    fn whole(&self) -> String {
        let arguments = self.arguments.iter().map(|argument| escaped(argument));
        [self.name.clone()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
    }
}

/// The first words of a key, for what stands behind them names somebody or something.
fn key_shown(key: &[u8]) -> String {
    let ends = key.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at + 1);
    match ends.take(KEY_WORDS).last() {
        Some(end) => format!("{}*", escaped(&key[..end.min(KEY_BYTES_MAX)])),
        None => length(key),
    }
}

fn length(argument: &[u8]) -> String {
    format!("<{} bytes>", argument.len())
}

/// Text as it is, other bytes escaped.
fn escaped(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// `cmdstat_get:calls=2,usec=3,usec_per_call=1.50,rejected_calls=0,failed_calls=0` and
/// `latency_percentiles_usec_get:p50=1.003,p99=2.007,p99.9=2.007`.
pub(super) fn costs(costs: &Info, latencies: &Info) -> Vec<CommandCost> {
    let one = |(name, value): (&str, &str)| {
        let name = name.strip_prefix("cmdstat_")?;
        let count = |wanted: &str| field(value, wanted).and_then(|text| text.parse().ok());
        let latency = latencies.get(&format!("latency_percentiles_usec_{name}"));
        let percentile = |wanted: &str| field(latency?, wanted)?.parse().ok();
        Some(CommandCost {
            name: name.to_owned(),
            calls: count("calls")?,
            micros: count("usec")?,
            rejected: count("rejected_calls").unwrap_or_default(),
            failed: count("failed_calls").unwrap_or_default(),
            p50_micros: percentile("p50"),
            p99_micros: percentile("p99"),
            p999_micros: percentile("p99.9"),
        })
    };
    costs.fields().filter_map(one).collect()
}

/// One of `name=value,name=value`.
fn field<'a>(fields: &'a str, wanted: &str) -> Option<&'a str> {
    fields
        .split(',')
        .filter_map(|field| field.split_once('='))
        .find(|(name, _)| *name == wanted)
        .map(|(_, value)| value)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn bulk(bytes: &[u8]) -> Value {
        Value::BulkString(bytes.to_vec())
    }

    fn form(name: &str, first_key: i64, parts: &[&str]) -> Value {
        let parts = parts.iter().map(|part| Value::Array(vec![bulk(format!("{name}|{part}").as_bytes())]));
        let mut fields = vec![bulk(name.as_bytes()), Value::Int(2), Value::Nil, Value::Int(first_key)];
        fields.extend([Value::Int(0), Value::Int(0), Value::Nil, Value::Nil, Value::Nil]);
        fields.push(Value::Array(parts.collect()));
        Value::Array(fields)
    }

    #[test]
    fn arguments_are_hidden_but_for_words_of_the_command_and_of_its_key() {
        let known = Value::Array(vec![
            form("set", 1, &[]),
            form("config", 0, &["get", "set"]),
            form("bitop", 2, &[]),
            Value::Nil,
        ]);
        let forms = forms(&known);
        for (words, masked) in [
            (&[&b"set"[..], b"auth:session:canary", b"canary"][..], "SET auth:session:* <6 bytes>"),
            (&[b"set", b"canary", b"x"], "SET <6 bytes> <1 bytes>"),
            (&[b"CONFIG", b"GET", b"canary"], "CONFIG GET <6 bytes>"),
            (&[b"config", b"canary"], "CONFIG <6 bytes>"),
            (&[b"bitop", b"AND", b"a:b:canary"], "BITOP <3 bytes> a:b:*"),
            (&[b"unheard", b"a:b:canary"], "UNHEARD <10 bytes>"),
            (&[b"set", b"\xff:\x1b:canary"], "SET \\xff:\\x1b:*"),
            (
                &[b"set", b"a:1", b"", b"", b"", b"", b"", b"", b"", b"canary"],
                "SET a:* <0 bytes> <0 bytes> <0 bytes> <0 bytes> <0 bytes> <0 bytes> <0 bytes> and 1 more",
            ),
        ] {
            let words = Value::Array(words.iter().map(|word| bulk(word)).collect());
            let reply = Value::Array(vec![Value::Array(vec![
                Value::Int(7),
                Value::Int(1_800_000_000),
                Value::Int(12_345),
                words,
                bulk(b"h:1"),
                bulk(b""),
            ])]);
            let call = entries(&reply).remove(0).into_call(&forms);
            assert_eq!((call.text.masked(), call.id, call.micros), (masked, 7, 12_345));
            assert!(!format!("{call:?}").contains("canary"), "{call:?}");
            assert_eq!((call.client.as_deref(), call.client_name), (Some("h:1"), None));
        }
        assert!(entries(&Value::Array(vec![Value::Nil, Value::Array(vec![])])).is_empty());
    }

    #[test]
    fn costs_and_latencies_are_brought_together() {
        let told = costs(
            &Info::parse(
                "cmdstat_config|get:calls=2,usec=30,usec_per_call=15.00,rejected_calls=1,failed_calls=3\r\ncmdstat_odd:x=1\r\n",
            ),
            &Info::parse("latency_percentiles_usec_config|get:p50=1.003,p99=2.007,p99.9=9.5\r\n"),
        );
        assert_eq!(told.len(), 1);
        let cost = told.first().unwrap();
        assert_eq!((cost.name.as_str(), cost.calls, cost.micros), ("config|get", 2, 30));
        assert_eq!((cost.rejected, cost.failed, cost.p999_micros), (1, 3, Some(9.5)));
    }
}
