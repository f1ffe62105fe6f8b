//! `redis …`: daily questions to Redis, and what is removed from it.

pub(crate) mod acl;
pub(crate) mod elsewhere;
pub(crate) mod flushes;
pub(crate) mod info;
pub(crate) mod keys;
pub(crate) mod memory;
pub(crate) mod policy;
pub(crate) mod purge;
pub(crate) mod slowlog;
pub(crate) mod undo;

use clap::Subcommand;
use mainstay_model::{ExitStatus, Result};

use crate::wiring::Session;

/// The commands below `redis`.
#[derive(Debug, Subcommand)]
pub(crate) enum RedisCommand {
    /// Show how the server is doing, and what to do where that is bad
    Info(info::InfoArgs),
    /// Show what memory is taken by, how it grows, and when it is full
    Memory(memory::MemoryArgs),
    /// Show slow commands and what each command costs, once or as they come
    Slowlog(slowlog::SlowlogArgs),
    /// Show what keys there are by prefix: how many, what they take, when they expire
    Keys(keys::KeysArgs),
    /// Print users for Mainstay's own work, each with the least that it takes
    Acl(acl::AclArgs),
    /// How the server persists and evicts: declared, compared, changed
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Remove the keys whose names match a pattern, counted before
    Purge(purge::PurgeArgs),
    /// List commands in the captured stream after which a whole lot was gone
    Flushes(flushes::FlushesArgs),
    /// Bring keys back as they were before a database was emptied
    Undo(undo::UndoArgs),
}

impl RedisCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Info(_) => "redis.info",
            Self::Memory(_) => "redis.memory",
            Self::Slowlog(_) => "redis.slowlog",
            Self::Keys(_) => "redis.keys",
            Self::Acl(_) => "redis.acl",
            Self::Policy(command) => command.name(),
            Self::Purge(_) => mainstay_ops::purge::OPERATION,
            Self::Flushes(_) => "redis.flushes",
            Self::Undo(_) => mainstay_ops::replication::undo::OPERATION,
        }
    }
}

/// Runs a command below `redis`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: RedisCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        RedisCommand::Info(args) => info::run(&args, session).await,
        RedisCommand::Memory(args) => memory::run(&args, session).await,
        RedisCommand::Slowlog(args) => slowlog::run(&args, session).await,
        RedisCommand::Keys(args) => keys::run(args, session).await,
        RedisCommand::Acl(args) => acl::run(args, session),
        RedisCommand::Policy(command) => policy::run(command, session).await,
        RedisCommand::Purge(args) => purge::run(args, session).await,
        RedisCommand::Flushes(args) => flushes::run(&args, session).await,
        RedisCommand::Undo(args) => Box::pin(undo::run(args, session)).await,
    }
}
