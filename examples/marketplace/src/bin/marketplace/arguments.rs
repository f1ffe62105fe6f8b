//! The arguments, and what they and the environment come to together.
//!
//! A URL with a password is taken from the environment only: arguments can be read by every user of the machine.

use clap::{Args, Parser, Subcommand};
use marketplace::{LoadOptions, LoadTarget, MongoTarget, Sample, Scale, carries_password};

const MONGO_VARIABLE: &str = "MARKETPLACE_MONGO_URL";
const REDIS_VARIABLE: &str = "MARKETPLACE_REDIS_URL";

/// The sample marketplace: deterministic data at any scale.
#[derive(Parser)]
#[command(name = "marketplace", version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Load the sample into a MongoDB, a Redis, or both
    Load(LoadArguments),
    /// Show the collections, views, indexes and keys of the sample
    Describe(SizeArguments),
}

/// Which sample.
#[derive(Args, Clone, Copy)]
pub(crate) struct SizeArguments {
    /// Size of the sample, 0 to 1000: at 1 about 250,000 documents, at 0 none
    #[arg(long, value_name = "F", default_value = "1")]
    pub(crate) scale: Scale,
    /// The same seed gives the same data
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Args)]
pub(crate) struct LoadArguments {
    /// MongoDB to load into [env: MARKETPLACE_MONGO_URL]
    #[arg(long, value_name = "URL")]
    mongo_url: Option<String>,
    /// Database to load into
    #[arg(long, value_name = "NAME", default_value = "marketplace")]
    db: String,
    /// Redis to load into [env: MARKETPLACE_REDIS_URL]
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,
    #[command(flatten)]
    size: SizeArguments,
    /// Also load this much into the collection `orders`, for measurements: 500MB, 1GiB
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = parse_bytes)]
    bulk_bytes: u64,
    /// Also load this many Redis keys of 400 bytes or so, for measurements
    #[arg(long, value_name = "N", default_value_t = 0)]
    bulk_keys: u64,
    /// Inserts under way at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// Drop the collections and keys that this load writes first
    #[arg(long)]
    drop: bool,
}

/// What to load, and where.
#[derive(Debug)]
pub(crate) struct ResolvedLoad {
    pub(crate) target: LoadTarget,
    pub(crate) options: LoadOptions,
}

/// A password where others can read it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PasswordInArguments {
    flag: &'static str,
    hint: &'static str,
}

impl PasswordInArguments {
    pub(crate) fn hint(&self) -> &'static str {
        self.hint
    }
}

impl std::fmt::Display for PasswordInArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} holds a password, which every user of this machine can read", self.flag)
    }
}

impl LoadArguments {
    /// Flags come before variables; an empty variable counts as none.
    pub(crate) fn resolve(
        self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<ResolvedLoad, PasswordInArguments> {
        let mongo_hint =
            "leave out --mongo-url and set the variable: export MARKETPLACE_MONGO_URL='mongodb://…'";
        let redis_hint =
            "leave out --redis-url and set the variable: export MARKETPLACE_REDIS_URL='redis://…'";
        refuse_password(
            self.mongo_url.as_deref(),
            PasswordInArguments { flag: "--mongo-url", hint: mongo_hint },
        )?;
        refuse_password(
            self.redis_url.as_deref(),
            PasswordInArguments { flag: "--redis-url", hint: redis_hint },
        )?;
        let url = |flag: Option<String>, name| flag.or_else(|| variable(name)).filter(|url| !url.is_empty());
        let database = self.db;
        let target = LoadTarget {
            mongo: url(self.mongo_url, MONGO_VARIABLE).map(|url| MongoTarget { url, database }),
            redis_url: url(self.redis_url, REDIS_VARIABLE),
        };
        let sample = Sample::new(self.size.seed, self.size.scale, jiff::Timestamp::now());
        let options = LoadOptions {
            sample,
            bulk_bytes: self.bulk_bytes,
            bulk_keys: self.bulk_keys,
            drop: self.drop,
            connections: usize::from(self.connections),
        };
        Ok(ResolvedLoad { target, options })
    }
}

fn refuse_password(url: Option<&str>, refusal: PasswordInArguments) -> Result<(), PasswordInArguments> {
    if url.is_some_and(carries_password) { Err(refusal) } else { Ok(()) }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|symbol: char| !symbol.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err("not a size; write it like 500MB or 1GiB".to_owned()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| "not a size; write it like 500MB or 1GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(line: &[&str], variables: &[(&str, &str)]) -> Result<ResolvedLoad, PasswordInArguments> {
        let arguments =
            Arguments::try_parse_from(["marketplace", "load"].iter().chain(line)).expect("valid arguments");
        let Command::Load(load) = arguments.command else { panic!("not a load") };
        load.resolve(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn flags_come_before_variables() {
        let resolved = resolve(
            &["--mongo-url", "mongodb://flag", "--db", "shop"],
            &[(MONGO_VARIABLE, "mongodb://variable"), (REDIS_VARIABLE, "redis://:secret@variable")],
        )
        .expect("no password is in the arguments");
        let mongo = resolved.target.mongo.expect("a MongoDB was named");
        assert_eq!((mongo.url.as_str(), mongo.database.as_str()), ("mongodb://flag", "shop"));
        assert_eq!(resolved.target.redis_url.as_deref(), Some("redis://:secret@variable"));
    }

    #[test]
    fn passwords_in_arguments_are_refused() {
        let refusal =
            resolve(&["--mongo-url", "mongodb://app:secret@db"], &[]).expect_err("a password is refused");
        assert!(!format!("{refusal} {}", refusal.hint()).contains("secret"));
        assert!(refusal.hint().contains(MONGO_VARIABLE));
        assert!(
            resolve(&["--redis-url", "redis://:secret@db"], &[])
                .expect_err("a password is refused")
                .hint()
                .contains(REDIS_VARIABLE)
        );
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in
            [("0", 0), ("12", 12), ("500MB", 500_000_000), ("1GiB", 1 << 30), ("3 KiB", 3072)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "1.5GiB", "-1", "1XB", "99999999999999GiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
