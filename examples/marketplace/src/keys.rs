//! The Redis keys of the sample, `<domain>:<kind>:<id>`: rate limits, sessions, the Socket.IO adapter, caches, idempotency keys.
//!
//! Key `i` of a family depends on the seed, the family and `i`. All types of value that Redis keeps without a module appear. Keys that
//! expire do so between half a day and 30 days after the sample's `now`, later than in a real stack, so that none is gone
//! before a test has looked at it.

use crate::collection::Collection;
use crate::random::{Random, stream};
use crate::sample::Sample;
use crate::words::{CURRENCIES, TOPICS};
use std::fmt::Write;

const HOUR_MS: i64 = 3_600_000;

/// A family of keys: one prefix, one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyFamily {
    /// Requests counted per address: strings that hold a number.
    RateLimitByAddress,
    /// Requests of a user in a sliding window: sorted sets of times.
    RateLimitByUser,
    /// Refresh tokens: hashes, and strings of JSON for every fifth.
    RefreshToken,
    /// Tokens that were revoked: short strings.
    RevokedToken,
    /// Who is in a room: sets of socket ids.
    SocketRoom,
    /// What the nodes of the adapter tell each other: one stream.
    SocketStream,
    /// Cached answers: strings of JSON, and of bytes that are no text for every tenth.
    CatalogCache,
    /// What a user looked at last: lists.
    CatalogRecent,
    /// Visitors of a day: HyperLogLogs.
    CatalogVisitors,
    /// Webhooks that were handled, by the provider's payment id: strings.
    PaymentIdempotency,
}

