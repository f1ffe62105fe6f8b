//! The commands, one file each, or one folder: what was asked for, in; a report, out.
//!
//! A command gets its stores from the [`Session`], calls one operation and hands the printer a report. What takes more thought than that
//! belongs into `mainstay-ops`.

pub(crate) mod append_only;
pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod capture;
pub(crate) mod capture_replication;
pub(crate) mod capture_wal;
pub(crate) mod cluster;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod environment;
pub(crate) mod findings;
pub(crate) mod index;
pub(crate) mod init;
pub(crate) mod keyfile;
pub(crate) mod logical;
pub(crate) mod man;
pub(crate) mod moment;
pub(crate) mod mongo;
pub(crate) mod pg;
pub(crate) mod plan;
pub(crate) mod quotes;
pub(crate) mod recovery;
pub(crate) mod redis;
pub(crate) mod replication;
pub(crate) mod restore;
pub(crate) mod restore_point;
pub(crate) mod sql;
pub(crate) mod status;
pub(crate) mod wal;

use mainstay_guard::{Guard, Outcome, Permit};
use mainstay_model::{ExitStatus, Result, ResultExt};

use crate::args::Command;
use crate::config::Outside;
use crate::printer::Printer;
use crate::wiring::Session;

/// What remains to be done after [`without_configuration`].
pub(crate) enum Next {
    /// Nothing.
    Done(ExitStatus),
    /// This command, with a configuration.
    Configured(Box<Command>),
}

/// Runs the commands that must work where no valid configuration is.
///
/// # Errors
/// The command's.
pub(crate) fn without_configuration(command: Command, outside: &Outside, printer: &Printer) -> Result<Next> {
    let status = match command {
        Command::Completions(args) => printer.report(&completions::run(&args)),
        Command::Man(args) => printer.report(&man::run(&args)?),
        Command::Config(config::ConfigCommand::Init(_)) => printer.report(&config::init(outside)?),
        Command::Config(config::ConfigCommand::Show(args)) if args.variables => {
            printer.report(&config::Variables)
        }
        Command::Plan(plan::PlanCommand::Show(args)) => {
            printer.report(&plan::show(&args, &outside.working_dir)?)
        }
        other => return Ok(Next::Configured(Box::new(other))),
    };
    Ok(Next::Done(status))
}

/// Runs a command.
///
/// # Errors
/// The command's. The error decides the exit status.
pub(crate) async fn run(command: Command, session: &Session) -> Result<ExitStatus> {
    match command {
        Command::Status(args) => Box::pin(status::run(args, session)).await,
        Command::Doctor(args) => Box::pin(doctor::run(args, session)).await,
        Command::Backup(command) => Box::pin(backup::run(command, session)).await,
        Command::Capture(command) => Box::pin(capture::run(command, session)).await,
        Command::Restore(command) => Box::pin(restore::run(command, session)).await,
        Command::Mongo(command) => Box::pin(mongo::run(command, session)).await,
        Command::Index(command) => Box::pin(index::run(command, session)).await,
        Command::Redis(command) => Box::pin(redis::run(command, session)).await,
        Command::Pg(command) => Box::pin(pg::run(command, session)).await,
        Command::Sql(command) => Box::pin(sql::run(command, session)).await,
        Command::Init(command) => Box::pin(init::run(command, session)).await,
        Command::Environment(command) => Box::pin(environment::run(command, session)).await,
        Command::Audit(command) => Box::pin(audit::run(command, session)).await,
        Command::Wal(command) => Box::pin(wal::run(command, session)).await,
        Command::Apply(args) => Box::pin(apply::run(args, session)).await,
        Command::Config(command) => config::run(command, session),
        Command::Plan(_) | Command::Completions(_) | Command::Man(_) => Ok(ExitStatus::Ok),
    }
}

/// Records how an operation that was permitted ended, and gives back what it did. What was done weighs more than a record that failed: its
/// error comes first.
///
/// # Errors
/// The operation's; that of the audit log when only the record failed.
pub(crate) async fn close<T>(guard: &Guard, permit: Permit, done: Result<T>, outcome: Outcome) -> Result<T> {
    let closed = guard.close(permit, outcome).await.context("record the outcome in the audit log");
    let done = done?;
    closed?;
    Ok(done)
}
