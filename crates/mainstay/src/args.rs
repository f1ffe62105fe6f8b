//! What was typed: the command tree and the options that every command takes.
//!
//! Arguments are text here; their meaning is the configuration's and the commands' business. A password never belongs here: process lists
//! and shell histories show arguments, so a connection string that holds one is refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};
use mainstay_model::{Error, ErrorKind, Result};

use crate::commands::{
    apply, audit, backfill, backup, capture, completions, config, doctor, environment, index, init, man,
    mongo, pg, plan, redis, restore, seed, sql, status, wal,
};
use crate::config::connection::holds_password;
use crate::config::key::KEYS;

/// Everything that was typed.
#[derive(Debug, Parser)]
#[command(
    name = "mainstay",
    version,
    about = "Day-to-day operations of a MongoDB, PostgreSQL and Redis stack: planned, permitted, proven, recorded.",
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Read this file instead of the nearest mainstay.toml [variable: MAINSTAY_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print one JSON object on standard output instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show results and errors only: no progress, no notices
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Show more detail
    #[arg(long, short, global = true, action = ArgAction::SetTrue)]
    pub(crate) verbose: bool,
    /// Print without colours [variable: NO_COLOR]
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// MongoDB connection string, without a password
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub(crate) mongo_url: Option<String>,
    /// PostgreSQL connection string, without a password
    #[arg(long, global = true, value_name = "URL", alias = "pg-url", hide_short_help = true)]
    pub(crate) postgres_url: Option<String>,
    /// Redis connection string, without a password
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub(crate) redis_url: Option<String>,
    /// Where the repository is: a folder, or s3://bucket/prefix
    #[arg(long, global = true, value_name = "URL", alias = "repository", hide_short_help = true)]
    pub(crate) repository_url: Option<String>,
}

/// The command tree: nouns for things, verbs for moments.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The three stores and the repository at a glance
    Status(status::StatusArgs),
    /// Find misconfiguration, each finding with its remedy
    Doctor(doctor::DoctorArgs),
    /// Make, list, show, verify and prune backups
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Follow a store's change log into the repository
    #[command(subcommand)]
    Capture(capture::CaptureCommand),
    /// Plan and apply restores
    #[command(subcommand)]
    Restore(restore::RestoreCommand),
    /// MongoDB: daily questions, and dumps that stock tools read
    #[command(subcommand)]
    Mongo(mongo::MongoCommand),
    /// MongoDB's indexes: declared, imported, compared, audited, changed by plans
    #[command(subcommand)]
    Index(index::IndexCommand),
    /// Data brought into a new form where it stands: previewed, in batches, resumed, brought back
    #[command(subcommand)]
    Backfill(backfill::BackfillCommand),
    /// PostgreSQL: daily questions
    #[command(subcommand)]
    Pg(pg::PgCommand),
    /// SQL migrations of PostgreSQL: shown, verified, applied; a drop-in for `drizzle-kit migrate`
    #[command(subcommand)]
    Sql(sql::SqlCommand),
    /// Redis: daily questions, and removing keys by pattern
    #[command(subcommand)]
    Redis(redis::RedisCommand),
    /// Bring servers of any age to what is declared of them: users, roles, collections, databases, rights
    #[command(subcommand)]
    Init(init::InitCommand),
    /// Rows that a project keeps in files: reference data anywhere, the rest never in production
    #[command(subcommand)]
    Seed(seed::SeedCommand),
    /// Which environment this is, and marking the stores with it
    #[command(subcommand)]
    Environment(environment::EnvironmentCommand),
    /// The hash-chained record of what was done
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Plans stored in files
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Carry out a stored plan
    Apply(apply::ApplyArgs),
    /// Captured WAL for a PostgreSQL that recovers, and what an archive has of it
    #[command(subcommand)]
    Wal(wal::WalCommand),
    /// Show, check and begin a configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page
    Man(man::ManArgs),
}

impl Command {
    /// The command's name in `--json` output and in the operation registry: the words of its path, joined by dots.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::Doctor(_) => "doctor",
            Self::Backup(command) => command.name(),
            Self::Capture(command) => command.name(),
            Self::Restore(command) => command.name(),
            Self::Mongo(command) => command.name(),
            Self::Index(command) => command.name(),
            Self::Backfill(command) => command.name(),
            Self::Pg(command) => command.name(),
            Self::Sql(command) => command.name(),
            Self::Redis(command) => command.name(),
            Self::Init(command) => command.name(),
            Self::Seed(command) => command.name(),
            Self::Environment(command) => command.name(),
            Self::Audit(command) => command.name(),
            Self::Plan(command) => command.name(),
            Self::Apply(_) => "apply",
            Self::Wal(command) => command.name(),
            Self::Config(command) => command.name(),
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
        }
    }
}

impl Global {
    /// The values of the flags that set configuration keys, by flag name.
    ///
    /// # Errors
    /// `Usage` when one of them holds a password; the message names the flag and never the value.
    pub(crate) fn configuration_flags(&self) -> Result<BTreeMap<&'static str, String>> {
        let given = [
            ("mongo-url", &self.mongo_url),
            ("postgres-url", &self.postgres_url),
            ("redis-url", &self.redis_url),
            ("repository-url", &self.repository_url),
        ];
        let mut flags = BTreeMap::new();
        for (flag, value) in given {
            let Some(value) = value else { continue };
            if holds_password(value) {
                return Err(password_refused(flag));
            }
            flags.insert(flag, value.clone());
        }
        Ok(flags)
    }
}

fn password_refused(flag: &str) -> Error {
    let variable =
        KEYS.iter().find(|key| key.flag == Some(flag)).map(|key| key.variable()).unwrap_or_default();
    let password = match flag {
        "repository-url" => "MAINSTAY_S3_SECRET_ACCESS_KEY".to_owned(),
        _ => variable.replace("_URL", "_PASSWORD"),
    };
    Error::new(ErrorKind::Usage, format!("--{flag} holds a password, which process lists and shell histories would show"))
        .with_state("nothing was done")
        .with_hint(format!(
            "leave the password out and set {password} or {password}_FILE, or set the whole url as {variable} or {variable}_FILE; \
             a password that has been typed in a shell should be changed"
        ))
}

/// The command tree as a value, for completions, the manual and tests.
pub(crate) fn tree() -> clap::Command {
    Arguments::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        tree().debug_assert();
    }

    #[test]
    fn every_configuration_flag_exists() {
        for flag in KEYS.iter().filter_map(|key| key.flag) {
            assert!(tree().get_arguments().any(|argument| argument.get_long() == Some(flag)), "--{flag}");
        }
    }

    #[test]
    fn every_leaf_command_is_a_registered_operation() {
        let mut leaves = Vec::new();
        collect_leaves(&tree(), "", &mut leaves);
        assert!(leaves.len() > 10, "{leaves:?}");
        for leaf in leaves {
            let modes = format!("{leaf}.");
            let registered = mainstay_guard::OPERATIONS
                .iter()
                .any(|operation| operation.name == leaf || operation.name.starts_with(&modes));
            assert!(
                registered,
                "`{leaf}` has no operation in mainstay_guard::OPERATIONS, so nobody has said what it does to the world"
            );
        }
    }

    fn collect_leaves(command: &clap::Command, path: &str, leaves: &mut Vec<String>) {
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            let path = if path.is_empty() {
                child.get_name().to_owned()
            } else {
                format!("{path}.{}", child.get_name())
            };
            if child.has_subcommands() {
                collect_leaves(child, &path, leaves);
            } else {
                leaves.push(path);
            }
        }
    }
}