/// A value as it is written.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyValue {
    /// A string of any bytes.
    String(Vec<u8>),
    /// Fields and their values.
    Hash(Vec<(&'static str, String)>),
    /// Distinct members.
    Set(Vec<String>),
    /// Members and their scores.
    SortedSet(Vec<(f64, String)>),
    /// Items from the head to the tail.
    List(Vec<String>),
    /// Entries: id, field, value.
    Stream(Vec<(String, &'static str, String)>),
    /// Members whose number is estimated.
    HyperLogLog(Vec<String>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyEntry {
    /// The name.
    pub name: String,
    /// The value.
    pub value: KeyValue,
    /// When it expires, in milliseconds since 1970.
    pub expires_ms: Option<i64>,
}

impl KeyFamily {
    /// Every family.
    pub const ALL: [KeyFamily; 10] = [
        KeyFamily::RateLimitByAddress,
        KeyFamily::RateLimitByUser,
        KeyFamily::RefreshToken,
        KeyFamily::RevokedToken,
        KeyFamily::SocketRoom,
        KeyFamily::SocketStream,
        KeyFamily::CatalogCache,
        KeyFamily::CatalogRecent,
        KeyFamily::CatalogVisitors,
        KeyFamily::PaymentIdempotency,
    ];

    /// What the names of the family begin with, the last colon included.
    pub fn prefix(self) -> &'static str {
        match self {
            KeyFamily::RateLimitByAddress => "ratelimit:ip:",
            KeyFamily::RateLimitByUser => "ratelimit:user:",
            KeyFamily::RefreshToken => "auth:refresh:",
            KeyFamily::RevokedToken => "auth:revoked:",
            KeyFamily::SocketRoom => "socketio:room:",
            KeyFamily::SocketStream => "socketio:stream:",
            KeyFamily::CatalogCache => "catalog:cache:",
            KeyFamily::CatalogRecent => "catalog:recent:",
            KeyFamily::CatalogVisitors => "catalog:visitors:",
            KeyFamily::PaymentIdempotency => "payment:idem:",
        }
    }

    /// The number of keys of the family in a sample.
    pub fn count(self, sample: &Sample) -> u64 {
        let scaled = |base| sample.scale().count(base, 1);
        let fixed = |count| if sample.scale().is_zero() { 0 } else { count };
        match self {
            KeyFamily::RateLimitByAddress => scaled(6_000),
            KeyFamily::RateLimitByUser => scaled(1_000),
            KeyFamily::RefreshToken => scaled(5_000),
            KeyFamily::RevokedToken => scaled(1_500),
            KeyFamily::SocketRoom => scaled(3_000).min(sample.count(Collection::Chats)),
            KeyFamily::SocketStream => fixed(1),
            KeyFamily::CatalogCache => scaled(1_500),
            KeyFamily::CatalogRecent => scaled(500),
            KeyFamily::CatalogVisitors => fixed(30),
            // One for each of the first payments that have a name at their provider.
            KeyFamily::PaymentIdempotency => {
                let payments = scaled(1_700).min(sample.count(Collection::Payments));
                (0..payments).filter(|&payment| sample.provider_payment_id(payment).is_some()).count() as u64
            }
        }
    }

    /// The keys of the family in order.
    pub fn entries(self, sample: &Sample) -> impl Iterator<Item = KeyEntry> + '_ {
        let numbers: Box<dyn Iterator<Item = u64> + Send + '_> = match self {
            KeyFamily::PaymentIdempotency => {
                Box::new((0..).filter(|&payment| sample.provider_payment_id(payment).is_some()))
            }
            _ => Box::new(0..),
        };
        let count = usize::try_from(self.count(sample)).expect("a sample's keys fit the machine's memory");
        numbers.take(count).map(move |index| self.entry(sample, index))
    }

    fn entry(self, sample: &Sample, index: u64) -> KeyEntry {
        let mut random = sample.random(stream(self.prefix()), index);
        let id = self.id(sample, index, &mut random);
        let value = self.value(sample, index, &mut random);
        let within = |random: &mut Random, low, high| {
            Some(sample.now_ms() + random.between(low * HOUR_MS, high * HOUR_MS))
        };
        let expires_ms = match self {
            KeyFamily::RateLimitByAddress | KeyFamily::RateLimitByUser | KeyFamily::CatalogCache => {
                within(&mut random, 12, 24)
            }
            KeyFamily::RefreshToken | KeyFamily::RevokedToken => within(&mut random, 24, 720),
            KeyFamily::PaymentIdempotency => within(&mut random, 24, 72),
            KeyFamily::SocketRoom
            | KeyFamily::SocketStream
            | KeyFamily::CatalogRecent
            | KeyFamily::CatalogVisitors => None,
        };
        KeyEntry { name: format!("{}{id}", self.prefix()), value, expires_ms }
    }

    fn id(self, sample: &Sample, index: u64, random: &mut Random) -> String {
        match self {
            KeyFamily::RateLimitByAddress => address(sample, index),
            KeyFamily::RateLimitByUser | KeyFamily::CatalogRecent => hex(&sample.user_id(index)),
            KeyFamily::RefreshToken | KeyFamily::RevokedToken => uuid(random.uuid()),
            KeyFamily::SocketRoom => hex(&sample.chat_id(index)),
            KeyFamily::SocketStream => "adapter".to_owned(),
            KeyFamily::CatalogCache => {
                format!("{}:{:016x}", TOPICS[(index % TOPICS.len() as u64) as usize], random.bits())
            }
            KeyFamily::CatalogVisitors => format!("2026-01-{:02}", index + 1),
            KeyFamily::PaymentIdempotency => sample
                .provider_payment_id(index)
                .expect("only payments with a name at their provider are numbered"),
        }
    }

    fn value(self, sample: &Sample, index: u64, random: &mut Random) -> KeyValue {
        let texts =
            |random: &mut Random, count| (0..count).map(|_| hex(&random.bytes::<10>())).collect::<Vec<_>>();
        match self {
            KeyFamily::RateLimitByAddress => {
                KeyValue::String((1 + random.skewed(100, 3)).to_string().into_bytes())
            }
            KeyFamily::RateLimitByUser => {
                let count = 1 + random.skewed(200, 3);
                let begun = sample.now_ms();
                KeyValue::SortedSet(
                    (0..count)
                        .map(|at| ((begun + at as i64 * 250) as f64, format!("request-{at}")))
                        .collect(),
                )
            }
            KeyFamily::RefreshToken => refresh_token(sample, index, random),
            KeyFamily::RevokedToken => KeyValue::String(b"1".to_vec()),
            KeyFamily::SocketRoom => {
                let count = 1 + random.skewed(40, 4);
                KeyValue::Set(texts(random, count))
            }
            KeyFamily::SocketStream => KeyValue::Stream(
                (0..200)
                    .map(|at| (format!("1700000000000-{at}"), "data", hex(&random.bytes::<20>())))
                    .collect(),
            ),
            KeyFamily::CatalogCache if index % 10 == 9 => {
                let mut bytes = vec![0; 64 + random.skewed(16_000, 4) as usize];
                random.fill(&mut bytes);
                KeyValue::String(bytes)
            }
            KeyFamily::CatalogCache => KeyValue::String(cached_answer(sample, random).into_bytes()),
            KeyFamily::CatalogRecent => {
                let count = 1 + random.skewed(60, 2);
                let requests = sample.count(Collection::PurchaseRequests);
                KeyValue::List((0..count).map(|_| hex(&sample.request_id(random.below(requests)))).collect())
            }
            KeyFamily::CatalogVisitors => KeyValue::HyperLogLog(texts(random, 50 + 40 * index)),
            KeyFamily::PaymentIdempotency => KeyValue::String(
                format!(r#"{{"paymentId":"{}","status":"processed"}}"#, hex(&sample.payment_id(index)))
                    .into_bytes(),
            ),
        }
    }
}

/// The number of keys of all families together.
pub fn key_count(sample: &Sample) -> u64 {
    KeyFamily::ALL.iter().map(|family| family.count(sample)).sum()
}

/// Keys for measurements, `count` of them: of each ten three idempotency keys, three refresh tokens, two cached answers, a rate limit and a room.
/// About 400 bytes each, made with few random values so that many are quick to make. Not part of the sample proper.
pub fn bulk_entries(sample: &Sample, count: u64) -> impl Iterator<Item = KeyEntry> + '_ {
    const BULK: u64 = stream("bulk keys");
    (0..count).map(move |index| {
        let mut random = sample.random(BULK, index);
        let (bits, text) = (random.bits(), hex(&random.bytes::<64>()));
        let string = |text: String| KeyValue::String(text.into_bytes());
        let (family, value, lifetime_hours) = match index % 10 {
            0..3 => (
                KeyFamily::PaymentIdempotency,
                string(format!(
                    r#"{{"paymentId":"{}","status":"processed","provider":"stripe","signature":"{text}{text}"}}"#,
                    &text[..24]
                )),
                Some(48),
            ),
            3..6 => (
                KeyFamily::RefreshToken,
                KeyValue::Hash(vec![
                    ("userId", text[..24].to_owned()),
                    ("agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36".to_owned()),
                    ("fingerprint", text.clone()),
                    ("issuedAt", (sample.now_ms() - (bits % 1_000_000) as i64).to_string()),
                    ("rotation", (bits % 30).to_string()),
                ]),
                Some(720),
            ),
            6..8 => {
                let item = |at: usize| {
                    format!(r#"{{"id":"{}","price":{},"currency":"EUR"}}"#, &text[at..at + 24], bits >> (40 + at))
                };
                let items: Vec<String> = (0..12).map(|at| item(at * 2)).collect();
                (KeyFamily::CatalogCache, string(format!("[{}]", items.join(","))), Some(24))
            }
            8 => (KeyFamily::RateLimitByAddress, string((bits % 100).to_string()), Some(12)),
            _ => {
                let members = (0..10).map(|at| text[at * 10..at * 10 + 20].to_owned()).collect();
                (KeyFamily::SocketRoom, KeyValue::Set(members), None)
            }
        };
        let name = format!("{}{index:08x}{:08x}", family.prefix(), bits as u32);
        KeyEntry { name, value, expires_ms: lifetime_hours.map(|hours| sample.now_ms() + hours * HOUR_MS) }
    })
}

fn refresh_token(sample: &Sample, index: u64, random: &mut Random) -> KeyValue {
    let user = hex(&sample.user_id(random.below(sample.count(Collection::Users))));
    let agent = random.pick(&["Mozilla/5.0 (X11; Linux x86_64)", "okhttp/4.12", "امنت/۱.۲ iOS"]);
    if index % 5 == 4 {
        return KeyValue::String(format!(r#"{{"userId":"{user}","agent":"{agent}"}}"#).into_bytes());
    }
    KeyValue::Hash(vec![
        ("userId", user),
        ("agent", agent.to_owned()),
        ("issuedAt", (sample.now_ms() - random.between(0, 600 * HOUR_MS)).to_string()),
        ("rotation", random.below(30).to_string()),
    ])
}

fn cached_answer(sample: &Sample, random: &mut Random) -> String {
    let mut text = String::from("[");
    for at in 0..1 + random.skewed(80, 3) {
        let request = hex(&sample.request_id(random.below(sample.count(Collection::PurchaseRequests))));
        let separator = if at == 0 { "" } else { "," };
        write!(
            text,
            r#"{separator}{{"id":"{request}","price":{},"currency":"{}"}}"#,
            random.below(100_000),
            random.pick(CURRENCIES)
        )
        .expect("writing to memory cannot fail");
    }
    text.push(']');
    text
}

/// An address for each number below 2^24; every tenth is an IPv6 one, whose colons stand inside the id.
fn address(sample: &Sample, index: u64) -> String {
    // Multiplying by an odd number visits each of the 2^24 hosts once.
    let host = (index.wrapping_mul(0x9e_3779 | 1)).wrapping_add(sample.seed()) & 0xff_ffff;
    if index % 10 == 9 {
        format!("2001:db8::{:x}:{:x}", host >> 16, host & 0xffff)
    } else {
        format!("100.{}.{}.{}", host >> 16, host >> 8 & 0xff, host & 0xff)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to memory cannot fail");
        text
    })
}

fn uuid(bytes: [u8; 16]) -> String {
    let text = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scale;
    use jiff::Timestamp;
    use std::collections::HashSet;

    fn sample(scale: f64) -> Sample {
        Sample::new(
            3,
            Scale::new(scale).expect("a valid scale"),
            Timestamp::from_second(1_800_000_000).expect("a valid time"),
        )
    }

    #[test]
    fn about_twenty_thousand_keys_whose_names_are_unique() {
        let sample = sample(1.0);
        let names: HashSet<String> = KeyFamily::ALL
            .iter()
            .flat_map(|family| family.entries(&sample))
            .map(|entry| entry.name)
            .collect();
        assert_eq!(names.len() as u64, key_count(&sample));
        assert!((19_500..=20_500).contains(&names.len()), "{}", names.len());
    }

    #[test]
    fn the_same_seed_makes_the_same_keys() {
        let entries = |seed| {
            let scale = Scale::new(0.01).expect("a valid scale");
            let sample =
                Sample::new(seed, scale, Timestamp::from_second(1_800_000_000).expect("a valid time"));
            KeyFamily::ALL.iter().flat_map(|family| family.entries(&sample)).collect::<Vec<_>>()
        };
        assert_eq!(entries(1), entries(1));
        assert_ne!(entries(1), entries(2));
    }

    #[test]
    fn nothing_expires_within_half_a_day() {
        let sample = sample(0.05);
        let soonest = KeyFamily::ALL
            .iter()
            .flat_map(|family| family.entries(&sample))
            .filter_map(|entry| entry.expires_ms)
            .min();
        assert!(soonest.expect("some keys expire") >= sample.now_ms() + 12 * HOUR_MS);
    }

    #[test]
    fn bulk_keys_have_names_of_their_own_and_three_of_ten_are_idempotency_keys() {
        let sample = sample(0.0);
        let entries: Vec<KeyEntry> = bulk_entries(&sample, 1_000).collect();
        let names: HashSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names.len(), 1_000);
        let prefix = KeyFamily::PaymentIdempotency.prefix();
        assert_eq!(names.iter().filter(|name| name.starts_with(prefix)).count(), 300);
        assert_eq!(entries, bulk_entries(&sample, 1_000).collect::<Vec<_>>());
    }

    #[test]
    fn an_empty_sample_has_no_keys() {
        assert_eq!(key_count(&sample(0.0)), 0);
    }
}
