//! What eviction would take, by prefix. Pure: what comes in are keys, in any order.
//!
//! The server picks among a few keys at random the one that its policy likes least, so that a forecast in the order of the policy is what
//! it comes to. By least recent use and by nearest expiry keys are sorted into buckets that double; by frequency, which the server tells
//! under such a policy alone, and at random each key is as likely as any other.

use std::collections::BTreeMap;

use mainstay_engine::KeyRecord;
use serde::Serialize;

use crate::classes::{ClassMatcher, KeyClass};
use crate::keyspace::{census_prefix, shown_name};

/// How many prefixes are kept apart; the rest count as one.
const PREFIX_COUNT_MAX: usize = 2_000;
/// Buckets of doubling length.
const BUCKETS: usize = 42;

/// In which order keys go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Those first that were not used for longest.
    Idle,
    /// Those first that expire soonest.
    Expiry,
    /// None.
    Any,
}

/// Keys being counted.
pub(super) struct Forecasting {
    matcher: ClassMatcher,
    order: Order,
    expiring_alone: bool,
    now: i64,
    groups: BTreeMap<Vec<u8>, Group>,
    ineligible: u64,
}

#[derive(Default)]
struct Group {
    class: Option<KeyClass>,
    buckets: BTreeMap<usize, (u64, u64)>,
}

/// What goes, of one prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForecastGroup {
    /// The beginning of the names.
    pub prefix: String,
    /// What they are for, where that is declared.
    pub class: Option<KeyClass>,
    /// Keys that may go.
    pub eligible: u64,
    /// Keys that are expected to go.
    pub keys: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// How many bytes must go now for the limit to hold; 0 when it does.
    pub over_bytes: u64,
    /// How many bytes the forecast is about: those, or a tenth of the limit that go next when it is reached.
    pub forecast_bytes: u64,
    /// By prefix, those that lose most first.
    pub groups: Vec<ForecastGroup>,
    /// Keys that never go under this policy.
    pub ineligible: u64,
    /// Bytes that cannot be made free, because no further key may go: writes are refused then.
    pub short_bytes: u64,
}

impl Forecast {
    /// Keys that are expected to go.
    pub fn keys(&self) -> u64 {
        self.groups.iter().map(|group| group.keys).sum()
    }

    /// Keys of protected classes that may go, by class.
    pub fn protected(&self) -> BTreeMap<KeyClass, u64> {
        let mut protected = BTreeMap::new();
        for group in &self.groups {
            if let Some(class) = group.class.filter(|class| class.is_protected()) {
                *protected.entry(class).or_default() += group.eligible;
            }
        }
        protected
    }
}

impl Forecasting {
    /// A forecast for the eviction `policy`, in the server's words. `now` is in milliseconds since 1970.
    pub(super) fn new(policy: &str, matcher: ClassMatcher, now: i64) -> Self {
        let order = match policy {
            "allkeys-lru" | "volatile-lru" => Order::Idle,
            "volatile-ttl" => Order::Expiry,
            _ => Order::Any,
        };
        let expiring_alone = policy.starts_with("volatile-");
        Self { matcher, order, expiring_alone, now, groups: BTreeMap::new(), ineligible: 0 }
    }

    pub(super) fn add(&mut self, record: &KeyRecord) {
        if self.expiring_alone && record.expires_at.is_none() {
            self.ineligible += 1;
            return;
        }
        let class = self.matcher.class(&record.name);
        let prefix = census_prefix(&record.name);
        // One prefix may hold keys of several classes, which must not hide behind one another.
        let place = [prefix, &[0], class.map_or("", KeyClass::name).as_bytes()].concat();
        let place = match self.groups.len() < PREFIX_COUNT_MAX || self.groups.contains_key(&place) {
            true => place,
            false => [&[0][..], class.map_or("", KeyClass::name).as_bytes()].concat(),
        };
        let bucket = self.bucket(record);
        let group = self.groups.entry(place).or_default();
        group.class = class;
        let (keys, bytes) = group.buckets.entry(bucket).or_default();
        *keys += 1;
        *bytes = bytes.saturating_add(record.bytes.unwrap_or_default());
    }

    /// Which keys go before which: the largest bucket first.
    fn bucket(&self, record: &KeyRecord) -> usize {
        let doubled = |seconds: u64| (64 - seconds.leading_zeros() as usize).min(BUCKETS);
        match self.order {
            Order::Any => 0,
            Order::Idle => doubled(record.idle_seconds.unwrap_or_default()),
            Order::Expiry => {
                let left = record.expires_at.unwrap_or(i64::MAX).saturating_sub(self.now).max(0);
                BUCKETS - doubled(u64::try_from(left).unwrap_or_default() / 1_000)
            }
        }
    }

