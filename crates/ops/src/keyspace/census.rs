//! Counting keys, and judging the count. Pure: what comes in are records, in any order.
//!
//! Keys are grouped by the first words of their names, as in `<domain>:<kind>:<id>`. Judged is what every group says about itself: where
//! nearly all keys expire, one that does not is most likely forgotten.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};

use mainstay_engine::{KeyKind, KeyRecord};
use mainstay_model::{Count, Finding, Severity, StoreKind};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How many prefixes are kept apart.
pub const PREFIX_COUNT_MAX: usize = 10_000;
/// How much of a prefix tells it from others, in bytes.
const PREFIX_BYTES_MAX: usize = 200;
/// How much of a name is shown, in bytes.
const NAME_BYTES_MAX: usize = 120;
/// How many names are kept as examples.
const EXAMPLE_COUNT_MAX: usize = 5;
/// Where at least this share of a group's keys expire, in percent, the others are told.
const EXPIRING_PERCENT: u64 = 90;
/// So many keys of a group are looked at, where a part is enough.
const DESCRIBED_FIRST: u64 = 1_000;
/// Behind those one of so many.
const DESCRIBED_EVERY: u64 = 32;
/// The fewest keys of a group that say anything about it.
const TELLING_KEYS: u64 = 20;

/// How keys are counted.
#[derive(Debug, Clone)]
pub struct CensusOptions {
    /// What stands between the words of a name.
    pub delimiter: u8,
    /// How many words make a prefix.
    pub depth: usize,
    /// How many of the largest keys are named.
    pub biggest: usize,
    /// The present moment, in milliseconds since 1970.
    pub now: i64,
}

/// How soon keys expire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ExpirySpread {
    /// Never.
    pub never: u64,
    /// They should have: in a file, or where the server has not come to it.
    pub passed: u64,
    /// Within an hour.
    pub hour: u64,
    /// Within a day.
    pub day: u64,
    /// Within a week.
    pub week: u64,
    /// Within thirty days.
    pub month: u64,
    /// Later.
    pub later: u64,
}

impl ExpirySpread {
    fn add(&mut self, expires_at: Option<i64>, now: i64) {
        const HOUR: i64 = 3_600_000;
        const DAY: i64 = 24 * HOUR;
        let Some(at) = expires_at else {
            self.never += 1;
            return;
        };
        let bucket = match at.saturating_sub(now) {
            left if left <= 0 => &mut self.passed,
            left if left <= HOUR => &mut self.hour,
            left if left <= DAY => &mut self.day,
            left if left <= 7 * DAY => &mut self.week,
            left if left <= 30 * DAY => &mut self.month,
            _ => &mut self.later,
        };
        *bucket += 1;
    }

    fn each_mut(&mut self) -> [&mut u64; 7] {
        let Self { never, passed, hour, day, week, month, later } = self;
        [never, passed, hour, day, week, month, later]
    }

    fn absorb(&mut self, mut other: Self) {
        for (sum, more) in self.each_mut().into_iter().zip(other.each_mut()) {
            *sum += *more;
        }
    }
}

/// Some keys, summed up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KeyGroup {
    /// How many.
    pub keys: u64,
    /// What they take; see `CensusSource`.
    pub bytes: u64,
    /// How many of each kind.
    pub kinds: BTreeMap<KeyKind, u64>,
    /// How soon they expire.
    pub expiry: ExpirySpread,
    /// Those that have not been used for a day, where that is known.
    pub idle_for_a_day: Option<u64>,
    /// Names of some that never expire.
    pub lasting: Vec<String>,
    /// How many of them were looked at. Where that is not all, everything but their number is reckoned from those.
    pub described: u64,
    /// How many it was asked of whether they should be looked at.
    #[serde(skip)]
    asked: u64,
}

impl KeyGroup {
    fn add(&mut self, record: &KeyRecord, now: i64) {
        const DAY_SECONDS: u64 = 24 * 3600;
        self.keys += 1;
        self.described += 1;
        self.bytes = self.bytes.saturating_add(record.bytes.unwrap_or_default());
        *self.kinds.entry(record.kind).or_default() += 1;
        self.expiry.add(record.expires_at, now);
        if let Some(idle) = record.idle_seconds {
            *self.idle_for_a_day.get_or_insert(0) += u64::from(idle >= DAY_SECONDS);
        }
        if record.expires_at.is_none() && self.lasting.len() < EXAMPLE_COUNT_MAX {
            self.lasting.push(shown(&record.name, NAME_BYTES_MAX));
        }
    }

