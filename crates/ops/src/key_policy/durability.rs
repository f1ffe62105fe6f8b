//! Whether a change of settings outlives a restart, and what to write where when it does not. Pure.
//!
//! Two things decide what a server has after a start: the file it was started with, in which it can keep changes, and its command line, which
//! wins over the file. Of the command line the server says nothing; where a compose file starts it, that does.

use std::collections::BTreeMap;

use mainstay_engine::KeyServerSettings;
use serde::Serialize;

/// How a container's server is started, as a compose file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StartCommand {
    /// Where it is said: `compose.yaml: redis`.
    pub place: String,
    /// Options of the command line by name, without dashes; of `save` all rules together.
    pub options: BTreeMap<String, String>,
    /// The configuration file on the command line.
    pub config_file: Option<String>,
    /// Files that are mounted by themselves: such a one can be written, and never replaced.
    pub single_files: Vec<String>,
}

/// Whether a change outlives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Durability {
    /// The file in which the server keeps settings; `None` when it has none.
    pub config_file: Option<String>,
    /// Why a change does not outlive a restart, each a sentence; empty when it does.
    pub obstacles: Vec<String>,
    /// The options to put on the command line instead; `None` when they are there, or not needed.
    pub command_line: Option<String>,
    /// Where they are to be put, when that is known.
    pub place: Option<String>,
}

impl Durability {
    /// Judges a server whose configuration file this is, `declared` settings, and how a compose file starts it, if there is one.
    pub fn of(config_file: Option<&str>, declared: &KeyServerSettings, start: Option<&StartCommand>) -> Self {
        let mut obstacles = Vec::new();
        let overridden = |name: &&String| {
            start.is_some_and(|start| {
                start.options.get(*name).is_some_and(|value| !same(name, value, &declared[*name]))
            })
        };
        let names: Vec<&String> = declared.keys().filter(overridden).collect();
        for name in &names {
            let value = start.and_then(|start| start.options.get(*name)).cloned().unwrap_or_default();
            obstacles.push(format!("the command line says `--{name} {value}`, which wins at every start"));
        }
        let said_already = start.is_some_and(|start| {
            declared
                .iter()
                .all(|(name, value)| start.options.get(name).is_some_and(|own| same(name, own, value)))
        });
        match config_file {
            None if !said_already => {
                obstacles.push(
                    "the server was started without a configuration file, so it cannot keep changes"
                        .to_owned(),
                );
            }
            Some(file)
                if start.is_some_and(|start| start.single_files.iter().any(|single| single == file)) =>
            {
                obstacles.push(format!(
                    "{file} is mounted by itself, so the server cannot replace it: mount its folder"
                ));
            }
            _ => {}
        }
        let command_line = (!obstacles.is_empty()).then(|| options(declared));
        let place = start.map(|start| start.place.clone());
        Self { config_file: config_file.map(str::to_owned), obstacles, command_line, place }
    }

    /// Whether it does.
    pub fn is_given(&self) -> bool {
        self.obstacles.is_empty()
    }

    /// Whether the server is to write its file: what the command line says already needs none.
    pub fn wants_file(&self) -> bool {
        self.is_given() && self.config_file.is_some()
    }
}

/// `--appendonly yes --save "3600 1"`.
fn options(declared: &KeyServerSettings) -> String {
    let option = |(name, value): (&String, &String)| match value.contains(' ') || value.is_empty() {
        true => format!("--{name} \"{value}\""),
        false => format!("--{name} {value}"),
    };
    declared.iter().map(option).collect::<Vec<_>>().join(" ")
}

/// Whether two notations of a value mean the same: sizes have units.
fn same(name: &str, one: &str, other: &str) -> bool {
    if !["maxmemory", "repl-backlog-size"].contains(&name) {
        return one.eq_ignore_ascii_case(other);
    }
    bytes(one).is_some() && bytes(one) == bytes(other)
}

/// `256mb`, `1g`, `1024` as `redis.conf` means them: `mb` is 1024², `m` is 1000².
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let digits = text.find(|one: char| !one.is_ascii_digit()).unwrap_or(text.len());
    let factor: u64 = match &text[digits..] {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> KeyServerSettings {
        [("appendonly", "yes"), ("maxmemory", "268435456"), ("save", "3600 1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    fn start(options: &[(&str, &str)], single: &[&str]) -> StartCommand {
        StartCommand {
            place: "compose.yaml: redis".to_owned(),
            options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            config_file: None,
            single_files: single.iter().map(|file| (*file).to_owned()).collect(),
        }
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let file = Some("/etc/redis.conf");
        for (config_file, started, count, text) in [
            (file, None, 0, ""),
            (None, None, 1, "without a configuration file"),
            (file, Some(start(&[], &[])), 0, ""),
            (file, Some(start(&[("appendonly", "no")], &[])), 1, "--appendonly no"),
            (file, Some(start(&[("maxmemory", "256mb")], &[])), 0, ""),
            (file, Some(start(&[("maxmemory", "256m")], &[])), 1, "--maxmemory 256m"),
            (file, Some(start(&[], &["/etc/redis.conf"])), 1, "mounted by itself"),
            (None, Some(start(&[("appendonly", "yes")], &[])), 1, "without a configuration file"),
            (
                None,
                Some(start(&[("appendonly", "yes"), ("maxmemory", "256mb"), ("save", "3600 1")], &[])),
                0,
                "",
            ),
        ] {
            let durability = Durability::of(config_file, &declared(), started.as_ref());
            assert_eq!(durability.obstacles.len(), count, "{durability:?}");
            assert!(durability.obstacles.concat().contains(text), "{durability:?}");
            assert_eq!(durability.command_line.is_some(), count > 0);
            assert_eq!(durability.wants_file(), count == 0 && config_file.is_some());
        }
        let bare = Durability::of(None, &declared(), None);
        assert_eq!(
            bare.command_line.as_deref(),
            Some("--appendonly yes --maxmemory 268435456 --save \"3600 1\"")
        );
    }
}