    /// The forecast for a server that uses `used` bytes and is to use at most `limit`.
    pub(super) fn end(self, used: u64, limit: u64) -> Forecast {
        let over_bytes = used.saturating_sub(limit);
        let forecast_bytes = if over_bytes > 0 { over_bytes } else { limit / 10 };
        let mut totals: BTreeMap<usize, u64> = BTreeMap::new();
        for (bucket, (_, bytes)) in self.groups.values().flat_map(|group| &group.buckets) {
            *totals.entry(*bucket).or_default() += bytes;
        }
        let mut left = forecast_bytes;
        let shares: BTreeMap<usize, f64> = totals
            .iter()
            .rev()
            .map(|(bucket, bytes)| {
                let taken = left.min(*bytes);
                left -= taken;
                (*bucket, taken as f64 / (*bytes).max(1) as f64)
            })
            .collect();
        let group = |(place, group): (Vec<u8>, Group)| {
            let part = |of: fn(&(u64, u64)) -> u64| -> u64 {
                let parts = group.buckets.iter().map(|(bucket, sums)| of(sums) as f64 * shares[bucket]);
                parts.sum::<f64>().round() as u64
            };
            let prefix = place.rsplitn(2, |byte| *byte == 0).last().unwrap_or_default();
            ForecastGroup {
                prefix: shown_name(prefix),
                class: group.class,
                eligible: group.buckets.values().map(|(keys, _)| keys).sum(),
                keys: part(|sums| sums.0),
                bytes: part(|sums| sums.1),
            }
        };
        let mut groups: Vec<ForecastGroup> = self.groups.into_iter().map(group).collect();
        groups.sort_by(|one, other| other.bytes.cmp(&one.bytes).then_with(|| one.prefix.cmp(&other.prefix)));
        let short_bytes = if over_bytes > 0 { left } else { 0 };
        Forecast { over_bytes, forecast_bytes, groups, ineligible: self.ineligible, short_bytes }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_engine::KeyKind;

    use super::*;
    use crate::classes::KeyClasses;

    fn key(name: &str, bytes: u64, idle: u64, expires_at: Option<i64>) -> KeyRecord {
        KeyRecord {
            database: 0,
            name: name.as_bytes().to_vec(),
            kind: KeyKind::String,
            bytes: Some(bytes),
            elements: None,
            expires_at,
            idle_seconds: Some(idle),
        }
    }

    fn forecast(policy: &str, used: u64, limit: u64) -> Forecast {
        let classes = KeyClasses::new([(KeyClass::Session, vec!["auth:session:*".to_owned()])]);
        let mut forecasting = Forecasting::new(policy, classes.matcher(), 0);
        for index in 0..10 {
            forecasting.add(&key(&format!("cache:page:{index}"), 100, 1_000, None));
            forecasting.add(&key(&format!("auth:session:{index}"), 100, 10, Some(5_000)));
        }
        forecasting.end(used, limit)
    }

    fn told(forecast: &Forecast) -> Vec<(&str, u64, u64)> {
        forecast.groups.iter().map(|group| (group.prefix.as_str(), group.keys, group.bytes)).collect()
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let idle = forecast("allkeys-lru", 2_000, 1_500);
        assert_eq!((idle.over_bytes, idle.short_bytes), (500, 0));
        assert_eq!(told(&idle), [("cache:page:", 5, 500), ("auth:session:", 0, 0)]);
        assert_eq!(idle.protected(), BTreeMap::from([(KeyClass::Session, 10)]));
        let more = forecast("allkeys-lru", 2_000, 500);
        assert_eq!(told(&more), [("cache:page:", 10, 1_000), ("auth:session:", 5, 500)]);
    }

    #[test]
    fn volatile_policies_spare_what_never_expires() {
        let volatile = forecast("volatile-ttl", 2_000, 500);
        assert_eq!(told(&volatile), [("auth:session:", 10, 1_000)]);
        assert_eq!((volatile.ineligible, volatile.short_bytes), (10, 500));
    }

    #[test]
    fn at_random_each_loses_its_share_and_a_limit_that_holds_takes_a_tenth_next() {
        let random = forecast("allkeys-random", 1_000, 2_000);
        assert_eq!((random.over_bytes, random.forecast_bytes), (0, 200));
        assert_eq!(told(&random), [("auth:session:", 1, 100), ("cache:page:", 1, 100)]);
    }

    #[test]
    fn what_expires_soonest_goes_first() {
        let mut forecasting = Forecasting::new("volatile-ttl", KeyClasses::default().matcher(), 0);
        forecasting.add(&key("late:a:1", 100, 0, Some(1_000_000)));
        forecasting.add(&key("soon:a:1", 100, 0, Some(2_000)));
        assert_eq!(told(&forecasting.end(200, 100)), [("soon:a:", 1, 100), ("late:a:", 0, 0)]);
    }
}