    /// Adds what `other` sums up, of other keys.
    fn absorb(&mut self, other: &Self) {
        self.keys += other.keys;
        self.described += other.described;
        self.bytes = self.bytes.saturating_add(other.bytes);
        for (kind, count) in &other.kinds {
            *self.kinds.entry(*kind).or_default() += count;
        }
        self.expiry.absorb(other.expiry);
        if let Some(idle) = other.idle_for_a_day {
            *self.idle_for_a_day.get_or_insert(0) += idle;
        }
        let missing = EXAMPLE_COUNT_MAX.saturating_sub(self.lasting.len());
        self.lasting.extend(other.lasting.iter().take(missing).cloned());
    }

    /// Whether all of them were looked at.
    pub fn is_exact(&self) -> bool {
        self.described == self.keys
    }

    /// From what was looked at to all of them.
    fn scale(&mut self) {
        if self.is_exact() || self.described == 0 {
            return;
        }
        let ratio = self.keys as f64 / self.described as f64;
        let scale = |value: &mut u64| *value = (*value as f64 * ratio).round() as u64;
        scale(&mut self.bytes);
        self.kinds.values_mut().for_each(scale);
        self.idle_for_a_day.iter_mut().for_each(scale);
        self.expiry.each_mut().into_iter().for_each(scale);
    }

    /// Whether a key of this group that never expires is an exception.
    fn expires_as_a_rule(&self) -> bool {
        let expiring = self.keys - self.expiry.never;
        self.keys >= TELLING_KEYS && expiring * 100 >= self.keys * EXPIRING_PERCENT
    }
}

/// Keys whose names begin alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrefixGroup {
    /// The number of their database.
    pub database: u64,
    /// The beginning, such as `auth:session:`, bytes that are no text escaped; empty for names of one word.
    pub prefix: String,
    /// The keys.
    #[serde(flatten)]
    pub group: KeyGroup,
}

/// A large key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BigKey {
    /// The number of its database.
    pub database: u64,
    /// Its name, bytes that are no text escaped, cut when long.
    pub name: String,
    /// What its value is.
    pub kind: KeyKind,
    /// What it takes; see `CensusSource`.
    pub bytes: u64,
    /// Its elements, where that is known.
    pub elements: Option<u64>,
}

/// What was counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyCensus {
    /// All keys.
    pub total: KeyGroup,
    /// By prefix, the largest first.
    pub prefixes: Vec<PrefixGroup>,
    /// Those of prefixes that came after [`PREFIX_COUNT_MAX`] others.
    pub others: KeyGroup,
    /// The largest keys, largest first.
    pub biggest: Vec<BigKey>,
    /// Keys whose names are not of the form `<domain>:<kind>:<id>`.
    pub unconventional: u64,
    /// Names of some of them.
    pub unconventional_names: Vec<String>,
}

impl KeyCensus {
    /// What is out of the ordinary.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let finding = |id: &str, severity, subject: String, message: String, remedy: String| Finding {
            id: id.to_owned(),
            severity,
            store: Some(StoreKind::Redis),
            subject,
            message,
            remedy,
        };
        let forgotten = self
            .prefixes
            .iter()
            .filter(|group| group.group.expiry.never > 0 && group.group.expires_as_a_rule());
        let mut findings: Vec<Finding> = forgotten
            .map(|PrefixGroup { database, prefix, group }| {
                finding(
                    "redis.keys.never_expire",
                    Severity::Warning,
                    format!("{prefix}* in database {database}"),
                    format!(
                        "{} of {} keys never expire, the others do; among them {}",
                        Count(group.expiry.never),
                        Count(group.keys),
                        group.lasting.join(", ")
                    ),
                    "give them an expiry where they are written (`SET … EX`), and once by hand with `EXPIRE`"
                        .to_owned(),
                )
            })
            .collect();
        if self.unconventional > 0 {
            findings.push(finding(
                "redis.keys.unconventional",
                Severity::Note,
                "names of keys".to_owned(),
                format!(
                    "{} of {} names are not of the form <domain>:<kind>:<id>; among them {}",
                    Count(self.unconventional),
                    Count(self.total.keys),
                    self.unconventional_names.join(", ")
                ),
                "rename them where they are written: purges and reports go by prefix".to_owned(),
            ));
        }
        findings
    }
}

