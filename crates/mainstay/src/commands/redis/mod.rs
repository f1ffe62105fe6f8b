//! `redis …`: daily questions to Redis, and what is removed from it.

pub(crate) mod keys;
pub(crate) mod purge;

use clap::Subcommand;
use mainstay_model::{ExitStatus, Result};

use crate::wiring::Session;

/// The commands below `redis`.
#[derive(Debug, Subcommand)]
pub(crate) enum RedisCommand {
    /// Show what keys there are by prefix: how many, what they take, when they expire
    Keys(keys::KeysArgs),
    /// Remove the keys whose names match a pattern, counted before
    Purge(purge::PurgeArgs),
}

impl RedisCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Keys(_) => "redis.keys",
            Self::Purge(_) => mainstay_ops::purge::OPERATION,
        }
    }
}

/// Runs a command below `redis`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: RedisCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        RedisCommand::Keys(args) => keys::run(args, session).await,
        RedisCommand::Purge(args) => purge::run(args, session).await,
    }
}
