//! `mongo …`: daily questions to MongoDB, the few answers that change something, and dumps that stock tools read.

pub(crate) mod choice;
pub(crate) mod count;
pub(crate) mod dump;
pub(crate) mod load;
pub(crate) mod locks;
pub(crate) mod ops;
pub(crate) mod profile;
pub(crate) mod slow;
pub(crate) mod stats;
pub(crate) mod ttl;

use clap::Subcommand;
use mainstay_model::{ExitStatus, Result};

use crate::wiring::Session;

/// The commands below `mongo`.
#[derive(Debug, Subcommand)]
pub(crate) enum MongoCommand {
    /// Count the documents of collections
    Count(count::CountArgs),
    /// Show what collections and their indexes take, the largest first
    Stats(stats::StatsArgs),
    /// Show, set and put back what the profilers record
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// Show slow operations grouped by shape, with advice
    Slow(slow::SlowArgs),
    /// Show what the server is doing now, or end one operation
    Ops(ops::OpsArgs),
    /// Show lock waits, queues, tickets and cache pressure, and who blocks whom
    Locks(locks::LocksArgs),
    /// Show what expires, how far behind the server is, and what never will
    Ttl(ttl::TtlArgs),
    /// Write a dump that stock tools restore: an archive or a folder
    Dump(dump::DumpArgs),
    /// Load an archive or folder of mongodump
    Load(load::LoadArgs),
}

impl MongoCommand {
    /// The operation's name, or the beginning of it where the plan decides the rest.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Count(_) => "mongo.count",
            Self::Stats(_) => "mongo.stats",
            Self::Profile(command) => command.name(),
            Self::Slow(_) => "mongo.slow",
            Self::Ops(args) => args.name(),
            Self::Locks(_) => "mongo.locks",
            Self::Ttl(_) => "mongo.ttl",
            Self::Dump(_) => mainstay_ops::dump::OPERATION,
            Self::Load(_) => mainstay_ops::load::OPERATION,
        }
    }
}

/// Runs a command below `mongo`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: MongoCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        MongoCommand::Count(args) => count::run(args, session).await,
        MongoCommand::Stats(args) => stats::run(args, session).await,
        MongoCommand::Profile(command) => profile::run(command, session).await,
        MongoCommand::Slow(args) => slow::run(args, session).await,
        MongoCommand::Ops(args) => ops::run(args, session).await,
        MongoCommand::Locks(args) => locks::run(args, session).await,
        MongoCommand::Ttl(args) => ttl::run(args, session).await,
        MongoCommand::Dump(args) => dump::run(args, session).await,
        MongoCommand::Load(args) => load::run(args, session).await,
    }
}
