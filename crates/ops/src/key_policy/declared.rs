//! What is declared of a server, in its own notation, and where the server differs. Pure.

use std::collections::BTreeMap;

use mainstay_engine::KeyServerSettings;
use mainstay_model::{ByteSize, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// The setting that turns the append-only file on.
pub(super) const LOG: &str = "appendonly";
/// The setting that bounds memory.
pub(super) const LIMIT: &str = "maxmemory";
/// The setting that says what goes at that bound.
pub(super) const EVICTION: &str = "maxmemory-policy";
/// The setting that says when snapshots are made.
pub(super) const SAVE: &str = "save";
/// A server keeps no less of its stream than this, whatever it is told: it would never be as declared (`CONFIG_REPL_BACKLOG_MIN_SIZE`).
const BACKLOG_BYTES_MIN: u64 = 16 * 1024;
/// The largest number that a server takes in a rule of `save`.
const SAVE_NUMBER_MAX: u64 = i32::MAX as u64;
/// Settings whose values are numbers of bytes.
const SIZES: [&str; 2] = [LIMIT, "repl-backlog-size"];

/// How a server is to persist and evict; what is `None` is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredPolicy {
    /// Snapshots: `seconds changes` each; none for never.
    pub save: Option<Vec<String>>,
    /// Whether there is an append-only file.
    pub appendonly: Option<bool>,
    /// When it is made durable: `always`, `everysec`, `no`.
    pub appendfsync: Option<String>,
    /// Most memory in bytes; 0 for no limit.
    pub maxmemory: Option<u64>,
    /// What goes then, in the server's words.
    pub maxmemory_policy: Option<String>,
    /// Bytes of the replication stream that are kept.
    pub repl_backlog_size: Option<u64>,
}

/// A setting that is not as declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// What the server has.
    pub now: String,
    /// What is declared.
    pub declared: String,
}

impl DeclaredPolicy {
    /// The names of every setting that can be declared.
    pub const NAMES: [&'static str; 6] = [SAVE, LOG, "appendfsync", LIMIT, EVICTION, "repl-backlog-size"];

    /// What is declared, as the server writes it.
    ///
    /// # Errors
    /// `Config` when a rule of `save` is not two numbers that a server takes, or a size is none that it keeps to.
    pub fn settings(&self) -> Result<KeyServerSettings> {
        if let Some(bytes) = self.repl_backlog_size.filter(|bytes| *bytes < BACKLOG_BYTES_MIN) {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`repl_backlog_size` of {bytes} bytes in [redis.policy] is less than a server ever keeps"
                ),
            )
            .with_state("nothing was changed")
            .with_hint("write a size of 16kB or more, such as repl_backlog_size = \"64MB\""));
        }
        let save = self.save.as_deref().map(save).transpose()?;
        let yes_or_no = |on: bool| if on { "yes" } else { "no" }.to_owned();
        let bytes = |bytes: u64| bytes.to_string();
        let all = [
            save,
            self.appendonly.map(yes_or_no),
            self.appendfsync.clone(),
            self.maxmemory.map(bytes),
            self.maxmemory_policy.clone(),
            self.repl_backlog_size.map(bytes),
        ];
        let named = Self::NAMES.into_iter().zip(all);
        Ok(named.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }

    /// Where `now` is not as declared.
    ///
    /// # Errors
    /// As [`DeclaredPolicy::settings`]; `Config` when nothing is declared.
    pub fn differences(&self, now: &KeyServerSettings) -> Result<Vec<Difference>> {
        let declared = self.settings()?;
        if declared.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "nothing is declared of how Redis persists and evicts",
            )
            .with_state("nothing was changed")
            .with_hint("write `appendonly = true` or another key into [redis.policy] of mainstay.toml"));
        }
        let difference = |(name, declared): (String, String)| {
            let now = now.get(&name).cloned().unwrap_or_default();
            (now != declared).then_some(Difference { name, now, declared })
        };
        Ok(declared.into_iter().filter_map(difference).collect())
    }
}

/// `["3600 1", "300 100"]` as `3600 1 300 100`.
fn save(rules: &[String]) -> Result<String> {
    let is_taken = |number: &u64| (1..=SAVE_NUMBER_MAX).contains(number);
    let mut words = Vec::new();
    for rule in rules.iter().filter(|rule| !rule.trim().is_empty()) {
        let numbers: Vec<u64> = rule.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if numbers.len() != 2 || rule.split_whitespace().count() != 2 || !numbers.iter().all(is_taken) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{rule:?} of `save` in [redis.policy] is no rule"),
            )
            .with_state("nothing was changed")
            .with_hint("write seconds and changes, as in save = [\"3600 1\", \"300 100\"]"));
        }
        words.extend(numbers.iter().map(u64::to_string));
    }
    Ok(words.join(" "))
}

/// A value of a setting as people read it.
pub(super) fn shown(name: &str, value: &str) -> String {
    match (name, value) {
        (LIMIT, "0") => "no limit".to_owned(),
        (SAVE, "") => "never".to_owned(),
        _ if SIZES.contains(&name) => {
            value.parse().map_or_else(|_| value.to_owned(), |bytes| ByteSize(bytes).to_string())
        }
        (_, "") => "unknown".to_owned(),
        _ => value.to_owned(),
    }
}

/// The settings of differences, by name.
pub(super) fn by_name(differences: &[Difference]) -> BTreeMap<&str, &Difference> {
    differences.iter().map(|difference| (difference.name.as_str(), difference)).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn declared_settings_are_in_the_servers_notation() {
        let declared = DeclaredPolicy {
            save: Some(vec!["3600 1".to_owned(), " 300  100".to_owned()]),
            appendonly: Some(true),
            maxmemory: Some(256 << 20),
            ..DeclaredPolicy::default()
        };
        let settings = declared.settings().unwrap();
        assert_eq!(settings["save"], "3600 1 300 100");
        assert_eq!((settings["appendonly"].as_str(), settings["maxmemory"].as_str()), ("yes", "268435456"));
        assert_eq!(settings.len(), 3);
        let mut now = settings.clone();
        now.insert("save".to_owned(), String::new());
        let differences = declared.differences(&now).unwrap();
        assert_eq!(
            differences,
            [Difference {
                name: "save".to_owned(),
                now: String::new(),
                declared: "3600 1 300 100".to_owned()
            }]
        );
        for bytes in [0, 1, (16 << 10) - 1] {
            let declared = DeclaredPolicy { repl_backlog_size: Some(bytes), ..DeclaredPolicy::default() };
            assert_eq!(declared.settings().unwrap_err().kind(), ErrorKind::Config, "{bytes}");
        }
        for bad in ["3600", "abc", "a b", "0 1", "1 2 3", "1 4294967296"] {
            let declared = DeclaredPolicy { save: Some(vec![bad.to_owned()]), ..DeclaredPolicy::default() };
            assert_eq!(declared.settings().unwrap_err().kind(), ErrorKind::Config, "{bad}");
        }
        let never = DeclaredPolicy { save: Some(vec![]), ..DeclaredPolicy::default() };
        assert_eq!(never.settings().unwrap()["save"], "");
        assert!(DeclaredPolicy::default().differences(&now).is_err());
    }
}