/// A census under way.
pub(crate) struct Counting {
    options: CensusOptions,
    /// By database and prefix. Whoever chooses names chooses at most [`PREFIX_COUNT_MAX`] prefixes, and not the seed.
    prefixes: BTreeMap<u64, HashMap<Vec<u8>, KeyGroup, PrefixHashing>>,
    hashing: PrefixHashing,
    prefix_count: usize,
    others: KeyGroup,
    biggest: BinaryHeap<Reverse<Ranked>>,
    unconventional: u64,
    unconventional_names: Vec<String>,
}

/// Keys in the order of their size.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    bytes: u64,
    database: u64,
    name: Vec<u8>,
    kind: KeyKind,
    elements: Option<u64>,
}

impl Counting {
    pub(crate) fn new(options: CensusOptions) -> Self {
        Self {
            options,
            prefixes: BTreeMap::new(),
            hashing: PrefixHashing { seed: RandomState::new().hash_one(PREFIX_COUNT_MAX) },
            prefix_count: 0,
            others: KeyGroup::default(),
            biggest: BinaryHeap::new(),
            unconventional: 0,
            unconventional_names: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, record: &KeyRecord) {
        let now = self.options.now;
        self.group(record.database, &record.name).add(record, now);
        self.rank(record);
        self.judge_name(&record.name);
    }

    /// Counts a key of which nothing but its name is known.
    pub(crate) fn add_named(&mut self, database: u64, name: &[u8]) {
        self.group(database, name).keys += 1;
        self.judge_name(name);
    }

    /// Whether a key should be looked at: of each prefix the first ones, then a part.
    pub(crate) fn wants_described(&mut self, database: u64, name: &[u8]) -> bool {
        let group = self.group(database, name);
        group.asked += 1;
        group.asked <= DESCRIBED_FIRST || group.asked.is_multiple_of(DESCRIBED_EVERY)
    }

    fn group(&mut self, database: u64, name: &[u8]) -> &mut KeyGroup {
        let prefix = prefix(name, self.options.delimiter, self.options.depth);
        let prefix = &prefix[..prefix.len().min(PREFIX_BYTES_MAX)];
        let hashing = self.hashing;
        let prefixes = self.prefixes.entry(database).or_insert_with(|| HashMap::with_hasher(hashing));
        let is_known = prefixes.contains_key(prefix);
        if !is_known && self.prefix_count >= PREFIX_COUNT_MAX {
            return &mut self.others;
        }
        self.prefix_count += usize::from(!is_known);
        match is_known {
            true => prefixes.get_mut(prefix).unwrap_or(&mut self.others),
            false => prefixes.entry(prefix.to_vec()).or_default(),
        }
    }

    fn judge_name(&mut self, name: &[u8]) {
        if is_conventional(name, self.options.delimiter) {
            return;
        }
        self.unconventional += 1;
        if self.unconventional_names.len() < EXAMPLE_COUNT_MAX {
            self.unconventional_names.push(shown(name, NAME_BYTES_MAX));
        }
    }

    fn rank(&mut self, record: &KeyRecord) {
        let Some(bytes) = record.bytes else { return };
        let is_full = self.biggest.len() >= self.options.biggest;
        if is_full && self.biggest.peek().is_none_or(|Reverse(least)| bytes <= least.bytes) {
            return;
        }
        let name = record.name[..record.name.len().min(NAME_BYTES_MAX + 1)].to_vec();
        let (database, kind, elements) = (record.database, record.kind, record.elements);
        // A server that moves its keys while they are listed tells some twice.
        let is_known = |Reverse(known): &Reverse<Ranked>| known.database == database && known.name == name;
        if self.biggest.iter().any(is_known) {
            return;
        }
        if is_full {
            self.biggest.pop();
        }
        self.biggest.push(Reverse(Ranked { bytes, database, name, kind, elements }));
    }

    pub(crate) fn end(mut self) -> KeyCensus {
        let of_database = |(database, prefixes): (u64, HashMap<Vec<u8>, KeyGroup, PrefixHashing>)| {
            prefixes.into_iter().map(move |(prefix, group)| PrefixGroup {
                database,
                prefix: shown(&prefix, PREFIX_BYTES_MAX),
                group,
            })
        };
        let mut prefixes: Vec<PrefixGroup> = self.prefixes.into_iter().flat_map(of_database).collect();
        prefixes.iter_mut().for_each(|prefix| prefix.group.scale());
        self.others.scale();
        prefixes.sort_by(|a, b| {
            let size = |group: &PrefixGroup| (Reverse(group.group.bytes), Reverse(group.group.keys));
            size(a).cmp(&size(b)).then_with(|| (a.database, &a.prefix).cmp(&(b.database, &b.prefix)))
        });
        let mut total = KeyGroup::default();
        prefixes.iter().for_each(|prefix| total.absorb(&prefix.group));
        total.absorb(&self.others);
        let mut biggest: Vec<Ranked> = self.biggest.into_iter().map(|Reverse(ranked)| ranked).collect();
        biggest.sort_by(|a, b| b.cmp(a));
        let biggest = biggest.into_iter().map(|Ranked { bytes, database, name, kind, elements }| BigKey {
            database,
            name: shown(&name, NAME_BYTES_MAX),
            kind,
            bytes,
            elements,
        });
        KeyCensus {
            total,
            prefixes,
            others: self.others,
            biggest: biggest.collect(),
            unconventional: self.unconventional,
            unconventional_names: self.unconventional_names,
        }
    }
}

/// The beginning of `name` by which keys are grouped unless another way is asked for: `<domain>:<kind>:`.
pub(crate) fn census_prefix(name: &[u8]) -> &[u8] {
    let prefix = prefix(name, b':', 2);
    &prefix[..prefix.len().min(PREFIX_BYTES_MAX)]
}

/// A name as it can be shown.
pub(crate) fn shown_name(name: &[u8]) -> String {
    shown(name, NAME_BYTES_MAX)
}

/// The first `depth` words of `name` with the delimiters behind them; where there are fewer, all but the last.
fn prefix(name: &[u8], delimiter: u8, depth: usize) -> &[u8] {
    let ends = name.iter().enumerate().filter(|(_, byte)| **byte == delimiter).map(|(at, _)| at + 1);
    &name[..ends.take(depth).last().unwrap_or(0)]
}

/// Whether `name` has three words at least, none of them empty, of bytes that can be typed.
fn is_conventional(name: &[u8], delimiter: u8) -> bool {
    // Loops without a way out, which are done on many bytes at once.
    let delimiters = name.iter().map(|byte| usize::from(*byte == delimiter)).sum::<usize>();
    let foreign =
        name.iter().fold(false, |found, byte| found | !(byte.is_ascii_graphic() | (*byte == delimiter)));
    let behind = name.get(1..).unwrap_or_default();
    let empty = name
        .iter()
        .zip(behind)
        .fold(false, |found, (byte, next)| found | ((*byte == delimiter) & (*next == delimiter)));
    let borders = [name.first(), name.last()];
    delimiters >= 2 && !foreign && !empty && !borders.contains(&Some(&delimiter))
}

/// Hashes prefixes, several times faster than what the standard library takes for names of any number.
#[derive(Clone, Copy)]
struct PrefixHashing {
    seed: u64,
}

struct PrefixHasher(u64);

impl BuildHasher for PrefixHashing {
    type Hasher = PrefixHasher;

    fn build_hasher(&self) -> PrefixHasher {
        PrefixHasher(self.seed)
    }
}

impl Hasher for PrefixHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_usize(&mut self, length: usize) {
        self.0 = self.0.wrapping_add(length as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A name as it can be shown: text stays as it is, anything else is escaped; cut when long.
fn shown(name: &[u8], bytes_max: usize) -> String {
    let mut text = String::new();
    for chunk in name[..name.len().min(bytes_max)].utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_control() {
                text.extend(char.escape_default());
            } else {
                text.push(char);
            }
        }
        text.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    if name.len() > bytes_max {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, bytes: u64, expires_at: Option<i64>) -> KeyRecord {
        KeyRecord {
            database: 0,
            name: name.as_bytes().to_vec(),
            kind: KeyKind::String,
            bytes: Some(bytes),
            elements: Some(1),
            expires_at,
            idle_seconds: None,
        }
    }

    fn counting(biggest: usize) -> Counting {
        Counting::new(CensusOptions { delimiter: b':', depth: 2, biggest, now: 1_000_000 })
    }

    #[test]
    fn a_prefix_is_the_first_words_and_never_the_last() {
        for (name, expected) in [
            ("auth:session:42", "auth:session:"),
            ("auth:session:42:more", "auth:session:"),
            ("a:b", "a:"),
            ("plain", ""),
            ("", ""),
            ("::", "::"),
            ("a:", "a:"),
        ] {
            assert_eq!(prefix(name.as_bytes(), b':', 2), expected.as_bytes(), "{name}");
        }
        assert_eq!(prefix(b"a/b/c/d", b'/', 3), b"a/b/c/");
    }

    #[test]
    fn the_convention_wants_three_whole_words() {
        for (name, expected) in [
            (&b"auth:session:42"[..], true),
            (b"auth:session:42:more", true),
            (b"auth:session", false),
            (b"auth::42", false),
            (b"auth:session:", false),
            (b"auth:session:a b", false),
            (b"auth:session:\xff", false),
            (b"", false),
        ] {
            assert_eq!(is_conventional(name, b':'), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn names_are_shown_without_what_a_terminal_obeys() {
        assert_eq!(shown("käse:1".as_bytes(), 100), "käse:1");
        assert_eq!(shown(b"a\x1b[31m\xff\n", 100), "a\\u{1b}[31m\\xff\\n");
        assert_eq!(shown(b"abcdef", 3), "abc…");
    }

    #[test]
    fn keys_are_summed_up_by_prefix_and_by_how_soon_they_expire() {
        let mut counting = counting(2);
        let day = 24 * 3_600_000;
        for (name, bytes, left) in [
            ("auth:session:1", 10, Some(1)),
            ("auth:session:2", 30, Some(day)),
            ("auth:session:3", 20, Some(-5)),
            ("queue:job:1", 500, None),
            ("queue:job:1", 500, None),
            ("odd", 1, Some(365 * day)),
        ] {
            counting.add(&record(name, bytes, left.map(|left| 1_000_000 + left)));
        }
        let census = counting.end();
        assert_eq!((census.total.keys, census.total.bytes), (6, 1061));
        let prefixes: Vec<_> =
            census.prefixes.iter().map(|group| (group.prefix.as_str(), group.group.keys)).collect();
        assert_eq!(prefixes, [("queue:job:", 2), ("auth:session:", 3), ("", 1)]);
        let expected = ExpirySpread { never: 2, passed: 1, hour: 1, day: 1, later: 1, ..Default::default() };
        assert_eq!(census.total.expiry, expected);
        let biggest: Vec<_> = census.biggest.iter().map(|key| (key.name.as_str(), key.bytes)).collect();
        assert_eq!(biggest, [("queue:job:1", 500), ("auth:session:2", 30)], "none twice");
        assert_eq!((census.unconventional, census.unconventional_names), (1, vec!["odd".to_owned()]));
    }

    #[test]
    fn a_key_that_never_expires_is_told_where_the_others_do() {
        let mut counting = counting(0);
        for index in 0..19 {
            counting.add(&record(&format!("auth:session:{index}"), 1, Some(2_000_000)));
            counting.add(&record(&format!("user:profile:{index}"), 1, None));
        }
        counting.add(&record("auth:session:forgotten", 1, None));
        counting.add(&record("user:profile:19", 1, Some(2_000_000)));
        let census = counting.end();
        assert_eq!((census.total.keys, census.total.expiry.never), (40, 20));
        let findings = census.findings();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].subject.starts_with("auth:session:*"), "{findings:?}");
        assert!(findings[0].message.contains("1 of 20 keys") && findings[0].message.contains("forgotten"));
    }

    #[test]
    fn of_a_large_group_a_part_is_looked_at_and_the_rest_reckoned() {
        let mut counting = counting(0);
        for step in 0..640 {
            let records: Vec<_> = (0..100)
                .map(|index| record(&format!("cache:page:{step}-{index}"), 10, Some(2_000_000)))
                .collect();
            let (looked_at, named): (Vec<_>, Vec<_>) =
                records.iter().partition(|record| counting.wants_described(0, &record.name));
            named.iter().for_each(|record| counting.add_named(0, &record.name));
            looked_at.iter().for_each(|record| counting.add(record));
        }
        counting.add(&record("cart:open:1", 7, None));
        let census = counting.end();
        let group = &census.prefixes[0].group;
        assert_eq!((group.keys, group.bytes, group.expiry.hour), (64_000, 640_000, 64_000));
        assert!(!group.is_exact() && (2_900..3_000).contains(&group.described), "{}", group.described);
        assert_eq!((census.total.keys, census.total.bytes, census.total.expiry.never), (64_001, 640_007, 1));
        assert!(census.prefixes[1].group.is_exact());
    }

    #[test]
    fn prefixes_beyond_what_is_kept_apart_are_summed_up() {
        let mut counting = counting(0);
        for index in 0..PREFIX_COUNT_MAX + 3 {
            counting.add(&record(&format!("a:{index}:x"), 1, None));
        }
        let census = counting.end();
        assert_eq!((census.prefixes.len(), census.others.keys), (PREFIX_COUNT_MAX, 3));
    }
}
